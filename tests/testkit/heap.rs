//! The system's allocator with counters. A program that counts installs it:
//!
//! ```ignore
//! #[global_allocator]
//! static ALLOCATOR: CountingAllocator = CountingAllocator;
//! ```

#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<isize> = const { Cell::new(0) };
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
}

static BYTES_OF_PROCESS: AtomicUsize = AtomicUsize::new(0);
static WATCHED: AtomicU64 = AtomicU64::new(0);

/// Counts allocations by thread, and live bytes by thread and by process.
pub struct CountingAllocator;

fn count(bytes: isize) {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
    BYTES.with(|live| live.set(live.get() + bytes));
    if IS_WATCHED.with(Cell::get) {
        WATCHED.fetch_add(1, Relaxed);
    }
}

// SAFETY: every call goes to `System` unchanged; counting uses atomics and thread-locals that need
// no heap.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        BYTES_OF_PROCESS.fetch_add(layout.size(), Relaxed);
        // SAFETY: forwards the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.with(|live| live.set(live.get() - layout.size().cast_signed()));
        BYTES_OF_PROCESS.fetch_sub(layout.size(), Relaxed);
        // SAFETY: forwards the caller's promise; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Heap allocations that this thread makes in `work`, including those that grow a buffer.
pub fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

/// Bytes that this thread has allocated and not freed. Memory that another thread frees counts
/// there.
pub fn live_bytes() -> isize {
    BYTES.with(Cell::get)
}

/// Bytes that the whole process currently has on the heap.
pub fn live_bytes_of_process() -> usize {
    BYTES_OF_PROCESS.load(Relaxed)
}

/// Includes allocations of this thread in [`watched_allocations`] from now on.
pub fn watch_this_thread() {
    IS_WATCHED.set(true);
}

/// Heap allocations of all watched threads so far.
pub fn watched_allocations() -> u64 {
    WATCHED.load(Relaxed)
}

/// Blocks the other tests of this program that call it: for a test that examines the whole process.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
