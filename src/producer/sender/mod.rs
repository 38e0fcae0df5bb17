//! Machine: decides which batch goes where and when, and what becomes of it.
//!
//! * [`era`]: producer ids and epochs.
//! * [`partition`]: what waits and what is on the way, per partition.
//! * [`verdict`]: what an error code means.
//! * [`node`]: what waits for a broker, and when it leaves; [`requests`]: what goes into a request.
//! * [`answers`]: what answers and failures do to batches; [`settle`]: what a broker says of one.
//! * [`time`]: what the passing of time does, and when.
//! * [`transactional`]: eras that begin and end with transactions.
//!
//! Per broker there are two lists: partitions with closed batches, and partitions with open ones. A partition stands on
//! one of them, or on none while something has to happen first; no step but a flush looks at partitions without data.
//!
//! Time and random are handed in. Lanes are memory that is shared with appenders, and this machine changes it where it
//! decides, by [`Lanes`], not by outputs: an open batch is closed in the moment in which its request is made, since what
//! appenders add until then goes with it.

mod answers;
mod era;
mod node;
mod partition;
mod requests;
mod settle;
#[cfg(test)]
mod tests;
mod time;
mod transactional;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::batch::Batch;
use super::compress::Codec;
use super::gauge::Pace;
use super::lane::{Left, Take};
use crate::backoff::Backoff;
use crate::cluster::{ConditionKind, Subject};
use crate::types::{NodeId, TopicName};
use crate::wire::Uuid;
use crate::wire::produce::PartitionBatch;
use crate::{Error, ErrorKind};
pub(super) use era::Era;
use era::Eras;
use node::{Entry, NodeState, Way};
use partition::{Listed, Partition, Readiness};

/// Most bytes of one request; a single batch may be larger.
const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most partitions of one request. The first batch of a producer costs a broker a good deal more than those behind it, and a
/// request that takes longer than its timeout is sent again as a whole.
const REQUEST_PARTITIONS_MAX: usize = 1000;
/// How long the former leader of a partition may still answer once another is named. One that is well says at once that it
/// leads no more; one that is frozen says nothing until the request's time is up.
const FORMER_LEADER: Duration = Duration::from_millis(500);
/// A request without an answer for this long makes us ask who leads its partitions, again and again.
const UNANSWERED: Duration = Duration::from_secs(5);
/// A right that was missing is nobody's trouble once nothing has needed it for this long: nobody will learn that it is there.
const UNAUTHORIZED: Duration = Duration::from_secs(5 * 60);
/// Partitions that are named where many are meant.
const NAMED_MAX: usize = 3;

/// Settings of the machine.
#[derive(Clone, Debug)]
pub(super) struct SenderConfig {
    pub(super) idempotent: bool,
    pub(super) in_flight_max: usize,
    /// As the user wishes it; adaptive if not.
    pub(super) linger: Option<Duration>,
    pub(super) delivery_timeout: Duration,
    pub(super) backoff: Backoff,
    /// For batches that are split.
    pub(super) codec: Arc<Codec>,
}

/// The lanes, which the machine shares with appenders.
pub(super) trait Lanes {
    /// Moves the batches of `partition` that `take` names to `into`.
    fn collect(&mut self, partition: usize, take: Take, into: &mut Vec<Batch>) -> Left;
    /// `partition` is led by `leader` now.
    fn attach(&mut self, partition: usize, leader: Option<NodeId>);
    /// Bytes in open batches of partitions that `node` leads, in steps.
    fn waiting_bytes(&self, node: NodeId) -> usize;
    /// Tells appenders when the sender wants to hear of records for `node`.
    fn set_pace(&mut self, node: NodeId, pace: Pace);
    /// So many more batches of `partition` wait.
    fn queued(&mut self, partition: usize, change: i32);
    /// The body of an acknowledged batch is not needed any more.
    fn recycle(&mut self, body: bytes::Bytes);
    /// A batch of so many bytes was too large for the leader of `partition`.
    fn shrink(&mut self, now: Instant, partition: usize, bytes: usize);
}

/// A request to be sent to a broker.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) node: NodeId,
    pub(super) id: u64,
    pub(super) batches: Vec<PartitionBatch>,
}

