//! The task behind a producer: commands from appenders, connections, requests, answers, timers.
//!
//! It decides nothing: `sender` says what is sent and what becomes of it, `links` what becomes of connections, `ends` who is
//! told of a flush and when it is over. Everything is polled from one place, in a fixed order: commands, metadata, answers,
//! the producer id, time; then requests go out. No source can starve another: each is emptied once per round, and what a
//! round brings in is bounded by memory.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::ends::{self, Ends};
use super::lane::{Lane, Take};
use super::lanes::LaneSet;
use super::links::{self, Heard, Links, LinksConfig, Manner};
use super::questions::{ask_producer_id, next_metadata};
use super::sender::{Outgoing, Output, Sender, SenderConfig};
use super::shared::{Command, Done, Shared};
use super::transaction::{self, Conductor};
use crate::cluster::{self, Connection, Duty, Metadata, Pending};
use crate::runtime::BoxFuture;
use crate::types::{NodeId, Partition, TopicName};
use crate::wire::ApiKey;
use crate::wire::produce::{self, Response};
use crate::{Error, ErrorKind, Result};

/// The way to one broker.
#[derive(Default)]
struct Link {
    connection: Option<Connection>,
    opening: Option<BoxFuture<'static, Result<Connection>>>,
    /// In order; connections answer in order.
    flight: VecDeque<Flight>,
}

