//! What happens to a record that keeps failing.

use std::fmt;
use std::sync::Arc;

use super::VirtualPartitions;
use crate::app::error_history::ErrorHistory;
use crate::app::letter::{Enhance, GivenUp, Letters};
use crate::app::policy::{Decision, Definition, Facts, Failed, Failure, Marks, Report, Stage};
use crate::app::routing::TopicRoute;
use crate::producer::Record;
use crate::types::TopicName;

/// Sends a record to another topic once its retries are used up, waits for the acknowledgement, and goes on behind it.
///
/// The dead letter carries the timestamp, key, value and headers of the record, and where it comes from in headers:
///
/// | Header | |
/// |---|---|
/// | `source_topic`, `source_partition`, `source_offset` | the record |
/// | `source_consumer_group` | the group that gave it up |
/// | `source_attempts` | how often its handler ran |
/// | `source_error`, `source_error_kind` | the latest error with its causes (1,024 bytes at most), and its [kind](crate::Error::kind) |
/// | `source_trace_id` | the id of that error, which its [event](crate::app::Event::Error) has too |
///
/// A letter that is given up again tells where that happened last. Records of one partition go to one partition of the dead
/// letter topic, in order. The topic must exist or be created by the broker on first use.
///
/// ```
/// use carafe::app::Fate;
/// use carafe::prelude::*;
///
/// let dead_letter = DeadLetter::to("orders.dead").strategy(|errors, attempt| {
///     match errors.last().map(Error::kind) {
///         // No retry makes it readable.
///         Some(ErrorKind::Payload) => Fate::Dispatch,
///         // The whole application stands without its key.
///         Some(ErrorKind::Authentication) => Fate::Stop,
///         _ if attempt > 5 => Fate::DispatchTo("orders.unlucky".into()),
///         _ => Fate::Retry,
///     }
/// });
/// # drop(dead_letter);
/// ```
#[derive(Clone, Debug)]
pub struct DeadLetter {
    topic: Option<TopicName>,
    max_retries: u32,
    independent: bool,
    mark_after_dispatch: Option<bool>,
    strategy: Option<Strategy>,
    enhance: Option<Enhance>,
}

/// What becomes of a record that failed; the answer of a [strategy](DeadLetter::strategy).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is handled again, after the pause of the route's [`Retry`](super::Retry).
    Retry,
    /// It goes to the dead letter topic; on a route that has none it is skipped.
    Dispatch,
    /// It goes to this topic.
    DispatchTo(TopicName),
    /// It is left behind, with an event ([`Event::Skipped`](crate::app::Event::Skipped)).
    Skip,
    /// The application stops in order, and [`Server::run`](crate::app::Server::run) returns the error. The record and what comes
    /// behind it stay uncommitted: they are handled again after a restart.
    Stop,
}

impl DeadLetter {
    /// Dead letters go to `topic`.
    pub fn to(topic: impl Into<TopicName>) -> Self {
        Self { topic: Some(topic.into()), ..Self::skip() }
    }

    /// Records that are given up go nowhere: they are skipped, with an event
    /// ([`Event::Skipped`](crate::app::Event::Skipped)). Karafka's `topic: false`.
    pub fn skip() -> Self {
        Self {
            topic: None,
            max_retries: 3,
            independent: true,
            mark_after_dispatch: None,
            strategy: None,
            enhance: None,
        }
    }

    /// Decides after each failed run what becomes of the record, in place of [`max_retries`](Self::max_retries): told what
    /// failed since something last succeeded, and the number of the run, 1 for the first. Where several virtual partitions
    /// ran it is not known which record failed: they run again in one first, and the strategy is asked after that. A strategy
    /// that panics is reported, and the record retried.
    #[must_use]
    pub fn strategy(mut self, strategy: impl Fn(&ErrorHistory, u32) -> Fate + Send + Sync + 'static) -> Self {
        self.strategy = Some(Strategy(Arc::new(strategy)));
        self
    }

    /// Changes each letter before it is sent: what `hook` returns is sent. One that panics is reported
    /// (`dead_letter_queue.dispatch.error`), and the letter tried again. Karafka's `enhance_dlq_message`.
    ///
    /// ```
    /// # use carafe::prelude::*;
    /// let dead_letter = DeadLetter::to("orders.dead")
    ///     .enhance(|letter, given_up| letter.header("failures", given_up.errors().total().to_string()));
    /// # drop(dead_letter);
    /// ```
    #[must_use]
    pub fn enhance(
        mut self,
        hook: impl for<'a> Fn(Record<'a>, GivenUp<'a>) -> Record<'a> + Send + Sync + 'static,
    ) -> Self {
        self.enhance = Some(Enhance::new(hook));
        self
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

    /// Where dead letters go, and how they are written.
    pub(crate) fn letters(&self) -> Letters {
        Letters { topic: self.topic.clone(), enhance: self.enhance.clone() }
    }
}

/// A strategy of the user.
#[derive(Clone)]
pub(crate) struct Strategy(Arc<Decide>);

type Decide = dyn Fn(&ErrorHistory, u32) -> Fate + Send + Sync;

impl fmt::Debug for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Strategy")
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
        if let Some(text) = self.topic.as_ref().and_then(TopicName::fault) {
            problem("topic", format!("the name of the dead letter topic {text}"));
        }
        if self.topic.as_ref() == Some(route.topic) {
            problem("topic", "dead letters would go to the topic that they come from".into());
        }
        let at_once = self.max_retries == 0 && self.strategy.is_none();
        if at_once && route.policies.get::<VirtualPartitions>().is_some() {
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
            skip: self.topic.is_none(),
            strategy: self.strategy.clone(),
        })
    }
}

