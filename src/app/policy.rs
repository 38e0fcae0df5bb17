//! What a feature of a route is: settings that are checked with the route, and a stage in the machine of each partition.
//!
//! A stage is told what happens and what time it is, and answers; it never waits and knows no other stage. The machine asks the
//! stages of a route in one order, written down in [`policies`](super::policies), at four points:
//!
//! | Point | Asked | Answers count |
//! |---|---|---|
//! | [`split`](Stage::split) | when a batch came | the first that splits |
//! | [`admit`](Stage::admit) | before each run, retries included | all: each sees what those before it left; the latest deadline wins |
//! | [`failed`](Stage::failed) | after a run, or a dispatch, that failed | the first that does not say [`Next`](Decision::Next) |
//! | [`advanced`](Stage::advanced) | when more may be committed | – |
//!
//! A stage that panics is reported, and the route goes on as if it had said nothing.
//!
//! This file lies below routing, the policies and processing, which all import it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error_history::ErrorHistory;
use crate::consumer::{RecordBatch, RecordRef};
use crate::types::{Timestamp, TopicName};
use crate::{Error, ErrorKind};

/// Who marks records as consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Success of the handler marks.
    Automatic,
    /// Only the handler marks.
    Manual,
}

/// Why a partition ends; ordered by how little may still be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// The application stops.
    Stopped,
    /// It goes to another member, which waits for our last commit.
    Revoked,
    /// It already belongs to somebody else: no marks, no retries, no dead letters any more.
    Lost,
}

/// A feature of a route, such as [`Retry`](super::Retry), [`DeadLetter`](super::DeadLetter),
/// [`VirtualPartitions`](super::VirtualPartitions) or [`Throttle`](super::Throttle); see
/// [`TopicRoute::with`](super::TopicRoute::with). The policies are those of this crate.
pub trait Policy: Definition {}

impl<D: Definition> Policy for D {}

/// Takes the name of a setting of a policy, or none, and what is wrong with it.
pub(crate) type Report<'a> = &'a mut dyn FnMut(&str, String);

/// Settings of a policy.
pub trait Definition: Any + Debug + Send + Sync {
    /// Its name in events and in what is printed of a route.
    fn name(&self) -> &'static str;

    /// Tells what is wrong with the settings, alone or on this route.
    fn check(&self, route: &Facts<'_>, problem: Report<'_>);

    /// The stage of one partition. It lives as long as the partition is assigned.
    fn stage(&self, route: &Facts<'_>) -> Box<dyn Stage>;
}

/// The policies of a route, one of each kind.
#[derive(Clone, Default)]
pub struct Policies(BTreeMap<&'static str, Arc<dyn Definition>>);

impl Policies {
    /// Adds a policy in place of an earlier one of its kind.
    pub(crate) fn set(&mut self, policy: impl Definition) {
        self.0.insert(policy.name(), Arc::new(policy));
    }

    /// The policy of this kind.
    pub(crate) fn get<D: Definition>(&self) -> Option<&D> {
        self.iter().find_map(|policy| (policy as &dyn Any).downcast_ref())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn Definition> {
        self.0.values().map(|policy| &**policy)
    }
}

impl Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

/// What a policy may know of the route that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// Who marks records as consumed.
    pub marks: Marks,
    /// All policies of the route.
    pub policies: &'a Policies,
}

/// What a policy does in one partition; see the [module](self).
pub trait Stage: Debug + Send {
    /// The name of its policy.
    fn policy(&self) -> &'static str;

    /// True if [`admit`](Self::admit) looks at the time of day, which is read once per batch then.
    fn reads_wall_clock(&self) -> bool {
        false
    }

    /// The lane of each record, if the batch is to run in several; `workers` handlers may run at once.
    fn split(&mut self, _batch: &RecordBatch, _workers: usize) -> Option<Vec<u32>> {
        None
    }

    /// Decides which of the records may run now.
    fn admit(&mut self, _records: &mut Admission<'_>) {}

    /// Decides what becomes of a record whose run failed, or of a dispatch that did.
    fn failed(&mut self, _failure: &mut Failure<'_>) -> Decision {
        Decision::Next
    }

    /// Everything below `offset` is done.
    fn advanced(&mut self, _offset: i64) {}

    /// The context of the error that tells of a panic in this stage, and the error.
    fn panicked(&self) -> (&'static str, Error) {
        let text = format!("the policy {} panicked", self.policy());
        (
            "policy.error",
            Error::new(ErrorKind::Handler, text).with_advice("the route goes on without its answer"),
        )
    }
}

/// What becomes of a record that a stage was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The handler gets it, unless a later stage says otherwise.
    Run,
    /// The handler never gets it. With automatic marks it counts as consumed; with manual ones the next mark behind it
    /// passes it.
    Skip,
    /// The handler never gets it, and it counts as consumed whoever marks.
    Consumed,
}

/// The records that may run now, as the stages before left them, and what a stage decides about them. Nothing takes effect
/// before the stage returns.
#[derive(Debug)]
pub struct Admission<'a> {
    now: Instant,
    wall: Timestamp,
    batch: &'a RecordBatch,
    /// Indexes in the batch, ascending.
    records: &'a [u32],
    /// Records from this index on were never handed to a handler.
    fresh_from: u32,
    pub(crate) decided: Decided,
}

/// What a stage decided.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Records that never run, and whether they count as consumed whoever marks.
    pub(crate) skipped: Vec<(u32, Verdict)>,
    /// How many of the records may run, and when the rest is asked for again.
    pub(crate) cut: Option<(usize, Instant)>,
    /// When more may run after these.
    pub(crate) pause: Option<Instant>,
    /// Where reading goes on after these.
    pub(crate) seek: Option<i64>,
}

