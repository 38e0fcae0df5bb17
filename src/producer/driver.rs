//! The task behind a producer: commands from appenders, connections, requests, answers, timers.
//!
//! Everything is polled from one place, in a fixed order: commands, metadata, answers, the producer id, time; then requests
//! go out. No source can starve another: each is emptied once per round, and what a round brings in is bounded by memory.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use super::config::Acks;
use super::lane::{Lane, Take};
use super::lanes::LaneSet;
use super::questions::{ask_producer_id, next_metadata};
use super::sender::{Effect, Outgoing, Sender, SenderConfig, Unfinished};
use super::shared::{Command, Done, Shared};
use crate::cluster::{self, Connection, Duty, Metadata, Pending, RequestError};
use crate::deadline;
use crate::runtime::BoxFuture;
use crate::types::{NodeId, Partition, TopicName};
use crate::wire::compression::Compression;
use crate::wire::produce::{self, RequestHead, Response};
use crate::wire::{ApiKey, Uuid, VersionRange};
use crate::{Error, ErrorKind, Result};

/// The way to one broker.
#[derive(Default)]
struct Link {
    connection: Option<Connection>,
    opening: Option<BoxFuture<'static, Result<Connection>>>,
    /// Attempts in a row that failed.
    failures: u32,
    /// In order; connections answer in order.
    flight: VecDeque<Flight>,
}

struct Flight {
    request: u64,
    pending: Pending,
    connection: Connection,
}

struct Flush {
    number: u64,
    deadline: Instant,
    done: Done,
}

struct Closing {
    deadline: Instant,
    flush: u64,
    done: Vec<Done>,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    sender: Sender,
    lanes: LaneSet,
    links: BTreeMap<NodeId, Link>,
    commands: Vec<Command>,
    /// Number of the latest look into the mailbox.
    look: u64,
    /// Keeps its room between rounds.
    nodes: Vec<NodeId>,
    flushes: Vec<Flush>,
    closing: Option<Closing>,
    orphaned: bool,
    /// What was given up.
    lost: Option<Unfinished>,
    /// Until the client is closed.
    client: Option<BoxFuture<'static, ()>>,
    metadata: BoxFuture<'static, Option<Arc<Metadata>>>,
    /// Topics as they were when the sender was told of them.
    seen: BTreeMap<TopicName, Arc<cluster::Topic>>,
    producer_id: Option<BoxFuture<'static, Result<(i64, i16)>>>,
    sleep: Pin<Box<Sleep>>,
    random: fastrand::Rng,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let config = &shared.config;
        let sender = Sender::new(SenderConfig {
            idempotent: config.enable_idempotence,
            in_flight_max: config.max_in_flight,
            linger: config.linger,
            delivery_timeout: config.delivery_timeout,
            backoff: config.backoff(shared.cluster.config().retry_backoff),
            codec: Arc::clone(&shared.codec),
        });
        let lanes = LaneSet::new(Arc::clone(&shared));
        let random = shared.cluster.runtime().dice();
        let metadata = next_metadata(&shared.cluster, 0);
        let cluster = shared.cluster.clone();
        let client = Box::pin(async move { cluster.closed().await });
        Self {
            shared,
            sender,
            lanes,
            links: BTreeMap::new(),
            commands: Vec::new(),
            look: 0,
            nodes: Vec::new(),
            flushes: Vec::new(),
            closing: None,
            orphaned: false,
            lost: None,
            client: Some(client),
            metadata,
            seen: BTreeMap::new(),
            producer_id: None,
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
            progress |= self.poll_links(now, context);
            progress |= self.poll_producer_id(now, context);
            self.sender.handle_timeout(now, &mut self.lanes);
            progress |= self.pump(now);
            self.run_effects();
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
                    self.flushes.push(Flush { number, deadline, done });
                }
                Command::Close { deadline, done } => self.begin_close(now, deadline, Some(done)),
                Command::Orphaned => {
                    self.orphaned = true;
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
        self.begin_close(now, deadline::after(now, self.shared.request_timeout), None);
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
        let records = self.sender.counts().failed - before;
        if records > 0 {
            self.lost.get_or_insert(left).records += records;
        }
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
    fn flush(&mut self, now: Instant) -> u64 {
        for lane in 0..self.lanes.lanes.len() {
            self.sender.handle_lane(now, lane, &mut self.lanes);
        }
        self.sender.handle_flush()
    }

    fn begin_close(&mut self, now: Instant, deadline: Instant, done: Option<Done>) {
        let flush = self.flush(now);
        let closing = self.closing.get_or_insert_with(|| Closing { deadline, flush, done: Vec::new() });
        closing.flush = flush;
        closing.deadline = closing.deadline.min(deadline);
        closing.done.extend(done);
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
            if let Some(code) = metadata.errors.get(topic)
                && !code.is_retriable()
            {
                self.sender.handle_topic_error(now, topic, *code, &mut self.lanes);
            }
            return;
        };
        if self.seen.get(topic).is_some_and(|seen| Arc::ptr_eq(seen, known)) {
            return;
        }
        self.sender.handle_topic_id(topic, known.id);
        self.sender.handle_partition_count(now, topic, known.partition_count(), &mut self.lanes);
        for (index, info) in known.partitions.iter().enumerate() {
            self.sender.handle_leader(now, topic, index as i32, info.leader, &mut self.lanes);
        }
        self.seen.insert(topic.clone(), Arc::clone(known));
        self.shared.learn(topic);
    }

