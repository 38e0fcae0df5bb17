//! Settings of an application: its own, and those that it hands on to its client, its producer and its consumers.
//!
//! The order is the same for each: a setter overrides a variable of the environment, that overrides a property, and that the
//! default; what is said of one group overrides what is said of all.
//!
//! * `document`: writes `docs/configuration.md` from the rows of all settings.
//! * `rows`: tests that hold for every row of all settings.

#[cfg(test)]
mod document;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::client::ClientConfig;
use crate::consumer::{ConsumerConfig, OutOfRange};
use crate::producer::ProducerConfig;
use crate::settings::load::{Given, Section};
use crate::settings::{Problems, Table, UNBOUNDED, settings};
use crate::types::{GroupId, TopicName};

settings! {
    /// Settings of an [`App`](super::App) itself.
    pub struct AppConfig in "app", others &[];

    /// The consumer group of topics that are in no other. Empty, it is the application's name.
    group_id: text = "" => "group.id";

    /// How many handlers run at once. Can be changed while the application runs.
    concurrency: count = 5, 1..=UNBOUNDED => "concurrency";

    /// How long a stop may take in all. Running handlers have it less a fifth, 2 s at most, which is kept for last commits,
    /// leaving the groups and the producer; then they are dropped where they wait. Zero drops them at once.
    shutdown_timeout: ms = 25_000, 0..=UNBOUNDED => "shutdown.timeout.ms";

    /// How long a revocation waits for running handlers before the partition counts as lost. The group's rebalance timeout,
    /// less 6 s, bounds it as well. Marks made until then are committed.
    revoke_timeout: ms = 30_000, 0..=UNBOUNDED => "revoke.timeout.ms";
}

settings! {
    /// Settings of a [`TopicRoute`](super::TopicRoute) that belong to no policy.
    pub struct RouteConfig in "", others &[];

    /// How many records one run gets at most (Karafka's `max_messages`). Not set, it gets a batch as it was fetched.
    max_messages: count = unset, 1..=UNBOUNDED => "max.messages";

    /// Reports a handler that has been running for this long, and fails liveness until it returns. Its partition waits;
    /// membership and other partitions do not. Looked at twice a second. Not set, it is never reported.
    stuck_after: ms = unset, 0..=UNBOUNDED => "stuck.after.ms";
}

impl RouteConfig {
    /// Nothing depends on anything.
    #[expect(clippy::unused_self, reason = "other settings do depend on each other")]
    fn check_together(&self, _: &mut Problems) {}
}

impl AppConfig {
    /// Nothing depends on anything.
    #[expect(clippy::unused_self, reason = "other settings do depend on each other")]
    fn check_together(&self, _: &mut Problems) {}
}

/// What setters say, kept until what goes behind it is known.
#[derive(Clone)]
pub(crate) struct Changes<C>(Vec<Arc<dyn Fn(C) -> C + Send + Sync>>);

impl<C> Changes<C> {
    pub(crate) fn push(&mut self, change: impl Fn(C) -> C + Send + Sync + 'static) {
        self.0.push(Arc::new(change));
    }

    pub(crate) fn apply(&self, config: C) -> C {
        self.0.iter().fold(config, |config, change| change(config))
    }
}

impl<C> Default for Changes<C> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Shows what becomes of the defaults.
impl<C: Default + fmt::Debug> fmt::Debug for Changes<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.apply(C::default()).fmt(f)
    }
}

/// What a user has said, in whatever way.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) given: Given,
    /// What was wrong with the form of it.
    pub(super) problems: Problems,
    pub(super) app: Changes<AppConfig>,
    pub(super) client: Changes<ClientConfig>,
    pub(super) producer: Changes<ProducerConfig>,
    pub(super) consumer: Changes<ConsumerConfig>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) client: ClientConfig,
    /// Whether a client of the application's own was given settings.
    pub(super) of_client: bool,
    pub(super) producer: ProducerConfig,
    pub(super) settings: Settings,
    /// What properties and variables say of the routes of each group.
    pub(super) routes: Vec<Vec<RouteConfig>>,
    pub(super) problems: Problems,
}

/// Settings that an application needs while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) app: AppConfig,
    /// Of groups that have none of their own.
    consumer: ConsumerConfig,
    /// What properties and variables say of single groups.
    groups: BTreeMap<GroupId, Vec<(usize, String)>>,
}

