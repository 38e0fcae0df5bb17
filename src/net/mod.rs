//! One connection to one broker: a machine that matches responses to requests, and a driver that owns the socket.
//!
//! * `failure`: typed reasons for which a connection or one request on it ended.
//! * `throttle`: where a response says that the broker wants a pause (KIP-219), as data.
//! * `machine`: correlation, order, deadlines, throttling, draining.
//! * `negotiate`: ApiVersions with its fallbacks (KIP-511), and the table that comes out of it.
//! * `handshake`: what is said on a fresh socket before the first request.
//! * [`sasl`]: mechanisms, their conversation, and sessions that are renewed.
//! * `driver`: the task that reads and writes; decides nothing.
//! * `connection`: the handle that everyone else holds; `shared`: what it shares with the task.
//! * `connect`: from host name to [`Connection`]; TLS has its place here.

mod config;
mod connect;
mod connection;
mod driver;
mod failure;
mod handshake;
mod machine;
mod negotiate;
pub mod sasl;
mod shared;
mod throttle;

#[cfg(all(test, feature = "broker"))]
pub(crate) mod script;
#[cfg(all(test, feature = "broker"))]
mod tests;

pub(crate) use config::ConnectionConfig;
pub(crate) use connect::Connector;
pub(crate) use connection::{Answer, Connection, Pending};
pub(crate) use failure::{Failure, Peer, RequestError};
