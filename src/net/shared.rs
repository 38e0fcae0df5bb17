//! What the handles of a connection and its task share, and what they tell each other.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::config::ConnectionConfig;
use super::failure::{Failure, Peer};
use super::machine::{Outgoing, closed};
use super::negotiate::ApiVersions;
use crate::wire::Str;

/// What handles and driver share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) peer: Peer,
    pub(super) versions: ApiVersions,
    pub(super) client_id: Str,
    pub(super) request_timeout: Duration,
    in_flight: AtomicUsize,
    failure: OnceLock<Failure>,
}

impl Shared {
    pub(super) fn new(peer: Peer, versions: ApiVersions, config: &ConnectionConfig) -> Self {
        Self {
            peer,
            versions,
            client_id: config.client_id.clone(),
            request_timeout: config.request_timeout,
            in_flight: AtomicUsize::new(0),
            failure: OnceLock::new(),
        }
    }

    /// Requests without an answer yet.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn began_one(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn finished_one(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn set_failure(&self, failure: Failure) {
        let _ = self.failure.set(failure);
    }

    pub(super) fn failure(&self) -> Failure {
        self.failure.get().cloned().unwrap_or_else(closed)
    }
}

/// The way back to the caller: a frame (empty for an unanswered request that was written), or why there is none and
/// whether nothing was written.
pub(super) type Waiter = oneshot::Sender<Result<Bytes, (Failure, bool)>>;

/// What handles ask of the driver.
#[derive(Debug)]
pub(super) enum Command {
    Request(Outgoing<Waiter>),
    /// The broker wants a pause (where the caller parses the body).
    Throttle(Duration),
    /// Take nothing more, end after the last answer or at the instant.
    Close(Option<Instant>),
    /// A caller found the peer's answer invalid.
    Fail(Failure),
}
