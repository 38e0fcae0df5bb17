//! The simulated runtime: a network in memory, randomness from a seed, a wall clock that follows tokio's.
//!
//! On a tokio runtime with one thread and a paused clock, everything that runs on a [`SimRuntime`] is a function of its
//! seed: the same seed gives the same run, event by event, and [`SimRuntime::trace_hash`] of two runs compare equal. Virtual
//! time jumps to the next timer whenever all tasks wait, so minutes of back-off cost nothing.
//!
//! ```
//! # // A doc test has the dev-dependency's feature `test-util`; carafe itself does not need it.
//! use carafe::runtime::{Runtime, sim::SimRuntime};
//!
//! let tokio = tokio::runtime::Builder::new_current_thread()
//!     .enable_all()
//!     .start_paused(true) // tokio's feature `test-util`, among the dev-dependencies of the test
//!     .build()?;
//! let hash = tokio.block_on(async {
//!     let sim = SimRuntime::new(7);
//!     let listener = sim.listen("localhost", 9092).await?;
//!     let _client = sim.connect(listener.local_addr()).await?;
//!     let _server = listener.accept().await?;
//!     // Taken before the tokio runtime is dropped: what happens then has no place in virtual time.
//!     std::io::Result::Ok(sim.trace_hash())
//! })?;
//! # let _ = hash;
//! # std::io::Result::Ok(())
//! ```
//!
//! The clock must be paused from the start (`start_paused`), not later: tokio's timers count whole milliseconds from the
//! start of the runtime, so delays below one are rounded up, and a runtime that started on the real clock rounds differently
//! each time. Without a paused clock everything works, in real time and not reproducibly.
//!
//! What breaks reproducibility is code that asks the machine behind the runtime's back: a hash map with random keys that is
//! iterated, `select!` without `biased`, a thread, a real clock. The repository's `tests/tidy.rs` refuses them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::task::{self, PanicHook};
use super::{BlockingWork, BoxFuture, Listener, Runtime, Stream, Task};

mod fault;
mod network;
mod pipe;
mod stream;
mod trace;

#[cfg(test)]
mod tests;

pub use fault::{Direction, FaultId, Links, Place};
pub use network::SimNetwork;

/// Wall clock at the start of a simulation unless told otherwise: 2026-01-01T00:00:00Z.
const WALL_CLOCK: Duration = Duration::from_secs(1_767_225_600);

/// One simulated host: its clock, its dice, its tasks, and its place in a [`SimNetwork`].
pub struct SimRuntime {
    handle: Handle,
    address: IpAddr,
    world: Arc<World>,
    /// Milliseconds that this host's wall clock was moved by.
    clock_shift: AtomicI64,
}

/// What the hosts of one simulation share.
struct World {
    seed: u64,
    start: Instant,
    wall_clock: SystemTime,
    dice: Mutex<fastrand::Rng>,
    network: SimNetwork,
    panics: Mutex<Vec<(&'static str, String)>>,
    on_panic: PanicHook,
}

impl SimRuntime {
    /// A world of its own, with one host at 127.0.0.1, and all defaults of [`builder`](Self::builder).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(seed: u64) -> Arc<Self> {
        Self::builder(seed).build()
    }

    /// Settings of a world.
    pub fn builder(seed: u64) -> SimBuilder {
        SimBuilder {
            seed,
            latency: Duration::from_micros(200)..=Duration::from_millis(2),
            buffer: 256 * 1024,
            short_writes: true,
            wall_clock: UNIX_EPOCH + WALL_CLOCK,
        }
    }

    /// Another host in the same world: connections that it opens come from `address`, and what listens on `0.0.0.0` there
    /// listens on `address`. Faults can then tell hosts apart. Its wall clock starts unshifted.
    pub fn host(&self, address: IpAddr) -> Arc<Self> {
        Arc::new(Self {
            handle: self.handle.clone(),
            address,
            world: self.world.clone(),
            clock_shift: AtomicI64::new(0),
        })
    }

    /// The address of this host.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The seed of the world.
    pub fn seed(&self) -> u64 {
        self.world.seed
    }

    /// The network, to cut, hold, slow and refuse; a cheap handle.
    pub fn network(&self) -> SimNetwork {
        self.world.network.clone()
    }

