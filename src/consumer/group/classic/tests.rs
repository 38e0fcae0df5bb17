//! The classic machine, played by hand: answers in, actions out.

use super::*;
use crate::consumer::group::protocol::{Subscription, decode_assignment, encode_assignment};

const SESSION: Duration = Duration::from_secs(45);
const HEARTBEAT: Duration = Duration::from_secs(3);
const REVOKE: Duration = Duration::from_secs(30);

struct Bench {
    machine: Classic,
    now: Instant,
}

fn tp(text: &str) -> TopicPartition {
    let (topic, partition) = text.split_at(1);
    TopicPartition::new(topic.to_owned(), partition.parse::<i32>().unwrap())
}

fn tps(text: &str) -> Vec<TopicPartition> {
    text.split_whitespace().map(tp).collect()
}

fn show(partitions: &[TopicPartition]) -> String {
    partitions.iter().map(|tp| format!("{}{}", tp.topic, tp.partition)).collect::<Vec<_>>().join(" ")
}

fn ok<T>(value: T) -> Result<T, Error> {
    Ok(value)
}

fn broken<T>() -> Result<T, Error> {
    Err(Error::new(ErrorKind::Network, "the connection broke"))
}

impl Bench {
    fn new(assignors: &[Assignor]) -> Self {
        let machine = Classic::new(ClassicConfig {
            group: "g".into(),
            assignors: assignors.to_vec(),
            session_timeout: SESSION,
            heartbeat_interval: HEARTBEAT,
            revoke_timeout: REVOKE,
            backoff: Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 },
        });
        let mut play = Self { machine, now: Instant::now() };
        play.subscribe("t");
        play
    }

    fn subscribe(&mut self, topics: &str) {
        let topics = topics.split_whitespace().map(|topic| TopicName::from(topic.to_owned())).collect();
        self.machine.handle_subscribe(topics);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn poll(&mut self) -> Option<Action> {
        self.machine.handle_timeout(self.now, 0);
        self.machine.poll_output()
    }

    /// All actions, in short.
    fn actions(&mut self) -> Vec<String> {
        let actions: Vec<Action> = std::iter::from_fn(|| self.poll()).collect();
        actions.iter().map(|action| self.short(action)).collect()
    }

    fn short(&self, action: &Action) -> String {
        match action {
            Action::Ask(Request::Join { member_id, protocols, reason, .. }) => {
                let owned = Subscription::decode(protocols[0].1.clone()).unwrap();
                format!(
                    "join {member_id:?} owned=[{}] gen={} ({reason})",
                    show(&owned.owned),
                    owned.generation
                )
            }
            Action::Ask(Request::Topics { topics, .. }) => format!("topics {topics:?}"),
            Action::Ask(Request::Sync { generation, assignments, .. }) => {
                let all: Vec<String> = assignments
                    .iter()
                    .map(|(id, bytes)| format!("{id}: {}", show(&decode_assignment(bytes.clone()).unwrap())))
                    .collect();
                format!("sync {generation} {}", all.join(", "))
            }
            Action::Ask(Request::Heartbeat { generation, .. }) => format!("heartbeat {generation}"),
            Action::Leave { member_id } => format!("leave {member_id}"),
            Action::Revoke { partitions, deadline, .. } => {
                format!("revoke {} within {}s", show(partitions), (*deadline - self.now).as_secs())
            }
            Action::Lose { partitions } => format!("lose {}", show(partitions)),
            Action::Assign { added, generation } => format!("assign [{}] in {generation}", show(added)),
            Action::ForgetCoordinator => "forget coordinator".into(),
            Action::Trouble { kind, .. } => format!("trouble {kind:?}"),
            Action::Well => "well".into(),
            Action::Fail(failure) => format!("fail {:?}", failure.code().map(|code| code.0)),
        }
    }

    fn joined(&mut self, generation: i32, leader: bool) {
        let members = match leader {
            true => vec![
                (
                    ByteString::from("me"),
                    None,
                    subscription("t", &show(&self.owned()), self.machine.generation),
                ),
                (ByteString::from("other"), None, subscription("t", "", -1)),
            ],
            false => Vec::new(),
        };
        let answer = JoinAnswer {
            code: 0,
            member_id: "me".into(),
            generation,
            protocol: self.machine.config.assignors[0].name().into(),
            leader: if leader { "me" } else { "other" }.into(),
            skip_assignment: false,
            members,
        };
        self.machine.handle_join(self.now, 0, self.machine.ticket, ok(answer));
    }

    fn owned(&self) -> Vec<TopicPartition> {
        self.machine.owned.iter().cloned().collect()
    }

    fn join_error(&mut self, code: i16) {
        let answer = JoinAnswer { code, member_id: "me".into(), ..JoinAnswer::default() };
        self.machine.handle_join(self.now, 0, self.machine.ticket, ok(answer));
    }

    fn synced(&mut self, assigned: &str) {
        let answer = SyncAnswer { code: 0, protocol: None, assignment: encode_assignment(&tps(assigned)) };
        self.machine.handle_sync(self.now, 0, self.machine.ticket, ok(answer));
    }

    fn sync_error(&mut self, code: i16) {
        let answer = SyncAnswer { code, ..SyncAnswer::default() };
        self.machine.handle_sync(self.now, 0, self.machine.ticket, ok(answer));
    }

    /// Sends a heartbeat, unless one is out already.
    fn beat(&mut self) -> u64 {
        if self.machine.heartbeat_out.is_none() {
            self.machine.heartbeat_due = Some(self.now);
            self.actions();
        }
        self.machine.heartbeat_out.map_or(0, |beat| beat.ticket)
    }

    /// Answers a heartbeat.
    fn heartbeat(&mut self, code: i16) {
        let ticket = self.beat();
        self.machine.handle_heartbeat(self.now, 0, ticket, ok(ErrorCode(code)));
    }

    fn revoked(&mut self) {
        self.machine.handle_revoked(self.machine.ticket);
    }

    /// A follower with `assigned` in generation 1.
    fn stable(assignors: &[Assignor], assigned: &str) -> Self {
        let mut play = Self::new(assignors);
        play.actions();
        play.joined(1, false);
        play.actions();
        play.synced(assigned);
        play.actions();
        assert!(play.machine.is_stable());
        play
    }
}

