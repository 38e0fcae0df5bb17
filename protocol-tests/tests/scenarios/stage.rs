//! Where a scenario plays: a client, topics of its own, and deadlines.

use std::time::Duration;

use carafe::ErrorKind;
use carafe::admin::{NewTopic, OffsetSpec};
use carafe::broker::{Cluster, Control};
use carafe::client::Client;
use carafe::consumer::{ConsumerConfig, GroupConsumer, OwnedRecord};
use carafe::producer::{Producer, Record};
use carafe::types::TopicPartition;
use tokio::time::{Instant, timeout};

/// A scenario that takes longer hangs.
const EMBEDDED_LIMIT: Duration = Duration::from_secs(40);
const KAFKA_LIMIT: Duration = Duration::from_secs(120);

/// What a scenario gets.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) client: Client,
    servers: String,
    suffix: String,
    /// Of the embedded cluster alone.
    pub(crate) control: Option<Control>,
}

impl Stage {
    async fn new(servers: String, control: Option<Control>) -> Self {
        let client = Client::builder().bootstrap_servers(servers.as_str()).build().await;
        let suffix = format!("{:08x}", fastrand::u32(..));
        Self { client: client.expect("right settings"), servers, suffix, control }
    }

    /// Another client, with connections of its own.
    pub(crate) async fn another_client(&self, client_id: &str) -> Client {
        let builder = Client::builder().bootstrap_servers(self.servers.as_str()).client_id(client_id);
        builder.build().await.expect("right settings")
    }

    /// `host:port` of the nodes, separated by commas.
    pub(crate) fn servers(&self) -> &str {
        &self.servers
    }

    /// A name that no other run uses, for a topic or a group.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("carafe-test-{name}-{}", self.suffix)
    }

    /// Creates a topic with the cluster's default replication and waits until it can be used.
    pub(crate) async fn topic(&self, name: &str, partitions: i32) -> String {
        self.topic_with(name, partitions, &[]).await
    }

    pub(crate) async fn topic_with(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> String {
        let name = self.name(name);
        let mut topic = NewTopic::new(name.as_str()).partitions(partitions);
        for (key, value) in configs {
            topic = topic.config(*key, *value);
        }
        self.create(topic).await.expect("created");
        let partitions = (0..partitions).map(|p| (TopicPartition::new(name.as_str(), p), OffsetSpec::Latest));
        for (partition, offset) in self.client.admin().list_offsets(partitions).await {
            assert!(offset.is_ok(), "{partition} can be used: {offset:?}");
        }
        name
    }

    /// Creates a topic with the cluster's default replication, or with one replica where there is no default (before 2.4).
    pub(crate) async fn create(&self, topic: NewTopic) -> carafe::Result<()> {
        let create = async |topic: NewTopic| {
            let created = self.client.admin().create_topics([topic]).await?;
            created.into_values().next().expect("named").map(drop)
        };
        match create(topic.clone()).await {
            Err(error) if error.kind() == ErrorKind::UnsupportedVersion => {
                create(topic.replication_factor(1)).await
            }
            created => created,
        }
    }

    pub(crate) fn producer(&self) -> Producer {
        self.client.producer().build().expect("right settings")
    }

    /// Produces `count` records to one partition, with the values 0, 1, …
    pub(crate) async fn fill(&self, topic: &str, partition: i32, count: usize) {
        let producer = self.producer();
        let values: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        let records = values.iter().map(|value| Record::to(topic).partition(partition).value(value));
        let failed = producer.enqueue_all(records).await.expect("enqueued").wait().await;
        assert!(failed.is_empty(), "{failed:?}");
    }

    /// A member that notices rebalances quickly and commits nothing on its own.
    pub(crate) fn member(&self, group: &str, topic: &str) -> GroupConsumer {
        let config = ConsumerConfig::new()
            .heartbeat_interval(Duration::from_millis(100))
            .session_timeout(Duration::from_secs(6))
            .enable_auto_commit(false)
            .auto_store(false);
        let builder = self.client.group_consumer(group.to_owned()).config(config).topics([topic.to_owned()]);
        builder.build().expect("right settings")
    }

    /// The offset that a group has committed.
    pub(crate) async fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let mut offsets = self.client.admin().group_offsets(group.to_owned()).await.expect("an answer");
        let offset = offsets.remove(&TopicPartition::new(topic, partition))?;
        Some(offset.expect("an offset").offset.0)
    }
}

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Reads `count` messages.
pub(crate) async fn take(consumer: &GroupConsumer, count: usize) -> Vec<OwnedRecord> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let batch = timeout(Duration::from_secs(20), consumer.next()).await;
        messages.extend(batch.expect("records come in time").expect("a batch").messages());
    }
    messages
}

pub(crate) fn text(message: &OwnedRecord) -> &str {
    std::str::from_utf8(message.value().expect("a value")).expect("text")
}

/// Asks again until the answer is yes.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !check().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn on_embedded(scenario: impl AsyncFnOnce(Stage)) {
    let cluster = Cluster::builder().nodes(3).start().await.expect("a cluster");
    let stage = Stage::new(cluster.bootstrap_servers(), Some(cluster.control())).await;
    timeout(EMBEDDED_LIMIT, scenario(stage)).await.expect("the scenario ends in time");
}

/// Does nothing unless a cluster is named.
pub(crate) async fn on_kafka(scenario: impl AsyncFnOnce(Stage)) {
    let Ok(servers) = std::env::var("CARAFE_TEST_BOOTSTRAP") else { return };
    let stage = Stage::new(servers, None).await;
    timeout(KAFKA_LIMIT, scenario(stage)).await.expect("the scenario ends in time");
}
