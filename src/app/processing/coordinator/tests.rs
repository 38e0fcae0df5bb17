//! The decision table: what a partition does for each combination of policies, told as scripts.

mod acknowledged;
mod calls;
mod fates;
mod stages;

use std::sync::Mutex;

use super::*;
use crate::app::Throttle;
use crate::app::policies::{Again, Dispatch as DeadLetterPolicy};
use crate::app::policy::{Admission, Definition, Facts, Stage, Verdict};
use crate::backoff::Backoff;
use crate::types::{TopicName, TopicPartition};

const SECOND: Duration = Duration::from_secs(1);

/// A route in short.
struct Policy {
    marks: Marks,
    retry: Backoff,
    dead_letter: Option<DeadLetterPolicy>,
    max_messages: usize,
}

fn policy() -> Policy {
    let retry = Backoff { first: SECOND, max: 30 * SECOND, jitter: 0.0 };
    Policy { marks: Marks::Automatic, retry, dead_letter: None, max_messages: usize::MAX }
}

fn dead_letter(max_retries: u32) -> DeadLetterPolicy {
    DeadLetterPolicy {
        max_retries,
        independent: true,
        mark: true,
        atomic: false,
        skip: false,
        strategy: None,
    }
}

fn throttle(limit: usize, interval: Duration) -> Box<dyn Stage> {
    let (topic, policies) = (TopicName::from("t"), Default::default());
    Throttle::new(limit, interval).stage(&Facts {
        topic: &topic,
        marks: Marks::Automatic,
        policies: &policies,
    })
}

/// Splits batches as the script says.
#[derive(Debug)]
struct Lanes(Arc<Mutex<Option<Vec<u32>>>>);

impl Stage for Lanes {
    fn policy(&self) -> &'static str {
        "lanes"
    }

    fn split(&mut self, _: &RecordBatch, _: usize) -> Option<Vec<u32>> {
        self.0.lock().unwrap().take()
    }
}

/// A coordinator with a clock of its own that prints what it wants done.
struct Script {
    coordinator: Coordinator,
    now: Instant,
    lanes: Arc<Mutex<Option<Vec<u32>>>>,
}

impl Script {
    fn new(policy: Policy) -> Self {
        Self::filtered(policy, Vec::new())
    }

    fn filtered(policy: Policy, stages: Vec<Box<dyn Stage>>) -> Self {
        Self::with(policy, stages, Callbacks::default())
    }

    fn with(policy: Policy, mut stages: Vec<Box<dyn Stage>>, callbacks: Callbacks) -> Self {
        let Policy { marks, retry, dead_letter, max_messages } = policy;
        let lanes = Arc::default();
        stages.push(Box::new(Lanes(Arc::clone(&lanes))));
        stages.extend(dead_letter.map(|dead_letter| Box::new(dead_letter) as Box<dyn Stage>));
        stages.push(Box::new(Again(retry)));
        let coordinator = Coordinator::new(Rules { marks, max_messages, stages, callbacks });
        Self { coordinator, now: Instant::now(), lanes }
    }

    /// Offsets 10, 11, … ; `lanes` names the lane of each, or is empty.
    fn batch(&mut self, first: i64, count: usize, lanes: &[u32]) -> String {
        *self.lanes.lock().unwrap() = (!lanes.is_empty()).then(|| lanes.to_vec());
        let batch = RecordBatch::for_test(TopicPartition::new("t", 0), first, &vec![(None, None); count]);
        self.coordinator.handle_batch(self.now, None, batch, 5);
        self.drain()
    }

    fn ok(&mut self, lane: u32) -> String {
        self.coordinator.handle_finished(self.now, lane, Outcome::Success, 0);
        self.drain()
    }

    fn fail(&mut self, lane: u32) -> String {
        self.coordinator.handle_finished(self.now, lane, Outcome::Failure, 0);
        self.drain()
    }

    /// The handler returned success, but only its marks count.
    fn marked(&mut self, lane: u32) -> String {
        self.coordinator.handle_finished(self.now, lane, Outcome::Marked, 0);
        self.drain()
    }

    fn mark(&mut self, lane: u32, offset: i64) -> String {
        self.coordinator.handle_mark(lane, offset);
        self.drain()
    }

