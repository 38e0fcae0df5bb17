//! TLS, for both sides: rustls over any [`Stream`](super::Stream), the simulated ones included.
//!
//! rustls is a machine: bytes in, bytes out, and it asks for the time, which is that of the [`Runtime`]. Its randomness is
//! that of its provider, so what is on the wire differs from run to run even in simulation; who says what when does not.
//!
//! * `client`, `server`: settings of the two sides, and sessions.
//! * `provider`: which cryptography it is done with.
//! * `verifier`: how much of a broker's certificate is checked.
//! * `failure`: the ways in which it fails, told apart.
//! * `material`: certificates and keys from files and texts; `pem`, `der`, `pkcs12` and `pbe` are their forms.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use super::Runtime;

#[cfg(all(test, feature = "broker"))]
pub(crate) mod certificates;
pub(crate) mod client;
mod der;
mod failure;
pub(crate) mod material;
mod pbe;
mod pem;
mod pkcs12;
pub(crate) mod provider;
#[cfg(feature = "broker")]
mod server;
mod stream;
#[cfg(all(test, feature = "broker"))]
mod tests;
pub(crate) mod verifier;

pub(crate) use client::ClientTls;
pub(crate) use failure::Refused;
pub use failure::TlsFailure;
#[cfg(feature = "broker")]
pub(crate) use server::Acceptor;
#[cfg(feature = "broker")]
pub use server::ServerTls;

/// Which versions of TLS are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) tls12: bool,
    pub(crate) tls13: bool,
}

impl Versions {
    pub(crate) const ALL: Self = Self { tls12: true, tls13: true };

    fn list(self) -> Vec<&'static SupportedProtocolVersion> {
        let mut list = Vec::new();
        list.extend(self.tls13.then_some(&rustls::version::TLS13));
        list.extend(self.tls12.then_some(&rustls::version::TLS12));
        list
    }
}

/// The time of the runtime, for certificates.
#[derive(Debug)]
struct Clock(Arc<dyn Runtime>);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.wall_clock().duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// The provider with these cipher suites alone, in this order; with all where none is named. Names are those of the
/// standards, which Java has too, or OpenSSL's.
fn restricted(
    provider: Arc<CryptoProvider>,
    names: &[String],
) -> Result<Arc<CryptoProvider>, material::Problem> {
    if names.is_empty() {
        return Ok(provider);
    }
    let mut suites = Vec::new();
    for name in names {
        let plain = |name: &str| name.replace(['-', '_'], "").to_uppercase().replace("WITH", "");
        let known = provider.cipher_suites.iter().find(|suite| {
            let known = format!("{:?}", suite.suite());
            // rustls calls those of TLS 1.3 TLS13_AES_…, the standard TLS_AES_…; OpenSSL omits the TLS of older ones, and the
            // digest of ChaCha20.
            let known = plain(&known).replacen("TLS13", "TLS", 1);
            let name = plain(name);
            let inner = known.strip_prefix("TLS");
            known == name
                || inner == Some(&name)
                || inner.and_then(|inner| inner.strip_suffix("SHA256")) == Some(&name)
        });
        suites.extend(known.copied());
    }
    if suites.is_empty() {
        let known: Vec<_> = provider
            .cipher_suites
            .iter()
            .map(|suite| format!("{:?}", suite.suite()).replacen("TLS13", "TLS", 1))
            .collect();
        return Err((
            "ssl.cipher.suites",
            format!("none of them is supported: {}; these are: {}", names.join(", "), known.join(", ")),
        ));
    }
    Ok(Arc::new(CryptoProvider { cipher_suites: suites, ..(*provider).clone() }))
}
