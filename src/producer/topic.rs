//! Topics that a producer knows: name, lanes, and the sticky partition.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::Record;
use super::lane::Lane;
use super::partitioner::{self, Choice, Partitioner};
use crate::sync::{Mutex, lock};
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
    /// Since when a partition has been looked for that nobody knows.
    missed: Mutex<Option<Instant>>,
}

/// How long a partition that we do not know is looked for: brokers learn of a new one each in its own time.
pub(super) const UNKNOWN_PARTITION: Duration = Duration::from_secs(3);

/// Why no partition was found for a record.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The topic has no such partition, as far as we know.
    Unknown(i32),
    /// It never will.
    Bad(Error),
}

/// The lanes of a topic by partition. They only ever grow in number, so they are read without a lock. A topic that is made
/// anew with fewer partitions leaves lanes behind that nobody uses, until it has more again.
pub(super) struct Lanes {
    made: Chunk,
    /// So many of them count.
    count: AtomicUsize,
}

struct Chunk {
    lanes: Vec<Arc<Lane>>,
    /// Those that were added later.
    more: OnceLock<Box<Self>>,
}

impl Chunk {
    fn new(lanes: Vec<Arc<Lane>>) -> Self {
        Self { lanes, more: OnceLock::new() }
    }

    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |chunk| chunk.more.get().map(Box::as_ref))
    }
}

impl Lanes {
    pub(super) fn new(lanes: Vec<Arc<Lane>>) -> Self {
        Self { count: AtomicUsize::new(lanes.len()), made: Chunk::new(lanes) }
    }

    /// Number of partitions that the topic has.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Number of lanes that it ever had.
    pub(super) fn made(&self) -> usize {
        self.made.chain().map(|chunk| chunk.lanes.len()).sum()
    }

    pub(super) fn get(&self, partition: usize) -> Option<&Arc<Lane>> {
        let mut chunk = &self.made;
        let mut at = partition;
        while at >= chunk.lanes.len() {
            at -= chunk.lanes.len();
            chunk = chunk.more.get()?;
        }
        chunk.lanes.get(at)
    }

    /// All that were ever made.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.made.chain().flat_map(|chunk| &chunk.lanes)
    }

    /// The topic has `count` partitions; `new` are the lanes of those that none was made for. One caller at a time.
    pub(super) fn resize(&self, count: usize, new: Vec<Arc<Lane>>) {
        let before = self.count();
        if !new.is_empty()
            && let Some(last) = self.made.chain().last()
        {
            last.more.get_or_init(|| Box::new(Chunk::new(new)));
        }
        if count == before {
            return;
        }
        // Who meets a lane that is retired finds the new number, and chooses anew.
        if count < before {
            self.count.store(count, Ordering::Release);
        }
        for lane in self.iter().skip(count.min(before)).take(count.abs_diff(before)) {
            lane.retire(count < before);
        }
        self.count.store(count, Ordering::Release);
    }
}

impl Topic {
    pub(super) fn new(name: TopicName, producer: u64, random: u64, lanes: Vec<Arc<Lane>>) -> Self {
        let count = u32::try_from(lanes.len()).unwrap_or(u32::MAX).max(1);
        let first = partitioner::any(count, random);
        Self(Arc::new(TopicCell {
            name,
            producer,
            lanes: Lanes::new(lanes),
            sticky: AtomicU64::new(u64::from(first) << 32),
            missed: Mutex::default(),
        }))
    }

    /// A partition was named that is not known. True if one has been looked for long enough; the next one is looked for anew.
    pub(super) fn is_missed(&self, now: Instant) -> bool {
        let mut missed = lock(&self.0.missed);
        let since = *missed.get_or_insert(now);
        let long = now.saturating_duration_since(since) >= UNKNOWN_PARTITION;
        if long {
            *missed = None;
        }
        long
    }

    pub(super) fn has(&self, partition: i32) -> bool {
        usize::try_from(partition).is_ok_and(|partition| partition < self.partition_count())
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
        draw: &dyn Fn() -> u64,
    ) -> Result<(usize, bool), Refusal> {
        let count = self.lanes.count();
        if let Some(partition) = record.partition {
            return match usize::try_from(partition) {
                Ok(at) if at < count => Ok((at, false)),
                Ok(_) => Err(Refusal::Unknown(partition)),
                Err(_) => {
                    let message = format!("a record for {} names partition {partition}", self.name);
                    Err(Refusal::Bad(Error::new(ErrorKind::Config, message)))
                }
            };
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        match partitioner.choose(record.key_bytes(), count) {
            Choice::Partition(partition) => Ok((partition as usize, false)),
            Choice::Sticky => {
                let mut sticky = (self.sticky.load(Ordering::Relaxed) >> 32) as u32;
                let led = |lane: &Arc<Lane>| lane.led.load(Ordering::Relaxed);
                if sticky >= count || !self.lanes.get(sticky as usize).is_some_and(led) {
                    sticky = self.move_on(count, sticky, draw);
                }
                Ok((sticky as usize, true))
            }
            Choice::Random => Ok((partitioner::any(count, draw()) as usize, false)),
            Choice::Refuse => {
                let message = format!("a record for {} names no partition", self.name);
                Err(Refusal::Bad(Error::new(ErrorKind::Config, message).with_advice(
                    "set the record's partition, or choose another partitioner than `explicit`",
                )))
            }
        }
    }

    /// Counts `bytes` that went to the sticky partition, and chooses another after `bytes_max`.
    pub(super) fn count_sticky(&self, bytes: usize, bytes_max: usize, draw: &dyn Fn() -> u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX / 2);
        // A race between two appenders moves the partition once too often or too late, which does not matter.
        let before = self.sticky.load(Ordering::Relaxed);
        let total = (before as u32).saturating_add(bytes);
        if total as usize >= bytes_max {
            let count = u32::try_from(self.lanes.count()).unwrap_or(u32::MAX);
            self.move_on(count, (before >> 32) as u32, draw);
        } else {
            self.sticky.store(before & !0xffff_ffff | u64::from(total), Ordering::Relaxed);
        }
    }

    /// Leaves the sticky partition `previous` for another of `count`, and returns that. Seldom, so its registers are its own.
    #[inline(never)]
    fn move_on(&self, count: u32, previous: u32, draw: &dyn Fn() -> u64) -> u32 {
        let next = partitioner::next_sticky(count, previous, draw(), |partition| {
            let lane = self.lanes.get(partition as usize)?;
            lane.led.load(Ordering::Relaxed).then(|| lane.queued.load(Ordering::Relaxed).max(0) as usize)
        });
        self.sticky.store(u64::from(next) << 32, Ordering::Relaxed);
        next
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
        grown.resize(5, lanes(2, 5));
        grown.resize(6, lanes(5, 6));
        assert_eq!(grown.count(), 6);
        for partition in 0..6 {
            assert_eq!(grown.get(partition).map(|lane| lane.id), Some(partition));
        }
        assert!(grown.get(6).is_none());
        assert_eq!(grown.iter().map(|lane| lane.id).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }
}
