//! Deleting records from the beginning of logs.

use std::collections::BTreeMap;

use super::items::check;
use super::leaders::{Asked, AtLeader};
use super::{Admin, Results};
use crate::cluster::{Call, Target};
use crate::runtime::BoxFuture;
use crate::types::{Offset, TopicPartition};
use crate::wire::Str;
use crate::wire::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use crate::wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use crate::{Error, ErrorCode, ErrorKind};

/// Which records of a partition are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeleteRecords {
    /// All in front of this offset.
    Before(Offset),
    /// All that are replicated, up to the high watermark.
    All,
}

struct Deletion;

impl AtLeader for Deletion {
    type Spec = DeleteRecords;
    /// Where the log begins now.
    type Found = Offset;

    fn ask<'a>(
        &'a self,
        admin: &'a Admin,
        asked: Asked<'a, DeleteRecords>,
    ) -> BoxFuture<'a, Results<TopicPartition, Offset>> {
        Box::pin(admin.delete_records_at(asked))
    }
}

impl Admin {
    /// Deletes records from the beginning of partitions, each at its leader, on all replicas. Gives the offsets that the logs
    /// begin with afterwards. Records in front of an offset that was deleted already are no error.
    ///
    /// # Errors
    ///
    /// Per partition `OFFSET_OUT_OF_RANGE` for an offset behind the high watermark, `POLICY_VIOLATION` for a topic that is
    /// compacted only, `UNKNOWN_TOPIC_OR_PARTITION` after 5 s, and the latest error at the time limit.
    pub async fn delete_records(
        &self,
        wanted: impl IntoIterator<Item = (TopicPartition, DeleteRecords)>,
    ) -> Results<TopicPartition, Offset> {
        self.at_leaders(&Deletion, wanted.into_iter().collect(), self.deadline()).await
    }

    async fn delete_records_at(&self, asked: Asked<'_, DeleteRecords>) -> Results<TopicPartition, Offset> {
        let Asked { leader, wanted, deadline, .. } = asked;
        let build = |_| {
            let mut topics: BTreeMap<Str, Vec<DeleteRecordsPartition>> = BTreeMap::new();
            for (partition, which) in wanted {
                let offset = match which {
                    DeleteRecords::Before(offset) => offset.0.max(0),
                    DeleteRecords::All => -1,
                };
                let item = DeleteRecordsPartition { partition_index: partition.partition.0, offset };
                topics.entry(partition.topic.to_byte_string()).or_default().push(item);
            }
            let topics = topics.into_iter().map(|(name, partitions)| DeleteRecordsTopic { name, partitions });
            let timeout_ms = self.broker_timeout_ms(deadline);
            Ok(DeleteRecordsRequest { topics: topics.collect(), timeout_ms })
        };
        let ok = |_: &DeleteRecordsResponse| ErrorCode::NONE;
        let call = Call { once: true, ..self.slow_call(deadline) };
        let response = match self.cluster.request(Target::Node(leader), call, build, ok).await {
            Ok(response) => response,
            Err(error) => return wanted.keys().map(|at| (at.clone(), Err(error.clone()))).collect(),
        };
        let silent = |at: &TopicPartition| {
            Error::new(ErrorKind::Protocol, format!("the broker said nothing about {at}"))
        };
        let mut results: Results<_, _> = wanted.keys().map(|at| (at.clone(), Err(silent(at)))).collect();
        for topic in response.topics {
            for answer in topic.partitions {
                let at = TopicPartition::new(topic.name.clone(), answer.partition_index);
                let what = format!("records of {at} were not deleted");
                let result = check(ErrorCode(answer.error_code), None, what);
                results.insert(at, result.map(|()| Offset(answer.low_watermark)));
            }
        }
        results
    }
}
