//! TxnOffsetCommit, versions 0-5: offsets that count once the transaction is committed; 3 names member and generation
//! (KIP-447), 5 adds the group to the transaction by itself (KIP-890).

use super::{Context, Handled, Handler, check_group, own, own_option};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::groups::{Caller, Committed, METADATA_MAX};
use crate::broker::rights::Operation;
use crate::broker::transactions::{Identity, Part};
use crate::wire::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};

impl Handler for TxnOffsetCommitRequest {
    type Answer = TxnOffsetCommitResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<TxnOffsetCommitResponse> {
        let allowed = state
            .rights
            .check_transactional_id(&self.transactional_id, Operation::Write)
            .and_then(|()| state.rights.check_group(&self.group_id, Operation::Read));
        if let Err(code) = allowed {
            return self.refuse(state, ctx, code);
        }
        let known = |(name, index): &Part| {
            state.rights.check_topic(name, Operation::Read)?;
            let topic = state.topic_at(ctx.node, name);
            let found = topic.is_some_and(|topic| topic.partition(*index).is_some());
            if found { Ok(()) } else { Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) }
        };
        let (mut offsets, mut any) = (Vec::new(), false);
        let mut code_of = |part: Part, partition: &TxnOffsetCommitRequestPartition| {
            if let Err(code) = known(&part) {
                return (code, false);
            }
            any = true;
            if partition.committed_metadata.as_ref().is_some_and(|text| text.len() > METADATA_MAX) {
                return (ErrorCode::OFFSET_METADATA_TOO_LARGE, true);
            }
            let committed = Committed {
                offset: partition.committed_offset,
                leader_epoch: partition.committed_leader_epoch,
                metadata: own_option(&partition.committed_metadata),
                ..Committed::default()
            };
            offsets.push((part, committed));
            (ErrorCode::NONE, true)
        };
        // Every partition with its code, and whether it is the group that decides about it.
        let mut answers: Vec<(TxnOffsetCommitResponseTopic, Vec<bool>)> = Vec::new();
        for topic in &self.topics {
            let mut answer = TxnOffsetCommitResponseTopic { name: topic.name.clone(), ..Default::default() };
            let mut by_group = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let (code, asked) = code_of((own(&topic.name), partition.partition_index), partition);
                by_group.push(asked);
                answer.partitions.push(TxnOffsetCommitResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: code.0,
                });
            }
            answers.push((answer, by_group));
        }
        let outcome = if any { commit(&self, state, ctx, offsets) } else { Ok(()) };
        if let Err(code) = outcome {
            for (answer, by_group) in &mut answers {
                for (partition, _) in answer.partitions.iter_mut().zip(by_group).filter(|(_, asked)| **asked)
                {
                    partition.error_code = told(ctx, code).0;
                }
            }
        }
        let topics = answers.into_iter().map(|(answer, _)| answer).collect();
        Handled::Now(TxnOffsetCommitResponse { topics, ..Default::default() })
    }

    fn refuse(self, _: &State, ctx: &Context, code: ErrorCode) -> Handled<TxnOffsetCommitResponse> {
        let code = told(ctx, code).0;
        let topics = self.topics.into_iter().map(|topic| TxnOffsetCommitResponseTopic {
            name: topic.name,
            topic_id: topic.topic_id,
            partitions: topic
                .partitions
                .iter()
                .map(|partition| TxnOffsetCommitResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: code,
                })
                .collect(),
        });
        Handled::Now(TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() })
    }
}

fn commit(
    request: &TxnOffsetCommitRequest,
    state: &mut State,
    ctx: &Context,
    offsets: Vec<(Part, Committed)>,
) -> Result<(), ErrorCode> {
    let group = own(&request.group_id);
    if group.is_empty() {
        return Err(ErrorCode::INVALID_GROUP_ID);
    }
    check_group(state, ctx, &group, Operation::Read)?;
    let by = Identity { producer_id: request.producer_id, epoch: request.producer_epoch };
    let caller = Caller {
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id_or_member_epoch,
    };
    let id = own(&request.transactional_id);
    state.commit_in_transaction(ctx.version, (&id, &group), by, &caller, offsets, ctx.moment())
}

/// Before version 2 a group that is loading is told as one without coordinator.
fn told(ctx: &Context, code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS if ctx.version < 2 => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        code => code,
    }
}
