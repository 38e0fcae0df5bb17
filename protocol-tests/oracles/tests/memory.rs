//! What compression allocates. In a process of its own, with an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use carafe::wire::compression::{Compression, CompressionError, Compressor, Decompressor};

struct Counting;

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    allocations: usize,
    live: usize,
    peak: usize,
}

thread_local! {
    static COUNT: Cell<Count> = const { Cell::new(Count { allocations: 0, live: 0, peak: 0 }) };
}

fn count(taken: usize, given: usize) {
    let mut count = COUNT.get();
    count.allocations += usize::from(taken > 0);
    count.live = (count.live + taken).saturating_sub(given);
    count.peak = count.peak.max(count.live);
    COUNT.set(count);
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        unsafe { System.realloc(address, layout, size) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted<T>(work: impl FnOnce() -> T) -> (T, Count) {
    COUNT.set(Count::default());
    let result = work();
    (result, COUNT.get())
}

fn codecs() -> impl Iterator<Item = Compression> {
    Compression::ALL.into_iter().filter(|codec| *codec != Compression::None)
}

/// Text in a batch of 100 KB.
fn batch() -> Vec<u8> {
    let mut dice = fastrand::Rng::with_seed(1);
    let mut bytes = Vec::new();
    while bytes.len() < 100_000 {
        bytes.extend_from_slice(
            format!("{{\"id\":\"{:016x}\",\"price\":{}}}", dice.u64(..), dice.u16(..)).as_bytes(),
        );
    }
    bytes
}

#[test]
fn contexts_and_buffers_are_used_again() {
    let (mut compressor, mut decompressor, input) = (Compressor::new(), Decompressor::new(), batch());
    let (mut packed, mut output) = (Vec::new(), Vec::new());
    for codec in codecs() {
        for round in 0..4 {
            packed.clear();
            output.clear();
            let (result, compressing) = counted(|| compressor.compress(codec, None, &input, &mut packed));
            assert_eq!(result, Ok(()));
            let (result, decompressing) =
                counted(|| decompressor.decompress(codec, &packed, input.len(), &mut output));
            assert_eq!(result, Ok(()));
            println!("{codec}, batch {round}: {compressing:?}, {decompressing:?}");
            if round == 3 {
                // structured-zstd's encoder cannot move between threads, so its context lives for one batch.
                let most = if codec == Compression::Zstd { 20 } else { 0 };
                assert!(compressing.allocations <= most, "{codec} compresses: {compressing:?}");
                assert_eq!(decompressing.allocations, 0, "{codec} decompresses: {decompressing:?}");
            }
        }
    }
}

#[test]
fn bombs_stop_at_the_cap_without_more_memory() {
    const CAP: usize = 10_000_000;
    for codec in codecs() {
        let mut bomb = Vec::new();
        Compressor::new().compress(codec, None, &vec![0; 4 * CAP], &mut bomb).expect("it compresses");
        let (result, count) = counted(|| Decompressor::new().decompress(codec, &bomb, CAP, &mut Vec::new()));
        assert_eq!(result, Err(CompressionError::TooLarge(CAP)), "{codec}");
        assert!(count.peak <= CAP + CAP / 10, "{codec}: {count:?}");
    }
}
