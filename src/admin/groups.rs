//! Groups: list and describe, of the classic and the KIP-848 protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

use super::items::{check, join_all};
use super::{Admin, Results};
use crate::cluster::{CoordinatorKind, Target};
use crate::runtime::BoxFuture;
use crate::types::{GroupId, MemberId, NodeId, TopicName, TopicPartition};
use crate::wire::messages::consumer_group_describe::{
    Assignment, DescribedGroup as ConsumerGroup, Member as ConsumerMember,
};
use crate::wire::messages::describe_groups::{DescribedGroup as ClassicGroup, DescribedGroupMember};
use crate::wire::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerProtocolAssignment,
    ConsumerProtocolSubscription, DescribeGroupsRequest, DescribeGroupsResponse, ListGroupsRequest,
    ListGroupsResponse,
};
use crate::wire::{Array, Decode, Message, Reader, Str};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// Protocol type of consumer groups on the classic protocol.
const CONSUMER: &str = "consumer";

/// What kind of group it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum GroupKind {
    /// Members join by JoinGroup and SyncGroup.
    Classic,
    /// The broker assigns (KIP-848).
    Consumer,
    /// A share group (KIP-932).
    Share,
    /// A streams group (KIP-1071).
    Streams,
    /// The broker is too old to tell, or too new.
    Unknown,
}

impl GroupKind {
    fn parse(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "classic" => Self::Classic,
            "consumer" => Self::Consumer,
            "share" => Self::Share,
            "streams" => Self::Streams,
            _ => Self::Unknown,
        }
    }
}

/// State of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum GroupState {
    /// Waiting for members to join.
    PreparingRebalance,
    /// Waiting for the assignment.
    CompletingRebalance,
    /// The broker computes an assignment (KIP-848).
    Assigning,
    /// Members are moving to their assignments (KIP-848).
    Reconciling,
    /// All members have their assignments.
    Stable,
    /// There are no members.
    Empty,
    /// The group is gone.
    Dead,
    /// Internal topics are missing (streams groups).
    NotReady,
    /// The broker is too old to tell, or too new.
    Unknown,
}

