//! The requests of a group member, each one attempt at the coordinator. Whether and when to try again is decided by the
//! machines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tokio::time::{Instant, timeout_at};

use crate::cluster::{Call, Cluster, CoordinatorKind, Duty, Metadata, Target};
use crate::consumer::group::assignor::Topics;
use crate::consumer::group::classic::{JoinAnswer, SyncAnswer};
use crate::consumer::mark::Mark;
use crate::types::{TopicName, TopicPartition};
use crate::wire::messages::heartbeat::HeartbeatRequest;
use crate::wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use crate::wire::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use crate::wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use crate::wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use crate::wire::{Array, Request, Uuid};
use crate::{Error, ErrorCode, Result};

/// First version of OffsetCommit and OffsetFetch that names topics by id.
const TOPIC_IDS: i16 = 10;
/// What the protocol type of consumers is called.
const PROTOCOL_TYPE: ByteString = ByteString::from_static("consumer");

/// Who is calling.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) cluster: Cluster,
    pub(crate) group: ByteString,
    /// Names the connection for JoinGroup and SyncGroup.
    pub(crate) id: u64,
}

impl Caller {
    /// One attempt.
    async fn call<R: Request>(
        &self,
        duty: Duty,
        deadline: Instant,
        build: impl FnOnce(i16) -> Result<R>,
    ) -> Result<R::Response> {
        let setup = deadline.min(Instant::now() + self.cluster.config().connection.request_timeout);
        let node = self.cluster.coordinator(CoordinatorKind::Group, &self.group, setup).await?;
        let connection = self.cluster.connection(node, duty, setup).await?;
        let version = connection.version(R::KEY, R::VERSIONS)?;
        Ok(connection.send(&build(version)?, version, deadline).await?)
    }

    pub(crate) fn forget_coordinator(&self) {
        self.cluster.coordinator_failed(CoordinatorKind::Group, &self.group);
    }

    pub(crate) async fn join(
        &self,
        member_id: ByteString,
        protocols: Vec<(ByteString, Bytes)>,
        reason: String,
        session_timeout: Duration,
        rebalance_timeout: Duration,
    ) -> Result<JoinAnswer> {
        let request_timeout = self.cluster.config().connection.request_timeout;
        let deadline = Instant::now() + request_timeout.max(rebalance_timeout + Duration::from_secs(5));
        let response = self
            .call(Duty::Group(self.id), deadline, |_| {
                Ok(JoinGroupRequest {
                    group_id: self.group.clone(),
                    session_timeout_ms: millis(session_timeout),
                    rebalance_timeout_ms: millis(rebalance_timeout),
                    member_id,
                    protocol_type: PROTOCOL_TYPE,
                    protocols: protocols
                        .into_iter()
                        .map(|(name, metadata)| JoinGroupRequestProtocol { name, metadata })
                        .collect(),
                    reason: Some(reason.into()),
                    ..JoinGroupRequest::default()
                })
            })
            .await?;
        Ok(JoinAnswer {
            code: response.error_code,
            member_id: copied(&response.member_id),
            generation: response.generation_id,
            protocol: response.protocol_name.as_ref().map(copied).unwrap_or_default(),
            leader: copied(&response.leader),
            skip_assignment: response.skip_assignment,
            members: response
                .members
                .into_iter()
                .map(|member| {
                    (
                        copied(&member.member_id),
                        member.group_instance_id.as_ref().map(copied),
                        member.metadata,
                    )
                })
                .collect(),
        })
    }

    pub(crate) async fn sync(
        &self,
        member_id: ByteString,
        generation: i32,
        protocol: ByteString,
        assignments: Vec<(ByteString, Bytes)>,
        rebalance_timeout: Duration,
    ) -> Result<SyncAnswer> {
        let request_timeout = self.cluster.config().connection.request_timeout;
        let deadline = Instant::now() + request_timeout.max(rebalance_timeout + Duration::from_secs(5));
        let response = self
            .call(Duty::Group(self.id), deadline, |_| {
                Ok(SyncGroupRequest {
                    group_id: self.group.clone(),
                    generation_id: generation,
                    member_id,
                    protocol_type: Some(PROTOCOL_TYPE),
                    protocol_name: Some(protocol),
                    assignments: assignments
                        .into_iter()
                        .map(|(member_id, assignment)| SyncGroupRequestAssignment { member_id, assignment })
                        .collect(),
                    ..SyncGroupRequest::default()
                })
            })
            .await?;
        Ok(SyncAnswer {
            code: response.error_code,
            protocol: response.protocol_name.as_ref().map(copied),
            assignment: response.assignment,
        })
    }

