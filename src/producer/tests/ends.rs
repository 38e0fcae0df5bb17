//! Ends of a producer: every receipt resolves, and closing counts the truth.

use super::*;

/// A producer that compresses, with one record written.
async fn compressing(world: &Bench) -> Producer {
    let producer = world
        .builder()
        .config(ProducerConfig::new().compression(Compression::Lz4).batch_size(200_000))
        .build()
        .expect("right");
    producer.send(Record::to("t").value("first")).await.expect("it is written");
    producer
}

/// Batches that are too large to be compressed by whoever closes them.
async fn enqueue_much(producer: &Producer) -> Vec<Receipt> {
    let value = vec![b'x'; 90_000];
    let mut receipts = Vec::new();
    for _ in 0..20 {
        receipts.push(producer.enqueue(Record::to("t").value(&value)).await.expect("there is room"));
    }
    receipts
}

/// What became of the records; all of it is known.
fn outcomes(receipts: &[Receipt]) -> (usize, usize) {
    let known: Vec<_> = receipts.iter().map(|receipt| receipt.outcome().expect("it is known")).collect();
    let written = known.iter().filter(|outcome| **outcome == Outcome::Written).count();
    (written, known.len() - written)
}

#[tokio::test(start_paused = true)]
async fn what_is_being_compressed_when_a_producer_is_closed_is_told_and_counted() {
    let runtime = Watched::new(7);
    let world = Bench::on(runtime.clone(), 1, 1).await;
    let producer = compressing(&world).await;
    runtime.hold();
    let receipts = enqueue_much(&producer).await;
    let error = producer.close(SECONDS).await.expect_err("nobody compresses");
    let (written, failed) = outcomes(&receipts);
    assert!(error.is_timeout() && failed > 0, "{error}");
    assert!(error.to_string().starts_with(&format!("{failed} records for t[0] ")), "{error}");
    assert_eq!(world.log(0).len(), 1 + written);
    let counters = producer.counters();
    assert_eq!((counters.failed as usize, counters.buffered_bytes), (failed, 0));
    // It is done after all, and nobody's any more.
    runtime.take_held().into_iter().for_each(|work| work());
    assert_eq!(world.log(0).len(), 1 + written);
    producer.close(SECONDS).await.expect("that was told");
}

#[tokio::test(start_paused = true)]
async fn bodies_that_a_runtime_does_not_compress_are_sent_plain() {
    let runtime = Watched::new(7);
    let world = Bench::on(runtime.clone(), 1, 1).await;
    let producer = compressing(&world).await;
    runtime.hold();
    let receipts = enqueue_much(&producer).await;
    let flushed = async {
        producer.flush(SECONDS * 10).await.expect("all of it is written");
    };
    let dropping = async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(runtime.take_held());
        }
    };
    // Biased: dropping never ends.
    tokio::select! {
        biased;
        () = flushed => {}
        () = dropping => {}
    }
    assert_eq!(outcomes(&receipts), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn bodies_that_nobody_compresses_time_out() {
    let runtime = Watched::new(7);
    let world = Bench::on(runtime.clone(), 1, 1).await;
    let config = ProducerConfig::new().delivery_timeout(SECONDS * 40).request_timeout(SECONDS * 10);
    let config = config.compression(Compression::Lz4).batch_size(200_000);
    let producer = world.builder().config(config).build().expect("right");
    producer.topic("t").await.expect("it exists");
    runtime.hold();
    let receipts = enqueue_much(&producer).await;
    tokio::time::sleep(SECONDS * 41).await;
    let (written, failed) = outcomes(&receipts);
    assert!(failed > 0);
    producer.close(SECONDS).await.expect("nothing is left");
    assert_eq!(world.log(0).len(), written);
}

#[test]
fn a_producer_whose_runtime_ends_leaves_nobody_waiting() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime can be made");
    let (producer, sent, waits, unknown) = runtime.block_on(async {
        let world = Bench::new(1, 1).await;
        let producer = world.producer();
        let topic = producer.topic("t").await.expect("it exists");
        world.control().intercept(Matcher::api(ApiKey::PRODUCE), Action::Hold);
        let sent = producer.enqueue(Record::to("t").value("sent")).await.expect("there is room");
        tokio::time::sleep(SECONDS).await;
        let waits = producer.enqueue(Record::to("t").value("waits")).await.expect("there is room");
        // The letter about this one is still in the hands of its appender.
        let other = world.producer();
        let other = other.topic("t").await.expect("it exists").0.lanes.get(0).cloned().expect("it has one");
        let clocks = Wound::default();
        let stock = &producer.shared.stock;
        drop(topic);
        let run = other.appender(stock).append(&Record::to("t").value("unknown"), &clocks, &mut None);
        (producer, sent, waits, run.expect("there is room").cell)
    });
    drop(runtime);
    assert_eq!((sent.outcome(), waits.outcome()), (Some(Outcome::Unknown), Some(Outcome::NotWritten)));
    assert!(unknown.completion.get(0).is_some());
    let single = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("another one");
    single.block_on(async {
        let refused =
            producer.enqueue(Record::to("t").value("late")).await.expect_err("nobody would send it");
        assert_eq!(refused.kind(), ErrorKind::State);
        let error = producer.close(SECONDS).await.expect_err("two were given up");
        assert_eq!(error.kind(), ErrorKind::State);
        assert!(error.to_string().starts_with("2 records for t[0] "), "{error}");
        producer.close(SECONDS).await.expect("that was told");
    });
}

