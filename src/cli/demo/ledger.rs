//! What became of every order. Lock-free: handlers of all partitions write to it at once.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::time::Duration;

/// Flags of an order; the upper four bits count its failures.
const ACKNOWLEDGED: u8 = 1;
const HANDLED: u8 = 2;
const DEAD: u8 = 4;
const SEEN: u8 = 8;
const FAILURE: u8 = 16;

/// Orders remembered at most; an endless run reuses the oldest entries.
const ENTRIES_MAX: u64 = 1 << 24;

#[derive(Debug)]
pub(super) struct Ledger {
    entries: Vec<AtomicU8>,
    /// The latest sequence seen of each customer.
    latest: Vec<AtomicU32>,
    /// Every n-th order fails once, every m-th always.
    fails_once: u64,
    fails_always: u64,
    produced: AtomicU64,
    consumed: AtomicU64,
    retried: AtomicU64,
    dead_lettered: AtomicU64,
    out_of_order: AtomicU64,
    duplicated: AtomicU64,
    /// Orders that left an endless run's memory with nobody having handled them.
    forgotten: AtomicU64,
}

/// The account, as the last line of `demo --orders` prints it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    pub(super) produced: u64,
    pub(super) consumed: u64,
    pub(super) retried: u64,
    pub(super) dead_lettered: u64,
    pub(super) out_of_order: u64,
    pub(super) duplicated: u64,
    pub(super) lost: u64,
}

impl Ledger {
    pub(super) fn new(orders: Option<u64>, customers: u64) -> Self {
        let entries = orders.unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX);
        // Short runs fail more often, so that they show retries and dead letters too.
        let (fails_once, fails_always) = match orders {
            Some(orders) if orders < 100_000 => ((orders / 10).max(1), orders),
            _ => (10_000, 100_000),
        };
        let zero = || AtomicU64::new(0);
        Self {
            entries: (0..entries).map(|_| AtomicU8::new(0)).collect(),
            latest: (0..customers).map(|_| AtomicU32::new(0)).collect(),
            fails_once,
            fails_always,
            produced: zero(),
            consumed: zero(),
            retried: zero(),
            dead_lettered: zero(),
            out_of_order: zero(),
            duplicated: zero(),
            forgotten: zero(),
        }
    }

    fn entry(&self, order: u64) -> &AtomicU8 {
        &self.entries[(order % self.entries.len() as u64) as usize]
    }

    /// The producer is about to send the order.
    pub(super) fn begun(&self, order: u64) {
        if order >= self.entries.len() as u64 {
            let before = self.entry(order).swap(0, Relaxed);
            if before & ACKNOWLEDGED != 0 && before & (HANDLED | DEAD) == 0 {
                self.forgotten.fetch_add(1, Relaxed);
            }
        }
    }

    /// The cluster acknowledged the order.
    pub(super) fn acknowledged(&self, order: u64) {
        let before = self.entry(order).fetch_or(ACKNOWLEDGED, Relaxed);
        self.count_produced(before);
    }

    /// Once for each order: it was produced when its acknowledgement arrives, or its handler sees it before that.
    fn count_produced(&self, before: u8) {
        if before & ACKNOWLEDGED == 0 {
            self.produced.fetch_add(1, Relaxed);
        }
    }

    /// Every n-th order fails once, every m-th always.
    pub(super) fn failures(&self) -> (u64, u64) {
        (self.fails_once, self.fails_always)
    }

    /// A handler looks at the order; returns whether handling it succeeds.
    pub(super) fn handle(&self, order: u64, customer: u64, sequence: u32) -> bool {
        let entry = self.entry(order);
        let before = entry.fetch_or(SEEN | ACKNOWLEDGED, Relaxed);
        self.count_produced(before);
        let latest = self.latest[(customer % self.latest.len() as u64) as usize].fetch_max(sequence, Relaxed);
        if before & SEEN == 0 && sequence < latest {
            self.out_of_order.fetch_add(1, Relaxed);
        }
        if before & HANDLED != 0 {
            self.duplicated.fetch_add(1, Relaxed);
            return true;
        }
        let failures = before / FAILURE;
        if failures > 0 {
            self.retried.fetch_add(1, Relaxed);
        }
        let number = order + 1;
        let fails = number.is_multiple_of(self.fails_always)
            || (failures == 0 && number.is_multiple_of(self.fails_once));
        if fails {
            if failures < 15 {
                entry.fetch_add(FAILURE, Relaxed);
            }
        } else {
            entry.fetch_or(HANDLED, Relaxed);
            self.consumed.fetch_add(1, Relaxed);
        }
        !fails
    }

    /// The order arrived in the dead letter topic.
    pub(super) fn dead_lettered(&self, order: u64) {
        if self.entry(order).fetch_or(DEAD, Relaxed) & DEAD == 0 {
            self.dead_lettered.fetch_add(1, Relaxed);
        }
    }

    /// Orders that are handled or dead-lettered.
    pub(super) fn settled(&self) -> u64 {
        self.consumed.load(Relaxed) + self.dead_lettered.load(Relaxed)
    }

    /// Never more settled than produced, whichever of the two was counted between the looks at them.
    pub(super) fn totals(&self) -> Totals {
        let (consumed, dead_lettered) = (self.consumed.load(Relaxed), self.dead_lettered.load(Relaxed));
        Totals {
            produced: self.produced.load(Relaxed).max(consumed + dead_lettered),
            consumed,
            retried: self.retried.load(Relaxed),
            dead_lettered,
            out_of_order: self.out_of_order.load(Relaxed),
            duplicated: self.duplicated.load(Relaxed),
            lost: self.forgotten.load(Relaxed),
        }
    }

    /// The totals once nothing moves any more: what was acknowledged and is not settled now is lost.
    pub(super) fn account(&self) -> Totals {
        let open = |entry: &&AtomicU8| {
            let flags = entry.load(Relaxed);
            flags & ACKNOWLEDGED != 0 && flags & (HANDLED | DEAD) == 0
        };
        let mut totals = self.totals();
        totals.lost += self.entries.iter().filter(open).count() as u64;
        totals
    }
}

