//! Settings of a producer.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Partitioner;
use crate::backoff::Backoff;
use crate::wire::compression::Compression;
use crate::{Error, ErrorKind, Result};

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

impl FromStr for Acks {
    type Err = Error;

    /// Takes `all`, `-1`, `0` and `1`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" | "-1" => Ok(Self::All),
            "0" => Ok(Self::None),
            "1" => Ok(Self::Leader),
            _ => {
                Err(Error::new(ErrorKind::Config, format!("acks is {text:?}")).with_advice("use all, 1 or 0"))
            }
        }
    }
}

impl fmt::Display for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "0",
            Self::Leader => "1",
            Self::All => "all",
        })
    }
}

/// Settings of a [`Producer`](super::Producer). Java's names stand in brackets.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducerConfig {
    pub(crate) acks: Acks,
    pub(crate) enable_idempotence: bool,
    pub(crate) batch_size: usize,
    /// `None`: adaptive.
    pub(crate) linger: Option<Duration>,
    pub(crate) buffer_memory: usize,
    pub(crate) max_block: Duration,
    pub(crate) delivery_timeout: Duration,
    /// `None`: the client's.
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) max_in_flight: usize,
    pub(crate) compression: Compression,
    /// Of whatever codec there is.
    pub(crate) compression_level: Option<i32>,
    /// By codec, in the order of ids.
    pub(crate) codec_levels: [Option<i32>; Compression::ALL.len()],
    pub(crate) partitioner: Partitioner,
    pub(crate) sticky_bytes: usize,
    pub(crate) retry_backoff: Duration,
    pub(crate) retry_backoff_max: Duration,
    pub(crate) allow_auto_create_topics: bool,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            enable_idempotence: true,
            batch_size: 1_000_000,
            linger: None,
            buffer_memory: 32 * 1024 * 1024,
            max_block: Duration::from_secs(60),
            delivery_timeout: Duration::from_secs(120),
            request_timeout: None,
            max_in_flight: 5,
            compression: Compression::None,
            compression_level: None,
            codec_levels: [None; Compression::ALL.len()],
            partitioner: Partitioner::default(),
            sticky_bytes: 64 * 1024,
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            allow_auto_create_topics: true,
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {
        impl ProducerConfig {
            /// The defaults.
            pub fn new() -> Self {
                Self::default()
            }

            $($(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $name: $type) -> Self {
                self.$name = $name.into();
                self
            })*

            /// Level of the codec, from fast to small (`compression.gzip.level`, `compression.zstd.level`,
            /// `compression.lz4.level`, KIP-390): gzip 1 to 9, or -1 for its default 6; zstd -131,072 to 22, default 3;
            /// lz4 1 to 17, which changes nothing: its encoder has one level. Refused without a codec, and with Snappy,
            /// which has no levels.
            #[must_use]
            pub fn compression_level(mut self, level: impl Into<Option<i32>>) -> Self {
                self.compression_level = level.into();
                self
            }
        }

        impl super::ProducerBuilder {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(self, $name: $type) -> Self {
                self.set(move |config| config.$name = $name.into())
            })*

            /// Level of the codec, from fast to small (`compression.gzip.level`, `compression.zstd.level`,
            /// `compression.lz4.level`, KIP-390): gzip 1 to 9, or -1 for its default 6; zstd -131,072 to 22, default 3;
            /// lz4 1 to 17, which changes nothing: its encoder has one level. Refused without a codec, and with Snappy,
            /// which has no levels.
            #[must_use]
            pub fn compression_level(self, level: impl Into<Option<i32>>) -> Self {
                let level = level.into();
                self.set(move |config| config.compression_level = level)
            }
        }
    };
}

