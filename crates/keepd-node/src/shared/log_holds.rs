//! Entries of the log that are kept because they have not been shipped into every place of backups.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// All holds, each of which names the entry behind which it needs the log. They are there before anything
/// of the log can go: what the start finds in it may not have been shipped.
#[derive(Debug, Default)]
pub(crate) struct LogHolds(Vec<Arc<AtomicU64>>);

impl LogHolds {
    /// So many holds, each of everything so far.
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Arc::default()).collect())
    }

    pub(crate) fn get(&self, number: usize) -> Option<Arc<AtomicU64>> {
        self.0.get(number).cloned()
    }

    /// The entry behind which the log is needed; none if nobody holds it.
    pub(crate) fn behind(&self) -> Option<u64> {
        self.0.iter().map(|hold| hold.load(Ordering::Acquire)).min()
    }
}
