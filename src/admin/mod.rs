//! Operations on a cluster: topics, groups, offsets. Results come per item: one that fails hides no other.
//!
//! * `topics`: create, delete, list, add partitions; `descriptions`: topics in detail; `records`: delete records.
//! * `configs`: settings of topics, brokers, groups, loggers, client metrics; `alterations`: changing them.
//! * `groups`: list and describe groups of every kind (`group_kinds`); `members`: remove members, delete groups.
//! * `offsets`: log ends, committed offsets; `commits`: committed offsets changed and deleted; `lag`; `moves`: offsets moved
//!   by a plan that is shown first.
//! * `nodes`: brokers and controller.
//! * `listing`: metadata as one broker tells it.
//! * `items`, `leaders`: what they have in common.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::{Call, Cluster, SlowLane};
use crate::{Result, deadline};

mod alterations;
mod commits;
mod configs;
mod descriptions;
mod group_kinds;
mod groups;
mod items;
mod lag;
mod leaders;
mod listing;
mod members;
mod moves;
mod nodes;
mod offsets;
mod records;
mod topics;

#[cfg(all(test, feature = "broker"))]
mod tests;

pub use configs::{ConfigChange, ConfigEntry, ConfigResource, ConfigSource, ConfigSynonym};
pub use descriptions::{PartitionDescription, TopicDescription};
pub use groups::{GroupDescription, GroupKind, GroupListing, GroupListings, GroupState, MemberDescription};
pub use lag::{GroupLag, PartitionLag};
pub use listing::{ListedPartition, ListedTopic, MetadataListing};
pub use members::Leaving;
pub use moves::{MoveTo, MovedOffsets, OffsetMove, OffsetPlan};
pub use nodes::{ClusterDescription, NodeDescription};
pub use offsets::{CommittedOffset, ListedOffset, OffsetSpec};
pub use records::DeleteRecords;
pub use topics::{CreatedTopic, NewTopic, PartitionIncrease, TopicListing};

/// A result for each item of an operation.
pub type Results<K, T> = BTreeMap<K, Result<T>>;

/// Handle for operations on the cluster. Cheap to clone. Every operation is retried where the error table says that it
/// helps, until its time limit. All are cancel-safe in that everything stays usable, but whether the brokers acted on a
/// cancelled one is unknown.
///
/// Where an operation returns [`Results`] inside of a `Result`, the outer error says that nothing could be asked at all,
/// and the inner ones what became of each item.
#[derive(Clone, Debug)]
pub struct Admin {
    cluster: Cluster,
    /// For operations that the brokers take their time for; others wait for nothing.
    slow: Arc<SlowLane>,
    timeout: Duration,
}

impl Admin {
    pub(crate) fn new(cluster: Cluster) -> Self {
        let slow = Arc::new(SlowLane::new(cluster.clone()));
        Self { timeout: cluster.config().api_timeout, slow, cluster }
    }

    /// The same handle with another time limit for each operation, retries included. Default: the client's API timeout
    /// (60 s).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn deadline(&self) -> Instant {
        // clock: where an operation begins, its time limit becomes a deadline.
        deadline::after(Instant::now(), self.timeout)
    }

    fn call(&self) -> Call {
        Call::until(self.deadline())
    }

    /// A call that the brokers may take [`broker_timeout_ms`](Self::broker_timeout_ms) for.
    fn slow_call(&self, deadline: Instant) -> Call {
        Call { server_wait: self.cluster.config().connection.request_timeout, ..self.slow.call(deadline) }
    }

    /// What is left until `deadline`, at most one request timeout, as brokers want it. Never 0, which means "do not wait".
    fn broker_timeout_ms(&self, deadline: Instant) -> i32 {
        // clock: a deadline becomes a duration again for the broker.
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = left.min(self.cluster.config().connection.request_timeout);
        i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).max(1)
    }
}
