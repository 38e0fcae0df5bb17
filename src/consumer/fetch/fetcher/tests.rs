//! A fetcher, played by hand.

use super::*;
use crate::ErrorCode;
use crate::sync::budget::MemoryBudget;
use crate::wire::fetch::TopicData;

const ID: Uuid = Uuid([7; 16]);

struct Bench {
    machine: Fetcher,
    budget: MemoryBudget,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };
        let config = FetcherConfig {
            consumer: Arc::new(ConsumerConfig::default()),
            backoff,
            request_timeout: Duration::from_secs(30),
        };
        Self { machine: Fetcher::new(config), budget: MemoryBudget::default(), now: Instant::now() }
    }

    fn planned(&self, partition: i32, topic_id: Uuid, unchecked: bool) -> Planned {
        Planned {
            partition: TopicPartition::new("t", partition),
            topic_id,
            version: 1,
            assignment: 1,
            offset: 10,
            leader_epoch: 1,
            last_epoch: 1,
            unchecked,
            max_bytes: 1 << 20,
            ledger: Arc::clone(self.budget.account().ledger()),
        }
    }

    fn settled(&self) -> Plan {
        let planned = (0..2).map(|partition| self.planned(partition, ID, false)).collect();
        Plan::Fetch { planned, settled: true }
    }

    /// What is to be done until something has to be waited for, in short.
    fn outputs(&mut self) -> Vec<String> {
        let text = |output| match output {
            Output::Plan => "plan".to_owned(),
            Output::Reserve { .. } => "reserve".to_owned(),
            Output::Connect(_) => "connect".to_owned(),
            Output::Check(planned) => format!("check {}", planned.len()),
            Output::Send { request, version, .. } => format!(
                "send v{version} {}/{} {}",
                request.session_id,
                request.session_epoch,
                request.topics.iter().map(|topic| topic.partitions.len()).sum::<usize>()
            ),
            Output::Read(part) => format!("read {} {}", part.planned.partition, part.keeps.is_some()),
            Output::Refused { planned, leader, .. } => {
                format!("refused {} {}", planned.partition, leader.is_some())
            }
            Output::Answered { news } => format!("answered {news}"),
            Output::Doubt(topic) => format!("doubt {topic}"),
            Output::Well => "well".to_owned(),
            Output::Failed { tell, .. } => format!("failed {tell}"),
            Output::End(_) => "end".to_owned(),
        };
        std::iter::from_fn(|| self.machine.poll_output().map(text)).collect()
    }

    /// Up to the request, with version 13.
    fn ask(&mut self) -> Vec<String> {
        let mut outputs = self.outputs();
        let plan = self.settled();
        self.machine.handle_plan(self.now, plan);
        outputs.extend(self.outputs());
        outputs.extend(self.send(13));
        outputs
    }

    fn send(&mut self, offered: i16) -> Vec<String> {
        self.machine.handle_credit(self.now, 1 << 20);
        let mut outputs = self.outputs();
        self.machine.handle_connected(offered);
        outputs.extend(self.outputs());
        outputs
    }

    fn answer(&mut self, response: Response, frame_len: usize) {
        if let Err(error) = self.machine.handle_response(response, frame_len) {
            self.machine.handle_failed(self.now, 0, error);
        }
    }

    fn fail(&mut self, error: Error) -> Vec<String> {
        self.machine.handle_failed(self.now, 0, error);
        self.outputs()
    }
}

/// An answer in session 5 with these partitions (number, code, bytes).
fn response(parts: &[(i32, ErrorCode, usize)]) -> Response {
    let part = |(partition, code, bytes): &(i32, ErrorCode, usize)| PartitionData {
        partition: *partition,
        error_code: *code,
        records: vec![0; *bytes].into(),
        ..PartitionData::default()
    };
    let topic = TopicData { name: "".into(), topic_id: ID, partitions: parts.iter().map(part).collect() };
    let topics = if parts.is_empty() { Vec::new() } else { vec![topic] };
    Response { session_id: 5, topics, ..Response::default() }
}

const OK: ErrorCode = ErrorCode::NONE;

