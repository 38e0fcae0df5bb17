//! What the demo shows while it runs: one line, rewritten on a terminal, a new one every second elsewhere.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::{Ledger, Totals};
use crate::app::{Event, Listener};
use crate::types::Partition;

/// Width of a terminal that nobody has made wider.
const COLUMNS: usize = 80;

/// Which lanes had work, and how many have it now.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    seen: Mutex<BTreeSet<(Partition, u32)>>,
    busy: AtomicUsize,
}

impl Lanes {
    fn seen(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Listener for Arc<Lanes> {
    fn on_event(&self, event: &Event<'_>) {
        match event {
            Event::Consume { partition, lane, .. } => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.insert((partition.partition, *lane));
                self.busy.fetch_add(1, Relaxed);
            }
            Event::Consumed { .. } => {
                let _ = self.busy.fetch_update(Relaxed, Relaxed, |busy| busy.checked_sub(1));
            }
            _ => {}
        }
    }
}

/// Shows the ledger until it is dropped.
pub(super) async fn report(ledger: Arc<Ledger>, lanes: Arc<Lanes>, started: Instant) {
    let terminal = std::io::stdout().is_terminal();
    let every = Duration::from_millis(if terminal { 200 } else { 1000 });
    let mut last = (0, Instant::now());
    let mut rate = 0;
    loop {
        tokio::time::sleep(every).await;
        let totals = ledger.totals();
        let since = last.1.elapsed();
        if since >= Duration::from_secs(1) {
            rate = (u128::from(totals.consumed - last.0) * 1000 / since.as_millis().max(1)) as u64;
            last = (totals.consumed, Instant::now());
        }
        // That a handler has ended is told when its output is settled too: more may seem busy than there are workers.
        let busy = lanes.busy.load(Relaxed).min(super::WORKERS);
        let line = line(started.elapsed(), &totals, rate, busy, lanes.seen());
        if terminal {
            let mut out = std::io::stdout();
            let _ = write!(out, "\r{line}\x1b[K").and_then(|()| out.flush());
        } else {
            crate::cli::say(format_args!("{line}"));
        }
    }
}

/// Ends the line that is being rewritten.
pub(super) fn end() {
    if std::io::stdout().is_terminal() {
        crate::cli::say(format_args!(""));
    }
}

fn line(time: Duration, totals: &Totals, rate: u64, busy: usize, lanes: usize) -> String {
    let Totals { produced, consumed, retried, dead_lettered, .. } = *totals;
    let line = format!(
        "{:>4}s  sent {}  done {}  {}/s  retried {}  dead {}  lanes {busy}/{lanes}",
        time.as_secs(),
        short(produced),
        short(consumed),
        short(rate),
        short(retried),
        short(dead_lettered),
    );
    line.chars().take(COLUMNS - 1).collect()
}

/// Three digits and a unit.
fn short(number: u64) -> String {
    let (unit, letter) = match number {
        0..1_000 => return number.to_string(),
        1_000..1_000_000 => (1_000, 'k'),
        1_000_000..1_000_000_000 => (1_000_000, 'M'),
        _ => (1_000_000_000, 'G'),
    };
    // Cut, not rounded: 999,999 is no million yet.
    let (whole, rest) = (number / unit, number % unit * 100 / unit);
    match whole {
        0..10 => format!("{whole}.{rest:02}{letter}"),
        10..100 => format!("{whole}.{}{letter}", rest / 10),
        _ => format!("{whole}{letter}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_a_terminal_and_says_what_is_what() {
        let most = |n| Totals {
            produced: n,
            consumed: n,
            retried: n / 1000,
            dead_lettered: n / 100_000,
            out_of_order: 0,
            duplicated: 0,
            lost: 0,
        };
        let hour = line(Duration::from_secs(3600), &most(999_999_999), 1_234_567, 5, 60);
        assert_eq!(hour, "3600s  sent 999M  done 999M  1.23M/s  retried 999k  dead 9.99k  lanes 5/60");
        for number in [0, 9, 99, 999, 1234, 12_345, 123_456, 1_234_567, 12_345_678, u64::MAX] {
            let line = line(Duration::from_secs(99_999), &most(number), number, 60, 60);
            assert!(line.chars().count() < COLUMNS, "{line}");
        }
        assert_eq!(["1.00k", "12.3k", "999k"], [1000, 12_345, 999_999].map(short).as_slice());
    }
}
