//! Power cuts and failing disks during a restore.

use keepd_env::sim::CrashMode;

use super::*;

/// Restores on a disk that stops after `mutations` more changes; the disk after the power is back,
/// and how far the restore came.
fn interrupted(mutations: u64, mode: CrashMode) -> (Env, Reached) {
    let (mut env, disk) = env();
    let file = export(example(&env).views().load());
    disk.poke(Path::new(FILE), &file);
    disk.crash_at(disk.mutations() + mutations);
    let is_done = restore_plain(&env, &RestoreOptions::default()).is_ok();
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
    let exists = env.disk.exists(&Layout::new(Path::new(DATA)).member).unwrap();
    if !exists {
        restore_plain(env, &RestoreOptions::default()).unwrap();
    }
    let view = open_store(env, plain_keys()).views().load();
    assert_eq!((view.revision(), view.live_keys()), (7, 3), "cut after {mutations}");
    exists
}

#[test]
fn an_interruption_leaves_a_whole_member_or_room_for_another_try() {
    for mode in [CrashMode::KeepUnsynced, CrashMode::Torn { seed: 2 }] {
        for mutations in 0.. {
            let (env, reached) = interrupted(mutations, mode);
            let exists = check_whole_or_repeatable(&env, mutations);
            assert_eq!(exists, reached.is_renamed);
            if reached.is_done {
                break;
            }
        }
    }
}

#[test]
fn what_a_power_cut_loses_before_the_rename_is_made_again() {
    // The simulated disk renames a directory's files one by one, so it cannot tell what a power cut
    // between the rename and its sync leaves.
    for mode in [CrashMode::LoseUnsynced, CrashMode::Random { seed: 1 }] {
        let mut cuts = 0;
        for mutations in 0.. {
            let (env, reached) = interrupted(mutations, mode);
            if reached.is_renamed {
                break;
            }
            assert!(!check_whole_or_repeatable(&env, mutations));
            cuts += 1;
        }
        assert!(cuts > 20, "{cuts} cuts");
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
