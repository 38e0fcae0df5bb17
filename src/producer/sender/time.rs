//! Machine: what the passing of time does to batches, and when it does something next.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::answers::authorized;
use super::node::Way;
use super::partition::Listed;
use super::{Eras, Lanes, Sender, UNANSWERED, UNAUTHORIZED};
use crate::producer::Outcome;
use crate::producer::lane::Take;
use crate::producer::linger::Decision;
use crate::{Error, ErrorKind};

impl Sender {
    /// Lets pauses end and gives up what is too old.
    pub(in crate::producer) fn handle_timeout(&mut self, now: Instant, lanes: &mut impl Lanes) {
        while let Some((at, partition)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            self.overtake(now, partition, lanes);
            self.schedule(now, partition);
        }
        self.doubt_unanswered(now);
        for (topic, _) in self.forbidden.extract_if(.., |_, met| now >= *met + UNAUTHORIZED) {
            self.effects.push_back(authorized(&self.topics[topic].name));
        }
        while let Some((id, oldest)) = self.outstanding.first_key_value()
            && oldest.deadline <= now
        {
            let (id, partition) = (*id, oldest.partition);
            self.expire(now, id, partition, lanes);
            self.schedule(now, partition);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`poll_output`](Self::poll_output) may have something to do next.
    pub(in crate::producer) fn next_deadline(&self, now: Instant, lanes: &impl Lanes) -> Option<Instant> {
        let max = self.config.in_flight_max;
        let lingers =
            self.nodes.iter().filter_map(|(id, node)| match node.open.is_empty() || node.way != Way::Open {
                true => None,
                false => match node.decide(now, lanes.waiting_bytes(*id), max, self.config.linger) {
                    Decision::Wait(at) => Some(at),
                    Decision::Send => Some(now),
                    Decision::NoRoom => None,
                },
            });
        let era = match self.eras {
            Eras::Wanted(at) if !self.partitions.is_empty() => Some(at.unwrap_or(now)),
            _ => None,
        };
        let timer = self.timers.first().map(|(at, _)| *at);
        let expiry = self.outstanding.first_key_value().map(|(_, batch)| batch.deadline);
        let doubt = self.requests.first_key_value().map(|(_, request)| request.doubt_at);
        let forgotten = self.forbidden.values().map(|at| *at + UNAUTHORIZED);
        lingers.chain(timer).chain(expiry).chain(era).chain(doubt).chain(forgotten).min()
    }

    /// Takes back what is on the way to the former leader of `partition`, if it had its time to answer.
    fn overtake(&mut self, now: Instant, partition: usize, lanes: &mut impl Lanes) {
        let state = &mut self.partitions[partition];
        if state.overtake_at.take_if(|at| *at <= now).is_none() || state.leader == Some(state.sent_to) {
            return;
        }
        let what = format!("node {}, which led the partition before, did not answer", state.sent_to);
        let error = Error::new(ErrorKind::Network, what).with_retriable(true);
        for sent in std::mem::take(&mut state.sent) {
            let mut batch = sent.batch;
            batch.maybe_written = true;
            batch.named |= self.requests.get(&sent.request).is_none_or(|request| request.by_name);
            batch.last_error = Some(error.clone());
            self.put_back(partition, batch, lanes);
        }
    }

    /// Asks for the leaders of what has been on the way for long.
    fn doubt_unanswered(&mut self, now: Instant) {
        if self.requests.first_key_value().is_none_or(|(_, oldest)| now < oldest.doubt_at) {
            return;
        }
        let mut doubted = BTreeSet::new();
        for request in self.requests.values_mut().filter(|request| request.doubt_at <= now) {
            request.doubt_at = now + UNANSWERED;
            doubted.extend(request.partitions.iter().copied());
        }
        for partition in doubted {
            self.refresh(partition);
        }
    }

    /// The batch with number `id` was not acknowledged in time.
    fn expire(&mut self, now: Instant, id: u64, partition: usize, lanes: &mut impl Lanes) {
        if self.partitions[partition].pending.contains(&id) {
            self.collect(now, partition, Take::All, lanes);
            self.partitions[partition].listed = Listed::No;
        }
        while let Some(at) = self.partitions[partition].queue.iter().position(|batch| batch.id == id) {
            let Some(batch) = self.partitions[partition].queue.remove(at) else { break };
            let error = self.timed_out(partition, batch.last_error.as_ref());
            self.fail(partition, batch, error, false, lanes);
        }
        // Those on the way keep their place: the answer may come, and nothing is sent before it. But nobody waits for it.
        for at in 0..self.partitions[partition].sent.len() {
            let batch = &self.partitions[partition].sent[at].batch;
            if batch.id != id || batch.settled {
                continue;
            }
            let error = self.timed_out(partition, batch.last_error.as_ref());
            let batch = &mut self.partitions[partition].sent[at].batch;
            batch.maybe_written = true;
            batch.failed(error.clone(), Outcome::Unknown);
            let (count, sequenced) = (u64::from(batch.count()), batch.sequence.is_some());
            lanes.queued(partition, -1);
            self.counts.failed += count;
            self.note_failure(&error);
            if sequenced {
                self.spoil(partition);
            }
        }
        self.outstanding.remove(&id);
    }
}