impl Wishes {
    /// Puts everything together for an application of this name with these groups and their topics; its own group is the
    /// first.
    pub(super) fn settle(self, name: &str, groups: &[(GroupId, Vec<TopicName>)]) -> Settled {
        let Self { given, mut problems, app, client, producer, consumer } = self;
        let before = ClientConfig::new().client_id(name);
        let mut of_client = before.clone();
        let mut of_producer = ProducerConfig::new();
        let mut of_consumers = framework();
        let mut of_app = AppConfig::new();
        let mut of_groups: Vec<_> = groups.iter().map(|(group, _)| Apart::of_group(group)).collect();
        let own = groups.first().map(|(group, _)| group);
        let mut of_routes: Vec<Vec<_>> = groups
            .iter()
            .map(|(group, topics)| {
                let below = if Some(group) == own { String::new() } else { format!("groups.{group}.") };
                topics.iter().map(|topic| Apart::of_route(&below, topic)).collect()
            })
            .collect();
        let mut sections: Vec<&mut dyn Section> =
            vec![&mut of_client, &mut of_producer, &mut of_consumers, &mut of_app];
        sections.extend(of_groups.iter_mut().map(|group| group as &mut dyn Section));
        sections.extend(of_routes.iter_mut().flatten().map(|route| route as &mut dyn Section));
        given.load(&mut sections, &mut problems);

        let app = app.apply(of_app);
        let producer = producer.apply(of_producer);
        let consumer = consumer.apply(of_consumers);
        let of_client = client.apply(of_client);
        app.check(&mut problems);
        producer.check(&mut problems);
        check(&consumer, &mut problems);
        let mut ids: Vec<GroupId> = groups.iter().map(|(group, _)| group.clone()).collect();
        // Properties name a group as the routes do, whatever it is called in the end.
        if let (false, Some(own)) = (app.group_id.is_empty(), ids.first_mut()) {
            *own = GroupId::from(app.group_id.as_str());
        }
        let groups = ids.into_iter().zip(of_groups.into_iter().map(|group| group.given)).collect();
        Settled {
            of_client: of_client != before,
            client: of_client,
            producer,
            settings: Settings { app, consumer, groups },
            routes: of_routes
                .into_iter()
                .map(|routes| routes.into_iter().map(|route| route.tried).collect())
                .collect(),
            problems,
        }
    }
}

impl Settings {
    /// The settings of a group's consumer, where its route says `changes`.
    pub(crate) fn consumer(&self, group: &GroupId, changes: &Changes<ConsumerConfig>) -> ConsumerConfig {
        let mut config = self.consumer.clone();
        for (row, text) in self.groups.get(group).into_iter().flatten() {
            // It was tried when it was loaded.
            let _ = config.apply(*row, text);
        }
        changes.apply(config)
    }

    /// Notes what is wrong with a group's own settings.
    pub(crate) fn check_group(
        &self,
        group: &GroupId,
        changes: &Changes<ConsumerConfig>,
        problems: &mut Problems,
    ) {
        let config = self.consumer(group, changes);
        if config != self.consumer {
            problems.within(format_args!("groups.{group}"), |problems| check(&config, problems));
        }
    }
}

/// What an application's consumers have that others have not. The machines of partitions say what is done and when the next
/// batch may come; and an application goes on at the first offset that there still is: nobody is there to seek in its place.
fn framework() -> ConsumerConfig {
    ConsumerConfig::new().hold_after_delivery(true).auto_store(false).out_of_range(OutOfRange::Earliest)
}

/// Notes what is wrong, and what is the application's own affair.
fn check(config: &ConsumerConfig, problems: &mut Problems) {
    config.check(problems);
    for (name, value) in [("hold.after.delivery", "true"), ("enable.auto.offset.store", "false")] {
        let what = format!("an application needs {value}: it knows which records were handled");
        problems.check(config.get(name).as_deref() == Some(value), &format!("consumer.{name}"), what);
    }
}

/// What is said of one group or route. It is kept, since it overrides what setters say of all groups.
struct Apart<T> {
    scope: String,
    tried: T,
    given: Vec<(usize, String)>,
}

impl Apart<ConsumerConfig> {
    fn of_group(group: &GroupId) -> Self {
        let scope = format!("groups.{group}.{}", ConsumerConfig::SCOPE);
        Self { scope, tried: framework(), given: Vec::new() }
    }
}

impl Apart<RouteConfig> {
    fn of_route(below: &str, topic: &TopicName) -> Self {
        Self { scope: format!("{below}routes.{topic}"), tried: RouteConfig::new(), given: Vec::new() }
    }
}

impl<T: Table> Section for Apart<T> {
    fn scope(&self) -> &str {
        &self.scope
    }

    fn needs_scope(&self) -> bool {
        true
    }

    fn find(&self, is: &dyn Fn(&str) -> bool) -> Option<usize> {
        self.tried.find(is)
    }

    fn names(&self) -> Vec<&'static str> {
        self.tried.names()
    }

    fn apply(&mut self, row: usize, text: &str) -> Result<(), String> {
        self.tried.apply(row, text)?;
        self.given.push((row, text.to_owned()));
        Ok(())
    }
}
