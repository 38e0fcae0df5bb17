//! Settings of consumers.

use std::borrow::Cow;
use std::time::Duration;

use crate::settings::{Kind, Named, Problems, Row, Shown, UNBOUNDED, Value, Words, settings};
use crate::types::{Offset, Timestamp};

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartOffset {
    /// At the first offset that the partition still has.
    Earliest,
    /// At the end: what is written from now on.
    Latest,
    /// At this offset.
    At(Offset),
    /// At the first record with this timestamp or a later one; at the end if there is none.
    Timestamp(Timestamp),
}

/// What a group consumer does with a partition for which the group has no committed offset (`auto.offset.reset`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FirstStart {
    /// Begin at the first offset (default).
    #[default]
    Earliest,
    /// Begin at the end.
    Latest,
    /// Begin at the first record with this timestamp or a later one.
    Timestamp(Timestamp),
    /// Stop the partition with an event that says so.
    Stop,
}

/// Where a partition begins that appeared after this consumer first saw its topic (KIP-1327), or whose topic was recreated:
/// what was written to it meanwhile was written while the consumer was there. It matters with [`FirstStart::Latest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NewPartitions {
    /// At its first offset (default): nothing that was written since it exists is skipped.
    #[default]
    Earliest,
    /// As any other partition: by [`FirstStart`].
    FirstStart,
}

/// What a consumer does with a partition whose position the log no longer has (`auto.offset.reset`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutOfRange {
    /// Stop the partition with an event that names position and log (default): nothing is skipped silently.
    #[default]
    Stop,
    /// Go on at the first offset.
    Earliest,
    /// Go on at the end.
    Latest,
}

/// What a consumer does when the log was truncated below its position: records it has read no longer exist (KIP-320).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Truncation {
    /// Stop the partition with an event that names both offsets (default).
    #[default]
    Stop,
    /// Go on where the logs diverge.
    Resume,
}

/// Which records of transactions are seen (`isolation.level`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Those of committed transactions, and those without one (default, as librdkafka).
    #[default]
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// How a classic group divides its partitions (`partition.assignment.strategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assignor {
    /// Balanced with the fewest moves; members keep reading what they keep (KIP-429).
    CooperativeSticky,
    /// Contiguous ranges per topic; all members stop during a rebalance. For joining groups that use it.
    Range,
}

impl Assignor {
    /// Kafka's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CooperativeSticky => "cooperative-sticky",
            Self::Range => "range",
        }
    }
}

/// Assignors that a member offers, preferred first; made of any list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignors(pub(crate) Cow<'static, [Assignor]>);

impl Assignors {
    const STICKY: Self = Self(Cow::Borrowed(&[Assignor::CooperativeSticky]));
}

impl<I: IntoIterator<Item = Assignor>> From<I> for Assignors {
    fn from(assignors: I) -> Self {
        Self(assignors.into_iter().collect())
    }
}

impl Words for Assignor {
    const SETTING: &'static str = "partition.assignment.strategy";
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::CooperativeSticky.name(), Self::CooperativeSticky),
        (Self::Range.name(), Self::Range),
        ("org.apache.kafka.clients.consumer.CooperativeStickyAssignor", Self::CooperativeSticky),
        ("org.apache.kafka.clients.consumer.RangeAssignor", Self::Range),
    ];
}

impl Value for Assignors {
    fn read(text: &str) -> Option<Self> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let assignors: Option<Vec<Assignor>> = parts.map(Assignor::of).collect();
        assignors.filter(|assignors| !assignors.is_empty()).map(Self::from)
    }

    fn shown(&self) -> Option<Shown> {
        let names: Vec<&str> = self.0.iter().map(|assignor| assignor.name()).collect();
        Some(Shown::Text(names.join(",")))
    }
}

impl Named for Assignors {
    const KIND: Kind = Kind::List(Assignor::words);
}

impl Value for FirstStart {
    fn read(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "earliest" => Some(Self::Earliest),
            "latest" => Some(Self::Latest),
            "stop" => Some(Self::Stop),
            time => time.parse().ok().map(|time| Self::Timestamp(Timestamp(time))),
        }
    }

    fn shown(&self) -> Option<Shown> {
        Some(Shown::Text(match self {
            Self::Earliest => "earliest".to_owned(),
            Self::Latest => "latest".to_owned(),
            Self::Stop => "stop".to_owned(),
            Self::Timestamp(time) => time.0.to_string(),
        }))
    }
}

impl Named for FirstStart {
    const KIND: Kind = Kind::Word(|| vec!["earliest", "latest", "stop", "milliseconds since 1970"]);
}

impl Words for NewPartitions {
    const SETTING: &'static str = "new.partitions";
    const WORDS: &'static [(&'static str, Self)] =
        &[("earliest", Self::Earliest), ("first_start", Self::FirstStart)];
}

