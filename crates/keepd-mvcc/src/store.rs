//! The store as its one writer holds it: the apply thread.
//!
//! Writes go to the index and to the records that wait for the publish; [`Store::publish`] makes
//! them visible all at once as a new [`View`]. No call here reads or writes a file except reads of
//! old records; what touches the disk is handed out as jobs for other threads.

mod background;
mod import;
pub(crate) mod in_place;
#[cfg(test)]
mod model_tests;
pub(crate) mod reclaim;
mod reencrypt;
mod replace;
pub(crate) mod scrub;
mod sound;
pub(crate) mod txn;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_types::Revision;
use parking_lot::Mutex;

use crate::digest::{self, Digest};
use crate::error::{Error, RangeError};
use crate::index::KeyIndex;
use crate::jobs::compaction_hash::CompactionHashJob;
use crate::meta::{MetaOp, MetaTable};
use crate::options::Options;
use crate::record::{Applied, Entry, Record};
use crate::recovery::{self, LogSpan};
use crate::revlog::cache::BlockCache;
use crate::store::background::Jobs;
use crate::store::in_place::Place;
use crate::store::txn::{Arena, WriteTxn};
use crate::view::{View, Views};

/// Index leaves that each publish frees of compacted history: some microseconds of work, and the
/// whole index within seconds of writes.
const TRIM_LEAVES_PER_PUBLISH: usize = 16;
/// Compactions whose hash was not asked for yet; as many as etcd remembers.
const COMPACTION_HASHES_MAX: usize = 10;

/// Figures about a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Live keys.
    pub keys: u64,
    /// Records that are not yet durable in a segment, the ones being flushed included.
    pub tail_records: u64,
    /// Their size.
    pub tail_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes flushed since the last checkpoint was taken.
    pub since_checkpoint_bytes: u64,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    /// The state that the next publish makes visible.
    now: View,
    /// Changes since the last publish.
    pending: Vec<Entry>,
    /// Whether anything else was changed since.
    is_dirty: bool,
    arena: Arena,
    tail_records: u64,
    tail_bytes: u64,
    /// Meta writes that no flush has taken yet.
    meta_ops: Vec<MetaOp>,
    trim: Trim,
    /// Records that nothing names, by segment.
    dead: BTreeMap<u64, u64>,
    /// Those of them that a rewrite could not drop.
    pinned: BTreeMap<u64, u64>,
    jobs: Jobs,
    compactions: VecDeque<Compaction>,
    rewound: Option<Error>,
    views: Views,
    /// The files that [`InPlace`](crate::InPlace) looks after.
    place: Arc<Mutex<Option<Place>>>,
}

/// Which part of the index still holds compacted history.
#[derive(Debug, Default)]
struct Trim {
    /// The revision being trimmed to, and where to go on; `None` if the pass is done.
    pass: Option<(i64, Vec<u8>)>,
    /// The revision that the whole index is trimmed to.
    done: i64,
}

/// A compaction whose hash was not taken yet.
#[derive(Debug)]
struct Compaction {
    index: KeyIndex,
    previous: i64,
    revision: i64,
    /// The first view that shows it: no rewrite has dropped yet what the hash is over.
    view: Option<Arc<View>>,
}

impl Store {
    /// Opens the store in `dir`, or creates it.
    ///
    /// # Errors
    /// If the disk fails, a file is damaged or missing, or a key is. Nothing is changed then, except
    /// that a new store may have been begun.
    pub fn open(env: Env, dir: &Path, keys: FileKeys, options: Options) -> Result<Self, Error> {
        Self::open_with_log(env, dir, keys, options, &|| None)
    }

