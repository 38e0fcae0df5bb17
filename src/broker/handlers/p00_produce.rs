//! Produce, versions 3-13: one batch of message format 2 per partition. acks=all waits for the high watermark.
//!
//! A batch of a transaction must name it; from 12 on it adds its partition to it (KIP-890), before that the partition must
//! have been added.
//!
//! 8 names refused records (KIP-467), 10 the current leader (KIP-951), 13 topics by id.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Context, Handled, Handler, Waiting, millis, own};
use crate::ErrorCode;
use crate::broker::cluster::{Append, State, Transactional};
use crate::broker::log::{BatchHead, Depth, Examined, Refusal, examine};
use crate::broker::partition::Wake;
use crate::broker::rights::Operation;
use crate::broker::topic_configs;
use crate::wire::messages::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, ProduceRequest,
    ProduceResponse, TopicProduceData, TopicProduceResponse,
};
use crate::wire::{Str, Uuid};

/// Of several batches for one partition Kafka keeps the last, and answers for it alone.
fn keep_last(topics: &mut [TopicProduceData]) {
    let mut seen = BTreeSet::new();
    for topic in topics.iter_mut().rev() {
        let (name, id) = (topic.name.clone(), topic.topic_id);
        topic.partition_data.reverse();
        topic.partition_data.retain(|data| seen.insert((name.clone(), id, data.index)));
        topic.partition_data.reverse();
    }
}

impl Handler for ProduceRequest {
    type Answer = ProduceResponse;

    fn examine(&mut self, depth: Depth) -> Vec<Examined> {
        keep_last(&mut self.topic_data);
        let parts = self.topic_data.iter_mut().flat_map(|topic| &mut topic.partition_data);
        parts.map(|part| examine(part.records.take().unwrap_or_default(), depth)).collect()
    }

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<ProduceResponse> {
        if !matches!(self.acks, -1..=1) {
            return self.refuse(state, ctx, ErrorCode::INVALID_REQUIRED_ACKS);
        }
        if let Err(code) = check_transactional(&self, state, ctx) {
            return self.refuse(state, ctx, code);
        }
        let id = self.transactional_id.as_ref().map(own);
        let transactional = id.as_ref().map(|id| Transactional { id, version: ctx.version });
        let all = self.acks == -1;
        let mut answer = ProduceResponse::default();
        let mut pending = Vec::new();
        let mut failed = false;
        let mut batches = ctx.batches.iter();
        for (at, topic) in self.topic_data.into_iter().enumerate() {
            let by_id = ctx.version >= 13;
            let name =
                if by_id { state.topic_name(&topic.topic_id).cloned() } else { Some(topic.name.clone()) };
            let mut partitions = Vec::with_capacity(topic.partition_data.len());
            for (index, data) in topic.partition_data.into_iter().enumerate() {
                let outcome = match (&name, batches.next()) {
                    (Some(name), Some(batch)) => {
                        let (partition, wall) = (data.index, ctx.wall);
                        let attempt =
                            Append { node: ctx.node, topic: name, partition, all, wall, transactional };
                        state.append(attempt, batch, ctx.now)
                    }
                    _ => Err(Refusal::new(
                        ErrorCode::UNKNOWN_TOPIC_ID,
                        "This server does not host this topic ID.",
                    )),
                };
                let mut partition = PartitionProduceResponse {
                    index: data.index,
                    log_append_time_ms: -1,
                    ..Default::default()
                };
                match outcome {
                    Ok(appended) => {
                        partition.base_offset = appended.base_offset;
                        partition.log_append_time_ms = appended.append_time;
                        partition.log_start_offset = appended.log_start;
                        if let Some(name) = name.as_ref().filter(|_| all) {
                            pending.push(Pending {
                                topic: own(name),
                                partition: data.index,
                                end: appended.end,
                                leader_epoch: appended.leader_epoch,
                                at: (at, index),
                            });
                        }
                    }
                    Err(refusal) => {
                        failed = true;
                        refuse(&mut partition, refusal, ctx.version);
                        if let Some(name) = &name {
                            hint(state, name, &mut partition, &mut answer, (ctx.version, ctx.listener));
                        }
                    }
                }
                partitions.push(partition);
            }
            answer.responses.push(TopicProduceResponse {
                name: if by_id { Str::new() } else { topic.name },
                topic_id: if by_id { topic.topic_id } else { Uuid::ZERO },
                partition_responses: partitions,
            });
        }
        if self.acks == 0 {
            // Closing the connection is the only way to tell the producer.
            return if failed { Handled::Disconnect } else { Handled::Silent };
        }
        wait(state, ctx, answer, pending, ctx.now + millis(self.timeout_ms))
    }