fn subscription(topics: &str, owned: &str, generation: i32) -> Bytes {
    Subscription {
        topics: topics.split_whitespace().map(|topic| TopicName::from(topic.to_owned())).collect(),
        owned: tps(owned),
        generation,
        rack: None,
    }
    .encode(None)
}

fn counts(text: &str) -> Topics {
    tps(text).into_iter().map(|tp| (tp.topic, tp.partition.0)).collect()
}

const STICKY: &[Assignor] = &[Assignor::CooperativeSticky];
const RANGE: &[Assignor] = &[Assignor::Range];

#[test]
fn a_follower_joins() {
    let mut play = Bench::new(STICKY);
    assert_eq!(play.actions(), ["join \"\" owned=[] gen=-1 (first join)"]);
    // The id comes first, and the second attempt follows at once.
    play.join_error(79);
    assert_eq!(play.actions(), ["join \"me\" owned=[] gen=-1 (first join)"]);
    play.joined(1, false);
    assert_eq!(play.actions(), ["sync 1 "]);
    assert_eq!(play.machine.commit_identity(), None);
    play.synced("t0 t1 x9");
    // Topics that were not subscribed to are none of ours.
    assert_eq!(play.actions(), ["assign [t0 t1] in 1"]);
    assert_eq!(play.machine.commit_identity(), Some(("me".into(), 1)));
    // Heartbeats, one at a time.
    play.wait(HEARTBEAT);
    assert_eq!(play.actions(), ["heartbeat 1"]);
    play.wait(HEARTBEAT);
    assert!(play.actions().is_empty());
    play.heartbeat(0);
    assert_eq!(play.actions(), ["heartbeat 1"]);
}

