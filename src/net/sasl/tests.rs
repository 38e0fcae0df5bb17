//! Authentication against a peer that a test plays, over the simulated network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{Exchange, Mechanism, Plain};
use crate::error::Phase;
use crate::net::script::{Actor, Stage, everything};
use crate::net::{Connection, ConnectionConfig, Connector, Failure, Peer, RequestError};
use crate::runtime::sim::SimRuntime;
use crate::runtime::{BoxFuture, Runtime};
use crate::wire::frame::RequestHead;
use crate::wire::messages::{
    ApiVersionsResponse, MetadataRequest, MetadataResponse, SaslAuthenticateRequest,
    SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use crate::wire::{ApiKey, Decode, Str};
use crate::{Error, ErrorCode, ErrorKind, Result};

struct Bench {
    stage: Stage,
    connector: Connector,
}

impl Bench {
    async fn new(mechanism: impl Mechanism) -> Self {
        let sim = SimRuntime::new(1);
        let stage = Stage::new(&sim).await;
        let runtime: Arc<dyn Runtime> = sim;
        let config = ConnectionConfig { mechanism: Some(Arc::new(mechanism)), ..ConnectionConfig::default() };
        Self { stage, connector: Connector::new(runtime, config) }
    }

    async fn plain() -> Self {
        Self::new(Plain::new("alice", "hunter2")).await
    }

    async fn open(&self) -> Result<Connection, Failure> {
        let peer = Peer::new(None, "localhost", self.stage.port());
        self.connector.open(peer, Duration::from_secs(10), |_| {}).await
    }

    /// What comes of a broker that answers to the mechanism's name, and then to its first token, if it gets one.
    async fn refused(&self, named: SaslHandshakeResponse, answer: SaslAuthenticateResponse) -> Failure {
        let broker = async {
            let mut actor = self.stage.accept_negotiated().await;
            actor.named(&named).await;
            if let Some((head, _)) = actor.try_request().await {
                assert_eq!((named.error_code, head.key), (0, ApiKey::SASL_AUTHENTICATE));
                actor.answer(&head, &answer).await;
            }
        };
        let (opened, ()) = tokio::join!(self.open(), broker);
        let failure = opened.expect_err("it should be refused");
        assert!(!format!("{failure:?}").contains("hunter2"));
        failure
    }
}

impl Actor {
    async fn named(&mut self, answer: &SaslHandshakeResponse) -> String {
        let (head, mut body) = self.request().await;
        assert_eq!((head.key, head.version), (ApiKey::SASL_HANDSHAKE, 1));
        let request = SaslHandshakeRequest::decode(&mut body, head.version).unwrap();
        self.answer(&head, answer).await;
        request.mechanism.to_string()
    }

    async fn token(&mut self) -> (RequestHead, Bytes) {
        let (head, mut body) = self.request().await;
        assert_eq!(head.key, ApiKey::SASL_AUTHENTICATE);
        let request = SaslAuthenticateRequest::decode(&mut body, head.version).unwrap();
        (head, request.auth_bytes)
    }

    /// Lets a client of PLAIN in, for so long.
    async fn let_in(&mut self, lifetime_ms: i64) {
        assert_eq!(self.named(&offered(ErrorCode::NONE)).await, "PLAIN");
        let (head, token) = self.token().await;
        assert_eq!(token, "\0alice\0hunter2");
        self.answer(&head, &accepted(lifetime_ms)).await;
    }
}

fn offered(code: ErrorCode) -> SaslHandshakeResponse {
    let mechanisms = ["PLAIN", "SCRAM-SHA-256"].map(Str::from_static).to_vec();
    SaslHandshakeResponse { error_code: code.0, mechanisms }
}

fn accepted(lifetime_ms: i64) -> SaslAuthenticateResponse {
    SaslAuthenticateResponse { session_lifetime_ms: lifetime_ms, ..Default::default() }
}

fn denied(text: &str) -> SaslAuthenticateResponse {
    let error_code = ErrorCode::SASL_AUTHENTICATION_FAILED.0;
    SaslAuthenticateResponse { error_code, error_message: Some(Str::from(text)), ..Default::default() }
}

async fn ask(connection: &Connection) -> Result<MetadataResponse, RequestError> {
    let deadline = Instant::now() + Duration::from_secs(20);
    connection.send(&MetadataRequest::default(), 12, deadline).await
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_authenticated_before_anything_is_asked() {
    let bench = Bench::plain().await;
    let broker = async {
        let mut actor = bench.stage.accept_negotiated().await;
        actor.let_in(0).await;
        let head = actor.expect(ApiKey::METADATA).await;
        assert_eq!(head.correlation_id, 3);
        actor.answer(&head, &MetadataResponse::default()).await;
        // A session without an end is never renewed.
        sleep(Duration::from_secs(500)).await;
        actor
    };
    let client = async {
        let connection = bench.open().await.unwrap();
        ask(&connection).await.unwrap();
        connection
    };
    let (mut actor, connection) = tokio::join!(broker, client);
    drop(connection);
    assert!(actor.is_closed().await);
}

#[tokio::test(start_paused = true)]
async fn refusals_say_what_the_broker_said_and_what_to_try() {
    for (named, answer, expected) in [
        (
            offered(ErrorCode::UNSUPPORTED_SASL_MECHANISM),
            accepted(0),
            "the broker does not offer PLAIN, only PLAIN, SCRAM-SHA-256",
        ),
        (offered(ErrorCode::ILLEGAL_SASL_STATE), accepted(0), "the broker wants no SASL here"),
        (offered(ErrorCode::UNKNOWN_SERVER_ERROR), accepted(0), "the broker refused PLAIN: "),
        (
            offered(ErrorCode::NONE),
            denied("Authentication failed: Invalid \u{1b}[31m username"),
            "PLAIN was refused by the broker: SASL_AUTHENTICATION_FAILED (58): \
             \"Authentication failed: Invalid \u{fffd}[31m username\"",
        ),
    ] {
        let failure = Bench::plain().await.refused(named, answer).await;
        assert_eq!((failure.kind, failure.phase), (ErrorKind::Authentication, Phase::Sasl));
        assert!(failure.message.starts_with(expected), "{}", failure.message);
    }
}

/// Tokens without SaslAuthenticate are of the time before Kafka 1.0.
#[tokio::test(start_paused = true)]
async fn a_broker_without_saslauthenticate_is_told_nothing() {
    let bench = Bench::plain().await;
    let broker = async {
        let mut actor = bench.stage.accept().await;
        let head = actor.expect(ApiKey::API_VERSIONS).await;
        let ApiVersionsResponse { mut api_keys, .. } = everything();
        api_keys.retain(|api| api.api_key != ApiKey::SASL_AUTHENTICATE.0);
        actor.answer(&head, &ApiVersionsResponse { api_keys, ..Default::default() }).await;
        assert!(actor.is_closed().await);
    };
    let (opened, ()) = tokio::join!(bench.open(), broker);
    let failure = opened.unwrap_err();
    assert_eq!(&*failure.message, "the broker does not offer SaslHandshake and SaslAuthenticate");
}

/// Requests are on the way all the time while the session is renewed, ten times.
#[tokio::test(start_paused = true)]
async fn a_session_is_renewed_between_requests_and_none_is_lost() {
    let bench = Bench::plain().await;
    let broker = async {
        let mut actor = bench.stage.accept_negotiated().await;
        actor.let_in(20_000).await;
        let (mut begun, mut renewals, mut last) = (Instant::now(), 0, -1);
        while renewals < 10 {
            let (head, body) = actor.request().await;
            assert!(head.correlation_id == last + 1 || last == -1, "in order");
            last = head.correlation_id;
            if head.key == ApiKey::SASL_HANDSHAKE {
                let age = begun.elapsed();
                assert!((16..=20).contains(&age.as_secs()), "{age:?}");
                // Nothing comes while nothing is answered.
                sleep(Duration::from_millis(300)).await;
                actor.answer(&head, &offered(ErrorCode::NONE)).await;
                let (head, token) = actor.token().await;
                assert_eq!(token, "\0alice\0hunter2");
                last = head.correlation_id;
                sleep(Duration::from_millis(300)).await;
                actor.answer(&head, &accepted(20_000)).await;
                (begun, renewals) = (Instant::now(), renewals + 1);
                continue;
            }
            drop(body);
            sleep(Duration::from_millis(20)).await;
            actor.answer(&head, &MetadataResponse::default()).await;
        }
    };
    let client = async {
        let connection = bench.open().await.unwrap();
        let ask_on = async || {
            let mut answered = 0;
            while let Ok(answer) = ask(&connection).await {
                assert_eq!(answer.brokers.len(), 0);
                answered += 1;
            }
            answered
        };
        tokio::join!(ask_on(), ask_on(), ask_on(), ask_on())
    };
    let ((), answered) = tokio::join!(broker, client);
    assert!(answered.0 + answered.1 + answered.2 + answered.3 > 5_000, "{answered:?}");
}

/// PLAIN that goes through what it is told, first to last.
#[derive(Debug)]
struct Moody {
    calls: Arc<AtomicU32>,
    fails: std::ops::Range<u32>,
    hangs: std::ops::Range<u32>,
}

impl Mechanism for Moody {
    fn name(&self) -> &str {
        "PLAIN"
    }

    fn authenticate<'a>(&'a self, exchange: &'a mut Exchange) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            if self.fails.contains(&call) {
                return Err(Error::new(ErrorKind::Io, "the vault is locked").with_advice("unlock it"));
            }
            if self.hangs.contains(&call) {
                std::future::pending::<()>().await;
            }
            Plain::new("alice", "hunter2").authenticate(exchange).await
        })
    }
}

