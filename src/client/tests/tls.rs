//! TLS between a client and the embedded cluster: what works, and what is said where it does not.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, advance};

use crate::broker::{Cluster, Listener, ServerTls};
use crate::client::config::{HostCheck, TlsVersions};
use crate::client::{Client, ClientConfig, ConditionKind, TlsFailure};
use crate::consumer::StartOffset;
use crate::error::Phase;
use crate::producer::Record;
use crate::runtime::Runtime;
use crate::runtime::sim::SimRuntime;
use crate::runtime::tls::certificates::{Authority, Pair};
use crate::types::{SecurityProtocol, TopicPartition};
use crate::{Error, ErrorKind, Result};

const HERE: &[&str] = &["localhost", "127.0.0.1"];

/// A cluster with a listener for each case, all with certificates of one authority.
struct Bench {
    sim: Arc<SimRuntime>,
    broker: Cluster,
    authority: Authority,
    /// What vouches for itself.
    itself: Pair,
}

impl Bench {
    async fn new() -> Self {
        let sim = SimRuntime::new(5);
        let authority = Authority::new("ours");
        let server = |pair: Pair| ServerTls::new(pair.certificate, pair.key);
        let good = || server(authority.issue("broker", HERE));
        let itself = Authority::itself("broker", &["localhost"]);
        let of_itself = ServerTls::new(itself.certificate.clone(), itself.key.clone());
        let listener = |name: &str, tls| Listener::new(name).advertised_host("localhost").tls(tls);
        let builder = Cluster::builder()
            .topic("t", 1)
            .listener(listener("SSL", good()))
            .listener(listener("TLS12", good().only_tls12()))
            .listener(listener("MTLS", good().client_authorities(authority.certificate.clone())))
            .listener(listener(
                "MTLS12",
                good().only_tls12().client_authorities(authority.certificate.clone()),
            ))
            .listener(listener("EXPIRED", server(authority.issue_for("broker", HERE, (2010, 2020)))))
            .listener(listener("FUTURE", server(authority.issue_for("broker", HERE, (2050, 2090)))))
            .listener(listener("OTHER", server(authority.issue("broker", &["kafka.example", "10.1.2.3"]))))
            .listener(listener("ITSELF", of_itself));
        let broker = builder.runtime(sim.clone()).start().await.unwrap();
        Self { sim, broker, authority, itself }
    }

    fn config(&self, listener: &str) -> ClientConfig {
        ClientConfig::new()
            .bootstrap_servers(self.broker.bootstrap_servers_of(listener))
            .security_protocol(SecurityProtocol::Ssl)
            .ssl_ca_pem(self.authority.certificate.as_str())
    }

    fn identified(&self, listener: &str, authority: &Authority) -> ClientConfig {
        let pair = authority.issue("client", &[]);
        self.config(listener).ssl_certificate_pem(pair.certificate).ssl_key_pem(pair.key)
    }

    async fn client(&self, config: ClientConfig) -> Result<Client> {
        Client::builder().config(config).runtime(self.sim.clone()).build().await
    }

    /// Why a client with these settings gets no answer.
    async fn refused(&self, config: ClientConfig) -> Error {
        let asked: Result<()> = async {
            let client = self.client(config.api_timeout(Duration::from_secs(5))).await?;
            client.ready(Duration::from_secs(5)).await
        }
        .await;
        asked.unwrap_err()
    }
}

/// All that `docs/errors.md` has about TLS, in its order.
pub(super) async fn provoked() -> Vec<Error> {
    let bench = Bench::new().await;
    let plain =
        |listener| bench.config(listener).security_protocol(SecurityProtocol::Plaintext).ssl_ca_pem("");
    let stranger = Authority::new("theirs");
    let http = bench.sim.listen("127.0.0.1", 8080).await.unwrap();
    let server = async move {
        while let Ok((mut stream, _)) = http.accept().await {
            let _ = stream.read_u8().await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
        }
    };
    let _task = bench.sim.spawn("http", Box::pin(server)).abort_on_drop();
    let mut errors = Vec::new();
    let mut add = async |config, expected| {
        let error = bench.refused(config).await;
        assert_eq!(TlsFailure::of(&error), expected, "{}", crate::error::Chain(&error));
        errors.push(error);
    };
    add(plain("SSL"), None).await;
    add(bench.config("PLAINTEXT"), Some(TlsFailure::HungUp)).await;
    add(bench.config("SSL").bootstrap_servers("127.0.0.1:8080"), Some(TlsFailure::NotTls)).await;
    let untrusted = bench.config("SSL").ssl_ca_pem(stranger.certificate.as_str());
    add(untrusted, Some(TlsFailure::UnknownAuthority)).await;
    add(bench.config("EXPIRED"), Some(TlsFailure::Expired)).await;
    add(bench.config("FUTURE"), Some(TlsFailure::NotYetValid)).await;
    add(bench.config("OTHER"), Some(TlsFailure::WrongHost)).await;
    add(bench.config("MTLS"), Some(TlsFailure::ClientCertificateMissing)).await;
    add(bench.identified("MTLS", &stranger), Some(TlsFailure::ClientCertificateRefused)).await;
    let new = bench.config("TLS12").ssl_enabled_protocols(TlsVersions::Tls13);
    add(new, Some(TlsFailure::NothingInCommon)).await;
    add(bench.config("SSL").ssl_cipher_suites("TLS_RSA_WITH_AES_128_CBC_SHA"), None).await;
    add(bench.config("SSL").ssl_ca_pem("").ssl_ca_location("/nonexistent/ca.pem"), None).await;
    add(bench.config("SSL").ssl_ca_pem("-----BEGIN CERTIFICATE-----\nMIIB"), None).await;
    add(bench.config("SSL").ssl_ca_pem("ca.pem"), None).await;
    let with = |key: &str| bench.identified("MTLS", &bench.authority).ssl_key_pem(key);
    let sealed = include_str!("../../runtime/tls/tests/keys/encrypted.pem");
    add(with(sealed), None).await;
    add(with(sealed).ssl_key_password("guessed"), None).await;
    add(with(sealed).ssl_key_password("hunter2"), None).await;
    add(with("").ssl_key_location("/"), None).await;
    add(with(""), None).await;
    add(bench.config("SSL").security_protocol(SecurityProtocol::Plaintext), None).await;
    errors
}

