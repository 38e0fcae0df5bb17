//! The topic settings that Kafka knows: all are accepted and reported, few have an effect here.

use std::collections::BTreeMap;

use super::settings::Settings;

/// Value type of a setting, as DescribeConfigs numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// Name, type and Kafka's default.
pub(crate) const KNOWN: &[(&str, Kind, &str)] = &[
    ("cleanup.policy", Kind::List, "delete"),
    ("compression.gzip.level", Kind::Int, "-1"),
    ("compression.lz4.level", Kind::Int, "9"),
    ("compression.type", Kind::String, "producer"),
    ("compression.zstd.level", Kind::Int, "3"),
    ("delete.retention.ms", Kind::Long, "86400000"),
    ("file.delete.delay.ms", Kind::Long, "60000"),
    ("flush.messages", Kind::Long, "9223372036854775807"),
    ("flush.ms", Kind::Long, "9223372036854775807"),
    ("follower.replication.throttled.replicas", Kind::List, ""),
    ("index.interval.bytes", Kind::Int, "4096"),
    ("leader.replication.throttled.replicas", Kind::List, ""),
    ("local.retention.bytes", Kind::Long, "-2"),
    ("local.retention.ms", Kind::Long, "-2"),
    ("max.compaction.lag.ms", Kind::Long, "9223372036854775807"),
    ("max.message.bytes", Kind::Int, "1048588"),
    ("message.timestamp.after.max.ms", Kind::Long, "3600000"),
    ("message.timestamp.before.max.ms", Kind::Long, "9223372036854775807"),
    ("message.timestamp.type", Kind::String, "CreateTime"),
    ("min.cleanable.dirty.ratio", Kind::Double, "0.5"),
    ("min.compaction.lag.ms", Kind::Long, "0"),
    ("min.insync.replicas", Kind::Int, "1"),
    ("preallocate", Kind::Boolean, "false"),
    ("remote.storage.enable", Kind::Boolean, "false"),
    ("retention.bytes", Kind::Long, "-1"),
    ("retention.ms", Kind::Long, "604800000"),
    ("segment.bytes", Kind::Int, "1073741824"),
    ("segment.index.bytes", Kind::Int, "10485760"),
    ("segment.jitter.ms", Kind::Long, "0"),
    ("segment.ms", Kind::Long, "604800000"),
    ("unclean.leader.election.enable", Kind::Boolean, "false"),
];

/// Refuses unknown names and values that are not of the setting's type.
pub(crate) fn check(configs: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in configs {
        let Some((_, kind, _)) = KNOWN.iter().find(|(known, _, _)| known == name) else {
            return Err(format!("Unknown topic config name: {name}"));
        };
        let fits = match kind {
            Kind::Boolean => value.parse::<bool>().is_ok(),
            Kind::Int => value.parse::<i32>().is_ok(),
            Kind::Long => value.parse::<i64>().is_ok(),
            Kind::Double => value.parse::<f64>().is_ok(),
            Kind::String | Kind::List => true,
        };
        if !fits {
            return Err(format!(
                "Invalid value {value} for configuration {name}: Not a number of the right type"
            ));
        }
        let allowed: Option<&[&str]> = match name.as_str() {
            "cleanup.policy" => Some(&["compact", "delete"]),
            "message.timestamp.type" => Some(&["CreateTime", "LogAppendTime"]),
            _ => None,
        };
        if let Some(allowed) = allowed
            && !value.split(',').all(|part| allowed.contains(&part.trim()))
        {
            return Err(format!(
                "Invalid value {value} for configuration {name}: String must be one of: {}",
                allowed.join(", ")
            ));
        }
    }
    Ok(())
}

/// Kafka's default of a setting, with the cluster's own where it has one.
pub(crate) fn default_of(name: &str, default: &str, settings: &Settings) -> String {
    match name {
        "max.message.bytes" => settings.message_max_bytes.to_string(),
        "min.insync.replicas" => settings.min_insync_replicas.to_string(),
        _ => default.to_owned(),
    }
}

pub(crate) fn number(configs: &BTreeMap<String, String>, name: &str) -> Option<usize> {
    configs.get(name)?.parse().ok()
}

pub(crate) fn is_compacted(configs: &BTreeMap<String, String>) -> bool {
    configs.get("cleanup.policy").is_some_and(|policy| policy.split(',').any(|part| part.trim() == "compact"))
}

pub(crate) fn is_append_time(configs: &BTreeMap<String, String>) -> bool {
    configs.get("message.timestamp.type").is_some_and(|value| value == "LogAppendTime")
}
