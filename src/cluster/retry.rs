//! What an error code says about what we believed when we sent the request.

use std::time::Duration;

use crate::ErrorCode;

/// How long a coordinator has for what it was asked once another one is known.
pub(super) const FORMER_PATIENCE: Duration = Duration::from_millis(500);

/// The belief that an error code puts in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// None: wait and ask the same node again.
    Nothing,
    /// Leaders, topics or nodes: metadata is refreshed.
    Metadata,
    /// Who coordinates: it is looked up again.
    Coordinator,
}

/// What `code` says. `coordinated` tells that the request went to a coordinator.
pub(crate) fn doubt(code: ErrorCode, coordinated: bool) -> Doubt {
    match code {
        code if code.is_coordinator_moved() => Doubt::Coordinator,
        // A coordinator that cannot write its log is likely to lose its place.
        ErrorCode::REQUEST_TIMED_OUT if coordinated => Doubt::Coordinator,
        code if code.needs_metadata() || code.is_controller_moved() => Doubt::Metadata,
        _ => Doubt::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_put_the_right_belief_in_doubt() {
        for (code, coordinated, expected) in [
            (ErrorCode::NOT_COORDINATOR, true, Doubt::Coordinator),
            (ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, true, Doubt::Nothing),
            (ErrorCode::REQUEST_TIMED_OUT, true, Doubt::Coordinator),
            (ErrorCode::REQUEST_TIMED_OUT, false, Doubt::Nothing),
            (ErrorCode::NOT_CONTROLLER, false, Doubt::Metadata),
            (ErrorCode::FENCED_LEADER_EPOCH, false, Doubt::Metadata),
            (ErrorCode::UNKNOWN_LEADER_EPOCH, false, Doubt::Nothing),
        ] {
            assert_eq!(doubt(code, coordinated), expected, "{code}");
        }
    }
}
