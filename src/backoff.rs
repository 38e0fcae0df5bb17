//! Exponential back-off with jitter, without a clock: the caller says which attempt it is and supplies the dice.

use std::time::Duration;

/// Delays that double from `first` to `max`, each spread by `jitter` (0.2 = ±20 %).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
    pub(crate) jitter: f64,
}

impl Backoff {
    /// Delay before attempt `failures + 1`; `dice` is any random number.
    pub(crate) fn delay(&self, failures: u32, dice: u64) -> Duration {
        let factor = 2f64.powi(failures.saturating_sub(1).min(30) as i32);
        let base = (self.first.as_secs_f64() * factor).min(self.max.as_secs_f64());
        // 53 bits of the dice give a number in [-1, 1).
        let spread = (dice >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
        // More than a duration can say is for ever.
        Duration::try_from_secs_f64(base * (1.0 + self.jitter * spread)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_within_the_jitter() {
        let backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(5), jitter: 0.2 };
        for (failures, expected) in
            [(0, 50.0), (1, 50.0), (2, 100.0), (4, 400.0), (8, 5000.0), (u32::MAX, 5000.0)]
        {
            for dice in [0, u64::MAX / 2, u64::MAX] {
                let millis = backoff.delay(failures, dice).as_secs_f64() * 1000.0;
                assert!((expected * 0.8..=expected * 1.2).contains(&millis), "{failures} {dice}: {millis}");
            }
        }
    }

    #[test]
    fn a_pause_may_last_for_ever() {
        let backoff = Backoff { first: Duration::MAX, max: Duration::MAX, jitter: 1.0 };
        assert_eq!(backoff.delay(5, u64::MAX), Duration::MAX);
        assert_eq!(Backoff { first: Duration::ZERO, ..backoff }.delay(5, 7), Duration::ZERO);
    }
}
