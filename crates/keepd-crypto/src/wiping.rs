//! Threads that handle a file with keys, for an allocator that zeroes what they free.
//!
//! The file is read, parsed and decoded by libraries that copy as they go and drop their copies as
//! they are. The binary's allocator asks [`is_wiping`] at each free.

use std::cell::Cell;

thread_local! {
    static IS_WIPING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; memory that it frees on this thread is zeroed, if the program's allocator does so.
pub fn wiping<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_WIPING.set(self.0);
        }
    }
    let _restore = Restore(IS_WIPING.replace(true));
    work()
}

/// Whether this thread is within [`wiping`].
#[inline]
#[must_use]
pub fn is_wiping() -> bool {
    IS_WIPING.get()
}
