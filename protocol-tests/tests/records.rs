//! Record batches against `kafka-protocol`, both ways, and LZ4 frames against those of `lz4_flex`.

use std::io::{Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use carafe::wire::compression::{Compression, Compressor, Decompressor};
use carafe::wire::records::{BatchHeader, BatchIter, BatchWriter, HEADER_LEN, RecordRange, RecordRef};
use indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression as TheirCompression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
    TimestampType,
};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

const CAP: usize = 16 << 20;

/// Records of every shape that the other codec can hold: its headers are a map with text as keys, and timestamps of a
/// batch start at the smallest.
fn sample(seed: u64, producer: bool) -> Vec<Record> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let count = rng.i32(1..60);
    let mut timestamp = 1_700_000_000_000 + rng.i64(0..1_000_000);
    let (producer_id, producer_epoch) =
        if producer { (rng.i64(0..i64::MAX), rng.i16(0..i16::MAX)) } else { (-1, -1) };
    let transactional = producer && rng.bool();
    let bytes = |rng: &mut fastrand::Rng, max: usize| {
        let len = rng.usize(0..max);
        (rng.u8(0..4) > 0).then(|| std::iter::repeat_with(|| rng.u8(0..20)).take(len).collect::<Bytes>())
    };
    (0..count)
        .map(|index| {
            let key = bytes(&mut rng, 80);
            let value = bytes(&mut rng, 400);
            let mut headers = IndexMap::new();
            for number in 0..rng.usize(0..4) {
                headers.insert(StrBytes::from_string(format!("ключ-{number}")), bytes(&mut rng, 70));
            }
            timestamp += if rng.u8(0..20) == 0 { rng.i64(0..40 * 86_400_000) } else { rng.i64(0..100) };
            Record {
                transactional,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id,
                producer_epoch,
                timestamp_type: TimestampType::Creation,
                offset: i64::from(index),
                sequence: if producer { 100 + index } else { index - 1 },
                timestamp,
                key,
                value,
                headers,
            }
        })
        .collect()
}

fn headers(record: &Record) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> + Clone {
    record.headers.iter().map(|(key, value)| (key.as_bytes(), value.as_deref()))
}

fn ours(records: &[Record], codec: Compression) -> Bytes {
    let mut writer = BatchWriter::new();
    for record in records {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let size = writer.measure(record.timestamp, key, value, headers(record)).unwrap();
        writer.append(size, record.timestamp, key, value, headers(record));
    }
    let (body, meta) = writer.finish();
    let mut compressed = Vec::new();
    Compressor::new().compress(codec, None, &body, &mut compressed).unwrap();
    let mut header = meta.header(codec);
    header.attributes = header.attributes.with_transactional(records[0].transactional);
    header.producer_id = records[0].producer_id;
    header.producer_epoch = records[0].producer_epoch;
    header.base_sequence = records[0].sequence;
    let mut batch = BytesMut::from(&header.encode(&compressed)[..]);
    batch.put_slice(&compressed);
    batch.freeze()
}

fn theirs(records: &[Record], compression: TheirCompression) -> Bytes {
    let mut batch = BytesMut::new();
    RecordBatchEncoder::encode(&mut batch, records, &RecordEncodeOptions { version: 2, compression })
        .unwrap();
    batch.freeze()
}

/// What our reader makes of a blob; `None` for an error anywhere.
fn read(blob: &Bytes) -> Option<Vec<Record>> {
    let mut all = Vec::new();
    let mut ranges: Vec<RecordRange> = Vec::new();
    let mut with = Decompressor::new();
    for batch in BatchIter::new(blob.clone()) {
        let batch = batch.ok()?;
        ranges.clear();
        let data = batch.decode(&mut with, CAP, 0, &mut ranges).ok()?;
        for range in &ranges {
            all.push(owned(&batch.header, &range.get(&data))?);
        }
    }
    Some(all)
}

