//! `carafe broker`: the embedded cluster on its own, for other programs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::broker::{Cluster, SaslMechanism, ServerTls};
use crate::types::Secret;
use crate::{Error, ErrorKind, Result};

/// Serves an embedded Kafka-compatible cluster until SIGINT or SIGTERM. For development and tests: it keeps its log in
/// memory and drops the oldest batches of a node above its retention.
///
/// The first line is `bootstrap.servers=HOST:PORT,…`.
#[derive(Debug, Args)]
pub(super) struct Broker {
    /// Number of nodes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    nodes: u16,
    /// Address of the first node; node i listens on the port plus i, port 0 takes free ones
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    listen: String,
    /// Clients have to log in by one of these: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512
    #[arg(long, value_name = "MECHANISM", value_delimiter = ',', value_parser = mechanism, requires = "users")]
    sasl: Vec<SaslMechanism>,
    /// File with the users who may: NAME:PASSWORD on each line
    #[arg(long, value_name = "FILE", requires = "sasl")]
    users: Option<PathBuf>,
    /// A session ends after so many seconds unless the client logs in again
    #[arg(long, value_name = "SECONDS", requires = "sasl", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    session_max: Option<u64>,
    /// Speak TLS with this certificate, and those of its authorities behind it: a file of PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// File with the private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Clients need a certificate of the authorities in this file
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_client_ca: Option<PathBuf>,
    /// Create a topic; may be repeated
    #[arg(long = "topic", value_name = "NAME:PARTITIONS")]
    topics: Vec<Topic>,
    /// Id of the first node; the others follow
    #[arg(long, value_name = "ID", default_value_t = 0)]
    first_node_id: i32,
    /// Partitions of topics that are created without saying how many
    #[arg(long, value_name = "N", default_value_t = 1)]
    default_partitions: i32,
    /// Refuse unknown topics instead of creating them on first use
    #[arg(long)]
    no_auto_create_topics: bool,
    /// Bytes that each node keeps
    #[arg(long, value_name = "BYTES", default_value_t = 256 * 1024 * 1024)]
    retention_bytes: usize,
    /// Acknowledge what is produced and keep nothing (for benchmarks)
    #[arg(long, conflicts_with = "replay")]
    discard: bool,
    /// Answer fetches with prepared batches without end (for benchmarks)
    #[arg(long)]
    replay: bool,
}

fn mechanism(name: &str) -> Result<SaslMechanism, String> {
    // Tokens would have to come from somewhere.
    let known = SaslMechanism::of(&name.to_uppercase()).filter(|known| *known != SaslMechanism::OAuthBearer);
    known.ok_or_else(|| "expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512".to_owned())
}

/// The users in a file, or what is wrong with it, without showing what is in it.
fn users(path: &Path) -> Result<Vec<(String, Secret)>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::new(ErrorKind::Config, format!("the users in {} cannot be read", path.display()))
            .with_source(error)
    })?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| match line.split_once(':') {
            Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                Ok((name.to_owned(), Secret::from(password)))
            }
            _ => {
                let message = format!("line {number} of {} is not NAME:PASSWORD", path.display());
                Err(Error::new(ErrorKind::Config, message))
            }
        })
        .collect()
}

#[derive(Clone, Debug)]
struct Topic {
    name: String,
    partitions: i32,
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, partitions) = text.rsplit_once(':').unwrap_or((text, "1"));
        match partitions.parse() {
            Ok(partitions @ 1..=100_000) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), partitions })
            }
            _ => Err("expected NAME:PARTITIONS with 1 to 100000 partitions".to_owned()),
        }
    }
}

impl Broker {
    pub(super) const LOG: &'static str = "warn";

    /// TLS of its listener, if it is asked for.
    fn tls(&self) -> Result<Option<ServerTls>> {
        let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) else { return Ok(None) };
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| {
                Error::new(ErrorKind::Config, format!("cannot read {}", path.display())).with_source(error)
            })
        };
        let tls = ServerTls::new(read(certificate)?, read(key)?);
        Ok(Some(match &self.tls_client_ca {
            Some(authorities) => tls.client_authorities(read(authorities)?),
            None => tls,
        }))
    }

    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut builder = Cluster::builder()
            .nodes(self.nodes)
            .listen(self.listen.as_str())
            .default_partitions(self.default_partitions)
            .auto_create_topics(!self.no_auto_create_topics)
            .retention_bytes(self.retention_bytes)
            .first_node_id(self.first_node_id);
        if !self.sasl.is_empty() {
            builder = builder.sasl(self.sasl.iter().copied());
        }
        if let Some(path) = &self.users {
            let users = match users(path) {
                Err(error) => return Ok(super::refuse(&error)),
                Ok(users) => users,
            };
            builder =
                users.into_iter().fold(builder, |builder, (name, password)| builder.user(name, password));
        }
        match self.tls() {
            Err(error) => return Ok(super::refuse(&error)),
            Ok(Some(tls)) => builder = builder.tls(tls),
            Ok(None) => {}
        }
        if let Some(seconds) = self.session_max {
            builder = builder.session_max(Duration::from_secs(seconds));
        }
        for topic in &self.topics {
            builder = builder.topic(topic.name.as_str(), topic.partitions);
        }
        if self.discard {
            builder = builder.discard();
        }
        if self.replay {
            builder = builder.replay();
        }
        let cluster = match builder.start().await {
            Err(error) if error.kind() == ErrorKind::Config => return Ok(super::refuse(&error)),
            started => started?,
        };
        super::say(format_args!("bootstrap.servers={}", cluster.bootstrap_servers()));
        crate::runtime::termination().await;
        cluster.shutdown();
        Ok(ExitCode::SUCCESS)
    }
}
