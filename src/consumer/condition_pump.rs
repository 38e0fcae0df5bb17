//! Between a consumer and what its client knows of lasting trouble: reports what keeps partitions from going on, and tells
//! the application what concerns it. What is worth a word is decided by [`Conditions`](crate::cluster::Condition).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::core::Core;
use super::event::ConsumerEvent;
use super::positions::Trouble;
use crate::cluster::{
    Cluster, ConditionEvent, ConditionEvents, ConditionKind, ConditionStage, Owner, Subject,
};

/// One per consumer. What it reported is over when it is dropped.
pub(crate) struct ConditionPump {
    cluster: Cluster,
    owner: Owner,
    core: Arc<Core>,
    events: ConditionEvents,
    /// What the application was told and is not over.
    told: BTreeSet<(Subject, ConditionKind)>,
}

impl ConditionPump {
    pub(crate) fn new(cluster: Cluster, owner: Owner, core: Arc<Core>) -> Self {
        let events = cluster.condition_events(Some(owner));
        Self { cluster, owner, core, events, told: BTreeSet::new() }
    }

    /// Reports what was met since the last call, and tells what others met before it concerned this consumer.
    pub(crate) fn report(&mut self) {
        for trouble in self.core.with(|positions| positions.take_troubles()) {
            match trouble {
                Trouble::Met(subject, kind, error) => self.cluster.raise(self.owner, subject, kind, error),
                Trouble::Over(subject, kind) => self.cluster.clear(self.owner, &subject, kind),
            }
        }
        for condition in self.cluster.conditions(|owner| owner == self.owner) {
            self.pass(ConditionEvent { condition, stage: ConditionStage::Began });
        }
    }

    /// Tells the next news that concerns the consumer. Cancel-safe.
    pub(crate) async fn tell(&mut self) {
        match self.events.next().await {
            Some(event) => self.pass(event),
            // The client is gone, and this task with it.
            None => std::future::pending().await,
        }
    }

    fn pass(&mut self, event: ConditionEvent) {
        let condition = &event.condition;
        let key = (condition.subject.clone(), condition.kind);
        let news = match event.stage {
            ConditionStage::Ended => self.told.remove(&key),
            _ if !self.core.is_concerned(&condition.subject) => return,
            ConditionStage::Began => self.told.insert(key),
            ConditionStage::Lasts => {
                self.told.insert(key);
                true
            }
        };
        if news {
            self.core.emit(ConsumerEvent::Condition(event));
        }
    }
}

impl Drop for ConditionPump {
    fn drop(&mut self) {
        self.cluster.clear_where(self.owner, |_, _| true);
    }
}
