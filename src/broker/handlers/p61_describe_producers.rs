//! DescribeProducers, version 0: the producers that the leader of a partition knows, and their open transactions (KIP-664).

use super::{Context, Handled, Handler, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::messages::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicRequest,
    TopicResponse,
};

impl Handler for DescribeProducersRequest {
    type Answer = DescribeProducersResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DescribeProducersResponse> {
        let topics = self.topics.iter().map(|topic| shape(topic, |index| one(state, ctx, topic, index)));
        Handled::Now(DescribeProducersResponse { topics: topics.collect(), ..Default::default() })
    }

    refuse_with!(|request, code| DescribeProducersResponse {
        topics: request.topics.iter().map(|topic| shape(topic, |_| Err(ErrorCode(code)))).collect(),
        ..Default::default()
    });
}

fn shape(topic: &TopicRequest, one: impl Fn(i32) -> Result<Vec<ProducerState>, ErrorCode>) -> TopicResponse {
    let partition = |index| {
        let found = one(index);
        PartitionResponse {
            partition_index: index,
            error_code: found.as_ref().err().map_or(0, |code| code.0),
            error_message: None,
            active_producers: found.unwrap_or_default(),
        }
    };
    TopicResponse {
        name: topic.name.clone(),
        partitions: topic.partition_indexes.iter().map(partition).collect(),
    }
}

fn one(
    state: &State,
    ctx: &Context,
    topic: &TopicRequest,
    index: i32,
) -> Result<Vec<ProducerState>, ErrorCode> {
    let (_, partition) = state.led(ctx.node, &topic.name, index, -1, Operation::Read)?;
    let active = partition.producers.active(ctx.now).map(|(producer_id, producer)| ProducerState {
        producer_id,
        producer_epoch: i32::from(producer.epoch),
        last_sequence: producer.last_sequence.unwrap_or(-1),
        last_timestamp: producer.last_timestamp,
        coordinator_epoch: producer.coordinator_epoch,
        current_txn_start_offset: producer.transaction_start.unwrap_or(-1),
    });
    Ok(active.collect())
}
