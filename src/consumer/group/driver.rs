//! The task of one group membership: it carries requests, answers, timers and the application's words between the
//! machines and the world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::assignor::Topics;
use super::calls::{Caller, Committed, counts, topic_counts};
use super::classic::{Action, Classic, CommitVerdict, JoinAnswer, Part, SyncAnswer, is_final};
use super::closing::Closing;
use super::commits::{
    Commits, Failed, Job, Outcome, Sending, Waiter, check_topic, is_gone, refused, trouble_of,
};
use crate::cluster::{Cluster, ConditionKind, Duty, Metadata, Subject};
use crate::consumer::config::ConsumerConfig;
use crate::consumer::core::Core;
use crate::consumer::event::{Event, Revocation};
use crate::consumer::mark::Mark;
use crate::consumer::positions::Begin;
use crate::runtime::{AbortOnDrop, BoxFuture, Runtime, report_starved, watch};
use crate::types::{Offset, TopicName, TopicPartition};
use crate::{Error, ErrorCode, ErrorKind, Result, deadline};

/// How long the leader of a group waits for metadata of topics that it does not know.
const TOPICS_PATIENCE: Duration = Duration::from_secs(10);
/// How long the goodbye to the coordinator is tried; beyond the end of closing, if it comes to that.
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
    Close { deadline: Instant, reply: oneshot::Sender<Result<()>> },
}

