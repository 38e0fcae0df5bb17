//! Machine: offset commits, partition by partition: one request at a time carries what is due, and a partition that has
//! to wait, or was refused, holds up no other. Per partition what is asked for later wins and never overtakes.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::cluster::{ConditionKind, Metadata, Subject, TopicIdentity};
use crate::consumer::mark::Mark;
use crate::types::{GroupId, TopicName, TopicPartition, Uuid};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// How many partitions an error names.
const NAMED_MAX: usize = 10;

/// A mark that was not committed.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) mark: Mark,
    pub(crate) error: Error,
}

/// Who is told what became of a [`Job`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// The caller with this number.
    Caller(u64),
    /// The revocation with this ticket.
    Revocation(u64),
}

/// A [`Job`] that is done with.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) waiter: Waiter,
    /// What was not committed.
    pub(crate) failed: Vec<Failed>,
}

/// Offsets that somebody waits for.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) marks: Vec<Mark>,
    pub(crate) deadline: Instant,
    pub(crate) waiter: Waiter,
}

/// What a request carries for one partition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sending {
    pub(crate) mark: Mark,
    /// The topic that the mark belongs to; zero if its id is not known.
    pub(crate) topic_id: Uuid,
}

/// What became of one partition of a request.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Done,
    /// Again after the back-off, or once the group is stable.
    Retry(Error),
    /// Given up.
    Failed(Error),
    /// Given up, because the topic does not exist any more: an error to whoever committed it, and nothing that giving its
    /// partition back leaves undone.
    Gone(Error),
}

/// A mark, and the jobs that it settles.
#[derive(Debug)]
struct Wish {
    mark: Mark,
    jobs: Vec<u64>,
}

#[derive(Debug, Default)]
struct Item {
    /// What the request that is on its way carries.
    flying: Option<Wish>,
    /// What the next one will carry.
    waiting: Option<Wish>,
    retry_at: Option<Instant>,
    failures: u32,
    last_error: Option<Error>,
}

impl Item {
    fn is_empty(&self) -> bool {
        self.flying.is_none() && self.waiting.is_none()
    }

    fn is_awaited(&self) -> bool {
        [&self.flying, &self.waiting].into_iter().flatten().any(|wish| !wish.jobs.is_empty())
    }

    fn is_due(&self, now: Instant) -> bool {
        self.waiting.is_some() && self.retry_at.is_none_or(|at| at <= now)
    }
}

#[derive(Debug)]
struct Open {
    /// Partitions without an answer.
    left: usize,
    failed: Vec<Failed>,
    deadline: Instant,
    waiter: Waiter,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Commits {
    items: BTreeMap<TopicPartition, Item>,
    jobs: BTreeMap<u64, Open>,
    next_job: u64,
    /// A request is on its way.
    in_flight: bool,
    /// Requests in a row that came to nothing: while the coordinator is away, nobody's commit goes earlier.
    failures: u32,
    retry_at: Option<Instant>,
    settled: VecDeque<Settled>,
    backoff: Backoff,
}

impl Commits {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self {
            items: BTreeMap::new(),
            jobs: BTreeMap::new(),
            next_job: 0,
            in_flight: false,
            failures: 0,
            retry_at: None,
            settled: VecDeque::new(),
            backoff,
        }
    }

    /// Commits the marks of `job`, then settles it.
    pub(crate) fn push(&mut self, job: Job) {
        let Job { marks, deadline, waiter } = job;
        let marks: BTreeMap<TopicPartition, Mark> =
            marks.into_iter().map(|mark| (mark.topic_partition().clone(), mark)).collect();
        let id = self.next_job;
        self.next_job += 1;
        self.jobs.insert(id, Open { left: marks.len(), failed: Vec::new(), deadline, waiter });
        for (partition, mark) in marks {
            let item = self.items.entry(partition).or_default();
            let mut jobs = item.waiting.take().map(|wish| wish.jobs).unwrap_or_default();
            jobs.push(id);
            item.waiting = Some(Wish { mark, jobs });
        }
        self.settle();
    }

