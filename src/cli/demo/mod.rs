//! `carafe demo`: a stream of orders through a routed application, and an account of what became of each.

mod ledger;
mod progress;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use tokio::time::Instant;

use crate::admin::NewTopic;
use crate::app::{App, Batch, Consumer, Context, DeadLetter, HandlerResult, Json, Retry, by_key};
use crate::broker::Cluster;
use crate::client::Client;
use crate::producer::Record;
use crate::runtime;
use crate::{Error, ErrorKind, Result};
use ledger::Ledger;
use progress::Lanes;

/// Produces keyed orders and consumes them with a routed application: retries, dead letters, virtual partitions.
///
/// Runs on an embedded cluster unless --bootstrap-servers names one, and deletes its topics at the end. Without --orders
/// it runs until Ctrl-C. The last line is an account of all orders as JSON. The exit code is 0 only if nothing was lost and
/// nothing came out of order.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Use this cluster (host:port,…) instead of an embedded one
    #[arg(long, value_name = "LIST")]
    bootstrap_servers: Option<String>,
    /// Stop after this many orders
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    orders: Option<u64>,
    /// Draw keys and amounts from this seed
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Nodes of the embedded cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    nodes: u16,
    /// Leave the topics where they are
    #[arg(long)]
    keep_topics: bool,
}

const PARTITIONS: i32 = 12;
/// Workers of the application, and lanes of each partition.
const WORKERS: usize = 5;
const CUSTOMERS: u64 = 10_000;
/// A cluster that does not answer for this long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Orders that may be under way.
const AHEAD: u64 = 200_000;
/// Orders handed over between two looks at the distance.
const CHUNK: u64 = 500;
/// A run that makes no progress for this long has lost what is missing.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Order {
    order: u64,
    customer: u64,
    sequence: u32,
}

impl Demo {
    /// The demo's handlers fail on purpose; its progress line counts them.
    pub(super) const LOG: &'static str = "off";

    pub(super) async fn run(self) -> Result<ExitCode> {
        let started = Instant::now();
        let cluster = match &self.bootstrap_servers {
            Some(_) => None,
            None => Some(Cluster::builder().nodes(self.nodes).start().await?),
        };
        let servers = match (&self.bootstrap_servers, &cluster) {
            (Some(servers), _) => servers.clone(),
            (None, Some(cluster)) => cluster.bootstrap_servers(),
            (None, None) => unreachable!("either a cluster was named or one was started"),
        };
        let outcome = self.stream(&servers, started).await;
        if let Some(cluster) = cluster {
            cluster.shutdown();
        }
        outcome
    }