    fn refuse(self, _: &State, _: &Context, code: ErrorCode) -> Handled<ProduceResponse> {
        if self.acks == 0 {
            return Handled::Disconnect;
        }
        let partition = |index| PartitionProduceResponse {
            index,
            error_code: code.0,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            ..Default::default()
        };
        let topics = self.topic_data.into_iter().map(|topic| TopicProduceResponse {
            name: topic.name,
            topic_id: topic.topic_id,
            partition_responses: topic.partition_data.iter().map(|data| partition(data.index)).collect(),
        });
        Handled::Now(ProduceResponse { responses: topics.collect(), ..Default::default() })
    }
}

/// What speaks against the whole request because of its transaction.
fn check_transactional(request: &ProduceRequest, state: &State, ctx: &Context) -> Result<(), ErrorCode> {
    let heads = ctx.batches.iter().filter_map(|batch| batch.head.as_ref().ok());
    let mut producers = heads.filter(|head| head.is_transactional());
    let Some(first) = producers.next() else { return Ok(()) };
    let id = request.transactional_id.as_ref().ok_or(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED)?;
    state.rights.check_transactional_id(id, Operation::Write)?;
    let same = |head: &BatchHead| {
        (head.producer_id, head.producer_epoch) == (first.producer_id, first.producer_epoch)
    };
    if producers.all(same) { Ok(()) } else { Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING) }
}

fn refuse(partition: &mut PartitionProduceResponse, refusal: Refusal, version: i16) {
    partition.error_code = refusal.code.0;
    partition.base_offset = -1;
    partition.log_append_time_ms = -1;
    partition.log_start_offset = -1;
    if version >= 8 {
        partition.error_message = Some(refusal.message.into());
        partition.record_errors = refusal
            .records
            .into_iter()
            .map(|(batch_index, message)| BatchIndexAndErrorMessage {
                batch_index,
                batch_index_error_message: Some(message.into()),
            })
            .collect();
    }
}

/// Names the leader to a producer that asked the wrong node (KIP-951).
fn hint(
    state: &State,
    name: &str,
    partition: &mut PartitionProduceResponse,
    answer: &mut ProduceResponse,
    (version, listener): (i16, usize),
) {
    if version < 10 || partition.error_code != ErrorCode::NOT_LEADER_OR_FOLLOWER.0 {
        return;
    }
    let Some(known) = state.topic(name).and_then(|topic| topic.partition(partition.index)) else {
        return;
    };
    partition.current_leader = LeaderIdAndEpoch { leader_id: known.leader, leader_epoch: known.leader_epoch };
    if let Some(node) = state.node(known.leader)
        && !answer.node_endpoints.iter().any(|endpoint| endpoint.node_id == node.id)
    {
        answer.node_endpoints.push(NodeEndpoint {
            node_id: node.id,
            host: node.endpoint(listener).host.clone(),
            port: i32::from(node.endpoint(listener).port),
            rack: None,
        });
    }
}

