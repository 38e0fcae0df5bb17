//! Machine: one partition, everything that happens to a batch between its arrival and its release.
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
//! all before it are marked, by a running handler or in its last callback; after the end was announced nothing new
//! starts; what belongs to a position (attempts, a dispatch that is due, pauses of retries, progress) ends with it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::progress::Progress;
use crate::backoff::Backoff;
use crate::deadline;

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
    /// The handler returned success, all that it produced is acknowledged, and all its records are done.
    Success,
    /// As success, but done is only what the handler marked: it marks itself, or returned because the end was announced.
    Marked,
    /// The handler or a delivery failed, or the handler panicked.
    Failure,
    /// The handler was not called: the end was announced while it waited for a worker.
    NotBegun,
}

/// Why a partition ends; ordered by how little may still be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// The application stops.
    Stopped,
    /// It goes to another member, which waits for our last commit.
    Revoked,
    /// It already belongs to somebody else: no marks, no retries, no dead letters any more.
    Lost,
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
    /// The handler paused or sought: it decides for itself what is done.
    interrupted: bool,
    outcome: Option<Outcome>,
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

/// What is known of the record that fails.
#[derive(Debug, Default)]
struct Failing {
    /// Runs since the last success, dispatch or (independent counting) progress.
    attempt: u32,
    /// Offset of the first record that the last run left to be done.
    offset: Option<i64>,
    /// Its retries are used up: it is dispatched, again if need be, without running the handler.
    dispatch: Option<u32>,
    /// Dispatches that failed.
    refused: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Coordinator {
    policy: Policy,
    filters: Vec<Box<dyn Filter>>,
    state: State,
    progress: Progress,
    /// A failure makes the rest of the batch run in one lane, so that retries and dead letters are unambiguous.
    collapsed: bool,
    failing: Failing,
    pauses: Pauses,
    deadline: Option<Instant>,
    /// Where the handler asked to continue.
    seek: Option<i64>,
    ending: Option<Ending>,
    outputs: VecDeque<Output>,
}

impl Coordinator {
    pub(crate) fn new(policy: Policy, filters: Vec<Box<dyn Filter>>) -> Self {
        Self {
            policy,
            filters,
            state: State::Idle,
            progress: Progress::default(),
            collapsed: false,
            failing: Failing::default(),
            pauses: Pauses::default(),
            deadline: None,
            seek: None,
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
        lanes: Option<Vec<u32>>,
    ) {
        if self.ending.is_some() {
            return;
        }
        debug_assert!(matches!(self.state, State::Idle), "one batch at a time");
        self.progress.begin(offsets, next_offset, lanes);
        self.state = State::Ready;
        self.advance(now);
    }

    /// A handler marked a record, in a run or in its last callback, and what it produced before that is acknowledged.
    /// Marks the earlier records of its lane as well, those of earlier batches included.
    pub(crate) fn handle_mark(&mut self, lane: u32, offset: i64) {
        if self.ending != Some(Ending::Lost) {
            self.progress.mark(lane, offset);
            self.offer();
        }
    }

    /// The handler of `lane` ended. `dice` is any random number, for the jitter of a retry.
    pub(crate) fn handle_finished(&mut self, now: Instant, lane: u32, outcome: Outcome, dice: u64) {
        if let Some(lane) = self.running(lane) {
            lane.outcome = Some(outcome);
        }
        let State::Running(lanes) = &mut self.state else { return };
        if lanes.iter().all(|lane| lane.outcome.is_some()) {
            let lanes = std::mem::take(lanes);
            self.state = State::Ready;
            self.outcome(now, &lanes, dice);
            self.advance(now);
        }
    }

    /// The dispatch asked for by [`Output::Dispatch`] ended.
    pub(crate) fn handle_dispatched(&mut self, now: Instant, written: bool, dice: u64) {
        let State::Dispatching(record) = self.state else { return };
        self.state = State::Ready;
        let Some(policy) = self.policy.dead_letter else { return };
        if written {
            self.failing = Failing::default();
            if policy.mark_after_dispatch {
                self.progress.mark_one(record);
            } else {
                self.progress.left(record);
            }
            if policy.atomic {
                // The transaction carried the offset.
                self.progress.take_committable();
            }
            self.offer();
        } else {
            self.failing.refused += 1;
        }
        let delay = self.policy.retry.delay(self.failing.refused, dice);
        self.pauses.retry = Some(deadline::after(now, delay));
        self.advance(now);
    }

    /// The handler of `lane` asked to stop for `pause`, and to see its records from `offset` on again. Where several lanes
    /// ask for it, the partition waits for all of them.
    pub(crate) fn handle_pause(&mut self, now: Instant, lane: u32, offset: Option<i64>, pause: Duration) {
        self.pauses.user = self.pauses.user.max(Some(deadline::after(now, pause)));
        if let Some(offset) = offset {
            self.progress.reopen(lane, offset);
        }
        if let Some(lane) = self.running(lane) {
            lane.interrupted = true;
        }
    }

    /// The handler of `lane` asked to continue at `offset` once it returns.
    pub(crate) fn handle_seek(&mut self, lane: u32, offset: i64) {
        self.seek = Some(offset);
        if let Some(lane) = self.running(lane) {
            lane.interrupted = true;
        }
    }

    /// The deadline passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The partition goes away. Running handlers may finish; nothing new starts.
    pub(crate) fn handle_end(&mut self, now: Instant, ending: Ending) {
        // A revocation that turns into a loss is a loss; nothing turns back.
        self.ending = self.ending.max(Some(ending));
        self.advance(now);
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Why the partition goes away, once that was announced.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// True while the result of a dispatch is awaited.
    pub(crate) fn is_dispatching(&self) -> bool {
        matches!(self.state, State::Dispatching(_))
    }

    fn running(&mut self, lane: u32) -> Option<&mut Lane> {
        let State::Running(lanes) = &mut self.state else { return None };
        lanes.iter_mut().find(|running| running.id == lane)
    }

    /// Stage *outcome*: what the results of a run mean.
    fn outcome(&mut self, now: Instant, lanes: &[Lane], dice: u64) {
        for lane in lanes.iter().filter(|lane| !lane.interrupted) {
            match (lane.outcome, self.policy.marks) {
                (Some(Outcome::Success), Marks::Automatic) => {
                    if let Some(&last) = lane.records.last() {
                        self.progress.mark(lane.id, self.progress.offset(last));
                    }
                }
                (Some(Outcome::Success | Outcome::Marked), _) => {
                    lane.records.iter().for_each(|&record| self.progress.handled(record));
                }
                _ => {}
            }
        }
        // The record that failed is one that its handler got: a failure after the last mark leaves nothing to run again.
        let failed = lanes.iter().filter(|lane| lane.outcome == Some(Outcome::Failure));
        let left = failed.flat_map(|lane| lane.records.iter().copied());
        match left.filter(|&record| self.progress.is_pending(record)).min() {
            Some(record) if self.seek.is_none() => self.fail(now, record, dice),
            _ => self.failing = Failing::default(),
        }
        self.offer();
    }

    /// A run failed at `record`: dead letter or retry.
    fn fail(&mut self, now: Instant, record: u32, dice: u64) {
        // The next owner of the partition runs it again: nothing is retried or dispatched here.
        if self.ending.is_some() {
            return;
        }
        let offset = self.progress.offset(record);
        let ambiguous = self.progress.is_split() && !self.collapsed;
        self.collapsed = true;
        let progressed = self.failing.offset.replace(offset).is_some_and(|before| before != offset);
        if progressed && self.policy.dead_letter.is_none_or(|policy| policy.independent) {
            self.failing.attempt = 1;
        }
        let attempt = self.failing.attempt;
        if self.policy.dead_letter.is_some_and(|policy| attempt > policy.max_retries) && !ambiguous {
            self.failing.dispatch = Some(record);
            return;
        }
        let delay = self.policy.retry.delay(attempt, dice);
        self.pauses.retry = Some(deadline::after(now, delay));
        self.outputs.push_back(Output::Retrying { attempt, offset, delay });
    }

    /// Stages *after*, *filter*, *split* and *run*: goes on as far as it can.
    fn advance(&mut self, now: Instant) {
        self.deadline = None;
        if let Some(ending) = self.ending {
            let busy = matches!(self.state, State::Running(_) | State::Dispatching(_) | State::Ended);
            if !busy {
                self.state = State::Ended;
                self.outputs.push_back(Output::Ended(ending));
            }
            return;
        }
        if !matches!(self.state, State::Ready) {
            return;
        }
        if let Some(offset) = self.seek.take() {
            self.progress.reset();
            self.pauses = Pauses { user: self.pauses.user, ..Pauses::default() };
            self.outputs.push_back(Output::Seek(offset));
            self.release();
            return;
        }
        if self.progress.pending().next().is_none() {
            self.offer();
            self.progress.finish();
            self.release();
            return;
        }
        if let Some(until) = self.pauses.until(now) {
            self.deadline = Some(until);
            return;
        }
        match self.failing.dispatch {
            Some(record) => self.dispatch(record),
            None => self.run(now),
        }
    }

    /// The batch is done with, and so is what was known of its records.
    fn release(&mut self) {
        self.state = State::Idle;
        self.collapsed = false;
        self.failing = Failing::default();
        self.outputs.push_back(Output::Release);
    }

    fn dispatch(&mut self, record: u32) {
        let Some(policy) = self.policy.dead_letter else { return };
        self.state = State::Dispatching(record);
        let marks = policy.atomic && policy.mark_after_dispatch;
        let atomic = marks.then(|| self.progress.committable_with(record));
        self.outputs.push_back(Output::Dispatch { record, attempts: self.failing.attempt, atomic });
    }

    fn run(&mut self, now: Instant) {
        let mut records: Vec<u32> = self.progress.pending().take(self.policy.max_messages).collect();
        self.pauses.filter = None;
        for filter in &mut self.filters {
            let mut offsets = records.iter().map(|&record| self.progress.offset(record));
            if let Verdict::Cut { keep, until } = filter.apply(now, &mut offsets) {
                records.truncate(keep);
                if records.is_empty() {
                    self.pauses.filter = Some(until);
                    self.deadline = Some(until);
                    return;
                }
            }
        }
        self.failing.attempt += 1;
        let mut lanes = BTreeMap::<u32, Vec<u32>>::new();
        for record in records {
            let lane = if self.collapsed { 0 } else { self.progress.lane(record) };
            self.progress.start(record, lane);
            lanes.entry(lane).or_default().push(record);
        }
        let lanes: Vec<Lane> = lanes
            .into_iter()
            .map(|(id, records)| Lane { id, records: records.into(), interrupted: false, outcome: None })
            .collect();
        for lane in &lanes {
            let (records, attempt) = (lane.records.clone(), self.failing.attempt);
            self.outputs.push_back(Output::Run { lane: lane.id, records, attempt });
        }
        self.state = State::Running(lanes);
    }

    /// What is done may be committed.
    fn offer(&mut self) {
        if self.ending != Some(Ending::Lost) {
            self.outputs.extend(self.progress.take_committable().map(Output::Mark));
        }
    }
}

#[cfg(test)]
mod tests;
