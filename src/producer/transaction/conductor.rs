//! What the driver of a transactional producer holds beside the sender.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::{TransactionError, TransactionErrorKind as Kind};
use super::machine::Machine;
use super::questions::Asker;
use super::states::{Answer, Failure};
use crate::cluster::GroupOffsets;
use crate::producer::handle::closed;
use crate::producer::shared::{Command, Shared};
use crate::runtime::BoxFuture;

/// What handles tell the driver.
#[derive(Debug)]
pub(in crate::producer) enum Order {
    /// Begin a transaction and answer with its guard.
    Begin { scope: bool, done: oneshot::Sender<Result<Guard, TransactionError>> },
    /// Take offsets into the transaction with this number, or into the one that was begun by hand.
    Offsets { number: Option<u64>, offsets: GroupOffsets, done: Told },
    /// End it.
    End { number: Option<u64>, commit: bool, done: Told },
    /// Nobody is left who could end it.
    Abandon(u64),
}

impl Order {
    /// The producer has ended: nothing of it was done.
    pub(in crate::producer) fn refuse(self) {
        // Whoever is gone need not be told.
        match self {
            Self::Begin { done, .. } => drop(done.send(Err(ended(Kind::NotBegun)))),
            Self::Offsets { done, .. } | Self::End { done, .. } => drop(done.send(Err(ended(Kind::Abort)))),
            Self::Abandon(_) => {}
        }
    }
}

fn ended(kind: Kind) -> TransactionError {
    TransactionError::new(kind, closed())
}

pub(in crate::producer) type Told = oneshot::Sender<Result<(), TransactionError>>;

/// Who waits for what.
#[derive(Debug)]
pub(in crate::producer) enum Waiter {
    Begin(oneshot::Sender<Result<Guard, TransactionError>>),
    End(Told),
    Offsets(Told),
}

/// A transaction that was begun. Whoever drops it undelivered, or delivered and not disarmed, abandons the transaction.
pub(in crate::producer) struct Guard {
    pub(in crate::producer) number: u64,
    shared: Option<Arc<Shared>>,
}

impl Guard {
    pub(in crate::producer) fn new(number: u64, shared: Arc<Shared>) -> Self {
        Self { number, shared: Some(shared) }
    }

    /// Somebody else answers for the transaction from now on.
    pub(in crate::producer) fn disarm(&mut self) {
        self.shared = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            if let Some(desk) = &shared.desk {
                desk.end(Some(self.number));
            }
            // The driver may have ended, and the transaction with it.
            let _ = shared.mailbox.send(Command::Transaction(Order::Abandon(self.number)));
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("number", &self.number).finish_non_exhaustive()
    }
}

/// The machine and those who wait for it.
pub(in crate::producer) struct Conductor {
    pub(in crate::producer) machine: Machine,
    pub(in crate::producer) asker: Arc<Asker>,
    /// The question that is out.
    pub(in crate::producer) asking: Option<BoxFuture<'static, Result<Answer, Failure>>>,
    waiters: BTreeMap<u64, Waiter>,
    next_ticket: u64,
    /// Of the latest flush for a commit.
    pub(in crate::producer) flush: u64,
}

impl Conductor {
    pub(in crate::producer) fn new(machine: Machine, asker: Asker) -> Self {
        let waiters = BTreeMap::new();
        Self { machine, asker: Arc::new(asker), asking: None, waiters, next_ticket: 0, flush: 0 }
    }

    /// The producer has ended, and whoever waits is told what is known.
    pub(in crate::producer) fn end(self) {
        let end = if self.machine.may_be_committed() { Kind::Unknown } else { Kind::Abort };
        for waiter in self.waiters.into_values() {
            // Whoever is gone need not be told.
            match waiter {
                Waiter::Begin(done) => drop(done.send(Err(ended(Kind::NotBegun)))),
                Waiter::End(done) => drop(done.send(Err(ended(end)))),
                Waiter::Offsets(done) => drop(done.send(Err(ended(Kind::Abort)))),
            }
        }
    }

    /// A ticket for `waiter`.
    pub(in crate::producer) fn ticket(&mut self, waiter: Waiter) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiters.insert(ticket, waiter);
        ticket
    }

    /// Hands the transaction of `guard` to whoever waits with `ticket`. If nobody does, it is abandoned with the guard.
    pub(in crate::producer) fn give(&mut self, ticket: u64, guard: Guard) {
        if let Some(Waiter::Begin(done)) = self.waiters.remove(&ticket) {
            // A receiver that is gone gives the guard back, and it is dropped here.
            drop(done.send(Ok(guard)));
        }
    }

    /// Tells whoever waits with `ticket`.
    pub(in crate::producer) fn tell(
        &mut self,
        now: Instant,
        ticket: u64,
        result: Result<(), TransactionError>,
    ) {
        match self.waiters.remove(&ticket) {
            Some(Waiter::Begin(done)) => {
                if let Err(error) = result {
                    // Nobody waits any more, and nothing was begun.
                    let _ = done.send(Err(error));
                }
            }
            Some(Waiter::End(done)) => {
                if let Err(result) = done.send(result) {
                    self.machine.handle_untold(now, result);
                }
            }
            Some(Waiter::Offsets(done)) => {
                // What became of them is told again by the end of the transaction.
                let _ = done.send(result);
            }
            None => {}
        }
    }
}
