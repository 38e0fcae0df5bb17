//! The producer against the embedded cluster, on the simulated runtime.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::broker::{self, Action, Control, Matcher};
use crate::cluster::ClusterConfig;
use crate::runtime::Runtime;
use crate::runtime::sim::{Direction, Links, SimRuntime};
use crate::runtime::watched::Watched;
use crate::types::{Offset, Partition};
use crate::wire::ApiKey;
use crate::{ErrorCode, ErrorKind};

mod change;
mod ends;

struct Bench {
    broker: broker::Cluster,
    cluster: Cluster,
}

impl Bench {
    async fn new(nodes: u16, partitions: i32) -> Self {
        Self::on(SimRuntime::new(7), nodes, partitions).await
    }

    async fn on(runtime: Arc<dyn Runtime>, nodes: u16, partitions: i32) -> Self {
        let broker = broker::Cluster::builder()
            .nodes(nodes)
            .topic("t", partitions)
            .runtime(Arc::clone(&runtime))
            .start()
            .await
            .expect("the cluster starts");
        let cluster = cluster(&runtime, &broker);
        Self { broker, cluster }
    }

    fn builder(&self) -> ProducerBuilder {
        Producer::builder(self.cluster.clone())
    }

    fn producer(&self) -> Producer {
        self.builder().build().expect("the settings are right")
    }

    fn control(&self) -> Control {
        self.broker.control()
    }

    /// Values in the log of a partition.
    fn log(&self, partition: i32) -> Vec<String> {
        self.broker
            .log("t", partition)
            .into_iter()
            .map(|record| String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned())
            .collect()
    }
}

/// What a client of `broker` has.
fn cluster(runtime: &Arc<dyn Runtime>, broker: &broker::Cluster) -> Cluster {
    let servers = broker.bootstrap_servers();
    let bootstrap = servers
        .split(',')
        .filter_map(|server| {
            let (host, port) = server.rsplit_once(':')?;
            Some((host.to_owned(), port.parse().ok()?))
        })
        .collect();
    Cluster::new(Arc::clone(runtime), ClusterConfig { bootstrap, ..ClusterConfig::default() })
}

/// A clock that a test winds, and how often it was read.
#[derive(Default)]
struct Wound {
    wall: Cell<i64>,
    passed: Cell<Duration>,
    readings: Cell<u32>,
}

impl lane::Clocks for Wound {
    fn wall(&self) -> i64 {
        self.readings.set(self.readings.get() + 1);
        self.wall.get()
    }

    fn now(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.passed.get()
    }
}

const SECONDS: Duration = Duration::from_secs(1);

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("v{number}")).collect()
}

/// Enqueues `v0`, `v1`, … to partition 0 and waits for all of them.
async fn produce(producer: &Producer, range: std::ops::Range<usize>) {
    let mut receipts = Vec::new();
    for value in numbers(range) {
        let record = Record::to("t").partition(0).value(&value);
        receipts.push(producer.enqueue(record).await.expect("there is room"));
    }
    for receipt in receipts {
        receipt.await.expect("it is written");
    }
}

