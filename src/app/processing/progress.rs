//! Which records of a held batch are done, and the offset up to which that is contiguous.

/// State of one record of a held batch; ordered by how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// To be handed to a handler (again).
    Pending,
    /// A handler succeeded on it or it was skipped by policy, but nobody marked it.
    Handled,
    /// Marked as consumed: its offset may be committed once all before it are marked too.
    Marked,
}

/// Progress over the records of one batch. `pending_from <= len`, every record before it is not pending;
/// `marked_to <= len`, every record before it is marked.
#[derive(Debug)]
pub(crate) struct Progress {
    offsets: Vec<i64>,
    states: Vec<State>,
    next_offset: i64,
    pending_from: usize,
    marked_to: usize,
}

impl Progress {
    /// Nothing is done yet. `offsets` ascend; `next_offset` follows the batch (it may lie beyond the last record when
    /// compaction or control records left a gap).
    pub(crate) fn new(offsets: Vec<i64>, next_offset: i64) -> Self {
        debug_assert!(offsets.is_sorted() && offsets.last().is_none_or(|&last| last < next_offset));
        let states = vec![State::Pending; offsets.len()];
        Self { offsets, states, next_offset, pending_from: 0, marked_to: 0 }
    }

    /// Offset of the first record, or the end of an empty batch.
    pub(crate) fn first_offset(&self) -> i64 {
        self.offsets.first().copied().unwrap_or(self.next_offset)
    }

    /// Offset of the record at `index`.
    pub(crate) fn offset(&self, index: u32) -> i64 {
        self.offsets[index as usize]
    }

    /// Index of the last record at or below `offset`, if there is one.
    pub(crate) fn index_at_or_below(&self, offset: i64) -> Option<u32> {
        self.offsets.partition_point(|&o| o <= offset).checked_sub(1).map(|index| index as u32)
    }

    /// Notes that a handler succeeded on the record.
    pub(crate) fn handled(&mut self, index: u32) {
        self.raise(index, State::Handled);
    }

    /// Marks the record as consumed.
    pub(crate) fn mark(&mut self, index: u32) {
        self.raise(index, State::Marked);
    }

    /// Marks the record and all before it.
    pub(crate) fn mark_through(&mut self, index: u32) {
        let end = index as usize + 1;
        if end > self.marked_to {
            self.states[self.marked_to..end].fill(State::Marked);
            self.settle();
        }
    }

    /// Makes every record from `offset` on pending again, unless it is marked.
    pub(crate) fn reopen(&mut self, offset: i64) {
        let from = self.offsets.partition_point(|&o| o < offset);
        for state in &mut self.states[from..] {
            if *state == State::Handled {
                *state = State::Pending;
            }
        }
        self.pending_from = self.pending_from.min(from);
        self.settle();
    }

    /// Indexes of the records still to be handled, in order.
    pub(crate) fn pending(&self) -> impl Iterator<Item = u32> + '_ {
        (self.pending_from..self.states.len())
            .filter(|&index| self.states[index] == State::Pending)
            .map(|index| index as u32)
    }

    /// The first record still to be handled.
    pub(crate) fn first_pending(&self) -> Option<u32> {
        (self.pending_from < self.states.len()).then_some(self.pending_from as u32)
    }

    /// The offset to commit: that of the first record that is not marked, or the end of the batch.
    pub(crate) fn committable(&self) -> i64 {
        self.offsets.get(self.marked_to).copied().unwrap_or(self.next_offset)
    }

    /// What [`committable`](Self::committable) will be once `index` is marked too.
    pub(crate) fn committable_with(&self, index: u32) -> i64 {
        if self.marked_to < index as usize {
            return self.committable();
        }
        let behind = &self.states[index as usize + 1..];
        let gap = behind.iter().position(|&state| state < State::Marked);
        gap.map_or(self.next_offset, |found| self.offsets[index as usize + 1 + found])
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
        self.pending_from = open(&self.states, self.pending_from, State::Handled);
        self.marked_to = open(&self.states, self.marked_to, State::Marked);
    }
}
