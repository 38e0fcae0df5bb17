//! Every API in every version over the simulated network, and what a conversation must look like.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::support::{Bench, Client, produce};
use crate::ErrorCode;
use crate::broker::handlers::SERVED;
use crate::broker::log::test_batch;
use crate::broker::{Action, Cluster, Matcher, Operation, Resource};
use crate::wire::frame::decode_response_header;
use crate::wire::messages as m;
use crate::wire::messages::add_partitions_to_txn::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use crate::wire::messages::create_topics::CreatableTopic;
use crate::wire::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use crate::wire::messages::describe_configs::DescribeConfigsResource;
use crate::wire::messages::describe_producers::TopicRequest;
use crate::wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use crate::wire::messages::join_group::JoinGroupRequestProtocol;
use crate::wire::messages::leave_group::MemberIdentity;
use crate::wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::wire::messages::metadata::MetadataRequestTopic;
use crate::wire::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::wire::messages::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use crate::wire::messages::offset_for_leader_epoch::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use crate::wire::messages::sync_group::SyncGroupRequestAssignment;
use crate::wire::messages::txn_offset_commit::TxnOffsetCommitRequestTopic;
use crate::wire::messages::update_features::FeatureUpdateKey;
use crate::wire::messages::write_txn_markers::{WritableTxnMarker, WritableTxnMarkerTopic};
use crate::wire::{ApiKey, Decode, Request, Uuid};

const TOPIC: &str = "t";

fn records() -> Bytes {
    test_batch(5, (-1, -1, -1), true)
}

async fn world() -> Bench {
    Bench::start(Cluster::builder().topic(TOPIC, 2)).await
}

fn versions(key: ApiKey) -> impl Iterator<Item = i16> {
    let (_, range) = SERVED.iter().find(|(served, _)| *served == key).unwrap();
    let lowest = if key == ApiKey::PRODUCE { 3 } else { range.min };
    lowest..=range.max
}

async fn topic_id(client: &mut Client) -> Uuid {
    let asked = MetadataRequestTopic { name: Some(TOPIC.into()), ..Default::default() };
    let metadata =
        client.ask(&m::MetadataRequest { topics: Some(vec![asked]), ..Default::default() }, 12).await;
    metadata.topics[0].topic_id
}

/// Sends what `make` builds in every version, once as it is and once answered with an injected error.
async fn every_version<R: Request>(world: &Bench, client: &mut Client, make: impl Fn(i16) -> R)
where
    R::Response: Decode + std::fmt::Debug,
{
    for version in versions(R::KEY) {
        let request = make(version);
        client.ask(&request, version).await;
        let rule = world.cluster.control().intercept(
            Matcher::api(R::KEY).client_id("tester").times(1),
            Action::Error(ErrorCode::UNKNOWN_SERVER_ERROR),
        );
        let refused = format!("{:?}", client.ask(&request, version).await);
        assert_eq!(rule.hits(), 1);
        assert!(refused.contains("error_code: -1"), "{} {version}: {refused}", R::NAME);
        rule.remove();
    }
}