    pub(crate) async fn heartbeat(
        &self,
        member_id: ByteString,
        generation: i32,
        deadline: Instant,
    ) -> Result<ErrorCode> {
        let response = self
            .call(Duty::Heartbeat, deadline, |_| {
                Ok(HeartbeatRequest {
                    group_id: self.group.clone(),
                    generation_id: generation,
                    member_id,
                    ..HeartbeatRequest::default()
                })
            })
            .await?;
        Ok(ErrorCode(response.error_code))
    }

    pub(crate) async fn leave(&self, member_id: ByteString, deadline: Instant) -> Result<()> {
        let reason = ByteString::from_static("the consumer is closing");
        self.call(Duty::Heartbeat, deadline, |version| {
            let mut request =
                LeaveGroupRequest { group_id: self.group.clone(), ..LeaveGroupRequest::default() };
            if version >= 3 {
                let reason = (version >= 5).then_some(reason);
                request.members = vec![MemberIdentity { member_id, reason, ..MemberIdentity::default() }];
            } else {
                request.member_id = member_id;
            }
            Ok(request)
        })
        .await?;
        Ok(())
    }

    /// Codes by partition.
    pub(crate) async fn commit(
        &self,
        member_id: ByteString,
        generation: i32,
        marks: &[Mark],
        deadline: Instant,
    ) -> Result<BTreeMap<TopicPartition, ErrorCode>> {
        let metadata = self.cluster.metadata();
        let response = self
            .call(Duty::Slow(self.id), deadline, |version| {
                let mut request = OffsetCommitRequest {
                    group_id: self.group.clone(),
                    generation_id_or_member_epoch: generation,
                    member_id,
                    ..OffsetCommitRequest::default()
                };
                for mark in marks {
                    let partition = OffsetCommitRequestPartition {
                        partition_index: mark.topic_partition().partition.0,
                        committed_offset: mark.offset().0,
                        committed_leader_epoch: if version >= 6 { mark.epoch().0 } else { -1 },
                        committed_metadata: Some(mark.text_bytes().unwrap_or_default()),
                    };
                    let topic = &mark.topic_partition().topic;
                    match request.topics.last_mut() {
                        Some(last) if *last.name == *topic.as_str() => last.partitions.push(partition),
                        _ => request.topics.push(OffsetCommitRequestTopic {
                            name: topic.to_byte_string(),
                            topic_id: Uuid::default(),
                            partitions: vec![partition],
                        }),
                    }
                }
                if version >= TOPIC_IDS {
                    for topic in &mut request.topics {
                        topic.topic_id = self.topic_id(&metadata, &topic.name)?;
                        topic.name = ByteString::new();
                    }
                }
                Ok(request)
            })
            .await?;
        let mut codes = BTreeMap::new();
        for topic in response.topics {
            let Some(name) = name_of(&metadata, topic.name, topic.topic_id) else { continue };
            for partition in topic.partitions {
                let partition_id = TopicPartition::new(name.to_byte_string(), partition.partition_index);
                codes.insert(partition_id, ErrorCode(partition.error_code));
            }
        }
        Ok(codes)
    }