/// Something that the driver has to do.
#[derive(Debug)]
pub(super) enum Output {
    /// Send it, over the connection that there is.
    Send(Outgoing),
    /// A connection is wanted.
    Connect(NodeId),
    /// A producer id is wanted.
    AskProducerId,
    /// The leaders of a topic are in doubt.
    Refresh(TopicName),
    /// The broker misses records of this partition that it had acknowledged or never got; it goes on with a new epoch.
    Gap(String),
    /// Trouble was met that may last.
    Raise(Subject, ConditionKind, Error),
    /// It is over.
    Clear(Subject, ConditionKind),
}

/// What was not acknowledged when somebody's time was up.
#[derive(Clone, Debug)]
pub(super) struct Unfinished {
    /// Records that were given up.
    pub(super) records: u64,
    /// Some of their partitions.
    pub(super) partitions: String,
    /// The latest failure of the oldest.
    pub(super) reason: Option<Error>,
}

impl Unfinished {
    /// The error that says so.
    pub(super) fn error(self, kind: ErrorKind, message: String) -> Error {
        let error = Error::new(kind, message);
        match self.reason {
            Some(reason) => error.with_source(reason),
            None => error,
        }
    }
}

/// Counts of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) acked: u64,
    pub(super) failed: u64,
}

#[derive(Debug)]
struct TopicState {
    name: TopicName,
    id: Uuid,
    /// Numbers of its partitions by index.
    partitions: Vec<usize>,
    /// See [`Sender::take_used`].
    used: bool,
}

#[derive(Debug)]
struct RequestState {
    node: NodeId,
    records: usize,
    partitions: Vec<usize>,
    /// It names topics, not their ids.
    by_name: bool,
    /// When its leaders are in doubt.
    doubt_at: Instant,
}

/// A batch, open or closed, that somebody may wait for.
#[derive(Debug)]
struct Outstanding {
    partition: usize,
    deadline: Instant,
    /// Parts after splitting.
    parts: u32,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Sender {
    config: SenderConfig,
    topics: Vec<TopicState>,
    topic_names: BTreeMap<TopicName, usize>,
    topic_ids: BTreeMap<[u8; 16], usize>,
    partitions: Vec<Partition>,
    nodes: BTreeMap<NodeId, NodeState>,
    requests: BTreeMap<u64, RequestState>,
    next_request: u64,
    /// By number; deadlines rise with numbers.
    outstanding: BTreeMap<u64, Outstanding>,
    next_batch: u64,
    /// Partitions that back off, or wait for a former leader.
    timers: BTreeSet<(Instant, usize)>,
    waiting_for_era: BTreeSet<usize>,
    /// Partitions with something to send and no leader.
    leaderless: BTreeSet<usize>,
    /// Topics for which we lacked a right, which was reported, and when that was met last.
    forbidden: BTreeMap<usize, Instant>,
    eras: Eras,
    /// Why there is no producer id, and how often in a row that was so.
    era_error: Option<Error>,
    era_failures: u32,
    /// Conditions that were raised for it.
    era_conditions: BTreeSet<ConditionKind>,
    /// Batches with smaller numbers do not wait for others.
    flush_to: u64,
    /// Why nothing is sent any more.
    ended: Option<Error>,
    /// What is to be done beside sending.
    effects: VecDeque<Output>,
    /// Brokers that have their turn to send yet, the next one last, while there is something to do.
    turns: Vec<NodeId>,
    in_round: bool,
    counts: Counts,
    scratch: Vec<Batch>,
}

impl Sender {
    pub(super) fn new(config: SenderConfig) -> Self {
        let eras = if config.idempotent { Eras::Wanted(None) } else { Eras::Off };
        Self {
            config,
            topics: Vec::new(),
            topic_names: BTreeMap::new(),
            topic_ids: BTreeMap::new(),
            partitions: Vec::new(),
            nodes: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            outstanding: BTreeMap::new(),
            next_batch: 0,
            timers: BTreeSet::new(),
            waiting_for_era: BTreeSet::new(),
            leaderless: BTreeSet::new(),
            forbidden: BTreeMap::new(),
            eras,
            era_error: None,
            era_failures: 0,
            era_conditions: BTreeSet::new(),
            flush_to: 0,
            ended: None,
            effects: VecDeque::new(),
            turns: Vec::new(),
            in_round: false,
            counts: Counts::default(),
            scratch: Vec::new(),
        }
    }