    /// Commits what is stored, for nobody in particular. Where somebody waits for a commit, that one goes before: what is
    /// stored may be older.
    pub(crate) fn push_stored(&mut self, marks: Vec<Mark>) {
        for mark in marks {
            let item = self.items.entry(mark.topic_partition().clone()).or_default();
            let known = item.flying.as_ref().is_some_and(|wish| wish.mark == mark);
            if !known && !item.is_awaited() {
                item.waiting = Some(Wish { mark, jobs: Vec::new() });
            }
        }
    }

    /// What is still to be committed of `partitions`, where somebody waits for it.
    pub(crate) fn awaited(&self, partitions: &[TopicPartition]) -> Vec<Mark> {
        let items = partitions.iter().filter_map(|partition| self.items.get(partition));
        items
            .filter(|item| item.is_awaited())
            .filter_map(|item| item.waiting.as_ref().or(item.flying.as_ref()))
            .map(|wish| wish.mark.clone())
            .collect()
    }

    /// What the next request carries, if one may be sent now. `check` says whether a mark is still valid, and which topic it
    /// belongs to; those that are not fail.
    pub(crate) fn plan(
        &mut self,
        now: Instant,
        check: impl Fn(&Mark) -> Result<Uuid>,
    ) -> Option<Vec<Sending>> {
        if self.in_flight || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        let mut sending = Vec::new();
        for item in self.items.values_mut().filter(|item| item.is_due(now)) {
            let Some(wish) = item.waiting.take() else { continue };
            match check(&wish.mark) {
                Ok(topic_id) => {
                    sending.push(Sending { mark: wish.mark.clone(), topic_id });
                    item.flying = Some(wish);
                }
                Err(error) => fail(&mut self.jobs, wish, &error),
            }
        }
        self.tidy();
        self.in_flight = !sending.is_empty();
        self.in_flight.then_some(sending)
    }

    /// The request that was [planned](Self::plan) was answered, partition by partition. Returns what failed and nobody waits
    /// for.
    pub(crate) fn handle_outcomes(
        &mut self,
        now: Instant,
        dice: u64,
        mut outcomes: BTreeMap<TopicPartition, Outcome>,
    ) -> Vec<Failed> {
        let mut untold = Vec::new();
        self.in_flight = false;
        self.failures = 0;
        self.retry_at = None;
        for (partition, item) in &mut self.items {
            let Some(wish) = item.flying.take() else { continue };
            match outcomes.remove(partition).unwrap_or_else(|| Outcome::Retry(left_out(partition))) {
                Outcome::Done => {
                    (item.retry_at, item.failures, item.last_error) = (None, 0, None);
                    done(&mut self.jobs, &wish);
                }
                Outcome::Gone(error) => {
                    let callers = |id: &u64| {
                        self.jobs.get(id).is_some_and(|job| matches!(job.waiter, Waiter::Caller(_)))
                    };
                    let (callers, others) = wish.jobs.into_iter().partition(callers);
                    done(&mut self.jobs, &Wish { mark: wish.mark.clone(), jobs: others });
                    fail(&mut self.jobs, Wish { mark: wish.mark, jobs: callers }, &error);
                }
                Outcome::Failed(error) if wish.jobs.is_empty() => {
                    untold.push(Failed { mark: wish.mark, error })
                }
                Outcome::Failed(error) => fail(&mut self.jobs, wish, &error),
                Outcome::Retry(error) => {
                    item.failures += 1;
                    item.retry_at = Some(now + self.backoff.delay(item.failures, dice));
                    item.last_error = Some(error);
                    again(item, wish);
                }
            }
        }
        self.tidy();
        untold
    }

