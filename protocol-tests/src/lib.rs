//! Suites that hold carafe against Apache Kafka, foreign clients and independent decoders.

pub mod capture;
pub mod golden;
pub mod kafka;
pub mod messages;
pub mod sim;
pub mod trial;
