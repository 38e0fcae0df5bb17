//! Fetch, versions 4-17: up to the high watermark, in sessions (KIP-227), as slices of the stored batches.
//!
//! 7 sessions, 9 leader epochs (KIP-320), 12 diverging epochs and current leader, 13 topics by id, 16 node endpoints.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ErrorCode;
use crate::broker::cluster::{State, check_epoch};
use crate::broker::partition::{Partition, Wake};
use crate::broker::replay;
use crate::broker::sessions::{Key, Opened, Wanted};
use crate::wire::frame::response_header;
use crate::wire::messages::FetchRequest;
use crate::wire::varint::put_uvarint;
use crate::wire::{ApiKey, EncodeError, Str, Uuid};

use super::{Answer, Context, Handled, Handler, Waiting, millis, own};

/// A response, its records still slices of the log.
#[derive(Debug, Default)]
pub(crate) struct FetchAnswer {
    error: i16,
    session_id: i32,
    read_committed: bool,
    partitions: Vec<Read>,
    endpoints: Vec<(i32, Str, u16)>,
}

/// What was read of a partition.
#[derive(Debug)]
struct Read {
    key: Key,
    error: ErrorCode,
    high_watermark: i64,
    log_start: i64,
    /// Epoch and end offset of where the client's log parts from ours.
    diverging: Option<(i32, i64)>,
    /// Leader and epoch, for a client that asked the wrong node.
    leader: Option<(i32, i32)>,
    records: Vec<Bytes>,
    bytes: usize,
}

impl Handler for FetchRequest {
    type Answer = FetchAnswer;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<FetchAnswer> {
        let by_id = ctx.version >= 13;
        let key = |name: &Str, id: Uuid, partition| Key {
            id: if by_id { id } else { Uuid::ZERO },
            name: if by_id { Str::new() } else { own(name) },
            partition,
        };
        let mut ask = Vec::new();
        for topic in &self.topics {
            for part in &topic.partitions {
                let wanted = Wanted::new(
                    part.fetch_offset,
                    part.partition_max_bytes,
                    part.current_leader_epoch,
                    part.last_fetched_epoch,
                );
                ask.push((key(&topic.topic, topic.topic_id, part.partition), wanted));
            }
        }
        let mut forget = Vec::new();
        for topic in &self.forgotten_topics_data {
            forget.extend(
                topic.partitions.iter().map(|partition| key(&topic.topic, topic.topic_id, partition)),
            );
        }
        // Before version 7 there are no sessions.
        let epoch = if ctx.version >= 7 { self.session_epoch } else { -1 };
        let State { nodes, rng, .. } = state;
        let Some(node) = nodes.get_mut(&ctx.node) else { return Handled::Disconnect };
        let opened = node.sessions.open(ctx.now, self.session_id, epoch, by_id, ask, &forget, rng);
        let opened = match opened {
            Ok(opened) => opened,
            Err(code) => return Handled::Now(FetchAnswer { error: code.0, ..Default::default() }),
        };
        let mut waiting = FetchWaiting {
            opened,
            node: ctx.node,
            max_bytes: usize::try_from(self.max_bytes).unwrap_or(0),
            min_bytes: usize::try_from(self.min_bytes).unwrap_or(0),
            read_committed: self.isolation_level == 1,
            wake: Arc::new(Notify::new()),
            deadline: ctx.now + millis(self.max_wait_ms),
        };
        let at_once = self.max_wait_ms <= 0 || waiting.opened.wanted.is_empty();
        match waiting.poll(state, at_once) {
            Some(answer) => Handled::Now(answer),
            None => Handled::Wait(Box::new(waiting)),
        }
    }

    fn refuse(self, _: &State, ctx: &Context, code: ErrorCode) -> Handled<FetchAnswer> {
        let mut answer = FetchAnswer { error: code.0, session_id: 0, ..Default::default() };
        if ctx.version < 7 {
            for topic in &self.topics {
                for part in &topic.partitions {
                    let key =
                        Key { id: topic.topic_id, name: topic.topic.clone(), partition: part.partition };
                    answer.partitions.push(Read::refused(key, code));
                }
            }
        }
        Handled::Now(answer)
    }
}

/// A fetch that waits for `min_bytes`.
#[derive(Debug)]
struct FetchWaiting {
    opened: Opened,
    node: i32,
    max_bytes: usize,
    min_bytes: usize,
    read_committed: bool,
    wake: Wake,
    deadline: Instant,
}

