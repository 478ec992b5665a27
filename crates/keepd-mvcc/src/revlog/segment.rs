//! A segment that can be read, and the list of all of them.
//!
//! Segments are ordered by revision and never overlap, so a record is found by two binary
//! searches: in the list, then in the segment's table of blocks. The key index stores no offsets,
//! and rewriting a segment never touches it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use keepd_crypto::{FileSealer, Frame};
use keepd_env::DiskFile;
use keepd_types::Revision;

use crate::damage::Damages;
use crate::error::{Error, frame_reason};
use crate::meta::MetaOp;
use crate::record::{Entry, Record};
use crate::revlog::block::Block;
use crate::revlog::cache::{BlockCache, CacheUse};
use crate::revlog::directory::Opened;
use crate::revlog::format::{BlockIndex, BlockRef, FrameRef, Origin, frame_kind};

/// The most that one read of neighbouring blocks fetches.
const READ_BYTES_MAX: u64 = 1 << 20;

/// The most that one read of a list fetches: it may be wanted in part only.
const GATHER_BYTES_MAX: u64 = 256 << 10;

/// Records of a list that are less than this part of their block do not keep it.
const UNPIN_SHARE: usize = 4;

/// A segment file as readers see it; immutable, replaced by a longer one when a flush appends.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) sealer: Arc<FileSealer>,
    pub(crate) table: BlockIndex,
    /// The first record; after the last commit's revision if there is none.
    pub(crate) first: Revision,
    /// The bytes that belong to it.
    pub(crate) len: u64,
    /// The register of damage.
    pub(crate) damages: Damages,
}

impl Segment {
    /// Opens a complete segment by its table.
    pub(crate) fn open(id: u64, opened: Opened, len: u64, table: &FrameRef) -> Result<Self, Error> {
        let Opened { path, file, sealer, damages, .. } = opened;
        let mut segment = Self {
            id,
            path,
            file,
            sealer: Arc::new(sealer),
            table: BlockIndex::new(Origin::Flush),
            first: Revision::default(),
            len,
            damages,
        };
        let mut payload = segment.open_frame(table, frame_kind::TABLE, &segment.read(table)?)?;
        if let Some(parts) = BlockIndex::decode_parts(&payload) {
            payload.clear();
            for part in &parts {
                let bytes = segment.read(part)?;
                payload.extend(segment.open_frame(part, frame_kind::TABLE_PART, &bytes)?);
            }
        }
        let decoded = BlockIndex::decode(&payload).filter(|it| it.is_sound(len));
        let malformed = || segment.corrupt(table.offset, "a malformed table");
        segment.table = decoded.ok_or_else(malformed)?;
        segment.first = segment.table.first();
        Ok(segment)
    }

    /// Damage in this file.
    pub(crate) fn corrupt(&self, offset: u64, reason: &'static str) -> Error {
        self.damages.note(&self.path, offset, reason);
        Error::Corrupt { file: self.path.clone(), offset, reason }
    }

    /// The position of the block that holds `revision` if any does.
    fn block_of(&self, revision: Revision) -> Option<usize> {
        self.table.blocks.partition_point(|block| block.first <= revision).checked_sub(1)
    }

    /// The revisions that the block at `position` can hold.
    pub(crate) fn revisions_of(&self, position: usize) -> Range<Revision> {
        let Revision { main, sub } = self.table.last;
        let end = Revision { main, sub: sub.saturating_add(1) };
        let next = self.table.blocks.get(position + 1).map_or(end, |next| next.first);
        self.table.blocks[position].first..next
    }

    fn open_frame(&self, at: &FrameRef, expected: u8, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let opened = self.sealer.open_frame(u64::from(at.ordinal), bytes);
        let Frame { kind, plain, .. } =
            opened.map_err(|error| self.corrupt(at.offset, frame_reason(error)))?;
        if kind != expected {
            return Err(self.corrupt(at.offset, "a frame of another kind"));
        }
        Ok(plain)
    }

