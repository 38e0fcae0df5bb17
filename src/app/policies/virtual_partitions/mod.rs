//! One partition in several lanes.

use std::fmt;
use std::sync::Arc;

use crate::app::policy::{Definition, Facts, Report, Stage};
use crate::app::routing::TopicRoute;
use crate::consumer::{RecordBatch, RecordRef};
use crate::{Error, ErrorKind};

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
        None => record.offset.0.cast_unsigned(),
    })
}

impl VirtualPartitions {
    /// Lanes by a number that `key` computes; equal numbers share a lane. It runs on the task that hands out the
    /// work, so it must be quick; if it panics, the whole batch runs in one lane.
    pub fn by(key: impl Fn(&RecordRef<'_>) -> u64 + Send + Sync + 'static) -> Self {
        Self { max: None, key: Arc::new(key) }
    }

    /// At most this many lanes, at least 1. Default: the application's `concurrency` when the first batch of the partition
    /// comes; [scaling](crate::app::ServerHandle::scale) changes no partition that is being read.
    #[must_use]
    pub fn max_partitions(mut self, lanes: u32) -> Self {
        self.max = Some(lanes);
        self
    }
}

impl TopicRoute {
    /// Runs one partition in several lanes at once, in order within each key. Default: one lane.
    pub fn virtual_partitions(&mut self, virtual_partitions: VirtualPartitions) -> &mut Self {
        self.with(virtual_partitions)
    }
}

impl Definition for VirtualPartitions {
    fn name(&self) -> &'static str {
        "virtual_partitions"
    }

    fn check(&self, _: &Facts<'_>, problem: Report<'_>) {
        if self.max == Some(0) {
            problem("max_partitions", "is 0; it must be at least 1".into());
        }
    }

    fn stage(&self, _: &Facts<'_>) -> Box<dyn Stage> {
        Box::new(Split { by: self.clone(), lanes: None })
    }
}

#[derive(Debug)]
struct Split {
    by: VirtualPartitions,
    /// As many as there were for the first batch: a key stays with its consumer, and what a lane has not marked with it.
    lanes: Option<u32>,
}

impl Stage for Split {
    fn policy(&self) -> &'static str {
        "virtual_partitions"
    }

    fn split(&mut self, batch: &RecordBatch, workers: usize) -> Option<Vec<u32>> {
        let Self { by: VirtualPartitions { max, key }, lanes } = self;
        let lanes = *lanes.get_or_insert(max.unwrap_or(u32::try_from(workers).unwrap_or(u32::MAX)).max(1));
        let lane = |record: RecordRef<'_>| (key(&record) % u64::from(lanes)) as u32;
        (lanes > 1).then(|| batch.iter().map(lane).collect())
    }

    fn panicked(&self) -> (&'static str, Error) {
        let text = "the key function of the virtual partitions panicked";
        let error = Error::new(ErrorKind::Handler, text).with_advice("the batch runs in one lane");
        ("virtual_partitions.partitioner.error", error)
    }
}

impl fmt::Debug for VirtualPartitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualPartitions").field("max", &self.max).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicPartition;

    fn lanes(virtual_partitions: &VirtualPartitions, workers: usize) -> Option<Vec<u32>> {
        let route = TopicRoute::new("t".into());
        let keys: [Option<&[u8]>; 5] = [Some(b"a"), Some(b"b"), Some(b"a"), None, None];
        let batch = RecordBatch::for_test(TopicPartition::new("t", 0), 10, &keys.map(|key| (key, None)));
        virtual_partitions.stage(&route.facts()).split(&batch, workers)
    }

    #[test]
    fn equal_keys_share_a_lane_and_records_without_key_are_spread() {
        let lanes = lanes(&by_key(), 2).unwrap();
        assert_eq!(lanes[0], lanes[2]);
        assert_ne!(lanes[3], lanes[4]);
        assert!(lanes.iter().all(|&lane| lane < 2));
    }

    #[test]
    fn there_are_as_many_lanes_as_workers_unless_told_otherwise() {
        let spread = VirtualPartitions::by(|record| record.offset.0.cast_unsigned());
        assert_eq!(lanes(&spread, 3), Some(vec![1, 2, 0, 1, 2]));
        assert_eq!(lanes(&spread.clone().max_partitions(2), 3), Some(vec![0, 1, 0, 1, 0]));
        assert_eq!((lanes(&spread, 1), lanes(&spread.max_partitions(1), 3)), (None, None));
    }
}