impl Totals {
    pub(super) fn json(&self, time: Duration) -> String {
        let Self { produced, consumed, retried, dead_lettered, out_of_order, duplicated, lost } = self;
        format!(
            r#"{{"produced":{produced},"consumed":{consumed},"retried":{retried},"dead_lettered":{dead_lettered},"out_of_order":{out_of_order},"duplicated":{duplicated},"lost":{lost},"seconds":{:.3}}}"#,
            time.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_has_both_kinds_of_failures() {
        let ledger = Ledger::new(Some(1000), 1);
        for order in 0..1000 {
            ledger.acknowledged(order);
            let mut attempts = 1;
            while !ledger.handle(order, 0, order as u32 + 1) && attempts < 4 {
                attempts += 1;
            }
            match order {
                999 => assert_eq!(attempts, 4),
                _ if order % 100 == 99 => assert_eq!(attempts, 2),
                _ => assert_eq!(attempts, 1),
            }
        }
        let totals = ledger.account();
        assert_eq!((totals.produced, totals.consumed, totals.retried, totals.lost), (1000, 999, 9 + 3, 1));
        ledger.dead_lettered(999);
        ledger.dead_lettered(999);
        let totals = ledger.account();
        assert_eq!((totals.dead_lettered, totals.lost, totals.out_of_order, totals.duplicated), (1, 0, 0, 0));
    }

    #[test]
    fn only_a_first_sight_behind_a_later_one_is_out_of_order() {
        let ledger = Ledger::new(Some(1_000_000), 1);
        for (order, sequence) in [(0, 1), (2, 3), (0, 1), (1, 2), (1, 2)] {
            ledger.handle(order, 0, sequence);
        }
        let totals = ledger.totals();
        assert_eq!((totals.out_of_order, totals.duplicated), (1, 2));
    }

    #[test]
    fn an_endless_run_counts_what_it_forgets_unhandled() {
        let ledger = Ledger::new(None, 1);
        ledger.acknowledged(7);
        ledger.acknowledged(8);
        ledger.handle(8, 0, 1);
        ledger.begun(7 + ENTRIES_MAX);
        ledger.begun(8 + ENTRIES_MAX);
        assert_eq!(ledger.totals().lost, 1);
    }

    #[test]
    fn what_was_consumed_was_produced_whoever_heard_of_it_first() {
        let ledger = Ledger::new(Some(1_000_000), 1);
        ledger.handle(0, 0, 1);
        let totals = ledger.totals();
        assert_eq!((totals.produced, totals.consumed), (1, 1), "handled before the acknowledgement arrived");
        ledger.acknowledged(0);
        ledger.acknowledged(1);
        let totals = ledger.totals();
        assert_eq!((totals.produced, totals.consumed), (2, 1));
    }
}
