//! Topics: create, delete, list, add partitions.

use std::collections::{BTreeMap, BTreeSet};

use super::items::Said;
use super::{Admin, Results};
use crate::cluster::{Call, Target};
use crate::types::{NodeId, TopicName};
use crate::wire::messages::create_partitions::{CreatePartitionsAssignment, CreatePartitionsTopic};
use crate::wire::messages::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use crate::wire::messages::delete_topics::DeleteTopicState;
use crate::wire::messages::metadata::MetadataRequestTopic;
use crate::wire::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, MetadataRequest, MetadataResponse,
};
use crate::wire::{Str, Uuid};
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

/// More partitions for a topic: how many it is to have, and where the new ones go. A number alone leaves that to the brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionIncrease {
    count: i32,
    replicas: Vec<Vec<NodeId>>,
}

impl PartitionIncrease {
    /// `count` partitions in all, old ones included.
    pub fn to(count: i32) -> Self {
        Self { count, replicas: Vec::new() }
    }

    /// The nodes of each new partition, the preferred leader first.
    #[must_use]
    pub fn replicas(mut self, replicas: impl IntoIterator<Item = Vec<NodeId>>) -> Self {
        self.replicas = replicas.into_iter().collect();
        self
    }
}

impl From<i32> for PartitionIncrease {
    fn from(count: i32) -> Self {
        Self::to(count)
    }
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
        self.create_or_validate(topics, false).await
    }

    /// What [`create_topics`](Self::create_topics) would say, without creating anything. Brokers give topics that are not
    /// made no id.
    ///
    /// # Errors
    ///
    /// As [`create_topics`](Self::create_topics).
    pub async fn validate_topics(
        &self,
        topics: impl IntoIterator<Item = NewTopic>,
    ) -> Result<Results<TopicName, CreatedTopic>> {
        self.create_or_validate(topics, true).await
    }

    async fn create_or_validate(
        &self,
        topics: impl IntoIterator<Item = NewTopic>,
        validate_only: bool,
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
        let build = |topics, _, timeout_ms| CreateTopicsRequest { topics, timeout_ms, validate_only };
        let read = |response: &CreateTopicsResponse| {
            let said = response.topics.iter().map(|topic| Said {
                item: topic.name.clone().into(),
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
                    item: topic.name.clone()?.into(),
                    code: ErrorCode(topic.error_code),
                    message: topic.error_message.clone(),
                    value: (),
                })
            });
            said.collect()
        };
        self.topic_items(unique(topics), "was not deleted", item, build, read).await
    }

    /// Deletes topics that have these ids, whatever their names are by now: one that was made anew under an old name is safe
    /// (Kafka 2.8).
    ///
    /// # Errors
    ///
    /// Per id `UNKNOWN_TOPIC_ID`; `UnsupportedVersion` from older brokers; otherwise see [`Admin`].
    pub async fn delete_topics_by_id(
        &self,
        ids: impl IntoIterator<Item = Uuid>,
    ) -> Result<Results<Uuid, ()>> {
        let ids: BTreeSet<Uuid> = ids.into_iter().collect();
        let item = |id: &Uuid, version| {
            if version < 6 {
                let message = "brokers before 2.8 do not delete topics by id";
                return Err(Error::new(ErrorKind::UnsupportedVersion, message));
            }
            Ok(DeleteTopicState { name: None, topic_id: *id })
        };
        let build = |topics, _, timeout_ms| DeleteTopicsRequest { topics, timeout_ms, ..Default::default() };
        let read = |response: &DeleteTopicsResponse| {
            let said = response.responses.iter().map(|topic| Said {
                item: topic.topic_id,
                code: ErrorCode(topic.error_code),
                message: topic.error_message.clone(),
                value: (),
            });
            said.collect()
        };
        let what = |id: &Uuid| format!("topic with id {id} was not deleted");
        self.items_at(Target::Controller, ids.into_iter().collect(), what, item, build, read).await
    }

    /// Raises the number of partitions of topics, given as number or as [`PartitionIncrease`]. Keys go to other partitions from
    /// then on.
    ///
    /// # Errors
    ///
    /// Per topic `INVALID_PARTITIONS` if it has as many or more already; otherwise see [`Admin`].
    pub async fn create_partitions<T: Into<TopicName>, P: Into<PartitionIncrease>>(
        &self,
        topics: impl IntoIterator<Item = (T, P)>,
    ) -> Result<Results<TopicName, ()>> {
        let topics = topics.into_iter().map(|(topic, more)| (topic.into(), more.into()));
        self.add_partitions(topics.collect(), false).await
    }

    /// What [`create_partitions`](Self::create_partitions) would say, without doing anything.
    ///
    /// # Errors
    ///
    /// As [`create_partitions`](Self::create_partitions).
    pub async fn validate_partitions<T: Into<TopicName>, P: Into<PartitionIncrease>>(
        &self,
        topics: impl IntoIterator<Item = (T, P)>,
    ) -> Result<Results<TopicName, ()>> {
        let topics = topics.into_iter().map(|(topic, more)| (topic.into(), more.into()));
        self.add_partitions(topics.collect(), true).await
    }

    async fn add_partitions(
        &self,
        wanted: BTreeMap<TopicName, PartitionIncrease>,
        validate_only: bool,
    ) -> Result<Results<TopicName, ()>> {
        let item = |name: &TopicName, _| {
            let Some(more) = wanted.get(name) else {
                return Err(Error::new(ErrorKind::State, format!("topic {name} was not asked for")));
            };
            let places = more.replicas.iter().map(|nodes| CreatePartitionsAssignment {
                broker_ids: nodes.iter().map(|node| node.0).collect(),
            });
            let assignments = (!more.replicas.is_empty()).then(|| places.collect());
            Ok(CreatePartitionsTopic { name: name.to_byte_string(), count: more.count, assignments })
        };
        let build = |topics, _, timeout_ms| CreatePartitionsRequest { topics, timeout_ms, validate_only };
        let read = |response: &CreatePartitionsResponse| {
            let said = response.results.iter().map(|topic| Said {
                item: topic.name.clone().into(),
                code: ErrorCode(topic.error_code),
                message: topic.error_message.clone(),
                value: (),
            });
            said.collect()
        };
        self.topic_items(wanted.keys().cloned().collect(), "got no more partitions", item, build, read).await
    }

    /// All topics that the principal may describe, Kafka's own included.
    ///
    /// # Errors
    ///
    /// See [`Admin`].
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>> {
        let response = self.metadata(None, self.call()).await?;
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

    /// Asks any node about `topics`, or all.
    pub(super) async fn metadata(
        &self,
        topics: Option<&[TopicName]>,
        call: Call,
    ) -> Result<MetadataResponse> {
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
        self.cluster.request(Target::Any, call, build, check).await
    }
}

pub(super) fn known(id: Uuid) -> Option<Uuid> {
    (id != Uuid::default()).then_some(id)
}

pub(super) fn unique<T: Into<TopicName>>(topics: impl IntoIterator<Item = T>) -> Vec<TopicName> {
    let mut names: Vec<_> = topics.into_iter().map(Into::into).collect();
    names.sort();
    names.dedup();
    names
}
