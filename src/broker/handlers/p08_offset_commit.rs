//! OffsetCommit, versions 2-10: of group members and of consumers without group management; 10 names topics by id.

use super::{Context, Handled, Handler, check_group, own, own_option};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::groups::{Caller, Committed, METADATA_MAX};
use crate::broker::rights::Operation;
use crate::wire::Str;
use crate::wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};

impl Handler for OffsetCommitRequest {
    type Answer = OffsetCommitResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<OffsetCommitResponse> {
        let caller = Caller {
            member_id: &self.member_id,
            instance_id: self.group_instance_id.as_deref(),
            generation: self.generation_id_or_member_epoch,
        };
        let group = own(&self.group_id);
        let admitted = match check_group(state, ctx, &group, Operation::Read) {
            Ok(()) => state.groups.admit_commit(ctx.now, &group, &caller),
            Err(code) => code,
        };
        if !admitted.is_ok() {
            return self.refuse(state, ctx, admitted);
        }
        let by_id = ctx.version >= 10;
        let mut topics = Vec::with_capacity(self.topics.len());
        for topic in self.topics {
            let name =
                if by_id { state.topic_name(&topic.topic_id).cloned() } else { Some(own(&topic.name)) };
            let unknown =
                if by_id { ErrorCode::UNKNOWN_TOPIC_ID } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION };
            let known = name
                .as_ref()
                .and_then(|name| state.topic_at(ctx.node, name))
                .map(|topic| topic.partitions.len());
            let allowed =
                name.as_ref().map_or(Ok(()), |name| state.rights.check_topic(name, Operation::Read));
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for part in topic.partitions {
                let index = part.partition_index;
                let code = match (&name, known) {
                    _ if allowed.is_err() => ErrorCode::TOPIC_AUTHORIZATION_FAILED,
                    (Some(name), Some(count)) if usize::try_from(index).is_ok_and(|index| index < count) => {
                        if part.committed_metadata.as_ref().is_some_and(|text| text.len() > METADATA_MAX) {
                            ErrorCode::OFFSET_METADATA_TOO_LARGE
                        } else {
                            // Any number, as in Kafka: kafkajs resets to -1 and -2.
                            let committed = Committed {
                                offset: part.committed_offset,
                                leader_epoch: part.committed_leader_epoch,
                                metadata: own_option(&part.committed_metadata),
                                ..Committed::default()
                            };
                            state.groups.commit(&group, name.clone(), index, committed);
                            ErrorCode::NONE
                        }
                    }
                    (Some(_), Some(_)) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                    _ => unknown,
                };
                partitions.push(OffsetCommitResponsePartition { partition_index: index, error_code: code.0 });
            }
            topics.push(OffsetCommitResponseTopic {
                name: if by_id { Str::new() } else { topic.name },
                topic_id: topic.topic_id,
                partitions,
            });
        }
        Handled::Now(OffsetCommitResponse { topics, ..Default::default() })
    }

    fn refuse(self, _: &State, _: &Context, code: ErrorCode) -> Handled<OffsetCommitResponse> {
        let topics = self.topics.into_iter().map(|topic| OffsetCommitResponseTopic {
            name: topic.name,
            topic_id: topic.topic_id,
            partitions: topic
                .partitions
                .iter()
                .map(|part| OffsetCommitResponsePartition {
                    partition_index: part.partition_index,
                    error_code: code.0,
                })
                .collect(),
        });
        Handled::Now(OffsetCommitResponse { topics: topics.collect(), ..Default::default() })
    }
}
