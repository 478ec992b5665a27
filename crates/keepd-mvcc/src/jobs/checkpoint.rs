//! Checkpoints: the key index and the meta tables on disk, so that a start need not replay history.
//!
//! A checkpoint is taken of what a flush made durable, and two are kept: if the newer one is
//! damaged, recovery begins from the older one, or from nothing. It is derived data: losing all of
//! them costs time only. Layout: `docs/formats/revlog.md`.

use std::path::PathBuf;
use std::sync::Arc;

use keepd_crypto::{FILE_HEADER_LEN, FileKind, FileSealer};
use keepd_env::DiskFile;
use keepd_types::varint;

use crate::durable::Durable;
use crate::error::{Error, frame_reason};
use crate::index::KeyIndex;
use crate::index::leaf::{Leaf, PastState, State};
use crate::meta::{Meta, MetaOp};
use crate::pace::{self, Pace};
use crate::revlog::directory::{Directory, FileName, Opened, seal_frame};
use crate::revlog::files::Files;
use crate::revlog::format::FlushCommit;
use crate::revlog::manifest::Edit;
use crate::revlog::wire::Reader;

const FRAME_HEAD: u8 = 1;
const FRAME_LEAVES: u8 = 2;
const FRAME_META: u8 = 3;
const FRAME_END: u8 = 4;
const FRAME_HISTORY: u8 = 5;
/// The format of checkpoints: 1 has no frames of histories, and nothing else is different.
const CHECKPOINT_VERSION: u8 = 2;
/// Frames are about this long.
const FRAME_BYTES: usize = if cfg!(test) { 256 } else { 64 * 1024 };
/// Frames are handed to the system in writes of about this size.
const WRITE_BYTES: usize = 1 << 20;
/// Checkpoints that are kept.
pub(crate) const KEPT: usize = 2;

/// A checkpoint that recovery may begin from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckpointRef {
    pub(crate) id: u64,
    pub(crate) commit: FlushCommit,
}

/// Writes a checkpoint.
#[derive(Debug)]
pub(crate) struct CheckpointJob {
    pub(crate) files: Arc<Files>,
    pub(crate) durable: Durable,
    /// Those that are no longer kept once this one is there.
    pub(crate) dropped: Vec<u64>,
}

/// A checkpoint that is durable.
#[derive(Debug)]
pub(crate) struct CheckpointDone {
    pub(crate) mark: CheckpointRef,
    pub(crate) dropped: Vec<u64>,
}

impl CheckpointJob {
    /// Writes, syncs and names the checkpoint.
    pub(crate) fn run(self, pace: &mut Pace<'_>) -> Result<CheckpointDone, Error> {
        let (dir, id) = (&self.files.dir, self.files.new_id());
        keepd_env::failpoint!(DefragBeforeCopy);
        let written = write(dir, id, &self.durable, pace);
        if let Err(error) = written {
            // Nothing names the file; if it cannot go now, the next start removes it.
            return dir.remove(FileName::Checkpoint(id)).and(Err(error));
        }
        let dropped = self.dropped.iter().copied().map(Edit::DropCheckpoint);
        let edits: Vec<Edit> = [Edit::AddCheckpoint(id)].into_iter().chain(dropped).collect();
        keepd_env::failpoint!(DefragBeforeRename);
        self.files.manifest.lock().edit(dir, &edits)?;
        for id in &self.dropped {
            // The new one counts already; a file that cannot go now goes at the next start.
            let _is_gone = dir.remove(FileName::Checkpoint(*id)).is_ok();
        }
        if !self.dropped.is_empty() {
            // What is gone stays away, also over a power cut: it may have been the last plain file.
            let _stays_away = dir.env.disk.sync_dir(&dir.path).is_ok();
        }
        let mark = CheckpointRef { id, commit: self.durable.commit };
        Ok(CheckpointDone { mark, dropped: self.dropped })
    }
}

/// A checkpoint being written.
struct Writer<'a> {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    sealer: FileSealer,
    /// Frames that are not written yet.
    out: Vec<u8>,
    written: u64,
    ordinal: u64,
    pace: &'a mut Pace<'a>,
}

