//! What a transactional producer asks coordinators, each one attempt. Whether and when to try again is the machine's affair.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::states::{Answer, Failure, Protocol, Question};
use crate::cluster::{Cluster, CoordinatorKind, Doubt, GroupOffsets, SlowLane, doubt};
use crate::producer::sender::Era;
use crate::types::{TopicName, TopicPartition};
use crate::wire::messages::add_partitions_to_txn::AddPartitionsToTxnTopic;
use crate::wire::messages::api_versions::ApiVersionsResponse;
use crate::wire::messages::txn_offset_commit::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic, TxnOffsetCommitResponse,
};
use crate::wire::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, ApiVersionsRequest,
    EndTxnRequest, InitProducerIdRequest, TxnOffsetCommitRequest,
};
use crate::wire::{ApiKey, Message, Request, Str, VersionRange};
use crate::{Error, ErrorCode};

/// Name of the cluster's feature, and the level from which on transactions are of [`Protocol::V2`].
const FEATURE: (&str, i16) = ("transaction.version", 2);
/// First versions of [`Protocol::V2`]. All below are of [`Protocol::V1`].
const END_V2: i16 = 5;
const OFFSETS_V2: i16 = 5;
const PRODUCE_V2: i16 = 12;
/// First version that names the member and its generation (KIP-447).
const OFFSETS_OF_MEMBER: i16 = 3;
/// First version that goes on from an epoch (KIP-360).
const RENEW: i16 = 3;
/// Last version that is for clients; later ones are for brokers.
const ADD_PARTITIONS_MAX: i16 = 3;
/// Last version that names topics.
const OFFSETS_BY_NAME: i16 = 5;
/// Last version of ApiVersions that is stable.
const API_VERSIONS_MAX: i16 = 4;

/// Whoever asks.
#[derive(Debug)]
pub(in crate::producer) struct Asker {
    cluster: Cluster,
    /// Ending a transaction takes a write to a log.
    lane: SlowLane,
    id: Str,
    timeout_ms: i32,
}

impl Asker {
    pub(in crate::producer) fn new(cluster: Cluster, id: Str, timeout_ms: i32) -> Self {
        Self { lane: SlowLane::new(cluster.clone()), cluster, id, timeout_ms }
    }

    /// Asks `question`, once, until `deadline`; `partitions` are those that it is about.
    pub(in crate::producer) async fn ask(
        &self,
        question: Question,
        partitions: Vec<TopicPartition>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        match question {
            Question::Protocol => self.protocol(deadline).await,
            Question::ProducerId { renew } => self.producer_id(renew, deadline).await,
            Question::AddPartitions { era, partitions: numbers } => {
                self.add_partitions(era, &numbers, &partitions, deadline).await
            }
            Question::AddOffsets { era, offsets } => self.add_offsets(era, &offsets, deadline).await,
            Question::Offsets { era, protocol, offsets } => {
                self.offsets(era, protocol, &offsets, deadline).await
            }
            Question::End { era, protocol, commit } => self.end(era, protocol, commit, deadline).await,
        }
    }

    /// One attempt at the coordinator of `key`.
    async fn attempt<R: Request>(
        &self,
        (kind, key): (CoordinatorKind, &str),
        versions: VersionRange,
        deadline: Instant,
        build: impl FnOnce(i16) -> R,
        code: impl FnOnce(&R::Response) -> ErrorCode,
    ) -> Result<R::Response, Failure> {
        let unsent = |error| Failure { error, unsent: true };
        let node = self.cluster.coordinator(kind, key, deadline).await.map_err(unsent)?;
        let duty = self.lane.call(deadline).duty;
        let forget = || self.cluster.coordinator_failed(kind, key);
        let connection = self.cluster.connection(node, duty, deadline).await;
        let connection = connection.inspect_err(|_| forget()).map_err(unsent)?;
        let version = connection.version(R::KEY, versions).map_err(unsent)?;
        let response = connection.send(&build(version), version, deadline).await;
        let response = response.map_err(|error| {
            forget();
            Failure { error: error.error, unsent: error.unsent }
        })?;
        let code = code(&response);
        if code.is_ok() {
            return Ok(response);
        }
        if doubt(code, true) == Doubt::Coordinator {
            forget();
        }
        let error = Error::from_code(code, format!("{} of transactional id {:?} failed", R::KEY, &*self.id));
        Err(Failure { error: error.with_peer(connection.peer().to_string()), unsent: false })
    }

