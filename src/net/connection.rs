//! The handle of a connection. Cheap to clone; the connection drains and ends when the last handle is gone.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::config::ConnectionConfig;
use super::driver::{Driver, Speaker};
use super::failure::{Failure, Peer, RequestError};
use super::handshake::Agreed;
use super::machine::{Limits, Machine, Outgoing};
use super::negotiate::ApiVersions;
use super::sasl::Session;
use super::shared::{Command, Shared};
use crate::error::Phase;
use crate::runtime::{Runtime, Stream};
use crate::wire::frame::FrameReader;
use crate::wire::{ApiKey, Decode, Reader, Request, VersionRange, frame};
use crate::{Error, ErrorKind, Result};

/// A socket that is ready for requests.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) agreed: Agreed,
    /// May hold bytes that arrived early.
    pub(super) buffer: FrameReader,
}

/// An open, negotiated connection. Requests are answered in the order in which they were given to it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// Bounded by those who use it: a producer has five requests on the way, a fetch session one, whoever else asks awaits
    /// the answer. What callers who gave up leave behind ends with the connection, at the first deadline.
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
}

impl Connection {
    pub(super) fn start(
        runtime: &Arc<dyn Runtime>,
        config: &ConnectionConfig,
        peer: Peer,
        stream: Box<dyn Stream>,
        established: Established,
        ended: Box<dyn FnOnce(Failure) + Send>,
    ) -> Self {
        let Established { agreed: Agreed { versions, next_correlation, lifetime }, mut buffer } = established;
        buffer.set_max(config.frame_bytes_max);
        let limits = Limits {
            idle_timeout: config.idle_timeout,
            throttle_max: config.throttle_max,
            request_timeout: config.request_timeout,
        };
        let now = Instant::now();
        let session = config.mechanism.as_ref().map(|mechanism| {
            let (name, dice) = (Arc::from(mechanism.name()), runtime.random());
            Session::new(now, config.client_id.clone(), name, versions.clone(), lifetime, dice)
        });
        let machine = Machine::new(now, next_correlation, limits, session);
        let (sender, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(peer, versions, config));
        let speaker = Speaker::new(config.mechanism.clone(), Arc::clone(runtime));
        let driver = Driver::new(stream, buffer, machine, receiver, Arc::clone(&shared), speaker);
        let task = {
            let shared = Arc::clone(&shared);
            async move {
                driver.run().await;
                ended(shared.failure());
            }
        };
        runtime.spawn("carafe-connection", Box::pin(task));
        Self { commands: sender, shared }
    }

    /// The broker at the other end.
    pub(crate) fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    /// What the broker offers on this connection.
    pub(crate) fn versions(&self) -> &ApiVersions {
        &self.shared.versions
    }

    /// The highest version of `key` that the broker and `ours` have in common.
    ///
    /// # Errors
    ///
    /// `UnsupportedVersion`, which names both ranges.
    pub(crate) fn version(&self, key: ApiKey, ours: VersionRange) -> Result<i16> {
        self.versions().version(key, ours).ok_or_else(|| {
            let message = match self.versions().range(key) {
                Some(theirs) => format!("the broker speaks {key} {theirs}, carafe {ours}"),
                None => format!("the broker does not offer {key}"),
            };
            let message = match key.since(ours) {
                Some(release) => format!("{message}: it takes Kafka {release} or newer"),
                None => message,
            };
            Error::new(ErrorKind::UnsupportedVersion, message)
                .with_phase(Phase::Negotiate)
                .with_peer(self.peer().to_string())
        })
    }

    /// How long the connection itself waits for an answer at least.
    #[cfg(feature = "kafka-protocol")]
    pub(crate) fn request_timeout(&self) -> Duration {
        self.shared.request_timeout
    }

