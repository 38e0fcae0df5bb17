//! Records that are too old to be worth handling.

use std::time::Duration;

use crate::app::policy::{Admission, Definition, Facts, Report, Stage, Verdict};
use crate::app::routing::TopicRoute;

/// Drops records that are older than a time when their turn comes, by their timestamp and the clock of this machine.
///
/// They count as consumed, or, with [manual](TopicRoute::manual_offset_management) marks, are passed by the next mark
/// behind them; [`Event::Skipped`](crate::app::Event::Skipped) tells of them. Their age is looked at once, before the handler is given
/// them for the first time: a record that is retried does not expire, however long its retries take. Records without a
/// timestamp do not expire. Karafka's `expire_in`, which lets retries expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    after: Duration,
}

impl Expiry {
    /// Records expire at this age, at least a millisecond.
    pub fn after(age: Duration) -> Self {
        Self { after: age }
    }
}

impl TopicRoute {
    /// Drops records that are older than this when their turn comes; see [`Expiry`]. Default: no record is too old.
    pub fn expire_after(&mut self, age: Duration) -> &mut Self {
        self.with(Expiry::after(age))
    }
}

impl Definition for Expiry {
    fn name(&self) -> &'static str {
        "expiry"
    }

    fn check(&self, _: &Facts<'_>, problem: Report<'_>) {
        if self.after < Duration::from_millis(1) {
            problem("after", format!("records that expire after {:?} are never handled", self.after));
        }
    }

    fn stage(&self, _: &Facts<'_>) -> Box<dyn Stage> {
        Box::new(Expire { millis: i64::try_from(self.after.as_millis()).unwrap_or(i64::MAX) })
    }
}

#[derive(Debug)]
struct Expire {
    millis: i64,
}

impl Stage for Expire {
    fn policy(&self) -> &'static str {
        "expiry"
    }

    fn reads_wall_clock(&self) -> bool {
        true
    }

    fn admit(&mut self, records: &mut Admission<'_>) {
        let oldest = records.wall().0.saturating_sub(self.millis);
        records.judge(|candidate| {
            // No timestamp is -1.
            let written = candidate.record.timestamp;
            match candidate.fresh && (0..oldest).contains(&written) {
                true => Verdict::Skip,
                false => Verdict::Run,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::consumer::RecordBatch;
    use crate::types::{Timestamp, TopicPartition};

    /// Which of three records, of which the first was handed out before, expire at this time. They were written at 1,000.
    fn expired(expiry: Expiry, wall: i64) -> Vec<u32> {
        let route = TopicRoute::new("t".into());
        let batch = RecordBatch::for_test(TopicPartition::new("t", 0), 10, &[(None, None); 3]);
        let time = (Instant::now(), Timestamp(wall));
        let mut admission = Admission::new(time, &batch, &[0, 1, 2], 1);
        expiry.stage(&route.facts()).admit(&mut admission);
        admission.decided.skipped.iter().map(|&(record, _)| record).collect()
    }

    #[test]
    fn what_is_older_expires_but_not_what_is_retried() {
        let expiry = Expiry::after(Duration::from_secs(5));
        assert_eq!(expired(expiry, 6000), [0; 0]);
        assert_eq!(expired(expiry, 6001), [1, 2]);
        // A clock that is behind the producer's.
        assert_eq!(expired(expiry, 10), [0; 0]);
        assert_eq!(expired(Expiry::after(Duration::MAX), i64::MAX), [0; 0]);
    }

    #[test]
    fn an_age_of_nothing_is_refused() {
        let route = TopicRoute::new("t".into());
        for (age, wrong) in [(Duration::ZERO, true), (Duration::from_millis(1), false)] {
            let mut told = false;
            Expiry::after(age).check(&route.facts(), &mut |_, _| told = true);
            assert_eq!(told, wrong);
        }
    }
}
