//! What a client promises about its connections and its knowledge of the cluster, on the embedded cluster.

mod conditions;
mod durations;
mod duties;
#[cfg(feature = "sasl")]
mod errors;
mod sasl;
#[cfg(feature = "tls")]
mod tls;
