//! Produces a few records, three ways. Uses the cluster in `BOOTSTRAP_SERVERS`, or an embedded one.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use carafe::Client;
use carafe::broker::Cluster;
use carafe::prelude::*;

#[tokio::main]
async fn main() -> carafe::Result<()> {
    let embedded = Cluster::builder().topic("greetings", 3).start().await?;
    let servers = std::env::var("BOOTSTRAP_SERVERS").unwrap_or_else(|_| embedded.bootstrap_servers());
    let client = Client::builder().bootstrap_servers(servers).build().await?;
    let producer = client.producer().build()?;

    // One record, acknowledged: nothing waits for a full batch.
    let delivery = producer.send(Record::to("greetings").key("pl").value("dzień dobry")).await?;
    println!("written to partition {} at {:?}", delivery.partition, delivery.offset);

    // Many records: hand them over, and await the receipts later.
    let mut receipts = Vec::new();
    for number in 0..1000 {
        let value = format!("hello {number}");
        receipts.push(producer.enqueue(Record::to("greetings").value(&value)).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    println!("1000 more are acknowledged");

    // A record that cannot be sent comes back.
    let huge = vec![0; 2_000_000];
    match producer.send(Record::to("greetings").value(&huge)).await {
        Ok(_) => println!("this cluster takes large records"),
        Err(error) => println!("refused: {error} ({:?})", error.outcome()),
    }
    producer.close(std::time::Duration::from_secs(5)).await
}
