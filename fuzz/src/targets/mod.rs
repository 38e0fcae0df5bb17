//! The targets: what must hold of a decoder, whatever the input.

mod committed;
mod compression;
mod fixpoint;
mod frames;
mod messages;
mod records;

pub use committed::committed;
pub use compression::compression;
pub use fixpoint::fixpoint;
pub use frames::frames;
pub use messages::{requests, responses, sasl};
pub use records::{records, seal};
