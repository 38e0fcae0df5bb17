//! Machine: a classic group (Kafka's GroupCoordinator): members, generations, rebalance, static members (KIP-345),
//! known member ids (KIP-394). Cooperative rebalancing (KIP-429) needs nothing of its own here.
//!
//! A join or a sync has a ticket, and is answered by an output that names it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::member::{Caller, Join, Joined, Member, Output, Persisted, Phase, Synced, Ticket};
use crate::ErrorCode;
use crate::wire::Str;

/// One group.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) phase: Phase,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<Str>,
    pub(crate) protocol: Option<Str>,
    pub(crate) leader: Option<Str>,
    pub(crate) members: BTreeMap<Str, Member>,
    /// Ids that were given out and have not joined yet, with the end of our patience.
    pending: BTreeMap<Str, Option<Instant>>,
    /// End of the join phase, or of the time in which members must sync.
    rebalance_deadline: Option<Instant>,
    /// While the first members of an empty group gather: the latest end of that.
    gather_until: Option<Instant>,
    persisted: Persisted,
    outputs: VecDeque<Output>,
}

impl Group {
    // ---- join ----

    pub(crate) fn join(
        &mut self,
        now: Instant,
        join: Join,
        new_id: impl FnOnce() -> String,
        initial_delay: Duration,
        ticket: Ticket,
    ) {
        if !self.supports(&join) {
            return self.refuse(ticket, ErrorCode::INCONSISTENT_GROUP_PROTOCOL, &join.member_id);
        }
        if join.member_id.is_empty() {
            let base = join.instance_id.as_ref().unwrap_or(&join.client_id);
            let id = Str::from(format!("{base}-{}", new_id()));
            let replaced = join.instance_id.as_ref().and_then(|instance| self.member_of_instance(instance));
            match replaced {
                Some(old) => self.replace_static(now, &old, id, join, ticket),
                None if join.instance_id.is_none() && join.can_require_id => {
                    self.pending.insert(id.clone(), now.checked_add(join.session_timeout));
                    self.refuse(ticket, ErrorCode::MEMBER_ID_REQUIRED, &id);
                }
                None => self.add_member(now, id, join, initial_delay, ticket),
            }
            return;
        }
        if self.pending.remove(&join.member_id).is_some() {
            let id = join.member_id.clone();
            return self.add_member(now, id, join, initial_delay, ticket);
        }
        if let Err(error) = self.check_instance(&join.member_id, join.instance_id.as_deref()) {
            return self.refuse(ticket, error, &join.member_id);
        }
        let Some(member) = self.members.get(&join.member_id) else {
            return self.refuse(ticket, ErrorCode::UNKNOWN_MEMBER_ID, &join.member_id);
        };
        let unchanged = member.protocols == join.protocols;
        let is_leader = self.leader.as_ref() == Some(&join.member_id);
        let id = join.member_id.clone();
        match self.phase {
            Phase::CompletingRebalance if unchanged => self.answer(ticket, &id),
            Phase::Stable if unchanged && !is_leader => self.answer(ticket, &id),
            Phase::Empty => self.refuse(ticket, ErrorCode::UNKNOWN_MEMBER_ID, &id),
            Phase::PreparingRebalance | Phase::CompletingRebalance | Phase::Stable => {
                self.update_member(now, &id, join, Some(ticket));
                if self.phase != Phase::PreparingRebalance {
                    self.prepare_rebalance(now, Duration::ZERO);
                }
                self.try_complete_join(now);
            }
        }
    }

    /// The group and the joining member share a protocol.
    fn supports(&self, join: &Join) -> bool {
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        self.protocol_type.as_ref() == Some(&join.protocol_type)
            && join.protocols.iter().any(|(name, _)| {
                self.members
                    .iter()
                    .filter(|(id, _)| **id != join.member_id)
                    .all(|(_, member)| member.protocols.iter().any(|(known, _)| known == name))
            })
    }

