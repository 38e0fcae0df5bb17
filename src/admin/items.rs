//! What operations on many items have in common.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;

use tokio::time::{Instant, sleep_until};

use super::{Admin, Results};
use crate::cluster::{Call, Target};
use crate::runtime::BoxFuture;
use crate::types::TopicName;
use crate::wire::{Request, Str};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// What a broker said about one item.
pub(super) struct Said<K, T> {
    pub(super) item: K,
    pub(super) code: ErrorCode,
    pub(super) message: Option<Str>,
    pub(super) value: T,
}

impl Admin {
    /// Asks the controller to do something with topics; see [`items_at`](Self::items_at). `attempted`
    /// completes "topic t …".
    pub(super) async fn topic_items<R: Request, I, T>(
        &self,
        topics: Vec<TopicName>,
        attempted: &str,
        item: impl Fn(&TopicName, i16) -> Result<I>,
        build: impl Fn(Vec<I>, i16, i32) -> R,
        read: impl Fn(&R::Response) -> Vec<Said<TopicName, T>>,
    ) -> Result<Results<TopicName, T>> {
        let mut results = Results::new();
        let topics = legal_topics(topics, attempted, &mut results);
        let what = |topic: &TopicName| format!("topic {topic} {attempted}");
        results.extend(self.items_at(Target::Controller, topics, what, item, build, read).await?);
        Ok(results)
    }

    /// Asks a node, such as the controller, to do something with items, and again for those over a quota (KIP-599), or that
    /// met a node on its way out, until the deadline.
    ///
    /// `item` says how one is asked for in a version of the request, or why it cannot be; `what` names one and what did not
    /// come about.
    pub(super) async fn items_at<K: Ord + Clone, R: Request, I, T>(
        &self,
        target: Target<'_>,
        items: Vec<K>,
        what: impl Fn(&K) -> String,
        item: impl Fn(&K, i16) -> Result<I>,
        build: impl Fn(Vec<I>, i16, i32) -> R,
        read: impl Fn(&R::Response) -> Vec<Said<K, T>>,
    ) -> Result<Results<K, T>> {
        self.items_up_to(target, i16::MAX, items, what, item, build, read).await
    }

    /// [`items_at`](Self::items_at) in versions of the request up to `version_max`.
    #[expect(clippy::too_many_arguments, reason = "the request in parts, each a closure of its caller")]
    pub(super) async fn items_up_to<K: Ord + Clone, R: Request, I, T>(
        &self,
        target: Target<'_>,
        version_max: i16,
        items: Vec<K>,
        what: impl Fn(&K) -> String,
        item: impl Fn(&K, i16) -> Result<I>,
        build: impl Fn(Vec<I>, i16, i32) -> R,
        read: impl Fn(&R::Response) -> Vec<Said<K, T>>,
    ) -> Result<Results<K, T>> {
        let deadline = self.deadline();
        let mut results = Results::new();
        let mut remaining = items;
        let mut asked = false;
        let mut failures = 0;
        while !remaining.is_empty() {
            let moved = |response: &R::Response| {
                let said = read(response);
                // The wrong node says so of everything.
                let code = said.first().map_or(ErrorCode::NONE, |said| said.code);
                let moved = is_elsewhere(code) && said.iter().all(|said| said.code == code);
                if moved { code } else { ErrorCode::NONE }
            };
            let mut refused = BTreeMap::new();
            let build = |version| {
                refused.clear();
                let mut items = Vec::with_capacity(remaining.len());
                for key in &remaining {
                    match item(key, version) {
                        Ok(item) => items.push(item),
                        Err(error) => drop(refused.insert(key.clone(), error)),
                    }
                }
                match refused.values().next() {
                    Some(error) if items.is_empty() => Err(error.clone()),
                    _ => Ok(build(items, version, self.broker_timeout_ms(deadline))),
                }
            };
            let call = Call { version_max, ..self.slow_call(deadline) };
            let response = self.cluster.request(target, call, build, moved).await;
            remaining.retain(|key| !refused.contains_key(key));
            let none_was_fit = remaining.is_empty();
            results.extend(refused.into_iter().map(|(key, error)| (key, Err(error))));
            let response = match response {
                Ok(response) => response,
                Err(_) if none_was_fit => break,
                Err(error) if !asked => return Err(error),
                Err(error) => {
                    fail_all(&mut results, remaining, &error);
                    break;
                }
            };
            asked = true;
            failures += 1;
            let pause = self.cluster.config().retry_backoff.delay(failures, self.cluster.runtime().random());
            let next = Instant::now() + pause;
            let said = read(&response);
            if said.iter().any(|said| said.code.is_controller_moved()) {
                self.cluster.refresh();
            }
            remaining = settle(remaining, said, next >= deadline, &what, &mut results);
            if !remaining.is_empty() {
                sleep_until(next).await;
            }
        }
        Ok(results)
    }
}

