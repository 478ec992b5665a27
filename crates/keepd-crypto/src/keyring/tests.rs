//! Keys that come, go and are wrong; damage of every byte; crashes at every step.

use std::io::ErrorKind;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keepd_env::sim::{CrashMode, FaultPlan};
use keepd_env::{Disk, IoOp, SeededRandom, SimDisk};
use proptest::prelude::*;

use super::*;
use crate::FileKind;

const DIR: &str = "/data";

/// A configuration for secrets: `aesgcm:k1=1` is a key of that name whose secret is that byte;
/// `identity` is identity.
fn config(providers: &[&str]) -> EncryptionConfig {
    let provider = |text: &&str| match text.split_once(':') {
        None => "{identity: {}}".to_owned(),
        Some((algorithm, key)) => {
            let (name, fill) = key.split_once('=').unwrap();
            let secret = STANDARD.encode([fill.parse::<u8>().unwrap(); 32]);
            format!("{{{algorithm}: {{keys: [{{name: {name}, secret: {secret}}}]}}}}")
        }
    };
    let providers: Vec<String> = providers.iter().map(provider).collect();
    let text = format!(
        "apiVersion: v1\nkind: EncryptionConfig\nresources: [{{resources: [secrets], \
         providers: [{}]}}]",
        providers.join(", ")
    );
    EncryptionConfig::parse("test.yaml", text.as_bytes()).unwrap()
}

/// Opens the keyring, or begins one in a directory without files.
fn open(env: &Env, providers: &[&str]) -> Result<(Keyring, FileKeys), KeyringError> {
    let (dir, config) = (Path::new(DIR), config(providers));
    let exists = env.disk.exists(&path(KEYRING_NAME)).unwrap_or(true)
        || env.disk.exists(&path(KEYRING_PREVIOUS_NAME)).unwrap_or(true);
    if exists {
        Keyring::open_or_create(env, dir, Some(&config))
    } else {
        Keyring::create(env, dir, Some(&config))
    }
}

/// Opens the keyring of a directory that may hold files.
fn open_over(env: &Env, providers: &[&str]) -> Result<(Keyring, FileKeys), KeyringError> {
    Keyring::open_or_create(env, Path::new(DIR), Some(&config(providers)))
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn header(files: &FileKeys) -> [u8; crate::FILE_HEADER_LEN] {
    files.create(FileKind::Wal, 1, &SeededRandom::new(9)).header()
}

fn opens(files: &FileKeys, header: &[u8]) -> bool {
    files.open(FileKind::Wal, 1, header).is_ok()
}

fn empty() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(Path::new(DIR)).unwrap();
    disk
}

fn on(disk: SimDisk) -> Env {
    Env { disk: Arc::new(disk), ..Env::simulated(77).0 }
}

#[test]
fn any_one_of_the_keys_opens_it() {
    let (env, _, _) = Env::simulated(1);
    let (keyring, files) = open(&env, &["aesgcm:a=1", "aescbc:b=2", "secretbox:c=3"]).unwrap();
    assert_eq!(keyring.wrapped_under().len(), 3);
    assert!(files.is_sealing());
    let header = header(&files);
    for key in ["aesgcm:a=1", "aescbc:b=2", "secretbox:c=3"] {
        let disk = empty();
        for name in [KEYRING_NAME, KEYRING_PREVIOUS_NAME] {
            if env.disk.exists(&path(name)).unwrap() {
                disk.poke(&path(name), &env.disk.read(&path(name)).unwrap());
            }
        }
        let (_, files) = open(&on(disk), &[key]).unwrap();
        assert!(opens(&files, &header), "{key}");
    }
}

#[test]
fn wrong_and_missing_keys_are_named_and_nothing_is_touched() {
    let (env, disk, _) = Env::simulated(1);
    open(&env, &["aescbc:key1=1", "aesgcm:key2=2"]).unwrap();
    let before = disk.mutations();
    let none = Keyring::open_or_create(&env, Path::new(DIR), None).unwrap_err();
    let other = open(&env, &["secretbox:new=9"]).unwrap_err();
    let same_name = open(&env, &["aescbc:key1=7"]).unwrap_err();
    let identity = open(&env, &["identity"]).unwrap_err();
    assert_eq!(disk.mutations(), before);
    let text = [none, other, same_name, identity].map(|error| error.to_string()).join("\n");
    let ids = config(&["aescbc:key1=1", "aesgcm:key2=2", "secretbox:new=9", "aescbc:key1=7"]);
    let mut text = text;
    for name in ids.key_names() {
        text = text.replace(&format!("{:016x}", name.id.0), "..");
    }
    testkit::golden::compare("tests/golden/keyring-errors.txt", &(text + "\n"));
}

