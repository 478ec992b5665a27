//! A store and the one that a stream of it made answer alike; hostile streams leave nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keepd_crypto::{EncryptionConfig, FileKeys, Keyring};
use keepd_env::{Disk, Env, SimDisk};
use keepd_types::{KeyId, KeyRange, LeaseId, PlainDigest, RangeEnd, SealMark, StoredValue};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::format::{self, KIND_HEAD, KIND_META, KIND_RECORD, KIND_TRAILER, PAYLOAD_MAX, Trailer};
use super::{STATE_CHUNK_BYTES_MAX, StateReader, StateWriter};
use crate::{Applied, Error, JobRequest, Options, Reclaim, Store, Urgency, View};

const SENDER: &str = "/sender/store";
const RECEIVER: &str = "/receiver/incoming";
/// The table of leases, and others.
const TABLES: u8 = 4;

#[derive(Clone, Debug)]
enum Op {
    Put { key: u8, len: u16, is_sealed: bool, lease: u8 },
    Txn(Vec<(bool, u8)>),
    Meta { table: u8, key: u8, value: Option<u8> },
    Compact(u8),
    Flush,
    Rewrite,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        10 => (0..12_u8, 0..400_u16, any::<bool>(), 0..3_u8)
            .prop_map(|(key, len, is_sealed, lease)| Op::Put { key, len, is_sealed, lease }),
        4 => prop::collection::vec((any::<bool>(), 0..12_u8), 1..6).prop_map(Op::Txn),
        3 => (0..TABLES, 0..5_u8, any::<Option<u8>>())
            .prop_map(|(table, key, value)| Op::Meta { table, key, value }),
        2 => any::<u8>().prop_map(Op::Compact),
        2 => Just(Op::Flush),
        1 => Just(Op::Rewrite),
    ];
    prop::collection::vec(op, 0..80)
}

fn key(number: u8) -> Bytes {
    Bytes::from(format!("/registry/{number}"))
}

fn every_key() -> KeyRange {
    KeyRange { start: Bytes::from_static(&[0]), end: RangeEnd::Open }
}

fn options() -> Options {
    Options { segment_bytes: 3000, block_bytes: 200, cache_bytes: 1 << 20 }
}

/// A store that has seen a script.
struct Sender {
    store: Store,
    index: u64,
}

impl Sender {
    fn new(disk: &SimDisk, keys: FileKeys) -> Self {
        let store = Store::open(env(disk, 1), Path::new(SENDER), keys, options()).unwrap();
        Self { store, index: 7 }
    }

    fn publish(&mut self) -> Arc<View> {
        self.index += 1;
        let at = Applied { index: self.index, term: 3 };
        self.store.digest_entry(at, b"entry");
        self.store.publish(at)
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Put { key: number, len, is_sealed, lease } => {
                let plain = vec![b'v'; usize::from(*len)];
                let value = if *is_sealed {
                    let seal = SealMark { key_id: KeyId(9), plain: PlainDigest::of(&plain) };
                    StoredValue {
                        bytes: [b"k8s:enc:", &plain[..]].concat().into(),
                        seal: Some(seal),
                    }
                } else {
                    StoredValue::plain(plain.into())
                };
                let mut txn = self.store.begin();
                txn.put(key(*number), value, LeaseId(i64::from(*lease)));
                txn.finish();
            }
            Op::Txn(changes) => {
                let mut txn = self.store.begin();
                let mut written = BTreeSet::new();
                for (is_put, number) in changes {
                    // No request puts a key twice; it is deleted the second time.
                    if *is_put && written.insert(number) {
                        let value = StoredValue::plain(Bytes::from_static(b"in a txn"));
                        txn.put(key(*number), value, LeaseId::NONE);
                    } else {
                        txn.delete_range(&KeyRange::point(key(*number)));
                    }
                }
                txn.finish();
            }
            Op::Meta { table, key: number, value: Some(value) } => {
                self.store.meta_put(*table, key(*number), vec![*value; 40].into());
            }
            Op::Meta { table, key: number, value: None } => {
                self.store.meta_delete(*table, &key(*number));
            }
            Op::Compact(back) => {
                let _ = self.store.compact(self.store.revision() - i64::from(*back) % 20);
            }
            Op::Flush => {
                self.store.run(JobRequest::Flush).unwrap();
                self.store.run(JobRequest::Checkpoint).unwrap();
            }
            Op::Rewrite => {
                let reclaim = Reclaim {
                    urgency: Urgency::Full,
                    room: u64::MAX,
                    is_short: false,
                    below: u64::MAX,
                };
                self.store.trim(usize::MAX);
                self.store.run(JobRequest::Rewrite(reclaim)).unwrap();
            }
        }
        self.publish();
    }
}

