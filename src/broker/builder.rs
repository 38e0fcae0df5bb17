//! Settings of a cluster, checked all at once, and its start.

use std::sync::Arc;
use std::time::Duration;

use super::Cluster;
use super::cluster::State;
use super::driver::{self, Shared};
use super::listener::{Listener, Opened};
use super::sasl::SaslMechanism;
use super::settings::{Mode, Settings, TRANSACTION_VERSION_MAX};
#[cfg(feature = "tls")]
use crate::runtime::tls::ServerTls;
use crate::runtime::{self, Runtime};
use crate::types::{Secret, SecurityProtocol};
use crate::{Error, ErrorKind, Result};

/// Most nodes of a cluster.
const NODES_MAX: i32 = 100;

/// Longest time in which a node learns of a topic.
const PROPAGATION_MAX: Duration = Duration::from_secs(3600);

/// Describes a cluster before it starts. Every setting has a default that works.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct ClusterBuilder {
    settings: Settings,
    first: Listener,
    others: Vec<Listener>,
    topics: Vec<(String, i32)>,
    runtime: Option<Arc<dyn Runtime>>,
}

impl ClusterBuilder {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings::default(),
            first: Listener::new(SecurityProtocol::Plaintext.to_string()),
            others: Vec::new(),
            topics: Vec::new(),
            runtime: None,
        }
    }

    /// Number of nodes, 1 to 100; default 1. Their ids begin with [`first_node_id`](Self::first_node_id).
    pub fn nodes(mut self, nodes: u16) -> Self {
        self.settings.nodes = i32::from(nodes);
        self
    }

    /// Id of the first node; the others follow. Default 0.
    pub fn first_node_id(mut self, id: i32) -> Self {
        self.settings.first_node_id = id;
        self
    }

    /// A topic that exists from the start, with the default replication factor: 3, or the number of nodes if smaller.
    pub fn topic(mut self, name: impl Into<String>, partitions: i32) -> Self {
        self.topics.push((name.into(), partitions));
        self
    }

    /// Address to listen on, `host:port`; default `127.0.0.1:0`. Node *i* takes the port plus *i*; with port 0 each
    /// takes a free one.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.first = self.first.address(address);
        self
    }

    /// Host that clients are told; default the one that is listened on, or `127.0.0.1` for a wildcard address.
    pub fn advertised_host(mut self, host: impl Into<String>) -> Self {
        self.first = self.first.advertised_host(host);
        self
    }

    /// Clients of the first listener have to speak TLS.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.first = self.first.tls(tls);
        self
    }

    /// One more listener of every node, beside the one of [`listen`](Self::listen).
    pub fn listener(mut self, listener: Listener) -> Self {
        self.others.push(listener);
        self
    }

    /// Clients of the listener of [`listen`](Self::listen) have to log in by one of these mechanisms; default: none.
    pub fn sasl(mut self, mechanisms: impl IntoIterator<Item = SaslMechanism>) -> Self {
        self.first = self.first.sasl(mechanisms);
        self
    }

    /// A user who may log in where a listener asks for it: by PLAIN, and by SCRAM with 4,096 iterations.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<Secret>) -> Self {
        self.settings.users.push((name.into(), password.into()));
        self
    }

    /// Longest session of a client that has logged in (`connections.max.reauth.ms`); default: no end. It logs in again on the
    /// open connection, or its next request closes that.
    pub fn session_max(mut self, longest: Duration) -> Self {
        self.settings.session_max = Some(longest);
        self
    }

    /// Partitions of topics that do not say how many (`num.partitions`); default 1.
    pub fn default_partitions(mut self, partitions: i32) -> Self {
        self.settings.default_partitions = partitions;
        self
    }

    /// Whether asking for an unknown topic creates it (`auto.create.topics.enable`); default true.
    pub fn auto_create_topics(mut self, create: bool) -> Self {
        self.settings.auto_create_topics = create;
        self
    }

    /// Bytes of batches that a node keeps over all its partitions; default 256 MiB. Above, its oldest batches go. In
    /// memory they take about twice as much at most, and replicas share them.
    pub fn retention_bytes(mut self, bytes: usize) -> Self {
        self.settings.retention_bytes = bytes;
        self
    }

    /// Largest batch that is accepted (`message.max.bytes`); default 1,048,588.
    pub fn message_max_bytes(mut self, bytes: usize) -> Self {
        self.settings.message_max_bytes = bytes;
        self
    }

    /// How long nodes take at most to learn of a new topic, and then to lead its partitions; default 0, at most an hour.
    /// Each node draws its own times by the dice of the runtime. Until then it does not know the topic
    /// (UNKNOWN_TOPIC_OR_PARTITION), or is not its leader yet (NOT_LEADER_OR_FOLLOWER), whatever other nodes tell, as in
    /// Kafka.
    pub fn topic_propagation(mut self, longest: Duration) -> Self {
        self.settings.topic_propagation = longest;
        self
    }

    /// How far followers run behind their leaders; default 0, when they copy within the produce request.
    /// `Duration::MAX` stops replication. [`Control`](super::Control) can change it while the cluster runs.
    pub fn replication_lag(mut self, lag: Duration) -> Self {
        self.settings.replication_lag = lag;
        self
    }

    /// After how long a follower that is behind leaves the in-sync set (`replica.lag.time.max.ms`); default 30 s.
    pub fn replica_lag_max(mut self, lag: Duration) -> Self {
        self.settings.replica_lag_max = lag;
        self
    }

    /// After how long a frozen node counts as dead (`broker.session.timeout.ms`): others lead its partitions and
    /// coordinate its groups from then on. Default 9 s; `Duration::MAX` means never.
    /// [`Control::freeze_node`](super::Control::freeze_node) freezes one.
    pub fn node_session_timeout(mut self, timeout: Duration) -> Self {
        self.settings.node_session_timeout = timeout;
        self
    }

    /// In-sync replicas that acks=all needs (`min.insync.replicas`); default 1.
    pub fn min_insync_replicas(mut self, replicas: usize) -> Self {
        self.settings.min_insync_replicas = replicas;
        self
    }

    /// How long an empty group waits for more members after the first (`group.initial.rebalance.delay.ms`); default 0.
    pub fn group_initial_rebalance_delay(mut self, delay: Duration) -> Self {
        self.settings.group_initial_rebalance_delay = delay;
        self
    }

    /// Bounds of session timeouts (`group.min.session.timeout.ms`, `group.max.session.timeout.ms`); default 6 s to
    /// 30 min, as in Kafka.
    pub fn group_session_timeouts(mut self, min: Duration, max: Duration) -> Self {
        self.settings.group_session_timeout_min = min;
        self.settings.group_session_timeout_max = max;
        self
    }

    /// How long offsets of a group are kept once it has no members (`offsets.retention.minutes`); default 7 days, and
    /// `Duration::MAX` keeps them for ever. A group without members and offsets goes after ten minutes.
    pub fn offsets_retention(mut self, retention: Duration) -> Self {
        self.settings.offsets_retention = retention;
        self
    }

    /// The finalized feature `transaction.version`: 0 to 2, default 2, where every transaction ends in an epoch of its own and
    /// clients that can do so add partitions by producing to them (KIP-890). Transactions work with any of them.
    /// [`Control`](super::Control) and UpdateFeatures change it while the cluster runs.
    pub fn transaction_version(mut self, version: u8) -> Self {
        self.settings.transaction_version = i16::from(version);
        self
    }

    /// Longest time-out that a transactional producer may ask for (`transaction.max.timeout.ms`); default 15 min.
    pub fn transaction_timeout_max(mut self, longest: Duration) -> Self {
        self.settings.transaction_timeout_max = longest;
        self
    }

    /// How long after the end of a transaction its markers are written; default 0, when it is complete before its end is
    /// answered. Above 0 the next request of the producer may meet CONCURRENT_TRANSACTIONS, as in Kafka. `Duration::MAX`
    /// leaves every transaction unfinished. [`Control`](super::Control) can change it while the cluster runs.
    pub fn transaction_marker_lag(mut self, lag: Duration) -> Self {
        self.settings.transaction_marker_lag = lag;
        self
    }

    /// Largest request that is read (`socket.request.max.bytes`); default 100 MiB. A larger one closes its connection.
    pub fn request_max_bytes(mut self, bytes: usize) -> Self {
        self.settings.frame_max_bytes = bytes;
        self
    }

    /// For benches: records are counted and dropped, one checksum in a hundred is verified.
    pub fn discard(mut self) -> Self {
        self.settings.mode = Mode::Discard;
        self
    }

    /// For benches: every partition serves prepared batches of 2,000 records with 100 bytes without end; what is
    /// produced is dropped.
    pub fn replay(mut self) -> Self {
        self.settings.mode = Mode::Replay;
        self
    }

    /// Sockets, tasks and randomness; default [`runtime::real`](crate::runtime::real) on the current tokio runtime.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Starts the cluster: every node listens when this returns. Call it within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with every wrong setting, [`ErrorKind::Network`] if a port cannot be opened,
    /// [`ErrorKind::Broker`] if a topic's name or partition count is not valid.
    pub async fn start(self) -> Result<Cluster> {
        let runtime = match &self.runtime {
            Some(runtime) => Arc::clone(runtime),
            None => runtime::real(),
        };
        let listeners = self.check(&runtime)?;
        let (first, nodes) = (self.settings.first_node_id, self.settings.nodes);
        let state = State::new(self.settings, runtime.dice());
        let shared = Shared::new(runtime, listeners, state);
        // From here on an early return stops what was started.
        let cluster = Cluster { shared: shared.clone() };
        for (node, at) in (first..).zip(0..nodes) {
            let wanted: Vec<_> = shared.listeners.iter().map(|listener| listener.port_of(at)).collect();
            let taken = driver::listen(&shared, node, &wanted).await?;
            let endpoints =
                shared.listeners.iter().zip(taken).map(|(listener, port)| listener.endpoint(port));
            shared.lock().add_node(node, endpoints.collect());
        }
        for (name, partitions) in &self.topics {
            shared.create_topic(name, *partitions, &[])?;
        }
        driver::start_timer(&shared);
        Ok(cluster)
    }

    /// The listeners, or every problem.
    fn check(&self, runtime: &Arc<dyn Runtime>) -> Result<Vec<Opened>> {
        let mut problems = Vec::new();
        let settings = &self.settings;
        let mut listeners: Vec<Opened> = Vec::new();
        for listener in std::iter::once(&self.first).chain(&self.others) {
            if listeners.iter().any(|known| known.name == listener.name) {
                problems.push(format!("listener: there are two of the name {}", listener.name));
            }
            listeners.extend(listener.clone().check(settings.nodes, runtime, &mut problems));
        }
        if !(1..=NODES_MAX).contains(&settings.nodes) {
            problems.push(format!("nodes: {} is not within 1 to {NODES_MAX}", settings.nodes));
        }
        if settings.first_node_id < 0 || settings.first_node_id > i32::MAX - NODES_MAX {
            problems.push(format!("first_node_id: {} is negative or too large", settings.first_node_id));
        }
        if settings.default_partitions < 1 {
            problems.push(format!("default_partitions: {} is not positive", settings.default_partitions));
        }
        if settings.topic_propagation > PROPAGATION_MAX {
            problems.push(format!(
                "topic_propagation: {:?} is above {PROPAGATION_MAX:?}",
                settings.topic_propagation
            ));
        }
        if !(0..=TRANSACTION_VERSION_MAX).contains(&settings.transaction_version) {
            problems.push(format!(
                "transaction_version: {} is not within 0 to {TRANSACTION_VERSION_MAX}",
                settings.transaction_version
            ));
        }
        if settings.frame_max_bytes < 1024 {
            problems.push(format!("request_max_bytes: {} is below 1024", settings.frame_max_bytes));
        }
        if settings.group_session_timeout_min > settings.group_session_timeout_max {
            problems.push("group_session_timeouts: the lower bound is above the upper one".to_owned());
        }
        if problems.is_empty() {
            return Ok(listeners);
        }
        Err(Error::new(
            ErrorKind::Config,
            format!("the embedded cluster's settings are wrong: {}", problems.join("; ")),
        ))
    }
}
