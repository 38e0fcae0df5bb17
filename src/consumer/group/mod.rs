//! Membership in consumer groups.
//!
//! * [`protocol`]: bytes that members exchange.
//! * [`assignor`]: who reads what.
//! * [`classic`]: the classic protocol as a machine.

pub(crate) mod assignor;
pub(crate) mod classic;
pub(crate) mod protocol;