    /// Takes on partition `index` of `topic` under the number `partition`; numbers come in order.
    pub(super) fn add_partition(&mut self, now: Instant, partition: usize, topic: &TopicName, index: i32) {
        debug_assert_eq!(partition, self.partitions.len(), "numbers come in order");
        let number = *self.topic_names.entry(topic.clone()).or_insert_with(|| {
            let id = Uuid::ZERO;
            self.topics.push(TopicState { name: topic.clone(), id, partitions: Vec::new(), used: true });
            self.topics.len() - 1
        });
        self.topics[number].partitions.push(partition);
        self.partitions.push(Partition::new(number, index, now));
    }

    /// Topics and the number of partitions of each that were taken on.
    pub(super) fn topics(&self) -> impl Iterator<Item = (&TopicName, usize)> {
        self.topics.iter().map(|topic| (&topic.name, topic.partitions.len()))
    }

    /// Topics that something was sent to since the last call, or waits for: a topic that left the refresh has to come back
    /// before anything can be sent to its new leader.
    pub(super) fn take_used(&mut self) -> Vec<TopicName> {
        for batch in self.outstanding.values() {
            self.topics[self.partitions[batch.partition].topic].used = true;
        }
        let taken = |topic: &mut TopicState| std::mem::take(&mut topic.used).then(|| topic.name.clone());
        self.topics.iter_mut().filter_map(taken).collect()
    }

    /// Names the leader of partition `index` of `topic`, as metadata has it.
    pub(super) fn handle_leader(
        &mut self,
        now: Instant,
        topic: &TopicName,
        index: i32,
        leader: Option<NodeId>,
        lanes: &mut impl Lanes,
    ) {
        let Some(number) = self.topic_names.get(topic) else { return };
        let Ok(at) = usize::try_from(index) else { return };
        let Some(partition) = self.topics[*number].partitions.get(at).copied() else { return };
        let state = &mut self.partitions[partition];
        if state.leader == leader {
            return;
        }
        state.leader = leader;
        state.listed = Listed::No;
        // With sequences a request may be answered by both leaders, and is written once. Without, only time tells.
        let busy_elsewhere = !state.sent.is_empty() && leader.is_some_and(|leader| leader != state.sent_to);
        let overtakes = busy_elsewhere && !matches!(self.eras, Eras::Off);
        state.overtake_at = overtakes.then(|| now + FORMER_LEADER);
        // The new leader has not refused anything yet.
        state.retry_at = None;
        if let Some(node) = leader {
            let SenderConfig { in_flight_max: max, linger, .. } = self.config;
            self.nodes.entry(node).or_insert_with(|| {
                let state = NodeState::new();
                lanes.set_pace(node, state.pace(max, linger));
                state
            });
        }
        lanes.attach(partition, leader);
        self.schedule(now, partition);
    }

    /// There is news of the cluster, perhaps none that helps: leaders that are missing are asked for again.
    pub(super) fn handle_news(&mut self) {
        let leaderless: Vec<_> = self.leaderless.iter().copied().collect();
        for partition in leaderless {
            self.refresh(partition);
        }
    }

    /// Names the id of `topic`. Another one than before means another topic: its logs know nothing of our sequences, and
    /// what waits goes there under new ones. What may have been written under the topic's name is not sent again, since
    /// nobody can tell whether the new one has it: a log that knows nothing of a producer takes any first sequence, so a gap
    /// there proves nothing.
    pub(super) fn handle_topic_id(
        &mut self,
        now: Instant,
        topic: &TopicName,
        id: Uuid,
        lanes: &mut impl Lanes,
    ) {
        let Some(number) = self.topic_names.get(topic).copied() else { return };
        let before = std::mem::replace(&mut self.topics[number].id, id);
        if id == before || id == Uuid::ZERO {
            return;
        }
        // An earlier id stays: an answer may be on the way that names it.
        self.topic_ids.insert(id.0, number);
        if before == Uuid::ZERO {
            return;
        }
        for at in 0..self.topics[number].partitions.len() {
            let partition = self.topics[number].partitions[at];
            self.partitions[partition].probing = true;
            if self.partitions[partition].era != era::Era::NONE {
                self.spoil(partition);
            }
            let requests = &self.requests;
            let by_name = |request| requests.get(&request).is_none_or(|request| request.by_name);
            for sent in &mut self.partitions[partition].sent {
                sent.batch.astray = by_name(sent.request) || sent.batch.named;
            }
            for batch in self.partitions[partition].take_astray() {
                self.put_back(partition, batch, lanes);
            }
            self.schedule(now, partition);
        }
    }

    /// `request` names topics: the broker knows no version of Produce with ids.
    pub(super) fn handle_named(&mut self, request: u64) {
        if let Some(request) = self.requests.get_mut(&request) {
            request.by_name = true;
        }
    }

