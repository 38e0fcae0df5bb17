//! Fetch, versions 4-17: up to the high watermark, or to the last stable offset with what was aborted below, in sessions (KIP-227), as slices of the stored batches.
//!
//! 7 sessions, 9 leader epochs (KIP-320), 12 diverging epochs and current leader, 13 topics by id, 16 node endpoints.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Answer, Context, Handled, Handler, Waiting, millis, own};
use crate::ErrorCode;
use crate::broker::cluster::{State, check_epoch};
use crate::broker::log::Aborted;
use crate::broker::partition::{Partition, Wake};
use crate::broker::replay;
use crate::broker::rights::Operation;
use crate::broker::sessions::{Key, Opened, Wanted};
use crate::wire::fetch::{
    self, AbortedTransaction, CurrentLeader, EpochEndOffset, NodeEndpoint, PartitionData, TopicData,
};
use crate::wire::frame::response_header;
use crate::wire::messages::FetchRequest;
use crate::wire::{ApiKey, EncodeError, Str, Uuid};

/// A response, its records still slices of the log.
type FetchAnswer = fetch::Response<Vec<Bytes>>;

/// What was read of a partition.
#[derive(Debug)]
struct Read {
    key: Key,
    error: ErrorCode,
    high_watermark: i64,
    stable: i64,
    /// For readers of committed records.
    aborted: Option<Vec<AbortedTransaction>>,
    log_start: i64,
    /// Where the client's log parts from ours.
    diverging: Option<EpochEndOffset>,
    /// For a client that asked the wrong node.
    leader: Option<CurrentLeader>,
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
        let Some((sessions, rng)) = state.sessions(ctx.node) else { return Handled::Disconnect };
        let opened = sessions.open(ctx.now, self.session_id, epoch, by_id, ask, &forget, rng);
        let opened = match opened {
            Ok(opened) => opened,
            Err(error_code) => return Handled::Now(FetchAnswer { error_code, ..Default::default() }),
        };
        if ctx.throttled {
            // As Kafka: no data, and a session that would begin does not. One that goes on has counted the request.
            let session_id = if opened.incremental { opened.session_id } else { 0 };
            if let Some(node) = state.node_mut(ctx.node).filter(|_| !opened.incremental) {
                node.sessions.end(opened.session_id);
            }
            return Handled::Now(FetchAnswer { session_id, ..Default::default() });
        }
        let mut waiting = FetchWaiting {
            opened,
            node: ctx.node,
            listener: ctx.listener,
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
        let mut reads = Vec::new();
        // Before version 7 a response has no error code of its own.
        if ctx.version < 7 {
            for topic in &self.topics {
                let key = |partition| Key { id: topic.topic_id, name: topic.topic.clone(), partition };
                reads.extend(topic.partitions.iter().map(|part| Read::refused(key(part.partition), code)));
            }
        }
        Handled::Now(FetchAnswer { error_code: code, topics: by_topic(reads), ..Default::default() })
    }
}

/// A fetch that waits for `min_bytes`.
#[derive(Debug)]
struct FetchWaiting {
    opened: Opened,
    node: i32,
    listener: usize,
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
            let mut read = read(state, self.node, key, wanted, (left, self.read_committed), total == 0);
            if self.read_committed {
                read.aborted.get_or_insert_default();
            }
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
        let mut node_endpoints: Vec<NodeEndpoint> = Vec::new();
        for read in &reads {
            if let Some(node) = read.leader.and_then(|leader| state.node(leader.leader_id))
                && !node_endpoints.iter().any(|endpoint| endpoint.node_id == node.id)
            {
                node_endpoints.push(NodeEndpoint {
                    node_id: node.id,
                    host: node.endpoint(self.listener).host.clone(),
                    port: i32::from(node.endpoint(self.listener).port),
                    rack: None,
                });
            }
        }
        if session_id != 0
            && let Some(node) = state.node_mut(self.node)
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
        FetchAnswer { session_id, topics: by_topic(reads), node_endpoints, ..Default::default() }
    }
}

fn partition_mut<'a>(state: &'a mut State, key: &Key) -> Option<&'a mut Partition> {
    let topic = if key.id.is_zero() { state.topic_mut(&key.name) } else { state.topic_by_id_mut(&key.id) };
    topic?.partition_mut(key.partition)
}