    /// [`Self::open`] where a Raft log is at hand, whose span `log` tells if it is asked: damage is done
    /// without if the log holds everything that was written since, and is then applied again from
    /// [`Self::applied`] on.
    ///
    /// # Errors
    /// As those of [`Self::open`].
    pub fn open_with_log(
        env: Env,
        dir: &Path,
        keys: FileKeys,
        options: Options,
        log: &dyn Fn() -> Option<LogSpan>,
    ) -> Result<Self, Error> {
        let mut recovered = recovery::open(env, dir, keys, options.block_bytes, log)?;
        let rewound = recovered.rewound.take();
        let cache = Arc::new(BlockCache::new(options.cache_bytes));
        let now = View::of(&recovered.durable, Arc::clone(&recovered.segments), cache);
        let damages = recovered.files.dir.damages.clone();
        let newest = Arc::new(ArcSwap::from_pointee(now.clone()));
        Ok(Self {
            trim: Trim { pass: None, done: now.compact_revision },
            now,
            pending: Vec::new(),
            is_dirty: false,
            arena: Arena::default(),
            tail_records: 0,
            tail_bytes: 0,
            meta_ops: Vec::new(),
            dead: recovered.dead.clone(),
            pinned: BTreeMap::new(),
            jobs: Jobs::new(recovered, options),
            compactions: VecDeque::new(),
            rewound,
            views: Views { newest, damages: Arc::new(ArcSwap::from_pointee(damages)) },
            place: Arc::default(),
        })
    }

    /// The damage that the start did without: what lay there comes from the log again.
    #[must_use]
    pub const fn rewound(&self) -> Option<&Error> {
        self.rewound.as_ref()
    }

    /// The last entry of the Raft log that was applied at the last publish.
    #[must_use]
    pub const fn applied(&self) -> Applied {
        self.now.applied
    }

