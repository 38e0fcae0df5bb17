//! Machine: where a consumer stands in each of its partitions: what to look up, what to fetch, what to hand out.
//!
//! What a partition is asked belongs to a *version* of it. Whatever makes an answer void raises the version: a seek, a
//! revocation, a truncation, another leader or epoch of it, another topic under the name. So every answer is held against
//! what was asked of whom under which state, and what is older is dropped.
//!
//! ```text
//!   assigned ──► Committed ──► Ask ──► Fetching ──► Stopped (corrupt, out of range, truncated)
//!                    │  committed offset ──►▲ │  out of range, by policy │
//!                    │                      │ └──► Ask                   │
//!                    └──────── seek ────────┴◄──── seek, topic recreated ┘
//! ```
//!
//! * this file: assignment, what the application wishes, metadata. `lookups`, `fetching`: what is asked and answered.
//! * of each partition: `place`, where reading is; `handing_out`, what waits for the application; `marks`, what is done.
//! * `troubles`: what keeps partitions from going on.

mod fetching;
mod handing_out;
mod lookups;
mod marks;
mod place;
mod troubles;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::config::{ConsumerConfig, FirstStart, NewPartitions, StartOffset};
use super::event::ConsumerEvent;
use crate::backoff::Backoff;
use crate::cluster::{ConditionKind, Subject};
use crate::sync::budget::{Account, MemoryBudget};
use crate::types::{NodeId, Offset, Partition, TopicName, TopicPartition};
use crate::wire::Uuid;
use crate::{Error, ErrorCode, ErrorKind};

pub(crate) use fetching::{Fetched, Plan, Planned, Records};
use handing_out::Delivery;
pub(crate) use handing_out::Output;
pub(crate) use lookups::{Answer, EARLIEST, LATEST, Lookup, Question};
use marks::Marks;
use place::{Place, Stage};
pub(crate) use troubles::Trouble;

/// Pause after an answer that says the principal may not read.
const DENIED_PAUSE: Duration = Duration::from_secs(5);

/// Where an assigned partition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Where the group stopped.
    Committed,
    At(StartOffset),
}

/// What metadata says of a partition's topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// Zero where the broker has no topic ids.
    pub(crate) topic_id: Uuid,
    /// How many partitions the topic has.
    pub(crate) count: usize,
    pub(crate) leader: Option<(NodeId, i32)>,
}

/// What is known of one partition.
#[derive(Debug)]
struct State {
    /// Its part in the memory budget.
    account: Account,
    assignment: u64,
    version: u64,
    leader: Option<(NodeId, i32)>,
    /// Which topic of the name all of this belongs to.
    topic_id: Uuid,
    revoking: bool,
    /// Reported to be in this trouble, which is not over.
    trouble: Option<(Subject, ConditionKind)>,
    place: Place,
    delivery: Delivery,
    marks: Marks,
}

impl State {
    fn new(account: Account, assignment: u64, version: u64) -> Self {
        Self {
            account,
            assignment,
            version,
            leader: None,
            topic_id: Uuid::default(),
            revoking: false,
            trouble: None,
            place: Place::new(),
            delivery: Delivery::new(),
            marks: Marks::default(),
        }
    }

    fn is_hidden(&self) -> bool {
        self.revoking || self.delivery.is_waiting()
    }

    fn is_deliverable(&self) -> bool {
        !self.delivery.is_empty() && !self.is_hidden()
    }

    /// Discards what was fetched and what is being asked for.
    fn discard(&mut self, version: u64) {
        self.version = version;
        self.place.discard();
        self.delivery.discard();
    }

    /// Goes on at `offset`; the record in front of it has this epoch.
    fn move_to(&mut self, offset: i64, last_epoch: i32) {
        self.place.fetch_from(offset, last_epoch);
        self.delivery.taken = offset;
    }

