//! Batches end to end: golden bytes, round trips, hostile input.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::wire::compression::{Compression, Compressor, Decompressor};

const CAP: usize = 1 << 20;
const NO_HEADERS: std::iter::Empty<(&[u8], Option<&[u8]>)> = std::iter::empty();

type Header = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug, PartialEq)]
struct Record {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<Header>,
}

impl Record {
    fn headers(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> + Clone {
        self.headers.iter().map(|(key, value)| (&key[..], value.as_deref()))
    }

    fn from_ref(record: &RecordRef<'_>) -> Self {
        Self {
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.headers.iter().map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec))).collect(),
        }
    }
}

fn write(records: &[Record]) -> (Bytes, BatchMeta) {
    let mut writer = BatchWriter::new();
    for (index, record) in records.iter().enumerate() {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let size = writer.measure(record.timestamp, key, value, record.headers()).unwrap();
        assert!(size.bytes() <= record_size_max(key, value, record.headers()));
        let before = writer.body_len();
        assert_eq!(writer.append(size, record.timestamp, key, value, record.headers()), index as i32);
        assert_eq!(writer.body_len() - before, size.bytes());
    }
    writer.finish()
}

fn join(header: &BatchHeader, body: &[u8]) -> Bytes {
    let mut batch = BytesMut::from(&header.encode(body)[..]);
    batch.extend_from_slice(body);
    batch.freeze()
}

fn batch(records: &[Record], compression: Compression) -> Bytes {
    let (body, meta) = write(records);
    let mut compressed = Vec::new();
    Compressor::new().compress(compression, None, &body, &mut compressed).unwrap();
    join(&meta.header(compression), &compressed)
}

fn read(blob: Bytes) -> Result<Vec<(i64, Record)>, BatchError> {
    let mut all = Vec::new();
    let mut ranges = Vec::new();
    let mut with = Decompressor::new();
    for batch in BatchIter::new(blob) {
        ranges.clear();
        let data = batch?.decode(&mut with, CAP, 0, &mut ranges)?;
        all.extend(ranges.iter().map(|range| (range.offset, Record::from_ref(&range.get(&data)))));
    }
    Ok(all)
}

fn sample() -> Vec<Record> {
    let record =
        |timestamp, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&[u8], Option<&[u8]>)]| Record {
            timestamp,
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            headers: headers.iter().map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec))).collect(),
        };
    vec![
        record(1000, Some(b"k"), Some(b"v"), &[]),
        record(999, None, Some(b""), &[(b"h", None), (b"h", Some(b"2")), (b"\xff", Some(b""))]),
        record(1000 + 40 * 86_400_000, Some(b""), None, &[(b"", Some(b"x"))]),
        record(1000, None, None, &[]),
    ]
}

#[test]
fn golden_batch_of_kafka() {
    let mut writer = BatchWriter::new();
    let header = [(&b"h"[..], None)];
    let now = 1_700_000_000_000;
    let size = writer.measure(now, Some(b"k"), Some(b"v"), header.iter().copied()).unwrap();
    writer.append(size, now, Some(b"k"), Some(b"v"), header.iter().copied());
    let (body, meta) = writer.finish();
    assert_eq!(&body[..], [0x16, 0, 0, 0, 2, 0x6b, 2, 0x76, 2, 2, 0x68, 1]);
    let header = meta.header(Compression::None).encode(&body);
    assert_eq!(header[8..12], 61i32.to_be_bytes());
    assert_eq!(header[17..21], 0xecc4_6c11u32.to_be_bytes());
}

#[test]
fn records_come_back_as_written() {
    for codec in Compression::ALL.into_iter().filter(|codec| codec.is_available()) {
        let records = read(batch(&sample(), codec)).unwrap();
        let expected: Vec<_> = (0..).zip(sample()).collect();
        assert_eq!(records, expected, "{codec}");
    }
}

#[test]
fn headers_are_lazy_ordered_and_may_repeat() {
    let blob = batch(&sample(), Compression::None);
    let raw = BatchIter::new(blob).next().unwrap().unwrap();
    let record = record_at(&raw.header, &raw.body(), 1).map(|r| Record::from_ref(&r)).unwrap();
    assert_eq!(record, sample()[1]);
    let body = raw.body();
    let headers = record_at(&raw.header, &body, 1).unwrap().headers;
    assert_eq!(headers.len(), 3);
    assert_eq!(headers.last("h").unwrap().value, Some(&b"2"[..]));
    assert_eq!(headers.iter().nth(2).unwrap().key_str(), None);
    assert!(record_at(&raw.header, &body, 0).unwrap().headers.is_empty());
    assert!(record_at(&raw.header, &body, 4).is_err());
}

