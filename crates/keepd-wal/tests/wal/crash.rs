//! Power cuts and kills at every call to the disk.

use std::io::ErrorKind;

use keepd_crypto::FileKeys;
use keepd_env::sim::{CrashMode, FaultPlan};
use keepd_env::{IoOp, SimDisk};
use keepd_wal::{Batch, Dump, Error, Record, Wal};

use super::world::{Op, State, create, dir, entries, env, open, script, sealing, segment_paths};

fn modes(seed: u64) -> impl Iterator<Item = CrashMode> {
    let seeds = (0..6).map(move |i| seed * 100 + i);
    let random = seeds.flat_map(|seed| [CrashMode::Random { seed }, CrashMode::Torn { seed }]);
    [CrashMode::LoseUnsynced, CrashMode::WrittenBack].into_iter().chain(random)
}

/// Promises of a run until the power cut, and the states that it may have left.
struct Run {
    is_created: bool,
    /// Every state that the disk may be in, the acknowledged one first.
    allowed: Vec<State>,
    is_done: bool,
}

fn run(disk: &SimDisk, keys: &FileKeys, ops: &[Op]) -> Run {
    let mut allowed = vec![State::default()];
    let Ok(mut wal) = create(disk, keys) else {
        return Run { is_created: false, allowed, is_done: false };
    };
    for op in ops {
        let before = allowed.last().unwrap().clone();
        allowed.extend(op.outcomes(&before));
        if op.run(&mut wal).is_err() {
            return Run { is_created: true, allowed, is_done: false };
        }
        if op.is_durable() {
            allowed = vec![allowed.pop().unwrap()];
        }
    }
    Run { is_created: true, allowed, is_done: true }
}

/// Opens what a crash left, goes on with it, and opens it once more.
fn check_image(image: &SimDisk, keys: &FileKeys, run: &Run, what: &str) -> bool {
    let (mut wal, recovered) = match open(image, keys, 5) {
        Ok(opened) => opened,
        Err(Error::NotFound { .. }) if !run.is_created => return false,
        Err(error) => panic!("{what}: {error}"),
    };
    let mut state = State::of(&recovered);
    assert!(run.allowed.contains(&state), "{what}: {state:?} of {:?}", run.allowed);
    let term = wal.hard_state().term.max(wal.term(wal.last_index()).unwrap());
    let more = entries(wal.last_index() + 1, term, 2, 30);
    let batch = Batch { entries: &more, hard_state: None };
    wal.append(&batch).unwrap();
    wal.sync().unwrap();
    state = state.after(&batch, 2);
    let again = image.crash(CrashMode::LoseUnsynced);
    let (_, recovered) = open(&again, keys, 6).unwrap_or_else(|e| panic!("{what}, again: {e}"));
    assert_eq!(State::of(&recovered), state, "{what}, again");
    recovered.torn_tail.is_some()
}

fn check_every_crash(seed: u64, keys: &FileKeys) -> u64 {
    let ops = script(seed, 60);
    let mut images = 0;
    for point in 0.. {
        let disk = SimDisk::new();
        disk.crash_at(point);
        let run = run(&disk, keys, &ops);
        for mode in modes(point) {
            let image = disk.crash(mode);
            check_image(&image, keys, &run, &format!("seed {seed} crash {point} {mode:?}"));
            images += 1;
        }
        if run.is_done {
            break;
        }
    }
    images
}

#[test]
fn every_synced_batch_survives_a_power_cut_at_every_call() {
    let mut images = 0;
    for seed in 0..12 {
        let keys = if seed % 2 == 0 { FileKeys::plain() } else { sealing() };
        images += check_every_crash(seed, &keys);
    }
    assert!(images > 10_000, "{images} images");
}

/// Starts on what a killed process left, goes on, and cuts the power at both moments: what the
/// start recovered and what was acknowledged after it must be there.
fn check_killed(killed: &SimDisk, keys: &FileKeys, run: &Run, what: &str) -> u64 {
    let (mut wal, recovered) = match open(killed, keys, 15) {
        Ok(opened) => opened,
        Err(Error::NotFound { .. }) if !run.is_created => return 0,
        Err(error) => panic!("{what}: {error}"),
    };
    let mut state = State::of(&recovered);
    assert!(run.allowed.contains(&state), "{what}: {state:?} of {:?}", run.allowed);
    let mut cuts = 0;
    let mut cut = |state: &State, moment: &str| {
        let run = Run { is_created: true, allowed: vec![state.clone()], is_done: true };
        for mode in modes(cuts).take(6) {
            let what = format!("{what}, {moment}, {mode:?}");
            check_image(&killed.crash(mode), keys, &run, &what);
            cuts += 1;
        }
    };
    cut(&state, "cut after the start");
    let term = wal.hard_state().term.max(wal.term(wal.last_index()).unwrap());
    let more = entries(wal.last_index() + 1, term, 2, 30);
    let batch = Batch { entries: &more, hard_state: None };
    wal.append(&batch).unwrap();
    wal.sync().unwrap();
    state = state.after(&batch, 2);
    cut(&state, "cut after a write");
    cuts
}

