//! Machine: decides what to ask about the cluster and when, and merges answers into snapshots.
//!
//! One question is out at a time. Wishes that come meanwhile are kept and asked next. Topics of interest are asked for
//! by name; an answer about some of them says nothing about the others. Every topic has its own back-off, so one that
//! does not exist does not slow another.
//!
//! An answer that is not what one waits for (no such topic, no leader, older than what we know) is a reason to ask again
//! without being told to, and to ask another node: the machine watches what is wrong until it is right.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::config::ClusterConfig;
use super::lineage::{Claim, Lineage};
use super::metadata::{Metadata, Node, PartitionInfo, Topic};
use crate::backoff::Backoff;
use crate::types::{LeaderEpoch, NodeId, Partition, TopicName};
use crate::wire::Uuid;
use crate::wire::messages::MetadataResponse;
use crate::wire::messages::metadata::MetadataResponseTopic;
use crate::wire::produce::{CurrentLeader, NodeEndpoint};
use crate::{Error, ErrorCode, ErrorKind};

/// Leader epochs in Metadata are right from this version on (KAFKA-9212).
const EPOCHS_SINCE_VERSION: i16 = 9;
/// A known topic is dropped after this many answers in a row that it does not exist.
const UNKNOWN_ANSWERS_MAX: u32 = 5;
/// Older epochs are accepted after this many answers in a row: the cluster was restored from a backup.
const STALE_ANSWERS_MAX: u32 = 20;
/// A topic that nobody has used for this long, or for two refreshes, is no longer asked for (KIP-526).
const UNUSED_MIN: Duration = Duration::from_secs(5 * 60);
/// Longest pause between two looks at what is wrong.
const WATCH_MAX: Duration = Duration::from_secs(5);
/// A node that has not answered after this time may be frozen, and another is asked; doubled after each failure.
const PATIENCE: Duration = Duration::from_secs(1);
/// Nodes that knew too little and are not asked next.
const AVOIDED_MAX: usize = 2;

/// A question about topics; brokers always are part of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// In order.
    pub(super) topics: Vec<TopicName>,
    /// Topics that do not exist shall be created.
    pub(super) create: bool,
    /// How long it may take to find a node to ask.
    pub(super) reach_within: Duration,
    /// How long the node that is asked has for its answer.
    pub(super) patience: Duration,
    /// Nodes that did not answer, or knew less than we do: others are asked first.
    pub(super) avoid: Vec<NodeId>,
}

impl Query {
    /// When a search for a node that begins now has to end.
    pub(super) fn reach_by(&self, now: Instant) -> Instant {
        now + self.reach_within
    }

    /// When a node that is asked now has to have answered.
    pub(super) fn answer_by(&self, now: Instant) -> Instant {
        now + self.patience
    }
}

/// What the driver has to do.
#[derive(Debug)]
pub(super) enum Output {
    /// Ask this, and say what came of it with one of the `handle_*` functions.
    Ask(Query),
    /// Another cluster than `known` answers to the same names.
    ClusterReplaced {
        /// The cluster before.
        known: Arc<str>,
        /// The cluster now.
        now: Arc<str>,
    },
}

#[derive(Debug)]
struct Interest {
    /// When somebody last asked for it or said that it is in use.
    used_at: Instant,
    create: bool,
    wished: bool,
    /// It is asked for because somebody wished so.
    doubted: bool,
    not_before: Instant,
    /// Answers in a row that did not help.
    unhelpful: u32,
    /// Answers in a row that there is no such topic.
    unknown: u32,
    /// Answers in a row that were older than what we know.
    stale: u32,
    lineage: Lineage,
    /// Answers in a row that something is wrong, and when to look again because of the last.
    wrong: u32,
    watch_at: Option<Instant>,
}

impl Interest {
    fn new(now: Instant, create: bool, wished: bool) -> Self {
        Self {
            used_at: now,
            create,
            wished,
            doubted: false,
            not_before: now,
            unhelpful: 0,
            unknown: 0,
            stale: 0,
            lineage: Lineage::default(),
            wrong: 0,
            watch_at: None,
        }
    }

    /// When to ask about it, if at all.
    fn due_at(&self) -> Option<Instant> {
        let wished = self.wished.then_some(self.not_before);
        [wished, self.watch_at].into_iter().flatten().min()
    }
}