#[test]
fn a_leader_assigns_and_watches_partition_counts() {
    let mut play = Bench::new(STICKY);
    play.actions();
    play.joined(1, true);
    assert_eq!(play.actions(), ["topics {\"t\"}"]);
    let ticket = play.machine.ticket;
    play.machine.handle_topics(ticket - 1, &counts("t9"));
    assert!(play.actions().is_empty());
    play.machine.handle_topics(ticket, &counts("t4"));
    assert_eq!(play.actions(), ["sync 1 me: t0 t2, other: t1 t3"]);
    play.synced("t0 t2");
    play.actions();
    play.machine.handle_metadata(&counts("t4"));
    // A topic that is missing for a moment moves nothing.
    play.machine.handle_metadata(&counts(""));
    assert!(play.actions().is_empty());
    play.machine.handle_metadata(&counts("t6"));
    assert_eq!(play.actions(), ["join \"me\" owned=[t0 t2] gen=1 (the number of partitions changed)"]);
    // Made anew with fewer, while the assignment is on its way.
    play.joined(2, true);
    let ticket = play.machine.ticket;
    play.machine.handle_topics(ticket, &counts("t6"));
    play.machine.handle_metadata(&counts("t1"));
    play.actions();
    play.synced("t0 t2");
    assert_eq!(play.actions(), ["join \"me\" owned=[t0 t2] gen=2 (the number of partitions changed)"]);
}

#[test]
fn a_subscription_that_changes_during_the_first_join_is_joined_for_at_once() {
    let mut play = Bench::new(STICKY);
    play.actions();
    play.join_error(79);
    play.actions();
    play.subscribe("t u");
    play.joined(1, false);
    play.actions();
    play.synced("t0");
    assert_eq!(play.actions(), ["assign [t0] in 1", "join \"me\" owned=[t0] gen=1 (subscription changed)"]);
}

#[test]
fn cooperative_revocation_is_a_second_phase() {
    let mut play = Bench::stable(STICKY, "t0 t1 t2");
    play.heartbeat(27);
    assert_eq!(play.actions(), ["join \"me\" owned=[t0 t1 t2] gen=1 (group is rebalancing)"]);
    play.joined(2, false);
    play.actions();
    play.synced("t0 t3");
    assert_eq!(play.actions(), ["revoke t1 t2 within 30s"]);
    // Heartbeats and commits go on meanwhile, and a rebalance that is heard of waits.
    assert_eq!(play.machine.commit_identity(), Some(("me".into(), 2)));
    play.wait(HEARTBEAT);
    assert_eq!(play.actions(), ["heartbeat 2"]);
    play.heartbeat(27);
    assert!(play.actions().is_empty());
    play.revoked();
    assert_eq!(
        play.actions(),
        ["assign [t3] in 2", "join \"me\" owned=[t0 t3] gen=2 (partitions were given back)"]
    );
}

#[test]
fn eager_groups_revoke_everything_first() {
    let mut play = Bench::stable(RANGE, "t0 t1");
    play.heartbeat(27);
    assert_eq!(play.actions(), ["revoke t0 t1 within 30s"]);
    play.wait(HEARTBEAT);
    assert_eq!(play.actions(), ["heartbeat 1"]);
    play.heartbeat(27);
    play.revoked();
    assert_eq!(play.actions(), ["join \"me\" owned=[] gen=1 (group is rebalancing)"]);
    play.joined(2, false);
    play.actions();
    play.synced("t0 t1");
    assert_eq!(play.actions(), ["assign [t0 t1] in 2"]);
}

#[test]
fn a_revocation_that_is_not_answered_ends_in_loss() {
    let mut play = Bench::stable(STICKY, "t0 t1");
    play.heartbeat(27);
    play.actions();
    play.joined(2, false);
    play.actions();
    play.synced("t0");
    play.actions();
    let ticket = play.machine.ticket;
    assert_eq!(play.machine.next_deadline(), Some(play.now + HEARTBEAT));
    for _ in 0..10 {
        play.wait(HEARTBEAT);
        if play.now - HEARTBEAT * 10 < play.now {
            play.heartbeat(0);
        }
        if play.machine.state == State::Joining {
            break;
        }
        let actions = play.actions();
        if actions.iter().any(|action| action == "lose t1") {
            assert_eq!(actions[1..], ["join \"me\" owned=[t0] gen=2 (partitions were given back)"]);
        }
    }
    assert_eq!(play.machine.state, State::Joining);
    // The late word changes nothing.
    play.machine.handle_revoked(ticket);
    assert_eq!(play.machine.state, State::Joining);
}

