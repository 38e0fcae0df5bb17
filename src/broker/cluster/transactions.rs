//! Machine: transactions where they touch the cluster: batches that must belong to one, and the markers that end them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::retention::Aged;
use super::{Append, State, Step};
use crate::ErrorCode;
use crate::broker::coordinators::Coordinators;
use crate::broker::groups::{Caller, Committed};
use crate::broker::log::{BatchHead, Ending, Log, Marker, Refusal, StoredBatch, parse};
use crate::broker::partition::Partition;
use crate::broker::settings::{Mode, TRANSACTION_VERSION_MAX};
use crate::broker::transactions::{
    End, Identity, Moment, OFFSETS_TOPIC, Output, Part, Phase, Transaction, Welcome, Written,
};
use crate::wire::{Str, Uuid};

/// How long after a failed try the rest of the markers is tried again.
const MARKER_RETRY: Duration = Duration::from_millis(20);

/// From this version on, Produce adds its partitions to the transaction by itself (KIP-890).
const PRODUCE_ADDS: i16 = 12;
/// From this version on, Produce may be told to abort.
const PRODUCE_ABORTABLE: i16 = 11;
/// The same of TxnOffsetCommit.
pub(crate) const COMMIT_ADDS: i16 = 5;
const COMMIT_ABORTABLE: i16 = 4;

/// Who produces in which transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transactional<'a> {
    pub(crate) id: &'a Str,
    /// Version of Produce.
    pub(crate) version: i16,
}

impl Transactional<'_> {
    /// True for a client of version 2 of the protocol.
    pub(super) fn adds(self) -> bool {
        self.version >= PRODUCE_ADDS
    }
}

/// Where a marker stands.
enum Marking {
    /// It is committed, or not needed.
    Done,
    Written(Written),
    /// Nobody can write it at present.
    Later,
}

impl State {
    // ---- requests ----

    /// A producer introduces itself to its coordinator.
    pub(crate) fn init_transactional(
        &mut self,
        id: &Str,
        expected: Option<Identity>,
        timeout: Duration,
        at: Moment,
    ) -> Result<Welcome, ErrorCode> {
        let welcome = self.transactions.init(id, expected, timeout, at);
        self.settle_transactions(at.now);
        welcome
    }

    /// A producer ends its transaction.
    pub(crate) fn end_transaction(
        &mut self,
        id: &Str,
        caller: Identity,
        end: End,
        at: Moment,
    ) -> Result<Identity, ErrorCode> {
        let ended = self.transactions.end(id, caller, end, at);
        self.settle_transactions(at.now);
        ended
    }

    /// Whether a batch may be appended: unless its transaction is open here, it must know the partition, or learns of it now.
    /// Returns true if a producer of whom nothing is known must begin with sequence 0.
    pub(super) fn join_transaction(
        &mut self,
        attempt: &Append<'_>,
        transactional: Transactional<'_>,
        head: &BatchHead,
        now: Instant,
    ) -> Result<bool, Refusal> {
        let Append { node, topic: name, partition: index, wall, .. } = *attempt;
        if !head.is_transactional() || head.producer_id < 0 {
            return Ok(false);
        }
        let Some(topic) = self.topic_at(node, name) else { return Ok(false) };
        let Some(partition) = topic.partition(index).filter(|partition| topic.is_led_by(node, partition))
        else {
            return Ok(false);
        };
        partition.producers.check_epoch(head)?;
        if partition.producers.is_open(head.producer_id, head.producer_epoch) {
            return Ok(false);
        }
        if !self.is_running(self.transactions.coordinator(transactional.id)) {
            return Err(unverified(ErrorCode::NETWORK_EXCEPTION));
        }
        let (part, at) = ((Str::from(name), index), Moment { now, wall });
        let caller = Identity { producer_id: head.producer_id, epoch: head.producer_epoch };
        let asked = if transactional.adds() {
            self.transactions.add(transactional.id, caller, BTreeSet::from([part]), true, at)
        } else {
            self.transactions.verify(transactional.id, caller, &part)
        };
        asked.map(|()| transactional.adds()).map_err(|code| match code {
            ErrorCode::CONCURRENT_TRANSACTIONS if !transactional.adds() => unverified(code),
            ErrorCode::TRANSACTION_ABORTABLE if transactional.version < PRODUCE_ABORTABLE => {
                Refusal::new(ErrorCode::INVALID_TXN_STATE, "Partition was not added to the transaction")
            }
            _ => {
                let code = fenced_here(code);
                Refusal::new(code, code.to_string())
            }
        })
    }