struct Flight {
    request: u64,
    pending: Pending,
    connection: Connection,
}

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) sender: Sender,
    pub(super) lanes: LaneSet,
    pub(super) links: Links,
    ways: BTreeMap<NodeId, Link>,
    commands: Vec<Command>,
    /// Number of the latest look into the mailbox.
    look: u64,
    /// Keeps its room between rounds.
    nodes: Vec<NodeId>,
    ends: Ends<Done>,
    /// Until the client is closed.
    client: Option<BoxFuture<'static, ()>>,
    metadata: BoxFuture<'static, Option<Arc<Metadata>>>,
    /// Topics as they were when the sender was told of them.
    seen: BTreeMap<TopicName, Arc<cluster::Topic>>,
    producer_id: Option<BoxFuture<'static, Result<(i64, i16)>>>,
    /// Of a transactional producer.
    pub(super) conductor: Option<Conductor>,
    sleep: Pin<Box<Sleep>>,
    pub(super) random: fastrand::Rng,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let config = &shared.config;
        let backoff = config.backoff(shared.cluster.config().retry_backoff);
        let sender = Sender::new(SenderConfig {
            idempotent: config.enable_idempotence,
            in_flight_max: config.max_in_flight,
            linger: config.linger,
            delivery_timeout: config.delivery_timeout,
            backoff,
            codec: Arc::clone(&shared.codec),
        });
        let links = Links::new(LinksConfig {
            acks: config.acks,
            compression: config.compression,
            request_timeout: shared.request_timeout,
            backoff,
        });
        let conductor = transaction::conductor(&shared);
        let sender = if conductor.is_some() { sender.transactional() } else { sender };
        let lanes = LaneSet::new(Arc::clone(&shared));
        let random = shared.cluster.runtime().dice();
        let metadata = next_metadata(&shared.cluster, 0);
        let cluster = shared.cluster.clone();
        let client = Box::pin(async move { cluster.closed().await });
        Self {
            shared,
            sender,
            lanes,
            links,
            ways: BTreeMap::new(),
            commands: Vec::new(),
            look: 0,
            nodes: Vec::new(),
            ends: Ends::new(),
            client: Some(client),
            metadata,
            seen: BTreeMap::new(),
            producer_id: None,
            conductor,
            sleep: Box::pin(tokio::time::sleep_until(Instant::now())),
            random,
        }
    }

    pub(super) async fn run(mut self) {
        std::future::poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let mut progress = self.poll_client(now, context);
            progress |= self.poll_commands(now, context);
            progress |= self.poll_metadata(now, context);
            progress |= self.poll_ways(now, context);
            progress |= self.poll_producer_id(now, context);
            self.sender.handle_timeout(now, &mut self.lanes);
            progress |= self.poll_transactions(now, context);
            progress |= self.poll_machines(now);
            self.publish_counts();
            if self.finish(now) {
                return Poll::Ready(());
            }
            progress |= self.poll_sleep(now, context);
            if !progress {
                return Poll::Pending;
            }
        }
    }

    fn poll_commands(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let mut commands = std::mem::take(&mut self.commands);
        self.look += 1;
        let received = self.shared.mailbox.poll_receive(self.look, &mut commands, context).is_ready();
        for command in commands.drain(..) {
            match command {
                Command::Lane(lane) => self.sender.handle_lane(now, lane, &mut self.lanes),
                Command::Nudge => {}
                Command::Pressure => self.sender.hurry(),
                Command::Compressed(lane) => {
                    self.lanes.job_done();
                    self.sender.handle_lane(now, lane, &mut self.lanes);
                }
                Command::Lanes(lanes) => self.add_lanes(now, lanes),
                Command::Flush { deadline, done } => {
                    let number = self.flush(now);
                    self.ends.handle_flush(number, deadline, done);
                }
                Command::Close { deadline, done } => self.begin_close(now, deadline, Some(done)),
                Command::Transaction(order) => self.on_order(now, order),
                Command::Orphaned => {
                    self.close_transactions(now);
                    self.ends.handle_orphaned();
                    self.sender.handle_flush();
                }
            }
        }
        self.commands = commands;
        received
    }

    /// After the client nothing is sent any more: what waits fails now, and what is on the way gets the answers that its
    /// connections still bring.
    fn poll_client(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let Some(open) = &mut self.client else { return false };
        if open.as_mut().poll(context).is_pending() {
            return false;
        }
        self.client = None;
        self.shared.closed.store(true, Ordering::Relaxed);
        let error = Error::new(ErrorKind::State, "the client was closed before the record was acknowledged");
        self.give_up(now, |sender, lanes| sender.handle_end(now, &error, lanes));
        self.begin_close(now, self.links.answer_by(now), None);
        true
    }

    /// Refuses records from now on and lets the sender give up those that were enqueued; whoever closes is told.
    fn give_up(&mut self, now: Instant, give_up: impl FnOnce(&mut Sender, &mut LaneSet)) {
        for lane in 0..self.lanes.lanes.len() {
            self.lanes.lanes[lane].shut();
            self.sender.handle_lane(now, lane, &mut self.lanes);
        }
        let before = self.sender.counts().failed;
        let left = self.sender.unfinished(u64::MAX);
        give_up(&mut self.sender, &mut self.lanes);
        self.ends.handle_given_up(left, self.sender.counts().failed - before);
    }

    fn add_lanes(&mut self, now: Instant, lanes: Vec<Arc<Lane>>) {
        let Some(topic) = lanes.first().map(|lane| lane.topic.clone()) else { return };
        for lane in lanes {
            if self.client.is_none() {
                lane.shut();
            }
            self.sender.add_partition(now, lane.id, &lane.topic, lane.partition);
            self.lanes.lanes.push(lane);
        }
        self.seen.remove(&topic);
        let metadata = self.shared.cluster.metadata();
        self.learn_topic(now, &topic, &metadata);
    }

    /// Everything that was enqueued so far shall leave. Asks the lanes themselves: the command about a record may still be in
    /// the hands of one appender while another, who found it announced, waits here for a record behind it.
    pub(super) fn flush(&mut self, now: Instant) -> u64 {
        for lane in 0..self.lanes.lanes.len() {
            self.sender.handle_lane(now, lane, &mut self.lanes);
        }
        self.sender.handle_flush()
    }

    fn begin_close(&mut self, now: Instant, deadline: Instant, done: Option<Done>) {
        self.close_transactions(now);
        let flush = self.flush(now);
        self.ends.handle_close(flush, deadline, done);
    }

    fn poll_metadata(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let Poll::Ready(metadata) = self.metadata.as_mut().poll(context) else { return false };
        let Some(metadata) = metadata else {
            // The client is gone, and nothing will be news any more.
            self.metadata = Box::pin(std::future::pending());
            return false;
        };
        self.metadata = next_metadata(&self.shared.cluster, metadata.generation);
        self.learn(now, &metadata);
        true
    }

    fn learn(&mut self, now: Instant, metadata: &Metadata) {
        let topics: Vec<_> = self.sender.topics().map(|(name, _)| name.clone()).collect();
        self.shared.cluster.use_topics(&self.sender.take_used());
        for topic in topics {
            self.learn_topic(now, &topic, metadata);
        }
        self.sender.handle_news();
    }

    /// Tells the sender what is new about `topic`.
    fn learn_topic(&mut self, now: Instant, topic: &TopicName, metadata: &Metadata) {
        let Some(known) = metadata.topic(topic) else {
            if let Some(code) = metadata.errors.get(topic) {
                self.sender.handle_topic_error(now, topic, *code, &mut self.lanes);
            }
            return;
        };
        if self.seen.get(topic).is_some_and(|seen| Arc::ptr_eq(seen, known)) {
            return;
        }
        self.sender.handle_topic_id(now, topic, known.id, &mut self.lanes);
        self.sender.handle_partition_count(now, topic, known.partition_count(), &mut self.lanes);
        for (index, info) in known.partitions.iter().enumerate() {
            self.sender.handle_leader(now, topic, index as i32, info.leader, &mut self.lanes);
        }
        self.seen.insert(topic.clone(), Arc::clone(known));
        self.shared.learn(topic);
    }

    fn poll_ways(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut nodes = std::mem::take(&mut self.nodes);
        nodes.extend(self.ways.keys());
        for node in nodes.drain(..) {
            progress |= self.poll_opening(node, context);
            while let Some(flight) = self.ways.get_mut(&node).and_then(|way| way.flight.front_mut()) {
                let Poll::Ready(answer) = Pin::new(&mut flight.pending).poll(context) else { break };
                let (request, connection) = (flight.request, flight.connection.clone());
                if let Some(way) = self.ways.get_mut(&node) {
                    way.flight.pop_front();
                }
                progress = true;
                self.on_answer(now, request, &connection, self.links.hear(answer));
            }
        }
        self.nodes = nodes;
        progress
    }

    fn poll_opening(&mut self, node: NodeId, context: &mut Context<'_>) -> bool {
        let Some(way) = self.ways.get_mut(&node) else { return false };
        let Some(opening) = &mut way.opening else { return false };
        let opened = match self.shared.cluster.open_connection(node, self.shared.duty) {
            Some(connection) => Ok(connection), // somebody else was faster
            None => match opening.as_mut().poll(context) {
                Poll::Ready(opened) => opened,
                Poll::Pending => return false,
            },
        };
        way.opening = None;
        match opened {
            Ok(connection) => {
                way.connection = Some(connection);
                self.links.handle_opened(node);
                self.sender.handle_connection(node, Ok(()));
            }
            Err(error) => {
                tracing::debug!(%node, %error, "no connection to produce over");
                self.links.handle_failed(node);
                self.sender.handle_connection(node, Err(error));
            }
        }
        true
    }

    fn on_answer(&mut self, now: Instant, request: u64, connection: &Connection, heard: Heard) {
        let random = self.random.u64(..);
        match heard {
            Heard::Written => self.sender.handle_written(now, request, &mut self.lanes),
            Heard::Answer(response, throttle) => {
                connection.throttle(throttle);
                self.take_hints(now, &response);
                self.sender.handle_answer(now, request, &response, random, &mut self.lanes);
            }
            Heard::Failed(failed) => {
                let (error, unsent) = (failed.error, failed.unsent);
                self.sender.handle_failure(now, request, error, unsent, random, &mut self.lanes);
            }
            Heard::Broken(error) => {
                connection.fail(&error);
                let error = error.with_peer(connection.peer().to_string());
                self.sender.handle_failure(now, request, error, false, random, &mut self.lanes);
            }
        }
    }

    /// Leaders that an answer names (KIP-951).
    fn take_hints(&mut self, now: Instant, response: &Response) {
        let mut news = false;
        for (topic, answer) in response.partitions() {
            if let Some(leader) = answer.current_leader
                && !answer.error_code.is_ok()
            {
                let metadata = self.shared.cluster.metadata();
                let name = match &*topic.name {
                    "" => metadata.topic_by_id(topic.topic_id).map(|topic| topic.name.clone()),
                    name => Some(TopicName::from(name.to_owned())),
                };
                if let Some(name) = name {
                    let (id, partition) = (topic.topic_id, Partition(answer.partition));
                    let endpoints = &response.node_endpoints;
                    news |= self.shared.cluster.leader_hint(&name, id, partition, leader, endpoints);
                }
            }
        }
        if news {
            let metadata = self.shared.cluster.metadata();
            self.learn(now, &metadata);
        }
    }

    fn poll_producer_id(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let Some(asking) = &mut self.producer_id else { return false };
        let Poll::Ready(answer) = asking.as_mut().poll(context) else { return false };
        self.producer_id = None;
        let random = self.random.u64(..);
        self.sender.handle_producer_id(now, answer, random, &mut self.lanes);
        true
    }

    /// Does what the machines say.
    fn poll_machines(&mut self, now: Instant) -> bool {
        let mut progress = false;
        if self.shared.starving.load(Ordering::Relaxed) > 0 {
            self.sender.hurry();
        }
        for (node, way) in &mut self.ways {
            if way.connection.take_if(|connection| connection.is_closed()).is_some() {
                self.sender.handle_disconnect(*node);
            }
        }
        while let Some(output) = self.sender.poll_output(now, self.look, &mut self.lanes) {
            let Shared { cluster, id, duty, .. } = &*self.shared;
            match output {
                Output::Send(outgoing) => {
                    progress = true;
                    self.send(now, outgoing);
                }
                Output::Connect(node) => match cluster.open_connection(node, *duty) {
                    Some(connection) => {
                        self.ways.entry(node).or_default().connection = Some(connection);
                        self.sender.handle_connection(node, Ok(()));
                        progress = true;
                    }
                    None => self.links.handle_wanted(now, node, self.random.u64(..)),
                },
                Output::AskProducerId => {
                    let deadline = self.links.answer_by(now);
                    self.producer_id = Some(Box::pin(ask_producer_id(cluster.clone(), deadline)));
                    progress = true;
                }
                Output::Refresh(topic) => cluster.leader_failed(&topic),
                Output::Raise(subject, kind, error) => cluster.raise(*id, subject, kind, error),
                Output::Clear(subject, kind) => cluster.clear(*id, &subject, kind),
                Output::Gap(partition) => tracing::warn!(
                    partition,
                    "the broker misses records of this producer that it had acknowledged or never got: \
                     going on with a new epoch"
                ),
            }
        }
        while let Some(output) = self.links.poll_output() {
            match output {
                links::Output::Open { node, pause, deadline } => {
                    self.open(node, pause, deadline);
                    progress = true;
                }
                links::Output::Refresh => self.shared.cluster.refresh(),
            }
        }
        progress
    }

    fn open(&mut self, node: NodeId, pause: Option<Duration>, deadline: Instant) {
        let (cluster, duty) = (self.shared.cluster.clone(), self.shared.duty);
        self.ways.entry(node).or_default().opening = Some(Box::pin(async move {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            cluster.connection(node, duty, deadline).await
        }));
    }

    fn send(&mut self, now: Instant, outgoing: Outgoing) {
        let Outgoing { node, id: request, batches } = outgoing;
        let Manner { versions, mut head, deadline, answered } = self.links.manner(now, &batches);
        let versions = self.say_whose(&mut head, versions);
        let way = self.ways.entry(node).or_default();
        let Some(connection) = way.connection.clone() else {
            let error = Error::new(
                ErrorKind::Internal,
                format!("a request for node {node}, to which there is no way"),
            );
            self.sender.handle_failure(now, request, error, true, 0, &mut self.lanes);
            return;
        };
        let encoded = connection
            .version(ApiKey::PRODUCE, versions)
            .and_then(|version| Ok((version, produce::encode_request(&head, &batches, version)?)));
        match encoded {
            Ok((version, body)) => {
                if self.links.names_topics(version) {
                    self.sender.handle_named(request);
                }
                let pending = connection.send_raw(ApiKey::PRODUCE, version, body, deadline, answered);
                way.flight.push_back(Flight { request, pending, connection });
            }
            Err(error) => {
                let random = self.random.u64(..);
                self.sender.handle_failure(now, request, error, true, random, &mut self.lanes);
            }
        }
    }

    fn publish_counts(&self) {
        let counts = self.sender.counts();
        self.shared.acked.store(counts.acked, Ordering::Release);
        self.shared.failed.store(counts.failed, Ordering::Release);
    }

    /// Tells those who wait for a flush; true if the task is over.
    fn finish(&mut self, now: Instant) -> bool {
        self.ends.handle_timeout(now, &self.sender);
        while let Some(output) = self.ends.poll_output() {
            match output {
                ends::Output::Tell(done, outcome) => {
                    // Whoever waits no more need not know.
                    let _ = done.send(outcome);
                }
                ends::Output::End => {
                    self.end(now);
                    return true;
                }
            }
        }
        false
    }

    /// Gives up what is left.
    fn end(&mut self, now: Instant) {
        for command in self.shared.mailbox.close() {
            match command {
                Command::Lane(lane) | Command::Compressed(lane) => {
                    self.sender.handle_lane(now, lane, &mut self.lanes);
                }
                Command::Lanes(lanes) => self.add_lanes(now, lanes),
                Command::Close { done, .. } => self.ends.handle_late_close(done),
                Command::Transaction(order) => order.refuse(),
                Command::Flush { .. } | Command::Nudge | Command::Pressure | Command::Orphaned => {}
            }
        }
        self.end_transactions();
        let error =
            Error::new(ErrorKind::State, "the producer was closed before the record was acknowledged");
        self.give_up(now, |sender, lanes| sender.abort(now, &error, lanes));
        // If a panic ended the task, the command about a lane may have gone with it. Batches that are dropped say so.
        for lane in self.shared.lanes() {
            lane.shut();
            lane.collect(&self.shared.codec, Take::All, &mut Vec::new());
        }
        self.publish_counts();
        self.shared.cluster.clear_where(self.shared.id, |_, _| true);
        if self.shared.duty != Duty::Produce {
            self.shared.cluster.release(self.shared.duty);
        }
        let (done, lost) = self.ends.take_end();
        if done.is_empty() {
            // Whoever closes it later learns of it.
            self.shared.end(lost);
            return;
        }
        for done in done {
            let _ = done.send(lost.clone().map_or(Ok(()), Err));
        }
    }

    fn poll_sleep(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let deadlines = self.sender.next_deadline(now, &self.lanes).into_iter();
        let conductor = self.conductor.as_ref();
        let transactions = conductor.and_then(|conductor| conductor.machine.next_deadline());
        let deadlines = deadlines.chain(self.ends.next_deadline()).chain(transactions);
        let Some(at) = deadlines.min() else { return false };
        if at <= now {
            return true;
        }
        if self.sleep.deadline() != at {
            self.sleep.as_mut().reset(at);
        }
        self.sleep.as_mut().poll(context).is_ready()
    }
}

impl Drop for Driver {
    /// If the task is dropped, with its runtime or for a panic, nobody waits for ever.
    fn drop(&mut self) {
        self.end(Instant::now());
    }
}
