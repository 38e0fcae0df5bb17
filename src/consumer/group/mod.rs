//! Membership in consumer groups.
//!
//! * [`protocol`]: bytes that members exchange.
//! * [`assignor`]: who reads what.
//! * [`membership`]: one membership as a machine, whatever its protocol.
//! * [`classic`]: the classic protocol as a machine.
//! * [`commits`]: the queue of offset commits, as a machine.
//! * [`offsets`]: where assigned partitions begin, as a machine.
//! * [`closing`]: the end of a membership, as a machine.
//! * [`shared`]: what these machines say to each other.
//! * [`calls`]: requests to the coordinator.
//! * [`driver`]: the task, which decides nothing.

pub(crate) mod assignor;
pub(crate) mod calls;
pub(crate) mod classic;
pub(crate) mod closing;
pub(crate) mod commits;
pub(crate) mod driver;
pub(crate) mod membership;
pub(crate) mod offsets;
pub(crate) mod protocol;
pub(crate) mod shared;
