//! SyncGroup, versions 0-5: followers wait for the leader's assignment; 5 carries protocol type and name.

use super::{Context, Handled, Handler, check_group, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::groups::{Caller, Output, Synced};
use crate::broker::rights::Operation;
use crate::wire::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};

impl Handler for SyncGroupRequest {
    type Answer = SyncGroupResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<SyncGroupResponse> {
        if let Err(code) = check_group(state, ctx, &self.group_id, Operation::Read) {
            return self.refuse(state, ctx, code);
        }
        let caller = Caller {
            member_id: &self.member_id,
            instance_id: self.group_instance_id.as_deref(),
            generation: self.generation_id,
        };
        let assignments =
            self.assignments.into_iter().map(|member| (member.member_id, member.assignment)).collect();
        let protocol = (self.protocol_type.as_deref(), self.protocol_name.as_deref());
        let ticket = state.groups.ticket();
        state.groups.sync(ctx.now, &self.group_id, &caller, protocol, assignments, ticket);
        let version = ctx.version;
        Handled::Told(
            ticket,
            Box::new(move |told| match told {
                Output::Synced(_, synced) => shape(synced, version),
                _ => shape(Synced::refused(ErrorCode::NOT_COORDINATOR), version),
            }),
        )
    }

    refuse_with!(|_request, code| SyncGroupResponse { error_code: code, ..Default::default() });
}

fn shape(synced: Synced, version: i16) -> SyncGroupResponse {
    SyncGroupResponse {
        error_code: synced.error.0,
        protocol_type: synced.protocol_type.filter(|_| version >= 5),
        protocol_name: synced.protocol.filter(|_| version >= 5),
        assignment: synced.assignment,
        ..Default::default()
    }
}
