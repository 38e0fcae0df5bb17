//! Callbacks besides `consume`: when they run, and what they keep waiting.

use super::*;

impl Script {
    fn calling(callbacks: Callbacks) -> Self {
        Self::with(policy(), Vec::new(), callbacks)
    }

    fn assigned(&mut self) -> String {
        self.coordinator.handle_assigned(self.now);
        self.drain()
    }

    fn partition_end(&mut self) -> String {
        self.coordinator.handle_partition_end(self.now);
        self.drain()
    }

    fn not_begun(&mut self, lane: u32) -> String {
        self.coordinator.handle_finished(self.now, lane, Outcome::NotBegun, 0);
        self.drain()
    }

    fn quiet(&mut self, on: bool) -> String {
        self.coordinator.handle_quiet(self.now, on);
        self.drain()
    }

    fn pause(&mut self, pause: Duration) {
        self.coordinator.handle_pause(self.now, 0, None, pause);
    }

    /// When it wants to be asked again, from now on.
    fn waits(&self) -> Option<Duration> {
        self.coordinator.next_deadline().map(|deadline| deadline - self.now)
    }
}

const INITIALIZED: Callbacks = Callbacks { initialized: true, eofed: false, every: None };
const EOFED: Callbacks = Callbacks { initialized: false, eofed: true, every: None };
const TICKS: Callbacks = Callbacks { initialized: false, eofed: false, every: Some(Duration::from_secs(5)) };

#[test]
fn nothing_is_called_that_nobody_asked_for() {
    let mut script = Script::new(policy());
    assert_eq!(script.assigned(), "");
    assert_eq!(script.partition_end(), "");
    script.batch(10, 1, &[]);
    assert_eq!(script.ok(0), "mark 11, release");
    assert_eq!((script.partition_end().as_str(), script.waits()), ("", None));
}

#[test]
fn the_first_batch_waits_until_its_consumer_is_initialized_or_has_failed_to_be() {
    for succeeds in [true, false] {
        let mut script = Script::calling(INITIALIZED);
        assert_eq!(script.assigned(), "initialized 0");
        assert_eq!(script.batch(10, 2, &[1, 2]), "");
        let done = if succeeds { script.ok(0) } else { script.fail(0) };
        assert_eq!(done, "run 1 [0] #1, run 2 [1] #1");
        script.ok(1);
        assert_eq!(script.ok(2), "mark 12, release");
        assert_eq!(script.batch(12, 1, &[]), "run 0 [0] #1", "once");
    }
}

#[test]
fn a_partition_that_goes_away_waits_for_its_callback_and_begins_none() {
    for ending in [Ending::Stopped, Ending::Revoked, Ending::Lost] {
        let mut script = Script::calling(INITIALIZED);
        script.assigned();
        assert_eq!(script.end(ending), "");
        assert_eq!(script.not_begun(0), format!("ended {ending:?}"));

        let mut script = Script::calling(EOFED);
        script.batch(10, 1, &[]);
        script.partition_end();
        script.end(ending);
        let mark = if ending == Ending::Lost { "" } else { "mark 11, " };
        assert_eq!(script.ok(0), format!("{mark}ended {ending:?}"));

        let mut script = Script::calling(TICKS);
        script.assigned();
        assert_eq!(script.wait(), "tick 0");
        assert_eq!(script.end(ending), "");
        assert_eq!(script.ok(0), format!("ended {ending:?}"));
        assert_eq!(script.waits(), None);
    }
}

#[test]
fn while_the_application_is_quiet_nothing_is_called() {
    let mut script = Script::calling(Callbacks { initialized: true, eofed: true, ..TICKS });
    script.quiet(true);
    assert_eq!(script.assigned(), "");
    assert_eq!(script.partition_end(), "");
    assert_eq!(script.quiet(false), "initialized 0");
    assert_eq!(script.ok(0), "eofed 0");
    assert_eq!(script.ok(0), "");
    script.quiet(true);
    assert_eq!(script.waits(), None);
    script.now += 60 * SECOND;
    assert_eq!(script.quiet(false), "tick 0");
}

#[test]
fn what_waits_for_a_worker_when_quiet_is_told_is_due_afterwards() {
    let mut script = Script::calling(Callbacks { initialized: true, eofed: true, ..TICKS });
    assert_eq!(script.assigned(), "initialized 0");
    script.quiet(true);
    assert_eq!(script.not_begun(0), "");
    assert_eq!(script.quiet(false), "initialized 0");
    assert_eq!(script.ok(0), "");
    assert_eq!(script.partition_end(), "eofed 0");
    script.quiet(true);
    assert_eq!(script.not_begun(0), "");
    assert_eq!(script.quiet(false), "eofed 0");
    assert_eq!(script.ok(0), "", "once");
    assert_eq!(script.wait(), "tick 0");
    script.quiet(true);
    assert_eq!(script.not_begun(0), "");
    assert_eq!((script.quiet(false).as_str(), script.ok(0).as_str()), ("tick 0", ""));
    // Records that came meanwhile go before, and the end is another one.
    assert_eq!(script.partition_end(), "eofed 0");
    script.quiet(true);
    assert_eq!(script.batch(10, 1, &[]), "");
    assert_eq!(script.not_begun(0), "");
    assert_eq!(script.quiet(false), "run 0 [0] #1");
    assert_eq!(script.ok(0), "mark 11, release");
}

