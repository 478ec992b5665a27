//! The small payloads of a segment: head, commit and table. Layouts: `docs/formats/revlog.md`.

use keepd_types::Revision;

use crate::record::Applied;
use crate::revlog::wire::{Reader, write_revision};

/// The format of segments, checkpoints and manifests.
pub(crate) const VERSION: u8 = 1;

/// Begins a table that only names its parts.
const PARTED: u8 = 2;

/// Frame kinds of a segment.
pub(crate) mod frame_kind {
    /// Kind of segment; the first frame.
    pub(crate) const HEAD: u8 = 1;
    /// Records.
    pub(crate) const BLOCK: u8 = 2;
    /// Writes to the meta tables.
    pub(crate) const META: u8 = 3;
    /// The end of a flush.
    pub(crate) const COMMIT: u8 = 4;
    /// Places of all frames; the last frame of a full segment.
    pub(crate) const TABLE: u8 = 5;
    /// A part of a table that is too long for one frame.
    pub(crate) const TABLE_PART: u8 = 6;
}

/// Origin of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Flushes: its commits are the truth.
    Flush,
    /// A rewrite of older segments, which hold the same until the manifest says otherwise.
    Rewrite,
}

impl Origin {
    pub(crate) const fn encode(self) -> [u8; 2] {
        [VERSION, if matches!(self, Self::Flush) { 0 } else { 1 }]
    }

    pub(crate) const fn decode(payload: &[u8]) -> Option<Self> {
        match payload {
            [VERSION, 0] => Some(Self::Flush),
            [VERSION, 1] => Some(Self::Rewrite),
            _ => None,
        }
    }
}

/// The end of a flush: the state that it made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlushCommit {
    pub(crate) applied: Applied,
    pub(crate) revision: i64,
    pub(crate) compact_revision: i64,
    /// Records in the segment up to here.
    pub(crate) records: u64,
    /// The first frame of this flush.
    pub(crate) first_ordinal: u64,
    /// CRC-32C over kind and payload of all frames of the segment before this one.
    pub(crate) hash: u32,
}

impl FlushCommit {
    /// No flush yet.
    pub(crate) const NONE: Self = Self {
        applied: Applied { index: 0, term: 0 },
        revision: 1,
        compact_revision: -1,
        records: 0,
        first_ordinal: 0,
        hash: 0,
    };

    /// The length of the encoding.
    pub(crate) const LEN: usize = 6 * 8 + 4;

    /// Whether the store was the same at both, wherever they lie.
    pub(crate) fn is_same_state(&self, other: &Self) -> bool {
        self.applied == other.applied
            && self.revision == other.revision
            && self.compact_revision == other.compact_revision
    }

    /// Whether a later flush can have ended with this one: nothing goes back.
    pub(crate) fn may_follow(&self, earlier: &Self) -> bool {
        self.applied >= earlier.applied
            && self.revision >= earlier.revision
            && self.compact_revision >= earlier.compact_revision
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.applied.index.to_le_bytes());
        out.extend_from_slice(&self.applied.term.to_le_bytes());
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&self.compact_revision.to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.first_ordinal.to_le_bytes());
        out.extend_from_slice(&self.hash.to_le_bytes());
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            applied: Applied { index: from.u64()?, term: from.u64()? },
            revision: from.i64()?,
            compact_revision: from.i64()?,
            records: from.u64()?,
            first_ordinal: from.u64()?,
            hash: from.u32()?,
        })
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        Self::read(&mut reader).filter(|_| reader.is_empty())
    }
}

/// The place of a frame in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameRef {
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) ordinal: u32,
}

/// The place of a block in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockRef {
    /// The revision of its first record.
    pub(crate) first: Revision,
    pub(crate) frame: FrameRef,
}

/// Everything about a segment except its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockIndex {
    pub(crate) origin: Origin,
    pub(crate) commit: FlushCommit,
    pub(crate) blocks: Vec<BlockRef>,
    pub(crate) metas: Vec<FrameRef>,
    /// The last record; meaningless without blocks.
    pub(crate) last: Revision,
}

impl BlockIndex {
    pub(crate) const fn new(origin: Origin) -> Self {
        Self {
            origin,
            commit: FlushCommit::NONE,
            blocks: Vec::new(),
            metas: Vec::new(),
            last: Revision { main: 0, sub: 0 },
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.origin.encode());
        self.commit.encode(out);
        write_revision(self.last, out);
        out.extend_from_slice(&u32_of(self.blocks.len()).to_le_bytes());
        for block in &self.blocks {
            write_revision(block.first, out);
            block.frame.encode(out);
        }
        for meta in &self.metas {
            meta.encode(out);
        }
    }

