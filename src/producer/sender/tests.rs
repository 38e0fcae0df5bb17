//! The machine alone: scripted answers, no time but what the test says.

mod anew;
mod pace;

use bytes::Bytes;

use super::*;
use crate::ErrorCode;
use crate::producer::Outcome;
use crate::producer::batch::{BatchCell, Fate};
use crate::sync::Completion;
use crate::wire::compression::Compression;
use crate::wire::produce::{PartitionResponse, RecordError, Response, TopicResponse};
use crate::wire::records::{BatchHeader, BatchWriter};

/// Lanes without appenders.
#[derive(Default)]
struct Closed {
    batches: BTreeMap<usize, Vec<Batch>>,
    open: BTreeMap<usize, Batch>,
    queued: BTreeMap<usize, i32>,
    shrunk: Vec<usize>,
    waiting_bytes: usize,
    pace: BTreeMap<NodeId, Pace>,
}

impl Lanes for Closed {
    fn collect(&mut self, partition: usize, take: Take, into: &mut Vec<Batch>) -> Left {
        into.append(self.batches.entry(partition).or_default());
        if take != Take::Ready {
            into.extend(self.open.remove(&partition));
        }
        Left { closed: 0, open: self.open.get(&partition).map(|batch| batch.created) }
    }

    fn attach(&mut self, _: usize, _: Option<NodeId>) {}

    fn waiting_bytes(&self, _: NodeId) -> usize {
        self.waiting_bytes
    }

    fn set_pace(&mut self, node: NodeId, pace: Pace) {
        self.pace.insert(node, pace);
    }

    fn queued(&mut self, partition: usize, change: i32) {
        *self.queued.entry(partition).or_default() += change;
    }

    fn recycle(&mut self, _: Bytes) {}

    fn shrink(&mut self, _: Instant, _: usize, bytes: usize) {
        self.shrunk.push(bytes);
    }
}

struct Bench {
    sender: Sender,
    lanes: Closed,
    now: Instant,
}

/// A batch as a broker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    partition: i32,
    producer_id: i64,
    epoch: i16,
    sequence: i32,
    count: i32,
}

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

impl Bench {
    /// `partitions` partitions of topic `t`, led by node 1; producer 7 in epoch 0.
    fn new(partitions: usize) -> Self {
        let mut world = Self::without_id(partitions);
        assert!(world.sender.wants_producer_id(world.now));
        world.sender.handle_producer_id(world.now, Ok((7, 0)), 0, &mut world.lanes);
        world
    }

    fn without_id(partitions: usize) -> Self {
        let ms = Duration::from_millis;
        let config = SenderConfig {
            idempotent: true,
            in_flight_max: 5,
            linger: None,
            delivery_timeout: Duration::from_secs(120),
            backoff: Backoff { first: ms(100), max: ms(1000), jitter: 0.0 },
            codec: Arc::new(Codec::new(Compression::None, None)),
        };
        Self::with(config, partitions)
    }

    fn with(config: SenderConfig, partitions: usize) -> Self {
        let mut world = Self { sender: Sender::new(config), lanes: Closed::default(), now: Instant::now() };
        for partition in 0..partitions {
            world.sender.add_partition(world.now, partition, &"t".into(), partition as i32);
            world.lead(partition, Some(ONE));
            // Each has written before, so several batches may be on the way at once.
            world.sender.partitions[partition].probing = false;
        }
        world
    }

    fn lead(&mut self, partition: usize, node: Option<NodeId>) {
        self.sender.handle_leader(self.now, &"t".into(), partition as i32, node, &mut self.lanes);
        if let Some(node) = node {
            self.sender.handle_connection(node, Ok(()));
        }
    }

    /// The topic has another id.
    fn rename(&mut self, id: u8) {
        self.sender.handle_topic_id(self.now, &"t".into(), Uuid([id; 16]), &mut self.lanes);
    }

    fn batch(&self, partition: usize, count: usize, value_len: usize) -> Batch {
        let mut writer = BatchWriter::new();
        let value = vec![7; value_len];
        for _ in 0..count {
            let none = std::iter::empty();
            let size = writer.measure(1, None, Some(&value), none.clone()).expect("it fits");
            writer.append(size, 1, None, Some(&value), none);
        }
        let (body, meta) = writer.finish();
        let cell =
            BatchCell { completion: Completion::default(), topic: "t".into(), partition: partition as i32 };
        Batch::new(Arc::new(cell), meta, Compression::None, body, None, self.now)
    }

    /// A closed batch of `count` records.
    fn add(&mut self, partition: usize, count: usize) -> Arc<BatchCell> {
        let batch = self.batch(partition, count, 10);
        let cell = Arc::clone(&batch.cell);
        self.lanes.batches.entry(partition).or_default().push(batch);
        self.sender.handle_lane(self.now, partition, &mut self.lanes);
        cell
    }

