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
//! * `handing_out`: batches and events in their order. `marks`: what is done. `troubles`: what keeps partitions from
//!   going on.

mod fetching;
mod handing_out;
mod lookups;
mod marks;
mod troubles;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::cluster::{ConditionKind, Subject};
use crate::consumer::config::{ConsumerConfig, FirstStart, NewPartitions, StartOffset};
use crate::consumer::event::Event;
use crate::consumer::mark::Mark;
use crate::sync::budget::{Account, MemoryBudget};
use crate::types::{NodeId, Offset, TopicName, TopicPartition};
use crate::wire::Uuid;
use crate::{Error, ErrorCode, ErrorKind};

pub(crate) use fetching::{Fetched, Plan, Planned};
use handing_out::Item;
pub(crate) use lookups::{Answer, EARLIEST, LATEST, Lookup, Question};
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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Committed,
    /// A question for the leader, and since when it is out.
    Ask {
        question: Question,
        asked: Option<Instant>,
    },
    Fetching,
    /// `again`: tried again at times, since what is wrong may go away by itself.
    Stopped {
        again: bool,
    },
}

#[derive(Debug)]
struct State {
    /// Its part in the memory budget.
    account: Account,
    assignment: u64,
    version: u64,
    stage: Stage,
    /// Where to fetch next.
    position: i64,
    /// Epoch of the record in front of `position`; -1 for unknown.
    last_epoch: i32,
    /// Where to go on after what was handed out; `taken <= position`.
    taken: i64,
    paused: bool,
    held: bool,
    /// Prefetched data was given back while held: none is fetched until it can be handed out.
    starved: bool,
    revoking: bool,
    /// Stands in [`Positions::ready`].
    queued: bool,
    buffered: VecDeque<Item>,
    buffered_bytes: usize,
    leader: Option<(NodeId, i32)>,
    /// Which topic of the name all of this belongs to.
    topic_id: Uuid,
    /// Leader epoch for which `position` is known to be valid.
    checked_epoch: i32,
    retry_at: Option<Instant>,
    failures: u32,
    cuts: u32,
    high_watermark: i64,
    end_told: bool,
    /// The application was told that the partition stopped; again only after it went on.
    stop_told: bool,
    /// Reported to be in this trouble, which is not over.
    trouble: Option<(Subject, ConditionKind)>,
    /// Why reading goes on at the offset that is being looked up, by policy.
    moving: Option<Error>,
    /// What the next automatic store takes over.
    handed_out: Option<Mark>,
    stored: Option<Mark>,
    committed: Option<Offset>,
    /// From the first offset to the second there is nothing that the application may see. Who is done up to the first
    /// is done up to the second; the record before that has this epoch.
    gap: Option<(i64, i64, i32)>,
}

impl State {
    fn new(account: Account, assignment: u64, version: u64) -> Self {
        Self {
            account,
            assignment,
            version,
            stage: Stage::Committed,
            position: -1,
            last_epoch: -1,
            taken: -1,
            paused: false,
            held: false,
            starved: false,
            revoking: false,
            queued: false,
            buffered: VecDeque::new(),
            buffered_bytes: 0,
            leader: None,
            topic_id: Uuid::default(),
            checked_epoch: -1,
            retry_at: None,
            failures: 0,
            cuts: 0,
            high_watermark: -1,
            end_told: false,
            stop_told: false,
            trouble: None,
            moving: None,
            handed_out: None,
            stored: None,
            committed: None,
            gap: None,
        }
    }

    fn is_hidden(&self) -> bool {
        self.paused || self.held || self.revoking
    }

    fn is_deliverable(&self) -> bool {
        !self.buffered.is_empty() && !self.is_hidden()
    }

    /// Discards what was fetched and what is being asked for.
    fn discard(&mut self, version: u64) {
        self.version = version;
        self.buffered.clear();
        self.buffered_bytes = 0;
        self.retry_at = None;
        self.failures = 0;
        self.cuts = 0;
        self.end_told = false;
        self.moving = None;
    }

    /// Goes on at `offset`; the epoch of the record in front of it is not known.
    fn move_to(&mut self, offset: i64, last_epoch: i32) {
        self.position = offset;
        self.taken = offset;
        self.last_epoch = last_epoch;
        self.stage = Stage::Fetching;
    }

    fn ask(&mut self, question: Question) {
        self.stage = Stage::Ask { question, asked: None };
    }

    fn start_at(&mut self, start: StartOffset) {
        match start {
            StartOffset::At(offset) => self.move_to(offset.0.max(0), -1),
            StartOffset::Earliest => self.ask(Question::Offset(EARLIEST)),
            StartOffset::Latest => self.ask(Question::Offset(LATEST)),
            StartOffset::Timestamp(timestamp) => self.ask(Question::Offset(timestamp.0.max(0))),
        }
    }
}

