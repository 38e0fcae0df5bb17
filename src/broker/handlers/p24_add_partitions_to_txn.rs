//! AddPartitionsToTxn, versions 0-5: partitions of a transaction, all or none; 4 and 5 are for brokers, of many transactions
//! at once, and may only ask whether they take part (KIP-890).

use std::collections::BTreeSet;

use super::{Context, Handled, Handler, check_coordinator, fenced_before, own};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::broker::transactions::{Identity, Part};
use crate::wire::messages::add_partitions_to_txn::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult, AddPartitionsToTxnTopic, AddPartitionsToTxnTopicResult,
    AddPartitionsToTxnTransaction,
};

/// From this version on, only brokers ask.
const OF_BROKERS: i16 = 4;

impl Handler for AddPartitionsToTxnRequest {
    type Answer = AddPartitionsToTxnResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<AddPartitionsToTxnResponse> {
        if ctx.version >= OF_BROKERS
            && let Err(code) = state.rights.check_cluster(Operation::Alter)
        {
            return self.refuse(state, ctx, code);
        }
        let asked = self.asked(ctx.version);
        let results = asked.into_iter().map(|transaction| one(state, ctx, transaction)).collect();
        Handled::Now(shape(results, ctx.version))
    }

    fn refuse(self, _: &State, ctx: &Context, code: ErrorCode) -> Handled<AddPartitionsToTxnResponse> {
        if ctx.version >= OF_BROKERS {
            return Handled::Now(AddPartitionsToTxnResponse { error_code: code.0, ..Default::default() });
        }
        let asked = self.asked(ctx.version).into_iter();
        let results = asked.map(|transaction| result(&transaction, |_| code)).collect();
        Handled::Now(shape(results, ctx.version))
    }
}

trait Asked {
    fn asked(self, version: i16) -> Vec<AddPartitionsToTxnTransaction>;
}

impl Asked for AddPartitionsToTxnRequest {
    /// The request in the form of version 4.
    fn asked(self, version: i16) -> Vec<AddPartitionsToTxnTransaction> {
        if version >= OF_BROKERS {
            return self.transactions;
        }
        vec![AddPartitionsToTxnTransaction {
            transactional_id: self.v3_and_below_transactional_id,
            producer_id: self.v3_and_below_producer_id,
            producer_epoch: self.v3_and_below_producer_epoch,
            verify_only: false,
            topics: self.v3_and_below_topics,
        }]
    }
}

/// The answer in the form of its version.
fn shape(mut results: Vec<AddPartitionsToTxnResult>, version: i16) -> AddPartitionsToTxnResponse {
    if version >= OF_BROKERS {
        return AddPartitionsToTxnResponse { results_by_transaction: results, ..Default::default() };
    }
    let results_by_topic_v3_and_below = results.pop().unwrap_or_default().topic_results;
    AddPartitionsToTxnResponse { results_by_topic_v3_and_below, ..Default::default() }
}

fn result(
    transaction: &AddPartitionsToTxnTransaction,
    mut code: impl FnMut(Part) -> ErrorCode,
) -> AddPartitionsToTxnResult {
    let mut of_topic = |topic: &AddPartitionsToTxnTopic| AddPartitionsToTxnTopicResult {
        name: topic.name.clone(),
        results_by_partition: topic
            .partitions
            .iter()
            .map(|index| AddPartitionsToTxnPartitionResult {
                partition_index: index,
                partition_error_code: code((topic.name.clone(), index)).0,
            })
            .collect(),
    };
    AddPartitionsToTxnResult {
        transactional_id: transaction.transactional_id.clone(),
        topic_results: transaction.topics.iter().map(&mut of_topic).collect(),
    }
}

fn one(
    state: &mut State,
    ctx: &Context,
    transaction: AddPartitionsToTxnTransaction,
) -> AddPartitionsToTxnResult {
    let id = own(&transaction.transactional_id);
    let of_client = ctx.version < OF_BROKERS;
    if of_client && let Err(code) = state.rights.check_transactional_id(&id, Operation::Write) {
        return result(&transaction, |_| code);
    }
    let known = |(name, index): &Part| {
        if of_client {
            state.rights.check_topic(name, Operation::Write)?;
        }
        let topic = state.topic_at(ctx.node, name);
        let found = topic.is_some_and(|topic| topic.partition(*index).is_some());
        if found { Ok(()) } else { Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) }
    };
    let parts: BTreeSet<Part> = transaction
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|index| (own(&topic.name), index)))
        .collect();
    if parts.iter().any(|part| known(part).is_err()) {
        return result(&transaction, |part| known(&part).err().unwrap_or(ErrorCode::OPERATION_NOT_ATTEMPTED));
    }
    let refused = match check_coordinator(state, ctx, &id) {
        _ if id.is_empty() => Err(ErrorCode::INVALID_REQUEST),
        checked => checked,
    };
    if let Err(code) = refused {
        return result(&transaction, |_| code);
    }
    let caller = Identity { producer_id: transaction.producer_id, epoch: transaction.producer_epoch };
    if transaction.verify_only {
        return result(&transaction, |part| {
            state.transactions.verify(&id, caller, &part).err().unwrap_or(ErrorCode::NONE)
        });
    }
    let added = state.transactions.add(&id, caller, parts, !of_client, ctx.moment());
    let code = added.err().map_or(ErrorCode::NONE, |code| fenced_before(2, ctx, code));
    result(&transaction, |_| code)
}
