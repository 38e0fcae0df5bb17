//! A cursor over received bytes. Nothing it reads makes it panic, and it reserves memory only for bytes that are
//! there.

use bytes::Bytes;

use super::codec::Read;
use super::error::{Fault, Step};
use super::varint::{unzigzag32, unzigzag64};
use super::{Array, DecodeErrorKind, Element, Str, Uuid};

/// Most elements of one array, whatever the frame's size.
pub const ARRAY_LEN_MAX: usize = 1_000_000;

/// Most elements for which memory is reserved before they are read.
const RESERVE_MAX: usize = 1024;

type Result<T, E = DecodeErrorKind> = std::result::Result<T, E>;

/// A cursor over [`Bytes`]. A getter that fails leaves the cursor where it was, so that [`offset`](Self::offset)
/// names the value that was refused.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
    /// `at <= end <= bytes.len()`
    at: usize,
    end: usize,
}

macro_rules! numbers {
    ($($name:ident: $type:ty),*) => {$(
        #[doc = concat!("The next ", stringify!($type), ", big-endian.")]
        #[inline]
        pub fn $name(&mut self) -> Result<$type> {
            Ok(<$type>::from_be_bytes(*self.chunk()?))
        }
    )*};
}

impl Reader {
    /// A cursor at the start of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        let end = bytes.len();
        Self { bytes, at: 0, end }
    }

    /// Bytes before the cursor.
    #[inline]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Bytes after the cursor.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.end - self.at
    }

    /// What is left, without moving the cursor.
    pub fn rest(&self) -> Bytes {
        self.bytes.slice(self.at..self.end)
    }

    /// Fails if bytes are left.
    pub fn finish(&self) -> Result<()> {
        if self.at == self.end { Ok(()) } else { Err(DecodeErrorKind::TrailingBytes(self.remaining())) }
    }

    #[cold]
    fn short(&self, needed: usize) -> DecodeErrorKind {
        DecodeErrorKind::UnexpectedEnd { needed, left: self.remaining() }
    }

    #[inline]
    fn unread(&self) -> &[u8] {
        &self.bytes[self.at..self.end]
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<&[u8; N]> {
        match self.bytes[self.at..self.end].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(chunk)
            }
            None => Err(self.short(N)),
        }
    }

    numbers!(i8: i8, u8: u8, i16: i16, u16: u16, i32: i32, u32: u32, i64: i64, u64: u64, f64: f64);

    /// The next byte; everything but zero is true.
    #[inline]
    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.u8()? != 0)
    }

    /// The next 16 bytes as an id.
    #[inline]
    pub fn uuid(&mut self) -> Result<Uuid> {
        Ok(Uuid(*self.chunk()?))
    }

    /// An unsigned variable-length integer of at most five bytes.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32> {
        let mut value = 0u32;
        for (position, &byte) in self.unread().iter().take(5).enumerate() {
            if position == 4 && byte > 0x0f {
                return Err(DecodeErrorKind::VarintTooLong);
            }
            value |= u32::from(byte & 0x7f) << (7 * position);
            if byte < 0x80 {
                self.at += position + 1;
                return Ok(value);
            }
        }
        Err(self.short(self.remaining() + 1))
    }

    /// A signed variable-length integer (zigzag) of at most five bytes.
    #[inline]
    pub fn varint(&mut self) -> Result<i32> {
        self.uvarint().map(unzigzag32)
    }

    /// A signed variable-length integer (zigzag) of at most ten bytes.
    #[inline]
    pub fn varlong(&mut self) -> Result<i64> {
        let mut value = 0u64;
        for (position, &byte) in self.unread().iter().take(10).enumerate() {
            if position == 9 && byte > 1 {
                return Err(DecodeErrorKind::VarintTooLong);
            }
            value |= u64::from(byte & 0x7f) << (7 * position);
            if byte < 0x80 {
                self.at += position + 1;
                return Ok(unzigzag64(value));
            }
        }
        Err(self.short(self.remaining() + 1))
    }

    /// The next `len` bytes, sharing the buffer.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<Bytes> {
        if len > self.remaining() {
            return Err(self.short(len));
        }
        let start = self.at;
        self.at += len;
        Ok(self.bytes.slice(start..self.at))
    }

    /// Moves the cursor over `len` bytes.
    #[inline]
    pub fn skip(&mut self, len: usize) -> Result<()> {
        if len > self.remaining() {
            return Err(self.short(len));
        }
        self.at += len;
        Ok(())
    }

    /// Runs a getter that may read several values; if it fails, the cursor stays before the first.
    #[inline]
    fn whole<T>(&mut self, get: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let start = self.at;
        let result = get(self);
        if result.is_err() {
            self.at = start;
        }
        result
    }

    /// A length, -1 being null: int16 (classic strings).
    fn len16(&mut self) -> Result<Option<usize>> {
        let len = self.i16()?;
        match len {
            -1 => Ok(None),
            0.. => Ok(Some(len as usize)),
            _ => Err(DecodeErrorKind::NegativeLength(len.into())),
        }
    }

    /// A length, -1 being null: int32 (classic bytes and arrays), or an unsigned varint of length + 1 (compact).
    fn len(&mut self, compact: bool) -> Result<Option<usize>> {
        if compact {
            return Ok((self.uvarint()? as usize).checked_sub(1));
        }
        let len = self.i32()?;
        match len {
            -1 => Ok(None),
            0.. => Ok(Some(len as usize)),
            _ => Err(DecodeErrorKind::NegativeLength(len.into())),
        }
    }

    /// A string or null; `compact` is the form of flexible versions.
    pub fn nullable_str(&mut self, compact: bool) -> Result<Option<Str>> {
        self.whole(|r| {
            let len = if compact { r.len(true)? } else { r.len16()? };
            let Some(len) = len else { return Ok(None) };
            Str::try_from(r.take(len)?).map(Some).map_err(|_| DecodeErrorKind::InvalidUtf8)
        })
    }

    /// A string; `compact` is the form of flexible versions.
    pub fn str(&mut self, compact: bool) -> Result<Str> {
        self.whole(|r| r.nullable_str(compact)?.ok_or(DecodeErrorKind::UnexpectedNull))
    }

    /// Bytes or null; `compact` is the form of flexible versions.
    pub fn nullable_bytes(&mut self, compact: bool) -> Result<Option<Bytes>> {
        self.whole(|r| match r.len(compact)? {
            Some(len) => r.take(len).map(Some),
            None => Ok(None),
        })
    }

    /// Bytes; `compact` is the form of flexible versions.
    pub fn bytes(&mut self, compact: bool) -> Result<Bytes> {
        self.whole(|r| r.nullable_bytes(compact)?.ok_or(DecodeErrorKind::UnexpectedNull))
    }

    /// The element count of an array or null. Refuses counts above [`ARRAY_LEN_MAX`], and above what the bytes that
    /// are left can hold if each element takes `element_min` bytes.
    pub fn array_len(&mut self, compact: bool, element_min: usize) -> Result<Option<usize>> {
        self.whole(|r| {
            let Some(count) = r.len(compact)? else { return Ok(None) };
            let limit = (r.remaining() / element_min.max(1)).min(ARRAY_LEN_MAX);
            if count > limit {
                return Err(DecodeErrorKind::TooManyElements { count: count as u64, limit: limit as u64 });
            }
            Ok(Some(count))
        })
    }

    /// An array of fixed-size values or null.
    pub fn nullable_array<T: Element>(&mut self, compact: bool) -> Result<Option<Array<T>>> {
        let Some(count) = self.array_len(compact, T::SIZE)? else { return Ok(None) };
        self.take(count * T::SIZE).map(|bytes| Some(Array::from_wire(bytes)))
    }

    /// An array of fixed-size values.
    pub fn array<T: Element>(&mut self, compact: bool) -> Result<Array<T>> {
        self.whole(|r| r.nullable_array(compact)?.ok_or(DecodeErrorKind::UnexpectedNull))
    }

    /// An array of values that `element` reads, or null.
    pub(crate) fn nullable_vec<T, E: Into<Fault<DecodeErrorKind>>>(
        &mut self,
        compact: bool,
        element_min: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, E>,
    ) -> Result<Option<Vec<T>>, Fault<DecodeErrorKind>> {
        let Some(count) = self.array_len(compact, element_min)? else { return Ok(None) };
        let mut elements = Vec::with_capacity(count.min(RESERVE_MAX));
        for index in 0..count {
            match element(self) {
                Ok(value) => elements.push(value),
                Err(error) => return Err(error.into().within(Step::Index(index))),
            }
        }
        Ok(Some(elements))
    }

    /// An array of structures, or null.
    pub(crate) fn nullable_structs<T: Read>(
        &mut self,
        compact: bool,
        version: i16,
    ) -> Result<Option<Vec<T>>, Fault<DecodeErrorKind>> {
        self.nullable_vec(compact, T::LEN_MIN, |r| T::read(r, version))
    }

    /// An array of structures.
    pub(crate) fn structs<T: Read>(
        &mut self,
        compact: bool,
        version: i16,
    ) -> Result<Vec<T>, Fault<DecodeErrorKind>> {
        not_null(self.nullable_structs(compact, version)?)
    }

    /// An array of strings, or null.
    pub(crate) fn nullable_strs(
        &mut self,
        compact: bool,
    ) -> Result<Option<Vec<Str>>, Fault<DecodeErrorKind>> {
        self.nullable_vec(compact, if compact { 1 } else { 2 }, |r| r.str(compact))
    }

    /// An array of strings.
    pub(crate) fn strs(&mut self, compact: bool) -> Result<Vec<Str>, Fault<DecodeErrorKind>> {
        not_null(self.nullable_strs(compact)?)
    }

    /// A structure preceded by a byte that says whether it is there: negative for null.
    pub(crate) fn nullable_struct<T: Read>(
        &mut self,
        version: i16,
    ) -> Result<Option<T>, Fault<DecodeErrorKind>> {
        if self.i8()? < 0 { Ok(None) } else { T::read(self, version).map(Some) }
    }

    /// A section of tagged fields: calls `field` with each tag, the cursor seeing the field's bytes alone. `field`
    /// returns false for a tag it does not know, which is then skipped.
    pub(crate) fn tagged(
        &mut self,
        mut field: impl FnMut(&mut Self, u32) -> Result<bool, Fault<DecodeErrorKind>>,
    ) -> Result<(), Fault<DecodeErrorKind>> {
        let start = self.at;
        let count = self.uvarint().map_err(unnamed)? as usize;
        let limit = self.remaining() / 2;
        if count > limit {
            self.at = start;
            return Err(unnamed(DecodeErrorKind::TooManyElements {
                count: count as u64,
                limit: limit as u64,
            }));
        }
        let mut least = 0;
        for _ in 0..count {
            let start = self.at;
            let tag = self.uvarint().map_err(unnamed)?;
            if tag < least {
                self.at = start;
                return Err(unnamed(DecodeErrorKind::TagOrder(tag)));
            }
            least = tag.checked_add(1).ok_or_else(|| unnamed(DecodeErrorKind::TagOrder(tag)))?;
            let start = self.at;
            let len = self.uvarint().map_err(unnamed)? as usize;
            if len > self.remaining() {
                let error = self.short(len);
                self.at = start;
                return Err(unnamed(error));
            }
            let outer = std::mem::replace(&mut self.end, self.at + len);
            if field(self, tag)? {
                self.finish().map_err(unnamed)?;
            } else {
                self.at = self.end;
            }
            self.end = outer;
        }
        Ok(())
    }

    /// Skips a section of tagged fields.
    pub(crate) fn skip_tagged(&mut self) -> Result<(), Fault<DecodeErrorKind>> {
        self.tagged(|_, _| Ok(false))
    }
}

