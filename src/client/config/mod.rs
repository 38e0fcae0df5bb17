//! Settings from properties: the names that Java's clients and librdkafka have, as one table.
//!
//! * `table`, `client`, `consumer`, `producer`: the table: name, other names, type, range, default, and what becomes of it.
//! * `value`: parses one value.
//! * `load`: goes through properties and finds everything that is wrong.
//! * `document`: writes `docs/configuration.md` from the table.
//!
//! Nothing is ignored: a setting that has no meaning here is refused with the reason, except with the values that say what
//! happens anyway.

mod client;
mod consumer;
#[cfg(test)]
mod document;
mod load;
mod producer;
mod table;
mod value;

pub use load::ClientSettings;
