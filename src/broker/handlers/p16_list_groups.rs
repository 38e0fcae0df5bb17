//! ListGroups, versions 0-5: the groups that the asked node coordinates; 4 filters by state, 5 by type.

use super::{Context, Handled, Handler, refuse_with};
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::Str;
use crate::wire::messages::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};

impl Handler for ListGroupsRequest {
    type Answer = ListGroupsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<ListGroupsResponse> {
        let among = |filter: &[Str], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        let groups = state
            .groups
            .iter()
            .filter(|(name, _)| state.groups.coordinator(name) == ctx.node)
            .filter(|(name, _)| state.rights.check_group(name, Operation::Describe).is_ok())
            .filter(|(_, entry)| among(&self.states_filter, entry.group.phase.name()))
            .filter(|_| among(&self.types_filter, "classic"))
            .map(|(name, entry)| ListedGroup {
                group_id: name.clone(),
                protocol_type: entry.group.protocol_type.clone().unwrap_or_default(),
                group_state: Str::from_static(entry.group.phase.name()),
                group_type: Str::from_static("classic"),
            })
            .collect();
        Handled::Now(ListGroupsResponse { groups, ..Default::default() })
    }

    refuse_with!(|_request, code| ListGroupsResponse { error_code: code, ..Default::default() });
}
