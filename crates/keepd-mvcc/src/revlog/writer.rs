//! Writing a segment: frames are collected and go out in one write with one sync.
//!
//! A file is only ever written by the writer that created it, under a sealer of its own, so no frame
//! number is used twice (design rule 5). A write that found no space is made again as it was; after
//! any other failure the writer is not used again.

use std::path::PathBuf;
use std::sync::Arc;

use keepd_crypto::{DataKeyId, FileKind, FileSealer};
use keepd_env::DiskFile;

use crate::damage::Damages;
use crate::disk_full::{DiskFullHook, retry_when_full};
use crate::error::Error;
use crate::meta::MetaOp;
use crate::record::Entry;
use crate::revlog::block::BlockBuilder;
use crate::revlog::directory::{Directory, FileName, seal_frame};
use crate::revlog::files::Files;
use crate::revlog::format::{
    BlockIndex, BlockRef, FlushCommit, FrameRef, Origin, frame_kind, u32_of,
};
use crate::revlog::manifest::Closed;
use crate::revlog::reencryptor::Reencryptor;
use crate::revlog::segment::Segment;

/// Meta writes go into frames of about this size.
const META_BYTES: usize = if cfg!(test) { 512 } else { 64 * 1024 };
/// A table that is longer is cut into parts of this size.
const TABLE_BYTES: usize = if cfg!(test) { 160 } else { 1 << 20 };

/// A segment being written.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    id: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    sealer: Arc<FileSealer>,
    damages: Damages,
    /// The function that records go through first.
    reencryptor: Option<Reencryptor>,
    /// Called when the disk is full; `None` for a rewrite, which can be begun anew.
    disk_full_hook: Option<DiskFullHook>,
    block_bytes: usize,
    table: BlockIndex,
    block: BlockBuilder,
    /// Frames that are not written yet.
    out: Vec<u8>,
    /// The length of the file without `out`.
    written: u64,
    next_ordinal: u32,
    /// The first frame after the last commit.
    first_ordinal: u32,
    records: u64,
    hash: u32,
}

impl SegmentWriter {
    /// Creates the file, durably, with its head. The manifest does not name it yet.
    pub(crate) fn create(files: &Files, origin: Origin, block_bytes: usize) -> Result<Self, Error> {
        let reencryptor = files.reencryptor.get().filter(|_| origin == Origin::Rewrite).cloned();
        Self::create_in(&files.dir, files.new_id(), origin, reencryptor, block_bytes)
    }

    /// [`Self::create`] with an id that no file of the directory has.
    pub(crate) fn create_in(
        dir: &Directory,
        id: u64,
        origin: Origin,
        reencryptor: Option<Reencryptor>,
        block_bytes: usize,
    ) -> Result<Self, Error> {
        let path = dir.file(FileName::Segment(id));
        let sealer = dir.keys.create(FileKind::Segment, id, dir.env.random.as_ref());
        let disk_full_hook = dir.disk_full_hook.get().filter(|_| origin == Origin::Flush).cloned();
        let file = retry_when_full(disk_full_hook.as_ref(), || dir.env.disk.create(&path))?;
        let file: Arc<dyn DiskFile> = file.into();
        let mut writer = Self {
            id,
            path,
            file,
            out: sealer.header().to_vec(),
            sealer: Arc::new(sealer),
            damages: dir.damages.clone(),
            reencryptor,
            disk_full_hook,
            block_bytes,
            table: BlockIndex::new(origin),
            block: BlockBuilder::default(),
            written: 0,
            next_ordinal: 0,
            first_ordinal: 0,
            records: 0,
            hash: 0,
        };
        writer.frame(frame_kind::HEAD, &origin.encode())?;
        writer.first_ordinal = writer.next_ordinal;
        let disk_full_hook = writer.disk_full_hook.clone();
        let made = writer.sync().and_then(|()| {
            retry_when_full(disk_full_hook.as_ref(), || dir.env.disk.sync_dir(&dir.path))?;
            Ok(())
        });
        if let Err(error) = made {
            // Nothing names the file; if it cannot go now, the next start removes it.
            let _is_gone = dir.remove(FileName::Segment(id)).is_ok();
            return Err(error);
        }
        Ok(writer)
    }

    /// The data key that encrypts the file.
    pub(crate) fn data_key(&self) -> DataKeyId {
        self.sealer.data_key()
    }

