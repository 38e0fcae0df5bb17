//! Groups and readers.

use std::collections::BTreeSet;
use std::time::Duration;

use carafe::consumer::{ConsumerEvent, GroupConsumer, PartitionReader, StartOffset};
use carafe::producer::Record;
use carafe::types::{Offset, Timestamp, TopicPartition};
use tokio::time::timeout;

use crate::stage::{SOON, Stage, eventually, take, text};

scenarios!(
    a_second_member_resumes_where_the_first_committed,
    closing_commits_what_was_handed_out,
    members_share_and_take_over_without_loss,
    seek_pause_and_resume,
    a_reader_begins_where_it_is_told,
    a_member_sees_topics_that_it_subscribes_later,
);

async fn a_second_member_resumes_where_the_first_committed(stage: Stage) {
    let topic = stage.topic("resume", 1).await;
    let group = stage.name("resume");
    stage.fill(&topic, 0, 100).await;
    let first = stage.member(&group, &topic);
    let messages = take(&first, 40).await;
    first.commit([messages[39].mark().metadata("forty")]).await.expect("committed");
    let partition = TopicPartition::new(topic.as_str(), 0);
    let committed = first.committed(std::slice::from_ref(&partition)).await.expect("an answer");
    let mark = &committed[&partition];
    assert_eq!((mark.offset(), mark.text()), (Offset(40), Some("forty")));
    first.close(SOON).await.expect("closed");
    let second = stage.member(&group, &topic);
    let messages = take(&second, 60).await;
    assert_eq!((messages.len(), text(&messages[0])), (60, "40"));
    second.close(SOON).await.expect("closed");
}

async fn closing_commits_what_was_handed_out(stage: Stage) {
    let topic = stage.topic("auto", 1).await;
    let group = stage.name("auto");
    stage.fill(&topic, 0, 10).await;
    let consumer = stage.client.group_consumer(group.clone()).topics([topic.clone()]).build();
    let consumer = consumer.expect("right settings");
    take(&consumer, 10).await;
    consumer.close(SOON).await.expect("closed");
    assert_eq!(stage.committed(&group, &topic, 0).await, Some(10));
}

/// Reads until `enough`, and commits every batch.
async fn read_on(
    consumer: &GroupConsumer,
    seen: &mut BTreeSet<(i32, i64)>,
    enough: impl Fn(&BTreeSet<(i32, i64)>) -> bool,
) {
    while !enough(seen) {
        match timeout(Duration::from_secs(20), consumer.next_event())
            .await
            .expect("in time")
            .expect("an event")
        {
            ConsumerEvent::Batch(batch) => {
                seen.extend(batch.iter().map(|record| (batch.partition().0, record.offset.0)));
                consumer.store(batch.mark()).expect("the partition is here");
            }
            ConsumerEvent::Revoked(revocation) => {
                consumer.commit_stored().await.expect("committed");
                revocation.done();
            }
            ConsumerEvent::PartitionFailed(failure) if failure.stopped => panic!("{failure:?}"),
            _ => {}
        }
    }
}

