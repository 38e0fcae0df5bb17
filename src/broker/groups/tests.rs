//! Tests of the group machine on made-up time.

use super::*;

const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(60);

struct Bench {
    groups: Groups,
    now: Instant,
    ids: u32,
}

impl Bench {
    fn new(initial_delay: Duration) -> Self {
        let settings =
            Settings { group_initial_rebalance_delay: initial_delay, nodes: 3, ..Settings::default() };
        Self { groups: Groups::new(&settings), now: Instant::now(), ids: 0 }
    }

    fn send(&mut self, join: Join) -> oneshot::Receiver<Joined> {
        let (reply, joined) = oneshot::channel();
        self.ids += 1;
        let id = self.ids;
        self.groups.join(self.now, "g".into(), join, || id.to_string(), reply);
        joined
    }

    /// Joins with the two steps of KIP-394, leaving the second one open.
    fn begin(&mut self, client: &str) -> (Str, oneshot::Receiver<Joined>) {
        let first = self.send(join(client, "")).try_recv().unwrap();
        assert_eq!(first.error, ErrorCode::MEMBER_ID_REQUIRED);
        let id = first.member_id;
        (id.clone(), self.send(join(client, &id)))
    }

    fn sync(
        &mut self,
        id: &str,
        generation: i32,
        assign: &[(&Str, &'static str)],
    ) -> oneshot::Receiver<Synced> {
        let (reply, synced) = oneshot::channel();
        let assignments =
            assign.iter().map(|(id, what)| ((*id).clone(), Bytes::from_static(what.as_bytes()))).collect();
        let protocol = (Some("consumer"), Some("range"));
        self.groups.sync(self.now, "g", &caller(id, generation), protocol, assignments, reply);
        synced
    }

    /// A group of one stable member; its id.
    fn stable() -> (Self, Str) {
        let mut f = Self::new(Duration::ZERO);
        let (a, mut joined) = f.begin("a");
        assert_eq!(joined.try_recv().unwrap().generation, 1);
        let synced = f.sync(&a, 1, &[(&a, "all")]).try_recv().unwrap();
        assert_eq!((synced.error, &synced.assignment[..]), (ErrorCode::NONE, &b"all"[..]));
        (f, a)
    }

    fn heartbeat(&mut self, id: &str, generation: i32) -> ErrorCode {
        self.groups.heartbeat(self.now, "g", &caller(id, generation))
    }

    fn after(&mut self, time: Duration) {
        self.now += time;
        self.groups.handle_timeout(self.now);
    }

    fn phase(&self) -> Phase {
        self.groups.get("g").unwrap().group.phase
    }
}

fn join(client: &str, member_id: &str) -> Join {
    Join {
        member_id: member_id.into(),
        client_id: client.into(),
        session_timeout: SESSION,
        rebalance_timeout: REBALANCE,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::from_static(b"topics"))],
        can_require_id: true,
        can_skip_assignment: true,
        ..Join::default()
    }
}

fn static_join(instance: &str) -> Join {
    Join { instance_id: Some(instance.into()), ..join("static", "") }
}

fn caller(id: &str, generation: i32) -> Caller<'_> {
    Caller { member_id: id, instance_id: None, generation }
}

