//! Settings of a producer.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Partitioner;
use crate::backoff::Backoff;
use crate::settings::{Kind, Problems, Row, UNBOUNDED, Words, settings};
use crate::wire::compression::Compression;
use crate::{Error, Result};

/// Which replicas must have a record before it counts as written (`acks`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Acks {
    /// None: the broker does not answer, losses go unnoticed, offsets are not known. Not with idempotence.
    None,
    /// The leader alone. Not with idempotence.
    Leader,
    /// All replicas in sync (`min.insync.replicas` of the topic at least).
    #[default]
    All,
}

impl Acks {
    pub(crate) fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

impl Words for Acks {
    const SETTING: &'static str = "acks";
    const WORDS: &'static [(&'static str, Self)] =
        &[("all", Self::All), ("-1", Self::All), ("1", Self::Leader), ("0", Self::None)];
}

impl FromStr for Acks {
    type Err = Error;

    /// Takes `all`, `-1`, `0` and `1`.
    ///
    /// # Errors
    ///
    /// `Config` for any other text, with the names that there are.
    fn from_str(text: &str) -> Result<Self> {
        <Self as Words>::parse(text)
    }
}

impl fmt::Display for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

settings! {
    /// Settings of a [`Producer`](super::Producer).
    pub struct ProducerConfig in "producer", others OTHERS;

    /// Which replicas must have a record before it counts as written. Less than all needs `enable.idempotence=false`.
    acks: Acks = All => "acks" | "request.required.acks";

    /// Whether brokers drop copies that retries make, and keep the order (KIP-98).
    enable_idempotence: flag = true => "enable.idempotence";

    /// Largest uncompressed batch, header included. Brokers refuse batches above their `message.max.bytes`, 1,048,588 by
    /// default; a batch refused for its size is split. A record alone may be larger.
    batch_size: bytes = 1_000_000, 1024..=1_073_741_824 => "batch.size";

    /// Time that a record waits for others of its broker, unless its batch is full before, memory is short or a flush wants
    /// it gone: much makes few requests and large batches, and 0 lets each leave at once. Not set, it adapts: with nothing
    /// in flight and few records per round trip a record leaves at once, at higher rates after 1 ms or 512 KiB for its
    /// broker, and where more than a hundred of its partitions have records and more keep coming, after 10 µs for each of
    /// them, 100 ms at most. Less than the delivery timeout.
    linger: ms = unset, 0..=UNBOUNDED => "linger.ms" | "queue.buffering.max.ms";

    /// Memory for records that are not acknowledged yet; at least the batch size. When it is used up, enqueuing waits. Up to
    /// a quarter of it stays allocated when it is not in use.
    buffer_memory: bytes = 33_554_432, 1024..=1_099_511_627_776 => "buffer.memory";

    /// Longest time that enqueuing waits for metadata and memory; [`Duration::MAX`] is for ever.
    max_block: ms = 60_000, 0..=UNBOUNDED => "max.block.ms";

    /// Time from enqueuing to a record's acknowledgement or failure, retries included; at least linger plus request timeout.
    /// [`Duration::MAX`] is for ever.
    delivery_timeout: ms = 120_000, 1..=UNBOUNDED => "delivery.timeout.ms" | "message.timeout.ms";

    /// Time that a broker gets for an answer. Not set, it is the client's, and no more than the delivery timeout leaves.
    request_timeout: ms = unset, 1..=UNBOUNDED => "request.timeout.ms";

    /// Requests on the way per broker, and batches per partition; at most 5 with idempotence. Without it, more than 1 may
    /// reorder records when a request is retried.
    max_in_flight: count = 5, 1..=1_000_000 => "max.in.flight.requests.per.connection" | "max.in.flight";

    /// Codec of batches; codecs are features of the build. Incompressible batches are sent plain.
    compression: Compression = None => "compression.type" | "compression.codec";

    /// Level of whatever codec there is, from fast to small; overrides that of one codec. Refused without a codec, and with
    /// Snappy, which has no levels. As a property, -1 is the codec's default.
    compression_level: number = unset, -131_072..=22, read level => "compression.level";

    /// Level of gzip, 1 to 9 (KIP-390); not set or -1, it is 6.
    compression_gzip_level: number = unset, -1..=9 => "compression.gzip.level";

    /// Level of LZ4 (KIP-390). Changes nothing: the encoder has one level.
    compression_lz4_level: number = unset, 1..=17 => "compression.lz4.level";

    /// Level of zstd (KIP-390); not set, it is 3.
    compression_zstd_level: number = unset, -131_072..=22 => "compression.zstd.level";

    /// How records without explicit partition find one. librdkafka's default is `consistent_random`: name it to find the
    /// keys where they were.
    partitioner: Partitioner = Murmur2Random => "partitioner";

    /// Name under which the producer writes in [transactions](super::Transaction), and in no other way. It stays the same over
    /// restarts of what it does, and one producer at a time uses it: whoever comes later fences whoever was there before.
    /// Needs idempotence.
    transactional_id: text = "" => "transactional.id";

    /// Longest time that a transaction may be open before the coordinator aborts it and its producer is dead; at most
    /// `transaction.max.timeout.ms` of the brokers, 15 minutes by default.
    transaction_timeout: ms = 60_000, 1..=2_147_483_647 => "transaction.timeout.ms";

    /// Bytes that go to one partition before records without key move to another (KIP-794).
    sticky_bytes: bytes = 65_536, 1..=UNBOUNDED => "partitioner.sticky.bytes";

    /// Pause before the first retry, ±20 %; doubles with each. Not set, it is the client's.
    retry_backoff: ms = unset, 0..=UNBOUNDED => "retry.backoff.ms";

    /// Longest pause before a retry, ±20 %. Not set, it is the client's.
    retry_backoff_max: ms = unset, 0..=UNBOUNDED => "retry.backoff.max.ms";

    /// Whether topics that do not exist are created on first use, if the broker allows it too.
    allow_auto_create_topics: flag = true => "auto.create.topics";
}

