//! Where a consumer stands in each of its partitions, as a machine: what to look up, what to fetch, what to hand out.
//! Every answer carries the version of the partition it was asked for; seek, revocation and truncation raise the version,
//! and what is older is dropped.
//!
//! ```text
//!   assigned ──► Committed ──► Lookup ──► Fetching ──► Stopped (corrupt, out of range, truncated)
//!                    │  committed offset ─────►▲ │  out of range, by policy │
//!                    │                         │ └──► Lookup, Explain       │
//!                    └──────── seek ───────────┴◄──────── seek ─────────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::consumer::batch::Batch;
use crate::consumer::config::{ConsumerConfig, FirstStart, OutOfRange, StartOffset, Truncation};
use crate::consumer::event::{Event, PartitionFailure};
use crate::consumer::mark::Mark;
use crate::types::{LeaderEpoch, NodeId, Offset, TopicPartition};
use crate::wire::Uuid;
use crate::{Error, ErrorKind};

/// Times in a row that an answer may hold nothing but the beginning of a batch.
const CUTS_MAX: u32 = 10;
/// Pause after an answer that says the principal may not read.
const DENIED_PAUSE: Duration = Duration::from_secs(5);

/// Where an assigned partition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Where the group stopped.
    Committed,
    At(StartOffset),
}

/// What has to be asked of a partition's leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub(crate) partition: TopicPartition,
    pub(crate) version: u64,
    pub(crate) leader: NodeId,
    pub(crate) leader_epoch: i32,
    pub(crate) question: Question,
}

/// The questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Question {
    /// The offset for this timestamp, or -1 latest, -2 earliest.
    Offset(i64),
    /// Earliest and latest, to explain why a position is out of range.
    Range,
    /// The end of this epoch, to detect truncation (KIP-320).
    Epoch(i32),
}

/// Timestamps of ListOffsets with a meaning of their own.
pub(crate) const LATEST: i64 = -1;
pub(crate) const EARLIEST: i64 = -2;

/// What answers a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Offset and leader epoch; offset -1 if no record matches.
    Offset {
        offset: i64,
        epoch: i32,
    },
    Range {
        earliest: i64,
        latest: i64,
    },
    /// The end of the largest epoch up to the one that was asked for; -1 if the broker does not know.
    Epoch {
        epoch: i32,
        end_offset: i64,
    },
}

/// What to read from a node, and the version under which the answer counts.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) partition: TopicPartition,
    pub(crate) topic_id: Uuid,
    pub(crate) version: u64,
    pub(crate) assignment: u64,
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) last_epoch: i32,
    /// The leader's epoch changed since the position was known to be valid.
    pub(crate) unchecked: bool,
}

/// What a node's fetch loop has to do.
#[derive(Debug)]
pub(crate) enum Plan {
    Fetch(Vec<Planned>),
    /// Nothing now; ask again after a change, or at this time.
    Wait(Option<Instant>),
    /// Nothing of this node is assigned.
    Idle,
}

/// What a fetch brought for a partition.
#[derive(Debug)]
pub(crate) enum Fetched {
    Records {
        batch: Option<Batch>,
        next_offset: i64,
        last_epoch: i32,
        high_watermark: i64,
        last_stable_offset: i64,
        fault: Option<Error>,
        cut: bool,
    },
    OutOfRange,
    Diverging {
        epoch: i32,
        end_offset: i64,
    },
    /// Try again after a pause (not at all if a new leader is known already).
    Retry {
        pause: bool,
    },
    Denied(Error),
    Fatal(Error),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Committed,
    Ask { question: Question, asked: bool },
    Fetching,
    Stopped,
}

#[derive(Debug)]
enum Item {
    Batch(Batch),
    Failed(Error, i64),
    End(i64),
}

#[derive(Debug)]
struct State {
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
    topic_id: Uuid,
    /// Leader epoch for which `position` is known to be valid.
    checked_epoch: i32,
    retry_at: Option<Instant>,
    failures: u32,
    cuts: u32,
    high_watermark: i64,
    end_told: bool,
    denied_told: bool,
    /// What the next automatic store takes over.
    handed_out: Option<Mark>,
    stored: Option<Mark>,
    committed: Option<Offset>,
}

impl State {
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
    }
}

