//! The runtime of production: tokio's tasks and blocking pool, the system's clock, resolver and sockets.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use super::task::{self, PanicHook};
use super::{BlockingWork, BoxFuture, Listener, Runtime, Stream, Task};
use crate::{Error, ErrorKind, Result};

/// Idle time after which the kernel begins to ask whether the peer still lives. Cloud load balancers drop
/// connections that were silent for some minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Runs on a tokio runtime with its I/O and time drivers enabled.
pub struct RealRuntime {
    handle: Handle,
    dice: Mutex<fastrand::Rng>,
    on_panic: Option<PanicHook>,
}

impl RealRuntime {
    /// On the tokio runtime that this is called in.
    ///
    /// # Errors
    ///
    /// `Config` outside of a tokio runtime, or if the system gives no randomness.
    pub fn try_current() -> Result<Arc<Self>> {
        let handle = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Config, "there is no tokio runtime here to run on")
                .with_advice("call this within #[tokio::main], or hand over a tokio runtime handle")
                .with_source(error)
        })?;
        Self::on(handle)
    }

    /// On the tokio runtime behind `handle`, wherever its futures are polled.
    ///
    /// # Errors
    ///
    /// `Config` if the system gives no randomness.
    pub fn on(handle: Handle) -> Result<Arc<Self>> {
        Self::with_panic_hook(handle, None)
    }

    /// As [`on`](Self::on), with `hook` called for each task that panics (which is always logged through `tracing`).
    ///
    /// # Errors
    ///
    /// `Config` if the system gives no randomness.
    pub fn with_panic_hook(handle: Handle, hook: impl Into<Option<PanicHook>>) -> Result<Arc<Self>> {
        let seed = getrandom::u64().map_err(|error| {
            Error::new(ErrorKind::Config, "the system gives no randomness").with_source(error.to_string())
        })?;
        let dice = Mutex::new(fastrand::Rng::with_seed(seed));
        Ok(Arc::new(Self { handle, dice, on_panic: hook.into() }))
    }

    /// Polls `future` within our tokio runtime, for callers that live in another one or in none.
    fn within<'a, T>(&self, future: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
        let handle = self.handle.clone();
        let mut future = Box::pin(future);
        Box::pin(std::future::poll_fn(move |context| {
            let _guard = handle.enter();
            future.as_mut().poll(context)
        }))
    }
}

impl Runtime for RealRuntime {
    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> u64 {
        // Nonces are made of it. A system that gave randomness before does not stop; a generator is sound in any state, so a
        // poisoned lock is as good as another.
        getrandom::u64().unwrap_or_else(|_| self.dice.lock().unwrap_or_else(PoisonError::into_inner).u64(..))
    }

    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task {
        Task::running(name, self.handle.spawn(task::contain(name, self.on_panic.clone(), future)))
    }

    fn run_blocking(&self, name: &'static str, work: BlockingWork) -> Task {
        let hook = self.on_panic.clone();
        let work = move || task::contain_blocking(name, hook.as_ref(), work);
        Task::running(name, self.handle.spawn_blocking(work))
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.within(async move {
            let found = tokio::net::lookup_host((super::bare_host(host), port)).await?;
            let addresses: Vec<_> = found.collect();
            if addresses.is_empty() { Err(super::no_address(host)) } else { Ok(addresses) }
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        self.within(async move {
            let stream = TcpStream::connect(address).await?;
            prepare(&stream)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn listen<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        let handle = self.handle.clone();
        self.within(async move {
            let listener = TcpListener::bind((super::bare_host(host), port)).await?;
            let address = listener.local_addr()?;
            Ok(Box::new(RealListener { listener, address, handle }) as Box<dyn Listener>)
        })
    }
}

impl fmt::Debug for RealRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealRuntime").field("flavor", &self.handle.runtime_flavor()).finish_non_exhaustive()
    }
}

/// Small requests leave at once, and a peer that vanished is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

impl Stream for TcpStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        Self::local_addr(self).ok()
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        Self::peer_addr(self).ok()
    }
}

