//! One segment while it is read: its frames up to its end, and the verdict on what follows it.
//!
//! A frame that does not open ends the segment. Whether that is a torn write or damage is decided
//! by what follows: frames carry a watermark of what was durable when they were written, so one
//! whose watermark covers the broken frame proves that it had been acknowledged. Without such a
//! witness, and only in the newest segment, it is a torn write.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use keepd_crypto::{
    FILE_HEADER_LEN, FRAME_HEAD_LEN, FileError, FileKeys, FileKind, FileSealer, Frame, FrameError,
};
use keepd_env::Env;
use keepd_env::mutants::{self, Mutant};

use crate::error::{Error, RecordError, Result};
use crate::record::{PreviousSegment, Record, SegmentHeader};
use crate::segment::SegmentName;
use crate::types::{SegmentPosition, SegmentSummary, TornTail};

/// A frame and where it was.
#[derive(Clone, Debug)]
pub(crate) struct PlacedRecord {
    pub(crate) offset: u64,
    pub(crate) frame: u64,
    /// The CRC32C of all frames before it.
    chain: u32,
    pub(crate) record: Record,
}

/// The frames of one file, one by one; stops at the first that does not open.
#[derive(Debug)]
pub(crate) struct FrameReader {
    path: PathBuf,
    bytes: Vec<u8>,
    sealer: FileSealer,
    end: SegmentPosition,
}

/// The frame at a [`FrameReader`]'s position.
pub(crate) enum Step {
    /// A frame.
    Frame(PlacedRecord),
    /// None that opens.
    Broken(FrameError),
}

impl FrameReader {
    /// Loads a segment and checks its header.
    pub(crate) fn open(env: &Env, dir: &Path, name: &SegmentName, keys: &FileKeys) -> Result<Self> {
        let path = name.path(dir);
        let bytes = env.disk.read(&path)?;
        match keys.open(FileKind::Wal, name.sequence, &bytes) {
            Ok(sealer) => Ok(Self { path, bytes, sealer, end: SegmentPosition::start() }),
            Err(source) => Err(header_error(path, source)),
        }
    }