    /// The segment's id.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// The file's length with what is not written yet.
    pub(crate) const fn len(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<FrameRef, Error> {
        let (offset, start) = (self.len(), self.out.len());
        let ordinal = u64::from(self.next_ordinal);
        seal_frame(&self.path, &self.sealer, ordinal, kind, payload, &mut self.out)?;
        self.hash = crc32c::crc32c_append(self.hash, &[kind]);
        self.hash = crc32c::crc32c_append(self.hash, payload);
        let len = u32_of(self.out.len() - start);
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        Ok(FrameRef { offset, len, ordinal })
    }

    /// Adds a record; they come in revision order.
    pub(crate) fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        let reencrypted =
            self.reencryptor.as_ref().and_then(|it| it.reencrypt(&entry.change.record));
        let reencrypted = reencrypted.map(|record| {
            let mut entry = entry.clone();
            entry.change.record = record;
            entry
        });
        let entry = reencrypted.as_ref().unwrap_or(entry);
        let bytes = usize::try_from(entry.bytes()).unwrap_or(usize::MAX);
        if !self.block.is_empty() && self.block.len().saturating_add(bytes) > self.block_bytes {
            self.cut()?;
        }
        self.block.push(entry);
        self.records += 1;
        self.table.last = entry.change.revision;
        Ok(())
    }

    fn cut(&mut self) -> Result<(), Error> {
        if self.block.is_empty() {
            return Ok(());
        }
        let first = self.block.first();
        let payload = self.block.finish();
        // BOUND: `block_bytes` or one record, which is part of a command.
        let frame = self.frame(frame_kind::BLOCK, &payload)?;
        self.table.blocks.push(BlockRef { first, frame });
        Ok(())
    }

    /// Adds writes to the meta tables.
    pub(crate) fn push_meta(&mut self, ops: &[MetaOp]) -> Result<(), Error> {
        self.cut()?;
        let mut payload = Vec::new();
        for (position, op) in ops.iter().enumerate() {
            op.encode(&mut payload);
            if payload.len() >= META_BYTES || position + 1 == ops.len() {
                // BOUND: `META_BYTES` and one write, which is part of a command.
                let frame = self.frame(frame_kind::META, &payload)?;
                self.table.metas.push(frame);
                payload.clear();
            }
        }
        Ok(())
    }

    /// Hands frames over to the system, without a sync: for long writes.
    pub(crate) fn write(&mut self) -> Result<(), Error> {
        let write = || self.file.write_all_at(&self.out, self.written);
        retry_when_full(self.disk_full_hook.as_ref(), write)?;
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.write()?;
        Ok(self.file.sync()?)
    }

    /// Ends a flush. The commit's own fields are filled in here.
    pub(crate) fn commit(&mut self, commit: FlushCommit) -> Result<(), Error> {
        self.cut()?;
        let commit = FlushCommit {
            records: self.records,
            first_ordinal: u64::from(self.first_ordinal),
            hash: self.hash,
            ..commit
        };
        let mut payload = Vec::with_capacity(FlushCommit::LEN);
        commit.encode(&mut payload);
        self.frame(frame_kind::COMMIT, &payload)?;
        self.first_ordinal = self.next_ordinal;
        self.table.commit = commit;
        Ok(())
    }

    /// Makes what was added durable; the segment goes on.
    pub(crate) fn finish(&mut self) -> Result<Segment, Error> {
        self.sync()?;
        Ok(self.segment())
    }

    /// Adds the table and makes everything durable; the segment is complete.
    pub(crate) fn close(mut self) -> Result<(Segment, Closed), Error> {
        let mut payload = Vec::new();
        self.table.encode(&mut payload);
        let mut parts = Vec::new();
        if payload.len() > TABLE_BYTES {
            for part in payload.chunks(TABLE_BYTES) {
                parts.push(self.frame(frame_kind::TABLE_PART, part)?);
            }
            // BOUND: 16 bytes for each part, so for some hundred MiB of the segment.
            payload = BlockIndex::encode_parts(&parts);
        }
        let table = self.frame(frame_kind::TABLE, &payload)?;
        self.sync()?;
        let closed = Closed { id: self.id, len: self.written, table: Some(table) };
        Ok((self.segment(), closed))
    }

    fn segment(&self) -> Segment {
        Segment {
            id: self.id,
            path: self.path.clone(),
            file: Arc::clone(&self.file),
            sealer: Arc::clone(&self.sealer),
            first: self.table.first(),
            table: self.table.clone(),
            len: self.written,
            damages: self.damages.clone(),
        }
    }
}
