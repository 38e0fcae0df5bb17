//! The task of one group membership: it carries requests, answers, timers and the application's words between the machine
//! and the world, and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::calls::{Caller, Committed};
use super::classic;
use super::commits::{Failed, Sending};
use super::membership::{Answer, Membership, Output, Request, Seen};
use crate::cluster::{Cluster, Duty};
use crate::consumer::config::ConsumerConfig;
use crate::consumer::core::Core;
use crate::consumer::event::{ConsumerEvent, Revocation};
use crate::consumer::mark::Mark;
use crate::runtime::{AbortOnDrop, BoxFuture, Runtime, report_starved, watch};
use crate::types::{TopicName, TopicPartition};
use crate::{ErrorCode, Result};

/// What the handle asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe(BTreeSet<TopicName>),
    /// Gets what was not committed.
    Commit {
        marks: Vec<Mark>,
        deadline: Instant,
        reply: oneshot::Sender<Vec<Failed>>,
    },
    /// Member id and generation under which a transaction may commit offsets, once there are.
    Place(oneshot::Sender<(ByteString, i32)>),
    Close {
        deadline: Instant,
        reply: oneshot::Sender<Result<()>>,
    },
}

/// What other tasks bring back.
#[derive(Debug)]
enum Input {
    Answer(Answer),
    /// The application is done with a revocation, which has to be answered until then.
    Released(u64, Vec<TopicPartition>, Instant),
    Committed(i32, Vec<Sending>, Result<BTreeMap<TopicPartition, ErrorCode>>),
    Offsets(u64, Committed),
    OffsetsOver(u64, Result<()>),
    Left(Result<()>),
}

/// The task.
pub(crate) struct GroupDriver {
    caller: Caller,
    core: Arc<Core>,
    config: Arc<ConsumerConfig>,
    dice: fastrand::Rng,
    machine: Membership,
    commands: mpsc::UnboundedReceiver<Command>,
    inputs: mpsc::UnboundedReceiver<Input>,
    sender: mpsc::UnboundedSender<Input>,
    /// Requests that are on their way, by what they are for; one of a kind at a time.
    tasks: BTreeMap<&'static str, AbortOnDrop>,
    /// Who waits for the member's place.
    places: Vec<oneshot::Sender<(ByteString, i32)>>,
    /// Some handle is left.
    open: bool,
    /// Whether the consumer is being closed, for those who have not begun what would have to be undone then.
    ended: watch::Sender<bool>,
    /// Number of callers that waited for something.
    callers: u64,
    committing: BTreeMap<u64, oneshot::Sender<Vec<Failed>>>,
    closing: BTreeMap<u64, oneshot::Sender<Result<()>>>,
}

impl GroupDriver {
    pub(crate) fn new(
        caller: Caller,
        core: Arc<Core>,
        config: Arc<ConsumerConfig>,
        machine: Membership,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let (sender, inputs) = mpsc::unbounded_channel();
        Self {
            dice: caller.cluster.runtime().dice(),
            caller,
            core,
            config,
            machine,
            commands,
            inputs,
            sender,
            tasks: BTreeMap::new(),
            places: Vec::new(),
            open: true,
            ended: watch::Sender::new(false),
            callers: 0,
            committing: BTreeMap::new(),
            closing: BTreeMap::new(),
        }
    }

    fn cluster(&self) -> &Cluster {
        &self.caller.cluster
    }

