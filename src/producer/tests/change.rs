//! Topics that are made anew, grow and lose leaders; brokers that freeze; rights that are taken away.

use super::*;
use crate::broker::{Operation, Resource};
use crate::cluster::{Call, ConditionKind, ConditionStage, Duty, SlowLane};
use crate::types::NodeId;
use crate::wire::messages::create_topics::CreatableTopic;
use crate::wire::messages::{CreateTopicsRequest, InitProducerIdRequest, InitProducerIdResponse};

async fn send(producer: &Producer, record: Record<'_>) -> Result<Delivery, ProduceError> {
    tokio::time::timeout(SECONDS * 20, producer.send(record)).await.expect("it takes no 20 seconds")
}

#[tokio::test(start_paused = true)]
async fn keys_of_a_topic_that_is_made_anew_go_to_the_partitions_that_it_has() {
    let world = Bench::new(3, 6).await;
    let producer = world.producer();
    let topic = producer.topic("t").await.expect("it exists");
    for (partitions, in_flight) in [(2, false), (5, true), (1, true), (8, false)] {
        let mut waiting = Vec::new();
        if in_flight {
            for partition in 0..i32::try_from(topic.partition_count()).expect("a few") {
                let record = Record::to(&topic).partition(partition).value("before");
                waiting.push(producer.enqueue(record).await.expect("there is room"));
            }
        }
        world.control().recreate_topic("t", partitions, &[]).expect("the topic is made anew");
        // Until brokers say so, a record may still be meant for a partition that is gone. It fails at once.
        let mut refused = 0;
        for number in 0..40 {
            let key = number.to_string();
            match send(&producer, Record::to(&topic).key(&key).value("x")).await {
                Ok(delivery) => assert!(delivery.partition.0 < partitions),
                Err(error) => {
                    assert_eq!(error.outcome(), Outcome::NotWritten, "{error}");
                    refused += 1;
                }
            }
        }
        assert!(refused <= 1, "{refused} of 40");
        assert_eq!(topic.partition_count(), partitions as usize);
        for receipt in waiting {
            let partition = receipt.partition().0;
            let outcome = tokio::time::timeout(SECONDS, receipt).await.expect("it is known");
            assert!(outcome.is_ok() || partition >= partitions, "{outcome:?}");
        }
        let error = send(&producer, Record::to(&topic).partition(partitions).value("x")).await;
        assert_eq!(error.expect_err("there is none").kind(), ErrorKind::Config);
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_new_is_looked_for() {
    let world = Bench::new(3, 1).await;
    let producer = world.producer();
    producer.send(Record::to("t").value("first")).await.expect("it is written");
    world.control().create_partitions("t", 3).expect("it can grow");
    let delivery = send(&producer, Record::to("t").partition(2).value("x")).await.expect("it is new");
    assert_eq!(delivery.partition, Partition(2));

    // Who does not wait is told to come again, and in the end that there is none.
    let mut attempts = 0;
    let error = loop {
        match producer.try_enqueue(Record::to("t").partition(5).value("x")) {
            Err(TryEnqueueError::MetadataPending(_)) => attempts += 1,
            Err(TryEnqueueError::Refused(error)) => break error,
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!((10..100).contains(&attempts), "{attempts}");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotWritten));
    world.control().create_partitions("t", 6).expect("it can grow");
    let receipt = loop {
        match producer.try_enqueue(Record::to("t").partition(5).value("x")) {
            Ok(receipt) => break receipt,
            Err(TryEnqueueError::MetadataPending(_)) => tokio::time::sleep(SECONDS / 10).await,
            Err(error) => panic!("{error}"),
        }
    };
    receipt.await.expect("it is written");
}

#[tokio::test(start_paused = true)]
async fn records_without_key_leave_a_partition_that_has_no_leader() {
    let Bench { broker, cluster } = Bench::new(3, 1).await;
    let single = CreatableTopic {
        name: "single".into(),
        num_partitions: 3,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let request = CreateTopicsRequest { topics: vec![single], timeout_ms: 1000, validate_only: false };
    let deadline = tokio::time::Instant::now() + SECONDS;
    let created =
        cluster.request_any(&request, Call::until(deadline), |answer| ErrorCode(answer.topics[0].error_code));
    created.await.expect("the name is free");
    let producer = Producer::builder(cluster).build().expect("right");
    for dead in 0..3 {
        let first =
            producer.send(Record::to("single").value("first")).await.expect("it is written").partition;
        let leader = broker.control().partition("single", first.0).and_then(|state| state.leader);
        let leader = leader.expect("it led a moment ago");
        broker.control().kill_node(leader);
        // This one is on its way to it already.
        let held = producer.enqueue(Record::to("single").value("held")).await.expect("there is room");
        tokio::time::sleep(SECONDS).await;
        for _ in 0..12 {
            let delivery =
                send(&producer, Record::to("single").value("x")).await.expect("others have leaders");
            assert_ne!(delivery.partition, first);
        }
        broker.control().restart_node(leader).await.expect("its port is free");
        held.await.unwrap_or_else(|error| panic!("{dead}: {error}"));
    }
    let first = producer.send(Record::to("single").value("first")).await.expect("it is written").partition;
    let leader = broker.control().partition("single", first.0).and_then(|state| state.leader);
    broker.control().kill_node(leader.expect("it led a moment ago"));
    let error = producer
        .send(Record::to("single").partition(first.0).value("x"))
        .await
        .expect_err("it has no leader");
    let reason = crate::error::Chain(&error).to_string();
    assert!(reason.contains("has no leader"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_leader_does_not_hold_up_what_its_successor_can_take() {
    let world = Bench::new(3, 1).await;
    let control = world.control();
    control.move_leader("t", 0, 0).expect("it is in sync");
    let producer = world.producer();
    produce(&producer, 0..10).await;
    let frozen = control.intercept(Matcher::api(ApiKey::PRODUCE).node(0), Action::Hold);
    let start = tokio::time::Instant::now();
    let more = async {
        tokio::time::sleep(SECONDS).await;
        control.move_leader("t", 0, 1).expect("it is in sync");
    };
    tokio::join!(produce(&producer, 10..200), more);
    assert!(start.elapsed() < SECONDS * 7, "{:?}", start.elapsed());
    frozen.remove();
    produce(&producer, 200..300).await;
    assert_eq!(world.log(0), numbers(0..300));
}

/// Neither the topic nor anything else was asked about for an hour, and nothing can be sent where the leader was.
#[tokio::test(start_paused = true)]
async fn a_topic_that_left_the_refresh_comes_back_when_its_leader_is_needed() {
    let world = Bench::new(3, 1).await;
    let producer = world.producer();
    send(&producer, Record::to("t").value("first")).await.expect("it is written");
    tokio::time::sleep(SECONDS * 3600).await;
    let leader = world.control().partition("t", 0).and_then(|state| state.leader);
    world.control().kill_node(leader.expect("it led all the time"));
    tokio::time::sleep(SECONDS * 600).await;
    send(&producer, Record::to("t").value("second")).await.expect("another one leads");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_node_costs_a_producer_id_a_moment() {
    for frozen in 0..3 {
        let world = Bench::new(3, 1).await;
        let soon = tokio::time::Instant::now() + SECONDS;
        world.cluster.ready(soon).await.expect("the cluster is well");
        for node in 0..3 {
            world.cluster.connection(NodeId(node), Duty::Short, soon).await.expect("it is well");
        }
        world.control().freeze_node(frozen);
        let start = tokio::time::Instant::now();
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            producer_id: -1,
            producer_epoch: -1,
        };
        let lane = SlowLane::new(world.cluster.clone());
        let code = |response: &InitProducerIdResponse| ErrorCode(response.error_code);
        let answer = world.cluster.request_any(&request, lane.call(start + SECONDS * 30), code).await;
        answer.expect("two nodes are well");
        assert!(start.elapsed() < SECONDS * 3, "{frozen}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_explicit_linger_gathers_records() {
    let world = Bench::new(1, 1).await;
    for (linger, requests) in [(0, 400..=500), (5, 200..=300), (100, 15..=25)] {
        let producer = world
            .builder()
            .config(ProducerConfig::new().linger(Duration::from_millis(linger)))
            .build()
            .expect("right");
        producer.send(Record::to("t").value("first")).await.expect("it is written");
        let before = world.control().requests(ApiKey::PRODUCE);
        for _ in 0..500 {
            drop(producer.enqueue(Record::to("t").value("v")).await.expect("there is room"));
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
        producer.flush(SECONDS).await.expect("all is written");
        let made = world.control().requests(ApiKey::PRODUCE) - before;
        assert!(requests.contains(&made), "{linger} ms: {made}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_missing_is_a_condition_until_it_is_there() {
    let world = Bench::new(1, 1).await;
    let producer = world.producer();
    let resource = Resource::Topic("t".to_owned());
    let mut news = world.cluster.condition_events(Some(producer.shared.id));
    world.control().deny(resource.clone(), Operation::Write);
    let error = producer.send(Record::to("t").value("x")).await.expect_err("it is forbidden");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Authorization, Outcome::NotWritten));
    let began = news.next().await.expect("the client lives");
    assert_eq!((began.stage, began.condition.kind), (ConditionStage::Began, ConditionKind::NotAuthorized));
    world.control().allow(&resource);
    producer.send(Record::to("t").value("x")).await.expect("it is allowed");
    assert_eq!(news.next().await.expect("the client lives").stage, ConditionStage::Ended);
}

/// A record that fits into the buffer fits, whatever is in it.
#[test]
fn what_fits_alone_is_never_called_too_large() {
    let mut dice = fastrand::Rng::with_seed(11);
    for _ in 0..50 {
        let batch_size = dice.usize(1024..40_000);
        let memory = batch_size.next_power_of_two() + dice.usize(0..40_000);
        let lanes: Vec<_> = (0..3).map(|id| lane::Lane::new(id, "t".into(), id as i32, batch_size)).collect();
        let (stock, clocks) = (stock::Stock::new(memory), Wound::default());
        let codec = compress::Codec::new(Compression::None, None);
        for _ in 0..100 {
            let lane = &lanes[dice.usize(..3)];
            let value = vec![0; dice.usize(..memory - 64)];
            let record = Record::to("t").value(&value);
            let outcome = lane.appender(&stock).append(&record, &clocks, &mut None);
            match outcome {
                Ok(_) => {}
                Err(lane::Blocked::Credit(..)) => {
                    let lane = &lanes[dice.usize(..3)];
                    lane.collect(&codec, lane::Take::Open, &mut Vec::new());
                }
                Err(other) => panic!("{other:?}: {} of {memory}", value.len()),
            }
        }
    }
}

#[test]
fn batches_are_smaller_for_a_while_after_one_was_too_large() {
    let lane = lane::Lane::new(0, "t".into(), 0, 100_000);
    let (stock, clocks) = (stock::Stock::new(10_000_000), Wound::default());
    let codec = compress::Codec::new(Compression::None, None);
    let value = vec![0; 1000];
    let largest = || {
        let mut batches = Vec::new();
        for _ in 0..300 {
            let appended = lane.appender(&stock).append(&Record::to("t").value(&value), &clocks, &mut None);
            appended.expect("there is room");
            lane.collect(&codec, lane::Take::Ready, &mut batches);
        }
        lane.collect(&codec, lane::Take::Open, &mut batches);
        batches.iter().map(batch::Batch::wire_len).max().expect("there are some")
    };
    assert!((90_000..=100_000).contains(&largest()));
    let start = tokio::time::Instant::now();
    lane.shrink(start, 100_000);
    lane.shrink(start, 50_000);
    assert!((20_000..=25_000).contains(&largest()));
    clocks.passed.set(Duration::from_secs(300));
    assert!((90_000..=100_000).contains(&largest()));
}
