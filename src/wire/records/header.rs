//! The 61 bytes in front of the records of a batch.

use super::{BatchError, BatchFault};
use crate::wire::compression::Compression;

/// Bytes of a batch header.
pub const HEADER_LEN: usize = 61;

/// Bytes in front of what the length field counts: base offset and the field itself.
pub const LENGTH_END: usize = 12;

/// Where the checksummed bytes start.
const CRC_START: usize = 21;

/// What timestamps of a batch mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// Set by the producer, per record.
    #[default]
    CreateTime,
    /// Set by the broker; every record has the batch's maximum timestamp.
    LogAppendTime,
}

/// The attribute bits of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes(pub i16);

impl Attributes {
    const CODEC: i16 = 0x07;
    const LOG_APPEND_TIME: i16 = 0x08;
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    const DELETE_HORIZON: i16 = 0x40;

    /// The three codec bits as they are.
    pub fn codec_id(self) -> i8 {
        (self.0 & Self::CODEC) as i8
    }

    /// The codec, if the bits name one.
    pub fn compression(self) -> Option<Compression> {
        Compression::from_id(self.codec_id())
    }

    /// What the timestamps mean.
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// True if the batch belongs to a transaction.
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// True if the batch holds a control record (a transaction marker), which users never see.
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// True if the base timestamp is the time after which compaction may drop the batch's tombstones (KIP-534).
    /// Timestamps of records stay relative to the base timestamp.
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    /// These attributes with `compression`.
    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self(self.0 & !Self::CODEC | i16::from(compression.id()))
    }

    /// These attributes with `timestamp_type`.
    #[must_use]
    pub fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        self.with(Self::LOG_APPEND_TIME, timestamp_type == TimestampType::LogAppendTime)
    }

    /// These attributes with the transactional bit as given.
    #[must_use]
    pub fn with_transactional(self, transactional: bool) -> Self {
        self.with(Self::TRANSACTIONAL, transactional)
    }

    /// These attributes with the control bit as given.
    #[must_use]
    pub fn with_control(self, control: bool) -> Self {
        self.with(Self::CONTROL, control)
    }

    fn with(self, bit: i16, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }
}

/// The header of a batch in message format 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; 0 from producers, the broker assigns it.
    pub base_offset: i64,
    /// Epoch of the leader that appended the batch; -1 from producers. Not covered by the checksum.
    pub partition_leader_epoch: i32,
    /// Codec, timestamp type, transactional, control, delete horizon.
    pub attributes: Attributes,
    /// Last offset of the batch less the base offset; survives compaction.
    pub last_offset_delta: i32,
    /// The timestamp that those of the records are relative to, in milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp of the records, in milliseconds; with log append time that of all of them.
    pub max_timestamp: i64,
    /// Id of the producer; -1 without idempotence.
    pub producer_id: i64,
    /// Epoch of the producer; -1 without idempotence.
    pub producer_epoch: i16,
    /// Sequence number of the first record; -1 without idempotence.
    pub base_sequence: i32,
    /// Number of records; may be smaller than the offsets suggest after compaction, down to 0.
    pub record_count: i32,
}

impl Default for BatchHeader {
    /// What a producer without idempotence writes for an empty batch.
    fn default() -> Self {
        Self {
            base_offset: 0,
            partition_leader_epoch: -1,
            attributes: Attributes::default(),
            last_offset_delta: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: 0,
        }
    }
}

impl BatchHeader {
    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// The offset to read after this batch, also when compaction removed its last records.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Writes the header in front of `body` (the records as sent, compressed or not), with length and checksum.
    /// The body is read once and not changed, so that a header can be written again with another epoch or sequence.
    pub fn encode(&self, body: &[u8]) -> [u8; HEADER_LEN] {
        self.encode_parts([body])
    }

