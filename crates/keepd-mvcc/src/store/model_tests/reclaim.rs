//! Reclaiming space: what a rewrite drops, what it must keep, and what the store says of it.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::SimDisk;
use keepd_env::sim::CrashMode;
use keepd_types::{LeaseId, StoredValue};

use super::run::{DIR, Op, World, env, options};
use crate::jobs::Work;
use crate::{
    Applied, Done, Error, HashKv, JobKind, JobRequest, Reclaim, Store, Urgency, full_speed, inspect,
};

const fn put(key: u8, len: u16) -> Op {
    Op::Put { key, len, is_sealed: false }
}

const FULL: JobRequest = JobRequest::Rewrite(Reclaim::of(Urgency::Full));

fn run(world: &mut World, steps: &[Op]) {
    steps.iter().for_each(|op| world.step(op).unwrap());
}

#[test]
fn a_rewrite_between_trim_and_flush_frees_what_the_compaction_killed() {
    let mut world = World::new(false);
    for _ in 0..20 {
        (0..10).for_each(|key| run(&mut world, &[put(key, 200)]));
        run(&mut world, &[Op::Flush]);
    }
    run(&mut world, &[Op::Compact(255), Op::Flush]);
    while world.store.trim(64) {}
    let live = world.store.live_bytes();
    let full = world.store.disk_bytes();
    assert!(live * 4 < full, "live {live}, disk {full}");
    while world.store.run(FULL).unwrap() {}
    let disk = world.store.disk_bytes();
    assert!(disk * 4 < full && world.store.live_bytes() <= live, "disk {disk} of {full}");
    run(&mut world, &[Op::Reopen]);
    world.check_dead();
}

#[test]
fn what_dies_during_a_rewrite_is_counted() {
    let mut world = World::new(false);
    for round in 0..3 {
        (0..10).for_each(|key| run(&mut world, &[put(key, 200 + round)]));
        run(&mut world, &[Op::Flush]);
    }
    run(&mut world, &[Op::Compact(100), Op::Flush, Op::Trim(255), Op::TakeRewrite(2)]);
    run(&mut world, &[Op::Compact(255), Op::Flush, Op::Trim(255), Op::RunRewrite]);
    let before = world.store.live_bytes();
    run(&mut world, &[Op::FinishRewrite]);
    let after = world.store.live_bytes();
    assert!(after < before + 500, "live {before}, after the rewrite {after}");
}

#[test]
fn a_run_is_bounded_by_what_it_reads() {
    let mut world = World::new(false);
    for round in 0..60 {
        (0..5).for_each(|key| run(&mut world, &[put(key, 250 + round)]));
        run(&mut world, &[Op::Flush]);
    }
    run(&mut world, &[Op::Compact(255), Op::Flush, Op::Trim(255)]);
    let full = options().segment_bytes;
    let mut rewrites = 0;
    while let Some(job) = world.store.take(FULL) {
        let Work::Rewrite(rewrite) = &job.0 else { unreachable!("another kind of job") };
        assert!(rewrite.bytes() <= 16 * full, "{} bytes in one run", rewrite.bytes());
        world.store.finish(job.run(&mut full_speed).unwrap());
        world.check_dead();
        rewrites += 1;
    }
    assert!(rewrites > 2, "{rewrites} rewrites");
}

/// The meta deletion in a rewritten segment decides against the put in an older segment.
#[test]
fn a_meta_deletion_is_kept_for_an_older_segment() {
    let mut world = World::new(false);
    run(&mut world, &[put(0, 290), put(1, 290), put(2, 290), Op::MetaPut(0, 1)]);
    run(&mut world, &[put(3, 290), Op::Flush]);
    run(&mut world, &[put(4, 290), put(5, 290), put(6, 290), Op::MetaDelete(0, 1)]);
    run(&mut world, &[put(7, 290), Op::Flush, put(8, 290), Op::Flush]);
    run(&mut world, &[Op::Checkpoint, put(9, 290), Op::Flush, Op::Checkpoint]);
    let job = world.store.take_rewrite_of_one(1);
    world.store.finish(job.run(&mut full_speed).unwrap());
    run(&mut world, &[Op::Damage { is_all: true }]);
}

/// The meta deletion decides against the put in a checkpoint, also if no segment is older.
#[test]
fn a_meta_deletion_is_kept_for_a_checkpoint() {
    let mut world = World::new(false);
    run(&mut world, &[put(0, 290), Op::MetaPut(0, 1), Op::Flush, Op::Checkpoint]);
    run(&mut world, &[put(1, 290), put(2, 290), put(3, 290), Op::MetaDelete(0, 1)]);
    run(&mut world, &[put(4, 290), Op::Flush, put(5, 290), Op::Flush]);
    let job = world.store.take_rewrite_of_one(0);
    world.store.finish(job.run(&mut full_speed).unwrap());
    run(&mut world, &[Op::Reopen]);
}

