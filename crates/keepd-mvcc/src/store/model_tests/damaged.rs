//! A block that cannot be read: who needs a record of it fails with its place, nobody else, and its
//! file goes once nothing in it can be needed.

use std::path::Path;

use keepd_env::SimDisk;
use keepd_env::sim::CrashMode;
use keepd_types::KeyRange;

use super::faults::{check_damaged, contents, files, script};
use super::run::{DIR, Op, World, env, key, options};
use crate::{Applied, Done, Error, JobKind, JobRequest, LogSpan, Reclaim, Store, Urgency};

const fn put(key: u8, len: u16) -> Op {
    Op::Put { key, len, is_sealed: false }
}

fn run(world: &mut World, steps: &[Op]) {
    steps.iter().for_each(|op| world.step(op).unwrap());
}

/// Damages a block of a segment, both by position; where it begins.
fn damage(world: &World, segment: usize, block: usize) -> u64 {
    let segment = &world.store.now.segments.list[segment];
    let frame = segment.table.blocks[block].frame;
    assert!(world.disk.flip(&segment.path, frame.offset + u64::from(frame.len) / 2, 1));
    frame.offset
}

/// Three full segments and the last one, with nothing in the first that a compaction would leave but
/// key 1, in its last block.
fn overwritten() -> World {
    let mut world = World::new(false);
    for _ in 0..2 {
        run(&mut world, &[put(0, 280), put(4, 280), put(8, 280), put(12, 280), put(16, 280)]);
        run(&mut world, &[Op::Flush]);
    }
    world
}

#[test]
fn an_export_and_a_hash_need_no_block_without_a_live_record() {
    let mut world = overwritten();
    let offset = damage(&world, 0, 1);
    let view = world.store.views().load();
    let error = view.records().find_map(Result::err).expect("history needs it");
    let text = error.to_string();
    let named =
        format!("{} is damaged at byte {offset}", world.store.now.segments.list[0].path.display());
    assert!(text.starts_with(&named), "{text}");
    let keys = format!("1 record of key \"{}\" lie there", key(4).escape_ascii());
    assert!(text.ends_with(&keys), "{text}");
    assert!(error.is_damage());
    view.hash_kv(0).unwrap_err();

    let wanted = {
        run(&mut world, &[Op::Compact(255), Op::Flush, Op::Trim(255)]);
        world.model.records.len()
    };
    let view = world.store.views().load();
    assert_eq!(view.records().map(Result::unwrap).count(), wanted);
    view.hash_kv(0).unwrap();
    world.check(0, 0, 0);
}

#[test]
fn a_damaged_segment_goes_once_nothing_in_its_damage_can_be_needed() {
    let mut world = overwritten();
    damage(&world, 0, 1);
    let path = world.store.now.segments.list[0].path.clone();
    while world.store.run(JobRequest::Scrub).unwrap() {}
    assert_eq!(world.store.damages().len(), 1);
    // Its history is needed: one attempt, and no further one while nothing changes.
    let error = world.step(&Op::Rewrite(2)).unwrap_err();
    assert!(matches!(error, Error::Affecting { .. }), "{error}");
    assert!(world.store.take(JobRequest::Rewrite(Reclaim::of(Urgency::Full))).is_none());

    run(&mut world, &[Op::Compact(255), Op::Flush, Op::Trim(255), Op::Checkpoint, Op::Rewrite(0)]);
    assert!(world.disk.peek(&path).is_none(), "nothing in it was live");
    assert!(world.store.damages().is_empty());
    for is_all in [false, true] {
        world.step(&Op::Damage { is_all }).unwrap();
    }
}

