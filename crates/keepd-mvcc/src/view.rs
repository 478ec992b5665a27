//! Read views: the whole store at one applied index, immutable.
//!
//! Taking one is a reference count; it holds the key index, the tail, the list of segments and the
//! meta tables as they were. What it holds stays readable whatever compaction and rewriting do
//! meanwhile, segment files included: they are only unlinked, and the view keeps them open.

use std::sync::Arc;

use arc_swap::ArcSwap;
use keepd_types::{KeyRange, Revision};

use crate::damage::Damages;
use crate::digest::{self, Digest};
use crate::durable::Durable;
use crate::error::{Error, RangeError};
use crate::hash::RecordsHash;
use crate::index::KeyIndex;
use crate::kept::{Bounds, Keep, KeptWalk, Records};
use crate::meta::{Meta, MetaTable};
use crate::pace::{self, Pace, full_speed};
use crate::read::{all_live, range_count, range_refs, range_states, resolve};
use crate::record::{
    Applied, Change, ChangesPage, Entry, HashKv, KeyState, RangeRefs, RangeStates, Record,
};
use crate::record_iter::RecordIter;
use crate::revlog::cache::{BlockCache, CacheUse};
use crate::revlog::format::FlushCommit;
use crate::revlog::segment::Segments;
use crate::tail::Tail;

/// A hash tells of its work in pieces of about this size.
const PACE_BYTES: u64 = 1 << 20;

/// The newest view, for any thread, without a lock.
#[derive(Clone, Debug)]
pub struct Views {
    pub(crate) newest: Arc<ArcSwap<View>>,
    /// Of the store that has the directory now.
    pub(crate) damages: Arc<ArcSwap<Damages>>,
}

impl Views {
    /// The newest view.
    #[must_use]
    pub fn load(&self) -> Arc<View> {
        self.newest.load_full()
    }

    /// The damage that was met in the store's files.
    #[must_use]
    pub fn damages(&self) -> Damages {
        Damages::clone(&self.damages.load())
    }
}

/// The store at one applied index.
#[derive(Clone, Debug)]
pub struct View {
    pub(crate) index: KeyIndex,
    pub(crate) revision: i64,
    pub(crate) compact_revision: i64,
    pub(crate) applied: Applied,
    pub(crate) digest: Digest,
    pub(crate) tail: Tail,
    pub(crate) segments: Arc<Segments>,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) meta: Arc<Meta>,
}

impl View {
    /// The store as a restart finds it.
    pub(crate) fn of(durable: &Durable, segments: Arc<Segments>, cache: Arc<BlockCache>) -> Self {
        let FlushCommit { applied, revision, compact_revision, .. } = durable.commit;
        let mut meta = Arc::clone(&durable.meta);
        // It is the store's alone, and stands still between two flushes.
        Arc::make_mut(&mut meta).remove(digest::OWN_TABLE);
        Self {
            index: durable.index.clone(),
            revision,
            compact_revision,
            applied,
            digest: Digest::of(&durable.meta, applied),
            tail: Tail::default(),
            segments,
            cache,
            meta,
        }
    }

