//! Routed applications: which consumer handles which topic, with retries, dead letters and virtual partitions.
//!
//! ```no_run
//! use carafe::prelude::*;
//!
//! #[tokio::main]
//! async fn main() -> carafe::Result<()> {
//!     App::new("shop")
//!         .bootstrap_servers("localhost:9092")
//!         .routes(|routes| {
//!             routes.topic("orders").handler(async |order: Message<Text>, _ctx| {
//!                 tracing::info!(order = order.payload()?, "received");
//!                 Ok(())
//!             });
//!         })
//!         .run()
//!         .await
//! }
//! ```

mod batch;
mod consumer;
mod context;
mod instrument;
mod outputs;
mod payload;
mod policies;
mod policy;
mod processing;
pub mod routing;
mod server;
mod stop;

use std::fmt;
use std::time::Duration;

pub use batch::{AtOffset, Batch, Iter, Message, MessageRef};
pub use consumer::Consumer;
pub use context::{Context, ContextProducer};
pub use instrument::{Event, Listener};
pub use payload::{Json, Payload, Raw, Text};
pub use policies::*;
pub use policy::Policy;
pub use routing::{GroupRoute, Routes, TopicRoute};
pub use server::{Server, ShutdownHandle};

use crate::Result;
use crate::client::{Client, ClientBuilder};
use crate::consumer::{FirstStart, OutOfRange, Truncation};
use crate::settings::Problems;
use crate::types::GroupId;
use instrument::Monitor;
use routing::Reading;
use server::Parts;

/// Configuration and routes of an application, checked once by [`build`](Self::build).
pub struct App {
    name: String,
    bootstrap_servers: Option<String>,
    client: Option<Client>,
    routes: Routes,
    settings: Settings,
    listeners: Vec<Box<dyn Listener>>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("name", &self.name)
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("client", &self.client)
            .field("routes", &self.routes)
            .field("settings", &self.settings)
            .field("listeners", &self.listeners.len())
            .finish()
    }
}

/// Settings of the whole application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) concurrency: usize,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) revoke_timeout: Duration,
    pub(crate) reading: Reading,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 5,
            shutdown_timeout: Duration::from_secs(25),
            revoke_timeout: Duration::from_secs(30),
            reading: Reading::default(),
        }
    }
}

impl App {
    /// An application whose client id and default consumer group are `name`.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            bootstrap_servers: None,
            client: None,
            routes: Routes::new(GroupId::from(name.as_str())),
            settings: Settings::default(),
            listeners: Vec::new(),
            name,
        }
    }

    /// The cluster, as `host:port` separated by commas, for a client of the application's own.
    #[must_use]
    pub fn bootstrap_servers(mut self, servers: impl AsRef<str>) -> Self {
        self.bootstrap_servers = Some(servers.as_ref().to_owned());
        self
    }

    /// Uses an existing client, with its connections, its settings and its runtime, in place of
    /// [`bootstrap_servers`](Self::bootstrap_servers).
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Adds routes.
    #[must_use]
    pub fn routes(mut self, define: impl FnOnce(&mut Routes)) -> Self {
        define(&mut self.routes);
        self
    }

    /// How many handlers run at once, at least 1; default 5. Can be changed while the application runs
    /// ([`ShutdownHandle::scale`]).
    #[must_use]
    pub fn concurrency(mut self, workers: usize) -> Self {
        self.settings.concurrency = workers;
        self
    }

    /// How long a stop may take in all, from [`ShutdownHandle::stop`] or the signal on; default 25 s. Running handlers have
    /// it less a fifth, 2 s at most, which is kept for last commits, leaving the groups and the producer; then they are
    /// dropped where they wait. Zero drops them at once, `Duration::MAX` waits for them without limit.
    #[must_use]
    pub fn shutdown_timeout(mut self, time: Duration) -> Self {
        self.settings.shutdown_timeout = time;
        self
    }

    /// How long a revocation waits for running handlers before the partition counts as lost; default 30 s. The group's
    /// rebalance timeout, less 6 s, bounds it as well. Marks made until then are committed.
    #[must_use]
    pub fn revoke_timeout(mut self, time: Duration) -> Self {
        self.settings.revoke_timeout = time;
        self
    }

    /// Where partitions begin for which the group has committed nothing (`auto.offset.reset`); default: at their first
    /// offset.
    #[must_use]
    pub fn first_start(mut self, policy: FirstStart) -> Self {
        self.settings.reading.first_start = Some(policy);
        self
    }

    /// What happens when a partition no longer has the position, because retention has passed it
    /// (`auto.offset.reset`). Default: it goes on at the first offset that there is, with an
    /// [`Event::PositionReset`]. [`OutOfRange::Stop`] leaves the partition to a person, with a [condition](Event::Condition) that lasts.
    #[must_use]
    pub fn out_of_range(mut self, policy: OutOfRange) -> Self {
        self.settings.reading.out_of_range = Some(policy);
        self
    }

    /// What happens when a partition was truncated below the position (KIP-320). Default: it stops, with a
    /// [condition](Event::Condition) that lasts.
    #[must_use]
    pub fn truncation(mut self, policy: Truncation) -> Self {
        self.settings.reading.truncation = Some(policy);
        self
    }

    /// Adds somebody who watches [`Event`]s.
    #[must_use]
    pub fn listener(mut self, listener: impl Listener) -> Self {
        self.listeners.push(Box::new(listener));
        self
    }

    /// Checks everything and makes a server, which consumes once it [runs](Server::run).
    ///
    /// # Errors
    /// [`ErrorKind::Config`], naming all problems of settings and routes at once.
    pub async fn build(mut self) -> Result<Server> {
        let mut problems = Problems::default();
        problems.check(self.settings.concurrency > 0, "concurrency", "is 0; it must be at least 1");
        let mut of_routes = Vec::new();
        routing::check(&mut self.routes.groups, &mut of_routes);
        problems.extend(of_routes);
        let both = self.client.is_some() && self.bootstrap_servers.is_some();
        let what = "both a client and bootstrap_servers are given; the client knows its cluster";
        problems.check(!both, "bootstrap.servers", what);
        let builder = Client::builder().client_id(self.name);
        let builder = self.bootstrap_servers.into_iter().fold(builder, ClientBuilder::bootstrap_servers);
        if self.client.is_none() {
            problems.extend(builder.problems());
        }
        problems.finish(())?;
        let client = match self.client {
            Some(client) => client,
            None => builder.build().await?,
        };
        let parts = Parts {
            client,
            groups: self.routes.groups,
            settings: self.settings,
            monitor: Monitor::new(self.listeners),
        };
        Server::new(parts)
    }

    /// Builds and runs the application until it is told to stop by SIGINT or SIGTERM, then finishes what runs. A second
    /// signal ends it at once ([`ShutdownHandle::stop_now`]).
    ///
    /// # Errors
    /// Those of [`build`](Self::build) and [`Server::run`].
    pub async fn run(self) -> Result<()> {
        let server = self.build().await?;
        let handle = server.handle();
        let signals = server.runtime().spawn(
            "signals",
            Box::pin(async move {
                crate::runtime::termination().await;
                handle.stop();
                crate::runtime::termination().await;
                handle.stop_now();
            }),
        );
        let result = server.run().await;
        signals.abort();
        result
    }
}
