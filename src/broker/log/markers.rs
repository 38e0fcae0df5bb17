//! Control batches that end a transaction in one partition (KIP-98): how the broker writes them and reads them back.

use bytes::{BufMut, Bytes, BytesMut};

use super::{HEADER_LEN, StoredBatch};

/// A transactional control batch.
const ATTRIBUTES: i16 = 0x30;
/// Type of a control record's key.
const ABORT: i16 = 0;
const COMMIT: i16 = 1;
/// Where type and coordinator epoch lie in the record: its length, attributes, two deltas and the length of the key are one
/// byte each, as is that of the value.
const TYPE_AT: usize = HEADER_LEN + 7;
const EPOCH_AT: usize = HEADER_LEN + 12;

/// How a transaction ended in a partition, and by which coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) commit: bool,
    pub(crate) coordinator_epoch: i32,
}

impl Marker {
    /// The control batch of a producer, without its place in a log.
    pub(crate) fn write(self, producer_id: i64, producer_epoch: i16, timestamp: i64) -> Bytes {
        let mut record = BytesMut::with_capacity(18);
        record.put_slice(&[32, 0, 0, 0, 8]); // length 16, attributes, timestamp delta, offset delta, key of 4 bytes
        record.put_i16(0); // version of the key
        record.put_i16(if self.commit { COMMIT } else { ABORT });
        record.put_u8(12); // value of 6 bytes
        record.put_i16(0); // version of the value
        record.put_i32(self.coordinator_epoch);
        record.put_u8(0); // headers

        let mut batch = BytesMut::with_capacity(HEADER_LEN + record.len());
        batch.put_i64(0);
        batch.put_i32((HEADER_LEN - 12 + record.len()) as i32);
        batch.put_i32(-1);
        batch.put_u8(2);
        batch.put_u32(0);
        batch.put_i16(ATTRIBUTES);
        batch.put_i32(0);
        batch.put_i64(timestamp);
        batch.put_i64(timestamp);
        batch.put_i64(producer_id);
        batch.put_i16(producer_epoch);
        batch.put_i32(-1);
        batch.put_i32(1);
        batch.put_slice(&record);
        let crc = crc32c::crc32c(batch.get(21..).unwrap_or_default());
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch.freeze()
    }

    /// What a stored control batch says; `None` for one with records.
    pub(crate) fn read(batch: &StoredBatch) -> Option<Self> {
        if !batch.head.is_control() {
            return None;
        }
        let bytes = batch.to_bytes();
        let kind = i16::from_be_bytes(bytes.get(TYPE_AT..TYPE_AT + 2)?.try_into().ok()?);
        let coordinator_epoch = i32::from_be_bytes(bytes.get(EPOCH_AT..EPOCH_AT + 4)?.try_into().ok()?);
        Some(Self { commit: kind == COMMIT, coordinator_epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::log::{check_crc, check_records, parse};

    #[test]
    fn markers_are_batches_that_read_back() {
        for marker in [
            Marker { commit: true, coordinator_epoch: 7 },
            Marker { commit: false, coordinator_epoch: i32::MAX },
        ] {
            let bytes = marker.write(4711, 3, 1_700_000_000_000);
            let head = parse(&bytes).unwrap();
            check_crc(&bytes, &head).unwrap();
            check_records(&bytes[HEADER_LEN..], &head).unwrap();
            assert!(head.is_control() && head.is_transactional());
            assert_eq!((head.producer_id, head.producer_epoch, head.base_sequence), (4711, 3, -1));
            let stored = StoredBatch::place(&bytes, head, 12, 1, None);
            assert_eq!(Marker::read(&stored), Some(marker));
        }
    }
}
