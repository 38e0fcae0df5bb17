//! The driver of one consumer group: polls the group's consumer, feeds the coordinators of its partitions, and carries
//! out what they decide. It decides nothing itself and never waits for a handler.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::coordinator::{Ending, Outcome, Output};
use super::health::Health;
use super::partition::{PartitionState, Run};
use super::route::Route;
use super::run::{Finished, Job, run};
use super::workers::Workers;
use crate::app::Settings;
use crate::app::context::Context;
use crate::app::instrument::{Event, Monitor};
use crate::app::routing::GroupRoute;
use crate::client::Client;
use crate::consumer::{
    Batch, ConsumerConfig, Event as GroupEvent, GroupConsumer, Mark, Revocation, StartOffset,
};
use crate::producer::{Producer, Record};
use crate::runtime::Runtime;
use crate::runtime::watch;
use crate::types::{GroupId, Offset, Partition, TopicName, TopicPartition};
use crate::{Error, Result};

/// How often the marks of running handlers are collected and handlers are checked for being stuck.
const SWEEP: Duration = Duration::from_millis(500);

/// What comes back from the tasks.
enum Report {
    Finished(Finished),
    Dispatched { partition: TopicPartition, record: u32, attempts: u32, result: Result<()> },
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
    routes: BTreeMap<TopicName, Arc<Route>>,
    partitions: BTreeMap<TopicPartition, PartitionState>,
    /// Deadlines of the coordinators.
    timers: BTreeSet<(Instant, TopicPartition)>,
    /// Revocations that wait for handlers, with the time at which the rest is lost.
    revocations: Vec<(Revocation, Instant)>,
    reports: UnboundedReceiver<Report>,
    reporter: UnboundedSender<Report>,
}

