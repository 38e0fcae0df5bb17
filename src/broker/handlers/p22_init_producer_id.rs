//! InitProducerId, versions 0-5: for idempotent producers; there are no transactions here.
//!
//! As in Kafka, every call of a producer without transactional id gets a new producer id.

use super::{Context, Handled, Handler, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

impl Handler for InitProducerIdRequest {
    type Answer = InitProducerIdResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<InitProducerIdResponse> {
        if let Some(id) = &self.transactional_id {
            let code = if id.is_empty() {
                ErrorCode::INVALID_REQUEST
            } else {
                ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
            };
            return self.refuse(state, ctx, code);
        }
        if let Err(code) = state.rights.check_cluster(Operation::Write) {
            return self.refuse(state, ctx, code);
        }
        // Without transactional id Kafka ignores what a producer says about itself.
        Handled::Now(InitProducerIdResponse {
            producer_id: state.new_producer_id(),
            producer_epoch: 0,
            ..Default::default()
        })
    }

    refuse_with!(|_request, code| InitProducerIdResponse {
        error_code: code,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    });
}
