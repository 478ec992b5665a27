//! What the frames of a segment hold. The layout is in `docs/formats/wal.md`.
//!
//! Numbers are base-128 varints; the frame itself carries kind, length and checksum. Decoding
//! trusts nothing, although only frames whose checksum (and seal) matched come here: a program
//! older than the file must find out.

use bytes::Bytes;
use keepd_crypto::FILE_HEADER_LEN;
use keepd_types::varint::{read_u64, write_u64};
use keepd_types::{Entry, EntryKind, HardState};
use thiserror::Error;

use crate::segment::SegmentEnd;
use crate::types::SnapshotMark;

/// The version of the payloads, in each segment's head.
const FORMAT_VERSION: u8 = 1;
/// A batch's flag: a hard state is present.
const HAS_HARD_STATE: u8 = 1;

pub(crate) const KIND_HEAD: u8 = 1;
pub(crate) const KIND_BATCH: u8 = 2;
pub(crate) const KIND_MARK: u8 = 3;
pub(crate) const KIND_CLOSED: u8 = 4;

/// Why a whole frame cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The payload ends early, goes on too long or holds an impossible number.
    #[error("its payload is malformed")]
    Malformed,
    /// A newer program wrote it.
    #[error("format version {0} of the log is not supported, the newest known one is 1")]
    UnsupportedVersion(u8),
    /// A frame of a kind that this program does not know.
    #[error("kind {0} is not known")]
    UnknownKind(u8),
    /// An entry of a kind that this program does not know.
    #[error("entry kind {0} is not known")]
    UnknownEntryKind(u8),
    /// The first frame is not a head, or another one is.
    #[error("a segment's head must be its first frame, and only that")]
    MisplacedHead,
    /// Entries do not follow what is before them.
    #[error("index {found} follows, but the log continues at {next} and starts behind {mark}")]
    Gap {
        /// The first index of the batch.
        found: u64,
        /// The index that may come at most.
        next: u64,
        /// The mark's index.
        mark: u64,
    },
    /// A segment's head does not agree with what is before it.
    #[error("the segment's head contradicts the segments before it")]
    Contradiction,
}

/// How much of its segment was durable when a frame was written. A damaged frame in front of one
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
pub struct Head {
    /// The file's length before the segment got its name.
    pub reserved: u64,
    /// The index that follows the log's last one.
    pub first_index: u64,
    /// Where the log starts.
    pub mark: SnapshotMark,
    /// The hard state.
    pub hard_state: HardState,
    /// The segment that this one continues.
    pub previous: Option<Link>,
    /// What the log's creator wanted to keep.
    pub metadata: Bytes,
}

/// Which segment is continued, and where it validly ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub sequence: u64,
    /// Its header: the salt in it names the file as no other.
    pub header: [u8; FILE_HEADER_LEN],
    /// Its end.
    pub end: SegmentEnd,
}

/// Entries and hard state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRecord {
    /// What was durable before.
    pub watermark: Watermark,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// A new start of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRecord {
    /// What was durable before.
    pub watermark: Watermark,
    /// Where the log starts now.
    pub mark: SnapshotMark,
    /// The index that follows the log's last one now; right behind the mark if the log was dropped.
    pub next_index: u64,
}

/// A frame's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The segment's beginning.
    Head(Box<Head>),
    /// Entries and hard state.
    Batch(BatchRecord),
    /// A new start of the log.
    Mark(MarkRecord),
    /// An orderly end: everything before it was durable.
    Closed(Watermark),
}

impl Record {
    /// What was durable when the frame was written.
    #[must_use]
    pub const fn watermark(&self) -> Watermark {
        match self {
            Self::Head(head) => Watermark { frames: 0, len: head.reserved },
            Self::Batch(batch) => batch.watermark,
            Self::Mark(mark) => mark.watermark,
            Self::Closed(watermark) => *watermark,
        }
    }

