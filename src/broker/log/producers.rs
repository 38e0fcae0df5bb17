//! Idempotent producers of one partition (KIP-98): epochs, sequences, and the window of the last five batches in which
//! a repeated batch is recognised and answered with its first offset. With them go the transactions of the partition.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::open::{Aborted, Transactions};
use super::{BatchHead, Log, Marker, Refusal};
use crate::ErrorCode;

/// Batches per producer that are remembered, as Kafka does.
const WINDOW: usize = 5;
/// A producer that wrote nothing for so long is forgotten, Kafka's `producer.id.expiration.ms`. One with an open transaction
/// is not.
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

/// What a partition knows of a producer (KIP-664).
#[derive(Clone, Debug)]
pub(crate) struct Producer {
    /// When it wrote last.
    seen: Instant,
    pub(crate) epoch: i16,
    /// Milliseconds since 1970.
    pub(crate) last_timestamp: i64,
    /// Of the last marker; -1 before the first.
    pub(crate) coordinator_epoch: i32,
    /// Where its open transaction begins.
    pub(crate) transaction_start: Option<i64>,
    /// Ascending by offset, at most [`WINDOW`].
    batches: VecDeque<Appended>,
    /// Last sequence of `epoch`; `None` before its first batch.
    pub(crate) last_sequence: Option<i32>,
}

impl Producer {
    fn new(epoch: i16, now: Instant) -> Self {
        Self {
            seen: now,
            epoch,
            last_timestamp: -1,
            coordinator_epoch: -1,
            transaction_start: None,
            batches: VecDeque::new(),
            last_sequence: None,
        }
    }

    /// Notes the epoch of what it wrote; a new one begins its sequences anew.
    fn set_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
            self.last_sequence = None;
        }
    }
}

/// A marker on its way into a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) marker: Marker,
    /// The transaction began by version 2 of the protocol (KIP-890): its end has an epoch of its own.
    pub(crate) bumps: bool,
}

/// The producers that a partition has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Producers {
    known: BTreeMap<i64, Producer>,
    transactions: Transactions,
    /// How many there are when the next look for expired ones is due.
    prune_at: usize,
}

impl Producers {
    /// Decides about a batch before it is appended. `from_zero` says that a producer of whom nothing is known must begin
    /// with sequence 0, as those that use version 2 of the protocol (KIP-890).
    pub(crate) fn admit(&self, head: &BatchHead, from_zero: bool) -> Result<Admission, Refusal> {
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
            return in_order(head, None, !from_zero || head.base_sequence == 0);
        };
        if head.producer_epoch < producer.epoch {
            return Err(old_epoch(head.producer_id, head.producer_epoch, producer.epoch));
        }
        if head.producer_epoch > producer.epoch {
            in_order(head, None, head.base_sequence == 0)?;
            return transactional_if_open(head, producer);
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
        let expected = producer.last_sequence.map_or(0, next_sequence);
        in_order(head, producer.last_sequence, first == expected)?;
        transactional_if_open(head, producer)
    }

    /// Why an older epoch than the last may not write, before anybody is asked about its transaction.
    pub(crate) fn check_epoch(&self, head: &BatchHead) -> Result<(), Refusal> {
        match self.known.get(&head.producer_id) {
            Some(producer) if head.producer_epoch < producer.epoch => {
                Err(old_epoch(head.producer_id, head.producer_epoch, producer.epoch))
            }
            _ => Ok(()),
        }
    }

    /// True if a transaction of this producer and epoch is open here.
    pub(crate) fn is_open(&self, producer_id: i64, epoch: i16) -> bool {
        let known = self.known.get(&producer_id);
        known.is_some_and(|producer| producer.epoch == epoch && producer.transaction_start.is_some())
    }