#[test]
fn of_several_lanes_those_are_told_of_the_end_that_were_not() {
    let mut script = Script::calling(EOFED);
    script.batch(10, 2, &[1, 2]);
    script.ok(1);
    script.ok(2);
    assert_eq!(script.partition_end(), "eofed 1, eofed 2");
    script.quiet(true);
    assert_eq!(script.ok(1), "");
    assert_eq!(script.not_begun(2), "");
    assert_eq!(script.quiet(false), "eofed 2");
    assert_eq!((script.ok(2).as_str(), script.partition_end().as_str()), ("", "eofed 1, eofed 2"));
}

#[test]
fn the_end_of_a_partition_is_told_when_everything_before_it_is_done() {
    let mut script = Script::calling(EOFED);
    script.assigned();
    assert_eq!(script.partition_end(), "eofed 0", "nothing was there");
    assert_eq!(script.ok(0), "");
    script.batch(10, 2, &[]);
    assert_eq!(script.partition_end(), "");
    assert_eq!(script.fail(0), "retry 10 #1 in 1s");
    assert_eq!(script.wait(), "run 0 [0, 1] #2");
    assert_eq!(script.ok(0), "mark 12, release, eofed 0");
    // A batch that comes meanwhile waits; what failed is not repeated.
    assert_eq!(script.batch(12, 1, &[]), "");
    assert_eq!(script.fail(0), "run 0 [0] #1");
}

#[test]
fn the_end_of_a_partition_waits_for_pauses_and_is_void_once_it_is_left() {
    let mut script = Script::calling(EOFED);
    script.batch(10, 1, &[]);
    script.pause(7 * SECOND);
    script.mark(0, 10);
    assert_eq!(script.ok(0), "release");
    assert_eq!((script.partition_end().as_str(), script.waits()), ("", Some(7 * SECOND)));
    assert_eq!(script.wait(), "eofed 0");
    // More arrives during a pause.
    script.pause(7 * SECOND);
    assert_eq!(script.ok(0), "");
    script.partition_end();
    assert_eq!(script.batch(11, 1, &[]), "");
    assert_eq!(script.wait(), "run 0 [0] #1");
    // The position is left.
    script.partition_end();
    script.coordinator.handle_seek(0, 3);
    assert_eq!(script.ok(0), "seek 3, release");
}

#[test]
fn callbacks_run_in_every_lane_that_ran() {
    let mut script = Script::calling(Callbacks { eofed: true, ..TICKS });
    script.batch(10, 3, &[1, 2, 1]);
    script.ok(1);
    assert_eq!(script.ok(2), "mark 13, release");
    assert_eq!(script.partition_end(), "eofed 1, eofed 2");
    assert_eq!(script.ok(2), "");
    assert_eq!(script.batch(13, 1, &[1]), "");
    assert_eq!(script.ok(1), "run 1 [0] #1");
    script.ok(1);
    assert_eq!(script.wait(), "tick 1, tick 2");
}

#[test]
fn callbacks_may_mark_pause_and_seek() {
    let mut script = Script::calling(Callbacks { eofed: true, ..TICKS });
    script.batch(10, 2, &[]);
    assert_eq!(script.marked(0), "release");
    assert_eq!(script.partition_end(), "eofed 0");
    assert_eq!(script.mark(0, 11), "mark 12");
    script.pause(3 * SECOND);
    assert_eq!(script.ok(0), "");
    assert_eq!(script.batch(12, 1, &[]), "");
    assert_eq!(script.wait(), "run 0 [0] #1");
    script.ok(0);
    assert_eq!(script.wait(), "tick 0");
    script.coordinator.handle_seek(0, 7);
    assert_eq!(script.ok(0), "seek 7");
    assert_eq!(script.batch(7, 1, &[]), "run 0 [0] #1");
}

#[test]
fn ticks_come_when_nothing_ran_for_their_time() {
    let mut script = Script::calling(TICKS);
    script.assigned();
    assert_eq!(script.waits(), Some(5 * SECOND));
    script.now += 3 * SECOND;
    script.batch(10, 1, &[]);
    assert_eq!(script.waits(), None, "something runs");
    script.now += 60 * SECOND;
    script.ok(0);
    assert_eq!(script.waits(), Some(5 * SECOND));
    assert_eq!(script.wait(), "tick 0");
    // A batch that comes meanwhile waits.
    assert_eq!(script.batch(11, 1, &[]), "");
    assert_eq!(script.fail(0), "run 0 [0] #1");
    script.ok(0);
    assert_eq!(script.waits(), Some(5 * SECOND));
}

#[test]
fn ticks_come_during_pauses_but_not_before_a_retry() {
    let mut script = Script::calling(TICKS);
    script.batch(10, 1, &[]);
    script.pause(12 * SECOND);
    assert_eq!(script.ok(0), "");
    assert_eq!(script.wait(), "tick 0");
    assert_eq!(script.ok(0), "");
    assert_eq!(script.wait(), "tick 0");
    assert_eq!(script.ok(0), "");
    assert_eq!(script.waits(), Some(2 * SECOND), "the pause ends where it was to end");
    assert_eq!(script.wait(), "run 0 [0] #1");
    for attempt in 1..4 {
        let seconds = 1 << (attempt - 1);
        assert_eq!(script.fail(0), format!("retry 10 #{attempt} in {seconds}s"));
        assert_eq!(script.wait(), format!("run 0 [0] #{}", attempt + 1));
    }
    assert_eq!(script.fail(0), "retry 10 #4 in 8s");
    assert_eq!(script.waits(), Some(8 * SECOND));
    assert_eq!(script.wait(), "run 0 [0] #5");
}
