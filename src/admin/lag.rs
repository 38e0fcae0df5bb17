//! How far groups are behind, in records and in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use super::items::check;
use super::leaders::{Asked, AtLeader};
use super::{Admin, OffsetSpec, Results};
use crate::cluster::{Call, Target};
use crate::runtime::BoxFuture;
use crate::types::{GroupId, MemberId, NodeId, Offset, Timestamp, TopicPartition};
use crate::wire::compression::Decompressor;
use crate::wire::messages::fetch::{FetchPartition, FetchTopic};
use crate::wire::messages::{FetchRequest, FetchResponse};
use crate::wire::records::BatchIter;
use crate::{Error, ErrorCode, ErrorKind, Result};

/// Up to this version Fetch names topics by name.
const FETCH_BY_NAME: i16 = 12;
/// Most bytes of a batch, unpacked.
const BATCH_MAX: usize = 100 * 1024 * 1024;

/// How far a group is behind.
#[derive(Debug)]
#[non_exhaustive]
pub struct GroupLag {
    /// The group.
    pub group: GroupId,
    /// Every partition with a committed offset or a member.
    pub partitions: Results<TopicPartition, PartitionLag>,
}

impl GroupLag {
    /// Sum over the partitions whose lag is known.
    pub fn total(&self) -> u64 {
        self.partitions.values().flatten().filter_map(|partition| partition.lag).sum()
    }

    /// The longest time that a record has been waiting for, where times were asked for.
    pub fn longest_wait(&self) -> Option<Duration> {
        self.partitions.values().flatten().filter_map(|partition| partition.waiting).max()
    }
}

/// How far a group is behind in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionLag {
    /// The committed offset; `None` if nothing is committed.
    pub committed: Option<Offset>,
    /// End of the log.
    pub end: Offset,
    /// Records between the two; `None` if nothing is committed.
    pub lag: Option<u64>,
    /// The member that has the partition, if one has.
    pub member: Option<MemberId>,
    /// How long the first record that was not consumed has been waiting, by its timestamp and this machine's clock: zero if
    /// nothing waits. `None` if it was not asked for or is not known.
    pub waiting: Option<Duration>,
}

struct Timestamps;

impl AtLeader for Timestamps {
    type Spec = Offset;
    type Found = Option<Timestamp>;

    fn ask<'a>(
        &'a self,
        admin: &'a Admin,
        asked: Asked<'a, Offset>,
    ) -> BoxFuture<'a, Results<TopicPartition, Option<Timestamp>>> {
        Box::pin(async move {
            let mut results = Results::new();
            for (at, &offset) in asked.wanted {
                // One by one: a broker cuts the batches of all but the first partition.
                results
                    .insert(at.clone(), admin.timestamp_at(asked.leader, at, offset, asked.deadline).await);
            }
            results
        })
    }
}

impl Admin {
    /// How far a group is behind: committed offsets against the ends of the logs, for every partition that has a
    /// committed offset or a member.
    ///
    /// # Errors
    ///
    /// As [`group_offsets`](Self::group_offsets). That the members are not known (no such group any more) is none.
    pub async fn group_lag(&self, group: impl Into<GroupId>) -> Result<GroupLag> {
        let group = group.into();
        let (committed, described) =
            tokio::join!(self.group_offsets(group.clone()), self.describe_group(&group));
        let mut committed = committed?;
        let mut owners = BTreeMap::new();
        for member in described.map(|group| group.members).unwrap_or_default() {
            for partition in member.assignment {
                owners.insert(partition, member.id.clone());
            }
        }
        let partitions: BTreeSet<_> = committed.keys().chain(owners.keys()).cloned().collect();
        let ends =
            self.list_offsets(partitions.into_iter().map(|partition| (partition, OffsetSpec::Latest))).await;
        let partitions = ends.into_iter().map(|(partition, end)| {
            let committed = committed.remove(&partition).transpose();
            let member = owners.remove(&partition);
            let lag = end.and_then(|end| {
                let end = end.offset.unwrap_or(Offset(0));
                let committed = committed?.map(|committed| committed.offset);
                let lag = committed.map(|committed| u64::try_from(end.0 - committed.0).unwrap_or(0));
                Ok(PartitionLag { committed, end, lag, member, waiting: None })
            });
            (partition, lag)
        });
        Ok(GroupLag { group, partitions: partitions.collect() })
    }

