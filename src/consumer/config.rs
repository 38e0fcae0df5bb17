//! Settings of consumers.

use std::time::Duration;

use crate::types::{Offset, Timestamp};
use crate::{Error, ErrorKind, Result};

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

/// Where a partition begins that appeared after this consumer first saw its topic (KIP-1327), or whose topic was made anew:
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

/// Settings of a consumer; those of the group do not concern a [`PartitionReader`](crate::consumer::PartitionReader).
///
/// Setters take Rust types; wrong combinations are refused all at once when the consumer is built.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    pub(crate) max_wait: Duration,
    pub(crate) min_bytes: usize,
    pub(crate) max_bytes: usize,
    pub(crate) partition_max_bytes: usize,
    pub(crate) batch_decompressed_max: usize,
    pub(crate) check_crcs: bool,
    pub(crate) isolation: Isolation,
    pub(crate) first_start: FirstStart,
    pub(crate) new_partitions: NewPartitions,
    pub(crate) out_of_range: OutOfRange,
    pub(crate) truncation: Truncation,
    pub(crate) hold_after_delivery: bool,
    pub(crate) partition_end_events: bool,
    pub(crate) assignors: Vec<Assignor>,
    pub(crate) session_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) revoke_timeout: Option<Duration>,
    pub(crate) auto_commit_interval: Option<Duration>,
    pub(crate) auto_store: bool,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 << 20,
            partition_max_bytes: 1 << 20,
            batch_decompressed_max: 100 << 20,
            check_crcs: true,
            isolation: Isolation::default(),
            first_start: FirstStart::default(),
            new_partitions: NewPartitions::default(),
            out_of_range: OutOfRange::default(),
            truncation: Truncation::default(),
            hold_after_delivery: false,
            partition_end_events: false,
            assignors: vec![Assignor::CooperativeSticky],
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(300),
            revoke_timeout: None,
            auto_commit_interval: Some(Duration::from_secs(5)),
            auto_store: true,
        }
    }
}

