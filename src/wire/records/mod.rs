//! Record batches in message format 2: written straight into wire bytes, read as positions in one shared buffer.
//!
//! A batch is 61 bytes of header and a body of records, compressed as a whole if a codec is set. [`BatchWriter`] makes
//! bodies, [`BatchHeader`] their headers (again and again, if epoch or sequence change), [`BatchIter`] splits what a
//! broker sent, [`decode_records`] finds the records. Formats 0 and 1 are recognised and refused.

mod aborted;
mod control;
mod error;
mod header;
mod reader;
mod record;
mod scan;
#[cfg(test)]
mod tests;
mod writer;

pub use aborted::AbortedFilter;
pub use control::ControlRecord;
#[cfg(test)]
pub(crate) use control::{ControlBatch, control_batch};
pub use error::{BatchError, BatchFault, RecordFault};
pub use header::{Attributes, BatchHeader, HEADER_LEN, LENGTH_END, TimestampType, patch_header};
pub use reader::{BatchIter, RawBatch, Tail};
pub use record::{
    HeaderRef, HeadersIter, HeadersRef, RecordIter, RecordRange, RecordRef, decode_records, record_at,
};
pub use writer::{AppendError, BatchMeta, BatchWriter, RecordSize, record_size_max};