setters! {
    /// Which replicas must have a record before it counts as written (`acks`). Default: [`Acks::All`]; less only
    /// without idempotence.
    acks: Acks,
    /// Whether brokers drop copies that retries make, and keep the order (`enable.idempotence`, KIP-98). Default: true.
    enable_idempotence: bool,
    /// Largest uncompressed batch in bytes, header included (`batch.size`). Default: 1,000,000; 1 KiB to 1 GiB. Brokers
    /// refuse batches above their `message.max.bytes`, 1,048,588 by default; a batch refused for its size is split. A record
    /// alone may be larger.
    batch_size: usize,
    /// Time that a record waits for others of its broker (`linger.ms`), unless its batch is full before, memory is short or
    /// a flush wants it gone: much makes few requests and large batches, and 0 lets each leave at once. Not set, it adapts:
    /// with nothing in flight and few records per round trip a record leaves at once, at higher rates after 1 ms or 512 KiB
    /// for its broker. Less than the delivery timeout.
    linger: Duration,
    /// Memory for records that are not acknowledged yet, in bytes (`buffer.memory`). Default: 32 MiB; at least the batch
    /// size. When it is used up, enqueuing waits. Up to a quarter of it stays allocated when it is not in use.
    buffer_memory: usize,
    /// Longest time that enqueuing waits for metadata and memory (`max.block.ms`). Default: 60 s; [`Duration::MAX`] is for
    /// ever.
    max_block: Duration,
    /// Time from enqueuing to a record's acknowledgement or failure, retries included (`delivery.timeout.ms`). Default:
    /// 120 s; at least linger plus request timeout; [`Duration::MAX`] is for ever.
    delivery_timeout: Duration,
    /// Time that a broker gets for an answer (`request.timeout.ms`). Default: the client's, 30 s, and no more than the delivery
    /// timeout leaves.
    request_timeout: Duration,
    /// Requests on the way per broker, and batches per partition (`max.in.flight.requests.per.connection`). Default: 5;
    /// at most 5 with idempotence. Without it, more than 1 may reorder records when a request is retried.
    max_in_flight: usize,
    /// Codec of batches (`compression.type`). Default: none. Incompressible batches are sent plain.
    compression: Compression,
    /// How records without explicit partition find one (`partitioner`). Default: Java's.
    partitioner: Partitioner,
    /// Bytes that go to one partition before records without key move to another. Default: 64 KiB.
    sticky_bytes: usize,
    /// Pause before the first retry; doubles with each (`retry.backoff.ms`). Default: 100 ms, ±20 %.
    retry_backoff: Duration,
    /// Longest pause before a retry (`retry.backoff.max.ms`). Default: 1 s, ±20 %.
    retry_backoff_max: Duration,
    /// Whether topics that do not exist are created on first use, if the broker allows it too. Default: true.
    allow_auto_create_topics: bool,
}

