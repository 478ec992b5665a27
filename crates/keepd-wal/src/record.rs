//! Content of a segment's frames. The layout is in `docs/formats/wal.md`.
//!
//! Numbers are base-128 varints; the frame itself carries kind, length and checksum. Decoding
//! trusts nothing, although only frames whose checksum (and seal) matched come here: a program
//! older than the file must find out.

use bytes::Bytes;
use keepd_crypto::FILE_HEADER_LEN;
use keepd_types::varint::{read_u64, write_u64};
use keepd_types::{Entry, EntryKind, HardState};

use crate::error::RecordError;
use crate::types::{LogStart, SegmentPosition};

/// The version of the payloads, in each segment's header frame.
const FORMAT_VERSION: u8 = 1;
/// A batch's flag: a hard state is present.
const HAS_HARD_STATE: u8 = 1;

pub(crate) const KIND_HEAD: u8 = 1;
pub(crate) const KIND_BATCH: u8 = 2;
pub(crate) const KIND_START: u8 = 3;
pub(crate) const KIND_CLOSED: u8 = 4;

/// The durable part of a segment when a frame was written. A damaged frame in front of one
/// whose watermark covers it was acknowledged, and is not a torn write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    /// The number of frames.
    pub frames: u64,
    /// The file's length.
    pub len: u64,
}

/// The first frame of a segment: everything that a log which starts here must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The file's length before the segment got its name.
    pub reserved: u64,
    /// The index that follows the log's last one.
    pub first_index: u64,
    /// The start of the log.
    pub start: LogStart,
    /// The hard state.
    pub hard_state: HardState,
    /// The segment that this one continues.
    pub previous: Option<PreviousSegment>,
    /// Metadata given at the log's creation.
    pub metadata: Bytes,
}

/// The segment that is continued, and its valid end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousSegment {
    /// Its number.
    pub sequence: u64,
    /// Its header: the salt in it names the file as no other.
    pub header: [u8; FILE_HEADER_LEN],
    /// Its end.
    pub end: SegmentPosition,
}

/// Entries and hard state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRecord {
    /// The durable part of the segment before this frame.
    pub watermark: Watermark,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// A new start of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartRecord {
    /// The durable part of the segment before this frame.
    pub watermark: Watermark,
    /// The new start of the log.
    pub start: LogStart,
    /// The index that follows the log's last one now; the one after the start if the log was
    /// dropped.
    pub next_index: u64,
}

/// A frame's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The segment's beginning.
    Head(Box<SegmentHeader>),
    /// Entries and hard state.
    Batch(BatchRecord),
    /// A new start of the log.
    Start(StartRecord),
    /// An orderly end: everything before it was durable.
    Closed(Watermark),
}

impl Record {
    /// The durable part of the segment when the frame was written.
    #[must_use]
    pub const fn watermark(&self) -> Watermark {
        match self {
            Self::Head(head) => Watermark { frames: 0, len: head.reserved },
            Self::Batch(batch) => batch.watermark,
            Self::Start(start) => start.watermark,
            Self::Closed(watermark) => *watermark,
        }
    }

    /// Reads a frame's payload.
    pub(crate) fn decode(kind: u8, payload: &Bytes) -> Result<Self, RecordError> {
        let mut fields = Fields { rest: payload, whole: payload };
        let record = match kind {
            KIND_HEAD => Self::Head(Box::new(fields.head()?)),
            KIND_BATCH => Self::Batch(fields.batch()?),
            KIND_START => Self::Start(StartRecord {
                watermark: fields.watermark()?,
                start: fields.log_start()?,
                next_index: fields.number()?,
            }),
            KIND_CLOSED => Self::Closed(fields.watermark()?),
            unknown => return Err(RecordError::UnknownKind(unknown)),
        };
        if fields.rest.is_empty() { Ok(record) } else { Err(RecordError::Malformed) }
    }
}

/// Appends a header frame's payload.
pub(crate) fn encode_head(head: &SegmentHeader, out: &mut Vec<u8>) {
    out.push(FORMAT_VERSION);
    write_u64(head.reserved, out);
    write_u64(head.first_index, out);
    encode_log_start(head.start, out);
    encode_hard_state(head.hard_state, out);
    match &head.previous {
        None => out.push(0),
        Some(link) => {
            out.push(1);
            write_u64(link.sequence, out);
            out.extend_from_slice(&link.header);
            write_u64(link.end.frames, out);
            write_u64(link.end.offset, out);
            out.extend_from_slice(&link.end.chain.to_le_bytes());
        }
    }
    write_len(head.metadata.len(), out);
    out.extend_from_slice(&head.metadata);
}

