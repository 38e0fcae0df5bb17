//! Settings that live in the cluster: of topics, brokers, groups, loggers and client metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::items::{Said, join_all};
use super::{Admin, Results};
use crate::cluster::Target;
use crate::runtime::BoxFuture;
use crate::types::{GroupId, NodeId, TopicName};
use crate::wire::messages::describe_configs::{
    DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsSynonym,
};
use crate::wire::messages::{
    DescribeConfigsRequest, DescribeConfigsResponse, ListConfigResourcesRequest, ListConfigResourcesResponse,
};
use crate::wire::{Array, Str};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// What has settings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ConfigResource {
    /// A topic.
    Topic(TopicName),
    /// One broker.
    Broker(NodeId),
    /// What all brokers have that say nothing else themselves.
    AllBrokers,
    /// A consumer, share or streams group (Kafka 3.8).
    Group(GroupId),
    /// The levels of a broker's loggers, by name of the logger.
    BrokerLoggers(NodeId),
    /// A subscription of client metrics (KIP-714, Kafka 3.7).
    ClientMetrics(String),
}

/// Types of resources, as the protocol numbers them.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

impl ConfigResource {
    /// Type and name.
    pub(super) fn to_wire(&self) -> (i8, Str) {
        match self {
            Self::Topic(name) => (TOPIC, name.to_byte_string()),
            Self::Broker(node) => (BROKER, node.to_string().into()),
            Self::AllBrokers => (BROKER, Str::new()),
            Self::Group(group) => (GROUP, group.to_byte_string()),
            Self::BrokerLoggers(node) => (BROKER_LOGGER, node.to_string().into()),
            Self::ClientMetrics(name) => (CLIENT_METRICS, Str::from(name.as_str())),
        }
    }

    /// `None` for types that are not known here.
    pub(super) fn from_wire(kind: i8, name: &Str) -> Option<Self> {
        Some(match kind {
            TOPIC => Self::Topic(name.clone().into()),
            BROKER if name.is_empty() => Self::AllBrokers,
            BROKER => Self::Broker(NodeId(name.parse().ok()?)),
            GROUP => Self::Group(name.clone().into()),
            BROKER_LOGGER => Self::BrokerLoggers(NodeId(name.parse().ok()?)),
            CLIENT_METRICS => Self::ClientMetrics(name.to_string()),
            _ => return None,
        })
    }

    /// The broker that alone can answer.
    pub(super) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Broker(node) | Self::BrokerLoggers(node) => Some(*node),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::Broker(node) => write!(f, "broker {node}"),
            Self::AllBrokers => f.write_str("all brokers"),
            Self::Group(group) => write!(f, "group {group}"),
            Self::BrokerLoggers(node) => write!(f, "loggers of broker {node}"),
            Self::ClientMetrics(name) => write!(f, "client metrics {name}"),
        }
    }
}

/// Where the value of a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ConfigSource {
    /// Set for the topic.
    Topic,
    /// Set for the broker while it runs.
    Broker,
    /// Set for all brokers while they run.
    AllBrokers,
    /// In the broker's own file.
    BrokerFile,
    /// Nobody set it.
    Default,
    /// Set for the logger.
    Logger,
    /// Set for the subscription of client metrics.
    ClientMetrics,
    /// Set for the group.
    Group,
    /// The broker does not tell, or is too new.
    Unknown,
}

impl ConfigSource {
    fn from_wire(source: i8) -> Self {
        match source {
            1 => Self::Topic,
            2 => Self::Broker,
            3 => Self::AllBrokers,
            4 => Self::BrokerFile,
            5 => Self::Default,
            6 => Self::Logger,
            7 => Self::ClientMetrics,
            8 => Self::Group,
            _ => Self::Unknown,
        }
    }

    /// Somebody set it for the resource itself.
    pub fn is_own(self, resource: &ConfigResource) -> bool {
        matches!(
            (self, resource),
            (Self::Topic, ConfigResource::Topic(_))
                | (Self::Broker, ConfigResource::Broker(_))
                | (Self::AllBrokers, ConfigResource::AllBrokers)
                | (Self::Logger, ConfigResource::BrokerLoggers(_))
                | (Self::ClientMetrics, ConfigResource::ClientMetrics(_))
                | (Self::Group, ConfigResource::Group(_))
        )
    }
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Broker => "broker",
            Self::AllBrokers => "all brokers",
            Self::BrokerFile => "broker's file",
            Self::Default => "default",
            Self::Logger => "logger",
            Self::ClientMetrics => "client metrics",
            Self::Group => "group",
            Self::Unknown => "unknown",
        })
    }
}

