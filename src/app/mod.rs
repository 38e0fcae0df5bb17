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
mod command;
mod consumer;
mod context;
mod directory;
mod error_history;
mod handle;
mod handler_error;
mod instrument;
mod letter;
mod management;
mod payload;
mod plan;
mod policies;
mod policy;
mod processing;
mod produced;
pub mod routing;
mod scheduler;
mod server;
mod settings;
mod snapshot;
mod source;
mod stop;
mod supervisor;

use std::fmt;
use std::time::Duration;

pub use batch::{AtOffset, Batch, Iter, Message, MessageRef};
pub use command::CommandError;
pub use consumer::Consumer;
pub use context::{Context, ContextProducer};
pub use error_history::ErrorHistory;
pub use handle::ServerHandle;
pub use handler_error::{HandlerError, HandlerResult};
pub use instrument::{Event, FailedRun, Listener, OwnedEvent};
pub use letter::GivenUp;
pub use payload::{Json, Payload, Raw, Text};
pub use policies::*;
pub use policy::Policy;
pub use routing::{GroupRoute, Routes, TopicRoute};
pub use scheduler::{LongestFirst, Scheduler, WaitingJob};
pub use server::Server;
pub use settings::{AppConfig, RouteConfig};
pub use snapshot::{
    JobKind, JobSnapshot, ListenerSnapshot, ListenerState, PartitionPhase, PartitionSnapshot, PauseCause,
    PauseSnapshot, ServerState, Snapshot, WorkersSnapshot,
};

use crate::Result;
use crate::client::{Client, ClientConfig};
use crate::consumer::{ConsumerConfig, FirstStart, OutOfRange, Truncation};
use crate::producer::ProducerConfig;
use crate::types::GroupId;
use instrument::Monitor;
use server::Parts;
use settings::{Settled, Wishes};

/// Configuration and routes of an application, checked once by [`build`](Self::build).
pub struct App {
    name: String,
    bootstrap_servers: Option<String>,
    client: Option<Client>,
    routes: Routes,
    wishes: Wishes,
    listeners: Vec<Box<dyn Listener>>,
    scheduler: Option<Box<dyn Scheduler>>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("name", &self.name)
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("client", &self.client)
            .field("routes", &self.routes)
            .field("wishes", &self.wishes)
            .field("listeners", &self.listeners.len())
            .field("scheduler", &self.scheduler.is_some())
            .finish()
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
            wishes: Wishes::default(),
            listeners: Vec::new(),
            scheduler: None,
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

