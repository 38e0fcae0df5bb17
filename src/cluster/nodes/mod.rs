//! Machine: the connections of a client: per node and [`Duty`] at most one, opened when first needed.
//!
//! ```text
//!   Vacant ──wanted──▶ Opening ──opened──▶ Open ──lost, idle──▶ Vacant
//!     ▲                   └─────failed (node backs off)──────────┘
//! ```
//!
//! Back-off belongs to the node: every duty waits for it, and an open connection of another duty is not held up. The
//! connections themselves are the driver's; here they are numbers. [`search`] is what someone does who needs one.

mod search;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::config::ClusterConfig;
use super::metadata::Node;
use crate::backoff::Backoff;
use crate::error::Phase;
use crate::net::{Failure, Peer};
use crate::types::NodeId;
use crate::{Error, ErrorKind};

pub(super) use search::{AnySearch, NodeSearch, Seen, Step};

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

/// Which connection, or attempt to open one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionId(u64);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Vacant,
    Opening(ConnectionId),
    Open(ConnectionId),
}

#[derive(Debug, Default)]
struct Slot {
    status: Status,
    /// The latest attempt that failed.
    failed: Option<(ConnectionId, Failure)>,
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
        self.slots.values().any(|slot| matches!(slot.status, Status::Opening(_)))
    }

    fn open(&self, duty: Duty) -> Option<ConnectionId> {
        match self.slots.get(&duty)?.status {
            Status::Open(id) => Some(id),
            Status::Vacant | Status::Opening(_) => None,
        }
    }

    /// Gives all connections up and names those that were open.
    fn vacate(&mut self) -> impl Iterator<Item = ConnectionId> {
        self.slots.values_mut().filter_map(|slot| match std::mem::take(&mut slot.status) {
            Status::Open(id) => Some(id),
            Status::Vacant | Status::Opening(_) => None,
        })
    }
}

/// An attempt that the driver has to make.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) id: ConnectionId,
    pub(super) node: NodeId,
    pub(super) duty: Duty,
    pub(super) peer: Peer,
    pub(super) setup_timeout: Duration,
}

/// What the driver has to do.
#[derive(Debug)]
pub(super) enum Output {
    /// Make this attempt, and say how it ended.
    Open(Attempt),
    /// Send nothing more over this connection. What has no answer at the instant fails; without one, all are waited for.
    Close(ConnectionId, Option<Instant>),
    /// This node was reached.
    Reached(NodeId),
    /// This node was not reached, or did not answer.
    Unreached(NodeId, Error),
    /// Nobody answers for what this node coordinated.
    Abandoned(NodeId),
    /// This node left the cluster, or lives elsewhere now.
    Gone(NodeId),
    /// What is known of the cluster is in doubt.
    Refresh,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: BTreeMap<NodeId, NodeState>,
    outputs: VecDeque<Output>,
    /// Number of attempts that were begun.
    attempts: u64,
    /// The client was closed.
    closed: bool,
    backoff: Backoff,
    setup_timeout: Duration,
    dial_stagger: Duration,
}

impl Nodes {
    /// Begins with the bootstrap list, whose entries get negative ids.
    pub(super) fn new(config: &ClusterConfig) -> Self {
        let nodes = (1i32..)
            .zip(&config.bootstrap)
            .map(|(index, (host, port))| (NodeId(-index), NodeState::new(Peer::new(None, host, *port))))
            .collect();
        Self {
            nodes,
            outputs: VecDeque::new(),
            attempts: 0,
            closed: false,
            backoff: config.reconnect_backoff,
            setup_timeout: config.connection.setup_timeout,
            dial_stagger: config.dial_stagger,
        }
    }