    /// `topic` has `count` partitions: what waits for those behind them fails, and what was on the way to them when its
    /// answer comes.
    pub(super) fn handle_partition_count(
        &mut self,
        now: Instant,
        topic: &TopicName,
        count: usize,
        lanes: &mut impl Lanes,
    ) {
        let Some(number) = self.topic_names.get(topic).copied() else { return };
        for at in 0..self.topics[number].partitions.len() {
            let partition = self.topics[number].partitions[at];
            if at < count {
                self.partitions[partition].gone = None;
                continue;
            }
            if self.partitions[partition].gone.is_none() {
                let what =
                    format!("{} is gone: the topic was made anew with {count}", self.describe(partition));
                let error = Error::from_code(crate::ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, what)
                    .with_advice("enqueue the record again without naming a partition")
                    .with_retriable(false);
                self.partitions[partition].gone = Some(error);
                self.handle_leader(now, topic, at as i32, None, lanes);
            }
            self.fail_gone(now, partition, lanes);
            self.schedule(now, partition); // nothing waits for a leader any more
        }
    }

    /// The lane of `partition` turned non-empty, or one of its batches became ready.
    pub(super) fn handle_lane(&mut self, now: Instant, partition: usize, lanes: &mut impl Lanes) {
        self.collect(now, partition, Take::Ready, lanes);
        self.fail_gone(now, partition, lanes);
        self.schedule(now, partition);
    }

    /// Everything that was enqueued so far leaves as soon as it can. Returns the number to ask
    /// [`is_flushed`](Self::is_flushed) for.
    pub(super) fn handle_flush(&mut self) -> u64 {
        self.flush_to = self.next_batch;
        self.hurry();
        self.flush_to
    }

    /// Open batches leave as soon as they can: someone waits for their memory.
    pub(super) fn hurry(&mut self) {
        for node in self.nodes.values_mut() {
            node.hurry = node.open.len();
        }
    }

    /// True if everything that was enqueued before the flush with number `to` is settled.
    pub(super) fn is_flushed(&self, to: u64) -> bool {
        self.outstanding.first_key_value().is_none_or(|(first, _)| *first >= to)
    }

    /// There is a connection to `node`, or an error instead.
    pub(super) fn handle_connection(&mut self, node: NodeId, outcome: Result<(), Error>) {
        if let Some(state) = self.nodes.get_mut(&node) {
            state.way = if outcome.is_ok() { Way::Open } else { Way::None };
            state.unreachable = outcome.err();
        }
    }

    /// The connection to `node` is closed.
    pub(super) fn handle_disconnect(&mut self, node: NodeId) {
        if let Some(state) = self.nodes.get_mut(&node) {
            state.way = Way::None;
        }
    }

    /// What is to be done next; `None` says that there is nothing in the driver's look number `look`. `lanes` gives up open
    /// batches.
    pub(super) fn poll_output(&mut self, now: Instant, look: u64, lanes: &mut impl Lanes) -> Option<Output> {
        if self.wants_producer_id(now) {
            return Some(Output::AskProducerId);
        }
        if !std::mem::replace(&mut self.in_round, true) {
            let busy = self.nodes.iter().rev().filter(|(_, state)| state.is_busy());
            self.turns.extend(busy.map(|(node, _)| *node));
        }
        while let Some(node) = self.turns.last().copied() {
            let Some(state) = self.nodes.get_mut(&node) else { break };
            match state.way {
                Way::None => {
                    state.way = Way::Asked;
                    self.turns.pop();
                    return Some(Output::Connect(node));
                }
                Way::Asked => {}
                Way::Open => {
                    if let Some(outgoing) = self.next_request(now, node, lanes) {
                        return Some(Output::Send(outgoing));
                    }
                    if let Some(state) = self.nodes.get(&node) {
                        let SenderConfig { in_flight_max, linger, .. } = self.config;
                        lanes.set_pace(node, state.resting_pace(look, in_flight_max, linger));
                    }
                }
            }
            self.turns.pop();
        }
        self.in_round = !self.effects.is_empty();
        self.effects.pop_front()
    }