    /// Decides about a marker. One of version 2 must bring a new epoch, unless it repeats the last.
    pub(crate) fn admit_marker(&self, ending: &Ending) -> Result<(), ErrorCode> {
        let Some(producer) = self.known.get(&ending.producer_id) else { return Ok(()) };
        let (epoch, known) = (ending.producer_epoch, producer.epoch);
        let repeated = epoch == known && (producer.transaction_start.is_none() || epoch == i16::MAX);
        if epoch < known || (ending.bumps && epoch == known && !repeated) {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if ending.marker.coordinator_epoch < producer.coordinator_epoch {
            return Err(ErrorCode::TRANSACTION_COORDINATOR_FENCED);
        }
        Ok(())
    }

    /// Notes an appended batch.
    pub(crate) fn appended(&mut self, head: &BatchHead, base_offset: i64, now: Instant) {
        if head.producer_id < 0 {
            return;
        }
        self.prune(now);
        let producer =
            self.known.entry(head.producer_id).or_insert_with(|| Producer::new(head.producer_epoch, now));
        producer.seen = now;
        producer.last_timestamp = head.max_timestamp;
        producer.set_epoch(head.producer_epoch);
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
        if head.is_transactional() && producer.transaction_start.is_none() {
            producer.transaction_start = Some(base_offset);
            self.transactions.begin(head.producer_id, base_offset);
        }
    }

    /// Notes an appended marker.
    pub(crate) fn ended(&mut self, ending: &Ending, offset: i64, timestamp: i64, now: Instant) {
        self.prune(now);
        let epoch = ending.producer_epoch;
        let producer = self.known.entry(ending.producer_id).or_insert_with(|| Producer::new(epoch, now));
        producer.seen = now;
        producer.last_timestamp = timestamp;
        producer.coordinator_epoch = ending.marker.coordinator_epoch;
        producer.set_epoch(epoch);
        if let Some(first_offset) = producer.transaction_start.take() {
            let ended = Aborted { producer_id: ending.producer_id, first_offset, last_offset: offset };
            self.transactions.end(ended, ending.marker.commit);
        }
    }

    fn prune(&mut self, now: Instant) {
        if self.known.len() >= self.prune_at {
            self.known.retain(|_, producer| {
                producer.transaction_start.is_some()
                    || now.saturating_duration_since(producer.seen) < EXPIRES_AFTER
            });
            self.prune_at = (self.known.len() * 2).max(16);
        }
    }

    /// Forgets what only mattered below these offsets.
    pub(crate) fn advance(&mut self, log_start: i64, high_watermark: i64) {
        self.transactions.advance(log_start, high_watermark);
    }

    /// Up to where a reader of committed records may read (KIP-98).
    pub(crate) fn last_stable_offset(&self, log_start: i64, high_watermark: i64) -> i64 {
        let unstable = self.transactions.first_unstable(high_watermark);
        unstable.map_or(high_watermark, |first| first.max(log_start).min(high_watermark))
    }

    /// The aborted transactions that touch `from..to`, in the order of their markers.
    pub(crate) fn aborted(&self, from: i64, to: i64) -> impl Iterator<Item = &Aborted> {
        self.transactions.aborted(from, to)
    }

    /// Every producer that has not expired, by its id.
    pub(crate) fn active(&self, now: Instant) -> impl Iterator<Item = (i64, &Producer)> {
        let lives = move |producer: &Producer| {
            producer.transaction_start.is_some()
                || now.saturating_duration_since(producer.seen) < EXPIRES_AFTER
        };
        self.known.iter().filter(move |(_, producer)| lives(producer)).map(|(id, producer)| (*id, producer))
    }

    /// The state that a leader whose log is `log` builds when it truncated or took over.
    pub(crate) fn rebuild(log: &Log, now: Instant) -> Self {
        let mut producers = Self::default();
        for batch in log.batches() {
            match Marker::read(batch) {
                Some(marker) => {
                    let (producer_id, producer_epoch) = (batch.head.producer_id, batch.head.producer_epoch);
                    let ending = Ending { producer_id, producer_epoch, marker, bumps: false };
                    producers.ended(&ending, batch.base_offset, batch.head.max_timestamp, now);
                }
                None => producers.appended(&batch.head, batch.base_offset, now),
            }
        }
        producers
    }
}

/// While a transaction is open its producer may write nothing else.
fn transactional_if_open(head: &BatchHead, producer: &Producer) -> Result<Admission, Refusal> {
    if producer.transaction_start.is_none() || head.is_transactional() {
        return Ok(Admission::Append);
    }
    Err(Refusal::new(
        ErrorCode::INVALID_TXN_STATE,
        format!("Expected transactional write from producer {}", head.producer_id),
    ))
}

fn old_epoch(producer_id: i64, epoch: i16, seen: i16) -> Refusal {
    Refusal::new(
        ErrorCode::INVALID_PRODUCER_EPOCH,
        format!(
            "Epoch of producer {producer_id} is {epoch}, which is smaller than the last seen epoch {seen}"
        ),
    )
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
            assert_eq!(producers.admit(&head, false), Ok(Admission::Append));
            producers.appended(&head, i64::from(round) * 10, now);
        }
        for round in 1..6i32 {
            let base_offset = i64::from(round) * 10;
            assert_eq!(
                producers.admit(&head(0, round * 10, 10), false),
                Ok(Admission::Duplicate { base_offset, last_offset: base_offset + 9 })
            );
        }
        assert_eq!(code(producers.admit(&head(0, 0, 10), false)), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(code(producers.admit(&head(0, 50, 5), false)), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(code(producers.admit(&head(0, 70, 10), false)), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    }

    #[test]
    fn epochs_fence_and_restart_sequences() {
        let mut producers = Producers::default();
        producers.appended(&head(3, 40, 2), 0, Instant::now());
        assert_eq!(code(producers.admit(&head(2, 42, 1), false)), ErrorCode::INVALID_PRODUCER_EPOCH);
        assert_eq!(code(producers.admit(&head(4, 42, 1), false)), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(producers.admit(&head(4, 0, 1), false), Ok(Admission::Append));
    }

    #[test]
    fn sequences_wrap_and_unknown_producers_may_start_anywhere() {
        let mut producers = Producers::default();
        let wrapping = head(0, i32::MAX - 1, 4);
        assert_eq!(producers.admit(&wrapping, false), Ok(Admission::Append));
        producers.appended(&wrapping, 0, Instant::now());
        assert_eq!(producers.admit(&head(0, 2, 1), false), Ok(Admission::Append));
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