impl GroupState {
    pub(super) fn parse(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "preparingrebalance" => Self::PreparingRebalance,
            "completingrebalance" => Self::CompletingRebalance,
            "assigning" => Self::Assigning,
            "reconciling" => Self::Reconciling,
            "stable" => Self::Stable,
            "empty" => Self::Empty,
            "dead" => Self::Dead,
            "notready" => Self::NotReady,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupListing {
    /// The id.
    pub id: GroupId,
    /// `consumer` for consumer groups, `connect` for Kafka Connect; empty for groups that only commit offsets.
    pub protocol_type: String,
    /// State, where the broker tells (2.6).
    pub state: GroupState,
    /// Kind, where the broker tells (3.8).
    pub kind: GroupKind,
    /// The coordinator that named it.
    pub coordinator: NodeId,
}

/// All groups, and the brokers that could not be asked: their groups are missing.
#[derive(Debug)]
#[non_exhaustive]
pub struct GroupListings {
    /// The groups, by id, each once.
    pub groups: Vec<GroupListing>,
    /// Brokers without an answer.
    pub failures: BTreeMap<NodeId, Error>,
}

/// A group in detail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// The id.
    pub id: GroupId,
    /// What kind of group it is.
    pub kind: GroupKind,
    /// The state.
    pub state: GroupState,
    /// `consumer` for consumer groups, `share` and `streams` for those.
    pub protocol_type: String,
    /// Assignor in use, such as `cooperative-sticky` or `uniform`; empty while there is none.
    pub assignor: String,
    /// Epoch of the group (KIP-848, KIP-932, KIP-1071).
    pub epoch: Option<i32>,
    /// The members.
    pub members: Vec<MemberDescription>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberDescription {
    /// The id.
    pub id: MemberId,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// `client.id` of the member.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// Rack of the member, where it tells.
    pub rack: Option<String>,
    /// Topics that it subscribes by name; empty if a classic member's bytes are not those of a consumer.
    pub subscription: Vec<TopicName>,
    /// Pattern that it subscribes (KIP-848).
    pub pattern: Option<String>,
    /// Partitions that it has.
    pub assignment: Vec<TopicPartition>,
}

impl Admin {
    /// The groups of all brokers that the principal may describe. Every broker is asked for those it coordinates; one
    /// that cannot be asked within the time limit appears among the failures.
    ///
    /// # Errors
    ///
    /// If not even the brokers are known. See [`Admin`].
    pub async fn list_groups(&self) -> Result<GroupListings> {
        self.list_groups_of([], []).await
    }

    /// [`list_groups`](Self::list_groups) of those in one of these states and of one of these kinds; none for any.
    ///
    /// # Errors
    ///
    /// As [`list_groups`](Self::list_groups). Brokers that are too old to tell states (before 2.6) or kinds (before 3.8), where
    /// they are asked for, are among the failures.
    pub async fn list_groups_of(
        &self,
        states: impl IntoIterator<Item = GroupState>,
        kinds: impl IntoIterator<Item = GroupKind>,
    ) -> Result<GroupListings> {
        let states: BTreeSet<GroupState> = states.into_iter().collect();
        let kinds: BTreeSet<GroupKind> = kinds.into_iter().collect();
        let (states, kinds) = (&states, &kinds);
        let call = self.call();
        let metadata = self.cluster.ready(call.deadline).await?;
        let ask = |node: NodeId| -> BoxFuture<'_, (NodeId, Result<ListGroupsResponse>)> {
            Box::pin(async move {
                let build = |version| {
                    if version < if kinds.is_empty() { 4 } else { 5 }
                        && !(states.is_empty() && kinds.is_empty())
                    {
                        let message = "the broker is too old to tell the groups' states or kinds";
                        return Err(Error::new(ErrorKind::UnsupportedVersion, message));
                    }
                    Ok(ListGroupsRequest {
                        states_filter: states.iter().map(|state| state.to_string().into()).collect(),
                        types_filter: kinds.iter().map(|kind| kind.to_string().into()).collect(),
                    })
                };
                let code = |response: &ListGroupsResponse| ErrorCode(response.error_code);
                (node, self.cluster.request(Target::Node(node), call, build, code).await)
            })
        };
        let mut groups = BTreeMap::new();
        let mut failures = BTreeMap::new();
        for (node, answer) in join_all(metadata.nodes.keys().map(|&node| ask(node)).collect()).await {
            match answer {
                Ok(response) => {
                    for group in response.groups {
                        let listing = GroupListing {
                            id: group.group_id.clone().into(),
                            protocol_type: group.protocol_type.to_string(),
                            state: GroupState::parse(&group.group_state),
                            kind: GroupKind::parse(&group.group_type),
                            coordinator: node,
                        };
                        // While a coordinator moves, two name the same group; the one that is not on its way out wins.
                        let entry = groups.entry(listing.id.clone()).or_insert_with(|| listing.clone());
                        if entry.state == GroupState::Dead {
                            *entry = listing;
                        }
                    }
                }
                Err(error) => {
                    failures.insert(node, error);
                }
            }
        }
        Ok(GroupListings { groups: groups.into_values().collect(), failures })
    }

    /// Members, state and assignments of groups.
    ///
    /// # Errors
    ///
    /// Per group `GROUP_ID_NOT_FOUND` and the like.
    pub async fn describe_groups<G: Into<GroupId>>(
        &self,
        groups: impl IntoIterator<Item = G>,
    ) -> Results<GroupId, GroupDescription> {
        let ask = |group: GroupId| -> BoxFuture<'_, (GroupId, Result<GroupDescription>)> {
            Box::pin(async move {
                let described = self.describe_group(&group).await;
                (group, described)
            })
        };
        let unique: BTreeSet<GroupId> = groups.into_iter().map(Into::into).collect();
        join_all(unique.into_iter().map(ask).collect()).await.into_iter().collect()
    }

    /// One group; see [`describe_groups`](Self::describe_groups).
    pub(super) async fn describe_group(&self, group: &GroupId) -> Result<GroupDescription> {
        if let Some(described) = where_known(self.describe_consumer_group(group).await)? {
            return Ok(described);
        }
        let unknown = match self.describe_classic_group(group).await {
            Err(error) if error.code() == Some(ErrorCode::GROUP_ID_NOT_FOUND) => error,
            described => return described,
        };
        if let Some(described) = where_known(self.describe_share_group(group).await)? {
            return Ok(described);
        }
        where_known(self.describe_streams_group(group).await)?.ok_or(unknown)
    }

    /// `None` if it is no group of the KIP-848 protocol.
    async fn describe_consumer_group(&self, group: &GroupId) -> Result<Option<GroupDescription>> {
        let target = Target::Coordinator(CoordinatorKind::Group, group.as_str());
        let build = |_| {
            Ok(ConsumerGroupDescribeRequest { group_ids: vec![group.to_byte_string()], ..Default::default() })
        };
        let code = |response: &ConsumerGroupDescribeResponse| {
            let code = response.groups.first().map_or(ErrorCode::NONE, |group| ErrorCode(group.error_code));
            if is_other_kind(code) { ErrorCode::NONE } else { code }
        };
        let response = self.cluster.request(target, self.call(), build, code).await?;
        let described = response.groups.into_iter().next();
        Ok(described.filter(|group| ErrorCode(group.error_code).is_ok()).map(consumer_group))
    }

