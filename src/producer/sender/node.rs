//! Machine: what waits for one broker, and when it leaves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::REQUEST_PARTITIONS_MAX;
use crate::Error;
use crate::producer::lane::Gauge;
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

#[derive(Debug, Default)]
pub(super) struct NodeState {
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
    pub(super) gauge: Arc<Gauge>,
    /// Why there is no connection.
    pub(super) unreachable: Option<Error>,
}

impl NodeState {
    pub(super) fn new() -> Self {
        Self { partitions_max: REQUEST_PARTITIONS_MAX, ..Self::default() }
    }

    /// Sees whether records come as fast as before.
    pub(super) fn look(&mut self, now: Instant) {
        let batches = self.open.len();
        let look = Look::new(now, batches, self.gauge.bytes.load(Ordering::Relaxed));
        match &self.look {
            Some(before) if now < before.next(batches) => return,
            Some(before) => self.growing = look.is_worth_waiting(before, batches),
            None => self.growing = true,
        }
        self.look = Some(look);
    }

    pub(super) fn decide(&self, now: Instant, in_flight_max: usize, linger: Option<Duration>) -> Decision {
        let load = Load {
            in_flight: self.in_flight,
            in_flight_max,
            recent_records: self.recent_records,
            batches: self.open.len(),
            waiting_bytes: self.gauge.bytes.load(Ordering::Relaxed),
            oldest: self.open_since.unwrap_or(now),
            next_look: self.look.filter(|_| self.growing).map(|look| look.next(self.open.len())),
            hurry: self.hurry > 0,
        };
        linger::decide(now, &load, linger)
    }

    /// Nothing more is to be sent in the driver's look number `look`.
    pub(super) fn rest(&self, look: u64, in_flight_max: usize, linger: Option<Duration>) {
        self.set_gauge(in_flight_max, linger);
        if !self.open.is_empty() || self.in_flight >= in_flight_max {
            self.gauge.look.store(look, Ordering::Relaxed);
        }
    }

    pub(super) fn set_gauge(&self, in_flight_max: usize, linger: Option<Duration>) {
        let busy =
            self.in_flight < in_flight_max && linger::gathers(self.in_flight, self.recent_records, linger);
        self.gauge.busy.store(busy, Ordering::Relaxed);
        let target = linger::target(self.in_flight, in_flight_max, self.open.len(), linger);
        self.gauge.target.store(target, Ordering::Relaxed);
    }
}