#[test]
fn each_code_of_a_join() {
    let after = "join \"\" owned=[] gen=-1 (joining failed)";
    for (code, kind) in &[(14, "trouble NoCoordinator"), (27, "trouble Refused")] {
        let code = *code;
        let mut play = Bench::new(STICKY);
        play.actions();
        play.join_error(code);
        assert_eq!(play.actions(), [*kind], "{code} backs off");
        play.wait(Duration::from_millis(100));
        assert_eq!(play.actions(), [after], "{code}");
    }
    for code in [15, 16] {
        let mut play = Bench::new(STICKY);
        play.actions();
        play.join_error(code);
        assert_eq!(play.actions(), ["forget coordinator", "trouble NoCoordinator"], "{code}");
        play.wait(Duration::from_millis(100));
        assert_eq!(play.actions().len(), 1);
    }
    for code in [23, 24, 26, 30, 81, 82] {
        let mut play = Bench::stable(STICKY, "t0");
        play.heartbeat(27);
        play.actions();
        play.join_error(code);
        assert_eq!(play.actions(), ["lose t0".to_owned(), "well".into(), format!("fail Some({code})")]);
        assert!(play.machine.is_over());
    }
    // The member is not known any more: what it had is lost, and it begins anew.
    let mut play = Bench::stable(STICKY, "t0");
    play.heartbeat(27);
    play.actions();
    play.join_error(25);
    assert_eq!(
        play.actions(),
        ["lose t0", "join \"\" owned=[] gen=-1 (member id is unknown to the coordinator)"]
    );
}

#[test]
fn each_code_of_a_sync() {
    let rejoining = |code| {
        let mut play = Bench::stable(STICKY, "t0");
        play.heartbeat(27);
        play.actions();
        play.joined(2, false);
        play.actions();
        play.sync_error(code);
        play.wait(Duration::from_millis(100));
        play.actions()
    };
    assert_eq!(rejoining(27), ["join \"me\" owned=[t0] gen=2 (group is rebalancing)"]);
    assert_eq!(
        rejoining(14),
        ["trouble NoCoordinator", "join \"me\" owned=[t0] gen=2 (synchronising failed)"]
    );
    assert_eq!(
        rejoining(16),
        [
            "forget coordinator",
            "trouble NoCoordinator",
            "join \"me\" owned=[t0] gen=2 (synchronising failed)"
        ]
    );
    assert_eq!(rejoining(22), ["lose t0", "join \"me\" owned=[] gen=-1 (generation is over)"]);
    assert_eq!(
        rejoining(25),
        ["lose t0", "join \"\" owned=[] gen=-1 (member id is unknown to the coordinator)"]
    );
    assert_eq!(rejoining(82), ["lose t0", "well", "fail Some(82)"]);
    assert_eq!(rejoining(30), ["lose t0", "well", "fail Some(30)"]);
}

#[test]
fn each_code_of_a_heartbeat() {
    let after = |code| {
        let mut play = Bench::stable(STICKY, "t0");
        play.wait(HEARTBEAT);
        play.actions();
        play.heartbeat(code);
        play.actions()
    };
    assert!(after(0).is_empty());
    assert_eq!(after(14), ["trouble NoCoordinator"]);
    assert_eq!(after(15), ["forget coordinator", "trouble NoCoordinator"]);
    assert_eq!(after(16), ["forget coordinator", "trouble NoCoordinator"]);
    assert_eq!(after(22), ["lose t0", "join \"me\" owned=[] gen=-1 (generation is over)"]);
    assert_eq!(after(25), ["lose t0", "join \"\" owned=[] gen=-1 (member id is unknown to the coordinator)"]);
    assert_eq!(after(27), ["join \"me\" owned=[t0] gen=1 (group is rebalancing)"]);
    assert_eq!(after(82), ["lose t0", "well", "fail Some(82)"]);
    assert_eq!(after(30), ["lose t0", "well", "fail Some(30)"]);
}

#[test]
fn silence_for_a_session_is_loss() {
    let mut play = Bench::stable(STICKY, "t0");
    let end = play.now + SESSION;
    while play.now < end {
        assert!(!play.actions().iter().any(|action| action.starts_with("lose")));
        let ticket = play.beat();
        play.machine.handle_heartbeat(play.now, 0, ticket, broken());
        play.wait(Duration::from_millis(500));
    }
    let actions = play.actions();
    assert!(actions.contains(&"lose t0".to_owned()), "{actions:?}");
    assert!(actions.contains(
        &"join \"me\" owned=[] gen=-1 (no heartbeat was answered within the session timeout)".to_owned()
    ));
}

