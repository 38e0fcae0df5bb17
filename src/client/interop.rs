//! Requests of the `kafka-protocol` crate over the connections of a [`Client`].

use std::any::Any;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::protocol::{Decodable, Message, Request};
use tokio::time::{Instant, timeout_at};

use super::Client;
use crate::cluster::{Connection, CoordinatorKind, Target};
use crate::error::Phase;
use crate::types::{GroupId, NodeId, TopicPartition};
use crate::wire::messages::check_response;
use crate::wire::{ApiKey, Reader, VersionRange};
use crate::{Error, ErrorKind, Result, deadline};

/// Connections that may break before a byte of the request is written.
const ATTEMPTS: u32 = 3;

/// Which broker a request of [`Client::send_to`] goes to.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum SendTo<'a> {
    /// The least busy one.
    Any,
    /// The controller, or (KRaft) whoever poses as it.
    Controller,
    /// This broker.
    Broker(NodeId),
    /// The leader of this partition.
    Leader(&'a TopicPartition),
    /// The coordinator of this consumer group.
    GroupCoordinator(&'a GroupId),
    /// The coordinator of this transactional id.
    TransactionCoordinator(&'a str),
}

impl<'a> From<SendTo<'a>> for Target<'a> {
    fn from(to: SendTo<'a>) -> Self {
        match to {
            SendTo::Any => Self::Any,
            SendTo::Controller => Self::Controller,
            SendTo::Broker(node) => Self::Node(node),
            SendTo::Leader(partition) => Self::Leader(partition),
            SendTo::GroupCoordinator(group) => Self::Coordinator(CoordinatorKind::Group, group),
            SendTo::TransactionCoordinator(id) => Self::Coordinator(CoordinatorKind::Transaction, id),
        }
    }
}

impl Client {
    /// Sends a request of the [`kafka_protocol`] crate and returns its answer: for what this crate has no method for, and
    /// for programs that already speak in those types.
    ///
    /// It is sent once, in the highest version that the broker, carafe and the crate's request and response types share.
    /// Error codes lie in the answer and are the caller's affair, as are retries: who leads or coordinates is asked for anew
    /// after each request. Requests of this method share one
    /// connection per broker, which answers in order: one that waits at the broker (a fetch, a join) holds up those behind
    /// it, but nothing else of this client.
    ///
    /// A response is read by carafe's own decoder first, because that of the crate (0.18) asks for as much memory as a
    /// length on the wire says, and an allocation that fails ends the process. So a broker that lies costs an error and
    /// the connection.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use carafe::client::kafka_protocol::messages::DescribeClusterRequest;
    /// use carafe::client::{Client, SendTo};
    ///
    /// # async fn example() -> carafe::Result<()> {
    /// let client = Client::builder().bootstrap_servers("localhost:9092").build().await?;
    /// let timeout = Duration::from_secs(10);
    /// let answer = client.send_to(SendTo::Any, &DescribeClusterRequest::default(), timeout).await?;
    /// for broker in &answer.brokers {
    ///     println!("{} at {}:{}", *broker.broker_id, broker.host.as_str(), broker.port);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `UnsupportedVersion` if there is no common version, carafe does not know the API, or the request cannot be encoded
    /// in the version; `Config` for a Produce with `acks=0`, which is not answered (use a
    /// [`Producer`](crate::producer::Producer)); `Protocol` for an answer that is not valid; `Timeout` after `timeout`; and
    /// what keeps a broker from being found or reached.
    ///
    /// Cancel-safe in that the client stays usable; whether the broker acted is unknown then, as after `Timeout`.
    pub async fn send_to<R: Request + 'static>(
        &self,
        to: SendTo<'_>,
        request: &R,
        timeout: Duration,
    ) -> Result<R::Response> {
        let deadline = deadline::after(Instant::now(), timeout);
        let key = ApiKey(R::KEY);
        if (request as &dyn Any).downcast_ref::<ProduceRequest>().is_some_and(|request| request.acks == 0) {
            return Err(Error::new(ErrorKind::Config, "a broker does not answer a Produce with acks=0")
                .with_advice("send it with a producer of this crate, or with other acks"));
        }
        let spoken = key.versions().and_then(|ours| {
            let [request, response] = [R::VERSIONS, <R::Response as Message>::VERSIONS];
            ours.intersect(VersionRange::new(request.min, request.max))?
                .intersect(VersionRange::new(response.min, response.max))
        });
        let Some(spoken) = spoken else {
            let message = format!("carafe and kafka-protocol have no version of {key} in common");
            return Err(Error::new(ErrorKind::UnsupportedVersion, message));
        };
        let mut attempt = 1;
        loop {
            let connection = self.cluster.route_to(to.into(), deadline).await?;
            match send_once(&connection, key, spoken, request, deadline).await {
                Err((_, true)) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome.map_err(|(error, _)| error),
            }
        }
    }
}

