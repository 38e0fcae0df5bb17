//! Positions, played by hand.

use std::sync::Arc;

use tokio::time::Instant;

use super::fetching::CUTS_MAX;
use super::*;
use crate::consumer::batch::RecordBatch;
use crate::consumer::config::{OutOfRange, Truncation};
use crate::sync::budget::BUFFER_STEP;

const NODE: NodeId = NodeId(1);

struct Bench {
    positions: Positions,
    now: Instant,
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

impl Bench {
    fn new(config: ConsumerConfig) -> Self {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };
        let mut play = Self {
            positions: Positions::new(PositionsConfig {
                consumer: config,
                backoff,
                budget: MemoryBudget::default(),
            }),
            now: Instant::now(),
        };
        play.positions.assign((0..2).map(|p| (tp(p), Begin::Committed)));
        play.lead(1);
        play
    }

    fn lead(&mut self, epoch: i32) {
        self.lead_by(NODE, epoch, 0);
    }

    /// `node` leads both partitions of the topic with this id.
    fn lead_by(&mut self, node: NodeId, epoch: i32, id: u8) {
        let sighting = Sighting { topic_id: Uuid([id; 16]), count: 2, leader: Some((node, epoch)) };
        assert!(self.positions.handle_leaders(|_| Some(sighting)).is_empty());
    }

    /// Both partitions committed at 10.
    fn fetching(config: ConsumerConfig) -> Self {
        let mut play = Self::new(config);
        for (partition, assignment) in play.positions.uncommitted() {
            play.positions.handle_committed(&partition, assignment, Some((10, 0)));
        }
        play
    }

    fn lookups(&mut self) -> Vec<Lookup> {
        self.positions.handle_timeout(self.now);
        self.positions.lookups()
    }

