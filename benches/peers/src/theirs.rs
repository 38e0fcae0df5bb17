//! The same workloads on librdkafka through the rdkafka crate, with its defaults unless said.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, FutureProducer, FutureRecord, Producer, ProducerContext,
};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode::QueueFull;

use crate::measure::{VALUE_LEN, Values, Window};
use crate::{Failure, Job, TOPIC_PARTITIONS, Workload};

const MINUTE: Duration = Duration::from_secs(60);
const PRODUCER: &str =
    "batch.size 1000000, batch.num.messages 10000, queue 100000 messages, acks all, idempotent";
const CONSUMER: &str = "check.crcs=true, fetch.max.bytes 50 MiB, 1 MiB per partition, min 1 byte";

#[derive(Clone, Default)]
struct Counter(Arc<Counts>);

#[derive(Default)]
struct Counts {
    acked: AtomicU64,
    failed: AtomicU64,
}

impl ClientContext for Counter {}

impl ProducerContext for Counter {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = if result.is_ok() { &self.0.acked } else { &self.0.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn producer_config(job: &Job) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &job.servers).set("acks", "all").set("enable.idempotence", "true");
    if let Some(linger) = job.linger_ms {
        config.set("linger.ms", linger.to_string());
    }
    config
}

pub async fn run(job: &Job) -> Result<(), Failure> {
    match job.workload {
        Workload::Fire | Workload::Spread => fire(job),
        Workload::Awaited => awaited(job).await,
        Workload::Single => single(job).await,
        Workload::Drain | Workload::Group => drain(job),
        Workload::Handle => Err("librdkafka has no applications".into()),
        Workload::Start => start().await,
    }
}

fn fire(job: &Job) -> Result<(), Failure> {
    let values = Values::new();
    let counter = Counter::default();
    let producer: BaseProducer<Counter> = producer_config(job).create_with_context(counter.clone())?;
    enqueue(job, &producer, &values, job.warm_up())?;
    producer.flush(MINUTE)?;
    let before = counter.0.acked.load(Ordering::Relaxed);
    let window = Window::open();
    enqueue(job, &producer, &values, job.records)?;
    producer.flush(MINUTE)?;
    let acked = counter.0.acked.load(Ordering::Relaxed) - before;
    window.close(
        acked,
        &mut [],
        &format!("BaseProducer, linger.ms {}, {PRODUCER}", job.linger_ms.unwrap_or(5)),
    );
    if acked != job.records {
        return Err(format!("{acked} of {} records were acknowledged", job.records).into());
    }
    Ok(())
}