#[test]
fn keys_come_move_and_go() {
    let (env, disk, _) = Env::simulated(1);
    let (mut keyring, files) = open(&env, &["aescbc:old=1"]).unwrap();
    let (first, old_file) = (files.active(), header(&files));
    // Added last, then moved to the front: wrapped under both, the same data key.
    let added = keyring.apply(&config(&["aescbc:old=1", "aesgcm:new=2"])).unwrap();
    assert!(added.is_rewritten && !added.is_new_data_key);
    let moved = keyring.apply(&config(&["aesgcm:new=2", "aescbc:old=1"])).unwrap();
    assert_eq!(moved, KeyringChange { is_rewritten: false, active: first, is_new_data_key: false });
    assert!(disk.peek(&path(KEYRING_PREVIOUS_NAME)).is_some());
    // Gone: another data key, and the key opens neither copy.
    let gone = keyring.apply(&config(&["aesgcm:new=2"])).unwrap();
    assert!(gone.is_rewritten && gone.is_new_data_key);
    assert_eq!(files.known().len(), 2);
    assert!(opens(&files, &old_file));
    assert_copied(&disk);
    assert!(matches!(open(&env, &["aescbc:old=1"]), Err(KeyringError::WrongKeys { .. })));
    let (_, again) = open(&env, &["aesgcm:new=2"]).unwrap();
    assert!(opens(&again, &old_file) && opens(&again, &header(&files)));
}

#[test]
fn opening_again_changes_nothing() {
    let (env, disk, _) = Env::simulated(1);
    let long = format!("aesgcm:{}=1", "n".repeat(300));
    let (_, files) = open(&env, &[&long]).unwrap();
    disk.record_calls();
    let (_, again) = open(&env, &[&long]).unwrap();
    let calls = disk.recorded_calls().into_iter().filter(|call| call.mutating);
    // What was found is made durable, and nothing else.
    assert_eq!(calls.map(|call| call.op).collect::<Vec<_>>(), [IoOp::Sync]);
    assert_eq!(again.known(), files.known());
}

#[test]
fn on_and_off_again() {
    let (env, disk, _) = Env::simulated(1);
    let (_, plain) = Keyring::open_or_create(&env, Path::new(DIR), None).unwrap();
    assert!(!plain.is_sealing() && disk.files().is_empty());
    let plain_file = header(&plain);
    // On: new files are sealed, plain ones may be read until the last one is rewritten.
    let real = config(&["aescbc:k=1", "identity"]);
    let (mut keyring, files) = open_over(&env, &["aescbc:k=1", "identity"]).unwrap();
    let active = files.active();
    let sealed_file = header(&files);
    assert!(files.is_sealing() && opens(&files, &plain_file));
    let still = BTreeSet::from([DataKeyId::PLAIN, active]);
    assert!(!keyring.retire(&real, &still).unwrap());
    assert!(keyring.retire(&real, &BTreeSet::from([active])).unwrap());
    assert!(!opens(&files, &plain_file));
    assert_eq!(files.known(), [active]);
    // Off: identity first, the key still there to read with.
    let off = config(&["identity", "aescbc:k=1"]);
    keyring.apply(&off).unwrap();
    assert!(!files.is_sealing() && opens(&files, &sealed_file));
    assert!(opens(&files, &header(&files)));
    assert!(!keyring.retire(&off, &still).unwrap());
    assert!(keyring.retire(&off, &BTreeSet::from([DataKeyId::PLAIN])).unwrap());
    assert!(disk.files().is_empty());
    assert!(!opens(&files, &sealed_file));
    // The configuration may go.
    Keyring::open_or_create(&env, Path::new(DIR), None).unwrap();
}

