//! Machine: the classic group protocol: joining, leading, synchronising, heartbeats, cooperative and eager revocation,
//! loss. It has no clock, no I/O and no randomness.
//!
//! ```text
//!            subscribe                                    27, new partitions, new subscription
//!   Idle ───────────────► Preparing ◄──────────────────────────────────────────────┐
//!                          │  ▲  (revoke what cannot be kept, then back-off)        │
//!                    Join  │  │ error, fenced                                       │
//!                          ▼  │                                                     │
//!                        Joining ── leader ──► Leading ── topics ──► Syncing ───────┤
//!                             └──────── follower ──────────────────►  │             │
//!                                                            Applying (revoke) ──► Stable
//!   any ── close ──► Leaving (revoke) ──► Left          any ── fatal code ──► Failed
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tokio::time::Instant;

use super::assignor::{Assignment, Member, Topics, cooperative_sticky, range};
use super::protocol::{
    NO_GENERATION, Subscription, cooperative_user_data, decode_assignment, encode_assignment,
};
use crate::backoff::Backoff;
use crate::cluster::ConditionKind;
use crate::consumer::config::Assignor;
use crate::types::{TopicName, TopicPartition};
use crate::{Error, ErrorCode, ErrorKind};

/// The part of closing that is kept for the goodbye to the coordinator, however long the commits before it take; a fourth
/// of the whole where that is less.
const GOODBYE: Duration = Duration::from_secs(5);
/// Codes after which joining again cannot help.
const FATAL: [ErrorCode; 7] = [
    ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
    ErrorCode::INVALID_GROUP_ID,
    ErrorCode::INVALID_SESSION_TIMEOUT,
    ErrorCode::GROUP_AUTHORIZATION_FAILED,
    ErrorCode::UNSUPPORTED_VERSION,
    ErrorCode::GROUP_MAX_SIZE_REACHED,
    ErrorCode::FENCED_INSTANCE_ID,
];

/// Settings of a membership.
#[derive(Clone, Debug)]
pub(crate) struct ClassicConfig {
    pub(crate) group: ByteString,
    pub(crate) assignors: Vec<Assignor>,
    pub(crate) session_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    /// Longest wait for a revocation to be answered.
    pub(crate) revoke_timeout: Duration,
    pub(crate) backoff: Backoff,
}

/// What the driver has to do.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Send JoinGroup; answer with [`Classic::handle_join`].
    Join { ticket: u64, member_id: ByteString, protocols: Vec<(ByteString, Bytes)>, reason: String },
    /// Find the partition counts of these topics; answer with [`Classic::handle_topics`].
    NeedTopics { ticket: u64, topics: BTreeSet<TopicName> },
    /// Send SyncGroup; answer with [`Classic::handle_sync`].
    Sync {
        ticket: u64,
        member_id: ByteString,
        generation: i32,
        protocol: ByteString,
        assignments: Vec<(ByteString, Bytes)>,
    },
    /// Send Heartbeat; answer with [`Classic::handle_heartbeat`].
    Heartbeat { ticket: u64, member_id: ByteString, generation: i32 },
    /// Send LeaveGroup; no answer is needed.
    Leave { member_id: ByteString },
    /// Let the application finish with these partitions until `deadline`, commit, then stop them; answer with
    /// [`Classic::handle_revoked`].
    Revoke { ticket: u64, partitions: Vec<TopicPartition>, deadline: Instant },
    /// These partitions are gone already; nothing may be committed for them.
    Lose { partitions: Vec<TopicPartition> },
    /// Start reading these partitions.
    Assign { added: Vec<TopicPartition>, generation: i32 },
    /// The coordinator is not where it was.
    ForgetCoordinator,
    /// Something keeps going wrong with the group, for this reason.
    Trouble { kind: ConditionKind, error: Error },
    /// Nothing does any more.
    Well,
    /// The membership ended; nothing follows.
    Fail(Error),
}

/// What has to go well for the group to be well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Joining and synchronising: well once both have succeeded.
    Joining,
    Heartbeat,
    /// Committing offsets, as far as that is not the fault of single partitions.
    Commit,
    /// Finding committed offsets, likewise.
    Committed,
}

/// A heartbeat that is on its way.
#[derive(Clone, Copy, Debug)]
struct Beat {
    ticket: u64,
    sent: Instant,
    /// Sent in an assignment that is in force: that the group rebalances is news then.
    settled: bool,
}

