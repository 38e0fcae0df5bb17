//! Machine: what someone does who needs a connection: use one, wait for one, have one opened, or give up.
//!
//! A search belongs to one caller and is handed in again whenever something changed, until it ends.

use tokio::time::Instant;

use super::{Attempt, ConnectionId, Duty, NodeState, Nodes, Output, SETUP_TIMEOUT_MAX, Slot, Status};
use crate::cluster::troubles::because;
use crate::net::{Failure, Peer};
use crate::types::NodeId;
use crate::{Error, ErrorKind};

/// What to do next.
#[derive(Debug)]
pub(in crate::cluster) enum Step {
    /// Here is one.
    Use(NodeId, ConnectionId),
    /// Ask again when something has changed, and at the instant in any case.
    Wait(Instant),
    /// There is none for this caller.
    Failed(Error),
}

/// The search for a connection to one node.
#[derive(Debug)]
pub(in crate::cluster) struct NodeSearch {
    node: NodeId,
    duty: Duty,
    deadline: Instant,
    waiting: Waiting,
}

/// The first attempt that a caller waited for: it waits for one, not for ever.
type Waiting = Option<ConnectionId>;

impl NodeSearch {
    pub(in crate::cluster) fn new(node: NodeId, duty: Duty, deadline: Instant) -> Self {
        Self { node, duty, deadline, waiting: None }
    }
}

/// The search for a connection for short requests to whichever node is the least busy. One node is dialled, and after a
/// while another beside it.
#[derive(Debug)]
pub(in crate::cluster) struct AnySearch {
    /// Nodes that are asked only if no other can be had at once.
    avoid: Vec<NodeId>,
    deadline: Instant,
    dialled: Vec<(NodeId, Waiting)>,
    failed: Vec<NodeId>,
    /// When the next node is dialled beside those that do not answer.
    next_dial: Option<Instant>,
    last: Option<Error>,
}

impl AnySearch {
    pub(in crate::cluster) fn new(avoid: &[NodeId], deadline: Instant) -> Self {
        Self {
            avoid: avoid.to_vec(),
            deadline,
            dialled: Vec::new(),
            failed: Vec::new(),
            next_dial: None,
            last: None,
        }
    }
}

/// What the driver sees, and the machine does not know.
pub(in crate::cluster) struct Seen<'a> {
    /// The known nodes are distrusted: nodes of the bootstrap list alone are asked.
    pub(in crate::cluster) bootstrap_only: bool,
    /// Requests without an answer on a connection.
    pub(in crate::cluster) load: &'a dyn Fn(ConnectionId) -> usize,
    pub(in crate::cluster) dice: &'a mut dyn FnMut() -> u64,
}

/// What can be had of one node for one duty.
enum Access {
    Ready(ConnectionId),
    /// An attempt is under way.
    Opening,
    /// The node's back-off lasts until then.
    BackingOff(Instant),
    /// The attempt that was waited for failed.
    Failed(Failure, Peer),
    /// There is no such node (any more).
    Unknown,
}

impl Nodes {
    /// The next step of a search for one node: waits for the node's back-off, then for one attempt.
    pub(in crate::cluster) fn plan_node(&mut self, now: Instant, search: &mut NodeSearch) -> Step {
        let until = match self.access(now, search.node, search.duty, &mut search.waiting) {
            Access::Ready(id) => return Step::Use(search.node, id),
            Access::Opening => search.deadline,
            Access::BackingOff(at) => at.min(search.deadline),
            Access::Failed(failure, peer) => return Step::Failed(failure.to_error("no connection", &peer)),
            Access::Unknown => {
                self.outputs.push_back(Output::Refresh);
                let message = format!("node {} is not part of the cluster at the moment", search.node);
                return Step::Failed(Error::new(ErrorKind::Network, message));
            }
        };
        if now < search.deadline {
            return Step::Wait(until);
        }
        let message = format!("no connection to node {} before the deadline", search.node);
        Step::Failed(because(Error::new(ErrorKind::Timeout, message), self.reason(Some(search.node))))
    }

    /// The next step of a search for any node.
    pub(in crate::cluster) fn plan_any(
        &mut self,
        now: Instant,
        search: &mut AnySearch,
        seen: &mut Seen<'_>,
    ) -> Step {
        let until = loop {
            if let Some((node, id)) = self.least_loaded(&search.avoid, seen) {
                return Step::Use(node, id);
            }
            let pending = match self.look_after(now, search) {
                Dialled::Ready(node, id) => return Step::Use(node, id),
                Dialled::Pending => true,
                Dialled::Failed => false,
            };
            if let Some(at) = search.next_dial.filter(|at| pending && now < *at) {
                break at.min(search.deadline);
            }
            let tried: Vec<_> =
                search.avoid.iter().chain(search.dialled.iter().map(|(node, _)| node)).copied().collect();
            match self.candidate(now, &tried, seen.bootstrap_only, &mut seen.dice) {
                Some(node) => {
                    search.dialled.push((node, None));
                    search.next_dial = Some(now + self.dial_stagger);
                }
                // Those to avoid are the only ones, or the others do not answer.
                None if !search.avoid.is_empty() => search.avoid.clear(),
                None if pending => break search.deadline,
                None => match (search.last.take(), self.next_retry(now)) {
                    (Some(error), _) => return Step::Failed(error),
                    (None, Some(at)) => break at.min(search.deadline),
                    (None, None) => {
                        return Step::Failed(Error::new(ErrorKind::Network, "there is no node to ask"));
                    }
                },
            }
        };
        if now < search.deadline {
            return Step::Wait(until);
        }
        let error = Error::new(ErrorKind::Timeout, "no broker could be reached before the deadline");
        Step::Failed(because(error, search.last.take().or_else(|| self.reason(None))))
    }

