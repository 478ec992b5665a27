//! Walking all records in revision order, through the segments and on through the tail.
//!
//! Used for history, hashes and export. Segments are read in runs of blocks past the cache, so that
//! a walk does not push out what lists need.

use std::ops::Range;
use std::sync::Arc;

use keepd_types::Revision;

use crate::error::Error;
use crate::record::Entry;
use crate::revlog::block::Block;
use crate::revlog::segment::Segments;
use crate::tail::{Tail, TailIter};

/// Records in revision order.
#[derive(Debug)]
pub(crate) struct RecordIter {
    segments: Arc<Segments>,
    /// The segment being read.
    segment: usize,
    /// The next block of it that is not in `run`.
    next_block: usize,
    /// Blocks that were read ahead, the last one first.
    run: Vec<Arc<Block>>,
    /// The next record in the last block of `run`.
    next_record: usize,
    /// Records before it are skipped.
    from: Revision,
    tail: TailIter,
    failed: bool,
}

impl RecordIter {
    /// A walk from `from` on.
    pub(crate) fn new(segments: &Arc<Segments>, tail: &Tail, from: Revision) -> Self {
        let segment = segments.position_of(from).unwrap_or(0);
        let first_block = segments.list.get(segment).map_or(0, |segment| {
            segment.table.blocks.partition_point(|block| block.first <= from).saturating_sub(1)
        });
        Self {
            segments: Arc::clone(segments),
            segment,
            next_block: first_block,
            run: Vec::new(),
            next_record: 0,
            from,
            tail: tail.from(from),
            failed: false,
        }
    }

    /// The block that the walk failed at.
    fn failed_block(&self) -> usize {
        self.next_block - self.run.len()
    }

    /// The revisions that the block at which the walk failed can hold.
    pub(crate) fn unreadable(&self) -> Option<Range<Revision>> {
        let segment = self.segments.list.get(self.segment).filter(|_| self.failed)?;
        Some(segment.revisions_of(self.failed_block()))
    }

    /// Goes on after the block at which the walk failed.
    pub(crate) fn pass_over(&mut self) {
        if self.run.pop().is_none() {
            self.next_block += 1;
        }
        self.next_record = 0;
        self.failed = false;
    }

    fn step(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            if let Some(block) = self.run.last() {
                if self.next_record < block.count() {
                    let segment = &self.segments.list[self.segment];
                    let position = self.next_block - self.run.len();
                    let entry = segment.entry(position, block, self.next_record)?;
                    self.next_record += 1;
                    if entry.change.revision >= self.from {
                        return Ok(Some(entry));
                    }
                    continue;
                }
                self.run.pop();
                self.next_record = 0;
                continue;
            }
            let Some(segment) = self.segments.list.get(self.segment) else {
                return Ok(self.tail.next());
            };
            if self.next_block == segment.table.blocks.len() {
                (self.segment, self.next_block) = (self.segment + 1, 0);
                continue;
            }
            let mut end = self.next_block + segment.run_from(self.next_block);
            self.run = match segment.read_run(self.next_block, end) {
                Ok(run) => run,
                Err(_damaged) => {
                    // Somewhere in the run: what lies before the damage is whole.
                    end = self.next_block + 1;
                    segment.read_run(self.next_block, end)?
                }
            };
            self.run.reverse();
            self.next_block = end;
        }
    }
}

impl Iterator for RecordIter {
    type Item = Result<Entry, Error>;

    /// After a failure the walk ends, unless it is told to [`Self::pass_over`].
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}