    fn parse(&self, at: &BlockRef, bytes: &[u8]) -> Result<Block, Error> {
        let plain = self.open_frame(&at.frame, frame_kind::BLOCK, bytes)?;
        Block::parse(plain).ok_or_else(|| self.corrupt(at.frame.offset, "a malformed block"))
    }

    fn read(&self, at: &FrameRef) -> Result<Vec<u8>, Error> {
        if at.end() > self.len {
            return Err(self.corrupt(at.offset, "a frame behind the end of the file"));
        }
        let mut bytes = vec![0; at.len as usize];
        self.fill(&mut bytes, at.offset)?;
        Ok(bytes)
    }

    /// A part that the disk does not give is damaged, too.
    fn fill(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        self.file.read_exact_at(bytes, offset).map_err(|error| {
            self.damages.note(&self.path, offset, &error.source.to_string());
            error.into()
        })
    }

    /// The writes to the meta tables, in order.
    pub(crate) fn meta_ops(&self) -> Result<Vec<MetaOp>, Error> {
        let mut ops = Vec::new();
        for at in &self.table.metas {
            let payload = self.open_frame(at, frame_kind::META, &self.read(at)?)?;
            let decoded = MetaOp::decode_all(&payload.into());
            ops.extend(decoded.ok_or_else(|| self.corrupt(at.offset, "a malformed meta frame"))?);
        }
        Ok(ops)
    }

    /// The block at `position`, through the cache.
    pub(crate) fn block(&self, cache: &BlockCache, position: usize) -> Result<Arc<Block>, Error> {
        if let Some(block) = cache.get((self.id, position)) {
            return Ok(block);
        }
        let at = &self.table.blocks[position];
        let block = Arc::new(self.parse(at, &self.read(&at.frame)?)?);
        cache.insert((self.id, position), &block);
        Ok(block)
    }

    /// Reads the blocks `first..last` in one go, past the cache.
    pub(crate) fn read_run(&self, first: usize, last: usize) -> Result<Vec<Arc<Block>>, Error> {
        let run = &self.table.blocks[first..last];
        let (Some(start), Some(end)) = (run.first(), run.last()) else { return Ok(Vec::new()) };
        let offset = start.frame.offset;
        let len = end.frame.end().checked_sub(offset).filter(|_| end.frame.end() <= self.len);
        let len = len.and_then(|len| usize::try_from(len).ok());
        let len = len.ok_or_else(|| self.corrupt(offset, "blocks out of place"))?;
        let mut bytes = vec![0; len];
        if run.len() > 1 && self.file.read_exact_at(&mut bytes, offset).is_err() {
            // One by one, so that the damaged place is known and not where the run begins.
            return (first..last).map(|at| Ok(self.read_run(at, at + 1)?.remove(0))).collect();
        }
        if run.len() == 1 {
            self.fill(&mut bytes, offset)?;
        }
        let parse = |at: &BlockRef| {
            let place = at.frame.offset.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
            let frame = place.and_then(|place| bytes.get(place..));
            self.parse(at, frame.unwrap_or_default()).map(Arc::new)
        };
        run.iter().map(parse).collect()
    }

    /// The number of blocks from `first` on to read at once.
    pub(crate) fn run_from(&self, first: usize) -> usize {
        let blocks = &self.table.blocks[first..];
        let limit = blocks[0].frame.offset.saturating_add(READ_BYTES_MAX);
        blocks.iter().take_while(|at| at.frame.end() <= limit).count().max(1)
    }

    /// The neighbouring blocks from `first` on that hold `wanted`, which is sorted.
    fn wanted_run(&self, first: usize, wanted: &[(Revision, usize)]) -> Range<usize> {
        let blocks = &self.table.blocks;
        let limit = blocks[first].frame.offset.saturating_add(GATHER_BYTES_MAX);
        let mut end = first + 1;
        for (revision, _) in wanted {
            let Some(next) = blocks.get(end).filter(|_| *revision <= self.table.last) else {
                break;
            };
            if *revision < next.first {
                continue;
            }
            let is_in_next = blocks.get(end + 1).is_none_or(|behind| *revision < behind.first);
            if !is_in_next || next.frame.end() > limit {
                break;
            }
            end += 1;
        }
        first..end
    }