async fn members_share_and_take_over_without_loss(stage: Stage) {
    let topic = stage.topic("share", 4).await;
    let group = stage.name("share");
    for partition in 0..4 {
        stage.fill(&topic, partition, 50).await;
    }
    let (first, second) = (stage.member(&group, &topic), stage.member(&group, &topic));
    let (mut by_first, mut by_second) = (BTreeSet::new(), BTreeSet::new());
    // Rebalances are events, so both have to be read until each has its half.
    let halves = || first.assignment().len() == 2 && second.assignment().len() == 2;
    loop {
        let step = |seen: &BTreeSet<(i32, i64)>| {
            let _ = seen;
            halves()
        };
        tokio::select! {
            biased; // the first branch ends on the same condition as the second
            () = read_on(&first, &mut by_first, step) => {}
            () = read_on(&second, &mut by_second, step) => {}
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        if halves() {
            break;
        }
    }
    second.commit_stored().await.expect("committed");
    second.close(SOON).await.expect("closed");
    for partition in 0..4 {
        stage.fill(&topic, partition, 50).await;
    }
    let all: BTreeSet<(i32, i64)> = (0..4).flat_map(|p| (0..100).map(move |offset| (p, offset))).collect();
    read_on(&first, &mut by_first, |seen| seen.union(&by_second).count() == all.len()).await;
    assert_eq!(first.assignment().len(), 4);
    first.close(SOON).await.expect("closed");
    assert!(by_first.union(&by_second).eq(&all));
}

async fn seek_pause_and_resume(stage: Stage) {
    let topic = stage.topic("seek", 2).await;
    let group = stage.name("seek");
    let consumer = stage.member(&group, &topic);
    stage.fill(&topic, 0, 10).await;
    take(&consumer, 10).await;
    let [zero, one] = [0, 1].map(|partition| TopicPartition::new(topic.as_str(), partition));
    consumer.seek(&zero, StartOffset::At(Offset(7))).expect("assigned");
    let messages = take(&consumer, 3).await;
    assert_eq!(messages.iter().map(text).collect::<Vec<_>>(), ["7", "8", "9"]);
    eventually("both partitions are assigned", async || consumer.assignment().len() == 2).await;
    consumer.pause([&zero]).expect("assigned");
    stage.fill(&topic, 0, 5).await;
    stage.fill(&topic, 1, 5).await;
    let messages = take(&consumer, 5).await;
    assert!(messages.iter().all(|message| *message.topic_partition() == one), "{messages:?}");
    consumer.resume([&zero]).expect("assigned");
    let messages = take(&consumer, 5).await;
    assert!(messages.iter().all(|message| *message.topic_partition() == zero), "{messages:?}");
    assert_eq!(consumer.position(&zero), Some(Offset(15)));
    consumer.close(SOON).await.expect("closed");
}

async fn first_of(reader: &PartitionReader) -> (i64, String) {
    let batch = timeout(Duration::from_secs(20), reader.next()).await.expect("in time").expect("a batch");
    let message = batch.message(0).expect("a record");
    (message.offset().0, text(&message).to_owned())
}

async fn a_reader_begins_where_it_is_told(stage: Stage) {
    let topic = stage.topic("reader", 1).await;
    let producer = stage.producer();
    let base = 1_700_000_000_000_i64;
    for number in 0..10 {
        let record = Record::to(&topic).value(number.to_string()).timestamp(base + 1000 * number);
        producer.send(record).await.expect("written");
    }
    let partition = TopicPartition::new(topic.as_str(), 0);
    let reader = async |start| {
        let reader = stage.client.partition_reader().partition(partition.clone(), start).build().await;
        reader.expect("a reader")
    };
    assert_eq!(first_of(&reader(StartOffset::Earliest).await).await, (0, "0".to_owned()));
    assert_eq!(first_of(&reader(StartOffset::At(Offset(4))).await).await, (4, "4".to_owned()));
    let between = StartOffset::Timestamp(Timestamp(base + 5500));
    assert_eq!(first_of(&reader(between).await).await, (6, "6".to_owned()));
    let latest = reader(StartOffset::Latest).await;
    eventually("the end is known", async || latest.position(&partition).is_some()).await;
    producer.send(Record::to(&topic).value("new")).await.expect("written");
    assert_eq!(first_of(&latest).await, (10, "new".to_owned()));
    let ends = latest.end_offsets().await.expect("an answer");
    assert_eq!(ends[&partition], Offset(11));
}

async fn a_member_sees_topics_that_it_subscribes_later(stage: Stage) {
    let (one, two) = (stage.topic("one", 1).await, stage.topic("two", 1).await);
    let consumer = stage.member(&stage.name("later"), &one);
    stage.fill(&one, 0, 1).await;
    stage.fill(&two, 0, 1).await;
    assert_eq!(&**take(&consumer, 1).await[0].topic(), one);
    consumer.subscribe([two.clone()]).expect("open");
    assert_eq!(&**take(&consumer, 1).await[0].topic(), two);
    consumer.close(SOON).await.expect("closed");
}