/// Gives up on a record whose retries are used up.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    /// Retries of a record before it is dispatched.
    pub(crate) max_retries: u32,
    /// Counts the retries of each record instead of those of the batch.
    pub(crate) independent: bool,
    /// The dispatched record counts as consumed.
    pub(crate) mark: bool,
    /// Dispatch and mark happen in one transaction or not at all.
    pub(crate) atomic: bool,
    /// There is no topic to dispatch to.
    pub(crate) skip: bool,
    /// Decides in place of the number of retries.
    pub(crate) strategy: Option<Strategy>,
}

impl Stage for Dispatch {
    fn policy(&self) -> &'static str {
        "dead_letter"
    }

    fn failed(&mut self, failure: &mut Failure<'_>) -> Decision {
        if failure.what != Failed::Run {
            return Decision::Next;
        }
        if !self.independent {
            failure.attempt = failure.runs;
        }
        // Where several lanes ran it is not known which record to give up on.
        if failure.ambiguous {
            return Decision::Next;
        }
        let fate = match &self.strategy {
            Some(Strategy(strategy)) => strategy(failure.errors, failure.attempt),
            None if failure.attempt > self.max_retries => Fate::Dispatch,
            None => Fate::Retry,
        };
        let (mark, atomic) = (self.mark, self.atomic);
        match fate {
            Fate::Retry => Decision::Next,
            Fate::Dispatch if !self.skip => Decision::Dispatch { mark, atomic, to: None },
            Fate::DispatchTo(topic) => Decision::Dispatch { mark, atomic, to: Some(topic) },
            Fate::Dispatch | Fate::Skip => Decision::Skip { mark },
            Fate::Stop => Decision::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::policies::by_key;
    use crate::types::Uuid;
    use crate::{Error, ErrorKind};

    fn failure(attempt: u32, runs: u32, errors: &ErrorHistory) -> Failure<'_> {
        Failure { what: Failed::Run, attempt, runs, ambiguous: false, dice: 0, errors }
    }

    fn dispatch(mark: bool, to: Option<&str>) -> Decision {
        Decision::Dispatch { mark, atomic: false, to: to.map(TopicName::from) }
    }

    #[test]
    fn a_record_is_given_up_after_its_retries() {
        let mut route = TopicRoute::new("t".into());
        let none = &ErrorHistory::default();
        for (independent, counted) in [(true, 1), (false, 3)] {
            let letter = DeadLetter::to("dead").max_retries(2).independent(independent);
            let mut stage = letter.stage(&route.with(letter.clone()).facts());
            let mut first = failure(1, 3, none);
            assert_eq!(stage.failed(&mut first) == Decision::Next, independent);
            assert_eq!(first.attempt, counted);
            assert_eq!(stage.failed(&mut failure(3, 3, none)), dispatch(true, None));
            let ambiguous = &mut Failure { ambiguous: true, ..failure(3, 3, none) };
            assert_eq!(stage.failed(ambiguous), Decision::Next);
            let of_dispatch = &mut Failure { what: Failed::Dispatch, ..failure(3, 3, none) };
            assert_eq!(stage.failed(of_dispatch), Decision::Next);
        }
        let letter = DeadLetter::to("dead").max_retries(0);
        let mut stage = letter.stage(&route.manual_offset_management().facts());
        assert_eq!(stage.failed(&mut failure(1, 1, none)), dispatch(false, None));
        let mut stage = DeadLetter::skip().max_retries(0).stage(&route.facts());
        assert_eq!(stage.failed(&mut failure(1, 1, none)), Decision::Skip { mark: false });
    }

    #[test]
    fn a_strategy_decides_by_what_failed() {
        let strategy = |errors: &ErrorHistory, attempt| match errors.last().map(Error::kind) {
            Some(ErrorKind::Payload) => Fate::Dispatch,
            Some(ErrorKind::Io) => Fate::Stop,
            Some(ErrorKind::Config) => Fate::Skip,
            _ if attempt > 1 => Fate::DispatchTo("other".into()),
            _ => Fate::Retry,
        };
        let fate = |letter: DeadLetter, kind, attempt| {
            let mut errors = ErrorHistory::default();
            errors.push(Error::new(kind, "failed"), Uuid::ZERO);
            let route = TopicRoute::new("t".into());
            letter.strategy(strategy).stage(&route.facts()).failed(&mut failure(attempt, attempt, &errors))
        };
        let with = |kind, attempt| fate(DeadLetter::to("dead").max_retries(0), kind, attempt);
        assert_eq!(with(ErrorKind::Handler, 1), Decision::Next);
        assert_eq!(with(ErrorKind::Handler, 2), dispatch(true, Some("other")));
        assert_eq!(with(ErrorKind::Payload, 1), dispatch(true, None));
        assert_eq!(with(ErrorKind::Io, 1), Decision::Stop);
        assert_eq!(with(ErrorKind::Config, 1), Decision::Skip { mark: true });
        assert_eq!(fate(DeadLetter::skip(), ErrorKind::Payload, 1), Decision::Skip { mark: true });
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
        let at_once = DeadLetter::to("dead").max_retries(0);
        assert_eq!(problems(DeadLetter::to("dead")), [""; 0]);
        assert_eq!(problems(at_once.clone().strategy(|_, _| Fate::Skip)), [""; 0]);
        for wrong in [DeadLetter::to("t"), DeadLetter::to(""), at_once] {
            assert_eq!(problems(wrong.clone()).len(), 1, "{wrong:?}");
        }
    }
}
