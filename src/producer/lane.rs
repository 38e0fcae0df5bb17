//! Where appenders and the sender meet: the open batch of one partition, and closed ones that were not collected yet.
//!
//! One short lock per append, or per run of records that go to the same lane; never held across an await. The sender gets
//! a command when a lane turns non-empty or a batch closes; further records until it collects cost no command.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Record;
use super::batch::{Batch, BatchCell};
use super::compress::{self, Codec};
use super::gauge::Gauge;
use super::stock::{self, Stock};
use crate::sync::{Completion, Credit, CreditPool, Mutex, MutexGuard, lock};
use crate::types::TopicName;
use crate::wire::compression::Compression;
use crate::wire::records::{BatchMeta, BatchWriter, RecordSize};

/// Most appends between two looks at the wall clock while batches wait for more.
const CLOCK_APPENDS_MAX: u8 = 64;
/// A broker that finds batches too large does not make them smaller than this.
const BATCH_SIZE_MIN: usize = 16 * 1024;
/// For how long batches are smaller after a broker found one too large. Then the size that was asked for is tried again:
/// the topic's limit may have been raised, and if not, one refused batch is the price.
const SMALLER_FOR: Duration = Duration::from_secs(300);

/// One partition as appenders see it. Where records are spread over thousands of partitions, each append finds its lane in
/// no cache: what every append touches lies at the beginning, in two lines of 64 bytes.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Lane {
    state: Mutex<State>,
    pub(super) id: usize,
    pub(super) topic: TopicName,
    pub(super) partition: i32,
    /// Batches closed and not acknowledged, for the choice of sticky partitions.
    pub(super) queued: AtomicI32,
    /// The partition has a leader.
    pub(super) led: AtomicBool,
}

#[derive(Debug)]
#[repr(C)]
struct State {
    /// Time of day in milliseconds, appends until it is read again, and how many that were when it was read.
    clock: i64,
    clock_appends: u8,
    clock_pace: u8,
    /// The sender knows, or has a command, that the lane is not empty.
    announced: bool,
    /// The sender has a command about closed batches.
    announced_closed: bool,
    /// Appenders are refused: the producer is closed.
    shut: bool,
    /// Appenders look elsewhere: the topic has no such partition any more.
    retired: bool,
    gauge: Arc<Gauge>,
    /// Largest batch with header.
    batch_size: usize,
    open: Option<Open>,
    closed: VecDeque<Closed>,
    next_closed: u64,
    /// As it was asked for, once a broker's word no longer counts.
    full_size: Option<(usize, Instant)>,
    /// Buffer of the next batch, as large as those before.
    chunk: usize,
    /// Records of closed batches.
    enqueued: u64,
}

#[derive(Debug)]
#[repr(C)]
struct Open {
    writer: BatchWriter,
    cell: Arc<BatchCell>,
    /// Bytes that the gauge knows of.
    counted: usize,
    credit: Credit,
    created: Instant,
}

#[derive(Debug)]
struct Closed {
    number: u64,
    cell: Arc<BatchCell>,
    meta: BatchMeta,
    credit: Option<Credit>,
    created: Instant,
    body: Bytes,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for someone to compress it.
    Plain,
    /// Someone compresses it.
    Compressing,
    /// As it goes over the wire.
    Ready(Compression),
}

/// Which of its batches a lane gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// Those that are ready.
    Ready,
    /// The open one too, once it is ready: it is closed first.
    Open,
    /// All of them, as they are: what nobody has compressed yet stays plain. Nobody waits for a codec that way, whatever
    /// has become of it.
    All,
}

/// What a lane still has after batches were collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Closed batches that are not compressed yet.
    pub(super) closed: usize,
    /// When the open batch was opened, if there is one.
    pub(super) open: Option<Instant>,
}

/// A body to compress, to be handed back with [`Lane::compressed`].
#[derive(Debug)]
pub(super) struct Work {
    number: u64,
    body: Bytes,
}

/// Records that were appended to one batch one after the other.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) cell: Arc<BatchCell>,
    /// Of the first.
    pub(super) index: u32,
    pub(super) count: u32,
    /// Of the first.
    pub(super) timestamp: i64,
    /// Bytes that the first took.
    pub(super) bytes: usize,
    /// What the appender has to do.
    pub(super) notice: Notice,
}

/// What an appender has to do after its lock is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notice {
    /// Tell the sender to look at the lane.
    pub(super) announce: bool,
    /// The driver need not be woken for it while this is its latest look; 0 if it must be.
    pub(super) look: u64,
    /// Tell the sender that a request is full.
    pub(super) nudge: bool,
    /// A batch was closed: compress what is small, and let others run.
    pub(super) closed: bool,
}