/// A setting and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigEntry {
    /// The name.
    pub name: String,
    /// The value that counts; `None` if it is secret or there is none.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: ConfigSource,
    /// It cannot be set while the broker runs.
    pub read_only: bool,
    /// It is secret: brokers tell no value.
    pub sensitive: bool,
    /// Where a value would come from otherwise, the one that counts first.
    pub synonyms: Vec<ConfigSynonym>,
    /// What the broker says about the setting, where that was asked for (Kafka 2.6).
    pub documentation: Option<String>,
}

/// One of the places that a value may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigSynonym {
    /// Name of the setting there.
    pub name: String,
    /// Its value; `None` if it is secret.
    pub value: Option<String>,
    /// The place.
    pub source: ConfigSource,
}

impl Admin {
    /// The settings of resources, by name, with where their values come from. Brokers and loggers are asked for their own;
    /// one that cannot be asked fails its own items alone.
    ///
    /// # Errors
    ///
    /// Per resource `UNKNOWN_TOPIC_OR_PARTITION` and the like; for groups, loggers and client metrics `INVALID_REQUEST` or
    /// `UnsupportedVersion` from brokers that do not know them.
    pub async fn describe_configs(
        &self,
        resources: impl IntoIterator<Item = ConfigResource>,
    ) -> Results<ConfigResource, Vec<ConfigEntry>> {
        self.configs(resources.into_iter().collect(), false).await
    }

    /// [`describe_configs`](Self::describe_configs) with what brokers say about each setting (Kafka 2.6).
    ///
    /// # Errors
    ///
    /// As [`describe_configs`](Self::describe_configs).
    pub async fn describe_configs_documented(
        &self,
        resources: impl IntoIterator<Item = ConfigResource>,
    ) -> Results<ConfigResource, Vec<ConfigEntry>> {
        self.configs(resources.into_iter().collect(), true).await
    }

    async fn configs(
        &self,
        resources: BTreeSet<ConfigResource>,
        documented: bool,
    ) -> Results<ConfigResource, Vec<ConfigEntry>> {
        let ask = |(node, resources): (Option<NodeId>, Vec<ConfigResource>)| -> BoxFuture<'_, Results<_, _>> {
            Box::pin(self.configs_at(node, resources, documented))
        };
        join_all(by_node(resources).into_iter().map(ask).collect()).await.into_iter().flatten().collect()
    }

    async fn configs_at(
        &self,
        node: Option<NodeId>,
        resources: Vec<ConfigResource>,
        documented: bool,
    ) -> Results<ConfigResource, Vec<ConfigEntry>> {
        let target = node.map_or(Target::Any, Target::Node);
        let item = |resource: &ConfigResource, _| {
            let (resource_type, resource_name) = resource.to_wire();
            Ok(DescribeConfigsResource { resource_type, resource_name, configuration_keys: None })
        };
        let build = |resources, version, _| DescribeConfigsRequest {
            resources,
            include_synonyms: true,
            include_documentation: documented && version >= 3,
        };
        let read = |response: &DescribeConfigsResponse| {
            let said = response.results.iter().filter_map(|result| {
                let resource = ConfigResource::from_wire(result.resource_type, &result.resource_name)?;
                let mut entries: Vec<_> = result.configs.iter().map(ConfigEntry::new).collect();
                entries.sort_by(|a, b| a.name.cmp(&b.name));
                Some(Said {
                    item: resource,
                    code: ErrorCode(result.error_code),
                    message: result.error_message.clone(),
                    value: entries,
                })
            });
            said.collect()
        };
        let what = |resource: &ConfigResource| format!("no settings of {resource}");
        let items = resources.clone();
        // Boxed, because it is large and several run side by side.
        match Box::pin(self.items_at(target, items, what, item, build, read)).await {
            Ok(results) => results,
            Err(error) => resources.into_iter().map(|resource| (resource, Err(error.clone()))).collect(),
        }
    }

    /// The resources that have settings of their own: all groups, client metrics, topics and brokers from Kafka 4.1 on; before,
    /// client metrics alone can be listed.
    ///
    /// # Errors
    ///
    /// `UnsupportedVersion` before Kafka 3.7; otherwise see [`Admin`].
    pub async fn list_config_resources(&self) -> Result<Vec<ConfigResource>> {
        let build = |version| {
            let all = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
            let resource_types = if version >= 1 { Array::from(all) } else { Array::default() };
            Ok(ListConfigResourcesRequest { resource_types })
        };
        let code = |response: &ListConfigResourcesResponse| ErrorCode(response.error_code);
        let response = self.cluster.request(Target::Any, self.call(), build, code).await?;
        let each = response.config_resources.iter().filter_map(|resource| {
            // Version 0 knows one type and does not say so.
            let kind = if resource.resource_type == 0 { CLIENT_METRICS } else { resource.resource_type };
            ConfigResource::from_wire(kind, &resource.resource_name)
        });
        let unique: BTreeSet<_> = each.collect();
        Ok(unique.into_iter().collect())
    }
}

