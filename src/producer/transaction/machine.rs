//! Machine: the transactions of one producer, one after the other (KIP-98, KIP-360, KIP-447, KIP-890).
//!
//! It asks the coordinator one question at a time and says when records may be sent and under which era. What becomes of
//! the records is the sender's affair: it tells of a fault, and when nothing is on its way any more. [`answers`](super::answers)
//! says what answers do.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{TransactionError, TransactionErrorKind as Kind};
use super::states::{Begin, Ending, Job, Open, Output, Protocol, Question, State, TransactionConfig};
use crate::cluster::GroupOffsets;
use crate::producer::sender::Era;
use crate::{Error, ErrorKind, deadline};

/// For how long what a coordinator said of the protocol counts. A cluster that is up- or downgraded serves both meanwhile.
const PROTOCOL_COUNTS: Duration = Duration::from_secs(30);
/// First pause while the transaction before this one is being finished, which takes a broker some milliseconds.
const SOON: Duration = Duration::from_millis(20);

/// The machine.
#[derive(Debug)]
pub(in crate::producer) struct Machine {
    pub(super) config: TransactionConfig,
    pub(super) state: State,
    /// As the coordinator gave it last.
    pub(super) identity: Option<Era>,
    /// Of the transaction that was closed last.
    pub(super) closed: Option<Era>,
    pub(super) protocol: Protocol,
    pub(super) protocol_since: Option<Instant>,
    /// Whether the latest transaction was ended is not known.
    pub(super) unresolved: bool,
    /// The next transaction needs another epoch.
    pub(super) renew: bool,
    pub(super) begins: VecDeque<Begin>,
    next_number: u64,
    pub(super) asked: Option<Question>,
    pub(super) retry_at: Option<Instant>,
    pub(super) failures: u32,
    /// Of the latest attempt, while there are more.
    pub(super) last_error: Option<Error>,
    /// How the latest transaction ended, if that was not told, or was not what had been asked for.
    untold: Option<Result<(), TransactionError>>,
    pub(super) outputs: VecDeque<Output>,
}

impl Machine {
    pub(in crate::producer) fn new(config: TransactionConfig) -> Self {
        Self {
            config,
            state: State::Resting,
            identity: None,
            closed: None,
            protocol: Protocol::V1,
            protocol_since: None,
            unresolved: false,
            renew: false,
            begins: VecDeque::new(),
            next_number: 1,
            asked: None,
            retry_at: None,
            failures: 0,
            last_error: None,
            untold: None,
            outputs: VecDeque::new(),
        }
    }

    /// Somebody wants a transaction. A `scope` waits for its turn behind other scopes.
    pub(in crate::producer) fn handle_begin(&mut self, now: Instant, ticket: u64, scope: bool) {
        let refused = match &self.state {
            State::Dead(error) => Some(error.clone()),
            State::Open(open) if !open.scope || !scope => Some(TransactionError::misuse(
                "a transaction of this producer is open already",
                "commit or abort it first; work that belongs to a scope's transaction uses the scope's handle; transactions at \
                 the same time take a producer each, with transactional ids of their own",
            )),
            _ => None,
        };
        match refused {
            Some(error) => self.tell(ticket, Err(error)),
            None => {
                let deadline = deadline::after(now, self.config.patience);
                self.begins.push_back(Begin { ticket, deadline, scope });
            }
        }
    }

    /// The open transaction is to be committed or aborted: that with `number`, or the one that was begun by hand. Called again,
    /// it waits for the same end.
    pub(in crate::producer) fn handle_end(
        &mut self,
        now: Instant,
        ticket: u64,
        number: Option<u64>,
        commit: bool,
    ) {
        let is_meant = |open: &Open| number.map_or(!open.scope, |number| number == open.number);
        let what = if commit { "commit" } else { "abort" };
        match &mut self.state {
            State::Dead(error) => {
                let error = error.clone();
                self.tell(ticket, Err(error));
            }
            State::Open(open) if is_meant(open) => self.begin_end(now, Some(ticket), commit),
            State::Ending(open, ending) if is_meant(open) => {
                if ending.commit == commit || ending.refused.is_some() {
                    ending.waiters.push(ticket);
                } else {
                    let message =
                        format!("an end of the transaction has begun, so that it is too late to {what} it");
                    let error = TransactionError::misuse(message, "wait for that end");
                    self.tell(ticket, Err(error));
                }
            }
            State::Resting | State::Open(_) | State::Ending(..) => {
                let result = match self.untold.take() {
                    Some(result) if commit => result,
                    // What was to be committed and could not be is aborted.
                    Some(Err(error)) if error.kind() == Kind::Abort => Ok(()),
                    _ => Err(TransactionError::misuse(
                        format!("there is no transaction to {what}"),
                        "begin one first; a scope's transaction ends with the scope",
                    )),
                };
                self.tell(ticket, result);
            }
        }
    }

