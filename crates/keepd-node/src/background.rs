//! The background thread: runs the store's flush, checkpoint, rewrite and hash jobs.
//!
//! Flushes have a thread, since the log grows until they are done. So have rewrites, which are paced
//! lest they starve the log of disk time: a compaction's hash does not wait for them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use keepd_mvcc::{InPlace, View};

use crate::ballast::Asks;
use crate::in_place::check_store;
use crate::inbox::Inbox;
use crate::messages::{ApplyEvent, Done, Job, Writer};
use crate::shared::Shared;

/// How long the thread sleeps when nothing happens.
const PATIENCE: Duration = Duration::from_secs(1);
/// Rewritten bytes per second at most, unless space is urgent.
const REWRITE_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// Bytes per second that are read only to look for damage.
const SCRUB_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// The way to the background threads: one for flushes, one for rewrites, one for the rest.
#[derive(Clone, Debug)]
pub(crate) struct Background {
    flushes: Arc<Inbox<Job>>,
    rewrites: Arc<Inbox<Job>>,
    rest: Arc<Inbox<Job>>,
}

impl Background {
    pub(crate) fn new() -> Self {
        // BOUND: the apply thread has at most one job of each kind on its way.
        let inbox = |jobs| Arc::new(Inbox::new(jobs));
        Self { flushes: inbox(1), rewrites: inbox(1), rest: inbox(4) }
    }

    pub(crate) fn run(&self, job: Job) {
        match job {
            Job::Flush(_) => self.flushes.hand(job),
            Job::Rewrite(_) => self.rewrites.hand(job),
            _ => self.rest.hand(job),
        };
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
                // The next life does it anew.
                Err(keepd_mvcc::Error::Stopped) => open = false,
                // The log has what was not flushed.
                Err(error) if error.is_shortage() => {
                    shared.apply.hand(ApplyEvent::Background(Box::new(Done::FlushGivenUp)));
                    open = false;
                }
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
    let clock = &shared.env.clock;
    Ok(match job {
        Job::Flush(job) => {
            let started = clock.monotonic();
            let done = job.run()?;
            Done::Flush { done: Box::new(done), took: clock.monotonic().saturating_sub(started) }
        }
        Job::Checkpoint(job) => match job.run(&mut |_| unless_stopping(shared)) {
            Ok(done) => Done::Checkpoint(done),
            Err(error) => later(shared, Writer::Checkpoint, error)?,
        },
        Job::Rewrite(job) => match job.run(&mut |bytes| pace(shared, bytes)) {
            Ok(done) => Done::Rewrite(done),
            Err(error) if error.is_damage() => {
                // The damage itself is told once, by the housekeeping.
                tracing::debug!(%error, "a rewrite is given up: its segment stays as it is");
                Done::Damaged(Writer::Rewrite)
            }
            Err(error) => later(shared, Writer::Rewrite, error)?,
        },
        Job::CompactionHash(job) => {
            let hash = job.run(&mut |_| unless_stopping(shared));
            Done::CompactionHash(readable(hash, "a compaction's hash")?)
        }
        Job::CountSealed(view) => {
            let sealed = count_sealed(&view, shared);
            Done::CountSealed(readable(sealed, "the number of sealed values")?)
        }
        Job::Scrub(job) => {
            job.run(&mut |bytes| {
                scrub_pace(bytes);
                !shared.raft.is_closed() && !shared.is_halted()
            });
            Done::Scrub
        }
        Job::RetireKeys { active, in_use } => {
            Done::RetireKeys(shared.encryption.retire_data_keys(active, &in_use))
        }
        Job::RestoreBallast => {
            shared.ballast.restore(shared.growth.promised_bytes());
            Done::RestoreBallast
        }
    })
}

fn count_sealed(view: &Arc<View>, shared: &Shared) -> Result<u64, keepd_mvcc::Error> {
    let mut sealed = 0;
    for record in view.records() {
        sealed += u64::from(record?.1.seal.is_some());
        if shared.raft.is_closed() {
            return Err(keepd_mvcc::Error::Stopped);
        }
    }
    Ok(sealed)
}

/// What a job read; none if a part of it cannot be read, which ends nothing. The damage itself is told
/// once, by the housekeeping.
fn readable<T>(
    read: Result<T, keepd_mvcc::Error>,
    what: &str,
) -> Result<Option<T>, keepd_mvcc::Error> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.is_damage() => {
            tracing::debug!(%error, "{what} cannot be computed");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A job that found no space or no descriptor has changed nothing and is begun anew when there is.
fn later(
    shared: &Shared,
    writer: Writer,
    error: keepd_mvcc::Error,
) -> Result<Done, keepd_mvcc::Error> {
    let for_space = match &error {
        keepd_mvcc::Error::NoRoom { .. } => {
            tracing::info!(%error, "a rewrite waits for more space");
            return Ok(Done::Postponed { writer, for_space: true });
        }
        keepd_mvcc::Error::Io(error) if error.is_shortage() => error.is_out_of_space(),
        _ => return Err(error),
    };
    tracing::warn!(%error, job = ?writer, "no space or no file descriptor: trying again later");
    // A rewrite was given what there is. A checkpoint lets others give back more than it takes.
    if for_space && writer != Writer::Rewrite && shared.throw_off_ballast(&error, Asks::Reclaim) {
        return Ok(Done::Postponed { writer, for_space: false });
    }
    Ok(Done::Postponed { writer, for_space })
}

/// Ends a job when the member is about to stop: all of them can be done anew.
fn unless_stopping(shared: &Shared) -> ControlFlow<()> {
    if shared.raft.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Leaves the disk to others, unless space is urgent.
fn pace(shared: &Shared, bytes: u64) -> ControlFlow<()> {
    if !shared.ballast.is_short() && !shared.raft.is_closed() {
        std::thread::sleep(Duration::from_nanos(
            bytes.saturating_mul(1_000_000_000) / REWRITE_BYTES_PER_SECOND,
        ));
    }
    unless_stopping(shared)
}

/// Leaves disk and processor to others.
fn scrub_pace(bytes: u64) {
    std::thread::sleep(Duration::from_nanos(
        bytes.saturating_mul(1_000_000_000) / SCRUB_BYTES_PER_SECOND,
    ));
}
