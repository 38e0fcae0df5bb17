//! A running application: one listener per consumer group, one pool of workers, one producer.

use std::sync::Arc;

use super::instrument::{Event, Monitor};
use super::processing::health::Health;
use super::processing::listener::{GroupListener, Shared};
use super::processing::workers::Workers;
use super::routing::GroupRoute;
use super::settings::Settings;
use super::stop::Stop;
use crate::client::Client;
use crate::error::Chain;
use crate::producer::ProducerConfig;
use crate::runtime::Runtime;
use crate::{Error, ErrorKind, Result};

/// What an application is made of, checked.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) groups: Vec<GroupRoute>,
    pub(crate) producer: ProducerConfig,
    pub(crate) settings: Settings,
    pub(crate) monitor: Monitor,
}

/// A built application. It consumes once it [runs](Self::run).
#[derive(Debug)]
pub struct Server {
    groups: Vec<GroupRoute>,
    shared: Shared,
}

/// Stops, scales and probes a [`Server`] from elsewhere.
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    workers: Workers,
    health: Health,
    stop: Stop,
}

impl ShutdownHandle {
    /// Asks the application to stop: nothing new starts, running handlers finish, offsets are committed, the groups are
    /// left, all within [`shutdown_timeout`](super::App::shutdown_timeout) from now. Returns at once; [`Server::run`]
    /// returns when it is done. Handlers of partitions that were lost are not waited for. Idempotent.
    pub fn stop(&self) {
        self.stop.begin();
    }

    /// Ends the application at once, whether it is stopping or not: running handlers are dropped where they wait, what is
    /// not committed is handled again by the next owner of its partition. [`Server::run`] returns an error that names what
    /// was not done.
    pub fn stop_now(&self) {
        self.stop.end();
    }

    /// Changes how many handlers run at once, at least 1. Running handlers finish; fewer take effect as they do.
    pub fn scale(&self, workers: usize) {
        self.workers.scale(workers);
    }

    /// For a liveness probe. False while
    ///
    /// * a handler has been running for longer than its route's [`stuck_after`](crate::app::TopicRoute::stuck_after),
    /// * a [condition](Event::Condition) lasts that concerns a group, a topic, a partition or a dead letter topic of the
    ///   application: no such topic, missing rights, no leader, no coordinator, a partition that stopped,
    /// * a partition stands because a dead letter of it is not accepted.
    ///
    /// Brokers that cannot be reached do not count: a restart mends none.
    pub fn is_live(&self) -> bool {
        self.health.is_live()
    }
}

impl Server {
    pub(crate) fn new(parts: Parts) -> Result<Self> {
        let Parts { client, groups, producer, settings, monitor } = parts;
        let producer = client.producer().config(producer).build()?;
        let workers = Workers::new(settings.app.concurrency);
        let stop = Stop::new(settings.app.shutdown_timeout);
        let shared = Shared { client, producer, workers, health: Health::new(), settings, monitor, stop };
        Ok(Self { groups, shared })
    }

    /// A handle that stops the application.
    pub fn handle(&self) -> ShutdownHandle {
        let Shared { workers, health, stop, .. } = &self.shared;
        ShutdownHandle { workers: workers.clone(), health: health.clone(), stop: stop.clone() }
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        self.shared.client.runtime()
    }

    /// Consumes until the application is told to [stop](ShutdownHandle::stop), then finishes what runs: handlers, then
    /// commits, leaving the groups and the producer, all within one
    /// [`shutdown_timeout`](super::App::shutdown_timeout).
    ///
    /// Dropping the future drops running handlers where they wait and leaves the groups without a last commit; what was
    /// not committed is handled again.
    ///
    /// # Errors
    /// What makes consuming impossible (authorization, a fenced member, …): the other groups are stopped in order first.
    /// [`ErrorKind::Timeout`] if the stop could not be finished in time, naming who did not return and what was not done.
    pub async fn run(self) -> Result<()> {
        let Self { groups, shared } = self;
        let Shared { client, producer, monitor, stop, .. } = &shared;
        monitor.emit(&Event::Running);
        let mut listeners = Vec::new();
        for group in groups {
            let listener = GroupListener::new(group, shared.clone())?;
            let (done, result) = tokio::sync::oneshot::channel();
            let ends = StopAtEnd(stop.clone());
            let task = client.runtime().spawn(
                "group listener",
                Box::pin(async move {
                    let _ends = ends;
                    let _ = done.send(listener.run().await);
                }),
            );
            listeners.push((task.abort_on_drop(), result));
        }
        stop.begun().await;
        monitor.emit(&Event::Stopping);
        let mut errors = Vec::new();
        for (task, result) in listeners {
            errors.extend(result.await.unwrap_or_else(|_| {
                let text = "the listener of a group panicked; this is a defect of carafe";
                vec![Error::new(ErrorKind::Internal, text)]
            }));
            drop(task);
        }
        let flushed = tokio::select! {
            biased; // The producer ends at the same deadline, and knows better what was not sent.
            flushed = producer.close(stop.left()) => flushed,
            () = stop.over() => {
                Err(Error::new(ErrorKind::Timeout, "the producer was not flushed in time"))
            }
        };
        errors.extend(flushed.err());
        monitor.emit(&Event::Stopped);
        one(errors)
    }
}

/// A listener that ends, in whatever way, ends the application.
struct StopAtEnd(Stop);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.begin();
    }
}

/// One error that tells all with their causes, of the kind of the first.
fn one(mut errors: Vec<Error>) -> Result<()> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => {
            let texts: Vec<String> = errors.iter().map(|error| Chain(error).to_string()).collect();
            Err(Error::new(errors[0].kind(), texts.join("; ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_errors_everything_is_told_once() {
        let cause = || Error::new(ErrorKind::Network, "nobody listens");
        let first = Error::new(ErrorKind::Timeout, "not left").with_advice("wait").with_source(cause());
        let error = one(vec![first, Error::new(ErrorKind::Internal, "panicked")]).expect_err("two");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let text = Chain(&error).to_string();
        for part in ["not left", "wait", "nobody listens", "panicked"] {
            assert_eq!(text.matches(part).count(), 1, "{part:?} in {text}");
        }
    }
}