    /// The running digest of what was applied; entries that are not published yet included.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.now.digest
    }

    /// Adds an entry of the Raft log, once it is applied, to the running digest, which begins anew if
    /// it lacks the entry before.
    ///
    /// # Panics
    /// If entries come out of order.
    pub fn digest_entry(&mut self, at: Applied, entry: &[u8]) {
        assert!(at.index > self.now.digest.index, "an entry is applied once");
        if at.index - 1 > self.now.digest.index {
            self.now.digest = Digest::begin(at.index - 1);
        }
        self.now.digest = self.now.digest.next(at, entry, self.now.revision);
    }

    /// The current main revision; 1 in a new store.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        self.now.revision
    }

    /// The compact revision; -1 before the first compaction.
    #[must_use]
    pub const fn compact_revision(&self) -> i64 {
        self.now.compact_revision
    }

    /// The newest view, for any thread.
    #[must_use]
    pub fn views(&self) -> Views {
        self.views.clone()
    }

    /// Begins a write transaction.
    #[must_use]
    pub fn begin(&mut self) -> WriteTxn<'_> {
        self.assert_sound();
        WriteTxn::new(self)
    }

    /// A record, unpublished ones included.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn load(&self, revision: Revision) -> Result<Record, Error> {
        let found = self.pending.binary_search_by_key(&revision, |entry| entry.change.revision);
        if let Ok(position) = found {
            return Ok(self.pending[position].change.record.clone());
        }
        match self.now.tail.get(revision) {
            Some(entry) => Ok(entry.change.record.clone()),
            None => self.now.segments.load(&self.now.cache, revision),
        }
    }

    fn push_pending(&mut self, entry: Entry) {
        let last = self.pending.last().map(|last| last.change.revision);
        assert!(Some(entry.change.revision) > last, "changes come in order");
        self.tail_records += 1;
        self.tail_bytes += entry.bytes();
        self.pending.push(entry);
    }

    /// Makes everything before `revision` unreadable, except what is still current there. The work
    /// on the index follows in bounded steps, see [`Store::trim`].
    ///
    /// # Errors
    /// If the revision is compacted already or in the future.
    pub fn compact(&mut self, revision: i64) -> Result<(), RangeError> {
        self.assert_sound();
        let (previous, current) = (self.now.compact_revision, self.now.revision);
        if revision <= previous {
            return Err(RangeError::Compacted { required: revision, compacted: previous });
        }
        if revision > current {
            return Err(RangeError::Future { required: revision, current });
        }
        keepd_env::failpoint!(CompactBeforeCommitScheduledCompact);
        self.now.compact_revision = revision;
        self.is_dirty = true;
        keepd_env::failpoint!(CompactAfterCommitScheduledCompact);
        if self.compactions.len() == COMPACTION_HASHES_MAX {
            self.compactions.pop_front();
        }
        let index = self.now.index.clone();
        self.compactions.push_back(Compaction { index, previous, revision, view: None });
        Ok(())
    }

    /// The hash of the oldest compaction whose hash was not taken yet, once it is published.
    fn compaction_hash(&mut self) -> Option<CompactionHashJob> {
        let view = self.compactions.front_mut()?.view.take()?;
        let Compaction { index, previous, revision, .. } = self.compactions.pop_front()?;
        Some(CompactionHashJob { view, index, previous, revision })
    }

    /// A meta table, unpublished writes included.
    #[must_use]
    pub fn meta(&self, table: u8) -> &MetaTable {
        self.now.meta.table(table)
    }

    /// Writes to a meta table.
    pub fn meta_put(&mut self, table: u8, key: Bytes, value: Bytes) {
        self.meta_apply(MetaOp { table, key, value: Some(value) });
    }

    /// Deletes from a meta table.
    pub fn meta_delete(&mut self, table: u8, key: &[u8]) {
        if self.now.meta.table(table).contains_key(key) {
            self.meta_apply(MetaOp { table, key: Bytes::copy_from_slice(key), value: None });
        }
    }

    fn meta_apply(&mut self, op: MetaOp) {
        self.assert_sound();
        assert!(op.table != digest::OWN_TABLE, "the table is the store's own");
        Arc::make_mut(&mut self.now.meta).apply(op.clone());
        self.meta_ops.push(op);
        self.is_dirty = true;
    }

    /// Ends a batch: all changes since the last publish become visible at once.
    ///
    /// # Panics
    /// If the applied index goes back.
    pub fn publish(&mut self, applied: Applied) -> Arc<View> {
        self.assert_sound();
        assert!(applied.index >= self.now.applied.index, "the applied index never goes back");
        self.now.applied = applied;
        if self.now.digest.index != applied.index {
            // The store was filled otherwise than by entries.
            self.now.digest = Digest::begin(applied.index);
        }
        self.is_dirty = false;
        self.now.tail.push(std::mem::take(&mut self.pending));
        self.trim(TRIM_LEAVES_PER_PUBLISH);
        let view = Arc::new(self.now.clone());
        for compaction in &mut self.compactions {
            compaction.view.get_or_insert_with(|| Arc::clone(&view));
        }
        self.views.newest.store(Arc::clone(&view));
        view
    }

    /// Lets new views read records where they are now. Shows nothing that is not published.
    fn publish_files(&self) {
        let mut view = View::clone(&self.views.newest.load());
        view.tail = self.now.tail.clone();
        view.segments = Arc::clone(&self.now.segments);
        self.views.newest.store(Arc::new(view));
    }

    /// Frees at most `leaves_max` leaves of the index of compacted history; returns whether more
    /// waits. Nothing that can be read changes.
    pub fn trim(&mut self, leaves_max: usize) -> bool {
        self.assert_sound();
        let target = self.trim_target();
        if self.trim.pass.is_none() && self.trim.done < target {
            self.trim.pass = Some((target, Vec::new()));
        }
        let Some((target, cursor)) = self.trim.pass.take() else { return false };
        let mut dead = Vec::new();
        let next = self.now.index.compact(target, &cursor, leaves_max, &mut dead);
        self.bury(&dead);
        match next {
            Some(cursor) => self.trim.pass = Some((target, cursor)),
            None => self.trim.done = target,
        }
        self.trim.pass.is_some() || self.trim.done < self.trim_target()
    }

    /// Whether nothing of past compactions is left to do: their hashes are taken, they are durable, and
    /// the index is trimmed to them.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.compactions.is_empty() && self.trim.done >= self.now.compact_revision
    }

    /// The revision up to which the index may be trimmed: a durable one, so that every record that dies lies in a segment
    /// and a restart finds the compaction that killed it.
    fn trim_target(&self) -> i64 {
        self.jobs.durable.commit.compact_revision
    }

    /// Counts records as dead.
    fn bury(&mut self, dead: &[Revision]) {
        for revision in dead {
            let position = self.now.segments.position_of(*revision);
            if let Some(segment) = position.and_then(|at| self.now.segments.list.get(at)) {
                *self.dead.entry(segment.id).or_default() += 1;
            }
        }
    }
}