fn owned(header: &BatchHeader, record: &RecordRef<'_>) -> Option<Record> {
    let mut headers = IndexMap::new();
    for header in record.headers {
        headers.insert(
            StrBytes::from_string(header.key_str()?.to_owned()),
            header.value.map(Bytes::copy_from_slice),
        );
    }
    let delta = (record.offset.0 - header.base_offset) as i32;
    Some(Record {
        transactional: header.attributes.is_transactional(),
        control: header.attributes.is_control(),
        delete_horizon: header.attributes.has_delete_horizon(),
        partition_leader_epoch: header.partition_leader_epoch,
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        timestamp_type: TimestampType::Creation,
        offset: record.offset.0,
        sequence: header.base_sequence.wrapping_add(delta),
        timestamp: record.timestamp,
        key: record.key.map(Bytes::copy_from_slice),
        value: record.value.map(Bytes::copy_from_slice),
        headers,
    })
}

const CODECS: [(Compression, TheirCompression); 3] = [
    (Compression::None, TheirCompression::None),
    (Compression::Gzip, TheirCompression::Gzip),
    (Compression::Snappy, TheirCompression::Snappy),
];

#[test]
fn plain_batches_are_the_same_bytes() {
    for seed in 0..100 {
        let records = sample(seed, seed % 2 == 0);
        let (ours, theirs) = (ours(&records, Compression::None), theirs(&records, TheirCompression::None));
        // The leader's epoch differs in nothing else, and is not covered by the checksum.
        assert_eq!(ours, theirs, "seed {seed}");
    }
}

#[test]
fn each_reads_what_the_other_writes() {
    for ((codec, their_codec), seed) in
        CODECS.into_iter().flat_map(|codec| (0..40).map(move |seed| (codec, seed)))
    {
        let records = sample(seed, seed % 2 == 0);
        assert_eq!(read(&theirs(&records, their_codec)), Some(records.clone()), "{codec}, seed {seed}");
        let mut blob = ours(&records, codec);
        let set = RecordBatchDecoder::decode(&mut blob).unwrap();
        assert_eq!(set.records, records, "{codec}, seed {seed}");
        assert!(!blob.has_remaining());
    }
}

#[test]
fn damaged_batches_are_refused_or_read_alike() {
    let mut both = 0;
    for seed in 0..20 {
        let records = sample(seed, false);
        let good = ours(&records[..records.len().min(4)], Compression::None);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..500 {
            let mut blob = good.to_vec();
            let at = rng.usize(HEADER_LEN..blob.len());
            blob[at] = rng.u8(..);
            // A valid checksum, so that the records themselves are looked at.
            let crc = crc32c(&blob[21..]);
            blob[17..21].copy_from_slice(&crc.to_be_bytes());
            let blob = Bytes::from(blob);
            // It is laxer in what it accepts: offsets that do not grow, bytes behind a record's fields.
            if let Some(read) = read(&blob) {
                let set = RecordBatchDecoder::decode(&mut blob.clone()).unwrap();
                assert_eq!(set.records, read);
                both += 1;
            }
        }
    }
    assert!(both > 1000, "{both} changed values only");
}

/// Bit by bit, to depend on nothing that is under test.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

fn text(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(len as u64);
    std::iter::repeat_with(|| b"order-cart;login"[rng.usize(0..16) & rng.usize(0..16)]).take(len).collect()
}

#[test]
fn lz4_frames_of_any_form_are_read() {
    let mut with = Decompressor::new();
    for len in [0, 1, 1000, 65_536, 65_537, 300_000] {
        let text = text(len);
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
                for bits in 0..8 {
                    let info = FrameInfo::new()
                        .block_mode(mode)
                        .block_size(size)
                        .block_checksums(bits & 1 != 0)
                        .content_checksum(bits & 2 != 0)
                        .content_size((bits & 4 != 0).then_some(len as u64));
                    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                    encoder.write_all(&text).unwrap();
                    let frame = encoder.finish().unwrap();
                    let mut out = Vec::new();
                    with.decompress(Compression::Lz4, &frame, len, &mut out).unwrap();
                    assert!(out == text, "{len} bytes, {mode:?}, {size:?}, {bits}");
                }
            }
        }
    }
}

#[test]
fn lz4_frames_are_read_by_others() {
    for len in [0, 1, 1000, 65_536, 65_537, 700_000] {
        let mut frame = Vec::new();
        Compressor::new().compress(Compression::Lz4, None, &text(len), &mut frame).unwrap();
        let mut out = Vec::new();
        FrameDecoder::new(&frame[..]).read_to_end(&mut out).unwrap();
        assert!(out == text(len), "{len} bytes");
    }
}
