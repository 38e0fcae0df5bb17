//! Topics that a producer knows: name, lanes, and the sticky partition.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::Record;
use super::lane::Lane;
use super::partitioner::{self, Choice, Partitioner};
use crate::types::TopicName;
use crate::{Error, ErrorKind};

/// A topic that was looked up once, from [`Producer::topic`](super::Producer::topic). Records made with it need no
/// look-up by name. It is bound to its producer; with another one it is as good as its name. Cheap to clone.
#[derive(Clone)]
pub struct Topic(pub(super) Arc<TopicCell>);

pub(super) struct TopicCell {
    name: TopicName,
    /// Number of the producer.
    pub(super) producer: u64,
    lanes: RwLock<Vec<Arc<Lane>>>,
    /// Sticky partition in the upper half, bytes that went to it in the lower.
    sticky: AtomicU64,
}

impl Topic {
    pub(super) fn new(name: TopicName, producer: u64, dice: u64, count: usize) -> Self {
        let first = partitioner::any(u32::try_from(count).unwrap_or(u32::MAX).max(1), dice);
        Self(Arc::new(TopicCell {
            name,
            producer,
            lanes: RwLock::default(),
            sticky: AtomicU64::new(u64::from(first) << 32),
        }))
    }

    /// The topic's name.
    pub fn name(&self) -> &TopicName {
        &self.0.name
    }

    /// Number of partitions, as far as is known.
    pub fn partition_count(&self) -> usize {
        self.0.lanes().len()
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Topic").field(&self.0.name).finish()
    }
}

impl TopicCell {
    pub(super) fn lanes(&self) -> RwLockReadGuard<'_, Vec<Arc<Lane>>> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn extend(&self, more: &[Arc<Lane>]) {
        self.lanes.write().unwrap_or_else(PoisonError::into_inner).extend_from_slice(more);
    }

    /// The partition for `record`, and whether it is the sticky one.
    pub(super) fn choose(
        &self,
        record: &Record<'_>,
        lanes: &[Arc<Lane>],
        partitioner: Partitioner,
        dice: &dyn Fn() -> u64,
    ) -> Result<(usize, bool), Error> {
        let count = lanes.len();
        if let Some(partition) = record.partition {
            return match usize::try_from(partition) {
                Ok(partition) if partition < count => Ok((partition, false)),
                _ => {
                    let message = format!("topic {} has no partition {partition}, but {count}", self.name);
                    Err(Error::new(ErrorKind::Config, message))
                }
            };
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        match partitioner.choose(record.key_bytes(), count) {
            Choice::Partition(partition) => Ok((partition as usize, false)),
            Choice::Sticky => {
                let sticky = (self.sticky.load(Ordering::Relaxed) >> 32) as u32;
                Ok(((sticky % count) as usize, true))
            }
            Choice::Random => Ok((partitioner::any(count, dice()) as usize, false)),
            Choice::Refuse => {
                Err(Error::new(ErrorKind::Config, format!("a record for {} names no partition", self.name))
                    .hint("set the record's partition, or choose another partitioner than `explicit`"))
            }
        }
    }

    /// Counts `bytes` that went to the sticky partition, and chooses another after `bytes_max`.
    pub(super) fn stuck(&self, bytes: usize, bytes_max: usize, lanes: &[Arc<Lane>], dice: &dyn Fn() -> u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX / 2);
        // A race between two appenders moves the partition once too often or too late, which does not matter.
        let before = self.sticky.load(Ordering::Relaxed);
        let total = (before as u32).saturating_add(bytes);
        if total as usize >= bytes_max {
            let count = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
            let next = partitioner::next_sticky(count, (before >> 32) as u32, dice(), |partition| {
                let lane = lanes.get(partition as usize)?;
                lane.led.load(Ordering::Relaxed).then(|| lane.queued.load(Ordering::Relaxed).max(0) as usize)
            });
            self.sticky.store(u64::from(next) << 32, Ordering::Relaxed);
        } else {
            self.sticky.store(before & !0xffff_ffff | u64::from(total), Ordering::Relaxed);
        }
    }
}