fn env(disk: &SimDisk, seed: u64) -> Env {
    let (env, _, _) = Env::simulated(seed);
    Env { disk: Arc::new(disk.clone()), ..env }
}

fn sealed(disk: &SimDisk, dir: &str) -> FileKeys {
    let text = "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n\
        resources: [{resources: ['*.*'], providers: [{aesgcm: {keys: [{name: k, secret: \
        MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}]}]";
    let config = EncryptionConfig::parse("test.yaml", text.as_bytes()).unwrap();
    disk.create_dir(Path::new(dir)).unwrap();
    Keyring::create(&env(disk, 77), Path::new(dir), Some(&config)).unwrap().1
}

fn chunks(view: &Arc<View>) -> Vec<Bytes> {
    let mut reader = StateReader::new(Arc::clone(view));
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        assert!(chunk.len() <= STATE_CHUNK_BYTES_MAX);
        chunks.push(chunk);
    }
    assert_eq!(reader.next_chunk().unwrap(), None);
    chunks
}

fn write(disk: &SimDisk, keys: FileKeys, chunks: &[Bytes]) -> Result<super::StagedState, Error> {
    let mut writer = StateWriter::create(env(disk, 2), Path::new(RECEIVER), keys, options())?;
    for chunk in chunks {
        writer.push(chunk)?;
    }
    writer.finish()
}

/// Everything that can be asked is answered alike.
fn compare(a: &View, b: &View) {
    assert_eq!((a.revision(), a.compact_revision()), (b.revision(), b.compact_revision()));
    assert_eq!((a.applied(), a.digest(), a.live_keys()), (b.applied(), b.digest(), b.live_keys()));
    for table in 0..TABLES {
        assert_eq!(a.meta(table), b.meta(table));
    }
    assert_eq!(a.hash().unwrap(), b.hash().unwrap());
    for at in a.compact_revision().max(1)..=a.revision() {
        let refs = a.range(&every_key(), at, 0).unwrap();
        assert_eq!(refs, b.range(&every_key(), at, 0).unwrap(), "at {at}");
        let states = |view: &View| view.states(&every_key(), at, 0).unwrap();
        assert_eq!(states(a), states(b), "at {at}");
        let revisions: Vec<_> = refs.keys.iter().map(|(_, revision)| *revision).collect();
        assert_eq!(a.load_many(&revisions).unwrap(), b.load_many(&revisions).unwrap());
        assert_eq!(a.hash_kv(at).unwrap(), b.hash_kv(at).unwrap(), "at {at}");
        assert_eq!(a.changes(at, 1000).unwrap(), b.changes(at, 1000).unwrap(), "from {at}");
    }
    let records = |view: &View| view.records().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(records(a), records(b));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_store_made_from_a_stream_answers_as_its_sender(script in ops(), is_sealed: bool) {
        let disk = SimDisk::new();
        let keys_of = |dir| if is_sealed { sealed(&disk, dir) } else { FileKeys::plain() };
        let mut sender = Sender::new(&disk, keys_of("/sender"));
        script.iter().for_each(|op| sender.run(op));
        let view = sender.publish();
        let stream = chunks(&view);
        // A view stays what it is, whatever its store does meanwhile.
        [Op::Compact(0), Op::Flush, Op::Rewrite].iter().for_each(|op| sender.run(op));
        assert_eq!(chunks(&view), stream);

        let keys = keys_of("/receiver");
        let staged = write(&disk, keys.clone(), &stream).unwrap();
        prop_assert_eq!(staged.head, StateReader::new(Arc::clone(&view)).head());
        let open = || {
            Store::open(env(&disk, 3), Path::new(RECEIVER), keys.clone(), options()).unwrap()
        };
        let mut receiver = open();
        prop_assert_eq!(receiver.durable(), view.applied());
        compare(&view, &receiver.views().load());

        // Both go on alike: compaction included.
        let at = Applied { index: 1 << 30, term: 4 };
        for store in [&mut sender.store, &mut receiver] {
            // The sender did above.
            let _ = store.compact(view.revision());
            let mut txn = store.begin();
            txn.put(key(3), StoredValue::plain(Bytes::from_static(b"later")), LeaseId(1));
            txn.delete_range(&every_key());
            txn.finish();
            store.publish(at);
            store.run(JobRequest::Flush).unwrap();
        }
        compare(&sender.store.views().load(), &receiver.views().load());
        drop(receiver);
        compare(&sender.store.views().load(), &open().views().load());
    }
}

