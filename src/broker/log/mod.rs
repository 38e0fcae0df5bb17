//! The log of one replica: an ordered run of shared batches and the history of leader epochs (KIP-101).
//!
//! Never assigns offsets and never decides what is committed; the partition does.

mod batch;
mod markers;
mod open;
mod producers;

use std::collections::VecDeque;
use std::sync::Arc;

#[cfg(test)]
pub(crate) use batch::tests::batch as test_batch;
pub(crate) use batch::{BatchHead, Depth, Examined, HEADER_LEN, Refusal, StoredBatch, examine, parse};
#[cfg(test)]
pub(crate) use batch::{check_crc, check_records};
pub(crate) use markers::Marker;
pub(crate) use open::Aborted;
pub(crate) use producers::{Admission, Ending, Producers};

/// One replica's log. `start <= end`; batches are adjacent or separated by gaps, never overlapping.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    batches: VecDeque<Arc<StoredBatch>>,
    start: i64,
    end: i64,
    bytes: usize,
    /// First offset of each leader epoch, ascending in both.
    epochs: Vec<(i32, i64)>,
}

impl Log {
    /// First offset that can be read.
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// Offset of the next record.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// Bytes of the kept batches.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn batches(&self) -> impl DoubleEndedIterator<Item = &Arc<StoredBatch>> {
        self.batches.iter()
    }

    /// Appends a batch whose base offset is at or behind the end.
    pub(crate) fn append(&mut self, batch: Arc<StoredBatch>) {
        debug_assert!(batch.base_offset >= self.end);
        self.start_epoch(batch.leader_epoch, batch.base_offset);
        self.end = batch.last_offset + 1;
        self.bytes += batch.len();
        self.batches.push_back(batch);
    }

    /// Moves the end by `records` without keeping anything; for the discard mode.
    pub(crate) fn skip(&mut self, records: i64) {
        self.end += records;
        self.start = self.end;
    }

    /// Notes that `epoch` begins at `offset`, as a leader does when it is elected.
    pub(crate) fn start_epoch(&mut self, epoch: i32, offset: i64) {
        if self.epochs.last().is_none_or(|(last, _)| *last < epoch) {
            self.epochs.push((epoch, offset));
        }
    }

    /// Batches from the one that holds `from` up to but excluding `limit`, at most `max_bytes`, but at least one if
    /// `at_least_one`.
    pub(crate) fn read(
        &self,
        from: i64,
        limit: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> (Vec<Arc<StoredBatch>>, usize) {
        let first = self.position(from);
        let mut taken = Vec::new();
        let mut bytes = 0usize;
        for batch in self.batches.range(first..) {
            let total = bytes.saturating_add(batch.len());
            if batch.last_offset >= limit || (total > max_bytes && !(taken.is_empty() && at_least_one)) {
                break;
            }
            bytes = total;
            taken.push(batch.clone());
        }
        (taken, bytes)
    }

    /// Copies from `source` what this log lacks up to and excluding `limit`. Both must agree on what they share.
    pub(crate) fn catch_up(&mut self, source: &Self, limit: i64) -> usize {
        if self.end < source.start {
            self.clear(source.start);
            self.epochs = source.epochs.iter().copied().filter(|(_, at)| *at <= source.start).collect();
        }
        let first = source.position(self.end);
        let before = self.bytes;
        for batch in source.batches.range(first..) {
            if batch.last_offset >= limit {
                break;
            }
            self.append(batch.clone());
        }
        if self.end == source.end {
            self.epochs.clone_from(&source.epochs);
        }
        self.bytes - before
    }

    /// Drops every batch at or behind `offset`; returns the dropped bytes.
    pub(crate) fn truncate(&mut self, offset: i64) -> usize {
        let before = self.bytes;
        while let Some(last) = self.batches.back() {
            if last.last_offset < offset {
                break;
            }
            self.end = last.base_offset;
            self.bytes -= last.len();
            self.batches.pop_back();
        }
        self.end = self.end.min(offset).max(self.start);
        self.epochs.retain(|(_, at)| *at < self.end);
        before - self.bytes
    }

    /// Forgets everything and begins again at `offset`.
    fn clear(&mut self, offset: i64) {
        self.batches.clear();
        self.bytes = 0;
        self.start = offset;
        self.end = offset;
        self.epochs.clear();
    }

    /// Moves the start to `offset` (DeleteRecords, retention); returns the dropped bytes.
    pub(crate) fn advance_start(&mut self, offset: i64) -> usize {
        let before = self.bytes;
        self.start = self.start.max(offset.min(self.end));
        while let Some(first) = self.batches.front() {
            if first.last_offset >= self.start {
                break;
            }
            self.bytes -= first.len();
            self.batches.pop_front();
        }
        before - self.bytes
    }

    /// The largest epoch of this log not above `epoch`, and the offset at which it ended (KIP-101, KIP-279).
    pub(crate) fn end_of_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        let behind = self.epochs.partition_point(|(known, _)| *known <= epoch);
        let (found, _) = *self.epochs.get(behind.checked_sub(1)?)?;
        let end = self.epochs.get(behind).map_or(self.end, |(_, start)| *start);
        Some((found, end))
    }

    /// The last epoch noted.
    pub(crate) fn last_epoch(&self) -> Option<i32> {
        self.epochs.last().map(|(epoch, _)| *epoch)
    }

    /// Epoch of the batch that holds `offset`, for answers that name it.
    pub(crate) fn epoch_at(&self, offset: i64) -> i32 {
        let behind = self.epochs.partition_point(|(_, start)| *start <= offset);
        behind.checked_sub(1).and_then(|at| self.epochs.get(at)).map_or(-1, |(epoch, _)| *epoch)
    }

    /// The offset up to which this log agrees with `leader`.
    pub(crate) fn common_end(&self, leader: &Self) -> i64 {
        let mut epoch = match self.last_epoch() {
            Some(epoch) => epoch,
            None => return self.end.min(leader.end),
        };
        loop {
            let Some((found, leader_end)) = leader.end_of_epoch(epoch) else {
                return leader.start.min(self.end);
            };
            let own_end = self.end_of_epoch(found);
            match own_end {
                Some((own, end)) if own == found => return end.min(leader_end).min(self.end),
                Some((own, _)) => epoch = own,
                None => return leader.start.min(self.end),
            }
        }
    }

    fn position(&self, offset: i64) -> usize {
        self.batches.partition_point(|batch| batch.last_offset < offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(log: &mut Log, epoch: i32, records: i32) {
        let bytes = test_batch(records, (-1, -1, -1), true);
        let head = parse(&bytes).unwrap();
        let batch = StoredBatch::place(&bytes, head, log.end(), epoch, None);
        log.append(Arc::new(batch));
    }

    #[test]
    fn reading_starts_at_the_batch_that_holds_the_offset() {
        let mut log = Log::default();
        for _ in 0..4 {
            push(&mut log, 0, 10);
        }
        let (found, _) = log.read(15, 40, usize::MAX, false);
        assert_eq!(found.iter().map(|batch| batch.base_offset).collect::<Vec<_>>(), [10, 20, 30]);
        let (found, _) = log.read(15, 30, usize::MAX, false);
        assert_eq!(found.len(), 2);
        assert_eq!(log.read(0, 40, 1, false).0.len(), 0);
        assert_eq!(log.read(0, 40, 1, true).0.len(), 1);
    }

    #[test]
    fn the_start_moves_over_whole_batches_only_in_memory() {
        let mut log = Log::default();
        push(&mut log, 0, 10);
        push(&mut log, 0, 10);
        assert_eq!(log.advance_start(5), 0);
        assert_eq!((log.start(), log.read(5, 20, 1, true).0[0].base_offset), (5, 0));
        assert!(log.advance_start(12) > 0);
        assert_eq!((log.start(), log.end()), (12, 20));
        log.advance_start(100);
        assert_eq!((log.start(), log.bytes()), (20, 0));
    }

    #[test]
    fn divergent_logs_agree_on_their_common_end() {
        let mut leader = Log::default();
        push(&mut leader, 0, 10);
        let mut follower = leader.clone();
        push(&mut follower, 0, 5);
        push(&mut follower, 0, 5);
        push(&mut leader, 2, 3);
        push(&mut leader, 2, 3);
        assert_eq!(leader.end_of_epoch(0), Some((0, 10)));
        assert_eq!(leader.end_of_epoch(1), Some((0, 10)));
        assert_eq!(leader.end_of_epoch(2), Some((2, 16)));
        let common = follower.common_end(&leader);
        assert_eq!(common, 10);
        follower.truncate(common);
        follower.catch_up(&leader, i64::MAX);
        assert_eq!(follower.end(), 16);
        assert_eq!(follower.end_of_epoch(0), Some((0, 10)));
    }

    #[test]
    fn a_follower_behind_the_leaders_start_begins_again() {
        let mut leader = Log::default();
        push(&mut leader, 0, 10);
        let mut follower = leader.clone();
        push(&mut leader, 0, 10);
        push(&mut leader, 0, 10);
        leader.advance_start(20);
        follower.catch_up(&leader, i64::MAX);
        assert_eq!((follower.start(), follower.end()), (20, 30));
    }
}