    /// An open batch of one record.
    fn open(&mut self, partition: usize) -> Arc<BatchCell> {
        let batch = self.batch(partition, 1, 10);
        let cell = Arc::clone(&batch.cell);
        assert!(self.lanes.open.insert(partition, batch).is_none(), "one is open at a time");
        self.sender.handle_lane(self.now, partition, &mut self.lanes);
        cell
    }

    fn poll(&mut self, node: NodeId) -> Option<(u64, Vec<Seen>)> {
        let outgoing = self.sender.next_request(self.now, node, &mut self.lanes)?;
        let see = |drained: PartitionBatch| {
            let bytes: Bytes = [&drained.header[..], &drained.body].concat().into();
            let header = BatchHeader::decode(&bytes, 0).expect("a valid header");
            Seen {
                partition: drained.partition,
                producer_id: header.producer_id,
                epoch: header.producer_epoch,
                sequence: header.base_sequence,
                count: header.record_count,
            }
        };
        Some((outgoing.id, outgoing.batches.into_iter().map(see).collect()))
    }

    /// The next request, which has one batch: its number, epoch and sequence.
    fn one(&mut self, node: NodeId) -> (u64, i16, i32) {
        let (request, seen) = self.poll(node).expect("a request is due");
        assert_eq!(seen.len(), 1, "{seen:?}");
        (request, seen[0].epoch, seen[0].sequence)
    }

    fn respond(&mut self, request: u64, answer: PartitionResponse) {
        let topic = TopicResponse { name: "t".into(), partitions: vec![answer], ..TopicResponse::default() };
        let response = Response { topics: vec![topic], ..Response::default() };
        self.sender.handle_answer(self.now, request, &response, 0, &mut self.lanes);
    }

    fn answer(&mut self, request: u64, partition: i32, error_code: ErrorCode) {
        let base_offset = if error_code.is_ok() { request as i64 * 100 } else { -1 };
        self.respond(
            request,
            PartitionResponse { partition, error_code, base_offset, ..PartitionResponse::default() },
        );
    }

    /// True if it was asked who leads.
    fn refreshes(&mut self) -> bool {
        self.sender
            .effects
            .drain(..)
            .any(|effect| matches!(effect, Output::Refresh(topic) if topic.as_str() == "t"))
    }

    fn lose(&mut self, request: u64, unsent: bool) {
        let error = Error::new(crate::ErrorKind::Network, "the connection broke");
        self.sender.handle_failure(self.now, request, error, unsent, 0, &mut self.lanes);
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.sender.handle_timeout(self.now, &mut self.lanes);
    }
}

fn offset(cell: &BatchCell) -> Option<i64> {
    match cell.completion.get(0)? {
        Fate::Written { base_offset, .. } => Some(base_offset),
        Fate::Failed(failed) => panic!("failed: {}", failed.error),
    }
}

fn failure(cell: &BatchCell) -> (Outcome, crate::ErrorKind) {
    match cell.completion.get(0) {
        Some(Fate::Failed(failed)) => (failed.outcome, failed.error.kind()),
        other => panic!("not failed: {other:?}"),
    }
}

const NOT_LEADER: ErrorCode = ErrorCode::NOT_LEADER_OR_FOLLOWER;
const GAP: ErrorCode = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;

#[test]
fn five_are_on_the_way_and_no_more() {
    let mut world = Bench::new(1);
    let cells: Vec<_> = (0..7).map(|_| world.add(0, 3)).collect();
    let sent: Vec<_> = (0..5).map(|_| world.one(ONE)).collect();
    assert_eq!(sent.iter().map(|(_, _, sequence)| *sequence).collect::<Vec<_>>(), [0, 3, 6, 9, 12]);
    assert!(world.poll(ONE).is_none());
    world.answer(sent[0].0, 0, ErrorCode::NONE);
    assert_eq!(offset(&cells[0]), Some(0));
    assert_eq!(world.one(ONE).2, 15);
    assert!(world.poll(ONE).is_none());
    assert_eq!(world.sender.counts(), Counts { acked: 3, failed: 0 });
    assert_eq!(world.lanes.queued[&0], 6);
}

#[test]
fn a_partition_moves_only_after_the_old_leader_has_answered() {
    let mut world = Bench::new(1);
    let cells: Vec<_> = (0..7).map(|_| world.add(0, 1)).collect();
    let sent: Vec<_> = (0..5).map(|_| world.one(ONE)).collect();
    world.lead(0, Some(TWO));
    assert!(world.poll(TWO).is_none() && world.poll(ONE).is_none());
    // The first two were written before the move.
    world.answer(sent[0].0, 0, ErrorCode::NONE);
    world.answer(sent[1].0, 0, ErrorCode::NONE);
    assert!(world.poll(TWO).is_none(), "three may still be answered");
    world.answer(sent[2].0, 0, NOT_LEADER);
    world.lose(sent[3].0, false);
    assert!(world.poll(TWO).is_none());
    world.answer(sent[4].0, 0, NOT_LEADER);
    world.pass(100);
    let order: Vec<_> = (0..5)
        .map(|_| {
            // After a failure one goes ahead alone.
            let (request, epoch, sequence) = world.one(TWO);
            assert!(sequence > 2 || world.poll(TWO).is_none());
            world.answer(request, 0, ErrorCode::NONE);
            (epoch, sequence)
        })
        .collect();
    assert_eq!(order, [(0, 2), (0, 3), (0, 4), (0, 5), (0, 6)]);
    assert!(cells.iter().all(|cell| offset(cell).is_some()));
    assert!(world.sender.is_idle());
    assert!(world.refreshes());
}

