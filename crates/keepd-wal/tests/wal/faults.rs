//! Failing calls: whatever fails, nothing acknowledged is lost, and what can go on does.

use std::io::ErrorKind;

use keepd_crypto::FileKeys;
use keepd_env::sim::{CrashMode, FaultPlan};
use keepd_env::{IoOp, SimDisk};
use keepd_wal::{Batch, Error, HardState};

use super::world::{Op, State, create, entries, open, read, script, sealing};

/// Runs a script; a failed step is tried again once the disk is well. Gives the acknowledged state
/// and whether the log was poisoned.
fn run(disk: &SimDisk, keys: &FileKeys, ops: &[Op]) -> (State, Vec<State>, bool) {
    let mut wal = create(disk, keys).unwrap_or_else(|_| create_again(disk, keys));
    let mut acked = State::default();
    let mut allowed = vec![acked.clone()];
    for op in ops {
        let before = allowed.last().unwrap().clone();
        allowed.extend(op.outcomes(&before));
        let mut result = op.run(&mut wal);
        if result.is_err() {
            result = op.run(&mut wal);
        }
        match result {
            Ok(()) if op.is_durable() => {
                acked = allowed.pop().unwrap();
                allowed = vec![acked.clone()];
            }
            Ok(()) => {}
            Err(Error::Poisoned) => {
                assert!(matches!(wal.sync(), Err(Error::Poisoned)));
                assert!(matches!(wal.rotate(), Err(Error::Poisoned)));
                assert!(matches!(wal.release(1 << 40, 9), Err(Error::Poisoned)));
                let batch = Batch { entries: &[], hard_state: Some(HardState::default()) };
                assert!(matches!(wal.append(&batch), Err(Error::Poisoned)));
                return (acked, allowed, true);
            }
            Err(error) => panic!("a second try fails: {error}"),
        }
    }
    (acked, allowed, false)
}

/// A creation that failed either left nothing that counts or a whole empty log.
fn create_again(disk: &SimDisk, keys: &FileKeys) -> keepd_wal::Wal {
    match create(disk, keys) {
        Err(Error::Exists { .. }) => open(disk, keys, 1).unwrap().0,
        result => result.unwrap(),
    }
}

/// Fails each call of one kind in turn and hands the outcome to `check`.
fn each_failure(
    op: IoOp,
    error: ErrorKind,
    mut check: impl FnMut(&SimDisk, &FileKeys, (State, Vec<State>, bool)),
) -> u64 {
    let mut failures = 0;
    for seed in 20..24 {
        let keys = if seed % 2 == 0 { FileKeys::plain() } else { sealing() };
        let ops = script(seed, 60);
        let calls = {
            let disk = SimDisk::new();
            disk.record_calls();
            run(&disk, &keys, &ops);
            disk.recorded_calls().iter().filter(|call| call.op == op).count()
        };
        for position in 0..u64::try_from(calls).unwrap() {
            let disk = SimDisk::new();
            disk.fail(FaultPlan::once(Some(op), position, error));
            let outcome = run(&disk, &keys, &ops);
            check(&disk, &keys, outcome);
            failures += 1;
        }
    }
    failures
}

#[test]
fn a_failed_sync_poisons_the_log_and_loses_nothing_acknowledged() {
    let mut poisoned = 0;
    let failures = each_failure(IoOp::Sync, ErrorKind::Other, |disk, keys, outcome| {
        let (_, allowed, is_poisoned) = outcome;
        poisoned += u64::from(is_poisoned);
        let lost = read(&disk.crash(CrashMode::LoseUnsynced), keys).unwrap();
        assert!(allowed.contains(&State::of(&lost)), "{:?}", State::of(&lost));
        for seed in 0..4 {
            let image = disk.crash(CrashMode::Random { seed });
            let found = State::of(&open(&image, keys, 2).unwrap().1);
            assert!(allowed.contains(&found), "{found:?}");
        }
    });
    // Those that do not poison belong to the creation.
    assert!(poisoned > 40 && failures - poisoned <= 4 * 4, "{poisoned} of {failures}");
}

#[test]
fn a_full_disk_at_any_write_leaves_the_log_usable() {
    for op in [IoOp::Write, IoOp::Resize, IoOp::Create] {
        let failures = each_failure(op, ErrorKind::StorageFull, |disk, keys, outcome| {
            let (acked, allowed, is_poisoned) = outcome;
            assert!(!is_poisoned);
            let kept = read(&disk.crash(CrashMode::WrittenBack), keys).unwrap();
            assert_eq!(Some(&State::of(&kept)), allowed.last());
            let lost = read(&disk.crash(CrashMode::LoseUnsynced), keys).unwrap();
            let lost = State::of(&lost);
            assert!(allowed.contains(&lost) && lost.start == acked.start);
        });
        assert!(failures > 10, "{op}: {failures}");
    }
}

#[test]
fn a_failed_rename_or_removal_loses_nothing() {
    for op in [IoOp::Rename, IoOp::Remove] {
        each_failure(op, ErrorKind::PermissionDenied, |disk, keys, (_, allowed, is_poisoned)| {
            assert!(!is_poisoned);
            let (_, recovered) = open(disk, keys, 2).unwrap();
            assert_eq!(Some(&State::of(&recovered)), allowed.last());
        });
    }
}

#[test]
fn opening_fails_whole_and_works_later() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let (_, allowed, _) = run(&disk, &keys, &script(31, 60));
    let expected = allowed.last().unwrap();
    for position in 0.. {
        let image = disk.crash(CrashMode::WrittenBack);
        image.fail(FaultPlan::once(None, position, ErrorKind::Other));
        let is_done = open(&image, &keys, 1).is_ok();
        image.heal();
        assert_eq!(State::of(&open(&image, &keys, 2).unwrap().1), *expected);
        if is_done && position > 40 {
            break;
        }
    }
}

