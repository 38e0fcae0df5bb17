//! Look-ups of offsets at partition leaders: ListOffsets and OffsetForLeaderEpoch. What to ask and what an answer means
//! is decided by [`Positions`](crate::consumer::positions::Positions).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::{Call, Cluster};
use crate::consumer::config::Isolation;
use crate::consumer::core::Core;
use crate::consumer::positions::{Answer, EARLIEST, LATEST, Lookup, Question};
use crate::consumer::shared::grouped;
use crate::types::{NodeId, TopicName, TopicPartition};
use crate::wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use crate::wire::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// How long one round of look-ups may take before it is tried anew.
const LOOKUP_ROUND: Duration = Duration::from_secs(30);

/// How one round of the consumer with this id is asked.
pub(super) fn call(now: Instant, id: u64) -> Call {
    Call::slow(now + LOOKUP_ROUND, id)
}

/// What can be asked in one request: of one leader, questions of one kind.
pub(super) fn by_leader(lookups: Vec<Lookup>) -> impl Iterator<Item = (NodeId, Vec<Lookup>)> {
    let mut rounds: BTreeMap<(NodeId, u8), Vec<Lookup>> = BTreeMap::new();
    for lookup in lookups {
        let kind = match lookup.question {
            Question::Offset(_) => 0,
            Question::Range => 1,
            Question::Epoch(_) => 2,
        };
        rounds.entry((lookup.leader, kind)).or_default().push(lookup);
    }
    rounds.into_iter().map(|((leader, _), lookups)| (leader, lookups))
}

/// Asks everything in `lookups`, which have one leader and one kind of question, and tells the answers.
pub(crate) async fn look_up(
    cluster: Cluster,
    call: Call,
    core: &Core,
    leader: NodeId,
    lookups: Vec<Lookup>,
    isolation: Isolation,
) {
    let answers = match lookups.first().map(|lookup| lookup.question) {
        Some(Question::Epoch(_)) => epochs(&cluster, leader, &lookups, call).await,
        Some(Question::Range) => range(&cluster, leader, &lookups, isolation, call).await,
        Some(Question::Offset(_)) => {
            let timestamp = |lookup: &Lookup| match lookup.question {
                Question::Offset(timestamp) => timestamp,
                _ => LATEST,
            };
            list(&cluster, leader, &lookups, timestamp, isolation, call).await
        }
        None => return,
    };
    let dice = cluster.runtime().random();
    let now = Instant::now();
    let mut stale = BTreeSet::new();
    core.update(|positions| {
        let (mut answers, failure) = match answers {
            Ok(answers) => (answers, None),
            // All of it may be tried again: another node may lead by then.
            Err(error) => {
                let again =
                    error.is_retriable() || matches!(error.kind(), ErrorKind::Network | ErrorKind::Timeout);
                (Answers::new(), Some(error.with_retriable(again)))
            }
        };
        for lookup in &lookups {
            let answer = answers.remove(&lookup.partition).unwrap_or_else(|| {
                Err(failure.clone().unwrap_or_else(|| {
                    let message = format!("the broker left {} out of its answer", lookup.partition);
                    Error::new(ErrorKind::Protocol, message).with_retriable(true)
                }))
            });
            match answer {
                Ok(answer) => positions.handle_answer(lookup, answer),
                Err(error) => {
                    if failure.is_some() || error.code().is_some_and(ErrorCode::needs_metadata) {
                        stale.insert(lookup.partition.topic.clone());
                    }
                    positions.handle_lookup_failed(lookup, error, now, dice);
                }
            }
        }
    });
    for topic in stale {
        cluster.leader_failed(&topic);
    }
}

type Answers = BTreeMap<TopicPartition, Result<Answer>>;

