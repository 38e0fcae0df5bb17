//! OffsetForLeaderEpoch, versions 2-4: where an epoch ended in the leader's log (KIP-101, KIP-279, KIP-320).

use super::{Context, Handled, Handler, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};

impl Handler for OffsetForLeaderEpochRequest {
    type Answer = OffsetForLeaderEpochResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<OffsetForLeaderEpochResponse> {
        let topics = self
            .topics
            .into_iter()
            .map(|topic| OffsetForLeaderTopicResult {
                partitions: topic.partitions.iter().map(|part| one(state, ctx, &topic.topic, part)).collect(),
                topic: topic.topic,
            })
            .collect();
        Handled::Now(OffsetForLeaderEpochResponse { topics, ..Default::default() })
    }

    refuse_with!(|request, code| OffsetForLeaderEpochResponse {
        topics: request
            .topics
            .into_iter()
            .map(|topic| OffsetForLeaderTopicResult {
                partitions: topic
                    .partitions
                    .iter()
                    .map(|part| answer(part.partition, code, -1, -1))
                    .collect(),
                topic: topic.topic,
            })
            .collect(),
        ..Default::default()
    });
}

fn answer(partition: i32, error_code: i16, leader_epoch: i32, end_offset: i64) -> EpochEndOffset {
    EpochEndOffset { error_code, partition, leader_epoch, end_offset }
}

fn one(state: &State, ctx: &Context, topic: &str, part: &OffsetForLeaderPartition) -> EpochEndOffset {
    let found = state
        .led(ctx.node, topic, part.partition, part.current_leader_epoch, Operation::Describe)
        .and_then(|(_, partition)| partition.leader_log().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    match found.map(|log| log.end_of_epoch(part.leader_epoch)) {
        Ok(Some((epoch, end))) => answer(part.partition, 0, epoch, end),
        Ok(None) => answer(part.partition, 0, -1, -1),
        Err(code) => answer(part.partition, code.0, -1, -1),
    }
}
