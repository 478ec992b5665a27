//! Power cuts and failing disks during a restore.

use keepd_env::sim::CrashMode;
use keepd_wal::Wal;

use super::*;

/// Restores on a disk that stops after `mutations` more changes; the disk after the power is back,
/// and how far the restore came.
fn interrupted(mutations: u64, mode: CrashMode) -> (Env, Reached) {
    let (mut env, disk) = env();
    let file = export(example(&env).views().load());
    disk.poke(Path::new(FILE), &file);
    disk.crash_at(disk.mutations() + mutations);
    let is_done = restore_plain(&env, &unbumped()).is_ok();
    let member = Layout::new(Path::new(DATA)).member;
    let is_renamed = disk.files().iter().any(|path| path.starts_with(&member));
    env.disk = Arc::new(disk.crash(mode));
    (env, Reached { is_renamed, is_done })
}

struct Reached {
    is_renamed: bool,
    is_done: bool,
}

fn check_whole_or_repeatable(env: &Env, mutations: u64) -> bool {
    let member = Layout::new(Path::new(DATA)).member;
    let exists = env.disk.exists(&member).unwrap();
    if !exists {
        restore_plain(env, &unbumped()).unwrap();
    }
    let view = open_store(env, plain_keys()).views().load();
    assert_eq!((view.revision(), view.live_keys()), (7, 3), "cut after {mutations}");
    let (_wal, recovered) = Wal::open(env.clone(), &Layout::wal(&member), plain_keys()).unwrap();
    assert_eq!(recovered.start.index, 1, "cut after {mutations}");
    exists
}

#[test]
fn an_interruption_leaves_a_whole_member_or_room_for_another_try() {
    for mode in [
        CrashMode::WrittenBack,
        CrashMode::LoseUnsynced,
        CrashMode::Random { seed: 1 },
        CrashMode::Random { seed: 2 },
        CrashMode::Torn { seed: 2 },
    ] {
        let mut cuts = 0;
        for mutations in 0.. {
            let (env, reached) = interrupted(mutations, mode);
            let exists = check_whole_or_repeatable(&env, mutations);
            assert!(reached.is_renamed || !exists, "{mode:?}, cut after {mutations}");
            if reached.is_done {
                assert!(exists, "{mode:?}: a restore that said that it was done is lost");
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 20, "{cuts} cuts");
    }
}

#[test]
fn a_kill_then_a_start_then_a_power_cut_leaves_a_whole_member_or_room_for_another_try() {
    for mutations in 0.. {
        let (mut env, disk) = env();
        let file = export(example(&env).views().load());
        disk.poke(Path::new(FILE), &file);
        disk.crash_at(disk.mutations() + mutations);
        let is_done = restore_plain(&env, &unbumped()).is_ok();
        let killed = disk.kill();
        env.disk = Arc::new(killed.clone());
        let exists = check_whole_or_repeatable(&env, mutations);
        env.disk.sync_dir(Path::new(DATA)).unwrap();
        env.disk = Arc::new(killed.crash(CrashMode::LoseUnsynced));
        assert!(check_whole_or_repeatable(&env, mutations), "killed after {mutations}");
        if is_done {
            assert!(exists);
            break;
        }
    }
}

#[test]
fn a_full_disk_fails_the_restore_and_leaves_nothing() {
    let (env, disk) = env();
    let file = export(example(&env).views().load());
    disk.poke(Path::new(FILE), &file);
    let used: u64 = disk.files().iter().map(|path| disk.peek(path).unwrap().len() as u64).sum();
    disk.set_capacity(Some(used + 100));
    assert!(restore_plain(&env, &RestoreOptions::default()).is_err());
    disk.heal();
    assert!(!env.disk.exists(Path::new(DATA)).unwrap());
    restore_plain(&env, &RestoreOptions::default()).unwrap();
}
