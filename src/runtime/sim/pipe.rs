//! One direction of a simulated connection: a machine that is told the time and gives bytes back when they arrive.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::task::Waker;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::Instant;

/// What the way to the reader looks like at the moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// One-way delay of this chunk.
    pub(super) latency: Duration,
    /// Bytes per second, if limited.
    pub(super) bandwidth: Option<u64>,
}

/// How a direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The writer closed it: end of file.
    Closed,
    /// The connection was cut.
    Reset,
}

#[derive(Debug)]
enum Content {
    Bytes(Bytes),
    End(End),
}

#[derive(Debug)]
struct Chunk {
    /// When it arrives; `None` while the way is blocked. Relation: times never fall, `None` only behind all times.
    arrives: Option<Instant>,
    content: Content,
}

/// When and how the writer learns that nobody reads any more. What it writes before then is lost in silence.
#[derive(Debug)]
struct Broken {
    learned: Option<Instant>,
    kind: ErrorKind,
    /// Bytes lost so far; `lost <= capacity`, so that a writer without an end waits for the news.
    lost: usize,
}

/// What the reader finds.
#[derive(Debug)]
pub(super) enum Arrival {
    /// So many bytes were copied.
    Bytes(usize),
    /// Nothing more comes.
    End(End),
    /// Look again then, or when woken.
    NotBefore(Instant),
    /// Look again when woken.
    Unknown,
}

