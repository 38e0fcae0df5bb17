//! Settings of consumers.

use std::time::Duration;

use crate::consumer::{Assignor, FirstStart, Isolation, MemoryBudget, OutOfRange};

use super::table::{Kind, Scope, Setting};

const fn row(
    name: &'static str,
    aliases: &'static [&'static str],
    default: &'static str,
    kind: Kind,
    note: &'static str,
) -> Setting {
    Setting { scope: Scope::Consumer, name, aliases, default, kind, note }
}

const fn refused(name: &'static str, accepted: &'static [&'static str], note: &'static str) -> Setting {
    row(name, &[], "", Kind::Refused(accepted), note)
}

const RANGE_CLASS: &str = "org.apache.kafka.clients.consumer.RangeAssignor";
const STICKY_CLASS: &str = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor";
const FETCH_BYTES_MAX: u64 = i32::MAX as u64;
const BUDGET: &str = "one memory budget bounds everything that is fetched; see the client's memory budget";

pub(super) static TABLE: &[Setting] = &[
    row("group.id", &[], "", Kind::Text(|s, v| s.group_id = Some(v.to_owned().into())), ""),
    row(
        "auto.offset.reset",
        &[],
        "earliest for partitions without a committed offset, none for positions out of range",
        Kind::Word(
            &["earliest", "smallest", "beginning", "latest", "largest", "end", "none", "error"],
            |s, v| {
                (s.consumer.first_start, s.consumer.out_of_range) = match v {
                    "earliest" | "smallest" | "beginning" => (FirstStart::Earliest, OutOfRange::Earliest),
                    "latest" | "largest" | "end" => (FirstStart::Latest, OutOfRange::Latest),
                    _ => (FirstStart::Stop, OutOfRange::Stop),
                };
            },
        ),
        "sets both; the typed settings set them apart",
    ),
    row(
        "isolation.level",
        &[],
        "read_committed",
        Kind::Word(&["read_committed", "read_uncommitted"], |s, v| {
            s.consumer.isolation =
                if v == "read_committed" { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
        }),
        "",
    ),
    row("fetch.min.bytes", &[], "1", Kind::Bytes(0, FETCH_BYTES_MAX, |s, v| s.consumer.min_bytes = v), ""),
    row(
        "fetch.max.wait.ms",
        &["fetch.wait.max.ms"],
        "500",
        Kind::Millis(0, 20_000, |s, v| s.consumer.max_wait = v),
        "",
    ),
    row(
        "fetch.max.bytes",
        &[],
        "52428800",
        Kind::Bytes(1, FETCH_BYTES_MAX, |s, v| s.consumer.max_bytes = v),
        "",
    ),
    row(
        "max.partition.fetch.bytes",
        &["fetch.message.max.bytes"],
        "1048576",
        Kind::Bytes(1, FETCH_BYTES_MAX, |s, v| s.consumer.partition_max_bytes = v),
        "",
    ),
    row("check.crcs", &[], "true", Kind::Bool(|s, v| s.consumer.check_crcs = v), ""),
    row("enable.partition.eof", &[], "false", Kind::Bool(|s, v| s.consumer.partition_end_events = v), ""),
    row(
        "partition.assignment.strategy",
        &[],
        "cooperative-sticky",
        Kind::Words(&["cooperative-sticky", "range", STICKY_CLASS, RANGE_CLASS], |s, v| {
            let assignor = |name: &&str| {
                if matches!(*name, "range" | RANGE_CLASS) {
                    Assignor::Range
                } else {
                    Assignor::CooperativeSticky
                }
            };
            s.consumer.assignors = v.iter().map(assignor).collect();
        }),
        "a list with range is eager, by Kafka's rules",
    ),
    row(
        "session.timeout.ms",
        &[],
        "45000",
        Kind::Millis(10, 86_400_000, |s, v| s.consumer.session_timeout = v),
        "",
    ),
    row(
        "heartbeat.interval.ms",
        &[],
        "3000",
        Kind::Millis(1, 28_800_000, |s, v| s.consumer.heartbeat_interval = v),
        "",
    ),
    row(
        "max.poll.interval.ms",
        &["rebalance.timeout.ms"],
        "300000",
        Kind::Millis(10, 604_800_000, |s, v| s.consumer.rebalance_timeout = v),
        "becomes the rebalance timeout: heartbeats do not depend on how long the application takes",
    ),
    row(
        "enable.auto.commit",
        &[],
        "true",
        Kind::Bool(|s, v| {
            s.consumer.auto_commit_interval = match (v, s.consumer.auto_commit_interval) {
                (false, _) => None,
                (true, None) => Some(Duration::from_secs(5)),
                (true, interval) => interval,
            };
        }),
        "",
    ),
    row(
        "auto.commit.interval.ms",
        &[],
        "5000",
        Kind::Millis(1, 86_400_000, |s, v| {
            if s.consumer.auto_commit_interval.is_some() {
                s.consumer.auto_commit_interval = Some(v);
            }
        }),
        "",
    ),
    row("enable.auto.offset.store", &[], "true", Kind::Bool(|s, v| s.consumer.auto_store = v), ""),
    row(
        "queued.max.messages.kbytes",
        &[],
        "65536",
        Kind::Bytes(1, 1 << 30, |s, v| s.client.budget = MemoryBudget::new(v.saturating_mul(1024))),
        "the memory budget that all consumers of the client share, in units of 1024 bytes",
    ),
    refused("group.protocol", &["classic"], "the KIP-848 protocol is not part of this version"),
    refused("group.remote.assignor", &[], "the KIP-848 protocol is not part of this version"),
    refused("group.protocol.type", &["consumer"], "only consumer groups are joined"),
    refused("group.instance.id", &[], "static membership is not part of this version"),
    refused("max.poll.records", &[], "a batch is what a partition had; it is never cut"),
    refused("allow.auto.create.topics", &["false"], "consumers do not create topics"),
    refused("exclude.internal.topics", &["true"], "patterns leave Kafka's own topics out"),
    refused("queued.min.messages", &[], BUDGET),
    refused("fetch.queue.backoff.ms", &[], BUDGET),
    refused("fetch.error.backoff.ms", &[], "see retry.backoff.ms"),
    refused("coordinator.query.interval.ms", &[], "the coordinator is looked up again when it moves"),
    refused("offset.store.method", &["broker"], "offsets are stored by Kafka"),
    refused("consume.callback.max.messages", &[], "there are no callbacks"),
];