    /// Puts `partition` on the list that it belongs to.
    fn schedule(&mut self, now: Instant, partition: usize) {
        let era = self.eras.of(partition);
        let state = &mut self.partitions[partition];
        let readiness = state.readiness(now, self.config.in_flight_max, era);
        if readiness == Readiness::Blocked && state.leader.is_none() {
            state.listed = Listed::No;
            if self.leaderless.insert(partition) {
                self.refresh(partition);
            }
            return;
        }
        self.leaderless.remove(&partition);
        match readiness {
            Readiness::Idle | Readiness::Blocked => state.listed = Listed::No,
            Readiness::Until(at) => {
                state.listed = Listed::No;
                self.timers.insert((at, partition));
            }
            Readiness::NeedsEra => {
                state.listed = Listed::No;
                self.waiting_for_era.insert(partition);
            }
            Readiness::Ready(node) => {
                let Some(broker) = self.nodes.get_mut(&node) else { return };
                let flushed = state.pending.back().is_some_and(|id| *id < self.flush_to);
                if state.next().is_some() || flushed {
                    if state.listed != Listed::Ready(node) {
                        broker.ready.push_back(state.list(partition, Listed::Ready(node)));
                    }
                } else if state.listed != Listed::Open(node) {
                    broker.open.push_back(state.list(partition, Listed::Open(node)));
                    let since =
                        broker.open_since.map_or(state.open_since, |since| since.min(state.open_since));
                    broker.open_since = Some(since);
                }
            }
        }
    }

    /// True if a producer id has to be asked for; whoever is told asks.
    fn wants_producer_id(&mut self, now: Instant) -> bool {
        let wanted = self.eras.wants(now) && !self.partitions.is_empty();
        if wanted {
            self.eras = Eras::Asked;
        }
        wanted
    }

    /// Records acknowledged and failed so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// True if nobody waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// What was enqueued before the flush with number `to` and is not settled.
    pub(super) fn unfinished(&self, to: u64) -> Unfinished {
        let mut seen = BTreeSet::new();
        let waiting = self.outstanding.range(..to).map(|(_, batch)| batch.partition);
        let oldest: Vec<_> = waiting.filter(|partition| seen.insert(*partition)).collect();
        let named: Vec<_> =
            oldest.iter().take(NAMED_MAX).map(|partition| self.describe(*partition)).collect();
        let mut partitions = named.join(", ");
        if oldest.len() > NAMED_MAX {
            partitions = format!("{partitions} and {} more partitions", oldest.len() - NAMED_MAX);
        }
        let reason = oldest.first().and_then(|partition| {
            let state = &self.partitions[*partition];
            let sent = state.sent.iter().map(|sent| &sent.batch);
            let last = state.queue.iter().chain(sent).find_map(|batch| batch.last_error.as_ref());
            self.reason(*partition, last)
        });
        Unfinished { records: 0, partitions, reason }
    }

    fn refresh(&mut self, partition: usize) {
        let topic = &self.topics[self.partitions[partition].topic].name;
        if !self.effects.iter().any(|effect| matches!(effect, Output::Refresh(known) if known == topic)) {
            self.effects.push_back(Output::Refresh(topic.clone()));
        }
    }

    fn describe(&self, partition: usize) -> String {
        let state = &self.partitions[partition];
        format!("{}[{}]", self.topics[state.topic].name, state.index)
    }

    /// The error of records that were not acknowledged in time.
    fn timed_out(&self, partition: usize, last: Option<&Error>) -> Error {
        let message = format!(
            "records for {} were not acknowledged within {} ms (delivery.timeout.ms)",
            self.describe(partition),
            self.config.delivery_timeout.as_millis()
        );
        let error = Error::new(ErrorKind::Timeout, message);
        match self.reason(partition, last) {
            Some(reason) => error.with_source(reason),
            None => error,
        }
    }

    /// Why `partition` gets nothing acknowledged: it has no leader, its leader cannot be reached, there is no producer id, or
    /// the `last` failure of a batch.
    fn reason(&self, partition: usize, last: Option<&Error>) -> Option<Error> {
        let Some(leader) = self.partitions[partition].leader else {
            let what = format!("{} has no leader that we know of", self.describe(partition));
            let mut error = Error::from_code(crate::ErrorCode::LEADER_NOT_AVAILABLE, what).with_advice(
                "what was enqueued for a partition stays there; records without key go elsewhere meanwhile",
            );
            if let Some(last) = last {
                error = error.with_source(last.clone());
            }
            return Some(error);
        };
        let unreachable = self.nodes.get(&leader).and_then(|leader| leader.unreachable.as_ref());
        last.or(unreachable).or(self.era_error.as_ref()).cloned()
    }
}
