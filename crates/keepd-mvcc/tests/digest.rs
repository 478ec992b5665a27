//! The running digest on disk: the same log gives the same digest, whatever happens in between.

use std::path::Path;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::sim::CrashMode;
use keepd_env::{Env, SimDisk};
use keepd_mvcc::{Applied, Digest, JobRequest, Options, Reclaim, Store, Urgency, inspect};
use keepd_types::{LeaseId, StoredValue};

const DIR: &str = "/store";
const ENTRIES: u64 = 60;

fn env(disk: &SimDisk) -> Env {
    Env { disk: std::sync::Arc::new(disk.clone()), ..Env::simulated(1).0 }
}

fn open(disk: &SimDisk) -> Store {
    let options = Options { segment_bytes: 1000, block_bytes: 200, cache_bytes: 1 << 20 };
    let store = Store::open(env(disk), Path::new(DIR), FileKeys::plain(), options);
    store.expect("the disk is whole")
}

/// Applies an entry that is a key to be put; every seventh is empty.
fn apply(store: &mut Store, index: u64) {
    let entry = if index.is_multiple_of(7) { String::new() } else { format!("key {}", index % 5) };
    if !entry.is_empty() {
        let mut txn = store.begin();
        let value = StoredValue::plain(Bytes::from(vec![b'v'; 50]));
        txn.put(Bytes::from(entry.clone()), value, LeaseId::NONE);
        txn.finish();
    }
    let at = Applied { index, term: 1 + index / 20 };
    store.digest_entry(at, entry.as_bytes());
    store.publish(at);
}

/// The digest of the log, applied without a stop.
fn expected() -> Digest {
    let mut store = open(&SimDisk::new());
    (1..=ENTRIES).for_each(|index| apply(&mut store, index));
    store.digest()
}

#[test]
fn flushes_restarts_checkpoints_rewrites_and_crashes_change_no_digest() {
    let mut disk = SimDisk::new();
    let mut store = open(&disk);
    let rewrite = JobRequest::Rewrite(Reclaim::of(Urgency::Full));
    for round in 0..2 * ENTRIES {
        let index = store.applied().index + 1;
        if index > ENTRIES {
            break;
        }
        apply(&mut store, index);
        if round % 3 == 0 {
            store.run(JobRequest::Flush).unwrap();
        }
        if round % 11 == 0 {
            store.run(JobRequest::Checkpoint).unwrap();
            let _is_new = store.compact(store.revision()).is_ok();
            while store.trim(9) {}
            while store.run(rewrite).unwrap() {}
        }
        if round % 13 == 0 {
            // What was applied after the last flush is applied again.
            disk = disk.crash(CrashMode::LoseUnsynced);
            store = open(&disk);
            assert_eq!(store.digest().index, store.applied().index);
            let found = inspect(&env(&disk), Path::new(DIR), &FileKeys::plain()).unwrap();
            assert_eq!(found.digest(), store.digest());
        }
    }
    assert_eq!(store.applied().index, ENTRIES);
    assert_eq!(store.digest(), expected());
    assert_eq!(store.views().load().digest(), expected());
}

#[test]
fn what_was_not_applied_entry_by_entry_begins_a_digest_anew() {
    let disk = SimDisk::new();
    let mut store = open(&disk);
    // A restored snapshot: records without a log.
    store.publish(Applied { index: 5, term: 1 });
    assert_eq!(store.digest(), Digest::begin(5));
    store.run(JobRequest::Flush).unwrap();
    let mut store = open(&disk);
    assert_eq!(store.digest(), Digest::begin(5));
    apply(&mut store, 6);
    assert_eq!((store.digest().since, store.digest().index), (5, 6));
    // A version without digests applied entry 7.
    store.publish(Applied { index: 7, term: 1 });
    apply(&mut store, 8);
    assert_eq!((store.digest().since, store.digest().index), (7, 8));
}

#[test]
fn one_other_byte_term_or_revision_is_seen_in_the_digest_forever() {
    let mut store = open(&SimDisk::new());
    (1..=ENTRIES).for_each(|index| match index {
        9 => {
            let at = Applied { index, term: 1 };
            store.digest_entry(at, b"key 3");
            store.publish(at);
        }
        _ => apply(&mut store, index),
    });
    let (found, expected) = (store.digest(), expected());
    assert_eq!((found.since, found.index), (expected.since, expected.index));
    assert_ne!(found.value, expected.value);
}
