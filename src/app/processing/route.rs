//! A route as the listener uses it: checked, with every default filled in.

use std::fmt;
use std::time::Duration;

use super::coordinator::{Filter, Policy};
use super::workers::Workers;
use crate::app::routing::{Factory, Throttle, TopicRoute, VirtualPartitions};
use crate::consumer::Batch;
use crate::types::TopicName;
use crate::{Error, ErrorKind};

pub(super) struct Route {
    pub(super) factory: Factory,
    pub(super) policy: Policy,
    pub(super) dead_letter_topic: Option<TopicName>,
    pub(super) stuck_after: Option<Duration>,
    throttle: Option<Throttle>,
    virtual_partitions: Option<VirtualPartitions>,
}

impl Route {
    /// `None` for a route without a consumer, which the check of the routes refuses.
    pub(super) fn new(route: TopicRoute) -> Option<Self> {
        let policy = route.policy();
        Some(Self {
            factory: route.factory?,
            policy,
            dead_letter_topic: route.dead_letter.map(|dead_letter| dead_letter.topic),
            stuck_after: route.stuck_after,
            throttle: route.throttle,
            virtual_partitions: route.virtual_partitions,
        })
    }

    /// The filters of one partition, in the order in which they apply.
    pub(super) fn filters(&self) -> Vec<Box<dyn Filter>> {
        self.throttle.map(Throttle::filter).into_iter().collect()
    }

    /// The lane of each record, where the route has several.
    ///
    /// # Errors
    /// If the key function panics; the batch then runs in one lane.
    pub(super) fn split(&self, batch: &Batch, workers: &Workers) -> Result<Option<Vec<u32>>, Error> {
        let Some(virtual_partitions) = &self.virtual_partitions else { return Ok(None) };
        let lanes = virtual_partitions.lanes(workers.size());
        if lanes == 1 {
            return Ok(None);
        }
        let split = || batch.iter().map(|message| virtual_partitions.lane(&message, lanes)).collect();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(split)).map(Some).map_err(|_| {
            Error::new(ErrorKind::Handler, "the key function of the virtual partitions panicked")
                .with_advice("the batch runs in one lane")
        })
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("policy", &self.policy).finish_non_exhaustive()
    }
}
