//! What answers, failures and the passing of time do to batches.

use std::sync::Arc;

use tokio::time::Instant;

use super::partition::Listed;
use super::verdict::{Verdict, verdict};
use super::{Batch, Eras, Lanes, NodeId, Sender};
use crate::producer::Outcome;
use crate::types::TopicName;
use crate::wire::produce::{PartitionResponse, Response};
use crate::{Error, ErrorCode, ErrorKind};

impl Sender {
    /// The broker answered `request`. Answers to requests that are settled already are dropped. `dice` spreads back-off.
    pub(in crate::producer) fn handle_answer(
        &mut self,
        now: Instant,
        request: u64,
        response: &Response,
        dice: u64,
        lanes: &mut impl Lanes,
    ) {
        let Some(state) = self.requests.remove(&request) else { return };
        self.leave_flight(state.node, Some(state.records));
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
                self.settle(now, partition, batch, answer, state.node, dice, lanes);
            }
        }
        // Whatever the broker did not mention.
        for partition in &state.partitions {
            if let Some(batch) = self.partitions[*partition].take_sent(request) {
                let error = Error::new(
                    ErrorKind::Protocol,
                    format!("the answer says nothing about {}", self.describe(*partition)),
                );
                self.retry(now, *partition, batch, Arc::new(error), true, dice, lanes);
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
        dice: u64,
        lanes: &mut impl Lanes,
    ) {
        let Some(state) = self.requests.remove(&request) else { return };
        self.leave_flight(state.node, None);
        let error = Arc::new(error);
        for partition in &state.partitions {
            if let Some(batch) = self.partitions[*partition].take_sent(request) {
                self.refresh(*partition);
                if error.is_retriable() {
                    self.retry(now, *partition, batch, Arc::clone(&error), !unsent, dice, lanes);
                } else {
                    self.fail(*partition, batch, Arc::clone(&error), !unsent, lanes);
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
        self.leave_flight(state.node, Some(state.records));
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
        dice: u64,
        lanes: &mut impl Lanes,
    ) {
        let waiting = std::mem::take(&mut self.waiting_for_era);
        match answer.and_then(|(id, epoch)| self.eras.answered(id, epoch)) {
            Ok(()) => {
                self.era_error = None;
                for partition in waiting {
                    self.schedule(now, partition);
                }
            }
            Err(error) => {
                self.eras = Eras::Wanted(Some(now + self.config.backoff.delay(1, dice)));
                let retriable = error.is_retriable();
                let error = Arc::new(error);
                self.era_error = Some(Arc::clone(&error));
                for partition in waiting {
                    if !retriable {
                        self.fail_waiting(now, partition, &error, lanes);
                    }
                    self.schedule(now, partition);
                }
            }
        }
    }

    /// `topic` cannot be used: what waits for it fails.
    pub(in crate::producer) fn handle_topic_error(
        &mut self,
        now: Instant,
        topic: &TopicName,
        code: ErrorCode,
        lanes: &mut impl Lanes,
    ) {
        let Some(number) = self.topic_names.get(topic) else { return };
        let error = Arc::new(Error::from_code(code, format!("topic {topic} cannot be produced to")));
        for at in 0..self.topics[*number].partitions.len() {
            let Some(number) = self.topic_names.get(topic) else { return };
            let partition = self.topics[*number].partitions[at];
            self.fail_waiting(now, partition, &error, lanes);
            self.schedule(now, partition);
        }
    }

    /// Lets pauses end and gives up what is too old.
    pub(in crate::producer) fn handle_time(&mut self, now: Instant, lanes: &mut impl Lanes) {
        while let Some((at, partition)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            self.schedule(now, partition);
        }
        while let Some((id, oldest)) = self.outstanding.first_key_value()
            && oldest.deadline <= now
        {
            let (id, partition) = (*id, oldest.partition);
            self.expire(now, id, partition, lanes);
            self.schedule(now, partition);
        }
    }

    /// Everything that is not acknowledged fails with `error`.
    pub(in crate::producer) fn abort(&mut self, now: Instant, error: &Arc<Error>, lanes: &mut impl Lanes) {
        let mut waiting: Vec<_> = self.outstanding.values().map(|batch| batch.partition).collect();
        waiting.dedup();
        for partition in waiting {
            self.fail_waiting(now, partition, error, lanes);
            let mut sent = std::mem::take(&mut self.partitions[partition].sent);
            for sent in sent.drain(..) {
                self.fail(partition, sent.batch, Arc::clone(error), true, lanes);
            }
        }
        self.outstanding.clear();
        self.requests.clear();
    }

    fn leave_flight(&mut self, node: NodeId, records: Option<usize>) {
        let max = self.config.in_flight_max;
        if let Some(state) = self.nodes.get_mut(&node) {
            state.in_flight = state.in_flight.saturating_sub(1);
            if let Some(records) = records {
                state.recent_records = records;
            }
            state.set_gauge(max);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an answer has many sides")]
    fn settle(
        &mut self,
        now: Instant,
        partition: usize,
        mut batch: Batch,
        answer: &PartitionResponse,
        node: NodeId,
        dice: u64,
        lanes: &mut impl Lanes,
    ) {
        let code = answer.error_code;
        let error = || {
            let mut what = format!("producing to {} failed", self.describe(partition));
            if let Some(message) = &answer.error_message {
                what = format!("{what}: {message}");
            }
            Error::from_code(code, what)
        };
        match verdict(code) {
            Verdict::Written => {
                self.succeed(partition, batch, answer.base_offset, answer.log_append_time_ms, lanes);
            }
            Verdict::Duplicate => self.succeed(partition, batch, answer.base_offset, -1, lanes),
            Verdict::Retry { unsure, refresh } => {
                let error = Arc::new(error());
                if refresh {
                    self.refresh(partition);
                }
                self.retry(now, partition, batch, error, unsure, dice, lanes);
                // The answer, or metadata, may have named another leader already.
                let state = &mut self.partitions[partition];
                if refresh && state.leader.is_some_and(|leader| leader != node) {
                    state.retry_at = None;
                }
            }
            Verdict::RetryOnce if batch.attempts == 0 => {
                let error = Arc::new(error());
                self.retry(now, partition, batch, error, false, dice, lanes);
            }
            Verdict::Gap => {
                let error = Arc::new(error());
                // A gap proves that neither this batch nor one behind it is in the log.
                batch.maybe_written = false;
                let order = batch.order();
                let explained = self.partitions[partition].has_earlier(order)
                    || self.partitions[partition].spoiled
                    || batch.settled;
                batch.last_error = Some(error);
                self.put_back(partition, batch, lanes);
                self.partitions[partition].absent_from(order);
                if !explained {
                    tracing::warn!(
                        partition = self.describe(partition),
                        "the broker misses records of this producer that it had acknowledged or never got: \
                         going on with a new epoch"
                    );
                    self.spoil(partition);
                    self.back_off(now, partition, 1, dice);
                }
            }
            Verdict::Forgotten | Verdict::OldEpoch => {
                let error = Arc::new(error());
                if verdict(code) == Verdict::OldEpoch {
                    let era = self.partitions[partition].era;
                    self.eras.abandon(era);
                }
                self.spoil(partition);
                if batch.maybe_written {
                    // Nobody can tell any more.
                    self.fail(partition, batch, error, false, lanes);
                } else {
                    let attempts = batch.attempts + 1;
                    batch.attempts = attempts;
                    batch.last_error = Some(error);
                    self.put_back(partition, batch, lanes);
                    self.back_off(now, partition, attempts, dice);
                }
            }
            Verdict::TooLarge => {
                lanes.shrink(partition, batch.wire_len());
                let parts = if batch.settled { None } else { batch.split(&self.config.codec) };
                match parts {
                    Some([first, second]) => {
                        if let Some(outstanding) = self.outstanding.get_mut(&batch.id) {
                            outstanding.parts += 1;
                        }
                        lanes.queued(partition, 1);
                        self.put_back(partition, first, lanes);
                        self.put_back(partition, second, lanes);
                    }
                    None => {
                        let error = error();
                        self.fail(partition, batch, Arc::new(error), false, lanes);
                    }
                }
            }
            Verdict::BadRecords if !answer.record_errors.is_empty() && !batch.maybe_written => {
                let count = batch.count();
                let alone = count == 1;
                let reasons: Vec<_> = answer
                    .record_errors
                    .iter()
                    .filter_map(|bad| {
                        let text = bad.message.as_deref().or(answer.error_message.as_deref());
                        let what = format!(
                            "the record was refused by {}: {}",
                            self.describe(partition),
                            text.unwrap_or("no reason was given")
                        );
                        Some((u32::try_from(bad.index).ok()?, Error::from_code(code, what)))
                    })
                    .collect();
                let others = if alone {
                    error()
                } else {
                    Error::new(
                        ErrorKind::Broker,
                        format!(
                            "other records of the same batch were refused by {}",
                            self.describe(partition)
                        ),
                    )
                    .hint("send it again")
                    .retriable(true)
                };
                let settled = batch.settled;
                batch.refused(&reasons, others);
                self.finish(partition, &batch, settled, false, lanes);
                self.spoil_behind(partition, &batch);
            }
            Verdict::RetryOnce | Verdict::BadRecords | Verdict::Refused => {
                let error = error();
                self.fail(partition, batch, Arc::new(error), false, lanes);
            }
        }
    }

    fn succeed(
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
        let settled = batch.settled;
        batch.written(base_offset, log_append_time);
        self.finish(partition, &batch, settled, true, lanes);
        lanes.recycle(std::mem::take(&mut batch.body));
    }

    /// Sends `batch` again later. `unsure`: it may have been written.
    #[expect(clippy::too_many_arguments, reason = "a failure has many sides")]
    fn retry(
        &mut self,
        now: Instant,
        partition: usize,
        mut batch: Batch,
        error: Arc<Error>,
        unsure: bool,
        dice: u64,
        lanes: &mut impl Lanes,
    ) {
        batch.maybe_written |= unsure;
        batch.attempts = batch.attempts.saturating_add(1);
        batch.last_error = Some(error);
        let attempts = batch.attempts;
        self.put_back(partition, batch, lanes);
        self.back_off(now, partition, attempts, dice);
    }

    fn back_off(&mut self, now: Instant, partition: usize, attempts: u32, dice: u64) {
        let at = now + self.config.backoff.delay(attempts, dice);
        let state = &mut self.partitions[partition];
        state.retry_at = state.retry_at.max(Some(at));
    }

    /// Puts a batch back into the queue, unless everybody was told of its fate already.
    fn put_back(&mut self, partition: usize, batch: Batch, lanes: &mut impl Lanes) {
        self.partitions[partition].probing = true;
        if batch.settled {
            self.finish(partition, &batch, true, false, lanes);
        } else {
            self.partitions[partition].requeue(batch);
        }
    }

    /// Gives `batch` up. `unsure`: this attempt, too, may have been written.
    fn fail(
        &mut self,
        partition: usize,
        mut batch: Batch,
        error: Arc<Error>,
        unsure: bool,
        lanes: &mut impl Lanes,
    ) {
        batch.maybe_written |= unsure;
        let settled = batch.settled;
        let outcome = batch.outcome();
        batch.failed(error, outcome);
        self.finish(partition, &batch, settled, false, lanes);
        self.spoil_behind(partition, &batch);
        if outcome == Outcome::NotWritten {
            self.partitions[partition].absent_from(batch.order());
        }
    }

    /// Everything of `partition` that is not on the way fails.
    fn fail_waiting(&mut self, now: Instant, partition: usize, error: &Arc<Error>, lanes: &mut impl Lanes) {
        self.collect(now, partition, true, lanes);
        while let Some(batch) = self.partitions[partition].queue.pop_front() {
            self.fail(partition, batch, Arc::clone(error), false, lanes);
        }
    }

    /// Sequences behind a batch that is not in the log, or may not be, have a gap.
    fn spoil_behind(&mut self, partition: usize, batch: &Batch) {
        if batch.sequence.is_some() {
            self.spoil(partition);
        }
    }

    fn spoil(&mut self, partition: usize) {
        let state = &mut self.partitions[partition];
        if matches!(self.eras, Eras::Off) || state.spoiled {
            return;
        }
        state.spoiled = true;
        self.eras.end(state.era);
    }

    /// Counts a batch whose fate is known to everybody. `settled`: it was counted before.
    fn finish(
        &mut self,
        partition: usize,
        batch: &Batch,
        settled: bool,
        written: bool,
        lanes: &mut impl Lanes,
    ) {
        if settled {
            return;
        }
        lanes.queued(partition, -1);
        let count = u64::from(batch.count());
        *(if written { &mut self.counts.acked } else { &mut self.counts.failed }) += count;
        if let Some(outstanding) = self.outstanding.get_mut(&batch.id) {
            outstanding.parts -= 1;
            if outstanding.parts == 0 {
                self.outstanding.remove(&batch.id);
            }
        }
    }

    /// The batch with number `id` was not acknowledged in time.
    fn expire(&mut self, now: Instant, id: u64, partition: usize, lanes: &mut impl Lanes) {
        if self.partitions[partition].pending.contains(&id) {
            self.collect(now, partition, true, lanes);
            self.partitions[partition].listed = Listed::No;
        }
        if self.partitions[partition].pending.contains(&id) {
            // Still being compressed: look again soon.
            if let Some(outstanding) = self.outstanding.get_mut(&id) {
                outstanding.deadline = now + self.config.backoff.first;
            }
            return;
        }
        while let Some(at) = self.partitions[partition].queue.iter().position(|batch| batch.id == id) {
            let Some(batch) = self.partitions[partition].queue.remove(at) else { break };
            let error = self.timed_out(partition, batch.last_error.as_ref());
            self.fail(partition, batch, Arc::new(error), false, lanes);
        }
        // Those on the way keep their place: the answer may come, and nothing is sent before it. But nobody waits for it.
        for at in 0..self.partitions[partition].sent.len() {
            let batch = &self.partitions[partition].sent[at].batch;
            if batch.id != id || batch.settled {
                continue;
            }
            let error = self.timed_out(partition, batch.last_error.as_ref());
            let batch = &mut self.partitions[partition].sent[at].batch;
            batch.maybe_written = true;
            batch.failed(error, Outcome::Unknown);
            let (count, sequenced) = (u64::from(batch.count()), batch.sequence.is_some());
            lanes.queued(partition, -1);
            self.counts.failed += count;
            if sequenced {
                self.spoil(partition);
            }
        }
        self.outstanding.remove(&id);
    }
}
