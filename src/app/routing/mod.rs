//! Which consumer handles which topic, and by which policies.
//!
//! Each policy is a value of its own: [`Retry`](super::Retry), [`DeadLetter`](super::DeadLetter),
//! [`VirtualPartitions`](super::VirtualPartitions), [`Throttle`](super::Throttle). Everything is checked when the
//! application is built, all problems at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::batch::{Batch, Message};
use super::consumer::{self, BatchFn, BlockingFn, Consumer, Handler, MessageFn, erase};
use super::context::Context;
use super::handler_error::HandlerResult;
use super::payload::Payload;
use super::policy::{Facts, Marks, Policies, Policy};
use super::settings::{Changes, RouteConfig};
use crate::consumer::{ConsumerConfig, FirstStart, OutOfRange, Truncation};
use crate::settings::{Problems, Table};
use crate::types::{GroupId, TopicName};

/// Makes the handler of one partition (and lane).
pub(crate) type Factory = Arc<dyn Fn() -> Box<dyn Handler> + Send + Sync>;

/// The routes of an application, by consumer group.
#[derive(Debug)]
pub struct Routes {
    pub(crate) groups: Vec<GroupRoute>,
}

impl Routes {
    pub(crate) fn new(default_group: GroupId) -> Self {
        Self { groups: vec![GroupRoute::new(default_group)] }
    }

    /// A topic of the application's own group, whose id is the application's name.
    pub fn topic(&mut self, name: impl Into<TopicName>) -> &mut TopicRoute {
        self.groups[0].topic(name)
    }

    /// A consumer group of its own for the topics that `define` adds to it.
    pub fn group(&mut self, id: impl Into<GroupId>, define: impl FnOnce(&mut GroupRoute)) -> &mut Self {
        let id = id.into();
        let index = self.groups.iter().position(|group| group.id == id).unwrap_or_else(|| {
            self.groups.push(GroupRoute::new(id));
            self.groups.len() - 1
        });
        define(&mut self.groups[index]);
        self
    }
}

/// The topics of one consumer group.
#[derive(Debug)]
pub struct GroupRoute {
    pub(crate) id: GroupId,
    pub(crate) topics: Vec<TopicRoute>,
    /// Settings of the group's consumer.
    pub(crate) consumer: Changes<ConsumerConfig>,
}

impl GroupRoute {
    fn new(id: GroupId) -> Self {
        Self { id, topics: Vec::new(), consumer: Changes::default() }
    }

    /// Where the group begins with partitions for which it has committed nothing. Default: as the application
    /// ([`App::first_start`](super::App::first_start)).
    pub fn first_start(&mut self, policy: FirstStart) -> &mut Self {
        self.consumer(move |consumer| consumer.first_start(policy))
    }

    /// What the group does when a partition no longer has its position. Default: as the application
    /// ([`App::out_of_range`](super::App::out_of_range)).
    pub fn out_of_range(&mut self, policy: OutOfRange) -> &mut Self {
        self.consumer(move |consumer| consumer.out_of_range(policy))
    }

    /// What the group does when a partition was truncated below its position. Default: as the application
    /// ([`App::truncation`](super::App::truncation)).
    pub fn truncation(&mut self, policy: Truncation) -> &mut Self {
        self.consumer(move |consumer| consumer.truncation(policy))
    }

    /// Changes settings of the group's consumer, those that it has as every consumer of the application
    /// ([`App::consumer`](super::App::consumer)).
    pub fn consumer(
        &mut self,
        change: impl Fn(ConsumerConfig) -> ConsumerConfig + Send + Sync + 'static,
    ) -> &mut Self {
        self.consumer.push(change);
        self
    }

    /// Adds a topic to the group.
    pub fn topic(&mut self, name: impl Into<TopicName>) -> &mut TopicRoute {
        self.topics.push(TopicRoute::new(name.into()));
        self.topics.last_mut().expect("a topic was just pushed")
    }
}

/// One topic: who handles it and how. A route needs a consumer; everything else has a default.
pub struct TopicRoute {
    pub(crate) topic: TopicName,
    pub(crate) factory: Option<Factory>,
    /// The consumer has something to do before its first batch.
    pub(crate) initialized: bool,
    pub(crate) eofed: bool,
    pub(crate) periodic: Option<Duration>,
    pub(crate) marks: Marks,
    pub(crate) policies: Policies,
    /// What properties and variables say.
    pub(crate) given: RouteConfig,
    changes: Changes<RouteConfig>,
}

impl TopicRoute {
    pub(crate) fn new(topic: TopicName) -> Self {
        Self {
            topic,
            factory: None,
            initialized: false,
            eofed: false,
            periodic: None,
            marks: Marks::Automatic,
            policies: Policies::default(),
            given: RouteConfig::new(),
            changes: Changes::default(),
        }
    }

    /// Handles the topic with a [`Consumer`]; `make` is called once for each partition (and virtual partition).
    pub fn consumer<C: Consumer>(&mut self, make: impl Fn() -> C + Send + Sync + 'static) -> &mut Self {
        self.factory = Some(Arc::new(move || erase(make())));
        self.initialized = consumer::is_initialized::<C>();
        self
    }

