//! Machine: what answers and failures do to batches.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use tokio::time::Instant;

use super::{Batch, Eras, Lanes, NodeId, Output, REQUEST_PARTITIONS_MAX, Sender};
use crate::cluster::{ConditionKind, Subject};
use crate::deadline;
use crate::producer::Outcome;
use crate::producer::lane::Take;
use crate::types::{TopicName, TopicPartition};
use crate::wire::produce::Response;
use crate::{Error, ErrorCode, ErrorKind};

impl Sender {
    /// The broker answered `request`. Answers to requests that are settled already are dropped. `random` spreads back-off.
    pub(in crate::producer) fn handle_answer(
        &mut self,
        now: Instant,
        request: u64,
        response: &Response,
        random: u64,
        lanes: &mut impl Lanes,
    ) {
        let Some(state) = self.requests.remove(&request) else { return };
        self.leave_flight(state.node, Some(state.records), lanes);
        if let Some(node) = self.nodes.get_mut(&state.node) {
            node.partitions_max = (2 * node.partitions_max).min(REQUEST_PARTITIONS_MAX);
        }
        for (topic, answer) in response.partitions() {
            let number = match self.topic_names.get(&*topic.name) {
                Some(number) => Some(number),
                None => self.topic_ids.get(&topic.topic_id.0),
            };
            let found = number.and_then(|number| {
                let at = usize::try_from(answer.partition).ok()?;
                self.topics[*number].partitions.get(at).copied()
            });
            let Some(partition) = found else { continue };
            if let Some(batch) = self.partitions[partition].take_sent(request) {
                self.settle(
                    Answer { now, partition, node: state.node, by_name: state.by_name, random },
                    batch,
                    answer,
                    lanes,
                );
            }
        }
        // Whatever the broker did not mention.
        for partition in &state.partitions {
            if let Some(batch) = self.partitions[*partition].take_sent(request) {
                let error = Error::new(
                    ErrorKind::Protocol,
                    format!("the answer says nothing about {}", self.describe(*partition)),
                );
                let answer =
                    Answer { now, partition: *partition, node: state.node, by_name: state.by_name, random };
                self.retry(answer, batch, error, true, lanes);
            }
        }
        for partition in state.partitions {
            self.schedule(now, partition);
        }
    }

    /// `request` got no answer. `unsent`: nothing of it was written.
    pub(in crate::producer) fn handle_failure(
        &mut self,
        now: Instant,
        request: u64,
        error: Error,
        unsent: bool,
        random: u64,
        lanes: &mut impl Lanes,
    ) {
        let Some(state) = self.requests.remove(&request) else { return };
        self.leave_flight(state.node, None, lanes);
        if error.is_timeout()
            && let Some(node) = self.nodes.get_mut(&state.node)
        {
            // Perhaps it was too much work for one request.
            node.partitions_max = (state.partitions.len() / 2).clamp(1, node.partitions_max);
        }
        for partition in &state.partitions {
            if let Some(batch) = self.partitions[*partition].take_sent(request) {
                self.refresh(*partition);
                if error.is_retriable() {
                    let answer = Answer {
                        now,
                        partition: *partition,
                        node: state.node,
                        by_name: state.by_name,
                        random,
                    };
                    self.retry(answer, batch, error.clone(), !unsent, lanes);
                } else {
                    self.fail(*partition, batch, error.clone(), !unsent, lanes);
                }
            }
        }
        for partition in state.partitions {
            self.schedule(now, partition);
        }
    }

    /// `request` was written and will not be answered (acks=0).
    pub(in crate::producer) fn handle_written(&mut self, now: Instant, request: u64, lanes: &mut impl Lanes) {
        let Some(state) = self.requests.remove(&request) else { return };
        self.leave_flight(state.node, Some(state.records), lanes);
        for partition in state.partitions {
            if let Some(batch) = self.partitions[partition].take_sent(request) {
                self.succeed(partition, batch, -1, -1, lanes);
            }
            self.schedule(now, partition);
        }
    }

