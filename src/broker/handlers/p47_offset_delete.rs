//! OffsetDelete, version 0: only of groups without members.

use super::{Context, Handled, Handler, check_group, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::groups::Phase;
use crate::broker::rights::Operation;
use crate::wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};

impl Handler for OffsetDeleteRequest {
    type Answer = OffsetDeleteResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<OffsetDeleteResponse> {
        let refusal = match check_group(state, ctx, &self.group_id, Operation::Delete) {
            Err(code) => Some(code),
            Ok(()) => match state.groups.get(&self.group_id) {
                None => Some(ErrorCode::GROUP_ID_NOT_FOUND),
                Some(entry) if entry.group.phase != Phase::Empty => Some(ErrorCode::NON_EMPTY_GROUP),
                Some(_) => None,
            },
        };
        if let Some(code) = refusal {
            return self.refuse(state, ctx, code);
        }
        let mut topics = Vec::with_capacity(self.topics.len());
        for topic in self.topics {
            let allowed = state.rights.check_topic(&topic.name, Operation::Read);
            let error_code = allowed.err().map_or(0, |code| code.0);
            let partitions = topic
                .partitions
                .iter()
                .map(|part| {
                    if allowed.is_ok() {
                        state.groups.forget(&self.group_id, &topic.name, part.partition_index);
                    }
                    OffsetDeleteResponsePartition { partition_index: part.partition_index, error_code }
                })
                .collect();
            topics.push(OffsetDeleteResponseTopic { name: topic.name, partitions });
        }
        Handled::Now(OffsetDeleteResponse { topics, ..Default::default() })
    }

    refuse_with!(|_request, code| OffsetDeleteResponse { error_code: code, ..Default::default() });
}
