//! Offsets: log ends, committed offsets, lag.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::cluster::{Call, CoordinatorKind, Target};
use crate::runtime::BoxFuture;
use crate::types::{GroupId, LeaderEpoch, MemberId, NodeId, Offset, Timestamp, TopicName, TopicPartition};
use crate::wire::Str;
use crate::wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::wire::messages::offset_fetch::OffsetFetchRequestGroup;
use crate::wire::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetFetchRequest, OffsetFetchResponse,
};
use crate::{Error, ErrorCode, ErrorKind, Result};

use super::items::{check, join_all};
use super::{Admin, Results};

/// How long a topic may be unknown before it counts as missing.
const TOPIC_GRACE: Duration = Duration::from_secs(5);
/// From this version on OffsetFetch names topics by id alone.
const OFFSET_FETCH_TOPIC_IDS: i16 = 10;

/// Which offset of a partition is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OffsetSpec {
    /// The oldest that still exists.
    Earliest,
    /// The one that the next record will get (the high watermark).
    Latest,
    /// The first with this timestamp or a later one.
    At(Timestamp),
    /// That of the record with the highest timestamp (Kafka 3.0).
    MaxTimestamp,
}

impl OffsetSpec {
    fn to_wire(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
            Self::At(timestamp) => timestamp.0.max(0),
        }
    }

    /// First version of ListOffsets that understands it.
    fn version_min(self) -> i16 {
        if self == Self::MaxTimestamp { 7 } else { 1 }
    }
}

/// An offset in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedOffset {
    /// The offset; `None` if no record is as wanted (nothing as late as the timestamp).
    pub offset: Option<Offset>,
    /// Timestamp of the record, where one was looked for.
    pub timestamp: Option<Timestamp>,
    /// Epoch of the leader that wrote it, where the broker tells.
    pub leader_epoch: LeaderEpoch,
}

/// An offset that a group has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommittedOffset {
    /// The next record to consume.
    pub offset: Offset,
    /// Epoch of the last record consumed, where the group knew it.
    pub leader_epoch: LeaderEpoch,
    /// Text that the group stored beside it.
    pub metadata: String,
}

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
}

