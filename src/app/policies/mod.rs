//! The policies of routes: a folder each, with settings, check, stage, the method of the route's builder, and tests.
//!
//! A new policy is a folder here, its lines below, and the method in its folder.

mod dead_letter;
mod expiry;
mod retry;
mod throttle;
mod virtual_partitions;

use std::any::{Any, TypeId};

pub use dead_letter::{DeadLetter, Fate};
pub use expiry::Expiry;
pub use retry::Retry;
pub use throttle::Throttle;
pub use virtual_partitions::{VirtualPartitions, by_key};

#[cfg(test)]
pub(crate) use {dead_letter::Dispatch, retry::Again};

use super::policy::{Facts, Stage};

/// The order in which the stages of a route are asked.
const ORDER: &[fn() -> TypeId] = &[
    // What has expired need not be counted, split or retried.
    TypeId::of::<Expiry>,
    // Counts what really runs, so it comes behind everything that drops records.
    TypeId::of::<Throttle>,
    // Where a record runs is asked once it is known that it runs.
    TypeId::of::<VirtualPartitions>,
    // Knows when the retries are used up, so it is asked before what grants them.
    TypeId::of::<DeadLetter>,
    // Always has an answer.
    TypeId::of::<Retry>,
];

/// The stages of one partition.
pub(crate) fn stages(route: &Facts<'_>) -> Vec<Box<dyn Stage>> {
    let mut policies: Vec<_> = route.policies.iter().collect();
    policies.sort_by_key(|policy| ORDER.iter().position(|kind| kind() == (*policy as &dyn Any).type_id()));
    policies.into_iter().map(|policy| policy.stage(route)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A policy without a place in the order would come first, by accident.
    #[test]
    fn every_policy_has_its_place() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/app/policies");
        let folders = std::fs::read_dir(folder).unwrap();
        let count = folders.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
        assert_eq!(count, ORDER.len());
    }
}