#[tokio::test(start_paused = true)]
async fn every_api_answers_in_every_version() {
    let world = world().await;
    let mut c = world.client(0).await;
    let id = topic_id(&mut c).await;
    let by_id = |version, from| if version >= from { id } else { Uuid::ZERO };
    let by_name = |version, from| if version < from { TOPIC.into() } else { Default::default() };
    every_version(&world, &mut c, |version| {
        let mut request = produce(TOPIC, 0, records(), -1);
        request.topic_data[0].name = by_name(version, 13);
        request.topic_data[0].topic_id = by_id(version, 13);
        request
    })
    .await;
    every_version(&world, &mut c, |_| m::ListOffsetsRequest {
        topics: vec![ListOffsetsTopic {
            name: TOPIC.into(),
            partitions: vec![ListOffsetsPartition { timestamp: 0, ..Default::default() }],
        }],
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |_| m::MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { name: Some(TOPIC.into()), ..Default::default() }]),
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |version| m::OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: by_name(version, 10),
            topic_id: by_id(version, 10),
            partitions: vec![OffsetCommitRequestPartition { committed_offset: 3, ..Default::default() }],
        }],
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |version| m::OffsetFetchRequest {
        group_id: if version < 8 { "g".into() } else { Default::default() },
        topics: Some(if version < 8 {
            vec![OffsetFetchRequestTopic { name: TOPIC.into(), partition_indexes: vec![0, 1].into() }]
        } else {
            Vec::new()
        }),
        groups: if version < 8 {
            Vec::new()
        } else {
            vec![OffsetFetchRequestGroup {
                group_id: "g".into(),
                topics: Some(vec![OffsetFetchRequestTopics {
                    name: by_name(version, 10),
                    topic_id: by_id(version, 10),
                    partition_indexes: vec![0, 1].into(),
                }]),
                ..Default::default()
            }]
        },
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |version| m::FindCoordinatorRequest {
        key: if version < 4 { "g".into() } else { Default::default() },
        coordinator_keys: if version < 4 { Vec::new() } else { vec!["g".into(), "h".into()] },
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |_| join("g", "")).await;
    every_version(&world, &mut c, |_| m::HeartbeatRequest::default()).await;
    every_version(&world, &mut c, |version| m::LeaveGroupRequest {
        group_id: "g".into(),
        members: if version < 3 { Vec::new() } else { vec![MemberIdentity::default()] },
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |_| m::SyncGroupRequest::default()).await;
    every_version(&world, &mut c, |_| m::DescribeGroupsRequest {
        groups: vec!["g".into(), "unknown".into()],
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |_| m::ListGroupsRequest::default()).await;
    every_version(&world, &mut c, |_| m::ApiVersionsRequest {
        client_software_name: "carafe".into(),
        client_software_version: "0.1.0".into(),
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |version| m::CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: format!("created-{version}").into(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        }],
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |version| m::DeleteTopicsRequest {
        topic_names: if version < 6 { vec!["created-2".into()] } else { Vec::new() },
        topics: if version < 6 { Vec::new() } else { vec![Default::default()] },
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |_| m::DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: TOPIC.into(),
            partitions: vec![DeleteRecordsPartition { partition_index: 0, offset: 1 }],
        }],
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |_| m::InitProducerIdRequest::default()).await;
    every_version(&world, &mut c, |_| m::OffsetForLeaderEpochRequest {
        topics: vec![OffsetForLeaderTopic {
            topic: TOPIC.into(),
            partitions: vec![OffsetForLeaderPartition { partition: 0, ..Default::default() }],
        }],
        ..Default::default()
    })
    .await;
    transactional_requests(&world, &mut c).await;
    every_version(&world, &mut c, |_| m::DescribeConfigsRequest {
        resources: [(2, TOPIC), (2, "unknown"), (4, "0"), (4, ""), (8, "x")]
            .into_iter()
            .map(|(kind, name)| DescribeConfigsResource {
                resource_type: kind,
                resource_name: name.into(),
                configuration_keys: None,
            })
            .collect(),
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |_| m::CreatePartitionsRequest {
        topics: vec![crate::wire::messages::create_partitions::CreatePartitionsTopic {
            name: TOPIC.into(),
            count: 3,
            assignments: None,
        }],
        ..Default::default()
    })
    .await;
    every_version(&world, &mut c, |_| m::DeleteGroupsRequest { groups_names: vec!["x".into()] }).await;
    every_version(&world, &mut c, |_| m::OffsetDeleteRequest::default()).await;
    every_version(&world, &mut c, |_| m::DescribeClusterRequest::default()).await;
    every_version(&world, &mut c, |_| m::DescribeTopicPartitionsRequest {
        topics: vec![Default::default()],
        response_partition_limit: 10,
        ..Default::default()
    })
    .await;
    assert!(world.runtime.panics().is_empty());
}

async fn transactional_requests(bench: &Bench, c: &mut Client) {
    every_version(bench, c, |version| {
        let topics = vec![AddPartitionsToTxnTopic { name: TOPIC.into(), partitions: vec![0, 1].into() }];
        if version < 4 {
            m::AddPartitionsToTxnRequest {
                v3_and_below_transactional_id: "x".into(),
                v3_and_below_topics: topics,
                ..Default::default()
            }
        } else {
            let transaction = AddPartitionsToTxnTransaction { topics, ..Default::default() };
            m::AddPartitionsToTxnRequest { transactions: vec![transaction], ..Default::default() }
        }
    })
    .await;
    every_version(bench, c, |_| m::AddOffsetsToTxnRequest::default()).await;
    every_version(bench, c, |_| m::EndTxnRequest::default()).await;
    every_version(bench, c, |_| m::WriteTxnMarkersRequest {
        markers: vec![WritableTxnMarker {
            producer_id: 77,
            topics: vec![WritableTxnMarkerTopic { name: TOPIC.into(), partition_indexes: vec![0].into() }],
            ..Default::default()
        }],
    })
    .await;
    every_version(bench, c, |_| m::TxnOffsetCommitRequest {
        group_id: "g".into(),
        topics: vec![TxnOffsetCommitRequestTopic {
            name: TOPIC.into(),
            partitions: vec![Default::default()],
            ..Default::default()
        }],
        ..Default::default()
    })
    .await;
    every_version(bench, c, |_| m::UpdateFeaturesRequest {
        feature_updates: vec![FeatureUpdateKey {
            feature: "transaction.version".into(),
            max_version_level: 2,
            ..Default::default()
        }],
        ..Default::default()
    })
    .await;
    every_version(bench, c, |_| m::DescribeProducersRequest {
        topics: vec![TopicRequest { name: TOPIC.into(), partition_indexes: vec![0, 9].into() }],
    })
    .await;
    every_version(bench, c, |_| m::DescribeTransactionsRequest { transactional_ids: vec!["x".into()] }).await;
    every_version(bench, c, |_| m::ListTransactionsRequest::default()).await;
}

fn join(group: &str, member_id: &str) -> m::JoinGroupRequest {
    m::JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::new() }],
        ..Default::default()
    }
}

