//! The background parts: run the store's flush, checkpoint, rewrite and hash jobs.
//!
//! Flushes have a thread, since the log grows until they are done. So have rewrites, which are paced
//! lest they starve the log of disk time: a compaction's hash does not wait for them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use keepd_mvcc::{Cause, InPlace, JobKind, RangeError, View};

use crate::ballast::Asks;
use crate::driver::{Next, Part};
use crate::in_place::check_store;
use crate::mailbox::{Mailbox, Refused};
use crate::messages::{ApplyEvent, Done, Job, PeerHash};
use crate::shared::Shared;

/// Interval at which files are checked for having been taken away.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Rewritten bytes per second at most, unless space is urgent.
const REWRITE_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// Bytes per second that are read only to look for damage.
const SCRUB_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// BOUND: jobs that are neither flush nor rewrite, one of each kind: checkpoint, compaction hash,
/// scrub, count of sealed values, keyring, ballast, hash for another member, a replaced state.
const OTHER_JOBS_MAX: usize = 8;

/// The way to the background parts: one for flushes, one for rewrites, one for the rest.
#[derive(Clone, Debug)]
pub(crate) struct Background {
    pub(crate) flushes: Arc<Mailbox<Job>>,
    pub(crate) rewrites: Arc<Mailbox<Job>>,
    pub(crate) rest: Arc<Mailbox<Job>>,
}

impl Background {
    pub(crate) fn new() -> Self {
        // BOUND: at most one job of each kind is out.
        let mailbox = |jobs| Arc::new(Mailbox::new(jobs));
        Self { flushes: mailbox(1), rewrites: mailbox(1), rest: mailbox(OTHER_JOBS_MAX) }
    }

    /// # Panics
    /// If more jobs wait than can be out.
    pub(crate) fn run(&self, job: Job) {
        let mailbox = match &job {
            Job::Store(job) if job.kind() == JobKind::Flush => &self.flushes,
            Job::Store(job) if job.kind() == JobKind::Rewrite => &self.rewrites,
            _ => &self.rest,
        };
        assert!(mailbox.try_push(job, 1) != Err(Refused::Full), "two jobs of a kind are out");
    }

    /// The jobs that wait, for a test that runs them by hand.
    #[cfg(test)]
    pub(crate) fn take_all(&self) -> Vec<Job> {
        let mut all = Vec::new();
        for mailbox in [&self.flushes, &self.rewrites, &self.rest] {
            let mut jobs = Vec::new();
            mailbox.drain(&mut jobs);
            all.append(&mut jobs);
        }
        all
    }

    pub(crate) fn close(&self) {
        self.flushes.close();
        self.rewrites.close();
        self.rest.close();
    }
}

/// A part that runs jobs.
#[derive(Debug)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox<Job>>,
    /// The files that must be in place before the log lets go what they hold; known to the worker for
    /// flushes.
    in_place: Option<InPlace>,
    next_check: Duration,
    has_ended: bool,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        mailbox: &Arc<Mailbox<Job>>,
        in_place: Option<InPlace>,
    ) -> Self {
        let mailbox = Arc::clone(mailbox);
        Self { shared, mailbox, in_place, next_check: Duration::ZERO, has_ended: false }
    }

    fn check_store(&self) -> Result<(), keepd_mvcc::Error> {
        self.in_place.as_ref().map_or(Ok(()), |store| check_store(&self.shared, store))
    }

    fn work(&mut self, job: Job) {
        let shared = &self.shared;
        let done = run(job, shared).and_then(|done| {
            // ORDER: before the log lets go what was flushed.
            self.check_store().map(|()| done)
        });
        match done {
            // The apply part takes nothing once it has ended, and this part ends too.
            Ok(done) => {
                self.has_ended |=
                    !shared.mailboxes.apply.push(ApplyEvent::Background(Box::new(done)));
            }
            Err(error) => {
                // Files that were taken away say more than the call that missed them.
                shared.halt(self.check_store().err().unwrap_or(error));
            }
        }
    }
}

impl Part for Worker {
    type Event = Job;

    fn react(&mut self, batch: &mut Vec<Job>, _now: Duration) {
        for job in batch.drain(..) {
            if !self.has_ended && !self.shared.is_halted() {
                self.work(job);
            }
        }
    }

    fn turn(&mut self, now: Duration) -> Next {
        if self.has_ended || self.mailbox.is_closed() {
            return Next::End;
        }
        if now >= self.next_check {
            self.next_check = now + CHECK_INTERVAL;
            if let Err(error) = self.check_store() {
                self.shared.halt(error);
            }
        }
        Next::At(now + CHECK_INTERVAL)
    }
}

