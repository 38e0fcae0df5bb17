//! Machine: one transactional id as its coordinator sees it: producer id and epoch, the state of its transaction, and what
//! is asked of both (KIP-98, KIP-360, KIP-588, KIP-890).
//!
//! Kafka's Dead and PrepareEpochFence lie between two writes of its log. Here a write is one step, so no request meets them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::ErrorCode;
use crate::wire::Str;

/// No producer id, and no epoch.
const NO_ID: i64 = -1;
const NO_EPOCH: i16 = -1;

/// A partition that takes part.
pub(crate) type Part = (Str, i32);

/// Time as the cluster and as its clients measure it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) now: Instant,
    /// Milliseconds since 1970.
    pub(crate) wall: i64,
}

impl Moment {
    /// What the clients' clock showed or will show at `now`.
    pub(crate) fn at(self, now: Instant) -> Self {
        let ahead = i64::try_from(now.saturating_duration_since(self.now).as_millis()).unwrap_or(i64::MAX);
        Self { now, wall: self.wall.saturating_add(ahead) }
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
}

impl Identity {
    pub(crate) const NONE: Self = Self { producer_id: NO_ID, epoch: NO_EPOCH };
}

/// State of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Empty,
    Ongoing,
    PrepareCommit,
    PrepareAbort,
    CompleteCommit,
    CompleteAbort,
}

impl Phase {
    /// Kafka's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }
}

/// What becomes of a producer that introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    /// It may begin.
    Ready(Identity),
    /// What its predecessor left open is aborted first; it has to come again.
    Wait,
}

/// How a transaction is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) commit: bool,
    /// By version 2 of the protocol: with a new epoch (KIP-890).
    pub(crate) bumps: bool,
}

/// A marker that was written and is not committed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The high watermark that commits it.
    pub(crate) end: i64,
    pub(crate) leader_epoch: i32,
}

/// One transactional id.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) phase: Phase,
    pub(crate) identity: Identity,
    /// Producer id before the last change of state.
    previous_id: i64,
    /// Producer id from the next transaction on, when the epochs of this one are used up.
    next_id: i64,
    /// Epoch before the last bump that a producer asked for.
    last_epoch: i16,
    pub(crate) timeout: Duration,
    /// What takes part, with the markers that are on their way.
    pub(crate) parts: BTreeMap<Part, Option<Written>>,
    pub(crate) started: Option<Moment>,
    pub(crate) updated: Moment,
    /// The transaction is of version 2.
    pub(crate) bumps: bool,
}

impl Transaction {
    pub(crate) fn new(producer_id: i64, timeout: Duration, at: Moment) -> Self {
        Self {
            phase: Phase::Empty,
            identity: Identity { producer_id, epoch: NO_EPOCH },
            previous_id: NO_ID,
            next_id: NO_ID,
            last_epoch: NO_EPOCH,
            timeout,
            parts: BTreeMap::new(),
            started: None,
            updated: at,
            bumps: false,
        }
    }