async fn moody(fails: std::ops::Range<u32>, hangs: std::ops::Range<u32>) -> (Bench, Arc<AtomicU32>) {
    let calls = Arc::<AtomicU32>::default();
    (Bench::new(Moody { calls: Arc::clone(&calls), fails, hangs }).await, calls)
}

#[tokio::test(start_paused = true)]
async fn a_mechanism_that_fails_or_hangs_fails_the_attempt() {
    let (bench, _) = moody(0..1, 1..2).await;
    for expected in
        ["PLAIN failed: the vault is locked; unlock it", "authentication was not finished within 10s"]
    {
        let broker = async {
            let mut actor = bench.stage.accept_negotiated().await;
            actor.named(&offered(ErrorCode::NONE)).await;
            assert!(actor.is_closed().await);
        };
        let (opened, ()) = tokio::join!(bench.open(), broker);
        let failure = opened.unwrap_err();
        assert_eq!((failure.phase, &*failure.message), (Phase::Sasl, expected));
    }
}

/// Credentials that cannot be had for a while are asked for again before the session ends; the connection lives on.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_cannot_begin_is_tried_again_in_time() {
    let (bench, calls) = moody(1..3, 4..9).await;
    let broker = async {
        let mut actor = bench.stage.accept_negotiated().await;
        actor.let_in(60_000).await;
        actor.let_in(60_000).await;
        assert!(actor.is_closed().await);
    };
    let client = async {
        let connection = bench.open().await.unwrap();
        let failure = connection.closed().await;
        assert_eq!((failure.kind, failure.phase), (ErrorKind::Network, Phase::Sasl));
        assert_eq!(&*failure.message, "the session could not be renewed: PLAIN took too long");
    };
    tokio::join!(broker, client);
    // One to begin with, three for the first renewal, and the one that hangs.
    assert_eq!(calls.load(Ordering::Relaxed), 5);
}

