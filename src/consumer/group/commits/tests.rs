//! The queue of commits, played by hand.

use std::time::Duration;

use super::*;
use crate::types::Offset;

const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };

fn mark(partition: i32, offset: i64) -> Mark {
    Mark::new(TopicPartition::new("t", partition), Offset(offset))
}

fn marks(marks: &[(i32, i64)]) -> Vec<Mark> {
    marks.iter().map(|(p, o)| mark(*p, *o)).collect()
}

/// Pushes a job of ten seconds, and returns who waits for it.
fn push(commits: &mut Commits, now: Instant, wanted: &[(i32, i64)]) -> Waiter {
    let waiter = Waiter::Caller(commits.next_job);
    let deadline = now + Duration::from_secs(10);
    commits.push(Job { marks: marks(wanted), deadline, waiter });
    waiter
}

fn next(commits: &mut Commits, now: Instant) -> Vec<(i32, i64)> {
    let sending = commits.plan(now, |_| Ok(Uuid::default())).unwrap_or_default();
    sending.iter().map(|item| (item.mark.topic_partition().partition.0, item.mark.offset().0)).collect()
}

fn answer(commits: &mut Commits, now: Instant, list: &[(i32, Outcome)]) -> Vec<Failed> {
    let outcomes = list.iter().map(|(p, outcome)| (TopicPartition::new("t", *p), outcome.clone())).collect();
    commits.handle_outcomes(now, 0, outcomes)
}

fn retry() -> Outcome {
    Outcome::Retry(Error::from_code(ErrorCode::UNKNOWN_TOPIC_ID, "not now"))
}

fn refusal() -> Outcome {
    Outcome::Failed(Error::from_code(ErrorCode::OFFSET_METADATA_TOO_LARGE, "refused"))
}

/// What failed of the job, once it is settled.
fn settled(commits: &mut Commits, waiter: Waiter) -> Option<Vec<Failed>> {
    let at = commits.settled.iter().position(|settled| settled.waiter == waiter)?;
    commits.settled.remove(at).map(|settled| settled.failed)
}

/// Partitions that failed, once the job is settled.
fn failed(commits: &mut Commits, waiter: Waiter) -> Option<Vec<(i32, ErrorKind)>> {
    let failed = settled(commits, waiter)?;
    Some(failed.iter().map(|f| (f.mark.topic_partition().partition.0, f.error.kind())).collect())
}

#[test]
fn later_commits_win_and_none_overtakes() {
    let now = Instant::now();
    let mut commits = Commits::new(BACKOFF);
    let first = push(&mut commits, now, &[(0, 5), (1, 7)]);
    let second = push(&mut commits, now, &[(0, 9)]);
    assert_eq!(next(&mut commits, now), [(0, 9), (1, 7)]);
    // What comes meanwhile waits for the answer.
    let third = push(&mut commits, now, &[(0, 3)]);
    assert!(next(&mut commits, now).is_empty());
    answer(&mut commits, now, &[(0, Outcome::Done), (1, Outcome::Done)]);
    assert_eq!((failed(&mut commits, first), failed(&mut commits, second)), (Some(vec![]), Some(vec![])));
    assert!(failed(&mut commits, third).is_none());
    assert_eq!(next(&mut commits, now), [(0, 3)]);
}

#[test]
fn a_partition_that_has_to_wait_holds_up_no_other() {
    let now = Instant::now();
    let mut commits = Commits::new(BACKOFF);
    let first = push(&mut commits, now, &[(0, 5), (1, 7)]);
    next(&mut commits, now);
    answer(&mut commits, now, &[(0, retry()), (1, Outcome::Done)]);
    assert!(failed(&mut commits, first).is_none());
    assert_eq!(commits.next_deadline(now), Some(now + Duration::from_millis(100)));
    // What is stored goes, and what waits carries what came later.
    commits.push_stored(marks(&[(1, 8), (2, 1)]));
    let second = push(&mut commits, now, &[(0, 6)]);
    assert_eq!(next(&mut commits, now), [(1, 8), (2, 1)]);
    answer(&mut commits, now, &[(1, Outcome::Done), (2, Outcome::Done)]);
    let later = now + Duration::from_millis(100);
    assert_eq!(next(&mut commits, later), [(0, 6)]);
    answer(&mut commits, later, &[(0, Outcome::Done)]);
    assert_eq!((failed(&mut commits, first), failed(&mut commits, second)), (Some(vec![]), Some(vec![])));
    assert_eq!(commits.next_deadline(later), None);
}

