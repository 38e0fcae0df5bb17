//! Machine: the connections of a client: per node and [`Duty`] at most one, opened when first needed.
//!
//! ```text
//!   Vacant ──acquire──▶ Opening ──opened──▶ Open ──lost, idle──▶ Vacant
//!     ▲                    └─────failed (node backs off)──────────┘
//! ```
//!
//! Back-off belongs to the node: every duty waits for it, and an open connection of another duty is not held up.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::Phase;
use crate::net::{Connection, Failure, Peer};
use crate::types::NodeId;
use crate::{Error, ErrorKind};

use super::metadata::Node;

/// Longest time that a single address gets to answer, after failures doubled it.
const SETUP_TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// How long a node that left the cluster, or lives elsewhere now, has to answer what it was asked.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a connection is for. A broker answers a connection in order and mutes it meanwhile, so what may wait long never
/// shares one with what must be quick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Duty {
    /// Produce requests of all producers that give brokers as much time as the client does.
    Produce,
    /// Those of one producer that gives them less: what it does not wait for any more ends the connection, and would end the
    /// requests of the others with it.
    HastyProduce(u64),
    /// What is answered from memory at once: metadata, coordinators, descriptions.
    Short,
    /// Heartbeats of all memberships, and their end: a membership must not depend on what anything else waits for.
    Heartbeat,
    /// One fetch session.
    Fetch(u64),
    /// JoinGroup and SyncGroup of one membership, and long polls of its kind.
    Group(u64),
    /// What waits for a log, a controller, a disk or remote storage: operations of one admin handle, commits of one
    /// membership, look-ups of one reader, producer ids of one producer.
    Slow(u64),
    /// Requests of the `kafka-protocol` crate, whatever they are.
    #[cfg(feature = "kafka-protocol")]
    Foreign,
}

#[derive(Debug, Default)]
enum SlotState {
    #[default]
    Vacant,
    Opening,
    Open(Connection),
}

#[derive(Debug, Default)]
struct Slot {
    state: SlotState,
    /// Number of attempts that were begun.
    attempt: u64,
    /// The latest attempt that failed.
    failed: Option<(u64, Failure)>,
}

#[derive(Debug)]
struct NodeState {
    peer: Peer,
    /// Attempts in a row that failed.
    failures: u32,
    retry_at: Option<Instant>,
    /// The latest failure, until a connection is opened: the reason behind every deadline that passes.
    latest: Option<Failure>,
    slots: BTreeMap<Duty, Slot>,
}

impl NodeState {
    fn new(peer: Peer) -> Self {
        Self { peer, failures: 0, retry_at: None, latest: None, slots: BTreeMap::new() }
    }

    fn is_backing_off(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| now < at)
    }

    fn is_dialled(&self) -> bool {
        self.slots.values().any(|slot| matches!(slot.state, SlotState::Opening))
    }

    /// Gives all connections up, each with `end`.
    fn close(&mut self, end: impl Fn(&Connection)) {
        for slot in self.slots.values_mut() {
            if let SlotState::Open(connection) = &slot.state {
                end(connection);
            }
            slot.state = SlotState::Vacant;
        }
    }
}

/// An attempt that the driver has to make.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) node: NodeId,
    pub(super) duty: Duty,
    pub(super) number: u64,
    pub(super) peer: Peer,
    pub(super) setup_timeout: Duration,
}

/// Answer to someone who needs a connection.
#[derive(Debug)]
pub(super) enum Acquired {
    Ready(Connection),
    /// Make this attempt, then wait.
    Open(Attempt),
    /// Wait until something changes.
    Wait,
    /// Wait until the node's back-off is over.
    WaitUntil(Instant),
    /// The attempt that was waited for failed.
    Failed(Failure, Peer),
    /// There is no such node (any more).
    Unknown,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: BTreeMap<NodeId, NodeState>,
    backoff: Backoff,
    setup_timeout: Duration,
}

impl Nodes {
    /// Begins with the bootstrap list, whose entries get negative ids.
    pub(super) fn new(bootstrap: &[(String, u16)], backoff: Backoff, setup_timeout: Duration) -> Self {
        let nodes = (1i32..)
            .zip(bootstrap)
            .map(|(index, (host, port))| (NodeId(-index), NodeState::new(Peer::new(None, host, *port))))
            .collect();
        Self { nodes, backoff, setup_timeout }
    }