const OTHERS: &[Row<ProducerConfig>] = &[
    Row::other(
        "queue.buffering.max.kbytes",
        Kind::Bytes(1, 1 << 30),
        "`buffer.memory` in units of 1024 bytes",
        |config, text| match text.parse::<usize>() {
            Ok(kbytes) => {
                config.buffer_memory = kbytes.saturating_mul(1024);
                true
            }
            Err(_) => false,
        },
    ),
    Row::refused("partitioner.class", &[], &[], "name a partitioner with the setting partitioner"),
    Row::refused(
        "partitioner.ignore.keys",
        &[],
        &["false"],
        "records without a key find a partition by themselves; send them without one",
    ),
    Row::refused(
        "partitioner.adaptive.partitioning.enable",
        &[],
        &["true"],
        "partitions without a key go by their load",
    ),
    Row::refused(
        "partitioner.availability.timeout.ms",
        &[],
        &["0"],
        "partitions without a leader are avoided",
    ),
    Row::refused(
        "sticky.partitioning.linger.ms",
        &[],
        &[],
        "records without a key move to another partition by bytes, not by time (KIP-794)",
    ),
    Row::refused(
        "retries",
        &["message.send.max.retries"],
        &["2147483647"],
        "retries end at delivery.timeout.ms; their number is not limited",
    ),
    Row::refused(
        "max.request.size",
        &["message.max.bytes"],
        &[],
        "the topic's max.message.bytes decides; batch.size bounds batches",
    ),
    Row::refused("queue.buffering.max.messages", &[], &[], "the buffer is bounded by bytes: buffer.memory"),
    Row::refused("queue.buffering.backpressure.threshold", &[], &[], "batches close by load"),
    Row::refused("batch.num.messages", &[], &[], "batches are bounded by bytes: batch.size"),
    Row::refused(
        "delivery.report.only.error",
        &[],
        &[],
        "each receipt is a future; drop those of no interest",
    ),
    Row::refused(
        "enable.gapless.guarantee",
        &[],
        &["false"],
        "a failed record is told; what was behind it goes on",
    ),
    Row::refused(
        "transaction.two.phase.commit.enable",
        &[],
        &["false"],
        "transactions are committed by their producer alone (no KIP-939)",
    ),
];

