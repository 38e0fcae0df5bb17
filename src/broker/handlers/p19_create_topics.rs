//! CreateTopics, versions 2-7: any node answers, as with KRaft; 4 has defaults for the counts, 5 answers the settings.

use std::collections::BTreeMap;

use super::{Context, Handled, Handler, own, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::{NewTopic, State};
use crate::broker::rights::Operation;
use crate::broker::topic_configs;
use crate::wire::Str;
use crate::wire::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};

/// Sources of a setting's value, as DescribeConfigs numbers them.
const TOPIC_CONFIG: i8 = 1;
const DEFAULT_CONFIG: i8 = 5;

impl Handler for CreateTopicsRequest {
    type Answer = CreateTopicsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<CreateTopicsResponse> {
        let mut counts: BTreeMap<Str, usize> = BTreeMap::new();
        for topic in &self.topics {
            *counts.entry(topic.name.clone()).or_default() += 1;
        }
        let validate_only = self.validate_only;
        let topics = self
            .topics
            .into_iter()
            .filter(|topic| counts.contains_key(&topic.name))
            .map(|topic| {
                if counts.get(&topic.name).is_some_and(|count| *count > 1) {
                    let why = "Duplicate topic name.";
                    return refused(topic.name, ErrorCode::INVALID_REQUEST.0, Some(Str::from_static(why)));
                }
                one(state, ctx, topic, validate_only)
            })
            .collect();
        Handled::Now(CreateTopicsResponse { topics, ..Default::default() })
    }

    refuse_with!(|request, code| CreateTopicsResponse {
        topics: request.topics.into_iter().map(|topic| refused(topic.name, code, None)).collect(),
        ..Default::default()
    });
}

fn refused(name: Str, error_code: i16, error_message: Option<Str>) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code,
        error_message,
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    }
}

fn one(state: &mut State, ctx: &Context, topic: CreatableTopic, validate_only: bool) -> CreatableTopicResult {
    let name = own(&topic.name);
    if let Err(code) = state.rights.check_topic(&name, Operation::Create) {
        return refused(name, code.0, Some(Str::from_static("Authorization failed.")));
    }
    let assigned = !topic.assignments.is_empty();
    if assigned && (topic.num_partitions != -1 || topic.replication_factor != -1) {
        let why = "A manual partition assignment was specified, but numPartitions or replicationFactor was not set to -1.";
        return refused(name, ErrorCode::INVALID_REQUEST.0, Some(Str::from_static(why)));
    }
    let mut assignments = topic.assignments;
    assignments.sort_by_key(|assignment| assignment.partition_index);
    if assignments.iter().zip(0..).any(|(assignment, index)| assignment.partition_index != index) {
        let why = "partitions should be a consecutive 0-based integer sequence";
        return refused(name, ErrorCode::INVALID_REPLICA_ASSIGNMENT.0, Some(Str::from_static(why)));
    }
    let mut configs = BTreeMap::new();
    for config in topic.configs {
        match config.value {
            Some(value) => configs.insert(config.name.to_string(), value.to_string()),
            None => {
                let why = format!("Null value not supported for topic configs: {}", config.name);
                return refused(name, ErrorCode::INVALID_CONFIG.0, Some(why.into()));
            }
        };
    }
    let new = NewTopic {
        name: name.clone(),
        partitions: (topic.num_partitions != -1).then_some(topic.num_partitions),
        replication_factor: (topic.replication_factor != -1).then_some(topic.replication_factor),
        assignments: assigned
            .then(|| assignments.iter().map(|assignment| assignment.broker_ids.to_vec()).collect()),
        configs,
    };
    let answered = topic_configs::KNOWN.iter().map(|(known, _, default, _)| {
        let own = new.configs.get(*known);
        CreatableTopicConfigs {
            name: Str::from_static(known),
            value: Some(match own {
                Some(value) => value.clone().into(),
                None => topic_configs::default_of(known, default, &state.settings).into(),
            }),
            read_only: false,
            config_source: if own.is_some() { TOPIC_CONFIG } else { DEFAULT_CONFIG },
            is_sensitive: false,
        }
    });
    let answered: Vec<_> = answered.collect();
    match state.create_topic(new, validate_only, ctx.now) {
        Ok((id, partitions, factor)) if ctx.version >= 5 => CreatableTopicResult {
            name,
            topic_id: id,
            num_partitions: partitions,
            replication_factor: factor,
            configs: Some(answered),
            ..Default::default()
        },
        Ok(_) => refused(name, 0, None),
        Err((code, why)) => refused(name, code.0, Some(why.into())),
    }
}
