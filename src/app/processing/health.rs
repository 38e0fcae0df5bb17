//! What is wrong with an application, for liveness probes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::client::{ConditionEvent, ConditionKind, ConditionStage, Subject};
use crate::runtime::watch;
use crate::types::TopicName;

/// Counts what keeps an application from handling all its partitions. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<watch::Sender<usize>>);

impl Health {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// True if nothing is wrong.
    pub(crate) fn is_live(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Something is wrong, until this is dropped.
    pub(crate) fn trouble(&self) -> Trouble {
        self.0.send_modify(|count| *count += 1);
        Trouble(self.clone())
    }
}

/// Something that is wrong: a handler that is stuck, a partition that stands, a condition that lasts, a group that cannot be
/// joined.
#[derive(Debug)]
pub(crate) struct Trouble(Health);

impl Drop for Trouble {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// The conditions that last and concern a group.
#[derive(Debug)]
pub(super) struct Conditions {
    health: Health,
    lasting: BTreeMap<(Subject, ConditionKind), Trouble>,
}

impl Conditions {
    pub(super) fn new(health: Health) -> Self {
        Self { health, lasting: BTreeMap::new() }
    }

    /// Topics that concern the group no longer.
    pub(super) fn forget(&mut self, gone: impl Fn(&TopicName) -> bool) {
        self.lasting.retain(|(subject, _), _| !subject.topic().is_some_and(&gone));
    }

    /// Something that concerns the group began, lasts or has ended.
    pub(super) fn handle(&mut self, event: &ConditionEvent) {
        let key = (event.condition.subject.clone(), event.condition.kind);
        match (event.stage, &key.0) {
            (ConditionStage::Ended, _) => drop(self.lasting.remove(&key)),
            // A restart mends no broker.
            (_, Subject::Cluster | Subject::Node(_)) => {}
            _ if key.1 == ConditionKind::Unreachable => {}
            _ => drop(self.lasting.entry(key).or_insert_with(|| self.health.trouble())),
        }
    }
}
