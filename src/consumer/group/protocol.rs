//! The bytes that members of a classic consumer group exchange through their coordinator (protocol type `consumer`):
//! subscriptions, assignments and the assignor's user data. What other members write is untrusted and often old:
//! missing tails and null arrays are read as empty, newer versions as the highest known one.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::types::{TopicName, TopicPartition};

/// Version of the subscription that we write: owned partitions (v1), generation (v2), rack (v3).
const SUBSCRIPTION_VERSION: i16 = 3;
/// Version of the assignment that we write.
const ASSIGNMENT_VERSION: i16 = 3;
/// Generation of a member that has none.
pub(crate) const NO_GENERATION: i32 = -1;

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
        let mut out = BytesMut::new();
        out.put_i16(SUBSCRIPTION_VERSION);
        out.put_i32(topics.len() as i32);
        for topic in &topics {
            put_str(&mut out, topic);
        }
        put_nullable(&mut out, user_data);
        put_partitions(&mut out, &self.owned);
        out.put_i32(self.generation);
        match &self.rack {
            Some(rack) => put_str(&mut out, rack),
            None => out.put_i16(-1),
        }
        out.freeze()
    }

    /// Reads another member's subscription; `None` if not even its topics can be read.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        let version = i16(&mut bytes)?.max(0);
        let count = i32(&mut bytes)?;
        let mut topics = Vec::new();
        for _ in 0..count.max(0) {
            topics.push(TopicName::from(string(&mut bytes)??));
        }
        let mut subscription = Self { topics, owned: Vec::new(), generation: NO_GENERATION, rack: None };
        let mut user_data_generation = NO_GENERATION;
        if let Some(user_data) = nullable(&mut bytes) {
            user_data_generation = user_data.and_then(|mut data| i32(&mut data)).unwrap_or(NO_GENERATION);
            if version >= 1 {
                subscription.owned = partitions(&mut bytes).unwrap_or_default();
            }
            if version >= 2 {
                subscription.generation = i32(&mut bytes).unwrap_or(NO_GENERATION);
            }
            if version >= 3 {
                subscription.rack = string(&mut bytes).flatten().filter(|rack| !rack.is_empty());
            }
        }
        // Members older than subscription v2 carry the generation in the user data of cooperative-sticky alone.
        if subscription.generation < 0 {
            subscription.generation = user_data_generation.max(NO_GENERATION);
        }
        Some(subscription)
    }
}

/// User data of cooperative-sticky: the generation of the owned partitions.
pub(crate) fn cooperative_user_data(generation: i32) -> [u8; 4] {
    generation.to_be_bytes()
}

/// Bytes of one member's assignment.
pub(crate) fn encode_assignment(assigned: &[TopicPartition]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(ASSIGNMENT_VERSION);
    put_partitions(&mut out, assigned);
    out.put_i32(-1);
    out.freeze()
}

/// Reads an assignment; empty bytes are an empty assignment. `None` if the bytes are not one.
pub(crate) fn decode_assignment(mut bytes: Bytes) -> Option<Vec<TopicPartition>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let _version = i16(&mut bytes)?;
    let mut assigned = partitions(&mut bytes)?;
    assigned.sort();
    assigned.dedup();
    Some(assigned)
}

fn put_str(out: &mut BytesMut, text: &str) {
    out.put_i16(text.len() as i16);
    out.put_slice(text.as_bytes());
}

fn put_nullable(out: &mut BytesMut, data: Option<&[u8]>) {
    match data {
        Some(data) => {
            out.put_i32(data.len() as i32);
            out.put_slice(data);
        }
        None => out.put_i32(-1),
    }
}

fn put_partitions(out: &mut BytesMut, partitions: &[TopicPartition]) {
    let mut sorted: Vec<&TopicPartition> = partitions.iter().collect();
    sorted.sort();
    let groups: Vec<&[&TopicPartition]> = sorted.chunk_by(|a, b| a.topic == b.topic).collect();
    out.put_i32(groups.len() as i32);
    for group in groups {
        put_str(out, &group[0].topic);
        out.put_i32(group.len() as i32);
        for partition in group {
            out.put_i32(partition.partition.0);
        }
    }
}

fn i16(bytes: &mut Bytes) -> Option<i16> {
    (bytes.len() >= 2).then(|| bytes.get_i16())
}

fn i32(bytes: &mut Bytes) -> Option<i32> {
    (bytes.len() >= 4).then(|| bytes.get_i32())
}

/// Outer `None`: not readable. Inner `None`: null.
fn string(bytes: &mut Bytes) -> Option<Option<ByteString>> {
    let Ok(length) = usize::try_from(i16(bytes)?) else { return Some(None) };
    let raw = (bytes.len() >= length).then(|| bytes.split_to(length))?;
    Some(Some(ByteString::try_from(raw).ok()?))
}

fn nullable(bytes: &mut Bytes) -> Option<Option<Bytes>> {
    let Ok(length) = usize::try_from(i32(bytes)?) else { return Some(None) };
    Some(Some((bytes.len() >= length).then(|| bytes.split_to(length))?))
}

/// Negative partitions are dropped; a null array is empty.
fn partitions(bytes: &mut Bytes) -> Option<Vec<TopicPartition>> {
    let mut all = Vec::new();
    for _ in 0..i32(bytes)?.max(0) {
        let topic = TopicName::from(string(bytes)??);
        for _ in 0..i32(bytes)?.max(0) {
            let partition = i32(bytes)?;
            if partition >= 0 {
                all.push(TopicPartition::new(topic.to_byte_string(), partition));
            }
        }
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
    fn assignment_round_trip_and_empty() {
        let bytes = encode_assignment(&[tp("t", 2), tp("t", 0), tp("s", 1)]);
        assert_eq!(decode_assignment(bytes), Some(vec![tp("s", 1), tp("t", 0), tp("t", 2)]));
        assert_eq!(decode_assignment(Bytes::new()), Some(vec![]));
        assert_eq!(decode_assignment(Bytes::from_static(&[0, 0, 0, 0, 0, 1])), None);
    }
}