#[test]
fn log_append_time_is_the_time_of_every_record() {
    let (body, meta) = write(&sample());
    let mut header = meta.header(Compression::None);
    header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
    header.max_timestamp = 77;
    let records = read(join(&header, &body)).unwrap();
    assert!(records.iter().all(|(_, record)| record.timestamp == 77));
}

#[test]
fn delete_horizon_keeps_timestamps() {
    let (body, meta) = write(&sample());
    let mut header = meta.header(Compression::None);
    header.attributes.0 |= 0x40;
    assert!(header.attributes.has_delete_horizon());
    assert_eq!(read(join(&header, &body)).unwrap()[0].1.timestamp, 1000);
}

#[test]
fn a_truncated_tail_ends_the_blob_and_is_reported() {
    let one = batch(&sample(), Compression::None);
    for cut in 0..one.len() {
        let mut blob = BytesMut::from(&one[..]);
        blob.extend_from_slice(&one[..cut]);
        let mut batches = BatchIter::new(blob.freeze());
        assert!(batches.next().unwrap().is_ok());
        assert!(batches.next().is_none(), "{cut}");
        match batches.tail() {
            None => assert_eq!(cut, 0),
            Some(tail) => {
                assert_eq!(tail.bytes, cut);
                assert_eq!(tail.batch_len, (cut > 16).then_some(one.len()));
            }
        }
    }
}

#[test]
fn several_batches_share_one_vector_of_positions() {
    let (body, meta) = write(&sample());
    let mut blob = BytesMut::new();
    for base_offset in [10, 20, 30] {
        let header = BatchHeader { base_offset, ..meta.header(Compression::None) };
        blob.extend_from_slice(&join(&header, &body));
    }
    let blob = blob.freeze();
    let mut ranges = Vec::new();
    let mut batches = BatchIter::new(blob.clone());
    for batch in &mut batches {
        let batch = batch.unwrap();
        decode_records(&batch.header, &blob, batch.body_range(), 12, &mut ranges).unwrap();
    }
    let offsets: Vec<_> = ranges.iter().map(|range| range.offset).collect();
    assert_eq!(offsets, [12, 13, 20, 21, 22, 23, 30, 31, 32, 33]);
    assert!(
        ranges
            .iter()
            .zip([2, 3, 0, 1, 2, 3, 0, 1, 2, 3])
            .all(|(range, index)| { Record::from_ref(&range.get(&blob)) == sample()[index] })
    );
}

#[test]
fn compacted_batches_keep_their_last_offset() {
    let (body, meta) = write(&sample());
    let header = BatchHeader { base_offset: 5, last_offset_delta: 9, ..meta.header(Compression::None) };
    assert_eq!(header.next_offset(), 15);
    assert_eq!(read(join(&header, &body)).unwrap().len(), 4);
    let empty = BatchHeader { record_count: 0, ..header };
    assert_eq!(read(join(&empty, b"")).unwrap(), []);
    let empty =
        BatchHeader { attributes: Attributes::default().with_compression(Compression::Gzip), ..empty };
    assert_eq!(read(join(&empty, b"")).unwrap(), []);
}

#[test]
fn splitting_encodes_the_parts_anew() {
    let (body, meta) = write(&sample());
    let header = meta.header(Compression::None);
    let mut parts = [BatchWriter::new(), BatchWriter::new()];
    for (index, record) in RecordIter::new(&header, &body, 0..body.len()).unwrap().enumerate() {
        parts[index / 2].append_record(&record.unwrap()).unwrap();
    }
    let mut all = Vec::new();
    for part in parts {
        let (body, meta) = part.finish();
        assert_eq!((meta.record_count, meta.last_offset_delta), (2, 1));
        all.extend(
            read(join(&meta.header(Compression::None), &body)).unwrap().into_iter().map(|(_, record)| record),
        );
    }
    assert_eq!(all, sample());
}

#[test]
fn what_does_not_fit_is_refused_before_writing() {
    let mut writer = BatchWriter::new();
    let size = writer.measure(i64::MIN, None, None, NO_HEADERS).unwrap();
    writer.append(size, i64::MIN, None, None, NO_HEADERS);
    assert_eq!(writer.measure(1, None, None, NO_HEADERS), Err(AppendError::TimestampSpan));
    assert!(writer.measure(-1, None, None, NO_HEADERS).is_ok());
    assert_eq!(writer.finish().0.len(), 7);
}

