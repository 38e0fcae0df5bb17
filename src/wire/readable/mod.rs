//! The messages of the protocol as data.

pub mod schema;
