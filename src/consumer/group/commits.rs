//! Offset commits in order: one request at a time, covering everything that was asked for before it; what is asked for
//! later wins. No I/O and no clock.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::consumer::mark::Mark;
use crate::types::TopicPartition;
use crate::{Error, ErrorCode, ErrorKind, Result};

/// Offsets that someone wants committed.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) marks: Vec<Mark>,
    pub(crate) deadline: Instant,
    /// `None` for automatic commits.
    pub(crate) reply: Option<oneshot::Sender<Result<()>>>,
}

/// What became of one partition of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Again after the back-off, or once the group is stable.
    Retry,
    Refused(ErrorCode),
    /// The membership has ended.
    Lost,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Commits {
    jobs: VecDeque<Job>,
    /// The first so many jobs are covered by the request that is on its way.
    covered: Option<usize>,
    retry_at: Option<Instant>,
    failures: u32,
    backoff: Backoff,
    last_error: Option<String>,
}

impl Commits {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { jobs: VecDeque::new(), covered: None, retry_at: None, failures: 0, backoff, last_error: None }
    }

    pub(crate) fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// True if nothing waits and nothing is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The marks of the next request, if one may be sent now. `check` says whether a mark is still valid; jobs with one
    /// that is not fail.
    pub(crate) fn next(&mut self, now: Instant, check: impl Fn(&Mark) -> Result<()>) -> Option<Vec<Mark>> {
        if self.covered.is_some() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        let mut merged: BTreeMap<TopicPartition, Mark> = BTreeMap::new();
        let mut keep = VecDeque::new();
        for mut job in self.jobs.drain(..) {
            match job.marks.iter().try_for_each(&check) {
                Ok(()) => {
                    for mark in &job.marks {
                        merged.insert(mark.topic_partition().clone(), mark.clone());
                    }
                    keep.push_back(job);
                }
                // What was stored for a lost partition is of no use to anybody; the rest is.
                Err(_) if job.reply.is_none() => {
                    job.marks.retain(|mark| check(mark).is_ok());
                    for mark in &job.marks {
                        merged.insert(mark.topic_partition().clone(), mark.clone());
                    }
                    keep.push_back(job);
                }
                Err(error) => answer(job, Err(error)),
            }
        }
        self.jobs = keep;
        if merged.is_empty() {
            for job in self.jobs.drain(..) {
                answer(job, Ok(()));
            }
            return None;
        }
        self.covered = Some(self.jobs.len());
        Some(merged.into_values().collect())
    }

    /// The request that [`next`](Self::next) gave was answered, partition by partition.
    pub(crate) fn handle_outcomes(
        &mut self,
        now: Instant,
        dice: u64,
        outcomes: &BTreeMap<TopicPartition, Outcome>,
    ) {
        let Some(covered) = self.covered.take() else { return };
        let mut keep = VecDeque::new();
        let mut again = false;
        for (index, mut job) in self.jobs.drain(..).enumerate() {
            if index >= covered {
                keep.push_back(job);
                continue;
            }
            let mut failed = None;
            job.marks.retain(|mark| {
                let partition = mark.topic_partition();
                match outcomes.get(partition).unwrap_or(&Outcome::Retry) {
                    Outcome::Done => false,
                    Outcome::Retry => true,
                    Outcome::Refused(code) => {
                        let message = format!("committing offset {} of {partition} failed", mark.offset());
                        failed = Some(Error::from_code(*code, message).retriable(false));
                        false
                    }
                    Outcome::Lost => {
                        let message =
                            format!("{partition} was lost before offset {} was committed", mark.offset());
                        failed = Some(Error::new(ErrorKind::Fenced, message));
                        false
                    }
                }
            });
            match (failed, job.marks.is_empty()) {
                (Some(error), _) => answer(job, Err(error)),
                (None, true) => answer(job, Ok(())),
                (None, false) => {
                    again = true;
                    keep.push_back(job);
                }
            }
        }
        self.jobs = keep;
        self.failures = if again { self.failures + 1 } else { 0 };
        self.retry_at = again.then(|| now + self.backoff.delay(self.failures, dice));
    }

    /// The request that [`next`](Self::next) gave could not be sent, or was not answered.
    pub(crate) fn handle_failed(&mut self, now: Instant, dice: u64, error: &Error) {
        let Some(covered) = self.covered.take() else { return };
        self.last_error = Some(error.to_string());
        if !error.is_retriable() {
            for job in self.jobs.drain(..covered.min(self.jobs.len())) {
                let mut copy =
                    Error::new(error.kind(), format!("committing offsets failed: {error}")).retriable(false);
                if let Some(code) = error.error_code() {
                    copy = copy.code(code);
                }
                answer(job, Err(copy));
            }
            return;
        }
        self.failures += 1;
        self.retry_at = Some(now + self.backoff.delay(self.failures, dice));
    }

    /// The group is stable again: what waited may go.
    pub(crate) fn retry_now(&mut self) {
        self.retry_at = None;
    }

    /// Gives up jobs whose time is over; one that is on its way is answered when it is.
    pub(crate) fn expire(&mut self, now: Instant) {
        let covered = self.covered.unwrap_or(0);
        let mut keep = VecDeque::new();
        for (index, job) in self.jobs.drain(..).enumerate() {
            if index < covered || job.deadline > now {
                keep.push_back(job);
            } else {
                let mut error =
                    Error::new(ErrorKind::Timeout, "offsets were not committed before the deadline");
                if let Some(last) = &self.last_error {
                    error = error.source(last.clone());
                }
                answer(job, Err(error));
            }
        }
        self.jobs = keep;
    }

    /// When, after `now`, [`next`](Self::next) or [`expire`](Self::expire) may have something to do. A retry that is due
    /// is not waited for: if it was not sent, it waits for the group and not for time.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        if self.covered.is_some() {
            return None;
        }
        let expiry = self.jobs.iter().map(|job| job.deadline).min();
        let retry = self.retry_at.filter(|at| *at > now && !self.jobs.is_empty());
        [expiry, retry].into_iter().flatten().min()
    }

    /// Fails everything.
    pub(crate) fn abandon(&mut self, why: &str) {
        self.covered = None;
        for job in self.jobs.drain(..) {
            answer(job, Err(Error::new(ErrorKind::State, format!("offsets were not committed: {why}"))));
        }
    }
}

