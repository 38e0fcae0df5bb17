//! Records out, and read back.

use std::collections::BTreeMap;
use std::time::Duration;

use carafe::ErrorKind;
use carafe::consumer::{OwnedRecord, StartOffset};
use carafe::producer::{Compression, Outcome, ProducerConfig, Record};
use tokio::time::timeout;

use crate::stage::{Stage, text};

scenarios!(
    records_come_back_as_they_were,
    keys_choose_partitions_as_in_java_and_keep_their_order,
    every_codec_carries_a_large_batch,
    many_records_at_once_are_all_written,
    a_record_that_is_too_large_comes_back,
    a_topic_that_cannot_exist_is_an_error,
    a_closed_producer_refuses,
);

/// Everything in a topic from the beginning, `count` messages.
async fn read(stage: &Stage, topic: &str, count: usize) -> Vec<OwnedRecord> {
    let reader = stage.client.partition_reader().topic(topic.to_owned(), StartOffset::Earliest).build().await;
    let reader = reader.expect("a reader");
    let mut messages = Vec::new();
    while messages.len() < count {
        let batch = timeout(Duration::from_secs(20), reader.next()).await;
        messages.extend(batch.expect("in time").expect("a batch").messages());
    }
    assert_eq!(messages.len(), count);
    messages
}

type Fields<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, Vec<(&'a [u8], Option<&'a [u8]>)>);

async fn records_come_back_as_they_were(stage: Stage) {
    let topic = stage.topic("fields", 1).await;
    let binary: Vec<u8> = (0..=255).collect();
    let written: Vec<Fields<'_>> = vec![
        (Some(b"key"), Some(b"value"), vec![]),
        (
            None,
            Some(b"no key"),
            vec![(b"a", Some(b"1")), (b"a", Some(b"2")), (b"b", None), (b"a", Some(b""))],
        ),
        (Some(b""), Some(b""), vec![(b"", Some(b"empty name"))]),
        (Some(b"tombstone"), None, vec![("zażółć".as_bytes(), Some(&binary))]),
        (None, None, vec![]),
        (Some(&binary), Some(&binary), vec![(b"binary", Some(&binary))]),
    ];
    let producer = stage.producer();
    let base = 1_700_000_000_000_i64;
    for (number, (key, value, headers)) in (0_i64..).zip(&written) {
        let mut record = Record::to(&topic).key(*key).value(*value).timestamp(base + number);
        for (name, value) in headers {
            record = record.header(*name, *value);
        }
        let delivery = producer.send(record).await.expect("written");
        assert_eq!(delivery.offset.map(|offset| offset.0), Some(number));
        assert_eq!((&*delivery.topic, delivery.partition.0), (topic.as_str(), 0));
    }
    let messages = read(&stage, &topic, written.len()).await;
    for (number, (message, fields)) in (0_i64..).zip(messages.iter().zip(&written)) {
        let headers = message.headers().iter().map(|header| (header.key, header.value)).collect();
        assert_eq!(&(message.key(), message.value(), headers), fields);
        assert_eq!((message.offset().0, message.timestamp().0), (number, base + number));
    }
}