/// Why a record was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// So many bytes of credit are needed first. The flag tells that a batch was closed on the way.
    Credit(usize, Notice),
    /// Larger than all memory, in bytes.
    TooLarge(usize),
    /// The producer is closed.
    Shut,
    /// The topic has no such partition any more.
    Retired,
}

/// The clocks of an appender: asked only when needed.
pub(super) trait Clocks {
    /// Time of day in milliseconds.
    fn wall(&self) -> i64;
    /// Monotonic time.
    fn now(&self) -> Instant;
}

impl Lane {
    pub(super) fn new(id: usize, topic: TopicName, partition: i32, batch_size: usize) -> Arc<Self> {
        let state = State {
            open: None,
            closed: VecDeque::new(),
            next_closed: 0,
            announced: false,
            announced_closed: false,
            shut: false,
            retired: false,
            gauge: Arc::default(),
            batch_size,
            full_size: None,
            chunk: stock::SIZE_MIN,
            clock: 0,
            clock_appends: 0,
            clock_pace: 1,
            enqueued: 0,
        };
        Arc::new(Self {
            id,
            topic,
            partition,
            queued: AtomicI32::new(0),
            led: AtomicBool::new(false),
            state: Mutex::new(state),
        })
    }

    /// A lock on the lane for any number of appends.
    pub(super) fn appender<'a>(&'a self, stock: &'a Stock) -> Appender<'a> {
        Appender { lane: self, state: lock(&self.state), stock }
    }

    /// Moves the batches that `take` names to `into`, in close order.
    pub(super) fn collect(&self, codec: &Codec, take: Take, into: &mut Vec<Batch>) -> Left {
        let mut state = lock(&self.state);
        if take != Take::Ready {
            state.close_open();
        }
        while let Some(front) = state.closed.front() {
            let compression = match front.stage {
                Stage::Ready(compression) => compression,
                Stage::Plain if codec.is_none() => Compression::None,
                Stage::Plain | Stage::Compressing if take == Take::All => Compression::None,
                Stage::Plain | Stage::Compressing => break,
            };
            if let Some(closed) = state.closed.pop_front() {
                let Closed { cell, meta, credit, created, body, .. } = closed;
                into.push(Batch::new(cell, meta, compression, body, credit, created));
            }
        }
        // What is left is known to the sender: the next record needs no command of its own.
        let open = state.open.as_ref().map(|open| open.created);
        let left = Left { closed: state.closed.len(), open };
        state.announced = open.is_some();
        state.announced_closed = false;
        left
    }

    /// A body that waits to be compressed, of at most `bytes_max`.
    pub(super) fn work(&self, bytes_max: usize) -> Option<Work> {
        let mut state = lock(&self.state);
        let plain = state
            .closed
            .iter_mut()
            .find(|closed| closed.stage == Stage::Plain && closed.body.len() <= bytes_max)?;
        plain.stage = Stage::Compressing;
        Some(Work { number: plain.number, body: plain.body.clone() })
    }

    /// Hands back a body that was compressed, or was not. The sender must be told.
    pub(super) fn compressed(&self, number: u64, compression: Compression, body: Bytes) {
        let mut state = lock(&self.state);
        if let Some(closed) = state.closed.iter_mut().find(|closed| closed.number == number) {
            if let Some(credit) = &mut closed.credit
                && compression != Compression::None
            {
                credit.shrink(body.len());
            }
            closed.body = body;
            closed.stage = Stage::Ready(compression);
        }
    }

    /// Compresses what is small enough to be done at once. Returns true if the sender must be told.
    pub(super) fn compress_inline(&self, codec: &Codec) -> bool {
        if codec.is_none() {
            return false;
        }
        let mut any = false;
        while let Some(work) = self.work(compress::INLINE_MAX) {
            self.run(work, codec);
            any = true;
        }
        any
    }

    /// Does `work`.
    pub(super) fn run(&self, work: Work, codec: &Codec) {
        let (compression, body) = codec.compress(work.body);
        self.compressed(work.number, compression, body);
    }

    /// Hands `work` back undone.
    pub(super) fn give_back(&self, work: Work) {
        self.compressed(work.number, Compression::None, work.body);
    }

    /// The partition has another leader.
    pub(super) fn attach(&self, gauge: &Arc<Gauge>) {
        let mut state = lock(&self.state);
        let counted = state.open.as_ref().map_or(0, |open| open.counted);
        state.gauge.bytes.fetch_sub(counted, Ordering::Relaxed);
        gauge.bytes.fetch_add(counted, Ordering::Relaxed);
        state.gauge = Arc::clone(gauge);
    }

    /// A broker found a batch of `bytes` too large: for a while, the next ones are smaller.
    pub(super) fn shrink(&self, now: Instant, bytes: usize) {
        let mut state = lock(&self.state);
        let full = state.full_size.map_or(state.batch_size, |(full, _)| full);
        state.full_size = Some((full, now + SMALLER_FOR));
        state.batch_size = state.batch_size.min((bytes / 2).max(BATCH_SIZE_MIN));
    }

