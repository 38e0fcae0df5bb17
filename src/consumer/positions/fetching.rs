//! Machine: what is fetched from whom, and what an answer means for a partition.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::handing_out::Item;
use super::place::Stage;
use super::{DENIED_PAUSE, EARLIEST, LATEST, Positions, Question, State};
use crate::cluster::ConditionKind;
use crate::consumer::Isolation;
use crate::consumer::batch::RecordBatch;
use crate::consumer::config::{OutOfRange, Truncation};
use crate::consumer::event::ConsumerEvent;
use crate::sync::budget::Ledger;
use crate::types::{NodeId, Offset, TopicPartition};
use crate::wire::Uuid;
use crate::{Error, ErrorKind};

/// Times in a row that an answer may hold nothing but the beginning of a batch.
pub(super) const CUTS_MAX: u32 = 16;
/// How long the first fetch after an assignment waits for look-ups, so that it covers what is assigned together.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(100);
/// Least bytes of a partition that are asked for.
const PART_MIN: usize = 16 << 10;
/// How often memory is asked for again while there is none.
const STARVED_PAUSE: Duration = Duration::from_millis(100);
/// A partition that stopped for a reason that may go away is tried again after this time.
const STOPPED_PAUSE: Duration = Duration::from_secs(60);

/// What is asked of a node for a partition, and under which state the answer counts.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) partition: TopicPartition,
    pub(crate) topic_id: Uuid,
    pub(crate) version: u64,
    pub(crate) assignment: u64,
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) last_epoch: i32,
    /// The leader's epoch changed since the position was known to be valid.
    pub(crate) unchecked: bool,
    /// Most bytes that the answer shall have.
    pub(crate) max_bytes: usize,
    /// What the partition holds of the memory budget.
    pub(crate) ledger: Arc<Ledger>,
}

/// What a node's fetch loop has to do.
#[derive(Debug)]
pub(crate) enum Plan {
    /// `settled`: as long as answers bring nothing and nothing changes, the same is to be asked again.
    Fetch { planned: Vec<Planned>, settled: bool },
    /// Nothing now; ask again after a change, or at this time.
    Wait(Option<Instant>),
    /// Nothing now; ask again after a change, when memory comes back, or at this time.
    Starve(Instant),
}

/// What a fetch brought for a partition.
#[derive(Debug)]
pub(crate) enum Fetched {
    Records(Records),
    /// The next batch is larger than what the partition may take now.
    Starved,
    OutOfRange,
    Diverging {
        epoch: i32,
        end_offset: i64,
    },
    /// Try again after a pause (not at all if a new leader is known already).
    Retry {
        pause: bool,
        error: Error,
    },
    Fatal(Error),
}

/// Records, or that there are none for the application.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) batch: Option<RecordBatch>,
    /// Where to fetch next.
    pub(crate) next_offset: i64,
    /// Epoch of the record in front of that.
    pub(crate) last_epoch: i32,
    pub(crate) high_watermark: i64,
    pub(crate) last_stable_offset: i64,
    /// What is at `next_offset` cannot be read.
    pub(crate) fault: Option<Error>,
    /// Nothing but the beginning of a batch was there.
    pub(crate) cut: bool,
}

impl State {
    /// What a fetch that leaves now asks for.
    fn planned(&self, partition: &TopicPartition, leader_epoch: i32, max_bytes: usize) -> Planned {
        Planned {
            partition: partition.clone(),
            topic_id: self.topic_id,
            version: self.version,
            assignment: self.assignment,
            offset: self.place.position,
            leader_epoch,
            last_epoch: self.place.last_epoch,
            unchecked: self.place.is_unchecked(leader_epoch),
            max_bytes,
            ledger: Arc::clone(self.account.ledger()),
        }
    }
}

impl Positions {
    /// Bytes that one partition may bring at once, where memory allows it.
    pub(super) fn enough(&self) -> usize {
        self.config.consumer.partition_max_bytes.min(self.config.budget.limit() / 8)
    }

