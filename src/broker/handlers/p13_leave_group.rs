//! LeaveGroup, versions 0-5: 3 names many members, by instance id too.

use super::{Context, Handled, Handler, check_group, refuse_with};
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberResponse};

impl Handler for LeaveGroupRequest {
    type Answer = LeaveGroupResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<LeaveGroupResponse> {
        if let Err(code) = check_group(state, ctx, &self.group_id, Operation::Read) {
            return self.refuse(state, ctx, code);
        }
        if ctx.version < 3 {
            let code = state.groups.leave(ctx.now, &self.group_id, &self.member_id, None);
            return Handled::Now(LeaveGroupResponse { error_code: code.0, ..Default::default() });
        }
        let members = self
            .members
            .into_iter()
            .map(|member| {
                let instance = member.group_instance_id.as_deref();
                let code = state.groups.leave(ctx.now, &self.group_id, &member.member_id, instance);
                MemberResponse {
                    error_code: code.0,
                    member_id: member.member_id,
                    group_instance_id: member.group_instance_id,
                }
            })
            .collect();
        Handled::Now(LeaveGroupResponse { members, ..Default::default() })
    }

    refuse_with!(|_request, code| LeaveGroupResponse { error_code: code, ..Default::default() });
}
