//! Settings of a client, and settings from properties and the environment.
//!
//! * `client`: settings of the client itself. Those of producers and consumers lie beside them.
//! * `security`: the mechanism of SASL; `jaas`: Java's one line for its credentials.
//! * `tls`: what of them becomes settings of TLS; `words`: those whose values are words.
//! * `load`: all of them at once, with the names that Java's clients and librdkafka have.
//!
//! Nothing is ignored: a setting that has no meaning here is refused with the reason, except with the values that say what
//! happens anyway.

mod client;
mod jaas;
mod load;
pub(in crate::client) mod security;
#[cfg(feature = "tls")]
pub(in crate::client) mod tls;
mod words;

pub use client::ClientConfig;
pub use load::{ClientSettings, Loader};
pub use words::{HostCheck, SslRoots, TlsVersions};
