//! Appends records straight into the bytes that go over the wire.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::header::{Attributes, BatchHeader, HEADER_LEN};
use super::record::RecordRef;
use crate::wire::compression::Compression;
use crate::wire::varint::{put_varint, put_varlong, varint_len, varlong_len};

/// Longest body that a writer builds, in bytes. Far above what brokers accept; keeps every length in 32 bits.
const BODY_MAX: usize = 1 << 30;

/// Why a record does not fit into a batch, whatever the room in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendError {
    /// The batch would exceed 1 GiB or 2³¹ records. A new batch may take the record, if it is not larger itself.
    Full,
    /// The timestamp is further from the first one of the batch than 64 bits can say. A new batch takes the record.
    TimestampSpan,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the record does not fit into a record batch",
            Self::TimestampSpan => "the timestamp is too far from the first one of the record batch",
        })
    }
}

impl std::error::Error for AppendError {}

/// The exact size of a record in the batch it was measured for, and what was found out on the way. It holds until the
/// next record is appended to that batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSize {
    total: usize,
    length: i32,
    timestamp_delta: i64,
    headers: i32,
}

impl RecordSize {
    /// Bytes that the record adds to the body.
    pub fn bytes(&self) -> usize {
        self.total
    }
}

/// What the header of a finished batch needs to know about its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMeta {
    /// Number of records.
    pub record_count: i32,
    /// Timestamp of the first record, in milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp, in milliseconds.
    pub max_timestamp: i64,
    /// Offset of the last record less that of the first: the count less one, 0 for an empty batch.
    pub last_offset_delta: i32,
}

impl BatchMeta {
    /// The header that a producer without idempotence sends with these records; set the producer's fields for others.
    pub fn header(&self, compression: Compression) -> BatchHeader {
        BatchHeader {
            attributes: Attributes::default().with_compression(compression),
            last_offset_delta: self.last_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            record_count: self.record_count,
            ..BatchHeader::default()
        }
    }
}

