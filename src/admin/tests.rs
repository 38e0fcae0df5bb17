//! Admin operations against the embedded cluster, over the simulated network.

use std::sync::Arc;

use tokio::time::sleep;

use super::*;
use crate::broker::{self, Action, Matcher};
use crate::cluster::{ClusterConfig, CoordinatorKind, Target};
use crate::runtime::Runtime;
use crate::runtime::sim::SimRuntime;
use crate::types::{GroupId, NodeId, Offset, Timestamp, TopicName, TopicPartition};
use crate::wire::ApiKey;
use crate::wire::messages::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use crate::wire::messages::join_group::JoinGroupRequestProtocol;
use crate::wire::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::wire::messages::sync_group::SyncGroupRequestAssignment;
use crate::wire::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, JoinGroupRequest, JoinGroupResponse,
    OffsetCommitRequest, OffsetCommitResponse, SyncGroupRequest, SyncGroupResponse,
};
use crate::wire::{Array, Encode};
use crate::{Error, ErrorCode, ErrorKind};

mod groups;
mod topics;

struct Bench {
    broker: broker::Cluster,
    admin: Admin,
}

async fn bench(nodes: u16) -> Bench {
    let sim: Arc<dyn Runtime> = SimRuntime::new(3);
    let broker = broker::Cluster::builder().nodes(nodes).runtime(Arc::clone(&sim)).start().await.unwrap();
    let bootstrap = (broker.bootstrap_servers().split(','))
        .map(|server| server.split_once(':').unwrap())
        .map(|(host, port)| (host.to_owned(), port.parse().unwrap()))
        .collect();
    let cluster = Cluster::new(sim, ClusterConfig { bootstrap, ..Default::default() });
    Bench { broker, admin: Admin::new(cluster) }
}

fn topic(name: &str) -> TopicName {
    name.into()
}

fn partition(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic.to_owned(), partition)
}