impl Words for OutOfRange {
    const SETTING: &'static str = "out.of.range";
    const WORDS: &'static [(&'static str, Self)] =
        &[("stop", Self::Stop), ("earliest", Self::Earliest), ("latest", Self::Latest)];
}

impl Words for Truncation {
    const SETTING: &'static str = "truncation";
    const WORDS: &'static [(&'static str, Self)] = &[("stop", Self::Stop), ("resume", Self::Resume)];
}

impl Words for Isolation {
    const SETTING: &'static str = "isolation.level";
    const WORDS: &'static [(&'static str, Self)] =
        &[("read_committed", Self::ReadCommitted), ("read_uncommitted", Self::ReadUncommitted)];
}

settings! {
    /// Settings of a consumer; those of the group do not concern a [`PartitionReader`](crate::consumer::PartitionReader).
    ///
    /// Wrong values and combinations are refused all at once when the consumer is built.
    pub struct ConsumerConfig in "consumer", others OTHERS;

    /// Longest time that a broker holds a fetch back for `fetch.min.bytes`; it must stay below the request timeout. Less than
    /// 1 ms counts as that.
    max_wait: ms = 500, 0..=20_000 => "fetch.max.wait.ms" | "fetch.wait.max.ms";

    /// Bytes that a broker waits for before it answers a fetch; 0 counts as 1.
    min_bytes: bytes = 1, 0..=2_147_483_647 => "fetch.min.bytes";

    /// Most bytes of records in one answer, and never more than the session's share of the memory budget. A single larger
    /// batch is still read.
    max_bytes: bytes = 52_428_800, 1..=2_147_483_647 => "fetch.max.bytes";

    /// Most bytes of one partition in one answer. A single larger batch is still read.
    partition_max_bytes: bytes = 1_048_576, 1..=2_147_483_647
        => "max.partition.fetch.bytes" | "fetch.message.max.bytes";

    /// Most bytes that one record batch may have after decompression; a larger one is treated as corrupt.
    batch_decompressed_max: bytes = 104_857_600, 1..=2_147_483_648 => "batch.decompressed.max.bytes";

    /// Whether checksums of batches are verified.
    check_crcs: flag = true => "check.crcs";

    /// Which records of transactions are seen.
    isolation: Isolation = ReadCommitted => "isolation.level";

    /// Where partitions without a committed offset begin.
    first_start: FirstStart = Earliest => "first.start";

    /// Where partitions begin that appear later, where `first.start` is `latest`: at `earliest` nothing of them is skipped.
    new_partitions: NewPartitions = Earliest => "new.partitions";

    /// What to do when the log no longer has the position: `stop` the partition and explain, or go on elsewhere.
    out_of_range: OutOfRange = Stop => "out.of.range";

    /// What to do when the log was truncated below the position (KIP-320): `stop` the partition and explain, or go on where
    /// the logs diverge.
    truncation: Truncation = Stop => "truncation";

    /// With true, a partition yields its next batch only after [`release`](crate::consumer::GroupConsumer::release) was
    /// called for the one that is out; meanwhile one answer is prefetched. For frameworks that run one job per partition.
    hold_after_delivery: flag = false => "hold.after.delivery";

    /// Whether reaching the end of a partition is an event.
    partition_end_events: flag = false => "enable.partition.eof";

    /// Assignors that the member offers, preferred first. A list with `range` is eager by Kafka's rules: every rebalance
    /// revokes everything first.
    assignors: Assignors = STICKY => "partition.assignment.strategy";

    /// A member without a heartbeat for this long loses its partitions. Brokers accept 6 s to 30 min unless told otherwise.
    session_timeout: ms = 45_000, 10..=86_400_000 => "session.timeout.ms";

    /// Time between heartbeats; at most a third of the session timeout. They do not depend on how long the application
    /// takes.
    heartbeat_interval: ms = 3_000, 1..=28_800_000 => "heartbeat.interval.ms";

    /// How long a rebalance waits for this member to finish and join. `max.poll.interval.ms` plays this part in Java;
    /// heartbeats do not depend on how long the application takes.
    rebalance_timeout: ms = 300_000, 10..=604_800_000 => "max.poll.interval.ms" | "rebalance.timeout.ms";

    /// How long a [revocation](crate::consumer::Revocation) may stay open before its partitions are lost. Not set, and at
    /// most: the rebalance timeout less the heartbeat interval and two seconds.
    revoke_timeout: ms = unset, 0..=UNBOUNDED => "revoke.timeout.ms";

    /// Whether stored marks are committed automatically.
    enable_auto_commit: flag = true => "enable.auto.commit";

    /// How often stored marks are committed automatically.
    auto_commit_interval: ms = 5_000, 1..=UNBOUNDED => "auto.commit.interval.ms";

    /// Whether asking for the next batch or event stores the marks of all batches handed out before: then they count as
    /// done. With false, marks are stored by [`store`](crate::consumer::GroupConsumer::store) alone.
    auto_store: flag = true => "enable.auto.offset.store";
}