    /// What is to be done.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// An attempt has ended. If a connection came of it, the driver has it under the attempt's number.
    pub(super) fn handle_opened(
        &mut self,
        now: Instant,
        attempt: &Attempt,
        result: Result<(), Failure>,
        dice: u64,
    ) {
        let closed = self.closed;
        let node = self.nodes.get_mut(&attempt.node).filter(|node| node.peer == attempt.peer && !closed);
        let Some(node) = node else {
            // The node went away or moved meanwhile.
            if result.is_ok() {
                self.outputs.push_back(Output::Close(attempt.id, None));
            }
            return;
        };
        let backing_off = node.is_backing_off(now);
        let slot = node.slots.get_mut(&attempt.duty);
        let slot = slot.filter(|slot| slot.status == Status::Opening(attempt.id));
        match result {
            Ok(()) => {
                node.failures = 0;
                node.retry_at = None;
                node.latest = None;
                match slot {
                    Some(slot) => slot.status = Status::Open(attempt.id),
                    // Released meanwhile.
                    None => self.outputs.push_back(Output::Close(attempt.id, None)),
                }
                self.outputs.push_back(Output::Reached(attempt.node));
            }
            Err(failure) => {
                let error = failure.to_error("no connection", &node.peer);
                if let Some(slot) = slot {
                    slot.status = Status::Vacant;
                    slot.failed = Some((attempt.id, failure.clone()));
                }
                node.latest = Some(failure);
                // Attempts for several duties that fail together are one failure.
                if !backing_off {
                    node.failures = node.failures.saturating_add(1);
                    node.retry_at = Some(now + self.backoff.delay(node.failures, dice));
                }
                self.outputs.push_back(Output::Abandoned(attempt.node));
                self.outputs.push_back(Output::Unreached(attempt.node, error));
            }
        }
    }

    /// The connection `id` to `node` is over.
    pub(super) fn handle_ended(&mut self, node: NodeId, id: ConnectionId, failure: Failure) {
        self.handle_closed(node, id);
        if !failure.alarming || self.closed {
            return;
        }
        let Some(state) = self.nodes.get_mut(&node) else {
            return self.doubt(node);
        };
        let error = failure.to_error("the connection was lost", &state.peer);
        state.latest = Some(failure);
        if error.is_timeout() {
            // Nobody there, as far as one can tell from here.
            self.outputs.push_back(Output::Unreached(node, error));
        } else {
            self.doubt(node);
        }
    }

    /// A broker that goes away usually takes leaders with it.
    fn doubt(&mut self, node: NodeId) {
        if node.0 >= 0 {
            self.outputs.push_back(Output::Refresh);
        }
    }

    /// The connection `id` to `node` was found to be over, before the news of its end.
    pub(super) fn handle_closed(&mut self, node: NodeId, id: ConnectionId) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        for slot in node.slots.values_mut().filter(|slot| slot.status == Status::Open(id)) {
            slot.status = Status::Vacant;
        }
    }

    /// The complete list of brokers, from a metadata answer. Connections to nodes that are gone or moved drain.
    pub(super) fn handle_nodes(&mut self, now: Instant, nodes: &BTreeMap<NodeId, Node>) {
        let outputs = &mut self.outputs;
        self.nodes.retain(|id, state| {
            let keep = id.0 < 0 || nodes.contains_key(id);
            if !keep {
                give_up(outputs, now, *id, state);
            }
            keep
        });
        for node in nodes.values() {
            self.learn(now, node.id, &node.host, node.port);
        }
    }

    /// The address of one node, from wherever.
    pub(super) fn learn(&mut self, now: Instant, id: NodeId, host: &str, port: u16) {
        let known = self.nodes.entry(id).or_insert_with(|| NodeState::new(Peer::new(Some(id), host, port)));
        if *known.peer.host != *host || known.peer.port != port {
            give_up(&mut self.outputs, now, id, known);
            *known = NodeState::new(Peer::new(Some(id), host, port));
        }
    }

    /// Closes the connections of `duty`, which has ended.
    pub(super) fn release(&mut self, duty: Duty) {
        for node in self.nodes.values_mut() {
            if let Some(Slot { status: Status::Open(id), .. }) = node.slots.remove(&duty) {
                self.outputs.push_back(Output::Close(id, None));
            }
        }
    }

    /// Closes everything, for good.
    pub(super) fn close(&mut self) {
        self.closed = true;
        let open = self.nodes.values_mut().flat_map(NodeState::vacate);
        self.outputs.extend(open.map(|id| Output::Close(id, None)));
    }

    /// Somebody has little time left: what waits for a back-off tries at once, and the next back-offs are short again.
    pub(super) fn hurry(&mut self) {
        for node in self.nodes.values_mut() {
            node.retry_at = None;
            node.failures = node.failures.min(1);
        }
    }

    /// The connection to `id` for `duty`, if it is open.
    pub(super) fn open_connection(&self, id: NodeId, duty: Duty) -> Option<ConnectionId> {
        self.nodes.get(&id)?.open(duty)
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
}

/// A node that is gone, or lives elsewhere: its connections have a moment for their last answers.
fn give_up(outputs: &mut VecDeque<Output>, now: Instant, id: NodeId, state: &mut NodeState) {
    outputs.extend(state.vacate().map(|connection| Output::Close(connection, Some(now + FAREWELL))));
    outputs.push_back(Output::Gone(id));
}

#[cfg(test)]
mod tests;