    /// True if what is not part of the transaction yet may become so.
    pub(super) fn is_adding(&self) -> bool {
        match &self.state {
            State::Open(open) => open.fault.is_none(),
            State::Ending(_, ending) => ending.commit,
            _ => false,
        }
    }

    /// Nobody is left who could end the transaction with `number`: it is aborted.
    pub(in crate::producer) fn handle_abandon(&mut self, now: Instant, number: u64) {
        if matches!(&self.state, State::Open(open) if open.number == number) {
            self.begin_end(now, None, false);
        }
    }

    /// No transaction begins any more; the open one, if there is one, is aborted.
    pub(in crate::producer) fn handle_close(&mut self, now: Instant) {
        let error = Error::new(ErrorKind::State, "the producer was closed");
        self.refuse_begins(&error);
        if let State::Open(open) = &self.state {
            let number = open.number;
            self.handle_abandon(now, number);
        }
    }

    fn begin_end(&mut self, now: Instant, ticket: Option<u64>, commit: bool) {
        let State::Open(open) = std::mem::replace(&mut self.state, State::Resting) else { return };
        self.untold = None;
        let fault = open.fault.clone();
        let waiters = ticket.into_iter().collect();
        let refused = fault.filter(|_| commit).map(|error| TransactionError::new(Kind::Abort, error));
        let commit = commit && refused.is_none();
        let ending = Ending { commit, waiters, refused, deadline: None, unsure: false };
        self.state = State::Ending(open, ending);
        if commit {
            self.outputs.push_back(Output::Flush);
        } else {
            self.drop_rest(now, Error::new(ErrorKind::State, "the transaction was aborted"));
        }
    }

    /// What is not part of the transaction yet will not be.
    fn drop_rest(&mut self, _now: Instant, reason: Error) {
        if let State::Open(open) | State::Ending(open, _) = &mut self.state {
            open.wanted.clear();
            for job in std::mem::take(&mut open.jobs) {
                let error = open.fault.clone().unwrap_or_else(|| reason.clone());
                let result = Err(TransactionError::new(Kind::Abort, error));
                self.outputs.push_back(Output::Tell { ticket: job.ticket, result });
            }
            let cause = open.fault.clone();
            self.outputs.push_back(Output::Drop(match cause {
                Some(cause) => reason.with_source(cause),
                None => reason,
            }));
        }
    }

    /// Offsets are to be part of the transaction: that with `number`, or the one that was begun by hand.
    pub(in crate::producer) fn handle_offsets(
        &mut self,
        now: Instant,
        ticket: u64,
        number: Option<u64>,
        offsets: GroupOffsets,
    ) {
        let deadline = deadline::after(now, self.config.patience);
        let error = match &mut self.state {
            State::Open(open) if number.map_or(!open.scope, |number| number == open.number) => {
                match &open.fault {
                    None => {
                        let offsets = Arc::new(offsets);
                        open.jobs.push_back(Job { ticket, offsets, added: false, deadline });
                        return;
                    }
                    Some(fault) => TransactionError::new(Kind::Abort, fault.clone()),
                }
            }
            State::Dead(error) => error.clone(),
            _ => TransactionError::misuse(
                "the transaction that the offsets are for is not open",
                "send them between its beginning and its end",
            ),
        };
        self.tell(ticket, Err(error));
    }

    /// Records wait for partitions that are not part of the transaction yet.
    pub(in crate::producer) fn handle_partitions(
        &mut self,
        _now: Instant,
        partitions: impl IntoIterator<Item = usize>,
    ) {
        let out = match &self.asked {
            Some(Question::AddPartitions { partitions, .. }) => partitions.as_slice(),
            _ => &[],
        };
        if self.is_adding()
            && let State::Open(open) | State::Ending(open, _) = &mut self.state
        {
            open.wanted.extend(partitions.into_iter().filter(|partition| !out.contains(partition)));
        }
    }

    /// A record of the transaction failed, or its sequences are lost: it cannot be committed.
    pub(in crate::producer) fn handle_fault(&mut self, now: Instant, error: &Error) {
        match &mut self.state {
            State::Open(open) if open.fault.is_none() => open.fault = Some(error.clone()),
            State::Ending(open, ending) if ending.commit && ending.deadline.is_none() => {
                open.fault = Some(error.clone());
                ending.commit = false;
                ending.refused = Some(TransactionError::new(Kind::Abort, error.clone()));
            }
            _ => return,
        }
        self.drop_rest(now, Error::new(ErrorKind::State, "the transaction cannot be committed"));
    }

