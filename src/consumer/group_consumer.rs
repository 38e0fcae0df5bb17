//! The handle of a member of a consumer group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::batch::RecordBatch;
use super::config::{ConsumerConfig, StartOffset};
use super::core::Core;
use super::event::ConsumerEvent;
use super::fetch::driver::Fetching;
use super::group::calls::Caller;
use super::group::classic::{Classic, ClassicConfig};
use super::group::commits::summary;
use super::group::driver::{Command, GroupDriver};
use super::group::membership::{Membership, Protocol};
use super::mark::Mark;
use super::positions::{Positions, PositionsConfig};
use crate::cluster::{Cluster, GroupOffset, GroupOffsets};
use crate::runtime::AbortOnDrop;
use crate::settings::{Problems, Table};
use crate::sync::budget::MemoryBudget;
use crate::types::{GroupId, Offset, TopicName, TopicPartition};
use crate::{Error, ErrorKind, Result, deadline};

/// Settings of a [`GroupConsumer`]; from [`Client::group_consumer`](crate::client::Client::group_consumer).
#[derive(Debug)]
#[must_use = "settings do nothing until build() is called"]
pub struct GroupConsumerBuilder {
    cluster: Cluster,
    budget: MemoryBudget,
    group: GroupId,
    config: ConsumerConfig,
    topics: BTreeSet<TopicName>,
}

impl GroupConsumerBuilder {
    pub(crate) fn new(cluster: Cluster, budget: MemoryBudget, group: GroupId) -> Self {
        Self { cluster, budget, group, config: ConsumerConfig::default(), topics: BTreeSet::new() }
    }

    /// The settings of consuming.
    pub fn config(mut self, config: ConsumerConfig) -> Self {
        self.config = config;
        self
    }

    /// Topics to subscribe to; may be left out and [subscribed](GroupConsumer::subscribe) to later.
    pub fn topics<T: Into<TopicName>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Counts fetched data against `budget` instead of the client's own.
    pub fn memory_budget(mut self, budget: MemoryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Checks the settings and joins the group in the background.
    ///
    /// # Errors
    ///
    /// `Config`, with everything that is wrong.
    pub fn build(self) -> Result<GroupConsumer> {
        let mut problems = Problems::default();
        Table::check(&self.config, &mut problems);
        if let Some(fault) = self.group.fault() {
            problems.add("group.id", format!("the group id {fault}; name the consumer group"));
        }
        name_faults(&self.topics).for_each(|fault| problems.add("topics", fault));
        problems.finish(())?;
        Ok(GroupConsumer::new(self.cluster, self.budget, &self.group, self.config, self.topics))
    }
}

/// A member of a consumer group: the group's partitions are divided among its members, and each member reads its own.
///
/// Everything is driven by [`next`](Self::next) or, where rebalances matter, [`next_event`](Self::next_event). Joining,
/// heartbeats, fetching and commits go on in background tasks, however long the application takes between two calls. Cheap
/// to clone; all clones are handles of the same member. When the last one is dropped without [`close`](Self::close), what was stored
/// is committed and the group is left in the background, for up to five seconds.
#[derive(Clone)]
pub struct GroupConsumer {
    inner: Arc<Inner>,
}

struct Inner {
    group: GroupId,
    caller: Caller,
    core: Arc<Core>,
    config: Arc<ConsumerConfig>,
    commands: mpsc::UnboundedSender<Command>,
    _fetching: AbortOnDrop,
}

impl GroupConsumer {
    fn new(
        cluster: Cluster,
        budget: MemoryBudget,
        group: &GroupId,
        config: ConsumerConfig,
        topics: BTreeSet<TopicName>,
    ) -> Self {
        let config = Arc::new(config);
        let backoff = cluster.config().retry_backoff;
        let positions =
            Positions::new(PositionsConfig { consumer: (*config).clone(), backoff, budget: budget.clone() });
        let core = Arc::new(Core::new(positions, config.auto_store, Some(group.clone())));
        core.subscribe(topics.clone());
        // Connections and conditions are the member's, whoever of its parts uses or reports them.
        let id = cluster.next_id();
        let fetching = Fetching {
            cluster: cluster.clone(),
            core: Arc::clone(&core),
            config: Arc::clone(&config),
            budget,
            id,
        };
        let name = ByteString::from(group.as_str());
        let caller = Caller { cluster: cluster.clone(), group: name.clone(), id, offsets: cluster.next_id() };
        let mut classic = Classic::new(ClassicConfig {
            group: name,
            assignors: config.assignors.0.to_vec(),
            session_timeout: config.session_timeout,
            heartbeat_interval: config.heartbeat_interval,
            revoke_timeout: config.revoke_limit(),
            backoff,
        });
        if !topics.is_empty() {
            classic.handle_subscribe(topics);
        }
        // clock: automatic commits count from here.
        let now = Instant::now();
        let protocol = Protocol::Classic(classic);
        let machine = Membership::new(now, group.clone(), Arc::clone(&config), backoff, protocol);
        let (commands, receiver) = mpsc::unbounded_channel();
        let driver =
            GroupDriver::new(caller.clone(), Arc::clone(&core), Arc::clone(&config), machine, receiver);
        cluster.runtime().spawn("carafe-group", Box::pin(driver.run()));
        let inner =
            Inner { group: group.clone(), caller, core, config, commands, _fetching: fetching.start() };
        Self { inner: Arc::new(inner) }
    }

