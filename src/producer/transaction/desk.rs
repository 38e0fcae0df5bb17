//! Whether records are taken into a transaction now.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::error::{TransactionError, TransactionErrorKind as Kind};
use crate::wire::Str;
use crate::{Error, ErrorKind};

/// What appenders and handles of a transactional producer share with its driver. Appending holds it for reading, so that
/// no record is between two transactions when one ends.
#[derive(Debug)]
pub(in crate::producer) struct Desk {
    /// The transactional id.
    pub(in crate::producer) id: Str,
    gate: RwLock<Gate>,
}

#[derive(Debug)]
enum Gate {
    /// No transaction is open.
    Closed,
    /// Records are taken.
    Open {
        number: u64,
        scope: bool,
    },
    /// It can only be aborted.
    Doomed {
        number: u64,
        scope: bool,
        error: Error,
    },
    /// Its end has begun.
    Ending,
    Dead(TransactionError),
}

impl Desk {
    pub(in crate::producer) fn new(id: Str) -> Self {
        Self { id, gate: RwLock::new(Gate::Closed) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Gate> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Gate> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an appender in: to the transaction with `number`, or to whichever is open. It stays open until the guard is
    /// dropped.
    pub(in crate::producer) fn enter(&self, number: Option<u64>) -> Result<impl Drop + '_, Error> {
        let gate = self.read();
        match &*gate {
            Gate::Open { number: open, .. } if number.is_none_or(|number| number == *open) => Ok(gate),
            other => Err(other.refusal(number).into()),
        }
    }

    /// A transaction was opened.
    pub(in crate::producer) fn open(&self, number: u64, scope: bool) {
        *self.write() = Gate::Open { number, scope };
    }

    /// The transaction with `number`, or whichever is open, can only be aborted.
    pub(in crate::producer) fn doom(&self, number: Option<u64>, error: &Error) {
        let mut gate = self.write();
        if let Gate::Open { number: open, scope } = *gate
            && number.is_none_or(|number| number == open)
        {
            *gate = Gate::Doomed { number: open, scope, error: error.clone() };
        }
    }

    /// Takes no more records for the transaction with `number`, or for the one that was begun by hand, and says why it cannot
    /// be committed, if so.
    pub(in crate::producer) fn end(&self, number: Option<u64>) -> Option<Error> {
        let mut gate = self.write();
        let (open, by_scope, doomed) = match &*gate {
            Gate::Open { number, scope } => (*number, *scope, None),
            Gate::Doomed { number, scope, error } => (*number, *scope, Some(error.clone())),
            _ => return None,
        };
        if number.map_or(!by_scope, |number| number == open) {
            *gate = Gate::Ending;
            return doomed;
        }
        None
    }

    /// No transaction is open.
    pub(in crate::producer) fn close(&self) {
        let mut gate = self.write();
        if !matches!(*gate, Gate::Dead(_)) {
            *gate = Gate::Closed;
        }
    }

    /// None will be.
    pub(in crate::producer) fn die(&self, error: TransactionError) {
        *self.write() = Gate::Dead(error);
    }
}

impl Gate {
    fn refusal(&self, number: Option<u64>) -> TransactionError {
        let ended = "the transaction that the record is for has ended, or its end has begun";
        let advice = "enqueue records before the end of their transaction, or in the next one";
        match self {
            Self::Doomed { error, .. } => {
                let reason = Error::new(ErrorKind::State, "the transaction cannot be committed any more")
                    .with_advice("abort it and begin again");
                TransactionError::new(Kind::Abort, reason.with_source(error.clone()))
            }
            Self::Dead(error) => error.clone(),
            Self::Closed if number.is_none() => TransactionError::misuse(
                "no transaction is open, and this producer takes records in transactions alone",
                "call transaction() or begin_transaction() first, or use a producer without transactional.id",
            ),
            Self::Closed | Self::Open { .. } | Self::Ending => TransactionError::misuse(ended, advice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(result: Result<(), Error>) -> Option<Kind> {
        let error = result.err()?;
        Some(TransactionError::of(&error).expect("a transaction's error").kind())
    }

    #[test]
    fn records_are_taken_between_beginning_and_end_alone() {
        let desk = Desk::new("t".into());
        assert_eq!(kind(desk.enter(None).map(drop)), Some(Kind::Misuse), "none was begun");
        desk.open(1, true);
        assert_eq!(kind(desk.enter(None).map(drop)), None);
        assert_eq!(kind(desk.enter(Some(1)).map(drop)), None);
        assert_eq!(kind(desk.enter(Some(2)).map(drop)), Some(Kind::Misuse), "another one is open");
        assert!(desk.end(None).is_none(), "it was not begun by hand");
        assert_eq!(kind(desk.enter(Some(1)).map(drop)), None, "so it is still open");
        desk.doom(None, &Error::new(ErrorKind::TooLarge, "a record"));
        assert_eq!(kind(desk.enter(Some(1)).map(drop)), Some(Kind::Abort));
        assert!(desk.end(Some(1)).is_some());
        assert_eq!(kind(desk.enter(Some(1)).map(drop)), Some(Kind::Misuse), "its end has begun");
        desk.close();
        assert_eq!(kind(desk.enter(Some(1)).map(drop)), Some(Kind::Misuse));
        desk.open(2, false);
        desk.doom(Some(1), &Error::new(ErrorKind::State, "late"));
        assert_eq!(kind(desk.enter(Some(2)).map(drop)), None, "another one was meant");
        desk.die(TransactionError::new(Kind::Dead, Error::new(ErrorKind::Fenced, "newer")));
        desk.close();
        assert_eq!(kind(desk.enter(None).map(drop)), Some(Kind::Dead));
    }
}
