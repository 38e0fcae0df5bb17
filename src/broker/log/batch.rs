//! One stored record batch: the 61-byte header of message format 2 read for what a broker needs, and the bytes shared
//! by every replica. Written from the protocol; it does not use the client's batch reader.

use bytes::{Bytes, BytesMut};

use crate::ErrorCode;
use crate::wire::compression::{Compression, CompressionError, Decompressor};
use crate::wire::frame::LARGE_BYTES;

/// Bytes of a batch header.
pub(crate) const HEADER_LEN: usize = 61;
/// Bytes in front of the part that `batch_length` counts.
const LENGTH_PREFIX: usize = 12;
/// The checksum covers everything from here.
const CHECKSUM_START: usize = 21;

/// Most bytes that a batch may decompress to.
const INFLATED_MAX: usize = 100 * 1024 * 1024;

/// A record without a timestamp.
const NO_TIMESTAMP: i64 = -1;

const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// Why a produced batch is refused: the code of the partition and a sentence for the producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// Index of a record in the batch and what is wrong with it (KIP-467).
    pub(crate) records: Vec<(i32, String)>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), records: Vec::new() }
    }
}

/// The header fields of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHead {
    pub(crate) base_offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) crc: u32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) record_count: i32,
}

impl BatchHead {
    /// Sequence of the last record; sequences wrap from 2^31-1 to 0.
    pub(crate) fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        ((i64::from(self.base_sequence) + i64::from(self.last_offset_delta)) & i64::from(i32::MAX)) as i32
    }

    pub(crate) fn codec(&self) -> i16 {
        self.attributes & CODEC_MASK
    }

    #[cfg(test)]
    pub(crate) fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub(crate) fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads the header of the batch that `bytes` must consist of. Checks structure, not the checksum.
pub(crate) fn parse(bytes: &[u8]) -> Result<BatchHead, Refusal> {
    let corrupt = |what: &str| Refusal::new(ErrorCode::CORRUPT_MESSAGE, format!("The record batch {what}"));
    let parse_all = || {
        Some((
            i64::from_be_bytes(field(bytes, 0)?),
            i32::from_be_bytes(field(bytes, 8)?),
            i32::from_be_bytes(field(bytes, 12)?),
            *bytes.get(16)?,
            u32::from_be_bytes(field(bytes, 17)?),
        ))
    };
    let Some((base_offset, length, leader_epoch, magic, crc)) = parse_all() else {
        return Err(corrupt("is shorter than its header"));
    };
    if magic != 2 {
        return Err(Refusal::new(
            ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
            format!("Message format {magic} is not supported; produce with message format 2"),
        ));
    }
    let rest = || {
        Some(BatchHead {
            base_offset,
            leader_epoch,
            crc,
            attributes: i16::from_be_bytes(field(bytes, 21)?),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)?),
            base_timestamp: i64::from_be_bytes(field(bytes, 27)?),
            max_timestamp: i64::from_be_bytes(field(bytes, 35)?),
            producer_id: i64::from_be_bytes(field(bytes, 43)?),
            producer_epoch: i16::from_be_bytes(field(bytes, 51)?),
            base_sequence: i32::from_be_bytes(field(bytes, 53)?),
            record_count: i32::from_be_bytes(field(bytes, 57)?),
        })
    };
    let Some(head) = rest() else {
        return Err(corrupt("is shorter than its header"));
    };
    let Some(total) = usize::try_from(length).ok().and_then(|length| length.checked_add(LENGTH_PREFIX))
    else {
        return Err(corrupt("has a negative length"));
    };
    if total < HEADER_LEN || total > bytes.len() {
        return Err(corrupt("does not have the length that its header states"));
    }
    if total < bytes.len() {
        return Err(Refusal::new(
            ErrorCode::INVALID_RECORD,
            "Produce requests must contain exactly one record batch per partition",
        ));
    }
    if head.record_count <= 0
        || head.last_offset_delta < 0
        || i64::from(head.last_offset_delta) != i64::from(head.record_count) - 1
    {
        return Err(Refusal::new(
            ErrorCode::INVALID_RECORD,
            format!(
                "The record batch counts {} records but its last offset delta is {}",
                head.record_count, head.last_offset_delta
            ),
        ));
    }
    Ok(head)
}

/// Compares the checksum of a batch that [`parse`] accepted.
pub(crate) fn check_crc(bytes: &[u8], head: &BatchHead) -> Result<(), Refusal> {
    let covered = bytes.get(CHECKSUM_START..).unwrap_or_default();
    let actual = crc32c::crc32c(covered);
    if actual == head.crc {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::CORRUPT_MESSAGE,
        format!("Record is corrupt (stored crc = {}, computed crc = {actual})", head.crc),
    ))
}