fn read(
    state: &State,
    node: i32,
    key: &Key,
    wanted: &Wanted,
    (left, read_committed): (usize, bool),
    first: bool,
) -> Read {
    let unknown =
        if key.id.is_zero() { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION } else { ErrorCode::UNKNOWN_TOPIC_ID };
    let name = if key.id.is_zero() { Some(&key.name) } else { state.topic_name(&key.id) };
    if let Some(Err(code)) = name.map(|name| state.rights.check_topic(name, Operation::Read)) {
        return Read::refused(key.clone(), code);
    }
    let Some(topic) = name.and_then(|name| state.topic_at(node, name)) else {
        return Read::refused(key.clone(), unknown);
    };
    let Some(partition) = topic.partition(key.partition) else {
        return Read::refused(key.clone(), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    };
    let refused = |code| Read {
        leader: Some(CurrentLeader { leader_id: partition.leader, leader_epoch: partition.leader_epoch }),
        ..Read::refused(key.clone(), code)
    };
    if let Err(code) = check_epoch(partition, wanted.leader_epoch) {
        return refused(code);
    }
    let Some(log) = partition.leader_log().filter(|_| topic.is_led_by(node, partition)) else {
        return refused(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    };
    let mut answer = Read {
        key: key.clone(),
        error: ErrorCode::NONE,
        high_watermark: partition.high_watermark,
        stable: partition.last_stable_offset(),
        aborted: None,
        log_start: log.start(),
        diverging: None,
        leader: None,
        records: Vec::new(),
        bytes: 0,
    };
    let limit = left.min(wanted.max_bytes);
    if let Some(replay) = &state.replay {
        answer.high_watermark = replay::END;
        answer.stable = replay::END;
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
        let Some((epoch, end_offset)) = log.end_of_epoch(wanted.last_fetched_epoch) else {
            return Read { error: ErrorCode::OFFSET_OUT_OF_RANGE, ..answer };
        };
        if epoch < wanted.last_fetched_epoch || end_offset < wanted.offset {
            return Read { diverging: Some(EpochEndOffset { epoch, end_offset }), ..answer };
        }
    }
    if wanted.offset > log.end() {
        return Read { error: ErrorCode::OFFSET_OUT_OF_RANGE, ..answer };
    }
    let end = if read_committed { answer.stable } else { partition.high_watermark };
    let (batches, bytes) = log.read(wanted.offset, end, limit, first);
    answer.bytes = bytes;
    if let Some(last) = batches.last().filter(|_| read_committed) {
        answer.aborted = Some(aborted(partition, wanted.offset, last.last_offset + 1));
    }
    answer.records.reserve(batches.len() * 2);
    for batch in batches {
        answer.records.extend(batch.slices());
    }
    answer
}

/// The aborted transactions that have records between these offsets.
fn aborted(partition: &Partition, from: i64, end: i64) -> Vec<AbortedTransaction> {
    let told = |aborted: &Aborted| AbortedTransaction {
        producer_id: aborted.producer_id,
        first_offset: aborted.first_offset,
    };
    partition.producers.aborted(from, end).map(told).collect()
}

impl Read {
    fn refused(key: Key, error: ErrorCode) -> Self {
        Self {
            key,
            error,
            high_watermark: -1,
            stable: -1,
            aborted: None,
            log_start: -1,
            diverging: None,
            leader: None,
            records: Vec::new(),
            bytes: 0,
        }
    }
}

impl Answer for FetchAnswer {
    fn throttle(&mut self, pause_ms: i32) {
        self.throttle_time_ms = pause_ms;
    }

    fn into_frame(self, key: ApiKey, version: i16, correlation_id: i32) -> Result<Vec<Bytes>, EncodeError> {
        let mut frame = vec![Bytes::new()];
        frame.extend(self.encode(version)?);
        let body = frame.iter().map(Bytes::len).sum();
        frame[0] = response_header(key, version, correlation_id, body).freeze();
        Ok(frame)
    }
}

/// Partitions of a topic that follow each other, together.
fn by_topic(reads: Vec<Read>) -> Vec<TopicData<Vec<Bytes>>> {
    let mut topics: Vec<TopicData<Vec<Bytes>>> = Vec::new();
    for read in reads {
        let partition = PartitionData {
            partition: read.key.partition,
            error_code: read.error,
            high_watermark: read.high_watermark,
            last_stable_offset: read.stable,
            aborted_transactions: read.aborted,
            log_start_offset: read.log_start,
            diverging_epoch: read.diverging,
            current_leader: read.leader,
            preferred_read_replica: None,
            records: read.records,
        };
        let Key { id: topic_id, name, .. } = read.key;
        match topics.last_mut().filter(|topic| topic.topic_id == topic_id && topic.name == name) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(TopicData { name, topic_id, partitions: vec![partition] }),
        }
    }
    topics
}
