//! Record batches as people read them, with the names of Kafka's `DumpLogSegments`.

use std::fmt;

use bytes::Bytes;

use super::sink::{Bracket, Json, Sink, Text, Value};
use crate::wire::compression::{Compression, Decompressor};
use crate::wire::records::{
    BatchError, BatchIter, ControlRecord, RawBatch, RecordIter, RecordRef, TimestampType,
};

/// Most bytes that the records of one batch are inflated to: 100 MiB.
pub const INFLATED_BYTES_MAX: usize = 100 * 1024 * 1024;

/// A record batch, checked.
#[derive(Clone, Debug)]
pub struct Batch {
    raw: RawBatch,
    crc: Result<(), BatchError>,
    /// The records, uncompressed; every one can be read.
    records: Result<Bytes, BatchError>,
}

impl Batch {
    /// Checks the CRC of `raw`, inflates its records (to [`INFLATED_BYTES_MAX`] at most), and reads all of them.
    pub fn new(raw: RawBatch, with: &mut Decompressor) -> Self {
        let crc = raw.check_crc();
        let records = raw.data(with, INFLATED_BYTES_MAX).and_then(|data| {
            let mut records = RecordIter::new(&raw.header, &data, 0..data.len()).map_err(|e| at(&raw, e))?;
            records.try_for_each(|record| record.map(|_| ())).map_err(|error| at(&raw, error))?;
            Ok(data)
        });
        Self { raw, crc, records }
    }

    /// What is wrong with the batch, if anything is.
    pub fn error(&self) -> Option<&BatchError> {
        self.crc.as_ref().err().or(self.records.as_ref().err())
    }

    /// One line of JSON: names of Kafka's `DumpLogSegments`, bytes as base64. The records are left out if they cannot be
    /// read.
    pub fn json(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| {
            let mut sink = Json::new(f);
            self.tell(&mut sink);
            sink.result
        })
    }

    /// Lines of text: the same, bytes as quoted text where they are, as hexadecimal digits where not.
    pub fn text(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| {
            let mut sink = Text::new(f);
            self.tell(&mut sink);
            sink.result
        })
    }

    fn tell(&self, sink: &mut dyn Sink) {
        let header = &self.raw.header;
        let attributes = header.attributes;
        let sequence = |offset| sequence(header.base_sequence, offset - header.base_offset);
        sink.open(Bracket::Struct);
        let mut tell = |name: &str, value: Value<'_>| {
            sink.name(name);
            sink.value(value);
        };
        tell("baseOffset", Value::Int(header.base_offset));
        tell("lastOffset", Value::Int(header.last_offset()));
        tell("count", Value::Int(header.record_count.into()));
        tell("baseSequence", Value::Int(header.base_sequence.into()));
        tell("lastSequence", Value::Int(sequence(header.last_offset())));
        tell("producerId", Value::Int(header.producer_id));
        tell("producerEpoch", Value::Int(header.producer_epoch.into()));
        tell("partitionLeaderEpoch", Value::Int(header.partition_leader_epoch.into()));
        tell("isTransactional", Value::Bool(attributes.is_transactional()));
        tell("isControl", Value::Bool(attributes.is_control()));
        let horizon = attributes.has_delete_horizon().then_some(header.base_timestamp);
        tell("deleteHorizonMs", horizon.map_or(Value::Null, Value::Int));
        tell("position", Value::Int(self.raw.position as i64));
        let kind = match attributes.timestamp_type() {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        };
        tell("timestampType", Value::Str(kind));
        tell("maxTimestamp", Value::Int(header.max_timestamp));
        tell("size", Value::Int(self.raw.bytes.len() as i64));
        tell("magic", Value::Int(2));
        let codec = attributes.compression().map_or("unknown", Compression::name);
        tell("compressCodec", Value::Str(codec));
        tell("crc", Value::Int(self.raw.crc().into()));
        tell("isValid", Value::Bool(self.error().is_none()));
        if let Some(error) = self.error() {
            tell("error", Value::Str(&error.to_string()));
        }
        if let Ok(data) = &self.records
            && let Ok(records) = RecordIter::new(header, data, 0..data.len())
        {
            sink.name("records");
            sink.open(Bracket::Array);
            for record in records.flatten() {
                tell_record(&record, sequence(record.offset.0), attributes.is_control(), sink);
            }
            sink.close(Bracket::Array);
        }
        sink.close(Bracket::Struct);
    }
}

/// `error` with the place of its batch.
fn at(raw: &RawBatch, error: BatchError) -> BatchError {
    BatchError { position: raw.position, ..error }
}

/// The sequence number so many offsets after `base`: after the largest comes 0.
fn sequence(base: i32, delta: i64) -> i64 {
    if base < 0 { base.into() } else { (i64::from(base) + delta) & i64::from(i32::MAX) }
}

fn tell_record(record: &RecordRef<'_>, sequence: i64, control: bool, sink: &mut dyn Sink) {
    let bytes = |bytes: Option<_>| bytes.map_or(Value::Null, Value::Bytes);
    sink.open(Bracket::Struct);
    let mut tell = |name: &str, value: Value<'_>| {
        sink.name(name);
        sink.value(value);
    };
    tell("offset", Value::Int(record.offset.0));
    tell("timestamp", Value::Int(record.timestamp));
    tell("sequence", Value::Int(sequence));
    let marker = match ControlRecord::parse(record) {
        ControlRecord::Commit { coordinator_epoch } if control => Some(("COMMIT", coordinator_epoch)),
        ControlRecord::Abort { coordinator_epoch } if control => Some(("ABORT", coordinator_epoch)),
        _ => None,
    };
    if let Some((marker, epoch)) = marker {
        tell("endTxnMarker", Value::Str(marker));
        tell("coordinatorEpoch", Value::Int(epoch.into()));
    } else {
        tell("key", bytes(record.key));
        tell("value", bytes(record.value));
    }
    sink.name("headers");
    sink.open(Bracket::Array);
    for header in record.headers {
        sink.open(Bracket::Struct);
        sink.name("key");
        sink.value(Value::Bytes(header.key));
        sink.name("value");
        sink.value(bytes(header.value));
        sink.close(Bracket::Struct);
    }
    sink.close(Bracket::Array);
    sink.close(Bracket::Struct);
}

/// All batches of a field, and what ends it: an error, or the part of a batch that a broker's byte limit left.
pub(super) fn tell_batches(bytes: Bytes, sink: &mut dyn Sink) {
    let mut batches = BatchIter::new(bytes).check_crc(false);
    let mut with = Decompressor::new();
    sink.open(Bracket::Array);
    for batch in &mut batches {
        match batch {
            Ok(raw) => Batch::new(raw, &mut with).tell(sink),
            Err(error) => {
                sink.open(Bracket::Struct);
                sink.name("error");
                sink.value(Value::Str(&error.to_string()));
                sink.close(Bracket::Struct);
            }
        }
    }
    if let Some(tail) = batches.tail() {
        sink.open(Bracket::Struct);
        sink.name("truncatedBytes");
        sink.value(Value::Int(tail.bytes as i64));
        sink.close(Bracket::Struct);
    }
    sink.close(Bracket::Array);
}
