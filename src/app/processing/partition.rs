//! What the listener keeps for one partition: its coordinator, the batch it holds, its handlers and their runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use super::coordinator::Coordinator;
use super::health::Trouble;
use super::route::Route;
use super::run::Instance;
use crate::app::context::Context;
use crate::app::policy::Ending;
use crate::consumer::Batch;
use crate::runtime::AbortOnDrop;
use crate::runtime::watch;
use crate::types::TopicPartition;

/// Invariant: a lane is in `runs` or in `consumers`, never in both.
pub(super) struct PartitionState {
    pub(super) route: Arc<Route>,
    pub(super) coordinator: Coordinator,
    /// The assignment that the partition belongs to; marks of an older one are refused.
    pub(super) assignment: u64,
    /// Consumers that do not run at the moment, by lane.
    pub(super) consumers: BTreeMap<u32, Instance>,
    pub(super) runs: BTreeMap<u32, Run>,
    /// Tells handlers that the partition goes away: what the coordinator was told.
    pub(super) ending: watch::Sender<Option<Ending>>,
    /// A dead letter is not accepted: the partition stands until it is.
    pub(super) undelivered: Option<Trouble>,
    /// The entry in the listener's timers, if there is one.
    pub(super) timer: Option<Instant>,
    /// A batch of the partition's next assignment, which came before the last handler of this one had returned.
    pub(super) successor: Option<Batch>,
    /// The coordinator has ended; what is left are the consumers' last callbacks.
    pub(super) closing: bool,
}

/// A handler that runs.
pub(super) struct Run {
    pub(super) context: Context,
    pub(super) records: usize,
    /// It has been running for longer than the route allows.
    pub(super) stuck: Option<Trouble>,
    /// Dropping the run drops the handler's future.
    pub(super) _task: AbortOnDrop,
}

impl Drop for Run {
    fn drop(&mut self) {
        // What a forced stop cannot end, a blocking handler for one, must neither produce nor mark any more.
        self.context.close();
    }
}

impl PartitionState {
    pub(super) fn new(route: Arc<Route>, assignment: u64) -> Self {
        Self {
            coordinator: Coordinator::new(route.rules()),
            route,
            assignment,
            consumers: BTreeMap::new(),
            runs: BTreeMap::new(),
            ending: watch::Sender::new(None),
            undelivered: None,
            timer: None,
            successor: None,
            closing: false,
        }
    }

    /// Announces the end to the coordinator and to handlers.
    pub(super) fn end(&mut self, now: Instant, ending: Ending) {
        self.successor = None;
        self.coordinator.handle_end(now, ending);
        self.ending.send_replace(self.coordinator.ending());
    }

    /// True if user code has been called and has not returned.
    pub(super) fn is_running(&self) -> bool {
        self.runs.values().any(|run| run.context.running_since().is_some())
    }

    /// Who keeps the partition from being given back, in words.
    pub(super) fn blocker(&self, partition: &TopicPartition) -> String {
        if self.is_running() {
            let what = if self.closing { "last callback" } else { "handler" };
            return match self.runs.values().any(|run| run.context.blocks()) {
                true => format!(
                    "the {what} of {partition} blocks a thread and still runs; the process may have to wait for it"
                ),
                false => format!("the {what} of {partition} did not return and was dropped"),
            };
        }
        if self.coordinator.is_dispatching() {
            let topic = self.route.dead_letter_topic.as_deref().unwrap_or_default();
            return format!("a dead letter of {partition} was not acknowledged by {topic}");
        }
        format!("what the handler of {partition} produced was not acknowledged")
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