impl Writer<'_> {
    fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), Error> {
        seal_frame(&self.path, &self.sealer, self.ordinal, kind, payload, &mut self.out)?;
        self.ordinal += 1;
        if self.out.len() >= WRITE_BYTES || kind == FRAME_END {
            self.file.write_all_at(&self.out, self.written)?;
            let len = self.out.len() as u64;
            self.written += len;
            self.out.clear();
            pace::tell(self.pace, len)?;
        }
        Ok(())
    }

    /// Writes a frame if enough is gathered for one.
    fn gather(&mut self, kind: u8, payload: &mut Vec<u8>) -> Result<(), Error> {
        if payload.len() >= FRAME_BYTES {
            self.frame(kind, payload)?;
            payload.clear();
        }
        Ok(())
    }

    /// Gathers a leaf in `payload`.
    // BOUND: `FRAME_BYTES` and one leaf: its keys are as many and as long as a leaf or one request
    // holds, its log of past states is limited, its histories have frames of their own.
    fn leaf(&mut self, leaf: &Leaf, payload: &mut Vec<u8>) -> Result<(), Error> {
        encode_leaf(leaf, payload);
        let histories = leaf.histories();
        if histories.is_empty() {
            return self.gather(FRAME_LEAVES, payload);
        }
        self.frame(FRAME_LEAVES, payload)?;
        payload.clear();
        for (position, history) in histories {
            varint::write_u64(position as u64, payload);
            let begin = payload.len();
            let mut result = Ok(());
            history.for_each(|state| {
                encode_state(state, payload);
                if payload.len() >= FRAME_BYTES && result.is_ok() {
                    result = self.frame(FRAME_HISTORY, payload);
                    payload.truncate(begin);
                }
            });
            result?;
            if payload.len() > begin {
                self.frame(FRAME_HISTORY, payload)?;
            }
            payload.clear();
        }
        Ok(())
    }
}

fn write(dir: &Directory, id: u64, durable: &Durable, pace: &mut Pace<'_>) -> Result<(), Error> {
    let path = dir.file(FileName::Checkpoint(id));
    let sealer = dir.keys.create(FileKind::Checkpoint, id, dir.env.random.as_ref());
    let file = dir.env.disk.create(&path)?;
    let out = sealer.header().to_vec();
    let mut writer = Writer { path, file, sealer, out, written: 0, ordinal: 0, pace };
    let mut head = vec![CHECKPOINT_VERSION];
    durable.commit.encode(&mut head);
    writer.frame(FRAME_HEAD, &head)?;
    let (mut payload, mut result) = (Vec::new(), Ok(()));
    durable.index.for_each_leaf(|leaf| {
        if result.is_ok() {
            result = writer.leaf(leaf, &mut payload);
        }
    });
    result?;
    writer.frame(FRAME_LEAVES, &payload)?;
    payload.clear();
    for (table, entries) in durable.meta.tables() {
        for (key, value) in entries {
            let op = MetaOp { table, key: key.clone(), value: Some(value.clone()) };
            op.encode(&mut payload);
            // BOUND: `FRAME_BYTES` and one write, which is part of a command.
            writer.gather(FRAME_META, &mut payload)?;
        }
    }
    writer.frame(FRAME_META, &payload)?;
    writer.frame(FRAME_END, &[])?;
    writer.file.sync()?;
    Ok(dir.env.disk.sync_dir(&dir.path)?)
}

/// Reads where a checkpoint stands.
pub(crate) fn read_mark(dir: &Directory, id: u64) -> Result<CheckpointRef, Error> {
    let opened = dir.open(FileKind::Checkpoint, id, FileName::Checkpoint(id))?;
    let head_len = opened.sealer.frame_len(1 + FlushCommit::LEN);
    let end = FILE_HEADER_LEN + head_len;
    let corrupt = |reason| corrupt(&opened, FILE_HEADER_LEN, reason);
    if opened.len < end as u64 {
        return Err(corrupt("the file ends inside its first frame"));
    }
    let mut bytes = vec![0; head_len];
    opened.file.read_exact_at(&mut bytes, FILE_HEADER_LEN as u64)?;
    let frame = opened.sealer.open_frame(0, &bytes);
    let frame = frame.map_err(|error| corrupt(frame_reason(error)))?;
    let commit = decode_head(&frame.plain).ok_or_else(|| corrupt("a malformed head"))?;
    Ok(CheckpointRef { id, commit })
}

