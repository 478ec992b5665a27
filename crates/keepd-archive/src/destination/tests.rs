//! A folder as a destination: whole objects, nothing written over, hostile names, power cuts.

use std::path::Path;

use keepd_env::SimDisk;
use keepd_env::sim::CrashMode;

use super::*;

fn folder(env: &Env) -> Arc<dyn Destination> {
    let url = url::Url::parse("file:///backups/keepd").unwrap();
    let limit = Arc::new(Limit::new(Arc::clone(&env.clock), None));
    Arc::new(local::Folder::new(env, &url, limit))
}

fn env() -> (Env, SimDisk) {
    let (env, disk, _clock) = Env::simulated(3);
    env.disk.create_dir(Path::new("/backups")).unwrap();
    env.disk.sync_dir(Path::new("/")).unwrap();
    (env, disk)
}

fn read(folder: &dyn Destination, key: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    folder.get(key)?.read_to_end(&mut bytes).map_err(Error::reading)?;
    Ok(bytes)
}

#[test]
fn objects_come_back_are_listed_and_never_written_over() {
    let (env, _disk) = env();
    let folder = folder(&env);
    assert_eq!(folder.list().unwrap(), []);
    let content = vec![5; 200_000];
    let mut told = 0;
    let written = folder.put("aa/base/one", &mut &content[..], &mut |bytes| told = bytes).unwrap();
    assert_eq!((written, told), (200_000, 200_000));
    assert_eq!(read(&*folder, "aa/base/one").unwrap(), content);
    let error = folder.put("aa/base/one", &mut &b"x"[..], &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    folder.replace("aa/base/one.json", b"1").unwrap();
    folder.replace("aa/base/one.json", b"22").unwrap();
    let keys = ["aa/base/one.json".to_owned(), "aa/base/gone".to_owned()];
    let small = folder.get_all(&keys, 10);
    assert_eq!(small[0].as_ref().unwrap(), b"22");
    assert!(small[1].as_ref().unwrap_err().is_not_found());
    assert!(matches!(folder.get_all(&keys[..1], 1)[0], Err(Error::TooLong { max: 1 })));
    let listed = folder.list().unwrap();
    let listed: Vec<(&str, u64)> = listed.iter().map(|it| (it.key.as_str(), it.bytes)).collect();
    assert_eq!(listed, [("aa/base/one", 200_000), ("aa/base/one.json", 2)]);
    folder.remove("aa/base/one").unwrap();
    folder.remove("aa/base/one").unwrap();
    assert!(read(&*folder, "aa/base/one").unwrap_err().is_not_found());
}

/// A reader that fails after its content.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            return Err(std::io::Error::other("gone"));
        }
        self.0.read(bytes)
    }
}

#[test]
fn an_object_that_cannot_be_read_leaves_nothing() {
    let (env, _disk) = env();
    let folder = folder(&env);
    let error = folder.put("aa/base/one", &mut Failing(&[1; 1000]), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
    assert_eq!(env.disk.list(Path::new("/backups/keepd/aa/base")).unwrap(), [""; 0]);
}

#[test]
fn after_a_power_cut_an_object_is_whole_or_not_there() {
    let content = vec![9; 150_000];
    let mut whole = 0;
    // BOUND: a put has fewer changing calls.
    for cut in 1..60 {
        for mode in [
            CrashMode::LoseUnsynced,
            CrashMode::Torn { seed: cut },
            CrashMode::Random { seed: cut },
        ] {
            let (env, disk) = env();
            disk.crash_at(disk.mutations() + cut);
            let acknowledged =
                folder(&env).put("aa/base/one", &mut &content[..], &mut |_| {}).is_ok();
            let image = disk.crash(mode);
            let env = Env { disk: Arc::new(image), ..env };
            let found = read(&*folder(&env), "aa/base/one");
            if let Ok(found) = &found {
                assert!(*found == content, "cut after {cut}, {mode:?}");
                whole += 1;
            }
            assert!(found.is_ok() || !acknowledged, "cut after {cut}, {mode:?}");
        }
    }
    assert!(whole > 0, "some cut came after the end");
}

#[test]
fn keys_do_not_lead_out_of_the_folder() {
    for (key, expected) in [
        ("aa/base/20261128T005336123Z-1-ondemand.snap.zst.age", true),
        ("aa/../b", false),
        ("/aa", false),
        ("aa//b", false),
        ("aa/.hidden", false),
        ("aa\\b", false),
        ("", false),
    ] {
        assert_eq!(is_plain(key), expected, "{key}");
    }
}

/// An object of a folder that is cut off while it is written.
fn interrupt(env: &Env, key: &str) {
    let partial = format!("/backups/keepd/{key}.0123abcd.partial");
    env.disk.replace(Path::new(&partial), b"half").unwrap();
}

#[test]
fn what_interrupted_backups_have_left_is_removed_when_it_is_old() {
    use crate::catalog::clear_interrupted;
    use crate::name::{Kind, Name};
    use crate::{Moment, catalog};

    let (env, _disk) = env();
    let folder = folder(&env);
    let name =
        |millis, kind| Name { time: Moment::of_millis(millis), revision: 5, kind, is_sealed: true };
    let (old, young) = (name(1_000, Kind::Scheduled), name(9_000, Kind::Scheduled));
    let (whole, asked_for) = (name(2_000, Kind::Scheduled), name(3_000, Kind::OnDemand));
    for name in [old, young, whole, asked_for] {
        folder.put(&name.key(7), &mut &b"sealed"[..], &mut |_| {}).unwrap();
    }
    folder.replace(&whole.sidecar_key(7), b"{}").unwrap();
    folder.put(&old.key(8), &mut &b"of another cluster"[..], &mut |_| {}).unwrap();
    for name in [name(1_500, Kind::Scheduled), name(9_500, Kind::Scheduled)] {
        interrupt(&env, &name.key(7));
    }
    let listed = |cluster| {
        let listing = catalog::Listing::read(&*folder, Some(cluster)).unwrap();
        listing.backups.iter().map(|it| (it.name, it.is_whole())).collect::<Vec<_>>()
    };
    assert_eq!(listed(7), [(old, false), (whole, true), (asked_for, false), (young, false)]);
    assert_eq!(folder.interrupted().unwrap().len(), 2);
    assert_eq!(clear_interrupted(&*folder, 7, Moment::of_millis(5_000)).unwrap(), 2);
    assert_eq!(listed(7), [(whole, true), (asked_for, false), (young, false)]);
    assert_eq!(listed(8), [(old, false)]);
    assert_eq!(folder.interrupted().unwrap().len(), 1);
    assert_eq!(clear_interrupted(&*folder, 7, Moment::of_millis(5_000)).unwrap(), 0);
}
