//! Machine: the protocol by which a membership is kept. What all of them have in common is here; what one alone knows are
//! its requests and answers, which the membership passes through.

use std::collections::BTreeSet;

use bytestring::ByteString;
use tokio::time::Instant;

use super::Answer;
use crate::consumer::group::assignor::Topics;
use crate::consumer::group::classic::Classic;
use crate::consumer::group::shared::{Action, CommitVerdict, Part};
use crate::types::{TopicName, TopicPartition};
use crate::{Error, ErrorCode};

/// The protocols.
#[derive(Debug)]
pub(crate) enum Protocol {
    /// Members join and one of them assigns.
    Classic(Classic),
}

impl Protocol {
    /// The application wants exactly these topics.
    pub(super) fn handle_subscribe(&mut self, topics: BTreeSet<TopicName>) {
        match self {
            Self::Classic(classic) => classic.handle_subscribe(topics),
        }
    }

    /// Leaves the group after the application has given back what it holds. Returns when commits have to be done.
    pub(super) fn handle_close(&mut self, now: Instant, deadline: Instant) -> Instant {
        match self {
            Self::Classic(classic) => classic.handle_close(now, deadline),
        }
    }

    /// The coordinator answered, or could not.
    pub(super) fn handle_answer(&mut self, now: Instant, dice: u64, answer: Answer) {
        match (self, answer) {
            (Self::Classic(classic), Answer::Classic(answer)) => classic.handle_answer(now, dice, answer),
        }
    }

    /// The topics whose partition counts matter to this member, if there are any.
    pub(super) fn watched_topics(&self) -> Option<&BTreeSet<TopicName>> {
        match self {
            Self::Classic(classic) => classic.watched_topics(),
        }
    }

    /// The cluster's metadata changed.
    pub(super) fn handle_metadata(&mut self, topics: &Topics) {
        match self {
            Self::Classic(classic) => classic.handle_metadata(topics),
        }
    }

    /// What [`Action::Revoke`] named is given back, and its offsets are committed. Returns what it was.
    pub(super) fn handle_revoked(&mut self, ticket: u64) -> Vec<TopicPartition> {
        match self {
            Self::Classic(classic) => classic.handle_revoked(ticket),
        }
    }

    /// True if the revocation with this ticket is still open.
    pub(super) fn is_revoking(&self, ticket: u64) -> bool {
        match self {
            Self::Classic(classic) => classic.is_revoking(ticket),
        }
    }

    /// Member id and generation, or epoch, under which offsets may be committed now.
    pub(super) fn commit_identity(&self) -> Option<(ByteString, i32)> {
        match self {
            Self::Classic(classic) => classic.commit_identity(),
        }
    }

    /// A commit sent under `generation` was answered with `code`.
    pub(super) fn handle_commit_code(
        &mut self,
        now: Instant,
        dice: u64,
        generation: i32,
        code: ErrorCode,
    ) -> CommitVerdict {
        match self {
            Self::Classic(classic) => classic.handle_commit_code(now, dice, generation, code),
        }
    }

    /// What the protocol does not do itself went wrong for all partitions, or (with `None`) well for some.
    pub(super) fn handle_part(&mut self, part: Part, failure: Option<&Error>) {
        match self {
            Self::Classic(classic) => classic.handle_part(part, failure),
        }
    }

    /// What is to be done.
    pub(super) fn poll_output(&mut self) -> Option<Action> {
        match self {
            Self::Classic(classic) => classic.poll_output(),
        }
    }

    /// Time has come to `now`. What is to be done comes first: nothing happens before all of that was taken.
    pub(super) fn handle_timeout(&mut self, now: Instant, dice: u64) {
        match self {
            Self::Classic(classic) => classic.handle_timeout(now, dice),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) may have something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self {
            Self::Classic(classic) => classic.next_deadline(),
        }
    }

    /// True while the coordinator may count this member in.
    pub(super) fn is_member(&self) -> bool {
        match self {
            Self::Classic(classic) => classic.is_member(),
        }
    }

    /// True while an assignment is in force and no rebalance is under way.
    pub(super) fn is_stable(&self) -> bool {
        match self {
            Self::Classic(classic) => classic.is_stable(),
        }
    }

    /// True once nothing will ever follow.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Classic(classic) => classic.is_over(),
        }
    }
}