/// Settings of the machine.
#[derive(Clone, Debug)]
pub(crate) struct PositionsConfig {
    pub(crate) consumer: ConsumerConfig,
    pub(crate) backoff: Backoff,
    pub(crate) budget: MemoryBudget,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Positions {
    config: PositionsConfig,
    partitions: BTreeMap<TopicPartition, State>,
    /// Topics of which this consumer reads, or wants to, with the number of partitions they had when it first saw them:
    /// those above appeared later.
    first_counts: BTreeMap<TopicName, usize>,
    /// Partitions that got something to hand out, in that order; may name some that have nothing any more.
    ready: VecDeque<TopicPartition>,
    events: VecDeque<Event>,
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
            self.partitions.remove(partition);
        }
    }

    pub(crate) fn assigned(&self) -> Vec<TopicPartition> {
        self.partitions.keys().cloned().collect()
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
        let waiting =
            self.partitions.iter().filter(|(_, state)| state.stage == Stage::Committed && !state.revoking);
        waiting.map(|(partition, state)| (partition.clone(), state.assignment)).collect()
    }

    /// The group's committed offset of a partition, or that there is none.
    pub(crate) fn handle_committed(
        &mut self,
        partition: &TopicPartition,
        assignment: u64,
        committed: Option<(i64, i32)>,
    ) {
        let waits = |state: &State| state.assignment == assignment && state.stage == Stage::Committed;
        let Some(state) = self.partitions.get_mut(partition).filter(|state| waits(state)) else { return };
        match committed {
            Some((offset, epoch)) => {
                state.committed = Some(Offset(offset));
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
        }
    }

    // --- wishes of the application ---

    pub(crate) fn seek(&mut self, partition: &TopicPartition, to: StartOffset) -> Result<(), Error> {
        let version = self.next_version();
        let state = self.of(partition)?;
        state.discard(version);
        state.handed_out = None;
        state.gap = None;
        state.held = false;
        state.starved = false;
        state.stop_told = false;
        state.start_at(to);
        self.end_trouble(partition);
        Ok(())
    }

    pub(crate) fn pause(&mut self, partition: &TopicPartition) -> Result<(), Error> {
        self.of(partition)?.paused = true;
        Ok(())
    }

    pub(crate) fn resume(&mut self, partition: &TopicPartition) -> Result<(), Error> {
        self.of(partition)?.paused = false;
        self.make_ready(partition);
        Ok(())
    }

    /// The batch that is out was dealt with: the next one may follow. Nothing happens if the partition is gone.
    pub(crate) fn release(&mut self, partition: &TopicPartition) {
        if let Some(state) = self.partitions.get_mut(partition) {
            state.held = false;
            state.starved = false;
            self.make_ready(partition);
        }
    }

    /// The next offset to be handed out.
    pub(crate) fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.partitions.get(partition).map(|state| state.taken).filter(|taken| *taken >= 0).map(Offset)
    }

    /// Gives back prefetched data of paused and waiting partitions: others need the memory. True if there was any.
    pub(crate) fn shed(&mut self) -> bool {
        let mut any = false;
        for state in self.partitions.values_mut() {
            let waits = (state.paused || state.held) && state.stage == Stage::Fetching;
            if !waits || state.buffered.is_empty() {
                continue;
            }
            state.starved = state.held;
            self.versions += 1;
            state.discard(self.versions);
            state.position = state.taken;
            state.last_epoch = -1;
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
                state.leader = leader;
                state.retry_at = state.retry_at.filter(|_| matches!(state.stage, Stage::Stopped { .. }));
                self.versions += 1;
                state.version = self.versions;
                if let Stage::Ask { asked, .. } = &mut state.stage {
                    *asked = None;
                }
            }
            let Some(Sighting { topic_id, count, .. }) = sighting else { continue };
            let is_another = topic_id != state.topic_id && state.topic_id != unknown && topic_id != unknown;
            if is_another && state.stage == Stage::Committed {
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
            *state = State {
                leader: state.leader,
                topic_id: new,
                revoking: state.revoking,
                // Its place in the row of the ready stays what it is.
                queued: state.queued,
                ..State::new(self.config.budget.account(), self.assignments, version)
            };
            if !state.revoking {
                reading.push(partition);
            }
        }
        self.events.push_back(Event::TopicRecreated { topic, old, new });
        if !reading.is_empty() {
            self.events.push_back(Event::Lost(reading.clone()));
            self.events.push_back(Event::Assigned(reading.clone()));
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
        let mut nodes: Vec<NodeId> =
            self.partitions.values().filter_map(|state| Some(state.leader?.0)).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    /// High watermark of a partition as of its last answer, for statistics.
    pub(crate) fn high_watermark(&self, partition: &TopicPartition) -> Option<Offset> {
        self.partitions
            .get(partition)
            .map(|state| Offset(state.high_watermark))
            .filter(|offset| offset.0 >= 0)
    }
}

fn not_assigned(partition: &TopicPartition) -> Error {
    Error::new(ErrorKind::State, format!("{partition} is not assigned to this consumer"))
}

#[cfg(test)]
mod tests;
