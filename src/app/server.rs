//! A running application: one listener per consumer group, one pool of workers, one producer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::command::{Command, CommandError, Reply};
use super::directory::Directory;
use super::handle::ServerHandle;
use super::instrument::{Event, Monitor};
use super::management::Management;
use super::plan::Plan;
use super::processing::health::{Health, Trouble};
use super::processing::listener::{self, End, GroupListener, Shared};
use super::processing::workers::Workers;
use super::routing::GroupRoute;
use super::scheduler::Scheduler;
use super::settings::Settings;
use super::snapshot::ServerState;
use super::stop::Stop;
use super::supervisor::{Output, Supervisor};
use crate::client::Client;
use crate::error::Chain;
use crate::producer::ProducerConfig;
use crate::runtime::{AbortOnDrop, Runtime};
use crate::settings::Problems;
use crate::types::{GroupId, TopicName};
use crate::{Error, ErrorKind, Result};

/// What an application is made of, checked.
pub(crate) struct Parts {
    pub(crate) client: Client,
    /// The group of topics that are given without one.
    pub(crate) default_group: GroupId,
    pub(crate) groups: Vec<GroupRoute>,
    pub(crate) producer: ProducerConfig,
    pub(crate) settings: Settings,
    pub(crate) monitor: Monitor,
    pub(crate) scheduler: Option<Box<dyn Scheduler>>,
}

/// A built application. It consumes once it [runs](Self::run).
#[derive(Debug)]
pub struct Server {
    plans: Vec<Plan>,
    shared: Shared,
    stop: Stop,
    handle: ServerHandle,
    management: UnboundedReceiver<Management>,
}

impl Server {
    pub(crate) fn new(parts: Parts) -> Result<Self> {
        let Parts { client, default_group, groups, producer, settings, monitor, scheduler } = parts;
        let producer = client.producer().config(producer).build()?;
        let workers = Workers::new(settings.app.concurrency, scheduler);
        let stop = Stop::new(settings.app.shutdown_timeout);
        let plans: Vec<Plan> = groups.into_iter().map(|group| Plan::new(group, &settings)).collect();
        let directory = Directory::default();
        plans.iter().for_each(|plan| directory.add(&plan.group));
        let (manager, management) = unbounded_channel();
        let shared = Shared { client, producer, workers, health: Health::new(), settings, monitor };
        let handle = ServerHandle {
            workers: shared.workers.clone(),
            health: shared.health.clone(),
            stop: stop.clone(),
            directory,
            manager,
            default_group,
        };
        Ok(Self { plans, shared, stop, handle, management })
    }

    /// A handle that stops, asks and commands the application.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        self.shared.client.runtime()
    }

    /// Consumes until the application is told to [stop](ServerHandle::stop), then finishes what runs: handlers, then
    /// commits, leaving the groups and the producer, all within one
    /// [`shutdown_timeout`](super::App::shutdown_timeout).
    ///
    /// A group that cannot go on (the principal may not join it, its settings are refused, its member was fenced, …) ends
    /// nothing else. Its handlers finish as in a stop; then it is joined again after a pause of 1 s, 2 s, … 30 s
    /// ([`Event::ListenerRestarting`]), for as long as it takes. [`is_live`](ServerHandle::is_live) is false meanwhile.
    ///
    /// Dropping the future drops running handlers where they wait and leaves the groups without a last commit; what was
    /// not committed is handled again.
    ///
    /// # Errors
    /// Why groups could not go on that were not joined again before the end.
    /// [`ErrorKind::Timeout`] if the stop could not be finished in time, naming who did not return and what was not done.
    pub async fn run(self) -> Result<()> {
        let Self { plans, shared, stop, handle, mut management } = self;
        let directory = handle.directory.clone();
        directory.set_state(ServerState::Running);
        shared.monitor.emit(&Event::Running);
        let mut office = Office::new(shared.clone(), stop.clone(), directory.clone());
        plans.into_iter().for_each(|plan| office.add(plan));
        loop {
            office.carry_out();
            let next = office.supervisor.next_deadline();
            tokio::select! {
                biased; // A stop comes once; ends and commands are few.
                () = stop.begun() => break,
                Some((group, end)) = office.ends.recv() => office.on_end(&group, end),
                Some(command) = management.recv() => office.on_command(command),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    office.supervisor.handle_timeout(Instant::now());
                }
            }
        }
        directory.set_state(ServerState::Stopping);
        shared.monitor.emit(&Event::Stopping);
        drop(management);
        office.supervisor.handle_stop();
        while !office.supervisor.is_empty() {
            let Some((group, end)) = office.ends.recv().await else { break };
            office.on_end(&group, end);
        }
        let mut errors = office.into_errors();
        let flushed = tokio::select! {
            biased; // The producer ends at the same deadline, and knows better what was not sent.
            flushed = shared.producer.close(stop.left()) => flushed,
            () = stop.over() => {
                Err(Error::new(ErrorKind::Timeout, "the producer was not flushed in time"))
            }
        };
        errors.extend(flushed.err());
        directory.set_state(ServerState::Stopped);
        shared.monitor.emit(&Event::Stopped);
        one(errors)
    }
}

