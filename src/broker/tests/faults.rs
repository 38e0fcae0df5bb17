//! Interception, leaders and nodes over the simulated network.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::support::{Bench, produce};
use crate::ErrorCode;
use crate::broker::log::test_batch;
use crate::broker::{Action, Cluster, Matcher};
use crate::runtime::Runtime;
use crate::wire::ApiKey;
use crate::wire::messages::{ListGroupsRequest, MetadataRequest};

async fn world(nodes: u16) -> Bench {
    Bench::start(Cluster::builder().nodes(nodes).topic("t", 1)).await
}

fn records() -> bytes::Bytes {
    test_batch(3, (-1, -1, -1), true)
}

#[tokio::test(start_paused = true)]
async fn requests_are_delayed_held_and_released() {
    let world = world(1).await;
    let control = world.cluster.control();
    let mut c = world.client(0).await;
    let start = Instant::now();
    let rule = control.intercept(Matcher::api(ApiKey::LIST_GROUPS), Action::Delay(Duration::from_secs(3)));
    c.ask(&ListGroupsRequest::default(), 4).await;
    assert!(start.elapsed() >= Duration::from_secs(3) && rule.hits() == 1);
    rule.remove();
    let hold = control.intercept(Matcher::api(ApiKey::LIST_GROUPS), Action::Hold);
    c.send(&ListGroupsRequest::default(), 4).await;
    let waiting = tokio::time::timeout(Duration::from_secs(60), c.frame()).await;
    assert!(waiting.is_err());
    hold.release();
    assert!(c.frame().await.is_ok());
    c.ask(&ListGroupsRequest::default(), 4).await;
    assert_eq!(control.requests(ApiKey::LIST_GROUPS), 3);
}

#[tokio::test(start_paused = true)]
async fn requests_and_answers_are_lost() {
    let world = world(1).await;
    let control = world.cluster.control();
    let request = produce("t", 0, records(), -1);
    let lost = control.intercept(Matcher::api(ApiKey::PRODUCE).nth(1), Action::DropRequest);
    assert!(world.client(0).await.try_ask(&request, 9).await.is_err());
    assert_eq!((lost.hits(), control.log("t", 0).len()), (1, 0));
    control.clear();
    control.intercept(Matcher::api(ApiKey::PRODUCE).nth(1), Action::DropAnswer);
    assert!(world.client(0).await.try_ask(&request, 9).await.is_err());
    assert_eq!(control.log("t", 0).len(), 3);
    control.clear();
    control.intercept(Matcher::api(ApiKey::PRODUCE).nth(1), Action::CutAfter(10));
    let mut c = world.client(0).await;
    c.send(&request, 9).await;
    let mut rest = Vec::new();
    let _ = c.stream.read_to_end(&mut rest).await;
    assert_eq!((rest.len(), control.log("t", 0).len()), (10, 6));
    control.clear();
    let code = ErrorCode::KAFKA_STORAGE_ERROR;
    control.intercept(Matcher::api(ApiKey::PRODUCE).nth(1), Action::Error(code));
    let refused = world.client(0).await.ask(&request, 9).await;
    assert_eq!(refused.responses[0].partition_responses[0].error_code, code.0);
    let log = control.log("t", 0);
    assert_eq!(log.len(), 6);
    assert_eq!(
        (log[4].offset.0, log[4].key.as_deref(), log[4].value.as_deref()),
        (4, Some(&b"k"[..]), Some(&b"val"[..]))
    );
}

