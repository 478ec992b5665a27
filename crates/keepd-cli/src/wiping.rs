//! An allocator that overwrites what it gets back, on threads that handle secrets.
//!
//! A file with keys is read, parsed and decoded by libraries that copy as they go and drop their
//! copies as they are. What they free within [`keepd_crypto::wiping`] is zeroed first.
#![expect(unsafe_code, reason = "an allocator has an unsafe interface")]

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{Ordering, compiler_fence};

use keepd_crypto::is_wiping;
use mimalloc::MiMalloc;

/// mimalloc, wiping where it is told to.
#[derive(Debug)]
pub struct Wiping;

/// Zeroes memory that is about to be freed.
///
/// # Safety
/// `at` must be valid for writes of `len` bytes.
unsafe fn wipe(at: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { at.write_bytes(0, len) };
    // The writes go to memory that an allocator of another library reads later, so the compiler
    // cannot know that they are dead; the fence keeps it from moving them after the call.
    compiler_fence(Ordering::SeqCst);
}

// SAFETY: every call is handed to mimalloc, with the layouts that it was called with.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if is_wiping() {
            // SAFETY: the block is the caller's, with this size, until it is freed below.
            unsafe { wipe(at, layout.size()) };
        }
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !is_wiping() {
            // SAFETY: the caller's promise.
            return unsafe { MiMalloc.realloc(at, layout, new_size) };
        }
        // SAFETY: the caller promises that the size, rounded up to the alignment, is a valid one.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the layout has a size above zero, as the caller promises.
        let moved = unsafe { MiMalloc.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both blocks are that long and cannot overlap; the old one is freed once.
            unsafe {
                moved.copy_from_nonoverlapping(at, layout.size().min(new_size));
                wipe(at, layout.size());
                MiMalloc.dealloc(at, layout);
            }
        }
        moved
    }
}
