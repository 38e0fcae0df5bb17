//! A reader of partitions whose leaders move, freeze and die, and whose answers come late, throttled or not at all; it is
//! paused and sought meanwhile. Offsets must follow each other from where it was told to begin: none twice, none left out,
//! no partition given up, and what is left once everything healed must come within [`DRAIN`].

use std::collections::BTreeMap;
use std::time::Duration;

use carafe::ErrorCode;
use carafe::broker::{Action, Cluster, Control, Matcher};
use carafe::client::{Client, ClientConfig};
use carafe::consumer::{ConsumerConfig, ConsumerEvent, PartitionReader, RecordBatch, StartOffset};
use carafe::producer::{ProducerConfig, Record};
use carafe::runtime::sim::Links;
use carafe::types::{Offset, TopicPartition};
use carafe::wire::ApiKey;
use protocol_tests::sim::{World, run_seeds};
use tokio::time::{Instant, sleep, timeout};

const TOPIC: &str = "input";

/// Time for what is left once everything is healed: a request that is never answered (30 s), and back-offs.
const DRAIN: Duration = Duration::from_secs(60);

struct Plan {
    nodes: u16,
    partitions: i32,
    records: u64,
    time: Duration,
    /// How soon the client learns of a leader that moved while a request waits at the old one.
    metadata_max_age: Duration,
    config: ConsumerConfig,
}

impl Plan {
    fn draw(dice: &mut fastrand::Rng) -> Self {
        let config = ConsumerConfig::new()
            .max_wait(Duration::from_millis([100, 500, 5000][dice.usize(..3)]))
            .partition_max_bytes([1 << 10, 1 << 20][dice.usize(..2)]);
        Self {
            nodes: dice.u16(2..=3),
            partitions: dice.i32(1..=4),
            records: dice.u64(100..400),
            time: Duration::from_secs(dice.u64(10..40)),
            metadata_max_age: Duration::from_millis([100, 500, 300_000][dice.usize(..3)]),
            config,
        }
    }
}

/// What was handed out of each partition, against what must be.
struct Reading {
    control: Control,
    reader: PartitionReader,
    /// The offset that has to come next.
    next: BTreeMap<TopicPartition, i64>,
}

impl Reading {
    fn batch(&mut self, batch: &RecordBatch) {
        let partition = batch.topic_partition();
        let log = self.control.log(TOPIC, partition.partition.0);
        let next = self.next.get_mut(partition).expect("it is read here");
        for message in batch.messages() {
            let offset = message.offset().0;
            assert!(offset >= *next, "{partition}: {offset} was read again, {next} was next");
            assert!(offset == *next, "{partition}: {next} to {} were skipped", offset - 1);
            assert_eq!(
                message.value(),
                log[offset as usize].value.as_deref(),
                "{partition}: another record at {offset}"
            );
            *next += 1;
        }
    }

    fn event(&mut self, event: ConsumerEvent) {
        match event {
            ConsumerEvent::Batch(batch) => self.batch(&batch),
            ConsumerEvent::PartitionFailed(failure) if failure.stopped => {
                panic!("{} stopped though nothing was lost: {}", failure.partition, failure.error)
            }
            _ => {}
        }
    }

    /// What has not been read yet.
    fn left(&self) -> Vec<String> {
        let left = self.next.iter().filter_map(|(partition, next)| {
            let end = self.control.partition(TOPIC, partition.partition.0)?.high_watermark;
            (*next < end).then(|| format!("{partition}: {next} of {end}"))
        });
        left.collect()
    }

    /// Pauses, seeks, or lets be.
    fn meddle(&mut self, dice: &mut fastrand::Rng) {
        let partition = TopicPartition::new(TOPIC, dice.i32(0..self.next.len() as i32));
        match dice.u8(..4) {
            0 => self.reader.pause([&partition]).expect("it is read here"),
            1 => {
                let end =
                    self.control.partition(TOPIC, partition.partition.0).expect("it is there").high_watermark;
                let to = dice.i64(0..=end);
                self.reader.seek(&partition, StartOffset::At(Offset(to))).expect("it is read here");
                self.next.insert(partition, to);
            }
            _ => self.reader.resume(self.next.keys()).expect("they are read here"),
        }
    }
}

async fn produce(client: Client, plan_records: u64, partitions: i32, mut dice: fastrand::Rng) {
    let producer =
        client.producer().config(ProducerConfig::new().batch_size(2048)).build().expect("settings");
    for number in 0..plan_records {
        let value = format!("{number}{}", "-".repeat(dice.usize(..200)));
        let record = Record::to(TOPIC).partition(dice.i32(0..partitions)).value(&value);
        // It may fail: what counts is what is in the log.
        drop(producer.enqueue(record).await);
        if dice.u8(..4) == 0 {
            sleep(Duration::from_millis(dice.u64(..500))).await;
        }
    }
    let _ = producer.close(Duration::from_secs(60)).await;
}

