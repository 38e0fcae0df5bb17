//! The driver of one source: polls it, feeds the machines of its partitions (their lives, their coordinators), and carries
//! out what they and the commands of the program want. It never waits for a handler.

mod commands;
mod effects;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::coordinator::Outcome;
use super::health::{Conditions, Health, Trouble};
use super::life::{self, Lives};
use super::partition::PartitionState;
use super::route::Route;
use super::run::Finished;
use super::workers::Workers;
use crate::app::command::{Command, Commands};
use crate::app::instrument::{Event, FailedRun, Monitor};
use crate::app::settings::Settings;
use crate::app::snapshot::{JobKind, PartitionPhase};
use crate::app::source::Source;
use crate::app::stop::Stop;
use crate::client::{Client, ConditionEvent, ConditionEvents, ConditionStage};
use crate::consumer::{ConsumerEvent as SourceEvent, RecordBatch, Revocation};
use crate::producer::Producer;
use crate::runtime::{Runtime, watch};
use crate::types::{GroupId, Offset, TopicName, TopicPartition, Uuid};
use crate::{Error, ErrorKind, Result};

/// How often the marks of running handlers are collected and handlers are checked for being stuck.
const SWEEP: Duration = Duration::from_millis(500);

/// What comes back from the tasks.
enum Report {
    Finished(Finished),
    Dispatched { partition: TopicPartition, record: u32, topic: TopicName, attempts: u32, result: Result<()> },
}

/// What came of a partition that has not begun yet.
enum Waiting {
    Batch(RecordBatch),
    End,
}

/// What the listeners of an application share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) producer: Producer,
    pub(crate) workers: Workers,
    pub(crate) health: Health,
    pub(crate) settings: Settings,
    pub(crate) monitor: Monitor,
}

/// What one listener is made of.
pub(crate) struct Parts {
    pub(crate) group: GroupId,
    pub(crate) source: Source,
    /// As they are at each moment.
    pub(crate) routes: watch::Receiver<BTreeMap<TopicName, Arc<Route>>>,
    pub(crate) stop: Stop,
    /// What was wrong with the group; over when it is joined.
    pub(crate) trouble: Option<Trouble>,
}

/// How a listener ended.
pub(crate) struct End {
    /// The source failed: that is why it ended.
    pub(crate) failure: Option<Error>,
    /// What could not be done in order at the end.
    pub(crate) errors: Vec<Error>,
    /// The group assigned something, if only the news that there is nothing.
    pub(crate) joined: bool,
    /// What was wrong with the group at the beginning, if it was not joined.
    pub(crate) trouble: Option<Trouble>,
}

pub(crate) struct GroupListener {
    group: GroupId,
    source: Source,
    shared: Shared,
    runtime: Arc<dyn Runtime>,
    dice: fastrand::Rng,
    stop: Stop,
    /// Those that there are, and those that it had: what comes of a former one is handled.
    routes: BTreeMap<TopicName, Arc<Route>>,
    current_routes: watch::Receiver<BTreeMap<TopicName, Arc<Route>>>,
    /// What it subscribes to.
    topics: BTreeSet<TopicName>,
    /// There are topics with another route than partitions of them, which are given back first.
    replacing: bool,
    lives: Lives,
    /// Of every partition that has a life.
    partitions: BTreeMap<TopicPartition, PartitionState>,
    /// What came of partitions whose former handlers still run.
    waiting: BTreeMap<TopicPartition, Waiting>,
    /// Deadlines of the coordinators.
    timers: BTreeSet<(Instant, TopicPartition)>,
    revocations: BTreeMap<u64, Revocation>,
    latest_revocation: u64,
    /// News of what concerns dead letter topics; the source tells what concerns the group's own.
    news: ConditionEvents,
    conditions: Conditions,
    reports: UnboundedReceiver<Report>,
    reporter: UnboundedSender<Report>,
    commands: UnboundedReceiver<Command>,
    commander: Commands,
    quiet: bool,
    joined: bool,
    trouble: Option<Trouble>,
    /// Why it stopped the application.
    fatal: Vec<Error>,
}

