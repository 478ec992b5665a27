//! Crashes and faults of the simulated disk.

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
    assert_eq!(content(&disk.crash(CrashMode::WrittenBack), "a").unwrap(), b"onetwo");
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
fn a_disk_that_lies_comes_back_as_it_was_when_it_began_to() {
    let disk = disk();
    let a = file(&disk, "a");
    a.write_all_at(b"one", 0).unwrap();
    a.sync().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.set_lying(true);
    a.write_all_at(b"two", 3).unwrap();
    a.sync().unwrap();
    file(&disk, "b").sync().unwrap();
    disk.remove(a.path()).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.open_dir(Path::new(DIR)).unwrap().sync().unwrap();
    let next = disk.kill();
    assert_eq!((content(&next, "a"), content(&next, "b")), (None, Some(Vec::new())));
    next.sync_dir(Path::new(DIR)).unwrap();
    let cut = next.crash(CrashMode::LoseUnsynced);
    assert_eq!((content(&cut, "a").unwrap(), content(&cut, "b")), (b"one".to_vec(), None));
    // It is honest again.
    file(&cut, "b");
    cut.sync_dir(Path::new(DIR)).unwrap();
    assert!(content(&cut.crash(CrashMode::LoseUnsynced), "b").is_some());
}

#[test]
fn the_death_of_a_process_makes_nothing_durable() {
    let disk = disk();
    let a = file(&disk, "a");
    disk.sync_dir(Path::new(DIR)).unwrap();
    a.write_all_at(b"one", 0).unwrap();
    a.sync().unwrap();
    a.write_all_at(b"two", 3).unwrap();
    file(&disk, "b");
    let _lock = disk.lock_dir(Path::new(DIR)).unwrap();
    disk.fail(FaultPlan::failing_syncs());
    let next = disk.kill();
    assert_eq!(content(&next, "a").unwrap(), b"onetwo");
    assert!(content(&next, "b").is_some());
    let lost = next.crash(CrashMode::LoseUnsynced);
    assert_eq!((content(&lost, "a").unwrap(), content(&lost, "b")), (b"one".to_vec(), None));
    let _next_lock = next.lock_dir(Path::new(DIR)).unwrap();
    next.open(&Path::new(DIR).join("a")).unwrap().sync().unwrap();
    assert_eq!(content(&next.crash(CrashMode::LoseUnsynced), "a").unwrap(), b"onetwo");
    a.write_all_at(b"!", 0).unwrap();
    assert_eq!(content(&next, "a").unwrap(), b"onetwo", "the dead write no more");
}

