//! What the handles of a client and its tasks share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::conditions::{CLIENT, ConditionKind, Conditions, Owner, Subject};
use super::config::ClusterConfig;
use super::coordinators::Coordinators;
use super::metadata::Metadata;
use super::nodes::{ConnectionId, Duty, Nodes};
use super::troubles::{is_answered, troubles_of};
use super::updater::Updater;
use crate::net::{Connection, Connector};
use crate::runtime::{Runtime, watch};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::types::{NodeId, TopicName};
use crate::{Error, ErrorKind, Result};

/// Lock order: `updater` before `connections` before `conditions`; none is held across an await.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) config: ClusterConfig,
    pub(super) connector: Connector,
    updater: Mutex<Updater>,
    connections: Mutex<Connections>,
    pub(super) coordinators: Coordinators,
    conditions: Mutex<Conditions>,
    /// Number of events of conditions so far.
    pub(super) told: watch::Sender<u64>,
    /// Wakes the task that tells conditions.
    pub(super) raised: Notify,
    pub(super) snapshot: watch::Sender<Arc<Metadata>>,
    /// Counts connections that opened, failed to open or ended.
    pub(super) events: watch::Sender<u64>,
    pub(super) closed: watch::Sender<bool>,
    /// Wakes the metadata task.
    pub(super) wake: Notify,
    pub(super) next_id: AtomicU64,
}

impl Shared {
    pub(super) fn new(runtime: Arc<dyn Runtime>, config: ClusterConfig) -> Self {
        Self {
            connector: Connector::new(Arc::clone(&runtime), config.connection.clone()),
            // clock: the first metadata is due from here on.
            updater: Mutex::new(Updater::new(Instant::now(), &config)),
            connections: Mutex::new(Connections { nodes: Nodes::new(&config), live: BTreeMap::new() }),
            coordinators: Coordinators::default(),
            conditions: Mutex::default(),
            told: watch::Sender::new(0),
            raised: Notify::new(),
            snapshot: watch::Sender::new(Arc::default()),
            events: watch::Sender::new(0),
            closed: watch::Sender::new(false),
            wake: Notify::new(),
            next_id: AtomicU64::new(1),
            runtime,
            config,
        }
    }

    pub(super) fn updater(&self) -> MutexGuard<'_, Updater> {
        lock(&self.updater)
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, Connections> {
        lock(&self.connections)
    }

    pub(super) fn conditions(&self) -> MutexGuard<'_, Conditions> {
        lock(&self.conditions)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::State, "the client was closed"));
        }
        Ok(())
    }

    /// See [`Conditions::raise`].
    pub(super) fn raise(&self, owner: Owner, subject: Subject, kind: ConditionKind, error: Error) {
        // clock: when it was met.
        if self.conditions().raise(Instant::now(), owner, subject, kind, error) {
            self.raised.notify_one();
        }
    }

    /// See [`Conditions::clear_where`].
    pub(super) fn clear_where(&self, over: impl Fn(&(Owner, Subject, ConditionKind)) -> bool) {
        // clock: when it was met.
        if self.conditions().clear_where(Instant::now(), over) {
            self.raised.notify_one();
        }
    }

    /// A broker answered about `topics`: what is wrong with them, and nothing else, is so now.
    pub(super) fn report_answer(&self, metadata: &Metadata, topics: &[TopicName]) {
        let troubles = topics.iter().flat_map(|topic| troubles_of(metadata, topic)).collect();
        let answered = |subject: &Subject, _| is_answered(metadata, topics, subject);
        // clock: when it was met.
        if self.conditions().replace(Instant::now(), CLIENT, answered, troubles) {
            self.raised.notify_one();
        }
    }

    /// A connection to `node` was opened.
    pub(super) fn report_reached(&self, node: NodeId) {
        let unreachable = (CLIENT, Subject::Node(node), ConditionKind::Unreachable);
        self.clear_where(|key| *key == unreachable);
    }

    /// No connection to `node` could be opened, or it did not answer on one. For addresses of the bootstrap list the
    /// questions about the cluster say whether that matters.
    pub(super) fn report_unreached(&self, node: NodeId, error: Error) {
        if node.0 >= 0 {
            self.raise(CLIENT, Subject::Node(node), ConditionKind::Unreachable, error);
            self.refresh();
        }
    }

    /// Why the files of certificates that changed are not used, or that they are.
    pub(super) fn report_certificates(&self, stale: Option<Error>) {
        match stale {
            Some(error) => self.raise(CLIENT, Subject::Cluster, ConditionKind::StaleCertificates, error),
            None => {
                let stale = (CLIENT, Subject::Cluster, ConditionKind::StaleCertificates);
                self.clear_where(|key| *key == stale);
            }
        }
    }

    /// `node` left the cluster, or lives elsewhere now: what was wrong with it is nobody's trouble.
    pub(super) fn report_gone(&self, node: NodeId) {
        self.clear_where(|(by, subject, _)| *by == CLIENT && *subject == Subject::Node(node));
    }

    pub(super) fn metadata(&self) -> Arc<Metadata> {
        Arc::clone(&self.snapshot.borrow())
    }

    pub(super) fn refresh(&self) {
        self.updater().want_refresh();
        self.wake.notify_one();
    }
}

/// The machine of connections, and the connections under their numbers.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) nodes: Nodes,
    pub(super) live: BTreeMap<ConnectionId, Connection>,
}

impl Connections {
    /// The connection to `node` for `duty`, if it is open.
    pub(super) fn open(&self, node: NodeId, duty: Duty) -> Option<Connection> {
        let connection = self.live.get(&self.nodes.open_connection(node, duty)?)?;
        (!connection.is_closed()).then(|| connection.clone())
    }
}