    /// [`group_lag`](Self::group_lag) with how long the first record of each partition that was not consumed has been
    /// waiting. It reads one batch of each partition that is behind, so it costs more; records that cannot be read leave their
    /// time unknown.
    ///
    /// # Errors
    ///
    /// As [`group_lag`](Self::group_lag).
    pub async fn group_lag_in_time(&self, group: impl Into<GroupId>) -> Result<GroupLag> {
        let mut lag = self.group_lag(group).await?;
        let behind = lag.partitions.iter().filter_map(|(at, partition)| {
            let partition = partition.as_ref().ok().filter(|partition| partition.lag > Some(0))?;
            Some((at.clone(), partition.committed?))
        });
        let behind = behind.collect();
        let timestamps = self.at_leaders(&Timestamps, behind, self.deadline()).await;
        let now = self.wall_ms();
        for (at, partition) in &mut lag.partitions {
            let Ok(partition) = partition else { continue };
            partition.waiting = match timestamps.get(at) {
                Some(Ok(Some(timestamp))) => {
                    Some(Duration::from_millis(u64::try_from(now.saturating_sub(timestamp.0)).unwrap_or(0)))
                }
                Some(_) => None,
                None => partition.lag.map(|_| Duration::ZERO),
            };
        }
        Ok(lag)
    }

    /// Milliseconds since the Unix epoch.
    pub(super) fn wall_ms(&self) -> i64 {
        let wall = self.cluster.runtime().wall_clock();
        wall.duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// The timestamp of the first record at `offset` or behind it; `None` if there is none in the first batch.
    async fn timestamp_at(
        &self,
        leader: NodeId,
        at: &TopicPartition,
        offset: Offset,
        deadline: tokio::time::Instant,
    ) -> Result<Option<Timestamp>> {
        let build = |_| {
            let partition = FetchPartition {
                partition: at.partition.0,
                current_leader_epoch: -1,
                fetch_offset: offset.0,
                last_fetched_epoch: -1,
                log_start_offset: -1,
                partition_max_bytes: 1,
                ..Default::default()
            };
            let topic = FetchTopic {
                topic: at.topic.to_byte_string(),
                partitions: vec![partition],
                ..Default::default()
            };
            Ok(FetchRequest {
                replica_id: -1,
                max_bytes: 1,
                session_epoch: -1,
                topics: vec![topic],
                ..Default::default()
            })
        };
        let call = Call { once: true, version_max: FETCH_BY_NAME, ..self.slow_call(deadline) };
        let code = |response: &FetchResponse| ErrorCode(response.error_code);
        let response = self.cluster.request(Target::Node(leader), call, build, code).await?;
        let partition = response.responses.into_iter().flat_map(|topic| topic.partitions).next();
        let Some(partition) = partition else {
            return Err(Error::new(ErrorKind::Protocol, format!("the broker said nothing about {at}")));
        };
        check(ErrorCode(partition.error_code), None, format!("{at} cannot be read at {offset}"))?;
        let mut decompressor = Decompressor::new();
        for batch in BatchIter::new(partition.records.unwrap_or_default()) {
            let corrupt = |error| {
                Error::new(ErrorKind::CorruptRecord, format!("{at} cannot be read at {offset}"))
                    .with_source(error)
            };
            let batch = batch.map_err(corrupt)?;
            if batch.header.attributes.is_control() || batch.header.last_offset() < offset.0 {
                continue;
            }
            let mut records = Vec::new();
            let data = batch.decode(&mut decompressor, BATCH_MAX, offset.0, &mut records).map_err(corrupt)?;
            if let Some(first) = records.first() {
                return Ok(Some(Timestamp(first.get(&data).timestamp)));
            }
        }
        Ok(None)
    }
}
