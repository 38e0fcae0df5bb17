//! `-L`: what the cluster consists of.

use std::fmt::Write;

use crate::ErrorCode;
use crate::admin::{ListedPartition, MetadataListing};

/// Appends the listing as text.
pub(super) fn text(listing: &MetadataListing, topic: Option<&str>, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = write(listing, topic, out);
}

fn write(listing: &MetadataListing, topic: Option<&str>, out: &mut String) -> std::fmt::Result {
    let (id, name) = originator(listing);
    writeln!(out, "Metadata for {} (from broker {id}: {name}):", topic.unwrap_or("all topics"))?;
    writeln!(out, " {} brokers:", listing.nodes.len())?;
    for node in &listing.nodes {
        let role = if controller(listing) == node.id.0 { " (controller)" } else { "" };
        writeln!(out, "  broker {} at {}:{}{role}", node.id, node.host, node.port)?;
    }
    writeln!(out, " {} topics:", listing.topics.len())?;
    for topic in &listing.topics {
        write!(out, "  topic \"{}\" with {} partitions:", topic.name, topic.partitions.len())?;
        if !topic.error.is_ok() {
            write!(out, " {}", error_text(topic.error))?;
        }
        if topic.error == ErrorCode::LEADER_NOT_AVAILABLE {
            write!(out, " (try again)")?;
        }
        writeln!(out)?;
        for partition in &topic.partitions {
            write_partition(partition, out)?;
        }
    }
    Ok(())
}

fn write_partition(partition: &ListedPartition, out: &mut String) -> std::fmt::Result {
    let leader = partition.leader.map_or(-1, |leader| leader.0);
    write!(out, "    partition {}, leader {leader}, replicas: ", partition.partition)?;
    let list =
        |ids: &[crate::types::NodeId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    write!(out, "{}, isrs: {}", list(&partition.replicas), list(&partition.in_sync))?;
    if !partition.error.is_ok() {
        write!(out, ", {}", error_text(partition.error))?;
    }
    writeln!(out)
}

/// Id and name of the broker that answered: a bootstrap address that no broker advertises stays without id.
pub(super) fn originator(listing: &MetadataListing) -> (i32, String) {
    match listing.from {
        Some(node) => (node.0, format!("{}/{node}", listing.from_address)),
        None => (-1, format!("{}/bootstrap", listing.from_address)),
    }
}

/// Id of the controller, -1 if there is none.
pub(super) fn controller(listing: &MetadataListing) -> i32 {
    listing.controller.map_or(-1, |node| node.0)
}

/// librdkafka's words for the errors that metadata and offset look-ups can carry.
pub(super) fn error_text(code: ErrorCode) -> String {
    let text = match code {
        ErrorCode::UNKNOWN_SERVER_ERROR => "Unknown broker error",
        ErrorCode::OFFSET_OUT_OF_RANGE => "Broker: Offset out of range",
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => "Broker: Unknown topic or partition",
        ErrorCode::LEADER_NOT_AVAILABLE => "Broker: Leader not available",
        ErrorCode::NOT_LEADER_OR_FOLLOWER => "Broker: Not leader for partition",
        ErrorCode::REQUEST_TIMED_OUT => "Broker: Request timed out",
        ErrorCode::BROKER_NOT_AVAILABLE => "Broker: Broker not available",
        ErrorCode::REPLICA_NOT_AVAILABLE => "Broker: Replica not available",
        ErrorCode::INVALID_TOPIC_EXCEPTION => "Broker: Invalid topic",
        ErrorCode::TOPIC_AUTHORIZATION_FAILED => "Broker: Topic authorization failed",
        ErrorCode::GROUP_AUTHORIZATION_FAILED => "Broker: Group authorization failed",
        ErrorCode::CLUSTER_AUTHORIZATION_FAILED => "Broker: Cluster authorization failed",
        ErrorCode::KAFKA_STORAGE_ERROR => "Broker: Disk error when trying to access log file on disk",
        ErrorCode::LISTENER_NOT_FOUND => "Broker: No matching listener",
        ErrorCode::FENCED_LEADER_EPOCH => "Broker: Leader epoch is older than broker epoch",
        ErrorCode::UNKNOWN_LEADER_EPOCH => "Broker: Leader epoch is newer than broker epoch",
        ErrorCode::UNKNOWN_TOPIC_ID => "Broker: Unknown topic id",
        other => return format!("Broker: {other}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_librdkafkas_words() {
        assert_eq!(error_text(ErrorCode(3)), "Broker: Unknown topic or partition");
        assert_eq!(error_text(ErrorCode(999)), "Broker: unknown error code 999");
    }
}
