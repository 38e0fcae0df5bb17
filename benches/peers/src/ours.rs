//! The workloads on carafe, with its defaults.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carafe::app::{App, HandlerResult, Message, Raw, by_key};
use carafe::client::Client;
use carafe::consumer::{ConsumerEvent, PartitionReader, StartOffset};
use carafe::producer::{Producer, ProducerConfig, Record};

use crate::measure::{VALUE_LEN, Values, Window};
use crate::{Failure, Job, TOPIC_PARTITIONS, Workload};

const MINUTE: Duration = Duration::from_secs(60);
const PRODUCER: &str = "batch 1000000 bytes, buffer 32 MiB, acks all, idempotent";
const CONSUMER: &str = "CRC checked, fetch 50 MiB, 1 MiB per partition, min 1 byte";

pub async fn run(job: &Job) -> Result<(), Failure> {
    if job.workload == Workload::Start {
        return start().await;
    }
    let client = Client::builder().bootstrap_servers(job.servers.as_str()).build().await?;
    match job.workload {
        Workload::Fire | Workload::Spread | Workload::Awaited | Workload::Single => {
            let mut config = ProducerConfig::new();
            if let Some(linger) = job.linger_ms
                && job.workload != Workload::Single
            {
                config = config.linger(Duration::from_millis(linger));
            }
            let producer = client.producer().config(config).build()?;
            produce(job, &producer).await?;
            producer.close(MINUTE).await?;
        }
        Workload::Drain => {
            let reader =
                client.partition_reader().topic(job.topic.as_str(), StartOffset::Earliest).build().await?;
            drain(job, &reader).await?;
        }
        Workload::Group => group(job, &client).await?,
        Workload::Handle => handle(job, &client).await?,
        Workload::Start => {}
    }
    client.close();
    Ok(())
}

async fn produce(job: &Job, producer: &Producer) -> Result<(), Failure> {
    let values = Values::new();
    let topic = producer.topic(job.topic.as_str()).await?;
    // Each workload has its own loop: a record that passes through a choice is moved once more.
    let spread = |index| {
        let record = Record::to(&topic).value(values.get(index));
        match job.partition(index) {
            Some(partition) => record.partition(partition),
            None => record,
        }
    };
    for index in 0..job.warm_up() {
        let _ = producer.enqueue(spread(index)).await?;
    }
    producer.flush(MINUTE).await?;
    let before = producer.counters().acked;
    let mut latencies = Vec::new();
    let mut waiting = VecDeque::new();
    if job.workload == Workload::Awaited {
        waiting.reserve_exact(job.window);
    }
    if job.workload == Workload::Single {
        latencies.reserve_exact(job.records as usize);
    }
    let window = Window::open();
    match job.workload {
        Workload::Single => {
            for index in 0..job.records {
                let begin = Instant::now();
                producer.send(Record::to(&topic).value(values.get(index))).await?;
                latencies.push(begin.elapsed());
            }
        }
        Workload::Awaited => {
            for index in 0..job.records {
                if waiting.len() == job.window
                    && let Some(oldest) = waiting.pop_front()
                {
                    oldest.await?;
                }
                waiting.push_back(producer.enqueue(Record::to(&topic).value(values.get(index))).await?);
            }
            for receipt in waiting {
                receipt.await?;
            }
        }
        Workload::Spread => {
            for index in 0..job.records {
                let _ = producer.enqueue(spread(index)).await?;
            }
            producer.flush(MINUTE).await?;
        }
        _ => {
            for index in 0..job.records {
                let _ = producer.enqueue(Record::to(&topic).value(values.get(index))).await?;
            }
            producer.flush(MINUTE).await?;
        }
    }
    // Whoever awaits its receipts has counted by itself; the counters may follow a moment later.
    let acked = match job.workload {
        Workload::Fire | Workload::Spread => producer.counters().acked - before,
        _ => job.records,
    };
    let linger = job.linger_ms.map_or("adaptive".to_owned(), |ms| format!("{ms} ms"));
    window.close(acked, &mut latencies, &format!("linger {linger}, {PRODUCER}"));
    if acked != job.records {
        return Err(format!("{acked} of {} records were acknowledged", job.records).into());
    }
    Ok(())
}

/// Counts the records of a batch and looks at each of them.
fn look(batch: &carafe::consumer::RecordBatch) -> u64 {
    let mut records = 0;
    for record in batch {
        records += u64::from(record.value.is_some_and(|value| value.len() == VALUE_LEN));
    }
    records
}

async fn drain(job: &Job, reader: &PartitionReader) -> Result<(), Failure> {
    let mut seen = 0;
    let mut window = Window::open();
    if job.warm > 0 {
        while seen < job.warm {
            seen += look(&reader.next().await?);
        }
        seen = 0;
        window = Window::open();
    }
    while seen < job.records {
        seen += look(&reader.next().await?);
    }
    window.close(seen, &mut [], CONSUMER);
    Ok(())
}

async fn group(job: &Job, client: &Client) -> Result<(), Failure> {
    // A group of its own, so that no run goes on where another one committed.
    let group = format!("peers-carafe-{}", std::process::id());
    let consumer = client.group_consumer(group).topics([job.topic.as_str()]).build()?;
    let mut seen = 0;
    let mut window = Window::open();
    let mut warm = job.warm;
    while seen < job.records {
        if let ConsumerEvent::Batch(batch) = consumer.next_event().await? {
            seen += look(&batch);
            if warm > 0 && seen >= warm {
                (seen, warm) = (0, 0);
                window = Window::open();
            }
        }
    }
    window.close(seen, &mut [], CONSUMER);
    consumer.close(MINUTE).await?;
    Ok(())
}

fn done() -> HandlerResult {
    Ok(())
}

/// A routed application with a handler per message, in lanes by key.
async fn handle(job: &Job, client: &Client) -> Result<(), Failure> {
    let seen = Arc::new(AtomicU64::new(0));
    let (count, topic) = (seen.clone(), job.topic.clone());
    let server = App::new(format!("peers-handle-{}", std::process::id()))
        .client(client.clone())
        .routes(move |routes| {
            let handler = move |_: Message<Raw>, _| {
                count.fetch_add(1, Ordering::Relaxed);
                async { done() }
            };
            routes.topic(topic.as_str()).handler(handler).virtual_partitions(by_key());
        })
        .build()
        .await?;
    let stop = server.handle();
    let running = tokio::spawn(server.run());
    let wait = async |records| {
        while seen.load(Ordering::Relaxed) < records {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    wait(job.warm).await;
    let window = Window::open();
    wait(job.warm + job.records).await;
    window.close(job.records, &mut [], "lanes by key, a handler per message");
    stop.stop();
    running.await??;
    Ok(())
}

/// Three embedded nodes, a client, and one acknowledged record, all in this process.
async fn start() -> Result<(), Failure> {
    let window = Window::open();
    let begin = Instant::now();
    let cluster = carafe::broker::Cluster::builder()
        .nodes(3)
        .topic("start", TOPIC_PARTITIONS)
        .listen("127.0.0.1:0")
        .start()
        .await?;
    let client = Client::builder().bootstrap_servers(cluster.bootstrap_servers()).build().await?;
    let producer = client.producer().build()?;
    producer.send(Record::to("start").value(&[b'x'; VALUE_LEN])).await?;
    let elapsed = begin.elapsed();
    window.close(1, &mut [elapsed], "three embedded nodes, 12 partitions, idempotent");
    cluster.shutdown();
    Ok(())
}
