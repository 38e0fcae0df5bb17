//! A cluster whose brokers a test plays, over the simulated network.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::net::script::{Actor, Stage};
use crate::runtime::Runtime;
use crate::runtime::sim::{Direction, Links, SimRuntime};
use crate::types::{NodeId, TopicName, TopicPartition};
use crate::wire::frame::{self, RequestHead};
use crate::wire::messages::fetch::{FetchPartition, FetchTopic};
use crate::wire::messages::metadata::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::wire::messages::{
    DeleteTopicsRequest, DeleteTopicsResponse, FetchRequest, FindCoordinatorResponse, HeartbeatRequest,
    HeartbeatResponse, MetadataRequest, MetadataResponse,
};
use crate::wire::{ApiKey, Decode, Encode, Reader};
use crate::{ErrorCode, ErrorKind, Result};

/// What the brokers believe.
#[derive(Default)]
struct Bench {
    ports: BTreeMap<i32, u16>,
    controller: i32,
    topics: BTreeMap<String, MetadataResponseTopic>,
    creates: bool,
    coordinator: i32,
    /// Requests seen, as `node:API`.
    seen: Vec<String>,
    silent: Vec<i32>,
}

struct Fake {
    sim: Arc<SimRuntime>,
    world: Arc<Mutex<Bench>>,
    stages: Vec<Arc<Stage>>,
}

impl Fake {
    async fn new(nodes: i32) -> Self {
        let sim = SimRuntime::new(5);
        let world = Arc::new(Mutex::new(Bench { controller: 1, coordinator: 1, ..Bench::default() }));
        let mut fake = Self { sim, world, stages: Vec::new() };
        for node in 1..=nodes {
            let stage = fake.start(node).await;
            fake.stages.push(stage);
        }
        fake
    }

    /// Starts (or moves) a node.
    async fn start(&self, node: i32) -> Arc<Stage> {
        let stage = Arc::new(Stage::new(&self.sim).await);
        self.world().ports.insert(node, stage.port());
        let (world, sim, accepting) = (Arc::clone(&self.world), Arc::clone(&self.sim), Arc::clone(&stage));
        self.sim.spawn(
            "broker",
            Box::pin(async move {
                loop {
                    let actor = accepting.accept().await;
                    sim.spawn("actor", Box::pin(serve(Arc::clone(&world), node, actor)));
                }
            }),
        );
        stage
    }

    fn world(&self) -> std::sync::MutexGuard<'_, Bench> {
        self.world.lock().unwrap()
    }

    fn topic(&self, name: &str, leader: i32, epoch: i32) {
        let answer = described(name, leader, epoch);
        self.world().topics.insert(name.into(), answer);
    }

    fn config(&self) -> ClusterConfig {
        let bootstrap = self.stages.iter().map(|stage| ("localhost".to_owned(), stage.port())).collect();
        ClusterConfig { bootstrap, ..Default::default() }
    }

    fn client(&self) -> Cluster {
        self.client_with(self.config())
    }

    fn client_with(&self, config: ClusterConfig) -> Cluster {
        let runtime: Arc<dyn Runtime> = self.sim.clone();
        Cluster::new(runtime, config)
    }

    fn seen(&self, api: &str) -> Vec<String> {
        self.world().seen.iter().filter(|seen| seen.ends_with(&format!(":{api}"))).cloned().collect()
    }
}

fn described(name: &str, leader_id: i32, leader_epoch: i32) -> MetadataResponseTopic {
    let partition = MetadataResponsePartition { leader_id, leader_epoch, ..Default::default() };
    MetadataResponseTopic { name: Some(name.into()), partitions: vec![partition], ..Default::default() }
}

async fn serve(world: Arc<Mutex<Bench>>, node: i32, mut actor: Actor) {
    if world.lock().unwrap().silent.contains(&node) {
        std::future::pending::<()>().await;
    }
    actor.negotiate().await;
    while let Some((head, reader)) = actor.try_request().await {
        let answer = world.lock().unwrap().answer(node, &head, reader);
        actor.write(&answer).await;
    }
}