    /// Sequences were lost under the latest era: it ends with the transaction.
    pub(in crate::producer) fn handle_torn(&mut self, _now: Instant) {
        self.renew |= self.identity.is_some() && self.identity == self.closed;
    }

    /// Nothing of the transaction is on its way any more. `sent`: something ever was.
    pub(in crate::producer) fn handle_quiet(&mut self, now: Instant, sent: bool) {
        if !self.is_draining() {
            return;
        }
        let State::Ending(open, ending) = &mut self.state else { return };
        open.known |= sent;
        if !open.known {
            self.finish(Ok(()));
        } else if open.forgotten {
            self.renew = true;
            self.finish(Ok(()));
        } else {
            ending.deadline = Some(deadline::after(now, self.config.patience));
            self.failures = 0;
            self.retry_at = None;
        }
    }

    /// True if [`handle_quiet`](Self::handle_quiet) is what it waits for.
    pub(in crate::producer) fn is_draining(&self) -> bool {
        let State::Ending(open, ending) = &self.state else { return false };
        ending.deadline.is_none() && self.asked.is_none() && open.jobs.is_empty() && open.wanted.is_empty()
    }

    /// True if no transaction is open or being ended.
    pub(in crate::producer) fn is_resting(&self) -> bool {
        matches!(self.state, State::Resting | State::Dead(_))
    }

    /// True if the coordinator was asked to commit the latest transaction and has not said that it did not.
    pub(in crate::producer) fn may_be_committed(&self) -> bool {
        let asked = matches!(self.asked, Some(Question::End { commit: true, .. }));
        matches!(&self.state, State::Ending(_, ending) if ending.commit && (ending.unsure || asked))
    }

    /// How records are sent now.
    pub(in crate::producer) fn protocol(&self) -> Protocol {
        match &self.state {
            State::Open(open) | State::Ending(open, _) => open.protocol,
            _ => self.protocol,
        }
    }

    /// Whoever was to be told `result` of an end is gone; perhaps somebody asks again.
    pub(in crate::producer) fn handle_untold(&mut self, _now: Instant, result: Result<(), TransactionError>) {
        if matches!(self.state, State::Resting) {
            self.untold = Some(result);
        }
    }