/// Appends a batch's payload. The entries' indexes follow each other and terms do not fall.
pub(crate) fn encode_batch(
    watermark: Watermark,
    hard_state: Option<HardState>,
    entries: &[Entry],
    out: &mut Vec<u8>,
) {
    encode_watermark(watermark, out);
    out.push(if hard_state.is_some() { HAS_HARD_STATE } else { 0 });
    if let Some(state) = hard_state {
        encode_hard_state(state, out);
    }
    write_len(entries.len(), out);
    let Some(first) = entries.first() else { return };
    write_u64(first.index, out);
    let mut term = 0;
    for entry in entries {
        write_u64(entry.term - term, out);
        term = entry.term;
        out.push(entry.kind.number());
        write_len(entry.data.len(), out);
        out.extend_from_slice(&entry.data);
    }
}

/// Upper bound of what an entry takes in a payload besides its data: term and length are varints of
/// up to ten bytes, the kind is one.
pub(crate) const ENTRY_OVERHEAD: usize = 21;
/// Upper bound of what a batch takes besides its entries: seven varints and the flags.
pub(crate) const BATCH_OVERHEAD: usize = 71;

/// Appends a start frame's payload.
pub(crate) fn encode_start(record: &StartRecord, out: &mut Vec<u8>) {
    encode_watermark(record.watermark, out);
    encode_log_start(record.start, out);
    write_u64(record.next_index, out);
}

/// Appends what a closing frame holds.
pub(crate) fn encode_watermark(watermark: Watermark, out: &mut Vec<u8>) {
    write_u64(watermark.frames, out);
    write_u64(watermark.len, out);
}

fn encode_log_start(start: LogStart, out: &mut Vec<u8>) {
    write_u64(start.index, out);
    write_u64(start.term, out);
}

fn encode_hard_state(state: HardState, out: &mut Vec<u8>) {
    write_u64(state.term, out);
    write_u64(state.vote, out);
    write_u64(state.commit, out);
}

fn write_len(len: usize, out: &mut Vec<u8>) {
    write_u64(u64::try_from(len).expect("lengths fit into 64 bits"), out);
}

/// A payload that is being read.
struct Fields<'a> {
    rest: &'a [u8],
    whole: &'a Bytes,
}

