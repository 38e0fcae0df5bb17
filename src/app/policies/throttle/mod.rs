//! No more than so many records in so much time.

use std::time::Duration;

use tokio::time::Instant;

use crate::app::policy::{Admission, Definition, Facts, Report, Stage};
use crate::app::routing::TopicRoute;
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
}

impl TopicRoute {
    /// Limits how many records of a partition are handled in a time. Default: no limit.
    pub fn throttle(&mut self, throttle: Throttle) -> &mut Self {
        self.with(throttle)
    }
}

impl Definition for Throttle {
    fn name(&self) -> &'static str {
        "throttle"
    }

    fn check(&self, _: &Facts<'_>, problem: Report<'_>) {
        let Self { limit, interval } = self;
        if *limit == 0 || *interval < Duration::from_millis(1) {
            let what = format!("{limit} records in {interval:?} lets nothing or everything through");
            problem("", what);
        }
    }

    fn stage(&self, _: &Facts<'_>) -> Box<dyn Stage> {
        Box::new(Window { throttle: *self, ends: None, used: 0 })
    }
}

/// The interval that runs, and how much of it is used.
#[derive(Debug)]
struct Window {
    throttle: Throttle,
    ends: Option<Instant>,
    used: usize,
}

impl Stage for Window {
    fn policy(&self) -> &'static str {
        "throttle"
    }

    fn admit(&mut self, records: &mut Admission<'_>) {
        let ends = match self.ends {
            Some(ends) if records.now() < ends => ends,
            _ => {
                self.used = 0;
                deadline::after(records.now(), self.throttle.interval)
            }
        };
        self.ends = Some(ends);
        let keep = records.len().min(self.throttle.limit - self.used);
        self.used += keep;
        if keep < records.len() {
            records.cut(keep, ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::RecordBatch;
    use crate::types::{Timestamp, TopicPartition};

    #[test]
    fn each_interval_lets_so_many_through_whatever_came_before() {
        let throttle = Throttle::new(3, Duration::from_secs(1));
        let route = TopicRoute::new("t".into());
        let mut stage = throttle.stage(&route.facts());
        let batch = RecordBatch::for_test(TopicPartition::new("t", 0), 10, &[(None, None); 5]);
        let begin = Instant::now();
        let mut ask = |after: Duration, count: u32| {
            let records: Vec<u32> = (0..count).collect();
            let mut admission = Admission::new((begin + after, Timestamp(0)), &batch, &records, 0);
            stage.admit(&mut admission);
            admission.decided.cut.map(|(keep, until)| (keep, until - begin))
        };
        let (second, later) = (Duration::from_secs(1), Duration::from_millis(1500));
        assert_eq!(ask(Duration::ZERO, 2), None);
        assert_eq!(ask(second / 2, 2), Some((1, second)));
        assert_eq!(ask(second / 2, 1), Some((0, second)));
        // The next interval begins with what runs next.
        assert_eq!(ask(later, 5), Some((3, later + second)));
    }

    #[test]
    fn what_lets_nothing_or_everything_through_is_refused() {
        let (second, route) = (Duration::from_secs(1), TopicRoute::new("t".into()));
        for (throttle, wrong) in [
            (Throttle::new(0, second), true),
            (Throttle::new(1, Duration::ZERO), true),
            (Throttle::new(1, second), false),
        ] {
            let mut told = false;
            throttle.check(&route.facts(), &mut |_, _| told = true);
            assert_eq!(told, wrong, "{throttle:?}");
        }
    }
}
