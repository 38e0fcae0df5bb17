//! What operations on many items have in common.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;

use tokio::time::{Instant, sleep_until};

use super::{Admin, Results};
use crate::cluster::Target;
use crate::runtime::BoxFuture;
use crate::types::TopicName;
use crate::wire::{Request, Str};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// What a broker said about one topic.
pub(super) struct Said<T> {
    pub(super) topic: TopicName,
    pub(super) code: ErrorCode,
    pub(super) message: Option<Str>,
    pub(super) value: T,
}

impl Admin {
    /// Asks the controller to do something with topics, and again for those over a quota (KIP-599), or that met a controller
    /// on its way out, until the deadline.
    ///
    /// `item` says how a topic is asked for in a version of the request, or why it cannot be; `attempted` completes
    /// "topic t: …".
    pub(super) async fn topic_items<R: Request, I, T>(
        &self,
        topics: Vec<TopicName>,
        attempted: &str,
        item: impl Fn(&TopicName, i16) -> Result<I>,
        build: impl Fn(Vec<I>, i16, i32) -> R,
        read: impl Fn(&R::Response) -> Vec<Said<T>>,
    ) -> Result<Results<TopicName, T>> {
        let deadline = self.deadline();
        let mut results = Results::new();
        let mut remaining = legal_topics(topics, attempted, &mut results);
        let mut asked = false;
        let mut failures = 0;
        while !remaining.is_empty() {
            let moved = |response: &R::Response| {
                let moved = read(response).iter().all(|said| said.code.is_controller_moved());
                if moved { ErrorCode::NOT_CONTROLLER } else { ErrorCode::NONE }
            };
            let mut refused = BTreeMap::new();
            let build = |version| {
                refused.clear();
                let mut items = Vec::with_capacity(remaining.len());
                for topic in &remaining {
                    match item(topic, version) {
                        Ok(item) => items.push(item),
                        Err(error) => drop(refused.insert(topic.clone(), error)),
                    }
                }
                match refused.values().next() {
                    Some(error) if items.is_empty() => Err(error.clone()),
                    _ => Ok(build(items, version, self.broker_timeout_ms(deadline))),
                }
            };
            let response =
                self.cluster.request(Target::Controller, self.slow_call(deadline), build, moved).await;
            remaining.retain(|topic| !refused.contains_key(topic));
            let none_was_fit = remaining.is_empty();
            results.extend(refused.into_iter().map(|(topic, error)| (topic, Err(error))));
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
            let mut said: BTreeMap<_, _> =
                read(&response).into_iter().map(|said| (said.topic.clone(), said)).collect();
            failures += 1;
            let pause = self.cluster.config().retry_backoff.delay(failures, self.cluster.runtime().random());
            let next = Instant::now() + pause;
            let mut again = Vec::new();
            for topic in remaining {
                let Some(said) = said.remove(&topic) else {
                    let message = format!("topic {topic}: the broker said nothing about it");
                    results.insert(topic, Err(Error::new(ErrorKind::Protocol, message)));
                    continue;
                };
                let later =
                    said.code == ErrorCode::THROTTLING_QUOTA_EXCEEDED || said.code.is_controller_moved();
                if later && next < deadline {
                    if said.code.is_controller_moved() {
                        self.cluster.refresh();
                    }
                    again.push(topic);
                    continue;
                }
                let what = format!("topic {topic} {attempted}");
                results.insert(topic, check(said.code, said.message.as_deref(), what).map(|()| said.value));
            }
            remaining = again;
            if !remaining.is_empty() {
                sleep_until(next).await;
            }
        }
        Ok(results)
    }
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
