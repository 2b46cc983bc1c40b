//! An allocator that counts what is allocated, for the process that measures memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

#[global_allocator]
static COUNTING: Counting = Counting;

static ON: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicIsize = AtomicIsize::new(0);

#[derive(Debug)]
struct Counting;

/// Counts from now on. Called first thing in a process, before there is another thread; elsewhere the count is left out,
/// so that no other measurement pays for it.
pub(crate) fn count() {
    ON.store(true, Ordering::Relaxed);
}

/// The bytes that are allocated now.
pub(crate) fn live() -> isize {
    LIVE.load(Ordering::Relaxed)
}

fn add(bytes: isize) {
    if ON.load(Ordering::Relaxed) {
        LIVE.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: everything is left to the system's allocator; only the sizes are added up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as isize - layout.size() as isize);
        unsafe { System.realloc(at, layout, size) }
    }
}
