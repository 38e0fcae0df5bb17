//! Lives, step by step.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn drain(lives: &mut Lives) -> Vec<Output> {
    std::iter::from_fn(|| lives.poll_output()).collect()
}

/// Partitions 0 and 1, assigned, with a revocation that waits for at most ten seconds.
fn two() -> Lives {
    let mut lives = Lives::new(10 * SECOND);
    lives.handle_assigned(tp(0));
    lives.handle_assigned(tp(1));
    assert_eq!(drain(&mut lives), [Output::Begin(tp(0)), Output::Begin(tp(1))]);
    lives
}

#[test]
fn a_revocation_is_handed_back_when_the_last_callback_has_returned() {
    let (mut lives, now) = (two(), Instant::now());
    lives.handle_revoked(now, 7, &[tp(0), tp(5)], now + 60 * SECOND);
    assert_eq!(drain(&mut lives), [Output::End(tp(0), Ending::Revoked)]);
    assert_eq!(lives.next_deadline(), Some(now + 10 * SECOND));
    lives.handle_ended(&tp(0), Ending::Revoked, 2);
    assert_eq!(drain(&mut lives), [Output::LastCalls(tp(0), Ending::Revoked)]);
    lives.handle_last_call(&tp(0));
    assert_eq!(drain(&mut lives), []);
    lives.handle_last_call(&tp(0));
    assert_eq!(drain(&mut lives), [Output::Remove(tp(0)), Output::HandBack(7)]);
    assert_eq!((lives.next_deadline(), lives.phase(&tp(0))), (None, None));
    assert_eq!(lives.phase(&tp(1)), Some(PartitionPhase::Active));
}

#[test]
fn what_has_no_life_is_handed_back_at_once() {
    let (mut lives, now) = (two(), Instant::now());
    lives.handle_revoked(now, 1, &[tp(5)], now + 60 * SECOND);
    assert_eq!(drain(&mut lives), [Output::HandBack(1)]);
}

#[test]
fn who_does_not_end_in_time_is_lost_with_the_marks_made_so_far() {
    let (mut lives, now) = (two(), Instant::now());
    // The group's own deadline is nearer, and its margin is kept.
    lives.handle_revoked(now, 1, &[tp(0), tp(1)], now + 5 * SECOND);
    lives.handle_ended(&tp(1), Ending::Revoked, 0);
    drain(&mut lives);
    lives.handle_timeout(now + 3 * SECOND);
    assert_eq!(drain(&mut lives), []);
    lives.handle_timeout(now + 4 * SECOND);
    let given_up = [
        Output::Collect(tp(0)),
        Output::GivenUp(vec![tp(0)]),
        Output::End(tp(0), Ending::Lost),
        Output::HandBack(1),
    ];
    assert_eq!(drain(&mut lives), given_up);
    assert_eq!(lives.phase(&tp(0)), Some(PartitionPhase::Ending), "its handlers run on");
}

#[test]
fn a_partition_that_comes_back_waits_for_its_former_handlers() {
    let mut lives = two();
    lives.handle_lost(&[tp(0)]);
    lives.handle_assigned(tp(0));
    assert_eq!(drain(&mut lives), [Output::End(tp(0), Ending::Lost)]);
    lives.handle_ended(&tp(0), Ending::Lost, 0);
    assert_eq!(drain(&mut lives), [Output::Remove(tp(0)), Output::Begin(tp(0))]);
    assert_eq!(lives.phase(&tp(0)), Some(PartitionPhase::Active));
}

#[test]
fn a_successor_that_is_lost_as_well_never_begins() {
    let mut lives = two();
    lives.handle_lost(&[tp(0)]);
    lives.handle_assigned(tp(0));
    lives.handle_lost(&[tp(0)]);
    lives.handle_ended(&tp(0), Ending::Lost, 0);
    let outputs = drain(&mut lives);
    assert!(
        outputs.contains(&Output::Remove(tp(0))) && !outputs.contains(&Output::Begin(tp(0))),
        "{outputs:?}"
    );
}

#[test]
fn a_stop_waits_for_all_but_those_who_work_in_vain() {
    let mut lives = two();
    lives.handle_lost(&[tp(0)]);
    drain(&mut lives);
    lives.handle_stop();
    let stop =
        [Output::End(tp(0), Ending::Stopped), Output::Remove(tp(0)), Output::End(tp(1), Ending::Stopped)];
    assert_eq!(drain(&mut lives), stop);
    // Nothing begins any more, and what is lost now is not waited for either.
    lives.handle_assigned(tp(2));
    lives.handle_lost(&[tp(1)]);
    assert_eq!(drain(&mut lives), [Output::End(tp(1), Ending::Lost), Output::Remove(tp(1))]);
    assert!(lives.is_empty());
}

#[test]
fn last_callbacks_are_waited_for_even_if_they_are_late() {
    let (mut lives, now) = (two(), Instant::now());
    lives.handle_revoked(now, 1, &[tp(0)], now + 60 * SECOND);
    lives.handle_ended(&tp(0), Ending::Revoked, 1);
    lives.handle_timeout(now + 10 * SECOND);
    lives.handle_stop();
    lives.handle_ended(&tp(1), Ending::Stopped, 0);
    drain(&mut lives);
    assert_eq!(lives.phase(&tp(0)), Some(PartitionPhase::Closing));
    lives.handle_last_call(&tp(0));
    assert!(lives.is_empty());
}
