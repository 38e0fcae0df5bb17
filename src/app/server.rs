//! A running application: one listener per consumer group, one pool of workers, one producer.

use std::sync::Arc;
use std::time::Duration;

use super::Settings;
use super::instrument::{Event, Monitor};
use super::processing::health::Health;
use super::processing::listener::GroupListener;
use super::processing::workers::Workers;
use super::routing::GroupRoute;
use crate::client::Client;
use crate::producer::Producer;
use crate::runtime::Runtime;
use crate::runtime::watch;
use crate::{Error, ErrorKind, Result};

/// What an application is made of, checked.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) groups: Vec<GroupRoute>,
    pub(crate) settings: Settings,
    pub(crate) monitor: Monitor,
}

/// A built application. It consumes once it [runs](Self::run).
#[derive(Debug)]
pub struct Server {
    parts: Parts,
    producer: Producer,
    workers: Workers,
    health: Health,
    stop: Arc<watch::Sender<bool>>,
}

/// Stops, scales and probes a [`Server`] from elsewhere.
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    workers: Workers,
    health: Health,
    stop: Arc<watch::Sender<bool>>,
}

impl ShutdownHandle {
    /// Asks the application to stop: nothing new starts, running handlers finish, offsets are committed, the groups are
    /// left. Returns at once; [`Server::run`] returns when it is done. Idempotent.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Changes how many handlers run at once, at least 1. Running handlers finish; fewer take effect as they do.
    pub fn scale(&self, workers: usize) {
        self.workers.scale(workers);
    }

    /// False while a handler has been running for longer than its route's
    /// [`stuck_after`](crate::app::TopicRoute::stuck_after): for a liveness probe.
    pub fn is_live(&self) -> bool {
        self.health.is_live()
    }
}

impl Server {
    pub(crate) fn new(parts: Parts) -> Result<Self> {
        let producer = parts.client.producer().build()?;
        let workers = Workers::new(parts.settings.concurrency);
        Ok(Self {
            parts,
            producer,
            workers,
            health: Health::new(),
            stop: Arc::new(watch::Sender::new(false)),
        })
    }

    /// A handle that stops the application.
    pub fn handle(&self) -> ShutdownHandle {
        ShutdownHandle { workers: self.workers.clone(), health: self.health.clone(), stop: self.stop.clone() }
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        self.parts.client.runtime()
    }

    /// Consumes until the application is told to [stop](ShutdownHandle::stop), then finishes what runs: handlers for up
    /// to `shutdown_timeout`, then commits, leaves the groups and flushes the producer.
    ///
    /// Dropping the future drops running handlers where they wait and leaves the groups without a last commit; what was
    /// not committed is handled again.
    ///
    /// # Errors
    /// What makes consuming impossible (authorization, a fenced member, …): the other groups are stopped in order first.
    /// [`ErrorKind::Timeout`] if handlers had to be dropped.
    pub async fn run(self) -> Result<()> {
        let Parts { client, groups, settings, monitor } = self.parts;
        monitor.emit(&Event::Running);
        let mut listeners = Vec::new();
        for group in groups {
            let listener = GroupListener::new(
                group,
                &client,
                self.producer.clone(),
                self.workers.clone(),
                self.health.clone(),
                settings,
                monitor.clone(),
            )?;
            let stop = self.stop.clone();
            let (done, result) = tokio::sync::oneshot::channel();
            let task = client.runtime().spawn(
                "group listener",
                Box::pin(async move {
                    let result = listener.run(stop.subscribe()).await;
                    // One group that cannot go on ends the application, in order.
                    if result.is_err() {
                        stop.send_replace(true);
                    }
                    let _ = done.send(result);
                }),
            );
            listeners.push((task.abort_on_drop(), result));
        }
        let mut stopping = self.stop.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = stopping.wait_for(|&stop| stop).await;
        monitor.emit(&Event::Stopping);
        let mut outcome = Ok(());
        for (task, result) in listeners {
            let result = result.await.unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Handler,
                    "the listener of a group panicked; this is a defect of carafe",
                ))
            });
            drop(task);
            outcome = outcome.and(result);
        }
        let flushed = self.producer.close(Duration::from_secs(10)).await;
        monitor.emit(&Event::Stopped);
        outcome.and(flushed)
    }
}
