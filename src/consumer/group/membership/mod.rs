//! Machine: one membership in a group, whatever its protocol: what is committed when and under which identity, that a
//! revocation commits before it gives back, where assigned partitions begin, what is told of trouble, and the end.
//!
//! ```text
//!   application ──► Commits ◄── automatic commits, revocations
//!                     │ identity, verdict
//!   answers ──► Protocol ──► Revoke ──► application, Commits ──► given back
//!                     ├────► Assign ──► Offsets ──► positions
//!                     └────► Leave ──► Closing ──► whoever closes
//! ```

mod protocol;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use tokio::time::Instant;

use super::calls::Committed;
use super::classic;
use super::closing::Closing;
use super::commits::{
    Commits, Failed, Job, Outcome, Sending, Settled, Waiter, check_topic, is_gone, refused, trouble_of,
};
use super::offsets::{Offsets, Round};
use super::shared::{Action, CommitVerdict, Part, counts, is_final};
use crate::backoff::Backoff;
use crate::cluster::{ConditionKind, Metadata, Subject};
use crate::consumer::config::ConsumerConfig;
use crate::consumer::mark::Mark;
use crate::consumer::positions::{Begin, Positions};
use crate::types::{GroupId, Offset, TopicName, TopicPartition};
use crate::{Error, ErrorCode, ErrorKind, Result, deadline};

pub(crate) use protocol::Protocol;

/// How long the goodbye to the coordinator is tried at least, beyond the end of closing if it comes to that.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a consumer that was dropped without being closed takes for commit and goodbye.
const DROPPED_PATIENCE: Duration = Duration::from_secs(5);

/// What the driver sees, and the machine does not know.
pub(crate) struct Seen<'a> {
    pub(crate) now: Instant,
    /// Any random number.
    pub(crate) dice: u64,
    pub(crate) positions: &'a mut Positions,
    pub(crate) metadata: &'a Metadata,
    /// Why the coordinator was not reached lately; only looked at where the membership [is late](Membership::is_late).
    pub(crate) reason: Option<Error>,
}

/// What was asked of the coordinator, in the words of the protocol, was answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Classic(classic::Answer),
}

/// What has to be asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// In the words of the classic protocol; answered by [`Membership::handle_answer`].
    Classic(classic::Request),
    /// OffsetCommit; answered by [`Membership::handle_committed`].
    Commit { member_id: ByteString, generation: i32, sending: Vec<Sending> },
    /// OffsetFetch; answered by [`Membership::handle_offsets`] as answers come, then [`Membership::handle_offsets_over`].
    Offsets(Round),
    /// LeaveGroup, tried until the deadline; answered by [`Membership::handle_left`].
    Leave { member_id: ByteString, deadline: Instant },
}

/// Which conditions are over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// All of the group.
    Group,
    /// What was said of the group while somebody could be reached.
    Reachable,
    /// All of these partitions: they are not ours any more.
    Gone(Vec<TopicPartition>),
    /// What kept these partitions from being committed, or from their beginning.
    Done(Vec<TopicPartition>),
}

impl Over {
    /// True if the condition of this kind, on `subject`, is one of them.
    pub(crate) fn covers(&self, group: &Subject, subject: &Subject, kind: ConditionKind) -> bool {
        match (self, subject) {
            (Self::Group, _) => subject == group,
            (Self::Reachable, _) => {
                subject == group && matches!(kind, ConditionKind::NoCoordinator | ConditionKind::Refused)
            }
            (Self::Gone(gone), Subject::Partition(partition)) => gone.contains(partition),
            (Self::Done(done), Subject::Partition(partition)) => {
                matches!(kind, ConditionKind::Refused | ConditionKind::Unreachable)
                    && done.contains(partition)
            }
            (Self::Done(done), Subject::Topic(topic)) => {
                kind == ConditionKind::NotAuthorized && done.iter().any(|partition| partition.topic == *topic)
            }
            _ => false,
        }
    }
}

