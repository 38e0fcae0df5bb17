//! The tasks that fetch: one that follows leaders and starts look-ups, and one per broker that owns a fetch session.
//! They carry answers to [`Positions`](crate::consumer::positions::Positions) and decide nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep_until};

use super::fetcher::{Fetcher, FetcherConfig, Output, Part};
use super::offsets::{by_leader, call, look_up};
use super::part::Reading;
use super::sightings::{partition_count, sighting};
use crate::cluster::{Cluster, Connection, Duty, Metadata};
use crate::consumer::condition_pump::ConditionPump;
use crate::consumer::config::ConsumerConfig;
use crate::consumer::core::Core;
use crate::consumer::event::ConsumerEvent;
use crate::consumer::positions::{Fetched, Planned};
use crate::runtime::{AbortOnDrop, watch};
use crate::sync::budget::{Credit, MemoryBudget};
use crate::types::{NodeId, TopicPartition};
use crate::wire::ApiKey;
use crate::wire::compression::Decompressor;
use crate::wire::fetch::{self, Request, Response};
use crate::{Error, ErrorKind};

/// What all tasks of a consumer's fetching need.
#[derive(Clone, Debug)]
pub(crate) struct Fetching {
    pub(crate) cluster: Cluster,
    pub(crate) core: Arc<Core>,
    pub(crate) config: Arc<ConsumerConfig>,
    pub(crate) budget: MemoryBudget,
    /// Names this consumer's connections and conditions.
    pub(crate) id: u64,
}

impl Fetching {
    /// Starts the tasks; they end with the guard.
    pub(crate) fn start(self) -> AbortOnDrop {
        let runtime = Arc::clone(self.cluster.runtime());
        runtime.spawn("carafe-positions", Box::pin(self.run())).abort_on_drop()
    }

    /// Follows leaders, starts look-ups, keeps one fetch task per leader, and tells what keeps partitions from going on.
    async fn run(self) {
        let _release = Release(&self);
        let mut metadata = self.cluster.subscribe();
        let mut changes = self.core.changes();
        let mut conditions = ConditionPump::new(self.cluster.clone(), self.id, Arc::clone(&self.core));
        let mut nodes: BTreeMap<NodeId, AbortOnDrop> = BTreeMap::new();
        let mut pressed = 0;
        let mut followed = None;
        loop {
            changes.mark_unchanged();
            let now = Instant::now();
            let snapshot = Arc::clone(&metadata.borrow_and_update());
            let interest = (snapshot.generation, self.core.interest());
            if followed.replace(interest) != Some(interest) {
                self.follow_leaders(&snapshot);
            }
            self.start_lookups(now);
            conditions.report();
            let (wanted, next) = self.core.with(|positions| (positions.nodes(), positions.next_deadline()));
            nodes.retain(|node, _| wanted.contains(node));
            for node in wanted {
                nodes.entry(node).or_insert_with(|| {
                    let session = SessionTask::new(self.clone(), node);
                    let task = self.cluster.runtime().spawn("carafe-fetch", Box::pin(session.run()));
                    task.abort_on_drop()
                });
            }
            // Biased: the order does not matter, since every turn looks at everything; conditions are rare.
            tokio::select! {
                biased;
                changed = metadata.changed() => if changed.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                () = conditions.tell() => {}
                count = self.budget.pressed(pressed) => {
                    pressed = count;
                    if self.core.with(|positions| positions.shed()) {
                        self.core.wake_tasks();
                    }
                }
                () = sleep_until_some(next) => {}
            }
        }
    }

    fn follow_leaders(&self, snapshot: &Metadata) {
        let topics = self.core.topics();
        self.cluster.use_topics(&topics);
        let (missing, changed) = self.core.with(|positions| {
            for topic in &topics {
                if let Some(count) = partition_count(snapshot, topic) {
                    positions.handle_topic_seen(topic, count);
                }
            }
            let before = positions.latest_version();
            let missing = positions.handle_leaders(|partition| sighting(snapshot, partition));
            (missing, before != positions.latest_version())
        });
        for topic in missing {
            self.cluster.want_topic(&topic, false);
        }
        if changed {
            self.core.wake_tasks();
            // Topics may have been recreated.
            self.core.wake_app();
        }
    }

