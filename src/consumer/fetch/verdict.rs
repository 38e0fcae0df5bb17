//! What the error codes of Fetch mean, as data: for a partition, for the session, for the consumer.

use crate::consumer::positions::{Fetched, Planned};
use crate::{Error, ErrorCode, ErrorKind};

/// What a code says of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What there is can be read.
    Read,
    /// The log does not have the offset that was asked for.
    OutOfRange,
    /// Asked for again. `refresh`: leaders may have changed, or the topic. `denied`: whatever leads, it may not be read now.
    Again { refresh: bool, denied: bool },
    /// The broker found the log damaged.
    Damaged,
    /// Asking again does not help.
    Final,
}

pub(super) fn verdict(code: ErrorCode) -> Verdict {
    match code {
        ErrorCode::NONE => Verdict::Read,
        ErrorCode::OFFSET_OUT_OF_RANGE => Verdict::OutOfRange,
        ErrorCode::TOPIC_AUTHORIZATION_FAILED => Verdict::Again { refresh: false, denied: true },
        ErrorCode::CORRUPT_MESSAGE => Verdict::Damaged,
        ErrorCode::UNKNOWN_SERVER_ERROR | ErrorCode::OFFSET_MOVED_TO_TIERED_STORAGE => {
            Verdict::Again { refresh: false, denied: false }
        }
        code if code.is_retriable() => Verdict::Again { refresh: code.needs_metadata(), denied: false },
        _ => Verdict::Final,
    }
}

/// What a code says of the whole session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionVerdict {
    /// The broker does not know it: a new one is begun at once.
    Unknown,
    /// It is out of step: a full request that names it ends it, and begins a new one at once.
    OutOfStep,
    /// The request failed.
    Failed,
}

pub(super) fn session_verdict(code: ErrorCode) -> SessionVerdict {
    match code {
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND => SessionVerdict::Unknown,
        ErrorCode::INVALID_FETCH_SESSION_EPOCH
        | ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR
        | ErrorCode::INCONSISTENT_TOPIC_ID
        | ErrorCode::UNKNOWN_TOPIC_ID => SessionVerdict::OutOfStep,
        _ => SessionVerdict::Failed,
    }
}

/// True for a failure of a fetch that no other fetch of this consumer can escape.
pub(super) fn is_final(error: &Error) -> bool {
    !error.is_retriable()
        && matches!(
            error.kind(),
            ErrorKind::State | ErrorKind::UnsupportedVersion | ErrorKind::Authentication
        )
}

/// A partition that was answered with an error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    code: ErrorCode,
    verdict: Verdict,
}

impl Refusal {
    /// `None` without an error.
    pub(super) fn of(code: ErrorCode) -> Option<Self> {
        let verdict = verdict(code);
        (verdict != Verdict::Read).then_some(Self { code, verdict })
    }

    /// True if metadata has to be asked for, unless another leader is `known` by now.
    pub(super) fn is_doubt(self, known: bool) -> bool {
        !known && matches!(self.verdict, Verdict::Again { refresh: true, .. })
    }

    /// What it means for what was `planned`; not a reason to wait if another leader is `known` by now.
    pub(super) fn fetched(self, planned: &Planned, known: bool) -> Fetched {
        let Planned { partition, offset, .. } = planned;
        let error = || Error::from_code(self.code, format!("reading {partition} at offset {offset} failed"));
        match self.verdict {
            Verdict::OutOfRange => Fetched::OutOfRange,
            Verdict::Again { denied, .. } => Fetched::Retry { pause: denied || !known, error: error() },
            Verdict::Damaged => Fetched::Fatal(
                Error::new(
                    ErrorKind::CorruptRecord,
                    format!("{partition} cannot be read at offset {offset}"),
                )
                .with_code(self.code)
                .with_retriable(false)
                .with_advice("the broker found the log damaged; seek past the offset to go on without it"),
            ),
            Verdict::Read | Verdict::Final => Fetched::Fatal(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_partitions_have_their_verdicts() {
        let again = |refresh| Verdict::Again { refresh, denied: false };
        for (code, expected) in [
            (ErrorCode::NONE, Verdict::Read),
            (ErrorCode::OFFSET_OUT_OF_RANGE, Verdict::OutOfRange),
            (ErrorCode::TOPIC_AUTHORIZATION_FAILED, Verdict::Again { refresh: false, denied: true }),
            (ErrorCode::CORRUPT_MESSAGE, Verdict::Damaged),
            (ErrorCode::NOT_LEADER_OR_FOLLOWER, again(true)),
            (ErrorCode::FENCED_LEADER_EPOCH, again(true)),
            (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, again(true)),
            (ErrorCode::UNKNOWN_TOPIC_ID, again(true)),
            (ErrorCode::INCONSISTENT_TOPIC_ID, again(true)),
            (ErrorCode::KAFKA_STORAGE_ERROR, again(true)),
            (ErrorCode::UNKNOWN_LEADER_EPOCH, again(false)),
            (ErrorCode::OFFSET_NOT_AVAILABLE, again(false)),
            (ErrorCode::UNKNOWN_SERVER_ERROR, again(false)),
            (ErrorCode::OFFSET_MOVED_TO_TIERED_STORAGE, again(false)),
            (ErrorCode::INVALID_REQUEST, Verdict::Final),
            (ErrorCode(999), Verdict::Final),
        ] {
            assert_eq!(verdict(code), expected, "{code}");
        }
    }

    #[test]
    fn codes_of_sessions_have_their_verdicts() {
        for (code, expected) in [
            (70, SessionVerdict::Unknown),
            (71, SessionVerdict::OutOfStep),
            (100, SessionVerdict::OutOfStep),
            (103, SessionVerdict::OutOfStep),
            (106, SessionVerdict::OutOfStep),
            (-1, SessionVerdict::Failed),
            (6, SessionVerdict::Failed),
        ] {
            assert_eq!(session_verdict(ErrorCode(code)), expected, "{code}");
        }
    }
}
