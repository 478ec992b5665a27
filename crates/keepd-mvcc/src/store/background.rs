//! Handing out background work and taking in its results.
//!
//! INVARIANT: at most one job of a kind is out, and `Jobs::out` is the only place that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keepd_crypto::{DataKeyId, FILE_HEADER_LEN};
use keepd_types::Revision;

use crate::disk_full::DiskFullHook;
use crate::durable::Durable;
use crate::error::Error;
use crate::jobs::checkpoint::{CheckpointDone, CheckpointJob, CheckpointRef, KEPT};
use crate::jobs::flush::{Active, FlushDone, FlushJob};
use crate::jobs::{Cause, Done, End, Job, JobKind, JobRequest, Work};
use crate::options::Options;
use crate::pace::full_speed;
use crate::record::Applied;
use crate::recovery::Recovered;
use crate::revlog::files::Files;
use crate::revlog::format::FlushCommit;
use crate::revlog::segment::Segments;
use crate::store::reclaim::Refusals;
use crate::store::{Stats, Store};

/// State that the store keeps for its jobs.
#[derive(Debug)]
pub(super) struct Jobs {
    /// Jobs that are out, with the data key that was active when they were taken. BOUND: one of each
    /// kind.
    out: BTreeMap<JobKind, DataKeyId>,
    /// Those of them that the store before this one has handed out.
    foreign: BTreeSet<JobKind>,
    /// A flush failed: only a restart knows how much of it is in the files.
    is_flush_lost: bool,
    /// The next segment to scrub begins here or beyond; `None` once all were read.
    pub(super) scrub_from: Option<Revision>,
    pub(super) files: Arc<Files>,
    pub(super) options: Options,
    /// The state as of the last finished flush; checkpoints are taken of it.
    pub(super) durable: Durable,
    active: Active,
    /// Kept checkpoints, oldest first.
    pub(super) checkpoints: Vec<CheckpointRef>,
    /// Data key of each kept checkpoint, by its id; known once its file header was read.
    pub(super) checkpoint_keys: BTreeMap<u64, DataKeyId>,
    /// The checkpoint that was handed out last, until it is taken in: it may become one that
    /// recovery begins from at any moment.
    checkpoint_out: Option<FlushCommit>,
    pub(super) refusals: Refusals,
    /// The next flush begins a new segment.
    pub(super) closes: bool,
    since_checkpoint_bytes: u64,
}

impl Jobs {
    pub(super) fn new(recovered: Recovered, options: Options) -> Self {
        let Recovered { files, segments, durable, checkpoints, .. } = recovered;
        // What this start replayed the next one need not: a member that is killed again and again
        // would otherwise never come to a checkpoint.
        let known = checkpoints.last().map_or(0, |mark| mark.commit.revision);
        let since_checkpoint_bytes = segments.bytes_behind(known);
        Self {
            out: BTreeMap::new(),
            foreign: BTreeSet::new(),
            is_flush_lost: false,
            scrub_from: Some(Revision::default()),
            files,
            options,
            durable,
            active: Active::default(),
            checkpoints,
            checkpoint_keys: BTreeMap::new(),
            checkpoint_out: None,
            refusals: Refusals::default(),
            closes: false,
            since_checkpoint_bytes,
        }
    }

    /// Counts the jobs of the store before this one as out, until they are back.
    pub(super) fn expect_back(&mut self, old: &Self) {
        assert!(self.out.is_empty(), "a store that was just opened has no job out");
        self.out.clone_from(&old.out);
        self.foreign = self.out.keys().copied().collect();
    }

    /// The commits that recovery may begin from, besides from nothing.
    pub(super) fn recovery_points(&self) -> Vec<FlushCommit> {
        self.checkpoints.iter().map(|mark| mark.commit).chain(self.checkpoint_out).collect()
    }
}

impl Store {
    /// Sets the hook that is called when a flush finds the disk full; the first one set stays.
    pub fn set_disk_full_hook(&self, maker: DiskFullHook) {
        let _is_first = self.jobs.files.dir.disk_full_hook.set(maker).is_ok();
    }

    /// The entry that a restart would go on after: the Raft log may be truncated up to here.
    #[must_use]
    pub const fn durable(&self) -> Applied {
        self.jobs.durable.commit.applied
    }

