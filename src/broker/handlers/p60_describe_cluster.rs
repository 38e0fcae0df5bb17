//! DescribeCluster, versions 0-2: of brokers; there are no controllers to describe.

use super::{Context, Handled, Handler, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::wire::Str;
use crate::wire::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};

const BROKERS: i8 = 1;
const NO_OPERATIONS: i32 = i32::MIN;

impl Handler for DescribeClusterRequest {
    type Answer = DescribeClusterResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DescribeClusterResponse> {
        if ctx.version >= 1 && self.endpoint_type != BROKERS {
            return self.refuse(state, ctx, ErrorCode::MISMATCHED_ENDPOINT_TYPE);
        }
        let with_dead = ctx.version >= 2 && self.include_fenced_brokers;
        let brokers =
            state.nodes().filter(|node| node.alive || with_dead).map(|node| DescribeClusterBroker {
                broker_id: node.id,
                host: node.endpoint(ctx.listener).host.clone(),
                port: i32::from(node.endpoint(ctx.listener).port),
                rack: None,
                is_fenced: !node.alive,
            });
        Handled::Now(DescribeClusterResponse {
            brokers: brokers.collect(),
            cluster_id: state.cluster_id.clone(),
            controller_id: state.controller(),
            cluster_authorized_operations: NO_OPERATIONS,
            ..Default::default()
        })
    }

    refuse_with!(|_request, code| DescribeClusterResponse {
        error_code: code,
        error_message: Some(Str::from(ErrorCode(code).to_string())),
        controller_id: -1,
        cluster_authorized_operations: NO_OPERATIONS,
        ..Default::default()
    });
}
