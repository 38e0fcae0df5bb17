//! Why a transaction did not begin or was not committed, and what that means for it and its producer.

use std::fmt;

use crate::producer::ProduceError;
use crate::{Error, ErrorCode, ErrorKind};

/// What an error means for the transaction and its producer, and therefore what to do.
///
/// What can be tried again is tried again inside, up to `max.block.ms`, and is no error until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransactionErrorKind {
    /// No transaction was begun. The producer is as it was: try again later, or once what the error names is changed.
    NotBegun,
    /// This transaction cannot be committed, and nothing of it will be visible. An error of a commit or of a whole scope says
    /// that it is aborted already; after any other, abort it (a scope does when it returns an error). The producer goes on:
    /// begin again, with everything that belongs to the transaction.
    Abort,
    /// The commit was sent and its answer never came: the transaction is committed or aborted, as a whole. Reading the
    /// offsets that were part of it, or its records, tells. The producer goes on; the next transaction waits until this one is
    /// settled and cannot be reached by what was sent for it.
    Unknown,
    /// Nothing of this transaction will be visible, and the producer can do nothing more: a newer one has its transactional
    /// id, or its transaction outlived `transaction.timeout.ms`. Drop it. Build another one if this process should still be
    /// the one that writes under this id.
    Dead,
    /// It was asked for what cannot be done now, such as a commit without a transaction. Nothing changed.
    Misuse,
}

/// Why a transaction did not begin or was not committed. The [kind](Self::kind) says what to do.
#[derive(Clone)]
pub struct TransactionError {
    kind: TransactionErrorKind,
    error: Error,
}

impl TransactionError {
    pub(crate) fn new(kind: TransactionErrorKind, error: Error) -> Self {
        Self { kind, error }
    }

    pub(crate) fn misuse(message: impl Into<String>, advice: &str) -> Self {
        let error = Error::new(ErrorKind::State, message).with_advice(advice);
        Self::new(TransactionErrorKind::Misuse, error)
    }

    /// The `TransactionError` that `error`, or an error behind it, was made of.
    ///
    /// ```
    /// use carafe::Error;
    /// use carafe::producer::{TransactionError, TransactionErrorKind};
    ///
    /// fn may_begin_again(error: &Error) -> bool {
    ///     TransactionError::of(error).is_some_and(|error| error.kind() == TransactionErrorKind::Abort)
    /// }
    /// ```
    pub fn of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |&error| error.source()).find_map(|error| {
            let error_of = |produced: &'a ProduceError| produced.error().origin();
            let origin = |error: &'a Error| error.origin().or_else(|| error_of(error.origin()?));
            error
                .downcast_ref()
                .or_else(|| origin(error.downcast_ref()?))
                // What is displayed with a `ProduceError` is not behind it.
                .or_else(|| error_of(error.downcast_ref()?))
        })
    }

    /// What it means for the transaction and the producer.
    pub fn kind(&self) -> TransactionErrorKind {
        self.kind
    }

    /// What went wrong.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The code that a broker answered with, if it was that.
    pub fn code(&self) -> Option<ErrorCode> {
        self.error.code()
    }
}

impl fmt::Display for TransactionErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBegun => "no transaction was begun",
            Self::Abort => "the transaction is to be aborted",
            Self::Unknown => "whether the transaction was committed is not known",
            Self::Dead => "the transactional producer is dead",
            Self::Misuse => "not now",
        })
    }
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.error, self.kind)
    }
}

impl fmt::Debug for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionError").field("kind", &self.kind).field("error", &self.error).finish()
    }
}

impl std::error::Error for TransactionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The error itself is part of what is displayed.
        std::error::Error::source(&self.error)
    }
}

impl From<TransactionError> for Error {
    /// The reason alone; [`TransactionError::of`] finds the rest in it.
    fn from(error: TransactionError) -> Self {
        error.error.clone().with_origin(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_found_in_whatever_error_it_became() {
        let fenced = Error::from_code(ErrorCode::PRODUCER_FENCED, "committing failed");
        let error = TransactionError::new(TransactionErrorKind::Dead, fenced);
        let behind = Error::new(ErrorKind::Handler, "an order").with_source(Error::from(error.clone()));
        let found = TransactionError::of(&behind).expect("it is there");
        assert_eq!(
            (found.kind(), found.code()),
            (TransactionErrorKind::Dead, Some(ErrorCode::PRODUCER_FENCED))
        );
        assert!(error.to_string().ends_with("(the transactional producer is dead)"), "{error}");
        assert!(Error::from(error).is_fenced());
        let refused =
            ProduceError::not_written(Error::from(TransactionError::misuse("none is open", "begin one")));
        assert_eq!(
            TransactionError::of(&refused).map(TransactionError::kind),
            Some(TransactionErrorKind::Misuse)
        );
        let refused = Error::from(refused);
        assert_eq!(
            TransactionError::of(&refused).map(TransactionError::kind),
            Some(TransactionErrorKind::Misuse)
        );
        assert!(TransactionError::of(&Error::new(ErrorKind::State, "closed")).is_none());
    }
}