/// One fault after the other, mostly around answers that come late.
async fn break_things(
    world: &World,
    control: &Control,
    nodes: i32,
    partitions: i32,
    mut dice: fastrand::Rng,
) {
    let millis = |dice: &mut fastrand::Rng, most: u64| Duration::from_millis(dice.u64(..most));
    loop {
        sleep(millis(&mut dice, 1500)).await;
        let (partition, node) = (dice.i32(0..partitions), dice.i32(0..nodes));
        let elsewhere = |control: &Control, node| drop(control.move_leader(TOPIC, partition, node));
        match dice.u8(..10) {
            0 | 1 => elsewhere(control, node),
            // Late answers of leaders that are none any more when they come.
            2..=4 => {
                let leader =
                    control.partition(TOPIC, partition).and_then(|state| state.leader).unwrap_or(node);
                let matcher = Matcher::api(ApiKey::FETCH).node(leader).times(dice.u64(1..3));
                let held = control.intercept(matcher, Action::HoldAnswer);
                sleep(millis(&mut dice, 1000)).await;
                for _ in 0..dice.u8(1..3) {
                    elsewhere(control, dice.i32(0..nodes));
                    sleep(millis(&mut dice, 2000)).await;
                }
                held.remove();
            }
            5 => {
                let api =
                    [ApiKey::LIST_OFFSETS, ApiKey::OFFSET_FOR_LEADER_EPOCH, ApiKey::METADATA, ApiKey::FETCH];
                let api = api[dice.usize(..4)];
                let action = match dice.u8(..4) {
                    0 => Action::Delay(millis(&mut dice, 10_000)),
                    1 => Action::DelayAnswer(millis(&mut dice, 10_000)),
                    2 => Action::Throttle(millis(&mut dice, 3000)),
                    _ => Action::DropAnswer,
                };
                control.intercept(Matcher::api(api).node(node).times(dice.u64(1..4)), action);
            }
            6 => {
                let codes = [ErrorCode::NOT_LEADER_OR_FOLLOWER, ErrorCode::UNKNOWN_LEADER_EPOCH];
                let matcher = Matcher::api(ApiKey::LIST_OFFSETS).times(dice.u64(1..3));
                control.intercept(matcher, Action::Error(codes[dice.usize(..2)]));
            }
            7 => {
                control.freeze_node(node);
                sleep(millis(&mut dice, 20_000)).await;
                control.thaw_node(node);
            }
            8 => {
                control.kill_node(node);
                sleep(millis(&mut dice, 10_000)).await;
                control.restart_node(node).await.expect("its port is free");
            }
            _ => {
                if let Some(network) = world.network() {
                    network.cut(&Links::of(std::net::IpAddr::from([10, 0, 0, 2])));
                }
            }
        }
    }
}

async fn workload(world: World) {
    let mut dice = world.dice();
    let plan = Plan::draw(&mut dice);
    let builder = Cluster::builder().nodes(plan.nodes).topic(TOPIC, plan.partitions).runtime(world.runtime());
    let cluster = builder.start().await.expect("a cluster");
    let client = async |host: u8| {
        let builder = Client::builder().bootstrap_servers(cluster.bootstrap_servers());
        let builder = builder.config(ClientConfig::new().metadata_max_age(plan.metadata_max_age));
        builder.runtime(world.host([10, 0, 0, host])).build().await.expect("right settings")
    };
    let producing = produce(client(1).await, plan.records, plan.partitions, dice.fork());
    let producing = world.runtime().spawn("producer", Box::pin(producing));
    let reader = client(2).await.partition_reader().config(plan.config).topic(TOPIC, StartOffset::Earliest);
    let reader = reader.build().await.expect("the topic is there");
    let next = (0..plan.partitions).map(|index| (TopicPartition::new(TOPIC, index), 0)).collect();
    let mut reading = Reading { control: cluster.control(), reader, next };

    let end = Instant::now() + plan.time;
    let mut meddling = dice.fork();
    let control = cluster.control();
    let mut broken =
        Box::pin(break_things(&world, &control, i32::from(plan.nodes), plan.partitions, dice.fork()));
    while Instant::now() < end {
        let pause = Duration::from_millis(meddling.u64(..2000));
        let until = Instant::now() + pause;
        // At times the reader has something else to do.
        let reads = meddling.u8(..4) > 0;
        loop {
            tokio::select! {
                biased; // the faults never end
                () = &mut broken => unreachable!(),
                () = tokio::time::sleep_until(until) => break,
                event = reading.reader.next_event(), if reads => reading.event(event.expect("it is open")),
            }
        }
        reading.meddle(&mut meddling);
    }
    drop(broken);
    control.clear();
    for node in control_nodes(plan.nodes) {
        control.thaw_node(node);
        control.restart_node(node).await.expect("its port is free");
    }
    reading.reader.resume(reading.next.keys()).expect("they are read here");
    let deadline = Instant::now() + DRAIN;
    let mut producing = Box::pin(producing.join());
    let mut produced = false;
    loop {
        let left = reading.left();
        if produced && left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "a partition is silent though everything is healed: {left:?}");
        tokio::select! {
            biased; // the producer ends once
            ended = &mut producing, if !produced => {
                ended.expect("no panic");
                produced = true;
            }
            event = timeout(Duration::from_secs(1), reading.reader.next_event()) => {
                if let Ok(event) = event {
                    reading.event(event.expect("it is open"));
                }
            }
        }
    }
    cluster.shutdown();
}

fn control_nodes(nodes: u16) -> std::ops::Range<i32> {
    0..i32::from(nodes)
}

#[test]
fn a_reader_neither_repeats_nor_skips_nor_stops() {
    run_seeds(60, workload);
}
