//! Machine: a cluster's nodes, topics, partitions, replication, retention. Every input carries `now`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::ErrorCode;
use crate::wire::{Str, Uuid};

use super::groups::Groups;
use super::log::{Admission, Examined, Log, Refusal, StoredBatch};
use super::partition::{NO_LEADER, Partition};
use super::replay::Replay;
use super::rights::{Operation, Rights};
use super::rules::Rules;
use super::sessions::Sessions;
use super::settings::{Mode, Settings};
use super::topic_configs;

/// One broker of the cluster.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) host: Str,
    pub(crate) port: u16,
    pub(crate) alive: bool,
    /// Since when it does nothing. It counts as alive until its session is over.
    pub(crate) frozen: Option<Instant>,
    pub(crate) sessions: Sessions,
    /// Replication lag of this node's followers where it differs from the cluster's.
    lag: Option<Duration>,
    /// Bytes of this node's logs.
    bytes: usize,
    /// Appended batches, oldest first; some may be gone already.
    age: VecDeque<Aged>,
    prune_age_at: usize,
}

impl Node {
    /// Entries of the list by age.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.age.len()
    }
}

#[derive(Debug)]
struct Aged {
    topic: Uuid,
    partition: i32,
    end: i64,
}

/// A topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: Uuid,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) configs: BTreeMap<String, String>,
    /// Nodes that do not serve it yet.
    newcomers: BTreeMap<i32, Newcomer>,
}

/// What a node knows of a new topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newcomer {
    /// Nothing.
    Unaware,
    /// That it is there, but it does not lead its partitions yet.
    NotLeading,
}

impl Topic {
    /// True if `node` has learnt of the topic.
    pub(crate) fn is_known_to(&self, node: i32) -> bool {
        self.newcomers.get(&node) != Some(&Newcomer::Unaware)
    }

    /// True if `node` leads `partition` and is ready to.
    pub(crate) fn is_led_by(&self, node: i32, partition: &Partition) -> bool {
        partition.leader == node && !self.newcomers.contains_key(&node)
    }

    pub(crate) fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    pub(crate) fn partition_mut(&mut self, index: i32) -> Option<&mut Partition> {
        self.partitions.get_mut(usize::try_from(index).ok()?)
    }
}

/// What a new topic is to look like.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewTopic {
    pub(crate) name: Str,
    /// `None` takes the cluster's default.
    pub(crate) partitions: Option<i32>,
    pub(crate) replication_factor: Option<i16>,
    /// Replicas by partition; overrides both counts.
    pub(crate) assignments: Option<Vec<Vec<i32>>>,
    pub(crate) configs: BTreeMap<String, String>,
}

/// A step between nodes that is due later.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Follow {
        topic: Uuid,
        partition: i32,
        node: i32,
        limit: i64,
    },
    ShrinkIfBehind {
        topic: Uuid,
        partition: i32,
        node: i32,
        end: i64,
    },
    /// A node learns of a new topic, and `leads` after so long.
    Learn {
        topic: Uuid,
        node: i32,
        leads: Duration,
    },
    Lead {
        topic: Uuid,
        node: i32,
    },
    /// The session of a node ends that is frozen since then.
    Fence {
        node: i32,
        since: Instant,
    },
}

/// A batch that was appended, or had been before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    /// The high watermark that acks=all waits for, as long as the epoch is this one.
    pub(crate) end: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) append_time: i64,
    pub(crate) log_start: i64,
}

/// Counters for benches and tests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) records: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
}

/// The state of the whole cluster. One lock guards it; it is never held across an await.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) cluster_id: Str,
    pub(crate) nodes: BTreeMap<i32, Node>,
    pub(crate) topics: BTreeMap<Str, Topic>,
    pub(crate) topic_names: BTreeMap<Uuid, Str>,
    /// Topics by their name as metrics see it, see [`collision_key`].
    collisions: BTreeMap<String, Str>,
    pub(crate) groups: Groups,
    pub(crate) rules: Rules,
    pub(crate) rights: Rights,
    pub(crate) rng: fastrand::Rng,
    pub(crate) totals: Totals,
    pub(crate) replay: Option<Replay>,
    next_producer_id: i64,
    lag: Duration,
    steps: BTreeMap<(Instant, u64), Step>,
    next_step: u64,
    /// Where the next topic's first replica goes.
    next_leader: usize,
}