    fn plan(&mut self) -> Vec<(i32, i64)> {
        match self.positions.plan(NODE, self.now) {
            Plan::Fetch { planned, .. } => {
                planned.iter().map(|p| (p.partition.partition.0, p.offset)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What a fetch that leaves now asks for.
    fn asked(&self, partition: i32) -> Planned {
        let state = &self.positions.partitions[&tp(partition)];
        Planned {
            partition: tp(partition),
            topic_id: state.topic_id,
            version: state.version,
            assignment: state.assignment,
            offset: state.place.position,
            leader_epoch: state.leader.map_or(-1, |(_, epoch)| epoch),
            last_epoch: state.place.last_epoch,
            unchecked: false,
            max_bytes: 1 << 20,
            ledger: Arc::clone(state.account.ledger()),
        }
    }

    fn answer(&mut self, asked: &Planned, fetched: Fetched) -> bool {
        self.positions.handle_fetched(asked, fetched, self.now, 0)
    }

    fn fetched(&mut self, partition: i32, fetched: Fetched) {
        let asked = self.asked(partition);
        assert!(self.answer(&asked, fetched));
    }

    /// What the client is told to be in trouble, and what to be over it.
    fn troubles(&mut self) -> Vec<String> {
        let troubles = self.positions.take_troubles().into_iter();
        troubles
            .map(|trouble| match trouble {
                Trouble::Met(subject, kind, _) => format!("{subject}: {kind:?}"),
                Trouble::Over(subject, kind) => format!("{subject}: {kind:?} over"),
            })
            .collect()
    }

    fn records(&mut self, partition: i32, from: i64, count: usize) {
        let fetched = records(partition, from, count, self.positions.partitions[&tp(partition)].assignment);
        self.fetched(partition, fetched);
    }

    /// What is handed out, in short, and whether a fetch may follow.
    fn pop(&mut self) -> Option<(String, bool)> {
        let Output { event, used_up } = self.positions.poll_output()?;
        let text = match event {
            ConsumerEvent::Batch(batch) => {
                format!("{}: {}..{}", batch.partition(), batch.first_offset().unwrap(), batch.next_offset())
            }
            ConsumerEvent::PartitionFailed(failure) => format!(
                "{}: {:?} stopped={}",
                failure.partition.partition,
                failure.error.kind(),
                failure.stopped
            ),
            ConsumerEvent::PartitionEnd { partition, offset } => {
                format!("{}: end {offset}", partition.partition)
            }
            ConsumerEvent::PositionReset { partition, from, to, .. } => {
                format!("{}: {from} becomes {to}", partition.partition)
            }
            event => format!("{event:?}"),
        };
        Some((text, used_up))
    }

    /// A batch that is handed out.
    fn batch(&mut self) -> RecordBatch {
        match self.positions.poll_output() {
            Some(Output { event: ConsumerEvent::Batch(batch), .. }) => batch,
            other => panic!("{other:?} is no batch"),
        }
    }

    fn popped(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.pop().map(|(text, _)| text)).collect()
    }
}

fn records(partition: i32, from: i64, count: usize, assignment: u64) -> Fetched {
    let values = vec![(None, Some(&b"value"[..])); count];
    let batch =
        (count > 0).then(|| RecordBatch::for_test(tp(partition), from, &values).with_assignment(assignment));
    Fetched::Records(Records {
        batch,
        next_offset: from + count as i64,
        last_epoch: 1,
        high_watermark: 100,
        last_stable_offset: 100,
        fault: None,
        cut: false,
    })
}

/// From one offset to the other there is nothing for the application.
fn nothing(from: i64, to: i64) -> Fetched {
    match records(0, from, 0, 1) {
        Fetched::Records(records) => Fetched::Records(Records { next_offset: to, ..records }),
        other => other,
    }
}

#[test]
fn without_a_committed_offset_the_policy_decides() {
    for (policy, question) in [(FirstStart::Earliest, EARLIEST), (FirstStart::Latest, LATEST)] {
        let mut play = Bench::new(ConsumerConfig::new().first_start(policy));
        assert!(play.plan().is_empty());
        for (partition, assignment) in play.positions.uncommitted() {
            play.positions.handle_committed(&partition, assignment, None);
        }
        let lookups = play.lookups();
        assert_eq!(lookups.len(), 2);
        assert!(lookups.iter().all(|lookup| lookup.question == Question::Offset(question)));
        // Asked once; the fetch waits for both.
        assert!(play.lookups().is_empty());
        play.positions.handle_answer(&lookups[0], Answer::Offset { offset: 7, epoch: 1 });
        assert!(play.plan().is_empty());
        play.positions.handle_answer(&lookups[1], Answer::Offset { offset: 8, epoch: 1 });
        assert_eq!(play.plan(), [(0, 7), (1, 8)]);
    }
    let mut play = Bench::new(ConsumerConfig::new().first_start(FirstStart::Stop));
    for (partition, assignment) in play.positions.uncommitted() {
        play.positions.handle_committed(&partition, assignment, None);
    }
    assert_eq!(play.popped(), ["0: OffsetOutOfRange stopped=true", "1: OffsetOutOfRange stopped=true"]);
}

#[test]
fn a_look_up_that_fails_holds_nobody_up() {
    let mut play = Bench::new(ConsumerConfig::new());
    let waiting = play.positions.uncommitted();
    play.positions.handle_committed(&waiting[0].0, waiting[0].1, None);
    play.positions.handle_committed(&waiting[1].0, waiting[1].1, Some((10, 0)));
    let lookup = play.lookups().remove(0);
    assert!(play.plan().is_empty());
    let error = Error::from_code(crate::ErrorCode::LEADER_NOT_AVAILABLE, "looking up");
    play.positions.handle_lookup_failed(&lookup, error, play.now, 0);
    assert_eq!(play.plan(), [(1, 10)]);
    assert!(play.lookups().is_empty());
    play.now += Duration::from_millis(100);
    assert_eq!(play.lookups().len(), 1);
}

/// Positions for which two small batches are more than enough.
fn cramped(config: ConsumerConfig) -> ConsumerConfig {
    config.partition_max_bytes(2 * BUFFER_STEP)
}

#[test]
fn what_was_answered_is_handed_out_before_more_is_fetched() {
    let mut play = Bench::fetching(cramped(ConsumerConfig::new()));
    assert_eq!(play.plan(), [(0, 10), (1, 10)]);
    play.records(0, 10, 5);
    play.records(1, 10, 3);
    assert!(play.plan().is_empty());
    assert_eq!(play.positions.position(&tp(0)), Some(Offset(10)));
    assert_eq!(play.pop(), Some(("0: 10..15".into(), false)));
    assert_eq!(play.pop(), Some(("1: 10..13".into(), true)));
    assert_eq!(play.pop(), None);
    assert_eq!(play.plan(), [(0, 15), (1, 13)]);
    assert_eq!(play.positions.position(&tp(0)), Some(Offset(15)));
}

#[test]
fn while_little_waits_more_is_fetched_and_all_of_it_is_one_batch() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    play.records(0, 10, 1);
    assert_eq!(play.plan(), [(0, 11), (1, 10)]);
    play.records(1, 10, 1);
    // Aborted transactions between them are stepped over.
    play.records(0, 11, 0);
    play.fetched(0, nothing(11, 14));
    play.records(0, 14, 2);
    assert_eq!(play.plan(), [(0, 16), (1, 11)]);
    assert_eq!(play.positions.position(&tp(0)), Some(Offset(10)));
    let Some(Output { event: ConsumerEvent::Batch(batch), used_up: false }) = play.positions.poll_output()
    else {
        panic!("a batch is there")
    };
    assert_eq!(batch.iter().map(|record| record.offset.0).collect::<Vec<_>>(), [10, 14, 15]);
    assert_eq!((batch.next_offset(), batch.mark().offset()), (Offset(16), Offset(16)));
    assert_eq!(play.pop(), Some(("1: 10..11".into(), true)));
    assert_eq!(play.positions.position(&tp(0)), Some(Offset(16)));
    let state = &play.positions.partitions[&tp(0)];
    assert_eq!((state.delivery.is_empty(), state.delivery.waiting_bytes()), (true, 0));
    // What it held of the memory goes with it.
    assert!(state.account.ledger().held() > 0);
    drop(batch);
    assert_eq!(play.positions.partitions[&tp(0)].account.ledger().held(), 0);
    assert_eq!(play.positions.config.budget.used(), 0);
}

#[test]
fn small_answers_have_a_bound() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    let mut answers = 0;
    while let Some((_, offset)) = play.plan().first().copied() {
        play.records(0, offset, 1);
        answers += 1;
        assert!(answers <= 256);
    }
    assert!(answers > 200);
    // What is enough for one batch at most; then reading goes on.
    assert_eq!(play.popped(), [format!("0: 10..{}", 10 + answers)]);
    assert_eq!(play.plan().len(), 2);
}

#[test]
fn what_is_told_between_batches_stays_there() {
    let mut play = Bench::fetching(ConsumerConfig::new().partition_end_events(true));
    play.records(0, 10, 90);
    play.records(0, 100, 2);
    play.records(0, 102, 2);
    assert_eq!(
        play.popped(),
        ["0: 10..100", "0: end 100", "0: 100..102", "0: end 102", "0: 102..104", "0: end 104"]
    );
}

#[test]
fn where_memory_is_short_nothing_is_fetched_ahead_nor_copied() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    play.records(0, 10, 1);
    play.records(0, 11, 1);
    let budget = play.positions.config.budget.clone();
    let all = budget.at_once(budget.limit());
    assert_eq!(play.popped(), ["0: 10..11", "0: 11..12"]);
    drop(all);
    play.records(0, 12, 1);
    let mut held = play.positions.partitions[&tp(1)].account.ledger().hold();
    held.add(budget.limit() / 2);
    assert!(play.plan().is_empty());
}