#[derive(Debug)]
struct RealListener {
    listener: TcpListener,
    address: SocketAddr,
    handle: Handle,
}

impl Listener for RealListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = {
                let mut accept = Box::pin(self.listener.accept());
                std::future::poll_fn(|context| {
                    let _guard = self.handle.enter();
                    accept.as_mut().poll(context)
                })
                .await?
            };
            prepare(&stream)?;
            Ok((Box::new(stream) as Box<dyn Stream>, peer))
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::runtime::TaskError;

    #[tokio::test]
    async fn streams_carry_bytes_and_half_closes() {
        let runtime = crate::runtime::real();
        let listener = runtime.listen("127.0.0.1", 0).await.expect("a free port");
        let address = listener.local_addr();
        let server = runtime.spawn(
            "server",
            Box::pin(async move {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut asked = Vec::new();
                stream.read_to_end(&mut asked).await.expect("the question");
                asked.reverse();
                stream.write_all(&asked).await.expect("the answer leaves");
            }),
        );
        let addresses = runtime.resolve("127.0.0.1", address.port()).await.expect("a literal resolves");
        let mut stream = runtime.connect(addresses[0]).await.expect("a connection");
        assert!(stream.is_write_vectored());
        assert_eq!(stream.peer_addr(), Some(address));
        stream.write_all(b"abc").await.expect("the question leaves");
        stream.shutdown().await.expect("half close");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("the answer");
        assert_eq!(answer, b"cba");
        assert_eq!(server.join().await, Ok(()));
    }

    #[test]
    fn sockets_work_for_callers_outside_of_tokio() {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a tokio runtime");
        let runtime: Arc<dyn Runtime> = RealRuntime::on(tokio.handle().clone()).expect("a runtime");
        let (sender, receiver) = std::sync::mpsc::channel();
        let connecting = runtime.clone();
        let _task = runtime.spawn(
            "outside",
            Box::pin(async move {
                let listener = connecting.listen("127.0.0.1", 0).await.expect("a free port");
                sender.send(listener.local_addr()).expect("the test listens");
                let _ = listener.accept().await;
            }),
        );
        let address = receiver.recv().expect("an address");
        let mut connect = runtime.connect(address);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while connect.as_mut().poll(&mut context).is_pending() {
            std::thread::yield_now();
        }
        drop(connect);
        assert!(RealRuntime::try_current().is_err());
    }

    #[tokio::test]
    async fn a_panic_ends_its_task_alone_and_is_reported() {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = count.clone();
        let hook: PanicHook = Arc::new(move |name, message| {
            assert_eq!((name, message), ("bad", "boom 7"));
            seen.fetch_add(1, Ordering::Relaxed);
        });
        let runtime: Arc<dyn Runtime> =
            RealRuntime::with_panic_hook(Handle::current(), hook).expect("a runtime");
        let bad = runtime.spawn("bad", Box::pin(async { panic!("boom {}", 7) }));
        assert_eq!(bad.join().await, Err(TaskError::Panicked("boom 7".to_owned())));
        let blocking = runtime.blocking("bad", || panic!("boom {}", 7)).await;
        assert_eq!(blocking, Err::<(), _>(TaskError::Panicked("boom 7".to_owned())));
        assert_eq!(count.load(Ordering::Relaxed), 2);
        assert_eq!(runtime.blocking("good", || 5).await, Ok(5));
    }

    #[tokio::test]
    async fn tasks_are_aborted_on_demand_and_by_their_guard() {
        let runtime = crate::runtime::real();
        let task = runtime.spawn("waits", Box::pin(std::future::pending()));
        task.abort();
        assert_eq!(task.join().await, Err(TaskError::Aborted));

        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let guard = runtime
            .spawn(
                "waits",
                Box::pin(async move {
                    let _sender = sender;
                    std::future::pending::<()>().await;
                }),
            )
            .abort_on_drop();
        drop(guard);
        assert!(receiver.await.is_err(), "the future of the task was dropped");
    }
}