#[test]
fn damage_that_may_hold_a_needed_tombstone_stays() {
    let mut world = World::new(false);
    run(&mut world, &[put(0, 280), put(4, 280), put(8, 280), put(12, 280), Op::Flush]);
    let tombstone = [Op::DeleteRange(0, 1), put(4, 280), put(8, 280), put(12, 280)];
    run(&mut world, &tombstone);
    run(&mut world, &[put(16, 280), Op::Flush, put(4, 1), put(8, 1), put(12, 1), put(16, 1)]);
    run(&mut world, &[Op::Compact(255), Op::Flush, Op::Trim(255), Op::Checkpoint]);
    let at = damage(&world, 1, 0);
    let (segment, path) = {
        let segment = &world.store.now.segments.list[1];
        (std::sync::Arc::clone(segment), segment.path.clone())
    };
    segment.read_run(0, 1).unwrap_err();
    assert_eq!(world.store.damages().list()[0].offset, at);
    // The deleted key's record is still there, in the segment before.
    let job = world.store.take_rewrite_of_one(1);
    let damage = job.run(&mut crate::full_speed).unwrap_err();
    assert!(damage.is_damage(), "{damage}");
    world.store.finish(Done::abandoned(JobKind::Rewrite, &damage));
    assert!(world.disk.peek(&path).is_some());
    world.step(&Op::Rewrite(2)).unwrap();
    assert!(world.disk.peek(&path).is_some(), "what is not damaged goes first");
    world.step(&Op::Rewrite(2)).unwrap();
    assert!(world.disk.peek(&path).is_none());
    world.step(&Op::Damage { is_all: true }).unwrap();
    assert!(!world.model.at(i64::MAX).contains_key(&key(0)));
}

fn open(world: &World, disk: &SimDisk, mark: u64) -> Result<Store, Error> {
    let last = world.model.applied.index;
    let log = || Some(LogSpan { mark, last });
    Store::open_with_log(env(disk, 78), Path::new(DIR), world.keys(), options(), &log)
}

/// Flushes into one growing segment; damages the second one's block.
fn damaged_growing(world: &World) -> (SimDisk, std::path::PathBuf, u64) {
    let segment = world.store.now.segments.list.last().unwrap();
    let offset = segment.table.blocks[1].frame.offset;
    let disk = world.disk.kill();
    assert!(disk.flip(&segment.path, offset + 20, 1));
    (disk, segment.path.clone(), offset)
}

