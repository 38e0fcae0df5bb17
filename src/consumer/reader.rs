//! Reading partitions without a group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use super::batch::RecordBatch;
use super::config::{ConsumerConfig, Isolation, StartOffset};
use super::core::Core;
use super::event::ConsumerEvent;
use super::fetch::driver::Fetching;
use super::fetch::offsets::isolation_level;
use super::positions::{Begin, EARLIEST, LATEST, Positions, PositionsConfig};
use crate::cluster::{Call, Cluster, Target};
use crate::runtime::AbortOnDrop;
use crate::settings::{Problems, Table};
use crate::sync::budget::MemoryBudget;
use crate::types::{Offset, Partition, TopicName, TopicPartition};
use crate::wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// Settings of a [`PartitionReader`]; from [`Client::partition_reader`](crate::client::Client::partition_reader).
#[derive(Debug)]
#[must_use = "settings do nothing until build() is called"]
pub struct PartitionReaderBuilder {
    cluster: Cluster,
    budget: MemoryBudget,
    config: ConsumerConfig,
    partitions: BTreeMap<TopicPartition, StartOffset>,
    topics: BTreeMap<TopicName, StartOffset>,
}

impl PartitionReaderBuilder {
    pub(crate) fn new(cluster: Cluster, budget: MemoryBudget) -> Self {
        Self {
            cluster,
            budget,
            config: ConsumerConfig::default(),
            partitions: BTreeMap::new(),
            topics: BTreeMap::new(),
        }
    }

    /// The settings of consuming; those of groups do not matter.
    pub fn config(mut self, config: ConsumerConfig) -> Self {
        self.config = config;
        self
    }

    /// Reads this partition, from `start` on.
    pub fn partition(mut self, partition: TopicPartition, start: StartOffset) -> Self {
        self.partitions.insert(partition, start);
        self
    }

    /// Reads all partitions that the topic has when this is built, from `start` on.
    pub fn topic(mut self, topic: impl Into<TopicName>, start: StartOffset) -> Self {
        self.topics.insert(topic.into(), start);
        self
    }

    /// Counts fetched data against `budget` instead of the client's own.
    pub fn memory_budget(mut self, budget: MemoryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Checks the settings, looks the topics up, and starts reading.
    ///
    /// # Errors
    ///
    /// `Config` with everything that is wrong, if nothing is named, or if a partition does not exist; `UNKNOWN_TOPIC_OR_PARTITION` or `Timeout`
    /// after the client's `api_timeout`; `Authorization`.
    pub async fn build(mut self) -> Result<PartitionReader> {
        let mut problems = Problems::default();
        Table::check(&self.config, &mut problems);
        if self.partitions.is_empty() && self.topics.is_empty() {
            let problem = "there is nothing to read; name a partition or a topic with partition() or topic()";
            problems.add("partitions", problem);
        }
        problems.finish(())?;
        let deadline = self.cluster.default_deadline();
        let named: BTreeSet<TopicName> =
            self.partitions.keys().map(|partition| partition.topic.clone()).collect();
        for topic in named {
            let known = self.cluster.topic(&topic, false, deadline).await?;
            for partition in self.partitions.keys().filter(|partition| partition.topic == topic) {
                if known.partition(partition.partition).is_none() {
                    let count = known.partition_count();
                    let message = format!("{partition} does not exist: the topic has {count} partitions");
                    return Err(Error::new(ErrorKind::Config, message));
                }
            }
        }
        for (topic, start) in std::mem::take(&mut self.topics) {
            let known = self.cluster.topic(&topic, false, deadline).await?;
            for partition in (0..).take(known.partition_count()) {
                let partition = TopicPartition { topic: topic.clone(), partition: Partition(partition) };
                self.partitions.entry(partition).or_insert(start);
            }
        }
        Ok(PartitionReader::new(self))
    }
}

/// Reads partitions without a group: nothing is committed, nothing rebalances.
///
/// Cheap to clone; all clones are handles of one reader. Reading ends when the last one is dropped.
#[derive(Clone)]
pub struct PartitionReader {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    core: Arc<Core>,
    isolation: Isolation,
    /// Names this reader's connections.
    id: u64,
    _fetching: AbortOnDrop,
}

impl PartitionReader {
    fn new(builder: PartitionReaderBuilder) -> Self {
        let PartitionReaderBuilder { cluster, budget, config, partitions, .. } = builder;
        let config = Arc::new(config);
        let backoff = cluster.config().retry_backoff;
        let mut positions =
            Positions::new(PositionsConfig { consumer: (*config).clone(), backoff, budget: budget.clone() });
        positions.assign(partitions.into_iter().map(|(partition, start)| (partition, Begin::At(start))));
        let core = Arc::new(Core::new(positions, false, None));
        let id = cluster.next_id();
        let fetching = Fetching {
            cluster: cluster.clone(),
            core: Arc::clone(&core),
            config: Arc::clone(&config),
            budget,
            id,
        };
        let isolation = config.isolation;
        let inner = Inner { cluster, core, isolation, id, _fetching: fetching.start() };
        Self { inner: Arc::new(inner) }
    }

    /// The next event: records, the end of a partition, or a partition in trouble. Waits as long as it takes. Cancel-safe;
    /// several tasks may call it.
    ///
    /// # Errors
    ///
    /// `State` once it was closed.
    pub async fn next_event(&self) -> Result<ConsumerEvent> {
        self.inner.core.next().await
    }

