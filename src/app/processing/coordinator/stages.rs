//! Machine: the stages of a route's policies, as the coordinator asks them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::time::Instant;

use super::output::Output;
use crate::app::policy::{Admission, Decision, Failure, Marks, Stage, Verdict};
use crate::app::processing::progress::Progress;
use crate::consumer::RecordBatch;
use crate::types::Timestamp;

/// The pause where no stage says how long it is.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Stages {
    /// In the order in which they are asked.
    stages: Vec<Box<dyn Stage>>,
    marks: Marks,
}

/// What the stages want besides what they let through.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// Until when nothing more runs.
    pub(super) wait: Option<Instant>,
    /// Where to go on.
    pub(super) seek: Option<i64>,
}

impl Stages {
    pub(super) fn new(stages: Vec<Box<dyn Stage>>, marks: Marks) -> Self {
        Self { stages, marks }
    }

    pub(super) fn read_wall_clock(&self) -> bool {
        self.stages.iter().any(|stage| stage.reads_wall_clock())
    }

    /// The lane of each record, where there are several.
    pub(super) fn split<D>(
        &mut self,
        batch: &RecordBatch,
        workers: usize,
        outputs: &mut VecDeque<Output<D>>,
    ) -> Option<Vec<u32>> {
        self.ask(outputs, |stage| stage.split(batch, workers))
    }

    /// What the first stage that has an answer wants done about a failure, and its policy.
    pub(super) fn decide<D>(
        &mut self,
        failure: &mut Failure<'_>,
        outputs: &mut VecDeque<Output<D>>,
    ) -> (&'static str, Decision) {
        let decision = self.ask(outputs, |stage| match stage.failed(failure) {
            Decision::Next => None,
            answer => Some((stage.policy(), answer)),
        });
        decision.unwrap_or(("", Decision::Retry(PAUSE)))
    }

    /// Takes those of the records away that may not run now. What never runs is noted in the progress.
    pub(super) fn admit<P: Progress>(
        &mut self,
        (now, wall): (Instant, Timestamp),
        batch: &RecordBatch,
        records: &mut Vec<u32>,
        progress: &mut P,
        outputs: &mut VecDeque<Output<P::Done>>,
    ) -> Admitted {
        let (mut wait, mut pause, mut seek) = (None, None, None);
        for stage in &mut self.stages {
            let mut admission = Admission::new((now, wall), batch, records, progress.started());
            if contained(stage.as_mut(), outputs, |stage| stage.admit(&mut admission)).is_none() {
                continue;
            }
            let decided = admission.decided;
            if let Some((keep, until)) = decided.cut {
                records.truncate(keep);
                wait = wait.max(Some(until));
            }
            for &(record, verdict) in &decided.skipped {
                match verdict == Verdict::Consumed || self.marks == Marks::Automatic {
                    true => progress.mark_one(record),
                    false => progress.left(record),
                }
                tell_skipped(outputs, stage.policy(), progress.offset(record));
            }
            if !decided.skipped.is_empty() {
                records.retain(|&record| progress.is_pending(record));
            }
            pause = pause.max(decided.pause);
            seek = seek.into_iter().chain(decided.seek).min();
            if records.is_empty() {
                break;
            }
        }
        // A pause takes precedence over a seek, and applies to what follows the records that run.
        Admitted {
            seek: seek.filter(|_| pause.is_none()),
            wait: if records.is_empty() { wait.max(pause) } else { pause },
        }
    }

    /// Everything below `offset` is done.
    pub(super) fn advanced<D>(&mut self, offset: i64, outputs: &mut VecDeque<Output<D>>) {
        for stage in &mut self.stages {
            let _ = contained(stage.as_mut(), outputs, |stage| stage.advanced(offset));
        }
    }

    /// The first answer of a stage. One that panics has none.
    fn ask<T, D>(
        &mut self,
        outputs: &mut VecDeque<Output<D>>,
        mut question: impl FnMut(&mut dyn Stage) -> Option<T>,
    ) -> Option<T> {
        self.stages.iter_mut().find_map(|stage| contained(stage.as_mut(), outputs, &mut question).flatten())
    }
}

/// Calls a stage; `None`, and an output that tells of it, if it panics.
fn contained<T, D>(
    stage: &mut dyn Stage,
    outputs: &mut VecDeque<Output<D>>,
    call: impl FnOnce(&mut dyn Stage) -> T,
) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(|| call(stage))) {
        Ok(answer) => Some(answer),
        Err(_) => {
            let (context, error) = stage.panicked();
            outputs.push_back(Output::Panicked(context, error));
            None
        }
    }
}

/// Adds a record to those that listeners will be told of.
fn tell_skipped<D>(outputs: &mut VecDeque<Output<D>>, by: &'static str, offset: i64) {
    match outputs.back_mut() {
        Some(Output::Skipped { policy, offsets, records }) if *policy == by => {
            offsets.1 = offset;
            *records += 1;
        }
        _ => outputs.push_back(Output::Skipped { policy: by, offsets: (offset, offset), records: 1 }),
    }
}
