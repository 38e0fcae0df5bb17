//! The driver of one consumer group: polls the group's consumer, feeds the coordinators of its partitions, and carries
//! out what they decide. It never waits for a handler.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::coordinator::{Outcome, Output};
use super::health::{Health, Trouble};
use super::letter::Letter;
use super::partition::{PartitionState, Run};
use super::route::Route;
use super::run::{Finished, Job, Means, run};
use super::workers::Workers;
use crate::app::context::Context;
use crate::app::instrument::{Event, Monitor};
use crate::app::policy::Ending;
use crate::app::routing::GroupRoute;
use crate::app::settings::Settings;
use crate::app::stop::Stop;
use crate::client::{Client, ConditionEvent, ConditionEvents, ConditionKind, ConditionStage, Subject};
use crate::consumer::{Batch, Event as GroupEvent, GroupConsumer, Mark, Revocation};
use crate::deadline;
use crate::producer::Producer;
use crate::runtime::Runtime;
use crate::types::{GroupId, Offset, TopicName, TopicPartition};
use crate::{Error, ErrorKind, Result};

/// How often the marks of running handlers are collected and handlers are checked for being stuck.
const SWEEP: Duration = Duration::from_millis(500);
/// How long before the group takes partitions away they are given up here, so that their last marks are committed.
const MARGIN: Duration = Duration::from_secs(1);

/// What comes back from the tasks.
enum Report {
    Finished(Finished),
    Dispatched { partition: TopicPartition, record: u32, attempts: u32, result: Result<()> },
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
    pub(crate) stop: Stop,
}

pub(crate) struct GroupListener {
    group: GroupId,
    consumer: GroupConsumer,
    producer: Producer,
    runtime: Arc<dyn Runtime>,
    dice: fastrand::Rng,
    workers: Workers,
    health: Health,
    settings: Settings,
    monitor: Monitor,
    stop: Stop,
    routes: BTreeMap<TopicName, Arc<Route>>,
    partitions: BTreeMap<TopicPartition, PartitionState>,
    /// Deadlines of the coordinators.
    timers: BTreeSet<(Instant, TopicPartition)>,
    /// Revocations that wait for handlers, with the time at which the rest is lost.
    revocations: Vec<(Revocation, Instant)>,
    /// News of what concerns dead letter topics; the consumer tells what concerns the group's own.
    news: ConditionEvents,
    /// What lasts and concerns the group.
    conditions: BTreeMap<(Subject, ConditionKind), Trouble>,
    reports: UnboundedReceiver<Report>,
    reporter: UnboundedSender<Report>,
}

impl GroupListener {
    pub(crate) fn new(group: GroupRoute, shared: Shared) -> Result<Self> {
        let Shared { client, producer, workers, health, settings, monitor, stop } = shared;
        let topics: Vec<TopicName> = group.topics.iter().map(|route| route.topic.clone()).collect();
        let config = settings.consumer(&group.id, &group.consumer);
        let mut routes = BTreeMap::new();
        for route in group.topics {
            let topic = route.topic.clone();
            routes.extend(Route::new(route).map(|route| (topic, Arc::new(route))));
        }
        let news = client.condition_events();
        let consumer = client.group_consumer(group.id.clone()).config(config).topics(topics).build()?;
        let (reporter, reports) = unbounded_channel();
        let runtime = client.runtime();
        Ok(Self {
            group: group.id,
            consumer,
            producer,
            dice: runtime.dice(),
            runtime,
            workers,
            health,
            settings,
            monitor,
            stop,
            routes,
            partitions: BTreeMap::new(),
            timers: BTreeSet::new(),
            revocations: Vec::new(),
            news,
            conditions: BTreeMap::new(),
            reports,
            reporter,
        })
    }

