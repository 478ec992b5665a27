//! Failing disks: power cuts at every change, failures of every call, damage to every byte.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use keepd_crypto::FileKeys;
use keepd_env::sim::{CrashMode, FaultPlan};
use keepd_env::{IoOp, SimDisk};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::run::{DIR, Op, World, crash_mode, env, key, ops, options};
use crate::{DiskFullHook, Error, JobRequest, LogSpan, Reclaim, Store, Urgency};

/// A fixed script of `len` steps, the same in every run.
pub(super) fn script(len: usize) -> Vec<Op> {
    let mut runner = TestRunner::deterministic();
    let steps = prop::collection::vec(ops(), len..=len);
    let mut script = steps.new_tree(&mut runner).unwrap().current();
    let is_left_out =
        |op: &Op| matches!(op, Op::Crash(_) | Op::Reopen | Op::Damage { .. } | Op::Check(..));
    script.retain(|op| !is_left_out(op));
    script
}

fn is_job_of_little_consequence(op: &Op) -> bool {
    matches!(
        op,
        Op::RunCheckpoint
            | Op::Checkpoint
            | Op::ReclaimingCheckpoint(_)
            | Op::RunRewrite
            | Op::Rewrite(_)
    )
}

/// Runs the script until something fails that ends a process.
fn run(world: &mut World, script: &[Op]) -> bool {
    for op in script {
        match world.step(op) {
            Ok(()) => {}
            Err(Error::Io(_) | Error::Affecting { .. } | Error::Poisoned { .. })
                if is_job_of_little_consequence(op) => {}
            Err(Error::Io(_) | Error::Poisoned { .. }) => return true,
            Err(error) => panic!("{op:?}: {error}"),
        }
    }
    false
}

/// The store goes on after a recovery.
fn go_on(world: &mut World) {
    let steps = [
        Op::Put { key: 3, len: 30, is_sealed: false },
        Op::Flush,
        Op::Checkpoint,
        Op::Rewrite(2),
        Op::Reopen,
    ];
    steps.iter().for_each(|op| world.step(op).unwrap());
}

#[test]
fn a_power_cut_at_any_moment_leaves_a_published_state() {
    let script = script(250);
    let mut world = World::new(true);
    assert!(!run(&mut world, &script));
    let total = world.disk.mutations();
    assert!(total > 150, "the script changes the disk only {total} times");
    for cut in 0..=total {
        for seed in 0..4 {
            let mut world = World::new(true);
            if cut < world.disk.mutations() {
                continue;
            }
            world.disk.crash_at(cut);
            run(&mut world, &script);
            let image = world.disk.crash(crash_mode(cut * 4 + seed));
            world.reopen_on(image).unwrap();
            go_on(&mut world);
        }
    }
}

/// Starts on what a killed process left, goes on, and cuts the power.
fn check_killed(world: &mut World, seed: u64) {
    let killed = world.disk.kill();
    world.reopen_on(killed).unwrap();
    // The start told the log what it found, and the log may have forgotten it.
    world.reopen_on(world.disk.crash(crash_mode(seed))).unwrap();
    for op in [Op::Put { key: 3, len: 30, is_sealed: false }, Op::Flush] {
        world.step(&op).unwrap();
    }
    world.reopen_on(world.disk.crash(crash_mode(seed / 4))).unwrap();
    go_on(world);
}

#[test]
fn a_kill_at_any_moment_then_a_start_then_a_power_cut_leaves_what_the_start_found() {
    let script = script(250);
    let mut world = World::new(true);
    assert!(!run(&mut world, &script));
    let total = world.disk.mutations();
    for at in 0..=total {
        for seed in [0, 2, 3] {
            let mut world = World::new(true);
            if at < world.disk.mutations() {
                continue;
            }
            world.disk.crash_at(at);
            run(&mut world, &script);
            check_killed(&mut world, at * 16 + seed);
        }
    }
}

#[test]
fn after_a_failed_sync_a_start_takes_nothing_for_durable_that_it_reads() {
    let script = script(250);
    for after in 0.. {
        let mut world = World::new(after % 2 == 0);
        world.disk.fail(FaultPlan::once(Some(IoOp::Sync), after, ErrorKind::Other));
        let is_ended = run(&mut world, &script);
        check_killed(&mut world, 0);
        if !is_ended && after > 200 {
            break;
        }
    }
}