#[tokio::test(start_paused = true)]
async fn an_impatient_producer_costs_no_other() {
    let world = Bench::new(1, 2).await;
    let calm = world.producer();
    calm.send(Record::to("t").partition(0).value("v")).await.expect("it is written");
    let hasty =
        world.builder().config(ProducerConfig::new().delivery_timeout(SECONDS / 20)).build().expect("right");
    // A broker under load takes longer than that.
    world.control().intercept(Matcher::api(ApiKey::PRODUCE), Action::Delay(SECONDS / 10));
    let always = async {
        loop {
            let sent = hasty.send(Record::to("t").partition(1).value("v")).await;
            sent.expect_err("it takes longer than that");
        }
    };
    let others = async {
        for _ in 0..3 {
            calm.send(Record::to("t").partition(0).value("v")).await.expect("it has time");
        }
    };
    let start = tokio::time::Instant::now();
    // Biased: the first never ends.
    tokio::select! {
        biased;
        () = always => {}
        () = others => {}
    }
    assert!(start.elapsed() < SECONDS, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn closing_the_client_ends_its_producers() {
    let world = Bench::new(2, 2).await;
    let control = world.control();
    control.move_leader("t", 0, 0).expect("it is in sync");
    control.move_leader("t", 1, 1).expect("it is in sync");
    let producer = world.producer();
    for partition in 0..2 {
        producer.send(Record::to("t").partition(partition).value("first")).await.expect("it is written");
    }
    let late = control.intercept(Matcher::api(ApiKey::PRODUCE).node(0), Action::DelayAnswer(SECONDS * 5));
    let on_the_way = producer.enqueue(Record::to("t").partition(0).value("a")).await.expect("there is room");
    tokio::time::sleep(SECONDS).await;
    assert_eq!(late.hits(), 1);
    control.kill_node(1);
    let waits = producer.enqueue(Record::to("t").partition(0).value("b")).await.expect("there is room");
    let start = tokio::time::Instant::now();
    world.cluster.close();
    let error = waits.await.expect_err("nobody sends it");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::State, Outcome::NotWritten));
    assert!(start.elapsed() < SECONDS, "{:?}", start.elapsed());
    on_the_way.await.expect("its answer still comes");
    let refused = producer.enqueue(Record::to("t").value("late")).await.expect_err("the client is closed");
    assert_eq!(refused.kind(), ErrorKind::State);
    let error = producer.close(SECONDS).await.expect_err("one was given up");
    assert!(error.to_string().starts_with("1 records for t[0] "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn whoever_runs_out_of_time_learns_what_is_left_and_why() {
    let world = Bench::new(1, 1).await;
    let producer = world.producer();
    producer.send(Record::to("t").value("first")).await.expect("it is written");
    let code = ErrorCode::NOT_ENOUGH_REPLICAS;
    world.control().intercept(Matcher::api(ApiKey::PRODUCE), Action::Error(code));
    let _receipt = producer.enqueue(Record::to("t").value("x")).await.expect("there is room");
    for error in [producer.flush(SECONDS).await, producer.close(SECONDS).await] {
        let error = error.expect_err("it is refused");
        assert!(error.is_timeout() && error.to_string().contains("t[0]"), "{error}");
        let reason = crate::error::Chain(&error).to_string();
        assert!(reason.contains("NOT_ENOUGH_REPLICAS"), "{reason}");
    }
}

/// From zero to for ever, every time that a user can set does what it says.
#[tokio::test(start_paused = true)]
async fn all_durations_are_legal() {
    let world = Bench::new(1, 1).await;
    let mut dice = fastrand::Rng::with_seed(5);
    let all = [Duration::ZERO, Duration::from_nanos(1), SECONDS, Duration::from_secs(1 << 40), Duration::MAX];
    for _ in 0..200 {
        let mut any = || all[dice.usize(..all.len())];
        let config = ProducerConfig::new().linger(any()).max_block(any()).delivery_timeout(any());
        let config = config.request_timeout(any()).retry_backoff(any()).retry_backoff_max(any());
        let (flush, close) = (any(), any());
        let Ok(producer) = world.builder().config(config).build() else { continue };
        let mut receipts = Vec::new();
        for _ in 0..3 {
            if let Ok(receipt) = producer.enqueue(Record::to("t").value("x")).await {
                receipts.push(receipt);
            }
        }
        // Some of this takes for ever, as it should.
        let _ = tokio::time::timeout(SECONDS, producer.flush(flush)).await;
        let Ok(closed) = tokio::time::timeout(SECONDS, producer.close(close)).await else { continue };
        let (_, failed) = outcomes(&receipts);
        assert!(failed == 0 || closed.is_err() || producer.counters().failed as usize == failed);
    }
}
