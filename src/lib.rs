//! Apache Kafka for Rust without librdkafka and without a C compiler: a native client, a framework for routed
//! applications on top of it, and an embedded Kafka-compatible cluster.
//!
//! ```
//! # #[cfg(not(feature = "broker"))]
//! # fn main() {}
//! # #[cfg(feature = "broker")]
//! use carafe::{broker::Cluster, prelude::*};
//!
//! # #[cfg(feature = "broker")]
//! #[tokio::main]
//! async fn main() -> carafe::Result<()> {
//!     let cluster = Cluster::builder().topic("greetings", 1).start().await?;
//!     let client = Client::builder().bootstrap_servers(cluster.bootstrap_servers()).build().await?;
//!     client.producer().build()?.send(Record::to("greetings").value("dzień dobry")).await?;
//!     let batch = client.group_consumer("readers").topics(["greetings"]).build()?.next().await?;
//!     assert_eq!(batch.len(), 1);
//!     Ok(())
//! }
//! ```
//!
//! # Which type do I want?
//!
//! | To … | Take |
//! |---|---|
//! | connect to a cluster; one for all that follows | [`Client`], from [`Client::builder`] |
//! | send records | [`Producer`], from [`Client::producer`]; a [`Record`] is what it sends |
//! | write a service that handles records: retries, dead letters, lanes, graceful stops | [`App`] and its [routes](app::routing) |
//! | read topics as a member of a group, with a loop of your own | [`GroupConsumer`], from [`Client::group_consumer`] |
//! | read partitions from offsets that you keep, without a group | [`PartitionReader`], from [`Client::partition_reader`] |
//! | create and describe topics, look into groups, offsets and lag | [`Admin`], from [`Client::admin`] |
//! | test without Kafka, and play its faults | [`broker::Cluster`] |
//! | test on simulated time, drawn from a seed | `runtime::sim` |
//! | read and write Kafka's bytes alone | [`wire`] |
//! | know what went wrong | [`Error`]: [`kind`](Error::kind) says whose fault, [`advice`](Error::advice) what to try |
//!
//! [`prelude`] has what most programs need.
//!
//! # Features
//!
//! | Feature | Default | |
//! |---|---|---|
//! | `client` | yes | connections, producer, consumers, admin |
//! | `app` | yes | the framework |
//! | `gzip`, `snappy`, `lz4`, `zstd` | yes | codecs, in pure Rust |
//! | `sasl` | yes | SCRAM, OAUTHBEARER and AWS_MSK_IAM; PLAIN, and mechanisms of your own, need no feature |
//! | `tls` | yes | TLS 1.2 and 1.3, in Rust and inline assembly: rustls with graviola |
//! | `zstd-c` | | zstd by its C library too, for those who choose it; needs a C compiler |
//! | `kafka-protocol` | | requests of the `kafka-protocol` crate over a client's connections |
//! | `both-directions` | | requests decode and responses encode too; no dependencies |
//! | `readable` | | any frame, message or record batch as text and as JSON |
//! | `broker` | | the embedded cluster and the simulated runtime |
//! | `cli` | | the program `carafe` |
//! | `full` | | all of the above but `zstd-c` and `kafka-protocol` |
//!
//! Without any of them the crate is the [wire format](wire) on `bytes`, `bytestring` and `crc32c`.
//!
//! # What to know before the first deployment
//!
//! Everything runs on the tokio runtime that it is built in; there are no threads of our own. Delivery is at least once:
//! handlers may see a record again after a crash. What is promised, what is logged, and how to embed and test it has
//! [pages of its own](https://github.com/carafe-rs/carafe/tree/main/docs). Not there yet: KIP-848 and share
//! groups.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod error;
mod error_code;
mod settings;
pub mod types;

pub mod wire;

#[cfg(feature = "client")]
mod backoff;
#[cfg(feature = "client")]
mod deadline;
#[cfg(any(feature = "client", feature = "broker"))]
pub mod runtime;

#[cfg(feature = "client")]
pub mod admin;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
mod cluster;
#[cfg(feature = "client")]
pub mod consumer;
#[cfg(feature = "client")]
mod net;
#[cfg(feature = "client")]
pub mod producer;
#[cfg(any(feature = "client", feature = "broker"))]
mod sync;

#[cfg(feature = "broker")]
pub mod broker;

#[cfg(feature = "app")]
pub mod app;

#[cfg(feature = "cli")]
pub mod cli;

pub use error::{Error, ErrorKind, Result};
pub use error_code::ErrorCode;

#[cfg(feature = "client")]
pub use admin::Admin;
#[cfg(feature = "app")]
pub use app::App;
#[cfg(feature = "client")]
pub use client::Client;
#[cfg(feature = "client")]
pub use consumer::{GroupConsumer, PartitionReader};
#[cfg(feature = "client")]
pub use producer::{Delivery, Producer, Record};

/// What a program needs most: `use carafe::prelude::*`. A name means one thing in it and in all modules beside it: `Batch`,
/// `Message` and `Event` are the framework's; what a consumer hands out without it is a
/// [`RecordBatch`](crate::consumer::RecordBatch), [`OwnedRecord`](crate::consumer::OwnedRecord) or
/// [`ConsumerEvent`](crate::consumer::ConsumerEvent).
#[cfg(feature = "client")]
pub mod prelude {
    #[cfg(feature = "app")]
    pub use crate::app::{
        App, AtOffset, Batch, Consumer, Context, DeadLetter, Event, HandlerError, HandlerResult, Json,
        Message, MessageRef, Raw, Retry, Text, VirtualPartitions, by_key,
    };
    pub use crate::{
        Admin, Client, Delivery, Error, ErrorKind, GroupConsumer, PartitionReader, Producer, Record, Result,
    };
}

/// The README's programs and those of the pages, compiled and run as tests.
#[cfg(all(doctest, feature = "app", feature = "broker"))]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/delivery.md")]
    struct Delivery;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
    #[doc = include_str!("../docs/logs.md")]
    struct Logs;
    #[cfg(feature = "sasl")]
    #[doc = include_str!("../docs/security.md")]
    struct Security;
    #[doc = include_str!("../docs/testing.md")]
    struct Testing;
    #[doc = include_str!("../docs/transactions.md")]
    struct Transactions;
}