    /// A hash over all network events so far: time, kind, addresses, length and content. Two runs of a seed are equal
    /// exactly if their hashes are.
    pub fn trace_hash(&self) -> u64 {
        self.world.network.trace_hash()
    }

    /// Virtual time since the start of the world.
    pub fn elapsed(&self) -> Duration {
        self.world.start.elapsed()
    }

    /// Moves the wall clock of this host, as a correction by NTP would. Monotonic time goes on.
    pub fn shift_wall_clock(&self, millis: i64) {
        self.clock_shift.fetch_add(millis, Ordering::Relaxed);
    }

    /// The panics of tasks and blocking work so far, of all hosts: name of the task and message. A test of a seed ends
    /// with a look here.
    pub fn panics(&self) -> Vec<(&'static str, String)> {
        self.world.panics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Runtime for SimRuntime {
    fn wall_clock(&self) -> SystemTime {
        let now = self.world.wall_clock + self.elapsed();
        let shift = self.clock_shift.load(Ordering::Relaxed);
        let distance = Duration::from_millis(shift.unsigned_abs());
        if shift < 0 { now - distance } else { now + distance }
    }

    fn random(&self) -> u64 {
        self.world.dice.lock().unwrap_or_else(PoisonError::into_inner).u64(..)
    }

    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task {
        let hook = Some(self.world.on_panic.clone());
        Task::running(name, self.handle.spawn(task::contain(name, hook, future)))
    }

    fn run_blocking(&self, name: &'static str, work: BlockingWork) -> Task {
        Task::finished(name, task::contain_blocking(name, Some(&self.world.on_panic), work))
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(self.world.network.resolve(host, port))
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = self.world.network.connect(self.address, address).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn listen<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = self.world.network.listen(self.address, host, port)?;
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRuntime")
            .field("seed", &self.world.seed)
            .field("address", &self.address)
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

/// Settings of a simulated world; see [`SimRuntime::builder`].
#[derive(Clone, Debug)]
#[must_use = "call build"]
pub struct SimBuilder {
    seed: u64,
    latency: RangeInclusive<Duration>,
    buffer: usize,
    short_writes: bool,
    wall_clock: SystemTime,
}

impl SimBuilder {
    /// One-way delay of a chunk of bytes, drawn anew for each; order is kept. Default 0.2 to 2 ms.
    pub fn latency(mut self, latency: RangeInclusive<Duration>) -> Self {
        self.latency = latency;
        self
    }

    /// Bytes that a direction of a connection takes before its writer must wait for the reader. Default 256 KiB, at
    /// least 1.
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes.max(1);
        self
    }

    /// Whether one write in sixteen takes only a part of its bytes, as sockets may. Default true.
    pub fn short_writes(mut self, short_writes: bool) -> Self {
        self.short_writes = short_writes;
        self
    }

    /// Wall clock at the start. Default 2026-01-01T00:00:00Z.
    pub fn wall_clock(mut self, wall_clock: SystemTime) -> Self {
        self.wall_clock = wall_clock;
        self
    }

    /// Creates the world, with one host at 127.0.0.1.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn build(self) -> Arc<SimRuntime> {
        let start = Instant::now();
        let mut dice = fastrand::Rng::with_seed(self.seed);
        // The network draws from dice of its own, so that a draw more in a layer above does not shift its delays.
        let network_dice = dice.fork();
        let world = Arc::new_cyclic(|world: &std::sync::Weak<World>| {
            let world = world.clone();
            let on_panic: PanicHook = Arc::new(move |name, message| {
                if let Some(world) = world.upgrade() {
                    let mut panics = world.panics.lock().unwrap_or_else(PoisonError::into_inner);
                    panics.push((name, message.to_owned()));
                }
            });
            World {
                seed: self.seed,
                start,
                wall_clock: self.wall_clock,
                dice: Mutex::new(dice),
                network: SimNetwork::new(start, network_dice, self.latency, self.buffer, self.short_writes),
                panics: Mutex::new(Vec::new()),
                on_panic,
            }
        });
        Arc::new(SimRuntime {
            handle: Handle::current(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            world,
            clock_shift: AtomicI64::new(0),
        })
    }
}