/// The fields of a JoinGroup answer that matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct JoinAnswer {
    pub(crate) code: i16,
    pub(crate) member_id: ByteString,
    pub(crate) generation: i32,
    pub(crate) protocol: ByteString,
    pub(crate) leader: ByteString,
    pub(crate) skip_assignment: bool,
    /// Member id, instance id, subscription; only the leader's answer has them.
    pub(crate) members: Vec<(ByteString, Option<ByteString>, Bytes)>,
}

/// The fields of a SyncGroup answer that matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct SyncAnswer {
    pub(crate) code: i16,
    /// Name of the chosen assignor (v5).
    pub(crate) protocol: Option<ByteString>,
    pub(crate) assignment: Bytes,
}

/// What a failed commit means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitVerdict {
    /// Send again after the back-off.
    Retry,
    /// Send again once the group is stable.
    AfterRebalance,
    /// Give up; the membership under which it was sent has ended.
    Lost,
    /// Give up; the code says why.
    Refused,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Idle,
    Preparing,
    /// Revoking before a join.
    Revoking {
        deadline: Instant,
        partitions: Vec<TopicPartition>,
    },
    Joining,
    Leading {
        members: Vec<Member>,
        snapshot: BTreeSet<TopicName>,
    },
    Syncing,
    /// Revoking what the new assignment took away, before the rest is applied.
    Applying {
        deadline: Instant,
        revoked: Vec<TopicPartition>,
        assigned: BTreeSet<TopicPartition>,
    },
    Stable,
    Leaving {
        deadline: Instant,
        partitions: Vec<TopicPartition>,
    },
    Left,
    Failed,
}

/// One membership in a classic group.
#[derive(Debug)]
pub(crate) struct Classic {
    config: ClassicConfig,
    cooperative: bool,
    topics: BTreeSet<TopicName>,
    /// What the latest join asked for.
    joined_topics: BTreeSet<TopicName>,
    state: State,
    member_id: ByteString,
    generation: i32,
    protocol: ByteString,
    /// What the application was given and has not given back.
    owned: BTreeSet<TopicPartition>,
    /// Topics and partition counts that this member assigned as leader.
    snapshot: Option<(BTreeSet<TopicName>, Topics)>,
    rejoin: Option<&'static str>,
    failures: u32,
    retry_at: Option<Instant>,
    heartbeat_due: Option<Instant>,
    /// Survives changes of state, but not of generation.
    heartbeat_out: Option<Beat>,
    heartbeats_sent: u64,
    /// How many in a row came to nothing.
    heartbeat_failures: u32,
    /// When the coordinator may count this member out: a session after the latest heartbeat that it answered was *sent*.
    /// Runs as long as there is a membership, whatever the state: in none of them is the coordinator's word that it is
    /// alive worth less.
    session_end: Option<Instant>,
    /// What goes wrong at the moment.
    troubled: BTreeSet<Part>,
    /// Counts states and generations; an answer with an old ticket is dropped.
    ticket: u64,
    actions: VecDeque<Action>,
}

impl Classic {
    pub(crate) fn new(config: ClassicConfig) -> Self {
        Self {
            cooperative: config.assignors.iter().all(|assignor| *assignor == Assignor::CooperativeSticky),
            config,
            topics: BTreeSet::new(),
            joined_topics: BTreeSet::new(),
            state: State::Idle,
            member_id: ByteString::new(),
            generation: NO_GENERATION,
            protocol: ByteString::new(),
            owned: BTreeSet::new(),
            snapshot: None,
            rejoin: None,
            failures: 0,
            retry_at: None,
            heartbeat_due: None,
            heartbeat_out: None,
            heartbeats_sent: 0,
            heartbeat_failures: 0,
            session_end: None,
            troubled: BTreeSet::new(),
            ticket: 0,
            actions: VecDeque::new(),
        }
    }

    /// The application wants exactly these topics.
    pub(crate) fn handle_subscribe(&mut self, topics: BTreeSet<TopicName>) {
        if topics == self.topics {
            return;
        }
        self.topics = topics;
        match self.state {
            State::Idle => {
                self.rejoin = Some("first join");
                self.state = State::Preparing;
            }
            State::Leaving { .. } | State::Left | State::Failed => {}
            _ => self.want_rejoin("subscription changed"),
        }
    }

