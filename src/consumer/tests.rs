//! Consumers against the embedded cluster, over the simulated network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::ErrorKind;
use crate::broker::{self, Action, Matcher};
use crate::cluster::{Cluster, ClusterConfig, ConditionKind, Duty, Subject};
use crate::runtime::Runtime;
use crate::runtime::sim::SimRuntime;
use crate::runtime::watched::Watched;
use crate::types::{Offset, TopicPartition};
use crate::wire::ApiKey;
use crate::wire::compression::{Compression, Compressor};
use crate::wire::produce::{self, PartitionBatch, RequestHead};
use crate::wire::records::{BatchHeader, BatchWriter};

mod group;
mod memory;
mod moving;
mod recreated;

struct Bench {
    broker: broker::Cluster,
    client: Client,
}

/// What the façade does, which lies above.
#[derive(Clone)]
struct Client {
    cluster: Cluster,
    budget: MemoryBudget,
}

impl Client {
    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn memory_budget(&self) -> &MemoryBudget {
        &self.budget
    }

    fn group_consumer(&self, group: &'static str) -> GroupConsumerBuilder {
        GroupConsumerBuilder::new(self.cluster.clone(), self.budget.clone(), group.into())
    }

    fn partition_reader(&self) -> PartitionReaderBuilder {
        PartitionReaderBuilder::new(self.cluster.clone(), self.budget.clone())
    }
}

async fn bench(nodes: u16, topics: &[(&str, i32)]) -> Bench {
    bench_on(SimRuntime::new(11), nodes, topics).await
}

async fn bench_on(sim: Arc<dyn Runtime>, nodes: u16, topics: &[(&str, i32)]) -> Bench {
    let mut builder = broker::Cluster::builder()
        .nodes(nodes)
        .runtime(Arc::clone(&sim))
        .group_initial_rebalance_delay(Duration::from_millis(100));
    for (topic, partitions) in topics {
        builder = builder.topic(*topic, *partitions);
    }
    let broker = builder.start().await.unwrap();
    let client = client_of(&broker, &sim);
    Bench { broker, client }
}

fn client_of(broker: &broker::Cluster, runtime: &Arc<dyn Runtime>) -> Client {
    let bootstrap = (broker.bootstrap_servers().split(','))
        .map(|server| server.split_once(':').unwrap())
        .map(|(host, port)| (host.to_owned(), port.parse().unwrap()))
        .collect();
    let config = ClusterConfig { bootstrap, ..ClusterConfig::default() };
    Client { cluster: Cluster::new(Arc::clone(runtime), config), budget: MemoryBudget::default() }
}

/// Another client of the same cluster.
fn client_with(bench: &Bench, config: ClusterConfig) -> Client {
    let bootstrap = bench.client.cluster().config().bootstrap.clone();
    let runtime = Arc::clone(bench.client.cluster().runtime());
    Client {
        cluster: Cluster::new(runtime, ClusterConfig { bootstrap, ..config }),
        budget: MemoryBudget::default(),
    }
}

fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic.to_owned(), partition)
}

/// Writes `count` records with consecutive numbers as values, `per_batch` in a batch.
async fn produce(cluster: &Cluster, partition: &TopicPartition, from: u32, count: u32, per_batch: u32) {
    let mut next = from;
    while next < from + count {
        let end = (next + per_batch).min(from + count);
        let mut writer = BatchWriter::with_capacity(1024);
        for number in next..end {
            let value = number.to_string();
            let none = std::iter::empty;
            let size = writer
                .measure(1_000 + i64::from(number), Some(b"k"), Some(value.as_bytes()), none())
                .unwrap();
            writer.append(size, 1_000 + i64::from(number), Some(b"k"), Some(value.as_bytes()), none());
        }
        let (body, meta) = writer.finish();
        write(cluster, partition, meta.header(Compression::None), body).await;
        next = end;
    }
}

/// Writes one batch.
async fn write(cluster: &Cluster, partition: &TopicPartition, header: BatchHeader, body: Bytes) {
    loop {
        let deadline = Instant::now() + Duration::from_secs(60);
        let (node, _) = cluster.leader(partition, deadline).await.unwrap();
        let metadata = cluster.metadata();
        let batch = PartitionBatch {
            topic: partition.topic.to_byte_string(),
            topic_id: metadata.topic(&partition.topic).unwrap().id,
            partition: partition.partition.0,
            header: header.encode(&body),
            body: body.clone(),
        };
        let head = RequestHead { transactional_id: None, acks: -1, timeout_ms: 30_000 };
        let sent = async {
            let connection = cluster.connection(node, Duty::Produce, deadline).await.ok()?;
            let version = connection.version(ApiKey::PRODUCE, produce::VERSIONS).unwrap();
            let body = produce::encode_request(&head, &[batch], version).unwrap();
            let answer = connection.send_raw(ApiKey::PRODUCE, version, body, deadline, true).await.ok()?;
            let response = produce::Response::decode(&mut answer.reader().ok()?, version).ok()?;
            response.partitions().next().map(|(_, partition)| partition.error_code.is_ok())
        };
        if sent.await == Some(true) {
            break;
        }
        cluster.leader_failed(&partition.topic);
        sleep(Duration::from_millis(50)).await;
    }
}

