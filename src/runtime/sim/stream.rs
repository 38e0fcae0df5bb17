//! The ends of simulated connections, and the listeners that they come from.

use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::fault::Direction;
use super::network::{Connection, SimNetwork, State, Wakes};
use super::pipe::{Arrival, End, Room};
use super::trace::Event;
use crate::runtime::{BoxFuture, Listener, Stream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    /// The direction that this side writes in.
    fn out(self) -> Direction {
        match self {
            Self::Client => Direction::ToServer,
            Self::Server => Direction::ToClient,
        }
    }

    /// The direction that this side reads from.
    fn back(self) -> Direction {
        match self {
            Self::Client => Direction::ToClient,
            Self::Server => Direction::ToServer,
        }
    }
}

/// A listening address.
pub(super) struct SimListener {
    pub(super) network: SimNetwork,
    pub(super) id: u64,
    pub(super) address: SocketAddr,
    pub(super) arrived: Arc<Notify>,
}

impl Listener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            loop {
                {
                    let mut state = self.network.lock();
                    let backlog =
                        state.listeners.get_mut(&self.address).filter(|backlog| backlog.id == self.id);
                    if let Some(stream) = backlog.and_then(|backlog| backlog.waiting.pop_front()) {
                        let peer = stream.peer;
                        state.record(Event::Accept, self.address, peer, 0, 0);
                        return Ok((Box::new(stream) as Box<dyn Stream>, peer));
                    }
                }
                // A permit of an arrival since the look above is kept, so none is missed.
                self.arrived.notified().await;
            }
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = self.network.lock();
        let backlog = state.listeners.remove(&self.address);
        state.record(Event::Unlisten, self.address, self.address, 0, 0);
        drop(state);
        // Dropped here, since streams take the lock when they are dropped.
        drop(backlog);
    }
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimListener").field("address", &self.address).finish_non_exhaustive()
    }
}

type Alarm = Option<Pin<Box<Sleep>>>;

/// One end of a simulated connection.
pub(super) struct SimStream {
    network: SimNetwork,
    id: u64,
    side: Side,
    local: SocketAddr,
    peer: SocketAddr,
    /// Wakes the reader when the next bytes arrive.
    read_alarm: Alarm,
    /// Wakes the writer when it learns that nobody reads.
    write_alarm: Alarm,
}

impl SimStream {
    pub(super) fn new(network: SimNetwork, id: u64, side: Side, local: SocketAddr, peer: SocketAddr) -> Self {
        Self { network, id, side, local, peer, read_alarm: None, write_alarm: None }
    }

    /// Calls `act` with the network and the connection, then wakes whom it concerns.
    fn with<T>(&self, act: impl FnOnce(&mut State, &mut Connection, &mut Wakes) -> T) -> io::Result<T> {
        let mut wakes = Wakes::default();
        let mut state = self.network.lock();
        let Some(mut connection) = state.connections.remove(&self.id) else {
            return Err(ErrorKind::NotConnected.into());
        };
        let result = act(&mut state, &mut connection, &mut wakes);
        if connection.ends > 0 {
            state.connections.insert(self.id, connection);
        }
        drop(state);
        wakes.wake();
        Ok(result)
    }

