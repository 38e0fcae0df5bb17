//! AddOffsetsToTxn, versions 0-4: offsets of a group will be committed in the transaction.

use std::collections::BTreeSet;

use super::{Context, Handled, Handler, check_coordinator, fenced_before, own, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::{State, offsets_part};
use crate::broker::rights::Operation;
use crate::broker::transactions::Identity;
use crate::wire::messages::add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

impl Handler for AddOffsetsToTxnRequest {
    type Answer = AddOffsetsToTxnResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<AddOffsetsToTxnResponse> {
        match add(&self, state, ctx) {
            Ok(()) => Handled::Now(AddOffsetsToTxnResponse::default()),
            Err(code) => self.refuse(state, ctx, fenced_before(2, ctx, code)),
        }
    }

    refuse_with!(|_request, code| AddOffsetsToTxnResponse { error_code: code, ..Default::default() });
}

fn add(request: &AddOffsetsToTxnRequest, state: &mut State, ctx: &Context) -> Result<(), ErrorCode> {
    let id = own(&request.transactional_id);
    state.rights.check_transactional_id(&id, Operation::Write)?;
    state.rights.check_group(&request.group_id, Operation::Read)?;
    if id.is_empty() {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    check_coordinator(state, ctx, &id)?;
    let caller = Identity { producer_id: request.producer_id, epoch: request.producer_epoch };
    let parts = BTreeSet::from([offsets_part(&request.group_id)]);
    state.transactions.add(&id, caller, parts, false, ctx.moment())
}