/// What it is told out of turn does not leave a broker alone for ever.
#[test]
fn whatever_it_is_told_it_asks_again() {
    let mut play = Bench::new();
    assert_eq!(play.outputs(), ["plan"]);
    play.machine.handle_connected(13);
    assert_eq!(play.outputs(), ["plan"]);
    play.machine.handle_response(Response::default(), 0).unwrap();
    assert_eq!(play.outputs(), ["plan"]);
}

#[test]
fn the_same_is_asked_again_while_nothing_comes_and_nothing_changes() {
    let mut play = Bench::new();
    assert_eq!(play.ask(), ["plan", "reserve", "connect", "send v13 0/0 2"]);
    play.answer(response(&[(0, OK, 0), (1, OK, 0)]), 100);
    assert_eq!(play.outputs(), ["read t[0] false", "read t[1] false", "answered true", "plan"]);
    let plan = play.settled();
    play.machine.handle_plan(play.now, plan);
    assert_eq!(play.outputs(), ["reserve"]);
    assert_eq!(play.send(13), ["connect", "send v13 5/1 0"]);
    play.answer(response(&[]), 50);
    assert_eq!(play.outputs(), ["answered false", "reserve"]);
    assert_eq!(play.send(13), ["connect", "send v13 5/2 0"]);
    // A change while the answer is awaited.
    play.machine.handle_change();
    play.answer(response(&[]), 50);
    assert_eq!(play.outputs(), ["answered false", "plan"]);
    // One while credit is: what was planned may be void, and the credit is kept.
    let plan = play.settled();
    play.machine.handle_plan(play.now, plan);
    assert_eq!(play.outputs(), ["reserve"]);
    play.machine.handle_change();
    play.machine.handle_credit(play.now, 1 << 20);
    assert_eq!(play.outputs(), ["plan"]);
    let plan = play.settled();
    play.machine.handle_plan(play.now, plan);
    assert_eq!(play.outputs(), ["connect"]);
}

#[test]
fn with_nothing_to_fetch_it_waits() {
    let mut play = Bench::new();
    let later = play.now + Duration::from_secs(1);
    assert_eq!(play.outputs(), ["plan"]);
    play.machine.handle_plan(play.now, Plan::Wait(Some(later)));
    assert_eq!((play.outputs(), play.machine.next_deadline()), (Vec::new(), Some(later)));
    play.machine.handle_timeout(play.now);
    play.machine.handle_memory();
    assert_eq!(play.outputs(), [""; 0]);
    play.machine.handle_timeout(later);
    assert_eq!(play.outputs(), ["plan"]);
    play.machine.handle_plan(play.now, Plan::Wait(None));
    play.machine.handle_change();
    assert_eq!(play.outputs(), ["plan"]);
    play.machine.handle_plan(play.now, Plan::Starve(later));
    assert!(play.machine.is_starving());
    play.machine.handle_memory();
    assert_eq!(play.outputs(), ["plan"]);
}

#[test]
fn the_version_is_one_that_can_name_and_check_what_is_asked() {
    for (offered, id, unchecked, expected) in [
        (13, ID, true, "send v13 0/0 1"),
        (13, Uuid::default(), true, "send v12 0/0 1"),
        (12, Uuid::default(), true, "send v12 0/0 1"),
        // Before Kafka 2.7 truncation is not detected while fetching.
        (11, Uuid::default(), false, "send v11 0/0 1"),
        (11, Uuid::default(), true, "check 1"),
    ] {
        let mut play = Bench::new();
        play.outputs();
        let plan = Plan::Fetch { planned: vec![play.planned(0, id, unchecked)], settled: true };
        play.machine.handle_plan(play.now, plan);
        play.outputs();
        let outputs = play.send(offered);
        assert_eq!(outputs[1], expected, "{offered}");
        // With nothing left to ask the plan is recreated.
        let anew: &[&str] = if expected == "check 1" { &["answered false", "plan"] } else { &[] };
        assert_eq!(&outputs[2..], anew);
    }
}

