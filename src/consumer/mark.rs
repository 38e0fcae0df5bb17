//! How far a partition is done.

use bytestring::ByteString;

use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// Says that a partition is done up to an offset; to be [stored](crate::consumer::GroupConsumer::store) for the next
/// automatic commit, or [committed](crate::consumer::GroupConsumer::commit).
///
/// Marks of [batches](crate::consumer::RecordBatch::mark) and [messages](crate::consumer::OwnedRecord::mark) know the assignment
/// they belong to and are refused once the partition is lost, even if the same consumer was assigned it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    partition: TopicPartition,
    offset: Offset,
    leader_epoch: LeaderEpoch,
    metadata: Option<ByteString>,
    assignment: Option<u64>,
}

impl Mark {
    /// `partition` is done up to, but not including, `offset`: the next offset to read. Belongs to whichever assignment
    /// the consumer holds when it is stored or committed.
    pub fn new(partition: TopicPartition, offset: Offset) -> Self {
        Self { partition, offset, leader_epoch: LeaderEpoch::UNKNOWN, metadata: None, assignment: None }
    }

    /// Text to be kept with the offset; brokers accept 4,096 bytes unless told otherwise.
    #[must_use]
    pub fn metadata(mut self, text: impl Into<ByteString>) -> Self {
        self.metadata = Some(text.into());
        self
    }

    /// Epoch of the leader that wrote the last record that is done; lets a later reader detect truncation (KIP-320).
    #[must_use]
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.leader_epoch = epoch;
        self
    }

    /// Binds the mark to an [assignment](crate::consumer::RecordBatch::assignment) of its partition; it is refused once that
    /// has ended.
    #[must_use]
    pub fn of_assignment(mut self, assignment: u64) -> Self {
        self.assignment = Some(assignment);
        self
    }

    /// The partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The next offset to read.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The text kept with the offset.
    pub fn text(&self) -> Option<&str> {
        self.metadata.as_deref()
    }

    pub(crate) fn text_bytes(&self) -> Option<ByteString> {
        self.metadata.clone()
    }

    pub(crate) fn epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    pub(crate) fn assignment(&self) -> Option<u64> {
        self.assignment
    }

    /// Binds a mark that belongs to no assignment yet to `assignment`.
    pub(crate) fn bind(&mut self, assignment: u64) {
        self.assignment.get_or_insert(assignment);
    }
}
