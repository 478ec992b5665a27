//! The model: every record in a sorted map, compacted as etcd compacts its backend.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use keepd_types::{KeyRange, KeyValue, LeaseId, Revision, StoredValue};

use crate::{
    Applied, Change, ChangeKind, Error, HashKv, KeyState, RangeError, Record, Store, View,
};

/// The content of etcd's backend.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) records: BTreeMap<Revision, (KeyValue, Record)>,
    pub(crate) revision: i64,
    pub(crate) compact_revision: i64,
    pub(crate) applied: Applied,
    pub(crate) meta: BTreeMap<(u8, Bytes), Bytes>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            records: BTreeMap::new(),
            revision: 1,
            compact_revision: -1,
            applied: Applied::default(),
            meta: BTreeMap::new(),
        }
    }

    /// The live records at a revision, by key.
    pub(crate) fn at(&self, at: i64) -> BTreeMap<Bytes, (Revision, KeyValue)> {
        let mut keys = BTreeMap::new();
        for (revision, (kv, record)) in self.records.range(..=Revision { main: at, sub: i64::MAX })
        {
            if record.tombstone {
                keys.remove(&kv.key);
            } else {
                keys.insert(kv.key.clone(), (*revision, kv.clone()));
            }
        }
        keys
    }

    fn now(&self) -> BTreeMap<Bytes, (Revision, KeyValue)> {
        self.at(i64::MAX)
    }

    pub(crate) fn put(
        &mut self,
        revision: Revision,
        key: Bytes,
        value: StoredValue,
        lease: LeaseId,
    ) {
        let old = self.now().remove(&key);
        let (create, version) =
            old.map_or((revision.main, 1), |(_, kv)| (kv.create_revision, kv.version + 1));
        let kv = KeyValue {
            key,
            create_revision: create,
            mod_revision: revision.main,
            version,
            value: value.bytes,
            lease,
        };
        self.insert(revision, kv, false, value.seal);
    }

    pub(crate) fn delete(&mut self, main: i64, mut sub: i64, range: &KeyRange) -> i64 {
        for (key, _) in self.now().into_iter().filter(|(key, _)| range.contains(key)) {
            self.insert(Revision { main, sub }, KeyValue::tombstone(key), true, None);
            sub += 1;
        }
        sub
    }

    fn insert(
        &mut self,
        revision: Revision,
        kv: KeyValue,
        tombstone: bool,
        seal: Option<keepd_types::SealMark>,
    ) {
        let mut encoded = Vec::new();
        kv.encode(&mut encoded);
        self.records.insert(revision, (kv, Record { encoded: encoded.into(), tombstone, seal }));
        self.revision = self.revision.max(revision.main);
    }

    /// Compacts and gives the hash that etcd would have remembered.
    pub(crate) fn compact(&mut self, at: i64) -> HashKv {
        let mut keep = self.live_revisions(at);
        keep.extend(
            self.records
                .iter()
                .filter(|(revision, (_, record))| revision.main == at && record.tombstone)
                .map(|(revision, _)| *revision),
        );
        let hash = self.hash_with(self.compact_revision, at, &keep);
        let mut newest: BTreeMap<Bytes, (Revision, bool)> = BTreeMap::new();
        for (revision, (kv, record)) in self.records.range(..=Revision { main: at, sub: i64::MAX })
        {
            newest.insert(kv.key.clone(), (*revision, record.tombstone));
        }
        let survivors: BTreeSet<Revision> = newest
            .values()
            .filter(|(revision, tombstone)| !tombstone || revision.main == at)
            .map(|(revision, _)| *revision)
            .collect();
        self.records.retain(|revision, _| revision.main > at || survivors.contains(revision));
        self.compact_revision = at;
        hash
    }

    fn live_revisions(&self, at: i64) -> BTreeSet<Revision> {
        self.at(at).values().map(|(revision, _)| *revision).collect()
    }

    fn hash_with(&self, compacted: i64, at: i64, keep: &BTreeSet<Revision>) -> HashKv {
        let mut bytes = b"key".to_vec();
        for (revision, (_, record)) in &self.records {
            let is_filtered = revision.main <= compacted
                && ((!keep.is_empty() && !keep.contains(revision))
                    || (revision.main == compacted && record.tombstone));
            if revision.main > at || is_filtered {
                continue;
            }
            let (key, len) = revision.to_bytes(record.tombstone);
            bytes.extend_from_slice(&key[..len]);
            bytes.extend_from_slice(&record.encoded);
        }
        HashKv { hash: crc32c::crc32c(&bytes), compact_revision: compacted, revision: at }
    }

    pub(crate) fn hash(&self, at: i64) -> HashKv {
        self.hash_with(self.compact_revision, at, &self.live_revisions(at))
    }

    fn change(&self, revision: Revision) -> Change {
        let (kv, record) = self.records[&revision].clone();
        let prev = (revision.main > self.compact_revision)
            .then(|| self.at(revision.main - 1).remove(&kv.key))
            .flatten();
        Change {
            revision,
            kind: if record.tombstone { ChangeKind::Delete } else { ChangeKind::Put },
            key: kv.key,
            created: kv.version == 1,
            record,
            prev: prev.map(|(revision, _)| revision),
        }
    }

    /// Compares everything that can be read.
    pub(crate) fn check(&self, view: &Arc<View>, range: &KeyRange, limit: usize) {
        assert_eq!(view.revision(), self.revision);
        assert_eq!(view.compact_revision(), self.compact_revision);
        assert_eq!(view.applied(), self.applied);
        for table in 0..3 {
            let found: Vec<_> = view.meta(table).clone().into_iter().collect();
            let wanted = self.meta.iter().filter(|((number, _), _)| *number == table);
            let wanted: Vec<_> = wanted.map(|((_, k), v)| (k.clone(), v.clone())).collect();
            assert_eq!(found, wanted, "table {table}");
        }
        let first = self.compact_revision.max(1);
        let step = usize::try_from((self.revision - first) / 8 + 1).unwrap();
        for at in (first..=self.revision).step_by(step).chain([self.revision]) {
            self.check_range(view, range, at, limit);
            self.check_range(view, &KeyRange::all(), at, 0);
            assert_eq!(view.hash_kv(at).unwrap(), self.hash(at), "at {at}");
        }
        self.check_errors(view);
        self.check_records(view);
        self.check_changes(view, limit);
    }

    fn check_range(&self, view: &View, range: &KeyRange, at: i64, limit: usize) {
        let wanted: Vec<_> =
            self.at(at).into_iter().filter(|(key, _)| range.contains(key)).collect();
        let count = wanted.len() as u64;
        let shown = if limit == 0 { wanted.len() } else { limit.min(wanted.len()) };
        let refs: Vec<_> =
            wanted[..shown].iter().map(|(key, (revision, _))| (key.clone(), *revision)).collect();
        let states: Vec<_> = wanted[..shown]
            .iter()
            .map(|(key, (mod_revision, kv))| {
                let state = KeyState {
                    create_revision: kv.create_revision,
                    mod_revision: *mod_revision,
                    version: kv.version,
                };
                (key.clone(), state)
            })
            .collect();
        let found = view.range(range, at, limit).unwrap();
        assert_eq!((found.keys, found.count), (refs, count), "range {range:?} at {at}");
        let found = view.states(range, at, limit).unwrap();
        assert_eq!((found.keys, found.count), (states, count), "states {range:?} at {at}");
        assert_eq!(view.count(range, at).unwrap(), count);
        for (key, (revision, _)) in wanted.iter().take(3) {
            let point = view.range(&KeyRange::point(key.clone()), at, 0).unwrap();
            assert_eq!(point.keys, [(key.clone(), *revision)]);
        }
    }

    fn check_errors(&self, view: &View) {
        let all = KeyRange::all();
        let future = view.range(&all, self.revision + 1, 0);
        assert!(matches!(future, Err(RangeError::Future { .. })));
        if self.compact_revision > 1 {
            let compacted = view.range(&all, self.compact_revision - 1, 0);
            assert!(matches!(compacted, Err(RangeError::Compacted { .. })));
            let compacted = view.changes(self.compact_revision - 1, 1);
            assert!(matches!(compacted, Err(Error::Range(RangeError::Compacted { .. }))));
        }
    }

    fn check_records(&self, view: &Arc<View>) {
        let found: Vec<_> = view.records().map(Result::unwrap).collect();
        let wanted: Vec<_> = self
            .records
            .iter()
            .map(|(revision, (_, record))| (*revision, record.clone()))
            .collect();
        assert_eq!(found, wanted);
        let mut revisions: Vec<Revision> = self.records.keys().copied().collect();
        let third = revisions.len() / 3;
        revisions.rotate_left(third);
        let loaded = view.load_many(&revisions).unwrap();
        for (revision, record) in revisions.iter().zip(loaded) {
            assert_eq!(record, self.records[revision].1);
        }
        if let Some(revision) = revisions.first() {
            assert_eq!(view.load(*revision).unwrap(), self.records[revision].1);
            assert!(view.load(Revision { sub: 1 << 20, ..*revision }).is_err());
        }
    }

    fn check_changes(&self, view: &View, limit: usize) {
        let from = self.compact_revision.max(0);
        let wanted: Vec<Change> = self
            .records
            .range(Revision::first(from)..)
            .map(|(revision, _)| self.change(*revision))
            .collect();
        let (mut found, mut next) = (Vec::new(), from);
        while next <= self.revision {
            let page = view.changes(next, limit + 1).unwrap();
            assert!(page.next > next);
            found.extend(page.changes);
            next = page.next;
        }
        assert_eq!(found, wanted);
    }

    /// Compares what a transaction finds.
    pub(crate) fn check_txn(&self, store: &mut Store, key: &Bytes) {
        let old = self.revision;
        let txn = store.begin();
        let state = txn.get(key).map(|state| state.mod_revision);
        assert_eq!(state, self.now().get(key).map(|(revision, _)| *revision));
        let found = txn.range_before(&KeyRange::all(), 0, 0).unwrap();
        assert_eq!(found.count, self.at(old).len() as u64);
        for (_, revision) in found.keys.iter().take(2) {
            assert_eq!(txn.load(*revision).unwrap(), self.records[revision].1);
        }
        assert!(!txn.changed());
        assert!(txn.finish().is_empty());
        assert_eq!(store.revision(), old);
    }
}