    /// Requests without an answer yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.in_flight()
    }

    /// True once the connection is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    /// Waits until the connection is over and says why. Cancel-safe.
    #[cfg(test)]
    pub(crate) async fn closed(&self) -> Failure {
        self.commands.closed().await;
        self.shared.failure()
    }

    /// Accepts nothing more and ends after the last answer, or the first deadline. What has no answer at `limit` fails.
    pub(crate) fn close(&self, limit: Option<Instant>) {
        let _ = self.commands.send(Command::Close(limit));
    }

    /// Ends the connection because the peer sent something invalid; what is in flight fails.
    pub(crate) fn fail(&self, error: &Error) {
        let failure =
            Failure::new(ErrorKind::Protocol, Phase::Decode, format!("an answer was not valid: {error}"));
        let _ = self.commands.send(Command::Fail(failure));
    }

    /// Holds requests back for `pause` (KIP-219). For Produce, whose throttle time stands at the end of the body; other
    /// responses are looked at here.
    pub(crate) fn throttle(&self, pause: Duration) {
        if !pause.is_zero() {
            let _ = self.commands.send(Command::Throttle(pause));
        }
    }

    /// Sends `request` in `version` and decodes the response. An answer that is not valid ends the connection.
    ///
    /// The caller waits until `deadline`; the connection itself gives up at the later of `deadline` and the request
    /// timeout, so that an impatient caller does not cost others their connection. Cancel-safe in that the request stays
    /// in its place and its answer is dropped.
    pub(crate) async fn send<R: Request>(
        &self,
        request: &R,
        version: i16,
        deadline: Instant,
    ) -> std::result::Result<R::Response, RequestError> {
        let head = frame::encode_request(request, version, 0, Some(&self.shared.client_id))
            .map_err(|error| RequestError::unsent(Error::from(error).with_peer(self.peer().to_string())))?;
        let patience = deadline.max(Instant::now() + self.shared.request_timeout);
        let pending = self.enqueue(R::KEY, version, head, Vec::new(), patience, true);
        let answer = match timeout_at(deadline, pending).await {
            Ok(answer) => answer?,
            Err(_) => {
                let error =
                    Error::new(ErrorKind::Timeout, format!("no answer to {} before the deadline", R::KEY))
                        .with_phase(Phase::Request)
                        .with_peer(self.peer().to_string());
                return Err(RequestError { error, unsent: false });
            }
        };
        answer.decode::<R::Response>().map_err(|error| {
            self.fail(&error);
            RequestError { error: error.with_peer(self.peer().to_string()), unsent: false }
        })
    }

    /// Queues a request whose body was written by hand, at once and in order, and returns its answer to come. `body` is
    /// written as it is, without a copy. With `answered` false (Produce with `acks=0`) the answer is an empty frame as
    /// soon as the request was written. If there is no answer by `deadline`, the connection ends.
    pub(crate) fn send_raw(
        &self,
        key: ApiKey,
        version: i16,
        body: Vec<Bytes>,
        deadline: Instant,
        answered: bool,
    ) -> Pending {
        let length = body.iter().map(Bytes::len).sum();
        let head = frame::request_header(key, version, 0, Some(&self.shared.client_id), length);
        self.enqueue(key, version, head, body, deadline, answered)
    }

    fn enqueue(
        &self,
        key: ApiKey,
        version: i16,
        head: BytesMut,
        rest: Vec<Bytes>,
        deadline: Instant,
        answered: bool,
    ) -> Pending {
        let (waiter, receiver) = oneshot::channel();
        self.shared.began_one();
        let request = Outgoing { key, version, head, rest, deadline, answered, waiter };
        if self.commands.send(Command::Request(request)).is_err() {
            self.shared.finished_one();
        }
        Pending { receiver, key, version, shared: Arc::clone(&self.shared) }
    }
}

/// The answer to come of a request that was queued. Dropping it does not take the request back.
#[derive(Debug)]
pub(crate) struct Pending {
    receiver: oneshot::Receiver<std::result::Result<Bytes, (Failure, bool)>>,
    key: ApiKey,
    version: i16,
    shared: Arc<Shared>,
}

impl Future for Pending {
    type Output = std::result::Result<Answer, RequestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(context).map(|answer| {
            // The driver tells every waiter; a channel that ends without a word was closed before the request got there.
            let answer = answer.unwrap_or_else(|_| Err((self.shared.failure(), true)));
            match answer {
                Ok(frame) => Ok(Answer { key: self.key, version: self.version, frame }),
                Err((failure, unsent)) => {
                    let error = failure.to_error(&format!("{} failed", self.key), &self.shared.peer);
                    Err(RequestError { error, unsent })
                }
            }
        })
    }
}

/// A response frame.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) key: ApiKey,
    /// Version of request and response.
    pub(crate) version: i16,
    /// Header and body; empty for a request that is not answered.
    pub(crate) frame: Bytes,
}

impl Answer {
    /// A reader behind the header.
    pub(crate) fn reader(&self) -> Result<Reader> {
        let (_, reader) = frame::decode_response_header(self.frame.clone(), self.key, self.version)?;
        Ok(reader)
    }

    /// The response as a message.
    pub(crate) fn decode<T: Decode>(&self) -> Result<T> {
        Ok(T::decode(&mut self.reader()?, self.version)?)
    }
}