#[test]
fn a_checkpoint_is_synced_before_it_is_named() {
    let mut world = World::new(false);
    run(&mut world, &[put(0, 290), put(1, 290), Op::Flush, Op::Checkpoint]);
    let disk = world.disk.crash(CrashMode::LoseUnsynced);
    let checkpoints: Vec<_> =
        disk.files().into_iter().filter(|it| it.to_string_lossy().contains("idx-")).collect();
    assert_eq!(checkpoints.len(), 1);
    // Without segments to replay, the state can only come from the checkpoint.
    let whole = inspect(&env(&disk, 5), Path::new(DIR), &FileKeys::plain()).unwrap();
    assert_eq!(whole.live_keys(), 2);
    let written = world.disk.peek(&checkpoints[0]).unwrap();
    assert_eq!(disk.peek(&checkpoints[0]), Some(written));
}

#[test]
fn a_start_counts_what_it_replayed_towards_the_next_checkpoint() {
    let mut world = World::new(false);
    run(&mut world, &[put(0, 290), put(1, 290), Op::Flush, Op::Checkpoint]);
    assert_eq!(world.store.stats().since_checkpoint_bytes, 0);
    run(&mut world, &[Op::Reopen]);
    assert_eq!(world.store.stats().since_checkpoint_bytes, 0);
    run(&mut world, &[put(2, 290), put(3, 290), Op::Flush, Op::Reopen]);
    let replayed = world.store.stats().since_checkpoint_bytes;
    assert!(replayed > 500, "{replayed}");
}

/// The hashes of two compactions, taken at once or only after a rewrite dropped what both killed.
fn hashes_of_compactions(is_late: bool) -> Vec<HashKv> {
    let env = env(&SimDisk::new(), 3);
    let mut store = Store::open(env, Path::new(DIR), FileKeys::plain(), options()).unwrap();
    let mut hashes = Vec::new();
    for round in 1..=8_u64 {
        for key in 0..6_u8 {
            let mut txn = store.begin();
            let value = StoredValue::plain(Bytes::from(vec![key; 200]));
            txn.put(Bytes::from(vec![b'k', key]), value, LeaseId::NONE);
            txn.finish();
        }
        if round == 4 || round == 7 {
            store.compact(store.revision() - 2).unwrap();
        }
        store.publish(Applied { index: round, term: 1 });
        assert!(store.run(JobRequest::Flush).unwrap());
        while store.trim(9) {}
        if !is_late {
            hashes.extend(next_hash(&mut store));
        }
        while store.run(FULL).unwrap() {}
    }
    hashes.extend(std::iter::from_fn(|| next_hash(&mut store)));
    hashes
}

fn next_hash(store: &mut Store) -> Option<HashKv> {
    let done = store.take(JobRequest::CompactionHash)?.run(&mut full_speed).unwrap();
    let hash = done.compaction_hash();
    store.finish(done);
    hash
}

#[test]
fn a_late_hash_is_over_what_the_compaction_found() {
    let at_once = hashes_of_compactions(false);
    assert_eq!(at_once.len(), 2);
    assert_eq!(hashes_of_compactions(true), at_once);
}

#[test]
fn a_job_that_is_stopped_changes_nothing_and_can_be_done_anew() {
    let mut world = World::new(true);
    for round in 0..20 {
        (0..10).for_each(|key| run(&mut world, &[put(key, 200 + round)]));
        run(&mut world, &[Op::Flush]);
    }
    run(&mut world, &[Op::Compact(255), Op::Flush, Op::Trim(255)]);
    let files = world.disk.files();
    let mut stop = |_: u64| ControlFlow::Break(());
    for request in [JobRequest::Checkpoint, FULL, JobRequest::Scrub] {
        let job = world.store.take(request).unwrap();
        let kind = job.kind();
        assert!(world.store.is_out(kind));
        assert!(world.store.take(request).is_none(), "two of a kind");
        let stopped = job.run(&mut stop).unwrap_err();
        assert!(matches!(stopped, Error::Stopped), "{kind:?}: {stopped}");
        world.store.finish(Done::abandoned(kind, &stopped));
        assert!(!world.store.is_out(kind));
    }
    assert_eq!(world.disk.files(), files);
    run(&mut world, &[Op::Checkpoint, Op::Rewrite(2), Op::Reopen]);
    assert_eq!(world.store.stats().since_checkpoint_bytes, 0);
}

#[test]
fn after_a_flush_that_failed_there_is_no_other() {
    let mut world = World::new(false);
    run(&mut world, &[put(1, 10), Op::Flush, put(1, 10), Op::Publish]);
    world.disk.set_capacity(Some(0));
    world.store.run(JobRequest::Flush).unwrap_err();
    world.disk.set_capacity(None);
    assert!(!world.store.is_out(JobKind::Flush));
    assert!(!world.store.run(JobRequest::Flush).unwrap(), "what is in the files is not known");
    run(&mut world, &[Op::Reopen, put(1, 10), Op::Flush, Op::Reopen]);
}
