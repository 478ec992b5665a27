//! The records that compaction leaves: for exports, hashes and state images.
//!
//! A part of a file that cannot be read ends a walk only if it can hold a record that is wanted: the
//! key index names all of those, so nothing is left out that anybody could ask for.

use keepd_types::Revision;

use crate::affected::Affected;
use crate::error::Error;
use crate::index::KeyIndex;
use crate::record::{Entry, Record};
use crate::record_iter::RecordIter;

/// Records that compaction leaves, sorted; asked for in ascending order.
#[derive(Debug, Default)]
pub(crate) struct Keep {
    revisions: Vec<Revision>,
    next: usize,
}

impl Keep {
    /// The records live at main revision `at` and written up to `compacted`. If nothing is live
    /// then, etcd applies no filter to what compaction at `compacted` left.
    pub(crate) fn live(index: &KeyIndex, at: i64, compacted: i64) -> Self {
        Self::at(index, at, compacted, |_| false)
            .unwrap_or_else(|| Self::at(index, compacted, compacted, |_| false).unwrap_or_default())
    }

    /// The records that compaction at `compacted` leaves of the records up to it: also its own tombstones.
    pub(crate) fn surviving(index: &KeyIndex, compacted: i64) -> Self {
        Self::at(index, compacted, compacted, |main| main == compacted).unwrap_or_default()
    }

    /// The records up to `max` of what is live at `at`, and of the tombstones that are wanted;
    /// `None` if there is nothing at all, beyond `max` either.
    pub(crate) fn at(
        index: &KeyIndex,
        at: i64,
        max: i64,
        is_tombstone_kept: impl Fn(i64) -> bool,
    ) -> Option<Self> {
        let mut revisions = Vec::new();
        let mut is_empty = true;
        index.for_each_leaf(|leaf| {
            if leaf.len() == 0 {
                return;
            }
            for state in leaf.states_at(at).into_iter().flatten() {
                if !state.is_tombstone() || is_tombstone_kept(state.main) {
                    is_empty = false;
                    if state.main <= max {
                        revisions.push(state.revision());
                    }
                }
            }
        });
        revisions.sort_unstable();
        (!is_empty).then_some(Self { revisions, next: 0 })
    }

    /// Whether the next one that is asked for is kept.
    fn contains(&mut self, revision: Revision) -> bool {
        while self.revisions.get(self.next).is_some_and(|kept| *kept < revision) {
            self.next += 1;
        }
        self.revisions.get(self.next) == Some(&revision)
    }

    /// Whether a record is kept, in whatever order they are asked for.
    fn has(&self, revision: Revision) -> bool {
        self.revisions.binary_search(&revision).is_ok()
    }
}

/// Which records are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Of the records up to this main revision, only those of a [`Keep`].
    pub(crate) compacted: i64,
    /// Nothing after this main revision.
    pub(crate) until: i64,
}

/// A walk that knows which records are kept.
#[derive(Debug)]
pub(crate) struct KeptWalk {
    walk: RecordIter,
    /// Names every record that is kept.
    index: KeyIndex,
    keep: Keep,
    bounds: Bounds,
}

impl KeptWalk {
    pub(crate) const fn new(walk: RecordIter, index: KeyIndex, keep: Keep, bounds: Bounds) -> Self {
        Self { walk, index, keep, bounds }
    }

    pub(crate) const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The next record that can be read, and whether it is kept.
    pub(crate) fn next_of_all(&mut self) -> Option<Result<(Entry, bool), Error>> {
        loop {
            match self.walk.next()? {
                Ok(entry) => {
                    let revision = entry.change.revision;
                    let is_kept =
                        revision.main > self.bounds.compacted || self.keep.contains(revision);
                    return Some(Ok((entry, is_kept)));
                }
                Err(error) if !error.is_damage() => return Some(Err(error)),
                Err(error) => match self.affected() {
                    Some(affected) => return Some(Err(error.affecting(affected))),
                    None => self.walk.pass_over(),
                },
            }
        }
    }

    /// The wanted part of the block that could not be read.
    fn affected(&self) -> Option<Affected> {
        let unreadable = self.walk.unreadable()?;
        let Bounds { compacted, until } = self.bounds;
        Affected::find(&self.index, |revision| {
            let is_kept = revision.main > compacted || self.keep.has(revision);
            unreadable.contains(&revision) && revision.main <= until && is_kept
        })
    }
}

/// Records in revision order, as compaction leaves them.
#[derive(Debug)]
pub struct Records {
    kept: KeptWalk,
}

impl Records {
    pub(crate) const fn new(kept: KeptWalk) -> Self {
        Self { kept }
    }
}

impl Iterator for Records {
    type Item = Result<(Revision, Record), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.kept.next_of_all()? {
                Ok((entry, true)) => return Some(Ok((entry.change.revision, entry.change.record))),
                Ok((_, false)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