async fn keys_choose_partitions_as_in_java_and_keep_their_order(stage: Stage) {
    let topic = stage.topic("keys", 12).await;
    let producer = stage.producer();
    // The vectors of Kafka's own test of murmur2.
    for (key, hash) in
        [("21", -973_932_308_i32), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
    {
        let delivery = producer.send(Record::to(&topic).key(key).value("0")).await.expect("written");
        assert_eq!(delivery.partition.0, (hash & i32::MAX) % 12, "{key}");
    }
    let mut receipts = Vec::new();
    for number in 0..2000 {
        let key = format!("key-{}", number % 50);
        let record = Record::to(&topic).key(key).value(number.to_string());
        receipts.push(producer.enqueue(record).await.expect("enqueued"));
    }
    for receipt in receipts {
        receipt.await.expect("written");
    }
    let mut places = BTreeMap::new();
    let mut latest = BTreeMap::new();
    for message in read(&stage, &topic, 2003).await {
        let key = message.key().expect("a key").to_vec();
        let number: u64 = text(&message).parse().expect("a number");
        let place = *places.entry(key.clone()).or_insert(message.partition());
        assert_eq!(place, message.partition(), "a key stays in its partition");
        let before = latest.insert(key, number);
        assert!(before.is_none_or(|before| before < number), "{before:?} came before {number}");
    }
}

async fn every_codec_carries_a_large_batch(stage: Stage) {
    for codec in Compression::ALL {
        let topic = stage.topic(&format!("codec-{}", codec.id()), 1).await;
        let producer = stage
            .client
            .producer()
            .config(ProducerConfig::new().compression(codec).linger(Duration::from_millis(20)))
            .build();
        let Ok(producer) = producer else {
            assert!(![Compression::None, Compression::Lz4].contains(&codec), "{producer:?}");
            continue; // not in this build
        };
        let values: Vec<Vec<u8>> = (0..5000_usize)
            .map(|number| {
                let text = format!("record {number}, ").repeat(number % 40);
                text.into_bytes()
            })
            .collect();
        let records = values.iter().map(|value| Record::to(&topic).value(value));
        let failed = producer.enqueue_all(records).await.expect("enqueued").wait().await;
        assert!(failed.is_empty(), "{codec:?}: {failed:?}");
        let messages = read(&stage, &topic, values.len()).await;
        let same = messages.iter().zip(&values).all(|(message, value)| message.value() == Some(value));
        assert!(same, "{codec:?}");
    }
}

async fn many_records_at_once_are_all_written(stage: Stage) {
    let topic = stage.topic("many", 3).await;
    let producer = stage.producer();
    let values: Vec<String> = (0..20_000).map(|number| format!("{number:0100}")).collect();
    let receipts = producer.enqueue_all(values.iter().map(|value| Record::to(&topic).value(value))).await;
    let receipts = receipts.expect("enqueued");
    assert_eq!(receipts.len(), values.len());
    producer.flush(Duration::from_secs(20)).await.expect("flushed");
    assert!(receipts.wait().await.is_empty());
    let counters = producer.counters();
    assert_eq!((counters.enqueued, counters.acked, counters.failed), (20_000, 20_000, 0));
    let messages = read(&stage, &topic, values.len()).await;
    let mut found: Vec<&str> = messages.iter().map(text).collect();
    found.sort_unstable();
    assert!(found.iter().zip(&values).all(|(found, value)| found == value), "each once");
}

async fn a_record_that_is_too_large_comes_back(stage: Stage) {
    let topic = stage.topic_with("large", 1, &[("max.message.bytes", "2000")]).await;
    let producer = stage.producer();
    let large = vec![b'x'; 5000];
    let error = producer.send(Record::to(&topic).key("k").value(&large)).await.expect_err("too large");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::NotWritten), "{error}");
    let record = error.into_record().expect("the record comes back");
    assert_eq!((record.key_bytes(), record.value_bytes()), (Some(&b"k"[..]), Some(&large[..])));
    producer.send(Record::to(&topic).value("small")).await.expect("later records are written");
    let messages = read(&stage, &topic, 1).await;
    assert_eq!(text(&messages[0]), "small");
}

async fn a_topic_that_cannot_exist_is_an_error(stage: Stage) {
    let producer =
        stage.client.producer().config(ProducerConfig::new().max_block(Duration::from_millis(500))).build();
    let producer = producer.expect("right settings");
    let send = producer.send(Record::to("no such topic!").value("lost?"));
    let error = timeout(Duration::from_secs(10), send).await.expect("in time").expect_err("no such topic");
    assert_eq!(error.outcome(), Outcome::NotWritten);
    assert_eq!(error.record().and_then(Record::value_bytes), Some(&b"lost?"[..]));
}

async fn a_closed_producer_refuses(stage: Stage) {
    let topic = stage.topic("closed", 1).await;
    let producer = stage.producer();
    let receipt = producer.enqueue(Record::to(&topic).value("last")).await.expect("enqueued");
    producer.close(Duration::from_secs(20)).await.expect("closed");
    assert_eq!(receipt.outcome(), Some(Outcome::Written), "closing waits for what was enqueued");
    let error = producer.send(Record::to(&topic).value("late")).await.expect_err("closed");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::State, Outcome::NotWritten));
}
