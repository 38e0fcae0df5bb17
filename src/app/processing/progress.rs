//! Machine: how far one assignment of a partition is done, and what the cluster may be told of it.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// The records of one assignment, batch by batch, as the coordinator needs them. Records are indexes in the held batch.
///
/// What a coordinator does with a batch does not depend on what it is told of it at the end: an offset below which all is
/// done ([`Contiguous`]), or one day an acknowledgement for each record (share groups). That is [`Done`](Self::Done).
pub(crate) trait Progress: Debug + Default {
    /// What the cluster is told.
    type Done: Debug;

    /// A batch came: nothing of it is done yet. `offsets` ascend; `next_offset` follows the batch (it may lie beyond the
    /// last record when compaction or control records left a gap); `lanes` names the lane of each record.
    fn begin(&mut self, offsets: Vec<i64>, next_offset: i64, lanes: Option<Vec<u32>>);

    /// The batch is done with.
    fn finish(&mut self);

    /// Reading goes on elsewhere: nothing that is known here counts there.
    fn reset(&mut self);

    /// Offset of a record.
    fn offset(&self, record: u32) -> i64;

    /// True if the batch has several lanes.
    fn is_split(&self) -> bool;

    /// The lane that handles a record.
    fn lane(&self, record: u32) -> u32;

    /// Records from this one on were never handed out.
    fn started(&self) -> u32;

    /// Hands a record to a lane, which may be another than before.
    fn start(&mut self, record: u32, lane: u32);

    /// Records from this one on were not handed out after all.
    fn take_back(&mut self, from: u32);

    /// A handler succeeded on a record.
    fn handled(&mut self, record: u32);

    /// A record went elsewhere and is not to be handled again.
    fn left(&mut self, record: u32);

    /// One record counts as consumed.
    fn mark_one(&mut self, record: u32);

    /// Everything up to `offset` that was handed to `lane` counts as consumed, of earlier batches too.
    fn mark(&mut self, lane: u32, offset: i64);

    /// What `lane` handled from `offset` on and nobody marked is to be handled again.
    fn reopen(&mut self, lane: u32, offset: i64);

    /// The records still to be handled, in order.
    fn pending(&self) -> impl Iterator<Item = u32> + '_;

    /// True if a record is still to be handled.
    fn is_pending(&self, record: u32) -> bool;

    /// What the cluster may be told, if that is more than this has returned before.
    fn take_done(&mut self) -> Option<Self::Done>;

    /// What it could be told if this record were marked too.
    fn done_with(&self, record: u32) -> Self::Done;

    /// The offset below which everything is done when this was told.
    fn end(done: &Self::Done) -> i64;
}

/// State of one record of the held batch; ordered by how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// To be handed to a handler (again).
    Pending,
    /// It went elsewhere without counting as consumed; the next mark behind it passes it.
    Left,
    /// A handler succeeded on it, but nobody marked it.
    Handled,
    /// Marked as consumed: its offset may be committed once all before it are marked too.
    Marked,
}

/// What a lane has not marked of batches that are gone: none of its records below `from`, perhaps some up to `last`.
#[derive(Clone, Copy, Debug)]
struct Rest {
    from: i64,
    last: i64,
}

/// Progress as one offset: the only place that knows which one may be committed.
///
/// A mark says that its lane has done a record and all before it *of that lane*. What a lane has not marked holds the
/// offset back, whichever batch it was in: of batches that are gone, a lane's span of unmarked offsets is kept.
///
/// Invariants: `pending_from <= len`, every record of the held batch before it is not pending; `marked_to <= len`, every
/// record before it is marked; those from `started` on were never handed out.
#[derive(Debug, Default)]
pub(crate) struct Contiguous {
    offsets: Vec<i64>,
    states: Vec<State>,
    /// Which lane handles each record, where there are several.
    lanes: Option<Vec<u32>>,
    next_offset: i64,
    pending_from: usize,
    marked_to: usize,
    started: usize,
    rests: BTreeMap<u32, Rest>,
    /// The first record of batches that are gone that went elsewhere, if nothing behind it was marked.
    left: Option<i64>,
    /// Up to here nothing is progress of ours: where reading began, or what was committed before.
    committed: Option<i64>,
}

impl Progress for Contiguous {
    type Done = i64;

    fn begin(&mut self, offsets: Vec<i64>, next_offset: i64, lanes: Option<Vec<u32>>) {
        debug_assert!(offsets.is_sorted() && offsets.last().is_none_or(|&last| last < next_offset));
        let first = offsets.first().copied().unwrap_or(next_offset - 1);
        if first < self.next_offset {
            // The log was truncated and is read again: what was known of these offsets is void.
            self.reset();
        }
        self.committed.get_or_insert(first);
        self.states = vec![State::Pending; offsets.len()];
        self.offsets = offsets;
        self.lanes = lanes;
        self.next_offset = next_offset;
        (self.pending_from, self.marked_to, self.started) = (0, 0, 0);
    }

