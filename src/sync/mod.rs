//! The cells that threads share. Everything else in the crate has one owner.
//!
//! Each cell is small enough to be model-checked: built with `--cfg carafe_shuttle` (`.ci/run models`) it runs on shuttle's
//! primitives, which explore interleavings. Cells wake tasks after they let go of their lock, take the current waker
//! instead of a runtime, and know nothing of Kafka.

pub(crate) mod budget;
mod completion;
mod credit;
mod mailbox;
#[cfg(all(test, carafe_shuttle))]
mod models;

pub(crate) use completion::{Completion, Registration};
pub(crate) use credit::{Credit, Held};
pub(crate) use mailbox::Mailbox;

#[cfg(all(test, carafe_shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(all(test, carafe_shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard};

/// Locks `mutex`. A thread that panicked inside leaves the data as it is: cells keep their invariants between
/// statements, so a poisoned lock is as good as another.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
