//! `-G`: reads what a consumer group assigns.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use super::arguments::{self, Start};
use super::consume::{self, Ends, Printer, place};
use super::{Failure, Job};
use crate::consumer::{ConsumerEvent, GroupConsumer, Mark, RecordBatch};
use crate::types::{Offset, TopicPartition};
use crate::{Error, ErrorKind, Result};

pub(super) async fn run(job: Job) -> Result<ExitCode, Failure> {
    let format = consume::format(&job.options)?;
    let topics: Result<Vec<String>, String> =
        job.options.operands.iter().map(|operand| arguments::topic_name(operand)).collect();
    let topics = topics.map_err(Failure::Usage)?;
    if let Some(pattern) = topics.iter().find(|topic| topic.starts_with('^')) {
        return Err(Failure::Usage(format!("{pattern}: patterns of topics are not supported yet")));
    }
    let group = job.options.group.clone().unwrap_or_default();
    for topic in &topics {
        consume::look_up(&job, topic, None).await?;
    }
    // Only what was printed counts as done, and -c may end in the middle of a batch.
    let config = job.settings.consumer.clone().auto_store(false);
    let consumer = job.client.group_consumer(group).config(config).topics(topics).build();
    let consumer = consumer.map_err(super::wrong_setting)?;
    job.tell(format_args!("Waiting for group rebalance"));
    let mut member = Member {
        printer: Printer::new(&job.options, format),
        consumer: &consumer,
        job: &job,
        assigned: BTreeMap::new(),
        ended: BTreeSet::new(),
    };
    let result = member.read().await;
    let flushed = member.printer.output.flush();
    // Biased: a signal goes first, it comes once.
    let closed = tokio::select! {
        biased;
        () = (job.interrupt)() => {
            let message = "told to end twice: what was printed last may not be committed";
            Err(Error::new(ErrorKind::State, message))
        }
        closed = consumer.close(job.options.patience) => closed,
    };
    result?;
    flushed?;
    closed?;
    Ok(ExitCode::SUCCESS)
}

struct Member<'a> {
    job: &'a Job,
    consumer: &'a GroupConsumer,
    printer: Printer,
    /// Partitions and the brokers that lead them.
    assigned: BTreeMap<TopicPartition, i32>,
    /// Those with nothing left to read.
    ended: BTreeSet<TopicPartition>,
}

impl Member<'_> {
    async fn read(&mut self) -> Result<(), Failure> {
        let mut ends = Ends::new(self.job);
        while let Some(event) = self.printer.next(&mut ends, self.consumer.next_event()).await? {
            if !self.take(event).await? {
                break;
            }
        }
        Ok(())
    }

    /// Returns false once that was all.
    async fn take(&mut self, event: ConsumerEvent) -> Result<bool, Failure> {
        match event {
            ConsumerEvent::Batch(batch) => return self.batch(&batch),
            ConsumerEvent::Assigned(partitions) => {
                self.tell("assigned", &partitions);
                self.assign(&partitions).await?;
            }
            ConsumerEvent::Revoked(revocation) => {
                self.tell("revoked", revocation.partitions());
                self.remove(revocation.partitions());
                revocation.done();
            }
            ConsumerEvent::Lost(partitions) => {
                self.tell("lost", &partitions);
                self.remove(&partitions);
            }
            ConsumerEvent::PartitionFailed(failure) => self.job.report(failure)?,
            ConsumerEvent::PositionReset { partition, to, error, .. } => {
                tracing::warn!(%partition, %to, %error, "reading goes on at another offset");
            }
            // What became of its partitions is told next; the others are logged where they are told.
            ConsumerEvent::TopicRecreated { .. }
            | ConsumerEvent::Condition(_)
            | ConsumerEvent::CommitFailed { .. } => {}
            ConsumerEvent::FetchFailed { node, error } => {
                tracing::warn!(%node, %error, "the fetch is tried again")
            }
            ConsumerEvent::PartitionEnd { partition, offset } => return Ok(self.end(partition, offset)),
        }
        Ok(true)
    }

    async fn assign(&mut self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        for partition in partitions {
            self.assigned.insert(partition.clone(), -1);
        }
        if self.job.options.json {
            self.find_leaders().await?;
        }
        if self.job.options.start.is_some_and(|start| start != Start::Stored) {
            for (partition, start) in consume::starts(self.job, partitions.iter()).await? {
                // Gone again already: it need not begin anywhere.
                let _ = self.consumer.seek(&partition, start);
            }
        }
        Ok(())
    }

    async fn find_leaders(&mut self) -> Result<(), Failure> {
        let topics: BTreeSet<_> = self.assigned.keys().map(|partition| partition.topic.clone()).collect();
        for (topic, described) in self.job.admin().describe_topics(topics).await? {
            for partition in described?.partitions {
                let leader = partition.leader.map_or(-1, |leader| leader.0);
                let partition = TopicPartition::new(topic.clone(), partition.partition);
                self.assigned.entry(partition).and_modify(|known| *known = leader);
            }
        }
        Ok(())
    }

    fn remove(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.assigned.remove(partition);
            self.ended.remove(partition);
        }
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<bool, Failure> {
        let partition = batch.topic_partition();
        let broker = self.assigned.get(partition).copied().unwrap_or(-1);
        self.ended.remove(partition);
        for (index, record) in batch.iter().enumerate() {
            if !self.printer.print(batch, (index, record), broker)? {
                self.store(Mark::new(partition.clone(), Offset(record.offset.0 + 1)));
                return Ok(false);
            }
        }
        self.store(batch.mark());
        Ok(true)
    }

    fn store(&self, mark: Mark) {
        if let Err(error) = self.consumer.store(mark) {
            tracing::debug!(%error, "a partition was lost while it was printed");
        }
    }

    fn end(&mut self, partition: TopicPartition, offset: Offset) -> bool {
        let line = format!("Reached end of topic {} at offset {offset}", place(&partition));
        if self.assigned.contains_key(&partition) {
            self.ended.insert(partition);
        }
        let more = !self.job.options.exit_at_end || self.ended.len() < self.assigned.len();
        self.job.tell(format_args!("{line}{}", if more { "" } else { ": exiting" }));
        more
    }

    fn tell(&self, what: &str, partitions: &[TopicPartition]) {
        let list: Vec<_> = partitions.iter().map(place).collect();
        let group = self.consumer.group();
        self.job.tell(format_args!("Group {group} rebalanced: {what}: {}", list.join(", ")));
    }
}