#[test]
fn a_failed_write_ends_the_segment_so_that_no_nonce_comes_twice() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    let lost = entries(1, 1, 1, 100);
    disk.fail(FaultPlan::once(Some(IoOp::Write), 0, ErrorKind::Other));
    assert!(wal.append(&Batch { entries: &lost, hard_state: None }).is_err());
    assert_eq!((wal.last_index(), wal.segments().len()), (0, 1));
    let other = entries(1, 2, 1, 100);
    wal.append(&Batch { entries: &other, hard_state: None }).unwrap();
    assert_eq!((wal.last_index(), wal.segments().len()), (1, 2));
    assert_eq!(read(&disk, &keys).unwrap().entries, other);
}

#[test]
fn a_log_on_a_full_disk_goes_on_once_there_is_space() {
    let (disk, keys) = (SimDisk::new(), FileKeys::plain());
    let mut wal = create(&disk, &keys).unwrap();
    disk.set_capacity(Some(1400));
    let mut stored = 0;
    let error = loop {
        let batch = entries(stored + 1, 1, 1, 100);
        match wal.append(&Batch { entries: &batch, hard_state: None }) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_out_of_space() && stored > 3, "{error}");
    wal.sync().unwrap();
    assert_eq!(wal.last_index(), stored);
    disk.heal();
    let batch = entries(stored + 1, 1, 1, 100);
    wal.append(&Batch { entries: &batch, hard_state: None }).unwrap();
    wal.sync().unwrap();
    let found = read(&disk.crash(CrashMode::LoseUnsynced), &keys).unwrap();
    assert_eq!(found.entries, entries(1, 1, stored + 1, 100));
}

#[test]
fn a_sync_without_space_poisons_like_any_other() {
    let (disk, keys) = (SimDisk::new(), FileKeys::plain());
    let mut wal = create(&disk, &keys).unwrap();
    wal.append(&Batch { entries: &entries(1, 1, 1, 100), hard_state: None }).unwrap();
    disk.fail(FaultPlan::once(Some(IoOp::Sync), 0, ErrorKind::StorageFull));
    let error = wal.sync().unwrap_err();
    assert!(!error.is_out_of_space(), "{error}");
    assert!(matches!(wal.sync(), Err(Error::Poisoned)));
}

#[test]
fn a_segment_that_found_no_space_leaves_no_file() {
    for op in [IoOp::Write, IoOp::Rename] {
        let (disk, keys) = (SimDisk::new(), sealing());
        let mut wal = create(&disk, &keys).unwrap();
        wal.append(&Batch { entries: &entries(1, 1, 1, 100), hard_state: None }).unwrap();
        let before = disk.files();
        let plan = FaultPlan::once(Some(op), 0, ErrorKind::StorageFull);
        disk.fail(FaultPlan { sticky: true, ..plan });
        let error = wal.rotate().unwrap_err();
        assert!(error.is_out_of_space(), "{error}");
        assert_eq!(disk.files(), before, "{op}");
        disk.heal();
        wal.rotate().unwrap();
        assert_eq!(wal.segments().len(), 2);
    }
}

#[test]
fn a_segment_that_found_no_descriptor_is_begun_when_there_is_one() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    wal.append(&Batch { entries: &entries(1, 1, 1, 100), hard_state: None }).unwrap();
    wal.sync().unwrap();
    let before = disk.files();
    disk.withhold_descriptors(true);
    let error = wal.rotate().unwrap_err();
    assert!(error.is_shortage() && !error.is_out_of_space(), "{error}");
    assert_eq!(disk.files(), before);
    // What the segment has room for needs none, and neither does letting go.
    wal.append(&Batch { entries: &entries(2, 1, 1, 100), hard_state: None }).unwrap();
    wal.sync().unwrap();
    disk.withhold_descriptors(false);
    wal.rotate().unwrap();
    wal.append(&Batch { entries: &entries(3, 1, 1, 100), hard_state: None }).unwrap();
    wal.sync().unwrap();
    disk.withhold_descriptors(true);
    wal.release(2, 1).unwrap();
    assert_eq!(wal.segments().len(), 1);
    disk.withhold_descriptors(false);
    drop(wal);
    let (_, recovered) = open(&disk.crash(CrashMode::LoseUnsynced), &keys, 3).unwrap();
    assert_eq!(recovered.entries.last().map(|entry| entry.index), Some(3));
}

#[test]
fn a_segment_whose_reserve_does_not_fit_is_begun_without_one() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    let plan = FaultPlan::once(Some(IoOp::Resize), 0, ErrorKind::StorageFull);
    disk.fail(FaultPlan { sticky: true, ..plan });
    wal.append(&Batch { entries: &entries(1, 1, 1, 10), hard_state: None }).unwrap();
    wal.rotate().unwrap();
    assert!(wal.segments()[1].bytes < 700, "{:?}", wal.segments());
    disk.heal();
    wal.append(&Batch { entries: &entries(2, 1, 1, 100), hard_state: None }).unwrap();
    wal.sync().unwrap();
    drop(wal);
    let image = disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(read(&image, &keys).unwrap().entries.len(), 2);
}

#[test]
fn a_log_that_is_closed_with_nothing_needed_takes_no_more_than_its_head() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    wal.append(&Batch { entries: &entries(1, 5, 1, 100), hard_state: None }).unwrap();
    wal.sync().unwrap();
    wal.release_and_close(5, 1).unwrap();
    assert!(disk.used_bytes() < 700, "{}", disk.used_bytes());
    let found = read(&disk.crash(CrashMode::LoseUnsynced), &keys).unwrap();
    assert_eq!((found.start.index, found.entries.len()), (5, 0));
}