    /// The current main revision.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        self.revision
    }

    /// The compact revision; -1 before the first compaction.
    #[must_use]
    pub const fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// The last applied entry of the Raft log.
    #[must_use]
    pub const fn applied(&self) -> Applied {
        self.applied
    }

    /// The running digest of what was applied.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The number of live keys.
    #[must_use]
    pub const fn live_keys(&self) -> u64 {
        self.index.live()
    }

    /// A meta table.
    #[must_use]
    pub fn meta(&self, table: u8) -> &MetaTable {
        self.meta.table(table)
    }

    /// The first `limit` keys (0: all) of a range at revision `at` (0: current).
    ///
    /// # Errors
    /// If the revision is compacted or in the future.
    pub fn range(&self, range: &KeyRange, at: i64, limit: usize) -> Result<RangeRefs, RangeError> {
        Ok(range_refs(&self.index, range, self.resolve(at)?, limit))
    }

    /// The number of keys of a range at revision `at` (0: current).
    ///
    /// # Errors
    /// If the revision is compacted or in the future.
    pub fn count(&self, range: &KeyRange, at: i64) -> Result<u64, RangeError> {
        Ok(range_count(&self.index, range, self.resolve(at)?))
    }

    /// Whether every key of a range passes at the view's revision; looks on only while they do. The
    /// key comes in two parts. `None` if the range holds no key.
    pub fn all(
        &self,
        range: &KeyRange,
        passes: impl FnMut(&[u8], &[u8], &KeyState) -> bool,
    ) -> Option<bool> {
        all_live(&self.index, range, self.revision, passes)
    }

    /// The number of keys and past states that a read of a range at revision `at` (0: current) looks at,
    /// without looking at them; it ends when `max` is exceeded.
    #[must_use]
    pub fn weight(&self, range: &KeyRange, at: i64, max: u64) -> u64 {
        let at = if at <= 0 { self.revision } else { at };
        self.index.weight(range, at, max)
    }

    /// The states of the first `limit` keys (0: all) of a range at revision `at` (0: current),
    /// from the index alone.
    ///
    /// # Errors
    /// If the revision is compacted or in the future.
    pub fn states(
        &self,
        range: &KeyRange,
        at: i64,
        limit: usize,
    ) -> Result<RangeStates, RangeError> {
        Ok(range_states(&self.index, range, self.resolve(at)?, limit))
    }

    /// One record.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn load(&self, revision: Revision) -> Result<Record, Error> {
        match self.tail.first() {
            Some(first) if revision >= first => self
                .tail
                .get(revision)
                .map(|entry| entry.change.record.clone())
                .ok_or(Error::NoRecord { revision }),
            _ => self.segments.load(&self.cache, revision),
        }
    }

    /// Many records, in the order of `revisions`, read in the order of the disk.
    ///
    /// # Errors
    /// If there is none with one of the revisions, or it cannot be read.
    pub fn load_many(&self, revisions: &[Revision]) -> Result<Vec<Record>, Error> {
        self.load_with(CacheUse { cache: &self.cache, keeps: true }, revisions)
    }

    /// The same for a part of a long list: the block cache is left to others.
    ///
    /// # Errors
    /// As [`Self::load_many`].
    pub fn load_passing(&self, revisions: &[Revision]) -> Result<Vec<Record>, Error> {
        self.load_with(CacheUse { cache: &self.cache, keeps: false }, revisions)
    }

    fn load_with(&self, cache: CacheUse<'_>, revisions: &[Revision]) -> Result<Vec<Record>, Error> {
        let mut out: Vec<Option<Record>> = vec![None; revisions.len()];
        let first = self.tail.first();
        let mut on_disk = Vec::new();
        for (place, revision) in revisions.iter().enumerate() {
            if first.is_some_and(|first| *revision >= first) {
                out[place] = self.tail.get(*revision).map(|entry| entry.change.record.clone());
            } else {
                on_disk.push((*revision, place));
            }
        }
        self.segments.load_many(cache, &mut on_disk, &mut out)?;
        let missing = |place: usize| Error::NoRecord { revision: revisions[place] };
        out.into_iter().enumerate().map(|(place, it)| it.ok_or_else(|| missing(place))).collect()
    }

    /// The history from main revision `from_main` on: whole revisions, at most `revisions_max`.
    ///
    /// # Errors
    /// If `from_main` is compacted, or its records cannot be read. The page ends before later ones
    /// that cannot.
    pub fn changes(&self, from_main: i64, revisions_max: usize) -> Result<ChangesPage, Error> {
        if from_main < self.compact_revision {
            let (required, compacted) = (from_main, self.compact_revision);
            return Err(RangeError::Compacted { required, compacted }.into());
        }
        let mut page = ChangesPage { changes: Vec::new(), next: self.revision + 1 };
        let (mut revisions, mut last, mut seen) = (0, i64::MIN, from_main);
        for entry in self.walk(Revision::first(from_main)) {
            let change = match entry {
                Ok(entry) => entry.change,
                Err(error) if seen == from_main => return Err(error),
                Err(_damaged) => {
                    // What is whole is told; who needs more meets the damage first.
                    page.changes.retain(|change| change.revision.main < seen);
                    page.next = seen;
                    break;
                }
            };
            seen = change.revision.main;
            if !self.survives(&change) {
                continue;
            }
            if change.revision.main != last {
                if revisions == revisions_max {
                    page.next = change.revision.main;
                    break;
                }
                (revisions, last) = (revisions + 1, change.revision.main);
            }
            page.changes.push(self.with_readable_prev(change));
        }
        Ok(page)
    }

    /// etcd's hash of the records up to `revision` (0: current), as after a restart: the hashes of
    /// past compactions, which etcd prefers, are the caller's to keep.
    ///
    /// # Errors
    /// If the revision is compacted or in the future, or records cannot be read.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        let (current, compacted) = (self.revision, self.compact_revision);
        if 0 < revision && revision < compacted {
            return Err(RangeError::Compacted { required: revision, compacted }.into());
        }
        if revision > current {
            return Err(RangeError::Future { required: revision, current }.into());
        }
        let at = if revision == 0 { current } else { revision };
        let keep = Keep::live(&self.index, at, compacted);
        let bounds = Bounds { compacted, until: at };
        self.hash_records(self.kept(&self.index, keep, bounds), &mut full_speed)
    }

    /// Hashes the records that are kept; the walk is over this view's.
    pub(crate) fn hash_records(
        &self,
        mut kept: KeptWalk,
        pace: &mut Pace<'_>,
    ) -> Result<HashKv, Error> {
        let Bounds { compacted, until } = kept.bounds();
        let mut hash = RecordsHash::new();
        let mut bytes = 0;
        while let Some(next) = kept.next_of_all() {
            let (Entry { change, .. }, is_kept) = next?;
            bytes += change.record.encoded.len() as u64;
            if bytes >= PACE_BYTES {
                pace::tell(pace, std::mem::take(&mut bytes))?;
            }
            let revision = change.revision;
            if revision.main > until {
                break;
            }
            let is_gone = !is_kept || (revision.main == compacted && change.record.tombstone);
            if !is_gone && !hash.add(revision, &change.record) {
                return Err(self.malformed());
            }
        }
        Ok(HashKv { hash: hash.finish(), compact_revision: compacted, revision: until })
    }

    /// A checksum of everything that is replicated: meta tables and records. For tests: it depends
    /// on our layout.
    ///
    /// # Errors
    /// If records cannot be read.
    pub fn hash(&self) -> Result<u32, Error> {
        let mut crc = self.hash_kv(0)?.hash;
        // A table whose entries are gone is as one that never was.
        for (number, table) in self.meta.tables().filter(|(_, table)| !table.is_empty()) {
            crc = crc32c::crc32c_append(crc, &[number]);
            for (key, value) in table {
                crc = crc32c::crc32c_append(crc, key);
                crc = crc32c::crc32c_append(crc, value);
            }
        }
        Ok(crc)
    }

    /// Every record that compaction leaves, in revision order: for exports and state images. A part
    /// of a file that cannot be read is passed over if it can hold none of them.
    #[must_use]
    pub fn records(&self) -> Records {
        Records::new(self.kept_records())
    }

    /// The walk behind [`Self::records`].
    pub(crate) fn kept_records(&self) -> KeptWalk {
        let keep = Keep::surviving(&self.index, self.compact_revision);
        let bounds = Bounds { compacted: self.compact_revision, until: i64::MAX };
        self.kept(&self.index, keep, bounds)
    }

    /// A walk over this view's records that tells which of them are kept by `index`.
    pub(crate) fn kept(&self, index: &KeyIndex, keep: Keep, bounds: Bounds) -> KeptWalk {
        KeptWalk::new(self.walk(Revision::default()), index.clone(), keep, bounds)
    }

    pub(crate) fn walk(&self, from: Revision) -> RecordIter {
        RecordIter::new(&self.segments, &self.tail, from)
    }

    /// Whether compaction left the record. Below the compact revision nobody may ask.
    fn survives(&self, change: &Change) -> bool {
        let Revision { main, .. } = change.revision;
        main > self.compact_revision
            || self
                .index
                .get_at(&change.key, self.compact_revision)
                .is_some_and(|state| state.revision() == change.revision)
    }

    /// The previous record is named only if compaction left it, as clients of etcd see it.
    fn with_readable_prev(&self, mut change: Change) -> Change {
        if change.revision.main - 1 < self.compact_revision {
            change.prev = None;
        }
        change
    }

    fn malformed(&self) -> Error {
        let first = self.segments.list.first();
        Error::Corrupt {
            file: first.map(|segment| segment.path.clone()).unwrap_or_default(),
            offset: 0,
            reason: "a sealed record that is not a key-value",
        }
    }

    fn resolve(&self, at: i64) -> Result<i64, RangeError> {
        resolve(at, self.revision, self.compact_revision)
    }
}