impl GroupListener {
    pub(crate) fn new(
        group: GroupRoute,
        client: &Client,
        producer: Producer,
        workers: Workers,
        health: Health,
        settings: Settings,
        monitor: Monitor,
    ) -> Result<Self> {
        let topics: Vec<TopicName> = group.topics.iter().map(|route| route.topic.clone()).collect();
        let mut routes = BTreeMap::new();
        for route in group.topics {
            let topic = route.topic.clone();
            routes.extend(Route::new(route).map(|route| (topic, Arc::new(route))));
        }
        // The coordinators say what is done and when the next batch may come.
        let config = ConsumerConfig::new().hold_after_delivery(true).auto_store(false);
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
            routes,
            partitions: BTreeMap::new(),
            timers: BTreeSet::new(),
            revocations: Vec::new(),
            reports,
            reporter,
        })
    }

    /// Consumes until `stop` turns true, then finishes what runs and leaves the group.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<()> {
        let mut sweep = Instant::now() + SWEEP;
        let outcome = loop {
            let next_timer = self.timers.first().map_or(sweep, |(deadline, _)| sweep.min(*deadline));
            tokio::select! {
                // What ended goes before what begins; reports are bounded by the workers, so batches get their turn.
                biased;
                Some(report) = self.reports.recv() => self.handle_report(report),
                _ = stop.wait_for(|&stop| stop) => break Ok(()),
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
                event = self.consumer.next() => match event {
                    Ok(event) => self.handle_event(event),
                    Err(error) => break Err(error),
                },
            }
            self.finish_revocations().await;
        };
        if let Err(error) = &outcome {
            self.emit_error("connection.listener.fetch_loop.error", None, error);
        }
        let stopped = self.stop().await;
        outcome.and(stopped)
    }

    /// Lets running handlers finish, then commits and leaves the group.
    async fn stop(mut self) -> Result<()> {
        let deadline = Instant::now() + self.settings.shutdown_timeout;
        for partition in self.partitions.keys().cloned().collect::<Vec<_>>() {
            self.end(&partition, Ending::Stopped);
        }
        while !self.partitions.is_empty() {
            tokio::select! {
                biased; // A report that is there counts, even at the deadline.
                Some(report) = self.reports.recv() => self.handle_report(report),
                () = sleep_until(deadline) => break,
                // The consumer is polled on, so that rebalances find an answer; new batches stay where they are.
                Ok(event) = self.consumer.next() => if !matches!(event, GroupEvent::Batch(_)) {
                    self.handle_event(event);
                },
            }
            self.finish_revocations().await;
        }
        let forced: Vec<String> = self.partitions.keys().map(ToString::to_string).collect();
        // Dropping the runs drops the futures of their handlers.
        self.partitions.clear();
        let closed = self.consumer.close(self.settings.shutdown_timeout).await;
        if forced.is_empty() {
            return closed;
        }
        let error = Error::new(
            crate::ErrorKind::Timeout,
            format!(
                "handlers of {} did not return within the shutdown timeout and were dropped",
                forced.join(", ")
            ),
        )
        .hint("return when Context::is_ending() turns true, or raise shutdown_timeout");
        self.monitor.emit(&Event::Error { context: "app.stopping.error", partition: None, error: &error });
        Err(error)
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
                let lost_at = revocation.deadline().min(Instant::now() + self.settings.revoke_timeout);
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
            GroupEvent::PositionReset { partition, error, .. } => {
                self.emit_error("connection.client.position.reset", Some(&partition), &error);
            }
            GroupEvent::FetchFailed { node: _, error } => {
                self.emit_error("connection.client.poll.error", None, &error);
            }
            // What became of its partitions is told next.
            GroupEvent::TopicRecreated { topic, old, new } => {
                self.monitor.emit(&Event::TopicRecreated { group: &self.group, topic: &topic, old, new });
            }
            GroupEvent::Condition(event) => {
                self.monitor.emit(&Event::Condition { group: &self.group, event: &event });
            }
            GroupEvent::CommitFailed { partition, offset: _, error } => {
                self.emit_error("offsets.commit.error", Some(&partition), &error);
            }
            // Only with a setting that is off.
            GroupEvent::PartitionEnd { .. } => {}
        }
    }

    fn handle_batch(&mut self, batch: Batch) {
        let partition = batch.topic_partition().clone();
        let Some(route) = self.routes.get(&partition.topic) else { return };
        if let Some(state) = self.partitions.get_mut(&partition).filter(|state| state.coordinator.is_ending())
        {
            // The partition went and came back while a handler was running: its successor waits for it.
            state.successor = Some(batch);
            return;
        }
        let split = route.split(&batch, &self.workers).unwrap_or_else(|error| {
            let context = "virtual_partitions.partitioner.error";
            self.monitor.emit(&Event::Error { context, partition: Some(&partition), error: &error });
            None
        });
        let state = self
            .partitions
            .entry(partition.clone())
            .or_insert_with(|| PartitionState::new(route.clone(), batch.assignment()));
        let offsets = batch.iter().map(|record| record.offset).collect();
        let next_offset = batch.next_offset().0;
        state.held = Some(batch);
        state.coordinator.handle_batch(Instant::now(), offsets, next_offset, split);
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
                    state.coordinator.handle_dispatched(Instant::now(), written, dice);
                    self.carry_out(&partition);
                }
            }
        }
    }

    fn handle_finished(&mut self, finished: Finished) {
        let Finished { partition, lane, handler, error_context, result } = finished;
        let dice = self.dice.u64(..);
        let now = Instant::now();
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        let Some(run) = state.runs.remove(&lane) else { return };
        state.handlers.extend(handler.map(|handler| (lane, handler)));
        let success = result.is_ok();
        if let Err(error) = &result {
            self.monitor.emit(&Event::Error { context: error_context, partition: Some(&partition), error });
        }
        let marked = run.context.marked();
        if let Some(ending) = state.closing {
            let last = state.runs.is_empty();
            // One of the last callbacks: its marks count if the partition is still ours.
            if let Some(offset) = marked.filter(|_| ending != Ending::Lost) {
                self.store(&partition, offset + 1);
            }
            if last {
                self.remove(&partition);
            }
            return;
        }
        self.monitor.emit(&Event::Consumed {
            partition: &partition,
            lane,
            records: run.records,
            success,
            time: now - run.context.begun().unwrap_or(now),
        });
        if let Some(offset) = marked {
            state.coordinator.handle_mark(lane, offset);
        }
        let (pause, seek) = run.context.take_requests();
        if let Some((offset, pause)) = pause {
            state.coordinator.handle_pause(now, offset.map(|offset| offset.0), pause);
        }
        if let Some(offset) = seek {
            state.coordinator.handle_seek(offset.0);
        }
        let outcome = if success { Outcome::Success } else { Outcome::Failure };
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
                        run.stuck = Some(self.health.stuck());
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
        state.successor = None;
        state.ending.send_replace(Some(ending));
        state.coordinator.handle_end(Instant::now(), ending);
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
                Output::Seek(offset) => {
                    if let Err(error) = self.consumer.seek(partition, StartOffset::At(Offset(offset))) {
                        self.emit_error("consumer.consuming.seek.error", Some(partition), &error);
                    }
                }
                Output::Release => {
                    state.held = None;
                    self.consumer.release(partition);
                }
                Output::Ended(ending) => self.close(partition, ending),
            }
        }
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let deadline = state.coordinator.deadline();
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
        let Some(held) = &state.held else { return };
        let batch = if records.len() == held.len() {
            held.clone()
        } else {
            held.select(records.iter().map(|&record| record as usize))
        };
        self.monitor.emit(&Event::Consume { partition, lane, records: records.len(), attempt });
        self.spawn(partition, lane, attempt, Job::Consume(batch));
    }

    fn spawn(&mut self, partition: &TopicPartition, lane: u32, attempt: u32, job: Job) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let handler = state.handlers.remove(&lane);
        let context = Context::new(crate::app::context::Run {
            group: self.group.clone(),
            partition: partition.clone(),
            lane,
            attempt,
            producer: self.producer.clone(),
            runtime: self.runtime.clone(),
            ending: state.ending.subscribe(),
            state: std::sync::Mutex::default(),
        });
        let records = if let Job::Consume(batch) = &job { batch.len() } else { 0 };
        let reporter = self.reporter.clone();
        let future = run(handler, state.route.factory.clone(), job, context.clone(), self.workers.clone());
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
        let (Some(held), Some(topic)) = (&state.held, state.route.dead_letter_topic.clone()) else { return };
        let Some(message) = held.message(record as usize) else { return };
        let (producer, reporter) = (self.producer.clone(), self.reporter.clone());
        let (partition, group) = (partition.clone(), self.group.clone());
        // The task needs neither the batch nor the listener; if the application is dropped, the record is sent again.
        self.runtime.spawn(
            "dead letter",
            Box::pin(async move {
                let (number, offset) = (partition.partition.to_string(), message.offset().to_string());
                let attempts_text = attempts.to_string();
                let mut letter = Record::to(topic.as_str()).timestamp(message.timestamp());
                letter = letter.maybe_key(message.key()).maybe_value(message.value());
                for header in message.headers() {
                    letter = letter.maybe_header(header.key, header.value);
                }
                for (name, value) in [
                    ("source_topic", partition.topic.as_str()),
                    ("source_partition", &number),
                    ("source_offset", &offset),
                    ("source_consumer_group", group.as_str()),
                    ("source_attempts", &attempts_text),
                ] {
                    letter = letter.header(name, value);
                }
                let result = send_letter(&producer, letter, partition.partition).await;
                let _ = reporter.send(Report::Dispatched { partition, record, attempts, result });
            }),
        );
    }

    /// The coordinator ended: runs the last callback of every handler.
    fn close(&mut self, partition: &TopicPartition, ending: Ending) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        state.closing = Some(ending);
        state.held = None;
        let lanes: Vec<u32> = state.handlers.keys().copied().collect();
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

    /// Hands over the partitions whose handlers are done, and gives up on those whose time is over.
    async fn finish_revocations(&mut self) {
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
                // Marks that come now are refused; the handlers run on until they return.
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
        let mark = match &state.held {
            Some(held) => held.mark_up_to(Offset(offset)),
            None => Mark::new(partition.clone(), Offset(offset)).of_assignment(state.assignment),
        };
        if let Err(error) = self.consumer.store(mark) {
            self.emit_error("consumer.mark.error", Some(partition), &error);
        }
    }

    fn emit_dead_lettered(&self, partition: &TopicPartition, record: u32, attempts: u32) {
        let Some(state) = self.partitions.get(partition) else { return };
        let (Some(held), Some(topic)) = (&state.held, &state.route.dead_letter_topic) else { return };
        let Some(message) = held.message(record as usize) else { return };
        self.monitor.emit(&Event::DeadLettered { partition, offset: message.offset(), topic, attempts });
    }

    fn emit_error(&self, context: &'static str, partition: Option<&TopicPartition>, error: &Error) {
        self.monitor.emit(&Event::Error { context, partition, error });
    }
}

/// Sends a dead letter. Letters of one partition go to one partition, so that they keep their order.
async fn send_letter(producer: &Producer, letter: Record<'_>, source: Partition) -> Result<()> {
    let topic = producer.topic(TopicName::from(letter.topic_name().to_owned())).await?;
    let partitions = i32::try_from(topic.partition_count()).unwrap_or(i32::MAX).max(1);
    producer.send(letter.partition(source.0 % partitions)).await?;
    Ok(())
}

impl std::fmt::Debug for GroupListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupListener").field("group", &self.group).finish_non_exhaustive()
    }
}
