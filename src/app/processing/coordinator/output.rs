//! Machine: what the coordinator of a partition goes by, is told and wants done.

use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::app::policy::{Ending, Marks, Stage};
use crate::app::snapshot::JobKind;
use crate::types::TopicName;

/// What a route asks of the machine of one partition.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) marks: Marks,
    /// Records handed to one run at most.
    pub(crate) max_messages: usize,
    /// In the order in which they are asked.
    pub(crate) stages: Vec<Box<dyn Stage>>,
    pub(crate) callbacks: Callbacks,
}

/// Which callbacks a route wants besides `consume` and the last ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Callbacks {
    /// `initialized`, when the partition comes.
    pub(crate) initialized: bool,
    /// `eofed`, at the end of the partition.
    pub(crate) eofed: bool,
    /// `tick`, when nothing ran for this long.
    pub(crate) every: Option<Duration>,
}

/// How one lane ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The handler returned success, all that it produced is acknowledged, and all its records are done.
    Success,
    /// As success, but done is only what the handler marked: it marks itself, or returned because the end was announced.
    Marked,
    /// The handler or a delivery failed, or the handler panicked.
    Failure,
    /// The handler was not called: the end was announced, or the partition told to wait, while it waited for a worker.
    NotBegun,
}

/// What the driver has to do; `D` is what the cluster is told of what is done. Results of effects come back through
/// `handle_*`.
#[derive(Debug)]
pub(crate) enum Output<D = i64> {
    /// Run the handler of `lane` on these records of the held batch.
    Run {
        /// Lane, 0 where there is one.
        lane: u32,
        /// Records by index in the held batch.
        records: Arc<[u32]>,
        /// 1 for the first run.
        attempt: u32,
    },
    /// Run another callback of the consumer of `lane`, which is made if there is none.
    Call {
        /// Which one.
        kind: JobKind,
        /// Lane, 0 where there is one.
        lane: u32,
    },
    /// This may be committed: for offsets, all below this one.
    Mark(D),
    /// Send the record to the dead letter topic; with `atomic`, together with this.
    Dispatch {
        /// Record by index in the held batch.
        record: u32,
        /// How often its handler failed.
        attempts: u32,
        /// The topic, if it is not the one of the route.
        to: Option<TopicName>,
        /// What to commit in the same transaction.
        #[cfg_attr(not(test), expect(dead_code, reason = "the driver has no transactions yet"))]
        atomic: Option<D>,
    },
    /// Tell listeners that the partition waits before it runs its handler again.
    Retrying {
        /// The run that failed.
        attempt: u32,
        /// Offset of the first record that will run again.
        offset: i64,
        /// The pause before it.
        delay: Duration,
    },
    /// Stop the application: of this record it can do no more.
    Stop {
        /// Name of the policy that wants it.
        policy: &'static str,
        /// The run that failed.
        attempt: u32,
        /// Offset of the first record that is left.
        offset: i64,
    },
    /// Tell listeners that records were not handed to the handler, by this policy.
    Skipped {
        /// Name of the policy.
        policy: &'static str,
        /// Offset of the first and the last of them.
        offsets: (i64, i64),
        /// How many they are.
        records: usize,
    },
    /// Tell listeners that a stage panicked: context and error.
    Panicked(&'static str, Error),
    /// Continue fetching at this offset; what is held or prefetched is void.
    Seek(i64),
    /// The batch is done with; the next one may come.
    Release,
    /// Nothing runs and nothing will: the partition may be handed over.
    Ended(Ending),
}