    /// A broker gave a producer id, or an error.
    pub(in crate::producer) fn handle_producer_id(
        &mut self,
        now: Instant,
        answer: Result<(i64, i16), Error>,
        random: u64,
        lanes: &mut impl Lanes,
    ) {
        let waiting = std::mem::take(&mut self.waiting_for_era);
        match answer.and_then(|(id, epoch)| self.eras.answered(id, epoch)) {
            Ok(()) => {
                self.era_failures = 0;
                self.era_error = None;
                for kind in std::mem::take(&mut self.era_conditions) {
                    self.effects.push_back(Output::Clear(Subject::Cluster, kind));
                }
                for partition in waiting {
                    self.schedule(now, partition);
                }
            }
            Err(error) => {
                self.era_failures = self.era_failures.saturating_add(1);
                let pause = self.config.backoff.delay(self.era_failures, random);
                self.eras = Eras::Wanted(Some(deadline::after(now, pause)));
                let retriable = error.is_retriable();
                self.era_error = Some(error.clone());
                if error.code().is_some() {
                    let kind = ConditionKind::of(&error);
                    self.era_conditions.insert(kind);
                    self.effects.push_back(Output::Raise(Subject::Cluster, kind, error.clone()));
                }
                for partition in waiting {
                    if !retriable {
                        self.fail_waiting(now, partition, &error, lanes);
                    }
                    self.schedule(now, partition);
                }
            }
        }
    }

    /// Metadata says of `topic` that it cannot be used: what waits for it fails, unless that may pass.
    pub(in crate::producer) fn handle_topic_error(
        &mut self,
        now: Instant,
        topic: &TopicName,
        code: ErrorCode,
        lanes: &mut impl Lanes,
    ) {
        let Some(number) = self.topic_names.get(topic).filter(|_| !code.is_retriable()) else { return };
        let error = Error::from_code(code, format!("topic {topic} cannot be produced to"));
        for at in 0..self.topics[*number].partitions.len() {
            let Some(number) = self.topic_names.get(topic) else { return };
            let partition = self.topics[*number].partitions[at];
            self.fail_waiting(now, partition, &error, lanes);
            self.schedule(now, partition);
        }
    }

    /// Nothing is sent any more: what is not on the way fails with `error`, now and whenever some is found, and what is on
    /// the way fails unless its answer says otherwise.
    pub(in crate::producer) fn handle_end(&mut self, now: Instant, error: &Error, lanes: &mut impl Lanes) {
        self.ended = Some(error.clone());
        for partition in self.waiting_partitions() {
            self.fail_gone(now, partition, lanes);
        }
    }

    /// Everything that is not acknowledged fails with `error`.
    pub(in crate::producer) fn abort(&mut self, now: Instant, error: &Error, lanes: &mut impl Lanes) {
        self.handle_end(now, error, lanes);
        for partition in self.waiting_partitions() {
            let mut sent = std::mem::take(&mut self.partitions[partition].sent);
            for sent in sent.drain(..) {
                self.fail(partition, sent.batch, error.clone(), true, lanes);
            }
        }
        self.outstanding.clear();
        self.requests.clear();
    }

    /// Partitions with something that is not acknowledged.
    pub(super) fn waiting_partitions(&self) -> BTreeSet<usize> {
        self.outstanding.values().map(|batch| batch.partition).collect()
    }

    /// Why nothing is sent to `partition` any more.
    fn refusal_of(&self, partition: usize) -> Option<&Error> {
        let of_partition = self.partitions[partition].gone.as_ref();
        self.ended.as_ref().or(of_partition).or_else(|| self.dropped())
    }

    /// What waits for `partition` fails, if nothing is sent to it any more.
    pub(super) fn fail_gone(&mut self, now: Instant, partition: usize, lanes: &mut impl Lanes) {
        if let Some(error) = self.refusal_of(partition).cloned() {
            self.fail_waiting(now, partition, &error, lanes);
        }
    }

