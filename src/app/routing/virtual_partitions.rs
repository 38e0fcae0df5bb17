//! One partition in several lanes.

use std::fmt;
use std::sync::Arc;

use crate::consumer::RecordRef;

type KeyFn = Arc<dyn Fn(&RecordRef<'_>) -> u64 + Send + Sync>;

/// Splits the batches of a partition into lanes that run at once, up to the application's `concurrency`. Records with
/// the same key share a lane and keep their order; offsets move over contiguous successes only.
///
/// After a failure the rest of the batch runs in one lane, so that it is clear which record fails.
#[derive(Clone)]
pub struct VirtualPartitions {
    max: Option<u32>,
    key: KeyFn,
}

/// Lanes by record key; records without a key are spread evenly.
pub fn by_key() -> VirtualPartitions {
    VirtualPartitions::by(|record| match record.key {
        Some(key) => u64::from(crc32c::crc32c(key)),
        None => record.offset.cast_unsigned(),
    })
}

impl VirtualPartitions {
    /// Lanes by a number that `key` computes; equal numbers share a lane. It runs on the task that hands out the
    /// work, so it must be quick; if it panics, the whole batch runs in one lane.
    pub fn by(key: impl Fn(&RecordRef<'_>) -> u64 + Send + Sync + 'static) -> Self {
        Self { max: None, key: Arc::new(key) }
    }

    /// At most this many lanes, at least 1. Default: the application's `concurrency`.
    #[must_use]
    pub fn max_partitions(mut self, lanes: u32) -> Self {
        self.max = Some(lanes);
        self
    }

    pub(super) fn check(&self) -> Option<String> {
        (self.max == Some(0))
            .then(|| "max_partitions of the virtual partitions is 0; it must be at least 1".into())
    }

    /// The number of lanes with `concurrency` workers.
    pub(crate) fn lanes(&self, concurrency: usize) -> u32 {
        self.max.unwrap_or(u32::try_from(concurrency).unwrap_or(u32::MAX)).max(1)
    }

    pub(crate) fn lane(&self, message: &RecordRef<'_>, lanes: u32) -> u32 {
        ((self.key)(message) % u64::from(lanes)) as u32
    }
}

impl fmt::Debug for VirtualPartitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualPartitions").field("max", &self.max).finish_non_exhaustive()
    }
}
