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
//! What happens at each step is asked of the stages of the route's policies (see [`policy`](crate::app::policy)): *split*
//! (into which lanes), *admit* (what may run now), *failed* (retry or dead letter), *advanced*. Their combinations are the
//! rows of the decision table in the tests.
//!
//! Invariants: at most one batch is held; no lane runs twice at once; an offset is offered for commit only when it and
//! all before it are marked, by a running handler or in its last callback; after the end was announced nothing new
//! starts; what belongs to a position (attempts, a dispatch that is due, pauses of retries, progress) ends with it.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::progress::Progress;
use crate::app::policy::{Admission, Decision, Ending, Failed, Failure, Marks, Stage, Verdict};
use crate::app::snapshot::PauseCause;
use crate::consumer::Batch;
use crate::types::Timestamp;
use crate::{Error, deadline};

/// The pause where no stage says how long it is.
const PAUSE: Duration = Duration::from_secs(1);

/// What a route asks of the machine of one partition.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) marks: Marks,
    /// Records handed to one run at most.
    pub(crate) max_messages: usize,
    /// In the order in which they are asked.
    pub(crate) stages: Vec<Box<dyn Stage>>,
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

/// What the driver has to do. Results of effects come back through `handle_*`.
#[derive(Debug)]
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
        #[cfg_attr(not(test), expect(dead_code, reason = "the driver has no transactions yet"))]
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
    /// Tell listeners that records were not handed to the handler, by this policy.
    Skipped {
        /// Name of the policy.
        policy: &'static str,
        /// Offset of the first and the last of them.
        offsets: (i64, i64),
        /// How many they are.
        records: usize,
    },
    /// Tell listeners that a stage panicked: context and error.
    Panicked(&'static str, Error),
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
    Dispatching(Letter),
    Ended,
}

/// A record that is to leave the partition.
#[derive(Clone, Copy, Debug)]
struct Letter {
    record: u32,
    /// It counts as consumed then.
    mark: bool,
    /// Dispatch and mark happen together or not at all.
    atomic: bool,
}

/// Reasons to wait; the latest deadline wins.
#[derive(Debug, Default)]
struct Pauses {
    user: Option<Instant>,
    retry: Option<Instant>,
    filter: Option<Instant>,
    command: Option<Instant>,
    quiet: Option<Instant>,
}

impl Pauses {
    fn longest(&self, now: Instant) -> Option<(PauseCause, Instant)> {
        let causes = [
            (PauseCause::Policy, self.filter),
            (PauseCause::Retry, self.retry),
            (PauseCause::Handler, self.user),
            (PauseCause::Command, self.command),
            (PauseCause::Quiet, self.quiet),
        ];
        let lasting = causes.into_iter().filter_map(|(cause, until)| Some((cause, until?)));
        lasting.filter(|(_, until)| *until > now).max_by_key(|(_, until)| *until)
    }

    /// What belongs to a position ends with it.
    fn leave_position(&mut self) {
        (self.retry, self.filter) = (None, None);
    }
}