    /// Hands out a job; `None` if there is none, or one of its kind is out.
    pub fn take(&mut self, request: JobRequest) -> Option<Job> {
        self.assert_sound();
        if self.is_out(request.kind()) {
            return None;
        }
        let work = match request {
            JobRequest::Flush => Work::Flush(Box::new(self.flush()?)),
            JobRequest::Checkpoint => Work::Checkpoint(Box::new(self.checkpoint()?)),
            JobRequest::ReclaimingCheckpoint { kept } => {
                Work::Checkpoint(Box::new(self.reclaiming_checkpoint(kept)?))
            }
            JobRequest::Rewrite(reclaim) => Work::Rewrite(Box::new(self.reclaim(&reclaim)?)),
            JobRequest::Reencrypt => Work::Rewrite(Box::new(self.reencrypt()?)),
            JobRequest::CompactionHash => Work::CompactionHash(Box::new(self.compaction_hash()?)),
            JobRequest::Scrub => Work::Scrub(self.scrub()?),
        };
        Some(self.note_out(Job(work)))
    }

    fn note_out(&mut self, job: Job) -> Job {
        let active = self.jobs.files.dir.keys.active();
        assert!(self.jobs.out.insert(job.kind(), active).is_none(), "two jobs of a kind are out");
        job
    }

    /// A rewrite of the complete segment at `position`.
    #[cfg(test)]
    pub(crate) fn take_rewrite_of_one(&mut self, position: usize) -> Job {
        let job = Job(Work::Rewrite(Box::new(self.rewrite_of_one(position))));
        self.note_out(job)
    }

    /// Takes in the end of a job, whether it has a result or not. One of the store that this one has
    /// replaced changes nothing here.
    ///
    /// # Panics
    /// If no such job is out.
    pub fn finish(&mut self, done: Done) {
        self.assert_sound();
        let kind = done.kind();
        assert!(
            self.jobs.out.remove(&kind).is_some(),
            "the end of a job that is not out: {kind:?}"
        );
        if self.jobs.foreign.remove(&kind) {
            return;
        }
        match done.0 {
            End::Flush(done) => self.flushed(*done),
            End::Checkpoint(done) => self.checkpointed(done),
            End::Rewrite(done) => self.rewritten(*done),
            End::CompactionHash(_) | End::Scrub => {}
            End::Abandoned(JobKind::Flush, _) => self.jobs.is_flush_lost = true,
            End::Abandoned(JobKind::Rewrite, Cause::NoSpace) => self.refuse_rewrite(),
            End::Abandoned(..) => {}
        }
    }

    /// Takes a job, runs it on this thread and takes in its end; `false` if there is none.
    ///
    /// # Errors
    /// As those of [`Job::run`].
    pub fn run(&mut self, request: JobRequest) -> Result<bool, Error> {
        let Some(job) = self.take(request) else { return Ok(false) };
        let ended = job.run(&mut full_speed);
        let (done, result) = match ended {
            Ok(done) => (done, Ok(true)),
            Err(error) => (Done::abandoned(request.kind(), &error), Err(error)),
        };
        self.finish(done);
        result
    }

    /// Whether a job of this kind was taken and has not ended.
    #[must_use]
    pub fn is_out(&self, kind: JobKind) -> bool {
        self.jobs.out.contains_key(&kind)
    }

    /// Whether a job that is out may yet write a file that is encrypted with another data key than the
    /// active one: it was taken before the key became active.
    #[must_use]
    pub fn may_write_stale_file(&self) -> bool {
        let active = self.jobs.files.dir.keys.active();
        self.jobs.out.values().any(|key| *key != active)
    }

    /// Whether the store may still hand out flushes, and none is out.
    pub(super) fn may_flush(&self) -> bool {
        !self.jobs.is_flush_lost && !self.is_out(JobKind::Flush)
    }

    /// Freezes what was published since the last flush; `None` if that is nothing, if changes are
    /// not published yet, or after a flush that failed.
    fn flush(&mut self) -> Option<FlushJob> {
        let commit = FlushCommit {
            applied: self.now.applied,
            revision: self.now.revision,
            compact_revision: self.now.compact_revision,
            ..FlushCommit::default()
        };
        let durable = &self.jobs.durable.commit;
        let is_durable = commit.applied == durable.applied
            && commit.revision == durable.revision
            && commit.compact_revision == durable.compact_revision
            && self.meta_ops.is_empty();
        let is_published = self.pending.is_empty() && !self.is_dirty;
        if !self.may_flush() || !is_published || (is_durable && !self.jobs.closes) {
            return None;
        }
        let mut meta_ops = std::mem::take(&mut self.meta_ops);
        let mut meta = Arc::clone(&self.now.meta);
        let digest = self.now.digest.to_op();
        Arc::make_mut(&mut meta).apply(digest.clone());
        meta_ops.push(digest);
        Some(FlushJob {
            files: Arc::clone(&self.jobs.files),
            options: self.jobs.options.clone(),
            active: std::mem::take(&mut self.jobs.active),
            closes: std::mem::take(&mut self.jobs.closes),
            tail: self.now.tail.clone(),
            meta_ops,
            durable: Durable { commit, index: self.now.index.clone(), meta },
            records: self.tail_records,
            bytes: self.tail_bytes,
        })
    }

