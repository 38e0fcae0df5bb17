//! When an open batch leaves: the adaptive linger, as a function of what a broker has to do at the moment.
//!
//! A request costs a broker and us tens of microseconds whatever is in it. Where few records come, waiting for more is
//! lost time; where many come, sending early is lost work. A user who sets a linger knows better, and gets it: then a batch
//! waits for that time unless it is full, or somebody wants it gone.

use std::time::Duration;

use tokio::time::Instant;

use crate::deadline;

/// Up to so many records per round trip, each leaves at once.
pub(super) const QUIET_RECORDS: usize = 8;
/// A request waits for so many bytes where many records come. A smaller one costs more in waking threads than in all the
/// rest: 64 KiB were measured at 1.3 times the CPU per record.
pub(super) const REQUEST_BYTES: usize = 512 * 1024;
/// Records that wait for longer get the exact time.
const GATHER_MAX: Duration = Duration::from_millis(5);
/// Longest wait at higher rates.
pub(super) const BUSY_LINGER: Duration = Duration::from_millis(1);

/// What one broker has to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Requests on the way.
    pub(super) in_flight: usize,
    /// Most requests that may be.
    pub(super) in_flight_max: usize,
    /// Records in the request that was answered last.
    pub(super) recent_records: usize,
    /// Bytes in open batches.
    pub(super) waiting_bytes: usize,
    /// When the oldest open batch was opened.
    pub(super) oldest: Instant,
    /// Someone waits for these records, or for their memory.
    pub(super) hurry: bool,
}

/// What to do with the open batches of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Close and send them.
    Send,
    /// Wait until then, or for more bytes.
    Wait(Instant),
    /// Wait for an answer.
    NoRoom,
}

/// True if each record leaves at once.
fn is_quiet(in_flight: usize, recent_records: usize) -> bool {
    in_flight == 0 && recent_records <= QUIET_RECORDS
}

/// True if batches wait for others to come, and for so short a time that a record may be as old as that.
pub(super) fn gathers(in_flight: usize, recent_records: usize, wished: Option<Duration>) -> bool {
    match wished {
        Some(linger) => !linger.is_zero() && linger <= GATHER_MAX,
        None => !is_quiet(in_flight, recent_records),
    }
}

/// Decides for `load`, with the linger that the user `wished`, if any.
pub(super) fn decide(now: Instant, load: &Load, wished: Option<Duration>) -> Decision {
    if load.in_flight >= load.in_flight_max {
        return Decision::NoRoom;
    }
    let quiet = wished.is_none() && is_quiet(load.in_flight, load.recent_records);
    let due = deadline::after(load.oldest, wished.unwrap_or(BUSY_LINGER));
    let full = load.waiting_bytes >= target(load.in_flight, load.in_flight_max, wished);
    if load.hurry || quiet || full || now >= due {
        return Decision::Send;
    }
    Decision::Wait(due)
}

/// Bytes for which a request waits.
pub(super) fn target(in_flight: usize, in_flight_max: usize, wished: Option<Duration>) -> usize {
    if in_flight >= in_flight_max || wished.is_some() {
        return usize::MAX;
    }
    // While the broker is busy with several, the next may grow.
    REQUEST_BYTES << (in_flight / 2).min(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linger_adapts_to_rate_and_flight() {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let load = |in_flight, recent_records, waiting_bytes, hurry| Load {
            in_flight,
            in_flight_max: 5,
            recent_records,
            waiting_bytes,
            oldest: start,
            hurry,
        };
        let ms = Duration::from_millis;
        let wait = |micros| Decision::Wait(at(micros));
        for (name, now, load, wished, expected) in [
            ("first record of all", 0, load(0, 0, 100, false), None, Decision::Send),
            ("one awaited send at a time", 0, load(0, 1, 100, false), None, Decision::Send),
            ("eight per round trip", 0, load(0, 8, 100, false), None, Decision::Send),
            ("nine per round trip", 0, load(0, 9, 100, false), None, wait(1000)),
            ("quiet, but one on the way", 0, load(1, 1, 100, false), None, wait(1000)),
            ("busy for a while", 999, load(0, 500, 60_000, false), None, wait(1000)),
            ("busy for a millisecond", 1000, load(0, 500, 60_000, false), None, Decision::Send),
            ("not yet a full request", 0, load(0, 500, 524_287, false), None, wait(1000)),
            ("a full request", 0, load(0, 500, 524_288, false), None, Decision::Send),
            ("a full request, one on the way", 0, load(1, 500, 524_288, false), None, Decision::Send),
            ("a full request, two on the way", 0, load(2, 500, 524_288, false), None, wait(1000)),
            ("twice that", 0, load(2, 500, 1_048_576, false), None, Decision::Send),
            ("five on the way", 9000, load(5, 500, 1 << 30, true), None, Decision::NoRoom),
            ("no linger wished", 0, load(2, 500, 100, false), Some(ms(0)), Decision::Send),
            (
                "little linger wished",
                0,
                load(2, 500, 100, false),
                Some(Duration::from_micros(300)),
                wait(300),
            ),
            ("much linger wished, and quiet", 0, load(0, 1, 100, false), Some(ms(100)), wait(100_000)),
            ("its end", 100_000, load(0, 1, 100, false), Some(ms(100)), Decision::Send),
            ("much waits", 0, load(0, 500, 1 << 22, false), Some(ms(100)), wait(100_000)),
            ("flush", 0, load(2, 500, 100, true), Some(ms(100)), Decision::Send),
        ] {
            assert_eq!(decide(at(now), &load, wished), expected, "{name}");
        }
    }
}