#[test]
fn a_retry_goes_out_at_once_where_the_leader_moved_meanwhile() {
    let mut world = Bench::new(1);
    world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.lead(0, Some(TWO));
    world.answer(request, 0, NOT_LEADER);
    assert_eq!(world.one(TWO).2, 0, "without back-off");
}

#[test]
fn the_first_of_five_fails_and_order_is_kept() {
    let mut world = Bench::new(1);
    let cells: Vec<_> = (0..6).map(|_| world.add(0, 2)).collect();
    let sent: Vec<_> = (0..5).map(|_| world.one(ONE)).collect();
    world.answer(sent[0].0, 0, ErrorCode::NOT_ENOUGH_REPLICAS);
    world.pass(100);
    assert!(world.poll(ONE).is_none(), "those behind it have to fail first");
    for (request, ..) in &sent[1..] {
        world.answer(*request, 0, GAP);
    }
    let (request, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (0, 0), "the same era and sequence");
    assert!(world.poll(ONE).is_none(), "one probes");
    world.answer(request, 0, ErrorCode::NONE);
    let rest: Vec<_> = (0..5).map(|_| world.one(ONE)).collect();
    assert_eq!(
        rest.iter().map(|sent| (sent.1, sent.2)).collect::<Vec<_>>(),
        [(0, 2), (0, 4), (0, 6), (0, 8), (0, 10)]
    );
    for (request, ..) in rest {
        world.answer(request, 0, ErrorCode::NONE);
    }
    assert!(cells.iter().all(|cell| offset(cell).is_some()));
}

#[test]
fn a_batch_that_can_never_be_written_begins_an_era_for_those_behind_it() {
    let mut world = Bench::new(2);
    let bad = world.add(0, 1);
    let (first, ..) = world.one(ONE);
    let good = world.add(0, 1);
    let (second, ..) = world.one(ONE);
    // Another partition has batches on the way in the old era, and goes on with it.
    let other = world.add(1, 1);
    let (third, ..) = world.one(ONE);
    world.answer(first, 0, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    assert_eq!(failure(&bad), (Outcome::NotWritten, crate::ErrorKind::Authorization));
    let later = world.add(0, 1);
    assert!(world.poll(ONE).is_none(), "not while the second batch is on the way");
    let waiting = world.add(1, 1);
    let (fourth, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (0, 1), "the other partition stays in its era while it is busy");
    world.answer(second, 0, GAP);
    let (again, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (1, 0), "renumbered in the new era");
    world.answer(again, 0, ErrorCode::NONE);
    let (last, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (1, 1));
    world.answer(last, 0, ErrorCode::NONE);
    world.answer(third, 1, ErrorCode::NONE);
    world.answer(fourth, 1, ErrorCode::NONE);
    for cell in [good, later, other, waiting] {
        assert!(offset(&cell).is_some());
    }
    let idle = world.add(1, 1);
    let (request, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (1, 0), "idle, it follows");
    world.answer(request, 1, ErrorCode::NONE);
    assert!(offset(&idle).is_some());
}

#[test]
fn sequences_wrap() {
    let mut world = Bench::new(1);
    world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::NONE);
    world.sender.partitions[0].next_sequence = i32::MAX - 1;
    let cells = [world.add(0, 4), world.add(0, 1)];
    let (first, _, sequence) = world.one(ONE);
    assert_eq!(sequence, i32::MAX - 1);
    let (second, _, sequence) = world.one(ONE);
    assert_eq!(sequence, 2);
    world.answer(first, 0, ErrorCode::NONE);
    world.answer(second, 0, ErrorCode::NONE);
    assert!(cells.iter().all(|cell| offset(cell).is_some()));
}