#[test]
fn a_new_directory_never_takes_plain_files() {
    let (env, _, _) = Env::simulated(1);
    let plain_file = header(&FileKeys::plain());
    for providers in [&["aesgcm:a=1"][..], &["aesgcm:a=1", "identity"]] {
        let env = on(empty());
        let (_, files) = open(&env, providers).unwrap();
        assert_eq!(files.known(), [files.active()]);
        let refused = files.open(FileKind::Wal, 1, &plain_file).unwrap_err();
        assert_eq!(refused, crate::FileError::PlainRefused);
    }
    let (_, files) = open(&env, &["identity", "aesgcm:a=1"]).unwrap();
    assert!(opens(&files, &plain_file));
}

/// No keyring means that everything there is plain, or that somebody took the keyring away.
#[test]
fn a_directory_without_a_keyring_is_taken_only_by_a_configuration_that_reads_plain() {
    let (env, disk, _) = Env::simulated(1);
    let error = open_over(&env, &["aesgcm:a=1"]).unwrap_err();
    assert!(matches!(error, KeyringError::PlainUntrusted { .. }), "{error}");
    let text = error.to_string();
    for part in ["/data", "secrets", "`- identity: {}`", "--encryption-trust-plain-data"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(disk.files().is_empty());
    open_over(&env, &["aesgcm:a=1", "identity"]).unwrap();
}

#[test]
fn the_operator_may_vouch_for_plain_files_until_they_are_converted() {
    let (env, _, _) = Env::simulated(1);
    let plain_file = header(&FileKeys::plain());
    let mut vouched = config(&["aesgcm:a=1"]);
    vouched.options.trust_plain_data = true;
    let dir = Path::new(DIR);
    let (mut keyring, files) = Keyring::open_or_create(&env, dir, Some(&vouched)).unwrap();
    assert!(opens(&files, &plain_file));
    // Without the flag the encryption does not go on; with it again it does.
    let (_, without) = open_over(&env, &["aesgcm:a=1"]).unwrap();
    let refused = without.open(FileKind::Wal, 1, &plain_file).unwrap_err();
    assert_eq!(refused, crate::FileError::PlainUntrusted);
    let (_, with) = Keyring::open_or_create(&env, dir, Some(&vouched)).unwrap();
    assert!(opens(&with, &plain_file));
    // Once everything is encrypted it is spent.
    assert!(keyring.retire(&vouched, &BTreeSet::from([files.active()])).unwrap());
    let (_, spent) = Keyring::open_or_create(&env, dir, Some(&vouched)).unwrap();
    let refused = spent.open(FileKind::Wal, 1, &plain_file).unwrap_err();
    assert_eq!(refused, crate::FileError::PlainRefused);
}

/// The identity of one rule says nothing of the values of another, and a file holds both.
#[test]
fn plain_files_need_identity_in_every_rule() {
    let text = |rules: &str| {
        let text = format!("apiVersion: v1\nkind: EncryptionConfig\nresources:\n{rules}").replace(
            "KEY",
            &format!("aesgcm: {{keys: [{{name: k, secret: {}}}]}}", STANDARD.encode([7; 32])),
        );
        EncryptionConfig::parse("test.yaml", text.as_bytes()).unwrap()
    };
    let refused_for = |rules: &str| text(rules).refuses_plain_files().map(ToString::to_string);
    let with = "- {resources: [secrets], providers: [{KEY}, {identity: {}}]}\n";
    let without = "- {resources: [configmaps], providers: [{KEY}]}\n";
    let plain = "- {resources: [pods], providers: [{identity: {}}]}\n";
    assert_eq!(refused_for(&[with, plain].concat()), None);
    assert_eq!(refused_for(&[with, without].concat()).as_deref(), Some("configmaps"));
    // A second entry for the same resource comes after the first, as when it is read.
    let again = "- {resources: [configmaps], providers: [{identity: {}}]}\n";
    assert_eq!(refused_for(&[with, without, again].concat()), None);
}

/// Whoever copies an older keyring over the newer one gets no plain file read.
#[test]
fn no_older_keyring_takes_plain_files_once_none_is_left() {
    let (env, disk, _) = Env::simulated(1);
    let plain_file = header(&FileKeys::plain());
    let both = ["aesgcm:a=1", "identity"];
    let (mut keyring, files) = open_over(&env, &both).unwrap();
    let during = disk.peek(&path(KEYRING_NAME)).unwrap();
    // The copy says so as well.
    keyring.rotate(&config(&both)).unwrap();
    assert_copied(&disk);
    assert!(keyring.retire(&config(&both), &BTreeSet::from([files.active()])).unwrap());
    assert_copied(&disk);
    keyring.rotate(&config(&both)).unwrap();
    for name in [KEYRING_NAME, KEYRING_PREVIOUS_NAME] {
        let copy = empty();
        copy.poke(&path(KEYRING_NAME), &disk.peek(&path(name)).unwrap());
        let (_, files) = open_over(&on(copy), &both).unwrap();
        assert!(!opens(&files, &plain_file), "{name}");
    }
    // A copy kept from during the encryption: the configuration has to ask for plain files too.
    let copy = empty();
    copy.poke(&path(KEYRING_NAME), &during);
    let (_, files) = open_over(&on(copy), &["aesgcm:a=1"]).unwrap();
    assert!(!opens(&files, &plain_file));
}

/// A running server does not lose sight of the plain files that it still has.
#[test]
fn identity_is_not_dropped_while_plain_files_are_left() {
    let (env, disk, _) = Env::simulated(1);
    let (mut keyring, files) = open_over(&env, &["aesgcm:a=1", "identity"]).unwrap();
    let before = disk.mutations();
    let error = keyring.apply(&config(&["aesgcm:a=1"])).unwrap_err();
    assert!(matches!(error, KeyringError::PlainUntrusted { .. }), "{error}");
    assert_eq!(disk.mutations(), before);
    assert!(opens(&files, &header(&FileKeys::plain())));
    keyring
        .retire(&config(&["aesgcm:a=1", "identity"]), &BTreeSet::from([files.active()]))
        .unwrap();
    keyring.apply(&config(&["aesgcm:a=1"])).unwrap();
}

#[test]
fn data_keys_rotate_and_retire() {
    let (env, _, _) = Env::simulated(1);
    let one = config(&["aesgcm:k=1"]);
    let (mut keyring, files) = open(&env, &["aesgcm:k=1"]).unwrap();
    let first = files.active();
    let second = keyring.rotate(&one).unwrap();
    assert_ne!(first, second);
    assert_eq!(files.active(), second);
    assert!(files.known().contains(&first));
    keyring.retire(&one, &BTreeSet::from([second])).unwrap();
    assert_eq!(files.known(), [second]);
    let (_, again) = open(&env, &["aesgcm:k=1"]).unwrap();
    assert_eq!(again.known(), [second]);
}

fn assert_copied(disk: &SimDisk) {
    let keyring = disk.peek(&path(KEYRING_NAME));
    assert!(keyring.is_some());
    assert_eq!(keyring, disk.peek(&path(KEYRING_PREVIOUS_NAME)));
}

#[test]
fn damage_costs_no_data_key_and_is_mended_by_the_next_start_and_while_it_is_open() {
    let (env, disk, _) = Env::simulated(1);
    let keys = ["aesgcm:a=1"];
    let (mut keyring, files) = open(&env, &keys).unwrap();
    keyring.rotate(&config(&keys)).unwrap();
    let newest = header(&files);
    for name in [KEYRING_NAME, KEYRING_PREVIOUS_NAME] {
        for at in 0..disk.peek(&path(name)).unwrap().len() {
            assert!(disk.flip(&path(name), at.try_into().unwrap(), 1));
            let (_, files) = open(&env, &keys).unwrap();
            assert!(opens(&files, &newest), "{name} at {at}");
            assert_copied(&disk);
        }
    }
    let (keyring, files) = open(&env, &keys).unwrap();
    for name in [KEYRING_NAME, KEYRING_PREVIOUS_NAME] {
        assert!(disk.flip(&path(name), 30, 1));
        let state = keyring.look_after().unwrap();
        assert_eq!(state == KeyringState::Mended(path(KEYRING_NAME)), name == KEYRING_NAME);
        assert_copied(&disk);
        assert!(opens(&files, &newest));
    }
    // A whole one of another time is no damage.
    let ours = disk.peek(&path(KEYRING_NAME)).unwrap();
    let elsewhere = disk.kill();
    let (mut other, _) = open(&on(elsewhere.clone()), &keys).unwrap();
    other.rotate(&config(&keys)).unwrap();
    disk.poke(&path(KEYRING_NAME), &elsewhere.peek(&path(KEYRING_NAME)).unwrap());
    let state = keyring.look_after().unwrap();
    assert_eq!(state, KeyringState::Misplaced(path(KEYRING_NAME)));
    // Nor is one that a newer program wrote.
    let (covered, _) = ours.split_last_chunk::<4>().unwrap();
    let (head, rest) = covered.split_at(8);
    let (_, body) = rest.split_at(2);
    let newer = [head, &99_u16.to_le_bytes(), body].concat();
    let crc = crc32c::crc32c(&newer).to_le_bytes();
    disk.poke(&path(KEYRING_NAME), &[&newer[..], &crc].concat());
    let state = keyring.look_after().unwrap();
    assert_eq!(state, KeyringState::Misplaced(path(KEYRING_NAME)));
    disk.poke(&path(KEYRING_NAME), &ours);
    assert_eq!(keyring.look_after().unwrap(), KeyringState::InPlace);
}

#[test]
fn every_flipped_bit_is_found_and_the_one_before_is_read() {
    let (env, _, _) = Env::simulated(1);
    let (mut keyring, files) = open(&env, &["aesgcm:a=1", "aescbc:b=2"]).unwrap();
    let older = env.disk.read(&path(KEYRING_NAME)).unwrap();
    let header = header(&files);
    keyring.rotate(&config(&["aesgcm:a=1", "aescbc:b=2"])).unwrap();
    let newer = env.disk.read(&path(KEYRING_NAME)).unwrap();
    for at in 0..newer.len() {
        let disk = empty();
        disk.poke(&path(KEYRING_NAME), &newer);
        let mask = 1 << (at % 8);
        assert!(disk.flip(&path(KEYRING_NAME), at.try_into().unwrap(), mask));
        let alone = on(disk.clone());
        let error = open(&alone, &["aesgcm:a=1"]).unwrap_err();
        assert!(matches!(error, KeyringError::Damaged { .. }), "byte {at}: {error}");
        disk.poke(&path(KEYRING_PREVIOUS_NAME), &older);
        let (keyring, files) = open(&alone, &["aesgcm:a=1", "aescbc:b=2"]).unwrap();
        assert!(keyring.is_recovered() && opens(&files, &header), "byte {at}");
        let (keyring, _) = open(&alone, &["aesgcm:a=1", "aescbc:b=2"]).unwrap();
        assert!(!keyring.is_recovered(), "byte {at}: it was not written again");
    }
}

#[test]
fn a_forged_checksum_does_not_pass() {
    let (env, _, _) = Env::simulated(1);
    open(&env, &["aesgcm:a=1"]).unwrap();
    let good = env.disk.read(&path(KEYRING_NAME)).unwrap();
    let (covered, _) = good.split_last_chunk::<4>().unwrap();
    for at in 8..covered.len() {
        let mut bytes = covered.to_vec();
        bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x10);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let disk = empty();
        disk.poke(&path(KEYRING_NAME), &bytes);
        assert!(open(&on(disk), &["aesgcm:a=1"]).is_err(), "byte {at}");
    }
}

