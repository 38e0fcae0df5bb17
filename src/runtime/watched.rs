//! A simulated runtime for tests of what runs where blocking is allowed.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::sim::SimRuntime;
use super::{BlockingWork, BoxFuture, Listener, Runtime, Stream, Task};

/// Notes blocking work, and keeps it waiting if told so.
#[derive(Debug)]
pub(crate) struct Watched {
    sim: Arc<SimRuntime>,
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work {
    names: Vec<&'static str>,
    hold: bool,
    held: Vec<BlockingWork>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Watched {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { sim: SimRuntime::new(seed), work: Mutex::default() })
    }

    /// How often work of this name was given.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.work.lock().unwrap().names.iter().filter(|known| **known == name).count()
    }

    /// Blocking work waits from now on.
    pub(crate) fn hold(&self) {
        self.work.lock().unwrap().hold = true;
    }

    /// The work that waits, to be run or dropped.
    pub(crate) fn take_held(&self) -> Vec<BlockingWork> {
        std::mem::take(&mut self.work.lock().unwrap().held)
    }
}

impl Runtime for Watched {
    fn wall_clock(&self) -> SystemTime {
        self.sim.wall_clock()
    }

    fn random(&self) -> u64 {
        self.sim.random()
    }

    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task {
        self.sim.spawn(name, future)
    }

    fn run_blocking(&self, name: &'static str, work: BlockingWork) -> Task {
        let mut state = self.work.lock().unwrap();
        state.names.push(name);
        if state.hold {
            state.held.push(work);
            return Task::finished(name, Ok(()));
        }
        drop(state);
        self.sim.run_blocking(name, work)
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.sim.resolve(host, port)
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        self.sim.connect(address)
    }

    fn listen<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.sim.listen(host, port)
    }
}
