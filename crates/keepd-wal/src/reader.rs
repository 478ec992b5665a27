//! Entries read back while the log is written, from another thread.
//!
//! The writer says after each sync which part of which segment is durable, and of what term each
//! entry is. An entry that was replaced is still in the files: index and term together name the one
//! that counts. Reading goes forward from the newest segment that was begun when the first entry
//! wanted did not exist, or from where an earlier page ended.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use keepd_crypto::{FILE_HEADER_LEN, FRAME_HEAD_LEN, FileKeys, FileKind, FileSealer, FrameError};
use keepd_env::{DiskFile, Env};
use keepd_types::{Entry, TermRuns};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::log::LogShape;
use crate::record::{ENTRY_OVERHEAD, Record};
use crate::segment::{SegmentName, Span};
use crate::segment_reader::{decode_frame, header_error};
use crate::types::{LogStart, SegmentPosition};

/// BOUND: pages that can be continued without reading their segment from its beginning.
const PLACES_MAX: usize = 16;
/// Bytes that are read from the disk at once.
const READ_BYTES: u64 = 256 * 1024;

/// The durable part of the log.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    start: LogStart,
    next_index: u64,
    terms: TermRuns,
    /// Oldest first; the last one is being written.
    spans: Vec<Span>,
}

impl Durable {
    pub(crate) fn new(shape: &LogShape, spans: Vec<Span>) -> Self {
        let LogShape { start, next_index, .. } = *shape;
        Self { start, next_index, terms: shape.terms().clone(), spans }
    }

    /// Takes over a log that was just synced.
    pub(crate) fn update(&mut self, shape: &LogShape, active: Span) {
        self.start = shape.start;
        self.next_index = shape.next_index;
        self.terms.copy_from(shape.terms());
        match self.spans.last_mut() {
            Some(last) if last.name == active.name => last.end = active.end,
            last => {
                assert!(last.is_none_or(|last| last.name < active.name), "segments are in order");
                self.spans.push(active);
            }
        }
    }

    /// Forgets the segments before one: their files go now.
    pub(crate) fn forget_before(&mut self, sequence: u64) {
        self.spans.retain(|span| span.name.sequence >= sequence);
        assert!(!self.spans.is_empty(), "the active segment stays");
    }

    /// The newest segment that was begun when the log did not have `index` yet: the entry is there
    /// or behind.
    fn first_span(&self, index: u64) -> Option<&Span> {
        self.spans.iter().rev().find(|span| span.name.first_index <= index)
    }
}

/// The entries that a [`WalReader`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Entries from the first index wanted on, without a gap; none if the log ends before.
    Entries(Vec<Entry>),
    /// The log starts behind the first index wanted.
    Compacted,
}

/// Reads the durable part of a log that is being written.
#[derive(Debug)]
pub struct WalReader {
    env: Env,
    dir: PathBuf,
    keys: FileKeys,
    durable: Arc<Mutex<Durable>>,
    /// Ends of earlier pages, the oldest first. BOUND: `PLACES_MAX`.
    places: VecDeque<Place>,
}

/// All entries from `next` on are at this place or behind it.
#[derive(Clone, Debug)]
struct Place {
    next: u64,
    name: SegmentName,
    at: SegmentPosition,
}

impl WalReader {
    pub(crate) fn new(
        env: Env,
        dir: PathBuf,
        keys: FileKeys,
        durable: Arc<Mutex<Durable>>,
    ) -> Self {
        Self { env, dir, keys, durable, places: VecDeque::new() }
    }

    /// Reads entries of a range: until `bytes_max` bytes, but at least one.
    ///
    /// # Errors
    /// If a file cannot be read or is damaged.
    pub fn read(&mut self, range: Range<u64>, bytes_max: usize) -> Result<Page> {
        let durable = self.durable.lock().clone();
        match self.read_from(&durable, range.clone(), bytes_max) {
            // Its file went meanwhile.
            Err(Error::Io(error)) if error.is_not_found() && self.is_compacted(range.start) => {
                Ok(Page::Compacted)
            }
            read => read,
        }
    }

    fn is_compacted(&self, index: u64) -> bool {
        self.durable.lock().start.index >= index
    }

