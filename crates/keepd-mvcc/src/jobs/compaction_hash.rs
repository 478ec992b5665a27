//! The hash of a compaction, which etcd computes while it compacts and members compare.

use std::sync::Arc;

use crate::error::Error;
use crate::index::KeyIndex;
use crate::kept::{Bounds, Keep};
use crate::pace::Pace;
use crate::record::HashKv;
use crate::view::View;

/// Computes the hash of one compaction.
#[derive(Debug)]
pub(crate) struct CompactionHashJob {
    pub(crate) view: Arc<View>,
    /// The index as the compaction found it.
    pub(crate) index: KeyIndex,
    pub(crate) previous: i64,
    pub(crate) revision: i64,
}

impl CompactionHashJob {
    /// etcd's hash of the compaction: over the records up to its revision, with the compact revision
    /// before it.
    pub(crate) fn run(self, pace: &mut Pace<'_>) -> Result<HashKv, Error> {
        let (previous, at) = (self.previous, self.revision);
        let keep = Keep::at(&self.index, at, previous, |main| main == at)
            .unwrap_or_else(|| Keep::live(&self.index, previous, previous));
        let bounds = Bounds { compacted: previous, until: at };
        self.view.hash_records(self.view.kept(&self.index, keep, bounds), pace)
    }
}