    /// As [`encode`](Self::encode), for a body in several parts.
    pub fn encode_parts<'a>(&self, body: impl IntoIterator<Item = &'a [u8]>) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.base_offset.to_be_bytes());
        put(12, &self.partition_leader_epoch.to_be_bytes());
        put(16, &[2]);
        put(21, &self.attributes.0.to_be_bytes());
        put(23, &self.last_offset_delta.to_be_bytes());
        put(27, &self.base_timestamp.to_be_bytes());
        put(35, &self.max_timestamp.to_be_bytes());
        put(43, &self.producer_id.to_be_bytes());
        put(51, &self.producer_epoch.to_be_bytes());
        put(53, &self.base_sequence.to_be_bytes());
        put(57, &self.record_count.to_be_bytes());
        let mut crc = crc32c::crc32c(&out[CRC_START..]);
        let mut length = HEADER_LEN - LENGTH_END;
        for part in body {
            crc = crc32c::crc32c_append(crc, part);
            length += part.len();
        }
        debug_assert!(i32::try_from(length).is_ok(), "batch writers refuse bodies of 2 GiB");
        out[8..12].copy_from_slice(&(length as i32).to_be_bytes());
        out[17..21].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads the header at the start of `bytes`; `position` is where they lie in their blob, for errors.
    ///
    /// # Errors
    ///
    /// Fewer than 61 bytes, another message format, a negative or overflowing offset. The count is not checked against
    /// the body here.
    pub fn decode(bytes: &[u8], position: usize) -> Result<Self, BatchError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(BatchError::new(BatchFault::ShortHeader(bytes.len()), None, position));
        };
        let base_offset = i64_at(bytes, 0);
        let error = |fault| Err(BatchError::new(fault, Some(base_offset), position));
        match bytes[16] as i8 {
            2 => {}
            magic @ (0 | 1) => return error(BatchFault::OldMagic(magic)),
            magic => return error(BatchFault::UnknownMagic(magic)),
        }
        let header = Self {
            base_offset,
            partition_leader_epoch: i32_at(bytes, 12),
            attributes: Attributes(i16_at(bytes, 21)),
            last_offset_delta: i32_at(bytes, 23),
            base_timestamp: i64_at(bytes, 27),
            max_timestamp: i64_at(bytes, 35),
            producer_id: i64_at(bytes, 43),
            producer_epoch: i16_at(bytes, 51),
            base_sequence: i32_at(bytes, 53),
            record_count: i32_at(bytes, 57),
        };
        if base_offset < 0 {
            return error(BatchFault::NegativeOffset(base_offset));
        }
        // The offset after the batch must exist as well: consumers continue there.
        let last = base_offset.checked_add(i64::from(header.last_offset_delta));
        if header.last_offset_delta < 0 || last.is_none_or(|last| last == i64::MAX) {
            return error(BatchFault::LastOffset(header.last_offset_delta));
        }
        Ok(header)
    }
}

/// Sets base offset and leader epoch in an encoded header. Both lie outside the checksum, which stays valid.
pub fn patch_header(header: &mut [u8; HEADER_LEN], base_offset: i64, partition_leader_epoch: i32) {
    header[0..8].copy_from_slice(&base_offset.to_be_bytes());
    header[12..16].copy_from_slice(&partition_leader_epoch.to_be_bytes());
}

/// The checksum in an encoded header.
pub(super) fn stored_crc(header: &[u8; HEADER_LEN]) -> u32 {
    i32_at(header, 17) as u32
}

/// The checksum of a whole batch.
pub(super) fn computed_crc(batch: &[u8]) -> u32 {
    crc32c::crc32c(batch.get(CRC_START..).unwrap_or_default())
}

fn bytes_at<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn i64_at(bytes: &[u8; HEADER_LEN], at: usize) -> i64 {
    i64::from_be_bytes(bytes_at(bytes, at))
}

fn i32_at(bytes: &[u8; HEADER_LEN], at: usize) -> i32 {
    i32::from_be_bytes(bytes_at(bytes, at))
}

fn i16_at(bytes: &[u8; HEADER_LEN], at: usize) -> i16 {
    i16::from_be_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips() {
        let header = BatchHeader {
            base_offset: 77,
            partition_leader_epoch: 3,
            attributes: Attributes::default()
                .with_compression(Compression::Lz4)
                .with_transactional(true)
                .with_timestamp_type(TimestampType::LogAppendTime),
            last_offset_delta: 9,
            base_timestamp: 1_700_000_000_000,
            max_timestamp: 1_700_000_000_009,
            producer_id: 12,
            producer_epoch: 5,
            base_sequence: i32::MAX,
            record_count: 10,
        };
        assert_eq!(header.attributes.0, 0x1b);
        let mut bytes = header.encode(b"body").to_vec();
        bytes.extend_from_slice(b"body");
        assert_eq!(BatchHeader::decode(&bytes, 0), Ok(header));
        assert_eq!(i32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]), 49 + 4);
        assert_eq!(header.encode_parts([&b"bo"[..], b"", b"dy"]), header.encode(b"body"));
    }

    #[test]
    fn patching_keeps_the_checksum() {
        let header = BatchHeader { record_count: 1, ..BatchHeader::default() };
        let mut bytes = header.encode(b"x");
        let crc = stored_crc(&bytes);
        patch_header(&mut bytes, 1 << 40, 9);
        assert_eq!(stored_crc(&bytes), crc);
        let patched = BatchHeader { base_offset: 1 << 40, partition_leader_epoch: 9, ..header };
        assert_eq!(patched.encode(b"x"), bytes);
    }

    #[test]
    fn offsets_that_overflow_are_refused() {
        let header =
            BatchHeader { base_offset: i64::MAX - 3, last_offset_delta: 3, ..BatchHeader::default() };
        assert!(matches!(
            BatchHeader::decode(&header.encode(b""), 0).unwrap_err().fault,
            BatchFault::LastOffset(3)
        ));
        let header = BatchHeader { base_offset: -2, ..BatchHeader::default() };
        assert!(matches!(
            BatchHeader::decode(&header.encode(b""), 0).unwrap_err().fault,
            BatchFault::NegativeOffset(-2)
        ));
    }
}
