//! The producer that users hold.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::driver::Driver;
use super::error::{EnqueueAllError, TryEnqueueError};
use super::lane::{Blocked, Clocks, Lane, Notice, Run};
use super::receipt::{Delivery, Receipt, Receipts};
use super::record::Destination;
use super::shared::{Command, Shared};
use super::topic::{Refusal, Topic, TopicCell, UNKNOWN_PARTITION};
use super::{ProduceError, ProducerBuilder, ProducerConfig, Record};
use crate::cluster::{Cluster, Subject};
use crate::deadline;
use crate::runtime::Runtime;
use crate::sync::{Credit, lock};
use crate::types::TopicName;
use crate::{Error, ErrorKind, Result};

/// Sends records. Cheap to clone; clones share batches, memory and order.
///
/// Records of one partition are written in the order in which they were enqueued. When the last clone is dropped without
/// [`close`](Self::close), what was enqueued is still sent in the background, as long as the tokio runtime lives.
#[derive(Clone)]
pub struct Producer {
    pub(super) shared: Arc<Shared>,
    /// The only transaction that it takes records for.
    pub(super) transaction: Option<u64>,
    _life: Arc<Life>,
}

/// Tells the driver when nobody is left to enqueue.
struct Life(Arc<Shared>);

impl Drop for Life {
    fn drop(&mut self) {
        // The driver may have ended already.
        let _ = self.0.mailbox.send(Command::Orphaned);
    }
}

/// Counts of a producer since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerCounters {
    /// Records that were enqueued.
    pub enqueued: u64,
    /// Records that were acknowledged.
    pub acked: u64,
    /// Records that failed after they were enqueued, whatever their outcome.
    pub failed: u64,
    /// Bytes of `buffer.memory` in use.
    pub buffered_bytes: usize,
}

/// Records that `enqueue_all` takes at a time.
const TAKEN_MAX: usize = 64;

/// Why a record was not appended at once.
enum Obstacle {
    Metadata,
    /// The topic has no such partition, as far as we know.
    Partition(i32),
    Credit(usize),
    Refused(Error),
}

struct RuntimeClocks<'a>(&'a dyn Runtime);

