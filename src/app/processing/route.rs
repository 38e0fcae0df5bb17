//! A route as the listener uses it: checked, with every default filled in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::coordinator::{Callbacks, Rules};
use crate::app::letter::Letters;
use crate::app::policies::{self, DeadLetter, Retry};
use crate::app::policy::{Facts, Marks, Policies};
use crate::app::routing::{Factory, TopicRoute};
use crate::types::TopicName;

pub(crate) struct Route {
    topic: TopicName,
    pub(super) factory: Factory,
    pub(super) marks: Marks,
    pub(super) letters: Option<Arc<Letters>>,
    pub(super) stuck_after: Option<Duration>,
    pub(super) callbacks: Callbacks,
    max_messages: usize,
    policies: Policies,
}

impl Route {
    /// `None` for a route without a consumer, which the check of the routes refuses.
    pub(crate) fn new(route: TopicRoute) -> Option<Self> {
        let config = route.config();
        let mut policies = route.policies;
        if policies.get::<Retry>().is_none() {
            policies.set(Retry::default());
        }
        Some(Self {
            topic: route.topic,
            factory: route.factory?,
            marks: route.marks,
            letters: policies.get().map(|dead_letter: &DeadLetter| Arc::new(dead_letter.letters())),
            stuck_after: config.stuck_after,
            callbacks: Callbacks {
                initialized: route.initialized,
                eofed: route.eofed,
                every: route.periodic,
            },
            max_messages: config.max_messages.unwrap_or(usize::MAX),
            policies,
        })
    }

    /// Where its dead letters go.
    pub(super) fn dead_letter_topic(&self) -> Option<&TopicName> {
        self.letters.as_ref()?.topic.as_ref()
    }

    /// True if the consumer has something to do at the end of a partition.
    pub(crate) fn wants_ends(&self) -> bool {
        self.callbacks.eofed
    }

    /// What the machine of one partition goes by.
    pub(super) fn rules(&self) -> Rules {
        let facts = Facts { topic: &self.topic, marks: self.marks, policies: &self.policies };
        let (callbacks, stages) = (self.callbacks, policies::stages(&facts));
        Rules { marks: self.marks, max_messages: self.max_messages, stages, callbacks }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("topic", &self.topic)
            .field("policies", &self.policies)
            .finish_non_exhaustive()
    }
}