    async fn describe_classic_group(&self, group: &GroupId) -> Result<GroupDescription> {
        let target = Target::Coordinator(CoordinatorKind::Group, group.as_str());
        let build =
            |_| Ok(DescribeGroupsRequest { groups: vec![group.to_byte_string()], ..Default::default() });
        let retriable = |response: &DescribeGroupsResponse| {
            let code = response.groups.first().map_or(ErrorCode::NONE, |group| ErrorCode(group.error_code));
            if code.is_retriable() { code } else { ErrorCode::NONE }
        };
        let response = self.cluster.request(target, self.call(), build, retriable).await?;
        let what = || format!("group {group} cannot be described");
        let Some(described) = response.groups.into_iter().next() else {
            return Err(Error::new(
                ErrorKind::Protocol,
                format!("{}: the broker said nothing about it", what()),
            ));
        };
        check(ErrorCode(described.error_code), described.error_message.as_deref(), what())?;
        let described = classic_group(described);
        if described.state == GroupState::Dead {
            // How brokers before 4.0 say that there is no such group.
            return Err(Error::from_code(ErrorCode::GROUP_ID_NOT_FOUND, what()));
        }
        Ok(described)
    }
}

/// `None` also from brokers that do not know such groups.
fn where_known(described: Result<Option<GroupDescription>>) -> Result<Option<GroupDescription>> {
    match described {
        Err(error) if error.kind() == ErrorKind::UnsupportedVersion => Ok(None),
        described => described,
    }
}

/// Answers of ConsumerGroupDescribe and its like that mean "not a group of this protocol".
pub(super) fn is_other_kind(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::GROUP_ID_NOT_FOUND | ErrorCode::UNSUPPORTED_VERSION)
}

pub(super) fn text(text: Str) -> String {
    text.to_string()
}

fn consumer_group(group: ConsumerGroup) -> GroupDescription {
    GroupDescription {
        id: group.group_id.into(),
        kind: GroupKind::Consumer,
        state: GroupState::parse(&group.group_state),
        protocol_type: CONSUMER.to_owned(),
        assignor: text(group.assignor_name),
        epoch: Some(group.group_epoch),
        members: group.members.into_iter().map(consumer_member).collect(),
    }
}

fn consumer_member(member: ConsumerMember) -> MemberDescription {
    MemberDescription {
        id: member.member_id.into(),
        instance_id: member.instance_id.map(text),
        client_id: text(member.client_id),
        host: text(member.client_host),
        rack: member.rack_id.map(text),
        subscription: member.subscribed_topic_names.into_iter().map(Into::into).collect(),
        pattern: member.subscribed_topic_regex.map(text).filter(|pattern| !pattern.is_empty()),
        assignment: assigned(&member.assignment),
    }
}

fn assigned(assignment: &Assignment) -> Vec<TopicPartition> {
    let each = |topic: &Str, partitions: &Array<i32>| expand(topic, partitions);
    assignment.topic_partitions.iter().flat_map(|topic| each(&topic.topic_name, &topic.partitions)).collect()
}

pub(super) fn expand(topic: &Str, partitions: &Array<i32>) -> Vec<TopicPartition> {
    partitions.iter().map(|partition| TopicPartition::new(topic.clone(), partition)).collect()
}

fn classic_group(group: ClassicGroup) -> GroupDescription {
    let is_consumer = &*group.protocol_type == CONSUMER;
    GroupDescription {
        id: group.group_id.into(),
        kind: GroupKind::Classic,
        state: GroupState::parse(&group.group_state),
        protocol_type: text(group.protocol_type),
        assignor: text(group.protocol_data),
        epoch: None,
        members: group.members.into_iter().map(|member| classic_member(member, is_consumer)).collect(),
    }
}

fn classic_member(member: DescribedGroupMember, is_consumer: bool) -> MemberDescription {
    // What members tell each other is theirs: bytes that are not a consumer's are no error of ours.
    let subscription = embedded::<ConsumerProtocolSubscription>(member.member_metadata, is_consumer);
    let assignment = embedded::<ConsumerProtocolAssignment>(member.member_assignment, is_consumer);
    let (topics, rack) = match subscription {
        Some(subscription) => (subscription.topics, subscription.rack_id),
        None => (Vec::new(), None),
    };
    let partitions = assignment.map(|assignment| assignment.assigned_partitions).unwrap_or_default();
    MemberDescription {
        id: member.member_id.into(),
        instance_id: member.group_instance_id.map(text),
        client_id: text(member.client_id),
        host: text(member.client_host),
        rack: rack.map(text),
        subscription: topics.into_iter().map(Into::into).collect(),
        pattern: None,
        assignment: partitions.iter().flat_map(|topic| expand(&topic.topic, &topic.partitions)).collect(),
    }
}

/// A message behind its version, as members of consumer groups exchange them. Newer versions only append.
fn embedded<T: Decode>(bytes: Bytes, is_consumer: bool) -> Option<T> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16().ok().filter(|_| is_consumer)?;
    T::decode(&mut reader, version.min(<T as Message>::VERSIONS.max)).ok()
}