/// What an answer about a topic was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    /// News that can be used.
    News,
    /// All is well, as before.
    Nothing,
    /// Something is wrong with the topic.
    Wrong,
    /// Older than what we know, or not enough to believe it: another node may know better.
    Doubtful,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Updater {
    current: Arc<Metadata>,
    outputs: VecDeque<Output>,
    interests: BTreeMap<TopicName, Interest>,
    /// A complete refresh was asked for.
    wished: bool,
    asking: Option<Query>,
    not_before: Instant,
    refresh_at: Instant,
    failures: u32,
    /// First failure since the last answer.
    failing_since: Option<Instant>,
    rebootstrap: bool,
    last_error: Option<Error>,
    /// See [`Query::avoid`].
    avoid: VecDeque<NodeId>,
    patience_max: Duration,
    max_age: Duration,
    gap: Duration,
    backoff: Backoff,
    rebootstrap_after: Duration,
}

impl Updater {
    pub(super) fn new(now: Instant, config: &ClusterConfig) -> Self {
        Self {
            current: Arc::default(),
            outputs: VecDeque::new(),
            interests: BTreeMap::new(),
            wished: false,
            asking: None,
            not_before: now,
            refresh_at: now + config.metadata_max_age,
            failures: 0,
            failing_since: None,
            rebootstrap: false,
            last_error: None,
            avoid: VecDeque::new(),
            patience_max: config.connection.request_timeout,
            max_age: config.metadata_max_age,
            gap: config.metadata_gap,
            backoff: config.retry_backoff,
            rebootstrap_after: config.rebootstrap_after,
        }
    }

    /// The latest snapshot.
    pub(super) fn current(&self) -> &Arc<Metadata> {
        &self.current
    }

    /// Why the latest question failed, if it did.
    pub(super) fn last_error(&self) -> Option<&Error> {
        self.last_error.as_ref()
    }

    /// True if the nodes that we know shall not be asked, only the bootstrap list (KIP-899, KIP-1102).
    pub(super) fn wants_bootstrap(&self) -> bool {
        self.rebootstrap
    }

    /// Wishes news of `topic`, now and with every refresh for as long as it is [used](Self::use_topic). `create` asks the broker to create it.
    pub(super) fn want_topic(&mut self, now: Instant, topic: &TopicName, create: bool) {
        let interest =
            self.interests.entry(topic.clone()).or_insert_with(|| Interest::new(now, create, true));
        interest.used_at = now;
        interest.wished = true;
        if create && !interest.create {
            // What the answers were without creation says nothing about what they will be with it.
            interest.create = true;
            interest.unhelpful = 0;
            interest.not_before = now;
        }
    }

    /// `topic` is in use: it stays part of every refresh, and is asked for now only if it is not known.
    pub(super) fn use_topic(&mut self, now: Instant, topic: &TopicName, create: bool) {
        match self.interests.get_mut(topic) {
            Some(interest) => interest.used_at = now,
            None => {
                let wished = !self.current.topics.contains_key(topic);
                self.interests.insert(topic.clone(), Interest::new(now, create, wished));
            }
        }
    }

    /// Drops what nobody has used for long. The next answer makes it visible.
    fn forget_unused(&mut self, now: Instant) {
        let unused = UNUSED_MIN.max(self.max_age.saturating_mul(2));
        // Somebody may still wait for the answer to a wish.
        let is_used =
            |interest: &Interest| interest.wished || now.saturating_duration_since(interest.used_at) < unused;
        if self.interests.values().all(is_used) {
            return;
        }
        self.interests.retain(|_, interest| is_used(interest));
        let current = Arc::make_mut(&mut self.current);
        current.topics.retain(|topic, _| self.interests.contains_key(topic));
        current.errors.retain(|topic, _| self.interests.contains_key(topic));
    }

    /// True if news of `topic` are wished or asked for.
    pub(super) fn is_awaited(&self, topic: &TopicName) -> bool {
        self.interests.get(topic).is_some_and(|interest| interest.wished)
            || self.asking.as_ref().is_some_and(|query| query.topics.contains(topic))
    }

    /// Wishes a complete refresh.
    pub(super) fn want_refresh(&mut self) {
        self.wished = true;
    }

