//! What carafe reads and writes, held against Kafka's own definitions and an independent decoder.

mod golden;
mod hostile;
mod java;
mod messages;
mod readable;
mod records;
mod releases;
mod replay;
