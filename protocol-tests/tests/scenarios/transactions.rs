//! Transactions: what is visible to readers of committed records, and what the next transaction can do.

use std::time::Duration;

use carafe::Error;
use carafe::consumer::{GroupConsumer, StartOffset};
use carafe::producer::{
    Producer, ProducerConfig, Record, Transaction, TransactionError, TransactionErrorKind as Kind,
};
use carafe::types::TopicPartition;
use tokio::time::timeout;

use crate::stage::{SOON, Stage, eventually};

scenarios!(
    what_is_committed_is_visible_and_nothing_else,
    offsets_are_committed_with_their_records_alone,
    a_newer_producer_fences_the_older_one,
    what_cannot_be_done_now_is_said,
    a_record_that_fails_aborts_its_transaction,
    a_scope_that_is_dropped_or_panics_is_aborted,
    scopes_take_turns_and_inner_ones_join,
    a_member_that_lost_its_place_commits_nothing,
    a_closed_producer_leaves_no_transaction_open,
);

fn transactional(stage: &Stage, id: &str) -> Producer {
    let config = ProducerConfig::new().transactional_id(stage.name(id));
    stage.client.producer().config(config).build().expect("right settings")
}

/// The values that readers of committed records see in `partition`, up to one that is committed now.
async fn visible(stage: &Stage, topic: &str, partition: i32) -> Vec<String> {
    let last = transactional(stage, &format!("last-{:x}", fastrand::u64(..)));
    let end = Record::to(topic).partition(partition).value("end");
    last.transaction(async |tx| tx.send(end).await.map_err(Error::from)).await.expect("committed");
    let reader = stage.client.partition_reader();
    let reader = reader.partition(TopicPartition::new(topic, partition), StartOffset::Earliest).build().await;
    let reader = reader.expect("a reader");
    let mut values = Vec::new();
    loop {
        let batch = timeout(SOON, reader.next()).await.expect("in time").expect("a batch");
        for record in &batch {
            match String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned() {
                end if end == "end" => return values,
                value => values.push(value),
            }
        }
    }
}

/// A transaction with one record per value, alternating between two partitions.
async fn write(tx: &Transaction, topic: &str, values: &[&str]) -> carafe::Result<()> {
    for (number, value) in values.iter().enumerate() {
        drop(tx.enqueue(Record::to(topic).partition(number as i32 % 2).value(*value)).await?);
    }
    Ok(())
}

fn kind(result: Result<(), Error>) -> Option<Kind> {
    TransactionError::of(&result.err()?).map(TransactionError::kind)
}

/// Brokers before Kafka 2.5 give no new epoch to a producer that has one, and know no members in transactions.
fn takes_2_5(error: &dyn std::fmt::Debug) -> bool {
    format!("{error:?}").contains("takes Kafka 2.5")
}

async fn what_is_committed_is_visible_and_nothing_else(stage: Stage) {
    let topic = stage.topic("transactions", 2).await;
    let producer = transactional(&stage, "visible");
    for round in 0..20 {
        let (a, b) = (format!("{round}a"), format!("{round}b"));
        let result = producer
            .transaction(async |tx| {
                write(&tx, &topic, &[&a, &b]).await?;
                if round % 3 == 1 {
                    // Some of it is in the log, some is not.
                    tx.send(Record::to(&topic).partition(0).value("in the log, and aborted")).await?;
                    write(&tx, &topic, &["x", "y"]).await?;
                }
                match round % 3 {
                    0 => Ok(round),
                    _ => Err(Error::new(carafe::ErrorKind::Handler, "not this one")),
                }
            })
            .await;
        assert_eq!(result.is_ok(), round % 3 == 0, "{result:?}");
    }
    let nothing = producer.transaction(async |_| Ok::<_, Error>(7)).await;
    assert_eq!(nothing.expect("an empty transaction"), 7);
    producer.begin_transaction().await.expect("begun");
    drop(producer.enqueue(Record::to(&topic).partition(1).value("by hand")).await.expect("enqueued"));
    producer.commit_transaction().await.expect("committed");
    let expected = |letter| (0..20).step_by(3).map(move |round| format!("{round}{letter}"));
    assert_eq!(visible(&stage, &topic, 0).await, expected('a').collect::<Vec<_>>());
    let by_hand = expected('b').chain(["by hand".to_owned()]);
    assert_eq!(visible(&stage, &topic, 1).await, by_hand.collect::<Vec<_>>());
}