    /// A connection to `id` for `duty`. `waiting` belongs to the caller, begins as `None`, and makes sure that it waits
    /// for one attempt, not for ever.
    pub(super) fn acquire(
        &mut self,
        now: Instant,
        id: NodeId,
        duty: Duty,
        waiting: &mut Option<u64>,
    ) -> Acquired {
        let Some(node) = self.nodes.get_mut(&id) else { return Acquired::Unknown };
        let slot = node.slots.entry(duty).or_default();
        if let SlotState::Open(connection) = &slot.state {
            if !connection.is_closed() {
                return Acquired::Ready(connection.clone());
            }
            slot.state = SlotState::Vacant;
        }
        if let (Some(waited), Some((attempt, failure))) = (*waiting, &slot.failed)
            && *attempt >= waited
        {
            return Acquired::Failed(failure.clone(), node.peer.clone());
        }
        if let SlotState::Opening = slot.state {
            waiting.get_or_insert(slot.attempt);
            return Acquired::Wait;
        }
        if let Some(at) = node.retry_at
            && now < at
        {
            return Acquired::WaitUntil(at);
        }
        slot.attempt += 1;
        slot.state = SlotState::Opening;
        waiting.get_or_insert(slot.attempt);
        let factor = 2u32.saturating_pow(node.failures.min(4));
        Acquired::Open(Attempt {
            node: id,
            duty,
            number: slot.attempt,
            peer: node.peer.clone(),
            setup_timeout: (self.setup_timeout * factor).min(SETUP_TIMEOUT_MAX.max(self.setup_timeout)),
        })
    }

    /// An attempt has ended.
    pub(super) fn handle_opened(
        &mut self,
        now: Instant,
        attempt: &Attempt,
        result: Result<Connection, Failure>,
        dice: u64,
    ) {
        let node = self.nodes.get_mut(&attempt.node).filter(|node| node.peer == attempt.peer);
        let Some(node) = node else {
            // The node went away or moved meanwhile.
            if let Ok(connection) = result {
                connection.close();
            }
            return;
        };
        let backing_off = node.is_backing_off(now);
        match result {
            Ok(connection) => {
                node.failures = 0;
                node.retry_at = None;
                node.latest = None;
                match node.slots.get_mut(&attempt.duty).filter(|slot| slot.attempt == attempt.number) {
                    Some(slot) => slot.state = SlotState::Open(connection),
                    // Released meanwhile.
                    None => connection.close(),
                }
            }
            Err(failure) => {
                node.latest = Some(failure.clone());
                // Attempts for several duties that fail together are one failure.
                if !backing_off {
                    node.failures = node.failures.saturating_add(1);
                    node.retry_at = Some(now + self.backoff.delay(node.failures, dice));
                }
                if let Some(slot) =
                    node.slots.get_mut(&attempt.duty).filter(|slot| slot.attempt == attempt.number)
                {
                    slot.state = SlotState::Vacant;
                    slot.failed = Some((attempt.number, failure));
                }
            }
        }
    }

    /// A connection to `id` broke. What it means for the node, if the node is still known.
    pub(super) fn handle_ended(&mut self, id: NodeId, failure: Failure) -> Option<Error> {
        let node = self.nodes.get_mut(&id)?;
        let error = failure.to_error("the connection was lost", &node.peer);
        node.latest = Some(failure);
        Some(error)
    }

    /// The complete list of brokers, from a metadata answer. Connections to nodes that are gone or moved drain. Returns
    /// those nodes.
    pub(super) fn handle_nodes(&mut self, now: Instant, nodes: &BTreeMap<NodeId, Node>) -> Vec<NodeId> {
        let mut ended = Vec::new();
        self.nodes.retain(|id, state| {
            let keep = id.0 < 0 || nodes.contains_key(id);
            if !keep {
                state.close(|connection| connection.close_by(now + FAREWELL));
                ended.push(*id);
            }
            keep
        });
        for node in nodes.values() {
            if self.learn(now, node.id, &node.host, node.port) {
                ended.push(node.id);
            }
        }
        ended
    }

    /// The address of one node, from wherever; true if it had another.
    pub(super) fn learn(&mut self, now: Instant, id: NodeId, host: &str, port: u16) -> bool {
        match self.nodes.get_mut(&id) {
            Some(state) if *state.peer.host == *host && state.peer.port == port => false,
            Some(state) => {
                state.close(|connection| connection.close_by(now + FAREWELL));
                *state = NodeState::new(Peer::new(Some(id), host, port));
                true
            }
            None => {
                self.nodes.insert(id, NodeState::new(Peer::new(Some(id), host, port)));
                false
            }
        }
    }

