//! Machine: followers of the cluster, how far behind their leaders they run, and who leads a partition for whom.

use std::time::Duration;

use tokio::time::Instant;

use super::{Node, State, Step, Topic};
use crate::ErrorCode;
use crate::broker::log::Log;
use crate::broker::partition::Partition;
use crate::broker::rights::Operation;
use crate::wire::Uuid;

impl State {
    /// The partition, if `node` leads it; otherwise the code that says why not.
    pub(crate) fn led(
        &self,
        node: i32,
        name: &str,
        index: i32,
        known_epoch: i32,
        operation: Operation,
    ) -> Result<(&Topic, &Partition), ErrorCode> {
        self.rights.check_topic(name, operation)?;
        let topic = self.topic_at(node, name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let partition = topic.partition(index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        check_epoch(partition, known_epoch)?;
        if !topic.is_led_by(node, partition) {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        Ok((topic, partition))
    }

    /// How far behind the followers on `node` run; `Duration::MAX` stops them.
    fn lag_of(&self, node: i32) -> Duration {
        match self.nodes.get(&node) {
            Some(node) if node.frozen.is_some() => Duration::MAX,
            Some(Node { lag: Some(lag), .. }) => *lag,
            _ => self.lag,
        }
    }

    /// Lets every living follower of a partition fetch what its leader has now, at once or when its lag is over.
    pub(crate) fn replicate(&mut self, topic_id: Uuid, index: i32, now: Instant) {
        let Some(name) = self.topic_names.get(&topic_id) else { return };
        let Some(partition) = self.topics.get(name).and_then(|topic| topic.partition(index)) else { return };
        let limit = partition.leader_log().map_or(0, Log::end);
        let leader = partition.leader;
        if !self.is_running(leader) {
            return;
        }
        let followers: Vec<i32> = partition
            .replicas
            .iter()
            .copied()
            .filter(|node| *node != leader && self.is_alive(*node))
            .collect();
        for node in followers {
            let lag = self.lag_of(node);
            if lag.is_zero() {
                self.follow(topic_id, index, node, i64::MAX);
                continue;
            }
            if let Some(when) = now.checked_add(lag).filter(|_| lag != Duration::MAX) {
                self.at(when, Step::Follow { topic: topic_id, partition: index, node, limit });
            }
            if lag > self.settings.replica_lag_max {
                let when = now + self.settings.replica_lag_max;
                self.at(when, Step::ShrinkIfBehind { topic: topic_id, partition: index, node, end: limit });
            }
        }
        if let Some(partition) = self.partition_by_id(topic_id, index) {
            partition.advance_high_watermark();
        }
    }

    pub(super) fn partition_by_id(&mut self, topic: Uuid, index: i32) -> Option<&mut Partition> {
        self.topic_by_id_mut(&topic)?.partition_mut(index)
    }

    pub(super) fn follow(&mut self, topic: Uuid, index: i32, node: i32, limit: i64) {
        if let Some(partition) = self.partition_by_id(topic, index) {
            let grown = partition.follow(node, limit);
            self.grew(node, grown);
        }
    }

    /// Sets the lag of the cluster, or of the followers on one node. `Duration::MAX` stops replication.
    pub(crate) fn set_replication_lag(&mut self, node: Option<i32>, lag: Duration, now: Instant) {
        match node {
            Some(node) => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.lag = Some(lag);
                }
            }
            None => {
                self.lag = lag;
                for node in self.nodes.values_mut() {
                    node.lag = None;
                }
            }
        }
        self.replicate_all(now);
    }

    pub(crate) fn replicate_all(&mut self, now: Instant) {
        for (topic, index) in self.partition_ids() {
            self.replicate(topic, index, now);
        }
    }

    fn partition_ids(&self) -> Vec<(Uuid, i32)> {
        self.topics
            .values()
            .flat_map(|topic| (0..topic.partitions.len() as i32).map(|index| (topic.id, index)))
            .collect()
    }
}

/// FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH if the client's epoch is not the partition's (KIP-320).
pub(crate) fn check_epoch(partition: &Partition, known_epoch: i32) -> Result<(), ErrorCode> {
    match known_epoch {
        -1 => Ok(()),
        epoch if epoch < partition.leader_epoch => Err(ErrorCode::FENCED_LEADER_EPOCH),
        epoch if epoch > partition.leader_epoch => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        _ => Ok(()),
    }
}
