//! Zigzag numbers of variable length inside records, over plain slices: this is the hot path of both directions.

use super::RecordFault;

/// Bytes of the longest run of numbers in a record: length, attributes, timestamp delta, offset delta, null key, null
/// value, header count, length of a header's key.
const PREFIX_MAX: usize = 5 + 1 + 10 + 5 + 1 + 1 + 5 + 5;

/// Bytes that `value` takes.
#[inline]
pub(super) fn varint_len(value: i32) -> usize {
    let zigzag = ((value << 1) ^ (value >> 31)) as u32;
    // 7 bits per byte, at least one byte: ceil(bits / 7).
    ((38 - (zigzag | 1).leading_zeros()) / 7) as usize
}

/// Bytes that `value` takes.
#[inline]
pub(super) fn varlong_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    ((70 - (zigzag | 1).leading_zeros()) / 7) as usize
}

/// Numbers gathered on the stack, so that the buffer is extended once for all of them.
pub(super) struct Prefix {
    bytes: [u8; PREFIX_MAX],
    len: usize,
}

impl Prefix {
    #[inline]
    pub(super) fn new() -> Self {
        Self { bytes: [0; PREFIX_MAX], len: 0 }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    #[inline]
    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline]
    pub(super) fn varint(&mut self, value: i32) {
        let mut zigzag = ((value << 1) ^ (value >> 31)) as u32;
        while zigzag >= 0x80 {
            self.byte(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        self.byte(zigzag as u8);
    }

    #[inline]
    pub(super) fn varlong(&mut self, value: i64) {
        let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
        while zigzag >= 0x80 {
            self.byte(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        self.byte(zigzag as u8);
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Cursor over the bytes of records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan<'a> {
    pub(super) data: &'a [u8],
    pub(super) pos: usize,
}

impl<'a> Scan<'a> {
    #[inline]
    pub(super) fn new(data: &'a [u8], pos: usize) -> Self {
        Self { data, pos }
    }

    #[inline]
    pub(super) fn remaining(&self) -> usize {
        self.data.len().saturating_sub(self.pos)
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, count: usize) -> Result<(), RecordFault> {
        if count > self.remaining() {
            return Err(RecordFault::Truncated);
        }
        self.pos += count;
        Ok(())
    }

    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], RecordFault> {
        let start = self.pos;
        self.skip(count)?;
        Ok(&self.data[start..self.pos])
    }

    #[inline(always)]
    pub(super) fn varint(&mut self) -> Result<i32, RecordFault> {
        match self.data.get(self.pos) {
            Some(&byte) if byte < 0x80 => {
                self.pos += 1;
                Ok(i32::from(byte >> 1) ^ -i32::from(byte & 1))
            }
            Some(_) => self.varint_long(),
            None => Err(RecordFault::Truncated),
        }
    }

    #[inline]
    fn varint_long(&mut self) -> Result<i32, RecordFault> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = *self.data.get(self.pos).ok_or(RecordFault::Truncated)?;
            self.pos += 1;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                if shift == 28 && byte > 0x0f {
                    return Err(RecordFault::Varint);
                }
                return Ok((value >> 1) as i32 ^ -((value & 1) as i32));
            }
        }
        Err(RecordFault::Varint)
    }

    #[inline]
    pub(super) fn varlong(&mut self) -> Result<i64, RecordFault> {
        let mut value = 0u64;
        let mut shift = 0;
        while shift < 70 {
            let byte = *self.data.get(self.pos).ok_or(RecordFault::Truncated)?;
            self.pos += 1;
            if shift == 63 && byte > 1 {
                return Err(RecordFault::Varint);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
            shift += 7;
        }
        Err(RecordFault::Varint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: i32) -> Vec<u8> {
        let mut prefix = Prefix::new();
        prefix.varint(value);
        prefix.as_slice().to_vec()
    }

    #[test]
    fn varints_match_known_bytes() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (63, &[0x7e]),
            (64, &[0x80, 0x01]),
            (-64, &[0x7f]),
            (-65, &[0x81, 0x01]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            assert_eq!(written(value), bytes, "{value}");
            assert_eq!(varint_len(value), bytes.len(), "{value}");
            assert_eq!(Scan::new(bytes, 0).varint(), Ok(value));
        }
    }

    #[test]
    fn lengths_and_values_agree_around_every_power_of_two() {
        for bit in 0..64 {
            for near in -1i64..=1 {
                for value in
                    [(1i64 << bit).wrapping_add(near), (1i64 << bit).wrapping_add(near).wrapping_neg()]
                {
                    let mut prefix = Prefix::new();
                    prefix.varlong(value);
                    assert_eq!(prefix.as_slice().len(), varlong_len(value));
                    assert_eq!(Scan::new(prefix.as_slice(), 0).varlong(), Ok(value));
                    let small = value as i32;
                    assert_eq!(written(small).len(), varint_len(small));
                    assert_eq!(Scan::new(&written(small), 0).varint(), Ok(small));
                }
            }
        }
    }

    #[test]
    fn overlong_numbers_are_refused() {
        assert_eq!(Scan::new(&[0xff, 0xff, 0xff, 0xff, 0x1f], 0).varint(), Err(RecordFault::Varint));
        assert_eq!(Scan::new(&[0x80; 6], 0).varint(), Err(RecordFault::Varint));
        assert_eq!(Scan::new(&[0x80; 4], 0).varint(), Err(RecordFault::Truncated));
        assert_eq!(Scan::new(&[0xff; 11], 0).varlong(), Err(RecordFault::Varint));
        assert_eq!(
            Scan::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], 0).varlong(),
            Err(RecordFault::Varint)
        );
    }
}