/// Settings of the machine.
#[derive(Clone, Debug)]
pub(crate) struct PositionsConfig {
    pub(crate) consumer: ConsumerConfig,
    pub(crate) backoff: Backoff,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Positions {
    config: PositionsConfig,
    partitions: BTreeMap<TopicPartition, State>,
    /// Partitions that got something to hand out, in that order; may name some that have nothing any more.
    ready: VecDeque<TopicPartition>,
    events: VecDeque<Event>,
    versions: u64,
    assignments: u64,
}

impl Positions {
    pub(crate) fn new(config: PositionsConfig) -> Self {
        Self {
            config,
            partitions: BTreeMap::new(),
            ready: VecDeque::new(),
            events: VecDeque::new(),
            versions: 0,
            assignments: 0,
        }
    }

    fn next_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    // --- assignment ---

    /// Starts reading `partitions`; those that are assigned already go on as they are.
    pub(crate) fn assign(&mut self, partitions: impl IntoIterator<Item = (TopicPartition, Begin)>) {
        self.assignments += 1;
        for (partition, begin) in partitions {
            if self.partitions.contains_key(&partition) {
                continue;
            }
            let version = self.next_version();
            let mut state = State {
                assignment: self.assignments,
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
                denied_told: false,
                handed_out: None,
                stored: None,
                committed: None,
            };
            if let Begin::At(start) = begin {
                start_at(&mut state, start);
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
            self.partitions.remove(partition);
        }
    }

    pub(crate) fn assigned(&self) -> Vec<TopicPartition> {
        self.partitions.keys().cloned().collect()
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
        let first_start = self.config.consumer.first_start;
        let Some(state) = self.partitions.get_mut(partition) else { return };
        if state.assignment != assignment || state.stage != Stage::Committed {
            return;
        }
        match (committed, first_start) {
            (Some((offset, epoch)), _) => {
                state.position = offset;
                state.taken = offset;
                state.last_epoch = epoch;
                state.committed = Some(Offset(offset));
                state.stage = Stage::Fetching;
            }
            (None, FirstStart::Earliest) => start_at(state, StartOffset::Earliest),
            (None, FirstStart::Latest) => start_at(state, StartOffset::Latest),
            (None, FirstStart::Timestamp(timestamp)) => start_at(state, StartOffset::Timestamp(timestamp)),
            (None, FirstStart::Stop) => {
                let error = Error::new(
                    ErrorKind::OffsetOutOfRange,
                    format!("the group has no committed offset for {partition}"),
                )
                .hint("seek to where reading shall begin, or set the policy for the first start");
                self.stop(partition, error, -1);
            }
        }
    }

    // --- wishes of the application ---

    pub(crate) fn seek(&mut self, partition: &TopicPartition, to: StartOffset) -> Result<(), Error> {
        let version = self.next_version();
        let state = self.partitions.get_mut(partition).ok_or_else(|| not_assigned(partition))?;
        state.discard(version);
        state.handed_out = None;
        state.held = false;
        state.starved = false;
        start_at(state, to);
        Ok(())
    }

    pub(crate) fn pause(&mut self, partition: &TopicPartition) -> Result<(), Error> {
        self.partitions.get_mut(partition).ok_or_else(|| not_assigned(partition))?.paused = true;
        Ok(())
    }

    pub(crate) fn resume(&mut self, partition: &TopicPartition) -> Result<(), Error> {
        self.partitions.get_mut(partition).ok_or_else(|| not_assigned(partition))?.paused = false;
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

    /// Takes over leaders; returns partitions that have none.
    pub(crate) fn handle_leaders(
        &mut self,
        mut leader: impl FnMut(&TopicPartition) -> Option<(NodeId, i32, Uuid)>,
    ) -> Vec<TopicPartition> {
        let mut missing = Vec::new();
        for (partition, state) in &mut self.partitions {
            let Some((node, epoch, topic_id)) = leader(partition) else {
                state.leader = None;
                missing.push(partition.clone());
                continue;
            };
            if state.leader != Some((node, epoch)) {
                // A new leader is asked at once.
                state.leader = Some((node, epoch));
                state.retry_at = None;
            }
            state.topic_id = topic_id;
        }
        missing
    }

    /// Nodes that lead an assigned partition.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> =
            self.partitions.values().filter_map(|state| Some(state.leader?.0)).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    // --- look-ups ---

    /// What has to be asked now; each question is returned once until it is answered.
    pub(crate) fn lookups(&mut self, now: Instant) -> Vec<Lookup> {
        let mut lookups = Vec::new();
        for (partition, state) in &mut self.partitions {
            let Stage::Ask { question, asked } = &mut state.stage else { continue };
            if *asked || state.revoking || state.retry_at.is_some_and(|at| at > now) {
                continue;
            }
            let Some((leader, leader_epoch)) = state.leader else { continue };
            *asked = true;
            lookups.push(Lookup {
                partition: partition.clone(),
                version: state.version,
                leader,
                leader_epoch,
                question: *question,
            });
        }
        lookups
    }

    /// When [`lookups`](Self::lookups) may return more without a change.
    pub(crate) fn next_lookup(&self) -> Option<Instant> {
        let waiting =
            self.partitions.values().filter(|state| matches!(state.stage, Stage::Ask { asked: false, .. }));
        waiting.filter_map(|state| state.retry_at).min()
    }

    /// A look-up was answered.
    pub(crate) fn handle_answer(&mut self, partition: &TopicPartition, version: u64, answer: Answer) {
        let truncation = self.config.consumer.truncation;
        let next_version = self.next_version();
        let Some(state) = self.partitions.get_mut(partition).filter(|state| state.version == version) else {
            return;
        };
        let Stage::Ask { question, .. } = state.stage else { return };
        state.failures = 0;
        state.retry_at = None;
        match (question, answer) {
            (Question::Offset(timestamp), Answer::Offset { offset: -1, .. }) if timestamp != LATEST => {
                // No record is that young: the end.
                state.stage = Stage::Ask { question: Question::Offset(LATEST), asked: false };
            }
            (Question::Offset(_), Answer::Offset { offset, .. }) => {
                state.version = next_version;
                state.position = offset.max(0);
                state.taken = state.position;
                state.last_epoch = -1;
                state.stage = Stage::Fetching;
            }
            (Question::Range, Answer::Range { earliest, latest }) => {
                let position = state.position;
                let error = Error::new(
                    ErrorKind::OffsetOutOfRange,
                    format!("{partition} has offsets {earliest} to {latest}, but reading has come to {position}"),
                )
                .hint("records may have expired unread, or the log is a new one; seek to where to go on, or set the policy for positions out of range");
                self.stop(partition, error, position);
            }
            (Question::Epoch(_), Answer::Epoch { epoch, end_offset }) => {
                state.checked_epoch = state.leader.map_or(-1, |(_, epoch)| epoch);
                state.stage = Stage::Fetching;
                // -1: the broker does not know the epoch any more, which is no sign of loss.
                if end_offset >= 0 && end_offset < state.position {
                    self.truncated(partition, epoch, end_offset, truncation);
                }
            }
            _ => state.stage = Stage::Ask { question, asked: false },
        }
    }

    /// A look-up failed; it is asked again later, unless the error is final.
    pub(crate) fn handle_lookup_failed(
        &mut self,
        partition: &TopicPartition,
        version: u64,
        error: Error,
        now: Instant,
        dice: u64,
    ) {
        let backoff = self.config.backoff;
        let Some(state) = self.partitions.get_mut(partition).filter(|state| state.version == version) else {
            return;
        };
        let Stage::Ask { question, .. } = state.stage else { return };
        if !error.is_retriable() && error.kind() != ErrorKind::Authorization {
            let position = state.position;
            return self.stop(partition, error, position);
        }
        state.failures += 1;
        state.retry_at = Some(now + backoff.delay(state.failures, dice));
        state.stage = Stage::Ask { question, asked: false };
        if error.kind() == ErrorKind::Authorization {
            state.retry_at = Some(now + DENIED_PAUSE);
            self.denied(partition, error);
        }
    }

    // --- fetching ---

    /// What to fetch from `node`. Waits while anything of its last answer can still be handed out, and while partitions
    /// that were just assigned are being looked up.
    pub(crate) fn plan(&mut self, node: NodeId, now: Instant) -> Plan {
        let share = self.config.consumer.partition_max_bytes;
        let mut planned = Vec::new();
        let mut next: Option<Instant> = None;
        let mut led = false;
        for (partition, state) in &self.partitions {
            let Some((leader, leader_epoch)) = state.leader else { continue };
            if leader != node {
                continue;
            }
            led = true;
            if state.is_deliverable() {
                return Plan::Wait(None);
            }
            if state.revoking || state.paused || state.starved {
                continue;
            }
            match &state.stage {
                Stage::Fetching => {}
                // The first answer shall cover what is assigned together; a look-up that failed is not waited for.
                Stage::Ask { .. } if state.failures == 0 => return Plan::Wait(None),
                _ => continue,
            }
            if let Some(at) = state.retry_at.filter(|at| *at > now) {
                next = Some(next.map_or(at, |next| next.min(at)));
                continue;
            }
            // More than its share is buffered and cannot be handed out: it leaves the session.
            if state.buffered.len() >= 2 || (!state.buffered.is_empty() && state.buffered_bytes >= share) {
                continue;
            }
            planned.push(Planned {
                partition: partition.clone(),
                topic_id: state.topic_id,
                version: state.version,
                assignment: state.assignment,
                offset: state.position,
                leader_epoch,
                last_epoch: state.last_epoch,
                unchecked: state.last_epoch >= 0 && leader_epoch >= 0 && state.checked_epoch != leader_epoch,
            });
        }
        match (planned.is_empty(), led) {
            (false, _) => Plan::Fetch(planned),
            (true, true) => Plan::Wait(next),
            (true, false) => Plan::Idle,
        }
    }

    /// The broker is too old to detect truncation while fetching: ask for the end of the epoch first.
    pub(crate) fn check_epoch(&mut self, partition: &TopicPartition, version: u64) {
        let Some(state) = self.partitions.get_mut(partition).filter(|state| state.version == version) else {
            return;
        };
        if state.stage == Stage::Fetching && state.last_epoch >= 0 {
            state.stage = Stage::Ask { question: Question::Epoch(state.last_epoch), asked: false };
        }
    }

    /// A fetch brought something for a partition.
    pub(crate) fn handle_fetched(
        &mut self,
        partition: &TopicPartition,
        version: u64,
        fetched: Fetched,
        now: Instant,
        dice: u64,
    ) {
        let (backoff, read_committed, ends) = (
            self.config.backoff,
            self.config.consumer.isolation == crate::consumer::Isolation::ReadCommitted,
            self.config.consumer.partition_end_events,
        );
        let Some(state) = self.partitions.get_mut(partition).filter(|state| state.version == version) else {
            return;
        };
        if state.stage != Stage::Fetching {
            return;
        }
        match fetched {
            Fetched::Records {
                batch,
                next_offset,
                last_epoch,
                high_watermark,
                last_stable_offset,
                fault,
                cut,
            } => {
                state.failures = 0;
                state.retry_at = None;
                state.denied_told = false;
                state.checked_epoch = state.leader.map_or(-1, |(_, epoch)| epoch);
                state.high_watermark = high_watermark;
                let moved = next_offset > state.position;
                state.position = next_offset.max(state.position);
                state.last_epoch = last_epoch;
                state.cuts = if cut { state.cuts + 1 } else { 0 };
                match batch {
                    Some(batch) => {
                        state.end_told = false;
                        state.buffered_bytes += batch.held_bytes();
                        state.buffered.push_back(Item::Batch(batch));
                    }
                    // Only what nobody may see was there; what is committed moves past it.
                    None if moved && state.buffered.is_empty() => {
                        state.taken = state.position;
                        if state.handed_out.is_some() || state.stored.is_some() {
                            let mark = Mark::new(partition.clone(), Offset(state.position));
                            state.handed_out = Some(
                                mark.leader_epoch(LeaderEpoch(last_epoch)).of_assignment(state.assignment),
                            );
                        }
                    }
                    None => {}
                }
                let position = state.position;
                if let Some(error) = fault {
                    state.stage = Stage::Stopped;
                    state.buffered.push_back(Item::Failed(error, position));
                } else if state.cuts > CUTS_MAX {
                    let error = Error::new(
                        ErrorKind::TooLarge,
                        format!(
                            "{partition} has a batch at offset {position} that does not fit into a fetch"
                        ),
                    )
                    .hint("raise the limit of bytes per partition");
                    state.stage = Stage::Stopped;
                    state.buffered.push_back(Item::Failed(error, position));
                }
                let end = if read_committed && last_stable_offset >= 0 {
                    last_stable_offset
                } else {
                    high_watermark
                };
                if ends && !state.end_told && state.stage == Stage::Fetching && end >= 0 && position >= end {
                    state.end_told = true;
                    state.buffered.push_back(Item::End(position));
                }
                self.make_ready(partition);
            }
            Fetched::OutOfRange => {
                let position = state.position;
                let question = match self.config.consumer.out_of_range {
                    OutOfRange::Earliest => Question::Offset(EARLIEST),
                    OutOfRange::Latest => Question::Offset(LATEST),
                    OutOfRange::Stop => Question::Range,
                };
                tracing::warn!(%partition, position, "position is outside of the log");
                state.stage = Stage::Ask { question, asked: false };
            }
            Fetched::Diverging { epoch, end_offset } => {
                let truncation = self.config.consumer.truncation;
                self.truncated(partition, epoch, end_offset, truncation);
            }
            Fetched::Retry { pause } => {
                if pause {
                    state.failures += 1;
                    state.retry_at = Some(now + backoff.delay(state.failures, dice));
                }
            }
            Fetched::Denied(error) => {
                state.retry_at = Some(now + DENIED_PAUSE);
                self.denied(partition, error);
            }
            Fetched::Fatal(error) => {
                let position = state.position;
                state.stage = Stage::Stopped;
                state.buffered.push_back(Item::Failed(error, position));
                self.make_ready(partition);
            }
        }
    }

    fn truncated(&mut self, partition: &TopicPartition, epoch: i32, end_offset: i64, policy: Truncation) {
        let version = self.next_version();
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let position = state.position;
        // Without a known end there is nothing to compare with.
        let to = if end_offset >= 0 { end_offset.min(position) } else { return };
        tracing::warn!(%partition, position, diverging = to, epoch, "the log was truncated below the position");
        match policy {
            Truncation::Resume => {
                state.discard(version);
                state.position = to;
                state.taken = to;
                state.last_epoch = epoch;
                state.stage = Stage::Fetching;
            }
            Truncation::Stop => {
                let error = Error::new(
                    ErrorKind::OffsetOutOfRange,
                    format!("{partition} was truncated: reading had come to {position}, but the log has changed from {to} on"),
                )
                .hint("a leader without all records was elected; seek to where to go on, or set the policy for truncation");
                self.stop(partition, error, position);
            }
        }
    }

    fn stop(&mut self, partition: &TopicPartition, error: Error, offset: i64) {
        if let Some(state) = self.partitions.get_mut(partition) {
            state.stage = Stage::Stopped;
            state.buffered.push_back(Item::Failed(error, offset));
            self.make_ready(partition);
        }
    }

    fn denied(&mut self, partition: &TopicPartition, error: Error) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        if !state.denied_told {
            state.denied_told = true;
            let offset = (state.position >= 0).then_some(Offset(state.position));
            let failure = PartitionFailure { partition: partition.clone(), offset, error, stopped: false };
            self.events.push_back(Event::PartitionFailed(failure));
        }
    }

    fn make_ready(&mut self, partition: &TopicPartition) {
        if let Some(state) =
            self.partitions.get_mut(partition).filter(|state| state.is_deliverable() && !state.queued)
        {
            state.queued = true;
            self.ready.push_back(partition.clone());
        }
    }

    // --- handing out ---

    /// Tells something that goes before all batches.
    pub(crate) fn push_event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// The next event or batch. The flag says that the answer it came from was used up, so that a fetch may follow.
    pub(crate) fn pop(&mut self) -> Option<(Event, bool)> {
        if let Some(event) = self.events.pop_front() {
            return Some((event, false));
        }
        while let Some(partition) = self.ready.pop_front() {
            let hold = self.config.consumer.hold_after_delivery;
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            state.queued = false;
            if state.is_hidden() {
                continue;
            }
            let Some(item) = state.buffered.pop_front() else { continue };
            let event = match item {
                Item::Batch(batch) => {
                    state.buffered_bytes = state.buffered_bytes.saturating_sub(batch.held_bytes());
                    state.taken = batch.next_offset().0;
                    state.handed_out = Some(batch.mark());
                    state.held = hold;
                    Event::Batch(batch)
                }
                Item::Failed(error, offset) => Event::PartitionFailed(PartitionFailure {
                    partition: partition.clone(),
                    offset: (offset >= 0).then_some(Offset(offset)),
                    error,
                    stopped: true,
                }),
                Item::End(offset) => {
                    Event::PartitionEnd { partition: partition.clone(), offset: Offset(offset) }
                }
            };
            let leader = state.leader;
            self.make_ready(&partition);
            let more = self.ready.iter().any(|other| {
                self.partitions.get(other).is_some_and(|state| {
                    state.is_deliverable()
                        && state.leader.map(|(node, _)| node) == leader.map(|(node, _)| node)
                })
            });
            return Some((event, !more));
        }
        None
    }

    // --- marks ---

    /// Everything handed out so far counts as done.
    pub(crate) fn store_handed_out(&mut self) {
        for state in self.partitions.values_mut() {
            if let Some(mark) = state.handed_out.take() {
                state.stored = Some(mark);
            }
        }
    }

    /// Checks that a mark belongs to an assignment in force.
    pub(crate) fn check_mark(&self, mark: &Mark) -> Result<(), Error> {
        let partition = mark.topic_partition();
        let state = self.partitions.get(partition).ok_or_else(|| not_assigned(partition))?;
        if mark.assignment().is_some_and(|assignment| assignment != state.assignment) {
            return Err(Error::new(
                ErrorKind::Fenced,
                format!("the mark for {partition} belongs to an assignment that was lost"),
            ));
        }
        if mark.offset().0 < 0 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("offset {} of {partition} is negative", mark.offset()),
            ));
        }
        Ok(())
    }

    /// Makes a mark one of the assignment in force, if it may be one.
    pub(crate) fn bind(&self, mut mark: Mark) -> Result<Mark, Error> {
        self.check_mark(&mark)?;
        if let Some(state) = self.partitions.get(mark.topic_partition()) {
            mark.bind(state.assignment);
        }
        Ok(mark)
    }

    /// Keeps a mark for the next automatic commit.
    pub(crate) fn store(&mut self, mark: Mark) -> Result<(), Error> {
        let mark = self.bind(mark)?;
        if let Some(state) = self.partitions.get_mut(mark.topic_partition()) {
            state.stored = Some(mark);
        }
        Ok(())
    }

    /// The id of the topic that an assigned partition belongs to; zero while it is not known.
    pub(crate) fn topic_id(&self, partition: &TopicPartition) -> Uuid {
        self.partitions.get(partition).map_or(Uuid::default(), |state| state.topic_id)
    }

    /// True if `mark` is to be committed by the next automatic commit.
    pub(crate) fn is_stored(&self, mark: &Mark) -> bool {
        self.partitions.get(mark.topic_partition()).is_some_and(|state| state.stored.as_ref() == Some(mark))
    }

    /// `mark` will never be committed. True if it, or an older one, was stored.
    pub(crate) fn give_up(&mut self, mark: &Mark) -> bool {
        let Some(state) = self.partitions.get_mut(mark.topic_partition()) else { return false };
        let stored = state
            .stored
            .take_if(|stored| stored.assignment() == mark.assignment() && stored.offset() <= mark.offset());
        stored.is_some()
    }

    /// Stored marks that are not committed, of all partitions or of some.
    pub(crate) fn stored(&self, only: Option<&[TopicPartition]>) -> Vec<Mark> {
        let wanted = |partition: &TopicPartition| only.is_none_or(|only| only.contains(partition));
        self.partitions
            .iter()
            .filter(|(partition, _)| wanted(partition))
            .filter_map(|(_, state)| {
                state.stored.clone().filter(|mark| state.committed != Some(mark.offset()))
            })
            .collect()
    }

    /// A mark was committed.
    pub(crate) fn handle_mark_committed(&mut self, mark: &Mark) {
        if self.check_mark(mark).is_err() {
            return;
        }
        if let Some(state) = self.partitions.get_mut(mark.topic_partition()) {
            state.committed = Some(mark.offset());
            // What is stored below an explicit commit would take it back.
            if state.stored.as_ref().is_some_and(|stored| stored.offset() < mark.offset()) {
                state.stored = None;
            }
        }
    }

    /// High watermark of a partition as of its last answer, for statistics.
    pub(crate) fn high_watermark(&self, partition: &TopicPartition) -> Option<Offset> {
        self.partitions
            .get(partition)
            .map(|state| Offset(state.high_watermark))
            .filter(|offset| offset.0 >= 0)
    }
}

fn start_at(state: &mut State, start: StartOffset) {
    let question = match start {
        StartOffset::At(offset) => {
            state.position = offset.0.max(0);
            state.taken = state.position;
            state.last_epoch = -1;
            state.stage = Stage::Fetching;
            return;
        }
        StartOffset::Earliest => EARLIEST,
        StartOffset::Latest => LATEST,
        StartOffset::Timestamp(timestamp) => timestamp.0.max(0),
    };
    state.stage = Stage::Ask { question: Question::Offset(question), asked: false };
}

fn not_assigned(partition: &TopicPartition) -> Error {
    Error::new(ErrorKind::State, format!("{partition} is not assigned to this consumer"))
}

#[cfg(test)]
#[path = "positions_tests.rs"]
mod tests;
