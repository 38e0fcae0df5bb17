//! Machine: the lives of the partitions of one listener, from assignment to the return of the last callback, and the
//! revocations that wait for their ends.
//!
//! ```text
//!  assigned                 revoked, lost, stop            its coordinator ended             last callback returned
//! ──────────▶ Active ─────────────────────────────▶ Ending ──────────────────▶ Closing(n) ───────────────────────▶ gone
//! ```
//!
//! A partition may be assigned again while handlers of its former assignment still run. It then has a *successor*, which
//! begins when they have returned, so that no two assignments of a partition run at once.
//!
//! What runs in a partition is decided by its coordinator; this machine decides when there is a partition at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::app::policy::Ending;
use crate::app::snapshot::PartitionPhase;
use crate::deadline;
use crate::types::TopicPartition;

/// How long before the group takes partitions away they are given up here, so that their last marks are committed.
const MARGIN: Duration = Duration::from_secs(1);

/// What the driver has to do.
#[derive(Debug, PartialEq)]
pub(super) enum Output {
    /// Keep a state for the partition; a batch of it that waited may be taken.
    Begin(TopicPartition),
    /// Take the marks that running handlers have made so far: after the end they are refused.
    Collect(TopicPartition),
    /// Announce the end to the coordinator and the handlers.
    End(TopicPartition, Ending),
    /// Call every consumer of the partition a last time.
    LastCalls(TopicPartition, Ending),
    /// Nothing of the partition runs any more: drop its state, and with it whatever still runs in vain.
    Remove(TopicPartition),
    /// Tell that these did not end in time and are lost.
    GivenUp(Vec<TopicPartition>),
    /// The group may have the partitions of this revocation.
    HandBack(u64),
}

#[derive(Debug)]
enum Phase {
    Active,
    Ending(Ending),
    /// So many last callbacks have not returned.
    Closing(usize),
}

#[derive(Debug)]
struct Life {
    phase: Phase,
    /// The partition was assigned again before this life was over.
    successor: bool,
}

/// Partitions that the group wants back.
#[derive(Debug)]
struct Revocation {
    id: u64,
    waits_for: BTreeSet<TopicPartition>,
    lost_at: Instant,
}

/// See the module. Invariant: a revocation waits only for partitions that have a life.
#[derive(Debug)]
pub(super) struct Lives {
    revoke_timeout: Duration,
    lives: BTreeMap<TopicPartition, Life>,
    revocations: Vec<Revocation>,
    stopping: bool,
    outputs: VecDeque<Output>,
}

impl Lives {
    /// `revoke_timeout` is the longest time that a revocation waits for handlers.
    pub(super) fn new(revoke_timeout: Duration) -> Self {
        Self {
            revoke_timeout,
            lives: BTreeMap::new(),
            revocations: Vec::new(),
            stopping: false,
            outputs: VecDeque::new(),
        }
    }

    /// The group has assigned the partition.
    pub(super) fn handle_assigned(&mut self, partition: TopicPartition) {
        // What is assigned during a stop is given back without having begun.
        if self.stopping {
            return;
        }
        match self.lives.get_mut(&partition) {
            Some(life) => life.successor |= !matches!(life.phase, Phase::Active),
            None => self.begin(partition),
        }
    }

    /// The group wants partitions back, at the latest at `until`.
    pub(super) fn handle_revoked(
        &mut self,
        now: Instant,
        id: u64,
        partitions: &[TopicPartition],
        until: Instant,
    ) {
        let lost_at = until.checked_sub(MARGIN).unwrap_or(until);
        let lost_at = lost_at.min(deadline::after(now, self.revoke_timeout));
        partitions.iter().for_each(|partition| self.end(partition, Ending::Revoked));
        let has_life = |partition: &&TopicPartition| self.lives.contains_key(*partition);
        let waits_for = partitions.iter().filter(has_life).cloned().collect();
        self.revocations.push(Revocation { id, waits_for, lost_at });
        self.hand_back();
    }

    /// Partitions already belong to others.
    pub(super) fn handle_lost(&mut self, partitions: &[TopicPartition]) {
        partitions.iter().for_each(|partition| self.end(partition, Ending::Lost));
    }