async fn offsets_are_committed_with_their_records_alone(stage: Stage) {
    let (input, output) = (stage.topic("orders", 1).await, stage.topic("invoices", 2).await);
    let group = stage.name("shop");
    stage.fill(&input, 0, 10).await;
    let consumer = stage.member(&group, &input);
    let producer = transactional(&stage, "shop");
    let mut aborts = 0;
    let mut done = 0;
    while done < 10 {
        let batch = timeout(SOON, consumer.next()).await.expect("in time").expect("a batch");
        let first = batch.first_offset();
        let result = producer
            .transaction(async |tx| {
                for record in &batch {
                    let value = record.value.unwrap_or_default();
                    drop(tx.enqueue(Record::to(&output).partition(0).value(value)).await?);
                }
                tx.send_offsets(consumer.offsets([batch.mark().metadata("done")]).await?).await?;
                if aborts < 2 { Err(Error::new(carafe::ErrorKind::Handler, "no")) } else { Ok(()) }
            })
            .await;
        match result {
            Ok(()) => done += batch.len(),
            Err(error) if takes_2_5(&error) => return,
            Err(_) => {
                aborts += 1;
                assert_eq!(stage.committed(&group, &input, 0).await, None);
                let start = first.expect("no batch is empty");
                consumer.seek(batch.topic_partition(), StartOffset::At(start)).expect("assigned");
            }
        }
    }
    // Committed is what the coordinator has decided; a moment later brokers know.
    eventually("10 is committed", async || stage.committed(&group, &input, 0).await == Some(10)).await;
    let values: Vec<_> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(visible(&stage, &output, 0).await, values);
    let partition = TopicPartition::new(input.as_str(), 0);
    let committed = consumer.committed(std::slice::from_ref(&partition)).await.expect("an answer");
    assert_eq!(committed[&partition].text(), Some("done"));
    consumer.close(SOON).await.expect("left");
}

async fn a_newer_producer_fences_the_older_one(stage: Stage) {
    let topic = stage.topic("fenced", 2).await;
    let (old, new) = (transactional(&stage, "one"), transactional(&stage, "one"));
    old.transaction(async |tx| write(&tx, &topic, &["1", "2"]).await).await.expect("the only one");
    old.begin_transaction().await.expect("begun");
    old.send(Record::to(&topic).partition(0).value("of the old one")).await.expect("written");
    new.transaction(async |tx| write(&tx, &topic, &["3", "4"]).await).await.expect("the newer one");
    let late = old.enqueue(Record::to(&topic).partition(1).value("too late")).await;
    drop(late);
    let fenced = old.commit_transaction().await.expect_err("fenced");
    let gone = match fenced.kind() {
        // The record was refused first; then it can only be aborted.
        Kind::Abort => old.begin_transaction().await.expect_err("fenced"),
        _ => fenced,
    };
    assert_eq!(gone.kind(), Kind::Dead, "{gone}");
    assert!(gone.error().is_fenced(), "{gone}");
    let refused = old.transaction(async |tx| write(&tx, &topic, &["5", "6"]).await).await;
    assert_eq!(kind(refused), Some(Kind::Dead));
    let refused = old.send(Record::to(&topic).value("x")).await.expect_err("dead");
    assert_eq!(TransactionError::of(&refused).map(TransactionError::kind), Some(Kind::Dead), "{refused}");
    new.transaction(async |tx| write(&tx, &topic, &["7", "8"]).await).await.expect("it goes on");
    assert_eq!(visible(&stage, &topic, 0).await, ["1", "3", "7"]);
    assert_eq!(visible(&stage, &topic, 1).await, ["2", "4", "8"]);
}

