//! `-P`: produces what is read from standard input or files.

use std::collections::VecDeque;
use std::process::ExitCode;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::arguments::Options;
use super::output::Output;
use super::split::{Splitter, parts};
use super::{Failure, Job};
use crate::producer::{ProduceError, Producer, Record, Topic};
use crate::runtime::BoxFuture;
use crate::{Error, ErrorKind, Result};

/// Failed records that are told of one by one.
const FAILURES_TOLD: u64 = 10;

pub(super) async fn run(job: Job) -> Result<ExitCode, Failure> {
    match job.options.operands.first() {
        Some(file) if job.options.lines => match tokio::fs::File::open(file).await {
            Ok(lines) => produce(&job, lines).await,
            Err(error) => Err(Failure::Failed(unreadable(&file.to_string_lossy(), error))),
        },
        _ => produce(&job, tokio::io::stdin()).await,
    }
}

/// Produces what `input` or the files hold. The first signal ends the reading, the second one the waiting for
/// acknowledgements.
pub(super) async fn produce(job: &Job, input: impl AsyncRead + Unpin) -> Result<ExitCode, Failure> {
    let producer = job.client.producer().config(job.settings.producer.clone()).build()?;
    let mut sending = Sending {
        job,
        producer: &producer,
        topic: None,
        output: Output::new(job.options.unbuffered),
        sent: 0,
        failed: 0,
        under_way: VecDeque::new(),
    };
    let stop = Notify::new();
    let signals = async {
        (job.interrupt)().await;
        stop.notify_one();
        (job.interrupt)().await;
    };
    let work = async {
        let readable = if job.options.operands.is_empty() || job.options.lines {
            sending.stream(input, &stop).await?;
            true
        } else {
            sending.files().await?
        };
        sending.output.flush()?;
        sending.settle().await;
        Ok(if sending.failed == 0 && readable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    };
    // Biased: signals go first, they come once; and trouble goes before work that it keeps from ending.
    let result = tokio::select! {
        biased;
        () = signals => Err(Error::new(ErrorKind::State, "told to end twice").into()),
        error = job.trouble() => Err(error.into()),
        result = work => result,
    };
    let failed = sending.failed;
    if failed > FAILURES_TOLD {
        eprintln!("% {failed} messages were not delivered");
    }
    if result.is_err() {
        let counters = producer.counters();
        let open = counters.enqueued.saturating_sub(counters.acked + counters.failed);
        if open > 0 {
            eprintln!("% {open} messages are not acknowledged, and may or may not have been written");
        }
    }
    result
}

struct Sending<'a> {
    job: &'a Job,
    producer: &'a Producer,
    /// Looked up for the first message: without one, nothing is asked and no topic created.
    topic: Option<Topic>,
    output: Output,
    sent: u64,
    failed: u64,
    /// What becomes of the messages that were sent: those that failed. The oldest first.
    under_way: VecDeque<BoxFuture<'static, Vec<ProduceError>>>,
}

