//! `-C`: reads the partitions of one topic.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use super::arguments::{Options, Start};
use super::format::{Format, Printed};
use super::output::Output;
use super::{Failure, Job};
use crate::admin::{ListedTopic, OffsetSpec};
use crate::consumer::{ConsumerEvent, FirstStart, PartitionFailure, RecordBatch, RecordRef, StartOffset};
use crate::runtime::BoxFuture;
use crate::types::{Offset, Timestamp, TopicPartition};
use crate::{Error, ErrorKind, Result};

pub(super) async fn run(job: Job) -> Result<ExitCode, Failure> {
    let format = format(&job.options)?;
    if job.options.start == Some(Start::Stored) && job.settings.group.is_none() {
        return Err(Failure::Usage("-o stored needs -X group.id=GROUP".to_owned()));
    }
    let name = job.options.topic.as_deref().unwrap_or_default();
    let topic = look_up(&job, name, job.options.partition).await?;
    let leaders = topic.partitions.iter().map(|partition| {
        let leader = partition.leader.map_or(-1, |leader| leader.0);
        (TopicPartition::new(topic.name.clone(), partition.partition), leader)
    });
    let only = job.options.partition;
    let leaders: BTreeMap<_, _> =
        leaders.filter(|(partition, _)| only.is_none_or(|only| only == partition.partition.0)).collect();
    let mut reader = job.client.partition_reader().config(job.settings.consumer.clone());
    for (partition, start) in starts(&job, leaders.keys()).await? {
        reader = reader.partition(partition, start);
    }
    let reader = reader.build().await?;
    let mut reading = Reading {
        printer: Printer::new(&job.options, format),
        left: leaders.len(),
        stopped: BTreeSet::new(),
        leaders,
        job: &job,
    };
    let mut ends = Ends::new(&job);
    while let Some(event) = reading.printer.next(&mut ends, reader.next_event()).await? {
        let more = match event {
            ConsumerEvent::Batch(batch) => reading.batch(&batch)?,
            ConsumerEvent::PartitionEnd { partition, offset } => reading.end(&partition, offset),
            ConsumerEvent::PartitionFailed(failure) => {
                job.report(failure)?;
                true
            }
            _ => true,
        };
        if !more {
            break;
        }
    }
    reading.printer.output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What ends reading from outside.
pub(super) struct Ends<'a> {
    interrupted: BoxFuture<'static, ()>,
    trouble: BoxFuture<'a, Error>,
}

impl<'a> Ends<'a> {
    pub(super) fn new(job: &'a Job) -> Self {
        Self { interrupted: (job.interrupt)(), trouble: Box::pin(job.trouble()) }
    }
}

/// What has been read so far.
struct Reading<'a> {
    job: &'a Job,
    printer: Printer,
    /// Partitions and the brokers that lead them.
    leaders: BTreeMap<TopicPartition, i32>,
    /// Partitions of which nothing more is printed.
    stopped: BTreeSet<TopicPartition>,
    /// Partitions that are not stopped.
    left: usize,
}

