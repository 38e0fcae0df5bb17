//! DeleteGroups, versions 0-2: only groups without members.

use super::{Context, Handled, Handler, check_group, refuse_with};
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::messages::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};

impl Handler for DeleteGroupsRequest {
    type Answer = DeleteGroupsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DeleteGroupsResponse> {
        let results = self
            .groups_names
            .into_iter()
            .map(|group_id| {
                let code = match check_group(state, ctx, &group_id, Operation::Delete) {
                    Ok(()) => state.groups.delete(&group_id),
                    Err(code) => code,
                };
                DeletableGroupResult { group_id, error_code: code.0, ..Default::default() }
            })
            .collect();
        Handled::Now(DeleteGroupsResponse { results, ..Default::default() })
    }

    refuse_with!(|request, code| DeleteGroupsResponse {
        results: request
            .groups_names
            .into_iter()
            .map(|group_id| DeletableGroupResult { group_id, error_code: code, ..Default::default() })
            .collect(),
        ..Default::default()
    });
}