    fn start_at(&mut self, start: StartOffset) {
        match start {
            StartOffset::At(offset) => self.move_to(offset.0.max(0), -1),
            StartOffset::Earliest => self.place.ask(Question::Offset(EARLIEST)),
            StartOffset::Latest => self.place.ask(Question::Offset(LATEST)),
            StartOffset::Timestamp(timestamp) => self.place.ask(Question::Offset(timestamp.0.max(0))),
        }
    }

    /// From where reading has come to up to `to` there is nothing for the application.
    fn step_over(&mut self, partition: &TopicPartition, to: i64, epoch: i32) {
        self.marks.step_over(partition, self.assignment, self.delivery.taken, to, epoch);
        self.delivery.taken = to;
    }
}

/// Settings of the machine.
#[derive(Clone, Debug)]
pub(crate) struct PositionsConfig {
    pub(crate) consumer: ConsumerConfig,
    pub(crate) backoff: Backoff,
    pub(crate) budget: MemoryBudget,
}

/// The machine. What happens all the time looks at the partitions that it concerns, not at all that there are.
#[derive(Debug)]
pub(crate) struct Positions {
    config: PositionsConfig,
    partitions: BTreeMap<TopicPartition, State>,
    /// Nodes that lead some of them, and how many.
    leaders: BTreeMap<NodeId, usize>,
    /// Those with a question for their leader, and some that had one.
    asking: BTreeSet<TopicPartition>,
    /// What has to be asked of leaders, and was not taken yet.
    lookups: Vec<Lookup>,
    /// Those of which something was handed out since the latest [`store_handed_out`](Self::store_handed_out).
    handed_out: BTreeSet<TopicPartition>,
    /// Those with a mark that is stored and not committed, and some that had one.
    uncommitted_marks: BTreeSet<TopicPartition>,
    /// Topics of which this consumer reads, or wants to, with the number of partitions they had when it first saw them:
    /// those above appeared later.
    first_counts: BTreeMap<TopicName, usize>,
    /// Partitions that got something to hand out, in that order; may name some that have nothing any more.
    ready: VecDeque<TopicPartition>,
    events: VecDeque<ConsumerEvent>,
    troubles: VecDeque<Trouble>,
    /// Nodes of which the latest fetch failed.
    failing: BTreeMap<NodeId, ConditionKind>,
    versions: u64,
    assignments: u64,
}

impl Positions {
    pub(crate) fn new(config: PositionsConfig) -> Self {
        Self {
            config,
            partitions: BTreeMap::new(),
            leaders: BTreeMap::new(),
            asking: BTreeSet::new(),
            lookups: Vec::new(),
            handed_out: BTreeSet::new(),
            uncommitted_marks: BTreeSet::new(),
            first_counts: BTreeMap::new(),
            ready: VecDeque::new(),
            events: VecDeque::new(),
            troubles: VecDeque::new(),
            failing: BTreeMap::new(),
            versions: 0,
            assignments: 0,
        }
    }

    fn next_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    /// Grows whenever answers that are awaited become void.
    pub(crate) fn latest_version(&self) -> u64 {
        self.versions
    }

    /// Grows with every assignment.
    pub(crate) fn latest_assignment(&self) -> u64 {
        self.assignments
    }

    /// The state that an answer is for, unless it has moved on since it was asked.
    fn current(&mut self, partition: &TopicPartition, version: u64) -> Option<&mut State> {
        self.partitions.get_mut(partition).filter(|state| state.version == version)
    }

    fn of(&mut self, partition: &TopicPartition) -> Result<&mut State, Error> {
        self.partitions.get_mut(partition).ok_or_else(|| not_assigned(partition))
    }

    /// From now on the ends of partitions are told, or no longer.
    pub(crate) fn set_partition_end_events(&mut self, on: bool) {
        self.config.consumer.partition_end_events = on;
    }

    // --- assignment ---

