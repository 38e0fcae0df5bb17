//! Changing settings that live in the cluster.

use std::collections::BTreeMap;

use super::configs::{by_node, checked};
use super::items::{Said, fail_all, join_all};
use super::{Admin, ConfigChange, ConfigEntry, ConfigResource, Results};
use crate::cluster::Target;
use crate::runtime::BoxFuture;
use crate::types::NodeId;
use crate::wire::Str;
use crate::wire::messages::alter_configs::{
    AlterConfigsResource as WholeResource, AlterableConfig as WholeConfig,
};
use crate::wire::messages::incremental_alter_configs::{AlterConfigsResource, AlterableConfig};
use crate::wire::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use crate::{Error, ErrorCode, ErrorKind, Result};

type Changes = BTreeMap<ConfigResource, Vec<ConfigChange>>;

impl Admin {
    /// Changes single settings of resources; all others stay as they are. The changes of one resource are made together or
    /// not at all.
    ///
    /// Brokers before 2.3 only replace all settings of a resource. There the settings are read, changed and written whole,
    /// and what somebody else changed in between is lost; a resource with secret values of its own is refused.
    ///
    /// # Errors
    ///
    /// `Config` if a setting is changed twice. Per resource `INVALID_CONFIG` with the broker's words, and the like.
    pub async fn alter_configs(
        &self,
        changes: impl IntoIterator<Item = (ConfigResource, Vec<ConfigChange>)>,
    ) -> Result<Results<ConfigResource, ()>> {
        Ok(self.alter(checked(changes)?, false).await)
    }

    /// What [`alter_configs`](Self::alter_configs) would say, without changing anything.
    ///
    /// # Errors
    ///
    /// As [`alter_configs`](Self::alter_configs).
    pub async fn validate_configs(
        &self,
        changes: impl IntoIterator<Item = (ConfigResource, Vec<ConfigChange>)>,
    ) -> Result<Results<ConfigResource, ()>> {
        Ok(self.alter(checked(changes)?, true).await)
    }

    async fn alter(&self, changes: Changes, validate_only: bool) -> Results<ConfigResource, ()> {
        let changes = &changes;
        let ask = |(node, resources): (Option<NodeId>, Vec<ConfigResource>)| -> BoxFuture<'_, Results<_, _>> {
            Box::pin(async move {
                let altered = self.alter_some(node, resources.clone(), changes, validate_only).await;
                altered.unwrap_or_else(|error| {
                    let mut results = Results::new();
                    fail_all(&mut results, resources, &error);
                    results
                })
            })
        };
        let parts = by_node(changes.keys().cloned());
        join_all(parts.into_iter().map(ask).collect()).await.into_iter().flatten().collect()
    }

    async fn alter_some(
        &self,
        node: Option<NodeId>,
        resources: Vec<ConfigResource>,
        changes: &Changes,
        validate_only: bool,
    ) -> Result<Results<ConfigResource, ()>> {
        let target = node.map_or(Target::Controller, Target::Node);
        let item = |resource: &ConfigResource, _| {
            let (resource_type, resource_name) = resource.to_wire();
            let configs = changes.get(resource).into_iter().flatten().map(|change| {
                let (config_operation, value) = change.to_wire();
                AlterableConfig { name: change.name().into(), config_operation, value: value.map(Str::from) }
            });
            Ok(AlterConfigsResource { resource_type, resource_name, configs: configs.collect() })
        };
        let build = |resources, _, _| IncrementalAlterConfigsRequest { resources, validate_only };
        let read = |response: &IncrementalAlterConfigsResponse| {
            let each = response.responses.iter();
            let each = each.map(|r| (r.resource_type, &r.resource_name, r.error_code, &r.error_message));
            each.filter_map(said).collect()
        };
        match Box::pin(self.items_at(target, resources.clone(), not_changed, item, build, read)).await {
            Err(error) if error.kind() == ErrorKind::UnsupportedVersion => {
                self.replace(target, resources, changes, validate_only).await
            }
            altered => altered,
        }
    }

    /// For brokers before 2.3.
    async fn replace(
        &self,
        target: Target<'_>,
        resources: Vec<ConfigResource>,
        changes: &Changes,
        validate_only: bool,
    ) -> Result<Results<ConfigResource, ()>> {
        let mut results = Results::new();
        let mut whole = BTreeMap::new();
        for (resource, entries) in self.describe_configs(resources).await {
            let changes = changes.get(&resource).map(Vec::as_slice).unwrap_or_default();
            match entries.and_then(|entries| changed(&resource, &entries, changes)) {
                Ok(values) => drop(whole.insert(resource, values)),
                Err(error) => drop(results.insert(resource, Err(error))),
            }
        }
        let item = |resource: &ConfigResource, _| {
            let (resource_type, resource_name) = resource.to_wire();
            let values = whole.get(resource).into_iter().flatten();
            let configs = values.map(|(name, value)| WholeConfig {
                name: name.as_str().into(),
                value: Some(value.as_str().into()),
            });
            Ok(WholeResource { resource_type, resource_name, configs: configs.collect() })
        };
        let build = |resources, _, _| AlterConfigsRequest { resources, validate_only };
        let read = |response: &AlterConfigsResponse| {
            let each = response.responses.iter();
            let each = each.map(|r| (r.resource_type, &r.resource_name, r.error_code, &r.error_message));
            each.filter_map(said).collect()
        };
        let items = whole.keys().cloned().collect();
        results.extend(Box::pin(self.items_at(target, items, not_changed, item, build, read)).await?);
        Ok(results)
    }
}

