//! Machine: what is done: marks that wait for a commit.

use super::{Positions, not_assigned};
use crate::consumer::mark::Mark;
use crate::types::{LeaderEpoch, Offset, TopicPartition};
use crate::{Error, ErrorKind};

impl Positions {
    /// Everything handed out so far counts as done.
    pub(crate) fn store_handed_out(&mut self) {
        for partition in std::mem::take(&mut self.handed_out) {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            if let Some(mark) = state.marks.handed_out.take() {
                state.marks.stored = Some(mark);
                self.uncommitted_marks.insert(partition);
            }
        }
    }

    /// Checks that a mark belongs to an assignment in force.
    pub(crate) fn check_mark(&self, mark: &Mark) -> Result<(), Error> {
        let partition = mark.topic_partition();
        let state = self.partitions.get(partition).ok_or_else(|| not_assigned(partition))?;
        if mark.assignment().is_some_and(|assignment| assignment != state.assignment) {
            return Err(Error::new(
                ErrorKind::Fenced,
                format!("the mark for {partition} belongs to an assignment that was lost"),
            ));
        }
        if mark.offset().0 < 0 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("offset {} of {partition} is negative", mark.offset()),
            ));
        }
        Ok(())
    }

    /// Makes a mark one of the assignment in force, if it may be one.
    pub(crate) fn bind(&self, mut mark: Mark) -> Result<Mark, Error> {
        self.check_mark(&mark)?;
        if let Some(state) = self.partitions.get(mark.topic_partition()) {
            mark.bind(state.assignment);
        }
        Ok(mark)
    }

    /// Keeps a mark for the next automatic commit.
    pub(crate) fn store(&mut self, mark: Mark) -> Result<(), Error> {
        let mark = self.bind(mark)?;
        if let Some(state) = self.partitions.get_mut(mark.topic_partition()) {
            self.uncommitted_marks.insert(mark.topic_partition().clone());
            state.marks.stored = Some(state.marks.beyond_gap(mark, state.assignment));
        }
        Ok(())
    }

    /// True if `mark` is to be committed by the next automatic commit.
    pub(crate) fn is_stored(&self, mark: &Mark) -> bool {
        self.partitions
            .get(mark.topic_partition())
            .is_some_and(|state| state.marks.stored.as_ref() == Some(mark))
    }

    /// `mark` will never be committed. True if it, or an older one, was stored.
    pub(crate) fn give_up(&mut self, mark: &Mark) -> bool {
        let Some(state) = self.partitions.get_mut(mark.topic_partition()) else { return false };
        let stored = state
            .marks
            .stored
            .take_if(|stored| stored.assignment() == mark.assignment() && stored.offset() <= mark.offset());
        stored.is_some()
    }

    /// Stored marks that are not committed, of all partitions or of some.
    pub(crate) fn stored(&mut self, only: Option<&[TopicPartition]>) -> Vec<Mark> {
        let partitions = &self.partitions;
        let mark = |partition: &TopicPartition| partitions.get(partition)?.marks.uncommitted().cloned();
        match only {
            Some(only) => only.iter().filter_map(mark).collect(),
            None => {
                self.uncommitted_marks.retain(|partition| mark(partition).is_some());
                self.uncommitted_marks.iter().filter_map(mark).collect()
            }
        }
    }

    /// A mark was committed.
    pub(crate) fn handle_mark_committed(&mut self, mark: &Mark) {
        if self.check_mark(mark).is_err() {
            return;
        }
        if let Some(state) = self.partitions.get_mut(mark.topic_partition()) {
            state.marks.committed = Some(mark.offset());
            // What is stored below an explicit commit would take it back.
            if state.marks.stored.as_ref().is_some_and(|stored| stored.offset() < mark.offset()) {
                state.marks.stored = None;
            }
        }
    }
}

/// What is done of one partition.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// What the next automatic store takes over.
    pub(super) handed_out: Option<Mark>,
    stored: Option<Mark>,
    pub(super) committed: Option<Offset>,
    /// From the first offset to the second there is nothing that the application may see. Who is done up to the first
    /// is done up to the second; the record before that has this epoch.
    gap: Option<(i64, i64, i32)>,
}

impl Marks {
    /// What is stored and not committed.
    fn uncommitted(&self) -> Option<&Mark> {
        self.stored.as_ref().filter(|mark| self.committed != Some(mark.offset()))
    }

    /// Reading goes on elsewhere: what was handed out before says nothing about that.
    pub(super) fn discard(&mut self) {
        self.handed_out = None;
        self.gap = None;
    }

    /// Whoever is done up to where there is nothing to see for the application is done up to the end of that: otherwise
    /// the group's lag would never become zero.
    fn beyond_gap(&self, mark: Mark, assignment: u64) -> Mark {
        match self.gap {
            Some((from, to, epoch)) if (from..to).contains(&mark.offset().0) => {
                let beyond = Mark::new(mark.topic_partition().clone(), Offset(to))
                    .leader_epoch(LeaderEpoch(epoch))
                    .of_assignment(assignment);
                match mark.text_bytes() {
                    Some(text) => beyond.metadata(text),
                    None => beyond,
                }
            }
            _ => mark,
        }
    }

    /// Between `from`, where reading has come to, and `to` there is nothing for the application.
    pub(super) fn step_over(
        &mut self,
        partition: &TopicPartition,
        assignment: u64,
        from: i64,
        to: i64,
        epoch: i32,
    ) {
        let from = self.gap.filter(|(_, end, _)| *end == from).map_or(from, |(from, ..)| from);
        self.gap = Some((from, to, epoch));
        self.handed_out = self.handed_out.take().map(|mark| self.beyond_gap(mark, assignment));
        let committed = || self.committed.map(|offset| Mark::new(partition.clone(), offset));
        let done = self.stored.clone().or_else(committed);
        self.stored = done.map(|mark| self.beyond_gap(mark, assignment));
    }
}
