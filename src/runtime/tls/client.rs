//! The client's side: settings become a configuration, which is made anew when its files change.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::failure::{Refused, TlsFailure};
use super::material::{Input, Problem, Stamp};
use super::stream::Session;
use super::verifier::{Checks, Verifier};
use super::{Clock, Versions};
use crate::error::Phase;
use crate::runtime::{Runtime, Stream};
use crate::sync::{Mutex, lock};
use crate::types::Secret;
use crate::{Error, ErrorKind, Result};

/// Files are looked at once in this time at most, before a connection is opened.
const LOOK: Duration = Duration::from_secs(1);

/// Whose word is taken for a broker's certificate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Roots {
    /// The authorities of the operating system, and the bundled ones where it has none.
    Usual,
    /// Those of the operating system alone.
    System,
    /// Mozilla's list, as it was when this version was made.
    Bundled,
    /// These.
    Own { inputs: Vec<Input>, password: Option<Secret> },
}

/// Who we are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Identity {
    /// Certificates and key apart.
    Apart { certificate: Input, key: Input, password: Option<Secret> },
    /// In one store.
    Store { input: Input, store_password: Option<Secret>, key_password: Option<Secret> },
}

/// What is said about TLS.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) roots: Roots,
    pub(crate) identity: Option<Identity>,
    pub(crate) checks: Checks,
    pub(crate) versions: Versions,
    /// Names of cipher suites in the order of preference; all of the provider's where there is none.
    pub(crate) cipher_suites: Vec<String>,
}

/// Opens TLS sessions.
#[derive(Clone)]
pub(crate) struct ClientTls(Arc<Inner>);

struct Inner {
    settings: Settings,
    provider: Arc<CryptoProvider>,
    runtime: Arc<dyn Runtime>,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ClientConfig>,
    /// The files as they were when they were read.
    stamps: Vec<Stamp>,
    looked_at: Instant,
    /// Why what the files hold now is not used.
    stale: Option<Error>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Reads all files.
    ///
    /// # Errors
    ///
    /// `Config` with everything that is wrong with them.
    pub(crate) async fn new(
        settings: Settings,
        provider: Arc<CryptoProvider>,
        runtime: Arc<dyn Runtime>,
    ) -> Result<Self> {
        let load = {
            let (settings, provider, runtime) = (settings.clone(), provider.clone(), runtime.clone());
            move || load(&settings, provider, runtime)
        };
        let (stamps, config) = runtime
            .blocking("carafe-tls-files", load)
            .await
            .map_err(|error| Error::new(ErrorKind::Internal, "reading certificates").with_source(error))?;
        let config = config.map_err(told)?;
        warn(&settings);
        let current = Current { config, stamps, looked_at: Instant::now(), stale: None };
        Ok(Self(Arc::new(Inner { settings, provider, runtime, current: Mutex::new(current) })))
    }

    /// Why what the files hold now is not used, if that is so.
    pub(crate) fn stale(&self) -> Option<Error> {
        lock(&self.0.current).stale.clone()
    }

    /// True if we have a certificate to present.
    pub(crate) fn is_identified(&self) -> bool {
        self.0.settings.identity.is_some()
    }

    /// Speaks TLS over `stream` with the broker that is called `host`. No timeout of its own.
    pub(crate) async fn connect(
        &self,
        host: &str,
        stream: Box<dyn Stream>,
    ) -> std::result::Result<Box<dyn Stream>, Refused> {
        let name = ServerName::try_from(host.trim_end_matches('.')).map_err(|_| {
            let message = format!("{host:?} is no name that a certificate could be for");
            Refused::new(TlsFailure::WrongHost, message)
        })?;
        let connector = TlsConnector::from(self.config().await);
        let addresses = (stream.local_addr(), stream.peer_addr());
        match connector.connect(name.to_owned(), stream).await {
            Ok(tls) => Ok(Box::new(Session::new(tls, self.is_identified(), addresses))),
            Err(error) => Err(Refused::in_handshake(error, self.is_identified())),
        }
    }

    /// The configuration for the next connection: what the files hold now, or held when they were good last.
    async fn config(&self) -> Arc<ClientConfig> {
        let before = {
            let mut current = lock(&self.0.current);
            let due = current.looked_at.elapsed() >= LOOK && !current.stamps.is_empty();
            if due {
                current.looked_at = Instant::now();
            }
            due.then(|| current.stamps.clone())
        };
        let Some(before) = before else { return Arc::clone(&lock(&self.0.current).config) };
        let inner = Arc::clone(&self.0);
        let look = move || {
            let changed = stamps(&inner.settings) != before;
            changed.then(|| load(&inner.settings, inner.provider.clone(), inner.runtime.clone()))
        };
        // A task that was not run leaves everything as it is.
        let looked = self.0.runtime.blocking("carafe-tls-files", look).await.ok().flatten();
        let mut current = lock(&self.0.current);
        match looked {
            None => {}
            Some((stamps, Ok(config))) => {
                tracing::info!("the certificates were read again: their files have changed");
                (current.stamps, current.config, current.stale) = (stamps, config, None);
            }
            // The stamps stay, so that the next look finds them changed again.
            Some((_, Err(problems))) => {
                let error = told(problems);
                if current.stale.is_none() {
                    tracing::warn!(
                        error = error.as_dyn(),
                        "the files of the certificates have changed and cannot be used; new connections go on with what they \
                         held before"
                    );
                }
                current.stale = Some(error);
            }
        }
        Arc::clone(&current.config)
    }
}

