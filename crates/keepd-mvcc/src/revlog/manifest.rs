//! The manifest: which files make up the store. Nothing else names a live file.
//!
//! A file of sealed frames, each a list of edits; the first frame is the whole state. An edit counts
//! once it is synced. Every start begins a new manifest under a temporary name and renames it when
//! it is whole, so that a manifest with a damaged first frame is damage and never a torn write.
//! Layout: `docs/formats/revlog.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepd_crypto::{DataKeyId, FILE_HEADER_LEN, FileKind, FileSealer};
use keepd_env::DiskFile;

use crate::error::{Error, frame_reason};
use crate::revlog::directory::{Directory, FileName, Opened, seal_frame};
use crate::revlog::format::FrameRef;
use crate::revlog::wire::Reader;

/// The format version. Version 1 did not tell what rewrites rely on.
const VERSION: u8 = 2;
const FRAME_STATE: u8 = 1;
const FRAME_EDIT: u8 = 2;
/// A manifest that grew beyond this is begun anew; small in unit tests, so that it happens there.
const BYTES_MAX: u64 = if cfg!(test) { 700 } else { 1 << 20 };

/// A segment that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) id: u64,
    /// The bytes that belong to it; more may follow and are ignored.
    pub(crate) len: u64,
    /// Its table, if it was written.
    pub(crate) table: Option<FrameRef>,
}

/// A segment as the manifest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentEntry {
    /// The last one, which may still grow.
    Active(u64),
    /// A complete one.
    Closed(Closed),
}

impl SegmentEntry {
    pub(crate) const fn id(&self) -> u64 {
        match self {
            Self::Active(id) => *id,
            Self::Closed(closed) => closed.id,
        }
    }
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// A new last segment.
    AddActive(u64),
    /// A new last segment that is complete.
    AddClosed(Closed),
    /// The active segment is complete.
    Close(Closed),
    /// Neighbouring segments gave way to one or none.
    Replace { removed: Vec<u64>, added: Option<Closed> },
    /// A new newest checkpoint.
    AddCheckpoint(u64),
    /// A checkpoint that is not kept any more.
    DropCheckpoint(u64),
    /// A segment that was removed earlier but whose file may still exist.
    Removed(u64),
    /// A rewrite dropped what was dead at this applied index.
    ReliesOn(u64),
}

/// The live files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// In revision order.
    pub(crate) segments: Vec<SegmentEntry>,
    /// Oldest first.
    pub(crate) checkpoints: Vec<u64>,
    /// Segments that were replaced; their files may go.
    pub(crate) removed: BTreeSet<u64>,
    /// The applied index that rewrites rely on: in an earlier state, what they dropped may have been
    /// live. `None` if the manifest is of a version that does not tell.
    pub(crate) relied: Option<u64>,
}

impl State {
    /// Applies an edit; `None` if it does not fit the state.
    pub(crate) fn apply(&mut self, edit: &Edit) -> Option<()> {
        match edit {
            Edit::AddActive(id) => self.segments.push(SegmentEntry::Active(*id)),
            Edit::AddClosed(closed) => self.segments.push(SegmentEntry::Closed(*closed)),
            Edit::Close(closed) => {
                let last = self.segments.last_mut()?;
                if *last != SegmentEntry::Active(closed.id) {
                    return None;
                }
                *last = SegmentEntry::Closed(*closed);
            }
            Edit::Replace { removed, added } => {
                let at = self.segments.iter().position(|it| Some(&it.id()) == removed.first())?;
                let replaced = self.segments.get(at..at.checked_add(removed.len())?)?;
                if !replaced.iter().map(SegmentEntry::id).eq(removed.iter().copied()) {
                    return None;
                }
                let added = added.map(SegmentEntry::Closed);
                self.segments.splice(at..at + removed.len(), added);
                self.removed.extend(removed);
            }
            Edit::AddCheckpoint(id) => self.checkpoints.push(*id),
            Edit::DropCheckpoint(id) => self.checkpoints.retain(|kept| kept != id),
            Edit::Removed(id) => {
                self.removed.insert(*id);
            }
            Edit::ReliesOn(index) => self.relied = self.relied.max(Some(*index)),
        }
        Some(())
    }

    /// Edits that lead from nothing to this state.
    fn edits(&self) -> Vec<Edit> {
        let segments = self.segments.iter().map(|segment| match segment {
            SegmentEntry::Active(id) => Edit::AddActive(*id),
            SegmentEntry::Closed(closed) => Edit::AddClosed(*closed),
        });
        let checkpoints = self.checkpoints.iter().copied().map(Edit::AddCheckpoint);
        let removed = self.removed.iter().copied().map(Edit::Removed);
        let relied = self.relied.map(Edit::ReliesOn);
        segments.chain(checkpoints).chain(removed).chain(relied).collect()
    }
}