/// A sender with enough for several chunks and an item larger than a chunk.
fn large(disk: &SimDisk) -> Arc<View> {
    let mut sender = Sender::new(disk, FileKeys::plain());
    for number in 0..8 {
        sender.run(&Op::Put { key: number, len: 600, is_sealed: number % 2 == 0, lease: 1 });
    }
    let mut txn = sender.store.begin();
    let value = StoredValue::plain(vec![7; 3 * PAYLOAD_MAX].into());
    txn.put(Bytes::from_static(b"huge"), value, LeaseId::NONE);
    txn.finish();
    sender.run(&Op::Meta { table: 1, key: 1, value: Some(1) });
    sender.run(&Op::Put { key: 9, len: 10, is_sealed: false, lease: 0 });
    sender.publish()
}

fn is_refused(disk: &SimDisk, stream: &[Bytes]) -> bool {
    let refused = write(disk, FileKeys::plain(), stream);
    let left = disk.files().iter().any(|file| file.starts_with(RECEIVER));
    assert!(refused.is_ok() || !left, "nothing is left of what was refused");
    matches!(
        refused,
        Err(Error::Stream { .. } | Error::StreamVersion { .. } | Error::Import { .. })
    )
}

#[test]
fn a_stream_that_is_cut_changed_or_out_of_turn_leaves_nothing() {
    let disk = SimDisk::new();
    let stream = chunks(&large(&disk));
    assert!(stream.len() > 4, "an item lies in several chunks");
    assert!(!is_refused(&disk, &stream), "the stream as it is");
    for at in 0..stream.len() {
        assert!(is_refused(&disk, &stream[..at]), "cut before chunk {at}");
        let mut swapped = stream.clone();
        swapped.swap(at, (at + 1) % stream.len());
        assert!(is_refused(&disk, &swapped));
        for byte in [0, 4, 8, stream[at].len() - 1] {
            let mut changed = stream.clone();
            let mut bytes = changed[at].to_vec();
            bytes[byte] ^= 1;
            changed[at] = bytes.into();
            assert!(is_refused(&disk, &changed), "byte {byte} of chunk {at}");
        }
        let mut cut = stream.clone();
        cut[at] = cut[at].slice(..cut[at].len() - 1);
        assert!(is_refused(&disk, &cut));
    }
    let after = format::chunk(u32::try_from(stream.len()).unwrap(), b"x");
    assert!(is_refused(&disk, &[&stream[..], &[after]].concat()), "bytes after the end");
    assert!(is_refused(&disk, &[]));
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let disk = SimDisk::new();
    let stream = chunks(&large(&disk));
    let mut writer =
        StateWriter::create(env(&disk, 2), Path::new(RECEIVER), FileKeys::plain(), options())
            .unwrap();
    writer.push(&stream[0]).unwrap();
    writer.push(&stream[1]).unwrap();
    assert!(writer.head().is_some() && disk.exists(Path::new(RECEIVER)).unwrap());
    drop(writer);
    assert!(!disk.exists(Path::new(RECEIVER)).unwrap());
}

