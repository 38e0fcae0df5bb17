//! Machine: what the application gets, in its order: events before batches, batches and failures of a partition as they
//! lie in its log.

use crate::Error;
use crate::consumer::batch::Batch;
use crate::consumer::event::{Event, PartitionFailure};
use crate::consumer::positions::{Positions, State};
use crate::sync::budget::{BUFFER_STEP, MemoryBudget};
use crate::types::{Offset, TopicPartition};

/// Most bytes that are copied into one batch.
const JOINED_MAX: usize = 16 << 20;

/// What waits to be handed out.
#[derive(Debug)]
pub(super) enum Item {
    Batch(Batch),
    /// Up to this offset there is nothing that the application may see; the record in front of it has this epoch.
    Nothing(i64, i32),
    Failed(Error, Option<i64>),
    End(i64),
}

impl State {
    /// At least what waits to be handed out takes: every item counts, also without data.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.buffered_bytes + self.buffered.len() * BUFFER_STEP
    }

    /// `first`, which was taken out, with the batches that follow it, as far as `bytes_max` allows and there is memory
    /// for a copy. What is to be told between two batches stays between them.
    fn join_following(&mut self, first: Batch, bytes_max: usize, budget: &MemoryBudget) -> Batch {
        let (mut data, mut ranges) = first.size();
        let mut next_offset = first.next_offset();
        let mut items = 0;
        for (index, item) in self.buffered.iter().enumerate() {
            match item {
                Item::Batch(batch) if batch.first_offset().is_some_and(|offset| offset >= next_offset) => {
                    let more = batch.size();
                    if data + ranges + more.0 + more.1 > bytes_max {
                        break;
                    }
                    (data, ranges) = (data + more.0, ranges + more.1);
                    next_offset = batch.next_offset();
                    items = index + 1;
                }
                Item::Nothing(to, _) if *to >= next_offset.0 => {}
                _ => break,
            }
        }
        if items == 0 {
            return first;
        }
        let Some(credit) = budget.at_once(data.next_multiple_of(BUFFER_STEP) + ranges) else { return first };
        let rest: Vec<Batch> = (self.buffered.drain(..items))
            .filter_map(|item| if let Item::Batch(batch) = item { Some(batch) } else { None })
            .collect();
        let taken: usize = rest.iter().map(Batch::held_bytes).sum();
        self.buffered_bytes = self.buffered_bytes.saturating_sub(taken);
        Batch::join(first, rest, budget, credit, self.account.ledger().hold())
    }
}

impl Positions {
    pub(super) fn make_ready(&mut self, partition: &TopicPartition) {
        if let Some(state) =
            self.partitions.get_mut(partition).filter(|state| state.is_deliverable() && !state.queued)
        {
            state.queued = true;
            self.ready.push_back(partition.clone());
        }
    }

    /// Tells something that goes before all batches.
    pub(crate) fn push_event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// The next event or batch. The flag says that the answer it came from was used up, so that a fetch may follow.
    pub(crate) fn pop(&mut self) -> Option<(Event, bool)> {
        if let Some(event) = self.events.pop_front() {
            return Some((event, false));
        }
        let hold = self.config.consumer.hold_after_delivery;
        let bytes_max = self.enough().min(JOINED_MAX);
        while let Some(partition) = self.ready.pop_front() {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            state.queued = false;
            if state.is_hidden() {
                continue;
            }
            let Some(item) = state.buffered.pop_front() else { continue };
            let event = match item {
                Item::Batch(batch) => {
                    state.buffered_bytes = state.buffered_bytes.saturating_sub(batch.held_bytes());
                    let batch = state.join_following(batch, bytes_max, &self.config.budget);
                    state.taken = batch.next_offset().0;
                    state.handed_out = Some(batch.mark());
                    state.held = hold;
                    // Nothing to hand out is nothing to wait for.
                    while let Some(Item::Nothing(to, epoch)) = state.buffered.front() {
                        state.step_over(&partition, *to, *epoch);
                        state.buffered.pop_front();
                    }
                    Event::Batch(batch)
                }
                Item::Nothing(to, epoch) => {
                    state.step_over(&partition, to, epoch);
                    self.make_ready(&partition);
                    continue;
                }
                Item::Failed(error, offset) => Event::PartitionFailed(PartitionFailure {
                    partition: partition.clone(),
                    offset: offset.map(Offset),
                    error,
                    stopped: true,
                }),
                Item::End(offset) => {
                    Event::PartitionEnd { partition: partition.clone(), offset: Offset(offset) }
                }
            };
            let leader = state.leader;
            self.make_ready(&partition);
            let more = self.ready.iter().any(|other| {
                self.partitions.get(other).is_some_and(|state| {
                    state.is_deliverable()
                        && state.leader.map(|(node, _)| node) == leader.map(|(node, _)| node)
                })
            });
            return Some((event, !more));
        }
        None
    }
}
