//! What a coordinator's answer means for a transaction, as data.

use crate::{Error, ErrorCode, ErrorKind};

/// What a transactional producer asks, as far as that matters for what an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Which protocol the cluster speaks, or for an id and an epoch.
    Begin,
    /// To make partitions, or the offsets of a group, part of the transaction.
    Add,
    /// To take offsets.
    Offsets,
    /// To commit or to abort.
    End,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ask again, after a pause that grows.
    Retry,
    /// Ask again soon: the transaction before this one is still being finished.
    Soon,
    /// The transaction cannot be committed.
    Abort,
    /// Nor can it be ended: the coordinator knows nothing of it. An epoch of its own is needed for the next one.
    Forgotten,
    /// The coordinator's state is none that allows it.
    WrongState,
    /// A newer producer has the transactional id, or the coordinator has taken the epoch away.
    Fenced,
    /// Nothing is known of what became of it, and nothing would be by asking again.
    Final,
}

/// What `error` means to whoever `asked`.
pub(super) fn verdict(asked: Asked, error: &Error) -> Verdict {
    let Some(code) = error.code() else {
        return match error.kind() {
            // What the request needs is not offered.
            ErrorKind::UnsupportedVersion if asked != Asked::Begin => Verdict::Abort,
            _ if error.is_retriable() => Verdict::Retry,
            _ => Verdict::Final,
        };
    };
    match code {
        ErrorCode::CONCURRENT_TRANSACTIONS => Verdict::Soon,
        ErrorCode::PRODUCER_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH => Verdict::Fenced,
        ErrorCode::INVALID_PRODUCER_ID_MAPPING | ErrorCode::UNKNOWN_PRODUCER_ID if asked != Asked::Begin => {
            Verdict::Forgotten
        }
        ErrorCode::INVALID_TXN_STATE if asked != Asked::Begin => Verdict::WrongState,
        ErrorCode::TRANSACTION_ABORTABLE if asked != Asked::Begin => Verdict::Abort,
        // Beside one that cannot be added, the others were not tried.
        ErrorCode::OPERATION_NOT_ATTEMPTED if asked == Asked::Add => Verdict::Retry,
        // The member's place is lost, or will be: it may not commit these offsets (KIP-447).
        ErrorCode::ILLEGAL_GENERATION
        | ErrorCode::UNKNOWN_MEMBER_ID
        | ErrorCode::FENCED_INSTANCE_ID
        | ErrorCode::REBALANCE_IN_PROGRESS
        | ErrorCode::STALE_MEMBER_EPOCH
        | ErrorCode::FENCED_MEMBER_EPOCH => Verdict::Abort,
        code if code.is_retriable() => Verdict::Retry,
        // Not even an abort is allowed or understood.
        _ if asked == Asked::End => Verdict::Final,
        _ if asked == Asked::Begin => Verdict::Final,
        _ => Verdict::Abort,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_verdicts() {
        use Asked::{Add, Begin, End, Offsets};
        use Verdict::{Abort, Fenced, Final, Forgotten, Retry, Soon, WrongState};
        for (code, begin, add, offsets, end) in [
            (ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, Retry, Retry, Retry, Retry),
            (ErrorCode::NOT_COORDINATOR, Retry, Retry, Retry, Retry),
            (ErrorCode::COORDINATOR_NOT_AVAILABLE, Retry, Retry, Retry, Retry),
            (ErrorCode::REQUEST_TIMED_OUT, Retry, Retry, Retry, Retry),
            (ErrorCode::CONCURRENT_TRANSACTIONS, Soon, Soon, Soon, Soon),
            (ErrorCode::PRODUCER_FENCED, Fenced, Fenced, Fenced, Fenced),
            (ErrorCode::INVALID_PRODUCER_EPOCH, Fenced, Fenced, Fenced, Fenced),
            (ErrorCode::INVALID_PRODUCER_ID_MAPPING, Final, Forgotten, Forgotten, Forgotten),
            (ErrorCode::INVALID_TXN_STATE, Final, WrongState, WrongState, WrongState),
            (ErrorCode::TRANSACTION_ABORTABLE, Final, Abort, Abort, Abort),
            (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, Retry, Retry, Retry, Retry),
            (ErrorCode::TOPIC_AUTHORIZATION_FAILED, Final, Abort, Abort, Final),
            (ErrorCode::GROUP_AUTHORIZATION_FAILED, Final, Abort, Abort, Final),
            (ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, Final, Abort, Abort, Final),
            (ErrorCode::OPERATION_NOT_ATTEMPTED, Final, Retry, Abort, Final),
            (ErrorCode::ILLEGAL_GENERATION, Abort, Abort, Abort, Abort),
            (ErrorCode::OFFSET_METADATA_TOO_LARGE, Final, Abort, Abort, Final),
            (ErrorCode::INVALID_TRANSACTION_TIMEOUT, Final, Abort, Abort, Final),
            (ErrorCode::UNKNOWN_SERVER_ERROR, Final, Abort, Abort, Final),
            (ErrorCode(999), Final, Abort, Abort, Final),
        ] {
            let error = Error::from_code(code, "asked");
            for (asked, expected) in [(Begin, begin), (Add, add), (Offsets, offsets), (End, end)] {
                assert_eq!(verdict(asked, &error), expected, "{code} to {asked:?}");
            }
        }
        let broken = Error::new(ErrorKind::Network, "the connection broke");
        assert_eq!(verdict(End, &broken), Retry);
        let old = Error::new(ErrorKind::UnsupportedVersion, "too old");
        assert_eq!((verdict(Begin, &old), verdict(Offsets, &old)), (Final, Abort));
    }
}