    /// The listener stops: all partitions end, and those whose handlers work in vain are not waited for.
    pub(super) fn handle_stop(&mut self) {
        self.stopping = true;
        let all: Vec<TopicPartition> = self.lives.keys().cloned().collect();
        all.iter().for_each(|partition| self.end(partition, Ending::Stopped));
    }

    /// The coordinator of the partition has ended, of which so many consumers are left.
    pub(super) fn handle_ended(&mut self, partition: &TopicPartition, ending: Ending, consumers: usize) {
        let Some(life) = self.lives.get_mut(partition) else { return };
        if consumers == 0 {
            self.remove(partition);
        } else {
            life.phase = Phase::Closing(consumers);
            self.outputs.push_back(Output::LastCalls(partition.clone(), ending));
        }
    }

    /// A last callback of the partition returned.
    pub(super) fn handle_last_call(&mut self, partition: &TopicPartition) {
        let Some(Life { phase: Phase::Closing(left), .. }) = self.lives.get_mut(partition) else { return };
        *left -= 1;
        if *left == 0 {
            self.remove(partition);
        }
    }

    /// The deadline passed: gives up on partitions whose handlers did not return in time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let due = |revocation: &mut Revocation| revocation.lost_at <= now;
        for revocation in self.revocations.extract_if(.., due).collect::<Vec<_>>() {
            let busy: Vec<TopicPartition> = revocation.waits_for.into_iter().collect();
            self.outputs.extend(busy.iter().cloned().map(Output::Collect));
            self.outputs.push_back(Output::GivenUp(busy.clone()));
            busy.iter().for_each(|partition| self.end(partition, Ending::Lost));
            self.outputs.push_back(Output::HandBack(revocation.id));
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.revocations.iter().map(|revocation| revocation.lost_at).min()
    }

    /// How far the partition is, if it is assigned or still ends. A batch of one that is not active has to wait for
    /// [`Output::Begin`].
    pub(super) fn phase(&self, partition: &TopicPartition) -> Option<PartitionPhase> {
        Some(match self.lives.get(partition)?.phase {
            Phase::Active => PartitionPhase::Active,
            Phase::Ending(_) => PartitionPhase::Ending,
            Phase::Closing(_) => PartitionPhase::Closing,
        })
    }

    /// True if there is no partition left that somebody waits for.
    pub(super) fn is_empty(&self) -> bool {
        self.lives.is_empty()
    }

    fn begin(&mut self, partition: TopicPartition) {
        self.lives.insert(partition.clone(), Life { phase: Phase::Active, successor: false });
        self.outputs.push_back(Output::Begin(partition));
    }

    fn end(&mut self, partition: &TopicPartition, ending: Ending) {
        let Some(life) = self.lives.get_mut(partition) else { return };
        life.successor = false;
        match &mut life.phase {
            Phase::Active => life.phase = Phase::Ending(ending),
            // A revocation that turns into a loss is a loss; nothing turns back.
            Phase::Ending(known) => *known = ending.max(*known),
            Phase::Closing(_) => {}
        }
        self.outputs.push_back(Output::End(partition.clone(), ending));
        self.remove_if_in_vain(partition);
    }

    /// Handlers of lost partitions work in vain: their records are others' by now, and their marks are refused.
    fn remove_if_in_vain(&mut self, partition: &TopicPartition) {
        let life = self.lives.get(partition);
        if self.stopping && life.is_some_and(|life| matches!(life.phase, Phase::Ending(Ending::Lost))) {
            self.remove(partition);
        }
    }

    fn remove(&mut self, partition: &TopicPartition) {
        let Some(life) = self.lives.remove(partition) else { return };
        self.outputs.push_back(Output::Remove(partition.clone()));
        for revocation in &mut self.revocations {
            revocation.waits_for.remove(partition);
        }
        self.hand_back();
        if life.successor {
            self.begin(partition.clone());
        }
    }

    /// Gives back what nobody uses any more.
    fn hand_back(&mut self) {
        let done = self.revocations.extract_if(.., |revocation| revocation.waits_for.is_empty());
        self.outputs.extend(done.map(|revocation| Output::HandBack(revocation.id)));
    }
}

#[cfg(test)]
mod tests;