impl GroupListener {
    pub(crate) fn new(parts: Parts, shared: Shared) -> Self {
        let Parts { group, source, routes: current_routes, stop, trouble } = parts;
        let routes = current_routes.borrow().clone();
        let (reporter, reports) = unbounded_channel();
        let (commander, commands) = unbounded_channel();
        let runtime = shared.client.runtime();
        Self {
            group,
            source,
            dice: runtime.dice(),
            runtime,
            stop,
            topics: routes.keys().cloned().collect(),
            replacing: false,
            routes,
            current_routes,
            lives: Lives::new(shared.settings.app.revoke_timeout),
            partitions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            timers: BTreeSet::new(),
            revocations: BTreeMap::new(),
            latest_revocation: 0,
            news: shared.client.condition_events(),
            conditions: Conditions::new(shared.health.clone()),
            shared,
            reports,
            reporter,
            commands,
            commander,
            quiet: false,
            joined: false,
            trouble,
            fatal: Vec::new(),
        }
    }

    /// Where its commands go.
    pub(crate) fn commands(&self) -> Commands {
        self.commander.clone()
    }

    /// Consumes until it is told to stop or the source fails, then finishes what runs and leaves the group.
    pub(crate) async fn run(mut self) -> End {
        let stop = self.stop.clone();
        let mut stopping = pin!(stop.begun());
        let mut sweep = Instant::now() + SWEEP;
        let failure = loop {
            self.carry_out_lives();
            let next_timer = self.timers.first().map(|(deadline, _)| *deadline);
            let next_timer =
                next_timer.into_iter().chain(self.lives.next_deadline()).fold(sweep, Instant::min);
            tokio::select! {
                // A stop comes once. What ended comes before what begins; reports are bounded by the workers and commands by
                // those who wait for their answers, so batches get their turn.
                biased;
                () = &mut stopping => break None,
                Some(report) = self.reports.recv() => self.on_report(report),
                late = self.runtime.sleep_until(next_timer) => {
                    if let Some(late) = late {
                        self.shared.monitor.emit(&Event::Starved { group: &self.group, late });
                    }
                    let now = Instant::now();
                    self.on_time(now);
                    if now >= sweep {
                        self.sweep(now);
                        sweep = now + SWEEP;
                    }
                }
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(event) = self.news.next() => self.on_news(&event),
                event = self.source.next() => match event {
                    Ok(event) => self.on_event(event),
                    Err(error) => break Some(error),
                },
            }
        };
        if let Some(error) = &failure {
            self.emit_error("connection.listener.fetch_loop.error", None, error);
            // Its handlers are told, and have the time of a stop to return.
            stop.begin();
        }
        let errors = self.finish().await;
        End { failure, errors, joined: self.joined, trouble: self.trouble.take() }
    }

