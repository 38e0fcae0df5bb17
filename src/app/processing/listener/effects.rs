//! What the coordinators of a listener's partitions want done.

use std::sync::Arc;

use super::{GroupListener, Report};
use crate::app::context::{Context, ContextParts};
use crate::app::instrument::{Event, FailedRun};
use crate::app::policy::Ending;
use crate::app::processing::coordinator::Output;
use crate::app::processing::letter::Letter;
use crate::app::processing::partition::Run;
use crate::app::processing::run::{Job, Means, run};
use crate::app::snapshot::JobKind;
use crate::types::{Offset, TopicName, TopicPartition};
use crate::{Error, ErrorKind, Result};

impl GroupListener {
    /// Does what the coordinator of the partition wants done, and sets its timer.
    pub(super) fn carry_out(&mut self, partition: &TopicPartition) {
        while let Some(state) = self.partitions.get_mut(partition) {
            let Some(output) = state.coordinator.poll_output() else { break };
            match output {
                Output::Run { lane, records, attempt } => self.start(partition, lane, &records, attempt),
                Output::Call { kind, lane } => self.call(partition, kind, lane),
                Output::Mark(offset) => self.store(partition, offset),
                Output::Dispatch { record, attempts, to, .. } => {
                    self.dispatch(partition, record, attempts, to)
                }
                Output::Stop { policy, attempt, offset } => self.stop_all(partition, policy, attempt, offset),
                Output::Retrying { attempt, offset, delay } => {
                    let offset = Offset(offset);
                    self.shared.monitor.emit(&Event::Retrying { partition, offset, attempt, delay });
                }
                Output::Skipped { policy, offsets: (first, last), records } => {
                    let (first, last) = (Offset(first), Offset(last));
                    self.shared.monitor.emit(&Event::Skipped { partition, policy, first, last, records });
                }
                Output::Panicked(context, error) => self.emit_error(context, Some(partition), &error),
                Output::Seek(offset) => {
                    let to = state.mark(partition, Offset(offset.max(0)));
                    if let Err(error) = self.source.seek_to(&to) {
                        self.emit_error("consumer.consuming.seek.error", Some(partition), &error);
                    }
                }
                Output::Release => self.source.release(partition),
                Output::Ended(ending) => {
                    state.undelivered = None;
                    self.lives.handle_ended(partition, ending, state.consumers.len());
                }
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

    /// Runs a callback other than `consume`.
    fn call(&mut self, partition: &TopicPartition, kind: JobKind, lane: u32) {
        let job = match kind {
            JobKind::Initialized => Job::Initialized,
            JobKind::Eofed => Job::Eofed,
            JobKind::Tick => Job::Tick,
            JobKind::Revoked => Job::Revoked,
            JobKind::Shutdown => Job::Shutdown,
            // Needs its records: see `start`.
            JobKind::Consume => return,
        };
        self.spawn(partition, lane, 1, job);
    }

    fn spawn(&mut self, partition: &TopicPartition, lane: u32, attempt: u32, job: Job) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let consumer = state.consumers.remove(&lane);
        let context = Context::new(ContextParts {
            group: self.group.clone(),
            partition: partition.clone(),
            lane,
            attempt,
            marks: state.route.marks,
            errors: state.coordinator.errors().clone(),
            letters: state.route.letters.clone(),
            monitor: self.shared.monitor.clone(),
            producer: self.shared.producer.clone(),
            runtime: self.runtime.clone(),
            commands: self.commander.clone(),
            ending: state.ending.subscribe(),
            state: std::sync::Mutex::default(),
            quiet: tokio::sync::Notify::new(),
            withdrawn: tokio::sync::Notify::new(),
            settling: tokio::sync::Mutex::new(()),
        });
        let records = if let Job::Consume(batch) = &job { batch.len() } else { 0 };
        let reporter = self.reporter.clone();
        let means = Means {
            factory: state.route.factory.clone(),
            initialized: state.route.callbacks.initialized,
            workers: self.shared.workers.clone(),
            monitor: self.shared.monitor.clone(),
            stop: self.stop.clone(),
        };
        let kind = job.kind();
        let future = run(consumer, job, context.clone(), means);
        let task = self.runtime.spawn(
            "handler",
            Box::pin(async move {
                // The listener is gone when the application was dropped.
                let _ = reporter.send(Report::Finished(future.await));
            }),
        );
        let run = Run { context, records, stuck: None, _task: task.abort_on_drop() };
        state.runs.insert((kind, lane), run);
    }

    /// Sends a record of the held batch to the dead letter topic.
    fn dispatch(&mut self, partition: &TopicPartition, record: u32, attempts: u32, to: Option<TopicName>) {
        let Some(state) = self.partitions.get(partition) else { return };
        let topic = to.or_else(|| state.route.dead_letter_topic().cloned());
        let (Some(held), Some(topic), Some(letters)) =
            (state.coordinator.held(), topic, state.route.letters.clone())
        else {
            return;
        };
        let Some(message) = held.message(record as usize) else { return };
        let ending = state.ending.subscribe();
        let (producer, reporter) = (self.shared.producer.clone(), self.reporter.clone());
        let (source, group) = (partition.clone(), self.group.clone());
        let errors = state.coordinator.errors().clone();
        let letter = Letter { topic, letters, message, source, group, attempts, errors };
        // The task needs neither the batch nor the listener; if the application is dropped, the record is sent again.
        self.runtime.spawn(
            "dead letter",
            Box::pin(async move {
                let result = letter.send(&producer, ending).await;
                let (partition, topic) = (letter.source, letter.topic);
                let _ = reporter.send(Report::Dispatched { partition, record, topic, attempts, result });
            }),
        );
    }

    /// Calls every consumer of the partition a last time.
    pub(super) fn last_calls(&mut self, partition: &TopicPartition, ending: Ending) {
        let Some(state) = self.partitions.get(partition) else { return };
        let lanes: Vec<u32> = state.consumers.keys().copied().collect();
        for lane in lanes {
            let kind = if ending == Ending::Stopped { JobKind::Shutdown } else { JobKind::Revoked };
            self.call(partition, kind, lane);
        }
    }

    /// Hands an offset to the source for its next commit.
    fn store(&mut self, partition: &TopicPartition, offset: i64) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let mark = match state.coordinator.held() {
            Some(held) => held.mark_up_to(Offset(offset)),
            None => state.mark(partition, Offset(offset)),
        };
        state.stored = Some(mark.clone());
        if let Err(error) = self.source.store(mark) {
            self.emit_error("consumer.mark.error", Some(partition), &error);
        }
    }

    /// Stops the application because of a record that it cannot go on behind.
    fn stop_all(&mut self, partition: &TopicPartition, policy: &str, attempt: u32, offset: i64) {
        let Some(state) = self.partitions.get(partition) else { return };
        let text = format!(
            "the policy {policy} stops the application at offset {offset} of {partition}, run {attempt}"
        );
        let advice = "nothing from this offset on is committed; remove the cause and start again";
        let error = Error::new(ErrorKind::Handler, text).with_advice(advice);
        self.fatal.push(match state.coordinator.errors().last() {
            Some(cause) => error.with_source(cause.clone()),
            None => error,
        });
        self.stop.begin_all();
    }

    /// Tells what became of a letter.
    pub(super) fn emit_dispatched(
        &self,
        partition: &TopicPartition,
        record: u32,
        (topic, attempts): (&TopicName, u32),
        result: Result<()>,
    ) {
        let Some(state) = self.partitions.get(partition) else { return };
        let message = state.coordinator.held().and_then(|held| held.message(record as usize));
        let offset = message.map(|message| message.offset());
        let monitor = &self.shared.monitor;
        match (result, offset) {
            (Ok(()), Some(offset)) => {
                monitor.emit(&Event::DeadLettered { partition, offset, topic, attempts });
            }
            (Ok(()), None) => {}
            (Err(error), offset) => {
                let trace_id = state.coordinator.errors().trace_id();
                let run = trace_id.map(|trace_id| FailedRun { lane: 0, offset, attempt: attempts, trace_id });
                let (context, partition) = ("dead_letter_queue.dispatch.error", Some(partition));
                monitor.emit(&Event::Error { context, partition, run, error: &error });
            }
        }
    }

    pub(super) fn emit_error(
        &self,
        context: &'static str,
        partition: Option<&TopicPartition>,
        error: &Error,
    ) {
        self.shared.monitor.emit(&Event::Error { context, partition, run: None, error });
    }
}
