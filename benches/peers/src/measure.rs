//! What one run of one workload costs its process.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use crate::counting;

/// Values of 100 bytes, all different, so that they come from memory and not from the first cache.
pub struct Values(Vec<u8>);

const DISTINCT: usize = 65_536;
pub const VALUE_LEN: usize = 100;

impl Values {
    pub fn new() -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bytes = Vec::with_capacity(DISTINCT * VALUE_LEN);
        for index in 0..DISTINCT {
            let start = bytes.len();
            bytes.extend_from_slice(format!("{{\"order\":{index},\"state\":\"paid\",\"note\":\"").as_bytes());
            while bytes.len() < start + VALUE_LEN {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.push(b'a' + (state % 26) as u8);
            }
        }
        Self(bytes)
    }

    pub fn get(&self, index: u64) -> &[u8] {
        let start = index as usize % DISTINCT * VALUE_LEN;
        &self.0[start..start + VALUE_LEN]
    }
}

/// CPU time of this process so far, user and system.
pub fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage of this process");
    let time = |t: nix::sys::time::TimeVal| {
        Duration::from_secs(t.tv_sec() as u64) + Duration::from_micros(t.tv_usec() as u64)
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// Begins a measured window.
pub struct Window {
    wall: Instant,
    cpu: Duration,
    allocations: u64,
}

impl Window {
    pub fn open() -> Self {
        Self { allocations: counting::allocations(), cpu: cpu(), wall: Instant::now() }
    }

    /// Prints what happened since, for the parent process.
    pub fn close(self, records: u64, latencies: &mut [Duration], settings: &str) {
        let wall = self.wall.elapsed();
        let cpu = cpu() - self.cpu;
        let allocations = counting::allocations() - self.allocations;
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage of this process");
        latencies.sort_unstable();
        let p50 = latencies.get(latencies.len() / 2).map_or(0.0, Duration::as_secs_f64);
        let p99 = latencies.get(latencies.len() * 99 / 100).map_or(0.0, Duration::as_secs_f64);
        println!("settings {settings}");
        println!(
            "result {records} {} {} {allocations} {} {} {}",
            cpu.as_secs_f64(),
            wall.as_secs_f64(),
            usage.max_rss(),
            p50 * 1e6,
            p99 * 1e6
        );
    }
}
