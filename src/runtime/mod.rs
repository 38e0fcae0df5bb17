//! Everything that is not a pure function of its input: wall clock, randomness, tasks, blocking work, names, sockets.
//!
//! The layers above never ask the machine directly; they hold one `Arc<dyn Runtime>`, which is the [`RealRuntime`] on
//! tokio or, for tests, a simulated one (module `sim`, feature `broker`) with an in-memory network and faults
//! drawn from a seed. Monotonic time is not here: it is `tokio::time`, which a test can pause.
//!
//! No public type of carafe is generic over the runtime, and nothing here is called once per record.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
#[cfg(feature = "client")]
use std::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite};
#[cfg(feature = "client")]
use tokio::time::Instant;

use crate::types::Timestamp;

mod real;
#[cfg(feature = "app")]
mod signal;
#[cfg(feature = "broker")]
pub mod sim;
mod task;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub mod watch;
#[cfg(all(test, feature = "broker"))]
pub(crate) mod watched;

pub use real::RealRuntime;
#[cfg(feature = "app")]
pub use signal::termination;
pub use task::{AbortOnDrop, PanicHook, Task, TaskError};

/// A timer that fires this late means that something blocks the runtime, which is reported as starved.
#[cfg(feature = "client")]
const STARVED: Duration = Duration::from_secs(1);

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Work for a thread that may block.
pub type BlockingWork = Box<dyn FnOnce() + Send + 'static>;

/// What carafe needs of the world. Always used as `Arc<dyn Runtime>`; see the [module](self) for what belongs here.
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// The time of day. It may jump; durations are measured with `tokio::time::Instant`.
    fn wall_clock(&self) -> SystemTime;

    /// 64 random bits: unpredictable on the real runtime, drawn from the seed in simulation. Take few: where many are
    /// needed, make a generator of your own with [`dice`](trait.Runtime.html#method.dice).
    fn random(&self) -> u64;

    /// Runs `future` as a task of its own. `name` says in logs and panic reports which task it is. A panic ends the task
    /// and nothing else. Dropping the returned [`Task`] leaves the task running.
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task;

    /// Runs `work` where it may block: on tokio's blocking pool, or *before this call returns* in simulation, so no lock
    /// that `work` takes may be held by the caller. Blocking work cannot be aborted once it has begun.
    fn run_blocking(&self, name: &'static str, work: BlockingWork) -> Task;

    /// Looks up the addresses of `host` (a name, an IPv4 or an IPv6 address, the latter with or without brackets).
    /// An answer is never empty: a name without addresses is an error of kind `NotFound`. No timeout of its own;
    /// cancel-safe.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;

    /// Opens a TCP connection with Nagle's algorithm off and keep-alive after 60 s. No timeout of its own; cancel-safe:
    /// dropping the future gives up the attempt.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>>;

    /// Listens on `host` (a local name or address) and `port`; port 0 takes a free one, see [`Listener::local_addr`].
    fn listen<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
}

impl dyn Runtime {
    /// The time of day in milliseconds since the Unix epoch, as records carry it.
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.wall_clock())
    }

    /// A generator of its own for one owner, seeded from [`random`](Runtime::random).
    pub fn dice(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.random())
    }

    /// Sleeps until `due`. Returns how late the task was run if that was a second or more: then something blocks the
    /// threads of the runtime. Late by both clocks, so that neither a paused clock that is moved by hand nor a time of
    /// day that is set counts.
    #[cfg(feature = "client")]
    pub(crate) async fn sleep_until(&self, due: Instant) -> Option<Duration> {
        let (now, wall) = (Instant::now(), self.wall_clock());
        let wait = due.saturating_duration_since(now);
        tokio::time::sleep_until(due).await;
        let late = now.elapsed().saturating_sub(wait);
        let by_wall = self.wall_clock().duration_since(wall).unwrap_or_default().saturating_sub(wait);
        Some(late.min(by_wall)).filter(|late| *late >= STARVED)
    }

    /// Runs `work` where it may block and returns its result; see [`run_blocking`](Runtime::run_blocking). If the
    /// future is dropped, the work still runs to its end and its result is dropped.
    ///
    /// # Errors
    ///
    /// [`TaskError::Panicked`] if `work` panicked, [`TaskError::Aborted`] if the runtime shut down before it ran.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TaskError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let task = self.run_blocking(
            name,
            Box::new(move || {
                // The receiver is gone if the caller stopped waiting: then nobody wants the result.
                let _ = sender.send(work());
            }),
        );
        match receiver.await {
            Ok(result) => Ok(result),
            Err(_) => Err(task.join().await.err().unwrap_or(TaskError::Aborted)),
        }
    }
}