impl Sending<'_> {
    /// Produces the messages of a stream until its end, the count, or `stop`.
    async fn stream(&mut self, mut input: impl AsyncRead + Unpin, stop: &Notify) -> Result<(), Failure> {
        let mut splitter = Splitter::new(&self.job.options.delimiter);
        loop {
            let mut messages = splitter.messages();
            if !self.send(&mut messages, self.job.options.count).await? {
                return Ok(());
            }
            let seen = messages.seen();
            let pending = splitter.advance(seen);
            self.check_size(pending)?;
            self.output.flush()?;
            let read = loop {
                // Biased: what stops goes first, it comes once; then input. Acknowledgements wait without harm.
                tokio::select! {
                    biased;
                    () = stop.notified() => return Ok(()),
                    read = input.read_buf(splitter.buffer()) => break read,
                    failed = oldest(&mut self.under_way) => self.take(failed),
                }
            };
            if read.map_err(|error| unreadable("the input", error))? == 0 {
                break;
            }
        }
        self.send(&mut std::iter::once(splitter.rest()), self.job.options.count).await?;
        Ok(())
    }

    /// Produces messages, up to `limit` in all; empty ones are left out. Returns false if the last one was among them.
    async fn send<'m>(
        &mut self,
        messages: &mut (impl Iterator<Item = &'m [u8]> + Clone),
        limit: Option<u64>,
    ) -> Result<bool, Failure> {
        let options = &self.job.options;
        let of_these = messages.clone();
        let mut messages = messages.filter(|message| !message.is_empty()).peekable();
        if messages.peek().is_none() {
            return Ok(true);
        }
        let topic = match self.topic.take() {
            Some(topic) => topic,
            None => self.look_up().await?,
        };
        let topic = &*self.topic.insert(topic);
        let left = limit.map_or(u64::MAX, |limit| limit - self.sent);
        let mut too_large = None;
        let fitting = messages.take(usize::try_from(left).unwrap_or(usize::MAX)).take_while(|message| {
            too_large = (message.len() > self.job.settings.message_max).then_some(message.len());
            too_large.is_none()
        });
        let records = fitting.map(|message| record(options, topic, message));
        let (receipts, problem) = match self.producer.enqueue_all(records).await {
            Ok(receipts) => (receipts, None),
            Err(error) => {
                let (receipts, problem, _) = error.into_parts();
                (receipts, Some(problem))
            }
        };
        let count = receipts.len();
        if options.tee {
            for message in of_these.filter(|message| !message.is_empty()).take(count) {
                self.output.buffer().extend_from_slice(message);
                self.output.wrote()?;
            }
        }
        self.sent += count as u64;
        self.under_way.push_back(Box::pin(receipts.wait()));
        self.take_known().await;
        if let Some(size) = too_large {
            self.check_size(size)?;
        }
        match problem {
            Some(problem) => Err(Failure::Failed(problem.into())),
            None => Ok(limit != Some(self.sent)),
        }
    }

    /// Produces each file as one message. Returns false if none could be read.
    async fn files(&mut self) -> Result<bool, Failure> {
        let files = &self.job.options.operands;
        let mut good = 0;
        for file in files {
            let name = file.to_string_lossy();
            match tokio::fs::read(file).await {
                Ok(content) => {
                    // As with kcat, -c counts messages of a stream alone.
                    self.send(&mut std::iter::once(&content[..]), None).await?;
                    good += 1;
                }
                Err(error) => self.job.tell(format_args!("{name} cannot be read: {error}")),
            }
        }
        if good > 0 && good < files.len() {
            self.job.tell(format_args!("{} of {} files could not be read", files.len() - good, files.len()));
        }
        Ok(good > 0)
    }

    async fn look_up(&self) -> Result<Topic, Failure> {
        let name = self.job.options.topic.as_deref().unwrap_or_default();
        match timeout_at(self.job.deadline(), self.producer.topic(name.to_owned())).await {
            Ok(topic) => Ok(topic?),
            Err(_) => {
                let message = format!("no metadata of topic {name} within {:?}", self.job.options.patience);
                let error = Error::new(ErrorKind::Timeout, message);
                Err(Failure::Failed(match self.job.client.ready(std::time::Duration::ZERO).await {
                    Ok(()) => error,
                    Err(reason) => error.with_source(reason),
                }))
            }
        }
    }

    /// Takes what is known by now, so that not everything is kept until the end.
    async fn take_known(&mut self) {
        loop {
            // Biased: ready at once is only what is there already.
            let failed = tokio::select! {
                biased;
                failed = oldest(&mut self.under_way) => failed,
                () = std::future::ready(()) => return,
            };
            self.take(failed);
        }
    }

    /// Waits for what was sent.
    async fn settle(&mut self) {
        while !self.under_way.is_empty() {
            let failed = oldest(&mut self.under_way).await;
            self.take(failed);
        }
    }

    fn take(&mut self, failed: Vec<ProduceError>) {
        for error in failed {
            self.failed += 1;
            if self.failed <= FAILURES_TOLD {
                let error = crate::error::Chain(&error);
                self.job.tell(format_args!("Delivery failed for message: {error}"));
            }
        }
    }

    fn check_size(&self, size: usize) -> Result<(), Failure> {
        let max = self.job.settings.message_max;
        if size <= max {
            return Ok(());
        }
        let message = format!("a message is larger than {max} bytes (message.max.bytes)");
        Err(Failure::Failed(Error::new(ErrorKind::TooLarge, message)))
    }
}

/// Waits for the oldest and takes it; for ever if there is none. Cancel-safe.
async fn oldest(under_way: &mut VecDeque<BoxFuture<'static, Vec<ProduceError>>>) -> Vec<ProduceError> {
    let failed = match under_way.front_mut() {
        Some(oldest) => oldest.await,
        None => std::future::pending().await,
    };
    under_way.pop_front();
    failed
}

/// What is sent for a message: it stays where it was read to until it lies in its batch.
fn record<'r>(options: &'r Options, topic: &'r Topic, message: &'r [u8]) -> Record<'r> {
    let fixed_key = options.fixed_key.as_deref();
    let parts = parts(message, options.key_delimiter.as_deref(), fixed_key, options.null);
    let mut record = Record::to(topic).key(parts.key).value(parts.value);
    for (name, value) in &options.headers {
        record = record.header(name, value.as_ref());
    }
    match options.partition {
        Some(partition) => record.partition(partition),
        None => record,
    }
}

fn unreadable(name: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, format!("{name} cannot be read")).with_source(error)
}