#[test]
fn paused_partitions_keep_what_was_fetched_and_leave_the_session() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    play.records(0, 10, 5);
    play.positions.pause(&tp(0)).unwrap();
    assert_eq!(play.pop(), None);
    assert_eq!(play.plan(), [(1, 10)]);
    play.positions.resume(&tp(0)).unwrap();
    assert_eq!(play.popped(), ["0: 10..15"]);
    // Memory is needed: fetched again later.
    play.records(0, 15, 5);
    play.positions.pause(&tp(0)).unwrap();
    assert!(play.positions.shed() && !play.positions.shed());
    play.positions.resume(&tp(0)).unwrap();
    assert_eq!(play.plan(), [(0, 15), (1, 10)]);
}

#[test]
fn held_partitions_prefetch_up_to_their_share() {
    let mut play = Bench::fetching(ConsumerConfig::new().hold_after_delivery(true));
    play.records(0, 10, 5);
    assert_eq!(play.popped(), ["0: 10..15"]);
    assert_eq!(play.plan(), [(0, 15), (1, 10)]);
    play.records(0, 15, 5);
    assert_eq!(play.pop(), None);
    assert_eq!(play.plan(), [(0, 20), (1, 10)]);
    play.records(0, 20, 5);
    // Two answers wait: it leaves the session until they are wanted.
    assert_eq!(play.plan(), [(1, 10)]);
    play.positions.release(&tp(0));
    assert_eq!(play.popped(), ["0: 15..25"]);
    assert_eq!(play.plan(), [(0, 25), (1, 10)]);
}