#[test]
fn a_lost_answer_is_asked_for_with_the_same_sequence() {
    let mut world = Bench::new(1);
    let cell = world.add(0, 3);
    let (request, ..) = world.one(ONE);
    world.lose(request, false);
    assert!(world.poll(ONE).is_none(), "it backs off");
    world.pass(99);
    assert!(world.poll(ONE).is_none());
    world.pass(1);
    let (again, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (0, 0));
    // The answer to the first request comes after all: it is nobody's.
    world.answer(request, 0, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    assert_eq!(offset(&cell), None);
    world.answer(again, 0, ErrorCode::DUPLICATE_SEQUENCE_NUMBER);
    assert_eq!(offset(&cell), Some(-1), "written, at an unknown offset");
}

#[test]
fn delivery_times_out_in_the_queue_and_on_the_way() {
    let mut world = Bench::new(2);
    let sent = world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.lead(1, None);
    let stuck = world.add(1, 1);
    let open = world.open(1);
    world.pass(60_000);
    let later = world.add(0, 1);
    let (behind, ..) = world.one(ONE);
    assert_eq!(world.sender.next_deadline(world.now, &world.lanes), Some(world.now + UNANSWERED));
    world.pass(60_000);
    assert_eq!(failure(&stuck), (Outcome::NotWritten, crate::ErrorKind::Timeout));
    assert_eq!(failure(&open), (Outcome::NotWritten, crate::ErrorKind::Timeout));
    assert_eq!(failure(&sent), (Outcome::Unknown, crate::ErrorKind::Timeout));
    assert_eq!(world.sender.counts(), Counts { acked: 0, failed: 3 });
    // Nothing new is sent before the old era has been heard of.
    let newest = world.add(0, 1);
    assert!(world.poll(ONE).is_none());
    // A late answer of the old epoch changes nothing for those who were told.
    world.answer(request, 0, ErrorCode::NONE);
    assert_eq!(failure(&sent).0, Outcome::Unknown);
    assert!(world.poll(ONE).is_none());
    world.answer(behind, 0, ErrorCode::NONE);
    assert!(offset(&later).is_some());
    let (last, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (1, 0));
    world.answer(last, 0, ErrorCode::NONE);
    assert!(offset(&newest).is_some());
    assert!(world.sender.is_idle());
}

#[test]
fn what_may_be_written_is_settled_in_its_era_before_a_new_one() {
    for (answer, acked) in [(ErrorCode::NONE, 1), (ErrorCode::DUPLICATE_SEQUENCE_NUMBER, 1), (GAP, 0)] {
        let mut world = Bench::new(1);
        let old = world.add(0, 1);
        let (first, ..) = world.one(ONE);
        world.pass(100_000);
        let doubtful = world.add(0, 1);
        let (second, ..) = world.one(ONE);
        let fresh = world.add(0, 1);
        // The first is given up, and both connections break.
        world.pass(20_000);
        assert_eq!(failure(&old).0, Outcome::Unknown);
        world.lose(first, false);
        world.lose(second, false);
        world.pass(100);
        let (request, epoch, sequence) = world.one(ONE);
        assert_eq!((epoch, sequence), (0, 1), "its own sequence: the broker knows whether it has it");
        assert!(world.poll(ONE).is_none());
        world.answer(request, 0, answer);
        world.pass(1000);
        assert_eq!(world.sender.counts().acked, acked, "{answer}");
        let mut expected = 0;
        while let Some((request, seen)) = world.poll(ONE) {
            assert_eq!((seen[0].epoch, seen[0].sequence), (1, expected), "{answer}");
            expected += 1;
            world.answer(request, 0, ErrorCode::NONE);
        }
        assert_eq!(u64::from(expected as u32) + acked, 2);
        assert!(offset(&doubtful).is_some() && offset(&fresh).is_some());
    }
}

#[test]
fn a_batch_too_large_is_split_and_keeps_its_sequences() {
    let mut world = Bench::new(1);
    let cell = world.add(0, 4);
    let behind = world.add(0, 1);
    let (first, ..) = world.one(ONE);
    let (second, ..) = world.one(ONE);
    world.answer(first, 0, ErrorCode::MESSAGE_TOO_LARGE);
    world.answer(second, 0, GAP);
    let mut sequences = Vec::new();
    while let Some((request, seen)) = world.poll(ONE) {
        sequences.push((seen[0].epoch, seen[0].sequence, seen[0].count));
        world.answer(request, 0, ErrorCode::NONE);
    }
    assert_eq!(sequences, [(0, 0, 2), (0, 2, 2), (0, 4, 1)]);
    assert!((0..4).all(|index| matches!(cell.completion.get(index), Some(Fate::Written { .. }))));
    assert!(offset(&behind).is_some());
    assert_eq!(world.lanes.shrunk.len(), 1);
    assert_eq!(world.lanes.queued[&0], 0);
    assert!(world.sender.is_idle());

    let single = world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(failure(&single), (Outcome::NotWritten, crate::ErrorKind::TooLarge));
    world.add(0, 1);
    assert_eq!(world.one(ONE).1, 1, "its sequence is missing: a new era");
}

#[test]
fn a_forgotten_producer_begins_anew_unless_it_cannot_know() {
    let mut world = Bench::new(1);
    let cell = world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::UNKNOWN_PRODUCER_ID);
    world.pass(100);
    let (request, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (1, 0));
    world.answer(request, 0, ErrorCode::NONE);
    assert!(offset(&cell).is_some());

    let doubtful = world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.lose(request, false);
    world.pass(100);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::UNKNOWN_PRODUCER_ID);
    assert_eq!(failure(&doubtful).0, Outcome::Unknown);
}

