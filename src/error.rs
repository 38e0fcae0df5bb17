//! One error type for the whole crate. It says what was attempted, with which peer, in which phase, whether a retry
//! can help, and what to try; its contents are private, its questions public.

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

/// An error of carafe. `Display` prints one level, the source chain the rest. Clones share their sources.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    peer: Option<String>,
    phase: Option<Phase>,
    code: Option<ErrorCode>,
    hint: Option<String>,
    retriable: Option<bool>,
    throttle: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    /// The error of another type that says the same and more; what is behind it is behind this one.
    original: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` says what was attempted and what went wrong, without a final full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            peer: None,
            phase: None,
            code: None,
            hint: None,
            retriable: None,
            throttle: None,
            source: None,
            original: None,
        }))
    }

    /// An error that a broker reported with `code` while `attempted`. Its kind and its hint follow from the code.
    pub fn from_code(code: ErrorCode, attempted: impl Into<String>) -> Self {
        let error = Self::new(code.kind(), attempted).code(code);
        match code.advice() {
            Some(advice) => error.hint(advice),
            None => error,
        }
    }

    /// Names the peer: `host:port` or `node 3 (host:port)`.
    #[must_use]
    pub fn peer(mut self, peer: impl Into<String>) -> Self {
        self.0.peer = Some(peer.into());
        self
    }

    /// Names the phase of the attempt.
    #[must_use]
    pub fn phase(mut self, phase: Phase) -> Self {
        self.0.phase = Some(phase);
        self
    }

    /// Attaches the broker's error code.
    #[must_use]
    pub fn code(mut self, code: ErrorCode) -> Self {
        self.0.code = Some(code);
        self
    }

    /// Says what to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Overrides whether a retry can help; otherwise kind and code decide.
    #[must_use]
    pub fn retriable(mut self, retriable: bool) -> Self {
        self.0.retriable = Some(retriable);
        self
    }

    /// The broker asked to wait this long before the next attempt.
    #[must_use]
    pub fn throttle(mut self, wait: Duration) -> Self {
        self.0.throttle = Some(wait);
        self
    }

    /// Attaches the underlying error.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// The same error for another item of the same operation, without its source but with its advice.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn repeat(&self) -> Self {
        let inner = &*self.0;
        Self(Box::new(Inner {
            message: inner.message.clone(),
            peer: inner.peer.clone(),
            hint: self.advice().map(str::to_owned),
            source: None,
            original: None,
            ..*inner
        }))
    }

    /// This error on behalf of `original`, which says the same and has the same source, and stays within reach.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn for_original(&self, original: impl StdError + Send + Sync + 'static) -> Self {
        let mut copy = self.repeat();
        // The source says its own.
        copy.0.hint.clone_from(&self.0.hint);
        copy.0.original = Some(Arc::new(original));
        copy
    }

    /// See [`for_original`](Self::for_original).
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn original(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.original.as_deref().map(|original| original as &(dyn StdError + 'static))
    }

    /// Who is to blame.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The code that a broker answered with, if one did.
    pub fn error_code(&self) -> Option<ErrorCode> {
        self.0.code
    }

    /// The phase in which the attempt failed.
    pub fn failed_phase(&self) -> Option<Phase> {
        self.0.phase
    }

    /// The peer of the attempt.
    pub fn failed_peer(&self) -> Option<&str> {
        self.0.peer.as_deref()
    }

    /// What to try, for a person: the error's own hint, or else that of the error behind it. Printed with the error that
    /// has it, so a chain of errors says it once.
    pub fn advice(&self) -> Option<&str> {
        let behind = || {
            let mut causes = std::iter::successors(StdError::source(self), |&cause| cause.source());
            causes.find_map(|cause| {
                let shared = || cause.downcast_ref::<Arc<Self>>().map(|error| &**error);
                cause.downcast_ref::<Self>().or_else(shared)?.0.hint.as_deref()
            })
        };
        self.0.hint.as_deref().or_else(behind)
    }

    /// How long the broker asked us to wait.
    pub fn throttle_time(&self) -> Option<Duration> {
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
        match &self.0.hint {
            Some(hint) => write!(f, "; {hint}"),
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
        match (&self.0.source, &self.0.original) {
            (Some(source), _) => Some(&**source),
            (None, Some(original)) => original.source(),
            (None, None) => None,
        }
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
/// let error = Error::new(ErrorKind::Network, "no connection").hint("is the broker up?").source(refused);
/// assert_eq!(Chain(&error).to_string(), "no connection: connection refused; is the broker up?");
/// ```
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut line, mut hint) = (String::new(), None);
        for error in std::iter::successors(Some(self.0), |&error| error.source()) {
            let own = error.downcast_ref::<Error>();
            let own = own.or_else(|| error.downcast_ref::<Arc<Error>>().map(|shared| &**shared));
            let text = own.map_or_else(|| error.to_string(), Error::message);
            hint = hint.or_else(|| own?.0.hint.as_deref());
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
