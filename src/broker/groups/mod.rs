//! Machine: classic consumer groups: which node coordinates which, the groups, and the offsets committed for them.

mod group;
mod member;
mod pending;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::ErrorCode;
use crate::wire::Str;

pub(crate) use group::Group;
pub(crate) use member::{Caller, Join, Joined, Output, Phase, Synced, Ticket};

use super::coordinators::Coordinators;
use super::log::Ending;
use super::settings::Settings;
use pending::Writers;

/// How often Kafka looks for groups that nobody needs any more, its `offsets.retention.check.interval.ms`.
const EXPIRY_CHECK: Duration = Duration::from_secs(600);
/// Longest id of a group: what a key of the offsets topic can hold. Kafka answers longer ones as an error of its own.
const ID_MAX: usize = i16::MAX as usize;
/// Kafka's `offset.metadata.max.bytes`.
pub(crate) const METADATA_MAX: usize = 4096;

/// A committed offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: Option<Str>,
    /// Of two the one that was written later counts. [`Groups`] sets it.
    pub(crate) order: u64,
}

/// Offset by topic and partition.
type Offsets = BTreeMap<(Str, i32), Committed>;

/// A group and what it committed.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) group: Group,
    pub(crate) offsets: Offsets,
    /// Offsets of open transactions, by producer.
    pending: BTreeMap<i64, Offsets>,
    /// Since when it has neither members nor new commits.
    idle_since: Option<Instant>,
}

impl Entry {
    /// True if an open transaction commits an offset of this partition (KIP-447).
    pub(crate) fn is_unstable(&self, topic: &Str, partition: i32) -> bool {
        let key = (topic.clone(), partition);
        self.pending.values().any(|offsets| offsets.contains_key(&key))
    }

    /// When the group is forgotten, unless something happens.
    fn expiry(&self, retention: Duration) -> Option<Instant> {
        if !self.pending.is_empty() {
            return None;
        }
        let keep = if self.offsets.is_empty() { EXPIRY_CHECK } else { retention };
        self.idle_since?.checked_add(keep)
    }

    fn next_deadline(&mut self, now: Instant, retention: Duration) -> Option<Instant> {
        match self.group.phase {
            Phase::Empty => drop(self.idle_since.get_or_insert(now)),
            _ => self.idle_since = None,
        }
        let (due, expiry) = (self.group.next_deadline(), self.expiry(retention));
        due.into_iter().chain(expiry).min()
    }
}

/// All groups of the cluster.
#[derive(Debug)]
pub(crate) struct Groups {
    entries: BTreeMap<Str, Entry>,
    deadlines: BTreeSet<(Instant, Str)>,
    /// Deadline under which a group is filed in `deadlines`.
    filed: BTreeMap<Str, Instant>,
    coordinators: Coordinators,
    writers: Writers,
    /// Offsets written so far.
    written: u64,
    initial_delay: Duration,
    session_min: Duration,
    session_max: Duration,
    retention: Duration,
    next_ticket: u64,
    outputs: VecDeque<Output>,
}