    fn start_lookups(&self, now: Instant) {
        let lookups = self.core.with(|positions| {
            positions.handle_timeout(now);
            positions.lookups()
        });
        for (leader, lookups) in by_leader(lookups) {
            let (cluster, core, isolation) =
                (self.cluster.clone(), Arc::clone(&self.core), self.config.isolation);
            let call = call(now, self.id);
            let work = async move { look_up(cluster, call, &core, leader, lookups, isolation).await };
            self.cluster.runtime().spawn("carafe-offsets", Box::pin(work));
        }
    }
}

/// Closes the fetch connections when fetching ends.
struct Release<'a>(&'a Fetching);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.cluster.release(Duty::Fetch(self.0.id));
        self.0.cluster.release(Duty::Slow(self.0.id));
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The task of one broker's session.
struct SessionTask {
    fetching: Fetching,
    node: NodeId,
    dice: fastrand::Rng,
    machine: Fetcher,
    connection: Option<Connection>,
    /// For the answer that is awaited or being read.
    credit: Option<Credit>,
    /// How often memory had come back when the latest plan was made.
    returns: u64,
    decompressor: Decompressor,
}

impl SessionTask {
    fn new(fetching: Fetching, node: NodeId) -> Self {
        let cluster = fetching.cluster.config();
        let config = FetcherConfig {
            consumer: Arc::clone(&fetching.config),
            backoff: cluster.retry_backoff,
            request_timeout: cluster.connection.request_timeout,
        };
        Self {
            dice: fetching.cluster.runtime().dice(),
            fetching,
            node,
            machine: Fetcher::new(config),
            connection: None,
            credit: None,
            returns: 0,
            decompressor: Decompressor::new(),
        }
    }

    async fn run(mut self) {
        let budget = self.fetching.budget.clone();
        let core = Arc::clone(&self.fetching.core);
        let _share = budget.session();
        let mut changes = core.changes();
        loop {
            self.note(&mut changes);
            match self.machine.poll_output() {
                Some(Output::End(error)) => return core.fail(error),
                Some(Output::Reserve { least, wanted, patience }) => {
                    self.credit = None;
                    let credit = reserve(&budget, least, wanted, patience).await;
                    self.note(&mut changes);
                    self.machine.handle_credit(Instant::now(), credit.bytes());
                    self.credit = Some(credit);
                }
                Some(output) => self.perform(output).await,
                None => {
                    self.credit = None;
                    let (at, starving) = (self.machine.next_deadline(), self.machine.is_starving());
                    // Biased: whichever comes first leads to the same look at everything.
                    tokio::select! {
                        biased;
                        // Who changes something lives as long as this.
                        _ = changes.changed() => self.machine.handle_change(),
                        () = budget.returned(self.returns), if starving => self.machine.handle_memory(),
                        () = sleep_until_some(at) => self.machine.handle_timeout(Instant::now()),
                    }
                }
            }
        }
    }

    /// Tells the machine if anything changed.
    fn note(&mut self, changes: &mut watch::Receiver<u64>) {
        if changes.has_changed() {
            changes.mark_unchanged();
            self.machine.handle_change();
        }
    }

    async fn perform(&mut self, output: Output) {
        let cluster = self.fetching.cluster.clone();
        let core = Arc::clone(&self.fetching.core);
        match output {
            Output::Plan => {
                self.returns = self.fetching.budget.returns();
                let now = Instant::now();
                let plan = core.with(|positions| positions.plan(self.node, now));
                self.machine.handle_plan(now, plan);
            }
            Output::Connect(deadline) => {
                match cluster.connection(self.node, Duty::Fetch(self.fetching.id), deadline).await {
                    Ok(connection) => self.speak(connection),
                    Err(error) => self.machine.handle_unreachable(Instant::now(), self.dice.u64(..), error),
                }
            }
            Output::Check(planned) => {
                core.update(|positions| planned.iter().for_each(|planned| positions.check_epoch(planned)));
            }
            Output::Send { request, version, deadline } => self.send(&request, version, deadline).await,
            Output::Read(part) => self.read(*part).await,
            Output::Refused { planned, refusal, leader } => {
                let TopicPartition { topic, partition } = &planned.partition;
                let known = leader.is_some_and(|(leader, endpoints)| {
                    cluster.leader_hint(topic, planned.topic_id, *partition, leader, &endpoints)
                });
                if refusal.is_doubt(known) {
                    cluster.leader_failed(topic);
                }
                self.tell(&planned, refusal.fetched(&planned, known));
            }
            Output::Answered { news } => {
                self.credit = None;
                if news {
                    // What was fetched is planned anew by everyone; those who wait for records wake here.
                    core.wake_tasks();
                    core.wake_app();
                }
            }
            Output::Doubt(topic) => cluster.leader_failed(&topic),
            Output::Well => core.with(|positions| positions.handle_node_well(self.node)),
            Output::Failed { error, tell } => {
                tracing::debug!(node = %self.node, %error, "fetch failed");
                core.with(|positions| positions.handle_node_failed(self.node, error.clone()));
                core.wake_tasks();
                if tell {
                    core.emit(ConsumerEvent::FetchFailed { node: self.node, error });
                }
            }
            // Are met by `run`.
            Output::Reserve { .. } | Output::End(_) => {}
        }
    }

