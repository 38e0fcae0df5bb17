//! The machine of transactions by script.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{TransactionError, TransactionErrorKind as Kind};
use super::machine::Machine;
use super::states::{Answer, Failure, Output, Protocol, Question, TransactionConfig};
use crate::backoff::Backoff;
use crate::cluster::{GroupOffset, GroupOffsets};
use crate::producer::sender::Era;
use crate::types::TopicPartition;
use crate::{Error, ErrorCode, ErrorKind};

const MS: Duration = Duration::from_millis(1);
const ERA: Era = Era { producer_id: 7, epoch: 3 };

/// A machine, its clock, and what it said.
struct Bench {
    machine: Machine,
    now: Instant,
    protocol: Protocol,
    /// Epochs that were given.
    epoch: i16,
    told: BTreeMap<u64, Result<(), Kind>>,
    opened: Vec<u64>,
    /// What it wants done, by name.
    wants: Vec<&'static str>,
}

impl Bench {
    fn new(protocol: Protocol) -> Self {
        let backoff = Backoff { first: 100 * MS, max: 1000 * MS, jitter: 0.0 };
        let config = TransactionConfig { backoff, patience: 60_000 * MS, timeout: 30_000 * MS };
        Self {
            machine: Machine::new(config),
            now: Instant::now(),
            protocol,
            epoch: ERA.epoch,
            told: BTreeMap::new(),
            opened: Vec::new(),
            wants: Vec::new(),
        }
    }

    /// The next question; everything else is noted.
    fn question(&mut self) -> Option<Question> {
        while let Some(output) = self.machine.poll_output(self.now) {
            match output {
                Output::Ask(question) => return Some(question),
                Output::Opened { number, .. } => self.opened.push(number),
                Output::Tell { ticket, result } => {
                    let result = result.map_err(|error: TransactionError| error.kind());
                    assert_eq!(self.told.insert(ticket, result), None, "told once");
                }
                Output::Admitted(_) => self.wants.push("admit"),
                Output::Flush => self.wants.push("flush"),
                Output::Drop(_) => self.wants.push("drop"),
                Output::Closed => self.wants.push("close"),
                Output::Died(_) => self.wants.push("die"),
            }
        }
        None
    }

    fn answer(&mut self, answer: Answer) {
        self.machine.handle_answer(self.now, Ok(answer), 0);
    }

    fn fail(&mut self, error: Error) {
        self.machine.handle_answer(self.now, Err(Failure { error, unsent: false }), 0);
    }

    fn refuse(&mut self, code: ErrorCode) {
        self.fail(Error::from_code(code, "asked"));
    }

    /// Moves the clock to the machine's next deadline, at most so far.
    fn pause(&mut self, most: Duration) {
        let until = self.machine.next_deadline().expect("it waits for a time");
        assert!(until <= self.now + most, "{:?}", until - self.now);
        self.now = until;
        self.machine.handle_timeout(self.now);
    }

    /// Answers everything as a coordinator would that has no trouble.
    fn run(&mut self) {
        while let Some(question) = self.question() {
            let answer = match question {
                Question::Protocol => Answer::Protocol(self.protocol),
                Question::ProducerId { renew } => {
                    self.epoch += i16::from(renew.is_some());
                    Answer::ProducerId(Era { epoch: self.epoch, ..ERA })
                }
                Question::AddPartitions { partitions, .. } => {
                    Answer::Partitions(partitions.into_iter().map(|one| (one, ErrorCode::NONE)).collect())
                }
                Question::AddOffsets { .. } | Question::Offsets { .. } => Answer::Done,
                Question::End { protocol: Protocol::V1, .. } => Answer::Ended(None),
                Question::End { protocol: Protocol::V2, .. } => {
                    self.epoch += 1;
                    Answer::Ended(Some(Era { epoch: self.epoch, ..ERA }))
                }
            };
            self.answer(answer);
        }
    }

    /// A transaction is open, and with something in it.
    fn open(&mut self, ticket: u64) -> u64 {
        self.machine.handle_begin(self.now, ticket, true);
        self.run();
        let number = self.opened.pop().expect("opened");
        if self.protocol == Protocol::V1 {
            self.machine.handle_partitions(self.now, [1, 2]);
            self.run();
            assert_eq!(self.wants.pop(), Some("admit"));
        }
        number
    }

