//! A Kafka-compatible cluster inside the process, for tests, quick starts and development. Not for production: its log
//! lies in memory.
//!
//! It has several nodes with leaders, replicas, a high watermark and leader epochs, classic consumer groups, idempotent and
//! transactional producers and fetch sessions, and it answers Java, librdkafka, franz-go, kcat and carafe itself. [`Control`] makes it
//! as unpleasant as a real cluster: requests are delayed, lost, refused, throttled or cut off, leaders move, nodes freeze,
//! die and return, topics are recreated, rights are taken away.
//!
//! ```no_run
//! # async fn example() -> carafe::Result<()> {
//! let cluster = carafe::broker::Cluster::builder().nodes(3).topic("orders", 12).start().await?;
//! println!("bootstrap.servers={}", cluster.bootstrap_servers());
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: `settings` and the builder; `cluster` (the machine, in parts) with `partition`, `log`, `groups`,
//! `transactions` and `sessions`; `handlers` (one file per API); `sasl` (who asks); `rules`, `rights` and `control`
//! (interception); `driver` (sockets and timers). One lock guards
//! the machine, and time and dice are handed to it. Written from the protocol: of carafe it uses `wire`
//! and `runtime` alone.

mod builder;
mod cluster;
mod control;
mod coordinators;
mod driver;
mod dynamic_configs;
mod groups;
mod handlers;
mod listener;
mod locked;
mod log;
mod partition;
mod readback;
mod replay;
mod rights;
mod rules;
mod sasl;
mod sessions;
mod settings;
#[cfg(test)]
mod tests;
mod topic_configs;
mod transactions;
mod write;

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "tls")]
pub use crate::runtime::tls::ServerTls;
pub use builder::ClusterBuilder;
pub use control::{Control, GroupState, Interception, PartitionState, Produced, TransactionState};
pub use listener::Listener;
pub use readback::LoggedRecord;
pub use rights::{Operation, Resource};
pub use rules::{Action, Matcher};
pub use sasl::{Logins, SaslMechanism};

use driver::Shared;

/// A running cluster. Dropping it stops every node; clones of its [`Control`] keep only the data.
pub struct Cluster {
    shared: Arc<Shared>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("bootstrap_servers", &self.bootstrap_servers()).finish()
    }
}

impl Cluster {
    /// A cluster of one node on a free port of the loopback address, unless the builder is told otherwise.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::new()
    }

    /// `host:port` of every node, separated by commas, whether it runs or not.
    pub fn bootstrap_servers(&self) -> String {
        self.bootstrap_servers_at(0)
    }

    /// As [`bootstrap_servers`](Self::bootstrap_servers), for the listener with this name; the first is called
    /// `PLAINTEXT`, whatever it speaks. Empty if there is no such listener.
    pub fn bootstrap_servers_of(&self, listener: &str) -> String {
        let known = self.shared.listeners.iter().position(|known| known.name == listener);
        known.map(|index| self.bootstrap_servers_at(index)).unwrap_or_default()
    }

    fn bootstrap_servers_at(&self, listener: usize) -> String {
        let state = self.shared.lock();
        let servers: Vec<String> = state
            .nodes()
            .map(|node| {
                let endpoint = node.endpoint(listener);
                host_port(&endpoint.host, endpoint.port)
            })
            .collect();
        servers.join(",")
    }

    /// Faults, leaders, nodes, and what is really stored.
    pub fn control(&self) -> Control {
        Control::new(self.shared.clone())
    }

    /// All committed records of a partition; empty if there is no such partition.
    pub fn log(&self, topic: &str, partition: i32) -> Vec<LoggedRecord> {
        self.control().log(topic, partition)
    }

    /// Stops every node and closes every connection. Dropping the cluster does the same.
    pub fn shutdown(&self) {
        self.shared.stop();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
