//! Machine: the checks that a batch has to pass, and its way into the log of its leader.

use std::sync::Arc;

use tokio::time::Instant;

use super::transactions::Transactional;
use super::{State, Topic};
use crate::ErrorCode;
use crate::broker::log::{Admission, BatchHead, Examined, Log, Refusal, StoredBatch};
use crate::broker::partition::Partition;
use crate::broker::rights::Operation;
use crate::broker::settings::Mode;
use crate::broker::topic_configs;

/// A batch that was appended, or had been before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    /// The high watermark that acks=all waits for, as long as the epoch is this one.
    pub(crate) end: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) append_time: i64,
    pub(crate) log_start: i64,
}

/// An attempt to append.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Append<'a> {
    /// The node that was asked.
    pub(crate) node: i32,
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    /// With acks=all.
    pub(crate) all: bool,
    /// The wall clock, in milliseconds since 1970.
    pub(crate) wall: i64,
    /// The transaction that the request names.
    pub(crate) transactional: Option<Transactional<'a>>,
}

/// What the topic and the cluster ask of a batch.
struct Limits {
    bytes: usize,
    in_sync_min: usize,
    compacted: bool,
    /// How far before and after now its timestamps may be, in milliseconds.
    before: i64,
    after: i64,
    /// The time of the append where that counts.
    append_time: Option<i64>,
}

impl State {
    /// Appends a batch unless something speaks against it, and replicates it as far as the lag allows.
    pub(crate) fn append(
        &mut self,
        attempt: Append<'_>,
        batch: &Examined,
        now: Instant,
    ) -> Result<Appended, Refusal> {
        let Append { node, topic: name, partition: index, wall, .. } = attempt;
        self.rights
            .check_topic(name, Operation::Write)
            .map_err(|code| Refusal::new(code, "Topic authorization failed."))?;
        let from_zero = match (attempt.transactional, &batch.head) {
            (Some(transactional), Ok(head)) => self.join_transaction(&attempt, transactional, head, now)?,
            _ => false,
        };
        let topic = self.topic_at(node, name).ok_or_else(unknown)?;
        let (topic_id, limits) = (topic.id, self.limits(topic, wall));
        let partition = topic.partition(index).ok_or_else(unknown)?;
        if !topic.is_led_by(node, partition) {
            return Err(Refusal::new(
                ErrorCode::NOT_LEADER_OR_FOLLOWER,
                "For requests intended only for the leader, this error indicates that the broker is not the current leader.",
            ));
        }
        let head = check(&attempt, partition, batch, &limits)?;
        let (log_start, leader_epoch) = (partition.log_start(), partition.leader_epoch);
        let append_time = limits.append_time.unwrap_or(-1);
        let counting = self.settings.mode != Mode::Store;
        let Some(partition) = self.topics.get_mut(name).and_then(|topic| topic.partition_mut(index)) else {
            return Err(unknown());
        };
        if let Admission::Duplicate { base_offset, last_offset } =
            partition.producers.admit(&head, from_zero)?
        {
            let end = last_offset + 1;
            return Ok(Appended { base_offset, end, leader_epoch, append_time: -1, log_start });
        }
        let base_offset = partition.leader_log().map_or(0, Log::end);
        let end = base_offset + i64::from(head.record_count);
        self.totals.records += head.record_count as u64;
        self.totals.batches += 1;
        self.totals.bytes += batch.bytes.len() as u64;
        partition.producers.appended(&head, base_offset, now);
        if counting {
            partition.count_only(i64::from(head.record_count));
            return Ok(Appended { base_offset, end, leader_epoch, append_time, log_start: 0 });
        }
        let stored = StoredBatch::place(&batch.bytes, head, base_offset, leader_epoch, limits.append_time);
        let stored = Arc::new(stored);
        let grown = stored.len() as isize;
        self.keep(node, topic_id, index, stored);
        self.grew(node, grown);
        self.replicate(topic_id, index, now);
        self.apply_retention();
        Ok(Appended { base_offset, end, leader_epoch, append_time, log_start })
    }

    fn limits(&self, topic: &Topic, wall: i64) -> Limits {
        let number = |name, default| topic_configs::number(&topic.configs, name).unwrap_or(default);
        let (before, after) = topic_configs::timestamp_bounds(&topic.configs);
        Limits {
            bytes: number("max.message.bytes", self.settings.message_max_bytes),
            in_sync_min: number("min.insync.replicas", self.settings.min_insync_replicas),
            compacted: topic_configs::is_compacted(&topic.configs),
            before,
            after,
            append_time: topic_configs::is_append_time(&topic.configs).then_some(wall),
        }
    }
}

fn unknown() -> Refusal {
    Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "This server does not host this topic-partition.")
}

/// What speaks against a batch, in the order in which Kafka looks.
fn check(
    attempt: &Append<'_>,
    partition: &Partition,
    batch: &Examined,
    limits: &Limits,
) -> Result<BatchHead, Refusal> {
    let Append { topic, partition: index, wall, .. } = *attempt;
    if attempt.all && partition.isr.len() < limits.in_sync_min {
        return Err(Refusal::new(
            ErrorCode::NOT_ENOUGH_REPLICAS,
            format!(
                "The size of the current ISR {:?} is insufficient to satisfy the min.isr requirement of {} for partition {topic}-{index}",
                partition.isr, limits.in_sync_min
            ),
        ));
    }
    let head = batch.head.clone()?;
    let size = batch.bytes.len();
    if size > limits.bytes {
        return Err(Refusal::new(
            ErrorCode::MESSAGE_TOO_LARGE,
            format!(
                "The record batch size in the append to {topic}-{index} is {size} bytes which exceeds the maximum configured value of {}.",
                limits.bytes
            ),
        ));
    }
    if let Some(fault) = &batch.fault {
        return Err(fault.clone());
    }
    if head.is_control() {
        return Err(Refusal::new(
            ErrorCode::INVALID_RECORD,
            "Clients are not allowed to write control records",
        ));
    }
    if limits.append_time.is_none()
        && let Some(refusal) = batch.refused_by_time(wall, limits.before, limits.after)
    {
        return Err(refusal);
    }
    match batch.refused_by_compaction().filter(|_| limits.compacted) {
        Some(refusal) => Err(refusal),
        None => Ok(head),
    }
}