    /// What to fetch from `node`. Waits while more than a little of what it answered can still be handed out: as much as
    /// one partition may bring. Until then fetching goes on, so that whoever takes a batch gets what there is by then, not
    /// what there was when the first record came. Waits too for a moment while partitions that were just assigned are
    /// being looked up.
    pub(crate) fn plan(&mut self, node: NodeId, now: Instant) -> Plan {
        let share = self.config.consumer.partition_max_bytes;
        let room = self.config.budget.room();
        let enough = self.enough();
        let mut planned = Vec::new();
        let (mut starving, mut fed) = (Vec::new(), Vec::new());
        let mut short = false;
        let mut waiting = 0;
        let mut next: Option<Instant> = None;
        for (partition, state) in &mut self.partitions {
            let Some((leader, leader_epoch)) = state.leader else { continue };
            if leader != node {
                continue;
            }
            if state.is_deliverable() {
                waiting += state.delivery.waiting_bytes();
                if waiting >= enough || room.common < enough {
                    return Plan::Wait(None);
                }
            }
            if state.revoking || state.delivery.paused || state.delivery.starved {
                continue;
            }
            match &state.place.stage {
                Stage::Fetching | Stage::Stopped { again: true } => {}
                // A look-up that takes long, or failed, is not waited for.
                Stage::Ask { asked, .. } if state.place.failures == 0 => {
                    let until = asked.unwrap_or(now) + LOOKUP_PATIENCE;
                    if until > now {
                        return Plan::Wait(Some(until));
                    }
                    continue;
                }
                _ => continue,
            }
            if let Some(at) = state.place.retry_at.filter(|at| *at > now) {
                next = Some(next.map_or(at, |next| next.min(at)));
                continue;
            }
            state.place.stage = Stage::Fetching;
            // More than its share is buffered and cannot be handed out: it leaves the session.
            if state.is_hidden() && state.delivery.is_full(share) {
                continue;
            }
            // Where memory is short, who holds some waits for those who hold none.
            let is_short = room.common < enough;
            short |= is_short;
            if is_short && state.account.ledger().held() > 0 {
                if !state.is_hidden() && state.trouble.is_none() {
                    starving.push(partition.clone());
                }
                continue;
            }
            if state.place.failures == 0 && matches!(state.trouble, Some((_, ConditionKind::Starving))) {
                fed.push(partition.clone());
            }
            // A batch that was cut off is asked for with more and more room.
            let grown =
                room.common.max(room.share).max(PART_MIN).saturating_mul(1 << state.place.cuts.min(16));
            planned.push(state.planned(partition, leader_epoch, grown.min(share)));
        }
        if short {
            self.config.budget.press();
        }
        for partition in fed {
            self.end_trouble(&partition);
        }
        starving.iter().for_each(|partition| self.raise_waiting(partition));
        match (planned.is_empty(), short) {
            (false, _) => Plan::Fetch { settled: next.is_none() && !short, planned },
            (true, false) => Plan::Wait(next),
            // Others may pause by then, and have something to give back.
            (true, true) => {
                let again = now + STARVED_PAUSE;
                Plan::Starve(next.map_or(again, |next| next.min(again)))
            }
        }
    }

    /// The broker is too old to detect truncation while fetching: ask for the end of the epoch first.
    pub(crate) fn check_epoch(&mut self, planned: &Planned) {
        let Some(state) = self.current(&planned.partition, planned.version) else { return };
        if state.place.stage == Stage::Fetching && state.place.last_epoch >= 0 {
            state.place.ask(Question::Epoch(state.place.last_epoch));
            self.asking.insert(planned.partition.clone());
        }
    }

    /// A fetch brought something for a partition. False if it is not what is wanted any more: the answer is held against
    /// what was asked of whom under which state.
    pub(crate) fn handle_fetched(
        &mut self,
        planned: &Planned,
        fetched: Fetched,
        now: Instant,
        dice: u64,
    ) -> bool {
        let partition = &planned.partition;
        let backoff = self.config.backoff;
        let out_of_range = self.config.consumer.out_of_range;
        let wanted = self
            .current(partition, planned.version)
            .filter(|state| state.place.stage == Stage::Fetching && state.place.position == planned.offset);
        let Some(state) = wanted else { return false };
        match fetched {
            Fetched::Records(records) => self.take_records(planned, records, now),
            Fetched::Starved => {
                state.place.failures += 1;
                state.place.retry_at = Some(now + backoff.delay(state.place.failures, dice));
                if !state.is_hidden() {
                    let message = format!(
                        "reading {partition} at offset {} waits for memory: its next batch is larger than what others \
                         leave",
                        state.place.position
                    );
                    self.raise_starving(partition, message);
                }
                self.config.budget.press();
            }
            Fetched::OutOfRange => {
                let position = state.place.position;
                let target = match out_of_range {
                    OutOfRange::Earliest => Some((EARLIEST, "the first offset")),
                    OutOfRange::Latest => Some((LATEST, "the end")),
                    OutOfRange::Stop => None,
                };
                match target {
                    Some((timestamp, place)) => {
                        let message = format!(
                            "{partition} has no offset {position} (any more); by policy reading goes on at {place}"
                        );
                        state.place.ask(Question::Offset(timestamp));
                        state.place.moving = Some(Error::new(ErrorKind::OffsetOutOfRange, message));
                    }
                    None => state.place.ask(Question::Range),
                }
                self.asking.insert(partition.clone());
            }
            Fetched::Diverging { epoch, end_offset } => self.truncated(partition, epoch, end_offset),
            Fetched::Retry { pause, error } => {
                if pause {
                    state.place.failures += 1;
                    let pause = match error.kind() {
                        ErrorKind::Authorization => DENIED_PAUSE,
                        _ => backoff.delay(state.place.failures, dice),
                    };
                    state.place.retry_at = Some(now + pause);
                    self.raise_failure(partition, error);
                }
            }
            Fetched::Fatal(error) => {
                let position = state.place.position;
                self.stop_until(partition, error, Some(position), Some(now + STOPPED_PAUSE));
            }
        }
        true
    }

