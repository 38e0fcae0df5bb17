//! DescribeTransactions, version 0: transactional ids, by their coordinator (KIP-664).

use std::collections::BTreeMap;

use super::{Context, Handled, Handler, check_coordinator, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::Str;
use crate::wire::messages::describe_transactions::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, TopicData, TransactionState,
};

impl Handler for DescribeTransactionsRequest {
    type Answer = DescribeTransactionsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DescribeTransactionsResponse> {
        let one = |id: Str| match describe(state, ctx, &id) {
            Ok(found) => found,
            Err(code) => refused(id, code.0),
        };
        let transaction_states = self.transactional_ids.into_iter().map(one).collect();
        Handled::Now(DescribeTransactionsResponse { transaction_states, ..Default::default() })
    }

    refuse_with!(|request, code| DescribeTransactionsResponse {
        transaction_states: request.transactional_ids.into_iter().map(|id| refused(id, code)).collect(),
        ..Default::default()
    });
}

fn refused(transactional_id: Str, error_code: i16) -> TransactionState {
    TransactionState { error_code, transactional_id, ..Default::default() }
}

fn describe(state: &State, ctx: &Context, id: &Str) -> Result<TransactionState, ErrorCode> {
    state.rights.check_transactional_id(id, Operation::Describe)?;
    if id.is_empty() {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    check_coordinator(state, ctx, id)?;
    let entry = state.transactions.get(id).ok_or(ErrorCode::TRANSACTIONAL_ID_NOT_FOUND)?;
    let mut topics: BTreeMap<&Str, Vec<i32>> = BTreeMap::new();
    let allowed = |name: &str| state.rights.check_topic(name, Operation::Describe).is_ok();
    for (name, index) in entry.parts.keys().filter(|(name, _)| allowed(name)) {
        topics.entry(name).or_default().push(*index);
    }
    let topics = topics
        .into_iter()
        .map(|(topic, partitions)| TopicData { topic: topic.clone(), partitions: partitions.into() });
    Ok(TransactionState {
        error_code: 0,
        transactional_id: id.clone(),
        transaction_state: Str::from_static(entry.phase.name()),
        transaction_timeout_ms: i32::try_from(entry.timeout.as_millis()).unwrap_or(i32::MAX),
        transaction_start_time_ms: entry.started.map_or(-1, |started| started.wall),
        producer_id: entry.identity.producer_id,
        producer_epoch: entry.identity.epoch,
        topics: topics.collect(),
    })
}
