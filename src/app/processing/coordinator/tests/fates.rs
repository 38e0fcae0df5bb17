//! What a strategy decides about records that fail.

use super::*;
use crate::app::{DeadLetter, Fate};
use crate::types::Uuid;
use crate::{Error, ErrorKind};

impl Script {
    /// A route that asks this strategy, and gives up nothing without it.
    fn with_strategy(strategy: impl Fn(usize, u32) -> Fate + Send + Sync + 'static) -> Self {
        let (topic, policies) = (TopicName::from("t"), Default::default());
        let facts = Facts { topic: &topic, marks: Marks::Automatic, policies: &policies };
        let letter =
            DeadLetter::to("dead").strategy(move |errors, attempt| strategy(errors.iter().count(), attempt));
        Self::filtered(policy(), vec![letter.stage(&facts)])
    }

    fn fail_of(&mut self, lane: u32, text: &str) -> String {
        self.coordinator.handle_error(Error::new(ErrorKind::Handler, text), Uuid::ZERO);
        self.fail(lane)
    }

    fn errors(&self) -> Vec<String> {
        self.coordinator.errors().iter().map(ToString::to_string).collect()
    }
}

#[test]
fn a_skipped_record_is_left_behind_after_one_pause() {
    let mut script = Script::with_strategy(|_, _| Fate::Skip);
    script.batch(10, 3, &[]);
    script.mark(0, 10);
    assert_eq!(script.fail_of(0, "poison"), "dead_letter skips 1 in 11..=11, mark 12");
    assert_eq!(script.coordinator.next_deadline(), Some(script.now + SECOND));
    assert_eq!(script.wait(), "run 0 [2] #1");
    assert_eq!(script.ok(0), "mark 13, release");
}

#[test]
fn a_letter_goes_to_the_topic_that_the_strategy_names_until_it_is_there() {
    let mut script = Script::with_strategy(|_, _| Fate::DispatchTo("other".into()));
    script.batch(10, 1, &[]);
    assert_eq!(script.fail_of(0, "poison"), "dispatch 0 #1 to other");
    assert_eq!(script.coordinator.letter_topic().map(TopicName::as_str), Some("other"));
    assert_eq!(script.dispatched(false), "");
    assert_eq!(script.wait(), "dispatch 0 #1 to other");
    assert_eq!(script.dispatched(true), "mark 11, release");
}

#[test]
fn nothing_runs_behind_a_record_that_stops_the_application() {
    let mut script = Script::with_strategy(|_, _| Fate::Stop);
    script.batch(10, 3, &[]);
    script.mark(0, 10);
    assert_eq!(script.fail_of(0, "no key"), "dead_letter stops at 11 #1");
    script.now += 1000 * SECOND;
    script.coordinator.handle_timeout(script.now);
    assert_eq!(script.drain(), "");
    assert_eq!(script.end(Ending::Stopped), "ended Stopped");
}

#[test]
fn errors_are_known_until_something_succeeds_or_is_given_up() {
    let mut script = Script::with_strategy(|errors, _| if errors < 3 { Fate::Retry } else { Fate::Skip });
    script.batch(10, 2, &[]);
    assert_eq!(script.fail_of(0, "a"), "retry 10 #1 in 1s");
    assert_eq!(script.wait(), "run 0 [0, 1] #2");
    script.mark(0, 10);
    // Another record, and nothing succeeded as a whole.
    assert_eq!(script.fail_of(0, "b"), "retry 11 #1 in 1s");
    assert_eq!(script.errors(), ["a", "b"]);
    script.wait();
    assert_eq!(script.fail_of(0, "c"), "dead_letter skips 1 in 11..=11, mark 12, release");
    assert_eq!(script.errors(), [""; 0]);
    // What comes next waits as well.
    assert_eq!(script.batch(12, 1, &[]), "");
    assert_eq!(script.wait(), "run 0 [0] #1");
    script.fail_of(0, "d");
    script.wait();
    script.ok(0);
    assert_eq!(script.errors(), [""; 0]);
}

#[test]
fn which_of_several_lanes_failed_is_found_out_first() {
    let mut script = Script::with_strategy(|_, attempt| if attempt < 3 { Fate::Skip } else { Fate::Stop });
    script.batch(10, 2, &[1, 2]);
    script.ok(1);
    assert_eq!(script.fail_of(2, "poison"), "retry 11 #1 in 1s, mark 11");
    assert_eq!(script.wait(), "run 0 [1] #2");
    assert_eq!(script.fail_of(0, "poison"), "dead_letter skips 1 in 11..=11, mark 12, release");
}
