//! One watcher.

use keepd_mvcc::{Change, ChangeKind};
use keepd_types::KeyRange;

use crate::{Filters, StreamId, WatchId};

/// One watcher, synced or not.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) stream: StreamId,
    pub(crate) id: WatchId,
    pub(crate) range: KeyRange,
    pub(crate) filters: Filters,
    pub(crate) prev_kv: bool,
    pub(crate) progress_notify: bool,
    pub(crate) fragment: bool,
    /// As requested: 0 from now. No progress is reported before the store has reached it.
    pub(crate) start_revision: i64,
    /// No revision below is delivered (again). While synced it is not raised with every revision:
    /// what the hub has published counts as delivered too.
    pub(crate) next: i64,
    /// Whether it gets its events from published batches.
    pub(crate) synced: bool,
    /// Whether it got no events since the last progress tick.
    pub(crate) quiet: bool,
}

impl Watcher {
    /// Whether a change of a watched key is an event for it.
    pub(crate) const fn wants(&self, change: &Change) -> bool {
        change.revision.main >= self.next
            && match change.kind {
                ChangeKind::Put => !self.filters.no_put,
                ChangeKind::Delete => !self.filters.no_delete,
            }
    }

    /// The revision up to which a synced watcher has everything, the hub having published up to
    /// `position`; `None` if it is unsynced or its start is not reached.
    pub(crate) fn covered(&self, position: i64) -> Option<i64> {
        // What precedes `next` is covered, unless that is where a future watcher begins.
        let sent = if self.next > self.start_revision { self.next - 1 } else { 0 };
        let covered = position.max(sent);
        (self.synced && covered >= self.start_revision).then_some(covered)
    }
}