#[test]
fn starts_that_are_killed_too_leave_what_the_first_found() {
    let script = script(250);
    for point in 0..14 {
        for seed in 0..8 {
            let mut world = World::new(true);
            run(&mut world, &script);
            // The last flush is written, and its sync fails.
            world.step(&Op::Put { key: 5, len: 40, is_sealed: true }).unwrap();
            world.disk.fail(FaultPlan::failing_syncs());
            assert!(world.step(&Op::Flush).is_err());
            let killed = world.disk.kill();
            killed.crash_at(point);
            let open = |disk: &SimDisk| {
                Store::open(env(disk, 31), Path::new(DIR), world.keys(), options()).map(drop)
            };
            let _ = open(&killed);
            let again = if seed % 2 == 0 { killed.kill() } else { killed.crash(crash_mode(seed)) };
            world.reopen_on(again).unwrap();
            check_killed(&mut world, seed);
        }
    }
}

#[test]
fn an_orderly_stop_leaves_nothing_to_write_anew() {
    let mut world = World::new(false);
    let put = |key| Op::Put { key, len: 60, is_sealed: false };
    for op in [put(1), Op::Flush, put(2), Op::Flush, Op::Checkpoint, Op::Reopen] {
        world.step(&op).unwrap();
    }
    let segments = |world: &World| {
        files(&world.disk).iter().filter(|path| path.to_string_lossy().contains("seg-")).count()
    };
    assert_eq!(segments(&world), 1);
    for op in [put(3), Op::Flush, put(4), Op::Flush, Op::Reopen] {
        world.step(&op).unwrap();
    }
    assert_eq!(segments(&world), 3, "the last flush lies in a segment of its own");
}

#[test]
fn a_power_cut_while_a_store_is_created_leaves_an_empty_one() {
    for cut in 0..12 {
        for seed in 0..8 {
            let disk = SimDisk::new();
            disk.crash_at(cut);
            let open = |disk: &SimDisk| {
                Store::open(env(disk, seed), Path::new(DIR), FileKeys::plain(), options())
            };
            let _ = open(&disk);
            let store = open(&disk.crash(crash_mode(seed))).unwrap();
            assert_eq!(store.revision(), 1);
        }
    }
}

#[test]
fn any_failing_call_is_an_error_and_no_wrong_state() {
    let script = script(250);
    let mut world = World::new(false);
    assert!(!run(&mut world, &script));
    let total = world.disk.calls();
    for error in [ErrorKind::StorageFull, ErrorKind::Other] {
        for after in 0..total {
            let mut world = World::new(false);
            world.disk.fail(FaultPlan::once(None, after, error));
            run(&mut world, &script);
            world.disk.heal();
            let image = world.disk.crash(crash_mode(after));
            world.reopen_on(image).unwrap();
            go_on(&mut world);
        }
    }
}

#[test]
fn a_full_disk_loses_nothing() {
    let script = script(250);
    for capacity in (500..30_000).step_by(300) {
        let mut world = World::new(false);
        world.disk.set_capacity(Some(capacity));
        run(&mut world, &script);
        world.disk.heal();
        let image = world.disk.crash(CrashMode::WrittenBack);
        world.reopen_on(image).unwrap();
        go_on(&mut world);
    }
}