#[test]
fn failures_are_paused_after_and_told_once() {
    let mut play = Bench::new();
    play.ask();
    play.machine.handle_unreachable(play.now, 0, Error::new(ErrorKind::Network, "gone").with_retriable(true));
    assert_eq!(play.outputs(), ["doubt t", "failed false"]);
    // A change does not end the pause.
    play.machine.handle_change();
    assert_eq!(play.outputs(), [""; 0]);
    assert_eq!(play.machine.next_deadline(), Some(play.now + Duration::from_millis(100)));
    play.now += Duration::from_millis(100);
    play.machine.handle_timeout(play.now);
    // Nothing is left of the session, the plan or the credit.
    assert_eq!(play.ask(), ["plan", "reserve", "connect", "send v13 0/0 2"]);
    assert_eq!(play.fail(Error::new(ErrorKind::Protocol, "garbage")), ["failed false"]);
    assert_eq!(play.machine.next_deadline(), Some(play.now + Duration::from_millis(200)));
    play.now += Duration::from_secs(1);
    play.machine.handle_timeout(play.now);
    play.ask();
    play.answer(response(&[(0, OK, 0), (1, OK, 0)]), 100);
    assert_eq!(play.outputs()[0], "well");
    let plan = play.settled();
    play.machine.handle_plan(play.now, plan);
    play.outputs();
    play.send(13);
    assert_eq!(play.fail(Error::new(ErrorKind::Protocol, "garbage")), ["failed true"]);
    play.now += Duration::from_secs(1);
    play.machine.handle_timeout(play.now);
    assert_eq!(play.fail(Error::new(ErrorKind::UnsupportedVersion, "too old")), ["end"]);
    assert_eq!((play.outputs(), play.machine.next_deadline()), (Vec::new(), None));
}

#[test]
fn sessions_that_the_broker_forgot_are_begun_anew_at_once() {
    for (code, session) in [(ErrorCode::FETCH_SESSION_ID_NOT_FOUND, 0), (ErrorCode::UNKNOWN_TOPIC_ID, 5)] {
        let mut play = Bench::new();
        play.ask();
        play.answer(response(&[(0, OK, 0), (1, OK, 0)]), 100);
        play.outputs();
        let plan = play.settled();
        play.machine.handle_plan(play.now, plan);
        play.outputs();
        play.send(13);
        play.answer(Response { error_code: code, ..Response::default() }, 50);
        let mut expected = vec!["answered false", "plan"];
        if code.needs_metadata() {
            expected.insert(0, "doubt t");
        }
        assert_eq!(play.outputs(), expected);
        let plan = play.settled();
        play.machine.handle_plan(play.now, plan);
        play.outputs();
        assert_eq!(play.send(13)[1], format!("send v13 {session}/0 2"));
    }
    let mut play = Bench::new();
    play.ask();
    play.answer(Response { error_code: ErrorCode::UNKNOWN_SERVER_ERROR, ..Response::default() }, 50);
    assert_eq!(play.outputs(), ["failed false"]);
}

#[test]
fn an_answer_is_taken_apart() {
    let mut play = Bench::new();
    play.ask();
    // Named twice, not asked for, of a topic that was not asked for.
    let mut answer =
        response(&[(1, ErrorCode::NOT_LEADER_OR_FOLLOWER, 0), (0, OK, 5), (0, OK, 5), (9, OK, 5)]);
    answer.topics.push(TopicData { topic_id: Uuid([8; 16]), ..answer.topics[0].clone() });
    play.answer(answer, 100);
    let outputs = play.outputs();
    assert_eq!(outputs, ["refused t[1] false", "read t[0] false", "answered true", "plan"]);
    // Nearly all of a large answer keeps its buffer.
    for (bytes, frame_len, keeps) in [(200_000, 200_100, true), (200_000, 500_000, false), (100, 110, false)]
    {
        let mut play = Bench::new();
        play.ask();
        play.answer(response(&[(0, OK, bytes), (1, OK, 0)]), frame_len);
        assert!(play.outputs().contains(&format!("read t[0] {keeps}")));
    }
    // What cannot be read ends the fetch: the rest of it is asked for again.
    let mut play = Bench::new();
    play.ask();
    play.answer(response(&[(0, OK, 5), (1, OK, 5)]), 100);
    assert!(matches!(play.machine.poll_output(), Some(Output::Read(_))));
    let error = Error::new(ErrorKind::Network, "gone").with_retriable(true);
    assert_eq!(play.fail(error), ["failed false"]);
}