#[test]
fn a_second_member_rebalances_the_first() {
    let (mut f, a) = Bench::stable();
    let (b, mut b_joined) = f.begin("b");
    assert_eq!(f.heartbeat(&a, 1), ErrorCode::REBALANCE_IN_PROGRESS);
    assert!(b_joined.try_recv().is_err());
    let a_joined = f.send(join("a", &a)).try_recv().unwrap();
    let b_joined = b_joined.try_recv().unwrap();
    assert_eq!((a_joined.generation, &a_joined.leader, a_joined.members.len()), (2, &a, 2));
    assert_eq!(
        (b_joined.generation, b_joined.protocol.as_deref(), b_joined.members.len()),
        (2, Some("range"), 0)
    );
    let mut b_synced = f.sync(&b, 2, &[]);
    assert!(b_synced.try_recv().is_err());
    assert_eq!(f.groups.admit_commit(f.now, &"g".into(), &caller(&a, 2)), ErrorCode::REBALANCE_IN_PROGRESS);
    let a_synced = f.sync(&a, 2, &[(&a, "first"), (&b, "second")]).try_recv().unwrap();
    assert_eq!(&a_synced.assignment[..], b"first");
    assert_eq!(&b_synced.try_recv().unwrap().assignment[..], b"second");
    assert_eq!((f.heartbeat(&a, 2), f.heartbeat(&b, 2)), (ErrorCode::NONE, ErrorCode::NONE));
    assert_eq!(f.heartbeat(&b, 1), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(f.heartbeat("nobody", 2), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn silent_members_are_removed() {
    let (mut f, a) = Bench::stable();
    f.after(SESSION - Duration::from_millis(1));
    assert_eq!(f.heartbeat(&a, 1), ErrorCode::NONE);
    f.after(SESSION - Duration::from_millis(1));
    assert_eq!(f.phase(), Phase::Stable);
    f.after(Duration::from_millis(1));
    assert_eq!(f.phase(), Phase::Empty);
    assert_eq!(f.heartbeat(&a, 1), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(f.groups.next_deadline(), Some(f.now + EXPIRY_CHECK));
}

#[test]
fn a_member_that_does_not_rejoin_is_out_after_the_rebalance_timeout() {
    let (mut f, a) = Bench::stable();
    let (b, mut joined) = f.begin("b");
    for _ in 0..7 {
        f.after(Duration::from_secs(8));
        assert_eq!(f.heartbeat(&a, 1), ErrorCode::REBALANCE_IN_PROGRESS);
    }
    f.after(Duration::from_secs(4));
    let joined = joined.try_recv().unwrap();
    assert_eq!((joined.generation, &joined.leader, joined.members.len()), (2, &b, 1));
    assert_eq!(f.heartbeat(&a, 1), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_member_that_does_not_sync_is_out_after_the_rebalance_timeout() {
    let mut f = Bench::new(Duration::ZERO);
    let (a, mut joined) = f.begin("a");
    assert!(joined.try_recv().is_ok());
    for _ in 0..7 {
        f.after(Duration::from_secs(8));
        assert_eq!(f.heartbeat(&a, 1), ErrorCode::NONE);
    }
    f.after(Duration::from_secs(4));
    assert_eq!(f.phase(), Phase::Empty);
}

#[test]
fn leaving_ends_a_rebalance_that_waits_for_it() {
    let (mut f, a) = Bench::stable();
    let (_, mut joined) = f.begin("b");
    assert!(joined.try_recv().is_err());
    assert_eq!(f.groups.leave(f.now, "g", &a, None), ErrorCode::NONE);
    assert_eq!(joined.try_recv().unwrap().members.len(), 1);
    assert_eq!(f.groups.leave(f.now, "g", &a, None), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn an_id_that_was_only_asked_for_blocks_until_its_session_ends() {
    let (mut f, a) = Bench::stable();
    let pending = f.send(join("b", "")).try_recv().unwrap().member_id;
    let mut rejoined = f.send(join("a", &a));
    assert!(rejoined.try_recv().is_err());
    f.after(SESSION);
    assert_eq!(rejoined.try_recv().unwrap().generation, 2);
    let late = f.send(join("b", &pending)).try_recv().unwrap();
    assert_eq!(late.error, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn an_empty_group_gathers_members_for_the_initial_delay() {
    let mut f = Bench::new(Duration::from_secs(3));
    let (_, mut a) = f.begin("a");
    f.after(Duration::from_secs(2));
    let (_, mut b) = f.begin("b");
    f.after(Duration::from_secs(2));
    assert!(a.try_recv().is_err());
    f.after(Duration::from_secs(1));
    assert_eq!((a.try_recv().unwrap().generation, b.try_recv().unwrap().generation), (1, 1));
}

#[test]
fn protocols_must_be_shared_and_are_voted_for() {
    let (mut f, a) = Bench::stable();
    let mut other = join("b", "");
    other.protocols = vec![("sticky".into(), Bytes::new())];
    let refused = f.send(other.clone()).try_recv().unwrap();
    assert_eq!(refused.error, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let mut again = join("a", &a);
    again.protocols = vec![("sticky".into(), Bytes::new()), ("range".into(), Bytes::new())];
    assert_eq!(f.send(again).try_recv().unwrap().protocol.as_deref(), Some("sticky"));
    other.protocol_type = "connect".into();
    assert_eq!(f.send(other).try_recv().unwrap().error, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
}

#[test]
fn bad_joins_are_refused() {
    let mut f = Bench::new(Duration::ZERO);
    let short = Join { session_timeout: Duration::from_secs(1), ..join("a", "") };
    assert_eq!(f.send(short).try_recv().unwrap().error, ErrorCode::INVALID_SESSION_TIMEOUT);
    let stranger = f.send(join("a", "who")).try_recv().unwrap();
    assert_eq!(stranger.error, ErrorCode::UNKNOWN_MEMBER_ID);
    let (reply, mut joined) = oneshot::channel();
    f.groups.join(f.now, Str::new(), join("a", ""), String::new, reply);
    assert_eq!(joined.try_recv().unwrap().error, ErrorCode::INVALID_GROUP_ID);
}

#[test]
fn a_static_member_returns_without_rebalance_and_fences_its_former_self() {
    let mut f = Bench::new(Duration::ZERO);
    let first = f.send(static_join("i")).try_recv().unwrap();
    assert_eq!((first.error, first.generation), (ErrorCode::NONE, 1));
    let old = first.member_id;
    assert!(f.sync(&old, 1, &[(&old, "mine")]).try_recv().is_ok());
    let again = f.send(static_join("i")).try_recv().unwrap();
    assert_eq!((again.generation, again.skip_assignment, again.member_id == old), (1, true, false));
    let synced = f.sync(&again.member_id, 1, &[]).try_recv().unwrap();
    assert_eq!(&synced.assignment[..], b"mine");
    let fenced = Caller { member_id: &old, instance_id: Some("i"), generation: 1 };
    assert_eq!(f.groups.heartbeat(f.now, "g", &fenced), ErrorCode::FENCED_INSTANCE_ID);
    assert_eq!(f.groups.leave(f.now, "g", "", Some("i")), ErrorCode::NONE);
    assert_eq!(f.phase(), Phase::Empty);
}

#[test]
fn a_new_coordinator_knows_the_last_stable_generation() {
    let (mut f, a) = Bench::stable();
    let (_, mut b) = f.begin("b");
    let from = f.groups.coordinator("g");
    let to = (from + 1) % 3;
    f.groups.node_died(from, Some(to), f.now);
    assert_eq!(f.groups.coordinator("g"), to);
    // The waiting join is dropped, which the driver answers with NOT_COORDINATOR.
    assert!(matches!(b.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    assert_eq!((f.phase(), f.heartbeat(&a, 1)), (Phase::Stable, ErrorCode::NONE));
    f.groups.node_died(to, None, f.now);
    f.after(SESSION * 2);
    assert_eq!(f.phase(), Phase::Stable);
    f.groups.node_returned(to, f.now);
    f.after(SESSION);
    assert_eq!(f.phase(), Phase::Empty);
}

#[test]
fn commits_need_membership_or_an_empty_group() {
    let mut f = Bench::new(Duration::ZERO);
    let group: Str = "g".into();
    let none = caller("", -1);
    assert_eq!(f.groups.admit_commit(f.now, &group, &caller("x", 3)), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(f.groups.admit_commit(f.now, &group, &none), ErrorCode::NONE);
    f.groups.commit("g", "t".into(), 0, Committed { offset: 5, leader_epoch: -1, ..Default::default() });
    let (a, mut joined) = f.begin("a");
    assert!(joined.try_recv().is_ok());
    assert_eq!(f.groups.admit_commit(f.now, &group, &none), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(f.groups.delete("g"), ErrorCode::NON_EMPTY_GROUP);
    assert_eq!(f.groups.leave(f.now, "g", &a, None), ErrorCode::NONE);
    assert_eq!(f.groups.get("g").unwrap().offsets.len(), 1);
    f.groups.topic_deleted("t");
    assert_eq!(f.groups.get("g").unwrap().offsets.len(), 0);
    assert_eq!(
        (f.groups.delete("g"), f.groups.delete("g")),
        (ErrorCode::NONE, ErrorCode::GROUP_ID_NOT_FOUND)
    );
}

#[test]
fn groups_that_nobody_needs_are_forgotten() {
    let (mut f, a) = Bench::stable();
    f.groups.commit("g", "t".into(), 0, Committed { offset: 5, leader_epoch: -1, ..Default::default() });
    assert_eq!(f.groups.leave(f.now, "g", &a, None), ErrorCode::NONE);
    f.after(Settings::default().offsets_retention - SESSION);
    // A commit from outside counts as life.
    assert_eq!(f.groups.admit_commit(f.now, &"g".into(), &caller("", -1)), ErrorCode::NONE);
    f.after(Settings::default().offsets_retention - SESSION);
    assert!(f.groups.get("g").is_some());
    f.after(SESSION);
    assert!(f.groups.get("g").is_none() && f.groups.next_deadline().is_none());

    let (mut f, a) = Bench::stable();
    assert_eq!(f.groups.leave(f.now, "g", &a, None), ErrorCode::NONE);
    f.after(EXPIRY_CHECK);
    assert!(f.groups.get("g").is_none(), "nothing is committed");
}

#[test]
fn ids_that_fit_into_no_key_are_refused() {
    let mut f = Bench::new(Duration::ZERO);
    let long = Str::from("x".repeat(ID_MAX + 1));
    assert_eq!(f.groups.admit_commit(f.now, &long, &caller("", -1)), ErrorCode::UNKNOWN_SERVER_ERROR);
    let (reply, mut joined) = oneshot::channel();
    f.groups.join(f.now, long, join("a", ""), String::new, reply);
    assert_eq!(joined.try_recv().unwrap().error, ErrorCode::UNKNOWN_SERVER_ERROR);
}
