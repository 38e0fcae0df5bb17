//! The two ends of a conversation: what a mechanism holds, and what drives it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::Phase;
use crate::net::failure::Peer;
use crate::runtime::{BoxFuture, Runtime};
use crate::{Error, ErrorKind, Result};

/// A way to prove who one is: a SASL mechanism. Those of Kafka come with carafe; implement this to bring another one, such as
/// Kerberos (`GSSAPI`), or credentials from a place of your own.
///
/// ```
/// use carafe::Result;
/// use carafe::client::sasl::{Exchange, Mechanism, Plain, Secret};
/// use carafe::runtime::BoxFuture;
///
/// /// PLAIN with a password that is looked up anew for each connection.
/// #[derive(Debug)]
/// struct FromVault;
///
/// async fn vault() -> Result<Secret> {
///     Ok(Secret::from("what the vault says"))
/// }
///
/// impl Mechanism for FromVault {
///     fn name(&self) -> &str {
///         "PLAIN"
///     }
///
///     fn authenticate<'a>(&'a self, exchange: &'a mut Exchange) -> BoxFuture<'a, Result<()>> {
///         Box::pin(async move {
///             let plain = Plain::new("alice", vault().await?);
///             plain.authenticate(exchange).await
///         })
///     }
/// }
/// ```
pub trait Mechanism: fmt::Debug + Send + Sync + 'static {
    /// The mechanism's name, such as `PLAIN` or `GSSAPI`. A broker that does not offer it is not spoken to.
    fn name(&self) -> &str;

    /// Authenticates one connection, or an open connection anew: says what is to be said with [`Exchange::send`], and checks
    /// what the broker answers. `Ok` once the mechanism has seen everything that it must see; a refusal by the broker ends the
    /// conversation without the mechanism's help.
    ///
    /// It is called for every connection, so what is expensive (a token, a key derivation) is worth keeping. It has no longer
    /// than `socket.connection.setup.timeout.ms`, and is dropped when that is over or when the connection breaks.
    ///
    /// # Errors
    ///
    /// Whatever stands in the way; the connection is given up, and tried again after a back-off. The error is shown to users: it
    /// must not hold secrets.
    fn authenticate<'a>(&'a self, exchange: &'a mut Exchange) -> BoxFuture<'a, Result<()>>;
}

/// The mechanism's end of a conversation with one broker.
#[derive(Debug)]
pub struct Exchange {
    peer: Peer,
    runtime: Arc<dyn Runtime>,
    tokens: mpsc::Sender<Bytes>,
    challenges: mpsc::Receiver<Bytes>,
}

impl Exchange {
    /// The broker's host, as configured or advertised.
    pub fn host(&self) -> &str {
        &self.peer.host
    }

    /// The broker's port.
    pub fn port(&self) -> u16 {
        self.peer.port
    }

    /// Clock, randomness and blocking work.
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.runtime
    }

    /// Sends a token and waits for the broker's answer to it, which may be empty.
    ///
    /// # Errors
    ///
    /// If the connection ended; nobody waits for the mechanism any more then.
    pub async fn send(&mut self, token: impl Into<Bytes>) -> Result<Bytes> {
        let over = || Error::new(ErrorKind::Network, "the connection ended").with_phase(Phase::Sasl);
        self.tokens.send(token.into()).await.map_err(|_| over())?;
        self.challenges.recv().await.ok_or_else(over)
    }
}

/// What a mechanism did.
#[derive(Debug)]
pub(in crate::net) enum Said {
    /// It wants this sent.
    Token(Bytes),
    /// It is content, or gave up.
    End(Result<()>),
}

/// The connection's end of a conversation: runs the mechanism.
pub(in crate::net) struct Dialogue {
    mechanism: BoxFuture<'static, Result<()>>,
    tokens: mpsc::Receiver<Bytes>,
    challenges: mpsc::Sender<Bytes>,
}

impl fmt::Debug for Dialogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialogue").finish_non_exhaustive()
    }
}

impl Dialogue {
    pub(in crate::net) fn new(mechanism: Arc<dyn Mechanism>, peer: Peer, runtime: Arc<dyn Runtime>) -> Self {
        let (token_sender, tokens) = mpsc::channel(1);
        let (challenges, challenge_receiver) = mpsc::channel(1);
        let mut exchange = Exchange { peer, runtime, tokens: token_sender, challenges: challenge_receiver };
        let mechanism = Box::pin(async move { mechanism.authenticate(&mut exchange).await });
        Self { mechanism, tokens, challenges }
    }

    /// Hands over what the broker answered to the latest token.
    pub(in crate::net) fn answer(&mut self, challenge: Bytes) {
        // A mechanism takes one answer for each token; one that no longer listens has ended.
        let _ = self.challenges.try_send(challenge);
    }

    /// What the mechanism says next. Nothing may be asked behind its end.
    pub(in crate::net) fn poll_said(&mut self, context: &mut Context<'_>) -> Poll<Said> {
        // It is the mechanism that fills the channel, so it goes first.
        if let Poll::Ready(result) = Pin::new(&mut self.mechanism).poll(context) {
            return Poll::Ready(Said::End(result));
        }
        match self.tokens.poll_recv(context) {
            Poll::Ready(Some(token)) => Poll::Ready(Said::Token(token)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
