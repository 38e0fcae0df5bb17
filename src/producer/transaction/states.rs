//! What the machine of transactions is told, asks and wants done, and what it keeps of the open one.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::TransactionError;
use crate::backoff::Backoff;
use crate::cluster::GroupOffsets;
use crate::producer::sender::Era;
use crate::{Error, ErrorCode};

/// Settings of the machine.
#[derive(Clone, Debug)]
pub(in crate::producer) struct TransactionConfig {
    pub(in crate::producer) backoff: Backoff,
    /// How long what the coordinator is asked is tried (`max.block.ms`).
    pub(in crate::producer) patience: Duration,
    /// After which the coordinator aborts a transaction (`transaction.timeout.ms`).
    pub(in crate::producer) timeout: Duration,
}

/// How transactions are spoken of with the cluster. Changes between two transactions alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::producer) enum Protocol {
    /// Partitions and groups are added before they are written to; the epoch stays.
    V1,
    /// Writing adds, and each end gives another epoch, so that nothing late reaches the next transaction (KIP-890).
    V2,
}

/// What the coordinator is asked.
#[derive(Clone, Debug)]
pub(in crate::producer) enum Question {
    /// Which protocol the cluster speaks now.
    Protocol,
    /// For an id and an epoch: the next epoch after `renew`, or, for the first time, whatever comes after all others.
    ProducerId {
        renew: Option<Era>,
    },
    AddPartitions {
        era: Era,
        partitions: Vec<usize>,
    },
    AddOffsets {
        era: Era,
        offsets: Arc<GroupOffsets>,
    },
    /// Goes to the coordinator of the group.
    Offsets {
        era: Era,
        protocol: Protocol,
        offsets: Arc<GroupOffsets>,
    },
    End {
        era: Era,
        protocol: Protocol,
        commit: bool,
    },
}

/// What it answers.
#[derive(Clone, Debug)]
pub(in crate::producer) enum Answer {
    Protocol(Protocol),
    ProducerId(Era),
    /// Partition by partition.
    Partitions(Vec<(usize, ErrorCode)>),
    Done,
    /// Ended; the era of the next transaction, where that is another one.
    Ended(Option<Era>),
}

/// Why there is no answer that says what was asked for.
#[derive(Clone, Debug)]
pub(in crate::producer) struct Failure {
    pub(in crate::producer) error: Error,
    /// Nothing of the question reached the wire.
    pub(in crate::producer) unsent: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(in crate::producer) enum Output {
    Ask(Question),
    /// A transaction is open: records may be taken and, with [`Protocol::V2`], sent.
    Opened {
        ticket: u64,
        number: u64,
        scope: bool,
        era: Era,
        protocol: Protocol,
    },
    /// These partitions are part of it and may be written to.
    Admitted(Vec<usize>),
    /// No more records are taken, and those that were are sent.
    Flush,
    /// No more records are taken or sent. Those that are not on their way fail, for this reason.
    Drop(Error),
    /// Nothing is open.
    Closed,
    /// Whoever holds `ticket` is told.
    Tell {
        ticket: u64,
        result: Result<(), TransactionError>,
    },
    /// Nothing will ever be open again.
    Died(TransactionError),
}

#[derive(Debug)]
pub(super) struct Begin {
    pub(super) ticket: u64,
    pub(super) deadline: Instant,
    pub(super) scope: bool,
}

/// Offsets on their way into a transaction.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ticket: u64,
    pub(super) offsets: Arc<GroupOffsets>,
    /// Their group is part of it.
    pub(super) added: bool,
    pub(super) deadline: Instant,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) number: u64,
    pub(super) scope: bool,
    pub(super) since: Instant,
    pub(super) era: Era,
    pub(super) protocol: Protocol,
    /// The coordinator may know of it.
    pub(super) known: bool,
    /// Partitions that are to be added.
    pub(super) wanted: BTreeSet<usize>,
    pub(super) jobs: VecDeque<Job>,
    /// Why it cannot be committed.
    pub(super) fault: Option<Error>,
    /// The coordinator knows nothing of it any more.
    pub(super) forgotten: bool,
}

#[derive(Debug)]
pub(super) struct Ending {
    /// What the coordinator is to do.
    pub(super) commit: bool,
    pub(super) waiters: Vec<u64>,
    /// Why it is aborted though it was to be committed.
    pub(super) refused: Option<TransactionError>,
    /// Until when the coordinator is asked, once nothing of it is on its way any more.
    pub(super) deadline: Option<Instant>,
    /// The coordinator may have done it.
    pub(super) unsure: bool,
}

#[derive(Debug)]
pub(super) enum State {
    Resting,
    Open(Open),
    Ending(Open, Ending),
    Dead(TransactionError),
}