/// What the driver has to do.
#[derive(Debug)]
pub(crate) enum Output {
    /// Ask, and hand in the answer.
    Ask(Request),
    /// Nobody waits for a back-off any more.
    Hurry,
    /// The coordinator is not where it was.
    ForgetCoordinator,
    /// What is known of this topic is in doubt.
    Doubt(TopicName),
    /// This topic is not known, and has to be.
    Want(TopicName),
    /// Positions have changed: handle and tasks look again.
    Changed,
    /// Partitions are in the group's hand for this member: tell the application.
    Assigned { added: Vec<TopicPartition>, generation: i32 },
    /// Partitions are given back. With `ask`, ticket and deadline, the application is told and has to finish first;
    /// answered by [`Membership::handle_released`].
    Revoked { partitions: Vec<TopicPartition>, ask: Option<(u64, Instant)> },
    /// Partitions are lost: tell the application.
    Lost(Vec<TopicPartition>),
    /// This mark is given up. The application is told, unless it was the last commit, of which closing tells.
    NotCommitted { failed: Failed, last: bool },
    /// The commit of this caller is settled; this was not committed.
    Settled { caller: u64, failed: Vec<Failed> },
    /// Tell this caller what became of closing.
    Closed { caller: u64, result: Result<()> },
    /// This is wrong and may last.
    Raise { subject: Subject, kind: ConditionKind, error: Error },
    /// These conditions are over.
    Clear(Over),
    /// The consumer has failed; nothing more will be read.
    Fail(Error),
}

/// The membership.
#[derive(Debug)]
pub(crate) struct Membership {
    group: GroupId,
    config: Arc<ConsumerConfig>,
    protocol: Protocol,
    commits: Commits,
    offsets: Offsets,
    auto_commit_at: Option<Instant>,
    /// Set once the consumer is being closed.
    closing: Option<Closing>,
    /// The goodbye is on its way.
    leaving: bool,
    outputs: VecDeque<Output>,
}

impl Membership {
    pub(crate) fn new(
        now: Instant,
        group: GroupId,
        config: Arc<ConsumerConfig>,
        backoff: Backoff,
        protocol: Protocol,
    ) -> Self {
        Self {
            group,
            auto_commit_at: config.commit_interval().map(|interval| deadline::after(now, interval)),
            config,
            protocol,
            commits: Commits::new(backoff),
            offsets: Offsets::new(backoff),
            closing: None,
            leaving: false,
            outputs: VecDeque::new(),
        }
    }

    // ---- what the application wants ----

    /// It wants exactly these topics.
    pub(crate) fn handle_subscribe(&mut self, topics: BTreeSet<TopicName>) {
        self.protocol.handle_subscribe(topics);
    }

    /// It commits `marks`; [`Output::Settled`] tells `caller`, at `deadline` at the latest.
    pub(crate) fn handle_commit(&mut self, caller: u64, marks: Vec<Mark>, deadline: Instant) {
        self.commits.push(Job { marks, deadline, waiter: Waiter::Caller(caller) });
    }

    /// It closes the consumer; [`Output::Closed`] tells `caller`, at `deadline` at the latest.
    pub(crate) fn handle_close(&mut self, now: Instant, caller: u64, deadline: Instant) {
        self.close(now, deadline).wait(deadline, caller);
    }

    /// It has dropped every handle.
    pub(crate) fn handle_dropped(&mut self, now: Instant) {
        self.close(now, now + DROPPED_PATIENCE);
    }

    fn close(&mut self, now: Instant, deadline: Instant) -> &mut Closing {
        self.auto_commit_at = None;
        self.outputs.push_back(Output::Hurry);
        let commit_by = self.protocol.handle_close(now, deadline);
        self.commits.limit(commit_by);
        let group = &self.group;
        self.closing.get_or_insert_with(|| Closing::new(ByteString::from(group.as_str())))
    }

    /// The application has finished with `partitions`, whose revocation has to be answered until `deadline`: commits what is
    /// stored for them, and what is being committed.
    pub(crate) fn handle_released(
        &mut self,
        seen: &mut Seen<'_>,
        ticket: u64,
        partitions: &[TopicPartition],
        deadline: Instant,
    ) {
        if !self.protocol.is_revoking(ticket) {
            return;
        }
        let stored = self.stored(seen.positions, Some(partitions));
        let marks = stored.into_iter().chain(self.commits.awaited(partitions)).collect();
        self.commits.push(Job { marks, deadline, waiter: Waiter::Revocation(ticket) });
    }

    /// What automatic commits would commit.
    fn stored(&self, positions: &mut Positions, only: Option<&[TopicPartition]>) -> Vec<Mark> {
        match self.config.commit_interval() {
            Some(_) => positions.stored(only),
            None => Vec::new(),
        }
    }