    /// The group.
    pub fn group(&self) -> &GroupId {
        &self.inner.group
    }

    /// Subscribes to exactly these topics from now on; the group rebalances. Topics that do not exist yet are read once
    /// they do. An empty list gives everything back and leaves the group.
    ///
    /// # Errors
    ///
    /// `State` if the consumer was closed, `Config` if a name is none that a topic can have.
    pub fn subscribe<T: Into<TopicName>>(&self, topics: impl IntoIterator<Item = T>) -> Result<()> {
        let topics: BTreeSet<TopicName> = topics.into_iter().map(Into::into).collect();
        if let Some(fault) = name_faults(&topics).next() {
            return Err(Error::new(ErrorKind::Config, fault));
        }
        self.inner.core.subscribe(topics.clone());
        self.command(Command::Subscribe(topics))
    }

    /// The next event: records, assignment, revocation, or a partition in trouble. Waits as long as it takes.
    ///
    /// With [`auto_store`](ConsumerConfig::auto_store), calling it says that all batches handed out before are done.
    ///
    /// Cancel-safe: dropping the future loses nothing. Several tasks may call it; each event goes to one of them.
    ///
    /// # Errors
    ///
    /// Errors end the consumer: the group refuses the member for good (`Fenced`, `Authorization`, `Config`, …), or
    /// `State` once it was closed.
    pub async fn next_event(&self) -> Result<ConsumerEvent> {
        self.inner.core.next().await
    }

    /// The next event if there is one already; see [`next_event`](Self::next_event).
    ///
    /// # Errors
    ///
    /// As [`next_event`](Self::next_event).
    pub fn try_next_event(&self) -> Result<Option<ConsumerEvent>> {
        self.inner.core.try_next().transpose()
    }

    /// The next batch, for applications that need not know of rebalances: revocations are answered at once, when this is
    /// called the next time. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`next_event`](Self::next_event), when a partition stops: its error, which names partition and offset, and when the
    /// principal turns out to lack a right: once, `Authorization`. The other partitions are read on by calling it again; so is what
    /// was denied once it is allowed.
    pub async fn next(&self) -> Result<RecordBatch> {
        loop {
            if let Some(batch) = self.next_event().await?.into_batch() {
                return batch;
            }
        }
    }

    /// Keeps `mark` for the next automatic commit, and for the one before its partition is given back. Nothing waits.
    ///
    /// # Errors
    ///
    /// `State` if the partition is not assigned, `Fenced` if the mark belongs to an assignment that was lost.
    pub fn store(&self, mark: Mark) -> Result<()> {
        self.inner.core.with(|positions| positions.store(mark))
    }

    /// Commits `marks` and waits for the coordinator's answer; tried again, also across rebalances that leave the
    /// partitions here, until the client's `api_timeout`. Commits reach the broker in the order in which they were asked
    /// for. Dropping the future does not take the commit back.
    ///
    /// # Errors
    ///
    /// `State` and `Fenced` as [`store`](Self::store), `Fenced` too if a partition is lost meanwhile; `Timeout`; otherwise
    /// the broker's refusal. It names the partitions that are not committed; the others are. A topic that does not exist
    /// any more is `UNKNOWN_TOPIC_OR_PARTITION` or `UNKNOWN_TOPIC_ID`, once the brokers have confirmed it.
    pub async fn commit(&self, marks: impl IntoIterator<Item = Mark>) -> Result<()> {
        let marks: Vec<Mark> = marks.into_iter().collect();
        if marks.is_empty() {
            return Ok(());
        }
        let bind = |positions: &mut Positions| marks.into_iter().map(|mark| positions.bind(mark)).collect();
        let marks: Result<Vec<Mark>> = self.inner.core.with(bind);
        let marks = marks?;
        let (reply, answer) = oneshot::channel();
        let deadline = self.inner.caller.cluster.default_deadline();
        self.command(Command::Commit { marks, deadline, reply })?;
        let failed = answer.await.map_err(|_| closed())?;
        summary(&format!("committing offsets of group {}", self.inner.group), &failed)
    }

