//! The stop of an application: one deadline that everything a stop does shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::deadline;
use crate::runtime::watch;

/// What a stop keeps back of its time, at most: for last marks, leaving the groups and the producer.
const RESERVE: Duration = Duration::from_secs(2);
/// How long after the deadline those who end at it themselves may take to say what they did not do.
const MOMENT: Duration = Duration::from_millis(100);

/// Shared by all who begin a stop, wait for it, or take part in it.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    deadline: Arc<watch::Sender<Option<Instant>>>,
    /// It was ended before its time.
    cut_short: Arc<AtomicBool>,
    timeout: Duration,
}

impl Stop {
    /// `timeout` is the time that a stop may take.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { deadline: Arc::default(), cut_short: Arc::default(), timeout }
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
        self.cut_short.store(true, Ordering::Relaxed);
        self.deadline.send_replace(Some(Instant::now()));
    }

    /// True once it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.deadline.borrow().is_some()
    }

    /// True if somebody has [ended](Self::end) it.
    pub(crate) fn was_cut_short(&self) -> bool {
        self.cut_short.load(Ordering::Relaxed)
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
        let reserve = RESERVE.min(self.timeout / 5);
        self.reaches(|deadline| deadline.checked_sub(reserve).unwrap_or(deadline)).await;
    }

    /// Waits until the deadline has passed, and a moment for last words. Cancel-safe.
    pub(crate) async fn over(&self) {
        self.reaches(|deadline| deadline + MOMENT).await;
    }

    async fn reaches(&self, when: impl Fn(Instant) -> Instant) {
        let mut changes = self.deadline.subscribe();
        loop {
            let until = changes.borrow_and_update().map(&when);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn handlers_get_all_but_the_reserve_and_a_second_word_ends_it() {
        for (timeout, handlers) in [(0, 0), (5_000, 4_000), (25_000, 23_000)] {
            let stop = Stop::new(Duration::from_millis(timeout));
            let begun = Instant::now();
            assert!(!stop.has_begun());
            stop.begin();
            stop.begun().await;
            stop.handlers_over().await;
            assert_eq!(begun.elapsed(), Duration::from_millis(handlers));
            // Only the first word begins a stop.
            stop.begin();
            assert_eq!(stop.left(), Duration::from_millis(timeout - handlers));
            stop.end();
            assert_eq!(stop.left(), Duration::ZERO);
            stop.over().await;
            assert_eq!(begun.elapsed(), Duration::from_millis(handlers) + MOMENT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_without_limit_ends_when_it_is_told_to() {
        let stop = Stop::new(Duration::MAX);
        stop.begin();
        let ended = stop.clone();
        let (_, ()) = tokio::join!(stop.over(), async {
            tokio::time::sleep(Duration::from_secs(1 << 30)).await;
            ended.end();
        });
    }
}
