//! Reloads: what they change, what they refuse, and that a refused one changes nothing.

use bytes::Bytes;
use keepd_env::SeededRandom;

use super::*;

const DIR: &str = "/data";
const RECORD: &[u8] = b"/registry/secrets/a/b";

fn text(providers: &[(&str, &str)]) -> String {
    let providers: Vec<String> = providers
        .iter()
        .map(|(name, secret)| match *name {
            "identity" => "{identity: {}}".to_owned(),
            name => format!("{{aesgcm: {{keys: [{{name: {name}, secret: {secret}}}]}}}}"),
        })
        .collect();
    format!(
        "apiVersion: v1\nkind: EncryptionConfig\nresources: [{{resources: [secrets], \
         providers: [{}]}}]",
        providers.join(", ")
    )
}

const ONE: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const TWO: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

fn opened(env: &Env, text: &str) -> Encryption {
    let config = Some(EncryptionConfig::parse("enc.yaml", text.as_bytes()).unwrap());
    let dir = Path::new(DIR);
    if env.disk.list(dir).unwrap().is_empty() {
        Encryption::create(env, dir, config).unwrap()
    } else {
        Encryption::open(env, dir, config).unwrap()
    }
}

fn reloaded(encryption: &Encryption, text: &str, in_use: u64) -> Result<ReloadReport, ReloadError> {
    let file = encryption.parse("enc.yaml", text.as_bytes())?;
    encryption.reload(file.local().expect("it names no key service"), &|_| in_use)
}

fn seal(encryption: &Encryption) -> keepd_types::StoredValue {
    let plain = Bytes::from_static(b"plain");
    encryption.sealer().seal(RECORD, plain, &SeededRandom::new(1)).unwrap()
}

#[test]
fn a_key_is_rotated_by_reloads() {
    let (env, _, _) = Env::simulated(1);
    let encryption = opened(&env, &text(&[("old", ONE)]));
    let files = encryption.files();
    let stored = seal(&encryption);
    let reload =
        |providers: &[(&str, &str)], in_use: u64| reloaded(&encryption, &text(providers), in_use);
    let added = reload(&[("old", ONE), ("new", TWO)], 1).unwrap();
    assert!(added.is_changed && added.keyring.is_rewritten && added.removed.is_empty());
    assert_eq!(added.added.iter().map(|name| name.name.as_str()).collect::<Vec<_>>(), ["new"]);
    assert_eq!(seal(&encryption).seal.unwrap().key_id, stored.seal.unwrap().key_id);
    let moved = reload(&[("new", TWO), ("old", ONE)], 1).unwrap();
    assert!(moved.is_changed && !moved.keyring.is_rewritten);
    assert!(encryption.sealer().is_stale(RECORD, &stored));
    assert!(!reload(&[("new", TWO), ("old", ONE)], 1).unwrap().is_changed);

    let refused = reload(&[("new", TWO)], 3).unwrap_err();
    assert!(matches!(&refused, ReloadError::KeysInUse { keys } if keys.len() == 1));
    assert!(refused.to_string().contains(" by 3 values; put them back"), "{refused}");
    assert_eq!(encryption.sealer().open(RECORD, &stored).unwrap().as_ref(), b"plain");

    let data_key = files.active();
    let dropped = reload(&[("new", TWO)], 0).unwrap();
    assert_eq!(dropped.removed.len(), 1);
    assert_ne!(files.active(), data_key);
    assert!(encryption.sealer().open(RECORD, &stored).is_err());
}

#[test]
fn a_key_that_values_are_being_sealed_under_is_not_dropped() {
    let (env, _, _) = Env::simulated(1);
    let encryption = opened(&env, &text(&[("old", ONE)]));
    let dropped = reloaded(&encryption, &text(&[("new", TWO)]), 0);
    let Err(ReloadError::StillWriting { key }) = dropped else { panic!("{dropped:?}") };
    assert_eq!(key.name, "old");
    assert!(seal(&encryption).seal.is_some_and(|mark| mark.key_id == key.id));
}

#[test]
fn a_fingerprint_tells_what_values_are_sealed_under() {
    let (env, _, _) = Env::simulated(1);
    let encryption = opened(&env, &text(&[("old", ONE), ("new", TWO)]));
    let before = encryption.sealer().fingerprint();
    let reload = |providers: &[(&str, &str)]| {
        reloaded(&encryption, &text(providers), 0).unwrap();
        encryption.sealer().fingerprint()
    };
    assert_eq!(reload(&[("old", ONE)]), before);
    assert_ne!(reload(&[("new", TWO), ("old", ONE)]), before);
    assert_eq!(reload(&[("identity", ""), ("old", ONE), ("new", TWO)]), "");
    assert_eq!(ValueSealer::none().fingerprint(), "");
}