    /// `marks` for a [transaction](crate::producer::Transaction::send_offsets), which commits them with what it writes. They carry
    /// the member's place in the group, so that nothing is committed once the partitions are elsewhere; while the group
    /// rebalances, this waits for that place, until the client's `api_timeout`. Send them soon. The consumer itself keeps
    /// nothing of them: after an abort, [`seek`](Self::seek) to where the transaction began.
    ///
    /// # Errors
    ///
    /// `State` and `Fenced` as [`store`](Self::store), `Timeout`; `Config` where [`auto_store`](ConsumerConfig::auto_store) is
    /// on, by which the offsets would be committed without the transaction as well. Cancel-safe.
    pub async fn offsets(&self, marks: impl IntoIterator<Item = Mark>) -> Result<GroupOffsets> {
        if self.inner.config.auto_store {
            let message = "offsets that the consumer stores by itself cannot be part of transactions";
            let advice = "set enable.auto.offset.store=false (auto_store)";
            return Err(Error::new(ErrorKind::Config, message).with_advice(advice));
        }
        let bind = |positions: &mut Positions, marks: Vec<Mark>| -> Result<Vec<Mark>> {
            marks.into_iter().map(|mark| positions.bind(mark)).collect()
        };
        let marks = self.inner.core.with(|positions| bind(positions, marks.into_iter().collect()))?;
        let (reply, place) = oneshot::channel();
        self.command(Command::Place(reply))?;
        let place = timeout_at(self.inner.caller.cluster.default_deadline(), place).await;
        let place = place.map_err(|_| {
            let message = format!("the member of group {} had no place in it all the time", self.inner.group);
            Error::new(ErrorKind::Timeout, message).with_advice("try again once the group is stable")
        })?;
        let (member_id, generation) = place.map_err(|_| closed())?;
        // Under that generation they are still ours, or it would be over.
        let marks = self.inner.core.with(|positions| bind(positions, marks))?;
        let offset = |mark: Mark| {
            let offset = GroupOffset {
                offset: mark.offset().0,
                leader_epoch: mark.epoch().0,
                metadata: mark.text_bytes(),
            };
            (mark.topic_partition().clone(), offset)
        };
        Ok(GroupOffsets {
            group: self.inner.caller.group.clone(),
            member_id,
            generation,
            instance_id: None,
            offsets: marks.into_iter().map(offset).collect(),
        })
    }

    /// Commits everything that is stored, as the next automatic commit would; see [`commit`](Self::commit).
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub async fn commit_stored(&self) -> Result<()> {
        let marks = self.inner.core.with(|positions| positions.stored(None));
        self.commit(marks).await
    }

    /// Whether the ends of partitions are told as events from now on, as
    /// [`ConsumerConfig::partition_end_events`](super::ConsumerConfig::partition_end_events) says at the beginning. A partition whose
    /// end was reached before is not told until more arrives.
    pub fn set_partition_end_events(&self, on: bool) {
        self.inner.core.with(|positions| positions.set_partition_end_events(on));
    }

    /// Stops handing out records of these partitions; what was prefetched is kept unless memory is needed. Once this
    /// returns, no batch of them is handed out.
    ///
    /// # Errors
    ///
    /// `State` if one is not assigned; the others are paused.
    pub fn pause<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<()> {
        self.each(partitions, |positions, partition| positions.pause(partition))
    }

    /// Ends a [pause](Self::pause).
    ///
    /// # Errors
    ///
    /// `State` if one is not assigned; the others are resumed.
    pub fn resume<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<()> {
        self.each(partitions, |positions, partition| positions.resume(partition))
    }

    /// With [`hold_after_delivery`](ConsumerConfig::hold_after_delivery): the batch that is out was dealt with, the next
    /// one may follow. Without effect if the partition is gone.
    pub fn release(&self, partition: &TopicPartition) {
        self.inner.core.update(|positions| positions.release(partition));
    }

