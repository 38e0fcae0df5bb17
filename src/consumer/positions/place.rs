//! Machine: where reading a partition has come to, and what has to be asked before it goes on.

use tokio::time::Instant;

use super::Question;
use crate::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for the group's committed offset.
    Committed,
    /// A question for the leader, and since when it is out.
    Ask {
        question: Question,
        asked: Option<Instant>,
    },
    Fetching,
    /// `again`: tried again at times, since what is wrong may go away by itself.
    Stopped {
        again: bool,
    },
}

/// One partition's.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) stage: Stage,
    /// Where to fetch next.
    pub(super) position: i64,
    /// Epoch of the record in front of `position`; -1 for unknown.
    pub(super) last_epoch: i32,
    /// Leader epoch for which `position` is known to be valid.
    pub(super) checked_epoch: i32,
    pub(super) retry_at: Option<Instant>,
    pub(super) failures: u32,
    /// Times in a row that an answer held nothing but the beginning of a batch.
    pub(super) cuts: u32,
    pub(super) high_watermark: i64,
    /// Why reading goes on at the offset that is being looked up, by policy.
    pub(super) moving: Option<Error>,
}

impl Place {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Committed,
            position: -1,
            last_epoch: -1,
            checked_epoch: -1,
            retry_at: None,
            failures: 0,
            cuts: 0,
            high_watermark: -1,
            moving: None,
        }
    }

    /// What is being asked for is not wanted any more.
    pub(super) fn discard(&mut self) {
        self.retry_at = None;
        self.failures = 0;
        self.cuts = 0;
        self.moving = None;
    }

    /// Reads on at `offset`; the record in front of it has this epoch.
    pub(super) fn fetch_from(&mut self, offset: i64, last_epoch: i32) {
        self.position = offset;
        self.last_epoch = last_epoch;
        self.stage = Stage::Fetching;
    }

    pub(super) fn ask(&mut self, question: Question) {
        self.stage = Stage::Ask { question, asked: None };
    }

    pub(super) fn is_asking(&self) -> bool {
        matches!(self.stage, Stage::Ask { .. })
    }

    /// The position, once there is one.
    pub(super) fn offset(&self) -> Option<i64> {
        (self.position >= 0).then_some(self.position)
    }

    /// The leader's epoch changed since the position was known to be valid.
    pub(super) fn is_unchecked(&self, leader_epoch: i32) -> bool {
        self.last_epoch >= 0 && leader_epoch >= 0 && self.checked_epoch != leader_epoch
    }
}
