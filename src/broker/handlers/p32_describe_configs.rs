//! DescribeConfigs, versions 1-4: topics with all settings that Kafka knows, brokers, groups and client metrics with the
//! few that exist here.

use std::collections::BTreeMap;

use super::{Context, Handled, Handler, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::dynamic_configs::{self, BROKER, CLIENT_METRICS, GROUP, TOPIC};
use crate::broker::rights::Operation;
use crate::broker::topic_configs::{self, Kind, Known};
use crate::wire::Str;
use crate::wire::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};

/// Sources of a value: set for the topic, the broker, all brokers; the broker's file, Kafka's default; client metrics, the group.
const TOPIC_CONFIG: i8 = 1;
const DYNAMIC_BROKER_CONFIG: i8 = 2;
const DYNAMIC_DEFAULT_CONFIG: i8 = 3;
const STATIC_BROKER_CONFIG: i8 = 4;
const DEFAULT_CONFIG: i8 = 5;
const CLIENT_METRICS_CONFIG: i8 = 7;
const GROUP_CONFIG: i8 = 8;

impl Handler for DescribeConfigsRequest {
    type Answer = DescribeConfigsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DescribeConfigsResponse> {
        let synonyms = self.include_synonyms;
        let results =
            self.resources.into_iter().map(|resource| one(state, ctx, resource, synonyms)).collect();
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

/// The value that counts, and those behind it.
struct Sourced {
    name: &'static str,
    kind: Kind,
    values: Vec<(i8, String)>,
}

impl Sourced {
    fn describe(self, version: i16, synonyms: bool) -> DescribeConfigsResourceResult {
        let (source, value) = self.values.first().cloned().unzip();
        let source = source.unwrap_or(DEFAULT_CONFIG);
        let synonym = |(source, value): (i8, String)| DescribeConfigsSynonym {
            name: Str::from_static(self.name),
            value: Some(value.into()),
            source,
        };
        DescribeConfigsResourceResult {
            name: Str::from_static(self.name),
            value: value.map(Str::from),
            read_only: source == STATIC_BROKER_CONFIG,
            config_source: source,
            is_sensitive: false,
            synonyms: if synonyms { self.values.into_iter().map(synonym).collect() } else { Vec::new() },
            config_type: if version >= 3 { self.kind as i8 } else { 0 },
            documentation: None,
        }
    }
}

/// What is known of `kind`, with the values of `layers`, the first of which counts.
fn layered(
    known: &'static [Known],
    layers: &[(i8, Option<&BTreeMap<String, String>>)],
    default: impl Fn(&str, &str) -> String,
) -> Vec<Sourced> {
    let each = known.iter().map(|(name, kind, standard, _)| {
        let set = layers
            .iter()
            .filter_map(|(source, values)| Some((*source, values.as_ref()?.get(*name)?.clone())));
        let values = set.chain([(DEFAULT_CONFIG, default(name, standard))]).collect();
        Sourced { name, kind: *kind, values }
    });
    each.collect()
}

fn one(
    state: &State,
    ctx: &Context,
    resource: DescribeConfigsResource,
    synonyms: bool,
) -> DescribeConfigsResult {
    let name = &*resource.resource_name;
    let kind = resource.resource_type;
    let standard = |_: &str, default: &str| default.to_owned();
    let set = |name| state.dynamic_configs(kind, name);
    let known = dynamic_configs::known(kind).unwrap_or_default();
    let configs = match kind {
        TOPIC => {
            if let Err(code) = state.rights.check_topic(name, Operation::Describe) {
                return refused(resource, code.0, None);
            }
            let Some(topic) = state.topic(name) else {
                let why = "This server does not host this topic-partition.";
                let code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0;
                return refused(resource, code, Some(Str::from_static(why)));
            };
            let default =
                |name: &str, default: &str| topic_configs::default_of(name, default, &state.settings);
            layered(topic_configs::KNOWN, &[(TOPIC_CONFIG, Some(&topic.configs))], default)
        }
        BROKER if name.is_empty() => {
            let mut all = layered(known, &[(DYNAMIC_DEFAULT_CONFIG, set(""))], standard);
            // Only what was set is told of all brokers.
            all.retain(|config| config.values.len() > 1);
            all
        }
        BROKER => {
            if name.parse() != Ok(ctx.node) {
                let why = format!("Unexpected broker id, expected {}, but received {name}", ctx.node);
                return refused(resource, ErrorCode::INVALID_REQUEST.0, Some(why.into()));
            }
            let layers = [(DYNAMIC_BROKER_CONFIG, set(name)), (DYNAMIC_DEFAULT_CONFIG, set(""))];
            let mut all = layered(known, &layers, standard);
            all.extend(fixed(state, ctx.node));
            all
        }
        GROUP => {
            if let Err(code) = state.rights.check_group(name, Operation::Describe) {
                return refused(resource, code.0, None);
            }
            layered(known, &[(GROUP_CONFIG, set(name))], standard)
        }
        CLIENT_METRICS => layered(known, &[(CLIENT_METRICS_CONFIG, set(name))], standard),
        _ => {
            let why = "this cluster has settings of topics, brokers, groups and client metrics";
            return refused(resource, ErrorCode::INVALID_REQUEST.0, Some(Str::from_static(why)));
        }
    };
    let mut configs: Vec<_> =
        configs.into_iter().map(|config| config.describe(ctx.version, synonyms)).collect();
    if let Some(keys) = &resource.configuration_keys {
        configs.retain(|config| keys.contains(&config.name));
    }
    DescribeConfigsResult { configs, ..refused(resource, 0, None) }
}

/// What a broker was started with.
fn fixed(state: &State, node: i32) -> [Sourced; 6] {
    let settings = &state.settings;
    let fixed =
        |name, value: String, kind| Sourced { name, kind, values: vec![(STATIC_BROKER_CONFIG, value)] };
    [
        fixed("auto.create.topics.enable", settings.auto_create_topics.to_string(), Kind::Boolean),
        fixed("default.replication.factor", settings.default_replication_factor().to_string(), Kind::Int),
        fixed("message.max.bytes", settings.message_max_bytes.to_string(), Kind::Int),
        fixed("min.insync.replicas", settings.min_insync_replicas.to_string(), Kind::Int),
        fixed("node.id", node.to_string(), Kind::Int),
        fixed("num.partitions", settings.default_partitions.to_string(), Kind::Int),
    ]
}
