//! A message body as a list of buffers for a vectored write: what is small is copied together, what is large is shared.

use bytes::{BufMut, Bytes, BytesMut};

use super::varint::put_uvarint;

/// Bodies of records below this many bytes are copied: a slice of its own costs more than the copy.
pub(crate) const SHARE_MIN: usize = 4096;

/// Builds the list.
#[derive(Debug)]
pub(crate) struct Segments {
    parts: Vec<Bytes>,
    /// What follows `parts`.
    pub(crate) head: BytesMut,
}

impl Segments {
    /// `capacity` is what will be copied, in bytes, and `shared` how many buffers will be shared; more works, with another
    /// allocation.
    pub(crate) fn with_capacity(capacity: usize, shared: usize) -> Self {
        // Each with what was copied before it, and what follows the last.
        Self { parts: Vec::with_capacity(2 * shared + 1), head: BytesMut::with_capacity(capacity) }
    }

    /// Appends `bytes`, copied or shared.
    pub(crate) fn put(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_MIN {
            self.head.put_slice(bytes);
            return;
        }
        if !self.head.is_empty() {
            self.parts.push(self.head.split().freeze());
        }
        self.parts.push(bytes.clone());
    }

    /// The list, without empty buffers.
    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        if !self.head.is_empty() {
            self.parts.push(self.head.freeze());
        }
        self.parts
    }
}

/// Appends a count or length: an int32, or in flexible versions an unsigned varint of it plus one. What it counts is in
/// memory already, and far below 2 GiB in every request that is built.
pub(crate) fn put_count(w: &mut BytesMut, count: usize, compact: bool) {
    if compact { put_uvarint(w, count as u32 + 1) } else { w.put_i32(count as i32) }
}

/// Appends an empty section of tagged fields, in flexible versions.
pub(crate) fn put_no_tags(w: &mut BytesMut, flexible: bool) {
    if flexible {
        w.put_u8(0);
    }
}
