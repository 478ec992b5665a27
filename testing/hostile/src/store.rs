//! A whole directory of the store (`docs/formats/revlog.md`): manifests, segments, checkpoints.
//!
//! What opens is read in every way there is, written to, and opened once more.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use keepd_crypto::{FileKeys, FileKind};
use keepd_env::{Env, SimDisk};
use keepd_mvcc::{Applied, JobRequest, Options, Reclaim, Store, Urgency, View, inspect};
use keepd_types::limits::REVISION_MAX;
use keepd_types::{KeyRange, LeaseId, Revision, StoredValue};

use crate::files::{self, Content, File, Frame, Name};

pub(crate) const DIR: &str = "/store";
/// The frame kinds of a segment that a target knows.
pub(crate) const FRAME_BLOCK: u8 = 2;
pub(crate) const FRAME_COMMIT: u8 = 4;
/// A commit's length, and where the number of records lies in it; the checksum comes last.
pub(crate) const COMMIT_LEN: usize = 52;
const RECORDS_AT: usize = 32;
/// Members stop long before an index comes near its end.
const INDEX_MAX: u64 = u64::MAX / 2;

const REWRITE: JobRequest = JobRequest::Rewrite(Reclaim::of(Urgency::Full));

/// Opens a store whose directory holds these files.
pub fn store(bytes: &[u8]) {
    let (choice, files) = files::read(bytes);
    let keys = files::keys(choice);
    let (env, disk, _clock) = Env::simulated(3);
    env.disk.create_dir(Path::new(DIR)).expect("nothing is there");
    for file in &files {
        let (path, kind, id) = place(file.name);
        match &file.content {
            Content::Raw(bytes) => disk.poke(&path, bytes),
            Content::Frames(frames) => disk.poke(&path, &file_of(&keys, kind, id, frames)),
        }
    }
    open_and_use(&env, &keys);
}

/// The path, kind and id of a file.
fn place([kind, id, _]: Name) -> (PathBuf, FileKind, u64) {
    let id = u64::from(id);
    let (kind, name) = match kind % 4 {
        0 => (FileKind::Manifest, format!("MANIFEST-{id:08}")),
        1 => (FileKind::Segment, format!("seg-{id:08}.kd")),
        2 => (FileKind::Checkpoint, format!("idx-{id:08}.kd")),
        _ => (FileKind::Manifest, "MANIFEST-new.tmp".to_owned()),
    };
    (Path::new(DIR).join(name), kind, id)
}

/// A file of these frames, in which a segment's commits fit what is before them.
pub(crate) fn file_of(keys: &FileKeys, kind: FileKind, id: u64, frames: &[Frame]) -> Vec<u8> {
    let mut frames = frames.to_vec();
    if kind == FileKind::Segment {
        fit_commits(&mut frames);
    }
    files::sealed(&files::sealer(keys, kind, id), &frames).0
}

/// Sets number of records and checksum of every commit.
pub(crate) fn fit_commits(frames: &mut [Frame]) {
    let (mut hash, mut records) = (0, 0_u64);
    for (kind, payload) in frames {
        if *kind == FRAME_BLOCK
            && let Some(count) = payload.last_chunk()
        {
            records += u64::from(u32::from_le_bytes(*count));
        }
        if *kind == FRAME_COMMIT && payload.len() == COMMIT_LEN {
            payload[RECORDS_AT..RECORDS_AT + 8].copy_from_slice(&records.to_le_bytes());
            payload[COMMIT_LEN - 4..].copy_from_slice(&u32::to_le_bytes(hash));
        }
        hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &[*kind]), payload);
    }
}

/// Opens the store, uses it, and opens it once more: what was opened stays what it is.
pub(crate) fn open_and_use(env: &Env, keys: &FileKeys) {
    if let Err(error) = inspect(env, Path::new(DIR), keys) {
        let _told = error.to_string();
    }
    let mut store = match open(env, keys) {
        Ok(store) => store,
        Err(error) => {
            let _told = error.to_string();
            return;
        }
    };
    read_all(&store.views().load());
    // Not its records: blocks that say otherwise than their tables are met only when they are read.
    let state = |store: &Store| (store.revision(), store.compact_revision(), store.applied());
    let before = state(&store);
    drop(store);
    store = open(env, keys).expect("it was opened before");
    assert_eq!(state(&store), before, "opened again");
    // BOUND: a member's own writes raise the revision by one each; a restore refuses more.
    if store.revision() < REVISION_MAX && store.applied().index < INDEX_MAX {
        write_some(&mut store);
    }
}

fn open(env: &Env, keys: &FileKeys) -> Result<Store, keepd_mvcc::Error> {
    // Small, so that little data has many blocks.
    let options = Options { segment_bytes: 2000, block_bytes: 200, cache_bytes: 1 << 20 };
    Store::open(env.clone(), Path::new(DIR), keys.clone(), options)
}

