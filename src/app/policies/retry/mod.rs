//! How long a partition waits before it repeats a failed run.

use std::time::Duration;

use crate::app::policy::{Decision, Definition, Facts, Failure, Report, Stage};
use crate::app::routing::TopicRoute;
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
}

impl TopicRoute {
    /// How long to wait before a failed run is repeated. Default: [`Retry::default`].
    pub fn retry(&mut self, retry: Retry) -> &mut Self {
        self.with(retry)
    }
}

impl Definition for Retry {
    fn name(&self) -> &'static str {
        "retry"
    }

    fn check(&self, _: &Facts<'_>, problem: Report<'_>) {
        let Self { first, max, jitter } = self;
        if first > max {
            problem("max", format!("is {max:?}; it must be at least the first pause, {first:?}"));
        }
        if !(0.0..=1.0).contains(jitter) {
            problem("jitter", format!("is {jitter}; it must be between 0 and 1"));
        }
    }

    fn stage(&self, _: &Facts<'_>) -> Box<dyn Stage> {
        Box::new(Again(Backoff { first: self.first, max: self.max, jitter: self.jitter }))
    }
}

/// Repeats whatever failed, for ever.
#[derive(Debug)]
pub(crate) struct Again(pub(crate) Backoff);

impl Stage for Again {
    fn policy(&self) -> &'static str {
        "retry"
    }

    fn failed(&mut self, failure: &mut Failure<'_>) -> Decision {
        Decision::Retry(self.0.delay(failure.attempt, failure.dice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::error_history::ErrorHistory;
    use crate::app::policy::Failed;

    #[test]
    fn everything_is_repeated_with_growing_pauses() {
        let retry = Retry::exponential(Duration::from_secs(1), Duration::from_secs(3)).jitter(0.0);
        let route = TopicRoute::new("t".into());
        let mut stage = retry.stage(&route.facts());
        for what in [Failed::Run, Failed::Dispatch] {
            let pauses = [0, 1, 2, 3].map(|attempt| {
                let errors = &ErrorHistory::default();
                stage.failed(&mut Failure { what, attempt, runs: attempt, ambiguous: true, dice: 7, errors })
            });
            assert_eq!(pauses, [1, 1, 2, 3].map(|seconds| Decision::Retry(Duration::from_secs(seconds))));
        }
    }

    #[test]
    fn pauses_that_shrink_and_jitter_beyond_the_pause_are_refused() {
        let long = Duration::from_secs(9);
        let retry = Retry::exponential(long, Duration::from_secs(3)).jitter(1.5);
        let mut route = TopicRoute::new("t".into());
        let mut problems = Vec::new();
        retry.check(&route.with(retry).facts(), &mut |setting, what| {
            problems.push(format!("{setting}: {what}"))
        });
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
