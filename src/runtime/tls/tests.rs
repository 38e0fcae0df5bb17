//! Files that OpenSSL and `keytool` made, files that are none, and handshakes that end early.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::certificates::Authority;
use super::client::{Roots, Settings};
use super::material::{Input, Source};
use super::verifier::Checks;
use super::{ClientTls, ServerTls, TlsFailure, Versions, provider, restricted};
use crate::runtime::sim::SimRuntime;
use crate::runtime::{Runtime, Stream};
use crate::types::Secret;

fn file(name: &str) -> Input {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/runtime/tls/tests/keys"));
    Input { setting: "ssl.x", source: Source::File(path.join(name)) }
}

fn text(text: &str) -> Input {
    Input { setting: "ssl.x", source: Source::Text(Secret::from(text)) }
}

#[test]
fn stores_of_openssl_and_keytool_are_read() {
    let password = Secret::from("hunter2");
    let certificate = file("client.pem").certificates(None).unwrap();
    let key = file("encrypted.pem").key(Some(&password)).unwrap();
    assert!(file("sec1.pem").key(None).is_ok());
    let keys = provider::default().unwrap().key_provider;
    assert!(keys.load_private_key(key).is_ok());
    for name in ["modern.p12", "legacy.p12", "java.p12"] {
        let (chain, found) = file(name).identity(Some(&password), None).unwrap();
        assert_eq!(chain, certificate, "{name}");
        assert!(keys.load_private_key(found).is_ok(), "{name}");
    }
    assert_eq!(file("trust.p12").certificates(Some(&password)).unwrap(), certificate);
}

#[test]
fn what_is_wrong_with_a_file_is_told() {
    let (right, wrong) = (Secret::from("hunter2"), Secret::from("guessed"));
    let key = |input: Input, password: Option<&Secret>| input.key(password).unwrap_err().1;
    let certificates = |input: Input, password| input.certificates(password).unwrap_err().1;
    let identity = |name: &str, password| file(name).identity(password, None).unwrap_err().1;
    let pem = include_str!("tests/keys/client.pem");
    for (found, expected) in [
        (key(file("encrypted.pem"), None), "is encrypted, and ssl.key.password is not set"),
        (key(file("encrypted.pem"), Some(&wrong)), "is encrypted with another password"),
        (key(file("client.pem"), None), "holds no private key"),
        (key(file("modern.p12"), None), "name it as ssl.keystore.location"),
        (key(file(""), None), "is a directory; name a file"),
        (key(file("nothing.pem"), None), "there is no such file"),
        (identity("modern.p12", None), "is encrypted, and its password is not set"),
        (identity("legacy.p12", Some(&wrong)), "is encrypted with another password"),
        (identity("java.p12", Some(&wrong)), "is encrypted with another password"),
        (identity("trust.p12", Some(&right)), "is it a trust store?"),
        (identity("java.jks", Some(&right)), "java.jks.p12 -deststoretype PKCS12"),
        (identity("", Some(&right)), "is a directory; name a file"),
        (certificates(text(" \n"), None), "is empty"),
        (certificates(text("no certificate"), None), "is neither PEM nor PKCS #12"),
        (certificates(text(&pem[..300]), None), "-----END CERTIFICATE----- is missing"),
        (certificates(text(&pem.replacen("MII", "MIJ", 1)), None), "is damaged"),
        (certificates(file("sec1.pem"), None), "holds no certificate"),
        (certificates(file("java.jks"), None), "keytool -importkeystore"),
    ] {
        assert!(found.contains(expected), "{found:?} should say {expected:?}");
        assert!(!found.contains("hunter2") && !found.contains("guessed"), "{found}");
    }
    // Of a directory, the files that hold certificates count.
    assert_eq!(file("").certificates(None).unwrap().len(), 1);
}

#[test]
fn stores_that_are_cut_or_changed_are_refused() {
    let password = Secret::from("hunter2");
    for name in ["modern.p12", "legacy.p12", "trust.p12"] {
        let Source::File(path) = file(name).source else { continue };
        let whole = std::fs::read(path).unwrap();
        for length in (0..whole.len()).step_by(7) {
            assert!(super::pkcs12::open(&whole[..length], password.expose()).is_err(), "{name}: {length}");
        }
        for at in (0..whole.len()).step_by(11) {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            // Whatever comes of it, nothing panics.
            let _ = super::pkcs12::open(&changed, password.expose()).map(super::pkcs12::Store::identity);
        }
    }
}

