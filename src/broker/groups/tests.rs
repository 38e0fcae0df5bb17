//! Tests of the group machine on made-up time.

use super::*;

const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(60);

struct Bench {
    groups: Groups,
    now: Instant,
    ids: u32,
    told: BTreeMap<Ticket, Output>,
}

impl Bench {
    fn new(initial_delay: Duration) -> Self {
        let settings =
            Settings { group_initial_rebalance_delay: initial_delay, nodes: 3, ..Settings::default() };
        Self { groups: Groups::new(&settings), now: Instant::now(), ids: 0, told: BTreeMap::new() }
    }

    fn send(&mut self, join: Join) -> Ticket {
        let ticket = self.groups.ticket();
        self.ids += 1;
        let id = self.ids;
        self.groups.join(self.now, "g".into(), join, || id.to_string(), ticket);
        ticket
    }

    /// The answer to `ticket`, if there is one; it is there once.
    fn told(&mut self, ticket: Ticket) -> Option<Output> {
        while let Some(output) = self.groups.poll_output() {
            assert!(self.told.insert(output.ticket(), output).is_none(), "answered twice");
        }
        self.told.remove(&ticket)
    }

    fn joined(&mut self, ticket: Ticket) -> Option<Joined> {
        match self.told(ticket)? {
            Output::Joined(_, joined) => Some(joined),
            other => panic!("{other:?}"),
        }
    }

    fn synced(&mut self, ticket: Ticket) -> Option<Synced> {
        match self.told(ticket)? {
            Output::Synced(_, synced) => Some(synced),
            other => panic!("{other:?}"),
        }
    }

    /// A join that is answered at once.
    fn ask(&mut self, join: Join) -> Joined {
        let ticket = self.send(join);
        self.joined(ticket).unwrap()
    }

    /// Joins with the two steps of KIP-394, leaving the second one open.
    fn begin(&mut self, client: &str) -> (Str, Ticket) {
        let first = self.ask(join(client, ""));
        assert_eq!(first.error, ErrorCode::MEMBER_ID_REQUIRED);
        let id = first.member_id;
        (id.clone(), self.send(join(client, &id)))
    }

