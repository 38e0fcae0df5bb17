//! Topics in detail: partitions, leaders, replicas.

use std::collections::BTreeMap;

use super::items::{check, legal_topics};
use super::topics::{known, unique};
use super::{Admin, Results};
use crate::cluster::{Call, Target};
use crate::types::{LeaderEpoch, NodeId, Partition, TopicName};
use crate::wire::messages::describe_topic_partitions::{
    CursorRequest, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
    TopicRequest,
};
use crate::wire::messages::metadata::MetadataResponseTopic;
use crate::wire::messages::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, MetadataResponse,
};
use crate::wire::{Array, Uuid};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// Partitions of a page, as many as brokers give by default (`max.request.partition.size.limit`).
const PAGE: i32 = 2000;

/// A topic in detail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// The name.
    pub name: TopicName,
    /// Id of the topic; `None` before Kafka 2.8.
    pub id: Option<Uuid>,
    /// True for Kafka's own topics, such as `__consumer_offsets`.
    pub internal: bool,
    /// The partitions, by number.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition in detail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// The number.
    pub partition: Partition,
    /// The leader; `None` while there is none.
    pub leader: Option<NodeId>,
    /// Epoch of the leader, where the broker tells.
    pub leader_epoch: LeaderEpoch,
    /// All replicas, the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// Replicas that are in sync.
    pub in_sync: Vec<NodeId>,
    /// Replicas that are offline.
    pub offline: Vec<NodeId>,
    /// Replicas outside of the in-sync ones that may lead without loss (KIP-966); empty where the broker does not tell.
    pub eligible: Vec<NodeId>,
    /// The last ones known to be so.
    pub last_eligible: Vec<NodeId>,
}

impl Admin {
    /// Partitions, leaders and replicas of topics, as one broker sees them now: in pages of 2,000 partitions from Kafka 3.9
    /// on, at once before.
    ///
    /// # Errors
    ///
    /// Per topic `UNKNOWN_TOPIC_OR_PARTITION`, also just after its creation; otherwise see [`Admin`].
    pub async fn describe_topics<T: Into<TopicName>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Results<TopicName, TopicDescription>> {
        let mut results = Results::new();
        let names = legal_topics(unique(topics), "cannot be described", &mut results);
        if names.is_empty() {
            return Ok(results);
        }
        let call = self.call();
        match self.describe_paged(&names, call, PAGE).await {
            Ok(described) => results.extend(described),
            Err(error) if error.kind() == ErrorKind::UnsupportedVersion => {
                let response = self.metadata(Some(&names), call).await?;
                results.extend(from_metadata(names, response));
            }
            Err(error) => return Err(error),
        }
        Ok(results)
    }

    /// `names` are sorted, each once.
    pub(super) async fn describe_paged(
        &self,
        names: &[TopicName],
        call: Call,
        page: i32,
    ) -> Result<Results<TopicName, TopicDescription>> {
        let mut results: Results<TopicName, TopicDescription> = Results::new();
        let mut cursor: Option<(TopicName, i32)> = None;
        loop {
            // Topics in front of the cursor were answered.
            let rest = || names.iter().filter(|name| cursor.as_ref().is_none_or(|(at, _)| *name >= at));
            let build = |_| {
                Ok(DescribeTopicPartitionsRequest {
                    topics: rest().map(|name| TopicRequest { name: name.to_byte_string() }).collect(),
                    response_partition_limit: page,
                    cursor: cursor.as_ref().map(|(topic, partition)| CursorRequest {
                        topic_name: topic.to_byte_string(),
                        partition_index: *partition,
                    }),
                })
            };
            let ok = |_: &DescribeTopicPartitionsResponse| ErrorCode::NONE;
            let response = self.cluster.request(Target::Any, call, build, ok).await?;
            for topic in response.topics {
                let Some(name) = topic.name.clone().map(TopicName::from) else { continue };
                let code = ErrorCode(topic.error_code);
                let described = check(code, None, format!("topic {name} cannot be described"))
                    .map(|()| TopicDescription::paged(&name, topic));
                match (results.get_mut(&name), described) {
                    (Some(Ok(known)), Ok(more)) if known.id == more.id => {
                        known.partitions.extend(more.partitions);
                    }
                    (_, described) => drop(results.insert(name, described)),
                }
            }
            let Some(next) = response.next_cursor else { break };
            let next = (TopicName::from(next.topic_name), next.partition_index);
            if cursor.is_some_and(|cursor| cursor >= next) {
                let message = format!("a page of topics ends at {}[{}] again and again", next.0, next.1);
                return Err(Error::new(ErrorKind::Protocol, message));
            }
            cursor = Some(next);
        }
        for name in names {
            match results.get_mut(name) {
                Some(Ok(topic)) => topic.partitions.sort_by_key(|partition| partition.partition),
                Some(Err(_)) => {}
                None => drop(results.insert(name.clone(), Err(silent(name)))),
            }
        }
        results.retain(|name, _| names.binary_search(name).is_ok());
        Ok(results)
    }
}

