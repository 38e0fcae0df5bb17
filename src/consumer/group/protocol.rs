//! The bytes that members of a classic consumer group exchange through their coordinator (protocol type `consumer`):
//! subscriptions, assignments and the assignor's user data. What other members write is untrusted and often old, and read
//! as leniently as by any client of Kafka: newer versions as the newest known one, whatever follows is left alone, missing
//! tails (clients that claim a version which they do not write) and null arrays are empty.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::types::{TopicName, TopicPartition};
use crate::wire::messages::consumer_protocol_assignment as assignment;
use crate::wire::messages::consumer_protocol_subscription as subscription;
use crate::wire::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
use crate::wire::{ARRAY_LEN_MAX, Array, Decode, Reader, encode_versioned};

/// Version of the subscription that we write: owned partitions (v1), generation (v2), rack (v3).
const SUBSCRIPTION_VERSION: i16 = 3;
/// Version of the assignment that we write.
const ASSIGNMENT_VERSION: i16 = 3;
/// Generation of a member that has none.
pub(crate) const NO_GENERATION: i32 = -1;
/// Most partitions that one member can own or be assigned.
const PARTITIONS_MAX: usize = ARRAY_LEN_MAX;

/// What a member tells the leader when it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) topics: Vec<TopicName>,
    pub(crate) owned: Vec<TopicPartition>,
    /// Generation in which `owned` was assigned; -1 for none.
    pub(crate) generation: i32,
    pub(crate) rack: Option<ByteString>,
}

impl Subscription {
    /// Bytes of the subscription; topics and owned partitions in order, so that equal subscriptions are equal bytes.
    pub(crate) fn encode(&self, user_data: Option<&[u8]>) -> Bytes {
        let mut topics = self.topics.clone();
        topics.sort();
        topics.dedup();
        let message = ConsumerProtocolSubscription {
            topics: topics.iter().map(TopicName::to_byte_string).collect(),
            user_data: user_data.map(Bytes::copy_from_slice),
            owned_partitions: by_topic(&self.owned, |topic, partitions| subscription::TopicPartition {
                topic,
                partitions,
            }),
            generation_id: self.generation,
            rack_id: self.rack.clone(),
        };
        // Cannot fail: names were checked, or have come over the wire.
        encode_versioned(&message, SUBSCRIPTION_VERSION).unwrap_or_default()
    }

    /// Reads another member's subscription; `None` if not even its topics can be read.
    pub(crate) fn decode(bytes: Bytes) -> Option<Self> {
        let read: ConsumerProtocolSubscription = read_leniently(bytes)?;
        let owned = read.owned_partitions.iter().map(|owned| (&owned.topic, &owned.partitions));
        let mut generation = read.generation_id;
        // Members older than subscription v2 carry the generation in the user data of their assignor alone.
        if generation < 0 {
            generation = read.user_data.and_then(user_data_generation).unwrap_or(NO_GENERATION);
        }
        Some(Self {
            topics: read.topics.into_iter().map(TopicName::from).collect(),
            // Nobody has to give back what nobody can have.
            owned: flat(owned).unwrap_or_default(),
            generation: generation.max(NO_GENERATION),
            rack: read.rack_id.filter(|rack| !rack.is_empty()),
        })
    }
}

/// User data of cooperative-sticky as Java writes it: the generation of the owned partitions.
pub(crate) fn cooperative_user_data(generation: i32) -> [u8; 4] {
    generation.to_be_bytes()
}

/// The generation in the user data of a sticky assignor: alone (Java's cooperative-sticky), or behind the partitions that
/// the member had (Java's sticky; librdkafka, franz-go and sarama for all of theirs), where the oldest have none.
fn user_data_generation(data: Bytes) -> Option<i32> {
    let mut r = Reader::new(data);
    if r.remaining() == 4 {
        // Generations begin at 1; a zero is franz-go's list of no partitions.
        return r.i32().ok().filter(|generation| *generation > 0);
    }
    for _ in 0..r.array_len(false, 6).ok()?? {
        r.str(false).ok()?;
        r.array::<i32>(false).ok()?;
    }
    r.i32().ok()
}

