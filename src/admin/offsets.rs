//! Offsets: log ends, committed offsets, lag.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::items::{check, join_all, name_error};
use super::{Admin, Results};
use crate::cluster::{Call, CoordinatorKind, Metadata, Target};
use crate::runtime::BoxFuture;
use crate::types::{GroupId, LeaderEpoch, MemberId, NodeId, Offset, Timestamp, TopicPartition};
use crate::wire::Str;
use crate::wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::wire::messages::offset_fetch::OffsetFetchRequestGroup;
use crate::wire::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetFetchRequest, OffsetFetchResponse,
};
use crate::{Error, ErrorCode, ErrorKind, Result};

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

/// What is looked up.
type Wanted = BTreeMap<TopicPartition, OffsetSpec>;

/// What was found.
type Offsets = Results<TopicPartition, ListedOffset>;

/// Why a partition that nobody leads cannot be asked for.
fn unled(metadata: &Metadata, partition: &TopicPartition) -> Error {
    let attempted = "cannot be used";
    match metadata.topic(&partition.topic) {
        _ if partition.topic.fault().is_some() => name_error(&partition.topic, attempted),
        Some(topic) if topic.partition(partition.partition).is_none() => {
            let count = topic.partition_count();
            let message = format!("partition {partition} does not exist: the topic has {count} partitions");
            Error::new(ErrorKind::Config, message)
        }
        Some(_) => Error::from_code(ErrorCode::LEADER_NOT_AVAILABLE, format!("{partition} has no leader")),
        None => {
            let code = metadata.errors.get(&partition.topic).copied();
            let code = code.unwrap_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            Error::from_code(code, format!("topic {} {attempted}", partition.topic))
        }
    }
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
        let wanted: Wanted = wanted.into_iter().collect();
        let grace = deadline.min(Instant::now() + TOPIC_GRACE);
        if let Err(error) = self.cluster.ready(deadline).await {
            return wanted.into_keys().map(|partition| (partition, Err(error.clone()))).collect();
        }
        self.offsets_of(wanted, grace, deadline).await
    }

    /// Asks and asks again until everything has its result. What different nodes are asked goes its own way: none waits for
    /// another's answer, nor for partitions that nobody leads.
    fn offsets_of(&self, wanted: Wanted, grace: Instant, deadline: Instant) -> BoxFuture<'_, Offsets> {
        Box::pin(async move {
            let mut wanted = wanted;
            let mut results = Offsets::new();
            let mut failures = 0;
            let mut snapshots = self.cluster.subscribe();
            loop {
                let metadata = Arc::clone(&snapshots.borrow_and_update());
                let mut parts: BTreeMap<Option<(NodeId, i16)>, Wanted> = BTreeMap::new();
                for (partition, spec) in wanted {
                    let topic = metadata.topic(&partition.topic);
                    let leader = topic.and_then(|topic| topic.partition(partition.partition)?.leader);
                    let part = leader.map(|leader| (leader, spec.version_min()));
                    parts.entry(part).or_default().insert(partition, spec);
                }
                if parts.len() > 1 {
                    let parts = parts.into_values().map(|part| self.offsets_of(part, grace, deadline));
                    results.extend(join_all(parts.collect()).await.into_iter().flatten());
                    return results;
                }
                let Some((place, part)) = parts.pop_first() else { return results };
                let answers = match place {
                    Some((leader, version_min)) => {
                        self.list_offsets_at(leader, version_min, &part, deadline).await
                    }
                    None => part.keys().map(|at| (at.clone(), Err(unled(&metadata, at)))).collect(),
                };
                let now = Instant::now();
                failures += 1;
                let dice = self.cluster.runtime().random();
                let next = now + self.cluster.config().retry_backoff.delay(failures, dice);
                wanted = Wanted::new();
                for (partition, result) in answers {
                    let Some(&spec) = part.get(&partition) else { continue };
                    let missing = place.is_none() && metadata.topic(&partition.topic).is_none();
                    let late = next >= if missing { grace } else { deadline };
                    match result {
                        Err(error) if error.is_retriable() && !late => {
                            self.cluster.leader_failed(&partition.topic);
                            wanted.insert(partition, spec);
                        }
                        result => drop(results.insert(partition, result)),
                    }
                }
                if wanted.is_empty() {
                    return results;
                }
                match place {
                    Some(_) => sleep_until(next).await,
                    // News may come earlier; without any it is looked again.
                    None => drop(timeout_at(next, snapshots.changed()).await),
                }
            }
        })
    }

    /// Asks `leader` once.
    async fn list_offsets_at(
        &self,
        leader: NodeId,
        version_min: i16,
        wanted: &Wanted,
        deadline: Instant,
    ) -> Offsets {
        let build = |version| {
            if version < version_min {
                let message = "the broker cannot look for the highest timestamp";
                return Err(Error::new(ErrorKind::UnsupportedVersion, message));
            }
            let mut topics: BTreeMap<Str, Vec<ListOffsetsPartition>> = BTreeMap::new();
            for (partition, spec) in wanted {
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
        let call = Call { once: true, ..self.slow_call(deadline) };
        let response = match self.cluster.request(Target::Node(leader), call, build, ok).await {
            Ok(response) => response,
            Err(error) => return wanted.keys().map(|at| (at.clone(), Err(error.clone()))).collect(),
        };
        let silent = |at: &TopicPartition| {
            Error::new(ErrorKind::Protocol, format!("the broker said nothing about {at}"))
        };
        let mut results: Offsets = wanted.keys().map(|at| (at.clone(), Err(silent(at)))).collect();
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
        results
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