/// Reads keys, records, history and hashes. Errors are answers: a block may be damaged.
fn read_all(view: &std::sync::Arc<View>) {
    let all = KeyRange::all();
    let _told = (view.count(&all, 0).ok(), view.weight(&all, 0, 1000));
    let _read = view.states(&all, 0, 10).is_ok();
    for at in [0, view.compact_revision(), view.revision()] {
        let Ok(refs) = view.range(&all, at, 0) else { continue };
        let revisions: Vec<Revision> = refs.keys.iter().map(|(_, revision)| *revision).collect();
        let _read = view.load_many(&revisions).is_ok();
        for revision in revisions {
            let _read = view.load(revision).is_ok();
        }
        let _hashed = view.hash_kv(at).is_ok();
    }
    let _read = view.records().all(|record| record.is_ok());
    let mut from = view.compact_revision().max(1);
    // BOUND: each page goes on behind the one before.
    while let Ok(page) = view.changes(from, 2) {
        if page.changes.is_empty() || page.next <= from {
            break;
        }
        from = page.next;
    }
}

/// What a member does: writes, compaction, flush, checkpoint, rewrite.
fn write_some(store: &mut Store) {
    for key in ["a", "new"] {
        let mut txn = store.begin();
        let value = StoredValue::plain(Bytes::from_static(b"written"));
        txn.put(Bytes::from_static(key.as_bytes()), value, LeaseId::NONE);
        txn.finish();
    }
    let mut txn = store.begin();
    txn.delete_range(&KeyRange::point(Bytes::from_static(b"a")));
    txn.finish();
    let _compacted = store.compact(store.revision() - 1).is_ok();
    let Applied { index, term } = store.applied();
    for step in 1..4 {
        read_all(&store.publish(Applied { index: index + step, term }));
        store.close_segment(Urgency::Full);
        if !store.run(JobRequest::Flush).expect("the disk is whole") {
            continue;
        }
        while store.trim(100) {}
        store.meta_put(9, Bytes::from_static(b"step"), Bytes::from_static(b"done"));
    }
    store.run(JobRequest::Checkpoint).expect("the disk is whole");
    let _may_meet_damage = store.run(REWRITE).is_ok();
}

/// Directories as a store leaves them: after a flush, after checkpoints and rewrites, plain and
/// sealed, as frames and as they lie there.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    let mut inputs = vec![Vec::new()];
    for choice in [0, 1] {
        for rounds in [1, 3, 6] {
            let disk = written(&files::keys(choice), rounds);
            for raw in [false, true] {
                inputs.push(input_of(choice, &disk, raw));
            }
        }
    }
    inputs
}

fn written(keys: &FileKeys, rounds: u64) -> SimDisk {
    let (env, disk, _clock) = Env::simulated(4);
    env.disk.create_dir(Path::new(DIR)).expect("nothing is there");
    let mut store = open(&env, keys).expect("a new store");
    for round in 1..=rounds {
        for key in ["a", "b", "c"] {
            let mut txn = store.begin();
            let value = Bytes::from(format!("{key} of round {round}").repeat(5));
            txn.put(Bytes::from_static(key.as_bytes()), StoredValue::plain(value), LeaseId(7));
            txn.finish();
        }
        let mut txn = store.begin();
        txn.delete_range(&KeyRange::point(Bytes::from_static(b"b")));
        txn.finish();
        if round == 4 {
            store.compact(10).expect("it is in the past");
        }
        store.meta_put(1, Bytes::from_static(b"lease"), Bytes::from(round.to_string()));
        store.publish(Applied { index: round, term: 1 });
        assert!(store.run(JobRequest::Flush).expect("the disk is whole"), "there is something new");
        while store.trim(100) {}
        if round.is_multiple_of(2) {
            assert!(
                store.run(JobRequest::Checkpoint).expect("the disk is whole"),
                "there is something new"
            );
        }
        while store.run(REWRITE).expect("the disk is whole") {}
    }
    disk
}

fn input_of(choice: u8, disk: &SimDisk, raw: bool) -> Vec<u8> {
    let mut list = Vec::new();
    for path in disk.files() {
        let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits: String = file_name.chars().filter(char::is_ascii_digit).collect();
        let kind = match file_name.get(..3) {
            Some("MAN") => 0,
            Some("seg") => 1,
            _ => 2,
        };
        let name = [kind, digits.parse().unwrap_or(u8::MAX), 0];
        let (_, file_kind, id) = place(name);
        let bytes = disk.peek(&path).expect("it was listed");
        let content = if raw {
            Content::Raw(bytes)
        } else {
            Content::Frames(files::opened(&files::keys(choice), file_kind, id, &bytes))
        };
        list.push(File { name, content });
    }
    files::write(choice, &list)
}
