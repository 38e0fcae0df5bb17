//! What a handler can do besides handling: produce, mark, pause, seek, and learn that its partition goes away.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::batch::AtOffset;
use super::processing::coordinator::Ending;
use super::processing::outputs::{Delivering, Outputs};
use crate::producer::{Outcome, ProduceError, Producer, Receipt, Record};
use crate::runtime::Runtime;
use crate::runtime::watch;
use crate::types::{GroupId, Offset, TopicPartition};
use crate::{Error, ErrorKind, Result};

/// One run of a handler. Cheap to clone; a clone that outlives the run can produce and mark no more.
#[derive(Clone)]
pub struct Context {
    run: Arc<Run>,
}

pub(crate) struct Run {
    pub(crate) group: GroupId,
    pub(crate) partition: TopicPartition,
    pub(crate) lane: u32,
    pub(crate) attempt: u32,
    pub(crate) producer: Producer,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) ending: watch::Receiver<Option<Ending>>,
    pub(crate) state: Mutex<RunState>,
}

/// What the handler asked for; read by the driver.
#[derive(Debug, Default)]
pub(crate) struct RunState {
    outputs: Outputs<Delivery>,
    pause: Option<(Option<Offset>, Duration)>,
    seek: Option<Offset>,
    /// When the handler was called; it may have waited for a worker before.
    begun: Option<Instant>,
    /// The run is over: late clones are refused.
    closed: bool,
}

impl Context {
    pub(crate) fn new(run: Run) -> Self {
        Self { run: Arc::new(run) }
    }

    /// The consumer group.
    pub fn group(&self) -> &GroupId {
        &self.run.group
    }

    /// The partition that the messages are from.
    pub fn partition(&self) -> &TopicPartition {
        &self.run.partition
    }

    /// The virtual partition; 0 where there is one.
    pub fn lane(&self) -> u32 {
        self.run.lane
    }

    /// 1 for the first run over these messages, one more for each run after a failure.
    pub fn attempt(&self) -> u32 {
        self.run.attempt
    }

    /// True if an earlier run over these messages failed.
    pub fn is_retrying(&self) -> bool {
        self.run.attempt > 1
    }

    /// The application's producer. What is produced through it is acknowledged before any offset marked after it is
    /// committed; a delivery that fails fails the run.
    pub fn producer(&self) -> ContextProducer<'_> {
        ContextProducer { context: self }
    }

    /// Marks a message and all before it (in this virtual partition) as consumed. Takes effect once everything produced
    /// before through [`producer`](Self::producer) is acknowledged; committed by the group's commit interval.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if the partition was lost or the run is over: another member will see the message again.
    pub fn mark_as_consumed(&self, message: impl AtOffset) -> Result<()> {
        let mut state = self.state();
        if state.closed || self.is_lost() {
            return Err(self.refused("the mark"));
        }
        state.outputs.mark(message.at_offset().0);
        Ok(())
    }

    /// Stops consuming this partition for `pause` once the handler returns; messages that are not marked are handled
    /// again after it.
    pub fn pause(&self, pause: Duration) {
        self.state().pause = Some((None, pause));
    }

    /// Like [`pause`](Self::pause); every message from `message` on that is not marked is handled again, even if it was
    /// handled by an earlier run.
    pub fn pause_at(&self, message: impl AtOffset, pause: Duration) {
        self.state().pause = Some((Some(message.at_offset()), pause));
    }

    /// Continues at `offset` once the handler returns. Messages that are not marked are not marked automatically.
    pub fn seek(&self, offset: Offset) {
        self.state().seek = Some(offset);
    }

    /// True if the partition goes away (revoked, lost or the application stops): return soon.
    pub fn is_ending(&self) -> bool {
        self.run.ending.borrow().is_some()
    }

    /// True if the partition was lost: marks are refused.
    pub fn is_lost(&self) -> bool {
        *self.run.ending.borrow() == Some(Ending::Lost)
    }

    /// Waits until the partition goes away. Cancel-safe.
    pub async fn ended(&self) {
        let mut ending = self.run.ending.clone();
        // An error means that the listener is gone, and the partition with it.
        let _ = ending.wait_for(Option::is_some).await;
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        self.run.runtime.clone()
    }

    /// The highest mark that may be committed.
    pub(crate) fn marked(&self) -> Option<i64> {
        self.state().outputs.marked()
    }

    /// The handler is called now.
    pub(crate) fn begin(&self, now: Instant) {
        self.state().begun = Some(now);
    }

    /// When the handler was called; `None` while it waits for a worker.
    pub(crate) fn begun(&self) -> Option<Instant> {
        self.state().begun
    }

    /// When the handler was called, unless it has returned: its output may still be on its way then.
    pub(crate) fn running_since(&self) -> Option<Instant> {
        let state = self.state();
        state.begun.filter(|_| !state.closed)
    }

    /// Ends the run without waiting: whoever still holds the context can mark no more.
    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    /// Ends the run: waits for everything that was produced.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.close();
        loop {
            let Some(delivery) = self.state().outputs.next_delivery() else { break };
            let result = delivery.0.await;
            self.state().outputs.delivered(result.map(drop).map_err(Error::from));
        }
        match self.state().outputs.take_failure() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The pause and the seek that the handler asked for.
    pub(crate) fn take_requests(&self) -> (Option<(Option<Offset>, Duration)>, Option<Offset>) {
        let mut state = self.state();
        (state.pause.take(), state.seek.take())
    }

    fn state(&self) -> MutexGuard<'_, RunState> {
        // A handler that panicked while it held the lock left consistent lists behind.
        self.run.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::State,
            format!(
                "{what} of {} came after the partition was lost or the handler had returned",
                self.run.partition
            ),
        )
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("partition", &self.run.partition)
            .field("lane", &self.run.lane)
            .field("attempt", &self.run.attempt)
            .finish_non_exhaustive()
    }
}

/// The application's producer within a [`Context`].
#[derive(Clone, Copy, Debug)]
pub struct ContextProducer<'a> {
    context: &'a Context,
}

impl ContextProducer<'_> {
    /// Hands a record over and returns when it is buffered. It need not be awaited further: the run waits for the
    /// acknowledgement.
    ///
    /// # Errors
    /// As [`Producer::enqueue`].
    pub async fn enqueue(&self, record: Record<'_>) -> Result<(), ProduceError> {
        let receipt = self.context.run.producer.enqueue(record).await?;
        self.context.state().outputs.produced(Delivery(receipt));
        Ok(())
    }

    /// Sends a record and waits for its acknowledgement.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send(&self, record: Record<'_>) -> Result<crate::producer::Delivery, ProduceError> {
        self.context.run.producer.send(record).await
    }
}

#[derive(Debug)]
struct Delivery(Receipt);

impl Delivering for Delivery {
    fn is_acknowledged(&self) -> bool {
        self.0.outcome() == Some(Outcome::Written)
    }
}
