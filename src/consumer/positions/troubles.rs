//! Machine: what keeps partitions from going on, as it is reported to [`Conditions`](crate::cluster::Subject): which
//! decides what is worth reporting.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::Positions;
use super::handing_out::Item;
use super::place::Stage;
use crate::cluster::{ConditionKind, Subject};
use crate::types::{NodeId, TopicPartition};
use crate::{Error, ErrorKind};

/// News of what keeps a partition from going on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Met for the first time, or again.
    Met(Subject, ConditionKind, Error),
    Over(Subject, ConditionKind),
}

impl Positions {
    /// News since the last call.
    pub(crate) fn take_troubles(&mut self) -> VecDeque<Trouble> {
        std::mem::take(&mut self.troubles)
    }

    /// Something keeps `partition` from going on. One thing at a time: what it was before is over.
    pub(super) fn raise(
        &mut self,
        partition: &TopicPartition,
        subject: Subject,
        kind: ConditionKind,
        error: Error,
    ) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let before = state.trouble.replace((subject.clone(), kind));
        if let Some((before, what)) = before.filter(|before| *before != (subject.clone(), kind)) {
            self.troubles.push_back(Trouble::Over(before, what));
        }
        self.troubles.push_back(Trouble::Met(subject, kind, error));
    }

    /// A question about `partition`, or a fetch, failed and is tried again.
    pub(super) fn raise_failure(&mut self, partition: &TopicPartition, error: Error) {
        let kind = ConditionKind::of(&error);
        let subject = match kind {
            // As metadata says it too, so that one cause is told once; rights belong to the topic.
            ConditionKind::NoSuchTopic | ConditionKind::NotAuthorized => {
                Subject::Topic(partition.topic.clone())
            }
            _ => Subject::Partition(partition.clone()),
        };
        self.raise(partition, subject, kind, error);
    }

    /// `partition` holds memory, and there is none for more while others hold none.
    pub(super) fn raise_waiting(&mut self, partition: &TopicPartition) {
        let budget = &self.config.budget;
        let message = format!(
            "reading {partition} waits for memory: {} of {} bytes are in use, and records that were handed out before are \
             still held",
            budget.used(),
            budget.limit()
        );
        self.raise_starving(partition, message);
    }

    /// There is no memory for the next batch of `partition`.
    pub(super) fn raise_starving(&mut self, partition: &TopicPartition, message: String) {
        let error = Error::new(ErrorKind::Timeout, message).with_advice(
            "drop or detach what is kept of earlier batches, or give the client a larger memory budget",
        );
        self.raise(partition, Subject::Partition(partition.clone()), ConditionKind::Starving, error);
    }

    /// A fetch from `node` failed as a whole and is tried again.
    pub(crate) fn handle_node_failed(&mut self, node: NodeId, error: Error) {
        let kind = match ConditionKind::of(&error) {
            ConditionKind::Unreachable => ConditionKind::Unreachable,
            _ => ConditionKind::Refused,
        };
        // What it said of its partitions while it could be reached is over.
        let stale: Vec<TopicPartition> = (self.partitions.iter())
            .filter(|(_, state)| state.leader.is_some_and(|(leader, _)| leader == node))
            .filter(|(_, state)| matches!(state.trouble, Some((_, ConditionKind::NoLeader))))
            .map(|(partition, _)| partition.clone())
            .collect();
        stale.iter().for_each(|partition| self.end_trouble(partition));
        if let Some(before) = self.failing.insert(node, kind).filter(|before| *before != kind) {
            self.troubles.push_back(Trouble::Over(Subject::Node(node), before));
        }
        self.troubles.push_back(Trouble::Met(Subject::Node(node), kind, error));
    }

    /// A fetch from `node` was answered, or is not wanted any more.
    pub(crate) fn handle_node_well(&mut self, node: NodeId) {
        if let Some(kind) = self.failing.remove(&node) {
            self.troubles.push_back(Trouble::Over(Subject::Node(node), kind));
        }
    }

    /// `partition` goes on.
    pub(super) fn end_trouble(&mut self, partition: &TopicPartition) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        if let Some((subject, kind)) = state.trouble.take() {
            self.troubles.push_back(Trouble::Over(subject, kind));
        }
    }

    /// Stops `partition` at `offset`, which is how far reading got: what is in front of it is still handed out.
    pub(super) fn stop(&mut self, partition: &TopicPartition, error: Error, offset: Option<i64>) {
        self.stop_until(partition, error, offset, None);
    }

    /// As [`stop`](Self::stop); with `again`, reading is tried again then, since what is wrong may go away by itself.
    pub(super) fn stop_until(
        &mut self,
        partition: &TopicPartition,
        error: Error,
        offset: Option<i64>,
        again: Option<Instant>,
    ) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        state.place.stage = Stage::Stopped { again: again.is_some() };
        state.place.retry_at = again;
        if !state.delivery.stop_told {
            state.delivery.stop_told = true;
            state.delivery.push(Item::Failed(error.clone(), offset));
        }
        self.raise(partition, Subject::Partition(partition.clone()), ConditionKind::Stopped, error);
        self.make_ready(partition);
    }
}
