use super::*;
use crate::net::ConnectionConfig;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const STAGGER: Duration = Duration::from_millis(250);
/// Longer than anything here waits.
const LONG: Duration = Duration::from_secs(60);

fn failure() -> Failure {
    Failure::new(ErrorKind::Network, Phase::Connect, "refused")
}

/// The machine, a driver that remembers what it was told to do, and the load of its connections.
struct Bench {
    nodes: Nodes,
    now: Instant,
    loads: BTreeMap<ConnectionId, usize>,
    bootstrap_only: bool,
}

impl Bench {
    fn new() -> Self {
        let config = ClusterConfig {
            bootstrap: vec![("a".into(), 1), ("b".into(), 2)],
            connection: ConnectionConfig { setup_timeout: Duration::from_secs(10), ..Default::default() },
            reconnect_backoff: Backoff {
                first: Duration::from_millis(50),
                max: Duration::from_secs(5),
                jitter: 0.0,
            },
            dial_stagger: STAGGER,
            ..Default::default()
        };
        let mut bench = Self {
            nodes: Nodes::new(&config),
            now: Instant::now(),
            loads: BTreeMap::new(),
            bootstrap_only: false,
        };
        bench.nodes.learn(bench.now, ONE, "one", 9092);
        bench
    }

    fn node(&mut self, search: &mut NodeSearch) -> Step {
        self.nodes.plan_node(self.now, search)
    }

    fn any(&mut self, search: &mut AnySearch, dice: u64) -> Step {
        let (bootstrap_only, loads) = (self.bootstrap_only, &self.loads);
        let load = |id: ConnectionId| loads.get(&id).copied().unwrap_or(0);
        let seen = &mut Seen { bootstrap_only, load: &load, dice: &mut || dice };
        self.nodes.plan_any(self.now, search, seen)
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.nodes.poll_output()).collect()
    }

    /// The attempts that are to be made.
    fn attempts(&mut self) -> Vec<Attempt> {
        let open = |output| match output {
            Output::Open(attempt) => Some(attempt),
            _ => None,
        };
        self.outputs().into_iter().filter_map(open).collect()
    }

    /// Has a connection to `node` opened, or one that fails.
    fn dial(&mut self, node: NodeId, duty: Duty, result: Result<(), Failure>) -> ConnectionId {
        let step = self.node(&mut NodeSearch::new(node, duty, self.now + LONG));
        assert!(matches!(step, Step::Wait(_)), "{step:?}");
        let attempt = self.attempts().pop().expect("an attempt");
        self.nodes.handle_opened(self.now, &attempt, result, 0);
        attempt.id
    }
}

#[test]
fn one_attempt_serves_all_who_wait_and_its_failure_backs_the_node_off() {
    let mut bench = Bench::new();
    let start = bench.now;
    let search = |duty| NodeSearch::new(ONE, duty, start + LONG);
    let (mut first, mut second, mut later) = (search(Duty::Short), search(Duty::Short), search(Duty::Short));
    assert!(matches!(bench.node(&mut first), Step::Wait(_)));
    assert!(matches!(bench.node(&mut second), Step::Wait(_)));
    // Another duty of the same node dials beside it, and both failing counts once.
    assert!(matches!(bench.node(&mut search(Duty::Produce)), Step::Wait(_)));
    let attempts = bench.attempts();
    assert_eq!(attempts.iter().map(|attempt| attempt.duty).collect::<Vec<_>>(), [Duty::Short, Duty::Produce]);
    for attempt in &attempts {
        bench.nodes.handle_opened(start, attempt, Err(failure()), 0);
    }
    assert!(matches!(bench.node(&mut first), Step::Failed(_)));
    assert!(matches!(bench.node(&mut second), Step::Failed(_)));
    let Step::Wait(at) = bench.node(&mut later) else { panic!() };
    assert_eq!(at, start + Duration::from_millis(50));
    bench.outputs();
    bench.now = at;
    bench.node(&mut later);
    let again = bench.attempts().pop().expect("an attempt");
    assert_eq!(again.setup_timeout, Duration::from_secs(20));
    bench.nodes.handle_opened(at, &again, Err(failure()), 0);
    let Step::Wait(next) = bench.node(&mut search(Duty::Short)) else { panic!() };
    assert_eq!(next, at + Duration::from_millis(100));
}

