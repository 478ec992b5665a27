//! Files with sealed values.

use keepd_bolt::Reader;
use keepd_crypto::{ConfigOptions, EncryptionConfig, FileKeys, Keyring};
use keepd_types::PlainDigest;

use super::*;
use crate::format::{Proof, SEALED, SealEntry};
use crate::{complete_pending, is_pending, sealed_values};

const SECRET: &str = "canary-of-the-plaintext";

const IDENTITY: &str = "  - identity: {}\n";

fn config(secret_byte: u8) -> EncryptionConfig {
    config_with(secret_byte, "", "")
}

/// A configuration that reads plain values too.
fn mixed() -> EncryptionConfig {
    config_with(1, "", IDENTITY)
}

/// One whose operator vouches for the file.
fn vouched() -> EncryptionConfig {
    let options = ConfigOptions { trust_plain_data: true, ..ConfigOptions::default() };
    EncryptionConfig::parse_with("enc.yaml", text(1, "", "").as_bytes(), options).unwrap()
}

/// With other providers before the key and after it.
fn config_with(secret_byte: u8, first: &str, last: &str) -> EncryptionConfig {
    EncryptionConfig::parse("enc.yaml", text(secret_byte, first, last).as_bytes()).unwrap()
}

fn text(secret_byte: u8, first: &str, last: &str) -> String {
    let secret = match secret_byte {
        1 => "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
        _ => "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
    };
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n\
         - resources: [secrets]\n\
         \x20 providers:\n{first}\
         \x20 - aesgcm:\n\
         \x20     keys:\n\
         \x20     - name: key1\n\
         \x20       secret: {secret}\n{last}"
    )
}

fn key(name: &str) -> String {
    format!("/registry/secrets/default/{name}")
}

/// A file with two sealed values and a plain one.
fn sealed_file(env: &Env) -> (Vec<u8>, Arc<View>) {
    let sealer = ValueSealer::new(&config(1));
    let mut store = new_store(env);
    for name in ["one", "two"] {
        let plain = Bytes::from(format!("{SECRET}-{name}"));
        let stored = sealer.seal(key(name).as_bytes(), plain, &*env.random).unwrap();
        assert!(stored.seal.is_some());
        put_stored(&mut store, &key(name), stored, 0);
    }
    put(&mut store, "/registry/configmaps/default/c", "plain", 0);
    let view = store.publish(Applied { index: 5, term: 1 });
    (export_with(Arc::clone(&view), sealer), view)
}

fn restore_with(env: &Env, config: Option<&EncryptionConfig>) -> Result<Restored, Error> {
    let options = unbumped();
    restore(env, Path::new(FILE), Path::new(DATA), &options, config, &mut |_| {})
}

