//! What is wrong and lasts is told with its reason, and heals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::admin::{NewTopic, OffsetSpec};
use crate::broker::{Action, Cluster, ClusterBuilder, Matcher, Operation, Resource};
use crate::client::{Client, ConditionEvents, ConditionKind, ConditionStage, Subject};
use crate::cluster::CoordinatorKind;
use crate::consumer::StartOffset;
use crate::error::{Chain, Phase};
use crate::producer::Record;
use crate::runtime::sim::{Links, SimRuntime};
use crate::types::{NodeId, TopicPartition};
use crate::wire::ApiKey;
use crate::{Error, ErrorCode, ErrorKind};

struct Bench {
    sim: Arc<SimRuntime>,
    broker: Cluster,
    client: Client,
    events: ConditionEvents,
}

async fn bench(builder: ClusterBuilder) -> Bench {
    let sim = SimRuntime::new(5);
    let broker = builder.runtime(sim.clone()).start().await.unwrap();
    let client = Client::builder().bootstrap_servers(broker.bootstrap_servers()).runtime(sim.clone());
    let client = client.build().await.unwrap();
    let events = client.condition_events();
    Bench { sim, broker, client, events }
}

impl Bench {
    /// The next event about `kind`, within ten seconds.
    async fn next(&mut self, kind: ConditionKind) -> (ConditionStage, Subject, Error) {
        let next = async {
            loop {
                let event = self.events.next().await.unwrap();
                if event.condition.kind == kind {
                    return (event.stage, event.condition.subject, event.condition.error);
                }
            }
        };
        timeout(Duration::from_secs(10), next).await.unwrap_or_else(|_| panic!("nothing of {kind:?}"))
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_missing_is_told_and_found_when_it_is_there() {
    let mut bench = bench(Cluster::builder().auto_create_topics(false)).await;
    let _member = bench.client.group_consumer("g").topics(["t"]).build().unwrap();
    let (stage, subject, error) = bench.next(ConditionKind::NoSuchTopic).await;
    assert_eq!((stage, subject), (ConditionStage::Began, Subject::Topic("t".into())));
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    assert!(error.advice().unwrap().contains("create the topic"), "{error}");
    assert_eq!(bench.client.conditions().len(), 1);
    bench.broker.control().create_topic("t", 1, &[]).unwrap();
    assert_eq!(bench.next(ConditionKind::NoSuchTopic).await.0, ConditionStage::Ended);
    assert!(bench.client.conditions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_deleted_while_it_is_used_is_told_and_one_made_anew_ends_that() {
    let mut bench = bench(Cluster::builder().topic("t", 3).auto_create_topics(false)).await;
    let start = (TopicPartition::new("t", 0), StartOffset::Earliest);
    let reader = bench.client.partition_reader().partition(start.0, start.1).build().await.unwrap();
    let reading = tokio::spawn(async move { while reader.next_event().await.is_ok() {} });
    sleep(Duration::from_secs(1)).await;
    assert!(bench.broker.control().delete_topic("t"));
    assert_eq!(bench.next(ConditionKind::NoSuchTopic).await.0, ConditionStage::Began);
    bench.broker.control().create_topic("t", 1, &[]).unwrap();
    assert_eq!(bench.next(ConditionKind::NoSuchTopic).await.0, ConditionStage::Ended);
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn missing_rights_are_told_and_heal_when_they_are_given() {
    let mut bench = bench(Cluster::builder().topic("t", 1)).await;
    bench.broker.control().deny(Resource::Topic("t".into()), Operation::Describe);
    let _member = bench.client.group_consumer("g").topics(["t"]).build().unwrap();
    let (stage, subject, error) = bench.next(ConditionKind::NotAuthorized).await;
    assert_eq!((stage, subject), (ConditionStage::Began, Subject::Topic("t".into())));
    assert_eq!(error.kind(), ErrorKind::Authorization);
    bench.broker.control().allow(&Resource::Topic("t".into()));
    assert_eq!(bench.next(ConditionKind::NotAuthorized).await.0, ConditionStage::Ended);
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_leader_is_told_until_it_has_one() {
    let mut bench = bench(Cluster::builder().nodes(2)).await;
    let control = bench.broker.control();
    let topic = NewTopic::new("t").partitions(4).replication_factor(1);
    bench.client.admin().create_topics([topic]).await.unwrap();
    let producer = bench.client.producer().build().unwrap();
    for partition in 0..4 {
        producer.send(Record::to("t").partition(partition).value("x")).await.unwrap();
    }
    let lost = control.partition("t", 0).unwrap().leader.unwrap();
    control.kill_node(lost);
    let receipt = producer.enqueue(Record::to("t").partition(0).value("y")).await.unwrap();
    let (stage, subject, error) = bench.next(ConditionKind::NoLeader).await;
    assert_eq!(stage, ConditionStage::Began);
    assert_eq!(subject.topic().unwrap().as_str(), "t");
    assert_eq!(error.code(), Some(ErrorCode::LEADER_NOT_AVAILABLE));
    control.restart_node(lost).await.unwrap();
    // Other partitions had lost their leader, too.
    while bench.next(ConditionKind::NoLeader).await.0 != ConditionStage::Ended {}
    receipt.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_cannot_be_reached_is_told_with_host_and_phase() {
    let mut bench = bench(Cluster::builder().nodes(2).topic("t", 2)).await;
    let control = bench.broker.control();
    control.move_leader("t", 0, 1).unwrap();
    let servers = bench.broker.bootstrap_servers();
    let address = servers.split(',').nth(1).unwrap().to_owned();
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    bench.client.ready(seconds(5)).await.unwrap();
    // As behind a firewall: node 1 runs, but not for this client.
    let wall = bench.sim.network().refuse(Links::of(SocketAddr::from(([127, 0, 0, 1], port))));
    let producer = bench.client.producer().build().unwrap();
    let receipt = producer.enqueue(Record::to("t").partition(0).value("x")).await.unwrap();
    let (stage, subject, error) = bench.next(ConditionKind::Unreachable).await;
    assert_eq!((stage, subject), (ConditionStage::Began, Subject::Node(NodeId(1))));
    assert_eq!(error.phase(), Some(Phase::Connect));
    assert!(Chain(&error).to_string().contains(&address), "{}", Chain(&error));
    bench.sim.network().heal(wall);
    assert_eq!(bench.next(ConditionKind::Unreachable).await.0, ConditionStage::Ended);
    receipt.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_advertised_name_that_nobody_knows_is_told() {
    let mut bench = bench(Cluster::builder().advertised_host("nowhere.invalid").topic("t", 1)).await;
    let port = bench.broker.bootstrap_servers().rsplit(':').next().unwrap().to_owned();
    let client = Client::builder().bootstrap_servers(format!("127.0.0.1:{port}")).runtime(bench.sim.clone());
    bench.client = client.build().await.unwrap();
    bench.events = bench.client.condition_events();
    let _member = bench.client.group_consumer("g").topics(["t"]).build().unwrap();
    let (stage, subject, error) = bench.next(ConditionKind::Unreachable).await;
    assert_eq!((stage, subject), (ConditionStage::Began, Subject::Node(NodeId(0))));
    assert_eq!(error.phase(), Some(Phase::Resolve));
    assert!(error.to_string().contains("nowhere.invalid"), "{error}");
    assert!(error.advice().unwrap().contains("advertised.listeners"), "{error}");
    bench.sim.network().set_host("nowhere.invalid", vec![[127, 0, 0, 1].into()]);
    // The group, which cannot reach its coordinator, has a condition of its own.
    let mut ended = false;
    while !ended {
        let (stage, subject, _) = bench.next(ConditionKind::Unreachable).await;
        ended = (stage, subject) == (ConditionStage::Ended, Subject::Node(NodeId(0)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_without_coordinator_is_told_until_it_has_one() {
    let mut bench = bench(Cluster::builder().topic("t", 1)).await;
    let code = ErrorCode::COORDINATOR_NOT_AVAILABLE;
    let rule = bench.broker.control().intercept(Matcher::api(ApiKey::FIND_COORDINATOR), Action::Error(code));
    let _member = bench.client.group_consumer("g").topics(["t"]).build().unwrap();
    let (stage, subject, error) = bench.next(ConditionKind::NoCoordinator).await;
    assert_eq!((stage, subject), (ConditionStage::Began, Subject::Group("g".into())));
    assert_eq!(error.code(), Some(code));
    rule.remove();
    assert_eq!(bench.next(ConditionKind::NoCoordinator).await.0, ConditionStage::Ended);
}

#[tokio::test(start_paused = true)]
async fn every_deadline_has_the_latest_failure_behind_it() {
    let mut bench = bench(Cluster::builder().topic("t", 1)).await;
    let wall = bench.sim.network().refuse(Links::all());
    let address = bench.broker.bootstrap_servers();
    // Deadlines pass in the middle of an attempt, in a back-off, and before anything was tried.
    for millis in [0, 1, 20, 120, 700, 1, 3000, 1] {
        let error = bench.client.ready(Duration::from_millis(millis)).await.unwrap_err();
        if millis > 1 {
            let text = Chain(&error).to_string();
            assert!(text.contains(&address) && text.contains("refused"), "after {millis} ms: {text}");
            assert_eq!(error.phase(), Some(Phase::Connect));
        }
        let admin = bench.client.admin().with_timeout(Duration::from_millis(millis));
        let error = admin.describe_cluster().await.unwrap_err();
        if millis > 1 {
            let text = Chain(&error).to_string();
            assert!(text.contains(&address) && text.contains("refused"), "after {millis} ms: {text}");
        }
    }
    let (_, subject, _) = bench.next(ConditionKind::Unreachable).await;
    assert_eq!(subject, Subject::Cluster);
    bench.sim.network().heal(wall);
    bench.client.ready(seconds(10)).await.unwrap();
    assert_eq!(bench.next(ConditionKind::Unreachable).await.0, ConditionStage::Ended);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_node_does_not_keep_its_client_from_the_others() {
    let bench = bench(Cluster::builder().nodes(3).topic("t", 3)).await;
    bench.client.ready(seconds(5)).await.unwrap();
    let admin = bench.client.admin();
    for frozen in 0..3 {
        bench.broker.control().freeze_node(frozen);
        let started = Instant::now();
        admin.describe_cluster().await.unwrap();
        let group = format!("group-{frozen}");
        bench
            .client
            .cluster
            .coordinator(CoordinatorKind::Group, &group, Instant::now() + seconds(20))
            .await
            .unwrap();
        let topic = format!("topic-{frozen}").into();
        bench.client.cluster.topic(&topic, true, Instant::now() + seconds(20)).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(4), "node {frozen}: {:?}", started.elapsed());
        bench.broker.control().thaw_node(frozen);
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn topics_that_nobody_uses_any_more_are_forgotten_and_those_in_use_are_not() {
    let bench = bench(Cluster::builder().topic("read", 1).topic("once", 1)).await;
    let start = (TopicPartition::new("read", 0), StartOffset::Earliest);
    let _reader = bench.client.partition_reader().partition(start.0, start.1).build().await.unwrap();
    let ends = [(TopicPartition::new("once", 0), OffsetSpec::Latest)];
    bench.client.admin().list_offsets(ends).await;
    let producer = bench.client.producer().build().unwrap();
    producer.send(Record::to("written").value("x")).await.unwrap();
    producer.send(Record::to("written-once").value("x")).await.unwrap();
    let known = || {
        let metadata = bench.client.cluster.metadata();
        ["read", "once", "written", "written-once"].map(|topic| metadata.topic(topic).is_some())
    };
    assert_eq!(known(), [true; 4]);
    for _ in 0..12 {
        sleep(Duration::from_secs(300)).await;
        producer.send(Record::to("written").value("x")).await.unwrap();
    }
    assert_eq!(known(), [true, false, true, false]);
    // What is forgotten is found again.
    producer.send(Record::to("written-once").value("x")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_frozen_bootstrap_node_costs_its_records_no_more_than_its_session() {
    let bench = bench(Cluster::builder().nodes(3).topic("t", 6)).await;
    let servers = bench.broker.bootstrap_servers();
    let first = servers.split(',').next().unwrap().to_owned();
    let client = Client::builder().bootstrap_servers(first).runtime(bench.sim.clone()).build().await.unwrap();
    let producer = client.producer().build().unwrap();
    for partition in 0..6 {
        producer.send(Record::to("t").partition(partition).value("x")).await.unwrap();
    }
    bench.broker.control().freeze_node(0);
    let started = Instant::now();
    for partition in 0..6 {
        producer.send(Record::to("t").partition(partition).value("y")).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}
