//! Progress of a long run, for a progress bar.

/// Bytes between two reports.
const STEP_BYTES: u64 = 1 << 20;

/// A stage of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The file's SHA-256 is compared.
    Verify,
    /// The file is read.
    Read,
    /// Records are written into the store.
    Import,
}

/// Progress of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The stage.
    pub stage: Stage,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Counts the bytes of one stage and tells of them, but not of each.
pub(crate) struct Meter<'a> {
    tell: &'a mut dyn FnMut(Progress),
    progress: Progress,
    told: u64,
}

impl<'a> Meter<'a> {
    /// A stage of `total` bytes begins.
    pub(crate) fn new(stage: Stage, total: u64, tell: &'a mut dyn FnMut(Progress)) -> Self {
        let progress = Progress { stage, done: 0, total };
        tell(progress);
        Self { tell, progress, told: 0 }
    }

    /// `bytes` more are done.
    pub(crate) fn add(&mut self, bytes: u64) {
        // Items are smaller than the pages that hold them; damaged files may not be.
        self.progress.done = (self.progress.done + bytes).min(self.progress.total);
        if self.progress.done - self.told >= STEP_BYTES {
            self.told = self.progress.done;
            (self.tell)(self.progress);
        }
    }

    /// The stage is over.
    pub(crate) fn finish(self) {
        let Progress { stage, total, .. } = self.progress;
        (self.tell)(Progress { stage, done: total, total });
    }
}