    fn dispatched(&mut self, written: bool) -> String {
        self.coordinator.handle_dispatched(self.now, written, 0);
        self.drain()
    }

    fn end(&mut self, ending: Ending) -> String {
        self.coordinator.handle_end(self.now, ending);
        self.drain()
    }

    /// Lets the time pass up to the deadline.
    fn wait(&mut self) -> String {
        self.now = self.coordinator.next_deadline().expect("the script expects a deadline");
        self.coordinator.handle_timeout(self.now);
        self.drain()
    }

    fn drain(&mut self) -> String {
        let mut out = Vec::new();
        while let Some(output) = self.coordinator.poll_output() {
            out.push(match output {
                Output::Run { lane, records, attempt } => format!("run {lane} {records:?} #{attempt}"),
                Output::Call { kind, lane } => format!("{kind:?} {lane}").to_lowercase(),
                Output::Mark(offset) => format!("mark {offset}"),
                Output::Dispatch { record, attempts, to, atomic } => {
                    let to = to.map_or(String::new(), |topic| format!(" to {topic}"));
                    let with = atomic.map_or(String::new(), |offset| format!(" with {offset}"));
                    format!("dispatch {record} #{attempts}{to}{with}")
                }
                Output::Stop { policy, attempt, offset } => format!("{policy} stops at {offset} #{attempt}"),
                Output::Retrying { attempt, offset, delay } => {
                    format!("retry {offset} #{attempt} in {}s", delay.as_secs())
                }
                Output::Skipped { policy, offsets: (first, last), records } => {
                    format!("{policy} skips {records} in {first}..={last}")
                }
                Output::Panicked(context, _) => context.into(),
                Output::Seek(offset) => format!("seek {offset}"),
                Output::Release => "release".into(),
                Output::Ended(ending) => format!("ended {ending:?}"),
            });
        }
        out.join(", ")
    }
}

#[test]
fn success_marks_the_whole_batch_and_releases_it() {
    let mut script = Script::new(policy());
    assert_eq!(script.batch(10, 3, &[]), "run 0 [0, 1, 2] #1");
    assert_eq!(script.ok(0), "mark 13, release");
    assert_eq!(script.batch(13, 1, &[]), "run 0 [0] #1");
}

#[test]
fn an_empty_batch_moves_the_offset_past_what_nobody_sees() {
    let mut script = Script::new(policy());
    assert_eq!(script.batch(20, 0, &[]), "mark 20, release");
}

#[test]
fn success_with_manual_marks_commits_nothing() {
    let mut script = Script::new(Policy { marks: Marks::Manual, ..policy() });
    script.batch(10, 3, &[]);
    assert_eq!(script.ok(0), "release");
    script.batch(13, 2, &[]);
    // A mark of the batch before is still good.
    assert_eq!(script.mark(0, 11), "mark 12");
    assert_eq!(script.mark(0, 13), "mark 14");
    assert_eq!(script.mark(0, 13), "");
    assert_eq!(script.ok(0), "release");
}

#[test]
fn a_failure_retries_the_held_batch_from_the_last_mark_for_ever() {
    let mut script = Script::new(policy());
    script.batch(10, 3, &[]);
    assert_eq!(script.mark(0, 10), "mark 11");
    assert_eq!(script.fail(0), "retry 11 #1 in 1s");
    assert_eq!(script.wait(), "run 0 [1, 2] #2");
    assert_eq!(script.fail(0), "retry 11 #2 in 2s");
    assert_eq!(script.wait(), "run 0 [1, 2] #3");
    // Progress: the next record starts counting at one.
    assert_eq!(script.mark(0, 11), "mark 12");
    assert_eq!(script.fail(0), "retry 12 #1 in 1s");
    assert_eq!(script.wait(), "run 0 [2] #2");
    assert_eq!(script.ok(0), "mark 13, release");
}

#[test]
fn slices_of_max_messages_run_one_after_another() {
    let mut script = Script::new(Policy { max_messages: 2, ..policy() });
    assert_eq!(script.batch(10, 3, &[]), "run 0 [0, 1] #1");
    assert_eq!(script.ok(0), "mark 12, run 0 [2] #1");
    assert_eq!(script.ok(0), "mark 13, release");
}

