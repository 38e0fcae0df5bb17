//! What a handler can do besides handling: produce, mark, pause, seek, and learn that its partition goes away.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::batch::AtOffset;
use super::command::{Act, Command, Commands, ask};
use super::error_history::ErrorHistory;
use super::instrument::{Event, Monitor};
use super::letter::{GivenUp, Letters};
use super::policy::{Ending, Marks};
use super::produced::{Delivering, Produced};
use crate::consumer::RecordRef;
use crate::producer::{Outcome, ProduceError, Producer, Receipt, Record};
use crate::runtime::Runtime;
use crate::runtime::watch;
use crate::types::{GroupId, Offset, TopicPartition};
use crate::{Error, ErrorKind, Result, deadline};

/// One run of a handler. Cheap to clone; a clone that outlives the run can produce and mark no more.
///
/// # Ending early
///
/// When [`is_ending`](Self::is_ending) turns true, return soon: what is not handled by then goes to the next owner of the
/// partition. Returning early never counts as having handled the rest. With automatic marks,
///
/// * a run that [marks](Self::mark_as_consumed) anything itself has done what it marked, and nothing else;
/// * a run that learned of the end (from `is_ending`, [`is_lost`](Self::is_lost) or [`ended`](Self::ended)) and marked
///   nothing has done nothing: a handler that finishes its batch nonetheless marks it;
/// * `Ok` of any other run says that all its messages are done.
///
/// A [handler](super::TopicRoute::handler) of single messages is not called for further messages once the partition goes
/// away. Its `Ok` says that its message is done, at the end too: it returns an error for one that is not.
#[derive(Clone)]
pub struct Context {
    run: Arc<ContextParts>,
}

pub(crate) struct ContextParts {
    pub(crate) group: GroupId,
    pub(crate) partition: TopicPartition,
    pub(crate) lane: u32,
    pub(crate) attempt: u32,
    pub(crate) marks: Marks,
    /// What failed before this run.
    pub(crate) errors: ErrorHistory,
    /// Where dead letters go.
    pub(crate) letters: Option<Arc<Letters>>,
    pub(crate) monitor: Monitor,
    pub(crate) producer: Producer,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// Those of the listener.
    pub(crate) commands: Commands,
    pub(crate) ending: watch::Receiver<Option<Ending>>,
    pub(crate) state: Mutex<RunState>,
    /// Told when the last record that was being produced as the run ended is in the producer's hands.
    pub(crate) quiet: Notify,
    /// Told when the run is not to begin any more.
    pub(crate) withdrawn: Notify,
    /// Held by whoever waits for deliveries.
    pub(crate) settling: tokio::sync::Mutex<()>,
}

/// What a handler asked for, to be seen to when it has returned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Requests {
    /// From which record on they are to be handled again, and until when nothing is to be handled.
    pub(crate) pause: Option<(Option<Offset>, Instant)>,
    /// Where to go on.
    pub(crate) seek: Option<Offset>,
    /// A handler of single messages was told to stop after this one.
    pub(crate) cut: Option<Offset>,
}

/// What happened in a run; read by the driver.
#[derive(Debug, Default)]
pub(crate) struct RunState {
    produced: Produced<Delivery>,
    asked: Requests,
    /// A handler of single messages is to stop before the next one.
    interrupted: bool,
    /// The handler is not to be called any more: it waited for a worker when its partition was told to wait.
    withdrawn: bool,
    /// The handler marked something: its marks say what is done.
    marked: bool,
    /// The handler knows that the partition goes away.
    told: bool,
    /// Calls that produce and have not returned.
    producing: usize,
    /// When the handler was called; it may have waited for a worker before.
    begun: Option<Instant>,
    /// The handler occupies a thread, whatever becomes of its run.
    blocking: bool,
    /// The run is over: late clones are refused.
    closed: bool,
}

