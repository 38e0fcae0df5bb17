//! Machine: where the partitions begin that were assigned: rounds of asking for what the group has committed, until every
//! partition was told.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::consumer::positions::Positions;
use crate::deadline;
use crate::types::TopicPartition;

/// One round of fetching committed offsets.
const ROUND: Duration = Duration::from_secs(30);

/// A round that is to be asked.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) number: u64,
    pub(crate) partitions: Vec<TopicPartition>,
    pub(crate) deadline: Instant,
}

/// The rounds.
#[derive(Debug)]
pub(crate) struct Offsets {
    backoff: Backoff,
    round: u64,
    /// What the current round asks for: the assignment of each partition.
    waiting: BTreeMap<TopicPartition, u64>,
    /// A round is out.
    asking: bool,
    /// When the next one begins, if some partition still waits.
    due: Option<Instant>,
    /// The current round has told somebody something.
    progress: bool,
    failures: u32,
    rounds: VecDeque<Round>,
}

impl Offsets {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            round: 0,
            waiting: BTreeMap::new(),
            asking: false,
            due: None,
            progress: false,
            failures: 0,
            rounds: VecDeque::new(),
        }
    }

    /// Partitions were assigned: a new round takes the place of the one that is out.
    pub(crate) fn handle_assigned(&mut self, now: Instant) {
        self.asking = false;
        self.failures = 0;
        self.due = Some(now);
    }

    /// In which assignment round `number` asked for `partition`; none if it did not, or is not the current one.
    pub(crate) fn asked(&self, number: u64, partition: &TopicPartition) -> Option<u64> {
        self.waiting.get(partition).filter(|_| self.asking && number == self.round).copied()
    }

    /// The current round has told where partitions begin.
    pub(crate) fn handle_told(&mut self) {
        self.progress = true;
    }

    /// Round `number` is over. What it did not tell is asked again, unless it is `last`.
    pub(crate) fn handle_over(&mut self, now: Instant, dice: u64, number: u64, last: bool) {
        if !self.asking || number != self.round {
            return;
        }
        self.asking = false;
        self.failures = if self.progress { 0 } else { self.failures + 1 };
        self.due = (!last).then(|| deadline::after(now, self.backoff.delay(self.failures, dice)));
    }

    /// Begins a round if one is due and some partition waits for it.
    pub(crate) fn handle_timeout(&mut self, now: Instant, positions: &Positions) {
        if self.asking || self.due.is_none_or(|at| at > now) {
            return;
        }
        self.due = None;
        self.waiting = positions.uncommitted().into_iter().collect();
        if self.waiting.is_empty() {
            return;
        }
        self.round += 1;
        self.asking = true;
        self.progress = false;
        let partitions = self.waiting.keys().cloned().collect();
        self.rounds.push_back(Round { number: self.round, partitions, deadline: now + ROUND });
    }

    /// A round to ask.
    pub(crate) fn poll_output(&mut self) -> Option<Round> {
        self.rounds.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) may have something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.due.filter(|_| !self.asking)
    }
}
