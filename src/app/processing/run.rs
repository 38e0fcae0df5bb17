//! One run of a handler as a task: waits for a worker, calls user code, contains its panic, waits for its output.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use tokio::time::Instant;

use super::workers::{Permit, Workers};
use crate::app::consumer::{BoxFuture, Handler};
use crate::app::context::Context;
use crate::app::instrument::{Event, Monitor};
use crate::app::routing::Factory;
use crate::app::scheduler::WaitingJob;
use crate::app::snapshot::JobKind;
use crate::app::stop::Stop;
use crate::consumer::RecordBatch;
use crate::types::TopicPartition;
use crate::{Error, ErrorKind, Result};

/// Context of errors of `initialized`, whichever job it comes before.
const INITIALIZED: &str = "consumer.initialized.error";

/// What user code is asked to do.
pub(super) enum Job {
    Initialized,
    Consume(RecordBatch),
    Eofed,
    Tick,
    Revoked,
    Shutdown,
}

impl Job {
    pub(super) fn kind(&self) -> JobKind {
        match self {
            Self::Initialized => JobKind::Initialized,
            Self::Consume(_) => JobKind::Consume,
            Self::Eofed => JobKind::Eofed,
            Self::Tick => JobKind::Tick,
            Self::Revoked => JobKind::Revoked,
            Self::Shutdown => JobKind::Shutdown,
        }
    }

    /// Context of an error, in Karafka's dotted form.
    pub(super) fn error_context(&self) -> &'static str {
        match self {
            Self::Initialized => INITIALIZED,
            Self::Consume(_) => "consumer.consume.error",
            Self::Eofed => "consumer.eofed.error",
            Self::Tick => "consumer.tick.error",
            Self::Revoked => "consumer.revoked.error",
            Self::Shutdown => "consumer.shutdown.error",
        }
    }
}

/// A consumer of the application. Its panics are contained, that of its `Drop` included.
pub(super) struct Instance {
    handler: Option<Box<dyn Handler>>,
    partition: TopicPartition,
    monitor: Monitor,
}

impl Instance {
    fn make(factory: &Factory, context: &Context, monitor: Monitor) -> Result<Self> {
        let handler = catch_unwind(AssertUnwindSafe(|| factory()))
            .map_err(|panic| panicked("the handler panicked", &*panic))?;
        Ok(Self { handler: Some(handler), partition: context.partition().clone(), monitor })
    }

    /// Calls user code. The outer error is a panic.
    async fn call(&mut self, job: Job, context: &mut Context) -> Result<Result<()>> {
        let Some(handler) = &mut self.handler else { return Ok(Ok(())) };
        let called = match job {
            Job::Initialized => handler.initialized(context),
            Job::Consume(batch) => handler.consume(batch, context),
            Job::Eofed => handler.eofed(context),
            Job::Tick => handler.tick(context),
            Job::Revoked => handler.revoked(context),
            Job::Shutdown => handler.shutdown(context),
        };
        contained(called).await
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let handler = self.handler.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(handler))) {
            let error = panicked("the consumer panicked as it was dropped", &*panic);
            let partition = Some(&self.partition);
            let context = "consumer.drop.error";
            self.monitor.emit(&Event::Error { context, partition, run: None, error: &error });
        }
    }
}

/// What a run needs of its listener.
pub(super) struct Means {
    pub(super) factory: Factory,
    /// New consumers are initialized.
    pub(super) initialized: bool,
    pub(super) workers: Workers,
    pub(super) monitor: Monitor,
    pub(super) stop: Stop,
}

/// A run that ended. After a panic there is no consumer any more: its state is not to be trusted.
pub(super) struct Finished {
    pub(super) partition: TopicPartition,
    pub(super) kind: JobKind,
    pub(super) lane: u32,
    pub(super) consumer: Option<Instance>,
    pub(super) error_context: &'static str,
    /// `None` if user code was not called, because the partition went away before, or was told to wait.
    pub(super) result: Option<Result<()>>,
}