#[test]
fn a_node_that_moves_is_dialled_anew_and_one_that_leaves_is_unknown() {
    let mut bench = Bench::new();
    let now = bench.now;
    let search = || NodeSearch::new(ONE, Duty::Short, now + LONG);
    bench.node(&mut search());
    let opening = bench.attempts().pop().expect("an attempt");
    bench.nodes.learn(now, ONE, "elsewhere", 9092);
    assert!(matches!(bench.outputs()[..], [Output::Gone(ONE)]));
    bench.nodes.handle_opened(now, &opening, Err(failure()), 0);
    assert!(bench.outputs().is_empty(), "the failure concerned the old address");
    bench.node(&mut search());
    assert_eq!(&*bench.attempts().pop().expect("an attempt").peer.host, "elsewhere");
    bench.nodes.handle_nodes(now, &BTreeMap::new());
    bench.outputs();
    assert!(matches!(bench.node(&mut search()), Step::Failed(error) if error.kind() == ErrorKind::Network));
    assert!(matches!(bench.outputs()[..], [Output::Refresh]));
    assert!(bench.nodes.nodes.contains_key(&NodeId(-1)), "the bootstrap list stays");
}

#[test]
fn connections_that_nobody_wants_any_more_are_closed() {
    let mut bench = Bench::new();
    let now = bench.now;
    let short = bench.dial(ONE, Duty::Short, Ok(()));
    let fetch = bench.dial(ONE, Duty::Fetch(7), Ok(()));
    bench.outputs();
    bench.nodes.release(Duty::Fetch(7));
    assert!(matches!(bench.outputs()[..], [Output::Close(id, None)] if id == fetch));
    // One that is opened after its owner has ended, also if another owner of the same kind has come.
    bench.node(&mut NodeSearch::new(ONE, Duty::Fetch(7), now + LONG));
    let opening = bench.attempts().pop().expect("an attempt");
    bench.nodes.release(Duty::Fetch(7));
    bench.node(&mut NodeSearch::new(ONE, Duty::Fetch(7), now + LONG));
    bench.outputs();
    bench.nodes.handle_opened(now, &opening, Ok(()), 0);
    assert!(
        matches!(bench.outputs()[..], [Output::Close(id, None), Output::Reached(ONE)] if id == opening.id)
    );
    // A node that moves has a moment for its last answers.
    bench.nodes.learn(now, ONE, "elsewhere", 9092);
    let limit = now + FAREWELL;
    assert!(
        matches!(bench.outputs()[..], [Output::Close(id, Some(at)), Output::Gone(ONE)] if id == short && at == limit)
    );
    let late = bench.dial(ONE, Duty::Short, Ok(()));
    bench.node(&mut NodeSearch::new(ONE, Duty::Produce, now + LONG));
    bench.outputs();
    bench.nodes.close();
    assert!(matches!(bench.outputs()[..], [Output::Close(id, None)] if id == late));
}

#[test]
fn the_end_of_a_connection_says_what_is_in_doubt() {
    let mut bench = Bench::new();
    let short = bench.dial(ONE, Duty::Short, Ok(()));
    bench.outputs();
    bench.nodes.handle_ended(ONE, short, failure().planned());
    assert!(bench.outputs().is_empty() && bench.nodes.open_connection(ONE, Duty::Short).is_none());
    bench.nodes.handle_ended(ONE, short, failure());
    assert!(matches!(bench.outputs()[..], [Output::Refresh]), "leaders may have gone with it");
    let silent = Failure::new(ErrorKind::Timeout, Phase::Request, "no answer");
    bench.nodes.handle_ended(ONE, short, silent);
    assert!(matches!(&bench.outputs()[..], [Output::Unreached(ONE, error)] if error.is_timeout()));
    bench.nodes.handle_ended(NodeId(-1), short, failure());
    assert!(bench.outputs().is_empty(), "bootstrap addresses lead nothing");
    bench.nodes.close();
    bench.nodes.handle_ended(ONE, short, failure());
    assert!(bench.outputs().is_empty(), "nobody cares any more");
}

