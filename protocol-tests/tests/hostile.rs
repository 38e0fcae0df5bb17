//! Frames, batches and compressed data that lie: each is refused with what is wrong and where, for no more memory and steps
//! than its few bytes justify.

use bytes::Bytes;
use carafe::wire::compression::{Compression, CompressionError, Compressor, Decompressor};
use carafe::wire::fetch::AbortedTransaction;
use carafe::wire::frame::{FrameError, FrameReader};
use carafe::wire::records::{
    AbortedFilter, Attributes, BatchError, BatchFault, BatchHeader, BatchIter, RecordFault, TimestampType,
};
use carafe_fuzz::limits::{measure, within};

#[test]
fn the_length_of_a_frame_is_judged_before_anything_is_allocated() {
    const MAX: i32 = 1000;
    let judge = |len: i32| {
        let mut reader = FrameReader::responses(MAX as usize);
        reader.buffer().extend_from_slice(&len.to_be_bytes());
        let (judged, taken) = measure(|| reader.next_frame());
        assert_eq!((taken.allocations, reader.buffer().len()), (0, 4), "{len}");
        judged
    };
    for len in [i32::MIN, -1] {
        assert_eq!(judge(len), Err(FrameError::Negative(len)));
    }
    for len in [0, 3] {
        assert_eq!(judge(len), Err(FrameError::TooShort { len: len as usize, min: 4 }));
    }
    for len in [4, MAX - 1, MAX] {
        assert_eq!(judge(len), Ok(None), "{len} bytes may come");
    }
    for len in [MAX + 1, i32::MAX] {
        assert_eq!(judge(len), Err(FrameError::TooLong { len: len as usize, max: MAX as usize }));
    }
}

/// A record without key, value and headers: the smallest there is.
const RECORD: [u8; 7] = [12, 0, 0, 0, 1, 1, 0];

/// A batch with a checksum that is right, of one record unless `change` says otherwise.
fn batch(body: &[u8], change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = BatchHeader { record_count: 1, base_timestamp: 0, ..BatchHeader::default() };
    change(&mut header);
    [&header.encode(body)[..], body].concat().into()
}

/// Offset, timestamp and value of every record.
type Read = Vec<(i64, i64, Option<Bytes>)>;

fn read(batches: BatchIter) -> Result<Read, BatchError> {
    let mut records = Vec::new();
    for raw in batches {
        let mut positions = Vec::new();
        let data = raw?.decode(&mut Decompressor::new(), 1 << 20, i64::MIN, &mut positions)?;
        records.extend(positions.iter().map(|position| {
            let value = position.value_range().map(|range| data.slice(range));
            (position.offset, position.timestamp, value)
        }));
    }
    Ok(records)
}

fn refused(blob: Bytes) -> BatchError {
    within(blob.len(), || read(BatchIter::new(blob))).expect_err("a batch that must be refused")
}

#[test]
fn a_batch_of_68_bytes_claims_two_billion_records() {
    for count in [i32::MAX, -1, 2] {
        let error = refused(batch(&RECORD, |header| header.record_count = count));
        assert_eq!(error.fault, BatchFault::RecordCount { count, bytes: 7 });
        assert_eq!((error.base_offset, error.position), (Some(0), 0), "{error}");
    }
    let error = refused(batch(&[], |header| header.record_count = i32::MAX));
    assert_eq!(error.fault, BatchFault::RecordCount { count: i32::MAX, bytes: 0 });
    let error = refused(batch(&RECORD, |header| header.record_count = 0));
    assert_eq!(error.fault, BatchFault::TrailingBytes(7));
}

#[test]
fn as_many_records_as_bytes_can_hold_and_no_more() {
    const COUNT: i32 = 50;
    let record = |delta| [12, 0, 0, delta as u8 * 2, 1, 1, 0];
    let body: Vec<u8> = (0..COUNT).flat_map(record).collect();
    let of = |count| {
        read(BatchIter::new(batch(&body, |header| {
            (header.record_count, header.last_offset_delta) = (count, COUNT);
        })))
    };
    assert_eq!(of(COUNT).unwrap().len(), 50);
    assert!(matches!(of(COUNT - 1).unwrap_err().fault, BatchFault::TrailingBytes(7)));
    assert!(matches!(of(COUNT + 1).unwrap_err().fault, BatchFault::RecordCount { .. }));
}

fn in_record(fault: RecordFault) -> BatchFault {
    BatchFault::Record { index: 0, fault }
}

#[test]
fn a_record_claims_two_billion_headers() {
    let error = refused(batch(&[20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f], |_| {}));
    assert_eq!(error.fault, in_record(RecordFault::HeaderCount));
    assert!(error.to_string().contains("record 0: it claims more headers"), "{error}");
}