#[test]
fn cipher_suites_have_the_names_of_java_and_openssl() {
    let named = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        restricted(provider::default().unwrap(), &names).map(|provider| provider.cipher_suites.len())
    };
    assert_eq!(
        named(&[
            "TLS_AES_256_GCM_SHA384",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_RSA_WITH_AES_128_CBC_SHA"
        ])
        .unwrap(),
        2
    );
    assert_eq!(named(&["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"]).unwrap(), 2);
    let (setting, what) = named(&["HIGH:!aNULL"]).unwrap_err();
    assert_eq!(setting, "ssl.cipher.suites");
    assert!(what.contains("HIGH:!aNULL; these are: TLS_"), "{what}");
}

/// Processors that graviola does not run on: in builds without optimisation it can be told that it is on one.
#[test]
fn a_processor_without_aes_is_told_what_to_do() {
    const HERE: &str = "CARAFE_TEST_WITHOUT_AES";
    if std::env::var_os(HERE).is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "runtime::tls::tests::a_processor_without_aes_is_told_what_to_do";
        let mut again = std::process::Command::new(this);
        let status =
            again.args(["--exact", name]).env(HERE, "1").env("GRAVIOLA_CPU_DISABLE_aes", "1").output();
        assert!(status.unwrap().status.success());
        return;
    }
    let error = provider::default().unwrap_err().to_string();
    for part in ["graviola", "crypto_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))"]
    {
        assert!(error.contains(part), "{error}");
    }
}

/// A stream of which so many bytes come through.
#[derive(Debug)]
struct Cut {
    inner: tokio::io::DuplexStream,
    left: usize,
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.left;
        if left == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut part = buffer.take(left);
        let polled = Pin::new(&mut self.inner).poll_read(context, &mut part);
        let read = part.filled().len();
        // As `take` documents, what was read is still to be counted in the buffer behind it.
        let filled = part.filled().to_vec();
        if polled.is_ready() && read > 0 {
            buffer.put_slice(&filled);
            self.left -= read;
        }
        polled
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl Stream for Cut {}

struct Bench {
    client: ClientTls,
    server: super::Acceptor,
}

impl Bench {
    async fn new(versions: Versions) -> Self {
        let runtime: Arc<dyn Runtime> = SimRuntime::new(1);
        let authority = Authority::new("ours");
        let pair = authority.issue("broker", &["localhost", "127.0.0.1"]);
        let settings = Settings {
            roots: Roots::Own { inputs: vec![text(&authority.certificate)], password: None },
            identity: None,
            checks: Checks::All,
            versions,
            cipher_suites: Vec::new(),
        };
        let client =
            ClientTls::new(settings, provider::default().unwrap(), Arc::clone(&runtime)).await.unwrap();
        let server = ServerTls::new(pair.certificate, pair.key).acceptor(runtime).unwrap();
        Self { client, server }
    }

    /// A handshake in which so many bytes reach the client and the server.
    async fn shake(&self, host: &str, to_client: usize, to_server: usize) -> Result<(), TlsFailure> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let near = Cut { inner: near, left: to_client };
        let far = Cut { inner: far, left: to_server };
        let client = self.client.connect(host, Box::new(near));
        let (client, _server) = tokio::join!(client, self.server.accept(Box::new(far)));
        client.map(drop).map_err(|refused| refused.failure)
    }
}

#[tokio::test]
async fn a_handshake_that_is_cut_at_any_byte_fails_and_the_next_one_does_not() {
    const ALL: usize = usize::MAX;
    for versions in [Versions { tls12: false, tls13: true }, Versions { tls12: true, tls13: false }] {
        let bench = Bench::new(versions).await;
        assert_eq!(bench.shake("localhost.", ALL, ALL).await, Ok(()), "a host may end with a dot");
        assert_eq!(bench.shake("127.0.0.1", ALL, ALL).await, Ok(()));
        assert_eq!(bench.shake("localhost:", ALL, ALL).await, Err(TlsFailure::WrongHost));
        // A session that is resumed needs fewer bytes than a new one: some 140 of the server in TLS 1.2.
        for bytes in (0..130).step_by(13) {
            assert_eq!(bench.shake("localhost", bytes, ALL).await, Err(TlsFailure::HungUp), "{bytes}");
        }
        for bytes in (0..130).step_by(13) {
            assert_eq!(bench.shake("localhost", ALL, bytes).await, Err(TlsFailure::HungUp), "{bytes}");
        }
        assert_eq!(bench.shake("localhost", ALL, ALL).await, Ok(()));
    }
}
