//! Backups of real stores through a folder and back: what is proven, and what is not.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keepd_backup::Export;
use keepd_crypto::{FileKeys, ValueSealer, quickstart_config};
use keepd_env::{SeededRandom, SimDisk};
use keepd_mvcc::{Applied, Options, Store, View};
use keepd_types::{KeyRange, LeaseId, StoredValue};

use super::*;
use crate::age::{FileKey, Identity, Recipients};
use crate::catalog::{self, Catalog};
use crate::destination::{self, Destination, Limit};
use crate::format::Sealing;
use crate::name::{Kind, Name};
use crate::sidecar::MemberFacts;
use crate::upload::{self, Snapshot};

const CANARY: &[u8] = b"canary-of-the-plain-value";

struct Bench {
    env: Env,
    disk: SimDisk,
    store: Store,
    sealer: Arc<ValueSealer>,
    destination: Arc<dyn Destination>,
    scratch: Scratch,
    _runtime: tokio::runtime::Runtime,
}

fn config() -> EncryptionConfig {
    let text = quickstart_config(&SeededRandom::new(11));
    EncryptionConfig::parse("enc.yaml", text.as_bytes()).unwrap()
}

fn identity() -> Identity {
    Identity::generate(&SeededRandom::new(12))
}

fn recipients() -> Sealing {
    Sealing::To(Recipients { public: vec![identity().recipient()], config: None })
}