pub(crate) fn run(job: Job, shared: &Shared) -> Result<Done, keepd_mvcc::Error> {
    Ok(match job {
        Job::Store(job) => {
            let (kind, clock) = (job.kind(), &shared.env.clock);
            let started = clock.monotonic();
            let done = match job.run(&mut |bytes| pace(shared, kind, bytes)) {
                Ok(done) => done,
                Err(error) => keepd_mvcc::Done::abandoned(kind, cause(shared, kind, error)?),
            };
            Done::Store { done, took: clock.monotonic().saturating_sub(started) }
        }
        Job::CountSealed(view) => Done::CountSealed(count_sealed(&view, shared)?),
        Job::RetireKeys { active, in_use } => {
            Done::RetireKeys(shared.encryption.retire_data_keys(active, &in_use))
        }
        Job::DiscardState(place) => {
            if let Err(error) = shared.installer.discard() {
                tracing::warn!(%error, "what a state replaced stays on the disk until the next one");
            }
            drop(place);
            Done::DiscardState
        }
        Job::HashKv(revision, reply) => {
            reply.send(hash_kv(revision, shared));
            Done::HashKv
        }
        Job::RestoreBallast => {
            shared.space.ballast.restore(shared.space.growth.promised_bytes());
            Done::RestoreBallast
        }
    })
}

/// The hash of the keys at a revision; that of a past compaction counts first, as in the protocol.
fn hash_kv(revision: i64, shared: &Shared) -> PeerHash {
    let view = shared.views.load();
    let current = view.revision();
    let hash = match shared.compaction_hash(revision) {
        Some(hash) => Ok(hash),
        None => view.hash_kv(revision),
    };
    match hash {
        Ok(hash) => PeerHash::Hashed { hash, revision: current },
        Err(keepd_mvcc::Error::Range(RangeError::Compacted { .. })) => PeerHash::Compacted,
        Err(keepd_mvcc::Error::Range(RangeError::Future { .. })) => PeerHash::Future,
        Err(error) => {
            tracing::warn!(%error, "the hash that another member asked for cannot be computed");
            PeerHash::Failed
        }
    }
}

/// The number of sealed values; none if a part of the store cannot be read, which ends nothing, or
/// if the member stops.
fn count_sealed(view: &Arc<View>, shared: &Shared) -> Result<Option<u64>, keepd_mvcc::Error> {
    let mut sealed = 0;
    for record in view.records() {
        match record {
            Ok((_, record)) => sealed += u64::from(record.seal.is_some()),
            Err(error) if error.is_damage() => {
                // The damage itself is told once, by the job scheduler.
                tracing::debug!(%error, "the number of sealed values cannot be computed");
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        if shared.mailboxes.raft.is_closed() {
            return Ok(None);
        }
    }
    Ok(Some(sealed))
}

/// The reason why a job ends without a result and may be done anew; an error stops the member.
fn cause(
    shared: &Shared,
    kind: JobKind,
    error: keepd_mvcc::Error,
) -> Result<Cause, keepd_mvcc::Error> {
    let cause = Cause::from(&error);
    match (kind, cause) {
        (_, Cause::Stopped) => {}
        // It waited for space or a descriptor until the stop: the log has what was not flushed.
        (JobKind::Flush, Cause::NoSpace | Cause::Shortage) => {}
        (JobKind::Rewrite | JobKind::CompactionHash, Cause::Damage) => {
            // The damage itself is told once, by the job scheduler.
            tracing::debug!(%error, job = ?kind, "a job is given up: what it reads is damaged");
        }
        (JobKind::Rewrite, Cause::NoSpace) if matches!(error, keepd_mvcc::Error::NoRoom { .. }) => {
            tracing::info!(%error, "a rewrite waits for more space");
        }
        (JobKind::Checkpoint | JobKind::Rewrite, Cause::NoSpace | Cause::Shortage) => {
            let is_space = cause == Cause::NoSpace;
            tracing::warn!(%error, job = ?kind, "no space or no file descriptor: trying again later");
            // A rewrite was given what there is. A checkpoint lets others give back more than it takes.
            let may_ask = is_space && kind == JobKind::Checkpoint;
            if may_ask && shared.release_ballast(&error, Asks::Reclaim) {
                return Ok(Cause::Shortage);
            }
        }
        _ => return Err(error),
    }
    Ok(cause)
}

/// Leaves disk and processor to others, unless space is urgent, and ends a job when the member is about
/// to stop: all of them can be done anew.
fn pace(shared: &Shared, kind: JobKind, bytes: u64) -> ControlFlow<()> {
    let bytes_per_second = match kind {
        JobKind::Rewrite if shared.space.ballast.is_short() => None,
        JobKind::Rewrite => Some(REWRITE_BYTES_PER_SECOND),
        JobKind::Scrub => Some(SCRUB_BYTES_PER_SECOND),
        JobKind::Flush | JobKind::Checkpoint | JobKind::CompactionHash => None,
    };
    if let Some(bytes_per_second) = bytes_per_second.filter(|_| !shared.mailboxes.raft.is_closed())
    {
        let nanos = bytes.saturating_mul(1_000_000_000) / bytes_per_second;
        shared.env.clock.sleep(Duration::from_nanos(nanos));
    }
    if shared.mailboxes.raft.is_closed() || shared.is_halted() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