/// Those that one broker alone can answer for go to it, the others together to any.
pub(super) fn by_node(
    resources: impl IntoIterator<Item = ConfigResource>,
) -> BTreeMap<Option<NodeId>, Vec<ConfigResource>> {
    let mut parts: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for resource in resources {
        parts.entry(resource.node()).or_default().push(resource);
    }
    parts
}

impl ConfigEntry {
    fn new(config: &DescribeConfigsResourceResult) -> Self {
        let text = |text: &Str| text.to_string();
        let synonym = |synonym: &DescribeConfigsSynonym| ConfigSynonym {
            name: text(&synonym.name),
            value: synonym.value.as_ref().map(text),
            source: ConfigSource::from_wire(synonym.source),
        };
        Self {
            name: text(&config.name),
            value: config.value.as_ref().map(text).filter(|_| !config.is_sensitive),
            source: ConfigSource::from_wire(config.config_source),
            read_only: config.read_only,
            sensitive: config.is_sensitive,
            synonyms: config.synonyms.iter().map(synonym).collect(),
            documentation: config.documentation.as_ref().map(text),
        }
    }
}

/// A change to one setting.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigChange {
    /// Gives it a value.
    Set(String, String),
    /// Takes its value back, so that the default counts again.
    Unset(String),
    /// Adds to a list, parts separated by commas; what is in it already is not added again.
    Append(String, String),
    /// Takes out of a list.
    Subtract(String, String),
}

impl ConfigChange {
    /// Gives the setting a value.
    pub fn set(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Set(name.into(), value.into())
    }

    /// Takes the setting's value back.
    pub fn unset(name: impl Into<String>) -> Self {
        Self::Unset(name.into())
    }

    /// The setting.
    pub fn name(&self) -> &str {
        match self {
            Self::Set(name, _) | Self::Unset(name) | Self::Append(name, _) | Self::Subtract(name, _) => name,
        }
    }

    /// Operation and value on the wire.
    pub(super) fn to_wire(&self) -> (i8, Option<&str>) {
        match self {
            Self::Set(_, value) => (0, Some(value)),
            Self::Unset(_) => (1, None),
            Self::Append(_, value) => (2, Some(value)),
            Self::Subtract(_, value) => (3, Some(value)),
        }
    }
}

/// Values are not shown: some are passwords.
impl fmt::Debug for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self {
            Self::Set(..) => "Set",
            Self::Unset(_) => "Unset",
            Self::Append(..) => "Append",
            Self::Subtract(..) => "Subtract",
        };
        f.debug_tuple(verb).field(&self.name()).finish_non_exhaustive()
    }
}

/// What is to be changed of each resource, refused if a setting is changed twice.
pub(super) fn checked(
    changes: impl IntoIterator<Item = (ConfigResource, Vec<ConfigChange>)>,
) -> Result<BTreeMap<ConfigResource, Vec<ConfigChange>>> {
    let mut wanted: BTreeMap<ConfigResource, Vec<ConfigChange>> = BTreeMap::new();
    for (resource, changes) in changes {
        wanted.entry(resource).or_default().extend(changes);
    }
    for (resource, changes) in &wanted {
        let mut names = BTreeSet::new();
        if let Some(twice) = changes.iter().find(|change| !names.insert(change.name())) {
            let message = format!("{resource}: setting {} is changed twice", twice.name());
            return Err(Error::new(ErrorKind::Config, message));
        }
    }
    Ok(wanted)
}
