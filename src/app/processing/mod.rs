//! How a batch becomes handled records.
//!
//! [`coordinator`] is the machine of one partition: it decides what runs, what is retried, what is dead-lettered and
//! how far offsets may move. [`progress`] keeps the offsets, [`letter`] is a dead letter on its way. [`life`] decides when
//! there is a partition. [`listener`] is the driver: it owns the source, the timers and the tasks of the handlers.

pub(crate) mod coordinator;
pub(crate) mod health;
mod letter;
mod life;
pub(crate) mod listener;
mod partition;
mod progress;
pub(crate) mod route;
mod run;
pub(crate) mod workers;
