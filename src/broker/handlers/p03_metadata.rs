//! Metadata, versions 0-13: null asks for all topics (an empty list in version 0), 10 brings topic ids, 12 asks by id.

use super::{Context, Handled, Handler, own, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::{NewTopic, State, Topic, check_topic_name};
use crate::broker::partition::NO_LEADER;
use crate::broker::rights::Operation;
use crate::wire::messages::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
    MetadataResponsePartition, MetadataResponseTopic,
};
use crate::wire::{Str, Uuid};

/// "Not asked for" of the authorized operations.
const NO_OPERATIONS: i32 = i32::MIN;

impl Handler for MetadataRequest {
    type Answer = MetadataResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<MetadataResponse> {
        let all = match &self.topics {
            None => true,
            Some(topics) => ctx.version == 0 && topics.is_empty(),
        };
        let create = state.settings.auto_create_topics && (ctx.version < 4 || self.allow_auto_topic_creation);
        let topics = if all {
            state
                .topics()
                .filter(|(name, topic)| {
                    topic.is_known_to(ctx.node) && state.rights.check_topic(name, Operation::Describe).is_ok()
                })
                .map(|(name, topic)| describe(state, name, topic, ctx.version))
                .collect()
        } else {
            let topics = self.topics.unwrap_or_default();
            topics.into_iter().map(|topic| one(state, ctx, topic, create)).collect()
        };
        Handled::Now(MetadataResponse {
            brokers: state
                .alive_nodes()
                .map(|node| MetadataResponseBroker {
                    node_id: node.id,
                    host: node.endpoint(ctx.listener).host.clone(),
                    port: i32::from(node.endpoint(ctx.listener).port),
                    rack: None,
                })
                .collect(),
            cluster_id: Some(state.cluster_id.clone()),
            controller_id: state.controller(),
            topics,
            cluster_authorized_operations: NO_OPERATIONS,
            ..Default::default()
        })
    }

    refuse_with!(|request, code| MetadataResponse {
        topics: request
            .topics
            .unwrap_or_default()
            .into_iter()
            .map(|topic| refused(topic.name, topic.topic_id, code))
            .collect(),
        cluster_authorized_operations: NO_OPERATIONS,
        ..Default::default()
    });
}

fn refused(name: Option<Str>, topic_id: Uuid, error_code: i16) -> MetadataResponseTopic {
    MetadataResponseTopic {
        error_code,
        name,
        topic_id,
        topic_authorized_operations: NO_OPERATIONS,
        ..Default::default()
    }
}

fn one(state: &mut State, ctx: &Context, asked: MetadataRequestTopic, create: bool) -> MetadataResponseTopic {
    let Some(name) = asked.name else {
        return match state.topic_by_id(&asked.topic_id) {
            Some((name, _)) if state.rights.check_topic(name, Operation::Describe).is_err() => {
                refused(None, asked.topic_id, ErrorCode::TOPIC_AUTHORIZATION_FAILED.0)
            }
            Some((name, topic)) if topic.is_known_to(ctx.node) => describe(state, name, topic, ctx.version),
            _ => refused(None, asked.topic_id, ErrorCode::UNKNOWN_TOPIC_ID.0),
        };
    };
    if let Err(code) = state.rights.check_topic(&name, Operation::Describe) {
        return refused(Some(name), Uuid::ZERO, code.0);
    }
    if state.topic(&name).is_none() {
        if check_topic_name(&name).is_err() {
            return refused(Some(name), Uuid::ZERO, ErrorCode::INVALID_TOPIC_EXCEPTION.0);
        }
        if !create {
            return refused(Some(name), Uuid::ZERO, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0);
        }
        if let Err(code) = state.rights.check_topic(&name, Operation::Create) {
            return refused(Some(name), Uuid::ZERO, code.0);
        }
        let alive = state.alive_nodes().count() as i16;
        let factor = state.settings.default_replication_factor().min(alive);
        let new = NewTopic { name: own(&name), replication_factor: Some(factor), ..Default::default() };
        if let Err((code, _)) = state.create_topic(new, false, ctx.now) {
            return refused(Some(name), Uuid::ZERO, code.0);
        }
    }
    match state.topic_at(ctx.node, &name) {
        Some(topic) => describe(state, &name, topic, ctx.version),
        None => refused(Some(name), Uuid::ZERO, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0),
    }
}

fn describe(state: &State, name: &Str, topic: &Topic, version: i16) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().enumerate().map(|(index, partition)| {
        let leaderless = partition.leader == NO_LEADER;
        let offline = partition.replicas.iter().copied().filter(|node| !state.is_alive(*node));
        MetadataResponsePartition {
            error_code: if leaderless { ErrorCode::LEADER_NOT_AVAILABLE.0 } else { 0 },
            partition_index: index as i32,
            leader_id: partition.leader,
            leader_epoch: partition.leader_epoch,
            replica_nodes: partition.replicas.iter().copied().collect(),
            isr_nodes: partition.isr.iter().copied().collect(),
            offline_replicas: if version >= 5 { offline.collect() } else { Vec::new().into() },
        }
    });
    MetadataResponseTopic {
        error_code: 0,
        name: Some(name.clone()),
        topic_id: if version >= 10 { topic.id } else { Uuid::ZERO },
        is_internal: false,
        partitions: partitions.collect(),
        topic_authorized_operations: NO_OPERATIONS,
    }
}