#[test]
fn a_poison_record_is_dispatched_after_its_retries_and_the_rest_goes_on() {
    let mut script = Script::new(Policy { dead_letter: Some(dead_letter(1)), ..policy() });
    script.batch(10, 3, &[]);
    script.mark(0, 10);
    assert_eq!(script.fail(0), "retry 11 #1 in 1s");
    assert_eq!(script.wait(), "run 0 [1, 2] #2");
    assert_eq!(script.fail(0), "dispatch 1 #2");
    // A dispatch that fails is repeated; the handler is not.
    assert_eq!(script.dispatched(false), "");
    assert_eq!(script.wait(), "dispatch 1 #2");
    assert_eq!(script.dispatched(true), "mark 12");
    assert_eq!(script.wait(), "run 0 [2] #1");
    assert_eq!(script.ok(0), "mark 13, release");
}

#[test]
fn without_retries_the_first_failure_dispatches() {
    let mut script = Script::new(Policy { dead_letter: Some(dead_letter(0)), ..policy() });
    script.batch(10, 1, &[]);
    assert_eq!(script.fail(0), "dispatch 0 #1");
    assert_eq!(script.dispatched(true), "mark 11, release");
}

#[test]
fn retries_are_counted_per_record_or_per_batch() {
    for (independent, second) in [(true, "retry 11 #1 in 1s"), (false, "dispatch 1 #2")] {
        let policy = DeadLetterPolicy { independent, ..dead_letter(1) };
        let mut script = Script::new(Policy { dead_letter: Some(policy), ..self::policy() });
        script.batch(10, 2, &[]);
        script.fail(0);
        script.wait();
        script.mark(0, 10);
        assert_eq!(script.fail(0), second);
    }
}

#[test]
fn lanes_progress_on_their_own_and_offsets_move_over_what_is_contiguous() {
    let mut script = Script::new(policy());
    assert_eq!(script.batch(10, 4, &[1, 2, 1, 2]), "run 1 [0, 2] #1, run 2 [1, 3] #1");
    assert_eq!(script.mark(2, 13), "");
    assert_eq!(script.mark(1, 10), "mark 12");
    assert_eq!(script.ok(2), "");
    assert_eq!(script.ok(1), "mark 14, release");
}

#[test]
fn a_failed_lane_collapses_the_rest_of_the_batch() {
    let mut script = Script::new(Policy { dead_letter: Some(dead_letter(1)), ..policy() });
    script.batch(10, 4, &[1, 2, 1, 2]);
    assert_eq!(script.fail(1), "");
    // Lane 2 succeeded: its records do not run again.
    assert_eq!(script.ok(2), "retry 10 #1 in 1s");
    assert_eq!(script.wait(), "run 0 [0, 2] #2");
    assert_eq!(script.fail(0), "dispatch 0 #2");
    assert_eq!(script.dispatched(true), "mark 12");
    assert_eq!(script.wait(), "run 0 [2] #1");
    assert_eq!(script.ok(0), "mark 14, release");
    // The next batch is split again.
    assert_eq!(script.batch(14, 2, &[1, 2]), "run 1 [0] #1, run 2 [1] #1");
}

#[test]
fn a_pause_by_the_handler_withholds_the_automatic_mark() {
    let mut script = Script::new(policy());
    script.batch(10, 2, &[]);
    script.mark(0, 10);
    script.coordinator.handle_pause(script.now, 0, None, 7 * SECOND);
    assert_eq!(script.ok(0), "");
    assert_eq!(script.coordinator.next_deadline(), Some(script.now + 7 * SECOND));
    assert_eq!(script.wait(), "run 0 [1] #1");
    assert_eq!(script.ok(0), "mark 12, release");
}

#[test]
fn the_latest_pause_wins() {
    let mut script = Script::new(policy());
    script.batch(10, 1, &[]);
    script.coordinator.handle_pause(script.now, 0, None, 7 * SECOND);
    assert_eq!(script.fail(0), "retry 10 #1 in 1s");
    assert_eq!(script.coordinator.next_deadline(), Some(script.now + 7 * SECOND));
    assert_eq!(script.wait(), "run 0 [0] #2");
}

