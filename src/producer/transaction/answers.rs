//! Machine: what the coordinator's answers do to a transaction.

use tokio::time::Instant;

use super::error::{TransactionError, TransactionErrorKind as Kind};
use super::machine::Machine;
use super::states::{Answer, Ending, Failure, Output, Protocol, Question, State};
use super::verdict::{Asked, Verdict, verdict};
use crate::producer::sender::Era;
use crate::{Error, ErrorCode, ErrorKind};

impl Machine {
    /// The coordinator answered, or did not. `random` spreads back-off.
    pub(in crate::producer) fn handle_answer(
        &mut self,
        now: Instant,
        answer: Result<Answer, Failure>,
        random: u64,
    ) {
        let Some(question) = self.asked.take() else { return };
        match question {
            Question::Protocol | Question::ProducerId { .. } => self.begun(now, &question, answer, random),
            Question::AddPartitions { partitions, .. } => self.added(now, &partitions, answer, random),
            Question::AddOffsets { .. } | Question::Offsets { .. } => {
                self.offsets_taken(now, &question, answer, random);
            }
            Question::End { era, protocol, .. } => match &self.state {
                State::Ending(..) => self.ended(now, era, protocol, answer, random),
                _ => self.resolved(now, era, answer, random),
            },
        }
    }

    /// Something that the next transaction needs.
    fn begun(&mut self, now: Instant, question: &Question, answer: Result<Answer, Failure>, random: u64) {
        let error = match answer {
            Ok(Answer::Protocol(protocol)) => {
                self.protocol = protocol;
                self.protocol_since = Some(now);
                self.failures = 0;
                return;
            }
            Ok(Answer::ProducerId(era)) => {
                if era.producer_id < 0 || era.epoch < 0 {
                    let message = format!(
                        "the coordinator gave producer id {} and epoch {}",
                        era.producer_id, era.epoch
                    );
                    self.refuse_begins(&Error::new(ErrorKind::Protocol, message));
                    return;
                }
                self.identity = Some(era);
                self.renew = false;
                self.failures = 0;
                self.last_error = None;
                return;
            }
            Ok(_) => return,
            Err(failure) => failure.error,
        };
        let renews = matches!(question, Question::ProducerId { renew: Some(_) });
        match verdict(Asked::Begin, &error) {
            Verdict::Retry => self.pause(now, false, random, error),
            Verdict::Soon => self.pause(now, true, random, error),
            Verdict::Fenced => self.die(now, error),
            _ if renews && error.kind() == ErrorKind::UnsupportedVersion => {
                // Whoever asks without naming its epoch is another producer to the coordinator.
                self.die(
                    now,
                    error.with_advice("recovering takes Kafka 2.5 or newer (KIP-360); build a new producer"),
                );
            }
            _ => self.refuse_begins(&error),
        }
    }

