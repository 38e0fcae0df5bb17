//! The pool of workers: permits, not threads. A run holds one while its handler runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits for running handlers, handed out in the order in which they are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    permits: Arc<Semaphore>,
    size: Arc<Mutex<Size>>,
}

/// Invariant: `permits in the semaphore + permits out == issued`, and `issued >= wanted` while the pool shrinks.
#[derive(Debug)]
struct Size {
    wanted: usize,
    issued: usize,
}

/// The right to run one handler.
#[derive(Debug)]
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    workers: Workers,
}

impl Workers {
    pub(crate) fn new(size: usize) -> Self {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(size)),
            size: Arc::new(Mutex::new(Size { wanted: size, issued: size })),
        }
    }

    /// The number of handlers that may run at once.
    pub(crate) fn size(&self) -> usize {
        self.lock().wanted
    }

    /// Changes the number. Growing takes effect at once, shrinking as permits come back.
    pub(crate) fn scale(&self, size: usize) {
        let mut current = self.lock();
        current.wanted = size.clamp(1, Semaphore::MAX_PERMITS);
        if current.wanted >= current.issued {
            self.permits.add_permits(current.wanted - current.issued);
            current.issued = current.wanted;
        } else {
            current.issued -= self.permits.forget_permits(current.issued - current.wanted);
        }
    }

    /// Waits for a permit. Cancel-safe; a dropped wait loses its place.
    pub(crate) async fn permit(&self) -> Permit {
        // The semaphore is never closed, so there is always a permit in the end.
        Permit { permit: self.permits.clone().acquire_owned().await.ok(), workers: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut size = self.workers.lock();
        if size.issued > size.wanted
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
            size.issued -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_pool_shrinks_as_permits_come_back_and_grows_at_once() {
        let workers = Workers::new(2);
        let (first, second) = (workers.permit().await, workers.permit().await);
        workers.scale(1);
        drop(first);
        assert_eq!(workers.permits.available_permits(), 0);
        drop(second);
        assert_eq!(workers.permits.available_permits(), 1);
        workers.scale(3);
        assert_eq!((workers.permits.available_permits(), workers.size()), (3, 3));
    }
}
