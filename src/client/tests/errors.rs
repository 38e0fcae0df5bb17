//! `docs/errors.md`: what is said is provoked here, one by one, and the page is held to it.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::{Action, Cluster, Listener, Matcher, SaslMechanism};
use crate::client::sasl::{FileToken, OAuthBearer, Oidc, Plain, Scram, Token};
use crate::client::{Client, ClientConfig};
use crate::error::Chain;
use crate::runtime::sim::SimRuntime;
use crate::types::SecurityProtocol;
use crate::wire::ApiKey;
use crate::{Error, Result};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");

struct Bench {
    sim: Arc<SimRuntime>,
    broker: Cluster,
}

impl Bench {
    async fn new() -> Self {
        let sim = SimRuntime::new(5);
        let mechanisms = [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::OAuthBearer];
        let builder =
            Cluster::builder().sasl(mechanisms).user("alice", "secret").listener(Listener::new("OPEN"));
        Self { broker: builder.runtime(sim.clone()).start().await.unwrap(), sim }
    }

    /// Why a client with these settings cannot list topics.
    async fn refused(&self, config: ClientConfig) -> Error {
        let asked: Result<()> = async {
            let config = config.api_timeout(Duration::from_secs(5));
            let client = Client::builder().config(config).runtime(self.sim.clone()).build().await?;
            client.ready(Duration::from_secs(5)).await?;
            client.admin().list_topics().await.map(drop)
        }
        .await;
        asked.unwrap_err()
    }

    fn config(&self) -> ClientConfig {
        ClientConfig::new().bootstrap_servers(self.broker.bootstrap_servers())
    }

    fn open(&self) -> ClientConfig {
        ClientConfig::new().bootstrap_servers(self.broker.bootstrap_servers_of("OPEN"))
    }
}

/// All of them, in the order of the page.
async fn provoked() -> Vec<Error> {
    let bench = Bench::new().await;
    let control = bench.broker.control();
    let plain = || Plain::new("alice", "secret");
    let config = || bench.config().sasl_mechanism(plain());
    let oauth = |login| bench.config().sasl_mechanism(login);
    let mut errors = Vec::new();
    let mut add = async |config| errors.push(bench.refused(config).await);
    add(bench.config().bootstrap_servers("nowhere.invalid:9092")).await;
    add(bench.config().bootstrap_servers("127.0.0.1:1")).await;
    add(bench.config()).await;
    add(bench.open().sasl_mechanism(plain())).await;
    add(bench.config().sasl_mechanism(Scram::sha_512("alice", "secret"))).await;
    add(bench.config().sasl_mechanism(Plain::new("alice", "guessed"))).await;
    add(bench.config().sasl_mechanism(Scram::sha_256("alice", "guessed"))).await;
    add(oauth(OAuthBearer::new(Token::new("unknown")))).await;
    add(oauth(OAuthBearer::new(Token::new("not a token")))).await;
    add(oauth(OAuthBearer::new(FileToken::new("/nonexistent/token")))).await;
    let provider = Oidc::client_credentials("http://127.0.0.1:1/token", "id", "secret");
    add(oauth(OAuthBearer::new(provider.unwrap()))).await;
    let silent = control.intercept(Matcher::api(ApiKey::SASL_AUTHENTICATE), Action::DropRequest);
    add(config()).await;
    silent.remove();
    let named =
        |name: &str| bench.config().security_protocol(SecurityProtocol::SaslPlaintext).sasl_mechanism(name);
    add(named("")).await;
    add(named("GSSAPI")).await;
    add(named("CRAM-MD5")).await;
    add(named("PLAIN").sasl_username("alice")).await;
    add(named("PLAIN")
        .sasl_username("alice")
        .sasl_password("x")
        .security_protocol(SecurityProtocol::Plaintext))
    .await;
    add(named("PLAIN").sasl_jaas_config("com.sun.security.auth.module.Krb5LoginModule required;")).await;
    #[cfg(feature = "tls")]
    errors.extend(super::tls::provoked().await);
    errors
}

/// Without addresses, which differ each time.
fn row(error: &Error) -> String {
    // The innermost error knows the phase.
    let mut phase = error.phase();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        phase = cause.downcast_ref::<Error>().and_then(Error::phase).or(phase);
        source = cause.source();
    }
    let advice = error.advice().unwrap_or_default();
    let text = Chain(error).to_string();
    let text = text.strip_suffix(advice).map_or(&*text, |text| text.trim_end_matches("; "));
    let text: Vec<_> = text.split(' ').map(|word| if is_address(word) { "…" } else { word }).collect();
    let plain = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let phase = phase.map_or("settings".to_owned(), |phase| format!("{phase:?}").to_lowercase());
    format!("| {} | {phase} | {:?} | {} |", plain(&text.join(" ")), error.kind(), plain(advice))
}

fn is_address(word: &str) -> bool {
    let word = word.trim_matches(|c: char| matches!(c, '(' | ')' | ',' | ':' | ';'));
    word.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

#[tokio::test(start_paused = true)]
async fn the_page_says_what_is_said() {
    let found = std::fs::read_to_string(FILE).unwrap();
    let head = found.split_inclusive("|---|---|---|---|\n").next().unwrap();
    let mut expected = head.to_owned();
    for error in provoked().await {
        assert!(!format!("{error:?}").contains("secret:") && !Chain(&error).to_string().contains("guessed"));
        let _ = writeln!(expected, "{}", row(&error));
    }
    if std::env::var_os("CARAFE_TEST_UPDATE_DOCS").is_some() {
        std::fs::write(FILE, &expected).unwrap();
        return;
    }
    assert!(found == expected, "docs/errors.md is not what is said; CARAFE_TEST_UPDATE_DOCS=1 rewrites it");
}
