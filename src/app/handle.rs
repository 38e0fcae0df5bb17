//! The handle of a running application: stops it, asks how it is, and tells it what to do.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::command::{Act, Command, CommandError, ask};
use super::directory::Directory;
use super::management::Management;
use super::processing::health::Health;
use super::processing::workers::Workers;
use super::routing::{self, Routes};
use super::snapshot::{ServerState, Snapshot};
use super::stop::Stop;
use crate::settings::Problems;
use crate::types::{GroupId, Offset, TopicName, TopicPartition};
use crate::{Error, ErrorKind, deadline};

/// Stops, scales, probes and commands a [`Server`](super::Server) from elsewhere. Cheap to clone.
///
/// ```no_run
/// # use std::time::Duration;
/// # use carafe::{prelude::*, types::TopicPartition};
/// # async fn example(app: App) -> carafe::Result<()> {
/// let server = app.build().await?;
/// let handle = server.handle();
/// tokio::spawn(server.run());
/// handle.pause("shop", &TopicPartition::new("orders", 0), Duration::from_secs(60)).await?;
/// let snapshot = handle.snapshot().await;
/// println!("{} of {} workers are busy", snapshot.workers.busy, snapshot.workers.size);
/// # Ok(())
/// # }
/// ```
///
/// Commands are carried out by the listener of a group, which never waits for a handler, so answers come at once unless
/// their method says otherwise. All of them are cancel-safe in the same way: dropping the future gives up the answer, and the
/// command may be carried out nonetheless. A partition is commanded in the process that it is assigned to; pauses end with
/// the assignment.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    pub(super) workers: Workers,
    pub(super) health: Health,
    pub(super) stop: Stop,
    pub(super) directory: Directory,
    pub(super) manager: UnboundedSender<Management>,
    pub(super) default_group: GroupId,
}

impl ServerHandle {
    /// Asks the application to stop: nothing new starts, running handlers finish, offsets are committed, the groups are
    /// left, all within [`shutdown_timeout`](super::App::shutdown_timeout) from now. Returns at once; [`Server::run`](super::Server::run)
    /// returns when it is done. Handlers of partitions that were lost are not waited for. Idempotent.
    pub fn stop(&self) {
        self.stop.begin();
    }

    /// Ends the application at once, whether it is stopping or not: running handlers are dropped where they wait, what is
    /// not committed is handled again by the next owner of its partition. [`Server::run`](super::Server::run) returns an
    /// error that names what was not done.
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
    /// * a [condition](super::Event::Condition) lasts that concerns a group, a topic, a partition or a dead letter topic of
    ///   the application: no such topic, missing rights, no leader, no coordinator, a partition that stopped,
    /// * a partition stands because a dead letter of it is not accepted,
    /// * a group cannot go on and was not joined again since.
    ///
    /// Brokers that cannot be reached do not count: a restart mends none.
    pub fn is_live(&self) -> bool {
        self.health.is_live()
    }

    /// The groups of the application, by name.
    pub fn groups(&self) -> Vec<GroupId> {
        self.directory.groups()
    }

