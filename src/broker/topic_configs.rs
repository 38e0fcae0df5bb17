//! The topic settings that Kafka knows: all are accepted and reported, few have an effect here.

use std::collections::{BTreeMap, BTreeSet};

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

/// Which values of its type a setting takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Range {
    Any,
    AtLeast(i64),
    Within(i64, i64),
    /// 0 to 1.
    Share,
    /// 1 to 9, or -1 for the codec's default.
    GzipLevel,
    OneOf(&'static [&'static str]),
    /// Some of these, none twice.
    ListOf(&'static [&'static str]),
    /// `partition:node` pairs, or `*`.
    Replicas,
}

/// Name, type, Kafka's default and range of a setting.
pub(crate) type Known = (&'static str, Kind, &'static str, Range);

/// As Kafka 4.3 defines them.
pub(crate) const KNOWN: &[Known] = &[
    ("cleanup.policy", Kind::List, "delete", Range::ListOf(&["compact", "delete"])),
    ("compression.gzip.level", Kind::Int, "-1", Range::GzipLevel),
    ("compression.lz4.level", Kind::Int, "9", Range::Within(1, 17)),
    (
        "compression.type",
        Kind::String,
        "producer",
        Range::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
    ),
    ("compression.zstd.level", Kind::Int, "3", Range::Within(-131_072, 22)),
    ("delete.retention.ms", Kind::Long, "86400000", Range::AtLeast(0)),
    ("file.delete.delay.ms", Kind::Long, "60000", Range::AtLeast(0)),
    ("flush.messages", Kind::Long, "9223372036854775807", Range::AtLeast(1)),
    ("flush.ms", Kind::Long, "9223372036854775807", Range::AtLeast(0)),
    ("follower.replication.throttled.replicas", Kind::List, "", Range::Replicas),
    ("index.interval.bytes", Kind::Int, "4096", Range::AtLeast(0)),
    ("leader.replication.throttled.replicas", Kind::List, "", Range::Replicas),
    ("local.retention.bytes", Kind::Long, "-2", Range::AtLeast(-2)),
    ("local.retention.ms", Kind::Long, "-2", Range::AtLeast(-2)),
    ("max.compaction.lag.ms", Kind::Long, "9223372036854775807", Range::AtLeast(1)),
    ("max.message.bytes", Kind::Int, "1048588", Range::AtLeast(0)),
    ("message.timestamp.after.max.ms", Kind::Long, "3600000", Range::AtLeast(0)),
    ("message.timestamp.before.max.ms", Kind::Long, "9223372036854775807", Range::AtLeast(0)),
    ("message.timestamp.type", Kind::String, "CreateTime", Range::OneOf(&["CreateTime", "LogAppendTime"])),
    ("min.cleanable.dirty.ratio", Kind::Double, "0.5", Range::Share),
    ("min.compaction.lag.ms", Kind::Long, "0", Range::AtLeast(0)),
    ("min.insync.replicas", Kind::Int, "1", Range::AtLeast(1)),
    ("preallocate", Kind::Boolean, "false", Range::Any),
    ("remote.log.copy.disable", Kind::Boolean, "false", Range::Any),
    ("remote.log.delete.on.disable", Kind::Boolean, "false", Range::Any),
    ("remote.storage.enable", Kind::Boolean, "false", Range::Any),
    ("retention.bytes", Kind::Long, "-1", Range::Any),
    ("retention.ms", Kind::Long, "604800000", Range::AtLeast(-1)),
    ("segment.bytes", Kind::Int, "1073741824", Range::AtLeast(1_048_576)),
    ("segment.index.bytes", Kind::Int, "10485760", Range::AtLeast(4)),
    ("segment.jitter.ms", Kind::Long, "0", Range::AtLeast(0)),
    ("segment.ms", Kind::Long, "604800000", Range::AtLeast(1)),
    ("unclean.leader.election.enable", Kind::Boolean, "false", Range::Any),
];

/// Refuses unknown names, values that are not of the setting's type or outside its range, and values that contradict
/// each other.
pub(crate) fn check(configs: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in configs {
        let Some((_, kind, _, range)) = KNOWN.iter().find(|(known, ..)| known == name) else {
            return Err(format!("Unknown topic config name: {name}"));
        };
        kind.check(value.trim())
            .and_then(|()| range.check(value.trim()))
            .map_err(|why| format!("Invalid value {value} for configuration {name}: {why}"))?;
    }
    let long = |name: &str| configs.get(name).and_then(|value| value.trim().parse::<i64>().ok());
    let (least, most) = (long("min.compaction.lag.ms").unwrap_or(0), long("max.compaction.lag.ms"));
    if let Some(most) = most.filter(|most| *most < least) {
        return Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({least}) > max.compaction.lag.ms ({most})"
        ));
    }
    if configs.get("remote.storage.enable").is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
        return Err(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote \
                    log storage."
                .to_owned(),
        );
    }
    Ok(())
}

