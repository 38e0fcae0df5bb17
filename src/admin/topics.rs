//! Topics: create, delete, describe, list, add partitions.

use std::collections::BTreeMap;

use super::items::{Said, check, legal_topics};
use super::{Admin, Results};
use crate::cluster::{Call, Target};
use crate::types::{LeaderEpoch, NodeId, Partition, TopicName};
use crate::wire::messages::create_partitions::CreatePartitionsTopic;
use crate::wire::messages::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use crate::wire::messages::delete_topics::DeleteTopicState;
use crate::wire::messages::metadata::{MetadataRequestTopic, MetadataResponseTopic};
use crate::wire::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, MetadataRequest, MetadataResponse,
};
use crate::wire::{Array, Str, Uuid};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    name: TopicName,
    partitions: Option<i32>,
    replication_factor: Option<i16>,
    replicas: Vec<Vec<NodeId>>,
    configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with the brokers' default number of partitions (`num.partitions`) and replicas
    /// (`default.replication.factor`).
    pub fn new(name: impl Into<TopicName>) -> Self {
        Self {
            name: name.into(),
            partitions: None,
            replication_factor: None,
            replicas: Vec::new(),
            configs: BTreeMap::new(),
        }
    }

    /// Number of partitions, at least 1.
    #[must_use]
    pub fn partitions(mut self, count: i32) -> Self {
        self.partitions = Some(count);
        self
    }

    /// Replicas of each partition, at least 1 and at most the number of brokers.
    #[must_use]
    pub fn replication_factor(mut self, factor: i16) -> Self {
        self.replication_factor = Some(factor);
        self
    }

    /// The nodes of each partition, the preferred leader first. Takes the place of partitions and replication factor.
    #[must_use]
    pub fn replicas(mut self, replicas: impl IntoIterator<Item = Vec<NodeId>>) -> Self {
        self.replicas = replicas.into_iter().collect();
        self
    }

    /// A setting of the topic, such as `retention.ms`.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(name.into(), value.into());
        self
    }

    fn to_message(&self, version: i16) -> Result<CreatableTopic> {
        let manual = !self.replicas.is_empty();
        let defaults = self.partitions.is_none() || self.replication_factor.is_none();
        if version < 4 && defaults && !manual {
            let message = format!(
                "topic {}: brokers before 2.4 have no defaults; name partitions and replication factor",
                self.name
            );
            return Err(Error::new(ErrorKind::UnsupportedVersion, message));
        }
        Ok(CreatableTopic {
            name: self.name.to_byte_string(),
            num_partitions: if manual { -1 } else { self.partitions.unwrap_or(-1) },
            replication_factor: if manual { -1 } else { self.replication_factor.unwrap_or(-1) },
            assignments: (0..)
                .zip(&self.replicas)
                .map(|(partition_index, nodes)| CreatableReplicaAssignment {
                    partition_index,
                    broker_ids: nodes.iter().map(|node| node.0).collect(),
                })
                .collect(),
            configs: (self.configs.iter())
                .map(|(name, value)| CreatableTopicConfig {
                    name: Str::from(name.as_str()),
                    value: Some(Str::from(value.as_str())),
                })
                .collect(),
        })
    }
}

/// A topic that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreatedTopic {
    /// Id of the topic; `None` before Kafka 2.8.
    pub id: Option<Uuid>,
    /// Number of partitions, where the broker tells (2.4).
    pub partitions: Option<i32>,
    /// Replicas of each partition, where the broker tells (2.4).
    pub replication_factor: Option<i16>,
}

/// A topic in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicListing {
    /// The name.
    pub name: TopicName,
    /// Id of the topic; `None` before Kafka 2.8.
    pub id: Option<Uuid>,
    /// Number of partitions.
    pub partitions: usize,
    /// True for Kafka's own topics, such as `__consumer_offsets`.
    pub internal: bool,
}

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
}

impl Admin {
    /// Creates topics. A topic that exists already fails with `TOPIC_ALREADY_EXISTS`, also if a retry after a lost answer
    /// meets what the first attempt made.
    ///
    /// # Errors
    ///
    /// `Config` if a name appears twice; otherwise see [`Admin`].
    pub async fn create_topics(
        &self,
        topics: impl IntoIterator<Item = NewTopic>,
    ) -> Result<Results<TopicName, CreatedTopic>> {
        let mut wanted = BTreeMap::new();
        for topic in topics {
            let name = topic.name.clone();
            if wanted.insert(name.clone(), topic).is_some() {
                return Err(Error::new(ErrorKind::Config, format!("topic {name} is to be created twice")));
            }
        }
        let item = |name: &TopicName, version| match wanted.get(name) {
            Some(topic) => topic.to_message(version),
            None => Err(Error::new(ErrorKind::State, format!("topic {name} was not asked for"))),
        };
        let build = |topics, _, timeout_ms| CreateTopicsRequest { topics, timeout_ms, validate_only: false };
        let read = |response: &CreateTopicsResponse| {
            let said = response.topics.iter().map(|topic| Said {
                topic: topic.name.clone().into(),
                code: ErrorCode(topic.error_code),
                message: topic.error_message.clone(),
                value: CreatedTopic {
                    id: known(topic.topic_id),
                    partitions: Some(topic.num_partitions).filter(|&count| count > 0),
                    replication_factor: Some(topic.replication_factor).filter(|&factor| factor > 0),
                },
            });
            said.collect()
        };
        self.topic_items(wanted.keys().cloned().collect(), "was not created", item, build, read).await
    }

