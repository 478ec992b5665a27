//! Scrubbing: old segments are read to find damage before somebody needs the records in it.

use std::sync::Arc;

use crate::error::Error;
use crate::pace::{self, Pace};
use crate::revlog::segment::Segment;

/// Reads one segment.
#[derive(Debug)]
pub(crate) struct ScrubJob {
    pub(crate) segment: Arc<Segment>,
}

impl ScrubJob {
    /// Reads every frame. Damage is noted with the store's [`Damages`](crate::Damages).
    pub(crate) fn run(self, pace: &mut Pace<'_>) -> Result<(), Error> {
        let segment = &self.segment;
        let blocks = &segment.table.blocks;
        let mut next = 0;
        while next < blocks.len() {
            let end = next + segment.run_from(next);
            if segment.read_run(next, end).is_err() {
                // One by one, so that every damaged place is known.
                for position in next..end {
                    let _noted = segment.read_run(position, position + 1).is_err();
                }
            }
            pace::tell(pace, blocks[end - 1].frame.end() - blocks[next].frame.offset)?;
            next = end;
        }
        let _noted = segment.meta_ops().is_err();
        Ok(())
    }
}