/// A level as a property; librdkafka's -1 is the codec's default, though zstd has a level of that number.
#[expect(clippy::option_option, reason = "the outer one says whether the text is a number")]
fn level(text: &str) -> Option<Option<i32>> {
    text.parse().ok().map(|level| Some(level).filter(|level| *level != -1))
}

impl ProducerConfig {
    /// Notes what does not go together.
    fn check_together(&self, problems: &mut Problems) {
        let ms = |time: Duration| time.as_millis();
        if self.enable_idempotence {
            problems.check(
                self.acks == Acks::All,
                "acks",
                format!("is {}; idempotence (enable.idempotence) needs all", self.acks),
            );
            problems.check(
                self.max_in_flight <= 5,
                "max.in.flight.requests.per.connection",
                format!("is {}; at most 5 with idempotence", self.max_in_flight),
            );
        }
        if let Some(id) = self.transactional() {
            problems.check(
                self.enable_idempotence,
                "transactional.id",
                "is set; transactions need idempotence (enable.idempotence)".to_owned(),
            );
            // As long as a string of the protocol.
            let (length, max) = (id.len(), i16::MAX);
            problems.check(
                length <= max as usize,
                "transactional.id",
                format!("{length} bytes are more than {max}"),
            );
        }
        let batch = self.batch_size.next_power_of_two();
        problems.check(
            self.buffer_memory >= batch,
            "buffer.memory",
            format!("is {}; it must hold one batch (batch.size, rounded up to {batch})", self.buffer_memory),
        );
        let least = self.linger.unwrap_or_default().saturating_add(self.request_timeout.unwrap_or_default());
        problems.check(
            self.delivery_timeout >= least,
            "delivery.timeout.ms",
            format!(
                "is {}; use at least linger.ms + request.timeout.ms = {}",
                ms(self.delivery_timeout),
                ms(least)
            ),
        );
        if let (Some(first), Some(max)) = (self.retry_backoff, self.retry_backoff_max) {
            problems.check(
                first <= max,
                "retry.backoff.ms",
                format!("is {}; use at most retry.backoff.max.ms, {}", ms(first), ms(max)),
            );
        }
        problems.check(
            self.compression.is_available(),
            "compression.type",
            format!("is {0}, and this build lacks the feature `{0}`", self.compression),
        );
        for (setting, codec, level) in [
            ("compression.level", self.compression, self.compression_level),
            ("compression.gzip.level", Compression::Gzip, self.compression_gzip_level),
        ] {
            let Some(level) = level else { continue };
            match codec.levels() {
                None => problems.add(setting, format!("is {level}; {codec} has no levels")),
                Some(range) => problems.check(
                    range.contains(&level) || is_default(codec, level),
                    setting,
                    format!("is {level}; {codec} has levels from {} to {}", range.start(), range.end()),
                ),
            }
        }
    }

    /// The transactional id, if there is one.
    pub(crate) fn transactional(&self) -> Option<&str> {
        Some(self.transactional_id.as_str()).filter(|id| !id.is_empty())
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let mut problems = Problems::default();
        crate::settings::Table::check(self, &mut problems);
        problems.finish(())
    }

    /// Time that a broker gets for an answer where `of_client` is the client's. Never none at all, and never more than a record
    /// has left.
    pub(crate) fn patience(&self, of_client: Duration) -> Duration {
        let left = self.delivery_timeout.saturating_sub(self.linger.unwrap_or_default());
        self.request_timeout.unwrap_or(of_client).min(left).max(Duration::from_millis(1))
    }

    /// Level of the codec, `None` for its default. One set for whatever codec there is overrides that of one codec.
    pub(crate) fn level(&self) -> Option<i32> {
        let of_codec = match self.compression {
            Compression::Gzip => self.compression_gzip_level,
            Compression::Lz4 => self.compression_lz4_level,
            Compression::Zstd => self.compression_zstd_level,
            Compression::None | Compression::Snappy => None,
        };
        let level = self.compression_level.or(of_codec);
        level.filter(|level| !is_default(self.compression, *level))
    }

    /// Pauses between attempts where `of_client` has the client's.
    pub(crate) fn backoff(&self, of_client: Backoff) -> Backoff {
        let first = self.retry_backoff.unwrap_or(of_client.first);
        let max = self.retry_backoff_max.unwrap_or(of_client.max).max(first);
        Backoff { first, max, ..of_client }
    }
}

