//! Snapshots of what is known of the cluster. Immutable and shared; a new one replaces the old.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ErrorCode;
use crate::types::{LeaderEpoch, NodeId, Partition, TopicName};
use crate::wire::Uuid;

/// A broker's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) rack: Option<Arc<str>>,
}

/// What is known of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionInfo {
    /// `None` while there is none.
    pub(crate) leader: Option<NodeId>,
    /// [`LeaderEpoch::UNKNOWN`] where the broker gives none, or none that can be trusted (Metadata before version 9).
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) isr: Vec<NodeId>,
    /// Why there is no leader, usually.
    pub(crate) error: ErrorCode,
}

impl Default for PartitionInfo {
    fn default() -> Self {
        Self {
            leader: None,
            leader_epoch: LeaderEpoch::UNKNOWN,
            replicas: Vec::new(),
            isr: Vec::new(),
            error: ErrorCode::NONE,
        }
    }
}

/// What is known of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) name: TopicName,
    /// Zero where the broker has no topic ids (before 2.8).
    pub(crate) id: Uuid,
    /// Kafka's own, such as `__consumer_offsets`.
    pub(crate) internal: bool,
    /// Indexed by partition.
    pub(crate) partitions: Vec<PartitionInfo>,
}

/// Which topic of a name is meant: a topic that is deleted and recreated keeps its name and gets another id (KIP-516). All
/// that is kept about a topic (positions, buffers, marks, sequences, epochs) belongs to one identity and is void under
/// another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TopicIdentity {
    pub(crate) name: TopicName,
    /// Zero where it is not known: brokers before 2.8, and what was kept before metadata came.
    pub(crate) id: Uuid,
}

impl TopicIdentity {
    /// True unless both ids are known and differ.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let unknown = Uuid::default();
        self.name == other.name && (self.id == other.id || self.id == unknown || other.id == unknown)
    }
}

impl Topic {
    /// Which topic of this name it is.
    pub(crate) fn identity(&self) -> TopicIdentity {
        TopicIdentity { name: self.name.clone(), id: self.id }
    }

    /// What is known of `partition`, if it exists.
    pub(crate) fn partition(&self, partition: Partition) -> Option<&PartitionInfo> {
        self.partitions.get(usize::try_from(partition.0).ok()?)
    }

    /// Number of partitions.
    pub(crate) fn partition_count(&self) -> usize {
        self.partitions.len()
    }
}

/// A snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    /// Grows with every answer, also one that changed nothing.
    pub(crate) generation: u64,
    pub(crate) cluster_id: Option<Arc<str>>,
    pub(crate) controller: Option<NodeId>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) topics: BTreeMap<TopicName, Arc<Topic>>,
    /// Topics whose latest answer was an error. One that was known before keeps its place in `topics`.
    pub(crate) errors: BTreeMap<TopicName, ErrorCode>,
    /// Names by topic id.
    pub(crate) names: BTreeMap<[u8; 16], TopicName>,
}

impl Metadata {
    /// A topic by name.
    pub(crate) fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id (KIP-516).
    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(&id.0)?)
    }

    /// True if a broker has been asked about `topic` and it is still of interest.
    pub(crate) fn is_asked_for(&self, topic: &TopicName) -> bool {
        self.topics.contains_key(topic) || self.errors.contains_key(topic)
    }

    /// True once a broker has answered.
    pub(crate) fn is_known(&self) -> bool {
        self.generation > 0
    }
}