    /// Deletes topics with everything in them. Brokers finish the deletion in the background; for a moment some may still
    /// know the topic.
    ///
    /// # Errors
    ///
    /// See [`Admin`].
    pub async fn delete_topics<T: Into<TopicName>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Results<TopicName, ()>> {
        let item = |name: &TopicName, _| Ok(name.to_byte_string());
        let build = |names: Vec<Str>, version, timeout_ms| {
            let mut request = DeleteTopicsRequest { timeout_ms, ..Default::default() };
            if version >= 6 {
                let state = |name| DeleteTopicState { name: Some(name), ..Default::default() };
                request.topics = names.into_iter().map(state).collect();
            } else {
                request.topic_names = names;
            }
            request
        };
        let read = |response: &DeleteTopicsResponse| {
            let said = response.responses.iter().filter_map(|topic| {
                Some(Said {
                    topic: topic.name.clone()?.into(),
                    code: ErrorCode(topic.error_code),
                    message: topic.error_message.clone(),
                    value: (),
                })
            });
            said.collect()
        };
        self.topic_items(unique(topics), "was not deleted", item, build, read).await
    }

    /// Raises the number of partitions of topics to `count` each. Keys go to other partitions from then on.
    ///
    /// # Errors
    ///
    /// Per topic `INVALID_PARTITIONS` if it has as many or more already; otherwise see [`Admin`].
    pub async fn create_partitions<T: Into<TopicName>>(
        &self,
        topics: impl IntoIterator<Item = (T, i32)>,
    ) -> Result<Results<TopicName, ()>> {
        let counts: BTreeMap<TopicName, i32> =
            topics.into_iter().map(|(topic, count)| (topic.into(), count)).collect();
        let item = |name: &TopicName, _| {
            let count = counts.get(name).copied().unwrap_or_default();
            Ok(CreatePartitionsTopic { name: name.to_byte_string(), count, assignments: None })
        };
        let build =
            |topics, _, timeout_ms| CreatePartitionsRequest { topics, timeout_ms, validate_only: false };
        let read = |response: &CreatePartitionsResponse| {
            let said = response.results.iter().map(|topic| Said {
                topic: topic.name.clone().into(),
                code: ErrorCode(topic.error_code),
                message: topic.error_message.clone(),
                value: (),
            });
            said.collect()
        };
        self.topic_items(counts.keys().cloned().collect(), "got no more partitions", item, build, read).await
    }

    /// All topics that the principal may describe, Kafka's own included.
    ///
    /// # Errors
    ///
    /// See [`Admin`].
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>> {
        let response = self.metadata(None).await?;
        let mut topics: Vec<_> = (response.topics.into_iter())
            .filter(|topic| ErrorCode(topic.error_code).is_ok())
            .filter_map(|topic| {
                Some(TopicListing {
                    name: topic.name?.into(),
                    id: known(topic.topic_id),
                    partitions: topic.partitions.len(),
                    internal: topic.is_internal,
                })
            })
            .collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Partitions, leaders and replicas of topics, as one broker sees them now.
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
        let response = self.metadata(Some(&names)).await?;
        let mut answers: BTreeMap<TopicName, MetadataResponseTopic> = (response.topics.into_iter())
            .filter_map(|topic| Some((topic.name.clone()?.into(), topic)))
            .collect();
        let mut describe = |name: &TopicName| {
            let Some(topic) = answers.remove(name) else {
                let message = format!("topic {name}: the broker said nothing about it");
                return Err(Error::new(ErrorKind::Protocol, message));
            };
            check(ErrorCode(topic.error_code), None, format!("topic {name} cannot be described"))?;
            Ok(TopicDescription::new(name, topic))
        };
        for name in names {
            let described = describe(&name);
            results.insert(name, described);
        }
        Ok(results)
    }

    /// Asks any node about `topics`, or all.
    pub(super) async fn metadata(&self, topics: Option<&[TopicName]>) -> Result<MetadataResponse> {
        let build = |version| {
            let ask = |name: &TopicName| MetadataRequestTopic {
                name: Some(name.to_byte_string()),
                ..Default::default()
            };
            let topics = match topics {
                None if version == 0 => Some(Vec::new()),
                topics => topics.map(|topics| topics.iter().map(ask).collect()),
            };
            Ok(MetadataRequest { topics, allow_auto_topic_creation: version < 4, ..Default::default() })
        };
        let check = |response: &MetadataResponse| ErrorCode(response.error_code);
        self.cluster.request(Target::Any, Call::until(self.deadline()), build, check).await
    }
}

impl TopicDescription {
    fn new(name: &TopicName, topic: MetadataResponseTopic) -> Self {
        let nodes = |ids: &Array<i32>| ids.iter().map(NodeId).collect();
        let mut partitions: Vec<_> = (topic.partitions.iter())
            .map(|partition| PartitionDescription {
                partition: Partition(partition.partition_index),
                leader: (partition.leader_id >= 0).then_some(NodeId(partition.leader_id)),
                leader_epoch: LeaderEpoch(partition.leader_epoch),
                replicas: nodes(&partition.replica_nodes),
                in_sync: nodes(&partition.isr_nodes),
                offline: nodes(&partition.offline_replicas),
            })
            .collect();
        partitions.sort_by_key(|partition| partition.partition);
        Self { name: name.clone(), id: known(topic.topic_id), internal: topic.is_internal, partitions }
    }
}

fn known(id: Uuid) -> Option<Uuid> {
    (id != Uuid::default()).then_some(id)
}

fn unique<T: Into<TopicName>>(topics: impl IntoIterator<Item = T>) -> Vec<TopicName> {
    let mut names: Vec<_> = topics.into_iter().map(Into::into).collect();
    names.sort();
    names.dedup();
    names
}
