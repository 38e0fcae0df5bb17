//! Offsets: log ends, committed offsets.

use std::collections::BTreeMap;

use super::items::check;
use super::leaders::{Asked, AtLeader};
use super::{Admin, Results};
use crate::cluster::{Call, CoordinatorKind, Target};
use crate::runtime::BoxFuture;
use crate::types::{GroupId, LeaderEpoch, Offset, Timestamp, TopicPartition};
use crate::wire::Str;
use crate::wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::wire::messages::offset_fetch::OffsetFetchRequestGroup;
use crate::wire::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetFetchRequest, OffsetFetchResponse,
};
use crate::{Error, ErrorCode, ErrorKind, Result};

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

impl CommittedOffset {
    /// An offset to commit, without epoch and metadata.
    pub fn new(offset: impl Into<Offset>) -> Self {
        Self { offset: offset.into(), leader_epoch: LeaderEpoch(-1), metadata: String::new() }
    }

    /// Text to store beside it; brokers take 4,096 bytes by default.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }
}

/// What was found.
type Offsets = Results<TopicPartition, ListedOffset>;

/// Looks up offsets at leaders.
struct Lookup;

impl AtLeader for Lookup {
    type Spec = OffsetSpec;
    type Found = ListedOffset;

    /// Those that need a newer broker are asked for apart, so that they cost the others nothing.
    fn version_min(spec: &OffsetSpec) -> i16 {
        spec.version_min()
    }

    fn ask<'a>(&'a self, admin: &'a Admin, asked: Asked<'a, OffsetSpec>) -> BoxFuture<'a, Offsets> {
        Box::pin(admin.list_offsets_at(asked))
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
        self.at_leaders(&Lookup, wanted.into_iter().collect(), self.deadline()).await
    }

    /// Asks `leader` once.
    async fn list_offsets_at(&self, asked: Asked<'_, OffsetSpec>) -> Offsets {
        let Asked { leader, version_min, wanted, deadline } = asked;
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
}
