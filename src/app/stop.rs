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

/// Shared by all who begin a stop, wait for it, or take part in it. A [part](Self::part) of an application stops with it, or
/// alone.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    whole: Option<Arc<Self>>,
    deadline: Arc<watch::Sender<Option<Instant>>>,
    /// It was ended before its time.
    cut_short: Arc<AtomicBool>,
    timeout: Duration,
}

impl Stop {
    /// `timeout` is the time that a stop may take.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { whole: None, deadline: Arc::default(), cut_short: Arc::default(), timeout }
    }

    /// The stop of one part, which the stop of the whole includes.
    pub(crate) fn part(&self) -> Self {
        Self { whole: Some(Arc::new(self.clone())), ..Self::new(self.timeout) }
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

    /// Begins the stop of the whole that this is a part of.
    pub(crate) fn begin_all(&self) {
        self.whole.as_deref().unwrap_or(self).begin();
    }

    /// Ends the stop: its deadline is now.
    pub(crate) fn end(&self) {
        self.cut_short.store(true, Ordering::Relaxed);
        self.deadline.send_replace(Some(Instant::now()));
    }

    /// True once it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.deadline().is_some()
    }

    /// True if somebody has [ended](Self::end) it.
    pub(crate) fn was_cut_short(&self) -> bool {
        self.cut_short.load(Ordering::Relaxed)
            || self.whole.as_ref().is_some_and(|whole| whole.was_cut_short())
    }

    /// Waits until it begins. Cancel-safe.
    pub(crate) async fn begun(&self) {
        let (mut own, mut whole) = self.changes();
        // The senders are ours: they cannot be gone.
        tokio::select! {
            biased; // Both last once they are there.
            _ = own.wait_for(Option::is_some) => {}
            _ = whole.wait_for(Option::is_some), if self.whole.is_some() => {}
        }
    }

    /// What is left of the time; all of it before the stop has begun.
    pub(crate) fn left(&self) -> Duration {
        self.deadline().map_or(self.timeout, |deadline| deadline.saturating_duration_since(Instant::now()))
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

    /// The earlier one of a part and its whole.
    fn deadline(&self) -> Option<Instant> {
        let whole = self.whole.as_ref().and_then(|whole| *whole.deadline.borrow());
        self.deadline.borrow().into_iter().chain(whole).min()
    }

    /// Of the part and of the whole; the same one twice where there is no whole.
    fn changes(&self) -> (watch::Receiver<Option<Instant>>, watch::Receiver<Option<Instant>>) {
        let whole = self.whole.as_ref().map_or(&self.deadline, |whole| &whole.deadline);
        (self.deadline.subscribe(), whole.subscribe())
    }

    async fn reaches(&self, when: impl Fn(Instant) -> Instant) {
        let (mut changes, mut of_whole) = self.changes();
        loop {
            changes.borrow_and_update();
            of_whole.borrow_and_update();
            let until = self.deadline().map(&when);
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
                _ = of_whole.changed(), if self.whole.is_some() => {}
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

    #[tokio::test(start_paused = true)]
    async fn a_part_stops_alone_or_with_the_whole_whichever_is_first() {
        let second = Duration::from_secs(1);
        let whole = Stop::new(20 * second);
        let (alone, with) = (whole.part(), whole.part());
        alone.begin();
        assert!(alone.has_begun() && !with.has_begun() && !whole.has_begun());
        tokio::time::sleep(5 * second).await;
        whole.begin();
        with.begun().await;
        assert_eq!((alone.left(), with.left()), (15 * second, 20 * second));
        whole.end();
        assert_eq!((alone.left(), with.left()), (Duration::ZERO, Duration::ZERO));
        alone.over().await;
        assert!(alone.was_cut_short());
    }
}
