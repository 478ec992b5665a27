//! Rule 9.24: a list of many keys that were written in any order reads each block at most once, and
//! a repeated one reads nothing while the bounded cache has room.

use std::path::Path;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::{Env, IoOp, SimDisk};
use keepd_mvcc::{Applied, JobRequest, Options, Store};
use keepd_types::{KeyRange, KeyValue, LeaseId, StoredValue};

const KEYS: usize = 10_000;
const BLOCK_BYTES: usize = 4096;

fn key(number: usize) -> Bytes {
    Bytes::from(format!("/registry/pods/default/pod-{number:06}"))
}

/// Every key is written twice, both times in an order that has nothing to do with its name's.
fn filled(cache_bytes: usize) -> (Store, SimDisk) {
    let (env, disk, _) = Env::simulated(1);
    let options = Options { segment_bytes: 1 << 20, block_bytes: BLOCK_BYTES, cache_bytes };
    let mut store = Store::open(env, Path::new("/data"), FileKeys::plain(), options)
        .expect("a fresh store opens");
    for i in 0..2 * KEYS {
        let number = i * 7919 % KEYS;
        let mut txn = store.begin();
        let value = format!("{number} {i} ").repeat(16);
        txn.put(key(number), StoredValue::plain(value.into()), LeaseId::NONE);
        txn.finish();
        if i % 1000 == 999 {
            store.publish(Applied { index: i as u64, term: 1 });
            assert!(
                store.run(JobRequest::Flush).expect("the disk works"),
                "there is something to flush"
            );
        }
    }
    (store, disk)
}

/// Lists everything; how many reads of the disk that took.
fn list(store: &Store, disk: &SimDisk) -> usize {
    let is_read = |call: &keepd_env::sim::Call| call.op == IoOp::Read;
    let reads = || disk.recorded_calls().iter().filter(|call| is_read(call)).count();
    let before = reads();
    let view = store.views().load();
    let refs = view.range(&KeyRange::all(), 0, 0).expect("the current revision is readable");
    let revisions: Vec<_> = refs.keys.iter().map(|(_, revision)| *revision).collect();
    let records = view.load_many(&revisions).expect("the records are readable");
    assert_eq!(records.len(), KEYS);
    for (number, record) in records.iter().enumerate() {
        let kv = KeyValue::decode(&record.encoded).expect("a stored record decodes");
        assert_eq!((kv.key, kv.version), (key(number), 2));
    }
    reads() - before
}

#[test]
fn a_cold_list_reads_each_block_at_most_once_and_a_hot_one_nothing() {
    let (store, disk) = filled(64 << 20);
    disk.record_calls();
    let blocks = usize::try_from(store.disk_bytes()).expect("few bytes") / BLOCK_BYTES;
    assert!(blocks > 500 && blocks < KEYS / 2, "{blocks} blocks");
    let cold = list(&store, &disk);
    assert!(cold > 0 && cold <= blocks, "{cold} reads of {blocks} blocks");
    assert_eq!(list(&store, &disk), 0);
}

#[test]
fn the_cache_of_blocks_is_bounded() {
    let (store, disk) = filled(1 << 20);
    disk.record_calls();
    let cold = list(&store, &disk);
    let again = list(&store, &disk);
    assert!(again > 0 && again <= cold, "{again} after {cold}: more is held than may be");
}
