//! How many handlers are stuck, for liveness probes.

use std::sync::Arc;

use crate::runtime::watch;

/// Counts the handlers of an application that have been running for longer than their routes allow. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<watch::Sender<usize>>);

impl Health {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// True if no handler is stuck.
    pub(crate) fn is_live(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// A handler is stuck, until this is dropped.
    pub(super) fn stuck(&self) -> Stuck {
        self.0.send_modify(|count| *count += 1);
        Stuck(self.clone())
    }
}

/// A handler that is stuck.
#[derive(Debug)]
pub(super) struct Stuck(Health);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
