//! The replay mode: every partition serves prepared batches without end, at the price of a header per batch.

use bytes::{BufMut, Bytes, BytesMut};

use super::log::HEADER_LEN;

/// Records per prepared batch.
const RECORDS: i32 = 2000;
/// Bytes of each record's value.
const VALUE_LEN: usize = 100;
/// Where every partition claims to end.
pub(crate) const END: i64 = 1 << 60;

/// A prepared batch; its offsets are written when it is served.
#[derive(Debug)]
pub(crate) struct Replay {
    header: [u8; HEADER_LEN],
    body: Bytes,
}

impl Default for Replay {
    fn default() -> Self {
        let mut body = BytesMut::new();
        let mut record = BytesMut::new();
        for index in 0..RECORDS {
            record.clear();
            record.put_u8(0); // attributes
            put_varint(&mut record, 0); // timestamp delta
            put_varint(&mut record, index);
            put_varint(&mut record, 8);
            record.put_slice(format!("{index:08}").as_bytes());
            put_varint(&mut record, VALUE_LEN as i32);
            record.extend((0..VALUE_LEN).map(|at| b'a' + (at as u8 % 26)));
            put_varint(&mut record, 0); // headers
            put_varint(&mut body, record.len() as i32);
            body.put_slice(&record);
        }
        let mut header = BytesMut::with_capacity(HEADER_LEN);
        header.put_i64(0);
        header.put_i32((HEADER_LEN - 12 + body.len()) as i32);
        header.put_i32(0);
        header.put_u8(2);
        header.put_u32(0);
        header.put_i16(0); // attributes
        header.put_i32(RECORDS - 1);
        header.put_i64(1_700_000_000_000);
        header.put_i64(1_700_000_000_000);
        header.put_i64(-1);
        header.put_i16(-1);
        header.put_i32(-1);
        header.put_i32(RECORDS);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[21..]), &body);
        header[17..21].copy_from_slice(&crc.to_be_bytes());
        let mut fixed = [0; HEADER_LEN];
        fixed.copy_from_slice(&header);
        Self { header: fixed, body: body.freeze() }
    }
}

impl Replay {
    /// Batches from the one that holds `offset`, up to `max_bytes` but at least one.
    pub(crate) fn read(&self, offset: i64, max_bytes: usize) -> Vec<Bytes> {
        let size = HEADER_LEN + self.body.len();
        let count = (max_bytes / size).max(1);
        let mut base = offset - offset.rem_euclid(i64::from(RECORDS));
        let mut heads = BytesMut::with_capacity(count * HEADER_LEN);
        let mut slices = Vec::with_capacity(count * 2);
        for _ in 0..count {
            heads.put_slice(&self.header);
            heads[..8].copy_from_slice(&base.to_be_bytes());
            slices.push(heads.split().freeze());
            slices.push(self.body.clone());
            base += i64::from(RECORDS);
        }
        slices
    }
}

fn put_varint(buffer: &mut BytesMut, value: i32) {
    let mut rest = ((value << 1) ^ (value >> 31)) as u32;
    while rest >= 0x80 {
        buffer.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buffer.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::log::{check_crc, check_records, parse};

    #[test]
    fn prepared_batches_are_valid_wherever_they_begin() {
        let replay = Replay::default();
        let slices = replay.read(4321, 1_000_000);
        assert!(slices.len() >= 4);
        for (at, pair) in slices.chunks(2).enumerate() {
            let whole = pair.concat();
            let head = parse(&whole).unwrap();
            assert_eq!(head.base_offset, 4000 + at as i64 * i64::from(RECORDS));
            check_crc(&whole, &head).unwrap();
            assert!(check_records(&whole[HEADER_LEN..], &head).unwrap().keyless.is_empty());
        }
    }
}
