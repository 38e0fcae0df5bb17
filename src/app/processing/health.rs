//! What is wrong with an application, for liveness probes.

use std::sync::Arc;

use crate::runtime::watch;

/// Counts what keeps an application from handling all its partitions. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<watch::Sender<usize>>);

impl Health {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// True if nothing is wrong.
    pub(crate) fn is_live(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Something is wrong, until this is dropped.
    pub(super) fn trouble(&self) -> Trouble {
        self.0.send_modify(|count| *count += 1);
        Trouble(self.clone())
    }
}

/// Something that is wrong: a handler that is stuck, a partition that stands, a condition that lasts.
#[derive(Debug)]
pub(super) struct Trouble(Health);

impl Drop for Trouble {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
