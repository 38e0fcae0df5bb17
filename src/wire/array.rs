//! Arrays of fixed-size values that stay the bytes they came as.

use std::fmt;
use std::marker::PhantomData;

use bytes::{BufMut, Bytes, BytesMut};

use super::Uuid;

/// A value of fixed size on the wire. Implemented for Kafka's integers, floats and ids alone.
pub trait Element: Copy + PartialEq + fmt::Debug + sealed::Sealed {
    /// Bytes on the wire.
    const SIZE: usize;

    /// Reads the value from exactly [`SIZE`](Self::SIZE) bytes; from any other number it is zero.
    fn read(bytes: &[u8]) -> Self;

    /// Appends the value.
    fn write(self, buf: &mut impl BufMut);
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {}

        impl Element for $type {
            const SIZE: usize = size_of::<$type>();

            #[inline]
            fn read(bytes: &[u8]) -> Self {
                bytes.try_into().map(Self::from_be_bytes).unwrap_or_default()
            }

            #[inline]
            fn write(self, buf: &mut impl BufMut) {
                buf.put_slice(&self.to_be_bytes());
            }
        }
    )*};
}

elements!(i8, i16, u16, i32, u32, i64, f64);

impl sealed::Sealed for Uuid {}

impl Element for Uuid {
    const SIZE: usize = 16;

    #[inline]
    fn read(bytes: &[u8]) -> Self {
        bytes.try_into().map(Self).unwrap_or_default()
    }

    #[inline]
    fn write(self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }
}

/// An array of numbers or ids, kept in wire order. A decoded one shares the buffer of its frame.
pub struct Array<T> {
    /// A multiple of `T::SIZE` bytes.
    bytes: Bytes,
    element: PhantomData<fn() -> T>,
}

impl<T: Element> Array<T> {
    /// An array over wire bytes, whose length must be a multiple of the element's size; a rest is cut off.
    pub(crate) fn from_wire(mut bytes: Bytes) -> Self {
        bytes.truncate(bytes.len() / T::SIZE * T::SIZE);
        Self { bytes, element: PhantomData }
    }

    pub(crate) fn wire(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / T::SIZE
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The element at `index`, `None` beyond the end.
    pub fn get(&self, index: usize) -> Option<T> {
        let start = index.checked_mul(T::SIZE)?;
        self.bytes.get(start..start.checked_add(T::SIZE)?).map(T::read)
    }

    /// The elements in order.
    pub fn iter(&self) -> ArrayIter<'_, T> {
        ArrayIter { chunks: self.bytes.chunks_exact(T::SIZE), element: PhantomData }
    }

    /// The elements, copied; no longer tied to the frame they came in.
    pub fn to_vec(&self) -> Vec<T> {
        self.iter().collect()
    }

    /// True if some element equals `value`.
    pub fn contains(&self, value: T) -> bool {
        self.iter().any(|element| element == value)
    }
}

/// Iterator over an [`Array`].
#[derive(Clone, Debug)]
pub struct ArrayIter<'a, T> {
    chunks: std::slice::ChunksExact<'a, u8>,
    element: PhantomData<fn() -> T>,
}

impl<T: Element> Iterator for ArrayIter<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.chunks.next().map(T::read)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.chunks.size_hint()
    }
}

impl<T: Element> DoubleEndedIterator for ArrayIter<'_, T> {
    fn next_back(&mut self) -> Option<T> {
        self.chunks.next_back().map(T::read)
    }
}

impl<T: Element> ExactSizeIterator for ArrayIter<'_, T> {}

impl<'a, T: Element> IntoIterator for &'a Array<T> {
    type Item = T;
    type IntoIter = ArrayIter<'a, T>;

    fn into_iter(self) -> ArrayIter<'a, T> {
        self.iter()
    }
}

impl<T: Element> FromIterator<T> for Array<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let elements = elements.into_iter();
        let mut bytes = BytesMut::with_capacity(elements.size_hint().0 * T::SIZE);
        for element in elements {
            element.write(&mut bytes);
        }
        Self::from_wire(bytes.freeze())
    }
}

impl<T: Element> From<Vec<T>> for Array<T> {
    fn from(elements: Vec<T>) -> Self {
        elements.into_iter().collect()
    }
}

impl<T: Element> From<&[T]> for Array<T> {
    fn from(elements: &[T]) -> Self {
        elements.iter().copied().collect()
    }
}

impl<T: Element, const N: usize> From<[T; N]> for Array<T> {
    fn from(elements: [T; N]) -> Self {
        elements.into_iter().collect()
    }
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), element: PhantomData }
    }
}

impl<T> Default for Array<T> {
    fn default() -> Self {
        Self { bytes: Bytes::new(), element: PhantomData }
    }
}

impl<T> PartialEq for Array<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<T: Element> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_wire_order() {
        let array = Array::from(vec![1i32, -1, 7]);
        assert_eq!(array.wire(), [0, 0, 0, 1, 255, 255, 255, 255, 0, 0, 0, 7]);
        assert_eq!(array.len(), 3);
        assert_eq!(array.to_vec(), [1, -1, 7]);
        assert_eq!(array.get(1), Some(-1));
        assert_eq!(array.get(3), None);
        assert_eq!(array.get(usize::MAX), None);
        assert_eq!(array.iter().next_back(), Some(7));
        assert!(array.contains(7) && !array.contains(8));
        assert_eq!(format!("{array:?}"), "[1, -1, 7]");
        assert!(Array::<i64>::default().is_empty());
    }
}