/// The disk is full at each call in turn that may find it so: what flushes write is only late, and
/// checkpoints and rewrites can be begun anew.
#[test]
fn a_disk_that_is_full_for_a_while_stops_no_flush() {
    let script = script(250);
    let (mut waits, mut failed_jobs) = (0, 0);
    for op in [IoOp::Write, IoOp::Create, IoOp::Rename] {
        for after in 0.. {
            let mut world = World::new(after % 2 == 0);
            let asked = Arc::new(AtomicU32::new(0));
            let (count, disk) = (Arc::clone(&asked), world.disk.clone());
            world.store.set_disk_full_hook(DiskFullHook::new(move |error| {
                assert!(error.is_out_of_space(), "{error}");
                // The first attempt to make room is in vain.
                if count.fetch_add(1, Ordering::Relaxed) > 0 {
                    disk.heal();
                }
                true
            }));
            let plan = FaultPlan::once(Some(op), after, ErrorKind::StorageFull);
            world.disk.fail(FaultPlan { sticky: true, ..plan });
            for op in &script {
                match world.step(op) {
                    Ok(()) => {}
                    Err(error) if error.is_out_of_space() => {
                        assert!(is_job_of_little_consequence(op), "{op:?}: {error}");
                        let step = world.step(op);
                        assert!(step.is_ok() || step.is_err_and(|it| it.is_out_of_space()));
                        failed_jobs += 1;
                    }
                    Err(error) => panic!("{op:?}: {error}"),
                }
            }
            waits += asked.load(Ordering::Relaxed);
            let is_hit = asked.load(Ordering::Relaxed) > 0;
            world.disk.heal();
            go_on(&mut world);
            world.reopen_on(world.disk.crash(CrashMode::LoseUnsynced)).unwrap();
            go_on(&mut world);
            if !is_hit {
                break;
            }
        }
    }
    assert!(waits > 40 && failed_jobs > 10, "{waits} waits, {failed_jobs} failed jobs");
}

/// A store with everything in it: several segments, one of them rewritten, two checkpoints.
fn furnished(is_sealed: bool) -> World {
    let mut world = World::new(is_sealed);
    let put = |key, len| Op::Put { key, len, is_sealed };
    let steps = [
        vec![put(0, 100), put(1, 90), Op::MetaPut(0, 1), Op::Flush],
        vec![put(0, 110), put(2, 200), put(6, 300), Op::Flush, put(6, 299), Op::Flush],
        vec![Op::DeleteRange(0, 1), put(9, 250), Op::MetaDelete(0, 1), Op::Flush, Op::Checkpoint],
        vec![put(9, 250), put(2, 250), put(10, 200), Op::Flush, Op::Compact(200), Op::Flush],
        vec![Op::Trim(99), Op::Rewrite(2), put(5, 10), Op::Flush, Op::Checkpoint],
        vec![Op::Txn(vec![(true, 1), (false, 2), (true, 3)]), Op::MetaPut(1, 2), Op::Flush],
        vec![put(4, 250), Op::Flush],
    ];
    steps.iter().flatten().for_each(|op| world.step(op).unwrap());
    world
}

/// Opens a damaged copy: refused, or damage is met while reading, or all is well.
pub(super) fn check_damaged(world: &World, disk: SimDisk, what: &str) {
    // Without a log, with all of it, and with one that was released up to some flush.
    let last = world.model.applied.index;
    for mark in [None, Some(0), Some(last / 2)] {
        let log = || mark.map(|mark| LogSpan { mark, last });
        check_damaged_with(world, &disk.kill(), what, &log);
    }
}

fn check_damaged_with(
    world: &World,
    disk: &SimDisk,
    what: &str,
    log: &dyn Fn() -> Option<LogSpan>,
) {
    let before = contents(disk);
    let (dir, keys) = (Path::new(DIR), world.keys());
    let store = match Store::open_with_log(env(disk, 77), dir, keys, options(), log) {
        Ok(store) => store,
        Err(
            Error::Corrupt { .. } | Error::Lost { .. } | Error::Missing { .. } | Error::Key { .. },
        ) => {
            assert!(before == contents(disk), "{what}: a refused start changed something");
            return;
        }
        Err(error) => panic!("{what}: {error}"),
    };
    if let Some(log) = log() {
        assert!(store.applied().index >= log.mark, "{what}: the log cannot bring it up to date");
    }
    let view = store.views().load();
    if view.records().any(|record| record.is_err()) {
        return;
    }
    let model = &world.published[&view.applied().index];
    model.check(&view, &keepd_types::KeyRange::all(), 3);
}

pub(super) fn contents(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    files(disk).into_iter().filter_map(|file| Some((file.clone(), disk.peek(&file)?))).collect()
}

pub(super) fn files(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|path| path.starts_with(DIR)).collect()
}

