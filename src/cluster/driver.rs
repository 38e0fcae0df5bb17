//! The tasks of a cluster: one that keeps metadata fresh, and one per attempt to open a connection.

use std::sync::{Arc, Weak};

use tokio::time::{Instant, sleep_until};

use super::conditions::{CLIENT, Condition, ConditionEvent, ConditionKind, ConditionStage, Subject};
use super::metadata::Metadata;
use super::nodes::{AnySearch, Attempt, ConnectionId, Duty, NodeSearch, Nodes, Output, Seen, Step};
use super::shared::{Connections, Shared};
use super::updater::{self, Query};
use crate::error::Chain;
use crate::net::{Connection, Failure};
use crate::runtime::report_starved;
use crate::types::NodeId;
use crate::wire::messages::metadata::MetadataRequestTopic;
use crate::wire::messages::{MetadataRequest, MetadataResponse};
use crate::wire::{ApiKey, Message};
use crate::{Error, Result};

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
        let mut query = None;
        let deadline = {
            let mut updater = shared.updater();
            updater.handle_timeout(Instant::now());
            while let Some(output) = updater.poll_output() {
                match output {
                    updater::Output::Ask(asked) => query = Some(asked),
                    updater::Output::ClusterReplaced { known, now } => tracing::warn!(
                        known = &*known,
                        now = &*now,
                        "the cluster behind the same names has another id: it was replaced or the names moved; \
                         what was known of its topics is dropped"
                    ),
                }
            }
            updater.next_deadline()
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
        // Biased: a wish comes before the timer; both lead to the same question to the machine.
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
            conditions.handle_timeout(Instant::now());
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
        publish(shared, Arc::clone(&metadata));
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
        let found = any_connection(shared, &query.avoid, query.reach_by(Instant::now())).await;
        let (node, connection) = found.map_err(|error| (None, error))?;
        let failed = |error| (Some(node), error);
        let version = connection.version(ApiKey::METADATA, MetadataRequest::VERSIONS).map_err(failed)?;
        let deadline = query.answer_by(Instant::now());
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
    let mut search = NodeSearch::new(node, duty, deadline);
    let found = find(shared, |nodes, now, _| nodes.plan_node(now, &mut search)).await;
    found.map(|(_, connection)| connection)
}

/// A connection for short requests to whichever node is the least busy, and to one of `avoid` only if no other can be had
/// at once. Cancel-safe.
///
/// # Errors
///
/// As [`connection`], of the last node tried.
pub(super) async fn any_connection(
    shared: &Arc<Shared>,
    avoid: &[NodeId],
    deadline: Instant,
) -> Result<(NodeId, Connection)> {
    let mut search = AnySearch::new(avoid, deadline);
    find(shared, |nodes, now, seen| nodes.plan_any(now, &mut search, seen)).await
}

/// Carries out the steps of a search until it ends.
async fn find(
    shared: &Arc<Shared>,
    mut plan: impl FnMut(&mut Nodes, Instant, &mut Seen<'_>) -> Step,
) -> Result<(NodeId, Connection)> {
    let mut events = shared.events.subscribe();
    loop {
        shared.check_open()?;
        events.borrow_and_update();
        let now = Instant::now();
        let bootstrap_only = shared.updater().wants_bootstrap();
        let step = with_connections(shared, |Connections { nodes, live }| {
            loop {
                let load = |id: ConnectionId| live.get(&id).map_or(0, Connection::in_flight);
                let dice = &mut || shared.runtime.random();
                match plan(nodes, now, &mut Seen { bootstrap_only, load: &load, dice }) {
                    Step::Use(node, id) => match live.get(&id).filter(|connection| !connection.is_closed()) {
                        Some(connection) => return Ok(Ok((node, connection.clone()))),
                        None => nodes.handle_closed(node, id),
                    },
                    Step::Wait(until) => return Err(until),
                    Step::Failed(error) => return Ok(Err(error)),
                }
            }
        });
        let until = match step {
            Ok(found) => return found,
            Err(until) => until,
        };
        // Biased: news of a connection go before the timer, which only ends the wait.
        tokio::select! {
            biased;
            _ = events.changed() => {}
            () = sleep_until(until) => {}
        }
    }
}

/// Tells the machine of connections something, and carries out what it wants.
pub(super) fn with_nodes(shared: &Arc<Shared>, tell: impl FnOnce(&mut Nodes)) {
    with_connections(shared, |connections| tell(&mut connections.nodes));
}

fn with_connections<R>(shared: &Arc<Shared>, tell: impl FnOnce(&mut Connections) -> R) -> R {
    let (answer, outputs) = {
        let mut connections = shared.connections();
        let answer = tell(&mut connections);
        let mut outputs = Vec::new();
        while let Some(output) = connections.nodes.poll_output() {
            match output {
                Output::Close(id, limit) => {
                    if let Some(connection) = connections.live.remove(&id) {
                        connection.close(limit);
                    }
                }
                output => outputs.push(output),
            }
        }
        (answer, outputs)
    };
    // Without the lock, which comes after that of the machine of metadata.
    for output in outputs {
        match output {
            Output::Open(attempt) => open(shared, attempt),
            Output::Reached(node) => shared.report_reached(node),
            Output::Unreached(node, error) => shared.report_unreached(node, error),
            Output::Abandoned(node) => shared.coordinators.forget_node(node),
            Output::Gone(node) => shared.report_gone(node),
            Output::Refresh => shared.refresh(),
            Output::Close(..) => {}
        }
    }
    answer
}

/// Makes a snapshot visible, unless a newer one is.
pub(super) fn publish(shared: &Arc<Shared>, metadata: Arc<Metadata>) {
    with_nodes(shared, |nodes| nodes.handle_nodes(Instant::now(), &metadata.nodes));
    shared.snapshot.send_if_modified(|current| {
        let newer = metadata.generation > current.generation;
        if newer {
            *current = metadata;
        }
        newer
    });
}

/// Ends the tasks; connections drain.
pub(super) fn close(shared: &Arc<Shared>) {
    shared.closed.send_replace(true);
    with_nodes(shared, Nodes::close);
}

/// Makes an attempt in a task of its own, so that nobody who waits can cancel it for the others.
fn open(shared: &Arc<Shared>, attempt: Attempt) {
    let weak = Arc::downgrade(shared);
    let connector = shared.connector.clone();
    let mut closed = shared.closed.subscribe();
    let task = async move {
        let (node, id) = (attempt.node, attempt.id);
        let ended = {
            let weak = Weak::clone(&weak);
            move |failure: Failure| {
                let Some(shared) = weak.upgrade() else { return };
                with_connections(&shared, |Connections { nodes, live }| {
                    live.remove(&id);
                    nodes.handle_ended(node, id, failure);
                });
                shared.events.send_modify(|count| *count += 1);
            }
        };
        // Biased: the end of the client goes first, since nobody wants the connection then.
        let result = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return,
            result = connector.open(attempt.peer.clone(), attempt.setup_timeout, ended) => result,
        };
        let Some(shared) = weak.upgrade() else { return };
        if let Err(failure) = &result {
            tracing::debug!(peer = %attempt.peer, phase = ?failure.phase, reason = failure.reason(), "no connection");
        }
        shared.report_certificates(shared.connector.stale_certificates());
        let dice = shared.runtime.random();
        with_connections(&shared, |Connections { nodes, live }| {
            let result = result.map(|connection| {
                live.insert(id, connection);
            });
            nodes.handle_opened(Instant::now(), &attempt, result, dice);
        });
        shared.events.send_modify(|count| *count += 1);
    };
    shared.runtime.spawn("carafe-dial", Box::pin(task));
}