    /// Ends the transaction up to the moment at which the coordinator is asked.
    fn end(&mut self, ticket: u64, number: u64, commit: bool) -> Question {
        self.machine.handle_end(self.now, ticket, Some(number), commit);
        assert!(self.question().is_none(), "records come first");
        assert!(self.machine.is_draining());
        self.machine.handle_quiet(self.now, true);
        let question = self.question().expect("a question");
        assert!(matches!(question, Question::End { commit: end, .. } if end == commit), "{question:?}");
        question
    }
}

fn offsets() -> GroupOffsets {
    let offset = GroupOffset { offset: 5, leader_epoch: 0, metadata: None };
    GroupOffsets {
        group: "readers".into(),
        member_id: "m".into(),
        generation: 4,
        instance_id: None,
        offsets: [(TopicPartition::new("t", 0), offset)].into(),
    }
}

fn broken() -> Error {
    Error::new(ErrorKind::Network, "the connection broke")
}

#[test]
fn with_the_first_protocol_everything_is_added_before_it_is_written_and_the_epoch_stays() {
    let mut bench = Bench::new(Protocol::V1);
    let number = bench.open(1);
    bench.machine.handle_offsets(bench.now, 2, Some(number), offsets());
    let question = bench.question();
    assert!(matches!(question, Some(Question::AddOffsets { era: ERA, .. })), "{question:?}");
    bench.answer(Answer::Done);
    let question = bench.question();
    assert!(matches!(question, Some(Question::Offsets { protocol: Protocol::V1, .. })), "{question:?}");
    bench.answer(Answer::Done);
    bench.end(3, number, true);
    bench.answer(Answer::Ended(None));
    bench.run();
    assert_eq!(bench.wants, ["flush", "close"]);
    bench.open(4);
    assert_eq!(bench.epoch, ERA.epoch, "nobody asked for another one");
    assert_eq!(bench.told, [(2, Ok(())), (3, Ok(()))].into());
}

#[test]
fn with_the_second_protocol_nothing_is_added_and_each_end_gives_an_epoch() {
    let mut bench = Bench::new(Protocol::V2);
    let number = bench.open(1);
    bench.machine.handle_partitions(bench.now, []);
    bench.machine.handle_offsets(bench.now, 2, Some(number), offsets());
    let question = bench.question();
    assert!(matches!(question, Some(Question::Offsets { protocol: Protocol::V2, .. })), "{question:?}");
    bench.answer(Answer::Done);
    bench.end(3, number, false);
    bench.answer(Answer::Ended(Some(Era { epoch: 4, ..ERA })));
    bench.run();
    let number = bench.open(4);
    let question = bench.end(5, number, true);
    assert!(matches!(question, Question::End { era: Era { epoch: 4, .. }, .. }), "{question:?}");
}

#[test]
fn the_protocol_changes_between_transactions_alone() {
    let mut bench = Bench::new(Protocol::V1);
    let number = bench.open(1);
    bench.protocol = Protocol::V2;
    bench.now += 40_000 * MS;
    bench.machine.handle_partitions(bench.now, [3]);
    bench.run();
    let question = bench.end(2, number, true);
    assert!(matches!(question, Question::End { protocol: Protocol::V1, .. }), "{question:?}");
    bench.answer(Answer::Ended(None));
    bench.run();
    let number = bench.open(3);
    assert_eq!(bench.machine.protocol(), Protocol::V2);
    bench.protocol = Protocol::V1;
    bench.end(4, number, true);
    bench.answer(Answer::Ended(Some(Era { epoch: 4, ..ERA })));
    bench.now += 40_000 * MS;
    bench.open(5);
    assert_eq!(bench.machine.protocol(), Protocol::V1, "a downgrade, too");
}

#[test]
fn what_was_not_begun_at_the_coordinator_is_not_ended_there() {
    for (protocol, commit) in [(Protocol::V1, true), (Protocol::V1, false), (Protocol::V2, true)] {
        let mut bench = Bench::new(protocol);
        bench.machine.handle_begin(bench.now, 1, false);
        bench.run();
        bench.machine.handle_end(bench.now, 2, None, commit);
        assert!(bench.question().is_none());
        bench.machine.handle_quiet(bench.now, false);
        assert!(bench.question().is_none());
        assert_eq!(bench.told, [(2, Ok(()))].into());
    }
}

