//! All settings at once, from properties and the environment.

use super::ClientConfig;
use crate::Result;
use crate::consumer::ConsumerConfig;
use crate::producer::ProducerConfig;
use crate::settings::load::Given;
use crate::settings::{Kind, Problems, Row, Table};
use crate::types::GroupId;

/// Settings of a client, of its producers and of its consumers, as properties give them.
///
/// ```
/// # async fn example() -> carafe::Result<()> {
/// use carafe::client::{Client, config::ClientSettings};
///
/// let settings = ClientSettings::from_properties([
///     ("bootstrap.servers", "localhost:9092"),
///     ("linger.ms", "10"),
///     ("group.id", "shop"),
/// ])?;
/// assert_eq!(settings.group_id.as_deref(), Some("shop"));
/// let client = Client::builder().config(settings.client).build().await?;
/// let producer = client.producer().config(settings.producer).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ClientSettings {
    /// For [`ClientBuilder::config`](crate::client::ClientBuilder::config).
    pub client: ClientConfig,
    /// For producers of the client.
    pub producer: ProducerConfig,
    /// For consumers of the client.
    pub consumer: ConsumerConfig,
    /// `group.id`, if it was given.
    pub group_id: Option<GroupId>,
}

impl ClientSettings {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads settings from several places.
    pub fn loader() -> Loader {
        Loader::default()
    }

    /// Reads properties with the names of Java's clients or librdkafka; `docs/configuration.md` lists them all.
    ///
    /// # Errors
    ///
    /// `Config` with every problem: unknown names (and the nearest known one), values out of range (and the range),
    /// settings without a meaning here (and why), the same setting twice with different values, and settings that do not
    /// go together. Values of secrets never appear.
    pub fn from_properties<K: AsRef<str>, V: AsRef<str>>(
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        Self::loader().properties(properties).load()
    }

    /// Reads the text of a properties file: `name=value` or `name: value` on each line, `#` or `!` before comments.
    ///
    /// # Errors
    ///
    /// As [`from_properties`](Self::from_properties); also for lines of another form.
    pub fn from_text(text: &str) -> Result<Self> {
        Self::loader().text(text).load()
    }
}

/// Reads [`ClientSettings`] from properties and the environment. The environment overrides properties, whichever was
/// named first; setters of what is loaded go before both.
///
/// ```
/// use carafe::client::config::ClientSettings;
///
/// # fn main() -> carafe::Result<()> {
/// let settings = ClientSettings::loader()
///     .text("bootstrap.servers=localhost:9092\nlinger.ms=10\n")
///     .environment([("CARAFE_LINGER_MS", "20")]) // in a program: std::env::vars()
///     .load()?;
/// let producer = settings.producer.batch_size(500_000);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use = "nothing is read until load() is called"]
pub struct Loader {
    given: Given,
    problems: Problems,
}

impl Loader {
    /// Adds properties; see [`ClientSettings::from_properties`].
    pub fn properties<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.given.properties(properties);
        self
    }

    /// Adds the text of a properties file; see [`ClientSettings::from_text`].
    pub fn text(mut self, text: &str) -> Self {
        self.given.text(text, &mut self.problems);
        self
    }

    /// Adds variables of the environment, as [`std::env::vars`] gives them: `CARAFE_` and the name of a property in capital
    /// letters, with `_` for each dot, such as `CARAFE_BOOTSTRAP_SERVERS`. `CARAFE_TEST_…` is left alone, and so is what
    /// begins otherwise.
    pub fn environment<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.given.environment(variables);
        self
    }

    /// The settings.
    ///
    /// # Errors
    ///
    /// `Config` with every problem of all places; see [`ClientSettings::from_properties`].
    pub fn load(self) -> Result<ClientSettings> {
        let Self { given, mut problems } = self;
        let (mut settings, mut group) = (ClientSettings::new(), Group::default());
        let ClientSettings { client, producer, consumer, group_id } = &mut settings;
        given.load(&mut [client, producer, consumer, &mut group], &mut problems);
        client.check(&mut problems);
        producer.check(&mut problems);
        consumer.check(&mut problems);
        *group_id = group.0;
        problems.finish(settings)
    }
}

/// What consumers are told beside their settings.
#[derive(Clone, Default)]
pub(super) struct Group(Option<GroupId>);

