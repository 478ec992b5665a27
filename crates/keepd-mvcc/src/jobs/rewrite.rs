//! Reclaiming space: neighbouring segments that are mostly dead are replaced by one that is not.
//!
//! A rewrite copies the records that must stay into a new segment, names it in the manifest in place of
//! the old ones, and removes those. It must drop nothing that a reader may still ask for, and nothing
//! comes back from the dead (rule 9.1): a deleted key must not return after any later start.
//!
//! ```text
//!   before    [ seg 1: a2 b3 a4 ] [ seg 2: b5 c6 a7 ] [ seg 3: last, not touched ]
//!   index     a: 7   c: 6          (b was deleted at 5, history before 7 is compacted)
//!   after     [ seg 4:          c6 a7 ]               [ seg 3 ]
//! ```
//!
//! A record is *live* if the key index names its revision: as the latest state of its key or as one
//! that the history still shows. Everything after the compact revision is live. The index is
//! trimmed only to compactions that are durable, so a start cannot come to an older compact revision at
//! which a dropped record would be wanted again.
//!
//! A dead record that is a put can go: a later record of its key, or a tombstone, is there to stay.
//! A dead *tombstone* may still be needed by a start, which begins from a checkpoint or from
//! nothing and replays the segments. It may go only if neither of two things can hold what it deleted:
//!
//! 1. A checkpoint. Every checkpoint that recovery may begin from was compacted after the deletion, so
//!    its index does not have the key any more.
//! 2. An older segment. No segment before the run holds records of the generation that it ended:
//!    replaying them would revive the key, with no tombstone to delete it again.
//!
//! In the drawing `b5` deletes `b`. If a kept checkpoint stands at revision 4, its index says that `b`
//! is live; without `b5` a start from it would serve `b3` forever. So `b5` is copied as well, and counts
//! as *pinned*: dead, but not to be dropped yet. Once every kept checkpoint knows the compaction at 7,
//! the next rewrite leaves `b5` out. `b3` is in the same run, so the second condition holds; if it lay in
//! an older segment, `b5` would stay until that one is rewritten.
//!
//! Deletions in the meta tables follow the same two conditions.
//!
//! A block that cannot be read goes with its segment only if nothing in it can have to stay: the index
//! names no record there, every checkpoint was compacted after it, and no segment before the run
//! holds a dead record that a tombstone in it may have ended. Otherwise the rewrite fails and changes
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use keepd_types::Revision;

use crate::affected::Affected;
use crate::digest;
use crate::error::Error;
use crate::index::KeyIndex;
use crate::meta::MetaOp;
use crate::options::Options;
use crate::pace::{self, Pace};
use crate::record::Entry;
use crate::revlog::block::Block;
use crate::revlog::directory::FileName;
use crate::revlog::files::Files;
use crate::revlog::format::{FlushCommit, Origin};
use crate::revlog::manifest::Edit;
use crate::revlog::segment::Segment;
use crate::revlog::writer::SegmentWriter;

/// Size of the writes, about, in which encoded records go to the system.
const WRITE_BYTES: u64 = 1 << 20;
/// Bytes of a segment beside its records: header, head, commit, and some frames of meta writes.
const SEGMENT_OVERHEAD: u64 = 64 * 1024;
/// Frames and the table add at most one part in this number to the records.
const FRAMING_PARTS: u64 = 8;

/// Facts that decide whether a dead tombstone may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropBounds {
    /// The lowest compact revision of all checkpoints that recovery may begin from.
    pub(crate) compact_revision: i64,
    /// The lowest applied index of them.
    pub(crate) applied_index: u64,
    /// The last main revision before the run; `None` if nothing is before it.
    pub(crate) before: Option<i64>,
    /// Nothing before the run is dead: no tombstone in it can be needed for what is there.
    pub(crate) is_first: bool,
}

/// Rewrites a run of segments.
#[derive(Debug)]
pub(crate) struct RewriteJob {
    pub(crate) files: Arc<Files>,
    pub(crate) options: Options,
    /// Neighbours, complete, none of them the last segment.
    pub(crate) run: Vec<Arc<Segment>>,
    /// The index that decides what is dead.
    pub(crate) index: KeyIndex,
    /// The durable applied index: what is dead then is dropped.
    pub(crate) durable_index: u64,
    /// The durable compact revision: the index names everything after it.
    pub(crate) compact_revision: i64,
    pub(crate) limits: DropBounds,
    /// Bytes that the copy may take.
    pub(crate) room: u64,
    /// Bytes that it will take, as far as the counts of dead records tell.
    pub(crate) copied_bytes: u64,
}

/// Counts of a copy.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    records: u64,
    /// Dead tombstones among them that had to stay.
    pinned: u64,
}