#[test]
fn late_answers_are_dropped_by_version() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    let old = play.asked(0);
    play.positions.seek(&tp(0), StartOffset::At(Offset(50))).unwrap();
    assert!(!play.answer(&old, records(0, 10, 5, 1)));
    assert_eq!(play.plan(), [(0, 50), (1, 10)]);
    // A seek while a look-up is under way wins.
    play.positions.seek(&tp(0), StartOffset::Earliest).unwrap();
    let lookup = play.lookups().remove(0);
    play.positions.seek(&tp(0), StartOffset::At(Offset(60))).unwrap();
    play.positions.handle_answer(&lookup, Answer::Offset { offset: 0, epoch: 1 });
    assert_eq!(play.plan(), [(0, 60), (1, 10)]);
    // Revoked and assigned again: the old one is another partition.
    let old = play.asked(0);
    play.positions.begin_revoke(&[tp(0)]);
    assert_eq!(play.plan(), [(1, 10)]);
    play.positions.remove(&[tp(0)]);
    play.positions.assign([(tp(0), Begin::At(StartOffset::At(Offset(70))))]);
    play.lead(1);
    assert!(!play.answer(&old, records(0, 60, 5, 1)));
    assert_eq!(play.plan(), [(0, 70), (1, 10)]);
}

#[test]
fn marks_belong_to_their_assignment() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    play.records(0, 10, 5);
    let batch = play.batch();
    play.positions.store(batch.mark()).unwrap();
    assert_eq!(play.positions.stored(None).len(), 1);
    // While it is being given back marks still count.
    play.positions.begin_revoke(&[tp(0)]);
    play.positions.store(batch.mark()).unwrap();
    play.positions.remove(&[tp(0)]);
    assert_eq!(play.positions.store(batch.mark()).unwrap_err().kind(), ErrorKind::State);
    play.positions.assign([(tp(0), Begin::Committed)]);
    assert!(play.positions.store(batch.mark()).unwrap_err().is_fenced());
    assert!(play.positions.stored(None).is_empty());
}

#[test]
fn automatic_marks_cover_what_was_handed_out_before() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    play.records(0, 10, 5);
    play.positions.store_handed_out();
    assert!(play.positions.stored(None).is_empty());
    play.pop();
    // Handed out, but not known to be done.
    assert!(play.positions.stored(None).is_empty());
    play.positions.store_handed_out();
    let stored = play.positions.stored(None);
    assert_eq!(stored[0].offset(), Offset(15));
    play.positions.handle_mark_committed(&stored[0]);
    assert!(play.positions.stored(None).is_empty());
    // Records that nobody may see are stepped over in what is committed, too.
    play.fetched(0, nothing(15, 20));
    play.positions.store_handed_out();
    assert_eq!(play.positions.stored(None)[0].offset(), Offset(20));
}

#[test]
fn faults_come_after_the_records_in_front_of_them() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    let mut part = records(0, 10, 5, 1);
    if let Fetched::Records(Records { fault, .. }) = &mut part {
        *fault = Some(Error::new(ErrorKind::CorruptRecord, "damaged"));
    }
    play.fetched(0, part);
    assert_eq!(play.popped(), ["0: 10..15", "0: CorruptRecord stopped=true"]);
    assert_eq!(play.plan(), [(1, 10)]);
    play.positions.seek(&tp(0), StartOffset::At(Offset(16))).unwrap();
    assert_eq!(play.plan(), [(0, 16), (1, 10)]);
}

