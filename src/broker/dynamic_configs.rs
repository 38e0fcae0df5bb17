//! Settings of brokers, groups and client metrics that can be changed while the cluster runs: all are accepted and
//! reported, none has an effect here.

use std::collections::BTreeMap;

use super::topic_configs::{Kind, Known, Range};

/// What has such settings, as the protocol numbers it, and its name; of brokers the empty name means all.
pub(crate) type Owner = (i8, String);

/// Types of resources.
pub(crate) const TOPIC: i8 = 2;
pub(crate) const BROKER: i8 = 4;
pub(crate) const CLIENT_METRICS: i8 = 16;
pub(crate) const GROUP: i8 = 32;

/// Settings of brokers that Kafka changes at run time and its tools set.
const BROKERS: &[Known] = &[
    ("background.threads", Kind::Int, "10", Range::AtLeast(1)),
    ("compression.type", Kind::String, "producer", Range::Any),
    ("follower.replication.throttled.rate", Kind::Long, "9223372036854775807", Range::AtLeast(0)),
    ("leader.replication.throttled.rate", Kind::Long, "9223372036854775807", Range::AtLeast(0)),
    ("log.cleaner.threads", Kind::Int, "1", Range::AtLeast(0)),
    ("log.cleanup.policy", Kind::List, "delete", Range::ListOf(&["compact", "delete"])),
    ("log.retention.bytes", Kind::Long, "-1", Range::Any),
    ("log.retention.ms", Kind::Long, "604800000", Range::AtLeast(-1)),
    ("log.segment.bytes", Kind::Int, "1073741824", Range::AtLeast(1_048_576)),
    ("max.connection.creation.rate", Kind::Int, "2147483647", Range::AtLeast(0)),
    ("max.connections", Kind::Int, "2147483647", Range::AtLeast(0)),
    ("max.connections.per.ip", Kind::Int, "2147483647", Range::AtLeast(0)),
    ("num.io.threads", Kind::Int, "8", Range::AtLeast(1)),
    ("num.network.threads", Kind::Int, "3", Range::AtLeast(1)),
    ("num.replica.fetchers", Kind::Int, "1", Range::AtLeast(1)),
    ("replica.alter.log.dirs.io.max.bytes.per.second", Kind::Long, "9223372036854775807", Range::AtLeast(0)),
    ("unclean.leader.election.enable", Kind::Boolean, "false", Range::Any),
];

const GROUPS: &[Known] = &[
    ("consumer.heartbeat.interval.ms", Kind::Int, "5000", Range::AtLeast(1)),
    ("consumer.session.timeout.ms", Kind::Int, "45000", Range::AtLeast(1)),
    ("share.auto.offset.reset", Kind::String, "latest", Range::Any),
    ("share.heartbeat.interval.ms", Kind::Int, "5000", Range::AtLeast(1)),
    (
        "share.isolation.level",
        Kind::String,
        "read_uncommitted",
        Range::OneOf(&["read_committed", "read_uncommitted"]),
    ),
    ("share.record.lock.duration.ms", Kind::Int, "30000", Range::Within(1000, 3_600_000)),
    ("share.session.timeout.ms", Kind::Int, "45000", Range::AtLeast(1)),
    ("streams.heartbeat.interval.ms", Kind::Int, "5000", Range::AtLeast(1)),
    ("streams.num.standby.replicas", Kind::Int, "0", Range::AtLeast(0)),
    ("streams.session.timeout.ms", Kind::Int, "45000", Range::AtLeast(1)),
];

const METRICS: &[Known] = &[
    ("interval.ms", Kind::Int, "300000", Range::Within(100, 3_600_000)),
    ("match", Kind::List, "", Range::Any),
    ("metrics", Kind::List, "", Range::Any),
];

/// The settings of a type of resource; `None` if it has none here.
pub(crate) fn known(kind: i8) -> Option<&'static [Known]> {
    match kind {
        BROKER => Some(BROKERS),
        GROUP => Some(GROUPS),
        CLIENT_METRICS => Some(METRICS),
        TOPIC => Some(super::topic_configs::KNOWN),
        _ => None,
    }
}

/// A change to one setting.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) name: String,
    /// Set 0, unset 1, append 2, subtract 3.
    pub(crate) operation: i8,
    pub(crate) value: Option<String>,
}

/// The settings `own` of a resource after `changes`, checked as a whole.
pub(crate) fn changed(
    kind: i8,
    own: &BTreeMap<String, String>,
    changes: &[Change],
) -> Result<BTreeMap<String, String>, String> {
    let Some(known) = known(kind) else {
        return Err(format!("Unexpected resource type {kind}"));
    };
    let mut values = own.clone();
    for change in changes {
        let Some((_, setting, default, _)) = known.iter().find(|(name, ..)| *name == change.name) else {
            return Err(format!("Unknown config name: {}", change.name));
        };
        let name = change.name.clone();
        let list = |text: &str| {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect::<Vec<_>>()
        };
        match (change.operation, &change.value) {
            (1, _) => drop(values.remove(&name)),
            (0, Some(value)) => drop(values.insert(name, value.clone())),
            (2 | 3, Some(value)) => {
                if *setting != Kind::List {
                    return Err(format!(
                        "Config value append is not allowed for config key: {}",
                        change.name
                    ));
                }
                let mut parts = list(values.get(&name).map_or(*default, String::as_str));
                let named = list(value);
                if change.operation == 2 {
                    let more: Vec<_> = named.into_iter().filter(|part| !parts.contains(part)).collect();
                    parts.extend(more);
                } else {
                    parts.retain(|part| !named.contains(part));
                }
                values.insert(name, parts.join(","));
            }
            (0 | 2 | 3, None) => return Err(format!("Null value not supported for : {}", change.name)),
            (other, _) => return Err(format!("Unknown operation type {other}")),
        }
    }
    if kind == TOPIC {
        super::topic_configs::check(&values)?
    } else {
        check(known, &values)?
    }
    Ok(values)
}

fn check(known: &[Known], values: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in values {
        if let Some((_, kind, _, range)) = known.iter().find(|(known, ..)| known == name) {
            (kind.check(value.trim()).and_then(|()| range.check(value.trim())))
                .map_err(|why| format!("Invalid value {value} for configuration {name}: {why}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_lie_within_their_ranges() {
        for kind in [BROKER, GROUP, CLIENT_METRICS] {
            let known = known(kind).unwrap();
            let defaults =
                known.iter().map(|(name, _, default, _)| ((*name).to_owned(), (*default).to_owned()));
            assert_eq!(check(known, &defaults.collect()), Ok(()));
        }
    }
}
