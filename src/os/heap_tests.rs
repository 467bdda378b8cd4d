//! How much memory and processor time a thread takes: the allocator of the unit tests counts each thread's allocations.
//!
//! For readers of answers from outside: their memory must not be a multiple of the input, nor their time. Tests only.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// Bytes that this thread allocated and did not free; bytes that it frees for others are subtracted.
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // An ending thread has no counters.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + change);
        let _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
    });
}

fn length(of: usize) -> isize {
    isize::try_from(of).expect("an allocation is below isize::MAX")
}

// SAFETY: each call goes to the system's allocator with the arguments as they came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(length(layout.size()));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(length(layout.size()));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-length(layout.size()));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        count(length(new) - length(layout.size()));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.realloc(at, layout, new) }
    }
}

/// The result of `act`, and the most bytes that it held at once on this thread.
pub(crate) fn peak<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    MOST.set(before);
    let given = act();
    (given, usize::try_from(MOST.get() - before).unwrap_or(0))
}

/// Processor time that this thread has taken.
pub(crate) fn processor_time() -> std::time::Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the structure, which outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    assert_eq!(result, 0, "a clock that each Linux has");
    let part = |number: i64| u64::try_from(number).expect("not negative");
    std::time::Duration::from_nanos(part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec))
}

#[test]
fn what_a_thread_holds_at_once_is_counted() {
    let (kept, most) = peak(|| {
        drop(vec![1u8; 1 << 20]);
        vec![1u8; 1000]
    });
    assert!((1 << 20..(1 << 20) + 4096).contains(&most), "{most}");
    let (_, most) = peak(|| drop(kept));
    assert_eq!(most, 0);
}