impl Waiting<FetchAnswer> for FetchWaiting {
    fn wake(&self) -> &Wake {
        &self.wake
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn poll(&mut self, state: &mut State, expired: bool) -> Option<FetchAnswer> {
        let mut left = self.max_bytes;
        let mut total = 0;
        let mut urgent = expired;
        let mut reads = Vec::with_capacity(self.opened.wanted.len());
        for (key, wanted) in &self.opened.wanted {
            let read = read(state, self.node, key, wanted, left, total == 0);
            urgent |= !read.error.is_ok() || read.diverging.is_some();
            total += read.bytes;
            left = left.saturating_sub(read.bytes);
            reads.push(read);
        }
        if total < self.min_bytes && !urgent {
            for ((key, _), read) in self.opened.wanted.iter().zip(&reads) {
                if let Some(partition) = partition_mut(state, key) {
                    partition.wait_for(read.high_watermark + 1, &self.wake);
                }
            }
            return None;
        }
        Some(self.answer(state, reads))
    }
}

impl FetchWaiting {
    fn answer(&self, state: &mut State, mut reads: Vec<Read>) -> FetchAnswer {
        let session_id = self.opened.session_id;
        let mut endpoints: Vec<(i32, Str, u16)> = Vec::new();
        for read in &reads {
            if let Some(node) = read.leader.and_then(|(leader, _)| state.nodes.get(&leader))
                && !endpoints.iter().any(|(id, _, _)| *id == node.id)
            {
                endpoints.push((node.id, node.host.clone(), node.port));
            }
        }
        if session_id != 0
            && let Some(node) = state.nodes.get_mut(&self.node)
        {
            if let Some(first) = reads.iter().find(|read| read.bytes > 0) {
                node.sessions.rotate(session_id, &first.key);
            }
            let mut wanted = self.opened.wanted.iter();
            let incremental = self.opened.incremental;
            reads.retain(|read| {
                let told =
                    wanted.next().map(|(_, wanted)| (wanted.told_high_watermark, wanted.told_log_start));
                let news = !read.error.is_ok()
                    || read.bytes > 0
                    || read.diverging.is_some()
                    || told != Some((read.high_watermark, read.log_start));
                if news && read.error.is_ok() {
                    node.sessions.told(session_id, &read.key, read.high_watermark, read.log_start);
                } else if news {
                    // An error is repeated until it is over, and its end is news as well.
                    node.sessions.told(session_id, &read.key, -1, -1);
                }
                news || !incremental
            });
        }
        FetchAnswer {
            error: 0,
            session_id,
            read_committed: self.read_committed,
            partitions: reads,
            endpoints,
        }
    }
}

fn partition_mut<'a>(state: &'a mut State, key: &Key) -> Option<&'a mut Partition> {
    let name = if key.id.is_zero() { &key.name } else { state.topic_names.get(&key.id)? };
    state.topics.get_mut(name)?.partition_mut(key.partition)
}

