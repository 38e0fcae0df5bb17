//! Owned pictures of a running application: [`ServerHandle::snapshot`](super::ServerHandle::snapshot). They are made when
//! somebody asks and cost nothing otherwise. All of them serialise with serde; names of groups, topics and partitions as
//! text, durations as serde has them.

use std::time::Duration;

use serde::Serialize;

use crate::types::{GroupId, Offset, TopicName, TopicPartition};

/// What an application is doing. The listeners answer one after the other, so two of them may be pictured at slightly
/// different moments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// Version of this form: [`Snapshot::VERSION`]. Raised when a field goes or changes its meaning, not when one is added.
    pub version: u32,
    /// Whether the application consumes.
    pub state: ServerState,
    /// What [`ServerHandle::is_live`](super::ServerHandle::is_live) says.
    pub live: bool,
    /// The workers.
    pub workers: WorkersSnapshot,
    /// One for each group, by name.
    pub listeners: Vec<ListenerSnapshot>,
}

impl Snapshot {
    /// The version of snapshots that this carafe makes.
    pub const VERSION: u32 = 1;
}

/// Whether an application consumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerState {
    /// [`Server::run`](super::Server::run) has not begun.
    Built,
    /// It consumes.
    Running,
    /// It finishes what runs.
    Stopping,
    /// It has stopped.
    Stopped,
}

/// The workers of an application and the jobs that wait for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WorkersSnapshot {
    /// How many handlers may run at once.
    pub size: usize,
    /// How many run. More than `size` for a while after it was lowered.
    pub busy: usize,
    /// How many jobs wait for a worker.
    pub waiting: usize,
    /// How long the oldest of them has been waiting; zero if none does.
    pub longest_wait: Duration,
    /// Jobs that got a worker since the start.
    pub begun: u64,
    /// Those of them that had to wait for it.
    pub waited: u64,
    /// How long they waited, all together.
    pub waiting_time: Duration,
}

/// The listener of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ListenerSnapshot {
    /// The group.
    #[serde(serialize_with = "as_text::one")]
    pub group: GroupId,
    /// Whether it runs.
    pub state: ListenerState,
    /// How often it was started again, by a failure or by command.
    pub restarts: u32,
    /// Why it failed last, if it ever did.
    pub failure: Option<String>,
    /// The topics it subscribes to.
    #[serde(serialize_with = "as_text::list")]
    pub topics: Vec<TopicName>,
    /// The partitions assigned to this process, and those that still end.
    pub partitions: Vec<PartitionSnapshot>,
}

/// Whether a listener runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ListenerState {
    /// It consumes.
    Running,
    /// It keeps its membership and begins nothing new ([`ServerHandle::quiet`](super::ServerHandle::quiet)).
    Quiet,
    /// It does not run: it waits before it starts again, or the application does not run.
    Down,
    /// It finishes what runs.
    Stopping,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PartitionSnapshot {
    /// Topic and number.
    #[serde(serialize_with = "as_text::one")]
    pub partition: TopicPartition,
    /// How far its life is.
    pub phase: PartitionPhase,
    /// How many records its batch has, of which some may be done; 0 while there is none.
    pub held: usize,
    /// How often the records that are next have been run.
    pub attempt: u32,
    /// What it waits for, if it waits, and for how much longer at least.
    pub pause: Option<PauseSnapshot>,
    /// The next offset that a batch begins with, once it is known.
    #[serde(serialize_with = "as_text::offset")]
    pub position: Option<Offset>,
    /// The end of the partition as of the last answer of its leader, once there was one.
    #[serde(serialize_with = "as_text::offset")]
    pub high_watermark: Option<Offset>,
    /// The offset that is committed, or with the next commit; `None` if nothing was marked since the assignment.
    #[serde(serialize_with = "as_text::offset")]
    pub marked: Option<Offset>,
    /// Its handlers that run or wait for a worker.
    pub jobs: Vec<JobSnapshot>,
}

/// How far the life of a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PartitionPhase {
    /// It waits for records, or handles them.
    Active,
    /// It goes away; handlers may finish.
    Ending,
    /// Its consumers' last callbacks run.
    Closing,
}

/// Why a partition waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PauseSnapshot {
    /// The cause that lasts longest.
    pub cause: PauseCause,
    /// What is left of it; decades if it has no end.
    pub left: Duration,
}

/// Why a partition waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PauseCause {
    /// A handler asked for it.
    Handler,
    /// The program asked for it ([`ServerHandle::pause`](super::ServerHandle::pause)).
    Command,
    /// The listener is quiet.
    Quiet,
    /// A run failed and is going to be repeated.
    Retry,
    /// A policy lets nothing through at the moment.
    Policy,
}

/// A callback of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobKind {
    /// [`Consumer::initialized`](super::Consumer::initialized), before there is a batch.
    Initialized,
    /// [`Consumer::consume`](super::Consumer::consume).
    Consume,
    /// [`Consumer::eofed`](super::Consumer::eofed).
    Eofed,
    /// [`Consumer::tick`](super::Consumer::tick).
    Tick,
    /// [`Consumer::revoked`](super::Consumer::revoked).
    Revoked,
    /// [`Consumer::shutdown`](super::Consumer::shutdown).
    Shutdown,
}

/// A handler that runs or waits for a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobSnapshot {
    /// What it does.
    pub kind: JobKind,
    /// Virtual partition, 0 where there is one.
    pub lane: u32,
    /// How many records it got; 0 for a callback.
    pub records: usize,
    /// 1 for the first run.
    pub attempt: u32,
    /// Since when it runs; `None` while it waits for a worker.
    pub running: Option<Duration>,
    /// True if it has returned, and what it produced is not acknowledged yet.
    pub settling: bool,
    /// True while it occupies a thread.
    pub blocking: bool,
}

/// How names and offsets are serialised.
pub(crate) mod as_text {
    use std::fmt;

    use serde::{Serialize, Serializer};

    use crate::types::Offset;

    pub(crate) fn one<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn maybe<S: Serializer>(
        value: &Option<impl fmt::Display>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(crate) fn list<S: Serializer>(
        values: &[impl fmt::Display],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(crate) fn offset<S: Serializer>(value: &Option<Offset>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|offset| offset.0).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_plain_json() {
        let partition = PartitionSnapshot {
            partition: TopicPartition::new("t", 3),
            phase: PartitionPhase::Active,
            held: 2,
            attempt: 1,
            pause: Some(PauseSnapshot { cause: PauseCause::Retry, left: Duration::from_secs(1) }),
            position: Some(Offset(7)),
            high_watermark: None,
            marked: None,
            jobs: vec![],
        };
        let listener = ListenerSnapshot {
            group: GroupId::from("g"),
            state: ListenerState::Running,
            restarts: 0,
            failure: None,
            topics: vec![TopicName::from("t")],
            partitions: vec![partition],
        };
        let json = serde_json::to_value(&listener).unwrap();
        assert_eq!(json["group"], "g");
        assert_eq!(json["topics"][0], "t");
        assert_eq!(json["partitions"][0]["partition"], "t[3]");
        assert_eq!((&json["partitions"][0]["position"], &json["state"]), (&7.into(), &"running".into()));
    }
}
