//! Machine: which node coordinates what: names hashed over the partitions of an internal topic, and the nodes that lead
//! these. Groups have one such map (`__consumer_offsets`), transactional ids another (`__transaction_state`).

use std::collections::BTreeSet;

use super::settings::Settings;

/// Partitions of each internal topic, as in Kafka.
pub(crate) const PARTITIONS: i32 = 50;

/// Who coordinates what.
#[derive(Debug)]
pub(crate) struct Coordinators {
    /// Node and epoch by partition.
    leaders: Vec<(i32, i32)>,
    /// Nodes that do nothing at present: what is due at them waits.
    frozen: BTreeSet<i32>,
}

impl Coordinators {
    pub(crate) fn new(settings: &Settings) -> Self {
        let leaders =
            (0..PARTITIONS).map(|at| (settings.first_node_id + at % settings.nodes.max(1), 0)).collect();
        Self { leaders, frozen: BTreeSet::new() }
    }

    /// The partition of a name.
    pub(crate) fn slot(name: &str) -> i32 {
        // Java's String.hashCode over UTF-16, without the sign bit.
        let hash =
            name.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
        (hash & i32::MAX) % PARTITIONS
    }

    fn leader(&self, slot: i32) -> Option<(i32, i32)> {
        self.leaders.get(usize::try_from(slot).ok()?).copied()
    }

    /// The node of a partition; it may be dead.
    pub(crate) fn node_at(&self, slot: i32) -> i32 {
        self.leader(slot).map_or(-1, |(node, _)| node)
    }

    /// The node that coordinates what is named so; it may be dead.
    pub(crate) fn node(&self, name: &str) -> i32 {
        self.node_at(Self::slot(name))
    }

    /// How often the coordinator of that name has changed.
    pub(crate) fn epoch(&self, name: &str) -> i32 {
        self.leader(Self::slot(name)).map_or(0, |(_, epoch)| epoch)
    }

    /// Lets `node` coordinate what shares a partition with `name`. Returns that partition if this is news.
    pub(crate) fn move_to(&mut self, name: &str, node: i32) -> Option<i32> {
        let slot = Self::slot(name);
        let leader = self.leaders.get_mut(usize::try_from(slot).ok()?)?;
        if leader.0 == node {
            return None;
        }
        *leader = (node, leader.1 + 1);
        Some(slot)
    }

    /// `heir` takes over what a dead node coordinated; without any living node it waits for its return. Returns the
    /// partitions that this is about.
    pub(crate) fn node_died(&mut self, node: i32, heir: Option<i32>) -> BTreeSet<i32> {
        let moved = self.slots_of(node);
        if let Some(heir) = heir {
            for leader in self.leaders.iter_mut().filter(|leader| leader.0 == node) {
                *leader = (heir, leader.1 + 1);
            }
        }
        moved
    }

    /// What a node coordinates.
    pub(crate) fn slots_of(&self, node: i32) -> BTreeSet<i32> {
        (0..PARTITIONS).filter(|slot| self.node_at(*slot) == node).collect()
    }

    /// Stops or lets go on the timers of what `node` coordinates.
    pub(crate) fn freeze(&mut self, node: i32, frozen: bool) {
        if frozen {
            self.frozen.insert(node);
        } else {
            self.frozen.remove(&node);
        }
    }

    /// True if some node does nothing at present.
    pub(crate) fn any_frozen(&self) -> bool {
        !self.frozen.is_empty()
    }

    /// True if the node that coordinates `name` does nothing at present.
    pub(crate) fn is_frozen(&self, name: &str) -> bool {
        self.frozen.contains(&self.node(name))
    }
}
