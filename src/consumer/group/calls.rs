//! The requests of a group member, each one attempt at the coordinator. Whether and when to try again is decided by the
//! machines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::assignor::Topics;
use super::classic::{self, Answer, JoinAnswer, SyncAnswer};
use super::commits::Sending;
use super::shared::counts;
use crate::cluster::{Call, Cluster, Connection, CoordinatorKind, Duty, Metadata, Subject, Target};
use crate::consumer::config::ConsumerConfig;
use crate::sync::{Mutex, lock};
use crate::types::{GroupId, NodeId, TopicName, TopicPartition};
use crate::wire::messages::heartbeat::HeartbeatRequest;
use crate::wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use crate::wire::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity};
use crate::wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
    OffsetFetchResponse,
};
use crate::wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use crate::wire::{Array, Request, Uuid, VersionRange};
use crate::{Error, ErrorCode, ErrorKind, Result, deadline};

/// First version of OffsetCommit and OffsetFetch that names topics by id.
const TOPIC_IDS: i16 = 10;
/// How long the id of a topic that is not known yet is waited for before the topic is asked for by name.
const METADATA_PATIENCE: Duration = Duration::from_secs(5);
/// Beyond what the coordinator may take by itself.
const MARGIN: Duration = Duration::from_secs(5);
/// First version of JoinGroup that answers whoever has no member id with one (KIP-394).
const ID_FIRST: i16 = 4;
/// What the protocol type of consumers is called.
const PROTOCOL_TYPE: ByteString = ByteString::from_static("consumer");

/// Who is calling.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) cluster: Cluster,
    pub(crate) group: ByteString,
    /// Names the member's connections, and what it reports.
    pub(crate) id: u64,
    /// Names the connection for offsets, which wait for a log: nothing else waits behind them.
    pub(crate) offsets: u64,
}

impl Caller {
    /// One attempt; `build` makes the request for a version, and says when its answer is waited for no longer.
    async fn call<R: Request>(
        &self,
        duty: Duty,
        version_max: i16,
        build: impl FnOnce(i16) -> (R, Instant),
    ) -> Result<R::Response> {
        let (node, connection) = self.connection(duty).await?;
        let answer = self.call_on(connection, version_max, build);
        self.cluster.coordinated(CoordinatorKind::Group, &self.group, node, answer).await?
    }

    /// A connection to the coordinator, wherever it is.
    async fn connection(&self, duty: Duty) -> Result<(NodeId, Connection)> {
        let setup = self.in_time(Duration::ZERO);
        let node = self.cluster.coordinator(CoordinatorKind::Group, &self.group, setup).await?;
        Ok((node, self.cluster.connection(node, duty, setup).await?))
    }

    async fn call_on<R: Request>(
        &self,
        connection: Connection,
        version_max: i16,
        build: impl FnOnce(i16) -> (R, Instant),
    ) -> Result<R::Response> {
        let ours = VersionRange { min: R::VERSIONS.min, max: R::VERSIONS.max.min(version_max) };
        let version = connection.version(R::KEY, ours)?;
        let (request, deadline) = build(version);
        Ok(connection.send(&request, version, deadline).await?)
    }

    /// When a request must have been answered for which the coordinator may take `server_wait` by itself.
    fn in_time(&self, server_wait: Duration) -> Instant {
        let request_timeout = self.cluster.config().connection.request_timeout;
        deadline::after(Instant::now(), request_timeout.max(server_wait.saturating_add(MARGIN)))
    }

    /// What conditions of the group are about.
    pub(crate) fn subject(&self) -> Subject {
        Subject::Group(GroupId::from(self.group.clone()))
    }

    pub(crate) fn forget_coordinator(&self) {
        self.cluster.coordinator_failed(CoordinatorKind::Group, &self.group);
    }

    /// Asks what a member of a classic group has to ask; nobody joins when it is `over`.
    pub(crate) async fn ask(
        &self,
        request: classic::Request,
        config: &ConsumerConfig,
        over: impl Future<Output = ()>,
    ) -> Answer {
        let (session, rebalance) = (config.session_timeout, config.rebalance_timeout);
        match request {
            classic::Request::Join { ticket, member_id, protocols, reason } => {
                let answer = self.join(member_id, protocols, reason, session, rebalance, over).await;
                Answer::Join(ticket, answer)
            }
            classic::Request::Topics { ticket, topics, deadline } => {
                Answer::Topics(ticket, topic_counts(&self.cluster, &topics, deadline).await)
            }
            classic::Request::Sync { ticket, member_id, generation, protocol, assignments } => {
                let answer = self.sync(member_id, generation, protocol, assignments, rebalance).await;
                Answer::Sync(ticket, answer)
            }
            classic::Request::Heartbeat { ticket, member_id, generation, deadline } => {
                Answer::Heartbeat(ticket, self.heartbeat(member_id, generation, deadline).await)
            }
        }
    }

