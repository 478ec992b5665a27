//! A segment that can be read, and the list of all of them.
//!
//! Segments are ordered by revision and never overlap, so a record is found by two binary
//! searches: in the list, then in the segment's table of blocks. The key index stores no offsets,
//! and rewriting a segment never touches it.

use std::path::PathBuf;
use std::sync::Arc;

use keepd_crypto::{FileSealer, Frame};
use keepd_env::DiskFile;
use keepd_types::Revision;

use crate::error::Error;
use crate::record::{Entry, Record};
use crate::revlog::block::Block;
use crate::revlog::cache::BlockCache;

/// The most that one read of neighbouring blocks fetches.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Frame kinds of a segment.
pub(crate) mod frame_kind {
    /// What the segment is; the first frame.
    pub(crate) const HEAD: u8 = 1;
    /// Records.
    pub(crate) const BLOCK: u8 = 2;
    /// Writes to the meta tables.
    pub(crate) const META: u8 = 3;
    /// The end of a flush.
    pub(crate) const COMMIT: u8 = 4;
    /// The table of blocks; the last frame of a full segment.
    pub(crate) const TABLE: u8 = 5;
}

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockRef {
    /// The revision of its first record.
    pub(crate) first: Revision,
    /// Where its frame begins.
    pub(crate) offset: u64,
    /// The length of the frame.
    pub(crate) len: u32,
    /// The frame's ordinal.
    pub(crate) ordinal: u32,
}

/// A segment file as readers see it; immutable, replaced by a longer one when a flush appends.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) sealer: Arc<FileSealer>,
    pub(crate) blocks: Vec<BlockRef>,
    /// The first record; behind the last commit's revision if there is none.
    pub(crate) first: Revision,
    /// The last record; as `first` if there is none.
    pub(crate) last: Revision,
    /// The number of records.
    pub(crate) records: u64,
    /// The bytes that belong to it.
    pub(crate) len: u64,
}

impl Segment {
    /// Damage in this file.
    pub(crate) fn corrupt(&self, offset: u64, reason: &'static str) -> Error {
        Error::Corrupt { file: self.path.clone(), offset, reason }
    }

    /// The position of the block that holds `revision` if any does.
    fn block_of(&self, revision: Revision) -> Option<usize> {
        self.blocks.partition_point(|block| block.first <= revision).checked_sub(1)
    }

    fn parse(&self, at: &BlockRef, bytes: &[u8]) -> Result<Block, Error> {
        let opened = self.sealer.open_frame(u64::from(at.ordinal), bytes);
        let Frame { kind, plain, .. } =
            opened.map_err(|error| self.corrupt(at.offset, frame_reason(error)))?;
        if kind != frame_kind::BLOCK {
            return Err(self.corrupt(at.offset, "another frame where a block was written"));
        }
        Block::parse(plain).ok_or_else(|| self.corrupt(at.offset, "a malformed block"))
    }

    /// The block at `position`, through the cache.
    pub(crate) fn block(&self, cache: &BlockCache, position: usize) -> Result<Arc<Block>, Error> {
        if let Some(block) = cache.get((self.id, position)) {
            return Ok(block);
        }
        let at = &self.blocks[position];
        let mut bytes = vec![0; at.len as usize];
        self.file.read_exact_at(&mut bytes, at.offset)?;
        let block = Arc::new(self.parse(at, &bytes)?);
        cache.insert((self.id, position), &block);
        Ok(block)
    }

    /// Reads the blocks `first..last` that lie one behind the other, in one go, past the cache.
    pub(crate) fn read_run(&self, first: usize, last: usize) -> Result<Vec<Arc<Block>>, Error> {
        let run = &self.blocks[first..last];
        let [start, .., end] = run else {
            return run.iter().map(|_| self.block(&BlockCache::new(0), first)).collect();
        };
        let len = end.offset + u64::from(end.len) - start.offset;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, start.offset)?;
        let place = |at: &BlockRef| usize::try_from(at.offset - start.offset).unwrap_or(usize::MAX);
        run.iter().map(|at| self.parse(at, &bytes[place(at)..]).map(Arc::new)).collect()
    }

    /// How many blocks from `first` on to read at once.
    pub(crate) fn run_from(&self, first: usize) -> usize {
        let start = self.blocks[first].offset;
        let ends = self.blocks[first..].iter().map(|at| at.offset + u64::from(at.len) - start);
        ends.take_while(|len| *len <= READ_BYTES_MAX).count().max(1)
    }

    /// The record at `position` of the block that begins at `offset`.
    pub(crate) fn entry(&self, block: usize, found: &Block, at: usize) -> Result<Entry, Error> {
        found.entry(at).ok_or_else(|| self.corrupt(self.blocks[block].offset, "a malformed record"))
    }
}

/// What a frame's error says about the file.
pub(crate) const fn frame_reason(error: keepd_crypto::FrameError) -> &'static str {
    use keepd_crypto::FrameError;
    match error {
        FrameError::Truncated { .. } => "the file ends inside a frame",
        FrameError::Zeroed => "zeros where a frame was written",
        FrameError::BadCrc => "a frame's checksum does not match",
        FrameError::BadSeal => "a frame's seal does not open",
        FrameError::TooLong { .. } => "a frame with an impossible length",
        FrameError::WrongOrdinal { .. } => "a frame from another place",
    }
}

/// All segments, in revision order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segments {
    pub(crate) list: Vec<Arc<Segment>>,
}

impl Segments {
    /// The segment that holds `revision` if any does.
    pub(crate) fn position_of(&self, revision: Revision) -> Option<usize> {
        self.list.partition_point(|segment| segment.first <= revision).checked_sub(1)
    }

    fn locate(&self, revision: Revision) -> Result<(&Segment, usize), Error> {
        self.position_of(revision)
            .map(|position| &self.list[position])
            .and_then(|segment| Some((segment.as_ref(), segment.block_of(revision)?)))
            .ok_or(Error::NoRecord { revision })
    }

    /// One record.
    pub(crate) fn load(&self, cache: &BlockCache, revision: Revision) -> Result<Record, Error> {
        let (segment, position) = self.locate(revision)?;
        let block = segment.block(cache, position)?;
        record_in(segment, position, &block, revision)
    }

    /// Many records, given with their places in `out`: read in the order of the disk.
    pub(crate) fn load_many(
        &self,
        cache: &BlockCache,
        wanted: &mut [(Revision, usize)],
        out: &mut [Option<Record>],
    ) -> Result<(), Error> {
        wanted.sort_unstable();
        let mut open: Option<(&Segment, usize, Arc<Block>)> = None;
        let mut rest: &[(Revision, usize)] = wanted;
        while let [(revision, place), after @ ..] = rest {
            let (segment, position) = self.locate(*revision)?;
            let is_open = |(at, block, _): &(&Segment, usize, Arc<Block>)| {
                at.id == segment.id && *block == position
            };
            if !open.as_ref().is_some_and(is_open) {
                open = Some((segment, position, segment.block(cache, position)?));
            }
            if let Some((_, _, block)) = &open {
                out[*place] = Some(record_in(segment, position, block, *revision)?);
            }
            rest = after;
        }
        Ok(())
    }
}

fn record_in(
    segment: &Segment,
    position: usize,
    block: &Block,
    revision: Revision,
) -> Result<Record, Error> {
    let at = block.find(revision).ok_or(Error::NoRecord { revision })?;
    let malformed = || segment.corrupt(segment.blocks[position].offset, "a malformed record");
    block.record(at).ok_or_else(malformed)
}