#[test]
fn a_join_may_take_longer_than_a_session_as_long_as_heartbeats_are_answered() {
    let mut play = Bench::stable(STICKY, "t0");
    play.heartbeat(27);
    play.actions();
    for _ in 0..60 {
        play.wait(HEARTBEAT);
        assert_eq!(play.actions(), ["heartbeat 1"]);
        play.heartbeat(27);
        assert!(play.actions().is_empty());
    }
    // Its connection breaks: the membership is still there.
    play.machine.handle_join(play.now, 0, play.machine.ticket, broken());
    assert_eq!(play.actions()[..2], ["forget coordinator", "trouble Unreachable"]);
    play.wait(Duration::from_millis(100));
    assert!(play.actions().contains(&"join \"me\" owned=[t0] gen=1 (joining failed)".to_owned()));
    play.joined(2, false);
    play.actions();
    play.synced("t0");
    assert_eq!(play.actions(), ["well"], "nothing new to tell");
}

#[test]
fn a_join_that_nobody_answers_ends_with_the_session() {
    let mut play = Bench::stable(STICKY, "t0 t1");
    play.heartbeat(27);
    assert!(play.actions()[0].starts_with("join"));
    let end = play.now + SESSION;
    // The heartbeat that is out is not answered either.
    play.wait(HEARTBEAT);
    assert_eq!(play.actions(), ["heartbeat 1"]);
    play.now = end - Duration::from_millis(1);
    assert!(play.actions().is_empty());
    assert_eq!(play.machine.next_deadline(), Some(end));
    play.now = end;
    let reason = "no heartbeat was answered within the session timeout";
    assert_eq!(
        play.actions(),
        [
            "forget coordinator".to_owned(),
            "lose t0 t1".into(),
            format!("join \"me\" owned=[] gen=-1 ({reason})")
        ]
    );
    // Without a membership it is asked again too, wherever the coordinator is by then.
    play.wait(SESSION);
    assert_eq!(
        play.actions(),
        ["forget coordinator".to_owned(), format!("join \"me\" owned=[] gen=-1 ({reason})")]
    );
}

#[test]
fn the_session_counts_from_when_a_heartbeat_was_sent() {
    let mut play = Bench::stable(STICKY, "t0");
    play.wait(HEARTBEAT);
    let (ticket, sent) = (play.beat(), play.now);
    play.wait(SESSION - HEARTBEAT - Duration::from_secs(1));
    play.machine.handle_heartbeat(play.now, 0, ticket, ok(ErrorCode::NONE));
    assert_eq!(play.machine.session_end, Some(sent + SESSION));
    // What a join says of it may be as old as the join.
    play.heartbeat(27);
    let before = play.machine.session_end;
    play.actions();
    play.wait(Duration::from_secs(20));
    play.joined(2, false);
    play.synced("t0");
    assert_eq!(play.machine.session_end, before);
}

#[test]
fn a_heartbeat_of_the_old_generation_loses_nothing_while_joining() {
    let mut play = Bench::stable(STICKY, "t0");
    play.heartbeat(27);
    play.wait(HEARTBEAT);
    play.actions();
    assert_eq!(play.machine.state, State::Joining);
    play.heartbeat(22);
    assert!(play.actions().is_empty());
    play.joined(2, false);
    play.actions();
    play.synced("t0");
    assert!(play.actions().is_empty() && play.machine.is_stable());
    // Nor one that was on its way before.
    let ticket = play.beat();
    play.machine.want_rejoin("test");
    assert!(play.actions()[0].starts_with("join"));
    play.machine.handle_heartbeat(play.now, 0, ticket, ok(ErrorCode::ILLEGAL_GENERATION));
    assert!(play.actions().is_empty());
    play.joined(3, false);
    play.actions();
    play.synced("t0");
    assert!(play.actions().is_empty() && play.machine.is_stable());
    // Brokers before 2.7 say so while they wait for the leader's assignment: no news once there is one.
    play.heartbeat(27);
    play.actions();
    play.joined(4, false);
    play.actions();
    let ticket = play.beat();
    play.synced("t0");
    play.machine.handle_heartbeat(play.now, 0, ticket, ok(ErrorCode::REBALANCE_IN_PROGRESS));
    assert!(play.actions().is_empty() && play.machine.is_stable());
}

