//! Logging in to the embedded cluster, and what is said where that fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::broker::{Action, Cluster, ClusterBuilder, Listener, Matcher, SaslMechanism};
use crate::client::sasl::{Choice, Plain};
#[cfg(feature = "sasl")]
use crate::client::sasl::{OAuthBearer, Scram, Token, TokenProvider};
use crate::client::{Client, ClientConfig};
use crate::consumer::StartOffset;
use crate::error::{Chain, Phase};
use crate::producer::Record;
use crate::runtime::sim::SimRuntime;
#[cfg(feature = "sasl")]
use crate::runtime::{BoxFuture, Runtime};
use crate::types::{SecurityProtocol, TopicPartition};
use crate::wire::ApiKey;
use crate::{Error, ErrorKind};

const CANARY: &str = "hunter2-canary";

struct Bench {
    sim: Arc<SimRuntime>,
    broker: Cluster,
}

impl Bench {
    async fn new(builder: ClusterBuilder) -> Self {
        let sim = SimRuntime::new(5);
        let broker = builder.user("alice", CANARY).topic("t", 5).runtime(sim.clone()).start().await.unwrap();
        Self { sim, broker }
    }

    async fn offering(mechanisms: impl IntoIterator<Item = SaslMechanism>) -> Self {
        Self::new(Cluster::builder().sasl(mechanisms)).await
    }

    fn config(&self) -> ClientConfig {
        ClientConfig::new().bootstrap_servers(self.broker.bootstrap_servers())
    }

    async fn client(&self, mechanism: impl Into<Choice>) -> Client {
        let builder = Client::builder().config(self.config()).sasl(mechanism);
        builder.runtime(self.sim.clone()).build().await.unwrap()
    }

    /// Why a client cannot get in, within so many seconds.
    async fn refused(&self, client: &Client, seconds: u64) -> Error {
        client.ready(Duration::from_secs(seconds)).await.unwrap_err()
    }
}

/// To a partition that nobody else uses.
async fn produce_and_read(client: &Client, partition: i32, count: usize) {
    let producer = client.producer().build().unwrap();
    for number in 0..count {
        producer.send(Record::to("t").partition(partition).value(number.to_string())).await.unwrap();
    }
    let partition = TopicPartition::new("t", partition);
    let reader = client.partition_reader().partition(partition, StartOffset::Earliest).build().await.unwrap();
    let mut read = 0;
    while read < count {
        read += reader.next().await.unwrap().len();
    }
    assert_eq!(read, count);
}

#[tokio::test(start_paused = true)]
async fn a_client_logs_in_by_each_mechanism() {
    let bench = Bench::offering([
        SaslMechanism::Plain,
        SaslMechanism::ScramSha256,
        SaslMechanism::ScramSha512,
        SaslMechanism::OAuthBearer,
    ])
    .await;
    let mut choices = vec![Choice::from(Plain::new("alice", CANARY))];
    #[cfg(feature = "sasl")]
    choices.extend([Scram::sha_256("alice", CANARY), Scram::sha_512("alice", CANARY)].map(Choice::from));
    for (partition, choice) in (0..).zip(choices) {
        let client = bench.client(choice).await;
        produce_and_read(&client, partition, 10).await;
        assert!(bench.broker.control().connected_users()["alice"] >= 2);
    }
    #[cfg(feature = "sasl")]
    {
        bench.broker.control().set_token("t-canary", "bob", None);
        let client = bench.client(OAuthBearer::new(Token::new("t-canary")).extension("pool", "p 1")).await;
        produce_and_read(&client, 3, 10).await;
        assert!(bench.broker.control().connected_users()["bob"] >= 2);
    }
    let config = bench.config().security_protocol(SecurityProtocol::SaslPlaintext);
    let config = config.sasl_mechanism("PLAIN").sasl_username("alice").sasl_password(CANARY);
    let client = Client::builder().config(config).runtime(bench.sim.clone()).build().await.unwrap();
    produce_and_read(&client, 4, 1).await;
    assert_eq!(bench.broker.control().logins().refused, 0);
}