/// What was held while a renewal was refused was not written, so it is sent again elsewhere.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_refused_costs_the_connection_alone() {
    let bench = Bench::plain().await;
    let broker = async {
        let mut actor = bench.stage.accept_negotiated().await;
        actor.let_in(10_000).await;
        actor.named(&offered(ErrorCode::NONE)).await;
        let (head, _) = actor.token().await;
        sleep(Duration::from_secs(1)).await;
        actor.answer(&head, &denied("no longer")).await;
        assert!(actor.is_closed().await);
    };
    let client = async {
        let connection = bench.open().await.unwrap();
        sleep(Duration::from_millis(9_800)).await;
        let error = ask(&connection).await.unwrap_err();
        assert!(error.unsent && error.error.is_retriable(), "{error:?}");
        assert!(error.error.to_string().contains("the session could not be renewed: PLAIN was refused"));
    };
    tokio::join!(broker, client);
}

/// Renewals are no traffic: an unused connection still ends.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_though_its_session_is_renewed() {
    let bench = Bench::plain().await;
    let begun = Instant::now();
    let broker = async {
        let mut actor = bench.stage.accept_negotiated().await;
        actor.let_in(100_000).await;
        while let Some((head, _)) = actor.try_request().await {
            assert_eq!(head.key, ApiKey::SASL_HANDSHAKE);
            actor.answer(&head, &offered(ErrorCode::NONE)).await;
            let (head, _) = actor.token().await;
            actor.answer(&head, &accepted(100_000)).await;
        }
    };
    let client = async {
        let connection = bench.open().await.unwrap();
        let failure = connection.closed().await;
        assert!(failure.message.contains("without traffic"), "{}", failure.message);
    };
    tokio::join!(broker, client);
    assert_eq!(begun.elapsed().as_secs(), 540);
}

/// Every byte of the conversation cut off: an error of the phase, and never a connection.
#[tokio::test(start_paused = true)]
async fn answers_are_cut_at_every_byte() {
    for at in 0..64 {
        let bench = Bench::plain().await;
        let broker = async {
            let mut actor = bench.stage.accept_negotiated().await;
            let head = actor.expect(ApiKey::SASL_HANDSHAKE).await;
            let first = actor.encoded(&head, &offered(ErrorCode::NONE));
            if at < first.len() {
                actor.write(&first[..at]).await;
                return false;
            }
            actor.write(&first).await;
            let (head, _) = actor.token().await;
            let second = actor.encoded(&head, &accepted(0));
            let rest = &second[..(at - first.len()).min(second.len())];
            actor.write(rest).await;
            rest.len() == second.len()
        };
        let (opened, whole) = tokio::join!(bench.open(), broker);
        assert_eq!(opened.is_ok(), whole, "{at}");
        if let Err(failure) = opened {
            assert_eq!((failure.kind, failure.phase), (ErrorKind::Network, Phase::Sasl), "{at}");
        }
    }
}