/// Bytes of one member's assignment.
pub(crate) fn encode_assignment(assigned: &[TopicPartition]) -> Bytes {
    let assigned_partitions =
        by_topic(assigned, |topic, partitions| assignment::TopicPartition { topic, partitions });
    let message = ConsumerProtocolAssignment { assigned_partitions, user_data: None };
    // Cannot fail: names were checked, or have come over the wire.
    encode_versioned(&message, ASSIGNMENT_VERSION).unwrap_or_default()
}

/// Reads an assignment; empty bytes are an empty assignment. `None` if the bytes are not one.
pub(crate) fn decode_assignment(bytes: Bytes) -> Option<Vec<TopicPartition>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let read: ConsumerProtocolAssignment = read_leniently(bytes)?;
    // Copied: an assignment outlives its frame by far.
    let topics: Vec<ByteString> =
        read.assigned_partitions.iter().map(|assigned| ByteString::from(&*assigned.topic)).collect();
    let partitions = read.assigned_partitions.iter().map(|assigned| &assigned.partitions);
    let mut assigned = flat(topics.iter().zip(partitions))?;
    assigned.sort();
    assigned.dedup();
    Some(assigned)
}

/// Reads a message with its version in front, in the newest version in which it is readable; at last as one whose first
/// array is empty where it is null, and whose tail is null.
fn read_leniently<T: Decode>(bytes: Bytes) -> Option<T> {
    let mut r = Reader::new(bytes.clone());
    let claimed = r.i16().ok()?.clamp(0, T::VERSIONS.max);
    let rest = bytes.slice(2..);
    let read = |bytes: &Bytes, version| T::decode(&mut Reader::new(bytes.clone()), version).ok();
    if let Some(message) = (0..=claimed).rev().find_map(|version| read(&rest, version)) {
        return Some(message);
    }
    let first = i32::from_be_bytes(*rest.first_chunk()?).max(0);
    let mut mended = BytesMut::with_capacity(rest.len() + 4);
    mended.put_i32(first);
    mended.put_slice(&rest[4..]);
    mended.put_i32(-1);
    let mended = mended.freeze();
    (0..=claimed).rev().find_map(|version| read(&mended, version))
}

/// Partitions in order, by topic.
fn by_topic<T>(partitions: &[TopicPartition], make: impl Fn(ByteString, Array<i32>) -> T) -> Vec<T> {
    let mut sorted: Vec<&TopicPartition> = partitions.iter().collect();
    sorted.sort();
    let topics = sorted.chunk_by(|a, b| a.topic == b.topic);
    topics
        .map(|chunk| make(chunk[0].topic.to_byte_string(), chunk.iter().map(|tp| tp.partition.0).collect()))
        .collect()
}