#[test]
fn the_bootstrap_list_helps_out_when_no_known_node_works() {
    let mut bench = Bench::new();
    // Which node is dialled first, by dice.
    let dialled = |bench: &mut Bench, avoid: &[NodeId], dice| {
        let mut fresh = Bench { nodes: clone(&bench.nodes), loads: BTreeMap::new(), ..*bench };
        fresh.any(&mut AnySearch::new(avoid, bench.now + LONG), dice);
        fresh.attempts().first().map(|attempt| attempt.node)
    };
    for dice in 0..4 {
        assert_eq!(dialled(&mut bench, &[], dice), Some(ONE));
        bench.bootstrap_only = true;
        assert!(dialled(&mut bench, &[], dice).unwrap().0 < 0);
        bench.bootstrap_only = false;
    }
    assert_eq!(dialled(&mut bench, &[ONE], 0), Some(ONE), "there is no other");
    bench.dial(ONE, Duty::Short, Err(failure()));
    bench.outputs();
    let both: std::collections::BTreeSet<_> =
        (0..4).filter_map(|dice| dialled(&mut bench, &[], dice)).collect();
    assert_eq!(both, [NodeId(-2), NodeId(-1)].into());
}

/// A machine in the same state.
fn clone(nodes: &Nodes) -> Nodes {
    let copy = |state: &NodeState| NodeState {
        peer: state.peer.clone(),
        latest: state.latest.clone(),
        slots: state
            .slots
            .iter()
            .map(|(duty, slot)| (*duty, Slot { status: slot.status, failed: slot.failed.clone() }))
            .collect(),
        ..*state
    };
    Nodes {
        nodes: nodes.nodes.iter().map(|(id, state)| (*id, copy(state))).collect(),
        outputs: VecDeque::new(),
        ..*nodes
    }
}

/// How a node is when a search begins.
#[derive(Clone, Copy)]
enum Was {
    /// Nobody has asked for a connection.
    Idle,
    /// A connection with so many requests on it.
    Open(usize),
    /// An attempt is under way.
    Opening,
    /// An attempt has failed a moment ago.
    Failed,
}