/// The task of one run. Without a `consumer` the factory makes one.
pub(super) async fn run(
    consumer: Option<Instance>,
    job: Job,
    mut context: Context,
    means: Means,
) -> Finished {
    let (kind, mut error_context) = (job.kind(), job.error_context());
    let (partition, lane) = (context.partition().clone(), context.lane());
    // Last calls wait for nobody: a partition without work is given back however busy the workers are.
    let permit = match &job {
        Job::Revoked | Job::Shutdown => None,
        Job::Initialized | Job::Consume(_) | Job::Eofed | Job::Tick => {
            let records = if let Job::Consume(batch) = &job { batch.len() } else { 0 };
            // Between the permit and the call nothing is waited for.
            let permit = permit(&context, &means, records).await;
            let Some(permit) = permit.filter(|_| context.begin(Instant::now())) else {
                return Finished { partition, kind, lane, consumer, error_context, result: None };
            };
            if kind == JobKind::Consume {
                let attempt = context.attempt();
                means.monitor.emit(&Event::Consume { partition: &partition, lane, records, attempt });
            }
            Some(permit)
        }
    };
    if permit.is_none() {
        context.begin(Instant::now());
    }
    let instance = match consumer {
        Some(instance) => Ok(instance),
        None => new(kind, &mut context, &means).await.map_err(|(context, panic)| {
            error_context = context.unwrap_or(error_context);
            panic
        }),
    };
    let (consumer, result) = match instance {
        Ok(mut instance) => match instance.call(job, &mut context).await {
            Ok(result) => (Some(instance), result),
            Err(panic) => (None, Err(panic)),
        },
        Err(panic) => (None, Err(panic)),
    };
    // The worker is free while the output is on its way.
    drop(permit);
    let settled = context.settle().await;
    Finished { partition, kind, lane, consumer, error_context, result: Some(result.and(settled)) }
}

/// Makes a consumer for a job of this kind, and initializes it unless that is the job. The error is a panic, with its
/// context if it is not that of the job.
async fn new(
    kind: JobKind,
    context: &mut Context,
    means: &Means,
) -> Result<Instance, (Option<&'static str>, Error)> {
    let made = Instance::make(&means.factory, context, means.monitor.clone());
    let mut instance = made.map_err(|panic| (None, panic))?;
    if means.initialized && kind != JobKind::Initialized {
        let called = instance.call(Job::Initialized, context).await;
        if let Err(error) = called.map_err(|panic| (Some(INITIALIZED), panic))? {
            let partition = Some(context.partition());
            means.monitor.emit(&Event::Error { context: INITIALIZED, partition, run: None, error: &error });
        }
    }
    Ok(instance)
}

/// Waits for a worker; `None` if the partition goes away or is told to wait before there is one.
async fn permit(context: &Context, means: &Means, records: usize) -> Option<Permit> {
    let job = || WaitingJob {
        group: context.group().clone(),
        partition: context.partition().clone(),
        lane: context.lane(),
        records,
        attempt: context.attempt(),
        expected: None,
    };
    let permit = tokio::select! {
        biased; // What is over goes first: nothing new starts then.
        () = context.over() => return None,
        () = means.stop.begun() => return None,
        () = context.withdrawn() => return None,
        permit = means.workers.permit(job) => permit,
    };
    (!context.is_over() && !means.stop.has_begun()).then_some(permit)
}

/// Polls user code; a panic becomes an error.
async fn contained<T>(mut future: BoxFuture<'_, T>) -> Result<T> {
    let called = poll_fn(|task| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panicked("the handler panicked", &*panic))),
    });
    let result = called.await;
    // What the handler held across its last await is dropped within its own wall.
    match catch_unwind(AssertUnwindSafe(|| drop(future))) {
        Ok(()) => result,
        Err(panic) => result.and(Err(panicked("the handler panicked", &*panic))),
    }
}

fn panicked(what: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "with a payload that is no text".to_owned());
    Error::new(ErrorKind::Handler, format!("{what}: {text}"))
}
