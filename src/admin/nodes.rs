//! Brokers and controller.

use super::Admin;
use crate::Result;
use crate::types::NodeId;

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterDescription {
    /// Id of the cluster.
    pub id: Option<String>,
    /// The controller; on KRaft clusters a broker that forwards to it.
    pub controller: Option<NodeId>,
    /// The brokers, by id.
    pub nodes: Vec<NodeDescription>,
}

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeDescription {
    /// The id.
    pub id: NodeId,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: i32,
    /// Rack, where the broker has one.
    pub rack: Option<String>,
}

impl Admin {
    /// Brokers, controller and id of the cluster.
    ///
    /// # Errors
    ///
    /// See [`Admin`].
    pub async fn describe_cluster(&self) -> Result<ClusterDescription> {
        let response = self.metadata(Some(&[]), self.call()).await?;
        let mut nodes: Vec<_> = (response.brokers.into_iter())
            .map(|broker| NodeDescription {
                id: NodeId(broker.node_id),
                host: broker.host.to_string(),
                port: broker.port,
                rack: broker.rack.map(|rack| rack.to_string()),
            })
            .collect();
        nodes.sort_by_key(|node| node.id);
        Ok(ClusterDescription {
            id: response.cluster_id.map(|id| id.to_string()),
            controller: (response.controller_id >= 0).then_some(NodeId(response.controller_id)),
            nodes,
        })
    }
}
