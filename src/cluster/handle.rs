//! The handle that producer, consumers and admin hold.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::time::{Instant, sleep, timeout_at};

use super::conditions::{CLIENT, Condition, ConditionEvent, ConditionKind, Owner, Subject};
use super::config::ClusterConfig;
use super::coordinators::CoordinatorKind;
use super::driver;
use super::metadata::{Metadata, Topic};
use super::nodes::{Duty, Nodes};
use super::retry::FORMER_PATIENCE;
use super::shared::Shared;
use super::troubles::{because, no_leader, topic_error};
use super::updater;
use crate::net::Connection;
use crate::runtime::{Runtime, watch};
use crate::types::{LeaderEpoch, NodeId, Partition, TopicName, TopicPartition, Uuid};
use crate::wire::produce::{CurrentLeader, NodeEndpoint};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// Everything that one client shares: metadata, connections, coordinators. Cheap to clone. When the last clone is gone,
/// its tasks end and its connections drain.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(super) shared: Arc<Shared>,
    _life: Arc<Life>,
}

/// Ends the tasks when the last handle is dropped.
#[derive(Debug)]
struct Life(Arc<Shared>);

impl Drop for Life {
    fn drop(&mut self) {
        driver::close(&self.0);
    }
}

impl Cluster {
    /// Starts the metadata task on `runtime`. Nothing is dialled until something is asked for.
    pub(crate) fn new(runtime: Arc<dyn Runtime>, config: ClusterConfig) -> Self {
        let shared = Arc::new(Shared::new(runtime, config));
        shared.runtime.spawn("carafe-metadata", Box::pin(driver::run(Arc::clone(&shared))));
        shared.runtime.spawn("carafe-conditions", Box::pin(driver::tell_conditions(Arc::clone(&shared))));
        Self { _life: Arc::new(Life(Arc::clone(&shared))), shared }
    }

