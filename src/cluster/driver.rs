//! The tasks of a cluster: one that keeps metadata fresh, and one per attempt to open a connection.

use std::sync::{Arc, Weak};

use tokio::time::{Instant, sleep_until};

use crate::error::Chain;
use crate::net::{Connection, Failure};
use crate::runtime::report_starved;
use crate::types::NodeId;
use crate::wire::messages::metadata::MetadataRequestTopic;
use crate::wire::messages::{MetadataRequest, MetadataResponse};
use crate::wire::{ApiKey, Message};
use crate::{Error, ErrorKind, Result};

use super::conditions::{CLIENT, Condition, ConditionEvent, ConditionKind, ConditionStage, Subject};
use super::handle::Shared;
use super::nodes::{Acquired, Attempt, Duty};
use super::updater::Query;

/// Asks for metadata whenever the machine wants to, until the cluster is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut closed = shared.closed.subscribe();
    // Biased: the end goes first. The other branch is the whole loop, so nothing can be starved.
    tokio::select! {
        biased;
        _ = closed.wait_for(|closed| *closed) => {}
        () = keep_fresh(&shared) => {}
    }
}

async fn keep_fresh(shared: &Arc<Shared>) {
    loop {
        let now = Instant::now();
        let (query, deadline) = {
            let mut updater = shared.updater();
            let query = updater.poll_query(now);
            (query, updater.next_deadline())
        };
        if let Some(query) = query {
            ask(shared, query).await;
            continue;
        }
        let sleep = async {
            match deadline {
                Some(at) => shared.runtime.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Biased: a wish goes before the timer; both lead to the same question to the machine.
        tokio::select! {
            biased;
            () = shared.wake.notified() => {}
            late = sleep => if let Some(late) = late {
                report_starved("metadata", late);
            }
        }
    }
}

/// Tells conditions that last, until the cluster is closed.
pub(super) async fn tell_conditions(shared: Arc<Shared>) {
    let mut closed = shared.closed.subscribe();
    loop {
        let (seen, events, count, deadline) = {
            let seen = *shared.told.borrow();
            let mut conditions = shared.conditions();
            conditions.poll(Instant::now());
            let (events, count) = conditions.events(seen);
            (seen, events, count, conditions.next_deadline())
        };
        for (_, event) in &events {
            log_condition(event);
        }
        if count > seen {
            shared.told.send_replace(count);
        }
        let sleep = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Biased: the end goes first, then what was reported; the timer leads to the same question to the machine.
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return,
            () = shared.raised.notified() => {}
            () = sleep => {}
        }
    }
}

fn log_condition(ConditionEvent { condition, stage }: &ConditionEvent) {
    let Condition { subject, kind, error, lasted } = condition;
    match stage {
        ConditionStage::Ended => tracing::info!(%subject, ?kind, ?lasted, "trouble is over"),
        ConditionStage::Began | ConditionStage::Lasts => {
            let error = Chain(error);
            tracing::warn!(%subject, ?kind, ?lasted, %error, "trouble lasts");
        }
    }
}

async fn ask(shared: &Arc<Shared>, query: Query) {
    let answer = fetch(shared, &query).await;
    let (now, dice) = (Instant::now(), shared.runtime.random());
    let (learned, failure) = {
        let mut updater = shared.updater();
        let learned = match answer {
            Ok((asked, version, response)) => updater.handle_response(now, asked, &response, version, dice),
            Err((asked, error)) => {
                updater.handle_failure(now, asked, error, dice);
                None
            }
        };
        (learned, updater.last_error().cloned())
    };
    if let Some(metadata) = learned {
        shared.publish(Arc::clone(&metadata));
        shared.report_answer(&metadata, &query.topics);
    } else if let Some(error) = failure {
        tracing::debug!(%error, "metadata could not be fetched");
        shared.raise(CLIENT, Subject::Cluster, ConditionKind::Unreachable, error);
    }
}

/// Who answered in which version, or who did not and why.
type Answered = (NodeId, i16, MetadataResponse);
type Unanswered = (Option<NodeId>, Error);

async fn fetch(shared: &Arc<Shared>, query: &Query) -> std::result::Result<Answered, Unanswered> {
    let mut unsent = 0;
    loop {
        let deadline = Instant::now() + shared.config.connection.request_timeout;
        let found = any_connection(shared, &query.avoid, deadline).await;
        let (node, connection) = found.map_err(|error| (None, error))?;
        let failed = |error| (Some(node), error);
        let version = connection.version(ApiKey::METADATA, MetadataRequest::VERSIONS).map_err(failed)?;
        let deadline = Instant::now() + query.patience;
        match connection.send(&request(query, version), version, deadline).await {
            Ok(response) => return Ok((node, version, response)),
            // A connection that had ended unnoticed costs nothing.
            Err(error) if error.unsent && unsent < 3 => unsent += 1,
            Err(error) => return Err(failed(error.error)),
        }
    }
}

fn request(query: &Query, version: i16) -> MetadataRequest {
    let topics = query
        .topics
        .iter()
        .map(|topic| MetadataRequestTopic { name: Some(topic.to_byte_string()), ..Default::default() })
        .collect();
    MetadataRequest {
        topics: Some(topics),
        allow_auto_topic_creation: query.create || version < 4,
        ..Default::default()
    }
}

/// See [`Cluster::connection`](super::Cluster::connection).
pub(super) async fn connection(
    shared: &Arc<Shared>,
    node: NodeId,
    duty: Duty,
    deadline: Instant,
) -> Result<Connection> {
    let mut events = shared.events.subscribe();
    let mut waiting = None;
    loop {
        if *shared.closed.borrow() {
            return Err(Error::new(ErrorKind::State, "the client was closed"));
        }
        events.borrow_and_update();
        let now = Instant::now();
        let acquired = shared.nodes().acquire(now, node, duty, &mut waiting);
        let mut until = deadline;
        match acquired {
            Acquired::Ready(connection) => return Ok(connection),
            Acquired::Open(attempt) => open(shared, attempt),
            Acquired::Wait => {}
            Acquired::WaitUntil(at) => until = at.min(deadline),
            Acquired::Failed(failure, peer) => return Err(failure.to_error("no connection", &peer)),
            Acquired::Unknown => {
                shared.refresh();
                let message = format!("node {node} is not part of the cluster at the moment");
                return Err(Error::new(ErrorKind::Network, message));
            }
        }
        if now >= deadline {
            let error =
                Error::new(ErrorKind::Timeout, format!("no connection to node {node} before the deadline"));
            return Err(because(error, shared.nodes().reason(Some(node))));
        }
        // Biased: news of a connection go before the timer, which only ends the wait.
        tokio::select! {
            biased;
            _ = events.changed() => {}
            () = sleep_until(until) => {}
        }
    }
}

/// A connection for short requests to whichever node is the least busy, and to one of `avoid` only if no other can be had
/// at once. Dials one node, and after a while another beside it. Cancel-safe.
///
/// # Errors
///
/// As [`connection`], of the last node tried.
pub(super) async fn any_connection(
    shared: &Arc<Shared>,
    avoid: &[NodeId],
    deadline: Instant,
) -> Result<(NodeId, Connection)> {
    let mut events = shared.events.subscribe();
    let mut dialled: Vec<(NodeId, Option<u64>)> = Vec::new();
    let mut failed: Vec<NodeId> = Vec::new();
    let mut next_dial = Instant::now();
    let mut last: Option<Error> = None;
    let mut avoid = avoid;
    loop {
        if *shared.closed.borrow() {
            return Err(Error::new(ErrorKind::State, "the client was closed"));
        }
        events.borrow_and_update();
        let now = Instant::now();
        let bootstrap_only = shared.updater().wants_bootstrap();
        if let Some(found) = shared.nodes().least_loaded(avoid, bootstrap_only) {
            return Ok(found);
        }
        let mut pending = false;
        for (node, waiting) in &mut dialled {
            if failed.contains(node) {
                continue;
            }
            let acquired = shared.nodes().acquire(now, *node, Duty::Short, waiting);
            match acquired {
                Acquired::Ready(connection) => return Ok((*node, connection)),
                Acquired::Open(attempt) => {
                    open(shared, attempt);
                    pending = true;
                }
                Acquired::Wait => pending = true,
                Acquired::WaitUntil(_) | Acquired::Unknown => failed.push(*node),
                Acquired::Failed(failure, peer) => {
                    last = Some(failure.to_error("no connection", &peer));
                    failed.push(*node);
                }
            }
        }
        let mut until = deadline;
        if !pending || now >= next_dial {
            let tried: Vec<_> = avoid.iter().chain(dialled.iter().map(|(node, _)| node)).copied().collect();
            let candidate = shared.nodes().candidate(now, &tried, bootstrap_only, shared.runtime.random());
            match candidate {
                Some(node) => {
                    dialled.push((node, None));
                    next_dial = now + shared.config.dial_stagger;
                    continue;
                }
                // Those to avoid are the only ones, or the others do not answer.
                None if !avoid.is_empty() => {
                    avoid = &[];
                    continue;
                }
                None if pending => {}
                None => match last {
                    Some(error) => return Err(error),
                    None => match shared.nodes().next_retry(now) {
                        Some(at) => until = at.min(deadline),
                        None => return Err(Error::new(ErrorKind::Network, "there is no node to ask")),
                    },
                },
            }
        } else {
            until = next_dial.min(deadline);
        }
        if now >= deadline {
            let error = Error::new(ErrorKind::Timeout, "no broker could be reached before the deadline");
            return Err(because(error, last.or_else(|| shared.nodes().reason(None))));
        }
        // Biased: news of a connection go before the timer, which only ends the wait.
        tokio::select! {
            biased;
            _ = events.changed() => {}
            () = sleep_until(until) => {}
        }
    }
}

/// A deadline that passed, with the reason behind it and the phase that the reason names.
pub(super) fn because(error: Error, reason: Option<Error>) -> Error {
    let Some(reason) = reason else { return error };
    let error = match reason.phase() {
        Some(phase) => error.with_phase(phase),
        None => error,
    };
    error.with_source(reason)
}

/// Makes an attempt in a task of its own, so that nobody who waits can cancel it for the others.
fn open(shared: &Arc<Shared>, attempt: Attempt) {
    let weak = Arc::downgrade(shared);
    let connector = shared.connector.clone();
    let mut closed = shared.closed.subscribe();
    let task = async move {
        let node = attempt.node;
        let ended = {
            let weak = Weak::clone(&weak);
            move |failure: Failure| connection_ended(&weak, node, failure)
        };
        // Biased: the end of the client goes first, since nobody wants the connection then.
        let result = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return,
            result = connector.open(attempt.peer.clone(), attempt.setup_timeout, ended) => result,
        };
        let Some(shared) = weak.upgrade() else { return };
        match &result {
            Ok(_) => shared.report_reached(node),
            Err(failure) => {
                tracing::debug!(peer = %attempt.peer, phase = ?failure.phase, reason = failure.reason(), "no connection");
                shared.coordinators.forget_node(node);
                shared.report_unreached(node, failure.to_error("no connection", &attempt.peer));
            }
        }
        let dice = shared.runtime.random();
        shared.nodes().handle_opened(Instant::now(), &attempt, result, dice);
        shared.events.send_modify(|count| *count += 1);
    };
    shared.runtime.spawn("carafe-dial", Box::pin(task));
}

fn connection_ended(shared: &Weak<Shared>, node: NodeId, failure: Failure) {
    let Some(shared) = shared.upgrade() else { return };
    if failure.alarming && !*shared.closed.borrow() {
        let error = shared.nodes().handle_ended(node, failure);
        match error {
            // Nobody there, as far as one can tell from here.
            Some(error) if error.is_timeout() => shared.report_unreached(node, error),
            // A broker that goes away usually takes leaders with it.
            _ if node.0 >= 0 => shared.refresh(),
            _ => {}
        }
    }
    shared.events.send_modify(|count| *count += 1);
}