pub(super) fn from_metadata(
    names: Vec<TopicName>,
    response: MetadataResponse,
) -> Results<TopicName, TopicDescription> {
    let mut answers: BTreeMap<TopicName, MetadataResponseTopic> =
        (response.topics.into_iter()).filter_map(|topic| Some((topic.name.clone()?.into(), topic))).collect();
    let mut describe = |name: &TopicName| {
        let topic = answers.remove(name).ok_or_else(|| silent(name))?;
        check(ErrorCode(topic.error_code), None, format!("topic {name} cannot be described"))?;
        Ok(TopicDescription::whole(name, topic))
    };
    let described = names.into_iter().map(|name| {
        let described = describe(&name);
        (name, described)
    });
    described.collect()
}

fn silent(topic: &TopicName) -> Error {
    Error::new(ErrorKind::Protocol, format!("topic {topic}: the broker said nothing about it"))
}

fn nodes(ids: &Array<i32>) -> Vec<NodeId> {
    ids.iter().map(NodeId).collect()
}

impl TopicDescription {
    fn paged(name: &TopicName, topic: DescribeTopicPartitionsResponseTopic) -> Self {
        let one = |partition: &DescribeTopicPartitionsResponsePartition| PartitionDescription {
            partition: Partition(partition.partition_index),
            leader: (partition.leader_id >= 0).then_some(NodeId(partition.leader_id)),
            leader_epoch: LeaderEpoch(partition.leader_epoch),
            replicas: nodes(&partition.replica_nodes),
            in_sync: nodes(&partition.isr_nodes),
            offline: nodes(&partition.offline_replicas),
            eligible: partition.eligible_leader_replicas.as_ref().map(nodes).unwrap_or_default(),
            last_eligible: partition.last_known_elr.as_ref().map(nodes).unwrap_or_default(),
        };
        let partitions = topic.partitions.iter().map(one).collect();
        Self { name: name.clone(), id: known(topic.topic_id), internal: topic.is_internal, partitions }
    }

    fn whole(name: &TopicName, topic: MetadataResponseTopic) -> Self {
        let mut partitions: Vec<_> = (topic.partitions.iter())
            .map(|partition| PartitionDescription {
                partition: Partition(partition.partition_index),
                leader: (partition.leader_id >= 0).then_some(NodeId(partition.leader_id)),
                leader_epoch: LeaderEpoch(partition.leader_epoch),
                replicas: nodes(&partition.replica_nodes),
                in_sync: nodes(&partition.isr_nodes),
                offline: nodes(&partition.offline_replicas),
                eligible: Vec::new(),
                last_eligible: Vec::new(),
            })
            .collect();
        partitions.sort_by_key(|partition| partition.partition);
        Self { name: name.clone(), id: known(topic.topic_id), internal: topic.is_internal, partitions }
    }
}
