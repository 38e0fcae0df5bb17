//! Assignors: which member of a classic group reads which partition. Pure functions, run by the member that leads the
//! group, over what all members wrote in their subscriptions.

mod range;
mod sticky;

use std::collections::BTreeMap;

use bytestring::ByteString;

use crate::types::{TopicName, TopicPartition};

pub(crate) use range::range;
pub(crate) use sticky::cooperative_sticky;

/// A member as the leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: ByteString,
    pub(crate) instance: Option<ByteString>,
    pub(crate) topics: Vec<TopicName>,
    pub(crate) owned: Vec<TopicPartition>,
    /// Generation of `owned`; -1 for none.
    pub(crate) generation: i32,
}

/// Partition counts of the topics that exist.
pub(crate) type Topics = BTreeMap<TopicName, i32>;

/// Member id to its partitions, sorted. Every member has an entry.
pub(crate) type Assignment = BTreeMap<ByteString, Vec<TopicPartition>>;

/// Java's order of members: static ones first, by instance id; the others by member id.
fn in_order(members: &[Member]) -> Vec<&Member> {
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_by(|a, b| match (&a.instance, &b.instance) {
        (Some(x), Some(y)) => x.cmp(y),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.id.cmp(&b.id),
    });
    sorted
}
