//! A cursor over the bytes of records: the hot path of reading.

use super::RecordFault;
use crate::wire::varint::{unzigzag32, unzigzag64};

/// Cursor over the bytes of records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan<'a> {
    rest: &'a [u8],
    /// Position of the end of `rest` in the buffer.
    end: usize,
}

impl<'a> Scan<'a> {
    /// A cursor at the start of `bytes`, which end at position `end` of their buffer.
    #[inline]
    pub(super) fn new(bytes: &'a [u8], end: usize) -> Self {
        Self { rest: bytes, end }
    }

    /// Position in the buffer.
    #[inline]
    pub(super) fn pos(&self) -> usize {
        self.end - self.rest.len()
    }

    #[inline]
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, count: usize) -> Result<(), RecordFault> {
        self.rest = self.rest.get(count..).ok_or(RecordFault::Truncated)?;
        Ok(())
    }

    #[inline(always)]
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], RecordFault> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(RecordFault::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline(always)]
    pub(super) fn varint(&mut self) -> Result<i32, RecordFault> {
        self.number(5, 0x0f).map(|value| unzigzag32(value as u32))
    }

    #[inline(always)]
    pub(super) fn varlong(&mut self) -> Result<i64, RecordFault> {
        self.number(10, 0x01).map(unzigzag64)
    }

    /// A length in front of bytes; `None` is that of null, -1.
    #[inline(always)]
    pub(super) fn length(&mut self) -> Result<Option<usize>, RecordFault> {
        match self.number(5, 0x0f)? {
            zigzag if zigzag & 1 == 0 => Ok(Some((zigzag >> 1) as usize)),
            1 => Ok(None),
            _ => Err(RecordFault::Length),
        }
    }

    /// A length in front of bytes that cannot be null.
    #[inline(always)]
    pub(super) fn length_not_null(&mut self) -> Result<usize, RecordFault> {
        self.length()?.ok_or(RecordFault::Length)
    }

    /// A number of at most `bytes` bytes, the last of which is at most `last`.
    #[inline(always)]
    fn number(&mut self, bytes: usize, last: u8) -> Result<u64, RecordFault> {
        // Nearly all numbers have one or two bytes.
        let (value, rest) = match *self.rest {
            [a, ref rest @ ..] if a < 0x80 => (a.into(), rest),
            [a, b, ref rest @ ..] if b < 0x80 => (u64::from(a & 0x7f) | u64::from(b) << 7, rest),
            _ => long(self.rest, bytes, last)?,
        };
        self.rest = rest;
        Ok(value)
    }
}

#[inline(never)]
fn long(mut rest: &[u8], bytes: usize, last: u8) -> Result<(u64, &[u8]), RecordFault> {
    let mut value = 0;
    for index in 0..bytes {
        let (&byte, after) = rest.split_first().ok_or(RecordFault::Truncated)?;
        rest = after;
        if index + 1 == bytes && byte > last {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok((value, rest));
        }
    }
    Err(RecordFault::Varint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::varint::{put_varint, put_varlong};

    fn scan(bytes: &[u8]) -> Scan<'_> {
        Scan::new(bytes, bytes.len())
    }

    #[test]
    fn reads_what_is_written_around_every_power_of_two() {
        for bit in 0..64 {
            for near in -1i64..=1 {
                let value = (1i64 << bit).wrapping_add(near);
                for value in [value, value.wrapping_neg()] {
                    let mut bytes = Vec::new();
                    put_varlong(&mut bytes, value);
                    assert_eq!(scan(&bytes).varlong(), Ok(value));
                    bytes.clear();
                    put_varint(&mut bytes, value as i32);
                    assert_eq!(scan(&bytes).varint(), Ok(value as i32));
                    bytes.pop();
                    assert_eq!(scan(&bytes).varint(), Err(RecordFault::Truncated));
                }
            }
        }
    }

    #[test]
    fn overlong_numbers_are_refused() {
        assert_eq!(scan(&[0xff, 0xff, 0xff, 0xff, 0x1f]).varint(), Err(RecordFault::Varint));
        assert_eq!(scan(&[0x80; 6]).varint(), Err(RecordFault::Varint));
        assert_eq!(scan(&[0x80; 4]).varint(), Err(RecordFault::Truncated));
        assert_eq!(scan(&[0xff; 11]).varlong(), Err(RecordFault::Varint));
        assert_eq!(
            scan(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).varlong(),
            Err(RecordFault::Varint)
        );
    }
}
