//! EndTxn, versions 0-5: commit or abort; 5 ends a transaction in an epoch of its own and tells the next one (KIP-890).

use super::{Context, Handled, Handler, check_coordinator, fenced_before, own, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::broker::transactions::{End, Identity};
use crate::wire::messages::end_txn::{EndTxnRequest, EndTxnResponse};

/// From this version on, the end has an epoch of its own.
const BUMPS: i16 = 5;

impl Handler for EndTxnRequest {
    type Answer = EndTxnResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<EndTxnResponse> {
        match end(&self, state, ctx) {
            Ok(identity) if ctx.version >= BUMPS => Handled::Now(EndTxnResponse {
                producer_id: identity.producer_id,
                producer_epoch: identity.epoch,
                ..Default::default()
            }),
            Ok(_) => Handled::Now(EndTxnResponse::default()),
            Err(code) => self.refuse(state, ctx, fenced_before(2, ctx, code)),
        }
    }

    refuse_with!(|_request, code| EndTxnResponse {
        error_code: code,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    });
}

fn end(request: &EndTxnRequest, state: &mut State, ctx: &Context) -> Result<Identity, ErrorCode> {
    let id = own(&request.transactional_id);
    state.rights.check_transactional_id(&id, Operation::Write)?;
    if id.is_empty() {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    check_coordinator(state, ctx, &id)?;
    let caller = Identity { producer_id: request.producer_id, epoch: request.producer_epoch };
    let end = End { commit: request.committed, bumps: ctx.version >= BUMPS };
    state.end_transaction(&id, caller, end, ctx.moment())
}