#[test]
fn appending_within_the_capacity_never_moves_the_buffer() {
    let mut writer = BatchWriter::with_capacity(4096);
    let capacity = writer.capacity();
    while let Ok(size) = writer.measure(0, Some(b"key"), Some(&[7; 100]), NO_HEADERS) {
        if writer.body_len() + size.bytes() > capacity {
            break;
        }
        writer.append(size, 0, Some(b"key"), Some(&[7; 100]), NO_HEADERS);
        assert_eq!(writer.capacity(), capacity);
    }
    assert!(writer.record_count() > 30);
}

/// A batch with a valid checksum over whatever `body` and `change` make of it.
fn hostile(body: &[u8], change: impl FnOnce(&mut BatchHeader)) -> BatchFault {
    let mut header = BatchHeader { record_count: 1, base_timestamp: 0, ..BatchHeader::default() };
    change(&mut header);
    read(join(&header, body)).unwrap_err().fault
}

fn in_record(fault: RecordFault) -> BatchFault {
    BatchFault::Record { index: 0, fault }
}

#[test]
fn lies_are_typed_errors() {
    let record = [0x0c, 0, 0, 0, 1, 1, 0];
    let count = |count, bytes| BatchFault::RecordCount { count, bytes };
    assert_eq!(hostile(b"", |h| h.record_count = i32::MAX), count(i32::MAX, 0));
    assert_eq!(hostile(&record, |h| h.record_count = i32::MAX), count(i32::MAX, 7));
    assert_eq!(hostile(&record, |h| h.record_count = -1), count(-1, 7));
    assert_eq!(hostile(&record, |h| h.record_count = 0), BatchFault::TrailingBytes(7));
    assert_eq!(hostile(&[&record[..], &[0]].concat(), |_| {}), BatchFault::TrailingBytes(1));
    // header count of 2³¹ - 1
    let headers = [0x14, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(hostile(&headers, |_| {}), in_record(RecordFault::HeaderCount));
    // header count of -1
    assert_eq!(hostile(&[0x0c, 0, 0, 0, 1, 1, 1], |_| {}), in_record(RecordFault::HeaderCount));
    // null header key
    assert_eq!(hostile(&[0x10, 0, 0, 0, 1, 1, 2, 1, 1], |_| {}), in_record(RecordFault::Length));
    // slack in the record
    assert_eq!(hostile(&[0x0e, 0, 0, 0, 1, 1, 0, 0], |_| {}), in_record(RecordFault::Slack));
    // record length -1, and beyond the end
    assert_eq!(hostile(&[1, 0, 0, 0, 1, 1, 0], |_| {}), in_record(RecordFault::Length));
    assert_eq!(hostile(&[0x0e, 0, 0, 0, 1, 1, 0], |_| {}), in_record(RecordFault::Truncated));
    // key length -5, and beyond the end of the record though not of the batch
    assert_eq!(hostile(&[0x0c, 0, 0, 0, 9, 1, 0], |_| {}), in_record(RecordFault::Length));
    let two = [&[0x0c, 0, 0, 0, 10, 1, 0][..], &record].concat();
    assert_eq!(
        hostile(&two, |h| (h.record_count, h.last_offset_delta) = (2, 1)),
        in_record(RecordFault::Truncated)
    );
    // offsets: negative, beyond the last, not growing
    assert_eq!(hostile(&[0x0c, 0, 0, 1, 1, 1, 0], |_| {}), in_record(RecordFault::Offset));
    assert_eq!(hostile(&[0x0c, 0, 0, 2, 1, 1, 0], |_| {}), in_record(RecordFault::Offset));
    let two = [record, record].concat();
    assert_eq!(
        hostile(&two, |h| (h.record_count, h.last_offset_delta) = (2, 1)),
        BatchFault::Record { index: 1, fault: RecordFault::Offset }
    );
    // a timestamp beyond 64 bits
    let late = [0x0c, 0, 2, 0, 1, 1, 0];
    assert_eq!(hostile(&late, |h| h.base_timestamp = i64::MAX), in_record(RecordFault::Timestamp));
    // offsets beyond 63 bits
    assert_eq!(hostile(&record, |h| h.base_offset = i64::MAX), BatchFault::LastOffset(0));
    assert_eq!(hostile(&record, |h| h.last_offset_delta = -1), BatchFault::LastOffset(-1));
    // codecs 5 to 7
    assert_eq!(hostile(&record, |h| h.attributes = Attributes(7)), BatchFault::UnknownCodec(7));
}

#[test]
fn old_formats_and_wrong_lengths_are_named() {
    let good = batch(&sample(), Compression::None);
    let changed = |at: usize, bytes: &[u8]| {
        let mut blob = good.to_vec();
        blob[at..at + bytes.len()].copy_from_slice(bytes);
        read(blob.into()).map(|records| records.len()).map_err(|error| error.fault)
    };
    assert_eq!(changed(16, &[0]), Err(BatchFault::OldMagic(0)));
    assert_eq!(changed(16, &[1]), Err(BatchFault::OldMagic(1)));
    assert_eq!(changed(16, &[3]), Err(BatchFault::UnknownMagic(3)));
    assert_eq!(changed(8, &[0xff; 4]), Err(BatchFault::Length(-1)));
    assert_eq!(changed(8, &48i32.to_be_bytes()), Err(BatchFault::Length(48)));
    assert_eq!(changed(8, &i32::MAX.to_be_bytes()), Ok(0), "a length beyond the blob is a truncated tail");
    assert!(matches!(changed(80, &[0x55]), Err(BatchFault::Checksum { .. })));
    let error = read({
        let mut blob = good.to_vec();
        blob[16] = 1;
        blob.into()
    })
    .unwrap_err();
    assert!(error.to_string().contains("message format 1 is not supported"), "{error}");
}

#[test]
fn without_checksums_flipped_bits_never_panic() {
    for codec in Compression::ALL.into_iter().filter(|codec| codec.is_available()) {
        let good = batch(&sample(), codec);
        let mut with = Decompressor::new();
        let mut ranges = Vec::new();
        for bit in 0..good.len() * 8 {
            let mut blob = good.to_vec();
            blob[bit / 8] ^= 1 << (bit % 8);
            for batch in BatchIter::new(blob.into()).check_crc(false).flatten() {
                ranges.clear();
                if let Ok(data) = batch.decode(&mut with, CAP, 0, &mut ranges) {
                    for range in &ranges {
                        let _ = Record::from_ref(&range.get(&data));
                    }
                }
            }
        }
        for cut in 0..good.len() {
            assert_eq!(read(good.slice(..cut)).unwrap(), [], "{codec} {cut}");
        }
    }
}

#[test]
fn control_records_are_read_and_unknown_ones_stepped_over() {
    let at = ControlBatch {
        base_offset: 7,
        partition_leader_epoch: 2,
        producer_id: 9,
        producer_epoch: 1,
        timestamp: 5,
    };
    for marker in [
        ControlRecord::Commit { coordinator_epoch: 3 },
        ControlRecord::Abort { coordinator_epoch: 4 },
        ControlRecord::Other,
    ] {
        let batch = BatchIter::new(control_batch(marker, &at)).next().unwrap().unwrap();
        assert!(batch.header.attributes.is_control() && batch.header.attributes.is_transactional());
        assert_eq!((batch.header.producer_id, batch.header.producer_epoch), (9, 1));
        let body = batch.body();
        assert_eq!(ControlRecord::parse(&record_at(&batch.header, &body, 0).unwrap()), marker);
    }
    let golden = control_batch(ControlRecord::Commit { coordinator_epoch: 0 }, &at);
    let batch = BatchIter::new(golden).next().unwrap().unwrap();
    let body = batch.body();
    let record = record_at(&batch.header, &body, 0).unwrap();
    assert_eq!(record.key, Some(&[0, 0, 0, 1][..]));
    assert_eq!(record.value, Some(&[0, 0, 0, 0, 0, 0][..]));
    assert_eq!(ControlRecord::parse(&RecordRef { key: None, ..record }), ControlRecord::Other);
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..200));
    let header = (prop::collection::vec(any::<u8>(), 0..20), bytes());
    let record = (any::<i32>(), bytes(), bytes(), prop::collection::vec(header, 0..5)).prop_map(
        |(timestamp, key, value, headers)| Record {
            timestamp: i64::from(timestamp) << 20,
            key,
            value,
            headers,
        },
    );
    prop::collection::vec(record, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_records_round_trip(records in records(), codec in 0i8..5) {
        let codec = Compression::from_id(codec).filter(|codec| codec.is_available()).unwrap_or_default();
        let blob = batch(&records, codec);
        let back: Vec<_> = read(blob).unwrap().into_iter().map(|(_, record)| record).collect();
        prop_assert_eq!(back, records);
    }

    #[test]
    fn any_body_is_an_error_or_records(body in prop::collection::vec(any::<u8>(), 0..300), count in 0i32..40, id in 0i16..8) {
        let header = BatchHeader {
            record_count: count,
            last_offset_delta: 100,
            attributes: Attributes(id),
            ..BatchHeader::default()
        };
        if let Ok(records) = read(join(&header, &body)) {
            prop_assert_eq!(records.len(), count as usize);
        }
    }
}
