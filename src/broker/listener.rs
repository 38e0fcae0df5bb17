//! The listeners that every node of a cluster has, as Kafka's `listeners` and `advertised.listeners`.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
#[cfg(feature = "tls")]
use std::time::Duration;

#[cfg(feature = "tls")]
use tokio::time::timeout;

use super::cluster::Endpoint;
use super::sasl::SaslMechanism;
use crate::error::Phase;
#[cfg(feature = "tls")]
use crate::runtime::tls::{Acceptor, ServerTls};
use crate::runtime::{Listener as Socket, Runtime, Stream};
use crate::types::SecurityProtocol;
use crate::wire::Str;
use crate::{Error, ErrorKind, Result};

/// How long a client may take for the TLS handshake.
#[cfg(feature = "tls")]
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);

/// One more listener of every node, beside the first; see [`ClusterBuilder::listener`](super::ClusterBuilder::listener).
/// Clients that come through it are told the addresses of this listener.
///
/// ```
/// # async fn example() -> carafe::Result<()> {
/// use carafe::broker::{Cluster, Listener};
///
/// let outside = Listener::new("OUTSIDE").address("127.0.0.1:0").advertised_host("localhost");
/// let cluster = Cluster::builder().listener(outside).start().await?;
/// let addresses = cluster.bootstrap_servers_of("OUTSIDE");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a listener does nothing until it is given to a cluster"]
pub struct Listener {
    pub(super) name: String,
    address: String,
    advertised_host: Option<String>,
    mechanisms: BTreeSet<SaslMechanism>,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
}

impl Listener {
    /// A listener on free ports of the loopback address. Its name is told to nobody but
    /// [`bootstrap_servers_of`](super::Cluster::bootstrap_servers_of).
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            address: "127.0.0.1:0".to_owned(),
            advertised_host: None,
            mechanisms: BTreeSet::new(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Address to listen on, `host:port`; default `127.0.0.1:0`. Node *i* takes the port plus *i*; with port 0 each
    /// takes a free one.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Host that clients are told; default the one that is listened on, or `127.0.0.1` for a wildcard address.
    pub fn advertised_host(mut self, host: impl Into<String>) -> Self {
        self.advertised_host = Some(host.into());
        self
    }

    /// Clients have to log in by one of these mechanisms; see [`ClusterBuilder::user`](super::ClusterBuilder::user).
    pub fn sasl(mut self, mechanisms: impl IntoIterator<Item = SaslMechanism>) -> Self {
        self.mechanisms = mechanisms.into_iter().collect();
        self
    }

    /// Clients have to speak TLS.
    ///
    /// Handshakes take 30 s at most.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// What clients have to speak.
    fn security_protocol(&self) -> SecurityProtocol {
        #[cfg(feature = "tls")]
        let tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let tls = false;
        SecurityProtocol::new(tls, !self.mechanisms.is_empty())
    }

    /// The listener with its address taken apart; `problems` gets what is wrong.
    pub(super) fn check(
        self,
        nodes: i32,
        #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "its clock is for certificates"))]
        runtime: &Arc<dyn Runtime>,
        problems: &mut Vec<String>,
    ) -> Option<Opened> {
        let name = &self.name;
        let address = self.address.rsplit_once(':').and_then(|(host, port)| {
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            Some((host.to_owned(), port.parse::<u16>().ok()?))
        });
        let Some((host, port)) = address else {
            problems.push(format!("listen: {:?} of {name} is not HOST:PORT", self.address));
            return None;
        };
        if port != 0 && i32::from(port) + nodes - 1 > i32::from(u16::MAX) {
            problems.push(format!("listen: ports {port} and up of {name} do not suffice for {nodes} nodes"));
        }
        let advertised = self.advertised_host.clone().unwrap_or_else(|| match host.as_str() {
            "0.0.0.0" | "::" | "" => "127.0.0.1".to_owned(),
            host => host.to_owned(),
        });
        #[cfg(feature = "tls")]
        let tls = match self.tls.as_ref().map(|tls| tls.acceptor(Arc::clone(runtime))).transpose() {
            Ok(tls) => tls,
            Err(problem) => {
                problems.push(format!("tls of {name}: {problem}"));
                None
            }
        };
        Some(Opened {
            #[cfg(feature = "tls")]
            tls,
            protocol: self.security_protocol(),
            mechanisms: self.mechanisms,
            name: self.name,
            host,
            port,
            advertised: advertised.into(),
        })
    }
}

/// A listener of a running cluster.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) name: String,
    host: String,
    port: u16,
    advertised: Str,
    protocol: SecurityProtocol,
    pub(super) mechanisms: BTreeSet<SaslMechanism>,
    #[cfg(feature = "tls")]
    tls: Option<Acceptor>,
}

impl Opened {
    /// The port that the node with this index wants.
    pub(super) fn port_of(&self, index: i32) -> u16 {
        if self.port == 0 { 0 } else { self.port + u16::try_from(index).unwrap_or(0) }
    }

    /// What clients are told of a node that took `port`.
    pub(super) fn endpoint(&self, port: u16) -> Endpoint {
        Endpoint { host: self.advertised.clone(), port }
    }

    /// What is spoken on a connection that was accepted, once both sides have agreed on it.
    pub(super) async fn secure(&self, stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return match timeout(HANDSHAKE_MAX, tls.accept(stream)).await {
                Ok(accepted) => accepted,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
        }
        Ok(stream)
    }

    /// Opens the port.
    pub(super) async fn open(&self, runtime: &dyn Runtime, port: u16) -> Result<Box<dyn Socket>> {
        runtime.listen(&self.host, port).await.map_err(|error| {
            Error::new(
                ErrorKind::Network,
                format!("listening for {} clients of the embedded cluster", self.protocol),
            )
            .with_phase(Phase::Connect)
            .with_peer(format!("{}:{port}", self.host))
            .with_advice("choose another port, or 0 for a free one")
            .with_source(error)
        })
    }
}
