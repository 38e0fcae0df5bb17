//! Topics that a producer knows: name, lanes, and the sticky partition.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

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
    pub(super) name: TopicName,
    /// Number of the producer.
    pub(super) producer: u64,
    pub(super) lanes: Lanes,
    /// Sticky partition in the upper half, bytes that went to it in the lower.
    sticky: AtomicU64,
}

/// The lanes of a topic by partition. They only ever grow in number, so they are read without a lock.
pub(super) struct Lanes {
    first: Vec<Arc<Lane>>,
    /// Those that were added later.
    more: OnceLock<Box<Self>>,
}

impl Lanes {
    pub(super) fn new(first: Vec<Arc<Lane>>) -> Self {
        Self { first, more: OnceLock::new() }
    }

    pub(super) fn count(&self) -> usize {
        self.first.len() + self.more.get().map_or(0, |more| more.count())
    }

    pub(super) fn get(&self, partition: usize) -> Option<&Arc<Lane>> {
        match partition.checked_sub(self.first.len()) {
            None => self.first.get(partition),
            Some(behind) => self.more.get()?.get(behind),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Lane>> {
        std::iter::successors(Some(self), |lanes| lanes.more.get().map(Box::as_ref))
            .flat_map(|lanes| &lanes.first)
    }

    /// Adds lanes behind the last one. One caller at a time.
    pub(super) fn extend(&self, lanes: Vec<Arc<Lane>>) {
        let mut last = self;
        while let Some(more) = last.more.get() {
            last = more;
        }
        last.more.get_or_init(|| Box::new(Self::new(lanes)));
    }
}

impl Topic {
    pub(super) fn new(name: TopicName, producer: u64, dice: u64, lanes: Vec<Arc<Lane>>) -> Self {
        let count = u32::try_from(lanes.len()).unwrap_or(u32::MAX).max(1);
        let first = partitioner::any(count, dice);
        Self(Arc::new(TopicCell {
            name,
            producer,
            lanes: Lanes::new(lanes),
            sticky: AtomicU64::new(u64::from(first) << 32),
        }))
    }

    /// The topic's name.
    pub fn name(&self) -> &TopicName {
        &self.0.name
    }

    /// Number of partitions, as far as is known.
    pub fn partition_count(&self) -> usize {
        self.0.lanes.count()
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Topic").field(&self.0.name).finish()
    }
}

impl TopicCell {
    /// The partition for `record`, and whether it is the sticky one.
    pub(super) fn choose(
        &self,
        record: &Record<'_>,
        partitioner: Partitioner,
        dice: &dyn Fn() -> u64,
    ) -> Result<(usize, bool), Error> {
        let count = self.lanes.count();
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
    pub(super) fn stuck(&self, bytes: usize, bytes_max: usize, dice: &dyn Fn() -> u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX / 2);
        // A race between two appenders moves the partition once too often or too late, which does not matter.
        let before = self.sticky.load(Ordering::Relaxed);
        let total = (before as u32).saturating_add(bytes);
        if total as usize >= bytes_max {
            let count = u32::try_from(self.lanes.count()).unwrap_or(u32::MAX);
            let next = partitioner::next_sticky(count, (before >> 32) as u32, dice(), |partition| {
                let lane = self.lanes.get(partition as usize)?;
                lane.led.load(Ordering::Relaxed).then(|| lane.queued.load(Ordering::Relaxed).max(0) as usize)
            });
            self.sticky.store(u64::from(next) << 32, Ordering::Relaxed);
        } else {
            self.sticky.store(before & !0xffff_ffff | u64::from(total), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_keep_their_place_while_a_topic_grows() {
        let lanes = |from: usize, to: usize| -> Vec<_> {
            (from..to).map(|id| Lane::new(id, "t".into(), id as i32, 1_000_000)).collect()
        };
        let grown = Lanes::new(lanes(0, 2));
        grown.extend(lanes(2, 5));
        grown.extend(lanes(5, 6));
        assert_eq!(grown.count(), 6);
        for partition in 0..6 {
            assert_eq!(grown.get(partition).map(|lane| lane.id), Some(partition));
        }
        assert!(grown.get(6).is_none());
        assert_eq!(grown.iter().map(|lane| lane.id).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }
}