#[test]
fn a_later_epoch_at_the_broker_means_another_producer_id() {
    let mut world = Bench::new(1);
    let cell = world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::INVALID_PRODUCER_EPOCH);
    world.pass(100);
    assert!(world.poll(ONE).is_none());
    assert!(world.sender.wants_producer_id(world.now));
    world.sender.handle_producer_id(world.now, Ok((8, 0)), 0, &mut world.lanes);
    let (request, seen) = world.poll(ONE).expect("a request is due");
    assert_eq!((seen[0].producer_id, seen[0].epoch, seen[0].sequence), (8, 0, 0));
    world.answer(request, 0, ErrorCode::NONE);
    assert!(offset(&cell).is_some());
}

#[test]
fn no_producer_id_no_request() {
    let mut world = Bench::without_id(1);
    let cell = world.add(0, 1);
    assert!(world.poll(ONE).is_none());
    assert!(world.sender.wants_producer_id(world.now));
    assert!(!world.sender.wants_producer_id(world.now), "asked once");
    let busy = Error::from_code(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, "no id");
    world.sender.handle_producer_id(world.now, Err(busy), 0, &mut world.lanes);
    assert!(!world.sender.wants_producer_id(world.now));
    assert_eq!(cell.completion.get(0).map(|_| ()), None);
    world.pass(100);
    assert!(world.sender.wants_producer_id(world.now));
    let refused = Error::from_code(ErrorCode::CLUSTER_AUTHORIZATION_FAILED, "no id");
    world.sender.handle_producer_id(world.now, Err(refused), 0, &mut world.lanes);
    assert_eq!(failure(&cell), (Outcome::NotWritten, crate::ErrorKind::Authorization));
}

#[test]
fn bad_records_fail_by_name_and_their_neighbours_may_try_again() {
    let mut world = Bench::new(1);
    let cell = world.add(0, 3);
    let (request, ..) = world.one(ONE);
    let error = RecordError { index: 1, message: Some("no key".into()) };
    world.respond(
        request,
        PartitionResponse {
            error_code: ErrorCode::INVALID_RECORD,
            record_errors: vec![error],
            ..PartitionResponse::default()
        },
    );
    for (index, retriable) in [(0, true), (1, false), (2, true)] {
        let Some(Fate::Failed(failed)) = cell.completion.get(index) else { panic!("all failed") };
        assert_eq!(failed.error.is_retriable(), retriable, "{index}");
        assert_eq!(failed.outcome, Outcome::NotWritten);
    }
    assert_eq!(world.sender.counts().failed, 3);
}

#[test]
fn a_partition_that_the_answer_leaves_out_is_asked_about_again() {
    let mut world = Bench::new(2);
    let cells = [world.add(0, 1), world.add(1, 1)];
    let (request, seen) = world.poll(ONE).expect("a request is due");
    assert_eq!(seen.len(), 2, "one batch of each");
    world.answer(request, 0, ErrorCode::NONE);
    assert!(offset(&cells[0]).is_some());
    world.pass(100);
    let (request, _, sequence) = world.one(ONE);
    assert_eq!(sequence, 0);
    world.answer(request, 1, ErrorCode::DUPLICATE_SEQUENCE_NUMBER);
    assert!(offset(&cells[1]).is_some());
}

