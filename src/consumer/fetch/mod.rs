//! Fetching: one session per broker.
//!
//! * [`fetcher`]: what is asked of a broker, and when; [`session`]: what it has been told (KIP-227); [`verdict`]: what its
//!   error codes mean.
//! * [`part`], [`decode`]: from a part of an answer to a batch.
//! * [`offsets`]: requests that find offsets and the ends of epochs. [`sightings`]: what metadata says.
//! * [`driver`]: the tasks.

pub(crate) mod decode;
pub(crate) mod driver;
mod fetcher;
pub(crate) mod offsets;
mod part;
pub(crate) mod session;
mod sightings;
mod verdict;
