//! Positions, played by hand.

use super::*;

const NODE: NodeId = NodeId(1);

struct Play {
    positions: Positions,
    now: Instant,
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

impl Play {
    fn new(config: ConsumerConfig) -> Self {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };
        let mut play = Self {
            positions: Positions::new(PositionsConfig { consumer: config, backoff }),
            now: Instant::now(),
        };
        play.positions.assign((0..2).map(|p| (tp(p), Begin::Committed)));
        play.lead(1);
        play
    }

    fn lead(&mut self, epoch: i32) {
        self.positions.handle_leaders(|_| Some((NODE, epoch, Uuid::default())));
    }

    /// Both partitions committed at 10.
    fn fetching(config: ConsumerConfig) -> Self {
        let mut play = Self::new(config);
        for (partition, assignment) in play.positions.uncommitted() {
            play.positions.handle_committed(&partition, assignment, Some((10, 0)));
        }
        play
    }

    fn plan(&mut self) -> Vec<(i32, i64)> {
        match self.positions.plan(NODE, self.now) {
            Plan::Fetch(planned) => planned.iter().map(|p| (p.partition.partition.0, p.offset)).collect(),
            _ => Vec::new(),
        }
    }

    fn version(&self, partition: i32) -> u64 {
        self.positions.partitions[&tp(partition)].version
    }

    fn fetched(&mut self, partition: i32, fetched: Fetched) {
        let version = self.version(partition);
        self.positions.handle_fetched(&tp(partition), version, fetched, self.now, 0);
    }

    fn records(&mut self, partition: i32, from: i64, count: usize) {
        let fetched = records(partition, from, count, self.positions.partitions[&tp(partition)].assignment);
        self.fetched(partition, fetched);
    }

    /// What is handed out, in short, and whether a fetch may follow.
    fn pop(&mut self) -> Option<(String, bool)> {
        let (event, used_up) = self.positions.pop()?;
        let text = match event {
            Event::Batch(batch) => {
                format!("{}: {}..{}", batch.partition(), batch.first_offset().unwrap(), batch.next_offset())
            }
            Event::PartitionFailed(failure) => format!(
                "{}: {:?} stopped={}",
                failure.partition.partition,
                failure.error.kind(),
                failure.stopped
            ),
            Event::PartitionEnd { partition, offset } => format!("{}: end {offset}", partition.partition),
            event => format!("{event:?}"),
        };
        Some((text, used_up))
    }

    fn popped(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.pop().map(|(text, _)| text)).collect()
    }
}

fn records(partition: i32, from: i64, count: usize, assignment: u64) -> Fetched {
    let values = vec![(None, Some(&b"value"[..])); count];
    let batch =
        (count > 0).then(|| Batch::for_test(tp(partition), from, &values).with_assignment(assignment));
    Fetched::Records {
        batch,
        next_offset: from + count as i64,
        last_epoch: 1,
        high_watermark: 100,
        last_stable_offset: 100,
        fault: None,
        cut: false,
    }
}

#[test]
fn without_a_committed_offset_the_policy_decides() {
    for (policy, question) in [(FirstStart::Earliest, EARLIEST), (FirstStart::Latest, LATEST)] {
        let mut play = Play::new(ConsumerConfig::new().first_start(policy));
        assert!(play.plan().is_empty());
        for (partition, assignment) in play.positions.uncommitted() {
            play.positions.handle_committed(&partition, assignment, None);
        }
        let lookups = play.positions.lookups(play.now);
        assert_eq!(lookups.len(), 2);
        assert!(lookups.iter().all(|lookup| lookup.question == Question::Offset(question)));
        // Asked once; the fetch waits for both.
        assert!(play.positions.lookups(play.now).is_empty());
        play.positions.handle_answer(&tp(0), lookups[0].version, Answer::Offset { offset: 7, epoch: 1 });
        assert!(play.plan().is_empty());
        play.positions.handle_answer(&tp(1), lookups[1].version, Answer::Offset { offset: 8, epoch: 1 });
        assert_eq!(play.plan(), [(0, 7), (1, 8)]);
    }
    let mut play = Play::new(ConsumerConfig::new().first_start(FirstStart::Stop));
    for (partition, assignment) in play.positions.uncommitted() {
        play.positions.handle_committed(&partition, assignment, None);
    }
    assert_eq!(play.popped(), ["0: OffsetOutOfRange stopped=true", "1: OffsetOutOfRange stopped=true"]);
}

