//! Parts of answers, good and bad.

use bytes::BytesMut;

use super::*;
use crate::wire::compression::Compression;
use crate::wire::fetch::AbortedTransaction;
use crate::wire::records::{BatchHeader, BatchWriter, ControlBatch, ControlRecord, control_batch};

#[derive(Clone, Copy)]
struct Made {
    base: i64,
    count: usize,
    compression: Compression,
    /// Producer of a transaction.
    producer: Option<i64>,
}

fn made(base: i64, count: usize) -> Made {
    Made { base, count, compression: Compression::None, producer: None }
}

fn bytes(made: Made) -> Vec<u8> {
    let mut writer = BatchWriter::with_capacity(64);
    for index in 0..made.count {
        let value = format!("value {}", made.base + index as i64);
        let none = std::iter::empty;
        let size = writer.measure(1, None, Some(value.as_bytes()), none()).unwrap();
        writer.append(size, 1, None, Some(value.as_bytes()), none());
    }
    let (body, meta) = writer.finish();
    let mut packed = Vec::new();
    crate::wire::compression::Compressor::new().compress(made.compression, None, &body, &mut packed).unwrap();
    let mut header: BatchHeader = meta.header(made.compression);
    header.base_offset = made.base;
    header.partition_leader_epoch = 3;
    if let Some(producer) = made.producer {
        header.producer_id = producer;
        header.producer_epoch = 0;
        header.attributes = header.attributes.with_transactional(true);
    }
    let mut whole = header.encode(&packed).to_vec();
    whole.extend_from_slice(&packed);
    whole
}

fn marker(offset: i64, producer_id: i64, abort: bool) -> Vec<u8> {
    let marker = match abort {
        true => ControlRecord::Abort { coordinator_epoch: 0 },
        false => ControlRecord::Commit { coordinator_epoch: 0 },
    };
    let at = ControlBatch {
        base_offset: offset,
        partition_leader_epoch: 3,
        producer_id,
        producer_epoch: 0,
        timestamp: 1,
    };
    control_batch(marker, &at).to_vec()
}

struct Check {
    isolation: Isolation,
    position: i64,
    aborted: Vec<(i64, i64)>,
    cap: usize,
}

impl Default for Check {
    fn default() -> Self {
        Self { isolation: Isolation::ReadCommitted, position: 0, aborted: Vec::new(), cap: 1 << 20 }
    }
}

impl Check {
    fn decode(&self, blob: Vec<u8>) -> Decoded {
        let budget = MemoryBudget::new(1 << 20);
        let mut credit = budget.at_once(1 << 16).expect("nothing is used");
        let place = Place {
            partition: TopicPartition::new("t", 0),
            assignment: 1,
            position: self.position,
            last_epoch: -1,
            holding: budget.account().ledger().hold(),
        };
        let config =
            DecodeConfig { check_crcs: true, isolation: self.isolation, batch_decompressed_max: self.cap };
        let aborted = self.aborted.iter().map(|(producer_id, first_offset)| AbortedTransaction {
            producer_id: *producer_id,
            first_offset: *first_offset,
        });
        let part =
            PartitionData { aborted_transactions: Some(aborted.collect()), ..PartitionData::default() };
        let decoded =
            decode(place, part, Bytes::from(blob), &config, &budget, &mut credit, &mut Decompressor::new());
        drop(credit);
        if decoded.batch.is_none() {
            assert_eq!(budget.used(), 0);
        }
        decoded
    }

    fn offsets(&self, blob: Vec<u8>) -> (Vec<i64>, i64) {
        let decoded = self.decode(blob);
        assert!(decoded.fault.is_none(), "{:?}", decoded.fault);
        let offsets = decoded.batch.iter().flat_map(RecordBatch::iter).map(|record| {
            assert_eq!(record.value.unwrap(), format!("value {}", record.offset).as_bytes());
            record.offset.0
        });
        (offsets.collect(), decoded.next_offset)
    }
}

#[test]
fn records_below_the_position_are_left_out() {
    let check = Check { position: 12, ..Check::default() };
    let blob = [bytes(made(5, 5)), bytes(made(10, 5)), bytes(made(20, 2))].concat();
    assert_eq!(check.offsets(blob), (vec![12, 13, 14, 20, 21], 22));
}

#[test]
fn compressed_and_plain_batches_may_mix() {
    let lz4 = Made { compression: Compression::Lz4, ..made(10, 40) };
    let blob = [bytes(made(0, 3)), bytes(lz4), bytes(made(60, 1))].concat();
    let decoded = Check::default().decode(blob.clone());
    assert_eq!(decoded.last_epoch, 3);
    let (offsets, next) = Check::default().offsets(blob);
    assert_eq!((offsets.len(), next), (44, 61));
}

