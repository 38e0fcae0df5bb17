//! Machine: what a broker's word about one batch means for it and for those behind it.

use std::time::Duration;

use super::answers::Answer;
use super::verdict::{Verdict, verdict};
use super::{Batch, Lanes, Output, Sender};
use crate::cluster::{ConditionKind, Subject};
use crate::wire::produce::PartitionResponse;
use crate::{Error, ErrorKind};

/// Pause while the transaction before this one is being finished, which takes brokers some milliseconds; it grows by as much
/// with each attempt, so many times.
const BUSY: Duration = Duration::from_millis(20);
const BUSY_MAX: u32 = 16;

impl Sender {
    /// The broker's word about `batch`.
    pub(super) fn settle(
        &mut self,
        answer: Answer,
        mut batch: Batch,
        response: &PartitionResponse,
        lanes: &mut impl Lanes,
    ) {
        let Answer { partition, .. } = answer;
        let verdict = verdict(response.error_code);
        match verdict {
            Verdict::Written => {
                self.succeed(partition, batch, response.base_offset, response.log_append_time_ms, lanes);
                return;
            }
            Verdict::Duplicate => return self.succeed(partition, batch, response.base_offset, -1, lanes),
            Verdict::BadRecords if !response.record_errors.is_empty() && !batch.maybe_written => {
                return self.refuse_records(partition, batch, response, lanes);
            }
            _ => {}
        }
        let error = self.refusal(partition, response);
        match verdict {
            Verdict::Retry { unsure, refresh } => {
                if refresh {
                    self.refresh(partition);
                } else {
                    self.report(partition, &error);
                }
                self.retry(answer, batch, error, unsure, lanes);
                // The answer, or metadata, may have named another leader already.
                let state = &mut self.partitions[partition];
                if refresh && state.leader.is_some_and(|leader| leader != answer.node) {
                    state.retry_at = None;
                }
            }
            Verdict::Busy => {
                let soon = answer.now + BUSY * (batch.attempts + 1).min(BUSY_MAX);
                self.retry(answer, batch, error, false, lanes);
                let state = &mut self.partitions[partition];
                state.retry_at = state.retry_at.map(|at| at.min(soon));
            }
            Verdict::RetryOnce if !batch.damaged => {
                batch.damaged = true;
                self.retry(answer, batch, error, false, lanes);
            }
            Verdict::Gap => self.meet_gap(answer, batch, error, lanes),
            Verdict::Forgotten | Verdict::OldEpoch => {
                self.begin_anew(answer, batch, error, verdict == Verdict::OldEpoch, lanes);
            }
            Verdict::TooLarge => self.split(answer, batch, error, lanes),
            _ => self.refuse(answer, batch, error, lanes),
        }
    }

    /// The error of a batch that was refused.
    fn refusal(&self, partition: usize, response: &PartitionResponse) -> Error {
        let mut what = format!("producing to {} failed", self.describe(partition));
        if let Some(message) = &response.error_message {
            what = format!("{what}: {message}");
        }
        Error::from_code(response.error_code, what)
    }

    /// The broker misses sequences before `batch`.
    fn meet_gap(&mut self, answer: Answer, mut batch: Batch, error: Error, lanes: &mut impl Lanes) {
        let Answer { partition, .. } = answer;
        let order = batch.order();
        let state = &self.partitions[partition];
        if batch.maybe_written && !state.has_earlier(order) && state.has_witness(order) {
            batch.doubted = true;
            batch.last_error = Some(error);
            self.put_back(partition, batch, lanes);
            return;
        }
        if batch.astray && batch.maybe_written {
            // The log of another topic.
            batch.last_error = Some(error);
            self.put_back(partition, batch, lanes);
            return;
        }
        // A gap proves that neither this batch nor one behind it is in the log, and that what was doubted before it
        // is not either.
        batch.maybe_written = false;
        let doubted = state.queue.front().filter(|front| front.doubted);
        let first = doubted.map_or(order, Batch::order);
        let explained = self.partitions[partition].has_earlier(order)
            || self.partitions[partition].spoiled
            || batch.settled;
        let gap = error.clone();
        batch.last_error = Some(error);
        self.put_back(partition, batch, lanes);
        self.partitions[partition].absent_from(first);
        if !explained {
            self.note_failure(&gap);
            self.effects.push_back(Output::Gap(self.describe(partition)));
            self.spoil(partition);
            self.back_off(answer, 1);
        }
    }

    /// The broker knows nothing of our sequences, or of a later epoch.
    fn begin_anew(
        &mut self,
        answer: Answer,
        mut batch: Batch,
        error: Error,
        old_epoch: bool,
        lanes: &mut impl Lanes,
    ) {
        let Answer { partition, .. } = answer;
        self.note_failure(&error);
        if old_epoch {
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
            self.back_off(answer, attempts);
        }
    }

    /// The batch is larger than the broker takes.
    fn split(&mut self, answer: Answer, mut batch: Batch, error: Error, lanes: &mut impl Lanes) {
        let Answer { partition, .. } = answer;
        lanes.shrink(answer.now, partition, batch.wire_len());
        // If the whole may be in the log, its parts would be written a second time.
        let whole = batch.settled || batch.maybe_written;
        let parts = if whole { None } else { batch.split(&self.config.codec) };
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
                self.fail(partition, batch, error, false, lanes);
            }
        }
    }

    /// Some of its records are bad.
    fn refuse_records(
        &mut self,
        partition: usize,
        mut batch: Batch,
        response: &PartitionResponse,
        lanes: &mut impl Lanes,
    ) {
        let count = batch.count();
        let alone = count == 1;
        let reasons: Vec<_> = response
            .record_errors
            .iter()
            .filter_map(|bad| {
                let text = bad.message.as_deref().or(response.error_message.as_deref());
                let what = format!(
                    "the record was refused by {}: {}",
                    self.describe(partition),
                    text.unwrap_or("no reason was given")
                );
                Some((u32::try_from(bad.index).ok()?, Error::from_code(response.error_code, what)))
            })
            .collect();
        let others = if alone {
            self.refusal(partition, response)
        } else {
            Error::new(
                ErrorKind::Broker,
                format!("other records of the same batch were refused by {}", self.describe(partition)),
            )
            .with_advice("send it again")
            .with_retriable(true)
        };
        let settled = batch.settled;
        if let Some((_, reason)) = reasons.first() {
            self.note_failure(reason);
        }
        batch.refused(&reasons, others);
        self.finish(partition, &batch, settled, false, lanes);
        self.spoil_behind(partition, &batch);
    }

    /// The broker wants nothing of it.
    fn refuse(&mut self, answer: Answer, batch: Batch, error: Error, lanes: &mut impl Lanes) {
        let Answer { partition, .. } = answer;
        if ConditionKind::of(&error) == ConditionKind::NotAuthorized {
            let number = self.partitions[partition].topic;
            self.forbidden.insert(number, answer.now);
            let subject = Subject::Topic(self.topics[number].name.clone());
            let raise = Output::Raise(subject, ConditionKind::NotAuthorized, error.clone());
            self.effects.push_back(raise);
        }
        self.fail(partition, batch, error, false, lanes);
    }
}
