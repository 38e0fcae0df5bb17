//! User code: the trait [`Consumer`], and functions in its place.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;

use super::batch::{Batch, Message};
use super::context::Context;
use super::handler_error::HandlerResult;
use super::payload::Payload;
use crate::consumer;
use crate::{Error, ErrorKind, Result};

/// Handles the messages of a partition (or of one of its virtual partitions).
///
/// There is one instance for each partition and lane; it lives from the first batch until the partition is revoked or
/// the application stops, and its methods never run at the same time. Write the methods as `async fn`.
#[doc(alias = "BaseConsumer")]
pub trait Consumer: Send + 'static {
    /// Format of the values: [`Json<T>`](super::Json), [`Text`](super::Text), [`Raw`](super::Raw) or your own.
    type Payload: Payload;

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

    /// The partition goes away. Marks made here still count if it was revoked in order, not if it was lost
    /// ([`Context::is_lost`]). Does not wait for a worker. Not called for a partition that never had a batch. An error is
    /// reported, not retried.
    fn revoked(&mut self, _ctx: &mut Context) -> impl Future<Output = HandlerResult> + Send {
        async { Ok(()) }
    }

    /// The application stops. Does not wait for a worker. Not called after [`revoked`](Self::revoked). An error is reported, not retried.
    fn shutdown(&mut self, _ctx: &mut Context) -> impl Future<Output = HandlerResult> + Send {
        async { Ok(()) }
    }
}

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`Consumer`] without its types.
pub(crate) trait Handler: Send {
    fn consume<'a>(&'a mut self, batch: consumer::Batch, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>>;
    fn revoked<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>>;
    fn shutdown<'a>(&'a mut self, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>>;
}

pub(crate) fn erase<C: Consumer>(consumer: C) -> Box<dyn Handler> {
    Box::new(Erased(consumer))
}

struct Erased<C>(C);

/// Each call is made within the future, so that a panic of it is one of the future.
impl<C: Consumer> Handler for Erased<C> {
    fn consume<'a>(&'a mut self, batch: consumer::Batch, ctx: &'a mut Context) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(self.0.consume(&Batch::new(batch), ctx).await?) })
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
