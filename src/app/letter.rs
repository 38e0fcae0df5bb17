//! What a dead letter is made of, whoever sends it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::error_history::ErrorHistory;
use crate::consumer::RecordRef;
use crate::error::Chain;
use crate::producer::{Producer, Record};
use crate::types::{GroupId, Partition, TopicName, TopicPartition};
use crate::{Error, ErrorKind, Result};

/// How long the topic of dead letters is looked up before that is an error.
const LOOK_UP: Duration = Duration::from_secs(5);
/// Bytes of an error's text that a letter carries at most.
const ERROR_TEXT: usize = 1024;

/// A record that its partition gives up on, or that its handler [sends away](super::Context::dead_letter), as the hook of
/// [`DeadLetter::enhance`](super::DeadLetter::enhance) sees it.
#[derive(Clone, Copy, Debug)]
pub struct GivenUp<'a> {
    pub(crate) record: RecordRef<'a>,
    pub(crate) source: &'a TopicPartition,
    pub(crate) group: &'a GroupId,
    pub(crate) attempts: u32,
    pub(crate) errors: &'a ErrorHistory,
}

impl<'a> GivenUp<'a> {
    /// The record as it was read.
    pub fn record(&self) -> RecordRef<'a> {
        self.record
    }

    /// Where it was read.
    pub fn partition(&self) -> &'a TopicPartition {
        self.source
    }

    /// The consumer group.
    pub fn group(&self) -> &'a GroupId {
        self.group
    }

    /// How often its handler ran.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What it failed of.
    pub fn errors(&self) -> &'a ErrorHistory {
        self.errors
    }
}

type Hook = dyn for<'a> Fn(Record<'a>, GivenUp<'a>) -> Record<'a> + Send + Sync;

/// What the user changes in each letter.
#[derive(Clone)]
pub(crate) struct Enhance(Arc<Hook>);

impl Enhance {
    pub(crate) fn new(
        hook: impl for<'a> Fn(Record<'a>, GivenUp<'a>) -> Record<'a> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(hook))
    }
}

impl fmt::Debug for Enhance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Enhance")
    }
}

/// Where the letters of a route go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Letters {
    /// `None` on a route without a topic for them.
    pub(crate) topic: Option<TopicName>,
    pub(crate) enhance: Option<Enhance>,
}

impl Letters {
    /// The letter for a record, to the partition that all letters of its partition go to, so that they keep their order.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// `topic` is the one that the record is from, or cannot be found within 5 s; the user's hook panics.
    pub(crate) async fn write<'a>(
        &self,
        topic: &TopicName,
        given_up: GivenUp<'a>,
        producer: &Producer,
    ) -> Result<Record<'a>> {
        if *topic == given_up.source.topic {
            let text = format!("a dead letter of {} would go to the topic that it is from", given_up.source);
            return Err(Error::new(ErrorKind::Config, text).with_advice("name another topic"));
        }
        let found = timeout(LOOK_UP, producer.topic(topic.clone())).await.map_err(|_| {
            let text = format!("the dead letter topic {topic} was not found within {LOOK_UP:?}");
            Error::new(ErrorKind::Timeout, text).with_advice(
                "create it, or allow the broker to (auto.create.topics.enable), and see that the application may write to it",
            )
        })??;
        let partitions = i32::try_from(found.partition_count()).unwrap_or(i32::MAX).max(1);
        let partition = Partition(given_up.source.partition.0 % partitions);
        Ok(self.compose(topic, given_up)?.partition(partition))
    }

    fn compose<'a>(&self, topic: &TopicName, given_up: GivenUp<'a>) -> Result<Record<'a>> {
        let GivenUp { record: original, source, group, attempts, errors } = given_up;
        let mut origin = vec![
            ("source_topic", source.topic.to_string()),
            ("source_partition", source.partition.to_string()),
            ("source_offset", original.offset.to_string()),
            ("source_consumer_group", group.to_string()),
            ("source_attempts", attempts.to_string()),
        ];
        origin.extend(errors.trace_id().map(|id| ("source_trace_id", id.to_string())));
        if let Some(error) = errors.last() {
            origin.push(("source_error", shortened(Chain(error).to_string())));
            origin.push(("source_error_kind", format!("{:?}", error.kind())));
        }
        let mut record = Record::to(topic.clone()).timestamp(original.timestamp);
        record = record.key(original.key).value(original.value);
        for header in original.headers {
            // A dead letter that failed again tells where it failed last.
            if !is_origin(header.key) {
                record = record.header(header.key, header.value);
            }
        }
        for (name, value) in origin {
            record = record.header(name, value);
        }
        let Some(Enhance(hook)) = &self.enhance else { return Ok(record) };
        catch_unwind(AssertUnwindSafe(|| hook(record, given_up))).map_err(|_| {
            let text =
                format!("the hook for dead letters panicked at offset {} of {source}", original.offset);
            Error::new(ErrorKind::Handler, text).with_advice("the letter is tried again")
        })
    }
}

/// True for the headers that letters add.
fn is_origin(key: &[u8]) -> bool {
    const NAMES: [&str; 8] = [
        "source_topic",
        "source_partition",
        "source_offset",
        "source_consumer_group",
        "source_attempts",
        "source_trace_id",
        "source_error",
        "source_error_kind",
    ];
    NAMES.iter().any(|name| name.as_bytes() == key)
}

fn shortened(mut text: String) -> String {
    if text.len() > ERROR_TEXT {
        text.truncate(text.floor_char_boundary(ERROR_TEXT));
        text.push('…');
    }
    text
}