impl Fields<'_> {
    fn number(&mut self) -> Result<u64, RecordError> {
        read_u64(&mut self.rest).ok_or(RecordError::Malformed)
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        let (first, rest) = self.rest.split_first().ok_or(RecordError::Malformed)?;
        self.rest = rest;
        Ok(*first)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (first, rest) = self.rest.split_first_chunk().ok_or(RecordError::Malformed)?;
        self.rest = rest;
        Ok(*first)
    }

    fn bytes(&mut self) -> Result<Bytes, RecordError> {
        let len = usize::try_from(self.number()?).ok().ok_or(RecordError::Malformed)?;
        let (part, rest) = self.rest.split_at_checked(len).ok_or(RecordError::Malformed)?;
        self.rest = rest;
        Ok(self.whole.slice_ref(part))
    }

    fn log_start(&mut self) -> Result<LogStart, RecordError> {
        Ok(LogStart { index: self.number()?, term: self.number()? })
    }

    fn hard_state(&mut self) -> Result<HardState, RecordError> {
        Ok(HardState { term: self.number()?, vote: self.number()?, commit: self.number()? })
    }

    fn watermark(&mut self) -> Result<Watermark, RecordError> {
        Ok(Watermark { frames: self.number()?, len: self.number()? })
    }

    fn head(&mut self) -> Result<SegmentHeader, RecordError> {
        let version = self.byte()?;
        if version != FORMAT_VERSION {
            return Err(RecordError::UnsupportedVersion(version));
        }
        Ok(SegmentHeader {
            reserved: self.number()?,
            first_index: self.number()?,
            start: self.log_start()?,
            hard_state: self.hard_state()?,
            previous: match self.byte()? {
                0 => None,
                1 => Some(self.link()?),
                _ => return Err(RecordError::Malformed),
            },
            metadata: self.bytes()?,
        })
    }

    fn link(&mut self) -> Result<PreviousSegment, RecordError> {
        Ok(PreviousSegment {
            sequence: self.number()?,
            header: self.array()?,
            end: SegmentPosition {
                frames: self.number()?,
                offset: self.number()?,
                chain: u32::from_le_bytes(self.array()?),
            },
        })
    }

    fn batch(&mut self) -> Result<BatchRecord, RecordError> {
        let watermark = self.watermark()?;
        let hard_state = match self.byte()? {
            0 => None,
            HAS_HARD_STATE => Some(self.hard_state()?),
            _ => return Err(RecordError::Malformed),
        };
        let count = self.number()?;
        let mut entries = Vec::new();
        if count == 0 {
            return Ok(BatchRecord { watermark, hard_state, entries });
        }
        // BOUND: an entry takes three bytes at least, so a false count cannot reserve much.
        let plausible = usize::try_from(count).unwrap_or(usize::MAX).min(self.rest.len() / 3);
        entries.reserve(plausible);
        let first_index = self.number()?;
        let last_index = first_index.checked_add(count).ok_or(RecordError::Malformed)?;
        let mut term = 0_u64;
        for index in first_index..last_index {
            term = term.checked_add(self.number()?).ok_or(RecordError::Malformed)?;
            let kind = self.byte()?;
            let kind = EntryKind::from_number(kind).ok_or(RecordError::UnknownEntryKind(kind))?;
            entries.push(Entry { index, term, kind, data: self.bytes()? });
        }
        Ok(BatchRecord { watermark, hard_state, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batches() -> impl Strategy<Value = BatchRecord> {
        let entry = (0_u64..3, 0_u8..3, proptest::collection::vec(any::<u8>(), 0..40));
        let entries = proptest::collection::vec(entry, 0..20);
        let hard_state = proptest::option::of(any::<(u64, u64, u64)>());
        (any::<(u64, u64)>(), hard_state, 1..u64::MAX / 2, entries).prop_map(
            |((frames, len), hard_state, first, entries)| {
                let mut term = first;
                let numbered = (first..).zip(entries).map(|(index, (step, kind, data))| {
                    term += step;
                    let kind = EntryKind::from_number(kind).unwrap();
                    Entry { index, term, kind, data: data.into() }
                });
                BatchRecord {
                    watermark: Watermark { frames, len },
                    hard_state: hard_state.map(|(term, vote, commit)| HardState {
                        term,
                        vote,
                        commit,
                    }),
                    entries: numbered.collect(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn batches_round_trip(batch in batches()) {
            let mut out = Vec::new();
            encode_batch(batch.watermark, batch.hard_state, &batch.entries, &mut out);
            let data: usize = batch.entries.iter().map(|e| e.data.len() + ENTRY_OVERHEAD).sum();
            prop_assert!(out.len() <= BATCH_OVERHEAD + data);
            let whole = Bytes::from(out);
            let decoded = Record::decode(KIND_BATCH, &whole);
            prop_assert_eq!(decoded, Ok(Record::Batch(batch)));
            for len in 0..whole.len() {
                prop_assert!(Record::decode(KIND_BATCH, &whole.slice(..len)).is_err());
            }
        }

        #[test]
        fn headers_and_starts_round_trip(
            numbers: [u64; 8],
            link: Option<(u64, u64, u64, u32)>,
            metadata: Vec<u8>,
        ) {
            let [reserved, first_index, index, term, a, vote, commit, next_index] = numbers;
            let start = LogStart { index, term };
            let head = SegmentHeader {
                reserved,
                first_index,
                start,
                hard_state: HardState { term: a, vote, commit },
                previous: link.map(|(sequence, frames, offset, chain)| PreviousSegment {
                    sequence,
                    header: [7; FILE_HEADER_LEN],
                    end: SegmentPosition { frames, offset, chain },
                }),
                metadata: metadata.into(),
            };
            let mut out = Vec::new();
            encode_head(&head, &mut out);
            prop_assert_eq!(Record::decode(KIND_HEAD, &out.into()), Ok(Record::Head(Box::new(head))));
            let watermark = Watermark { frames: a, len: vote };
            let record = StartRecord { watermark, start, next_index };
            let mut out = Vec::new();
            encode_start(&record, &mut out);
            prop_assert_eq!(Record::decode(KIND_START, &out.into()), Ok(Record::Start(record)));
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(kind in 0_u8..6, bytes: Vec<u8>) {
            let _ = Record::decode(kind, &bytes.into());
        }
    }
}