    /// The client was closed: nothing more reaches the coordinator.
    pub(crate) fn handle_cut_off(&mut self, seen: &mut Seen<'_>) {
        let error = || Error::new(ErrorKind::State, "the client was closed before the consumer");
        let stored = self.stored(seen.positions, None);
        let (group, stays) = (&self.group, self.leaving || self.protocol.is_member());
        let closing = self.closing.get_or_insert_with(|| Closing::new(ByteString::from(group.as_str())));
        closing.handle_failed(stored.into_iter().map(|mark| Failed { mark, error: error() }));
        if stays {
            closing.handle_left(Err(error()));
        }
    }

    /// Nothing follows. Tells all who wait, and returns what to tell who closes later.
    pub(crate) fn handle_end(&mut self) -> Result<()> {
        self.commits.abandon("the consumer was closed");
        self.settle();
        let result = self.closing.as_mut().map_or(Ok(()), Closing::handle_end);
        self.tell_closers();
        result
    }

    // ---- what happens ----

    /// The cluster's metadata changed.
    pub(crate) fn handle_metadata(&mut self, metadata: &Metadata) {
        let Some(watched) = self.protocol.watched_topics() else { return };
        let known = counts(metadata, watched);
        let unknown = watched.iter().filter(|topic| !known.contains_key(*topic));
        self.outputs.extend(unknown.cloned().map(Output::Want));
        self.protocol.handle_metadata(&known);
    }

    /// The coordinator answered, or could not.
    pub(crate) fn handle_answer(&mut self, now: Instant, dice: u64, answer: Answer) {
        let was_stable = self.protocol.is_stable();
        self.protocol.handle_answer(now, dice, answer);
        if self.protocol.is_stable() && !was_stable {
            self.commits.retry_now();
        }
    }

    /// The group was left, or could not be.
    pub(crate) fn handle_left(&mut self, result: Result<()>) {
        self.leaving = false;
        if let Some(closing) = &mut self.closing {
            closing.handle_left(result);
        }
    }

    /// What was `sent` under `generation` was answered, partition by partition, or as a whole could not be.
    pub(crate) fn handle_committed(
        &mut self,
        seen: &mut Seen<'_>,
        generation: i32,
        sent: &[Sending],
        answer: Result<BTreeMap<TopicPartition, ErrorCode>>,
    ) {
        let (now, dice) = (seen.now, seen.dice);
        let codes = match answer {
            Ok(codes) => codes,
            Err(error) => {
                self.protocol.handle_part(Part::Commit, Some(&error));
                return self.commits.handle_failed(now, dice, &error);
            }
        };
        let mut outcomes = BTreeMap::new();
        for item in sent {
            let partition = item.mark.topic_partition();
            if let Some(code) = codes.get(partition) {
                outcomes.insert(partition.clone(), self.outcome(seen, generation, item, *code));
            }
        }
        let done = codes.into_iter().filter(|(_, code)| code.is_ok()).map(|(partition, _)| partition);
        let done: Vec<TopicPartition> = done.collect();
        if !done.is_empty() {
            self.protocol.handle_part(Part::Commit, None);
        }
        // What automatic commits are refused is tried again with the next ones, and lasts until they go through.
        for failed in self.commits.handle_outcomes(now, dice, outcomes) {
            if seen.positions.is_stored(&failed.mark) {
                self.raise(failed);
            }
        }
        if !done.is_empty() {
            self.outputs.push_back(Output::Clear(Over::Done(done)));
        }
    }

    /// What `code` says of one mark.
    fn outcome(
        &mut self,
        seen: &mut Seen<'_>,
        generation: i32,
        Sending { mark, topic_id }: &Sending,
        code: ErrorCode,
    ) -> Outcome {
        let error = refused(mark, code);
        let topic = &mark.topic_partition().topic;
        if code.is_ok() {
            seen.positions.handle_mark_committed(mark);
            return Outcome::Done;
        }
        if code.needs_metadata() {
            if !is_gone(seen.metadata, topic, *topic_id) {
                self.outputs.push_back(Output::Doubt(topic.clone()));
                return Outcome::Retry(error);
            }
            let error = error.with_retriable(false);
            if seen.positions.give_up(mark) {
                let failed = Failed { mark: mark.clone(), error: error.clone() };
                self.outputs.push_back(Output::NotCommitted { failed, last: false });
            }
            return Outcome::Gone(error);
        }
        match self.protocol.handle_commit_code(seen.now, seen.dice, generation, code) {
            CommitVerdict::Retry | CommitVerdict::AfterRebalance => Outcome::Retry(error),
            CommitVerdict::Lost | CommitVerdict::Refused => Outcome::Failed(error.with_retriable(false)),
        }
    }

