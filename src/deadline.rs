//! When a wait ends: every public duration becomes one of these, once, and the deadline goes down from there.

use std::time::Duration;

use tokio::time::Instant;

/// Longer than any process lives, and short enough that adding a few of them overflows nothing.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// `now + wait`. A wait that means "for ever" ([`Duration::MAX`]) ends in 30 years instead of overflowing.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(FOR_EVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_has_an_end() {
        let now = Instant::now();
        for wait in [Duration::ZERO, Duration::from_secs(5), FOR_EVER, Duration::MAX] {
            let end = after(after(now, wait), wait);
            assert!(end >= now && end.checked_add(FOR_EVER).is_some());
        }
        assert_eq!(after(now, Duration::from_secs(5)), now + Duration::from_secs(5));
    }
}