    /// Offsets that a transaction commits to a group. `version` is that of TxnOffsetCommit.
    pub(crate) fn commit_in_transaction(
        &mut self,
        version: i16,
        (id, group): (&Str, &Str),
        by: Identity,
        caller: &Caller<'_>,
        offsets: Vec<(Part, Committed)>,
        at: Moment,
    ) -> Result<(), ErrorCode> {
        if self.groups.is_new_writer(group, by.producer_id, by.epoch)? {
            if !self.is_running(self.transactions.coordinator(id)) {
                return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
            }
            let part = offsets_part(group);
            let asked = if version >= COMMIT_ADDS {
                self.transactions.add(id, by, BTreeSet::from([part]), true, at)
            } else {
                self.transactions.verify(id, by, &part)
            };
            asked.map_err(|code| match code {
                ErrorCode::TRANSACTION_ABORTABLE if version < COMMIT_ABORTABLE => {
                    ErrorCode::INVALID_TXN_STATE
                }
                code => fenced_here(code),
            })?;
        }
        match self.groups.admit_pending(at.now, group, caller) {
            ErrorCode::NONE => {
                self.groups.commit_pending(at.now, group, (by.producer_id, by.epoch), offsets);
                Ok(())
            }
            code => Err(code),
        }
    }

    // ---- markers ----

    /// Does what the coordinators ask for.
    pub(super) fn settle_transactions(&mut self, now: Instant) {
        while let Some(Output::WriteMarkers(id)) = self.transactions.poll_output() {
            if self.marker_lag.is_zero() {
                self.write_markers(&id, now);
            } else {
                self.mark_after(self.marker_lag, id, now);
            }
        }
    }

    /// How long after the end of a transaction its markers are written. `Duration::MAX` stops that.
    pub(crate) fn set_marker_lag(&mut self, lag: Duration, now: Instant) {
        self.marker_lag = lag;
        self.marking.clear();
        let ending = self.transactions.iter().filter(|(_, entry)| entry.is_ending());
        let ending: Vec<Str> = ending.map(|(id, _)| id.clone()).collect();
        for id in ending {
            self.mark_after(lag, id, now);
        }
    }

    fn mark_after(&mut self, lag: Duration, id: Str, now: Instant) {
        if let Some(due) = now.checked_add(lag).filter(|_| lag != Duration::MAX) {
            self.marking.insert(id.clone(), due);
            self.at(due, Step::Mark { id });
        }
    }

    /// Markers of `id` are due, unless that was changed meanwhile.
    pub(super) fn markers_due(&mut self, id: &Str, now: Instant) {
        if self.marking.get(id) == Some(&now) {
            self.write_markers(id, now);
        }
    }

    /// Writes what can be written of the markers of a transaction, and completes it once all are committed.
    fn write_markers(&mut self, id: &Str, now: Instant) {
        self.marking.remove(id);
        let Some(entry) = self.transactions.get(id).filter(|entry| entry.is_ending()) else { return };
        let (entry, coordinator) = (entry.clone(), self.transactions.coordinator(id));
        let at = entry.updated.at(now);
        if self.is_running(coordinator) {
            let ending = ending_of(&entry, self.transactions.coordinator_epoch(id));
            for (part, written) in &entry.parts {
                match self.mark(part, *written, &ending, at) {
                    Marking::Done => self.transactions.marked(id, part, None),
                    Marking::Written(written) => self.transactions.marked(id, part, Some(written)),
                    Marking::Later => {}
                }
            }
            if self.transactions.complete(id, at) {
                return;
            }
        }
        self.mark_after(MARKER_RETRY, id.clone(), now);
    }

