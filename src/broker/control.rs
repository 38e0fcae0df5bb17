//! Control of the cluster: causes faults, and shows what is really in the logs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::State;
use super::driver::{self, Shared};
use super::log::StoredBatch;
use super::partition::Partition;
use super::readback::{self, LoggedRecord};
use super::rights::{Operation, Resource};
use super::rules::{Action, Matcher};
use super::sasl::Logins;
use super::settings::TRANSACTION_VERSION_MAX;
use crate::wire::ApiKey;
use crate::{Error, ErrorCode, ErrorKind, Result};

/// Controls a running cluster: faults, leaders, nodes, and what is really stored. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// A rule that is in force until it is removed; dropping this handle leaves it in force.
#[derive(Clone, Debug)]
pub struct Interception {
    control: Control,
    id: u64,
}

impl Interception {
    /// How many requests it met.
    pub fn hits(&self) -> u64 {
        self.control.shared.lock().rules.hits(self.id)
    }

    /// Lets held requests go on; later ones are not held any more.
    pub fn release(&self) {
        self.control.shared.lock().rules.release(self.id);
    }

    /// Ends the rule; what it held goes on.
    pub fn remove(&self) {
        self.control.shared.lock().rules.remove(self.id);
    }
}

/// State of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionState {
    /// The leading node, `None` if no in-sync replica lives.
    pub leader: Option<i32>,
    /// Epoch of the leader.
    pub leader_epoch: i32,
    /// Assigned nodes.
    pub replicas: Vec<i32>,
    /// In-sync nodes.
    pub isr: Vec<i32>,
    /// First offset that can be read.
    pub log_start: i64,
    /// Everything below is committed.
    pub high_watermark: i64,
    /// Everything below is committed and belongs to no open transaction.
    pub last_stable_offset: i64,
    /// End of each replica's log.
    pub log_ends: BTreeMap<i32, i64>,
}

/// State of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupState {
    /// Kafka's name of the state, such as `Stable`.
    pub state: String,
    /// Current generation.
    pub generation: i32,
    /// Chosen protocol, such as `cooperative-sticky`.
    pub protocol: Option<String>,
    /// Leader among the members.
    pub leader: Option<String>,
    /// Ids of the members.
    pub members: Vec<String>,
    /// The node that coordinates it.
    pub coordinator: i32,
}

/// State of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionState {
    /// Kafka's name of the state, such as `Ongoing`.
    pub state: String,
    /// Id of the producer that may use it.
    pub producer_id: i64,
    /// Its epoch; older ones are fenced.
    pub producer_epoch: i16,
    /// How long a transaction may be open.
    pub timeout: Duration,
    /// What takes part in the open transaction; `__consumer_offsets` stands for groups.
    pub partitions: BTreeSet<(String, i32)>,
    /// The node that coordinates it.
    pub coordinator: i32,
}