#[test]
fn the_longest_pause_of_lanes_wins() {
    let mut script = Script::new(policy());
    script.batch(10, 2, &[0, 1]);
    script.coordinator.handle_pause(script.now, 0, None, 100 * SECOND);
    script.ok(0);
    script.coordinator.handle_pause(script.now, 1, None, SECOND);
    assert_eq!(script.ok(1), "");
    assert_eq!(script.coordinator.next_deadline(), Some(script.now + 100 * SECOND));
}

#[test]
fn a_seek_drops_what_is_held() {
    let mut script = Script::new(policy());
    script.batch(10, 3, &[]);
    script.coordinator.handle_seek(0, 5);
    assert_eq!(script.ok(0), "seek 5, release");
    script.batch(5, 1, &[]);
    assert_eq!(script.ok(0), "mark 6, release");
}

#[test]
fn revocation_waits_for_the_run_and_takes_its_marks() {
    let mut script = Script::new(policy());
    script.batch(10, 3, &[]);
    assert_eq!(script.end(Ending::Revoked), "");
    assert_eq!(script.ok(0), "mark 13, ended Revoked");
    assert_eq!(script.batch(13, 1, &[]), "");
}

#[test]
fn a_failure_during_revocation_is_left_to_the_next_owner() {
    let mut script = Script::new(Policy { dead_letter: Some(dead_letter(0)), ..policy() });
    script.batch(10, 3, &[]);
    script.mark(0, 10);
    script.end(Ending::Revoked);
    assert_eq!(script.fail(0), "ended Revoked");
    // Nor is a retry announced that nobody will see.
    for ending in [Ending::Stopped, Ending::Revoked] {
        let mut script = Script::new(policy());
        script.batch(10, 3, &[]);
        script.end(ending);
        assert_eq!(script.fail(0), format!("ended {ending:?}"));
    }
}

#[test]
fn after_a_loss_marks_are_refused_and_nothing_is_retried_or_dispatched() {
    let mut script = Script::new(Policy { dead_letter: Some(dead_letter(0)), ..policy() });
    script.batch(10, 3, &[]);
    script.end(Ending::Revoked);
    script.end(Ending::Lost);
    assert_eq!(script.mark(0, 11), "");
    assert_eq!(script.fail(0), "ended Lost");
    assert_eq!(script.end(Ending::Stopped), "");
}

#[test]
fn a_stop_ends_a_waiting_partition_at_once() {
    let mut script = Script::new(policy());
    script.batch(10, 1, &[]);
    script.fail(0);
    assert_eq!(script.end(Ending::Stopped), "ended Stopped");
    assert_eq!(script.coordinator.next_deadline(), None);
}

#[test]
fn a_dispatch_under_way_finishes_before_the_partition_ends() {
    let mut script = Script::new(Policy { dead_letter: Some(dead_letter(0)), ..policy() });
    script.batch(10, 2, &[]);
    script.fail(0);
    assert_eq!(script.end(Ending::Revoked), "");
    assert_eq!(script.dispatched(true), "mark 11, ended Revoked");
}

/// Dead letters × manual marks × virtual partitions × a throttling filter × a transactional dispatch.
#[test]
fn all_policies_at_once() {
    let policy = Policy {
        marks: Marks::Manual,
        dead_letter: Some(DeadLetterPolicy { atomic: true, ..dead_letter(1) }),
        ..policy()
    };
    let mut script = Script::filtered(policy, vec![throttle(2, SECOND)]);
    assert_eq!(script.batch(10, 5, &[1, 2, 1, 2, 1]), "run 1 [0] #1, run 2 [1] #1");
    assert_eq!(script.mark(1, 10), "mark 11");
    script.ok(1);
    // Lane 2 fails on offset 11: a retry, from now on in one lane; the throttle asks for its second as well.
    assert_eq!(script.fail(2), "retry 11 #1 in 1s");
    assert_eq!(script.wait(), "run 0 [1, 2] #2");
    assert_eq!(script.fail(0), "dispatch 1 #2 with 12");
    // The transaction aborted: nothing moved.
    assert_eq!(script.dispatched(false), "");
    assert_eq!(script.wait(), "dispatch 1 #2 with 12");
    // The transaction carried the offset; it is not offered once more.
    assert_eq!(script.dispatched(true), "");
    assert_eq!(script.wait(), "run 0 [2, 3] #1");
    assert_eq!(script.mark(0, 12), "mark 13");
    // Offset 13 succeeded without a mark: manual marks leave it uncommitted.
    assert_eq!(script.ok(0), "");
    assert_eq!(script.wait(), "run 0 [4] #1");
    // A mark covers what was handled before it.
    assert_eq!(script.mark(0, 14), "mark 15");
    assert_eq!(script.ok(0), "release");
}

