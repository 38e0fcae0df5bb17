//! Events of a consumer, besides the records themselves.

use std::fmt;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::RecordBatch;
use crate::cluster::{ConditionEvent, ConditionKind, ConditionStage};
use crate::types::{NodeId, Offset, TopicName, TopicPartition, Uuid};
use crate::{Error, Result};

/// What [`GroupConsumer::next_event`](crate::consumer::GroupConsumer::next_event) yields.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConsumerEvent {
    /// Records of one partition.
    Batch(RecordBatch),
    /// These partitions were assigned in addition to those held before. Batches of them follow. None at all if the group
    /// has no partition for this member.
    Assigned(Vec<TopicPartition>),
    /// These partitions have to be given back. No batches of them follow; marks are still accepted until the revocation
    /// is done.
    Revoked(Revocation),
    /// These partitions were lost: the group may have given them to others already. Marks for them are refused.
    Lost(Vec<TopicPartition>),
    /// A partition cannot be read on. Told once; that it lasts is a [condition](ConsumerEvent::Condition).
    PartitionFailed(PartitionFailure),
    /// Reading of a partition went on at another offset, by policy: its position was outside of the log
    /// ([`OutOfRange`](crate::consumer::OutOfRange)), or the log was cut off below it
    /// ([`Truncation::Resume`](crate::consumer::Truncation::Resume)).
    PositionReset {
        /// The partition.
        partition: TopicPartition,
        /// The next offset that would have been read.
        from: Offset,
        /// The next offset that is read.
        to: Offset,
        /// What had happened.
        error: Error,
    },
    /// The answer of a broker was not valid; its connection was closed, and the fetch is tried again with back-off. Told
    /// once until a fetch from that broker succeeds.
    FetchFailed {
        /// The broker.
        node: NodeId,
        /// What was wrong, with field and offset in the answer.
        error: Error,
    },
    /// A topic was deleted and recreated under its name. Its partitions here are [lost](ConsumerEvent::Lost) and
    /// [assigned](ConsumerEvent::Assigned) again, which is told next: positions, buffered records and marks of the old topic are
    /// void, and reading begins as on the first start (`ConsumerConfig::first_start`). With brokers since 2.8 (topic ids,
    /// KIP-516).
    TopicRecreated {
        /// The topic.
        topic: TopicName,
        /// The id it had.
        old: Uuid,
        /// The id it has now.
        new: Uuid,
    },
    /// Something that keeps partitions of this consumer, or its group, from going on has lasted, lasts or has ended: no
    /// such topic, missing rights, no leader, nobody there. Nothing has to be done about it here: it is tried again, and
    /// heals where the cause goes away.
    Condition(ConditionEvent),
    /// A stored mark was given up: its topic, or its partition, does not exist any more, or the commit before its partition
    /// was given back failed. Whoever reads the partition next may handle records again. What else keeps automatic commits
    /// from going through is a [`Condition`](Self::Condition), and is tried again.
    CommitFailed {
        /// The partition.
        partition: TopicPartition,
        /// The offset that is not committed.
        offset: Offset,
        /// Why.
        error: Error,
    },
    /// All records up to here were handed out; only with
    /// [`partition_end_events`](crate::consumer::ConsumerConfig::partition_end_events). Told once until more arrives.
    PartitionEnd {
        /// The partition.
        partition: TopicPartition,
        /// The next offset that will be written.
        offset: Offset,
    },
}

impl ConsumerEvent {
    /// What it is to those who want batches alone: revocations are answered at once, and what keeps partitions from being
    /// read for good, or until somebody grants rights, is an error. The rest heals by itself and is logged where it is
    /// found.
    pub(crate) fn into_batch(self) -> Option<Result<RecordBatch>> {
        match self {
            Self::Batch(batch) => Some(Ok(batch)),
            Self::PartitionFailed(failure) => Some(Err(failure.error)),
            Self::Condition(ConditionEvent { condition, stage: ConditionStage::Began })
                if condition.kind == ConditionKind::NotAuthorized =>
            {
                Some(Err(condition.error))
            }
            Self::Revoked(revocation) => {
                revocation.done();
                None
            }
            _ => None,
        }
    }
}

/// Partitions that the group wants back. Heartbeats go on while it is open; the partitions are given back when it is
/// [done](Self::done) or dropped, and lost at the [deadline](Self::deadline).
#[must_use = "dropping a revocation gives the partitions back at once"]
pub struct Revocation {
    partitions: Vec<TopicPartition>,
    deadline: Instant,
    done: Option<oneshot::Sender<()>>,
}

impl Revocation {
    pub(crate) fn new(partitions: Vec<TopicPartition>, deadline: Instant) -> (Self, oneshot::Receiver<()>) {
        let (done, waiting) = oneshot::channel();
        (Self { partitions, deadline, done: Some(done) }, waiting)
    }

    /// The partitions.
    pub fn partitions(&self) -> &[TopicPartition] {
        &self.partitions
    }

    /// When the partitions are lost if this is not done.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The application has finished with the partitions. What was stored for them is committed (unless automatic commits
    /// are off), then they are given back.
    pub fn done(mut self) {
        if let Some(done) = self.done.take() {
            // Nobody waits any more if the partitions were lost meanwhile.
            let _ = done.send(());
        }
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}

/// Why a partition cannot be read.
#[derive(Debug)]
pub struct PartitionFailure {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset that could not be read, where reading got so far.
    pub offset: Option<Offset>,
    /// What is wrong, and what to try. `CorruptRecord`: a batch is damaged. `OffsetOutOfRange`: the position is outside
    /// of the log, was truncated, or there is no committed one and the policy is to stop.
    pub error: Error,
    /// True if the partition yields nothing more until it is sought to another offset or assigned anew; false if it is
    /// tried again.
    pub stopped: bool,
}