    /// What the group has committed was told for some partitions that round `number` asked for: they begin there. What
    /// cannot be told yet is asked again.
    pub(crate) fn handle_offsets(&mut self, seen: &mut Seen<'_>, number: u64, committed: Committed) {
        let mut told = Vec::new();
        for (partition, answer) in committed {
            let Some(assignment) = self.offsets.asked(number, &partition) else { continue };
            match answer {
                Ok(offset) => {
                    let offset = offset.map(|(offset, epoch, _)| (offset, epoch));
                    seen.positions.handle_committed(&partition, assignment, offset);
                    told.push(partition);
                }
                Err(code) if code.needs_metadata() => self.outputs.push_back(Output::Doubt(partition.topic)),
                Err(code) if code.is_retriable() => {}
                Err(code) => {
                    let message = format!("the committed offset of {partition} cannot be had");
                    let error = Error::from_code(code, message);
                    self.raise(Failed { mark: Mark::new(partition, Offset(0)), error });
                }
            }
        }
        if !told.is_empty() {
            self.offsets.handle_told();
            self.outputs.extend([Output::Changed, Output::Clear(Over::Done(told))]);
        }
    }

    /// Round `number` of asking for committed offsets is over.
    pub(crate) fn handle_offsets_over(&mut self, now: Instant, dice: u64, number: u64, result: &Result<()>) {
        let failure = result.as_ref().err();
        let last = failure.filter(|error| is_final(error));
        match last {
            Some(error) => self.outputs.push_back(Output::Fail(error.clone())),
            None => self.protocol.handle_part(Part::Committed, failure),
        }
        self.offsets.handle_over(now, dice, number, last.is_some());
    }

    fn raise(&mut self, failed: Failed) {
        let (subject, kind) = trouble_of(&failed, self.group.as_str());
        self.outputs.push_back(Output::Raise { subject, kind, error: failed.error });
    }

    // ---- time and outputs ----

    /// Time has come to `seen.now`: what can be done now is done.
    pub(crate) fn handle_timeout(&mut self, seen: &mut Seen<'_>) {
        let now = seen.now;
        loop {
            self.commits.handle_timeout(now);
            for (ticket, failed) in self.settle() {
                self.end_revocation(seen.positions, ticket, failed);
            }
            self.protocol.handle_timeout(now, seen.dice);
            let Some(action) = self.protocol.poll_output() else { break };
            self.act(seen, action);
        }
        if self.auto_commit_at.is_some_and(|at| at <= now) {
            self.auto_commit_at =
                self.config.commit_interval().map(|interval| deadline::after(now, interval));
            self.commits.push_stored(seen.positions.stored(None));
        }
        self.send_commit(seen);
        self.offsets.handle_timeout(now, seen.positions);
        let rounds = std::iter::from_fn(|| self.offsets.poll_output());
        self.outputs.extend(rounds.map(|round| Output::Ask(Request::Offsets(round))));
        if let Some(closing) = &mut self.closing {
            closing.handle_timeout(now, seen.reason.as_ref());
        }
        self.tell_closers();
    }

