//! The simulated network: who listens where, which connections exist, what is broken.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::fault::{Direction, Effect, Fault, FaultId, Links};
use super::pipe::{Path, Pipe};
use super::stream::{Side, SimListener, SimStream};
use super::trace::{Event, Trace};

/// Connections that wait for `accept`; more are refused.
const BACKLOG: usize = 1024;

/// Ports given to openers and to listeners on port 0.
const EPHEMERAL_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// The network of a simulated world; a cheap handle. Faults are for the test to draw, from a seed of its own: nothing
/// fails by itself here.
#[derive(Clone)]
pub struct SimNetwork(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Faults were added or healed: attempts to connect look again.
    changed: Notify,
}

pub(super) struct State {
    start: Instant,
    pub(super) dice: fastrand::Rng,
    latency: RangeInclusive<Duration>,
    buffer: usize,
    pub(super) short_writes: bool,
    hosts: BTreeMap<String, Vec<IpAddr>>,
    pub(super) listeners: BTreeMap<SocketAddr, Backlog>,
    pub(super) connections: BTreeMap<u64, Connection>,
    faults: BTreeMap<u64, Fault>,
    next_id: u64,
    next_port: u16,
    trace: Trace,
}

pub(super) struct Backlog {
    pub(super) id: u64,
    pub(super) waiting: VecDeque<SimStream>,
    arrived: Arc<Notify>,
}

pub(super) struct Connection {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    to_server: Pipe,
    to_client: Pipe,
    /// Ends that still exist.
    pub(super) ends: u8,
}

/// Wakers that are called once the lock is free.
#[derive(Default)]
pub(super) struct Wakes(pub(super) Vec<Waker>);

impl Wakes {
    pub(super) fn all_of(&mut self, pipe: &mut Pipe) {
        self.0.extend(pipe.take_reader());
        self.0.extend(pipe.take_writer());
    }

    pub(super) fn wake(self) {
        for waker in self.0 {
            waker.wake();
        }
    }
}

