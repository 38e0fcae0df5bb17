//! Machine: the transaction coordinator (KIP-98): which node coordinates which transactional id, the ids, time-outs, and
//! which transactions need their markers written.
//!
//! What Kafka keeps in `__transaction_state` is kept here by every node alike: a coordinator that takes over goes on where the
//! last one was, in an epoch of its own, and markers that are not written yet are written by it.

mod transaction;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::ErrorCode;
use crate::wire::Str;

pub(crate) use transaction::{End, Identity, Moment, Part, Phase, Transaction, Welcome, Written};

use super::coordinators::Coordinators;
use super::settings::Settings;

/// A transactional id that nobody used for so long is forgotten, Kafka's `transactional.id.expiration.ms`.
const EXPIRES_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The topic whose partitions hold the offsets of groups. It takes part in a transaction that commits offsets.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The transaction of this id has ended: its markers are to be written.
    WriteMarkers(Str),
}

/// All transactional ids of the cluster.
#[derive(Debug)]
pub(crate) struct Transactions {
    entries: BTreeMap<Str, Transaction>,
    coordinators: Coordinators,
    deadlines: BTreeSet<(Instant, Str)>,
    /// Deadline under which an id is filed in `deadlines`.
    filed: BTreeMap<Str, Instant>,
    outputs: VecDeque<Output>,
    next_producer_id: i64,
    /// The finalized feature `transaction.version`: 2 ends transactions in new epochs, also those that time out.
    version: i16,
    timeout_max: Duration,
}