    /// Closes the connections of `duty`, which has ended.
    pub(super) fn release(&mut self, duty: Duty) {
        for node in self.nodes.values_mut() {
            if let Some(Slot { state: SlotState::Open(connection), .. }) = node.slots.remove(&duty) {
                connection.close();
            }
        }
    }

    /// Closes everything.
    pub(super) fn close(&mut self) {
        self.nodes.values_mut().for_each(|node| node.close(Connection::close));
    }

    /// The open connection for short requests with the fewest requests in flight; nodes of the bootstrap list only
    /// where no other is open, and none that is at the address of one of `avoid`.
    pub(super) fn least_loaded(
        &self,
        avoid: &[NodeId],
        bootstrap_only: bool,
    ) -> Option<(NodeId, Connection)> {
        self.nodes
            .iter()
            .filter(|(id, node)| !self.is_one_of(avoid, **id, node) && (!bootstrap_only || id.0 < 0))
            .filter_map(|(id, node)| match &node.slots.get(&Duty::Short)?.state {
                SlotState::Open(connection) if !connection.is_closed() => Some((*id, connection)),
                _ => None,
            })
            .min_by_key(|(id, connection)| (id.0 < 0, connection.in_flight()))
            .map(|(id, connection)| (id, connection.clone()))
    }

    /// The connection to `id` for `duty`, if it is open.
    pub(super) fn open_connection(&self, id: NodeId, duty: Duty) -> Option<Connection> {
        match &self.nodes.get(&id)?.slots.get(&duty)?.state {
            SlotState::Open(connection) if !connection.is_closed() => Some(connection.clone()),
            _ => None,
        }
    }

    /// A node worth dialling that is not in `tried`; which one is up to `dice`. The bootstrap list helps out where no
    /// known node works (KIP-899).
    pub(super) fn candidate(
        &self,
        now: Instant,
        tried: &[NodeId],
        bootstrap_only: bool,
        dice: u64,
    ) -> Option<NodeId> {
        let known_work = self.nodes.iter().any(|(id, node)| id.0 >= 0 && node.failures == 0);
        let open: Vec<_> = (self.nodes.iter())
            .filter(|(id, node)| !self.is_one_of(tried, **id, node) && !node.is_backing_off(now))
            .filter(|(id, _)| if bootstrap_only { id.0 < 0 } else { id.0 >= 0 || !known_work })
            .map(|(id, node)| (node.failures, *id))
            .collect();
        let fewest = open.iter().map(|(failures, _)| *failures).min()?;
        let best: Vec<_> = open.iter().filter(|(failures, _)| *failures == fewest).collect();
        let index = usize::try_from(dice % best.len() as u64).ok()?;
        best.get(index).map(|(_, id)| *id)
    }

    /// True if `node` is one of `ids`, or lives at the address of one: an entry of the bootstrap list is one of the nodes.
    fn is_one_of(&self, ids: &[NodeId], id: NodeId, node: &NodeState) -> bool {
        ids.iter().any(|other| {
            let lives_at =
                |other: &NodeState| other.peer.host == node.peer.host && other.peer.port == node.peer.port;
            *other == id || self.nodes.get(other).is_some_and(lives_at)
        })
    }

    /// Why there is no connection to `id`, or to any node, for someone whose deadline passed: the latest failure, or else
    /// who has not answered yet.
    pub(super) fn reason(&self, id: Option<NodeId>) -> Option<Error> {
        let concerned =
            || self.nodes.iter().filter(|(node, _)| id.is_none_or(|id| id == **node)).map(|(_, node)| node);
        let failed =
            concerned().find_map(|node| Some(node.latest.as_ref()?.to_error("no connection", &node.peer)));
        if failed.is_some() {
            return failed;
        }
        let silent: Vec<_> =
            concerned().filter(|node| node.is_dialled()).map(|node| node.peer.to_string()).collect();
        if silent.is_empty() {
            return None;
        }
        let message =
            format!("still waiting for {}, to accept a connection or to answer on it", silent.join(", "));
        let hint = "is a firewall in between, or does the listener expect TLS, or belong to something other than Kafka?";
        Some(Error::new(ErrorKind::Timeout, message).with_phase(Phase::Connect).with_advice(hint))
    }

