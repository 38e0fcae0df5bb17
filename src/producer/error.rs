//! Why a record was not delivered, and whether it may be in the log all the same.

use std::fmt;

use super::{Receipts, Record};
use crate::{Error, ErrorCode, ErrorKind};

/// What is known of a record's fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It is in the log.
    Written,
    /// It is not in the log and will not be. Sending it again makes no duplicate.
    NotWritten,
    /// It was sent, and the answer never came: it may be in the log. Sending it again may make a duplicate.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Written => "written",
            Self::NotWritten => "not written",
            Self::Unknown => "outcome unknown",
        })
    }
}

/// A record that was not acknowledged: the reason, what is known of its [`Outcome`], and the record itself.
pub struct ProduceError(Box<Inner>);

struct Inner {
    error: Error,
    outcome: Outcome,
    record: Option<Record<'static>>,
}

impl ProduceError {
    pub(crate) fn new(error: Error, outcome: Outcome) -> Self {
        Self(Box::new(Inner { error, outcome, record: None }))
    }

    pub(crate) fn not_written(error: Error) -> Self {
        Self::new(error, Outcome::NotWritten)
    }

    pub(crate) fn with_record(mut self, record: Option<Record<'static>>) -> Self {
        self.0.record = record;
        self
    }

    /// The `ProduceError` that `error`, or an error behind it, was made of: for code that has an [`Error`] after `?` and
    /// asks what became of the record. It is found behind any error whose [`source`](std::error::Error::source) leads to
    /// it, and in one that an application reports or a handler returns.
    ///
    /// ```
    /// use carafe::Error;
    /// use carafe::producer::{Outcome, ProduceError};
    ///
    /// fn may_be_sent_again(error: &Error) -> bool {
    ///     ProduceError::of(error).is_some_and(|error| error.outcome() == Outcome::NotWritten)
    /// }
    /// ```
    pub fn of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |&error| error.source()).find_map(|error| {
            let origin = || error.downcast_ref::<Error>()?.origin();
            error.downcast_ref().or_else(origin)
        })
    }

    /// What is known of the record's fate: never [`Outcome::Written`] for an error of a single record.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Why it failed.
    pub fn error(&self) -> &Error {
        &self.0.error
    }

    /// Who is to blame.
    pub fn kind(&self) -> ErrorKind {
        self.0.error.kind()
    }

    /// The code that the broker answered with, if it was that.
    pub fn code(&self) -> Option<ErrorCode> {
        self.0.error.code()
    }

    /// True if the same record may be accepted later.
    pub fn is_retriable(&self) -> bool {
        self.0.error.is_retriable()
    }

    /// The record. `None` if it cannot be restored, such as from a batch whose codec cannot be read.
    pub fn record(&self) -> Option<&Record<'static>> {
        self.0.record.as_ref()
    }

    /// Takes the record out, to send it again or elsewhere.
    pub fn into_record(self) -> Option<Record<'static>> {
        self.0.record
    }
}

impl fmt::Display for ProduceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.error, self.0.outcome)
    }
}

impl fmt::Debug for ProduceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProduceError")
            .field("error", &self.0.error)
            .field("outcome", &self.0.outcome)
            // The record is the caller's, and may be nobody else's business.
            .finish_non_exhaustive()
    }
}

impl std::error::Error for ProduceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The error itself is part of what is displayed.
        self.0.error.source()
    }
}

impl From<ProduceError> for Error {
    /// The reason alone; [`ProduceError::of`] finds the rest in it.
    fn from(error: ProduceError) -> Self {
        error.error().clone().with_origin(error)
    }
}

/// Why [`Producer::try_enqueue`](super::Producer::try_enqueue) returned the record.
#[derive(Debug)]
#[non_exhaustive]
pub enum TryEnqueueError<'a> {
    /// The buffer (`buffer.memory`) is full at the moment.
    Full(Record<'a>),
    /// The topic's metadata is not known yet; the look-up was started.
    MetadataPending(Record<'a>),
    /// The record can not be sent, now or later.
    Refused(ProduceError),
}

impl<'a> TryEnqueueError<'a> {
    /// Takes the record out.
    pub fn into_record(self) -> Option<Record<'a>> {
        match self {
            Self::Full(record) | Self::MetadataPending(record) => Some(record),
            Self::Refused(error) => error.into_record(),
        }
    }
}

impl fmt::Display for TryEnqueueError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the producer's buffer is full"),
            Self::MetadataPending(record) => {
                write!(f, "metadata of topic {:?} is not known yet", record.topic_name())
            }
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TryEnqueueError<'_> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // The error itself is what is displayed.
            Self::Refused(error) => error.source(),
            _ => None,
        }
    }
}

/// Why [`Producer::enqueue_all`](crate::Producer::enqueue_all) stopped.
#[derive(Debug)]
pub struct EnqueueAllError {
    pub(super) enqueued: Receipts,
    pub(super) error: ProduceError,
    pub(super) rest: Vec<Record<'static>>,
}

impl EnqueueAllError {
    /// The first record that was not enqueued, and why.
    pub fn error(&self) -> &ProduceError {
        &self.error
    }

    /// Receipts of the records that were enqueued; the error, with the record behind them; and at most 63 records that were
    /// taken behind that one. Those after them are still with the caller's iterator.
    pub fn into_parts(self) -> (Receipts, ProduceError, Vec<Record<'static>>) {
        (self.enqueued, self.error, self.rest)
    }
}

impl fmt::Display for EnqueueAllError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} records: {}", self.enqueued.len(), self.error)
    }
}

impl std::error::Error for EnqueueAllError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The error itself is part of what is displayed.
        self.error.source()
    }
}

impl From<EnqueueAllError> for Error {
    fn from(error: EnqueueAllError) -> Self {
        error.error.into()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;

    use super::*;

    #[test]
    fn the_record_and_its_outcome_are_found_in_whatever_error_it_became() {
        let reason = || {
            let cause = Error::new(ErrorKind::Network, "nobody answers").with_advice("is it running?");
            Error::new(ErrorKind::Timeout, "time is up").with_source(cause)
        };
        let failed = |reason: Error| {
            let record = Record::to("t").value("x").into_owned();
            ProduceError::new(reason, Outcome::Unknown).with_record(Some(record))
        };
        let error = Error::from(failed(reason()));
        assert_eq!((error.kind(), error.advice()), (ErrorKind::Timeout, Some("is it running?")));
        for error in [
            Box::new(failed(reason())) as Box<dyn StdError>,
            Box::new(Error::from(failed(reason()))),
            Box::new(Error::new(ErrorKind::Handler, "an order").with_source(Error::from(failed(reason())))),
            Box::new(Error::new(ErrorKind::Handler, "an order").with_source(error)),
        ] {
            let found = ProduceError::of(&*error).expect("it is there");
            assert_eq!(found.outcome(), Outcome::Unknown);
            assert_eq!(found.record().and_then(Record::value_bytes), Some(&b"x"[..]));
            let mut chain = vec![error.to_string()];
            let mut behind = error.source();
            while let Some(cause) = behind {
                chain.push(cause.to_string());
                behind = cause.source();
            }
            for text in ["time is up", "nobody answers", "is it running?"] {
                assert_eq!(chain.iter().filter(|said| said.contains(text)).count(), 1, "{chain:?}");
            }
        }
        assert!(ProduceError::of(&reason()).is_none());
        let bare = Error::from(failed(Error::new(ErrorKind::State, "closed")));
        assert!(bare.source().is_none() && ProduceError::of(&bare).is_some());
    }
}
