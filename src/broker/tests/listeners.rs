//! Several listeners of every node.

use super::support::{Bench, Client};
use crate::broker::{Cluster, Listener};
use crate::runtime::Runtime;
use crate::wire::messages::{DescribeClusterRequest, FindCoordinatorRequest, MetadataRequest};

/// The addresses that a client is told which comes in at `address`.
async fn told(world: &Bench, address: &str) -> Vec<String> {
    let stream = world.runtime.connect(address.parse().unwrap()).await.unwrap();
    let mut client = Client::new(stream);
    let metadata = client.ask(&MetadataRequest::default(), 12).await;
    let told: Vec<_> =
        metadata.brokers.iter().map(|broker| format!("{}:{}", broker.host, broker.port)).collect();
    let cluster = client.ask(&DescribeClusterRequest::default(), 0).await;
    let again: Vec<_> =
        cluster.brokers.iter().map(|broker| format!("{}:{}", broker.host, broker.port)).collect();
    assert_eq!(told, again);
    let request = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    let found = client.ask(&request, 3).await;
    assert!(told.contains(&format!("{}:{}", found.host, found.port)), "{found:?}");
    told
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_the_addresses_of_the_listener_that_they_came_through() {
    let outside = Listener::new("OUTSIDE").advertised_host("outside.example");
    let world = Bench::start(Cluster::builder().nodes(2).listener(outside)).await;
    let inside = world.cluster.bootstrap_servers();
    assert_eq!(inside, world.cluster.bootstrap_servers_of("PLAINTEXT"));
    let outside = world.cluster.bootstrap_servers_of("OUTSIDE");
    assert_eq!(world.cluster.bootstrap_servers_of("NOWHERE"), "");
    for _ in 0..2 {
        let address = inside.split(',').next().unwrap();
        assert_eq!(told(&world, address).await.join(","), inside);
        let address = outside.split(',').next().unwrap().replace("outside.example", "127.0.0.1");
        assert_eq!(told(&world, &address).await.join(","), outside);
        // Both ports are opened again.
        let control = world.cluster.control();
        control.kill_node(0);
        control.restart_node(0).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_listener_is_told() {
    let builder = Cluster::builder().listener(Listener::new("PLAINTEXT").address("nowhere"));
    let error = builder.start().await.unwrap_err().to_string();
    for part in ["two of the name PLAINTEXT", "\"nowhere\" of PLAINTEXT is not HOST:PORT"] {
        assert!(error.contains(part), "{error}");
    }
}
