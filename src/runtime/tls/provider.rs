//! Which cryptography TLS is done with.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::error::Phase;
use crate::{Error, ErrorKind, Result};

/// What to write where graviola does not run.
const ANOTHER: &str = "add `rustls` with the feature `ring` to your Cargo.toml, and hand its provider over: \
    Client::builder().crypto_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))";

/// Graviola, where it runs: on x86-64 with AES, AVX2, ADX, BMI1 and PCLMULQDQ, and on aarch64 with AES, SHA-2 and PMULL.
///
/// # Errors
///
/// `Config` elsewhere, with the lines that pass another provider.
pub(crate) fn default() -> Result<Arc<CryptoProvider>> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if graviola::util::is_cpu_supported() {
        let mut provider = rustls_graviola::default_provider();
        // The hybrid group costs 110 µs per handshake and a ClientHello of more than one packet.
        provider.kx_groups.sort_by_key(|group| group.name() == rustls::NamedGroup::X25519MLKEM768);
        return Ok(Arc::new(provider));
    }
    Err(Error::new(
        ErrorKind::Config,
        "this processor cannot do what the built-in cryptography for TLS, graviola, needs",
    )
    .with_phase(Phase::Tls)
    .with_advice(ANOTHER))
}