/// One attempt per back-off, however many wait: an account is not locked by us.
#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_told_once_and_causes_no_storm() {
    let bench = Bench::offering([SaslMechanism::Plain]).await;
    let client = bench.client(Plain::new("alice", "wrong-canary")).await;
    let begun = Instant::now();
    let producer = client.producer().build().unwrap();
    let admin = client.admin();
    let (ready, sent, listed) = tokio::join!(
        client.ready(Duration::from_secs(60)),
        producer.send(Record::to("t").value("x")),
        admin.list_topics()
    );
    for text in [ready.unwrap_err(), sent.map(drop).unwrap_err().into(), listed.map(drop).unwrap_err()] {
        let text = Chain(&text).to_string();
        for part in
            ["PLAIN was refused by the broker", "Invalid username or password", "check user, password"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("canary"), "{text}");
    }
    sleep(Duration::from_secs(120)).await;
    let refused = bench.broker.control().logins().refused;
    // 50 ms to 5 s, doubling: seven attempts in the first ten seconds, then one each five.
    let most = 8 + begun.elapsed().as_secs() / 4;
    assert!((1..=most).contains(&refused), "{refused} attempts in {:?}", begun.elapsed());
    // Whoever mends it need not start anew.
    bench.broker.control().set_user("alice", "wrong-canary");
    client.ready(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listener_with_sasl_and_one_without_are_told_apart() {
    let bench =
        Bench::new(Cluster::builder().sasl([SaslMechanism::ScramSha256]).listener(Listener::new("PLAIN")))
            .await;
    let plain = bench.broker.bootstrap_servers_of("PLAIN");
    for (config, expected) in [
        (bench.config(), "the listener expects SASL: set security.protocol and sasl.mechanism"),
        (
            bench.config().bootstrap_servers(plain).sasl_mechanism(Plain::new("alice", CANARY)),
            "the listener does not authenticate: set security.protocol to PLAINTEXT",
        ),
        (
            bench.config().sasl_mechanism(Plain::new("alice", CANARY)),
            "the broker does not offer PLAIN, only SCRAM-SHA-256",
        ),
    ] {
        let client = Client::builder().config(config).runtime(bench.sim.clone()).build().await.unwrap();
        let admin = client.admin();
        let error = match client.ready(Duration::from_secs(5)).await {
            Err(error) => error,
            Ok(()) => admin.list_topics().await.map(drop).unwrap_err(),
        };
        let text = Chain(&error).to_string();
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}

/// A session of two seconds under load, and no request is lost or answered twice.
#[tokio::test(start_paused = true)]
async fn sessions_are_renewed_under_load() {
    let builder = Cluster::builder().sasl([SaslMechanism::Plain]).session_max(Duration::from_secs(2));
    let bench = Bench::new(builder).await;
    let client = bench.client(Plain::new("alice", CANARY)).await;
    let producer = client.producer().build().unwrap();
    let partition = TopicPartition::new("t", 0);
    let reader = client.partition_reader().partition(partition, StartOffset::Earliest).build().await.unwrap();
    let count = 1_500;
    let sending = async {
        for number in 0..count {
            let record = Record::to("t").partition(0).value(number.to_string());
            producer.send(record).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    };
    let reading = async {
        let mut read = Vec::new();
        while read.len() < count {
            for record in &reader.next().await.unwrap() {
                read.push(String::from_utf8_lossy(record.value.unwrap()).parse::<usize>().unwrap());
            }
        }
        read
    };
    let ((), read) = tokio::join!(sending, reading);
    assert!(read.iter().copied().eq(0..count), "in order, each once");
    let logins = bench.broker.control().logins();
    assert!(logins.renewed >= 14, "{logins:?}");
    assert_eq!((logins.refused, logins.closed), (0, 0), "{logins:?}");
}

/// With acks=0 nothing is answered, and the session is renewed all the same.
#[tokio::test(start_paused = true)]
async fn sessions_are_renewed_where_nothing_is_answered() {
    let builder = Cluster::builder().sasl([SaslMechanism::Plain]).session_max(Duration::from_secs(2));
    let bench = Bench::new(builder).await;
    let client = bench.client(Plain::new("alice", CANARY)).await;
    let config =
        crate::producer::ProducerConfig::new().acks(crate::producer::Acks::None).enable_idempotence(false);
    let producer = client.producer().config(config).build().unwrap();
    for number in 0..500 {
        producer.send(Record::to("t").partition(0).value(number.to_string())).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.broker.log("t", 0).len(), 500);
    assert!(bench.broker.control().logins().renewed >= 4);
}

/// Tokens that end renew the session ahead of that, and one that the broker does not know is told with its reason.
#[cfg(feature = "sasl")]
#[tokio::test(start_paused = true)]
async fn tokens_are_renewed_with_the_session() {
    #[derive(Debug)]
    struct Office(crate::broker::Control, Duration);

    impl TokenProvider for Office {
        fn token<'a>(&'a self, runtime: &'a Arc<dyn Runtime>) -> BoxFuture<'a, crate::Result<Token>> {
            Box::pin(async move {
                let token = format!("canary-{}", runtime.random());
                self.0.set_token(&token, "alice", Some(self.1));
                Ok(Token::new(token).with_expires_at(runtime.wall_clock() + self.1))
            })
        }
    }

    let bench = Bench::offering([SaslMechanism::OAuthBearer]).await;
    let control = bench.broker.control();
    let client = bench.client(OAuthBearer::new(Office(control.clone(), Duration::from_secs(100)))).await;
    let producer = client.producer().build().unwrap();
    for number in 0..1_000 {
        producer.send(Record::to("t").partition(0).value(number.to_string())).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let logins = control.logins();
    assert!(logins.renewed >= 10 && logins.refused == 0 && logins.closed == 0, "{logins:?}");
    let stranger = bench.client(OAuthBearer::new(Token::new("canary"))).await;
    let text = Chain(&bench.refused(&stranger, 5).await).to_string();
    assert!(
        text.contains("OAUTHBEARER was refused by the broker") && text.contains("invalid_token"),
        "{text}"
    );
    assert!(!text.contains("canary"), "{text}");
}

/// A broker that does not answer a login costs what any silence costs; the next attempt works.
#[tokio::test(start_paused = true)]
async fn a_login_that_is_not_answered_is_told_as_one() {
    let bench = Bench::offering([SaslMechanism::Plain]).await;
    let silent =
        bench.broker.control().intercept(Matcher::api(ApiKey::SASL_AUTHENTICATE), Action::DropAnswer);
    let client = bench.client(Plain::new("alice", CANARY)).await;
    let error = bench.refused(&client, 5).await;
    let text = Chain(&error).to_string();
    assert!(text.contains("hung up during authentication"), "{text}");
    assert!(error.kind() == ErrorKind::Timeout || error.phase() == Some(Phase::Sasl), "{error:?}");
    silent.remove();
    client.ready(Duration::from_secs(30)).await.unwrap();
}

/// Nothing that is logged, told as a condition or said in a panic has a secret, whatever happens to it.
#[cfg(feature = "cli")]
#[tokio::test(start_paused = true)]
async fn canaries_are_not_logged() {
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            crate::sync::lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let builder = Cluster::builder().sasl([
        SaslMechanism::Plain,
        SaslMechanism::ScramSha256,
        SaslMechanism::OAuthBearer,
    ]);
    let bench = Bench::new(builder.session_max(Duration::from_secs(2))).await;
    let control = bench.broker.control();
    control.set_token("token-canary", "alice", Some(Duration::from_secs(3)));
    let mut seen = String::new();
    for choice in [
        Choice::from(Plain::new("alice", CANARY)),
        Scram::sha_256("alice", CANARY).into(),
        OAuthBearer::new(Token::new("token-canary")).into(),
        Plain::new("alice", "wrong-canary").into(),
        Scram::sha_256("alice", "wrong-canary").into(),
        OAuthBearer::new(Token::new("wrong-canary")).into(),
    ] {
        let client = bench.client(choice).await;
        let ready = client.ready(Duration::from_secs(8)).await;
        sleep(Duration::from_secs(8)).await;
        seen.push_str(&format!("{ready:?} {ready:#?} {:?} {client:?}", client.conditions()));
    }
    drop(guard);
    let logged = String::from_utf8_lossy(&crate::sync::lock(&log.0)).into_owned();
    assert!(logged.contains("connection"), "{logged}");
    for text in [seen, logged, format!("{:?} {control:?}", bench.broker)] {
        assert!(!text.contains("canary"), "{text}");
    }
}

/// No secret in anything that prints.
#[tokio::test(start_paused = true)]
async fn canaries_are_not_seen() {
    let config = ClientConfig::new()
        .bootstrap_servers("a:1")
        .security_protocol(SecurityProtocol::SaslPlaintext)
        .sasl_mechanism("PLAIN")
        .sasl_username("alice")
        .sasl_password(CANARY)
        .sasl_jaas_config(CANARY);
    let builder = Client::builder().config(config.clone()).sasl(Plain::new("alice", CANARY));
    let cluster = Cluster::builder().user("alice", CANARY);
    let mut seen = format!("{config:?} {config:#?} {builder:?} {builder:#?} {cluster:?}");
    for name in ["sasl.password", "sasl.jaas.config", "sasl.mechanism", "sasl.username"] {
        seen.push_str(&config.get(name).unwrap_or_default());
    }
    seen.push_str(&config.problems().join("\n"));
    let sim = SimRuntime::new(5);
    let client = builder.runtime(sim).build().await.unwrap();
    seen.push_str(&format!("{client:?} {client:#?}"));
    assert!(seen.contains("alice") && !seen.contains("canary"), "{seen}");
}
