//! Machine: which callbacks besides `consume` are due in a partition. When nothing else runs there the coordinator asks.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::Lane;
use super::output::{Callbacks, Outcome};
use crate::app::snapshot::JobKind;
use crate::deadline;

/// See the module.
#[derive(Debug)]
pub(super) struct Calls {
    wanted: Callbacks,
    /// The partition came, and nobody was told.
    initialize: bool,
    /// The end of the partition was reached, and nobody was told.
    at_end: bool,
    /// Of those who were to be told of the end, the lanes that were not.
    untold: Vec<u32>,
    /// When the next tick is due, if nothing runs before.
    pub(super) tick_at: Option<Instant>,
    /// Lanes that ran. Only where callbacks are for all of them.
    lanes: BTreeSet<u32>,
}

impl Calls {
    pub(super) fn new(wanted: Callbacks) -> Self {
        Self {
            wanted,
            initialize: false,
            at_end: false,
            untold: Vec::new(),
            tick_at: None,
            lanes: BTreeSet::new(),
        }
    }

    /// The partition was assigned.
    pub(super) fn assigned(&mut self, now: Instant) {
        self.initialize = self.wanted.initialized;
        self.rest(now);
    }

    /// A handler runs in this lane.
    pub(super) fn ran(&mut self, lane: u32) {
        if self.wanted.eofed || self.wanted.every.is_some() {
            self.lanes.insert(lane);
        }
    }

    /// What ran has ended: the time to the next tick begins.
    pub(super) fn rest(&mut self, now: Instant) {
        self.tick_at = self.wanted.every.map(|every| deadline::after(now, every));
    }

    /// The end of the partition was reached, or is left again.
    pub(super) fn set_at_end(&mut self, at_end: bool) {
        self.at_end = at_end && self.wanted.eofed;
        self.untold.clear();
    }

    /// A callback ended. What did not begin is due as before; `loaded` if the partition has records again, so that its end
    /// is another one.
    pub(super) fn ended(&mut self, now: Instant, kind: JobKind, lanes: &[Lane], loaded: bool) {
        let untold = lanes.iter().filter(|lane| lane.outcome == Some(Outcome::NotBegun));
        let untold: Vec<u32> = untold.map(|lane| lane.id).collect();
        match kind {
            _ if untold.is_empty() => {}
            JobKind::Initialized => self.initialize = true,
            JobKind::Eofed if !loaded => (self.at_end, self.untold) = (true, untold),
            JobKind::Tick => self.tick_at = Some(now),
            _ => {}
        }
    }

    /// True if the consumer has to be told that the partition came before anything else runs.
    pub(super) fn initializes(&self) -> bool {
        self.initialize
    }

    /// True if the consumer has to be told of the end of the partition.
    pub(super) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// The lanes of a callback that runs now: those that have a consumer, or the first one.
    pub(super) fn begin(&mut self, kind: JobKind) -> Vec<u32> {
        match kind {
            JobKind::Initialized => self.initialize = false,
            JobKind::Eofed => self.at_end = false,
            _ => {}
        }
        if self.lanes.is_empty() {
            self.ran(0);
        }
        if kind == JobKind::Initialized || self.lanes.is_empty() {
            return vec![0];
        }
        if kind == JobKind::Eofed && !self.untold.is_empty() {
            return std::mem::take(&mut self.untold);
        }
        self.lanes.iter().copied().collect()
    }
}