    /// Reads a frame's payload.
    pub(crate) fn decode(kind: u8, payload: &Bytes) -> Result<Self, RecordError> {
        let mut fields = Fields { rest: payload, whole: payload };
        let record = match kind {
            KIND_HEAD => Self::Head(Box::new(fields.head()?)),
            KIND_BATCH => Self::Batch(fields.batch()?),
            KIND_MARK => Self::Mark(MarkRecord {
                watermark: fields.watermark()?,
                mark: fields.mark()?,
                next_index: fields.number()?,
            }),
            KIND_CLOSED => Self::Closed(fields.watermark()?),
            unknown => return Err(RecordError::UnknownKind(unknown)),
        };
        if fields.rest.is_empty() { Ok(record) } else { Err(RecordError::Malformed) }
    }
}

/// Appends a head's payload.
pub(crate) fn encode_head(head: &Head, out: &mut Vec<u8>) {
    out.push(FORMAT_VERSION);
    write_u64(head.reserved, out);
    write_u64(head.first_index, out);
    encode_mark_fields(head.mark, out);
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

/// At most what an entry takes in a payload besides its data: term and length are varints of up to
/// ten bytes, the kind is one.
pub(crate) const ENTRY_OVERHEAD: usize = 21;
/// At most what a batch takes besides its entries: seven varints and the flags.
pub(crate) const BATCH_OVERHEAD: usize = 71;

/// Appends a mark's payload.
pub(crate) fn encode_mark(record: &MarkRecord, out: &mut Vec<u8>) {
    encode_watermark(record.watermark, out);
    encode_mark_fields(record.mark, out);
    write_u64(record.next_index, out);
}

/// Appends what a closing frame holds.
pub(crate) fn encode_watermark(watermark: Watermark, out: &mut Vec<u8>) {
    write_u64(watermark.frames, out);
    write_u64(watermark.len, out);
}

fn encode_mark_fields(mark: SnapshotMark, out: &mut Vec<u8>) {
    write_u64(mark.index, out);
    write_u64(mark.term, out);
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

    fn mark(&mut self) -> Result<SnapshotMark, RecordError> {
        Ok(SnapshotMark { index: self.number()?, term: self.number()? })
    }

    fn hard_state(&mut self) -> Result<HardState, RecordError> {
        Ok(HardState { term: self.number()?, vote: self.number()?, commit: self.number()? })
    }

    fn watermark(&mut self) -> Result<Watermark, RecordError> {
        Ok(Watermark { frames: self.number()?, len: self.number()? })
    }

    fn head(&mut self) -> Result<Head, RecordError> {
        let version = self.byte()?;
        if version != FORMAT_VERSION {
            return Err(RecordError::UnsupportedVersion(version));
        }
        Ok(Head {
            reserved: self.number()?,
            first_index: self.number()?,
            mark: self.mark()?,
            hard_state: self.hard_state()?,
            previous: match self.byte()? {
                0 => None,
                1 => Some(self.link()?),
                _ => return Err(RecordError::Malformed),
            },
            metadata: self.bytes()?,
        })
    }

    fn link(&mut self) -> Result<Link, RecordError> {
        Ok(Link {
            sequence: self.number()?,
            header: self.array()?,
            end: SegmentEnd {
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
        fn heads_and_marks_round_trip(
            numbers: [u64; 8],
            link: Option<(u64, u64, u64, u32)>,
            metadata: Vec<u8>,
        ) {
            let [reserved, first_index, index, term, a, vote, commit, next_index] = numbers;
            let mark = SnapshotMark { index, term };
            let head = Head {
                reserved,
                first_index,
                mark,
                hard_state: HardState { term: a, vote, commit },
                previous: link.map(|(sequence, frames, offset, chain)| Link {
                    sequence,
                    header: [7; FILE_HEADER_LEN],
                    end: SegmentEnd { frames, offset, chain },
                }),
                metadata: metadata.into(),
            };
            let mut out = Vec::new();
            encode_head(&head, &mut out);
            prop_assert_eq!(Record::decode(KIND_HEAD, &out.into()), Ok(Record::Head(Box::new(head))));
            let watermark = Watermark { frames: a, len: vote };
            let record = MarkRecord { watermark, mark, next_index };
            let mut out = Vec::new();
            encode_mark(&record, &mut out);
            prop_assert_eq!(Record::decode(KIND_MARK, &out.into()), Ok(Record::Mark(record)));
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(kind in 0_u8..6, bytes: Vec<u8>) {
            let _ = Record::decode(kind, &bytes.into());
        }
    }
}