#[test]
fn a_look_up_that_fails_holds_nobody_up() {
    let mut play = Play::new(ConsumerConfig::new());
    let waiting = play.positions.uncommitted();
    play.positions.handle_committed(&waiting[0].0, waiting[0].1, None);
    play.positions.handle_committed(&waiting[1].0, waiting[1].1, Some((10, 0)));
    let lookup = play.positions.lookups(play.now).remove(0);
    assert!(play.plan().is_empty());
    let error = Error::from_code(crate::ErrorCode::LEADER_NOT_AVAILABLE, "looking up");
    play.positions.handle_lookup_failed(&tp(0), lookup.version, error, play.now, 0);
    assert_eq!(play.plan(), [(1, 10)]);
    assert!(play.positions.lookups(play.now).is_empty());
    play.now += Duration::from_millis(100);
    assert_eq!(play.positions.lookups(play.now).len(), 1);
}

#[test]
fn one_answer_is_handed_out_before_the_next_is_fetched() {
    let mut play = Play::fetching(ConsumerConfig::new());
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
fn paused_partitions_keep_what_was_fetched_and_leave_the_session() {
    let mut play = Play::fetching(ConsumerConfig::new());
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
    let mut play = Play::fetching(ConsumerConfig::new().hold_after_delivery(true));
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
    assert_eq!(play.popped(), ["0: 15..20"]);
    play.positions.release(&tp(0));
    assert_eq!(play.popped(), ["0: 20..25"]);
}

#[test]
fn late_answers_are_dropped_by_version() {
    let mut play = Play::fetching(ConsumerConfig::new());
    let old = play.version(0);
    play.positions.seek(&tp(0), StartOffset::At(Offset(50))).unwrap();
    let late = records(0, 10, 5, 1);
    play.positions.handle_fetched(&tp(0), old, late, play.now, 0);
    assert_eq!(play.plan(), [(0, 50), (1, 10)]);
    // A seek while a look-up is under way wins.
    play.positions.seek(&tp(0), StartOffset::Earliest).unwrap();
    let lookup = play.positions.lookups(play.now).remove(0);
    play.positions.seek(&tp(0), StartOffset::At(Offset(60))).unwrap();
    play.positions.handle_answer(&tp(0), lookup.version, Answer::Offset { offset: 0, epoch: 1 });
    assert_eq!(play.plan(), [(0, 60), (1, 10)]);
    // Revoked and assigned again: the old one is another partition.
    let old = play.version(0);
    play.positions.begin_revoke(&[tp(0)]);
    assert_eq!(play.plan(), [(1, 10)]);
    play.positions.remove(&[tp(0)]);
    play.positions.assign([(tp(0), Begin::At(StartOffset::At(Offset(70))))]);
    play.lead(1);
    play.positions.handle_fetched(&tp(0), old, records(0, 60, 5, 1), play.now, 0);
    assert_eq!(play.plan(), [(0, 70), (1, 10)]);
}

#[test]
fn marks_belong_to_their_assignment() {
    let mut play = Play::fetching(ConsumerConfig::new());
    play.records(0, 10, 5);
    let Some((Event::Batch(batch), _)) = play.positions.pop() else { panic!("a batch") };
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
    let mut play = Play::fetching(ConsumerConfig::new());
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
    let mut nothing = records(0, 15, 0, 1);
    if let Fetched::Records { next_offset, .. } = &mut nothing {
        *next_offset = 20;
    }
    play.fetched(0, nothing);
    play.positions.store_handed_out();
    assert_eq!(play.positions.stored(None)[0].offset(), Offset(20));
}

#[test]
fn faults_come_after_the_records_in_front_of_them() {
    let mut play = Play::fetching(ConsumerConfig::new());
    let mut part = records(0, 10, 5, 1);
    if let Fetched::Records { fault, .. } = &mut part {
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
    let mut play = Play::fetching(ConsumerConfig::new());
    play.fetched(0, Fetched::OutOfRange);
    let lookup = play.positions.lookups(play.now).remove(0);
    assert_eq!(lookup.question, Question::Range);
    play.positions.handle_answer(&tp(0), lookup.version, Answer::Range { earliest: 20, latest: 90 });
    assert_eq!(play.popped(), ["0: OffsetOutOfRange stopped=true"]);
    let mut play = Play::fetching(ConsumerConfig::new().out_of_range(OutOfRange::Latest));
    play.fetched(0, Fetched::OutOfRange);
    let lookup = play.positions.lookups(play.now).remove(0);
    assert_eq!(lookup.question, Question::Offset(LATEST));
    play.positions.handle_answer(&tp(0), lookup.version, Answer::Offset { offset: 90, epoch: 2 });
    assert_eq!(play.plan(), [(0, 90), (1, 10)]);
}

#[test]
fn truncation_stops_or_resumes() {
    let mut play = Play::fetching(ConsumerConfig::new());
    play.fetched(0, Fetched::Diverging { epoch: 0, end_offset: 6 });
    assert_eq!(play.popped(), ["0: OffsetOutOfRange stopped=true"]);
    let mut play = Play::fetching(ConsumerConfig::new().truncation(Truncation::Resume));
    play.fetched(0, Fetched::Diverging { epoch: 0, end_offset: 6 });
    assert_eq!(play.plan(), [(0, 6), (1, 10)]);
    // Brokers that do not detect it are asked; an end that is not known is no loss.
    for (end_offset, expected) in [(-1, 10), (10, 10), (6, 6)] {
        let mut play = Play::fetching(ConsumerConfig::new().truncation(Truncation::Resume));
        let version = play.version(0);
        play.positions.check_epoch(&tp(0), version);
        let lookup = play.positions.lookups(play.now).remove(0);
        assert_eq!(lookup.question, Question::Epoch(0));
        play.positions.handle_answer(&tp(0), lookup.version, Answer::Epoch { epoch: 0, end_offset });
        assert_eq!(play.plan()[0], (0, expected), "{end_offset}");
    }
}

#[test]
fn retries_pause_and_a_new_leader_ends_the_pause() {
    let mut play = Play::fetching(ConsumerConfig::new());
    play.fetched(0, Fetched::Retry { pause: true });
    assert_eq!(play.plan(), [(1, 10)]);
    play.lead(2);
    assert_eq!(play.plan(), [(0, 10), (1, 10)]);
    let missing =
        play.positions.handle_leaders(|tp| (tp.partition.0 == 0).then_some((NODE, 3, Uuid::default())));
    assert_eq!(missing, [tp(1)]);
    assert_eq!(play.plan(), [(0, 10)]);
}

#[test]
fn ends_are_told_once() {
    let mut play = Play::fetching(ConsumerConfig::new().partition_end_events(true));
    play.records(0, 10, 90);
    assert_eq!(play.popped(), ["0: 10..100", "0: end 100"]);
    play.records(0, 100, 0);
    assert!(play.popped().is_empty());
}

#[test]
fn a_denied_partition_is_told_once_and_tried_again() {
    let mut play = Play::fetching(ConsumerConfig::new());
    for _ in 0..2 {
        let error = Error::from_code(crate::ErrorCode::TOPIC_AUTHORIZATION_FAILED, "reading");
        play.fetched(0, Fetched::Denied(error));
        assert_eq!(play.plan(), [(1, 10)]);
        play.now += DENIED_PAUSE;
        assert_eq!(play.plan(), [(0, 10), (1, 10)]);
    }
    assert_eq!(play.popped(), ["0: Authorization stopped=false"]);
}

#[test]
fn a_batch_that_never_fits_is_named() {
    let mut play = Play::fetching(ConsumerConfig::new());
    for _ in 0..=CUTS_MAX {
        let mut part = records(0, 10, 0, 1);
        if let Fetched::Records { cut, .. } = &mut part {
            *cut = true;
        }
        play.fetched(0, part);
    }
    assert_eq!(play.popped(), ["0: TooLarge stopped=true"]);
}
