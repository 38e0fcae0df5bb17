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
/// Longest wait at higher rates, but where batches are many.
pub(super) const BUSY_LINGER: Duration = Duration::from_millis(1);
/// What a batch costs a broker and us, whatever is in it. Where records are spread over many partitions, batches wait for
/// as long as it would take to send them: at worst that doubles the time that passes, at best each comes to hold many
/// records instead of one.
const BATCH_COST: Duration = Duration::from_micros(10);
/// How often it is looked at meanwhile whether records still come.
const LOOKS: u32 = 8;
/// Longest wait of batches that are many.
const SPREAD_LINGER: Duration = Duration::from_millis(100);
/// A request waits for so many bytes per batch, if that is more than what it waits for anyway.
const BATCH_BYTES: usize = 1024;
/// What a batch weighs beside its bytes, which are counted in steps.
const BATCH_WEIGHT: usize = 128;

/// What one broker has to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Requests on the way.
    pub(super) in_flight: usize,
    /// Most requests that may be.
    pub(super) in_flight_max: usize,
    /// Records in the request that was answered last.
    pub(super) recent_records: usize,
    /// Open batches, and the bytes in them.
    pub(super) batches: usize,
    pub(super) waiting_bytes: usize,
    /// When the oldest open batch was opened.
    pub(super) oldest: Instant,
    /// When to look whether records still come as fast as they did; `None` if they do not, and waiting for them is in vain.
    pub(super) next_look: Option<Instant>,
    /// Someone waits for these records, or for their memory.
    pub(super) hurry: bool,
}

/// What waited at some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    at: Instant,
    weight: usize,
}

impl Look {
    pub(super) fn new(now: Instant, batches: usize, bytes: usize) -> Self {
        Self { at: now, weight: bytes + batches * BATCH_WEIGHT }
    }

    /// When it is time for the next one, while so many `batches` wait.
    pub(super) fn next(&self, batches: usize) -> Instant {
        self.at + (patience(batches) / LOOKS).max(BUSY_LINGER)
    }

    /// True if what came since `before` is enough to go on waiting with so many `batches`: a quarter of the pace that would
    /// double what waits in the longest time that they may. Whoever awaits what was sent before more is sent has sent what
    /// he may, and nothing comes. Whoever did not get a processor for a while does not count as such.
    pub(super) fn is_worth_waiting(&self, before: &Self, batches: usize) -> bool {
        let passed = self.at.saturating_duration_since(before.at).as_micros();
        let grown = self.weight.saturating_sub(before.weight) as u128;
        4 * grown * patience(batches).as_micros() >= self.weight as u128 * passed
    }
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
    let least = deadline::after(load.oldest, wished.unwrap_or(BUSY_LINGER));
    let (due, look) = match load.next_look {
        Some(look) if wished.is_none() => (least.max(load.oldest + patience(load.batches)), look.max(least)),
        _ => (least, least),
    };
    let full = load.waiting_bytes >= target(load.in_flight, load.in_flight_max, load.batches, wished);
    if load.hurry || quiet || full || now >= due {
        return Decision::Send;
    }
    Decision::Wait(due.min(look))
}

/// Longest wait of so many batches while records come fast.
fn patience(batches: usize) -> Duration {
    let batches = u32::try_from(batches).unwrap_or(u32::MAX);
    BATCH_COST.saturating_mul(batches).clamp(BUSY_LINGER, SPREAD_LINGER)
}

/// Bytes for which a request waits.
pub(super) fn target(
    in_flight: usize,
    in_flight_max: usize,
    batches: usize,
    wished: Option<Duration>,
) -> usize {
    if in_flight >= in_flight_max || wished.is_some() {
        return usize::MAX;
    }
    // While the broker is busy with several, the next may grow.
    (REQUEST_BYTES << (in_flight / 2).min(2)).max(batches.saturating_mul(BATCH_BYTES))
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
            batches: 12,
            waiting_bytes,
            oldest: start,
            next_look: Some(at(1000)),
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

    #[test]
    fn many_batches_wait_for_as_long_as_sending_them_takes() {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let load = |batches, waiting_bytes, next_look: Option<u64>| Load {
            in_flight: 1,
            in_flight_max: 5,
            recent_records: 5000,
            batches,
            waiting_bytes,
            oldest: start,
            next_look: next_look.map(at),
            hurry: false,
        };
        let wait = |micros| Decision::Wait(at(micros));
        for (name, now, load, expected) in [
            ("a hundred", 1000, load(100, 60_000, Some(2000)), Decision::Send),
            ("a thousand", 1000, load(1000, 60_000, Some(2000)), wait(2000)),
            ("at the end of their time", 9500, load(1000, 60_000, Some(10_500)), wait(10_000)),
            ("after it", 10_000, load(1000, 60_000, Some(11_000)), Decision::Send),
            ("ten thousand", 99_999, load(10_000, 60_000, Some(101_000)), wait(100_000)),
            ("more", 100_000, load(30_000, 60_000, Some(101_000)), Decision::Send),
            ("a thousand, and no more come", 1000, load(1000, 60_000, None), Decision::Send),
            ("not before the least time", 0, load(1000, 60_000, Some(500)), wait(1000)),
            ("not a kilobyte each", 1000, load(1000, 1_023_999, Some(2000)), wait(2000)),
            ("a kilobyte each", 1000, load(1000, 1_024_000, Some(2000)), Decision::Send),
        ] {
            assert_eq!(decide(at(now), &load, None), expected, "{name}");
        }
        let explicit = decide(at(10_000), &load(1000, 60_000, None), Some(Duration::from_millis(100)));
        assert_eq!(explicit, wait(100_000), "an explicit linger is kept");
    }

    #[test]
    fn waiting_is_worth_it_while_records_come_as_fast_as_they_did() {
        let start = Instant::now();
        let look = |millis, batches, bytes| Look::new(start + Duration::from_millis(millis), batches, bytes);
        let before = look(0, 1000, 100_000);
        for (name, now, expected) in [
            ("nothing came", look(1, 1000, 100_000), false),
            ("little came", look(1, 1000, 105_000), false),
            ("a fortieth came, of ten milliseconds that they may wait", look(1, 1000, 106_000), true),
            ("as much, in twice the time", look(2, 1000, 106_000), false),
            ("as many batches", look(1, 1050, 100_000), true),
        ] {
            assert_eq!(now.is_worth_waiting(&before, 1000), expected, "{name}");
        }
    }
}
