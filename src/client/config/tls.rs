//! What settings say about TLS.

use std::path::PathBuf;

use super::ClientConfig;
use super::words::{HostCheck, SslRoots, TlsVersions};
use crate::runtime::tls::Versions;
use crate::runtime::tls::client::{Identity, Roots, Settings};
use crate::runtime::tls::material::{Input, Source};
use crate::runtime::tls::verifier::Checks;
use crate::settings::Problems;
use crate::types::Secret;

/// How TLS is spoken, or nothing where it is not; `problems` gets what does not go together.
pub(in crate::client) fn settings(config: &ClientConfig, problems: &mut Problems) -> Option<Settings> {
    let roots = inputs(
        [("ssl.ca.location", &config.ssl_ca_location)],
        ("ssl.ca.pem", &Secret::from(config.ssl_ca_pem.as_str())),
    );
    let certificate = one(
        ("ssl.certificate.location", &config.ssl_certificate_location),
        ("ssl.certificate.pem", &config.ssl_certificate_pem),
        problems,
    );
    let key =
        one(("ssl.key.location", &config.ssl_key_location), ("ssl.key.pem", &config.ssl_key_pem), problems);
    let none = Secret::from("");
    let store = one(("ssl.keystore.location", &config.ssl_keystore_location), ("", &none), problems);
    if !config.security_protocol.uses_tls() {
        let given = roots.iter().chain([&certificate, &key, &store].into_iter().flatten());
        for input in given {
            problems
                .add(input.setting, format!("is set, but security.protocol is {}", config.security_protocol));
        }
        return None;
    }
    let key_password = given(&config.ssl_key_password);
    let store_password = given(&config.ssl_keystore_password);
    let identity = match (certificate, key, store) {
        (None, None, None) => None,
        (Some(certificate), Some(key), None) => {
            Some(Identity::Apart { certificate, key, password: key_password })
        }
        (None, None, Some(input)) => Some(Identity::Store { input, store_password, key_password }),
        (Some(one), None, None) => {
            problems.add(one.setting, "needs the private key: set ssl.key.location or ssl.key.pem");
            None
        }
        (None, Some(one), None) => {
            problems.add(
                one.setting,
                "needs the certificate: set ssl.certificate.location or ssl.certificate.pem",
            );
            None
        }
        (_, _, Some(store)) => {
            problems
                .add(store.setting, "is set beside a certificate or a key of its own; use one of the two");
            None
        }
    };
    let checks = match (config.ssl_certificate_verification, config.ssl_endpoint_identification) {
        (false, _) => Checks::Nothing,
        (true, HostCheck::Nothing) => Checks::AnyHost,
        (true, HostCheck::Https) => Checks::All,
    };
    let roots = match config.ssl_roots {
        _ if !roots.is_empty() => Roots::Own { inputs: roots, password: given(&config.ssl_ca_password) },
        SslRoots::Usual => Roots::Usual,
        SslRoots::System => Roots::System,
        SslRoots::Bundled => Roots::Bundled,
    };
    let versions = match config.ssl_enabled_protocols {
        TlsVersions::Both => Versions::ALL,
        TlsVersions::Tls12 => Versions { tls12: true, tls13: false },
        TlsVersions::Tls13 => Versions { tls12: false, tls13: true },
    };
    let suites = config.ssl_cipher_suites.split([',', ':']).map(str::trim).filter(|name| !name.is_empty());
    Some(Settings { roots, identity, checks, versions, cipher_suites: suites.map(str::to_owned).collect() })
}

fn given(secret: &Secret) -> Option<Secret> {
    (!secret.expose().is_empty()).then(|| secret.clone())
}

fn inputs<'a>(
    files: impl IntoIterator<Item = (&'static str, &'a String)>,
    text: (&'static str, &Secret),
) -> Vec<Input> {
    let files = files.into_iter().filter(|(_, path)| !path.is_empty());
    let files =
        files.map(|(setting, path)| Input { setting, source: Source::File(PathBuf::from(path.as_str())) });
    let text = given(text.1).map(|content| Input { setting: text.0, source: Source::Text(content) });
    files.chain(text).collect()
}

/// A file or a text, and not both.
fn one(
    file: (&'static str, &String),
    text: (&'static str, &Secret),
    problems: &mut Problems,
) -> Option<Input> {
    let mut found = inputs([file], text);
    if found.len() > 1 {
        problems.add(text.0, format!("is set beside {}; use one of the two", file.0));
    }
    found.pop()
}
