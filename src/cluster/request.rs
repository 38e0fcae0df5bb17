//! Requests to whoever is responsible, tried again until a deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::conditions::{CLIENT, ConditionKind, Subject};
use super::coordinators::CoordinatorKind;
use super::driver;
use super::handle::Cluster;
use super::nodes::Duty;
use super::retry::{Doubt, doubt};
use super::updater;
use crate::deadline;
use crate::net::Connection;
use crate::runtime::BoxFuture;
use crate::types::{NodeId, TopicPartition};
use crate::wire::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use crate::wire::{ApiKey, Request, Str, VersionRange};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// Attempts in a row that may fail with nothing written before one is counted as a failure.
const UNSENT_MAX: u32 = 3;

/// Who is responsible for a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// Any node; the least busy one is asked.
    Any,
    /// The controller, or (KRaft) whoever poses as it.
    Controller,
    /// This node.
    Node(NodeId),
    /// The leader of this partition.
    Leader(&'a TopicPartition),
    /// The coordinator of this group or transactional id.
    Coordinator(CoordinatorKind, &'a str),
}

/// How a request is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// When to give up.
    pub(crate) deadline: Instant,
    /// Which connection to use.
    pub(crate) duty: Duty,
    /// Time that the broker may take by itself (rebalance timeout, long poll); a try lasts this much longer.
    pub(crate) server_wait: Duration,
    /// Highest version to use, where the newest would need something that is not at hand (topic ids).
    pub(crate) version_max: i16,
    /// A failure is not tried again: whoever asks for many things at once asks somebody else for each of them then.
    pub(crate) once: bool,
}

impl Call {
    /// A short request that is given up at `deadline`.
    pub(crate) fn until(deadline: Instant) -> Self {
        let (duty, server_wait) = (Duty::Short, Duration::ZERO);
        Self { deadline, duty, server_wait, version_max: i16::MAX, once: false }
    }

    /// A request that the broker may sit on, over a connection that belongs to `owner` alone; see [`Duty::Slow`].
    pub(crate) fn slow(deadline: Instant, owner: u64) -> Self {
        Self { duty: Duty::Slow(owner), ..Self::until(deadline) }
    }
}

/// Connections of its own for requests that a broker may sit on; they close with it.
#[derive(Debug)]
pub(crate) struct SlowLane {
    cluster: Cluster,
    id: u64,
}

impl SlowLane {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { id: cluster.next_id(), cluster }
    }

    /// A call over these connections.
    pub(crate) fn call(&self, deadline: Instant) -> Call {
        Call::slow(deadline, self.id)
    }
}

impl Drop for SlowLane {
    fn drop(&mut self) {
        self.cluster.release(Duty::Slow(self.id));
    }
}