/// A listener that was started.
struct Started {
    stop: Stop,
    _task: AbortOnDrop,
}

/// Why a group does not go on.
struct Failing {
    error: Error,
    /// `None` while its listener has it.
    trouble: Option<Trouble>,
}

/// Where listeners are started and ended, as the supervisor says.
struct Office {
    shared: Shared,
    stop: Stop,
    directory: Directory,
    supervisor: Supervisor,
    plans: BTreeMap<GroupId, Plan>,
    started: BTreeMap<GroupId, Started>,
    failing: BTreeMap<GroupId, Failing>,
    /// Who waits for the end of a listener.
    waiting: BTreeMap<GroupId, Vec<Reply<()>>>,
    /// What went wrong at the end.
    errors: Vec<Error>,
    ends: UnboundedReceiver<(GroupId, End)>,
    ender: UnboundedSender<(GroupId, End)>,
}

impl Office {
    fn new(shared: Shared, stop: Stop, directory: Directory) -> Self {
        let (ender, ends) = unbounded_channel();
        Self {
            shared,
            stop,
            directory,
            supervisor: Supervisor::default(),
            plans: BTreeMap::new(),
            started: BTreeMap::new(),
            failing: BTreeMap::new(),
            waiting: BTreeMap::new(),
            errors: Vec::new(),
            ends,
            ender,
        }
    }

    fn add(&mut self, plan: Plan) {
        let group = plan.group.clone();
        self.directory.add(&group);
        self.plans.insert(group.clone(), plan);
        self.supervisor.handle_added(Instant::now(), group);
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.supervisor.poll_output() {
            match output {
                Output::Start(group) => self.start(&group),
                Output::Stop(group) => {
                    self.started.get(&group).into_iter().for_each(|started| started.stop.begin());
                }
                Output::Restarting(group, failures, delay) => self.tell_restart(&group, failures, delay),
                Output::Gone(group) => {
                    self.directory.remove(&group);
                    self.plans.remove(&group);
                    self.failing.remove(&group);
                    self.answer(&group, || Ok(()));
                }
            }
        }
    }

    fn start(&mut self, group: &GroupId) {
        let Some(plan) = self.plans.get(group) else { return };
        let trouble = self.failing.get_mut(group).and_then(|failing| failing.trouble.take());
        let source = match plan.source(&self.shared.client) {
            Ok(source) => source,
            Err(error) => {
                self.answer(group, || Err(CommandError::Failed(error.clone())));
                let end = End { failure: Some(error), errors: Vec::new(), joined: false, trouble };
                self.on_end(group, end);
                return;
            }
        };
        let stop = self.stop.part();
        let routes = plan.routes.subscribe();
        let parts = listener::Parts { group: group.clone(), source, routes, stop: stop.clone(), trouble };
        let listener = GroupListener::new(parts, self.shared.clone());
        self.directory.started(group, listener.commands());
        let reporter = Reporter { group: group.clone(), ender: self.ender.clone(), end: None };
        let task = self.shared.client.runtime().spawn(
            "group listener",
            Box::pin(async move {
                // The whole of it, so that it is dropped with the task.
                let mut reporter = reporter;
                reporter.end = Some(listener.run().await);
            }),
        );
        self.started.insert(group.clone(), Started { stop, _task: task.abort_on_drop() });
        self.answer(group, || Ok(()));
    }

    fn on_end(&mut self, group: &GroupId, end: End) {
        let End { failure, errors, joined, trouble } = end;
        self.started.remove(group);
        self.directory.ended(group);
        if joined {
            self.failing.remove(group);
        }
        let failed = failure.is_some();
        match failure {
            Some(error) => {
                let trouble = Some(trouble.unwrap_or_else(|| self.shared.health.trouble()));
                self.directory.failed(group, &error);
                self.failing.insert(group.clone(), Failing { error, trouble });
            }
            None => {
                if let Some(failing) = self.failing.get_mut(group) {
                    failing.trouble = trouble;
                }
            }
        }
        if self.stop.has_begun() {
            self.errors.extend(errors);
        }
        let dice = if failed { self.shared.client.runtime().random() } else { 0 };
        self.supervisor.handle_ended(Instant::now(), group, failed, dice);
    }

    fn tell_restart(&self, group: &GroupId, failures: u32, delay: Duration) {
        if let Some(Failing { error, .. }) = self.failing.get(group) {
            self.shared.monitor.emit(&Event::ListenerRestarting { group, failures, delay, error });
        }
    }

    fn answer(&mut self, group: &GroupId, answer: impl Fn() -> Result<(), CommandError>) {
        for reply in self.waiting.remove(group).into_iter().flatten() {
            // Whoever asked may have gone.
            let _ = reply.send(answer());
        }
    }