fn answer(job: Job, result: Result<()>) {
    match job.reply {
        // Nobody waits if the caller dropped its future.
        Some(reply) => drop(reply.send(result)),
        None => {
            if let Err(error) = result {
                tracing::warn!(%error, "automatic commit failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;
    use std::time::Duration;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };

    fn mark(partition: i32, offset: i64) -> Mark {
        Mark::new(TopicPartition::new("t", partition), Offset(offset))
    }

    fn job(now: Instant, marks: &[(i32, i64)]) -> (Job, oneshot::Receiver<Result<()>>) {
        let (reply, waiting) = oneshot::channel();
        let marks = marks.iter().map(|(p, o)| mark(*p, *o)).collect();
        (Job { marks, deadline: now + Duration::from_secs(10), reply: Some(reply) }, waiting)
    }

    fn outcomes(list: &[(i32, Outcome)]) -> BTreeMap<TopicPartition, Outcome> {
        list.iter().map(|(p, outcome)| (TopicPartition::new("t", *p), outcome.clone())).collect()
    }

    fn show(marks: Option<Vec<Mark>>) -> Vec<(i32, i64)> {
        marks.unwrap_or_default().iter().map(|m| (m.topic_partition().partition.0, m.offset().0)).collect()
    }

    #[test]
    fn later_commits_win_and_none_overtakes() {
        let now = Instant::now();
        let mut commits = Commits::new(BACKOFF);
        let (first, mut first_done) = job(now, &[(0, 5), (1, 7)]);
        let (second, mut second_done) = job(now, &[(0, 9)]);
        commits.push(first);
        commits.push(second);
        assert_eq!(show(commits.next(now, |_| Ok(()))), [(0, 9), (1, 7)]);
        // What comes meanwhile waits for the answer.
        let (third, mut third_done) = job(now, &[(0, 3)]);
        commits.push(third);
        assert_eq!(commits.next(now, |_| Ok(())), None);
        commits.handle_outcomes(now, 0, &outcomes(&[(0, Outcome::Done), (1, Outcome::Done)]));
        assert!(first_done.try_recv().unwrap().is_ok() && second_done.try_recv().unwrap().is_ok());
        assert!(third_done.try_recv().is_err());
        assert_eq!(show(commits.next(now, |_| Ok(()))), [(0, 3)]);
    }

    #[test]
    fn retries_carry_what_came_later() {
        let now = Instant::now();
        let mut commits = Commits::new(BACKOFF);
        let (first, mut first_done) = job(now, &[(0, 5), (1, 7)]);
        commits.push(first);
        commits.next(now, |_| Ok(()));
        let (second, _second_done) = job(now, &[(0, 6)]);
        commits.push(second);
        commits.handle_outcomes(now, 0, &outcomes(&[(0, Outcome::Retry), (1, Outcome::Done)]));
        assert!(first_done.try_recv().is_err());
        assert_eq!(commits.next(now, |_| Ok(())), None);
        let later = now + Duration::from_millis(100);
        assert_eq!(commits.next_deadline(now), Some(later));
        assert_eq!(commits.next_deadline(later), Some(now + Duration::from_secs(10)));
        assert_eq!(show(commits.next(later, |_| Ok(()))), [(0, 6)]);
        commits.handle_outcomes(later, 0, &outcomes(&[(0, Outcome::Done)]));
        assert!(first_done.try_recv().unwrap().is_ok());
    }

    #[test]
    fn lost_refused_and_late_commits_fail() {
        let now = Instant::now();
        let mut commits = Commits::new(BACKOFF);
        let (lost, mut lost_done) = job(now, &[(0, 5)]);
        let (stale, mut stale_done) = job(now, &[(1, 5)]);
        commits.push(lost);
        commits.push(stale);
        let check = |mark: &Mark| match mark.topic_partition().partition.0 {
            1 => Err(Error::new(ErrorKind::Fenced, "stale")),
            _ => Ok(()),
        };
        assert_eq!(show(commits.next(now, check)), [(0, 5)]);
        assert!(stale_done.try_recv().unwrap().unwrap_err().is_fenced());
        commits.handle_outcomes(now, 0, &outcomes(&[(0, Outcome::Lost)]));
        assert!(lost_done.try_recv().unwrap().unwrap_err().is_fenced());
        let (late, mut late_done) = job(now, &[(0, 5)]);
        commits.push(late);
        commits.expire(now + Duration::from_secs(11));
        assert!(late_done.try_recv().unwrap().unwrap_err().is_timeout());
        assert!(commits.is_empty());
    }
}
