//! User code: the trait [`Consumer`], and functions in its place.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{self, Poll};

use super::batch::{Batch, Message};
use super::context::Context;
use super::handler_error::HandlerResult;
use super::payload::Payload;
use crate::consumer;
use crate::{Error, ErrorKind, Result};

/// Handles the messages of a partition (or of one of its virtual partitions).
///
/// There is one instance for each partition and lane; it is made when it is needed for the first time, lives until the
/// partition is revoked or the application stops, and its methods never run at the same time. Write the methods as
/// `async fn`.
///
/// | Method | Is called | Waits for a worker | After an error |
/// |---|---|---|---|
/// | [`initialized`](Self::initialized) | before all others | yes | it is reported (`consumer.initialized.error`) |
/// | [`consume`](Self::consume) | for each batch | yes | it is reported (`consumer.consume.error`), and the batch repeated |
/// | [`eofed`](Self::eofed) | at the end of the partition | yes | it is reported (`consumer.eofed.error`) |
/// | [`tick`](Self::tick) | when nothing ran for a time | yes | it is reported (`consumer.tick.error`) |
/// | [`revoked`](Self::revoked) | when the partition goes away | no | it is reported (`consumer.revoked.error`) |
/// | [`shutdown`](Self::shutdown) | when the application stops | no | it is reported (`consumer.shutdown.error`) |
///
/// A panic is an error, and the instance is replaced by a new one, which is initialized.
#[doc(alias = "BaseConsumer")]
pub trait Consumer: Send + 'static {
    /// Format of the values: [`Json<T>`](super::Json), [`Text`](super::Text), [`Raw`](super::Raw) or your own.
    type Payload: Payload;

    /// The instance is new: loads what it needs. A consumer that has this method is made as soon as the partition is
    /// assigned, before there is a batch; further virtual partitions get theirs with their first records. What it asks of
    /// its context counts as asked by the call that it comes before.
    ///
    /// An error is reported, not retried: the batch that comes next is handled all the same. Where nothing can be handled
    /// without what is loaded here, keep an `Option` and load in [`consume`](Self::consume), which is retried.
    fn initialized(&mut self, _ctx: &mut Context) -> impl Future<Output = HandlerResult> + Send {
        Nothing
    }

    /// Handles a batch. `Ok` marks all its messages as consumed, unless marks are manual, the handler marked, paused or
    /// sought, or it learned that the partition goes away ([ending early](Context#ending-early)). After `Err` or a panic the messages that are not marked are handled again, by the route's
    /// [`Retry`](super::Retry) and [`DeadLetter`](super::DeadLetter).
    ///
    /// A forced stop drops the future at an `await`.
    fn consume(
        &mut self,
        batch: &Batch<Self::Payload>,
        ctx: &mut Context,
    ) -> impl Future<Output = HandlerResult> + Send;

    /// Everything up to the end of the partition has been handled, or there was nothing. Only on routes that
    /// [want it](super::TopicRoute::eofed), once until more arrives, in all virtual partitions that have an instance. While
    /// the partition is paused or waits for a retry it waits as well. Marks, pauses and seeks count as in
    /// [`consume`](Self::consume). An error is reported, not retried.
    ///
    /// Karafka tells `consume` of an end that came with records, and calls this only for one that came alone.
    fn eofed(&mut self, _ctx: &mut Context) -> impl Future<Output = HandlerResult> + Send {
        Nothing
    }

    /// Nothing ran in the partition for the time that its route [wants](super::TopicRoute::periodic): not while it waits for
    /// a retry or the application is quiet, but during pauses. In all virtual partitions that have an instance, or in a
    /// first one. Marks, pauses and seeks count as in [`consume`](Self::consume). An error is reported, not retried.
    fn tick(&mut self, _ctx: &mut Context) -> impl Future<Output = HandlerResult> + Send {
        Nothing
    }

    /// The partition goes away. Marks made here still count if it was revoked in order, not if it was lost
    /// ([`Context::is_lost`]). Does not wait for a worker. Not called where nothing was called before. An error is
    /// reported, not retried.
    fn revoked(&mut self, _ctx: &mut Context) -> impl Future<Output = HandlerResult> + Send {
        async { Ok(()) }
    }

    /// The application stops. Does not wait for a worker. Not called after [`revoked`](Self::revoked). An error is reported, not retried.
    fn shutdown(&mut self, _ctx: &mut Context) -> impl Future<Output = HandlerResult> + Send {
        async { Ok(()) }
    }
}

/// The body of callbacks that nobody wrote.
///
/// Invariant: no other callback gives a future without size (an `async fn` does not), so that those that are written are
/// told from those that are not.
struct Nothing;

impl Future for Nothing {
    type Output = HandlerResult;

