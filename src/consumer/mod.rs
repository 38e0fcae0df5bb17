//! Consumers: groups, single partitions, and the batches they hand out.

mod batch;
mod config;
mod group;
mod mark;
mod message;

pub use crate::sync::budget::MemoryBudget;
pub use crate::wire::records::{HeaderRef, HeadersIter, HeadersRef, RecordRef};
pub use batch::{Batch, Records};
pub use config::{Assignor, ConsumerConfig, FirstStart, Isolation, OutOfRange, StartOffset, Truncation};
pub use mark::Mark;
pub use message::Message;
