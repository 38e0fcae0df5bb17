//! What is wrong with bytes that were received, and with messages that cannot be sent.

use std::error::Error as StdError;
use std::fmt;

use crate::{Error, ErrorKind};

/// Why bytes are not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The value needs more bytes than are left.
    UnexpectedEnd {
        /// Bytes that the value needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A length below -1, or below 0 where null is not allowed.
    NegativeLength(i64),
    /// Null where the version does not allow it.
    UnexpectedNull,
    /// More elements than the bytes that are left can hold, or than the limit allows.
    TooManyElements {
        /// The announced count.
        count: u64,
        /// The most that was acceptable here.
        limit: u64,
    },
    /// A variable-length integer that is longer than its type, or has bits beyond it.
    VarintTooLong,
    /// A string that is not UTF-8.
    InvalidUtf8,
    /// A tag that repeats or does not ascend.
    TagOrder(u32),
    /// Bytes are left after the end of the value.
    TrailingBytes(usize),
    /// The version is none that this crate decodes.
    UnsupportedVersion,
    /// A value that the protocol rules out; the text says which.
    Invalid(&'static str),
}

impl fmt::Display for DecodeErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnexpectedEnd { needed, left } => write!(f, "needs {needed} bytes, {left} are left"),
            Self::NegativeLength(len) => write!(f, "length {len} is negative"),
            Self::UnexpectedNull => f.write_str("null is not allowed"),
            Self::TooManyElements { count, limit } => {
                write!(f, "{count} elements announced, at most {limit} are possible")
            }
            Self::VarintTooLong => f.write_str("variable-length integer is too long"),
            Self::InvalidUtf8 => f.write_str("string is not UTF-8"),
            Self::TagOrder(tag) => write!(f, "tag {tag} repeats or is out of order"),
            Self::TrailingBytes(count) => write!(f, "{count} bytes too many"),
            Self::UnsupportedVersion => f.write_str("version is not supported"),
            Self::Invalid(what) => f.write_str(what),
        }
    }
}

/// Why a message cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeErrorKind {
    /// Null where the version does not allow it.
    UnexpectedNull,
    /// The field holds something that the version cannot carry.
    NotInVersion,
    /// A string, byte string or array is longer than its length prefix can say.
    TooLong {
        /// The length.
        len: usize,
        /// The most that the prefix can say.
        limit: usize,
    },
    /// The version is none that this crate encodes.
    UnsupportedVersion,
}

impl fmt::Display for EncodeErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnexpectedNull => f.write_str("null is not allowed in this version"),
            Self::NotInVersion => f.write_str("this version cannot carry the field"),
            Self::TooLong { len, limit } => write!(f, "length {len} is above {limit}"),
            Self::UnsupportedVersion => f.write_str("version is not supported"),
        }
    }
}

/// One step of a field path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Field(&'static str),
    Index(usize),
}

/// An error on its way up: its cause and the path so far, innermost step first. One pointer, so that the success
/// path of the code that may return it stays cheap.
#[derive(Debug)]
pub(crate) struct Fault<K>(Box<(K, Vec<Step>)>);

impl<K> Fault<K> {
    #[cold]
    pub(crate) fn new(kind: K) -> Self {
        Self(Box::new((kind, Vec::new())))
    }

    #[cold]
    pub(crate) fn within(mut self, step: Step) -> Self {
        self.0.1.push(step);
        self
    }
}

/// What can become a [`Fault`]: a kind, or a fault.
pub(crate) trait IntoFault {
    type Kind;

    fn into_fault(self) -> Fault<Self::Kind>;
}

impl IntoFault for DecodeErrorKind {
    type Kind = Self;

    #[cold]
    fn into_fault(self) -> Fault<Self> {
        Fault::new(self)
    }
}

impl IntoFault for EncodeErrorKind {
    type Kind = Self;

    #[cold]
    fn into_fault(self) -> Fault<Self> {
        Fault::new(self)
    }
}

impl<K> IntoFault for Fault<K> {
    type Kind = K;

    fn into_fault(self) -> Self {
        self
    }
}

impl From<DecodeErrorKind> for Fault<DecodeErrorKind> {
    #[cold]
    fn from(kind: DecodeErrorKind) -> Self {
        Self::new(kind)
    }
}

