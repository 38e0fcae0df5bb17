//! JoinGroup, versions 0-9: 1 rebalance timeout, 4 a member id is required (KIP-394), 5 static members, 7 protocol type
//! in the answer, 9 a returning static leader may skip the assignment.

use bytes::Bytes;

use super::{Context, Handled, Handler, check_group, millis, own, own_option};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::groups::{Join, Joined, Output};
use crate::broker::rights::Operation;
use crate::wire::Str;
use crate::wire::messages::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember};

impl Handler for JoinGroupRequest {
    type Answer = JoinGroupResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<JoinGroupResponse> {
        if let Err(code) = check_group(state, ctx, &self.group_id, Operation::Read) {
            return self.refuse(state, ctx, code);
        }
        let rebalance_timeout =
            if ctx.version >= 1 { self.rebalance_timeout_ms } else { self.session_timeout_ms };
        let join = Join {
            member_id: own(&self.member_id),
            instance_id: own_option(&self.group_instance_id),
            client_id: ctx.client_id.clone(),
            client_host: ctx.client_host.clone(),
            session_timeout: millis(self.session_timeout_ms),
            rebalance_timeout: millis(rebalance_timeout),
            protocol_type: own(&self.protocol_type),
            protocols: self
                .protocols
                .iter()
                .map(|protocol| (own(&protocol.name), Bytes::copy_from_slice(&protocol.metadata)))
                .collect(),
            can_require_id: ctx.version >= 4,
            can_skip_assignment: ctx.version >= 9,
        };
        let member_id = join.member_id.clone();
        let State { groups, rng, .. } = state;
        let ticket = groups.ticket();
        groups.join(ctx.now, own(&self.group_id), join, || uuid_text(rng.u128(..)), ticket);
        let version = ctx.version;
        Handled::Told(
            ticket,
            Box::new(move |told| match told {
                Output::Joined(_, joined) => shape(joined, version),
                _ => shape(Joined::refused(ErrorCode::NOT_COORDINATOR, member_id), version),
            }),
        )
    }

    fn refuse(self, _: &State, ctx: &Context, code: ErrorCode) -> Handled<JoinGroupResponse> {
        Handled::Now(shape(Joined::refused(code, self.member_id), ctx.version))
    }
}

fn shape(joined: Joined, version: i16) -> JoinGroupResponse {
    let protocol_name =
        if version >= 7 { joined.protocol } else { Some(joined.protocol.unwrap_or_default()) };
    JoinGroupResponse {
        error_code: joined.error.0,
        generation_id: joined.generation,
        protocol_type: joined.protocol_type.filter(|_| version >= 7),
        protocol_name,
        leader: joined.leader,
        skip_assignment: joined.skip_assignment && version >= 9,
        member_id: joined.member_id,
        members: joined
            .members
            .into_iter()
            .map(|(member_id, instance_id, metadata)| JoinGroupResponseMember {
                member_id,
                group_instance_id: instance_id.filter(|_| version >= 5),
                metadata,
            })
            .collect(),
        ..Default::default()
    }
}

/// A random id in the notation of UUIDs, as Kafka puts it behind the client id.
fn uuid_text(bits: u128) -> String {
    let text = Str::from(format!("{bits:032x}"));
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}