    fn fail(&mut self, error: Error) {
        self.machine.handle_failed(Instant::now(), self.dice.u64(..), error);
    }

    fn speak(&mut self, connection: Connection) {
        match connection.version(ApiKey::FETCH, fetch::VERSIONS) {
            Ok(offered) => {
                self.connection = Some(connection);
                self.machine.handle_connected(offered);
            }
            Err(error) => self.fail(error),
        }
    }

    async fn send(&mut self, request: &Request, version: i16, deadline: Instant) {
        let Some(connection) = self.connection.take() else {
            return self.fail(Error::new(ErrorKind::Internal, "a fetch without a connection"));
        };
        let mut body = BytesMut::new();
        if let Err(error) = request.encode(&mut body, version) {
            return self.fail(error.into());
        }
        let answer = connection.send_raw(ApiKey::FETCH, version, vec![body.freeze()], deadline, true).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                return self.machine.handle_unreachable(Instant::now(), self.dice.u64(..), error.error);
            }
        };
        let response = answer.reader().and_then(|mut reader| Ok(Response::decode(&mut reader, version)?));
        let frame_len = answer.frame.len();
        // The parts must be alone with their buffer, or it would count twice.
        drop(answer);
        match response {
            Ok(response) => {
                if let Err(error) = self.machine.handle_response(response, frame_len) {
                    self.fail(error);
                }
            }
            Err(error) => {
                connection.fail(&error);
                self.fail(error);
            }
        }
    }

    /// Reads a part for the positions. What a large one takes to decompress holds up other large ones and this broker's
    /// next fetch, and nothing else.
    async fn read(&mut self, part: Part) {
        let planned = part.planned.clone();
        debug_assert!(self.credit.is_some(), "credit is taken before a request leaves");
        let Some(credit) = &mut self.credit else { return };
        let reading = match Reading::begin(part, &self.fetching.config, &self.fetching.budget, credit) {
            Ok(reading) => reading,
            Err(fetched) => return self.tell(&planned, fetched),
        };
        let fetched = if reading.is_heavy() {
            // What else came with it does not wait.
            self.fetching.core.wake_app();
            let mut credit = credit.split(credit.bytes());
            let mut decompressor = std::mem::take(&mut self.decompressor);
            let work = move || {
                let fetched = reading.finish(&mut credit, &mut decompressor);
                (fetched, credit, decompressor)
            };
            let runtime = Arc::clone(self.fetching.cluster.runtime());
            match runtime.blocking("carafe-decompress", work).await {
                Ok((fetched, credit, decompressor)) => {
                    (self.credit, self.decompressor) = (Some(credit), decompressor);
                    fetched
                }
                Err(error) => {
                    let failed = Error::new(ErrorKind::State, "decompressing a fetched part failed");
                    return self.fail(failed.with_source(error));
                }
            }
        } else {
            reading.finish(credit, &mut self.decompressor)
        };
        self.tell(&planned, fetched);
    }

    /// Tells the positions what was fetched for one of them.
    fn tell(&mut self, planned: &Planned, fetched: Fetched) {
        let dice = self.dice.u64(..);
        let wanted = self
            .fetching
            .core
            .with(|positions| positions.handle_fetched(planned, fetched, Instant::now(), dice));
        if !wanted {
            self.machine.handle_unwanted(planned.partition.clone());
        }
    }
}

/// Credit for one answer, with a fair share at most.
async fn reserve(budget: &MemoryBudget, least: usize, wanted: usize, patience: Duration) -> Credit {
    let wanted = wanted.min(budget.fair_share());
    let mut reservation = std::pin::pin!(budget.reserve(least.min(wanted), wanted));
    loop {
        // Biased: credit goes first; the timer only helps where there is none.
        tokio::select! {
            biased;
            credit = &mut reservation => return credit,
            () = tokio::time::sleep(patience) => budget.press(),
        }
    }
}