/// A batch that was looked at before the cluster's lock was taken.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) bytes: Bytes,
    /// The header, or why there is none.
    pub(crate) head: Result<BatchHead, Refusal>,
    /// What is wrong with checksum or records.
    pub(crate) fault: Option<Refusal>,
    walked: Walked,
}

/// What a walk over the records of a batch found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Records without a key, which compacted topics refuse.
    pub(crate) keyless: Vec<i32>,
    /// Timestamps and indexes of the oldest and the youngest record that has a timestamp.
    oldest: Option<(i64, i32)>,
    youngest: Option<(i64, i32)>,
}

/// How much of a batch is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Header, checksum and every record, decompressed if need be, as Kafka does.
    Records,
    /// The header, and the checksum of one batch in a hundred.
    Sample,
}

/// Looks at a produced batch; the expensive part of appending it.
pub(crate) fn examine(bytes: Bytes, depth: Depth) -> Examined {
    let head = parse(&bytes);
    let mut examined = Examined { head, fault: None, walked: Walked::default(), bytes };
    let Ok(head) = &examined.head else { return examined };
    let outcome = match depth {
        // The checksum itself is the dice.
        Depth::Sample if !head.crc.is_multiple_of(100) => Ok(Walked::default()),
        Depth::Sample => check_crc(&examined.bytes, head).map(|()| Walked::default()),
        Depth::Records => check_crc(&examined.bytes, head).and_then(|()| {
            let body = examined.bytes.get(HEADER_LEN..).unwrap_or_default();
            match Compression::from_id(head.codec() as i8) {
                None => Err(Refusal::new(
                    ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
                    format!("Unknown compression type {}", head.codec()),
                )),
                Some(Compression::None) => check_records(body, head),
                Some(codec) if !codec.is_available() => Err(Refusal::new(
                    ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
                    format!("This broker was built without the feature `{codec}`"),
                )),
                Some(codec) => {
                    let mut inflated = Vec::new();
                    match Decompressor::new().decompress(codec, body, INFLATED_MAX, &mut inflated) {
                        Ok(()) => check_records(&inflated, head),
                        // Half of it may fit.
                        Err(CompressionError::TooLarge(cap)) => Err(Refusal::new(
                            ErrorCode::MESSAGE_TOO_LARGE,
                            format!(
                                "The record batch decompresses to more than {cap} bytes, the most that the embedded cluster takes"
                            ),
                        )),
                        Err(error) => Err(Refusal::new(ErrorCode::CORRUPT_MESSAGE, error.to_string())),
                    }
                }
            }
        }),
    };
    match outcome {
        Ok(walked) => examined.walked = walked,
        Err(fault) => examined.fault = Some(fault),
    }
    examined
}

impl Examined {
    /// Why the batch is refused if timestamps may lie so many milliseconds before and after `wall`. Names the records that
    /// lie farthest outside (KIP-467).
    pub(crate) fn refused_by_time(&self, wall: i64, before: i64, after: i64) -> Option<Refusal> {
        let (from, to) = (wall.saturating_sub(before), wall.saturating_add(after));
        let mut outside: Vec<(i64, i32)> = [self.walked.oldest, self.walked.youngest]
            .into_iter()
            .flatten()
            .filter(|(timestamp, _)| !(from..=to).contains(timestamp))
            .collect();
        outside.dedup();
        let why = |timestamp| {
            format!("Timestamp {timestamp} is out of range. The timestamp should be within [{from}, {to}]")
        };
        (!outside.is_empty()).then(|| Refusal {
            code: ErrorCode::INVALID_TIMESTAMP,
            message: "One or more records have been rejected due to invalid timestamp".to_owned(),
            records: outside.iter().map(|(timestamp, index)| (*index, why(*timestamp))).collect(),
        })
    }

    /// Why a compacted topic refuses the batch (KIP-467 names the records).
    pub(crate) fn refused_by_compaction(&self) -> Option<Refusal> {
        let why = "Compacted topic cannot accept message without key";
        (!self.walked.keyless.is_empty()).then(|| Refusal {
            code: ErrorCode::INVALID_RECORD,
            message: "One or more records have been rejected".to_owned(),
            records: self.walked.keyless.iter().map(|index| (*index, why.to_owned())).collect(),
        })
    }
}

impl Walked {
    fn note(&mut self, timestamp: i64, index: i32) {
        if timestamp == NO_TIMESTAMP {
            return;
        }
        if self.oldest.is_none_or(|(oldest, _)| timestamp < oldest) {
            self.oldest = Some((timestamp, index));
        }
        if self.youngest.is_none_or(|(youngest, _)| timestamp > youngest) {
            self.youngest = Some((timestamp, index));
        }
    }
}

