//! Idempotent producers of one partition (KIP-98): epochs, sequences, and the window of the last five batches in which
//! a repeated batch is recognised and answered with its first offset.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::{BatchHead, Log, Refusal};
use crate::ErrorCode;

/// Batches per producer that are remembered, as Kafka does.
const WINDOW: usize = 5;
/// A producer that wrote nothing for so long is forgotten, Kafka's `producer.id.expiration.ms`.
const EXPIRES_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Append it.
    Append,
    /// It was appended before, at this base offset.
    Duplicate { base_offset: i64, last_offset: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Appended {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    last_offset: i64,
}

#[derive(Clone, Debug)]
struct Producer {
    /// When it wrote last.
    seen: Instant,
    epoch: i16,
    /// Ascending by offset, at most [`WINDOW`].
    batches: VecDeque<Appended>,
    /// Last sequence of `epoch`; `None` before its first batch.
    last_sequence: Option<i32>,
}

/// The producers that a partition has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Producers {
    known: BTreeMap<i64, Producer>,
    /// How many there are when the next look for expired ones is due.
    prune_at: usize,
}

impl Producers {
    /// Decides about a batch before it is appended.
    pub(crate) fn admit(&self, head: &BatchHead) -> Result<Admission, Refusal> {
        if head.producer_id < 0 {
            return Ok(Admission::Append);
        }
        if head.base_sequence < 0 || head.producer_epoch < 0 {
            return Err(Refusal::new(
                ErrorCode::INVALID_RECORD,
                "A batch with a producer id needs a producer epoch and a sequence",
            ));
        }
        let Some(producer) = self.known.get(&head.producer_id) else {
            // Nothing is known, maybe because retention removed it all: Kafka accepts any sequence then.
            return Ok(Admission::Append);
        };
        if head.producer_epoch < producer.epoch {
            return Err(Refusal::new(
                ErrorCode::INVALID_PRODUCER_EPOCH,
                format!(
                    "Epoch of producer {} is {}, which is smaller than the last seen epoch {}",
                    head.producer_id, head.producer_epoch, producer.epoch
                ),
            ));
        }
        if head.producer_epoch > producer.epoch {
            return in_order(head, None, head.base_sequence == 0);
        }
        let (first, last) = (head.base_sequence, head.last_sequence());
        let known = producer
            .batches
            .iter()
            .find(|known| known.first_sequence == first && known.last_sequence == last);
        if let Some(known) = known {
            return Ok(Admission::Duplicate {
                base_offset: known.base_offset,
                last_offset: known.last_offset,
            });
        }
        match producer.last_sequence {
            Some(seen) => in_order(head, Some(seen), first == next_sequence(seen)),
            None => Ok(Admission::Append),
        }
    }

    /// Notes an appended batch.
    pub(crate) fn appended(&mut self, head: &BatchHead, base_offset: i64, now: Instant) {
        if head.producer_id < 0 {
            return;
        }
        if self.known.len() >= self.prune_at {
            self.known.retain(|_, producer| now.saturating_duration_since(producer.seen) < EXPIRES_AFTER);
            self.prune_at = (self.known.len() * 2).max(16);
        }
        let producer = self.known.entry(head.producer_id).or_insert_with(|| Producer {
            seen: now,
            epoch: head.producer_epoch,
            batches: VecDeque::new(),
            last_sequence: None,
        });
        producer.seen = now;
        if producer.epoch != head.producer_epoch {
            producer.epoch = head.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == WINDOW {
            producer.batches.pop_front();
        }
        producer.last_sequence = Some(head.last_sequence());
        producer.batches.push_back(Appended {
            first_sequence: head.base_sequence,
            last_sequence: head.last_sequence(),
            base_offset,
            last_offset: base_offset + i64::from(head.last_offset_delta),
        });
    }

    /// The state that a leader whose log is `log` builds when it truncated or took over.
    pub(crate) fn rebuild(log: &Log, now: Instant) -> Self {
        let mut producers = Self::default();
        for batch in log.batches() {
            producers.appended(&batch.head, batch.base_offset, now);
        }
        producers
    }
}

fn next_sequence(sequence: i32) -> i32 {
    if sequence == i32::MAX { 0 } else { sequence + 1 }
}

fn in_order(head: &BatchHead, seen: Option<i32>, ok: bool) -> Result<Admission, Refusal> {
    if ok {
        return Ok(Admission::Append);
    }
    Err(Refusal::new(
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        format!(
            "Out of order sequence number for producer {}: {} (incoming seq. number), {} (current end sequence number)",
            head.producer_id,
            head.base_sequence,
            seen.unwrap_or(-1)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::log::{parse, test_batch};

    fn head(epoch: i16, sequence: i32, count: i32) -> BatchHead {
        parse(&test_batch(count, (9, epoch, sequence), true)).unwrap()
    }

    fn code(result: Result<Admission, Refusal>) -> ErrorCode {
        result.unwrap_err().code
    }

    #[test]
    fn repeats_within_the_window_are_recognised() {
        let mut producers = Producers::default();
        let now = Instant::now();
        for round in 0..6 {
            let head = head(0, round * 10, 10);
            assert_eq!(producers.admit(&head), Ok(Admission::Append));
            producers.appended(&head, i64::from(round) * 10, now);
        }
        for round in 1..6i32 {
            let base_offset = i64::from(round) * 10;
            assert_eq!(
                producers.admit(&head(0, round * 10, 10)),
                Ok(Admission::Duplicate { base_offset, last_offset: base_offset + 9 })
            );
        }
        assert_eq!(code(producers.admit(&head(0, 0, 10))), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(code(producers.admit(&head(0, 50, 5))), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(code(producers.admit(&head(0, 70, 10))), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    }

    #[test]
    fn epochs_fence_and_restart_sequences() {
        let mut producers = Producers::default();
        producers.appended(&head(3, 40, 2), 0, Instant::now());
        assert_eq!(code(producers.admit(&head(2, 42, 1))), ErrorCode::INVALID_PRODUCER_EPOCH);
        assert_eq!(code(producers.admit(&head(4, 42, 1))), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(producers.admit(&head(4, 0, 1)), Ok(Admission::Append));
    }

    #[test]
    fn sequences_wrap_and_unknown_producers_may_start_anywhere() {
        let mut producers = Producers::default();
        let wrapping = head(0, i32::MAX - 1, 4);
        assert_eq!(producers.admit(&wrapping), Ok(Admission::Append));
        producers.appended(&wrapping, 0, Instant::now());
        assert_eq!(producers.admit(&head(0, 2, 1)), Ok(Admission::Append));
        let last = head(0, i32::MAX, 1);
        assert_eq!(last.last_sequence(), i32::MAX);
        assert_eq!(next_sequence(last.last_sequence()), 0);
    }

    #[test]
    fn producers_that_stay_away_are_forgotten() {
        let mut producers = Producers::default();
        let mut now = Instant::now();
        for id in 0..10_000i64 {
            let head = parse(&test_batch(1, (id, 0, 0), true)).unwrap();
            producers.appended(&head, id, now);
            now += Duration::from_secs(3600);
        }
        assert!(producers.known.len() <= 50, "{}", producers.known.len());
        assert!(producers.known.contains_key(&9_999));
    }
}