    /// Joins, unless it is `over` before the request can be sent: then the coordinator knows of nobody.
    async fn join(
        &self,
        member_id: ByteString,
        protocols: Vec<(ByteString, Bytes)>,
        reason: String,
        session_timeout: Duration,
        rebalance_timeout: Duration,
        over: impl Future<Output = ()>,
    ) -> Result<JoinAnswer> {
        let (node, connection) = tokio::select! {
            biased; // Nobody joins who is about to leave.
            () = over => return Err(Error::new(ErrorKind::State, "the consumer is closing")),
            connection = self.connection(Duty::Group(self.id)) => connection?,
        };
        let answer = self.call_on(connection, i16::MAX, |version| {
            // Whoever has no id yet is given one at once.
            let at_once = member_id.is_empty() && version >= ID_FIRST;
            let deadline = self.in_time(if at_once { Duration::ZERO } else { rebalance_timeout });
            let request = JoinGroupRequest {
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
            };
            (request, deadline)
        });
        let response = self.cluster.coordinated(CoordinatorKind::Group, &self.group, node, answer).await??;
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

    async fn sync(
        &self,
        member_id: ByteString,
        generation: i32,
        protocol: ByteString,
        assignments: Vec<(ByteString, Bytes)>,
        rebalance_timeout: Duration,
    ) -> Result<SyncAnswer> {
        let response = self
            .call(Duty::Group(self.id), i16::MAX, |_| {
                let request = SyncGroupRequest {
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
                };
                (request, self.in_time(rebalance_timeout))
            })
            .await?;
        Ok(SyncAnswer {
            code: response.error_code,
            protocol: response.protocol_name.as_ref().map(copied),
            assignment: response.assignment,
        })
    }

    async fn heartbeat(
        &self,
        member_id: ByteString,
        generation: i32,
        deadline: Instant,
    ) -> Result<ErrorCode> {
        let response = self
            .call(Duty::Heartbeat, i16::MAX, |_| {
                let group_id = self.group.clone();
                let generation_id = generation;
                let request = HeartbeatRequest { group_id, generation_id, member_id, ..Default::default() };
                (request, deadline)
            })
            .await?;
        Ok(ErrorCode(response.error_code))
    }

    /// Leaves the group, tried until `deadline`, wherever the coordinator goes. Nobody waits for a back-off that was made for
    /// those who have time.
    pub(crate) async fn leave(&self, member_id: ByteString, deadline: Instant) -> Result<()> {
        self.cluster.hurry();
        let reason = ByteString::from_static("the consumer is closing");
        let build = |version| {
            let mut request =
                LeaveGroupRequest { group_id: self.group.clone(), ..LeaveGroupRequest::default() };
            if version >= 3 {
                let (member_id, reason) = (member_id.clone(), (version >= 5).then(|| reason.clone()));
                request.members = vec![MemberIdentity { member_id, reason, ..MemberIdentity::default() }];
            } else {
                request.member_id = member_id.clone();
            }
            Ok(request)
        };
        let code = |response: &LeaveGroupResponse| {
            let member = response.members.first().map_or(0, |member| member.error_code);
            match ErrorCode(if response.error_code == 0 { member } else { response.error_code }) {
                // It has been left already.
                ErrorCode::UNKNOWN_MEMBER_ID => ErrorCode::NONE,
                code => code,
            }
        };
        let target = Target::Coordinator(CoordinatorKind::Group, &self.group);
        let call = Call { duty: Duty::Heartbeat, ..Call::until(deadline) };
        self.cluster.request(target, call, build, code).await?;
        Ok(())
    }

    /// Codes by partition.
    pub(crate) async fn commit(
        &self,
        member_id: ByteString,
        generation: i32,
        sending: &[Sending],
    ) -> Result<BTreeMap<TopicPartition, ErrorCode>> {
        let by_id = sending.iter().all(|item| item.topic_id != Uuid::default());
        let response = self
            .call(Duty::Slow(self.offsets), version_max(by_id), |version| {
                let mut request = OffsetCommitRequest {
                    group_id: self.group.clone(),
                    generation_id_or_member_epoch: generation,
                    member_id,
                    ..OffsetCommitRequest::default()
                };
                // In order, so that those of a topic stand side by side.
                let mut current = None;
                for Sending { mark, topic_id } in sending {
                    let partition = OffsetCommitRequestPartition {
                        partition_index: mark.topic_partition().partition.0,
                        committed_offset: mark.offset().0,
                        committed_leader_epoch: if version >= 6 { mark.epoch().0 } else { -1 },
                        committed_metadata: Some(mark.text_bytes().unwrap_or_default()),
                    };
                    let topic = &mark.topic_partition().topic;
                    match request.topics.last_mut().filter(|_| current == Some(topic)) {
                        Some(last) => last.partitions.push(partition),
                        None => {
                            let (name, topic_id) = named(topic, *topic_id, version);
                            let partitions = vec![partition];
                            request.topics.push(OffsetCommitRequestTopic { name, topic_id, partitions });
                        }
                    }
                    current = Some(topic);
                }
                (request, self.in_time(Duration::ZERO))
            })
            .await?;
        let names: Names<'_> =
            sending.iter().map(|item| (item.topic_id.0, &item.mark.topic_partition().topic)).collect();
        let mut codes = BTreeMap::new();
        for topic in response.topics {
            let Some(name) = name_of(&names, &topic.name, topic.topic_id) else { continue };
            for partition in topic.partitions {
                let partition_id = TopicPartition::new(name.to_byte_string(), partition.partition_index);
                codes.insert(partition_id, ErrorCode(partition.error_code));
            }
        }
        Ok(codes)
    }

    /// What the group has committed for `partitions`, whose topics have these ids (zero where it is not known; then all are
    /// asked for by name). Tried until `deadline`, as far as the group as a whole is concerned.
    async fn committed_of(
        &self,
        partitions: &BTreeMap<TopicName, (Uuid, Array<i32>)>,
        deadline: Instant,
    ) -> Result<Committed> {
        let by_id = partitions.values().all(|(id, _)| *id != Uuid::default());
        let build = |version| {
            let mut request =
                OffsetFetchRequest { require_stable: version >= 7, ..OffsetFetchRequest::default() };
            if version < 8 {
                let topic = |(name, (_, indexes)): (&TopicName, &(Uuid, Array<i32>))| {
                    let partition_indexes = indexes.clone();
                    OffsetFetchRequestTopic { name: name.to_byte_string(), partition_indexes }
                };
                request.group_id = self.group.clone();
                request.topics = Some(partitions.iter().map(topic).collect());
                return Ok(request);
            }
            let topic = |(name, (id, indexes)): (&TopicName, &(Uuid, Array<i32>))| {
                let (name, topic_id) = named(name, *id, version);
                OffsetFetchRequestTopics { name, topic_id, partition_indexes: indexes.clone() }
            };
            request.groups = vec![OffsetFetchRequestGroup {
                group_id: self.group.clone(),
                topics: Some(partitions.iter().map(topic).collect()),
                ..OffsetFetchRequestGroup::default()
            }];
            Ok(request)
        };
        let code = |response: &OffsetFetchResponse| {
            let group = response.groups.first().map_or(0, |group| group.error_code);
            ErrorCode(if response.error_code == 0 { group } else { response.error_code })
        };
        let target = Target::Coordinator(CoordinatorKind::Group, &self.group);
        let call = Call { version_max: version_max(by_id), ..Call::slow(deadline, self.offsets) };
        let response = self.cluster.request(target, call, build, code).await?;
        let names: Names<'_> = partitions.iter().map(|(name, (id, _))| (id.0, name)).collect();
        let mut committed = Committed::new();
        let mut add = |name: &TopicName, index, offset, epoch, text: Option<&ByteString>, code| {
            let value = match ErrorCode(code) {
                ErrorCode::NONE => Ok((offset >= 0).then(|| (offset, epoch, text.map(copied)))),
                code => Err(code),
            };
            committed.insert(TopicPartition::new(name.to_byte_string(), index), value);
        };
        for topic in response.topics {
            let name = TopicName::from(copied(&topic.name));
            for p in topic.partitions {
                let (offset, epoch) = (p.committed_offset, p.committed_leader_epoch);
                add(&name, p.partition_index, offset, epoch, p.metadata.as_ref(), p.error_code);
            }
        }
        for topic in response.groups.into_iter().flat_map(|group| group.topics) {
            let Some(name) = name_of(&names, &topic.name, topic.topic_id) else { continue };
            for p in topic.partitions {
                let (offset, epoch) = (p.committed_offset, p.committed_leader_epoch);
                add(&name, p.partition_index, offset, epoch, p.metadata.as_ref(), p.error_code);
            }
        }
        Ok(committed)
    }

    /// Committed offset, leader epoch and text by partition, `None` where there is no committed offset, or a code. What the
    /// coordinator left out is absent. Tells `took` as answers come: topics whose id is known do not wait for others.
    pub(crate) async fn committed(
        &self,
        partitions: &[TopicPartition],
        deadline: Instant,
        took: impl Fn(Committed),
    ) -> Result<()> {
        let metadata = self.cluster.metadata();
        let (known, unknown): (Vec<_>, Vec<_>) =
            partitions.iter().partition(|partition| metadata.topic(&partition.topic).is_some());
        let known = async {
            if !known.is_empty() {
                took(self.committed_of(&with_ids(&known, &metadata), deadline).await?);
            }
            Ok(())
        };
        let unknown = async {
            if !unknown.is_empty() {
                let topics = unknown.iter().map(|partition| partition.topic.clone()).collect();
                topic_counts(&self.cluster, &topics, deadline.min(Instant::now() + METADATA_PATIENCE)).await;
                let metadata = self.cluster.metadata();
                took(self.committed_of(&with_ids(&unknown, &metadata), deadline).await?);
            }
            Ok(())
        };
        let (known, unknown) = tokio::join!(known, unknown);
        known.and(unknown)
    }
}

impl Caller {
    /// As [`committed`](Self::committed), for somebody who waits: what cannot be told yet is asked again until the default
    /// deadline, and what is refused is an error.
    pub(crate) async fn committed_all(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Option<CommittedOffset>>> {
        let deadline = self.cluster.default_deadline();
        let all = Mutex::new(Committed::new());
        let mut failures = 0;
        let mut missing = partitions.to_vec();
        while !missing.is_empty() {
            let took = |committed| lock(&all).extend(committed);
            self.committed(&missing, deadline, took).await?;
            {
                let told = lock(&all);
                missing.retain(|partition| match told.get(partition) {
                    Some(Err(code)) => code.is_retriable(),
                    Some(Ok(_)) => false,
                    None => true,
                });
            }
            failures += 1;
            let dice = self.cluster.runtime().random();
            let next = Instant::now() + self.cluster.config().retry_backoff.delay(failures, dice);
            if missing.is_empty() || next >= deadline {
                break;
            }
            missing.iter().for_each(|partition| self.cluster.leader_failed(&partition.topic));
            sleep_until(next).await;
        }
        let all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        let failed = |partition: &TopicPartition, code| {
            Error::from_code(code, format!("fetching the committed offset of {partition} failed"))
        };
        all.into_iter()
            .map(|(tp, answer)| Ok((tp.clone(), answer.map_err(|code| failed(&tp, code))?)))
            .collect()
    }
}

/// Partitions by topic, each with the id that the topic has now.
fn with_ids(partitions: &[&TopicPartition], metadata: &Metadata) -> BTreeMap<TopicName, (Uuid, Array<i32>)> {
    let mut indexes: BTreeMap<&TopicName, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        indexes.entry(&partition.topic).or_default().push(partition.partition.0);
    }
    let id = |name: &str| metadata.topic(name).map_or(Uuid::default(), |topic| topic.id);
    let topics = indexes.into_iter();
    topics.map(|(name, indexes)| (name.clone(), (id(name), indexes.into_iter().collect()))).collect()
}

/// Topic names by id, of what a request carried.
type Names<'a> = BTreeMap<[u8; 16], &'a TopicName>;

/// The newest version may be used only if all ids are known.
fn version_max(by_id: bool) -> i16 {
    if by_id { i16::MAX } else { TOPIC_IDS - 1 }
}

/// A topic as a request of `version` names it: by name or by id.
fn named(topic: &TopicName, id: Uuid, version: i16) -> (ByteString, Uuid) {
    if version >= TOPIC_IDS { (ByteString::new(), id) } else { (topic.to_byte_string(), Uuid::default()) }
}

fn name_of(names: &Names<'_>, name: &ByteString, id: Uuid) -> Option<TopicName> {
    if !name.is_empty() {
        return Some(TopicName::from(copied(name)));
    }
    names.get(&id.0).map(|name| (*name).clone())
}

/// What a group has committed: offset, leader epoch, text.
pub(crate) type CommittedOffset = (i64, i32, Option<ByteString>);

/// What the coordinator said of each partition; nothing is committed where there is no offset.
pub(crate) type Committed = BTreeMap<TopicPartition, std::result::Result<Option<CommittedOffset>, ErrorCode>>;

/// Partition counts of `topics` as soon as each is known to exist or not; at `deadline`, of those that are known.
async fn topic_counts(cluster: &Cluster, topics: &BTreeSet<TopicName>, deadline: Instant) -> Topics {
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
                || topic.fault().is_some()
                || (metadata.generation > first && metadata.errors.contains_key(topic))
        };
        if topics.iter().all(answered)
            || !matches!(timeout_at(deadline, snapshots.changed()).await, Ok(Ok(())))
        {
            return counts(&metadata, topics);
        }
    }
}

/// What outlives its frame is copied, so that the frame can go.
fn copied(text: &ByteString) -> ByteString {
    ByteString::from(&**text)
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
