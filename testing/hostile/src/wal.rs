//! A whole directory of the write-ahead log (`docs/formats/wal.md`).
//!
//! What opens is appended to and read back.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use keepd_crypto::{FILE_HEADER_LEN, FileKeys, FileKind};
use keepd_env::{Env, SimDisk};
use keepd_types::varint;
use keepd_wal::{Batch, Dump, Entry, EntryKind, HardState, LogStart, Options, Recovered, Wal};

use crate::files::{self, Content, File, Frame, Name};
use crate::varints;

const DIR: &str = "/wal";
const KIND_HEAD: u8 = 1;
/// A segment is no shorter than what its head says was reserved.
const RESERVED_LEN: usize = 640;
/// The numbers of a head before its link: reserved length, first index, start of the log, hard state.
const HEAD_NUMBERS: usize = 7;
/// Small, so that a short log has many segments and frames.
const SMALL: Options = Options { segment_bytes: 600, reserve_bytes: 300, frame_bytes: 100 };

/// Opens a log whose directory holds these files.
pub fn wal(bytes: &[u8]) {
    let (choice, mut files) = files::read(bytes);
    let keys = files::keys(choice);
    let (env, disk, _clock) = Env::simulated(6);
    env.disk.create_dir(Path::new(DIR)).expect("nothing is there");
    // A link names the segment before: that one is made first.
    files.sort_by_key(|file| file.name);
    let mut segments = BTreeMap::new();
    for File { name, content } in files {
        let (sequence, file_name) = place(name);
        let segment = match content {
            Content::Raw(bytes) => Segment { bytes, ends: Vec::new() },
            Content::Frames(frames) => Segment::of(&keys, sequence, frames, &segments),
        };
        disk.poke(&Path::new(DIR).join(file_name), &segment.bytes);
        segments.insert(sequence, segment);
    }
    if let Ok(dump) = Dump::new(env.clone(), Path::new(DIR), keys.clone()) {
        // BOUND: a dump ends with the frames of its files, or with the first that is damaged.
        dump.take_while(Result::is_ok).for_each(drop);
    }
    open_and_append(&env, &keys);
}

/// A segment's number and file name.
fn place([sequence, first_index, form]: Name) -> (u64, String) {
    let end = if form.is_multiple_of(2) { "wal" } else { "wal.tmp" };
    (u64::from(sequence), format!("{sequence:016x}-{first_index:016x}.{end}"))
}

struct Segment {
    bytes: Vec<u8>,
    /// Where its frames end; not known if it lies there as the input says.
    ends: Vec<usize>,
}

impl Segment {
    fn of(
        keys: &FileKeys,
        sequence: u64,
        mut frames: Vec<Frame>,
        before: &BTreeMap<u64, Self>,
    ) -> Self {
        if let Some((KIND_HEAD, head)) = frames.first_mut()
            && let Some(linked) = linked(head, before)
        {
            *head = linked;
        }
        let sealer = files::sealer(keys, FileKind::Wal, sequence);
        let (mut bytes, ends) = files::sealed(&sealer, &frames);
        bytes.resize(bytes.len().max(RESERVED_LEN), 0);
        Self { bytes, ends }
    }

    /// Where the first `frames` frames end, and their checksum.
    fn end(&self, frames: u64) -> Option<(u64, u32)> {
        let last = usize::try_from(frames).ok()?.checked_sub(1)?;
        let end = *self.ends.get(last)?;
        Some((end as u64, crc32c::crc32c(self.bytes.get(FILE_HEADER_LEN..end)?)))
    }
}

/// A head whose link describes the segment that it names; `None` if it names none that is there.
fn linked(head: &[u8], segments: &BTreeMap<u64, Segment>) -> Option<Vec<u8>> {
    let link_at = 1 + varints::len_of(HEAD_NUMBERS, head.get(1..)?)?;
    let (front, link) = head.split_at_checked(link_at)?;
    let (&1, mut rest) = link.split_first()? else { return None };
    let sequence = varint::read_u64(&mut rest)?;
    let (_, mut rest) = rest.split_first_chunk::<FILE_HEADER_LEN>()?;
    let (frames, _offset) = (varint::read_u64(&mut rest)?, varint::read_u64(&mut rest)?);
    let (_, metadata) = rest.split_first_chunk::<4>()?;
    let segment = segments.get(&sequence)?;
    let (offset, chain) = segment.end(frames)?;
    let mut out = front.to_vec();
    out.push(1);
    varint::write_u64(sequence, &mut out);
    out.extend_from_slice(segment.bytes.get(..FILE_HEADER_LEN)?);
    varint::write_u64(frames, &mut out);
    varint::write_u64(offset, &mut out);
    out.extend_from_slice(&chain.to_le_bytes());
    out.extend_from_slice(metadata);
    Some(out)
}

