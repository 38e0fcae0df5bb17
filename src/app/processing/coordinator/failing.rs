//! Machine: what is known of the record that fails, and how it leaves the partition.

use crate::app::error_history::ErrorHistory;
use crate::types::TopicName;

/// What is known of the record that fails.
#[derive(Debug, Default)]
pub(super) struct Failing {
    /// How often it ran, as its policies count.
    pub(super) attempt: u32,
    /// Runs since the last success or dispatch.
    pub(super) runs: u32,
    /// Offset of the first record that the last run left to be done.
    pub(super) offset: Option<i64>,
    /// Its retries are used up: it is dispatched, again if need be, without running the handler.
    pub(super) letter: Option<Letter>,
    /// Dispatches that failed.
    pub(super) refused: u32,
    /// What its runs failed of.
    pub(super) errors: ErrorHistory,
}

/// A record that is to leave the partition.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) record: u32,
    /// It counts as consumed then.
    pub(super) mark: bool,
    /// Dispatch and mark happen together or not at all.
    pub(super) atomic: bool,
    /// The topic, if it is not the one of the route.
    pub(super) to: Option<TopicName>,
}