#[test]
fn out_of_range_follows_the_policy() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    play.fetched(0, Fetched::OutOfRange);
    let lookup = play.lookups().remove(0);
    assert_eq!(lookup.question, Question::Range);
    play.positions.handle_answer(&lookup, Answer::Range { earliest: 20, latest: 90 });
    assert_eq!(play.popped(), ["0: OffsetOutOfRange stopped=true"]);
    let mut play = Bench::fetching(ConsumerConfig::new().out_of_range(OutOfRange::Latest));
    play.fetched(0, Fetched::OutOfRange);
    let lookup = play.lookups().remove(0);
    assert_eq!(lookup.question, Question::Offset(LATEST));
    play.positions.handle_answer(&lookup, Answer::Offset { offset: 90, epoch: 2 });
    assert_eq!(play.plan(), [(0, 90), (1, 10)]);
}

#[test]
fn truncation_stops_or_resumes() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    play.fetched(0, Fetched::Diverging { epoch: 0, end_offset: 6 });
    assert_eq!(play.popped(), ["0: OffsetOutOfRange stopped=true"]);
    let mut play = Bench::fetching(ConsumerConfig::new().truncation(Truncation::Resume));
    play.fetched(0, Fetched::Diverging { epoch: 0, end_offset: 6 });
    assert_eq!(play.plan(), [(0, 6), (1, 10)]);
    // Brokers that do not detect it are asked; an end that is not known is no loss.
    for (end_offset, expected) in [(-1, 10), (10, 10), (6, 6)] {
        let mut play = Bench::fetching(ConsumerConfig::new().truncation(Truncation::Resume));
        let asked = play.asked(0);
        play.positions.check_epoch(&asked);
        let lookup = play.lookups().remove(0);
        assert_eq!(lookup.question, Question::Epoch(0));
        play.positions.handle_answer(&lookup, Answer::Epoch { epoch: 0, end_offset });
        assert_eq!(play.plan()[0], (0, expected), "{end_offset}");
    }
}

#[test]
fn retries_pause_and_a_new_leader_ends_the_pause() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    play.fetched(0, Fetched::Retry { pause: true, error: Error::new(ErrorKind::Broker, "later") });
    assert_eq!(play.plan(), [(1, 10)]);
    play.lead(2);
    assert_eq!(play.plan(), [(0, 10), (1, 10)]);
    let missing = play.positions.handle_leaders(|tp| {
        let leader = (tp.partition.0 == 0).then_some((NODE, 3));
        Some(Sighting { topic_id: Uuid::default(), count: 2, leader })
    });
    assert_eq!(missing, [TopicName::from("t")]);
    assert_eq!(play.plan(), [(0, 10)]);
}

#[test]
fn ends_are_told_once() {
    let mut play = Bench::fetching(ConsumerConfig::new().partition_end_events(true));
    play.records(0, 10, 90);
    assert_eq!(play.popped(), ["0: 10..100", "0: end 100"]);
    play.records(0, 100, 0);
    assert!(play.popped().is_empty());
}

#[test]
fn missing_rights_are_trouble_of_the_topic_until_it_can_be_read() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    for _ in 0..2 {
        let error = Error::from_code(ErrorCode::TOPIC_AUTHORIZATION_FAILED, "reading");
        play.fetched(0, Fetched::Retry { pause: true, error });
        assert_eq!(play.troubles(), ["topic t: NotAuthorized"]);
        assert_eq!(play.plan(), [(1, 10)]);
        play.now += DENIED_PAUSE;
        assert_eq!(play.plan(), [(0, 10), (1, 10)]);
    }
    play.records(0, 10, 5);
    assert_eq!(play.troubles(), ["topic t: NotAuthorized over"]);
}

#[test]
fn a_leader_that_steps_down_and_dies_is_unreachable_and_refuses_nothing() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    let error = Error::from_code(ErrorCode::FENCED_LEADER_EPOCH, "reading");
    play.fetched(0, Fetched::Retry { pause: true, error });
    assert_eq!(play.troubles(), ["t[0]: NoLeader"]);
    play.positions.handle_node_failed(NODE, Error::new(ErrorKind::Network, "nobody there"));
    assert_eq!(play.troubles(), ["t[0]: NoLeader over".to_owned(), format!("node {NODE}: Unreachable")]);
}

#[test]
fn a_batch_that_never_fits_is_named() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    for _ in 0..=CUTS_MAX {
        let mut part = records(0, 10, 0, 1);
        if let Fetched::Records(Records { cut, .. }) = &mut part {
            *cut = true;
        }
        play.fetched(0, part);
    }
    assert_eq!(play.popped(), ["0: TooLarge stopped=true"]);
}