/// Opens the log, appends to it, and reads back what it held and what was appended.
fn open_and_append(env: &Env, keys: &FileKeys) {
    let dir = Path::new(DIR);
    if let Err(error) = Wal::read(env, dir, keys) {
        let _told = error.to_string();
    }
    let (mut wal, mut expected) = match Wal::open_with(env.clone(), dir, keys.clone(), SMALL) {
        Ok(opened) => opened,
        Err(error) => {
            let _told = error.to_string();
            return;
        }
    };
    let read = || Wal::read(env, dir, keys).expect("a log that was opened");
    assert_eq!(state(&read()), state(&expected), "opened");
    let last = expected.entries.last().map(|entry| (entry.index, entry.term));
    let (index, term) = last.unwrap_or((expected.start.index, expected.start.term));
    let Some(index) = index.checked_add(1).filter(|index| *index < u64::MAX) else { return };
    let data = Bytes::from_static(b"appended");
    let entries = [Entry { index, term, kind: EntryKind::Normal, data }];
    wal.append(&Batch { entries: &entries, hard_state: None }).expect("the disk is whole");
    wal.sync().expect("the disk is whole");
    expected.entries.extend(entries);
    assert_eq!(state(&read()), state(&expected), "appended");
    wal.close().expect("the disk is whole");
    assert_eq!(state(&read()), state(&expected), "closed");
}

/// What a log holds, however it ends.
fn state(log: &Recovered) -> (&Bytes, LogStart, HardState, &[Entry]) {
    (&log.metadata, log.start, log.hard_state, &log.entries)
}

/// Logs of one segment and of several, running and closed, plain and sealed.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    let mut inputs = vec![Vec::new()];
    for choice in [0, 1] {
        for (steps, is_closed) in [(1, false), (6, false), (6, true), (12, false)] {
            let disk = written(&files::keys(choice), steps, is_closed);
            for raw in [false, true] {
                inputs.push(input_of(choice, &disk, raw));
            }
        }
    }
    inputs
}

fn written(keys: &FileKeys, steps: u64, is_closed: bool) -> SimDisk {
    const WHOLE: &str = "the disk is whole";
    let (env, disk, _clock) = Env::simulated(7);
    let (dir, start) = (Path::new(DIR), LogStart { index: 1, term: 1 });
    let mut wal = Wal::create_with(env.clone(), dir, keys.clone(), SMALL, b"metadata", start);
    for step in 0..steps {
        let log = wal.as_mut().expect(WHOLE);
        let (index, term) = (2 + step, 1 + step / 4);
        let kind = EntryKind::from_number(u8::try_from(step % 3).expect("small")).expect("known");
        let entries = [Entry { index, term, kind, data: vec![7; 60].into() }];
        let hard_state = Some(HardState { term, vote: 9, commit: index - 1 });
        log.append(&Batch { entries: &entries, hard_state }).expect(WHOLE);
        log.sync().expect(WHOLE);
        if step == 8 {
            log.release(5, 1).expect(WHOLE);
        }
        if step == 4 {
            // As after a crash.
            wal = Wal::open_with(env.clone(), dir, keys.clone(), SMALL).map(|(log, _)| log);
        }
    }
    if is_closed {
        wal.expect(WHOLE).close().expect(WHOLE);
    }
    disk
}

fn input_of(choice: u8, disk: &SimDisk, raw: bool) -> Vec<u8> {
    let mut list = Vec::new();
    for path in disk.files() {
        let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = |digits: Option<&str>| {
            digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).expect("few segments")
        };
        let name = [number(file_name.get(..16)), number(file_name.get(17..33)), 0];
        let bytes = disk.peek(&path).expect("it was listed");
        let content = if raw {
            Content::Raw(bytes)
        } else {
            let id = u64::from(name[0]);
            Content::Frames(files::opened(&files::keys(choice), FileKind::Wal, id, &bytes))
        };
        list.push(File { name, content });
    }
    files::write(choice, &list)
}
