//! What can be set on a cluster; the builder documents each.

use std::time::Duration;

use crate::types::Secret;

/// How long a node waits after a failed accept before it tries again.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Highest level of the feature `transaction.version`.
pub(crate) const TRANSACTION_VERSION_MAX: i16 = 2;

/// The settings of a cluster, fixed when it starts except for lags and `transaction_version`.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) nodes: i32,
    pub(crate) first_node_id: i32,
    pub(crate) default_partitions: i32,
    pub(crate) auto_create_topics: bool,
    pub(crate) retention_bytes: usize,
    pub(crate) message_max_bytes: usize,
    pub(crate) topic_propagation: Duration,
    pub(crate) replication_lag: Duration,
    pub(crate) replica_lag_max: Duration,
    pub(crate) node_session_timeout: Duration,
    pub(crate) min_insync_replicas: usize,
    pub(crate) group_initial_rebalance_delay: Duration,
    pub(crate) group_session_timeout_min: Duration,
    pub(crate) group_session_timeout_max: Duration,
    pub(crate) offsets_retention: Duration,
    pub(crate) transaction_version: i16,
    pub(crate) transaction_timeout_max: Duration,
    pub(crate) transaction_marker_lag: Duration,
    pub(crate) frame_max_bytes: usize,
    pub(crate) mode: Mode,
    /// Users that there are from the start, with their passwords.
    pub(crate) users: Vec<(String, Secret)>,
    pub(crate) session_max: Option<Duration>,
}

/// What happens to records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They are kept and served.
    Store,
    /// They are counted; one checksum in a hundred is verified.
    Discard,
    /// Produced ones are counted, and every partition serves prepared batches without end.
    Replay,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nodes: 1,
            first_node_id: 0,
            default_partitions: 1,
            auto_create_topics: true,
            retention_bytes: 256 * 1024 * 1024,
            message_max_bytes: 1_048_588,
            topic_propagation: Duration::ZERO,
            replication_lag: Duration::ZERO,
            replica_lag_max: Duration::from_secs(30),
            node_session_timeout: Duration::from_secs(9),
            min_insync_replicas: 1,
            group_initial_rebalance_delay: Duration::ZERO,
            group_session_timeout_min: Duration::from_secs(6),
            group_session_timeout_max: Duration::from_secs(1800),
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
            transaction_version: 2,
            transaction_timeout_max: Duration::from_secs(900),
            transaction_marker_lag: Duration::ZERO,
            frame_max_bytes: 100 * 1024 * 1024,
            mode: Mode::Store,
            users: Vec::new(),
            session_max: None,
        }
    }
}

impl Settings {
    /// Replicas of a topic that does not say how many.
    pub(crate) fn default_replication_factor(&self) -> i16 {
        self.nodes.clamp(1, 3) as i16
    }
}
