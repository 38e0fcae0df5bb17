//! How much of a broker's certificate is checked.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::der;

/// What is checked, beside that the broker has the key of its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checks {
    /// Who issued it, when it is valid, and for which host.
    All,
    /// Not for which host: any certificate of our authorities will do.
    AnyHost,
    /// Nothing at all.
    Nothing,
}

/// A verifier for these checks.
#[derive(Debug)]
pub(super) struct Verifier {
    checks: Checks,
    roots: Arc<RootCertStore>,
    /// The roots themselves: a broker may present one of them.
    own: Vec<CertificateDer<'static>>,
    /// None where nothing is checked.
    whole: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(super) fn new(
        checks: Checks,
        roots: RootCertStore,
        own: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let roots = Arc::new(roots);
        let whole = match checks {
            Checks::Nothing => None,
            Checks::All | Checks::AnyHost => {
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
                Some(builder.build().map_err(|error| error.to_string())?)
            }
        };
        Ok(Self { checks, roots, own, whole, provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // As Java and OpenSSL do: a certificate that we were told to trust needs nobody to vouch for it. One that
        // `openssl req -x509` made is an authority's, and no verifier would take it for a broker's otherwise.
        let is_own = self.own.iter().any(|own| own == end_entity);
        match (self.checks, &self.whole) {
            (Checks::Nothing, _) | (_, None) => {}
            (checks, _) if is_own => {
                check_time(end_entity, now)?;
                if checks == Checks::All {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
            }
            (Checks::All, Some(whole)) => {
                whole.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
            }
            (Checks::AnyHost, _) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                let algorithms = self.provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(
                    &certificate,
                    &self.roots,
                    intermediates,
                    now,
                    algorithms,
                )?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn check_time(certificate: &[u8], now: UnixTime) -> Result<(), Error> {
    let (from, until) = der::validity(certificate).ok_or(CertificateError::BadEncoding)?;
    let seconds = |time: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(time.max(0) as u64));
    if now < seconds(from) {
        return Err(CertificateError::NotValidYetContext { time: now, not_before: seconds(from) }.into());
    }
    if now > seconds(until) {
        return Err(CertificateError::ExpiredContext { time: now, not_after: seconds(until) }.into());
    }
    Ok(())
}
