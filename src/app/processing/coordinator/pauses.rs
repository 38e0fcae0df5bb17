//! Machine: what keeps a partition from going on.

use tokio::time::Instant;

use crate::app::snapshot::PauseCause;

/// Reasons to wait; the latest deadline wins.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    pub(super) user: Option<Instant>,
    pub(super) retry: Option<Instant>,
    pub(super) filter: Option<Instant>,
    pub(super) command: Option<Instant>,
    pub(super) quiet: Option<Instant>,
}

impl Pauses {
    pub(super) fn longest(&self, now: Instant) -> Option<(PauseCause, Instant)> {
        let causes = [
            (PauseCause::Policy, self.filter),
            (PauseCause::Retry, self.retry),
            (PauseCause::Handler, self.user),
            (PauseCause::Command, self.command),
            (PauseCause::Quiet, self.quiet),
        ];
        let lasting = causes.into_iter().filter_map(|(cause, until)| Some((cause, until?)));
        lasting.filter(|(_, until)| *until > now).max_by_key(|(_, until)| *until)
    }

    /// What belongs to a position ends with it.
    pub(super) fn leave_position(&mut self) {
        (self.retry, self.filter) = (None, None);
    }
}
