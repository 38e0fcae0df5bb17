//! What members of a classic group ask, what they are told, and what a group keeps of them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::ErrorCode;
use crate::wire::Str;

/// A request that is answered by an [`Output`], at once or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(super) u64);

/// The answer to a request with a ticket. There is one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Joined(Ticket, Joined),
    Synced(Ticket, Synced),
    /// Nobody here answers it any more: another node coordinates, or the member asked again.
    Dropped(Ticket),
}

impl Output {
    pub(crate) fn ticket(&self) -> Ticket {
        match self {
            Self::Joined(ticket, _) | Self::Synced(ticket, _) | Self::Dropped(ticket) => *ticket,
        }
    }
}

/// What a member asks when it joins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Join {
    pub(crate) member_id: Str,
    pub(crate) instance_id: Option<Str>,
    pub(crate) client_id: Str,
    pub(crate) client_host: Str,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) protocol_type: Str,
    pub(crate) protocols: Vec<(Str, Bytes)>,
    /// The request's version lets the broker ask for a second join with the id that it gives (4+).
    pub(crate) can_require_id: bool,
    /// The request's version knows `skip_assignment` (9+).
    pub(crate) can_skip_assignment: bool,
}

/// The answer to a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) error: ErrorCode,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<Str>,
    pub(crate) protocol: Option<Str>,
    pub(crate) leader: Str,
    pub(crate) skip_assignment: bool,
    pub(crate) member_id: Str,
    /// Filled for the leader alone: member id, instance id, metadata.
    pub(crate) members: Vec<(Str, Option<Str>, Bytes)>,
}

impl Joined {
    pub(crate) fn refused(error: ErrorCode, member_id: Str) -> Self {
        Self {
            error,
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: Str::new(),
            skip_assignment: false,
            member_id,
            members: Vec::new(),
        }
    }
}

/// The answer to a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) error: ErrorCode,
    pub(crate) protocol_type: Option<Str>,
    pub(crate) protocol: Option<Str>,
    pub(crate) assignment: Bytes,
}

impl Synced {
    pub(crate) fn refused(error: ErrorCode) -> Self {
        Self { error, protocol_type: None, protocol: None, assignment: Bytes::new() }
    }
}

/// Who speaks: member, instance and generation of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller<'a> {
    pub(crate) member_id: &'a str,
    pub(crate) instance_id: Option<&'a str>,
    pub(crate) generation: i32,
}

/// State of a group, with Kafka's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// A member of a group.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) instance_id: Option<Str>,
    pub(crate) client_id: Str,
    pub(crate) client_host: Str,
    pub(crate) protocols: Vec<(Str, Bytes)>,
    pub(crate) assignment: Bytes,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) join: Option<Ticket>,
    pub(super) sync: Option<Ticket>,
    /// When the session ends; does not run while a join or sync waits for others.
    pub(super) deadline: Option<Instant>,
}

impl Member {
    pub(super) fn waits(&self) -> bool {
        self.join.is_some() || self.sync.is_some()
    }

    pub(super) fn touch(&mut self, now: Instant) {
        self.deadline = now.checked_add(self.session_timeout);
    }

    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| *name == protocol)
            .map(|(_, data)| data.clone())
            .unwrap_or_default()
    }

    /// The member as the log keeps it: without what waits.
    pub(super) fn persisted(&self) -> Self {
        Self {
            instance_id: self.instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            protocols: self.protocols.clone(),
            assignment: self.assignment.clone(),
            session_timeout: self.session_timeout,
            rebalance_timeout: self.rebalance_timeout,
            join: None,
            sync: None,
            deadline: None,
        }
    }
}

/// What a coordinator that takes over reads from the log.
#[derive(Debug, Default)]
pub(super) struct Persisted {
    pub(super) generation: i32,
    pub(super) protocol: Option<Str>,
    pub(super) leader: Option<Str>,
    pub(super) members: BTreeMap<Str, Member>,
}
