//! Each order becomes an invoice exactly once: the invoice and the order's offset are one transaction. Uses an embedded cluster.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use carafe::broker::Cluster;
use carafe::consumer::{ConsumerConfig, StartOffset};
use carafe::prelude::*;
use carafe::producer::{ProducerConfig, TransactionError, TransactionErrorKind};

#[tokio::main]
async fn main() -> carafe::Result<()> {
    let embedded = Cluster::builder().topic("orders", 2).topic("invoices", 2).start().await?;
    let client = Client::builder().bootstrap_servers(embedded.bootstrap_servers()).build().await?;
    let plain = client.producer().build()?;
    for number in 0..100 {
        let text = format!("order {number}");
        plain.send(Record::to("orders").key(&text).value(&text)).await?;
    }

    // The id stays the same over restarts; offsets are committed by transactions, so by nothing else.
    let config = ProducerConfig::new().transactional_id("invoicing-1");
    let producer = client.producer().config(config).build()?;
    let config = ConsumerConfig::new().enable_auto_commit(false).auto_store(false);
    let consumer = client.group_consumer("invoicing").config(config).topics(["orders"]).build()?;
    let (mut invoices, mut attempts) = (0, 0);
    while invoices < 100 {
        let batch = consumer.next().await?;
        attempts += 1;
        let done = producer
            .transaction(async |tx| {
                for order in &batch {
                    drop(tx.enqueue(Record::to("invoices").key(order.key).value(order.value)).await?);
                }
                tx.send_offsets(consumer.offsets([batch.mark()]).await?).await?;
                // On purpose: the first attempt fails, and nothing of it is visible.
                if attempts == 1 { Err(Error::new(ErrorKind::Handler, "the power went out")) } else { Ok(()) }
            })
            .await;
        match done {
            Ok(()) => invoices += batch.len(),
            Err(error) => {
                let kind = TransactionError::of(&error).map(TransactionError::kind);
                if kind.is_some_and(|kind| kind != TransactionErrorKind::Abort) {
                    return Err(error);
                }
                println!("again, for {error}");
                if let Some(first) = batch.first_offset() {
                    consumer.seek(batch.topic_partition(), StartOffset::At(first))?;
                }
            }
        }
    }
    println!("{invoices} orders, {invoices} invoices, {attempts} transactions");
    consumer.close(Duration::from_secs(5)).await?;
    producer.close(Duration::from_secs(5)).await
}
