//! Machine: what the application gets, in its order: events before batches, batches and failures of a partition as they
//! lie in its log.

use std::collections::VecDeque;

use super::Positions;
use crate::Error;
use crate::consumer::batch::RecordBatch;
use crate::consumer::event::{ConsumerEvent, PartitionFailure};
use crate::sync::budget::{Account, BUFFER_STEP, MemoryBudget};
use crate::types::{Offset, TopicPartition};

/// Most bytes that are copied into one batch.
const JOINED_MAX: usize = 16 << 20;

/// What waits to be handed out.
#[derive(Debug)]
pub(super) enum Item {
    Batch(RecordBatch),
    /// Up to this offset there is nothing that the application may see; the record in front of it has this epoch.
    Nothing(i64, i32),
    Failed(Error, Option<i64>),
    End(i64),
}

/// What the application gets.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) event: ConsumerEvent,
    /// Nothing more of what its node answered can be handed out: a fetch may follow.
    pub(crate) used_up: bool,
}

/// What waits of one partition, and how far the application has got.
#[derive(Debug)]
pub(super) struct Delivery {
    /// Where to go on after what was handed out, never beyond where the partition is fetched.
    pub(super) taken: i64,
    pub(super) paused: bool,
    /// The batch that is out has to be released first.
    pub(super) held: bool,
    /// Prefetched data was given back while held: none is fetched until it can be handed out.
    pub(super) starved: bool,
    /// Stands in [`Positions::ready`].
    pub(super) queued: bool,
    items: VecDeque<Item>,
    /// Of the batches among them.
    bytes: usize,
    pub(super) end_told: bool,
    /// The application was told that the partition stopped; again only after it went on.
    pub(super) stop_told: bool,
}

impl Delivery {
    pub(super) fn new() -> Self {
        Self {
            taken: -1,
            paused: false,
            held: false,
            starved: false,
            queued: false,
            items: VecDeque::new(),
            bytes: 0,
            end_told: false,
            stop_told: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Nothing is handed out for now.
    pub(super) fn is_waiting(&self) -> bool {
        self.paused || self.held
    }

    /// True if it has more than its share to hand out, which is as much as is kept of those that wait.
    pub(super) fn is_full(&self, share: usize) -> bool {
        self.items.len() >= 2 || (!self.is_empty() && self.bytes >= share)
    }

    /// At least what waits to be handed out takes: every item counts, also without data.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes + self.items.len() * BUFFER_STEP
    }

    pub(super) fn push(&mut self, item: Item) {
        match (item, self.items.back_mut()) {
            (Item::Nothing(to, epoch), Some(Item::Nothing(last, before))) if to >= *last => {
                (*last, *before) = (to, epoch);
            }
            (item, _) => {
                if let Item::Batch(batch) = &item {
                    self.bytes += batch.held_bytes();
                }
                self.items.push_back(item);
            }
        }
    }

    fn take(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        if let Item::Batch(batch) = &item {
            self.bytes = self.bytes.saturating_sub(batch.held_bytes());
        }
        Some(item)
    }

    /// Steps over what is next if that is nothing to hand out.
    fn take_nothing(&mut self) -> Option<(i64, i32)> {
        let Some(Item::Nothing(to, epoch)) = self.items.front() else { return None };
        let nothing = (*to, *epoch);
        self.items.pop_front();
        Some(nothing)
    }

    pub(super) fn discard(&mut self) {
        self.items.clear();
        self.bytes = 0;
        self.end_told = false;
    }

    /// How many items that are next can be one batch with `first`, as far as `bytes_max` allows, and the bytes of data and
    /// positions of it. What is to be told between two batches stays between them.
    fn joinable(&self, first: &RecordBatch, bytes_max: usize) -> (usize, usize, usize) {
        let (mut data, mut ranges) = first.size();
        let mut next_offset = first.next_offset();
        let mut count = 0;
        for (index, item) in self.items.iter().enumerate() {
            match item {
                Item::Batch(batch) if batch.first_offset().is_some_and(|offset| offset >= next_offset) => {
                    let more = batch.size();
                    if data + ranges + more.0 + more.1 > bytes_max {
                        break;
                    }
                    (data, ranges) = (data + more.0, ranges + more.1);
                    next_offset = batch.next_offset();
                    count = index + 1;
                }
                Item::Nothing(to, _) if *to >= next_offset.0 => {}
                _ => break,
            }
        }
        (count, data, ranges)
    }

    /// `first`, which was taken out, with the batches that follow it, if there is memory for a copy.
    fn join(
        &mut self,
        first: RecordBatch,
        bytes_max: usize,
        budget: &MemoryBudget,
        account: &Account,
    ) -> RecordBatch {
        let (count, data, ranges) = self.joinable(&first, bytes_max);
        if count == 0 {
            return first;
        }
        let Some(credit) = budget.at_once(data.next_multiple_of(BUFFER_STEP) + ranges) else { return first };
        let rest = (0..count).filter_map(|_| match self.take() {
            Some(Item::Batch(batch)) => Some(batch),
            _ => None,
        });
        let rest = rest.collect();
        RecordBatch::join(first, rest, budget, credit, account.ledger().hold())
    }
}

impl Positions {
    pub(super) fn make_ready(&mut self, partition: &TopicPartition) {
        if let Some(state) = self
            .partitions
            .get_mut(partition)
            .filter(|state| state.is_deliverable() && !state.delivery.queued)
        {
            state.delivery.queued = true;
            self.ready.push_back(partition.clone());
        }
    }

    /// Queues an event ahead of all batches.
    pub(crate) fn push_event(&mut self, event: ConsumerEvent) {
        self.events.push_back(event);
    }

    /// The next event or batch.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        if let Some(event) = self.events.pop_front() {
            return Some(Output { event, used_up: false });
        }
        let hold = self.config.consumer.hold_after_delivery;
        let bytes_max = self.enough().min(JOINED_MAX);
        while let Some(partition) = self.ready.pop_front() {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            state.delivery.queued = false;
            if state.is_hidden() {
                continue;
            }
            let Some(item) = state.delivery.take() else { continue };
            let event = match item {
                Item::Batch(batch) => {
                    let batch = state.delivery.join(batch, bytes_max, &self.config.budget, &state.account);
                    state.delivery.taken = batch.next_offset().0;
                    state.delivery.held = hold;
                    state.marks.handed_out = Some(batch.mark());
                    self.handed_out.insert(partition.clone());
                    // Nothing to hand out is nothing to wait for.
                    while let Some((to, epoch)) = state.delivery.take_nothing() {
                        state.step_over(&partition, to, epoch);
                        self.uncommitted_marks.insert(partition.clone());
                    }
                    ConsumerEvent::Batch(batch)
                }
                Item::Nothing(to, epoch) => {
                    state.step_over(&partition, to, epoch);
                    self.uncommitted_marks.insert(partition.clone());
                    self.make_ready(&partition);
                    continue;
                }
                Item::Failed(error, offset) => ConsumerEvent::PartitionFailed(PartitionFailure {
                    partition: partition.clone(),
                    offset: offset.map(Offset),
                    error,
                    stopped: true,
                }),
                Item::End(offset) => {
                    ConsumerEvent::PartitionEnd { partition: partition.clone(), offset: Offset(offset) }
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
            return Some(Output { event, used_up: !more });
        }
        None
    }
}
