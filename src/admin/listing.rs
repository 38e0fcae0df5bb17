//! Metadata as one broker tells it: nothing sorted out, errors in their place. For tools that show what is there.

use tokio::time::{Instant, sleep_until};

use super::{Admin, NodeDescription};
use crate::cluster::Cluster;
use crate::types::{NodeId, Partition};
use crate::wire::messages::metadata::{MetadataRequestTopic, MetadataResponseTopic};
use crate::wire::messages::{MetadataRequest, MetadataResponse};
use crate::wire::{Array, Message, Request, Str};
use crate::{Error, ErrorCode, Result};

/// What one broker says of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetadataListing {
    /// Id of the broker that answered; `None` if it was reached by an address that no broker advertises.
    pub from: Option<NodeId>,
    /// Address that it was reached by, `host:port`.
    pub from_address: String,
    /// The controller; on KRaft clusters a broker that forwards to it.
    pub controller: Option<NodeId>,
    /// The brokers, by id.
    pub nodes: Vec<NodeDescription>,
    /// The topics, in the broker's order.
    pub topics: Vec<ListedTopic>,
}

/// A topic in a [`MetadataListing`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedTopic {
    /// The name.
    pub name: String,
    /// What is wrong with the topic.
    pub error: ErrorCode,
    /// The partitions, by index.
    pub partitions: Vec<ListedPartition>,
}

/// A partition in a [`MetadataListing`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedPartition {
    /// Its index.
    pub partition: Partition,
    /// What is wrong with the partition.
    pub error: ErrorCode,
    /// The leader, if there is one.
    pub leader: Option<NodeId>,
    /// The replicas in order of preference.
    pub replicas: Vec<NodeId>,
    /// Those in sync with the leader.
    pub in_sync: Vec<NodeId>,
}

impl Admin {
    /// Asks one broker what it knows of `topic`, or of all topics with `None`. Topics that do not exist are not created;
    /// they are listed with their error. A client that has not talked to the cluster yet asks one of its bootstrap
    /// servers.
    ///
    /// # Errors
    ///
    /// See [`Admin`].
    pub async fn metadata_listing(&self, topic: Option<&str>) -> Result<MetadataListing> {
        let deadline = self.deadline();
        let mut failures = 0;
        loop {
            let error = match ask(&self.cluster, topic, deadline).await {
                Ok(listing) => return Ok(listing),
                Err(error) => error,
            };
            failures += 1;
            let pause = self.cluster.config().retry_backoff.delay(failures, self.cluster.runtime().random());
            let next = Instant::now() + pause;
            if !error.is_retriable() || next >= deadline {
                return Err(error);
            }
            sleep_until(next).await;
        }
    }
}

async fn ask(cluster: &Cluster, topic: Option<&str>, deadline: Instant) -> Result<MetadataListing> {
    let connection = cluster.any_connection(deadline).await?;
    let version = connection.version(MetadataRequest::KEY, MetadataRequest::VERSIONS)?;
    let name = |topic| MetadataRequestTopic { name: Some(Str::from(topic)), ..Default::default() };
    let topics = match topic {
        None if version == 0 => Some(Vec::new()),
        topic => topic.map(|topic| vec![name(topic)]),
    };
    let request = MetadataRequest { topics, allow_auto_topic_creation: version < 4, ..Default::default() };
    let response = connection.send(&request, version, deadline).await.map_err(|error| error.error)?;
    let code = ErrorCode(response.error_code);
    if !code.is_ok() {
        return Err(
            Error::from_code(code, "the cluster cannot be listed").with_peer(connection.peer().to_string())
        );
    }
    let peer = connection.peer();
    Ok(MetadataListing::new(peer.node, &peer.host, peer.port, response))
}

impl MetadataListing {
    fn new(from: Option<NodeId>, host: &str, port: u16, response: MetadataResponse) -> Self {
        let mut nodes: Vec<_> = (response.brokers.into_iter())
            .map(|broker| NodeDescription {
                id: NodeId(broker.node_id),
                host: broker.host.to_string(),
                port: broker.port,
                rack: broker.rack.map(|rack| rack.to_string()),
            })
            .collect();
        nodes.sort_by_key(|node| node.id);
        let advertised = nodes.iter().find(|node| node.host == host && node.port == i32::from(port));
        Self {
            from: from.or(advertised.map(|node| node.id)),
            from_address: format!("{host}:{port}"),
            controller: (response.controller_id >= 0).then_some(NodeId(response.controller_id)),
            nodes,
            topics: response.topics.into_iter().map(ListedTopic::new).collect(),
        }
    }
}

impl ListedTopic {
    fn new(topic: MetadataResponseTopic) -> Self {
        let ids = |ids: &Array<i32>| ids.iter().map(NodeId).collect();
        let mut partitions: Vec<_> = (topic.partitions.iter())
            .map(|partition| ListedPartition {
                partition: Partition(partition.partition_index),
                error: ErrorCode(partition.error_code),
                leader: (partition.leader_id >= 0).then_some(NodeId(partition.leader_id)),
                replicas: ids(&partition.replica_nodes),
                in_sync: ids(&partition.isr_nodes),
            })
            .collect();
        partitions.sort_by_key(|partition| partition.partition);
        let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
        Self { name, error: ErrorCode(topic.error_code), partitions }
    }
}
