//! The ways in which TLS fails, told apart.

use std::fmt;
use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription as Alert, CertificateError, Error, InvalidMessage};

use super::der;
use crate::ErrorKind;

/// In which way TLS failed. [`TlsFailure::of`] finds it in whatever error it became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFailure {
    /// The other side speaks no TLS: its listener is plaintext, or belongs to something else.
    NotTls,
    /// The other side hung up during the handshake: a plaintext listener of Kafka does that, and so does a firewall.
    HungUp,
    /// The handshake did not end in time.
    Late,
    /// No authority that we trust vouches for the broker's certificate.
    UnknownAuthority,
    /// The broker's certificate has expired, or our clock is wrong.
    Expired,
    /// The broker's certificate is not valid yet, or our clock is wrong.
    NotYetValid,
    /// The broker's certificate is for other hosts.
    WrongHost,
    /// The broker's certificate cannot be used for another reason.
    UnfitCertificate,
    /// The broker wants a certificate of us, and we have none.
    ClientCertificateMissing,
    /// The broker does not accept our certificate.
    ClientCertificateRefused,
    /// There is no version of TLS, no cipher suite, no group or no signature that both sides know.
    NothingInCommon,
    /// Anything else: what one side sent made no sense to the other.
    Broken,
}

impl TlsFailure {
    /// In which way TLS failed, if it was that: looks through the error and what is behind it.
    ///
    /// ```
    /// use carafe::client::TlsFailure;
    ///
    /// fn is_untrusted(error: &carafe::Error) -> bool {
    ///     TlsFailure::of(error) == Some(TlsFailure::UnknownAuthority)
    /// }
    /// ```
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        std::iter::successors(Some(error), |&error| error.source())
            .find_map(|error| error.downcast_ref::<crate::Error>()?.origin::<Self>().copied())
    }

    /// Whose fault it is.
    pub(crate) fn kind(self) -> ErrorKind {
        match self {
            Self::NotTls | Self::NothingInCommon | Self::Broken => ErrorKind::Protocol,
            Self::HungUp => ErrorKind::Network,
            Self::Late => ErrorKind::Timeout,
            Self::UnknownAuthority
            | Self::Expired
            | Self::NotYetValid
            | Self::WrongHost
            | Self::UnfitCertificate
            | Self::ClientCertificateMissing
            | Self::ClientCertificateRefused => ErrorKind::Authentication,
        }
    }

    /// What to try.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::NotTls => {
                "if the listener is plaintext, set security.protocol=PLAINTEXT; otherwise give the address of a Kafka \
                 listener"
            }
            Self::HungUp => {
                "the listener may be plaintext (then set security.protocol=PLAINTEXT), or something on the way cuts TLS"
            }
            Self::Late => "the listener may be plaintext, or the broker is overloaded",
            Self::UnknownAuthority => {
                "name the authority's certificate in ssl.ca.location (in Java's settings: the trust store)"
            }
            Self::Expired => "renew the broker's certificate; if it is valid, set the clock of this machine",
            Self::NotYetValid => {
                "set the clock of this machine, or that of the machine that issued the certificate"
            }
            Self::WrongHost => {
                "connect to one of these names (bootstrap.servers, advertised.listeners), or add the host to the \
                 certificate's subject alternative names; ssl.endpoint.identification.algorithm=none switches the check \
                 off"
            }
            Self::UnfitCertificate => "have the broker's certificate issued again",
            Self::ClientCertificateMissing => {
                "give the client a certificate: ssl.certificate.location and ssl.key.location, or ssl.keystore.location"
            }
            Self::ClientCertificateRefused => {
                "check that the broker trusts the authority of the client's certificate (its ssl.truststore), and that the \
                 certificate is valid"
            }
            Self::NothingInCommon => {
                "carafe speaks TLS 1.2 and 1.3 with AES-GCM and ChaCha20: check ssl.enabled.protocols and \
                 ssl.cipher.suites of both sides"
            }
            Self::Broken => "something on the way may change what is sent, or the other side is faulty",
        }
    }
}

