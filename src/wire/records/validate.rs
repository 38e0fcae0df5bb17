//! What a broker checks before it appends a produced batch.

use bytes::Bytes;

use super::header::TimestampType;
use super::record::RecordIter;
use super::{BatchError, BatchFault, BatchIter, RawBatch};
use crate::wire::compression::{Compression, Decompressor};

/// How thoroughly a produced batch is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Structure of the header only.
    Header,
    /// Header and checksum.
    Checksum,
    /// Header, checksum and every record, inflated to at most this many bytes.
    Records(usize),
}

/// Checks what a producer sent for one partition: exactly one batch of format 2 with consecutive offsets, no control
/// batch, no log append time, sequence and transaction fields that go together.
///
/// # Errors
///
/// The first rule that is broken; [`BatchError::error_code`] is the answer that Kafka gives.
pub fn validate_produced(
    records: &Bytes,
    depth: Depth,
    with: &mut Decompressor,
) -> Result<RawBatch, BatchError> {
    let mut batches = BatchIter::new(records.clone()).check_crc(depth != Depth::Header);
    let Some(batch) = batches.next().transpose()? else {
        let fault =
            if records.is_empty() { BatchFault::NotOneBatch } else { BatchFault::ShortHeader(records.len()) };
        return Err(BatchError::new(fault, None, 0));
    };
    let header = &batch.header;
    let refuse = |fault| Err(BatchError::new(fault, Some(header.base_offset), 0));
    if batches.position() != records.len() {
        return refuse(BatchFault::NotOneBatch);
    }
    if header.attributes.is_control() {
        return refuse(BatchFault::Refused("producers must not write control batches"));
    }
    if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
        return refuse(BatchFault::Refused("producers must not set log append time"));
    }
    if header.record_count < 1 {
        return refuse(BatchFault::RecordCount { count: header.record_count, bytes: batch.bytes.len() });
    }
    if header.last_offset_delta != header.record_count - 1 {
        return refuse(BatchFault::Refused("the last offset delta is not the record count less one"));
    }
    if header.producer_id >= 0 && (header.producer_epoch < 0 || header.base_sequence < 0) {
        return refuse(BatchFault::Refused("a producer id needs an epoch and a sequence"));
    }
    if header.attributes.is_transactional() && header.producer_id < 0 {
        return refuse(BatchFault::Refused("a transactional batch needs a producer id"));
    }
    let codec = batch.compression()?;
    if let Depth::Records(cap) = depth {
        let inflated;
        let data = if codec == Compression::None {
            &batch.bytes[super::HEADER_LEN..]
        } else {
            let mut out = Vec::new();
            batch.decompress(with, cap, &mut out)?;
            inflated = out;
            &inflated
        };
        // Offsets grow from 0 to the count less one, so they are consecutive.
        for record in RecordIter::new(header, data, 0..data.len())? {
            record?;
        }
    }
    Ok(batch)
}
