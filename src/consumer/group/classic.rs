//! The classic group protocol as a machine: joining, leading, synchronising, heartbeats, cooperative and eager
//! revocation, loss. It has no clock, no I/O and no randomness: `handle_*` takes what happened, `poll` says what to do,
//! `next_deadline` when to ask again.
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

use crate::backoff::Backoff;
use crate::consumer::config::Assignor;
use crate::consumer::group::assignor::{Assignment, Member, Topics, cooperative_sticky, range};
use crate::consumer::group::protocol::{
    NO_GENERATION, Subscription, cooperative_user_data, decode_assignment, encode_assignment,
};
use crate::types::{TopicName, TopicPartition};
use crate::{Error, ErrorCode, ErrorKind};

const REBALANCE_IN_PROGRESS: ErrorCode = ErrorCode(27);
const COORDINATOR_LOADING: ErrorCode = ErrorCode(14);
const COORDINATOR_NOT_AVAILABLE: ErrorCode = ErrorCode(15);
const NOT_COORDINATOR: ErrorCode = ErrorCode(16);
const ILLEGAL_GENERATION: ErrorCode = ErrorCode(22);
const UNKNOWN_MEMBER_ID: ErrorCode = ErrorCode(25);
const MEMBER_ID_REQUIRED: ErrorCode = ErrorCode(79);
const FENCED_INSTANCE_ID: ErrorCode = ErrorCode(82);
/// Codes after which joining again cannot help.
const FATAL: [ErrorCode; 7] = [
    ErrorCode(23), // INCONSISTENT_GROUP_PROTOCOL
    ErrorCode(24), // INVALID_GROUP_ID
    ErrorCode(26), // INVALID_SESSION_TIMEOUT
    ErrorCode(30), // GROUP_AUTHORIZATION_FAILED
    ErrorCode(35), // UNSUPPORTED_VERSION
    ErrorCode(81), // GROUP_MAX_SIZE_REACHED
    FENCED_INSTANCE_ID,
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
#[derive(Clone, Debug, PartialEq)]
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
    /// The membership ended; nothing follows.
    Fail(Failure),
}

