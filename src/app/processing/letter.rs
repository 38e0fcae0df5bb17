//! A dead letter on its way.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::app::error_history::ErrorHistory;
use crate::app::letter::{GivenUp, Letters};
use crate::app::policy::Ending;
use crate::consumer::OwnedRecord;
use crate::producer::{Producer, Receipt};
use crate::runtime::watch;
use crate::types::{GroupId, TopicName, TopicPartition};
use crate::{Error, ErrorKind, Result};

/// How long a partition that goes away waits for a letter that is on its way.
const GRACE: Duration = Duration::from_secs(3);

/// What a letter is made of.
pub(super) struct Letter {
    pub(super) topic: TopicName,
    pub(super) letters: Arc<Letters>,
    pub(super) message: OwnedRecord,
    pub(super) source: TopicPartition,
    pub(super) group: GroupId,
    pub(super) attempts: u32,
    pub(super) errors: ErrorHistory,
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

    async fn hand_over(&self, producer: &Producer) -> Result<Receipt> {
        let given_up = GivenUp {
            record: self.message.record(),
            source: &self.source,
            group: &self.group,
            attempts: self.attempts,
            errors: &self.errors,
        };
        let record = self.letters.write(&self.topic, given_up, producer).await?;
        Ok(producer.enqueue(record).await?)
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