    fn own(&self) -> (CoordinatorKind, &str) {
        (CoordinatorKind::Transaction, &self.id)
    }

    async fn protocol(&self, deadline: Instant) -> Result<Answer, Failure> {
        let versions = VersionRange::new(0, API_VERSIONS_MAX);
        let build = |version| {
            let mut request = ApiVersionsRequest::default();
            if version >= 3 {
                request.client_software_name = Str::from_static("carafe");
                request.client_software_version = Str::from_static(env!("CARGO_PKG_VERSION"));
            }
            request
        };
        let code = |response: &ApiVersionsResponse| ErrorCode(response.error_code);
        let response = self.attempt(self.own(), versions, deadline, build, code).await?;
        Ok(Answer::Protocol(protocol_of(&response)))
    }

    async fn producer_id(&self, renew: Option<Era>, deadline: Instant) -> Result<Answer, Failure> {
        let first = if renew.is_some() { RENEW } else { 0 };
        let request = InitProducerIdRequest {
            transactional_id: Some(self.id.clone()),
            transaction_timeout_ms: self.timeout_ms,
            producer_id: renew.map_or(-1, |era| era.producer_id),
            producer_epoch: renew.map_or(-1, |era| era.epoch),
        };
        let versions = VersionRange::new(first, InitProducerIdRequest::VERSIONS.max);
        let response = self
            .attempt(self.own(), versions, deadline, |_| request, |response| ErrorCode(response.error_code))
            .await?;
        Ok(Answer::ProducerId(Era { producer_id: response.producer_id, epoch: response.producer_epoch }))
    }

    async fn add_partitions(
        &self,
        era: Era,
        numbers: &[usize],
        partitions: &[TopicPartition],
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let mut topics: BTreeMap<&TopicName, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            topics.entry(&partition.topic).or_default().push(partition.partition.0);
        }
        let topic = |(name, partitions): (&TopicName, Vec<i32>)| AddPartitionsToTxnTopic {
            name: name.to_byte_string(),
            partitions: partitions.into(),
        };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.id.clone(),
            v3_and_below_producer_id: era.producer_id,
            v3_and_below_producer_epoch: era.epoch,
            v3_and_below_topics: topics.into_iter().map(topic).collect(),
            ..AddPartitionsToTxnRequest::default()
        };
        let versions = VersionRange::new(0, ADD_PARTITIONS_MAX);
        // Partition by partition, and what concerns all of them is said of each.
        let code = |response: &AddPartitionsToTxnResponse| {
            let mut codes = codes(response).map(|(_, code)| code);
            let first = codes.next().unwrap_or_default();
            let coordinator = doubt(first, true) == Doubt::Coordinator || first == ErrorCode::PRODUCER_FENCED;
            if coordinator && codes.all(|code| code == first) { first } else { ErrorCode::NONE }
        };
        let response = self.attempt(self.own(), versions, deadline, |_| request, code).await?;
        let codes: BTreeMap<_, _> = codes(&response).collect();
        let code = |partition: &TopicPartition| {
            let key = (partition.topic.as_str(), partition.partition.0);
            codes.get(&key).copied().unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR)
        };
        let answers = numbers.iter().zip(partitions).map(|(number, partition)| (*number, code(partition)));
        Ok(Answer::Partitions(answers.collect()))
    }

    async fn add_offsets(
        &self,
        era: Era,
        offsets: &GroupOffsets,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let request = AddOffsetsToTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: era.producer_id,
            producer_epoch: era.epoch,
            group_id: offsets.group.clone(),
        };
        let versions = AddOffsetsToTxnRequest::VERSIONS;
        self.attempt(self.own(), versions, deadline, |_| request, |response| ErrorCode(response.error_code))
            .await?;
        Ok(Answer::Done)
    }

    async fn offsets(
        &self,
        era: Era,
        protocol: Protocol,
        offsets: &GroupOffsets,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let mut topics: BTreeMap<&TopicName, Vec<TxnOffsetCommitRequestPartition>> = BTreeMap::new();
        for (partition, offset) in &offsets.offsets {
            topics.entry(&partition.topic).or_default().push(TxnOffsetCommitRequestPartition {
                partition_index: partition.partition.0,
                committed_offset: offset.offset,
                committed_leader_epoch: offset.leader_epoch,
                committed_metadata: Some(offset.metadata.clone().unwrap_or_default()),
            });
        }
        let topic = |(name, partitions): (&TopicName, _)| TxnOffsetCommitRequestTopic {
            name: name.to_byte_string(),
            partitions,
            ..TxnOffsetCommitRequestTopic::default()
        };
        let request = TxnOffsetCommitRequest {
            transactional_id: self.id.clone(),
            group_id: offsets.group.clone(),
            producer_id: era.producer_id,
            producer_epoch: era.epoch,
            generation_id_or_member_epoch: offsets.generation,
            member_id: offsets.member_id.clone(),
            group_instance_id: offsets.instance_id.clone(),
            topics: topics.into_iter().map(topic).collect(),
        };
        let versions = match protocol {
            Protocol::V1 => VersionRange::new(OFFSETS_OF_MEMBER, OFFSETS_V2 - 1),
            Protocol::V2 => VersionRange::new(OFFSETS_V2, OFFSETS_BY_NAME),
        };
        let group = (CoordinatorKind::Group, &*offsets.group);
        self.attempt(group, versions, deadline, |_| request, worst).await?;
        Ok(Answer::Done)
    }

    async fn end(
        &self,
        era: Era,
        protocol: Protocol,
        commit: bool,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let request = EndTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: era.producer_id,
            producer_epoch: era.epoch,
            committed: commit,
        };
        let versions = match protocol {
            Protocol::V1 => VersionRange::new(0, END_V2 - 1),
            Protocol::V2 => VersionRange::new(END_V2, EndTxnRequest::VERSIONS.max),
        };
        let response = self
            .attempt(self.own(), versions, deadline, |_| request, |response| ErrorCode(response.error_code))
            .await?;
        let next = Era { producer_id: response.producer_id, epoch: response.producer_epoch };
        Ok(Answer::Ended(Some(next).filter(|_| protocol == Protocol::V2)))
    }
}