    /// The next batch. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When a partition stops: its error, which names partition and offset. When rights are missing for some seconds: the
    /// error of that. The other partitions are read on by calling it again, and so is what is in trouble once that is over.
    pub async fn next(&self) -> Result<RecordBatch> {
        loop {
            if let Some(batch) = self.next_event().await?.into_batch() {
                return batch;
            }
        }
    }

    /// Reads up to (not including) the offsets in `ends` and calls `each` with every batch on the way; partitions that are
    /// not named are paused. Batches may go a little beyond the end: compare offsets where it matters. Returns when all
    /// ends were reached.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next); `State` if a partition is not read here; whatever `each` returns.
    pub async fn read_until(
        &self,
        ends: &BTreeMap<TopicPartition, Offset>,
        mut each: impl FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let others: Vec<TopicPartition> =
            self.partitions().into_iter().filter(|partition| !ends.contains_key(partition)).collect();
        self.pause(&others)?;
        let mut left: BTreeMap<TopicPartition, Offset> = ends.clone();
        let done = |left: &mut BTreeMap<TopicPartition, Offset>| {
            left.retain(|partition, end| self.position(partition).is_none_or(|position| position < *end));
            left.is_empty()
        };
        if let Some(partition) =
            ends.keys().find(|partition| !self.inner.core.with(|p| p.is_assigned(partition)))
        {
            return Err(Error::new(ErrorKind::State, format!("{partition} is not read by this reader")));
        }
        // What nobody may see moves positions without a batch, so the end is looked at from time to time.
        let mut look = tokio::time::interval(std::time::Duration::from_millis(50));
        while !done(&mut left) {
            // Biased: batches go first; the timer only matters where there is none.
            tokio::select! {
                biased;
                batch = self.next() => {
                    let batch = batch?;
                    each(batch)?;
                }
                _ = look.tick() => {}
            }
        }
        Ok(())
    }

    /// The partitions.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.inner.core.with(|positions| positions.assigned())
    }

    /// Stops handing out records of these partitions.
    ///
    /// # Errors
    ///
    /// `State` if one is not read here; the others are paused.
    pub fn pause<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<()> {
        self.inner.core.update(|positions| {
            let mut result = Ok(());
            for partition in partitions {
                result = result.and(positions.pause(partition));
            }
            result
        })
    }

    /// Ends a [pause](Self::pause).
    ///
    /// # Errors
    ///
    /// `State` if one is not read here; the others are resumed.
    pub fn resume<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<()> {
        self.inner.core.update(|positions| {
            let mut result = Ok(());
            for partition in partitions {
                result = result.and(positions.resume(partition));
            }
            result
        })
    }

    /// Goes on reading at another place; what was fetched is discarded.
    ///
    /// # Errors
    ///
    /// `State` if the partition is not read here.
    pub fn seek(&self, partition: &TopicPartition, to: StartOffset) -> Result<()> {
        self.inner.core.update(|positions| positions.seek(partition, to))
    }

    /// The next offset that will be handed out, once it is known.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.inner.core.with(|positions| positions.position(partition))
    }

    /// The ends of all partitions now: with read committed, up to where all transactions are decided.
    ///
    /// # Errors
    ///
    /// `Timeout` after the client's `api_timeout`, or the broker's refusal.
    pub async fn end_offsets(&self) -> Result<BTreeMap<TopicPartition, Offset>> {
        self.list(LATEST).await
    }

    /// The first offsets that all partitions still have.
    ///
    /// # Errors
    ///
    /// As [`end_offsets`](Self::end_offsets).
    pub async fn start_offsets(&self) -> Result<BTreeMap<TopicPartition, Offset>> {
        self.list(EARLIEST).await
    }

    async fn list(&self, timestamp: i64) -> Result<BTreeMap<TopicPartition, Offset>> {
        let deadline = self.inner.cluster.default_deadline();
        let mut offsets = BTreeMap::new();
        for partition in self.partitions() {
            offsets.insert(partition.clone(), self.list_one(&partition, timestamp, deadline).await?);
        }
        Ok(offsets)
    }

    async fn list_one(
        &self,
        partition: &TopicPartition,
        timestamp: i64,
        deadline: Instant,
    ) -> Result<Offset> {
        let request = ListOffsetsRequest {
            replica_id: -1,
            isolation_level: isolation_level(self.inner.isolation),
            topics: vec![ListOffsetsTopic {
                name: partition.topic.to_byte_string(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: partition.partition.0,
                    current_leader_epoch: -1,
                    timestamp,
                }],
            }],
            timeout_ms: 30_000,
        };
        let response = self
            .inner
            .cluster
            .request(
                Target::Leader(partition),
                Call::slow(deadline, self.inner.id),
                |_| Ok(request.clone()),
                |response| {
                    let first = response.topics.first().and_then(|topic| topic.partitions.first());
                    first.map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |partition| ErrorCode(partition.error_code))
                },
            )
            .await?;
        let first = response.topics.first().and_then(|topic| topic.partitions.first());
        Ok(Offset(first.map_or(-1, |partition| partition.offset)))
    }
}

impl fmt::Debug for PartitionReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionReader").field("partitions", &self.partitions()).finish_non_exhaustive()
    }
}