    fn leave_flight(&mut self, node: NodeId, records: Option<usize>, lanes: &mut impl Lanes) {
        let max = self.config.in_flight_max;
        if let Some(state) = self.nodes.get_mut(&node) {
            state.in_flight = state.in_flight.saturating_sub(1);
            if let Some(records) = records {
                state.recent_records = records;
            }
            lanes.set_pace(node, state.pace(max, self.config.linger));
        }
    }

    pub(super) fn succeed(
        &mut self,
        partition: usize,
        mut batch: Batch,
        base_offset: i64,
        log_append_time: i64,
        lanes: &mut impl Lanes,
    ) {
        let state = &mut self.partitions[partition];
        state.probing = false;
        state.retry_at = None;
        if self.forbidden.remove(&state.topic).is_some() {
            self.effects.push_back(authorized(&self.topics[state.topic].name));
        }
        // A broker takes sequences in order, so what was doubted before this batch is in the log, too.
        let doubted: Vec<_> = self.partitions[partition].take_doubted().collect();
        for mut earlier in doubted {
            earlier.written(-1, -1);
            self.finish(partition, &earlier, false, true, lanes);
        }
        let settled = batch.settled;
        batch.written(base_offset, log_append_time);
        self.finish(partition, &batch, settled, true, lanes);
        lanes.recycle(std::mem::take(&mut batch.body));
    }

    /// The broker refuses what is sent to `partition`, and may go on doing so.
    pub(super) fn report(&mut self, partition: usize, error: &Error) {
        self.partitions[partition].troubled = true;
        let subject = Subject::Partition(self.name(partition));
        self.effects.push_back(Output::Raise(subject, ConditionKind::Refused, error.clone()));
    }

    pub(super) fn name(&self, partition: usize) -> TopicPartition {
        let state = &self.partitions[partition];
        TopicPartition::new(self.topics[state.topic].name.clone(), state.index)
    }

    /// Sends `batch` again later. `unsure`: it may have been written.
    pub(super) fn retry(
        &mut self,
        answer: Answer,
        mut batch: Batch,
        error: Error,
        unsure: bool,
        lanes: &mut impl Lanes,
    ) {
        batch.maybe_written |= unsure;
        batch.named |= unsure && answer.by_name;
        batch.attempts = batch.attempts.saturating_add(1);
        batch.last_error = Some(error);
        let attempts = batch.attempts;
        self.put_back(answer.partition, batch, lanes);
        self.back_off(answer, attempts);
    }

    pub(super) fn back_off(&mut self, answer: Answer, attempts: u32) {
        let at = deadline::after(answer.now, self.config.backoff.delay(attempts, answer.random));
        let state = &mut self.partitions[answer.partition];
        state.retry_at = state.retry_at.max(Some(at));
    }

    /// Puts a batch back into the queue, unless everybody was told of its fate already.
    pub(super) fn put_back(&mut self, partition: usize, mut batch: Batch, lanes: &mut impl Lanes) {
        self.partitions[partition].probing = true;
        if batch.settled {
            self.finish(partition, &batch, true, false, lanes);
        } else if let Some(error) = self.refusal_of(partition).cloned() {
            self.fail(partition, batch, error, false, lanes);
        } else if batch.astray && batch.maybe_written {
            let error = self.made_anew(partition, batch.last_error.take());
            self.fail(partition, batch, error, false, lanes);
        } else {
            batch.astray = false;
            self.partitions[partition].requeue(batch);
        }
    }