    /// Committed offset, leader epoch and text by partition, `None` where there is no committed offset, or a code. Tried
    /// until `deadline`.
    pub(crate) async fn committed(
        &self,
        partitions: &[TopicPartition],
        deadline: Instant,
    ) -> Result<Committed> {
        let topics: BTreeSet<TopicName> =
            partitions.iter().map(|partition| partition.topic.clone()).collect();
        // Names alone do for all but the newest brokers; those have ids for all topics that exist.
        topic_counts(&self.cluster, &topics, deadline.min(Instant::now() + Duration::from_secs(5))).await;
        let metadata = self.cluster.metadata();
        let by_topic: Vec<(TopicName, Array<i32>)> = topics
            .iter()
            .map(|topic| {
                let of_topic = partitions.iter().filter(|partition| partition.topic == *topic);
                (topic.clone(), of_topic.map(|partition| partition.partition.0).collect())
            })
            .collect();
        let response = self
            .cluster
            .request(
                Target::Coordinator(CoordinatorKind::Group, &self.group),
                Call::slow(deadline, self.id),
                |version| {
                    let mut request =
                        OffsetFetchRequest { require_stable: version >= 7, ..OffsetFetchRequest::default() };
                    if version < 8 {
                        let topic =
                            |(name, partition_indexes): &(TopicName, Array<i32>)| OffsetFetchRequestTopic {
                                name: name.to_byte_string(),
                                partition_indexes: partition_indexes.clone(),
                            };
                        request.group_id = self.group.clone();
                        request.topics = Some(by_topic.iter().map(topic).collect());
                        return Ok(request);
                    }
                    let mut topics = Vec::new();
                    for (name, partition_indexes) in &by_topic {
                        let by_id = version >= TOPIC_IDS;
                        topics.push(OffsetFetchRequestTopics {
                            name: if by_id { ByteString::new() } else { name.to_byte_string() },
                            topic_id: if by_id { self.topic_id(&metadata, name)? } else { Uuid::default() },
                            partition_indexes: partition_indexes.clone(),
                        });
                    }
                    request.groups = vec![OffsetFetchRequestGroup {
                        group_id: self.group.clone(),
                        topics: Some(topics),
                        ..OffsetFetchRequestGroup::default()
                    }];
                    Ok(request)
                },
                |response| {
                    let group = response.groups.first().map_or(0, |group| group.error_code);
                    ErrorCode(if response.error_code == 0 { group } else { response.error_code })
                },
            )
            .await?;
        let mut committed = Committed::new();
        let mut add =
            |name: &TopicName, index: i32, offset: i64, epoch: i32, text: Option<ByteString>, code: i16| {
                let value = match ErrorCode(code) {
                    ErrorCode::NONE => Ok((offset >= 0).then_some((offset, epoch, text))),
                    code => Err(code),
                };
                committed.insert(TopicPartition::new(name.to_byte_string(), index), value);
            };
        for topic in response.topics {
            let name = TopicName::from(topic.name);
            for p in topic.partitions {
                let text = p.metadata.as_ref().map(copied);
                add(
                    &name,
                    p.partition_index,
                    p.committed_offset,
                    p.committed_leader_epoch,
                    text,
                    p.error_code,
                );
            }
        }
        for topic in response.groups.into_iter().flat_map(|group| group.topics) {
            let Some(name) = name_of(&metadata, topic.name, topic.topic_id) else { continue };
            for p in topic.partitions {
                let text = p.metadata.as_ref().map(copied);
                add(
                    &name,
                    p.partition_index,
                    p.committed_offset,
                    p.committed_leader_epoch,
                    text,
                    p.error_code,
                );
            }
        }
        Ok(committed)
    }

    fn topic_id(&self, metadata: &Metadata, name: &str) -> Result<Uuid> {
        let id = metadata.topic(name).map(|topic| topic.id).filter(|id| *id != Uuid::default());
        id.ok_or_else(|| {
            self.cluster.want_topic(&TopicName::from(name.to_owned()), false);
            Error::from_code(ErrorCode::UNKNOWN_TOPIC_ID, format!("the id of topic {name} is not known yet"))
        })
    }
}

/// What a group has committed: offset, leader epoch, text.
pub(crate) type Committed =
    BTreeMap<TopicPartition, std::result::Result<Option<(i64, i32, Option<ByteString>)>, ErrorCode>>;

/// Partition counts of `topics` as soon as each is known to exist or not; at `deadline`, of those that are known.
pub(crate) async fn topic_counts(
    cluster: &Cluster,
    topics: &BTreeSet<TopicName>,
    deadline: Instant,
) -> Topics {
    let mut snapshots = cluster.subscribe();
    let first = snapshots.borrow().generation;
    for topic in topics {
        if cluster.metadata().topic(topic).is_none() {
            cluster.want_topic(topic, false);
        }
    }
    loop {
        let metadata = std::sync::Arc::clone(&snapshots.borrow_and_update());
        let answered = |topic: &TopicName| {
            metadata.topic(topic).is_some()
                || (metadata.generation > first && metadata.errors.contains_key(topic))
        };
        if topics.iter().all(answered)
            || !matches!(timeout_at(deadline, snapshots.changed()).await, Ok(Ok(())))
        {
            return counts(&metadata, topics);
        }
    }
}

/// Partition counts of those `topics` that exist.
pub(crate) fn counts(metadata: &Metadata, topics: &BTreeSet<TopicName>) -> Topics {
    topics
        .iter()
        .filter_map(|topic| {
            let count = i32::try_from(metadata.topic(topic)?.partition_count()).ok()?;
            (count > 0).then(|| (topic.clone(), count))
        })
        .collect()
}

fn name_of(metadata: &Metadata, name: ByteString, id: Uuid) -> Option<TopicName> {
    if !name.is_empty() {
        return Some(TopicName::from(copied(&name)));
    }
    metadata.topic_by_id(id).map(|topic| topic.name.clone())
}

/// What outlives its frame is copied, so that the frame can go.
fn copied(text: &ByteString) -> ByteString {
    ByteString::from(&**text)
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
