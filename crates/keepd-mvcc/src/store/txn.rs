//! Write transactions: one main revision, applied to the index as they go.
//!
//! A transaction cannot be taken back: the caller decides everything that can fail before it
//! writes, as etcd does. Nothing of it is seen by views until the store publishes.

use bytes::{Bytes, BytesMut};
use keepd_types::{KeyRange, KeyValue, LeaseId, Revision, StoredValue, varint};

use crate::error::{Error, RangeError};
use crate::index::{KeyBuffer, State};
use crate::read::{all_live, range_refs, resolve};
use crate::record::{Change, ChangeKind, Entry, KeyState, RangeRefs, Record};
use crate::store::Store;

/// Encoded records are cut from pieces of this size, so that a record costs no allocation.
const ARENA_BYTES: usize = 64 * 1024;

/// A buffer that encoded records are cut from.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    piece: BytesMut,
    scratch: Vec<u8>,
}

impl Arena {
    /// Encodes `kv`; also returns the key as a part of the encoding.
    pub(crate) fn encode(&mut self, kv: &KeyValue) -> (Bytes, Bytes) {
        self.scratch.clear();
        kv.encode(&mut self.scratch);
        if self.piece.capacity() < self.scratch.len() {
            self.piece = BytesMut::with_capacity(ARENA_BYTES.max(self.scratch.len()));
        }
        self.piece.extend_from_slice(&self.scratch);
        let encoded = self.piece.split().freeze();
        let key_at = 1 + varint::len_u64(kv.key.len() as u64);
        let key = encoded.slice(key_at..key_at + kv.key.len());
        (encoded, key)
    }
}

/// A write transaction.
#[derive(Debug)]
pub struct WriteTxn<'a> {
    store: &'a mut Store,
    main: i64,
    /// The position of the transaction's first change among those that wait for the publish.
    first: usize,
}

impl<'a> WriteTxn<'a> {
    pub(crate) const fn new(store: &'a mut Store) -> Self {
        let (main, first) = (store.now.revision + 1, store.pending.len());
        WriteTxn { store, main, first }
    }

    /// The main revision that the changes get.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        self.main
    }

    /// The current main revision without this transaction.
    #[must_use]
    pub const fn current(&self) -> i64 {
        self.main - 1
    }

    /// Whether anything was changed.
    #[must_use]
    pub const fn changed(&self) -> bool {
        self.store.pending.len() > self.first
    }

    /// The latest state of a key, own writes included.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<KeyState> {
        self.store.now.index.get(key).and_then(|state| state.live())
    }

    /// The first `limit` keys (0: all) of a range with their latest records, own writes included,
    /// and the number of all.
    #[must_use]
    pub fn range(&self, range: &KeyRange, limit: usize) -> (Vec<(Bytes, Revision)>, u64) {
        let refs = range_refs(&self.store.now.index, range, i64::MAX, limit);
        (refs.keys, refs.count)
    }

    /// Whether every key of a range passes, own writes included; looks on only while they do. The
    /// key comes in two parts. `None` if the range holds no key.
    pub fn all(
        &self,
        range: &KeyRange,
        passes: impl FnMut(&[u8], &[u8], &KeyState) -> bool,
    ) -> Option<bool> {
        all_live(&self.store.now.index, range, i64::MAX, passes)
    }

    /// The first `limit` keys (0: all) of a range before the transaction, at revision `at` (0: the
    /// newest one).
    ///
    /// # Errors
    /// If the revision is compacted or in the future.
    pub fn range_before(
        &self,
        range: &KeyRange,
        at: i64,
        limit: usize,
    ) -> Result<RangeRefs, RangeError> {
        let now = &self.store.now;
        Ok(range_refs(&now.index, range, resolve(at, self.main - 1, now.compact_revision)?, limit))
    }

    /// A record, own writes included.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn load(&self, revision: Revision) -> Result<Record, Error> {
        self.store.load(revision)
    }

    /// Writes a key. Returns the record that it had, own writes included.
    pub fn put(&mut self, key: Bytes, value: StoredValue, lease: LeaseId) -> Option<Revision> {
        let (main, sub) = (self.main, self.sub());
        let mut new = State { main, sub, create: main, version: 1 };
        let old = self.store.now.index.update(&key, |old| {
            if let Some(old) = old.filter(|old| !old.is_tombstone()) {
                new.create = old.create;
                new.version = old.version + 1;
            }
            new
        });
        let kv = KeyValue {
            key,
            create_revision: new.create,
            mod_revision: main,
            version: new.version,
            value: value.bytes,
            lease,
        };
        let (encoded, key) = self.store.arena.encode(&kv);
        let record = Record { encoded, tombstone: false, seal: value.seal };
        self.record(key, old, new, record);
        live_revision(old)
    }

    /// Deletes the keys of a range, in key order. Returns them with the records that they had.
    pub fn delete_range(&mut self, range: &KeyRange) -> Vec<(Bytes, Revision)> {
        let mut found = KeyBuffer::new();
        self.store.now.index.scan(range, i64::MAX, 0, |prefix, suffix, state| {
            found.push(prefix, suffix, state.revision());
        });
        let found = found.finish();
        for (key, _) in &found {
            let (main, sub) = (self.main, self.sub());
            let mut new = State { main, sub, create: main, version: 0 };
            let old = self.store.now.index.update(key, |old| {
                new.create = old.map_or(main, |old| old.create);
                new
            });
            let (encoded, key) = self.store.arena.encode(&KeyValue::tombstone(key.clone()));
            self.record(key, old, new, Record { encoded, tombstone: true, seal: None });
        }
        found
    }

    /// Ends the transaction. Without a change there is no new revision.
    pub fn finish(self) -> Vec<Change> {
        self.store.pending[self.first..].iter().map(|entry| entry.change.clone()).collect()
    }

    fn sub(&self) -> u32 {
        u32::try_from(self.store.pending.len() - self.first)
            .expect("a transaction is limited by its request's size")
    }

    fn record(&mut self, key: Bytes, old: Option<State>, new: State, record: Record) {
        // What the key was before the transaction, even if this is its second change in it.
        let before = match old {
            Some(old) if old.main == self.main => self.store.now.index.get_at(&key, self.main - 1),
            old => old,
        };
        let change = Change {
            revision: new.revision(),
            kind: if record.tombstone { ChangeKind::Delete } else { ChangeKind::Put },
            key,
            created: new.version == 1,
            record,
            prev: live_revision(before),
        };
        self.store.push_pending(Entry { change, create: new.create });
    }
}

impl Drop for WriteTxn<'_> {
    /// The changes are in the index already, so the revision counts however the transaction ends.
    fn drop(&mut self) {
        if self.changed() {
            self.store.now.revision = self.main;
        }
    }
}

fn live_revision(state: Option<State>) -> Option<Revision> {
    state.filter(|state| !state.is_tombstone()).map(|state| state.revision())
}
