//! Records that are published but not yet in a segment.
//!
//! A list of batches, one per publish, persistent: a view takes it for free, the store drops batches
//! from its front once they are durable. Main revisions inside are dense and ascending.

use std::sync::Arc;

use imbl::Vector;
use keepd_types::Revision;

use crate::record::Entry;

/// Changes that one publish added; never empty.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
}

impl Batch {
    fn first(&self) -> Revision {
        self.entries[0].change.revision
    }

    fn last(&self) -> Revision {
        self.entries[self.entries.len() - 1].change.revision
    }
}

/// The batches in revision order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    batches: Vector<Arc<Batch>>,
}

impl Tail {
    pub(crate) fn push(&mut self, entries: Vec<Entry>) {
        if !entries.is_empty() {
            self.batches.push_back(Arc::new(Batch { entries }));
        }
    }

    /// The first revision in the tail.
    pub(crate) fn first(&self) -> Option<Revision> {
        self.batches.front().map(|batch| batch.first())
    }

    /// The last revision in the tail.
    pub(crate) fn last(&self) -> Option<Revision> {
        self.batches.back().map(|batch| batch.last())
    }

    /// The record with this revision.
    pub(crate) fn get(&self, revision: Revision) -> Option<&Entry> {
        let batch = self.batches.get(self.batch_of(revision))?;
        let found =
            batch.entries.binary_search_by_key(&revision, |entry| entry.change.revision).ok()?;
        batch.entries.get(found)
    }

    /// All records from `revision` on.
    pub(crate) fn from(&self, revision: Revision) -> TailIter {
        let batch = self.batch_of(revision);
        let entry = self.batches.get(batch).map_or(0, |batch| {
            batch.entries.partition_point(|entry| entry.change.revision < revision)
        });
        TailIter { tail: self.clone(), batch, entry }
    }

    /// Drops the batches that end at `revision` or before.
    pub(crate) fn drop_up_to(&mut self, revision: Revision) {
        while self.batches.front().is_some_and(|batch| batch.last() <= revision) {
            self.batches.pop_front();
        }
    }

    /// The batches, oldest first.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &Arc<Batch>> {
        self.batches.iter()
    }

    /// The first batch that ends at or after `revision`.
    fn batch_of(&self, revision: Revision) -> usize {
        let (mut low, mut high) = (0, self.batches.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.batches[middle].last() < revision {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Records of a tail in revision order.
#[derive(Debug)]
pub(crate) struct TailIter {
    tail: Tail,
    batch: usize,
    entry: usize,
}

impl Iterator for TailIter {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let batch = self.tail.batches.get(self.batch)?;
        let entry = batch.entries.get(self.entry)?.clone();
        self.entry += 1;
        if self.entry == batch.entries.len() {
            (self.batch, self.entry) = (self.batch + 1, 0);
        }
        Some(entry)
    }
}