/// Takes what was said of each item for its result. Gives those that are to be asked for again, unless that is too late.
fn settle<K: Ord + Clone, T>(
    items: Vec<K>,
    said: Vec<Said<K, T>>,
    late: bool,
    what: impl Fn(&K) -> String,
    results: &mut Results<K, T>,
) -> Vec<K> {
    let mut said: BTreeMap<_, _> = said.into_iter().map(|said| (said.item.clone(), said)).collect();
    let mut again = Vec::new();
    for key in items {
        let Some(said) = said.remove(&key) else {
            let message = format!("{}: the broker said nothing about it", what(&key));
            results.insert(key, Err(Error::new(ErrorKind::Protocol, message)));
            continue;
        };
        if !late && (said.code == ErrorCode::THROTTLING_QUOTA_EXCEEDED || is_elsewhere(said.code)) {
            again.push(key);
            continue;
        }
        let result = check(said.code, said.message.as_deref(), what(&key)).map(|()| said.value);
        results.insert(key, result);
    }
    again
}

/// The asked node is not, or not yet, the one that can answer.
fn is_elsewhere(code: ErrorCode) -> bool {
    let loading = code == ErrorCode::COORDINATOR_LOAD_IN_PROGRESS;
    code.is_controller_moved() || code.is_coordinator_moved() || loading
}

/// Those of `topics` whose names a request can carry and a broker take; the others become results.
pub(super) fn legal_topics<T>(
    topics: Vec<TopicName>,
    attempted: &str,
    results: &mut Results<TopicName, T>,
) -> Vec<TopicName> {
    let (legal, wrong): (Vec<_>, Vec<_>) = topics.into_iter().partition(|topic| topic.fault().is_none());
    results.extend(wrong.into_iter().map(|topic| {
        let error = name_error(&topic, attempted);
        (topic, Err(error))
    }));
    legal
}

/// What a broker would say of such a name.
pub(super) fn name_error(topic: &TopicName, attempted: &str) -> Error {
    let (shown, fault) = (printable(topic), topic.fault().unwrap_or("is legal"));
    let message = format!("topic {shown} {attempted}: its name {fault}");
    Error::from_code(ErrorCode::INVALID_TOPIC_EXCEPTION, message)
}

/// The error that `code` stands for, with the broker's own words where it found some.
pub(super) fn check(code: ErrorCode, message: Option<&str>, attempted: String) -> Result<()> {
    if code.is_ok() {
        return Ok(());
    }
    let attempted = match message {
        Some(message) if !message.is_empty() => {
            format!("{attempted}: {}", printable(message).trim_end_matches('.'))
        }
        _ => attempted,
    };
    Err(Error::from_code(code, attempted))
}

/// Text from a peer, fit for a log line.
fn printable(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Gives every item the same failure.
pub(super) fn fail_all<K: Ord, T>(
    results: &mut Results<K, T>,
    items: impl IntoIterator<Item = K>,
    error: &Error,
) {
    for item in items {
        results.insert(item, Err(error.clone()));
    }
}

/// Waits for all `futures`, side by side. For a few of them: each wake-up looks at all that are not done.
pub(super) async fn join_all<T>(futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut slots: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    poll_fn(|context| {
        let mut waiting = false;
        for (future, value) in &mut slots {
            if let Some(running) = future {
                match running.as_mut().poll(context) {
                    Poll::Ready(ready) => {
                        *value = Some(ready);
                        *future = None;
                    }
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    slots.into_iter().filter_map(|(_, value)| value).collect()
}
