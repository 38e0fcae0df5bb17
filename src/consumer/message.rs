//! One consumed record as an owned handle.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{Held, Span};
use super::mark::Mark;
use crate::types::{LeaderEpoch, Offset, Partition, Timestamp, TopicName, TopicPartition};
use crate::wire::records::{HeadersRef, RecordRef, TimestampType};

/// A consumed record. Owned and cheap to clone: it shares the buffer of the batch it came in and keeps all of it alive;
/// [`detach`](Self::detach) what is kept for long.
#[derive(Clone)]
pub struct OwnedRecord {
    held: Arc<Held>,
    /// `index < held.positions.len()`
    index: u32,
}

impl OwnedRecord {
    pub(crate) fn new(held: Arc<Held>, index: u32) -> Self {
        debug_assert!((index as usize) < held.positions.len());
        Self { held, index }
    }

    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.held.topic_partition.topic
    }

    /// The partition.
    pub fn partition(&self) -> Partition {
        self.held.topic_partition.partition
    }

    /// Topic and partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.held.topic_partition
    }

    /// Offset in the partition.
    pub fn offset(&self) -> Offset {
        Offset(self.held.positions[self.index as usize].offset)
    }

    /// Milliseconds since the Unix epoch: set by the producer, or by the broker where the topic says so.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp(self.held.positions[self.index as usize].timestamp)
    }

    /// Who set the timestamp.
    pub fn timestamp_type(&self) -> TimestampType {
        self.held.timestamp_type(self.index as usize)
    }

    /// Epoch of the leader that wrote the record.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.held.leader_epoch(self.index as usize)
    }

    /// The key; null and empty differ.
    pub fn key(&self) -> Option<&[u8]> {
        self.record().key
    }

    /// The value; null (a tombstone) and empty differ.
    pub fn value(&self) -> Option<&[u8]> {
        self.record().value
    }

    /// The value as shared bytes, without a copy; keeps the batch's buffer alive.
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.held.positions[self.index as usize].value_range().map(|range| self.held.data.slice(range))
    }

    /// The headers in order, with duplicates; parsed when asked for.
    pub fn headers(&self) -> HeadersRef<'_> {
        self.record().headers
    }

    /// The record as a borrowed view.
    pub fn record(&self) -> RecordRef<'_> {
        self.held.positions[self.index as usize].get(&self.held.data)
    }

    /// A copy that keeps nothing of the batch alive and does not count against the memory budget.
    #[must_use]
    pub fn detach(&self) -> Self {
        let (data, position) = self.held.positions[self.index as usize].detach(&self.held.data);
        let held = Held {
            topic_partition: self.held.topic_partition.clone(),
            data: Bytes::from(data),
            positions: vec![position],
            spans: self
                .held
                .span(self.index as usize)
                .map(|span| Span { first: 0, ..*span })
                .into_iter()
                .collect(),
            next_offset: position.offset + 1,
            high_watermark: self.held.high_watermark,
            last_stable_offset: self.held.last_stable_offset,
            log_start_offset: self.held.log_start_offset,
            assignment: self.held.assignment,
            _credit: None,
            _holding: None,
        };
        Self { held: Arc::new(held), index: 0 }
    }

    /// A mark that everything up to and including this record is done; to be stored or committed.
    pub fn mark(&self) -> Mark {
        Mark::new(self.held.topic_partition.clone(), Offset(self.offset().0 + 1))
            .leader_epoch(self.leader_epoch())
            .of_assignment(self.held.assignment)
    }

    /// Which assignment of the partition the record belongs to; see [`RecordBatch::assignment`](crate::consumer::RecordBatch::assignment).
    pub fn assignment(&self) -> u64 {
        self.held.assignment
    }
}

impl fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedRecord")
            .field("partition", &self.held.topic_partition)
            .field("offset", &self.offset())
            .field("key_bytes", &self.key().map(<[u8]>::len))
            .field("value_bytes", &self.value().map(<[u8]>::len))
            .finish_non_exhaustive()
    }
}
