//! Invariants of the store: checked on entry of everything that changes it, in
//! releases too, and in a few steps each.
//!
//! It is about what this process did, never about what a file says: damage is an error.

use keepd_types::Revision;

use super::Store;

impl Store {
    /// # Panics
    /// If index, tail and segments do not fit together: what was acknowledged would be lost or shown twice.
    pub(super) fn assert_sound(&self) {
        let (now, durable) = (&self.now, &self.jobs.durable.commit);
        let first_of_tail = now.tail.first();
        let behind = now.tail.last().or_else(|| self.last_flushed());
        assert!(first_of_tail.is_none() || first_of_tail > self.last_flushed(), "flushed twice");
        let pending = self.pending.first().map(|entry| entry.change.revision);
        assert!(pending.is_none() || pending > behind, "a change in front of a published one");
        assert!(self.pending.len() as u64 <= self.tail_records, "changes that no flush counts");
        assert!(durable.applied.index <= now.applied.index, "more is durable than was applied");
        assert!(durable.revision <= now.revision, "a durable revision that never was");
        assert!(self.trim.done <= now.compact_revision, "trimmed beyond the compaction");
        assert!(self.last_change() <= Some(Revision { main: now.revision, sub: i64::MAX }));
    }

    /// The last record in a segment.
    pub(super) fn last_flushed(&self) -> Option<Revision> {
        let last = self.now.segments.list.last()?;
        (!last.table.blocks.is_empty()).then_some(last.table.last)
    }

    /// The last record that is not in a segment.
    fn last_change(&self) -> Option<Revision> {
        let pending = self.pending.last().map(|entry| entry.change.revision);
        pending.or_else(|| self.now.tail.last())
    }
}