impl Table for Group {
    const SCOPE: &'static str = "consumer";
    const ROWS: &'static [&'static [Row<Self>]] =
        &[&[Row::other("group.id", Kind::Text, "The group of consumers.", |group, id| {
            group.0 = Some(id.to_owned().into());
            true
        })]];

    fn check_together(&self, _: &mut Problems) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_arrive_where_they_belong() {
        let settings = ClientSettings::from_text(
            "# a comment\n\
             bootstrap.servers = a:1,b:2\n\
             client.id: me\n\
             socket.timeout.ms=1234\n\
             linger.ms=7\n\
             fetch.wait.max.ms=321\n\
             group.id=g\n\
             auto.offset.reset=smallest\n\
             partition.assignment.strategy=org.apache.kafka.clients.consumer.RangeAssignor,cooperative-sticky\n\
             security.protocol=plaintext\n\
             enable.auto.commit=FALSE\n",
        )
        .unwrap();
        assert_eq!(settings.group_id.as_deref(), Some("g"));
        let text = format!("{settings:?}");
        for part in ["a:1,b:2", "\"me\"", "1.234s", "7ms", "321ms", "[Range, CooperativeSticky]"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(settings.consumer.commit_interval(), None);
        assert_eq!(settings.consumer.out_of_range, crate::consumer::OutOfRange::Earliest);
    }

    #[test]
    fn the_compression_level_is_that_of_the_codec_in_use() {
        let settings = |text: &str| ClientSettings::from_text(text);
        let java = "compression.gzip.level=9\ncompression.lz4.level=17\ncompression.zstd.level=-1\n";
        for (text, level) in [
            (format!("{java}compression.type=gzip"), Some(9)),
            (format!("{java}compression.type=zstd"), Some(-1)),
            (java.to_owned(), None),
            ("compression.type=gzip\ncompression.gzip.level=-1".to_owned(), None),
            ("compression.codec=zstd\ncompression.level=-1\n".to_owned(), None),
            (format!("{java}compression.codec=zstd\ncompression.level=12\n"), Some(12)),
        ] {
            assert_eq!(settings(&text).unwrap().producer.level(), level, "{text}");
        }
        for (text, range) in [
            ("compression.gzip.level=10", "use -1 to 9"),
            (
                "compression.gzip.level=0",
                "producer.compression.gzip.level: is 0; gzip has levels from 1 to 9",
            ),
            ("compression.zstd.level=23", "use -131072 to 22"),
            (
                "compression.type=gzip\ncompression.level=12",
                "compression.level: is 12; gzip has levels from 1 to 9",
            ),
        ] {
            let error = settings(text).unwrap_err().to_string();
            assert!(error.contains(range), "{error}");
        }
    }

    #[test]
    fn every_problem_is_reported_once_and_secrets_are_not_shown() {
        let error = ClientSettings::from_properties([
            ("bootstrap.servers", "a:1"),
            ("bootstrap.server", "a:1"),
            ("session.timeout.ms", "-5"),
            ("isolation.level", "serializable"),
            ("sasl.password", "hunter2"),
            ("security.protocol", "SSL_SASL"),
            ("client.id", "a"),
            ("client.id", "b"),
            ("linger.ms", "5"),
            ("queue.buffering.max.ms", "6"),
            ("acks", "1"),
            ("max.poll.records", "500"),
            ("heartbeat.interval.ms", "44000"),
        ])
        .unwrap_err();
        let text = error.to_string();
        for part in [
            "bootstrap.server: there is no such setting; did you mean bootstrap.servers?",
            "session.timeout.ms: \"-5\" is not valid: use 10 to ",
            "isolation.level: \"serializable\" is not valid: use one of read_committed, read_uncommitted",
            "sasl.password: is set without sasl.mechanism",
            "security.protocol: \"SSL_SASL\" is not valid: use one of PLAINTEXT, SSL",
            "client.id: is given twice",
            "queue.buffering.max.ms: is another name of linger.ms",
            "producer.acks: is 1",
            "max.poll.records",
            "consumer.heartbeat.interval.ms: is 44000",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
        let error = ClientSettings::from_text("acks=7\nsecret stuff\nlingr.ms=5\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("stuff"), "{error}");
        assert!(error.contains("acks: ") && error.contains("did you mean linger.ms"), "{error}");
    }

    #[test]
    fn setters_go_before_variables_before_properties_before_defaults() {
        let properties = "bootstrap.servers=a:1\nlinger.ms=1\nbatch.size=2000\nfetch.max.wait.ms=7\n";
        let variables = [
            ("CARAFE_LINGER_MS", "2"),
            ("CARAFE_PRODUCER_REQUEST_TIMEOUT_MS", "3"),
            ("CARAFE_BATCH_SIZE", "3000"),
            ("CARAFE_TEST_SEED", "9"),
            ("PATH", "/bin"),
        ];
        let text = |loader: Loader| loader.text(properties);
        let environment = |loader: Loader| loader.environment(variables);
        for loader in [environment(text(Loader::default())), text(environment(Loader::default()))] {
            let settings = loader.load().unwrap();
            let producer = settings.producer.batch_size(4000);
            let ms = std::time::Duration::from_millis;
            let expected = ProducerConfig::new().linger(ms(2)).batch_size(4000).request_timeout(ms(3));
            assert_eq!(producer, expected);
            assert_eq!(settings.consumer, ConsumerConfig::new().max_wait(ms(7)));
            assert_eq!(settings.client, ClientConfig::new().bootstrap_servers("a:1"));
        }
        let error = ClientSettings::loader()
            .text("lingr.ms=1\nproducer.lingr.ms=1\n")
            .environment([("CARAFE_LINGR_MS", "1"), ("CARAFE_ACKS", "7")])
            .load();
        let error = error.unwrap_err().to_string();
        for part in [
            "lingr.ms: there is no such setting; did you mean linger.ms?",
            "producer.lingr.ms: there is no such setting; did you mean producer.linger.ms?",
            "CARAFE_LINGR_MS: there is no such setting; did you mean CARAFE_LINGER_MS?",
            "CARAFE_ACKS: \"7\" is not valid: use one of all",
        ] {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
    }

    #[test]
    fn what_is_named_below_its_scope_goes_before_what_is_not() {
        let settings = ClientSettings::from_text(
            "producer.linger.ms=1\nlinger.ms=2\nrequest.timeout.ms=5\nproducer.request.timeout.ms=6\n\
             consumer.fetch.min.bytes=3\nconsumer.group.id=g\nretry.backoff.ms=50\n",
        );
        let settings = settings.unwrap();
        let ms = std::time::Duration::from_millis;
        assert_eq!(settings.producer, ProducerConfig::new().linger(ms(1)).request_timeout(ms(6)));
        assert_eq!(settings.client, ClientConfig::new().request_timeout(ms(5)).retry_backoff(ms(50)));
        assert_eq!(settings.consumer, ConsumerConfig::new().min_bytes(3));
        assert_eq!(settings.group_id.as_deref(), Some("g"));
    }
}
