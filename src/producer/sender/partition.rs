//! One partition as the sender sees it: what waits, what is on the way, and which sequences count.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::Entry;
use super::era::Era;
use crate::Error;
use crate::producer::batch::{Batch, add_sequence};
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
/// a sequence belongs to `era`; batches that are doubted stand at the head of `queue`, with one that may tell behind them.
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
    /// Until then the former leader may answer; after that, what is on the way to it goes to the new one.
    pub(super) overtake_at: Option<Instant>,
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
    /// Why nothing is sent to it any more: the topic has no such partition.
    pub(super) gone: Option<Error>,
    /// Its broker refuses what is sent, which was reported.
    pub(super) troubled: bool,
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
            overtake_at: None,
            retry_at: None,
            probing: true,
            era: Era::NONE,
            next_sequence: 0,
            spoiled: false,
            listed: Listed::No,
            ticket: 0,
            gone: None,
            troubled: false,
        }
    }

    /// The batch to be sent next.
    pub(super) fn next(&self) -> Option<&Batch> {
        self.queue.iter().find(|batch| !batch.doubted)
    }

    /// Takes the batch to be sent next.
    pub(super) fn take_next(&mut self) -> Option<Batch> {
        let at = self.queue.iter().position(|batch| !batch.doubted)?;
        self.queue.remove(at)
    }

    /// The entry that puts it, as `partition`, on `list`; an earlier one is stale from now on.
    pub(super) fn list(&mut self, partition: usize, list: Listed) -> Entry {
        self.listed = list;
        self.ticket += 1;
        Entry { partition, ticket: self.ticket, open_since: self.open_since }
    }

    /// Whether a batch can be sent now. `era` is the current one, if it is known.
    pub(super) fn readiness(&self, now: Instant, in_flight_max: usize, era: Option<Era>) -> Readiness {
        let next = self.next();
        if let Some(at) = self.overtake_at
            && !self.sent.is_empty()
        {
            return Readiness::Until(at);
        }
        if next.is_none() && !self.open {
            return Readiness::Idle;
        }
        let Some(leader) = self.leader else { return Readiness::Blocked };
        if let Some(last) = self.sent.back() {
            if self.sent_to != leader {
                return Readiness::Blocked;
            }
            let limit = if self.probing { 1 } else { in_flight_max };
            // A retry not before those behind it have failed.
            let overtaken = next.is_some_and(|next| next.order() < last.batch.order());
            if self.sent.len() >= limit || overtaken || self.spoiled {
                return Readiness::Blocked;
            }
        }
        if let Some(at) = self.retry_at
            && at > now
        {
            return Readiness::Until(at);
        }
        if era.is_none() && next.is_none_or(|next| next.sequence.is_none() || !next.maybe_written) {
            return Readiness::NeedsEra;
        }
        Readiness::Ready(leader)
    }

    /// Gives the next batch a sequence if it has none, and moves the partition to `era` where that is possible and
    /// needed. Nothing is on the way if the partition is spoiled.
    pub(super) fn prepare_next(&mut self, era: Option<Era>) {
        if era == Some(Era::NONE) {
            return; // not idempotent
        }
        let Some(next) = self.next() else { return };
        if self.spoiled {
            // What may have been written is asked for under its old sequence first: success, duplicate and gap all say
            // whether it was.
            if next.maybe_written && next.sequence.is_some() {
                return;
            }
            let Some(era) = era else { return };
            self.enter(era);
        } else if let Some(era) = era
            && era != self.era
            && self.sent.is_empty()
            && next.sequence.is_none()
        {
            self.enter(era);
        }
        if let Some(next) = self.queue.iter_mut().find(|batch| !batch.doubted)
            && next.sequence.is_none()
        {
            next.sequence = Some(self.next_sequence);
            self.next_sequence = add_sequence(self.next_sequence, next.count());
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

    /// True if an earlier batch than `order` is not acknowledged. One that is doubted is no explanation of a gap.
    pub(super) fn has_earlier(&self, order: (u64, u32)) -> bool {
        self.next().is_some_and(|next| next.order() < order)
            || self.sent.front().is_some_and(|front| front.batch.order() < order)
    }

    /// True if a batch behind `order` may be in the log, and its answer will tell.
    pub(super) fn has_witness(&self, order: (u64, u32)) -> bool {
        let sent = self.sent.iter().map(|sent| &sent.batch);
        self.queue.iter().chain(sent).any(|batch| {
            batch.order() > order && !batch.doubted && batch.maybe_written && batch.sequence.is_some()
        })
    }

    /// Takes the batches that were doubted and are in the log, for one behind them is.
    pub(super) fn take_doubted(&mut self) -> impl Iterator<Item = Batch> {
        let count = self.queue.iter().take_while(|batch| batch.doubted).count();
        self.queue.drain(..count).map(|mut batch| {
            batch.doubted = false;
            batch
        })
    }

    /// Takes what waits and may have been written under the name of a topic that has been made anew.
    pub(super) fn take_astray(&mut self) -> Vec<Batch> {
        let (mut astray, mut at) = (Vec::new(), 0);
        while let Some(batch) = self.queue.get_mut(at) {
            batch.astray = batch.maybe_written && batch.named;
            if batch.astray {
                astray.extend(self.queue.remove(at));
            } else {
                at += 1;
            }
        }
        astray
    }

    /// The batch with `order` is not in the log, so nothing behind it under this era can be.
    pub(super) fn absent_from(&mut self, order: (u64, u32)) {
        for batch in self.queue.iter_mut().filter(|batch| batch.order() >= order && batch.sequence.is_some())
        {
            batch.maybe_written = false;
            batch.doubted = false;
        }
    }

    /// Takes the batch that went out with `request`.
    pub(super) fn take_sent(&mut self, request: u64) -> Option<Batch> {
        let at = self.sent.iter().position(|sent| sent.request == request)?;
        self.sent.remove(at).map(|sent| sent.batch)
    }
}