#[cold]
fn unnamed(kind: DecodeErrorKind) -> Fault<DecodeErrorKind> {
    Fault::new(kind).within(Step::Field("tagged_fields"))
}

fn not_null<T>(value: Option<T>) -> Result<T, Fault<DecodeErrorKind>> {
    value.ok_or_else(|| Fault::new(DecodeErrorKind::UnexpectedNull))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &'static [u8]) -> Reader {
        Reader::new(Bytes::from_static(bytes))
    }

    #[test]
    fn a_failed_getter_leaves_the_cursor() {
        let mut r = reader(&[0, 5, b'a', b'b']);
        assert_eq!(r.str(false), Err(DecodeErrorKind::UnexpectedEnd { needed: 5, left: 2 }));
        assert_eq!(r.offset(), 0);
        assert_eq!(r.i64(), Err(DecodeErrorKind::UnexpectedEnd { needed: 8, left: 4 }));
        assert_eq!(r.i16(), Ok(5));
        assert_eq!(r.take(3).map_err(|_| r.offset()), Err(2));
        assert_eq!(&r.take(2).unwrap()[..], b"ab");
        assert_eq!(r.finish(), Ok(()));
    }

    #[test]
    fn long_varints_are_refused() {
        let too_long = Err(DecodeErrorKind::VarintTooLong);
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x0f]).uvarint(), Ok(u32::MAX));
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x1f]).uvarint(), too_long);
        assert_eq!(reader(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]).uvarint(), too_long);
        assert!(matches!(reader(&[0x80, 0x80]).uvarint(), Err(DecodeErrorKind::UnexpectedEnd { .. })));
        let too_long = Err(DecodeErrorKind::VarintTooLong);
        assert_eq!(reader(&[0xff; 9]).varlong().map_err(|_| ()), Err(()));
        assert_eq!(
            reader(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).varlong(),
            Ok(i64::MIN)
        );
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varlong(), too_long);
    }

    #[test]
    fn lengths_and_nulls() {
        assert_eq!(reader(&[0xff, 0xff]).nullable_str(false), Ok(None));
        assert_eq!(reader(&[0xff, 0xfe]).nullable_str(false), Err(DecodeErrorKind::NegativeLength(-2)));
        assert_eq!(reader(&[0]).nullable_str(true), Ok(None));
        assert_eq!(reader(&[0]).str(true), Err(DecodeErrorKind::UnexpectedNull));
        assert_eq!(reader(&[2, 0xff]).str(true), Err(DecodeErrorKind::InvalidUtf8));
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff]).nullable_bytes(false), Ok(None));
        assert_eq!(reader(&[1]).bytes(true), Ok(Bytes::new()));
        let lie = reader(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0]).array::<i32>(false);
        assert_eq!(lie, Err(DecodeErrorKind::TooManyElements { count: i32::MAX as u64, limit: 1 }));
    }

    #[test]
    fn arrays_have_a_cap() {
        for (count, accepted) in
            [(ARRAY_LEN_MAX - 1, true), (ARRAY_LEN_MAX, true), (ARRAY_LEN_MAX + 1, false)]
        {
            let mut bytes = (count as i32).to_be_bytes().to_vec();
            bytes.resize(4 + count, 7);
            let result = Reader::new(Bytes::from(bytes)).array::<i8>(false);
            assert_eq!(result.map(|array| array.len()).is_ok_and(|len| len == count), accepted, "{count}");
        }
    }

    #[test]
    fn tags_must_ascend() {
        let refuse = |bytes| reader(bytes).skip_tagged().is_err();
        assert!(!refuse(&[2, 0, 0, 1, 1, 9]));
        assert!(refuse(&[2, 1, 0, 1, 0]), "repeated");
        assert!(refuse(&[2, 1, 0, 0, 0]), "descending");
        assert!(refuse(&[3, 1, 0, 0]), "more than can be there");
        assert!(refuse(&[1, 1, 5, 0]), "too long");
    }
}
