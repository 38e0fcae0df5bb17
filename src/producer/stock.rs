//! Memory of batches: how much may be used, and buffers to use again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::sync::{Credit, Mutex, lock};

/// Smaller buffers are cheaper to allocate than to look for.
const KEPT_MIN: usize = 4096;

/// What the lanes of a producer share.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) credit: Arc<Credit>,
    /// The last one is the one used last, and most likely still in a cache.
    free: Mutex<Vec<BytesMut>>,
}

impl Stock {
    pub(super) fn new(bytes: usize) -> Self {
        Self { credit: Credit::new(bytes), free: Mutex::default() }
    }

    /// An empty buffer of `capacity` bytes. A fresh one costs page faults, and in another thread than the one that freed
    /// the last one often a system call.
    pub(super) fn buffer(&self, capacity: usize) -> BytesMut {
        if capacity >= KEPT_MIN {
            let mut free = lock(&self.free);
            if let Some(at) = free.iter().rposition(|buffer| buffer.capacity() == capacity) {
                return free.remove(at);
            }
        }
        BytesMut::with_capacity(capacity)
    }

    /// Takes back the buffer of a batch that was acknowledged, unless somebody else still reads it. Keeps up to a quarter
    /// of the memory that batches may take.
    pub(super) fn recycle(&self, body: Bytes) {
        let Ok(mut buffer) = body.try_into_mut() else { return };
        // Lanes ask for powers of two, so no other buffer would be found again.
        if buffer.capacity() < KEPT_MIN || !buffer.capacity().is_power_of_two() {
            return;
        }
        buffer.clear();
        let mut free = lock(&self.free);
        let kept: usize = free.iter().map(BytesMut::capacity).sum();
        if kept + buffer.capacity() <= self.credit.total() / 4 {
            free.push(buffer);
        }
    }
}

#[cfg(all(test, not(carafe_shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_nobody_reads_any_more_is_used_again() {
        let stock = Stock::new(64 * 1024);
        let mut buffer = stock.buffer(8192);
        buffer.extend_from_slice(b"records");
        let (address, body) = (buffer.as_ptr(), buffer.freeze());
        let reader = body.clone();
        stock.recycle(body);
        assert_ne!(stock.buffer(8192).as_ptr(), address, "it is still read");
        stock.recycle(reader);
        assert_ne!(stock.buffer(4096).as_ptr(), address, "of another size");
        let again = stock.buffer(8192);
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (address, 0, 8192));
        for _ in 0..3 {
            stock.recycle(BytesMut::with_capacity(8192).freeze());
        }
        assert_eq!(lock(&stock.free).len(), 2, "a quarter is kept");
    }
}
