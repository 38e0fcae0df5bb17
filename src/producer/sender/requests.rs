//! Machine: what goes into a request.

use tokio::time::Instant;

use super::partition::{Listed, Readiness, Sent};
use super::{
    Eras, Lanes, NodeId, Outgoing, Outstanding, REQUEST_BYTES_MAX, RequestState, Sender, UNANSWERED,
};
use crate::deadline;
use crate::producer::lane::Take;
use crate::producer::linger::Decision;
use crate::wire::produce::PartitionBatch;
use crate::wire::records::HEADER_LEN;

impl Sender {
    /// The next request for `node`, if it is time for one. `lanes` gives up open batches.
    pub(super) fn next_request(
        &mut self,
        now: Instant,
        node: NodeId,
        lanes: &mut impl Lanes,
    ) -> Option<Outgoing> {
        let max = self.config.in_flight_max;
        let state = self.nodes.get_mut(&node)?;
        if state.in_flight >= max {
            return None;
        }
        let partitions_max = state.partitions_max;
        let waiting = lanes.waiting_bytes(node);
        state.look(now, waiting);
        let send_open =
            !state.open.is_empty() && state.decide(now, waiting, max, self.config.linger) == Decision::Send;
        let (ready, open) = (state.ready.len(), if send_open { state.open.len() } else { 0 });
        let id = self.next_request;
        let room = (ready + open).min(partitions_max);
        let doubt_at = now + UNANSWERED;
        let mut request =
            RequestState { node, records: 0, partitions: Vec::with_capacity(room), by_name: false, doubt_at };
        let mut batches = Vec::with_capacity(room);
        let mut bytes = 0;
        for step in 0..ready + open {
            if bytes >= REQUEST_BYTES_MAX || batches.len() >= partitions_max {
                break;
            }
            let Some(state) = self.nodes.get_mut(&node) else { break };
            let list = if step < ready {
                &mut state.ready
            } else {
                state.hurry = state.hurry.saturating_sub(1);
                &mut state.open
            };
            let Some(entry) = list.pop_front() else { continue };
            let partition = entry.partition;
            if self.partitions[partition].listed == Listed::No
                || self.partitions[partition].ticket != entry.ticket
            {
                continue; // its leader changed, or it stands on another list by now
            }
            let next = self.partitions[partition].next();
            if step < ready
                && bytes > 0
                && next.is_some_and(|next| bytes + next.wire_len() > REQUEST_BYTES_MAX)
            {
                state.ready.push_front(entry); // it begins the next request
                break;
            }
            self.partitions[partition].listed = Listed::No;
            if let Some(drained) = self.drain(now, partition, node, id, bytes, lanes) {
                bytes += HEADER_LEN + drained.body.len();
                request.records +=
                    self.partitions[partition].sent.back().map_or(0, |sent| sent.batch.count() as usize);
                request.partitions.push(partition);
                batches.push(drained);
            }
            self.schedule(now, partition);
        }
        let state = self.nodes.get_mut(&node)?;
        if send_open {
            // What is left waits for its own time.
            state.open_since = state.open.iter().map(|entry| entry.open_since).min();
            state.look = None;
        }
        if batches.is_empty() {
            return None;
        }
        state.in_flight += 1;
        lanes.set_pace(node, state.pace(max, self.config.linger));
        self.next_request += 1;
        self.requests.insert(id, request);
        Some(Outgoing { node, id, batches })
    }

    /// Takes the front batch of `partition`, if it can be sent to `node` now and fits behind `bytes`.
    fn drain(
        &mut self,
        now: Instant,
        partition: usize,
        node: NodeId,
        request: u64,
        bytes: usize,
        lanes: &mut impl Lanes,
    ) -> Option<PartitionBatch> {
        let era = self.eras.of(partition);
        let ready = Readiness::Ready(node);
        if self.partitions[partition].readiness(now, self.config.in_flight_max, era) != ready {
            return None;
        }
        if self.partitions[partition].next().is_none() {
            self.collect(now, partition, Take::Open, lanes);
            if self.partitions[partition].readiness(now, self.config.in_flight_max, era) != ready {
                return None;
            }
        }
        let state = &mut self.partitions[partition];
        if bytes > 0 && bytes + state.next()?.wire_len() > REQUEST_BYTES_MAX {
            return None;
        }
        state.prepare_next(era);
        let batch = state.take_next()?;
        let mut header = batch.meta.header(batch.compression);
        if let Some(sequence) = batch.sequence {
            header.producer_id = state.era.producer_id;
            header.producer_epoch = state.era.epoch;
            header.base_sequence = sequence;
        }
        if let Eras::Transactional(transactional) = &mut self.eras {
            header.attributes = header.attributes.with_transactional(true);
            transactional.send(partition);
        }
        let topic = &mut self.topics[state.topic];
        topic.used = true;
        let drained = PartitionBatch {
            topic: topic.name.clone().into_inner(),
            topic_id: topic.id,
            partition: state.index,
            header: header.encode(&batch.body),
            body: batch.body.clone(),
        };
        state.sent_to = node;
        state.sent.push_back(Sent { request, batch });
        Some(drained)
    }

    /// Takes batches over from the lane of `partition`.
    pub(super) fn collect(&mut self, now: Instant, partition: usize, take: Take, lanes: &mut impl Lanes) {
        let mut batches = std::mem::take(&mut self.scratch);
        let left = lanes.collect(partition, take, &mut batches);
        if !batches.is_empty() {
            lanes.queued(partition, batches.len() as i32);
        }
        for mut batch in batches.drain(..) {
            batch.id = match self.partitions[partition].pending.pop_front() {
                Some(id) => id,
                None => self.begin_batch(batch.created, partition),
            };
            self.partitions[partition].queue.push_back(batch);
        }
        self.scratch = batches;
        let state = &mut self.partitions[partition];
        let open = left.open.is_some();
        if open && !state.open {
            state.open_since = now;
        }
        state.open = open;
        let expected = left.closed + usize::from(open);
        while self.partitions[partition].pending.len() < expected {
            // The command about it may have waited for an answer of a broker that is stuck.
            let id = self.begin_batch(left.open.unwrap_or(now), partition);
            self.partitions[partition].pending.push_back(id);
        }
    }

    fn begin_batch(&mut self, created: Instant, partition: usize) -> u64 {
        let id = self.next_batch;
        self.next_batch += 1;
        let deadline = deadline::after(created, self.config.delivery_timeout);
        self.outstanding.insert(id, Outstanding { partition, deadline, parts: 1 });
        id
    }
}
