//! Partitions, each asked for at its leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::items::{join_all, name_error};
use super::{Admin, Results};
use crate::cluster::Metadata;
use crate::runtime::BoxFuture;
use crate::types::{NodeId, TopicPartition};
use crate::{Error, ErrorCode, ErrorKind};

/// How long a topic may be unknown before it counts as missing.
const TOPIC_GRACE: Duration = Duration::from_secs(5);

/// Something that is asked of the leaders of partitions.
pub(super) trait AtLeader: Sync {
    /// What is wanted of a partition.
    type Spec: Clone + Send + Sync;
    /// What is found out.
    type Found: Send;

    /// First version of the request that understands it.
    fn version_min(_: &Self::Spec) -> i16 {
        0
    }

    /// Asks one leader once. The answer has all that was asked for.
    fn ask<'a>(
        &'a self,
        admin: &'a Admin,
        asked: Asked<'a, Self::Spec>,
    ) -> BoxFuture<'a, Results<TopicPartition, Self::Found>>;
}

/// What one leader is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a, S> {
    pub(super) leader: NodeId,
    pub(super) version_min: i16,
    pub(super) wanted: &'a BTreeMap<TopicPartition, S>,
    pub(super) deadline: Instant,
}

impl Admin {
    /// Asks the leaders of the partitions until everything has its result.
    pub(super) async fn at_leaders<Q: AtLeader>(
        &self,
        question: &Q,
        wanted: BTreeMap<TopicPartition, Q::Spec>,
        deadline: Instant,
    ) -> Results<TopicPartition, Q::Found> {
        let grace = deadline.min(Instant::now() + TOPIC_GRACE);
        if let Err(error) = self.cluster.ready(deadline).await {
            return wanted.into_keys().map(|partition| (partition, Err(error.clone()))).collect();
        }
        self.ask_leaders(question, wanted, grace, deadline).await
    }

    /// Asks and asks again until everything has its result. What different nodes are asked goes its own way: none waits for
    /// another's answer, nor for partitions that nobody leads.
    fn ask_leaders<'a, Q: AtLeader>(
        &'a self,
        question: &'a Q,
        wanted: BTreeMap<TopicPartition, Q::Spec>,
        grace: Instant,
        deadline: Instant,
    ) -> BoxFuture<'a, Results<TopicPartition, Q::Found>> {
        Box::pin(async move {
            let mut wanted = wanted;
            let mut results = Results::new();
            let mut failures = 0;
            let mut snapshots = self.cluster.subscribe();
            loop {
                let metadata = Arc::clone(&snapshots.borrow_and_update());
                let mut parts: BTreeMap<Option<(NodeId, i16)>, BTreeMap<_, _>> = BTreeMap::new();
                for (partition, spec) in wanted {
                    let topic = metadata.topic(&partition.topic);
                    let leader = topic.and_then(|topic| topic.partition(partition.partition)?.leader);
                    let part = leader.map(|leader| (leader, Q::version_min(&spec)));
                    parts.entry(part).or_default().insert(partition, spec);
                }
                if parts.len() > 1 {
                    let parts =
                        parts.into_values().map(|part| self.ask_leaders(question, part, grace, deadline));
                    results.extend(join_all(parts.collect()).await.into_iter().flatten());
                    return results;
                }
                let Some((place, part)) = parts.pop_first() else { return results };
                let answers = match place {
                    Some((leader, version_min)) => {
                        question.ask(self, Asked { leader, version_min, wanted: &part, deadline }).await
                    }
                    None => part.keys().map(|at| (at.clone(), Err(unled(&metadata, at)))).collect(),
                };
                let now = Instant::now();
                failures += 1;
                let dice = self.cluster.runtime().random();
                let next = now + self.cluster.config().retry_backoff.delay(failures, dice);
                wanted = BTreeMap::new();
                for (partition, result) in answers {
                    let Some(spec) = part.get(&partition) else { continue };
                    let missing = place.is_none() && metadata.topic(&partition.topic).is_none();
                    let late = next >= if missing { grace } else { deadline };
                    match result {
                        Err(error) if error.is_retriable() && !late => {
                            self.cluster.leader_failed(&partition.topic);
                            wanted.insert(partition, spec.clone());
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
}

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