#[test]
fn a_crash_at_any_step_leaves_a_keyring_that_opens_every_file() {
    let steps: [&[&str]; 4] = [
        &["aesgcm:a=1"],
        &["aesgcm:a=1", "aescbc:b=2"],
        &["aescbc:b=2"],
        &["identity", "aescbc:b=2"],
    ];
    for at in 0.. {
        let (env, disk, _) = Env::simulated(1);
        disk.crash_at(at);
        let mut headers = Vec::new();
        let mut keys: Vec<&str> = Vec::new();
        let result = (|| -> Result<(), KeyringError> {
            keys = steps.first().unwrap().to_vec();
            let (mut keyring, files) = open(&env, steps.first().unwrap())?;
            headers.push(header(&files));
            for step in steps.iter().skip(1) {
                // Whoever restarts after a crash has the old file or the new one.
                keys = keys.iter().chain(*step).copied().collect();
                keyring.apply(&config(step))?;
                headers.push(header(&files));
                keys = step.to_vec();
            }
            Ok(())
        })();
        let random = (0..6).map(|seed| CrashMode::Random { seed });
        for mode in random.chain([CrashMode::LoseUnsynced, CrashMode::WrittenBack]) {
            let after = on(disk.crash(mode));
            keys.sort_unstable();
            keys.dedup();
            let (_, files) = open(&after, &keys).unwrap();
            for header in &headers {
                assert!(opens(&files, header), "crash at {at}: {result:?}");
            }
        }
        // Killed there, started, and then the power goes: what the start seals under what it found
        // opens, and so does what was sealed before.
        let killed = disk.kill();
        let (_, files) = open(&on(killed.clone()), &keys).unwrap();
        headers.push(header(&files));
        let after = on(killed.crash(CrashMode::LoseUnsynced));
        let (_, files) = open(&after, &keys).unwrap();
        for header in &headers {
            assert!(opens(&files, header), "killed at {at}, then cut: {result:?}");
        }
        if result.is_ok() {
            break;
        }
    }
}