impl Closed {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.push(u8::from(self.table.is_some()));
        if let Some(table) = self.table {
            table.encode(out);
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let (id, len) = (from.u64()?, from.u64()?);
        let table = match from.u8()? {
            0 => None,
            1 => Some(FrameRef::read(from)?),
            _ => return None,
        };
        Some(Self { id, len, table })
    }
}

impl Edit {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::AddActive(id) => push_id(1, *id, out),
            Self::AddClosed(closed) => {
                out.push(2);
                closed.encode(out);
            }
            Self::Close(closed) => {
                out.push(3);
                closed.encode(out);
            }
            Self::Replace { removed, added } => {
                push_id(4, removed.len() as u64, out);
                removed.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
                out.push(u8::from(added.is_some()));
                if let Some(added) = added {
                    added.encode(out);
                }
            }
            Self::AddCheckpoint(id) => push_id(5, *id, out),
            Self::DropCheckpoint(id) => push_id(6, *id, out),
            Self::Removed(id) => push_id(7, *id, out),
            Self::ReliesOn(index) => push_id(8, *index, out),
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(match from.u8()? {
            1 => Self::AddActive(from.u64()?),
            2 => Self::AddClosed(Closed::read(from)?),
            3 => Self::Close(Closed::read(from)?),
            4 => {
                let count = from.u64()?;
                let removed = (0..count).map_while(|_| from.u64()).collect::<Vec<u64>>();
                if removed.len() as u64 != count {
                    return None;
                }
                let added = match from.u8()? {
                    0 => None,
                    1 => Some(Closed::read(from)?),
                    _ => return None,
                };
                Self::Replace { removed, added }
            }
            5 => Self::AddCheckpoint(from.u64()?),
            6 => Self::DropCheckpoint(from.u64()?),
            7 => Self::Removed(from.u64()?),
            8 => Self::ReliesOn(from.u64()?),
            _ => return None,
        })
    }
}

fn push_id(kind: u8, id: u64, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&id.to_le_bytes());
}

fn encode_edits(edits: &[Edit]) -> Vec<u8> {
    let mut out = vec![VERSION];
    edits.iter().for_each(|edit| edit.encode(&mut out));
    out
}

fn decode_edits(payload: &[u8]) -> Option<Vec<Edit>> {
    let (&(1 | VERSION), rest) = payload.split_first()? else { return None };
    let mut from = Reader(rest);
    let mut edits = Vec::new();
    while !from.is_empty() {
        edits.push(Edit::read(&mut from)?);
    }
    Some(edits)
}

/// The manifest being written.
#[derive(Debug)]
pub(crate) struct Manifest {
    number: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    sealer: FileSealer,
    len: u64,
    next_ordinal: u64,
    state: State,
    /// A write failed: what the file holds is unknown.
    is_poisoned: bool,
}

impl Manifest {
    /// Begins manifest `number` with `state` and makes it the only one.
    pub(crate) fn create(dir: &Directory, number: u64, state: State) -> Result<Self, Error> {
        let disk = &dir.env.disk;
        let (path, unfinished) =
            (dir.file(FileName::Manifest(number)), dir.file(FileName::Unfinished));
        dir.remove(FileName::Unfinished)?;
        let sealer = dir.keys.create(FileKind::Manifest, number, dir.env.random.as_ref());
        let mut bytes = sealer.header().to_vec();
        // BOUND: some bytes for each segment of 64 MiB.
        seal_frame(&path, &sealer, 0, FRAME_STATE, &encode_edits(&state.edits()), &mut bytes)?;
        let file: Arc<dyn DiskFile> = dir.retry_when_full(|| disk.create(&unfinished))?.into();
        dir.retry_when_full(|| file.write_all_at(&bytes, 0))?;
        file.sync()?;
        dir.retry_when_full(|| disk.rename(&unfinished, &path))?;
        dir.retry_when_full(|| disk.sync_dir(&dir.path))?;
        let len = bytes.len() as u64;
        Ok(Self { number, path, file, sealer, len, next_ordinal: 1, state, is_poisoned: false })
    }

    /// The live files.
    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    /// Makes `edits` durable, all or none.
    pub(crate) fn edit(&mut self, dir: &Directory, edits: &[Edit]) -> Result<(), Error> {
        if self.is_poisoned {
            return Err(Error::Poisoned { file: self.path.clone() });
        }
        let mut state = self.state.clone();
        for edit in edits {
            state.apply(edit).expect("jobs edit what the manifest holds");
        }
        let mut bytes = Vec::new();
        // BOUND: some bytes for each segment of a run.
        let (ordinal, payload) = (self.next_ordinal, encode_edits(edits));
        seal_frame(&self.path, &self.sealer, ordinal, FRAME_EDIT, &payload, &mut bytes)?;
        // A failure leaves the file in an unknown state until it is replaced.
        self.is_poisoned = true;
        dir.retry_when_full(|| self.file.write_all_at(&bytes, self.len))?;
        self.file.sync()?;
        self.is_poisoned = false;
        self.len += bytes.len() as u64;
        self.next_ordinal += 1;
        self.state = state;
        if self.len > BYTES_MAX || self.data_key() != dir.keys.active() {
            let old = FileName::Manifest(self.number);
            self.is_poisoned = true;
            *self = Self::create(dir, self.number + 1, self.state.clone())?;
            // The new one counts already; the old one goes at the next start if it cannot now.
            let _stays_away = dir.remove(old).is_ok() && dir.env.disk.sync_dir(&dir.path).is_ok();
        }
        Ok(())
    }