/// A partition whose batch is not committed yet.
#[derive(Debug)]
struct Pending {
    topic: Str,
    partition: i32,
    end: i64,
    /// A later epoch may have cut the batch off, even if the same node leads again.
    leader_epoch: i32,
    /// Topic and partition in the answer.
    at: (usize, usize),
}

/// The answer, at once if nothing is pending, else when it is committed or at the deadline.
fn wait(
    state: &mut State,
    ctx: &Context,
    answer: ProduceResponse,
    pending: Vec<Pending>,
    deadline: Instant,
) -> Handled<ProduceResponse> {
    let mut waiting = ProduceWaiting {
        answer,
        pending,
        node: ctx.node,
        version: ctx.version,
        listener: ctx.listener,
        wake: Arc::new(Notify::new()),
        deadline,
    };
    match waiting.poll(state, false) {
        Some(answer) => Handled::Now(answer),
        None => Handled::Wait(Box::new(waiting)),
    }
}

/// A request with acks=all.
#[derive(Debug)]
struct ProduceWaiting {
    answer: ProduceResponse,
    pending: Vec<Pending>,
    node: i32,
    version: i16,
    listener: usize,
    wake: Wake,
    deadline: Instant,
}

impl Waiting<ProduceResponse> for ProduceWaiting {
    fn wake(&self) -> &Wake {
        &self.wake
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn poll(&mut self, state: &mut State, expired: bool) -> Option<ProduceResponse> {
        let min_default = state.settings.min_insync_replicas;
        let mut open = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            let topic = state.topic_mut(&pending.topic);
            let min_isr = topic
                .as_ref()
                .and_then(|topic| topic_configs::number(&topic.configs, "min.insync.replicas"))
                .unwrap_or(min_default);
            let refusal = match topic.and_then(|topic| topic.partition_mut(pending.partition)) {
                None => Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                Some(partition)
                    if partition.leader != self.node || partition.leader_epoch != pending.leader_epoch =>
                {
                    Some(ErrorCode::NOT_LEADER_OR_FOLLOWER)
                }
                Some(partition) if partition.high_watermark >= pending.end => {
                    (partition.isr.len() < min_isr).then_some(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND)
                }
                Some(_) if expired => Some(ErrorCode::REQUEST_TIMED_OUT),
                Some(partition) => {
                    partition.wait_for(pending.end, &self.wake);
                    open.push(pending);
                    continue;
                }
            };
            let answer = self.answer.responses.get_mut(pending.at.0);
            let answer = answer.and_then(|topic| topic.partition_responses.get_mut(pending.at.1));
            if let (Some(code), Some(partition)) = (refusal, answer) {
                refuse(partition, Refusal::new(code, code.to_string()), self.version);
                let mut partition = std::mem::take(partition);
                hint(state, &pending.topic, &mut partition, &mut self.answer, (self.version, self.listener));
                if let Some(topic) = self.answer.responses.get_mut(pending.at.0)
                    && let Some(place) = topic.partition_responses.get_mut(pending.at.1)
                {
                    *place = partition;
                }
            }
        }
        self.pending = open;
        self.pending.is_empty().then(|| std::mem::take(&mut self.answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages::produce::PartitionProduceData;

    #[test]
    fn the_last_batch_of_a_partition_counts() {
        let part = |index, byte: u8| PartitionProduceData { index, records: Some(vec![byte].into()) };
        let topic = |name: &str, partition_data| TopicProduceData {
            name: name.into(),
            partition_data,
            ..Default::default()
        };
        let mut topics = vec![
            topic("a", vec![part(0, 1), part(1, 2), part(0, 3)]),
            topic("b", vec![part(0, 4)]),
            topic("a", vec![part(1, 5)]),
        ];
        keep_last(&mut topics);
        assert_eq!(topics[0].partition_data, [part(0, 3)]);
        assert_eq!(topics[1].partition_data, [part(0, 4)]);
        assert_eq!(topics[2].partition_data, [part(1, 5)]);
    }
}