impl Bench {
    fn answer(&mut self, node: i32, head: &RequestHead, mut reader: Reader) -> BytesMut {
        self.seen.push(format!("{node}:{}", head.key));
        match head.key {
            ApiKey::METADATA => {
                let request = MetadataRequest::decode(&mut reader, head.version).unwrap();
                encode(head, &self.metadata(&request))
            }
            ApiKey::FIND_COORDINATOR => {
                let mut response = FindCoordinatorResponse::default();
                let found = crate::wire::messages::find_coordinator::Coordinator {
                    node_id: self.coordinator,
                    host: "localhost".into(),
                    port: i32::from(self.ports[&self.coordinator]),
                    ..Default::default()
                };
                response.coordinators.push(found);
                encode(head, &response)
            }
            ApiKey::HEARTBEAT => {
                let error_code = if node == self.coordinator { 0 } else { ErrorCode::NOT_COORDINATOR.0 };
                encode(head, &HeartbeatResponse { error_code, ..Default::default() })
            }
            ApiKey::DELETE_TOPICS => {
                let error_code = if node == self.controller { 0 } else { ErrorCode::NOT_CONTROLLER.0 };
                let result = crate::wire::messages::delete_topics::DeletableTopicResult {
                    name: Some("t".into()),
                    error_code,
                    ..Default::default()
                };
                encode(head, &DeleteTopicsResponse { responses: vec![result], ..Default::default() })
            }
            key => panic!("nobody expected {key}"),
        }
    }

    fn metadata(&mut self, request: &MetadataRequest) -> MetadataResponse {
        let brokers = (self.ports.iter())
            .map(|(&node_id, &port)| MetadataResponseBroker {
                node_id,
                host: "localhost".into(),
                port: i32::from(port),
                ..Default::default()
            })
            .collect();
        let names: Vec<String> = match &request.topics {
            Some(topics) => topics.iter().map(|topic| topic.name.as_deref().unwrap().to_owned()).collect(),
            None => self.topics.keys().cloned().collect(),
        };
        let topics = (names.into_iter())
            .map(|name| match self.topics.get(&name) {
                Some(topic) => topic.clone(),
                None => {
                    if request.allow_auto_topic_creation && self.creates {
                        self.topics.insert(name.clone(), described(&name, 1, 0));
                    }
                    MetadataResponseTopic {
                        name: Some(name.into()),
                        error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0,
                        ..Default::default()
                    }
                }
            })
            .collect();
        MetadataResponse { brokers, topics, controller_id: self.controller, ..Default::default() }
    }
}

fn encode(head: &RequestHead, response: &impl Encode) -> BytesMut {
    frame::encode_response(response, head.key, head.version, head.correlation_id).unwrap()
}