#[test]
fn whichever_call_fails_the_old_configuration_still_opens_the_directory() {
    let steps: [(&[&str], &[&str]); 3] = [
        (&["identity"], &["aesgcm:a=1", "identity"]),
        (&["aesgcm:a=1"], &["aesgcm:a=1", "aescbc:b=2"]),
        (&["aesgcm:a=1"], &["aescbc:b=2"]),
    ];
    for (old, new) in steps {
        for after in 0.. {
            let (env, disk, _) = Env::simulated(1);
            let (mut keyring, files) = open(&env, old).unwrap();
            let (known, file) = (files.known(), header(&files));
            disk.fail(FaultPlan::once(None, after, ErrorKind::Other));
            let applied = keyring.apply(&config(new));
            disk.heal();
            if applied.is_ok() {
                let (_, again) = open(&env, new).unwrap();
                assert!(opens(&again, &file));
                break;
            }
            assert_eq!(files.known(), known);
            let (_, again) = open(&env, old).unwrap();
            assert!(opens(&again, &file) && again.known() == known, "call {after}");
            // The change can be tried again.
            keyring.apply(&config(new)).unwrap();
            let (_, again) = open(&env, new).unwrap();
            assert!(opens(&again, &file) && opens(&again, &header(&files)), "call {after}");
        }
    }
}