fn enqueue(
    job: &Job,
    producer: &BaseProducer<Counter>,
    values: &Values,
    records: u64,
) -> Result<(), Failure> {
    for index in 0..records {
        let mut record = BaseRecord::<(), [u8]>::to(&job.topic).payload(values.get(index));
        record.partition = job.partition(index);
        while let Err((error, back)) = producer.send(record) {
            if !matches!(error, KafkaError::MessageProduction(QueueFull)) {
                return Err(error.into());
            }
            producer.poll(Duration::from_millis(1));
            record = back;
        }
        if index % 1024 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    Ok(())
}

async fn awaited(job: &Job) -> Result<(), Failure> {
    let values = Values::new();
    let producer: FutureProducer = producer_config(job).create()?;
    send_one(job, &producer, &values).await?;
    let mut waiting = VecDeque::with_capacity(job.window);
    let mut acked = 0;
    let window = Window::open();
    for index in 0..job.records {
        if waiting.len() == job.window
            && let Some(oldest) = waiting.pop_front()
        {
            settle(oldest, &mut acked).await?;
        }
        let mut record = FutureRecord::<(), [u8]>::to(&job.topic).payload(values.get(index));
        loop {
            match producer.send_result(record) {
                Ok(future) => {
                    waiting.push_back(future);
                    break;
                }
                Err((KafkaError::MessageProduction(QueueFull), back)) => {
                    record = back;
                    match waiting.pop_front() {
                        Some(oldest) => settle(oldest, &mut acked).await?,
                        None => tokio::task::yield_now().await,
                    }
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    for future in waiting {
        settle(future, &mut acked).await?;
    }
    window.close(
        acked,
        &mut [],
        &format!("FutureProducer, linger.ms {}, {PRODUCER}", job.linger_ms.unwrap_or(5)),
    );
    Ok(())
}

async fn settle(
    future: rdkafka::producer::future_producer::DeliveryFuture,
    acked: &mut u64,
) -> Result<(), Failure> {
    match future.await? {
        Ok(_) => *acked += 1,
        Err((error, _)) => return Err(error.into()),
    }
    Ok(())
}

async fn send_one(job: &Job, producer: &FutureProducer, values: &Values) -> Result<(), Failure> {
    let record = FutureRecord::<(), [u8]>::to(&job.topic).payload(values.get(0));
    producer.send(record, MINUTE).await.map_err(|(error, _)| error)?;
    Ok(())
}

async fn single(job: &Job) -> Result<(), Failure> {
    let values = Values::new();
    let producer: FutureProducer = producer_config(job).set("linger.ms", "0").create()?;
    for _ in 0..100 {
        send_one(job, &producer, &values).await?;
    }
    let mut latencies = Vec::with_capacity(job.records as usize);
    let window = Window::open();
    for index in 0..job.records {
        let begin = Instant::now();
        let record = FutureRecord::<(), [u8]>::to(&job.topic).payload(values.get(index));
        producer.send(record, MINUTE).await.map_err(|(error, _)| error)?;
        latencies.push(begin.elapsed());
    }
    window.close(job.records, &mut latencies, &format!("FutureProducer, linger.ms 0, {PRODUCER}"));
    Ok(())
}

fn drain(job: &Job) -> Result<(), Failure> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &job.servers)
        .set("group.id", format!("peers-rdkafka-{}", std::process::id()))
        .set("auto.offset.reset", "earliest")
        .set("check.crcs", "true");
    let consumer: BaseConsumer = config.create()?;
    if job.workload == Workload::Group {
        consumer.subscribe(&[&job.topic])?;
    } else {
        let mut partitions = TopicPartitionList::new();
        for partition in 0..TOPIC_PARTITIONS {
            partitions.add_partition_offset(&job.topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
    }
    let mut seen = 0;
    let mut warm = job.warm;
    let mut window = Window::open();
    while seen < job.records {
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        seen += u64::from(message?.payload().is_some_and(|value| value.len() == VALUE_LEN));
        if warm > 0 && seen >= warm {
            (seen, warm) = (0, 0);
            window = Window::open();
        }
    }
    window.close(seen, &mut [], &format!("BaseConsumer, {CONSUMER}"));
    Ok(())
}

/// Three nodes of librdkafka's mock cluster, and one acknowledged record.
async fn start() -> Result<(), Failure> {
    let window = Window::open();
    let begin = Instant::now();
    // The mock cluster must stay in one thread, and ends when `_stop` is dropped.
    let (_stop, stopped) = mpsc::channel::<()>();
    let (ready, servers) = mpsc::channel();
    std::thread::spawn(move || -> Result<(), KafkaError> {
        let cluster = MockCluster::new(3)?;
        cluster.create_topic("start", TOPIC_PARTITIONS, 3)?;
        let _ = ready.send(cluster.bootstrap_servers());
        let _ = stopped.recv();
        Ok(())
    });
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers.recv()?).set("enable.idempotence", "true").set("linger.ms", "0");
    let producer: FutureProducer = config.create()?;
    let record = FutureRecord::<(), [u8]>::to("start").payload(&[b'x'; VALUE_LEN][..]);
    producer.send(record, MINUTE).await.map_err(|(error, _)| error)?;
    let elapsed = begin.elapsed();
    window.close(1, &mut [elapsed], "mock cluster of three, 12 partitions, idempotent, linger.ms 0");
    Ok(())
}
