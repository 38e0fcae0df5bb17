//! Memory of batches: how much may be used, and buffers to use again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::sync::{CreditPool, Mutex, lock};

/// Smallest buffer of a batch, and the step between the sizes of small ones: where records are spread over many partitions,
/// powers of two would leave half of the memory empty.
pub(super) const SIZE_MIN: usize = 512;
/// Sizes from here on are powers of two.
pub(super) const LARGE_MIN: usize = 4096;
/// Sizes below [`LARGE_MIN`], and powers of two up to the largest batch.
const SIZES: usize = LARGE_MIN / SIZE_MIN - 1 + 19;

/// What the lanes of a producer share.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) credit: Arc<CreditPool>,
    free: Mutex<Free>,
}

/// Buffers that nobody uses.
#[derive(Debug, Default)]
struct Free {
    /// By size. The last one is the one used last, and most likely still in a cache.
    buffers: [Vec<BytesMut>; SIZES],
    bytes: usize,
}

/// The size of a buffer for `bytes`.
pub(super) fn size_for(bytes: usize) -> usize {
    if bytes < LARGE_MIN { bytes.next_multiple_of(SIZE_MIN).max(SIZE_MIN) } else { bytes.next_power_of_two() }
}

/// The size of a buffer for a batch that comes after one of `bytes`, whose buffer began with `size`: a little more, so that
/// it seldom has to grow. Of large ones, many are cut short when a request leaves, and the next one is full again: sizes
/// shrink by half.
pub(super) fn size_for_next(bytes: usize, size: usize) -> usize {
    let next = size_for(if bytes < LARGE_MIN { bytes + bytes / 4 } else { bytes });
    if size > LARGE_MIN { next.max(size / 2) } else { next }
}

/// Where buffers of `capacity` bytes are kept; `None` if that is no size that anybody asks for.
fn place(capacity: usize) -> Option<usize> {
    if capacity == 0 || size_for(capacity) != capacity {
        return None;
    }
    let small = LARGE_MIN / SIZE_MIN - 1;
    let place = match capacity {
        ..LARGE_MIN => capacity / SIZE_MIN - 1,
        _ => small + (capacity / LARGE_MIN).ilog2() as usize,
    };
    (place < SIZES).then_some(place)
}

impl Stock {
    pub(super) fn new(bytes: usize) -> Self {
        Self { credit: CreditPool::new(bytes), free: Mutex::default() }
    }

    /// An empty buffer of `capacity` bytes. A fresh one costs page faults, and in another thread than the one that freed
    /// the last one often a system call.
    pub(super) fn buffer(&self, capacity: usize) -> BytesMut {
        if let Some(place) = place(capacity) {
            let mut free = lock(&self.free);
            if let Some(buffer) = free.buffers[place].pop() {
                free.bytes -= capacity;
                return buffer;
            }
        }
        BytesMut::with_capacity(capacity)
    }

    /// Takes back the buffer of a batch that was acknowledged, unless somebody else still reads it.
    pub(super) fn recycle(&self, body: Bytes) {
        if let Ok(buffer) = body.try_into_mut() {
            self.put(buffer);
        }
    }

    /// Takes back a buffer that nobody uses any more. Keeps up to a quarter of the memory that batches may take.
    pub(super) fn put(&self, mut buffer: BytesMut) {
        let capacity = buffer.capacity();
        let Some(place) = place(capacity) else { return };
        buffer.clear();
        let mut free = lock(&self.free);
        if free.bytes + capacity <= self.credit.total() / 4 {
            free.bytes += capacity;
            free.buffers[place].push(buffer);
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
        assert_eq!(lock(&stock.free).bytes, 2 * 8192, "a quarter is kept");
    }

    #[test]
    fn large_sizes_shrink_step_by_step() {
        for (bytes, before, next) in [
            (100, 512, 512),
            (2000, 512, 2560),
            (100, 4096, 512),
            (100, 8192, 4096),
            (5000, 65_536, 32_768),
            (50_000, 512, 65_536),
        ] {
            assert_eq!(size_for_next(bytes, before), next, "{bytes} after {before}");
            assert!(place(next).is_some(), "{next}");
        }
    }

    #[test]
    fn sizes_are_few_and_close() {
        for (bytes, size) in
            [(0, 512), (1, 512), (513, 1024), (2140, 2560), (3585, 4096), (4097, 8192), (1 << 30, 1 << 30)]
        {
            assert_eq!(size_for(bytes), size, "{bytes}");
            assert!(place(size).is_some(), "{bytes}");
        }
        let places: Vec<_> = (0..=1 << 16).filter_map(place).collect();
        assert_eq!(places, (0..12).collect::<Vec<_>>(), "each has its own");
        assert_eq!((place(1 << 31), place(0)), (None, None));
    }
}
