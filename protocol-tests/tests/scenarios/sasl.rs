//! Logging in by each mechanism, sessions that end, and what is said to those who may not come in: on the embedded cluster, and
//! on the listener that `CARAFE_TEST_SASL_BOOTSTRAP` names (`kafka start … --sasl`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use carafe::ErrorKind;
use carafe::broker::{Cluster, Control, SaslMechanism};
use carafe::client::Client;
use carafe::client::sasl::{Choice, OAuthBearer, Plain, Scram, Token};
use carafe::consumer::StartOffset;
use carafe::error::Chain;
use carafe::producer::Record;
use carafe::types::TopicPartition;
use tokio::time::Instant;

const USER: &str = "alice";
const PASSWORD: &str = "alice-secret";

struct Bench {
    servers: String,
    /// Of the embedded cluster alone.
    control: Option<Control>,
}

impl Bench {
    async fn client(&self, mechanism: impl Into<Choice>) -> Client {
        let builder = Client::builder().bootstrap_servers(self.servers.as_str()).sasl(mechanism);
        builder.build().await.expect("right settings")
    }
}

/// A token that nobody signed, as Kafka takes it unless it is told otherwise.
fn unsigned(user: &str) -> String {
    use base64::Engine as _;
    let encode = |json: String| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let payload = format!(r#"{{"sub":"{user}","iat":{now},"exp":{}}}"#, now + 3_600);
    format!("{}.{}.", encode(r#"{"alg":"none"}"#.to_owned()), encode(payload))
}

async fn produce_and_read(client: &Client, topic: &str, lasting: Duration) {
    let producer = client.producer().build().expect("right settings");
    let (begun, mut count) = (Instant::now(), 0);
    while count < 20 || begun.elapsed() < lasting {
        producer.send(Record::to(topic).partition(0).value(count.to_string())).await.expect("written");
        count += 1;
    }
    let partition = TopicPartition::new(topic, 0);
    let reader = client.partition_reader().partition(partition, StartOffset::Earliest).build().await;
    let (reader, mut read) = (reader.expect("a reader"), 0);
    while read < count {
        for record in &reader.next().await.expect("a batch") {
            assert_eq!(record.value, Some(read.to_string().as_bytes()));
            read += 1;
        }
    }
}

/// Sessions of PLAIN last for two seconds: they are renewed while records are sent.
async fn who_may_come_in(bench: &Bench, lasting: Duration) {
    let token = unsigned(USER);
    if let Some(control) = &bench.control {
        control.set_token(&token, USER, None);
    }
    let choices: [(&str, Choice, Duration); 4] = [
        ("plain", Plain::new(USER, PASSWORD).into(), lasting),
        ("scram-sha-256", Scram::sha_256(USER, PASSWORD).into(), Duration::ZERO),
        ("scram-sha-512", Scram::sha_512(USER, PASSWORD).into(), Duration::ZERO),
        ("oauthbearer", OAuthBearer::new(Token::new(token)).into(), Duration::ZERO),
    ];
    for (name, choice, lasting) in choices {
        let topic = format!("carafe-test-{name}-{:08x}", fastrand::u32(..));
        produce_and_read(&bench.client(choice).await, &topic, lasting).await;
    }
}

async fn who_may_not(bench: &Bench) {
    let choices: [(Choice, &str); 4] = [
        (Plain::new(USER, "guessed").into(), "PLAIN was refused by the broker: SASL_AUTHENTICATION_FAILED"),
        (Scram::sha_256(USER, "guessed").into(), "SCRAM-SHA-256 was refused by the broker"),
        (Scram::sha_512("nobody", PASSWORD).into(), "SCRAM-SHA-512 was refused by the broker"),
        (OAuthBearer::new(Token::new("unknown")).into(), "OAUTHBEARER was refused by the broker"),
    ];
    for (choice, expected) in choices {
        let error = bench.client(choice).await.ready(Duration::from_secs(2)).await.expect_err("refused");
        let text = Chain(&error).to_string();
        assert!(text.contains(expected) && text.contains("check user, password"), "{text}");
        assert!(!text.contains("guessed") && !text.contains(PASSWORD), "{text}");
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Authentication), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    let mechanisms = [
        SaslMechanism::Plain,
        SaslMechanism::ScramSha256,
        SaslMechanism::ScramSha512,
        SaslMechanism::OAuthBearer,
    ];
    let builder = Cluster::builder().nodes(2).sasl(mechanisms).user(USER, PASSWORD);
    let cluster = builder.start().await.expect("started");
    let bench = Bench { servers: cluster.bootstrap_servers(), control: Some(cluster.control()) };
    who_may_come_in(&bench, Duration::ZERO).await;
    who_may_not(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka() {
    let Ok(servers) = std::env::var("CARAFE_TEST_SASL_BOOTSTRAP") else { return };
    let bench = Bench { servers, control: None };
    who_may_come_in(&bench, Duration::from_secs(7)).await;
    who_may_not(&bench).await;
}
