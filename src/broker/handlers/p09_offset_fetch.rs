//! OffsetFetch, versions 1-10: null topics ask for all; 7 may ask for stable offsets alone (KIP-447), 8 asks for many groups, 10 names topics by id.

use std::collections::BTreeMap;

use super::{Context, Handled, Handler, check_group};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::groups::Committed;
use crate::broker::rights::Operation;
use crate::wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use crate::wire::{Str, Uuid};

impl Handler for OffsetFetchRequest {
    type Answer = OffsetFetchResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<OffsetFetchResponse> {
        let stable = self.require_stable;
        let groups =
            self.asked(ctx.version).into_iter().map(|group| one(state, ctx, group, stable)).collect();
        Handled::Now(shape(groups, ctx.version))
    }

    fn refuse(self, _: &State, ctx: &Context, code: ErrorCode) -> Handled<OffsetFetchResponse> {
        let groups =
            self.asked(ctx.version).into_iter().map(|group| refused(group, code, ctx.version)).collect();
        Handled::Now(shape(groups, ctx.version))
    }
}

trait Asked {
    fn asked(self, version: i16) -> Vec<OffsetFetchRequestGroup>;
}

impl Asked for OffsetFetchRequest {
    /// The request in the form of version 8.
    fn asked(self, version: i16) -> Vec<OffsetFetchRequestGroup> {
        if version >= 8 {
            return self.groups;
        }
        let topics = self.topics.map(|topics| {
            let topic = |topic: crate::wire::messages::offset_fetch::OffsetFetchRequestTopic| {
                OffsetFetchRequestTopics {
                    name: topic.name,
                    partition_indexes: topic.partition_indexes,
                    ..Default::default()
                }
            };
            topics.into_iter().map(topic).collect()
        });
        vec![OffsetFetchRequestGroup { group_id: self.group_id, topics, ..Default::default() }]
    }
}

/// The answer in the form of its version.
fn shape(mut groups: Vec<OffsetFetchResponseGroup>, version: i16) -> OffsetFetchResponse {
    if version >= 8 {
        return OffsetFetchResponse { groups, ..Default::default() };
    }
    let group = groups.pop().unwrap_or_default();
    let partition = |part: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: part.partition_index,
        committed_offset: part.committed_offset,
        committed_leader_epoch: part.committed_leader_epoch,
        metadata: part.metadata,
        error_code: part.error_code,
    };
    let topic = |topic: OffsetFetchResponseTopics| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(partition).collect(),
    };
    OffsetFetchResponse {
        topics: group.topics.into_iter().map(topic).collect(),
        error_code: group.error_code,
        ..Default::default()
    }
}

fn refused(group: OffsetFetchRequestGroup, code: ErrorCode, version: i16) -> OffsetFetchResponseGroup {
    // Version 1 has no error of its own: every partition carries it.
    let topics = group.topics.filter(|_| version < 2).unwrap_or_default().into_iter().map(|topic| {
        let partition = |index| OffsetFetchResponsePartitions {
            partition_index: index,
            committed_offset: -1,
            committed_leader_epoch: -1,
            metadata: Some(Str::new()),
            error_code: code.0,
        };
        OffsetFetchResponseTopics {
            name: topic.name,
            topic_id: topic.topic_id,
            partitions: topic.partition_indexes.iter().map(partition).collect(),
        }
    });
    OffsetFetchResponseGroup { group_id: group.group_id, topics: topics.collect(), error_code: code.0 }
}

fn one(
    state: &State,
    ctx: &Context,
    group: OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    if let Err(code) = check_group(state, ctx, &group.group_id, Operation::Describe) {
        return refused(group, code, ctx.version);
    }
    if group.group_id.is_empty() {
        return refused(group, ErrorCode::INVALID_GROUP_ID, ctx.version);
    }
    let by_id = ctx.version >= 10;
    let none = BTreeMap::new();
    let entry = state.groups.get(&group.group_id);
    let offsets = entry.map_or(&none, |entry| &entry.offsets);
    let found = |index: i32, committed: Option<&Committed>| OffsetFetchResponsePartitions {
        partition_index: index,
        committed_offset: committed.map_or(-1, |committed| committed.offset),
        committed_leader_epoch: match committed {
            Some(committed) if ctx.version >= 5 => committed.leader_epoch,
            _ => -1,
        },
        metadata: Some(committed.and_then(|committed| committed.metadata.clone()).unwrap_or_default()),
        error_code: 0,
    };
    let answer = |name: &Str, index: i32| {
        if require_stable && entry.is_some_and(|entry| entry.is_unstable(name, index)) {
            let error_code = ErrorCode::UNSTABLE_OFFSET_COMMIT.0;
            return OffsetFetchResponsePartitions { error_code, ..found(index, None) };
        }
        found(index, offsets.get(&(name.clone(), index)))
    };
    let mut topics = Vec::new();
    match group.topics {
        Some(asked) => {
            for topic in asked {
                let name = if by_id { state.topic_name(&topic.topic_id) } else { Some(&topic.name) };
                let name = name
                    .ok_or(ErrorCode::UNKNOWN_TOPIC_ID)
                    .and_then(|name| state.rights.check_topic(name, Operation::Describe).map(|()| name));
                let partitions = topic.partition_indexes.iter().map(|index| match name {
                    Ok(name) => answer(name, index),
                    Err(code) => OffsetFetchResponsePartitions { error_code: code.0, ..found(index, None) },
                });
                topics.push(OffsetFetchResponseTopics {
                    partitions: partitions.collect(),
                    name: topic.name,
                    topic_id: topic.topic_id,
                });
            }
        }
        None => {
            let is_allowed = |name: &str| state.rights.check_topic(name, Operation::Describe).is_ok();
            for (name, index) in offsets.keys().filter(|(name, _)| is_allowed(name)) {
                let id = state.topic(name).map_or(Uuid::ZERO, |topic| topic.id);
                if topics.last().is_none_or(|last: &OffsetFetchResponseTopics| last.name != *name) {
                    topics.push(OffsetFetchResponseTopics {
                        name: name.clone(),
                        topic_id: id,
                        partitions: Vec::new(),
                    });
                }
                if let Some(topic) = topics.last_mut() {
                    topic.partitions.push(answer(name, *index));
                }
            }
        }
    }
    OffsetFetchResponseGroup { group_id: group.group_id, topics, error_code: 0 }
}
