//! Control batches: markers that end a transaction in a partition.

use super::record::RecordRef;

/// What a control record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlRecord {
    /// The producer's transaction was aborted: its records since its first offset do not count.
    Abort {
        /// Epoch of the transaction coordinator that wrote the marker.
        coordinator_epoch: i32,
    },
    /// The producer's transaction was committed.
    Commit {
        /// Epoch of the transaction coordinator that wrote the marker.
        coordinator_epoch: i32,
    },
    /// A type that concerns brokers only or that does not exist yet, or no valid key: to be stepped over.
    Other,
}

impl ControlRecord {
    /// Reads the record of a control batch. Never fails: what is not a marker is [`Other`](Self::Other).
    pub fn parse(record: &RecordRef<'_>) -> Self {
        let kind = match record.key {
            // version, type; later versions may append fields
            Some(&[_, _, high, low, ..]) => i16::from_be_bytes([high, low]),
            _ => return Self::Other,
        };
        let coordinator_epoch = match record.value {
            Some(&[_, _, a, b, c, d, ..]) => i32::from_be_bytes([a, b, c, d]),
            _ => -1,
        };
        match kind {
            0 => Self::Abort { coordinator_epoch },
            1 => Self::Commit { coordinator_epoch },
            _ => Self::Other,
        }
    }
}

/// A whole control batch, header included, as a leader appends it at the end of a transaction.
#[cfg(test)]
pub(crate) fn control_batch(marker: ControlRecord, at: &ControlBatch) -> bytes::Bytes {
    use super::writer::BatchWriter;
    use crate::wire::compression::Compression;

    let (kind, coordinator_epoch) = match marker {
        ControlRecord::Abort { coordinator_epoch } => (0i16, coordinator_epoch),
        ControlRecord::Commit { coordinator_epoch } => (1, coordinator_epoch),
        ControlRecord::Other => (-1, -1),
    };
    let mut key = [0; 4];
    key[2..].copy_from_slice(&kind.to_be_bytes());
    let mut value = [0; 6];
    value[2..].copy_from_slice(&coordinator_epoch.to_be_bytes());
    let mut writer = BatchWriter::with_capacity(32);
    let none = std::iter::empty;
    if let Ok(size) = writer.measure(at.timestamp, Some(&key), Some(&value), none()) {
        writer.append(size, at.timestamp, Some(&key), Some(&value), none());
    }
    let (body, meta) = writer.finish();
    let mut header = meta.header(Compression::None);
    header.base_offset = at.base_offset;
    header.partition_leader_epoch = at.partition_leader_epoch;
    header.attributes = header.attributes.with_transactional(true).with_control(true);
    header.producer_id = at.producer_id;
    header.producer_epoch = at.producer_epoch;
    let mut batch = bytes::BytesMut::with_capacity(super::HEADER_LEN + body.len());
    batch.extend_from_slice(&header.encode(&body));
    batch.extend_from_slice(&body);
    batch.freeze()
}

/// Where and for whom a control batch is written.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlBatch {
    /// Offset of the marker.
    pub(crate) base_offset: i64,
    /// Epoch of the leader that writes it.
    pub(crate) partition_leader_epoch: i32,
    /// The producer whose transaction ends.
    pub(crate) producer_id: i64,
    /// Its epoch.
    pub(crate) producer_epoch: i16,
    /// Now, in milliseconds.
    pub(crate) timestamp: i64,
}