/// Reads a whole checkpoint.
pub(crate) fn load(dir: &Directory, id: u64) -> Result<Durable, Error> {
    let opened = dir.open(FileKind::Checkpoint, id, FileName::Checkpoint(id))?;
    let mut bytes = vec![0; usize::try_from(opened.len).unwrap_or(usize::MAX)];
    opened.file.read_exact_at(&mut bytes, 0)?;
    let (mut at, mut ordinal) = (FILE_HEADER_LEN, 0);
    let (mut leaves, mut meta, mut commit) = (Vec::new(), Meta::default(), None);
    loop {
        let corrupt = |reason| corrupt(&opened, at, reason);
        let frame = opened.sealer.open_frame(ordinal, bytes.get(at..).unwrap_or_default());
        let frame = frame.map_err(|error| corrupt(frame_reason(error)))?;
        let understood = match (frame.kind, ordinal) {
            (FRAME_HEAD, 0) => {
                commit = decode_head(&frame.plain);
                commit.map(|_| ())
            }
            (FRAME_LEAVES, 1..) => decode_leaves(&frame.plain, &mut leaves),
            (FRAME_HISTORY, 1..) => decode_history(&frame.plain, leaves.last_mut()),
            (FRAME_META, 1..) => MetaOp::decode_all(&frame.plain.into())
                .map(|ops| ops.into_iter().for_each(|op| meta.apply(op))),
            (FRAME_END, 1..) => break,
            _ => None,
        };
        understood.ok_or_else(|| corrupt("a malformed frame"))?;
        at += frame.len;
        ordinal += 1;
    }
    let commit = commit.ok_or_else(|| corrupt(&opened, at, "no head"))?;
    Ok(Durable { commit, index: KeyIndex::from_leaves(leaves), meta: Arc::new(meta) })
}

fn corrupt(opened: &Opened, at: usize, reason: &'static str) -> Error {
    Error::Corrupt { file: opened.path.clone(), offset: at as u64, reason }
}

fn decode_head(payload: &[u8]) -> Option<FlushCommit> {
    let (&(1 | CHECKPOINT_VERSION), commit) = payload.split_first()? else { return None };
    FlushCommit::decode(commit)
}

fn encode_leaf(leaf: &Leaf, out: &mut Vec<u8>) {
    if leaf.len() == 0 {
        return;
    }
    varint::write_u64(leaf.len() as u64, out);
    varint::write_u64(leaf.prefix().len() as u64, out);
    out.extend_from_slice(leaf.prefix());
    for position in 0..leaf.len() {
        let suffix = leaf.suffix(position);
        varint::write_u64(suffix.len() as u64, out);
        out.extend_from_slice(suffix);
        encode_state(&leaf.state(position), out);
    }
    let log = leaf.log();
    varint::write_u64(log.len() as u64, out);
    for past in log {
        varint::write_u64(past.position as u64, out);
        encode_state(&past.state, out);
        varint::write_i64(past.until, out);
    }
}

fn encode_state(state: &State, out: &mut Vec<u8>) {
    varint::write_i64(state.main, out);
    varint::write_u64(u64::from(state.sub), out);
    varint::write_i64(state.main.wrapping_sub(state.create), out);
    varint::write_i64(state.version, out);
}

fn decode_state(from: &mut Reader<'_>) -> Option<State> {
    let main = from.signed()?;
    let sub = u32::try_from(from.varint()?).ok()?;
    let create = main.wrapping_sub(from.signed()?);
    Some(State { main, sub, create, version: from.signed()? })
}

fn decode_leaves(payload: &[u8], leaves: &mut Vec<Leaf>) -> Option<()> {
    let mut from = Reader(payload);
    while !from.is_empty() {
        let leaf = decode_leaf(&mut from)?;
        let before = leaves.last().map(|last| last.key(last.len() - 1));
        if before.is_some_and(|before| before >= leaf.key(0)) {
            return None;
        }
        leaves.push(leaf);
    }
    Some(())
}