/// What other tasks bring back.
#[derive(Debug)]
enum Input {
    Joined(u64, Result<JoinAnswer>),
    Topics(u64, Topics),
    Synced(u64, Result<SyncAnswer>),
    Heartbeat(u64, Result<ErrorCode>),
    /// The application is done with a revocation, which has to be answered until then.
    Released(u64, Vec<TopicPartition>, Instant),
    Committed(i32, Vec<Sending>, Result<BTreeMap<TopicPartition, ErrorCode>>),
    /// The group's committed offsets were found, or could not be.
    Offsets(Result<()>),
    Left(Result<()>),
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
    /// Some handle is left.
    open: bool,
    /// Set once the consumer is being closed.
    closing: Option<Closing>,
    /// Whether it is, for those who have not begun what would have to be undone then.
    ended: watch::Sender<bool>,
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
            auto_commit_at: config
                .commit_interval()
                .map(|interval| deadline::after(Instant::now(), interval)),
            caller,
            core,
            config,
            machine,
            commits,
            commands,
            inputs,
            sender,
            tasks: BTreeMap::new(),
            open: true,
            closing: None,
            ended: watch::Sender::new(false),
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
            // Biased: commands and answers go before timers, so that a heartbeat answer that is there is seen before its
            // session is declared over. None of them can starve the others for long: all are bounded by the protocol.
            tokio::select! {
                biased;
                command = self.commands.recv(), if self.open => self.handle_command(command),
                Some(input) = self.inputs.recv() => self.handle_input(input),
                changed = metadata.changed() => match changed {
                    Ok(()) => {
                        let snapshot = Arc::clone(&metadata.borrow_and_update());
                        self.handle_metadata(&snapshot);
                    }
                    Err(_) => {
                        self.cut_off();
                        break;
                    }
                },
                late = due(&*runtime, deadline) => if let Some(late) = late {
                    // Heartbeats are late with it.
                    report_starved("group", late);
                }
            }
        }
        self.commits.abandon("the consumer was closed");
        self.caller.cluster.release(Duty::Group(self.caller.id));
        self.caller.cluster.release(Duty::Slow(self.caller.offsets));
        self.caller.cluster.clear_where(self.caller.id, |_, _| true);
        let closing = self.closing.take();
        self.core.close(closing.map_or(Ok(()), Closing::finish));
    }

    /// The client is closed: nothing more reaches the coordinator.
    fn cut_off(&mut self) {
        let error = || Error::new(ErrorKind::State, "the client was closed before the consumer");
        let failed = |mark| Failed { mark, error: error() };
        let stored = match self.config.commit_interval() {
            Some(_) => self.core.with(|positions| positions.stored(None)),
            None => Vec::new(),
        };
        let closing = self.closing.get_or_insert_with(|| Closing::new(self.caller.group.clone()));
        closing.handle_failed(stored.into_iter().map(failed).collect());
        if !self.machine.is_over() || self.leaving {
            closing.handle_left(Err(error()));
        }
    }

    /// Lets machines do what can be done now.
    fn advance(&mut self, now: Instant) {
        loop {
            self.commits.expire(now);
            while let Some((ticket, failed)) = self.commits.poll_settled() {
                self.end_revocation(ticket, failed);
            }
            let dice = self.dice();
            let Some(action) = self.machine.poll(now, dice) else { break };
            self.perform(now, action);
        }
        self.auto_commit(now);
        self.send_commit(now);
        if let Some(closing) = &mut self.closing {
            closing.expire(now, || self.caller.cluster.latest_failure(&self.caller.subject()));
        }
    }

    fn is_finished(&self) -> bool {
        self.closing.is_some() && self.machine.is_over() && !self.leaving
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let commits = self.commits.next_deadline(now);
        let closing = self.closing.as_ref().and_then(Closing::next_deadline);
        [self.machine.next_deadline(), commits, self.auto_commit_at, closing].into_iter().flatten().min()
    }

    fn handle_command(&mut self, command: Option<Command>) {
        let now = Instant::now();
        match command {
            Some(Command::Subscribe(topics)) => self.machine.handle_subscribe(topics),
            Some(Command::Commit(job)) => self.commits.push(job),
            Some(Command::Close { deadline, reply }) => self.close(now, deadline).wait(deadline, reply),
            // Every handle is gone.
            None => {
                self.open = false;
                self.close(now, now + DROPPED_PATIENCE);
            }
        }
    }

    fn close(&mut self, now: Instant, deadline: Instant) -> &mut Closing {
        self.auto_commit_at = None;
        self.ended.send_replace(true);
        self.cluster().hurry();
        let commit_by = self.machine.handle_close(now, deadline);
        self.commits.limit(commit_by);
        self.closing.get_or_insert_with(|| Closing::new(self.caller.group.clone()))
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
            Input::Released(ticket, partitions, deadline) => {
                self.finish_revocation(ticket, &partitions, deadline)
            }
            Input::Committed(generation, sent, answer) => {
                self.handle_committed(now, dice, generation, &sent, answer)
            }
            Input::Offsets(result) => self.machine.handle_part(Part::Committed, result.err().as_ref()),
            Input::Left(result) => {
                self.leaving = false;
                if let Some(closing) = &mut self.closing {
                    closing.handle_left(result);
                }
            }
        }
    }

    fn perform(&mut self, now: Instant, action: Action) {
        let caller = self.caller.clone();
        let sender = self.sender.clone();
        let config = Arc::clone(&self.config);
        match action {
            Action::Join { ticket, member_id, protocols, reason } => {
                tracing::debug!(group = %caller.group, reason, "joining");
                let mut ended = self.ended.subscribe();
                self.spawn("join", async move {
                    let (session, rebalance) = (config.session_timeout, config.rebalance_timeout);
                    // The sender lives as long as the driver, which aborts this when it goes.
                    let over = async { drop(ended.wait_for(|ended| *ended).await) };
                    let answer = caller.join(member_id, protocols, reason, session, rebalance, over).await;
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
                self.leaving = true;
                let least = now + LEAVE_PATIENCE;
                let deadline = self.closing.as_ref().map_or(least, |closing| closing.until(least));
                self.spawn("leave", async move {
                    let result = caller.leave(member_id, deadline).await;
                    if let Err(error) = &result {
                        tracing::debug!(group = %caller.group, %error, "leaving failed; the session will time out");
                    }
                    send(&sender, Input::Left(result));
                });
            }
            Action::Revoke { ticket, partitions, deadline } => self.revoke(ticket, partitions, deadline),
            Action::Lose { partitions } => {
                tracing::warn!(group = %self.caller.group, ?partitions, "partitions were lost");
                self.commits.handle_lost(&partitions);
                self.forget(&partitions);
                self.core.emit(Event::Lost(partitions));
            }
            Action::Assign { added, generation } => self.assign(added, generation),
            Action::ForgetCoordinator => self.caller.forget_coordinator(),
            Action::Trouble { kind, error } => {
                if kind == ConditionKind::Unreachable {
                    // What was said while somebody could be reached is over.
                    let group = self.subject();
                    let before = [ConditionKind::NoCoordinator, ConditionKind::Refused];
                    let id = self.caller.id;
                    self.cluster().clear_where(id, |subject, of| *subject == group && before.contains(&of));
                }
                self.cluster().raise(self.caller.id, self.subject(), kind, error);
            }
            Action::Well => {
                let group = self.subject();
                self.cluster().clear_where(self.caller.id, |subject, _| *subject == group);
            }
            Action::Fail(failure) => {
                self.commits.abandon(&failure.to_string());
                self.core.fail(failure);
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
        let sender = self.sender.clone();
        self.spawn("offsets", async move { fetch_committed(&caller, &core, &sender).await });
    }

    fn revoke(&mut self, ticket: u64, partitions: Vec<TopicPartition>, deadline: Instant) {
        tracing::info!(group = %self.caller.group, ?partitions, "partitions are being given back");
        self.core.update(|positions| positions.begin_revoke(&partitions));
        if self.closing.is_some() {
            // Whoever closes has finished.
            return self.finish_revocation(ticket, &partitions, deadline);
        }
        let (revocation, done) = Revocation::new(partitions.clone(), deadline);
        self.core.emit(Event::Revoked(revocation));
        let sender = self.sender.clone();
        self.spawn("revocation", async move {
            // Dropped is as good as done.
            let _ = done.await;
            send(&sender, Input::Released(ticket, partitions, deadline));
        });
    }

    /// The application has finished with `partitions`: commits what is stored for them, and what is being committed.
    fn finish_revocation(&mut self, ticket: u64, partitions: &[TopicPartition], deadline: Instant) {
        if !self.machine.is_revoking(ticket) {
            return;
        }
        let stored = match self.config.commit_interval() {
            Some(_) => self.core.with(|positions| positions.stored(Some(partitions))),
            None => Vec::new(),
        };
        let marks = stored.into_iter().chain(self.commits.awaited(partitions)).collect();
        self.commits.push(Job { marks, deadline, waiter: Waiter::Revocation(ticket) });
    }

    /// What could be committed of a revocation is.
    fn end_revocation(&mut self, ticket: u64, failed: Vec<Failed>) {
        let partitions = self.machine.handle_revoked(ticket);
        self.forget(&partitions);
        match &mut self.closing {
            Some(closing) => closing.handle_failed(failed),
            None => failed.into_iter().for_each(|failed| self.tell(failed)),
        }
    }

    /// A mark is given up that somebody may count on.
    fn tell(&self, Failed { mark, error }: Failed) {
        let (partition, offset) = (mark.topic_partition().clone(), mark.offset());
        tracing::warn!(group = %self.caller.group, %partition, %offset, %error, "an offset is not committed");
        self.core.emit(Event::CommitFailed { partition, offset, error });
    }

    /// `partitions` are not ours any more.
    fn forget(&self, partitions: &[TopicPartition]) {
        self.core.update(|positions| positions.remove(partitions));
        let gone = |subject: &Subject| match subject {
            Subject::Partition(partition) => partitions.contains(partition),
            _ => false,
        };
        self.cluster().clear_where(self.caller.id, |subject, _| gone(subject));
    }

    fn subject(&self) -> Subject {
        self.caller.subject()
    }

    fn auto_commit(&mut self, now: Instant) {
        let (Some(at), Some(interval)) = (self.auto_commit_at, self.config.commit_interval()) else {
            return;
        };
        if at > now {
            return;
        }
        self.auto_commit_at = Some(deadline::after(now, interval));
        self.commits.push_stored(self.core.with(|positions| positions.stored(None)));
    }

    fn send_commit(&mut self, now: Instant) {
        let Some((member_id, generation)) = self.machine.commit_identity() else { return };
        let core = Arc::clone(&self.core);
        let metadata = self.cluster().metadata();
        let check = |mark: &Mark| {
            core.with(|positions| {
                positions.check_mark(mark)?;
                let partition = mark.topic_partition();
                let id = positions.topic_id(partition);
                check_topic(&metadata, &partition.topic, id).map(|()| id)
            })
        };
        let Some(sending) = self.commits.next(now, check) else { return };
        let (caller, sender) = (self.caller.clone(), self.sender.clone());
        self.spawn("commit", async move {
            let answer = caller.commit(member_id, generation, &sending).await;
            send(&sender, Input::Committed(generation, sending, answer));
        });
    }

    fn handle_committed(
        &mut self,
        now: Instant,
        dice: u64,
        generation: i32,
        sent: &[Sending],
        answer: Result<BTreeMap<TopicPartition, ErrorCode>>,
    ) {
        let codes = match answer {
            Ok(codes) => codes,
            Err(error) => {
                self.machine.handle_part(Part::Commit, Some(&error));
                return self.commits.handle_failed(now, dice, &error);
            }
        };
        let metadata = self.cluster().metadata();
        let mut outcomes = BTreeMap::new();
        for Sending { mark, topic_id } in sent {
            let partition = mark.topic_partition();
            let Some(code) = codes.get(partition).copied() else { continue };
            let error = || refused(mark, code);
            let outcome = if code.is_ok() {
                self.core.with(|positions| positions.handle_mark_committed(mark));
                Outcome::Done
            } else if code.needs_metadata() {
                match is_gone(&metadata, &partition.topic, *topic_id) {
                    true => {
                        let error = error().with_retriable(false);
                        if self.core.with(|positions| positions.give_up(mark)) {
                            self.tell(Failed { mark: mark.clone(), error: error.clone() });
                        }
                        Outcome::Gone(error)
                    }
                    false => {
                        self.cluster().leader_failed(&partition.topic);
                        Outcome::Retry(error())
                    }
                }
            } else {
                match self.machine.handle_commit_code(now, dice, generation, code) {
                    CommitVerdict::Retry | CommitVerdict::AfterRebalance => Outcome::Retry(error()),
                    CommitVerdict::Lost | CommitVerdict::Refused => {
                        Outcome::Failed(error().with_retriable(false))
                    }
                }
            };
            outcomes.insert(partition.clone(), outcome);
        }
        if codes.values().any(|code| code.is_ok()) {
            self.machine.handle_part(Part::Commit, None);
        }
        let (id, group) = (self.caller.id, &self.caller.group);
        // What automatic commits are refused is tried again with the next ones, and lasts until they go through.
        for failed in self.commits.handle_outcomes(now, dice, outcomes) {
            if self.core.with(|positions| positions.is_stored(&failed.mark)) {
                let (subject, kind) = trouble_of(&failed, group);
                self.cluster().raise(id, subject, kind, failed.error);
            }
        }
        let is_done = |partition: &TopicPartition| codes.get(partition) == Some(&ErrorCode::NONE);
        self.cluster().clear_where(id, |subject, kind| match (subject, kind) {
            (Subject::Partition(partition), ConditionKind::Refused | ConditionKind::Unreachable) => {
                is_done(partition)
            }
            (Subject::Topic(topic), ConditionKind::NotAuthorized) => sent.iter().any(|item| {
                item.mark.topic_partition().topic == *topic && is_done(item.mark.topic_partition())
            }),
            _ => false,
        });
    }
}

/// Finds the committed offsets of all partitions that wait for them.
async fn fetch_committed(caller: &Caller, core: &Core, sender: &mpsc::UnboundedSender<Input>) {
    let mut failures = 0;
    loop {
        let waiting: BTreeMap<TopicPartition, u64> =
            core.with(|positions| positions.uncommitted()).into_iter().collect();
        if waiting.is_empty() {
            return;
        }
        let partitions: Vec<TopicPartition> = waiting.keys().cloned().collect();
        let progress = AtomicBool::new(false);
        let took = |committed: Committed| {
            progress.fetch_or(take_committed(caller, core, &waiting, committed), Ordering::Relaxed);
        };
        match caller.committed(&partitions, Instant::now() + COMMITTED_ROUND, took).await {
            Err(error) if is_final(&error) => return core.fail(error),
            result => send(sender, Input::Offsets(result)),
        }
        failures = if progress.into_inner() { 0 } else { failures + 1 };
        let pause = caller.cluster.config().retry_backoff.delay(failures, caller.cluster.runtime().random());
        if !core.with(|positions| positions.uncommitted().is_empty()) {
            sleep_until(Instant::now() + pause).await;
        }
    }
}

/// Begins where the group stopped; what cannot be told yet is asked again. True if anything was told.
fn take_committed(
    caller: &Caller,
    core: &Core,
    waiting: &BTreeMap<TopicPartition, u64>,
    committed: Committed,
) -> bool {
    let mut told = Vec::new();
    for (partition, answer) in committed {
        let Some(assignment) = waiting.get(&partition) else { continue };
        match answer {
            Ok(offset) => {
                let offset = offset.map(|(offset, epoch, _)| (offset, epoch));
                core.with(|positions| positions.handle_committed(&partition, *assignment, offset));
                told.push(partition);
            }
            Err(code) if code.needs_metadata() => caller.cluster.leader_failed(&partition.topic),
            Err(code) if code.is_retriable() => {}
            Err(code) => {
                let message = format!("the committed offset of {partition} cannot be had");
                let failed =
                    Failed { mark: Mark::new(partition, Offset(0)), error: Error::from_code(code, message) };
                let (subject, kind) = trouble_of(&failed, &caller.group);
                caller.cluster.raise(caller.id, subject, kind, failed.error);
            }
        }
    }
    if !told.is_empty() {
        core.update(|_| ());
        caller.cluster.clear_where(caller.id, |subject, kind| match (subject, kind) {
            (Subject::Partition(partition), ConditionKind::Refused | ConditionKind::Unreachable) => {
                told.contains(partition)
            }
            (Subject::Topic(topic), ConditionKind::NotAuthorized) => told.iter().any(|tp| tp.topic == *topic),
            _ => false,
        });
    }
    !told.is_empty()
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
