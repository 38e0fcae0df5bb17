//! Consumers: groups, single partitions, and the batches they hand out.
//!
//! * [`RecordBatch`], [`OwnedRecord`], [`Mark`]: what is consumed, and how far.
//! * [`GroupConsumer`]: a member of a group. [`PartitionReader`]: partitions without one.
//! * `positions`: the machine of what is read where; `core` shares it between handle and tasks; `condition_pump` tells
//!   what keeps it from going on.
//! * `fetch`: sessions, answers, look-ups. `group`: membership and commits.

mod batch;
mod condition_pump;
mod config;
mod core;
mod event;
mod fetch;
mod group;
mod group_consumer;
mod mark;
mod message;
mod positions;
mod reader;
mod shared;
#[cfg(all(test, feature = "broker"))]
mod tests;

pub use crate::cluster::GroupOffsets;
pub use crate::sync::budget::MemoryBudget;
pub use crate::wire::records::{HeaderRef, HeadersIter, HeadersRef, RecordRef, TimestampType};
pub use batch::{RecordBatch, Records};
pub use config::{
    Assignor, Assignors, ConsumerConfig, FirstStart, Isolation, NewPartitions, OutOfRange, StartOffset,
    Truncation,
};
pub use event::{ConsumerEvent, PartitionFailure, Revocation};
pub use group_consumer::{GroupConsumer, GroupConsumerBuilder};
pub use mark::Mark;
pub use message::OwnedRecord;
pub use reader::{PartitionReader, PartitionReaderBuilder};