    /// The request that was [planned](Self::plan) could not be sent, or was not answered.
    pub(crate) fn handle_failed(&mut self, now: Instant, dice: u64, error: &Error) {
        self.in_flight = false;
        for item in self.items.values_mut() {
            let Some(wish) = item.flying.take() else { continue };
            if error.is_retriable() {
                item.last_error = Some(error.clone());
                again(item, wish);
            } else {
                fail(&mut self.jobs, wish, error);
            }
        }
        self.failures += 1;
        self.retry_at = Some(now + self.backoff.delay(self.failures, dice));
        self.tidy();
    }

    /// The group is stable again: what waited may go.
    pub(crate) fn retry_now(&mut self) {
        self.retry_at = None;
        self.items.values_mut().for_each(|item| item.retry_at = None);
    }

    /// `partitions` were lost: nothing may be committed for them.
    pub(crate) fn handle_lost(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            let Some(item) = self.items.remove(partition) else { continue };
            let error =
                Error::new(ErrorKind::Fenced, format!("{partition} was lost before it was committed"));
            for wish in [item.flying, item.waiting].into_iter().flatten() {
                fail(&mut self.jobs, wish, &error);
            }
        }
        self.settle();
    }

    /// Nothing is waited for beyond `deadline`.
    pub(crate) fn limit(&mut self, deadline: Instant) {
        for job in self.jobs.values_mut() {
            job.deadline = job.deadline.min(deadline);
        }
    }

    /// Gives up jobs whose time is over. What is on its way may still be committed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let late: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| job.deadline <= now).map(|(id, _)| *id).collect();
        if late.is_empty() {
            return;
        }
        for (partition, item) in &mut self.items {
            let mut error =
                Error::new(ErrorKind::Timeout, format!("{partition} was not committed before the deadline"));
            if let Some(last) = &item.last_error {
                error = error.with_source(last.clone());
            }
            for wish in [&mut item.flying, &mut item.waiting].into_iter().flatten() {
                let (over, still) =
                    std::mem::take(&mut wish.jobs).into_iter().partition(|id| late.contains(id));
                wish.jobs = still;
                fail(&mut self.jobs, Wish { mark: wish.mark.clone(), jobs: over }, &error);
            }
        }
        self.settle();
    }

    /// When, after `now`, there may be something to [plan](Self::plan) or to [give up](Self::handle_timeout). A retry that is due
    /// is not waited for: if it was not sent, it waits for the group and not for time.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let expiry = self.jobs.values().map(|job| job.deadline).min();
        let waiting = self.items.values().filter(|item| item.waiting.is_some());
        let retry = waiting
            .filter_map(|item| item.retry_at.max(self.retry_at))
            .filter(|at| *at > now && !self.in_flight)
            .min();
        [expiry, retry].into_iter().flatten().min()
    }

    /// A job that was settled.
    pub(crate) fn poll_output(&mut self) -> Option<Settled> {
        self.settled.pop_front()
    }

    /// Fails everything.
    pub(crate) fn abandon(&mut self, why: &str) {
        for (partition, item) in std::mem::take(&mut self.items) {
            let error = Error::new(ErrorKind::State, format!("{partition} was not committed: {why}"));
            for wish in [item.flying, item.waiting].into_iter().flatten() {
                fail(&mut self.jobs, wish, &error);
            }
        }
        self.settle();
    }

    fn tidy(&mut self) {
        self.items.retain(|_, item| !item.is_empty());
        self.settle();
    }

    /// Tells those who have all their answers.
    fn settle(&mut self) {
        let over: Vec<u64> = self.jobs.iter().filter(|(_, job)| job.left == 0).map(|(id, _)| *id).collect();
        for job in over.iter().filter_map(|id| self.jobs.remove(id)).collect::<Vec<_>>() {
            self.settled.push_back(Settled { waiter: job.waiter, failed: job.failed });
        }
    }
}

/// Puts back what was on its way, unless something newer waits: that one settles both.
fn again(item: &mut Item, wish: Wish) {
    match &mut item.waiting {
        Some(newer) => newer.jobs.extend(wish.jobs),
        None => item.waiting = Some(wish),
    }
}

