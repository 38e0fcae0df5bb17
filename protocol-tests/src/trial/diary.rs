//! What the workload saw, with times. Lines that matter are printed as they come.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carafe::producer::Outcome;
use carafe::types::{Offset, TopicPartition};
use tokio::time::Instant;

/// A record that was enqueued.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) topic: &'static str,
    pub(super) number: u64,
    /// Where it was written, if that is known.
    pub(super) place: Option<(TopicPartition, Option<Offset>)>,
    pub(super) outcome: Outcome,
    pub(super) error: String,
}

/// A record that a handler saw.
#[derive(Clone, Debug)]
pub(super) struct Handled {
    pub(super) member: u32,
    pub(super) partition: TopicPartition,
    pub(super) offset: i64,
    pub(super) number: u64,
    pub(super) at: Duration,
}

/// Something that explains what would otherwise be a fault.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) what: What,
    /// Begin and end.
    pub(super) from: Duration,
    pub(super) to: Duration,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Frozen,
    Quota,
    /// A member lost partitions, or was stopped by force.
    Lost(u32),
    /// A member began or ended, and partitions moved.
    Rebalance,
    /// The volatile topic was deleted and recreated.
    Recreated,
}

/// How a member's stop went.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    pub(super) member: u32,
    pub(super) took: Duration,
    pub(super) result: String,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) sent: Vec<Sent>,
    pub(super) handled: Vec<Handled>,
    pub(super) happened: Vec<Happened>,
    pub(super) stops: Vec<Stop>,
    /// Committed offsets of the steady topic, by time.
    pub(super) committed: Vec<(Duration, Vec<(TopicPartition, i64)>)>,
    /// Conditions about the forbidden topic that members told: member and time.
    pub(super) forbidden: Vec<(u32, Duration)>,
    /// When members began.
    pub(super) begun: Vec<(u32, Duration)>,
    /// Events that name a recreated topic.
    pub(super) recreations_told: u64,
}

#[derive(Debug)]
pub(super) struct Diary {
    start: Instant,
    pages: Mutex<Pages>,
}

impl Diary {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), pages: Mutex::default() }
    }

    /// Time since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The time for a line of output.
    pub(super) fn clock(&self) -> String {
        let now = self.now();
        format!("{:4}.{:03}", now.as_secs(), now.subsec_millis())
    }

    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what began at `from` and ends now.
    pub(super) fn happened(&self, what: What, from: Duration) {
        let to = self.now();
        self.pages().happened.push(Happened { what, from, to });
    }
}
