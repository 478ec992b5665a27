//! Which rule a key falls under, marks, renamed keys, and Kubernetes' walk over providers.

mod speed;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keepd_env::SeededRandom;
use proptest::prelude::*;

use super::*;
use crate::config::ConfigOptions;

fn provider(algorithm: &str, keys: &[(&str, u8)]) -> String {
    let keys: Vec<String> = keys
        .iter()
        .map(|(name, fill)| {
            let secret = STANDARD.encode([*fill; 32]);
            format!("{{name: '{name}', secret: {secret}}}")
        })
        .collect();
    format!("{{{algorithm}: {{keys: [{}]}}}}", keys.join(", "))
}

const IDENTITY: &str = "{identity: {}}";

fn config_with(rules: &[(&str, &[String])], options: ConfigOptions) -> EncryptionConfig {
    let items: Vec<String> = rules
        .iter()
        .map(|(names, providers)| {
            format!("{{resources: [{names}], providers: [{}]}}", providers.join(", "))
        })
        .collect();
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{}]",
        items.join(", ")
    );
    EncryptionConfig::parse_with("test.yaml", text.as_bytes(), options).unwrap()
}

fn sealer(rules: &[(&str, &[String])]) -> ValueSealer {
    ValueSealer::new(&config_with(rules, ConfigOptions::default()))
}

fn sealed_as(sealer: &ValueSealer, key: &str) -> String {
    let plain = Bytes::from_static(b"plain");
    let random = SeededRandom::new(3);
    let stored = sealer.seal(key.as_bytes(), plain.clone(), &random).unwrap();
    assert_eq!(sealer.open(key.as_bytes(), &stored).unwrap(), plain);
    assert!(!sealer.is_stale(key.as_bytes(), &stored));
    match stored.seal {
        None => "plain".to_owned(),
        Some(_) => {
            let text = String::from_utf8_lossy(&stored.bytes);
            text.split(':').skip(2).step_by(2).take(2).collect::<Vec<_>>().join(":")
        }
    }
}

#[test]
fn the_most_exact_rule_holds_and_prefixes_take_the_rest() {
    let key = |name| vec![provider("secretbox", &[(name, 1)])];
    let sealer = sealer(&[
        ("secrets, events", &key("exact")),
        ("'*.apps', '*.'", &key("group")),
        ("'*.*'", &key("all")),
        ("'prefix:'", &key("store")),
        ("'prefix:/other/'", &key("other")),
    ]);
    for (record, expected) in [
        ("/registry/secrets/a/b", "secretbox:exact"),
        ("/registry/events/a/b", "secretbox:exact"),
        ("/registry/configmaps/a/b", "secretbox:group"),
        ("/registry/deployments/a/b", "secretbox:group"),
        ("/registry/leases/a/b", "secretbox:all"),
        ("/registry/example.com/pandas/a/b", "secretbox:all"),
        ("/registry/demo", "secretbox:all"),
        ("/registry/ranges/serviceips", "secretbox:store"),
        ("/registry/masterleases/10.0.0.1", "secretbox:store"),
        ("compact_rev_key", "secretbox:store"),
        ("/other/x", "secretbox:other"),
    ] {
        assert_eq!(sealed_as(&sealer, record), expected, "{record}");
    }
    let scopes: Vec<String> = sealer.rules().into_iter().map(|rule| rule.scope).collect();
    assert_eq!(scopes, ["events", "secrets", "*.", "*.apps", "*.*", "prefix:/other/", "prefix:"]);
}

#[test]
fn what_no_rule_covers_is_plain() {
    let exact = [provider("aescbc", &[("key1", 1)]), IDENTITY.to_owned()];
    let sealer = sealer(&[("secrets", &exact), ("events", &[IDENTITY.to_owned()])]);
    assert_eq!(sealed_as(&sealer, "/registry/secrets/a/b"), "aescbc:key1");
    assert_eq!(sealed_as(&sealer, "/registry/configmaps/a/b"), "plain");
    assert_eq!(sealed_as(&sealer, "/registry/events/a/b"), "plain");
    assert_eq!(sealed_as(&sealer, "compact_rev_key"), "plain");
    assert!(sealer.has_real_provider());
    assert_eq!(sealed_as(&ValueSealer::none(), "/registry/secrets/a/b"), "plain");
}

