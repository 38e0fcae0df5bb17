//! Record batches: encoded from values that the application has, and decoded until every record was seen.

use std::hint::black_box;
use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use carafe::wire::compression::{Compression, Decompressor};
use carafe::wire::records::{BatchIter, BatchWriter, RecordRange};
use indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as kp;
use rskafka::protocol::record as rs;
use rskafka::protocol::traits::{ReadType, WriteType};

use crate::{Allocations, Case, Goal, Side};

const NOW: i64 = 1_760_000_000_000;
const PRODUCER: i64 = 4711;
const KEY_LEN: usize = 16;
const HEADERS: [&str; 2] = ["trace-id", "content-type"];
const HEADER_VALUE: &[u8] = b"0123456789abcdef";

/// What an application sends: keys and values in memory, one shared buffer.
#[derive(Clone)]
pub struct Source {
    data: Bytes,
    value_len: usize,
    count: usize,
    headers: bool,
}

impl Source {
    /// `count` records with keys of 16 bytes and random values of `value_len`, with two headers or none.
    pub fn new(count: usize, value_len: usize, headers: bool) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let data = (0..count * (KEY_LEN + value_len)).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        Self { data: data.collect(), value_len, count, headers }
    }

    fn record(&self, index: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let start = index * (KEY_LEN + self.value_len);
        let middle = start + KEY_LEN;
        (start..middle, middle..middle + self.value_len)
    }

    fn timestamp(index: usize) -> i64 {
        NOW + index as i64 / 16
    }

    /// Appends every record to a batch and makes its header with the checksum: the two buffers that a Produce request
    /// sends. `buffer` is given back with the body.
    fn carafe(&self, buffer: BytesMut) -> ([u8; 61], Bytes) {
        let mut writer = BatchWriter::with_buffer(buffer);
        let headers = if self.headers { &HEADERS[..] } else { &[] };
        let headers = || headers.iter().map(|key| (key.as_bytes(), Some(HEADER_VALUE)));
        for index in 0..self.count {
            let (key, value) = self.record(index);
            let (key, value) = (Some(&self.data[key]), Some(&self.data[value]));
            let timestamp = Self::timestamp(index);
            let size = writer.measure(timestamp, key, value, headers()).expect("a batch holds them");
            writer.append(size, timestamp, key, value, headers());
        }
        let (body, meta) = writer.finish();
        let mut header = meta.header(Compression::None);
        (header.producer_id, header.producer_epoch, header.base_sequence) = (PRODUCER, 0, 0);
        (header.encode(&body), body)
    }

    /// Builds the records, sharing keys and values.
    fn kafka_protocol(&self) -> Vec<kp::Record> {
        let record = |index| {
            let (key, value) = self.record(index);
            let mut headers = IndexMap::new();
            if self.headers {
                headers.reserve(HEADERS.len());
                for key in HEADERS {
                    headers.insert(StrBytes::from_static_str(key), Some(Bytes::from_static(HEADER_VALUE)));
                }
            }
            kp::Record {
                transactional: false,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id: PRODUCER,
                producer_epoch: 0,
                timestamp_type: kp::TimestampType::Creation,
                offset: index as i64,
                sequence: index as i32,
                timestamp: Self::timestamp(index),
                key: Some(self.data.slice(key)),
                value: Some(self.data.slice(value)),
                headers,
            }
        };
        (0..self.count).map(record).collect()
    }

    /// Builds the batch, which owns keys, values and headers.
    fn rskafka(&self) -> rs::RecordBatch {
        let headers = if self.headers { &HEADERS[..] } else { &[] };
        let record = |index| {
            let (key, value) = self.record(index);
            rs::Record {
                timestamp_delta: Self::timestamp(index) - NOW,
                offset_delta: index as i32,
                key: Some(self.data[key].to_vec()),
                value: Some(self.data[value].to_vec()),
                headers: headers
                    .iter()
                    .map(|key| rs::RecordHeader { key: (*key).to_owned(), value: HEADER_VALUE.to_vec() })
                    .collect(),
            }
        };
        rs::RecordBatch {
            base_offset: 0,
            partition_leader_epoch: -1,
            last_offset_delta: self.count as i32 - 1,
            first_timestamp: NOW,
            max_timestamp: Self::timestamp(self.count - 1),
            producer_id: PRODUCER,
            producer_epoch: 0,
            base_sequence: 0,
            records: rs::ControlBatchOrRecords::Records((0..self.count).map(record).collect()),
            compression: rs::RecordBatchCompression::NoCompression,
            is_transactional: false,
            timestamp_type: rs::RecordBatchTimestampType::CreateTime,
        }
    }

    /// The batch as it goes over the wire, the same from all three.
    pub fn batch(&self) -> Bytes {
        let (header, body) = self.carafe(BytesMut::new());
        let batch = Bytes::from([&header[..], &body].concat());
        let mut other = BytesMut::new();
        encode_kafka_protocol(&mut other, &self.kafka_protocol());
        assert!(other == batch, "kafka-protocol writes another batch");
        let mut other = Vec::new();
        self.rskafka().write(&mut other).expect("a vector takes everything");
        assert!(other == batch, "rskafka writes another batch");
        batch
    }
}

