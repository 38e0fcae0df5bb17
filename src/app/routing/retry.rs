//! How long a partition waits before it repeats a failed run.

use std::time::Duration;

use crate::backoff::Backoff;

/// Pauses between the runs of a failing record. The partition waits, others go on; what was fetched is kept.
///
/// Default: 1 s, doubling up to 30 s, spread by 20 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    first: Duration,
    max: Duration,
    jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(30), jitter: 0.2 }
    }
}

impl Retry {
    /// Doubles from `first` up to `max` (Karafka's `pause.timeout`, `pause.max_timeout`).
    pub fn exponential(first: Duration, max: Duration) -> Self {
        Self { first, max, ..Self::default() }
    }

    /// Waits for the same time after every failure, without jitter.
    pub fn fixed(pause: Duration) -> Self {
        Self { first: pause, max: pause, jitter: 0.0 }
    }

    /// Spreads each pause by this share of itself in both directions, 0 to 1.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    pub(super) fn check(&self) -> Option<String> {
        if self.first > self.max {
            return Some(format!(
                "the first pause of the retry ({:?}) is longer than the longest ({:?})",
                self.first, self.max
            ));
        }
        (!(0.0..=1.0).contains(&self.jitter))
            .then(|| format!("the jitter of the retry is {}; it must be between 0 and 1", self.jitter))
    }

    pub(super) fn backoff(self) -> Backoff {
        Backoff { first: self.first, max: self.max, jitter: self.jitter }
    }
}