    /// Begins nothing of the partition for `pause` from now on, in place of what was said before. A handler that runs
    /// runs on, but one of [single messages](super::TopicRoute::handler) stops before the next message; what it has not
    /// handled comes after the pause. `Duration::MAX` pauses until it is [resumed](Self::resume) or the partition goes away.
    /// One batch of the partition is kept meanwhile.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn pause(
        &self,
        group: impl Into<GroupId>,
        partition: &TopicPartition,
        pause: Duration,
    ) -> Result<(), CommandError> {
        self.act(group.into(), partition, Act::Pause(deadline::after(Instant::now(), pause))).await
    }

    /// Ends the pauses of the partition that handlers and programs asked for; retries and throttles wait on.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn resume(
        &self,
        group: impl Into<GroupId>,
        partition: &TopicPartition,
    ) -> Result<(), CommandError> {
        self.act(group.into(), partition, Act::Resume).await
    }

    /// Goes on with the partition at `offset`, at once if nothing of it runs, otherwise when what runs has returned; nothing
    /// else of the old position begins. Retries and dead letters of the old position are void. A handler of [single
    /// messages](super::TopicRoute::handler) stops before the next message. What was committed changes with the next mark,
    /// also to a lower offset.
    ///
    /// # Errors
    /// [`CommandError`]; [`Config`](ErrorKind::Config) if the offset is negative.
    pub async fn seek(
        &self,
        group: impl Into<GroupId>,
        partition: &TopicPartition,
        offset: Offset,
    ) -> Result<(), CommandError> {
        if offset.0 < 0 {
            let text = format!("offset {offset} of {partition} is negative");
            return Err(CommandError::Failed(Error::new(ErrorKind::Config, text)));
        }
        self.act(group.into(), partition, Act::Seek(offset)).await
    }

    /// Commits what handlers of the partition have marked so far, those that run included, and waits for the coordinator's
    /// answer, up to the client's `api_timeout`. Returns the offset at which the group goes on; `None` if nothing was marked
    /// since the partition was assigned.
    ///
    /// # Errors
    /// [`CommandError`]; [`Failed`](CommandError::Failed) with the coordinator's refusal.
    pub async fn commit(
        &self,
        group: impl Into<GroupId>,
        partition: &TopicPartition,
    ) -> Result<Option<Offset>, CommandError> {
        let (commands, partition) = (self.directory.commands(&group.into())?, partition.clone());
        ask(&commands, |reply| Command::Commit { partition, reply }).await
    }

    /// Begins nothing new in any group, and keeps the memberships: running handlers finish, handlers of [single
    /// messages](super::TopicRoute::handler) stop before the next one, and what they did is committed. Lasts until
    /// [`unquiet`](Self::unquiet), also for partitions that are assigned later, groups that are added and listeners that are
    /// started again. When all has finished, [`snapshot`](Self::snapshot) shows no jobs. Karafka's *quiet*, which has no way
    /// back.
    ///
    /// # Errors
    /// [`CommandError::Stopping`].
    pub async fn quiet(&self) -> Result<(), CommandError> {
        self.set_quiet(true).await
    }

    /// Ends [`quiet`](Self::quiet): goes on where it was.
    ///
    /// # Errors
    /// [`CommandError::Stopping`].
    pub async fn unquiet(&self) -> Result<(), CommandError> {
        self.set_quiet(false).await
    }

    /// Adds routes to the running application, defined and checked as for [`App::routes`](super::App::routes): topics of
    /// groups that it has are subscribed to, other groups are joined. Returns when that has begun.
    ///
    /// # Errors
    /// [`CommandError::Failed`] of kind [`Config`](ErrorKind::Config), with all problems, if a route is wrong or there
    /// already; nothing is added then. [`CommandError::Stopping`], also while a group of them is being left.
    pub async fn add_routes(&self, define: impl FnOnce(&mut Routes)) -> Result<(), CommandError> {
        let mut routes = Routes::new(self.default_group.clone());
        define(&mut routes);
        let mut problems = Problems::default();
        routing::check(&mut routes.groups, &self.default_group, &mut problems);
        problems.finish(()).map_err(CommandError::Failed)?;
        ask(&self.manager, |reply| Management::Add(routes.groups, reply)).await
    }

    /// Unsubscribes a group from a topic. Its partitions are given back in order, by a rebalance; what comes until then is
    /// handled. Returns when that has begun.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn drop_topic(
        &self,
        group: impl Into<GroupId>,
        topic: impl Into<TopicName>,
    ) -> Result<(), CommandError> {
        let (group, topic) = (group.into(), topic.into());
        ask(&self.manager, |reply| Management::DropTopic(group, topic, reply)).await
    }

    /// Leaves a group for good: running handlers finish and offsets are committed, as in a stop of the application, within
    /// its [`shutdown_timeout`](super::App::shutdown_timeout). Returns when that is done.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn drop_group(&self, group: impl Into<GroupId>) -> Result<(), CommandError> {
        let group = group.into();
        ask(&self.manager, |reply| Management::DropGroup(group, reply)).await
    }

    /// Leaves a group in order, as in a stop of the application, and joins it again as a new member with new fetch sessions.
    /// Returns when the old membership has ended and the new one begins. A listener that waits after a failure is started
    /// at once.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn restart(&self, group: impl Into<GroupId>) -> Result<(), CommandError> {
        let group = group.into();
        ask(&self.manager, |reply| Management::Restart(group, reply)).await
    }

    /// A picture of the application at this moment.
    pub async fn snapshot(&self) -> Snapshot {
        let mut listeners = Vec::new();
        for group in self.directory.groups() {
            let listener = match self.directory.commands(&group) {
                Ok(commands) => ask(&commands, Command::Snapshot).await.ok(),
                Err(_) => None,
            };
            listeners.push(self.directory.complete(&group, listener));
        }
        let state = match self.directory.state() {
            ServerState::Running if self.stop.has_begun() => ServerState::Stopping,
            state => state,
        };
        Snapshot {
            version: Snapshot::VERSION,
            state,
            live: self.is_live(),
            workers: self.workers.snapshot(),
            listeners,
        }
    }

    async fn act(&self, group: GroupId, partition: &TopicPartition, act: Act) -> Result<(), CommandError> {
        let (commands, partition) = (self.directory.commands(&group)?, partition.clone());
        ask(&commands, |reply| Command::Act { partition, act, reply }).await
    }

    async fn set_quiet(&self, on: bool) -> Result<(), CommandError> {
        if self.stop.has_begun() {
            return Err(CommandError::Stopping);
        }
        for commands in self.directory.set_quiet(on) {
            // A listener that ends meanwhile has nothing to begin.
            let _ = ask(&commands, |reply| Command::Quiet { on, reply }).await;
        }
        Ok(())
    }
}
