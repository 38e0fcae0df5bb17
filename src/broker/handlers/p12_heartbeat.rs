//! Heartbeat, versions 0-4.

use super::{Context, Handled, Handler, check_group, refuse_with};
use crate::broker::cluster::State;
use crate::broker::groups::Caller;
use crate::broker::rights::Operation;
use crate::wire::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};

impl Handler for HeartbeatRequest {
    type Answer = HeartbeatResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<HeartbeatResponse> {
        let caller = Caller {
            member_id: &self.member_id,
            instance_id: self.group_instance_id.as_deref(),
            generation: self.generation_id,
        };
        let code = match check_group(state, ctx, &self.group_id, Operation::Read) {
            Ok(()) => state.groups.heartbeat(ctx.now, &self.group_id, &caller),
            Err(code) => code,
        };
        Handled::Now(HeartbeatResponse { error_code: code.0, ..Default::default() })
    }

    refuse_with!(|_request, code| HeartbeatResponse { error_code: code, ..Default::default() });
}