    fn added(&mut self, now: Instant, asked: &[usize], answer: Result<Answer, Failure>, random: u64) {
        let adding = self.is_adding();
        let (State::Open(open) | State::Ending(open, _)) = &mut self.state else { return };
        let adds = match &answer {
            Ok(Answer::Partitions(answers)) => answers.as_slice(),
            Ok(_) => &[],
            Err(failure) => {
                if adding {
                    open.wanted.extend(asked);
                }
                self.judge(now, Asked::Add, failure.error.clone(), random);
                return;
            }
        };
        let code_of = |partition: usize| {
            adds.iter()
                .find(|(added, _)| *added == partition)
                .map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |(_, code)| *code)
        };
        let (admitted, others): (Vec<_>, Vec<_>) =
            asked.iter().copied().partition(|partition| code_of(*partition).is_ok());
        if !admitted.is_empty() {
            self.failures = 0;
            self.outputs.push_back(Output::Admitted(admitted));
        }
        let failed = |code| Error::from_code(code, "making partitions part of the transaction failed");
        let codes = || others.iter().map(|partition| code_of(*partition));
        let again =
            |code: &ErrorCode| matches!(verdict(Asked::Add, &failed(*code)), Verdict::Retry | Verdict::Soon);
        // What cannot be tried again decides; what was not attempted says nothing.
        let worst = codes()
            .find(|code| !again(code))
            .or_else(|| codes().find(|code| *code != ErrorCode::OPERATION_NOT_ATTEMPTED))
            .or_else(|| codes().next());
        let Some(worst) = worst else { return };
        if adding {
            open.wanted.extend(&others);
        }
        self.judge(now, Asked::Add, failed(worst), random);
    }

    fn offsets_taken(
        &mut self,
        now: Instant,
        question: &Question,
        answer: Result<Answer, Failure>,
        random: u64,
    ) {
        let (State::Open(open) | State::Ending(open, _)) = &mut self.state else { return };
        match answer {
            Ok(_) => {
                self.failures = 0;
                let Some(job) = open.jobs.front_mut() else { return };
                if matches!(question, Question::AddOffsets { .. }) {
                    job.added = true;
                } else if let Some(job) = open.jobs.pop_front() {
                    self.tell(job.ticket, Ok(()));
                }
            }
            Err(failure) => {
                let asked =
                    if matches!(question, Question::AddOffsets { .. }) { Asked::Add } else { Asked::Offsets };
                self.judge(now, asked, failure.error, random);
            }
        }
    }

    /// What an error means to a transaction that is not being ended yet.
    fn judge(&mut self, now: Instant, asked: Asked, error: Error, random: u64) {
        let (State::Open(open) | State::Ending(open, _)) = &mut self.state else { return };
        match verdict(asked, &error) {
            Verdict::Retry => self.pause(now, false, random, error),
            Verdict::Soon => self.pause(now, true, random, error),
            Verdict::Fenced => self.die(now, error),
            Verdict::Forgotten => {
                open.forgotten = true;
                self.handle_fault(now, &error);
            }
            Verdict::WrongState | Verdict::Abort | Verdict::Final => self.handle_fault(now, &error),
        }
    }

    fn ended(
        &mut self,
        now: Instant,
        era: Era,
        protocol: Protocol,
        answer: Result<Answer, Failure>,
        random: u64,
    ) {
        let State::Ending(open, ending) = &mut self.state else { return };
        let Ending { commit, .. } = *ending;
        let Failure { error, unsent } = match answer {
            Ok(answer) => {
                if let Answer::Ended(Some(next)) = answer
                    && protocol == Protocol::V2
                    && next.producer_id >= 0
                    && next.epoch >= 0
                {
                    self.identity = Some(next);
                } else {
                    self.renew |= protocol == Protocol::V2;
                    self.identity = Some(era);
                }
                self.finish(Ok(()));
                return;
            }
            Err(failure) => failure,
        };
        // A coordinator that lost its place while it wrote says so although it has written; one that loads has not begun.
        let undone = unsent || error.code() == Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
        ending.unsure |= !undone && verdict(Asked::End, &error) == Verdict::Retry;
        let unsure = ending.unsure;
        let aborted = |error: Error| Err(TransactionError::new(Kind::Abort, error));
        match verdict(Asked::End, &error) {
            Verdict::Retry => self.pause(now, false, random, error),
            Verdict::Soon => self.pause(now, true, random, error),
            Verdict::Fenced => self.die(now, error),
            Verdict::Abort if commit && !unsure => {
                open.fault = Some(error.clone());
                ending.commit = false;
                ending.refused = Some(TransactionError::new(Kind::Abort, error));
            }
            // Nothing is open under our epoch, so that there is nothing to abort, and nothing was committed.
            Verdict::WrongState | Verdict::Forgotten | Verdict::Abort if !commit => {
                self.renew = true;
                self.finish(Ok(()));
            }
            Verdict::WrongState => {
                self.renew = true;
                self.finish(aborted(error));
            }
            Verdict::Forgotten if !unsure => {
                self.renew = true;
                self.finish(aborted(error));
            }
            _ => {
                // A broker that has no word for what happened may have done it before.
                ending.unsure |= error.code() == Some(ErrorCode::UNKNOWN_SERVER_ERROR);
                self.lose(error);
            }
        }
    }

    /// A transaction whose end was not known is over, or the next one cannot begin.
    fn resolved(&mut self, now: Instant, era: Era, answer: Result<Answer, Failure>, random: u64) {
        let error = match answer {
            Ok(Answer::Ended(Some(next))) if next.producer_id >= 0 && next.epoch >= 0 => {
                self.identity = Some(next);
                self.unresolved = false;
                return;
            }
            Ok(_) => {
                // What was sent for it and is still on its way must not reach the next one.
                self.identity = Some(era);
                self.renew = true;
                self.unresolved = false;
                return;
            }
            Err(failure) => failure.error,
        };
        match verdict(Asked::End, &error) {
            Verdict::Retry => self.pause(now, false, random, error),
            Verdict::Soon => self.pause(now, true, random, error),
            Verdict::Fenced => self.die(now, error),
            Verdict::WrongState | Verdict::Forgotten => {
                self.renew = true;
                self.unresolved = false;
            }
            Verdict::Abort | Verdict::Final => self.refuse_begins(&error),
        }
    }

    /// The coordinator knows a later epoch than ours.
    fn die(&mut self, now: Instant, error: Error) {
        let state = std::mem::replace(&mut self.state, State::Resting);
        let open = match &state {
            State::Open(open) | State::Ending(open, _) => Some(open),
            _ => None,
        };
        let timeout = self.config.timeout;
        let error = match open.filter(|open| now.saturating_duration_since(open.since) >= timeout) {
            Some(_) => error.with_advice(format!(
                "the transaction was open for longer than transaction.timeout.ms, {} ms, and was aborted: raise that, or \
                 do less in one; then build a new producer",
                timeout.as_millis()
            )),
            None => error,
        };
        let dead = TransactionError::new(Kind::Dead, error.clone());
        let mut tell = |ticket, error: &TransactionError| {
            self.outputs.push_back(Output::Tell { ticket, result: Err(error.clone()) });
        };
        match state {
            State::Open(open) => open.jobs.iter().for_each(|job| tell(job.ticket, &dead)),
            State::Ending(open, ending) => {
                open.jobs.iter().for_each(|job| tell(job.ticket, &dead));
                // An attempt without an answer may have come before whoever took over.
                let unknown = TransactionError::new(Kind::Unknown, error);
                let result = if ending.commit && ending.unsure { &unknown } else { &dead };
                ending.waiters.iter().for_each(|ticket| tell(*ticket, result));
            }
            State::Resting | State::Dead(_) => {}
        }
        for begin in std::mem::take(&mut self.begins) {
            self.tell(begin.ticket, Err(dead.clone()));
        }
        self.outputs.push_back(Output::Died(dead.clone()));
        self.state = State::Dead(dead);
    }
}