impl Transactions {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            entries: BTreeMap::new(),
            coordinators: Coordinators::new(settings),
            deadlines: BTreeSet::new(),
            filed: BTreeMap::new(),
            outputs: VecDeque::new(),
            next_producer_id: 1000,
            version: settings.transaction_version,
            timeout_max: settings.transaction_timeout_max,
        }
    }

    pub(crate) fn new_producer_id(&mut self) -> i64 {
        next(&mut self.next_producer_id)
    }

    pub(crate) fn version(&self) -> i16 {
        self.version
    }

    pub(crate) fn set_version(&mut self, version: i16) {
        self.version = version;
    }

    // ---- coordinators ----

    /// The node that coordinates `id`; it may be dead.
    pub(crate) fn coordinator(&self, id: &str) -> i32 {
        self.coordinators.node(id)
    }

    /// How often that has changed; markers carry it.
    pub(crate) fn coordinator_epoch(&self, id: &str) -> i32 {
        self.coordinators.epoch(id)
    }

    /// Lets `node` coordinate `id` and those that share its partition.
    pub(crate) fn move_coordinator(&mut self, id: &str, node: i32) {
        self.coordinators.move_to(id, node);
    }

    /// Stops or lets go on the timers of what `node` coordinates.
    pub(crate) fn freeze(&mut self, node: i32, frozen: bool) {
        self.coordinators.freeze(node, frozen);
    }

    /// `heir` takes over from a dead node; without any living node everything waits for its return.
    pub(crate) fn node_died(&mut self, node: i32, heir: Option<i32>) {
        self.coordinators.node_died(node, heir);
        self.coordinators.freeze(node, heir.is_none());
    }

    /// A node is back.
    pub(crate) fn node_returned(&mut self, node: i32) {
        self.coordinators.freeze(node, false);
    }

    // ---- requests ----

    /// A producer introduces itself. What its predecessor left open is aborted.
    pub(crate) fn init(
        &mut self,
        id: &Str,
        expected: Option<Identity>,
        timeout: Duration,
        at: Moment,
    ) -> Result<Welcome, ErrorCode> {
        if timeout.is_zero() || timeout > self.timeout_max {
            return Err(ErrorCode::INVALID_TRANSACTION_TIMEOUT);
        }
        let Self { entries, next_producer_id, .. } = self;
        if !entries.contains_key(id) {
            entries.insert(id.clone(), Transaction::new(next(next_producer_id), timeout, at));
        }
        let Some(entry) = entries.get_mut(id) else { return Err(ErrorCode::UNKNOWN_SERVER_ERROR) };
        let welcome = entry.init(expected, timeout, || next(next_producer_id), at)?;
        if welcome == Welcome::Wait {
            entry.fence(self.version >= 2, || next(&mut self.next_producer_id), at);
            self.outputs.push_back(Output::WriteMarkers(id.clone()));
        }
        self.file(id);
        Ok(welcome)
    }

    /// Adds partitions to the transaction of an id.
    pub(crate) fn add(
        &mut self,
        id: &Str,
        caller: Identity,
        parts: BTreeSet<Part>,
        bumps: bool,
        at: Moment,
    ) -> Result<(), ErrorCode> {
        let entry = self.entries.get_mut(id).ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)?;
        entry.add(caller, parts, bumps, at)?;
        self.file(id);
        Ok(())
    }

    /// Whether a partition takes part in the transaction of an id.
    pub(crate) fn verify(&self, id: &str, caller: Identity, part: &Part) -> Result<(), ErrorCode> {
        self.entries.get(id).ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)?.verify(caller, part)
    }

    /// Ends the transaction of an id. Returns the identity that its next one has.
    pub(crate) fn end(
        &mut self,
        id: &Str,
        caller: Identity,
        end: End,
        at: Moment,
    ) -> Result<Identity, ErrorCode> {
        let Self { entries, next_producer_id, .. } = self;
        let entry = entries.get_mut(id).ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)?;
        let (identity, begun) = entry.end(caller, end, || next(next_producer_id), at)?;
        if begun {
            self.outputs.push_back(Output::WriteMarkers(id.clone()));
        }
        self.file(id);
        Ok(identity)
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Transaction> {
        self.entries.get(id)
    }

    /// Every transactional id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Str, &Transaction)> {
        self.entries.iter()
    }

    // ---- markers ----

    /// Notes that a marker was written to a partition, or that none is needed any more.
    pub(crate) fn marked(&mut self, id: &str, part: &Part, written: Option<Written>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        match (written, entry.parts.get_mut(part)) {
            (Some(written), Some(place)) => *place = Some(written),
            (None, Some(_)) => drop(entry.parts.remove(part)),
            (_, None) => {}
        }
    }

    /// Completes the transaction of an id if no marker of it is missing. Returns whether it is complete.
    pub(crate) fn complete(&mut self, id: &str, at: Moment) -> bool {
        let Some(entry) = self.entries.get_mut(id) else { return true };
        if !entry.parts.is_empty() {
            return false;
        }
        entry.complete(at);
        self.file(id);
        true
    }

    /// What is to be done next.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    // ---- time ----

    /// Keeps the next deadline of an id findable.
    fn file(&mut self, id: &str) {
        let next = self.entries.get(id).and_then(|entry| match entry.phase {
            Phase::Ongoing => entry.started?.now.checked_add(entry.timeout),
            _ if entry.is_ending() => None,
            _ => entry.updated.now.checked_add(EXPIRES_AFTER),
        });
        if self.filed.get(id).copied() == next {
            return;
        }
        self.unfile(id);
        if let Some(next) = next {
            let id = Str::from(id);
            self.deadlines.insert((next, id.clone()));
            self.filed.insert(id, next);
        }
    }

    fn unfile(&mut self, id: &str) {
        if let Some(old) = self.filed.remove(id) {
            self.deadlines.remove(&(old, Str::from(id)));
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.next_filed().map(|(when, _)| *when)
    }

    fn next_filed(&self) -> Option<&(Instant, Str)> {
        let runs = |(_, id): &&(Instant, Str)| !self.coordinators.is_frozen(id);
        if self.coordinators.any_frozen() { self.deadlines.iter().find(runs) } else { self.deadlines.first() }
    }

    /// Aborts transactions that were open for too long, and forgets ids that nobody uses.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((when, id)) = self.next_filed().cloned() {
            if when > now {
                break;
            }
            self.unfile(&id);
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if entry.phase == Phase::Ongoing {
                let at = entry.updated.at(now);
                entry.fence(self.version >= 2, || next(&mut self.next_producer_id), at);
                self.outputs.push_back(Output::WriteMarkers(id));
            } else {
                self.entries.remove(&id);
            }
        }
    }
}

fn next(producer_id: &mut i64) -> i64 {
    *producer_id += 1;
    *producer_id
}
