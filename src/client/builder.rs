//! Settings of a client.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Cluster, ClusterConfig};
use crate::consumer::MemoryBudget;
use crate::runtime::{self, Runtime};
use crate::{Result, wire};

use super::Client;
use super::bootstrap;
use super::problems::Problems;

/// Settings of a [`Client`]. All of them are checked by [`build`](Self::build), all problems at once.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until build() is called"]
pub struct ClientBuilder {
    pub(super) bootstrap_servers: String,
    pub(super) client_id: String,
    pub(super) config: ClusterConfig,
    runtime: Option<Arc<dyn Runtime>>,
    pub(super) budget: MemoryBudget,
}

impl ClientBuilder {
    pub(super) fn new() -> Self {
        Self {
            bootstrap_servers: String::new(),
            client_id: "carafe".to_owned(),
            config: ClusterConfig::default(),
            runtime: None,
            budget: MemoryBudget::default(),
        }
    }

    /// Brokers to begin with, separated by commas, each `host:port`; IPv6 addresses in brackets; a missing port is 9092.
    /// Only used to find the others. Required. `bootstrap.servers`.
    pub fn bootstrap_servers(mut self, servers: impl Into<String>) -> Self {
        self.bootstrap_servers = servers.into();
        self
    }

    /// Name of this client in the brokers' logs, quotas and metrics. Default `carafe`; at most 255 bytes. `client.id`.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = id.into();
        self
    }

    /// A request without an answer for this long ends its connection and is tried again. Default 30 s, at least 1 ms.
    /// Below the time that the brokers need under load it makes things worse. `request.timeout.ms`.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.connection.request_timeout = timeout;
        self
    }

    /// Deadline of an operation as a whole, retries included, where the operation has none of its own. Default 60 s.
    /// `default.api.timeout.ms`.
    pub fn api_timeout(mut self, timeout: Duration) -> Self {
        self.config.api_timeout = timeout;
        self
    }

    /// Time that one address of a broker gets for connecting and the handshake; doubled after failures, up to 30 s.
    /// Default 10 s. `socket.connection.setup.timeout.ms`.
    pub fn connection_setup_timeout(mut self, timeout: Duration) -> Self {
        self.config.connection.setup_timeout = timeout;
        self
    }

    /// A connection without traffic for this long is closed; keep it below the brokers' (10 min) and any load
    /// balancer's. Default 9 min. `connections.max.idle.ms`.
    pub fn connections_max_idle(mut self, idle: Duration) -> Self {
        self.config.connection.idle_timeout = idle;
        self
    }

    /// Largest response accepted, in bytes. Must exceed the largest batch of any topic. Default 100 MiB, at least 1 KiB.
    /// `receive.message.max.bytes` (librdkafka).
    pub fn receive_message_max_bytes(mut self, bytes: usize) -> Self {
        self.config.connection.frame_bytes_max = bytes;
        self
    }

    /// Pause before a broker that could not be reached is dialled again: doubles from `first` to `max`, ±20 %. Default
    /// 50 ms to 5 s. `reconnect.backoff.ms`, `reconnect.backoff.max.ms`.
    pub fn reconnect_backoff(mut self, first: Duration, max: Duration) -> Self {
        self.config.reconnect_backoff.first = first;
        self.config.reconnect_backoff.max = max;
        self
    }

    /// Pause before a failed request is tried again: doubles from `first` to `max`, ±20 %. Default 100 ms to 1 s.
    /// `retry.backoff.ms`, `retry.backoff.max.ms`.
    pub fn retry_backoff(mut self, first: Duration, max: Duration) -> Self {
        self.config.retry_backoff.first = first;
        self.config.retry_backoff.max = max;
        self
    }

    /// Metadata is refreshed after this time even if nothing seems wrong: how late new partitions may be noticed.
    /// Default 5 min. `metadata.max.age.ms`.
    pub fn metadata_max_age(mut self, age: Duration) -> Self {
        self.config.metadata_max_age = age;
        self
    }

    /// Without metadata for this long the bootstrap servers are used again (KIP-1102). Default 5 min.
    /// `metadata.recovery.rebootstrap.trigger.ms`.
    pub fn rebootstrap_after(mut self, time: Duration) -> Self {
        self.config.rebootstrap_after = time;
        self
    }

    /// Runs the client's tasks and connections on `runtime`. Default: the tokio runtime that `build` is called in. A
    /// simulated runtime makes everything reproducible.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Memory that fetched data of all consumers of this client may take. Default 64 MiB. Pass a clone of another client's
    /// budget to bound both together.
    pub fn memory_budget(mut self, budget: MemoryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Checks the settings and makes the client. Nothing is dialled yet; see [`Client::ready`].
    ///
    /// # Errors
    ///
    /// `Config`, with everything that is wrong.
    #[allow(clippy::unused_async, reason = "loading certificates and tokens will wait")]
    pub async fn build(self) -> Result<Client> {
        let mut problems = Problems::default();
        let config = self.check(&mut problems, true);
        let config = problems.finish(config)?;
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => runtime::RealRuntime::try_current()?,
        };
        Ok(Client { cluster: Cluster::new(runtime, config), budget: self.budget })
    }

    /// Notes what is wrong; without `bootstrap` the list of servers may be missing.
    pub(super) fn check(&self, problems: &mut Problems, bootstrap: bool) -> ClusterConfig {
        let mut config = self.config.clone();
        if bootstrap {
            config.bootstrap = bootstrap::parse(&self.bootstrap_servers, problems);
        }
        let connection = &mut config.connection;
        connection.client_id = wire::Str::from(self.client_id.as_str());
        let id_len = connection.client_id.len();
        problems.check(id_len <= 255, "client.id", format!("{id_len} bytes are more than 255"));
        for (setting, value) in [
            ("request.timeout.ms", connection.request_timeout),
            ("default.api.timeout.ms", config.api_timeout),
            ("socket.connection.setup.timeout.ms", connection.setup_timeout),
            ("connections.max.idle.ms", connection.idle_timeout),
            ("reconnect.backoff.ms", config.reconnect_backoff.first),
            ("retry.backoff.ms", config.retry_backoff.first),
            ("metadata.max.age.ms", config.metadata_max_age),
            ("metadata.recovery.rebootstrap.trigger.ms", config.rebootstrap_after),
        ] {
            problems.check(value >= Duration::from_millis(1), setting, "must be at least 1 ms");
            problems.check(value <= DURATION_MAX, setting, "must be at most 24 days (2^31 ms)");
        }
        for (setting, backoff) in [
            ("reconnect.backoff.max.ms", config.reconnect_backoff),
            ("retry.backoff.max.ms", config.retry_backoff),
        ] {
            let ok = backoff.max >= backoff.first && backoff.max <= DURATION_MAX;
            let bounds =
                format!("must be at least the first pause ({:?}) and at most 24 days", backoff.first);
            problems.check(ok, setting, bounds);
        }
        let frame = connection.frame_bytes_max;
        problems.check(
            (1024..=i32::MAX as usize).contains(&frame),
            "receive.message.max.bytes",
            format!("{frame} is not in 1024 to {}", i32::MAX),
        );
        config
    }
}

