//! What a crash keeps, what a fault does.

use std::io::ErrorKind;
use std::path::Path;

use super::{CrashMode, FaultPlan, SimDisk};
use crate::disk::{Disk, DiskFile, IoOp};

const DIR: &str = "/data";

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk
}

fn file(disk: &SimDisk, name: &str) -> Box<dyn DiskFile> {
    disk.create(&Path::new(DIR).join(name)).unwrap()
}

fn content(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    disk.peek(&Path::new(DIR).join(name))
}

#[test]
fn unsynced_content_is_lost_and_synced_content_stays() {
    let disk = disk();
    let a = file(&disk, "a");
    a.write_all_at(b"one", 0).unwrap();
    a.sync().unwrap();
    a.write_all_at(b"two", 3).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(content(&disk.crash(CrashMode::LoseUnsynced), "a").unwrap(), b"one");
    assert_eq!(content(&disk.crash(CrashMode::KeepUnsynced), "a").unwrap(), b"onetwo");
    assert_eq!(content(&disk, "a").unwrap(), b"onetwo");
}

#[test]
fn a_name_needs_a_directory_sync() {
    let disk = disk();
    let a = file(&disk, "a");
    a.sync().unwrap();
    assert_eq!(content(&disk.crash(CrashMode::LoseUnsynced), "a"), None);
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.rename(a.path(), &Path::new(DIR).join("b")).unwrap();
    let lost = disk.crash(CrashMode::LoseUnsynced);
    assert!(content(&lost, "a").is_some() && content(&lost, "b").is_none());
    disk.sync_dir(Path::new(DIR)).unwrap();
    let kept = disk.crash(CrashMode::LoseUnsynced);
    assert!(content(&kept, "a").is_none() && content(&kept, "b").is_some());
    disk.remove(&Path::new(DIR).join("b")).unwrap();
    assert!(content(&disk.crash(CrashMode::LoseUnsynced), "b").is_some());
}

#[test]
fn a_torn_write_keeps_whole_sectors() {
    let disk = disk();
    let a = file(&disk, "a");
    a.allocate(4096).unwrap();
    a.sync().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    a.write_all_at(&[7; 2048], 256).unwrap();
    let mut shapes = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let torn = content(&disk.crash(CrashMode::Torn { seed }), "a").unwrap();
        for sector in torn[512..2048].chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]));
        }
        shapes.insert(torn);
    }
    assert!(shapes.len() > 10);
}

#[test]
fn random_crashes_keep_any_subset_of_writes() {
    let disk = disk();
    let a = file(&disk, "a");
    disk.sync_dir(Path::new(DIR)).unwrap();
    a.write_all_at(b"x", 0).unwrap();
    a.write_all_at(b"y", 1).unwrap();
    let images: std::collections::BTreeSet<Vec<u8>> = (0..64)
        .map(|seed| content(&disk.crash(CrashMode::Random { seed }), "a").unwrap())
        .collect();
    let expected: [&[u8]; 4] = [b"", b"\0y", b"x", b"xy"];
    assert!(images.iter().eq(expected));
}

#[test]
fn a_failed_sync_loses_what_it_should_have_kept() {
    let disk = disk();
    let a = file(&disk, "a");
    disk.sync_dir(Path::new(DIR)).unwrap();
    a.write_all_at(b"one", 0).unwrap();
    disk.fail(FaultPlan::once(Some(IoOp::Sync), 0, ErrorKind::Other));
    assert!(a.sync().is_err());
    a.sync().unwrap();
    assert_eq!(content(&disk.crash(CrashMode::LoseUnsynced), "a").unwrap(), b"");
}

#[test]
fn the_planned_call_fails_with_the_planned_error() {
    let disk = disk();
    disk.fail(FaultPlan::once(None, 1, ErrorKind::PermissionDenied));
    let a = file(&disk, "a");
    let error = a.write_all_at(b"12", 0).unwrap_err();
    assert_eq!((error.op, error.source.kind()), (IoOp::Write, ErrorKind::PermissionDenied));
    assert_eq!(content(&disk, "a").unwrap(), b"1", "a part stays behind");
    a.write_all_at(b"12", 0).unwrap();
    disk.fail(FaultPlan::failing_syncs());
    assert!(a.sync().is_err() && a.sync().is_err());
    disk.heal();
    a.sync().unwrap();
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let disk = disk();
    let a = file(&disk, "a");
    a.write_all_at(&[1; 100], 0).unwrap();
    disk.set_capacity(Some(100));
    a.write_all_at(&[2; 100], 0).unwrap();
    assert!(a.write_all_at(&[3; 10], 95).unwrap_err().is_out_of_space());
    assert!(a.allocate(200).unwrap_err().is_out_of_space());
    a.set_len(50).unwrap();
    file(&disk, "b").write_all_at(&[4; 50], 0).unwrap();
}

#[test]
fn after_the_crash_point_nothing_works() {
    let disk = disk();
    let before = disk.mutations();
    disk.crash_at(before + 2);
    let a = file(&disk, "a");
    a.write_all_at(b"in", 0).unwrap();
    assert!(a.write_all_at(b"out", 0).is_err());
    assert!(disk.list(Path::new(DIR)).is_err());
    let image = disk.crash(CrashMode::KeepUnsynced);
    assert_eq!(content(&image, "a").unwrap(), b"in");
    assert_eq!(image.list(Path::new(DIR)).unwrap(), ["a"]);
}

#[test]
fn a_lock_is_exclusive_until_dropped() {
    let disk = disk();
    let lock = disk.lock_dir(Path::new(DIR)).unwrap();
    let error = disk.lock_dir(Path::new(DIR)).unwrap_err();
    assert_eq!(error.source.kind(), ErrorKind::WouldBlock);
    drop(lock);
    disk.lock_dir(Path::new(DIR)).unwrap();
}

#[test]
fn replace_is_old_or_new_at_every_crash() {
    let path = Path::new(DIR).join("config");
    for point in 0..12 {
        let disk = disk();
        disk.replace(&path, b"old").unwrap();
        disk.crash_at(disk.mutations() + point);
        let done = disk.replace(&path, b"new").is_ok();
        for seed in 0..16 {
            let image = disk.crash(CrashMode::Random { seed });
            let found = image.read(&path).unwrap();
            assert!(found == b"new" || (!done && found == b"old"), "at {point}: {found:?}");
        }
    }
}

#[test]
fn an_unlinked_file_stays_readable_while_open() {
    let disk = disk();
    let a = file(&disk, "a");
    a.write_all_at(b"still", 0).unwrap();
    disk.remove(a.path()).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    let mut bytes = [0; 5];
    a.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"still");
    assert!(disk.find(b"still").is_none());
}

#[test]
fn a_removed_tree_is_gone_after_its_parents_sync() {
    let disk = disk();
    let dir = Path::new(DIR).join("sub/deep");
    disk.create_dir(&dir).unwrap();
    disk.create(&dir.join("f")).unwrap().sync().unwrap();
    disk.sync_dir(&dir).unwrap();
    assert!(disk.crash(CrashMode::LoseUnsynced).exists(&dir.join("f")).unwrap());
    disk.remove_dir_all(&Path::new(DIR).join("sub")).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    let image = disk.crash(CrashMode::LoseUnsynced);
    assert!(image.files().is_empty() && !image.exists(&dir).unwrap());
}