impl Reading<'_> {
    /// Prints a batch. Returns false once that was all.
    fn batch(&mut self, batch: &RecordBatch) -> Result<bool, Failure> {
        let partition = batch.topic_partition();
        if self.stopped.contains(partition) {
            return Ok(true);
        }
        let broker = self.leaders.get(partition).copied().unwrap_or(-1);
        for (index, record) in batch.iter().enumerate() {
            if self.job.options.stop.is_some_and(|stop| stop > 0 && record.timestamp >= stop) {
                let more = self.stop(partition);
                let exiting = if more { "" } else { ": exiting" };
                let what = "Reached stop timestamp for topic";
                let offset = record.offset;
                self.job.tell(format_args!("{what} {} at offset {offset}{exiting}", place(partition)));
                return Ok(more);
            }
            if !self.printer.print(batch, (index, record), broker)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A partition ends here, for now. Returns false once that was all.
    fn end(&mut self, partition: &TopicPartition, offset: Offset) -> bool {
        let more = !self.job.options.exit_at_end || self.stop(partition);
        let exiting = if more { "" } else { ": exiting" };
        self.job.tell(format_args!("Reached end of topic {} at offset {offset}{exiting}", place(partition)));
        more
    }

    fn stop(&mut self, partition: &TopicPartition) -> bool {
        if self.stopped.insert(partition.clone()) {
            self.left = self.left.saturating_sub(1);
        }
        self.left > 0
    }
}

/// A partition the way kcat tells of it.
pub(super) fn place(partition: &TopicPartition) -> String {
    format!("{} [{}]", partition.topic, partition.partition)
}

/// Prints records, up to a count.
pub(super) struct Printer {
    pub(super) output: Output,
    format: Format,
    left: Option<u64>,
}

impl Printer {
    pub(super) fn new(options: &Options, format: Format) -> Self {
        Self { output: Output::new(options.unbuffered), format, left: options.count }
    }

    /// The next event of a consumer; before it is waited for, the output is emptied. `None` if the program is told to end,
    /// or nobody reads the output any more.
    pub(super) async fn next(
        &mut self,
        ends: &mut Ends<'_>,
        next: impl Future<Output = Result<ConsumerEvent>>,
    ) -> Result<Option<ConsumerEvent>, Failure> {
        let mut next = std::pin::pin!(next);
        let mut flushed = false;
        loop {
            // Biased: a signal goes first, it comes once; what is there already goes before the output is emptied.
            tokio::select! {
                biased;
                () = &mut ends.interrupted => return Ok(None),
                error = &mut ends.trouble => return Err(error.into()),
                event = &mut next => return Ok(Some(event?)),
                () = std::future::ready(()), if !flushed => {
                    if !self.output.flush()? {
                        return Ok(None);
                    }
                    flushed = true;
                }
            }
        }
    }

    /// Prints record number `index` of a batch, which is `record`. Returns false if it was the last one wanted.
    pub(super) fn print(
        &mut self,
        batch: &RecordBatch,
        (index, record): (usize, RecordRef<'_>),
        broker: i32,
    ) -> Result<bool, Failure> {
        let printed = Printed {
            topic: batch.topic().as_str(),
            partition: batch.partition().0,
            broker,
            timestamp_type: batch.timestamp_type(index).unwrap_or_default(),
            record,
        };
        self.format.print(&printed, self.output.buffer());
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        Ok(self.output.wrote()? && self.left != Some(0))
    }
}

/// The format that the flags ask for.
pub(super) fn format(options: &Options) -> Result<Format, Failure> {
    let key_delimiter = options.key_delimiter.as_deref();
    Format::new(options.format.as_deref(), &options.delimiter, key_delimiter, options.json, options.null)
        .map_err(Failure::Usage)
}

impl Job {
    /// A partition cannot be read. Ends the command unless it is tried again, or `-E` says to go on.
    pub(super) fn report(&self, failure: PartitionFailure) -> Result<(), Failure> {
        if failure.stopped && !self.options.keep_going {
            return Err(Failure::Failed(failure.error));
        }
        self.tell(format_args!("{}: {}", place(&failure.partition), failure.error));
        Ok(())
    }
}

/// The topic's partitions, the wanted one among them.
pub(super) async fn look_up(job: &Job, name: &str, partition: Option<i32>) -> Result<ListedTopic, Failure> {
    let listing = job.admin().metadata_listing(Some(name)).await?;
    let Some(topic) = listing.topics.into_iter().find(|topic| topic.name == name) else {
        let message = format!("the broker said nothing about topic {name}");
        return Err(Failure::Failed(Error::new(ErrorKind::Protocol, message)));
    };
    let problem = match partition {
        _ if !topic.error.is_ok() => {
            return Err(Failure::Failed(Error::from_code(
                topic.error,
                format!("topic {name} cannot be read"),
            )));
        }
        _ if topic.partitions.is_empty() => format!("topic {name} has no partitions"),
        Some(wanted) if !topic.partitions.iter().any(|partition| partition.partition.0 == wanted) => {
            let last = topic.partitions.len() - 1;
            format!("topic {name} (with partitions 0..{last}): partition {wanted} does not exist")
        }
        _ => return Ok(topic),
    };
    Err(Failure::Failed(Error::new(ErrorKind::Config, problem)))
}

/// Where each partition begins.
pub(super) async fn starts(
    job: &Job,
    partitions: impl Iterator<Item = &TopicPartition>,
) -> Result<Vec<(TopicPartition, StartOffset)>, Failure> {
    let same = |start| move |partition: &TopicPartition| (partition.clone(), start);
    Ok(match job.options.start {
        None | Some(Start::Beginning) => partitions.map(same(StartOffset::Earliest)).collect(),
        Some(Start::End) => partitions.map(same(StartOffset::Latest)).collect(),
        Some(Start::At(offset)) => partitions.map(same(StartOffset::At(Offset(offset)))).collect(),
        // To kcat, zero is no timestamp.
        Some(Start::Timestamp(0)) => partitions.map(same(StartOffset::Earliest)).collect(),
        Some(Start::Timestamp(at)) => partitions.map(same(StartOffset::Timestamp(Timestamp(at)))).collect(),
        Some(Start::Tail(count)) => {
            let partitions: Vec<_> = partitions.cloned().collect();
            let admin = job.admin();
            let list = |spec| admin.list_offsets(partitions.iter().cloned().map(move |at| (at, spec)));
            let mut firsts = list(OffsetSpec::Earliest).await;
            let mut starts = Vec::new();
            for (partition, end) in list(OffsetSpec::Latest).await {
                let first = firsts.remove(&partition).transpose()?.and_then(|listed| listed.offset);
                let end = end?.offset.map_or(0, |offset| offset.0);
                // Where fewer are left, these are the last ones.
                let start = end.saturating_sub(count).max(first.map_or(0, |first| first.0));
                starts.push((partition, StartOffset::At(Offset(start))));
            }
            starts
        }
        Some(Start::Stored) => stored(job, partitions).await?,
    })
}

/// What the group has committed, and what `auto.offset.reset` says where it has nothing.
async fn stored(
    job: &Job,
    partitions: impl Iterator<Item = &TopicPartition>,
) -> Result<Vec<(TopicPartition, StartOffset)>, Failure> {
    let group = job.settings.group.as_deref().unwrap_or_default();
    let mut committed = job.admin().group_offsets(group.to_owned()).await?;
    let mut starts = Vec::new();
    for partition in partitions {
        let start = match committed.remove(partition).transpose()? {
            Some(committed) => StartOffset::At(committed.offset),
            None => match job.settings.first_start {
                FirstStart::Latest => StartOffset::Latest,
                FirstStart::Stop => {
                    let message = format!("group {group} has committed nothing for {}", place(partition));
                    return Err(Failure::Failed(Error::new(ErrorKind::OffsetOutOfRange, message)));
                }
                _ => StartOffset::Earliest,
            },
        };
        starts.push((partition.clone(), start));
    }
    Ok(starts)
}