impl Context {
    pub(crate) fn new(run: ContextParts) -> Self {
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

    /// What failed in the partition since something last succeeded or was given up there, this run not included.
    pub fn errors(&self) -> &ErrorHistory {
        &self.run.errors
    }

    /// Sends a message to the dead letter topic of the route, whatever its retries, and returns when it is buffered: as what is
    /// produced through [`producer`](Self::producer), it is acknowledged before any offset marked after it is committed. The
    /// message is not marked by this, and the handler goes on. Waits up to 5 s for the topic to be known. Not cancel-safe: a
    /// letter may have been sent. Karafka's `dispatch_to_dlq`.
    ///
    /// ```
    /// # use carafe::prelude::*;
    /// async fn import(order: Message<Text>, ctx: Context) -> HandlerResult {
    ///     if order.payload().is_err() {
    ///         // No retry makes it readable; the rest of the batch is handled.
    ///         ctx.dead_letter(&order).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if the route has no topic for dead letters; [`ErrorKind::State`] if the run is over; why the
    /// topic cannot be found; as [`Producer::enqueue`].
    pub async fn dead_letter<'a>(&'a self, message: impl Into<RecordRef<'a>>) -> Result<()> {
        let record = message.into();
        let letters =
            self.run.letters.as_deref().and_then(|letters| Some((letters, letters.topic.as_ref()?)));
        let Some((letters, topic)) = letters else {
            let text = format!("the route of {} has no topic for dead letters", self.run.partition);
            let advice = "add dead_letter_queue(DeadLetter::to(…)) to the route";
            return Err(Error::new(ErrorKind::Config, text).with_advice(advice));
        };
        let Self { run } = self;
        let (source, group, attempts, errors) = (&run.partition, &run.group, run.attempt, &run.errors);
        let given_up = GivenUp { record, source, group, attempts, errors };
        let letter = letters.write(topic, given_up, &run.producer).await?;
        self.producer().enqueue(letter).await?;
        let (partition, offset) = (source, record.offset);
        run.monitor.emit(&Event::DeadLettered { partition, offset, topic, attempts });
        Ok(())
    }

