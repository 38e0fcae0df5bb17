//! The memory budget: kept, and fair between partitions.

use super::*;

/// Writes `count` batches, each of `bytes` bytes that compress well.
async fn write_large(client: &Client, partition: &TopicPartition, count: usize, bytes: usize) {
    write_as(Compression::Lz4, client, partition, count, bytes).await;
}

async fn write_as(
    compression: Compression,
    client: &Client,
    partition: &TopicPartition,
    count: usize,
    bytes: usize,
) {
    let value = vec![b'x'; bytes / 8];
    for _ in 0..count {
        let mut writer = BatchWriter::new();
        for _ in 0..8 {
            let size = writer.measure(1_000, None, Some(&value), std::iter::empty()).unwrap();
            writer.append(size, 1_000, None, Some(&value), std::iter::empty());
        }
        let (body, meta) = writer.finish();
        let mut packed = Vec::new();
        match compression {
            Compression::None => packed = body.to_vec(),
            _ => Compressor::new().compress(compression, None, &body, &mut packed).unwrap(),
        }
        write(client.cluster(), partition, meta.header(compression), packed.into()).await;
    }
}

/// Members that hold what they got, as those of failing handlers do, leave room for the others.
#[tokio::test(start_paused = true)]
async fn what_is_held_leaves_room_for_others() {
    for batch_bytes in [100_000, 1_000_000] {
        let Bench { broker: _broker, client } = bench(1, &[("bad", 12), ("good", 1)]).await;
        for partition in 0..12 {
            write_large(&client, &tp("bad", partition), 12_000_000 / batch_bytes, batch_bytes).await;
        }
        let config = ConsumerConfig::new().hold_after_delivery(true);
        let consumer = client.group_consumer("g").topics(["bad", "good"]).config(config).build().unwrap();
        let mut held = Vec::new();
        let mut seen = 0;
        let mut most = 0;
        let cluster = client.cluster().clone();
        let work = async move {
            sleep(Duration::from_secs(30)).await;
            for number in 0..10 {
                produce(&cluster, &tp("good", 0), number, 1, 1).await;
            }
        };
        let _writer = client.cluster().runtime().spawn("write", Box::pin(work)).abort_on_drop();
        while seen < 10 {
            let event =
                timeout(Duration::from_secs(60), consumer.next_event()).await.expect("it goes on").unwrap();
            if let ConsumerEvent::Batch(batch) = event {
                if &**batch.topic() == "good" {
                    seen += batch.len();
                    consumer.release(batch.topic_partition());
                } else {
                    held.push(batch);
                }
            }
            most = most.max(client.memory_budget().used());
        }
        assert_eq!(held.len(), 12, "every partition has a batch");
        let limit = client.memory_budget().limit();
        assert!(most <= limit, "{most} of {limit} with batches of {batch_bytes}");
    }
}

/// Readers that hold what they got are not fetched for, say so, and go on when it is given back.
#[tokio::test(start_paused = true)]
async fn who_keeps_everything_starves_alone() {
    let Bench { broker: _broker, client } = bench(1, &[("t", 2)]).await;
    let budget = MemoryBudget::new(4 << 20);
    write_large(&client, &tp("t", 0), 20, 500_000).await;
    let reader = client
        .partition_reader()
        .topic("t", StartOffset::Earliest)
        .memory_budget(budget.clone())
        .build()
        .await
        .unwrap();
    let mut kept = Vec::new();
    let starving = loop {
        match timeout(Duration::from_secs(60), reader.next_event()).await.unwrap().unwrap() {
            ConsumerEvent::Batch(batch) => kept.push(batch),
            ConsumerEvent::Condition(event) => break event.condition,
            event => panic!("{event:?}"),
        }
    };
    assert_eq!((starving.kind, starving.subject), (ConditionKind::Starving, Subject::Partition(tp("t", 0))));
    assert!(budget.used() <= budget.limit(), "{budget:?}");
    produce(client.cluster(), &tp("t", 1), 0, 5, 5).await;
    let batch = timeout(Duration::from_secs(1), reader.next()).await.unwrap().unwrap();
    assert_eq!(numbers(&batch), [0, 1, 2, 3, 4]);
    let mut seen: usize = kept.drain(..).map(|batch| batch.len()).sum();
    while seen < 160 {
        match timeout(Duration::from_secs(60), reader.next_event()).await.unwrap().unwrap() {
            ConsumerEvent::Batch(batch) => seen += batch.len(),
            ConsumerEvent::Condition(event) => assert_eq!(event.stage, crate::cluster::ConditionStage::Ended),
            event => panic!("{event:?}"),
        }
    }
}

/// What was fetched of a partition goes when it is paused later and another, of another consumer, needs the memory.
#[tokio::test(start_paused = true)]
async fn what_is_paused_later_is_given_back_to_whoever_needs_it() {
    let Bench { broker: _broker, client } = bench(2, &[("t", 1), ("u", 1)]).await;
    let budget = MemoryBudget::new(4 << 20);
    for topic in ["t", "u"] {
        write_large(&client, &tp(topic, 0), 8, 300_000).await;
    }
    let reader = |topic: &'static str| {
        let builder = client.partition_reader().topic(topic, StartOffset::Earliest);
        builder.memory_budget(budget.clone()).build()
    };
    let first = reader("t").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let prefetched = budget.used();
    let second = reader("u").await.unwrap();
    let kept = second.next().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    first.pause([&tp("t", 0)]).unwrap();
    let mut seen = kept.len();
    while seen < 64 {
        seen += timeout(Duration::from_secs(10), second.next()).await.unwrap().unwrap().len();
    }
    drop((kept, second));
    sleep(Duration::from_secs(1)).await;
    assert!(budget.used() < prefetched / 2, "{budget:?}, {prefetched} prefetched");
    // It is fetched again.
    first.resume([&tp("t", 0)]).unwrap();
    assert_eq!(first.next().await.unwrap().first_offset(), Some(Offset(0)));
}

/// Batches that are larger than the whole budget are read, one at a time, whoever sends them.
#[tokio::test(start_paused = true)]
async fn batches_larger_than_the_budget_are_read_one_at_a_time() {
    for (compression, bytes, limit) in
        [(Compression::Lz4, 3_000_000, 1 << 20), (Compression::None, 800_000, 200_000)]
    {
        let Bench { broker: _broker, client } = bench(3, &[("t", 6)]).await;
        let budget = MemoryBudget::new(limit);
        for partition in 0..6 {
            write_as(compression, &client, &tp("t", partition), 2, bytes).await;
        }
        let builder = client.partition_reader().topic("t", StartOffset::Earliest);
        let reader = builder.memory_budget(budget.clone()).build().await.unwrap();
        let mut seen = 0;
        while seen < 96 {
            let batch = timeout(Duration::from_secs(60), reader.next()).await.expect("it goes on").unwrap();
            seen += batch.len();
            let most = limit + bytes + bytes / 2;
            assert!(budget.used() < most, "{budget:?}, batches of {bytes} with {compression:?}");
        }
    }
}