#[test]
fn half_a_success_resets_no_back_off() {
    let mut play = Bench::new(STICKY);
    play.actions();
    for (generation, pause) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (6, 1000)] {
        play.joined(generation, false);
        play.actions();
        play.sync_error(-1);
        assert_eq!(play.actions(), ["trouble Refused"]);
        assert_eq!(play.machine.retry_at, Some(play.now + Duration::from_millis(pause)));
        play.wait(Duration::from_millis(pause));
        assert_eq!(play.actions().iter().filter(|action| action.starts_with("join")).count(), 1);
    }
    play.joined(7, false);
    play.actions();
    play.synced("t0");
    assert_eq!(play.actions(), ["well", "assign [t0] in 7"]);
    // Heartbeats that are refused are not made good by joining.
    play.heartbeat(-1);
    assert_eq!(play.actions(), ["trouble Refused"]);
    play.machine.want_rejoin("test");
    play.actions();
    play.joined(8, false);
    play.actions();
    play.synced("t0");
    assert!(play.actions().is_empty());
    play.heartbeat(0);
    assert_eq!(play.actions(), ["well"]);
}

#[test]
fn late_answers_are_dropped() {
    let mut play = Bench::stable(STICKY, "t0");
    play.heartbeat(27);
    play.actions();
    let (old, old_heartbeat) = (play.machine.ticket, play.beat());
    play.joined(2, false);
    play.actions();
    let answer = SyncAnswer { code: 25, ..SyncAnswer::default() };
    play.machine.handle_sync(play.now, 0, old, ok(answer));
    play.machine.handle_heartbeat(play.now, 0, old_heartbeat, ok(ErrorCode::UNKNOWN_MEMBER_ID));
    assert!(play.actions().is_empty());
    play.synced("t0");
    assert!(play.machine.is_stable());
}

#[test]
fn what_a_failed_commit_means() {
    let verdict = |code: i16, generation: i32| {
        let mut play = Bench::stable(STICKY, "t0");
        let verdict = play.machine.handle_commit_code(play.now, 0, generation, ErrorCode(code));
        (verdict, play.actions())
    };
    assert_eq!(verdict(14, 1), (CommitVerdict::Retry, vec![]));
    assert_eq!(verdict(16, 1), (CommitVerdict::Retry, vec!["forget coordinator".into()]));
    let rejoin = "join \"me\" owned=[t0] gen=1 (group is rebalancing)".to_owned();
    assert_eq!(verdict(27, 1), (CommitVerdict::AfterRebalance, vec![rejoin]));
    let (lost, actions) = verdict(22, 1);
    assert_eq!((lost, actions[0].as_str()), (CommitVerdict::Lost, "lose t0"));
    let (lost, actions) = verdict(25, 1);
    assert_eq!((lost, actions[0].as_str()), (CommitVerdict::Lost, "lose t0"));
    // A newer generation is known already: no second rejoin, nothing is lost.
    assert_eq!(verdict(22, 0), (CommitVerdict::AfterRebalance, vec![]));
    assert_eq!(verdict(25, 0), (CommitVerdict::AfterRebalance, vec![]));
    assert_eq!(verdict(12, 1), (CommitVerdict::Refused, vec![]));
}

#[test]
fn a_new_subscription_gives_back_what_it_leaves() {
    let mut play = Bench::stable(STICKY, "t0 t1");
    play.subscribe("u");
    assert_eq!(play.actions(), ["revoke t0 t1 within 30s"]);
    play.revoked();
    assert_eq!(play.actions(), ["join \"me\" owned=[] gen=1 (subscription changed)"]);
    // Nothing at all: the group is left.
    play.joined(2, false);
    play.actions();
    play.synced("u0");
    play.actions();
    play.subscribe("");
    assert_eq!(play.actions(), ["revoke u0 within 30s"]);
    play.revoked();
    assert_eq!(play.actions(), ["leave me"]);
    play.subscribe("t");
    assert_eq!(play.actions(), ["join \"\" owned=[] gen=-1 (first join)"]);
}