#[test]
fn a_run_that_marks_has_done_what_it_marked() {
    let mut script = Script::new(policy());
    script.batch(10, 4, &[]);
    assert_eq!(script.mark(0, 11), "mark 12");
    assert_eq!(script.marked(0), "release");
    // The next run covers what was left unmarked.
    script.batch(14, 2, &[]);
    assert_eq!(script.ok(0), "mark 16, release");
}

/// Early returns of automatic consumers, with and without marks of their own, for each end.
#[test]
fn an_early_return_marks_nothing_that_was_not_handled() {
    for (ending, name) in [(Ending::Stopped, "Stopped"), (Ending::Revoked, "Revoked"), (Ending::Lost, "Lost")]
    {
        for mode in [Marks::Automatic, Marks::Manual] {
            let mut script = Script::new(Policy { marks: mode, ..policy() });
            script.batch(10, 100, &[]);
            script.mark(0, 14);
            script.end(ending);
            let late = if ending == Ending::Lost { "" } else { "mark 18" };
            assert_eq!(script.mark(0, 17), late);
            assert_eq!(script.marked(0), format!("ended {name}"));

            let mut script = Script::new(Policy { marks: mode, ..policy() });
            script.batch(10, 100, &[]);
            script.end(ending);
            assert_eq!(script.marked(0), format!("ended {name}"));
        }
    }
}

#[test]
fn marks_of_an_earlier_batch_do_not_pass_what_another_lane_left_there() {
    let mut script = Script::new(Policy { marks: Marks::Manual, ..policy() });
    script.batch(10, 4, &[1, 2, 1, 2]);
    script.ok(1);
    assert_eq!(script.ok(2), "release");
    script.batch(14, 2, &[2, 2]);
    // Lane 2 marks what it kept of the first batch, then all it has; lane 1 has done nothing.
    assert_eq!(script.mark(2, 13), "");
    assert_eq!(script.mark(2, 15), "");
    assert_eq!(script.ok(2), "release");
    script.batch(16, 1, &[1]);
    assert_eq!(script.mark(1, 10), "mark 11");
    assert_eq!(script.mark(1, 12), "mark 16");
    assert_eq!(script.mark(1, 16), "mark 17");
}

#[test]
fn marks_of_last_callbacks_are_contiguous_too_and_none_goes_back() {
    let mut script = Script::new(Policy { marks: Marks::Manual, ..policy() });
    script.batch(10, 4, &[1, 2, 1, 2]);
    script.ok(1);
    script.ok(2);
    assert_eq!(script.end(Ending::Stopped), "ended Stopped");
    assert_eq!(script.mark(2, 13), "");
    assert_eq!(script.mark(1, 10), "mark 11");
    assert_eq!(script.mark(1, 12), "mark 14");
    assert_eq!(script.mark(1, 10), "");
    // It may still be lost meanwhile.
    let mut script = Script::new(Policy { marks: Marks::Manual, ..policy() });
    script.batch(10, 1, &[]);
    script.ok(0);
    script.end(Ending::Revoked);
    assert_eq!(script.end(Ending::Lost), "");
    assert_eq!(script.mark(0, 10), "");
}

#[test]
fn a_mark_in_one_lane_does_not_cover_what_another_kept_when_the_batch_collapses() {
    let mut script = Script::new(Policy { marks: Marks::Manual, ..policy() });
    script.batch(10, 3, &[1, 2, 1]);
    script.ok(2);
    assert_eq!(script.fail(1), "retry 10 #1 in 1s");
    assert_eq!(script.wait(), "run 0 [0, 2] #2");
    assert_eq!(script.mark(0, 12), "mark 11");
    assert_eq!(script.ok(0), "release");
    assert_eq!(script.mark(2, 11), "mark 13");
}