    /// The data key that encrypts the file.
    pub(crate) const fn data_key(&self) -> DataKeyId {
        self.sealer.data_key()
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest's number.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Notes that the files of all replaced segments are gone.
    pub(crate) fn forget_removed(&mut self) {
        self.state.removed.clear();
    }

    /// Notes that the files of these replaced segments are gone, durably.
    pub(crate) fn forget(&mut self, ids: &[u64]) {
        for id in ids {
            self.state.removed.remove(id);
        }
    }

    /// Reads manifest `number`.
    pub(crate) fn load(dir: &Directory, number: u64) -> Result<State, Error> {
        let opened = dir.open(FileKind::Manifest, number, FileName::Manifest(number))?;
        let Opened { path, file, sealer, len, .. } = opened;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        let corrupt =
            |at: usize, reason| Error::Corrupt { file: path.clone(), offset: at as u64, reason };
        let mut state = State::default();
        let (mut at, mut ordinal) = (FILE_HEADER_LEN, 0);
        while at < bytes.len() {
            let frame = match sealer.open_frame(ordinal, &bytes[at..]) {
                Ok(frame) => frame,
                Err(error) if ordinal > 0 && error.is_torn() => {
                    if is_frame_behind(&sealer, &bytes, at + 1, ordinal + 1) {
                        return Err(corrupt(at, frame_reason(error)));
                    }
                    break;
                }
                Err(error) => return Err(corrupt(at, frame_reason(error))),
            };
            let is_expected = frame.kind == if ordinal == 0 { FRAME_STATE } else { FRAME_EDIT };
            let edits = decode_edits(&frame.plain).filter(|_| is_expected);
            let edits = edits.ok_or_else(|| corrupt(at, "a malformed edit"))?;
            for edit in &edits {
                state.apply(edit).ok_or_else(|| corrupt(at, "an edit that does not fit"))?;
            }
            at += frame.len;
            ordinal += 1;
        }
        if ordinal == 0 {
            return Err(corrupt(at, "the file ends inside its first frame"));
        }
        Ok(state)
    }
}

/// Whether a whole frame with ordinal `next` lies somewhere from `from` on.
fn is_frame_behind(sealer: &FileSealer, bytes: &[u8], from: usize, next: u64) -> bool {
    (from..bytes.len()).any(|at| sealer.open_frame(next, &bytes[at..]).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edits_round_trip() {
        let table = Some(FrameRef { offset: 9, len: 8, ordinal: 7 });
        let closed = Closed { id: 1, len: 5, table };
        let edits = [
            Edit::AddActive(1),
            Edit::Close(closed),
            Edit::AddClosed(Closed { id: 2, table: None, ..closed }),
            Edit::Replace { removed: vec![1, 2], added: Some(Closed { id: 3, ..closed }) },
            Edit::AddCheckpoint(4),
            Edit::AddCheckpoint(5),
            Edit::DropCheckpoint(4),
            Edit::Replace { removed: vec![3], added: None },
            Edit::Removed(9),
            Edit::ReliesOn(70),
            Edit::ReliesOn(60),
        ];
        let payload = encode_edits(&edits);
        assert_eq!(decode_edits(&payload).as_deref(), Some(edits.as_slice()));
        let mut state = State::default();
        edits.iter().for_each(|edit| state.apply(edit).unwrap());
        assert_eq!(state.checkpoints, [5]);
        assert!(state.segments.is_empty());
        assert_eq!(state.relied, Some(70));
        let mut again = State::default();
        state.edits().iter().for_each(|edit| again.apply(edit).unwrap());
        assert_eq!(again, state);
    }

    #[test]
    fn a_manifest_of_version_1_is_read_and_does_not_tell_what_rewrites_rely_on() {
        let mut payload = encode_edits(&[Edit::AddActive(3), Edit::AddCheckpoint(2)]);
        payload[0] = 1;
        let mut state = State::default();
        decode_edits(&payload).unwrap().iter().for_each(|edit| state.apply(edit).unwrap());
        assert_eq!((state.segments.len(), state.relied), (1, None));
        payload[0] = VERSION + 1;
        assert_eq!(decode_edits(&payload), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut bytes: Vec<u8>) {
            bytes.insert(0, VERSION);
            if let Some(edits) = decode_edits(&bytes) {
                let mut state = State::default();
                let _ = edits.iter().map_while(|edit| state.apply(edit)).count();
            }
        }
    }
}