#[test]
fn what_a_failed_sync_dropped_is_read_by_the_next_process_and_never_durable() {
    let disk = disk();
    let a = file(&disk, "a");
    disk.sync_dir(Path::new(DIR)).unwrap();
    a.write_all_at(b"one", 0).unwrap();
    disk.fail(FaultPlan::once(Some(IoOp::Sync), 0, ErrorKind::Other));
    assert!(a.sync().is_err());
    let next = disk.kill();
    assert_eq!(content(&next, "a").unwrap(), b"one");
    next.open(&Path::new(DIR).join("a")).unwrap().sync().unwrap();
    assert_eq!(content(&next.crash(CrashMode::WrittenBack), "a").unwrap(), b"");
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
fn a_full_disk_gets_space_after_some_refusals() {
    let disk = disk();
    let a = file(&disk, "a");
    disk.set_capacity_until(10, 2);
    assert!(a.allocate(20).is_err() && a.allocate(20).is_err());
    a.allocate(20).unwrap();
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
    let image = disk.crash(CrashMode::WrittenBack);
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

/// A directory `new` with the file `f`, whose content is synced, made under another name and renamed.
fn renamed_dir(sync_inside: bool) -> SimDisk {
    let disk = disk();
    let (partial, new) = (Path::new(DIR).join("partial"), Path::new(DIR).join("new"));
    disk.create_dir(&partial).unwrap();
    let f = disk.create(&partial.join("f")).unwrap();
    f.write_all_at(b"content", 0).unwrap();
    f.sync().unwrap();
    if sync_inside {
        disk.sync_dir(&partial).unwrap();
    }
    disk.rename(&partial, &new).unwrap();
    assert_eq!(disk.files(), [new.join("f")]);
    disk
}

#[test]
fn a_renamed_directorys_name_needs_a_sync_of_its_parent() {
    let disk = renamed_dir(true);
    let files = |disk: &SimDisk| disk.crash(CrashMode::LoseUnsynced).files();
    assert_eq!(files(&disk), [Path::new(DIR).join("partial/f")]);
    // Its own sync does not make its name durable.
    disk.sync_dir(&Path::new(DIR).join("new")).unwrap();
    assert_eq!(files(&disk), [Path::new(DIR).join("partial/f")]);
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(files(&disk), [Path::new(DIR).join("new/f")]);
    assert_eq!(content(&disk.crash(CrashMode::LoseUnsynced), "new/f").unwrap(), b"content");
}

#[test]
fn names_in_a_renamed_directory_need_its_own_sync() {
    let disk = renamed_dir(false);
    disk.sync_dir(Path::new(DIR)).unwrap();
    let image = disk.crash(CrashMode::LoseUnsynced);
    assert!(image.exists(&Path::new(DIR).join("new")).unwrap());
    assert!(image.files().is_empty());
    disk.sync_dir(&Path::new(DIR).join("new")).unwrap();
    assert_eq!(content(&disk.crash(CrashMode::LoseUnsynced), "new/f").unwrap(), b"content");
}

#[test]
fn a_crash_during_a_rename_leaves_the_directory_under_one_name_with_all_that_was_synced() {
    let disk = renamed_dir(true);
    let names: std::collections::BTreeSet<Vec<String>> = (0..32)
        .map(|seed| {
            let image = disk.crash(CrashMode::Random { seed });
            let names = image.list(Path::new(DIR)).unwrap();
            let file = Path::new(DIR).join(&names[0]).join("f");
            assert_eq!(image.read(&file).unwrap(), b"content");
            names
        })
        .collect();
    let expected = [vec!["new".to_owned()], vec!["partial".to_owned()]];
    assert!(names.iter().eq(&expected), "{names:?}");
}

#[test]
fn a_directory_made_again_does_not_get_back_what_was_in_the_removed_one() {
    let disk = renamed_dir(true);
    disk.sync_dir(Path::new(DIR)).unwrap();
    let new = Path::new(DIR).join("new");
    disk.remove_dir_all(&new).unwrap();
    disk.create_dir(&new).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    let image = disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(image.list(Path::new(DIR)).unwrap(), ["new"]);
    assert!(image.files().is_empty() && disk.find(b"content").is_none());
}

#[test]
fn renames_are_refused_where_a_file_system_refuses_them() {
    let disk = renamed_dir(true);
    let path = |name: &str| Path::new(DIR).join(name);
    file(&disk, "file");
    let refused =
        |from: &str, to: &str| disk.rename(&path(from), &path(to)).unwrap_err().source.kind();
    assert_eq!(refused("new", "file"), ErrorKind::NotADirectory);
    assert_eq!(refused("file", "new"), ErrorKind::IsADirectory);
    assert_eq!(refused("new", "new/below"), ErrorKind::InvalidInput);
    assert_eq!(refused("gone", "x"), ErrorKind::NotFound);
    assert_eq!(refused("file", "nowhere/x"), ErrorKind::NotFound);
    disk.create_dir(&path("other")).unwrap();
    assert_eq!(refused("other", "new"), ErrorKind::DirectoryNotEmpty);
    disk.rename(&path("new"), &path("other")).unwrap();
    assert_eq!(disk.files(), [path("file"), path("other/f")]);
}