const DURATION_MAX: Duration = Duration::from_millis(1 << 31);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_problems_come_at_once() {
        let error = Client::builder()
            .bootstrap_servers("a:0,b:1")
            .client_id("x".repeat(256))
            .request_timeout(Duration::ZERO)
            .retry_backoff(Duration::from_secs(2), Duration::from_secs(1))
            .receive_message_max_bytes(10)
            .build()
            .await
            .unwrap_err();
        let text = error.to_string();
        for setting in [
            "bootstrap.servers",
            "client.id",
            "request.timeout.ms",
            "retry.backoff.max.ms",
            "receive.message.max.bytes",
        ] {
            assert!(text.contains(setting), "{setting} is missing in: {text}");
        }
        assert!(text.starts_with("5 settings are wrong"), "{text}");
    }

    /// What a producer is made with does not depend on the order either, nor on what came with `config`.
    #[tokio::test]
    async fn settings_of_a_producer_go_before_those_it_is_given_as_a_whole() {
        use crate::producer::{Acks, Compression, ProducerBuilder, ProducerConfig};
        let client = Client::builder().bootstrap_servers("a:9092").build().await.unwrap();
        let mut setters: Vec<fn(ProducerBuilder) -> ProducerBuilder> = vec![
            |builder| builder.config(ProducerConfig::new().max_in_flight(3).batch_size(1000)),
            |builder| builder.batch_size(2000),
            |builder| builder.compression(Compression::Gzip),
            |builder| builder.compression_level(7),
            |builder| builder.enable_idempotence(false),
            |builder| builder.acks(Acks::Leader),
            |builder| builder.request_timeout(Duration::from_secs(3)),
            |builder| builder.max_block(Duration::from_secs(4)),
        ];
        let mut dice = fastrand::Rng::with_seed(1);
        let mut pictures = std::collections::BTreeSet::new();
        for _ in 0..200 {
            dice.shuffle(&mut setters);
            let builder = setters.iter().fold(client.producer(), |builder, set| set(builder));
            pictures.insert(format!("{:?}", builder.build().unwrap().config()));
        }
        assert_eq!(pictures.len(), 1, "{pictures:?}");
        let picture = pictures.first().unwrap();
        assert!(picture.contains("batch_size: 2000") && picture.contains("max_in_flight: 3"), "{picture}");
    }

    #[tokio::test]
    async fn settings_of_a_client_come_in_any_order() {
        let mut setters: Vec<fn(ClientBuilder) -> ClientBuilder> = vec![
            |builder| builder.bootstrap_servers("a:9092"),
            |builder| builder.client_id("me"),
            |builder| builder.request_timeout(Duration::from_secs(3)),
            |builder| builder.api_timeout(Duration::from_secs(4)),
            |builder| builder.connection_setup_timeout(Duration::from_secs(5)),
            |builder| builder.connections_max_idle(Duration::from_secs(6)),
            |builder| builder.receive_message_max_bytes(70_000),
            |builder| builder.reconnect_backoff(Duration::from_secs(1), Duration::from_secs(8)),
            |builder| builder.retry_backoff(Duration::from_secs(1), Duration::from_secs(9)),
            |builder| builder.metadata_max_age(Duration::from_secs(10)),
            |builder| builder.rebootstrap_after(Duration::from_secs(11)),
        ];
        let mut dice = fastrand::Rng::with_seed(1);
        let mut pictures = std::collections::BTreeSet::new();
        for _ in 0..200 {
            dice.shuffle(&mut setters);
            let builder = setters.iter().fold(Client::builder(), |builder, set| set(builder));
            pictures.insert(format!("{builder:?}"));
        }
        assert_eq!(pictures.len(), 1, "{pictures:?}");
    }
}