#[tokio::test(start_paused = true)]
async fn records_are_written_in_order_and_acknowledged() {
    let world = Bench::new(3, 4).await;
    let producer = world.producer();
    let mut receipts = Vec::new();
    for value in numbers(0..100) {
        let record = Record::to("t").key(&value).value(&value).header("h", "x").timestamp(5);
        receipts.push((value.clone(), producer.enqueue(record).await.expect("there is room")));
    }
    for (value, receipt) in receipts {
        let delivery = receipt.await.expect("it is written");
        let offset = delivery.offset.expect("offsets are known").0 as usize;
        let record = world.broker.log("t", delivery.partition.0).swap_remove(offset);
        assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
        assert_eq!(record.key.as_deref(), Some(value.as_bytes()));
        assert_eq!((record.timestamp, delivery.timestamp.0), (5, 5));
        assert_eq!(record.headers.len(), 1);
    }
    let counters = producer.counters();
    assert_eq!((counters.enqueued, counters.acked, counters.failed), (100, 100, 0));
    assert_eq!(counters.buffered_bytes, 0, "all memory came back");
    producer.close(SECONDS).await.expect("nothing is left");
    let late = producer.enqueue(Record::to("t").value("late")).await.expect_err("it is closed");
    assert_eq!((late.kind(), late.outcome()), (ErrorKind::State, Outcome::NotWritten));
    assert_eq!(late.record().and_then(Record::value_bytes), Some(&b"late"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_single_awaited_send_does_not_linger() {
    let world = Bench::new(1, 1).await;
    let mut took = Vec::new();
    for builder in [world.builder().config(ProducerConfig::new().linger(Duration::ZERO)), world.builder()] {
        let producer = builder.build().expect("right");
        producer.send(Record::to("t").value("first")).await.expect("it is written");
        let start = tokio::time::Instant::now();
        for _ in 0..10 {
            producer.send(Record::to("t").value("x")).await.expect("it is written");
        }
        took.push(start.elapsed());
    }
    assert!(took[1] <= took[0] + Duration::from_millis(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_doubled_or_reordered_by_faults() {
    let produce_key = ApiKey::PRODUCE;
    let faults: [(&str, Action); 7] = [
        ("request lost", Action::DropRequest),
        ("answer lost", Action::DropAnswer),
        ("answer cut", Action::CutAfter(7)),
        ("answer late", Action::DelayAnswer(Duration::from_secs(40))),
        ("not the leader", Action::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        ("too few replicas", Action::Error(ErrorCode::NOT_ENOUGH_REPLICAS)),
        ("unknown outcome", Action::Error(ErrorCode::REQUEST_TIMED_OUT)),
    ];
    for (name, action) in faults {
        let world = Bench::new(3, 1).await;
        let producer = world.producer();
        produce(&producer, 0..10).await;
        let rule = world.control().intercept(Matcher::api(produce_key).skip(1).times(3), action);
        let mut receipts = Vec::new();
        for (index, value) in numbers(10..200).into_iter().enumerate() {
            let record = Record::to("t").partition(0).value(&value);
            receipts.push(producer.enqueue(record).await.expect("there is room"));
            if index % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        for receipt in receipts {
            receipt.await.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_eq!(rule.hits(), 3, "{name}");
        assert_eq!(world.log(0), numbers(0..200), "{name}");
        assert_eq!(producer.counters().buffered_bytes, 0, "{name}");
    }
}

/// Wherever a request or its answer breaks off, the record is written once and acknowledged.
#[tokio::test(start_paused = true)]
async fn a_cut_at_any_byte_of_a_request_or_its_answer_neither_loses_nor_doubles() {
    let sim = SimRuntime::new(7);
    let world = Bench::on(sim.clone(), 1, 1).await;
    let producer = world.producer();
    produce(&producer, 0..1).await;
    let mut written = 1;
    let mut cuts = 0;
    for direction in [Direction::ToServer, Direction::ToClient] {
        // Beyond the longest frame, so that there are also cuts that come too late.
        for bytes in 0..200 {
            let network = sim.network();
            network.cut_after(&Links::all(), direction, bytes);
            let before = network.connections();
            produce(&producer, written..written + 1).await;
            cuts += usize::from(network.connections() != before);
            written += 1;
        }
    }
    assert!((100..400).contains(&cuts), "{cuts}");
    assert_eq!(world.log(0), numbers(0..written));
}

#[tokio::test(start_paused = true)]
async fn leaders_move_and_nodes_die_while_records_are_on_the_way() {
    let world = Bench::new(3, 1).await;
    let producer = world.producer();
    produce(&producer, 0..1).await;
    let control = world.control();
    let mut receipts = Vec::new();
    for (index, value) in numbers(1..600).into_iter().enumerate() {
        let record = Record::to("t").partition(0).value(&value);
        receipts.push(producer.enqueue(record).await.expect("there is room"));
        let state = control.partition("t", 0).expect("it exists");
        match index {
            100 | 200 | 300 => {
                let next = state.isr.iter().copied().find(|node| Some(*node) != state.leader);
                control.move_leader("t", 0, next.expect("three replicas or fewer")).expect("it is in sync");
            }
            400 => control.kill_node(state.leader.expect("there is one")),
            _ => {}
        }
        if index % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for receipt in receipts {
        receipt.await.expect("it is written");
    }
    assert_eq!(world.log(0), numbers(0..600));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_leaves_the_outcome_unknown() {
    let world = Bench::new(1, 1).await;
    let producer = world
        .builder()
        .config(ProducerConfig::new().delivery_timeout(Duration::from_secs(40)))
        .build()
        .expect("right");
    produce(&producer, 0..1).await;
    let rule = world.control().intercept(Matcher::api(ApiKey::PRODUCE), Action::Hold);
    let start = tokio::time::Instant::now();
    let receipt = producer.enqueue(Record::to("t").key("k").value("held")).await.expect("there is room");
    let error = receipt.await.expect_err("nobody answers");
    assert_eq!(start.elapsed().as_secs(), 40);
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    let record = error.into_record().expect("it comes back");
    assert_eq!((record.key_bytes(), record.value_bytes()), (Some(&b"k"[..]), Some(&b"held"[..])));
    rule.remove();
    // The held requests may be written now, or never; what follows is written once and in order.
    produce(&producer, 1..20).await;
    let log = world.log(0);
    assert_eq!(
        log.iter().filter(|value| value.starts_with('v')).cloned().collect::<Vec<_>>(),
        numbers(0..20)
    );
    assert!(log.iter().filter(|value| *value == "held").count() <= 1);
}

#[tokio::test(start_paused = true)]
async fn batches_too_large_for_the_topic_are_split() {
    let runtime: Arc<dyn Runtime> = SimRuntime::new(7);
    let broker = broker::Cluster::builder()
        .topic("t", 1)
        .message_max_bytes(2000)
        .runtime(Arc::clone(&runtime))
        .start()
        .await
        .expect("the cluster starts");
    let cluster = cluster(&runtime, &broker);
    for compression in [Compression::None, Compression::Lz4] {
        let producer = Producer::builder(cluster.clone())
            .config(ProducerConfig::new().compression(compression))
            .build()
            .expect("the settings are right");
        producer.topic("t").await.expect("it exists");
        let first = broker.log("t", 0).len();
        let mut dice = fastrand::Rng::with_seed(3);
        let values: Vec<String> =
            (0..100).map(|_| std::iter::repeat_with(|| dice.alphanumeric()).take(150).collect()).collect();
        let records = values.iter().map(|value| Record::to("t").value(value));
        let receipts = producer.enqueue_all(records).await.expect("there is room");
        assert_eq!(receipts.len(), 100);
        assert!(receipts.wait().await.is_empty());
        let log = broker.log("t", 0);
        let written: Vec<_> = log[first..].iter().map(|record| record.value.clone()).collect();
        let expected: Vec<_> = values.into_iter().map(|value| Some(value.into())).collect();
        assert_eq!(written, expected, "{compression}");

        let large = vec![b'x'; 5000];
        let noise: Vec<u8> = large.iter().map(|_| dice.u8(..)).collect();
        let error = producer.send(Record::to("t").value(&noise)).await.expect_err("one record alone");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::NotWritten));
        assert_eq!(error.record().and_then(Record::value_bytes), Some(&noise[..]));
        producer.send(Record::to("t").value("after")).await.expect("the next one is written");
    }
}

#[tokio::test(start_paused = true)]
async fn compressed_batches_keep_their_order() {
    let world = Bench::new(1, 1).await;
    let producer = world
        .builder()
        .config(ProducerConfig::new().compression(Compression::Lz4).batch_size(200_000))
        .build()
        .expect("the settings are right");
    let filler = "x".repeat(1000);
    let values: Vec<_> = (0..1000).map(|number| format!("{number} {filler}")).collect();
    let receipts = producer
        .enqueue_all(values.iter().map(|value| Record::to("t").value(value)))
        .await
        .expect("there is room");
    producer.flush(SECONDS * 10).await.expect("all is written");
    assert!(receipts.wait().await.is_empty());
    assert_eq!(world.log(0), values);
}

#[tokio::test(start_paused = true)]
async fn enqueue_all_gives_back_what_it_took_and_could_not_enqueue() {
    let world = Bench::new(1, 1).await;
    let producer = world.producer();
    let topic = producer.topic("t").await.expect("the topic exists");
    let values: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    let mut records = values.iter().map(|value| {
        // The caller's iterator may use the producer, too.
        drop(producer.try_enqueue(Record::to(&topic).value("between")).expect("there is room"));
        let record = Record::to(&topic).value(value);
        if value == "70" { record.partition(9) } else { record }
    });
    let error = producer.enqueue_all(records.by_ref()).await.expect_err("there is no partition 9");
    let (receipts, error, rest) = error.into_parts();
    assert_eq!(receipts.len(), 70);
    assert_eq!(error.record().expect("it comes back").value_bytes(), Some(&b"70"[..]));
    assert!(receipts.wait().await.is_empty());
    assert!(rest.len() < 64);
    let more = producer.enqueue_all(rest.into_iter().chain(records)).await.expect("there is room");
    assert!(more.wait().await.is_empty());
    let log = world.log(0);
    let written: Vec<_> = log.iter().filter(|value| *value != "between").collect();
    assert_eq!(written, values.iter().filter(|value| *value != "70").collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn large_bodies_are_compressed_one_per_core_and_written_in_close_order() {
    let runtime = Watched::new(7);
    let world = Bench::on(runtime.clone(), 1, 1).await;
    let producer = world
        .builder()
        .config(ProducerConfig::new().compression(Compression::Lz4).batch_size(200_000))
        .build()
        .expect("the settings are right");
    let filler = "x".repeat(1000);
    let values: Vec<_> = (0..2000).map(|number| format!("{number} {filler}")).collect();
    runtime.hold();
    let records = values.iter().map(|value| Record::to("t").value(value));
    let receipts = producer.enqueue_all(records).await.expect("there is room");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut running = Vec::new();
    while producer.counters().acked < 2000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        running.extend(runtime.take_held());
        assert!(running.len() <= cores, "{} of {cores}", running.len());
        // The last one ends first.
        if let Some(work) = running.pop() {
            work();
        }
    }
    assert!(receipts.wait().await.is_empty());
    assert!(runtime.count("carafe-compress") >= 10);
    assert_eq!(world.log(0), values);
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_makes_enqueuing_wait_and_then_fail() {
    let world = Bench::new(1, 2).await;
    let producer = world
        .builder()
        .config(
            ProducerConfig::new()
                .batch_size(16 * 1024)
                .buffer_memory(64 * 1024)
                .max_block(Duration::from_secs(3)),
        )
        .build()
        .expect("the settings are right");
    let value = "x".repeat(1000);
    let mut receipts = Vec::new();
    // Ten times the memory passes through while the broker answers.
    for _ in 0..640 {
        receipts.push(producer.enqueue(Record::to("t").value(&value)).await.expect("room appears"));
    }
    for receipt in receipts.drain(..) {
        receipt.await.expect("it is written");
    }
    let rule = world.control().intercept(Matcher::api(ApiKey::PRODUCE), Action::Hold);
    let error = loop {
        match producer.enqueue(Record::to("t").value(&value)).await {
            Ok(receipt) => receipts.push(receipt),
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotWritten));
    assert!(matches!(producer.try_enqueue(Record::to("t").value(&value)), Err(TryEnqueueError::Full(_))));
    assert!(receipts.len() < 64);
    rule.remove();
    for receipt in receipts {
        receipt.await.expect("it is written in the end");
    }
    let huge = vec![0; 100_000];
    let error = producer.enqueue(Record::to("t").value(&huge)).await.expect_err("never");
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(producer.counters().buffered_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn topics_are_looked_up_once_and_created_where_that_is_allowed() {
    let world = Bench::new(1, 3).await;
    let producer = world.producer();
    let Err(TryEnqueueError::MetadataPending(record)) = producer.try_enqueue(Record::to("t").value("x"))
    else {
        panic!("nothing is known yet")
    };
    tokio::time::sleep(SECONDS).await;
    let receipt = producer.try_enqueue(record).expect("it is known now");
    receipt.await.expect("it is written");
    let topic = producer.topic("made").await.expect("it is created");
    assert_eq!(topic.partition_count(), 1);
    producer.send(Record::to(&topic).value("x")).await.expect("it is written");
    let error = producer.send(Record::to(&topic).partition(7).value("x")).await.expect_err("there is one");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotWritten));
    // A handle of one producer names the topic to another.
    let other =
        world.builder().config(ProducerConfig::new().allow_auto_create_topics(false)).build().expect("right");
    other.send(Record::to(topic).value("y")).await.expect("it is written");
    let error = other.send(Record::to("missing").value("x")).await.expect_err("it does not exist");
    assert_eq!(error.outcome(), Outcome::NotWritten);
}

#[tokio::test(start_paused = true)]
async fn flush_close_and_drop_leave_nobody_waiting() {
    let world = Bench::new(1, 1).await;
    let producer = world.producer();
    producer.flush(SECONDS).await.expect("nothing is there");
    let first = producer.enqueue(Record::to("t").value("v0")).await.expect("there is room");
    producer.flush(SECONDS).await.expect("it is written");
    assert_eq!(first.outcome(), Some(Outcome::Written));

    let rule = world.control().intercept(Matcher::api(ApiKey::PRODUCE), Action::Hold);
    let held = producer.enqueue(Record::to("t").value("v1")).await.expect("there is room");
    let error = producer.flush(SECONDS).await.expect_err("nobody answers");
    assert!(error.is_timeout());
    let error = producer.close(SECONDS).await.expect_err("one is lost");
    assert!(error.is_timeout(), "{error}");
    assert_eq!(held.await.expect_err("closed").outcome(), Outcome::Unknown);
    producer.close(SECONDS).await.expect("closed already");
    assert!(producer.flush(SECONDS).await.is_err());
    rule.remove();

    // Dropped without a word, the producer still delivers.
    let producer = world.producer();
    let receipt = producer.enqueue(Record::to("t").value("v2")).await.expect("there is room");
    drop(producer);
    assert_eq!(receipt.await.expect("it is written").partition, Partition(0));
}

#[tokio::test(start_paused = true)]
async fn a_flush_waits_for_records_whose_letter_is_still_in_the_hands_of_another_appender() {
    let world = Bench::new(1, 1).await;
    let producer = world.producer();
    let topic = producer.topic("t").await.expect("there is one");
    let stock = &producer.shared.stock;
    let clocks = Wound::default();
    let lane = topic.0.lanes.get(0).expect("it has one partition");
    for flush in [true, false] {
        // Of an appender that was interrupted before it could send the letter.
        let first = lane.appender(stock).append(&Record::to("t").value("a"), &clocks, &mut None);
        assert!(first.expect("there is room").notice.announce);
        let behind = producer.enqueue(Record::to("t").value("b")).await.expect("there is room");
        if flush {
            producer.flush(SECONDS).await.expect("it takes no second");
        } else {
            producer.close(SECONDS).await.expect("it takes no second");
        }
        assert_eq!(behind.outcome(), Some(Outcome::Written));
    }
}

#[test]
fn a_request_that_a_run_of_records_fills_is_news_whatever_the_driver_said() {
    let lane = lane::Lane::new(0, "t".into(), 0, 1_000_000);
    let gauge = Arc::new(gauge::Gauge::default());
    gauge.target.store(12_000, Ordering::Relaxed);
    gauge.look.store(7, Ordering::Relaxed);
    lane.attach(&gauge);
    let (stock, clocks) = (stock::Stock::new(1_000_000), Wound::default());
    let mut appender = lane.appender(&stock);
    let (half, rest) = (vec![0; 9000], vec![0; 4000]);
    let mut run = appender.append(&Record::to("t").value(&half), &clocks, &mut None).expect("there is room");
    assert_eq!((run.notice.announce, run.notice.nudge, run.notice.look), (true, false, 7));
    appender.continue_run(&mut run, &Record::to("t").value(&rest), &clocks).expect("there is room");
    assert_eq!((run.notice.announce, run.notice.nudge, run.notice.look), (true, true, 0));
}

#[test]
fn a_buffer_that_grew_is_as_large_as_its_credit() {
    let lane = lane::Lane::new(0, "t".into(), 0, 1_000_000);
    let (stock, clocks) = (stock::Stock::new(1_000_000), Wound::default());
    let codec = compress::Codec::new(Compression::None, None);
    for records in [20, 30, 300, 25, 1000] {
        for _ in 0..records {
            let record = Record::to("t").value(&[7; 90]);
            lane.appender(&stock).append(&record, &clocks, &mut None).expect("there is room");
        }
        let mut batches = Vec::new();
        lane.collect(&codec, lane::Take::All, &mut batches);
        let batch = batches.pop().expect("there is one");
        let credit = batch.credit.as_ref().map(crate::sync::Credit::bytes);
        let body = batch.body.clone();
        drop(batch);
        let buffer = body.try_into_mut().expect("nobody else reads it");
        assert_eq!(Some(buffer.capacity()), credit, "{records}");
        assert_eq!(stock::size_for(buffer.capacity()), buffer.capacity(), "it can be used again");
    }
}

#[test]
fn slow_appenders_read_the_clock_each_time_and_fast_ones_now_and_then() {
    let lane = lane::Lane::new(0, "t".into(), 0, 1_000_000);
    let gauge = Arc::new(gauge::Gauge::default());
    gauge.busy.store(true, Ordering::Relaxed);
    lane.attach(&gauge);
    let (stock, clocks) = (stock::Stock::new(1_000_000), Wound::default());
    let append = |at| {
        clocks.wall.set(at);
        let record = Record::to("t").value("a");
        lane.appender(&stock).append(&record, &clocks, &mut None).expect("there is room").timestamp
    };
    for at in (1000..2000).step_by(10) {
        assert_eq!(append(at), at);
    }
    clocks.readings.set(0);
    for _ in 0..1000 {
        append(2000);
    }
    assert!(clocks.readings.get() < 1000 / 64 + 10, "{}", clocks.readings.get());
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_learned_after_the_end_takes_no_records() {
    let world = Bench::new(1, 1).await;
    let producer = world.producer();
    producer.shared.mailbox.close();
    world.control().create_topic("late", 1, &[]).expect("a name that is free");
    let refused = producer.enqueue(Record::to("late").value("a")).await.expect_err("nobody would send it");
    assert_eq!(refused.kind(), ErrorKind::State);
}

#[tokio::test(start_paused = true)]
async fn without_acknowledgements_offsets_are_unknown() {
    let world = Bench::new(1, 1).await;
    let producer = world
        .builder()
        .config(ProducerConfig::new().enable_idempotence(false).acks(Acks::None))
        .build()
        .expect("the settings are right");
    let delivery = producer.send(Record::to("t").value("v0")).await.expect("it left");
    assert_eq!(delivery.offset, None);
    let leader = world
        .builder()
        .config(ProducerConfig::new().enable_idempotence(false).acks(Acks::Leader))
        .build()
        .expect("right");
    let delivery = leader.send(Record::to("t").value("v1")).await.expect("it is written");
    assert_eq!(delivery.offset, Some(Offset(1)));
    assert_eq!(world.log(0), numbers(0..2));
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_leader_is_named_when_time_is_up() {
    let world = Bench::new(1, 1).await;
    let producer = world
        .builder()
        .config(ProducerConfig::new().delivery_timeout(Duration::from_secs(31)))
        .build()
        .expect("right");
    producer.topic("t").await.expect("it exists");
    world.control().kill_node(world.control().nodes()[0]);
    let error = producer.send(Record::to("t").value("x")).await.expect_err("nobody is there");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotWritten));
    let first: &dyn std::error::Error = &error;
    let chain: Vec<_> =
        std::iter::successors(Some(first), |error| error.source()).map(ToString::to_string).collect();
    let said = chain.iter().filter(|text| text.contains("nothing listens there")).count();
    assert_eq!(said, 1, "the reason is attached, and told once: {chain:?}");
}
