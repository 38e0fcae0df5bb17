//! Goes through properties and collects everything that is wrong.

use std::collections::BTreeMap;

use crate::Result;
use crate::client::problems::Problems;
use crate::client::{Client, ClientBuilder};
use crate::consumer::ConsumerConfig;
use crate::producer::ProducerConfig;
use crate::types::GroupId;

use super::table::{find, nearest};
use super::value::apply;

/// Settings of a client, of its producers and of its consumers, as properties give them.
///
/// ```
/// # fn main() -> carafe::Result<()> {
/// let settings = carafe::client::config::ClientSettings::from_properties([
///     ("bootstrap.servers", "localhost:9092"),
///     ("linger.ms", "10"),
///     ("group.id", "shop"),
/// ])?;
/// assert_eq!(settings.group_id.as_deref(), Some("shop"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientSettings {
    /// For [`ClientBuilder::build`].
    pub client: ClientBuilder,
    /// For producers of the client.
    pub producer: ProducerConfig,
    /// For consumers of the client.
    pub consumer: ConsumerConfig,
    /// `group.id`, if it was given.
    pub group_id: Option<GroupId>,
}

impl ClientSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            client: Client::builder(),
            producer: ProducerConfig::default(),
            consumer: ConsumerConfig::default(),
            group_id: None,
        }
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
        Self::load(properties, Problems::default())
    }

    /// [`from_properties`](Self::from_properties), behind the `problems` that their source has already.
    fn load<K: AsRef<str>, V: AsRef<str>>(
        properties: impl IntoIterator<Item = (K, V)>,
        mut problems: Problems,
    ) -> Result<Self> {
        let mut settings = Self::new();
        let mut given: BTreeMap<&'static str, (String, String)> = BTreeMap::new();
        for (name, value) in properties {
            let (name, value) = (name.as_ref().trim(), value.as_ref());
            let Some(setting) = find(name) else {
                match nearest(name) {
                    Some(known) => {
                        problems.add(name, format!("there is no such setting; did you mean {known}?"))
                    }
                    None => problems.add(name, "there is no such setting"),
                }
                continue;
            };
            if let Some((other, earlier)) = given.get(setting.name)
                && earlier.trim() != value.trim()
            {
                let what = if other == name {
                    "is given twice with different values".to_owned()
                } else {
                    format!("is another name of {other}, and both are given with different values")
                };
                problems.add(name, what);
                continue;
            }
            given.insert(setting.name, (name.to_owned(), value.to_owned()));
            if let Err(problem) = apply(setting, value, &mut settings) {
                problems.add(name, problem);
            }
        }
        settings.client.check(&mut problems, given.contains_key("bootstrap.servers"));
        settings.check(&mut problems);
        problems.finish(settings)
    }

    /// Reads the text of a properties file: `name=value` or `name: value` on each line, `#` or `!` before comments.
    ///
    /// # Errors
    ///
    /// As [`from_properties`](Self::from_properties); also for lines of another form.
    pub fn from_text(text: &str) -> Result<Self> {
        let mut problems = Problems::default();
        let mut properties = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            match line.split_once(['=', ':']) {
                Some((name, value)) => properties.push((name.trim(), value.trim())),
                // The line may hold a secret.
                None => problems.add(&format!("line {number}"), "is not of the form name=value"),
            }
        }
        Self::load(properties, problems)
    }

    /// What does not go together.
    fn check(&self, problems: &mut Problems) {
        for problem in self.producer.problems() {
            problems.note(problem);
        }
        if let Err(error) = self.consumer.validate() {
            problems.note(error.to_string());
        }
    }
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self::new()
    }
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
        assert_eq!(settings.consumer.auto_commit_interval, None);
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
            ("compression.gzip.level=0", "compression.gzip.level is 0: from 1 to 9"),
            ("compression.zstd.level=23", "use -131072 to 22"),
            ("compression.type=gzip\ncompression.level=12", "compression.gzip.level is 12: from 1 to 9"),
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
            ("security.protocol", "SASL_SSL"),
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
            "sasl.password: is not supported",
            "security.protocol: \"SASL_SSL\" is not supported, only PLAINTEXT",
            "client.id: is given twice",
            "queue.buffering.max.ms: is another name of linger.ms",
            "acks is 1",
            "max.poll.records",
            "heartbeat_interval",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
        let error = ClientSettings::from_text("acks=7\nsecret stuff\nlingr.ms=5\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("stuff"), "{error}");
        assert!(error.contains("acks: ") && error.contains("did you mean linger.ms"), "{error}");
    }
}