#[test]
fn closing_gives_back_then_leaves() {
    let mut play = Bench::stable(STICKY, "t0");
    // A fourth of the time belongs to the goodbye, at most five seconds.
    let commit_by = play.machine.handle_close(play.now, play.now + Duration::from_secs(16));
    assert_eq!(commit_by, play.now + Duration::from_secs(12));
    assert_eq!(play.actions(), ["revoke t0 within 12s"]);
    assert!(play.machine.commit_identity().is_some());
    play.revoked();
    assert_eq!(play.actions(), ["leave me"]);
    assert!(play.machine.is_over());
    let play = &mut Bench::stable(STICKY, "t0");
    let commit_by = play.machine.handle_close(play.now, play.now + Duration::from_secs(30));
    assert_eq!(commit_by, play.now + Duration::from_secs(25));
    // Left at the end of that, whatever happens, also if the generation is over.
    play.actions();
    play.now = commit_by;
    let actions = play.actions();
    assert_eq!(actions[actions.len() - 2..], ["lose t0", "leave me"]);
    let mut play = Bench::stable(STICKY, "t0");
    play.machine.handle_close(play.now, play.now + Duration::from_secs(30));
    play.actions();
    play.heartbeat(22);
    assert_eq!(play.actions(), ["lose t0", "leave me"]);
}

#[test]
fn whoever_closes_while_it_joins_waits_for_the_id_to_leave_with() {
    let close = |play: &mut Bench| {
        play.actions();
        play.machine.handle_close(play.now, play.now + Duration::from_secs(8));
        assert!(play.actions().is_empty() && !play.machine.is_over());
    };
    let mut play = Bench::new(STICKY);
    close(&mut play);
    play.join_error(79);
    assert_eq!(play.actions(), ["leave me"]);
    let mut play = Bench::new(STICKY);
    close(&mut play);
    play.joined(1, false);
    assert_eq!(play.actions(), ["leave me"]);
    // Not for ever, and not for an answer that does not come.
    let mut play = Bench::new(STICKY);
    close(&mut play);
    play.wait(Duration::from_secs(8));
    assert!(play.actions().is_empty() && play.machine.is_over());
    let mut play = Bench::new(STICKY);
    close(&mut play);
    play.machine.handle_join(play.now, 0, play.machine.ticket, broken());
    assert!(play.actions().is_empty() && play.machine.is_over());
    // With an id it can leave at once.
    let mut play = Bench::new(STICKY);
    play.actions();
    play.join_error(79);
    play.actions();
    play.machine.handle_close(play.now, play.now + Duration::from_secs(8));
    assert_eq!(play.actions(), ["leave me"]);
}

#[test]
fn the_hint_of_a_group_with_other_assignors_depends_on_ours() {
    for (assignors, hint) in [(STICKY, "offer `range` as they do"), (RANGE, "offer cooperative-sticky alone")]
    {
        let mut play = Bench::new(assignors);
        play.actions();
        play.join_error(23);
        let failed = std::iter::from_fn(|| play.poll()).last();
        let Some(Action::Fail(error)) = failed else { panic!("{failed:?}") };
        assert!(error.advice().unwrap().contains(hint), "{error:?}");
    }
}

/// Any sequence of answers and waits neither panics nor polls without end.
#[test]
fn random_answers_end_in_bounded_work() {
    let mut seed = 7u64;
    let mut dice = |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    let codes = [0, 14, 15, 16, 22, 25, 27, 79, 3, -1];
    for _ in 0..200 {
        let mut play = Bench::new(if dice(2) == 0 { STICKY } else { RANGE });
        for _ in 0..60 {
            let code = codes[dice(codes.len() as u64) as usize];
            match dice(9) {
                0 => play.joined(dice(5) as i32, dice(2) == 0),
                1 => play.join_error(code),
                2 => play.synced(["t0 t1", "", "t2", "t0"][dice(4) as usize]),
                3 => play.sync_error(code),
                4 => play.heartbeat(code),
                5 => play.revoked(),
                6 => play.machine.handle_topics(play.machine.ticket, &counts("t3")),
                7 => play.wait(Duration::from_millis(dice(60_000))),
                _ => play.subscribe(["t", "t u", ""][dice(3) as usize]),
            }
            let mut steps = 0;
            while play.poll().is_some() {
                steps += 1;
                assert!(steps < 20, "{:?}", play.machine.state);
            }
        }
    }
}

#[test]
fn a_subscription_that_changes_while_joining_is_not_forgotten() {
    let mut play = Bench::new(STICKY);
    play.actions();
    play.subscribe("t u");
    play.joined(1, false);
    play.actions();
    play.synced("t0");
    assert_eq!(play.actions(), ["assign [t0] in 1", "join \"me\" owned=[t0] gen=1 (subscription changed)"]);
}
