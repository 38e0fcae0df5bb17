//! The membership, played by hand: words of the application and answers in, outputs out.

use super::*;
use crate::consumer::config::Assignor;
use crate::consumer::group::classic::{Classic, ClassicConfig, JoinAnswer, SyncAnswer};
use crate::consumer::group::protocol::encode_assignment;
use crate::consumer::positions::PositionsConfig;
use crate::sync::budget::MemoryBudget;

const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn mark(partition: i32, offset: i64) -> Mark {
    Mark::new(tp(partition), Offset(offset))
}

struct Bench {
    machine: Membership,
    positions: Positions,
    metadata: Metadata,
    now: Instant,
    reason: Option<Error>,
    outputs: VecDeque<Output>,
}

impl Bench {
    /// A member that has `count` partitions.
    fn new(config: ConsumerConfig, count: i32) -> Self {
        let now = Instant::now();
        let mut classic = Classic::new(ClassicConfig {
            group: "g".into(),
            assignors: vec![Assignor::CooperativeSticky],
            session_timeout: config.session_timeout,
            heartbeat_interval: config.heartbeat_interval,
            revoke_timeout: config.revoke_limit(),
            backoff: BACKOFF,
        });
        classic.handle_subscribe(["t".into()].into());
        let protocol = Protocol::Classic(classic);
        let budget = MemoryBudget::default();
        let positions =
            Positions::new(PositionsConfig { consumer: config.clone(), backoff: BACKOFF, budget });
        let machine = Membership::new(now, "g".into(), Arc::new(config), BACKOFF, protocol);
        let (metadata, outputs) = (Metadata::default(), VecDeque::new());
        let mut bench = Self { machine, positions, metadata, now, reason: None, outputs };
        bench.assign(1, count);
        bench
    }

    /// Lets the group rebalance, and this member have `count` partitions then.
    fn assign(&mut self, generation: i32, count: i32) {
        let ticket = self.find(|output| match output {
            Output::Ask(Request::Classic(classic::Request::Join { ticket, .. })) => Some(*ticket),
            _ => None,
        });
        let answer = JoinAnswer { member_id: "me".into(), generation, ..JoinAnswer::default() };
        self.answer(classic::Answer::Join(ticket.expect("a join"), Ok(answer)));
        let ticket = self.find(|output| match output {
            Output::Ask(Request::Classic(classic::Request::Sync { ticket, .. })) => Some(*ticket),
            _ => None,
        });
        let partitions: Vec<_> = (0..count).map(tp).collect();
        let answer = SyncAnswer { assignment: encode_assignment(&partitions), ..SyncAnswer::default() };
        self.answer(classic::Answer::Sync(ticket.expect("a sync"), Ok(answer)));
    }

    fn answer(&mut self, answer: classic::Answer) {
        self.machine.handle_answer(self.now, 0, Answer::Classic(answer));
    }

    /// Makes it join again.
    fn rebalance(&mut self) {
        self.now += secs(3);
        let ticket = self.find(|output| match output {
            Output::Ask(Request::Classic(classic::Request::Heartbeat { ticket, .. })) => Some(*ticket),
            _ => None,
        });
        let rebalancing = Ok(ErrorCode::REBALANCE_IN_PROGRESS);
        self.answer(classic::Answer::Heartbeat(ticket.expect("a heartbeat"), rebalancing));
    }

