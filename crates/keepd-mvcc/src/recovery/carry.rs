//! The last flush of a segment that grew until its process ended, written anew.
//!
//! It was read, but nothing says that it was synced. The log may have been released after it, so it
//! cannot be dropped; and a sync of the file that it lies in proves nothing after one that failed. So
//! its records go into a segment of their own, synced before the manifest names it, and the old
//! segment ends in front of them. It costs one flush for each start after a kill, none after an
//! orderly stop.

use std::sync::Arc;

use super::Doubt;
use crate::error::Error;
use crate::revlog::directory::{Directory, FileName};
use crate::revlog::format::{BlockIndex, Origin};
use crate::revlog::manifest::{Closed, SegmentEntry, State as Live};
use crate::revlog::segment::{Segment, Segments};
use crate::revlog::writer::SegmentWriter;

/// Writes the last flush of the last segment into segment `id`; the segments and the live files then.
pub(super) fn write_anew(
    dir: &Directory,
    live: &mut Live,
    segments: &Segments,
    before: Doubt,
    id: u64,
    block_bytes: usize,
) -> Result<Segments, Error> {
    let mut list = segments.list.clone();
    let grown = list.pop().expect("the segment that is in doubt is the last one");
    let blocks = before.as_ref().map_or(0, |before| before.table.blocks.len());
    let metas = before.as_ref().map_or(0, |before| before.table.metas.len());
    let flush = with_table(
        &grown,
        grown.len,
        BlockIndex {
            blocks: grown.table.blocks[blocks..].to_vec(),
            metas: grown.table.metas[metas..].to_vec(),
            ..grown.table.clone()
        },
    );
    // Until the manifest names it, the old segment holds the same.
    let written = SegmentWriter::create_in(dir, id, Origin::Rewrite, None, block_bytes)
        .and_then(|writer| copy(&flush, writer));
    let (segment, closed) = match written {
        Ok(written) => written,
        Err(error) => {
            // Nothing names the file; if it cannot go now, the next start removes it.
            let _is_gone = dir.remove(FileName::Segment(id)).is_ok();
            return Err(error);
        }
    };
    live.segments.pop();
    match before {
        Some(before) => {
            let kept = Closed { id: grown.id, len: before.len, table: None };
            live.segments.push(SegmentEntry::Closed(kept));
            list.push(Arc::new(with_table(&grown, before.len, before.table)));
        }
        None => {
            live.removed.insert(grown.id);
        }
    }
    live.segments.push(SegmentEntry::Closed(closed));
    list.push(Arc::new(segment));
    Ok(Segments { list })
}

/// A part of a segment that ends with a commit.
fn with_table(segment: &Segment, len: u64, table: BlockIndex) -> Segment {
    Segment {
        id: segment.id,
        path: segment.path.clone(),
        file: Arc::clone(&segment.file),
        sealer: Arc::clone(&segment.sealer),
        damages: segment.damages.clone(),
        first: table.first(),
        table,
        len,
    }
}

fn copy(flush: &Segment, mut writer: SegmentWriter) -> Result<(Segment, Closed), Error> {
    let (mut next, count) = (0, flush.table.blocks.len());
    while next < count {
        let end = next + flush.run_from(next);
        for (position, block) in (next..end).zip(flush.read_run(next, end)?) {
            for at in 0..block.count() {
                writer.push(&flush.entry(position, &block, at)?)?;
            }
        }
        next = end;
    }
    writer.push_meta(&flush.meta_ops()?)?;
    writer.commit(flush.table.commit)?;
    writer.close()
}