#[test]
fn a_kill_at_every_call_then_a_start_then_a_power_cut_loses_nothing() {
    let mut cuts = 0;
    for seed in 0..6 {
        let keys = if seed % 2 == 0 { FileKeys::plain() } else { sealing() };
        let ops = script(seed, 60);
        for point in 0.. {
            let disk = SimDisk::new();
            disk.crash_at(point);
            let run = run(&disk, &keys, &ops);
            cuts += check_killed(&disk.kill(), &keys, &run, &format!("seed {seed} kill {point}"));
            if run.is_done {
                break;
            }
        }
    }
    assert!(cuts > 5_000, "{cuts} power cuts");
}

#[test]
fn starts_that_are_killed_too_lose_nothing() {
    let keys = sealing();
    for seed in 0..4 {
        let disk = SimDisk::new();
        let run = run(&disk, &keys, &script(seed, 40));
        for point in 0.. {
            let killed = disk.kill();
            killed.crash_at(point);
            let is_done = open(&killed, &keys, 8).is_ok();
            let what = format!("seed {seed} start killed at {point}");
            check_killed(&killed.kill(), &keys, &run, &what);
            for mode in modes(point) {
                let what = format!("{what}, {mode:?}");
                let lost = Run { allowed: run.allowed.clone(), ..run };
                check_image(&killed.crash(mode), &keys, &lost, &what);
            }
            if is_done {
                break;
            }
        }
    }
}

#[test]
fn after_a_failed_sync_a_start_takes_nothing_for_durable_that_it_reads() {
    let mut cuts = 0;
    for seed in 0..6 {
        let keys = if seed % 2 == 0 { FileKeys::plain() } else { sealing() };
        let ops = script(seed, 60);
        for position in 0.. {
            let disk = SimDisk::new();
            disk.fail(FaultPlan::once(Some(IoOp::Sync), position, ErrorKind::Other));
            let run = run(&disk, &keys, &ops);
            cuts +=
                check_killed(&disk.kill(), &keys, &run, &format!("seed {seed} sync {position}"));
            if run.is_done {
                break;
            }
        }
    }
    assert!(cuts > 1_000, "{cuts} power cuts");
}

#[test]
fn an_orderly_end_leaves_nothing_to_carry_over() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    wal.append(&Batch { entries: &entries(1, 1, 2, 100), hard_state: None }).unwrap();
    wal.sync().unwrap();
    let killed = disk.kill();
    wal.close().unwrap();
    let frames = |disk: &SimDisk| {
        drop(open(disk, &keys, 3).unwrap());
        let newest = segment_paths(disk).pop().unwrap();
        let dump = Dump::new(env(disk, 1), &dir(), keys.clone()).unwrap();
        dump.map(Result::unwrap).filter(|frame| frame.path == newest).count()
    };
    assert_eq!(frames(&disk), 1, "the header frame");
    assert_eq!(frames(&killed), 3, "header, batch, and that both are durable");
}

#[test]
fn damage_to_what_a_start_carried_over_is_never_a_torn_write() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    wal.append(&Batch { entries: &entries(1, 1, 2, 100), hard_state: None }).unwrap();
    wal.sync().unwrap();
    drop(wal);
    drop(open(&disk, &keys, 3).unwrap());
    let dump = Dump::new(env(&disk, 1), &dir(), keys.clone()).unwrap();
    let carried = dump.map(Result::unwrap).filter(|frame| matches!(frame.record, Record::Batch(_)));
    let carried = carried.last().unwrap();
    assert!(disk.flip(&carried.path, carried.offset + 20, 1));
    assert!(matches!(open(&disk, &keys, 4), Err(Error::Corrupt { .. })));
}