    fn tell(&mut self, tell: impl FnOnce(&mut Membership, &mut Seen<'_>)) {
        let reason = self.reason.clone().filter(|_| self.machine.is_late(self.now));
        let (now, positions, metadata) = (self.now, &mut self.positions, &self.metadata);
        tell(&mut self.machine, &mut Seen { now, dice: 0, positions, metadata, reason });
    }

    /// Takes what is to be done, as a driver does.
    fn run(&mut self) {
        self.tell(Membership::handle_timeout);
        self.outputs.extend(std::iter::from_fn(|| self.machine.poll_output()));
    }

    /// The first thing to be done in which `wanted` finds something; what stands before it is done.
    fn find<T>(&mut self, wanted: impl Fn(&Output) -> Option<T>) -> Option<T> {
        self.run();
        while let Some(output) = self.outputs.pop_front() {
            if let Some(found) = wanted(&output) {
                return Some(found);
            }
        }
        None
    }

    /// What is to be committed.
    fn commit(&mut self) -> Option<(i32, Vec<Sending>)> {
        self.find(|output| match output {
            Output::Ask(Request::Commit { generation, sending, .. }) => Some((*generation, sending.clone())),
            _ => None,
        })
    }

    fn committed(&mut self, generation: i32, sent: &[Sending], code: ErrorCode) {
        let codes = sent.iter().map(|item| (item.mark.topic_partition().clone(), code)).collect();
        self.tell(|machine, seen| machine.handle_committed(seen, generation, sent, Ok(codes)));
    }

    fn offsets(&mut self) -> Option<(u64, Vec<TopicPartition>)> {
        self.find(|output| match output {
            Output::Ask(Request::Offsets(round)) => Some((round.number, round.partitions.clone())),
            _ => None,
        })
    }

    /// Everything else that is to be done, in one word each.
    fn words(&mut self) -> Vec<String> {
        self.run();
        let word = |output: &Output| match output {
            Output::Ask(Request::Classic(request)) => Some(request.kind().to_owned()),
            Output::Ask(Request::Leave { deadline, .. }) => {
                Some(format!("leave within {}s", (*deadline - self.now).as_secs()))
            }
            Output::Ask(Request::Commit { sending, .. }) => Some(format!("commit {}", sending.len())),
            Output::Ask(Request::Offsets(_)) => Some("offsets".to_owned()),
            Output::Revoked { partitions, ask } => {
                Some(format!("revoked {}{}", partitions.len(), if ask.is_some() { " and asked" } else { "" }))
            }
            Output::Assigned { added, .. } => Some(format!("assigned {}", added.len())),
            Output::Lost(partitions) => Some(format!("lost {}", partitions.len())),
            Output::Closed { result, .. } => Some(match result {
                Ok(()) => "closed".to_owned(),
                Err(error) => format!("{}", crate::error::Chain(error)),
            }),
            Output::Settled { failed, .. } => Some(format!("settled, {} failed", failed.len())),
            Output::NotCommitted { last, .. } => Some(format!("not committed, last: {last}")),
            Output::Raise { kind, .. } => Some(format!("raise {kind:?}")),
            Output::Fail(error) => Some(format!("fail: {error}")),
            Output::Hurry => Some("hurry".to_owned()),
            Output::Doubt(topic) => Some(format!("doubt {topic}")),
            Output::ForgetCoordinator | Output::Want(_) | Output::Changed | Output::Clear(_) => None,
        };
        let words = self.outputs.iter().filter_map(word).collect();
        self.outputs.clear();
        words
    }
}

#[test]
fn a_revocation_commits_before_it_gives_back() {
    let mut bench = Bench::new(ConsumerConfig::new(), 2);
    bench.words();
    bench.positions.store(mark(1, 7)).unwrap();
    bench.rebalance();
    bench.assign(2, 1);
    let ask = bench.find(|output| match output {
        Output::Revoked { partitions, ask } if *partitions == [tp(1)] => *ask,
        _ => None,
    });
    let (ticket, deadline) = ask.expect("the application is asked");
    assert!(bench.words().is_empty(), "nothing happens before it has finished");
    bench.tell(|machine, seen| machine.handle_released(seen, ticket, &[tp(1)], deadline));
    let (generation, sent) = bench.commit().expect("what is stored is committed");
    assert_eq!((generation, sent[0].mark.offset()), (2, Offset(7)));
    assert!(bench.positions.is_assigned(&tp(1)));
    bench.committed(2, &sent, ErrorCode::NONE);
    assert_eq!(bench.words(), ["join"]);
    assert!(!bench.positions.is_assigned(&tp(1)));
    // The word comes twice, or too late.
    bench.tell(|machine, seen| machine.handle_released(seen, ticket, &[tp(1)], deadline));
    assert!(bench.words().is_empty());
}

#[test]
fn what_is_stored_is_committed_at_every_interval_and_what_is_refused_lasts() {
    let mut bench = Bench::new(ConsumerConfig::new(), 1);
    bench.words();
    bench.positions.store(mark(0, 3)).unwrap();
    assert!(bench.commit().is_none());
    bench.now += secs(5);
    let (_, sent) = bench.commit().expect("the interval is over");
    bench.committed(1, &sent, ErrorCode::OFFSET_METADATA_TOO_LARGE);
    assert_eq!(bench.words(), ["raise Refused"]);
    bench.now += secs(5);
    let (_, sent) = bench.commit().expect("again with the next one");
    bench.committed(1, &sent, ErrorCode::NONE);
    let over = bench.find(|output| match output {
        Output::Clear(over) => Some(*over == Over::Done(vec![tp(0)])),
        _ => None,
    });
    assert_eq!(over, Some(true));
    bench.now += secs(5);
    assert!(bench.commit().is_none());
    // By hand there is no interval.
    let mut bench = Bench::new(ConsumerConfig::new().enable_auto_commit(false), 1);
    bench.words();
    bench.positions.store(mark(0, 3)).unwrap();
    bench.now += secs(20);
    assert!(bench.commit().is_none());
    let deadline = bench.now + secs(60);
    bench.machine.handle_commit(1, vec![mark(0, 4)], deadline);
    let (_, sent) = bench.commit().expect("a caller waits");
    bench.committed(1, &sent, ErrorCode::NONE);
    assert_eq!(bench.words(), ["settled, 0 failed"]);
}

#[test]
fn a_mark_of_a_topic_in_doubt_waits_and_one_of_a_topic_that_is_gone_is_given_up() {
    let mut bench = Bench::new(ConsumerConfig::new(), 1);
    bench.words();
    bench.positions.store(mark(0, 3)).unwrap();
    bench.now += secs(5);
    let (_, sent) = bench.commit().unwrap();
    bench.committed(1, &sent, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(bench.words(), ["doubt t"]);
    bench.metadata.errors.insert("t".into(), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    bench.now += secs(1);
    let (_, sent) = bench.commit().expect("after the back-off");
    bench.committed(1, &sent, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(bench.words(), ["not committed, last: false"]);
    bench.now += secs(5);
    assert!(bench.commit().is_none());
}

#[test]
fn partitions_are_asked_for_until_all_of_them_were_told() {
    let mut bench = Bench::new(ConsumerConfig::new(), 2);
    let (round, partitions) = bench.offsets().expect("a round");
    assert_eq!(partitions, [tp(0), tp(1)]);
    let told = |partition, answer| Committed::from([(tp(partition), answer)]);
    let refusal = ErrorCode::TOPIC_AUTHORIZATION_FAILED;
    bench.tell(|machine, seen| machine.handle_offsets(seen, round, told(0, Ok(Some((9, 1, None))))));
    bench.tell(|machine, seen| machine.handle_offsets(seen, round, told(1, Err(refusal))));
    assert_eq!(bench.positions.position(&tp(0)), Some(Offset(9)));
    assert_eq!(bench.words(), ["raise NotAuthorized"]);
    bench.machine.handle_offsets_over(bench.now, 0, round, &Ok(()));
    assert!(bench.offsets().is_none());
    bench.now += Duration::from_millis(100);
    let (again, partitions) = bench.offsets().expect("the rest, after the back-off");
    assert_eq!(partitions, [tp(1)]);
    // What comes late of an older round is dropped.
    bench.tell(|machine, seen| machine.handle_offsets(seen, round, told(1, Ok(Some((5, 1, None))))));
    assert_eq!(bench.positions.position(&tp(1)), None);
    let away = Error::new(ErrorKind::Network, "away");
    bench.machine.handle_offsets_over(bench.now, 0, again, &Err(away));
    assert_eq!(bench.words(), ["raise Unreachable"]);
    bench.now += secs(1);
    let (last, _) = bench.offsets().expect("another round");
    let refused = Error::new(ErrorKind::Authorization, "no").with_retriable(false);
    bench.machine.handle_offsets_over(bench.now, 0, last, &Err(refused));
    assert!(bench.words()[0].starts_with("fail: no"));
    bench.now += secs(60);
    assert!(bench.offsets().is_none());
}

#[test]
fn closing_commits_leaves_and_tells_the_truth_to_each_who_waits() {
    let mut bench = Bench::new(ConsumerConfig::new(), 1);
    bench.words();
    bench.positions.store(mark(0, 3)).unwrap();
    let start = bench.now;
    bench.machine.handle_close(start, 1, start + secs(8));
    assert_eq!(bench.words(), ["hurry", "revoked 1", "commit 1"]);
    // Nothing is answered: a fourth of the time is for the goodbye.
    bench.now = start + secs(6);
    let words = bench.words();
    assert_eq!(words, ["not committed, last: true", "leave within 5s"]);
    bench.machine.handle_close(bench.now, 2, start + secs(20));
    bench.reason = Some(Error::new(ErrorKind::Network, "nobody listens"));
    bench.now = start + secs(8);
    let words = bench.words();
    assert!(words.len() == 2 && words[1].contains("t[0] at 3"), "{words:?}");
    assert!(!bench.machine.is_over());
    bench.machine.handle_left(Ok(()));
    bench.run();
    assert!(bench.machine.is_over());
    let error = bench.machine.handle_end().unwrap_err();
    assert!(error.to_string().contains("t[0] at 3"), "{error}");
    assert_eq!(bench.words().len(), 1, "the second one is told too");
    // With all the time, and nothing to commit.
    let mut bench = Bench::new(ConsumerConfig::new(), 1);
    bench.words();
    bench.machine.handle_close(bench.now, 1, bench.now + secs(20));
    assert_eq!(bench.words(), ["hurry", "revoked 1", "leave within 20s"]);
    bench.now += secs(20);
    bench.reason = Some(Error::new(ErrorKind::Network, "nobody listens"));
    let words = bench.words();
    assert!(words[0].contains("not left before the deadline") && words[0].contains("nobody listens"));
    // The client went first.
    let mut bench = Bench::new(ConsumerConfig::new(), 1);
    bench.words();
    bench.positions.store(mark(0, 3)).unwrap();
    bench.tell(Membership::handle_cut_off);
    assert!(bench.machine.handle_end().unwrap_err().to_string().contains("t[0] at 3"));
    let mut bench = Bench::new(ConsumerConfig::new(), 0);
    bench.tell(Membership::handle_cut_off);
    assert!(bench.machine.handle_end().unwrap_err().to_string().contains("was not left"));
}

#[test]
fn which_conditions_are_over() {
    let group = Subject::Group("g".into());
    let (partition, topic) = (Subject::Partition(tp(1)), Subject::Topic("t".into()));
    let covers = |over: &Over, subject: &Subject, kind| over.covers(&group, subject, kind);
    use ConditionKind::{NoCoordinator, NotAuthorized, Refused, Unreachable};
    assert!(covers(&Over::Group, &group, Unreachable) && !covers(&Over::Group, &topic, Unreachable));
    assert!(
        covers(&Over::Reachable, &group, NoCoordinator) && !covers(&Over::Reachable, &group, Unreachable)
    );
    let gone = Over::Gone(vec![tp(1)]);
    assert!(covers(&gone, &partition, NotAuthorized) && !covers(&gone, &Subject::Partition(tp(2)), Refused));
    let done = Over::Done(vec![tp(1)]);
    assert!(covers(&done, &partition, Refused) && !covers(&done, &partition, NotAuthorized));
    assert!(covers(&done, &topic, NotAuthorized) && !covers(&done, &topic, Refused));
}