async fn what_cannot_be_done_now_is_said(stage: Stage) {
    let topic = stage.topic("misuse", 2).await;
    let misuse = |result: Result<(), TransactionError>| {
        let error = result.expect_err("not now");
        assert_eq!(error.kind(), Kind::Misuse, "{error}");
        assert!(error.error().advice().is_some(), "{error}");
    };
    let plain = stage.producer();
    misuse(plain.begin_transaction().await);
    misuse(plain.commit_transaction().await);
    let producer = transactional(&stage, "misuse");
    misuse(producer.commit_transaction().await);
    misuse(producer.abort_transaction().await);
    let refused = producer.send(Record::to(&topic).value("x")).await.expect_err("none is open");
    assert_eq!(TransactionError::of(&refused).map(TransactionError::kind), Some(Kind::Misuse), "{refused}");
    producer.begin_transaction().await.expect("begun");
    misuse(producer.begin_transaction().await);
    let scope = producer.transaction(async |_| Ok::<_, Error>(())).await;
    assert_eq!(kind(scope), Some(Kind::Misuse));
    drop(producer.enqueue(Record::to(&topic).partition(0).value("1")).await.expect("enqueued"));
    producer.commit_transaction().await.expect("committed");
    misuse(producer.commit_transaction().await);
    let mut kept = None;
    let by_scope = producer
        .transaction(async |tx| {
            misuse(producer.commit_transaction().await);
            misuse(producer.begin_transaction().await);
            kept = Some(tx.clone());
            write(&tx, &topic, &["2"]).await
        })
        .await;
    by_scope.expect("committed");
    let kept = kept.expect("kept");
    producer.begin_transaction().await.expect("begun");
    let late = kept.enqueue(Record::to(&topic).partition(0).value("late")).await.expect_err("it has ended");
    assert_eq!(TransactionError::of(&late).map(TransactionError::kind), Some(Kind::Misuse), "{late}");
    producer.abort_transaction().await.expect("aborted");
    assert_eq!(visible(&stage, &topic, 0).await, ["1", "2"]);
}

async fn a_record_that_fails_aborts_its_transaction(stage: Stage) {
    let topic = stage.topic_with("small", 2, &[("max.message.bytes", "2000")]).await;
    let producer = transactional(&stage, "fails");
    let large = vec![0; 10_000];
    for round in 0..3 {
        let refused = producer
            .transaction(async |tx| {
                write(&tx, &topic, &["no", "no"]).await?;
                drop(tx.enqueue(Record::to(&topic).partition(0).value(&large[..])).await?);
                Ok::<_, Error>(())
            })
            .await;
        assert_eq!(kind(refused), Some(Kind::Abort), "round {round}");
        match producer.begin_transaction().await {
            Err(error) if takes_2_5(&error) => return,
            begun => begun.expect("begun"),
        }
        let failed = producer.send(Record::to(&topic).partition(1).value(&large[..])).await;
        assert_eq!(failed.expect_err("too large").kind(), carafe::ErrorKind::TooLarge);
        // The driver may hear of it a moment later than we do.
        let refused = producer.commit_transaction().await.expect_err("it has a record that failed");
        assert_eq!(refused.kind(), Kind::Abort, "{refused}");
        producer.abort_transaction().await.expect("it is aborted already");
        producer
            .transaction(async |tx| write(&tx, &topic, &["yes", "yes"]).await)
            .await
            .expect("the next works");
    }
    for partition in 0..2 {
        assert_eq!(visible(&stage, &topic, partition).await, ["yes", "yes", "yes"]);
    }
}

async fn a_scope_that_is_dropped_or_panics_is_aborted(stage: Stage) {
    let topic = stage.topic("dropped", 2).await;
    let producer = transactional(&stage, "dropped");
    let scope = producer.transaction(async |tx| {
        tx.send(Record::to(&topic).partition(0).value("of a scope that is dropped")).await?;
        write(&tx, &topic, &["x", "y"]).await?;
        std::future::pending::<carafe::Result<()>>().await
    });
    assert!(timeout(Duration::from_millis(300), scope).await.is_err());
    let (panics, name) = (producer.clone(), topic.clone());
    let task = tokio::spawn(async move {
        let scope = panics.transaction(async |tx| {
            tx.send(Record::to(&name).partition(1).value("of a scope that panics")).await?;
            if name.starts_with("carafe") {
                panic!("on purpose");
            }
            Ok::<_, Error>(())
        });
        scope.await
    });
    assert!(task.await.expect_err("it panicked").is_panic());
    producer.transaction(async |tx| write(&tx, &topic, &["1", "2"]).await).await.expect("the next one");
    assert_eq!(visible(&stage, &topic, 0).await, ["1"]);
    assert_eq!(visible(&stage, &topic, 1).await, ["2"]);
}