#[test]
fn everything_leaves_bookkeeping_plain_as_kubernetes_does() {
    let sealer = sealer(&[("'*.*'", &[provider("aesgcm", &[("k", 1)])])]);
    assert_eq!(sealed_as(&sealer, "/registry/ranges/servicenodeports"), "plain");
    assert_eq!(sealed_as(&sealer, "/registry/peerserverleases/x"), "plain");
    assert_eq!(sealed_as(&sealer, "/registry/secrets/a/b"), "aesgcm:k");
}

#[test]
fn entries_for_the_same_resource_add_up() {
    let sealer = sealer(&[
        ("secrets", &[provider("aescbc", &[("new", 1)])]),
        ("secrets", &[provider("aescbc", &[("old", 2)])]),
    ]);
    assert_eq!(sealed_as(&sealer, "/registry/secrets/a/b"), "aescbc:new");
    assert_eq!(sealer.key_ids().len(), 2);
}

#[test]
fn a_mark_opens_after_renaming_and_reordering_but_not_without_the_key() {
    const RECORD: &[u8] = b"/registry/secrets/a/b";
    let plain = Bytes::from_static(b"value");
    for algorithm in ["aescbc", "aesgcm", "secretbox"] {
        let old = sealer(&[("secrets", &[provider(algorithm, &[("a:b", 1)])])]);
        let stored = old.seal(RECORD, plain.clone(), &SeededRandom::new(1)).unwrap();
        let renamed = provider(algorithm, &[("new", 2), ("other", 1)]);
        let new = sealer(&[("secrets", &[IDENTITY.to_owned(), renamed])]);
        assert_eq!(new.open(RECORD, &stored), Ok(plain.clone()));
        assert!(new.is_stale(RECORD, &stored));
        let without = sealer(&[("secrets", &[provider(algorithm, &[("a:b", 3)])])]);
        let key_id = stored.seal.unwrap().key_id;
        assert_eq!(without.open(RECORD, &stored), Err(OpenError::UnknownKey { key_id }));
    }
}

#[test]
fn the_digest_finds_what_cbc_does_not() {
    const RECORD: &[u8] = b"/registry/secrets/a/b";
    let sealer = sealer(&[("secrets", &[provider("aescbc", &[("k", 1)])])]);
    let plain = Bytes::from(vec![7; 40]);
    let stored = sealer.seal(RECORD, plain, &SeededRandom::new(1)).unwrap();
    for at in 0..stored.bytes.len() {
        let mut bytes = stored.bytes.to_vec();
        bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
        let damaged = StoredValue { bytes: bytes.into(), seal: stored.seal };
        let opened = sealer.open(RECORD, &damaged);
        // A flipped name is harmless: the mark says which key it is.
        let in_name = at == b"k8s:enc:aescbc:v1:".len();
        assert_eq!(opened.is_ok(), in_name, "byte {at}: {opened:?}");
    }
}

#[test]
fn values_that_arrive_sealed_are_sealed_again_kept_or_refused() {
    const RECORD: &[u8] = b"/registry/secrets/a/b";
    let sent = Bytes::from_static(b"k8s:enc:aescbc:v1:key1:whatever");
    let with = |already_sealed| {
        let options = ConfigOptions { already_sealed, ..ConfigOptions::default() };
        let rules = [provider("aesgcm", &[("k", 1)])];
        ValueSealer::new(&config_with(&[("secrets", &rules)], options))
    };
    let seal = |sealer: &ValueSealer| sealer.seal(RECORD, sent.clone(), &SeededRandom::new(1));
    let again = with(AlreadySealed::Seal);
    let stored = seal(&again).unwrap();
    assert!(stored.seal.is_some());
    assert_eq!(again.open(RECORD, &stored), Ok(sent.clone()));
    let kept = seal(&with(AlreadySealed::Keep)).unwrap();
    assert_eq!(kept, StoredValue::plain(sent.clone()));
    assert!(!with(AlreadySealed::Keep).is_stale(RECORD, &kept));
    assert!(again.is_stale(RECORD, &kept));
    assert_eq!(seal(&with(AlreadySealed::Refuse)), Err(SealError::AlreadySealed));
    // Without a mark the bytes are the client's own, whatever they look like.
    assert_eq!(again.open(RECORD, &kept), Ok(sent.clone()));
}