/// An [`Error`] that can be compared and copied in actions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) code: Option<ErrorCode>,
    pub(crate) message: String,
    pub(crate) hint: Option<&'static str>,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let mut error = Self::new(failure.kind, failure.message).retriable(false);
        if let Some(code) = failure.code {
            error = error.code(code);
        }
        if let Some(hint) = failure.hint {
            error = error.hint(hint);
        }
        error
    }
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
    heartbeat_out: bool,
    session_end: Option<Instant>,
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
            heartbeat_out: false,
            session_end: None,
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

    /// Leaves the group after the application has given back what it holds.
    pub(crate) fn handle_close(&mut self, now: Instant, deadline: Instant) {
        match &self.state {
            State::Left | State::Failed | State::Leaving { .. } => return,
            // A revocation that is under way already covers a part; the rest follows with the same token rules.
            _ => {}
        }
        let partitions: Vec<TopicPartition> = self.owned.iter().cloned().collect();
        if partitions.is_empty() {
            return self.leave();
        }
        self.ticket += 1;
        let deadline = deadline.min(now + self.config.revoke_timeout);
        self.state = State::Leaving { deadline, partitions: partitions.clone() };
        self.actions.push_back(Action::Revoke { ticket: self.ticket, partitions, deadline });
    }

    /// JoinGroup was answered, or could not be.
    pub(crate) fn handle_join(
        &mut self,
        now: Instant,
        dice: u64,
        ticket: u64,
        answer: Result<JoinAnswer, Error>,
    ) {
        if ticket != self.ticket || self.state != State::Joining {
            return;
        }
        let answer = match answer {
            Ok(answer) if answer.code == 0 => answer,
            Ok(answer) => return self.join_refused(now, dice, answer),
            Err(error) => return self.join_failed(now, dice, &error),
        };
        self.ticket += 1;
        self.failures = 0;
        self.rejoin = None;
        self.member_id = answer.member_id.clone();
        self.generation = answer.generation;
        self.protocol = answer.protocol.clone();
        self.session_end = Some(now + self.config.session_timeout);
        self.heartbeat_due = Some(now + self.config.heartbeat_interval);
        self.heartbeat_out = false;
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
        // A topic that vanished for a moment is no reason to move partitions about.
        let changed = watched.iter().any(|topic| topics.get(topic).copied() > known.get(topic).copied());
        if changed && matches!(self.state, State::Stable | State::Applying { .. }) {
            self.want_rejoin("partitions were added");
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
                return self.prepare(now, dice, "synchronising failed");
            }
        };
        match ErrorCode(answer.code) {
            ErrorCode::NONE => {}
            UNKNOWN_MEMBER_ID => {
                return self.lose(now, dice, true, "member id is unknown to the coordinator");
            }
            ILLEGAL_GENERATION => return self.lose(now, dice, false, "generation is over"),
            REBALANCE_IN_PROGRESS => return self.want_rejoin("group is rebalancing"),
            code if FATAL.contains(&code) => return self.fail(code, "synchronising with"),
            code => {
                if matches!(code, COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR) {
                    self.actions.push_back(Action::ForgetCoordinator);
                }
                return self.prepare(now, dice, "synchronising failed");
            }
        }
        if answer.protocol.is_some_and(|name| name != self.protocol) {
            return self.fail(ErrorCode(23), "synchronising with");
        }
        let Some(assigned) = decode_assignment(answer.assignment) else {
            return self.prepare(now, dice, "assignment was not readable");
        };
        self.ticket += 1;
        self.session_end = Some(now + self.config.session_timeout);
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
        if ticket != self.heartbeat_ticket() {
            return;
        }
        self.heartbeat_out = false;
        let retry = now + self.config.backoff.delay(1, dice).min(self.config.heartbeat_interval);
        match answer {
            Ok(ErrorCode::NONE) => self.session_end = Some(now + self.config.session_timeout),
            Ok(REBALANCE_IN_PROGRESS) => {
                self.session_end = Some(now + self.config.session_timeout);
                if matches!(self.state, State::Stable | State::Applying { .. }) {
                    self.want_rejoin("group is rebalancing");
                }
            }
            Ok(UNKNOWN_MEMBER_ID) => self.lose(now, dice, true, "member id is unknown to the coordinator"),
            Ok(ILLEGAL_GENERATION) => self.lose(now, dice, false, "generation is over"),
            Ok(code) if FATAL.contains(&code) => self.fail(code, "heartbeat of"),
            Ok(code) => {
                if matches!(code, COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR) {
                    self.actions.push_back(Action::ForgetCoordinator);
                }
                self.heartbeat_due = Some(retry);
            }
            Err(error) => {
                self.coordinator_trouble(&error);
                self.heartbeat_due = Some(retry);
            }
        }
    }

    /// The application has given back what [`Action::Revoke`] named, and its offsets are committed.
    pub(crate) fn handle_revoked(&mut self, ticket: u64) {
        if ticket != self.ticket {
            return;
        }
        match std::mem::replace(&mut self.state, State::Preparing) {
            State::Revoking { partitions, .. } => self.give_back(&partitions),
            State::Applying { revoked, assigned, .. } => {
                self.give_back(&revoked);
                self.apply(assigned);
                self.want_rejoin("partitions were given back");
            }
            State::Leaving { partitions, .. } => {
                self.give_back(&partitions);
                self.leave();
            }
            other => self.state = other,
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
            COORDINATOR_LOADING | ErrorCode(3) => CommitVerdict::Retry,
            COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR | ErrorCode(7) => {
                self.actions.push_back(Action::ForgetCoordinator);
                CommitVerdict::Retry
            }
            REBALANCE_IN_PROGRESS => {
                if matches!(self.state, State::Stable | State::Applying { .. }) {
                    self.want_rejoin("group is rebalancing");
                }
                CommitVerdict::AfterRebalance
            }
            // A newer generation is known already, or a join is on its way to one: the commit may follow in it.
            ILLEGAL_GENERATION | UNKNOWN_MEMBER_ID if generation != self.generation => {
                CommitVerdict::AfterRebalance
            }
            ILLEGAL_GENERATION
                if matches!(self.state, State::Joining | State::Leading { .. } | State::Syncing) =>
            {
                CommitVerdict::AfterRebalance
            }
            ILLEGAL_GENERATION => {
                self.lose(now, dice, false, "generation is over");
                CommitVerdict::Lost
            }
            UNKNOWN_MEMBER_ID => {
                self.lose(now, dice, true, "member id is unknown to the coordinator");
                CommitVerdict::Lost
            }
            FENCED_INSTANCE_ID => {
                self.fail(code, "committing for");
                CommitVerdict::Lost
            }
            _ => CommitVerdict::Refused,
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
            && !self.heartbeat_out
            && self.heartbeat_due.is_some_and(|due| due <= now)
        {
            self.heartbeat_due = Some(now + self.config.heartbeat_interval);
            self.heartbeat_out = true;
            self.actions.push_back(Action::Heartbeat {
                ticket: self.heartbeat_ticket(),
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
            State::Preparing => self.retry_at,
            _ => None,
        };
        let heartbeat = self.heartbeat_due.filter(|_| self.heartbeats() && !self.heartbeat_out);
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

    fn heartbeats(&self) -> bool {
        self.generation >= 0
            && !matches!(self.state, State::Idle | State::Joining | State::Left | State::Failed)
    }

    /// Heartbeats survive changes of state, but not of generation.
    fn heartbeat_ticket(&self) -> u64 {
        self.generation as u64
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
                self.actions.push_back(Action::Lose { partitions });
                self.handle_revoked(self.ticket);
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
        self.retry_at = None;
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
            MEMBER_ID_REQUIRED if self.member_id != answer.member_id => {
                self.member_id = answer.member_id;
                self.state = State::Preparing;
                self.retry_at = None;
            }
            UNKNOWN_MEMBER_ID => self.lose(now, dice, true, "member id is unknown to the coordinator"),
            ILLEGAL_GENERATION => self.lose(now, dice, false, "generation is over"),
            code if FATAL.contains(&code) => self.fail(code, "joining"),
            code => {
                if matches!(code, COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR) {
                    self.actions.push_back(Action::ForgetCoordinator);
                }
                self.prepare(now, dice, "joining failed");
            }
        }
    }

    fn join_failed(&mut self, now: Instant, dice: u64, error: &Error) {
        if let Some(code) = error.error_code().filter(|code| FATAL.contains(code)) {
            return self.fail(code, "joining");
        }
        if !error.is_retriable()
            && matches!(
                error.kind(),
                ErrorKind::Authentication
                    | ErrorKind::Authorization
                    | ErrorKind::UnsupportedVersion
                    | ErrorKind::State
            )
        {
            let failure = Failure {
                kind: error.kind(),
                code: error.error_code(),
                message: format!("joining group {}: {error}", self.config.group),
                hint: None,
            };
            return self.end(failure);
        }
        self.coordinator_trouble(error);
        self.prepare(now, dice, "joining failed");
    }

    /// A request to the coordinator broke: it may have moved.
    fn coordinator_trouble(&mut self, error: &Error) {
        if matches!(error.kind(), ErrorKind::Network | ErrorKind::Timeout)
            || error
                .error_code()
                .is_some_and(|code| matches!(code, COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR))
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
        if self.state == State::Joining && self.generation >= 0 {
            // The coordinator's clock for this member stood still while the join waited.
            self.session_end = Some(now + self.config.session_timeout);
            self.heartbeat_due = Some(now);
            self.heartbeat_out = false;
        }
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
            self.state = State::Left;
            return;
        }
        // The first attempt is immediate; a coordinator that keeps refusing is not hammered.
        self.failures += 1;
        self.retry_at = (self.failures > 1).then(|| now + self.config.backoff.delay(self.failures, dice));
        self.rejoin = Some(reason);
        self.state = State::Preparing;
    }

    fn forget_membership(&mut self, forget_member: bool) {
        self.ticket += 1;
        self.generation = NO_GENERATION;
        self.snapshot = None;
        self.session_end = None;
        self.heartbeat_due = None;
        self.heartbeat_out = false;
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
            ErrorCode(23) => Some(
                "the other members use assignors that this one does not offer: offer `range` as they do, or move them to cooperative-sticky",
            ),
            ErrorCode(26) => {
                Some("keep the session timeout within the broker's group.min/max.session.timeout.ms")
            }
            ErrorCode(30) => Some("the principal needs READ on the group"),
            ErrorCode(81) => Some("the group has as many members as group.max.size allows"),
            FENCED_INSTANCE_ID => Some("another member runs with the same group.instance.id"),
            _ => None,
        };
        let message = format!("{attempted} group {} failed", self.config.group);
        self.end(Failure { kind: code.kind(), code: Some(code), message, hint });
    }

    fn end(&mut self, failure: Failure) {
        let partitions: Vec<TopicPartition> = std::mem::take(&mut self.owned).into_iter().collect();
        if !partitions.is_empty() {
            self.actions.push_back(Action::Lose { partitions });
        }
        self.forget_membership(true);
        self.state = State::Failed;
        self.actions.push_back(Action::Fail(failure));
    }
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
#[path = "classic_tests.rs"]
mod tests;
