//! What a write does that finds the disk full, or no file descriptor.
//!
//! A flush that failed leaves its store unusable, and so does a failed write to the manifest. Both
//! therefore ask a [`RoomMaker`] and make the same call again: the same bytes at the same place, so
//! no frame number seals two different ones. Checkpoints and rewrites do not wait: while they did,
//! they would hold the space that a flush needs.

use std::fmt;
use std::sync::Arc;

use keepd_env::IoError;

type MakeRoom = dyn Fn(&IoError) -> bool + Send + Sync;

/// Makes room on a full disk, or waits until there is some.
#[derive(Clone)]
pub struct RoomMaker(Arc<MakeRoom>);

impl RoomMaker {
    /// A maker that calls `make_room` with the error of a call that found no space or no descriptor; it
    /// runs on the
    /// threads of jobs, and tells whether the write may be tried again.
    pub fn new(make_room: impl Fn(&IoError) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(make_room))
    }
}

impl fmt::Debug for RoomMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomMaker")
    }
}

/// Makes a call, again if it found no space or no descriptor and `maker` has made some.
pub(crate) fn with_room<T>(
    maker: Option<&RoomMaker>,
    mut call: impl FnMut() -> Result<T, IoError>,
) -> Result<T, IoError> {
    loop {
        match call() {
            Err(error) if error.is_shortage() && maker.is_some_and(|it| (it.0)(&error)) => {}
            result => return result,
        }
    }
}
