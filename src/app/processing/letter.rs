//! A dead letter on its way.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::app::policy::Ending;
use crate::consumer::Message;
use crate::producer::{Producer, Record};
use crate::runtime::watch;
use crate::types::{GroupId, TopicName, TopicPartition};
use crate::{Error, ErrorKind, Result};

/// How long the topic of dead letters is looked up before that is an error. It is looked up again with the route's pauses.
const LOOK_UP: Duration = Duration::from_secs(5);
/// How long a partition that goes away waits for a letter that is on its way.
const GRACE: Duration = Duration::from_secs(3);

/// What a letter is made of.
pub(super) struct Letter {
    pub(super) topic: TopicName,
    pub(super) message: Message,
    pub(super) source: TopicPartition,
    pub(super) group: GroupId,
    pub(super) attempts: u32,
}

impl Letter {
    /// Sends the letter and waits until it is acknowledged. Letters of one partition go to one partition, so that they keep
    /// their order.
    ///
    /// # Errors
    /// Why it is not written, or not known to be. A partition that goes away waits for nothing that was not handed over,
    /// and not long for the rest: its next owner sends the letter again.
    pub(super) async fn send(
        &self,
        producer: &Producer,
        mut ending: watch::Receiver<Option<Ending>>,
    ) -> Result<()> {
        let receipt = tokio::select! {
            biased; // What is there already is taken.
            receipt = self.hand_over(producer) => receipt?,
            _ = ending.wait_for(Option::is_some) => return Err(self.given_up("was taken")),
        };
        let late = async {
            // An error means that the listener is gone, and the partition with it.
            let _ = ending.wait_for(Option::is_some).await;
            sleep(GRACE).await;
        };
        tokio::select! {
            biased; // What is there already is taken.
            delivered = receipt => Ok(delivered.map(drop)?),
            () = late => Err(self.given_up("was acknowledged")),
        }
    }

    async fn hand_over(&self, producer: &Producer) -> Result<crate::producer::Receipt> {
        let topic = timeout(LOOK_UP, producer.topic(self.topic.clone())).await.map_err(|_| {
            let text = format!("the dead letter topic {} was not found within {LOOK_UP:?}", self.topic);
            Error::new(ErrorKind::Timeout, text).with_advice(
                "create it, or allow the broker to (auto.create.topics.enable), and see that the application may write to it",
            )
        })??;
        let partitions = i32::try_from(topic.partition_count()).unwrap_or(i32::MAX).max(1);
        let (partition, offset) = (self.source.partition.to_string(), self.message.offset().to_string());
        let attempts = self.attempts.to_string();
        let origin = [
            ("source_topic", self.source.topic.as_str()),
            ("source_partition", &partition),
            ("source_offset", &offset),
            ("source_consumer_group", self.group.as_str()),
            ("source_attempts", &attempts),
        ];
        let mut record = Record::to(self.topic.as_str()).timestamp(self.message.timestamp());
        record = record.key(self.message.key()).value(self.message.value());
        for header in self.message.headers() {
            // A dead letter that failed again tells where it failed last.
            if !origin.iter().any(|(name, _)| name.as_bytes() == header.key) {
                record = record.header(header.key, header.value);
            }
        }
        for (name, value) in origin {
            record = record.header(name, value);
        }
        Ok(producer.enqueue(record.partition(self.source.partition.0 % partitions)).await?)
    }

    fn given_up(&self, what: &str) -> Error {
        let text = format!(
            "{} went away before the dead letter for offset {} {what} ({})",
            self.source,
            self.message.offset(),
            self.topic
        );
        Error::new(ErrorKind::State, text).with_advice("the next owner of the partition sends it again")
    }
}
