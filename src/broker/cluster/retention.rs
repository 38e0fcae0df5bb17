//! Machine: how much the logs of the cluster's nodes hold, and what goes when they are full.

use super::State;
use crate::wire::Uuid;

/// A batch that was appended to a partition.
#[derive(Debug)]
pub(super) struct Aged {
    pub(super) topic: Uuid,
    pub(super) partition: i32,
    pub(super) end: i64,
}

impl State {
    pub(super) fn grew(&mut self, node: i32, by: isize) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.bytes = node.bytes.saturating_add_signed(by);
        }
    }

    pub(super) fn grew_all(&mut self, changes: Vec<(i32, isize)>) {
        for (node, by) in changes {
            self.grew(node, by);
        }
    }

    pub(super) fn apply_retention(&mut self) {
        let limit = self.settings.retention_bytes;
        let full: Vec<i32> =
            self.nodes.values().filter(|node| node.bytes > limit).map(|node| node.id).collect();
        for id in full {
            while let Some(aged) = self
                .nodes
                .get_mut(&id)
                .filter(|node| node.bytes > limit)
                .and_then(|node| node.age.pop_front())
            {
                self.advance_start(aged.topic, aged.partition, aged.end);
            }
        }
    }

    /// Forgets appended batches that are gone already, whenever their lists have doubled.
    pub(super) fn prune_age(&mut self) {
        const WORTH_A_LOOK: usize = 1024;
        let Self { nodes, topics, topic_names, .. } = self;
        for node in nodes.values_mut().filter(|node| node.age.len() >= node.prune_age_at) {
            node.age.retain(|aged| {
                let topic = topic_names.get(&aged.topic).and_then(|name| topics.get(name));
                topic
                    .and_then(|topic| topic.partition(aged.partition))
                    .is_some_and(|partition| partition.log_start() < aged.end)
            });
            node.prune_age_at = (node.age.len() * 2).max(WORTH_A_LOOK);
        }
    }

    /// Moves the start of a partition's logs, not beyond the high watermark. Returns where it is now.
    pub(crate) fn advance_start(&mut self, topic: Uuid, index: i32, offset: i64) -> Option<i64> {
        let partition = self.partition_by_id(topic, index)?;
        let offset = offset.min(partition.high_watermark);
        let mut freed = Vec::new();
        for (node, log) in &mut partition.logs {
            freed.push((*node, log.advance_start(offset)));
        }
        let start = partition.log_start();
        for (node, bytes) in freed {
            self.grew(node, -(bytes as isize));
        }
        Some(start)
    }
}