impl Kind {
    pub(crate) fn check(self, value: &str) -> Result<(), String> {
        let number = |fits: bool, name: &str| {
            if fits { Ok(()) } else { Err(format!("Not a number of type {name}")) }
        };
        match self {
            Self::Boolean if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") => {
                Ok(())
            }
            Self::Boolean => Err("Expected value to be either true or false".to_owned()),
            Self::Int => number(value.parse::<i32>().is_ok(), "INT"),
            Self::Long => number(value.parse::<i64>().is_ok(), "LONG"),
            Self::Double => number(value.parse::<f64>().is_ok(), "DOUBLE"),
            Self::String | Self::List => Ok(()),
        }
    }
}

impl Range {
    /// `value` is of the setting's type.
    pub(crate) fn check(self, value: &str) -> Result<(), String> {
        let number = || value.parse::<i64>().unwrap_or(0);
        let within = |from: i64, to: i64| match number() {
            number if number < from => Err(format!("Value must be at least {from}")),
            number if number > to => Err(format!("Value must be no more than {to}")),
            _ => Ok(()),
        };
        let parts = || value.split(',').map(str::trim).filter(|part| !part.is_empty());
        match self {
            Self::Any => Ok(()),
            Self::AtLeast(from) => within(from, i64::MAX),
            Self::Within(from, to) => within(from, to),
            Self::Share if value.parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share)) => Ok(()),
            Self::Share => Err("Value must be within 0 to 1".to_owned()),
            Self::GzipLevel if number() == -1 => Ok(()),
            Self::GzipLevel => within(1, 9),
            Self::OneOf(allowed) if allowed.contains(&value) => Ok(()),
            Self::OneOf(allowed) => Err(format!("String must be one of: {}", allowed.join(", "))),
            Self::ListOf(allowed) => {
                let mut seen = BTreeSet::new();
                match parts().find(|part| !allowed.contains(part) || !seen.insert(*part)) {
                    None => Ok(()),
                    Some(part) if seen.contains(part) => Err(format!("{part} stands in it twice")),
                    Some(_) => Err(format!("String must be one of: {}", allowed.join(", "))),
                }
            }
            Self::Replicas if parts().all(is_replica) || value == "*" => Ok(()),
            Self::Replicas => {
                Err("it must be the literal '*' or a list of replicas in the form [partitionId]:[brokerId]"
                    .to_owned())
            }
        }
    }
}

fn is_replica(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once(':').is_some_and(|(partition, node)| digits(partition) && digits(node))
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
    configs.get(name)?.trim().parse().ok()
}

pub(crate) fn is_compacted(configs: &BTreeMap<String, String>) -> bool {
    configs.get("cleanup.policy").is_some_and(|policy| policy.split(',').any(|part| part.trim() == "compact"))
}

pub(crate) fn is_append_time(configs: &BTreeMap<String, String>) -> bool {
    configs.get("message.timestamp.type").is_some_and(|value| value.trim() == "LogAppendTime")
}

/// How far timestamps of records may lie before and after the broker's time, in milliseconds.
pub(crate) fn timestamp_bounds(configs: &BTreeMap<String, String>) -> (i64, i64) {
    let of = |name: &str, default| {
        configs.get(name).and_then(|value| value.trim().parse().ok()).unwrap_or(default)
    };
    (of("message.timestamp.before.max.ms", i64::MAX), of("message.timestamp.after.max.ms", 3_600_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, value: &str) -> Result<(), String> {
        check(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn defaults_lie_within_their_ranges() {
        for (name, _, default, _) in KNOWN {
            assert_eq!(checked(name, default), Ok(()), "{name}={default}");
        }
    }

    #[test]
    fn values_outside_their_ranges_are_refused() {
        for (name, value) in [
            ("segment.bytes", "200"),
            ("compression.type", "foo"),
            ("compression.gzip.level", "0"),
            ("compression.gzip.level", "10"),
            ("compression.lz4.level", "18"),
            ("compression.zstd.level", "23"),
            ("retention.ms", "-5"),
            ("min.insync.replicas", "0"),
            ("max.message.bytes", "-1"),
            ("max.message.bytes", "2147483648"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("flush.messages", "0"),
            ("preallocate", "yes"),
            ("cleanup.policy", "compact,forget"),
            ("cleanup.policy", "delete,delete"),
            ("leader.replication.throttled.replicas", "1"),
            ("remote.storage.enable", "true"),
            ("no.such.setting", "1"),
        ] {
            assert!(checked(name, value).is_err(), "{name}={value}");
        }
        let lags = [("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")];
        let lags = lags.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert!(check(&lags.into()).is_err());
    }

    #[test]
    fn what_kafka_takes_is_taken() {
        for (name, value) in [
            ("remote.log.copy.disable", "true"),
            ("remote.log.delete.on.disable", "FALSE"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-7"),
            ("compression.gzip.level", "-1"),
            ("cleanup.policy", "compact, delete"),
            ("segment.bytes", " 1048576 "),
            ("leader.replication.throttled.replicas", "0:1,1:2"),
            ("follower.replication.throttled.replicas", "*"),
        ] {
            assert_eq!(checked(name, value), Ok(()), "{name}={value}");
        }
    }
}