/// A case; nodes 1, 2 and so on; whom to avoid; the bootstrap list alone; then what is said, and who is dialled.
type Row = (&'static str, &'static [Was], &'static [i32], bool, &'static str, &'static [i32]);

#[test]
fn the_plan_for_any_node() {
    use Was::{Failed, Idle, Open, Opening};
    let (ms, never) = (Duration::from_millis, &[][..]);
    let backoff = ms(50);
    let rows: &[Row] = &[
        ("the least busy connection", &[Open(3), Open(1)], &[], false, "use 2", never),
        ("an open one rather than a new one", &[Idle, Open(9)], &[], false, "use 2", never),
        ("another than the one to avoid", &[Open(0), Open(9)], &[1], false, "use 2", never),
        ("a new one rather than the one to avoid", &[Open(0), Idle], &[1], false, "wait 250", &[2]),
        ("the one to avoid where there is no other", &[Open(0)], &[1], false, "use 1", never),
        ("the one to avoid where others back off", &[Open(0), Failed], &[1], false, "use 1", never),
        ("one at a time", &[Idle, Idle], &[], false, "wait 250", &[1]),
        ("one that is being dialled anyway", &[Opening], &[], false, "wait 250", never),
        ("the bootstrap list where none works", &[Failed], &[], false, "wait 250", &[-2]),
        ("the bootstrap list where none is trusted", &[Open(0)], &[], true, "wait 250", &[-2]),
        ("one that works rather than one that failed", &[Failed, Idle], &[], false, "wait 250", &[2]),
    ];
    for (what, was, avoid, bootstrap_only, says, dials) in rows {
        let mut bench = Bench::new();
        bench.bootstrap_only = *bootstrap_only;
        for (id, was) in (1..).map(NodeId).zip(*was) {
            bench.nodes.learn(bench.now, id, "host", u16::try_from(id.0).unwrap());
            match was {
                Idle => {}
                Open(load) => {
                    let connection = bench.dial(id, Duty::Short, Ok(()));
                    bench.loads.insert(connection, *load);
                }
                Opening => {
                    bench.node(&mut NodeSearch::new(id, Duty::Short, bench.now + LONG));
                }
                Failed => {
                    bench.dial(id, Duty::Short, Err(failure()));
                }
            }
        }
        bench.outputs();
        let avoid: Vec<_> = avoid.iter().copied().map(NodeId).collect();
        let step = bench.any(&mut AnySearch::new(&avoid, bench.now + LONG), 0);
        assert_eq!(said(&step, bench.now), *says, "{what}");
        let dialled: Vec<_> = bench.attempts().iter().map(|attempt| attempt.node.0).collect();
        assert_eq!(dialled, *dials, "{what}");
    }
    assert!(backoff < STAGGER, "or the rows above say nothing");
}

fn said(step: &Step, now: Instant) -> String {
    match step {
        Step::Use(node, _) => format!("use {node}"),
        Step::Wait(until) => format!("wait {}", (*until - now).as_millis()),
        Step::Failed(error) => format!("failed: {:?}", error.kind()),
    }
}

#[test]
fn a_search_goes_on_beside_a_silent_node_and_ends_with_the_last_failure() {
    let mut bench = Bench::new();
    bench.nodes.learn(bench.now, TWO, "two", 9092);
    let start = bench.now;
    let mut search = AnySearch::new(&[], start + LONG);
    let mut steps = Vec::new();
    let mut open = Vec::new();
    // Nobody answers: one more node after each stagger, while one is left that is worth it.
    for _ in 0..3 {
        let step = bench.any(&mut search, 0);
        steps.push(said(&step, start));
        open.extend(bench.attempts());
        bench.now += STAGGER;
    }
    assert_eq!(steps, ["wait 250", "wait 500", "wait 60000"]);
    assert_eq!(open.iter().map(|attempt| attempt.node).collect::<Vec<_>>(), [ONE, TWO]);
    // Both fail: now the bootstrap list is worth it.
    for attempt in open.drain(..) {
        bench.nodes.handle_opened(bench.now, &attempt, Err(failure()), 0);
    }
    bench.outputs();
    assert!(matches!(bench.any(&mut search, 0), Step::Wait(_)));
    open.extend(bench.attempts());
    bench.now += STAGGER;
    bench.any(&mut search, 0);
    open.extend(bench.attempts());
    assert_eq!(open.iter().map(|attempt| attempt.node.0).collect::<Vec<_>>(), [-2, -1]);
    for attempt in open.drain(..) {
        bench.nodes.handle_opened(bench.now, &attempt, Err(failure()), 0);
    }
    bench.outputs();
    let Step::Failed(error) = bench.any(&mut search, 0) else { panic!("all failed") };
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(bench.attempts().is_empty());
}

#[test]
fn where_all_nodes_back_off_a_search_waits_for_the_first_or_says_why_there_is_none() {
    let mut bench = Bench::new();
    for node in [-2, -1, 1] {
        bench.dial(NodeId(node), Duty::Short, Err(failure()));
    }
    bench.outputs();
    let Step::Wait(at) = bench.any(&mut AnySearch::new(&[], bench.now + LONG), 0) else { panic!() };
    assert_eq!(at - bench.now, Duration::from_millis(50));
    let step = bench.any(&mut AnySearch::new(&[], bench.now), 0);
    let Step::Failed(error) = step else { panic!("{step:?}") };
    assert!(error.is_timeout() && std::error::Error::source(&error).is_some(), "{error}");
}