    /// Leaves the group after the application has given back what it holds, whatever becomes of its commits: a part of the
    /// time until `deadline` belongs to the goodbye. Returns when commits have to be done.
    pub(crate) fn handle_close(&mut self, now: Instant, deadline: Instant) -> Instant {
        let goodbye = (deadline.saturating_duration_since(now) / 4).min(GOODBYE);
        let commit_by = (deadline - goodbye).min(now + self.config.revoke_timeout).max(now);
        if matches!(self.state, State::Left | State::Failed | State::Leaving { .. }) {
            return commit_by;
        }
        // A revocation that is under way already covers a part; the rest follows with the same token rules.
        let partitions: Vec<TopicPartition> = self.owned.iter().cloned().collect();
        // The coordinator has counted in, or is about to, whom it has not told its id yet: only its answer tells whom to
        // count out.
        let nameless = self.state == State::Joining && self.member_id.is_empty();
        if nameless {
            self.state = State::Leaving { deadline, partitions };
        } else if partitions.is_empty() {
            self.leave();
        } else {
            self.ticket += 1;
            self.state = State::Leaving { deadline: commit_by, partitions: partitions.clone() };
            self.actions.push_back(Action::Revoke { ticket: self.ticket, partitions, deadline: commit_by });
        }
        commit_by
    }

    /// JoinGroup was answered, or could not be.
    pub(crate) fn handle_join(
        &mut self,
        now: Instant,
        dice: u64,
        ticket: u64,
        answer: Result<JoinAnswer, Error>,
    ) {
        if ticket != self.ticket {
            return;
        }
        if matches!(self.state, State::Leaving { .. }) {
            self.member_id = answer.map(|answer| answer.member_id).unwrap_or_default();
            return self.leave();
        }
        if self.state != State::Joining {
            return;
        }
        let answer = match answer {
            Ok(answer) if answer.code == 0 => answer,
            Ok(answer) => return self.join_refused(now, dice, answer),
            Err(error) => return self.join_failed(now, dice, &error),
        };
        self.ticket += 1;
        self.rejoin = None;
        // It was the join that would have been asked again: what follows it waits for nothing.
        self.retry_at = None;
        self.member_id = answer.member_id.clone();
        self.generation = answer.generation;
        self.protocol = answer.protocol.clone();
        // The answer may have been on its way for long: a membership that went on knows better.
        self.session_end.get_or_insert(now + self.config.session_timeout);
        self.heartbeat_due = Some(now + self.config.heartbeat_interval);
        self.heartbeat_out = None;
        if answer.leader != answer.member_id || answer.members.is_empty() {
            self.snapshot = None;
            return self.sync(Vec::new());
        }
        let members = members(answer.members);
        let snapshot: BTreeSet<TopicName> =
            members.iter().flat_map(|member| member.topics.iter().cloned()).collect();
        self.actions.push_back(Action::NeedTopics { ticket: self.ticket, topics: snapshot.clone() });
        let members = if answer.skip_assignment { Vec::new() } else { members };
        self.state = State::Leading { members, snapshot };
    }

    /// The partition counts that the leader asked for; topics that do not exist are absent.
    pub(crate) fn handle_topics(&mut self, ticket: u64, topics: &Topics) {
        if ticket != self.ticket {
            return;
        }
        let State::Leading { members, snapshot } = &self.state else { return };
        let topics: Topics = topics
            .iter()
            .filter(|(topic, _)| snapshot.contains(*topic))
            .map(|(t, n)| (t.clone(), *n))
            .collect();
        let assignment: Assignment = match &*self.protocol {
            "range" => range(&topics, members),
            _ => cooperative_sticky(&topics, members),
        };
        self.snapshot = Some((snapshot.clone(), topics));
        self.sync(assignment.into_iter().map(|(id, own)| (id, encode_assignment(&own))).collect());
    }

    /// The topics that decide whether this member, as leader, has to start a rebalance; empty for followers.
    pub(crate) fn watched_topics(&self) -> Option<&BTreeSet<TopicName>> {
        self.snapshot.as_ref().map(|(topics, _)| topics)
    }

