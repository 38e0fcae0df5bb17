//! What stages of policies may say, and what becomes of it.

use super::*;
use crate::app::policy::Candidate;
use crate::app::{DeadLetter, Expiry};

type Say = Box<dyn FnMut(&mut Admission<'_>) + Send>;

/// A stage that decides what runs as the script says.
struct Gate(Say);

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Stage for Gate {
    fn policy(&self) -> &'static str {
        "gate"
    }

    fn admit(&mut self, records: &mut Admission<'_>) {
        (self.0)(records);
    }
}

fn gate(say: impl FnMut(&mut Admission<'_>) + Send + 'static) -> Box<dyn Stage> {
    Box::new(Gate(Box::new(say)))
}

/// Keeps these offsets from the handler.
fn without(offsets: &'static [i64], verdict: Verdict) -> Box<dyn Stage> {
    gate(move |records| {
        records.judge(|candidate| match offsets.contains(&candidate.record.offset.0) {
            true => verdict,
            false => Verdict::Run,
        });
    })
}

fn manual() -> Policy {
    Policy { marks: Marks::Manual, ..policy() }
}

#[test]
fn single_records_are_skipped_and_count_as_consumed() {
    let mut script = Script::filtered(policy(), vec![without(&[10, 12], Verdict::Skip)]);
    assert_eq!(script.batch(10, 4, &[]), "gate skips 2 in 10..=12, run 0 [1, 3] #1");
    assert_eq!(script.mark(0, 11), "mark 13");
    assert_eq!(script.ok(0), "mark 14, release");
}

#[test]
fn a_batch_of_which_nothing_is_left_is_done() {
    for (policy, verdict, expected) in [
        (policy(), Verdict::Skip, "gate skips 2 in 10..=11, mark 12, release"),
        (manual(), Verdict::Consumed, "gate skips 2 in 10..=11, mark 12, release"),
        // Nobody marked anything.
        (manual(), Verdict::Skip, "gate skips 2 in 10..=11, release"),
    ] {
        let mut script = Script::filtered(policy, vec![without(&[10, 11], verdict)]);
        assert_eq!(script.batch(10, 2, &[]), expected);
        assert_eq!(script.batch(12, 1, &[]), "run 0 [0] #1");
        assert_eq!(script.mark(0, 12), "mark 13");
    }
}

#[test]
fn with_manual_marks_the_next_one_passes_what_was_skipped() {
    let mut script = Script::filtered(manual(), vec![without(&[11, 13], Verdict::Skip)]);
    assert_eq!(script.batch(10, 4, &[]), "gate skips 2 in 11..=13, run 0 [0, 2] #1");
    assert_eq!(script.mark(0, 10), "mark 11");
    assert_eq!(script.mark(0, 12), "mark 13");
    assert_eq!(script.ok(0), "release");
}

#[test]
fn what_is_skipped_slice_by_slice_is_told_once() {
    let policy = Policy { max_messages: 2, ..policy() };
    let mut script = Script::filtered(policy, vec![without(&[10, 11, 12, 13, 14], Verdict::Skip)]);
    assert_eq!(script.batch(10, 6, &[]), "gate skips 5 in 10..=14, run 0 [5] #1");
}

#[test]
fn a_stage_sees_what_those_before_it_left() {
    let mut script = Script::filtered(policy(), vec![without(&[10, 11], Verdict::Skip), throttle(2, SECOND)]);
    assert_eq!(script.batch(10, 5, &[]), "gate skips 2 in 10..=11, run 0 [2, 3] #1");
    assert_eq!(script.ok(0), "mark 14");
    assert_eq!(script.wait(), "run 0 [4] #1");
}

#[test]
fn a_stage_sees_the_whole_record_and_whether_it_is_retried() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&seen);
    let look = move |candidate: &Candidate<'_>| {
        let record = candidate.record;
        copy.lock().unwrap().push((record.offset.0, record.timestamp, record.headers.len(), candidate.fresh));
        Verdict::Run
    };
    let mut script = Script::filtered(policy(), vec![gate(move |records| records.judge(&look))]);
    script.batch(10, 1, &[]);
    script.fail(0);
    script.wait();
    assert_eq!(*seen.lock().unwrap(), [(10, 1000, 0, true), (10, 1000, 0, false)]);
}