    /// Refuses records from now on and closes the open batch.
    pub(super) fn shut(&self) {
        let mut state = lock(&self.state);
        state.shut = true;
        state.close_open();
    }

    /// The topic has no such partition any more, or has it again. While it has not, records are refused; what was appended
    /// before is the sender's affair.
    pub(super) fn retire(&self, retired: bool) {
        lock(&self.state).retired = retired;
    }

    /// Records appended so far.
    pub(super) fn enqueued(&self) -> u64 {
        let state = lock(&self.state);
        let open = state.open.as_ref().map_or(0, |open| open.writer.record_count());
        state.enqueued + u64::try_from(open).unwrap_or(0)
    }
}

/// The lock on a lane.
pub(super) struct Appender<'a> {
    lane: &'a Lane,
    state: MutexGuard<'a, State>,
    stock: &'a Stock,
}

impl Appender<'_> {
    /// Appends `record`, or says what is missing. `reserve` is credit that was waited for; what is needed of it is
    /// taken.
    #[inline]
    pub(super) fn append(
        &mut self,
        record: &Record<'_>,
        clocks: &impl Clocks,
        reserve: &mut Option<Credit>,
    ) -> Result<Run, Blocked> {
        let state = &mut *self.state;
        if state.shut {
            return Err(Blocked::Shut);
        }
        if state.retired {
            return Err(Blocked::Retired);
        }
        let timestamp = match record.timestamp {
            Some(timestamp) => timestamp,
            None => state.timestamp(clocks),
        };
        let (key, value) = (record.key_bytes(), record.value_bytes());
        let mut notice = Notice::default();
        loop {
            let Some(open) = &mut state.open else {
                let size = BatchWriter::new()
                    .measure(timestamp, key, value, record.header_slices())
                    .map_err(|_| Blocked::TooLarge(usize::MAX))?;
                self.open(size.bytes(), clocks, reserve, notice)?;
                return self.append_to_open(record, timestamp, None, notice);
            };
            match open.writer.measure(timestamp, key, value, record.header_slices()) {
                Ok(size) if open.writer.batch_len() + size.bytes() <= state.batch_size => {
                    let needed = open.writer.body_len() + size.bytes();
                    if needed > open.writer.capacity() {
                        self.grow(needed, reserve, notice)?;
                    }
                    return self.append_to_open(record, timestamp, Some(size), notice);
                }
                // Full, or the timestamp is too far from the first one.
                _ => {
                    state.close_open();
                    notice.closed = true;
                    notice.announce |= !std::mem::replace(&mut state.announced_closed, true);
                }
            }
        }
    }

    fn append_to_open(
        &mut self,
        record: &Record<'_>,
        timestamp: i64,
        measured: Option<RecordSize>,
        mut notice: Notice,
    ) -> Result<Run, Blocked> {
        let state = &mut *self.state;
        let Some(open) = &mut state.open else { return Err(Blocked::Shut) };
        let (key, value) = (record.key_bytes(), record.value_bytes());
        let size = match measured {
            Some(size) => size,
            None => open
                .writer
                .measure(timestamp, key, value, record.header_slices())
                .map_err(|_| Blocked::TooLarge(usize::MAX))?,
        };
        let before = open.writer.body_len();
        let index = open.writer.append(size, timestamp, key, value, record.header_slices());
        if !std::mem::replace(&mut state.announced, true) && !notice.announce {
            notice.announce = true;
            notice.look = state.gauge.look.load(Ordering::Relaxed);
        }
        let after = open.writer.body_len();
        if state.gauge.count(&mut open.counted, before, after) {
            notice.nudge = true;
            notice.look = 0;
        }
        let cell = Arc::clone(&open.cell);
        Ok(Run { cell, index: index as u32, count: 1, timestamp, bytes: size.bytes(), notice })
    }

    /// Appends `record` behind `run`, if that is no more than copying it, and returns the bytes that it took.
    #[inline]
    pub(super) fn continue_run(
        &mut self,
        run: &mut Run,
        record: &Record<'_>,
        clocks: &impl Clocks,
    ) -> Option<usize> {
        if run.notice.closed || run.notice.nudge {
            return None; // first the driver hears of it
        }
        let state = &mut *self.state;
        let timestamp = match record.timestamp {
            Some(timestamp) => timestamp,
            None => state.timestamp(clocks),
        };
        let open = state.open.as_mut()?;
        let (key, value) = (record.key_bytes(), record.value_bytes());
        let size = open.writer.measure(timestamp, key, value, record.header_slices()).ok()?;
        let before = open.writer.body_len();
        if open.writer.batch_len() + size.bytes() > state.batch_size
            || before + size.bytes() > open.writer.capacity()
        {
            return None;
        }
        open.writer.append(size, timestamp, key, value, record.header_slices());
        run.count += 1;
        let after = open.writer.body_len();
        if state.gauge.count(&mut open.counted, before, after) {
            run.notice.nudge = true;
            run.notice.look = 0;
        }
        Some(size.bytes())
    }

    /// Opens a batch with room for `bytes`.
    fn open(
        &mut self,
        bytes: usize,
        clocks: &impl Clocks,
        reserve: &mut Option<Credit>,
        notice: Notice,
    ) -> Result<(), Blocked> {
        let chunk = self.state.chunk.max(stock::size_for(bytes));
        let pool = &self.stock.credit;
        let credit = match take(pool, reserve, chunk) {
            Ok(credit) => credit,
            // In need, the least that does.
            Err(_) => take(pool, reserve, bytes.max(stock::SIZE_MIN))
                .map_err(|needed| blocked(pool, needed, notice))?,
        };
        let created = clocks.now();
        if let Some((full, at)) = self.state.full_size
            && at <= created
        {
            self.state.full_size = None;
            self.state.batch_size = full;
        }
        let cell = BatchCell {
            completion: Completion::default(),
            topic: self.lane.topic.clone(),
            partition: self.lane.partition,
        };
        self.state.open = Some(Open {
            writer: BatchWriter::with_buffer(self.stock.buffer(credit.bytes())),
            cell: Arc::new(cell),
            credit,
            created,
            counted: 0,
        });
        Ok(())
    }

    /// Makes room for `needed` bytes in all.
    fn grow(&mut self, needed: usize, reserve: &mut Option<Credit>, notice: Notice) -> Result<(), Blocked> {
        let state = &mut *self.state;
        let Some(open) = &mut state.open else { return Ok(()) };
        let capacity = open.writer.capacity();
        let wanted = needed.next_power_of_two().max(stock::size_for(needed));
        match take(&self.stock.credit, reserve, wanted - capacity) {
            Ok(more) => {
                open.credit.merge(more);
                if capacity < stock::LARGE_MIN {
                    self.stock.put(open.writer.move_to(self.stock.buffer(wanted)));
                } else {
                    // Sizes are doubled, as buffers grow of themselves; a large one may grow where it is.
                    open.writer.reserve(wanted - open.writer.body_len());
                }
                Ok(())
            }
            Err(missing) => Err(blocked(&self.stock.credit, missing, notice)),
        }
    }
}

