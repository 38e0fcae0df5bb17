//! Pauses as a quota asks for them, frozen nodes, rights, recreated topics, answers that come late.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::support::{Bench, produce};
use crate::broker::log::test_batch;
use crate::broker::{Action, Cluster, Matcher, Operation, Resource};
use crate::wire::ApiKey;
use crate::wire::messages::fetch::{FetchPartition, FetchTopic};
use crate::wire::messages::metadata::MetadataRequestTopic;
use crate::wire::messages::{
    FetchRequest, FindCoordinatorRequest, HeartbeatRequest, InitProducerIdRequest, ListGroupsRequest,
    MetadataRequest, MetadataResponse,
};
use crate::{ErrorCode, wire};

const SHORT: Duration = Duration::from_secs(1);

fn records() -> bytes::Bytes {
    test_batch(3, (-1, -1, -1), true)
}

fn fetch(session_id: i32, session_epoch: i32) -> FetchRequest {
    let partition = FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
    FetchRequest {
        max_bytes: 1 << 20,
        session_id,
        session_epoch,
        topics: vec![FetchTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() }],
        ..Default::default()
    }
}

fn metadata(name: &str) -> MetadataRequest {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() }
}

fn only(response: &MetadataResponse) -> (i16, wire::Uuid, usize) {
    let topic = &response.topics[0];
    (topic.error_code, topic.topic_id, topic.partitions.len())
}