    /// What has become of the nodes that `search` has dialled.
    fn look_after(&mut self, now: Instant, search: &mut AnySearch) -> Dialled {
        let mut dialled = Dialled::Failed;
        for (node, waiting) in &mut search.dialled {
            if search.failed.contains(node) {
                continue;
            }
            match self.access(now, *node, Duty::Short, waiting) {
                Access::Ready(id) => return Dialled::Ready(*node, id),
                Access::Opening => dialled = Dialled::Pending,
                Access::BackingOff(_) | Access::Unknown => search.failed.push(*node),
                Access::Failed(failure, peer) => {
                    search.last = Some(failure.to_error("no connection", &peer));
                    search.failed.push(*node);
                }
            }
        }
        dialled
    }

    /// A connection to `id` for `duty`, which is opened unless there is a reason not to.
    fn access(&mut self, now: Instant, id: NodeId, duty: Duty, waiting: &mut Waiting) -> Access {
        let Some(node) = self.nodes.get_mut(&id) else { return Access::Unknown };
        let Slot { status, failed } = node.slots.entry(duty).or_default();
        if let Status::Open(id) = *status {
            return Access::Ready(id);
        }
        if let (Some(waited), Some((attempt, failure))) = (*waiting, failed)
            && *attempt >= waited
        {
            return Access::Failed(failure.clone(), node.peer.clone());
        }
        if let Status::Opening(attempt) = *status {
            waiting.get_or_insert(attempt);
            return Access::Opening;
        }
        if let Some(at) = node.retry_at.filter(|at| now < *at) {
            return Access::BackingOff(at);
        }
        self.attempts += 1;
        let attempt = ConnectionId(self.attempts);
        *status = Status::Opening(attempt);
        waiting.get_or_insert(attempt);
        let factor = 2u32.saturating_pow(node.failures.min(4));
        let longest = SETUP_TIMEOUT_MAX.max(self.setup_timeout);
        self.outputs.push_back(Output::Open(Attempt {
            id: attempt,
            node: id,
            duty,
            peer: node.peer.clone(),
            setup_timeout: (self.setup_timeout * factor).min(longest),
        }));
        Access::Opening
    }

    /// The open connection for short requests with the fewest requests in flight; nodes of the bootstrap list only
    /// where no other is open, and none that is at the address of one of `avoid`.
    fn least_loaded(&self, avoid: &[NodeId], seen: &Seen<'_>) -> Option<(NodeId, ConnectionId)> {
        self.nodes
            .iter()
            .filter(|(id, node)| !self.is_one_of(avoid, **id, node) && (!seen.bootstrap_only || id.0 < 0))
            .filter_map(|(id, node)| Some((*id, node.open(Duty::Short)?)))
            .min_by_key(|(id, connection)| (id.0 < 0, (seen.load)(*connection)))
    }

    /// A node worth dialling that is not in `tried`; which one is up to `dice`. The bootstrap list helps out where no
    /// known node works (KIP-899).
    fn candidate(
        &self,
        now: Instant,
        tried: &[NodeId],
        bootstrap_only: bool,
        dice: &mut dyn FnMut() -> u64,
    ) -> Option<NodeId> {
        let known_work = self.nodes.iter().any(|(id, node)| id.0 >= 0 && node.failures == 0);
        let open: Vec<_> = (self.nodes.iter())
            .filter(|(id, node)| !self.is_one_of(tried, **id, node) && !node.is_backing_off(now))
            .filter(|(id, _)| if bootstrap_only { id.0 < 0 } else { id.0 >= 0 || !known_work })
            .map(|(id, node)| (node.failures, *id))
            .collect();
        let dice = dice();
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

    /// When the first back-off ends.
    fn next_retry(&self, now: Instant) -> Option<Instant> {
        self.nodes.values().filter_map(|node| node.retry_at).filter(|at| *at > now).min()
    }
}

/// What has become of the nodes that a search has dialled.
enum Dialled {
    Ready(NodeId, ConnectionId),
    /// One may still answer.
    Pending,
    /// None will.
    Failed,
}
