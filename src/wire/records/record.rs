//! Records as positions in one shared buffer, and borrowed views of them.

use std::ops::Range;

use super::header::{BatchHeader, TimestampType};
use super::scan::Scan;
use super::{BatchError, BatchFault, RecordFault};
use crate::types::Offset;

/// Bytes of the smallest record: length, attributes, two deltas, null key, null value, no headers.
const RECORD_MIN: usize = 7;

/// Length of a null key or value.
const NULL: u32 = u32::MAX;

/// Where a record lies in its buffer: 32 bytes, no reference. Key, value and headers are found again without parsing
/// what is in front of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRange {
    /// Offset in the partition.
    pub offset: i64,
    /// Timestamp in milliseconds; with log append time that of the batch.
    pub timestamp: i64,
    key: u32,
    key_len: u32,
    value: u32,
    value_len: u32,
}

impl RecordRange {
    /// The record in `data`, the buffer that it was decoded from.
    ///
    /// # Panics
    ///
    /// If `data` is another, shorter buffer.
    #[inline]
    pub fn get<'a>(&self, data: &'a [u8]) -> RecordRef<'a> {
        let headers = self.value as usize + if self.value_len == NULL { 0 } else { self.value_len as usize };
        RecordRef {
            offset: Offset(self.offset),
            timestamp: self.timestamp,
            key: self.key_range().map(|range| &data[range]),
            value: self.value_range().map(|range| &data[range]),
            headers: HeadersRef { bytes: &data[headers..] },
        }
    }

    /// Where the key lies; `None` for a null key.
    #[inline]
    pub fn key_range(&self) -> Option<Range<usize>> {
        (self.key_len != NULL).then(|| self.key as usize..self.key as usize + self.key_len as usize)
    }

    /// Where the value lies; `None` for a null value (a tombstone).
    #[inline]
    pub fn value_range(&self) -> Option<Range<usize>> {
        (self.value_len != NULL).then(|| self.value as usize..self.value as usize + self.value_len as usize)
    }
}

impl RecordRange {
    /// The same record where `by` other bytes are in front of those of its buffer.
    #[cfg(feature = "client")]
    pub(crate) fn shifted(&self, by: u32) -> Self {
        Self { key: self.key + by, value: self.value + by, ..*self }
    }

    /// Key, value and headers of the record in `data`, copied into a buffer of their own, and where they lie in it.
    pub fn detach(&self, data: &[u8]) -> (Vec<u8>, Self) {
        let mut headers = self.get(data).headers.iter();
        while headers.next().is_some() {}
        let start = self.value as usize + if self.value_len == NULL { 0 } else { self.value_len as usize };
        let copy = data[self.key as usize..start + headers.scan.pos()].to_vec();
        (copy, Self { key: 0, value: self.value - self.key, ..*self })
    }
}

/// A record borrowed from its buffer.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Offset in the partition.
    pub offset: Offset,
    /// Timestamp in milliseconds; with log append time that of the batch.
    pub timestamp: i64,
    /// The key; null and empty differ.
    pub key: Option<&'a [u8]>,
    /// The value; null (a tombstone) and empty differ.
    pub value: Option<&'a [u8]>,
    /// The headers, parsed when asked for.
    pub headers: HeadersRef<'a>,
}

/// Headers of a record, in order, with duplicates.
#[derive(Clone, Copy, Default)]
pub struct HeadersRef<'a> {
    /// Starts with the count; may go on beyond the last header.
    bytes: &'a [u8],
}

/// A header: its key is bytes, whatever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    /// The key; not necessarily UTF-8.
    pub key: &'a [u8],
    /// The value; null and empty differ.
    pub value: Option<&'a [u8]>,
}

impl<'a> HeaderRef<'a> {
    /// The key as text, where it is UTF-8.
    pub fn key_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.key).ok()
    }
}

impl<'a> HeadersRef<'a> {
    /// Number of headers.
    #[inline]
    pub fn len(&self) -> usize {
        self.iter().left
    }

