//! Reading a segment's frames one by one: what a crash left of the active segment, and segments that
//! never got a table.
//!
//! The segment ends with its last commit. A frame that is broken after it was being written when
//! the power went and is dropped, unless a later flush built on it: then it had been synced, and the
//! file is damaged.

use std::sync::Arc;

use keepd_crypto::{FILE_HEADER_LEN, FileSealer, FrameError};

use crate::error::{Error, frame_reason};
use crate::revlog::block::Block;
use crate::revlog::directory::Opened;
use crate::revlog::format::{
    BlockIndex, BlockRef, FlushCommit, FrameRef, Origin, frame_kind, u32_of,
};
use crate::revlog::manifest::Closed;
use crate::revlog::segment::Segment;

/// Ways in which a file may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Anywhere after a commit.
    Torn,
    /// Exactly with a commit.
    Exact,
    /// Anywhere: the file is damaged, and what is whole before is wanted.
    Damaged,
}

/// The frames of one file, as far as they were read.
struct Scan<'a> {
    opened: &'a Opened,
    bytes: Vec<u8>,
    at: usize,
    next_ordinal: u32,
    hash: u32,
    records: u64,
    /// The frames that the last commit covers.
    table: BlockIndex,
    /// The frames that were read after it.
    fresh: BlockIndex,
    /// The offset at which the last commit ends.
    end: usize,
    /// The parts of the table that were read.
    parts: (Vec<FrameRef>, Vec<u8>),
    /// The frames that the commit before that covers, and the offset at which it ends.
    before: (BlockIndex, usize),
}

/// A segment that grew until a process ended, up to its last commit.
#[derive(Debug)]
pub(crate) struct Grown {
    pub(crate) segment: Segment,
    pub(crate) closed: Closed,
    /// The segment without its last flush; `None` if that was its first.
    pub(crate) before: Option<Before>,
}

/// A segment as it was before its last flush.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    pub(crate) table: BlockIndex,
    pub(crate) len: u64,
}

/// Reads a segment up to its last commit; `None` if there is no commit.
pub(crate) fn scan(id: u64, opened: Opened, len: u64, end: End) -> Result<Option<Grown>, Error> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    opened.file.read_exact_at(&mut bytes, 0)?;
    let mut scan = Scan {
        opened: &opened,
        bytes,
        at: FILE_HEADER_LEN,
        next_ordinal: 0,
        hash: 0,
        records: 0,
        table: BlockIndex::new(Origin::Flush),
        fresh: BlockIndex::new(Origin::Flush),
        end: FILE_HEADER_LEN,
        parts: Default::default(),
        before: (BlockIndex::new(Origin::Flush), FILE_HEADER_LEN),
    };
    let closing = match scan.run(end) {
        Err(_damage) if end == End::Damaged => None,
        closing => closing?,
    };
    let (table, end_at, (before, len_before)) = (scan.table, scan.end as u64, scan.before);
    if table.commit == FlushCommit::NONE {
        return Ok(None);
    }
    let len = closing.map_or(end_at, |frame| frame.end());
    let closed = Closed { id, len, table: closing };
    let segment = Segment {
        id,
        path: opened.path,
        file: opened.file,
        sealer: Arc::new(opened.sealer),
        first: table.first(),
        table,
        len,
        damages: opened.damages,
    };
    let before = Before { table: before, len: len_before as u64 };
    let before = Some(before).filter(|before| before.table.commit != FlushCommit::NONE);
    Ok(Some(Grown { segment, closed, before }))
}

/// The last commit whose frame is whole, wherever it lies.
pub(crate) fn last_commit(opened: &Opened) -> Option<FlushCommit> {
    let mut bytes = vec![0; usize::try_from(opened.len).ok()?];
    opened.file.read_exact_at(&mut bytes, 0).ok()?;
    commits(&opened.sealer, bytes.get(FILE_HEADER_LEN..)?).max_by_key(|it| it.applied.index)
}

/// Every commit in `bytes` whose frame is whole.
fn commits(sealer: &FileSealer, bytes: &[u8]) -> impl Iterator<Item = FlushCommit> {
    let heads = bytes.windows(sealer.frame_len(FlushCommit::LEN));
    heads.filter(|bytes| bytes[4] == frame_kind::COMMIT).filter_map(|bytes| {
        // The head ends with the low half of the ordinal, which is all of it here.
        let ordinal = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        let frame = sealer.open_frame(u64::from(ordinal), bytes).ok()?;
        FlushCommit::decode(&frame.plain)
    })
}