#[tokio::test(start_paused = true)]
async fn topics_are_created_listed_described_grown_and_deleted() {
    let Bench { broker: _broker, admin } = bench(3).await;
    let created = admin
        .create_topics([
            NewTopic::new("a").partitions(4).replication_factor(3).config("retention.ms", "1000"),
            NewTopic::new("b"),
            NewTopic::new("bad name!"),
        ])
        .await
        .unwrap();
    assert_eq!(created[&topic("a")].as_ref().unwrap().partitions, Some(4));
    assert!(created[&topic("b")].is_ok(), "{created:?}");
    let error = created[&topic("bad name!")].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::INVALID_TOPIC_EXCEPTION));

    let again = admin.create_topics([NewTopic::new("a")]).await.unwrap();
    let error = again[&topic("a")].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS));
    let twice = admin.create_topics([NewTopic::new("x"), NewTopic::new("x")]).await;
    assert_eq!(twice.unwrap_err().kind(), ErrorKind::Config);

    let listed = admin.list_topics().await.unwrap();
    let names: Vec<_> =
        listed.iter().filter(|topic| !topic.internal).map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);

    let grown = admin.create_partitions([("a", 6), ("b", 1), ("c", 2)]).await.unwrap();
    assert!(grown[&topic("a")].is_ok(), "{grown:?}");
    for name in ["b", "c"] {
        assert!(grown[&topic(name)].is_err(), "{name}");
    }
    let described = admin.describe_topics(["a", "ghost"]).await.unwrap();
    let a = described[&topic("a")].as_ref().unwrap();
    assert_eq!(a.partitions.len(), 6);
    assert_eq!(a.partitions[3].replicas.len(), 3);
    assert!(a.partitions.iter().all(|partition| partition.leader.is_some()));
    let error = described[&topic("ghost")].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));

    let deleted = admin.delete_topics(["a", "ghost"]).await.unwrap();
    assert!(deleted[&topic("a")].is_ok());
    assert!(deleted[&topic("ghost")].is_err());
    let names: Vec<_> = admin.list_topics().await.unwrap().into_iter().map(|topic| topic.name).collect();
    assert!(!names.contains(&topic("a")), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_described() {
    let Bench { broker, admin } = bench(3).await;
    let described = admin.describe_cluster().await.unwrap();
    assert_eq!(described.nodes.iter().map(|node| node.id.0).collect::<Vec<_>>(), broker.control().nodes());
    assert!(described.controller.is_some() && described.id.is_some());
}

#[tokio::test(start_paused = true)]
async fn offsets_are_looked_up_where_partitions_are_led() {
    let Bench { broker, admin } = bench(3).await;
    broker.control().create_topic("t", 3, &[]).unwrap();
    let wanted = [
        (partition("t", 0), OffsetSpec::Latest),
        (partition("t", 1), OffsetSpec::Earliest),
        (partition("t", 2), OffsetSpec::At(Timestamp(5))),
        (partition("t", 9), OffsetSpec::Latest),
        (partition("ghost", 0), OffsetSpec::Latest),
    ];
    let offsets = admin.list_offsets(wanted.clone()).await;
    assert_eq!(offsets[&partition("t", 0)].as_ref().unwrap().offset, Some(Offset(0)));
    assert_eq!(offsets[&partition("t", 1)].as_ref().unwrap().offset, Some(Offset(0)));
    assert_eq!(offsets[&partition("t", 2)].as_ref().unwrap().offset, None);
    assert_eq!(offsets[&partition("t", 9)].as_ref().unwrap_err().kind(), ErrorKind::Config);
    let error = offsets[&partition("ghost", 0)].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));

    // Leaders that moved are found again.
    let leader = broker.control().partition("t", 0).unwrap().leader.unwrap();
    let other = broker.control().nodes().into_iter().find(|&node| node != leader).unwrap();
    broker.control().move_leader("t", 0, other).unwrap();
    let offsets = admin.list_offsets([(partition("t", 0), OffsetSpec::Latest)]).await;
    assert_eq!(offsets[&partition("t", 0)].as_ref().unwrap().offset, Some(Offset(0)));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_away_and_partitions_without_a_leader_cost_no_other_its_offset() {
    let Bench { broker, admin } = bench(3).await;
    let control = broker.control();
    control.create_topic("t", 3, &[]).unwrap();
    let request = NewTopic::new("alone").replicas([vec![NodeId(2)]]);
    admin.create_topics([request]).await.unwrap().into_values().next().unwrap().unwrap();
    for (partition, node) in [(0, 0), (1, 1), (2, 2)] {
        if control.partition("t", partition).unwrap().leader != Some(node) {
            control.move_leader("t", partition, node).unwrap();
        }
    }
    let admin = admin.with_timeout(Duration::from_secs(20));
    let wanted = [("t", 0), ("t", 1), ("t", 2), ("alone", 0), ("ghost", 0)];
    let wanted = wanted.map(|(topic, index)| (partition(topic, index), OffsetSpec::Latest));
    // Everything was led by somebody when it was known.
    let known = wanted.clone().into_iter().filter(|(partition, _)| &*partition.topic != "ghost");
    assert!(admin.list_offsets(known).await.values().all(Result::is_ok));
    control.kill_node(2);
    // Node 0 says nothing, and node 1 has to be asked twice.
    let first = Matcher::api(ApiKey::LIST_OFFSETS);
    control.intercept(first.clone().node(0), Action::Hold);
    control.intercept(first.node(1).times(1), Action::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    let offsets = admin.list_offsets(wanted).await;
    let show = |result: &Result<ListedOffset>| match result {
        Ok(_) => "found".to_owned(),
        Err(error) => error.code().map_or(format!("{:?}", error.kind()), |code| code.to_string()),
    };
    let found: Vec<_> = offsets.iter().map(|(at, result)| format!("{at} {}", show(result))).collect();
    let expected = [
        "alone[0] LEADER_NOT_AVAILABLE (5)",
        "ghost[0] UNKNOWN_TOPIC_OR_PARTITION (3)",
        "t[0] Timeout",
        "t[1] found",
        "t[2] found",
    ];
    // Where `t[2]` is led now is up to the cluster.
    let led_by_silence = control.partition("t", 2).unwrap().leader == Some(0);
    assert_eq!(found[..4], expected[..4]);
    assert_eq!(found[4], if led_by_silence { "t[2] Timeout" } else { expected[4] });
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_topic_can_have_costs_no_other() {
    let Bench { broker, admin } = bench(1).await;
    broker.control().create_topic("old", 1, &[]).unwrap();
    let long = "x".repeat(40_000);
    let created = admin.create_topics([NewTopic::new("new"), NewTopic::new(long.clone())]).await.unwrap();
    assert!(created[&topic("new")].is_ok());
    let refused = |error: &Error| {
        assert_eq!(error.code(), Some(ErrorCode::INVALID_TOPIC_EXCEPTION));
        assert!(error.to_string().len() < 1_000, "{error}");
    };
    refused(created[&topic(&long)].as_ref().unwrap_err());
    let described = admin.describe_topics(["old", &long].map(topic)).await.unwrap();
    assert!(described[&topic("old")].is_ok());
    refused(described[&topic(&long)].as_ref().unwrap_err());
    let ends = ["old", &long].map(|topic| (partition(topic, 0), OffsetSpec::Latest));
    let offsets = admin.list_offsets(ends).await;
    assert!(offsets[&partition("old", 0)].is_ok());
    refused(offsets[&partition(&long, 0)].as_ref().unwrap_err());
    let grown = admin.create_partitions([(topic("old"), 2), (topic(&long), 2)]).await.unwrap();
    assert!(grown[&topic("old")].is_ok() && grown[&topic(&long)].is_err());
    let deleted = admin.delete_topics([topic("old"), topic(&long)]).await.unwrap();
    assert!(deleted[&topic("old")].is_ok() && deleted[&topic(&long)].is_err());
    // Nor does it cost the whole client its metadata.
    let deadline = Instant::now() + Duration::from_secs(5);
    admin.cluster.want_topic(&topic(&long), false);
    refused(&admin.cluster.topic(&topic(&long), false, deadline).await.unwrap_err());
    admin.cluster.topic(&topic("new"), false, deadline).await.unwrap();
}

/// Joins `group` as its only member, with partitions 0 and 1 of topic `t`.
async fn join(admin: &Admin, group: &str) {
    let target = Target::Coordinator(CoordinatorKind::Group, group);
    let subscription = ConsumerProtocolSubscription { topics: vec!["t".into()], ..Default::default() };
    let mut metadata = bytes::BytesMut::from(&[0, 1][..]);
    subscription.encode(&mut metadata, 1).unwrap();
    let mut member = Default::default();
    let mut generation = 0;
    for _ in 0..2 {
        let build = |_| {
            Ok(JoinGroupRequest {
                group_id: group.into(),
                session_timeout_ms: 30_000,
                rebalance_timeout_ms: 30_000,
                member_id: bytestring::ByteString::clone(&member),
                protocol_type: "consumer".into(),
                protocols: vec![JoinGroupRequestProtocol {
                    name: "range".into(),
                    metadata: metadata.clone().freeze(),
                }],
                ..Default::default()
            })
        };
        let check = |response: &JoinGroupResponse| match ErrorCode(response.error_code) {
            ErrorCode::MEMBER_ID_REQUIRED => ErrorCode::NONE,
            code => code,
        };
        let response = admin.cluster.request(target, admin.call(), build, check).await.unwrap();
        member = response.member_id;
        generation = response.generation_id;
    }
    let assignment = ConsumerProtocolAssignment {
        assigned_partitions: vec![AssignedTopic { topic: "t".into(), partitions: Array::from([0, 1]) }],
        ..Default::default()
    };
    let mut bytes = bytes::BytesMut::from(&[0, 1][..]);
    assignment.encode(&mut bytes, 1).unwrap();
    let build = |version| {
        let mut request = SyncGroupRequest {
            group_id: group.into(),
            generation_id: generation,
            member_id: member.clone(),
            assignments: vec![SyncGroupRequestAssignment {
                member_id: member.clone(),
                assignment: bytes.clone().freeze(),
            }],
            ..Default::default()
        };
        if version >= 5 {
            request.protocol_type = Some("consumer".into());
            request.protocol_name = Some("range".into());
        }
        Ok(request)
    };
    let check = |response: &SyncGroupResponse| ErrorCode(response.error_code);
    admin.cluster.request(target, admin.call(), build, check).await.unwrap();
}

async fn commit(admin: &Admin, group: &str, topic: &str, partition: i32, offset: i64) {
    let target = Target::Coordinator(CoordinatorKind::Group, group);
    let build = |_| {
        let partitions = vec![OffsetCommitRequestPartition {
            partition_index: partition,
            committed_offset: offset,
            committed_metadata: Some("note".into()),
            ..Default::default()
        }];
        let topics = vec![OffsetCommitRequestTopic { name: topic.into(), partitions, ..Default::default() }];
        Ok(OffsetCommitRequest { group_id: group.into(), topics, ..Default::default() })
    };
    let code = |response: &OffsetCommitResponse| ErrorCode(response.topics[0].partitions[0].error_code);
    let call = Call { version_max: 9, ..admin.call() };
    admin.cluster.request(target, call, build, code).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn groups_are_listed_and_described_with_their_lag() {
    let Bench { broker, admin } = bench(3).await;
    broker.control().create_topic("t", 3, &[]).unwrap();
    join(&admin, "members").await;
    commit(&admin, "offsets", "t", 2, 5).await;

    let listed = admin.list_groups().await.unwrap();
    assert!(listed.failures.is_empty());
    let ids: Vec<_> =
        listed.groups.iter().map(|group| (group.id.as_str(), group.protocol_type.as_str())).collect();
    assert_eq!(ids, [("members", "consumer"), ("offsets", "")]);
    assert_eq!(listed.groups[0].state, GroupState::Stable);

    let described = admin.describe_groups(["members", "ghost"]).await;
    let members = described[&GroupId::from("members")].as_ref().unwrap();
    assert_eq!((members.kind, members.state), (GroupKind::Classic, GroupState::Stable));
    assert_eq!(members.assignor, "range");
    assert_eq!(members.members[0].subscription, [topic("t")]);
    assert_eq!(members.members[0].assignment, [partition("t", 0), partition("t", 1)]);
    let error = described[&GroupId::from("ghost")].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::GROUP_ID_NOT_FOUND), "{error}");

    let offsets = admin.group_offsets("offsets").await.unwrap();
    let committed = offsets[&partition("t", 2)].as_ref().unwrap();
    assert_eq!((committed.offset, committed.metadata.as_str()), (Offset(5), "note"));
    assert!(admin.group_offsets("ghost").await.unwrap().is_empty());

    let lag = admin.group_lag("members").await.unwrap();
    assert_eq!(lag.total(), 0);
    let first = lag.partitions[&partition("t", 0)].as_ref().unwrap();
    assert_eq!((first.committed, first.end, first.lag), (None, Offset(0), None));
    assert_eq!(first.member.as_ref(), Some(&members.members[0].id));
    let lag = admin.group_lag("offsets").await.unwrap();
    assert_eq!(lag.partitions[&partition("t", 2)].as_ref().unwrap().lag, Some(0));
}

#[tokio::test(start_paused = true)]
async fn one_broker_that_is_down_hides_nothing_of_the_others() {
    let Bench { broker, admin } = bench(3).await;
    for group in ["a", "b", "c", "d", "e", "f"] {
        broker.control().create_topic(group, 1, &[]).unwrap();
        commit(&admin, group, group, 0, 1).await;
    }
    broker.control().kill_node(2);
    let admin = admin.with_timeout(Duration::from_secs(5));
    let started = Instant::now();
    let listed = admin.list_groups().await.unwrap();
    assert!(started.elapsed() <= Duration::from_secs(6));
    // Either the death was known in time, or it is told.
    let failed: Vec<_> = listed.failures.keys().copied().collect();
    assert!(failed.is_empty() || failed == [NodeId(2)], "{failed:?}");
    assert!(!listed.groups.is_empty());
}

#[tokio::test(start_paused = true)]
async fn operations_outlive_a_controller_and_a_coordinator_that_move() {
    let Bench { broker, admin } = bench(3).await;
    let controller = admin.describe_cluster().await.unwrap().controller.unwrap();
    broker.control().create_topic("t", 1, &[]).unwrap();
    commit(&admin, "g", "t", 0, 1).await;
    broker.control().kill_node(controller.0);
    let created =
        admin.create_topics([NewTopic::new("new").partitions(1).replication_factor(2)]).await.unwrap();
    let created = created[&topic("new")].as_ref();
    let code = created.err().and_then(|error| error.code());
    assert!(matches!(code, None | Some(ErrorCode::TOPIC_ALREADY_EXISTS)), "{code:?}");
    broker.control().restart_node(controller.0).await.unwrap();
    let other = broker.control().nodes().into_iter().next_back().unwrap();
    broker.control().move_coordinator("g", other).unwrap();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(admin.group_offsets("g").await.unwrap().len(), 1);
    assert!(broker.control().requests(ApiKey::FIND_COORDINATOR) > 0);
}
