//! Machine: what has to be asked of a partition's leader before, or instead of, fetching: offsets by time, the range of a
//! log, the end of an epoch.

use tokio::time::Instant;

use super::handing_out::Item;
use super::place::Stage;
use super::{DENIED_PAUSE, Positions};
use crate::consumer::config::StartOffset;
use crate::consumer::event::ConsumerEvent;
use crate::types::{NodeId, Offset, TopicPartition};
use crate::{Error, ErrorKind};

/// What has to be asked of a partition's leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub(crate) partition: TopicPartition,
    pub(crate) version: u64,
    pub(crate) leader: NodeId,
    pub(crate) leader_epoch: i32,
    pub(crate) question: Question,
}

/// The questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Question {
    /// The offset for this timestamp, or -1 latest, -2 earliest.
    Offset(i64),
    /// Earliest and latest, to explain why a position is out of range.
    Range,
    /// The end of this epoch, to detect truncation (KIP-320).
    Epoch(i32),
}

/// Timestamps of ListOffsets with a meaning of their own.
pub(crate) const LATEST: i64 = -1;
pub(crate) const EARLIEST: i64 = -2;

/// What answers a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Offset and leader epoch; offset -1 if no record matches.
    Offset {
        offset: i64,
        epoch: i32,
    },
    Range {
        earliest: i64,
        latest: i64,
    },
    /// The end of the largest epoch up to the one that was asked for; -1 if the broker does not know.
    Epoch {
        epoch: i32,
        end_offset: i64,
    },
}

impl Positions {
    /// What has to be asked; each question is returned once until it is answered or has another leader.
    pub(crate) fn lookups(&mut self) -> Vec<Lookup> {
        std::mem::take(&mut self.lookups)
    }

    /// Time has come to `now`: what has to be asked by then is among the [`lookups`](Self::lookups).
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let partitions = &mut self.partitions;
        self.asking
            .retain(|partition| partitions.get(partition).is_some_and(|state| state.place.is_asking()));
        debug_assert_eq!(
            self.asking.len(),
            partitions.values().filter(|state| state.place.is_asking()).count()
        );
        for partition in &self.asking {
            let Some(state) = partitions.get_mut(partition) else { continue };
            let Stage::Ask { question, asked } = &mut state.place.stage else { continue };
            if asked.is_some() || state.revoking || state.place.retry_at.is_some_and(|at| at > now) {
                continue;
            }
            let Some((leader, leader_epoch)) = state.leader else { continue };
            *asked = Some(now);
            self.lookups.push(Lookup {
                partition: partition.clone(),
                version: state.version,
                leader,
                leader_epoch,
                question: *question,
            });
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) may find more without a change.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let asking = self.asking.iter().filter_map(|partition| self.partitions.get(partition));
        let waiting = asking.filter(|state| matches!(state.place.stage, Stage::Ask { asked: None, .. }));
        waiting.filter_map(|state| state.place.retry_at).min()
    }

    /// A look-up was answered.
    pub(crate) fn handle_answer(&mut self, lookup: &Lookup, answer: Answer) {
        let partition = &lookup.partition;
        let next_version = self.next_version();
        let Some(state) = self.current(partition, lookup.version) else { return };
        let Stage::Ask { question, .. } = state.place.stage else { return };
        state.place.failures = 0;
        state.place.retry_at = None;
        match (question, answer) {
            // No record is that young: the end.
            (Question::Offset(timestamp), Answer::Offset { offset: -1, .. }) if timestamp != LATEST => {
                state.start_at(StartOffset::Latest);
            }
            (Question::Offset(_), Answer::Offset { offset, .. }) => {
                let from = state.place.position;
                let to = offset.max(0);
                let taken = state.delivery.taken;
                state.version = next_version;
                state.move_to(to, -1);
                if !state.delivery.is_empty() {
                    // What was fetched before is handed out first; only then has reading come there.
                    state.delivery.taken = taken;
                    state.delivery.push(Item::Nothing(to, -1));
                }
                if let Some(error) = state.place.moving.take() {
                    self.events.push_back(ConsumerEvent::PositionReset {
                        partition: partition.clone(),
                        from: Offset(from),
                        to: Offset(to),
                        error,
                    });
                }
                self.end_trouble(partition);
            }
            (Question::Range, Answer::Range { earliest, latest }) => {
                let position = state.place.position;
                let error = Error::new(
                    ErrorKind::OffsetOutOfRange,
                    format!(
                        "{partition} has offsets {earliest} to {latest}, but reading has come to {position}"
                    ),
                );
                let hint = if position < earliest {
                    "records expired before they were read; seek to where to go on, or set the policy for positions \
                     out of range"
                } else {
                    "the log lost its end, or is a new one under the same name; seek to where to go on, or set the \
                     policy for positions out of range"
                };
                self.stop(partition, error.with_advice(hint), Some(position));
            }
            (Question::Epoch(_), Answer::Epoch { epoch, end_offset }) => {
                state.place.checked_epoch = lookup.leader_epoch;
                state.place.stage = Stage::Fetching;
                // -1: the broker does not know the epoch any more, which is no sign of loss.
                if end_offset >= 0 && end_offset < state.place.position {
                    self.truncated(partition, epoch, end_offset);
                }
            }
            _ => state.place.ask(question),
        }
    }

    /// A look-up failed; it is asked again later, unless the error is final.
    pub(crate) fn handle_lookup_failed(&mut self, lookup: &Lookup, error: Error, now: Instant, dice: u64) {
        let backoff = self.config.backoff;
        let partition = &lookup.partition;
        let Some(state) = self.current(partition, lookup.version) else { return };
        let Stage::Ask { question, .. } = state.place.stage else { return };
        if !error.is_retriable() && error.kind() != ErrorKind::Authorization {
            let position = state.place.offset();
            return self.stop(partition, error, position);
        }
        let pause = match error.kind() {
            ErrorKind::Authorization => DENIED_PAUSE,
            _ => backoff.delay(state.place.failures + 1, dice),
        };
        state.place.failures += 1;
        state.place.retry_at = Some(now + pause);
        state.place.ask(question);
        self.raise_failure(partition, error);
    }
}
