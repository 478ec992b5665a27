//! Installs over a simulated disk: whole or not at all, under the active key only.

use std::sync::Arc;

use keepd_crypto::FileKeys;
use keepd_env::{Env, SeededRandom, SimDisk};

use super::*;

const MEMBER: &str = "/data/member";

fn member() -> &'static Path {
    Path::new(MEMBER)
}

fn env(disk: &SimDisk) -> Env {
    let (env, _, _) = Env::simulated(1);
    Env { disk: Arc::new(disk.clone()), ..env }
}

/// A member with a store whose one file tells that it is the old one, and a staged one.
fn staged() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(&Layout::store(member())).unwrap();
    disk.replace(&Layout::store(member()).join("file"), b"old").unwrap();
    let dir = begin(&disk, member()).unwrap();
    disk.create_dir(&dir).unwrap();
    disk.replace(&dir.join("file"), b"new").unwrap();
    disk
}

fn store(disk: &SimDisk) -> Vec<u8> {
    disk.read(&Layout::store(member()).join("file")).unwrap()
}

const RECORD: InstallRecord = InstallRecord { index: 77, term: 5 };

#[test]
fn an_install_goes_its_way_and_leaves_nothing_behind() {
    let (disk, keys) = (staged(), FileKeys::ephemeral(&SeededRandom::new(3)));
    assert_eq!(read(&disk, member(), &keys).unwrap(), None);
    commit(&env(&disk), member(), &keys, keys.active(), RECORD).unwrap();
    assert_eq!(read(&disk, member(), &keys).unwrap(), Some(RECORD));
    assert!(matches!(begin(&disk, member()), Err(InstallError::UnderWay { .. })));
    assert!(matches!(discard(&disk, member()), Err(InstallError::UnderWay { .. })));
    let next = store_of_next_start(&disk, member()).unwrap();
    assert_eq!(disk.read(&next.join("file")).unwrap(), b"new");
    for _ in 0..2 {
        switch(&disk, member()).unwrap();
        assert_eq!(store(&disk), b"new");
    }
    assert_eq!(store_of_next_start(&disk, member()).unwrap(), Layout::store(member()));
    finish(&disk, member()).unwrap();
    discard(&disk, member()).unwrap();
    assert_eq!(disk.list(member()).unwrap(), ["store"]);
}

#[test]
fn what_is_staged_without_a_record_goes_but_never_the_only_store() {
    let disk = staged();
    disk.rename(&Layout::store(member()), &member().join("elsewhere")).unwrap();
    assert!(matches!(discard(&disk, member()), Err(InstallError::StoreMissing { .. })));
    disk.rename(&member().join("elsewhere"), &Layout::store(member())).unwrap();
    discard(&disk, member()).unwrap();
    assert_eq!(
        (store(&disk), disk.list(member()).unwrap()),
        (b"old".to_vec(), vec!["store".into()])
    );
}

#[test]
fn a_state_under_a_data_key_that_is_not_active_is_not_installed() {
    let (disk, keys) = (staged(), FileKeys::ephemeral(&SeededRandom::new(3)));
    let refused = commit(&env(&disk), member(), &keys, DataKeyId::PLAIN, RECORD);
    assert!(matches!(refused, Err(InstallError::KeyChanged)));
    assert_eq!(read(&disk, member(), &keys).unwrap(), None);
}

#[test]
fn every_flipped_bit_and_every_cut_of_the_record_is_refused() {
    for keys in [FileKeys::plain(), FileKeys::ephemeral(&SeededRandom::new(3))] {
        let disk = staged();
        commit(&env(&disk), member(), &keys, keys.active(), RECORD).unwrap();
        let path = Layout::install(member());
        let sound = disk.peek(&path).unwrap();
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            disk.poke(&path, &bytes);
            let refused = read(&disk, member(), &keys).unwrap_err();
            let is_told =
                matches!(refused, InstallError::Damaged { .. } | InstallError::Key { .. });
            assert!(is_told, "bit {bit}: {refused}");
        }
        for len in 0..sound.len() {
            disk.poke(&path, &sound[..len]);
            read(&disk, member(), &keys).unwrap_err();
        }
        disk.poke(&path, &sound);
        assert_eq!(read(&disk, member(), &keys).unwrap(), Some(RECORD));
    }
}