#[test]
fn an_abort_waits_for_the_answer_about_partitions() {
    let mut bench = Bench::new(Protocol::V1);
    let number = bench.open(1);
    bench.machine.handle_partitions(bench.now, [3]);
    assert!(matches!(bench.question(), Some(Question::AddPartitions { .. })));
    bench.machine.handle_end(bench.now, 2, Some(number), false);
    assert!(bench.question().is_none());
    assert!(!bench.machine.is_draining(), "whether partition 3 is part of it is not known");
    bench.refuse(ErrorCode::CONCURRENT_TRANSACTIONS);
    assert!(bench.machine.is_draining(), "and now it does not matter");
    bench.machine.handle_quiet(bench.now, true);
    assert!(matches!(bench.question(), Some(Question::End { commit: false, .. })));
}

#[test]
fn partitions_that_cannot_be_added_yet_are_tried_again_and_the_others_are_part_of_it() {
    let mut bench = Bench::new(Protocol::V1);
    bench.open(1);
    bench.machine.handle_partitions(bench.now, [3, 4]);
    assert!(matches!(bench.question(), Some(Question::AddPartitions { .. })));
    let answers = vec![(3, ErrorCode::NONE), (4, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)];
    bench.answer(Answer::Partitions(answers));
    assert!(bench.question().is_none(), "after a pause");
    assert_eq!(bench.wants, ["admit"]);
    bench.pause(100 * MS);
    let Some(Question::AddPartitions { partitions, .. }) = bench.question() else { panic!("asked again") };
    assert_eq!(partitions, [4]);
    bench.refuse(ErrorCode::CONCURRENT_TRANSACTIONS);
    assert!(bench.question().is_none());
    bench.pause(40 * MS); // that is a matter of milliseconds
    assert!(bench.question().is_some());
    let answers = vec![(4, ErrorCode::TOPIC_AUTHORIZATION_FAILED)];
    bench.answer(Answer::Partitions(answers));
    assert!(bench.question().is_none());
    assert_eq!(bench.wants, ["admit", "drop"], "it can only be aborted");
}

#[test]
fn a_commit_without_an_answer_is_asked_for_again_and_unknown_only_if_nobody_ever_says() {
    for protocol in [Protocol::V1, Protocol::V2] {
        let mut bench = Bench::new(protocol);
        let number = bench.open(1);
        bench.end(2, number, true);
        bench.fail(broken());
        bench.pause(100 * MS);
        let again = bench.question();
        assert!(matches!(again, Some(Question::End { era: ERA, commit: true, .. })), "{again:?}");
        bench.machine.handle_end(bench.now, 3, Some(number), true); // whoever gave up waiting waits again
        bench.refuse(ErrorCode::CONCURRENT_TRANSACTIONS);
        bench.pause(200 * MS);
        bench.run();
        assert_eq!(bench.told, [(2, Ok(())), (3, Ok(()))].into());

        let number = bench.open(4);
        bench.end(5, number, true);
        while !bench.told.contains_key(&5) {
            bench.fail(broken());
            bench.pause(1000 * MS);
            if bench.question().is_none() {
                break;
            }
        }
        assert_eq!(bench.told[&5], Err(Kind::Unknown));
        // The next one begins when that one is over, under an epoch that nothing late of it has.
        let before = bench.epoch;
        bench.machine.handle_begin(bench.now, 6, true);
        let question = bench.question();
        assert!(matches!(question, Some(Question::End { commit: false, .. })), "{question:?}");
        bench.refuse(ErrorCode::INVALID_TXN_STATE); // it was committed
        bench.run();
        assert_eq!(bench.opened.len(), 1);
        assert_eq!(bench.epoch, before + 1);
    }
}

#[test]
fn a_commit_that_never_reached_the_coordinator_is_none() {
    let mut bench = Bench::new(Protocol::V2);
    let number = bench.open(1);
    bench.end(2, number, true);
    while !bench.told.contains_key(&2) {
        let failure = Failure { error: broken(), unsent: true };
        bench.machine.handle_answer(bench.now, Err(failure), 0);
        bench.pause(1000 * MS);
        if bench.question().is_none() {
            break;
        }
    }
    assert_eq!(bench.told[&2], Err(Kind::Abort));
}