fn check_every_flip(is_sealed: bool) {
    let world = furnished(is_sealed);
    let names = files(&world.disk);
    let count = |part: &str| names.iter().filter(|it| it.to_string_lossy().contains(part)).count();
    assert!(count("seg-") >= 3 && count("idx-") == 2 && count("MANIFEST") == 1, "{names:?}");
    for file in names {
        let len = world.disk.peek(&file).unwrap().len() as u64;
        for offset in 0..len {
            let disk = world.disk.crash(CrashMode::WrittenBack);
            assert!(disk.flip(&file, offset, if offset % 2 == 0 { 1 } else { 0x80 }));
            check_damaged(&world, disk, &format!("{} at {offset}", file.display()));
        }
    }
}

#[test]
fn every_flipped_byte_of_a_plain_store_is_found_or_harmless() {
    check_every_flip(false);
}

#[test]
fn every_flipped_byte_of_a_sealed_store_is_found_or_harmless() {
    check_every_flip(true);
}

#[test]
fn every_cut_file_is_found_or_harmless() {
    let world = furnished(true);
    for file in files(&world.disk) {
        let bytes = world.disk.peek(&file).unwrap();
        for len in 0..bytes.len() {
            let disk = world.disk.crash(CrashMode::WrittenBack);
            disk.poke(&file, &bytes[..len]);
            check_damaged(&world, disk, &format!("{} cut at {len}", file.display()));
        }
    }
}

#[test]
fn a_missing_file_is_named_or_harmless() {
    let world = furnished(false);
    for file in files(&world.disk) {
        let disk = world.disk.crash(CrashMode::WrittenBack);
        keepd_env::Disk::remove(&disk, &file).unwrap();
        check_damaged(&world, disk, &format!("{} removed", file.display()));
    }
}

#[test]
fn a_segment_with_commits_that_the_manifest_lost_is_refused_and_stays() {
    let mut world = World::new(false);
    let is = |part: &str, path: &Path| path.to_string_lossy().contains(part);
    let manifest = files(&world.disk).into_iter().find(|path| is("MANIFEST", path)).unwrap();
    let before = world.disk.peek(&manifest).unwrap();
    let put = |key| Op::Put { key, len: 20, is_sealed: false };
    [put(0), Op::Flush].iter().for_each(|op| world.step(op).unwrap());
    let segment = files(&world.disk).into_iter().find(|path| is("seg-", path)).unwrap();
    let disk = world.disk.kill();
    disk.poke(&manifest, &before);
    let opened = Store::open(env(&disk, 77), Path::new(DIR), world.keys(), options());
    assert!(matches!(opened, Err(Error::Corrupt { file, .. }) if file == segment));
    assert_eq!(disk.peek(&segment), world.disk.peek(&segment));
}

#[test]
fn a_broken_flush_is_torn_at_the_end_and_damage_before_another() {
    let mut world = World::new(false);
    let put = |key| Op::Put { key, len: 20, is_sealed: false };
    let first = [put(0), Op::Flush];
    first.iter().chain(&[put(1), Op::Flush]).for_each(|op| world.step(op).unwrap());
    let segment = world.store.now.segments.list.last().unwrap();
    assert_eq!((world.store.now.segments.list.len(), segment.table.blocks.len()), (1, 2));
    let open = |block: usize| {
        let disk = world.disk.kill();
        assert!(disk.flip(&segment.path, segment.table.blocks[block].frame.offset + 20, 1));
        Store::open(env(&disk, 77), Path::new(DIR), world.keys(), options())
    };
    assert!(matches!(open(0), Err(Error::Corrupt { file, .. }) if file == segment.path));
    assert_eq!(open(1).unwrap().applied().index, world.store.applied().index - 1);
}

#[test]
fn a_sealed_store_shows_no_key_or_value() {
    let world = furnished(true);
    for needle in [key(0), key(1)] {
        assert_eq!(world.disk.find(&needle), None);
    }
    assert!(furnished(false).disk.find(&key(0)).is_some());
}

