//! DeleteTopics, versions 1-6: 6 names topics by id too.

use super::{Context, Handled, Handler};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::messages::delete_topics::{
    DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};

impl Handler for DeleteTopicsRequest {
    type Answer = DeleteTopicsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DeleteTopicsResponse> {
        let responses = asked(self, ctx.version).into_iter().map(|topic| one(state, topic)).collect();
        Handled::Now(DeleteTopicsResponse { responses, ..Default::default() })
    }

    fn refuse(self, _: &State, ctx: &Context, code: ErrorCode) -> Handled<DeleteTopicsResponse> {
        let refused = |topic: DeleteTopicState| DeletableTopicResult {
            name: topic.name,
            topic_id: topic.topic_id,
            error_code: code.0,
            error_message: None,
        };
        let responses = asked(self, ctx.version).into_iter().map(refused).collect();
        Handled::Now(DeleteTopicsResponse { responses, ..Default::default() })
    }
}

fn asked(request: DeleteTopicsRequest, version: i16) -> Vec<DeleteTopicState> {
    if version >= 6 {
        return request.topics;
    }
    let state = |name| DeleteTopicState { name: Some(name), ..Default::default() };
    request.topic_names.into_iter().map(state).collect()
}

fn one(state: &mut State, topic: DeleteTopicState) -> DeletableTopicResult {
    let (name, missing) = match topic.name {
        Some(name) => (Some(name), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        None => (state.topic_name(&topic.topic_id).cloned(), ErrorCode::UNKNOWN_TOPIC_ID),
    };
    if let Some(Err(code)) = name.as_ref().map(|name| state.rights.check_topic(name, Operation::Delete)) {
        let topic_id = topic.topic_id;
        return DeletableTopicResult { name, topic_id, error_code: code.0, error_message: None };
    }
    match name.as_ref().and_then(|name| state.delete_topic(name)) {
        Some(topic_id) => DeletableTopicResult { name, topic_id, ..Default::default() },
        None => DeletableTopicResult {
            name,
            topic_id: topic.topic_id,
            error_code: missing.0,
            error_message: None,
        },
    }
}