    fn poll_links(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut nodes = std::mem::take(&mut self.nodes);
        nodes.extend(self.links.keys());
        for node in nodes.drain(..) {
            progress |= self.poll_opening(node, context);
            while let Some(flight) = self.links.get_mut(&node).and_then(|link| link.flight.front_mut()) {
                let Poll::Ready(answer) = Pin::new(&mut flight.pending).poll(context) else { break };
                let (request, connection) = (flight.request, flight.connection.clone());
                if let Some(link) = self.links.get_mut(&node) {
                    link.flight.pop_front();
                }
                progress = true;
                self.handle_answer(now, request, &connection, answer);
            }
        }
        self.nodes = nodes;
        progress
    }

    fn poll_opening(&mut self, node: NodeId, context: &mut Context<'_>) -> bool {
        let Some(link) = self.links.get_mut(&node) else { return false };
        let Some(opening) = &mut link.opening else { return false };
        let Poll::Ready(opened) = opening.as_mut().poll(context) else { return false };
        link.opening = None;
        match opened {
            Ok(connection) => {
                link.connection = Some(connection);
                link.failures = 0;
                self.sender.handle_connection(node, None);
            }
            Err(error) => {
                link.failures = link.failures.saturating_add(1);
                tracing::debug!(%node, %error, "no connection to produce over");
                self.sender.handle_connection(node, Some(error));
                // Its partitions may have another leader by now.
                self.shared.cluster.refresh();
            }
        }
        true
    }