#[test]
fn a_torn_tail_is_reported_and_accepted_before_a_new_segment() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    let synced = entries(1, 1, 2, 100);
    wal.append(&Batch { entries: &synced, hard_state: None }).unwrap();
    wal.sync().unwrap();
    let unsynced = entries(3, 1, 1, 280);
    wal.append(&Batch { entries: &unsynced, hard_state: None }).unwrap();
    let torn: Vec<SimDisk> = (0..32).map(|seed| disk.crash(CrashMode::Torn { seed })).collect();
    let mut torn_count = 0;
    // The cut-off write at the end of a segment, told before the frame that follows.
    let torn_in_dump = |image: &SimDisk| {
        let mut dump = Dump::new(env(image, 1), &dir(), keys.clone()).unwrap();
        let (mut found, mut is_more) = (Vec::new(), true);
        while is_more {
            is_more = dump.next().map(Result::unwrap).is_some();
            found.extend(dump.take_torn());
        }
        found
    };
    for image in torn {
        let shown = torn_in_dump(&image);
        let (mut wal, recovered) = open(&image, &keys, 3).unwrap();
        let Some(tail) = recovered.torn_tail else {
            assert_eq!(shown, []);
            continue;
        };
        let tails = vec![tail.clone()];
        assert_eq!(shown, tails);
        // Its successor says where it ended, if it is needed still.
        let is_there = image.files().contains(&tail.path);
        assert_eq!(torn_in_dump(&image), if is_there { tails } else { Vec::new() });
        torn_count += 1;
        assert_eq!((recovered.entries, tail.frame), (synced.clone(), 2));
        // Another command gets the lost one's place, and the torn bytes stay where they are.
        let other = entries(3, 2, 1, 50);
        wal.append(&Batch { entries: &other, hard_state: None }).unwrap();
        wal.sync().unwrap();
        drop(wal);
        let (_, recovered) = open(&image, &keys, 4).unwrap();
        assert_eq!(recovered.entries, [synced.clone(), other].concat());
        assert_eq!(recovered.torn_tail, None, "it was dealt with");
    }
    assert!(torn_count > 5, "{torn_count}");
}

#[test]
fn a_power_cut_while_opening_loses_nothing() {
    let keys = sealing();
    for seed in [1, 2, 3, 4, 5] {
        let disk = SimDisk::new();
        let run = run(&disk, &keys, &script(seed, 40));
        let torn = disk.crash(CrashMode::Torn { seed });
        for point in 0.. {
            let image = torn.kill();
            image.crash_at(point);
            let is_done = open(&image, &keys, 8).is_ok();
            for mode in modes(point) {
                let what = format!("seed {seed} opening {point} {mode:?}");
                check_image(&image.crash(mode), &keys, &run, &what);
            }
            if is_done {
                break;
            }
        }
    }
}

/// A segment with a header frame alone is replaced by the next opening. It is the only one that says where
/// the one before ends, so it goes after its replacement is there.
#[test]
fn an_opening_always_knows_where_the_segment_before_ends() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    wal.append(&Batch { entries: &entries(1, 1, 2, 100), hard_state: None }).unwrap();
    wal.rotate().unwrap();
    drop(wal);
    let dump = Dump::new(env(&disk, 1), &dir(), keys.clone()).unwrap();
    let batch = dump.map(Result::unwrap).find(|frame| matches!(frame.record, Record::Batch(_)));
    let batch = batch.unwrap();
    for point in 0.. {
        let image = disk.kill();
        image.crash_at(point);
        let is_done = open(&image, &keys, 8).is_ok();
        for mode in modes(point) {
            let cut = image.crash(mode);
            assert!(cut.flip(&batch.path, batch.offset + 20, 1));
            let opened = open(&cut, &keys, 9).map(|(_, recovered)| recovered.torn_tail);
            let what = format!("opening cut at {point}, {mode:?}");
            assert!(matches!(opened, Err(Error::Corrupt { .. })), "{what}: {opened:?}");
        }
        if is_done {
            break;
        }
    }
}

#[test]
fn a_release_keeps_what_replay_needs_at_every_crash() {
    let keys = FileKeys::plain();
    for point in 0.. {
        let disk = SimDisk::new();
        let mut wal = create(&disk, &keys).unwrap();
        let all = entries(1, 1, 40, 150);
        for batch in all.chunks(2) {
            wal.append(&Batch { entries: batch, hard_state: None }).unwrap();
        }
        wal.sync().unwrap();
        let files = wal.segments().len();
        disk.crash_at(disk.mutations() + point);
        let is_done = wal.release(30, 1).is_ok();
        assert!(!is_done || wal.segments().len() < files - 1);
        for mode in modes(point) {
            let image = disk.crash(mode);
            let recovered = Wal::read(&env(&image, 1), &dir(), &keys).unwrap();
            let start = usize::try_from(recovered.start.index).unwrap();
            assert!(start == 30 || (start == 0 && !is_done));
            assert_eq!(recovered.entries, all[start..]);
            open(&image, &keys, 2).unwrap();
            let (_, again) = open(&image, &keys, 3).unwrap();
            assert_eq!(again.entries, all[start..]);
        }
        if is_done {
            break;
        }
    }
}