#[tokio::test(start_paused = true)]
async fn a_throttled_connection_is_answered_and_then_not_read() {
    let world = Bench::start(Cluster::builder().topic("t", 1)).await;
    let control = world.cluster.control();
    let mut c = world.client(0).await;
    let pause = Duration::from_secs(3);
    let rule = control.intercept(Matcher::api(ApiKey::PRODUCE).nth(1), Action::Throttle(pause));
    let start = Instant::now();
    let answer = c.produce("t", 0, records()).await;
    assert_eq!((answer.throttle_time_ms, rule.hits()), (3000, 1));
    assert!(start.elapsed() < SHORT);
    assert_eq!(c.produce("t", 0, records()).await.throttle_time_ms, 0);
    assert!(start.elapsed() >= pause);
    assert_eq!(control.log("t", 0).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_fetch_brings_nothing_and_begins_no_session() {
    let world = Bench::start(Cluster::builder().topic("t", 1)).await;
    let control = world.cluster.control();
    let mut c = world.client(0).await;
    c.produce("t", 0, records()).await;
    control.intercept(Matcher::api(ApiKey::FETCH).nth(1), Action::Throttle(SHORT));
    control.intercept(Matcher::api(ApiKey::FETCH).nth(2), Action::Throttle(SHORT));
    let answer = c.ask(&fetch(0, 0), 12).await;
    assert_eq!((answer.throttle_time_ms, answer.session_id, answer.responses.len()), (1000, 0, 0));
    let id = c.ask(&fetch(0, 0), 12).await.session_id;
    assert!(id > 0);
    let throttled = c.ask(&fetch(id, 1), 12).await;
    assert_eq!((throttled.error_code, throttled.session_id, throttled.responses.len()), (0, id, 0));
    let answer = c.ask(&fetch(id, 2), 12).await;
    assert_eq!((answer.error_code, answer.session_id, answer.responses.len()), (0, id, 1));
}

#[tokio::test(start_paused = true)]
async fn a_held_answer_says_what_was_true_when_it_was_made() {
    let world = Bench::start(Cluster::builder().nodes(2).topic("t", 1)).await;
    let control = world.cluster.control();
    let leader = control.partition("t", 0).unwrap().leader.unwrap();
    let mut c = world.client(leader as usize).await;
    c.produce("t", 0, records()).await;
    let held = control.intercept(Matcher::api(ApiKey::FETCH).nth(1), Action::HoldAnswer);
    c.send(&fetch(0, 0), 12).await;
    assert!(timeout(SHORT, c.frame()).await.is_err());
    control.move_leader("t", 0, 1 - leader).unwrap();
    held.release();
    let answer = c.receive::<FetchRequest>(12).await.unwrap();
    let partition = &answer.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    assert!(partition.records.as_ref().is_some_and(|records| !records.is_empty()));
    let answer = c.ask(&fetch(answer.session_id, 1), 12).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER.0);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_node_says_nothing_and_others_take_over_when_its_session_ends() {
    let world = Bench::start(Cluster::builder().nodes(2).topic("t", 1)).await;
    let control = world.cluster.control();
    let leader = control.partition("t", 0).unwrap().leader.unwrap();
    let other = 1 - leader;
    control.move_coordinator("g", leader).unwrap();
    let mut c = world.client(leader as usize).await;
    control.freeze_node(leader);
    c.send(&produce("t", 0, records(), -1), 9).await;
    // New connections are accepted and hang as well.
    let mut late = world.client(leader as usize).await;
    late.send(&ListGroupsRequest::default(), 4).await;
    assert!(timeout(SHORT, c.frame()).await.is_err());
    assert!(timeout(SHORT, late.frame()).await.is_err());
    assert_eq!(control.partition("t", 0).unwrap().leader, Some(leader), "nobody knows yet");
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(control.partition("t", 0).unwrap().leader, Some(other));
    assert_eq!(control.nodes(), [other]);
    let mut healthy = world.client(other as usize).await;
    let found = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    assert_eq!(healthy.ask(&found, 4).await.coordinators[0].node_id, other);

    control.thaw_node(leader);
    let answer = c.receive::<crate::wire::messages::ProduceRequest>(9).await.unwrap();
    let code = answer.responses[0].partition_responses[0].error_code;
    assert_eq!(code, ErrorCode::NOT_LEADER_OR_FOLLOWER.0);
    assert!(late.frame().await.is_ok());
    assert_eq!(control.nodes().len(), 2);
    assert_eq!(control.partition("t", 0).unwrap().isr.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_short_freeze_changes_nothing() {
    let world = Bench::start(Cluster::builder().nodes(2).topic("t", 1)).await;
    let control = world.cluster.control();
    let leader = control.partition("t", 0).unwrap().leader.unwrap();
    let mut c = world.client(leader as usize).await;
    // The follower lets acks=all wait.
    control.freeze_node(1 - leader);
    c.send(&produce("t", 0, records(), -1), 9).await;
    assert!(timeout(Duration::from_millis(500), c.frame()).await.is_err());
    control.thaw_node(1 - leader);
    c.frame().await.unwrap();
    control.freeze_node(leader);
    c.send(&produce("t", 0, records(), -1), 9).await;
    assert!(timeout(SHORT, c.frame()).await.is_err());
    control.thaw_node(leader);
    c.frame().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let state = control.partition("t", 0).unwrap();
    assert_eq!((state.leader, state.leader_epoch, state.isr.len()), (Some(leader), 0, 2));
    assert_eq!(control.log("t", 0).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn denied_operations_are_refused_until_they_are_allowed() {
    let world = Bench::start(Cluster::builder().topic("t", 1)).await;
    let control = world.cluster.control();
    let mut c = world.client(0).await;
    let topic = Resource::Topic("t".to_owned());
    let refused = ErrorCode::TOPIC_AUTHORIZATION_FAILED.0;

    control.deny(topic.clone(), Operation::Read);
    let code = c.produce("t", 0, records()).await.responses[0].partition_responses[0].error_code;
    assert_eq!(code, 0, "writing is another right");
    let answer = c.ask(&fetch(0, -1), 12).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, refused);
    assert_eq!(only(&c.ask(&metadata("t"), 12).await).0, 0, "so is describing");

    control.deny(topic.clone(), Operation::Write);
    let code = c.produce("t", 0, records()).await.responses[0].partition_responses[0].error_code;
    assert_eq!(code, refused);

    control.deny(topic.clone(), Operation::Describe);
    assert_eq!(only(&c.ask(&metadata("t"), 12).await), (refused, wire::Uuid::ZERO, 0));
    assert!(c.ask(&MetadataRequest::default(), 12).await.topics.is_empty());
    control.allow(&topic);
    assert_eq!(only(&c.ask(&metadata("t"), 12).await).0, 0);
    assert_eq!(c.ask(&fetch(0, -1), 12).await.responses[0].partitions[0].error_code, 0);

    control.deny(Resource::Group("g".to_owned()), Operation::Read);
    let beat = HeartbeatRequest { group_id: "g".into(), ..Default::default() };
    assert_eq!(c.ask(&beat, 4).await.error_code, ErrorCode::GROUP_AUTHORIZATION_FAILED.0);
    control.deny(Resource::Cluster, Operation::Write);
    let init = InitProducerIdRequest { transactional_id: None, ..Default::default() };
    let code = c.ask(&init, 4).await.error_code;
    assert_eq!(code, ErrorCode::CLUSTER_AUTHORIZATION_FAILED.0);
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_has_another_id_and_nothing_in_it() {
    let world = Bench::start(Cluster::builder().topic("t", 2)).await;
    let control = world.cluster.control();
    let mut c = world.client(0).await;
    c.produce("t", 0, records()).await;
    let (_, old, _) = only(&c.ask(&metadata("t"), 12).await);
    control.recreate_topic("t", 3, &[]).unwrap();
    let (code, new, partitions) = only(&c.ask(&metadata("t"), 12).await);
    assert!(code == 0 && new != old && partitions == 3);
    assert!(control.log("t", 0).is_empty());
    control.create_partitions("t", 4).unwrap();
    assert_eq!(control.topics()["t"], 4);
    assert!(control.create_partitions("t", 4).is_err());
    c.produce("t", 0, records()).await;
    assert_eq!(control.delete_records("t", 0, 2), Some(2));
    assert_eq!(control.partition("t", 0).unwrap().log_start, 2);
    assert!(control.delete_topic("t") && !control.delete_topic("t"));
    assert_eq!(control.delete_records("t", 0, 2), None);
}