/// The segment that a copy goes into; there is no file as long as nothing is kept.
struct Target<'a> {
    job: &'a RewriteJob,
    writer: Option<SegmentWriter>,
    /// Bytes of it that were handed to the system.
    written: u64,
}

impl Target<'_> {
    fn writer(&mut self) -> Result<&mut SegmentWriter, Error> {
        if self.writer.is_none() {
            let RewriteJob { files, options, .. } = self.job;
            let writer = SegmentWriter::create(files, Origin::Rewrite, options.block_bytes)?;
            self.written = writer.len();
            self.writer = Some(writer);
        }
        Ok(self.writer.as_mut().expect("it was just made"))
    }

    /// Hands over what gathered.
    fn write(&mut self) -> Result<(), Error> {
        if let Some(writer) = &mut self.writer
            && writer.len() - self.written >= WRITE_BYTES
        {
            writer.write()?;
            self.written = writer.len();
        }
        Ok(())
    }
}

/// A rewrite that is durable.
#[derive(Debug)]
pub(crate) struct RewriteDone {
    pub(crate) removed: Vec<u64>,
    pub(crate) added: Option<Segment>,
    /// Dead records that were left out.
    pub(crate) dropped: u64,
    /// Dead tombstones that had to stay.
    pub(crate) pinned: u64,
}

impl RewriteJob {
    /// Bytes that the job reads.
    pub(crate) fn bytes(&self) -> u64 {
        self.run.iter().map(|segment| segment.len).sum()
    }

    /// Copies what is live, makes it durable and removes the old files.
    pub(crate) fn run(self, pace: &mut Pace<'_>) -> Result<RewriteDone, Error> {
        let dir = &self.files.dir;
        self.check_known_damage()?;
        self.check_room(pace)?;
        let mut target = Target { job: &self, writer: None, written: 0 };
        let copied = self.copy(&mut target, pace);
        let id = target.writer.as_ref().map(SegmentWriter::id);
        let copied = copied
            .and_then(|kept| Ok((kept, target.writer.map(SegmentWriter::close).transpose()?)));
        if copied.is_err()
            && let Some(id) = id
        {
            // Nothing names the file; if it cannot go now, the next start removes it.
            let _is_gone = dir.remove(FileName::Segment(id)).is_ok();
        }
        let (Kept { records, pinned }, closed) = copied?;
        let (added, closed) = closed.unzip();
        let removed: Vec<u64> = self.run.iter().map(|segment| segment.id).collect();
        let edit = Edit::Replace { removed: removed.clone(), added: closed };
        keepd_env::failpoint!(CompactBeforeCommitBatch);
        self.files.manifest.lock().edit(dir, &[edit, Edit::ReliesOn(self.durable_index)])?;
        keepd_env::failpoint!(CompactAfterCommitBatch);
        // The rewrite counts already; a file that cannot go now goes at the next start.
        keepd_env::failpoint!(CompactBeforeSetFinishedCompact);
        let is_gone = |id: &u64| dir.remove(FileName::Segment(*id)).is_ok();
        let gone: Vec<u64> = removed.iter().copied().filter(is_gone).collect();
        if dir.env.disk.sync_dir(&dir.path).is_ok() {
            self.files.manifest.lock().forget(&gone);
        }
        keepd_env::failpoint!(CompactAfterSetFinishedCompact);
        let all: u64 = self.run.iter().map(|segment| segment.table.commit.records).sum();
        // A table may lie about its count.
        let dropped = all.saturating_sub(records);
        Ok(RewriteDone { removed, added, dropped, pinned })
    }

    /// Counts what the copy would take where it might not fit: a copy that fails half way took the
    /// space that others needed meanwhile.
    fn check_room(&self, pace: &mut Pace<'_>) -> Result<(), Error> {
        if self.room >= self.bytes() + SEGMENT_OVERHEAD {
            return Ok(());
        }
        let (mut kept, room) = (0, self.room);
        self.for_each_kept(pace, &mut |entry, _| {
            kept += entry.bytes();
            let bytes = kept + kept / FRAMING_PARTS + SEGMENT_OVERHEAD;
            if bytes > room { Err(Error::NoRoom { bytes, room }) } else { Ok(()) }
        })
    }

    /// Copies what must stay.
    fn copy(&self, target: &mut Target<'_>, pace: &mut Pace<'_>) -> Result<Kept, Error> {
        let mut kept = Kept::default();
        self.for_each_kept(pace, &mut |entry, is_live| {
            target.writer()?.push(entry)?;
            kept.records += 1;
            kept.pinned += u64::from(!is_live);
            target.write()
        })?;
        let meta_ops = self.meta_ops()?;
        if kept.records > 0 || !meta_ops.is_empty() {
            let writer = target.writer()?;
            writer.push_meta(&meta_ops)?;
            writer.commit(self.commit())?;
        }
        Ok(kept)
    }

