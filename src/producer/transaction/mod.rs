//! Transactions: records of several partitions, and the offsets of a group, that become visible together or not at all.
//!
//! * `handle`: what users see: [`Transaction`], and the methods of [`Producer`](super::Producer).
//! * `error`: [`TransactionError`] and what its kinds mean.
//! * `desk`: whether records are taken now; appenders and handles share it with the driver.
//! * `machine`, `states`, `answers`, `verdict`: what the coordinator is asked, and what its answers mean.
//! * `questions`: the requests.
//! * `conductor`: what of all this the driver holds; `carry`: what it carries.
//!
//! Records take the same way as all others: a transaction is an era of the sender that begins and ends.

mod answers;
mod carry;
mod conductor;
mod desk;
mod error;
mod handle;
mod machine;
mod questions;
mod states;
#[cfg(test)]
mod tests;
mod verdict;

pub(super) use carry::conductor;
pub(super) use conductor::{Conductor, Order};
pub(super) use desk::Desk;
pub use error::{TransactionError, TransactionErrorKind};
pub use handle::Transaction;