    /// The runtime that everything of this client runs on.
    pub(crate) fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.shared.runtime
    }

    /// The settings.
    pub(crate) fn config(&self) -> &ClusterConfig {
        &self.shared.config
    }

    /// A number that no other part of this client has: for the duties that belong to one owner.
    pub(crate) fn next_id(&self) -> u64 {
        self.shared.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// `now` plus the default deadline of calls (`default.api.timeout.ms`).
    pub(crate) fn default_deadline(&self) -> Instant {
        Instant::now() + self.shared.config.api_timeout
    }

    /// Closes all connections after their last answers; what is asked afterwards fails with `State`.
    pub(crate) fn close(&self) {
        driver::close(&self.shared);
    }

    /// Waits until the client is closed. Cancel-safe.
    pub(crate) async fn closed(&self) {
        // An error would mean that it is gone.
        let _ = self.shared.closed.subscribe().wait_for(|closed| *closed).await;
    }

    pub(super) fn check_open(&self) -> Result<()> {
        self.shared.check_open()
    }

    // --- metadata ---

    /// The latest snapshot; empty (`is_known()` false) until a broker has answered.
    pub(crate) fn metadata(&self) -> Arc<Metadata> {
        self.shared.metadata()
    }

    /// Tells of every new snapshot.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Metadata>> {
        self.shared.snapshot.subscribe()
    }

    /// Waits for the first metadata.
    ///
    /// # Errors
    ///
    /// `Timeout` at `deadline`, with the latest failure as its source. Cancel-safe.
    pub(crate) async fn ready(&self, deadline: Instant) -> Result<Arc<Metadata>> {
        let mut snapshots = self.subscribe();
        if !snapshots.borrow().is_known() {
            self.refresh();
        }
        loop {
            {
                let metadata = snapshots.borrow_and_update();
                if metadata.is_known() {
                    return Ok(Arc::clone(&metadata));
                }
            }
            self.changed(&mut snapshots, deadline, || "no broker answered before the deadline".to_owned())
                .await?;
        }
    }

    async fn changed(
        &self,
        snapshots: &mut watch::Receiver<Arc<Metadata>>,
        deadline: Instant,
        attempted: impl FnOnce() -> String,
    ) -> Result<()> {
        self.check_open()?;
        let mut closed = self.shared.closed.subscribe();
        let wait = async {
            // Biased: the end of the client goes first, since nothing comes after it.
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => {}
                _ = snapshots.changed() => {}
            }
        };
        if timeout_at(deadline, wait).await.is_ok() {
            return self.check_open();
        }
        let error = Error::new(ErrorKind::Timeout, attempted());
        let last = self.shared.updater().last_error().cloned();
        Err(because(error, last.or_else(|| self.shared.connections().nodes.reason(None))))
    }

    /// Waits until `topic` is known and has partitions. With `create` the broker is asked to create it if its settings
    /// allow. The topic stays part of every refresh for as long as it is [used](Self::use_topics).
    ///
    /// # Errors
    ///
    /// At once where waiting does not help (`Authorization`, invalid name); `UNKNOWN_TOPIC_OR_PARTITION`, the latest
    /// broker error or `Timeout` at `deadline`. Cancel-safe.
    pub(crate) async fn topic(
        &self,
        topic: &TopicName,
        create: bool,
        deadline: Instant,
    ) -> Result<Arc<Topic>> {
        if let Some(fault) = topic.fault() {
            let shown: String = topic.chars().take(60).collect();
            let message = format!("topic {shown:?} cannot be used: its name {fault}");
            return Err(Error::from_code(ErrorCode::INVALID_TOPIC_EXCEPTION, message));
        }
        if let Some(known) = self.known_topic(topic) {
            self.shared.updater().use_topic(Instant::now(), topic, create);
            return Ok(known);
        }
        let mut snapshots = self.subscribe();
        let first = snapshots.borrow_and_update().generation;
        loop {
            self.want_topic(topic, create);
            let wait =
                self.changed(&mut snapshots, deadline, || format!("nothing is known of topic {topic}"));
            let waited = wait.await;
            let metadata = Arc::clone(&snapshots.borrow_and_update());
            if let Some(known) = self.known_topic(topic) {
                return Ok(known);
            }
            let code = metadata.errors.get(topic).copied().filter(|_| metadata.generation > first);
            match (code, waited) {
                (Some(code), _) if updater::is_permanent(code) => return Err(topic_error(code, topic)),
                (Some(code), Err(error)) if error.is_timeout() => return Err(topic_error(code, topic)),
                (_, waited) => waited?,
            }
        }
    }

    /// What brokers say of `topic` when they are asked from now on, unlike [`topic`](Self::topic), which knows already.
    ///
    /// # Errors
    ///
    /// As [`topic`](Self::topic). Cancel-safe.
    pub(crate) async fn fresh_topic(&self, topic: &TopicName, deadline: Instant) -> Result<Arc<Topic>> {
        let mut snapshots = self.subscribe();
        self.want_topic(topic, false);
        loop {
            snapshots.borrow_and_update();
            if !self.shared.updater().is_awaited(topic) {
                return self.topic(topic, false, deadline).await;
            }
            self.changed(&mut snapshots, deadline, || format!("nothing new is known of topic {topic}"))
                .await?;
        }
    }

    fn known_topic(&self, topic: &TopicName) -> Option<Arc<Topic>> {
        let metadata = self.shared.snapshot.borrow();
        metadata.topic(topic).filter(|topic| !topic.partitions.is_empty()).cloned()
    }

    /// Asks for news of `topic` and returns at once. There are none of a name that no topic can have, and asking might cost
    /// the question about all others.
    pub(crate) fn want_topic(&self, topic: &TopicName, create: bool) {
        if topic.fault().is_some() {
            return;
        }
        self.shared.updater().want_topic(Instant::now(), topic, create);
        self.shared.wake.notify_one();
    }

    /// Says that `topics` are in use. Who goes on using topics says so with every snapshot; what nobody has used for ten
    /// minutes (two refreshes) is no longer asked for.
    pub(crate) fn use_topics<'a>(&self, topics: impl IntoIterator<Item = &'a TopicName>) {
        let now = Instant::now();
        let mut updater = self.shared.updater();
        for topic in topics {
            updater.use_topic(now, topic, false);
        }
        drop(updater);
        // One that is not known is asked for.
        self.shared.wake.notify_one();
    }

    /// Asks for news of everything and returns at once.
    pub(crate) fn refresh(&self) {
        self.shared.refresh();
    }

    /// Waits until `partition` has a leader.
    ///
    /// # Errors
    ///
    /// As [`topic`](Self::topic); `Config` if the topic has no such partition; `LEADER_NOT_AVAILABLE` at `deadline`.
    pub(crate) async fn leader(
        &self,
        partition: &TopicPartition,
        deadline: Instant,
    ) -> Result<(NodeId, LeaderEpoch)> {
        let mut snapshots = self.subscribe();
        loop {
            snapshots.borrow_and_update();
            let topic = self.topic(&partition.topic, false, deadline).await?;
            let Some(info) = topic.partition(partition.partition) else {
                let count = topic.partition_count();
                let message =
                    format!("partition {partition} does not exist: the topic has {count} partitions");
                return Err(Error::new(ErrorKind::Config, message));
            };
            if let Some(leader) = info.leader {
                return Ok((leader, info.leader_epoch));
            }
            self.want_topic(&partition.topic, false);
            let changed = self.changed(&mut snapshots, deadline, String::new).await;
            match changed {
                Err(error) if error.is_timeout() => {
                    return Err(no_leader(partition).with_source(error));
                }
                changed => changed?,
            }
        }
    }

    /// A broker said, or a connection showed, that `topic` is no longer as the snapshot says. Asks for news.
    pub(crate) fn leader_failed(&self, topic: &TopicName) {
        self.want_topic(topic, false);
    }

    /// Applies a leader that a Produce or Fetch response named (KIP-951) for the topic `id` (zero: not known) of that name;
    /// true if it is news, in which case a retry need not wait. Asks for news of the topic either way.
    pub(crate) fn leader_hint(
        &self,
        topic: &TopicName,
        id: Uuid,
        partition: Partition,
        hint: CurrentLeader,
        endpoints: &[NodeEndpoint],
    ) -> bool {
        let news = {
            let mut updater = self.shared.updater();
            updater.handle_hint(topic, id, partition, hint, endpoints).then(|| Arc::clone(updater.current()))
        };
        self.want_topic(topic, false);
        match news {
            Some(metadata) => {
                driver::publish(&self.shared, metadata);
                true
            }
            None => false,
        }
    }

    // --- conditions ---

    /// Reports trouble, for the first time or again; see [`Conditions`](super::conditions::Conditions). Cheap enough for every failure, not for every
    /// record.
    pub(crate) fn raise(&self, owner: Owner, subject: Subject, kind: ConditionKind, error: Error) {
        self.shared.raise(owner, subject, kind, error);
    }

    /// The trouble is over.
    pub(crate) fn clear(&self, owner: Owner, subject: &Subject, kind: ConditionKind) {
        self.shared.clear_where(|(by, about, what)| *by == owner && about == subject && *what == kind);
    }

    /// Whoever reported has ended, or has lost interest in what `over` names.
    pub(crate) fn clear_where(&self, owner: Owner, over: impl Fn(&Subject, ConditionKind) -> bool) {
        self.shared.clear_where(|(by, subject, kind)| *by == owner && over(subject, *kind));
    }

    /// What is wrong and has lasted, for the client itself and, of its parts, for those that `of` names.
    pub(crate) fn conditions(&self, of: impl Fn(Owner) -> bool) -> Vec<Condition> {
        let told = self.shared.conditions().told(Instant::now()).into_iter();
        told.filter(|(owner, _)| *owner == CLIENT || of(*owner)).map(|(_, condition)| condition).collect()
    }

    /// News of conditions from now on: of the client itself and, of its parts, of `owner` or all.
    pub(crate) fn condition_events(&self, owner: Option<Owner>) -> ConditionEvents {
        let told = self.shared.told.subscribe();
        let seen = self.shared.conditions().count();
        ConditionEvents { shared: Arc::downgrade(&self.shared), told, owner, seen, waiting: VecDeque::new() }
    }

    // --- connections ---

    /// The connection to `node` for `duty`, opened if need be. Waits for the node's back-off, then for one attempt.
    /// Cancel-safe: the attempt goes on for others.
    ///
    /// # Errors
    ///
    /// The attempt's failure; `Timeout` at `deadline`; `Network` if the node is not (or no longer) part of the cluster.
    pub(crate) async fn connection(&self, node: NodeId, duty: Duty, deadline: Instant) -> Result<Connection> {
        driver::connection(&self.shared, node, duty, deadline).await
    }

    /// The connection to `node` for `duty` if it is open, without waiting.
    pub(crate) fn open_connection(&self, node: NodeId, duty: Duty) -> Option<Connection> {
        self.shared.connections().open(node, duty)
    }

    /// Ends the back-offs of all nodes, for whoever has little time left and tries once more: what waits for one tries at
    /// once.
    pub(crate) fn hurry(&self) {
        driver::with_nodes(&self.shared, Nodes::hurry);
        self.shared.events.send_modify(|count| *count += 1);
    }

    /// A connection for short requests to whichever node is the least busy.
    ///
    /// # Errors
    ///
    /// As [`connection`](Self::connection), of the last node tried.
    pub(crate) async fn any_connection(&self, deadline: Instant) -> Result<Connection> {
        Ok(driver::any_connection(&self.shared, &[], deadline).await?.1)
    }

    /// Closes the connections of a session, membership or other owner that has ended.
    pub(crate) fn release(&self, duty: Duty) {
        driver::with_nodes(&self.shared, |nodes| nodes.release(duty));
    }

    // --- coordinators ---

    /// The reason behind a deadline that passed for `subject`: what was reported of it last, or else why no node answers.
    pub(crate) fn latest_failure(&self, subject: &Subject) -> Option<Error> {
        let reported = self.shared.conditions().latest(subject).cloned();
        reported.or_else(|| self.shared.connections().nodes.reason(None))
    }

    /// The node that coordinates `key` (a group or transactional id). Looked up once, then cached.
    ///
    /// # Errors
    ///
    /// `Authorization` and the like at once, otherwise the latest failure at `deadline`.
    pub(crate) async fn coordinator(
        &self,
        kind: CoordinatorKind,
        key: &str,
        deadline: Instant,
    ) -> Result<NodeId> {
        let cell = self.shared.coordinators.cell(kind, key);
        let Ok(mut known) = timeout_at(deadline, cell.lock()).await else {
            let error =
                Error::new(ErrorKind::Timeout, format!("the coordinator of {key:?} is not known yet"));
            return Err(because(error, self.latest_failure(&Subject::Group(key.into()))));
        };
        if let Some(node) = *known {
            return Ok(node);
        }
        let node = self.find_coordinator(kind, key, deadline).await?;
        *known = Some(node);
        drop(known);
        self.shared.coordinators.found(kind, key, node);
        Ok(node)
    }

    /// What `node` answers as the coordinator of `key`. Once another node is found to be that, the former one has
    /// [`FORMER_PATIENCE`] left: what it was asked can be asked there. It cannot act on it later, since its writes are fenced
    /// by the epoch of the log, and on one connection requests stay in order.
    ///
    /// # Errors
    ///
    /// `Network` if it does not come in time.
    pub(crate) async fn coordinated<T>(
        &self,
        kind: CoordinatorKind,
        key: &str,
        node: NodeId,
        answer: impl Future<Output = T>,
    ) -> Result<T> {
        let former = async {
            self.shared.coordinators.moved(kind, key, node).await;
            sleep(FORMER_PATIENCE).await;
        };
        // Biased: an answer that is there counts.
        tokio::select! {
            biased;
            answer = answer => Ok(answer),
            () = former => {
                let message = format!("node {node} has not answered, and coordinates {key:?} no longer");
                Err(Error::new(ErrorKind::Network, message).with_retriable(true))
            }
        }
    }

    /// The coordinator of `key` moved or cannot be reached; the next one who needs it looks it up.
    pub(crate) fn coordinator_failed(&self, kind: CoordinatorKind, key: &str) {
        self.shared.coordinators.forget(kind, key);
    }

    /// Takes the address of a node from a response.
    pub(super) fn learn(&self, node: NodeId, host: &str, port: u16) {
        let known = self.shared.snapshot.borrow().nodes.contains_key(&node);
        if !known {
            driver::with_nodes(&self.shared, |nodes| nodes.learn(Instant::now(), node, host, port));
        }
    }
}

/// News of what is wrong and stays wrong; from [`Client::condition_events`](crate::client::Client::condition_events).
///
/// The last 1,024 events are kept for a listener that is slow; it misses those before.
#[derive(Debug)]
pub struct ConditionEvents {
    shared: Weak<Shared>,
    told: watch::Receiver<u64>,
    owner: Option<Owner>,
    seen: u64,
    waiting: VecDeque<ConditionEvent>,
}

impl ConditionEvents {
    /// The next event; `None` once the client is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<ConditionEvent> {
        loop {
            self.told.mark_unchanged();
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            self.told.changed().await.ok()?;
        }
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<ConditionEvent> {
        if self.waiting.is_empty() {
            let (events, seen) = self.shared.upgrade()?.conditions().events(self.seen);
            self.seen = seen;
            let ours = |owner: Owner| owner == CLIENT || self.owner.is_none_or(|only| only == owner);
            self.waiting = events.into_iter().filter(|(by, _)| ours(*by)).map(|(_, event)| event).collect();
        }
        self.waiting.pop_front()
    }
}