#[test]
fn what_is_stored_does_not_take_back_what_somebody_commits() {
    let now = Instant::now();
    let mut commits = Commits::new(BACKOFF);
    let _waiting = push(&mut commits, now, &[(0, 9)]);
    commits.push_stored(marks(&[(0, 5)]));
    assert_eq!(next(&mut commits, now), [(0, 9)]);
    commits.push_stored(marks(&[(0, 5)]));
    answer(&mut commits, now, &[(0, Outcome::Done)]);
    assert!(next(&mut commits, now).is_empty());
    // Of itself, the latest is committed, and once.
    commits.push_stored(marks(&[(0, 10)]));
    commits.push_stored(marks(&[(0, 11)]));
    assert_eq!(next(&mut commits, now), [(0, 11)]);
    commits.push_stored(marks(&[(0, 11)]));
    answer(&mut commits, now, &[(0, Outcome::Done)]);
    assert!(next(&mut commits, now).is_empty());
}

#[test]
fn everybody_hears_of_what_was_not_committed() {
    let now = Instant::now();
    let mut commits = Commits::new(BACKOFF);
    let lost = push(&mut commits, now, &[(0, 5), (2, 1)]);
    let stale = push(&mut commits, now, &[(1, 5)]);
    let check = |mark: &Mark| match mark.topic_partition().partition.0 {
        1 => Err(Error::new(ErrorKind::Fenced, "stale")),
        _ => Ok(Uuid::default()),
    };
    assert_eq!(commits.plan(now, check).unwrap().len(), 2);
    assert_eq!(failed(&mut commits, stale), Some(vec![(1, ErrorKind::Fenced)]));
    commits.handle_lost(&[TopicPartition::new("t", 0)]);
    assert!(failed(&mut commits, lost).is_none(), "the rest may still go through");
    assert!(answer(&mut commits, now, &[(0, Outcome::Done), (2, Outcome::Done)]).is_empty());
    assert_eq!(failed(&mut commits, lost), Some(vec![(0, ErrorKind::Fenced)]));
    // What nobody waits for is told to whoever asked.
    commits.push_stored(marks(&[(3, 1)]));
    next(&mut commits, now);
    assert_eq!(answer(&mut commits, now, &[(3, refusal())]).len(), 1);
    // Revocations are settled in order.
    let deadline = now + Duration::from_secs(1);
    commits.push(Job { marks: Vec::new(), deadline, waiter: Waiter::Revocation(7) });
    commits.push(Job { marks: marks(&[(4, 1)]), deadline, waiter: Waiter::Revocation(8) });
    let first = commits.poll_output().map(|settled| (settled.waiter, settled.failed.len()));
    assert_eq!(first, Some((Waiter::Revocation(7), 0)));
    assert!(commits.poll_output().is_none());
    // At the deadline, even of what is on its way.
    next(&mut commits, now);
    assert_eq!(commits.next_deadline(now), Some(deadline));
    commits.handle_timeout(deadline);
    let failed = settled(&mut commits, Waiter::Revocation(8)).unwrap();
    assert!(failed[0].error.is_timeout());
    answer(&mut commits, now, &[(4, Outcome::Done)]);
    assert_eq!(commits.next_deadline(now), None);
}

#[test]
fn a_coordinator_that_is_away_is_not_hammered() {
    let mut now = Instant::now();
    let mut commits = Commits::new(BACKOFF);
    let waiting = push(&mut commits, now, &[(0, 5)]);
    for pause in [100, 200, 400] {
        assert_eq!(next(&mut commits, now).len(), 1);
        commits.handle_failed(now, 0, &Error::new(ErrorKind::Network, "away"));
        // Nor by others.
        commits.push_stored(marks(&[(1, 1)]));
        assert!(next(&mut commits, now).is_empty());
        commits.handle_lost(&[TopicPartition::new("t", 1)]);
        now += Duration::from_millis(pause);
        assert_eq!(commits.next_deadline(now - Duration::from_millis(1)), Some(now));
    }
    commits.limit(now);
    commits.handle_timeout(now);
    let failed = settled(&mut commits, waiting).unwrap();
    let error = summary("closing", &failed).unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("t[0] at 5"), "{error}");
    let text = crate::error::Chain(&error).to_string();
    assert!(text.contains("away"), "{text}");
}

#[test]
fn an_error_names_what_is_not_committed_and_not_without_end() {
    assert!(summary("committing", &[]).is_ok());
    let error = Error::from_code(ErrorCode::OFFSET_METADATA_TOO_LARGE, "refused");
    let many: Vec<_> =
        (0..1000).map(|partition| Failed { mark: mark(partition, 3), error: error.clone() }).collect();
    let error = summary("committing", &many).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::OFFSET_METADATA_TOO_LARGE));
    let text = error.to_string();
    assert!(text.contains("t[9] at 3, and 990 more") && !text.contains("t[10] "), "{text}");
}
