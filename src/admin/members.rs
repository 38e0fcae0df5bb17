//! Groups as a whole: removing members, deleting groups.

use std::collections::BTreeSet;
use std::fmt;

use super::items::{Said, check, join_all};
use super::{Admin, GroupKind, Results};
use crate::cluster::{CoordinatorKind, Target};
use crate::runtime::BoxFuture;
use crate::types::{GroupId, MemberId};
use crate::wire::Str;
use crate::wire::messages::leave_group::MemberIdentity;
use crate::wire::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, LeaveGroupRequest, LeaveGroupResponse,
};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// LeaveGroup names many members from here on.
const MANY: i16 = 3;

/// A member that is to leave its group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Leaving {
    /// The member with this id.
    Member(MemberId),
    /// The static member with this `group.instance.id` (Kafka 2.4).
    Instance(String),
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(id) => write!(f, "member {id}"),
            Self::Instance(id) => write!(f, "static member {id:?}"),
        }
    }
}

impl Admin {
    /// Takes members out of a classic group, or static ones out of a KIP-848 group. A program that still runs joins again.
    /// `reason` is logged by the broker (Kafka 3.1).
    ///
    /// # Errors
    ///
    /// Per member `UNKNOWN_MEMBER_ID`; otherwise see [`Admin`].
    pub async fn remove_members(
        &self,
        group: impl Into<GroupId>,
        members: impl IntoIterator<Item = Leaving>,
        reason: &str,
    ) -> Result<Results<Leaving, ()>> {
        let group = group.into();
        let members: BTreeSet<Leaving> = members.into_iter().collect();
        let what = |member: &Leaving| format!("{member} was not removed from group {group}");
        let members: Vec<Leaving> = members.into_iter().collect();
        let mut results = self.leave(&group, &members, reason, &what).await?;
        for (member, result) in &mut results {
            // Brokers before 2.4 take one at a time.
            if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::UnsupportedVersion) {
                *result = self.leave_old(&group, member, &what).await;
            }
        }
        Ok(results)
    }

    /// Takes all members out of a classic group that are there now.
    ///
    /// # Errors
    ///
    /// As [`remove_members`](Self::remove_members), and those of [`describe_groups`](Self::describe_groups).
    pub async fn remove_all_members(
        &self,
        group: impl Into<GroupId>,
        reason: &str,
    ) -> Result<Results<Leaving, ()>> {
        let group = group.into();
        let described = self.describe_group(&group).await?;
        if described.kind != GroupKind::Classic && described.members.iter().any(|m| m.instance_id.is_none()) {
            let message =
                format!("group {group} is a {} group, whose members only leave themselves", described.kind);
            return Err(
                Error::new(ErrorKind::State, message).with_advice("stop the programs that are its members")
            );
        }
        let members = described.members.into_iter().map(|member| match member.instance_id {
            Some(id) => Leaving::Instance(id),
            None => Leaving::Member(member.id),
        });
        self.remove_members(group, members.collect::<Vec<_>>(), reason).await
    }

    async fn leave(
        &self,
        group: &GroupId,
        members: &[Leaving],
        reason: &str,
        what: impl Fn(&Leaving) -> String,
    ) -> Result<Results<Leaving, ()>> {
        // Kafka cuts reasons at 255 characters.
        let reason: String = reason.chars().take(255).collect();
        let item = |member: &Leaving, version| {
            if version < MANY {
                return Err(Error::new(
                    ErrorKind::UnsupportedVersion,
                    "the broker removes one member at a time",
                ));
            }
            let reason = (version >= 5).then(|| Str::from(reason.as_str()));
            Ok(match member {
                Leaving::Member(id) => {
                    MemberIdentity { member_id: id.to_byte_string(), group_instance_id: None, reason }
                }
                Leaving::Instance(id) => MemberIdentity {
                    member_id: Str::new(),
                    group_instance_id: Some(Str::from(id.as_str())),
                    reason,
                },
            })
        };
        let build = |members, _, _| LeaveGroupRequest {
            group_id: group.to_byte_string(),
            members,
            ..Default::default()
        };
        let read = |response: &LeaveGroupResponse| {
            let whole = ErrorCode(response.error_code);
            if !whole.is_ok() {
                let each = members.iter().map(|member| Said {
                    item: member.clone(),
                    code: whole,
                    message: None,
                    value: (),
                });
                return each.collect();
            }
            let said = response.members.iter().map(|member| Said {
                item: match &member.group_instance_id {
                    Some(id) if member.member_id.is_empty() => Leaving::Instance(id.to_string()),
                    Some(id) if members.contains(&Leaving::Instance(id.to_string())) => {
                        Leaving::Instance(id.to_string())
                    }
                    _ => Leaving::Member(member.member_id.clone().into()),
                },
                code: ErrorCode(member.error_code),
                message: None,
                value: (),
            });
            said.collect()
        };
        let target = Target::Coordinator(CoordinatorKind::Group, group.as_str());
        Box::pin(self.items_at(target, members.to_vec(), what, item, build, read)).await
    }

    /// For brokers before 2.4.
    async fn leave_old(
        &self,
        group: &GroupId,
        member: &Leaving,
        what: impl Fn(&Leaving) -> String,
    ) -> Result<()> {
        let Leaving::Member(id) = member else {
            let message = format!("{}: the broker is too old to have static members", what(member));
            return Err(Error::new(ErrorKind::UnsupportedVersion, message));
        };
        let build = |_| {
            let (group_id, member_id) = (group.to_byte_string(), id.to_byte_string());
            Ok(LeaveGroupRequest { group_id, member_id, members: Vec::new() })
        };
        let code = |response: &LeaveGroupResponse| {
            let code = ErrorCode(response.error_code);
            if code.is_retriable() { code } else { ErrorCode::NONE }
        };
        let target = Target::Coordinator(CoordinatorKind::Group, group.as_str());
        let response = self.cluster.request(target, self.call(), build, code).await?;
        check(ErrorCode(response.error_code), None, what(member))
    }

    /// Deletes groups with all their committed offsets, each at its coordinator.
    ///
    /// # Errors
    ///
    /// Per group `NON_EMPTY_GROUP` if it has members, `GROUP_ID_NOT_FOUND`, and the like.
    pub async fn delete_groups<G: Into<GroupId>>(
        &self,
        groups: impl IntoIterator<Item = G>,
    ) -> Results<GroupId, ()> {
        let delete = |group: GroupId| -> BoxFuture<'_, (GroupId, Result<()>)> {
            Box::pin(async move {
                let deleted = self.delete_group(&group).await;
                (group, deleted)
            })
        };
        let unique: BTreeSet<GroupId> = groups.into_iter().map(Into::into).collect();
        join_all(unique.into_iter().map(delete).collect()).await.into_iter().collect()
    }

    async fn delete_group(&self, group: &GroupId) -> Result<()> {
        let target = Target::Coordinator(CoordinatorKind::Group, group.as_str());
        let build = |_| Ok(DeleteGroupsRequest { groups_names: vec![group.to_byte_string()] });
        let of = |response: &DeleteGroupsResponse| {
            response.results.first().map_or(ErrorCode::NONE, |group| ErrorCode(group.error_code))
        };
        let code = |response: &DeleteGroupsResponse| {
            if of(response).is_retriable() { of(response) } else { ErrorCode::NONE }
        };
        let response = self.cluster.request(target, self.call(), build, code).await?;
        let what = format!("group {group} was not deleted");
        match response.results.first() {
            Some(said) => check(ErrorCode(said.error_code), said.error_message.as_deref(), what),
            None => Err(Error::new(ErrorKind::Protocol, format!("{what}: the broker said nothing about it"))),
        }
    }
}
