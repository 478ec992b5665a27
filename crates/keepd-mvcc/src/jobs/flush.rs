//! Flushing: the tail becomes blocks of the active segment, durable with the applied index.
//!
//! The store freezes what is published and hands out a [`FlushJob`]; any thread runs it: encode,
//! seal, one write, one sync. Until the store takes the result in, views read the frozen records
//! from memory. If a job fails, the store must not be used for writing any more: reopen it.

use std::sync::Arc;

use crate::durable::Durable;
use crate::error::Error;
use crate::meta::MetaOp;
use crate::options::Options;
use crate::revlog::files::Files;
use crate::revlog::format::Origin;
use crate::revlog::manifest::{Closed, Edit};
use crate::revlog::segment::Segment;
use crate::revlog::writer::SegmentWriter;
use crate::tail::Tail;

/// The segment that flushes append to, between jobs.
#[derive(Debug, Default)]
pub(crate) struct Active {
    writer: Option<SegmentWriter>,
    /// The last segment is full, but the manifest does not say so yet.
    full: Option<Closed>,
}

/// Makes the published records, the meta writes and the applied index durable.
#[derive(Debug)]
pub(crate) struct FlushJob {
    pub(crate) files: Arc<Files>,
    pub(crate) options: Options,
    pub(crate) active: Active,
    /// The last segment is to be complete, whatever its length.
    pub(crate) closes: bool,
    pub(crate) tail: Tail,
    pub(crate) meta_ops: Vec<MetaOp>,
    pub(crate) durable: Durable,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// A flush that is durable.
#[derive(Debug)]
pub(crate) struct FlushDone {
    pub(crate) active: Active,
    pub(crate) segment: Segment,
    pub(crate) durable: Durable,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Bytes that the flush added to the files.
    pub(crate) written: u64,
}

impl FlushJob {
    /// Writes and syncs.
    pub(crate) fn run(self) -> Result<FlushDone, Error> {
        keepd_env::failpoint!(BeforeStartDbTxn);
        let mut active = self.active;
        let is_over = |writer: &mut SegmentWriter| {
            // Everything that is added goes under the active key.
            self.closes || self.files.is_stale(writer.id(), writer.data_key())
        };
        if let Some(writer) = active.writer.take_if(is_over) {
            let (_, closed) = writer.close()?;
            active.full = Some(closed);
        }
        let mut writer = match active.writer {
            Some(writer) => writer,
            None => open_segment(&self.files, &self.options, active.full.take())?,
        };
        keepd_env::failpoint!(AfterStartDbTxn);
        let before = writer.len();
        for batch in self.tail.batches() {
            batch.entries.iter().try_for_each(|entry| writer.push(entry))?;
        }
        keepd_env::failpoint!(CommitBeforePreCommitHook);
        writer.push_meta(&self.meta_ops)?;
        keepd_env::failpoint!(CommitAfterPreCommitHook);
        writer.commit(self.durable.commit)?;
        keepd_env::failpoint!(BeforeCommit);
        let segment = if writer.len() >= self.options.segment_bytes {
            let (segment, closed) = writer.close()?;
            active = Active { writer: None, full: Some(closed) };
            segment
        } else {
            let segment = writer.finish()?;
            active = Active { writer: Some(writer), full: None };
            segment
        };
        keepd_env::failpoint!(AfterCommit);
        Ok(FlushDone {
            active,
            written: segment.len - before,
            segment,
            durable: self.durable,
            records: self.records,
            bytes: self.bytes,
        })
    }
}

/// Begins the next segment: the file first, then the manifest, then commits.
fn open_segment(
    files: &Files,
    options: &Options,
    full: Option<Closed>,
) -> Result<SegmentWriter, Error> {
    let writer = SegmentWriter::create(files, Origin::Flush, options.block_bytes)?;
    let close = full.map(Edit::Close);
    let edits: Vec<Edit> = close.into_iter().chain([Edit::AddActive(writer.id())]).collect();
    files.manifest.lock().edit(&files.dir, &edits)?;
    Ok(writer)
}
