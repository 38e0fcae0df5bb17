//! Machine: one partition from its assignment on, and everything that happens to a batch between its arrival and its release.
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
//! While it is idle, or ready and waits, other callbacks run (`initialized`, `eofed`, `tick`): `Running` with another kind
//! of job. A batch that comes meanwhile waits for them.
//!
//! At each step it asks the stages of the route's [policies](crate::app::policy): *split* (into which lanes), *admit* (what
//! may run now), *failed* (retry or dead letter), *advanced*. The tests' decision table has their combinations as rows.
//!
//! Invariants: at most one batch is held; jobs of one kind run at a time, and no lane runs twice at once; an offset is offered
//! for commit only when it and all before it are marked, by a running handler or in its last callback; after the end was
//! announced nothing new starts; what belongs to a position (attempts, a due dispatch, pauses, progress) ends with it.

mod calls;
mod failing;
mod output;
mod pauses;
mod stages;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::calls::Calls;
use self::failing::{Failing, Letter};
pub(crate) use self::output::{Callbacks, Outcome, Output, Rules};
use self::pauses::Pauses;
use self::stages::Stages;
use super::progress::{Contiguous, Progress};
use crate::app::error_history::ErrorHistory;
use crate::app::policy::{Decision, Ending, Failed, Failure, Marks};
use crate::app::snapshot::{JobKind, PauseCause};
use crate::consumer::RecordBatch;
use crate::types::{Timestamp, TopicName, Uuid};
use crate::{Error, deadline};

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
    Running(JobKind, Vec<Lane>),
    Dispatching(Letter),
    Ended,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Coordinator<P: Progress = Contiguous> {
    marks: Marks,
    max_messages: usize,
    stages: Stages,
    calls: Calls,
    state: State,
    /// A batch is being worked on: where nothing runs, the state is `Ready` and not `Idle`.
    loaded: bool,
    held: Option<RecordBatch>,
    /// The time of day when the batch came.
    came: Option<(Instant, Timestamp)>,
    progress: P,
    /// Where the records began that were handed out for the first time by the latest run.
    fresh_from: u32,
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
    outputs: VecDeque<Output<P::Done>>,
}

