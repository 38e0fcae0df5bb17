//! The stop of an application: one deadline that everything a stop does shares.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::deadline;
use crate::runtime::watch;

/// What a stop keeps back of its time, at most: for last marks, leaving the groups and the producer.
const RESERVE: Duration = Duration::from_secs(2);

/// Shared by all who begin a stop, wait for it, or take part in it.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    deadline: Arc<watch::Sender<Option<Instant>>>,
    timeout: Duration,
}

impl Stop {
    /// `timeout` is the time that a stop may take.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { deadline: Arc::default(), timeout }
    }

    /// Begins the stop, unless it has begun.
    pub(crate) fn begin(&self) {
        let deadline = deadline::after(Instant::now(), self.timeout);
        self.deadline.send_if_modified(|known| {
            let new = known.is_none();
            known.get_or_insert(deadline);
            new
        });
    }

    /// Ends the stop: its deadline is now.
    pub(crate) fn end(&self) {
        self.deadline.send_replace(Some(Instant::now()));
    }

    /// True once it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.deadline.borrow().is_some()
    }

    /// Waits until it begins. Cancel-safe.
    pub(crate) async fn begun(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.deadline.subscribe().wait_for(Option::is_some).await;
    }

    /// What is left of the time; all of it before the stop has begun.
    pub(crate) fn left(&self) -> Duration {
        let deadline = *self.deadline.borrow();
        deadline.map_or(self.timeout, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits until the time of handlers is over. Cancel-safe.
    pub(crate) async fn handlers_over(&self) {
        self.reaches(RESERVE.min(self.timeout / 5)).await;
    }

    /// Waits for the deadline. Cancel-safe.
    pub(crate) async fn over(&self) {
        self.reaches(Duration::ZERO).await;
    }

    /// Waits until no more than `left` is left.
    async fn reaches(&self, left: Duration) {
        let mut changes = self.deadline.subscribe();
        loop {
            let until = changes.borrow_and_update().map(|end| end.checked_sub(left).unwrap_or(end));
            let wait = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // The deadline may only come nearer: whichever is there first is right.
                () = wait => return,
                _ = changes.changed() => {}
            }
        }
    }
}