impl SimNetwork {
    pub(super) fn new(
        start: Instant,
        dice: fastrand::Rng,
        latency: RangeInclusive<Duration>,
        buffer: usize,
        short_writes: bool,
    ) -> Self {
        let state = State {
            start,
            dice,
            latency,
            buffer,
            short_writes,
            hosts: BTreeMap::from([("localhost".to_owned(), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])]),
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            faults: BTreeMap::new(),
            next_id: 0,
            next_port: *EPHEMERAL_PORTS.start(),
            trace: Trace::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Makes `name` resolve to `addresses`; none makes look-ups of it fail. `localhost` is known from the start, and
    /// addresses resolve to themselves.
    pub fn set_host(&self, name: &str, addresses: Vec<IpAddr>) {
        self.lock().hosts.insert(name.to_ascii_lowercase(), addresses);
    }

    /// Cuts connections now: bytes under way are lost, both ends find the connection reset. Returns how many.
    pub fn cut(&self, links: &Links) -> usize {
        let now = Instant::now();
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let State { connections, trace, start, .. } = &mut *state;
        let mut count = 0;
        for connection in connections.values_mut().filter(|connection| connection.is_one_of(links)) {
            count += 1;
            trace.record(now - *start, Event::Cut, connection.client, connection.server, 0, 0);
            connection.to_server.cut(now);
            connection.to_client.cut(now);
            wakes.all_of(&mut connection.to_server);
            wakes.all_of(&mut connection.to_client);
        }
        drop(state);
        wakes.wake();
        count
    }

    /// Cuts each of the present connections once `bytes` more bytes went in `direction` (with `Both`, in either one).
    /// The bytes before the cut arrive, those after it are lost. Returns how many connections that concerns.
    pub fn cut_after(&self, links: &Links, direction: Direction, bytes: u64) -> usize {
        let mut state = self.lock();
        let mut count = 0;
        for connection in state.connections.values_mut().filter(|connection| connection.is_one_of(links)) {
            count += 1;
            if direction.covers(Direction::ToServer) {
                connection.to_server.cut_after(bytes);
            }
            if direction.covers(Direction::ToClient) {
                connection.to_client.cut_after(bytes);
            }
        }
        count
    }

    /// As [`cut_after`](Self::cut_after) for each connection that is opened from now on.
    pub fn cut_new_after(&self, links: Links, direction: Direction, bytes: u64) -> FaultId {
        self.add(links, direction, Effect::CutNewAfter(bytes))
    }

    /// Lets nothing through in `direction`: bytes, ends of connections and attempts to connect wait, nobody is told.
    /// What waits arrives after the fault is healed. Resets by [`cut`](Self::cut) are seen all the same.
    pub fn partition(&self, links: Links, direction: Direction) -> FaultId {
        self.add(links, direction, Effect::Hold)
    }

    /// Refuses attempts to connect.
    pub fn refuse(&self, links: Links) -> FaultId {
        self.add(links, Direction::ToServer, Effect::Refuse)
    }

    /// Adds a delay, drawn anew for each chunk of bytes.
    pub fn delay(&self, links: Links, direction: Direction, delay: RangeInclusive<Duration>) -> FaultId {
        self.add(links, direction, Effect::Delay(delay))
    }

    /// Limits each direction of each connection to so many bytes per second (at least 1).
    pub fn throttle(&self, links: Links, direction: Direction, bytes_per_second: u64) -> FaultId {
        self.add(links, direction, Effect::Bandwidth(bytes_per_second.max(1)))
    }

    /// Ends a fault. Healing it again does nothing.
    pub fn heal(&self, fault: FaultId) {
        self.change_faults(Event::Heal, |state| {
            state.faults.remove(&fault.0);
        });
    }

    /// Ends all faults.
    pub fn heal_all(&self) {
        self.change_faults(Event::Heal, |state| state.faults.clear());
    }

    /// The present connections as (opener, acceptor), oldest first. A connection ends when both ends are dropped.
    pub fn connections(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.lock().connections.values().map(|connection| (connection.client, connection.server)).collect()
    }

    /// The number of network events so far.
    pub fn events(&self) -> u64 {
        self.lock().trace.events()
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.lock().trace.hash()
    }

    pub(super) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let delay = self.lock().latency();
        tokio::time::sleep(delay).await;
        let mut state = self.lock();
        let addresses = state.lookup(host);
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        state.record(Event::Lookup, nowhere, nowhere, addresses.len(), crc32c::crc32c(host.as_bytes()));
        if addresses.is_empty() {
            return Err(crate::runtime::no_address(host));
        }
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    pub(super) fn listen(&self, local: IpAddr, host: &str, port: u16) -> io::Result<SimListener> {
        let mut state = self.lock();
        let mut ip = *state.lookup(host).first().ok_or_else(|| crate::runtime::no_address(host))?;
        if ip.is_unspecified() || ip.is_loopback() {
            ip = local;
        }
        let address = match port {
            0 => state.free_port(ip)?,
            _ => SocketAddr::new(ip, port),
        };
        if state.listeners.contains_key(&address) {
            return Err(io::Error::new(ErrorKind::AddrInUse, format!("{address} is listened on already")));
        }
        let id = state.take_id();
        let arrived = Arc::new(Notify::new());
        state.listeners.insert(address, Backlog { id, waiting: VecDeque::new(), arrived: arrived.clone() });
        state.record(Event::Listen, address, address, 0, 0);
        drop(state);
        Ok(SimListener { network: self.clone(), id, address, arrived })
    }

    pub(super) async fn connect(&self, local: IpAddr, server: SocketAddr) -> io::Result<SimStream> {
        let client = {
            let mut state = self.lock();
            let client = state.free_port(local)?;
            state.record(Event::Connect, client, server, 0, 0);
            client
        };
        self.pass(client, server, Direction::ToServer).await;
        let opened = self.open(client, server);
        // The answer takes its time too, whatever it says.
        self.pass(client, server, Direction::ToClient).await;
        opened
    }

    /// Waits for as long as a packet takes, and for partitions to heal.
    async fn pass(&self, client: SocketAddr, server: SocketAddr, direction: Direction) {
        let delay = self.lock().path(client, server, direction).latency;
        tokio::time::sleep(delay).await;
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if !self.lock().is_blocked(client, server, direction) {
                return;
            }
            changed.await;
        }
    }

    /// Creates a connection whose far end waits to be accepted.
    fn open(&self, client: SocketAddr, server: SocketAddr) -> io::Result<SimStream> {
        let now = Instant::now();
        let mut state = self.lock();
        let refused = state.faults.values().any(|fault| {
            matches!(fault.effect, Effect::Refuse) && fault.concerns(client, server, Direction::ToServer)
        });
        let id = state.take_id();
        let waits = |backlog: &&mut Backlog| !refused && backlog.waiting.len() < BACKLOG;
        let Some(backlog) = state.listeners.get_mut(&server).filter(waits) else {
            state.record(Event::Refuse, server, client, 0, 0);
            return Err(ErrorKind::ConnectionRefused.into());
        };
        backlog.waiting.push_back(SimStream::new(self.clone(), id, Side::Server, server, client));
        backlog.arrived.notify_one();
        let pipe = |direction| {
            let cut_after = state.faults.values().find_map(|fault| match fault.effect {
                Effect::CutNewAfter(bytes) if fault.concerns(client, server, direction) => Some(bytes),
                _ => None,
            });
            Pipe::new(now, state.buffer, state.is_blocked(client, server, direction), cut_after)
        };
        let (to_server, to_client) = (pipe(Direction::ToServer), pipe(Direction::ToClient));
        state.connections.insert(id, Connection { client, server, to_server, to_client, ends: 2 });
        Ok(SimStream::new(self.clone(), id, Side::Client, client, server))
    }

