//! Fetching: one session per broker.
//!
//! * [`session`]: what the broker has been told, and what to tell it (KIP-227).
//! * [`decode`]: from a part of an answer to a batch.
//! * [`offsets`]: requests that find offsets and the ends of epochs.
//! * [`driver`]: the tasks.

pub(crate) mod decode;
pub(crate) mod driver;
pub(crate) mod offsets;
pub(crate) mod session;