impl ConsumerConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Longest time that a broker holds a fetch back for `min_bytes` (`fetch.max.wait.ms`). Default 500 ms; at most
    /// 20 s, since it must stay below the request timeout. Less than 1 ms counts as that.
    #[must_use]
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Bytes that a broker waits for before it answers a fetch (`fetch.min.bytes`). Default 1; 0 counts as that.
    #[must_use]
    pub fn min_bytes(mut self, bytes: usize) -> Self {
        self.min_bytes = bytes;
        self
    }

    /// Most bytes of records in one answer (`fetch.max.bytes`). Default 50 MiB, and never more than the session's share
    /// of the memory budget. A single larger batch is still read.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Most bytes of one partition in one answer (`max.partition.fetch.bytes`). Default 1 MiB. A single larger batch is
    /// still read.
    #[must_use]
    pub fn partition_max_bytes(mut self, bytes: usize) -> Self {
        self.partition_max_bytes = bytes;
        self
    }

    /// Most bytes that one record batch may have after decompression; a larger one is treated as corrupt. Default
    /// 100 MiB.
    #[must_use]
    pub fn batch_decompressed_max(mut self, bytes: usize) -> Self {
        self.batch_decompressed_max = bytes;
        self
    }

    /// Whether checksums of batches are verified (`check.crcs`). Default true.
    #[must_use]
    pub fn check_crcs(mut self, check: bool) -> Self {
        self.check_crcs = check;
        self
    }

    /// Which records of transactions are seen (`isolation.level`). Default read committed.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Where partitions without a committed offset begin. Default earliest.
    #[must_use]
    pub fn first_start(mut self, policy: FirstStart) -> Self {
        self.first_start = policy;
        self
    }

    /// Where partitions begin that appear later, where [`first_start`](Self::first_start) says
    /// [`Latest`](FirstStart::Latest). Default earliest: nothing of them is skipped.
    #[must_use]
    pub fn new_partitions(mut self, policy: NewPartitions) -> Self {
        self.new_partitions = policy;
        self
    }

    /// What to do when the log no longer has the position. Default: stop the partition and explain.
    #[must_use]
    pub fn out_of_range(mut self, policy: OutOfRange) -> Self {
        self.out_of_range = policy;
        self
    }

    /// What to do when the log was truncated below the position. Default: stop the partition and explain.
    #[must_use]
    pub fn truncation(mut self, policy: Truncation) -> Self {
        self.truncation = policy;
        self
    }

    /// With true, a partition yields its next batch only after [`release`](crate::consumer::GroupConsumer::release) was
    /// called for the one that is out; meanwhile one answer is prefetched. For frameworks that run one job per
    /// partition. Default false.
    #[must_use]
    pub fn hold_after_delivery(mut self, hold: bool) -> Self {
        self.hold_after_delivery = hold;
        self
    }

    /// Whether reaching the end of a partition is an event (`enable.partition.eof`). Default false.
    #[must_use]
    pub fn partition_end_events(mut self, events: bool) -> Self {
        self.partition_end_events = events;
        self
    }

    /// Assignors that the member offers, preferred first (`partition.assignment.strategy`). Default cooperative-sticky
    /// alone. A list with `range` is eager by Kafka's rules: every rebalance revokes everything first.
    #[must_use]
    pub fn assignors(mut self, assignors: impl IntoIterator<Item = Assignor>) -> Self {
        self.assignors = assignors.into_iter().collect();
        self
    }

    /// A member without a heartbeat for this long loses its partitions (`session.timeout.ms`). Default 45 s; brokers
    /// accept 6 s to 30 min unless told otherwise.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// Time between heartbeats (`heartbeat.interval.ms`); at most a third of the session timeout. Default 3 s.
    /// Heartbeats do not depend on how long the application takes.
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// How long a rebalance waits for this member to finish and join (`max.poll.interval.ms` plays this part in Java).
    /// Default 5 min.
    #[must_use]
    pub fn rebalance_timeout(mut self, timeout: Duration) -> Self {
        self.rebalance_timeout = timeout;
        self
    }

    /// How long a [revocation](crate::consumer::Revocation) may stay open before its partitions are lost. Default and
    /// upper bound: the rebalance timeout less the heartbeat interval and two seconds.
    #[must_use]
    pub fn revoke_timeout(mut self, timeout: Duration) -> Self {
        self.revoke_timeout = Some(timeout);
        self
    }

    /// How often stored marks are committed (`auto.commit.interval.ms`); `None` switches automatic commits off
    /// (`enable.auto.commit`). Default 5 s; at least 1 ms.
    #[must_use]
    pub fn auto_commit(mut self, interval: Option<Duration>) -> Self {
        self.auto_commit_interval = interval;
        self
    }

    /// Whether asking for the next batch or event stores the marks of all batches handed out before
    /// (`enable.auto.offset.store`): then they count as done. Default true. With false, marks are stored by
    /// [`store`](crate::consumer::GroupConsumer::store) alone.
    #[must_use]
    pub fn auto_store(mut self, store: bool) -> Self {
        self.auto_store = store;
        self
    }

    /// The longest wait for a revocation.
    pub(crate) fn revoke_limit(&self) -> Duration {
        let margin = (self.heartbeat_interval + Duration::from_secs(2)).min(self.rebalance_timeout / 2);
        let limit = self.rebalance_timeout - margin;
        self.revoke_timeout.map_or(limit, |timeout| timeout.min(limit))
    }

    /// Names every problem.
    pub(crate) fn validate(&self) -> Result<()> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, problem: String| {
            if !ok {
                problems.push(problem);
            }
        };
        let second = Duration::from_secs(1);
        check(self.max_wait <= 20 * second, format!("max_wait is {:?}; use at most 20 s", self.max_wait));
        check(
            self.min_bytes <= self.max_bytes,
            format!("min_bytes ({}) exceeds max_bytes ({})", self.min_bytes, self.max_bytes),
        );
        check(
            (1..=i32::MAX as usize).contains(&self.max_bytes),
            format!("max_bytes is {}; use 1 to {}", self.max_bytes, i32::MAX),
        );
        check(
            (1..=i32::MAX as usize).contains(&self.partition_max_bytes),
            format!("partition_max_bytes is {}; use 1 to {}", self.partition_max_bytes, i32::MAX),
        );
        check(
            (1..=2usize << 30).contains(&self.batch_decompressed_max),
            format!("batch_decompressed_max is {}; use 1 to {}", self.batch_decompressed_max, 2usize << 30),
        );
        check(!self.assignors.is_empty(), "assignors is empty; name at least one".into());
        check(
            self.session_timeout >= Duration::from_millis(10) && self.session_timeout <= 86_400 * second,
            format!("session_timeout is {:?}; use 10 ms to 1 day", self.session_timeout),
        );
        check(
            !self.heartbeat_interval.is_zero() && self.heartbeat_interval <= self.session_timeout / 3,
            format!(
                "heartbeat_interval is {:?}; use more than zero and at most a third of session_timeout ({:?})",
                self.heartbeat_interval, self.session_timeout
            ),
        );
        check(
            self.rebalance_timeout >= Duration::from_millis(10)
                && self.rebalance_timeout <= 7 * 86_400 * second,
            format!("rebalance_timeout is {:?}; use 10 ms to 7 days", self.rebalance_timeout),
        );
        check(
            self.auto_commit_interval.is_none_or(|interval| interval >= Duration::from_millis(1)),
            "auto_commit interval is zero; use at least 1 ms, or None to switch it off".into(),
        );
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            format!("the consumer's settings are wrong: {}", problems.join("; ")),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_at_once() {
        assert!(ConsumerConfig::new().validate().is_ok());
        let error = ConsumerConfig::new()
            .max_wait(Duration::from_secs(60))
            .partition_max_bytes(0)
            .assignors([])
            .heartbeat_interval(Duration::from_secs(40))
            .validate()
            .unwrap_err();
        let text = error.to_string();
        for name in ["max_wait", "partition_max_bytes", "assignors", "heartbeat_interval"] {
            assert!(text.contains(name), "{text}");
        }
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