    /// Handles each message with an async function. A message is marked as consumed when the function returned `Ok`,
    /// unless marks are [manual](Self::manual_offset_management). Between two messages it stops for a pause, a seek and the
    /// end of the partition; see [ending early](super::Context#ending-early).
    pub fn handler<P, F, Fut>(&mut self, handle: F) -> &mut Self
    where
        P: Payload,
        F: Fn(Message<P>, Context) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.consumer(move || MessageFn::new(handle.clone()))
    }

    /// Handles each batch with an async function.
    pub fn batch_handler<P, F, Fut>(&mut self, handle: F) -> &mut Self
    where
        P: Payload,
        F: Fn(Batch<P>, Context) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.consumer(move || BatchFn::new(handle.clone()))
    }

    /// Handles each batch with a function that blocks; it runs on the runtime's pool for blocking work and cannot be
    /// dropped by a forced stop. One that never returns keeps a tokio runtime from being dropped, and so the process from
    /// ending, although [`Server::run`](super::Server::run) has returned.
    pub fn blocking_handler<P, F>(&mut self, handle: F) -> &mut Self
    where
        P: Payload,
        F: Fn(&Batch<P>, &Context) -> HandlerResult + Clone + Send + Sync + 'static,
    {
        self.consumer(move || BlockingFn::new(handle.clone()))
    }

    /// Adds a policy, in place of an earlier one of its kind. The order in which they are added does not matter.
    pub fn with(&mut self, policy: impl Policy) -> &mut Self {
        self.policies.set(policy);
        self
    }

    /// Leaves marking to the handler: nothing is committed that it did not
    /// [mark](super::Context::mark_as_consumed). Default: success of the handler marks its records.
    pub fn manual_offset_management(&mut self) -> &mut Self {
        self.marks = Marks::Manual;
        self
    }

    /// Hands at most this many records to one run (Karafka's `max_messages`), at least 1. Default: a batch as it was
    /// fetched.
    pub fn max_messages(&mut self, records: usize) -> &mut Self {
        self.configure(move |route| route.max_messages(records))
    }

    /// Calls the consumer's [`eofed`](Consumer::eofed) when it has handled everything up to the end of a partition. Default:
    /// no. A topic that is added to a group while it runs needs another one there that wants it. Karafka's `eofed`.
    pub fn eofed(&mut self, wanted: bool) -> &mut Self {
        self.eofed = wanted;
        self
    }

    /// Calls the consumer's [`tick`](Consumer::tick) whenever nothing ran in a partition for this long, at least a
    /// millisecond. Default: never. Karafka's `periodic`.
    pub fn periodic(&mut self, every: Duration) -> &mut Self {
        self.periodic = Some(every);
        self
    }

    /// Reports a handler that has been running for this long ([`Event::Stuck`](super::Event::Stuck)), and fails liveness
    /// until it returns ([`ServerHandle::is_live`](super::ServerHandle::is_live)). Its partition waits; membership and
    /// other partitions do not. Looked at twice a second. Default: never.
    pub fn stuck_after(&mut self, time: Duration) -> &mut Self {
        self.configure(move |route| route.stuck_after(time))
    }

    /// Changes settings of the route that belong to no policy.
    pub fn configure(
        &mut self,
        change: impl Fn(RouteConfig) -> RouteConfig + Send + Sync + 'static,
    ) -> &mut Self {
        self.changes.push(change);
        self
    }

    /// Its settings: setters override what is given in any other way.
    pub(crate) fn config(&self) -> RouteConfig {
        self.changes.apply(self.given.clone())
    }

    /// The route as its policies see it.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts { topic: &self.topic, marks: self.marks, policies: &self.policies }
    }

    /// Notes what is wrong with the route.
    fn check(&self, problems: &mut Problems) {
        if let Some(text) = self.topic.fault() {
            problems.add("", format!("the topic name {text}"));
        }
        let what = "has no consumer; call consumer(), handler(), batch_handler() or blocking_handler()";
        problems.check(self.factory.is_some(), "", what);
        Table::check(&self.config(), problems);
        let ticks = self.periodic.is_none_or(|every| every >= Duration::from_millis(1));
        problems.check(
            ticks,
            "periodic",
            "is shorter than a millisecond; ticks would follow each other without end",
        );
        for policy in self.policies.iter() {
            problems.within(policy.name(), |problems| {
                policy.check(&self.facts(), &mut |setting, what| problems.add(setting, what));
            });
        }
    }
}

impl fmt::Debug for TopicRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicRoute")
            .field("topic", &self.topic)
            .field("consumer", &self.factory.is_some())
            .field("marks", &self.marks)
            .field("policies", &self.policies)
            .field("config", &self.config())
            .field("eofed", &self.eofed)
            .field("periodic", &self.periodic)
            .finish()
    }
}

/// Everything that is wrong with the routes, those of the group `own` below `routes.<topic>`, others below
/// `groups.<id>.routes.<topic>`. Groups without topics are dropped.
pub(crate) fn check(groups: &mut Vec<GroupRoute>, own: &GroupId, problems: &mut Problems) {
    groups.retain(|group| !group.topics.is_empty());
    if groups.is_empty() {
        problems.add("routes", "there are none; add one with routes.topic(…).consumer(…)");
    }
    for group in groups {
        if let Some(text) = group.id.fault() {
            problems.add("group.id", format!("the group id {text}; name the consumer group"));
        }
        let below = if group.id == *own { String::new() } else { format!("groups.{}.", group.id) };
        let mut seen = std::collections::BTreeSet::new();
        for route in &group.topics {
            problems.within(format_args!("{below}routes.{}", route.topic), |problems| {
                route.check(problems);
                problems.check(seen.insert(&route.topic), "", "is defined twice");
            });
        }
    }
}

#[cfg(test)]
mod tests;
