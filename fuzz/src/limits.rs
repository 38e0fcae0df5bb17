//! What a decoder may take for an input: memory, allocations, steps. Nothing here is timed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes that may be allocated at a time, and so the largest single allocation, for an input of `len` bytes.
pub fn live_max(len: usize) -> u64 {
    len as u64 * 64 + (1 << 20)
}

/// Most allocations, freed ones included: some per byte.
pub fn allocations_max(len: usize) -> u64 {
    len as u64 * 8 + 512
}

/// Most bytes that may be allocated in all, freed ones included: copying again and again shows here.
pub fn allocated_max(len: usize) -> u64 {
    len as u64 * 256 + (8 << 20)
}

/// Most steps: loads from memory.
pub fn steps_max(len: usize) -> u64 {
    len as u64 * 2048 + (1 << 20)
}

/// Runs `work` on an input of `len` bytes.
///
/// # Panics
///
/// It took more than an input of that length justifies. An allocation that the system refuses aborts the process.
pub fn within<T>(len: usize, work: impl FnOnce() -> T) -> T {
    let (result, taken) = measure(work);
    let bounds = [
        ("bytes at a time", taken.live, live_max(len)),
        ("allocations", taken.allocations, allocations_max(len)),
        ("bytes in all", taken.allocated, allocated_max(len)),
        ("steps", taken.steps, steps_max(len)),
    ];
    for (what, taken, most) in bounds {
        assert!(taken <= most, "{taken} {what} for an input of {len} bytes, at most {most} are justified");
    }
    result
}

/// What some work took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Most bytes allocated at a time.
    pub live: u64,
    /// Allocations; moving a buffer to make it larger is one.
    pub allocations: u64,
    /// Bytes of all allocations.
    pub allocated: u64,
    /// Steps, where they are counted.
    pub steps: u64,
}

/// Runs `work` and says what it took of this thread's memory.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let before = STEPS.load(Ordering::Relaxed);
    let outer = TALLY.replace(Tally::default());
    let result = work();
    let tally = TALLY.replace(outer);
    let taken = Taken {
        live: tally.peak as u64,
        allocations: tally.allocations,
        allocated: tally.allocated,
        steps: STEPS.load(Ordering::Relaxed) - before,
    };
    (result, taken)
}

/// The memory of a thread since it began to measure.
#[derive(Clone, Copy, Default)]
struct Tally {
    live: isize,
    peak: isize,
    allocations: u64,
    allocated: u64,
}

thread_local! {
    static TALLY: Cell<Tally> = const { Cell::new(Tally { live: 0, peak: 0, allocations: 0, allocated: 0 }) };
}

/// Adds up what each thread allocates. A buffer that is made larger counts as it grows: crates that count look at it as a
/// second buffer, which it is not where the system moves pages.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// `size` bytes more in place of `old` ones.
fn took(size: usize, old: usize) {
    let mut tally = TALLY.get();
    tally.live += size as isize - old as isize;
    tally.peak = tally.peak.max(tally.live);
    tally.allocations += 1;
    tally.allocated += size as u64;
    TALLY.set(tally);
}

// SAFETY: hands everything to the system's allocator; the tally neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size, layout.size());
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let mut tally = TALLY.get();
        tally.live -= layout.size() as isize;
        TALLY.set(tally);
        unsafe { System.dealloc(at, layout) }
    }
}

/// Steps of this process so far. They are counted in builds with `-sanitizer-coverage-trace-loads` alone, and for all
/// threads together, so such builds run one input at a time.
static STEPS: AtomicU64 = AtomicU64::new(0);

/// Called by instrumented code before each load of so many bytes.
macro_rules! loads {
    ($($name:ident)*) => {$(
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(_: *const u8) {
            // One thread counts; an atomic addition would cost more than what it counts.
            STEPS.store(STEPS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    )*};
}

loads! {
    __sanitizer_cov_load1 __sanitizer_cov_load2 __sanitizer_cov_load4 __sanitizer_cov_load8 __sanitizer_cov_load16
}