    /// Consumes until the application stops, then finishes what runs and leaves the group. Returns what went wrong.
    pub(crate) async fn run(mut self) -> Vec<Error> {
        let stop = self.stop.clone();
        let mut stopping = pin!(stop.begun());
        let mut sweep = Instant::now() + SWEEP;
        let failed = loop {
            let next_timer = self.timers.first().map(|(deadline, _)| *deadline);
            let next_timer = next_timer.into_iter().chain(self.next_loss()).fold(sweep, Instant::min);
            tokio::select! {
                // A stop comes once. What ended goes before what begins; reports are bounded by the workers, so batches
                // get their turn.
                biased;
                () = &mut stopping => break None,
                Some(report) = self.reports.recv() => self.handle_report(report),
                late = self.runtime.sleep_until(next_timer) => {
                    if let Some(late) = late {
                        self.monitor.emit(&Event::Starved { group: &self.group, late });
                    }
                    let now = Instant::now();
                    self.handle_timers(now);
                    if now >= sweep {
                        self.sweep(now);
                        sweep = now + SWEEP;
                    }
                }
                Some(event) = self.news.next() => self.handle_news(&event),
                event = self.consumer.next() => match event {
                    Ok(event) => self.handle_event(event),
                    Err(error) => break Some(error),
                },
            }
            self.finish_revocations();
        };
        if let Some(error) = &failed {
            self.emit_error("connection.listener.fetch_loop.error", None, error);
            // One group that cannot go on ends the application, in order.
            stop.begin();
        }
        failed.into_iter().chain(self.finish().await).collect()
    }

    /// Lets running handlers finish, then commits and leaves the group. Returns what could not be done in time.
    async fn finish(mut self) -> Vec<Error> {
        let stop = self.stop.clone();
        for partition in self.partitions.keys().cloned().collect::<Vec<_>>() {
            self.end(&partition, Ending::Stopped);
        }
        let mut over = pin!(stop.handlers_over());
        loop {
            // Handlers of lost partitions work in vain: their records are others' by now, and their marks are refused.
            let in_vain =
                |state: &PartitionState| state.coordinator.ending() == Some(Ending::Lost) && !state.closing;
            self.partitions.retain(|_, state| !in_vain(state));
            if self.partitions.is_empty() {
                break;
            }
            let next_loss = self.next_loss();
            tokio::select! {
                biased; // A report that is there counts, even at the deadline.
                Some(report) = self.reports.recv() => self.handle_report(report),
                () = &mut over => break,
                () = sleep_until(next_loss.unwrap_or_else(Instant::now)), if next_loss.is_some() => {}
                // The consumer is polled on, so that rebalances find an answer; new batches stay where they are.
                Ok(event) = self.consumer.next() => if !matches!(event, GroupEvent::Batch(_)) {
                    self.handle_event(event);
                },
            }
            self.finish_revocations();
        }
        let mut errors = Vec::new();
        errors.extend(self.drop_handlers());
        let closed = tokio::select! {
            biased; // The consumer ends at the same deadline, and knows better what was not done.
            closed = self.consumer.close(stop.left()) => closed,
            () = stop.over() => {
                let text = format!("{} was not left in time", self.group);
                Err(Error::new(ErrorKind::Timeout, text))
            }
        };
        errors.extend(closed.err());
        for error in &errors {
            self.emit_error("app.stopping.error", None, error);
        }
        errors
    }

