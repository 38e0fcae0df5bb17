//! One run of a handler as a task: waits for a worker, calls user code, contains its panic, waits for its output.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use super::workers::Workers;
use crate::app::consumer::{BoxFuture, Handler};
use crate::app::context::Context;
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

/// The task of one run.
pub(super) async fn run(
    mut handler: Box<dyn Handler>,
    job: Job,
    mut context: Context,
    workers: Workers,
) -> Finished {
    let permit = workers.permit().await;
    let error_context = job.error_context();
    let mut panicked = false;
    let mut result = {
        let future = match job {
            Job::Consume(batch) => handler.consume(batch, &mut context),
            Job::Revoked => handler.revoked(&mut context),
            Job::Shutdown => handler.shutdown(&mut context),
        };
        contained(future).await.unwrap_or_else(|panic| {
            panicked = true;
            Err(panic)
        })
    };
    // The worker is free while the output is on its way.
    drop(permit);
    let settled = context.settle().await;
    result = result.and(settled);
    Finished {
        partition: context.partition().clone(),
        lane: context.lane(),
        handler: (!panicked).then_some(handler),
        error_context,
        result,
    }
}

/// Polls user code; a panic becomes an error.
async fn contained(mut future: BoxFuture<'_, Result<()>>) -> Result<Result<()>> {
    poll_fn(|task| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(result)) => Poll::Ready(Ok(result)),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "with a payload that is no text".to_owned());
            Poll::Ready(Err(Error::new(ErrorKind::Handler, format!("the handler panicked: {text}"))))
        }
    })
    .await
}
