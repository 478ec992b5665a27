//! What lies in frames and tables: key-value records, leases, members, and each payload of the
//! store's files alone, in a store that is otherwise right.

use std::path::Path;

use bytes::Bytes;
use keepd_backup::RestoreOptions;
use keepd_crypto::{FileKeys, FileKind};
use keepd_env::Env;
use keepd_lease::Lease;
use keepd_machine::membership::{ConfState, Member};
use keepd_machine::tables::ActiveKeys;
use keepd_member::Identity;
use keepd_types::{ClusterId, KeyId, KeyValue, LeaseId, MemberId, Revision, varint};

use crate::files::{self, Frame};
use crate::store::{self, COMMIT_LEN, DIR, FRAME_BLOCK, FRAME_COMMIT};
use crate::varints;

const FRAME_HEAD: u8 = 1;
const FRAME_META: u8 = 3;
const FRAME_TABLE: u8 = 5;
/// Frame kinds of a checkpoint.
const FRAME_LEAVES: u8 = 2;
const FRAME_CHECKPOINT_META: u8 = 3;
const FRAME_END: u8 = 4;
const FRAME_HISTORY: u8 = 5;
/// The revision that the store of an input stands at.
const REVISION: i64 = 1000;

/// Reads the bytes as what the first one says.
pub fn records(bytes: &[u8]) {
    let (&choice, payload) = bytes.split_first().unwrap_or((&0, &[]));
    let frame = |kind| (kind, payload.to_vec());
    let block = (FRAME_BLOCK, block(2));
    match choice % 8 {
        0 => small(payload),
        1 => open(&[frame(FRAME_BLOCK)], &[], None),
        2 => open(&[frame(FRAME_META)], &[], None),
        3 => open(&[block], &[frame(FRAME_LEAVES)], None),
        4 => open(&[block], &[(FRAME_LEAVES, leaf()), frame(FRAME_HISTORY)], None),
        5 => open(&[block], &[(FRAME_LEAVES, leaf()), frame(FRAME_CHECKPOINT_META)], None),
        6 => open(&[block], &[], Some(payload)),
        _ => open(&files::frames(payload), &[], None),
    }
}

/// The payloads that need no file.
fn small(bytes: &[u8]) {
    let owned = Bytes::copy_from_slice(bytes);
    if let Ok(record) = KeyValue::decode(&owned) {
        let mut out = Vec::new();
        record.encode(&mut out);
        assert_eq!(out.len(), record.encoded_len());
        assert_eq!(KeyValue::decode(&out.into()), Ok(record));
    }
    if let Ok(lease) = Lease::decode(bytes) {
        let mut out = Vec::new();
        lease.encode(&mut out);
        assert_eq!(Lease::decode(&out), Ok(lease));
    }
    if let Some(keys) = ActiveKeys::decode(bytes) {
        assert_eq!(ActiveKeys::decode(&keys.encode()), Some(keys));
    }
    if let Some(member) = Member::decode(bytes) {
        assert_eq!(Member::decode(&member.encode()), Some(member));
    }
    if let Some(state) = ConfState::decode(bytes) {
        assert_eq!(ConfState::decode(&state.encode()), Some(state));
    }
    if let Some(identity) = Identity::decode(bytes) {
        assert_eq!(identity.encode(), owned);
    }
    if let Ok(options) = serde_json::from_slice::<RestoreOptions>(bytes) {
        let _told = options.cluster().map_err(|error| error.to_string());
    }
    if let Some((revision, is_tombstone)) = Revision::from_bytes(bytes) {
        let (again, len) = revision.to_bytes(is_tombstone);
        assert_eq!(&again[..len], bytes);
    }
}

/// Opens a store with these frames in its one segment, and in a checkpoint if there are any.
fn open(frames: &[Frame], checkpoint: &[Frame], edits: Option<&[u8]>) {
    let (env, disk, _clock) = Env::simulated(5);
    let dir = Path::new(DIR);
    env.disk.create_dir(dir).expect("nothing is there");
    let keys = FileKeys::plain();
    let mut segment = vec![(FRAME_HEAD, vec![1, 0])];
    segment.extend_from_slice(frames);
    segment.push((FRAME_COMMIT, commit()));
    disk.poke(&dir.join("seg-00000001.kd"), &store::file_of(&keys, FileKind::Segment, 1, &segment));
    let mut state = vec![1, 1];
    state.extend_from_slice(&1_u64.to_le_bytes());
    if !checkpoint.is_empty() {
        let mut frames = vec![(FRAME_HEAD, [&[2], commit().as_slice()].concat())];
        frames.extend_from_slice(checkpoint);
        frames.push((FRAME_END, Vec::new()));
        let file = store::file_of(&keys, FileKind::Checkpoint, 2, &frames);
        disk.poke(&dir.join("idx-00000002.kd"), &file);
        state.push(5);
        state.extend_from_slice(&2_u64.to_le_bytes());
    }
    let state = edits.map_or(state, |edits| [&[1], edits].concat());
    let manifest = store::file_of(&keys, FileKind::Manifest, 3, &[(FRAME_HEAD, state)]);
    disk.poke(&dir.join("MANIFEST-00000003"), &manifest);
    store::open_and_use(&env, &keys);
}

