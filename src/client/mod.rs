//! The way in: a [`Client`] owns metadata and connections, and makes producers, consumers and admin handles that share
//! them.
//!
//! * `ClientBuilder`: makes a client of its settings, checked all at once.
//! * `bootstrap`: parses `bootstrap.servers`.
//! * `interop`: requests of the `kafka-protocol` crate.
//! * `config`: settings of the client, and settings from properties and the environment, with the names of Java's clients and
//!   librdkafka.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::admin::Admin;
use crate::cluster::Cluster;

pub use crate::cluster::{
    Condition, ConditionEvent, ConditionEvents, ConditionKind, ConditionStage, Subject,
};
use crate::consumer::{GroupConsumerBuilder, MemoryBudget, PartitionReaderBuilder};
use crate::producer::{Producer, ProducerBuilder};
use crate::runtime::Runtime;
use crate::types::GroupId;
use crate::{Result, deadline};

mod bootstrap;
mod builder;
pub mod config;
#[cfg(feature = "kafka-protocol")]
mod interop;

#[cfg(all(test, feature = "broker"))]
mod tests;

pub use crate::net::sasl;
#[cfg(feature = "tls")]
pub use crate::runtime::tls::TlsFailure;
pub use builder::ClientBuilder;
pub use config::{ClientConfig, ClientSettings};
#[cfg(feature = "kafka-protocol")]
pub use interop::SendTo;

/// The crate whose [providers of cryptography](ClientBuilder::crypto_provider) are taken, in the version that fits.
#[cfg(feature = "tls")]
pub use rustls;

/// The crate whose requests [`Client::send_to`] takes, in the version that fits.
#[cfg(feature = "kafka-protocol")]
pub use kafka_protocol;

/// A Kafka client. Cheap to clone; all clones, and everything made by them, share one set of connections and one view of
/// the cluster's metadata. When the last of them is gone the connections close after their last answers.
///
/// ```no_run
/// # async fn example() -> carafe::Result<()> {
/// let client = carafe::client::Client::builder().bootstrap_servers("localhost:9092").build().await?;
/// client.ready(std::time::Duration::from_secs(10)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    cluster: Cluster,
    budget: MemoryBudget,
}

impl Client {
    /// Settings for a new client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// Waits until a broker has answered, for `timeout` at most; [`Duration::MAX`] is for ever. Connecting is lazy otherwise:
    /// the first operation does it.
    ///
    /// # Errors
    ///
    /// `Timeout` after `timeout`, with the latest failure as its source. Cancel-safe.
    pub async fn ready(&self, timeout: Duration) -> Result<()> {
        self.cluster.ready(deadline::after(Instant::now(), timeout)).await.map(|_| ())
    }

    /// What is wrong and has lasted for more than a moment, in the cluster or in anything made by this client: topics that
    /// do not exist, missing rights, brokers that cannot be reached, partitions that stopped. Empty while all is well.
    pub fn conditions(&self) -> Vec<Condition> {
        self.cluster.conditions(|_| true)
    }

    /// News of [conditions](Self::conditions) from now on. Everything is logged as well, with the target
    /// `carafe::cluster`.
    pub fn condition_events(&self) -> ConditionEvents {
        self.cluster.condition_events(None)
    }

    /// The runtime that the client lives on.
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(self.cluster.runtime())
    }

    /// Operations on topics, groups and offsets.
    pub fn admin(&self) -> Admin {
        Admin::new(self.cluster.clone())
    }

    /// Settings for a new producer, which shares this client's connections.
    pub fn producer(&self) -> ProducerBuilder {
        Producer::builder(self.cluster.clone())
    }

    /// Settings for a member of the consumer group `group`.
    pub fn group_consumer(&self, group: impl Into<GroupId>) -> GroupConsumerBuilder {
        GroupConsumerBuilder::new(self.cluster.clone(), self.budget.clone(), group.into())
    }

    /// Settings for reading partitions without a group.
    pub fn partition_reader(&self) -> PartitionReaderBuilder {
        PartitionReaderBuilder::new(self.cluster.clone(), self.budget.clone())
    }

    /// The memory that fetched data of all consumers of this client may take.
    pub fn memory_budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Closes the connections after their last answers. Whatever is asked afterwards, through any clone, fails with
    /// `State`. Dropping the last clone does the same.
    pub fn close(&self) {
        self.cluster.close();
    }
}