#[tokio::test(start_paused = true)]
async fn a_moved_leader_is_named_to_the_producer() {
    let world = world(3).await;
    let control = world.cluster.control();
    let leader = control.partition("t", 0).unwrap().leader.unwrap();
    let next = (leader + 1) % 3;
    control.move_leader("t", 0, next).unwrap();
    let mut c = world.client(leader as usize).await;
    let refused = c.ask(&produce("t", 0, records(), -1), 12).await;
    let partition = &refused.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER.0);
    assert_eq!((partition.current_leader.leader_id, partition.current_leader.leader_epoch), (next, 1));
    assert_eq!(refused.node_endpoints[0].node_id, next);
    assert!(control.move_leader("t", 0, 9).is_err() && control.move_leader("u", 0, 0).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_leader_move_fails_what_waits_for_replicas() {
    let world = world(2).await;
    let control = world.cluster.control();
    control.set_replication_lag(Duration::MAX);
    let leader = control.partition("t", 0).unwrap().leader.unwrap();
    let mut c = world.client(leader as usize).await;
    c.send(&produce("t", 0, records(), -1), 9).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    control.move_leader("t", 0, 1 - leader).unwrap();
    let answer = c.receive::<crate::wire::messages::ProduceRequest>(9).await.unwrap();
    let code = answer.responses[0].partition_responses[0].error_code;
    assert_eq!(code, ErrorCode::NOT_LEADER_OR_FOLLOWER.0);
    assert!(control.log("t", 0).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_killed_node_is_silent_and_returns_on_its_port() {
    let world = world(2).await;
    let control = world.cluster.control();
    let mut c = world.client(0).await;
    let mut other = world.client(1).await;
    let leader = control.partition("t", 0).unwrap().leader.unwrap();
    let mut producer = world.client(leader as usize).await;
    producer.produce("t", 0, records()).await;
    control.kill_node(0);
    assert!(c.frame().await.is_err());
    assert!(world.runtime.connect(world.address(0)).await.is_err());
    let metadata = other.ask(&MetadataRequest { topics: None, ..Default::default() }, 12).await;
    assert_eq!(metadata.brokers.len(), 1);
    assert_eq!(metadata.topics[0].partitions[0].leader_id, 1);
    assert_eq!(control.nodes(), [1]);
    control.restart_node(0).await.unwrap();
    world.client(0).await.ask(&MetadataRequest { topics: None, ..Default::default() }, 12).await;
    let partition = control.partition("t", 0).unwrap();
    assert_eq!((partition.isr.len(), partition.log_ends[&0]), (2, 3));
    control.kill_node(0);
    control.restart_node(0).await.expect("its port is free at once");
    control.disconnect(1);
    assert!(other.frame().await.is_err());
    assert!(world.runtime.panics().is_empty());
}

/// As in Kafka: other nodes may name a leader that does not know of it yet.
#[tokio::test(start_paused = true)]
async fn a_new_topic_reaches_each_node_in_its_own_time() {
    let longest = Duration::from_secs(10);
    let world = Bench::start(Cluster::builder().nodes(3).topic("t", 1).topic_propagation(longest)).await;
    let leader = world.cluster.control().partition("t", 0).unwrap().leader.unwrap();
    let mut seen = Vec::new();
    let mut asked = vec![Vec::new(); 3];
    while seen.last() != Some(&ErrorCode::NONE.0) {
        let mut c = world.client(leader as usize).await;
        let produced = c.produce("t", 0, records()).await;
        seen.push(produced.responses[0].partition_responses[0].error_code);
        for (node, asked) in asked.iter_mut().enumerate() {
            let all = MetadataRequest { topics: None, ..Default::default() };
            asked.push(world.client(node).await.ask(&all, 12).await.topics.len());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    seen.dedup();
    let codes = [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::NOT_LEADER_OR_FOLLOWER, ErrorCode::NONE];
    assert_eq!(seen, codes.map(|code| code.0));
    for asked in &mut asked {
        asked.dedup();
        assert!(asked == &[0, 1] || asked == &[0] || asked == &[1], "a topic does not vanish: {asked:?}");
    }
    tokio::time::sleep(longest * 2).await;
    for node in 0..3 {
        let mut c = world.client(node).await;
        assert_eq!(c.ask(&MetadataRequest { topics: None, ..Default::default() }, 12).await.topics.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn discard_counts_and_keeps_nothing() {
    let world = Bench::start(Cluster::builder().topic("t", 1).discard()).await;
    let mut c = world.client(0).await;
    for _ in 0..10 {
        c.produce("t", 0, records()).await;
    }
    let control = world.cluster.control();
    assert_eq!((control.produced().records, control.log("t", 0).len()), (30, 0));
    assert_eq!(control.partition("t", 0).unwrap().high_watermark, 30);
}

#[tokio::test(start_paused = true)]
async fn wrong_settings_are_refused_all_at_once() {
    let error =
        Cluster::builder().nodes(0).listen("nowhere").default_partitions(0).start().await.unwrap_err();
    let text = error.to_string();
    for part in ["nodes: 0", "listen: \"nowhere\"", "default_partitions: 0"] {
        assert!(text.contains(part), "{text}");
    }
}
