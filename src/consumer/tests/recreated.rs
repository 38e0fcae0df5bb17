//! Topics that are deleted and recreated under their name.

use super::*;

/// Deletes `t` and makes it anew with `count` records in partition 0; returns once the new ones are there.
async fn make_anew(bench: &Bench, partitions: i32, count: u32) {
    bench.broker.control().recreate_topic("t", partitions, &[]).unwrap();
    // A client of its own, which never knew the old topic.
    let other = client_of(&bench.broker, bench.client.cluster().runtime());
    produce(other.cluster(), &tp("t", 0), 1_000, count, 7).await;
}

/// The next events, until `count` records came.
async fn events(consumer: &GroupConsumer, count: usize) -> (Vec<String>, Vec<u32>) {
    let (mut told, mut seen) = (Vec::new(), Vec::new());
    while seen.len() < count {
        let event =
            timeout(Duration::from_secs(400), consumer.next_event()).await.expect("nothing came").unwrap();
        match event {
            ConsumerEvent::Batch(batch) => seen.extend(numbers(&batch)),
            ConsumerEvent::TopicRecreated { old, new, .. } => {
                assert_ne!(old, new);
                told.push("recreated".to_owned());
            }
            ConsumerEvent::Lost(partitions) => told.push(format!("lost {}", partitions.len())),
            ConsumerEvent::Assigned(partitions) => told.push(format!("assigned {}", partitions.len())),
            ConsumerEvent::PartitionFailed(failure) => told.push(failure.error.to_string()),
            ConsumerEvent::Revoked(revocation) => revocation.done(),
            _ => {}
        }
    }
    (told, seen)
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_is_read_from_its_start_whatever_its_length() {
    for records in [20, 50, 150] {
        let bench = bench(3, &[("t", 1)]).await;
        let client = &bench.client;
        produce(client.cluster(), &tp("t", 0), 0, 50, 10).await;
        let consumer = client.group_consumer("g").topics(["t"]).build().unwrap();
        let (told, seen) = events(&consumer, 50).await;
        assert_eq!((told, seen), (vec!["assigned 1".to_owned()], (0..50).collect()));
        consumer.commit_stored().await.unwrap();
        make_anew(&bench, 1, records).await;
        let (told, seen) = events(&consumer, records as usize).await;
        assert_eq!(told, ["recreated", "lost 1", "assigned 1"], "{records}");
        assert_eq!(seen, (1_000..1_000 + records).collect::<Vec<_>>());
        consumer.close(SOON).await.unwrap();
        assert_eq!(bench.broker.control().committed("g")[&("t".to_owned(), 0)], i64::from(records));
    }
}

#[tokio::test(start_paused = true)]
async fn marks_and_buffers_of_the_old_topic_are_void() {
    let bench = bench(3, &[("t", 1)]).await;
    let client = &bench.client;
    produce(client.cluster(), &tp("t", 0), 0, 50, 10).await;
    let consumer = client
        .group_consumer("g")
        .topics(["t"])
        .config(ConsumerConfig::new().auto_store(false).hold_after_delivery(true))
        .build()
        .unwrap();
    let batch = consumer.next().await.unwrap();
    // More of it waits; the partition is paused meanwhile.
    sleep(Duration::from_secs(1)).await;
    consumer.pause([&tp("t", 0)]).unwrap();
    make_anew(&bench, 1, 5).await;
    let (told, seen) = events(&consumer, 5).await;
    assert_eq!(told, ["recreated", "lost 1", "assigned 1"]);
    assert_eq!(seen, (1_000..1_005).collect::<Vec<_>>());
    assert!(consumer.store(batch.mark()).unwrap_err().is_fenced());
    assert!(consumer.seek_to(&batch.mark()).unwrap_err().is_fenced());
    consumer.close(SOON).await.unwrap();
    assert!(bench.broker.control().committed("g").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_stopped_is_read_again_when_its_topic_is_made_anew() {
    let bench = bench(3, &[("t", 1)]).await;
    let client = &bench.client;
    produce(client.cluster(), &tp("t", 0), 0, 50, 10).await;
    let mut conditions = client.cluster().condition_events(None);
    let start = StartOffset::At(Offset(99));
    let reader = client.partition_reader().partition(tp("t", 0), start).build().await.unwrap();
    assert_eq!(reader.next().await.unwrap_err().kind(), ErrorKind::OffsetOutOfRange);
    let stages = |event: crate::cluster::ConditionEvent| (event.stage, event.condition.kind);
    use crate::cluster::ConditionStage::{Began, Ended, Lasts};
    assert_eq!(stages(conditions.next().await.unwrap()), (Began, ConditionKind::Stopped));
    assert_eq!(stages(conditions.next().await.unwrap()), (Lasts, ConditionKind::Stopped));
    make_anew(&bench, 1, 200).await;
    // Nothing is asked of a partition that stopped: the next look at metadata finds it.
    let batch = timeout(Duration::from_secs(400), reader.next()).await.unwrap().unwrap();
    assert_eq!(batch.first_offset(), Some(Offset(0)));
    loop {
        let (stage, kind) = stages(conditions.next().await.unwrap());
        assert_eq!(kind, ConditionKind::Stopped);
        if stage == Ended {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_that_the_new_topic_does_not_have_say_so() {
    let bench = bench(3, &[("t", 3)]).await;
    let client = &bench.client;
    for partition in 0..3 {
        produce(client.cluster(), &tp("t", partition), 0, 5, 5).await;
    }
    let reader = client.partition_reader().topic("t", StartOffset::Earliest).build().await.unwrap();
    for _ in 0..3 {
        reader.next().await.unwrap();
    }
    make_anew(&bench, 1, 5).await;
    let mut gone = BTreeSet::new();
    let mut seen = Vec::new();
    while gone.len() < 2 || seen.len() < 5 {
        match timeout(Duration::from_secs(400), reader.next_event()).await.unwrap().unwrap() {
            ConsumerEvent::Batch(batch) => seen.extend(numbers(&batch)),
            ConsumerEvent::Condition(event) => {
                assert_eq!(event.condition.kind, ConditionKind::NoSuchTopic);
                gone.insert(event.condition.subject);
            }
            _ => {}
        }
    }
    assert_eq!(gone, BTreeSet::from([1, 2].map(|partition| Subject::Partition(tp("t", partition)))));
    assert_eq!(seen, (1_000..1_005).collect::<Vec<_>>());
    // And are read once they are there.
    bench.broker.control().create_partitions("t", 3).unwrap();
    let other = client_of(&bench.broker, client.cluster().runtime());
    produce(other.cluster(), &tp("t", 2), 7, 1, 1).await;
    let batch = timeout(Duration::from_secs(400), reader.next()).await.unwrap().unwrap();
    assert_eq!(numbers(&batch), [7]);
}
