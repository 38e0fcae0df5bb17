//! Membership in consumer groups.
//!
//! * [`protocol`]: bytes that members exchange.
//! * [`assignor`]: who reads what.
//! * [`classic`]: the classic protocol as a machine.
//! * [`commits`]: the queue of offset commits, as a machine.
//! * [`closing`]: the end of a membership, as a machine.
//! * [`calls`]: requests to the coordinator.
//! * [`driver`]: the task.

pub(crate) mod assignor;
pub(crate) mod calls;
pub(crate) mod classic;
pub(crate) mod closing;
pub(crate) mod commits;
pub(crate) mod driver;
pub(crate) mod protocol;
