//! `-C`: reads the partitions of one topic.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::Poll;

use tokio::time::timeout;

use crate::admin::{ListedTopic, OffsetSpec};
use crate::consumer::{Batch, Event, FirstStart, PartitionFailure, RecordRef, StartOffset};
use crate::types::{Offset, Timestamp, TopicPartition};
use crate::{Error, ErrorKind, Result};

use super::arguments::{Options, Start};
use super::format::{Format, Printed};
use super::list::error_text;
use super::output::Output;
use super::{Failure, Job};

pub(super) async fn run(job: Job) -> Result<ExitCode, Failure> {
    let format = format(&job.options)?;
    if job.options.start == Some(Start::Stored) && job.settings.group.is_none() {
        return Err(Failure::Usage("-o stored needs -X group.id=GROUP".to_owned()));
    }
    let topic = look_up(&job).await?;
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
    let mut interrupted = std::pin::pin!(crate::runtime::termination());
    loop {
        let mut next = std::pin::pin!(reader.next_event());
        if now(&mut interrupted).await.is_some() {
            break;
        }
        let event = match now(&mut next).await {
            Some(event) => event?,
            None => {
                if !reading.printer.output.flush()? {
                    break;
                }
                // Biased: a signal goes first, it comes once.
                let event = tokio::select! {
                    biased;
                    () = &mut interrupted => break,
                    event = timeout(job.settings.request_timeout, next) => event,
                };
                match event {
                    Ok(event) => event?,
                    Err(_) => {
                        job.probe().await?;
                        continue;
                    }
                }
            }
        };
        let more = match event {
            Event::Batch(batch) => reading.batch(&batch)?,
            Event::PartitionEnd { partition, offset } => reading.end(&partition, offset),
            Event::PartitionFailed(failure) => {
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

/// The output of `future` if it has one already; it may be polled again otherwise.
pub(super) async fn now<F: Future>(future: &mut Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
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
    fn batch(&mut self, batch: &Batch) -> Result<bool, Failure> {
        let partition = batch.topic_partition();
        if self.stopped.contains(partition) {
            return Ok(true);
        }
        let broker = self.leaders.get(partition).copied().unwrap_or(-1);
        for record in batch.iter() {
            if self.job.options.stop.is_some_and(|stop| stop > 0 && record.timestamp >= stop) {
                let more = self.stop(partition);
                let exiting = if more { "" } else { ": exiting" };
                let what = "Reached stop timestamp for topic";
                let offset = record.offset;
                self.job.tell(format_args!("{what} {} at offset {offset}{exiting}", place(partition)));
                return Ok(more);
            }
            if !self.printer.print(partition, broker, record)? {
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

    /// Prints a record. Returns false if it was the last one.
    pub(super) fn print(
        &mut self,
        partition: &TopicPartition,
        broker: i32,
        record: RecordRef<'_>,
    ) -> Result<bool, Failure> {
        let printed = Printed {
            topic: partition.topic.as_str(),
            partition: partition.partition.0,
            broker,
            log_append_time: false,
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
async fn look_up(job: &Job) -> Result<ListedTopic, Failure> {
    let name = job.options.topic.as_deref().unwrap_or_default();
    let listing = job.admin().metadata_listing(Some(name)).await?;
    let Some(topic) = listing.topics.into_iter().find(|topic| topic.name == name) else {
        let message = format!("the broker said nothing about topic {name}");
        return Err(Failure::Failed(Error::new(ErrorKind::Protocol, message)));
    };
    let problem = match job.options.partition {
        _ if !topic.error.is_ok() => {
            let message = format!("topic {name}: {}", error_text(topic.error));
            return Err(Failure::Failed(Error::from_code(topic.error, message)));
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
            let wanted = partitions.map(|partition| (partition.clone(), OffsetSpec::Latest));
            let mut starts = Vec::new();
            for (partition, listed) in job.admin().list_offsets(wanted).await {
                let end = listed?.offset.map_or(0, |offset| offset.0);
                starts.push((partition, StartOffset::At(Offset(end.saturating_sub(count).max(0)))));
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