async fn scopes_take_turns_and_inner_ones_join(stage: Stage) {
    let topic = stage.topic("turns", 2).await;
    let producer = transactional(&stage, "turns");
    let scopes: Vec<_> = (0..5)
        .map(|number| {
            let (producer, topic) = (producer.clone(), topic.clone());
            tokio::spawn(async move {
                let value = number.to_string();
                producer.transaction(async |tx| write(&tx, &topic, &[&value, &value]).await).await
            })
        })
        .collect();
    for scope in scopes {
        scope.await.expect("no panic").expect("committed");
    }
    let joined = producer
        .transaction(async |tx| {
            write(&tx, &topic, &["outer"]).await?;
            tx.transaction(async |inner| write(&inner, &topic, &["inner"]).await).await?;
            tx.producer().transaction(async |inner| write(&inner, &topic, &["inner too"]).await).await
        })
        .await;
    joined.expect("committed");
    let swallowed = producer
        .transaction(async |tx| {
            write(&tx, &topic, &["no"]).await?;
            let inner = tx.transaction(async |inner| {
                write(&inner, &topic, &["no"]).await?;
                Err::<(), _>(Error::new(carafe::ErrorKind::Handler, "no"))
            });
            drop(inner.await);
            let late = tx.enqueue(Record::to(&topic).value("no")).await.expect_err("it can only be aborted");
            assert_eq!(TransactionError::of(&late).map(TransactionError::kind), Some(Kind::Abort));
            Ok::<_, Error>(())
        })
        .await;
    assert_eq!(kind(swallowed), Some(Kind::Abort));
    let mut seen = visible(&stage, &topic, 0).await;
    assert_eq!(seen.split_off(5), ["outer", "inner", "inner too"]);
    seen.sort();
    assert_eq!(seen, ["0", "1", "2", "3", "4"]);
}

async fn a_member_that_lost_its_place_commits_nothing(stage: Stage) {
    let (input, output) = (stage.topic("lost", 2).await, stage.topic("lost-out", 2).await);
    let group = stage.name("lost");
    for partition in 0..2 {
        stage.fill(&input, partition, 3).await;
    }
    let consumer: GroupConsumer = stage.member(&group, &input);
    let batch = timeout(SOON, consumer.next()).await.expect("in time").expect("a batch");
    let offsets = consumer.offsets([batch.mark()]).await.expect("it has its place");
    consumer.close(SOON).await.expect("left");
    let producer = transactional(&stage, "lost");
    let refused = producer
        .transaction(async |tx| {
            write(&tx, &output, &["no", "no"]).await?;
            tx.send_offsets(offsets.clone()).await.map_err(Error::from)
        })
        .await;
    assert_eq!(kind(refused), Some(Kind::Abort));
    assert!(consumer.offsets([batch.mark()]).await.is_err(), "nor are there new ones");
    producer.transaction(async |tx| write(&tx, &output, &["yes"]).await).await.expect("the next works");
    assert_eq!(visible(&stage, &output, 0).await, ["yes"]);
    for partition in 0..2 {
        assert_eq!(stage.committed(&group, &input, partition).await, None);
    }
}

async fn a_closed_producer_leaves_no_transaction_open(stage: Stage) {
    let topic = stage.topic("closed", 2).await;
    let producer = transactional(&stage, "closed");
    producer.begin_transaction().await.expect("begun");
    producer.send(Record::to(&topic).partition(0).value("open")).await.expect("written");
    producer.close(SOON).await.expect("closed");
    let refused = producer.begin_transaction().await.expect_err("closed");
    assert_eq!(refused.kind(), Kind::NotBegun, "{refused}");
    let dropped = transactional(&stage, "orphan");
    dropped.begin_transaction().await.expect("begun");
    dropped.send(Record::to(&topic).partition(1).value("open")).await.expect("written");
    drop(dropped);
    assert_eq!(visible(&stage, &topic, 0).await, Vec::<String>::new());
    assert_eq!(visible(&stage, &topic, 1).await, Vec::<String>::new());
}
