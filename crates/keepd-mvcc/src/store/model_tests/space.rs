//! Giving space back while there is little of it.

use std::path::{Path, PathBuf};

use keepd_env::SimDisk;

use super::run::{Op, World};
use crate::{Done, Error, JobRequest, Reclaim, Urgency, full_speed};

fn put(key: u8, len: u16) -> Op {
    Op::Put { key, len, is_sealed: false }
}

fn run(world: &mut World, steps: &[Op]) {
    steps.iter().for_each(|op| world.step(op).unwrap());
}

/// Everything that was compacted is durable and counted as dead.
const BURIAL: [Op; 4] = [Op::Compact(255), Op::Flush, Op::Trim(255), Op::Flush];

fn with_room(room: u64) -> JobRequest {
    JobRequest::Rewrite(Reclaim { room, is_short: true, ..Reclaim::of(Urgency::Full) })
}

#[test]
fn a_copy_that_does_not_fit_is_not_begun_and_waits_for_more_room() {
    let mut world = World::new(false);
    // One long record lives among short dead ones, so the counts promise a short copy.
    run(&mut world, &[put(0, 299)]);
    (0..40).for_each(|_| run(&mut world, &[put(1, 10)]));
    run(&mut world, &[Op::Flush, put(2, 299), Op::Flush]);
    run(&mut world, &BURIAL);

    assert!(world.store.take(with_room(10)).is_none(), "not even the counts fit");
    let (files, calls) = (world.disk.files(), world.disk.mutations());
    let job = world.store.take(with_room(2000)).expect("by the counts it fits");
    assert!(job.copied_bytes() < 2000);
    let error = job.run(&mut full_speed).unwrap_err();
    assert!(matches!(error, Error::NoRoom { room: 2000, .. }), "{error}");
    assert_eq!((world.disk.files(), world.disk.mutations()), (files, calls));

    world.store.finish(Done::abandoned(with_room(2000).kind(), &error));
    assert!(world.store.take(with_room(2000)).is_none(), "nothing has changed");
    let job = world.store.take(with_room(1 << 20)).expect("there is more room");
    let before = world.store.disk_bytes();
    world.store.finish(job.run(&mut full_speed).unwrap());
    assert!(world.store.disk_bytes() < before - 200);
}

#[test]
fn segments_that_need_no_copy_go_first_and_without_a_new_file() {
    let mut world = World::new(false);
    // The first segments are half alive, the ones behind them are not at all.
    for round in 0..3 {
        for key in 0..4 {
            run(&mut world, &[put(10 + key + round, 290), Op::Flush]);
        }
    }
    (0..16).for_each(|_| run(&mut world, &[put(1, 290), Op::Flush]));
    run(&mut world, &[put(2, 290)]);
    run(&mut world, &BURIAL);
    let job = world.store.take(with_room(0)).expect("some need no room");
    assert_eq!(job.copied_bytes(), 0);
    // Nearly full: there is room for the manifest.
    world.disk.set_capacity(Some(world.disk.used_bytes() + 1000));
    let files = world.disk.files().len();
    world.store.finish(job.run(&mut full_speed).unwrap());
    assert!(world.disk.files().len() < files);
}

#[test]
fn the_last_segment_is_given_back_too() {
    let mut world = World::new(false);
    (0..3).for_each(|round| run(&mut world, &[put(1, 110 + round)]));
    run(&mut world, &[Op::Flush, Op::DeleteRange(1, 1), Op::Flush]);
    run(&mut world, &BURIAL);
    let before = world.store.disk_bytes();
    assert!(
        world.store.take(JobRequest::Rewrite(Reclaim::of(Urgency::Full))).is_none(),
        "nothing but the last segment"
    );

    // Nothing is written meanwhile: the flush only begins a new segment.
    world.store.close_segment(Urgency::Full);
    assert!(world.store.is_closing());
    assert!(world.store.run(JobRequest::Flush).unwrap(), "the segment is to be closed");
    assert!(!world.store.is_closing());
    run(&mut world, &[Op::ReclaimingCheckpoint(0), Op::Rewrite(2)]);
    assert!(world.store.disk_bytes() < before - 300, "{before}");
    world.store.close_segment(Urgency::Full);
    assert!(!world.store.is_closing(), "the new one has nothing to give");
    run(&mut world, &[Op::Reopen, put(1, 10), Op::Flush, Op::Reopen]);
}

/// Leaves a file of the killed process full of what it wrote last, and no other space.
fn fill(world: &World, file: &Path) -> SimDisk {
    let disk = world.disk.kill();
    let whole = disk.peek(file).unwrap_or_default();
    disk.poke(file, &[whole, vec![0; 4000]].concat());
    disk.set_capacity(Some(disk.used_bytes()));
    disk
}

/// A flush or a rewrite filled the disk and was killed: there is space for nothing else.
#[test]
fn a_start_on_a_full_disk_takes_the_space_of_what_was_being_written() {
    let is_segment = |path: &&PathBuf| path.to_string_lossy().contains("seg-");
    let check = |mut world: World, file: &Path| {
        let disk = fill(&world, file);
        world.reopen_on(disk.clone()).unwrap();
        assert!(disk.peek(file).is_none_or(|bytes| bytes.len() < 4000));
        disk.set_capacity(None);
        run(&mut world, &[put(1, 100), Op::Flush, Op::Reopen]);
    };
    for flushes in 1..3 {
        let mut world = World::new(false);
        (0..flushes).for_each(|key| run(&mut world, &[put(key, 200), Op::Flush]));
        let newest = world.disk.files().iter().rfind(is_segment).unwrap().clone();
        check(world, &newest);
    }
    // The first flush, cut at any call: its file is there or not, named or not.
    for calls in 0.. {
        let mut world = World::new(false);
        run(&mut world, &[put(1, 200), Op::TakeFlush]);
        world.disk.crash_at(world.disk.mutations() + calls);
        if world.step(&Op::RunFlush).is_ok() {
            break;
        }
        let begun = world.disk.kill().files().iter().find(is_segment).cloned();
        if let Some(begun) = begun {
            check(world, &begun);
        }
    }
    // A rewrite's copy, and a file that has no name yet.
    for name in ["seg-00000099.kd", "MANIFEST-new.tmp"] {
        let mut world = World::new(false);
        run(&mut world, &[put(1, 200), Op::Flush]);
        let segment = world.disk.files().iter().find(is_segment).unwrap().clone();
        check(world, &segment.with_file_name(name));
    }
}

#[test]
fn what_a_start_writes_anew_takes_no_space_twice() {
    let mut world = World::new(false);
    (0..2).for_each(|key| run(&mut world, &[put(key, 290), Op::Flush]));
    (0..10).for_each(|_| run(&mut world, &[put(2, 290)]));
    run(&mut world, &[Op::Flush]);
    let disk = world.disk.kill();
    let before = disk.used_bytes();
    world.reopen_on(disk.clone()).unwrap();
    assert!(disk.used_bytes() < before + 1000, "{before} bytes became {}", disk.used_bytes());
}