/// All partitions but negative ones; `None` if they are more than there can be.
fn flat<'a>(topics: impl Iterator<Item = (&'a ByteString, &'a Array<i32>)>) -> Option<Vec<TopicPartition>> {
    let mut all = Vec::new();
    for (topic, partitions) in topics {
        if all.len() + partitions.len() > PARTITIONS_MAX {
            return None;
        }
        let partitions = partitions.iter().filter(|partition| *partition >= 0);
        all.extend(partitions.map(|partition| TopicPartition::new(topic.clone(), partition)));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tp(topic: &'static str, partition: i32) -> TopicPartition {
        TopicPartition::new(topic, partition)
    }

    #[test]
    fn subscription_round_trip_is_sorted() {
        let subscription = Subscription {
            topics: vec!["b".into(), "a".into()],
            owned: vec![tp("b", 1), tp("a", 0), tp("b", 0)],
            generation: 7,
            rack: None,
        };
        let bytes = subscription.encode(Some(&cooperative_user_data(7)));
        assert_eq!(&bytes[..12], &[0, 3, 0, 0, 0, 2, 0, 1, b'a', 0, 1, b'b']);
        let read = Subscription::decode(bytes).unwrap();
        assert_eq!(read.topics, vec![TopicName::from("a"), TopicName::from("b")]);
        assert_eq!(read.owned, vec![tp("a", 0), tp("b", 0), tp("b", 1)]);
        assert_eq!(read.generation, 7);
    }

    #[test]
    fn old_and_damaged_members_are_read_as_far_as_possible() {
        // v0, no user data.
        let v0 = Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(Subscription::decode(v0).unwrap().topics, vec![TopicName::from("a")]);
        // v1 whose owned partitions are missing, generation in the user data.
        let v1 = Bytes::from_static(&[0, 1, 0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 4, 0, 0, 0, 9]);
        assert_eq!(Subscription::decode(v1).unwrap().generation, 9);
        // A count that the bytes cannot hold.
        assert_eq!(Subscription::decode(Bytes::from_static(&[0, 1, 0x7f, 0xff, 0xff, 0xff])), None);
        assert_eq!(Subscription::decode(Bytes::new()), None);
        // Any truncation and any flipped byte neither panics nor hangs.
        let whole =
            Subscription { topics: vec!["abc".into()], owned: vec![tp("abc", 3)], generation: 1, rack: None }
                .encode(Some(&[1, 2]));
        for cut in 0..whole.len() {
            let _ = Subscription::decode(whole.slice(..cut));
            let mut flipped = whole.to_vec();
            flipped[cut] ^= 0xff;
            let _ = Subscription::decode(flipped.into());
        }
    }

    #[test]
    fn what_other_clients_write_is_read_as_other_clients_read_it() {
        let read = |bytes: &[u8]| Subscription::decode(Bytes::copy_from_slice(bytes));
        let whole = Subscription {
            topics: vec!["a".into()],
            owned: vec![tp("a", 1)],
            generation: 5,
            rack: Some("r".into()),
        };
        // A version of the future, with something new behind.
        let mut newer = whole.encode(None).to_vec();
        newer[1] = 9;
        newer.extend(*b"what comes after KIP-9999");
        assert_eq!(read(&newer), Some(whole.clone()));
        // One below zero, as whoever counts it wrongly writes.
        let v0 = [0xff, 0xff, 0, 0, 0, 1, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff];
        assert_eq!(read(&v0).unwrap().topics, whole.topics);
        // Each tail that is missing behind a version that has it, the user data at last.
        let bytes = whole.encode(None);
        let rack = bytes.len() - 3;
        for (cut, topics, owned, generation) in
            [(rack, 1, 1, 5), (rack - 4, 1, 1, -1), (rack - 4 - 15, 1, 0, -1), (9, 1, 0, -1), (8, 0, 0, -1)]
        {
            let read = read(&bytes[..cut]).unwrap_or_default();
            let found = (read.topics.len(), read.owned.len(), read.generation.max(-1));
            assert_eq!(found, (topics, owned, if topics == 0 { 0 } else { generation }), "{cut}");
        }
        // No topics at all, as null; an assignment likewise.
        let null = [0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(read(&null).unwrap().topics.is_empty());
        assert_eq!(decode_assignment(Bytes::copy_from_slice(&null)), Some(vec![]));
        assert_eq!(decode_assignment(Bytes::from_static(&[0, 0, 0, 0, 0, 0])), Some(vec![]));
    }

    #[test]
    fn the_generation_is_found_in_the_user_data_of_each_client() {
        let of = |data: &[u8]| {
            let mut v1 = vec![0, 1, 0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, data.len() as u8];
            v1.extend(data);
            v1.extend([0; 4]);
            Subscription::decode(v1.into()).unwrap().generation
        };
        // Java's cooperative-sticky.
        assert_eq!(of(&cooperative_user_data(9)), 9);
        // Two topics with partitions: librdkafka, franz-go and sarama. No generation in those of before.
        let had = [0, 0, 0, 2, 0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 3, 0, 1, b'b', 0, 0, 0, 0];
        assert_eq!(of(&[&had[..], &[0, 0, 0, 6]].concat()), 6);
        assert_eq!(of(&had), NO_GENERATION);
        // What is nobody's.
        for data in [&b""[..], b"abc", b"a list of racks", &[0x7f; 8], &[0xff; 8]] {
            assert_eq!(of(data), NO_GENERATION, "{data:?}");
        }
        // The subscription's own goes before it.
        let newer = Subscription { topics: vec!["a".into()], generation: 4, ..Subscription::default() };
        assert_eq!(Subscription::decode(newer.encode(Some(&had))).unwrap().generation, 4);
    }

    /// Recorded by `protocol-tests/golden`.
    #[test]
    fn what_other_clients_wrote_is_read() {
        const COOPERATIVE: &str = "interop-group-cooperative-sticky-10f60418";
        let name = COOPERATIVE.as_bytes();
        let had =
            [&[0, 0, 0, 1, 0, 41][..], name, &[0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]].concat();
        // librdkafka: user data with partitions and generation 1, an empty rack.
        let one = [0, 0, 0, 1];
        let of_librdkafka =
            [&[0, 3, 0, 0, 0, 1, 0, 41][..], name, &[0, 0, 0, 0x43], &had[..], &one, &had, &one, &[0, 0]];
        let bytes = of_librdkafka.concat();
        let owned: Vec<_> = (0..3).map(|partition| tp(COOPERATIVE, partition)).collect();
        let topics = vec![TopicName::from(COOPERATIVE)];
        let whole = Subscription { topics, owned: owned.clone(), generation: 1, rack: None };
        assert_eq!(Subscription::decode(bytes.clone().into()), Some(whole));
        let mut older = bytes;
        older[1] = 1;
        assert_eq!(Subscription::decode(older.into()).unwrap().generation, 1);
        // Its leader writes what it wants to remember behind an assignment.
        let assignment = [&[0, 0][..], &had[..], &[0, 0, 0, 0x43], &had, &[0, 0, 0, 1]].concat();
        assert_eq!(decode_assignment(assignment.into()), Some(owned));
        // franz-go: user data that is an empty list. Java: one with a generation of -1, and a rack.
        let begins = [0, 3, 0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 4];
        let read = |rest: &[u8]| Subscription::decode([&begins[..], rest].concat().into()).unwrap();
        let none = [0xff; 4];
        let of_franz_go = read(&[&[0; 4][..], &[0; 4], &none, &[0xff, 0xff]].concat());
        assert_eq!((of_franz_go.generation, of_franz_go.rack), (NO_GENERATION, None));
        let of_java = read(&[&none[..], &[0; 4], &none, &[0, 4], b"here"].concat());
        assert_eq!((of_java.generation, of_java.rack.as_deref()), (NO_GENERATION, Some("here")));
    }

    #[test]
    fn nobody_owns_more_than_there_can_be() {
        let count = 600_000i32;
        let mut bytes = BytesMut::new();
        bytes.put_slice(&[0, 1, 0, 0, 0, 1, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 2]);
        for topic in [b'a', b'b'] {
            bytes.put_slice(&[0, 1, topic]);
            bytes.put_i32(count);
            bytes.put_bytes(0, count as usize * 4);
        }
        let read = Subscription::decode(bytes.freeze()).unwrap();
        assert_eq!((read.topics.len(), read.owned.len()), (1, 0));
    }

    #[test]
    fn assignment_round_trip_and_empty() {
        let bytes = encode_assignment(&[tp("t", 2), tp("t", 0), tp("s", 1)]);
        assert_eq!(decode_assignment(bytes), Some(vec![tp("s", 1), tp("t", 0), tp("t", 2)]));
        assert_eq!(decode_assignment(Bytes::new()), Some(vec![]));
        assert_eq!(decode_assignment(Bytes::from_static(&[0, 0, 0, 0, 0, 1])), None);
    }
}