/// What becomes of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// So many bytes may be sent.
    Bytes(usize),
    /// So many bytes are taken and lost.
    Lost(usize),
    /// Look again then, or when woken.
    Full(Option<Instant>),
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Pipe {
    chunks: VecDeque<Chunk>,
    /// Bytes in `chunks`; `buffered <= capacity`.
    buffered: usize,
    capacity: usize,
    /// Arrival of the last chunk, so that none overtakes another.
    last_arrival: Instant,
    /// When the line has sent what was given to it, if bandwidth is limited.
    line_free: Instant,
    blocked: bool,
    shut: bool,
    broken: Option<Broken>,
    ended: Option<End>,
    /// Bytes that may still pass before the connection is cut.
    cut_after: Option<u64>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    pub(super) fn new(now: Instant, capacity: usize, blocked: bool, cut_after: Option<u64>) -> Self {
        Self {
            chunks: VecDeque::new(),
            buffered: 0,
            capacity,
            last_arrival: now,
            line_free: now,
            blocked,
            shut: false,
            broken: None,
            ended: None,
            cut_after,
            reader: None,
            writer: None,
        }
    }

    /// How much of `wanted` bytes the writer may send.
    pub(super) fn room(&self, now: Instant, wanted: usize) -> io::Result<Room> {
        if self.shut {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "written to after the end of this direction"));
        }
        match &self.broken {
            Some(Broken { learned: Some(at), kind, .. }) if *at <= now => {
                Err(io::Error::new(*kind, "the simulated connection is gone"))
            }
            _ if wanted == 0 => Ok(Room::Bytes(0)),
            Some(broken) => match wanted.min(self.capacity - broken.lost) {
                0 => Ok(Room::Full(broken.learned)),
                bytes => Ok(Room::Lost(bytes)),
            },
            None => match wanted.min(self.capacity - self.buffered) {
                0 => Ok(Room::Full(None)),
                bytes => Ok(Room::Bytes(bytes)),
            },
        }
    }

    /// Sends bytes that there is [room](Self::room) for. True if a limit set by [`cut_after`](Self::cut_after) was
    /// reached: the connection is to be cut behind what was let through.
    pub(super) fn send(&mut self, now: Instant, path: Path, mut bytes: Bytes) -> bool {
        let mut cut = false;
        if let Some(left) = &mut self.cut_after {
            if *left <= bytes.len() as u64 {
                bytes.truncate(*left as usize);
                cut = true;
            }
            *left -= bytes.len() as u64;
        }
        if !bytes.is_empty() {
            self.buffered += bytes.len();
            self.push(now, path, Content::Bytes(bytes));
        }
        cut
    }

    /// Counts bytes that [`room`](Self::room) said are lost.
    pub(super) fn lose(&mut self, bytes: usize) {
        if let Some(broken) = &mut self.broken {
            broken.lost += bytes;
        }
    }

    /// The writer closes the direction: the reader finds the end behind the bytes.
    pub(super) fn shut(&mut self, now: Instant, path: Path) {
        if !self.shut {
            self.shut = true;
            if self.broken.is_none() {
                self.push(now, path, Content::End(End::Closed));
            }
        }
    }

    /// The reader is gone: what is under way and what comes is lost, and the writer learns of it later.
    pub(super) fn abandon(&mut self, now: Instant, path: Path) {
        self.chunks.clear();
        self.buffered = 0;
        if self.broken.is_none() {
            let learned = (!self.blocked).then(|| now + path.latency);
            self.broken = Some(Broken { learned, kind: ErrorKind::BrokenPipe, lost: 0 });
        }
    }

    /// Cuts the connection at once: what has arrived can still be read.
    pub(super) fn cut(&mut self, now: Instant) {
        while self.chunks.back().is_some_and(|chunk| chunk.arrives.is_none_or(|at| at > now)) {
            if let Some(Chunk { content: Content::Bytes(bytes), .. }) = self.chunks.pop_back() {
                self.buffered -= bytes.len();
            }
        }
        self.chunks.push_back(Chunk { arrives: Some(now), content: Content::End(End::Reset) });
        self.broken = Some(Broken { learned: Some(now), kind: ErrorKind::ConnectionReset, lost: 0 });
    }

    /// Cuts the connection behind the bytes under way; the writer learns of it a delay later.
    pub(super) fn cut_behind(&mut self, now: Instant, path: Path) {
        if self.broken.is_none() {
            self.push(now, path, Content::End(End::Reset));
            let learned = self.chunks.back().and_then(|chunk| chunk.arrives).map(|at| at + path.latency);
            self.broken = Some(Broken { learned, kind: ErrorKind::ConnectionReset, lost: 0 });
        }
    }

    /// Lets `bytes` more bytes through, then cuts.
    pub(super) fn cut_after(&mut self, bytes: u64) {
        self.cut_after = Some(bytes);
    }

    /// Copies what has arrived into `buffer`.
    pub(super) fn receive(&mut self, now: Instant, buffer: &mut tokio::io::ReadBuf<'_>) -> Arrival {
        if let Some(end) = self.ended {
            return Arrival::End(end);
        }
        let mut copied = 0;
        while let Some(chunk) = self.chunks.front_mut() {
            match chunk.arrives {
                Some(at) if at <= now => {}
                _ if copied > 0 => break,
                Some(at) => return Arrival::NotBefore(at),
                None => return Arrival::Unknown,
            }
            match &mut chunk.content {
                Content::Bytes(bytes) => {
                    if buffer.remaining() == 0 {
                        break;
                    }
                    let length = bytes.len().min(buffer.remaining());
                    buffer.put_slice(&bytes[..length]);
                    bytes.advance(length);
                    self.buffered -= length;
                    copied += length;
                    if bytes.is_empty() {
                        self.chunks.pop_front();
                    }
                }
                Content::End(_) if copied > 0 => break,
                Content::End(end) => {
                    self.ended = Some(*end);
                    return Arrival::End(*end);
                }
            }
        }
        if copied == 0 && buffer.remaining() > 0 { Arrival::Unknown } else { Arrival::Bytes(copied) }
    }

    /// Blocks or frees the way. What is under way when it is blocked, and what is sent while it is, arrives after it
    /// is free again; `path` is called for the delay of each chunk.
    pub(super) fn set_blocked(&mut self, now: Instant, blocked: bool, mut path: impl FnMut() -> Path) {
        if self.blocked == blocked {
            return;
        }
        self.blocked = blocked;
        if blocked {
            for chunk in &mut self.chunks {
                chunk.arrives = chunk.arrives.filter(|at| *at <= now);
            }
            if let Some(broken) = &mut self.broken {
                broken.learned = broken.learned.filter(|at| *at <= now);
            }
            // What was scheduled is void; the line is idle while nothing passes.
            self.last_arrival = self.last_arrival.min(now);
            self.line_free = self.line_free.min(now);
        } else {
            for index in 0..self.chunks.len() {
                if self.chunks[index].arrives.is_none() {
                    let length = match &self.chunks[index].content {
                        Content::Bytes(bytes) => bytes.len(),
                        Content::End(_) => 0,
                    };
                    self.chunks[index].arrives = Some(self.schedule(now, path(), length));
                }
            }
            if let Some(broken @ Broken { learned: None, .. }) = &mut self.broken {
                broken.learned = Some(self.last_arrival.max(now) + path().latency);
            }
        }
    }

    pub(super) fn wait_to_read(&mut self, waker: &Waker) {
        self.reader = Some(waker.clone());
    }

    pub(super) fn wait_to_write(&mut self, waker: &Waker) {
        self.writer = Some(waker.clone());
    }

    /// The waiting reader, to be woken after something was sent, cut or freed.
    pub(super) fn take_reader(&mut self) -> Option<Waker> {
        self.reader.take()
    }

    /// The waiting writer, to be woken after something was read, cut or freed.
    pub(super) fn take_writer(&mut self) -> Option<Waker> {
        self.writer.take()
    }

    fn push(&mut self, now: Instant, path: Path, content: Content) {
        let length = match &content {
            Content::Bytes(bytes) => bytes.len(),
            Content::End(_) => 0,
        };
        let arrives = (!self.blocked).then(|| self.schedule(now, path, length));
        self.chunks.push_back(Chunk { arrives, content });
    }

    fn schedule(&mut self, now: Instant, path: Path, length: usize) -> Instant {
        let mut sent = now;
        if let Some(bandwidth) = path.bandwidth {
            let seconds = length as f64 / bandwidth.max(1) as f64;
            self.line_free = self.line_free.max(now) + Duration::from_secs_f64(seconds);
            sent = self.line_free;
        }
        self.last_arrival = self.last_arrival.max(sent + path.latency);
        self.last_arrival
    }
}
