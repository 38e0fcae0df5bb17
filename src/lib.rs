//! Apache Kafka for Rust without librdkafka and without a C compiler: a native client, a framework for routed
//! applications on top of it, and an embedded Kafka-compatible cluster.

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
#[cfg(feature = "client")]
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
pub use client::Client;
#[cfg(feature = "client")]
pub use producer::{Delivery, Producer, Record};

/// What a program needs most: `use carafe::prelude::*`.
#[cfg(feature = "app")]
pub mod prelude {
    pub use crate::app::{
        App, AtOffset, Batch, Consumer, Context, DeadLetter, Event, Json, Message, MessageRef, Raw, Retry,
        Text, VirtualPartitions, by_key,
    };
    pub use crate::client::Client;
    pub use crate::producer::Record;
    pub use crate::{Error, ErrorKind};
}

/// The README's programs, compiled and run as tests.
#[cfg(all(doctest, feature = "app", feature = "broker"))]
#[doc = include_str!("../README.md")]
struct Readme;