    /// Sends what there is room for now; if there is none, `waker` is kept.
    fn send(&self, waker: &Waker, buffers: &[IoSlice<'_>]) -> io::Result<Room> {
        let now = Instant::now();
        let wanted = buffers.iter().map(|buffer| buffer.len()).sum();
        self.with(|state, connection, wakes| {
            let pipe = connection.outgoing(self.side);
            let mut length = match pipe.room(now, wanted)? {
                Room::Bytes(length @ 1..) => length,
                Room::Lost(length) => {
                    pipe.lose(length);
                    return Ok(Room::Lost(length));
                }
                room => {
                    pipe.wait_to_write(waker);
                    return Ok(room);
                }
            };
            if state.short_writes && length > 1 && state.dice.u8(..) < 16 {
                length = state.dice.usize(1..length);
            }
            let bytes = gather(buffers, length);
            state.record(Event::Send, self.local, self.peer, length, crc32c::crc32c(&bytes));
            let path = state.path_of(connection, self.side.out());
            let pipe = connection.outgoing(self.side);
            let cut = pipe.send(now, path, bytes);
            wakes.0.extend(pipe.take_reader());
            if cut {
                pipe.cut_behind(now, path);
                state.record(Event::Cut, connection.client, connection.server, 0, 0);
                let path = state.path_of(connection, self.side.back());
                let back = connection.incoming(self.side);
                back.cut_behind(now, path);
                wakes.all_of(back);
            }
            Ok(Room::Bytes(length))
        })?
    }
}

/// Waits until `at`, or for a wake-up.
fn wait(alarm: &mut Alarm, at: Instant, context: &mut Context<'_>) -> Poll<()> {
    let sleep = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
    if sleep.deadline() != at {
        sleep.as_mut().reset(at);
    }
    ready!(sleep.as_mut().poll(context));
    *alarm = None;
    Poll::Ready(())
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let now = Instant::now();
            let before = buffer.filled().len();
            let arrival = this.with(|state, connection, wakes| {
                let pipe = connection.incoming(this.side);
                let arrival = pipe.receive(now, buffer);
                match arrival {
                    Arrival::Bytes(0) | Arrival::End(_) => {}
                    Arrival::Bytes(bytes) => {
                        wakes.0.extend(pipe.take_writer());
                        let content = crc32c::crc32c(&buffer.filled()[before..]);
                        state.record(Event::Receive, this.peer, this.local, bytes, content);
                    }
                    Arrival::NotBefore(_) | Arrival::Unknown => pipe.wait_to_read(context.waker()),
                }
                arrival
            })?;
            match arrival {
                Arrival::Bytes(_) | Arrival::End(End::Closed) => return Poll::Ready(Ok(())),
                Arrival::End(End::Reset) => {
                    return Poll::Ready(Err(io::Error::new(
                        ErrorKind::ConnectionReset,
                        "the simulated connection was cut",
                    )));
                }
                Arrival::Unknown => return Poll::Pending,
                Arrival::NotBefore(at) => ready!(wait(&mut this.read_alarm, at, context)),
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match this.send(context.waker(), buffers)? {
                Room::Bytes(length) | Room::Lost(length) => return Poll::Ready(Ok(length)),
                Room::Full(None) => return Poll::Pending,
                Room::Full(Some(at)) => ready!(wait(&mut this.write_alarm, at, context)),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let this = &*self;
        this.with(|state, connection, wakes| {
            state.record(Event::Shutdown, this.local, this.peer, 0, 0);
            let path = state.path_of(connection, this.side.out());
            let pipe = connection.outgoing(this.side);
            pipe.shut(now, path);
            wakes.all_of(pipe);
        })?;
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let now = Instant::now();
        // The connection is there for as long as one end is.
        let _ = self.with(|state, connection, wakes| {
            state.record(Event::Close, self.local, self.peer, 0, 0);
            connection.ends -= 1;
            let path = state.path_of(connection, self.side.out());
            connection.outgoing(self.side).shut(now, path);
            wakes.all_of(connection.outgoing(self.side));
            let path = state.path_of(connection, self.side.back());
            connection.incoming(self.side).abandon(now, path);
            wakes.all_of(connection.incoming(self.side));
        });
    }
}

impl Stream for SimStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        Some(self.local)
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStream")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// The first `length` bytes of `buffers`.
fn gather(buffers: &[IoSlice<'_>], length: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(length);
    for buffer in buffers {
        let left = length - bytes.len();
        bytes.extend_from_slice(&buffer[..buffer.len().min(left)]);
    }
    bytes.freeze()
}