/// What was produced since the start, duplicates not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Produced {
    /// Records.
    pub records: u64,
    /// Batches.
    pub batches: u64,
    /// Bytes of the batches.
    pub bytes: u64,
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    // ---- faults ----

    /// Does `action` to the requests that `matcher` meets. Of several rules the oldest that meets a request acts.
    pub fn intercept(&self, matcher: Matcher, action: Action) -> Interception {
        let id = self.shared.lock().rules.add(matcher, action);
        Interception { control: self.clone(), id }
    }

    /// Ends all rules; what they held goes on.
    pub fn clear(&self) {
        self.shared.lock().rules.clear();
    }

    /// Closes every connection of a node; it goes on listening.
    pub fn disconnect(&self, node: i32) {
        self.shared.disconnect(node);
    }

    /// Stops a node at once: its listener and connections close, other in-sync replicas lead its partitions and
    /// coordinate its groups. Without effect on a stopped node.
    pub fn kill_node(&self, node: i32) {
        self.shared.lock().kill_node(node, self.shared.now());
        self.shared.stop_listening(node);
        self.shared.timers_changed();
    }

    /// Starts a stopped node on its old ports with the log it had; it catches up as a follower, and leads what nobody
    /// else can lead. Without effect on a running node.
    ///
    /// # Errors
    ///
    /// If a port of it cannot be opened again ([`ErrorKind::Network`]).
    pub async fn restart_node(&self, node: i32) -> Result<()> {
        let ports = {
            let state = self.shared.lock();
            match state.node(node) {
                None => return Err(unknown_node(node)),
                Some(node) if node.alive => return Ok(()),
                Some(node) => node.ports(),
            }
        };
        driver::listen(&self.shared, node, &ports).await?;
        self.shared.lock().restart_node(node, self.shared.now());
        self.shared.timers_changed();
        Ok(())
    }

    /// Freezes a node, as SIGSTOP does: its connections stay and new ones are accepted, but nothing is read or answered.
    /// It leads and coordinates until its session ends (9 s unless
    /// [`ClusterBuilder::node_session_timeout`](super::ClusterBuilder::node_session_timeout) says otherwise); then others
    /// take over. Without effect on a stopped node.
    pub fn freeze_node(&self, node: i32) {
        self.shared.lock().freeze_node(node, self.shared.now());
        self.shared.freeze(node, true);
        self.shared.timers_changed();
    }

    /// Lets a frozen node go on. What it had answered before is written, however old it is; what it had read is handled
    /// now. If its session had ended, it is a follower first.
    pub fn thaw_node(&self, node: i32) {
        self.shared.lock().thaw_node(node, self.shared.now());
        self.shared.freeze(node, false);
        self.shared.timers_changed();
    }

    // ---- rights ----

    /// Denies an operation to all clients from now on; their requests are answered with TOPIC_AUTHORIZATION_FAILED,
    /// GROUP_AUTHORIZATION_FAILED or CLUSTER_AUTHORIZATION_FAILED. Who may not describe something may do nothing with it.
    pub fn deny(&self, resource: Resource, operation: Operation) {
        self.shared.lock().rights.deny(resource, operation);
    }

    /// Ends all denials for a resource.
    pub fn allow(&self, resource: &Resource) {
        self.shared.lock().rights.allow(resource);
    }

    // ---- users ----

    /// Makes a user, or gives one another password; see [`ClusterBuilder::user`](super::ClusterBuilder::user).
    pub fn set_user(&self, name: &str, password: &str) {
        let mut state = self.shared.lock();
        let State { sasl, rng, .. } = &mut *state;
        sasl.users.set(name, password, rng);
    }

    /// The user cannot log in any more; sessions go on until they end.
    pub fn remove_user(&self, name: &str) {
        self.shared.lock().sasl.users.remove(name);
    }

    /// Lets `token` log `user` in by OAUTHBEARER, for so long.
    pub fn set_token(&self, token: &str, user: &str, lifetime: Option<Duration>) {
        let ends = lifetime.map(|lifetime| self.shared.now() + lifetime);
        self.shared.lock().sasl.users.set_token(token, user, ends);
    }

    /// How clients logged in since the start.
    pub fn logins(&self) -> Logins {
        self.shared.lock().sasl.counts
    }

    /// The users that are logged in, with the number of their connections.
    pub fn connected_users(&self) -> BTreeMap<String, usize> {
        self.shared.lock().sasl.connected()
    }

    // ---- leaders and coordinators ----

    /// Makes an in-sync replica the leader of a partition, in a new epoch.
    ///
    /// # Errors
    ///
    /// If there is no such partition, or `node` is stopped or not an in-sync replica ([`ErrorKind::Broker`]).
    pub fn move_leader(&self, topic: &str, partition: i32, node: i32) -> Result<()> {
        self.elect(topic, partition, node, false)
    }

    /// As [`move_leader`](Self::move_leader), but to any running replica: committed records that it lacks are lost.
    ///
    /// # Errors
    ///
    /// If there is no such partition, or `node` is stopped or not a replica.
    pub fn elect_unclean_leader(&self, topic: &str, partition: i32, node: i32) -> Result<()> {
        self.elect(topic, partition, node, true)
    }

    fn elect(&self, topic: &str, partition: i32, node: i32, unclean: bool) -> Result<()> {
        let outcome = self.shared.lock().move_leader(topic, partition, node, unclean, self.shared.now());
        self.shared.timers_changed();
        let failed =
            |code| Error::from_code(code, format!("moving the leader of {topic}[{partition}] to {node}"));
        outcome.map_err(failed)
    }

    /// Lets another node coordinate a group and those that share its slot; waiting joins are refused.
    ///
    /// # Errors
    ///
    /// If the node does not run.
    pub fn move_coordinator(&self, group: &str, node: i32) -> Result<()> {
        {
            let mut state = self.shared.lock();
            if !state.is_alive(node) {
                return Err(unknown_node(node));
            }
            state.groups.move_coordinator(group, node, self.shared.now());
        }
        self.shared.timers_changed();
        Ok(())
    }

    /// Lets another node coordinate a transactional id and those that share its partition of `__transaction_state`. It goes on
    /// where the last coordinator was, and its markers carry a higher epoch.
    ///
    /// # Errors
    ///
    /// If the node does not run.
    pub fn move_transaction_coordinator(&self, transactional_id: &str, node: i32) -> Result<()> {
        let mut state = self.shared.lock();
        if !state.is_alive(node) {
            return Err(unknown_node(node));
        }
        state.transactions.move_coordinator(transactional_id, node);
        Ok(())
    }

    /// How long after the end of a transaction its markers are written from now on, see
    /// [`ClusterBuilder::transaction_marker_lag`](super::ClusterBuilder::transaction_marker_lag). `Duration::MAX` leaves
    /// transactions unfinished until it is changed.
    pub fn set_transaction_marker_lag(&self, lag: Duration) {
        self.shared.lock().set_marker_lag(lag, self.shared.now());
        self.shared.timers_changed();
    }

    /// Sets the finalized feature `transaction.version`, 0 to 2. Clients learn of it with their next ApiVersions.
    ///
    /// # Errors
    ///
    /// If there is no such version ([`ErrorKind::Config`]).
    pub fn set_transaction_version(&self, version: u8) -> Result<()> {
        if self.shared.lock().set_transaction_version(i16::from(version)) {
            return Ok(());
        }
        let why = format!(
            "the feature transaction.version goes from 0 to {TRANSACTION_VERSION_MAX}, not to {version}"
        );
        Err(Error::new(ErrorKind::Config, why))
    }

    /// How far followers run behind their leaders from now on. `Duration::MAX` stops replication.
    pub fn set_replication_lag(&self, lag: Duration) {
        self.shared.lock().set_replication_lag(None, lag, self.shared.now());
        self.shared.timers_changed();
    }

    /// How far the followers on one node run behind; it then leaves the in-sync sets when the lag is above 30 s.
    pub fn set_node_replication_lag(&self, node: i32, lag: Duration) {
        self.shared.lock().set_replication_lag(Some(node), lag, self.shared.now());
        self.shared.timers_changed();
    }

    // ---- topics ----

    /// Creates a topic with `partitions` partitions, the cluster's default replication and these settings.
    ///
    /// # Errors
    ///
    /// As Kafka's CreateTopics ([`ErrorKind::Broker`]).
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        self.shared.create_topic(name, partitions, configs)
    }

    /// Deletes a topic with its records and the offsets committed for it. Returns false if there is none.
    pub fn delete_topic(&self, name: &str) -> bool {
        self.shared.lock().delete_topic(name).is_some()
    }

    /// Deletes a topic, if it is there, and creates it again at once: another id, empty, perhaps fewer or more partitions.
    /// Nobody sees a moment without it.
    ///
    /// # Errors
    ///
    /// As [`create_topic`](Self::create_topic); the old one is gone then too.
    pub fn recreate_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        self.shared.recreate_topic(name, partitions, configs)
    }

    /// Grows a topic to `partitions` partitions.
    ///
    /// # Errors
    ///
    /// As Kafka's CreatePartitions ([`ErrorKind::Broker`]).
    pub fn create_partitions(&self, name: &str, partitions: i32) -> Result<()> {
        let grown = self.shared.lock().create_partitions(name, partitions, None, false);
        grown.map_err(|(code, why)| {
            Error::from_code(code, format!("growing the topic {name}")).with_advice(why)
        })
    }

    /// Deletes the records of a partition below `offset`, at most up to the high watermark, as retention does. Returns
    /// the first offset that is left; `None` if there is no such partition.
    pub fn delete_records(&self, topic: &str, partition: i32, offset: i64) -> Option<i64> {
        let mut state = self.shared.lock();
        let id = state.topic(topic)?.id;
        state.advance_start(id, partition, offset)
    }

    // ---- truth ----

    /// All records of a partition that lie below the high watermark, as its leader has them, or an in-sync replica while
    /// nobody leads; also those of transactions that are open or aborted, but no transaction markers. Empty if there is no
    /// such partition.
    pub fn log(&self, topic: &str, partition: i32) -> Vec<LoggedRecord> {
        let batches = self.batches(topic, partition, |partition| partition.high_watermark);
        let data = batches.iter().filter(|batch| !batch.head.is_control());
        data.flat_map(|batch| readback::records(batch)).collect()
    }

    /// The records of [`log`](Self::log) that a reader of committed records gets: those below the last stable offset, without
    /// what was aborted.
    pub fn committed_log(&self, topic: &str, partition: i32) -> Vec<LoggedRecord> {
        readback::committed(&self.batches(topic, partition, Partition::last_stable_offset))
    }

    /// The batches of a partition below what `end` says.
    fn batches(&self, topic: &str, partition: i32, end: impl Fn(&Partition) -> i64) -> Vec<Arc<StoredBatch>> {
        let state = self.shared.lock();
        let Some(partition) = state.topic(topic).and_then(|topic| topic.partition(partition)) else {
            return Vec::new();
        };
        let in_sync = || partition.isr.iter().find_map(|node| partition.logs.get(node));
        let Some(log) = partition.leader_log().or_else(in_sync) else { return Vec::new() };
        let end = end(partition);
        log.batches().filter(|batch| batch.last_offset < end).cloned().collect()
    }

    /// State of a transactional id; `None` if no producer has used it.
    pub fn transaction(&self, transactional_id: &str) -> Option<TransactionState> {
        let state = self.shared.lock();
        let found = state.transactions.get(transactional_id)?;
        Some(TransactionState {
            state: found.phase.name().to_owned(),
            producer_id: found.identity.producer_id,
            producer_epoch: found.identity.epoch,
            timeout: found.timeout,
            partitions: found.parts.keys().map(|(topic, index)| (topic.to_string(), *index)).collect(),
            coordinator: state.transactions.coordinator(transactional_id),
        })
    }

    /// State of a partition.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<PartitionState> {
        let state = self.shared.lock();
        let partition = state.topic(topic)?.partition(partition)?;
        Some(PartitionState {
            leader: (partition.leader >= 0).then_some(partition.leader),
            leader_epoch: partition.leader_epoch,
            replicas: partition.replicas.clone(),
            isr: partition.isr.clone(),
            log_start: partition.log_start(),
            high_watermark: partition.high_watermark,
            last_stable_offset: partition.last_stable_offset(),
            log_ends: partition.logs.iter().map(|(node, log)| (*node, log.end())).collect(),
        })
    }

    /// Names of the topics and their partition counts.
    pub fn topics(&self) -> BTreeMap<String, i32> {
        let state = self.shared.lock();
        state.topics().map(|(name, topic)| (name.to_string(), topic.partitions.len() as i32)).collect()
    }

    /// The nodes that run.
    pub fn nodes(&self) -> Vec<i32> {
        self.shared.lock().alive_nodes().map(|node| node.id).collect()
    }

    /// What a group committed: offset by topic and partition.
    pub fn committed(&self, group: &str) -> BTreeMap<(String, i32), i64> {
        let state = self.shared.lock();
        let Some(entry) = state.groups.get(group) else { return BTreeMap::new() };
        let offsets = entry.offsets.iter();
        offsets
            .map(|((topic, partition), committed)| ((topic.to_string(), *partition), committed.offset))
            .collect()
    }

    /// State of a group; `None` if nobody has joined or committed.
    pub fn group(&self, group: &str) -> Option<GroupState> {
        let state = self.shared.lock();
        let found = &state.groups.get(group)?.group;
        Some(GroupState {
            state: found.phase.name().to_owned(),
            generation: found.generation,
            protocol: found.protocol.as_ref().map(ToString::to_string),
            leader: found.leader.as_ref().map(ToString::to_string),
            members: found.members.keys().map(ToString::to_string).collect(),
            coordinator: state.groups.coordinator(group),
        })
    }

    /// Requests of one API since the start.
    pub fn requests(&self, api: ApiKey) -> u64 {
        self.shared.lock().rules.count(None, api)
    }

    /// Requests of one API that reached one node.
    pub fn requests_at(&self, node: i32, api: ApiKey) -> u64 {
        self.shared.lock().rules.count(Some(node), api)
    }

    /// What was produced since the start.
    pub fn produced(&self) -> Produced {
        let totals = self.shared.lock().totals();
        Produced { records: totals.records, batches: totals.batches, bytes: totals.bytes }
    }
}

fn unknown_node(node: i32) -> Error {
    Error::new(ErrorKind::Config, format!("the cluster has no running node {node}"))
        .with_code(ErrorCode::BROKER_NOT_AVAILABLE)
}