impl Groups {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            entries: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            filed: BTreeMap::new(),
            coordinators: Coordinators::new(settings),
            writers: Writers::default(),
            written: 0,
            initial_delay: settings.group_initial_rebalance_delay,
            session_min: settings.group_session_timeout_min,
            session_max: settings.group_session_timeout_max,
            retention: settings.offsets_retention,
            next_ticket: 0,
            outputs: VecDeque::new(),
        }
    }

    // ---- coordinators ----

    /// The node that coordinates `group`; it may be dead.
    pub(crate) fn coordinator(&self, group: &str) -> i32 {
        self.coordinators.node(group)
    }

    /// The node that coordinates the groups of a partition of the offsets topic; it may be dead.
    pub(crate) fn coordinator_at(&self, slot: i32) -> i32 {
        self.coordinators.node_at(slot)
    }

    /// Lets `node` coordinate `group` and those that share its slot.
    pub(crate) fn move_coordinator(&mut self, group: &str, node: i32, now: Instant) {
        if let Some(slot) = self.coordinators.move_to(group, node) {
            self.reload(|name| Coordinators::slot(name) == slot, Some(now));
        }
    }

    /// Stops or lets go on the timers of what `node` coordinates.
    pub(crate) fn freeze(&mut self, node: i32, frozen: bool) {
        self.coordinators.freeze(node, frozen);
    }

    /// `heir` takes over the groups of a dead node; without any living node they wait for its return.
    pub(crate) fn node_died(&mut self, node: i32, heir: Option<i32>, now: Instant) {
        let moved = self.coordinators.node_died(node, heir);
        self.reload(|name| moved.contains(&Coordinators::slot(name)), heir.map(|_| now));
    }

    /// A node is back: the groups that it still coordinates begin anew.
    pub(crate) fn node_returned(&mut self, node: i32, now: Instant) {
        let own = self.coordinators.slots_of(node);
        self.reload(|name| own.contains(&Coordinators::slot(name)), Some(now));
    }

    fn reload(&mut self, which: impl Fn(&str) -> bool, now: Option<Instant>) {
        let names: Vec<Str> = self.entries.keys().filter(|name| which(name)).cloned().collect();
        for name in names {
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.group.reload(now);
            }
            match now {
                Some(now) => self.file(now, &name),
                None => {
                    self.collect(&name);
                    self.unfile(&name);
                }
            }
        }
    }

    // ---- requests ----

    /// For a request that may have to wait.
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// The next answer to a request with a ticket.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn join(
        &mut self,
        now: Instant,
        group: Str,
        join: Join,
        new_id: impl FnOnce() -> String,
        ticket: Ticket,
    ) {
        let refusal = if group.is_empty() {
            Some(ErrorCode::INVALID_GROUP_ID)
        } else if group.len() > ID_MAX {
            Some(ErrorCode::UNKNOWN_SERVER_ERROR)
        } else if join.session_timeout < self.session_min || join.session_timeout > self.session_max {
            Some(ErrorCode::INVALID_SESSION_TIMEOUT)
        } else if !join.member_id.is_empty() && !self.entries.contains_key(&group) {
            Some(ErrorCode::UNKNOWN_MEMBER_ID)
        } else {
            None
        };
        if let Some(error) = refusal {
            self.outputs.push_back(Output::Joined(ticket, Joined::refused(error, join.member_id)));
            return;
        }
        let initial_delay = self.initial_delay;
        self.entries.entry(group.clone()).or_default().group.join(now, join, new_id, initial_delay, ticket);
        self.file(now, &group);
    }

    pub(crate) fn sync(
        &mut self,
        now: Instant,
        group: &str,
        caller: &Caller<'_>,
        protocol: (Option<&str>, Option<&str>),
        assignments: Vec<(Str, Bytes)>,
        ticket: Ticket,
    ) {
        match self.entries.get_mut(group) {
            Some(entry) => {
                entry.group.sync(now, caller, protocol, assignments, ticket);
                self.file(now, group);
            }
            None => {
                let refused = Synced::refused(ErrorCode::UNKNOWN_MEMBER_ID);
                self.outputs.push_back(Output::Synced(ticket, refused));
            }
        }
    }

    pub(crate) fn heartbeat(&mut self, now: Instant, group: &str, caller: &Caller<'_>) -> ErrorCode {
        let Some(entry) = self.entries.get_mut(group) else { return ErrorCode::UNKNOWN_MEMBER_ID };
        let code = entry.group.heartbeat(now, caller);
        self.file(now, group);
        code
    }

    pub(crate) fn leave(
        &mut self,
        now: Instant,
        group: &str,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> ErrorCode {
        let Some(entry) = self.entries.get_mut(group) else { return ErrorCode::UNKNOWN_MEMBER_ID };
        let code = entry.group.leave(now, member_id, instance_id);
        self.file(now, group);
        code
    }

    /// Checks that `caller` may commit; a consumer without group management creates its group by committing.
    pub(crate) fn admit_commit(&mut self, now: Instant, group: &Str, caller: &Caller<'_>) -> ErrorCode {
        if group.is_empty() {
            return ErrorCode::INVALID_GROUP_ID;
        }
        self.admit(now, group, caller, |group| group.admit_commit(now, caller))
    }

    /// Asks a group that may have to be created for the commit.
    fn admit(
        &mut self,
        now: Instant,
        group: &Str,
        caller: &Caller<'_>,
        ask: impl FnOnce(&mut Group) -> ErrorCode,
    ) -> ErrorCode {
        if group.len() > ID_MAX {
            return ErrorCode::UNKNOWN_SERVER_ERROR;
        }
        if !self.entries.contains_key(group) {
            if caller.generation >= 0 {
                return ErrorCode::ILLEGAL_GENERATION;
            }
            self.entries.insert(group.clone(), Entry::default());
        }
        let Some(entry) = self.entries.get_mut(group) else { return ErrorCode::UNKNOWN_MEMBER_ID };
        let code = ask(&mut entry.group);
        entry.idle_since = None;
        self.file(now, group);
        code
    }

    /// Stores an offset for a commit that was admitted.
    pub(crate) fn commit(&mut self, group: &str, topic: Str, partition: i32, committed: Committed) {
        self.written += 1;
        if let Some(entry) = self.entries.get_mut(group) {
            entry.offsets.insert((topic, partition), Committed { order: self.written, ..committed });
        }
    }

    // ---- transactions ----

    /// Whether a transaction has to be asked before it commits offsets of a group. An older epoch is refused.
    pub(crate) fn is_new_writer(&self, group: &str, producer_id: i64, epoch: i16) -> Result<bool, ErrorCode> {
        let slot = Coordinators::slot(group);
        self.writers.check_epoch(slot, producer_id, epoch)?;
        Ok(!self.writers.is_open(slot, producer_id, epoch))
    }

    /// Checks that `caller` may commit in a transaction (KIP-447): members by their generation, others by none.
    pub(crate) fn admit_pending(&mut self, now: Instant, group: &Str, caller: &Caller<'_>) -> ErrorCode {
        self.admit(now, group, caller, |group| group.admit_pending(caller))
    }

    /// Stores offsets of an open transaction, of a commit that was admitted. They count from its marker on.
    pub(crate) fn commit_pending(
        &mut self,
        now: Instant,
        group: &Str,
        (producer_id, epoch): (i64, i16),
        offsets: Vec<((Str, i32), Committed)>,
    ) {
        let Some(entry) = self.entries.get_mut(group).filter(|_| !offsets.is_empty()) else { return };
        let pending = entry.pending.entry(producer_id).or_default();
        for (part, committed) in offsets {
            self.written += 1;
            pending.insert(part, Committed { order: self.written, ..committed });
        }
        self.writers.wrote(Coordinators::slot(group), producer_id, epoch, group.clone(), now);
        self.file(now, group);
    }

    /// A marker ends a transaction in a partition of the offsets topic.
    pub(crate) fn end_transaction(
        &mut self,
        now: Instant,
        slot: i32,
        ending: &Ending,
    ) -> Result<(), ErrorCode> {
        for group in self.writers.ended(slot, ending, now)? {
            let Some(entry) = self.entries.get_mut(&group) else { continue };
            let pending = entry.pending.remove(&ending.producer_id).unwrap_or_default();
            for (part, committed) in pending.into_iter().filter(|_| ending.marker.commit) {
                let known = entry.offsets.get(&part);
                if known.is_none_or(|known| known.order < committed.order) {
                    entry.offsets.insert(part, committed);
                }
            }
            entry.idle_since = None;
            self.file(now, &group);
        }
        Ok(())
    }

    /// Forgets a committed offset.
    pub(crate) fn forget(&mut self, group: &str, topic: &Str, partition: i32) {
        if let Some(entry) = self.entries.get_mut(group) {
            entry.offsets.remove(&(topic.clone(), partition));
        }
    }

    pub(crate) fn get(&self, group: &str) -> Option<&Entry> {
        self.entries.get(group)
    }

    /// Name and entry of every group.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Str, &Entry)> {
        self.entries.iter()
    }

    /// Deletes a group without members.
    pub(crate) fn delete(&mut self, group: &str) -> ErrorCode {
        match self.entries.get(group) {
            None => ErrorCode::GROUP_ID_NOT_FOUND,
            Some(entry) if entry.group.phase != Phase::Empty => ErrorCode::NON_EMPTY_GROUP,
            Some(_) => {
                self.entries.remove(group);
                self.unfile(group);
                ErrorCode::NONE
            }
        }
    }

    pub(crate) fn topic_deleted(&mut self, topic: &str) {
        for entry in self.entries.values_mut() {
            entry.offsets.retain(|(name, _), _| name != topic);
            for pending in entry.pending.values_mut() {
                pending.retain(|(name, _), _| name != topic);
            }
        }
    }

    // ---- time ----

    /// Takes over what the group has to say.
    fn collect(&mut self, group: &str) {
        if let Some(entry) = self.entries.get_mut(group) {
            self.outputs.extend(std::iter::from_fn(|| entry.group.poll_output()));
        }
    }

    /// After whatever touched the group: takes over what it has to say, and keeps its next deadline findable.
    fn file(&mut self, now: Instant, group: &str) {
        self.collect(group);
        let retention = self.retention;
        let next = self.entries.get_mut(group).and_then(|entry| entry.next_deadline(now, retention));
        if self.filed.get(group).copied() == next {
            return;
        }
        self.unfile(group);
        if let Some(next) = next {
            let name = Str::from(group);
            self.deadlines.insert((next, name.clone()));
            self.filed.insert(name, next);
        }
    }

    fn unfile(&mut self, group: &str) {
        if let Some(old) = self.filed.remove(group) {
            self.deadlines.remove(&(old, Str::from(group)));
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.next_filed().map(|(when, _)| *when)
    }

    fn next_filed(&self) -> Option<&(Instant, Str)> {
        let runs = |(_, group): &&(Instant, Str)| !self.coordinators.is_frozen(group);
        if self.coordinators.any_frozen() { self.deadlines.iter().find(runs) } else { self.deadlines.first() }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((when, name)) = self.next_filed().cloned() {
            if when > now {
                break;
            }
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.group.handle_timeout(now);
                self.outputs.extend(std::iter::from_fn(|| entry.group.poll_output()));
                if entry.expiry(self.retention).is_some_and(|expiry| expiry <= now) {
                    self.entries.remove(&name);
                }
            }
            self.deadlines.remove(&(when, name.clone()));
            self.filed.remove(&name);
            self.file(now, &name);
        }
    }
}
