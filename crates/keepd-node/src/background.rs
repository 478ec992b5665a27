//! The background thread: runs the store's flush, checkpoint, rewrite and hash jobs.
//!
//! Flushes have a thread, since the log grows until they are done. So have rewrites, which are paced
//! lest they starve the log of disk time: a compaction's hash does not wait for them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use keepd_mvcc::{Cause, InPlace, JobKind, View};

use crate::ballast::Asks;
use crate::in_place::check_store;
use crate::inbox::{Inbox, Refused};
use crate::messages::{ApplyEvent, Done, Job};
use crate::shared::Shared;

/// How long the thread sleeps when nothing happens.
const PATIENCE: Duration = Duration::from_secs(1);
/// Rewritten bytes per second at most, unless space is urgent.
const REWRITE_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// Bytes per second that are read only to look for damage.
const SCRUB_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// BOUND: jobs that are neither flush nor rewrite, one of each kind: checkpoint, compaction hash,
/// scrub, count of sealed values, keyring, ballast.
const OTHER_JOBS_MAX: usize = 6;

/// The way to the background threads: one for flushes, one for rewrites, one for the rest.
#[derive(Clone, Debug)]
pub(crate) struct Background {
    flushes: Arc<Inbox<Job>>,
    rewrites: Arc<Inbox<Job>>,
    rest: Arc<Inbox<Job>>,
}

impl Background {
    pub(crate) fn new() -> Self {
        // BOUND: at most one job of each kind is out.
        let inbox = |jobs| Arc::new(Inbox::new(jobs));
        Self { flushes: inbox(1), rewrites: inbox(1), rest: inbox(OTHER_JOBS_MAX) }
    }

    /// # Panics
    /// If more jobs wait than can be out.
    pub(crate) fn run(&self, job: Job) {
        let inbox = match &job {
            Job::Store(job) if job.kind() == JobKind::Flush => &self.flushes,
            Job::Store(job) if job.kind() == JobKind::Rewrite => &self.rewrites,
            _ => &self.rest,
        };
        assert!(inbox.offer(job, 1) != Err(Refused::Full), "two jobs of a kind are out");
    }

    /// The jobs that wait, for a test that runs them by hand.
    #[cfg(test)]
    pub(crate) fn take_all(&self) -> Vec<Job> {
        let mut all = Vec::new();
        for inbox in [&self.flushes, &self.rewrites, &self.rest] {
            let mut jobs = Vec::new();
            inbox.drain(&mut jobs, Duration::ZERO);
            all.append(&mut jobs);
        }
        all
    }

    pub(crate) fn close(&self) {
        self.flushes.close();
        self.rewrites.close();
        self.rest.close();
    }

    /// The loop of the flush thread.
    pub(crate) fn run_flushes(&self, shared: &Shared, store: &InPlace) {
        work(&self.flushes, shared, Some(store));
    }

    /// The loop of the thread for rewrites.
    pub(crate) fn run_rewrites(&self, shared: &Shared) {
        work(&self.rewrites, shared, None);
    }

    /// The loop of the thread for everything else.
    pub(crate) fn run_rest(&self, shared: &Shared) {
        work(&self.rest, shared, None);
    }
}

fn work(inbox: &Inbox<Job>, shared: &Shared, store: Option<&InPlace>) {
    let mut jobs = Vec::new();
    // `hand` to the apply thread fails once it has ended, and with it this thread.
    let mut open = true;
    while open && !shared.is_halted() {
        inbox.drain(&mut jobs, PATIENCE);
        if jobs.is_empty()
            && let Some(Err(error)) = store.map(|store| check_store(shared, store))
        {
            shared.halt(error);
        }
        for job in jobs.drain(..) {
            let done = run(job, shared).and_then(|done| {
                // ORDER: before the log lets go what was flushed.
                store.map_or(Ok(()), |store| check_store(shared, store)).map(|()| done)
            });
            match done {
                Ok(done) => open = shared.apply.hand(ApplyEvent::Background(Box::new(done))),
                Err(error) => {
                    // Files that were taken away say more than the call that missed them.
                    let gone = store.and_then(|store| check_store(shared, store).err());
                    shared.halt(gone.unwrap_or(error));
                }
            }
        }
        open = open && !inbox.is_closed();
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
        Job::RestoreBallast => {
            shared.ballast.restore(shared.growth.promised_bytes());
            Done::RestoreBallast
        }
    })
}

/// The number of sealed values; none if a part of the store cannot be read, which ends nothing, or
/// if the member stops.
fn count_sealed(view: &Arc<View>, shared: &Shared) -> Result<Option<u64>, keepd_mvcc::Error> {
    let mut sealed = 0;
    for record in view.records() {
        match record {
            Ok((_, record)) => sealed += u64::from(record.seal.is_some()),
            Err(error) if error.is_damage() => {
                // The damage itself is told once, by the housekeeping.
                tracing::debug!(%error, "the number of sealed values cannot be computed");
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        if shared.raft.is_closed() {
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
            // The damage itself is told once, by the housekeeping.
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
            if may_ask && shared.throw_off_ballast(&error, Asks::Reclaim) {
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
        JobKind::Rewrite if shared.ballast.is_short() => None,
        JobKind::Rewrite => Some(REWRITE_BYTES_PER_SECOND),
        JobKind::Scrub => Some(SCRUB_BYTES_PER_SECOND),
        JobKind::Flush | JobKind::Checkpoint | JobKind::CompactionHash => None,
    };
    if let Some(bytes_per_second) = bytes_per_second.filter(|_| !shared.raft.is_closed()) {
        let nanos = bytes.saturating_mul(1_000_000_000) / bytes_per_second;
        std::thread::sleep(Duration::from_nanos(nanos));
    }
    if shared.raft.is_closed() || shared.is_halted() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