    /// Lets running handlers finish, then commits and leaves the group. Returns what could not be done in time.
    async fn finish(&mut self) -> Vec<Error> {
        let stop = self.stop.clone();
        self.lives.handle_stop();
        self.carry_out_lives();
        let mut over = pin!(stop.handlers_over());
        while !self.lives.is_empty() {
            let next_loss = self.lives.next_deadline();
            tokio::select! {
                biased; // A report that is there counts, even at the deadline.
                Some(report) = self.reports.recv() => self.on_report(report),
                () = &mut over => break,
                () = sleep_until(next_loss.unwrap_or_else(Instant::now)), if next_loss.is_some() => {
                    self.lives.handle_timeout(Instant::now());
                }
                Some(command) = self.commands.recv() => self.on_late_command(command),
                // The source is polled on, so that rebalances find an answer; new batches stay where they are.
                Ok(event) = self.source.next() => if !matches!(event, SourceEvent::Batch(_)) {
                    self.on_event(event);
                },
            }
            self.carry_out_lives();
        }
        // What is told now comes too late.
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.on_late_command(command);
        }
        let mut errors = Vec::new();
        errors.extend(self.drop_handlers());
        let closed = tokio::select! {
            biased; // The source ends at the same deadline, and knows better what was not done.
            closed = self.source.close(stop.left()) => closed,
            () = stop.over() => {
                let text = format!("{} was not left in time", self.group);
                Err(Error::new(ErrorKind::Timeout, text))
            }
        };
        errors.extend(closed.err());
        for error in &errors {
            self.emit_error("app.stopping.error", None, error);
        }
        // Told where they happened.
        self.fatal.drain(..).chain(errors).collect()
    }

    /// Drops the handlers that have not returned; the marks that they made so far count. Returns an error if there were any.
    fn drop_handlers(&mut self) -> Option<Error> {
        let (mut blockers, mut running) = (Vec::new(), false);
        for partition in self.partitions.keys().cloned().collect::<Vec<_>>() {
            let closing = self.lives.phase(&partition) == Some(PartitionPhase::Closing);
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            blockers.push(state.blocker(&partition, closing));
            running |= state.is_running();
            state.runs.values().for_each(|run| run.context.close());
            state.collect_marks();
            self.carry_out(&partition);
        }
        // Dropping the runs drops the futures of their handlers.
        self.partitions.clear();
        (!blockers.is_empty()).then(|| {
            let cut_short = self.stop.was_cut_short();
            let what = if cut_short { "was ended before it could stop" } else { "could not stop in time" };
            let text = format!("group {} {what}: {}", self.group, blockers.join("; "));
            let error = Error::new(ErrorKind::Timeout, text);
            if running {
                return match cut_short {
                    true => error,
                    false => error.with_advice(
                        "return when Context::is_ending() turns true, or raise shutdown_timeout",
                    ),
                };
            }
            // All handlers have returned: whoever does not acknowledge what they produced is to blame.
            match self.shared.producer.latest_failure() {
                Some(reason) => error.with_source(reason),
                None => error,
            }
        })
    }

    fn on_event(&mut self, event: SourceEvent) {
        let monitor = &self.shared.monitor;
        match event {
            SourceEvent::Batch(batch) => self.on_batch(batch),
            SourceEvent::Assigned(partitions) => {
                (self.joined, self.trouble) = (true, None);
                monitor.emit(&Event::Assigned { group: &self.group, partitions: &partitions });
                partitions.into_iter().for_each(|partition| self.lives.handle_assigned(partition));
            }
            SourceEvent::Revoked(revocation) => {
                let partitions = revocation.partitions().to_vec();
                monitor.emit(&Event::Revoked { group: &self.group, partitions: &partitions });
                self.latest_revocation += 1;
                let (id, until) = (self.latest_revocation, revocation.deadline());
                self.revocations.insert(id, revocation);
                self.lives.handle_revoked(Instant::now(), id, &partitions, until);
            }
            SourceEvent::Lost(partitions) => {
                monitor.emit(&Event::Lost { group: &self.group, partitions: &partitions });
                self.lives.handle_lost(&partitions);
            }
            SourceEvent::PartitionFailed(failure) => {
                self.emit_error("connection.client.poll.error", Some(&failure.partition), &failure.error);
            }
            SourceEvent::PositionReset { partition, from, to, error } => {
                monitor.emit(&Event::PositionReset { partition: &partition, from, to, error: &error });
            }
            SourceEvent::FetchFailed { node: _, error } => {
                self.emit_error("connection.client.poll.error", None, &error);
            }
            // What became of its partitions is told next.
            SourceEvent::TopicRecreated { topic, old, new } => {
                monitor.emit(&Event::TopicRecreated { group: &self.group, topic: &topic, old, new });
            }
            SourceEvent::Condition(event) => self.on_condition(&event),
            SourceEvent::CommitFailed { partition, offset: _, error } => {
                self.emit_error("offsets.commit.error", Some(&partition), &error);
            }
            SourceEvent::PartitionEnd { partition, offset: _ } => self.on_partition_end(partition),
        }
    }

    /// Conditions of anybody: those of dead letter topics concern the group.
    fn on_news(&mut self, event: &ConditionEvent) {
        let concerned = event.condition.subject.topic().is_some_and(|topic| {
            concern(&self.current_routes.borrow(), topic) && !self.routes.contains_key(topic)
        });
        if concerned {
            self.on_condition(event);
        }
    }

    fn on_condition(&mut self, event: &ConditionEvent) {
        // What is wrong with a topic that was dropped is nobody's trouble; see `subscribe`.
        let is_gone = |topic: &TopicName| !concern(&self.current_routes.borrow(), topic);
        if event.stage == ConditionStage::Ended || !event.condition.subject.topic().is_some_and(is_gone) {
            self.conditions.handle(event);
        }
        self.shared.monitor.emit(&Event::Condition { group: &self.group, event });
    }

    fn on_batch(&mut self, batch: RecordBatch) {
        let partition = batch.topic_partition().clone();
        if self.lives.phase(&partition) != Some(PartitionPhase::Active) {
            // The partition went and came back while a handler was running: its successor waits for it.
            self.waiting.insert(partition, Waiting::Batch(batch));
            return;
        }
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        state.assignment = Some(batch.assignment());
        let wall = state.coordinator.reads_wall_clock().then(|| self.runtime.timestamp());
        state.coordinator.handle_batch(Instant::now(), wall, batch, self.shared.workers.size());
        self.carry_out(&partition);
    }

    fn on_partition_end(&mut self, partition: TopicPartition) {
        if self.lives.phase(&partition) != Some(PartitionPhase::Active) {
            self.waiting.insert(partition, Waiting::End);
            return;
        }
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        state.coordinator.handle_partition_end(Instant::now());
        self.carry_out(&partition);
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Finished(finished) => self.on_finished(finished),
            Report::Dispatched { partition, record, topic, attempts, result } => {
                let written = result.is_ok();
                self.emit_dispatched(&partition, record, (&topic, attempts), result);
                let dice = self.dice.u64(..);
                if let Some(state) = self.partitions.get_mut(&partition) {
                    state.undelivered = match state.undelivered.take() {
                        _ if written => None,
                        known => Some(known.unwrap_or_else(|| self.shared.health.trouble())),
                    };
                    state.coordinator.handle_dispatched(Instant::now(), written, dice);
                    self.carry_out(&partition);
                }
            }
        }
    }

    fn on_finished(&mut self, finished: Finished) {
        let Finished { partition, kind, lane, consumer, error_context, result } = finished;
        let dice = self.dice.u64(..);
        let now = Instant::now();
        let monitor = &self.shared.monitor;
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        let Some(run) = state.runs.remove(&(kind, lane)) else { return };
        state.consumers.extend(consumer.map(|consumer| (lane, consumer)));
        if let Some(offset) = run.context.marked() {
            state.coordinator.handle_mark(lane, offset);
        }
        if let Some(Err(error)) = &result {
            let trace_id = Uuid(self.dice.u128(..).to_be_bytes());
            let offset = state.coordinator.first_left(lane).map(Offset);
            let failed = Some(FailedRun { lane, offset, attempt: run.context.attempt(), trace_id });
            let (context, partition) = (error_context, Some(&partition));
            monitor.emit(&Event::Error { context, partition, run: failed, error });
            if kind == JobKind::Consume {
                state.coordinator.handle_error(error.clone(), trace_id);
            }
        }
        if self.lives.phase(&partition) == Some(PartitionPhase::Closing) {
            self.carry_out(&partition);
            self.lives.handle_last_call(&partition);
            return;
        }
        let outcome = match &result {
            None => Outcome::NotBegun,
            Some(Err(_)) => Outcome::Failure,
            Some(Ok(())) if run.context.only_marks_count() => Outcome::Marked,
            Some(Ok(())) => Outcome::Success,
        };
        if let Some(result) = &result {
            let (partition, success) = (&partition, result.is_ok());
            let (records, time) = (run.records, now - run.context.begun().unwrap_or(now));
            monitor.emit(&match kind {
                JobKind::Consume => Event::Consumed { partition, lane, records, success, time },
                kind => Event::Called { kind, partition, lane, success, time },
            });
        }
        let asked = run.context.take_requests();
        if let Some((offset, until)) = asked.pause {
            let left = until.saturating_duration_since(now);
            state.coordinator.handle_pause(now, lane, offset.map(|offset| offset.0), left);
        }
        if let Some(offset) = asked.seek {
            state.coordinator.handle_seek(lane, offset.0);
        }
        if let Some(offset) = asked.cut {
            state.coordinator.handle_cut(lane, offset.0);
        }
        state.coordinator.handle_finished(now, lane, outcome, dice);
        self.carry_out(&partition);
    }

    fn on_time(&mut self, now: Instant) {
        self.lives.handle_timeout(now);
        while let Some((deadline, partition)) = self.timers.pop_first() {
            if deadline > now {
                self.timers.insert((deadline, partition));
                break;
            }
            if let Some(state) = self.partitions.get_mut(&partition) {
                state.timer = None;
                state.coordinator.handle_timeout(now);
                self.carry_out(&partition);
            }
        }
    }

    /// Collects the marks of running handlers and reports those that are stuck.
    fn sweep(&mut self, now: Instant) {
        let running = |(_, state): &(&TopicPartition, &PartitionState)| !state.runs.is_empty();
        let busy: Vec<_> =
            self.partitions.iter().filter(running).map(|(partition, _)| partition.clone()).collect();
        for partition in busy {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            state.collect_marks();
            for (lane, time) in state.find_stuck(now, &self.shared.health) {
                self.shared.monitor.emit(&Event::Stuck { partition: &partition, lane, time });
            }
            self.carry_out(&partition);
        }
    }

    /// Does what the lives of the partitions want done.
    fn carry_out_lives(&mut self) {
        while let Some(output) = self.lives.poll_output() {
            match output {
                life::Output::Begin(partition) => self.begin(partition),
                life::Output::Collect(partition) => {
                    self.partitions.get_mut(&partition).into_iter().for_each(PartitionState::collect_marks);
                    self.carry_out(&partition);
                }
                life::Output::End(partition, ending) => {
                    self.waiting.remove(&partition);
                    if let Some(state) = self.partitions.get_mut(&partition) {
                        state.end(Instant::now(), ending);
                        self.carry_out(&partition);
                    }
                }
                life::Output::LastCalls(partition, ending) => self.last_calls(&partition, ending),
                life::Output::Remove(partition) => self.remove(&partition),
                life::Output::GivenUp(partitions) => {
                    self.shared.monitor.emit(&Event::Lost { group: &self.group, partitions: &partitions });
                }
                life::Output::HandBack(id) => {
                    self.revocations.remove(&id).into_iter().for_each(Revocation::done);
                }
            }
        }
    }

    fn begin(&mut self, partition: TopicPartition) {
        let Some(route) = self.routes.get(&partition.topic) else { return };
        let mut state = PartitionState::new(route.clone());
        if self.quiet {
            state.coordinator.handle_quiet(Instant::now(), true);
        }
        state.coordinator.handle_assigned(Instant::now());
        self.partitions.insert(partition.clone(), state);
        self.carry_out(&partition);
        match self.waiting.remove(&partition) {
            Some(Waiting::Batch(batch)) => self.on_batch(batch),
            Some(Waiting::End) => self.on_partition_end(partition),
            None => {}
        }
    }

    fn remove(&mut self, partition: &TopicPartition) {
        let Some(state) = self.partitions.remove(partition) else { return };
        if let Some(deadline) = state.timer {
            self.timers.remove(&(deadline, partition.clone()));
        }
        if self.replacing && !self.stop.has_begun() {
            self.subscribe();
        }
    }
}

/// True if these routes read the topic, or send dead letters to it.
fn concern(routes: &BTreeMap<TopicName, Arc<Route>>, topic: &TopicName) -> bool {
    let is_for_letters = |route: &Arc<Route>| route.dead_letter_topic() == Some(topic);
    routes.contains_key(topic) || routes.values().any(is_for_letters)
}

impl std::fmt::Debug for GroupListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupListener").field("group", &self.group).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "broker"))]
mod tests;