    fn add_member(&mut self, now: Instant, id: Str, join: Join, initial_delay: Duration, ticket: Ticket) {
        let was_empty = self.phase == Phase::Empty;
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        let mut member = Member {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            protocols: join.protocols,
            assignment: Bytes::new(),
            session_timeout: join.session_timeout,
            rebalance_timeout: join.rebalance_timeout,
            join: Some(ticket),
            sync: None,
            deadline: None,
        };
        member.touch(now);
        self.members.insert(id.clone(), member);
        if self.leader.is_none() {
            self.leader = Some(id);
        }
        if self.phase != Phase::PreparingRebalance {
            self.prepare_rebalance(now, if was_empty { initial_delay } else { Duration::ZERO });
            if was_empty && initial_delay.is_zero() {
                // With a delay of 0 Kafka does not wait for members that have only asked for an id.
                return self.complete_join(now);
            }
        } else if let Some(latest) = self.gather_until {
            self.rebalance_deadline = now.checked_add(initial_delay).map(|end| end.min(latest));
        }
        self.try_complete_join(now);
    }

    fn update_member(&mut self, now: Instant, id: &Str, join: Join, ticket: Option<Ticket>) {
        if let Some(member) = self.members.get_mut(id) {
            member.protocols = join.protocols;
            member.session_timeout = join.session_timeout;
            member.rebalance_timeout = join.rebalance_timeout;
            member.client_id = join.client_id;
            member.client_host = join.client_host;
            self.outputs.extend(std::mem::replace(&mut member.join, ticket).map(Output::Dropped));
            member.touch(now);
        }
    }

    fn member_of_instance(&self, instance: &str) -> Option<Str> {
        self.members
            .iter()
            .find(|(_, member)| member.instance_id.as_deref() == Some(instance))
            .map(|(id, _)| id.clone())
    }

    /// A static member is back under a new id and keeps its assignment; whoever used the old id is fenced.
    fn replace_static(&mut self, now: Instant, old: &Str, id: Str, join: Join, ticket: Ticket) {
        let Some(mut member) = self.members.remove(old) else { return };
        if let Some(join) = member.join.take() {
            self.refuse(join, ErrorCode::FENCED_INSTANCE_ID, old);
        }
        if let Some(sync) = member.sync.take() {
            self.outputs.push_back(Output::Synced(sync, Synced::refused(ErrorCode::FENCED_INSTANCE_ID)));
        }
        let unchanged = member.protocols == join.protocols;
        let was_leader = self.leader.as_ref() == Some(old);
        if was_leader {
            self.leader = Some(id.clone());
        }
        self.members.insert(id.clone(), member);
        let can_skip = join.can_skip_assignment;
        self.update_member(now, &id, join, None);
        if self.phase == Phase::Stable && unchanged {
            let mut joined = self.joined(&id);
            if was_leader && can_skip {
                joined.skip_assignment = true;
            } else if was_leader {
                // Before version 9 the old leader's id keeps such a leader from assigning anew.
                joined.leader = old.clone();
                joined.members.clear();
            }
            self.persist();
            self.outputs.push_back(Output::Joined(ticket, joined));
            return;
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.join = Some(ticket);
        }
        if self.phase != Phase::PreparingRebalance {
            self.prepare_rebalance(now, Duration::ZERO);
        }
        self.try_complete_join(now);
    }

    fn answer(&mut self, ticket: Ticket, id: &Str) {
        let joined = self.joined(id);
        self.outputs.push_back(Output::Joined(ticket, joined));
    }

    fn refuse(&mut self, ticket: Ticket, error: ErrorCode, member_id: &Str) {
        self.outputs.push_back(Output::Joined(ticket, Joined::refused(error, member_id.clone())));
    }