    /// The application's producer. What is produced through it is acknowledged before any offset marked after it is
    /// committed; a delivery that fails fails the run.
    pub fn producer(&self) -> ContextProducer<'_> {
        ContextProducer { context: self }
    }

    /// Marks a message and all before it (in this virtual partition) as consumed, in this batch and in earlier ones. Takes
    /// effect once everything produced before through [`producer`](Self::producer) is acknowledged, and is committed by the
    /// group's commit interval once the other virtual partitions have marked what comes before it.
    ///
    /// A run that marks has done what it marked and nothing else, also with automatic marks: what follows stays unmarked
    /// until a later mark or run covers it.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if the partition was lost or the run is over: another member will see the message again.
    pub fn mark_as_consumed(&self, message: impl AtOffset) -> Result<()> {
        let ending = *self.run.ending.borrow();
        self.mark(&mut self.state(), ending, message.at_offset())
    }

    /// Marks a message like [`mark_as_consumed`](Self::mark_as_consumed), waits until everything produced before is
    /// acknowledged, commits, and waits for the answer of the coordinator: what was marked is not handled again, whatever
    /// happens next. Returns the offset at which the group goes on; it is lower than that of the message while other virtual
    /// partitions have not marked what comes before it, and `None` if nothing of this assignment could be committed for that.
    /// Waits for as long as deliveries and commits may take (`delivery.timeout.ms`, the client's `api_timeout`).
    ///
    /// Cancel-safe: the mark stays, and is committed later if not now. Karafka's `mark_as_consumed!`.
    ///
    /// # Errors
    /// [`ErrorKind::State`] as [`mark_as_consumed`](Self::mark_as_consumed); the error of a failed delivery, with which the
    /// run fails too; the error of the commit.
    pub async fn mark_and_commit(&self, message: impl AtOffset) -> Result<Option<Offset>> {
        self.mark_as_consumed(message)?;
        self.deliver().await;
        if let Some(error) = self.state().produced.failure() {
            return Err(error.clone());
        }
        let partition = self.run.partition.clone();
        Ok(ask(&self.run.commands, |reply| Command::Commit { partition, reply }).await?)
    }

    /// Stops consuming this partition for `pause` from now on; messages that are not marked are handled again after it. The
    /// handler itself runs on and should return. At once, [handlers](super::TopicRoute::handler) of single messages are not
    /// called for further messages, in all virtual partitions; the `Ok` of this one marks the message that it was called for.
    /// `Duration::MAX` pauses until somebody [resumes](Self::resume) or the partition goes away.
    pub fn pause(&self, pause: Duration) {
        self.ask_for_pause(None, pause);
    }

    /// Like [`pause`](Self::pause); every message from `message` on that is not marked is handled again (in this virtual
    /// partition), even if it was handled by an earlier run.
    pub fn pause_at(&self, message: impl AtOffset, pause: Duration) {
        self.ask_for_pause(Some(message.at_offset()), pause);
    }

    fn ask_for_pause(&self, from: Option<Offset>, pause: Duration) {
        let until = deadline::after(Instant::now(), pause);
        self.state().asked.pause = Some((from, until));
        self.interrupt_others();
    }

    /// Ends pauses of this partition that handlers and the program asked for, at once; retries and throttles wait on. Works
    /// from a clone that outlives its run too, such as that of a task that waits for something. Where the handler that
    /// asked for a pause has not returned, its messages that are not marked are handled again as soon as it has.
    pub fn resume(&self) {
        self.end_pause();
        let (partition, act) = (self.run.partition.clone(), Act::Resume);
        // Nobody waits for the answer; without a listener there is no pause.
        let (reply, _) = oneshot::channel();
        let _ = self.run.commands.send(Command::Act { partition, act, reply });
    }

    /// Continues at `offset` once the handler returns, whatever it returns: retries and dead letters of the position that
    /// is left are void. Messages that are not marked are not marked automatically. At once,
    /// [handlers](super::TopicRoute::handler) of single messages are not called for further messages, in all virtual
    /// partitions.
    pub fn seek(&self, offset: Offset) {
        self.state().asked.seek = Some(offset);
        self.interrupt_others();
    }

    fn interrupt_others(&self) {
        // Without a listener there are no others.
        let _ = self.run.commands.send(Command::Interrupt(self.run.partition.clone()));
    }

    /// True if the partition goes away (revoked, lost or the application stops): return soon; see
    /// [ending early](Self#ending-early).
    pub fn is_ending(&self) -> bool {
        self.tell(|ending| ending.is_some())
    }

    /// True if the partition was lost: marks are refused.
    pub fn is_lost(&self) -> bool {
        self.tell(|ending| ending == Some(Ending::Lost))
    }

    /// Waits until the partition goes away; see [ending early](Self#ending-early). Cancel-safe.
    pub async fn ended(&self) {
        self.run.end_announced().await;
        self.state().told = true;
    }

    /// What the handler is told of the end of its partition, and that it knows.
    fn tell(&self, question: impl FnOnce(Option<Ending>) -> bool) -> bool {
        let answer = question(*self.run.ending.borrow());
        if answer {
            self.state().told = true;
        }
        answer
    }

    /// A message of a batch was handled. True if the next one may follow at once.
    pub(crate) fn message_done(&self, offset: Offset) -> Result<bool> {
        let ending = *self.run.ending.borrow();
        let mut state = self.state();
        let again = |from: Option<Offset>| from.is_some_and(|from| from <= offset);
        let Requests { pause, seek, .. } = state.asked;
        let comes_again = again(seek) || again(pause.and_then(|(from, _)| from));
        if self.run.marks == Marks::Automatic && !comes_again {
            self.mark(&mut state, ending, offset)?;
        }
        state.told |= ending.is_some();
        let asked = pause.is_some() || seek.is_some();
        if state.interrupted && !asked && ending.is_none() {
            state.asked.cut = Some(offset);
        }
        Ok(!asked && !state.interrupted && ending.is_none())
    }

    /// A handler of single messages stops before the next one, and one that waits for a worker is not called.
    pub(crate) fn interrupt(&self) {
        self.state().interrupted = true;
        self.withdraw();
    }

    /// A handler that waits for a worker is not called.
    pub(crate) fn withdraw(&self) {
        let mut state = self.state();
        if state.begun.is_none() && !std::mem::replace(&mut state.withdrawn, true) {
            self.run.withdrawn.notify_one();
        }
    }

    /// Waits until the run is withdrawn, which happens before it begins or never. For the task of the run alone.
    pub(crate) async fn withdrawn(&self) {
        while !self.state().withdrawn {
            self.run.withdrawn.notified().await;
        }
    }

    /// The pause that the handler asked for is over before it began. That it asked for one stays true: its `Ok` marks
    /// nothing.
    pub(crate) fn end_pause(&self) {
        if let Some((_, until)) = &mut self.state().asked.pause {
            *until = Instant::now();
        }
    }

    fn mark(&self, state: &mut RunState, ending: Option<Ending>, offset: Offset) -> Result<()> {
        if state.closed || ending == Some(Ending::Lost) {
            return Err(self.refused("the mark"));
        }
        state.marked = true;
        state.produced.mark(offset.0);
        Ok(())
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        self.run.runtime.clone()
    }

    /// The highest mark that may be committed.
    pub(crate) fn marked(&self) -> Option<i64> {
        self.state().produced.marked()
    }

    /// True if only what the handler marked is done, even if it returned success.
    pub(crate) fn only_marks_count(&self) -> bool {
        let state = self.state();
        state.marked || state.told
    }

    /// True once the partition goes away. Tells the handler nothing.
    pub(crate) fn is_over(&self) -> bool {
        self.run.ending.borrow().is_some()
    }

    /// Waits until the partition goes away. Tells the handler nothing.
    pub(crate) async fn over(&self) {
        self.run.end_announced().await;
    }

    /// The handler is called now. False if it is not to be called any more.
    pub(crate) fn begin(&self, now: Instant) -> bool {
        let mut state = self.state();
        if !state.withdrawn {
            state.begun = Some(now);
        }
        !state.withdrawn
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

    /// Calls a handler that blocks, on its thread.
    pub(crate) fn blocking<R>(&self, handle: impl FnOnce() -> R) -> R {
        self.state().blocking = true;
        let result = handle();
        self.state().blocking = false;
        result
    }

    /// True while such a handler occupies its thread.
    pub(crate) fn blocks(&self) -> bool {
        self.state().blocking
    }

    /// Ends the run without waiting: whoever still holds the context can produce and mark no more.
    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    /// Ends the run: waits for everything that was produced.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.close();
        while self.state().producing > 0 {
            self.run.quiet.notified().await;
        }
        self.deliver().await;
        match self.state().produced.take_failure() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Waits until everything that was produced is acknowledged, or has failed. Cancel-safe.
    async fn deliver(&self) {
        let _turn = self.run.settling.lock().await;
        loop {
            let Some(delivery) = self.state().produced.next_delivery() else { break };
            let mut waiting = Waiting { context: self, delivery: Some(delivery) };
            let Some(delivery) = &mut waiting.delivery else { break };
            let result = (&mut delivery.0).await;
            waiting.delivery = None;
            self.state().produced.delivered(result.map(drop).map_err(Error::from));
        }
    }

    /// What the handler asked for.
    pub(crate) fn take_requests(&self) -> Requests {
        std::mem::take(&mut self.state().asked)
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

impl ContextParts {
    async fn end_announced(&self) {
        let mut ending = self.ending.clone();
        // An error means that the listener is gone, and the partition with it.
        let _ = ending.wait_for(Option::is_some).await;
    }
}

/// A delivery that is waited for. Whoever gives up puts it back.
struct Waiting<'a> {
    context: &'a Context,
    delivery: Option<Delivery>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            self.context.state().produced.put_back(delivery);
        }
    }
}

/// A call that produces: its run waits for it.
struct Producing<'a>(&'a Context);

impl<'a> Producing<'a> {
    fn begin(context: &'a Context) -> Result<Self, ProduceError> {
        let mut state = context.state();
        if state.closed {
            return Err(ProduceError::not_written(context.refused("a record")));
        }
        state.producing += 1;
        Ok(Self(context))
    }
}

impl Drop for Producing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.producing -= 1;
        if state.closed && state.producing == 0 {
            self.0.run.quiet.notify_one();
        }
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
    /// As [`Producer::enqueue`]; [`ErrorKind::State`] if the run is over.
    pub async fn enqueue(&self, record: Record<'_>) -> Result<(), ProduceError> {
        let producing = Producing::begin(self.context)?;
        let receipt = self.context.run.producer.enqueue(record).await?;
        self.context.state().produced.add(Delivery(receipt));
        drop(producing);
        Ok(())
    }

    /// Sends a record and waits for its acknowledgement.
    ///
    /// # Errors
    /// As [`Producer::send`]; [`ErrorKind::State`] if the run is over.
    pub async fn send(&self, record: Record<'_>) -> Result<crate::producer::Delivery, ProduceError> {
        let _producing = Producing::begin(self.context)?;
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