    fn take_records(&mut self, planned: &Planned, records: Records, now: Instant) {
        let partition = &planned.partition;
        let config = &self.config.consumer;
        let end = match config.isolation {
            Isolation::ReadCommitted if records.last_stable_offset >= 0 => records.last_stable_offset,
            _ => records.high_watermark,
        };
        let tells_ends = config.partition_end_events;
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let Records { batch, next_offset, last_epoch, high_watermark, fault, cut, .. } = records;
        state.place.failures = 0;
        state.place.retry_at = None;
        state.place.checked_epoch = planned.leader_epoch;
        state.place.high_watermark = high_watermark;
        state.place.cuts = if cut { state.place.cuts + 1 } else { 0 };
        let moved = next_offset > state.place.position;
        if moved {
            // The epoch belongs to the record in front of the position: they move together.
            state.place.position = next_offset;
            state.place.last_epoch = last_epoch;
        }
        if moved || batch.is_some() {
            state.delivery.end_told = false;
        }
        match batch {
            Some(batch) => state.delivery.push(Item::Batch(batch)),
            None if moved && state.delivery.is_empty() => {
                state.step_over(partition, next_offset, last_epoch);
                self.uncommitted_marks.insert(partition.clone());
            }
            None if moved => state.delivery.push(Item::Nothing(next_offset, last_epoch)),
            None => {}
        }
        let position = state.place.position;
        let never_fits = || {
            let message =
                format!("{partition} has a batch at offset {position} that does not fit into a fetch");
            Error::new(ErrorKind::TooLarge, message).with_advice("raise the limit of bytes per partition")
        };
        match fault.or_else(|| (state.place.cuts > CUTS_MAX).then(never_fits)) {
            Some(error) => self.stop_until(partition, error, Some(position), Some(now + STOPPED_PAUSE)),
            None => {
                if tells_ends && !state.delivery.end_told && end >= 0 && position >= end {
                    state.delivery.end_told = true;
                    state.delivery.push(Item::End(position));
                }
                state.delivery.stop_told = false;
                self.end_trouble(partition);
            }
        }
        self.make_ready(partition);
    }

    /// What was read up to the position, with records of `epoch` at last, is in the log up to `end_offset` alone.
    pub(super) fn truncated(&mut self, partition: &TopicPartition, epoch: i32, end_offset: i64) {
        let policy = self.config.consumer.truncation;
        let version = self.next_version();
        let Some(state) = self.partitions.get_mut(partition) else { return };
        // Without a known end there is nothing to compare with.
        if end_offset < 0 {
            return;
        }
        // What was fetched and not handed out may be of the log that is gone.
        let taken = state.delivery.taken;
        state.discard(version);
        state.place.position = taken;
        if end_offset >= taken {
            // Nothing that the application has seen is void.
            return state.move_to(taken, if end_offset == taken { epoch } else { -1 });
        }
        let error = Error::new(
            ErrorKind::OffsetOutOfRange,
            format!(
                "{partition} was truncated: reading had come to {taken}, but the log has changed from {end_offset} on"
            ),
        );
        match policy {
            Truncation::Resume => {
                state.move_to(end_offset, epoch);
                self.events.push_back(ConsumerEvent::PositionReset {
                    partition: partition.clone(),
                    from: Offset(taken),
                    to: Offset(end_offset),
                    error,
                });
            }
            Truncation::Stop => {
                let error = error.with_advice(
                    "a leader without all records was elected; seek to where to go on, or set the policy for truncation",
                );
                self.stop(partition, error, Some(taken));
            }
        }
    }
}