    /// What is to be done.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Asks if it is time to.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(query) = self.next_query(now) {
            self.asking = Some(query.clone());
            self.outputs.push_back(Output::Ask(query));
        }
    }

    fn next_query(&mut self, now: Instant) -> Option<Query> {
        if self.asking.is_some() || now < self.not_before {
            return None;
        }
        let due: Vec<_> = (self.interests.iter())
            .filter(|(_, interest)| interest.due_at().is_some_and(|at| at <= now))
            .map(|(topic, interest)| {
                (topic.clone(), interest.create && !self.current.topics.contains_key(topic))
            })
            .collect();
        let creating: Vec<_> =
            due.iter().filter(|(_, create)| *create).map(|(topic, _)| topic.clone()).collect();
        let (topics, create) = if !creating.is_empty() {
            (creating, true)
        } else if self.wished || now >= self.refresh_at {
            self.wished = false;
            self.refresh_at = now + self.max_age;
            self.forget_unused(now);
            (self.interests.keys().cloned().collect(), false)
        } else if !due.is_empty() {
            (due.into_iter().map(|(topic, _)| topic).collect(), false)
        } else {
            return None;
        };
        for (topic, interest) in &mut self.interests {
            if topics.binary_search(topic).is_ok() {
                interest.doubted = std::mem::take(&mut interest.wished);
                interest.watch_at = None;
            }
        }
        let patience = patience(self.failures).min(self.patience_max);
        let avoid = self.avoid.iter().copied().collect();
        Some(Query { topics, create, reach_within: self.patience_max, patience, avoid })
    }

    /// When [`handle_timeout`](Self::handle_timeout) may have something new; `None` while a question is out.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.asking.is_some() {
            return None;
        }
        let topic = self.interests.values().filter_map(Interest::due_at);
        let now_or_later = if self.wished { self.not_before } else { self.refresh_at };
        topic.chain([now_or_later]).min().map(|at| at.max(self.not_before))
    }

    /// The question could not be asked, or `asked` did not answer it.
    pub(super) fn handle_failure(&mut self, now: Instant, asked: Option<NodeId>, error: Error, dice: u64) {
        let Some(query) = self.asking.take() else { return };
        self.failures = self.failures.saturating_add(1);
        self.avoid.retain(|node| Some(*node) != asked);
        self.avoid.extend(asked);
        // Where an answer was waited for, that was pause enough: another node is asked at once.
        let pause = if asked.is_some() && error.is_timeout() {
            Duration::ZERO
        } else {
            self.backoff.delay(self.failures, dice)
        };
        self.not_before = now + pause;
        let since = *self.failing_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.rebootstrap_after
            || error.code() == Some(ErrorCode::REBOOTSTRAP_REQUIRED)
        {
            self.rebootstrap = true;
            self.failing_since = None;
        }
        self.last_error = Some(error);
        self.wished |= query.topics.is_empty();
        for topic in query.topics {
            if let Some(interest) = self.interests.get_mut(&topic) {
                interest.wished = true;
            }
        }
    }

    /// Merges an answer of `version` that `asked` gave. Returns the new snapshot, or `None` if the answer counts as a failure.
    pub(super) fn handle_response(
        &mut self,
        now: Instant,
        asked: NodeId,
        response: &MetadataResponse,
        version: i16,
        dice: u64,
    ) -> Option<Arc<Metadata>> {
        if !ErrorCode(response.error_code).is_ok() {
            let error = Error::from_code(ErrorCode(response.error_code), "Metadata request failed");
            self.handle_failure(now, Some(asked), error, dice);
            return None;
        }
        if response.brokers.is_empty() {
            let error = Error::new(ErrorKind::Protocol, "a broker answered that the cluster has no brokers");
            self.handle_failure(now, Some(asked), error.with_retriable(true), dice);
            return None;
        }
        self.asking.take()?;
        self.failures = 0;
        self.failing_since = None;
        self.rebootstrap = false;
        self.last_error = None;
        self.not_before = now;

        let mut next = Metadata::clone(&self.current);
        next.generation += 1;
        self.merge_cluster(&mut next, response);
        let mut trusted = true;
        for topic in &response.topics {
            let Some(name) = &topic.name else { continue };
            let name = TopicName::from(name.clone());
            let worth = self.merge_topic(&mut next, &name, topic, version);
            trusted &= matches!(worth, Worth::News | Worth::Nothing);
            if let Some(interest) = self.interests.get_mut(&name) {
                // Somebody met what speaks against what we know, and this node knows no more: it may lag behind.
                trusted &= worth != Worth::Nothing || !std::mem::take(&mut interest.doubted);
                // An unhelpful answer of long ago is no reason to wait.
                if now.saturating_duration_since(interest.not_before) > self.backoff.max {
                    interest.unhelpful = 0;
                }
                let news = worth == Worth::News;
                interest.unhelpful = if news { 0 } else { interest.unhelpful.saturating_add(1) };
                let wait = if news { self.gap } else { self.backoff.delay(interest.unhelpful, dice) };
                interest.not_before = now + wait;
                let wrong = matches!(worth, Worth::Wrong | Worth::Doubtful);
                interest.wrong = if wrong { interest.wrong.saturating_add(1) } else { 0 };
                let watch = Backoff { max: WATCH_MAX.max(self.backoff.max), ..self.backoff };
                interest.watch_at = wrong.then(|| now + watch.delay(interest.wrong, dice));
            }
        }
        // Of those that know too little a few are remembered, so that one topic that nobody has does not lead through a
        // whole cluster.
        let kept = if trusted { 0 } else { AVOIDED_MAX };
        self.avoid.retain(|node| *node != asked);
        self.avoid.push_back(asked);
        self.avoid.drain(..self.avoid.len().saturating_sub(kept));
        next.names = (next.topics.values())
            .filter(|topic| topic.id != Uuid::default())
            .map(|topic| (topic.id.0, topic.name.clone()))
            .collect();
        self.current = Arc::new(next);
        Some(Arc::clone(&self.current))
    }

    fn merge_cluster(&mut self, next: &mut Metadata, response: &MetadataResponse) {
        if let Some(id) = &response.cluster_id {
            if let Some(known) = next.cluster_id.take().filter(|known| **known != **id) {
                self.outputs.push_back(Output::ClusterReplaced { known, now: (**id).into() });
                next.topics.clear();
                next.errors.clear();
                for interest in self.interests.values_mut() {
                    interest.lineage = Lineage::default();
                }
            }
            next.cluster_id = Some((**id).into());
        }
        next.controller = (response.controller_id >= 0).then_some(NodeId(response.controller_id));
        next.nodes = (response.brokers.iter())
            .filter_map(|broker| {
                let id = NodeId(broker.node_id);
                let port = u16::try_from(broker.port).ok()?;
                let rack = broker.rack.as_deref().map(Into::into);
                Some((id, Node { id, host: (*broker.host).into(), port, rack }))
            })
            .collect();
    }

    fn merge_topic(
        &mut self,
        next: &mut Metadata,
        name: &TopicName,
        answer: &MetadataResponseTopic,
        version: i16,
    ) -> Worth {
        let code = ErrorCode(answer.error_code);
        let known = next.topics.get(name).cloned();
        let mut interest = self.interests.get_mut(name);
        if !code.is_ok() {
            let unknown = matches!(code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID);
            let confirmed = match &mut interest {
                Some(interest) if unknown => {
                    interest.unknown += 1;
                    interest.unknown >= UNKNOWN_ANSWERS_MAX
                }
                Some(_) => false,
                None => unknown,
            };
            // A broker that is behind, or is asked too early, knows less than we do.
            if confirmed || is_permanent(code) {
                next.topics.remove(name);
            }
            next.errors.insert(name.clone(), code);
            return Worth::Wrong;
        }
        let claim = match &mut interest {
            Some(interest) => interest.lineage.handle_id(answer.topic_id),
            None => Claim::Same,
        };
        if claim == Claim::Doubtful {
            return Worth::Doubtful;
        }
        next.errors.remove(name);
        let mut topic = convert(name, answer, version);
        let mut stale = false;
        if let Some(known) = &known {
            let patient = interest.as_ref().is_none_or(|interest| interest.stale < STALE_ANSWERS_MAX);
            if claim == Claim::Same && patient {
                stale = keep_newer(&known.partitions, &mut topic.partitions);
            }
            if topic.id == Uuid::default() {
                topic.id = known.id;
            }
        }
        if let Some(interest) = &mut interest {
            interest.unknown = 0;
            interest.stale = if stale { interest.stale + 1 } else { 0 };
        }
        let changed = known.as_deref() != Some(&topic);
        let complete = !topic.partitions.is_empty()
            && topic.partitions.iter().all(|partition| partition.leader.is_some());
        if changed {
            next.topics.insert(name.clone(), Arc::new(topic));
        }
        match (stale, complete, changed) {
            (true, ..) => Worth::Doubtful,
            (_, false, _) => Worth::Wrong,
            (.., true) => Worth::News,
            (.., false) => Worth::Nothing,
        }
    }

    /// Takes a leader that a broker named in passing; true if it is news (KIP-951). `id` is the topic that the broker was
    /// asked about, zero where that is not known: what is said of one that was replaced is nothing about its successor.
    pub(super) fn handle_hint(
        &mut self,
        topic: &str,
        id: Uuid,
        partition: Partition,
        hint: CurrentLeader,
        endpoints: &[NodeEndpoint],
    ) -> bool {
        let (leader, epoch) = (NodeId(hint.leader_id), LeaderEpoch(hint.leader_epoch));
        if leader.0 < 0 || epoch.0 < 0 {
            return false;
        }
        let Some(known) = self.current.topic(topic) else { return false };
        if ![known.id, id].contains(&Uuid::default()) && known.id != id {
            return false;
        }
        let Some(info) = known.partition(partition) else { return false };
        let endpoint = endpoints.iter().find(|endpoint| endpoint.node_id == hint.leader_id);
        let endpoint = endpoint.and_then(|endpoint| Some((endpoint, u16::try_from(endpoint.port).ok()?)));
        if epoch <= info.leader_epoch || (endpoint.is_none() && !self.current.nodes.contains_key(&leader)) {
            return false;
        }
        let mut next = Metadata::clone(&self.current);
        if let Some((endpoint, port)) = endpoint {
            let rack = endpoint.rack.as_deref().map(Into::into);
            next.nodes.insert(leader, Node { id: leader, host: (*endpoint.host).into(), port, rack });
        }
        let mut changed = Topic::clone(known);
        if let Some(info) =
            usize::try_from(partition.0).ok().and_then(|index| changed.partitions.get_mut(index))
        {
            info.leader = Some(leader);
            info.leader_epoch = epoch;
        }
        next.topics.insert(changed.name.clone(), Arc::new(changed));
        next.generation += 1;
        self.current = Arc::new(next);
        true
    }
}