    /// The error of a batch that may be in the former topic of that name, in this one, or in none.
    fn made_anew(&self, partition: usize, last: Option<Error>) -> Error {
        let what =
            format!("{} was made anew before the answer for its records came", self.describe(partition));
        let error = Error::from_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, what)
            .with_advice("look into the new topic before you send them again: they may be there")
            .with_retriable(false);
        match last {
            Some(last) => error.with_source(last),
            None => error,
        }
    }

    /// Gives `batch` up. `unsure`: this attempt, too, may have been written.
    pub(super) fn fail(
        &mut self,
        partition: usize,
        mut batch: Batch,
        error: Error,
        unsure: bool,
        lanes: &mut impl Lanes,
    ) {
        batch.maybe_written |= unsure;
        let settled = batch.settled;
        let outcome = batch.outcome();
        self.note_failure(&error);
        batch.failed(error, outcome);
        self.finish(partition, &batch, settled, false, lanes);
        self.spoil_behind(partition, &batch);
        if outcome == Outcome::NotWritten {
            self.partitions[partition].absent_from(batch.order());
        }
        self.give_up_doubted(partition, lanes);
    }

    /// What was doubted stays unknown once nobody can tell any more.
    fn give_up_doubted(&mut self, partition: usize, lanes: &mut impl Lanes) {
        let state = &mut self.partitions[partition];
        let Some(first) = state.queue.front().filter(|front| front.doubted) else { return };
        if state.has_witness(first.order()) {
            return;
        }
        let doubted: Vec<_> = state.take_doubted().collect();
        for batch in doubted {
            let error = batch.last_error.clone();
            let error = error.unwrap_or_else(|| self.timed_out(partition, None));
            self.fail(partition, batch, error, false, lanes);
        }
    }

    /// Everything of `partition` that is not on the way fails.
    pub(super) fn fail_waiting(
        &mut self,
        now: Instant,
        partition: usize,
        error: &Error,
        lanes: &mut impl Lanes,
    ) {
        self.collect(now, partition, Take::All, lanes);
        while let Some(batch) = self.partitions[partition].queue.pop_front() {
            self.fail(partition, batch, error.clone(), false, lanes);
        }
    }

    /// Sequences behind a batch that is not in the log, or may not be, have a gap.
    pub(super) fn spoil_behind(&mut self, partition: usize, batch: &Batch) {
        if batch.sequence.is_some() {
            self.spoil(partition);
        }
    }

    pub(super) fn spoil(&mut self, partition: usize) {
        let state = &mut self.partitions[partition];
        if matches!(self.eras, Eras::Off) || state.spoiled {
            return;
        }
        state.spoiled = true;
        match &mut self.eras {
            Eras::Transactional(transactional) => transactional.tear(partition),
            eras => eras.end(state.era),
        }
    }

    /// Counts a batch whose fate is known to everybody. `settled`: it was counted before.
    pub(super) fn finish(
        &mut self,
        partition: usize,
        batch: &Batch,
        settled: bool,
        written: bool,
        lanes: &mut impl Lanes,
    ) {
        if std::mem::take(&mut self.partitions[partition].troubled) {
            let subject = Subject::Partition(self.name(partition));
            self.effects.push_back(Output::Clear(subject, ConditionKind::Refused));
        }
        if settled {
            return;
        }
        lanes.queued(partition, -1);
        let count = u64::from(batch.count());
        *(if written { &mut self.counts.acked } else { &mut self.counts.failed }) += count;
        if let Entry::Occupied(mut outstanding) = self.outstanding.entry(batch.id) {
            outstanding.get_mut().parts -= 1;
            if outstanding.get().parts == 0 {
                outstanding.remove();
            }
        }
    }
}

/// Where and when something came back for a batch, or nothing did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) now: Instant,
    pub(super) partition: usize,
    /// Who answered, or was to.
    pub(super) node: NodeId,
    /// The request named topics, not their ids.
    pub(super) by_name: bool,
    /// Spreads the back-off.
    pub(super) random: u64,
}

/// No right for `topic` is missing, as far as one knows.
pub(super) fn authorized(topic: &TopicName) -> Output {
    Output::Clear(Subject::Topic(topic.clone()), ConditionKind::NotAuthorized)
}
