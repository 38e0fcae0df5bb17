//! What can be wrong with a record batch, and where.

use std::fmt;

use crate::wire::compression::{Compression, CompressionError};
use crate::{Error, ErrorKind};

/// A batch that cannot be read or must not be written: the offset it claims, where it lies, what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchError {
    /// Base offset that the batch claims, where its header could be read that far.
    pub base_offset: Option<i64>,
    /// Byte position of the batch, or of the fault in its records, in the blob that was read.
    pub position: usize,
    /// What is wrong.
    pub fault: BatchFault,
}

/// What is wrong with a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchFault {
    /// The batch is in message format 0 or 1, which brokers stopped writing with 0.11.
    OldMagic(i8),
    /// A message format that no release of Kafka has.
    UnknownMagic(i8),
    /// The length field is smaller than a batch header.
    Length(i32),
    /// Fewer bytes than a batch header where one was promised.
    ShortHeader(usize),
    /// The CRC-32C does not match the bytes.
    Checksum {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The base offset is negative.
    NegativeOffset(i64),
    /// The last offset delta is negative, or the last offset does not fit into 63 bits.
    LastOffset(i32),
    /// The record count is negative or more than the bytes can hold.
    RecordCount {
        /// The count in the header.
        count: i32,
        /// Bytes of records there are.
        bytes: usize,
    },
    /// The codec bits name no codec.
    UnknownCodec(i8),
    /// The records cannot be decompressed.
    Compression {
        /// The codec of the batch.
        codec: Compression,
        /// What went wrong.
        error: CompressionError,
    },
    /// More record bytes than positions of 32 bits can address.
    TooLong(usize),
    /// Record number `index` (from 0) is invalid.
    Record {
        /// Which record.
        index: u32,
        /// What is wrong with it.
        fault: RecordFault,
    },
    /// Bytes remain after the last record.
    TrailingBytes(usize),
}

/// What is wrong with one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordFault {
    /// The bytes end inside the record.
    Truncated,
    /// A variable-length number has too many bytes or bits.
    Varint,
    /// A length is negative where it must not be, or below -1.
    Length,
    /// The header count is negative or more than the bytes can hold.
    HeaderCount,
    /// The record is longer than its fields.
    Slack,
    /// The offset does not grow, or lies beyond the last offset of the batch.
    Offset,
    /// The timestamp does not fit into 64 bits.
    Timestamp,
}

impl RecordFault {
    fn text(self) -> &'static str {
        match self {
            Self::Truncated => "the bytes end inside it",
            Self::Varint => "a variable-length number is too long",
            Self::Length => "a length is negative",
            Self::HeaderCount => "it claims more headers than its bytes can hold",
            Self::Slack => "it is longer than its fields",
            Self::Offset => "its offset does not grow or lies beyond the batch",
            Self::Timestamp => "its timestamp overflows",
        }
    }
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl BatchError {
    pub(super) fn new(fault: BatchFault, base_offset: Option<i64>, position: usize) -> Self {
        Self { base_offset, position, fault }
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("record batch")?;
        if let Some(offset) = self.base_offset {
            write!(f, " with base offset {offset}")?;
        }
        write!(f, " at byte {}: ", self.position)?;
        match &self.fault {
            BatchFault::OldMagic(magic) => write!(
                f,
                "message format {magic} is not supported: brokers write format 2 since 0.11, older data must be rewritten"
            ),
            BatchFault::UnknownMagic(magic) => write!(f, "unknown message format {magic}"),
            BatchFault::Length(length) => write!(f, "length {length} is smaller than a batch header"),
            BatchFault::ShortHeader(bytes) => write!(f, "{bytes} bytes are no batch header"),
            BatchFault::Checksum { stored, computed } => {
                write!(f, "checksum {computed:08x} of the bytes is not {stored:08x} of the header")
            }
            BatchFault::NegativeOffset(offset) => write!(f, "negative base offset {offset}"),
            BatchFault::LastOffset(delta) => write!(f, "invalid last offset delta {delta}"),
            BatchFault::RecordCount { count, bytes } => write!(f, "record count {count} in {bytes} bytes"),
            BatchFault::UnknownCodec(id) => write!(f, "unknown compression codec {id}"),
            BatchFault::Compression { codec, error } => write!(f, "{codec}: {error}"),
            BatchFault::TooLong(bytes) => write!(f, "{bytes} bytes of records"),
            BatchFault::Record { index, fault } => write!(f, "record {index}: {fault}"),
            BatchFault::TrailingBytes(bytes) => write!(f, "{bytes} bytes after the last record"),
        }
    }
}

impl std::error::Error for BatchError {}

impl From<BatchError> for Error {
    fn from(error: BatchError) -> Self {
        let unsupported = match &error.fault {
            BatchFault::Compression { error, .. } => error.advice(),
            _ => None,
        };
        let wrapped = Self::new(ErrorKind::CorruptRecord, error.to_string()).with_retriable(false);
        match unsupported {
            Some(hint) => wrapped.with_advice(hint),
            None => wrapped,
        }
    }
}
