//! DescribeTopicPartitions, version 0 (KIP-966): topics in pages, by name, continued at a cursor.

use super::{Context, Handled, Handler, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::partition::{NO_LEADER, Partition};
use crate::broker::rights::Operation;
use crate::wire::Str;
use crate::wire::messages::describe_topic_partitions::{
    CursorResponse, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};

const NO_OPERATIONS: i32 = i32::MIN;
/// Most partitions of an answer, Kafka's `max.request.partition.size.limit`.
const PARTITIONS_MAX: usize = 2000;

impl Handler for DescribeTopicPartitionsRequest {
    type Answer = DescribeTopicPartitionsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DescribeTopicPartitionsResponse> {
        let all = self.topics.is_empty();
        let mut names: Vec<Str> = if all {
            state
                .topics()
                .filter(|(name, topic)| {
                    topic.is_known_to(ctx.node) && state.rights.check_topic(name, Operation::Describe).is_ok()
                })
                .map(|(name, _)| name.clone())
                .collect()
        } else {
            self.topics.into_iter().map(|topic| topic.name).collect()
        };
        names.sort();
        names.dedup();
        let (first, mut from) = match self.cursor {
            Some(cursor) => (cursor.topic_name, usize::try_from(cursor.partition_index).unwrap_or(0)),
            None => (Str::new(), 0),
        };
        names.retain(|name| *name >= first);
        let limit = usize::try_from(self.response_partition_limit).unwrap_or(0).clamp(1, PARTITIONS_MAX);
        let mut left = limit;
        let mut answer = DescribeTopicPartitionsResponse::default();
        for name in names {
            if name != first {
                from = 0;
            }
            if let Err(code) = state.rights.check_topic(&name, Operation::Describe) {
                answer.topics.push(refused(name, code.0));
                continue;
            }
            let Some(topic) = state.topic_at(ctx.node, &name) else {
                answer.topics.push(refused(name, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0));
                continue;
            };
            if left == 0 {
                answer.next_cursor = Some(CursorResponse { topic_name: name, partition_index: from as i32 });
                break;
            }
            let page = topic.partitions.iter().enumerate().skip(from).take(left);
            let partitions: Vec<_> =
                page.map(|(index, partition)| describe(state, index, partition)).collect();
            left -= partitions.len();
            let next = from + partitions.len();
            answer.topics.push(DescribeTopicPartitionsResponseTopic {
                topic_id: topic.id,
                partitions,
                ..refused(name.clone(), 0)
            });
            if next < topic.partitions.len() {
                answer.next_cursor = Some(CursorResponse { topic_name: name, partition_index: next as i32 });
                break;
            }
        }
        Handled::Now(answer)
    }

    refuse_with!(|request, code| DescribeTopicPartitionsResponse {
        topics: request.topics.into_iter().map(|topic| refused(topic.name, code)).collect(),
        ..Default::default()
    });
}

fn refused(name: Str, error_code: i16) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        error_code,
        name: Some(name),
        topic_authorized_operations: NO_OPERATIONS,
        ..Default::default()
    }
}

fn describe(state: &State, index: usize, partition: &Partition) -> DescribeTopicPartitionsResponsePartition {
    let leaderless = partition.leader == NO_LEADER;
    DescribeTopicPartitionsResponsePartition {
        error_code: if leaderless { ErrorCode::LEADER_NOT_AVAILABLE.0 } else { 0 },
        partition_index: index as i32,
        leader_id: partition.leader,
        leader_epoch: partition.leader_epoch,
        replica_nodes: partition.replicas.iter().copied().collect(),
        isr_nodes: partition.isr.iter().copied().collect(),
        eligible_leader_replicas: Some(Vec::new().into()),
        last_known_elr: Some(Vec::new().into()),
        offline_replicas: partition.replicas.iter().copied().filter(|node| !state.is_alive(*node)).collect(),
    }
}
