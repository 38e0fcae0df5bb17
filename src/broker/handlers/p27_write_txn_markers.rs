//! WriteTxnMarkers, versions 1-2: ends transactions in partitions that this node leads. Coordinators of this cluster do so by
//! themselves; clients use it to abort what hangs (KIP-664). 2 names the version of the protocol.

use super::{Answer, Context, Handled, Handler, own};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::log::{Ending, Marker};
use crate::broker::rights::Operation;
use crate::broker::transactions::{OFFSETS_TOPIC, Part};
use crate::wire::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerPartitionResult, WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use crate::wire::{ApiKey, EncodeError};

impl Handler for WriteTxnMarkersRequest {
    type Answer = WriteTxnMarkersResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<WriteTxnMarkersResponse> {
        if let Err(code) = state.rights.check_cluster(Operation::Alter) {
            return self.refuse(state, ctx, code);
        }
        let write = |marker: &WritableTxnMarker| {
            let ending = Ending {
                producer_id: marker.producer_id,
                producer_epoch: marker.producer_epoch,
                marker: Marker {
                    commit: marker.transaction_result,
                    coordinator_epoch: marker.coordinator_epoch,
                },
                bumps: marker.transaction_version >= 2,
            };
            result(marker, |part| write(state, ctx, &part, &ending).err().unwrap_or(ErrorCode::NONE))
        };
        let markers = self.markers.iter().map(write).collect();
        Handled::Now(WriteTxnMarkersResponse { markers })
    }

    fn refuse(self, _: &State, _: &Context, code: ErrorCode) -> Handled<WriteTxnMarkersResponse> {
        let markers = self.markers.iter().map(|marker| result(marker, |_| code)).collect();
        Handled::Now(WriteTxnMarkersResponse { markers })
    }
}

fn write(state: &mut State, ctx: &Context, part: &Part, ending: &Ending) -> Result<(), ErrorCode> {
    let (topic, index) = part;
    if *topic == OFFSETS_TOPIC {
        return if state.groups.coordinator_at(*index) == ctx.node {
            state.groups.end_transaction(ctx.now, *index, ending)
        } else {
            Err(ErrorCode::NOT_LEADER_OR_FOLLOWER)
        };
    }
    state.write_marker(ctx.node, part, ending, ctx.moment()).map(|_| ())
}

fn result(marker: &WritableTxnMarker, mut code: impl FnMut(Part) -> ErrorCode) -> WritableTxnMarkerResult {
    let topics = marker.topics.iter().map(|topic| WritableTxnMarkerTopicResult {
        name: topic.name.clone(),
        partitions: topic
            .partition_indexes
            .iter()
            .map(|index| WritableTxnMarkerPartitionResult {
                partition_index: index,
                error_code: code((own(&topic.name), index)).0,
            })
            .collect(),
    });
    WritableTxnMarkerResult { producer_id: marker.producer_id, topics: topics.collect() }
}

impl Answer for WriteTxnMarkersResponse {
    /// It has no field for a pause.
    fn throttle(&mut self, _: i32) {}

    fn into_frame(
        self,
        key: ApiKey,
        version: i16,
        correlation_id: i32,
    ) -> Result<Vec<bytes::Bytes>, EncodeError> {
        Ok(vec![super::encode_response(&self, key, version, correlation_id)?.freeze()])
    }
}
