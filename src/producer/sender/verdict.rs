//! What a broker's answer means for a batch, as data.

use crate::ErrorCode;

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in the log.
    Written,
    /// It was in the log before.
    Duplicate,
    /// Send it again. `unsure`: it may have been written nonetheless. `refresh`: leaders may have changed.
    Retry { unsure: bool, refresh: bool },
    /// Send it again soon: the transaction before this one is still being finished (KIP-890).
    Busy,
    /// Send it again once: it was damaged on the way, or is bad.
    RetryOnce,
    /// Earlier batches of this era are missing: this one was not written.
    Gap,
    /// The broker has forgotten this producer: it knows nothing of this batch.
    Forgotten,
    /// The broker knows a later epoch.
    OldEpoch,
    /// Make it smaller.
    TooLarge,
    /// Some of its records are bad (KIP-467).
    BadRecords,
    /// It cannot be written.
    Refused,
}

pub(super) fn verdict(code: ErrorCode) -> Verdict {
    match code {
        ErrorCode::NONE => Verdict::Written,
        ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Verdict::Duplicate,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER => Verdict::Gap,
        ErrorCode::UNKNOWN_PRODUCER_ID => Verdict::Forgotten,
        ErrorCode::INVALID_PRODUCER_EPOCH => Verdict::OldEpoch,
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => Verdict::TooLarge,
        ErrorCode::INVALID_RECORD | ErrorCode::INVALID_TIMESTAMP => Verdict::BadRecords,
        ErrorCode::CORRUPT_MESSAGE => Verdict::RetryOnce,
        ErrorCode::CONCURRENT_TRANSACTIONS => Verdict::Busy,
        ErrorCode::REQUEST_TIMED_OUT
        | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
        | ErrorCode::NETWORK_EXCEPTION => {
            Verdict::Retry { unsure: true, refresh: code == ErrorCode::NETWORK_EXCEPTION }
        }
        code if code.is_retriable() => Verdict::Retry { unsure: false, refresh: code.needs_metadata() },
        _ => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_verdicts() {
        let retry = |unsure, refresh| Verdict::Retry { unsure, refresh };
        for (code, expected) in [
            (ErrorCode::NONE, Verdict::Written),
            (ErrorCode::DUPLICATE_SEQUENCE_NUMBER, Verdict::Duplicate),
            (ErrorCode::NOT_LEADER_OR_FOLLOWER, retry(false, true)),
            (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, retry(false, true)),
            (ErrorCode::KAFKA_STORAGE_ERROR, retry(false, true)),
            (ErrorCode::NOT_ENOUGH_REPLICAS, retry(false, false)),
            (ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND, retry(true, false)),
            (ErrorCode::REQUEST_TIMED_OUT, retry(true, false)),
            (ErrorCode::CORRUPT_MESSAGE, Verdict::RetryOnce),
            (ErrorCode::CONCURRENT_TRANSACTIONS, Verdict::Busy),
            (ErrorCode::MESSAGE_TOO_LARGE, Verdict::TooLarge),
            (ErrorCode::RECORD_LIST_TOO_LARGE, Verdict::TooLarge),
            (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, Verdict::Gap),
            (ErrorCode::UNKNOWN_PRODUCER_ID, Verdict::Forgotten),
            (ErrorCode::INVALID_PRODUCER_EPOCH, Verdict::OldEpoch),
            (ErrorCode::INVALID_RECORD, Verdict::BadRecords),
            (ErrorCode::INVALID_TIMESTAMP, Verdict::BadRecords),
            (ErrorCode::TOPIC_AUTHORIZATION_FAILED, Verdict::Refused),
            (ErrorCode::CLUSTER_AUTHORIZATION_FAILED, Verdict::Refused),
            (ErrorCode::UNKNOWN_SERVER_ERROR, Verdict::Refused),
            (ErrorCode(999), Verdict::Refused),
        ] {
            assert_eq!(verdict(code), expected, "{code}");
        }
    }
}
