//! Machine: nodes of the cluster that die, return, freeze and thaw, and who leads then.

use tokio::time::Instant;

use super::{State, Step};
use crate::ErrorCode;
use crate::broker::partition::NO_LEADER;
use crate::broker::sessions::Sessions;

impl State {
    /// Makes `node` the leader of a partition. From outside the in-sync set only if `unclean`: what it lacks is lost.
    pub(crate) fn move_leader(
        &mut self,
        name: &str,
        index: i32,
        node: i32,
        unclean: bool,
        now: Instant,
    ) -> Result<(), ErrorCode> {
        let alive = self.is_alive(node);
        let topic = self.topics.get_mut(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let id = topic.id;
        let partition = topic.partition_mut(index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        if !partition.replicas.contains(&node) {
            return Err(ErrorCode::REPLICA_NOT_AVAILABLE);
        }
        if !alive || (!unclean && !partition.isr.contains(&node)) {
            return Err(ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE);
        }
        if partition.leader != node {
            let shrunk = partition.elect(node, now);
            self.grew_all(shrunk);
            self.replicate(id, index, now);
        }
        Ok(())
    }

    /// Stops a node: its sessions are gone, others take over what they can.
    pub(crate) fn kill_node(&mut self, id: i32, now: Instant) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.sessions = Sessions::default();
        if node.frozen.take().is_some() {
            self.groups.freeze(id, false);
            self.transactions.freeze(id, false);
        }
        self.retire(id, now);
    }

    /// Others lead and coordinate what the node did.
    fn retire(&mut self, id: i32, now: Instant) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.alive) else { return };
        node.alive = false;
        let alive: Vec<i32> = self.alive_nodes().map(|node| node.id).collect();
        let mut shrunk = Vec::new();
        for topic in self.topics.values_mut() {
            for partition in &mut topic.partitions {
                if partition.leader == id {
                    let successor = partition
                        .replicas
                        .iter()
                        .copied()
                        .find(|node| alive.contains(node) && partition.isr.contains(node));
                    shrunk.extend(partition.elect(successor.unwrap_or(NO_LEADER), now));
                }
                partition.shrink(id);
            }
        }
        self.grew_all(shrunk);
        self.replicate_all(now);
        let heir = alive.iter().copied().find(|node| *node > id).or_else(|| alive.first().copied());
        self.groups.node_died(id, heir, now);
        self.transactions.node_died(id, heir);
    }

    /// Starts a stopped node with the logs it had; its followers catch up.
    pub(crate) fn restart_node(&mut self, id: i32, now: Instant) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.alive {
            return;
        }
        node.alive = true;
        let mut shrunk = Vec::new();
        for topic in self.topics.values_mut() {
            for partition in &mut topic.partitions {
                if partition.leader == NO_LEADER && partition.isr.contains(&id) {
                    shrunk.extend(partition.elect(id, now));
                }
            }
        }
        self.grew_all(shrunk);
        self.replicate_all(now);
        self.groups.node_returned(id, now);
        self.transactions.node_returned(id);
    }

    // ---- frozen nodes ----

    /// A node does nothing any more, but nobody knows yet: it leads and coordinates until its session ends.
    pub(crate) fn freeze_node(&mut self, id: i32, now: Instant) {
        let running = self.nodes.get_mut(&id).filter(|node| node.alive && node.frozen.is_none());
        let Some(node) = running else { return };
        node.frozen = Some(now);
        self.groups.freeze(id, true);
        self.transactions.freeze(id, true);
        if let Some(end) = now.checked_add(self.settings.node_session_timeout) {
            self.at(end, Step::Fence { node: id, since: now });
        }
    }

    /// Takes what it leads and coordinates from a node that is still as frozen as at `since`.
    pub(crate) fn fence(&mut self, id: i32, since: Instant, now: Instant) {
        if self.nodes.get(&id).is_some_and(|node| node.frozen == Some(since)) {
            self.retire(id, now);
        }
    }

    /// A frozen node goes on; one that was fenced is back as after a restart, but for its connections.
    pub(crate) fn thaw_node(&mut self, id: i32, now: Instant) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.frozen.is_some()) else { return };
        node.frozen = None;
        self.groups.freeze(id, false);
        self.transactions.freeze(id, false);
        self.restart_node(id, now);
        self.replicate_all(now);
    }
}