    fn mark(&mut self, part: &Part, written: Option<Written>, ending: &Ending, at: Moment) -> Marking {
        let (topic, index) = part;
        if *topic == OFFSETS_TOPIC {
            if !self.is_running(self.groups.coordinator_at(*index)) {
                return Marking::Later;
            }
            // An error means that somebody else has ended it.
            let _ = self.groups.end_transaction(at.now, *index, ending);
            return Marking::Done;
        }
        let Some(partition) = self.topic(topic).and_then(|topic| topic.partition(*index)) else {
            return Marking::Done;
        };
        let leader = partition.leader;
        if !self.is_running(leader) {
            return Marking::Later;
        }
        // What an older leader wrote may have been cut off.
        let current = written.filter(|written| written.leader_epoch == partition.leader_epoch);
        let written = match current {
            Some(written) => written,
            None => match self.write_marker(leader, part, ending, at) {
                Ok(written) => written,
                Err(_) => return Marking::Done,
            },
        };
        let committed = self.topic(topic).and_then(|topic| topic.partition(*index));
        if committed.is_none_or(|partition| partition.high_watermark >= written.end) {
            Marking::Done
        } else {
            Marking::Written(written)
        }
    }

    /// Appends a marker to the log of a partition that `node` leads.
    pub(crate) fn write_marker(
        &mut self,
        node: i32,
        (name, index): &Part,
        ending: &Ending,
        at: Moment,
    ) -> Result<Written, ErrorCode> {
        let counting = self.settings.mode != Mode::Store;
        let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        let topic = self.topics.get_mut(name).ok_or(unknown)?;
        let topic_id = topic.id;
        let partition = topic.partition_mut(*index).ok_or(unknown)?;
        if partition.leader != node {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        partition.producers.admit_marker(ending)?;
        let offset = partition.leader_log().map_or(0, Log::end);
        let written = Written { end: offset + 1, leader_epoch: partition.leader_epoch };
        partition.producers.ended(ending, offset, at.wall, at.now);
        if counting {
            partition.count_only(1);
            return Ok(written);
        }
        let bytes = ending.marker.write(ending.producer_id, ending.producer_epoch, at.wall);
        let head = parse(&bytes).map_err(|refusal| refusal.code)?;
        let stored = Arc::new(StoredBatch::place(&bytes, head, offset, partition.leader_epoch, None));
        let grown = stored.len() as isize;
        self.keep(node, topic_id, *index, stored);
        self.grew(node, grown);
        self.replicate(topic_id, *index, at.now);
        self.apply_retention();
        Ok(written)
    }

    /// Appends to the log of a leader, and notes the age of what was appended.
    pub(super) fn keep(&mut self, node: i32, topic: Uuid, index: i32, batch: Arc<StoredBatch>) {
        let end = batch.last_offset + 1;
        let Some(partition) = self.partition_by_id(topic, index) else { return };
        if let Some(log) = partition.logs.get_mut(&node) {
            log.append(batch);
        }
        let replicas = partition.replicas.clone();
        for replica in replicas {
            if let Some(node) = self.nodes.get_mut(&replica) {
                node.age.push_back(Aged { topic, partition: index, end });
            }
        }
        self.prune_age();
    }

    // ---- features ----

    /// Sets the finalized feature `transaction.version`. Returns false if there is no such version.
    pub(crate) fn set_transaction_version(&mut self, version: i16) -> bool {
        let known = (0..=TRANSACTION_VERSION_MAX).contains(&version);
        if known && self.transactions.version() != version {
            self.transactions.set_version(version);
            self.features_epoch += 1;
        }
        known
    }
}

/// The partition of the offsets topic that takes part when offsets of a group are committed.
pub(crate) fn offsets_part(group: &str) -> Part {
    (Str::from_static(OFFSETS_TOPIC), Coordinators::slot(group))
}

fn ending_of(entry: &Transaction, coordinator_epoch: i32) -> Ending {
    Ending {
        producer_id: entry.identity.producer_id,
        producer_epoch: entry.identity.epoch,
        marker: Marker { commit: entry.phase == Phase::PrepareCommit, coordinator_epoch },
        bumps: entry.bumps,
    }
}

/// Leaders name a fenced producer so (KIP-588): only its coordinator knows whether it is fenced for ever.
fn fenced_here(code: ErrorCode) -> ErrorCode {
    if code == ErrorCode::PRODUCER_FENCED { ErrorCode::INVALID_PRODUCER_EPOCH } else { code }
}

/// Kafka's way to make every client try again.
fn unverified(code: ErrorCode) -> Refusal {
    Refusal::new(
        ErrorCode::NOT_ENOUGH_REPLICAS,
        format!("Unable to verify the partition has been added to the transaction. Underlying error: {code}"),
    )
}

impl Partition {
    /// Up to where a reader of committed records may read.
    pub(crate) fn last_stable_offset(&self) -> i64 {
        self.producers.last_stable_offset(self.log_start(), self.high_watermark)
    }
}
