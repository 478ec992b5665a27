//! Retrying a write that found the disk full, or no file descriptor.
//!
//! A flush that failed leaves its store unusable, and so does a failed write to the manifest. Both
//! therefore ask a [`DiskFullHook`] and make the same call again: the same bytes at the same place, so
//! no frame number seals two different ones. Checkpoints and rewrites do not wait: while they did,
//! they would hold the space that a flush needs.

use std::fmt;
use std::sync::Arc;

use keepd_env::IoError;

type FreeSpace = dyn Fn(&IoError) -> bool + Send + Sync;

/// Frees space on a full disk, or waits until there is some.
#[derive(Clone)]
pub struct DiskFullHook(Arc<FreeSpace>);

impl DiskFullHook {
    /// A hook that calls `free_space` with the error of a call that found no space or no descriptor.
    /// It runs on the threads of jobs, and tells whether the write may be tried again.
    pub fn new(free_space: impl Fn(&IoError) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(free_space))
    }
}

impl fmt::Debug for DiskFullHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskFullHook")
    }
}

/// Makes a call, again if it found no space or no descriptor and the hook has freed some.
pub(crate) fn retry_when_full<T>(
    hook: Option<&DiskFullHook>,
    mut call: impl FnMut() -> Result<T, IoError>,
) -> Result<T, IoError> {
    loop {
        match call() {
            Err(error) if error.is_shortage() && hook.is_some_and(|it| (it.0)(&error)) => {}
            result => return result,
        }
    }
}