/// The versions in which records are sent.
pub(in crate::producer) fn produce_versions(protocol: Protocol, ours: VersionRange) -> VersionRange {
    match protocol {
        Protocol::V1 => VersionRange { min: ours.min, max: ours.max.min(PRODUCE_V2 - 1) },
        Protocol::V2 => VersionRange { min: ours.min.max(PRODUCE_V2), max: ours.max },
    }
}

/// Which protocol a cluster speaks: the feature decides, not the versions (KIP-890); but where it is there without the
/// versions, it is not what it says.
fn protocol_of(response: &ApiVersionsResponse) -> Protocol {
    let (name, level) = FEATURE;
    let feature = response
        .finalized_features
        .iter()
        .any(|feature| feature.name == *name && feature.max_version_level >= level);
    let offers = |key: ApiKey, version| {
        response.api_keys.iter().any(|api| api.api_key == key.0 && api.max_version >= version)
    };
    let versions = offers(ApiKey::PRODUCE, PRODUCE_V2)
        && offers(ApiKey::END_TXN, END_V2)
        && offers(ApiKey::TXN_OFFSET_COMMIT, OFFSETS_V2);
    if feature && versions { Protocol::V2 } else { Protocol::V1 }
}

fn codes(response: &AddPartitionsToTxnResponse) -> impl Iterator<Item = ((&str, i32), ErrorCode)> {
    response.results_by_topic_v3_and_below.iter().flat_map(|topic| {
        topic
            .results_by_partition
            .iter()
            .map(|answer| ((&*topic.name, answer.partition_index), ErrorCode(answer.partition_error_code)))
    })
}

/// The code that says most about offsets: one that no retry helps, or any other.
fn worst(response: &TxnOffsetCommitResponse) -> ErrorCode {
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    let codes = || partitions.clone().map(|answer| ErrorCode(answer.error_code)).filter(|code| !code.is_ok());
    codes().find(|code| !code.is_retriable()).or_else(|| codes().next()).unwrap_or_default()
}