fn encode_kafka_protocol(out: &mut BytesMut, records: &[kp::Record]) {
    let options = kp::RecordEncodeOptions { version: 2, compression: kp::Compression::None };
    kp::RecordBatchEncoder::encode(out, records, &options).expect("valid records");
}

/// Finds the records of `blob`, checksum checked.
fn decode_carafe(blob: &Bytes, with: &mut Decompressor, ranges: &mut Vec<RecordRange>) -> Bytes {
    ranges.clear();
    let batch = BatchIter::new(blob.clone()).next().expect("one batch").expect("a valid batch");
    batch.decode(with, usize::MAX, 0, ranges).expect("valid records")
}

/// What every side does with every record that it decoded.
fn see(offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> u64 {
    offset as u64
        + key.map_or(0, <[u8]>::len) as u64
        + value.and_then(|value| value.first()).map_or(0, |b| *b as u64)
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (size, value_len, count) in
        [("10 B", 10, 1000), ("100 B", 100, 1000), ("1 KB", 1000, 1000), ("100 KB", 100_000, 10)]
    {
        for headers in [false, true] {
            let source = move || Source::new(count, value_len, headers);
            let with = if headers { " + 2 headers" } else { "" };
            let goal = |plain, with_headers| Goal {
                time: (value_len == 100).then_some(if headers { with_headers } else { plain }),
                // A batch may allocate, a record may not.
                allocations: Some(Allocations::Each(8.0 / count as f64)),
            };
            cases.push(Case {
                name: format!("encode {size}{with}"),
                unit: "record",
                units: count as u64,
                goal: goal(1.0 / 3.0, 1.0 / 5.0),
                sides: Box::new(move || encode(source())),
            });
            cases.push(Case {
                name: format!("decode {size}{with}"),
                unit: "record",
                units: count as u64,
                goal: goal(1.0 / 3.0, 1.0 / 9.0),
                sides: Box::new(move || decode(source())),
            });
        }
    }
    cases
}

fn encode(source: Source) -> Vec<Side> {
    let len = source.batch().len();
    let at_hand = source.kafka_protocol();
    let [ours, theirs, third] = [source.clone(), source.clone(), source];
    let mut buffer = Some(BytesMut::with_capacity(len));
    let [mut built, mut encoded] = std::array::from_fn(|_| BytesMut::with_capacity(len));
    let mut written = Vec::with_capacity(len);
    vec![
        Side::new("carafe", move || {
            let (header, body) = ours.carafe(buffer.take().unwrap_or_default());
            black_box((&header, &body));
            buffer = body.try_into_mut().ok();
        }),
        Side::new("kafka-protocol", move || {
            built.clear();
            encode_kafka_protocol(&mut built, &theirs.kafka_protocol());
            black_box(&built);
        }),
        Side::new("kafka-protocol, records at hand", move || {
            encoded.clear();
            encode_kafka_protocol(&mut encoded, &at_hand);
            black_box(&encoded);
        }),
        Side::new("rskafka", move || {
            written.clear();
            third.rskafka().write(&mut written).expect("a vector takes everything");
            black_box(&written);
        }),
    ]
}

fn decode(source: Source) -> Vec<Side> {
    let headers = source.headers;
    let blob = source.batch();
    let [ours, with_headers, theirs, third] = std::array::from_fn(|_| blob.clone());
    let (mut with, mut ranges) = (Decompressor::new(), Vec::new());
    let mut sides = vec![Side::new("carafe", move || {
        let data = decode_carafe(&ours, &mut with, &mut ranges);
        let seen = ranges.iter().map(|range| range.get(&data)).map(|r| see(r.offset.0, r.key, r.value));
        black_box(seen.fold(0, u64::wrapping_add));
    })];
    if headers {
        let (mut with, mut ranges) = (Decompressor::new(), Vec::new());
        sides.push(Side::new("carafe, headers read", move || {
            let data = decode_carafe(&with_headers, &mut with, &mut ranges);
            let seen = ranges.iter().map(|range| range.get(&data)).map(|r| {
                let headers =
                    r.headers.iter().map(|header| header.key.len() as u64).fold(0, u64::wrapping_add);
                see(r.offset.0, r.key, r.value).wrapping_add(headers)
            });
            black_box(seen.fold(0, u64::wrapping_add));
        }));
    }
    sides.push(Side::new("kafka-protocol", move || {
        let set = kp::RecordBatchDecoder::decode(&mut theirs.clone()).expect("a valid batch");
        let seen = set.records.iter().map(|r| see(r.offset, r.key.as_deref(), r.value.as_deref()));
        black_box(seen.fold(0, u64::wrapping_add));
    }));
    sides.push(Side::new("rskafka", move || {
        let batch = rs::RecordBatch::read(&mut Cursor::new(&third)).expect("a valid batch");
        let rs::ControlBatchOrRecords::Records(records) = &batch.records else { return };
        let seen = records.iter().map(|r| see(r.offset_delta.into(), r.key.as_deref(), r.value.as_deref()));
        black_box(seen.fold(0, u64::wrapping_add));
    }));
    sides
}
