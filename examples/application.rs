//! A routed application: JSON orders, invoices produced from them, retries and a dead letter queue. Uses an embedded
//! cluster, and stops when everything is handled.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use carafe::Client;
use carafe::broker::Cluster;
use carafe::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Order {
    id: u32,
    total: u32,
}

/// Writes an invoice for each order. The offset of an order is committed only after its invoice is acknowledged.
struct Orders;

impl Consumer for Orders {
    type Payload = Json<Order>;

    async fn consume(&mut self, batch: &Batch<Json<Order>>, ctx: &mut Context) -> HandlerResult {
        for message in batch {
            let order = message.payload()?;
            let (key, invoice) = (order.id.to_string(), format!("{} zł", order.total));
            ctx.producer().enqueue(Record::to("invoices").key(&key).value(&invoice)).await?;
            ctx.mark_as_consumed(message)?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> carafe::Result<()> {
    let embedded =
        Cluster::builder().topic("orders", 4).topic("invoices", 4).topic("orders.dead", 1).start().await?;
    let client =
        Client::builder().client_id("shop").bootstrap_servers(embedded.bootstrap_servers()).build().await?;

    let producer = client.producer().build()?;
    for id in 0..20 {
        // The seventh order is no JSON: it goes to the dead letter queue.
        let value =
            if id == 7 { "{oops".to_owned() } else { format!(r#"{{"id":{id},"total":{}}}"#, id * 10) };
        producer.send(Record::to("orders").key(id.to_string()).value(&value)).await?;
    }

    let seen = Arc::new(AtomicU32::new(0));
    let (invoices, dead) = (seen.clone(), seen.clone());
    let server = App::new("shop")
        .client(client)
        .routes(|routes| {
            routes
                .topic("orders")
                .consumer(|| Orders)
                .retry(Retry::fixed(Duration::from_millis(10)))
                .dead_letter_queue(DeadLetter::to("orders.dead").max_retries(2));
            routes.topic("invoices").handler(move |invoice: Message<Text>, _| {
                invoices.fetch_add(1, Ordering::Relaxed);
                async move {
                    println!("invoice {}", invoice.payload()?);
                    Ok(())
                }
            });
            routes.topic("orders.dead").handler(move |letter: Message<Raw>, _| {
                dead.fetch_add(1, Ordering::Relaxed);
                async move {
                    println!("dead letter from offset {}", letter.offset());
                    Ok(())
                }
            });
        })
        .build()
        .await?;

    let handle = server.handle();
    tokio::spawn(async move {
        while seen.load(Ordering::Relaxed) < 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        handle.stop();
    });
    server.run().await
}