impl Bench {
    fn new(sealer: ValueSealer) -> Self {
        let sealer = Arc::new(sealer);
        let (env, disk, _clock) = Env::simulated(7);
        for dir in ["/scratch", "/backups"] {
            env.disk.create_dir(Path::new(dir)).unwrap();
        }
        // The source is not what is searched for plain text.
        let (source, _, _) = Env::simulated(8);
        let dir = Path::new("/source");
        let store = Store::open(source, dir, FileKeys::plain(), Options::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let limit = Arc::new(Limit::new(Arc::clone(&env.clock), None));
        let destination =
            destination::open("file:///backups", &env, runtime.handle(), limit).unwrap();
        let scratch = Scratch::new(&env, Path::new("/scratch")).unwrap();
        Self { env, disk, store, sealer, destination, scratch, _runtime: runtime }
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        let random = &*self.env.random;
        let value = Bytes::copy_from_slice(value);
        let stored = self.sealer.seal(key.as_bytes(), value.clone(), random);
        let stored = stored.unwrap_or_else(|_refused| StoredValue::plain(value));
        let mut txn = self.store.begin();
        txn.put(Bytes::copy_from_slice(key.as_bytes()), stored, LeaseId(0));
        txn.finish();
    }

    fn delete(&mut self, key: &str) {
        let mut txn = self.store.begin();
        txn.delete_range(&KeyRange::point(Bytes::copy_from_slice(key.as_bytes())));
        txn.finish();
    }

    fn fill(&mut self) {
        for number in 0..200 {
            self.put(&format!("/registry/secrets/default/s{}", number % 40), CANARY);
        }
        self.delete("/registry/secrets/default/s7");
        self.store.compact(50).unwrap();
    }

    fn view(&mut self) -> Arc<View> {
        let index = self.store.durable().index + 1;
        self.store.publish(Applied { index, term: 1 })
    }

    /// Uploads the state as it is.
    fn take(&mut self, sealing: &Sealing) -> (Name, Sidecar, Option<FileKey>) {
        self.env.clock.sleep(std::time::Duration::from_millis(1));
        let view = self.view();
        let mut file =
            self.scratch.create(&format!("taken-{}", self.env.random.next_u64())).unwrap();
        for piece in Export::new(Arc::clone(&view), Arc::clone(&self.sealer)).unwrap() {
            file.write_all(&piece.unwrap()).unwrap();
        }
        let file = file.finish().unwrap();
        let status = examine(&file, &mut |_, _, _| {}).unwrap();
        let hash = view.hash_kv(0).unwrap();
        let snapshot = Snapshot {
            cluster: 0xaa,
            member: MemberFacts { id: "1".to_owned(), name: "one".to_owned() },
            time: now(&self.env),
            kind: Kind::OnDemand,
            made_by: "test".to_owned(),
            state: facts(&file, &status, hash.into()),
        };
        let (sidecar, key) = upload::upload(
            &*self.destination,
            &snapshot,
            file.reader(),
            sealing,
            &*self.env.random,
            &mut |_| {},
        )
        .unwrap();
        (snapshot.name(sealing.is_sealed()), sidecar, key)
    }

    fn prove(
        &self,
        name: &Name,
        sidecar: &Sidecar,
        keys: &Keys,
        config: Option<&EncryptionConfig>,
    ) -> Result<(), Error> {
        self.scratch.remove("snapshot").unwrap();
        let object = self.destination.get(&name.key(0xaa))?;
        let file = fetch(object, sidecar, keys, &self.scratch, &mut |_, _, _| {})?;
        check(&file, &sidecar.state, &mut |_, _, _| {})?;
        restore(&self.env, &file, &sidecar.state, config, &self.scratch, &mut |_, _, _| {})
    }
}

fn by_identity() -> Keys {
    Keys { identities: vec![identity()], ..Keys::default() }
}

fn by_config() -> Keys {
    Keys { config: Some(config()), ..Keys::default() }
}

fn to_config() -> Sealing {
    Sealing::To(Recipients { public: Vec::new(), config: Some(config()) })
}

#[test]
fn a_store_is_proven_under_every_kind_of_key() {
    let mut bench = Bench::new(ValueSealer::none());
    bench.fill();
    let (name, sidecar, key) = bench.take(&recipients());
    bench.prove(&name, &sidecar, &by_identity(), None).unwrap();
    let keys = Keys { file_key: key, ..Keys::default() };
    bench.prove(&name, &sidecar, &keys, None).unwrap();
    let (name, sidecar, _) = bench.take(&to_config());
    bench.prove(&name, &sidecar, &by_config(), None).unwrap();
    bench.prove(&name, &sidecar, &by_config(), Some(&config())).unwrap_err();
    let error = bench.prove(&name, &sidecar, &by_identity(), None).unwrap_err();
    assert!(matches!(error, Error::NoKeyOpens { .. }), "{error}");
    assert_eq!(
        bench.disk.find(CANARY),
        None,
        "nothing is plain in the place or the scratch folder"
    );
    let (name, sidecar, _) = bench.take(&Sealing::Plain);
    bench.prove(&name, &sidecar, &Keys::default(), None).unwrap();
}

#[test]
fn sealed_values_need_the_configuration_and_stay_sealed() {
    let mut bench = Bench::new(ValueSealer::new(&config()));
    bench.fill();
    for sealing in [recipients(), Sealing::Plain] {
        let (name, sidecar, _) = bench.take(&sealing);
        assert!(sidecar.state.sealed_values > 0);
        let error = bench.prove(&name, &sidecar, &by_identity(), None).unwrap_err();
        assert!(matches!(error, Error::ValuesAreSealed(_)), "{error}");
        bench.prove(&name, &sidecar, &by_identity(), Some(&config())).unwrap();
    }
    assert_eq!(bench.disk.find(CANARY), None, "nothing is plain, not even in a plain backup");
}

#[test]
fn a_compaction_between_snapshot_and_hash_is_followed() {
    let mut bench = Bench::new(ValueSealer::none());
    bench.fill();
    let (name, mut sidecar, _) = bench.take(&recipients());
    bench.store.compact(120).unwrap();
    let hash = bench.view().hash_kv(sidecar.state.revision).unwrap();
    let later = HashFacts { hash: hash.hash, revision: hash.revision, compact_revision: 120 };
    assert_ne!(sidecar.state.hash_kv, Some(later));
    sidecar.state.hash_kv = Some(later);
    bench.prove(&name, &sidecar, &by_identity(), None).unwrap();
}

#[test]
fn stores_without_records_are_proven() {
    let mut bench = Bench::new(ValueSealer::none());
    let (name, sidecar, _) = bench.take(&recipients());
    assert_eq!(sidecar.state.revision, 1);
    bench.prove(&name, &sidecar, &by_identity(), None).unwrap();
    bench.put("a", b"1");
    bench.delete("a");
    bench.store.compact(3).unwrap();
    let (name, sidecar, _) = bench.take(&recipients());
    bench.prove(&name, &sidecar, &by_identity(), None).unwrap();
}

#[test]
fn what_is_not_as_it_was_is_not_proven() {
    let mut bench = Bench::new(ValueSealer::none());
    bench.fill();
    let (name, sidecar, _) = bench.take(&recipients());
    let keys = by_identity();
    let told =
        |sidecar: &Sidecar| bench.prove(&name, sidecar, &keys, None).unwrap_err().to_string();
    let changed = |change: fn(&mut Sidecar)| {
        let mut changed = sidecar.clone();
        change(&mut changed);
        told(&changed)
    };
    let wrong_hash: fn(&mut Sidecar) = |it| it.state.hash_kv.as_mut().unwrap().hash ^= 1;
    assert!(changed(wrong_hash).contains("it restores to something else: HashKV is"));
    assert!(changed(|it| it.state.hash_kv = None).contains("nothing can be proven"));
    assert!(changed(|it| it.state.keys += 1).contains("number of keys"));
    assert!(changed(|it| it.state.snapshot_bytes += 512).contains("content"));
    assert!(changed(|it| it.state.snapshot_bytes -= 512).contains("longer than"));
    assert!(changed(|it| it.sha256.replace_range(..1, "x")).contains("SHA-256"));
    assert!(changed(|it| it.opened_by.clear()).contains("it cannot be read"));
    // The object itself: damaged, cut off, empty, another one's.
    let path = Path::new("/backups").join(name.key(0xaa));
    let object = bench.disk.peek(&path).unwrap();
    let mut damaged = object.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for (bytes, expected) in [
        (&damaged[..], "damaged"),
        (&object[..object.len() - 1], "cut off or damaged"),
        (&object[..100], "cut off"),
        (&[][..], "does not begin as an age file"),
    ] {
        bench.disk.poke(&path, bytes);
        let error = told(&sidecar);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    bench.disk.poke(&path, &object);
    bench.prove(&name, &sidecar, &keys, None).unwrap();
}

#[test]
fn a_disk_that_is_full_ends_a_proof_before_it_begins() {
    let mut bench = Bench::new(ValueSealer::none());
    bench.fill();
    let (name, sidecar, _) = bench.take(&recipients());
    bench.disk.set_capacity(Some(bench.disk.used_bytes() + (1 << 20)));
    let error = bench.prove(&name, &sidecar, &by_identity(), None).unwrap_err();
    assert!(matches!(error, Error::Space { .. }), "{error}");
}

#[test]
fn a_catalog_tells_proven_from_unfinished_and_foreign() {
    let mut bench = Bench::new(ValueSealer::none());
    bench.fill();
    let (first, sidecar, _) = bench.take(&recipients());
    let proven = Proven {
        time: now(&bench.env),
        by: "host".to_owned(),
        millis: 1,
        with_operators_key: true,
    };
    upload::note_proof(&*bench.destination, 0xaa, &first, &sidecar, proven).unwrap();
    bench.env.clock.sleep(std::time::Duration::from_secs(1));
    bench.put("later", b"1");
    let (second, _, _) = bench.take(&recipients());
    bench.destination.replace("notes.txt", b"mine").unwrap();
    bench.destination.remove(&second.sidecar_key(0xaa)).unwrap();
    let catalog = Catalog::read(&*bench.destination, None).unwrap();
    assert_eq!(catalog.foreign, ["notes.txt"]);
    assert_eq!(catalog.clusters(), [0xaa]);
    let states: Vec<(Name, bool, bool)> =
        catalog.backups.iter().map(|it| (it.name, it.is_proven(), it.fault().is_some())).collect();
    assert_eq!(states, [(first, true, false), (second, false, true)]);
    assert_eq!(catalog.newest(true).unwrap().name, first);
    catalog::remove(&*bench.destination, &catalog.backups[0]).unwrap();
    let catalog = Catalog::read(&*bench.destination, Some(0xaa)).unwrap();
    assert_eq!(catalog.backups.len(), 1);
    assert!(catalog.newest(false).is_none());
    assert!(Catalog::read(&*bench.destination, Some(1)).unwrap().backups.is_empty());
}
