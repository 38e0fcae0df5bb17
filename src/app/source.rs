//! What a listener drives: something that yields batches of partitions, says which partitions there are, and is told how
//! far they are done.
//!
//! Today this is the membership of a consumer group, or a script for tests. Other kinds (share groups, direct assignments)
//! become variants here: the listener asks for nothing that only a group has. Which protocol a group speaks is hidden
//! behind [`GroupConsumer`].

use std::time::Duration;

use crate::Result;
use crate::consumer::{ConsumerEvent, GroupConsumer, Mark};
use crate::types::{Offset, TopicName, TopicPartition};

/// See the module. A partition's batches come between [`ConsumerEvent::Assigned`] and [`ConsumerEvent::Revoked`] or [`ConsumerEvent::Lost`] of it,
/// one at a time: the next follows the [`release`](Self::release) of the one before.
pub(crate) enum Source {
    Group(GroupConsumer),
    #[cfg(all(test, feature = "broker"))]
    Script(script::Script),
}

impl Source {
    /// The next event. Cancel-safe. Errors end the source.
    pub(crate) async fn next(&self) -> Result<ConsumerEvent> {
        match self {
            Self::Group(consumer) => consumer.next_event().await,
            #[cfg(all(test, feature = "broker"))]
            Self::Script(script) => script.next().await,
        }
    }

    /// The batch that is out was dealt with.
    pub(crate) fn release(&self, partition: &TopicPartition) {
        match self {
            Self::Group(consumer) => consumer.release(partition),
            #[cfg(all(test, feature = "broker"))]
            Self::Script(script) => script.write(format!("release {partition}")),
        }
    }

    /// Keeps `mark` for the next commit.
    pub(crate) fn store(&self, mark: Mark) -> Result<()> {
        match self {
            Self::Group(consumer) => consumer.store(mark),
            #[cfg(all(test, feature = "broker"))]
            Self::Script(script) => {
                script.write(format!("store {} {}", mark.topic_partition(), mark.offset()));
                Ok(())
            }
        }
    }

    /// Commits `mark` now. The future does not borrow the source: the listener waits for nobody.
    pub(crate) fn commit(&self, mark: Mark) -> impl Future<Output = Result<()>> + Send + 'static {
        let consumer = match self {
            Self::Group(consumer) => Some(consumer.clone()),
            #[cfg(all(test, feature = "broker"))]
            Self::Script(script) => {
                script.write(format!("commit {} {}", mark.topic_partition(), mark.offset()));
                None
            }
        };
        async move {
            match consumer {
                Some(consumer) => consumer.commit([mark]).await,
                None => Ok(()),
            }
        }
    }

    /// Goes on reading at `mark`, unless the assignment that it belongs to has ended.
    pub(crate) fn seek_to(&self, mark: &Mark) -> Result<()> {
        match self {
            Self::Group(consumer) => consumer.seek_to(mark),
            #[cfg(all(test, feature = "broker"))]
            Self::Script(script) => {
                script.write(format!("seek {} {}", mark.topic_partition(), mark.offset()));
                Ok(())
            }
        }
    }

    /// Reads these topics from now on.
    pub(crate) fn subscribe(&self, topics: impl IntoIterator<Item = TopicName>) -> Result<()> {
        match self {
            Self::Group(consumer) => consumer.subscribe(topics),
            #[cfg(all(test, feature = "broker"))]
            Self::Script(script) => {
                let topics: Vec<String> = topics.into_iter().map(|topic| topic.to_string()).collect();
                script.write(format!("subscribe {}", topics.join(",")));
                Ok(())
            }
        }
    }

    /// Ends of partitions are told from now on.
    pub(crate) fn tell_ends(&self) {
        match self {
            Self::Group(consumer) => consumer.set_partition_end_events(true),
            #[cfg(all(test, feature = "broker"))]
            Self::Script(script) => script.write("tell ends".to_owned()),
        }
    }

    /// The next offset that a batch of the partition begins with, and the end of the partition, as far as they are known.
    pub(crate) fn position(&self, partition: &TopicPartition) -> (Option<Offset>, Option<Offset>) {
        match self {
            Self::Group(consumer) => (consumer.position(partition), consumer.high_watermark(partition)),
            #[cfg(all(test, feature = "broker"))]
            Self::Script(_) => (None, None),
        }
    }

    /// Ends the source in order, within `timeout`.
    pub(crate) async fn close(&self, timeout: Duration) -> Result<()> {
        match self {
            Self::Group(consumer) => consumer.close(timeout).await,
            #[cfg(all(test, feature = "broker"))]
            Self::Script(script) => {
                script.write("close".to_owned());
                Ok(())
            }
        }
    }
}

#[cfg(all(test, feature = "broker"))]
pub(crate) mod script {
    //! A source that yields what a test says, and writes down what it is told.

    use std::sync::{Arc, Mutex, PoisonError};

    use tokio::sync::mpsc;

    use super::*;

    #[derive(Clone)]
    pub(crate) struct Script {
        events: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Result<ConsumerEvent>>>>,
        told: Arc<Mutex<Vec<String>>>,
    }

    impl Script {
        /// The script, and where its events come from.
        pub(crate) fn new() -> (Self, mpsc::UnboundedSender<Result<ConsumerEvent>>) {
            let (sender, events) = mpsc::unbounded_channel();
            (Self { events: Arc::new(tokio::sync::Mutex::new(events)), told: Arc::default() }, sender)
        }

        /// What it was told since the last time.
        pub(crate) fn told(&self) -> Vec<String> {
            std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner))
        }

        pub(super) async fn next(&self) -> Result<ConsumerEvent> {
            match self.events.lock().await.recv().await {
                Some(event) => event,
                None => std::future::pending().await,
            }
        }

        pub(super) fn write(&self, entry: String) {
            self.told.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        }
    }
}
