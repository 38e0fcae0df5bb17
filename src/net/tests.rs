//! A connection against a peer that a test plays.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::script::{Actor, Stage, everything};
use super::*;
use crate::ErrorKind;
use crate::error::Phase;
use crate::runtime::Runtime;
use crate::runtime::sim::{Direction, Links, SimRuntime};
use crate::types::NodeId;
use crate::wire::messages::metadata::MetadataResponseBroker;
use crate::wire::messages::{HeartbeatRequest, MetadataRequest, MetadataResponse};
use crate::wire::{ApiKey, Str};

const SETUP: Duration = Duration::from_secs(10);

struct Bench {
    sim: Arc<SimRuntime>,
    stage: Stage,
    connector: Connector,
    ended: Arc<AtomicUsize>,
}

impl Bench {
    async fn new() -> Self {
        Self::with(ConnectionConfig::default()).await
    }

    async fn with(config: ConnectionConfig) -> Self {
        let sim = SimRuntime::new(1);
        let stage = Stage::new(&sim).await;
        let runtime: Arc<dyn Runtime> = sim.clone();
        Self { connector: Connector::new(runtime, config), sim, stage, ended: Arc::default() }
    }

    async fn open(&self) -> Result<Connection, Failure> {
        let ended = Arc::clone(&self.ended);
        let peer = Peer::new(Some(NodeId(1)), "localhost", self.stage.port());
        self.connector
            .open(peer, SETUP, move |_| {
                ended.fetch_add(1, Ordering::Relaxed);
            })
            .await
    }

    async fn pair(&self) -> (Connection, Actor) {
        let (connection, actor) = tokio::join!(self.open(), self.stage.accept_negotiated());
        (connection.unwrap(), actor)
    }
}