fn decode_leaf(from: &mut Reader<'_>) -> Option<Leaf> {
    let count =
        usize::try_from(from.varint()?).ok().filter(|count| (1..=u16_max()).contains(count))?;
    let prefix_len = usize::try_from(from.varint()?).ok()?;
    let prefix = from.bytes(prefix_len)?;
    let mut keys: Vec<u8> = Vec::new();
    let mut ends: Vec<(usize, State)> = Vec::with_capacity(count);
    for _ in 0..count {
        let len = usize::try_from(from.varint()?).ok()?;
        keys.extend_from_slice(prefix);
        keys.extend_from_slice(from.bytes(len)?);
        ends.push((keys.len(), decode_state(from)?));
    }
    let mut start = 0;
    let keyed: Vec<(&[u8], State)> = ends
        .iter()
        .map(|(end, state)| (&keys[std::mem::replace(&mut start, *end)..*end], *state))
        .collect();
    let is_sorted = keyed.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let mut log = Vec::new();
    for _ in 0..from.varint()? {
        let position = usize::try_from(from.varint()?).ok().filter(|at| *at < count)?;
        let state = decode_state(from)?;
        log.push(PastState { position, state, until: from.signed()? });
    }
    is_sorted.then(|| Leaf::pack(&keyed, Vec::new(), &log))
}

/// Adds what a frame holds of one key's history to the leaf before it.
fn decode_history(payload: &[u8], leaf: Option<&mut Leaf>) -> Option<()> {
    let mut from = Reader(payload);
    let leaf = leaf?;
    let position = usize::try_from(from.varint()?).ok().filter(|at| *at < leaf.len())?;
    let mut states = Vec::new();
    while !from.is_empty() {
        states.push(decode_state(&mut from)?);
    }
    leaf.append_history(position, &states).then_some(())
}

const fn u16_max() -> usize {
    u16::MAX as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first format has the whole past of a leaf after its keys, however long.
    #[test]
    fn a_leaf_of_the_first_format_is_read() {
        let state = |main: i64| State { main, sub: 0, create: 1, version: main };
        let mut payload = Vec::new();
        varint::write_u64(1, &mut payload);
        varint::write_u64(3, &mut payload);
        payload.extend_from_slice(b"key");
        varint::write_u64(0, &mut payload);
        encode_state(&state(1001), &mut payload);
        varint::write_u64(1000, &mut payload);
        for main in 1..=1000 {
            varint::write_u64(0, &mut payload);
            encode_state(&state(main), &mut payload);
            varint::write_i64(main + 1, &mut payload);
        }
        let mut leaves = Vec::new();
        decode_leaves(&payload, &mut leaves).unwrap();
        for main in 1..=1001 {
            assert_eq!(leaves[0].get_at(b"key", main), Some(state(main)));
        }
        let mut head = vec![1];
        FlushCommit::NONE.encode(&mut head);
        assert_eq!(decode_head(&head), Some(FlushCommit::NONE));
        head[0] = 3;
        assert_eq!(decode_head(&head), None);
    }

    #[test]
    fn a_history_out_of_order_or_of_no_key_is_malformed() {
        let state = |main: i64| State { main, sub: 0, create: 1, version: main };
        let frame = |position: u64, mains: &[i64]| {
            let mut payload = Vec::new();
            varint::write_u64(position, &mut payload);
            mains.iter().for_each(|main| encode_state(&state(*main), &mut payload));
            payload
        };
        let mut leaf = Leaf::pack(&[(b"key", state(9))], Vec::new(), &[]);
        assert!(decode_history(&frame(0, &[2, 3]), Some(&mut leaf)).is_some());
        assert!(decode_history(&frame(0, &[4, 5]), Some(&mut leaf)).is_some());
        assert_eq!(leaf.get_at(b"key", 4), Some(state(4)));
        assert!(decode_history(&frame(1, &[6]), Some(&mut leaf)).is_none());
        assert!(decode_history(&frame(0, &[6]), None).is_none());
        assert!(decode_history(&frame(0, &[5]), Some(&mut leaf.clone())).is_none());
        assert!(decode_history(&frame(0, &[7, 7]), Some(&mut leaf)).is_none());
    }
}
