//! A store is replaced while readers, jobs and look-outs of the old one are about.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::{Disk, Env, SimDisk};
use keepd_types::{KeyRange, LeaseId, StoredValue};

use crate::{
    Applied, Done, Error, JobKind, JobRequest, Options, Reclaim, StateReader, StateWriter, Store,
    Urgency, View, full_speed,
};

const STORE: &str = "/member/store";
const OLD: &str = "/member/old";
const INCOMING: &str = "/member/incoming";

fn options() -> Options {
    Options { segment_bytes: 1500, block_bytes: 200, cache_bytes: 1 << 20 }
}

fn open(env: &Env, dir: &str) -> Store {
    Store::open(env.clone(), Path::new(dir), FileKeys::plain(), options()).unwrap()
}

/// Puts a key with a value that tells whose store it is.
fn put(store: &mut Store, key: &str, value: &str) {
    let mut txn = store.begin();
    let value = StoredValue::plain(Bytes::from(value.repeat(20)));
    txn.put(Bytes::copy_from_slice(key.as_bytes()), value, LeaseId::NONE);
    txn.finish();
    let index = store.applied().index + 1;
    store.publish(Applied { index, term: 1 });
}

fn read(view: &View, key: &str) -> Vec<u8> {
    let range = KeyRange::point(Bytes::copy_from_slice(key.as_bytes()));
    let (_, revision) = view.range(&range, 0, 0).unwrap().keys[0].clone();
    view.load(revision).unwrap().encoded.to_vec()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A store with several segments, dead records and a checkpoint.
fn fill(env: &Env, dir: &str, value: &str, puts: u64) -> Store {
    let mut store = open(env, dir);
    for number in 0..puts {
        put(&mut store, &format!("key-{}", number % 5), value);
        store.run(JobRequest::Flush).unwrap();
    }
    store.compact(store.revision() - 2).unwrap();
    put(&mut store, "last", value);
    store.run(JobRequest::Flush).unwrap();
    store.run(JobRequest::Checkpoint).unwrap();
    store.trim(usize::MAX);
    // Something for every kind of job.
    put(&mut store, "last", value);
    store.run(JobRequest::Flush).unwrap();
    put(&mut store, "last", value);
    store
}

/// The state of a store of another member, staged here.
fn stage(env: &Env) -> u64 {
    let leader = fill(env, "/leader", "theirs", 60);
    let mut reader = StateReader::new(leader.views().load());
    let dir = Path::new(INCOMING);
    let mut writer = StateWriter::create(env.clone(), dir, FileKeys::plain(), options()).unwrap();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        writer.push(&chunk).unwrap();
    }
    writer.finish().unwrap().head.applied.index
}

fn switch(disk: &SimDisk) -> Result<(), Error> {
    disk.rename(Path::new(STORE), Path::new(OLD))?;
    Ok(disk.rename(Path::new(INCOMING), Path::new(STORE))?)
}

/// Every kind of job.
fn requests() -> [JobRequest; 5] {
    let reclaim =
        Reclaim { urgency: Urgency::Full, room: u64::MAX, is_short: false, below: u64::MAX };
    [
        JobRequest::Flush,
        JobRequest::Checkpoint,
        JobRequest::Rewrite(reclaim),
        JobRequest::CompactionHash,
        JobRequest::Scrub,
    ]
}

#[test]
fn readers_go_on_with_what_they_hold_and_new_ones_see_the_new_store() {
    let (env, disk, _) = Env::simulated(3);
    let mut store = fill(&env, STORE, "ours", 20);
    let index = stage(&env);
    let (views, in_place) = (store.views(), store.in_place().unwrap());
    let old = views.load();
    let before = old.hash().unwrap();
    let new = store.replace(|| switch(&disk)).unwrap();
    disk.remove_dir_all(Path::new(OLD)).unwrap();
    assert!(Arc::ptr_eq(&new, &views.load()) && new.applied().index == index);
    assert!(holds(&read(&new, "key-1"), "theirs") && holds(&read(&old, "key-1"), "ours"));
    assert_eq!(old.hash().unwrap(), before);
    assert_eq!(in_place.missing().unwrap(), None);
    // It is the same store to write to, and to look after.
    put(&mut store, "key-9", "later");
    assert!(store.run(JobRequest::Flush).unwrap());
    assert_eq!(in_place.missing().unwrap(), None);
    assert!(holds(&read(&views.load(), "key-9"), "later"));
    disk.rename(Path::new(STORE), Path::new(OLD)).unwrap();
    assert!(in_place.missing().unwrap().is_some(), "the look-out is not blind");
}

#[test]
fn jobs_of_the_old_store_touch_nothing_of_the_new_one() {
    for is_run_before in [false, true] {
        let (env, disk, _) = Env::simulated(4);
        let mut store = fill(&env, STORE, "ours", 20);
        stage(&env);
        let jobs = requests().map(|request| store.take(request).expect("there is such a job"));
        let mut ended = Vec::new();
        let mut run = |job: crate::Job| {
            let kind = job.kind();
            let done = job.run(&mut full_speed);
            ended.push(done.unwrap_or_else(|error| {
                assert!(matches!(error, Error::Stopped), "{kind:?}: {error}");
                Done::abandoned(kind, &error)
            }));
        };
        let later: Vec<_> = if is_run_before {
            jobs.into_iter().for_each(&mut run);
            Vec::new()
        } else {
            jobs.into()
        };
        store.replace(|| switch(&disk)).unwrap();
        let names = disk.list(Path::new(STORE)).unwrap();
        later.into_iter().for_each(&mut run);
        assert_eq!(disk.list(Path::new(STORE)).unwrap(), names, "no file came or went");
        put(&mut store, "key-9", "later");
        let now = store.views().load().hash().unwrap();
        for done in ended {
            let kind = done.kind();
            assert!(kind != JobKind::Flush || store.take(JobRequest::Flush).is_none());
            assert!(store.is_out(kind), "one of a kind is out");
            store.finish(done);
            assert!(!store.is_out(kind));
        }
        assert_eq!(store.views().load().hash().unwrap(), now);
        for request in requests() {
            store.run(request).unwrap();
        }
        assert_eq!(store.durable(), store.applied());
        drop(store);
        assert_eq!(open(&env, STORE).views().load().hash().unwrap(), now);
    }
}

#[test]
fn a_switch_that_fails_leaves_a_store_that_writes_nothing() {
    let (env, disk, _) = Env::simulated(5);
    let mut store = fill(&env, STORE, "ours", 20);
    let view = store.views().load();
    let failed = store.replace(|| Ok(disk.rename(Path::new(INCOMING), Path::new(STORE))?));
    assert!(matches!(failed, Err(Error::Io(_))));
    let ended = store.take(JobRequest::Checkpoint).unwrap().run(&mut full_speed);
    assert!(matches!(ended, Err(Error::Stopped)));
    assert!(holds(&read(&view, "key-1"), "ours"));
}