impl Admin {
    /// Looks up offsets in logs, each at the leader of its partition.
    ///
    /// # Errors
    ///
    /// Per partition `UNKNOWN_TOPIC_OR_PARTITION` after 5 s, `Config` if the topic has no such partition,
    /// `UnsupportedVersion` for [`OffsetSpec::MaxTimestamp`] before Kafka 3.0, and the latest error at the time limit.
    pub async fn list_offsets(
        &self,
        wanted: impl IntoIterator<Item = (TopicPartition, OffsetSpec)>,
    ) -> Results<TopicPartition, ListedOffset> {
        let deadline = self.deadline();
        let mut remaining: BTreeMap<_, _> = wanted.into_iter().collect();
        let mut results = Results::new();
        let mut failures = 0;
        loop {
            let by_leader = self.by_leader(&mut remaining, &mut results, deadline).await;
            let asks = by_leader.into_values().map(|items| -> BoxFuture<'_, _> {
                Box::pin(async move {
                    let answer = self.list_offsets_of(&items, deadline).await;
                    (items, answer)
                })
            });
            let answers = join_all(asks.collect()).await;
            failures += 1;
            let pause = self.cluster.config().retry_backoff.delay(failures, self.cluster.runtime().random());
            let next = Instant::now() + pause;
            for (items, answer) in answers {
                let mut answer = match answer {
                    Ok(answer) => answer,
                    Err(error) => {
                        for (partition, _) in items {
                            remaining.remove(&partition);
                            results.insert(partition, Err(error.repeat()));
                        }
                        continue;
                    }
                };
                for (partition, _) in items {
                    let result = answer.remove(&partition).unwrap_or_else(|| {
                        let message = format!("the broker said nothing about {partition}");
                        Err(Error::new(ErrorKind::Protocol, message))
                    });
                    if let Err(error) = &result
                        && error.is_retriable()
                        && next < deadline
                    {
                        self.cluster.leader_failed(&partition.topic);
                        continue;
                    }
                    remaining.remove(&partition);
                    results.insert(partition, result);
                }
            }
            if remaining.is_empty() {
                return results;
            }
            sleep_until(next).await;
        }
    }

    /// Groups items by the leader of their partition; what has none, or does not exist, becomes a result.
    async fn by_leader(
        &self,
        remaining: &mut BTreeMap<TopicPartition, OffsetSpec>,
        results: &mut Results<TopicPartition, ListedOffset>,
        deadline: Instant,
    ) -> BTreeMap<NodeId, Vec<(TopicPartition, OffsetSpec)>> {
        let topics: BTreeSet<&TopicName> = remaining.keys().map(|partition| &partition.topic).collect();
        for topic in topics {
            // All at once, so that the waits below are one wait.
            if self.cluster.metadata().topic(topic).is_none() {
                self.cluster.want_topic(topic, false);
            }
        }
        let grace = deadline.min(Instant::now() + TOPIC_GRACE);
        let mut by_leader: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        let mut lost = Vec::new();
        for (partition, &spec) in remaining.iter() {
            match self.cluster.leader(partition, grace).await {
                Ok((leader, _)) => by_leader.entry(leader).or_default().push((partition.clone(), spec)),
                Err(error) => lost.push((partition.clone(), error)),
            }
        }
        for (partition, error) in lost {
            remaining.remove(&partition);
            results.insert(partition, Err(error));
        }
        by_leader
    }

    /// Asks the leader of the first item about all of them.
    async fn list_offsets_of(
        &self,
        items: &[(TopicPartition, OffsetSpec)],
        deadline: Instant,
    ) -> Result<Results<TopicPartition, ListedOffset>> {
        let Some((first, _)) = items.first() else { return Ok(Results::new()) };
        let version_min = items.iter().map(|(_, spec)| spec.version_min()).max().unwrap_or(1);
        let build = |version| {
            if version < version_min {
                let message = "the broker cannot look for the highest timestamp";
                return Err(Error::new(ErrorKind::UnsupportedVersion, message));
            }
            let mut topics: BTreeMap<Str, Vec<ListOffsetsPartition>> = BTreeMap::new();
            for (partition, spec) in items {
                let item = ListOffsetsPartition {
                    partition_index: partition.partition.0,
                    timestamp: spec.to_wire(),
                    ..Default::default()
                };
                topics.entry(partition.topic.to_byte_string()).or_default().push(item);
            }
            let topics = topics.into_iter().map(|(name, partitions)| ListOffsetsTopic { name, partitions });
            let mut request =
                ListOffsetsRequest { replica_id: -1, topics: topics.collect(), ..Default::default() };
            if version >= 10 {
                request.timeout_ms = self.broker_timeout_ms(deadline);
            }
            Ok(request)
        };
        let ok = |_: &ListOffsetsResponse| ErrorCode::NONE;
        let response =
            self.cluster.request(Target::Leader(first), self.slow_call(deadline), build, ok).await?;
        let mut results = Results::new();
        for topic in response.topics {
            for answer in topic.partitions {
                let partition = TopicPartition::new(topic.name.clone(), answer.partition_index);
                let code = ErrorCode(answer.error_code);
                let result = check(code, None, format!("no offset of {partition}")).map(|()| ListedOffset {
                    offset: (answer.offset >= 0).then_some(Offset(answer.offset)),
                    timestamp: (answer.timestamp >= 0).then_some(Timestamp(answer.timestamp)),
                    leader_epoch: LeaderEpoch(answer.leader_epoch),
                });
                results.insert(partition, result);
            }
        }
        Ok(results)
    }

    /// The offsets that a group has committed. Empty if it has committed nothing or does not exist.
    ///
    /// # Errors
    ///
    /// `Authorization` and the like for the group as a whole; see [`Admin`].
    pub async fn group_offsets(
        &self,
        group: impl Into<GroupId>,
    ) -> Result<Results<TopicPartition, CommittedOffset>> {
        let group = group.into();
        let build = |version| {
            let mut request = OffsetFetchRequest { topics: None, ..Default::default() };
            if version >= 8 {
                request.topics = Some(Vec::new());
                request.groups = vec![OffsetFetchRequestGroup {
                    group_id: group.to_byte_string(),
                    topics: None,
                    ..Default::default()
                }];
            } else {
                request.group_id = group.to_byte_string();
            }
            Ok(request)
        };
        let code = |response: &OffsetFetchResponse| match response.groups.first() {
            Some(group) => ErrorCode(group.error_code),
            None => ErrorCode(response.error_code),
        };
        let target = Target::Coordinator(CoordinatorKind::Group, group.as_str());
        let call = Call { version_max: OFFSET_FETCH_TOPIC_IDS - 1, ..self.call() };
        let response = self.cluster.request(target, call, build, code).await?;
        let mut results = Results::new();
        let mut add = |topic: &Str, partition: i32, offset: i64, epoch: i32, text: Option<Str>, code: i16| {
            let partition = TopicPartition::new(topic.clone(), partition);
            let what = format!("no committed offset of {partition}");
            if let Err(error) = check(ErrorCode(code), None, what) {
                results.insert(partition, Err(error));
            } else if offset >= 0 {
                let metadata = text.map(|text| text.to_string()).unwrap_or_default();
                let committed =
                    CommittedOffset { offset: Offset(offset), leader_epoch: LeaderEpoch(epoch), metadata };
                results.insert(partition, Ok(committed));
            }
        };
        for topic in response.topics {
            for p in topic.partitions {
                let epoch = p.committed_leader_epoch;
                add(&topic.name, p.partition_index, p.committed_offset, epoch, p.metadata, p.error_code);
            }
        }
        for topic in response.groups.into_iter().flat_map(|group| group.topics) {
            for p in topic.partitions {
                let epoch = p.committed_leader_epoch;
                add(&topic.name, p.partition_index, p.committed_offset, epoch, p.metadata, p.error_code);
            }
        }
        Ok(results)
    }

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
                Ok(PartitionLag { committed, end, lag, member })
            });
            (partition, lag)
        });
        Ok(GroupLag { group, partitions: partitions.collect() })
    }
}
