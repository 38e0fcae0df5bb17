//! What the machines of a membership say to each other, whatever its protocol.

use std::collections::BTreeSet;

use bytestring::ByteString;
use tokio::time::Instant;

use super::assignor::Topics;
use super::classic::Request;
use crate::cluster::{ConditionKind, Metadata};
use crate::types::{TopicName, TopicPartition};
use crate::{Error, ErrorKind};

/// What a protocol wants.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Ask this, and hand in the answer.
    Ask(Request),
    /// Leave the group.
    Leave { member_id: ByteString },
    /// Let the application finish with these partitions until `deadline`, commit, then stop them; answered by
    /// `handle_revoked`.
    Revoke { ticket: u64, partitions: Vec<TopicPartition>, deadline: Instant },
    /// These partitions are gone already; nothing may be committed for them.
    Lose { partitions: Vec<TopicPartition> },
    /// Start reading these partitions.
    Assign { added: Vec<TopicPartition>, generation: i32 },
    /// The coordinator is not where it was.
    ForgetCoordinator,
    /// Something keeps going wrong with the group, for this reason.
    Trouble { kind: ConditionKind, error: Error },
    /// Nothing does any more.
    Well,
    /// The membership ended; nothing follows.
    Fail(Error),
}

/// What has to go well for the group to be well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Joining and synchronising: well once both have succeeded.
    Joining,
    Heartbeat,
    /// Committing offsets, as far as that is not the fault of single partitions.
    Commit,
    /// Finding committed offsets, likewise.
    Committed,
}

/// What a failed commit means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitVerdict {
    /// Send again after the back-off.
    Retry,
    /// Send again once the group is stable.
    AfterRebalance,
    /// Give up; the membership under which it was sent has ended.
    Lost,
    /// Give up; the code says why.
    Refused,
}

/// True if trying again helps nothing: the client, not the group, cannot go on.
pub(crate) fn is_final(error: &Error) -> bool {
    let kinds = [
        ErrorKind::Authentication,
        ErrorKind::Authorization,
        ErrorKind::UnsupportedVersion,
        ErrorKind::State,
    ];
    !error.is_retriable() && kinds.contains(&error.kind())
}

/// Partition counts of those `topics` that exist.
pub(crate) fn counts(metadata: &Metadata, topics: &BTreeSet<TopicName>) -> Topics {
    topics
        .iter()
        .filter_map(|topic| {
            let count = i32::try_from(metadata.topic(topic)?.partition_count()).ok()?;
            (count > 0).then(|| (topic.clone(), count))
        })
        .collect()
}