/// The answer, or an error and whether nothing was written.
async fn send_once<R: Request>(
    connection: &Connection,
    key: ApiKey,
    spoken: VersionRange,
    request: &R,
    deadline: Instant,
) -> std::result::Result<R::Response, (Error, bool)> {
    let failed = |error: Error| (error.with_peer(connection.peer().to_string()), false);
    let version = connection.version(key, spoken).map_err(|error| (error, false))?;
    let mut body = BytesMut::new();
    request.encode(&mut body, version).map_err(|error| {
        let message = format!("kafka-protocol cannot encode {key} version {version}: {error}");
        failed(Error::new(ErrorKind::UnsupportedVersion, message))
    })?;
    let patience = deadline.max(Instant::now() + connection.request_timeout());
    let pending = connection.send_raw(key, version, vec![body.freeze()], patience, true);
    let answer = timeout_at(deadline, pending).await.map_err(|_| {
        let message = format!("no answer to {key} before the deadline");
        failed(Error::new(ErrorKind::Timeout, message).with_phase(Phase::Request))
    })?;
    let answer = answer.map_err(|error| (error.error, error.unsent))?;
    read(key, version, answer.reader()).map_err(|(error, broken)| {
        if broken {
            connection.fail(&error);
        }
        failed(error)
    })
}

/// The response, or an error and whether the peer is to blame.
fn read<T: Message + Decodable>(
    key: ApiKey,
    version: i16,
    reader: Result<Reader>,
) -> std::result::Result<T, (Error, bool)> {
    let mut reader = reader.map_err(|error| (error, true))?;
    let mut body: Bytes = reader.rest();
    check_response(key, &mut reader, version).map_err(|error| (Error::from(error), true))?;
    T::decode(&mut body, version).map_err(|error| {
        let message = format!("kafka-protocol cannot decode {key} version {version}: {error}");
        (Error::new(ErrorKind::Protocol, message).with_phase(Phase::Decode), false)
    })
}

#[cfg(all(test, feature = "broker"))]
mod tests {
    use std::time::Duration;

    use kafka_protocol::messages::offset_commit_request::{
        OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    };
    use kafka_protocol::messages::{
        GroupId as TheirGroup, MetadataRequest, OffsetCommitRequest, TopicName, VoteRequest,
    };
    use kafka_protocol::protocol::StrBytes;

    use std::error::Error as _;

    use super::*;
    use crate::broker;
    use crate::cluster::script::Stage;
    use crate::runtime::Runtime;
    use crate::runtime::sim::SimRuntime;

    async fn client(runtime: std::sync::Arc<dyn Runtime>, servers: &str) -> Client {
        Client::builder().bootstrap_servers(servers).runtime(runtime).build().await.unwrap()
    }

    fn soon() -> Duration {
        Duration::from_secs(30)
    }

    #[tokio::test(start_paused = true)]
    async fn requests_go_to_whoever_is_responsible_in_a_version_that_all_share() {
        let runtime: std::sync::Arc<dyn Runtime> = SimRuntime::new(1);
        let builder = broker::Cluster::builder().nodes(3).topic("t", 3).runtime(runtime.clone());
        let cluster = builder.start().await.unwrap();
        let client = client(runtime, &cluster.bootstrap_servers()).await;

        let mut seen = Vec::new();
        for node in 0..3 {
            let to = SendTo::Broker(NodeId(node));
            let answer = client.send_to(to, &MetadataRequest::default(), soon()).await.unwrap();
            seen.push(answer.brokers.len());
        }
        assert_eq!(seen, [3, 3, 3]);

        // The broker offers version 10 and the crate claims it, but its requests end at 9.
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(7);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(StrBytes::from_static_str("t")))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(TheirGroup(StrBytes::from_static_str("g")))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let group = GroupId::from("g");
        let answer = client.send_to(SendTo::GroupCoordinator(&group), &request, soon()).await.unwrap();
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_sent_is_refused() {
        let sim = SimRuntime::new(2);
        let cluster = broker::Cluster::builder().runtime(sim.clone()).start().await.unwrap();
        let client = client(sim, &cluster.bootstrap_servers()).await;

        let unanswered = ProduceRequest::default().with_acks(0);
        let error = client.send_to(SendTo::Any, &unanswered, soon()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);

        let error = client.send_to(SendTo::Any, &VoteRequest::default(), soon()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedVersion);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lie_about_a_length_costs_an_error() {
        let sim = SimRuntime::new(3);
        let stage = Stage::new(&sim).await;
        let client = client(sim.clone(), &format!("localhost:{}", stage.port())).await;
        let broker = async {
            // The first shows that the node answers; foreign requests have a connection of their own.
            let _short = stage.accept_negotiated().await;
            let mut actor = stage.accept_negotiated().await;
            let head = actor.expect(ApiKey::METADATA).await;
            // Throttle time, then four billion brokers.
            let mut frame = vec![0, 0, 0, 14];
            frame.extend(head.correlation_id.to_be_bytes());
            frame.extend([0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
            actor.write(&frame).await;
            assert!(actor.is_closed().await);
        };
        let request = MetadataRequest::default();
        let (answer, ()) = tokio::join!(client.send_to(SendTo::Any, &request, soon()), broker);
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        let source = error.source().expect("the decoder's error").to_string();
        assert!(source.contains("brokers") && source.contains("4294967294"), "{source}");
    }
}