    /// Calls `keep` with each record that must stay, and whether it is live.
    fn for_each_kept(
        &self,
        pace: &mut Pace<'_>,
        keep: &mut dyn FnMut(&Entry, bool) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut last = None;
        for segment in &self.run {
            let (mut next, count) = (0, segment.table.blocks.len());
            while next < count {
                let end = next + segment.run_from(next);
                let run = segment.read_run(next, end).ok();
                for position in next..end {
                    let block = match &run {
                        Some(run) => Ok(Arc::clone(&run[position - next])),
                        None => segment.read_run(position, position + 1).map(|mut it| it.remove(0)),
                    };
                    let block = block.map(|block| (position, block));
                    let kept = block.and_then(|it| self.keep_of(segment, &it, &mut last, keep));
                    kept.or_else(|error| self.check_empty(segment, position, error))?;
                }
                let blocks = &segment.table.blocks;
                pace::tell(pace, blocks[end - 1].frame.end() - blocks[next].frame.offset)?;
                next = end;
            }
        }
        Ok(())
    }

    /// Calls `keep` with what must stay of one block; its records come after `last`.
    fn keep_of(
        &self,
        segment: &Segment,
        (position, block): &(usize, Arc<Block>),
        last: &mut Option<Revision>,
        keep: &mut dyn FnMut(&Entry, bool) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for at in 0..block.count() {
            let entry = segment.entry(*position, block, at)?;
            let revision = Some(entry.change.revision);
            if revision <= std::mem::replace(last, revision) {
                let offset = segment.table.blocks[*position].frame.offset;
                return Err(segment.corrupt(offset, "records out of order"));
            }
            let is_live = self.is_live(&entry);
            if is_live || self.is_pinned(&entry) {
                keep(&entry, is_live)?;
            }
        }
        Ok(())
    }

    /// Looks at known damage before anything is copied.
    fn check_known_damage(&self) -> Result<(), Error> {
        for segment in &self.run {
            for damage in self.files.dir.damages.of(&segment.path) {
                let blocks = &segment.table.blocks;
                let Ok(at) = blocks.binary_search_by_key(&damage, |it| it.frame.offset) else {
                    continue;
                };
                // A disk may read again what it once did not.
                let read = segment.read_run(at, at + 1).map(drop);
                read.or_else(|error| self.check_empty(segment, at, error))?;
            }
        }
        Ok(())
    }

    /// Lets a block go that cannot be read if nothing in it must stay, whatever it holds.
    fn check_empty(&self, segment: &Segment, position: usize, damage: Error) -> Result<(), Error> {
        if !damage.is_damage() {
            return Err(damage);
        }
        let range = segment.revisions_of(position);
        // INVARIANT: the index names all that is live, and everything after the compact revision.
        if let Some(affected) = Affected::find(&self.index, |revision| range.contains(&revision)) {
            return Err(damage.affecting(affected));
        }
        let DropBounds { compact_revision, is_first, .. } = self.limits;
        if is_first && range.end.main < compact_revision { Ok(()) } else { Err(damage) }
    }

    fn commit(&self) -> FlushCommit {
        self.run.last().map_or(FlushCommit::NONE, |last| last.table.commit)
    }

    fn is_live(&self, entry: &Entry) -> bool {
        let revision = entry.change.revision;
        revision.main > self.compact_revision || self.index.names(&entry.change.key, revision)
    }

    /// Whether a dead record must stay all the same.
    fn is_pinned(&self, entry: &Entry) -> bool {
        let DropBounds { compact_revision, before, .. } = self.limits;
        let is_in_checkpoint = entry.change.revision.main >= compact_revision;
        let is_needed_before = before.is_some_and(|before| entry.create <= before);
        entry.change.record.tombstone && (is_in_checkpoint || is_needed_before)
    }

    /// The last write to each key of the meta tables, deletions if they are still needed.
    fn meta_ops(&self) -> Result<Vec<MetaOp>, Error> {
        let mut last: BTreeMap<(u8, Bytes), Option<Bytes>> = BTreeMap::new();
        for segment in &self.run {
            for op in segment.meta_ops()? {
                last.insert((op.table, op.key), op.value);
            }
        }
        // The last segment, which is never in the run, has the digest that counts.
        last.retain(|(table, _), _| *table != digest::OWN_TABLE);
        let is_settled = self.limits.before.is_none()
            && self.limits.applied_index >= self.commit().applied.index;
        let ops = last.into_iter().filter(|(_, value)| value.is_some() || !is_settled);
        Ok(ops.map(|((table, key), value)| MetaOp { table, key, value }).collect())
    }
}