#[test]
fn a_keyring_is_inspected_without_a_change() {
    let (env, disk, _) = Env::simulated(1);
    let dir = Path::new(DIR);
    let parse = |text: &str| EncryptionConfig::parse("enc.yaml", text.as_bytes()).unwrap();
    let both = parse(&text(&[("new", TWO), ("old", ONE)]));
    assert!(Keyring::inspect(&env, dir, Some(&both)).unwrap().is_none());
    let active = Encryption::create(&env, dir, Some(both.clone())).unwrap().files().active();
    let mutations = disk.mutations();
    let inspected = Keyring::inspect(&env, dir, Some(&both)).unwrap().unwrap();
    assert!(inspected.missing.is_empty() && inspected.files.active() == active);
    let fewer = parse(&text(&[("new", TWO)]));
    let inspected = Keyring::inspect(&env, dir, Some(&fewer)).unwrap().unwrap();
    assert_eq!(inspected.missing.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["old"]);
    let refused = Keyring::inspect(&env, dir, None).unwrap_err();
    assert!(matches!(refused, KeyringError::NoConfiguration { .. }));
    assert_eq!(disk.mutations(), mutations);
}

#[test]
fn a_refused_reload_changes_nothing() {
    let (env, disk, _) = Env::simulated(1);
    let encryption = opened(&env, &text(&[("old", ONE)]));
    let (before, mutations) = (encryption.status(), disk.mutations());
    let reload = |text: &str| reloaded(&encryption, text, 0).unwrap_err();
    assert!(matches!(reload("nonsense"), ReloadError::Config(_)));
    let identity = text(&[("identity", "")]);
    assert!(matches!(reload(&identity), ReloadError::StillWriting { .. }));
    assert_eq!(disk.mutations(), mutations);
    disk.set_capacity(Some(0));
    let full = reload(&text(&[("new", TWO), ("old", ONE)]));
    assert!(matches!(full, ReloadError::Keyring(KeyringError::Io(_))));
    disk.heal();
    assert_eq!(encryption.status(), before);
    assert_eq!(opened(&env, &text(&[("old", ONE)])).status(), before);
}

#[test]
fn encryption_is_turned_on_and_off_while_running() {
    let (env, disk, _) = Env::simulated(1);
    let encryption = Encryption::open(&env, Path::new(DIR), None).unwrap();
    let files = encryption.files();
    assert!(!files.is_sealing() && seal(&encryption).seal.is_none());
    let on = text(&[("k", ONE), ("identity", "")]);
    let on = reloaded(&encryption, &on, 0).unwrap();
    assert!(on.keyring.is_new_data_key && files.is_sealing());
    assert!(seal(&encryption).seal.is_some());
    assert_eq!(encryption.status().data_keys.len(), 2);
    let active = files.active();
    assert_ne!(encryption.rotate_data_key().unwrap(), active);

    let off = text(&[("identity", ""), ("k", ONE)]);
    reloaded(&encryption, &off, 1).unwrap();
    assert!(!files.is_sealing() && seal(&encryption).seal.is_none());
    let gone = text(&[("identity", "")]);
    let gone = reloaded(&encryption, &gone, 0);
    assert!(matches!(gone, Err(ReloadError::Keyring(KeyringError::WrongKeys { .. }))));
    assert!(
        encryption
            .retire_data_keys(encryption.files().active(), &BTreeSet::from([DataKeyId::PLAIN]))
            .unwrap()
    );
    assert!(disk.files().is_empty());
    assert_eq!(encryption.status().data_keys, [DataKeyId::PLAIN]);
}

#[test]
fn only_keys_that_every_member_reads_are_written_under() {
    let (env, _, _) = Env::simulated(1);
    let encryption = opened(&env, &text(&[("new", TWO), ("old", ONE)]));
    let old = encryption.status().keys.into_iter().find(|name| name.name == "old").unwrap().id;
    encryption.activate(BTreeSet::from([old]));
    assert_eq!(seal(&encryption).seal.unwrap().key_id, old);
    let rules = encryption.status().rules;
    assert_eq!(rules.first().unwrap().sealing_key, Some((old, "aesgcm:old".to_owned())));
}
