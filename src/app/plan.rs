//! What the listener of a group is made from, each time it is started.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::processing::route::Route;
use super::routing::GroupRoute;
use super::settings::{Changes, Settings};
use super::source::Source;
use crate::Result;
use crate::client::Client;
use crate::consumer::ConsumerConfig;
use crate::runtime::watch;
use crate::types::{GroupId, TopicName};

/// The routes of a group.
pub(crate) type Routes = BTreeMap<TopicName, Arc<Route>>;

/// A group, with its routes as they are now.
pub(crate) struct Plan {
    pub(crate) group: GroupId,
    /// Seen by the listener.
    pub(crate) routes: watch::Sender<Routes>,
    config: ConsumerConfig,
}

impl Plan {
    /// `group` has been checked.
    pub(crate) fn new(group: GroupRoute, settings: &Settings) -> Self {
        let config = settings.consumer(&group.id, &group.consumer);
        let routes = group.topics.into_iter().filter_map(|route| {
            let topic = route.topic.clone();
            Some((topic, Arc::new(Route::new(route)?)))
        });
        Self { group: group.id, routes: watch::Sender::new(routes.collect()), config }
    }

    /// The topics of the group.
    pub(crate) fn topics(&self) -> Vec<TopicName> {
        self.routes.borrow().keys().cloned().collect()
    }

    /// True if the group has the topic.
    pub(crate) fn has(&self, topic: &TopicName) -> bool {
        self.routes.borrow().contains_key(topic)
    }

    /// True if `changes` say nothing of the group's consumer that it does not do already: it was made with its settings.
    pub(crate) fn agrees(&self, changes: &Changes<ConsumerConfig>) -> bool {
        changes.apply(self.config.clone()) == self.config
    }

    /// Adds the routes of `other`.
    pub(crate) fn extend(&self, other: Self) {
        let added = other.routes.borrow().clone();
        self.routes.send_modify(|routes| routes.extend(added));
    }

    /// Takes a topic away. False if it is not there.
    pub(crate) fn remove(&self, topic: &TopicName) -> bool {
        let known = self.has(topic);
        self.routes.send_modify(|routes| drop(routes.remove(topic)));
        known
    }

    /// Joins the group.
    ///
    /// # Errors
    /// If settings are wrong.
    pub(crate) fn source(&self, client: &Client) -> Result<Source> {
        let wants_ends = self.routes.borrow().values().any(|route| route.wants_ends());
        let config = self.config.clone();
        let config = if wants_ends { config.partition_end_events(true) } else { config };
        let builder = client.group_consumer(self.group.clone()).config(config);
        builder.topics(self.topics()).build().map(Source::Group)
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("group", &self.group)
            .field("topics", &self.topics())
            .finish_non_exhaustive()
    }
}