#[test]
fn aborted_transactions_are_invisible() {
    let of = |base, count, producer| bytes(Made { producer: Some(producer), ..made(base, count) });
    let blob = [
        of(0, 2, 7),       // aborted
        of(2, 2, 8),       // committed
        bytes(made(4, 1)), // no transaction
        marker(5, 7, true),
        of(6, 1, 7), // the next one of the same producer, committed
        marker(7, 8, false),
        marker(8, 7, false),
        of(9, 1, 9), // aborted later
    ]
    .concat();
    // The list is not sorted, and names a transaction without records here.
    let check = Check { aborted: vec![(9, 9), (5, 3), (7, 0)], ..Check::default() };
    assert_eq!(check.offsets(blob.clone()), (vec![2, 3, 4, 6], 10));
    let all = Check { isolation: Isolation::ReadUncommitted, ..check };
    assert_eq!(all.offsets(blob), (vec![0, 1, 2, 3, 4, 6, 9], 10));
}

#[test]
fn what_nobody_may_see_still_advances() {
    let blob = [marker(0, 7, true), marker(1, 8, false)].concat();
    assert_eq!(Check::default().offsets(blob), (vec![], 2));
    // An empty batch, as compaction leaves it behind.
    let mut header = BatchHeader { base_offset: 10, last_offset_delta: 9, ..BatchHeader::default() };
    header.partition_leader_epoch = 3;
    assert_eq!(Check::default().offsets(header.encode(b"").to_vec()), (vec![], 20));
}

#[test]
fn a_truncated_tail_is_normal_and_nothing_else_is_told() {
    let (first, second) = (bytes(made(0, 3)), bytes(made(3, 3)));
    for cut in 0..second.len() {
        let decoded = Check::default().decode([first.clone(), second[..cut].to_vec()].concat());
        assert!(decoded.fault.is_none() && !decoded.cut, "{cut}");
        assert_eq!(decoded.next_offset, 3);
    }
    let decoded = Check::default().decode(second[..40].to_vec());
    assert!(decoded.cut && decoded.batch.is_none() && decoded.fault.is_none());
}

#[test]
fn damage_is_named_with_its_offset_and_nothing_behind_it_is_read() {
    let good = bytes(made(0, 3));
    for at in 12..good.len() {
        let mut bad = bytes(made(3, 3));
        if at >= bad.len() {
            break;
        }
        // The leader epoch is outside of the checksum.
        if (12..16).contains(&at) {
            continue;
        }
        bad[at] ^= 0x10;
        let decoded = Check::default().decode([good.clone(), bad, bytes(made(6, 3))].concat());
        let error = decoded.fault.unwrap_or_else(|| panic!("byte {at}"));
        assert_eq!(error.kind(), ErrorKind::CorruptRecord);
        assert!(error.to_string().contains("t[0]") && error.to_string().contains("offset 3"), "{error}");
        assert_eq!((decoded.next_offset, decoded.batch.unwrap().len()), (3, 3));
    }
}

#[test]
fn a_codec_that_is_off_is_a_fault_that_names_its_feature() {
    for codec in Compression::ALL.into_iter().filter(|codec| !codec.is_available()) {
        let header = BatchHeader { record_count: 1, ..BatchHeader::default() };
        let attributes = header.attributes.with_compression(codec);
        let blob = BatchHeader { attributes, ..header }.encode(b"packed");
        let decoded = Check::default().decode([&blob[..], b"packed"].concat());
        let fault = decoded.fault.expect("nobody can read it").to_string();
        assert!(fault.contains(&format!("build carafe with the feature `{codec}`")), "{fault}");
        assert_eq!(decoded.next_offset, 0);
    }
}

#[test]
fn a_bomb_stops_at_the_cap() {
    let lz4 = Made { compression: Compression::Lz4, ..made(0, 5000) };
    let check = Check { cap: 10_000, ..Check::default() };
    let decoded = check.decode(bytes(lz4));
    assert_eq!(decoded.fault.unwrap().kind(), ErrorKind::CorruptRecord);
    assert!(decoded.batch.is_none());
}

#[test]
fn memory_comes_back() {
    let budget = MemoryBudget::new(1 << 20);
    let mut credit = budget.at_once(1 << 16).expect("nothing is used");
    let place = Place {
        partition: TopicPartition::new("t", 0),
        assignment: 1,
        position: 0,
        last_epoch: -1,
        holding: budget.account().ledger().hold(),
    };
    let config = DecodeConfig {
        check_crcs: true,
        isolation: Isolation::ReadCommitted,
        batch_decompressed_max: 1 << 20,
    };
    let blob = BytesMut::from(&bytes(Made { compression: Compression::Lz4, ..made(0, 100) })[..]).freeze();
    let with = &mut Decompressor::new();
    let decoded = decode(place, PartitionData::default(), blob, &config, &budget, &mut credit, with);
    drop(credit);
    let batch = decoded.batch.unwrap();
    assert!(budget.used() >= batch.held_bytes());
    let message = batch.message(99).unwrap();
    drop(batch);
    assert!(budget.used() > 0);
    let kept = message.detach();
    drop(message);
    assert_eq!((budget.used(), kept.value()), (0, Some(&b"value 99"[..])));
}