/// Java's way to ask for gzip's default. zstd has a level of this number.
fn is_default(codec: Compression, level: i32) -> bool {
    codec == Compression::Gzip && level == -1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn all_problems_are_named_at_once() {
        assert_eq!(ProducerConfig::new().problems(), Vec::<String>::new());
        let config = ProducerConfig::new()
            .acks(Acks::Leader)
            .max_in_flight(6)
            .batch_size(10)
            .delivery_timeout(Duration::from_secs(1))
            .request_timeout(Duration::from_secs(2))
            .retry_backoff(Duration::from_secs(2))
            .retry_backoff_max(Duration::from_secs(1))
            .compression_level(3);
        let problems = config.problems();
        for name in [
            "producer.acks",
            "producer.max.in.flight",
            "producer.batch.size",
            "producer.delivery.timeout.ms",
            "producer.retry.backoff.ms",
            "producer.compression.level",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(name)), "{name}: {problems:?}");
        }
        assert_eq!(problems.len(), 6, "{problems:?}");
        let error = config.validate().expect_err("there are problems");
        assert_eq!(error.kind(), ErrorKind::Config);
        let plain = ProducerConfig::new().enable_idempotence(false).acks(Acks::None).max_in_flight(9);
        assert_eq!(plain.problems(), Vec::<String>::new());
        assert_eq!("-1".parse::<Acks>().ok(), Some(Acks::All));
        let error = "al".parse::<Acks>().expect_err("there is no such word");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("did you mean all?"), "{error}");
    }

    #[test]
    fn a_broker_gets_the_time_that_the_client_says_as_far_as_delivery_leaves_it() {
        let (ms, of_client) = (Duration::from_millis, Duration::from_secs(7));
        for (config, expected) in [
            (ProducerConfig::new(), of_client),
            (ProducerConfig::new().request_timeout(ms(50)), ms(50)),
            (ProducerConfig::new().delivery_timeout(ms(5000)).linger(ms(1000)), ms(4000)),
            (ProducerConfig::new().delivery_timeout(Duration::MAX).linger(Duration::MAX), ms(1)),
        ] {
            assert_eq!(config.problems(), Vec::<String>::new());
            assert_eq!(config.patience(of_client), expected);
        }
    }

    #[test]
    fn pauses_are_the_clients_unless_the_producer_has_its_own() {
        let ms = Duration::from_millis;
        let of_client = Backoff { first: ms(100), max: ms(1000), jitter: 0.2 };
        for (config, first, max) in [
            (ProducerConfig::new(), 100, 1000),
            (ProducerConfig::new().retry_backoff(ms(7)), 7, 1000),
            (ProducerConfig::new().retry_backoff(ms(2000)), 2000, 2000),
            (ProducerConfig::new().retry_backoff_max(ms(300)), 100, 300),
        ] {
            let backoff = config.backoff(of_client);
            assert_eq!((backoff.first, backoff.max), (ms(first), ms(max)));
        }
    }

    #[test]
    fn levels_are_those_of_the_codec() {
        let config = |codec, level| ProducerConfig::new().compression(codec).compression_level(level);
        for (codec, good, bad) in [
            (Compression::Gzip, &[-1, 1, 9][..], &[-2, 0, 10][..]),
            (Compression::Lz4, &[1, 17], &[-1, 0, 18]),
            (Compression::Zstd, &[-131_072, -1, 22], &[-131_073, 23]),
        ] {
            if !codec.is_available() {
                continue;
            }
            for &level in good {
                assert_eq!(config(codec, level).problems(), Vec::<String>::new());
            }
            for &level in bad {
                let problems = config(codec, level).problems();
                assert!(!problems.is_empty(), "{codec} {level}");
                for problem in problems {
                    assert!(problem.starts_with("producer.compression.level: "), "{problem}");
                    assert!(problem.contains(&level.to_string()), "{problem}");
                }
            }
        }
        assert_eq!(config(Compression::Gzip, -1).level(), None);
        assert_eq!(config(Compression::Zstd, -1).level(), Some(-1));
    }
}