/// Puts a key, makes it old, deletes it, compacts, and rewrites the oldest segments as far as allowed.
fn buried(checkpoint_before_death: bool, rewrites: usize) -> World {
    let mut world = World::new(false);
    let put = |key, len| Op::Put { key, len, is_sealed: false };
    let mut steps = vec![put(0, 10), put(1, 290), put(2, 290), put(3, 290), put(4, 290), Op::Flush];
    steps.extend([put(8, 290), put(12, 290), Op::MetaPut(0, 1), Op::Flush]);
    if checkpoint_before_death {
        steps.push(Op::Checkpoint);
    }
    steps.extend([Op::DeleteRange(0, 1), Op::MetaDelete(0, 1)]);
    steps.extend([put(8, 280), put(12, 280), put(16, 280), put(8, 281), put(12, 281), Op::Flush]);
    steps.extend([put(20, 280), Op::Compact(255), Op::Flush, Op::Trim(99), Op::Flush]);
    steps.push(Op::Checkpoint);
    steps.extend((0..rewrites).map(|_| Op::Rewrite(2)));
    steps.extend([put(24, 280), Op::Flush]);
    steps.iter().for_each(|op| world.step(op).unwrap());
    world
}

#[test]
fn nothing_comes_back_from_the_dead() {
    for checkpoint_before_death in [false, true] {
        for rewrites in 0..4 {
            for is_all in [false, true] {
                let mut world = buried(checkpoint_before_death, rewrites);
                world.step(&Op::Damage { is_all }).unwrap();
                assert!(!world.model.at(i64::MAX).contains_key(&key(0)));
                go_on(&mut world);
            }
        }
    }
}

#[test]
fn a_checkpoint_under_way_keeps_tombstones() {
    let mut world = World::new(false);
    let put = |key, len| Op::Put { key, len, is_sealed: false };
    // The checkpoint holds the key; it is named only after the rewrite looked.
    let before =
        [put(0, 290), put(1, 290), put(2, 290), put(3, 290), Op::Flush, Op::TakeCheckpoint];
    let death = [Op::DeleteRange(0, 1), put(2, 290), put(3, 290), put(1, 290), Op::Flush];
    let burial = [Op::Compact(255), put(4, 290), Op::Flush, Op::Trim(99), Op::Rewrite(2)];
    let after = [Op::RunCheckpoint, Op::FinishCheckpoint, Op::Reopen];
    before.iter().chain(&death).chain(&burial).chain(&after).for_each(|op| {
        world.step(op).unwrap();
    });
}

#[test]
fn a_store_without_a_live_record_needs_some_space() {
    let mut world = World::new(false);
    let used = |world: &World| (world.store.live_bytes(), world.store.disk_bytes());
    [Op::MetaPut(0, 1), Op::Flush].iter().for_each(|op| world.step(op).unwrap());
    let (live, disk) = used(&world);
    assert!(live > 0 && live == disk, "live {live}, disk {disk}");

    let put = Op::Put { key: 0, len: 200, is_sealed: false };
    let steps = [put, Op::DeleteRange(0, 1), Op::Compact(255), Op::Flush, Op::Trim(99), Op::Flush];
    steps.iter().for_each(|op| world.step(op).unwrap());
    let (live, disk) = used(&world);
    assert!(live > 0 && live < disk, "live {live}, disk {disk}");
}

#[test]
fn space_is_reclaimed_online() {
    let mut world = World::new(false);
    for round in 0..40 {
        for number in 0..20 {
            world.step(&Op::Put { key: number, len: 200 + round, is_sealed: false }).unwrap();
        }
        world.step(&Op::Compact(255)).unwrap();
        for op in [Op::Flush, Op::Trim(255), Op::Flush, Op::Checkpoint] {
            world.step(&op).unwrap();
        }
        while world.store.run(JobRequest::Rewrite(Reclaim::of(Urgency::Normal))).unwrap() {}
    }
    let (live, disk) = (world.store.live_bytes(), world.store.disk_bytes());
    assert!(live < 20_000, "live {live}");
    assert!(disk < 3 * live, "disk {disk}, live {live}");
    let on_disk: usize =
        files(&world.disk).iter().map(|file| world.disk.peek(file).unwrap().len()).sum();
    assert!(on_disk < 60_000, "all files {on_disk}");
    world.step(&Op::Reopen).unwrap();
}
