//! Record batches.

use bytes::Bytes;
use carafe::wire::compression::{Compression, Decompressor};
use carafe::wire::records::{
    BatchFault, BatchHeader, BatchIter, BatchWriter, RawBatch, RecordRange, RecordRef, TimestampType,
};
use protocol_tests::golden::{self, Batches};
use serde_json::{Value, json};

use super::{Difference, judge, ok};

const DIFFERENT: &[Difference] = &[
    ("kafka-clients.txt", "append-time.", 5, APPEND_TIME),
    ("kafka-clients.txt", "delete-horizon.", 5, HORIZON),
    ("kafka-clients.txt", "empty", 1, "timestamps and last offset are those of records that are gone"),
    ("kafka-clients.txt", "gaps.", 5, GAPS),
    ("kafka.txt", "compacted.", 10, GAPS),
    ("kafka.txt", "many.", 10, APPEND_TIME),
    (
        "kafkajs.txt",
        "span.",
        3,
        "kafkajs counts timestamps from the earliest record, all others from the first",
    ),
];
const APPEND_TIME: &str =
    "records read as of the time of the log; their own timestamps mean nothing any more";
const HORIZON: &str = "timestamps count from the delete horizon, which only the cleaner of a log sets";
const GAPS: &str =
    "the writer numbers records without gaps; only the cleaner of a log makes gaps and delete horizons";

const CAP: usize = 1 << 20;

/// Byte strings above this are described by length and checksum.
const BYTES: usize = 64;

#[test]
fn batches_are_read_as_kafka_reads_them() {
    let all = golden::batches();
    for set in &all {
        let expected: Vec<Value> = serde_json::from_str(&set.json).expect("JSON");
        if expected.iter().any(|batch| batch["magic"] != 2) {
            is_refused(set);
            continue;
        }
        let mut iter = BatchIter::new(set.bytes.clone());
        let read: Vec<Value> =
            iter.by_ref().map(|batch| description(&set.origin, &ok(&set.origin, batch))).collect();
        assert_eq!(read, expected, "{}: {}", set.origin, set.name);
        let whole: u64 = expected.iter().map(|batch| batch["sizeInBytes"].as_u64().unwrap_or(0)).sum();
        let tail = iter.tail().map_or(0, |tail| tail.bytes);
        assert_eq!(whole as usize + tail, set.bytes.len(), "{}: {}", set.origin, set.name);
    }
    assert!(all.len() >= 600, "{} sets of batches", all.len());
}

#[test]
fn batches_are_written_as_they_were_read() {
    let mut different = Vec::new();
    for set in golden::batches() {
        for batch in BatchIter::new(set.bytes.clone()).map_while(Result::ok) {
            // Compressed as they are: no two encoders of one codec write the same bytes.
            let header = batch.header.encode(&batch.body());
            assert_eq!(header, batch.encoded_header(), "{}: {}", set.origin, set.name);
            if !is_written_alike(&set, &batch) {
                different.push((set.origin.clone(), set.name.clone()));
            }
        }
    }
    judge(DIFFERENT, &different);
}

/// Formats 0 and 1 are told from garbage.
fn is_refused(set: &Batches) {
    let first = BatchIter::new(set.bytes.clone()).next().expect("a message");
    let fault = first.expect_err("a message of an old format").fault;
    assert!(matches!(fault, BatchFault::OldMagic(0 | 1)), "{}: {fault:?}", set.origin);
}

/// The records, decompressed, and where they lie.
fn records(origin: &str, batch: &RawBatch) -> (Bytes, Vec<RecordRange>) {
    let mut ranges = Vec::new();
    let data = batch.decode(&mut Decompressor::new(), CAP, 0, &mut ranges);
    (ok(origin, data), ranges)
}

/// True if the writer makes the same records and the same header of what was read.
fn is_written_alike(set: &Batches, batch: &RawBatch) -> bool {
    let (data, ranges) = records(&set.origin, batch);
    let mut writer = BatchWriter::new();
    for range in &ranges {
        ok(&set.origin, writer.append_record(&range.get(&data)));
    }
    let (body, meta) = writer.finish();
    let theirs = batch.header;
    let ours = BatchHeader {
        base_offset: theirs.base_offset,
        partition_leader_epoch: theirs.partition_leader_epoch,
        attributes: theirs.attributes,
        producer_id: theirs.producer_id,
        producer_epoch: theirs.producer_epoch,
        base_sequence: theirs.base_sequence,
        ..meta.header(Compression::None)
    };
    body == data && ours == theirs
}

/// A batch in the words of the golden files.
fn description(origin: &str, batch: &RawBatch) -> Value {
    let header = batch.header;
    let (data, ranges) = records(origin, batch);
    let records: Vec<Value> = ranges.iter().map(|range| record(&range.get(&data))).collect();
    let append_time = header.attributes.timestamp_type() == TimestampType::LogAppendTime;
    let mut value = json!({
        "magic": 2,
        "baseOffset": header.base_offset,
        "lastOffset": header.last_offset(),
        "sizeInBytes": batch.bytes.len(),
        "codec": header.attributes.compression().map(Compression::name),
        "timestampType": if append_time { "LogAppendTime" } else { "CreateTime" },
        "maxTimestamp": header.max_timestamp,
        "baseTimestamp": header.base_timestamp,
        "leaderEpoch": header.partition_leader_epoch,
        "producerId": header.producer_id,
        "producerEpoch": header.producer_epoch,
        "baseSequence": header.base_sequence,
        "transactional": header.attributes.is_transactional(),
        "control": header.attributes.is_control(),
        "records": records,
    });
    if header.attributes.has_delete_horizon() {
        value["deleteHorizon"] = header.base_timestamp.into();
    }
    value
}

fn record(record: &RecordRef<'_>) -> Value {
    let mut fields = json!([record.offset.0, record.timestamp, hex(record.key), hex(record.value)]);
    let headers: Vec<Value> =
        record.headers.iter().map(|header| json!([hex(Some(header.key)), hex(header.value)])).collect();
    if let Some(fields) = fields.as_array_mut().filter(|_| !headers.is_empty()) {
        fields.push(headers.into());
    }
    fields
}

fn hex(bytes: Option<&[u8]>) -> Option<String> {
    let bytes = bytes?;
    if bytes.len() > BYTES {
        return Some(format!("~{}:{:08x}", bytes.len(), crc32c::crc32c(bytes)));
    }
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
