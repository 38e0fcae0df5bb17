//! Machine: what waits for one broker, and when it leaves.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{Pace, REQUEST_PARTITIONS_MAX};
use crate::Error;
use crate::producer::linger::{self, Decision, Load, Look};

/// A partition on a list. Entries are not looked for when a partition leaves its list: one whose ticket is not the
/// partition's latest is stale, and never comes back to life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) partition: usize,
    pub(super) ticket: u64,
    /// When the sender learned of the open batch, if there is one.
    pub(super) open_since: Instant,
}

/// Whether there is a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    #[default]
    None,
    /// It was asked for.
    Asked,
    Open,
}

#[derive(Debug, Default)]
pub(super) struct NodeState {
    pub(super) way: Way,
    pub(super) ready: VecDeque<Entry>,
    pub(super) open: VecDeque<Entry>,
    /// When the oldest of `open` was opened, at the latest.
    pub(super) open_since: Option<Instant>,
    /// So many at the front of `open` shall leave at once.
    pub(super) hurry: usize,
    /// What waited a moment ago.
    pub(super) look: Option<Look>,
    /// Records come as fast as before.
    pub(super) growing: bool,
    pub(super) in_flight: usize,
    /// Most partitions of its next request.
    pub(super) partitions_max: usize,
    pub(super) recent_records: usize,
    /// Why there is no connection.
    pub(super) unreachable: Option<Error>,
}

impl NodeState {
    pub(super) fn new() -> Self {
        Self { partitions_max: REQUEST_PARTITIONS_MAX, ..Self::default() }
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.ready.is_empty() || !self.open.is_empty()
    }

    /// Sees whether records come as fast as before. Open batches have `bytes`.
    pub(super) fn look(&mut self, now: Instant, bytes: usize) {
        let batches = self.open.len();
        let look = Look::new(now, batches, bytes);
        match &self.look {
            Some(before) if now < before.next(batches) => return,
            Some(before) => self.growing = look.is_worth_waiting(before, batches),
            None => self.growing = true,
        }
        self.look = Some(look);
    }

    /// What to do with open batches, which have `bytes`.
    pub(super) fn decide(
        &self,
        now: Instant,
        bytes: usize,
        in_flight_max: usize,
        linger: Option<Duration>,
    ) -> Decision {
        let load = Load {
            in_flight: self.in_flight,
            in_flight_max,
            recent_records: self.recent_records,
            batches: self.open.len(),
            waiting_bytes: bytes,
            oldest: self.open_since.unwrap_or(now),
            next_look: self.look.filter(|_| self.growing).map(|look| look.next(self.open.len())),
            hurry: self.hurry > 0,
        };
        linger::decide(now, &load, linger)
    }

    /// What appenders shall know, when nothing more is to be sent in the driver's look number `look`. If batches wait, a timer
    /// or an answer makes it look again, so that appenders need not.
    pub(super) fn resting_pace(&self, look: u64, in_flight_max: usize, linger: Option<Duration>) -> Pace {
        let waits = !self.open.is_empty() || self.in_flight >= in_flight_max;
        Pace { look: waits.then_some(look), ..self.pace(in_flight_max, linger) }
    }

    /// What appenders shall know.
    pub(super) fn pace(&self, in_flight_max: usize, linger: Option<Duration>) -> Pace {
        let busy =
            self.in_flight < in_flight_max && linger::gathers(self.in_flight, self.recent_records, linger);
        let target = linger::target(self.in_flight, in_flight_max, self.open.len(), linger);
        Pace { busy, target, look: None }
    }
}
