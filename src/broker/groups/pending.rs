//! Machine: offsets that a transaction commits to groups: kept apart until its marker comes, and who may write them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::ErrorCode;
use crate::broker::log::Ending;
use crate::wire::Str;

/// A producer that wrote nothing for so long is forgotten, as in the log of a partition.
const EXPIRES_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What a partition of the offsets topic knows of a producer.
#[derive(Debug)]
struct Writer {
    seen: Instant,
    epoch: i16,
    coordinator_epoch: i32,
    /// Groups with offsets of its open transaction.
    groups: BTreeSet<Str>,
}

/// Producers by partition of the offsets topic and id.
#[derive(Debug, Default)]
pub(super) struct Writers {
    known: BTreeMap<(i32, i64), Writer>,
    prune_at: usize,
}

impl Writers {
    /// Why this epoch may not write.
    pub(super) fn check_epoch(&self, slot: i32, producer_id: i64, epoch: i16) -> Result<(), ErrorCode> {
        match self.known.get(&(slot, producer_id)) {
            Some(writer) if epoch < writer.epoch => Err(ErrorCode::INVALID_PRODUCER_EPOCH),
            _ => Ok(()),
        }
    }

    /// True if a transaction of this producer and epoch has written here.
    pub(super) fn is_open(&self, slot: i32, producer_id: i64, epoch: i16) -> bool {
        let known = self.known.get(&(slot, producer_id));
        known.is_some_and(|writer| writer.epoch == epoch && !writer.groups.is_empty())
    }

    fn entry(&mut self, slot: i32, producer_id: i64, epoch: i16, now: Instant) -> &mut Writer {
        if self.known.len() >= self.prune_at {
            self.known.retain(|_, writer| {
                !writer.groups.is_empty() || now.saturating_duration_since(writer.seen) < EXPIRES_AFTER
            });
            self.prune_at = (self.known.len() * 2).max(16);
        }
        let writer = self.known.entry((slot, producer_id)).or_insert_with(|| Writer {
            seen: now,
            epoch,
            coordinator_epoch: -1,
            groups: BTreeSet::new(),
        });
        writer.seen = now;
        writer.epoch = epoch;
        writer
    }

    /// Notes that offsets of a group were written.
    pub(super) fn wrote(&mut self, slot: i32, producer_id: i64, epoch: i16, group: Str, now: Instant) {
        self.entry(slot, producer_id, epoch, now).groups.insert(group);
    }

    /// Notes a marker. Returns the groups that it is about.
    pub(super) fn ended(
        &mut self,
        slot: i32,
        ending: &Ending,
        now: Instant,
    ) -> Result<BTreeSet<Str>, ErrorCode> {
        let epoch = ending.producer_epoch;
        if let Some(writer) = self.known.get(&(slot, ending.producer_id)) {
            let open = !writer.groups.is_empty() && epoch != i16::MAX;
            if epoch < writer.epoch || (ending.bumps && epoch == writer.epoch && open) {
                return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
            }
            if ending.marker.coordinator_epoch < writer.coordinator_epoch {
                return Err(ErrorCode::TRANSACTION_COORDINATOR_FENCED);
            }
        }
        let writer = self.entry(slot, ending.producer_id, epoch, now);
        writer.coordinator_epoch = ending.marker.coordinator_epoch;
        Ok(std::mem::take(&mut writer.groups))
    }
}