    /// What is to be done.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When, after `now`, [`handle_timeout`](Self::handle_timeout) may have something to do.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let closing = self.closing.as_ref().and_then(Closing::next_deadline);
        let (protocol, commits) = (self.protocol.next_deadline(), self.commits.next_deadline(now));
        let deadlines = [protocol, commits, self.offsets.next_deadline(), self.auto_commit_at, closing];
        deadlines.into_iter().flatten().min()
    }

    /// True if somebody who closes has waited long enough: then the reason is told.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.closing.as_ref().and_then(Closing::next_deadline).is_some_and(|at| at <= now)
    }

    /// Member id and generation under which offsets may be committed now; none while the group rebalances.
    pub(crate) fn place(&self) -> Option<(ByteString, i32)> {
        self.protocol.commit_identity()
    }

    /// True once nothing will ever follow.
    pub(crate) fn is_over(&self) -> bool {
        self.closing.is_some() && self.protocol.is_over() && !self.leaving
    }

    fn act(&mut self, seen: &mut Seen<'_>, action: Action) {
        match action {
            Action::Ask(request) => self.outputs.push_back(Output::Ask(Request::Classic(request))),
            Action::Leave { member_id } => {
                self.leaving = true;
                let least = seen.now + LEAVE_PATIENCE;
                let deadline = self.closing.as_ref().map_or(least, |closing| closing.until(least));
                self.outputs.push_back(Output::Ask(Request::Leave { member_id, deadline }));
            }
            Action::Revoke { ticket, partitions, deadline } => {
                seen.positions.begin_revoke(&partitions);
                // Whoever closes has finished.
                let ask = self.closing.is_none().then_some((ticket, deadline));
                self.outputs
                    .extend([Output::Changed, Output::Revoked { partitions: partitions.clone(), ask }]);
                if ask.is_none() {
                    self.handle_released(seen, ticket, &partitions, deadline);
                }
            }
            Action::Lose { partitions } => {
                self.commits.handle_lost(&partitions);
                self.forget(seen.positions, partitions.clone());
                self.outputs.push_back(Output::Lost(partitions));
            }
            Action::Assign { added, generation } => {
                let begin = added.iter().map(|partition| (partition.clone(), Begin::Committed));
                seen.positions.assign(begin);
                self.offsets.handle_assigned(seen.now);
                self.outputs.extend([Output::Changed, Output::Assigned { added, generation }]);
            }
            Action::ForgetCoordinator => self.outputs.push_back(Output::ForgetCoordinator),
            Action::Trouble { kind, error } => {
                if kind == ConditionKind::Unreachable {
                    self.outputs.push_back(Output::Clear(Over::Reachable));
                }
                let subject = Subject::Group(self.group.clone());
                self.outputs.push_back(Output::Raise { subject, kind, error });
            }
            Action::Well => self.outputs.push_back(Output::Clear(Over::Group)),
            Action::Fail(failure) => {
                self.commits.abandon(&failure.to_string());
                self.outputs.push_back(Output::Fail(failure));
            }
        }
    }

    /// Tells callers whose commits are settled, and returns the revocations that are.
    fn settle(&mut self) -> Vec<(u64, Vec<Failed>)> {
        let mut revocations = Vec::new();
        while let Some(Settled { waiter, failed }) = self.commits.poll_output() {
            match waiter {
                Waiter::Caller(caller) => self.outputs.push_back(Output::Settled { caller, failed }),
                Waiter::Revocation(ticket) => revocations.push((ticket, failed)),
            }
        }
        revocations
    }

    fn tell_closers(&mut self) {
        while let Some((caller, result)) = self.closing.as_mut().and_then(Closing::poll_output) {
            self.outputs.push_back(Output::Closed { caller, result });
        }
    }

    /// What could be committed of a revocation is.
    fn end_revocation(&mut self, positions: &mut Positions, ticket: u64, failed: Vec<Failed>) {
        let partitions = self.protocol.handle_revoked(ticket);
        self.forget(positions, partitions);
        let last = self.closing.is_some();
        let told = failed.iter().cloned().map(|failed| Output::NotCommitted { failed, last });
        self.outputs.extend(told);
        if let Some(closing) = &mut self.closing {
            closing.handle_failed(failed);
        }
    }

    /// `partitions` are not ours any more.
    fn forget(&mut self, positions: &mut Positions, partitions: Vec<TopicPartition>) {
        positions.remove(&partitions);
        self.outputs.extend([Output::Changed, Output::Clear(Over::Gone(partitions))]);
    }

    fn send_commit(&mut self, seen: &mut Seen<'_>) {
        let Some((member_id, generation)) = self.protocol.commit_identity() else { return };
        let (positions, metadata) = (&*seen.positions, seen.metadata);
        let check = |mark: &Mark| {
            positions.check_mark(mark)?;
            let partition = mark.topic_partition();
            let id = positions.topic_id(partition);
            check_topic(metadata, &partition.topic, id).map(|()| id)
        };
        if let Some(sending) = self.commits.plan(seen.now, check) {
            let request = Request::Commit { member_id, generation, sending };
            self.outputs.push_back(Output::Ask(request));
        }
    }
}

#[cfg(test)]
mod tests;
