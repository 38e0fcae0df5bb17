//! `-P`: produces what is read from standard input or files.

use std::collections::VecDeque;
use std::process::ExitCode;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::producer::{Delivery, ProduceError, Producer, Receipt, Record, Topic};
use crate::{Error, ErrorKind, Result};

use super::output::Output;
use super::split::{Splitter, parts};
use super::{Failure, Job};

/// Receipts that are kept before the oldest is waited for.
const RECEIPTS_MAX: usize = 100_000;
/// Failed records that are told of one by one.
const FAILURES_TOLD: u64 = 10;

pub(super) async fn run(job: Job) -> Result<ExitCode, Failure> {
    let input: Box<dyn AsyncRead + Send + Unpin> = match job.options.operands.first() {
        Some(file) if job.options.lines => match tokio::fs::File::open(file).await {
            Ok(file) => Box::new(file),
            Err(error) => return Err(Failure::Failed(unreadable(&file.to_string_lossy(), error))),
        },
        _ => Box::new(tokio::io::stdin()),
    };
    let producer = job.client.producer().config(job.settings.producer.clone()).build()?;
    let mut sending = Sending {
        output: Output::new(job.options.unbuffered),
        producer: &producer,
        topic: None,
        job: &job,
        sent: 0,
        failed: 0,
        acknowledged: false,
        receipts: VecDeque::new(),
    };
    let readable = if job.options.operands.is_empty() || job.options.lines {
        sending.stream(input).await?;
        true
    } else {
        sending.files().await?
    };
    sending.output.flush()?;
    sending.settle().await?;
    let failed = sending.failed;
    if failed > FAILURES_TOLD {
        eprintln!("% {failed} messages were not delivered");
    }
    Ok(if failed == 0 && readable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of a message.
type Delivered = Result<Delivery, ProduceError>;

/// Waits for the oldest receipt and takes it; for ever if there is none. Cancel-safe.
async fn oldest(receipts: &mut VecDeque<Receipt>) -> Delivered {
    let delivery = match receipts.front_mut() {
        Some(receipt) => receipt.await,
        None => std::future::pending().await,
    };
    receipts.pop_front();
    delivery
}

struct Sending<'a> {
    job: &'a Job,
    producer: &'a Producer,
    /// Looked up for the first message: without one, nothing is asked and no topic created.
    topic: Option<Topic>,
    output: Output,
    sent: u64,
    failed: u64,
    /// A broker has answered.
    acknowledged: bool,
    receipts: VecDeque<Receipt>,
}

impl Sending<'_> {
    /// Produces the messages of a stream until its end, the count, or a signal.
    async fn stream(&mut self, mut input: Box<dyn AsyncRead + Send + Unpin>) -> Result<(), Failure> {
        let options = &self.job.options;
        let mut splitter = Splitter::new(&options.delimiter);
        let mut interrupted = std::pin::pin!(crate::runtime::termination());
        loop {
            while let Some(message) = splitter.next() {
                if !self.message(message).await? {
                    return Ok(());
                }
            }
            self.check_size(splitter.pending())?;
            self.output.flush()?;
            let read = loop {
                // Biased: a signal goes first, it comes once; then input. Receipts wait without harm while there is some.
                tokio::select! {
                    biased;
                    () = &mut interrupted => return Ok(()),
                    read = input.read_buf(splitter.buffer()) => break read,
                    delivery = oldest(&mut self.receipts) => self.take(delivery),
                }
            };
            if read.map_err(|error| unreadable("the input", error))? == 0 {
                break;
            }
        }
        if let Some(message) = splitter.finish() {
            self.message(message).await?;
        }
        Ok(())
    }

    /// Produces one message. Returns false if it was the last one. Empty ones are left out.
    async fn message(&mut self, message: Bytes) -> Result<bool, Failure> {
        if message.is_empty() {
            return Ok(true);
        }
        let options = &self.job.options;
        self.check_size(message.len())?;
        let fixed_key = options.fixed_key.as_deref();
        let parts = parts(&message, options.key_delimiter.as_deref(), fixed_key, options.null);
        self.send(parts.key, parts.value).await?;
        if options.tee {
            self.output.buffer().extend_from_slice(&message);
            self.output.wrote()?;
        }
        Ok(options.count != Some(self.sent))
    }

    /// Produces each file as one message. Returns false if none could be read.
    async fn files(&mut self) -> Result<bool, Failure> {
        let files = &self.job.options.operands;
        let mut good = 0;
        for file in files {
            let name = file.to_string_lossy();
            match tokio::fs::read(file).await {
                // An empty file is no message.
                Ok(content) if content.is_empty() => good += 1,
                Ok(content) => {
                    let key = self.job.options.fixed_key.as_deref();
                    self.check_size(content.len())?;
                    self.send(key, Some(&content)).await?;
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

    async fn send(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Failure> {
        let options = &self.job.options;
        let topic = match self.topic.take() {
            Some(topic) => topic,
            None => self.look_up().await?,
        };
        let topic = self.topic.insert(topic);
        let mut record = Record::to(&*topic).maybe_key(key).maybe_value(value);
        for (name, value) in &options.headers {
            record = record.maybe_header(name, value.as_ref());
        }
        if let Some(partition) = options.partition {
            record = record.partition(partition);
        }
        let receipt = self.producer.enqueue(record).await.map_err(|error| Failure::Failed(error.into()))?;
        self.sent += 1;
        self.receipts.push_back(receipt);
        if self.receipts.len() >= RECEIPTS_MAX
            && let Some(oldest) = self.receipts.pop_front()
        {
            self.await_receipt(oldest).await?;
        }
        Ok(())
    }

    async fn look_up(&self) -> Result<Topic, Failure> {
        let name = self.job.options.topic.as_deref().unwrap_or_default();
        match timeout_at(self.job.deadline(), self.producer.topic(name.to_owned())).await {
            Ok(topic) => Ok(topic?),
            Err(_) => {
                let message = format!("no metadata of topic {name} within {:?}", self.job.options.patience);
                let error = Error::new(ErrorKind::Timeout, message);
                Err(Failure::Failed(match self.job.client.ready(Instant::now()).await {
                    Ok(()) => error,
                    Err(reason) => error.source(reason),
                }))
            }
        }
    }

    /// Waits for what was sent.
    async fn settle(&mut self) -> Result<(), Failure> {
        while let Some(receipt) = self.receipts.pop_front() {
            self.await_receipt(receipt).await?;
        }
        Ok(())
    }

    /// Waits for one message. While no broker has answered at all, no longer than one may take to answer.
    async fn await_receipt(&mut self, receipt: Receipt) -> Result<(), Failure> {
        let delivery = if self.acknowledged {
            receipt.await
        } else {
            let limit = self.job.settings.request_timeout;
            match timeout(limit, receipt).await {
                Ok(delivery) => delivery,
                Err(_) => {
                    let message = format!("no broker acknowledged anything within {limit:?}");
                    return Err(Failure::Failed(Error::new(ErrorKind::Timeout, message)));
                }
            }
        };
        self.take(delivery);
        Ok(())
    }

    fn take(&mut self, delivery: Delivered) {
        self.acknowledged = true;
        if let Err(error) = delivery {
            self.lost(&error);
        }
    }

    fn lost(&mut self, error: &ProduceError) {
        self.failed += 1;
        if self.failed <= FAILURES_TOLD {
            self.job.tell(format_args!("Delivery failed for message: {error}"));
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

fn unreadable(name: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, format!("{name} cannot be read")).source(error)
}