/// What was said of one resource, in the answer to either request.
fn said((kind, name, code, message): (i8, &Str, i16, &Option<Str>)) -> Option<Said<ConfigResource, ()>> {
    let item = ConfigResource::from_wire(kind, name)?;
    Some(Said { item, code: ErrorCode(code), message: message.clone(), value: () })
}

fn not_changed(resource: &ConfigResource) -> String {
    format!("the settings of {resource} were not changed")
}

/// All values of a resource's own after `changes`.
fn changed(
    resource: &ConfigResource,
    entries: &[ConfigEntry],
    changes: &[ConfigChange],
) -> Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    let named = |name: &str| changes.iter().any(|change| change.name() == name);
    for entry in entries.iter().filter(|entry| entry.source.is_own(resource)) {
        match &entry.value {
            Some(value) => drop(values.insert(entry.name.clone(), value.clone())),
            None if named(&entry.name) => {}
            None => {
                let message = format!(
                    "the settings of {resource} were not changed: the broker is too old to change single ones, and {} is secret",
                    entry.name
                );
                let advice = "set all of them at once with the tools of the broker's own version";
                return Err(Error::new(ErrorKind::UnsupportedVersion, message).with_advice(advice));
            }
        }
    }
    for change in changes {
        let current = || {
            let entry = entries.iter().find(|entry| entry.name == change.name());
            let text = entry.and_then(|entry| entry.value.as_deref()).unwrap_or_default();
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned)
        };
        let parts = |value: &str| value.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>();
        let name = change.name().to_owned();
        match change {
            ConfigChange::Set(_, value) => drop(values.insert(name, value.clone())),
            ConfigChange::Unset(_) => drop(values.remove(&name)),
            ConfigChange::Append(_, value) => {
                let mut list: Vec<String> = current().collect();
                list.extend(parts(value).into_iter().filter(|part| !current().any(|old| old == *part)));
                values.insert(name, list.join(","));
            }
            ConfigChange::Subtract(_, value) => {
                let out = parts(value);
                let list: Vec<String> = current().filter(|part| !out.contains(part)).collect();
                values.insert(name, list.join(","));
            }
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ConfigSource;

    fn entry(name: &str, value: Option<&str>, source: ConfigSource) -> ConfigEntry {
        ConfigEntry {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            source,
            read_only: false,
            sensitive: value.is_none(),
            synonyms: Vec::new(),
            documentation: None,
        }
    }

    #[test]
    fn what_an_old_broker_replaces_is_what_was_there_with_the_changes() {
        let topic = ConfigResource::Topic("t".into());
        let entries = [
            entry("cleanup.policy", Some("delete"), ConfigSource::Default),
            entry("retention.ms", Some("5"), ConfigSource::Topic),
            entry("segment.ms", Some("7"), ConfigSource::Topic),
            entry("flush.ms", Some("9"), ConfigSource::BrokerFile),
        ];
        let changes = [
            ConfigChange::set("retention.bytes", "1"),
            ConfigChange::unset("segment.ms"),
            ConfigChange::Append("cleanup.policy".into(), "compact,delete".into()),
        ];
        let values = changed(&topic, &entries, &changes).expect("no secrets");
        let expected =
            [("cleanup.policy", "delete,compact"), ("retention.bytes", "1"), ("retention.ms", "5")];
        assert_eq!(values, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let less = [ConfigChange::Subtract("cleanup.policy".into(), "delete".into())];
        assert_eq!(changed(&topic, &entries, &less).expect("no secrets")["cleanup.policy"], "");
    }

    #[test]
    fn secrets_that_would_be_lost_are_a_reason_to_refuse() {
        let broker = ConfigResource::Broker(NodeId(1));
        let entries = [entry("ssl.keystore.password", None, ConfigSource::Broker)];
        let error = changed(&broker, &entries, &[ConfigChange::set("a", "b")]).expect_err("it would be lost");
        assert!(error.to_string().contains("ssl.keystore.password"), "{error}");
        let changes = [ConfigChange::set("ssl.keystore.password", "canary")];
        assert!(changed(&broker, &entries, &changes).is_ok());
        assert!(!format!("{changes:?}").contains("canary"));
    }
}
