//! Tests of the cluster's machine, and of the whole broker over the simulated runtime.

mod durability;
mod faults;
mod listeners;
mod machine;
mod powers;
mod protocol;
mod sasl;
mod support;
mod transactions;
