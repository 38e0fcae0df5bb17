//! FindCoordinator, versions 0-6: of groups and transactional ids; 4 asks for many keys.

use super::{Context, Handled, Handler};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::Str;
use crate::wire::messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

impl Handler for FindCoordinatorRequest {
    type Answer = FindCoordinatorResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<FindCoordinatorResponse> {
        let kind = self.key_type;
        let found =
            self.keys(ctx.version).into_iter().map(|key| find(state, ctx.listener, kind, key)).collect();
        Handled::Now(shape(found, ctx.version))
    }

    fn refuse(self, _: &State, ctx: &Context, code: ErrorCode) -> Handled<FindCoordinatorResponse> {
        let refused = self.keys(ctx.version).into_iter().map(|key| refused(key, code, None)).collect();
        Handled::Now(shape(refused, ctx.version))
    }
}

trait Keys {
    fn keys(self, version: i16) -> Vec<Str>;
}

impl Keys for FindCoordinatorRequest {
    fn keys(self, version: i16) -> Vec<Str> {
        if version >= 4 { self.coordinator_keys } else { vec![self.key] }
    }
}

fn shape(mut found: Vec<Coordinator>, version: i16) -> FindCoordinatorResponse {
    if version >= 4 {
        return FindCoordinatorResponse { coordinators: found, ..Default::default() };
    }
    let one = found.pop().unwrap_or_default();
    FindCoordinatorResponse {
        error_code: one.error_code,
        error_message: if version >= 1 { one.error_message } else { None },
        node_id: one.node_id,
        host: one.host,
        port: one.port,
        ..Default::default()
    }
}

fn refused(key: Str, code: ErrorCode, message: Option<Str>) -> Coordinator {
    Coordinator { key, node_id: -1, host: Str::new(), port: -1, error_code: code.0, error_message: message }
}

fn find(state: &State, listener: usize, kind: i8, key: Str) -> Coordinator {
    let coordinator = match kind {
        GROUP if key.is_empty() => return refused(key, ErrorCode::INVALID_GROUP_ID, None),
        GROUP => state.rights.check_group(&key, Operation::Describe).map(|()| state.groups.coordinator(&key)),
        TRANSACTION => state
            .rights
            .check_transactional_id(&key, Operation::Describe)
            .map(|()| state.transactions.coordinator(&key)),
        _ => {
            let why = "the embedded cluster coordinates groups and transactions only";
            return refused(key, ErrorCode::INVALID_REQUEST, Some(Str::from_static(why)));
        }
    };
    let coordinator = match coordinator {
        Ok(coordinator) => coordinator,
        Err(code) => return refused(key, code, None),
    };
    match state.node(coordinator).filter(|node| node.alive) {
        Some(node) => Coordinator {
            key,
            node_id: node.id,
            host: node.endpoint(listener).host.clone(),
            port: i32::from(node.endpoint(listener).port),
            error_code: 0,
            error_message: None,
        },
        None => refused(key, ErrorCode::COORDINATOR_NOT_AVAILABLE, None),
    }
}
