//! The machine of one partition: everything that happens to a batch between its arrival and its release.
//!
//! ```text
//!            batch                     lanes finished                     nothing pending
//!  Idle ───────────────▶ Running ─────────────────────────▶ Ready ───────────────────────▶ Idle
//!                           ▲     all succeeded              │  │ ▲
//!                           │                                │  │ │ dispatched
//!                           └────── no pause is left ────────┘  ▼ │
//!                                                          Dispatching
//! ```
//!
//! Policies are stages, each of which knows nothing of the others: *filter* (how much may run now), *split* (into which
//! lanes), *run*, *outcome* (what the results mean: progress, retry or dead letter), *after* (marks, pauses, seeks). Their
//! combinations are the rows of the decision table in the tests.
//!
//! Invariants: at most one batch is held; no lane runs twice at once; an offset is offered for commit only when it and
//! all before it are marked; after the end was announced nothing new starts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::progress::Progress;
use crate::backoff::Backoff;

/// What a route asks of the coordinators of its partitions.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) marks: Marks,
    pub(crate) retry: Backoff,
    pub(crate) dead_letter: Option<DeadLetterPolicy>,
    /// Records handed to one run at most.
    pub(crate) max_messages: usize,
}

/// Who marks records as consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// Success of the handler marks.
    Automatic,
    /// Only the handler marks.
    Manual,
}

/// When and how a record that keeps failing leaves the partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadLetterPolicy {
    /// Retries of a record before it is dispatched.
    pub(crate) max_retries: u32,
    /// Counts the retries of each record instead of those of the batch.
    pub(crate) independent: bool,
    /// The dispatched record counts as consumed.
    pub(crate) mark_after_dispatch: bool,
    /// Dispatch and mark happen in one transaction or not at all.
    pub(crate) atomic: bool,
}

/// Decides how many of the pending records may run now.
pub(crate) trait Filter: std::fmt::Debug + Send {
    /// `offsets` are those of the pending records.
    fn apply(&mut self, now: Instant, offsets: &mut dyn ExactSizeIterator<Item = i64>) -> Verdict;
}

/// What a [`Filter`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything may run.
    Pass,
    /// The first `keep` records may run; the rest not before `until`.
    Cut {
        /// Number of records that may run now.
        keep: usize,
        /// When to ask again.
        until: Instant,
    },
}

/// How one lane ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The handler returned success and all that it produced is acknowledged.
    Success,
    /// The handler or a delivery failed, or the handler panicked.
    Failure,
}

/// Why a partition ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It goes to another member, which waits for our last commit.
    Revoked,
    /// It already belongs to somebody else: no marks, no retries, no dead letters any more.
    Lost,
    /// The application stops.
    Stopped,
}

/// What the driver has to do. Results of effects come back through `handle_*`.
#[derive(Debug, PartialEq)]
pub(crate) enum Output {
    /// Run the handler of `lane` on these records of the held batch.
    Run {
        /// Lane, 0 where there is one.
        lane: u32,
        /// Records by index in the held batch.
        records: Arc<[u32]>,
        /// 1 for the first run.
        attempt: u32,
    },
    /// Offsets below this one may be committed.
    Mark(i64),
    /// Send the record to the dead letter topic; with `atomic`, together with this offset.
    Dispatch {
        /// Record by index in the held batch.
        record: u32,
        /// How often its handler failed.
        attempts: u32,
        /// Offset to commit in the same transaction.
        atomic: Option<i64>,
    },
    /// Tell listeners that the partition waits before it runs its handler again.
    Retrying {
        /// The run that failed.
        attempt: u32,
        /// Offset of the first record that will run again.
        offset: i64,
        /// The pause before it.
        delay: Duration,
    },
    /// Continue fetching at this offset; what is held or prefetched is void.
    Seek(i64),
    /// The batch is done with; the next one may come.
    Release,
    /// Nothing runs and nothing will: the partition may be handed over.
    Ended(Ending),
}

