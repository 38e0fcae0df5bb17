//! Settings of producers.

use crate::producer::{Acks, Compression, Partitioner};

use super::ClientSettings;
use super::table::{Kind, Scope, Setting};

const fn row(
    name: &'static str,
    aliases: &'static [&'static str],
    default: &'static str,
    kind: Kind,
    note: &'static str,
) -> Setting {
    Setting { scope: Scope::Producer, name, aliases, default, kind, note }
}

const fn refused(
    name: &'static str,
    aliases: &'static [&'static str],
    accepted: &'static [&'static str],
    note: &'static str,
) -> Setting {
    row(name, aliases, "", Kind::Refused(accepted), note)
}

fn set_level(settings: &mut ClientSettings, codec: Compression, level: i64) {
    settings.producer.codec_levels[codec as usize] = i32::try_from(level).ok();
}

const MAX_MS: u64 = 1 << 31;
const DELIVERY_MAX_MS: u64 = 30 * 24 * 3_600_000;
const PARTITIONERS: &[&str] =
    &["murmur2_random", "murmur2", "consistent_random", "consistent", "fnv1a_random", "fnv1a", "random"];

pub(super) static TABLE: &[Setting] = &[
    row(
        "acks",
        &["request.required.acks"],
        "all",
        Kind::Word(&["all", "-1", "1", "0"], |s, v| {
            s.producer.acks = match v {
                "0" => Acks::None,
                "1" => Acks::Leader,
                _ => Acks::All,
            };
        }),
        "less than all needs enable.idempotence=false",
    ),
    row("enable.idempotence", &[], "true", Kind::Bool(|s, v| s.producer.enable_idempotence = v), ""),
    row("batch.size", &[], "1000000", Kind::Bytes(1024, 1 << 30, |s, v| s.producer.batch_size = v), ""),
    row(
        "linger.ms",
        &["queue.buffering.max.ms"],
        "",
        Kind::Millis(0, 900_000, |s, v| s.producer.linger = Some(v)),
        "not set, it adapts: records wait where that pays, and for 1 ms at most",
    ),
    row(
        "buffer.memory",
        &[],
        "33554432",
        Kind::Bytes(1024, 1 << 40, |s, v| s.producer.buffer_memory = v),
        "",
    ),
    row(
        "queue.buffering.max.kbytes",
        &[],
        "",
        Kind::Bytes(1, 1 << 30, |s, v| s.producer.buffer_memory = v.saturating_mul(1024)),
        "buffer.memory in units of 1024 bytes",
    ),
    row("max.block.ms", &[], "60000", Kind::Millis(0, MAX_MS, |s, v| s.producer.max_block = v), ""),
    row(
        "delivery.timeout.ms",
        &["message.timeout.ms"],
        "120000",
        Kind::Millis(1, DELIVERY_MAX_MS, |s, v| s.producer.delivery_timeout = v),
        "",
    ),
    row(
        "max.in.flight.requests.per.connection",
        &["max.in.flight"],
        "5",
        Kind::Number(1, 1_000_000, |s, v| s.producer.max_in_flight = usize::try_from(v).unwrap_or(1)),
        "at most 5 with idempotence",
    ),
    row(
        "compression.type",
        &["compression.codec"],
        "none",
        Kind::Word(&["none", "gzip", "snappy", "lz4", "zstd"], |s, v| {
            s.producer.compression = v.parse().unwrap_or(Compression::None);
        }),
        "codecs are features of the build",
    ),
    row(
        "compression.gzip.level",
        &[],
        "-1",
        Kind::Number(-1, 9, |s, v| set_level(s, Compression::Gzip, v)),
        "1 to 9; -1 is 6",
    ),
    row(
        "compression.lz4.level",
        &[],
        "9",
        Kind::Number(1, 17, |s, v| set_level(s, Compression::Lz4, v)),
        "changes nothing: the encoder has one level",
    ),
    row(
        "compression.zstd.level",
        &[],
        "3",
        Kind::Number(-131_072, 22, |s, v| set_level(s, Compression::Zstd, v)),
        "",
    ),
    row(
        "compression.level",
        &[],
        "-1",
        Kind::Number(-1, 12, |s, v| {
            s.producer.compression_level = i32::try_from(v).ok().filter(|level| *level != -1);
        }),
        "of whatever codec there is, goes before that of one codec; -1 is the codec's default",
    ),
    row(
        "partitioner",
        &[],
        "murmur2_random",
        Kind::Word(PARTITIONERS, |s, v| {
            s.producer.partitioner = v.parse().unwrap_or(Partitioner::Murmur2Random)
        }),
        "librdkafka's default is consistent_random: name it to find the keys where they were",
    ),
    refused("partitioner.class", &[], &[], "name a partitioner with the setting partitioner"),
    refused(
        "partitioner.ignore.keys",
        &[],
        &["false"],
        "records without a key find a partition by themselves; send them without one",
    ),
    refused(
        "partitioner.adaptive.partitioning.enable",
        &[],
        &["true"],
        "partitions without a key go by their load",
    ),
    refused("partitioner.availability.timeout.ms", &[], &["0"], "partitions without a leader are avoided"),
    refused(
        "sticky.partitioning.linger.ms",
        &[],
        &[],
        "records without a key move to another partition by bytes, not by time (KIP-794)",
    ),
    refused(
        "retries",
        &["message.send.max.retries"],
        &["2147483647"],
        "retries end at delivery.timeout.ms; their number is not limited",
    ),
    refused(
        "max.request.size",
        &["message.max.bytes"],
        &[],
        "the topic's max.message.bytes decides; batch.size bounds batches",
    ),
    refused("queue.buffering.max.messages", &[], &[], "the buffer is bounded by bytes: buffer.memory"),
    refused("queue.buffering.backpressure.threshold", &[], &[], "batches close by load"),
    refused("batch.num.messages", &[], &[], "batches are bounded by bytes: batch.size"),
    refused("delivery.report.only.error", &[], &[], "each receipt is a future; drop those of no interest"),
    refused(
        "enable.gapless.guarantee",
        &[],
        &["false"],
        "a failed record is told; what was behind it goes on",
    ),
    refused("transactional.id", &[], &[], "transactions are not part of this version"),
    refused("transaction.timeout.ms", &[], &[], "transactions are not part of this version"),
    refused(
        "transaction.two.phase.commit.enable",
        &[],
        &["false"],
        "transactions are not part of this version",
    ),
];
