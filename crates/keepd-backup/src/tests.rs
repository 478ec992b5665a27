//! Files made from stores, read back into stores, damaged, cut, crafted, interrupted.

mod exported;
mod interrupted;
mod restored;
mod sealed;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keepd_bolt::{Planner, Writer};
use keepd_crypto::ValueSealer;
use keepd_env::{Env, SimDisk};
use keepd_lease::Lease;
use keepd_machine::tables;
use keepd_member::Layout;
use keepd_mvcc::{Applied, Options, Store, View};
use keepd_types::{KeyRange, KeyValue, LeaseId, MemberId, Revision, StoredValue};
use sha2::{Digest, Sha256};

use crate::{Error, Export, RestoreOptions, Restored, restore, status};

const DATA: &str = "/data";
const FILE: &str = "/snap.db";

fn env() -> (Env, SimDisk) {
    let (env, disk, _clock) = Env::simulated(7);
    (env, disk)
}

fn plain_keys() -> keepd_crypto::FileKeys {
    keepd_crypto::FileKeys::plain()
}

/// An empty store under `/source`.
fn new_store(env: &Env) -> Store {
    Store::open(env.clone(), Path::new("/source"), plain_keys(), Options::default()).unwrap()
}

/// A store with the state that most tests want in a file.
fn example(env: &Env) -> Store {
    let mut store = new_store(env);
    put(&mut store, "a", "1", 0);
    put(&mut store, "b", "2", 77);
    put(&mut store, "a", &"3".repeat(9000), 0);
    put(&mut store, "gone", "4", 77);
    delete(&mut store, "gone");
    put(&mut store, "/registry/secrets/default/s", "5", 78);
    store.compact(4).unwrap();
    for (id, ttl) in [(77, 300), (-5, 60)] {
        let mut lease = Vec::new();
        Lease { id: LeaseId(id), ttl, remaining_ttl: 0 }.encode(&mut lease);
        store.meta_put(tables::LEASES, tables::lease_key(LeaseId(id)), lease.into());
    }
    store.meta_put(tables::ALARMS, tables::alarm_key(MemberId(300), 1), Bytes::new());
    store.meta_put(tables::ALARMS, tables::alarm_key(MemberId(2), 2), Bytes::new());
    for id in [0x10, 0x9] {
        let json = format!("{{\"id\":{id},\"peerURLs\":[\"http://m{id}:2380\"]}}");
        store.meta_put(tables::MEMBERS, tables::member_key(MemberId(id)), json.into());
    }
    store.meta_put(tables::MEMBERS_REMOVED, tables::member_key(MemberId(0xab)), Bytes::new());
    store.meta_put(tables::FOREIGN, Bytes::from("authUsers\0root"), Bytes::from("user"));
    store.meta_put(tables::FOREIGN, Bytes::from("auth\0authEnabled"), Bytes::from_static(&[0]));
    let voters = Bytes::from_static(br#"{"voters":[9,16],"learners":[]}"#);
    store.meta_put(tables::CONF_STATE, Bytes::from_static(tables::CONF_STATE_KEY), voters);
    store.publish(Applied { index: 40, term: 3 });
    store
}

fn put(store: &mut Store, key: &str, value: &str, lease: i64) {
    put_stored(store, key, StoredValue::plain(Bytes::copy_from_slice(value.as_bytes())), lease);
}

fn put_stored(store: &mut Store, key: &str, value: StoredValue, lease: i64) {
    let mut txn = store.begin();
    txn.put(Bytes::copy_from_slice(key.as_bytes()), value, LeaseId(lease));
    txn.finish();
}

fn delete(store: &mut Store, key: &str) {
    let mut txn = store.begin();
    txn.delete_range(&KeyRange::point(Bytes::copy_from_slice(key.as_bytes())));
    txn.finish();
}

fn export(view: Arc<View>) -> Vec<u8> {
    export_with(view, ValueSealer::none())
}

/// With the keys of its sealed values.
fn export_with(view: Arc<View>, sealer: ValueSealer) -> Vec<u8> {
    Export::new(view, Arc::new(sealer)).unwrap().flat_map(Result::unwrap).collect()
}

/// The records of a view as they lie there.
fn records(view: &Arc<View>) -> Vec<(Revision, KeyValue, bool)> {
    let record = |record: Result<_, _>| {
        let (revision, record): (Revision, keepd_mvcc::Record) = record.unwrap();
        (revision, KeyValue::decode(&record.encoded).unwrap(), record.tombstone)
    };
    view.records().map(record).collect()
}

/// Revisions as they are in the file, to compare a restored store with its source.
fn unbumped() -> RestoreOptions {
    RestoreOptions { bump_revision: 0, mark_compacted: false, ..RestoreOptions::default() }
}

fn restore_plain(env: &Env, options: &RestoreOptions) -> Result<Restored, Error> {
    restore(env, Path::new(FILE), Path::new(DATA), options, None, &mut |_| {})
}

/// Restores the bytes of a file and opens the store that comes of it.
fn restored_store(env: &Env, disk: &SimDisk, file: &[u8], options: &RestoreOptions) -> Store {
    disk.poke(Path::new(FILE), file);
    restore_plain(env, options).unwrap();
    open_store(env, plain_keys())
}

fn open_store(env: &Env, keys: keepd_crypto::FileKeys) -> Store {
    let dir = Layout::store(&Layout::new(Path::new(DATA)).member);
    Store::open(env.clone(), &dir, keys, Options::default()).unwrap()
}

fn status_of(env: &Env, disk: &SimDisk, file: &[u8]) -> Result<crate::Status, Error> {
    disk.poke(Path::new(FILE), file);
    status(&*env.disk, Path::new(FILE), &mut |_| {})
}

/// A file with the given buckets and a right SHA-256.
fn crafted(buckets: &[(&str, Vec<(Bytes, Bytes)>)]) -> Vec<u8> {
    let mut planner = Planner::default();
    for (name, items) in buckets {
        planner.bucket(name.as_bytes()).unwrap();
        for (key, value) in items {
            planner.item(key.len(), value.len()).unwrap();
        }
    }
    let mut writer = Writer::new(planner.finish().unwrap(), Vec::new()).unwrap();
    for (name, items) in buckets {
        writer.bucket(Bytes::copy_from_slice(name.as_bytes())).unwrap();
        for (key, value) in items {
            writer.item(key.clone(), value.clone()).unwrap();
        }
    }
    with_sha256(writer.finish().unwrap())
}

fn with_sha256(mut image: Vec<u8>) -> Vec<u8> {
    let sha256 = Sha256::digest(&image);
    image.extend_from_slice(&sha256);
    image
}

/// An item of the bucket of records.
fn record_item(main: i64, kv: &KeyValue) -> (Bytes, Bytes) {
    let mut encoded = Vec::new();
    kv.encode(&mut encoded);
    (crate::format::record_key(Revision::first(main), false), encoded.into())
}

fn kv(key: &'static str, main: i64, value: &'static str) -> KeyValue {
    KeyValue {
        key: Bytes::from_static(key.as_bytes()),
        create_revision: main,
        mod_revision: main,
        version: 1,
        value: Bytes::from_static(value.as_bytes()),
        lease: LeaseId::NONE,
    }
}