#[test]
fn what_a_coordinator_says_of_a_commit_counts() {
    let known = |code| {
        let mut bench = Bench::new(Protocol::V2);
        let number = bench.open(1);
        bench.end(2, number, true);
        bench.refuse(code);
        bench.run();
        (bench.told.get(&2).copied(), bench.wants.contains(&"die"))
    };
    assert_eq!(known(ErrorCode::INVALID_TXN_STATE), (Some(Err(Kind::Abort)), false));
    assert_eq!(known(ErrorCode::TRANSACTION_ABORTABLE), (Some(Err(Kind::Abort)), false));
    assert_eq!(known(ErrorCode::INVALID_PRODUCER_ID_MAPPING), (Some(Err(Kind::Abort)), false));
    assert_eq!(known(ErrorCode::UNKNOWN_SERVER_ERROR), (Some(Err(Kind::Unknown)), false));
    assert_eq!(known(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED), (Some(Err(Kind::Abort)), false));
    assert_eq!(known(ErrorCode::PRODUCER_FENCED), (Some(Err(Kind::Dead)), true));
    assert_eq!(known(ErrorCode::INVALID_PRODUCER_EPOCH), (Some(Err(Kind::Dead)), true));
    let mut bench = Bench::new(Protocol::V2);
    let number = bench.open(1);
    bench.end(2, number, true);
    bench.fail(broken());
    bench.pause(100 * MS);
    assert!(bench.question().is_some());
    bench.refuse(ErrorCode::PRODUCER_FENCED);
    bench.run();
    assert_eq!(bench.told[&2], Err(Kind::Unknown), "the first attempt may have come before the fence");
    bench.machine.handle_begin(bench.now, 3, true);
    bench.run();
    assert_eq!(bench.told[&3], Err(Kind::Dead));
}

#[test]
fn whoever_is_fenced_is_dead_and_one_that_was_open_too_long_is_told_so() {
    for (open_for, advice) in [(MS, "run one producer"), (31_000 * MS, "transaction.timeout.ms")] {
        let mut bench = Bench::new(Protocol::V1);
        let number = bench.open(1);
        bench.now += open_for;
        bench.machine.handle_offsets(bench.now, 2, Some(number), offsets());
        assert!(bench.question().is_some());
        bench.refuse(ErrorCode::PRODUCER_FENCED);
        let mut error = None;
        while let Some(output) = bench.machine.poll_output(bench.now) {
            if let Output::Died(dead) = output {
                error = Some(dead);
            }
        }
        let error = error.expect("it died");
        assert!(error.error().advice().is_some_and(|said| said.contains(advice)), "{error}");
    }
}

#[test]
fn a_record_that_fails_dooms_its_transaction_and_the_next_one_goes_on() {
    let mut bench = Bench::new(Protocol::V1);
    let number = bench.open(1);
    bench.machine.handle_offsets(bench.now, 2, Some(number), offsets());
    bench.machine.handle_fault(bench.now, &Error::new(ErrorKind::TooLarge, "a record"));
    bench.machine.handle_offsets(bench.now, 3, Some(number), offsets());
    bench.machine.handle_end(bench.now, 4, Some(number), true);
    assert!(bench.question().is_none());
    bench.machine.handle_quiet(bench.now, true);
    assert!(matches!(bench.question(), Some(Question::End { commit: false, .. })));
    bench.answer(Answer::Ended(None));
    bench.run();
    let abort = Err(Kind::Abort);
    assert_eq!(bench.told, [(2, abort), (3, abort), (4, abort)].into());
    // Its sequences have a gap.
    bench.machine.handle_torn(bench.now);
    bench.open(5);
    assert_eq!(bench.epoch, ERA.epoch + 1);
}

#[test]
fn a_fault_during_the_flush_of_a_commit_makes_an_abort_of_it() {
    let mut bench = Bench::new(Protocol::V2);
    let number = bench.open(1);
    bench.machine.handle_end(bench.now, 2, Some(number), true);
    bench.run();
    bench.machine.handle_fault(bench.now, &Error::new(ErrorKind::Timeout, "a record"));
    bench.run();
    assert_eq!(bench.wants, ["flush", "drop"]);
    bench.machine.handle_quiet(bench.now, true);
    bench.run();
    assert_eq!(bench.told, [(2, Err(Kind::Abort))].into());
}