async fn range(
    cluster: &Cluster,
    leader: NodeId,
    lookups: &[Lookup],
    isolation: Isolation,
    call: Call,
) -> Result<Answers> {
    let earliest = list(cluster, leader, lookups, |_| EARLIEST, isolation, call).await?;
    let mut latest = list(cluster, leader, lookups, |_| LATEST, isolation, call).await?;
    Ok(earliest
        .into_iter()
        .filter_map(|(partition, earliest)| {
            let latest = latest.remove(&partition)?;
            let answer = match (earliest, latest) {
                (Ok(Answer::Offset { offset: earliest, .. }), Ok(Answer::Offset { offset: latest, .. })) => {
                    Ok(Answer::Range { earliest, latest })
                }
                (Err(error), _) | (_, Err(error)) => Err(error),
                _ => return None,
            };
            Some((partition, answer))
        })
        .collect())
}

async fn list(
    cluster: &Cluster,
    leader: NodeId,
    lookups: &[Lookup],
    timestamp: impl Fn(&Lookup) -> i64,
    isolation: Isolation,
    call: Call,
) -> Result<Answers> {
    let partitions = lookups.iter().map(|lookup| {
        let partition = ListOffsetsPartition {
            partition_index: lookup.partition.partition.0,
            current_leader_epoch: lookup.leader_epoch,
            timestamp: timestamp(lookup),
        };
        (&lookup.partition.topic, partition)
    });
    let topic =
        |(topic, partitions): (&TopicName, _)| ListOffsetsTopic { name: topic.to_byte_string(), partitions };
    let request = ListOffsetsRequest {
        replica_id: -1,
        isolation_level: isolation_level(isolation),
        timeout_ms: i32::try_from(LOOKUP_ROUND.as_millis()).unwrap_or(i32::MAX),
        topics: grouped(partitions).into_iter().map(topic).collect(),
    };
    let response = cluster.request_node(leader, &request, call, |_| ErrorCode::NONE).await?;
    let mut answers = Answers::new();
    for topic in response.topics {
        for partition in topic.partitions {
            let tp = TopicPartition::new(topic.name.clone(), partition.partition_index);
            let answer = match ErrorCode(partition.error_code) {
                ErrorCode::NONE => {
                    Ok(Answer::Offset { offset: partition.offset, epoch: partition.leader_epoch })
                }
                // Old segments have no index of timestamps: nothing found.
                ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT => Ok(Answer::Offset { offset: -1, epoch: -1 }),
                code => Err(Error::from_code(code, format!("looking up an offset of {tp} failed"))),
            };
            answers.insert(tp, answer);
        }
    }
    Ok(answers)
}

async fn epochs(cluster: &Cluster, leader: NodeId, lookups: &[Lookup], call: Call) -> Result<Answers> {
    let partitions = lookups.iter().filter_map(|lookup| {
        let Question::Epoch(epoch) = lookup.question else { return None };
        let partition = OffsetForLeaderPartition {
            partition: lookup.partition.partition.0,
            current_leader_epoch: lookup.leader_epoch,
            leader_epoch: epoch,
        };
        Some((&lookup.partition.topic, partition))
    });
    let topic = |(topic, partitions): (&TopicName, _)| OffsetForLeaderTopic {
        topic: topic.to_byte_string(),
        partitions,
    };
    let topics = grouped(partitions).into_iter().map(topic).collect();
    let request = OffsetForLeaderEpochRequest { replica_id: -1, topics };
    let response = cluster.request_node(leader, &request, call, |_| ErrorCode::NONE).await?;
    let mut answers = Answers::new();
    for topic in response.topics {
        for partition in topic.partitions {
            let tp = TopicPartition::new(topic.topic.clone(), partition.partition);
            let answer = match ErrorCode(partition.error_code) {
                ErrorCode::NONE => {
                    Ok(Answer::Epoch { epoch: partition.leader_epoch, end_offset: partition.end_offset })
                }
                code => Err(Error::from_code(code, format!("looking up an epoch of {tp} failed"))),
            };
            answers.insert(tp, answer);
        }
    }
    Ok(answers)
}

/// The isolation level as requests carry it.
pub(crate) fn isolation_level(isolation: Isolation) -> i8 {
    match isolation {
        Isolation::ReadCommitted => 1,
        Isolation::ReadUncommitted => 0,
    }
}