fn done(jobs: &mut BTreeMap<u64, Open>, wish: &Wish) {
    for id in &wish.jobs {
        if let Some(job) = jobs.get_mut(id) {
            job.left -= 1;
        }
    }
}

fn fail(jobs: &mut BTreeMap<u64, Open>, wish: Wish, error: &Error) {
    done(jobs, &wish);
    for id in &wish.jobs {
        if let Some(job) = jobs.get_mut(id) {
            job.failed.push(Failed { mark: wish.mark.clone(), error: error.clone() });
        }
    }
}

fn left_out(partition: &TopicPartition) -> Error {
    Error::new(ErrorKind::Protocol, format!("the coordinator said nothing about {partition}"))
        .with_retriable(true)
}

/// What a failed commit of `mark` says.
pub(crate) fn refused(mark: &Mark, code: ErrorCode) -> Error {
    let message = format!("committing offset {} of {} failed", mark.offset(), mark.topic_partition());
    Error::from_code(code, message)
}

/// Refuses marks of a topic that was deleted and made anew: a request by name would commit them to the new one.
pub(crate) fn check_topic(metadata: &Metadata, topic: &TopicName, id: Uuid) -> Result<()> {
    match metadata.topic(topic) {
        Some(known) if !known.identity().is_same(&TopicIdentity { name: topic.clone(), id }) => {
            let message = format!("topic {topic} was deleted and made anew: marks of the old one are void");
            Err(Error::new(ErrorKind::Fenced, message))
        }
        _ => Ok(()),
    }
}

/// True once metadata says that the topic which a mark belongs to does not exist any more: there is nothing under its name,
/// or another topic.
pub(crate) fn is_gone(metadata: &Metadata, topic: &TopicName, id: Uuid) -> bool {
    let unknown = [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::UNKNOWN_TOPIC_ID];
    let missing = || metadata.errors.get(topic).is_some_and(|code| unknown.contains(code));
    check_topic(metadata, topic, id).is_err() || (metadata.topic(topic).is_none() && missing())
}

/// What lasts as long as automatic commits are refused like this.
pub(crate) fn trouble_of(Failed { mark, error }: &Failed, group: &str) -> (Subject, ConditionKind) {
    let partition = mark.topic_partition();
    match error.code() {
        Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED) => {
            (Subject::Topic(partition.topic.clone()), ConditionKind::NotAuthorized)
        }
        Some(ErrorCode::GROUP_AUTHORIZATION_FAILED) => {
            (Subject::Group(GroupId::from(group.to_owned())), ConditionKind::NotAuthorized)
        }
        _ => {
            let kind = match ConditionKind::of(error) {
                ConditionKind::Unreachable => ConditionKind::Unreachable,
                _ => ConditionKind::Refused,
            };
            (Subject::Partition(partition.clone()), kind)
        }
    }
}

/// One error for everything that was not committed; it names the partitions and offsets.
pub(crate) fn summary(attempted: &str, failed: &[Failed]) -> Result<()> {
    let [first, ..] = failed else { return Ok(()) };
    let cause = failed.iter().find(|failed| failed.error.is_timeout()).unwrap_or(first);
    let mut named: Vec<String> = (failed.iter().take(NAMED_MAX))
        .map(|Failed { mark, .. }| format!("{} at {}", mark.topic_partition(), mark.offset()))
        .collect();
    if failed.len() > NAMED_MAX {
        named.push(format!("and {} more", failed.len() - NAMED_MAX));
    }
    let message = format!("{attempted}: not committed are {}", named.join(", "));
    let mut error = Error::new(cause.error.kind(), message).with_retriable(cause.error.is_timeout());
    if let Some(code) = cause.error.code() {
        error = error.with_code(code);
    }
    if let Some(hint) = cause.error.advice() {
        error = error.with_advice(hint.to_owned());
    }
    Err(error.with_source(cause.error.clone()))
}

#[cfg(test)]
mod tests;
