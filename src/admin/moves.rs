//! Moving a group's offsets in two steps: a plan that can be shown, then what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Admin, CommittedOffset, OffsetSpec, Results};
use crate::types::{GroupId, Offset, Timestamp, TopicPartition};
use crate::{Error, ErrorKind, Result};

/// Where an offset is moved to. What lies outside of the log moves to its nearer end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MoveTo {
    /// The oldest record that still exists.
    Earliest,
    /// The end: only new records are read.
    Latest,
    /// This offset.
    Offset(Offset),
    /// The first record with this timestamp or a later one; the end if there is none.
    At(Timestamp),
    /// The first record of the last so long, by this machine's clock.
    Ago(Duration),
    /// So many records forward, or back if negative.
    By(i64),
}

/// What is going to happen to the offsets of a group. Nothing was done yet; [`Admin::move_offsets`] does it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OffsetPlan {
    /// The group whose offsets change.
    pub group: GroupId,
    /// What happens in each partition, or why it cannot.
    pub moves: Results<TopicPartition, OffsetMove>,
    /// The group that the offsets are taken from, for a copy.
    pub from_group: Option<GroupId>,
    /// The group that they are taken from is deleted at the end.
    pub deletes_source: bool,
}

/// What is going to happen to one offset.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetMove {
    /// What the group has committed now; `None` for nothing.
    pub from: Option<Offset>,
    /// What it will have committed.
    pub to: CommittedOffset,
    /// What was asked for lies outside of the log; `to` is its nearer end.
    pub clamped: bool,
}

impl OffsetMove {
    /// How many records forward, negative for back; `None` if nothing was committed.
    pub fn distance(&self) -> Option<i64> {
        Some(self.to.offset.0.saturating_sub(self.from?.0))
    }
}

/// What became of a plan.
#[derive(Debug)]
#[non_exhaustive]
pub struct MovedOffsets {
    /// The partitions.
    pub partitions: Results<TopicPartition, ()>,
    /// Whether the group that the offsets were taken from is gone; `None` if that was not planned, or not tried because a
    /// partition failed.
    pub source_deleted: Option<Result<()>>,
}

impl Admin {
    /// Plans to move offsets of a group. Nothing is changed.
    ///
    /// # Errors
    ///
    /// Per partition those of [`list_offsets`](Self::list_offsets), and `State` for [`MoveTo::By`] where nothing is
    /// committed. As a whole those of [`group_offsets`](Self::group_offsets).
    pub async fn plan_offsets(
        &self,
        group: impl Into<GroupId>,
        partitions: impl IntoIterator<Item = (TopicPartition, MoveTo)>,
    ) -> Result<OffsetPlan> {
        let group = group.into();
        let wanted: BTreeMap<TopicPartition, MoveTo> = partitions.into_iter().collect();
        let committed = self.group_offsets(group.clone()).await?;
        let at = |spec: OffsetSpec| wanted.keys().map(move |at| (at.clone(), spec));
        let now = self.wall_ms();
        let times = wanted.iter().filter_map(|(at, to)| {
            let timestamp = match to {
                MoveTo::At(timestamp) => *timestamp,
                MoveTo::Ago(long) => {
                    Timestamp(now.saturating_sub(i64::try_from(long.as_millis()).unwrap_or(i64::MAX)).max(0))
                }
                _ => return None,
            };
            Some((at.clone(), OffsetSpec::At(timestamp)))
        });
        let (begins, ends, times) = tokio::join!(
            Box::pin(self.list_offsets(at(OffsetSpec::Earliest))),
            Box::pin(self.list_offsets(at(OffsetSpec::Latest))),
            Box::pin(self.list_offsets(times)),
        );
        let plan = |at: &TopicPartition, to: MoveTo| {
            let offset = |results: &Results<TopicPartition, super::ListedOffset>| match results.get(at) {
                Some(Ok(listed)) => Ok(listed.offset),
                Some(Err(error)) => Err(error.clone()),
                None => Ok(None),
            };
            let first = offset(&begins)?.unwrap_or(Offset(0)).0;
            let end = offset(&ends)?.unwrap_or(Offset(0)).0;
            let from = committed.get(at).cloned().transpose()?.map(|committed| committed.offset);
            let wanted = match to {
                MoveTo::Earliest => first,
                MoveTo::Latest => end,
                MoveTo::Offset(offset) => offset.0,
                MoveTo::At(_) | MoveTo::Ago(_) => offset(&times)?.map_or(end, |offset| offset.0),
                MoveTo::By(records) => match from {
                    Some(from) => from.0.saturating_add(records),
                    None => {
                        let message =
                            format!("group {group} has committed nothing in {at} that could be moved");
                        return Err(Error::new(ErrorKind::State, message));
                    }
                },
            };
            let to = wanted.clamp(first, end.max(first));
            Ok(OffsetMove { from, to: CommittedOffset::new(to), clamped: to != wanted })
        };
        let moves = wanted.iter().map(|(at, &to)| (at.clone(), plan(at, to))).collect();
        Ok(OffsetPlan { group, moves, from_group: None, deletes_source: false })
    }

