//! What metadata says is wrong with a topic, as conditions and as errors.

use crate::types::{Partition, TopicName, TopicPartition};
use crate::{Error, ErrorCode, ErrorKind};

use super::conditions::{ConditionKind, Subject};
use super::metadata::Metadata;

/// Partitions of one topic without leader that are told one by one; beyond that the cluster is in trouble that these show.
const PARTITIONS_MAX: usize = 100;

/// All that is wrong with `topic` as far as `metadata` knows.
pub(super) fn troubles_of(metadata: &Metadata, topic: &TopicName) -> Vec<(Subject, ConditionKind, Error)> {
    if let Some(&code) = metadata.errors.get(topic) {
        let kind = match (code, code.kind()) {
            (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID, _) => {
                ConditionKind::NoSuchTopic
            }
            (ErrorCode::LEADER_NOT_AVAILABLE, _) => ConditionKind::NoLeader,
            (_, ErrorKind::Authorization) => ConditionKind::NotAuthorized,
            _ => ConditionKind::Refused,
        };
        return vec![(Subject::Topic(topic.clone()), kind, topic_error(code, topic))];
    }
    let partitions = metadata.topic(topic).map_or(&[][..], |topic| &topic.partitions);
    (0..)
        .zip(partitions)
        .filter(|(_, info)| info.leader.is_none())
        .map(|(index, _)| {
            let partition = TopicPartition { topic: topic.clone(), partition: Partition(index) };
            let error = no_leader(&partition);
            (Subject::Partition(partition), ConditionKind::NoLeader, error)
        })
        .take(PARTITIONS_MAX)
        .collect()
}

/// True if metadata is who says this.
pub(super) fn is_ours(subject: &Subject, kind: ConditionKind) -> bool {
    subject.topic().is_some()
        && matches!(
            kind,
            ConditionKind::NoSuchTopic
                | ConditionKind::NoLeader
                | ConditionKind::NotAuthorized
                | ConditionKind::Refused
        )
}

/// A partition that nobody leads.
pub(super) fn no_leader(partition: &TopicPartition) -> Error {
    Error::from_code(ErrorCode::LEADER_NOT_AVAILABLE, format!("{partition} has no leader"))
}

/// A topic that the brokers say `code` about.
pub(super) fn topic_error(code: ErrorCode, topic: &TopicName) -> Error {
    let error = Error::from_code(code, format!("topic {topic} cannot be used"));
    match code {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {
            error.with_advice("create the topic; brokers that may (auto.create.topics.enable) create it when a producer asks for it")
        }
        ErrorCode::TOPIC_AUTHORIZATION_FAILED => {
            error.with_advice("an ACL that allows DESCRIBE on the topic is missing")
        }
        _ => error,
    }
}

/// A deadline that passed, with the reason behind it and the phase that the reason names.
pub(super) fn because(error: Error, reason: Option<Error>) -> Error {
    let Some(reason) = reason else { return error };
    let error = match reason.phase() {
        Some(phase) => error.with_phase(phase),
        None => error,
    };
    error.with_source(reason)
}
