//! What the listener keeps for one partition: its coordinator, the batch it holds, its handlers and their runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use super::coordinator::{Coordinator, Ending};
use super::health::Stuck;
use super::route::Route;
use crate::app::consumer::Handler;
use crate::app::context::Context;
use crate::consumer::Batch;
use crate::runtime::AbortOnDrop;
use crate::runtime::watch;

/// Invariant: a lane is in `runs` or in `handlers`, never in both.
pub(super) struct PartitionState {
    pub(super) route: Arc<Route>,
    pub(super) coordinator: Coordinator,
    /// The assignment that the partition belongs to; marks of an older one are refused.
    pub(super) assignment: u64,
    /// The batch that the coordinator works on.
    pub(super) held: Option<Batch>,
    /// Handlers that do not run at the moment, by lane.
    pub(super) handlers: BTreeMap<u32, Box<dyn Handler>>,
    pub(super) runs: BTreeMap<u32, Run>,
    /// Tells handlers that the partition goes away.
    pub(super) ending: watch::Sender<Option<Ending>>,
    /// The entry in the listener's timers, if there is one.
    pub(super) timer: Option<Instant>,
    /// A batch of the partition's next assignment, which came before the last handler of this one had returned.
    pub(super) successor: Option<Batch>,
    /// The coordinator has ended; what is left are the handlers' last callbacks.
    pub(super) closing: Option<Ending>,
}

/// A handler that runs.
pub(super) struct Run {
    pub(super) context: Context,
    pub(super) records: usize,
    /// It has been running for longer than the route allows.
    pub(super) stuck: Option<Stuck>,
    /// Dropping the run drops the handler's future.
    pub(super) _task: AbortOnDrop,
}

impl Drop for Run {
    fn drop(&mut self) {
        // What a forced stop cannot end, a blocking handler for one, must not mark any more.
        self.context.close();
    }
}

impl PartitionState {
    pub(super) fn new(route: Arc<Route>, assignment: u64) -> Self {
        Self {
            coordinator: Coordinator::new(route.policy.clone(), route.filters()),
            route,
            assignment,
            held: None,
            handlers: BTreeMap::new(),
            runs: BTreeMap::new(),
            ending: watch::Sender::new(None),
            timer: None,
            successor: None,
            closing: None,
        }
    }

    /// Hands the marks that running handlers made so far to the coordinator.
    pub(super) fn collect_marks(&mut self) {
        for (&lane, run) in &self.runs {
            if let Some(offset) = run.context.marked() {
                self.coordinator.handle_mark(lane, offset);
            }
        }
    }
}

impl fmt::Debug for PartitionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionState")
            .field("coordinator", &self.coordinator)
            .field("running", &self.runs.len())
            .finish_non_exhaustive()
    }
}
