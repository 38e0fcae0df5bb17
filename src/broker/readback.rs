//! Reads stored batches back into records: for look-ups by time, and for tests that compare with the truth.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::log::{Marker, StoredBatch};
use crate::types::Offset;
use crate::wire::compression::Decompressor;
use crate::wire::records::BatchIter;

/// Most bytes that a batch may decompress to.
const INFLATED_MAX: usize = 256 * 1024 * 1024;

/// A record as it lies in a partition's log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoggedRecord {
    /// Offset in the partition.
    pub offset: Offset,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The key; `None` for null.
    pub key: Option<Bytes>,
    /// The value; `None` for null.
    pub value: Option<Bytes>,
    /// Headers in their order, keys may repeat.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// Epoch of the leader that appended it.
    pub leader_epoch: i32,
    /// Idempotent producer, -1 without.
    pub producer_id: i64,
    /// Epoch of the producer, -1 without.
    pub producer_epoch: i16,
    /// Sequence of the record, -1 without.
    pub sequence: i32,
    /// It was written in a transaction.
    pub transactional: bool,
}

/// The records of a batch, copied out of it; none if its codec is not compiled in or it is malformed.
pub(crate) fn records(batch: &StoredBatch) -> Vec<LoggedRecord> {
    let mut found = Vec::new();
    for raw in BatchIter::new(batch.to_bytes()).flatten() {
        let mut ranges = Vec::new();
        let decoded = raw.decode(&mut Decompressor::default(), INFLATED_MAX, i64::MIN, &mut ranges);
        let Ok(data) = decoded else { return Vec::new() };
        for range in ranges {
            let record = range.get(&data);
            let delta = (record.offset.0 - batch.base_offset) as i32;
            let own = |bytes: &[u8]| data.slice_ref(bytes);
            found.push(LoggedRecord {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.map(own),
                value: record.value.map(own),
                headers: record
                    .headers
                    .iter()
                    .map(|header| (own(header.key), header.value.map(own)))
                    .collect(),
                leader_epoch: batch.leader_epoch,
                producer_id: batch.head.producer_id,
                producer_epoch: batch.head.producer_epoch,
                transactional: batch.head.is_transactional(),
                sequence: match batch.head.base_sequence {
                    base if base < 0 => -1,
                    base => base.wrapping_add(delta) & i32::MAX,
                },
            });
        }
    }
    found
}

/// The records of `batches` that are not of an aborted transaction, where all of these have ended. Looks at the markers in
/// the log alone, so that it can be held against what readers are told.
pub(crate) fn committed(batches: &[Arc<StoredBatch>]) -> Vec<LoggedRecord> {
    let mut outcomes = BTreeMap::new();
    let mut kept = Vec::new();
    for batch in batches.iter().rev() {
        let producer = batch.head.producer_id;
        if batch.head.is_control() {
            outcomes.insert(producer, Marker::read(batch).is_some_and(|marker| marker.commit));
        } else if !batch.head.is_transactional() || outcomes.get(&producer) == Some(&true) {
            kept.push(batch);
        }
    }
    kept.into_iter().rev().flat_map(|batch| records(batch)).collect()
}

/// Timestamp and offset of each record of a batch.
pub(crate) fn timestamps(batch: &StoredBatch) -> Vec<(i64, i64)> {
    records(batch).into_iter().map(|record| (record.timestamp, record.offset.0)).collect()
}
