//! Encryption goes on over a plain store, its data key changes, and it goes off again.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use keepd_crypto::{DataKeyId, Encryption, EncryptionConfig};
use keepd_env::{Env, SimDisk};
use keepd_mvcc::{Applied, JobRequest, Options, Record, Reencryptor, Store, inspect};
use keepd_types::{KeyRange, KeyValue, LeaseId, PlainDigest, SealMark, StoredValue};

const DIR: &str = "/data";
const STORE: &str = "/data/store";
const CANARY: &str = "canary";

fn config(providers: &str) -> String {
    format!(
        "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n\
         resources: [{{resources: ['*.*'], providers: [{providers}]}}]"
    )
}

fn on() -> String {
    config(
        "{aesgcm: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}, \
         {identity: {}}",
    )
}

fn off() -> String {
    config(
        "{identity: {}}, \
         {aesgcm: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}",
    )
}

struct World {
    env: Env,
    disk: SimDisk,
    encryption: Encryption,
    store: Store,
    index: u64,
}

fn open(env: &Env, encryption: &Encryption) -> Store {
    let options = Options { segment_bytes: 4000, ..Options::default() };
    Store::open(env.clone(), Path::new(STORE), encryption.files(), options).unwrap()
}

impl World {
    fn new() -> Self {
        let (env, disk, _) = Env::simulated(7);
        let encryption = Encryption::open(&env, Path::new(DIR), None).unwrap();
        let store = open(&env, &encryption);
        Self { env, disk, encryption, store, index: 0 }
    }

    fn put(&mut self, number: u32) {
        let key = Bytes::from(format!("{CANARY}-key-{number}"));
        let value = StoredValue::plain(Bytes::from(format!("{CANARY}-value-{number}").repeat(20)));
        let mut txn = self.store.begin();
        txn.put(key, value, LeaseId(0));
        txn.finish();
        self.flush();
    }

    fn flush(&mut self) {
        self.index += 1;
        self.store.publish(Applied { index: self.index, term: 1 });
        assert!(self.store.run(JobRequest::Flush).unwrap());
    }

    fn checkpoint(&mut self) {
        assert!(self.store.run(JobRequest::Checkpoint).unwrap());
    }

    /// Does what a member does between batches until nothing is left; returns the counts.
    fn convert(&mut self) -> BTreeMap<DataKeyId, u64> {
        self.flush();
        while self.store.run(JobRequest::Reencrypt).unwrap() {}
        self.store.data_keys().unwrap().unwrap();
        self.checkpoint();
        self.store.data_keys().unwrap().unwrap()
    }

    fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for path in self.disk.files() {
            let bytes = self.env.disk.read(&path).unwrap();
            if bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()) {
                leaks.push(path.display().to_string());
            }
        }
        leaks
    }

    fn keys(&self) -> Vec<(Bytes, keepd_types::Revision)> {
        self.store.views().load().range(&KeyRange::all(), 0, 0).unwrap().keys
    }

    fn reopen(&mut self) {
        self.store = open(&self.env, &self.encryption);
    }
}

#[test]
fn files_follow_the_data_key_on_to_another_and_off_again() {
    let mut world = World::new();
    for number in 0..60 {
        world.put(number);
        if number % 25 == 0 {
            world.checkpoint();
        }
    }
    let keys = world.keys();
    let before = world.store.data_keys().unwrap().unwrap();
    assert_eq!(before.keys().copied().collect::<Vec<_>>(), [DataKeyId::PLAIN]);
    assert!(before[&DataKeyId::PLAIN] > 8 && !world.leaks().is_empty());

    let reload = |world: &World, text: &str| {
        let config = EncryptionConfig::parse("e", text.as_bytes()).unwrap();
        world.encryption.reload(config, &|_| 0).unwrap()
    };
    reload(&world, &on());
    assert_eq!(world.store.data_keys().unwrap().unwrap(), before);
    let counts = world.convert();
    let active = world.encryption.files().active();
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [active], "{counts:?}");
    assert_eq!(world.leaks(), Vec::<String>::new());
    assert_eq!(world.keys(), keys);

    let next = world.encryption.rotate_data_key().unwrap();
    let counts = world.convert();
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [next]);
    assert!(
        world
            .encryption
            .retire_data_keys(world.encryption.files().active(), &counts.keys().copied().collect())
            .unwrap()
    );
    world.reopen();
    assert_eq!(world.keys(), keys);

    reload(&world, &off());
    world.put(60);
    let counts = world.convert();
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [DataKeyId::PLAIN]);
    world
        .encryption
        .retire_data_keys(world.encryption.files().active(), &counts.keys().copied().collect())
        .unwrap();
    world.encryption = Encryption::open(&world.env, Path::new(DIR), None).unwrap();
    world.reopen();
    assert_eq!(world.keys().len(), 61);
    assert!(!world.leaks().is_empty());
}

#[test]
fn a_rewrite_hands_each_record_to_the_reencryptor_and_changes_no_hash() {
    let mut world = World::new();
    (0..30).for_each(|number| world.put(number));
    let before = world.store.views().load().hash_kv(0).unwrap();
    world.store.set_reencryptor(Reencryptor::new(|record: &Record| {
        if record.tombstone || record.seal.is_some() {
            return None;
        }
        let mut kv = KeyValue::decode(&record.encoded).unwrap();
        let seal = SealMark { key_id: keepd_types::KeyId(9), plain: PlainDigest::of(&kv.value) };
        kv.value = Bytes::from(kv.value.iter().map(|byte| byte ^ 0xff).collect::<Vec<u8>>());
        let mut encoded = Vec::new();
        kv.encode(&mut encoded);
        Some(Record { encoded: encoded.into(), tombstone: false, seal: Some(seal) })
    }));
    let config = EncryptionConfig::parse("e", on().as_bytes()).unwrap();
    world.encryption.reload(config, &|_| 0).unwrap();
    world.convert();
    let view = world.store.views().load();
    assert!(view.records().all(|record| record.unwrap().1.seal.is_some()));
    assert_eq!(view.hash_kv(0).unwrap(), before);
    world.reopen();
    let view = world.store.views().load();
    assert!(view.records().all(|record| record.unwrap().1.seal.is_some()));
}

#[test]
fn a_store_is_inspected_without_a_change() {
    let mut world = World::new();
    (0..20).for_each(|number| world.put(number));
    let keys = world.keys();
    let mutations = world.disk.mutations();
    let files = world.encryption.files();
    let view = inspect(&world.env, Path::new(STORE), &files).unwrap();
    assert_eq!(view.range(&KeyRange::all(), 0, 0).unwrap().keys, keys);
    assert_eq!(view.applied().index, world.index);
    let nothing = inspect(&world.env, Path::new("/elsewhere"), &files).unwrap();
    assert_eq!((nothing.revision(), nothing.records().count()), (1, 0));
    assert_eq!(world.disk.mutations(), mutations);
}