    fn poll(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<HandlerResult> {
        Poll::Ready(Ok(()))
    }
}

/// True if `C` has a method [`initialized`](Consumer::initialized) of its own.
pub(crate) fn is_initialized<C: Consumer>() -> bool {
    fn size<'a, C: 'a, F>(_: impl FnOnce(&'a mut C, &'a mut Context) -> F) -> usize {
        size_of::<F>()
    }
    size::<C, _>(C::initialized) != 0
}

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`Consumer`] without its types.
pub(crate) trait Handler: Send {
    fn consume<'a>(
        &'a mut self,
        batch: consumer::RecordBatch,
        ctx: &'a mut Context,
    ) -> BoxFuture<'a, Result<()>>;
    fn initialized<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>>;
    fn eofed<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>>;
    fn tick<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>>;
    fn revoked<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>>;
    fn shutdown<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>>;
}

pub(crate) fn erase<C: Consumer>(consumer: C) -> Box<dyn Handler> {
    Box::new(Erased(consumer))
}

struct Erased<C>(C);

/// Each call is made within the future, so that a panic of it is one of the future.
impl<C: Consumer> Handler for Erased<C> {
    fn consume<'a>(
        &'a mut self,
        batch: consumer::RecordBatch,
        ctx: &'a mut Context,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.consume(&Batch::new(batch), ctx).await?) })
    }

    fn initialized<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.initialized(ctx).await?) })
    }

    fn eofed<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.eofed(ctx).await?) })
    }

    fn tick<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.tick(ctx).await?) })
    }

    fn revoked<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.revoked(ctx).await?) })
    }

    fn shutdown<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.shutdown(ctx).await?) })
    }
}

/// An async function of one message.
pub(crate) struct MessageFn<P, F> {
    handle: F,
    format: PhantomData<fn() -> P>,
}

impl<P, F> MessageFn<P, F> {
    pub(crate) fn new(handle: F) -> Self {
        Self { handle, format: PhantomData }
    }
}

impl<P, F, Fut> Consumer for MessageFn<P, F>
where
    P: Payload,
    F: Fn(Message<P>, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    type Payload = P;

    async fn consume(&mut self, batch: &Batch<P>, ctx: &mut Context) -> HandlerResult {
        for message in batch.messages() {
            let offset = message.offset();
            (self.handle)(message, ctx.clone()).await?;
            if !ctx.message_done(offset)? {
                break;
            }
        }
        Ok(())
    }
}

/// An async function of a batch.
pub(crate) struct BatchFn<P, F> {
    handle: F,
    format: PhantomData<fn() -> P>,
}

impl<P, F> BatchFn<P, F> {
    pub(crate) fn new(handle: F) -> Self {
        Self { handle, format: PhantomData }
    }
}

impl<P, F, Fut> Consumer for BatchFn<P, F>
where
    P: Payload,
    F: Fn(Batch<P>, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    type Payload = P;

    async fn consume(&mut self, batch: &Batch<P>, ctx: &mut Context) -> HandlerResult {
        (self.handle)(batch.clone(), ctx.clone()).await
    }
}

/// A function of a batch that blocks.
pub(crate) struct BlockingFn<P, F> {
    handle: F,
    format: PhantomData<fn() -> P>,
}

impl<P, F> BlockingFn<P, F> {
    pub(crate) fn new(handle: F) -> Self {
        Self { handle, format: PhantomData }
    }
}

impl<P, F> Consumer for BlockingFn<P, F>
where
    P: Payload,
    F: Fn(&Batch<P>, &Context) -> HandlerResult + Clone + Send + Sync + 'static,
{
    type Payload = P;

    async fn consume(&mut self, batch: &Batch<P>, ctx: &mut Context) -> HandlerResult {
        let (handle, batch, ctx) = (self.handle.clone(), batch.clone(), ctx.clone());
        let runtime = ctx.runtime();
        let outcome =
            runtime.blocking("blocking handler", move || ctx.blocking(|| handle(&batch, &ctx))).await;
        outcome.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Handler, format!("the blocking handler {error}")).into())
        })
    }
}

impl<P, F> fmt::Debug for MessageFn<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageFn").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Raw;

    struct Silent;

    impl Consumer for Silent {
        type Payload = Raw;

        async fn consume(&mut self, _: &Batch<Raw>, _: &mut Context) -> HandlerResult {
            Ok(())
        }
    }

    struct Loads;

    impl Consumer for Loads {
        type Payload = Raw;

        async fn initialized(&mut self, _: &mut Context) -> HandlerResult {
            Ok(())
        }

        async fn consume(&mut self, _: &Batch<Raw>, _: &mut Context) -> HandlerResult {
            Ok(())
        }
    }

    #[test]
    fn a_callback_that_is_written_is_told_from_one_that_is_not() {
        assert!(is_initialized::<Loads>());
        assert!(!is_initialized::<Silent>());
        assert_eq!(size_of::<Nothing>(), 0);
    }
}
