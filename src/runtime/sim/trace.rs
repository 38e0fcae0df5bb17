//! The trace of a run, reduced to a hash.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Kinds of network events. The numbers go into the hash.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Connect = 1,
    Refuse = 2,
    Accept = 3,
    Listen = 4,
    Unlisten = 5,
    Send = 6,
    Receive = 7,
    Shutdown = 8,
    Close = 9,
    Cut = 10,
    Fault = 11,
    Heal = 12,
    Lookup = 13,
}

/// Folds events into 64 bits, in order.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    events: u64,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, events: 0 }
    }

    /// One event at `at` since the start. `content` is a checksum of the bytes concerned.
    pub(super) fn record(
        &mut self,
        at: Duration,
        event: Event,
        from: SocketAddr,
        to: SocketAddr,
        bytes: usize,
        content: u32,
    ) {
        tracing::trace!(at_us = at.as_micros() as u64, ?event, %from, %to, bytes, content, "network");
        self.events += 1;
        self.fold(at.as_nanos() as u64);
        self.fold(event as u64);
        self.fold_address(from);
        self.fold_address(to);
        self.fold(bytes as u64);
        self.fold(u64::from(content));
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn hash(&self) -> u64 {
        // The finalizer of SplitMix64 spreads the last words over all bits.
        let mut hash = self.hash;
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        hash ^ (hash >> 31)
    }

    fn fold_address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => self.fold(u64::from(ip.to_bits())),
            IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                self.fold(bits as u64);
                self.fold((bits >> 64) as u64);
            }
        }
        self.fold(u64::from(address.port()));
    }

    fn fold(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