    /// When the first back-off ends.
    pub(super) fn next_retry(&self, now: Instant) -> Option<Instant> {
        self.nodes.values().filter_map(|node| node.retry_at).filter(|at| *at > now).min()
    }

    #[cfg(test)]
    fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.nodes.get(&id).map(|node| &node.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(50), max: Duration::from_secs(5), jitter: 0.0 };
    const ONE: NodeId = NodeId(1);

    fn failure() -> Failure {
        Failure::new(ErrorKind::Network, Phase::Connect, "refused")
    }

    fn nodes() -> (Nodes, Instant) {
        let mut nodes = Nodes::new(&[("a".into(), 1), ("b".into(), 2)], BACKOFF, Duration::from_secs(10));
        let now = Instant::now();
        nodes.learn(now, ONE, "one", 9092);
        (nodes, now)
    }

    fn attempt(acquired: Acquired) -> Attempt {
        match acquired {
            Acquired::Open(attempt) => attempt,
            other => panic!("expected an attempt, got {other:?}"),
        }
    }

    #[test]
    fn one_attempt_serves_all_who_wait_and_its_failure_backs_the_node_off() {
        let (mut nodes, now) = nodes();
        let (mut first, mut second, mut later) = (None, None, None);
        let opening = attempt(nodes.acquire(now, ONE, Duty::Short, &mut first));
        assert!(matches!(nodes.acquire(now, ONE, Duty::Short, &mut second), Acquired::Wait));
        // Another duty of the same node dials beside it, and both failing counts once.
        let produce = attempt(nodes.acquire(now, ONE, Duty::Produce, &mut None));
        nodes.handle_opened(now, &opening, Err(failure()), 0);
        nodes.handle_opened(now, &produce, Err(failure()), 0);
        assert!(matches!(nodes.acquire(now, ONE, Duty::Short, &mut first), Acquired::Failed(..)));
        assert!(matches!(nodes.acquire(now, ONE, Duty::Short, &mut second), Acquired::Failed(..)));
        let Acquired::WaitUntil(at) = nodes.acquire(now, ONE, Duty::Short, &mut later) else { panic!() };
        assert_eq!(at, now + Duration::from_millis(50));
        assert_eq!(nodes.next_retry(now), Some(at));
        let again = attempt(nodes.acquire(at, ONE, Duty::Short, &mut later));
        assert_eq!(again.setup_timeout, Duration::from_secs(20));
        nodes.handle_opened(at, &again, Err(failure()), 0);
        let Acquired::WaitUntil(next) = nodes.acquire(at, ONE, Duty::Short, &mut None) else { panic!() };
        assert_eq!(next, at + Duration::from_millis(100));
    }

    #[test]
    fn a_node_that_moves_is_dialled_anew_and_one_that_leaves_is_unknown() {
        let (mut nodes, now) = nodes();
        let opening = attempt(nodes.acquire(now, ONE, Duty::Short, &mut None));
        nodes.learn(now, ONE, "elsewhere", 9092);
        nodes.handle_opened(now, &opening, Err(failure()), 0);
        assert_eq!(nodes.next_retry(now), None, "the failure concerned the old address");
        assert_eq!(&*attempt(nodes.acquire(now, ONE, Duty::Short, &mut None)).peer.host, "elsewhere");
        nodes.handle_nodes(now, &BTreeMap::new());
        assert!(matches!(nodes.acquire(now, ONE, Duty::Short, &mut None), Acquired::Unknown));
        assert!(nodes.peer(NodeId(-1)).is_some(), "the bootstrap list stays");
    }

    #[test]
    fn the_bootstrap_list_helps_out_when_no_known_node_works() {
        let (mut nodes, now) = nodes();
        for dice in 0..4 {
            assert_eq!(nodes.candidate(now, &[], false, dice), Some(ONE));
            assert!(nodes.candidate(now, &[], true, dice).unwrap().0 < 0);
        }
        assert_eq!(nodes.candidate(now, &[ONE], false, 0), None);
        let opening = attempt(nodes.acquire(now, ONE, Duty::Short, &mut None));
        nodes.handle_opened(now, &opening, Err(failure()), 0);
        let both: std::collections::BTreeSet<_> =
            (0..4).filter_map(|dice| nodes.candidate(now, &[], false, dice)).collect();
        assert_eq!(both, [NodeId(-2), NodeId(-1)].into());
        assert_eq!(nodes.candidate(now, &[NodeId(-1), NodeId(-2)], false, 0), None, "node 1 backs off");
    }
}