    /// Settings from properties, for the application, its client, its producer and its consumers alike, with the names of
    /// Java's clients or librdkafka; `docs/configuration.md` lists them. Setters and the
    /// [environment](Self::environment) go before them, whichever came first.
    #[must_use]
    pub fn properties<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.wishes.given.properties(properties);
        self
    }

    /// [Properties](Self::properties) from the text of a file: `name=value` or `name: value` on each line, `#` or `!` before
    /// comments.
    #[must_use]
    pub fn properties_text(mut self, text: &str) -> Self {
        self.wishes.given.text(text, &mut self.wishes.problems);
        self
    }

    /// Settings from variables of the environment, as [`std::env::vars`] gives them: `CARAFE_` and the name of a property in
    /// capital letters, with `_` for each dot. Setters go before them.
    #[must_use]
    pub fn environment<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.wishes.given.environment(variables);
        self
    }

    /// Changes settings of the application itself.
    #[must_use]
    pub fn configure(mut self, change: impl Fn(AppConfig) -> AppConfig + Send + Sync + 'static) -> Self {
        self.wishes.app.push(change);
        self
    }

    /// Changes settings of the application's own client.
    #[must_use]
    pub fn connection(
        mut self,
        change: impl Fn(ClientConfig) -> ClientConfig + Send + Sync + 'static,
    ) -> Self {
        self.wishes.client.push(change);
        self
    }

    /// Changes settings of the producer that handlers and dead letters use.
    ///
    /// ```
    /// # use carafe::prelude::*;
    /// use carafe::producer::Compression;
    ///
    /// let app = App::new("shop")
    ///     .producer(|producer| producer.compression(Compression::Zstd))
    ///     .consumer(|consumer| consumer.max_bytes(8 << 20))
    ///     .routes(|routes| {
    ///         routes.group("billing", |group| {
    ///             group.consumer(|consumer| consumer.max_bytes(1 << 20));
    ///         });
    ///     });
    /// ```
    #[must_use]
    pub fn producer(
        mut self,
        change: impl Fn(ProducerConfig) -> ProducerConfig + Send + Sync + 'static,
    ) -> Self {
        self.wishes.producer.push(change);
        self
    }

    /// Changes settings of all consumers; [`GroupRoute::consumer`] those of one group. They begin with the defaults, but for
    /// [`out_of_range`](Self::out_of_range). `hold_after_delivery` and `auto_store` are the application's own affair.
    #[must_use]
    pub fn consumer(
        mut self,
        change: impl Fn(ConsumerConfig) -> ConsumerConfig + Send + Sync + 'static,
    ) -> Self {
        self.wishes.consumer.push(change);
        self
    }

    /// Adds routes.
    #[must_use]
    pub fn routes(mut self, define: impl FnOnce(&mut Routes)) -> Self {
        define(&mut self.routes);
        self
    }

    /// How many handlers run at once, at least 1; default 5. Can be changed while the application runs
    /// ([`ServerHandle::scale`]).
    #[must_use]
    pub fn concurrency(self, workers: usize) -> Self {
        self.configure(move |app| app.concurrency(workers))
    }

    /// Chooses which of the jobs that wait for a worker runs next, such as [`LongestFirst`]. Default: in the order in which
    /// they came.
    #[must_use]
    pub fn scheduler(mut self, scheduler: impl Scheduler) -> Self {
        self.scheduler = Some(Box::new(scheduler));
        self
    }

    /// How long a stop may take in all, from [`ServerHandle::stop`] or the signal on; default 25 s. Running handlers have
    /// it less a fifth, 2 s at most, which is kept for last commits, leaving the groups and the producer; then they are
    /// dropped where they wait. Zero drops them at once, `Duration::MAX` waits for them without limit.
    #[must_use]
    pub fn shutdown_timeout(self, time: Duration) -> Self {
        self.configure(move |app| app.shutdown_timeout(time))
    }

    /// How long a revocation waits for running handlers before the partition counts as lost; default 30 s. The group's
    /// rebalance timeout, less 6 s, bounds it as well. Marks made until then are committed.
    #[must_use]
    pub fn revoke_timeout(self, time: Duration) -> Self {
        self.configure(move |app| app.revoke_timeout(time))
    }

    /// Where partitions begin for which the group has committed nothing (`auto.offset.reset`); default: at their first
    /// offset.
    #[must_use]
    pub fn first_start(self, policy: FirstStart) -> Self {
        self.consumer(move |consumer| consumer.first_start(policy))
    }

    /// What happens when a partition no longer has the position, because retention has passed it
    /// (`auto.offset.reset`). Default: it goes on at the first offset that there is, with an
    /// [`Event::PositionReset`]. [`OutOfRange::Stop`] leaves the partition to a person, with a [condition](Event::Condition) that lasts.
    #[must_use]
    pub fn out_of_range(self, policy: OutOfRange) -> Self {
        self.consumer(move |consumer| consumer.out_of_range(policy))
    }

    /// What happens when a partition was truncated below the position (KIP-320). Default: it stops, with a
    /// [condition](Event::Condition) that lasts.
    #[must_use]
    pub fn truncation(self, policy: Truncation) -> Self {
        self.consumer(move |consumer| consumer.truncation(policy))
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
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), naming all problems of settings and routes at once.
    pub async fn build(mut self) -> Result<Server> {
        let topics = |group: &GroupRoute| group.topics.iter().map(|route| route.topic.clone()).collect();
        let groups: Vec<_> =
            self.routes.groups.iter().map(|group| (group.id.clone(), topics(group))).collect();
        if let Some(servers) = self.bootstrap_servers {
            self.wishes.client.push(move |client| client.bootstrap_servers(servers.as_str()));
        }
        let Settled { client, of_client, producer, settings, routes, mut problems } =
            self.wishes.settle(&self.name, &groups);
        if !settings.app.group_id.is_empty() {
            self.routes.groups[0].id = GroupId::from(settings.app.group_id.as_str());
        }
        let of_routes = self.routes.groups.iter_mut().flat_map(|group| &mut group.topics);
        of_routes.zip(routes.into_iter().flatten()).for_each(|(route, given)| route.given = given);
        let own = self.routes.groups[0].id.clone();
        routing::check(&mut self.routes.groups, &own, &mut problems);
        for group in &self.routes.groups {
            settings.check_group(&group.id, &group.consumer, &mut problems);
        }
        let builder = Client::builder().config(client);
        match &self.client {
            Some(_) => {
                let what = "both a client and settings of one are given; the client knows its cluster";
                problems.check(!of_client, "bootstrap.servers", what);
            }
            None => problems.extend(builder.problems()),
        }
        problems.finish(())?;
        let client = match self.client {
            Some(client) => client,
            None => builder.build().await?,
        };
        let parts = Parts {
            client,
            default_group: own,
            groups: self.routes.groups,
            producer,
            settings,
            monitor: Monitor::new(self.listeners),
            scheduler: self.scheduler,
        };
        Server::new(parts)
    }

    /// Builds and runs the application until it is told to stop by SIGINT or SIGTERM, then finishes what runs. A second
    /// signal ends it at once ([`ServerHandle::stop_now`]).
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