    /// Goes on reading at another place. What was fetched is discarded; a batch that is out stays valid, and so does its
    /// mark.
    ///
    /// # Errors
    ///
    /// `State` if the partition is not assigned.
    pub fn seek(&self, partition: &TopicPartition, to: StartOffset) -> Result<()> {
        self.inner.core.update(|positions| positions.seek(partition, to))
    }

    /// Goes on reading at `mark`, unless the assignment that it belongs to has ended: another topic may have its name by now.
    #[cfg_attr(not(feature = "app"), allow(dead_code, reason = "applications seek on behalf of handlers"))]
    pub(crate) fn seek_to(&self, mark: &Mark) -> Result<()> {
        self.inner.core.update(|positions| {
            positions.check_mark(mark)?;
            positions.seek(mark.topic_partition(), StartOffset::At(mark.offset()))
        })
    }

    /// The next offset that [`next`](Self::next) will hand out, once it is known.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.inner.core.with(|positions| positions.position(partition))
    }

    /// The end of a partition as of the last answer of its leader, once there was one.
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<Offset> {
        self.inner.core.with(|positions| positions.high_watermark(partition))
    }

    /// The partitions that this member reads now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.inner.core.with(|positions| positions.assigned())
    }

    /// What the group has committed for `partitions`, with the text kept beside it; partitions without a committed offset
    /// are absent, and so are those of topics that do not exist.
    ///
    /// # Errors
    ///
    /// `Timeout` after the client's `api_timeout`, `Authorization`, or the broker's refusal; it names a partition, and can
    /// be avoided by leaving that out.
    pub async fn committed(&self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Mark>> {
        let answers = self.inner.caller.committed_all(partitions).await?;
        let mark = |partition: TopicPartition, (offset, epoch, text): (i64, i32, Option<ByteString>)| {
            let mark = Mark::new(partition, Offset(offset)).leader_epoch(epoch.into());
            match text.filter(|text| !text.is_empty()) {
                Some(text) => mark.metadata(text),
                None => mark,
            }
        };
        let marks = answers
            .into_iter()
            .filter_map(|(partition, answer)| Some((partition.clone(), mark(partition, answer?))));
        Ok(marks.collect())
    }

    /// Ends the membership: commits what is stored (with [`auto_store`](ConsumerConfig::auto_store): everything that was
    /// handed out), gives all partitions back and leaves the group, within `timeout`, of which at most 5 s and a fourth are
    /// kept for leaving, however long the commits take. Open revocations count as done. All clones are closed with it.
    /// `Ok` means that all of this was done; what was stored for a topic that does not exist any more is no part of it.
    /// Called again, it waits for the same end, and tells the same of it: what was not committed stays that.
    ///
    /// # Errors
    ///
    /// `Timeout` if that could not be finished in time, otherwise why a commit failed. It names the partitions and offsets
    /// that are not committed. The consumer is closed all the same: leaving is tried for up to 5 s more in the background,
    /// and a coordinator that cannot be reached counts the member out when its session times out.
    pub async fn close(&self, timeout: Duration) -> Result<()> {
        // clock: where an operation begins, its time limit becomes a deadline.
        let deadline = deadline::after(Instant::now(), timeout);
        if self.inner.config.auto_store {
            self.inner.core.with(|positions| positions.store_handed_out());
        }
        let (reply, answer) = oneshot::channel();
        if self.command(Command::Close { deadline, reply }).is_err() {
            return self.inner.core.closed();
        }
        // Answered at the deadline at the latest; not at all if the membership had ended before.
        answer.await.unwrap_or_else(|_| self.inner.core.closed())
    }

    fn each<'a>(
        &self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
        act: impl Fn(&mut Positions, &TopicPartition) -> Result<()>,
    ) -> Result<()> {
        self.inner.core.update(|positions| {
            let mut result = Ok(());
            for partition in partitions {
                result = result.and(act(positions, partition));
            }
            result
        })
    }

    fn command(&self, command: Command) -> Result<()> {
        self.inner.commands.send(command).map_err(|_| closed())
    }
}

/// What is wrong with the names of topics; long ones are shown in part.
fn name_faults(topics: &BTreeSet<TopicName>) -> impl Iterator<Item = String> {
    topics.iter().filter_map(|topic| {
        let shown: String = topic.chars().take(60).collect();
        Some(format!("the topic name {shown:?} {}", topic.fault()?))
    })
}

fn closed() -> Error {
    Error::new(ErrorKind::State, "the consumer is closed")
}

impl fmt::Debug for GroupConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupConsumer").field("group", &self.inner.group).finish_non_exhaustive()
    }
}