impl State {
    pub(crate) fn new(settings: Settings, mut rng: fastrand::Rng) -> Self {
        let cluster_id = Str::from(Uuid(rng.u128(..).to_be_bytes()).to_string());
        let lag = settings.replication_lag;
        let groups = Groups::new(&settings);
        let replay = (settings.mode == Mode::Replay).then(Replay::default);
        Self {
            settings,
            cluster_id,
            nodes: BTreeMap::new(),
            topics: BTreeMap::new(),
            topic_names: BTreeMap::new(),
            collisions: BTreeMap::new(),
            groups,
            rules: Rules::default(),
            rights: Rights::default(),
            rng,
            totals: Totals::default(),
            replay,
            next_producer_id: 1000,
            lag,
            steps: BTreeMap::new(),
            next_step: 0,
            next_leader: 0,
        }
    }

    pub(crate) fn add_node(&mut self, id: i32, host: Str, port: u16) {
        self.nodes.insert(
            id,
            Node {
                id,
                host,
                port,
                alive: true,
                frozen: None,
                sessions: Sessions::default(),
                lag: None,
                bytes: 0,
                age: VecDeque::new(),
                prune_age_at: 0,
            },
        );
    }

    pub(crate) fn is_alive(&self, node: i32) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.alive)
    }

    /// True if the node lives and is not frozen.
    fn is_running(&self, node: i32) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.alive && node.frozen.is_none())
    }

    pub(crate) fn alive_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.alive)
    }

    /// The controller that clients are told: the first node that lives.
    pub(crate) fn controller(&self) -> i32 {
        self.alive_nodes().next().map_or(-1, |node| node.id)
    }

    pub(crate) fn new_producer_id(&mut self) -> i64 {
        self.next_producer_id += 1;
        self.next_producer_id
    }

    // ---- topics ----

    pub(crate) fn topic_by_id(&self, id: &Uuid) -> Option<(&Str, &Topic)> {
        let name = self.topic_names.get(id)?;
        self.topics.get_key_value(name)
    }

    fn topic_by_id_mut(&mut self, id: &Uuid) -> Option<&mut Topic> {
        self.topics.get_mut(self.topic_names.get(id)?)
    }

    /// The topic, if `node` has learnt of it.
    pub(crate) fn topic_at(&self, node: i32, name: &str) -> Option<&Topic> {
        self.topics.get(name).filter(|topic| topic.is_known_to(node))
    }

    /// Checks and, unless `validate_only`, creates a topic. Returns partitions and replication factor.
    pub(crate) fn create_topic(
        &mut self,
        new: NewTopic,
        validate_only: bool,
        now: Instant,
    ) -> Result<(Uuid, i32, i16), (ErrorCode, String)> {
        check_topic_name(&new.name).map_err(|why| (ErrorCode::INVALID_TOPIC_EXCEPTION, why))?;
        if self.topics.contains_key(&new.name) {
            return Err((ErrorCode::TOPIC_ALREADY_EXISTS, format!("Topic '{}' already exists.", new.name)));
        }
        check_reserved(&new.name)?;
        let collision = collision_key(&new.name);
        if let Some(other) = collision.as_ref().and_then(|key| self.collisions.get(key)) {
            let why = format!("Topic '{}' collides with existing topic: {other}", new.name);
            return Err((ErrorCode::INVALID_TOPIC_EXCEPTION, why));
        }
        topic_configs::check(&new.configs).map_err(|why| (ErrorCode::INVALID_CONFIG, why))?;
        let placement = match &new.assignments {
            Some(assignments) => self.check_assignments(assignments)?,
            None => {
                let partitions = new.partitions.unwrap_or(self.settings.default_partitions);
                let factor =
                    new.replication_factor.unwrap_or_else(|| self.settings.default_replication_factor());
                self.place(partitions, factor, None)?
            }
        };
        let partitions = placement.len() as i32;
        let factor = placement.first().map_or(0, |replicas| replicas.len() as i16);
        if validate_only {
            return Ok((Uuid::default(), partitions, factor));
        }
        let id = self.new_topic_id();
        let partitions_made = placement.into_iter().map(|replicas| self.new_partition(replicas)).collect();
        self.topic_names.insert(id, new.name.clone());
        let newcomers = self.propagate(id, now);
        if let Some(key) = collision {
            self.collisions.insert(key, new.name.clone());
        }
        if topic_configs::is_compacted(&new.configs) {
            tracing::warn!(topic = %new.name, "cleanup.policy=compact is stored, but the embedded cluster does not compact yet");
        }
        self.topics
            .insert(new.name, Topic { id, partitions: partitions_made, configs: new.configs, newcomers });
        self.next_leader = self.next_leader.wrapping_add(1);
        Ok((id, partitions, factor))
    }

    /// Lets every node learn of the new topic `id` in its own time. Returns those that have to.
    fn propagate(&mut self, id: Uuid, now: Instant) -> BTreeMap<i32, Newcomer> {
        let longest = self.settings.topic_propagation;
        if longest.is_zero() {
            return BTreeMap::new();
        }
        let nodes: Vec<i32> = self.nodes.keys().copied().collect();
        for node in &nodes {
            let (learns, leads) = (longest.mul_f64(self.rng.f64()), longest.mul_f64(self.rng.f64()));
            self.at(now + learns, Step::Learn { topic: id, node: *node, leads });
        }
        nodes.into_iter().map(|node| (node, Newcomer::Unaware)).collect()
    }

    fn new_topic_id(&mut self) -> Uuid {
        loop {
            // Version 4; Kafka also avoids ids whose text begins with a dash.
            let mut id = self.rng.u128(..).to_be_bytes();
            id[6] = (id[6] & 0x0f) | 0x40;
            id[8] = (id[8] & 0x3f) | 0x80;
            if id[0] & 0xfc != 0xf8 && !self.topic_names.contains_key(&Uuid(id)) {
                return Uuid(id);
            }
        }
    }

    fn new_partition(&self, replicas: Vec<i32>) -> Partition {
        let mut isr: Vec<i32> = replicas.iter().copied().filter(|node| self.is_alive(*node)).collect();
        if isr.is_empty() {
            isr.clone_from(&replicas);
        }
        let mut partition = Partition::new(replicas, isr);
        if !self.is_alive(partition.leader) {
            partition.leader = NO_LEADER;
        }
        partition
    }

    fn check_assignments(&self, assignments: &[Vec<i32>]) -> Result<Vec<Vec<i32>>, (ErrorCode, String)> {
        let bad = |why: &str| (ErrorCode::INVALID_REPLICA_ASSIGNMENT, why.to_owned());
        let width = assignments.first().map_or(0, Vec::len);
        for replicas in assignments {
            let mut seen = replicas.clone();
            seen.sort_unstable();
            seen.dedup();
            if replicas.is_empty() || seen.len() != replicas.len() {
                return Err(bad("The manual partition assignment has an empty or repeating replica list."));
            }
            if replicas.len() != width {
                return Err(bad("The manual partition assignment has replica lists of different lengths."));
            }
            if let Some(unknown) = replicas.iter().find(|node| !self.nodes.contains_key(node)) {
                return Err(bad(&format!(
                    "The manual partition assignment includes broker {unknown}, but no such broker is registered."
                )));
            }
        }
        if assignments.is_empty() {
            return Err((
                ErrorCode::INVALID_PARTITIONS,
                "Number of partitions was set to an invalid value.".into(),
            ));
        }
        Ok(assignments.to_vec())
    }

    /// Spreads `partitions` over the nodes; `first` is the index of the first one for a topic that grows.
    fn place(
        &self,
        partitions: i32,
        factor: i16,
        first: Option<usize>,
    ) -> Result<Vec<Vec<i32>>, (ErrorCode, String)> {
        const PARTITIONS_MAX: i32 = 100_000;
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err((
                ErrorCode::INVALID_PARTITIONS,
                format!("Number of partitions was set to an invalid value: {partitions}."),
            ));
        }
        let nodes: Vec<i32> = self.nodes.keys().copied().collect();
        let alive = self.alive_nodes().count();
        let Some(factor) = usize::try_from(factor).ok().filter(|factor| (1..=alive).contains(factor)) else {
            return Err((
                ErrorCode::INVALID_REPLICATION_FACTOR,
                format!(
                    "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be reached because only {alive} broker(s) are registered."
                ),
            ));
        };
        let candidates: Vec<i32> =
            if alive == nodes.len() { nodes } else { self.alive_nodes().map(|node| node.id).collect() };
        let start = first.unwrap_or(self.next_leader);
        Ok((0..partitions as usize)
            .map(|partition| {
                (0..factor)
                    .filter_map(|replica| {
                        candidates.get((start.wrapping_add(partition + replica)) % candidates.len()).copied()
                    })
                    .collect()
            })
            .collect())
    }

    /// Grows a topic to `count` partitions.
    pub(crate) fn create_partitions(
        &mut self,
        name: &str,
        count: i32,
        assignments: Option<Vec<Vec<i32>>>,
        validate_only: bool,
    ) -> Result<(), (ErrorCode, String)> {
        let Some(topic) = self.topics.get(name) else {
            return Err((
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                "This server does not host this topic-partition.".into(),
            ));
        };
        let current = topic.partitions.len() as i32;
        if count <= current {
            return Err((
                ErrorCode::INVALID_PARTITIONS,
                if count == current {
                    format!("Topic already has {current} partition(s).")
                } else {
                    format!(
                        "The topic {name} currently has {current} partition(s); {count} would not be an increase."
                    )
                },
            ));
        }
        let placement = match assignments {
            Some(assignments) => {
                let assignments = self.check_assignments(&assignments)?;
                if assignments.len() as i32 != count - current {
                    return Err((
                        ErrorCode::INVALID_REPLICA_ASSIGNMENT,
                        format!(
                            "Attempted to add {} additional partition(s), but only {} assignment(s) were specified.",
                            count - current,
                            assignments.len()
                        ),
                    ));
                }
                assignments
            }
            None => {
                let factor = topic.partitions.first().map_or(1, |first| first.replicas.len() as i16);
                self.place(count - current, factor, Some(self.next_leader + current as usize))?
            }
        };
        if !validate_only {
            let made: Vec<_> = placement.into_iter().map(|replicas| self.new_partition(replicas)).collect();
            if let Some(topic) = self.topics.get_mut(name) {
                topic.partitions.extend(made);
            }
        }
        Ok(())
    }

    /// Deletes a topic with its logs and the offsets committed for it.
    pub(crate) fn delete_topic(&mut self, name: &str) -> Option<Uuid> {
        let mut topic = self.topics.remove(name)?;
        self.topic_names.remove(&topic.id);
        if let Some(key) = collision_key(name) {
            self.collisions.remove(&key);
        }
        for partition in &mut topic.partitions {
            partition.wake_all();
            for (node, log) in &partition.logs {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.bytes = node.bytes.saturating_sub(log.bytes());
                }
            }
        }
        self.groups.topic_deleted(name);
        Some(topic.id)
    }

    /// The partition, if `node` leads it; otherwise the code that says why not.
    pub(crate) fn led(
        &self,
        node: i32,
        name: &str,
        index: i32,
        known_epoch: i32,
        operation: Operation,
    ) -> Result<(&Topic, &Partition), ErrorCode> {
        self.rights.check_topic(name, operation)?;
        let topic = self.topic_at(node, name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let partition = topic.partition(index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        check_epoch(partition, known_epoch)?;
        if !topic.is_led_by(node, partition) {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        Ok((topic, partition))
    }

    // ---- the way of a batch in ----

    /// Appends a batch if nothing speaks against it, and replicates it as far as the lag allows.
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    pub(crate) fn append(
        &mut self,
        node: i32,
        name: &str,
        index: i32,
        batch: &Examined,
        all: bool,
        now: Instant,
        wall: i64,
    ) -> Result<Appended, Refusal> {
        let default_max = self.settings.message_max_bytes;
        let default_min = self.settings.min_insync_replicas;
        let counting = self.settings.mode != Mode::Store;
        let unknown = || {
            Refusal::new(
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                "This server does not host this topic-partition.",
            )
        };
        self.rights
            .check_topic(name, Operation::Write)
            .map_err(|code| Refusal::new(code, "Topic authorization failed."))?;
        let topic = self.topics.get_mut(name).filter(|topic| topic.is_known_to(node)).ok_or_else(unknown)?;
        let compacted = topic_configs::is_compacted(&topic.configs);
        let limit = topic_configs::number(&topic.configs, "max.message.bytes").unwrap_or(default_max);
        let min_isr = topic_configs::number(&topic.configs, "min.insync.replicas").unwrap_or(default_min);
        let (before, after) = topic_configs::timestamp_bounds(&topic.configs);
        let append_time = topic_configs::is_append_time(&topic.configs).then_some(wall);
        let topic_id = topic.id;
        let is_ready = topic.partition(index).map(|partition| topic.is_led_by(node, partition));
        let partition = topic.partition_mut(index).ok_or_else(unknown)?;
        if is_ready != Some(true) {
            return Err(Refusal::new(
                ErrorCode::NOT_LEADER_OR_FOLLOWER,
                "For requests intended only for the leader, this error indicates that the broker is not the current leader.",
            ));
        }
        if all && partition.isr.len() < min_isr {
            return Err(Refusal::new(
                ErrorCode::NOT_ENOUGH_REPLICAS,
                format!(
                    "The size of the current ISR {:?} is insufficient to satisfy the min.isr requirement of {min_isr} for partition {name}-{index}",
                    partition.isr
                ),
            ));
        }
        let head = batch.head.clone()?;
        let size = batch.bytes.len();
        if size > limit {
            return Err(Refusal::new(
                ErrorCode::MESSAGE_TOO_LARGE,
                format!(
                    "The record batch size in the append to {name}-{index} is {size} bytes which exceeds the maximum configured value of {limit}."
                ),
            ));
        }
        if let Some(fault) = &batch.fault {
            return Err(fault.clone());
        }
        if head.is_control() || head.is_transactional() {
            return Err(Refusal::new(
                ErrorCode::INVALID_TXN_STATE,
                "Transactions are not supported by this cluster",
            ));
        }
        if append_time.is_none()
            && let Some(refusal) = batch.refused_by_time(wall, before, after)
        {
            return Err(refusal);
        }
        if let Some(refusal) = batch.refused_by_compaction().filter(|_| compacted) {
            return Err(refusal);
        }
        let (log_start, leader_epoch) = (partition.log_start(), partition.leader_epoch);
        if let Admission::Duplicate { base_offset, last_offset } = partition.producers.admit(&head)? {
            return Ok(Appended {
                base_offset,
                end: last_offset + 1,
                leader_epoch,
                append_time: -1,
                log_start,
            });
        }
        let base_offset = partition.leader_log().map_or(0, Log::end);
        let end = base_offset + i64::from(head.record_count);
        self.totals.records += head.record_count as u64;
        self.totals.batches += 1;
        self.totals.bytes += size as u64;
        partition.producers.appended(&head, base_offset, now);
        if counting {
            partition.count_only(i64::from(head.record_count));
            return Ok(Appended {
                base_offset,
                end,
                leader_epoch,
                append_time: append_time.unwrap_or(-1),
                log_start: 0,
            });
        }
        let batch = Arc::new(StoredBatch::place(
            &batch.bytes,
            head,
            base_offset,
            partition.leader_epoch,
            append_time,
        ));
        if let Some(log) = partition.logs.get_mut(&node) {
            log.append(batch.clone());
        }
        for replica in &partition.replicas {
            if let Some(replica) = self.nodes.get_mut(replica) {
                replica.age.push_back(Aged { topic: topic_id, partition: index, end });
            }
        }
        self.prune_age();
        self.grew(node, batch.len() as isize);
        self.replicate(topic_id, index, now);
        self.apply_retention();
        Ok(Appended { base_offset, end, leader_epoch, append_time: append_time.unwrap_or(-1), log_start })
    }

    fn grew(&mut self, node: i32, by: isize) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.bytes = node.bytes.saturating_add_signed(by);
        }
    }

    pub(crate) fn grew_all(&mut self, changes: Vec<(i32, isize)>) {
        for (node, by) in changes {
            self.grew(node, by);
        }
    }

    // ---- replication ----

    /// How far behind the followers on `node` run; `Duration::MAX` stops them.
    fn lag_of(&self, node: i32) -> Duration {
        match self.nodes.get(&node) {
            Some(node) if node.frozen.is_some() => Duration::MAX,
            Some(Node { lag: Some(lag), .. }) => *lag,
            _ => self.lag,
        }
    }

    pub(crate) fn at(&mut self, when: Instant, step: Step) {
        self.steps.insert((when, self.next_step), step);
        self.next_step += 1;
    }

    /// Lets every living follower of a partition fetch what its leader has now, at once or when its lag is over.
    pub(crate) fn replicate(&mut self, topic_id: Uuid, index: i32, now: Instant) {
        let Some(name) = self.topic_names.get(&topic_id) else { return };
        let Some(partition) = self.topics.get(name).and_then(|topic| topic.partition(index)) else { return };
        let limit = partition.leader_log().map_or(0, Log::end);
        let leader = partition.leader;
        if !self.is_running(leader) {
            return;
        }
        let followers: Vec<i32> = partition
            .replicas
            .iter()
            .copied()
            .filter(|node| *node != leader && self.is_alive(*node))
            .collect();
        for node in followers {
            let lag = self.lag_of(node);
            if lag.is_zero() {
                self.follow(topic_id, index, node, i64::MAX);
                continue;
            }
            if let Some(when) = now.checked_add(lag).filter(|_| lag != Duration::MAX) {
                self.at(when, Step::Follow { topic: topic_id, partition: index, node, limit });
            }
            if lag > self.settings.replica_lag_max {
                let when = now + self.settings.replica_lag_max;
                self.at(when, Step::ShrinkIfBehind { topic: topic_id, partition: index, node, end: limit });
            }
        }
        if let Some(partition) = self.partition_by_id(topic_id, index) {
            partition.advance_high_watermark();
        }
    }

    fn partition_by_id(&mut self, topic: Uuid, index: i32) -> Option<&mut Partition> {
        self.topic_by_id_mut(&topic)?.partition_mut(index)
    }

    fn follow(&mut self, topic: Uuid, index: i32, node: i32, limit: i64) {
        if let Some(partition) = self.partition_by_id(topic, index) {
            let grown = partition.follow(node, limit);
            self.grew(node, grown);
        }
    }

    fn run_step(&mut self, due: Instant, step: Step) {
        match step {
            Step::Learn { topic, node, leads } => {
                if let Some(topic) = self.topic_by_id_mut(&topic) {
                    topic.newcomers.insert(node, Newcomer::NotLeading);
                }
                self.at(due + leads, Step::Lead { topic, node });
            }
            Step::Fence { node, since } => self.fence(node, since, due),
            Step::Lead { topic, node } => {
                if let Some(topic) = self.topic_by_id_mut(&topic) {
                    topic.newcomers.remove(&node);
                }
            }
            Step::Follow { topic, partition, node, limit } => {
                if self.is_running(node) {
                    self.follow(topic, partition, node, limit);
                }
            }
            Step::ShrinkIfBehind { topic, partition, node, end } => {
                if let Some(partition) = self.partition_by_id(topic, partition)
                    && partition.logs.get(&node).is_some_and(|log| log.end() < end)
                {
                    partition.shrink(node);
                }
            }
        }
    }

    /// Sets the lag of the cluster, or of the followers on one node. `Duration::MAX` stops replication.
    pub(crate) fn set_replication_lag(&mut self, node: Option<i32>, lag: Duration, now: Instant) {
        match node {
            Some(node) => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.lag = Some(lag);
                }
            }
            None => {
                self.lag = lag;
                for node in self.nodes.values_mut() {
                    node.lag = None;
                }
            }
        }
        self.replicate_all(now);
    }

    pub(crate) fn replicate_all(&mut self, now: Instant) {
        for (topic, index) in self.partition_ids() {
            self.replicate(topic, index, now);
        }
    }

    fn partition_ids(&self) -> Vec<(Uuid, i32)> {
        self.topics
            .values()
            .flat_map(|topic| (0..topic.partitions.len() as i32).map(|index| (topic.id, index)))
            .collect()
    }

    // ---- retention and deletion ----

    fn apply_retention(&mut self) {
        let limit = self.settings.retention_bytes;
        let full: Vec<i32> =
            self.nodes.values().filter(|node| node.bytes > limit).map(|node| node.id).collect();
        for id in full {
            while let Some(aged) = self
                .nodes
                .get_mut(&id)
                .filter(|node| node.bytes > limit)
                .and_then(|node| node.age.pop_front())
            {
                self.advance_start(aged.topic, aged.partition, aged.end);
            }
        }
    }

    /// Forgets appended batches that are gone already, whenever their lists have doubled.
    fn prune_age(&mut self) {
        const WORTH_A_LOOK: usize = 1024;
        let Self { nodes, topics, topic_names, .. } = self;
        for node in nodes.values_mut().filter(|node| node.age.len() >= node.prune_age_at) {
            node.age.retain(|aged| {
                let topic = topic_names.get(&aged.topic).and_then(|name| topics.get(name));
                topic
                    .and_then(|topic| topic.partition(aged.partition))
                    .is_some_and(|partition| partition.log_start() < aged.end)
            });
            node.prune_age_at = (node.age.len() * 2).max(WORTH_A_LOOK);
        }
    }

    /// Moves the start of a partition's logs, not beyond the high watermark. Returns where it is now.
    pub(crate) fn advance_start(&mut self, topic: Uuid, index: i32, offset: i64) -> Option<i64> {
        let partition = self.partition_by_id(topic, index)?;
        let offset = offset.min(partition.high_watermark);
        let mut freed = Vec::new();
        for (node, log) in &mut partition.logs {
            freed.push((*node, log.advance_start(offset)));
        }
        let start = partition.log_start();
        for (node, bytes) in freed {
            self.grew(node, -(bytes as isize));
        }
        Some(start)
    }

    // ---- time ----

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let step = self.steps.keys().next().map(|(when, _)| *when);
        match (step, self.groups.next_deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Does everything that is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.steps.first_entry() {
            let due = entry.key().0;
            if due > now {
                break;
            }
            let step = entry.remove();
            self.run_step(due, step);
        }
        self.groups.handle_timeout(now);
    }
}

/// FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH if the client's epoch is not the partition's (KIP-320).
pub(crate) fn check_epoch(partition: &Partition, known_epoch: i32) -> Result<(), ErrorCode> {
    match known_epoch {
        -1 => Ok(()),
        epoch if epoch < partition.leader_epoch => Err(ErrorCode::FENCED_LEADER_EPOCH),
        epoch if epoch > partition.leader_epoch => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        _ => Ok(()),
    }
}

/// What names are told apart by when only `.` and `_` differ: Kafka's metrics write both as `_`, so it refuses the second.
fn collision_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

/// Topics that Kafka keeps for itself: groups, transactions and the cluster's own log live elsewhere here.
fn check_reserved(name: &str) -> Result<(), (ErrorCode, String)> {
    match name {
        "__consumer_offsets" | "__transaction_state" | "__share_group_state" => {
            Err((ErrorCode::TOPIC_ALREADY_EXISTS, format!("Topic '{name}' is kept by the cluster itself.")))
        }
        "__cluster_metadata" => {
            Err((ErrorCode::INVALID_REQUEST, format!("Creation of internal topic {name} is prohibited.")))
        }
        _ => Ok(()),
    }
}

/// Kafka's rules for topic names.
pub(crate) fn check_topic_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        Err("Topic name is invalid: the empty string is not allowed".into())
    } else if name == "." || name == ".." {
        Err(format!("Topic name is invalid: '{name}' is not allowed"))
    } else if name.len() > 249 {
        Err(format!(
            "Topic name is invalid: the length of '{name}' is longer than the max allowed length 249"
        ))
    } else if !name.chars().all(legal) {
        Err(format!(
            "Topic name is invalid: '{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ))
    } else {
        Ok(())
    }
}
