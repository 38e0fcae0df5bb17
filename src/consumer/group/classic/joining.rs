//! Machine: how a member of a classic group comes to an assignment: joins, leads, synchronises, applies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tokio::time::Instant;

use super::{Classic, FATAL, JoinAnswer, Request, State, SyncAnswer};
use crate::consumer::config::Assignor;
use crate::consumer::group::assignor::{Assignment, Member, Topics, cooperative_sticky, range};
use crate::consumer::group::protocol::{
    Subscription, cooperative_user_data, decode_assignment, encode_assignment,
};
use crate::consumer::group::shared::{Action, Part, is_final};
use crate::types::{TopicName, TopicPartition};
use crate::{Error, ErrorCode};

/// How long the leader of a group waits for metadata of topics that it does not know.
const TOPICS_PATIENCE: Duration = Duration::from_secs(10);

impl Classic {
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
        self.actions.push_back(Action::Ask(Request::Topics {
            ticket: self.ticket,
            topics: snapshot.clone(),
            deadline: now + TOPICS_PATIENCE,
        }));
        let members = if answer.skip_assignment { Vec::new() } else { members };
        self.state = State::Leading { members, snapshot };
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

    fn sync(&mut self, assignments: Vec<(ByteString, Bytes)>) {
        self.state = State::Syncing;
        self.actions.push_back(Action::Ask(Request::Sync {
            ticket: self.ticket,
            member_id: self.member_id.clone(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            assignments,
        }));
    }

    pub(super) fn apply(&mut self, assigned: BTreeSet<TopicPartition>) {
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

    pub(super) fn revoke_or_join(&mut self, now: Instant) {
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
        self.actions.push_back(Action::Ask(Request::Join {
            ticket: self.ticket,
            member_id: self.member_id.clone(),
            protocols,
            reason: self.rejoin.unwrap_or("rejoin").to_owned(),
        }));
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