    fn add(&self, links: Links, direction: Direction, effect: Effect) -> FaultId {
        let mut id = 0;
        self.change_faults(Event::Fault, |state| {
            id = state.take_id();
            state.faults.insert(id, Fault { links, direction, effect });
        });
        FaultId(id)
    }

    /// Changes the faults and lets all connections feel it.
    fn change_faults(&self, event: Event, change: impl FnOnce(&mut State)) {
        let now = Instant::now();
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        change(&mut state);
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let faults = state.faults.len();
        state.record(event, nowhere, nowhere, faults, 0);
        let mut connections = std::mem::take(&mut state.connections);
        for connection in connections.values_mut() {
            let (client, server) = (connection.client, connection.server);
            for (direction, pipe) in [
                (Direction::ToServer, &mut connection.to_server),
                (Direction::ToClient, &mut connection.to_client),
            ] {
                let blocked = state.is_blocked(client, server, direction);
                pipe.set_blocked(now, blocked, || state.path(client, server, direction));
                wakes.all_of(pipe);
            }
        }
        state.connections = connections;
        drop(state);
        wakes.wake();
        self.0.changed.notify_waiters();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock ends a test anyway; its report should not be buried under others.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("SimNetwork")
            .field("listeners", &state.listeners.len())
            .field("connections", &state.connections.len())
            .field("faults", &state.faults.len())
            .finish_non_exhaustive()
    }
}

impl State {
    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn latency(&mut self) -> Duration {
        draw(&mut self.dice, &self.latency)
    }

    fn lookup(&self, host: &str) -> Vec<IpAddr> {
        let host = crate::runtime::bare_host(host);
        match host.parse() {
            Ok(address) => vec![address],
            Err(_) => self.hosts.get(&host.to_ascii_lowercase()).cloned().unwrap_or_default(),
        }
    }

    fn free_port(&mut self, ip: IpAddr) -> io::Result<SocketAddr> {
        for _ in EPHEMERAL_PORTS {
            let address = SocketAddr::new(ip, self.next_port);
            self.next_port = match self.next_port {
                port if port >= *EPHEMERAL_PORTS.end() => *EPHEMERAL_PORTS.start(),
                port => port + 1,
            };
            let used = self.connections.values().any(|connection| connection.client == address);
            if !used && !self.listeners.contains_key(&address) {
                return Ok(address);
            }
        }
        Err(io::Error::new(ErrorKind::AddrInUse, format!("all ports of {ip} are in use")))
    }

    fn is_blocked(&self, client: SocketAddr, server: SocketAddr, direction: Direction) -> bool {
        self.faults
            .values()
            .any(|fault| matches!(fault.effect, Effect::Hold) && fault.concerns(client, server, direction))
    }

    /// Draws the delay of one chunk.
    fn path(&mut self, client: SocketAddr, server: SocketAddr, direction: Direction) -> Path {
        let mut path = Path { latency: self.latency(), bandwidth: None };
        for fault in self.faults.values().filter(|fault| fault.concerns(client, server, direction)) {
            match &fault.effect {
                Effect::Delay(delay) => path.latency += draw(&mut self.dice, delay),
                Effect::Bandwidth(limit) => {
                    path.bandwidth = Some(path.bandwidth.map_or(*limit, |other| other.min(*limit)));
                }
                Effect::Hold | Effect::Refuse | Effect::CutNewAfter(_) => {}
            }
        }
        path
    }

    pub(super) fn path_of(&mut self, connection: &Connection, direction: Direction) -> Path {
        self.path(connection.client, connection.server, direction)
    }

    pub(super) fn record(
        &mut self,
        event: Event,
        from: SocketAddr,
        to: SocketAddr,
        bytes: usize,
        content: u32,
    ) {
        self.trace.record(self.start.elapsed(), event, from, to, bytes, content);
    }
}

fn draw(dice: &mut fastrand::Rng, range: &RangeInclusive<Duration>) -> Duration {
    let nanos = |duration: &Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let (low, high) = (nanos(range.start()), nanos(range.end()));
    Duration::from_nanos(if low < high { dice.u64(low..=high) } else { low })
}

impl Connection {
    fn is_one_of(&self, links: &Links) -> bool {
        links.contains(self.client, self.server)
    }

    /// The pipe that `side` writes to.
    pub(super) fn outgoing(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Client => &mut self.to_server,
            Side::Server => &mut self.to_client,
        }
    }

    /// The pipe that `side` reads from.
    pub(super) fn incoming(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Client => &mut self.to_client,
            Side::Server => &mut self.to_server,
        }
    }
}
