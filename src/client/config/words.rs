//! Settings of TLS whose values are words.

use crate::settings::Words;

/// Which authorities are trusted where none are named. `ssl.roots`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SslRoots {
    /// Those of the operating system, and the bundled ones where it has none, as in an empty container. `default`.
    #[default]
    Usual,
    /// Those of the operating system: on Linux the usual bundles, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name. `system`.
    System,
    /// Mozilla's list, as it was when this version of carafe was made. `bundled`.
    Bundled,
}

impl Words for SslRoots {
    const SETTING: &'static str = "ssl.roots";
    const WORDS: &'static [(&'static str, Self)] =
        &[("default", Self::Usual), ("system", Self::System), ("bundled", Self::Bundled)];
}

/// Whether the broker's certificate must be for the host that we connect to. `ssl.endpoint.identification.algorithm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HostCheck {
    /// It must. `https`.
    #[default]
    Https,
    /// Any certificate of the trusted authorities will do. `none`, or nothing, as Java says it.
    Nothing,
}

impl Words for HostCheck {
    const SETTING: &'static str = "ssl.endpoint.identification.algorithm";
    const WORDS: &'static [(&'static str, Self)] = &[("https", Self::Https), ("none", Self::Nothing)];
}

/// As it is written in properties: Java has it empty where there is no check.
pub(super) fn host_check(text: &str) -> Option<HostCheck> {
    if text.is_empty() { Some(HostCheck::Nothing) } else { HostCheck::of(text) }
}

/// Versions of TLS. `ssl.enabled.protocols`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TlsVersions {
    /// TLS 1.2 and 1.3.
    #[default]
    Both,
    /// TLS 1.2 alone.
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

impl Words for TlsVersions {
    const SETTING: &'static str = "ssl.enabled.protocols";
    const WORDS: &'static [(&'static str, Self)] =
        &[("TLSv1.2,TLSv1.3", Self::Both), ("TLSv1.2", Self::Tls12), ("TLSv1.3", Self::Tls13)];
}

/// As it is written in properties: a list, in which older versions may stand that nobody should speak any more.
pub(super) fn tls_versions(text: &str) -> Option<TlsVersions> {
    let has = |version: &str| text.split(',').any(|word| word.trim().eq_ignore_ascii_case(version));
    match (has("TLSv1.2"), has("TLSv1.3")) {
        (true, true) => Some(TlsVersions::Both),
        (true, false) => Some(TlsVersions::Tls12),
        (false, true) => Some(TlsVersions::Tls13),
        (false, false) => None,
    }
}
