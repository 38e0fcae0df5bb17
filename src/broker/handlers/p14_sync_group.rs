//! SyncGroup, versions 0-5: followers wait for the leader's assignment; 5 carries protocol type and name.

use tokio::sync::oneshot;

use super::{Context, Handled, Handler, check_group, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::groups::{Caller, Synced};
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
        let (reply, mut synced) = oneshot::channel();
        state.groups.sync(ctx.now, &self.group_id, &caller, protocol, assignments, reply);
        let version = ctx.version;
        match synced.try_recv() {
            Ok(synced) => Handled::Now(shape(synced, version)),
            Err(_) => Handled::Later(Box::pin(async move {
                let refused = |_| Synced::refused(ErrorCode::NOT_COORDINATOR);
                shape(synced.await.unwrap_or_else(refused), version)
            })),
        }
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