    pub(crate) async fn run(mut self) {
        let mut metadata = self.cluster().subscribe();
        let runtime = Arc::clone(self.cluster().runtime());
        loop {
            self.tell(Membership::handle_timeout);
            self.carry_out();
            if self.machine.is_over() {
                break;
            }
            let deadline = self.machine.next_deadline(Instant::now());
            // Biased: commands and answers go before timers, so that a heartbeat answer that is there is seen before its
            // session is declared over. None of them can starve the others for long: all are bounded by the protocol.
            tokio::select! {
                biased;
                command = self.commands.recv(), if self.open => self.on_command(command),
                Some(input) = self.inputs.recv() => self.on_input(input),
                changed = metadata.changed() => match changed {
                    Ok(()) => {
                        let snapshot = Arc::clone(&metadata.borrow_and_update());
                        self.machine.handle_metadata(&snapshot);
                    }
                    Err(_) => {
                        self.tell(Membership::handle_cut_off);
                        break;
                    }
                },
                late = due(&*runtime, deadline) => if let Some(late) = late {
                    // Heartbeats are late with it.
                    report_starved("group", late);
                }
            }
        }
        let result = self.machine.handle_end();
        self.core.close(result);
        self.carry_out();
        self.cluster().release(Duty::Group(self.caller.id));
        self.cluster().release(Duty::Slow(self.caller.offsets));
        self.cluster().clear_where(self.caller.id, |_, _| true);
    }

    /// Tells the machine something, with what it has to see for that.
    fn tell(&mut self, tell: impl FnOnce(&mut Membership, &mut Seen<'_>)) {
        let now = Instant::now();
        let cluster = &self.caller.cluster;
        let late = self.machine.is_late(now);
        let reason = late.then(|| cluster.latest_failure(&self.caller.subject())).flatten();
        let (dice, metadata) = (self.dice.u64(..), cluster.metadata());
        let machine = &mut self.machine;
        self.core.with(|positions| {
            tell(machine, &mut Seen { now, dice, positions, metadata: &metadata, reason });
        });
    }

    fn on_command(&mut self, command: Option<Command>) {
        self.callers += 1;
        match command {
            Some(Command::Subscribe(topics)) => self.machine.handle_subscribe(topics),
            Some(Command::Commit { marks, deadline, reply }) => {
                self.committing.insert(self.callers, reply);
                self.machine.handle_commit(self.callers, marks, deadline);
            }
            Some(Command::Place(reply)) => self.places.push(reply),
            Some(Command::Close { deadline, reply }) => {
                self.closing.insert(self.callers, reply);
                self.ended.send_replace(true);
                self.machine.handle_close(Instant::now(), self.callers, deadline);
            }
            // Every handle is gone.
            None => {
                self.open = false;
                self.ended.send_replace(true);
                self.machine.handle_dropped(Instant::now());
            }
        }
    }

    fn on_input(&mut self, input: Input) {
        self.tell(|machine, seen| match input {
            Input::Answer(answer) => machine.handle_answer(seen.now, seen.dice, answer),
            Input::Released(ticket, partitions, deadline) => {
                machine.handle_released(seen, ticket, &partitions, deadline);
            }
            Input::Committed(generation, sent, answer) => {
                machine.handle_committed(seen, generation, &sent, answer);
            }
            Input::Offsets(round, committed) => machine.handle_offsets(seen, round, committed),
            Input::OffsetsOver(round, result) => {
                machine.handle_offsets_over(seen.now, seen.dice, round, &result);
            }
            Input::Left(result) => machine.handle_left(result),
        });
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            self.perform(output);
        }
        if let Some(place) = self.machine.place().filter(|_| !self.places.is_empty()) {
            for waiting in self.places.drain(..) {
                // Whoever waited may be gone.
                let _ = waiting.send(place.clone());
            }
        }
    }