#[test]
fn requests_are_bounded_and_begin_elsewhere_each_time() {
    let mut world = Bench::new(3);
    for partition in 0..3 {
        for _ in 0..2 {
            let batch = world.batch(partition, 1, 3 * 1024 * 1024);
            world.lanes.batches.entry(partition).or_default().push(batch);
        }
        world.sender.handle_lane(world.now, partition, &mut world.lanes);
    }
    let mut order = Vec::new();
    while let Some((_, seen)) = world.poll(ONE) {
        assert!(seen.len() <= 2, "at most 8 MiB");
        order.extend(seen.iter().map(|seen| seen.partition));
    }
    order.truncate(6);
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

/// A broker that knows nothing of the producer accepts any first sequence.
#[test]
fn the_first_batch_goes_alone_so_that_none_behind_it_is_written_before_it() {
    let mut world = Bench::new(1);
    world.sender.partitions[0].probing = true;
    let (first, second) = (world.add(0, 2), world.add(0, 3));
    let (request, _, sequence) = world.one(ONE);
    assert_eq!(sequence, 0);
    assert!(world.poll(ONE).is_none(), "the second waits for the first");
    world.answer(request, 0, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert!(world.poll(ONE).is_none(), "the back-off");
    world.pass(200);
    let (request, _, sequence) = world.one(ONE);
    assert_eq!(sequence, 0);
    world.answer(request, 0, ErrorCode::NONE);
    let (request, _, sequence) = world.one(ONE);
    assert_eq!(sequence, 2);
    world.answer(request, 0, ErrorCode::NONE);
    assert!(offset(&first) < offset(&second));
}

/// A broker keeps only the last batch that a request holds for a partition, and answers for one: the other would count as
/// written and be lost.
#[test]
fn a_request_holds_one_batch_of_a_partition_whatever_lists_it_was_on() {
    let mut world = Bench::new(1);
    let first = world.open(0);
    // The open batch closes, which moves the partition from one list to the other, and a new one opens behind it.
    let closed = world.lanes.open.remove(&0).expect("it was opened");
    world.lanes.batches.entry(0).or_default().push(closed);
    let second = world.open(0);
    for (sequence, cell) in [(0, first), (1, second)] {
        let (request, seen) = world.poll(ONE).expect("a request is due");
        assert_eq!(seen.iter().map(|batch| batch.sequence).collect::<Vec<_>>(), [sequence]);
        world.answer(request, 0, ErrorCode::NONE);
        assert!(offset(&cell).is_some());
    }
    assert!(world.sender.is_idle());
}

#[test]
fn what_is_left_at_the_end_is_told_so() {
    let mut world = Bench::new(1);
    let sent = world.add(0, 1);
    world.one(ONE);
    let queued = world.add(0, 1);
    let open = world.open(0);
    let error = Error::new(crate::ErrorKind::State, "closed");
    world.sender.abort(world.now, &error, &mut world.lanes);
    assert_eq!(failure(&sent).0, Outcome::Unknown);
    assert_eq!(failure(&queued).0, Outcome::NotWritten);
    assert_eq!(failure(&open).0, Outcome::NotWritten);
    assert!(world.sender.is_idle());
}

#[test]
fn an_open_batch_is_as_old_as_its_first_record_whenever_the_sender_hears_of_it() {
    let mut world = Bench::new(1);
    world.lead(0, None);
    let batch = world.batch(0, 1, 10);
    let cell = Arc::clone(&batch.cell);
    world.lanes.open.insert(0, batch);
    world.now += Duration::from_secs(30);
    world.sender.handle_lane(world.now, 0, &mut world.lanes);
    world.now += Duration::from_secs(90);
    world.sender.handle_timeout(world.now, &mut world.lanes);
    assert!(matches!(cell.completion.get(0), Some(Fate::Failed(_))), "120 seconds have passed");
}

/// Four batches of one record each, on the way to node 1, whose connection breaks; then the first is asked for again.
fn four_unanswered() -> (Bench, Vec<Arc<BatchCell>>, u64) {
    let mut world = Bench::new(1);
    let cells: Vec<_> = (0..4).map(|_| world.add(0, 1)).collect();
    let sent: Vec<_> = (0..4).map(|_| world.one(ONE)).collect();
    for (request, ..) in sent {
        world.lose(request, false);
    }
    world.pass(1000);
    let (first, _, sequence) = world.one(ONE);
    assert_eq!(sequence, 0);
    (world, cells, first)
}

/// After a restart a broker knows the last batch of a producer alone, and says of those before it that they do not fit.
#[test]
fn a_gap_is_no_proof_as_long_as_a_later_batch_may_be_in_the_log() {
    let (mut world, cells, first) = four_unanswered();
    world.answer(first, 0, GAP);
    let (second, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (0, 1), "under its old sequence");
    world.answer(second, 0, GAP);
    let (third, _, sequence) = world.one(ONE);
    assert_eq!(sequence, 2);
    world.answer(third, 0, ErrorCode::DUPLICATE_SEQUENCE_NUMBER);
    assert!(cells[..3].iter().all(|cell| offset(cell) == Some(-1)), "all three are in the log");
    let (fourth, epoch, sequence) = world.one(ONE);
    assert_eq!((epoch, sequence), (0, 3));
    world.answer(fourth, 0, ErrorCode::NONE);
    assert!(offset(&cells[3]).is_some() && world.sender.is_idle());
    assert_eq!((world.sender.counts(), world.lanes.queued[&0]), (Counts { acked: 4, failed: 0 }, 0));
}

#[test]
fn a_gap_of_all_that_may_be_in_the_log_proves_that_none_is() {
    let (mut world, cells, first) = four_unanswered();
    world.answer(first, 0, GAP);
    for expected in 1..4 {
        let (request, epoch, sequence) = world.one(ONE);
        assert_eq!((epoch, sequence), (0, expected));
        world.answer(request, 0, GAP);
    }
    world.pass(1000);
    for expected in 0..4 {
        let (request, epoch, sequence) = world.one(ONE);
        assert_eq!((epoch, sequence), (1, expected), "in order, in a new era");
        world.answer(request, 0, ErrorCode::NONE);
    }
    assert!(cells.iter().all(|cell| offset(cell).is_some()));
}

#[test]
fn what_was_doubted_is_unknown_once_nobody_can_tell() {
    let (mut world, cells, first) = four_unanswered();
    for request in [first, 0, 0] {
        let request = if request == first { first } else { world.one(ONE).0 };
        world.answer(request, 0, GAP);
    }
    let (last, ..) = world.one(ONE);
    world.answer(last, 0, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    assert!(cells.iter().all(|cell| failure(cell).0 == Outcome::Unknown));
    assert!(world.sender.is_idle());
}

#[test]
fn a_frozen_leader_is_not_waited_for_once_another_is_named() {
    let mut world = Bench::new(1);
    let cells = [world.add(0, 1), world.add(0, 1)];
    let old = [world.one(ONE).0, world.one(ONE).0];
    assert_eq!(world.sender.next_deadline(world.now, &world.lanes), Some(world.now + UNANSWERED));
    world.pass(4999);
    assert!(!world.refreshes());
    world.pass(1);
    assert!(world.refreshes(), "who leads by now?");
    world.pass(5000);
    assert!(world.refreshes(), "and again");
    world.lead(0, Some(TWO));
    assert_eq!(world.sender.next_deadline(world.now, &world.lanes), Some(world.now + FORMER_LEADER));
    world.pass(499);
    assert!(world.poll(TWO).is_none(), "it may only be slow");
    world.pass(1);
    let (request, epoch, sequence) = world.one(TWO);
    assert_eq!((epoch, sequence), (0, 0), "its sequence says whether it was written before");
    world.answer(old[0], 0, NOT_LEADER);
    world.answer(request, 0, ErrorCode::DUPLICATE_SEQUENCE_NUMBER);
    let (request, _, sequence) = world.one(TWO);
    assert_eq!(sequence, 1);
    world.answer(request, 0, ErrorCode::NONE);
    world.answer(old[1], 0, NOT_LEADER);
    assert!(cells.iter().all(|cell| offset(cell).is_some()));

    // A leader that comes back has its requests still.
    let cell = world.add(0, 1);
    let (request, ..) = world.one(TWO);
    world.lead(0, Some(ONE));
    world.lead(0, Some(TWO));
    world.pass(600);
    assert!(world.poll(TWO).is_none() && world.poll(ONE).is_none());
    world.answer(request, 0, ErrorCode::NONE);
    assert!(offset(&cell).is_some());
}

#[test]
fn without_sequences_a_former_leader_has_its_time() {
    let config = SenderConfig { idempotent: false, ..Bench::without_id(0).sender.config };
    let mut world = Bench::with(config, 1);
    world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.lead(0, Some(TWO));
    world.pass(20_000);
    assert!(world.poll(TWO).is_none(), "it would be written twice");
    world.lose(request, false);
    world.pass(1000);
    assert_eq!(world.one(TWO).2, -1);
}

#[test]
fn parts_of_a_batch_that_may_be_written_are_not() {
    let mut world = Bench::new(1);
    let cell = world.add(0, 4);
    let (request, ..) = world.one(ONE);
    world.lose(request, false);
    world.pass(100);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(failure(&cell), (Outcome::Unknown, crate::ErrorKind::TooLarge));
}

#[test]
fn a_batch_that_was_damaged_is_sent_again_once_whatever_was_before() {
    let mut world = Bench::new(1);
    let cells = [world.add(0, 1), world.add(0, 1)];
    for (cell, second) in cells.iter().zip([ErrorCode::NONE, ErrorCode::CORRUPT_MESSAGE]) {
        for code in [ErrorCode::NOT_ENOUGH_REPLICAS, ErrorCode::CORRUPT_MESSAGE] {
            let (request, ..) = world.one(ONE);
            world.answer(request, 0, code);
            world.pass(1000);
        }
        let (request, ..) = world.one(ONE);
        world.answer(request, 0, second);
        assert!(cell.completion.get(0).is_some());
    }
    assert!(offset(&cells[0]).is_some());
    assert_eq!(failure(&cells[1]).0, Outcome::NotWritten);
}

#[test]
fn partitions_that_wait_for_a_producer_id_are_counted_once() {
    let mut world = Bench::without_id(3);
    for _ in 0..100 {
        for partition in 0..3 {
            world.add(partition, 1);
            world.poll(ONE);
        }
    }
    assert_eq!(world.sender.waiting_for_era.len(), 3);
}

#[test]
fn a_request_is_no_larger_than_a_broker_can_do_in_time() {
    let mut world = Bench::new(2500);
    for partition in 0..2500 {
        world.add(partition, 1);
    }
    let sizes = |world: &mut Bench| {
        let all: Vec<_> = std::iter::from_fn(|| world.poll(ONE)).map(|(id, seen)| (id, seen.len())).collect();
        (all.iter().map(|sent| sent.1).collect::<Vec<_>>(), all[0].0)
    };
    let (sent, first) = sizes(&mut world);
    assert_eq!(sent, [1000, 1000, 500]);
    let late = Error::new(crate::ErrorKind::Timeout, "no answer");
    world.sender.handle_failure(world.now, first, late, false, 0, &mut world.lanes);
    world.pass(1000);
    let (sent, first) = sizes(&mut world);
    assert_eq!(sent, [500, 500]);
    let partitions = world.sender.requests[&first].partitions.clone();
    let answers = partitions.iter().map(|partition| PartitionResponse {
        partition: *partition as i32,
        base_offset: 0,
        ..PartitionResponse::default()
    });
    let topic = TopicResponse { name: "t".into(), partitions: answers.collect(), ..TopicResponse::default() };
    let response = Response { topics: vec![topic], ..Response::default() };
    world.sender.handle_answer(world.now, first, &response, 0, &mut world.lanes);
    assert_eq!(world.sender.nodes[&ONE].partitions_max, 1000, "it keeps up again");
}

#[test]
fn refusals_that_last_are_reported_and_so_is_their_end() {
    let mut world = Bench::new(1);
    let reports = |world: &mut Bench| -> Vec<_> {
        let effects = world.sender.effects.drain(..);
        effects
            .filter_map(|effect| match effect {
                Output::Raise(subject, kind, _) => Some((true, subject.to_string(), kind)),
                Output::Clear(subject, kind) => Some((false, subject.to_string(), kind)),
                _ => None,
            })
            .collect()
    };
    world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::NOT_ENOUGH_REPLICAS);
    let refused = |began| (began, "t[0]".to_owned(), ConditionKind::Refused);
    assert_eq!(reports(&mut world), [refused(true)]);
    world.pass(1000);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    let unauthorized = |began| (began, "topic t".to_owned(), ConditionKind::NotAuthorized);
    assert_eq!(reports(&mut world), [unauthorized(true), refused(false)]);
    world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::NONE);
    assert_eq!(reports(&mut world), [unauthorized(false)]);
    // Nothing more is sent: who could say that it is over?
    world.add(0, 1);
    let (request, ..) = world.one(ONE);
    world.answer(request, 0, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    assert_eq!(reports(&mut world), [unauthorized(true)]);
    let over = world.sender.next_deadline(world.now, &world.lanes).expect("it is looked at again");
    world.pass(299_000);
    assert_eq!(reports(&mut world), []);
    assert_eq!(over, world.now + Duration::from_secs(1));
    world.pass(1000);
    assert_eq!(reports(&mut world), [unauthorized(false)]);
    assert_eq!(world.sender.next_deadline(world.now, &world.lanes), None);
}

#[test]
fn a_producer_id_that_is_refused_is_asked_for_less_and_less() {
    let mut world = Bench::without_id(1);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        assert!(world.sender.wants_producer_id(world.now));
        let refused = Error::from_code(ErrorCode::CLUSTER_AUTHORIZATION_FAILED, "no producer id");
        world.sender.handle_producer_id(world.now, Err(refused), 0, &mut world.lanes);
        let next = world.sender.next_deadline(world.now, &world.lanes).expect("it is asked for again");
        pauses.push((next - world.now).as_millis());
        world.now = next;
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
}

#[test]
fn whatever_stood_in_the_way_of_a_producer_id_is_over_once_there_is_one() {
    let mut world = Bench::without_id(1);
    let refusals = [
        (ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, ConditionKind::NoCoordinator),
        (ErrorCode::CLUSTER_AUTHORIZATION_FAILED, ConditionKind::NotAuthorized),
    ];
    for (code, expected) in refusals {
        assert!(world.sender.wants_producer_id(world.now));
        let refused = Error::from_code(code, "no producer id");
        world.sender.handle_producer_id(world.now, Err(refused), 0, &mut world.lanes);
        let raised: Vec<_> = world.sender.effects.drain(..).collect();
        assert!(
            matches!(&raised[..], [Output::Raise(Subject::Cluster, kind, _)] if *kind == expected),
            "{raised:?}"
        );
        world.pass(1000);
    }
    assert!(world.sender.wants_producer_id(world.now));
    world.sender.handle_producer_id(world.now, Ok((7, 0)), 0, &mut world.lanes);
    let mut cleared = Vec::new();
    for effect in world.sender.effects.drain(..) {
        let Output::Clear(Subject::Cluster, kind) = effect else { panic!("{effect:?}") };
        cleared.push(kind);
    }
    cleared.sort_unstable();
    let mut expected = refusals.map(|(_, kind)| kind);
    expected.sort_unstable();
    assert_eq!(cleared, expected);
}

#[test]
fn topics_that_something_waits_for_are_in_use() {
    let mut world = Bench::new(2);
    assert_eq!(world.sender.take_used().len(), 1);
    assert!(world.sender.take_used().is_empty());
    let written = world.add(1, 1);
    for _ in 0..3 {
        assert_eq!(world.sender.take_used().len(), 1, "its leader is needed");
    }
    let (request, ..) = world.one(ONE);
    world.answer(request, 1, ErrorCode::NONE);
    assert!(offset(&written).is_some());
    assert_eq!(world.sender.take_used().len(), 1);
    assert!(world.sender.take_used().is_empty());
}