/// A stream of these items whose checksums and hash are right.
fn forged(items: &[(u8, Vec<u8>)]) -> Vec<Bytes> {
    let mut bytes = Vec::new();
    for (kind, body) in items {
        format::write_item(*kind, body, &mut bytes);
    }
    let count = |kind| items.iter().filter(|(it, _)| *it == kind).count() as u64;
    let hash = Sha256::digest(&bytes).into();
    let trailer = Trailer { metas: count(KIND_META), records: count(KIND_RECORD), hash };
    format::write_item(KIND_TRAILER, &trailer.encode(), &mut bytes);
    let numbered = (0..).zip(bytes.chunks(PAYLOAD_MAX));
    numbered.map(|(number, payload)| format::chunk(number, payload)).collect()
}

/// The items of a small state.
fn items() -> Vec<(u8, Vec<u8>)> {
    let disk = SimDisk::new();
    let mut sender = Sender::new(&disk, FileKeys::plain());
    for op in [
        Op::Put { key: 1, len: 5, is_sealed: true, lease: 1 },
        Op::Put { key: 2, len: 5, is_sealed: false, lease: 0 },
        Op::Txn(vec![(false, 1)]),
        Op::Meta { table: 1, key: 1, value: Some(1) },
        Op::Meta { table: 2, key: 1, value: Some(1) },
    ] {
        sender.run(&op);
    }
    let payloads: Vec<_> =
        chunks(&sender.publish()).iter().flat_map(|chunk| chunk[8..].to_vec()).collect();
    let mut rest = &payloads[..];
    let mut items = Vec::new();
    while let Some((kind, at, len)) = format::item_head(rest).unwrap() {
        items.push((kind, rest[at..at + len].to_vec()));
        rest = &rest[at + len..];
    }
    assert_eq!(items.pop().unwrap().0, KIND_TRAILER);
    items
}

#[test]
fn a_stream_whose_checksums_are_right_is_still_judged() {
    let disk = SimDisk::new();
    let sound = items();
    assert!(!is_refused(&disk, &forged(&sound)));
    assert_eq!(
        sound.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
        [KIND_HEAD, KIND_META, KIND_META, KIND_RECORD, KIND_RECORD, KIND_RECORD]
    );
    for at in 0..sound.len() {
        let mut without = sound.clone();
        let gone = without.remove(at);
        // Without a meta entry, or what the tombstone deleted, it is another state.
        let is_another = gone.0 == KIND_META || at == 3;
        assert!(is_another || is_refused(&disk, &forged(&without)), "without item {at}");
        let mut twice = sound.clone();
        twice.insert(at, sound[at].clone());
        assert!(is_refused(&disk, &forged(&twice)), "item {at} twice");
        let mut swapped = sound.clone();
        swapped.swap(at, (at + 1) % sound.len());
        assert!(is_refused(&disk, &forged(&swapped)), "item {at} behind the next");
    }
    let mut newer = sound;
    newer[0].1[0] = 2;
    let refused = write(&disk, FileKeys::plain(), &forged(&newer)).unwrap_err();
    assert!(matches!(refused, Error::StreamVersion { version: 2 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn hostile_items_never_panic(at in 0..6_usize, byte: usize, mask in 1..=255_u8, cut: usize) {
        let disk = SimDisk::new();
        let mut changed = items();
        let body = &mut changed[at].1;
        let position = byte % body.len();
        body[position] ^= mask;
        let _ = is_refused(&disk, &forged(&changed));
        let body = &mut changed[at].1;
        body.truncate(cut % (body.len() + 1));
        let _ = is_refused(&disk, &forged(&changed));
    }

    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>, kind in 0..6_u8) {
        let disk = SimDisk::new();
        let _ = is_refused(&disk, &[Bytes::from(bytes.clone())]);
        let _ = is_refused(&disk, &[format::chunk(0, &[&[1], &bytes[..]].concat())]);
        let mut with = items();
        with.push((kind, bytes));
        let _ = is_refused(&disk, &forged(&with));
    }
}
