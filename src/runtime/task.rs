//! Handles of spawned tasks, and the wall between a task that panics and the rest of the process.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::task::Poll;

use tokio::task::{AbortHandle, JoinHandle};

/// Called with the name of a task and the message of its panic, on the thread of the task.
pub type PanicHook = Arc<dyn Fn(&'static str, &str) + Send + Sync>;

/// A spawned task. Dropping the handle leaves the task running; see [`Task::abort_on_drop`].
pub struct Task {
    name: &'static str,
    state: State,
}

enum State {
    Running(JoinHandle<Result<(), TaskError>>),
    #[cfg_attr(
        not(feature = "broker"),
        allow(dead_code, reason = "only the simulation runs work within the call")
    )]
    Finished(Result<(), TaskError>),
}

/// Why a task did not reach its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskError {
    /// The task was aborted, or the runtime shut down.
    Aborted,
    /// The task panicked with this message.
    Panicked(String),
}

impl Task {
    pub(super) fn running(name: &'static str, handle: JoinHandle<Result<(), TaskError>>) -> Self {
        Self { name, state: State::Running(handle) }
    }

    /// A task that ended within the call that started it.
    #[cfg(feature = "broker")]
    pub(super) fn finished(name: &'static str, result: Result<(), TaskError>) -> Self {
        Self { name, state: State::Finished(result) }
    }

    /// The name given at the start.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Drops the task's future at its next suspension point; without effect once it has ended. Blocking work that has
    /// begun runs on.
    pub fn abort(&self) {
        if let State::Running(handle) = &self.state {
            handle.abort();
        }
    }

    /// True once the task has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        match &self.state {
            State::Running(handle) => handle.is_finished(),
            State::Finished(_) => true,
        }
    }

    /// Waits for the end of the task. Dropping the future leaves the task running.
    ///
    /// # Errors
    ///
    /// If the task was aborted or panicked.
    pub async fn join(self) -> Result<(), TaskError> {
        match self.state {
            State::Running(handle) => handle.await.unwrap_or(Err(TaskError::Aborted)),
            State::Finished(result) => result,
        }
    }

    /// A handle that aborts the task when it is dropped.
    #[must_use = "dropping the guard aborts the task"]
    pub fn abort_on_drop(self) -> AbortOnDrop {
        let handle = match &self.state {
            State::Running(handle) => Some(handle.abort_handle()),
            State::Finished(_) => None,
        };
        AbortOnDrop { handle, task: Some(self) }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("name", &self.name).field("finished", &self.is_finished()).finish()
    }
}

/// Aborts its task when dropped.
#[derive(Debug)]
pub struct AbortOnDrop {
    handle: Option<AbortHandle>,
    task: Option<Task>,
}

impl AbortOnDrop {
    /// Waits for the end of the task; if the future is dropped first, the task is aborted.
    ///
    /// # Errors
    ///
    /// If the task was aborted or panicked.
    pub async fn join(mut self) -> Result<(), TaskError> {
        match self.task.take() {
            Some(task) => task.join().await,
            None => Ok(()),
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            handle.abort();
        }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted => f.write_str("task was aborted"),
            Self::Panicked(message) => write!(f, "task panicked: {message}"),
        }
    }
}

impl std::error::Error for TaskError {}

/// Polls `future` with panics caught; a panic is reported and ends the task with an error.
pub(super) async fn contain(
    name: &'static str,
    hook: Option<PanicHook>,
    future: impl Future<Output = ()> + Send,
) -> Result<(), TaskError> {
    let mut future = std::pin::pin!(future);
    // A future that has panicked is not polled again, so what its panic left half-done stays out of sight.
    std::future::poll_fn(|context| {
        match panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => Poll::Ready(Err(report(name, hook.as_ref(), &*payload))),
        }
    })
    .await
}

/// Calls `work` with panics caught; a panic is reported and returned.
pub(super) fn contain_blocking(
    name: &'static str,
    hook: Option<&PanicHook>,
    work: super::BlockingWork,
) -> Result<(), TaskError> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| report(name, hook, &*payload))
}

fn report(name: &'static str, hook: Option<&PanicHook>, payload: &(dyn Any + Send)) -> TaskError {
    let message = panic_message(payload);
    tracing::error!(task = name, panic = message, "a task panicked");
    if let Some(hook) = hook {
        hook(name, message);
    }
    TaskError::Panicked(message.to_owned())
}

/// The text of a panic, if it has one.
fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(message) = payload.downcast_ref::<&'static str>() {
        message
    } else if let Some(message) = payload.downcast_ref::<String>() {
        message
    } else {
        "(panic without a text)"
    }
}
