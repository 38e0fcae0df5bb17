//! Splits a blob of record batches, as fetch answers and produce requests carry it, into batches.

use std::ops::Range;

use bytes::Bytes;

use super::header::{BatchHeader, HEADER_LEN, LENGTH_END, computed_crc, stored_crc};
use super::record::{RecordRange, decode_records};
use super::{BatchError, BatchFault};
use crate::wire::compression::{Compression, Decompressor};

/// One batch, header read, records still as they came.
#[derive(Clone, Debug)]
pub struct RawBatch {
    /// The header.
    pub header: BatchHeader,
    /// The whole batch, header included.
    pub bytes: Bytes,
    /// Byte position of the batch in the blob it was read from.
    pub position: usize,
}

impl RawBatch {
    /// The records as they came, compressed or not.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_LEN..)
    }

    /// Where the records lie in the blob that the batch was read from.
    pub fn body_range(&self) -> Range<usize> {
        self.position + HEADER_LEN..self.position + self.bytes.len()
    }

    /// The header as it came, to be patched with [`patch_header`](super::patch_header) and kept beside the body.
    pub fn encoded_header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&self.bytes[..HEADER_LEN]);
        header
    }

    /// The codec of the records.
    ///
    /// # Errors
    ///
    /// The codec bits name no codec.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let attributes = self.header.attributes;
        attributes.compression().ok_or_else(|| self.error(BatchFault::UnknownCodec(attributes.codec_id())))
    }

    /// Compares the checksum with the bytes.
    ///
    /// # Errors
    ///
    /// They differ.
    pub fn check_crc(&self) -> Result<(), BatchError> {
        let computed = computed_crc(&self.bytes);
        match self.bytes.first_chunk() {
            Some(header) if stored_crc(header) == computed => Ok(()),
            Some(header) => Err(self.error(BatchFault::Checksum { stored: stored_crc(header), computed })),
            None => Err(self.error(BatchFault::ShortHeader(self.bytes.len()))),
        }
    }

    /// Decompresses the records to the end of `out`, at most `cap` bytes, or copies them if they are not compressed.
    ///
    /// # Errors
    ///
    /// The codec is unknown or its feature is off, the bytes are corrupt, or there are more than `cap`.
    pub fn decompress(
        &self,
        with: &mut Decompressor,
        cap: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), BatchError> {
        let codec = self.compression()?;
        let body = &self.bytes[HEADER_LEN..];
        if self.header.record_count == 0 && body.is_empty() {
            return Ok(()); // compaction may leave a header alone
        }
        with.decompress(codec, body, cap, out)
            .map_err(|error| self.error(BatchFault::Compression { codec, error }))
    }

    /// The checksum in the header.
    pub fn crc(&self) -> u32 {
        stored_crc(&self.encoded_header())
    }

    /// The records, uncompressed: an uncompressed body is shared, a compressed one inflated into a new buffer of at most
    /// `cap` bytes.
    ///
    /// # Errors
    ///
    /// As [`decompress`](Self::decompress).
    pub fn data(&self, with: &mut Decompressor, cap: usize) -> Result<Bytes, BatchError> {
        if self.compression()? == Compression::None {
            return Ok(self.body());
        }
        let mut inflated = Vec::new();
        self.decompress(with, cap, &mut inflated)?;
        Ok(Bytes::from(inflated))
    }

    /// The records, uncompressed, and their positions appended to `out`, those at or beyond `from_offset` only; see
    /// [`data`](Self::data).
    ///
    /// # Errors
    ///
    /// As [`decompress`](Self::decompress) and [`decode_records`].
    pub fn decode(
        &self,
        with: &mut Decompressor,
        cap: usize,
        from_offset: i64,
        out: &mut Vec<RecordRange>,
    ) -> Result<Bytes, BatchError> {
        let data = self.data(with, cap)?;
        decode_records(&self.header, &data, 0..data.len(), from_offset, out).map_err(|mut error| {
            error.position = self.position;
            error
        })?;
        Ok(data)
    }

    fn error(&self, fault: BatchFault) -> BatchError {
        BatchError::new(fault, Some(self.header.base_offset), self.position)
    }
}

/// Bytes at the end of a blob that are no whole batch. Normal in fetch answers: brokers cut them at the byte limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Bytes that are there.
    pub bytes: usize,
    /// Bytes that the batch has, where its length field is there.
    pub batch_len: Option<usize>,
}

/// Iterator over the batches of a blob. Ends after the first error, and at a truncated last batch, see
/// [`tail`](Self::tail).
#[derive(Debug)]
pub struct BatchIter {
    bytes: Bytes,
    pos: usize,
    check_crc: bool,
    done: bool,
}

impl BatchIter {
    /// The batches of `bytes`, with their checksums checked.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, pos: 0, check_crc: true, done: false }
    }

    /// Whether to check checksums (Java: `check.crcs`).
    #[must_use]
    pub fn check_crc(mut self, check: bool) -> Self {
        self.check_crc = check;
        self
    }

    /// The blob.
    pub fn blob(&self) -> &Bytes {
        &self.bytes
    }

    /// Where the next batch starts.
    pub fn position(&self) -> usize {
        self.pos
    }

    /// After the iterator has ended without error: what is left, if the blob ends inside a batch.
    pub fn tail(&self) -> Option<Tail> {
        let bytes = self.bytes.len() - self.pos;
        (bytes > 0).then(|| Tail { bytes, batch_len: self.batch_len().and_then(Result::ok) })
    }

    /// Bytes of the next batch; `None` if the blob ends in front of the length or the message format.
    fn batch_len(&self) -> Option<Result<usize, BatchError>> {
        let rest = &self.bytes[self.pos..];
        let base_offset = i64::from_be_bytes(*rest.first_chunk()?);
        let length = i32::from_be_bytes(*rest.get(8..)?.first_chunk()?);
        let error = |fault| Some(Err(BatchError::new(fault, Some(base_offset), self.pos)));
        // Formats 0 and 1 have shorter headers: look at the format before the length.
        match *rest.get(16)? as i8 {
            2 => {}
            magic @ (0 | 1) => return error(BatchFault::OldMagic(magic)),
            magic => return error(BatchFault::UnknownMagic(magic)),
        }
        match usize::try_from(length) {
            Ok(bytes) if bytes >= HEADER_LEN - LENGTH_END => Some(Ok(bytes + LENGTH_END)),
            _ => error(BatchFault::Length(length)),
        }
    }

    fn advance(&mut self) -> Result<Option<RawBatch>, BatchError> {
        let Some(len) = self.batch_len().transpose()? else {
            return Ok(None);
        };
        if len > self.bytes.len() - self.pos {
            return Ok(None);
        }
        let bytes = self.bytes.slice(self.pos..self.pos + len);
        let header = BatchHeader::decode(&bytes, self.pos)?;
        let batch = RawBatch { header, bytes, position: self.pos };
        if self.check_crc {
            batch.check_crc()?;
        }
        self.pos += len;
        Ok(Some(batch))
    }
}

impl Iterator for BatchIter {
    type Item = Result<RawBatch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.advance();
        self.done = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}
