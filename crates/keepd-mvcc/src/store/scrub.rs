//! Choosing what to scrub, and the damage that was met in the store's files.

use std::sync::Arc;

use keepd_types::Revision;

use crate::damage::Damages;
use crate::jobs::scrub::ScrubJob;
use crate::revlog::segment::Segment;
use crate::store::Store;

impl Store {
    /// Reads the next segment that was not read since the start.
    pub(super) fn scrub(&mut self) -> Option<ScrubJob> {
        let from = self.jobs.scrub_from.take()?;
        let at = self.now.segments.list.partition_point(|segment| segment.first < from);
        let segment = Arc::clone(self.now.segments.list.get(at)?);
        // A main revision lies in one segment as a whole.
        let last = segment.table.last.max(segment.first);
        self.jobs.scrub_from = Some(Revision::first(last.main.saturating_add(1)));
        Some(ScrubJob { segment })
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
