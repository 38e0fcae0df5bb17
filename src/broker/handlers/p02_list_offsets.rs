//! ListOffsets, versions 1-10: -1 latest, -2 earliest, -3 largest timestamp, -4 earliest local, -5 latest tiered, or by
//! time. Readers of committed records are told of nothing behind the last stable offset.

use super::{Context, Handled, Handler, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::log::Log;
use crate::broker::rights::Operation;
use crate::broker::{readback, replay};
use crate::wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

impl Handler for ListOffsetsRequest {
    type Answer = ListOffsetsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<ListOffsetsResponse> {
        let committed = self.isolation_level == 1;
        let topics = self
            .topics
            .into_iter()
            .map(|topic| ListOffsetsTopicResponse {
                partitions: topic
                    .partitions
                    .iter()
                    .map(|part| one(state, ctx, &topic.name, part, committed))
                    .collect(),
                name: topic.name,
            })
            .collect();
        Handled::Now(ListOffsetsResponse { topics, ..Default::default() })
    }

    refuse_with!(|request, code| ListOffsetsResponse {
        topics: request
            .topics
            .into_iter()
            .map(|topic| ListOffsetsTopicResponse {
                partitions: topic
                    .partitions
                    .iter()
                    .map(|part| answer(part.partition_index, code, -1, -1, -1))
                    .collect(),
                name: topic.name,
            })
            .collect(),
        ..Default::default()
    });
}

fn answer(
    partition_index: i32,
    error_code: i16,
    timestamp: i64,
    offset: i64,
    leader_epoch: i32,
) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse { partition_index, error_code, timestamp, offset, leader_epoch }
}

fn one(
    state: &State,
    ctx: &Context,
    topic: &str,
    part: &ListOffsetsPartition,
    committed: bool,
) -> ListOffsetsPartitionResponse {
    let index = part.partition_index;
    let found = state.led(ctx.node, topic, index, part.current_leader_epoch, Operation::Describe).and_then(
        |(_, partition)| Ok((partition, partition.leader_log().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?)),
    );
    let (partition, log) = match found {
        Ok(found) => found,
        Err(code) => return answer(index, code.0, -1, -1, -1),
    };
    let epoch = if ctx.version >= 4 { partition.leader_epoch } else { -1 };
    let end = match committed {
        _ if state.replay.is_some() => replay::END,
        true => partition.last_stable_offset(),
        false => partition.high_watermark,
    };
    match part.timestamp {
        LATEST => answer(index, 0, -1, end, epoch),
        EARLIEST | EARLIEST_LOCAL => {
            let epoch = if ctx.version >= 4 { log.epoch_at(log.start()) } else { -1 };
            answer(index, 0, -1, log.start(), epoch)
        }
        LATEST_TIERED => answer(index, 0, -1, -1, -1),
        timestamp if timestamp < LATEST_TIERED => answer(index, ErrorCode::UNSUPPORTED_VERSION.0, -1, -1, -1),
        timestamp => match by_time(log, end, timestamp) {
            Some((timestamp, offset, epoch)) => {
                answer(index, 0, timestamp, offset, if ctx.version >= 4 { epoch } else { -1 })
            }
            None => answer(index, 0, -1, -1, -1),
        },
    }
}

/// Timestamp, offset and epoch of the first record not older than `timestamp`, or of the youngest.
fn by_time(log: &Log, end: i64, timestamp: i64) -> Option<(i64, i64, i32)> {
    let mut committed = log.batches().filter(|batch| batch.last_offset < end);
    let (batch, wanted) = if timestamp == MAX_TIMESTAMP {
        let mut youngest = None;
        for batch in committed {
            if youngest.is_none_or(|(_, max)| batch.head.max_timestamp > max) {
                youngest = Some((batch, batch.head.max_timestamp));
            }
        }
        youngest?
    } else {
        (committed.find(|batch| batch.head.max_timestamp >= timestamp)?, timestamp)
    };
    let (timestamp, offset) = readback::timestamps(batch)
        .into_iter()
        .find(|(time, offset)| *time >= wanted && *offset >= log.start())
        .unwrap_or((batch.head.max_timestamp, batch.base_offset.max(log.start())));
    Some((timestamp, offset, batch.leader_epoch))
}