fn within(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

fn name(name: &str) -> TopicName {
    name.into()
}

#[tokio::test(start_paused = true)]
async fn a_client_is_ready_in_a_few_round_trips() {
    let fake = Fake::new(3).await;
    fake.topic("t", 2, 4);
    let cluster = fake.client();
    let started = Instant::now();
    let topic = cluster.topic(&name("t"), false, within(1000)).await.unwrap();
    assert_eq!(topic.partitions[0].leader, Some(NodeId(2)));
    let (leader, epoch) = cluster.leader(&TopicPartition::new("t", 0), within(1000)).await.unwrap();
    assert_eq!((leader, epoch.0), (NodeId(2), 4));
    let produce = cluster.connection(leader, Duty::Produce, within(1000)).await.unwrap();
    let fetch = cluster.connection(leader, Duty::Fetch(1), within(1000)).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(50), "{:?}", started.elapsed());
    assert_eq!(produce.peer().to_string(), format!("node 2 (localhost:{})", fake.world().ports[&2]));
    // One for metadata, one for each duty.
    assert_eq!(fake.sim.network().connections().len(), 3);
    cluster.release(Duty::Fetch(1));
    fetch.closed().await;
    assert!(!produce.is_closed());
    assert_eq!(fake.seen("Metadata").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_an_unknown_topic_ends_when_it_appears_or_at_the_deadline() {
    let fake = Fake::new(1).await;
    let cluster = fake.client();
    let error = cluster.topic(&name("t"), false, within(3000)).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    let questions = fake.seen("Metadata").len();
    assert!((4..=9).contains(&questions), "{questions} questions in three seconds");
    let appear = async {
        sleep(Duration::from_millis(1500)).await;
        fake.topic("t", 1, 0);
    };
    let t = name("t");
    let (topic, ()) = tokio::join!(cluster.topic(&t, false, within(5000)), appear);
    topic.unwrap();

    fake.world().creates = true;
    assert!(cluster.topic(&name("u"), false, within(1000)).await.is_err(), "nobody asked for creation");
    cluster.topic(&name("u"), true, within(1000)).await.unwrap();

    let refused = MetadataResponseTopic {
        error_code: ErrorCode::TOPIC_AUTHORIZATION_FAILED.0,
        ..described("secret", -1, -1)
    };
    fake.world().topics.insert("secret".into(), refused);
    let started = Instant::now();
    let error = cluster.topic(&name("secret"), false, within(5000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authorization);
    assert!(started.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_silent_bootstrap_server_delays_by_the_stagger_alone() {
    let fake = Fake::new(2).await;
    for silent in [1, 2] {
        fake.world().silent = vec![silent];
        let cluster = fake.client();
        let started = Instant::now();
        cluster.ready(within(5000)).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
    }
    fake.world().silent = vec![1, 2];
    let error = fake.client().ready(within(25_000)).await.unwrap_err();
    assert!(error.is_timeout());
    let source = error.source().unwrap().to_string();
    assert!(source.contains("did not answer ApiVersions"), "{source}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_before_a_peer_answers_names_the_peer() {
    let fake = Fake::new(1).await;
    fake.world().silent = vec![1];
    let client = fake.client();
    let error = client.ready(within(3000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains(&format!("localhost:{}", fake.stages[0].port())), "{cause}");
    assert!(error.advice().unwrap().contains("TLS"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_cluster_is_found_when_it_lives_again() {
    let fake = Fake::new(2).await;
    let refuse = fake.sim.network().refuse(Links::all());
    let cluster = fake.client();
    let error = cluster.ready(within(5000)).await.unwrap_err();
    let source = error.source().unwrap().to_string();
    assert!(source.contains("cannot connect"), "{source}");
    let heal = async {
        sleep(Duration::from_secs(60)).await;
        fake.sim.network().heal(refuse);
    };
    let started = Instant::now();
    let (ready, ()) = tokio::join!(cluster.ready(within(120_000)), heal);
    ready.unwrap();
    assert!(started.elapsed() < Duration::from_secs(68), "{:?}", started.elapsed());
}

async fn heartbeat(cluster: &Cluster, millis: u64) -> Result<HeartbeatResponse> {
    heartbeat_checked(cluster, millis, |response| ErrorCode(response.error_code)).await
}

async fn heartbeat_checked(
    cluster: &Cluster,
    millis: u64,
    check: impl Fn(&HeartbeatResponse) -> ErrorCode,
) -> Result<HeartbeatResponse> {
    let target = Target::Coordinator(CoordinatorKind::Group, "g");
    let build = |_| Ok(HeartbeatRequest { group_id: "g".into(), ..Default::default() });
    cluster.request(target, Call::until(within(millis)), build, check).await
}

#[tokio::test(start_paused = true)]
async fn coordinators_are_looked_up_once_and_again_when_they_move() {
    let fake = Fake::new(3).await;
    let cluster = fake.client();
    let (first, second) = tokio::join!(heartbeat(&cluster, 1000), heartbeat(&cluster, 1000));
    first.unwrap();
    second.unwrap();
    assert_eq!(fake.seen("FindCoordinator").len(), 1);
    fake.world().coordinator = 3;
    heartbeat(&cluster, 1000).await.unwrap();
    assert_eq!(fake.seen("FindCoordinator").len(), 2);
    assert_eq!(fake.seen("Heartbeat").last().unwrap(), "3:Heartbeat");

    // The coordinator cannot be reached any more; another takes over a little later.
    let refuse = fake.sim.network().refuse(Links::of(fake.stages[2].address()));
    fake.sim.network().cut(&Links::of(fake.stages[2].address()));
    let moved = async {
        sleep(Duration::from_millis(700)).await;
        fake.world().coordinator = 2;
    };
    let (answer, ()) = tokio::join!(heartbeat(&cluster, 20_000), moved);
    answer.unwrap();
    fake.sim.network().heal(refuse);
}

#[tokio::test(start_paused = true)]
async fn the_controller_is_asked_even_after_it_moved() {
    let fake = Fake::new(3).await;
    let cluster = fake.client();
    cluster.ready(within(1000)).await.unwrap();
    fake.world().controller = 3;
    let build = |_| Ok(DeleteTopicsRequest { timeout_ms: 1000, ..Default::default() });
    let check = |response: &DeleteTopicsResponse| ErrorCode(response.responses[0].error_code);
    cluster.request(Target::Controller, Call::until(within(5000)), build, check).await.unwrap();
    assert_eq!(fake.seen("DeleteTopics"), ["1:DeleteTopics", "3:DeleteTopics"]);
}

#[tokio::test(start_paused = true)]
async fn errors_that_no_retry_helps_come_back_at_once_and_others_at_the_deadline() {
    let fake = Fake::new(1).await;
    let cluster = fake.client();
    let check = |_: &HeartbeatResponse| ErrorCode::GROUP_AUTHORIZATION_FAILED;
    let error = heartbeat_checked(&cluster, 5000, check).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::GROUP_AUTHORIZATION_FAILED));
    let started = Instant::now();
    let check = |_: &HeartbeatResponse| ErrorCode::COORDINATOR_LOAD_IN_PROGRESS;
    let error = heartbeat_checked(&cluster, 5000, check).await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.code(), Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS));
    assert!(started.elapsed() <= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_moves_is_followed_and_connections_that_break_are_replaced() {
    let fake = Fake::new(2).await;
    fake.topic("t", 2, 0);
    let cluster = fake.client();
    cluster.topic(&name("t"), false, within(1000)).await.unwrap();
    let old = cluster.connection(NodeId(2), Duty::Produce, within(1000)).await.unwrap();
    let _moved = fake.start(2).await;
    let mut snapshots = cluster.subscribe();
    cluster.refresh();
    timeout(Duration::from_secs(1), snapshots.changed()).await.unwrap().unwrap();
    old.closed().await;
    let new = cluster.connection(NodeId(2), Duty::Produce, within(1000)).await.unwrap();
    assert_ne!(old.peer(), new.peer());

    // A broken connection makes the client ask who leads now.
    let questions = fake.seen("Metadata").len();
    fake.sim.network().cut(&Links::all());
    new.closed().await;
    let again = cluster.connection(NodeId(2), Duty::Produce, within(5000)).await.unwrap();
    assert!(!again.is_closed());
    sleep(Duration::from_millis(200)).await;
    assert!(fake.seen("Metadata").len() > questions);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_was_asked_before_it_moved_does_not_wait_for_the_old_address() {
    let fake = Fake::new(2).await;
    let cluster = fake.client();
    cluster.ready(within(1000)).await.unwrap();
    let old = cluster.connection(NodeId(2), Duty::Heartbeat, within(1000)).await.unwrap();
    let _gone = fake.sim.network().partition(Links::of(fake.stages[1].address()), Direction::Both);
    let asked = tokio::spawn(async move {
        let started = Instant::now();
        let request = HeartbeatRequest { group_id: "g".into(), ..Default::default() };
        let answer = old.send(&request, 4, within(60_000)).await;
        (answer.map(|_| ()), started.elapsed())
    });
    sleep(Duration::from_millis(100)).await;
    let _moved = fake.start(2).await;
    cluster.refresh();
    let (answer, waited) = asked.await.unwrap();
    assert_eq!(answer.unwrap_err().error.kind(), ErrorKind::Network);
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_tasks_and_connections() {
    let fake = Fake::new(1).await;
    let cluster = fake.client();
    let clone = cluster.clone();
    cluster.ready(within(1000)).await.unwrap();
    drop(cluster);
    assert_eq!(fake.sim.network().connections().len(), 1);
    drop(clone);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(fake.sim.network().connections(), []);
    let cluster = fake.client();
    cluster.close();
    assert_eq!(cluster.ready(within(1000)).await.unwrap_err().kind(), ErrorKind::State);
}

#[tokio::test(start_paused = true)]
async fn long_polls_slow_neither_each_other_nor_short_requests() {
    let sim: Arc<dyn Runtime> = SimRuntime::new(5);
    let broker = crate::broker::Cluster::builder().topic("t", 2).runtime(Arc::clone(&sim)).start();
    let broker = broker.await.unwrap();
    let servers = broker.bootstrap_servers();
    let (host, port) = servers.split_once(':').unwrap();
    let bootstrap = vec![(host.to_owned(), port.parse().unwrap())];
    let cluster = Cluster::new(sim, ClusterConfig { bootstrap, ..Default::default() });
    let (leader, _) = cluster.leader(&TopicPartition::new("t", 0), within(1000)).await.unwrap();

    let poll = |session: u64, partition: i32| {
        let cluster = cluster.clone();
        async move {
            let connection = cluster.connection(leader, Duty::Fetch(session), within(1000)).await.unwrap();
            let partitions =
                vec![FetchPartition { partition, partition_max_bytes: 1 << 20, ..Default::default() }];
            let request = FetchRequest {
                max_wait_ms: 5000,
                min_bytes: 1,
                session_epoch: -1,
                topics: vec![FetchTopic { topic: "t".into(), partitions, ..Default::default() }],
                ..Default::default()
            };
            let started = Instant::now();
            connection.send(&request, 12, within(20_000)).await.unwrap();
            started.elapsed()
        }
    };
    let short = async {
        // Both polls are waiting by now.
        sleep(Duration::from_millis(1000)).await;
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let started = Instant::now();
            cluster
                .request_any(&MetadataRequest::default(), Call::until(within(1000)), |_| ErrorCode::NONE)
                .await
                .unwrap();
            slowest = slowest.max(started.elapsed());
        }
        slowest
    };
    let (first, second, slowest) = tokio::join!(poll(1, 0), poll(2, 1), short);
    for poll in [first, second] {
        assert!((5000..5100).contains(&poll.as_millis()), "{poll:?}");
    }
    assert!(slowest < Duration::from_millis(20), "{slowest:?}");
}