    fn read_from(
        &mut self,
        durable: &Durable,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Page> {
        let low = range.start;
        if low <= durable.start.index {
            return Ok(Page::Compacted);
        }
        let end = range.end.min(durable.next_index);
        if low >= end {
            return Ok(Page::Entries(Vec::new()));
        }
        let mut wanted = Wanted {
            terms: &durable.terms,
            end,
            next: low,
            bytes_left: bytes_max,
            entries: Vec::new(),
        };
        let mut from = self.take_place(durable, low).ok_or(Error::MissingEntry { index: low })?;
        let first = from.name.sequence;
        let behind = |span: &&Span| span.name.sequence >= first;
        for span in durable.spans.iter().filter(behind) {
            if wanted.is_done() {
                break;
            }
            let is_first = span.name.sequence == first;
            let at = if is_first { from.at } else { SegmentPosition::start() };
            let mut scan = Scan::open(self, span, at)?;
            while !wanted.is_done() {
                from = Place { next: wanted.next, name: span.name.clone(), at: scan.at };
                let Some(record) = scan.step()? else { break };
                if let Record::Batch(batch) = record {
                    wanted.take(batch.entries);
                    from.next = wanted.next;
                }
            }
        }
        if !wanted.is_done() {
            return Err(Error::MissingEntry { index: wanted.next });
        }
        assert!(!wanted.entries.is_empty(), "a page has an entry");
        self.places.push_back(from);
        if self.places.len() > PLACES_MAX {
            self.places.pop_front();
        }
        Ok(Page::Entries(wanted.entries))
    }

    /// The furthest place in front of the entry `low`. One where a page ended is used up, because
    /// this page will end at another.
    fn take_place(&mut self, durable: &Durable, low: u64) -> Option<Place> {
        let first = durable.first_span(low)?;
        self.places.retain(|place| durable.spans.iter().any(|span| span.name == place.name));
        let order = |place: &Place| (place.name.sequence, place.at.frames);
        let earlier = self.places.iter().filter(|place| place.next <= low);
        let earlier = earlier.max_by_key(|place| order(place));
        let start = Place { next: low, name: first.name.clone(), at: SegmentPosition::start() };
        let place = earlier.filter(|place| order(place) >= order(&start)).unwrap_or(&start).clone();
        self.places.retain(|other| other.next != low);
        Some(place)
    }
}

/// The entries that are gathered for a page.
struct Wanted<'a> {
    terms: &'a TermRuns,
    end: u64,
    next: u64,
    bytes_left: usize,
    entries: Vec<Entry>,
}

impl Wanted<'_> {
    fn is_done(&self) -> bool {
        self.next >= self.end || (self.bytes_left == 0 && !self.entries.is_empty())
    }

    /// Takes those of a batch that are next and count.
    fn take(&mut self, batch: Vec<Entry>) {
        for entry in batch {
            if entry.index != self.next || self.terms.term(entry.index) != Some(entry.term) {
                continue;
            }
            let len = entry.data.len() + ENTRY_OVERHEAD;
            if self.is_done() || (len > self.bytes_left && !self.entries.is_empty()) {
                self.bytes_left = 0;
                return;
            }
            self.bytes_left = self.bytes_left.saturating_sub(len);
            self.next += 1;
            self.entries.push(entry);
        }
    }
}

/// The durable frames of a segment, from a place on.
struct Scan {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    sealer: FileSealer,
    at: SegmentPosition,
    end: SegmentPosition,
    /// Bytes of the file from `at` on.
    ahead: Vec<u8>,
    /// The number of them that are in front of `at`.
    used: usize,
}

impl Scan {
    fn open(reader: &WalReader, span: &Span, at: SegmentPosition) -> Result<Self> {
        let path = span.name.path(&reader.dir);
        let file = reader.env.disk.open(&path)?;
        let mut header = [0; FILE_HEADER_LEN];
        file.read_exact_at(&mut header, 0)?;
        let sealer = match reader.keys.open(FileKind::Wal, span.name.sequence, &header) {
            Ok(sealer) => sealer,
            Err(source) => return Err(header_error(path, source)),
        };
        Ok(Self { path, file, sealer, at, end: span.end, ahead: Vec::new(), used: 0 })
    }

    /// The next frame's record; `None` at the end.
    fn step(&mut self) -> Result<Option<Record>> {
        if self.at.frames >= self.end.frames {
            return if self.at == self.end {
                Ok(None)
            } else {
                Err(self.corrupt(FrameError::BadCrc))
            };
        }
        let mut opened = self.sealer.open_frame(self.at.frames, self.rest());
        if let Err(FrameError::Truncated { needed, .. }) = opened {
            self.load(needed)?;
            opened = self.sealer.open_frame(self.at.frames, self.rest());
        }
        if let Err(FrameError::Truncated { needed, .. }) = opened {
            // The head is here now, and says how much follows.
            self.load(needed)?;
            opened = self.sealer.open_frame(self.at.frames, self.rest());
        }
        let frame = opened.map_err(|source| self.corrupt(source))?;
        let (len, at) = (frame.len, self.at);
        let record = decode_frame(at.frames, frame).map_err(|source| Error::Record {
            path: self.path.clone(),
            offset: at.offset,
            frame: at.frames,
            source,
        })?;
        self.at = at.advance(1, self.rest().get(..len).unwrap_or_default());
        self.used += len;
        Ok(Some(record))
    }

    fn rest(&self) -> &[u8] {
        self.ahead.get(self.used..).unwrap_or_default()
    }

    /// Reads ahead, at least a number of bytes, as far as they are durable.
    fn load(&mut self, needed: usize) -> Result<()> {
        let needed = u64::try_from(needed.max(FRAME_HEAD_LEN)).unwrap_or(u64::MAX);
        let durable = self.end.offset.saturating_sub(self.at.offset);
        let len = usize::try_from(needed.max(READ_BYTES).min(durable)).unwrap_or(usize::MAX);
        self.used = 0;
        self.ahead.resize(len, 0);
        Ok(self.file.read_exact_at(&mut self.ahead, self.at.offset)?)
    }

    fn corrupt(&self, source: FrameError) -> Error {
        let SegmentPosition { offset, frames: frame, .. } = self.at;
        Error::Corrupt { path: self.path.clone(), offset, frame, source }
    }
}