#[test]
fn a_mark_covers_only_what_was_handed_out() {
    let mut script = Script::new(Policy { marks: Marks::Manual, max_messages: 2, ..policy() });
    script.batch(10, 4, &[]);
    assert_eq!(script.mark(0, 99), "mark 12");
    assert_eq!(script.ok(0), "run 0 [2, 3] #1");
}

#[test]
fn a_seek_voids_the_failure_that_came_with_it() {
    let mut script = Script::new(Policy { dead_letter: Some(dead_letter(0)), ..policy() });
    script.batch(10, 3, &[]);
    script.coordinator.handle_seek(0, 13);
    assert_eq!(script.fail(0), "seek 13, release");
    // No dispatch, no pause, no attempts of the old position; marks begin anew.
    assert_eq!(script.batch(13, 2, &[]), "run 0 [0, 1] #1");
    assert_eq!(script.ok(0), "mark 15, release");
}

#[test]
fn a_failure_behind_the_last_mark_dispatches_nothing_that_was_not_handed_out() {
    let policy = Policy { dead_letter: Some(dead_letter(0)), max_messages: 2, ..policy() };
    let mut script = Script::new(policy);
    script.batch(10, 3, &[]);
    assert_eq!(script.mark(0, 11), "mark 12");
    assert_eq!(script.fail(0), "run 0 [2] #1");
}

#[test]
fn records_that_are_to_come_again_are_not_taken_for_the_failing_one() {
    let policy =
        Policy { marks: Marks::Manual, dead_letter: Some(dead_letter(0)), max_messages: 1, ..policy() };
    let mut script = Script::new(policy);
    script.batch(10, 2, &[]);
    assert_eq!(script.ok(0), "run 0 [1] #1");
    script.coordinator.handle_pause(script.now, 0, Some(10), SECOND);
    assert_eq!(script.fail(0), "");
    assert_eq!(script.wait(), "dispatch 1 #1");
}

#[test]
fn a_pause_in_one_lane_withholds_the_marks_of_that_lane_alone() {
    let mut script = Script::new(policy());
    script.batch(10, 4, &[1, 2, 1, 2]);
    script.coordinator.handle_pause(script.now, 2, None, 7 * SECOND);
    script.ok(1);
    assert_eq!(script.ok(2), "mark 11");
    assert_eq!(script.wait(), "run 2 [1, 3] #1");
    assert_eq!(script.ok(2), "mark 14, release");
}

#[test]
fn a_log_that_is_read_again_is_marked_again() {
    let mut script = Script::new(policy());
    script.batch(10, 5, &[]);
    assert_eq!(script.ok(0), "mark 15, release");
    // Truncated to 12 and resumed there.
    script.batch(12, 2, &[]);
    assert_eq!(script.ok(0), "mark 14, release");
}

#[test]
fn what_was_not_begun_before_the_end_is_neither_done_nor_failed() {
    let mut script = Script::new(policy());
    script.batch(10, 2, &[]);
    script.end(Ending::Stopped);
    script.coordinator.handle_finished(script.now, 0, Outcome::NotBegun, 0);
    assert_eq!(script.drain(), "ended Stopped");
}

#[test]
fn dispatches_that_fail_are_repeated_less_and_less_often() {
    let mut script = Script::new(Policy { dead_letter: Some(dead_letter(0)), ..policy() });
    script.batch(10, 1, &[]);
    script.fail(0);
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        let before = script.now;
        script.dispatched(false);
        assert_eq!(script.wait(), "dispatch 0 #1");
        assert_eq!(script.now - before, seconds * SECOND);
    }
}

#[test]
fn pauses_and_retries_may_last_for_ever() {
    for time in [Duration::ZERO, SECOND, Duration::MAX] {
        let retry = Backoff { first: time, max: Duration::MAX, jitter: 1.0 };
        let mut script = Script::new(Policy { retry, ..policy() });
        script.batch(10, 1, &[]);
        script.coordinator.handle_pause(script.now, 0, None, time);
        script.coordinator.handle_finished(script.now, 0, Outcome::Failure, u64::MAX);
        script.drain();
        script.coordinator.handle_timeout(script.now + 3 * SECOND);
        script.drain();
        assert_eq!(script.end(Ending::Stopped).is_empty(), time <= SECOND, "{time:?}");
    }
}