#[test]
fn lengths_of_keys_and_values() {
    for (record, fault) in [
        ([12, 0, 0, 0, 3, 1, 0], RecordFault::Length),    // a key of -2
        ([12, 0, 0, 0, 1, 3, 0], RecordFault::Length),    // a value of -2
        ([12, 0, 0, 0, 4, 1, 0], RecordFault::Truncated), // a key of 2 in what is left of the record
    ] {
        assert_eq!(refused(batch(&record, |_| {})).fault, in_record(fault), "{record:?}");
    }
    let null = read(BatchIter::new(batch(&RECORD, |_| {}))).unwrap();
    let empty = read(BatchIter::new(batch(&[12, 0, 0, 0, 1, 0, 0], |_| {}))).unwrap();
    assert_eq!((null[0].2.clone(), empty[0].2.clone()), (None, Some(Bytes::new())));
}

#[test]
fn offsets_and_timestamps_at_the_end_of_their_range() {
    let two = [RECORD, [12, 0, 0, 2, 1, 1, 0]].concat();
    let error = refused(batch(&two, |header| {
        (header.record_count, header.last_offset_delta, header.base_offset) = (2, 1, i64::MAX);
    }));
    assert_eq!(error.fault, BatchFault::LastOffset(1));
    let error = refused(batch(&[12, 0, 2, 0, 1, 1, 0], |header| header.base_timestamp = i64::MAX));
    assert_eq!(error.fault, in_record(RecordFault::Timestamp));
    // 40 days after the first record: more than 31 bits of milliseconds.
    let days = [20, 0, 0x80, 0x80, 0xf3, 0xdf, 0x19, 0, 1, 1, 0];
    let later = read(BatchIter::new(batch(&days, |header| header.base_timestamp = 1)));
    assert_eq!(later.unwrap()[0].1, 1 + 40 * 24 * 60 * 60 * 1000);
}

#[test]
fn log_append_time_is_that_of_the_batch() {
    let two = [[12, 0, 8, 0, 1, 1, 0], [12, 0, 10, 2, 1, 1, 0]].concat();
    let records = read(BatchIter::new(batch(&two, |header| {
        (header.record_count, header.last_offset_delta, header.max_timestamp) = (2, 1, 77);
        header.attributes = Attributes::default().with_timestamp_type(TimestampType::LogAppendTime);
    })));
    assert_eq!(records.unwrap().iter().map(|record| record.1).collect::<Vec<_>>(), [77, 77]);
}

#[test]
fn codecs_that_do_not_exist() {
    for id in 5..8 {
        let error = refused(batch(&RECORD, |header| header.attributes = Attributes(id)));
        assert_eq!(error.fault, BatchFault::UnknownCodec(id as i8));
        assert!(error.to_string().ends_with(&format!("unknown compression codec {id}")), "{error}");
    }
}

#[test]
fn lengths_of_batches() {
    let good = batch(&RECORD, |_| {});
    let with_length = |length: i32| {
        let mut bytes = good.to_vec();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        Bytes::from(bytes)
    };
    for length in [i32::MIN, -1, 0, 48] {
        assert_eq!(refused(with_length(length)).fault, BatchFault::Length(length));
    }
    // Longer than the blob: cut short, as brokers may do.
    for length in [57, i32::MAX] {
        let blob = with_length(length);
        let mut batches = BatchIter::new(blob.clone());
        assert!(within(blob.len(), || batches.next()).is_none());
        assert_eq!(batches.tail().and_then(|tail| tail.batch_len), Some(length as usize + 12));
    }
}

#[test]
fn what_stands_in_front_of_a_cut_batch_is_read() {
    let good = batch(&RECORD, |_| {});
    for cut in 0..good.len() {
        let blob = Bytes::from([&good[..], &good[..cut]].concat());
        let records = within(blob.len(), || read(BatchIter::new(blob.clone())));
        assert_eq!(records.unwrap().len(), 1, "{cut}");
    }
}

#[test]
fn formats_0_and_1_are_refused_by_name() {
    for magic in [0, 1] {
        let mut bytes = batch(&RECORD, |_| {}).to_vec();
        bytes[16] = magic;
        let error = refused(bytes.into());
        assert_eq!(error.fault, BatchFault::OldMagic(magic as i8));
        assert!(error.to_string().contains(&format!("message format {magic} is not supported")), "{error}");
    }
}

#[test]
fn without_checksums_a_flipped_bit_is_delivered() {
    let mut bytes = batch(&[14, 0, 0, 0, 1, 2, b'v', 0], |_| {}).to_vec();
    let value = bytes.len() - 2;
    bytes[value] ^= 1;
    let blob = Bytes::from(bytes);
    assert!(matches!(refused(blob.clone()).fault, BatchFault::Checksum { .. }));
    let records = read(BatchIter::new(blob).check_crc(false)).unwrap();
    assert_eq!(records[0].2.as_deref(), Some(&b"w"[..]));
}