fn numbers(batch: &RecordBatch) -> Vec<u32> {
    batch.iter().map(|record| std::str::from_utf8(record.value.unwrap()).unwrap().parse().unwrap()).collect()
}

/// Reads until `count` records came; panics after a minute without any.
async fn read(consumer: &GroupConsumer, count: usize) -> BTreeMap<TopicPartition, Vec<u32>> {
    let mut seen: BTreeMap<TopicPartition, Vec<u32>> = BTreeMap::new();
    while seen.values().map(Vec::len).sum::<usize>() < count {
        let batch = timeout(Duration::from_secs(60), consumer.next()).await.expect("nothing came").unwrap();
        seen.entry(batch.topic_partition().clone()).or_default().extend(numbers(&batch));
    }
    seen
}

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn a_reader_reads_everything_and_stops_at_the_end() {
    let Bench { broker: _broker, client } = bench(3, &[("t", 4)]).await;
    for partition in 0..4 {
        produce(client.cluster(), &tp("t", partition), 0, 100, 7).await;
    }
    let config = ConsumerConfig::new().partition_end_events(true);
    let reader =
        client.partition_reader().topic("t", StartOffset::Earliest).config(config).build().await.unwrap();
    let ends = reader.end_offsets().await.unwrap();
    assert_eq!(ends.len(), 4);
    let mut seen: BTreeMap<TopicPartition, Vec<u32>> = BTreeMap::new();
    let collect = |batch: RecordBatch| {
        seen.entry(batch.topic_partition().clone()).or_default().extend(numbers(&batch));
        Ok(())
    };
    reader.read_until(&ends, collect).await.unwrap();
    for partition in 0..4 {
        assert_eq!(seen[&tp("t", partition)], (0..100).collect::<Vec<_>>());
    }
    // From the middle, by offset and by time.
    for start in [StartOffset::At(Offset(40)), StartOffset::Timestamp(crate::types::Timestamp(1_040))] {
        reader.seek(&tp("t", 2), start).unwrap();
        reader.resume(&[tp("t", 2)]).unwrap();
        let batch = reader.next().await.unwrap();
        assert_eq!((batch.first_offset(), batch.lag()), (Some(Offset(40)), 0));
    }
    drop(reader);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(client.memory_budget().used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_nothing_is_refused() {
    let Bench { broker: _broker, client } = bench(1, &[]).await;
    let error = client.partition_reader().build().await.expect_err("nothing is named");
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn offsets_are_committed_and_the_next_member_goes_on_there() {
    let Bench { broker, client } = bench(3, &[("t", 3)]).await;
    for partition in 0..3 {
        produce(client.cluster(), &tp("t", partition), 0, 50, 10).await;
    }
    let consumer = client.group_consumer("g").topics(["t"]).build().unwrap();
    read(&consumer, 150).await;
    consumer.close(SOON).await.unwrap();
    let committed = broker.control().committed("g");
    assert_eq!(committed.values().copied().collect::<Vec<_>>(), [50, 50, 50]);
    assert!(broker.control().group("g").unwrap().members.is_empty());

    produce(client.cluster(), &tp("t", 1), 50, 5, 5).await;
    let consumer = client.group_consumer("g").topics(["t"]).build().unwrap();
    let seen = read(&consumer, 5).await;
    assert_eq!(seen[&tp("t", 1)], [50, 51, 52, 53, 54]);
    // By hand.
    let batch_mark = Mark::new(tp("t", 1), Offset(53)).metadata("so far");
    consumer.commit([batch_mark]).await.unwrap();
    let mark = &consumer.committed(&[tp("t", 1)]).await.unwrap()[&tp("t", 1)];
    assert_eq!((mark.offset(), mark.text()), (Offset(53), Some("so far")));
    assert_eq!(
        consumer.commit([Mark::new(tp("x", 1), Offset(3))]).await.unwrap_err().kind(),
        ErrorKind::State
    );
    consumer.close(SOON).await.unwrap();
    assert_eq!(consumer.next_event().await.unwrap_err().kind(), ErrorKind::State);
}

#[tokio::test(start_paused = true)]
async fn two_members_share_and_hand_over_cooperatively() {
    let Bench { broker, client } = bench(3, &[("t", 6)]).await;
    let first = client.group_consumer("g").topics(["t"]).build().unwrap();
    let ConsumerEvent::Assigned(all) = first.next_event().await.unwrap() else {
        panic!("assignment expected")
    };
    assert_eq!(all.len(), 6);
    let second = client.group_consumer("g").topics(["t"]).build().unwrap();
    // The first learns of it, gives three up, keeps three.
    let revocation = loop {
        if let ConsumerEvent::Revoked(revocation) = first.next_event().await.unwrap() {
            break revocation;
        }
    };
    assert_eq!(revocation.partitions().len(), 3);
    // Heartbeats go on however long it takes.
    sleep(Duration::from_secs(100)).await;
    assert_eq!(broker.control().group("g").unwrap().members.len(), 2);
    revocation.done();
    let given = loop {
        match second.next_event().await.unwrap() {
            ConsumerEvent::Assigned(given) if !given.is_empty() => break given,
            ConsumerEvent::Assigned(_) => {}
            event => panic!("{event:?}"),
        }
    };
    assert_eq!(given.len(), 3);
    let kept: BTreeSet<_> = first.assignment().into_iter().collect();
    assert!(given.iter().all(|partition| !kept.contains(partition)) && kept.len() == 3);

    for partition in 0..6 {
        produce(client.cluster(), &tp("t", partition), 0, 20, 5).await;
    }
    let (a, b) = tokio::join!(read(&first, 60), read(&second, 60));
    assert!(a.values().chain(b.values()).all(|numbers| *numbers == (0..20).collect::<Vec<_>>()));
    // One leaves, the other takes over.
    second.close(SOON).await.unwrap();
    let ConsumerEvent::Assigned(back) = first.next_event().await.unwrap() else {
        panic!("assignment expected")
    };
    assert_eq!(back.len(), 3);
    first.close(SOON).await.unwrap();
    assert_eq!(broker.control().committed("g").into_values().collect::<Vec<_>>(), [20; 6]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_move_and_a_killed_node_lose_nothing() {
    let Bench { broker, client } = bench(3, &[("t", 3)]).await;
    let control = broker.control();
    let consumer = client.group_consumer("g").topics(["t"]).build().unwrap();
    let writer = {
        let (client, control) = (client.clone(), control.clone());
        async move {
            for round in 0..20 {
                for partition in 0..3 {
                    produce(client.cluster(), &tp("t", partition), round * 10, 10, 3).await;
                }
                match round {
                    3 | 6 => {
                        let state = control.partition("t", 0).unwrap();
                        let other = state.isr.iter().find(|node| Some(**node) != state.leader).unwrap();
                        control.move_leader("t", 0, *other).unwrap();
                    }
                    9 => {
                        let victim = control.partition("t", 1).unwrap().leader.unwrap();
                        control.kill_node(victim);
                    }
                    _ => {}
                }
                sleep(Duration::from_millis(300)).await;
            }
        }
    };
    let ((), seen) = tokio::join!(writer, read(&consumer, 600));
    for partition in 0..3 {
        assert_eq!(seen[&tp("t", partition)], (0..200).collect::<Vec<_>>(), "{partition}");
    }
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_coordinator_moves_and_the_membership_stays() {
    let Bench { broker, client } = bench(3, &[("t", 2)]).await;
    let control = broker.control();
    let consumer = client.group_consumer("g").topics(["t"]).build().unwrap();
    produce(client.cluster(), &tp("t", 0), 0, 10, 10).await;
    read(&consumer, 10).await;
    let generation = control.group("g").unwrap().generation;
    for node in control.nodes() {
        control.move_coordinator("g", node).unwrap();
        sleep(Duration::from_secs(10)).await;
        consumer.commit([Mark::new(tp("t", 0), Offset(5))]).await.unwrap();
    }
    assert_eq!(control.group("g").unwrap().generation, generation);
    assert_eq!(consumer.assignment().len(), 2);
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_expelled_loses_and_comes_back() {
    let Bench { broker, client } = bench(1, &[("t", 2)]).await;
    let control = broker.control();
    let consumer = client.group_consumer("g").topics(["t"]).build().unwrap();
    produce(client.cluster(), &tp("t", 0), 0, 10, 10).await;
    let batch = consumer.next().await.unwrap();
    let mark = batch.mark();
    let silence = control.intercept(Matcher::api(ApiKey::HEARTBEAT), Action::DropRequest);
    let lost = loop {
        match timeout(Duration::from_secs(120), consumer.next_event()).await.unwrap().unwrap() {
            ConsumerEvent::Lost(lost) => break lost,
            ConsumerEvent::Batch(_) | ConsumerEvent::Assigned(_) | ConsumerEvent::Condition(_) => {}
            event => panic!("{event:?}"),
        }
    };
    silence.remove();
    assert_eq!(lost.len(), 2);
    let again = loop {
        if let ConsumerEvent::Assigned(again) = consumer.next_event().await.unwrap() {
            break again;
        }
    };
    assert_eq!(again.len(), 2);
    // The old mark is refused, although the partition is ours again.
    assert!(consumer.store(mark.clone()).unwrap_err().is_fenced());
    assert!(consumer.commit([mark]).await.unwrap_err().is_fenced());
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pause_hold_and_seek() {
    let Bench { broker: _broker, client } = bench(1, &[("t", 2)]).await;
    for partition in 0..2 {
        produce(client.cluster(), &tp("t", partition), 0, 10, 5).await;
    }
    let config = ConsumerConfig::new().hold_after_delivery(true);
    let consumer = client.group_consumer("g").topics(["t"]).config(config).build().unwrap();
    let (a, b) = (consumer.next().await.unwrap(), consumer.next().await.unwrap());
    assert_ne!(a.topic_partition(), b.topic_partition());
    for partition in 0..2 {
        produce(client.cluster(), &tp("t", partition), 10, 10, 5).await;
    }
    // Both are out: nothing more comes until one is released.
    assert!(timeout(Duration::from_secs(5), consumer.next()).await.is_err());
    consumer.release(a.topic_partition());
    let more = timeout(Duration::from_secs(5), consumer.next()).await.unwrap().unwrap();
    assert_eq!((more.topic_partition(), more.first_offset()), (a.topic_partition(), Some(Offset(10))));
    consumer.pause([b.topic_partition()]).unwrap();
    consumer.release(b.topic_partition());
    assert!(timeout(Duration::from_secs(5), consumer.next()).await.is_err());
    consumer.seek(b.topic_partition(), StartOffset::At(Offset(3))).unwrap();
    assert!(timeout(Duration::from_secs(5), consumer.next()).await.is_err());
    consumer.resume([b.topic_partition()]).unwrap();
    let back = timeout(Duration::from_secs(5), consumer.next()).await.unwrap().unwrap();
    assert_eq!((back.topic_partition(), back.first_offset()), (b.topic_partition(), Some(Offset(3))));
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_position_out_of_range_stops_and_explains() {
    let Bench { broker: _broker, client } = bench(1, &[("t", 1)]).await;
    produce(client.cluster(), &tp("t", 0), 0, 10, 5).await;
    let reader =
        client.partition_reader().partition(tp("t", 0), StartOffset::At(Offset(99))).build().await.unwrap();
    let error = reader.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange);
    let text = error.to_string();
    assert!(text.contains("0 to 10") && text.contains("99"), "{text}");
    reader.seek(&tp("t", 0), StartOffset::Earliest).unwrap();
    assert_eq!(reader.next().await.unwrap().len(), 10);
    // By policy.
    let config = ConsumerConfig::new().out_of_range(OutOfRange::Earliest);
    let start = StartOffset::At(Offset(99));
    let reader = client.partition_reader().partition(tp("t", 0), start).config(config).build().await.unwrap();
    assert_eq!(reader.next().await.unwrap().first_offset(), Some(Offset(0)));
}

#[tokio::test(start_paused = true)]
async fn an_idle_consumer_does_not_slow_another_of_the_same_client() {
    let Bench { broker: _broker, client } = bench(1, &[("idle", 1), ("busy", 1)]).await;
    let idle = client.group_consumer("idle").topics(["idle"]).build().unwrap();
    let waiting = idle.clone();
    let wait = tokio::time::timeout(Duration::from_secs(600), async move { waiting.next().await });
    let work = async {
        let busy = client.partition_reader().topic("busy", StartOffset::Earliest).build().await.unwrap();
        let mut slowest = Duration::ZERO;
        for number in 0..20 {
            produce(client.cluster(), &tp("busy", 0), number, 1, 1).await;
            let begun = Instant::now();
            busy.next().await.unwrap();
            slowest = slowest.max(begun.elapsed());
            sleep(Duration::from_millis(70)).await;
        }
        slowest
    };
    tokio::select! {
        biased;
        slowest = work => assert!(slowest < Duration::from_millis(50), "{slowest:?}"),
        _ = wait => panic!("the idle consumer got something"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_joins_does_not_slow_another_of_the_same_client() {
    let Bench { broker, client } = bench(1, &[("busy", 1), ("t", 1)]).await;
    let busy = client.group_consumer("busy").topics(["busy"]).build().unwrap();
    produce(client.cluster(), &tp("busy", 0), 0, 1, 1).await;
    read(&busy, 1).await;
    // A broker answers a join when all members are there, and mutes the connection until then.
    let held = broker.control().intercept(Matcher::api(ApiKey::JOIN_GROUP), Action::Hold);
    let joining = client.group_consumer("joining").topics(["t"]).build().unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(held.hits(), 1);
    let begun = Instant::now();
    for number in 1..20 {
        produce(client.cluster(), &tp("busy", 0), number, 1, 1).await;
        let batch = busy.next().await.unwrap();
        busy.commit([batch.mark()]).await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(50) * number, "{number}: {:?}", begun.elapsed());
    }
    assert_eq!(broker.control().committed("busy").into_values().collect::<Vec<_>>(), [20]);
    assert!(joining.assignment().is_empty() && held.hits() == 1, "it still joins");
    held.remove();
    let ConsumerEvent::Assigned(given) = joining.next_event().await.unwrap() else {
        panic!("assignment expected")
    };
    assert_eq!(given, [tp("t", 0)]);
}

#[tokio::test(start_paused = true)]
async fn range_groups_are_eager() {
    let Bench { broker, client } = bench(1, &[("t", 4)]).await;
    let config = ConsumerConfig::new().assignors([Assignor::Range]);
    let first = client.group_consumer("g").topics(["t"]).config(config.clone()).build().unwrap();
    let ConsumerEvent::Assigned(all) = first.next_event().await.unwrap() else {
        panic!("assignment expected")
    };
    assert_eq!(all.len(), 4);
    let second = client.group_consumer("g").topics(["t"]).config(config).build().unwrap();
    let ConsumerEvent::Revoked(revocation) = first.next_event().await.unwrap() else {
        panic!("revocation expected")
    };
    assert_eq!(revocation.partitions().len(), 4);
    revocation.done();
    let ConsumerEvent::Assigned(kept) = first.next_event().await.unwrap() else {
        panic!("assignment expected")
    };
    let ConsumerEvent::Assigned(given) = second.next_event().await.unwrap() else {
        panic!("assignment expected")
    };
    assert_eq!((kept, given), (vec![tp("t", 0), tp("t", 1)], vec![tp("t", 2), tp("t", 3)]));
    assert_eq!(broker.control().group("g").unwrap().protocol.as_deref(), Some("range"));
    // A member that offers something else alone is refused for good.
    let other = client.group_consumer("g").topics(["t"]).build().unwrap();
    let error = timeout(Duration::from_secs(60), other.next_event()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(crate::ErrorCode::INCONSISTENT_GROUP_PROTOCOL));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_consumer_leaves_its_group() {
    let Bench { broker, client } = bench(1, &[("t", 1)]).await;
    produce(client.cluster(), &tp("t", 0), 0, 10, 10).await;
    let config = ConsumerConfig::new().auto_store(false);
    let consumer = client.group_consumer("g").topics(["t"]).config(config).build().unwrap();
    let batch = consumer.next().await.unwrap();
    consumer.store(batch.message(6).unwrap().mark()).unwrap();
    drop((consumer, batch));
    sleep(Duration::from_secs(1)).await;
    assert!(broker.control().group("g").unwrap().members.is_empty());
    assert_eq!(broker.control().committed("g").into_values().collect::<Vec<_>>(), [7]);
    assert_eq!(client.memory_budget().used(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_set_the_timestamps_is_known() {
    let Bench { broker, client } = bench(1, &[("mine", 1)]).await;
    let configs = [("message.timestamp.type", "LogAppendTime")];
    broker.control().create_topic("theirs", 1, &configs).unwrap();
    for (topic, expected) in [("mine", TimestampType::CreateTime), ("theirs", TimestampType::LogAppendTime)] {
        produce(client.cluster(), &tp(topic, 0), 0, 10, 5).await;
        let reader = client.partition_reader().topic(topic, StartOffset::Earliest).build().await.unwrap();
        let batch = reader.next().await.unwrap();
        let message = batch.message(3).unwrap();
        let of_messages = [&message, &message.detach()].map(|message| message.timestamp_type());
        assert_eq!((batch.timestamp_type(0), of_messages), (Some(expected), [expected; 2]));
        assert_eq!(batch.timestamp_type(batch.len()), None);
    }
}

#[tokio::test(start_paused = true)]
async fn topics_and_partitions_that_appear_later_are_read() {
    let Bench { broker, client } = bench(1, &[("t", 1)]).await;
    let consumer = client.group_consumer("g").topics(["t", "later"]).build().unwrap();
    produce(client.cluster(), &tp("t", 0), 0, 10, 10).await;
    read(&consumer, 10).await;
    broker.control().create_topic("later", 2, &[]).unwrap();
    produce(client.cluster(), &tp("later", 1), 0, 10, 10).await;
    let seen = read(&consumer, 10).await;
    assert_eq!(seen[&tp("later", 1)], (0..10).collect::<Vec<_>>());
    // Another subscription, while nothing else goes on.
    consumer.subscribe(["later"]).unwrap();
    loop {
        if let ConsumerEvent::Revoked(revocation) = consumer.next_event().await.unwrap() {
            assert_eq!(revocation.partitions(), [tp("t", 0)]);
            break revocation.done();
        }
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(consumer.assignment(), [tp("later", 0), tp("later", 1)]);
    consumer.close(SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_small_budget_still_makes_progress() {
    let Bench { broker: _broker, client } = bench(3, &[("t", 6)]).await;
    for partition in 0..6 {
        produce(client.cluster(), &tp("t", partition), 0, 3000, 1000).await;
    }
    let budget = MemoryBudget::new(40_000);
    let config = ConsumerConfig::new().hold_after_delivery(true);
    let consumer = client
        .group_consumer("g")
        .topics(["t"])
        .config(config)
        .memory_budget(budget.clone())
        .build()
        .unwrap();
    let mut seen: BTreeMap<TopicPartition, Vec<u32>> = BTreeMap::new();
    while seen.values().map(Vec::len).sum::<usize>() < 18_000 {
        let batch = timeout(Duration::from_secs(60), consumer.next()).await.expect("nothing came").unwrap();
        seen.entry(batch.topic_partition().clone()).or_default().extend(numbers(&batch));
        let partition = batch.topic_partition().clone();
        drop(batch);
        consumer.release(&partition);
    }
    assert!(seen.values().all(|numbers| *numbers == (0..3000).collect::<Vec<_>>()));
    consumer.close(SOON).await.unwrap();
    drop(consumer);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_truncated_log_is_told() {
    let Bench { broker, client } = bench(3, &[("t", 1)]).await;
    let control = broker.control();
    produce(client.cluster(), &tp("t", 0), 0, 10, 10).await;
    let reader = client.partition_reader().topic("t", StartOffset::Earliest).build().await.unwrap();
    assert_eq!(reader.next().await.unwrap().next_offset(), Offset(10));
    let leader = control.partition("t", 0).unwrap().leader.unwrap();
    let other = *control.partition("t", 0).unwrap().replicas.iter().find(|node| **node != leader).unwrap();
    // A replica falls behind and out of the in-sync set; what it lacks is acknowledged, read, and then lost.
    for node in control.partition("t", 0).unwrap().replicas {
        if node != leader {
            control.set_node_replication_lag(node, Duration::from_secs(100_000));
        }
    }
    sleep(Duration::from_secs(120)).await;
    produce(client.cluster(), &tp("t", 0), 10, 10, 10).await;
    // Written again where the first answer came too late.
    let read = reader.next().await.unwrap().next_offset();
    assert!(read >= Offset(20));
    control.elect_unclean_leader("t", 0, other).unwrap();
    produce(client.cluster(), &tp("t", 0), 100, 15, 15).await;
    let error = timeout(Duration::from_secs(60), reader.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange);
    assert!(
        error.to_string().contains("truncated") && error.to_string().contains(&read.to_string()),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_network_lose_and_repeat_nothing() {
    let Bench { broker, client } = bench(3, &[("t", 3)]).await;
    let control = broker.control();
    for partition in 0..3 {
        produce(client.cluster(), &tp("t", partition), 0, 200, 5).await;
    }
    for (api, action) in [
        (ApiKey::FETCH, Action::DropAnswer),
        (ApiKey::FETCH, Action::CutAfter(40)),
        (ApiKey::LIST_OFFSETS, Action::Error(crate::ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        (ApiKey::FETCH, Action::Error(crate::ErrorCode::FETCH_SESSION_ID_NOT_FOUND)),
        (ApiKey::JOIN_GROUP, Action::DropAnswer),
        (ApiKey::SYNC_GROUP, Action::Error(crate::ErrorCode::NOT_COORDINATOR)),
        (ApiKey::OFFSET_FETCH, Action::Error(crate::ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)),
        (ApiKey::OFFSET_COMMIT, Action::DropAnswer),
        (ApiKey::OFFSET_COMMIT, Action::Error(crate::ErrorCode::NOT_COORDINATOR)),
    ] {
        control.intercept(Matcher::api(api).probability(0.3).times(20), action);
    }
    let config = ConsumerConfig::new().max_bytes(2000).partition_max_bytes(500);
    let consumer = client.group_consumer("g").topics(["t"]).config(config).build().unwrap();
    let seen = read(&consumer, 600).await;
    assert!(seen.values().all(|numbers| *numbers == (0..200).collect::<Vec<_>>()));
    consumer.close(Duration::from_secs(60)).await.unwrap();
    assert_eq!(control.committed("g").into_values().collect::<Vec<_>>(), [200; 3]);
}

/// A broker that answers fetches with garbage costs that connection, and one typed error however often it does so.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_valid_is_told_once() {
    use crate::cluster::script::Stage;
    use crate::wire::messages::MetadataResponse;
    use crate::wire::messages::metadata::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };

    let sim = SimRuntime::new(3);
    let stage = Stage::new(&sim).await;
    let port = stage.port();
    let (script, fetches) = (sim.clone(), Arc::new(std::sync::atomic::AtomicU32::new(0)));
    let counted = fetches.clone();
    sim.spawn(
        "broker",
        Box::pin(async move {
            loop {
                let mut actor = stage.accept_negotiated().await;
                let counted = counted.clone();
                script.spawn(
                    "actor",
                    Box::pin(async move {
                        while let Some((head, _)) = actor.try_request().await {
                            if head.key == ApiKey::METADATA {
                                let partition = MetadataResponsePartition {
                                    leader_id: 1,
                                    leader_epoch: 1,
                                    ..Default::default()
                                };
                                let topic = MetadataResponseTopic {
                                    name: Some("t".into()),
                                    partitions: vec![partition],
                                    ..Default::default()
                                };
                                let broker = MetadataResponseBroker {
                                    node_id: 1,
                                    host: "localhost".into(),
                                    port: i32::from(port),
                                    ..Default::default()
                                };
                                let response = MetadataResponse {
                                    brokers: vec![broker],
                                    controller_id: 1,
                                    topics: vec![topic],
                                    ..Default::default()
                                };
                                actor.answer(&head, &response).await;
                            } else {
                                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                                let mut answer = 24i32.to_be_bytes().to_vec();
                                answer.extend(head.correlation_id.to_be_bytes());
                                answer.extend([0xff; 20]);
                                actor.write(&answer).await;
                            }
                        }
                    }),
                );
            }
        }),
    );
    let bootstrap = vec![("localhost".to_owned(), port)];
    let runtime: Arc<dyn Runtime> = sim.clone();
    let cluster = Cluster::new(runtime, ClusterConfig { bootstrap, ..Default::default() });
    let client = Client { cluster, budget: MemoryBudget::new(1 << 20) };
    let reader = client
        .partition_reader()
        .partition(TopicPartition::new("t", 0), StartOffset::At(Offset(0)))
        .build()
        .await
        .unwrap();
    match timeout(Duration::from_secs(30), reader.next_event()).await.unwrap().unwrap() {
        ConsumerEvent::FetchFailed { node, error } => {
            assert_eq!(node.0, 1);
            assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        }
        other => panic!("{other:?}"),
    }
    // That it lasts is told as everything that lasts.
    match timeout(Duration::from_secs(10), reader.next_event()).await.unwrap().unwrap() {
        ConsumerEvent::Condition(event) => {
            assert_eq!(event.condition.subject, Subject::Node(crate::types::NodeId(1)));
            assert_eq!(event.condition.kind, ConditionKind::Refused);
        }
        other => panic!("{other:?}"),
    }
    assert!(timeout(Duration::from_secs(10), reader.next_event()).await.is_err(), "told once");
    assert!(fetches.load(std::sync::atomic::Ordering::Relaxed) > 3, "tried again and again");
}

#[tokio::test(start_paused = true)]
async fn large_compressed_parts_are_read_where_blocking_is_allowed_and_in_order() {
    let watched = Watched::new(11);
    let Bench { broker: _broker, client } = bench_on(watched.clone(), 1, &[("t", 1)]).await;
    let reader = client.partition_reader().topic("t", StartOffset::Earliest).build().await.unwrap();
    let mut dice = fastrand::Rng::with_seed(1);
    let mut next = 0;
    for (records, codec, heavy) in [
        (10, Compression::Gzip, false),
        (100, Compression::Gzip, true),
        (100, Compression::None, false),
        (100, Compression::Zstd, true),
    ] {
        let before = watched.count("carafe-decompress");
        let mut writer = BatchWriter::new();
        for number in next..next + records {
            // Two bytes of text for each byte of noise.
            let key: String = (0..1000).map(|_| format!("{:02x}", dice.u8(..))).collect();
            let (key, value, none) = (key.as_bytes(), number.to_string(), std::iter::empty);
            let size = writer.measure(1000, Some(key), Some(value.as_bytes()), none()).unwrap();
            writer.append(size, 1000, Some(key), Some(value.as_bytes()), none());
        }
        let (body, meta) = writer.finish();
        let mut packed = Vec::new();
        Compressor::new().compress(codec, None, &body, &mut packed).unwrap();
        write(client.cluster(), &tp("t", 0), meta.header(codec), packed.into()).await;
        let mut seen = Vec::new();
        while seen.len() < records as usize {
            seen.extend(numbers(&reader.next().await.unwrap()));
        }
        assert_eq!(seen, (next..next + records).collect::<Vec<_>>());
        assert_eq!(watched.count("carafe-decompress") > before, heavy, "{records} {codec}");
        next += records;
    }
    drop(reader);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(client.memory_budget().used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_away_holds_up_nothing_and_knows_when_it_is_not_wanted() {
    let watched = Watched::new(11);
    let Bench { broker: _broker, client } = bench_on(watched.clone(), 1, &[("t", 2)]).await;
    let mut writer = BatchWriter::new();
    let mut dice = fastrand::Rng::with_seed(1);
    for number in 0..100 {
        let key: Vec<u8> = (0..1000).map(|_| dice.u8(..)).collect();
        let (value, none) = (number.to_string(), std::iter::empty);
        let size = writer.measure(1000, Some(&key), Some(value.as_bytes()), none()).unwrap();
        writer.append(size, 1000, Some(&key), Some(value.as_bytes()), none());
    }
    let (body, meta) = writer.finish();
    let mut packed = Vec::new();
    Compressor::new().compress(Compression::Lz4, None, &body, &mut packed).unwrap();
    write(client.cluster(), &tp("t", 1), meta.header(Compression::Lz4), packed.into()).await;
    produce(client.cluster(), &tp("t", 0), 0, 5, 5).await;

    watched.hold();
    let one = || <[_; 1]>::try_from(watched.take_held()).unwrap_or_else(|held| panic!("{}", held.len()));
    let reader = client.partition_reader().topic("t", StartOffset::Earliest).build().await.unwrap();
    let small = timeout(Duration::from_secs(1), reader.next()).await.expect("it does not wait").unwrap();
    assert_eq!(numbers(&small), [0, 1, 2, 3, 4]);
    let [work] = one();
    reader.seek(&tp("t", 1), StartOffset::At(Offset(70))).unwrap();
    work();
    sleep(Duration::from_secs(1)).await;
    let [work] = one();
    work();
    assert_eq!(numbers(&reader.next().await.unwrap()), (70..100).collect::<Vec<_>>());

    // The consumer goes while a part is away.
    reader.seek(&tp("t", 1), StartOffset::At(Offset(90))).unwrap();
    sleep(Duration::from_secs(1)).await;
    let [work] = one();
    drop((reader, small));
    sleep(Duration::from_secs(1)).await;
    assert_ne!(client.memory_budget().used(), 0);
    work();
    assert_eq!(client.memory_budget().used(), 0);

    // It cannot be read at all.
    let start = StartOffset::Earliest;
    let reader = client.partition_reader().partition(tp("t", 1), start).build().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    drop(one());
    let error = reader.next().await.unwrap_err();
    assert!(error.to_string().contains("decompressing"), "{error}");
    assert_eq!(client.memory_budget().used(), 0);
}

/// A broker that waits for nothing is not asked again and again.
#[tokio::test(start_paused = true)]
async fn no_least_size_of_an_answer_makes_a_loop() {
    let Bench { broker, client } = bench(1, &[("t", 1)]).await;
    let config = ConsumerConfig::new().min_bytes(0);
    let reader =
        client.partition_reader().topic("t", StartOffset::Earliest).config(config).build().await.unwrap();
    assert!(timeout(Duration::from_secs(10), reader.next()).await.is_err());
    assert!(broker.control().requests(ApiKey::FETCH) < 30);
}

/// The first record alone answers the long poll. What was written since then is there when the application asks again,
/// and comes in one batch.
#[tokio::test(start_paused = true)]
async fn who_asks_after_a_while_gets_all_that_was_written_meanwhile() {
    let Bench { broker, client } = bench(1, &[("t", 1)]).await;
    let reader = client.partition_reader().topic("t", StartOffset::Earliest).build().await.unwrap();
    for round in 0..10 {
        let before = broker.control().requests(ApiKey::FETCH);
        for number in 0..5 {
            produce(client.cluster(), &tp("t", 0), 5 * round + number, 1, 1).await;
            sleep(Duration::from_millis(100)).await;
        }
        let batch = timeout(Duration::from_secs(1), reader.next()).await.expect("it is there").unwrap();
        assert_eq!(numbers(&batch), (5 * round..5 * round + 5).collect::<Vec<_>>());
        sleep(Duration::from_secs(10)).await;
        // A long poll is out all the time: one for each record, and two a second.
        assert!(broker.control().requests(ApiKey::FETCH) - before < 35);
    }
    // Who does not ask does not get ever more: as much waits as one batch may have.
    let before = broker.control().requests(ApiKey::FETCH);
    for number in 0..400 {
        produce(client.cluster(), &tp("t", 0), number, 1, 1).await;
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_secs(10)).await;
    assert!(broker.control().requests(ApiKey::FETCH) - before < 260);
    let mut seen = Vec::new();
    while seen.len() < 400 {
        seen.extend(numbers(&reader.next().await.unwrap()));
    }
    assert_eq!(seen, (0..400).collect::<Vec<_>>());
    drop(reader);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(client.memory_budget().used(), 0);
}
