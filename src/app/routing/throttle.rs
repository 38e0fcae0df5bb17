//! No more than so many records in so much time.

use std::time::Duration;

use tokio::time::Instant;

use crate::app::processing::coordinator::{Filter, Verdict};
use crate::deadline;

/// Hands at most `limit` records of a partition to handlers in each `interval`; the rest waits, fetched and in order.
/// Retries count again. Karafka's `throttling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    limit: usize,
    interval: Duration,
}

impl Throttle {
    /// `limit` records in each `interval`, both at least 1 (record, millisecond).
    pub fn new(limit: usize, interval: Duration) -> Self {
        Self { limit, interval }
    }

    pub(super) fn check(&self) -> Option<String> {
        let Self { limit, interval } = self;
        (*limit == 0 || *interval < Duration::from_millis(1)).then(|| {
            format!("a throttle of {limit} records in {interval:?} lets nothing or everything through")
        })
    }

    pub(crate) fn filter(self) -> Box<dyn Filter> {
        Box::new(Window { throttle: self, ends: None, used: 0 })
    }
}

/// The interval that runs, and how much of it is used.
#[derive(Debug)]
struct Window {
    throttle: Throttle,
    ends: Option<Instant>,
    used: usize,
}

impl Filter for Window {
    fn apply(&mut self, now: Instant, offsets: &mut dyn ExactSizeIterator<Item = i64>) -> Verdict {
        let ends = match self.ends {
            Some(ends) if now < ends => ends,
            _ => {
                self.used = 0;
                deadline::after(now, self.throttle.interval)
            }
        };
        self.ends = Some(ends);
        let keep = offsets.len().min(self.throttle.limit - self.used);
        self.used += keep;
        if keep == offsets.len() { Verdict::Pass } else { Verdict::Cut { keep, until: ends } }
    }
}