impl ProducerConfig {
    /// What is wrong with the settings, one sentence each, starting with the setting's Java name.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |good: bool, problem: &dyn Fn() -> String| {
            if !good {
                problems.push(problem());
            }
        };
        if self.enable_idempotence {
            check(self.acks == Acks::All, &|| {
                format!("acks is {}: idempotence (enable.idempotence) needs acks=all", self.acks)
            });
            check(self.max_in_flight <= 5, &|| {
                format!(
                    "max.in.flight.requests.per.connection is {}: at most 5 with idempotence",
                    self.max_in_flight
                )
            });
        }
        check(self.max_in_flight >= 1, &|| {
            "max.in.flight.requests.per.connection is 0: at least 1 is needed".to_owned()
        });
        check((1024..=1 << 30).contains(&self.batch_size), &|| {
            format!("batch.size is {}: from 1024 bytes to 1 GiB", self.batch_size)
        });
        check(self.buffer_memory >= self.batch_size.next_power_of_two(), &|| {
            format!(
                "buffer.memory is {}: it must hold one batch (batch.size, rounded up to {})",
                self.buffer_memory,
                self.batch_size.next_power_of_two()
            )
        });
        check(self.request_timeout.is_none_or(|timeout| !timeout.is_zero()), &|| {
            "request.timeout.ms is 0: a broker needs time to answer".to_owned()
        });
        let least = self.linger.unwrap_or_default().saturating_add(self.request_timeout.unwrap_or_default());
        check(self.delivery_timeout >= least && !self.delivery_timeout.is_zero(), &|| {
            format!(
                "delivery.timeout.ms is {}: at least linger.ms + request.timeout.ms = {}, and above 0",
                self.delivery_timeout.as_millis(),
                least.as_millis()
            )
        });
        check(self.retry_backoff <= self.retry_backoff_max, &|| {
            format!(
                "retry.backoff.ms is {}: at most retry.backoff.max.ms, {}",
                self.retry_backoff.as_millis(),
                self.retry_backoff_max.as_millis()
            )
        });
        check(self.sticky_bytes >= 1, &|| "sticky bytes are 0: at least 1 is needed".to_owned());
        check(self.compression.is_available(), &|| {
            format!("compression.type is {0}: this build lacks the feature `{0}`", self.compression)
        });
        let levels = Compression::ALL.into_iter().zip(self.codec_levels);
        for (codec, level) in levels.chain([(self.compression, self.compression_level)]) {
            let Some(level) = level else { continue };
            let Some(range) = codec.levels() else {
                problems.push(format!("compression.level is {level}: {codec} has no levels"));
                continue;
            };
            if !range.contains(&level) && !is_default(codec, level) {
                problems.push(format!(
                    "compression.{codec}.level is {level}: from {} to {}",
                    range.start(),
                    range.end()
                ));
            }
        }
        problems
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Config, format!("producer settings: {}", problems.join("; "))))
    }

    /// Time that a broker gets for an answer where `of_client` is the client's. Never none at all, and never more than a record
    /// has left.
    pub(crate) fn patience(&self, of_client: Duration) -> Duration {
        let left = self.delivery_timeout.saturating_sub(self.linger.unwrap_or_default());
        self.request_timeout.unwrap_or(of_client).min(left).max(Duration::from_millis(1))
    }

    /// Level of the codec, `None` for its default. One set for whatever codec there is goes before that of one codec.
    pub(crate) fn level(&self) -> Option<i32> {
        let level = self.compression_level.or(self.codec_levels[self.compression as usize]);
        level.filter(|level| !is_default(self.compression, *level))
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff { first: self.retry_backoff, max: self.retry_backoff_max, jitter: 0.2 }
    }
}

/// Java's way to ask for gzip's default. zstd has a level of this number.
fn is_default(codec: Compression, level: i32) -> bool {
    codec == Compression::Gzip && level == -1
}

#[cfg(test)]
mod tests {
    use super::*;

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
            .compression_level(3);
        let problems = config.problems();
        for name in [
            "acks",
            "max.in.flight",
            "batch.size",
            "delivery.timeout.ms",
            "retry.backoff.ms",
            "compression.level",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(name)), "{name}: {problems:?}");
        }
        assert_eq!(problems.len(), 6, "{problems:?}");
        let error = config.validate().expect_err("there are problems");
        assert_eq!(error.kind(), ErrorKind::Config);
        let plain = ProducerConfig::new().enable_idempotence(false).acks(Acks::None).max_in_flight(9);
        assert_eq!(plain.problems(), Vec::<String>::new());
        assert!("2".parse::<Acks>().is_err());
        assert_eq!("-1".parse::<Acks>().ok(), Some(Acks::All));
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
                let levels = codec.levels().expect("it has levels");
                let problem = format!(
                    "compression.{codec}.level is {level}: from {} to {}",
                    levels.start(),
                    levels.end()
                );
                assert_eq!(config(codec, level).problems(), [problem]);
            }
        }
        assert_eq!(config(Compression::Gzip, -1).level(), None);
        assert_eq!(config(Compression::Zstd, -1).level(), Some(-1));
    }
}
