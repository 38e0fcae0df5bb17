//! Machine: the state of a cluster, its nodes and what is due between them. Every input carries `now`.
//!
//! * `topics`: topics: how they are created, grow and end, and which nodes know of them.
//! * `append`: the checks that a batch has to pass, and its way into the log of its leader.
//! * `replication`: followers and how far behind they run; `leaders`: nodes that come and go, and who leads then.
//! * `transactions`: what must belong to a transaction, and the markers that end it.
//! * `retention`: how much the logs hold, and what goes when they are full.

mod append;
mod leaders;
mod replication;
mod retention;
mod topics;
mod transactions;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::dynamic_configs::{Owner, TOPIC};
use super::groups::{self, Groups};
use super::replay::Replay;
use super::rights::Rights;
use super::rules::Rules;
use super::sasl::Sasl;
use super::sessions::Sessions;
use super::settings::{Mode, Settings};
use super::transactions::Transactions;
use crate::wire::{Str, Uuid};
use retention::Aged;
use topics::Newcomer;

pub(crate) use append::Append;
#[cfg(test)]
pub(crate) use append::Appended;
pub(crate) use replication::check_epoch;
pub(crate) use topics::{NewTopic, Topic, check_topic_name};
pub(crate) use transactions::{Transactional, offsets_part};

/// One broker of the cluster.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: i32,
    endpoints: Vec<Endpoint>,
    pub(crate) alive: bool,
    /// Since when it does nothing. It counts as alive until its session is over.
    pub(crate) frozen: Option<Instant>,
    pub(crate) sessions: Sessions,
    /// Replication lag of this node's followers where it differs from the cluster's.
    lag: Option<Duration>,
    /// Bytes of this node's logs.
    bytes: usize,
    /// Appended batches, oldest first; some may be gone already.
    age: VecDeque<Aged>,
    prune_age_at: usize,
}

/// Where a node is reached by those who came through one of its listeners.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) host: Str,
    pub(crate) port: u16,
}

impl Node {
    /// For clients of the listener with this index: all nodes have the same listeners.
    pub(crate) fn endpoint(&self, listener: usize) -> &Endpoint {
        &self.endpoints[listener]
    }

    /// Ports of its listeners, in their order.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.endpoints.iter().map(|endpoint| endpoint.port).collect()
    }

    /// Entries of the list by age.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.age.len()
    }
}

/// A step between nodes that is due later.
#[derive(Clone, Debug)]
enum Step {
    Follow {
        topic: Uuid,
        partition: i32,
        node: i32,
        limit: i64,
    },
    ShrinkIfBehind {
        topic: Uuid,
        partition: i32,
        node: i32,
        end: i64,
    },
    /// A node learns of a new topic, and `leads` after so long.
    Learn {
        topic: Uuid,
        node: i32,
        leads: Duration,
    },
    Lead {
        topic: Uuid,
        node: i32,
    },
    /// The session of a node ends that is frozen since then.
    Fence {
        node: i32,
        since: Instant,
    },
    /// Markers of a transaction are written.
    Mark {
        id: Str,
    },
}

/// What the driver has to do.
#[derive(Debug)]
pub(crate) enum Output {
    /// A request with a ticket is answered.
    Group(groups::Output),
    /// To be logged: what was asked for this topic is kept but not done.
    NotCompacted(Str),
}

/// Counters for benches and tests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) records: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
}

/// The state of the whole cluster. One lock guards it; it is never held across an await.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) cluster_id: Str,
    nodes: BTreeMap<i32, Node>,
    topics: BTreeMap<Str, Topic>,
    topic_names: BTreeMap<Uuid, Str>,
    /// Topics by their name as metrics see it, see `collision_key`.
    collisions: BTreeMap<String, Str>,
    pub(crate) groups: Groups,
    pub(crate) transactions: Transactions,
    /// How often a finalized feature has changed.
    pub(crate) features_epoch: i64,
    marker_lag: Duration,
    /// When the next markers of a transactional id are due.
    marking: BTreeMap<Str, Instant>,
    pub(crate) rules: Rules,
    pub(crate) rights: Rights,
    pub(crate) sasl: Sasl,
    /// Settings that were changed while the cluster runs, but those of topics.
    dynamic: BTreeMap<Owner, BTreeMap<String, String>>,
    pub(crate) rng: fastrand::Rng,
    totals: Totals,
    pub(crate) replay: Option<Replay>,
    lag: Duration,
    steps: BTreeMap<(Instant, u64), Step>,
    next_step: u64,
    /// Where the next topic's first replica goes.
    next_leader: usize,
    /// Topics whose setting is to be logged.
    not_compacted: VecDeque<Str>,
}

