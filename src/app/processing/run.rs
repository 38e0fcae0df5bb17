//! One run of a handler as a task: waits for a worker, calls user code, contains its panic, waits for its output.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use tokio::time::Instant;

use super::workers::Workers;
use crate::app::consumer::{BoxFuture, Handler};
use crate::app::context::Context;
use crate::app::routing::Factory;
use crate::consumer::Batch;
use crate::types::TopicPartition;
use crate::{Error, ErrorKind, Result};

/// What user code is asked to do.
pub(super) enum Job {
    Consume(Batch),
    Revoked,
    Shutdown,
}

impl Job {
    /// Context of an error, in Karafka's dotted form.
    pub(super) fn error_context(&self) -> &'static str {
        match self {
            Self::Consume(_) => "consumer.consume.error",
            Self::Revoked => "consumer.revoked.error",
            Self::Shutdown => "consumer.shutdown.error",
        }
    }
}

/// A run that ended. After a panic there is no handler any more: its state is not to be trusted.
pub(super) struct Finished {
    pub(super) partition: TopicPartition,
    pub(super) lane: u32,
    pub(super) handler: Option<Box<dyn Handler>>,
    pub(super) error_context: &'static str,
    pub(super) result: Result<()>,
}

/// The task of one run. Without a `handler` the `factory` makes one.
pub(super) async fn run(
    handler: Option<Box<dyn Handler>>,
    factory: Factory,
    job: Job,
    mut context: Context,
    workers: Workers,
) -> Finished {
    let permit = workers.permit().await;
    context.begin(Instant::now());
    let error_context = job.error_context();
    let called = contained(Box::pin(async {
        let mut handler = handler.unwrap_or_else(|| factory());
        let result = match job {
            Job::Consume(batch) => handler.consume(batch, &mut context).await,
            Job::Revoked => handler.revoked(&mut context).await,
            Job::Shutdown => handler.shutdown(&mut context).await,
        };
        (handler, result)
    }));
    let (handler, result) = match called.await {
        Ok((handler, result)) => (Some(handler), result),
        Err(panic) => (None, Err(panic)),
    };
    // The worker is free while the output is on its way.
    drop(permit);
    let settled = context.settle().await;
    Finished {
        partition: context.partition().clone(),
        lane: context.lane(),
        handler,
        error_context,
        result: result.and(settled),
    }
}

/// Polls user code; a panic becomes an error.
async fn contained<T>(mut future: BoxFuture<'_, T>) -> Result<T> {
    poll_fn(|task| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "with a payload that is no text".to_owned());
            Poll::Ready(Err(Error::new(ErrorKind::Handler, format!("the handler panicked: {text}"))))
        }
    })
    .await
}
