//! Which of the jobs that wait for a worker runs next.

use std::time::Duration;

use crate::types::{GroupId, TopicPartition};

/// A job that waits for a worker: a handler that is about to be called with records.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WaitingJob {
    /// The consumer group.
    pub group: GroupId,
    /// Where the records are from.
    pub partition: TopicPartition,
    /// Virtual partition, 0 where there is one.
    pub lane: u32,
    /// How many records it gets; 0 for a callback other than `consume`.
    pub records: usize,
    /// 1 for the first run over these records.
    pub attempt: u32,
    /// How long it is going to take, by the runs of its group and topic so far. `None` before the first one, and with a
    /// scheduler that does not [measure](Scheduler::measures).
    pub expected: Option<Duration>,
}

/// Chooses which waiting job gets the next free worker ([`App::scheduler`](super::App::scheduler)). Called only while all
/// workers are busy and several jobs wait. Jobs of one partition and lane never wait at the same time, so no order of records
/// depends on it.
///
/// It must be quick and must not call the application: the queue is locked meanwhile. A panic is contained; the oldest job is
/// taken then.
pub trait Scheduler: Send + Sync + 'static {
    /// Index of the job that runs next. `waiting` has at least two jobs, in the order in which they came; an index outside
    /// of it takes the oldest. Nothing but this choice keeps a job from waiting for ever.
    fn next(&self, waiting: &[WaitingJob]) -> usize;

    /// True if [`WaitingJob::expected`] is wanted. It costs two looks at the clock for each run. Default: false.
    fn measures(&self) -> bool {
        false
    }
}

/// The job that is going to take longest runs first, so that fewer long ones are left at the end; one of unknown length
/// before all others. Among equals the oldest goes first. A job that is always shorter than others may wait for as long as
/// they keep coming.
#[derive(Clone, Copy, Debug, Default)]
pub struct LongestFirst;

impl Scheduler for LongestFirst {
    fn next(&self, waiting: &[WaitingJob]) -> usize {
        let longest = waiting.iter().map(|job| job.expected.unwrap_or(Duration::MAX)).max();
        let is_longest = |job: &WaitingJob| Some(job.expected.unwrap_or(Duration::MAX)) == longest;
        waiting.iter().position(is_longest).unwrap_or(0)
    }

    fn measures(&self) -> bool {
        true
    }
}