impl State {
    pub(crate) fn new(settings: Settings, mut rng: fastrand::Rng) -> Self {
        let cluster_id = Str::from(Uuid(rng.u128(..).to_be_bytes()).to_string());
        let lag = settings.replication_lag;
        let groups = Groups::new(&settings);
        let mut sasl = Sasl::new(settings.session_max);
        for (name, password) in &settings.users {
            sasl.users.set(name, password.expose(), &mut rng);
        }
        let transactions = Transactions::new(&settings);
        let marker_lag = settings.transaction_marker_lag;
        let replay = (settings.mode == Mode::Replay).then(Replay::default);
        Self {
            settings,
            cluster_id,
            nodes: BTreeMap::new(),
            topics: BTreeMap::new(),
            topic_names: BTreeMap::new(),
            collisions: BTreeMap::new(),
            groups,
            transactions,
            features_epoch: 1,
            marker_lag,
            marking: BTreeMap::new(),
            rules: Rules::default(),
            rights: Rights::default(),
            sasl,
            dynamic: BTreeMap::new(),
            rng,
            totals: Totals::default(),
            replay,
            lag,
            steps: BTreeMap::new(),
            next_step: 0,
            next_leader: 0,
            not_compacted: VecDeque::new(),
        }
    }

    pub(crate) fn add_node(&mut self, id: i32, endpoints: Vec<Endpoint>) {
        self.nodes.insert(
            id,
            Node {
                id,
                endpoints,
                alive: true,
                frozen: None,
                sessions: Sessions::default(),
                lag: None,
                bytes: 0,
                age: VecDeque::new(),
                prune_age_at: 0,
            },
        );
    }

    pub(crate) fn node(&self, id: i32) -> Option<&Node> {
        self.nodes.get(&id)
    }

    pub(crate) fn node_mut(&mut self, id: i32) -> Option<&mut Node> {
        self.nodes.get_mut(&id)
    }

    /// The fetch sessions of a node, and the dice for their ids.
    pub(crate) fn sessions(&mut self, node: i32) -> Option<(&mut Sessions, &mut fastrand::Rng)> {
        self.nodes.get_mut(&node).map(|node| (&mut node.sessions, &mut self.rng))
    }

    /// All nodes in order of their ids.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn is_alive(&self, node: i32) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.alive)
    }

    /// True if the node lives and is not frozen.
    fn is_running(&self, node: i32) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.alive && node.frozen.is_none())
    }

    pub(crate) fn alive_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.alive)
    }

    /// The controller that clients are told: the first node that lives.
    pub(crate) fn controller(&self) -> i32 {
        self.alive_nodes().next().map_or(-1, |node| node.id)
    }

    /// What is to be done next.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        let answer = self.groups.poll_output().map(Output::Group);
        answer.or_else(|| self.not_compacted.pop_front().map(Output::NotCompacted))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let step = self.steps.keys().next().map(|(when, _)| *when);
        let coordinators = [self.groups.next_deadline(), self.transactions.next_deadline()];
        step.into_iter().chain(coordinators.into_iter().flatten()).min()
    }

    /// Does everything that is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.steps.first_entry() {
            let due = entry.key().0;
            if due > now {
                break;
            }
            let step = entry.remove();
            self.run_step(due, step);
        }
        self.groups.handle_timeout(now);
        self.transactions.handle_timeout(now);
        self.settle_transactions(now);
    }

    fn at(&mut self, when: Instant, step: Step) {
        self.steps.insert((when, self.next_step), step);
        self.next_step += 1;
    }

    fn run_step(&mut self, due: Instant, step: Step) {
        match step {
            Step::Learn { topic, node, leads } => {
                if let Some(topic) = self.topic_by_id_mut(&topic) {
                    topic.newcomers.insert(node, Newcomer::NotLeading);
                }
                self.at(due + leads, Step::Lead { topic, node });
            }
            Step::Mark { id } => self.markers_due(&id, due),
            Step::Fence { node, since } => self.fence(node, since, due),
            Step::Lead { topic, node } => {
                if let Some(topic) = self.topic_by_id_mut(&topic) {
                    topic.newcomers.remove(&node);
                }
            }
            Step::Follow { topic, partition, node, limit } => {
                if self.is_running(node) {
                    self.follow(topic, partition, node, limit);
                }
            }
            Step::ShrinkIfBehind { topic, partition, node, end } => {
                if let Some(partition) = self.partition_by_id(topic, partition)
                    && partition.logs.get(&node).is_some_and(|log| log.end() < end)
                {
                    partition.shrink(node);
                }
            }
        }
    }
}