    /// Drops the handlers that have not returned; the marks that they made so far count. Returns an error if there were any.
    fn drop_handlers(&mut self) -> Option<Error> {
        let (mut blockers, mut running) = (Vec::new(), false);
        for partition in self.partitions.keys().cloned().collect::<Vec<_>>() {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            blockers.push(state.blocker(&partition));
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
            match self.producer.latest_failure() {
                Some(reason) => error.with_source(reason),
                None => error,
            }
        })
    }

    fn handle_event(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Batch(batch) => self.handle_batch(batch),
            GroupEvent::Assigned(partitions) => {
                self.monitor.emit(&Event::Assigned { group: &self.group, partitions: &partitions });
            }
            GroupEvent::Revoked(revocation) => {
                let partitions = revocation.partitions().to_vec();
                self.monitor.emit(&Event::Revoked { group: &self.group, partitions: &partitions });
                let lost_at = revocation.deadline().checked_sub(MARGIN).unwrap_or(revocation.deadline());
                let lost_at = lost_at.min(deadline::after(Instant::now(), self.settings.app.revoke_timeout));
                partitions.iter().for_each(|partition| self.end(partition, Ending::Revoked));
                self.revocations.push((revocation, lost_at));
            }
            GroupEvent::Lost(partitions) => {
                self.monitor.emit(&Event::Lost { group: &self.group, partitions: &partitions });
                partitions.iter().for_each(|partition| self.end(partition, Ending::Lost));
            }
            GroupEvent::PartitionFailed(failure) => {
                self.emit_error("connection.client.poll.error", Some(&failure.partition), &failure.error);
            }
            GroupEvent::PositionReset { partition, from, to, error } => {
                self.monitor.emit(&Event::PositionReset { partition: &partition, from, to, error: &error });
            }
            GroupEvent::FetchFailed { node: _, error } => {
                self.emit_error("connection.client.poll.error", None, &error);
            }
            // What became of its partitions is told next.
            GroupEvent::TopicRecreated { topic, old, new } => {
                self.monitor.emit(&Event::TopicRecreated { group: &self.group, topic: &topic, old, new });
            }
            GroupEvent::Condition(event) => self.handle_condition(&event),
            GroupEvent::CommitFailed { partition, offset: _, error } => {
                self.emit_error("offsets.commit.error", Some(&partition), &error);
            }
            // Only with a setting that is off.
            GroupEvent::PartitionEnd { .. } => {}
        }
    }

    /// Conditions of anybody: those of dead letter topics concern the group.
    fn handle_news(&mut self, event: &ConditionEvent) {
        let concerned = event.condition.subject.topic().is_some_and(|topic| {
            let ours = self.routes.values().any(|route| route.dead_letter_topic.as_ref() == Some(topic));
            ours && !self.routes.contains_key(topic)
        });
        if concerned {
            self.handle_condition(event);
        }
    }

    fn handle_condition(&mut self, event: &ConditionEvent) {
        let key = (event.condition.subject.clone(), event.condition.kind);
        match (event.stage, &key.0) {
            (ConditionStage::Ended, _) => drop(self.conditions.remove(&key)),
            // A restart mends no broker.
            (_, Subject::Cluster | Subject::Node(_)) => {}
            _ if key.1 == ConditionKind::Unreachable => {}
            _ => drop(self.conditions.entry(key).or_insert_with(|| self.health.trouble())),
        }
        self.monitor.emit(&Event::Condition { group: &self.group, event });
    }

    fn handle_batch(&mut self, batch: Batch) {
        let partition = batch.topic_partition().clone();
        let Some(route) = self.routes.get(&partition.topic) else { return };
        if let Some(state) =
            self.partitions.get_mut(&partition).filter(|state| state.coordinator.ending().is_some())
        {
            // The partition went and came back while a handler was running: its successor waits for it.
            state.successor = Some(batch);
            return;
        }
        let state = self
            .partitions
            .entry(partition.clone())
            .or_insert_with(|| PartitionState::new(route.clone(), batch.assignment()));
        let wall = state.coordinator.reads_wall_clock().then(|| self.runtime.timestamp());
        state.coordinator.handle_batch(Instant::now(), wall, batch, self.workers.size());
        self.carry_out(&partition);
    }

    fn handle_report(&mut self, report: Report) {
        match report {
            Report::Finished(finished) => self.handle_finished(finished),
            Report::Dispatched { partition, record, attempts, result } => {
                let written = result.is_ok();
                match result {
                    Ok(()) => self.emit_dead_lettered(&partition, record, attempts),
                    Err(error) => {
                        self.emit_error("dead_letter_queue.dispatch.error", Some(&partition), &error)
                    }
                }
                let dice = self.dice.u64(..);
                if let Some(state) = self.partitions.get_mut(&partition) {
                    state.undelivered = match state.undelivered.take() {
                        _ if written => None,
                        known => Some(known.unwrap_or_else(|| self.health.trouble())),
                    };
                    state.coordinator.handle_dispatched(Instant::now(), written, dice);
                    self.carry_out(&partition);
                }
            }
        }
    }

    fn handle_finished(&mut self, finished: Finished) {
        let Finished { partition, lane, consumer, error_context, result } = finished;
        let dice = self.dice.u64(..);
        let now = Instant::now();
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        let Some(run) = state.runs.remove(&lane) else { return };
        state.consumers.extend(consumer.map(|consumer| (lane, consumer)));
        if let Some(Err(error)) = &result {
            self.monitor.emit(&Event::Error { context: error_context, partition: Some(&partition), error });
        }
        if let Some(offset) = run.context.marked() {
            state.coordinator.handle_mark(lane, offset);
        }
        if state.closing {
            let last = state.runs.is_empty();
            self.carry_out(&partition);
            if last {
                self.remove(&partition);
            }
            return;
        }
        let outcome = match &result {
            None => Outcome::NotBegun,
            Some(Err(_)) => Outcome::Failure,
            Some(Ok(())) if run.context.only_marks_count() => Outcome::Marked,
            Some(Ok(())) => Outcome::Success,
        };
        if let Some(result) = &result {
            self.monitor.emit(&Event::Consumed {
                partition: &partition,
                lane,
                records: run.records,
                success: result.is_ok(),
                time: now - run.context.begun().unwrap_or(now),
            });
        }
        let (pause, seek) = run.context.take_requests();
        if let Some((offset, pause)) = pause {
            state.coordinator.handle_pause(now, lane, offset.map(|offset| offset.0), pause);
        }
        if let Some(offset) = seek {
            state.coordinator.handle_seek(lane, offset.0);
        }
        state.coordinator.handle_finished(now, lane, outcome, dice);
        self.carry_out(&partition);
    }

    fn handle_timers(&mut self, now: Instant) {
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
            if let Some(limit) = state.route.stuck_after {
                for (&lane, run) in &mut state.runs {
                    let Some(since) = run.context.running_since() else {
                        run.stuck = None;
                        continue;
                    };
                    let time = now - since;
                    if time >= limit && run.stuck.is_none() {
                        run.stuck = Some(self.health.trouble());
                        self.monitor.emit(&Event::Stuck { partition: &partition, lane, time });
                    }
                }
            }
            self.carry_out(&partition);
        }
    }

    /// Announces the end of a partition to its coordinator and its handlers.
    fn end(&mut self, partition: &TopicPartition, ending: Ending) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        state.end(Instant::now(), ending);
        self.carry_out(partition);
    }

    /// Does what the coordinator of the partition wants done, and sets its timer.
    fn carry_out(&mut self, partition: &TopicPartition) {
        while let Some(state) = self.partitions.get_mut(partition) {
            let Some(output) = state.coordinator.poll_output() else { break };
            match output {
                Output::Run { lane, records, attempt } => self.start(partition, lane, &records, attempt),
                Output::Mark(offset) => self.store(partition, offset),
                Output::Dispatch { record, attempts, .. } => self.dispatch(partition, record, attempts),
                Output::Retrying { attempt, offset, delay } => {
                    self.monitor.emit(&Event::Retrying { partition, offset: Offset(offset), attempt, delay });
                }
                Output::Skipped { policy, offsets: (first, last), records } => {
                    let (first, last) = (Offset(first), Offset(last));
                    self.monitor.emit(&Event::Skipped { partition, policy, first, last, records });
                }
                Output::Panicked(context, error) => self.emit_error(context, Some(partition), &error),
                Output::Seek(offset) => {
                    let to = Mark::new(partition.clone(), Offset(offset.max(0)));
                    if let Err(error) = self.consumer.seek_to(&to.of_assignment(state.assignment)) {
                        self.emit_error("consumer.consuming.seek.error", Some(partition), &error);
                    }
                }
                Output::Release => self.consumer.release(partition),
                Output::Ended(ending) => self.close(partition, ending),
            }
        }
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let deadline = state.coordinator.next_deadline();
        if deadline != state.timer {
            if let Some(old) = std::mem::replace(&mut state.timer, deadline) {
                self.timers.remove(&(old, partition.clone()));
            }
            self.timers.extend(deadline.map(|deadline| (deadline, partition.clone())));
        }
    }

    /// Starts the handler of a lane on some records of the held batch.
    fn start(&mut self, partition: &TopicPartition, lane: u32, records: &Arc<[u32]>, attempt: u32) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let Some(held) = state.coordinator.held() else { return };
        let batch = if records.len() == held.len() {
            held.clone()
        } else {
            held.select(records.iter().map(|&record| record as usize))
        };
        self.spawn(partition, lane, attempt, Job::Consume(batch));
    }

    fn spawn(&mut self, partition: &TopicPartition, lane: u32, attempt: u32, job: Job) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let consumer = state.consumers.remove(&lane);
        let context = Context::new(crate::app::context::Run {
            group: self.group.clone(),
            partition: partition.clone(),
            lane,
            attempt,
            marks: state.route.marks,
            producer: self.producer.clone(),
            runtime: self.runtime.clone(),
            ending: state.ending.subscribe(),
            state: std::sync::Mutex::default(),
            quiet: tokio::sync::Notify::new(),
        });
        let records = if let Job::Consume(batch) = &job { batch.len() } else { 0 };
        let reporter = self.reporter.clone();
        let means = Means {
            factory: state.route.factory.clone(),
            workers: self.workers.clone(),
            monitor: self.monitor.clone(),
            stop: self.stop.clone(),
        };
        let future = run(consumer, job, context.clone(), means);
        let task = self.runtime.spawn(
            "handler",
            Box::pin(async move {
                // The listener is gone when the application was dropped.
                let _ = reporter.send(Report::Finished(future.await));
            }),
        );
        let run = Run { context, records, stuck: None, _task: task.abort_on_drop() };
        state.runs.insert(lane, run);
    }

    /// Sends a record of the held batch to the dead letter topic.
    fn dispatch(&mut self, partition: &TopicPartition, record: u32, attempts: u32) {
        let Some(state) = self.partitions.get(partition) else { return };
        let (Some(held), Some(topic)) = (state.coordinator.held(), state.route.dead_letter_topic.clone())
        else {
            return;
        };
        let Some(message) = held.message(record as usize) else { return };
        let ending = state.ending.subscribe();
        let (producer, reporter) = (self.producer.clone(), self.reporter.clone());
        let letter =
            Letter { topic, message, source: partition.clone(), group: self.group.clone(), attempts };
        // The task needs neither the batch nor the listener; if the application is dropped, the record is sent again.
        self.runtime.spawn(
            "dead letter",
            Box::pin(async move {
                let result = letter.send(&producer, ending).await;
                let partition = letter.source;
                let _ = reporter.send(Report::Dispatched { partition, record, attempts, result });
            }),
        );
    }

    /// The coordinator ended: runs the last callback of every consumer.
    fn close(&mut self, partition: &TopicPartition, ending: Ending) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        state.closing = true;
        state.undelivered = None;
        let lanes: Vec<u32> = state.consumers.keys().copied().collect();
        if lanes.is_empty() {
            self.remove(partition);
        }
        for lane in lanes {
            let job = if ending == Ending::Stopped { Job::Shutdown } else { Job::Revoked };
            self.spawn(partition, lane, 1, job);
        }
    }

    fn remove(&mut self, partition: &TopicPartition) {
        let Some(state) = self.partitions.remove(partition) else { return };
        if let Some(deadline) = state.timer {
            self.timers.remove(&(deadline, partition.clone()));
        }
        if let Some(batch) = state.successor {
            self.handle_batch(batch);
        }
    }

    /// When the next revocation is given up.
    fn next_loss(&self) -> Option<Instant> {
        self.revocations.iter().map(|(_, lost_at)| *lost_at).min()
    }

    /// Hands over the partitions whose handlers are done, and gives up on those whose time is over.
    fn finish_revocations(&mut self) {
        if self.revocations.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut waiting = Vec::new();
        for (revocation, lost_at) in std::mem::take(&mut self.revocations) {
            let busy: Vec<TopicPartition> = revocation
                .partitions()
                .iter()
                .filter(|p| self.partitions.contains_key(*p))
                .cloned()
                .collect();
            if busy.is_empty() {
                revocation.done();
            } else if now < lost_at {
                waiting.push((revocation, lost_at));
            } else {
                // Marks made so far count, those that come later are refused; the handlers run on until they return.
                for partition in &busy {
                    self.partitions.get_mut(partition).into_iter().for_each(PartitionState::collect_marks);
                    self.carry_out(partition);
                }
                self.monitor.emit(&Event::Lost { group: &self.group, partitions: &busy });
                busy.iter().for_each(|partition| self.end(partition, Ending::Lost));
                revocation.done();
            }
        }
        self.revocations = waiting;
    }

    /// Hands an offset to the consumer for its next commit.
    fn store(&self, partition: &TopicPartition, offset: i64) {
        let Some(state) = self.partitions.get(partition) else { return };
        let mark = match state.coordinator.held() {
            Some(held) => held.mark_up_to(Offset(offset)),
            None => Mark::new(partition.clone(), Offset(offset)).of_assignment(state.assignment),
        };
        if let Err(error) = self.consumer.store(mark) {
            self.emit_error("consumer.mark.error", Some(partition), &error);
        }
    }

    fn emit_dead_lettered(&self, partition: &TopicPartition, record: u32, attempts: u32) {
        let Some(state) = self.partitions.get(partition) else { return };
        let (Some(held), Some(topic)) = (state.coordinator.held(), &state.route.dead_letter_topic) else {
            return;
        };
        let Some(message) = held.message(record as usize) else { return };
        self.monitor.emit(&Event::DeadLettered { partition, offset: message.offset(), topic, attempts });
    }

    fn emit_error(&self, context: &'static str, partition: Option<&TopicPartition>, error: &Error) {
        self.monitor.emit(&Event::Error { context, partition, error });
    }
}

impl std::fmt::Debug for GroupListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupListener").field("group", &self.group).finish_non_exhaustive()
    }
}
