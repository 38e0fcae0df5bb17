//! Offsets of a consumer group with the place of the member that commits them, for a transaction (KIP-447).

use std::collections::BTreeMap;

use bytestring::ByteString;

use crate::types::TopicPartition;

/// Offsets that a member of a consumer group is done up to, to be committed with a
/// [transaction](crate::producer::Transaction::send_offsets). From
/// [`GroupConsumer::offsets`](crate::consumer::GroupConsumer::offsets): it knows the group, the member and its generation, by
/// which the coordinator refuses whoever has lost the partitions meanwhile.
#[derive(Clone, Debug)]
#[must_use = "offsets do nothing until a transaction sends them"]
pub struct GroupOffsets {
    pub(crate) group: ByteString,
    pub(crate) member_id: ByteString,
    /// Of the member's place: the generation, or with KIP-848 its epoch.
    pub(crate) generation: i32,
    pub(crate) instance_id: Option<ByteString>,
    pub(crate) offsets: BTreeMap<TopicPartition, GroupOffset>,
}

/// The offset of one partition.
#[derive(Clone, Debug)]
pub(crate) struct GroupOffset {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: Option<ByteString>,
}