#[test]
fn markers_without_a_transaction_and_aborted_lists_in_any_order() {
    const PRODUCER: i64 = 7;
    let of_producer = |offset: i64, body: &[u8], control| {
        batch(body, |header| {
            (header.base_offset, header.producer_id) = (offset, PRODUCER);
            header.attributes = Attributes::default().with_transactional(true).with_control(control);
        })
    };
    let records = |offset| of_producer(offset, &RECORD, false);
    let marker = |offset, key: &[u8]| {
        let len = key.len() as u8;
        of_producer(offset, &[&[(6 + len) * 2, 0, 0, 0, len * 2][..], key, &[1, 0]].concat(), true)
    };
    let (abort, commit) = ([0, 0, 0, 0], [0, 0, 0, 1]);
    let log = [
        records(0),                // aborted
        marker(1, &[]),            // no key
        marker(2, &[0, 0, 0, 99]), // a type that does not exist
        records(3),                // aborted
        marker(4, &abort),
        marker(5, &abort),
        records(6), // committed
        marker(7, &commit),
        records(8), // aborted
        marker(9, &abort),
    ];
    let blob = Bytes::from(log.concat());
    let visible = |aborted: &[(i64, i64)]| {
        let transaction =
            |&(producer_id, first_offset): &(i64, i64)| AbortedTransaction { producer_id, first_offset };
        let mut filter = AbortedFilter::new(aborted.iter().map(transaction).collect());
        let batches = BatchIter::new(blob.clone()).map(Result::unwrap);
        let shown = batches.filter(|batch| !filter.hides(batch).unwrap());
        shown.map(|batch| batch.header.base_offset).collect::<Vec<_>>()
    };
    for aborted in [[(PRODUCER, 0), (PRODUCER, 8)], [(PRODUCER, 8), (PRODUCER, 0)]] {
        assert_eq!(visible(&aborted), [6], "{aborted:?}");
    }
    assert_eq!(visible(&[(PRODUCER, 8), (99, i64::MIN), (PRODUCER, 0), (-1, i64::MAX)]), [6]);
    assert_eq!(visible(&[]), [0, 3, 6, 8], "control batches alone");
}

/// Every codec but none.
fn codecs() -> impl Iterator<Item = Compression> {
    Compression::ALL.into_iter().filter(|codec| *codec != Compression::None && codec.is_available())
}

fn compress(codec: Compression, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Compressor::new().compress(codec, None, input, &mut out).unwrap();
    out
}

#[test]
fn records_that_end_inside_one() {
    for codec in codecs() {
        let body = compress(codec, &[&RECORD[..], &RECORD[..5]].concat());
        let error = refused(batch(&body, |header| {
            header.attributes = header.attributes.with_compression(codec);
            (header.record_count, header.last_offset_delta) = (1, 5);
        }));
        assert_eq!(error.fault, BatchFault::TrailingBytes(5), "{codec}");
        let body = compress(codec, &[&RECORD[..], &RECORD[..], &RECORD[..3]].concat());
        let error = refused(batch(&body, |header| {
            header.attributes = header.attributes.with_compression(codec);
            (header.record_count, header.last_offset_delta) = (2, 5);
        }));
        assert!(matches!(error.fault, BatchFault::Record { index: 1, .. }), "{codec}: {error}");
    }
}

#[test]
fn bombs_stop_at_their_cap() {
    const CAP: usize = 2 << 20;
    for codec in codecs() {
        let bomb = compress(codec, &vec![0; 32 << 20]);
        let mut decompressor = Decompressor::new();
        let (result, taken) = measure(|| {
            let mut out = Vec::new();
            decompressor.decompress(codec, &bomb, CAP, &mut out)
        });
        assert_eq!(result, Err(CompressionError::TooLarge(CAP)), "{codec}");
        // A tenth more than the cap, and the codec's context.
        let most = CAP as u64 * 11 / 10 + (512 << 10);
        assert!(taken.live <= most, "{codec} took {} bytes", taken.live);
    }
}

#[test]
fn sizes_that_compressed_data_declares_are_not_believed() {
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1u64 << 63).to_le_bytes(), &[1, 0, 0]].concat();
    let lz4 = [&[0x04, 0x22, 0x4d, 0x18, 0x68, 0x70][..], &(1u64 << 63).to_le_bytes(), &[0; 5]].concat();
    let snappy = vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0];
    for (codec, data) in [(Compression::Zstd, zstd), (Compression::Lz4, lz4), (Compression::Snappy, snappy)] {
        let mut out = Vec::new();
        let result = within(data.len(), || Decompressor::new().decompress(codec, &data, 100 << 20, &mut out));
        assert!(result.is_err(), "{codec}");
    }
}
