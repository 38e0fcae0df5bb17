//! A route as the listener uses it: checked, with every default filled in.

use std::fmt;
use std::time::Duration;

use super::coordinator::{Callbacks, Rules};
use crate::app::policies::{self, DeadLetter, Retry};
use crate::app::policy::{Facts, Marks, Policies};
use crate::app::routing::{Factory, TopicRoute};
use crate::types::TopicName;

pub(crate) struct Route {
    topic: TopicName,
    pub(super) factory: Factory,
    pub(super) marks: Marks,
    pub(super) dead_letter_topic: Option<TopicName>,
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
            dead_letter_topic: policies.get().map(|dead_letter: &DeadLetter| dead_letter.topic().clone()),
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
