//! What a client knows of its cluster, and how requests find their broker.
//!
//! * `config`: settings.
//! * `metadata`: immutable snapshots: nodes, topics, leaders.
//! * `updater`: the machine that decides what to ask for, when, and how answers merge (KIP-320, KIP-516, KIP-951).
//! * `lineage`: which topic of a name is the one of now.
//! * `troubles`: what metadata says is wrong with a topic.
//! * `nodes`: the machine of connections: per node and [`Duty`], with back-off, and the search for one.
//! * `conditions`: the machine of what is wrong and stays wrong.
//! * `coordinators`: who coordinates which group or transaction.
//! * `group_offsets`: offsets of a group, as a transaction commits them.
//! * `retry`: what an error code says about what we believed, as data.
//! * `request`: requests to any node, the controller, a coordinator, a leader, retried until a deadline.
//! * `shared`: what handles and tasks share.
//! * `driver`: the task that keeps metadata fresh, and the tasks that open connections.

mod conditions;
mod config;
mod coordinators;
mod driver;
mod group_offsets;
mod handle;
mod lineage;
mod metadata;
mod nodes;
mod request;
mod retry;
mod shared;
mod troubles;
mod updater;

#[cfg(all(test, feature = "broker"))]
mod tests;

/// Brokers played by tests of the layers above.
#[cfg(all(test, feature = "broker"))]
pub(crate) use crate::net::script;
pub(crate) use conditions::Owner;
pub use conditions::{Condition, ConditionEvent, ConditionKind, ConditionStage, Subject};
pub(crate) use config::ClusterConfig;
pub(crate) use coordinators::CoordinatorKind;
pub(crate) use group_offsets::GroupOffset;
pub use group_offsets::GroupOffsets;
pub(crate) use handle::Cluster;
pub use handle::ConditionEvents;
pub(crate) use metadata::{Metadata, Topic, TopicIdentity};
pub(crate) use nodes::Duty;
pub(crate) use request::{Call, SlowLane, Target};
pub(crate) use retry::{Doubt, doubt};

// What the layers above need of a connection; they do not import `net`.
pub(crate) use crate::net::{Answer, Connection, Pending, RequestError};
