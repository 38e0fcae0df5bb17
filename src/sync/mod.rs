//! The cells that threads share where an appender, a fetch or a driver must not wait for another's task: completions of
//! batches, credit, mailboxes and the memory budget. Each is small enough to be model-checked: built with `--cfg
//! carafe_shuttle` (`.ci/run models`) it runs on shuttle's primitives, which explore interleavings, and `models` has one
//! for each. Cells wake tasks after they let go of their lock, and take the current waker instead of a runtime. What is
//! kept in them they do not look into; `budget` alone knows what its parts are for, fetched data of partitions.
//!
//! Larger shared state has a mutex of its own beside the tasks that share it, never held across an await: `shared` of
//! `net` and `cluster`, `core` of the consumers, `handle`, `lane` and `topic` of the producer, `context`, `workers` and
//! `directory` of the application, `driver` of the embedded cluster. Everything else has one owner.

#[cfg(feature = "client")]
pub(crate) mod budget;
#[cfg(feature = "client")]
mod completion;
#[cfg(feature = "client")]
mod credit;
#[cfg(feature = "client")]
mod mailbox;
#[cfg(all(test, carafe_shuttle))]
mod models;

#[cfg(feature = "client")]
pub(crate) use completion::{Completion, Registration};
#[cfg(feature = "client")]
pub(crate) use credit::{Credit, CreditPool};
#[cfg(feature = "client")]
pub(crate) use mailbox::Mailbox;

#[cfg(all(test, carafe_shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
#[cfg(all(feature = "client", not(all(test, carafe_shuttle))))]
pub(crate) use std::sync::atomic;
#[cfg(not(all(test, carafe_shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard};

/// Locks `mutex`. A thread that panicked inside leaves the data as it is: cells keep their invariants between
/// statements, so a poisoned lock is as good as another.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
