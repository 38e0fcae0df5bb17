//! Settings of a client, and settings from properties and the environment.
//!
//! * `client`: settings of the client itself. Those of producers and consumers lie beside them.
//! * `load`: all of them at once, with the names that Java's clients and librdkafka have.
//! * `document`: writes `docs/configuration.md` from the rows.
//!
//! Nothing is ignored: a setting that has no meaning here is refused with the reason, except with the values that say what
//! happens anyway.

mod client;
#[cfg(test)]
mod document;
mod load;
#[cfg(test)]
mod tests;

pub use client::ClientConfig;
pub use load::{ClientSettings, Loader};