    /// A table whose encoding lies in `parts`.
    pub(crate) fn encode_parts(parts: &[FrameRef]) -> Vec<u8> {
        let mut out = vec![PARTED];
        parts.iter().for_each(|part| part.encode(&mut out));
        out
    }

    /// The places of the parts of a table; `None` if it has none.
    pub(crate) fn decode_parts(payload: &[u8]) -> Option<Vec<FrameRef>> {
        let (&PARTED, parts) = payload.split_first()? else { return None };
        let mut from = Reader(parts);
        let mut frames = Vec::new();
        while !from.is_empty() {
            frames.push(FrameRef::read(&mut from)?);
        }
        Some(frames)
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut from = Reader(payload);
        let origin = Origin::decode(from.bytes(2)?)?;
        let commit = FlushCommit::read(&mut from)?;
        let last = from.revision()?;
        let mut table = Self { commit, last, ..Self::new(origin) };
        for _ in 0..from.u32()? {
            let first = from.revision()?;
            table.blocks.push(BlockRef { first, frame: FrameRef::read(&mut from)? });
        }
        while !from.is_empty() {
            table.metas.push(FrameRef::read(&mut from)?);
        }
        Some(table)
    }

    /// Whether it can be true of a segment of `len` bytes: frames inside, blocks in order, and
    /// neither more records than there is room for nor later ones than the commit knows.
    pub(crate) fn is_sound(&self, len: u64) -> bool {
        let mut frames = self.blocks.iter().map(|block| &block.frame).chain(&self.metas);
        let last = self.blocks.last();
        frames.all(|frame| frame.end() <= len)
            && self.blocks.is_sorted_by(|a, b| a.first < b.first)
            && last.is_none_or(|block| block.first <= self.last)
            && last.is_none_or(|_| self.last.main <= self.commit.revision)
            && self.commit.records <= len
    }

    /// The revision by which the segment is found: its first record's, or the place of one after
    /// everything before, so that the list stays in order.
    pub(crate) fn first(&self) -> Revision {
        let behind = Revision { main: self.commit.revision, sub: i64::MAX };
        self.blocks.first().map_or(behind, |block| block.first)
    }
}

impl FrameRef {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.ordinal.to_le_bytes());
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self { offset: from.u64()?, len: from.u32()?, ordinal: from.u32()? })
    }

    /// The offset of the first byte after the frame.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.len))
    }
}

/// The payload length of a frame, or a count of frames, which a segment's size keeps small.
pub(crate) fn u32_of(len: usize) -> u32 {
    u32::try_from(len).expect("frames and their number stay far below 2^32")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_commit_has_the_length_it_is_searched_by() {
        let mut out = Vec::new();
        FlushCommit::default().encode(&mut out);
        assert_eq!(out.len(), FlushCommit::LEN);
    }

    proptest! {
        #[test]
        fn tables_round_trip(
            blocks: Vec<(i64, i64, u64, u32, u32)>, metas: Vec<(u64, u32, u32)>, index: u64, revision: i64,
        ) {
            let commit = FlushCommit {
                applied: Applied { index, term: 3 }, revision, compact_revision: -1, records: 9,
                first_ordinal: 4, hash: 77,
            };
            let frame = |(offset, len, ordinal)| FrameRef { offset, len, ordinal };
            let table = BlockIndex {
                origin: Origin::Rewrite, commit,
                blocks: blocks.into_iter().map(|(main, sub, a, b, c)| BlockRef {
                    first: Revision { main, sub }, frame: frame((a, b, c)),
                }).collect(),
                metas: metas.into_iter().map(frame).collect(),
                last: Revision { main: 9, sub: 1 },
            };
            let mut out = Vec::new();
            table.encode(&mut out);
            prop_assert_eq!(BlockIndex::decode(&out), Some(table));
            prop_assert_eq!(BlockIndex::decode(&out[..out.len() - 1]), None);
            prop_assert_eq!(BlockIndex::decode_parts(&out), None);
        }

        #[test]
        fn parts_round_trip(parts: Vec<(u64, u32, u32)>) {
            let frame = |(offset, len, ordinal)| FrameRef { offset, len, ordinal };
            let parts: Vec<FrameRef> = parts.into_iter().map(frame).collect();
            let out = BlockIndex::encode_parts(&parts);
            prop_assert_eq!(BlockIndex::decode(&out), None);
            prop_assert_eq!(BlockIndex::decode_parts(&out), Some(parts));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = BlockIndex::decode(&bytes);
            let _ = BlockIndex::decode_parts(&bytes);
            let _ = FlushCommit::decode(&bytes);
            let _ = Origin::decode(&bytes);
        }
    }
}
