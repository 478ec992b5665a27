//! Reading what nobody reads: damage in old segments is found before somebody needs them.

use std::sync::Arc;

use keepd_types::Revision;

use crate::damage::Damages;
use crate::revlog::segment::Segment;
use crate::store::Store;

/// Reads one segment; run it on any thread.
#[derive(Debug)]
pub struct ScrubJob {
    segment: Arc<Segment>,
}

impl ScrubJob {
    /// Reads every frame. What is damaged is noted with the store's [`Damages`]. `pace` hears of
    /// every piece of work, in bytes, may sleep, and says whether to go on.
    pub fn run(self, pace: &mut dyn FnMut(u64) -> bool) {
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
            if !pace(blocks[end - 1].frame.end() - blocks[next].frame.offset) {
                return;
            }
            next = end;
        }
        let _noted = segment.meta_ops().is_err();
    }
}

impl Store {
    /// The first segment that begins at `from` or behind, to be read, and where to go on.
    #[must_use]
    pub fn take_scrub(&self, from: Revision) -> Option<(ScrubJob, Revision)> {
        let at = self.now.segments.list.partition_point(|segment| segment.first < from);
        let segment = Arc::clone(self.now.segments.list.get(at)?);
        // A main revision lies in one segment as a whole.
        let last = segment.table.last.max(segment.first);
        let next = Revision::first(last.main.saturating_add(1));
        Some((ScrubJob { segment }, next))
    }

    /// The damage that was met in files that are still in use.
    #[must_use]
    pub fn damages(&self) -> Damages {
        let damages = &self.jobs.files.dir.damages;
        if !damages.is_empty() {
            damages
                .retain(|file| self.now.segments.list.iter().any(|segment| segment.path == file));
        }
        damages.clone()
    }

    /// Whether the segment cannot be read as a whole: it is left alone.
    pub(crate) fn is_damaged(&self, segment: &Segment) -> bool {
        self.jobs.files.dir.damages.has(&segment.path)
    }
}
