//! DescribeConfigs, versions 1-4: topics with all settings that Kafka knows, brokers with the few that exist here.

use super::{Context, Handled, Handler, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::broker::topic_configs::{self, Kind, Range};
use crate::wire::Str;
use crate::wire::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult,
};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Sources of a value: the topic's own, the broker's, Kafka's default.
const TOPIC_CONFIG: i8 = 1;
const STATIC_BROKER_CONFIG: i8 = 4;
const DEFAULT_CONFIG: i8 = 5;

impl Handler for DescribeConfigsRequest {
    type Answer = DescribeConfigsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DescribeConfigsResponse> {
        let results = self.resources.into_iter().map(|resource| one(state, ctx, resource)).collect();
        Handled::Now(DescribeConfigsResponse { results, ..Default::default() })
    }

    refuse_with!(|request, code| DescribeConfigsResponse {
        results: request.resources.into_iter().map(|resource| refused(resource, code, None)).collect(),
        ..Default::default()
    });
}

fn refused(
    resource: DescribeConfigsResource,
    error_code: i16,
    error_message: Option<Str>,
) -> DescribeConfigsResult {
    DescribeConfigsResult {
        error_code,
        error_message,
        resource_type: resource.resource_type,
        resource_name: resource.resource_name,
        configs: Vec::new(),
    }
}

fn config(
    version: i16,
    name: &'static str,
    value: String,
    kind: Kind,
    source: i8,
) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult {
        name: Str::from_static(name),
        value: Some(value.into()),
        read_only: source == STATIC_BROKER_CONFIG,
        config_source: source,
        is_sensitive: false,
        synonyms: Vec::new(),
        config_type: if version >= 3 { kind as i8 } else { 0 },
        documentation: None,
    }
}

fn one(state: &State, ctx: &Context, resource: DescribeConfigsResource) -> DescribeConfigsResult {
    let mut configs = match resource.resource_type {
        TOPIC => {
            if let Err(code) = state.rights.check_topic(&resource.resource_name, Operation::Describe) {
                return refused(resource, code.0, None);
            }
            let Some(topic) = state.topic(&resource.resource_name) else {
                let why = "This server does not host this topic-partition.";
                let code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
                return refused(resource, code, Some(Str::from_static(why)));
            };
            let describe = |(name, kind, default, _): &(&'static str, Kind, &'static str, Range)| match topic
                .configs
                .get(*name)
            {
                Some(value) => config(ctx.version, name, value.clone(), *kind, TOPIC_CONFIG),
                None => {
                    let value = topic_configs::default_of(name, default, &state.settings);
                    config(ctx.version, name, value, *kind, DEFAULT_CONFIG)
                }
            };
            topic_configs::KNOWN.iter().map(describe).collect::<Vec<_>>()
        }
        BROKER if resource.resource_name.is_empty() => Vec::new(),
        BROKER => {
            if resource.resource_name.parse() != Ok(ctx.node) {
                let why = format!(
                    "Unexpected broker id, expected {}, but received {}",
                    ctx.node, resource.resource_name
                );
                return refused(resource, ErrorCode::INVALID_REQUEST.0, Some(why.into()));
            }
            let settings = &state.settings;
            let fixed =
                |name, value: String, kind| config(ctx.version, name, value, kind, STATIC_BROKER_CONFIG);
            vec![
                fixed("auto.create.topics.enable", settings.auto_create_topics.to_string(), Kind::Boolean),
                fixed(
                    "default.replication.factor",
                    settings.default_replication_factor().to_string(),
                    Kind::Int,
                ),
                fixed("message.max.bytes", settings.message_max_bytes.to_string(), Kind::Int),
                fixed("min.insync.replicas", settings.min_insync_replicas.to_string(), Kind::Int),
                fixed("node.id", ctx.node.to_string(), Kind::Int),
                fixed("num.partitions", settings.default_partitions.to_string(), Kind::Int),
            ]
        }
        _ => {
            let why = "this cluster describes the settings of topics and brokers only";
            return refused(resource, ErrorCode::INVALID_REQUEST.0, Some(Str::from_static(why)));
        }
    };
    if let Some(keys) = &resource.configuration_keys {
        configs.retain(|config| keys.contains(&config.name));
    }
    DescribeConfigsResult { configs, ..refused(resource, 0, None) }
}