    fn sync(&mut self, id: &str, generation: i32, assign: &[(&Str, &'static str)]) -> Ticket {
        let ticket = self.groups.ticket();
        let assignments =
            assign.iter().map(|(id, what)| ((*id).clone(), Bytes::from_static(what.as_bytes()))).collect();
        let protocol = (Some("consumer"), Some("range"));
        self.groups.sync(self.now, "g", &caller(id, generation), protocol, assignments, ticket);
        ticket
    }

    /// A sync that is answered at once.
    fn assigned(&mut self, id: &str, generation: i32, assign: &[(&Str, &'static str)]) -> Synced {
        let ticket = self.sync(id, generation, assign);
        self.synced(ticket).unwrap()
    }

    /// A group of one stable member; its id.
    fn stable() -> (Self, Str) {
        let mut f = Self::new(Duration::ZERO);
        let (a, joined) = f.begin("a");
        assert_eq!(f.joined(joined).unwrap().generation, 1);
        let synced = f.assigned(&a, 1, &[(&a, "all")]);
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
    let (b, b_joined) = f.begin("b");
    assert_eq!(f.heartbeat(&a, 1), ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(f.joined(b_joined), None);
    let a_joined = f.ask(join("a", &a));
    let b_joined = f.joined(b_joined).unwrap();
    assert_eq!((a_joined.generation, &a_joined.leader, a_joined.members.len()), (2, &a, 2));
    assert_eq!(
        (b_joined.generation, b_joined.protocol.as_deref(), b_joined.members.len()),
        (2, Some("range"), 0)
    );
    let b_synced = f.sync(&b, 2, &[]);
    assert_eq!(f.synced(b_synced), None);
    assert_eq!(f.groups.admit_commit(f.now, &"g".into(), &caller(&a, 2)), ErrorCode::REBALANCE_IN_PROGRESS);
    let a_synced = f.assigned(&a, 2, &[(&a, "first"), (&b, "second")]);
    assert_eq!(&a_synced.assignment[..], b"first");
    assert_eq!(&f.synced(b_synced).unwrap().assignment[..], b"second");
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
    let (b, joined) = f.begin("b");
    for _ in 0..7 {
        f.after(Duration::from_secs(8));
        assert_eq!(f.heartbeat(&a, 1), ErrorCode::REBALANCE_IN_PROGRESS);
    }
    f.after(Duration::from_secs(4));
    let joined = f.joined(joined).unwrap();
    assert_eq!((joined.generation, &joined.leader, joined.members.len()), (2, &b, 1));
    assert_eq!(f.heartbeat(&a, 1), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_member_that_does_not_sync_is_out_after_the_rebalance_timeout() {
    let mut f = Bench::new(Duration::ZERO);
    let (a, joined) = f.begin("a");
    assert!(f.joined(joined).is_some());
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
    let (_, joined) = f.begin("b");
    assert_eq!(f.joined(joined), None);
    assert_eq!(f.groups.leave(f.now, "g", &a, None), ErrorCode::NONE);
    assert_eq!(f.joined(joined).unwrap().members.len(), 1);
    assert_eq!(f.groups.leave(f.now, "g", &a, None), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn an_id_that_was_only_asked_for_blocks_until_its_session_ends() {
    let (mut f, a) = Bench::stable();
    let pending = f.ask(join("b", "")).member_id;
    let rejoined = f.send(join("a", &a));
    assert_eq!(f.joined(rejoined), None);
    f.after(SESSION);
    assert_eq!(f.joined(rejoined).unwrap().generation, 2);
    let late = f.ask(join("b", &pending));
    assert_eq!(late.error, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn an_empty_group_gathers_members_for_the_initial_delay() {
    let mut f = Bench::new(Duration::from_secs(3));
    let (_, a) = f.begin("a");
    f.after(Duration::from_secs(2));
    let (_, b) = f.begin("b");
    f.after(Duration::from_secs(2));
    assert_eq!(f.joined(a), None);
    f.after(Duration::from_secs(1));
    assert_eq!((f.joined(a).unwrap().generation, f.joined(b).unwrap().generation), (1, 1));
}

#[test]
fn protocols_must_be_shared_and_are_voted_for() {
    let (mut f, a) = Bench::stable();
    let mut other = join("b", "");
    other.protocols = vec![("sticky".into(), Bytes::new())];
    let refused = f.ask(other.clone());
    assert_eq!(refused.error, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let mut again = join("a", &a);
    again.protocols = vec![("sticky".into(), Bytes::new()), ("range".into(), Bytes::new())];
    assert_eq!(f.ask(again).protocol.as_deref(), Some("sticky"));
    other.protocol_type = "connect".into();
    assert_eq!(f.ask(other).error, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
}

#[test]
fn bad_joins_are_refused() {
    let mut f = Bench::new(Duration::ZERO);
    let short = Join { session_timeout: Duration::from_secs(1), ..join("a", "") };
    assert_eq!(f.ask(short).error, ErrorCode::INVALID_SESSION_TIMEOUT);
    let stranger = f.ask(join("a", "who"));
    assert_eq!(stranger.error, ErrorCode::UNKNOWN_MEMBER_ID);
    let ticket = f.groups.ticket();
    f.groups.join(f.now, Str::new(), join("a", ""), String::new, ticket);
    assert_eq!(f.joined(ticket).unwrap().error, ErrorCode::INVALID_GROUP_ID);
}

#[test]
fn a_static_member_returns_without_rebalance_and_fences_its_former_self() {
    let mut f = Bench::new(Duration::ZERO);
    let first = f.ask(static_join("i"));
    assert_eq!((first.error, first.generation), (ErrorCode::NONE, 1));
    let old = first.member_id;
    f.assigned(&old, 1, &[(&old, "mine")]);
    let again = f.ask(static_join("i"));
    assert_eq!((again.generation, again.skip_assignment, again.member_id == old), (1, true, false));
    let synced = f.assigned(&again.member_id, 1, &[]);
    assert_eq!(&synced.assignment[..], b"mine");
    let fenced = Caller { member_id: &old, instance_id: Some("i"), generation: 1 };
    assert_eq!(f.groups.heartbeat(f.now, "g", &fenced), ErrorCode::FENCED_INSTANCE_ID);
    assert_eq!(f.groups.leave(f.now, "g", "", Some("i")), ErrorCode::NONE);
    assert_eq!(f.phase(), Phase::Empty);
}

#[test]
fn a_new_coordinator_knows_the_last_stable_generation() {
    let (mut f, a) = Bench::stable();
    let (_, b) = f.begin("b");
    let from = f.groups.coordinator("g");
    let to = (from + 1) % 3;
    f.groups.node_died(from, Some(to), f.now);
    assert_eq!(f.groups.coordinator("g"), to);
    // What is dropped the driver answers with NOT_COORDINATOR.
    assert_eq!(f.told(b), Some(Output::Dropped(b)));
    assert_eq!((f.phase(), f.heartbeat(&a, 1)), (Phase::Stable, ErrorCode::NONE));
    f.groups.node_died(to, None, f.now);
    f.after(SESSION * 2);
    assert_eq!(f.phase(), Phase::Stable);
    f.groups.node_returned(to, f.now);
    f.after(SESSION);
    assert_eq!(f.phase(), Phase::Empty);
}

#[test]
fn a_member_that_asks_again_is_answered_once() {
    let (mut f, _) = Bench::stable();
    let (b, first) = f.begin("b");
    let second = f.send(join("b", &b));
    assert_eq!(f.told(first), Some(Output::Dropped(first)));
    assert_eq!(f.joined(second), None);
}

#[test]
fn commits_need_membership_or_an_empty_group() {
    let mut f = Bench::new(Duration::ZERO);
    let group: Str = "g".into();
    let none = caller("", -1);
    assert_eq!(f.groups.admit_commit(f.now, &group, &caller("x", 3)), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(f.groups.admit_commit(f.now, &group, &none), ErrorCode::NONE);
    f.groups.commit("g", "t".into(), 0, Committed { offset: 5, leader_epoch: -1, ..Default::default() });
    let (a, joined) = f.begin("a");
    assert!(f.joined(joined).is_some());
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
    let ticket = f.groups.ticket();
    f.groups.join(f.now, long, join("a", ""), String::new, ticket);
    assert_eq!(f.joined(ticket).unwrap().error, ErrorCode::UNKNOWN_SERVER_ERROR);
}