fn deadline(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

fn answer_of(nodes: i32) -> MetadataResponse {
    let broker =
        |node_id| MetadataResponseBroker { node_id, host: "h".into(), port: 1, ..Default::default() };
    MetadataResponse { brokers: (0..nodes).map(broker).collect(), ..Default::default() }
}

async fn ask(connection: &Connection, millis: u64) -> Result<MetadataResponse, RequestError> {
    connection.send(&MetadataRequest::default(), 12, deadline(millis)).await
}

#[tokio::test(start_paused = true)]
async fn requests_are_pipelined_and_answers_find_their_way() {
    let bench = Bench::new().await;
    let (connection, mut actor) = bench.pair().await;
    let broker = async {
        let mut heads = Vec::new();
        for _ in 0..3 {
            heads.push(actor.expect(ApiKey::METADATA).await);
        }
        assert_eq!(connection.in_flight(), 3);
        for (count, head) in (1..).zip(&heads) {
            assert_eq!(head.client_id.as_deref(), Some("carafe"));
            actor.answer(head, &answer_of(count)).await;
        }
    };
    let (a, b, c, ()) =
        tokio::join!(ask(&connection, 1000), ask(&connection, 1000), ask(&connection, 1000), broker);
    assert_eq!([a, b, c].map(|answer| answer.unwrap().brokers.len()), [1, 2, 3]);
    assert_eq!(connection.in_flight(), 0);
    assert!(!connection.is_closed());
}

#[tokio::test(start_paused = true)]
async fn an_old_broker_is_asked_again_in_a_version_that_it_knows() {
    let bench = Bench::new().await;
    let broker = async {
        let mut actor = bench.stage.accept().await;
        let head = actor.expect(ApiKey::API_VERSIONS).await;
        assert_eq!(head.version, 4);
        // Error 35, one entry: key 18, versions 0 to 2, as version 0 has it.
        actor.write(&[0, 0, 0, 16, 0, 0, 0, 0, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 2]).await;
        let head = actor.expect(ApiKey::API_VERSIONS).await;
        assert_eq!((head.version, head.correlation_id), (2, 1));
        actor.answer(&head, &everything()).await;
        let head = actor.expect(ApiKey::METADATA).await;
        assert_eq!(head.correlation_id, 2);
        actor.answer(&head, &answer_of(1)).await;
    };
    let client = async {
        let connection = bench.open().await.unwrap();
        ask(&connection, 1000).await.unwrap();
    };
    tokio::join!(broker, client);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_hangs_up_on_new_versions_is_asked_in_the_oldest() {
    let bench = Bench::new().await;
    let broker = async {
        let mut actor = bench.stage.accept().await;
        assert_eq!(actor.expect(ApiKey::API_VERSIONS).await.version, 4);
        drop(actor);
        let mut actor = bench.stage.accept().await;
        let head = actor.expect(ApiKey::API_VERSIONS).await;
        assert_eq!(head.version, 0);
        actor.answer(&head, &everything()).await;
        actor
    };
    let (actor, connection) = tokio::join!(broker, bench.open());
    assert!(connection.unwrap().versions().range(ApiKey::METADATA).is_some());
    drop(actor);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_kafka_broker_is_named() {
    for (bytes, kind, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], ErrorKind::Protocol, "HTTP"),
        (&[0x15, 3, 3, 0, 2, 2, 70], ErrorKind::Protocol, "TLS"),
        (&[0xff, 0xff, 0xff, 0xff], ErrorKind::Protocol, "negative"),
        // 512 KiB are the most before versions are negotiated.
        (&[0, 8, 0, 1], ErrorKind::Protocol, "524289"),
        (&[0, 0, 0, 4, 0, 0, 0, 9], ErrorKind::Protocol, "correlation"),
        (&[0, 0, 0, 5, 0, 0, 0, 0, 0], ErrorKind::Protocol, "empty"),
        (&[0, 0, 0, 6, 0, 0, 0, 0, 0, 0], ErrorKind::Protocol, "not valid"),
        (&[0, 0, 0, 6, 0, 0, 0, 0, 0, 58], ErrorKind::Authentication, "SASL_AUTHENTICATION_FAILED"),
        // Silence, then the end.
        (&[0, 0, 0, 6, 0, 0], ErrorKind::Network, "hung up"),
    ] {
        let bench = Bench::new().await;
        let broker = async {
            let mut actor = bench.stage.accept().await;
            actor.expect(ApiKey::API_VERSIONS).await;
            actor.write(bytes).await;
        };
        let (failure, ()) = tokio::join!(bench.open(), broker);
        let failure = failure.unwrap_err();
        assert_eq!((failure.kind, failure.phase), (kind, Phase::Negotiate), "{failure:?}");
        let error = failure.to_error("no connection", &Peer::new(None, "localhost", 1));
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_and_refusal_are_told_apart() {
    let bench = Bench::new().await;
    let started = Instant::now();
    let (failure, actor) = tokio::join!(bench.open(), bench.stage.accept());
    let failure = failure.unwrap_err();
    assert_eq!((failure.kind, failure.phase), (ErrorKind::Timeout, Phase::Negotiate));
    assert_eq!(started.elapsed().as_secs(), 10);
    drop(actor);

    let refused = bench.sim.network().refuse(Links::of(bench.stage.address()));
    let failure = bench.open().await.unwrap_err();
    assert_eq!((failure.kind, failure.phase), (ErrorKind::Network, Phase::Connect));
    bench.sim.network().heal(refused);

    let peer = Peer::new(None, "no.such.host", 1);
    let failure = bench.connector.open(peer, SETUP, |_| ()).await.unwrap_err();
    assert_eq!((failure.kind, failure.phase), (ErrorKind::Network, Phase::Resolve));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_swallows_everything_costs_a_head_start() {
    let bench = Bench::new().await;
    let network = bench.sim.network();
    let hole = IpAddr::from([10, 9, 9, 9]);
    let _black_hole = network.partition(Links::of(hole), Direction::Both);
    network.set_host("dual", vec![hole, bench.stage.address().ip()]);
    let peer = Peer::new(None, "dual", bench.stage.port());
    let started = Instant::now();
    let opened = bench.connector.open(peer.clone(), SETUP, |_| ());
    let (connection, _actor) = tokio::join!(opened, bench.stage.accept_negotiated());
    assert!(connection.is_ok());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());

    network.set_host("dual", vec![hole; 3]);
    let started = Instant::now();
    let failure = bench.connector.open(peer, SETUP, |_| ()).await.unwrap_err();
    assert_eq!((failure.kind, failure.phase), (ErrorKind::Timeout, Phase::Connect));
    assert!(failure.message.contains("the last of 3 addresses"), "{}", failure.message);
    assert!(started.elapsed() < SETUP + Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn desync_and_unasked_frames_end_the_connection() {
    for bytes in [&[0, 0, 0, 5, 0, 0, 0, 77, 0][..], b"HTTP", &[0, 0, 0, 2, 0, 0]] {
        let bench = Bench::new().await;
        let (connection, mut actor) = bench.pair().await;
        let broker = async {
            actor.expect(ApiKey::METADATA).await;
            actor.write(bytes).await;
            assert!(actor.is_closed().await);
        };
        let (answer, ()) = tokio::join!(ask(&connection, 1000), broker);
        let error = answer.unwrap_err();
        assert_eq!((error.error.kind(), error.unsent), (ErrorKind::Protocol, false));
        assert!(error.error.is_retriable());
        assert_eq!(bench.ended.load(Ordering::Relaxed), 1);
    }
    let bench = Bench::new().await;
    let (connection, mut actor) = bench.pair().await;
    // The beginning of a large frame is enough.
    actor.write(&[0, 1, 0, 0, 0, 0, 0, 1]).await;
    assert_eq!(connection.closed().await.kind, ErrorKind::Protocol);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_decoded_ends_the_connection() {
    let bench = Bench::new().await;
    let (connection, mut actor) = bench.pair().await;
    let broker = async {
        let head = actor.expect(ApiKey::METADATA).await;
        let mut bytes = vec![0, 0, 0, 9];
        bytes.extend(head.correlation_id.to_be_bytes());
        bytes.extend([0, 0xff, 0xff, 0xff, 0xff]);
        actor.write(&bytes).await;
        assert!(actor.is_closed().await);
    };
    let (answer, ()) = tokio::join!(ask(&connection, 1000), broker);
    let error = answer.unwrap_err().error;
    assert_eq!((error.kind(), error.phase()), (ErrorKind::Protocol, Some(Phase::Decode)));
    assert_eq!(connection.closed().await.kind, ErrorKind::Protocol);
}

#[tokio::test(start_paused = true)]
async fn a_cut_anywhere_in_the_answer_fails_the_request_once() {
    let bench = Bench::new().await;
    let (connection, mut actor) = bench.pair().await;
    let head = async {
        let head = actor.expect(ApiKey::METADATA).await;
        crate::wire::frame::encode_response(&answer_of(2), head.key, head.version, head.correlation_id)
            .unwrap()
    };
    let mut request = Box::pin(ask(&connection, 1000));
    let bytes = tokio::select! { biased; _ = &mut request => panic!(), bytes = head => bytes };
    drop(request);
    drop((connection, actor));
    for cut in 0..bytes.len() {
        let bench = Bench::new().await;
        let (connection, mut actor) = bench.pair().await;
        let broker = async {
            actor.expect(ApiKey::METADATA).await;
            actor.write(&bytes[..cut]).await;
            drop(actor);
        };
        let (answer, ()) = tokio::join!(ask(&connection, 1000), broker);
        let error = answer.unwrap_err();
        assert_eq!((error.error.kind(), error.unsent), (ErrorKind::Network, false), "cut at {cut}");
        assert!(connection.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_written_says_so() {
    let bench = Bench::new().await;
    let (connection, actor) = bench.pair().await;
    drop(actor);
    connection.closed().await;
    let error = ask(&connection, 1000).await.unwrap_err();
    assert!(error.unsent && error.error.is_retriable());
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_impatient_caller_does_not_cost_others_their_connection() {
    let bench = Bench::new().await;
    let (connection, mut actor) = bench.pair().await;
    let broker = async {
        let first = actor.expect(ApiKey::METADATA).await;
        let second = actor.expect(ApiKey::METADATA).await;
        sleep(Duration::from_secs(1)).await;
        actor.answer(&first, &answer_of(1)).await;
        actor.answer(&second, &answer_of(2)).await;
    };
    let (early, patient, ()) = tokio::join!(ask(&connection, 100), ask(&connection, 5000), broker);
    let early = early.unwrap_err();
    assert_eq!((early.error.kind(), early.unsent), (ErrorKind::Timeout, false));
    assert_eq!(patient.unwrap().brokers.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_costs_the_connection_after_the_request_timeout() {
    let bench = Bench::new().await;
    let (connection, _actor) = bench.pair().await;
    let started = Instant::now();
    let (first, second) = tokio::join!(ask(&connection, 60_000), ask(&connection, 40_000));
    assert_eq!(started.elapsed().as_secs(), 40);
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert_eq!(error.error.kind(), ErrorKind::Timeout);
    }
    assert!(connection.is_closed());
}

#[tokio::test(start_paused = true)]
async fn closing_drains_and_dropping_every_handle_does_too() {
    for close in [true, false] {
        let bench = Bench::new().await;
        let (connection, mut actor) = bench.pair().await;
        let pending = connection.send_raw(
            ApiKey::HEARTBEAT,
            0,
            vec![Bytes::from_static(&[0; 10])],
            deadline(5000),
            true,
        );
        if close {
            connection.close(None);
        }
        drop(connection);
        let broker = async {
            let head = actor.expect(ApiKey::HEARTBEAT).await;
            sleep(Duration::from_secs(1)).await;
            let mut bytes = vec![0, 0, 0, 6];
            bytes.extend(head.correlation_id.to_be_bytes());
            bytes.extend([0, 0]);
            actor.write(&bytes).await;
            assert!(actor.is_closed().await);
        };
        let (answer, ()) = tokio::join!(pending, broker);
        assert_eq!(answer.unwrap().frame.len(), 6);
        assert_eq!(bench.ended.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn large_bodies_travel_unharmed_in_both_directions() {
    let bench = Bench::new().await;
    let (connection, mut actor) = bench.pair().await;
    let parts: Vec<Bytes> = (0..200u8).map(|i| Bytes::from(vec![i; 5000])).collect();
    let pending = connection.send_raw(ApiKey::PRODUCE, 8, parts.clone(), deadline(5000), true);
    let broker = async {
        let (head, reader) = actor.request().await;
        assert_eq!(reader.rest(), parts.concat());
        let mut bytes = 3_000_004i32.to_be_bytes().to_vec();
        bytes.extend(head.correlation_id.to_be_bytes());
        bytes.resize(3_000_008, 7);
        actor.write(&bytes).await;
    };
    let (answer, ()) = tokio::join!(pending, broker);
    let body = answer.unwrap().reader().unwrap().rest();
    assert!(body.len() == 3_000_000 && body.iter().all(|&byte| byte == 7));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_request_is_done_when_it_was_written() {
    let bench = Bench::new().await;
    let (connection, mut actor) = bench.pair().await;
    let answer = connection
        .send_raw(ApiKey::PRODUCE, 8, vec![Bytes::from_static(b"batch")], deadline(1000), false)
        .await
        .unwrap();
    assert!(answer.frame.is_empty());
    actor.expect(ApiKey::PRODUCE).await;
    let broker = async {
        let head = actor.expect(ApiKey::METADATA).await;
        actor.answer(&head, &answer_of(1)).await;
    };
    let (answer, ()) = tokio::join!(ask(&connection, 1000), broker);
    answer.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stalled_writer_has_a_deadline_too() {
    let bench = Bench::new().await;
    let (connection, _actor) = bench.pair().await;
    let _ = bench.sim.network().partition(Links::of(bench.stage.address()), Direction::Both);
    let body = vec![Bytes::from(vec![0; 50_000_000])];
    let error = connection.send_raw(ApiKey::PRODUCE, 8, body, deadline(3000), true).await.unwrap_err();
    assert_eq!((error.error.kind(), error.unsent), (ErrorKind::Timeout, false));
}

#[tokio::test(start_paused = true)]
async fn idle_connections_end_quietly() {
    let bench =
        Bench::with(ConnectionConfig { idle_timeout: Duration::from_secs(5), ..Default::default() }).await;
    let (connection, mut actor) = bench.pair().await;
    let started = Instant::now();
    let failure = connection.closed().await;
    assert_eq!(started.elapsed().as_secs(), 5);
    assert!(!failure.alarming);
    assert!(actor.is_closed().await);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_broker_asks_for_is_kept() {
    let bench = Bench::new().await;
    let (connection, mut actor) = bench.pair().await;
    let started = Instant::now();
    let broker = async {
        let head = actor.expect(ApiKey::METADATA).await;
        actor.answer(&head, &MetadataResponse { throttle_time_ms: 700, ..answer_of(1) }).await;
        // A heartbeat is not held back.
        actor.expect(ApiKey::HEARTBEAT).await;
        assert!(started.elapsed() < Duration::from_millis(100));
        actor.expect(ApiKey::METADATA).await;
        assert!(started.elapsed() >= Duration::from_millis(700));
    };
    let client = async {
        ask(&connection, 1000).await.unwrap();
        let heartbeat = HeartbeatRequest { group_id: Str::from_static("g"), ..Default::default() };
        let (_, _) = tokio::join!(ask(&connection, 5000), connection.send(&heartbeat, 4, deadline(5000)));
    };
    tokio::select! {
        biased;
        () = broker => {}
        () = client => panic!("the broker has not seen everything"),
    }
}