/// Builds the body of one batch: records only, the 61 bytes of the header are made apart.
///
/// The buffer grows on demand; a caller that counts memory calls [`reserve`](Self::reserve) for its next chunk and reads
/// [`capacity`](Self::capacity), so that appending never grows it. Appending allocates nothing else.
///
/// ```
/// use carafe::wire::compression::Compression;
/// use carafe::wire::records::BatchWriter;
///
/// let mut writer = BatchWriter::new();
/// let no_headers = std::iter::empty();
/// let now = 1_700_000_000_000;
/// let size = writer.measure(now, Some(b"k"), Some(b"v"), no_headers.clone())?;
/// writer.append(size, now, Some(b"k"), Some(b"v"), no_headers);
/// let (body, meta) = writer.finish();
/// let header: [u8; 61] = meta.header(Compression::None).encode(&body);
/// # Ok::<(), carafe::wire::records::AppendError>(())
/// ```
#[derive(Debug, Default)]
pub struct BatchWriter {
    body: BytesMut,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchWriter {
    /// A batch without buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch with room for `capacity` bytes of records.
    pub fn with_capacity(capacity: usize) -> Self {
        Self::with_buffer(BytesMut::with_capacity(capacity))
    }

    /// A batch that writes into `buffer`, whose content is dropped.
    pub fn with_buffer(mut buffer: BytesMut) -> Self {
        buffer.clear();
        Self { body: buffer, ..Self::default() }
    }

    /// Number of records.
    pub fn record_count(&self) -> i32 {
        self.count
    }

    /// True if no record was appended.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of records.
    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Bytes of the uncompressed batch with its header.
    pub fn batch_len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// Bytes of records that the buffer can hold.
    pub fn capacity(&self) -> usize {
        self.body.capacity()
    }

    /// Makes room for `additional` bytes beyond those written. Existing records are copied if the buffer moves.
    pub fn reserve(&mut self, additional: usize) {
        self.body.reserve(additional);
    }

    /// Moves the records to `buffer`, which is empty and has room for them, and returns the former one.
    #[cfg(feature = "client")]
    pub(crate) fn move_to(&mut self, mut buffer: BytesMut) -> BytesMut {
        buffer.extend_from_slice(&self.body);
        std::mem::replace(&mut self.body, buffer)
    }

    /// The exact size of a record if it were appended next.
    ///
    /// # Errors
    ///
    /// The record fits into no buffer of this batch, see [`AppendError`].
    #[inline]
    pub fn measure<'a>(
        &self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<RecordSize, AppendError> {
        let timestamp_delta = if self.count == 0 {
            0
        } else {
            timestamp.checked_sub(self.base_timestamp).ok_or(AppendError::TimestampSpan)?
        };
        // Sums saturate, so that one comparison at the end finds every excess.
        let mut length = 1 + varlong_len(timestamp_delta) + varint_len(self.count);
        length = length.saturating_add(field_len(key)).saturating_add(field_len(value));
        let mut count = 0usize;
        for (key, value) in headers {
            count += 1;
            length = length.saturating_add(field_len(Some(key))).saturating_add(field_len(value));
        }
        // Every header takes two bytes, so a count beyond 32 bits fails the check of the length.
        length = length.saturating_add(varint_len(count as i32));
        let total = length.saturating_add(varint_len(length.min(BODY_MAX) as i32));
        if total.saturating_add(self.body.len()) > BODY_MAX || self.count == i32::MAX {
            return Err(AppendError::Full);
        }
        Ok(RecordSize { total, length: length as i32, timestamp_delta, headers: count as i32 })
    }

    /// Appends the record that `size` was measured for, and returns its index (its offset less that of the batch).
    ///
    /// Other arguments than the measured ones, or a record appended in between, make an invalid batch.
    #[inline(always)]
    pub fn append<'a>(
        &mut self,
        size: RecordSize,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> i32 {
        let index = self.count;
        if index == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        } else if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
        }
        let start = self.body.len();
        self.body.reserve(size.total);
        put_varint(&mut self.body, size.length);
        self.body.put_u8(0); // attributes
        put_varlong(&mut self.body, size.timestamp_delta);
        put_varint(&mut self.body, index);
        put_field(&mut self.body, key);
        put_field(&mut self.body, value);
        put_varint(&mut self.body, size.headers);
        for (key, value) in headers {
            put_field(&mut self.body, Some(key));
            put_field(&mut self.body, value);
        }
        debug_assert_eq!(self.body.len() - start, size.total, "appended what was measured");
        self.count += 1;
        index
    }

    /// Measures and appends a record read from another batch, as splitting does.
    ///
    /// # Errors
    ///
    /// As [`measure`](Self::measure).
    pub fn append_record(&mut self, record: &RecordRef<'_>) -> Result<i32, AppendError> {
        let headers = || record.headers.iter().map(|header| (header.key, header.value));
        let size = self.measure(record.timestamp, record.key, record.value, headers())?;
        Ok(self.append(size, record.timestamp, record.key, record.value, headers()))
    }

    /// What the header will say about the records so far.
    pub fn meta(&self) -> BatchMeta {
        let empty = self.count == 0;
        BatchMeta {
            record_count: self.count,
            base_timestamp: if empty { -1 } else { self.base_timestamp },
            max_timestamp: if empty { -1 } else { self.max_timestamp },
            last_offset_delta: (self.count - 1).max(0),
        }
    }

    /// Ends the batch: the body never changes again.
    pub fn finish(self) -> (Bytes, BatchMeta) {
        let meta = self.meta();
        (self.body.freeze(), meta)
    }
}

/// Appends a field with its length, which is -1 for null.
#[inline]
fn put_field(body: &mut BytesMut, field: Option<&[u8]>) {
    match field {
        Some(field) => {
            put_varint(body, field.len() as i32);
            body.put_slice(field);
        }
        None => put_varint(body, -1),
    }
}

/// Bytes of a field with its length.
#[inline]
fn field_len(field: Option<&[u8]>) -> usize {
    match field {
        Some(field) => field.len().saturating_add(varint_len(field.len().min(BODY_MAX) as i32)),
        None => 1,
    }
}

/// An upper bound of the bytes that a record takes in any batch, for a check before its batch is known.
pub fn record_size_max<'a>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> usize {
    headers
        .fold(21usize, |sum, (key, value)| {
            sum.saturating_add(field_len(Some(key))).saturating_add(field_len(value))
        })
        .saturating_add(5)
        .saturating_add(field_len(key))
        .saturating_add(field_len(value))
}