    /// What is to be done next.
    pub(in crate::producer) fn poll_output(&mut self, now: Instant) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if self.asked.is_some() || self.retry_at.is_some_and(|at| at > now) {
                return None;
            }
            let Some(question) = self.next_question(now) else {
                if self.outputs.is_empty() {
                    return None;
                }
                continue;
            };
            self.retry_at = None;
            self.asked = Some(question.clone());
            return Some(Output::Ask(question));
        }
    }

    fn next_question(&mut self, now: Instant) -> Option<Question> {
        match &mut self.state {
            State::Resting => self.prepare(now),
            State::Ending(open, Ending { commit, deadline: Some(_), .. }) => {
                Some(Question::End { era: open.era, protocol: open.protocol, commit: *commit })
            }
            State::Open(open) | State::Ending(open, _) => {
                if !open.wanted.is_empty() {
                    open.known = true;
                    let partitions = std::mem::take(&mut open.wanted).into_iter().collect();
                    return Some(Question::AddPartitions { era: open.era, partitions });
                }
                let job = open.jobs.front()?;
                open.known = true;
                let (era, protocol, offsets) = (open.era, open.protocol, Arc::clone(&job.offsets));
                Some(match protocol {
                    Protocol::V1 if !job.added => Question::AddOffsets { era, offsets },
                    _ => Question::Offsets { era, protocol, offsets },
                })
            }
            State::Dead(_) => None,
        }
    }

    /// What has to be known before the next transaction; opens it once all is.
    fn prepare(&mut self, now: Instant) -> Option<Question> {
        self.begins.front()?;
        if let (true, Some(era)) = (self.unresolved, self.identity) {
            // Whatever became of the latest one: after this it is neither open nor can it be committed late.
            return Some(Question::End { era, protocol: self.protocol, commit: false });
        }
        if self.protocol_since.is_none_or(|since| now >= since + PROTOCOL_COUNTS) {
            return Some(Question::Protocol);
        }
        let Some(era) = self.identity else { return Some(Question::ProducerId { renew: None }) };
        if self.renew {
            return Some(Question::ProducerId { renew: Some(era) });
        }
        let Begin { ticket, scope, .. } = self.begins.pop_front()?;
        let (number, protocol) = (self.next_number, self.protocol);
        self.next_number += 1;
        self.untold = None;
        self.state = State::Open(Open {
            number,
            scope,
            since: now,
            era,
            protocol,
            known: false,
            wanted: BTreeSet::new(),
            jobs: VecDeque::new(),
            fault: None,
            forgotten: false,
        });
        // Whoever began by hand knows of no other that could come in between.
        self.outputs.push_back(Output::Opened { ticket, number, scope, era, protocol });
        None
    }

    /// Lets pauses end, and gives up what took too long.
    pub(in crate::producer) fn handle_timeout(&mut self, now: Instant) {
        self.retry_at.take_if(|at| *at <= now);
        // All have the same patience, so that deadlines rise.
        while let Some(begin) = self.begins.pop_front_if(|begin| begin.deadline <= now) {
            let error = self.late_begin();
            self.tell(begin.ticket, Err(error));
        }
        if self.asked.is_some() {
            return; // its answer comes first
        }
        if let State::Open(open) | State::Ending(open, _) = &self.state
            && open.jobs.front().is_some_and(|job| job.deadline <= now)
        {
            let error = self.too_late("offsets of a group were not taken into the transaction");
            self.handle_fault(now, &error);
        }
        if let State::Ending(_, Ending { deadline: Some(deadline), .. }) = &self.state
            && *deadline <= now
        {
            let error =
                self.too_late("the coordinator of transactions did not confirm the end of the transaction");
            self.lose(error);
        }
    }

    fn late_begin(&self) -> TransactionError {
        let error = match &self.state {
            State::Open(_) | State::Ending(..) => Error::new(
                ErrorKind::Timeout,
                format!(
                    "another transaction of this producer was open for {} ms (max.block.ms)",
                    self.config.patience.as_millis()
                ),
            )
            .with_advice(
                "work that belongs to it uses the handle of its scope; transactions at the same time take a producer \
                 each, with transactional ids of their own",
            ),
            _ => self.too_late("no transaction could be begun"),
        };
        TransactionError::new(Kind::NotBegun, error)
    }

    /// The error of something that took longer than `max.block.ms`.
    fn too_late(&self, what: &str) -> Error {
        let message = format!("{what} within {} ms (max.block.ms)", self.config.patience.as_millis());
        let error = Error::new(ErrorKind::Timeout, message);
        match &self.last_error {
            Some(last) => error.with_source(last.clone()),
            None => error,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do next.
    pub(in crate::producer) fn next_deadline(&self) -> Option<Instant> {
        let begins = self.begins.iter().map(|begin| begin.deadline);
        let (job, end) = match &self.state {
            _ if self.asked.is_some() => (None, None),
            State::Open(open) => (open.jobs.front().map(|job| job.deadline), None),
            State::Ending(open, ending) => (open.jobs.front().map(|job| job.deadline), ending.deadline),
            _ => (None, None),
        };
        begins.chain(self.retry_at).chain(job).chain(end).min()
    }

    /// The pause before the next attempt.
    pub(super) fn pause(&mut self, now: Instant, soon: bool, random: u64, error: Error) {
        self.failures = self.failures.saturating_add(1);
        let mut backoff = self.config.backoff;
        if soon {
            backoff.first = backoff.first.min(SOON);
        }
        self.retry_at = Some(deadline::after(now, backoff.delay(self.failures, random)));
        self.last_error = Some(error);
    }

    pub(super) fn tell(&mut self, ticket: u64, result: Result<(), TransactionError>) {
        self.outputs.push_back(Output::Tell { ticket, result });
    }

    pub(super) fn refuse_begins(&mut self, error: &Error) {
        for begin in std::mem::take(&mut self.begins) {
            self.tell(begin.ticket, Err(TransactionError::new(Kind::NotBegun, error.clone())));
        }
    }

    /// The transaction that was being ended is over. `Ok`: as the coordinator was asked.
    pub(super) fn finish(&mut self, result: Result<(), TransactionError>) {
        let State::Ending(open, ending) = std::mem::replace(&mut self.state, State::Resting) else { return };
        self.closed = Some(open.era);
        self.failures = 0;
        self.retry_at = None;
        self.last_error = None;
        self.outputs.push_back(Output::Closed);
        let result = match ending.refused {
            Some(refused) if result.is_ok() => Err(refused),
            _ => result,
        };
        if result.is_err() {
            self.untold = Some(result.clone());
        }
        for ticket in ending.waiters {
            self.tell(ticket, result.clone());
        }
    }

    /// The coordinator was asked to end the transaction and gave no word that counts.
    pub(super) fn lose(&mut self, error: Error) {
        self.unresolved = true;
        let State::Ending(open, ending) = &self.state else { return };
        self.protocol = open.protocol;
        let kind = if ending.commit && ending.unsure { Kind::Unknown } else { Kind::Abort };
        self.finish(Err(TransactionError::new(kind, error)));
    }
}