    /// The blocks of `run`, through the cache; what is missing is read in as few goes as possible.
    fn blocks(&self, cache: CacheUse<'_>, run: Range<usize>) -> Result<Vec<Arc<Block>>, Error> {
        let mut blocks = Vec::with_capacity(run.len());
        let mut missing = run.start..run.start;
        for position in run {
            match cache.get((self.id, position)) {
                None => missing.end = position + 1,
                Some(block) => {
                    self.fetch(cache, missing.clone(), &mut blocks)?;
                    missing = position + 1..position + 1;
                    blocks.push(block);
                }
            }
        }
        self.fetch(cache, missing, &mut blocks)?;
        Ok(blocks)
    }

    fn fetch(
        &self,
        cache: CacheUse<'_>,
        missing: Range<usize>,
        blocks: &mut Vec<Arc<Block>>,
    ) -> Result<(), Error> {
        for (position, block) in missing.clone().zip(self.read_run(missing.start, missing.end)?) {
            cache.insert((self.id, position), &block);
            blocks.push(block);
        }
        Ok(())
    }

    /// The record at `position` of the block that begins at `offset`.
    pub(crate) fn entry(&self, block: usize, found: &Block, at: usize) -> Result<Entry, Error> {
        found.entry(at).ok_or_else(|| {
            self.corrupt(self.table.blocks[block].frame.offset, "a malformed record")
        })
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

    /// Bytes of the blocks that begin after main revision `main`.
    pub(crate) fn bytes_behind(&self, main: i64) -> u64 {
        let blocks = self.list.iter().flat_map(|segment| &segment.table.blocks);
        blocks.filter(|it| it.first.main > main).map(|it| u64::from(it.frame.len)).sum()
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

    /// Many records, given with their places in `out`: read in the order of the disk, neighbouring
    /// blocks in one go.
    pub(crate) fn load_many(
        &self,
        cache: CacheUse<'_>,
        wanted: &mut [(Revision, usize)],
        out: &mut [Option<Record>],
    ) -> Result<(), Error> {
        wanted.sort_unstable();
        let mut rest: &[(Revision, usize)] = wanted;
        while let Some((revision, _)) = rest.first() {
            let (segment, first) = self.locate(*revision)?;
            let run = segment.wanted_run(first, rest);
            for (position, block) in run.clone().zip(segment.blocks(cache, run)?) {
                let next = segment.table.blocks.get(position + 1).map(|next| next.first);
                // Behind the last block the next segment's records begin.
                let is_inside = |revision: Revision| match next {
                    Some(next) => revision < next,
                    None => revision <= segment.table.last,
                };
                let count = rest.iter().take_while(|(revision, _)| is_inside(*revision)).count();
                let (found, after) = rest.split_at(count);
                for (revision, place) in found {
                    out[*place] = Some(record_in(segment, position, &block, *revision)?);
                }
                unpin(&block, found, out);
                rest = after;
            }
            if let Some((still, _)) = rest.first()
                && still == revision
            {
                return Err(Error::NoRecord { revision: *revision });
            }
        }
        Ok(())
    }
}

/// Copies the records out of their block if they are a small part of it: a long list of scattered
/// records would otherwise hold many times its size.
fn unpin(block: &Block, found: &[(Revision, usize)], out: &mut [Option<Record>]) {
    let len_of = |record: &Record| record.encoded.len();
    let taken: usize = found.iter().filter_map(|(_, at)| out[*at].as_ref()).map(len_of).sum();
    if taken * UNPIN_SHARE >= block.bytes() {
        return;
    }
    for (_, place) in found {
        if let Some(record) = &mut out[*place] {
            record.encoded = Bytes::copy_from_slice(&record.encoded);
        }
    }
}

fn record_in(
    segment: &Segment,
    position: usize,
    block: &Block,
    revision: Revision,
) -> Result<Record, Error> {
    let at = block.find(revision).ok_or(Error::NoRecord { revision })?;
    let malformed =
        || segment.corrupt(segment.table.blocks[position].frame.offset, "a malformed record");
    block.record(at).ok_or_else(malformed)
}
