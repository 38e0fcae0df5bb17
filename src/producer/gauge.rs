//! How much waits in the open batches of a broker, and what the sender wants to hear of it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Bytes are counted in steps of this many, and of fewer in a batch that is smaller than this.
const STEP: usize = 4096;
const STEP_SMALL: usize = 512;

/// What appenders know of a broker and the sender of appenders: how much is in open batches, and when to say so.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    /// Bytes in open batches of partitions that the broker leads, in steps.
    pub(super) bytes: AtomicUsize,
    /// The sender wants a command when `bytes` reaches this.
    pub(super) target: AtomicUsize,
    /// Batches wait for others to come, and not for long: while all requests are on the way, they wait for an answer.
    pub(super) busy: AtomicBool,
    /// The driver's latest look into its mailbox after which it was sure to look again soon, for a batch that waits or an
    /// answer: until it does, another lane that turns non-empty is no news.
    pub(super) look: AtomicU64,
}

/// What the sender tells appenders of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// See [`Gauge`].
    pub(super) busy: bool,
    pub(super) target: usize,
    /// As it is if `None`.
    pub(super) look: Option<u64>,
}

impl Gauge {
    pub(super) fn set_pace(&self, pace: Pace) {
        self.busy.store(pace.busy, Ordering::Relaxed);
        self.target.store(pace.target, Ordering::Relaxed);
        if let Some(look) = pace.look {
            self.look.store(look, Ordering::Relaxed);
        }
    }

    /// Counts what a batch has beyond `before` bytes now that it has `after`, in whole steps; `counted` is what was counted of
    /// it. True if the sender wants a command.
    #[inline]
    pub(super) fn count(&self, counted: &mut usize, before: usize, after: usize) -> bool {
        let step = if after < STEP { STEP_SMALL } else { STEP };
        // Both are in the same step, which is a power of two.
        if before ^ after < step {
            return false;
        }
        let more = after - *counted;
        *counted = after;
        let total = self.bytes.fetch_add(more, Ordering::Relaxed) + more;
        let target = self.target.load(Ordering::Relaxed);
        total >= target && total - more < target
    }
}