impl From<EncodeErrorKind> for Fault<EncodeErrorKind> {
    #[cold]
    fn from(kind: EncodeErrorKind) -> Self {
        Self::new(kind)
    }
}

/// Adds a field's name to the path of an error.
pub(crate) trait At<T> {
    type Kind;

    fn at(self, field: &'static str) -> Result<T, Fault<Self::Kind>>;
}

impl<T, E: IntoFault> At<T> for Result<T, E> {
    type Kind = E::Kind;

    #[inline]
    fn at(self, field: &'static str) -> Result<T, Fault<E::Kind>> {
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(error.into_fault().within(Step::Field(field))),
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Place<K> {
    api: &'static str,
    version: i16,
    /// Outermost step first.
    path: Vec<Step>,
    kind: K,
    offset: usize,
}

impl<K> Place<K> {
    fn new(api: &'static str, version: i16, fault: Fault<K>, offset: usize) -> Box<Self> {
        let (kind, mut path) = *fault.0;
        path.reverse();
        Box::new(Self { api, version, path, kind, offset })
    }

    fn path(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Step::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }

    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.api, self.version)?;
        if !self.path.is_empty() {
            write!(f, ", {}", self.path())?;
        }
        Ok(())
    }
}

/// Bytes that are not the message they should be: names the message, its version, the field and the offset.
#[derive(Clone, PartialEq, Eq)]
pub struct DecodeError(Box<Place<DecodeErrorKind>>);

impl DecodeError {
    /// An error in a hand-written decoder of `api`; `offset` counts from the start of the frame.
    pub(crate) fn new(
        api: &'static str,
        version: i16,
        fault: impl Into<Fault<DecodeErrorKind>>,
        offset: usize,
    ) -> Self {
        Self(Place::new(api, version, fault.into(), offset))
    }

    /// Name of the message, such as `MetadataResponse`.
    pub fn api(&self) -> &'static str {
        self.0.api
    }

    /// Version that was decoded.
    pub fn version(&self) -> i16 {
        self.0.version
    }

    /// Path of the field, such as `topics[3].partitions[0].leader_epoch`; empty for the message as a whole.
    pub fn path(&self) -> String {
        self.0.path()
    }

    /// Offset of the value in the frame, in bytes after the length prefix.
    pub fn offset(&self) -> usize {
        self.0.offset
    }

    /// What is wrong.
    pub fn kind(&self) -> DecodeErrorKind {
        self.0.kind
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.head(f)?;
        write!(f, ", byte {}: {}", self.0.offset, self.0.kind)
    }
}

impl fmt::Debug for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DecodeError({self})")
    }
}

impl StdError for DecodeError {}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::new(ErrorKind::Protocol, "received bytes that are not valid Kafka protocol")
            .with_phase(crate::error::Phase::Decode)
            .with_source(error)
    }
}

/// A message that cannot be encoded in a version: names the message, the version and the field.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodeError(Box<Place<EncodeErrorKind>>);

impl EncodeError {
    /// An error in a hand-written encoder of `api`.
    pub(crate) fn new(api: &'static str, version: i16, fault: impl Into<Fault<EncodeErrorKind>>) -> Self {
        Self(Place::new(api, version, fault.into(), 0))
    }

    /// Name of the message, such as `MetadataRequest`.
    pub fn api(&self) -> &'static str {
        self.0.api
    }

    /// Version that was asked for.
    pub fn version(&self) -> i16 {
        self.0.version
    }

    /// Path of the field, such as `topics[3].name`; empty for the message as a whole.
    pub fn path(&self) -> String {
        self.0.path()
    }

    /// What is wrong.
    pub fn kind(&self) -> EncodeErrorKind {
        self.0.kind
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.head(f)?;
        write!(f, ": {}", self.0.kind)
    }
}

impl fmt::Debug for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodeError({self})")
    }
}

impl StdError for EncodeError {}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        let kind = match error.kind() {
            EncodeErrorKind::TooLong { .. } => ErrorKind::TooLarge,
            EncodeErrorKind::UnsupportedVersion | EncodeErrorKind::NotInVersion => {
                ErrorKind::UnsupportedVersion
            }
            EncodeErrorKind::UnexpectedNull => ErrorKind::Config,
        };
        Self::new(kind, "the request cannot be encoded").with_source(error)
    }
}