#[test]
fn a_failed_write_keeps_the_old_keys() {
    let (env, disk, _) = Env::simulated(1);
    let (mut keyring, files) = open(&env, &["aesgcm:a=1"]).unwrap();
    let known = files.known();
    disk.set_capacity(Some(0));
    assert!(keyring.apply(&config(&["aescbc:b=2"])).is_err());
    assert_eq!(files.known(), known);
    disk.heal();
    let (_, files) = open(&env, &["aesgcm:a=1"]).unwrap();
    assert_eq!(files.known(), known);
}

#[test]
fn no_secret_lies_on_the_disk() {
    let (env, disk, _) = Env::simulated(1);
    let (keyring, _) = open(&env, &["aesgcm:a=65", "secretbox:b=66"]).unwrap();
    assert!(disk.find(&[65; 16]).is_none() && disk.find(&[66; 16]).is_none());
    for secret in keyring.set.keys.values() {
        assert!(disk.find(secret.expose()).is_none());
        assert!(!format!("{keyring:?}").contains(&format!("{:?}", secret.expose())));
    }
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(tail: Vec<u8>, wraps in 0..4_u32) {
        let head = [b"keepdkey\x01\0\0\0".as_slice(), &[0; 8], &wraps.to_le_bytes()].concat();
        let mut bytes = [head, tail].concat();
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        if let Ok(file) = format::File::decode(&bytes) {
            for key in config(&["aesgcm:a=1"]).keys().values() {
                prop_assert!(file.unlock(key).is_err());
            }
        }
    }
}