/// A commit of the first entry; what it says of its segment is set when the file is made.
fn commit() -> Vec<u8> {
    let numbers = [1_i64, 1, REVISION, -1, 0, 0].map(i64::to_le_bytes);
    let mut commit = numbers.concat();
    commit.resize(COMMIT_LEN, 0);
    commit
}

/// A block of `count` puts of one key.
fn block(count: u32) -> Vec<u8> {
    let first = 2_i64;
    let (mut out, mut offsets) = (first.to_le_bytes().to_vec(), Vec::new());
    for (version, main) in (1..=i64::from(count)).zip(first..) {
        let mut record = Vec::new();
        KeyValue {
            key: Bytes::from_static(b"key"),
            create_revision: first,
            mod_revision: main,
            version,
            value: Bytes::from_static(b"value"),
            lease: LeaseId::NONE,
        }
        .encode(&mut record);
        offsets.push(u32::try_from(out.len()).expect("first inputs are small"));
        // Created, or with a previous record.
        out.push(if version == 1 { 4 } else { 8 });
        for number in [main - first, 0, main - first] {
            varint::write_i64(number, &mut out);
        }
        if version > 1 {
            varint::write_i64(1, &mut out);
            varint::write_i64(0, &mut out);
        }
        varint::write_u64(record.len() as u64, &mut out);
        out.extend_from_slice(&record);
    }
    offsets.iter().for_each(|offset| out.extend_from_slice(&offset.to_le_bytes()));
    out.extend_from_slice(&count.to_le_bytes());
    out
}

/// A leaf with that key and no past of it.
fn leaf() -> Vec<u8> {
    let mut out = Vec::new();
    for number in [1, 0, 3] {
        varint::write_u64(number, &mut out);
    }
    out.extend_from_slice(b"key");
    state(9, 7, &mut out);
    varint::write_u64(0, &mut out);
    out
}

fn state(main: i64, version: i64, out: &mut Vec<u8>) {
    varint::write_i64(main, out);
    varint::write_u64(0, out);
    varint::write_i64(main - 2, out);
    varint::write_i64(version, out);
}

/// One payload of each kind.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    let mut record = Vec::new();
    let key = Bytes::from_static(b"key");
    let value = Bytes::from_static(b"value");
    KeyValue { key, create_revision: 2, mod_revision: 3, version: 2, value, lease: LeaseId(7) }
        .encode(&mut record);
    let mut lease = Vec::new();
    Lease { id: LeaseId(77), ttl: 300, remaining_ttl: 5 }.encode(&mut lease);
    let active = ActiveKeys { epoch: 3, keys: [KeyId(1), KeyId(2)].into() }.encode();
    let member = Member { id: 9, name: "m".to_owned(), ..Member::default() }.encode();
    let voters = ConfState::of_voters([MemberId(9)]).encode();
    let identity = Identity { member: MemberId(9), cluster: ClusterId(8) }.encode();
    let (revision, len) = Revision { main: 5, sub: 1 }.to_bytes(true);
    let options = serde_json::to_vec(&RestoreOptions::default()).expect("texts and numbers");
    let history = {
        let mut out = vec![0];
        (2..6).for_each(|main| state(main, main - 1, &mut out));
        out
    };
    let meta = b"\x01\x01\x05lease\x03ttl\x02\x00\x03key".to_vec();
    let edits = [&[1][..], &1_u64.to_le_bytes(), &[7], &9_u64.to_le_bytes()].concat();
    let frames = [(FRAME_BLOCK, block(3)), (FRAME_META, meta.clone()), (FRAME_TABLE, vec![1, 0])];
    assert!(varints::len_of(3, &leaf()).is_some(), "a leaf begins with three numbers");
    let small =
        [record, lease, active.into(), member.into(), voters.into(), identity.into(), options];
    let small = small.into_iter().chain([revision[..len].to_vec()]).map(|bytes| (0, bytes));
    let framed = [
        (1, block(1)),
        (1, block(5)),
        (2, meta.clone()),
        (3, [leaf(), leaf()].concat()),
        (3, leaf()),
        (4, history),
        (5, meta),
        (6, edits),
        (7, files::write_frames(&frames)),
    ];
    small.chain(framed).map(|(choice, bytes)| [&[choice], bytes.as_slice()].concat()).collect()
}
