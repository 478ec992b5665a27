//! Background work: jobs that own what they need, and their results.
//!
//! The crate has no threads: [`Store::take`](crate::Store::take) hands a [`Job`] out, any thread
//! runs it, and [`Store::finish`](crate::Store::finish) takes its [`Done`] in between two batches.
//! The store alone knows which jobs are out, at most one of each kind.

pub(crate) mod checkpoint;
pub(crate) mod compaction_hash;
pub(crate) mod flush;
pub(crate) mod reclaim;
pub(crate) mod rewrite;
pub(crate) mod scrub;

use std::sync::Arc;

use crate::error::Error;
use crate::gate::Gate;
use crate::jobs::checkpoint::{CheckpointDone, CheckpointJob};
use crate::jobs::compaction_hash::CompactionHashJob;
use crate::jobs::flush::{FlushDone, FlushJob};
use crate::jobs::reclaim::Reclaim;
use crate::jobs::rewrite::{RewriteDone, RewriteJob};
use crate::jobs::scrub::ScrubJob;
use crate::pace::Pace;
use crate::record::HashKv;

/// A kind of job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobKind {
    /// Makes what was published durable.
    Flush,
    /// Writes key index and meta tables, so that a start need not replay history.
    Checkpoint,
    /// Replaces segments by one without their dead records.
    Rewrite,
    /// Computes the hash of a compaction.
    CompactionHash,
    /// Reads a segment to find damage.
    Scrub,
}

/// A job that is wanted from the store.
#[derive(Clone, Copy, Debug)]
pub enum JobRequest {
    /// A flush; there is none if everything is durable or changes are not published yet, and never
    /// again after one that failed.
    Flush,
    /// A checkpoint; there is none if the last one is as new as what is durable.
    Checkpoint,
    /// A checkpoint that lets rewrites drop what died since the kept ones; there is none if those
    /// know of every durable compaction.
    ReclaimingCheckpoint {
        /// Checkpoints that are left at most, this one included.
        kept: usize,
    },
    /// A rewrite that gives space back; there is none if none is worth it and fits.
    Rewrite(Reclaim),
    /// A rewrite of a complete segment that is encrypted with another data key than the active one.
    Reencrypt,
    /// The hash of the oldest published compaction whose hash was not taken yet. It pins the index
    /// and the files of its time, and so their space, until it has run.
    CompactionHash,
    /// A read of the next segment; each is read once after a start.
    Scrub,
}

impl JobRequest {
    /// The kind of the job that is wanted.
    #[must_use]
    pub const fn kind(&self) -> JobKind {
        match self {
            Self::Flush => JobKind::Flush,
            Self::Checkpoint | Self::ReclaimingCheckpoint { .. } => JobKind::Checkpoint,
            Self::Rewrite(_) | Self::Reencrypt => JobKind::Rewrite,
            Self::CompactionHash => JobKind::CompactionHash,
            Self::Scrub => JobKind::Scrub,
        }
    }
}

/// Work for another thread. Its end, however it comes, is told with [`Store::finish`](crate::Store::finish).
#[must_use]
#[derive(Debug)]
pub struct Job(pub(crate) Work);

/// The work of a job, by kind.
#[derive(Debug)]
pub(crate) enum Work {
    Flush(Box<FlushJob>),
    Checkpoint(Box<CheckpointJob>),
    Rewrite(Box<RewriteJob>),
    CompactionHash(Box<CompactionHashJob>),
    Scrub(ScrubJob),
}

impl Job {
    /// The kind of job.
    #[must_use]
    pub const fn kind(&self) -> JobKind {
        match self.0 {
            Work::Flush(_) => JobKind::Flush,
            Work::Checkpoint(_) => JobKind::Checkpoint,
            Work::Rewrite(_) => JobKind::Rewrite,
            Work::CompactionHash(_) => JobKind::CompactionHash,
            Work::Scrub(_) => JobKind::Scrub,
        }
    }

    /// The bytes that a rewrite's copy takes on the disk, as far as the counts of dead records tell;
    /// 0 for every other job.
    #[must_use]
    pub const fn copied_bytes(&self) -> u64 {
        match &self.0 {
            Work::Rewrite(job) => job.copied_bytes,
            _ => 0,
        }
    }