    /// The cluster's metadata changed.
    pub(crate) fn handle_metadata(&mut self, topics: &Topics) {
        let Some((watched, known)) = &self.snapshot else { return };
        // A topic that vanished for a moment is no reason to move partitions about. One that has fewer was made anew: nobody
        // shall be left with partitions that there are not.
        let differs = |topic| topics.get(topic).is_some_and(|count| known.get(topic) != Some(count));
        if !watched.iter().any(differs) {
            return;
        }
        let reason = "the number of partitions changed";
        match self.state {
            State::Stable | State::Applying { .. } => self.want_rejoin(reason),
            // Nobody may tell it again: the assignment that is on its way comes first.
            State::Syncing => self.rejoin = Some(reason),
            _ => {}
        }
    }

    /// SyncGroup was answered, or could not be.
    pub(crate) fn handle_sync(
        &mut self,
        now: Instant,
        dice: u64,
        ticket: u64,
        answer: Result<SyncAnswer, Error>,
    ) {
        if ticket != self.ticket || self.state != State::Syncing {
            return;
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.coordinator_trouble(&error);
                self.trouble(Part::Joining, &error);
                return self.prepare(now, dice, "synchronising failed");
            }
        };
        match ErrorCode(answer.code) {
            ErrorCode::NONE => {}
            ErrorCode::UNKNOWN_MEMBER_ID => {
                return self.lose(now, dice, true, "member id is unknown to the coordinator");
            }
            ErrorCode::ILLEGAL_GENERATION => return self.lose(now, dice, false, "generation is over"),
            ErrorCode::REBALANCE_IN_PROGRESS => {
                self.ticket += 1;
                return self.rejoin_soon(now, dice, "group is rebalancing");
            }
            code if FATAL.contains(&code) => return self.fail(code, "synchronising with"),
            code => {
                self.refused(Part::Joining, code, "synchronising with");
                return self.prepare(now, dice, "synchronising failed");
            }
        }
        if answer.protocol.is_some_and(|name| name != self.protocol) {
            return self.fail(ErrorCode::INCONSISTENT_GROUP_PROTOCOL, "synchronising with");
        }
        let Some(assigned) = decode_assignment(answer.assignment) else {
            return self.prepare(now, dice, "assignment was not readable");
        };
        self.ticket += 1;
        let assigned: BTreeSet<TopicPartition> =
            assigned.into_iter().filter(|tp| self.topics.contains(&tp.topic)).collect();
        let revoked: Vec<TopicPartition> = self.owned.difference(&assigned).cloned().collect();
        if revoked.is_empty() {
            return self.apply(assigned);
        }
        let deadline = now + self.config.revoke_timeout;
        self.actions.push_back(Action::Revoke { ticket: self.ticket, partitions: revoked.clone(), deadline });
        self.state = State::Applying { deadline, revoked, assigned };
    }

    /// Heartbeat was answered, or could not be.
    pub(crate) fn handle_heartbeat(
        &mut self,
        now: Instant,
        dice: u64,
        ticket: u64,
        answer: Result<ErrorCode, Error>,
    ) {
        let Some(beat) = self.heartbeat_out.take_if(|beat| beat.ticket == ticket) else { return };
        let failures = self.heartbeat_failures + 1;
        let retry = now + self.config.backoff.delay(failures, dice).min(self.config.heartbeat_interval);
        self.heartbeat_failures = if matches!(answer, Ok(ErrorCode::NONE)) { 0 } else { failures };
        match answer {
            Ok(code @ (ErrorCode::NONE | ErrorCode::REBALANCE_IN_PROGRESS)) => {
                self.session_end = self.session_end.max(Some(beat.sent + self.config.session_timeout));
                self.well(Part::Heartbeat);
                let settled = beat.settled && matches!(self.state, State::Stable | State::Applying { .. });
                if code == ErrorCode::REBALANCE_IN_PROGRESS && settled {
                    self.want_rejoin("group is rebalancing");
                }
            }
            Ok(ErrorCode::UNKNOWN_MEMBER_ID) => {
                self.lose(now, dice, true, "member id is unknown to the coordinator")
            }
            // The group has gone on, with this member: what it has joined is about to be told.
            Ok(ErrorCode::ILLEGAL_GENERATION) if self.state == State::Joining => {}
            Ok(ErrorCode::ILLEGAL_GENERATION) => self.lose(now, dice, false, "generation is over"),
            Ok(code) if FATAL.contains(&code) => self.fail(code, "heartbeat of"),
            Ok(code) => {
                self.refused(Part::Heartbeat, code, "heartbeat of");
                self.heartbeat_due = Some(retry);
            }
            Err(error) => {
                self.coordinator_trouble(&error);
                self.trouble(Part::Heartbeat, &error);
                self.heartbeat_due = Some(retry);
            }
        }
    }

    /// The application has given back what [`Action::Revoke`] named, and its offsets are committed.
    /// Returns what was given back.
    pub(crate) fn handle_revoked(&mut self, ticket: u64) -> Vec<TopicPartition> {
        if !self.is_revoking(ticket) {
            return Vec::new();
        }
        match std::mem::replace(&mut self.state, State::Preparing) {
            State::Revoking { partitions, .. } => {
                self.give_back(&partitions);
                partitions
            }
            State::Applying { revoked, assigned, .. } => {
                self.give_back(&revoked);
                self.apply(assigned);
                self.want_rejoin("partitions were given back");
                revoked
            }
            State::Leaving { partitions, .. } => {
                self.give_back(&partitions);
                self.leave();
                partitions
            }
            other => {
                self.state = other;
                Vec::new()
            }
        }
    }

    /// True if the revocation with this ticket is still open.
    pub(crate) fn is_revoking(&self, ticket: u64) -> bool {
        let open =
            matches!(self.state, State::Revoking { .. } | State::Applying { .. } | State::Leaving { .. });
        open && ticket == self.ticket
    }

    /// Member id and generation under which offsets may be committed now; none while the group rebalances.
    pub(crate) fn commit_identity(&self) -> Option<(ByteString, i32)> {
        let stable = matches!(
            self.state,
            State::Stable
                | State::Revoking { .. }
                | State::Applying { .. }
                | State::Leaving { .. }
                | State::Preparing
        );
        (stable && self.generation >= 0).then(|| (self.member_id.clone(), self.generation))
    }

    /// A commit sent under `generation` was answered with `code`.
    pub(crate) fn handle_commit_code(
        &mut self,
        now: Instant,
        dice: u64,
        generation: i32,
        code: ErrorCode,
    ) -> CommitVerdict {
        match code {
            ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => CommitVerdict::Retry,
            ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::NOT_COORDINATOR
            | ErrorCode::REQUEST_TIMED_OUT => {
                self.actions.push_back(Action::ForgetCoordinator);
                CommitVerdict::Retry
            }
            ErrorCode::REBALANCE_IN_PROGRESS => {
                if matches!(self.state, State::Stable | State::Applying { .. }) {
                    self.want_rejoin("group is rebalancing");
                }
                CommitVerdict::AfterRebalance
            }
            // A newer generation is known already, or a join is on its way to one: the commit may follow in it.
            ErrorCode::ILLEGAL_GENERATION | ErrorCode::UNKNOWN_MEMBER_ID if generation != self.generation => {
                CommitVerdict::AfterRebalance
            }
            ErrorCode::ILLEGAL_GENERATION
                if matches!(self.state, State::Joining | State::Leading { .. } | State::Syncing) =>
            {
                CommitVerdict::AfterRebalance
            }
            ErrorCode::ILLEGAL_GENERATION => {
                self.lose(now, dice, false, "generation is over");
                CommitVerdict::Lost
            }
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.lose(now, dice, true, "member id is unknown to the coordinator");
                CommitVerdict::Lost
            }
            ErrorCode::FENCED_INSTANCE_ID => {
                self.fail(code, "committing for");
                CommitVerdict::Lost
            }
            _ => CommitVerdict::Refused,
        }
    }

    /// What the machine does not do itself went wrong for all partitions, or (with `None`) well for some.
    pub(crate) fn handle_part(&mut self, part: Part, failure: Option<&Error>) {
        match failure {
            Some(error) => {
                self.coordinator_trouble(error);
                self.trouble(part, error);
            }
            None => self.well(part),
        }
    }

    /// What to do now; call until it returns `None`.
    pub(crate) fn poll(&mut self, now: Instant, dice: u64) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        self.expire(now, dice);
        if self.rejoin.is_some() && self.state == State::Stable {
            self.state = State::Preparing;
        }
        if self.state == State::Preparing && self.retry_at.is_none_or(|at| at <= now) {
            self.revoke_or_join(now);
        }
        if self.actions.is_empty()
            && self.heartbeats()
            && self.heartbeat_out.is_none()
            && self.heartbeat_due.is_some_and(|due| due <= now)
        {
            self.heartbeat_due = Some(now + self.config.heartbeat_interval);
            self.heartbeats_sent += 1;
            let ticket = self.heartbeats_sent;
            let settled = matches!(self.state, State::Stable | State::Applying { .. });
            self.heartbeat_out = Some(Beat { ticket, sent: now, settled });
            self.actions.push_back(Action::Heartbeat {
                ticket,
                member_id: self.member_id.clone(),
                generation: self.generation,
            });
        }
        self.actions.pop_front()
    }

    /// When [`poll`](Self::poll) may have something to do without any input.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let revoke = match &self.state {
            State::Revoking { deadline, .. }
            | State::Applying { deadline, .. }
            | State::Leaving { deadline, .. } => Some(*deadline),
            State::Preparing | State::Joining => self.retry_at,
            _ => None,
        };
        let heartbeat = self.heartbeat_due.filter(|_| self.heartbeats() && self.heartbeat_out.is_none());
        let session = self.session_end.filter(|_| self.heartbeats());
        [revoke, heartbeat, session].into_iter().flatten().min()
    }

    /// True once nothing will ever follow.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Left | State::Failed) && self.actions.is_empty()
    }

    /// True while an assignment is in force and no rebalance is under way.
    pub(crate) fn is_stable(&self) -> bool {
        self.state == State::Stable && self.rejoin.is_none()
    }

    /// Also while a join is out: it may take as long as the slowest member, and only heartbeats tell that long from for
    /// ever. A coordinator that waits for others answers that the group rebalances.
    fn heartbeats(&self) -> bool {
        self.generation >= 0 && !matches!(self.state, State::Idle | State::Left | State::Failed)
    }

    fn expire(&mut self, now: Instant, dice: u64) {
        if self.heartbeats() && self.session_end.is_some_and(|end| end <= now) {
            self.actions.push_back(Action::ForgetCoordinator);
            return self.lose(now, dice, false, "no heartbeat was answered within the session timeout");
        }
        match &self.state {
            State::Revoking { deadline, partitions } | State::Leaving { deadline, partitions }
                if *deadline <= now =>
            {
                let partitions = partitions.clone();
                if !partitions.is_empty() {
                    self.actions.push_back(Action::Lose { partitions });
                }
                self.handle_revoked(self.ticket);
            }
            State::Joining if self.retry_at.is_some_and(|at| at <= now) => {
                self.actions.push_back(Action::ForgetCoordinator);
                self.ticket += 1;
                self.retry_at = None;
                self.state = State::Preparing;
            }
            State::Applying { deadline, revoked, .. } if *deadline <= now => {
                let partitions = revoked.clone();
                self.actions.push_back(Action::Lose { partitions });
                self.handle_revoked(self.ticket);
            }
            _ => {}
        }
    }

    fn revoke_or_join(&mut self, now: Instant) {
        if self.topics.is_empty() && self.owned.is_empty() {
            // Nothing is wanted any more: leave, and wait for a subscription.
            if !self.member_id.is_empty() {
                self.actions.push_back(Action::Leave { member_id: self.member_id.clone() });
            }
            self.forget_membership(true);
            self.rejoin = None;
            self.state = State::Idle;
            return;
        }
        let cooperative = self.cooperative;
        let partitions: Vec<TopicPartition> = self
            .owned
            .iter()
            .filter(|tp| !cooperative || !self.topics.contains(&tp.topic))
            .cloned()
            .collect();
        self.ticket += 1;
        if !partitions.is_empty() {
            let deadline = now + self.config.revoke_timeout;
            self.actions.push_back(Action::Revoke {
                ticket: self.ticket,
                partitions: partitions.clone(),
                deadline,
            });
            self.state = State::Revoking { deadline, partitions };
            return;
        }
        let subscription = Subscription {
            topics: self.topics.iter().cloned().collect(),
            owned: self.owned.iter().cloned().collect(),
            generation: self.generation,
            rack: None,
        };
        let protocols = self
            .config
            .assignors
            .iter()
            .map(|assignor| {
                let data = match assignor {
                    Assignor::CooperativeSticky => Some(cooperative_user_data(self.generation)),
                    Assignor::Range => None,
                };
                let bytes = subscription.encode(data.as_ref().map(|data| &data[..]));
                (ByteString::from_static(assignor.name()), bytes)
            })
            .collect();
        // Without a membership no heartbeat tells whether anybody is there: the question is asked again, of whoever
        // coordinates by then. Not before there is an id, since each such question makes another member.
        self.retry_at =
            (self.generation < 0 && !self.member_id.is_empty()).then(|| now + self.config.session_timeout);
        self.joined_topics = self.topics.clone();
        self.state = State::Joining;
        self.actions.push_back(Action::Join {
            ticket: self.ticket,
            member_id: self.member_id.clone(),
            protocols,
            reason: self.rejoin.unwrap_or("rejoin").to_owned(),
        });
    }

    fn join_refused(&mut self, now: Instant, dice: u64, answer: JoinAnswer) {
        match ErrorCode(answer.code) {
            ErrorCode::MEMBER_ID_REQUIRED if self.member_id != answer.member_id => {
                self.member_id = answer.member_id;
                self.state = State::Preparing;
                self.retry_at = None;
            }
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.lose(now, dice, true, "member id is unknown to the coordinator")
            }
            ErrorCode::ILLEGAL_GENERATION => self.lose(now, dice, false, "generation is over"),
            code if FATAL.contains(&code) => self.fail(code, "joining"),
            code => {
                self.refused(Part::Joining, code, "joining");
                self.prepare(now, dice, "joining failed");
            }
        }
    }

    fn join_failed(&mut self, now: Instant, dice: u64, error: &Error) {
        if let Some(code) = error.code().filter(|code| FATAL.contains(code)) {
            return self.fail(code, "joining");
        }
        if is_final(error) {
            let message = format!("joining group {} failed", self.config.group);
            let mut failure =
                Error::new(error.kind(), message).with_retriable(false).with_source(error.clone());
            if let Some(code) = error.code() {
                failure = failure.with_code(code);
            }
            return self.end(failure);
        }
        self.coordinator_trouble(error);
        self.trouble(Part::Joining, error);
        self.prepare(now, dice, "joining failed");
    }

    /// The coordinator answered a request with a code that is tried again.
    fn refused(&mut self, part: Part, code: ErrorCode, attempted: &str) {
        let error = Error::from_code(code, format!("{attempted} group {} was refused", self.config.group));
        self.coordinator_trouble(&error);
        self.trouble(part, &error);
    }

    fn trouble(&mut self, part: Part, error: &Error) {
        self.troubled.insert(part);
        let kind = ConditionKind::of(error);
        self.actions.push_back(Action::Trouble { kind, error: error.clone() });
    }

    fn well(&mut self, part: Part) {
        if self.troubled.remove(&part) && self.troubled.is_empty() {
            self.actions.push_back(Action::Well);
        }
    }

    /// A request to the coordinator broke: it may have moved.
    fn coordinator_trouble(&mut self, error: &Error) {
        if matches!(error.kind(), ErrorKind::Network | ErrorKind::Timeout)
            || error.code().is_some_and(|code| {
                matches!(code, ErrorCode::COORDINATOR_NOT_AVAILABLE | ErrorCode::NOT_COORDINATOR)
            })
        {
            self.actions.push_back(Action::ForgetCoordinator);
        }
    }

    fn sync(&mut self, assignments: Vec<(ByteString, Bytes)>) {
        self.state = State::Syncing;
        self.actions.push_back(Action::Sync {
            ticket: self.ticket,
            member_id: self.member_id.clone(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            assignments,
        });
    }

    fn apply(&mut self, assigned: BTreeSet<TopicPartition>) {
        let added: Vec<TopicPartition> = assigned.difference(&self.owned).cloned().collect();
        self.owned.extend(added.iter().cloned());
        self.state = State::Stable;
        self.failures = 0;
        self.well(Part::Joining);
        if !added.is_empty() || self.owned.is_empty() {
            self.actions.push_back(Action::Assign { added, generation: self.generation });
        }
        if self.joined_topics != self.topics {
            // Subscribed anew while the join was on its way.
            self.rejoin = Some("subscription changed");
        }
    }

    fn give_back(&mut self, partitions: &[TopicPartition]) {
        for tp in partitions {
            self.owned.remove(tp);
        }
    }

    /// Joins again as soon as the state allows it.
    fn want_rejoin(&mut self, reason: &'static str) {
        self.rejoin = Some(reason);
        if matches!(self.state, State::Stable | State::Syncing | State::Leading { .. }) {
            self.ticket += 1;
            self.retry_at = None;
            self.state = State::Preparing;
        }
    }

    /// Joins again after the back-off; membership and partitions are kept.
    fn prepare(&mut self, now: Instant, dice: u64, reason: &'static str) {
        self.failures += 1;
        self.retry_at = Some(now + self.config.backoff.delay(self.failures, dice));
        self.rejoin = Some(reason);
        self.ticket += 1;
        self.state = State::Preparing;
    }

    /// Joins again; the first attempt is immediate, and a coordinator that keeps refusing is not hammered.
    fn rejoin_soon(&mut self, now: Instant, dice: u64, reason: &'static str) {
        self.failures += 1;
        self.retry_at = (self.failures > 1).then(|| now + self.config.backoff.delay(self.failures, dice));
        self.rejoin = Some(reason);
        self.state = State::Preparing;
    }

    /// The coordinator no longer counts this member in: partitions may have other owners by now.
    fn lose(&mut self, now: Instant, dice: u64, forget_member: bool, reason: &'static str) {
        let partitions: Vec<TopicPartition> = std::mem::take(&mut self.owned).into_iter().collect();
        if !partitions.is_empty() {
            self.actions.push_back(Action::Lose { partitions });
        }
        let leaving = matches!(self.state, State::Leaving { .. });
        self.forget_membership(forget_member);
        if leaving {
            return self.leave();
        }
        self.rejoin_soon(now, dice, reason);
    }

    fn forget_membership(&mut self, forget_member: bool) {
        self.ticket += 1;
        self.generation = NO_GENERATION;
        self.snapshot = None;
        self.session_end = None;
        self.heartbeat_due = None;
        self.heartbeat_out = None;
        if forget_member {
            self.member_id = ByteString::new();
        }
    }

    fn leave(&mut self) {
        if !self.member_id.is_empty() {
            self.actions.push_back(Action::Leave { member_id: self.member_id.clone() });
        }
        self.forget_membership(true);
        self.state = State::Left;
    }

    fn fail(&mut self, code: ErrorCode, attempted: &str) {
        let hint = match code {
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL if self.config.assignors.contains(&Assignor::Range) => {
                Some("the other members do not offer `range`: offer cooperative-sticky alone, as they do")
            }
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL => Some(
                "the other members do not offer cooperative-sticky: offer `range` as they do, or move them to it",
            ),
            _ => None,
        };
        let failure = Error::from_code(code, format!("{attempted} group {} failed", self.config.group));
        let failure = failure.with_retriable(false);
        self.end(match hint {
            Some(hint) => failure.with_advice(hint),
            None => failure,
        });
    }

    fn end(&mut self, failure: Error) {
        let partitions: Vec<TopicPartition> = std::mem::take(&mut self.owned).into_iter().collect();
        if !partitions.is_empty() {
            self.actions.push_back(Action::Lose { partitions });
        }
        self.forget_membership(true);
        self.state = State::Failed;
        // The consumer ends with its error: nothing of it lasts.
        self.troubled.clear();
        self.actions.extend([Action::Well, Action::Fail(failure)]);
    }
}

/// True if trying again helps nothing: the client, not the group, cannot go on.
pub(crate) fn is_final(error: &Error) -> bool {
    let kinds = [
        ErrorKind::Authentication,
        ErrorKind::Authorization,
        ErrorKind::UnsupportedVersion,
        ErrorKind::State,
    ];
    !error.is_retriable() && kinds.contains(&error.kind())
}

/// Reads what the members wrote. A member whose subscription is not readable gets nothing; ids are unique afterwards.
fn members(raw: Vec<(ByteString, Option<ByteString>, Bytes)>) -> Vec<Member> {
    let mut members = BTreeMap::new();
    for (id, instance, bytes) in raw {
        let subscription = Subscription::decode(bytes).unwrap_or_default();
        members.entry(id.clone()).or_insert(Member {
            id,
            instance,
            topics: subscription.topics,
            owned: subscription.owned,
            generation: subscription.generation,
        });
    }
    members.into_values().collect()
}

#[cfg(test)]
mod tests;