#[test]
fn what_the_coordinator_has_forgotten_is_not_ended_but_left_behind() {
    let mut bench = Bench::new(Protocol::V1);
    let number = bench.open(1);
    bench.machine.handle_offsets(bench.now, 2, Some(number), offsets());
    assert!(bench.question().is_some());
    bench.refuse(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
    bench.machine.handle_end(bench.now, 3, Some(number), false);
    assert!(bench.question().is_none());
    bench.machine.handle_quiet(bench.now, true);
    assert!(bench.question().is_none(), "there is nothing to end");
    assert_eq!(bench.told, [(2, Err(Kind::Abort)), (3, Ok(()))].into());
    bench.open(4);
    assert_eq!(bench.epoch, ERA.epoch + 1);
}

#[test]
fn beginning_is_tried_for_as_long_as_somebody_waits() {
    let mut bench = Bench::new(Protocol::V2);
    bench.machine.handle_begin(bench.now, 1, true);
    assert!(bench.question().is_some());
    bench.answer(Answer::Protocol(Protocol::V2));
    // The former owner of the id has just died, and its transaction is being aborted.
    for _ in 0..3 {
        assert!(matches!(bench.question(), Some(Question::ProducerId { renew: None })));
        bench.refuse(ErrorCode::CONCURRENT_TRANSACTIONS);
        bench.pause(200 * MS);
    }
    let late = bench.now + 60_000 * MS;
    while bench.now < late && bench.told.is_empty() {
        if bench.question().is_some() {
            bench.refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
        }
        bench.pause(1000 * MS);
        assert!(bench.told.is_empty() || bench.question().is_none(), "nobody waits any more");
    }
    bench.run();
    assert_eq!(bench.told, [(1, Err(Kind::NotBegun))].into());
    bench.machine.handle_begin(bench.now, 2, true);
    assert!(bench.question().is_some());
    bench.refuse(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    bench.run();
    assert_eq!(bench.told[&2], Err(Kind::NotBegun));
    bench.open(3); // the right was granted
}

#[test]
fn scopes_wait_for_their_turn_and_hands_do_not() {
    let mut bench = Bench::new(Protocol::V2);
    let first = bench.open(1);
    bench.machine.handle_begin(bench.now, 2, true);
    bench.machine.handle_begin(bench.now, 3, false);
    bench.machine.handle_end(bench.now, 4, None, true);
    bench.run();
    assert_eq!(bench.told, [(3, Err(Kind::Misuse)), (4, Err(Kind::Misuse))].into());
    bench.machine.handle_abandon(bench.now, first);
    bench.machine.handle_abandon(bench.now, first + 1);
    bench.run();
    assert!(bench.opened.is_empty(), "the first is not over");
    bench.machine.handle_quiet(bench.now, true);
    bench.run();
    assert_eq!(bench.opened, [first + 1]);
    bench.machine.handle_begin(bench.now, 5, true);
    bench.pause(60_000 * MS);
    bench.run();
    assert_eq!(bench.told[&5], Err(Kind::NotBegun), "its turn did not come");
}

#[test]
fn once_an_end_has_begun_it_is_that_end() {
    let mut bench = Bench::new(Protocol::V2);
    let number = bench.open(1);
    bench.end(2, number, true);
    bench.machine.handle_end(bench.now, 3, Some(number), false);
    bench.machine.handle_offsets(bench.now, 4, Some(number), offsets());
    bench.answer(Answer::Ended(Some(Era { epoch: 4, ..ERA })));
    bench.run();
    assert_eq!(bench.told, [(2, Ok(())), (3, Err(Kind::Misuse)), (4, Err(Kind::Misuse))].into());
}

#[test]
fn brokers_that_cannot_go_on_from_an_epoch_leave_a_dead_producer() {
    let mut bench = Bench::new(Protocol::V1);
    let number = bench.open(1);
    bench.machine.handle_fault(bench.now, &Error::new(ErrorKind::Timeout, "a record"));
    bench.end(2, number, false);
    bench.answer(Answer::Ended(None));
    bench.run();
    bench.machine.handle_torn(bench.now);
    bench.machine.handle_begin(bench.now, 3, true);
    assert!(matches!(bench.question(), Some(Question::ProducerId { renew: Some(ERA) })));
    bench.fail(Error::new(ErrorKind::UnsupportedVersion, "before 2.5"));
    bench.run();
    assert_eq!(bench.told[&3], Err(Kind::Dead));
}

#[test]
fn a_producer_that_closes_aborts_what_is_open() {
    let mut bench = Bench::new(Protocol::V2);
    bench.open(1);
    bench.machine.handle_begin(bench.now, 2, true);
    bench.machine.handle_close(bench.now);
    bench.run();
    assert_eq!(bench.told, [(2, Err(Kind::NotBegun))].into());
    assert!(!bench.machine.is_resting());
    bench.machine.handle_quiet(bench.now, true);
    bench.run();
    assert!(bench.machine.is_resting());
}