    fn perform(&mut self, output: Output) {
        let (group, id) = (self.caller.group.clone(), self.caller.id);
        match output {
            Output::Ask(request) => self.ask(request),
            Output::Hurry => self.cluster().hurry(),
            Output::ForgetCoordinator => self.caller.forget_coordinator(),
            Output::Doubt(topic) => self.cluster().leader_failed(&topic),
            Output::Want(topic) => self.cluster().want_topic(&topic, false),
            Output::Changed => self.core.update(|_| ()),
            Output::Assigned { added, generation } => {
                tracing::info!(%group, generation, ?added, "partitions were assigned");
                self.core.emit(ConsumerEvent::Assigned(added));
            }
            Output::Revoked { partitions, ask } => {
                tracing::info!(%group, ?partitions, "partitions are being given back");
                if let Some((ticket, deadline)) = ask {
                    self.revoke(ticket, partitions, deadline);
                }
            }
            Output::Lost(partitions) => {
                tracing::warn!(%group, ?partitions, "partitions were lost");
                self.core.emit(ConsumerEvent::Lost(partitions));
            }
            Output::NotCommitted { failed: Failed { mark, error }, last } => {
                let (partition, offset) = (mark.topic_partition().clone(), mark.offset());
                if last {
                    tracing::warn!(%group, %partition, %offset, %error, "not committed at the end");
                } else {
                    tracing::warn!(%group, %partition, %offset, %error, "an offset is not committed");
                    self.core.emit(ConsumerEvent::CommitFailed { partition, offset, error });
                }
            }
            // Nobody waits if the caller dropped its future.
            Output::Settled { caller, failed } => {
                let _ = self.committing.remove(&caller).map(|reply| reply.send(failed));
            }
            Output::Closed { caller, result } => {
                let _ = self.closing.remove(&caller).map(|reply| reply.send(result));
            }
            Output::Raise { subject, kind, error } => self.cluster().raise(id, subject, kind, error),
            Output::Clear(over) => {
                let group = self.caller.subject();
                self.cluster().clear_where(id, |subject, kind| over.covers(&group, subject, kind));
            }
            Output::Fail(failure) => self.core.fail(failure),
        }
    }

    fn ask(&mut self, request: Request) {
        let (caller, sender) = (self.caller.clone(), self.sender.clone());
        match request {
            Request::Classic(request) => {
                if let classic::Request::Join { reason, .. } = &request {
                    tracing::debug!(group = %caller.group, reason, "joining");
                }
                let (config, mut ended) = (Arc::clone(&self.config), self.ended.subscribe());
                self.spawn(request.kind(), async move {
                    // The sender lives as long as the driver, which aborts this when it goes.
                    let over = async { drop(ended.wait_for(|ended| *ended).await) };
                    let answer = caller.ask(request, &config, over).await;
                    send(&sender, Input::Answer(Answer::Classic(answer)));
                });
            }
            Request::Commit { member_id, generation, sending } => self.spawn("commit", async move {
                let answer = caller.commit(member_id, generation, &sending).await;
                send(&sender, Input::Committed(generation, sending, answer));
            }),
            Request::Offsets(round) => self.spawn("offsets", async move {
                let took = |committed| send(&sender, Input::Offsets(round.number, committed));
                let result = caller.committed(&round.partitions, round.deadline, took).await;
                send(&sender, Input::OffsetsOver(round.number, result));
            }),
            Request::Leave { member_id, deadline } => self.spawn("leave", async move {
                let result = caller.leave(member_id, deadline).await;
                if let Err(error) = &result {
                    tracing::debug!(group = %caller.group, %error, "leaving failed; the session will time out");
                }
                send(&sender, Input::Left(result));
            }),
        }
    }

    fn revoke(&mut self, ticket: u64, partitions: Vec<TopicPartition>, deadline: Instant) {
        let (revocation, done) = Revocation::new(partitions.clone(), deadline);
        self.core.emit(ConsumerEvent::Revoked(revocation));
        let sender = self.sender.clone();
        self.spawn("revocation", async move {
            // Dropped is as good as done.
            let _ = done.await;
            send(&sender, Input::Released(ticket, partitions, deadline));
        });
    }

    fn spawn(&mut self, kind: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let work: BoxFuture<'static, ()> = Box::pin(work);
        let task = self.cluster().runtime().spawn("carafe-group-request", work).abort_on_drop();
        self.tasks.insert(kind, task);
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
