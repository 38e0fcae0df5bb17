//! Sends requests of the `kafka-protocol` crate over carafe's connections. Uses the cluster in `BOOTSTRAP_SERVERS`, or an
//! embedded one.
//!
//! ```sh
//! cargo run --features kafka-protocol,broker --example kafka_protocol
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use carafe::broker::Cluster;
use carafe::client::kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsTopic,
};
use carafe::client::kafka_protocol::messages::{DescribeClusterRequest, ListOffsetsRequest, TopicName};
use carafe::client::kafka_protocol::protocol::StrBytes;
use carafe::client::{Client, SendTo};
use carafe::types::TopicPartition;

#[tokio::main]
async fn main() -> carafe::Result<()> {
    let embedded = Cluster::builder().nodes(3).topic("greetings", 3).start().await?;
    let servers = std::env::var("BOOTSTRAP_SERVERS").unwrap_or_else(|_| embedded.bootstrap_servers());
    let client = Client::builder().bootstrap_servers(servers).build().await?;
    let timeout = Duration::from_secs(10);

    // Any broker will do.
    let answer = client.send_to(SendTo::Any, &DescribeClusterRequest::default(), timeout).await?;
    for broker in &answer.brokers {
        println!("broker {} at {}:{}", *broker.broker_id, broker.host.as_str(), broker.port);
    }

    // The leader of a partition alone knows the end of its log.
    let partition = TopicPartition::new("greetings", 0);
    let topic = ListOffsetsTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("greetings")))
        .with_partitions(vec![ListOffsetsPartition::default().with_timestamp(-1)]);
    let request = ListOffsetsRequest::default().with_topics(vec![topic]);
    let answer = client.send_to(SendTo::Leader(&partition), &request, timeout).await?;
    let end = &answer.topics[0].partitions[0];
    println!("{partition} ends at {} (error code {})", end.offset, end.error_code);
    Ok(())
}