const OTHERS: &[Row<ConsumerConfig>] = &[
    Row::other(
        "auto.offset.reset",
        Kind::Word(|| vec!["earliest", "smallest", "beginning", "latest", "largest", "end", "none", "error"]),
        "`first.start` and `out.of.range` in one; each of them overrides it",
        |config, text| {
            (config.first_start, config.out_of_range) = match text.to_ascii_lowercase().as_str() {
                "earliest" | "smallest" | "beginning" => (FirstStart::Earliest, OutOfRange::Earliest),
                "latest" | "largest" | "end" => (FirstStart::Latest, OutOfRange::Latest),
                "none" | "error" => (FirstStart::Stop, OutOfRange::Stop),
                _ => return false,
            };
            true
        },
    ),
    Row::refused("group.protocol", &[], &["classic"], NO_KIP_848),
    Row::refused("group.remote.assignor", &[], &[], NO_KIP_848),
    Row::refused("group.protocol.type", &[], &["consumer"], "only consumer groups are joined"),
    Row::refused("group.instance.id", &[], &[], "static membership is not part of this version"),
    Row::refused("max.poll.records", &[], &[], "a batch is what a partition had; it is never cut"),
    Row::refused("allow.auto.create.topics", &[], &["false"], "consumers do not create topics"),
    Row::refused("exclude.internal.topics", &[], &["true"], "patterns leave Kafka's own topics out"),
    Row::refused("queued.min.messages", &[], &[], BUDGET),
    Row::refused("fetch.queue.backoff.ms", &[], &[], BUDGET),
    Row::refused("fetch.error.backoff.ms", &[], &[], "see retry.backoff.ms"),
    Row::refused(
        "coordinator.query.interval.ms",
        &[],
        &[],
        "the coordinator is looked up again when it moves",
    ),
    Row::refused("offset.store.method", &[], &["broker"], "offsets are stored by Kafka"),
    Row::refused("consume.callback.max.messages", &[], &[], "there are no callbacks"),
];

const NO_KIP_848: &str = "the KIP-848 protocol is not part of this version";
const BUDGET: &str = "one memory budget bounds everything that is fetched; see memory.budget.bytes";

impl ConsumerConfig {
    /// How often stored marks are committed, if they are.
    pub(crate) fn commit_interval(&self) -> Option<Duration> {
        self.enable_auto_commit.then_some(self.auto_commit_interval)
    }

    /// The longest wait for a revocation.
    pub(crate) fn revoke_limit(&self) -> Duration {
        let margin = (self.heartbeat_interval + Duration::from_secs(2)).min(self.rebalance_timeout / 2);
        let limit = self.rebalance_timeout - margin;
        self.revoke_timeout.map_or(limit, |timeout| timeout.min(limit))
    }

    /// Notes what does not go together.
    fn check_together(&self, problems: &mut Problems) {
        problems.check(
            self.min_bytes <= self.max_bytes,
            "fetch.min.bytes",
            format!("is {}; use at most fetch.max.bytes, {}", self.min_bytes, self.max_bytes),
        );
        problems.check(
            !self.assignors.0.is_empty(),
            "partition.assignment.strategy",
            "is empty; name at least one",
        );
        problems.check(
            self.heartbeat_interval <= self.session_timeout / 3,
            "heartbeat.interval.ms",
            format!(
                "is {}; use at most a third of session.timeout.ms, {}",
                self.heartbeat_interval.as_millis(),
                self.session_timeout.as_millis()
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_at_once() {
        assert_eq!(ConsumerConfig::new().problems(), Vec::<String>::new());
        let problems = ConsumerConfig::new()
            .max_wait(Duration::from_secs(60))
            .partition_max_bytes(0)
            .assignors([])
            .heartbeat_interval(Duration::from_secs(40))
            .problems();
        for name in [
            "consumer.fetch.max.wait.ms",
            "consumer.max.partition.fetch.bytes",
            "consumer.partition.assignment.strategy",
            "consumer.heartbeat.interval.ms",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(name)), "{problems:?}");
        }
        assert_eq!(problems.len(), 4, "{problems:?}");
    }

    #[test]
    fn revocations_end_before_the_rebalance_does() {
        assert_eq!(ConsumerConfig::new().revoke_limit(), Duration::from_secs(295));
        assert_eq!(
            ConsumerConfig::new().revoke_timeout(Duration::from_secs(30)).revoke_limit(),
            Duration::from_secs(30)
        );
        let short = ConsumerConfig::new().rebalance_timeout(Duration::from_secs(1));
        assert_eq!(short.revoke_limit(), Duration::from_millis(500));
    }
}
