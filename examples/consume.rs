//! Consumes a topic as a member of a group, without the framework. Uses an embedded cluster.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use carafe::Client;
use carafe::broker::Cluster;
use carafe::consumer::ConsumerEvent;
use carafe::prelude::*;

#[tokio::main]
async fn main() -> carafe::Result<()> {
    let embedded = Cluster::builder().topic("numbers", 2).start().await?;
    let client = Client::builder().bootstrap_servers(embedded.bootstrap_servers()).build().await?;
    let producer = client.producer().build()?;
    for number in 0..100 {
        let text = format!("{number}");
        let _acknowledged_later = producer.enqueue(Record::to("numbers").key(&text).value(&text)).await?;
    }
    producer.flush(Duration::from_secs(5)).await?;

    let consumer = client.group_consumer("adders").topics(["numbers"]).build()?;
    let (mut count, mut sum) = (0, 0u64);
    while count < 100 {
        match consumer.next_event().await? {
            ConsumerEvent::Batch(batch) => {
                for record in &batch {
                    let text = std::str::from_utf8(record.value.unwrap_or_default()).unwrap_or_default();
                    sum += text.parse().unwrap_or(0);
                }
                count += batch.len();
            }
            ConsumerEvent::Assigned(partitions) => println!("assigned {partitions:?}"),
            ConsumerEvent::Revoked(revocation) => revocation.done(),
            other => println!("{other:?}"),
        }
    }
    println!("{count} numbers, sum {sum}");
    // Asking for the next batch stores the marks of those before; the last one is stored here.
    consumer.commit_stored().await?;
    consumer.close(Duration::from_secs(5)).await
}