/// What is known of the record that fails.
#[derive(Debug, Default)]
struct Failing {
    /// How often it ran, as its policies count.
    attempt: u32,
    /// Runs since the last success or dispatch.
    runs: u32,
    /// Offset of the first record that the last run left to be done.
    offset: Option<i64>,
    /// Its retries are used up: it is dispatched, again if need be, without running the handler.
    letter: Option<Letter>,
    /// Dispatches that failed.
    refused: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Coordinator {
    rules: Rules,
    state: State,
    held: Option<Batch>,
    /// The time of day when the batch came.
    came: Option<(Instant, Timestamp)>,
    progress: Progress,
    /// A failure makes the rest of the batch run in one lane, so that retries and dead letters are unambiguous.
    collapsed: bool,
    failing: Failing,
    pauses: Pauses,
    deadline: Option<Instant>,
    /// Where the handler asked to continue.
    seek: Option<i64>,
    /// Where a stage asked to continue behind what it let through.
    detour: Option<i64>,
    ending: Option<Ending>,
    outputs: VecDeque<Output>,
}

impl Coordinator {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: State::Idle,
            held: None,
            came: None,
            progress: Progress::default(),
            collapsed: false,
            failing: Failing::default(),
            pauses: Pauses::default(),
            deadline: None,
            seek: None,
            detour: None,
            ending: None,
            outputs: VecDeque::new(),
        }
    }

    /// A batch arrived, while `workers` handlers may run at once. The driver delivers the next one only after
    /// [`Output::Release`]. `wall` is the time of day, where [`reads_wall_clock`](Self::reads_wall_clock).
    pub(crate) fn handle_batch(
        &mut self,
        now: Instant,
        wall: Option<Timestamp>,
        batch: Batch,
        workers: usize,
    ) {
        if self.ending.is_some() {
            return;
        }
        debug_assert!(matches!(self.state, State::Idle), "one batch at a time");
        let lanes = self.ask(|stage| stage.split(&batch, workers));
        let offsets = batch.iter().map(|record| record.offset).collect();
        self.progress.begin(offsets, batch.next_offset().0, lanes);
        self.held = Some(batch);
        self.came = wall.map(|wall| (now, wall));
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
        let State::Dispatching(letter) = self.state else { return };
        self.state = State::Ready;
        if written {
            self.failing = Failing::default();
            match letter.mark {
                true => self.progress.mark_one(letter.record),
                false => self.progress.left(letter.record),
            }
            if letter.atomic {
                // The transaction carried the offset.
                self.progress.take_committable();
            }
            self.offer();
        } else {
            self.failing.refused += 1;
        }
        let (attempt, runs) = (self.failing.refused, self.failing.runs);
        let mut failure = Failure { what: Failed::Dispatch, attempt, runs, ambiguous: false, dice };
        if let Decision::Retry(pause) = self.decide(&mut failure) {
            self.pauses.retry = Some(deadline::after(now, pause));
        }
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

    /// The handler of `lane` was told to stop and has done its records up to `offset`.
    pub(crate) fn handle_cut(&mut self, lane: u32, offset: i64) {
        let Some(lane) = self.running(lane) else { return };
        lane.interrupted = true;
        let records = lane.records.clone();
        let done = records.iter().filter(|&&record| self.progress.offset(record) <= offset);
        let done: Vec<u32> = done.copied().collect();
        done.into_iter().for_each(|record| self.progress.handled(record));
    }

    /// The program stops the partition until then; it replaces what it said before.
    pub(crate) fn handle_command_pause(&mut self, now: Instant, until: Instant) {
        self.pauses.command = Some(until);
        self.advance(now);
    }

    /// The pauses of handlers and of the program are over.
    pub(crate) fn handle_resume(&mut self, now: Instant) {
        (self.pauses.user, self.pauses.command) = (None, None);
        self.advance(now);
    }

    /// Nothing begins any more, or no longer so.
    pub(crate) fn handle_quiet(&mut self, now: Instant, on: bool) {
        self.pauses.quiet = on.then(|| deadline::after(now, Duration::MAX));
        self.advance(now);
    }

    /// The program wants to continue at `offset`: once what runs has returned.
    pub(crate) fn handle_command_seek(&mut self, now: Instant, offset: i64) {
        match self.state {
            State::Idle => {
                self.detour = None;
                self.progress.reset();
                self.pauses.leave_position();
                self.outputs.push_back(Output::Seek(offset));
            }
            State::Ended => {}
            _ => {
                self.seek = Some(offset);
                self.advance(now);
            }
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
        let output = self.outputs.pop_front()?;
        if matches!(output, Output::Release) {
            self.held = None;
        }
        Some(output)
    }

    /// The batch that is worked on, until its [`Release`](Output::Release) is carried out.
    pub(crate) fn held(&self) -> Option<&Batch> {
        self.held.as_ref()
    }

    /// True if the time of day makes a difference.
    pub(crate) fn reads_wall_clock(&self) -> bool {
        self.rules.stages.iter().any(|stage| stage.reads_wall_clock())
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What keeps the partition from going on, of several what lasts longest, and until when.
    pub(crate) fn pause(&self, now: Instant) -> Option<(PauseCause, Instant)> {
        self.pauses.longest(now)
    }

    /// How often the records that are next have been run.
    pub(crate) fn attempt(&self) -> u32 {
        self.failing.attempt
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
            match (lane.outcome, self.rules.marks) {
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
        if lanes.iter().any(|lane| lane.interrupted || lane.outcome == Some(Outcome::Failure)) {
            // What the handler wants goes before, and what failed is asked about again.
            self.detour = None;
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
        if self.failing.offset.replace(offset).is_some_and(|before| before != offset) {
            self.failing.attempt = 1;
        }
        let (attempt, runs) = (self.failing.attempt, self.failing.runs);
        let mut failure = Failure { what: Failed::Run, attempt, runs, ambiguous, dice };
        let decision = self.decide(&mut failure);
        self.failing.attempt = failure.attempt;
        match decision {
            Decision::Dispatch { mark, atomic } => {
                self.failing.letter = Some(Letter { record, mark, atomic })
            }
            Decision::Retry(delay) => {
                self.pauses.retry = Some(deadline::after(now, delay));
                self.outputs.push_back(Output::Retrying { attempt: failure.attempt, offset, delay });
            }
            Decision::Next => {}
        }
    }

    /// What the first stage that has an answer wants done about a failure.
    fn decide(&mut self, failure: &mut Failure) -> Decision {
        let decision =
            self.ask(|stage| Some(stage.failed(failure)).filter(|answer| *answer != Decision::Next));
        decision.unwrap_or(Decision::Retry(PAUSE))
    }

    /// The first answer of a stage. One that panics has none.
    fn ask<T>(&mut self, mut question: impl FnMut(&mut dyn Stage) -> Option<T>) -> Option<T> {
        self.rules
            .stages
            .iter_mut()
            .find_map(|stage| contained(stage.as_mut(), &mut self.outputs, &mut question).flatten())
    }

    /// Goes on as far as it can.
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
        // Once more where the stages let nothing through of what they saw.
        while matches!(self.state, State::Ready) && self.deadline.is_none() {
            if let Some(offset) = self.seek.take().or(self.detour.take()) {
                self.offer();
                self.progress.reset();
                self.pauses.leave_position();
                self.outputs.push_back(Output::Seek(offset));
                self.release();
            } else if self.progress.pending().next().is_none() {
                self.offer();
                self.progress.finish();
                self.release();
            } else if let Some((_, until)) = self.pauses.longest(now) {
                self.deadline = Some(until);
            } else if let Some(letter) = self.failing.letter {
                self.dispatch(letter);
            } else {
                self.run(now);
            }
        }
    }

    /// The batch is done with, and so is what was known of its records.
    fn release(&mut self) {
        self.state = State::Idle;
        self.collapsed = false;
        self.failing = Failing::default();
        self.detour = None;
        self.outputs.push_back(Output::Release);
    }

    fn dispatch(&mut self, letter: Letter) {
        self.state = State::Dispatching(letter);
        let Letter { record, mark, atomic } = letter;
        let atomic = (atomic && mark).then(|| self.progress.committable_with(record));
        self.outputs.push_back(Output::Dispatch { record, attempts: self.failing.attempt, atomic });
    }

    /// Runs what the stages let through.
    fn run(&mut self, now: Instant) {
        let mut records: Vec<u32> = self.progress.pending().take(self.rules.max_messages).collect();
        self.admit(now, &mut records);
        if records.is_empty() {
            return;
        }
        self.failing.attempt += 1;
        self.failing.runs += 1;
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

    /// Asks the stages which of the records may run now.
    fn admit(&mut self, now: Instant, records: &mut Vec<u32>) {
        self.pauses.filter = None;
        self.detour = None;
        let Some(batch) = &self.held else { return };
        let wall = self.came.map_or(Timestamp(0), |(came, wall)| {
            Timestamp(wall.0.saturating_add(i64::try_from((now - came).as_millis()).unwrap_or(i64::MAX)))
        });
        let (mut wait, mut pause, mut seek) = (None, None, None);
        for stage in &mut self.rules.stages {
            let mut admission = Admission::new((now, wall), batch, records, self.progress.started());
            if contained(stage.as_mut(), &mut self.outputs, |stage| stage.admit(&mut admission)).is_none() {
                continue;
            }
            let decided = admission.decided;
            if let Some((keep, until)) = decided.cut {
                records.truncate(keep);
                wait = wait.max(Some(until));
            }
            for &(record, verdict) in &decided.skipped {
                match verdict == Verdict::Consumed || self.rules.marks == Marks::Automatic {
                    true => self.progress.mark_one(record),
                    false => self.progress.left(record),
                }
                tell_skipped(&mut self.outputs, stage.policy(), self.progress.offset(record));
            }
            if !decided.skipped.is_empty() {
                records.retain(|&record| self.progress.is_pending(record));
            }
            pause = pause.max(decided.pause);
            seek = seek.into_iter().chain(decided.seek).min();
            if records.is_empty() {
                break;
            }
        }
        // A pause goes before a seek, and is for what comes behind the records that run.
        self.detour = seek.filter(|_| pause.is_none());
        self.pauses.filter = if records.is_empty() { wait.max(pause) } else { pause };
    }

    /// What is done may be committed.
    fn offer(&mut self) {
        if self.ending == Some(Ending::Lost) {
            return;
        }
        if let Some(offset) = self.progress.take_committable() {
            for stage in &mut self.rules.stages {
                let _ = contained(stage.as_mut(), &mut self.outputs, |stage| stage.advanced(offset));
            }
            self.outputs.push_back(Output::Mark(offset));
        }
    }
}

/// Calls a stage; `None`, and an output that tells of it, if it panics.
fn contained<T>(
    stage: &mut dyn Stage,
    outputs: &mut VecDeque<Output>,
    call: impl FnOnce(&mut dyn Stage) -> T,
) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(|| call(stage))) {
        Ok(answer) => Some(answer),
        Err(_) => {
            let (context, error) = stage.panicked();
            outputs.push_back(Output::Panicked(context, error));
            None
        }
    }
}

/// Adds a record to those that listeners will be told of.
fn tell_skipped(outputs: &mut VecDeque<Output>, by: &'static str, offset: i64) {
    match outputs.back_mut() {
        Some(Output::Skipped { policy, offsets, records }) if *policy == by => {
            offsets.1 = offset;
            *records += 1;
        }
        _ => outputs.push_back(Output::Skipped { policy: by, offsets: (offset, offset), records: 1 }),
    }
}

#[cfg(test)]
mod tests;