#[test]
fn what_a_former_leader_answers_is_void() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    let (late, empty) = (play.asked(0), play.asked(1));
    play.lead_by(NodeId(2), 2, 0);
    let asked = play.asked(0);
    assert!(play.answer(&asked, records(0, 10, 10, 1)));
    assert!(!play.answer(&late, records(0, 10, 5, 1)));
    assert!(!play.answer(&empty, records(1, 10, 0, 1)));
    assert_eq!(play.popped(), ["0: 10..20"]);
    let state = &play.positions.partitions[&tp(0)];
    assert_eq!((state.place.position, state.place.last_epoch, state.place.checked_epoch), (20, 1, 2));
    // Nor does it say that the log was cut off, that the position is gone, or that it refuses.
    for late in [
        Fetched::Diverging { epoch: 0, end_offset: 5 },
        Fetched::OutOfRange,
        Fetched::Retry { pause: true, error: Error::new(ErrorKind::Broker, "I lead nothing") },
    ] {
        assert!(!play.answer(&empty, late));
    }
    // The same state, but what was asked for is there already.
    assert!(!play.answer(&asked, records(0, 10, 10, 1)));
    assert_eq!(play.troubles(), [""; 0]);
}

#[test]
fn a_new_leader_is_asked_what_the_former_one_did_not_answer() {
    let mut play = Bench::new(ConsumerConfig::new());
    for (partition, assignment) in play.positions.uncommitted() {
        play.positions.handle_committed(&partition, assignment, None);
    }
    let late = play.lookups().remove(0);
    play.lead_by(NodeId(2), 2, 0);
    let asked = play.lookups().remove(0);
    assert_eq!((asked.leader, asked.leader_epoch), (NodeId(2), 2));
    play.positions.handle_answer(&late, Answer::Offset { offset: 3, epoch: 1 });
    let error = Error::new(ErrorKind::Broker, "it is no leader");
    play.positions.handle_lookup_failed(&late, error, play.now, 0);
    play.positions.handle_answer(&asked, Answer::Offset { offset: 7, epoch: 1 });
    assert_eq!(play.asked(0).offset, 7);
    assert_eq!(play.popped(), [""; 0]);
}

#[test]
fn a_look_up_that_takes_long_holds_nobody_up() {
    let mut play = Bench::new(ConsumerConfig::new());
    let waiting = play.positions.uncommitted();
    play.positions.handle_committed(&waiting[0].0, waiting[0].1, None);
    play.positions.handle_committed(&waiting[1].0, waiting[1].1, Some((10, 0)));
    let Plan::Wait(Some(until)) = play.positions.plan(NODE, play.now) else { panic!("it waits a moment") };
    assert_eq!(play.lookups().len(), 1);
    play.now = until;
    assert_eq!(play.plan(), [(1, 10)]);
}

#[test]
fn what_was_not_handed_out_is_fetched_again_where_a_log_was_cut_off_behind_it() {
    // Up to 20 fetched, up to 15 handed out; the log has changed from 17 on.
    let mut play = Bench::fetching(ConsumerConfig::new());
    play.records(0, 10, 5);
    assert_eq!(play.popped(), ["0: 10..15"]);
    play.records(0, 15, 5);
    play.fetched(0, Fetched::Diverging { epoch: 0, end_offset: 17 });
    assert_eq!(play.popped(), [""; 0]);
    assert_eq!(play.plan()[0], (0, 15));
    // What was handed out is void.
    play.fetched(0, Fetched::Diverging { epoch: 0, end_offset: 12 });
    assert_eq!(play.popped(), ["0: OffsetOutOfRange stopped=true"]);
}