#[test]
fn a_seek_comes_behind_what_was_let_through() {
    let away = || gate(|records| records.seek(50));
    let mut script = Script::filtered(policy(), vec![away()]);
    assert_eq!(script.batch(10, 2, &[]), "run 0 [0, 1] #1");
    assert_eq!(script.ok(0), "mark 12, seek 50, release");
    // What failed is retried first.
    let mut script = Script::filtered(policy(), vec![away()]);
    script.batch(10, 2, &[]);
    assert_eq!(script.fail(0), "retry 10 #1 in 1s");
    assert_eq!(script.wait(), "run 0 [0, 1] #2");
    assert_eq!(script.ok(0), "mark 12, seek 50, release");
    // A handler that pauses or seeks takes precedence.
    let mut script = Script::filtered(policy(), vec![away()]);
    script.batch(10, 1, &[]);
    script.coordinator.handle_seek(0, 7);
    assert_eq!(script.ok(0), "seek 7, release");
    script.batch(7, 1, &[]);
    script.coordinator.handle_pause(script.now, 0, None, SECOND);
    assert_eq!(script.ok(0), "");
    // Where nothing is let through it comes at once; the lowest of several counts.
    let stages = vec![gate(|records| records.seek(60)), away(), without(&[10], Verdict::Skip)];
    assert_eq!(
        Script::filtered(policy(), stages).batch(10, 1, &[]),
        "gate skips 1 in 10..=10, mark 11, seek 50, release"
    );
}

#[test]
fn a_pause_lasts_beyond_the_batch_goes_before_a_seek_and_the_longest_counts() {
    let begin = Instant::now();
    let stages = vec![
        gate(|records| records.seek(50)),
        gate(move |records| records.pause(begin + 3600 * SECOND)),
        gate(move |records| records.pause(begin + 1800 * SECOND)),
    ];
    let mut script = Script::filtered(policy(), stages);
    assert_eq!(script.batch(10, 1, &[]), "run 0 [0] #1");
    assert_eq!(script.ok(0), "mark 11, release");
    assert_eq!(script.batch(11, 1, &[]), "");
    assert_eq!(script.coordinator.next_deadline(), Some(begin + 3600 * SECOND));
    assert_eq!(script.wait(), "run 0 [0] #1");
}

#[test]
fn the_latest_of_the_deadlines_of_a_pause_and_a_cut_counts() {
    for (cut, pause) in [(3600, 1800), (1800, 3600)] {
        let begin = Instant::now();
        let stages = vec![gate(move |records| {
            records.cut(0, begin + cut * SECOND);
            records.pause(begin + pause * SECOND);
        })];
        let mut script = Script::filtered(policy(), stages);
        assert_eq!(script.batch(10, 1, &[]), "");
        assert_eq!(script.coordinator.next_deadline(), Some(begin + 3600 * SECOND));
    }
}

#[test]
fn a_stage_that_panics_is_reported_and_has_said_nothing() {
    let stages = vec![gate(|records| {
        records.cut(0, records.now() + SECOND);
        records.judge(|candidate| match candidate.record.offset.0 {
            11 => panic!("on purpose"),
            _ => Verdict::Skip,
        });
    })];
    let mut script = Script::filtered(policy(), stages);
    assert_eq!(script.batch(10, 2, &[]), "policy.error, run 0 [0, 1] #1");
    assert_eq!(script.ok(0), "mark 12, release");
}

/// Panics wherever it is asked.
#[derive(Debug)]
struct Panics;

impl Stage for Panics {
    fn policy(&self) -> &'static str {
        "panics"
    }

    fn split(&mut self, _: &RecordBatch, _: usize) -> Option<Vec<u32>> {
        panic!("on purpose")
    }

    fn failed(&mut self, _: &mut Failure) -> Decision {
        panic!("on purpose")
    }

    fn advanced(&mut self, _: i64) {
        panic!("on purpose")
    }
}

#[test]
fn panics_of_stages_leave_the_rest_of_the_chain() {
    let mut script = Script::filtered(policy(), vec![Box::new(Panics)]);
    assert_eq!(script.batch(10, 2, &[1, 2]), "policy.error, run 1 [0] #1, run 2 [1] #1");
    script.ok(1);
    assert_eq!(script.fail(2), "policy.error, retry 11 #1 in 1s, policy.error, mark 11");
    assert_eq!(script.wait(), "run 0 [1] #2");
}

#[test]
fn a_record_that_is_retried_does_not_expire() {
    let mut route = crate::app::routing::TopicRoute::new("t".into());
    let expiry = Expiry::after(10 * SECOND).stage(&route.with(DeadLetter::to("dead")).facts());
    let mut script = Script::filtered(Policy { max_messages: 2, ..policy() }, vec![expiry]);
    let batch = RecordBatch::for_test(TopicPartition::new("t", 0), 10, &[(None, None); 3]);
    // The records were written at 1,000.
    script.coordinator.handle_batch(script.now, Some(Timestamp(11_000)), batch, 1);
    assert_eq!(script.drain(), "run 0 [0, 1] #1");
    assert_eq!(script.mark(0, 10), "mark 11");
    assert_eq!(script.fail(0), "retry 11 #1 in 1s");
    // By now the rest is too old: what was tried is tried again, what was not is dropped.
    assert_eq!(script.wait(), "expiry skips 1 in 12..=12, run 0 [1] #2");
    assert_eq!(script.ok(0), "mark 13, release");
}