    /// The next frame.
    pub(crate) fn step(&mut self) -> Result<Step> {
        let SegmentPosition { offset, frames: frame, chain } = self.end;
        let rest = self.rest();
        let opened = match self.sealer.open_frame(frame, rest) {
            Ok(opened) => opened,
            Err(error) => return Ok(Step::Broken(error)),
        };
        let end = self.end.advance(1, rest.get(..opened.len).unwrap_or(rest));
        let record = decode_frame(frame, opened);
        let record = record.map_err(|source| self.misread(offset, frame, source))?;
        self.end = end;
        Ok(Step::Frame(PlacedRecord { offset, frame, chain, record }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The data key that seals the file; 0 is none.
    pub(crate) fn data_key(&self) -> u32 {
        self.sealer.data_key().0
    }

    /// Whether the position is at a place or behind it.
    pub(crate) const fn is_behind(&self, place: SegmentPosition) -> bool {
        self.end.frames >= place.frames && self.end.offset >= place.offset
    }

    /// A cut-off write at the position.
    pub(crate) fn torn_here(&self) -> TornTail {
        let SegmentPosition { offset, frames: frame, .. } = self.end;
        TornTail { path: self.path.clone(), offset, frame }
    }

    fn rest(&self) -> &[u8] {
        let at = usize::try_from(self.end.offset).unwrap_or(usize::MAX);
        self.bytes.get(at..).unwrap_or_default()
    }

    /// Whether nothing was written at the position or behind it.
    pub(crate) fn has_nothing_more(&self) -> bool {
        self.rest().iter().all(|byte| *byte == 0)
    }

    fn misread(&self, offset: u64, frame: u64, source: RecordError) -> Error {
        Error::Record { path: self.path.clone(), offset, frame, source }
    }

    /// The frame at the position is damaged.
    pub(crate) fn corrupt(&self, source: FrameError) -> Error {
        let SegmentPosition { offset, frames: frame, .. } = self.end;
        Error::Corrupt { path: self.path.clone(), offset, frame, source }
    }

    /// Judges the broken frame at the position: `None` if nothing was written there, a torn tail,
    /// or an error if the frame had been acknowledged.
    pub(crate) fn judge(&self, error: FrameError) -> Result<Option<TornTail>> {
        // A whole frame with the wrong number or seal was moved or tampered with, not torn.
        if !error.is_torn() {
            return Err(self.corrupt(error));
        }
        if self.has_nothing_more() {
            return Ok(None);
        }
        let rest = self.rest();
        if mutants::is_active(Mutant::TruncateOnDamage) {
            return Ok(Some(self.torn_here()));
        }
        let mut position = 0;
        while let Some(candidate) = rest.get(position..) {
            let Some(head) = candidate.first_chunk::<FRAME_HEAD_LEN>() else { break };
            if u128::from_le_bytes(*head) == 0 {
                // The longest step that misses no frame: a head may begin with three zeros.
                position += FRAME_HEAD_LEN - 3;
                continue;
            }
            let Some(len) = self.witness(head, candidate, error)? else {
                position += 1;
                continue;
            };
            position += len;
        }
        Ok(Some(self.torn_here()))
    }

    /// The length of the whole frame at the start of `candidate`, if there is one; an error if it
    /// proves that the broken frame had been acknowledged.
    fn witness(
        &self,
        head: &[u8; FRAME_HEAD_LEN],
        candidate: &[u8],
        error: FrameError,
    ) -> Result<Option<usize>> {
        let [.., a, b, c, d] = *head;
        // BOUND: a segment is far too short for 2^32 frames, so the low half is the ordinal.
        let ordinal = u64::from(u32::from_le_bytes([a, b, c, d]));
        if ordinal > self.end.frames.saturating_add(self.frames_possible()) {
            return Ok(None);
        }
        let Ok(opened) = self.sealer.open_frame(ordinal, candidate) else { return Ok(None) };
        let record = Record::decode(opened.kind, &Bytes::from(opened.plain));
        // A frame of this file at a place that is not its own was moved, not torn.
        let is_displaced = ordinal <= self.end.frames;
        let is_witness = record.map_or(true, |record| record.watermark().frames > self.end.frames);
        if is_displaced || is_witness { Err(self.corrupt(error)) } else { Ok(Some(opened.len)) }
    }

    fn frames_possible(&self) -> u64 {
        u64::try_from(self.rest().len() / FRAME_HEAD_LEN).unwrap_or(u64::MAX)
    }
}

/// The record of a frame: a segment's header in its first one, and nowhere else.
pub(crate) fn decode_frame(ordinal: u64, frame: Frame) -> Result<Record, RecordError> {
    let record = Record::decode(frame.kind, &Bytes::from(frame.plain))?;
    let is_head = matches!(record, Record::Head(_));
    if (ordinal == 0) == is_head { Ok(record) } else { Err(RecordError::MisplacedHead) }
}

/// The error of a segment whose header does not open.
pub(crate) fn header_error(path: PathBuf, source: FileError) -> Error {
    match source {
        FileError::UnknownDataKey { .. }
        | FileError::PlainRefused
        | FileError::PlainUntrusted
        | FileError::UnsupportedVersion { .. } => Error::Unreadable { path, source },
        _ => Error::Header { path, source },
    }
}

/// A whole segment.
pub(crate) struct SegmentRecords {
    pub(crate) name: SegmentName,
    pub(crate) summary: SegmentSummary,
    pub(crate) header: [u8; FILE_HEADER_LEN],
    pub(crate) head: SegmentHeader,
    /// The records after the header.
    pub(crate) records: Vec<PlacedRecord>,
    pub(crate) end: SegmentPosition,
    pub(crate) torn_tail: Option<TornTail>,
}

impl SegmentRecords {
    /// Takes the records away that no later frame says were durable: they were read, but the
    /// process that wrote them may have died before their sync, or of its failure. The segment then
    /// ends in front of them.
    pub(crate) fn take_unproven(&mut self) -> Vec<PlacedRecord> {
        let proven = self.records.iter().map(|placed| placed.record.watermark().frames).max();
        // The header frame was durable before the segment had its name.
        let proven = proven.unwrap_or_default().max(1);
        let first = self.records.partition_point(|placed| placed.frame < proven);
        let unproven = self.records.split_off(first);
        if let Some(&PlacedRecord { offset, frame, chain, .. }) = unproven.first() {
            self.end = SegmentPosition { frames: frame, offset, chain };
        }
        unproven
    }
}

/// Reads a segment: up to the end that its successor recorded, or the newest one up to where it
/// was torn.
pub(crate) fn read_segment(
    env: &Env,
    dir: &Path,
    name: &SegmentName,
    keys: &FileKeys,
    successor: Option<(&PreviousSegment, &Path)>,
) -> Result<SegmentRecords> {
    let mut reader = FrameReader::open(env, dir, name, keys)?;
    let limit = successor.map(|(link, _)| link.end);
    let wrong = |reader: &FrameReader| {
        successor.map(|(_, next)| Error::WrongSegment {
            path: reader.path.clone(),
            next: next.to_owned(),
        })
    };
    if successor.is_some_and(|(link, _)| link.header != reader.sealer.header()) {
        return Err(wrong(&reader).expect("there is a successor"));
    }
    let mut records = Vec::new();
    let mut torn_tail = None;
    while limit.is_none_or(|limit| reader.end.frames < limit.frames) {
        match reader.step()? {
            Step::Frame(record) => records.push(record),
            // The header frame was durable before the segment had its name.
            Step::Broken(error) if limit.is_some() || records.is_empty() => {
                return Err(reader.corrupt(error));
            }
            Step::Broken(error) => {
                torn_tail = reader.judge(error)?;
                break;
            }
        }
    }
    if let Some(error) = wrong(&reader).filter(|_| limit != Some(reader.end)) {
        return Err(error);
    }
    let len = u64::try_from(reader.bytes.len()).unwrap_or(u64::MAX);
    let expected = records.iter().map(|placed| placed.record.watermark().len).max().unwrap_or(0);
    if limit.is_none() && len < expected {
        return Err(Error::Shortened { path: reader.path, len, expected });
    }
    let first = (!records.is_empty()).then(|| records.remove(0));
    let Some(PlacedRecord { record: Record::Head(head), .. }) = first else {
        return Err(reader.corrupt(FrameError::Truncated { needed: FRAME_HEAD_LEN, found: 0 }));
    };
    if head.first_index != name.first_index {
        return Err(reader.misread(SegmentPosition::start().offset, 0, RecordError::Contradiction));
    }
    let summary = SegmentSummary {
        path: reader.path,
        sequence: name.sequence,
        first_index: name.first_index,
        bytes: len,
        data_key: reader.sealer.data_key().0,
    };
    let (header, end) = (reader.sealer.header(), reader.end);
    let head = *head;
    Ok(SegmentRecords { name: name.clone(), summary, header, head, records, end, torn_tail })
}
