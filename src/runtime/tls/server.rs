//! The server's side, for the embedded cluster.

use std::io;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use super::client::unfit;
use super::material::{Input, Source};
use super::stream::Session;
use super::{Clock, Versions, provider};
use crate::Error;
use crate::runtime::{Runtime, Stream};
use crate::types::Secret;

/// TLS of a listener of the embedded cluster.
///
/// ```
/// # async fn example(certificate: String, key: String, authority: String) -> carafe::Result<()> {
/// use carafe::broker::{Cluster, Listener, ServerTls};
///
/// let tls = ServerTls::new(certificate, key).client_authorities(authority);
/// let cluster = Cluster::builder().listener(Listener::new("SSL").tls(tls)).start().await?;
/// let addresses = cluster.bootstrap_servers_of("SSL");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing until a listener has it"]
pub struct ServerTls {
    certificate: Secret,
    key: Secret,
    key_password: Option<Secret>,
    authorities: Option<Secret>,
    optional: bool,
    versions: Versions,
    provider: Option<Arc<CryptoProvider>>,
}

impl ServerTls {
    /// With this certificate, and those between it and its authority behind it, and this private key, as PEM.
    pub fn new(certificate: impl Into<Secret>, key: impl Into<Secret>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            key_password: None,
            authorities: None,
            optional: false,
            versions: Versions::ALL,
            provider: None,
        }
    }

    /// Password of the key (`ssl.key.password`).
    pub fn key_password(mut self, password: impl Into<Secret>) -> Self {
        self.key_password = Some(password.into());
        self
    }

    /// Clients must have a certificate of one of these authorities, as PEM (`ssl.client.auth=required`).
    pub fn client_authorities(mut self, certificates: impl Into<Secret>) -> Self {
        self.authorities = Some(certificates.into());
        self
    }

    /// Clients may come without a certificate (`ssl.client.auth=requested`).
    pub fn optional_client_certificates(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Speaks TLS 1.2 alone, as old brokers do.
    pub fn only_tls12(mut self) -> Self {
        self.versions = Versions { tls12: true, tls13: false };
        self
    }

    /// Speaks TLS 1.3 alone.
    pub fn only_tls13(mut self) -> Self {
        self.versions = Versions { tls12: false, tls13: true };
        self
    }

    /// Cryptography other than graviola's, see
    /// [`ClientBuilder::crypto_provider`](crate::client::ClientBuilder::crypto_provider).
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// What accepts sessions, or what is wrong with the settings.
    pub(crate) fn acceptor(&self, runtime: Arc<dyn Runtime>) -> Result<Acceptor, String> {
        let text = |(setting, what): (&str, String)| format!("{setting}: {what}");
        let said = |error: Error| error.to_string();
        let provider = match &self.provider {
            Some(provider) => Arc::clone(provider),
            None => provider::default().map_err(said)?,
        };
        let input = |setting, text: &Secret| Input { setting, source: Source::Text(text.clone()) };
        let chain = input("certificate", &self.certificate).certificates(None).map_err(text)?;
        let key = input("key", &self.key).key(self.key_password.as_ref()).map_err(text)?;
        let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(Clock(runtime)))
            .with_protocol_versions(&self.versions.list())
            .map_err(|error| error.to_string())?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                let found = input("client_authorities", authorities).certificates(None).map_err(text)?;
                roots.add_parsable_certificates(found);
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier =
                    if self.optional { verifier.allow_unauthenticated() } else { verifier }.build();
                builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
            }
        };
        let config = builder
            .with_single_cert(chain, key)
            .map_err(|error| format!("certificate: {}", unfit(&error)))?;
        Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
    }
}

/// Accepts sessions.
#[derive(Clone)]
pub(crate) struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    /// The server's side of the handshake. No timeout of its own.
    pub(crate) async fn accept(&self, stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        let addresses = (stream.local_addr(), stream.peer_addr());
        let tls = self.0.accept(stream).await?;
        Ok(Box::new(Session::new(tls, true, addresses)))
    }
}
