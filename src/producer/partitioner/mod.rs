//! Which partition a record goes to. Pure: dice and load are handed in.

mod hash;

use std::fmt;
use std::str::FromStr;

use crate::settings::Words;
use crate::{Error, Result};
use hash::{crc32, fnv1a, murmur2};

/// How a record without an explicit partition finds one. Names are librdkafka's.
///
/// Hashes always count every partition, also those without a leader, so that a key never moves while the number of
/// partitions stays. *Sticky* means: the same partition for 64 KiB, then another with a short queue (KIP-794).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Partitioner {
    /// Java's default (`murmur2_random`): murmur2 of the key, the empty one too; sticky for null keys.
    #[default]
    Murmur2Random,
    /// murmur2 of the key; null keys as the empty key (`murmur2`).
    Murmur2,
    /// CRC-32 of the key; null and empty keys sticky (`consistent_random`, the default of librdkafka and Karafka).
    ConsistentRandom,
    /// CRC-32 of the key; null and empty keys to partition 0 (`consistent`).
    Consistent,
    /// FNV-1a of the key; sticky for null keys (`fnv1a_random`, Sarama's hash).
    Fnv1aRandom,
    /// FNV-1a of the key; null keys as the empty key (`fnv1a`).
    Fnv1a,
    /// A random partition for each record with a key; sticky for null keys (`random`).
    Random,
    /// Records without an explicit partition are refused (`explicit`).
    Explicit,
}

/// What a partitioner says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This partition.
    Partition(u32),
    /// The topic's sticky partition.
    Sticky,
    /// Any partition, each time another.
    Random,
    /// The record had to name one.
    Refuse,
}

impl Partitioner {
    /// librdkafka's name.
    pub fn name(self) -> &'static str {
        self.word()
    }

    /// Chooses for `key` among `count` partitions, which is not 0.
    #[inline]
    pub(crate) fn choose(self, key: Option<&[u8]>, count: u32) -> Choice {
        let java = |key: &[u8]| Choice::Partition((murmur2(key) & 0x7fff_ffff) % count);
        match (self, key) {
            (Self::Explicit, _) => Choice::Refuse,
            (Self::Random, Some(_)) => Choice::Random,
            (Self::Murmur2Random, Some(key)) => java(key),
            (Self::Murmur2, key) => java(key.unwrap_or_default()),
            (Self::ConsistentRandom, Some(key)) if !key.is_empty() => Choice::Partition(crc32(key) % count),
            (Self::Consistent, key) => Choice::Partition(crc32(key.unwrap_or_default()) % count),
            (Self::Fnv1aRandom, Some(key)) => Choice::Partition(fnv1a(key) % count),
            (Self::Fnv1a, key) => Choice::Partition(fnv1a(key.unwrap_or_default()) % count),
            (Self::Random | Self::Murmur2Random | Self::Fnv1aRandom, None) | (Self::ConsistentRandom, _) => {
                Choice::Sticky
            }
        }
    }
}

impl fmt::Display for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Words for Partitioner {
    const SETTING: &'static str = "partitioner";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("murmur2_random", Self::Murmur2Random),
        ("murmur2", Self::Murmur2),
        ("consistent_random", Self::ConsistentRandom),
        ("consistent", Self::Consistent),
        ("fnv1a_random", Self::Fnv1aRandom),
        ("fnv1a", Self::Fnv1a),
        ("random", Self::Random),
        ("explicit", Self::Explicit),
    ];
}

impl FromStr for Partitioner {
    type Err = Error;

    /// Takes librdkafka's names, and `explicit`.
    ///
    /// # Errors
    ///
    /// `Config` for any other name, with those that there are.
    fn from_str(name: &str) -> Result<Self> {
        <Self as Words>::parse(name)
    }
}

