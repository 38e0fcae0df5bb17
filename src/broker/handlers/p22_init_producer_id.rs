//! InitProducerId, versions 0-5: of idempotent producers at any node, of transactional ones at their coordinator.
//!
//! 3 tells the identity that the producer had (KIP-360), 4 may be answered with PRODUCER_FENCED (KIP-588).

use super::{Context, Handled, Handler, check_coordinator, fenced_before, millis, own, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::broker::transactions::{Identity, Welcome};
use crate::wire::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

impl Handler for InitProducerIdRequest {
    type Answer = InitProducerIdResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<InitProducerIdResponse> {
        match init(&self, state, ctx) {
            Ok(identity) => Handled::Now(InitProducerIdResponse {
                producer_id: identity.producer_id,
                producer_epoch: identity.epoch,
                ..Default::default()
            }),
            Err(code) => self.refuse(state, ctx, fenced_before(4, ctx, code)),
        }
    }

    refuse_with!(|_request, code| InitProducerIdResponse {
        error_code: code,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    });
}

fn init(request: &InitProducerIdRequest, state: &mut State, ctx: &Context) -> Result<Identity, ErrorCode> {
    match &request.transactional_id {
        Some(id) => state.rights.check_transactional_id(id, Operation::Write)?,
        None => state.rights.check_cluster(Operation::Write)?,
    }
    let identity = Identity { producer_id: request.producer_id, epoch: request.producer_epoch };
    let expected = match identity {
        Identity::NONE => None,
        Identity { producer_id: -1, .. } | Identity { epoch: -1, .. } => {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        identity => Some(identity),
    };
    let Some(id) = &request.transactional_id else {
        // Without transactional id Kafka ignores what a producer says about itself, and every call gets a new id.
        return Ok(Identity { producer_id: state.transactions.new_producer_id(), epoch: 0 });
    };
    if id.is_empty() {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    check_coordinator(state, ctx, id)?;
    let timeout = millis(request.transaction_timeout_ms);
    match state.init_transactional(&own(id), expected, timeout, ctx.moment())? {
        Welcome::Ready(identity) => Ok(identity),
        Welcome::Wait => Err(ErrorCode::CONCURRENT_TRANSACTIONS),
    }
}