/// A failure with the details of the case.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) failure: TlsFailure,
    /// What happened, for people.
    pub(crate) message: String,
    /// What the system said, where it did.
    pub(crate) io: Option<io::Error>,
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Refused {
    pub(crate) fn new(failure: TlsFailure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into(), io: None }
    }

    /// What an error of the handshake says; `identified` if we have a certificate.
    pub(super) fn in_handshake(error: io::Error, identified: bool) -> Self {
        match Self::of(&error, identified) {
            Some(refused) => refused,
            None => Self {
                io: Some(error),
                ..Self::new(TlsFailure::HungUp, "the peer hung up during the TLS handshake")
            },
        }
    }

    /// What an error says if it is one of TLS, in the handshake or later.
    pub(crate) fn of(error: &io::Error, identified: bool) -> Option<Self> {
        let tls = error.get_ref()?.downcast_ref::<Error>()?;
        let (failure, message) = match tls {
            Error::InvalidCertificate(certificate) => of_certificate(certificate),
            Error::AlertReceived(alert) => of_alert(*alert, identified),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => (TlsFailure::NotTls, "what the peer sends is no TLS".to_owned()),
            Error::PeerIncompatible(what) => {
                (TlsFailure::NothingInCommon, format!("TLS has nothing in common with the peer's: {what:?}"))
            }
            Error::NoCertificatesPresented => {
                (TlsFailure::UnfitCertificate, "the peer presented no certificate".to_owned())
            }
            other => (TlsFailure::Broken, format!("the TLS handshake failed: {other}")),
        };
        Some(Self::new(failure, message))
    }
}

fn of_certificate(error: &CertificateError) -> (TlsFailure, String) {
    let date = |time: &UnixTime| der::readable(time.as_secs());
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            TlsFailure::UnknownAuthority,
            "the broker's certificate comes from an authority that is not trusted here".to_owned(),
        ),
        CertificateError::ExpiredContext { time, not_after } => (
            TlsFailure::Expired,
            format!("the broker's certificate expired on {}; here it is {}", date(not_after), date(time)),
        ),
        CertificateError::Expired => (TlsFailure::Expired, "the broker's certificate has expired".to_owned()),
        CertificateError::NotValidYetContext { time, not_before } => (
            TlsFailure::NotYetValid,
            format!(
                "the broker's certificate is not valid before {}; here it is {}",
                date(not_before),
                date(time)
            ),
        ),
        CertificateError::NotValidYet => {
            (TlsFailure::NotYetValid, "the broker's certificate is not valid yet".to_owned())
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = if presented.is_empty() {
                "no host at all: it has no subject alternative names".to_owned()
            } else {
                let names: Vec<_> = presented.iter().map(|name| plain(name)).collect();
                names.join(", ")
            };
            let expected = expected.to_str();
            (
                TlsFailure::WrongHost,
                format!("the broker's certificate is not for {expected}, but for {names}"),
            )
        }
        CertificateError::NotValidForName => {
            (TlsFailure::WrongHost, "the broker's certificate is for other hosts".to_owned())
        }
        CertificateError::Other(other) if format!("{other:?}").contains("UnsupportedCertVersion") => (
            TlsFailure::UnfitCertificate,
            "the broker's certificate has the form of X.509 version 1, which nobody checks any more"
                .to_owned(),
        ),
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => (
            TlsFailure::UnfitCertificate,
            "the broker's certificate is that of an authority, and not trusted itself".to_owned(),
        ),
        other => (TlsFailure::UnfitCertificate, format!("the broker's certificate cannot be used: {other}")),
    }
}

/// `DnsName("a.b")` and `IpAddress(1.2.3.4)` without what is around the name.
fn plain(presented: &str) -> String {
    let inside = presented.split_once('(').and_then(|(_, inside)| inside.strip_suffix(')'));
    inside.unwrap_or(presented).trim_matches('"').to_owned()
}

fn of_alert(alert: Alert, identified: bool) -> (TlsFailure, String) {
    let said = || format!("the broker answered with the TLS alert {alert:?}");
    match (alert, identified) {
        // Java's brokers call a missing certificate a bad one.
        (Alert::CertificateRequired | Alert::NoCertificate, _) | (Alert::BadCertificate, false) => (
            TlsFailure::ClientCertificateMissing,
            format!("the broker wants a certificate of the client, and got none ({alert:?})"),
        ),
        (
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError,
            true,
        ) => (
            TlsFailure::ClientCertificateRefused,
            format!("the broker does not accept the certificate of the client ({alert:?})"),
        ),
        (Alert::ProtocolVersion | Alert::InsufficientSecurity | Alert::HandshakeFailure, _) => {
            (TlsFailure::NothingInCommon, said())
        }
        _ => (TlsFailure::Broken, said()),
    }
}
