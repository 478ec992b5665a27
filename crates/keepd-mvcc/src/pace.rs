//! Slowing down and stopping jobs.

use std::ops::ControlFlow;

use crate::error::Error;

/// Hears of every piece of a job's work, in bytes: a few MiB at most. It may sleep, and `Break` ends
/// the job with [`Error::Stopped`].
pub type Pace<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// The pace of a job that nobody waits beside.
pub const fn full_speed(_bytes: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Tells of a piece of work that is done.
pub(crate) fn tell(pace: &mut Pace<'_>, bytes: u64) -> Result<(), Error> {
    match pace(bytes) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Stopped),
    }
}