    fn finish(&mut self) {
        // What the lanes have not marked is remembered.
        let behind_marks =
            self.states.iter().rposition(|&state| state == State::Marked).map_or(0, |last| last + 1);
        let left = self.states[behind_marks..].iter().position(|&state| state == State::Left);
        self.left = self.left.or(left.map(|found| self.offsets[behind_marks + found]));
        for index in self.marked_to..self.states.len() {
            if self.states[index] == State::Handled {
                let (lane, offset) = (self.lane(index as u32), self.offsets[index]);
                self.rests.entry(lane).or_insert(Rest { from: offset, last: offset }).last = offset;
            }
        }
        (self.offsets, self.states, self.lanes) = Default::default();
        (self.pending_from, self.marked_to, self.started) = (0, 0, 0);
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn offset(&self, index: u32) -> i64 {
        self.offsets[index as usize]
    }

    fn is_split(&self) -> bool {
        self.lanes.is_some()
    }

    fn lane(&self, index: u32) -> u32 {
        self.lanes.as_ref().map_or(0, |lanes| lanes[index as usize])
    }

    fn start(&mut self, index: u32, lane: u32) {
        self.started = self.started.max(index as usize + 1);
        if let Some(lanes) = &mut self.lanes {
            lanes[index as usize] = lane;
        }
    }

    fn started(&self) -> u32 {
        self.started as u32
    }

    fn take_back(&mut self, from: u32) {
        self.started = self.started.min(from as usize);
    }

    fn handled(&mut self, index: u32) {
        self.raise(index, State::Handled);
    }

    fn left(&mut self, index: u32) {
        self.raise(index, State::Left);
    }

    fn mark_one(&mut self, index: u32) {
        self.left = None;
        self.raise(index, State::Marked);
    }

    fn mark(&mut self, lane: u32, offset: i64) {
        if let Some(rest) = self.rests.get_mut(&lane) {
            rest.from = rest.from.max(offset.saturating_add(1));
            if rest.from > rest.last {
                self.rests.remove(&lane);
            }
        }
        self.left = self.left.filter(|left| *left > offset);
        let end = self.offsets.partition_point(|&o| o <= offset).min(self.started);
        for index in self.marked_to..end {
            if self.lane(index as u32) == lane {
                self.states[index] = State::Marked;
            }
        }
        self.settle();
    }

    fn reopen(&mut self, lane: u32, offset: i64) {
        let from = self.offsets.partition_point(|&o| o < offset);
        for index in from..self.states.len() {
            if self.states[index] == State::Handled && self.lane(index as u32) == lane {
                self.states[index] = State::Pending;
                self.pending_from = self.pending_from.min(index);
            }
        }
    }

    fn pending(&self) -> impl Iterator<Item = u32> + '_ {
        (self.pending_from..self.states.len())
            .filter(|&index| self.states[index] == State::Pending)
            .map(|index| index as u32)
    }

    fn is_pending(&self, index: u32) -> bool {
        self.states[index as usize] == State::Pending
    }

    fn done_with(&self, index: u32) -> i64 {
        if self.marked_to < index as usize || !self.rests.is_empty() {
            return self.committable();
        }
        let behind = &self.states[index as usize + 1..];
        let gap = behind.iter().position(|&state| state < State::Marked);
        gap.map_or(self.next_offset, |found| self.offsets[index as usize + 1 + found])
    }

    fn take_done(&mut self) -> Option<i64> {
        // That of the first record that is not marked, or the end of the batch.
        let committable = self.committable();
        let committed = self.committed.as_mut().filter(|committed| **committed < committable)?;
        *committed = committable;
        Some(committable)
    }

    fn end(done: &i64) -> i64 {
        *done
    }
}

impl Contiguous {
    /// The offset up to which every record is marked.
    fn committable(&self) -> i64 {
        let held = self.offsets.get(self.marked_to).copied().unwrap_or(self.next_offset);
        self.rests.values().map(|rest| rest.from).chain(self.left).fold(held, i64::min)
    }

    fn raise(&mut self, index: u32, state: State) {
        let slot = &mut self.states[index as usize];
        *slot = (*slot).max(state);
        self.settle();
    }

    fn settle(&mut self) {
        let open = |states: &[State], from: usize, below: State| {
            states[from..].iter().position(|&state| state < below).map_or(states.len(), |found| from + found)
        };
        self.pending_from = open(&self.states, self.pending_from, State::Left);
        self.marked_to = open(&self.states, self.marked_to, State::Marked);
    }
}