fn read(state: &State, node: i32, key: &Key, wanted: &Wanted, left: usize, first: bool) -> Read {
    let unknown =
        if key.id.is_zero() { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION } else { ErrorCode::UNKNOWN_TOPIC_ID };
    let name = if key.id.is_zero() { Some(&key.name) } else { state.topic_names.get(&key.id) };
    let Some(topic) = name.and_then(|name| state.topics.get(name)) else {
        return Read::refused(key.clone(), unknown);
    };
    let Some(partition) = topic.partition(key.partition) else {
        return Read::refused(key.clone(), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    };
    let refused = |code| Read {
        leader: Some((partition.leader, partition.leader_epoch)),
        ..Read::refused(key.clone(), code)
    };
    if let Err(code) = check_epoch(partition, wanted.leader_epoch) {
        return refused(code);
    }
    let Some(log) = partition.leader_log().filter(|_| partition.leader == node) else {
        return refused(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    };
    let mut answer = Read {
        key: key.clone(),
        error: ErrorCode::NONE,
        high_watermark: partition.high_watermark,
        log_start: log.start(),
        diverging: None,
        leader: None,
        records: Vec::new(),
        bytes: 0,
    };
    let limit = left.min(wanted.max_bytes);
    if let Some(replay) = &state.replay {
        answer.high_watermark = replay::END;
        answer.log_start = 0;
        if limit > 0 || first {
            answer.records = replay.read(wanted.offset.max(0), limit);
            answer.bytes = answer.records.iter().map(Bytes::len).sum();
        }
        return answer;
    }
    // As Kafka: below the log's start nothing else counts, but beyond its end truncation is the better answer.
    if wanted.offset < log.start() {
        return Read { error: ErrorCode::OFFSET_OUT_OF_RANGE, ..answer };
    }
    if wanted.last_fetched_epoch >= 0 {
        let Some((epoch, end)) = log.end_of_epoch(wanted.last_fetched_epoch) else {
            return Read { error: ErrorCode::OFFSET_OUT_OF_RANGE, ..answer };
        };
        if epoch < wanted.last_fetched_epoch || end < wanted.offset {
            return Read { diverging: Some((epoch, end)), ..answer };
        }
    }
    if wanted.offset > log.end() {
        return Read { error: ErrorCode::OFFSET_OUT_OF_RANGE, ..answer };
    }
    let (batches, bytes) = log.read(wanted.offset, partition.high_watermark, limit, first);
    answer.bytes = bytes;
    answer.records.reserve(batches.len() * 2);
    for batch in batches {
        answer.records.extend(batch.slices());
    }
    answer
}

impl Read {
    fn refused(key: Key, error: ErrorCode) -> Self {
        Self {
            key,
            error,
            high_watermark: -1,
            log_start: -1,
            diverging: None,
            leader: None,
            records: Vec::new(),
            bytes: 0,
        }
    }
}

/// Collects a frame from small written pieces and large slices.
struct Pieces {
    slices: Vec<Bytes>,
    head: BytesMut,
    len: usize,
}

impl Pieces {
    fn push(&mut self, slice: Bytes) {
        if !self.head.is_empty() {
            let head = self.head.split().freeze();
            self.len += head.len();
            self.slices.push(head);
        }
        self.len += slice.len();
        self.slices.push(slice);
    }
}

impl Answer for FetchAnswer {
    fn into_frame(self, key: ApiKey, version: i16, correlation_id: i32) -> Result<Vec<Bytes>, EncodeError> {
        let flexible = version >= 12;
        let mut out = Pieces { slices: vec![Bytes::new()], head: BytesMut::with_capacity(256), len: 0 };
        out.head.put_i32(0); // throttle
        if version >= 7 {
            out.head.put_i16(self.error);
            out.head.put_i32(self.session_id);
        }
        let read_committed = self.read_committed;
        let topics: Vec<Vec<Read>> = by_topic(self.partitions);
        put_len(&mut out.head, topics.len(), flexible);
        for topic in topics {
            let Some(first) = topic.first() else { continue };
            if version >= 13 {
                out.head.put_slice(&first.key.id.0);
            } else {
                put_str(&mut out.head, &first.key.name, flexible);
            }
            put_len(&mut out.head, topic.len(), flexible);
            for read in topic {
                put_partition(&mut out, read, version, read_committed);
            }
            if flexible {
                out.head.put_u8(0);
            }
        }
        if flexible {
            put_endpoints(&mut out.head, &self.endpoints, version);
        }
        out.push(Bytes::new());
        out.slices.pop();
        let body = out.len;
        if let Some(front) = out.slices.first_mut() {
            *front = response_header(key, version, correlation_id, body).freeze();
        }
        Ok(out.slices)
    }
}

/// Partitions of a topic that follow each other, together.
fn by_topic(reads: Vec<Read>) -> Vec<Vec<Read>> {
    let mut topics: Vec<Vec<Read>> = Vec::new();
    for read in reads {
        match topics.last_mut() {
            Some(topic)
                if topic
                    .first()
                    .is_some_and(|first| first.key.id == read.key.id && first.key.name == read.key.name) =>
            {
                topic.push(read);
            }
            _ => topics.push(vec![read]),
        }
    }
    topics
}

fn put_partition(out: &mut Pieces, read: Read, version: i16, read_committed: bool) {
    let flexible = version >= 12;
    let w = &mut out.head;
    w.put_i32(read.key.partition);
    w.put_i16(read.error.0);
    w.put_i64(read.high_watermark);
    w.put_i64(read.high_watermark); // last stable offset: there are no transactions
    if version >= 5 {
        w.put_i64(read.log_start);
    }
    match (read_committed, flexible) {
        (true, _) => put_len(w, 0, flexible),
        (false, true) => w.put_u8(0),
        (false, false) => w.put_i32(-1),
    }
    if version >= 11 {
        w.put_i32(-1); // preferred read replica
    }
    put_len(w, read.bytes, flexible);
    for slice in read.records {
        out.push(slice);
    }
    if flexible {
        let w = &mut out.head;
        put_uvarint(w, u32::from(read.diverging.is_some()) + u32::from(read.leader.is_some()));
        if let Some((epoch, end)) = read.diverging {
            put_uvarint(w, 0);
            put_uvarint(w, 13);
            w.put_i32(epoch);
            w.put_i64(end);
            w.put_u8(0);
        }
        if let Some((leader, epoch)) = read.leader {
            put_uvarint(w, 1);
            put_uvarint(w, 9);
            w.put_i32(leader);
            w.put_i32(epoch);
            w.put_u8(0);
        }
    }
}

fn put_endpoints(w: &mut BytesMut, endpoints: &[(i32, Str, u16)], version: i16) {
    if version < 16 || endpoints.is_empty() {
        w.put_u8(0);
        return;
    }
    let mut field = BytesMut::new();
    put_len(&mut field, endpoints.len(), true);
    for (id, host, port) in endpoints {
        field.put_i32(*id);
        put_str(&mut field, host, true);
        field.put_i32(i32::from(*port));
        field.put_u8(0); // no rack
        field.put_u8(0);
    }
    put_uvarint(w, 1);
    put_uvarint(w, 0);
    put_uvarint(w, field.len() as u32);
    w.put_slice(&field);
}

fn put_len(w: &mut BytesMut, len: usize, flexible: bool) {
    if flexible { put_uvarint(w, len as u32 + 1) } else { w.put_i32(len as i32) }
}

fn put_str(w: &mut BytesMut, text: &str, flexible: bool) {
    if flexible {
        put_uvarint(w, text.len() as u32 + 1)
    } else {
        w.put_i16(text.len() as i16)
    }
    w.put_slice(text.as_bytes());
}