impl Cluster {
    /// Sends a request to `target` and tries again, on a new connection and after asking who is responsible now where
    /// that is in doubt, until the call's deadline.
    ///
    /// `build` makes the request for the version that was negotiated; `check` gives the response's top-level error code
    /// ([`ErrorCode::NONE`] if errors of single items are the caller's affair).
    ///
    /// # Errors
    ///
    /// Errors that a retry cannot help come back at once. At the deadline: `Timeout` with the latest error as source.
    /// Cancel-safe in that everything stays usable; whether the broker acted is unknown.
    pub(crate) async fn request<R: Request>(
        &self,
        target: Target<'_>,
        call: Call,
        mut build: impl FnMut(i16) -> Result<R>,
        check: impl Fn(&R::Response) -> ErrorCode,
    ) -> Result<R::Response> {
        let mut failures = 0u32;
        let mut unsent = 0;
        let mut avoid = Vec::new();
        loop {
            self.check_open()?;
            let attempt = self.attempt(target, call, &avoid, failures, &mut build, &check).await;
            let failure = match attempt {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            if !failure.error.is_retriable() {
                return Err(failure.error);
            }
            if failure.unsent && unsent < UNSENT_MAX {
                unsent += 1;
                continue;
            }
            unsent = 0;
            failures += 1;
            if failure.error.code().is_some() {
                // Whoever answers is alive.
                avoid.clear();
            }
            avoid.extend(failure.node.filter(|node| !avoid.contains(node)));
            self.doubt(target, &failure);
            if call.once {
                return Err(failure.error);
            }
            let pause = self.config().retry_backoff.delay(failures, self.runtime().random());
            let pause = failure.error.throttle().map_or(pause, |throttle| throttle.max(pause));
            let next = Instant::now() + pause;
            if next >= call.deadline {
                return Err(give_up(R::KEY, failures, failure.error));
            }
            sleep_until(next).await;
        }
    }

    /// [`request`](Self::request) to any node, with a message that is the same in all versions.
    pub(crate) async fn request_any<R: Request + Clone>(
        &self,
        request: &R,
        call: Call,
        check: impl Fn(&R::Response) -> ErrorCode,
    ) -> Result<R::Response> {
        self.request(Target::Any, call, |_| Ok(request.clone()), check).await
    }

    /// [`request`](Self::request) to `node`, with a message that is the same in all versions.
    pub(crate) async fn request_node<R: Request + Clone>(
        &self,
        node: NodeId,
        request: &R,
        call: Call,
        check: impl Fn(&R::Response) -> ErrorCode,
    ) -> Result<R::Response> {
        self.request(Target::Node(node), call, |_| Ok(request.clone()), check).await
    }

    /// A connection for one request of the `kafka-protocol` crate to `target`.
    ///
    /// # Errors
    ///
    /// What keeps the node from being found or reached, or `Timeout` at `deadline`. Cancel-safe.
    #[cfg(feature = "kafka-protocol")]
    pub(crate) async fn route_to(&self, target: Target<'_>, deadline: Instant) -> Result<Connection> {
        self.check_open()?;
        let call = Call { duty: Duty::Foreign, ..Call::until(deadline) };
        let route = self.route(target, call, &[], Duration::MAX).await;
        let (_, connection) = route.map_err(|failure| failure.error)?;
        // Nobody reads the answer's error code here, so the next request asks anew who is responsible.
        match target {
            Target::Leader(partition) => self.leader_failed(&partition.topic),
            Target::Coordinator(kind, key) => self.coordinator_failed(kind, key),
            Target::Any | Target::Controller | Target::Node(_) => {}
        }
        Ok(connection)
    }

    async fn attempt<R: Request>(
        &self,
        target: Target<'_>,
        call: Call,
        avoid: &[NodeId],
        failures: u32,
        build: &mut impl FnMut(i16) -> Result<R>,
        check: &impl Fn(&R::Response) -> ErrorCode,
    ) -> std::result::Result<R::Response, AttemptError> {
        let (node, connection) = self.route(target, call, avoid, updater::patience(failures)).await?;
        let failed = |error, unsent| AttemptError { error, unsent, node: Some(node) };
        let ours = VersionRange { min: R::VERSIONS.min, max: R::VERSIONS.max.min(call.version_max) };
        let version = connection.version(R::KEY, ours).map_err(|error| failed(error, false))?;
        let request = build(version).map_err(|error| failed(error, false))?;
        let request_timeout = self.config().connection.request_timeout;
        let patience = match (target, call.duty) {
            // Another node will do as well, so a frozen one costs a moment.
            (Target::Any, Duty::Short) => updater::patience(failures).min(request_timeout),
            _ => request_timeout + call.server_wait,
        };
        let limit = Instant::now() + patience;
        let answer = async {
            let answer = connection.send(&request, version, call.deadline.min(limit)).await;
            answer.map_err(|error| failed(error.error, error.unsent))
        };
        let response = match target {
            Target::Coordinator(kind, key) => {
                let answer = self.coordinated(kind, key, node, answer).await;
                answer.unwrap_or_else(|error| Err(failed(error, false)))?
            }
            _ => answer.await?,
        };
        let code = check(&response);
        if code.is_ok() {
            return Ok(response);
        }
        let error =
            Error::from_code(code, format!("{} failed", R::KEY)).with_peer(connection.peer().to_string());
        Err(failed(error, false))
    }

    /// Whom to ask over which connection. Where another node will do as well, one that accepts the connection and says nothing,
    /// as if it were frozen, has no more than `patience`.
    async fn route(
        &self,
        target: Target<'_>,
        call: Call,
        avoid: &[NodeId],
        patience: Duration,
    ) -> std::result::Result<(NodeId, Connection), AttemptError> {
        let failed = |node| move |error| AttemptError { error, unsent: false, node };
        let node = match target {
            Target::Any => None,
            Target::Controller => {
                let metadata = self.ready(call.deadline).await.map_err(failed(None))?;
                // Without a controller any node will say who it is, or that it is not.
                metadata.controller.filter(|controller| metadata.nodes.contains_key(controller))
            }
            Target::Node(node) => {
                if node.0 >= 0 {
                    self.ready(call.deadline).await.map_err(failed(None))?;
                }
                Some(node)
            }
            Target::Leader(partition) => {
                Some(self.leader(partition, call.deadline).await.map_err(failed(None))?.0)
            }
            Target::Coordinator(kind, key) => {
                Some(self.coordinator(kind, key, call.deadline).await.map_err(failed(None))?)
            }
        };
        let (node, until) = match node {
            Some(node) => (node, call.deadline),
            None => {
                let any = driver::any_connection(&self.shared, avoid, call.deadline).await;
                let (node, connection) = any.map_err(failed(None))?;
                if call.duty == Duty::Short {
                    return Ok((node, connection));
                }
                (node, call.deadline.min(deadline::after(Instant::now(), patience)))
            }
        };
        let connection = self.connection(node, call.duty, until).await;
        Ok((node, connection.map_err(failed(Some(node)))?))
    }

    /// Drops the belief that led an attempt astray.
    fn doubt(&self, target: Target<'_>, failure: &AttemptError) {
        let coordinated = matches!(target, Target::Coordinator(..));
        let doubted = match failure.error.code() {
            Some(code) => doubt(code, coordinated),
            None if coordinated => Doubt::Coordinator,
            None => Doubt::Metadata,
        };
        match (doubted, target) {
            (Doubt::Nothing, _) => {}
            (Doubt::Metadata, Target::Leader(partition)) => self.leader_failed(&partition.topic),
            (Doubt::Metadata, _) => self.refresh(),
            (Doubt::Coordinator, Target::Coordinator(kind, key)) => self.coordinator_failed(kind, key),
            (Doubt::Coordinator, _) => {}
        }
    }

    /// Asks any node who coordinates `key`.
    pub(super) fn find_coordinator<'a>(
        &'a self,
        kind: CoordinatorKind,
        key: &'a str,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<NodeId>> {
        // Boxed, because requests to coordinators call it, and it makes a request.
        Box::pin(self.look_up_coordinator(kind, key, deadline))
    }

