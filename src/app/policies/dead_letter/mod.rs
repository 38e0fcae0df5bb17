//! What happens to a record that keeps failing.

use super::VirtualPartitions;
use crate::app::policy::{Decision, Definition, Facts, Failed, Failure, Marks, Report, Stage};
use crate::app::routing::TopicRoute;
use crate::types::TopicName;

/// Sends a record to another topic once its retries are used up, waits for the acknowledgement, and goes on behind it.
///
/// The dead letter carries the key, value and headers of the record and the headers `source_topic`,
/// `source_partition`, `source_offset`, `source_consumer_group` and `source_attempts`. Records of one partition go to
/// one partition of the dead letter topic, in order. The topic must exist or be created by the broker on first use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    topic: TopicName,
    max_retries: u32,
    independent: bool,
    mark_after_dispatch: Option<bool>,
}

impl DeadLetter {
    /// Dead letters go to `topic`.
    pub fn to(topic: impl Into<TopicName>) -> Self {
        Self { topic: topic.into(), max_retries: 3, independent: true, mark_after_dispatch: None }
    }

    /// Retries before the dispatch; default 3. 0 dispatches after the first failure.
    #[must_use]
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    /// Whether each record has retries of its own (default) or those of its batch add up, as Karafka counts unless its
    /// `independent` is set. A record is told from the next by the handler's marks.
    #[must_use]
    pub fn independent(mut self, independent: bool) -> Self {
        self.independent = independent;
        self
    }

    /// Whether the dispatched record counts as consumed. Default: yes with automatic marks, no with manual ones.
    #[must_use]
    pub fn mark_after_dispatch(mut self, mark: bool) -> Self {
        self.mark_after_dispatch = Some(mark);
        self
    }

    /// Where dead letters go.
    pub(crate) fn topic(&self) -> &TopicName {
        &self.topic
    }
}

impl TopicRoute {
    /// Sends records that keep failing to another topic. Without it a failing record is retried for ever.
    pub fn dead_letter_queue(&mut self, dead_letter: DeadLetter) -> &mut Self {
        self.with(dead_letter)
    }
}

impl Definition for DeadLetter {
    fn name(&self) -> &'static str {
        "dead_letter"
    }

    fn check(&self, route: &Facts<'_>, problem: Report<'_>) {
        if let Some(text) = self.topic.fault() {
            problem("topic", format!("the name of the dead letter topic {text}"));
        }
        if &self.topic == route.topic {
            problem("topic", "dead letters would go to the topic that they come from".into());
        }
        if self.max_retries == 0 && route.policies.get::<VirtualPartitions>().is_some() {
            problem(
                "max_retries",
                "is 0; with virtual partitions it must be at least 1, since the first failure only says which lane \
                 failed, not which record"
                    .into(),
            );
        }
    }

    fn stage(&self, route: &Facts<'_>) -> Box<dyn Stage> {
        Box::new(Dispatch {
            max_retries: self.max_retries,
            independent: self.independent,
            mark: self.mark_after_dispatch.unwrap_or(route.marks == Marks::Automatic),
            atomic: false,
        })
    }
}

/// Gives up on a record whose retries are used up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch {
    /// Retries of a record before it is dispatched.
    pub(crate) max_retries: u32,
    /// Counts the retries of each record instead of those of the batch.
    pub(crate) independent: bool,
    /// The dispatched record counts as consumed.
    pub(crate) mark: bool,
    /// Dispatch and mark happen in one transaction or not at all.
    pub(crate) atomic: bool,
}

impl Stage for Dispatch {
    fn policy(&self) -> &'static str {
        "dead_letter"
    }

    fn failed(&mut self, failure: &mut Failure) -> Decision {
        if failure.what != Failed::Run {
            return Decision::Next;
        }
        if !self.independent {
            failure.attempt = failure.runs;
        }
        // Where several lanes ran it is not known which record to give up on.
        match failure.attempt > self.max_retries && !failure.ambiguous {
            true => Decision::Dispatch { mark: self.mark, atomic: self.atomic },
            false => Decision::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::policies::by_key;

    fn failure(attempt: u32, runs: u32) -> Failure {
        Failure { what: Failed::Run, attempt, runs, ambiguous: false, dice: 0 }
    }

    #[test]
    fn a_record_is_given_up_after_its_retries() {
        let mut route = TopicRoute::new("t".into());
        for (independent, counted) in [(true, 1), (false, 3)] {
            let letter = DeadLetter::to("dead").max_retries(2).independent(independent);
            let mut stage = letter.stage(&route.with(letter.clone()).facts());
            let mut first = failure(1, 3);
            assert_eq!(stage.failed(&mut first) == Decision::Next, independent);
            assert_eq!(first.attempt, counted);
            let given_up = Decision::Dispatch { mark: true, atomic: false };
            assert_eq!(stage.failed(&mut failure(3, 3)), given_up);
            assert_eq!(stage.failed(&mut Failure { ambiguous: true, ..failure(3, 3) }), Decision::Next);
            assert_eq!(
                stage.failed(&mut Failure { what: Failed::Dispatch, ..failure(3, 3) }),
                Decision::Next
            );
        }
        let letter = DeadLetter::to("dead").max_retries(0);
        let mut stage = letter.stage(&route.manual_offset_management().facts());
        assert_eq!(stage.failed(&mut failure(1, 1)), Decision::Dispatch { mark: false, atomic: false });
    }

    #[test]
    fn letters_to_oneself_and_to_no_name_and_lanes_without_a_retry_are_refused() {
        let problems = |letter: DeadLetter| {
            let mut route = TopicRoute::new("t".into());
            let mut problems = Vec::new();
            letter.check(&route.with(by_key()).facts(), &mut |setting, what| {
                problems.push(format!("{setting}: {what}"))
            });
            problems
        };
        assert_eq!(problems(DeadLetter::to("dead")), [""; 0]);
        for wrong in [DeadLetter::to("t"), DeadLetter::to(""), DeadLetter::to("dead").max_retries(0)] {
            assert_eq!(problems(wrong.clone()).len(), 1, "{wrong:?}");
        }
    }
}
