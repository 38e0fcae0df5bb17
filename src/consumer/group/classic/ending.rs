//! Machine: what a member of a classic group gives back or loses, when it begins anew, and its end.

use std::time::Duration;

use bytestring::ByteString;
use tokio::time::Instant;

use super::{Classic, State};
use crate::consumer::config::Assignor;
use crate::consumer::group::protocol::NO_GENERATION;
use crate::consumer::group::shared::Action;
use crate::types::TopicPartition;
use crate::{Error, ErrorCode};

/// The part of closing that is kept for the goodbye to the coordinator, however long the commits before it take; a fourth
/// of the whole where that is less.
const GOODBYE: Duration = Duration::from_secs(5);

impl Classic {
    /// Leaves the group after the application has given back what it holds, whatever becomes of its commits: a part of the
    /// time until `deadline` belongs to the goodbye. Returns when commits have to be done.
    pub(crate) fn handle_close(&mut self, now: Instant, deadline: Instant) -> Instant {
        let goodbye = (deadline.saturating_duration_since(now) / 4).min(GOODBYE);
        let commit_by = (deadline - goodbye).min(now + self.config.revoke_timeout).max(now);
        if matches!(self.state, State::Left | State::Failed | State::Leaving { .. }) {
            return commit_by;
        }
        // A revocation that is under way already covers a part; the rest follows with the same token rules.
        let partitions: Vec<TopicPartition> = self.owned.iter().cloned().collect();
        // The coordinator has counted in, or is about to, whom it has not told its id yet: only its answer tells whom to
        // count out.
        let nameless = self.state == State::Joining && self.member_id.is_empty();
        if nameless {
            self.state = State::Leaving { deadline, partitions };
        } else if partitions.is_empty() {
            self.leave();
        } else {
            self.ticket += 1;
            self.state = State::Leaving { deadline: commit_by, partitions: partitions.clone() };
            self.actions.push_back(Action::Revoke { ticket: self.ticket, partitions, deadline: commit_by });
        }
        commit_by
    }

    /// The application has given back what [`Action::Revoke`] named, and its offsets are committed.
    /// Returns what was given back.
    pub(crate) fn handle_revoked(&mut self, ticket: u64) -> Vec<TopicPartition> {
        if !self.is_revoking(ticket) {
            return Vec::new();
        }
        match std::mem::replace(&mut self.state, State::Preparing) {
            State::Revoking { partitions, .. } => {
                self.give_back(&partitions);
                partitions
            }
            State::Applying { revoked, assigned, .. } => {
                self.give_back(&revoked);
                self.apply(assigned);
                self.want_rejoin("partitions were given back");
                revoked
            }
            State::Leaving { partitions, .. } => {
                self.give_back(&partitions);
                self.leave();
                partitions
            }
            other => {
                self.state = other;
                Vec::new()
            }
        }
    }

    /// True if the revocation with this ticket is still open.
    pub(crate) fn is_revoking(&self, ticket: u64) -> bool {
        let open =
            matches!(self.state, State::Revoking { .. } | State::Applying { .. } | State::Leaving { .. });
        open && ticket == self.ticket
    }

    pub(super) fn give_back(&mut self, partitions: &[TopicPartition]) {
        for tp in partitions {
            self.owned.remove(tp);
        }
    }

    /// Joins again as soon as the state allows it.
    pub(super) fn want_rejoin(&mut self, reason: &'static str) {
        self.rejoin = Some(reason);
        if matches!(self.state, State::Stable | State::Syncing | State::Leading { .. }) {
            self.ticket += 1;
            self.retry_at = None;
            self.state = State::Preparing;
        }
    }

    /// Joins again after the back-off; membership and partitions are kept.
    pub(super) fn prepare(&mut self, now: Instant, dice: u64, reason: &'static str) {
        self.failures += 1;
        self.retry_at = Some(now + self.config.backoff.delay(self.failures, dice));
        self.rejoin = Some(reason);
        self.ticket += 1;
        self.state = State::Preparing;
    }

    /// Joins again; the first attempt is immediate, and a coordinator that keeps refusing is not hammered.
    pub(super) fn rejoin_soon(&mut self, now: Instant, dice: u64, reason: &'static str) {
        self.failures += 1;
        self.retry_at = (self.failures > 1).then(|| now + self.config.backoff.delay(self.failures, dice));
        self.rejoin = Some(reason);
        self.state = State::Preparing;
    }

    /// The coordinator no longer counts this member in: partitions may have other owners by now.
    pub(super) fn lose(&mut self, now: Instant, dice: u64, forget_member: bool, reason: &'static str) {
        let partitions: Vec<TopicPartition> = std::mem::take(&mut self.owned).into_iter().collect();
        if !partitions.is_empty() {
            self.actions.push_back(Action::Lose { partitions });
        }
        let leaving = matches!(self.state, State::Leaving { .. });
        self.forget_membership(forget_member);
        if leaving {
            return self.leave();
        }
        self.rejoin_soon(now, dice, reason);
    }

    pub(super) fn forget_membership(&mut self, forget_member: bool) {
        self.ticket += 1;
        self.generation = NO_GENERATION;
        self.snapshot = None;
        self.session_end = None;
        self.heartbeat_due = None;
        self.heartbeat_out = None;
        if forget_member {
            self.member_id = ByteString::new();
        }
    }

    pub(super) fn leave(&mut self) {
        if !self.member_id.is_empty() {
            self.actions.push_back(Action::Leave { member_id: self.member_id.clone() });
        }
        self.forget_membership(true);
        self.state = State::Left;
    }

    pub(super) fn fail(&mut self, code: ErrorCode, attempted: &str) {
        let hint = match code {
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL if self.config.assignors.contains(&Assignor::Range) => {
                Some("the other members do not offer `range`: offer cooperative-sticky alone, as they do")
            }
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL => Some(
                "the other members do not offer cooperative-sticky: offer `range` as they do, or move them to it",
            ),
            _ => None,
        };
        let failure = Error::from_code(code, format!("{attempted} group {} failed", self.config.group));
        let failure = failure.with_retriable(false);
        self.end(match hint {
            Some(hint) => failure.with_advice(hint),
            None => failure,
        });
    }

    pub(super) fn end(&mut self, failure: Error) {
        let partitions: Vec<TopicPartition> = std::mem::take(&mut self.owned).into_iter().collect();
        if !partitions.is_empty() {
            self.actions.push_back(Action::Lose { partitions });
        }
        self.forget_membership(true);
        self.state = State::Failed;
        // The consumer ends with its error: nothing of it lasts.
        self.troubled.clear();
        self.actions.extend([Action::Well, Action::Fail(failure)]);
    }
}
