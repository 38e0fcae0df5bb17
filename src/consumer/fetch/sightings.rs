//! What metadata says of topics and partitions, as positions take it.

use crate::ErrorCode;
use crate::cluster::Metadata;
use crate::consumer::positions::Sighting;
use crate::types::{TopicName, TopicPartition};

/// How many partitions `topic` has, none if it does not exist. `None` while that is not known.
pub(super) fn partition_count(metadata: &Metadata, topic: &TopicName) -> Option<usize> {
    match (metadata.topic(topic), metadata.errors.get(topic)) {
        (Some(known), _) => Some(known.partition_count()),
        (None, Some(&ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)) => Some(0),
        // Whoever may not see it does not know how many it has.
        (None, _) => None,
    }
}

pub(super) fn sighting(metadata: &Metadata, partition: &TopicPartition) -> Option<Sighting> {
    let topic = metadata.topic(&partition.topic)?;
    let info = topic.partition(partition.partition);
    Some(Sighting {
        topic_id: topic.id,
        count: topic.partition_count(),
        leader: info.and_then(|info| Some((info.leader?, info.leader_epoch.0))),
    })
}
