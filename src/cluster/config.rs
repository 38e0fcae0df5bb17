//! Settings of a cluster's connections and metadata.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::net::ConnectionConfig;

/// Settings; the façade fills them from the user's.
#[derive(Clone, Debug)]
pub(crate) struct ClusterConfig {
    /// Hosts and ports to begin with (`bootstrap.servers`).
    pub(crate) bootstrap: Vec<(String, u16)>,
    /// Settings of each connection.
    pub(crate) connection: ConnectionConfig,
    /// Deadline of calls that name none. Default 60 s (`default.api.timeout.ms`).
    pub(crate) api_timeout: Duration,
    /// Pause before a request is tried again. Default 100 ms to 1 s, ±20 %.
    pub(crate) retry_backoff: Backoff,
    /// Pause before a node is dialled again. Default 50 ms to 5 s, ±20 %.
    pub(crate) reconnect_backoff: Backoff,
    /// Metadata is refreshed after this time even if nothing seems wrong. Default 5 min.
    pub(crate) metadata_max_age: Duration,
    /// Shortest time between two questions about the same topic. Default 50 ms; unhelpful answers raise it to 1 s.
    pub(crate) metadata_gap: Duration,
    /// Without metadata for this long, known nodes are distrusted and the bootstrap list is used (KIP-1102). Default
    /// 300 s.
    pub(crate) rebootstrap_after: Duration,
    /// If a bootstrap address has not answered after this time, the next one is dialled beside it. Default 250 ms.
    pub(crate) dial_stagger: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            connection: ConnectionConfig::default(),
            api_timeout: Duration::from_secs(60),
            retry_backoff: Backoff {
                first: Duration::from_millis(100),
                max: Duration::from_secs(1),
                jitter: 0.2,
            },
            reconnect_backoff: Backoff {
                first: Duration::from_millis(50),
                max: Duration::from_secs(5),
                jitter: 0.2,
            },
            metadata_max_age: Duration::from_secs(5 * 60),
            metadata_gap: Duration::from_millis(50),
            rebootstrap_after: Duration::from_secs(300),
            dial_stagger: Duration::from_millis(250),
        }
    }
}