impl Clocks for RuntimeClocks<'_> {
    fn wall(&self) -> i64 {
        self.0.timestamp().0
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl Producer {
    /// A producer on `cluster`.
    ///
    /// # Errors
    ///
    /// `Config` with all that is wrong with `config`.
    pub(crate) fn new(cluster: Cluster, config: ProducerConfig) -> Result<Self> {
        config.validate()?;
        let shared = Arc::new(Shared::new(cluster, config));
        let driver = Driver::new(Arc::clone(&shared));
        shared.cluster.runtime().spawn("carafe-producer", Box::pin(driver.run()));
        Ok(Self { _life: Arc::new(Life(Arc::clone(&shared))), shared, transaction: None })
    }

    /// A builder of a producer on `cluster`.
    pub(crate) fn builder(cluster: Cluster) -> ProducerBuilder {
        ProducerBuilder::new(cluster)
    }

    /// The settings.
    pub fn config(&self) -> &ProducerConfig {
        &self.shared.config
    }

    /// Looks up `name`, waiting for its metadata up to `max.block.ms`, and creates the topic where settings of client and
    /// broker allow. Records made with the result are enqueued without a look-up.
    ///
    /// # Errors
    ///
    /// `Timeout`, or what the broker says of the topic. Cancel-safe.
    pub async fn topic(&self, name: impl Into<TopicName>) -> Result<Topic> {
        let deadline = deadline::after(Instant::now(), self.shared.config.max_block);
        self.resolve(&name.into(), deadline).await
    }

    /// Enqueues `record` and returns its receipt. Waits while the topic's metadata is not known or the buffer is full, at
    /// most `max.block.ms` in all, and up to 3 s of that for a partition that is named and not known, for it may be new. The
    /// record is copied into its batch before this returns.
    ///
    /// # Errors
    ///
    /// A [`ProduceError`] with the record: `Timeout`, the broker's word about the topic, an invalid partition, a record
    /// larger than the buffer, `State` after [`close`](Self::close). The outcome is always
    /// [`NotWritten`](super::Outcome::NotWritten).
    ///
    /// Cancel-safe: if the future is dropped before it is done, the record was not enqueued, except when it only yielded
    /// to other tasks at the end; then it is delivered all the same.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would keep its record twice, and is moved per record"
    )]
    #[inline]
    pub fn enqueue(&self, record: Record<'_>) -> impl Future<Output = Result<Receipt, ProduceError>> + Send {
        async move {
            match self.enqueue_run(std::slice::from_ref(&record)).await {
                Ok(run) => Ok(Receipt::new(run.cell, run.index, run.timestamp)),
                Err(error) => Err(ProduceError::not_written(error).with_record(Some(record.into_owned()))),
            }
        }
    }

    /// Enqueues `record` and waits for its acknowledgement.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue), and everything that can happen on the way to the log. Cancel-safe in that the record,
    /// once enqueued, is delivered whether or not anybody waits.
    pub async fn send(&self, record: Record<'_>) -> Result<Delivery, ProduceError> {
        self.enqueue(record).await?.await
    }

    /// Enqueues `record` if that is possible without waiting.
    ///
    /// # Errors
    ///
    /// The record comes back if the buffer is full, if the topic's metadata or the partition that it names is not known yet
    /// (the look-up is started), and if it can never be sent.
    #[expect(clippy::result_large_err, reason = "the record comes back as it was, without an allocation")]
    pub fn try_enqueue<'a>(&self, record: Record<'a>) -> Result<Receipt, TryEnqueueError<'a>> {
        match self.attempt_again(std::slice::from_ref(&record), &mut None) {
            Ok((run, _)) => Ok(Receipt::new(run.cell, run.index, run.timestamp)),
            Err(Obstacle::Credit(_)) => {
                self.press();
                Err(TryEnqueueError::Full(record))
            }
            Err(Obstacle::Metadata) => {
                let name = TopicName::from(record.topic_name().to_owned());
                let shared = &self.shared;
                shared.cluster.want_topic(&name, shared.config.allow_auto_create_topics);
                match shared.learn(&name) {
                    Some(_) => self.try_enqueue(record),
                    None => Err(TryEnqueueError::MetadataPending(record)),
                }
            }
            Err(Obstacle::Partition(partition)) => {
                let name = TopicName::from(record.topic_name().to_owned());
                let shared = &self.shared;
                match shared.learn(&name) {
                    Some(topic) if topic.has(partition) => self.try_enqueue(record),
                    Some(topic) if topic.is_missed(Instant::now()) => {
                        let error = ProduceError::not_written(no_partition(&topic, partition));
                        Err(TryEnqueueError::Refused(error.with_record(Some(record.into_owned()))))
                    }
                    _ => {
                        shared.cluster.want_topic(&name, false);
                        Err(TryEnqueueError::MetadataPending(record))
                    }
                }
            }
            Err(Obstacle::Refused(error)) => {
                let error = ProduceError::not_written(error).with_record(Some(record.into_owned()));
                Err(TryEnqueueError::Refused(error))
            }
        }
    }

    /// Enqueues `records` in order, waiting as [`enqueue`](Self::enqueue) does for each. Takes up to 64 of them at a time;
    /// neighbours that go to the same partition share the cost of its lock.
    ///
    /// # Errors
    ///
    /// At the first record that cannot be enqueued, with the receipts of those before it and the records that were taken
    /// behind it. Cancel-safe in that those enqueued are delivered.
    pub async fn enqueue_all<'a>(
        &self,
        records: impl IntoIterator<Item = Record<'a>>,
    ) -> Result<Receipts, EnqueueAllError> {
        let mut records = records.into_iter();
        let mut receipts = Receipts::default();
        // No lock is held while the caller's iterator runs: it may enqueue, too.
        let mut taken = Vec::with_capacity(records.size_hint().0.clamp(1, TAKEN_MAX));
        loop {
            taken.clear();
            taken.extend(records.by_ref().take(TAKEN_MAX));
            if taken.is_empty() {
                return Ok(receipts);
            }
            let mut done = 0;
            while done < taken.len() {
                match self.enqueue_run(&taken[done..]).await {
                    Ok(run) => {
                        done += run.count as usize;
                        receipts.push(run);
                    }
                    Err(error) => {
                        let mut rest = taken.drain(done..).map(Record::into_owned);
                        let error = ProduceError::not_written(error).with_record(rest.next());
                        return Err(EnqueueAllError { enqueued: receipts, error, rest: rest.collect() });
                    }
                }
            }
        }
    }

    /// Enqueues the first of `records`, and those behind it that go the same way at no more cost.
    async fn enqueue_run(&self, records: &[Record<'_>]) -> Result<Run> {
        let (run, crowded) = match self.attempt(records, &mut None) {
            Ok(appended) => appended,
            // Boxed, for it is large and seldom needed.
            Err(obstacle) => Box::pin(self.insist(records, obstacle)).await?,
        };
        if crowded {
            // A batch or a request is full: let the driver, and others, run.
            tokio::task::yield_now().await;
        }
        Ok(run)
    }

    /// Sends everything that was enqueued before, without linger, and waits until its fate is known.
    ///
    /// # Errors
    ///
    /// `Timeout` after `timeout` (from zero to [`Duration::MAX`]), naming partitions whose records are still on their way and
    /// why. `State` if the producer was closed. That records failed is told by their receipts and by
    /// [`counters`](Self::counters). Cancel-safe.
    pub async fn flush(&self, timeout: Duration) -> Result<()> {
        let (done, waits) = oneshot::channel();
        let deadline = deadline::after(Instant::now(), timeout);
        if self.shared.mailbox.send(Command::Flush { deadline, done }).is_err() {
            return Err(closed());
        }
        let Ok(outcome) = waits.await else { return Err(closed()) };
        outcome.map_err(|left| {
            let message =
                format!("records for {} were still on their way after {timeout:?}", left.partitions);
            left.error(ErrorKind::Timeout, message)
        })
    }

    /// Refuses further records, sends everything that was enqueued, waits until its fate is known, and ends the producer.
    /// After `timeout` (from zero to [`Duration::MAX`]) the rest fails, with the outcome that is known of it. Closing twice is
    /// closing once.
    ///
    /// # Errors
    ///
    /// `Timeout` if records had to be given up, naming how many and some of their partitions; `State` if they were given up
    /// before, because the client was closed or its runtime ended. Cancel-safe in that the producer closes nonetheless.
    pub async fn close(&self, timeout: Duration) -> Result<()> {
        self.shared.closed.store(true, Ordering::Relaxed);
        let (done, waits) = oneshot::channel();
        let deadline = deadline::after(Instant::now(), timeout);
        let sent = self.shared.mailbox.send(Command::Close { deadline, done });
        if sent.is_ok()
            && let Ok(outcome) = waits.await
        {
            return outcome.map_err(|mut left| {
                left.reason = left.reason.or_else(|| self.latest_failure());
                let message = format!(
                    "{} records for {} were not acknowledged before the producer had to close",
                    left.records, left.partitions
                );
                left.error(ErrorKind::Timeout, message)
            });
        }
        // The driver has ended; whoever closes first learns what it left.
        match lock(&self.shared.ended).take() {
            None => Ok(()),
            Some(left) => {
                let message = format!(
                    "{} records for {} were given up when the producer ended, before it was closed",
                    left.records, left.partitions
                );
                Err(left.error(ErrorKind::State, message))
            }
        }
    }

    /// Why brokers do not answer, if they do not.
    pub(crate) fn latest_failure(&self) -> Option<Error> {
        self.shared.cluster.latest_failure(&Subject::Cluster)
    }

    /// Counts since the producer was made. Acknowledgements are counted per answer, a moment after their receipts
    /// resolve.
    pub fn counters(&self) -> ProducerCounters {
        let shared = &self.shared;
        // Outcomes first, so that they never exceed what was enqueued.
        let (acked, failed) = (shared.acked.load(Ordering::Acquire), shared.failed.load(Ordering::Acquire));
        let topics = shared.topics();
        let enqueued =
            topics.by_name.values().flat_map(|topic| topic.0.lanes.iter().map(|lane| lane.enqueued())).sum();
        let buffered_bytes = shared.stock.credit.total() - shared.stock.credit.available();
        ProducerCounters { enqueued, acked, failed, buffered_bytes }
    }

    /// Appends the first of `records`, and those behind it that go the same way, if nothing stands in the way. The flag
    /// tells that others should run.
    #[inline(always)]
    fn attempt(&self, records: &[Record<'_>], reserve: &mut Option<Credit>) -> Result<(Run, bool), Obstacle> {
        let shared = &*self.shared;
        let _open = match &shared.desk {
            None => None,
            Some(desk) => Some(desk.enter(self.transaction).map_err(Obstacle::Refused)?),
        };
        match &records[0].destination {
            Destination::Topic(topic) if topic.0.producer == shared.id => {
                self.append(&topic.0, records, reserve)
            }
            Destination::TopicRef(topic) if topic.0.producer == shared.id => {
                self.append(&topic.0, records, reserve)
            }
            destination => {
                let topics = shared.topics();
                match topics.by_name.get(destination.name()) {
                    Some(topic) => self.append(&topic.0, records, reserve),
                    None if shared.closed.load(Ordering::Relaxed) => Err(Obstacle::Refused(closed())),
                    None => Err(Obstacle::Metadata),
                }
            }
        }
    }

    /// As [`attempt`](Self::attempt), where one call more does not count. `enqueue` alone gets it inlined.
    #[inline(never)]
    fn attempt_again(
        &self,
        records: &[Record<'_>],
        reserve: &mut Option<Credit>,
    ) -> Result<(Run, bool), Obstacle> {
        self.attempt(records, reserve)
    }

    #[inline]
    fn append(
        &self,
        topic: &TopicCell,
        records: &[Record<'_>],
        reserve: &mut Option<Credit>,
    ) -> Result<(Run, bool), Obstacle> {
        let shared = &*self.shared;
        if shared.closed.load(Ordering::Relaxed) {
            return Err(Obstacle::Refused(closed()));
        }
        if topic.lanes.count() == 0 {
            return Err(Obstacle::Metadata);
        }
        let draw = || shared.draw();
        let choose = |record| topic.choose(record, shared.config.partitioner, &draw);
        let (partition, sticky) = choose(&records[0]).map_err(|refusal| match refusal {
            Refusal::Unknown(partition) => Obstacle::Partition(partition),
            Refusal::Bad(error) => Obstacle::Refused(error),
        })?;
        let Some(lane) = topic.lanes.get(partition) else { return Err(Obstacle::Metadata) };
        let clocks = RuntimeClocks(&**shared.cluster.runtime());
        let count_sticky = |bytes| {
            if sticky {
                topic.count_sticky(bytes, shared.config.sticky_bytes, &draw);
            }
        };
        let mut appender = lane.appender(&shared.stock);
        let mut appended = appender.append(&records[0], &clocks, reserve);
        if let Ok(run) = &mut appended {
            count_sticky(run.bytes);
            for record in &records[1..] {
                let same = record.topic_name() == topic.name.as_str()
                    && choose(record).is_ok_and(|chosen| chosen == (partition, sticky));
                let Some(bytes) = same.then(|| appender.continue_run(run, record, &clocks)).flatten() else {
                    break;
                };
                count_sticky(bytes);
            }
        }
        drop(appender);
        match appended {
            Ok(run) => {
                let crowded = self.notify(lane, run.notice);
                Ok((run, crowded))
            }
            Err(Blocked::Credit(bytes, notice)) => {
                self.notify(lane, notice);
                Err(Obstacle::Credit(bytes))
            }
            Err(Blocked::Shut) => Err(Obstacle::Refused(closed())),
            // It was taken away a moment ago: the choice is made anew.
            Err(Blocked::Retired) => Err(Obstacle::Metadata),
            Err(Blocked::TooLarge(bytes)) => {
                let message = format!(
                    "a record of {bytes} bytes for {} does not fit into buffer.memory, {} bytes",
                    lane.topic,
                    shared.stock.credit.total()
                );
                Err(Obstacle::Refused(Error::new(ErrorKind::TooLarge, message)))
            }
        }
    }

    /// Tells the driver what it has to know. Returns whether others should run.
    #[inline]
    fn notify(&self, lane: &Lane, notice: Notice) -> bool {
        if !(notice.announce || notice.nudge || notice.closed) {
            return false;
        }
        let mailbox = &self.shared.mailbox;
        // The driver may have ended already: then nobody has to be told.
        if notice.closed && lane.compress_inline(&self.shared.codec) {
            let _ = mailbox.send(Command::Lane(lane.id));
        } else if notice.announce {
            let _ = mailbox.leave(Command::Lane(lane.id), notice.look);
        } else if notice.nudge {
            let _ = mailbox.send(Command::Nudge);
        }
        notice.closed || notice.nudge
    }

    /// Removes one obstacle after the other until the record is appended or the time is up.
    async fn insist(&self, records: &[Record<'_>], first: Obstacle) -> Result<(Run, bool)> {
        let deadline = deadline::after(Instant::now(), self.shared.config.max_block);
        let mut reserve = None;
        let mut obstacle = first;
        loop {
            match obstacle {
                Obstacle::Refused(error) => return Err(error),
                Obstacle::Metadata => {
                    let name = TopicName::from(records[0].topic_name().to_owned());
                    self.resolve(&name, deadline).await?;
                }
                Obstacle::Partition(partition) => {
                    let name = TopicName::from(records[0].topic_name().to_owned());
                    self.find_partition(&name, partition, deadline).await?;
                }
                Obstacle::Credit(bytes) => {
                    drop(reserve.take());
                    reserve = Some(self.wait_for_credit(bytes, deadline).await?);
                }
            }
            match self.attempt_again(records, &mut reserve) {
                Ok(appended) => return Ok(appended),
                Err(next) => obstacle = next,
            }
        }
    }

    fn wait_for_credit(&self, bytes: usize, deadline: Instant) -> impl Future<Output = Result<Credit>> {
        let shared = Arc::clone(&self.shared);
        shared.starving.fetch_add(1, Ordering::Relaxed);
        let starving = Starving(Arc::clone(&shared));
        self.press();
        async move {
            let _starving = starving;
            timeout_at(deadline, shared.stock.credit.take(bytes)).await.map_err(|_| {
                let message = format!(
                    "the buffer was full for {} ms (buffer.memory {} bytes, max.block.ms)",
                    shared.config.max_block.as_millis(),
                    shared.stock.credit.total()
                );
                Error::new(ErrorKind::Timeout, message)
            })
        }
    }

    /// Someone wants memory: open batches shall leave.
    fn press(&self) {
        let _ = self.shared.mailbox.send(Command::Pressure);
    }

    async fn resolve(&self, name: &TopicName, deadline: Instant) -> Result<Topic> {
        let shared = &self.shared;
        if let Some(topic) = shared.topics().by_name.get(name)
            && topic.partition_count() > 0
        {
            return Ok(topic.clone());
        }
        let create = shared.config.allow_auto_create_topics;
        loop {
            shared.cluster.topic(name, create, deadline).await?;
            if let Some(topic) = shared.learn(name) {
                return Ok(topic);
            }
        }
    }

    /// Waits until topic `name` has `partition`, for as long as brokers may need to learn of a new one.
    async fn find_partition(&self, name: &TopicName, partition: i32, deadline: Instant) -> Result<()> {
        let shared = &self.shared;
        let deadline = deadline.min(Instant::now() + UNKNOWN_PARTITION);
        loop {
            let asked = shared.cluster.fresh_topic(name, deadline).await;
            match shared.learn(name) {
                Some(topic) if topic.has(partition) => return Ok(()),
                Some(topic) if Instant::now() >= deadline => return Err(no_partition(&topic, partition)),
                Some(_) if asked.as_ref().is_err_and(Error::is_timeout) => {}
                _ => drop(asked?),
            }
        }
    }
}

fn no_partition(topic: &Topic, partition: i32) -> Error {
    let count = topic.partition_count();
    let message = format!("topic {} has no partition {partition}, but {count}", topic.name());
    Error::new(ErrorKind::Config, message)
}

/// Counts one who waits for memory.
struct Starving(Arc<Shared>);

impl Drop for Starving {
    fn drop(&mut self) {
        self.0.starving.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::State, "the producer was closed")
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("counters", &self.counters()).finish_non_exhaustive()
    }
}
