//! The producer against the embedded cluster, on the simulated runtime.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::broker::{self, Action, Control, Matcher};
use crate::client::Client;
use crate::runtime::Runtime;
use crate::runtime::sim::SimRuntime;
use crate::types::{Offset, Partition};
use crate::wire::ApiKey;
use crate::{ErrorCode, ErrorKind};

struct World {
    runtime: Arc<dyn Runtime>,
    broker: broker::Cluster,
    client: Client,
}

impl World {
    async fn new(nodes: u16, partitions: i32) -> Self {
        let runtime: Arc<dyn Runtime> = SimRuntime::new(7);
        let broker = broker::Cluster::builder()
            .nodes(nodes)
            .topic("t", partitions)
            .runtime(Arc::clone(&runtime))
            .start()
            .await
            .expect("the cluster starts");
        let client = Client::builder()
            .bootstrap_servers(broker.bootstrap_servers())
            .runtime(Arc::clone(&runtime))
            .build()
            .await
            .expect("the settings are right");
        Self { runtime, broker, client }
    }

    fn producer(&self) -> Producer {
        self.client.producer().build().expect("the settings are right")
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
    let world = World::new(3, 4).await;
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