fn reopened(env: &Env, config: &EncryptionConfig) -> Arc<View> {
    let member = Layout::new(Path::new(DATA)).member;
    let (_keyring, keys) = Keyring::open_or_create(env, &member, Some(config)).unwrap();
    open_store(env, keys).views().load()
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[track_caller]
fn check_restored(view: &Arc<View>, source: &Arc<View>) {
    assert_eq!(view.hash_kv(0).unwrap(), source.hash_kv(0).unwrap());
    let sealer = ValueSealer::new(&config(1));
    for (name, main) in [("one", 2), ("two", 3)] {
        let record = view.load(Revision::first(main)).unwrap();
        let plain = format!("{SECRET}-{name}");
        assert_eq!(record.seal.unwrap().plain, PlainDigest::of(plain.as_bytes()));
        let bytes = KeyValue::decode(&record.encoded).unwrap().value;
        let stored = StoredValue { bytes, seal: record.seal };
        assert_eq!(sealer.open(key(name).as_bytes(), &stored).unwrap(), plain.as_bytes());
    }
    assert_eq!(view.load(Revision::first(4)).unwrap().seal, None);
}

#[test]
fn sealed_values_stay_sealed_in_the_file_and_come_back_sealed() {
    let (env, disk) = env();
    let (file, source) = sealed_file(&env);
    assert!(!contains(&file, SECRET));
    assert!(contains(&file, "k8s:enc:aesgcm:v1:key1:"));
    assert_eq!(status_of(&env, &disk, &file).unwrap().sealed_values, 2);
    assert_eq!(sealed_values(&*env.disk, Path::new(FILE)).unwrap(), 2);
    let restored = restore_with(&env, Some(&config(1))).unwrap();
    assert_eq!((restored.sealed, restored.records, restored.is_pending), (2, 3, false));
    check_restored(&reopened(&env, &config(1)), &source);
    let keys_in_files = disk.files().into_iter().filter(|path| {
        path.starts_with(DATA) && contains(&disk.peek(path).unwrap(), "/registry/secrets")
    });
    assert_eq!(keys_in_files.count(), 0, "the data directory is sealed as a whole");
}

#[test]
fn the_plaintexts_length_and_checksum_stay_out_of_the_file() {
    let (env, _disk) = env();
    let sealer = ValueSealer::new(&config(1));
    let mut store = new_store(&env);
    for name in ["one", "two"] {
        let stored = sealer.seal(key(name).as_bytes(), SECRET.into(), &*env.random).unwrap();
        put_stored(&mut store, &key(name), stored, 0);
    }
    let view = store.publish(Applied { index: 5, term: 1 });
    let file = export_with(Arc::clone(&view), ValueSealer::new(&config(1)));
    let reader = Reader::open(file.as_slice()).unwrap();
    let marks: Vec<Bytes> = reader
        .entries(&reader.bucket(SEALED).unwrap().unwrap())
        .map(|entry| entry.unwrap().value)
        .collect();
    let expected = [2, 3].map(|main| {
        let record = view.load(Revision::first(main)).unwrap();
        let place = crate::format::record_key(Revision::first(main), false);
        let key_id = record.seal.unwrap().key_id;
        SealEntry::of(&sealer, key_id, &place, &record.encoded).unwrap().encode()
    });
    assert_eq!(marks, expected, "the key and a proof over what is in the file anyway");
    let crc = crc32c::crc32c(SECRET.as_bytes());
    for bytes in [crc.to_le_bytes(), crc.to_be_bytes()] {
        assert!(!file.windows(4).any(|window| window == bytes));
    }
}

/// Nothing would ask for the key at the next start: with nothing to seal there is no keyring.
#[test]
fn values_that_the_configuration_wants_plain_come_back_plain() {
    let (env, disk) = env();
    let (file, source) = sealed_file(&env);
    disk.poke(Path::new(FILE), &file);
    let off = config_with(1, IDENTITY, "");
    assert_eq!(restore_with(&env, Some(&off)).unwrap().sealed, 0);
    let view = open_store(&env, FileKeys::plain()).views().load();
    for entry in view.records() {
        assert!(entry.unwrap().1.seal.is_none());
    }
    let hash = |view: &View| view.hash_kv(0).unwrap().hash;
    assert_eq!(hash(&view), hash(&source), "clients see the same");
}

#[test]
fn plain_values_are_sealed_on_the_way_in() {
    let (env, disk) = env();
    let mut store = new_store(&env);
    put(&mut store, &key("one"), &format!("{SECRET}-one"), 0);
    put(&mut store, &key("two"), &format!("{SECRET}-two"), 0);
    put(&mut store, "/registry/configmaps/default/c", "plain", 0);
    let source = store.publish(Applied { index: 5, term: 1 });
    disk.poke(Path::new(FILE), &export(Arc::clone(&source)));
    assert_eq!(restore_with(&env, Some(&mixed())).unwrap().sealed, 2);
    check_restored(&reopened(&env, &config(1)), &source);
    let found = disk
        .files()
        .into_iter()
        .find(|path| path.starts_with(DATA) && contains(&disk.peek(path).unwrap(), SECRET));
    assert_eq!(found, None);
}

#[test]
fn without_keys_the_import_waits_for_the_first_start() {
    let (env, disk) = env();
    let (file, source) = sealed_file(&env);
    disk.poke(Path::new(FILE), &file);
    let restored = restore_with(&env, None).unwrap();
    assert!(restored.is_pending);
    assert!(is_pending(&env, Path::new(DATA)).unwrap());
    let refused = restore_with(&env, None).unwrap_err();
    assert!(matches!(refused, Error::DataDirNotEmpty(_)));

    let complete = |config: Option<&EncryptionConfig>| {
        complete_pending(&env, Path::new(DATA), config, &mut |_| {})
    };
    assert!(matches!(complete(None), Err(Error::PendingNeedsKeys { .. })));
    assert!(matches!(complete(Some(&config(2))), Err(Error::KeyMissing { .. })));
    assert!(is_pending(&env, Path::new(DATA)).unwrap());

    let completed = complete(Some(&config(1))).unwrap().unwrap();
    assert_eq!((completed.member, completed.cluster), (restored.member, restored.cluster));
    assert_eq!(completed.sealed, 2);
    assert!(!is_pending(&env, Path::new(DATA)).unwrap());
    assert_eq!(complete(None).unwrap(), None);
    check_restored(&reopened(&env, &config(1)), &source);
}

#[test]
fn a_configuration_without_the_key_is_refused_and_leaves_nothing() {
    let (env, disk) = env();
    disk.poke(Path::new(FILE), &sealed_file(&env).0);
    let error = restore_with(&env, Some(&config(2))).unwrap_err().to_string();
    assert!(error.starts_with("record 2.0 is sealed with key "), "{error}");
    assert!(!env.disk.exists(Path::new(DATA)).unwrap());
}

/// The file with its buckets changed.
fn altered(file: &[u8], change: impl Fn(&str, &mut Vec<(Bytes, Bytes)>)) -> Vec<u8> {
    let reader = Reader::open(file).unwrap();
    let buckets: Vec<(String, Vec<(Bytes, Bytes)>)> = reader
        .buckets()
        .map(|bucket| {
            let (name, bucket) = bucket.unwrap();
            let name = String::from_utf8(name.to_vec()).unwrap();
            let entries = reader.entries(&bucket).map(Result::unwrap);
            let mut items = entries.map(|entry| (entry.key, entry.value)).collect();
            change(&name, &mut items);
            (name, items)
        })
        .collect();
    let borrowed: Vec<_> =
        buckets.iter().map(|(name, items)| (name.as_str(), items.clone())).collect();
    crafted(&borrowed)
}

#[test]
fn marks_without_records_are_ignored_and_others_are_refused() {
    let (env, disk) = env();
    let (file, _) = sealed_file(&env);
    // etcd has compacted the first record away and knows nothing of the mark.
    let stale = altered(&file, |name, items| {
        if name == "key" {
            items.remove(0);
        }
    });
    disk.poke(Path::new(FILE), &stale);
    assert_eq!(restore_with(&env, Some(&config(1))).unwrap().sealed, 1);
    env.disk.remove_dir_all(Path::new(DATA)).unwrap();

    // A mark has moved to another record.
    let moved = altered(&file, |name, items| {
        if name.as_bytes() == SEALED {
            items[0].1 = items[1].1.clone();
        }
    });
    disk.poke(Path::new(FILE), &moved);
    let error = restore_with(&env, Some(&config(1))).unwrap_err();
    assert!(matches!(error, Error::SealMismatch { .. }), "{error}");

    // A mark on a plain value, made to fit it as far as that goes without a key.
    let forged = altered(&file, |name, items| {
        if name == "key" {
            items[0] = record_item(2, &kv("/registry/secrets/default/one", 2, "plain"));
        } else if name.as_bytes() == SEALED {
            let (_, record) = record_item(2, &kv("/registry/secrets/default/one", 2, "plain"));
            items[0].1 = unbound(&items[0].1, &record).encode();
        }
    });
    disk.poke(Path::new(FILE), &forged);
    let error = restore_with(&env, Some(&config(1))).unwrap_err();
    assert!(matches!(error, Error::UnboundValue { .. }), "{error}");
    let error = restore_with(&env, Some(&mixed())).unwrap_err();
    assert!(matches!(error, Error::SealMismatch { .. }), "{error}");

    let malformed = altered(&file, |name, items| {
        if name.as_bytes() == SEALED {
            items[0].1 = Bytes::from_static(b"x");
        }
    });
    disk.poke(Path::new(FILE), &malformed);
    let error = restore_with(&env, Some(&config(1))).unwrap_err();
    assert!(matches!(error, Error::Entry { .. }), "{error}");
}

/// A mark as earlier versions made it: the key of `mark`, the digest of `record`.
fn unbound(mark: &Bytes, record: &[u8]) -> SealEntry {
    let key_id = SealEntry::decode(mark).unwrap().key_id;
    SealEntry { key_id, proof: Proof::Digest(Sha256::digest(record).into()) }
}

/// Whoever holds the file, but no key, moves a secret to where he can read it.
#[test]
fn values_that_were_exchanged_are_refused_under_every_cipher() {
    for cipher in ["aescbc", "aesgcm", "secretbox"] {
        let config = |last: &str| {
            let text = text(1, "", last).replace("aesgcm", cipher);
            EncryptionConfig::parse("enc.yaml", text.as_bytes()).unwrap()
        };
        let (env, disk) = env();
        let sealer = ValueSealer::new(&config(""));
        let mut store = new_store(&env);
        for name in ["one", "two"] {
            let plain = Bytes::from(format!("{SECRET}-{name}"));
            let stored = sealer.seal(key(name).as_bytes(), plain, &*env.random).unwrap();
            put_stored(&mut store, &key(name), stored, 0);
        }
        let file = export_with(store.publish(Applied { index: 5, term: 1 }), sealer);
        let exchanged = |marks: fn(&Bytes, &[u8]) -> Bytes| {
            let records = |items: &[(Bytes, Bytes)]| -> Vec<KeyValue> {
                items.iter().map(|(_, record)| KeyValue::decode(record).unwrap()).collect()
            };
            let reader = Reader::open(file.as_slice()).unwrap();
            let items: Vec<_> = reader
                .entries(&reader.bucket(crate::format::KEY).unwrap().unwrap())
                .map(|entry| entry.map(|entry| (entry.key, entry.value)).unwrap())
                .collect();
            let [one, two] = <[KeyValue; 2]>::try_from(records(&items)).unwrap();
            let moved = [
                record_item(2, &KeyValue { value: two.value.clone(), ..one.clone() }),
                record_item(3, &KeyValue { value: one.value, ..two }),
            ];
            altered(&file, |name, items| {
                if name == "key" {
                    items.clone_from_slice(&moved);
                } else if name.as_bytes() == SEALED {
                    for ((_, mark), (_, record)) in items.iter_mut().zip(&moved) {
                        *mark = marks(mark, record);
                    }
                }
            })
        };
        let restored = |file: Vec<u8>, config: &EncryptionConfig| {
            disk.poke(Path::new(FILE), &file);
            restore_with(&env, Some(config)).unwrap_err()
        };
        // With the marks as they were, and with marks that need no key.
        let error = restored(exchanged(|mark, _| mark.clone()), &config(""));
        assert!(matches!(error, Error::SealMismatch { .. }), "{cipher}: {error}");
        let error = restored(exchanged(|mark, _| mark.clone()), &config(IDENTITY));
        assert!(matches!(error, Error::SealMismatch { .. }), "{cipher}: {error}");
        let without_key = exchanged(|mark, record| unbound(mark, record).encode());
        let error = restored(without_key, &config(""));
        assert!(matches!(error, Error::UnboundValue { .. }), "{cipher}: {error}");
    }
}

/// A value that a rule seals without `identity` must be sealed, wherever the file comes from.
#[test]
fn plain_values_of_a_rule_without_identity_need_the_operators_word() {
    let (env, disk) = env();
    let (file, source) = sealed_file(&env);
    let forged = altered(&file, |name, items| {
        if name == "key" {
            items[0] = record_item(2, &kv("/registry/secrets/default/one", 2, "of an attacker"));
        } else if name.as_bytes() == SEALED {
            items.remove(0);
        }
    });
    disk.poke(Path::new(FILE), &forged);
    let error = restore_with(&env, Some(&config(1))).unwrap_err();
    assert!(matches!(error, Error::PlainValue { .. }), "{error}");
    let text = error.to_string();
    for part in ["/registry/secrets/default/one", "identity", "--encryption-trust-plain-data"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!env.disk.exists(Path::new(DATA)).unwrap());
    for config in [mixed(), vouched()] {
        assert_eq!(restore_with(&env, Some(&config)).unwrap().sealed, 2);
        env.disk.remove_dir_all(Path::new(DATA)).unwrap();
    }
    // Dropped into a data directory as if it waited for its keys.
    restore_with(&env, None).unwrap();
    let dropped = complete_pending(&env, Path::new(DATA), Some(&config(1)), &mut |_| {});
    assert!(matches!(dropped, Err(Error::PlainValue { .. })), "{dropped:?}");
    assert!(!env.disk.exists(&Layout::new(Path::new(DATA)).member).unwrap());
    drop(source);
}

#[test]
fn files_of_earlier_versions_are_restored_where_plain_ones_are() {
    let (env, disk) = env();
    let (file, source) = sealed_file(&env);
    let reader = Reader::open(file.as_slice()).unwrap();
    let records: Vec<Bytes> = reader
        .entries(&reader.bucket(crate::format::KEY).unwrap().unwrap())
        .map(|entry| entry.unwrap().value)
        .collect();
    let earlier = altered(&file, |name, items| {
        if name.as_bytes() == SEALED {
            for ((_, mark), record) in items.iter_mut().zip(&records) {
                *mark = unbound(mark, record).encode();
            }
        }
    });
    disk.poke(Path::new(FILE), &earlier);
    let error = restore_with(&env, Some(&config(1))).unwrap_err();
    assert!(matches!(error, Error::UnboundValue { .. }), "{error}");
    for config in [mixed(), vouched()] {
        assert_eq!(restore_with(&env, Some(&config)).unwrap().sealed, 2);
        check_restored(&reopened(&env, &config), &source);
        env.disk.remove_dir_all(Path::new(DATA)).unwrap();
    }
}

#[test]
fn a_value_that_only_looks_sealed_is_plain() {
    let (env, disk) = env();
    let file = crafted(&[(
        "key",
        vec![record_item(2, &kv("/registry/configmaps/c", 2, "k8s:enc:aesgcm:v1:key1:x"))],
    )]);
    disk.poke(Path::new(FILE), &file);
    assert_eq!(restore_with(&env, Some(&config(1))).unwrap().sealed, 0);
}