    /// Plans to give a group the committed offsets of another, with their metadata. Nothing is changed.
    ///
    /// # Errors
    ///
    /// As [`group_offsets`](Self::group_offsets) of both groups; `State` if the source has committed nothing.
    pub async fn plan_copy(&self, from: impl Into<GroupId>, to: impl Into<GroupId>) -> Result<OffsetPlan> {
        self.plan_transfer(from.into(), to.into(), false).await
    }

    /// Plans to give a group another name: a copy of its offsets, after which the old group is deleted. Nothing is changed.
    ///
    /// # Errors
    ///
    /// As [`plan_copy`](Self::plan_copy).
    pub async fn plan_rename(&self, from: impl Into<GroupId>, to: impl Into<GroupId>) -> Result<OffsetPlan> {
        self.plan_transfer(from.into(), to.into(), true).await
    }

    async fn plan_transfer(&self, from: GroupId, to: GroupId, deletes_source: bool) -> Result<OffsetPlan> {
        if from == to {
            return Err(Error::new(
                ErrorKind::Config,
                format!("group {from} cannot take the place of itself"),
            ));
        }
        let (source, target) = tokio::join!(self.group_offsets(from.clone()), self.group_offsets(to.clone()));
        let (source, target) = (source?, target?);
        if source.is_empty() {
            return Err(Error::new(ErrorKind::State, format!("group {from} has committed nothing")));
        }
        let moves = source.into_iter().map(|(at, committed)| {
            let current = target.get(&at).cloned().transpose();
            let planned = committed.and_then(|committed| {
                let from = current?.map(|current| current.offset);
                Ok(OffsetMove { from, to: committed, clamped: false })
            });
            (at, planned)
        });
        Ok(OffsetPlan { group: to, moves: moves.collect(), from_group: Some(from), deletes_source })
    }

    /// Does what a plan says. Partitions whose committed offset is no longer the one that the plan shows stay as they are.
    ///
    /// # Errors
    ///
    /// Per partition the error of the plan, `State` if the group went on since, and those of
    /// [`alter_group_offsets`](Self::alter_group_offsets). As a whole those of [`group_offsets`](Self::group_offsets).
    pub async fn move_offsets(&self, plan: &OffsetPlan) -> Result<MovedOffsets> {
        let current = self.group_offsets(plan.group.clone()).await?;
        let source = match &plan.from_group {
            Some(group) => Some((group, self.group_offsets(group.clone()).await?)),
            None => None,
        };
        let mut partitions = Results::new();
        let mut wanted = Vec::new();
        for (at, planned) in &plan.moves {
            let checked = planned.clone().and_then(|planned| {
                let offset = |offsets: &Results<TopicPartition, CommittedOffset>| {
                    Ok::<_, Error>(offsets.get(at).cloned().transpose()?.map(|committed| committed.offset))
                };
                let went_on = |group: &GroupId| {
                    let message = format!("group {group} has gone on in {at} since the plan was made");
                    Error::new(ErrorKind::State, message)
                        .with_advice("stop the members of the group and plan again")
                };
                if offset(&current)? != planned.from {
                    return Err(went_on(&plan.group));
                }
                if let Some((group, offsets)) = &source
                    && offset(offsets)? != Some(planned.to.offset)
                {
                    return Err(went_on(group));
                }
                Ok(planned.to)
            });
            match checked {
                Ok(to) => wanted.push((at.clone(), to)),
                Err(error) => drop(partitions.insert(at.clone(), Err(error))),
            }
        }
        if !wanted.is_empty() {
            partitions.extend(self.alter_group_offsets(plan.group.clone(), wanted).await?);
        }
        let complete = partitions.values().all(Result::is_ok);
        let source_deleted = match (&plan.from_group, plan.deletes_source && complete) {
            (Some(group), true) => {
                // What the source committed beyond the plan would be lost.
                let planned: BTreeSet<_> = plan.moves.keys().collect();
                let more = source.is_some_and(|(_, offsets)| offsets.keys().any(|at| !planned.contains(at)));
                Some(if more {
                    let message = format!(
                        "group {group} was not deleted: it has committed more since the plan was made"
                    );
                    Err(Error::new(ErrorKind::State, message))
                } else {
                    let deleted = self.delete_groups([group.clone()]).await;
                    deleted.into_values().next().unwrap_or(Ok(()))
                })
            }
            _ => None,
        };
        Ok(MovedOffsets { partitions, source_deleted })
    }
}