    /// True once markers are to be written.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::PrepareCommit | Phase::PrepareAbort)
    }

    fn is_exhausted(epoch: i16) -> bool {
        epoch >= i16::MAX - 1
    }

    fn enter(&mut self, phase: Phase, at: Moment) {
        self.phase = phase;
        self.previous_id = self.identity.producer_id;
        self.updated = at;
    }

    /// A producer begins, or comes back with the identity that it last had (KIP-360).
    pub(crate) fn init(
        &mut self,
        expected: Option<Identity>,
        timeout: Duration,
        new_id: impl FnOnce() -> i64,
        at: Moment,
    ) -> Result<Welcome, ErrorCode> {
        let own = self.identity;
        let known = |identity: Identity| {
            own.epoch == NO_EPOCH
                || identity.producer_id == own.producer_id
                || (identity.producer_id == self.previous_id && Self::is_exhausted(identity.epoch))
        };
        if !expected.is_none_or(known) {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        match self.phase {
            Phase::PrepareCommit | Phase::PrepareAbort => return Err(ErrorCode::CONCURRENT_TRANSACTIONS),
            Phase::Ongoing => return Ok(Welcome::Wait),
            Phase::Empty | Phase::CompleteCommit | Phase::CompleteAbort => {}
        }
        let current = expected.is_none_or(|identity| identity.epoch == own.epoch);
        if Self::is_exhausted(own.epoch) && current {
            self.last_epoch = if expected.is_some() { own.epoch } else { NO_EPOCH };
            self.enter(Phase::Empty, at);
            self.identity = Identity { producer_id: new_id(), epoch: 0 };
        } else {
            match expected {
                None => {
                    self.last_epoch = NO_EPOCH;
                    self.identity.epoch += 1;
                }
                Some(identity) if own.epoch == NO_EPOCH || identity.epoch == own.epoch => {
                    self.last_epoch = own.epoch;
                    self.identity.epoch += 1;
                }
                // It asked before, and did not get the answer.
                Some(identity) if identity.epoch == self.last_epoch => {}
                Some(_) => return Err(ErrorCode::PRODUCER_FENCED),
            }
            self.enter(Phase::Empty, at);
        }
        self.timeout = timeout;
        self.parts.clear();
        self.started = None;
        Ok(Welcome::Ready(self.identity))
    }

    /// Adds partitions; the first begins the transaction.
    pub(crate) fn add(
        &mut self,
        caller: Identity,
        parts: BTreeSet<Part>,
        bumps: bool,
        at: Moment,
    ) -> Result<(), ErrorCode> {
        self.check(caller)?;
        if self.is_ending() {
            return Err(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        if self.phase == Phase::Ongoing && parts.iter().all(|part| self.parts.contains_key(part)) {
            return Ok(());
        }
        if self.phase != Phase::Ongoing {
            self.started = Some(at);
        }
        self.bumps = bumps;
        self.enter(Phase::Ongoing, at);
        self.parts.extend(parts.into_iter().map(|part| (part, None)));
        Ok(())
    }

    /// Whether a partition takes part (KIP-890).
    pub(crate) fn verify(&self, caller: Identity, part: &Part) -> Result<(), ErrorCode> {
        self.check(caller)?;
        if self.is_ending() {
            return Err(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        if self.parts.contains_key(part) { Ok(()) } else { Err(ErrorCode::TRANSACTION_ABORTABLE) }
    }

    fn check(&self, caller: Identity) -> Result<(), ErrorCode> {
        if caller.producer_id != self.identity.producer_id {
            return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
        if caller.epoch != self.identity.epoch {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        Ok(())
    }

    /// A producer asks for the end. Returns the identity for its next transaction, and whether markers are to be written:
    /// they are not if it had asked before.
    pub(crate) fn end(
        &mut self,
        caller: Identity,
        end: End,
        new_id: impl FnOnce() -> i64,
        at: Moment,
    ) -> Result<(Identity, bool), ErrorCode> {
        let asked_before = match end.bumps {
            true => self.check_bumped(caller)?,
            false => {
                self.check(caller)?;
                true
            }
        };
        let same = match self.phase {
            Phase::PrepareCommit | Phase::CompleteCommit => end.commit,
            Phase::PrepareAbort | Phase::CompleteAbort => !end.commit,
            Phase::Ongoing => {
                self.prepare(end, new_id, at);
                return Ok((self.upcoming(), true));
            }
            Phase::Empty => false,
        };
        // With version 2 an abort may come without anything to abort: it asks for a new epoch.
        if end.bumps && !end.commit && !asked_before && !self.is_ending() {
            self.started = Some(at);
            self.prepare(end, new_id, at);
            return Ok((self.upcoming(), true));
        }
        match self.phase {
            _ if !same => Err(ErrorCode::INVALID_TXN_STATE),
            Phase::PrepareCommit | Phase::PrepareAbort => Err(ErrorCode::CONCURRENT_TRANSACTIONS),
            _ if !asked_before => Err(ErrorCode::INVALID_TXN_STATE),
            _ => Ok((self.identity, false)),
        }
    }

    /// [`check`](Self::check) with version 2, where the end itself changes the identity. True if the caller asked before.
    fn check_bumped(&self, caller: Identity) -> Result<bool, ErrorCode> {
        let own = self.identity;
        let overflown =
            caller.producer_id == self.previous_id && caller.epoch == i16::MAX - 1 && own.epoch == 0;
        let bumped = i32::from(own.epoch) == i32::from(caller.epoch) + 1;
        let valid = match self.phase {
            Phase::Ongoing | Phase::Empty => caller.epoch == own.epoch,
            Phase::PrepareCommit | Phase::PrepareAbort => bumped,
            Phase::CompleteCommit | Phase::CompleteAbort => bumped || overflown || caller.epoch == own.epoch,
        };
        if caller.producer_id != own.producer_id && !overflown {
            return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
        if valid { Ok(bumped || overflown) } else { Err(ErrorCode::PRODUCER_FENCED) }
    }

    /// The coordinator itself aborts what is open, in a new epoch, so that its producer is fenced.
    pub(crate) fn fence(&mut self, bumps: bool, new_id: impl FnOnce() -> i64, at: Moment) {
        if !bumps {
            self.identity.epoch = self.identity.epoch.saturating_add(1);
            self.last_epoch = NO_EPOCH;
        }
        self.prepare(End { commit: false, bumps }, new_id, at);
    }

    fn prepare(&mut self, end: End, new_id: impl FnOnce() -> i64, at: Moment) {
        self.next_id = NO_ID;
        if end.bumps {
            if Self::is_exhausted(self.identity.epoch) {
                self.next_id = new_id();
            }
            self.last_epoch = self.identity.epoch;
            self.identity.epoch = self.identity.epoch.saturating_add(1);
        }
        self.bumps = end.bumps;
        self.enter(if end.commit { Phase::PrepareCommit } else { Phase::PrepareAbort }, at);
    }

    /// The identity once the transaction is over.
    fn upcoming(&self) -> Identity {
        if self.bumps && self.next_id != NO_ID {
            Identity { producer_id: self.next_id, epoch: 0 }
        } else {
            self.identity
        }
    }

    /// Every marker is committed.
    pub(crate) fn complete(&mut self, at: Moment) {
        let (phase, next) = match self.phase {
            Phase::PrepareCommit => (Phase::CompleteCommit, self.upcoming()),
            Phase::PrepareAbort => (Phase::CompleteAbort, self.upcoming()),
            _ => return,
        };
        self.enter(phase, at);
        self.identity = next;
        self.next_id = NO_ID;
        self.parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producer_ids_change_when_their_epochs_are_used_up() {
        let at = Moment { now: Instant::now(), wall: 0 };
        let mut transaction = Transaction::new(1, Duration::from_secs(60), at);
        let Ok(Welcome::Ready(mut identity)) = transaction.init(None, Duration::from_secs(60), || 0, at)
        else {
            panic!("a new producer is welcome");
        };
        let abort = End { commit: false, bumps: true };
        for _ in 0..i16::MAX - 1 {
            let (next, begun) = transaction.end(identity, abort, || 0, at).unwrap();
            assert_eq!((next, begun), (Identity { epoch: identity.epoch + 1, ..identity }, true));
            transaction.complete(at);
            identity = next;
        }
        let last = Identity { producer_id: 1, epoch: i16::MAX - 1 };
        let fresh = Identity { producer_id: 2, epoch: 0 };
        assert_eq!((identity, transaction.end(last, abort, || 2, at)), (last, Ok((fresh, true))));
        // The marker still has the old id, in an epoch above all that produced.
        assert_eq!(transaction.identity, Identity { producer_id: 1, epoch: i16::MAX });
        transaction.complete(at);
        assert_eq!(transaction.end(last, abort, || 3, at), Ok((fresh, false)));
        assert_eq!(transaction.end(fresh, abort, || 3, at), Ok((Identity { epoch: 1, ..fresh }, true)));
    }
}