#[test]
fn a_key_that_some_member_cannot_read_does_not_write() {
    let providers = [provider("aesgcm", &[("new", 2), ("old", 1)])];
    let config = config_with(&[("secrets", &providers)], ConfigOptions::default());
    let old = ValueSealer::new(&config)
        .key_ids()
        .into_iter()
        .find_map(|(id, name)| (name == "aesgcm:old").then_some(id))
        .unwrap();
    let record = "/registry/secrets/a/b";
    assert_eq!(sealed_as(&ValueSealer::new(&config), record), "aesgcm:new");
    assert_eq!(sealed_as(&ValueSealer::with_active(&config, |id| id == old), record), "aesgcm:old");
    assert_eq!(sealed_as(&ValueSealer::with_active(&config, |_| false), record), "aesgcm:new");
}

fn foreign(sealer: &ValueSealer, bytes: &Bytes) -> Result<(Bytes, bool), String> {
    sealer
        .read_foreign(b"/registry/secrets/a/b", bytes)
        .map(|opened| (opened.plain, opened.is_stale))
        .map_err(|error| error.to_string())
}

#[test]
fn foreign_values_are_read_by_kubernetes_walk() {
    let stored = |providers: &[String]| {
        let sealer = sealer(&[("secrets", providers)]);
        let plain = Bytes::from_static(b"v");
        let random = SeededRandom::new(9);
        sealer.seal(b"/registry/secrets/a/b", plain, &random).unwrap().bytes
    };
    let reader = |providers: &[String]| sealer(&[("secrets", providers)]);
    let gcm = |keys: &[(&str, u8)]| provider("aesgcm", keys);
    let one = stored(&[gcm(&[("key1", 1)])]);
    let plain = Bytes::from_static(b"v");
    let fresh = Ok((plain.clone(), false));
    let stale = Ok((plain.clone(), true));
    let no_key = Err("no matching key was found for the provided AES transformer".to_owned());
    let failed = Err("message authentication failed".to_owned());
    let no_prefix = Err("no matching prefix found".to_owned());
    let identity = IDENTITY.to_owned();

    assert_eq!(foreign(&reader(&[gcm(&[("key1", 1)])]), &one), fresh);
    assert_eq!(foreign(&reader(&[gcm(&[("key2", 2), ("key1", 1)])]), &one), stale);
    assert_eq!(foreign(&reader(&[identity.clone(), gcm(&[("key1", 1)])]), &one), stale);
    // The same name with another secret first, in one provider and in two.
    assert_eq!(foreign(&reader(&[gcm(&[("key1", 2), ("key1", 1)])]), &one), stale);
    assert_eq!(foreign(&reader(&[gcm(&[("key1", 2)]), gcm(&[("key1", 1)])]), &one), stale);
    assert_eq!(foreign(&reader(&[gcm(&[("key2", 1)])]), &one), no_key);
    assert_eq!(foreign(&reader(&[gcm(&[("key1", 2)])]), &one), failed);
    assert_eq!(foreign(&reader(&[provider("aescbc", &[("key1", 1)])]), &one), no_prefix);
    assert_eq!(foreign(&reader(std::slice::from_ref(&identity)), &one), no_prefix);

    assert_eq!(foreign(&reader(&[identity.clone(), gcm(&[("key1", 1)])]), &plain), fresh);
    assert_eq!(foreign(&reader(&[gcm(&[("key1", 1)]), identity]), &plain), stale);
    assert_eq!(foreign(&reader(&[gcm(&[("key1", 1)])]), &plain), no_prefix);
    assert_eq!(foreign(&ValueSealer::none(), &plain), fresh);
    assert_eq!(foreign(&ValueSealer::none(), &one), no_prefix);
}

proptest! {
    #[test]
    fn hostile_values_never_panic(
        key: Vec<u8>, head in "k8s:enc:(aescbc|aesgcm|secretbox):v1:(k:)?",
        tail: Vec<u8>, len: u32, crc32c: u32,
    ) {
        let providers = ["aescbc", "aesgcm", "secretbox"].map(|name| provider(name, &[("k", 1)]));
        let sealer = sealer(&[("'*.*', 'prefix:'", &providers)]);
        let bytes = Bytes::from([head.as_bytes(), &tail].concat());
        let _ = sealer.read_foreign(&key, &bytes);
        for (key_id, _) in sealer.key_ids() {
            let seal = Some(SealMark { key_id, plain: PlainDigest { len, crc32c } });
            let _ = sealer.open(&key, &StoredValue { bytes: bytes.clone(), seal });
        }
    }
}