    /// The next answer.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn joined(&self, id: &Str) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        let protocol = self.protocol.clone();
        let members = if leader == *id {
            let name = protocol.clone().unwrap_or_default();
            self.members
                .iter()
                .map(|(id, member)| (id.clone(), member.instance_id.clone(), member.metadata(&name)))
                .collect()
        } else {
            Vec::new()
        };
        Joined {
            error: ErrorCode::NONE,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol,
            leader,
            skip_assignment: false,
            member_id: id.clone(),
            members,
        }
    }

    fn prepare_rebalance(&mut self, now: Instant, gather: Duration) {
        for member in self.members.values_mut() {
            if let Some(sync) = member.sync.take() {
                self.outputs
                    .push_back(Output::Synced(sync, Synced::refused(ErrorCode::REBALANCE_IN_PROGRESS)));
                member.touch(now);
            }
        }
        self.phase = Phase::PreparingRebalance;
        let patience = self.rebalance_timeout();
        if gather.is_zero() {
            self.gather_until = None;
            self.rebalance_deadline = now.checked_add(patience);
        } else {
            self.gather_until = now.checked_add(patience);
            self.rebalance_deadline = now.checked_add(gather.min(patience));
        }
    }

    fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default()
    }

    fn try_complete_join(&mut self, now: Instant) {
        let ready = self.phase == Phase::PreparingRebalance
            && self.gather_until.is_none()
            && self.pending.is_empty()
            && self.members.values().all(|member| member.join.is_some());
        if ready {
            self.complete_join(now);
        }
    }

    /// Everybody has joined, or the time is over: the generation begins with those who did.
    fn complete_join(&mut self, now: Instant) {
        self.gather_until = None;
        self.members.retain(|_, member| member.join.is_some() || member.instance_id.is_some());
        if self.members.is_empty() {
            self.generation += 1;
            return self.become_empty();
        }
        let joined = |leader: &Str| self.members.get(leader).is_some_and(|member| member.join.is_some());
        if !self.leader.as_ref().is_some_and(joined) {
            let next =
                self.members.iter().find(|(_, member)| member.join.is_some()).map(|(id, _)| id.clone());
            if next.is_none() {
                // Only static members that did not come back: wait for another round.
                self.rebalance_deadline = now.checked_add(self.rebalance_timeout());
                return;
            }
            self.leader = next;
        }
        self.generation += 1;
        self.protocol = self.vote();
        self.phase = Phase::CompletingRebalance;
        self.rebalance_deadline = now.checked_add(self.rebalance_timeout());
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = Bytes::new();
                member.touch(now);
                if let Some(ticket) = member.join.take() {
                    self.outputs.push_back(Output::Joined(ticket, answer));
                }
            }
        }
    }

    /// Each member votes for its first protocol that all support.
    fn vote(&self) -> Option<Str> {
        let common = |name: &Str| {
            self.members.values().all(|member| member.protocols.iter().any(|(known, _)| known == name))
        };
        let mut votes: BTreeMap<&Str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| common(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.clone())
    }

    fn become_empty(&mut self) {
        self.phase = Phase::Empty;
        self.protocol = None;
        self.leader = None;
        self.rebalance_deadline = None;
        self.gather_until = None;
        self.persist();
    }

    // ---- sync ----

    pub(crate) fn sync(
        &mut self,
        now: Instant,
        caller: &Caller<'_>,
        protocol: (Option<&str>, Option<&str>),
        assignments: Vec<(Str, Bytes)>,
        ticket: Ticket,
    ) {
        let differs = |given: Option<&str>, own: &Option<Str>| given.is_some() && given != own.as_deref();
        let refusal = match (self.check_caller(caller), self.phase) {
            (Err(error), _) => Some(error),
            _ if differs(protocol.0, &self.protocol_type) || differs(protocol.1, &self.protocol) => {
                Some(ErrorCode::INCONSISTENT_GROUP_PROTOCOL)
            }
            (_, Phase::Empty) => Some(ErrorCode::UNKNOWN_MEMBER_ID),
            (_, Phase::PreparingRebalance) => Some(ErrorCode::REBALANCE_IN_PROGRESS),
            (_, Phase::CompletingRebalance | Phase::Stable) => None,
        };
        if let Some(error) = refusal {
            self.outputs.push_back(Output::Synced(ticket, Synced::refused(error)));
            return;
        }
        if self.phase == Phase::Stable {
            let answer = self.synced(caller.member_id);
            self.touch(now, caller.member_id);
            self.outputs.push_back(Output::Synced(ticket, answer));
            return;
        }
        if let Some(member) = self.members.get_mut(caller.member_id) {
            self.outputs.extend(member.sync.replace(ticket).map(Output::Dropped));
            member.touch(now);
        }
        if self.leader.as_deref() != Some(caller.member_id) {
            return;
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                // A copy, so that the request's buffer is free.
                member.assignment = Bytes::copy_from_slice(&assignment);
            }
        }
        self.phase = Phase::Stable;
        self.rebalance_deadline = None;
        self.persist();
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.synced(&id);
            if let Some(member) = self.members.get_mut(&id)
                && let Some(ticket) = member.sync.take()
            {
                member.touch(now);
                self.outputs.push_back(Output::Synced(ticket, answer));
            }
        }
    }

    fn synced(&self, id: &str) -> Synced {
        Synced {
            error: ErrorCode::NONE,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }

    // ---- heartbeat, leave, commit ----

    pub(crate) fn heartbeat(&mut self, now: Instant, caller: &Caller<'_>) -> ErrorCode {
        if let Err(error) = self.check_caller(caller) {
            return error;
        }
        self.touch(now, caller.member_id);
        match self.phase {
            Phase::Empty => ErrorCode::UNKNOWN_MEMBER_ID,
            Phase::PreparingRebalance => ErrorCode::REBALANCE_IN_PROGRESS,
            Phase::CompletingRebalance | Phase::Stable => ErrorCode::NONE,
        }
    }

    pub(crate) fn leave(&mut self, now: Instant, member_id: &str, instance_id: Option<&str>) -> ErrorCode {
        if self.pending.remove(member_id).is_some() {
            self.try_complete_join(now);
            return ErrorCode::NONE;
        }
        let id = match instance_id {
            Some(instance) if member_id.is_empty() => match self.member_of_instance(instance) {
                Some(id) => id,
                None => return ErrorCode::UNKNOWN_MEMBER_ID,
            },
            _ => Str::from(member_id),
        };
        if let Err(error) = self.check_instance(&id, instance_id) {
            return error;
        }
        if !self.members.contains_key(&id) {
            return ErrorCode::UNKNOWN_MEMBER_ID;
        }
        self.remove_member(now, &id);
        ErrorCode::NONE
    }

    /// Whether a commit of `caller` is accepted. A negative generation is a consumer without group management.
    pub(crate) fn admit_commit(&mut self, now: Instant, caller: &Caller<'_>) -> ErrorCode {
        if caller.generation < 0 && self.phase == Phase::Empty {
            return ErrorCode::NONE;
        }
        if let Err(error) = self.check_caller(caller) {
            return error;
        }
        self.touch(now, caller.member_id);
        match self.phase {
            Phase::CompletingRebalance => ErrorCode::REBALANCE_IN_PROGRESS,
            Phase::Empty | Phase::PreparingRebalance | Phase::Stable => ErrorCode::NONE,
        }
    }

    /// Whether a transaction may commit offsets for `caller`. Without member and generation, as before KIP-447, any may.
    pub(crate) fn admit_pending(&self, caller: &Caller<'_>) -> ErrorCode {
        let anonymous = caller.generation < 0
            && (self.phase == Phase::Empty || (caller.member_id.is_empty() && caller.instance_id.is_none()));
        if anonymous {
            return ErrorCode::NONE;
        }
        self.check_caller(caller).err().unwrap_or(ErrorCode::NONE)
    }

    fn check_instance(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        let Some(instance) = instance_id else { return Ok(()) };
        match self.member_of_instance(instance) {
            Some(id) if id == member_id => Ok(()),
            Some(_) => Err(ErrorCode::FENCED_INSTANCE_ID),
            None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
        }
    }

    fn check_caller(&self, caller: &Caller<'_>) -> Result<(), ErrorCode> {
        self.check_instance(caller.member_id, caller.instance_id)?;
        if !self.members.contains_key(caller.member_id) {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        if caller.generation != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        Ok(())
    }

    fn touch(&mut self, now: Instant, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.touch(now);
        }
    }

    fn remove_member(&mut self, now: Instant, id: &Str) {
        let Some(mut member) = self.members.remove(id) else { return };
        if let Some(join) = member.join.take() {
            self.refuse(join, ErrorCode::UNKNOWN_MEMBER_ID, id);
        }
        if let Some(sync) = member.sync.take() {
            self.outputs.push_back(Output::Synced(sync, Synced::refused(ErrorCode::UNKNOWN_MEMBER_ID)));
        }
        if self.leader.as_ref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        match self.phase {
            Phase::Stable | Phase::CompletingRebalance => {
                self.prepare_rebalance(now, Duration::ZERO);
                self.try_complete_join(now);
            }
            Phase::PreparingRebalance => self.try_complete_join(now),
            Phase::Empty => {}
        }
    }

    // ---- time ----

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let sessions =
            self.members.values().filter(|member| !member.waits()).filter_map(|member| member.deadline);
        let pending = self.pending.values().flatten().copied();
        sessions.chain(pending).chain(self.rebalance_deadline).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let before = self.pending.len();
        self.pending.retain(|_, deadline| !due(*deadline));
        let expired: Vec<Str> = self
            .members
            .iter()
            .filter(|(_, member)| !member.waits() && due(member.deadline))
            .map(|(id, _)| id.clone())
            .collect();
        for id in expired {
            self.remove_member(now, &id);
        }
        if self.pending.len() != before {
            self.try_complete_join(now);
        }
        if due(self.rebalance_deadline) {
            match self.phase {
                Phase::PreparingRebalance => self.complete_join(now),
                Phase::CompletingRebalance => self.expire_unsynced(now),
                Phase::Empty | Phase::Stable => self.rebalance_deadline = None,
            }
        }
    }

    /// Members that joined but did not sync in time are out.
    fn expire_unsynced(&mut self, now: Instant) {
        self.rebalance_deadline = None;
        let late: Vec<Str> = self
            .members
            .iter()
            .filter(|(_, member)| member.sync.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            self.remove_member(now, &id);
        }
    }

    // ---- fail-over ----

    fn persist(&mut self) {
        self.persisted = Persisted {
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            members: self.members.iter().map(|(id, member)| (id.clone(), member.persisted())).collect(),
        };
    }

    /// Another node takes over, or the same one comes back: what was not persisted is gone, waiting requests are
    /// dropped, sessions begin anew at `now` (`None` while nobody coordinates).
    pub(crate) fn reload(&mut self, now: Option<Instant>) {
        for member in self.members.values_mut() {
            let dropped = member.join.take().into_iter().chain(member.sync.take());
            self.outputs.extend(dropped.map(Output::Dropped));
        }
        let kept = &self.persisted;
        self.members = kept.members.iter().map(|(id, member)| (id.clone(), member.persisted())).collect();
        self.generation = kept.generation;
        self.protocol = kept.protocol.clone();
        self.leader = kept.leader.clone();
        self.phase = if self.members.is_empty() { Phase::Empty } else { Phase::Stable };
        self.pending.clear();
        self.rebalance_deadline = None;
        self.gather_until = None;
        if let Some(now) = now {
            for member in self.members.values_mut() {
                member.touch(now);
            }
        }
    }
}