#[test]
fn damage_in_the_last_segment_is_made_good_from_the_log_or_named_with_what_is_lost() {
    let mut world = World::new(true);
    for number in 0..4 {
        run(&mut world, &[put(number, 40), Op::MetaPut(0, number), Op::Flush]);
    }
    let (disk, path, offset) = damaged_growing(&world);
    // The log begins behind the first flush.
    let store = open(&world, &disk, 1).unwrap();
    assert_eq!((store.applied().index, store.durable().index), (1, 1));
    let named = format!("{} is damaged at byte {offset}", path.display());
    assert!(store.rewound().unwrap().to_string().starts_with(&named));
    world.published[&1].check(&store.views().load(), &KeyRange::all(), 3);
    drop(store);
    // Then it is a store like any other.
    let disk = disk.kill();
    let mut store = open(&world, &disk, 1).unwrap();
    assert!(store.rewound().is_none(), "the damage lies behind its end");
    store.publish(Applied { index: 2, term: 3 });
    assert!(store.run(JobRequest::Flush).unwrap());
    assert_eq!(open(&world, &disk.crash(CrashMode::LoseUnsynced), 1).unwrap().applied().index, 2);

    let (disk, ..) = damaged_growing(&world);
    let before = contents(&disk);
    let text = open(&world, &disk, 2).unwrap_err().to_string();
    for part in [
        named.as_str(),
        "behind revision 2 (index 1 of the log)",
        "up to revision 5",
        "begins behind index 2",
        "restore the last snapshot",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(before == contents(&disk), "nothing is changed");
}

#[test]
fn the_log_makes_nothing_good_that_a_rewrite_relied_on() {
    let mut world = World::new(false);
    run(&mut world, &[put(0, 290), put(1, 290), put(2, 290), put(3, 290), put(5, 290), Op::Flush]);
    run(&mut world, &[put(4, 1), Op::Flush, put(0, 20), Op::Compact(255), Op::Flush]);
    run(&mut world, &[Op::Trim(255)]);
    // The flush before the last knows key 0 as it was, and only the first segment had that.
    let (disk, path, offset) = damaged_growing(&world);
    assert_eq!(open(&world, &disk, 0).unwrap().applied().index, 2);
    run(&mut world, &[Op::Rewrite(2)]);
    let (disk, ..) = damaged_growing(&world);
    let error = open(&world, &disk, 0).unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    assert!(error.to_string().contains(&format!("{} is damaged at byte {offset}", path.display())));
}

#[test]
fn a_damaged_last_flush_of_an_orderly_stop_is_made_good_from_the_log() {
    let mut world = World::new(false);
    run(&mut world, &[put(0, 40), Op::Flush, put(1, 40), Op::Flush, Op::Checkpoint]);
    let (disk, path, _) = damaged_growing(&world);
    let store = open(&world, &disk, 1).unwrap();
    assert_eq!(store.applied().index, 1);
    assert!(store.rewound().unwrap().to_string().contains(path.to_str().unwrap()));
    let (disk, ..) = damaged_growing(&world);
    assert!(matches!(open(&world, &disk, 2).unwrap_err(), Error::Lost { .. }));
    // Without a checkpoint it cannot be told from a write that was cut off; the log tells.
    let mut world = World::new(false);
    run(&mut world, &[put(0, 40), Op::Flush, put(1, 40), Op::Flush]);
    let (disk, ..) = damaged_growing(&world);
    assert!(matches!(open(&world, &disk, 2).unwrap_err(), Error::Lost { .. }));
    assert_eq!(open(&world, &disk, 1).unwrap().applied().index, 1);
}

/// Whatever is damaged when: what opens and can be read is what was written.
#[test]
fn rewrites_around_damage_lose_nothing() {
    let script = script(600);
    let mut dropped = 0;
    for seed in 0..60_usize {
        let mut world = World::new(seed % 2 == 0);
        let (before, after) = script.split_at(150 + seed * 4);
        run(&mut world, before);
        // A rewrite that has run took its files away.
        run(&mut world, &[Op::FinishRewrite]);
        let count = world.store.now.segments.list.len();
        if count < 2 {
            continue;
        }
        let segment = seed % (count - 1);
        let blocks = world.store.now.segments.list[segment].table.blocks.len();
        if blocks == 0 {
            continue;
        }
        let path = world.store.now.segments.list[segment].path.clone();
        let disk = world.disk.clone();
        damage(&world, segment, seed % blocks);
        for op in after.iter().take(250) {
            match world.step(op) {
                Ok(()) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => panic!("{op:?}: {error}"),
            }
        }
        dropped += usize::from(disk.peek(&path).is_none());
        world.step(&Op::Flush).unwrap();
        check_without_checkpoints(&world, &disk);
    }
    assert!(dropped > 5, "{dropped} damaged segments were rewritten");
}

fn check_without_checkpoints(world: &World, disk: &SimDisk) {
    for is_all in [false, true] {
        let disk = disk.crash(CrashMode::WrittenBack);
        for file in files(&disk).iter().filter(|it| is_all && it.to_string_lossy().contains("idx-"))
        {
            assert!(disk.flip(file, disk.peek(file).unwrap().len() as u64 / 2, 0x10));
        }
        check_damaged(world, disk.crash(CrashMode::WrittenBack), "after rewrites");
        let Ok(store) = Store::open(env(&disk, 5), Path::new(DIR), world.keys(), options()) else {
            continue;
        };
        let view = store.views().load();
        let model = &world.published[&view.applied().index];
        let refs = view.range(&KeyRange::all(), 0, 0).unwrap();
        assert_eq!(refs.count, model.at(i64::MAX).len() as u64);
        for (key, at) in refs.keys {
            if let Ok(record) = view.load(at) {
                assert_eq!(record, model.records[&at].1, "{}", key.escape_ascii());
            }
        }
    }
}