/// Walks decompressed records: lengths and offset deltas.
pub(crate) fn check_records(body: &[u8], head: &BatchHead) -> Result<Walked, Refusal> {
    let mut walk = Walk { bytes: body, at: 0 };
    let mut walked = Walked::default();
    for index in 0..head.record_count {
        match walk.record() {
            Some(record) if record.offset_delta == i64::from(index) => {
                if !record.has_key {
                    walked.keyless.push(index);
                }
                walked.note(head.base_timestamp.wrapping_add(record.timestamp_delta), index);
            }
            Some(record) => {
                return Err(Refusal::new(
                    ErrorCode::INVALID_RECORD,
                    format!("Record {index} of the batch has the offset delta {}", record.offset_delta),
                ));
            }
            None => {
                return Err(Refusal::new(
                    ErrorCode::INVALID_RECORD,
                    format!("Record {index} of the batch is malformed"),
                ));
            }
        }
    }
    if walk.at != body.len() {
        return Err(Refusal::new(
            ErrorCode::INVALID_RECORD,
            "The record batch has bytes behind its last record",
        ));
    }
    Ok(walked)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

struct WalkedRecord {
    timestamp_delta: i64,
    offset_delta: i64,
    has_key: bool,
}

impl Walk<'_> {
    fn record(&mut self) -> Option<WalkedRecord> {
        let length = usize::try_from(self.varint()?).ok()?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        self.at = self.at.checked_add(1)?; // attributes
        let timestamp_delta = self.varint()?;
        let offset_delta = self.varint()?;
        let key = self.skip_bytes()?;
        self.skip_bytes()?;
        let headers = self.varint()?;
        if headers < 0 {
            return None;
        }
        for _ in 0..headers {
            if !self.skip_bytes()? {
                return None;
            }
            self.skip_bytes()?;
            if self.at > end {
                return None;
            }
        }
        (self.at == end).then_some(WalkedRecord { timestamp_delta, offset_delta, has_key: key })
    }

    /// True if the bytes are not null.
    fn skip_bytes(&mut self) -> Option<bool> {
        let length = self.varint()?;
        if length == -1 {
            return Some(false);
        }
        self.at = self.at.checked_add(usize::try_from(length).ok()?).filter(|at| *at <= self.bytes.len())?;
        Some(true)
    }

    fn varint(&mut self) -> Option<i64> {
        let mut value = 0u64;
        let mut shift = 0;
        loop {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(((value >> 1) as i64) ^ -((value & 1) as i64));
            }
            shift += 7;
            if shift > 63 {
                return None;
            }
        }
    }
}

/// A batch as the log keeps it: offsets assigned, bytes immutable and shared by the replicas.
#[derive(Debug)]
pub(crate) struct StoredBatch {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) head: BatchHead,
    /// The header with offset and epoch of this log, and the whole batch where it is small.
    front: Bytes,
    /// The records where they are a slice of the request that brought them.
    body: Bytes,
}

impl StoredBatch {
    /// Gives the batch `bytes`, which [`parse`] read as `head`, its place in a log.
    ///
    /// With `append_time` the batch's timestamps become the log's and the checksum is computed anew.
    pub(crate) fn place(
        bytes: &Bytes,
        mut head: BatchHead,
        base_offset: i64,
        leader_epoch: i32,
        append_time: Option<i64>,
    ) -> Self {
        // What a small batch came in may be shared with other requests, or be much larger: it would keep all of that.
        let copied = if bytes.len() <= LARGE_BYTES { bytes.len() } else { HEADER_LEN.min(bytes.len()) };
        let mut front = BytesMut::from(&bytes[..copied]);
        head.base_offset = base_offset;
        head.leader_epoch = leader_epoch;
        front[0..8].copy_from_slice(&base_offset.to_be_bytes());
        front[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
        if let Some(now) = append_time {
            head.attributes |= LOG_APPEND_TIME;
            head.max_timestamp = now;
            front[21..23].copy_from_slice(&head.attributes.to_be_bytes());
            front[35..43].copy_from_slice(&now.to_be_bytes());
            head.crc = crc32c::crc32c_append(
                crc32c::crc32c(&front[CHECKSUM_START..]),
                bytes.get(copied..).unwrap_or_default(),
            );
            front[17..21].copy_from_slice(&head.crc.to_be_bytes());
        }
        Self {
            base_offset,
            last_offset: base_offset + i64::from(head.last_offset_delta),
            leader_epoch,
            head,
            front: front.freeze(),
            body: bytes.slice(copied..),
        }
    }

    /// Bytes of the batch on the wire.
    pub(crate) fn len(&self) -> usize {
        self.front.len() + self.body.len()
    }

    /// The batch as slices for a vectored write; nothing is copied.
    pub(crate) fn slices(&self) -> impl Iterator<Item = Bytes> {
        [&self.front, &self.body].into_iter().filter(|slice| !slice.is_empty()).cloned()
    }

    /// The batch in one piece, copied.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.len());
        for slice in self.slices() {
            whole.extend_from_slice(&slice);
        }
        whole.freeze()
    }
}

#[cfg(test)]
pub(crate) mod tests;
