//! DescribeGroups, versions 0-6: an unknown group is "Dead"; from version 6 also GROUP_ID_NOT_FOUND.

use super::{Context, Handled, Handler, check_group, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::groups::Phase;
use crate::broker::rights::Operation;
use crate::wire::Str;
use crate::wire::messages::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};

const NO_OPERATIONS: i32 = i32::MIN;

impl Handler for DescribeGroupsRequest {
    type Answer = DescribeGroupsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DescribeGroupsResponse> {
        let groups = self.groups.into_iter().map(|name| one(state, ctx, name)).collect();
        Handled::Now(DescribeGroupsResponse { groups, ..Default::default() })
    }

    refuse_with!(|request, code| DescribeGroupsResponse {
        groups: request.groups.into_iter().map(|name| refused(name, code)).collect(),
        ..Default::default()
    });
}

fn refused(group_id: Str, error_code: i16) -> DescribedGroup {
    DescribedGroup { group_id, error_code, authorized_operations: NO_OPERATIONS, ..Default::default() }
}

fn one(state: &State, ctx: &Context, name: Str) -> DescribedGroup {
    if let Err(code) = check_group(state, ctx, &name, Operation::Describe) {
        return refused(name, code.0);
    }
    let Some(entry) = state.groups.get(&name) else {
        let gone = ctx.version >= 6;
        let code = if gone { ErrorCode::GROUP_ID_NOT_FOUND } else { ErrorCode::NONE };
        return DescribedGroup {
            group_state: Str::from_static("Dead"),
            error_message: gone.then(|| format!("Group {name} not found.").into()),
            ..refused(name, code.0)
        };
    };
    let group = &entry.group;
    let protocol = group.protocol.clone().unwrap_or_default();
    let settled = group.phase == Phase::Stable;
    let members = group.members.iter().map(|(id, member)| DescribedGroupMember {
        member_id: id.clone(),
        group_instance_id: member.instance_id.clone().filter(|_| ctx.version >= 4),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        member_metadata: if settled { member.metadata(&protocol) } else { Default::default() },
        member_assignment: if settled { member.assignment.clone() } else { Default::default() },
    });
    DescribedGroup {
        group_state: Str::from_static(group.phase.name()),
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        protocol_data: if settled { protocol.clone() } else { Str::new() },
        members: members.collect(),
        ..refused(name, 0)
    }
}
