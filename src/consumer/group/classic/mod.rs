//! Machine: the classic group protocol: joining, leading, synchronising, heartbeats, cooperative and eager revocation,
//! loss. It has no clock, no I/O and no randomness.
//!
//! * this file: states, heartbeats, commits, time. `joining`: from a join to an assignment. `ending`: what is given back or
//!   lost, and the end.
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

mod ending;
mod joining;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tokio::time::Instant;

use super::assignor::{Member, Topics};
use super::protocol::NO_GENERATION;
use super::shared::{Action, CommitVerdict, Part};
use crate::backoff::Backoff;
use crate::cluster::ConditionKind;
use crate::consumer::config::Assignor;
use crate::types::{TopicName, TopicPartition};
use crate::{Error, ErrorCode, ErrorKind};

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

/// What has to be asked; answered by the [`Answer`] of the same name, with the same ticket.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// JoinGroup.
    Join { ticket: u64, member_id: ByteString, protocols: Vec<(ByteString, Bytes)>, reason: String },
    /// The partition counts of these topics, as far as they are known at the deadline.
    Topics { ticket: u64, topics: BTreeSet<TopicName>, deadline: Instant },
    /// SyncGroup.
    Sync {
        ticket: u64,
        member_id: ByteString,
        generation: i32,
        protocol: ByteString,
        assignments: Vec<(ByteString, Bytes)>,
    },
    /// Heartbeat.
    Heartbeat { ticket: u64, member_id: ByteString, generation: i32, deadline: Instant },
}

impl Request {
    /// What it is for: a newer request for the same takes the place of an older one.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Join { .. } | Self::Sync { .. } => "join",
            Self::Topics { .. } => "topics",
            Self::Heartbeat { .. } => "heartbeat",
        }
    }
}

/// What was answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Join(u64, Result<JoinAnswer, Error>),
    /// Topics that do not exist are absent.
    Topics(u64, Topics),
    Sync(u64, Result<SyncAnswer, Error>),
    Heartbeat(u64, Result<ErrorCode, Error>),
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

/// A heartbeat that is on its way.
#[derive(Clone, Copy, Debug)]
struct Beat {
    ticket: u64,
    sent: Instant,
    /// Sent in an assignment that is in force: that the group rebalances is news then.
    settled: bool,
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

    /// What was asked was answered.
    pub(crate) fn handle_answer(&mut self, now: Instant, dice: u64, answer: Answer) {
        match answer {
            Answer::Join(ticket, answer) => self.handle_join(now, dice, ticket, answer),
            Answer::Topics(ticket, topics) => self.handle_topics(ticket, &topics),
            Answer::Sync(ticket, answer) => self.handle_sync(now, dice, ticket, answer),
            Answer::Heartbeat(ticket, answer) => self.handle_heartbeat(now, dice, ticket, answer),
        }
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

    /// What is to be done.
    pub(crate) fn poll_output(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Time has come to `now`. What is to be done comes first: nothing happens before all of that was taken.
    pub(crate) fn handle_timeout(&mut self, now: Instant, dice: u64) {
        if !self.actions.is_empty() {
            return;
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
            self.actions.push_back(Action::Ask(Request::Heartbeat {
                ticket,
                member_id: self.member_id.clone(),
                generation: self.generation,
                deadline: now + (self.config.session_timeout / 3).max(self.config.heartbeat_interval),
            }));
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) may have something to do.
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

    /// True while the coordinator may count this member in.
    pub(crate) fn is_member(&self) -> bool {
        !self.member_id.is_empty() || self.state == State::Joining
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
}

#[cfg(test)]
mod tests;