    async fn look_up_coordinator(
        &self,
        kind: CoordinatorKind,
        key: &str,
        deadline: Instant,
    ) -> Result<NodeId> {
        let build = |version| {
            let key = Str::from(key);
            let mut request = FindCoordinatorRequest::default();
            if version >= 1 {
                request.key_type = kind as i8;
            } else if kind != CoordinatorKind::Group {
                let message = "the broker is too old to have transaction coordinators";
                return Err(Error::new(ErrorKind::UnsupportedVersion, message));
            }
            if version >= 4 {
                request.coordinator_keys = vec![key];
            } else {
                request.key = key;
            }
            Ok(request)
        };
        let group = (kind == CoordinatorKind::Group).then(|| Subject::Group(key.into()));
        let check = |response: &FindCoordinatorResponse| {
            let code =
                ErrorCode(response.coordinators.first().map_or(response.error_code, |one| one.error_code));
            if let Some(group) = group.as_ref().filter(|_| code.is_retriable()) {
                let error = Error::from_code(code, format!("{group} has no coordinator"));
                self.raise(CLIENT, group.clone(), ConditionKind::NoCoordinator, error);
            }
            code
        };
        let response = self.request(Target::Any, Call::until(deadline), build, check).await?;
        let (node, host, port) = match response.coordinators.first() {
            Some(found) => (found.node_id, &found.host, found.port),
            None => (response.node_id, &response.host, response.port),
        };
        let (Ok(port), true) = (u16::try_from(port), node >= 0) else {
            let message =
                format!("a broker named node {node} at {host}:{port} as the coordinator of {key:?}");
            return Err(Error::new(ErrorKind::Protocol, message));
        };
        if let Some(group) = &group {
            self.clear(CLIENT, group, ConditionKind::NoCoordinator);
        }
        self.learn(NodeId(node), host, port);
        Ok(NodeId(node))
    }
}

struct AttemptError {
    error: Error,
    unsent: bool,
    node: Option<NodeId>,
}

fn give_up(key: ApiKey, failures: u32, last: Error) -> Error {
    if last.is_timeout() && failures == 1 {
        return last;
    }
    let mut error = Error::new(ErrorKind::Timeout, format!("{key} did not succeed in {failures} attempts"));
    if let Some(code) = last.code() {
        error = error.with_code(code);
    }
    error.with_source(last)
}
