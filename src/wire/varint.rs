//! Variable-length integers: seven bits per byte, least significant first; signed ones in zigzag.

use bytes::BufMut;

/// Appends `value` in one to five bytes.
#[inline]
pub fn put_uvarint(buf: &mut impl BufMut, value: u32) {
    put(buf, value.into());
}

/// Appends `value` in zigzag, in one to five bytes.
#[inline]
pub fn put_varint(buf: &mut impl BufMut, value: i32) {
    put(buf, zigzag32(value).into());
}

/// Appends `value` in zigzag, in one to ten bytes.
#[inline]
pub fn put_varlong(buf: &mut impl BufMut, value: i64) {
    put(buf, zigzag64(value));
}

/// Records are full of small numbers: one or two bytes are one write.
#[inline(always)]
fn put(buf: &mut impl BufMut, value: u64) {
    if value < 1 << 7 {
        buf.put_u8(value as u8);
    } else if value < 1 << 14 {
        buf.put_slice(&[value as u8 | 0x80, (value >> 7) as u8]);
    } else {
        put_long(buf, value);
    }
}

#[inline(never)]
fn put_long(buf: &mut impl BufMut, mut value: u64) {
    while value >= 1 << 7 {
        buf.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buf.put_u8(value as u8);
}

/// Bytes that [`put_uvarint`] writes: 1 to 5.
#[inline]
pub const fn uvarint_len(value: u32) -> usize {
    len(value as u64)
}

/// Bytes that [`put_varint`] writes: 1 to 5.
#[inline]
pub const fn varint_len(value: i32) -> usize {
    len(zigzag32(value) as u64)
}

/// Bytes that [`put_varlong`] writes: 1 to 10.
#[inline]
pub const fn varlong_len(value: i64) -> usize {
    len(zigzag64(value))
}

#[inline]
const fn len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    // Up to 64 bits this is bits / 7, rounded up.
    (9 * bits + 64) / 64
}

const fn zigzag32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

const fn zigzag64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Undoes zigzag.
#[inline]
pub(crate) const fn unzigzag32(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

/// Undoes zigzag.
#[inline]
pub(crate) const fn unzigzag64(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::Reader;

    #[test]
    fn every_length_boundary_round_trips() {
        for bit in 0..64 {
            for near in [-1i64, 0, 1] {
                let value = (1i64 << bit).wrapping_add(near);
                for value in [value, value.wrapping_neg(), i64::MIN, i64::MAX, 0] {
                    let mut long = Vec::new();
                    put_varlong(&mut long, value);
                    assert_eq!(long.len(), varlong_len(value), "{value}");
                    assert_eq!(Reader::new(Bytes::from(long)).varlong(), Ok(value));

                    let value = value as i32;
                    let mut short = Vec::new();
                    put_varint(&mut short, value);
                    assert_eq!(short.len(), varint_len(value), "{value}");
                    assert_eq!(Reader::new(Bytes::from(short)).varint(), Ok(value));

                    let value = value as u32;
                    let mut unsigned = Vec::new();
                    put_uvarint(&mut unsigned, value);
                    assert_eq!(unsigned.len(), uvarint_len(value), "{value}");
                    assert_eq!(Reader::new(Bytes::from(unsigned)).uvarint(), Ok(value));
                }
            }
        }
    }

    #[test]
    fn known_bytes() {
        let vectors: [(i32, &[u8]); 8] = [
            (0, &[0]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[126]),
            (64, &[0x80, 1]),
            (-65, &[0x81, 1]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ];
        for (value, bytes) in vectors {
            let mut buf = Vec::new();
            put_varint(&mut buf, value);
            assert_eq!(buf, bytes);
        }
    }
}
