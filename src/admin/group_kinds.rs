//! Share groups (KIP-932) and streams groups (KIP-1071), described.

use super::groups::{expand, is_other_kind, text};
use super::{Admin, GroupDescription, GroupKind, GroupState, MemberDescription};
use crate::cluster::{CoordinatorKind, Target};
use crate::types::GroupId;
use crate::wire::messages::share_group_describe::{DescribedGroup as ShareGroup, Member as ShareMember};
use crate::wire::messages::streams_group_describe::{
    DescribedGroup as StreamsGroup, Member as StreamsMember,
};
use crate::wire::messages::{
    ShareGroupDescribeRequest, ShareGroupDescribeResponse, StreamsGroupDescribeRequest,
    StreamsGroupDescribeResponse,
};
use crate::{ErrorCode, Result};

impl Admin {
    /// `None` if it is no share group.
    pub(super) async fn describe_share_group(&self, group: &GroupId) -> Result<Option<GroupDescription>> {
        let target = Target::Coordinator(CoordinatorKind::Group, group.as_str());
        let build = |_| {
            Ok(ShareGroupDescribeRequest { group_ids: vec![group.to_byte_string()], ..Default::default() })
        };
        let code = |response: &ShareGroupDescribeResponse| {
            let code = response.groups.first().map_or(ErrorCode::NONE, |group| ErrorCode(group.error_code));
            if is_other_kind(code) { ErrorCode::NONE } else { code }
        };
        let response = self.cluster.request(target, self.call(), build, code).await?;
        let described = response.groups.into_iter().next();
        Ok(described.filter(|group| ErrorCode(group.error_code).is_ok()).map(share_group))
    }

    /// `None` if it is no streams group.
    pub(super) async fn describe_streams_group(&self, group: &GroupId) -> Result<Option<GroupDescription>> {
        let target = Target::Coordinator(CoordinatorKind::Group, group.as_str());
        let build = |_| {
            Ok(StreamsGroupDescribeRequest { group_ids: vec![group.to_byte_string()], ..Default::default() })
        };
        let code = |response: &StreamsGroupDescribeResponse| {
            let code = response.groups.first().map_or(ErrorCode::NONE, |group| ErrorCode(group.error_code));
            if is_other_kind(code) { ErrorCode::NONE } else { code }
        };
        let response = self.cluster.request(target, self.call(), build, code).await?;
        let described = response.groups.into_iter().next();
        Ok(described.filter(|group| ErrorCode(group.error_code).is_ok()).map(streams_group))
    }
}

fn share_group(group: ShareGroup) -> GroupDescription {
    let member = |member: ShareMember| MemberDescription {
        id: member.member_id.into(),
        instance_id: None,
        client_id: text(member.client_id),
        host: text(member.client_host),
        rack: member.rack_id.map(text),
        subscription: member.subscribed_topic_names.into_iter().map(Into::into).collect(),
        pattern: None,
        assignment: (member.assignment.topic_partitions.iter())
            .flat_map(|topic| expand(&topic.topic_name, &topic.partitions))
            .collect(),
    };
    GroupDescription {
        id: group.group_id.into(),
        kind: GroupKind::Share,
        state: GroupState::parse(&group.group_state),
        protocol_type: "share".to_owned(),
        assignor: text(group.assignor_name),
        epoch: Some(group.group_epoch),
        members: group.members.into_iter().map(member).collect(),
    }
}

fn streams_group(group: StreamsGroup) -> GroupDescription {
    let topology = group.topology.and_then(|topology| topology.subtopologies).unwrap_or_default();
    let member = |member: StreamsMember| {
        // A task is a partition of all source topics of its part of the topology.
        let mut assignment = Vec::new();
        for task in &member.assignment.active_tasks {
            for part in topology.iter().filter(|part| part.subtopology_id == task.subtopology_id) {
                let repartitioned = part.repartition_source_topics.iter().map(|topic| &topic.name);
                let sources = part.source_topics.iter().chain(repartitioned);
                assignment.extend(sources.flat_map(|topic| expand(topic, &task.partitions)));
            }
        }
        MemberDescription {
            assignment,
            id: member.member_id.into(),
            instance_id: member.instance_id.map(text),
            client_id: text(member.client_id),
            host: text(member.client_host),
            rack: member.rack_id.map(text),
            subscription: Vec::new(),
            pattern: None,
        }
    };
    GroupDescription {
        id: group.group_id.into(),
        kind: GroupKind::Streams,
        state: GroupState::parse(&group.group_state),
        protocol_type: "streams".to_owned(),
        assignor: group.assignor_name.map(text).unwrap_or_default(),
        epoch: Some(group.group_epoch),
        members: group.members.into_iter().map(member).collect(),
    }
}