/// Produces and reads one record.
async fn talks(client: &Client, value: &str) {
    let producer = client.producer().build().unwrap();
    let written = producer.send(Record::to("t").value(value)).await.unwrap();
    let reader = client.partition_reader();
    let partition = TopicPartition::new("t", 0);
    let start = StartOffset::At(written.offset.expect("it has one"));
    let reader = reader.partition(partition, start).build().await.unwrap();
    let batch = reader.next().await.unwrap();
    let read = batch.iter().next().unwrap();
    assert_eq!(read.value, Some(value.as_bytes()));
}

#[tokio::test(start_paused = true)]
async fn records_go_over_tls_however_it_is_set_up() {
    let bench = Bench::new().await;
    let mine = |listener| bench.identified(listener, &bench.authority);
    for config in [
        bench.config("SSL"),
        bench.config("TLS12"),
        mine("MTLS"),
        mine("MTLS12"),
        bench.config("ITSELF").ssl_ca_pem(bench.itself.certificate.as_str()),
        bench.config("OTHER").ssl_endpoint_identification(HostCheck::Nothing),
        bench.config("EXPIRED").ssl_certificate_verification(false).ssl_ca_pem(""),
        bench.config("SSL").ssl_cipher_suites("TLS_AES_256_GCM_SHA384,TLS_CHACHA20_POLY1305_SHA256"),
    ] {
        let what = format!("{config:?}");
        assert!(!what.contains("PRIVATE KEY"), "{what}");
        let client = bench.client(config).await.unwrap();
        talks(&client, &what).await;
    }
}

/// With TLS 1.2 the refusal comes within the handshake, with 1.3 behind it; it is the same.
#[tokio::test(start_paused = true)]
async fn a_missing_certificate_is_told_whatever_the_version() {
    let bench = Bench::new().await;
    for (config, expected) in [
        (bench.config("MTLS12"), TlsFailure::ClientCertificateMissing),
        (bench.identified("MTLS12", &Authority::new("theirs")), TlsFailure::ClientCertificateRefused),
        (bench.config("OTHER").ssl_endpoint_identification(HostCheck::Https), TlsFailure::WrongHost),
    ] {
        let error = bench.refused(config).await;
        assert_eq!(TlsFailure::of(&error), Some(expected), "{}", crate::error::Chain(&error));
        assert_eq!((error.phase(), error.kind()), (Some(Phase::Tls), ErrorKind::Timeout));
    }
}

struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("carafe-tls-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn files_that_change_are_read_again_and_bad_ones_are_not_used() {
    let bench = Bench::new().await;
    let files = Files::new();
    let stranger = Authority::new("someone else, with a longer name");
    let ca = files.write("ca.pem", &stranger.certificate);
    let config = bench.config("SSL").ssl_ca_pem("").ssl_ca_location(ca);
    let client = bench.client(config.connections_max_idle(Duration::from_secs(1))).await.unwrap();
    let error = client.ready(Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(TlsFailure::of(&error), Some(TlsFailure::UnknownAuthority));

    files.write("ca.pem", &bench.authority.certificate);
    client.ready(Duration::from_secs(10)).await.unwrap();
    talks(&client, "with the new one").await;

    // New connections go on with what was good, and it is told.
    files.write("ca.pem", "-----BEGIN CERTIFICATE-----\ncut off");
    let told = Instant::now();
    while !client.conditions().iter().any(|condition| condition.kind == ConditionKind::StaleCertificates) {
        advance(Duration::from_secs(2)).await;
        client.ready(Duration::from_secs(10)).await.unwrap();
        talks(&client, "with the old one").await;
        assert!(told.elapsed() < Duration::from_secs(600), "{:?}", client.conditions());
    }
    let conditions = client.conditions();
    let stale = conditions.iter().find(|condition| condition.kind == ConditionKind::StaleCertificates);
    let text = stale.unwrap().error.to_string();
    assert!(text.contains("ca.pem: is cut off: -----END CERTIFICATE----- is missing"), "{text}");

    files.write("ca.pem", &bench.authority.certificate.replace('\n', "\r\n"));
    while !client.conditions().is_empty() {
        advance(Duration::from_secs(2)).await;
        talks(&client, "with the newest one").await;
        assert!(told.elapsed() < Duration::from_secs(1200), "{:?}", client.conditions());
    }
}