#[test]
fn a_topic_made_anew_is_read_from_its_start_and_what_was_kept_is_void() {
    for (paused, stopped) in [(false, false), (true, false), (false, true)] {
        let mut play = Bench::new(ConsumerConfig::new());
        play.lead_by(NODE, 1, 7);
        for (partition, assignment) in play.positions.uncommitted() {
            play.positions.handle_committed(&partition, assignment, Some((10, 0)));
        }
        play.records(0, 10, 5);
        let batch = play.batch();
        play.positions.store(batch.mark()).unwrap();
        play.records(0, 15, 5);
        if paused {
            play.positions.pause(&tp(0)).unwrap();
        }
        if stopped {
            play.fetched(0, Fetched::Fatal(Error::new(ErrorKind::CorruptRecord, "damaged")));
        }
        let late = play.asked(0);
        play.positions.begin_revoke(&[tp(1)]);
        play.troubles();
        play.lead_by(NODE, 0, 8);
        assert!(!play.answer(&late, records(0, 20, 5, 1)));
        let told = play.popped();
        assert!(told[0].starts_with("TopicRecreated"), "{told:?}");
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[1].starts_with("Lost([") && told[2].starts_with("Assigned(["), "{told:?}");
        assert!(!told[1].contains("1)"), "what is being given back is no news: {told:?}");
        assert_eq!(play.troubles(), if stopped { vec!["t[0]: Stopped over"] } else { Vec::new() });
        // Marks of the old topic, stored or not, are void; of what is being given back too.
        assert!(play.positions.stored(None).is_empty());
        assert!(play.positions.store(batch.mark()).unwrap_err().is_fenced());
        assert_eq!(play.positions.topic_id(&tp(0)), Uuid([8; 16]));
        let lookup = play.lookups().remove(0);
        assert_eq!(lookup.question, Question::Offset(EARLIEST));
        play.positions.handle_answer(&lookup, Answer::Offset { offset: 0, epoch: 0 });
        assert_eq!(play.plan(), [(0, 0)]);
    }
}

#[test]
fn a_topic_made_anew_before_reading_began_is_read_from_where_the_group_stopped_in_it() {
    let mut play = Bench::new(ConsumerConfig::new());
    play.lead_by(NODE, 1, 7);
    // Another member reads the new topic already; our metadata still has the old one.
    let asked = play.positions.uncommitted();
    play.lead_by(NODE, 0, 8);
    for (partition, assignment) in &asked {
        play.positions.handle_committed(partition, *assignment, Some((99, 0)));
    }
    assert!(play.plan().is_empty(), "an answer about the old topic says nothing of the new one");
    for (partition, assignment) in play.positions.uncommitted() {
        play.positions.handle_committed(&partition, assignment, Some((20, 0)));
    }
    assert_eq!(play.plan(), [(0, 20), (1, 20)]);
    assert_eq!(play.popped(), [""; 0], "nothing was lost");
}

#[test]
fn a_partition_that_is_gone_says_so_until_it_is_back() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    let smaller = Sighting { topic_id: Uuid::default(), count: 1, leader: Some((NODE, 1)) };
    let sight = |partition: &TopicPartition| match partition.partition.0 {
        0 => Some(smaller),
        _ => Some(Sighting { leader: None, ..smaller }),
    };
    play.positions.handle_leaders(sight);
    assert_eq!(play.troubles(), ["t[1]: NoSuchTopic"]);
    play.positions.handle_leaders(sight);
    assert_eq!(play.troubles(), [""; 0]);
    play.lead(1);
    assert_eq!(play.troubles(), ["t[1]: NoSuchTopic over"]);
}

#[test]
fn what_stopped_is_tried_again_where_the_reason_may_go_away() {
    let mut play = Bench::fetching(ConsumerConfig::new());
    for _ in 0..2 {
        let damaged = Error::new(ErrorKind::CorruptRecord, "damaged");
        play.fetched(0, Fetched::Fatal(damaged));
        assert_eq!(play.troubles(), ["t[0]: Stopped"]);
        play.popped();
        assert_eq!(play.plan(), [(1, 10)]);
        play.now += Duration::from_secs(60);
        assert_eq!(play.plan(), [(0, 10), (1, 10)]);
        // Told once; that it lasts is the condition's.
        assert!(play.popped().is_empty());
    }
    play.records(0, 10, 5);
    assert_eq!(play.troubles(), ["t[0]: Stopped over"]);
    assert_eq!(play.popped(), ["0: 10..15"]);
    // Where records are gone for good, somebody has to say where to go on.
    play.fetched(0, Fetched::OutOfRange);
    let lookup = play.lookups().remove(0);
    play.positions.handle_answer(&lookup, Answer::Range { earliest: 20, latest: 90 });
    play.now += Duration::from_secs(3600);
    assert_eq!(play.popped(), ["0: OffsetOutOfRange stopped=true"]);
    assert_eq!(play.plan(), [(1, 10)]);
    assert_eq!(play.troubles(), ["t[0]: Stopped"]);
    play.positions.seek(&tp(0), StartOffset::At(Offset(20))).unwrap();
    assert_eq!(play.troubles(), ["t[0]: Stopped over"]);
    assert_eq!(play.plan(), [(0, 20), (1, 10)]);
}

