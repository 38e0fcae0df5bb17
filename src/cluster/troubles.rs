//! What metadata says is wrong with a topic, as conditions and as errors.

use super::conditions::{ConditionKind, Subject};
use super::metadata::Metadata;
use crate::types::{Partition, TopicName, TopicPartition};
use crate::{Error, ErrorCode};

/// Partitions of one topic without leader that are told one by one; beyond that the cluster is in trouble that these show.
const PARTITIONS_MAX: usize = 100;

/// All that is wrong with `topic` as far as `metadata` knows.
pub(super) fn troubles_of(metadata: &Metadata, topic: &TopicName) -> Vec<(Subject, ConditionKind, Error)> {
    if let Some(&code) = metadata.errors.get(topic) {
        let error = topic_error(code, topic);
        return vec![(Subject::Topic(topic.clone()), ConditionKind::of(&error), error)];
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

/// True if an answer about `topics` says how `subject` is. Of topics the client itself reports what metadata says and
/// nothing else, so an answer decides about conditions of every kind.
pub(super) fn is_answered(metadata: &Metadata, topics: &[TopicName], subject: &Subject) -> bool {
    let asked = |topic: &TopicName| topics.binary_search(topic).is_ok() || !metadata.is_asked_for(topic);
    *subject == Subject::Cluster || subject.topic().is_some_and(asked)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::cluster::conditions::{CLIENT, Conditions};

    /// Whatever a broker says of a topic has the kind that the same code has elsewhere, and ends with the next good answer.
    #[test]
    fn what_metadata_says_of_a_topic_has_the_usual_kind_and_ends() {
        let topic = TopicName::from("t");
        let topics = [topic.clone()];
        let now = Instant::now();
        for code in (-1..140).filter(|code| *code != 0).map(ErrorCode) {
            let mut conditions = Conditions::default();
            let mut answer = |errors: &[(TopicName, ErrorCode)]| {
                let metadata = Metadata { errors: errors.iter().cloned().collect(), ..Metadata::default() };
                let answered = |subject: &Subject, _| is_answered(&metadata, &topics, subject);
                conditions.replace(now, CLIENT, answered, troubles_of(&metadata, &topic));
                conditions.handle_timeout(now + Duration::from_secs(3));
                conditions.told(now)
            };
            let told = answer(&[(topic.clone(), code)]);
            assert_eq!(told.len(), 1, "{code}");
            let usual = ConditionKind::of(&Error::from_code(code, "asking"));
            assert_eq!(
                (&told[0].1.subject, told[0].1.kind),
                (&Subject::Topic(topic.clone()), usual),
                "{code}"
            );
            assert!(answer(&[]).is_empty(), "{code}");
        }
    }
}
