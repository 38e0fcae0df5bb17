//! Settings of a client.

use std::sync::Arc;

#[cfg(feature = "tls")]
use rustls::crypto::CryptoProvider;

use super::Client;
#[cfg(feature = "tls")]
use super::config;
use super::config::ClientConfig;
use crate::Result;
use crate::cluster::Cluster;
use crate::consumer::MemoryBudget;
use crate::net::sasl::Choice;
#[cfg(feature = "tls")]
use crate::runtime::tls::{self, ClientTls};
use crate::runtime::{self, Runtime};
use crate::settings::{Problems, Table};

/// Makes a [`Client`]. All settings are checked by [`build`](Self::build), all problems at once.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until build() is called"]
pub struct ClientBuilder {
    bootstrap_servers: Option<String>,
    client_id: Option<String>,
    sasl: Option<Choice>,
    config: ClientConfig,
    #[cfg(feature = "tls")]
    provider: Option<Arc<CryptoProvider>>,
    runtime: Option<Arc<dyn Runtime>>,
    budget: Option<MemoryBudget>,
}

impl ClientBuilder {
    pub(super) fn new() -> Self {
        Self {
            bootstrap_servers: None,
            client_id: None,
            sasl: None,
            config: ClientConfig::default(),
            #[cfg(feature = "tls")]
            provider: None,
            runtime: None,
            budget: None,
        }
    }

    /// Brokers to begin with, separated by commas, each `host:port`; IPv6 addresses in brackets; a missing port is 9092.
    /// Only used to find the others. Required. `bootstrap.servers`.
    pub fn bootstrap_servers(mut self, servers: impl Into<String>) -> Self {
        self.bootstrap_servers = Some(servers.into());
        self
    }

    /// Name of this client in the brokers' logs, quotas and metrics. Default `carafe`; at most 255 bytes. `client.id`.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = Some(id.into());
        self
    }

    /// Proves who we are with this mechanism, or the one of this name; a mechanism makes `SASL_PLAINTEXT` of `PLAINTEXT` and
    /// `SASL_SSL` of `SSL`. Default: none. `sasl.mechanism`.
    pub fn sasl(mut self, mechanism: impl Into<Choice>) -> Self {
        self.sasl = Some(mechanism.into());
        self
    }

    /// Does TLS with the cryptography of `provider`, of the version of rustls that is [re-exported](crate::client::rustls).
    /// Default: graviola, which needs no C and runs on x86-64 with AVX2 and ADX and on aarch64 with AES; elsewhere a client
    /// with TLS needs this.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use carafe::client::{Client, rustls::crypto::CryptoProvider};
    ///
    /// # fn example(provider: CryptoProvider) {
    /// // With `rustls` and its feature `ring` in Cargo.toml: rustls::crypto::ring::default_provider().
    /// let builder = Client::builder().crypto_provider(Arc::new(provider));
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// All other settings. What this builder has setters for overrides them, whichever came first.
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Runs the client's tasks and connections on `runtime`. Default: the tokio runtime that `build` is called in. A
    /// simulated runtime makes everything reproducible.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Memory that fetched data of all consumers of this client may take; a clone of another client's budget bounds both
    /// together. Default: a budget of its own of [`ClientConfig::memory_budget`] bytes.
    pub fn memory_budget(mut self, budget: MemoryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Checks the settings, reads certificates and keys, and makes the client. Nothing is dialled yet; see [`Client::ready`].
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// `Config`, with everything that is wrong, or where TLS is asked for and there is no cryptography for this processor; then
    /// the advice has the lines that [hand over](Self::crypto_provider) another one.
    #[cfg_attr(not(feature = "tls"), expect(clippy::unused_async, reason = "reading certificates waits"))]
    pub async fn build(self) -> Result<Client> {
        let runtime = self.runtime.clone();
        let config = self.effective();
        let mut problems = Problems::default();
        let cluster = config.cluster(&mut problems);
        config.check(&mut problems);
        #[cfg_attr(not(feature = "tls"), expect(unused_mut, reason = "TLS is added"))]
        let mut cluster = problems.finish(cluster)?;
        let runtime = match runtime {
            Some(runtime) => runtime,
            None => runtime::RealRuntime::try_current()?,
        };
        let mechanism = cluster.connection.mechanism.as_ref().map(|mechanism| mechanism.name());
        if mechanism.is_some_and(|name| !name.starts_with("SCRAM-")) && !config.security_protocol.uses_tls() {
            tracing::warn!(
                mechanism,
                "credentials are sent without TLS: whoever listens on the way can use them"
            );
        }
        #[cfg(feature = "tls")]
        if let Some(settings) = config::tls::settings(&config, &mut Problems::default()) {
            let provider = match self.provider {
                Some(provider) => provider,
                None => tls::provider::default()?,
            };
            cluster.connection.tls = Some(ClientTls::new(settings, provider, Arc::clone(&runtime)).await?);
        }
        let budget = self.budget.unwrap_or_else(|| MemoryBudget::new(config.memory_budget));
        Ok(Client { cluster: Cluster::new(runtime, cluster), budget })
    }

    /// Everything that is wrong: one sentence for each problem, behind the name of its setting.
    pub fn problems(&self) -> Vec<String> {
        let (config, mut problems) = (self.effective(), Problems::default());
        config.cluster(&mut problems);
        config.check(&mut problems);
        problems.into_vec()
    }

    /// The settings, with those of the builder.
    fn effective(&self) -> ClientConfig {
        let mut config = self.config.clone();
        if let Some(servers) = &self.bootstrap_servers {
            config.bootstrap_servers.clone_from(servers);
        }
        if let Some(id) = &self.client_id {
            config.client_id.clone_from(id);
        }
        if let Some(sasl) = &self.sasl {
            config.sasl_mechanism = sasl.clone();
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn all_problems_come_at_once() {
        let config = ClientConfig::new()
            .request_timeout(Duration::ZERO)
            .retry_backoff(Duration::from_secs(2))
            .retry_backoff_max(Duration::from_secs(1))
            .receive_message_max_bytes(10);
        let builder =
            Client::builder().bootstrap_servers("a:0,b:1").client_id("x".repeat(256)).config(config);
        assert_eq!(builder.problems().len(), 5);
        let error = builder.build().await.unwrap_err();
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

    #[tokio::test]
    async fn settings_of_a_client_come_in_any_order() {
        let mut setters: Vec<fn(ClientBuilder) -> ClientBuilder> = vec![
            |builder| builder.bootstrap_servers("a:9092"),
            |builder| builder.client_id("me"),
            |builder| {
                let config = ClientConfig::new().bootstrap_servers("b:1").client_id("you");
                builder.config(config.request_timeout(Duration::from_secs(3)))
            },
            |builder| builder.memory_budget(MemoryBudget::new(1 << 20)),
        ];
        let mut dice = fastrand::Rng::with_seed(1);
        let mut pictures = std::collections::BTreeSet::new();
        for _ in 0..200 {
            dice.shuffle(&mut setters);
            let builder = setters.iter().fold(Client::builder(), |builder, set| set(builder));
            pictures.insert(format!("{builder:?} {:?}", builder.effective()));
        }
        assert_eq!(pictures.len(), 1, "{pictures:?}");
        let picture = pictures.first().unwrap();
        assert!(
            picture.contains(r#"ClientConfig { bootstrap_servers: "a:9092", client_id: "me""#),
            "{picture}"
        );
    }
}