/// The next sticky partition among `count`: of two drawn ones that with a leader and the shorter queue. `load` says how
/// many batches wait in a partition, `None` if it has no leader. KIP-794 draws with weights over all queues, which Java
/// computes anew from all of them; two draws avoid a slow partition, too, and cost the same for 10 partitions and 10,000.
pub(crate) fn next_sticky(count: u32, previous: u32, dice: u64, load: impl Fn(u32) -> Option<usize>) -> u32 {
    if count <= 1 {
        return 0;
    }
    // Another one than the previous, both times.
    let draw = |dice: u32| {
        let drawn = ((u64::from(dice) * u64::from(count - 1)) >> 32) as u32;
        if drawn >= previous { drawn + 1 } else { drawn }
    };
    let (first, second) = (draw(dice as u32), draw((dice >> 32) as u32));
    match (load(first), load(second)) {
        (Some(one), Some(other)) if other < one => second,
        (Some(_), _) => first,
        (None, Some(_)) => second,
        // Look for any with a leader, a few places on: perhaps there is none at all.
        (None, None) => (1..=count.min(64))
            .map(|step| (first + step) % count)
            .find(|partition| load(*partition).is_some())
            .unwrap_or(first),
    }
}

/// Any partition among `count`.
pub(crate) fn any(count: u32, dice: u64) -> u32 {
    (((dice >> 32) * u64::from(count)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_find_the_partition_that_other_clients_find() {
        // Of ten: crc32, murmur2, fnv1a.
        for (key, crc, murmur, fnv) in [
            ("kafka", 9, 0, 5),
            ("giberish123456789", 1, 0, 3),
            ("1234", 9, 0, 5),
            ("21", 2, 0, 2),
            ("a", 7, 4, 6),
            ("user-42", 5, 0, 9),
            ("\u{e9}", 6, 1, 7),
        ] {
            let key = Some(key.as_bytes());
            for (partitioner, expected) in [
                (Partitioner::Consistent, crc),
                (Partitioner::ConsistentRandom, crc),
                (Partitioner::Murmur2, murmur),
                (Partitioner::Murmur2Random, murmur),
                (Partitioner::Fnv1a, fnv),
                (Partitioner::Fnv1aRandom, fnv),
            ] {
                assert_eq!(partitioner.choose(key, 10), Choice::Partition(expected), "{partitioner} {key:?}");
            }
        }
    }

    #[test]
    fn empty_and_null_keys_differ_as_the_table_says() {
        use Choice::{Partition, Random, Refuse, Sticky};
        for (partitioner, empty, null) in [
            (Partitioner::Random, Random, Sticky),
            (Partitioner::Consistent, Partition(0), Partition(0)),
            (Partitioner::ConsistentRandom, Sticky, Sticky),
            (Partitioner::Murmur2, Partition(1), Partition(1)),
            (Partitioner::Murmur2Random, Partition(1), Sticky),
            (Partitioner::Fnv1a, Partition(5), Partition(5)),
            (Partitioner::Fnv1aRandom, Partition(5), Sticky),
            (Partitioner::Explicit, Refuse, Refuse),
        ] {
            assert_eq!(partitioner.choose(Some(b""), 10), empty, "{partitioner}");
            assert_eq!(partitioner.choose(None, 10), null, "{partitioner}");
            assert_eq!(partitioner.name().parse().ok(), Some(partitioner));
        }
        assert!("murmur3".parse::<Partitioner>().is_err());
    }

    #[test]
    fn sticky_moves_to_short_queues_with_a_leader() {
        let mut dice = fastrand::Rng::with_seed(1);
        let mut counts = [0u32; 4];
        let mut current = 0;
        for _ in 0..4000 {
            // Partition 1 has a long queue, partition 3 no leader.
            current = next_sticky(4, current, dice.u64(..), |partition| match partition {
                1 => Some(9),
                3 => None,
                _ => Some(0),
            });
            counts[current as usize] += 1;
        }
        assert!(counts[1] * 5 < counts[0] * 4 && counts[1] * 5 < counts[2] * 4, "{counts:?}");
        assert!(counts[3] < 500, "{counts:?}");
        assert_eq!(next_sticky(1, 0, 7, |_| None), 0);
        assert!((0..100).all(|_| next_sticky(2, 0, dice.u64(..), |_| Some(1)) == 1));
        assert!((0..100).all(|_| any(3, dice.u64(..)) < 3));
    }
}
