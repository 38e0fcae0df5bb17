//! DeleteRecords, versions 0-2: -1 deletes up to the high watermark.

use super::{Context, Handled, Handler, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteRecordsTopicResult,
};

impl Handler for DeleteRecordsRequest {
    type Answer = DeleteRecordsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DeleteRecordsResponse> {
        let topics = self
            .topics
            .into_iter()
            .map(|topic| DeleteRecordsTopicResult {
                partitions: topic
                    .partitions
                    .iter()
                    .map(|part| match one(state, ctx, &topic.name, part) {
                        Ok(low_watermark) => answer(part.partition_index, low_watermark, 0),
                        Err(code) => answer(part.partition_index, -1, code.0),
                    })
                    .collect(),
                name: topic.name,
            })
            .collect();
        Handled::Now(DeleteRecordsResponse { topics, ..Default::default() })
    }

    refuse_with!(|request, code| DeleteRecordsResponse {
        topics: request
            .topics
            .into_iter()
            .map(|topic| DeleteRecordsTopicResult {
                partitions: topic
                    .partitions
                    .iter()
                    .map(|part| answer(part.partition_index, -1, code))
                    .collect(),
                name: topic.name,
            })
            .collect(),
        ..Default::default()
    });
}

fn answer(partition_index: i32, low_watermark: i64, error_code: i16) -> DeleteRecordsPartitionResult {
    DeleteRecordsPartitionResult { partition_index, low_watermark, error_code }
}

fn one(
    state: &mut State,
    ctx: &Context,
    topic: &str,
    part: &DeleteRecordsPartition,
) -> Result<i64, ErrorCode> {
    let (found, partition) = state.led(ctx.node, topic, part.partition_index, -1, Operation::Delete)?;
    let offset = if part.offset == -1 { partition.high_watermark } else { part.offset };
    if offset < 0 || offset > partition.high_watermark {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    let id = found.id;
    state.advance_start(id, part.partition_index, offset).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
}
