//! The classic machine, played by hand: answers in, actions out.

use super::*;

fn start() -> Instant {
    Instant::now()
}
