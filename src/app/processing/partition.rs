//! What the listener keeps for one partition: its coordinator, the batch it holds, its handlers and their runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::coordinator::Coordinator;
use super::health::{Health, Trouble};
use super::route::Route;
use super::run::Instance;
use crate::app::context::Context;
use crate::app::policy::Ending;
use crate::app::snapshot::{JobKind, JobSnapshot, PartitionPhase, PartitionSnapshot, PauseSnapshot};
use crate::consumer::{Mark, RecordBatch};
use crate::runtime::AbortOnDrop;
use crate::runtime::watch;
use crate::types::{Offset, TopicPartition};

/// Invariant: a lane is in `runs` or in `consumers`, never in both.
pub(super) struct PartitionState {
    pub(super) route: Arc<Route>,
    pub(super) coordinator: Coordinator,
    /// The assignment that the partition belongs to, known from its first batch on; marks of an older one are refused.
    pub(super) assignment: Option<u64>,
    /// Consumers that do not run at the moment, by lane.
    pub(super) consumers: BTreeMap<u32, Instance>,
    pub(super) runs: BTreeMap<(JobKind, u32), Run>,
    /// Tells handlers that the partition goes away: what the coordinator was told.
    pub(super) ending: watch::Sender<Option<Ending>>,
    /// A dead letter is not accepted: the partition stands until it is.
    pub(super) undelivered: Option<Trouble>,
    /// The entry in the listener's timers, if there is one.
    pub(super) timer: Option<Instant>,
    /// The latest mark that the source was given.
    pub(super) stored: Option<Mark>,
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
    pub(super) fn new(route: Arc<Route>) -> Self {
        Self {
            coordinator: Coordinator::new(route.rules()),
            route,
            assignment: None,
            consumers: BTreeMap::new(),
            runs: BTreeMap::new(),
            ending: watch::Sender::new(None),
            undelivered: None,
            timer: None,
            stored: None,
        }
    }

    /// Announces the end to the coordinator and to handlers.
    pub(super) fn end(&mut self, now: Instant, ending: Ending) {
        self.coordinator.handle_end(now, ending);
        self.ending.send_replace(self.coordinator.ending());
    }

    /// True if user code has been called and has not returned.
    pub(super) fn is_running(&self) -> bool {
        self.runs.values().any(|run| run.context.running_since().is_some())
    }

    /// Who keeps the partition from being given back, in words.
    pub(super) fn blocker(&self, partition: &TopicPartition, closing: bool) -> String {
        if self.is_running() {
            let what = if closing { "last callback" } else { "handler" };
            return match self.runs.values().any(|run| run.context.blocks()) {
                true => format!(
                    "the {what} of {partition} blocks a thread and still runs; the process may have to wait for it"
                ),
                false => format!("the {what} of {partition} did not return and was dropped"),
            };
        }
        if self.coordinator.is_dispatching() {
            let topic = self.coordinator.letter_topic().or(self.route.dead_letter_topic());
            let topic = topic.map_or("", |topic| topic.as_str());
            return format!("a dead letter of {partition} was not acknowledged by {topic}");
        }
        format!("what the handler of {partition} produced was not acknowledged")
    }

    /// A mark of this assignment.
    pub(super) fn mark(&self, partition: &TopicPartition, offset: Offset) -> Mark {
        let mark = Mark::new(partition.clone(), offset);
        match self.assignment {
            Some(assignment) => mark.of_assignment(assignment),
            None => mark,
        }
    }

    /// Handlers of single messages stop before the next one, and those that wait for a worker are not called. Callbacks
    /// without records are not repeated, and so not interrupted.
    pub(super) fn interrupt(&self) {
        let consuming = self.runs.iter().filter(|((kind, _), _)| *kind == JobKind::Consume);
        consuming.for_each(|(_, run)| run.context.interrupt());
    }

    /// As [`interrupt`](Self::interrupt), and no callback begins. Last calls are not asked for while anything else runs.
    pub(super) fn hush(&self) {
        self.interrupt();
        self.runs.values().for_each(|run| run.context.withdraw());
    }

    /// The handlers that have been running for longer than the route allows since the last time, and for how long.
    pub(super) fn find_stuck(&mut self, now: Instant, health: &Health) -> Vec<(u32, Duration)> {
        let Some(limit) = self.route.stuck_after else { return Vec::new() };
        let mut found = Vec::new();
        for (&(_, lane), run) in &mut self.runs {
            let Some(since) = run.context.running_since() else {
                run.stuck = None;
                continue;
            };
            if now - since >= limit && run.stuck.is_none() {
                run.stuck = Some(health.trouble());
                found.push((lane, now - since));
            }
        }
        found
    }

    /// What is going on.
    pub(super) fn snapshot(
        &self,
        now: Instant,
        partition: TopicPartition,
        phase: PartitionPhase,
        (position, high_watermark): (Option<Offset>, Option<Offset>),
    ) -> PartitionSnapshot {
        let job = |(&(kind, lane), run): (&(JobKind, u32), &Run)| JobSnapshot {
            kind,
            lane,
            records: run.records,
            attempt: run.context.attempt(),
            running: run.context.begun().map(|begun| now - begun),
            settling: run.context.begun().is_some() && run.context.running_since().is_none(),
            blocking: run.context.blocks(),
        };
        let pause = self.coordinator.pause(now);
        PartitionSnapshot {
            partition,
            phase,
            held: self.coordinator.held().map_or(0, RecordBatch::len),
            attempt: self.coordinator.attempt(),
            pause: pause.map(|(cause, until)| PauseSnapshot { cause, left: until - now }),
            position,
            high_watermark,
            marked: self.stored.as_ref().map(Mark::offset),
            jobs: self.runs.iter().map(job).collect(),
        }
    }

    /// Hands the marks that running handlers made so far to the coordinator.
    pub(super) fn collect_marks(&mut self) {
        for (&(_, lane), run) in &self.runs {
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
