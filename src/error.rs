//! One error type for the whole crate. It says what was attempted, with which peer, in which phase, whether a retry
//! can help, and what to try; its contents are private, its questions public.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::ErrorCode;

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who is to blame, and therefore who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting or argument of the caller is wrong; nothing was sent, or the broker refused it.
    Config,
    /// The caller used an object in a state that forbids it (closed, not assigned, …).
    State,
    /// The peer could not be reached or the connection broke.
    Network,
    /// A deadline passed; the outcome of a write may be unknown.
    Timeout,
    /// Credentials or certificates were refused.
    Authentication,
    /// The principal lacks a permission (ACL).
    Authorization,
    /// The peer speaks no version of an API that we speak.
    UnsupportedVersion,
    /// The peer sent bytes that are not valid Kafka protocol.
    Protocol,
    /// The broker answered with an error code.
    Broker,
    /// A newer instance with the same identity took over (producer epoch, member epoch, static member).
    Fenced,
    /// A record or batch is larger than a limit.
    TooLarge,
    /// A record batch is corrupt (checksum, structure, decompression).
    CorruptRecord,
    /// There is no committed offset or it is out of range, and the policy says to stop.
    OffsetOutOfRange,
    /// A payload could not be decoded or encoded.
    Payload,
    /// Code of the user failed or panicked.
    Handler,
    /// A file, standard input or standard output could not be read or written.
    Io,
    /// A defect of carafe: neither the caller, nor the cluster, nor a handler did anything wrong. Please report it.
    Internal,
}

/// The phase of an attempt in which it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Looking up a host name.
    Resolve,
    /// Opening the TCP connection.
    Connect,
    /// TLS handshake.
    Tls,
    /// SASL authentication.
    Sasl,
    /// Version negotiation (ApiVersions).
    Negotiate,
    /// Writing a request or waiting for its response.
    Request,
    /// Reading the body of a response.
    Decode,
}

/// An error of carafe. `Display` prints one level, the source chain the rest. A clone costs a count: it is the same error.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    peer: Option<String>,
    phase: Option<Phase>,
    code: Option<ErrorCode>,
    advice: Option<String>,
    retriable: Option<bool>,
    throttle: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    /// The value of another type that this error was made of.
    origin: Option<Arc<dyn Any + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` says what was attempted and what went wrong, without a final full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            peer: None,
            phase: None,
            code: None,
            advice: None,
            retriable: None,
            throttle: None,
            source: None,
            origin: None,
        }))
    }

    /// An error that a broker reported with `code` while `attempted`. Its kind and its advice follow from the code.
    pub fn from_code(code: ErrorCode, attempted: impl Into<String>) -> Self {
        let error = Self::new(code.kind(), attempted).with_code(code);
        match code.advice() {
            Some(advice) => error.with_advice(advice),
            None => error,
        }
    }

    fn with(mut self, set: impl FnOnce(&mut Inner)) -> Self {
        set(Arc::make_mut(&mut self.0));
        self
    }

    /// Names the peer: `host:port` or `node 3 (host:port)`.
    #[must_use]
    pub fn with_peer(self, peer: impl Into<String>) -> Self {
        self.with(|inner| inner.peer = Some(peer.into()))
    }

    /// Names the phase of the attempt.
    #[must_use]
    pub fn with_phase(self, phase: Phase) -> Self {
        self.with(|inner| inner.phase = Some(phase))
    }

    /// Attaches the broker's error code.
    #[must_use]
    pub fn with_code(self, code: ErrorCode) -> Self {
        self.with(|inner| inner.code = Some(code))
    }

    /// Says what to try.
    #[must_use]
    pub fn with_advice(self, advice: impl Into<String>) -> Self {
        self.with(|inner| inner.advice = Some(advice.into()))
    }

    /// Overrides whether a retry can help; otherwise kind and code decide.
    #[must_use]
    pub fn with_retriable(self, retriable: bool) -> Self {
        self.with(|inner| inner.retriable = Some(retriable))
    }

    /// The broker asked to wait this long before the next attempt.
    #[must_use]
    pub fn with_throttle(self, wait: Duration) -> Self {
        self.with(|inner| inner.throttle = Some(wait))
    }

    /// Attaches the underlying error.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.with(|inner| inner.source = Some(Arc::from(source.into())))
    }

    /// Attaches an underlying error that others hold too.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn with_shared_source(self, source: Arc<dyn StdError + Send + Sync>) -> Self {
        self.with(|inner| inner.source = Some(source))
    }

    /// Keeps what this error was made of within reach of [`origin`](Self::origin).
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn with_origin(self, origin: impl Any + Send + Sync) -> Self {
        self.with(|inner| inner.origin = Some(Arc::new(origin)))
    }

    /// What this error was made of, if it is a `T`.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn origin<T: Any>(&self) -> Option<&T> {
        self.0.origin.as_deref()?.downcast_ref()
    }

    /// This error as the trait object that [`tracing`](https://docs.rs/tracing) records with all that is behind it:
    /// `tracing::error!(error = error.as_dyn(), "not sent")`.
    pub fn as_dyn(&self) -> &(dyn StdError + 'static) {
        self
    }

    /// Who is to blame.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The code that a broker answered with, if one did.
    pub fn code(&self) -> Option<ErrorCode> {
        self.0.code
    }

    /// The phase in which the attempt failed.
    pub fn phase(&self) -> Option<Phase> {
        self.0.phase
    }

    /// The peer of the attempt.
    pub fn peer(&self) -> Option<&str> {
        self.0.peer.as_deref()
    }

    /// What to try, for a person: its own advice, or else that of the error behind it. Printed with the error that
    /// has it, so a chain of errors says it once.
    pub fn advice(&self) -> Option<&str> {
        let behind = || {
            let mut causes = std::iter::successors(self.source(), |&cause| cause.source());
            causes.find_map(|cause| cause.downcast_ref::<Self>()?.0.advice.as_deref())
        };
        self.0.advice.as_deref().or_else(behind)
    }

    /// How long the broker asked us to wait.
    pub fn throttle(&self) -> Option<Duration> {
        self.0.throttle
    }

    /// True if the same attempt may succeed later without a change by the caller.
    pub fn is_retriable(&self) -> bool {
        if let Some(retriable) = self.0.retriable {
            return retriable;
        }
        match (self.0.code, self.0.kind) {
            (Some(code), _) => code.is_retriable(),
            (None, ErrorKind::Network | ErrorKind::Timeout) => true,
            _ => false,
        }
    }

    /// True if a deadline passed.
    pub fn is_timeout(&self) -> bool {
        self.0.kind == ErrorKind::Timeout
    }

    /// True if a newer instance took over; this one must stop.
    pub fn is_fenced(&self) -> bool {
        self.0.kind == ErrorKind::Fenced
    }
}

impl Error {
    /// What went wrong, without advice.
    fn message(&self) -> String {
        let Inner { message, peer, code, .. } = &*self.0;
        let peer = peer.as_ref().map(|peer| format!(" ({peer})")).unwrap_or_default();
        let code = code.map(|code| format!(": {code}")).unwrap_or_default();
        format!("{message}{peer}{code}")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())?;
        match &self.0.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// What `fn main() -> carafe::Result<()>` and `unwrap` show: the whole [`Chain`], advice included; `{:#?}` the parts.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return write!(f, "{:?}: {}", self.0.kind, Chain(self));
        }
        let inner = &*self.0;
        let mut s = f.debug_struct("Error");
        s.field("kind", &inner.kind).field("message", &inner.message);
        if let Some(peer) = &inner.peer {
            s.field("peer", peer);
        }
        if let Some(phase) = &inner.phase {
            s.field("phase", phase);
        }
        if let Some(code) = &inner.code {
            s.field("code", code);
        }
        if let Some(source) = &inner.source {
            s.field("source", source);
        }
        s.finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// An error with what is behind it, on one line, and what to try at its end. A cause whose text the line has already is left