    /// True if there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The headers in order.
    #[inline]
    pub fn iter(&self) -> HeadersIter<'a> {
        let mut scan = Scan::new(self.bytes, self.bytes.len());
        // The record was checked when it was decoded: faults cannot happen on its own buffer.
        let left = scan.varint().ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        HeadersIter { scan, left }
    }

    /// The last header with `key`, as Kafka's `lastHeader`.
    pub fn last(&self, key: impl AsRef<[u8]>) -> Option<HeaderRef<'a>> {
        self.iter().filter(|header| header.key == key.as_ref()).last()
    }
}

impl<'a> IntoIterator for HeadersRef<'a> {
    type Item = HeaderRef<'a>;
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

impl std::fmt::Debug for HeadersRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over the headers of a record.
#[derive(Clone, Debug)]
pub struct HeadersIter<'a> {
    scan: Scan<'a>,
    left: usize,
}

impl<'a> Iterator for HeadersIter<'a> {
    type Item = HeaderRef<'a>;

    fn next(&mut self) -> Option<HeaderRef<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let mut header = || {
            let length = self.scan.length_not_null()?;
            let key = self.scan.take(length)?;
            let value = match self.scan.length()? {
                Some(length) => Some(self.scan.take(length)?),
                None => None,
            };
            Ok::<_, RecordFault>(HeaderRef { key, value })
        };
        header().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// Appends the positions of a batch's records to `out`, those at or beyond `from_offset` only.
///
/// `data` is the buffer that the positions are relative to, `range` the batch's uncompressed records in it: several
/// batches of one buffer can share one vector of positions. Every record is checked, also those left out.
///
/// # Errors
///
/// Any byte that a valid batch would not have; `out` is then as before.
pub fn decode_records(
    header: &BatchHeader,
    data: &[u8],
    range: Range<usize>,
    from_offset: i64,
    out: &mut Vec<RecordRange>,
) -> Result<(), BatchError> {
    let before = out.len();
    let mut iter = RecordIter::new(header, data, range)?;
    out.reserve(iter.left as usize);
    let result = iter.run(from_offset, out);
    if result.is_err() {
        out.truncate(before);
    }
    result
}

/// Iterator over the records of an uncompressed body; ends after the first error.
#[derive(Debug)]
pub struct RecordIter<'a> {
    data: &'a [u8],
    scan: Scan<'a>,
    header: BatchHeader,
    log_append_time: bool,
    last_delta: i32,
    index: u32,
    left: u32,
    done: bool,
}

impl<'a> RecordIter<'a> {
    /// The records in `range` of `data`, which must be uncompressed.
    ///
    /// # Errors
    ///
    /// The header's record count cannot be true, or the buffer exceeds 4 GiB.
    pub fn new(header: &BatchHeader, data: &'a [u8], range: Range<usize>) -> Result<Self, BatchError> {
        let error = |fault| Err(BatchError::new(fault, Some(header.base_offset), range.start));
        let Some(in_range) = data.get(range.clone()) else {
            return error(BatchFault::ShortHeader(data.len()));
        };
        if u32::try_from(range.end).map_or(true, |end| end == NULL) {
            return error(BatchFault::TooLong(range.end));
        }
        let bytes = range.len();
        let left = match u32::try_from(header.record_count) {
            Ok(count) if count as usize <= bytes / RECORD_MIN => count,
            _ => return error(BatchFault::RecordCount { count: header.record_count, bytes }),
        };
        Ok(Self {
            data,
            scan: Scan::new(in_range, range.end),
            header: *header,
            log_append_time: header.attributes.timestamp_type() == TimestampType::LogAppendTime,
            last_delta: -1,
            index: 0,
            left,
            done: false,
        })
    }