fn fetch(version: i16, id: Uuid, offset: i64) -> FetchRequest {
    FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: if version >= 7 { 0 } else { -1 },
        topics: vec![FetchTopic {
            topic: if version < 13 { TOPIC.into() } else { Default::default() },
            topic_id: if version < 13 { Uuid::ZERO } else { id },
            partitions: vec![FetchPartition {
                partition: 0,
                fetch_offset: offset,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            }],
        }],
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn fetches_bring_the_stored_batches_in_every_version() {
    let world = world().await;
    let mut c = world.client(0).await;
    let id = topic_id(&mut c).await;
    let first = c.produce(TOPIC, 0, records()).await;
    let big = test_batch(60, (-1, -1, -1), true);
    c.produce(TOPIC, 0, big.clone()).await;
    assert_eq!(first.responses[0].partition_responses[0].base_offset, 0);
    for version in versions(ApiKey::FETCH) {
        let answer: FetchResponse = c.ask(&fetch(version, id, 2), version).await;
        let partition = &answer.responses[0].partitions[0];
        assert_eq!((partition.error_code, partition.high_watermark), (0, 65), "{version}");
        let bytes = partition.records.as_ref().unwrap();
        let lengths = (records().len(), big.len());
        assert_eq!(bytes.len(), lengths.0 + lengths.1);
        assert_eq!(bytes[lengths.0..lengths.0 + 8], 5i64.to_be_bytes());
        assert_eq!(bytes[lengths.0 + 16..], big[16..], "only offset and epoch may differ");
        assert_eq!(answer.session_id != 0, version >= 7);
        let beyond: FetchResponse = c.ask(&fetch(version, id, 66), version).await;
        let code = beyond.responses[0].partitions[0].error_code;
        assert_eq!(code, ErrorCode::OFFSET_OUT_OF_RANGE.0);
    }
    let mut stranger = fetch(17, Uuid([9; 16]), 0);
    let answer = c.ask(&stranger, 17).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, ErrorCode::UNKNOWN_TOPIC_ID.0);
    stranger = fetch(12, id, 0);
    stranger.topics[0].partitions[0].current_leader_epoch = 4;
    let answer = c.ask(&stranger, 12).await;
    let partition = &answer.responses[0].partitions[0];
    assert_eq!(partition.error_code, ErrorCode::UNKNOWN_LEADER_EPOCH.0);
    assert_eq!((partition.current_leader.leader_id, partition.current_leader.leader_epoch), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_answers_only_news() {
    let world = world().await;
    let mut c = world.client(0).await;
    c.produce(TOPIC, 0, records()).await;
    let first = c.ask(&fetch(12, Uuid::ZERO, 0), 12).await;
    assert_eq!(first.responses.len(), 1);
    let next = |epoch, topics| FetchRequest {
        session_id: first.session_id,
        session_epoch: epoch,
        topics,
        ..fetch(12, Uuid::ZERO, 5)
    };
    let moved = c.ask(&next(1, fetch(12, Uuid::ZERO, 5).topics), 12).await;
    assert_eq!((moved.session_id, moved.responses.len()), (first.session_id, 0));
    c.produce(TOPIC, 0, records()).await;
    let news = c.ask(&next(2, Vec::new()), 12).await;
    assert_eq!(news.responses[0].partitions[0].high_watermark, 10);
    let replayed = c.ask(&next(2, Vec::new()), 12).await;
    assert_eq!(replayed.error_code, ErrorCode::INVALID_FETCH_SESSION_EPOCH.0);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_ends_with_data_or_with_time() {
    let world = world().await;
    let (mut reader, mut writer) = (world.client(0).await, world.client(0).await);
    let start = Instant::now();
    let empty = reader.ask(&fetch(12, Uuid::ZERO, 0), 12).await;
    assert!(empty.responses[0].partitions[0].records.as_ref().is_none_or(Bytes::is_empty));
    assert!(start.elapsed() >= Duration::from_millis(500));
    reader.send(&FetchRequest { max_wait_ms: 60_000, ..fetch(12, Uuid::ZERO, 0) }, 12).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    writer.produce(TOPIC, 0, records()).await;
    let full = reader.receive::<FetchRequest>(12).await.unwrap();
    assert_eq!(full.responses[0].partitions[0].high_watermark, 5);
    assert!(start.elapsed() < Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn acks_all_waits_for_the_replicas() {
    let lag = Duration::from_millis(300);
    let world = Bench::start(Cluster::builder().nodes(2).topic(TOPIC, 1).replication_lag(lag)).await;
    let mut c = world.client(0).await;
    let start = Instant::now();
    c.ask(&produce(TOPIC, 0, records(), 1), 9).await;
    assert!(start.elapsed() < lag);
    c.produce(TOPIC, 0, records()).await;
    assert!(start.elapsed() >= lag);
    world.cluster.control().set_replication_lag(Duration::MAX);
    let late = c.produce(TOPIC, 0, records()).await;
    assert_eq!(late.responses[0].partition_responses[0].error_code, ErrorCode::REQUEST_TIMED_OUT.0);
    assert!(start.elapsed() >= Duration::from_millis(1000));
}

#[tokio::test(start_paused = true)]
async fn acks_none_has_no_answer_and_fails_by_closing() {
    let world = world().await;
    let mut c = world.client(0).await;
    c.send(&produce(TOPIC, 0, records(), 0), 9).await;
    // The next answer belongs to the next request.
    let answer = c.produce(TOPIC, 0, records()).await;
    assert_eq!(answer.responses[0].partition_responses[0].base_offset, 5);
    c.send(&produce(TOPIC, 99, records(), 0), 9).await;
    assert!(c.frame().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_group_forms_over_the_network() {
    let world = Bench::start(Cluster::builder().nodes(3).topic(TOPIC, 2)).await;
    let coordinator = world.cluster.control().group("g").map_or(0, |group| group.coordinator);
    let mut asking = world.client(0).await;
    let asked = m::FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    let node = asking.ask(&asked, 0).await.node_id as usize;
    assert!(coordinator == 0 && node < 3);
    let wrong = world.client((node + 1) % 3).await.ask(&join("g", ""), 9).await;
    assert_eq!(wrong.error_code, ErrorCode::NOT_COORDINATOR.0);
    let (mut a, mut b) = (world.client(node).await, world.client(node).await);
    let a_id = a.ask(&join("g", ""), 9).await.member_id;
    assert!(a_id.starts_with("tester-"), "{a_id}");
    assert_eq!(a.ask(&join("g", &a_id), 9).await.generation_id, 1);
    let b_id = b.ask(&join("g", ""), 9).await.member_id;
    b.send(&join("g", &b_id), 9).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let a_joined = a.ask(&join("g", &a_id), 9).await;
    let b_joined = b.receive::<m::JoinGroupRequest>(9).await.unwrap();
    assert_eq!((a_joined.generation_id, b_joined.generation_id, a_joined.members.len()), (2, 2, 2));
    let sync = |member_id: &crate::wire::Str, assignments| m::SyncGroupRequest {
        group_id: "g".into(),
        generation_id: 2,
        member_id: member_id.clone(),
        assignments,
        ..Default::default()
    };
    b.send(&sync(&b_id, Vec::new()), 3).await;
    let assignment =
        SyncGroupRequestAssignment { member_id: b_id.clone(), assignment: Bytes::from_static(b"yours") };
    a.ask(&sync(&a_id, vec![assignment]), 3).await;
    assert_eq!(&b.receive::<m::SyncGroupRequest>(3).await.unwrap().assignment[..], b"yours");
    let group = world.cluster.control().group("g").unwrap();
    assert_eq!((group.state.as_str(), group.members.len(), group.generation), ("Stable", 2, 2));
    let b_again = m::HeartbeatRequest {
        group_id: "g".into(),
        generation_id: 2,
        member_id: b_id.clone(),
        ..Default::default()
    };
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(b.ask(&b_again, 4).await.error_code, 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The first member has been silent for its session timeout.
    assert_eq!(b.ask(&b_again, 4).await.error_code, ErrorCode::REBALANCE_IN_PROGRESS.0);
}

#[tokio::test(start_paused = true)]
async fn unknown_versions_of_api_versions_are_answered_in_version_0() {
    let world = world().await;
    let mut c = world.client(0).await;
    c.stream.write_all(&[0, 0, 0, 11, 0, 18, 0, 99, 0, 0, 0, 7, 255, 255, 0]).await.unwrap();
    let frame = c.frame().await.unwrap();
    let (correlation, mut body) = decode_response_header(frame, ApiKey::API_VERSIONS, 0).unwrap();
    let answer = m::ApiVersionsResponse::decode(&mut body, 0).unwrap();
    assert_eq!((correlation, answer.error_code), (7, ErrorCode::UNSUPPORTED_VERSION.0));
    assert_eq!(answer.api_keys.len(), SERVED.len());
}

#[tokio::test(start_paused = true)]
async fn hostile_bytes_cost_their_connection_alone() {
    let world = Bench::start(Cluster::builder().topic(TOPIC, 1).request_max_bytes(4096)).await;
    let mut good = world.client(0).await;
    let frames: &[&[u8]] = &[
        &[255, 255, 255, 255],
        &[127, 255, 255, 255, 0, 3],
        &[0, 0, 0, 2, 1, 1],
        &[0, 0, 0, 8, 0, 3, 0, 0, 0, 0, 0, 1],
        // Metadata 9 with an array that claims two thousand million elements.
        &[0, 0, 0, 16, 0, 3, 0, 9, 0, 0, 0, 1, 255, 255, 0, 255, 255, 255, 255, 7],
        // An API that is not served, and a version that is not.
        &[0, 0, 0, 10, 0, 24, 0, 0, 0, 0, 0, 1, 255, 255],
        &[0, 0, 0, 10, 0, 3, 0, 77, 0, 0, 0, 1, 255, 255],
        b"GET / HTTP/1.1\r\n\r\n",
    ];
    for frame in frames {
        let mut bad = world.client(0).await;
        bad.stream.write_all(frame).await.unwrap();
        let answer = bad.frame().await;
        assert!(answer.is_err(), "{frame:?}");
        topic_id(&mut good).await;
    }
    let mut dice = fastrand::Rng::with_seed(3);
    for _ in 0..300 {
        let mut bad = world.client(0).await;
        let (key, range) = SERVED[dice.usize(..SERVED.len())];
        let mut body = vec![0, key.0 as u8, 0, dice.i16(range.min..=range.max) as u8, 0, 0, 0, 1, 255, 255];
        for _ in 0..dice.usize(..60) {
            body.push(if dice.bool() { dice.u8(..4) } else { dice.u8(..) });
        }
        bad.stream.write_all(&(body.len() as i32).to_be_bytes()).await.unwrap();
        bad.stream.write_all(&body).await.unwrap();
        // Whatever it means: an answer, silence or the end, but no panic.
        let _ = tokio::time::timeout(Duration::from_secs(1), bad.frame()).await;
    }
    topic_id(&mut good).await;
    assert!(world.runtime.panics().is_empty(), "{:?}", world.runtime.panics());
}

#[tokio::test(start_paused = true)]
async fn a_group_may_be_reset_to_offsets_that_are_none() {
    let world = world().await;
    let mut c = world.client(0).await;
    let partitions = vec![OffsetCommitRequestPartition { committed_offset: -2, ..Default::default() }];
    let request = m::OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic { name: TOPIC.into(), partitions, ..Default::default() }],
        ..Default::default()
    };
    assert_eq!(c.ask(&request, 8).await.topics[0].partitions[0].error_code, 0);
    assert_eq!(world.cluster.control().committed("g")[&(TOPIC.to_owned(), 0)], -2);
}

#[tokio::test(start_paused = true)]
async fn transactional_ids_have_coordinators_and_the_cluster_a_version_of_transactions() {
    let bench = Bench::start(Cluster::builder().nodes(3)).await;
    let control = bench.cluster.control();
    let mut c = bench.client(0).await;
    control.move_transaction_coordinator("tx", 2).unwrap();
    let find =
        m::FindCoordinatorRequest { key_type: 1, coordinator_keys: vec!["tx".into()], ..Default::default() };
    let found = &c.ask(&find, 4).await.coordinators[0];
    assert_eq!((found.error_code, found.node_id), (0, 2));
    control.deny(Resource::TransactionalId("tx".into()), Operation::Describe);
    let found = &c.ask(&find, 4).await.coordinators[0];
    assert_eq!(found.error_code, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED.0);

    let versions = m::ApiVersionsRequest {
        client_software_name: "carafe".into(),
        client_software_version: "0".into(),
        ..Default::default()
    };
    let first = c.ask(&versions, 3).await;
    let level = |answer: &m::ApiVersionsResponse| answer.finalized_features[0].max_version_level;
    assert_eq!((level(&first), first.supported_features[0].max_version), (2, 2));
    let update = |level, kind| m::UpdateFeaturesRequest {
        feature_updates: vec![FeatureUpdateKey {
            feature: "transaction.version".into(),
            max_version_level: level,
            upgrade_type: kind,
            ..Default::default()
        }],
        ..Default::default()
    };
    let refused = c.ask(&update(1, 1), 2).await;
    assert_eq!(refused.error_code, ErrorCode::INVALID_UPDATE_VERSION.0);
    assert_eq!(c.ask(&update(1, 2), 2).await.error_code, 0);
    let second = c.ask(&versions, 3).await;
    assert_eq!((level(&second), second.finalized_features_epoch), (1, first.finalized_features_epoch + 1));
    control.set_transaction_version(0).unwrap();
    assert!(c.ask(&versions, 3).await.finalized_features.is_empty());
    assert!(control.set_transaction_version(3).is_err());
}

#[tokio::test(start_paused = true)]
async fn node_ids_begin_where_the_builder_says() {
    let world = Bench::start(Cluster::builder().nodes(3).first_node_id(5).topic(TOPIC, 3)).await;
    let control = world.cluster.control();
    assert_eq!(control.nodes(), [5, 6, 7]);
    let leaders = (0..3).map(|index| control.partition(TOPIC, index).unwrap().leader.unwrap());
    assert_eq!(leaders.collect::<std::collections::BTreeSet<_>>(), [5, 6, 7].into());
    let find = m::FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    let node = world.client(0).await.ask(&find, 4).await.coordinators[0].node_id;
    assert!((5..8).contains(&node));
}
