//! Producing: records are encoded in place into open batches, batches travel in requests per broker, receipts tell their
//! fate.
//!
//! * `record`, `receipt`, `error`, `config`: what users see.
//! * `handle`: [`Producer`], the appender's side: topic, partition, memory, append.
//! * `topic`, `partitioner`: where a record goes.
//! * `shared`: what handles and driver share, and what handles tell the driver.
//! * `lane`, `lanes`: the open batch of a partition, shared by appenders and sender, and all of them.
//! * `stock`: the memory of batches.
//! * `batch`, `compress`: a closed batch and its completion.
//! * `linger`: when open batches leave.
//! * `sender`: the machine: queues, sequences, eras, retries, deadlines.
//! * `links`: the machine of connections: when one is opened again, what is spoken over it, what an answer says of it.
//! * `ends`: the machine of those who wait for a flush or the end.
//! * `transaction`: transactions, as eras of the same path.
//! * `driver`: the task that moves bytes; `questions`: what it asks the cluster.

mod batch;
mod compress;
mod config;
mod driver;
mod ends;
mod error;
mod gauge;
mod handle;
mod lane;
mod lanes;
mod linger;
mod links;
mod partitioner;
mod questions;
mod receipt;
mod record;
mod sender;
mod shared;
mod stock;
#[cfg(all(test, feature = "broker"))]
mod tests;
mod topic;
mod transaction;

pub use config::{Acks, ProducerConfig};
pub use error::{EnqueueAllError, Outcome, ProduceError, TryEnqueueError};
pub use handle::{Producer, ProducerCounters};
pub use partitioner::Partitioner;
pub use receipt::{Delivery, Receipt, Receipts};
pub use record::{Header, Nullable, Record, RecordBytes, Target};
pub use topic::Topic;
pub use transaction::{Transaction, TransactionError, TransactionErrorKind};

pub use crate::wire::compression::Compression;

use crate::Result;
use crate::cluster::Cluster;

/// Makes a [`Producer`]; from [`Client::producer`](crate::client::Client::producer).
#[derive(Debug)]
#[must_use = "settings do nothing until build() is called"]
pub struct ProducerBuilder {
    cluster: Cluster,
    config: ProducerConfig,
}

impl ProducerBuilder {
    fn new(cluster: Cluster) -> Self {
        Self { cluster, config: ProducerConfig::default() }
    }

    /// The settings of producing.
    pub fn config(mut self, config: ProducerConfig) -> Self {
        self.config = config;
        self
    }

    /// The producer. Nothing is sent until a topic is used.
    ///
    /// # Errors
    ///
    /// `Config`, with everything that is wrong with the settings.
    pub fn build(self) -> Result<Producer> {
        Producer::new(self.cluster, self.config)
    }
}
