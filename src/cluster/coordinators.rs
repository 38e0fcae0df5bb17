//! Which node coordinates which group or transaction. Each key is looked up once however many wait for it; a caller
//! that goes away while it looks leaves the place to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::runtime::watch;
use crate::sync::{Mutex, lock};
use crate::types::NodeId;

/// What is coordinated; the number is the key type of FindCoordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum CoordinatorKind {
    /// A consumer group.
    Group = 0,
    /// A transactional id.
    Transaction = 1,
}

/// A cached answer; whoever holds the lock looks it up.
pub(super) type Cell = Arc<tokio::sync::Mutex<Option<NodeId>>>;

#[derive(Debug, Default)]
struct Place {
    cell: Cell,
    /// The latest answer, also when it was forgotten.
    found: Option<NodeId>,
}

/// The cache.
#[derive(Debug, Default)]
pub(super) struct Coordinators {
    places: Mutex<BTreeMap<(CoordinatorKind, String), Place>>,
    /// Counts answers.
    told: watch::Sender<u64>,
}

impl Coordinators {
    /// The place of a key.
    pub(super) fn cell(&self, kind: CoordinatorKind, key: &str) -> Cell {
        let mut places = lock(&self.places);
        Arc::clone(&places.entry((kind, key.to_owned())).or_default().cell)
    }

    /// `node` was found to coordinate `key`.
    pub(super) fn found(&self, kind: CoordinatorKind, key: &str, node: NodeId) {
        lock(&self.places).entry((kind, key.to_owned())).or_default().found = Some(node);
        self.told.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits until a node other than `node` was found to coordinate `key`.
    pub(super) async fn moved(&self, kind: CoordinatorKind, key: &str, node: NodeId) {
        let mut told = self.told.subscribe();
        loop {
            told.mark_unchanged();
            let found = lock(&self.places).get(&(kind, key.to_owned())).and_then(|place| place.found);
            if found.is_some_and(|found| found != node) {
                return;
            }
            // The sender lives as long as this.
            let _ = told.changed().await;
        }
    }

    /// Forgets what is known of a key. What is being looked up now is newer than the doubt and stays.
    pub(super) fn forget(&self, kind: CoordinatorKind, key: &str) {
        if let Ok(mut known) = self.cell(kind, key).try_lock() {
            *known = None;
        }
    }

    /// Forgets every key that `node` was thought to coordinate, because it cannot be reached.
    pub(super) fn forget_node(&self, node: NodeId) {
        let places = lock(&self.places);
        for place in places.values() {
            if let Ok(mut known) = place.cell.try_lock()
                && *known == Some(node)
            {
                *known = None;
            }
        }
    }
}
