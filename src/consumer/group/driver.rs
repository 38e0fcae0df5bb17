//! The task of one group membership: it carries requests, answers, timers and the application's words between the
//! machines and the world, and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::cluster::{Cluster, Duty, Metadata};
use crate::consumer::config::ConsumerConfig;
use crate::consumer::core::Core;
use crate::consumer::event::{Event, Revocation};
use crate::consumer::group::assignor::Topics;
use crate::consumer::group::calls::{Caller, counts, topic_counts};
use crate::consumer::group::classic::{Action, Classic, CommitVerdict, JoinAnswer, SyncAnswer};
use crate::consumer::group::commits::{Commits, Job, Outcome};
use crate::consumer::positions::Begin;
use crate::runtime::{AbortOnDrop, BoxFuture, Runtime, report_starved};
use crate::types::{TopicName, TopicPartition};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// How long the leader of a group waits for metadata of topics that it does not know.
const TOPICS_PATIENCE: Duration = Duration::from_secs(10);
/// How long closing waits for the goodbye to the coordinator.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a consumer that was dropped without being closed takes for commit and goodbye.
const DROPPED_PATIENCE: Duration = Duration::from_secs(5);
/// One round of fetching committed offsets.
const COMMITTED_ROUND: Duration = Duration::from_secs(30);

/// What the handle asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe(BTreeSet<TopicName>),
    Commit(Job),
    Close { deadline: Instant, reply: oneshot::Sender<()> },
}

/// What other tasks bring back.
#[derive(Debug)]
enum Input {
    Joined(u64, Result<JoinAnswer>),
    Topics(u64, Topics),
    Synced(u64, Result<SyncAnswer>),
    Heartbeat(u64, Result<ErrorCode>),
    /// The application is done with a revocation.
    Released(u64, Vec<TopicPartition>),
    /// What was stored for it is committed, or cannot be.
    Revoked(u64, Vec<TopicPartition>),
    Committed(i32, Vec<crate::consumer::Mark>, Result<BTreeMap<TopicPartition, ErrorCode>>),
    Left,
}

/// The task.
pub(crate) struct GroupDriver {
    caller: Caller,
    core: Arc<Core>,
    config: Arc<ConsumerConfig>,
    machine: Classic,
    commits: Commits,
    commands: mpsc::UnboundedReceiver<Command>,
    inputs: mpsc::UnboundedReceiver<Input>,
    sender: mpsc::UnboundedSender<Input>,
    /// Requests that are on their way, by what they are for; one of a kind at a time.
    tasks: BTreeMap<&'static str, AbortOnDrop>,
    auto_commit_at: Option<Instant>,
    /// Set once the consumer is being closed.
    close_by: Option<Instant>,
    closers: Vec<oneshot::Sender<()>>,
    leaving: bool,
}

impl GroupDriver {
    pub(crate) fn new(
        caller: Caller,
        core: Arc<Core>,
        config: Arc<ConsumerConfig>,
        machine: Classic,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let (sender, inputs) = mpsc::unbounded_channel();
        let commits = Commits::new(caller.cluster.config().retry_backoff);
        Self {
            auto_commit_at: config.auto_commit_interval.map(|interval| Instant::now() + interval),
            caller,
            core,
            config,
            machine,
            commits,
            commands,
            inputs,
            sender,
            tasks: BTreeMap::new(),
            close_by: None,
            closers: Vec::new(),
            leaving: false,
        }
    }

    fn cluster(&self) -> &Cluster {
        &self.caller.cluster
    }

    fn dice(&self) -> u64 {
        self.cluster().runtime().random()
    }

    pub(crate) async fn run(mut self) {
        let mut metadata = self.cluster().subscribe();
        let runtime = Arc::clone(self.cluster().runtime());
        loop {
            let now = Instant::now();
            self.advance(now);
            if self.is_finished() {
                break;
            }
            let deadline = self.next_deadline(now);
            let open = self.close_by.is_none();
            // Biased: commands and answers go before timers, so that a heartbeat answer that is there is seen before its
            // session is declared over. None of them can starve the others for long: all are bounded by the protocol.
            tokio::select! {
                biased;
                command = self.commands.recv(), if open => self.handle_command(command),
                Some(input) = self.inputs.recv() => self.handle_input(input),
                changed = metadata.changed() => match changed {
                    Ok(()) => {
                        let snapshot = Arc::clone(&metadata.borrow_and_update());
                        self.handle_metadata(&snapshot);
                    }
                    Err(_) => break,
                },
                late = due(&*runtime, deadline) => if let Some(late) = late {
                    // Heartbeats are late with it.
                    report_starved("group", late);
                }
            }
        }
        self.commits.abandon("the consumer was closed");
        self.caller.cluster.release(Duty::Group(self.caller.id));
        self.caller.cluster.release(Duty::Slow(self.caller.id));
        self.core.close();
        for closer in self.closers.drain(..) {
            // Whoever closed may have stopped waiting.
            let _ = closer.send(());
        }
    }

