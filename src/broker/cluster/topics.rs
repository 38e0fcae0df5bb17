//! Machine: topics of the cluster: how they are created, grow and end, and which nodes know of them.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{State, Step, TOPIC};
use crate::ErrorCode;
use crate::broker::partition::{NO_LEADER, Partition};
use crate::broker::topic_configs;
use crate::wire::{Str, Uuid};

/// A topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: Uuid,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) configs: BTreeMap<String, String>,
    /// Nodes that do not serve it yet.
    pub(super) newcomers: BTreeMap<i32, Newcomer>,
}

/// What a node knows of a new topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newcomer {
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

impl State {
    pub(crate) fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    pub(crate) fn topic_mut(&mut self, name: &str) -> Option<&mut Topic> {
        self.topics.get_mut(name)
    }

    /// All topics in order of their names.
    pub(crate) fn topics(&self) -> impl Iterator<Item = (&Str, &Topic)> {
        self.topics.iter()
    }

    pub(crate) fn topic_name(&self, id: &Uuid) -> Option<&Str> {
        self.topic_names.get(id)
    }

    pub(crate) fn topic_by_id(&self, id: &Uuid) -> Option<(&Str, &Topic)> {
        let name = self.topic_names.get(id)?;
        self.topics.get_key_value(name)
    }

    pub(crate) fn topic_by_id_mut(&mut self, id: &Uuid) -> Option<&mut Topic> {
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
            self.not_compacted.push_back(new.name.clone());
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

    /// Gives a resource these settings and no others.
    pub(crate) fn set_configs(&mut self, kind: i8, name: &str, values: BTreeMap<String, String>) {
        if kind == TOPIC {
            if let Some(topic) = self.topics.get_mut(name) {
                topic.configs = values;
            }
        } else if values.is_empty() {
            self.dynamic.remove(&(kind, name.to_owned()));
        } else {
            self.dynamic.insert((kind, name.to_owned()), values);
        }
    }

    /// The settings that a resource other than a topic was given.
    pub(crate) fn dynamic_configs(&self, kind: i8, name: &str) -> Option<&BTreeMap<String, String>> {
        self.dynamic.get(&(kind, name.to_owned()))
    }

    /// The resources of this type that have settings.
    pub(crate) fn dynamic_names(&self, kind: i8) -> impl Iterator<Item = &str> {
        self.dynamic.keys().filter(move |owner| owner.0 == kind).map(|owner| owner.1.as_str())
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
                let (width, before) = (
                    assignments.first().map_or(0, Vec::len),
                    topic.partitions.first().map_or(0, |first| first.replicas.len()),
                );
                if width != before {
                    return Err((
                        ErrorCode::INVALID_REPLICA_ASSIGNMENT,
                        format!(
                            "The manual partition assignment includes a partition with {width} replica(s), but this is not consistent with previous partitions, which have {before} replica(s)."
                        ),
                    ));
                }
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