/// out.
///
/// ```
/// use carafe::error::Chain;
/// use carafe::{Error, ErrorKind};
///
/// let refused = std::io::Error::other("connection refused");
/// let error = Error::new(ErrorKind::Network, "no connection").with_advice("is the broker up?").with_source(refused);
/// assert_eq!(Chain(&error).to_string(), "no connection: connection refused; is the broker up?");
/// ```
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut line, mut hint) = (String::new(), None);
        for error in std::iter::successors(Some(self.0), |&error| error.source()) {
            let own = error.downcast_ref::<Error>();
            let text = own.map_or_else(|| error.to_string(), Error::message);
            hint = hint.or_else(|| own?.0.advice.as_deref());
            if !line.contains(&text) {
                line.push_str(if line.is_empty() { "" } else { ": " });
                line.push_str(&text);
            }
        }
        match hint.filter(|hint| !line.contains(hint)) {
            Some(hint) => write!(f, "{line}; {hint}"),
            None => f.write_str(&line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_the_same_error_and_a_changed_one_leaves_it_alone() {
        let io = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let first = Error::new(ErrorKind::Io, "not written").with_advice("who reads?").with_source(io);
        let second = first.clone();
        assert!(Arc::ptr_eq(&first.0, &second.0));
        let third = second.with_code(ErrorCode::NETWORK_EXCEPTION).with_advice("nobody reads");
        assert_eq!((first.code(), first.advice()), (None, Some("who reads?")));
        assert_eq!(
            (third.code(), third.advice()),
            (Some(ErrorCode::NETWORK_EXCEPTION), Some("nobody reads"))
        );
        for error in [first, third] {
            let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
            assert_eq!(source.map(std::io::Error::kind), Some(std::io::ErrorKind::BrokenPipe));
        }
    }

    #[test]
    fn what_was_set_is_asked_for_by_the_same_noun() {
        let error = Error::new(ErrorKind::Network, "lost")
            .with_peer("node 3 (b:9092)")
            .with_phase(Phase::Tls)
            .with_throttle(Duration::from_secs(2))
            .with_retriable(false);
        assert_eq!((error.peer(), error.phase()), (Some("node 3 (b:9092)"), Some(Phase::Tls)));
        assert_eq!((error.throttle(), error.is_retriable()), (Some(Duration::from_secs(2)), false));
        for kind in [ErrorKind::Internal, ErrorKind::Io] {
            assert!(!Error::new(kind, "ours").is_retriable());
        }
    }
}