/// How long a node has for a question that others can answer as well, after `failures` in a row.
pub(super) fn patience(failures: u32) -> Duration {
    PATIENCE.saturating_mul(2u32.saturating_pow(failures))
}

/// Errors of a topic that no waiting changes.
pub(super) fn is_permanent(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::INVALID_TOPIC_EXCEPTION)
}

fn convert(name: &TopicName, answer: &MetadataResponseTopic, version: i16) -> Topic {
    let mut partitions = Vec::new();
    for partition in &answer.partitions {
        let Ok(index) = usize::try_from(partition.partition_index) else { continue };
        // Brokers list every partition, so an index beyond their number is a lie.
        if index >= answer.partitions.len() {
            continue;
        }
        if partitions.len() <= index {
            partitions.resize_with(index + 1, PartitionInfo::default);
        }
        let trusted = version >= EPOCHS_SINCE_VERSION;
        partitions[index] = PartitionInfo {
            leader: (partition.leader_id >= 0).then_some(NodeId(partition.leader_id)),
            leader_epoch: if trusted {
                LeaderEpoch(partition.leader_epoch.max(-1))
            } else {
                LeaderEpoch::UNKNOWN
            },
            replicas: partition.replica_nodes.iter().map(NodeId).collect(),
            isr: partition.isr_nodes.iter().map(NodeId).collect(),
            error: ErrorCode(partition.error_code),
        };
    }
    Topic { name: name.clone(), id: answer.topic_id, internal: answer.is_internal, partitions }
}

/// Puts what we know better back into `new`; true if there was such a thing.
fn keep_newer(known: &[PartitionInfo], new: &mut Vec<PartitionInfo>) -> bool {
    let mut stale = false;
    for (known, new) in known.iter().zip(new.iter_mut()) {
        if known.leader_epoch > new.leader_epoch && new.leader_epoch != LeaderEpoch::UNKNOWN {
            *new = known.clone();
            stale = true;
        }
    }
    // Partitions are never taken away: a shorter list is an old one.
    if known.len() > new.len() {
        new.extend_from_slice(&known[new.len()..]);
        stale = true;
    }
    stale
}

#[cfg(test)]
mod tests;
