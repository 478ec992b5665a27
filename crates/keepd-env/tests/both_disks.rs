//! The simulated disk answers as the machine's does: the same calls on both, the same results.
#![expect(clippy::unwrap_used, reason = "a step that fails where it must not fails the test")]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use keepd_env::{Disk, IoError, IoOp, RealDisk, SimDisk};

/// The result of a call, without the disk's own texts.
fn outcome<T>(result: Result<T, IoError>) -> Result<T, (IoOp, ErrorKind)> {
    result.map_err(|error| (error.op, error.source.kind()))
}

/// Everything that callers rely on; the report names each result.
fn exercise(disk: &dyn Disk, root: &Path) -> Vec<String> {
    let mut report = Vec::new();
    let mut note = |what: &str, result: String| report.push(format!("{what}: {result}"));
    let (dir, a, b) = (root.join("x/y"), root.join("x/y/a"), root.join("x/y/b"));

    note("list nothing", format!("{:?}", outcome(disk.list(&dir))));
    let probe = |path: &Path| {
        let found = outcome(disk.probe(path)).map(|found| {
            found.map(|it| (it.is_dir, it.is_own_file, it.is_reserved(20), it.is_reserved(4096)))
        });
        format!("{found:?}")
    };
    note("probe nothing", probe(&dir));
    note("create without a directory", format!("{:?}", outcome(disk.create(&a).map(drop))));
    note("create_dir", format!("{:?}", outcome(disk.create_dir(&dir))));
    note("create_dir again", format!("{:?}", outcome(disk.create_dir(&dir))));
    note("open nothing", format!("{:?}", outcome(disk.open(&a).map(drop))));
    note("remove nothing", format!("{:?}", outcome(disk.remove(&a))));
    note("rename nothing", format!("{:?}", outcome(disk.rename(&a, &b))));

    let file = disk.create(&a).unwrap();
    note("create again", format!("{:?}", outcome(disk.create(&a).map(drop))));
    note("write", format!("{:?}", outcome(file.write_all_at(b"hello", 3))));
    note("sync", format!("{:?}", outcome(file.sync())));
    note("len", format!("{:?}", outcome(file.len())));
    note("content", format!("{:?}", outcome(disk.read(&a))));
    note("allocate", format!("{:?}", outcome(file.allocate(20).and_then(|()| file.len()))));
    note("probe a file", probe(&a));
    note("probe a directory", probe(&dir));
    note("allocate less", format!("{:?}", outcome(file.allocate(10).and_then(|()| file.len()))));
    note("set_len", format!("{:?}", outcome(file.set_len(6).and_then(|()| file.len()))));
    let mut bytes = [0; 4];
    note("read over the end", format!("{:?}", outcome(file.read_exact_at(&mut bytes, 3))));

    let reader = disk.open(&a).unwrap();
    note("write to a reader", format!("{:?}", reader.write_all_at(b"x", 0).is_err()));
    note("rename", format!("{:?}", outcome(disk.rename(&a, &b))));
    note("after rename", format!("{:?} {:?}", disk.exists(&a).unwrap(), disk.exists(&b).unwrap()));
    note("sync_dir", format!("{:?}", outcome(disk.sync_dir(&dir))));
    note("replace", format!("{:?}", outcome(disk.replace(&b, b"new"))));
    note("replaced", format!("{:?}", outcome(disk.read(&b))));
    note("old file", format!("{:?}", outcome(reader.len())));

    let lock = disk.lock_dir(&dir).unwrap();
    note("second lock", format!("{:?}", outcome(disk.lock_dir(&dir).map(drop))));
    drop(lock);
    note("lock again", format!("{:?}", outcome(disk.lock_dir(&dir).map(drop))));
    note("list", format!("{:?}", outcome(disk.list(&dir))));
    note("list above", format!("{:?}", outcome(disk.list(&root.join("x")))));
    note("remove", format!("{:?}", outcome(disk.remove(&b))));
    note("remove_dir_all", format!("{:?}", outcome(disk.remove_dir_all(&root.join("x")))));
    note("gone", format!("{:?}", outcome(disk.exists(&dir))));
    note("sync_dir of nothing", format!("{:?}", outcome(disk.sync_dir(&dir))));
    report
}

#[test]
fn both_disks_answer_alike() {
    let root: PathBuf = std::env::temp_dir().join(format!("keepd-env-{}", std::process::id()));
    let real = RealDisk::new();
    real.create_dir(&root).unwrap();
    let on_real = exercise(&real, &root);
    real.remove_dir_all(&root).unwrap();

    let simulated = SimDisk::new();
    simulated.create_dir(&root).unwrap();
    assert_eq!(exercise(&simulated, &root), on_real);
    assert!(on_real.iter().any(|line| line == "content: Ok([0, 0, 0, 104, 101, 108, 108, 111])"));
}

#[test]
fn what_the_machine_creates_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let root: PathBuf = std::env::temp_dir().join(format!("keepd-mode-{}", std::process::id()));
    let disk = RealDisk::new();
    disk.create_dir(&root).unwrap();
    disk.replace(&root.join("secret"), b"x").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&root), mode(&root.join("secret"))), (0o700, 0o600));
    disk.remove_dir_all(&root).unwrap();
}