    /// The position of the next record; `None` after the last, with every byte used.
    #[inline]
    fn advance(&mut self) -> Result<Option<RecordRange>, BatchError> {
        if self.left == 0 {
            let rest = self.scan.remaining();
            return if rest == 0 { Ok(None) } else { Err(self.error(BatchFault::TrailingBytes(rest))) };
        }
        match self.record() {
            Ok(record) => {
                self.left -= 1;
                self.index += 1;
                Ok(Some(record))
            }
            Err(fault) => Err(self.error(BatchFault::Record { index: self.index, fault })),
        }
    }

    fn run(&mut self, from_offset: i64, out: &mut Vec<RecordRange>) -> Result<(), BatchError> {
        while self.left > 0 {
            match self.record() {
                Ok(record) => {
                    self.left -= 1;
                    self.index += 1;
                    if record.offset >= from_offset {
                        out.push(record);
                    }
                }
                Err(fault) => return Err(self.error(BatchFault::Record { index: self.index, fault })),
            }
        }
        self.advance().map(|_| ())
    }

    #[inline(always)]
    fn record(&mut self) -> Result<RecordRange, RecordFault> {
        let length = self.scan.length_not_null()?;
        let record = self.scan.take(length)?;
        let mut scan = Scan::new(record, self.scan.pos());
        scan.skip(1)?; // attributes of a record mean nothing in format 2
        let timestamp_delta = scan.varlong()?;
        let offset_delta = scan.varint()?;
        let (key, key_len) = nullable(&mut scan)?;
        let (value, value_len) = nullable(&mut scan)?;
        let headers = scan.varint()?;
        if headers != 0 {
            skip_headers(&mut scan, headers)?;
        }
        if scan.remaining() > 0 {
            return Err(RecordFault::Slack);
        }
        if offset_delta <= self.last_delta || offset_delta > self.header.last_offset_delta {
            return Err(RecordFault::Offset);
        }
        self.last_delta = offset_delta;
        let timestamp = if self.log_append_time {
            self.header.max_timestamp
        } else {
            self.header.base_timestamp.checked_add(timestamp_delta).ok_or(RecordFault::Timestamp)?
        };
        let offset =
            self.header.base_offset.checked_add(i64::from(offset_delta)).ok_or(RecordFault::Offset)?;
        Ok(RecordRange { offset, timestamp, key, key_len, value, value_len })
    }

    #[cold]
    fn error(&mut self, fault: BatchFault) -> BatchError {
        self.done = true;
        BatchError::new(fault, Some(self.header.base_offset), self.scan.pos())
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        self.advance().map(|record| record.map(|record| record.get(self.data))).transpose()
    }
}

/// Record number `index` (from 0) of an uncompressed body; the records in front of it are stepped over.
///
/// # Errors
///
/// There are not so many records, or one of them is invalid.
pub fn record_at<'a>(header: &BatchHeader, body: &'a [u8], index: u32) -> Result<RecordRef<'a>, BatchError> {
    let mut iter = RecordIter::new(header, body, 0..body.len())?;
    loop {
        match iter.advance()? {
            Some(record) if iter.index == index.saturating_add(1) => return Ok(record.get(body)),
            Some(_) => {}
            None => return Err(iter.error(BatchFault::Record { index, fault: RecordFault::Truncated })),
        }
    }
}

/// Position and length of a key or value.
#[inline(always)]
fn nullable(scan: &mut Scan<'_>) -> Result<(u32, u32), RecordFault> {
    let length = scan.length()?;
    // Positions fit: the length of the buffer was checked.
    let start = scan.pos() as u32;
    match length {
        Some(length) => scan.skip(length).map(|()| (start, length as u32)),
        None => Ok((start, NULL)),
    }
}

fn skip_headers(scan: &mut Scan<'_>, count: i32) -> Result<(), RecordFault> {
    let count = usize::try_from(count).map_err(|_| RecordFault::HeaderCount)?;
    if count > scan.remaining() / 2 {
        return Err(RecordFault::HeaderCount);
    }
    for _ in 0..count {
        let key = scan.length_not_null()?;
        scan.skip(key)?;
        nullable(scan)?;
    }
    Ok(())
}