impl<P: Progress> Coordinator<P> {
    pub(crate) fn new(rules: Rules) -> Self {
        let Rules { marks, max_messages, stages, callbacks } = rules;
        Self {
            marks,
            max_messages,
            stages: Stages::new(stages, marks),
            calls: Calls::new(callbacks),
            state: State::Idle,
            loaded: false,
            held: None,
            came: None,
            progress: P::default(),
            fresh_from: 0,
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

    /// The partition was assigned: the first input, where callbacks are wanted that need no batch.
    pub(crate) fn handle_assigned(&mut self, now: Instant) {
        self.calls.assigned(now);
        self.advance(now);
    }

    /// A batch arrived, while `workers` handlers may run at once. The driver delivers the next one only after
    /// [`Output::Release`]. `wall` is the time of day, where [`reads_wall_clock`](Self::reads_wall_clock).
    pub(crate) fn handle_batch(
        &mut self,
        now: Instant,
        wall: Option<Timestamp>,
        batch: RecordBatch,
        workers: usize,
    ) {
        if self.ending.is_some() {
            return;
        }
        debug_assert!(!self.loaded, "one batch at a time");
        self.calls.set_at_end(false);
        let lanes = self.stages.split(&batch, workers, &mut self.outputs);
        let offsets = batch.iter().map(|record| record.offset.0).collect();
        self.progress.begin(offsets, batch.next_offset().0, lanes);
        self.held = Some(batch);
        self.came = wall.map(|wall| (now, wall));
        self.loaded = true;
        self.stand();
        self.advance(now);
    }

    /// Everything up to the end of the partition was handed out.
    pub(crate) fn handle_partition_end(&mut self, now: Instant) {
        self.calls.set_at_end(true);
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

    /// A handler failed of this; that it ended comes next. Events and dead letters know the error by `trace_id`.
    pub(crate) fn handle_error(&mut self, error: Error, trace_id: Uuid) {
        self.failing.errors.push(error, trace_id);
    }

    /// The handler of `lane` ended, whichever callback it ran. `dice` is any random number, for the jitter of a retry.
    pub(crate) fn handle_finished(&mut self, now: Instant, lane: u32, outcome: Outcome, dice: u64) {
        if let Some(lane) = self.running(lane) {
            lane.outcome = Some(outcome);
        }
        let State::Running(kind, lanes) = &mut self.state else { return };
        if lanes.iter().all(|lane| lane.outcome.is_some()) {
            let (kind, lanes) = (*kind, std::mem::take(lanes));
            self.state = State::Idle;
            self.stand();
            self.calls.rest(now);
            match kind {
                JobKind::Consume => self.outcome(now, &lanes, dice),
                // What else failed is reported, not repeated.
                _ => self.calls.ended(now, kind, &lanes, self.loaded),
            }
            self.advance(now);
        }
    }

    /// The dispatch asked for by [`Output::Dispatch`] ended.
    pub(crate) fn handle_dispatched(&mut self, now: Instant, written: bool, dice: u64) {
        let State::Dispatching(Letter { record, mark, atomic, .. }) = self.state else { return };
        self.state = State::Ready;
        self.calls.rest(now);
        if written {
            self.give_up(record, mark);
            if atomic {
                // The transaction carried the offset.
                self.progress.take_done();
            }
            self.offer();
        } else {
            self.failing.refused += 1;
        }
        self.back_off(now, dice);
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
        self.seek = Some(offset);
        self.advance(now);
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

    pub(crate) fn poll_output(&mut self) -> Option<Output<P::Done>> {
        let output = self.outputs.pop_front()?;
        if matches!(output, Output::Release) {
            self.held = None;
        }
        Some(output)
    }

    /// The batch that is worked on, until its [`Release`](Output::Release) is carried out.
    pub(crate) fn held(&self) -> Option<&RecordBatch> {
        self.held.as_ref()
    }

    /// True if the time of day makes a difference.
    pub(crate) fn reads_wall_clock(&self) -> bool {
        self.stages.read_wall_clock()
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

    /// What failed since something last succeeded, or was given up.
    pub(crate) fn errors(&self) -> &ErrorHistory {
        &self.failing.errors
    }

    /// The first record of a lane that its handler has left to be done.
    pub(crate) fn first_left(&self, lane: u32) -> Option<i64> {
        let State::Running(_, lanes) = &self.state else { return None };
        let lane = lanes.iter().find(|running| running.id == lane)?;
        let left = lane.records.iter().copied().filter(|&record| self.progress.is_pending(record));
        left.min().map(|record| self.progress.offset(record))
    }

    /// Why the partition goes away, once that was announced.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Where the letter that is on its way goes, if not to the topic of the route.
    pub(crate) fn letter_topic(&self) -> Option<&TopicName> {
        let State::Dispatching(letter) = &self.state else { return None };
        letter.to.as_ref()
    }

    /// True while the result of a dispatch is awaited.
    pub(crate) fn is_dispatching(&self) -> bool {
        matches!(self.state, State::Dispatching(_))
    }

    fn running(&mut self, lane: u32) -> Option<&mut Lane> {
        let State::Running(_, lanes) = &mut self.state else { return None };
        lanes.iter_mut().find(|running| running.id == lane)
    }

    /// Stage *outcome*: what the results of a run mean.
    fn outcome(&mut self, now: Instant, lanes: &[Lane], dice: u64) {
        for lane in lanes.iter().filter(|lane| !lane.interrupted) {
            match (lane.outcome, self.marks) {
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
        if lanes.iter().all(|lane| lane.outcome == Some(Outcome::NotBegun)) {
            // As if it had not been asked for: what failed before is not forgotten, and what is new may expire.
            self.progress.take_back(self.fresh_from);
            self.failing.attempt -= 1;
            self.failing.runs -= 1;
            self.detour = None;
            return;
        }
        let is_left = |lane: &Lane| matches!(lane.outcome, Some(Outcome::Failure | Outcome::NotBegun));
        if lanes.iter().any(|lane| lane.interrupted || is_left(lane)) {
            // What the handler wants takes precedence, and what failed is asked about again.
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
        let (policy, decision) = self.decide(Failed::Run, ambiguous, dice);
        let attempt = self.failing.attempt;
        match decision {
            Decision::Dispatch { mark, atomic, to } => {
                self.failing.letter = Some(Letter { record, mark, atomic, to })
            }
            Decision::Skip { mark } => {
                self.give_up(record, mark);
                self.outputs.push_back(Output::Skipped { policy, offsets: (offset, offset), records: 1 });
                self.back_off(now, dice);
            }
            Decision::Retry(delay) => {
                self.pauses.retry = Some(deadline::after(now, delay));
                self.outputs.push_back(Output::Retrying { attempt, offset, delay });
            }
            Decision::Stop => {
                // Until it has stopped.
                self.pauses.retry = Some(deadline::after(now, Duration::MAX));
                self.outputs.push_back(Output::Stop { policy, attempt, offset });
            }
            Decision::Next => {}
        }
    }

    /// What the stages want done about a failure, and which one wants it.
    fn decide(&mut self, what: Failed, ambiguous: bool, dice: u64) -> (&'static str, Decision) {
        let Failing { attempt, runs, refused, errors, .. } = &self.failing;
        let attempt = if what == Failed::Run { *attempt } else { *refused };
        let mut failure = Failure { what, attempt, runs: *runs, ambiguous, dice, errors };
        let decided = self.stages.decide(&mut failure, &mut self.outputs);
        if what == Failed::Run {
            self.failing.attempt = failure.attempt;
        }
        decided
    }

    /// The record left the partition, or is left behind.
    fn give_up(&mut self, record: u32, mark: bool) {
        self.failing = Failing::default();
        match mark {
            true => self.progress.mark_one(record),
            false => self.progress.left(record),
        }
    }

    /// Waits after a record was given up, or could not be.
    fn back_off(&mut self, now: Instant, dice: u64) {
        if let (_, Decision::Retry(pause)) = self.decide(Failed::Dispatch, false, dice) {
            self.pauses.retry = Some(deadline::after(now, pause));
        }
    }

    /// Where nothing runs.
    fn stand(&mut self) {
        if matches!(self.state, State::Idle | State::Ready) {
            self.state = if self.loaded { State::Ready } else { State::Idle };
        }
    }

    /// Goes on as far as it can.
    fn advance(&mut self, now: Instant) {
        self.deadline = None;
        if let Some(ending) = self.ending {
            let busy = matches!(self.state, State::Running(..) | State::Dispatching(_) | State::Ended);
            if !busy {
                self.state = State::Ended;
                self.outputs.push_back(Output::Ended(ending));
            }
            return;
        }
        if self.calls.initializes() && self.pauses.quiet.is_none() {
            self.call(JobKind::Initialized);
        }
        // Once more where the stages let nothing through of what they saw.
        while matches!(self.state, State::Idle | State::Ready) && self.deadline.is_none() {
            if let Some(offset) = self.seek.take().or(self.detour.take()) {
                self.go_on_at(offset);
            } else if !self.loaded {
                break;
            } else if self.progress.pending().next().is_none() {
                self.offer();
                self.progress.finish();
                self.release();
            } else if let Some((_, until)) = self.pauses.longest(now) {
                self.deadline = Some(until);
            } else if let Some(letter) = self.failing.letter.clone() {
                self.dispatch(letter);
            } else {
                self.run(now);
            }
        }
        self.call_what_is_due(now);
    }

    /// Where nothing runs: the callback that is due, or when one will be.
    fn call_what_is_due(&mut self, now: Instant) {
        if !matches!(self.state, State::Idle | State::Ready) {
            return;
        }
        let pause = self.pauses.longest(now);
        if self.calls.is_at_end() && !self.loaded {
            match pause {
                None => return self.call(JobKind::Eofed),
                Some((_, until)) => self.deadline = Some(until),
            }
        }
        let Some(tick_at) = self.calls.tick_at.filter(|_| self.pauses.quiet.is_none()) else { return };
        // A consumer that waits for its retry is left alone; other pauses stop nothing but records.
        let tick_at = tick_at.max(self.pauses.retry.unwrap_or(tick_at));
        match tick_at <= now {
            true => self.call(JobKind::Tick),
            false => self.deadline = Some(self.deadline.map_or(tick_at, |deadline| deadline.min(tick_at))),
        }
    }

    /// Runs a callback in all lanes that have a consumer.
    fn call(&mut self, kind: JobKind) {
        if !matches!(self.state, State::Idle | State::Ready) {
            return;
        }
        self.deadline = None;
        let lanes = self.calls.begin(kind);
        self.outputs.extend(lanes.iter().map(|&lane| Output::Call { kind, lane }));
        let lane = |id| Lane { id, records: Arc::default(), interrupted: false, outcome: None };
        self.state = State::Running(kind, lanes.into_iter().map(lane).collect());
    }

    /// Leaves the position, and what belongs to it.
    fn go_on_at(&mut self, offset: i64) {
        if self.loaded {
            self.offer();
        }
        self.detour = None;
        self.calls.set_at_end(false);
        self.progress.reset();
        self.pauses.leave_position();
        self.outputs.push_back(Output::Seek(offset));
        if self.loaded {
            self.release();
        }
    }

    /// The batch is done with, and so is what was known of its records.
    fn release(&mut self) {
        self.loaded = false;
        self.state = State::Idle;
        self.collapsed = false;
        self.failing = Failing::default();
        self.detour = None;
        self.outputs.push_back(Output::Release);
    }

    fn dispatch(&mut self, letter: Letter) {
        let Letter { record, mark, atomic, to } = letter.clone();
        self.state = State::Dispatching(letter);
        let atomic = (atomic && mark).then(|| self.progress.done_with(record));
        self.outputs.push_back(Output::Dispatch { record, attempts: self.failing.attempt, to, atomic });
    }

    /// Runs what the stages let through.
    fn run(&mut self, now: Instant) {
        let mut records: Vec<u32> = self.progress.pending().take(self.max_messages).collect();
        let Some(batch) = &self.held else { return };
        let wall = self.came.map_or(Timestamp(0), |(came, wall)| {
            Timestamp(wall.0.saturating_add(i64::try_from((now - came).as_millis()).unwrap_or(i64::MAX)))
        });
        let time = (now, wall);
        let admitted = self.stages.admit(time, batch, &mut records, &mut self.progress, &mut self.outputs);
        (self.detour, self.pauses.filter) = (admitted.seek, admitted.wait);
        if records.is_empty() {
            return;
        }
        self.failing.attempt += 1;
        self.failing.runs += 1;
        self.fresh_from = self.progress.started();
        let mut lanes = BTreeMap::<u32, Vec<u32>>::new();
        for record in records {
            let lane = if self.collapsed { 0 } else { self.progress.lane(record) };
            self.progress.start(record, lane);
            lanes.entry(lane).or_default().push(record);
        }
        lanes.keys().for_each(|&lane| self.calls.ran(lane));
        let lanes: Vec<Lane> = lanes
            .into_iter()
            .map(|(id, records)| Lane { id, records: records.into(), interrupted: false, outcome: None })
            .collect();
        for lane in &lanes {
            let (records, attempt) = (lane.records.clone(), self.failing.attempt);
            self.outputs.push_back(Output::Run { lane: lane.id, records, attempt });
        }
        self.state = State::Running(JobKind::Consume, lanes);
    }

    /// What is done may be committed.
    fn offer(&mut self) {
        if self.ending == Some(Ending::Lost) {
            return;
        }
        if let Some(done) = self.progress.take_done() {
            self.stages.advanced(P::end(&done), &mut self.outputs);
            self.outputs.push_back(Output::Mark(done));
        }
    }
}

#[cfg(test)]
mod tests;