/// A byte stream in both directions: a TCP connection, a TLS session or a simulated pipe. Vectored writes are passed on.
/// Closing one direction (`shutdown`) leaves the other open; dropping the stream closes both.
pub trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin + 'static {
    /// Our address of the connection, where there is one.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// The peer's address, where there is one.
    fn peer_addr(&self) -> Option<SocketAddr> {
        None
    }
}

/// A pipe without addresses, for tests with a scripted peer.
impl Stream for tokio::io::DuplexStream {}

/// A listening socket. Dropping it refuses what comes later; accepted streams live on.
pub trait Listener: fmt::Debug + Send + Sync + 'static {
    /// Waits for the next connection. Cancel-safe. An error (such as too many open files) concerns one attempt: log it,
    /// wait a moment and call again.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>>;

    /// The address that it listens on, with the port that was taken for port 0.
    fn local_addr(&self) -> SocketAddr;
}

/// The real runtime on the tokio runtime that this is called in.
///
/// # Panics
///
/// Outside of a tokio runtime; [`RealRuntime::try_current`] returns an error instead.
pub fn real() -> Arc<dyn Runtime> {
    RealRuntime::try_current().expect("called within a tokio runtime, as documented")
}

/// `time` in milliseconds since the Unix epoch, rounded down; negative before it.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let millis = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => {
            let nanos = before.duration().as_nanos();
            i64::try_from(nanos.div_ceil(1_000_000)).map_or(i64::MIN, |millis| -millis)
        }
    };
    Timestamp(millis)
}

/// Reports that `driver` was run too late, see [`sleep_until`](trait.Runtime.html#method.sleep_until).
#[cfg(feature = "client")]
pub(crate) fn report_starved(driver: &'static str, late: Duration) {
    tracing::warn!(
        driver,
        ?late,
        "the runtime is starved: something blocks its threads; blocking work belongs on the pool for it"
    );
}

/// `host` without the brackets that an IPv6 address wears in `[::1]:9092`.
fn bare_host(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// The error of a look-up without an address.
fn no_address(host: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no address is known for host {host:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    #[cfg(all(feature = "client", feature = "broker"))]
    use tokio::time::{Instant, advance};

    #[test]
    fn timestamps_round_down_on_both_sides_of_the_epoch() {
        assert_eq!(timestamp(UNIX_EPOCH), Timestamp(0));
        assert_eq!(timestamp(UNIX_EPOCH + Duration::from_micros(1999)), Timestamp(1));
        assert_eq!(timestamp(UNIX_EPOCH - Duration::from_micros(1)), Timestamp(-1));
    }

    #[cfg(all(feature = "client", feature = "broker"))]
    async fn lateness(runtime: &dyn Runtime, advanced: u64) -> Option<Duration> {
        let due = Instant::now() + Duration::from_secs(5);
        let (late, ()) = tokio::join!(runtime.sleep_until(due), advance(Duration::from_secs(advanced)));
        late
    }

    #[cfg(all(feature = "client", feature = "broker"))]
    #[tokio::test(start_paused = true)]
    async fn a_starved_runtime_is_told_from_a_clock_that_is_moved_by_hand() {
        // The time of day moves with the clock.
        let sim = sim::SimRuntime::new(1);
        assert_eq!(lateness(&*sim, 5).await, None);
        let late = lateness(&*sim, 9).await.expect("four seconds late");
        assert_eq!(late.as_secs(), 4);
        assert_eq!(lateness(&*real(), 9).await, None);
    }

    #[test]
    fn brackets_are_taken_off_addresses_alone() {
        assert_eq!(bare_host("[::1]"), "::1");
        assert_eq!(bare_host("::1"), "::1");
        assert_eq!(bare_host("kafka.example"), "kafka.example");
    }
}
