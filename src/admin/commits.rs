//! Offsets that groups have committed: changed and deleted from outside.

use std::collections::BTreeMap;

use super::items::Said;
use super::{Admin, CommittedOffset, Results};
use crate::cluster::{CoordinatorKind, Target};
use crate::types::{GroupId, TopicPartition};
use crate::wire::Str;
use crate::wire::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::wire::messages::offset_delete::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use crate::wire::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
};
use crate::{Error, ErrorCode, Result};

/// From this version on OffsetCommit names topics by id alone.
const TOPIC_IDS: i16 = 10;

impl Admin {
    /// Commits offsets in a group's name. The group must have no members, or they must not be managed by it.
    ///
    /// # Errors
    ///
    /// Per partition `UNKNOWN_MEMBER_ID` while the group has members, `UNKNOWN_TOPIC_OR_PARTITION`, and the like.
    pub async fn alter_group_offsets(
        &self,
        group: impl Into<GroupId>,
        offsets: impl IntoIterator<Item = (TopicPartition, CommittedOffset)>,
    ) -> Result<Results<TopicPartition, ()>> {
        let group = group.into();
        let wanted: BTreeMap<TopicPartition, CommittedOffset> = offsets.into_iter().collect();
        let item = |at: &TopicPartition, _| {
            let offset = wanted.get(at);
            Ok((at.clone(), offset.cloned().unwrap_or_else(|| CommittedOffset::new(0))))
        };
        let build = |items: Vec<(TopicPartition, CommittedOffset)>, version, _| {
            let mut topics: BTreeMap<Str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
            for (at, offset) in items {
                let item = OffsetCommitRequestPartition {
                    partition_index: at.partition.0,
                    committed_offset: offset.offset.0,
                    committed_leader_epoch: if version >= 6 { offset.leader_epoch.0 } else { -1 },
                    committed_metadata: Some(offset.metadata.into()),
                };
                topics.entry(at.topic.to_byte_string()).or_default().push(item);
            }
            let topics = topics.into_iter();
            OffsetCommitRequest {
                group_id: group.to_byte_string(),
                generation_id_or_member_epoch: -1,
                retention_time_ms: -1,
                topics: topics
                    .map(|(name, partitions)| OffsetCommitRequestTopic {
                        name,
                        partitions,
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }
        };
        let read = |response: &OffsetCommitResponse| {
            let each = response.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|part| Said {
                    item: TopicPartition::new(topic.name.clone(), part.partition_index),
                    code: ErrorCode(part.error_code),
                    message: None,
                    value: (),
                })
            });
            each.collect()
        };
        let what = |at: &TopicPartition| format!("the offset of group {group} in {at} was not changed");
        let target = Target::Coordinator(CoordinatorKind::Group, group.as_str());
        let items = wanted.keys().cloned().collect();
        let below = TOPIC_IDS - 1;
        let changed = Box::pin(self.items_up_to(target, below, items, what, item, build, read)).await?;
        Ok(explained(changed))
    }

    /// Deletes committed offsets of a group.
    ///
    /// # Errors
    ///
    /// Per partition `GROUP_SUBSCRIBED_TO_TOPIC` while a member subscribes to the topic, `GROUP_ID_NOT_FOUND`, and the like.
    pub async fn delete_group_offsets(
        &self,
        group: impl Into<GroupId>,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<Results<TopicPartition, ()>> {
        let group = group.into();
        let mut wanted: Vec<TopicPartition> = partitions.into_iter().collect();
        wanted.sort();
        wanted.dedup();
        let item = |at: &TopicPartition, _| Ok(at.clone());
        let build = |items: Vec<TopicPartition>, _, _| {
            let mut topics: BTreeMap<Str, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
            for at in items {
                let item = OffsetDeleteRequestPartition { partition_index: at.partition.0 };
                topics.entry(at.topic.to_byte_string()).or_default().push(item);
            }
            let topics =
                topics.into_iter().map(|(name, partitions)| OffsetDeleteRequestTopic { name, partitions });
            OffsetDeleteRequest { group_id: group.to_byte_string(), topics: topics.collect() }
        };
        let all = &wanted;
        let read = |response: &OffsetDeleteResponse| {
            let whole = ErrorCode(response.error_code);
            let said = |item, code| Said { item, code, message: None, value: () };
            if !whole.is_ok() {
                return all.iter().map(|at| said(at.clone(), whole)).collect();
            }
            let each = response.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|part| {
                    let at = TopicPartition::new(topic.name.clone(), part.partition_index);
                    said(at, ErrorCode(part.error_code))
                })
            });
            each.collect()
        };
        let what = |at: &TopicPartition| format!("the offset of group {group} in {at} was not deleted");
        let target = Target::Coordinator(CoordinatorKind::Group, group.as_str());
        let deleted = Box::pin(self.items_at(target, wanted.clone(), what, item, build, read)).await?;
        Ok(explained(deleted))
    }
}

/// With what to do about groups that have members.
fn explained(results: Results<TopicPartition, ()>) -> Results<TopicPartition, ()> {
    let busy = |code: ErrorCode| {
        matches!(
            code,
            ErrorCode::UNKNOWN_MEMBER_ID
                | ErrorCode::ILLEGAL_GENERATION
                | ErrorCode::REBALANCE_IN_PROGRESS
                | ErrorCode::STALE_MEMBER_EPOCH
                | ErrorCode::NON_EMPTY_GROUP
                | ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC
        )
    };
    let explain = |error: Error| match error.code() {
        Some(code) if busy(code) => error
            .with_advice("stop the members of the group first: its offsets are theirs as long as they run"),
        _ => error,
    };
    results.into_iter().map(|(at, result)| (at, result.map_err(explain))).collect()
}