#[test]
fn what_nobody_may_see_is_done_with_what_is_in_front_of_it() {
    let stored = |play: &mut Bench| play.positions.stored(None).first().map(|mark| mark.offset().0);
    // Behind a batch that waits.
    let mut play = Bench::fetching(ConsumerConfig::new().hold_after_delivery(true));
    play.records(0, 10, 5);
    let first = play.batch();
    play.records(0, 15, 5);
    play.fetched(0, nothing(20, 30));
    play.positions.release(&tp(0));
    assert_eq!(play.popped(), ["0: 15..20"]);
    assert_eq!(play.positions.position(&tp(0)), Some(Offset(30)));
    play.positions.store(first.mark()).unwrap();
    assert_eq!(stored(&mut play), Some(15));
    play.positions.store(first.mark_up_to(Offset(20))).unwrap();
    assert_eq!(stored(&mut play), Some(30));
    // More of it comes later.
    play.fetched(0, nothing(30, 40));
    assert_eq!(stored(&mut play), Some(40));
    // Nothing but that, after what the group has committed.
    let mut play = Bench::fetching(ConsumerConfig::new());
    play.fetched(0, nothing(10, 12));
    assert_eq!(stored(&mut play), Some(12));
}

#[test]
fn partitions_that_appear_later_are_read_from_their_start() {
    for (policy, expected) in [(NewPartitions::Earliest, EARLIEST), (NewPartitions::FirstStart, LATEST)] {
        let config = ConsumerConfig::new().first_start(FirstStart::Latest).new_partitions(policy);
        let mut play = Bench::new(config);
        play.positions.handle_topic_seen(&TopicName::from("t"), 1);
        play.positions.handle_topic_seen(&TopicName::from("t"), 2);
        for (partition, assignment) in play.positions.uncommitted() {
            play.positions.handle_committed(&partition, assignment, None);
        }
        let questions: Vec<_> = play.lookups().iter().map(|lookup| lookup.question).collect();
        assert_eq!(questions, [Question::Offset(LATEST), Question::Offset(expected)]);
    }
}

#[test]
fn a_position_that_is_moved_by_policy_is_told() {
    let mut play = Bench::fetching(ConsumerConfig::new().out_of_range(OutOfRange::Earliest));
    play.fetched(0, Fetched::OutOfRange);
    let lookup = play.lookups().remove(0);
    play.positions.handle_answer(&lookup, Answer::Offset { offset: 50, epoch: 1 });
    let mut told = play.popped();
    assert_eq!(told.remove(0), "0: 10 becomes 50");
    let mut play = Bench::fetching(ConsumerConfig::new().truncation(Truncation::Resume));
    play.fetched(0, Fetched::Diverging { epoch: 0, end_offset: 6 });
    assert_eq!(play.popped(), ["0: 10 becomes 6"]);
}

#[test]
fn what_was_fetched_before_a_position_is_moved_is_handed_out_first() {
    for moved in [50, 3] {
        let config = ConsumerConfig::new().hold_after_delivery(true).out_of_range(OutOfRange::Latest);
        let mut play = Bench::fetching(config);
        play.records(0, 10, 5);
        play.pop();
        play.records(0, 15, 5);
        play.fetched(0, Fetched::OutOfRange);
        let lookup = play.lookups().remove(0);
        play.positions.handle_answer(&lookup, Answer::Offset { offset: moved, epoch: 1 });
        assert_eq!(play.positions.position(&tp(0)), Some(Offset(15)));
        play.positions.release(&tp(0));
        assert_eq!(play.popped().len(), 2);
        // Memory that is asked back takes reading to where it was moved, not to where it was.
        play.records(0, moved, 5);
        assert!(play.positions.shed());
        assert_eq!(play.positions.position(&tp(0)), Some(Offset(moved)));
        assert_eq!(play.asked(0).offset, moved);
    }
}
