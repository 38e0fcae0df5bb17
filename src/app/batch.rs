//! Batches and messages with a payload format. They share the buffers of the client's; nothing is copied.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use super::payload::Payload;
use crate::Result;
use crate::consumer;
use crate::types::{Offset, Timestamp};

/// Messages of one partition, in order.
///
/// Everything of the client's [`Batch`](consumer::RecordBatch) is there by dereference; what is added is the format.
pub struct Batch<P> {
    raw: consumer::RecordBatch,
    format: PhantomData<fn() -> P>,
}

impl<P: Payload> Batch<P> {
    pub(crate) fn new(raw: consumer::RecordBatch) -> Self {
        Self { raw, format: PhantomData }
    }

    /// The messages, borrowed.
    pub fn iter(&self) -> Iter<'_, P> {
        Iter { raw: self.raw.iter(), format: PhantomData }
    }

    /// The messages, each keeping the batch's buffer alive on its own.
    pub fn messages(&self) -> impl Iterator<Item = Message<P>> + '_ {
        self.raw.messages().map(|raw| Message { raw, format: PhantomData })
    }
}

impl<P> Clone for Batch<P> {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone(), format: PhantomData }
    }
}

impl<P> Deref for Batch<P> {
    type Target = consumer::RecordBatch;
    fn deref(&self) -> &consumer::RecordBatch {
        &self.raw
    }
}

impl<P> fmt::Debug for Batch<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.raw, f)
    }
}

impl<'a, P: Payload> IntoIterator for &'a Batch<P> {
    type Item = MessageRef<'a, P>;
    type IntoIter = Iter<'a, P>;
    fn into_iter(self) -> Iter<'a, P> {
        self.iter()
    }
}

/// Iterator over the messages of a [`Batch`].
pub struct Iter<'a, P> {
    raw: consumer::Records<'a>,
    format: PhantomData<fn() -> P>,
}

impl<P> fmt::Debug for Iter<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<'a, P: Payload> Iterator for Iter<'a, P> {
    type Item = MessageRef<'a, P>;

    fn next(&mut self) -> Option<Self::Item> {
        self.raw.next().map(|raw| MessageRef { raw, format: PhantomData })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.raw.size_hint()
    }
}

/// A message borrowed from its batch.
pub struct MessageRef<'a, P> {
    raw: consumer::RecordRef<'a>,
    format: PhantomData<fn() -> P>,
}

impl<'a, P: Payload> MessageRef<'a, P> {
    /// Decodes the value; each call decodes anew.
    ///
    /// # Errors
    /// [`ErrorKind::Payload`](crate::ErrorKind::Payload) if the value is not of the consumer's format.
    pub fn payload(&self) -> Result<P::Value<'a>> {
        P::decode(self.raw.value)
    }

    /// The offset in the partition.
    pub fn offset(&self) -> Offset {
        self.raw.offset
    }

    /// When the record was made, or appended where the topic says so.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp(self.raw.timestamp)
    }

    /// The key; null and empty differ.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.raw.key
    }

    /// The value as bytes; null (a tombstone) and empty differ.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.raw.value
    }

    /// The headers.
    pub fn headers(&self) -> consumer::HeadersRef<'a> {
        self.raw.headers
    }
}

impl<'a, P> From<&MessageRef<'a, P>> for consumer::RecordRef<'a> {
    fn from(message: &MessageRef<'a, P>) -> Self {
        message.raw
    }
}

impl<'a, P> From<&'a Message<P>> for consumer::RecordRef<'a> {
    fn from(message: &'a Message<P>) -> Self {
        message.raw.record()
    }
}

impl<P> fmt::Debug for MessageRef<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.raw, f)
    }
}

/// A message that keeps its batch's buffer alive.
pub struct Message<P> {
    raw: consumer::OwnedRecord,
    format: PhantomData<fn() -> P>,
}

impl<P: Payload> Message<P> {
    /// Decodes the value; each call decodes anew.
    ///
    /// # Errors
    /// [`ErrorKind::Payload`](crate::ErrorKind::Payload) if the value is not of the consumer's format.
    pub fn payload(&self) -> Result<P::Value<'_>> {
        P::decode(self.raw.value())
    }
}

impl<P> Clone for Message<P> {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone(), format: PhantomData }
    }
}

impl<P> Deref for Message<P> {
    type Target = consumer::OwnedRecord;
    fn deref(&self) -> &consumer::OwnedRecord {
        &self.raw
    }
}

impl<P> fmt::Debug for Message<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.raw, f)
    }
}

/// Something at an offset of the partition that a handler works on: a message or a bare [`Offset`].
pub trait AtOffset {
    /// The offset.
    fn at_offset(&self) -> Offset;
}

impl AtOffset for Offset {
    fn at_offset(&self) -> Offset {
        *self
    }
}

impl<P> AtOffset for MessageRef<'_, P> {
    fn at_offset(&self) -> Offset {
        self.raw.offset
    }
}

impl<P> AtOffset for Message<P> {
    fn at_offset(&self) -> Offset {
        self.raw.offset()
    }
}

impl<T: AtOffset> AtOffset for &T {
    fn at_offset(&self) -> Offset {
        (**self).at_offset()
    }
}