/// One of the records that may run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// Offset, timestamp, key, headers and value.
    pub(crate) record: RecordRef<'a>,
    /// No handler was given it yet; false for one that is retried.
    pub(crate) fresh: bool,
}

impl<'a> Admission<'a> {
    pub(crate) fn new(
        (now, wall): (Instant, Timestamp),
        batch: &'a RecordBatch,
        records: &'a [u32],
        fresh_from: u32,
    ) -> Self {
        Self { now, wall, batch, records, fresh_from, decided: Decided::default() }
    }

    /// The time.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// The time of day, for stages that [say](Stage::reads_wall_clock) that they look at it.
    pub(crate) fn wall(&self) -> Timestamp {
        self.wall
    }

    /// How many records may run.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Decides about each record. Those that do not run are told of in an event.
    pub(crate) fn judge(&mut self, mut verdict: impl FnMut(&Candidate<'_>) -> Verdict) {
        for &index in self.records {
            let Some(record) = self.batch.get(index as usize) else { continue };
            match verdict(&Candidate { record, fresh: index >= self.fresh_from }) {
                Verdict::Run => {}
                decided => self.decided.skipped.push((index, decided)),
            }
        }
    }

    /// Only the first `keep` records may run; the stage is asked about the rest again, at `until` if none runs before.
    pub(crate) fn cut(&mut self, keep: usize, until: Instant) {
        self.decided.cut = Some((keep, until));
    }

    /// Nothing more runs before `until` once these records have.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "part of the contract; the first policy to pause is to come")
    )]
    pub(crate) fn pause(&mut self, until: Instant) {
        self.decided.pause = Some(until);
    }

    /// Reading goes on at `offset` once these records have succeeded. A handler that seeks or pauses takes precedence.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "part of the contract; the first policy to seek is to come")
    )]
    pub(crate) fn seek(&mut self, offset: i64) {
        self.decided.seek = Some(offset);
    }
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// A run of the handler.
    Run,
    /// A dispatch to the dead letter topic; with 0 attempts it is asked how long to wait behind one that succeeded.
    Dispatch,
}

/// A failure, as the stages see it.
#[derive(Debug)]
pub struct Failure<'a> {
    /// What failed.
    pub what: Failed,
    /// How often this record failed; a stage may count differently, and those behind it and events see its count.
    pub attempt: u32,
    /// Runs since the last success or dispatch, whichever record failed in them.
    pub runs: u32,
    /// Several lanes ran: it is not known which record failed.
    pub ambiguous: bool,
    /// Any random number.
    pub dice: u64,
    /// What failed since the partition last succeeded.
    pub errors: &'a ErrorHistory,
}

/// What a stage wants done about a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Whatever the next stage says.
    Next,
    /// The same once more, after this time.
    Retry(Duration),
    /// The record goes to the dead letter topic.
    Dispatch {
        /// It counts as consumed then.
        mark: bool,
        /// Dispatch and mark happen in one transaction or not at all.
        atomic: bool,
        /// The topic, if it is not the one of the route.
        to: Option<TopicName>,
    },
    /// The record is left where it is, and reading goes on behind it.
    Skip {
        /// It counts as consumed then.
        mark: bool,
    },
    /// The application stops. The record stays uncommitted.
    Stop,
}
