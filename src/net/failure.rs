//! Why a connection, or one request on it, ended.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::error::Phase;
#[cfg(feature = "tls")]
use crate::runtime::tls::{Refused, TlsFailure};
use crate::types::NodeId;
use crate::wire::frame::FrameError;
use crate::{Error, ErrorKind};

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Id of the broker; `None` for an address of the bootstrap list, whose id is not known yet.
    pub(crate) node: Option<NodeId>,
    /// Host as configured or advertised.
    pub(crate) host: Arc<str>,
    /// TCP port.
    pub(crate) port: u16,
}

impl Peer {
    pub(crate) fn new(node: Option<NodeId>, host: &str, port: u16) -> Self {
        Self { node, host: host.into(), port }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        match self.node {
            Some(node) => write!(f, "node {node} ({open}{}{close}:{})", self.host, self.port),
            None => write!(f, "{open}{}{close}:{}", self.host, self.port),
        }
    }
}

/// Why a connection could not be opened or ended. Cheap to clone: every request in flight gets one.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) phase: Phase,
    /// What happened, without the peer and without what the system says about it.
    pub(crate) message: Arc<str>,
    pub(crate) advice: Option<&'static str>,
    pub(crate) io: Option<Arc<io::Error>>,
    /// In which way TLS failed, if it was that.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsFailure>,
    /// False if the connection ended as planned (idle, closed by us, or by the peer between two answers).
    pub(crate) alarming: bool,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, phase: Phase, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            phase,
            message: message.into(),
            advice: None,
            io: None,
            #[cfg(feature = "tls")]
            tls: None,
            alarming: true,
        }
    }

    pub(crate) fn io(phase: Phase, what: &str, error: io::Error) -> Self {
        #[cfg(feature = "tls")]
        let error = match error.downcast::<Refused>() {
            Ok(refused) => return Self::tls(refused),
            Err(error) => error,
        };
        let kind =
            if error.kind() == io::ErrorKind::TimedOut { ErrorKind::Timeout } else { ErrorKind::Network };
        let mut failure = Self::new(kind, phase, what);
        failure.io = Some(Arc::new(error));
        failure
    }

    /// TLS failed.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(refused: Refused) -> Self {
        let Refused { failure, message, io } = refused;
        Self {
            advice: Some(failure.advice()),
            io: io.map(Arc::new),
            tls: Some(failure),
            ..Self::new(failure.kind(), Phase::Tls, message)
        }
    }

    /// The peer's bytes are no frames.
    pub(crate) fn frame(phase: Phase, error: FrameError) -> Self {
        Self::new(ErrorKind::Protocol, phase, format!("the peer sent no Kafka frame: {error}"))
            .with_advice(error.advice())
    }

    /// Says what to try, where that is not known better already.
    pub(crate) fn with_advice(mut self, advice: &'static str) -> Self {
        self.advice.get_or_insert(advice);
        self
    }

    pub(crate) fn planned(mut self) -> Self {
        self.alarming = false;
        self
    }

    /// What happened, on one line.
    pub(crate) fn reason(&self) -> String {
        match &self.io {
            Some(io) => format!("{}: {io}", self.message),
            None => self.message.to_string(),
        }
    }

    /// The error for someone who `attempted` something over this connection.
    pub(crate) fn to_error(&self, attempted: &str, peer: &Peer) -> Error {
        let mut error = Error::new(self.kind, format!("{attempted}: {}", self.message))
            .with_phase(self.phase)
            // Another connection, or another broker, may well answer.
            .with_retriable(!matches!(self.kind, ErrorKind::Authentication | ErrorKind::Config));
        // An address that is a number stands in the message already.
        let is_named = self.message.contains(&format!("{}:{}", peer.host, peer.port));
        error = match peer.node {
            Some(node) if is_named => error.with_peer(format!("node {node}")),
            None if is_named => error,
            _ => error.with_peer(peer.to_string()),
        };
        if let Some(advice) = self.advice {
            error = error.with_advice(advice);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls {
            error = error.with_origin(tls);
        }
        if let Some(io) = &self.io {
            error = error.with_shared_source(Arc::<io::Error>::clone(io));
        }
        error
    }
}

/// Why one request got no answer.
#[derive(Debug)]
pub(crate) struct RequestError {
    /// The error for the caller.
    pub(crate) error: Error,
    /// True if not one byte of the request was written: the broker cannot have acted on it, and a retry over another
    /// connection costs nothing.
    pub(crate) unsent: bool,
}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        error.error
    }
}

impl RequestError {
    /// An error found before anything was written.
    pub(crate) fn unsent(error: Error) -> Self {
        Self { error, unsent: true }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_stands_in_the_chain_once() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "refused by the system");
        let failure = Failure::io(Phase::Connect, "cannot connect to 127.0.0.1:1", refused);
        assert_eq!(failure.reason(), "cannot connect to 127.0.0.1:1: refused by the system");
        let error = failure.to_error("no connection", &Peer::new(None, "localhost", 1));
        let first: &dyn std::error::Error = &error;
        let said: Vec<_> =
            std::iter::successors(Some(first), |error| error.source()).map(ToString::to_string).collect();
        assert_eq!(said.join("\n").matches("refused").count(), 1, "{said:?}");
    }
}