    fn handle_answer(
        &mut self,
        now: Instant,
        request: u64,
        connection: &Connection,
        answer: std::result::Result<cluster::Answer, RequestError>,
    ) {
        let random = self.random.u64(..);
        let answer = match answer {
            Ok(_) if self.shared.config.acks == Acks::None => {
                self.sender.handle_written(now, request, &mut self.lanes);
                return;
            }
            Ok(answer) => answer,
            Err(RequestError { error, unsent }) => {
                self.sender.handle_failure(now, request, error, unsent, random, &mut self.lanes);
                return;
            }
        };
        let decoded =
            answer.reader().and_then(|mut reader| Ok(Response::decode(&mut reader, answer.version)?));
        match decoded {
            Ok(response) => {
                connection.throttle(std::time::Duration::from_millis(
                    u64::try_from(response.throttle_time_ms).unwrap_or(0),
                ));
                self.take_hints(now, &response);
                self.sender.handle_answer(now, request, &response, random, &mut self.lanes);
            }
            Err(error) => {
                connection.fail(&error);
                let error = error.with_peer(connection.peer().to_string()).with_retriable(true);
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
        let mut progress = false;
        if let Some(asking) = &mut self.producer_id
            && let Poll::Ready(answer) = asking.as_mut().poll(context)
        {
            self.producer_id = None;
            let random = self.random.u64(..);
            self.sender.handle_producer_id(now, answer, random, &mut self.lanes);
            progress = true;
        }
        if self.producer_id.is_none() && self.sender.poll_producer_id(now) {
            let deadline = deadline::after(now, self.shared.request_timeout);
            self.producer_id = Some(Box::pin(ask_producer_id(self.shared.cluster.clone(), deadline)));
            progress = true;
        }
        progress
    }

    /// Sends what is due.
    fn pump(&mut self, now: Instant) -> bool {
        let mut progress = false;
        if self.shared.starving.load(Ordering::Relaxed) > 0 {
            self.sender.hurry();
        }
        let mut nodes = std::mem::take(&mut self.nodes);
        nodes.extend(self.sender.busy_nodes());
        for node in nodes.drain(..) {
            let link = self.links.entry(node).or_default();
            if link.connection.as_ref().is_none_or(Connection::is_closed) {
                link.connection = self.shared.cluster.open_connection(node, self.shared.duty);
            }
            let Some(connection) = link.connection.clone() else {
                if link.opening.is_none() {
                    let pause = match link.failures {
                        0 => None,
                        failures => {
                            let shared = &self.shared;
                            let backoff = shared.config.backoff(shared.cluster.config().retry_backoff);
                            Some(backoff.delay(failures, self.random.u64(..)))
                        }
                    };
                    let deadline = deadline::after(now, self.shared.request_timeout);
                    let (cluster, duty) = (self.shared.cluster.clone(), self.shared.duty);
                    link.opening = Some(Box::pin(async move {
                        if let Some(pause) = pause {
                            tokio::time::sleep(pause).await;
                        }
                        cluster.connection(node, duty, deadline).await
                    }));
                    progress = true;
                }
                continue;
            };
            while let Some(outgoing) = self.sender.poll_request(now, node, &mut self.lanes) {
                progress = true;
                self.send(now, node, &connection, outgoing);
            }
            self.sender.rest(node, self.look);
        }
        self.nodes = nodes;
        progress
    }

    fn send(&mut self, now: Instant, node: NodeId, connection: &Connection, outgoing: Outgoing) {
        let config = &self.shared.config;
        let Outgoing { id: request, batches } = outgoing;
        let by_name = batches.iter().any(|batch| batch.topic_id == Uuid::ZERO);
        let versions = VersionRange::new(
            if config.compression == Compression::Zstd { 7 } else { produce::VERSIONS.min },
            if by_name { 12 } else { produce::VERSIONS.max },
        );
        let head = RequestHead {
            transactional_id: None,
            acks: config.acks.code(),
            timeout_ms: i32::try_from(self.shared.request_timeout.as_millis()).unwrap_or(i32::MAX),
        };
        let encoded = connection
            .version(ApiKey::PRODUCE, versions)
            .and_then(|version| Ok((version, produce::encode_request(&head, &batches, version)?)));
        match encoded {
            Ok((version, body)) => {
                let deadline = deadline::after(now, self.shared.request_timeout);
                let answered = config.acks != Acks::None;
                let pending = connection.send_raw(ApiKey::PRODUCE, version, body, deadline, answered);
                let flight = Flight { request, pending, connection: connection.clone() };
                self.links.entry(node).or_default().flight.push_back(flight);
            }
            Err(error) => {
                let random = self.random.u64(..);
                self.sender.handle_failure(now, request, error, true, random, &mut self.lanes);
            }
        }
    }

    fn run_effects(&mut self) {
        let Shared { cluster, id, .. } = &*self.shared;
        for effect in self.sender.take_effects() {
            match effect {
                Effect::Refresh(topic) => cluster.leader_failed(&topic),
                Effect::Raise(subject, kind, error) => {
                    cluster.raise(*id, subject, kind, Error::clone(&error))
                }
                Effect::Clear(subject, kind) => cluster.clear(*id, &subject, kind),
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
        let sender = &self.sender;
        let is_over = |flush: &mut Flush| sender.is_flushed(flush.number) || flush.deadline <= now;
        for Flush { number, done, .. } in self.flushes.extract_if(.., is_over) {
            let flushed = sender.is_flushed(number);
            let _ = done.send(if flushed { Ok(()) } else { Err(sender.unfinished(number)) });
        }
        if let Some(closing) = &self.closing
            && (self.sender.is_flushed(closing.flush) || closing.deadline <= now)
        {
            self.end(now);
            return true;
        }
        self.orphaned && self.sender.is_idle()
    }

    /// Gives up what is left.
    fn end(&mut self, now: Instant) {
        for command in self.shared.mailbox.close() {
            match command {
                Command::Lane(lane) | Command::Compressed(lane) => {
                    self.sender.handle_lane(now, lane, &mut self.lanes);
                }
                Command::Lanes(lanes) => self.add_lanes(now, lanes),
                Command::Close { done, .. } => {
                    if let Some(closing) = &mut self.closing {
                        closing.done.push(done);
                    }
                }
                Command::Flush { .. } | Command::Nudge | Command::Pressure | Command::Orphaned => {}
            }
        }
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
        let lost = self.lost.take();
        let done = self.closing.take().map(|closing| closing.done).unwrap_or_default();
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
        let links = &self.links;
        let can_send = |node: NodeId| links.get(&node).is_some_and(|link| link.connection.is_some());
        let closing = self.closing.iter().map(|closing| closing.deadline);
        let waiting = self.flushes.iter().map(|flush| flush.deadline).chain(closing);
        let Some(at) = self.sender.next_deadline(now, can_send).into_iter().chain(waiting).min() else {
            return false;
        };
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
