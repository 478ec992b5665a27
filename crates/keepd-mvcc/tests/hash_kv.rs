//! The hashes that etcd 3.7.1 printed for a fixed sequence of writes.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_mvcc::{Applied, HashKv, JobRequest, Options, Store, View, full_speed};
use keepd_types::{KeyRange, LeaseId, StoredValue};

fn store() -> Store {
    let (env, _, _) = Env::simulated(1);
    Store::open(env, Path::new("/data/revlog"), FileKeys::plain(), Options::default()).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(store: &mut Store, key: &str, value: &str) {
    let mut txn = store.begin();
    txn.put(bytes(key), StoredValue::plain(bytes(value)), LeaseId::NONE);
    txn.finish();
}

fn publish(store: &mut Store) -> Arc<View> {
    let index = store.applied().index + 1;
    store.publish(Applied { index, term: 1 })
}

fn check(view: &View, at: i64, hash: u32, compact_revision: i64, revision: i64) {
    assert_eq!(view.hash_kv(at).unwrap(), HashKv { hash, compact_revision, revision }, "at {at}");
}

fn written() -> Store {
    let mut store = store();
    put(&mut store, "a", "1");
    put(&mut store, "b", "1");
    put(&mut store, "a", "2");
    let mut txn = store.begin();
    txn.delete_range(&KeyRange::point(bytes("b")));
    txn.finish();
    let mut txn = store.begin();
    txn.put(bytes("c"), StoredValue::plain(bytes("1")), LeaseId::NONE);
    txn.delete_range(&KeyRange::point(bytes("a")));
    txn.put(bytes("d"), StoredValue::plain(bytes("1")), LeaseId::NONE);
    assert_eq!(txn.finish().len(), 3);
    put(&mut store, "b", "9");
    store
}

#[test]
fn a_virgin_store_hashes_the_buckets_name() {
    let view = publish(&mut store());
    check(&view, 0, 1_084_519_789, -1, 1);
}

#[test]
fn hashes_equal_etcds_before_any_compaction() {
    let view = publish(&mut written());
    check(&view, 2, 2_587_454_935, -1, 2);
    check(&view, 4, 3_086_679_940, -1, 4);
    check(&view, 5, 1_416_966_122, -1, 5);
    check(&view, 6, 1_383_075_984, -1, 6);
    check(&view, 7, 383_623_078, -1, 7);
    check(&view, 0, 383_623_078, -1, 7);
}

fn compaction_hash(store: &mut Store) -> Option<HashKv> {
    let done = store.take(JobRequest::CompactionHash)?.run(&mut full_speed).unwrap();
    let hash = done.compaction_hash();
    store.finish(done);
    hash
}

#[test]
fn hashes_equal_etcds_after_compactions() {
    let mut store = written();
    publish(&mut store);
    store.compact(5).unwrap();
    let view = publish(&mut store);
    let expected = HashKv { hash: 1_416_966_122, compact_revision: -1, revision: 5 };
    assert_eq!(compaction_hash(&mut store), Some(expected));
    check(&view, 6, 1_558_041_080, 5, 6);
    check(&view, 7, 3_152_908_602, 5, 7);
    store.compact(6).unwrap();
    let view = publish(&mut store);
    let expected = HashKv { hash: 1_558_041_080, compact_revision: 5, revision: 6 };
    assert_eq!(compaction_hash(&mut store), Some(expected));
    check(&view, 7, 1_417_476_524, 6, 7);
    assert_eq!(compaction_hash(&mut store), None);
}