    /// Starts reading `partitions`; those that are assigned already go on as they are.
    pub(crate) fn assign(&mut self, partitions: impl IntoIterator<Item = (TopicPartition, Begin)>) {
        self.assignments += 1;
        for (partition, begin) in partitions {
            if self.partitions.contains_key(&partition) {
                continue;
            }
            let account = self.config.budget.account();
            let mut state = State::new(account, self.assignments, self.next_version());
            if let Begin::At(start) = begin {
                state.start_at(start);
                self.asking.insert(partition.clone());
            }
            self.partitions.insert(partition, state);
        }
    }

    /// Hands out nothing more of `partitions` and fetches nothing; marks are still accepted.
    pub(crate) fn begin_revoke(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            let version = self.next_version();
            if let Some(state) = self.partitions.get_mut(partition) {
                state.discard(version);
                state.revoking = true;
            }
        }
    }

    /// Forgets `partitions`.
    pub(crate) fn remove(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.end_trouble(partition);
            if let Some(state) = self.partitions.remove(partition) {
                self.count_leader(state.leader, None);
            }
            for set in [&mut self.asking, &mut self.handed_out, &mut self.uncommitted_marks] {
                set.remove(partition);
            }
        }
    }

    pub(crate) fn assigned(&self) -> Vec<TopicPartition> {
        self.partitions.keys().cloned().collect()
    }

    /// True if a partition of `topic` is assigned.
    pub(crate) fn reads(&self, topic: &TopicName) -> bool {
        let first = TopicPartition { topic: topic.clone(), partition: Partition(i32::MIN) };
        self.partitions.range(first..).next().is_some_and(|(partition, _)| partition.topic == *topic)
    }

    /// Topics of the assigned partitions.
    pub(crate) fn topics(&self) -> BTreeSet<TopicName> {
        self.partitions.keys().map(|partition| partition.topic.clone()).collect()
    }

    pub(crate) fn is_assigned(&self, partition: &TopicPartition) -> bool {
        self.partitions.contains_key(partition)
    }

    /// Partitions that wait for their committed offset, with their assignment.
    pub(crate) fn uncommitted(&self) -> Vec<(TopicPartition, u64)> {
        let waiting = self
            .partitions
            .iter()
            .filter(|(_, state)| state.place.stage == Stage::Committed && !state.revoking);
        waiting.map(|(partition, state)| (partition.clone(), state.assignment)).collect()
    }

    /// The group's committed offset of a partition, or that there is none.
    pub(crate) fn handle_committed(
        &mut self,
        partition: &TopicPartition,
        assignment: u64,
        committed: Option<(i64, i32)>,
    ) {
        let waits = |state: &State| state.assignment == assignment && state.place.stage == Stage::Committed;
        let Some(state) = self.partitions.get_mut(partition).filter(|state| waits(state)) else { return };
        match committed {
            Some((offset, epoch)) => {
                state.marks.committed = Some(Offset(offset));
                state.move_to(offset, epoch);
            }
            None => self.start_first(partition),
        }
    }

    /// Begins where the policies for partitions without a committed offset say.
    fn start_first(&mut self, partition: &TopicPartition) {
        let config = &self.config.consumer;
        let known = self.first_counts.get(&partition.topic);
        let appeared_later = known
            .is_some_and(|count| usize::try_from(partition.partition.0).is_ok_and(|index| index >= *count));
        let start = match config.first_start {
            FirstStart::Latest if appeared_later && config.new_partitions == NewPartitions::Earliest => {
                StartOffset::Earliest
            }
            FirstStart::Earliest => StartOffset::Earliest,
            FirstStart::Latest => StartOffset::Latest,
            FirstStart::Timestamp(timestamp) => StartOffset::Timestamp(timestamp),
            FirstStart::Stop => {
                let error = Error::new(
                    ErrorKind::OffsetOutOfRange,
                    format!("the group has no committed offset for {partition}"),
                )
                .with_advice("seek to where reading shall begin, or set the policy for the first start");
                return self.stop(partition, error, None);
            }
        };
        if let Some(state) = self.partitions.get_mut(partition) {
            state.start_at(start);
            self.asking.insert(partition.clone());
        }
    }

    // --- wishes of the application ---

    pub(crate) fn seek(&mut self, partition: &TopicPartition, to: StartOffset) -> Result<(), Error> {
        let version = self.next_version();
        let state = self.of(partition)?;
        state.discard(version);
        state.marks.discard();
        state.delivery.held = false;
        state.delivery.starved = false;
        state.delivery.stop_told = false;
        state.start_at(to);
        self.asking.insert(partition.clone());
        self.end_trouble(partition);
        Ok(())
    }

    pub(crate) fn pause(&mut self, partition: &TopicPartition) -> Result<(), Error> {
        self.of(partition)?.delivery.paused = true;
        Ok(())
    }

    pub(crate) fn resume(&mut self, partition: &TopicPartition) -> Result<(), Error> {
        self.of(partition)?.delivery.paused = false;
        self.make_ready(partition);
        Ok(())
    }

    /// The batch that is out was dealt with: the next one may follow. Nothing happens if the partition is gone.
    pub(crate) fn release(&mut self, partition: &TopicPartition) {
        if let Some(state) = self.partitions.get_mut(partition) {
            state.delivery.held = false;
            state.delivery.starved = false;
            self.make_ready(partition);
        }
    }

    /// The next offset to be handed out.
    pub(crate) fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.partitions
            .get(partition)
            .map(|state| state.delivery.taken)
            .filter(|taken| *taken >= 0)
            .map(Offset)
    }

    /// Gives back prefetched data of paused and waiting partitions: others need the memory. True if there was any.
    pub(crate) fn shed(&mut self) -> bool {
        let mut any = false;
        for state in self.partitions.values_mut() {
            let waits =
                (state.delivery.paused || state.delivery.held) && state.place.stage == Stage::Fetching;
            if !waits || state.delivery.is_empty() {
                continue;
            }
            state.delivery.starved = state.delivery.held;
            self.versions += 1;
            state.discard(self.versions);
            state.place.position = state.delivery.taken;
            state.place.last_epoch = -1;
            any = true;
        }
        any
    }

    // --- metadata ---

    /// A topic of interest was seen for the first time with so many partitions, none if it does not exist.
    pub(crate) fn handle_topic_seen(&mut self, topic: &TopicName, count: usize) {
        if !self.first_counts.contains_key(topic) {
            self.first_counts.insert(topic.clone(), count);
        }
    }

    /// Takes over leaders and topic ids; returns topics about which more has to be known.
    pub(crate) fn handle_leaders(
        &mut self,
        mut sighting: impl FnMut(&TopicPartition) -> Option<Sighting>,
    ) -> Vec<TopicName> {
        let mut missing = Vec::new();
        let mut gone = Vec::new();
        let mut found = Vec::new();
        let mut moved = Vec::new();
        let mut recreated: BTreeMap<(TopicName, Uuid, Uuid), Vec<TopicPartition>> = BTreeMap::new();
        let unknown = Uuid::default();
        for (partition, state) in &mut self.partitions {
            let sighting = sighting(partition);
            let leader = sighting.and_then(|sighting| sighting.leader);
            if leader.is_none() && missing.last() != Some(&partition.topic) {
                missing.push(partition.topic.clone());
            }
            if state.leader != leader {
                // What the former leader still answers is of a state that is over; the new one is asked at once.
                moved.push((state.leader, leader));
                state.leader = leader;
                state.place.retry_at =
                    state.place.retry_at.filter(|_| matches!(state.place.stage, Stage::Stopped { .. }));
                self.versions += 1;
                state.version = self.versions;
                if let Stage::Ask { asked, .. } = &mut state.place.stage {
                    *asked = None;
                }
            }
            let Some(Sighting { topic_id, count, .. }) = sighting else { continue };
            let is_another = topic_id != state.topic_id && state.topic_id != unknown && topic_id != unknown;
            if is_another && state.place.stage == Stage::Committed {
                // Nothing was read: metadata was behind the assignment. What the group committed of the topic that there
                // is now counts, and no answer about the other.
                self.assignments += 1;
                state.assignment = self.assignments;
                state.topic_id = topic_id;
            } else if is_another {
                let key = (partition.topic.clone(), state.topic_id, topic_id);
                recreated.entry(key).or_default().push(partition.clone());
            } else if topic_id != unknown {
                state.topic_id = topic_id;
            }
            let exists = usize::try_from(partition.partition.0).is_ok_and(|index| index < count);
            match &state.trouble {
                None if !exists => gone.push((partition.clone(), count)),
                Some((_, ConditionKind::NoSuchTopic)) if exists => found.push(partition.clone()),
                _ => {}
            }
        }
        for (before, now) in moved {
            self.count_leader(before, now);
        }
        for ((topic, old, new), partitions) in recreated {
            self.begin_anew(topic, old, new, partitions);
        }
        for (partition, count) in gone {
            let error = Error::from_code(
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                format!("{partition} does not exist (any more): its topic has {count} partitions"),
            );
            self.raise(&partition, Subject::Partition(partition.clone()), ConditionKind::NoSuchTopic, error);
        }
        for partition in found {
            self.end_trouble(&partition);
        }
        let nodes = self.nodes();
        let left: Vec<NodeId> = self.failing.keys().filter(|node| !nodes.contains(node)).copied().collect();
        left.into_iter().for_each(|node| self.handle_node_well(node));
        missing
    }

    /// Another topic has the name of the one that was read: all that was kept of `partitions` is void.
    fn begin_anew(&mut self, topic: TopicName, old: Uuid, new: Uuid, partitions: Vec<TopicPartition>) {
        self.assignments += 1;
        self.first_counts.insert(topic.clone(), 0);
        let mut reading = Vec::new();
        for partition in partitions {
            self.end_trouble(&partition);
            let version = self.next_version();
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            let queued = state.delivery.queued;
            *state = State {
                leader: state.leader,
                topic_id: new,
                revoking: state.revoking,
                ..State::new(self.config.budget.account(), self.assignments, version)
            };
            // Its place in the row of the ready stays what it is.
            state.delivery.queued = queued;
            if !state.revoking {
                reading.push(partition);
            }
        }
        self.events.push_back(ConsumerEvent::TopicRecreated { topic, old, new });
        if !reading.is_empty() {
            self.events.push_back(ConsumerEvent::Lost(reading.clone()));
            self.events.push_back(ConsumerEvent::Assigned(reading.clone()));
        }
        for partition in reading {
            self.start_first(&partition);
        }
    }

    /// The id of the topic that an assigned partition belongs to; zero while it is not known.
    pub(crate) fn topic_id(&self, partition: &TopicPartition) -> Uuid {
        self.partitions.get(partition).map_or(Uuid::default(), |state| state.topic_id)
    }

    /// Nodes that lead an assigned partition.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.leaders.keys().copied().collect()
    }

    /// True if `node` leads an assigned partition.
    pub(crate) fn is_leader(&self, node: NodeId) -> bool {
        self.leaders.contains_key(&node)
    }

    /// A partition was led by `before`, and is by `now`.
    fn count_leader(&mut self, before: Option<(NodeId, i32)>, now: Option<(NodeId, i32)>) {
        if let Some((node, _)) = now {
            *self.leaders.entry(node).or_default() += 1;
        }
        if let Some((node, _)) = before
            && let Some(count) = self.leaders.get_mut(&node)
        {
            *count -= 1;
            if *count == 0 {
                self.leaders.remove(&node);
            }
        }
    }

    /// High watermark of a partition as of its last answer, for statistics.
    pub(crate) fn high_watermark(&self, partition: &TopicPartition) -> Option<Offset> {
        self.partitions
            .get(partition)
            .map(|state| Offset(state.place.high_watermark))
            .filter(|offset| offset.0 >= 0)
    }
}

fn not_assigned(partition: &TopicPartition) -> Error {
    Error::new(ErrorKind::State, format!("{partition} is not assigned to this consumer"))
}

#[cfg(test)]
mod tests;