    /// Lets machines do what can be done now.
    fn advance(&mut self, now: Instant) {
        loop {
            let dice = self.dice();
            let Some(action) = self.machine.poll(now, dice) else { break };
            self.perform(now, action);
        }
        self.auto_commit(now);
        self.commits.expire(now);
        self.send_commit(now);
    }

    fn is_finished(&self) -> bool {
        match self.close_by {
            Some(deadline) => {
                (self.machine.is_over() && !self.leaving && self.commits.is_empty())
                    || deadline <= Instant::now()
            }
            None => false,
        }
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let commits = self.commits.next_deadline(now);
        [self.machine.next_deadline(), commits, self.auto_commit_at, self.close_by]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle_command(&mut self, command: Option<Command>) {
        let now = Instant::now();
        match command {
            Some(Command::Subscribe(topics)) => self.machine.handle_subscribe(topics),
            Some(Command::Commit(job)) => self.commits.push(job),
            Some(Command::Close { deadline, reply }) => {
                self.closers.push(reply);
                self.close(now, deadline);
            }
            // Every handle is gone.
            None => self.close(now, now + DROPPED_PATIENCE),
        }
    }

    fn close(&mut self, now: Instant, deadline: Instant) {
        self.close_by = Some(deadline);
        self.auto_commit_at = None;
        self.machine.handle_close(now, deadline);
    }

    fn handle_metadata(&mut self, snapshot: &Metadata) {
        let Some(watched) = self.machine.watched_topics() else { return };
        let known = counts(snapshot, watched);
        for topic in watched.iter().filter(|topic| !known.contains_key(*topic)) {
            self.caller.cluster.want_topic(topic, false);
        }
        self.machine.handle_metadata(&known);
    }

    fn handle_input(&mut self, input: Input) {
        let (now, dice) = (Instant::now(), self.dice());
        match input {
            Input::Joined(ticket, answer) => self.machine.handle_join(now, dice, ticket, answer),
            Input::Topics(ticket, topics) => self.machine.handle_topics(ticket, &topics),
            Input::Synced(ticket, answer) => {
                self.machine.handle_sync(now, dice, ticket, answer);
                if self.machine.is_stable() {
                    self.commits.retry_now();
                }
            }
            Input::Heartbeat(ticket, answer) => self.machine.handle_heartbeat(now, dice, ticket, answer),
            Input::Released(ticket, partitions) => self.finish_revocation(now, ticket, partitions),
            Input::Revoked(ticket, partitions) => {
                if self.machine.is_revoking(ticket) {
                    self.core.update(|positions| positions.remove(&partitions));
                    self.machine.handle_revoked(ticket);
                }
            }
            Input::Committed(generation, marks, answer) => {
                self.handle_committed(now, dice, generation, &marks, answer)
            }
            Input::Left => self.leaving = false,
        }
    }

    fn perform(&mut self, now: Instant, action: Action) {
        let caller = self.caller.clone();
        let sender = self.sender.clone();
        let config = Arc::clone(&self.config);
        match action {
            Action::Join { ticket, member_id, protocols, reason } => {
                tracing::debug!(group = %caller.group, reason, "joining");
                self.spawn("join", async move {
                    let (session, rebalance) = (config.session_timeout, config.rebalance_timeout);
                    let answer = caller.join(member_id, protocols, reason, session, rebalance).await;
                    send(&sender, Input::Joined(ticket, answer));
                });
            }
            Action::NeedTopics { ticket, topics } => self.spawn("topics", async move {
                let topics = topic_counts(&caller.cluster, &topics, Instant::now() + TOPICS_PATIENCE).await;
                send(&sender, Input::Topics(ticket, topics));
            }),
            Action::Sync { ticket, member_id, generation, protocol, assignments } => {
                self.spawn("join", async move {
                    let rebalance = config.rebalance_timeout;
                    let answer = caller.sync(member_id, generation, protocol, assignments, rebalance).await;
                    send(&sender, Input::Synced(ticket, answer));
                });
            }
            Action::Heartbeat { ticket, member_id, generation } => {
                let deadline = now + (config.session_timeout / 3).max(config.heartbeat_interval);
                self.spawn("heartbeat", async move {
                    let answer = caller.heartbeat(member_id, generation, deadline).await;
                    send(&sender, Input::Heartbeat(ticket, answer));
                });
            }
            Action::Leave { member_id } => {
                let deadline = self.close_by.unwrap_or(now + LEAVE_PATIENCE).min(now + LEAVE_PATIENCE);
                self.leaving = true;
                self.spawn("leave", async move {
                    if let Err(error) = caller.leave(member_id, deadline).await {
                        tracing::debug!(group = %caller.group, %error, "leaving failed; the session will time out");
                    }
                    send(&sender, Input::Left);
                });
            }
            Action::Revoke { ticket, partitions, deadline } => self.revoke(ticket, partitions, deadline),
            Action::Lose { partitions } => {
                tracing::warn!(group = %self.caller.group, ?partitions, "partitions were lost");
                self.core.update(|positions| positions.remove(&partitions));
                self.core.emit(Event::Lost(partitions));
            }
            Action::Assign { added, generation } => self.assign(added, generation),
            Action::ForgetCoordinator => self.caller.forget_coordinator(),
            Action::Fail(failure) => {
                self.commits.abandon(&failure.message);
                self.core.fail(Error::from(failure));
            }
        }
    }

    fn spawn(&mut self, kind: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let work: BoxFuture<'static, ()> = Box::pin(work);
        let task = self.cluster().runtime().spawn("carafe-group-request", work).abort_on_drop();
        self.tasks.insert(kind, task);
    }

    fn assign(&mut self, added: Vec<TopicPartition>, generation: i32) {
        tracing::info!(group = %self.caller.group, generation, ?added, "partitions were assigned");
        self.core.update(|positions| {
            positions.assign(added.iter().map(|partition| (partition.clone(), Begin::Committed)));
        });
        self.core.emit(Event::Assigned(added));
        let (caller, core) = (self.caller.clone(), Arc::clone(&self.core));
        self.spawn("offsets", async move { fetch_committed(&caller, &core).await });
    }

    fn revoke(&mut self, ticket: u64, partitions: Vec<TopicPartition>, deadline: Instant) {
        tracing::info!(group = %self.caller.group, ?partitions, "partitions are being given back");
        if self.close_by.is_some() {
            // Whoever closes has finished.
            self.core.update(|positions| positions.begin_revoke(&partitions));
            return self.finish_revocation(Instant::now(), ticket, partitions);
        }
        self.core.update(|positions| positions.begin_revoke(&partitions));
        let (revocation, done) = Revocation::new(partitions.clone(), deadline);
        self.core.emit(Event::Revoked(revocation));
        let sender = self.sender.clone();
        self.spawn("revocation", async move {
            // Dropped is as good as done.
            let _ = done.await;
            send(&sender, Input::Released(ticket, partitions));
        });
    }

    /// The application has finished with `partitions`: commits what is stored for them.
    fn finish_revocation(&mut self, now: Instant, ticket: u64, partitions: Vec<TopicPartition>) {
        if !self.machine.is_revoking(ticket) {
            return;
        }
        let stored = match self.config.auto_commit_interval {
            Some(_) => self.core.with(|positions| positions.stored(Some(&partitions))),
            None => Vec::new(),
        };
        let sender = self.sender.clone();
        if stored.is_empty() {
            return send(&sender, Input::Revoked(ticket, partitions));
        }
        let (reply, committed) = oneshot::channel();
        let patience = self.close_by.unwrap_or(now + self.cluster().config().connection.request_timeout);
        self.commits.push(Job { marks: stored, deadline: patience, reply: Some(reply) });
        self.spawn("revocation", async move {
            if let Ok(Err(error)) = committed.await {
                tracing::warn!(%error, "offsets of partitions that were given back are not committed");
            }
            send(&sender, Input::Revoked(ticket, partitions));
        });
    }

    fn auto_commit(&mut self, now: Instant) {
        let (Some(at), Some(interval)) = (self.auto_commit_at, self.config.auto_commit_interval) else {
            return;
        };
        if at > now {
            return;
        }
        self.auto_commit_at = Some(now + interval);
        if self.commits.is_empty() {
            let marks = self.core.with(|positions| positions.stored(None));
            if !marks.is_empty() {
                self.commits.push(Job { marks, deadline: now + interval.max(COMMITTED_ROUND), reply: None });
            }
        }
    }

    fn send_commit(&mut self, now: Instant) {
        let Some((member_id, generation)) = self.machine.commit_identity() else { return };
        let core = Arc::clone(&self.core);
        let Some(marks) = self.commits.next(now, |mark| core.with(|positions| positions.check_mark(mark)))
        else {
            return;
        };
        let (caller, sender) = (self.caller.clone(), self.sender.clone());
        let deadline = now + self.cluster().config().connection.request_timeout;
        self.spawn("commit", async move {
            let answer = caller.commit(member_id, generation, &marks, deadline).await;
            send(&sender, Input::Committed(generation, marks, answer));
        });
    }

    fn handle_committed(
        &mut self,
        now: Instant,
        dice: u64,
        generation: i32,
        marks: &[crate::consumer::Mark],
        answer: Result<BTreeMap<TopicPartition, ErrorCode>>,
    ) {
        let codes = match answer {
            Ok(codes) => codes,
            Err(error) => {
                if matches!(error.kind(), ErrorKind::Network | ErrorKind::Timeout) {
                    self.caller.forget_coordinator();
                }
                return self.commits.handle_failed(now, dice, &error);
            }
        };
        let mut outcomes = BTreeMap::new();
        for mark in marks {
            let partition = mark.topic_partition();
            let outcome = match codes.get(partition).copied() {
                Some(ErrorCode::NONE) => {
                    self.core.with(|positions| positions.handle_mark_committed(mark));
                    Outcome::Done
                }
                Some(ErrorCode::UNKNOWN_TOPIC_ID) | None => {
                    self.cluster().leader_failed(&partition.topic);
                    Outcome::Retry
                }
                Some(code) => match self.machine.handle_commit_code(now, dice, generation, code) {
                    // A member that leaves takes no part in the next generation.
                    CommitVerdict::AfterRebalance if self.close_by.is_some() => Outcome::Lost,
                    CommitVerdict::Retry | CommitVerdict::AfterRebalance => Outcome::Retry,
                    CommitVerdict::Lost => Outcome::Lost,
                    CommitVerdict::Refused => Outcome::Refused(code),
                },
            };
            outcomes.insert(partition.clone(), outcome);
        }
        self.commits.handle_outcomes(now, dice, &outcomes);
    }
}

/// Finds the committed offsets of all partitions that wait for them.
async fn fetch_committed(caller: &Caller, core: &Core) {
    let mut failures = 0;
    loop {
        let waiting = core.with(|positions| positions.uncommitted());
        if waiting.is_empty() {
            return;
        }
        let partitions: Vec<TopicPartition> =
            waiting.iter().map(|(partition, _)| partition.clone()).collect();
        match caller.committed(&partitions, Instant::now() + COMMITTED_ROUND).await {
            Ok(committed) => core.update(|positions| {
                for (partition, assignment) in &waiting {
                    match committed.get(partition) {
                        Some(Ok(offset)) => {
                            let offset = offset.as_ref().map(|(offset, epoch, _)| (*offset, *epoch));
                            positions.handle_committed(partition, *assignment, offset);
                        }
                        // Left out, or not stable yet: asked again.
                        None => {}
                        Some(Err(code)) if code.is_retriable() => {}
                        Some(Err(code)) => {
                            let message = format!("fetching the committed offset of {partition} failed");
                            positions.handle_uncommitted(
                                partition,
                                *assignment,
                                Error::from_code(*code, message),
                            );
                        }
                    }
                }
            }),
            Err(error) if error.is_retriable() || error.is_timeout() => {
                tracing::warn!(group = %caller.group, %error, "committed offsets are not known yet");
            }
            Err(error) => return core.fail(error),
        }
        failures += 1;
        let pause = caller.cluster.config().retry_backoff.delay(failures, caller.cluster.runtime().random());
        if !core.with(|positions| positions.uncommitted().is_empty()) {
            sleep_until(Instant::now() + pause).await;
        }
    }
}

async fn due(runtime: &dyn Runtime, at: Option<Instant>) -> Option<Duration> {
    match at {
        Some(at) => runtime.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn send(sender: &mpsc::UnboundedSender<Input>, input: Input) {
    // The receiver is gone when the membership has ended.
    let _ = sender.send(input);
}