/// What is switched off is said aloud.
fn warn(settings: &Settings) {
    match settings.checks {
        Checks::All => {}
        Checks::AnyHost => tracing::warn!(
            "ssl.endpoint.identification.algorithm is none: whoever has any certificate of the trusted authorities can pose as \
             the brokers"
        ),
        Checks::Nothing => tracing::warn!(
            "enable.ssl.certificate.verification is false: anybody on the way can pose as the brokers, and read and change \
             everything"
        ),
    }
}

fn told(problems: Vec<Problem>) -> Error {
    let lines: Vec<_> = problems.into_iter().map(|(setting, what)| format!("{setting}: {what}")).collect();
    let message = match lines.as_slice() {
        [only] => format!("certificates or keys cannot be used: {only}"),
        all => format!("certificates or keys cannot be used:\n  {}", all.join("\n  ")),
    };
    Error::new(ErrorKind::Config, message).with_phase(Phase::Tls)
}

fn inputs(settings: &Settings) -> Vec<&Input> {
    let mut inputs: Vec<&Input> = Vec::new();
    if let Roots::Own { inputs: own, .. } = &settings.roots {
        inputs.extend(own);
    }
    match &settings.identity {
        Some(Identity::Apart { certificate, key, .. }) => inputs.extend([certificate, key]),
        Some(Identity::Store { input, .. }) => inputs.push(input),
        None => {}
    }
    inputs
}

fn stamps(settings: &Settings) -> Vec<Stamp> {
    inputs(settings).into_iter().flat_map(Input::stamps).collect()
}

type Loaded = (Vec<Stamp>, std::result::Result<Arc<ClientConfig>, Vec<Problem>>);

/// Reads everything, and says how the files looked before that.
fn load(settings: &Settings, provider: Arc<CryptoProvider>, runtime: Arc<dyn Runtime>) -> Loaded {
    let stamps = stamps(settings);
    (stamps, configure(settings, provider, runtime))
}

fn configure(
    settings: &Settings,
    provider: Arc<CryptoProvider>,
    runtime: Arc<dyn Runtime>,
) -> std::result::Result<Arc<ClientConfig>, Vec<Problem>> {
    let mut problems = Vec::new();
    let (roots, own) = roots(settings, &mut problems);
    let identity = settings.identity.as_ref().map(|identity| match identity {
        Identity::Apart { certificate, key, password } => {
            let chain = certificate.certificates(None);
            let key = key.key(password.as_ref());
            match (chain, key) {
                (Ok(chain), Ok(key)) => Ok((certificate.setting, chain, key)),
                (chain, key) => Err(chain.err().into_iter().chain(key.err()).collect::<Vec<_>>()),
            }
        }
        Identity::Store { input, store_password, key_password } => {
            match input.identity(store_password.as_ref(), key_password.as_ref()) {
                Ok((chain, key)) => Ok((input.setting, chain, key)),
                Err(problem) => Err(vec![problem]),
            }
        }
    });
    let identity = match identity {
        Some(Ok(identity)) => Some(identity),
        Some(Err(found)) => {
            problems.extend(found);
            None
        }
        None => None,
    };
    let provider = match super::restricted(provider, &settings.cipher_suites) {
        Ok(provider) => provider,
        Err(problem) => {
            problems.push(problem);
            return Err(problems);
        }
    };
    let builder = ClientConfig::builder_with_details(provider.clone(), Arc::new(Clock(runtime)))
        .with_protocol_versions(&settings.versions.list());
    let builder = match builder {
        Ok(builder) => builder,
        Err(error) => {
            problems.push(("ssl.enabled.protocols", error.to_string()));
            return Err(problems);
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let verifier = Verifier::new(settings.checks, roots, own, provider)
        .map_err(|what| vec![("ssl.ca.location", what)])?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((setting, chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| vec![(setting, unfit(&error))])?
        }
    };
    Ok(Arc::new(config))
}

/// Why certificates and key cannot be used together.
pub(super) fn unfit(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => "the private key does not belong to the certificate".to_owned(),
        rustls::Error::General(_) => {
            "the private key cannot be used: it is damaged, or of a kind that is not supported; RSA from 2048 to 8192 bits, \
             P-256, P-384 and Ed25519 are"
                .to_owned()
        }
        other => other.to_string(),
    }
}

fn roots(settings: &Settings, problems: &mut Vec<Problem>) -> (RootCertStore, Vec<CertificateDer<'static>>) {
    let mut store = RootCertStore::empty();
    let mut own = Vec::new();
    if settings.checks == Checks::Nothing {
        return (store, own);
    }
    let bundled = || webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
    match &settings.roots {
        Roots::Own { inputs, password } => {
            for input in inputs {
                match input.certificates(password.as_ref()) {
                    Ok(found) => {
                        let (_, ignored) = store.add_parsable_certificates(found.iter().cloned());
                        if ignored == found.len() {
                            let what = "holds no certificate that could be an authority's".to_owned();
                            problems.push((input.setting, what));
                        }
                        own.extend(found);
                    }
                    Err(problem) => problems.push(problem),
                }
            }
        }
        Roots::Bundled => store.extend(bundled()),
        Roots::Usual | Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() && settings.roots == Roots::Usual {
                store.extend(bundled());
            }
            if store.is_empty() {
                let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
                let what = format!(
                    "the system has no authorities{why}; use bundled, or name yours in ssl.ca.location"
                );
                problems.push(("ssl.roots", what));
            }
        }
    }
    (store, own)
}
