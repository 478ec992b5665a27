//! Reclaiming space: neighbouring segments that are mostly dead give way to one that is not.
//!
//! Nothing comes back from the dead (design rule 9.1). A record is dropped only if the index does not
//! name it: the index is trimmed to durable compactions only, so a later record of its key is there
//! to stay, or a tombstone is. The store counts its dead records by the same index, as of the moment
//! the job was taken. A dead tombstone is dropped only if
//! - every checkpoint that recovery may begin from was compacted behind it, so that none of them
//!   holds what it deleted, and
//! - no segment before the run can hold a record of the generation that it ended, so that replaying
//!   everything does not revive one.
//!
//! Deletions in the meta tables follow the same two conditions.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;
use crate::index::KeyIndex;
use crate::meta::MetaOp;
use crate::pace::{self, Pace};
use crate::record::Entry;
use crate::revlog::files::{Files, Name};
use crate::revlog::format::{Commit, Origin};
use crate::revlog::manifest::Edit;
use crate::revlog::segment::Segment;
use crate::revlog::writer::SegmentWriter;
use crate::store::Options;

/// What is encoded goes to the system in writes of about this size.
const WRITE_BYTES: u64 = 1 << 20;

/// How eagerly to reclaim space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Where at least half of the records are dead.
    Normal,
    /// Where a quarter is.
    High,
    /// Wherever there is anything to gain.
    Full,
}

impl Urgency {
    /// The share of dead records that is worth a rewrite, in percent.
    pub(crate) const fn dead_percent(self) -> u64 {
        match self {
            Self::Normal => 50,
            Self::High => 25,
            Self::Full => 0,
        }
    }
}

/// What decides whether a dead tombstone may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The lowest compact revision of all checkpoints that recovery may begin from.
    pub(crate) compact_revision: i64,
    /// The lowest applied index of them.
    pub(crate) applied_index: u64,
    /// The last main revision before the run; `None` if nothing is before it.
    pub(crate) before: Option<i64>,
}

/// Rewrites a run of segments; run it on any thread.
#[derive(Debug)]
pub struct RewriteJob {
    pub(crate) files: Arc<Files>,
    pub(crate) options: Options,
    /// Neighbours, complete, none of them the last segment.
    pub(crate) run: Vec<Arc<Segment>>,
    /// The index that decides what is dead.
    pub(crate) index: KeyIndex,
    /// The durable compact revision: the index names everything behind it.
    pub(crate) compact_revision: i64,
    pub(crate) limits: Limits,
    pub(crate) token: Arc<()>,
}

/// A rewrite that is durable; hand it to `finish_rewrite`.
#[must_use]
#[derive(Debug)]
pub struct RewriteDone {
    pub(crate) removed: Vec<u64>,
    pub(crate) added: Option<Segment>,
    /// Dead records that were left out.
    pub(crate) dropped: u64,
    /// Dead tombstones that had to stay.
    pub(crate) pinned: u64,
    _token: Arc<()>,
}

/// What a job did with the records and meta writes of its run.
#[derive(Clone, Copy, Debug, Default)]
struct Copied {
    kept: u64,
    dropped: u64,
    /// Those of the kept ones that are dead.
    pinned: u64,
}

impl RewriteJob {
    /// How many bytes the job reads.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.run.iter().map(|segment| segment.len).sum()
    }

    /// Copies what is live, makes it durable and removes the old files.
    ///
    /// # Errors
    /// If a file cannot be read or written, or `pace` says stop. The store is not affected, unless the manifest is: then
    /// every later job fails, too.
    pub fn run(self, pace: &mut Pace<'_>) -> Result<RewriteDone, Error> {
        let dir = &self.files.dir;
        let mut writer =
            SegmentWriter::create(&self.files, Origin::Rewrite, self.options.block_bytes)?;
        let id = writer.id();
        let copied = self.copy(&mut writer, pace).and_then(|copied| {
            let closed = if copied.kept > 0 { Some(writer.close()?) } else { None };
            Ok((closed, copied))
        });
        if !matches!(copied, Ok((Some(_), _))) {
            // Nothing names the file; if it cannot go now, the next start removes it.
            let _is_gone = dir.remove(Name::Segment(id)).is_ok();
        }
        let (closed, Copied { dropped, pinned, .. }) = copied?;
        let (added, closed) = closed.unzip();
        let removed: Vec<u64> = self.run.iter().map(|segment| segment.id).collect();
        let edit = Edit::Replace { removed: removed.clone(), added: closed };
        self.files.manifest.lock().edit(dir, &[edit])?;
        // The rewrite counts already; a file that cannot go now goes at the next start.
        let is_gone = |id: &u64| dir.remove(Name::Segment(*id)).is_ok();
        let gone: Vec<u64> = removed.iter().copied().filter(is_gone).collect();
        if dir.env.disk.sync_dir(&dir.path).is_ok() {
            self.files.manifest.lock().forget(&gone);
        }
        Ok(RewriteDone { removed, added, dropped, pinned, _token: self.token })
    }

    /// Copies what must stay.
    fn copy(&self, writer: &mut SegmentWriter, pace: &mut Pace<'_>) -> Result<Copied, Error> {
        let (mut copied, mut written) = (Copied::default(), writer.len());
        for segment in &self.run {
            let (mut next, count) = (0, segment.table.blocks.len());
            while next < count {
                let end = next + segment.run_from(next);
                for (position, block) in (next..end).zip(segment.read_run(next, end)?) {
                    for at in 0..block.count() {
                        let entry = segment.entry(position, &block, at)?;
                        let is_live = self.is_live(&entry);
                        if is_live || self.is_pinned(&entry) {
                            writer.push(&entry)?;
                            copied.kept += 1;
                            copied.pinned += u64::from(!is_live);
                        } else {
                            copied.dropped += 1;
                        }
                    }
                }
                let blocks = &segment.table.blocks;
                pace::tell(pace, blocks[end - 1].frame.end() - blocks[next].frame.offset)?;
                next = end;
                if writer.len() - written >= WRITE_BYTES {
                    writer.write()?;
                    written = writer.len();
                }
            }
        }
        let meta_ops = self.meta_ops()?;
        copied.kept += meta_ops.len() as u64;
        writer.push_meta(&meta_ops)?;
        writer.commit(self.commit())?;
        Ok(copied)
    }

    fn commit(&self) -> Commit {
        self.run.last().map_or(Commit::NONE, |last| last.table.commit)
    }

    fn is_live(&self, entry: &Entry) -> bool {
        let revision = entry.change.revision;
        revision.main > self.compact_revision || self.index.names(&entry.change.key, revision)
    }

    /// Whether a dead record must stay all the same.
    fn is_pinned(&self, entry: &Entry) -> bool {
        let Limits { compact_revision, before, .. } = self.limits;
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
        let is_settled = self.limits.before.is_none()
            && self.limits.applied_index >= self.commit().applied.index;
        let ops = last.into_iter().filter(|(_, value)| value.is_some() || !is_settled);
        Ok(ops.map(|((table, key), value)| MetaOp { table, key, value }).collect())
    }
}