    async fn stream(&self, servers: &str, started: Instant) -> Result<ExitCode> {
        let client = match Client::builder().client_id("carafe-demo").bootstrap_servers(servers).build().await
        {
            Err(error) if error.kind() == ErrorKind::Config => return Ok(super::refuse(&error)),
            built => built?,
        };
        client.ready(CONNECT_TIMEOUT).await?;
        let run = format!("{:08x}", runtime::real().random() as u32);
        let (orders, dead) = (format!("carafe-demo-{run}-orders"), format!("carafe-demo-{run}-dead"));
        create_topics(&client, &[(&orders, PARTITIONS), (&dead, 1)]).await?;
        let ledger = Arc::new(Ledger::new(self.orders, CUSTOMERS));
        self.introduce(&run, servers, &orders, &dead, &ledger);
        let outcome = self.account(&client, &run, (&orders, &dead), &ledger, started).await;
        let hurried = outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::State);
        let stays = self.keep_topics || self.bootstrap_servers.is_none() || hurried;
        let deleted = if stays { Ok(()) } else { delete_topics(&client, [orders, dead]).await };
        client.close();
        let code = outcome?;
        deleted?;
        Ok(code)
    }

    /// What the run will show.
    fn introduce(&self, run: &str, servers: &str, orders: &str, dead: &str, ledger: &Ledger) {
        let (once, always) = ledger.failures();
        super::say(format_args!("demo {run} on {servers}"));
        super::say(format_args!("{orders}: {PARTITIONS} partitions, each in {WORKERS} lanes by customer;"));
        super::say(format_args!(
            "{WORKERS} workers handle them, \"lanes\" shows the busy ones of those seen."
        ));
        super::say(format_args!(
            "Failing on purpose: every {once}th order once, so that it is retried, and every"
        ));
        super::say(format_args!("{always}th always, so that it goes to {dead}."));
        if self.orders.is_none() {
            super::say(format_args!("Ctrl-C ends it, with an account of every order."));
        }
    }

    /// Runs the application and the producer to their end, and says what became of the orders.
    async fn account(
        &self,
        client: &Client,
        run: &str,
        (orders, dead): (&str, &str),
        ledger: &Arc<Ledger>,
        started: Instant,
    ) -> Result<ExitCode> {
        let lanes = Arc::new(Lanes::default());
        let app = application(client, run, orders, dead, ledger).listener(Arc::clone(&lanes));
        let server = app.build().await?;
        let handle = server.handle();
        let runtime = runtime::real();
        // Signals have a task of their own: the loop that produces may not give way for long.
        let stop = Arc::new(AtomicBool::new(false));
        let (told_twice, twice) = tokio::sync::oneshot::channel();
        let asked = Arc::clone(&stop);
        let signals = runtime.spawn(
            "demo signals",
            Box::pin(async move {
                runtime::termination().await;
                // The first one ends producing and drains, the second one ends it all.
                asked.store(true, Relaxed);
                runtime::termination().await;
                let _ = told_twice.send(());
            }),
        );
        let work = async {
            let outcome = self.produce_and_wait(client, orders, ledger, &stop).await;
            handle.stop();
            outcome
        };
        let all = async {
            let (served, worked) = tokio::join!(server.run(), work);
            served.and(worked)
        };
        let report = progress::report(Arc::clone(ledger), lanes, started);
        let progress = runtime.spawn("demo progress", Box::pin(report));
        let outcome = tokio::select! {
            biased; // Signals come first; they are rare.
            _ = twice => Err(Error::new(ErrorKind::State, "told to end twice: what was under way is not accounted for, and the topics stay")),
            outcome = all => outcome,
        };
        progress.abort();
        signals.abort();
        progress::end();
        outcome?;

        let totals = ledger.account();
        super::say(format_args!("{}", totals.json(started.elapsed())));
        Ok(if totals.lost == 0 && totals.out_of_order == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Produces until the last order or until `stop`, then waits for the handlers.
    async fn produce_and_wait(
        &self,
        client: &Client,
        topic: &str,
        ledger: &Ledger,
        stop: &AtomicBool,
    ) -> Result<()> {
        let producer = client.producer().build()?;
        let mut dice = fastrand::Rng::with_seed(self.seed);
        let mut sequences = vec![0u32; CUSTOMERS as usize];
        let mut receipts = std::collections::VecDeque::new();
        let mut value = String::new();
        let total = self.orders.unwrap_or(u64::MAX);
        let mut next = 0;
        while next < total && !stop.load(Relaxed) {
            let end = total.min(next + CHUNK);
            for order in next..end {
                use std::fmt::Write;
                let customer = dice.u64(..CUSTOMERS);
                let sequence = &mut sequences[customer as usize];
                *sequence = sequence.wrapping_add(1);
                value.clear();
                let _ = write!(
                    value,
                    r#"{{"order":{order},"customer":{customer},"sequence":{sequence},"amount":{}}}"#,
                    dice.u32(1..100_000)
                );
                ledger.begun(order);
                let key = customer.to_be_bytes();
                let record = Record::to(topic).key(&key).value(value.as_bytes());
                receipts.push_back((order, producer.enqueue(record).await?));
            }
            next = end;
            // Stay a bounded distance ahead of the handlers.
            while receipts.len() as u64 > AHEAD / 4 || next.saturating_sub(ledger.settled()) > AHEAD {
                match receipts.pop_front() {
                    Some((order, receipt)) => {
                        receipt.await?;
                        ledger.acknowledged(order);
                    }
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        }
        for (order, receipt) in receipts {
            receipt.await?;
            ledger.acknowledged(order);
        }
        wait_until_settled(ledger, next).await;
        Ok(())
    }
}

/// Waits until every order is handled or dead-lettered, or nothing moves any more.
async fn wait_until_settled(ledger: &Ledger, total: u64) {
    let mut last = (ledger.settled(), Instant::now());
    while ledger.settled() < total {
        tokio::time::sleep(Duration::from_millis(2)).await;
        if ledger.settled() != last.0 {
            last = (ledger.settled(), Instant::now());
        } else if last.1.elapsed() > PATIENCE {
            return;
        }
    }
}

async fn create_topics(client: &Client, topics: &[(&str, i32)]) -> Result<()> {
    let topics = topics.iter().map(|&(name, partitions)| NewTopic::new(name).partitions(partitions));
    for (name, result) in client.admin().create_topics(topics).await? {
        result
            .map_err(|error| Error::new(ErrorKind::Broker, format!("creating {name}")).with_source(error))?;
    }
    Ok(())
}

/// Kafka forgets the offsets of a topic with it, and a group without offsets with those.
async fn delete_topics(client: &Client, topics: [String; 2]) -> Result<()> {
    for (name, result) in client.admin().delete_topics(topics).await? {
        result
            .map_err(|error| Error::new(ErrorKind::Broker, format!("deleting {name}")).with_source(error))?;
    }
    Ok(())
}

fn application(client: &Client, run: &str, orders: &str, dead: &str, ledger: &Arc<Ledger>) -> App {
    let (handled, buried) = (ledger.clone(), ledger.clone());
    App::new(format!("carafe-demo-{run}")).client(client.clone()).concurrency(WORKERS).routes(|routes| {
        routes
            .topic(orders)
            .consumer(move || Orders { ledger: handled.clone() })
            .virtual_partitions(by_key())
            .retry(Retry::fixed(Duration::from_millis(5)))
            .dead_letter_queue(DeadLetter::to(dead).max_retries(3));
        routes.topic(dead).consumer(move || Dead { ledger: buried.clone() });
    })
}

/// Handles orders; some of them fail, as the ledger says.
struct Orders {
    ledger: Arc<Ledger>,
}

impl Consumer for Orders {
    type Payload = Json<Order>;

    async fn consume(&mut self, batch: &Batch<Json<Order>>, ctx: &mut Context) -> HandlerResult {
        for message in batch {
            let order = message.payload()?;
            if !self.ledger.handle(order.order, order.customer, order.sequence) {
                return Err(format!("order {} fails", order.order).into());
            }
            ctx.mark_as_consumed(message)?;
        }
        Ok(())
    }
}

/// Counts what really arrived in the dead letter topic.
struct Dead {
    ledger: Arc<Ledger>,
}

impl Consumer for Dead {
    type Payload = Json<Order>;

    async fn consume(&mut self, batch: &Batch<Json<Order>>, _ctx: &mut Context) -> HandlerResult {
        for message in batch {
            self.ledger.dead_lettered(message.payload()?.order);
        }
        Ok(())
    }
}