/// One lane of a run.
#[derive(Debug)]
struct Lane {
    id: u32,
    /// Ascending indexes of its records.
    records: Arc<[u32]>,
    /// Records before this position in `records` are marked.
    marked: usize,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
struct Held {
    progress: Progress,
    /// Lane of each record, where the route has virtual partitions.
    split: Option<Vec<u32>>,
    /// A failure makes the rest of the batch run in one lane, so that retries and dead letters are unambiguous.
    collapsed: bool,
}

#[derive(Debug)]
enum State {
    Idle,
    Ready,
    Running(Vec<Lane>),
    Dispatching(u32),
    Ended,
}

/// Reasons to wait; the latest deadline wins.
#[derive(Debug, Default)]
struct Pauses {
    user: Option<Instant>,
    retry: Option<Instant>,
    filter: Option<Instant>,
}

impl Pauses {
    fn until(&self, now: Instant) -> Option<Instant> {
        [self.user, self.retry, self.filter].into_iter().flatten().max().filter(|&until| until > now)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Coordinator {
    policy: Policy,
    filters: Vec<Box<dyn Filter>>,
    state: State,
    held: Option<Held>,
    pauses: Pauses,
    deadline: Option<Instant>,
    /// Runs since the last success, dispatch or (independent counting) progress.
    attempt: u32,
    /// Offset of the first pending record when the last run failed.
    failed_at: Option<i64>,
    /// A dispatch that failed is repeated without running the handler again.
    redispatch: bool,
    /// Where the handler asked to continue.
    seek: Option<i64>,
    /// The handler paused during this run; automatic marks are withheld.
    paused_by_user: bool,
    /// The highest offset offered for commit in this assignment.
    marked: i64,
    ending: Option<Ending>,
    outputs: VecDeque<Output>,
}

impl Coordinator {
    pub(crate) fn new(policy: Policy, filters: Vec<Box<dyn Filter>>) -> Self {
        Self {
            policy,
            filters,
            state: State::Idle,
            held: None,
            pauses: Pauses::default(),
            deadline: None,
            attempt: 0,
            failed_at: None,
            redispatch: false,
            seek: None,
            paused_by_user: false,
            marked: -1,
            ending: None,
            outputs: VecDeque::new(),
        }
    }

    /// A batch arrived. The driver delivers the next one only after [`Output::Release`].
    pub(crate) fn handle_batch(
        &mut self,
        now: Instant,
        offsets: Vec<i64>,
        next_offset: i64,
        split: Option<Vec<u32>>,
    ) {
        debug_assert!(self.held.is_none(), "one batch at a time");
        if self.ending.is_some() {
            return;
        }
        self.held = Some(Held { progress: Progress::new(offsets, next_offset), split, collapsed: false });
        self.state = State::Ready;
        self.advance(now);
    }

    /// A running handler marked a record, and what it produced before that is acknowledged. Marks the earlier
    /// records of its lane as well.
    pub(crate) fn handle_mark(&mut self, lane: u32, offset: i64) {
        if matches!(self.ending, Some(Ending::Lost)) {
            return;
        }
        let (State::Running(lanes), Some(held)) = (&mut self.state, &mut self.held) else { return };
        let Some(lane) = lanes.iter_mut().find(|l| l.id == lane) else { return };
        let Some(index) = held.progress.index_at_or_below(offset) else {
            // A record of an earlier batch: manual marks may lag behind.
            self.offer(offset + 1);
            return;
        };
        while let Some(&record) = lane.records.get(lane.marked).filter(|&&record| record <= index) {
            held.progress.mark(record);
            lane.marked += 1;
        }
        if held.split.is_none() || held.collapsed {
            // One lane: everything up to the record, handled in earlier runs or not, precedes the mark.
            held.progress.mark_through(index);
        }
        self.offer_progress();
    }

    /// The handler of `lane` ended. `dice` is any random number, for the jitter of a retry.
    pub(crate) fn handle_finished(&mut self, now: Instant, lane: u32, outcome: Outcome, dice: u64) {
        let State::Running(lanes) = &mut self.state else { return };
        if let Some(lane) = lanes.iter_mut().find(|l| l.id == lane) {
            lane.outcome = Some(outcome);
        }
        if lanes.iter().all(|lane| lane.outcome.is_some()) {
            let State::Running(lanes) = std::mem::replace(&mut self.state, State::Ready) else { return };
            self.outcome(now, &lanes, dice);
            self.advance(now);
        }
    }

    /// The dispatch asked for by [`Output::Dispatch`] ended.
    pub(crate) fn handle_dispatched(&mut self, now: Instant, written: bool, dice: u64) {
        let State::Dispatching(record) = self.state else { return };
        self.state = State::Ready;
        let (Some(held), Some(policy)) = (&mut self.held, self.policy.dead_letter) else { return };
        self.redispatch = !written;
        if written {
            if policy.mark_after_dispatch {
                held.progress.mark(record);
            } else {
                held.progress.handled(record);
            }
            self.attempt = 0;
            self.failed_at = None;
            if policy.atomic {
                // The transaction carried the offset.
                self.marked = self.marked.max(held.progress.committable());
            }
            self.offer_progress();
        }
        let delay = self.policy.retry.delay(self.attempt, dice);
        self.pauses.retry = Some(now + delay);
        self.advance(now);
    }

    /// The handler asked to stop for `pause` and to see the records from `offset` on again.
    pub(crate) fn handle_pause(&mut self, now: Instant, offset: Option<i64>, pause: Duration) {
        self.pauses.user = Some(now + pause);
        self.paused_by_user = true;
        if let (Some(offset), Some(held)) = (offset, &mut self.held) {
            held.progress.reopen(offset);
        }
    }

    /// The handler asked to continue at `offset` once it returns.
    pub(crate) fn handle_seek(&mut self, offset: i64) {
        self.seek = Some(offset);
    }

    /// The deadline passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The partition goes away. Running handlers may finish; nothing new starts.
    pub(crate) fn handle_end(&mut self, now: Instant, ending: Ending) {
        // A revocation that turns into a loss is a loss; nothing turns back.
        if self.ending != Some(Ending::Lost) {
            self.ending = Some(ending);
        }
        self.advance(now);
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// True once the end was announced.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Stage *outcome*: what the results of a run mean.
    fn outcome(&mut self, now: Instant, lanes: &[Lane], dice: u64) {
        let Some(held) = &mut self.held else { return };
        let withheld = std::mem::take(&mut self.paused_by_user);
        for lane in lanes.iter().filter(|lane| lane.outcome == Some(Outcome::Success)) {
            match self.policy.marks {
                // Who paused or sought decides for themselves what is done.
                _ if withheld || self.seek.is_some() => {}
                Marks::Automatic => lane.records.iter().for_each(|&record| held.progress.mark(record)),
                Marks::Manual => lane.records.iter().for_each(|&record| held.progress.handled(record)),
            }
        }
        let failed = lanes.iter().any(|lane| lane.outcome == Some(Outcome::Failure));
        if self.ending == Some(Ending::Lost) {
            return;
        }
        if failed {
            self.fail(now, dice);
        } else {
            self.attempt = 0;
            self.failed_at = None;
        }
        self.offer_progress();
    }

    /// A run failed: dead letter or retry.
    fn fail(&mut self, now: Instant, dice: u64) {
        let Some(held) = &mut self.held else { return };
        // All records marked and yet a failure: nothing is left to run again.
        let Some(first) = held.progress.first_pending() else { return };
        let first_offset = held.progress.offset(first);
        let ambiguous = held.split.is_some() && !held.collapsed;
        held.collapsed = true;
        let progressed = self.failed_at.is_some_and(|offset| offset != first_offset);
        self.failed_at = Some(first_offset);
        if let Some(policy) = self.policy.dead_letter {
            if policy.independent && progressed {
                self.attempt = 1;
            }
            if self.attempt > policy.max_retries && !ambiguous {
                self.redispatch = true;
                return;
            }
        } else if progressed {
            self.attempt = 1;
        }
        let delay = self.policy.retry.delay(self.attempt, dice);
        self.pauses.retry = Some(now + delay);
        self.outputs.push_back(Output::Retrying { attempt: self.attempt, offset: first_offset, delay });
    }

    /// Stages *after*, *filter*, *split* and *run*: goes on as far as it can.
    fn advance(&mut self, now: Instant) {
        self.deadline = None;
        if let Some(ending) = self.ending {
            let busy = matches!(self.state, State::Running(_) | State::Dispatching(_) | State::Ended);
            if !busy {
                self.state = State::Ended;
                self.held = None;
                self.outputs.push_back(Output::Ended(ending));
            }
            return;
        }
        if !matches!(self.state, State::Ready) {
            return;
        }
        if let Some(offset) = self.seek.take() {
            self.held = None;
            self.state = State::Idle;
            self.marked = -1;
            self.outputs.push_back(Output::Seek(offset));
            self.outputs.push_back(Output::Release);
            return;
        }
        let Some(held) = &self.held else { return };
        if held.progress.first_pending().is_none() {
            match self.policy.marks {
                // The end of the batch may lie beyond its last record, or the batch may hold none.
                Marks::Automatic => self.offer(held.progress.committable()),
                Marks::Manual => self.offer_progress(),
            }
            self.held = None;
            self.state = State::Idle;
            self.attempt = 0;
            self.outputs.push_back(Output::Release);
            return;
        }
        if let Some(until) = self.pauses.until(now) {
            self.deadline = Some(until);
            return;
        }
        if self.redispatch {
            self.dispatch();
        } else {
            self.run(now);
        }
    }

    fn dispatch(&mut self) {
        let (Some(held), Some(policy)) = (&self.held, self.policy.dead_letter) else { return };
        let Some(record) = held.progress.first_pending() else { return };
        self.state = State::Dispatching(record);
        let marks = policy.atomic && policy.mark_after_dispatch;
        let atomic = marks.then(|| held.progress.committable_with(record));
        self.outputs.push_back(Output::Dispatch { record, attempts: self.attempt, atomic });
    }

    fn run(&mut self, now: Instant) {
        let Some(held) = &self.held else { return };
        let mut records: Vec<u32> = held.progress.pending().take(self.policy.max_messages).collect();
        self.pauses.filter = None;
        for filter in &mut self.filters {
            let mut offsets = records.iter().map(|&record| held.progress.offset(record));
            if let Verdict::Cut { keep, until } = filter.apply(now, &mut offsets) {
                records.truncate(keep);
                if records.is_empty() {
                    self.pauses.filter = Some(until);
                    self.deadline = Some(until);
                    return;
                }
            }
        }
        self.attempt += 1;
        let mut lanes: Vec<Lane> = Vec::new();
        match &held.split {
            Some(split) if !held.collapsed => {
                let mut by_lane = std::collections::BTreeMap::<u32, Vec<u32>>::new();
                for record in records {
                    by_lane.entry(split[record as usize]).or_default().push(record);
                }
                for (id, records) in by_lane {
                    lanes.push(Lane { id, records: records.into(), marked: 0, outcome: None });
                }
            }
            _ => lanes.push(Lane { id: 0, records: records.into(), marked: 0, outcome: None }),
        }
        for lane in &lanes {
            self.outputs.push_back(Output::Run {
                lane: lane.id,
                records: lane.records.clone(),
                attempt: self.attempt,
            });
        }
        self.state = State::Running(lanes);
    }

    fn offer_progress(&mut self) {
        if let Some(held) = &self.held {
            let committable = held.progress.committable();
            // Nothing of this batch is marked: its first offset is no progress of ours.
            if committable > held.progress.first_offset() {
                self.offer(committable);
            }
        }
    }

    fn offer(&mut self, offset: i64) {
        if offset > self.marked && self.ending != Some(Ending::Lost) {
            self.marked = offset;
            self.outputs.push_back(Output::Mark(offset));
        }
    }
}

#[cfg(test)]
mod tests;