    /// Takes in a flush: the records are read from the segment from now on.
    fn flushed(&mut self, done: FlushDone) {
        let FlushDone { active, segment, durable, records, bytes, written } = done;
        let before = &self.jobs.durable.commit;
        assert!(durable.commit.may_follow(before), "what is durable never goes back");
        assert!(records <= self.tail_records, "more was flushed than there was");
        self.jobs.active = active;
        self.tail_records -= records;
        self.tail_bytes -= bytes;
        self.jobs.since_checkpoint_bytes += written;
        let segment = Arc::new(segment);
        let mut list = self.now.segments.list.clone();
        match list.last_mut() {
            Some(last) if last.id == segment.id => *last = segment,
            _ => list.push(segment),
        }
        self.now.segments = Arc::new(Segments { list });
        if let Some(last) = self.last_flushed() {
            self.now.tail.drop_up_to(last);
        }
        self.jobs.durable = durable;
        self.publish_files();
    }

    /// A checkpoint of what is durable; `None` if the last one is as new.
    fn checkpoint(&mut self) -> Option<CheckpointJob> {
        let commit = &self.jobs.durable.commit;
        let newest = self.jobs.checkpoints.last().map(|mark| mark.commit.applied.index);
        let is_new = newest.is_none_or(|newest| newest < commit.applied.index);
        if is_new { self.checkpoint_and_keep(KEPT) } else { None }
    }

    /// A checkpoint that leaves `kept` of them; `None` if there is nothing yet.
    pub(super) fn checkpoint_and_keep(&mut self, kept: usize) -> Option<CheckpointJob> {
        if self.now.segments.list.is_empty() {
            return None;
        }
        let commit = &self.jobs.durable.commit;
        let surplus = (self.jobs.checkpoints.len() + 1).saturating_sub(kept);
        let active = self.jobs.files.dir.keys.active();
        let keys = &self.jobs.checkpoint_keys;
        let is_stale = |mark: &CheckpointRef| keys.get(&mark.id).is_some_and(|key| *key != active);
        let marks = self.jobs.checkpoints.iter().enumerate();
        let dropped = marks.filter(|(at, mark)| *at < surplus || is_stale(mark));
        let dropped = dropped.map(|(_, mark)| mark.id).collect();
        self.jobs.checkpoint_out = Some(*commit);
        self.jobs.since_checkpoint_bytes = 0;
        let files = Arc::clone(&self.jobs.files);
        Some(CheckpointJob { files, durable: self.jobs.durable.clone(), dropped })
    }

    /// Takes in a checkpoint.
    fn checkpointed(&mut self, done: CheckpointDone) {
        let index = done.mark.commit.applied.index;
        let is_newest = self.jobs.checkpoints.iter().all(|it| it.commit.applied.index <= index);
        assert!(is_newest, "checkpoints are taken one after the other");
        self.jobs.checkpoints.retain(|mark| !done.dropped.contains(&mark.id));
        self.jobs.checkpoints.push(done.mark);
        self.jobs.checkpoint_out = None;
        // Some tombstones may be free to go now.
        self.pinned.clear();
        self.jobs.refusals = Refusals::default();
    }

    /// Bytes that the live records take, on disk or on the way there, with what the store itself needs: so
    /// it is not zero while there is a file, and never more than [`Self::disk_bytes`].
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        let live = self.now.segments.list.iter().map(|segment| {
            let records = segment.table.commit.records;
            let dead = self.dead.get(&segment.id).copied().unwrap_or(0).min(records);
            let header = segment.len.min(FILE_HEADER_LEN as u64);
            let share = u128::from(segment.len - header) * u128::from(records - dead);
            // A segment without records holds what the store needs, and nothing that can die.
            share.checked_div(u128::from(records)).map_or(segment.len, |live| {
                header + u64::try_from(live).expect("a part is no longer than the whole")
            })
        });
        live.sum::<u64>() + self.tail_bytes
    }

    /// Bytes that all records take, dead ones included.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.now.segments.list.iter().map(|segment| segment.len).sum::<u64>() + self.tail_bytes
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            keys: self.now.index.live(),
            tail_records: self.tail_records,
            tail_bytes: self.tail_bytes,
            segments: self.now.segments.list.len() as u64,
            since_checkpoint_bytes: self.jobs.since_checkpoint_bytes,
        }
    }
}
