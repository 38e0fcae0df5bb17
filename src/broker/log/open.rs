//! Transactions of one partition: which are open, which have ended, and up to where a reader of committed records may read.

use std::collections::{BTreeMap, VecDeque};

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aborted {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
    /// Offset of the marker.
    pub(crate) last_offset: i64,
}

/// Open and ended transactions of a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transactions {
    /// Producer by first offset.
    open: BTreeMap<i64, i64>,
    /// Offset of the marker by first offset, of those whose marker is not committed yet.
    ending: BTreeMap<i64, i64>,
    /// In the order of their markers.
    aborted: VecDeque<Aborted>,
}

impl Transactions {
    pub(super) fn begin(&mut self, producer_id: i64, first_offset: i64) {
        self.open.insert(first_offset, producer_id);
    }

    pub(super) fn end(&mut self, ended: Aborted, commit: bool) {
        self.open.remove(&ended.first_offset);
        self.ending.insert(ended.first_offset, ended.last_offset);
        if !commit {
            self.aborted.push_back(ended);
        }
    }

    /// Forgets what nobody can read any more, and what is over for every reader.
    pub(super) fn advance(&mut self, log_start: i64, high_watermark: i64) {
        self.ending.retain(|_, marker| *marker >= high_watermark);
        while self.aborted.front().is_some_and(|aborted| aborted.last_offset < log_start) {
            self.aborted.pop_front();
        }
    }

    /// First offset of a transaction that is open, or whose end is not committed yet.
    pub(super) fn first_unstable(&self, high_watermark: i64) -> Option<i64> {
        let open = self.open.keys().next();
        let ending = self.ending.iter().find(|(_, marker)| **marker >= high_watermark);
        open.into_iter().chain(ending.map(|(first, _)| first)).min().copied()
    }

    /// The aborted transactions that touch `from..to`, in the order of their markers.
    pub(super) fn aborted(&self, from: i64, to: i64) -> impl Iterator<Item = &Aborted> {
        let first = self.aborted.partition_point(|aborted| aborted.last_offset < from);
        self.aborted.range(first..).filter(move |aborted| aborted.first_offset < to)
    }
}
