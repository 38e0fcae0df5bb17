//! One value, many who watch it change: `tokio::sync::watch` with an order.
//!
//! Tokio's channel spreads its waiters over eight lists by a random number and wakes list after list, so with two waiters
//! even a seeded run takes one of two ways. This one wakes in the order of waiting, and is otherwise used alike.

use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

/// A sender and a receiver that has seen `value`.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

struct Shared<T> {
    state: RwLock<State<T>>,
    changed: Notify,
    senders: AtomicUsize,
}

struct State<T> {
    value: T,
    version: u64,
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a version other than `seen`, and makes it the one that was seen.
    async fn changed(&self, seen: &mut u64) -> Result<(), Closed> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let version = self.read().version;
            if version != *seen {
                *seen = version;
                return Ok(());
            }
            if self.senders.load(Ordering::Acquire) == 0 {
                return Err(Closed);
            }
            changed.await;
        }
    }
}

/// All senders are gone: the value does not change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the watched value has no owner any more")
    }
}

impl std::error::Error for Closed {}

/// The value, borrowed. Keep it short and never across an `await`: meanwhile nobody can change the value.
pub struct Ref<'a, T>(RwLockReadGuard<'a, State<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.value, f)
    }
}

/// Changes the value. The last sender that is dropped closes the channel.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Begins with `value`; receivers come from [`subscribe`](Self::subscribe).
    pub fn new(value: T) -> Self {
        let state = RwLock::new(State { value, version: 0 });
        Self(Arc::new(Shared { state, changed: Notify::new(), senders: AtomicUsize::new(1) }))
    }

    /// A receiver that has seen the present value.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.read().version;
        Receiver { shared: self.0.clone(), seen }
    }

    /// The present value.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.read())
    }

    /// Puts `value` in place and returns the one before.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_modify(|present| std::mem::swap(present, &mut value));
        value
    }

    /// Changes the value in place.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Changes the value in place; receivers are told only if `change` returns true. Returns what it returned.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = {
            let mut state = self.0.write();
            let modified = change(&mut state.value);
            if modified {
                state.version += 1;
            }
            modified
        };
        if modified {
            self.0.changed.notify_waiters();
        }
        modified
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.borrow()).finish()
    }
}

/// Sees the latest value, and waits for changes. It may miss values in between.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// The present value; it does not count as seen.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    /// The present value, which counts as seen from now on.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let state = self.shared.read();
        self.seen = state.version;
        Ref(state)
    }

    /// True if there is a value that was not seen.
    pub fn has_changed(&self) -> bool {
        self.shared.read().version != self.seen
    }

    /// The present value counts as seen from now on.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.shared.read().version;
    }

    /// The present value counts as not seen.
    pub fn mark_changed(&mut self) {
        self.seen = self.shared.read().version.wrapping_sub(1);
    }

    /// Waits for a value that was not seen, and counts it as seen. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the last value was seen and all senders are gone.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        self.shared.changed(&mut self.seen).await
    }

    /// Waits until `is_right` says true, of the present value or of a later one, which counts as seen. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If all senders are gone and the last value is not right.
    pub async fn wait_for(&mut self, mut is_right: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        let Self { shared, seen } = self;
        loop {
            {
                let state = shared.read();
                *seen = state.version;
                if is_right(&state.value) {
                    return Ok(Ref(state));
                }
            }
            shared.changed(seen).await?;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T: fmt::Debug> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&self.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn receivers_see_the_latest_value_and_the_end() {
        let (sender, mut receiver) = channel(1);
        assert!(!receiver.has_changed());
        assert_eq!(sender.send_replace(2), 1);
        sender.send_modify(|value| *value += 1);
        assert!(!sender.send_if_modified(|_| false));
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(*receiver.borrow_and_update(), 3);
        assert!(!receiver.has_changed());
        receiver.mark_changed();
        assert_eq!(receiver.changed().await, Ok(()));

        let (other, mut late) = (sender.clone(), sender.subscribe());
        drop(sender);
        let waiting =
            tokio::spawn(async move { late.wait_for(|value| *value == 5).await.map(|value| *value) });
        tokio::task::yield_now().await;
        other.send_replace(5);
        assert_eq!(waiting.await.expect("no panic"), Ok(5));
        drop(other);
        assert_eq!(receiver.changed().await, Ok(()), "the last value comes before the end");
        assert_eq!(receiver.changed().await, Err(Closed));
        assert_eq!(receiver.wait_for(|value| *value == 5).await.map(|value| *value), Ok(5));
        assert_eq!(receiver.wait_for(|value| *value == 6).await.map(|value| *value), Err(Closed));
    }

    #[tokio::test]
    async fn waiters_wake_in_the_order_of_waiting() {
        let sender = Sender::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..50)
            .map(|index| {
                let (mut receiver, order) = (sender.subscribe(), order.clone());
                tokio::spawn(async move {
                    receiver.changed().await.expect("the sender lives");
                    order.lock().expect("no panic").push(index);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        sender.send_replace(1);
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(*order.lock().expect("no panic"), (0..50).collect::<Vec<_>>());
    }
}