    fn on_command(&mut self, command: Management) {
        let (group, reply) = match command {
            Management::Add(groups, reply) => {
                let _ = reply.send(self.add_routes(groups));
                return;
            }
            Management::DropTopic(group, topic, reply) => {
                let _ = reply.send(self.drop_topic(&group, &topic));
                return;
            }
            Management::DropGroup(group, reply) | Management::Restart(group, reply)
                if !self.plans.contains_key(&group) =>
            {
                let _ = reply.send(Err(CommandError::UnknownGroup(group)));
                return;
            }
            Management::Restart(group, reply) if self.supervisor.is_dropping(&group) => {
                let _ = reply.send(Err(CommandError::Stopping));
                return;
            }
            Management::DropGroup(group, reply) => {
                if !self.supervisor.is_dropping(&group) {
                    // Who waits for it to be started again waits in vain.
                    for reply in self.waiting.remove(&group).into_iter().flatten() {
                        let _ = reply.send(Err(CommandError::Stopping));
                    }
                }
                self.supervisor.handle_dropped(&group);
                (group, reply)
            }
            Management::Restart(group, reply) => {
                self.supervisor.handle_restart(Instant::now(), &group);
                self.directory.restarted(&group);
                (group, reply)
            }
        };
        self.waiting.entry(group).or_default().push(reply);
    }

    fn add_routes(&mut self, groups: Vec<GroupRoute>) -> Result<(), CommandError> {
        if groups.iter().any(|group| self.supervisor.is_dropping(&group.id)) {
            return Err(CommandError::Stopping);
        }
        let (settings, mut problems) = (&self.shared.settings, Problems::default());
        for group in &groups {
            settings.check_group(&group.id, &group.consumer, &mut problems);
            let agrees = self.plans.get(&group.id).is_none_or(|known| known.agrees(&group.consumer));
            let what = "the group has its consumer already: settings come with its first routes";
            problems.check(agrees, &format!("groups.{}.consumer", group.id), what);
        }
        let plans: Vec<Plan> = groups.into_iter().map(|group| Plan::new(group, settings)).collect();
        for plan in &plans {
            let Some(known) = self.plans.get(&plan.group) else { continue };
            for topic in plan.topics() {
                let path = format!("groups.{}.routes.{topic}", plan.group);
                problems.check(!known.has(&topic), &path, "is there already");
            }
        }
        problems.finish(()).map_err(CommandError::Failed)?;
        for plan in plans {
            match self.plans.get(&plan.group) {
                None => self.add(plan),
                Some(known) => {
                    known.extend(plan);
                    self.directory.tell(&known.group, Command::Subscribe);
                }
            }
        }
        Ok(())
    }

    fn drop_topic(&mut self, group: &GroupId, topic: &TopicName) -> Result<(), CommandError> {
        let plan = self.plans.get(group).ok_or_else(|| CommandError::UnknownGroup(group.clone()))?;
        if !plan.remove(topic) {
            return Err(CommandError::UnknownTopic(topic.clone()));
        }
        self.directory.tell(group, Command::Subscribe);
        Ok(())
    }

    /// What is wrong at the end.
    fn into_errors(self) -> Vec<Error> {
        let failing = self.failing.into_values().map(|failing| failing.error);
        failing.chain(self.errors).collect()
    }
}

/// Tells the end of a listener, in whatever way it ends.
struct Reporter {
    group: GroupId,
    ender: UnboundedSender<(GroupId, End)>,
    end: Option<End>,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let panicked = || {
            let text = "the listener of a group panicked; this is a defect of carafe";
            let failure = Some(Error::new(ErrorKind::Internal, text));
            End { failure, errors: Vec::new(), joined: false, trouble: None }
        };
        // The server is gone when the application was dropped.
        let _ = self.ender.send((self.group.clone(), self.end.take().unwrap_or_else(panicked)));
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

    /// A listener that cannot even begin waits for its next attempt; who asks for it now learns why it comes to nothing.
    #[cfg(feature = "broker")]
    #[tokio::test(start_paused = true)]
    async fn a_restart_that_comes_to_nothing_is_answered() {
        use crate::app::routing::Routes;
        use crate::app::settings::Wishes;
        use crate::runtime::sim::SimRuntime;

        let runtime: Arc<dyn Runtime> = SimRuntime::new(1);
        let client =
            Client::builder().bootstrap_servers("nowhere:9092").runtime(runtime).build().await.unwrap();
        let mut routes = Routes::new("g".into());
        routes.group("g", |group| {
            group.consumer(|consumer| consumer.session_timeout(Duration::ZERO));
        });
        let parts = Parts {
            client,
            default_group: "g".into(),
            groups: routes.groups,
            producer: ProducerConfig::default(),
            settings: Wishes::default().settle("app", &[]).settings,
            monitor: Monitor::new(Vec::new()),
            scheduler: None,
        };
        let server = Server::new(parts).unwrap();
        let handle = server.handle();
        let asks = async {
            let before = Instant::now();
            let answer = handle.restart("g").await;
            assert!(matches!(&answer, Err(CommandError::Failed(error)) if error.kind() == ErrorKind::Config));
            assert_eq!(before.elapsed(), Duration::ZERO);
            handle.stop();
        };
        let (ended, ()) = tokio::join!(server.run(), asks);
        assert_eq!(ended.expect_err("it never began").kind(), ErrorKind::Config);
    }

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
