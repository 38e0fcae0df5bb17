//! `-X` and configuration files: the crate's own settings, with kcat's defaults where they show.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use crate::client::{ClientConfig, ClientSettings};
use crate::consumer::{Assignor, ConsumerConfig, FirstStart, OutOfRange};
use crate::producer::{Partitioner, ProducerConfig};
use crate::{Error, Result};

/// Other names of settings that are often given twice; the later one counts.
const ALIASES: &[(&str, &str)] = &[
    ("metadata.broker.list", "bootstrap.servers"),
    ("compression.codec", "compression.type"),
    ("request.required.acks", "acks"),
    ("socket.timeout.ms", "request.timeout.ms"),
    ("message.timeout.ms", "delivery.timeout.ms"),
    ("queue.buffering.max.ms", "linger.ms"),
];

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const MESSAGE_MAX: usize = 1_000_000;

/// All settings of a run.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) client: ClientConfig,
    pub(super) producer: ProducerConfig,
    pub(super) consumer: ConsumerConfig,
    pub(super) group: Option<String>,
    /// Where a partition without a committed offset begins.
    pub(super) first_start: FirstStart,
    /// A broker that is silent for longer counts as dead.
    pub(super) request_timeout: Duration,
    /// Largest message that is produced.
    pub(super) message_max: usize,
}

/// Properties by name, each at most once.
#[derive(Clone, Debug, Default)]
pub(super) struct Properties(Vec<(String, String)>);

impl Properties {
    /// Sets a property; the last value counts.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        let name = name.trim();
        // Settings of librdkafka that begin so are no settings of a topic.
        let topic = name.strip_prefix("topic.").filter(|rest| !rest.starts_with("metadata."));
        let name = topic.unwrap_or(name);
        self.0.retain(|(other, _)| canonical(other) != canonical(name));
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// The value of a property under any of its names.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| canonical(other) == name).map(|(_, value)| value.as_str())
    }

    fn set_default(&mut self, name: &str, value: &str) {
        if self.get(name).is_none() {
            self.set(name, value);
        }
    }

    fn milliseconds(&self, name: &str) -> Option<u64> {
        self.get(name)?.trim().parse().ok()
    }

    /// The settings, checked.
    ///
    /// # Errors
    ///
    /// `Config` with everything that is wrong.
    pub(super) fn settings(mut self) -> Result<Settings> {
        let mut message_max = MESSAGE_MAX;
        if let Some(value) = self.get("message.max.bytes") {
            message_max = value.trim().parse().map_err(|_| {
                Error::new(
                    crate::ErrorKind::Config,
                    format!("message.max.bytes: {value:?} is no number of bytes"),
                )
            })?;
            self.0.retain(|(name, _)| name != "message.max.bytes");
        }
        // librdkafka's producer is idempotent only when told to; ours is unless that cannot be.
        if self.get("acks").is_some_and(|acks| !matches!(acks.trim(), "all" | "-1")) {
            self.set_default("enable.idempotence", "false");
        }
        // A message may be given up before the default request timeout is over.
        if let Some(delivery) = self.milliseconds("delivery.timeout.ms") {
            let linger = self.milliseconds("linger.ms").unwrap_or(5);
            let request = delivery.saturating_sub(linger);
            if request > 0 && u128::from(request) < REQUEST_TIMEOUT.as_millis() {
                self.set_default("request.timeout.ms", &request.to_string());
            }
        }
        let request_timeout =
            self.milliseconds("request.timeout.ms").map_or(REQUEST_TIMEOUT, Duration::from_millis);
        let given = |name: &str| self.get(name).is_some();
        let settings = ClientSettings::from_properties(self.0.iter().map(|(name, value)| (name, value)))?;
        let ClientSettings { client, mut producer, mut consumer, group_id, .. } = settings;
        if !given("partitioner") {
            producer = producer.partitioner(Partitioner::ConsistentRandom);
        }
        if !given("max.block.ms") {
            producer = producer.max_block(request_timeout);
        }
        consumer = consumer.partition_end_events(true);
        let first_start = match self.get("auto.offset.reset").map(str::trim) {
            None => {
                consumer = consumer.first_start(FirstStart::Latest).out_of_range(OutOfRange::Latest);
                FirstStart::Latest
            }
            Some("latest" | "largest" | "end") => FirstStart::Latest,
            Some("none" | "error") => FirstStart::Stop,
            Some(_) => FirstStart::Earliest,
        };
        if !given("partition.assignment.strategy") {
            // What kcat offers too, so that both can be members of one group.
            consumer = consumer.assignors([Assignor::Range]);
        }
        let group = group_id.map(|group| group.as_str().to_owned());
        Ok(Settings { client, producer, consumer, group, first_start, request_timeout, message_max })
    }
}

fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| *name)
}

/// The properties in a configuration file: `name=value` by line, `#` for comments, Java's `\:` and `\=` taken back.
///
/// # Errors
///
/// The line that is none of that.
pub(super) fn parse_file(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut properties = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.replace("\\:", ":").replace("\\=", "=");
        match line.split_once('=') {
            Some((name, value)) if !name.is_empty() => properties.push((name.to_owned(), value.to_owned())),
            _ => return Err(format!("line {number} is not of the form property=value")),
        }
    }
    Ok(properties)
}

/// Where configuration is looked for if no flag names it: the files in question, and whether they must exist.
pub(super) fn default_files(
    environment: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> (Vec<PathBuf>, bool) {
    let set = |name| environment(name).filter(|value| !value.is_empty());
    if let Some(named) = set("KCAT_CONFIG").or_else(|| set("KAFKACAT_CONFIG")) {
        return (vec![named.into()], true);
    }
    let home = |home: std::ffi::OsString| PathBuf::from(home).join(".config");
    let folder = set("HOME").map(home);
    let files = folder.iter().flat_map(|folder| ["kcat.conf", "kafkacat.conf"].map(|name| folder.join(name)));
    (files.collect(), false)
}

/// A path for a message.
pub(super) fn show(path: &OsStr) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(properties: &[(&str, &str)]) -> Result<Settings> {
        let mut all = Properties::default();
        all.set("bootstrap.servers", "a:1");
        for (name, value) in properties {
            all.set(name, value);
        }
        all.settings()
    }

    #[test]
    fn the_last_value_counts_and_names_may_differ() {
        let mut properties = Properties::default();
        properties.set("topic.acks", "1");
        properties.set("request.required.acks", "0");
        properties.set("compression.codec", "gzip");
        properties.set("compression.type", "lz4");
        assert_eq!(
            properties.0,
            [("request.required.acks", "0"), ("compression.type", "lz4")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(properties.get("acks"), Some("0"));
    }

    #[test]
    fn what_kcat_takes_is_taken() {
        for good in [
            &[("acks", "1")][..],
            &[("message.timeout.ms", "5000")],
            &[("message.timeout.ms", "5000"), ("linger.ms", "100")],
            &[("message.max.bytes", "2000000")],
            &[("auto.offset.reset", "smallest"), ("group.id", "g")],
            &[("client.id", "me"), ("security.protocol", "plaintext")],
        ] {
            if let Err(error) = settings(good) {
                panic!("{good:?}: {error}");
            }
        }
        assert_eq!(settings(&[]).map(|settings| settings.first_start).ok(), Some(FirstStart::Latest));
        let settings = settings(&[("message.max.bytes", "7"), ("auto.offset.reset", "error")]).expect("good");
        assert_eq!((settings.message_max, settings.first_start), (7, FirstStart::Stop));
    }

    #[test]
    fn wrong_ones_are_named() {
        let error = settings(&[("lingr.ms", "5"), ("acks", "2")]).err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        assert!(error.contains("linger.ms") && error.contains("acks"), "{error}");
        assert!(settings(&[("message.max.bytes", "x")]).is_err());
    }

    #[test]
    fn files() {
        let text = "# comment\n\n a.b=c=d\r\nservers=x\\:1\n";
        let expected = [("a.b", "c=d"), ("servers", "x:1")];
        assert_eq!(parse_file(text), Ok(expected.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec()));
        assert_eq!(parse_file("a=1\nb").err().as_deref(), Some("line 2 is not of the form property=value"));
        let (files, required) = default_files(|name| (name == "HOME").then(|| "/somewhere".into()));
        assert_eq!(
            (files[0].as_path(), required),
            (std::path::Path::new("/somewhere/.config/kcat.conf"), false)
        );
        assert!(default_files(|_| Some("x".into())).1);
    }
}