/// Credit from the reserve, then from the common stock; or how much is missing.
fn take(pool: &Arc<CreditPool>, reserve: &mut Option<Credit>, bytes: usize) -> Result<Credit, usize> {
    if let Some(mut credit) = reserve.take() {
        if credit.bytes() >= bytes {
            credit.shrink(bytes);
            return Ok(credit);
        }
        *reserve = Some(credit);
    }
    pool.try_take(bytes).ok_or(bytes)
}

fn blocked(pool: &CreditPool, needed: usize, notice: Notice) -> Blocked {
    if needed > pool.total() { Blocked::TooLarge(needed) } else { Blocked::Credit(needed, notice) }
}

impl State {
    fn close_open(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.gauge.bytes.fetch_sub(open.counted, Ordering::Relaxed);
        self.chunk = stock::size_for_next(open.writer.body_len(), self.chunk);
        self.enqueued += u64::try_from(open.writer.record_count()).unwrap_or(0);
        let number = self.next_closed;
        self.next_closed += 1;
        let (body, meta) = open.writer.finish();
        self.closed.push_back(Closed {
            number,
            cell: open.cell,
            meta,
            credit: Some(open.credit),
            created: open.created,
            body,
            stage: Stage::Plain,
        });
    }

    /// The time of day: exact while batches leave at once, a batch is new or the broker has no room, else about a
    /// millisecond old. Only one whose appenders suddenly slow down while it has to wait may be behind for longer, for as
    /// many appends as were left.
    #[inline]
    fn timestamp(&mut self, clocks: &impl Clocks) -> i64 {
        let fresh = self.open.is_none() || !self.gauge.busy.load(Ordering::Relaxed);
        if fresh || self.clock_appends == 0 {
            self.read_clock(clocks);
        }
        self.clock_appends -= 1;
        self.clock
    }

    #[inline(never)]
    fn read_clock(&mut self, clocks: &impl Clocks) {
        let before = std::mem::replace(&mut self.clock, clocks.wall());
        let slow = self.clock - before > 1;
        self.clock_pace = if slow { 1 } else { (2 * self.clock_pace).min(CLOCK_APPENDS_MAX) };
        self.clock_appends = self.clock_pace;
    }
}
