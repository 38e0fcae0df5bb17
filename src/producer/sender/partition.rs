//! One partition as the sender sees it: what waits, what is on the way, and which sequences count.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::super::batch::{Batch, add_sequence};
use super::Entry;
use super::era::Era;
use crate::types::NodeId;

/// A batch on the way.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) request: u64,
    pub(super) batch: Batch,
}

/// On which list of which broker a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    No,
    /// Has closed batches to send.
    Ready(NodeId),
    /// Has an open batch alone.
    Open(NodeId),
}

/// What keeps a partition from being drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// There is nothing to send.
    Idle,
    /// An answer, or a leader, has to come first.
    Blocked,
    /// It backs off.
    Until(Instant),
    /// A producer id is needed.
    NeedsEra,
    /// A batch can be sent.
    Ready(NodeId),
}

/// Invariants: batches in `sent` and in `queue` are in order each; those of `sent` are all on the way to `sent_to`;
/// a sequence belongs to `era`.
#[derive(Debug)]
pub(super) struct Partition {
    /// Index of the topic.
    pub(super) topic: usize,
    pub(super) index: i32,
    pub(super) leader: Option<NodeId>,
    /// The lane has an open batch.
    pub(super) open: bool,
    /// When the sender learned of it.
    pub(super) open_since: Instant,
    /// Numbers of the batches in the lane: closed ones that are not ready, then the open one.
    pub(super) pending: VecDeque<u64>,
    pub(super) queue: VecDeque<Batch>,
    pub(super) sent: VecDeque<Sent>,
    pub(super) sent_to: NodeId,
    pub(super) retry_at: Option<Instant>,
    /// One batch is sent alone until it succeeds: after a failure, and at the beginning of an era. A broker that knows
    /// nothing of the producer accepts any first sequence, so if the first of several failed there (the leader of a new
    /// topic is not ready yet), those behind it would be written before it.
    pub(super) probing: bool,
    pub(super) era: Era,
    pub(super) next_sequence: i32,
    /// Sequences of `era` have a gap: a new era is needed before the next batch.
    pub(super) spoiled: bool,
    pub(super) listed: Listed,
    /// Of its latest entry on a list.
    pub(super) ticket: u64,
}

impl Partition {
    pub(super) fn new(topic: usize, index: i32, now: Instant) -> Self {
        Self {
            topic,
            index,
            leader: None,
            open: false,
            open_since: now,
            pending: VecDeque::new(),
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            sent_to: NodeId(-1),
            retry_at: None,
            probing: true,
            era: Era::NONE,
            next_sequence: 0,
            spoiled: false,
            listed: Listed::No,
            ticket: 0,
        }
    }

    /// The entry that puts it, as `partition`, on `list`; an earlier one is stale from now on.
    pub(super) fn list(&mut self, partition: usize, list: Listed) -> Entry {
        self.listed = list;
        self.ticket += 1;
        Entry { partition, ticket: self.ticket }
    }

    /// Whether a batch can be sent now. `era` is the current one, if it is known.
    pub(super) fn readiness(&self, now: Instant, in_flight_max: usize, era: Option<Era>) -> Readiness {
        if self.queue.is_empty() && !self.open {
            return Readiness::Idle;
        }
        let Some(leader) = self.leader else { return Readiness::Blocked };
        if let Some(last) = self.sent.back() {
            let limit = if self.probing { 1 } else { in_flight_max };
            // Not to a new leader while the old one may still answer; a retry not before those behind it have failed.
            let overtaken = self.queue.front().is_some_and(|front| front.order() < last.batch.order());
            if self.sent_to != leader || self.sent.len() >= limit || overtaken || self.spoiled {
                return Readiness::Blocked;
            }
        }
        if let Some(at) = self.retry_at
            && at > now
        {
            return Readiness::Until(at);
        }
        if era.is_none()
            && self.queue.front().is_none_or(|front| front.sequence.is_none() || !front.maybe_written)
        {
            return Readiness::NeedsEra;
        }
        Readiness::Ready(leader)
    }

    /// Gives the front batch a sequence if it has none, and moves the partition to `era` where that is possible and
    /// needed. Nothing is on the way if the partition is spoiled.
    pub(super) fn prepare_front(&mut self, era: Option<Era>) {
        if era == Some(Era::NONE) {
            return; // not idempotent
        }
        let Some(front) = self.queue.front() else { return };
        if self.spoiled {
            // What may have been written is asked for under its old sequence first: success, duplicate and gap all say
            // whether it was.
            if front.maybe_written && front.sequence.is_some() {
                return;
            }
            let Some(era) = era else { return };
            self.enter(era);
        } else if let Some(era) = era
            && era != self.era
            && self.sent.is_empty()
            && front.sequence.is_none()
        {
            self.enter(era);
        }
        if let Some(front) = self.queue.front_mut()
            && front.sequence.is_none()
        {
            front.sequence = Some(self.next_sequence);
            self.next_sequence = add_sequence(self.next_sequence, front.count());
        }
    }

    /// Sequences begin at 0.
    fn enter(&mut self, era: Era) {
        // See `probing`; what never left an era has not begun to count.
        self.probing |= self.era != Era::NONE;
        self.era = era;
        self.spoiled = false;
        self.next_sequence = 0;
        for batch in &mut self.queue {
            batch.sequence = None;
        }
    }

    /// Puts a batch back in its place.
    pub(super) fn requeue(&mut self, batch: Batch) {
        let at = self.queue.partition_point(|other| other.order() < batch.order());
        self.queue.insert(at, batch);
    }

    /// True if an earlier batch than `order` is not acknowledged.
    pub(super) fn has_earlier(&self, order: (u64, u32)) -> bool {
        self.queue.front().is_some_and(|front| front.order() < order)
            || self.sent.front().is_some_and(|front| front.batch.order() < order)
    }

    /// The batch with `order` is not in the log, so nothing behind it under this era can be.
    pub(super) fn absent_from(&mut self, order: (u64, u32)) {
        for batch in self.queue.iter_mut().filter(|batch| batch.order() >= order && batch.sequence.is_some())
        {
            batch.maybe_written = false;
        }
    }

    /// Takes the batch that went out with `request`.
    pub(super) fn take_sent(&mut self, request: u64) -> Option<Batch> {
        let at = self.sent.iter().position(|sent| sent.request == request)?;
        self.sent.remove(at).map(|sent| sent.batch)
    }
}