    /// Does the work. `pace` hears of every piece of it and may end it, except a flush.
    ///
    /// # Errors
    /// If a file cannot be read or written, or `pace` says stop: tell the store with
    /// [`Done::abandoned`]. After a flush that failed the store must be opened again before it is
    /// written to; otherwise it is not affected, unless the manifest is: then every later job fails.
    pub fn run(self, pace: &mut Pace<'_>) -> Result<Done, Error> {
        let gate = self.gate();
        match self.work(pace) {
            // Another store has taken the directory over: nothing has failed.
            Err(_in_vain) if gate.is_some_and(|gate| gate.is_closed()) => Err(Error::Stopped),
            ended => ended,
        }
    }

    /// The gate of the store whose files it creates or removes.
    fn gate(&self) -> Option<Arc<Gate>> {
        let files = match &self.0 {
            Work::Flush(job) => &job.files,
            Work::Checkpoint(job) => &job.files,
            Work::Rewrite(job) => &job.files,
            Work::CompactionHash(_) | Work::Scrub(_) => return None,
        };
        Some(Arc::clone(&files.dir.gate))
    }

    fn work(self, pace: &mut Pace<'_>) -> Result<Done, Error> {
        Ok(Done(match self.0 {
            Work::Flush(job) => End::Flush(Box::new(job.run()?)),
            Work::Checkpoint(job) => End::Checkpoint(job.run(pace)?),
            Work::Rewrite(job) => End::Rewrite(Box::new(job.run(pace)?)),
            Work::CompactionHash(job) => End::CompactionHash(job.run(pace)?),
            Work::Scrub(job) => {
                job.run(pace)?;
                End::Scrub
            }
        }))
    }
}

/// The end of a job.
#[must_use]
#[derive(Debug)]
pub struct Done(pub(crate) End);

/// The result of a job, by kind.
#[derive(Debug)]
pub(crate) enum End {
    Flush(Box<FlushDone>),
    Checkpoint(CheckpointDone),
    Rewrite(Box<RewriteDone>),
    CompactionHash(HashKv),
    Scrub,
    /// None: the job changed nothing.
    Abandoned(JobKind, Cause),
}

impl Done {
    /// The end of a job without a result.
    pub fn abandoned(kind: JobKind, cause: impl Into<Cause>) -> Self {
        Self(End::Abandoned(kind, cause.into()))
    }

    /// The kind of job that has ended.
    #[must_use]
    pub const fn kind(&self) -> JobKind {
        match self.0 {
            End::Flush(_) => JobKind::Flush,
            End::Checkpoint(_) => JobKind::Checkpoint,
            End::Rewrite(_) => JobKind::Rewrite,
            End::CompactionHash(_) => JobKind::CompactionHash,
            End::Scrub => JobKind::Scrub,
            End::Abandoned(kind, _) => kind,
        }
    }

    /// The reason, if the job ended without a result.
    #[must_use]
    pub const fn cause(&self) -> Option<Cause> {
        match self.0 {
            End::Abandoned(_, cause) => Some(cause),
            _ => None,
        }
    }

    /// The hash of a compaction, if that is the result.
    #[must_use]
    pub const fn compaction_hash(&self) -> Option<HashKv> {
        match self.0 {
            End::CompactionHash(hash) => Some(hash),
            _ => None,
        }
    }
}

/// Reason why a job ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Space is missing: the same rewrite is not handed out again before there is more of it, or
    /// more of it is dead.
    NoSpace,
    /// File descriptors were missing, or space that somebody has freed meanwhile.
    Shortage,
    /// A part of what it reads is damaged.
    Damage,
    /// The pace said stop.
    Stopped,
    /// Anything else: the disk failed.
    Failed,
}

impl From<&Error> for Cause {
    fn from(error: &Error) -> Self {
        match error {
            Error::Stopped => Self::Stopped,
            Error::NoRoom { .. } => Self::NoSpace,
            _ if error.is_damage() => Self::Damage,
            _ if error.is_out_of_space() => Self::NoSpace,
            _ if error.is_shortage() => Self::Shortage,
            _ => Self::Failed,
        }
    }
}