impl Scan<'_> {
    fn corrupt(&self, reason: &'static str) -> Error {
        let (file, offset) = (self.opened.path.clone(), self.at as u64);
        Error::Corrupt { file, offset, reason }
    }

    /// Reads all frames; returns the table's if there is one.
    fn run(&mut self, end: End) -> Result<Option<FrameRef>, Error> {
        let mut closing = None;
        while self.at < self.bytes.len() && closing.is_none() {
            let rest = &self.bytes[self.at..];
            let frame = match self.opened.sealer.open_frame(u64::from(self.next_ordinal), rest) {
                Ok(frame) => frame,
                Err(error) => {
                    self.check_torn(end, error)?;
                    return Ok(None);
                }
            };
            let at = FrameRef {
                offset: self.at as u64,
                len: u32_of(frame.len),
                ordinal: self.next_ordinal,
            };
            closing = self.frame(at, frame.kind, frame.plain)?;
            self.at += frame.len;
            if frame.kind == frame_kind::COMMIT {
                self.end = self.at;
            }
        }
        if self.next_ordinal == 0 {
            return Err(self.corrupt("the file ends before its head"));
        }
        if end == End::Exact && closing.is_none() && self.end != self.bytes.len() {
            return Err(self.corrupt("a complete segment that does not end with a commit"));
        }
        Ok(closing)
    }

    /// Decides whether a broken frame was being written when the power went.
    fn check_torn(&self, end: End, error: FrameError) -> Result<(), Error> {
        // The head was synced before the manifest named the file.
        let may_be_torn = end == End::Torn && self.next_ordinal > 0 && error.is_torn();
        if !may_be_torn || self.is_built_upon() {
            return Err(self.corrupt(frame_reason(error)));
        }
        Ok(())
    }

    /// Whether a commit of a later flush lies after the broken frame.
    fn is_built_upon(&self) -> bool {
        let mut behind = commits(&self.opened.sealer, &self.bytes[self.at..]);
        behind.any(|commit| commit.first_ordinal > u64::from(self.next_ordinal))
    }

    /// Takes in one frame; returns it if it is the table.
    fn frame(&mut self, at: FrameRef, kind: u8, plain: Vec<u8>) -> Result<Option<FrameRef>, Error> {
        let hash = crc32c::crc32c_append(crc32c::crc32c_append(self.hash, &[kind]), &plain);
        let is_head = self.next_ordinal == 0;
        if is_head != (kind == frame_kind::HEAD) {
            return Err(self.corrupt("the head is not the first frame"));
        }
        match kind {
            frame_kind::HEAD => {
                let origin = Origin::decode(&plain);
                let origin = origin.ok_or_else(|| self.corrupt("an unknown format version"))?;
                (self.table.origin, self.fresh.origin) = (origin, origin);
            }
            frame_kind::BLOCK => self.block(at, plain)?,
            frame_kind::META => self.fresh.metas.push(at),
            frame_kind::COMMIT => self.commit(&plain)?,
            frame_kind::TABLE_PART => {
                self.parts.0.push(at);
                self.parts.1.extend(plain);
            }
            frame_kind::TABLE => {
                let (frames, parts) = &self.parts;
                let is_parted = BlockIndex::decode_parts(&plain).is_some_and(|it| it == *frames);
                let payload = if is_parted { parts } else { &plain };
                if BlockIndex::decode(payload).as_ref() != Some(&self.table) {
                    return Err(self.corrupt("a table that does not fit its segment"));
                }
                return Ok(Some(at));
            }
            _ => return Err(self.corrupt("a frame of an unknown kind")),
        }
        self.hash = hash;
        self.next_ordinal += 1;
        Ok(None)
    }

    fn block(&mut self, at: FrameRef, plain: Vec<u8>) -> Result<(), Error> {
        let ends = Block::parse(plain).filter(Block::is_ascending).and_then(|block| {
            let last = block.entry(block.count() - 1)?;
            Some((block.entry(0)?.change.revision, last.change.revision, block.count()))
        });
        let (first, last, count) = ends.ok_or_else(|| self.corrupt("a malformed block"))?;
        let is_behind_last = self.fresh.blocks.is_empty() || first > self.fresh.last;
        if !is_behind_last || first.main < self.table.commit.revision {
            return Err(self.corrupt("records out of order"));
        }
        self.fresh.blocks.push(BlockRef { first, frame: at });
        self.fresh.last = last;
        self.records += count as u64;
        Ok(())
    }

    fn commit(&mut self, plain: &[u8]) -> Result<(), Error> {
        let commit = FlushCommit::decode(plain);
        let commit = commit.filter(|it| it.hash == self.hash && it.records == self.records);
        let commit = commit.ok_or_else(|| self.corrupt("a commit that does not fit its frames"))?;
        let is_behind_records =
            self.fresh.blocks.is_empty() || self.fresh.last.main <= commit.revision;
        if !commit.may_follow(&self.table.commit) || !is_behind_records {
            return Err(self.corrupt("a commit that goes back"));
        }
        self.fresh.commit = commit;
        self.before = (std::mem::replace(&mut self.table, self.fresh.clone()), self.end);
        Ok(())
    }
}
