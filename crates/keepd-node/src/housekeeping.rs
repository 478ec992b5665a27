//! What the apply thread does between batches: flushes, checkpoints, rewrites, quota, leases.
//!
//! Jobs are taken from the store here and run on the background thread; at most one of each kind is
//! on its way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use keepd_machine::{Command, Machine, tables};
use keepd_mvcc::{Applied, Urgency, full_speed};
use tokio::sync::oneshot;

use crate::background::{Background, Done, Job};
use crate::conversion::{Conversion, Wish, Writer};
use crate::encryption::active_keys;
use crate::shared::Shared;
use crate::wal_thread::WalEvent;

/// Expired leases proposed per pass; 1000 a second, as in etcd.
pub(crate) const EXPIRED_MAX: usize = 500;
/// How long and how often the stop looks whether a checkpoint that is being written has ended.
const STOP_TURN: Duration = Duration::from_millis(5);
const STOP_TURNS: usize = 400;
/// How often expired leases are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// Unflushed bytes that make a flush due before its time.
const FLUSH_BYTES: u64 = 4 * 1024 * 1024;
/// How often space is looked after.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);
/// Flushed bytes between two checkpoints.
const CHECKPOINT_BYTES: u64 = 256 * 1024 * 1024;
/// Entries that become durable in the store between two releases of the log.
const RELEASE_ENTRIES: u64 = 10_000;
/// Bytes of entries written between two releases of the log: few large entries fill a disk too.
const RELEASE_BYTES: u64 = 64 * 1024 * 1024;
/// Index leaves trimmed of compacted history per turn.
const TRIM_LEAVES: usize = 64;
/// How long after a job found the disk full the next one is tried.
const FULL_DISK_PAUSE: Duration = Duration::from_secs(5);
/// How often a missing ballast is tried to be brought back.
const BALLAST_INTERVAL: Duration = Duration::from_secs(1);
/// NOSPACE clears by itself when live bytes are below this part of the quota, in percent.
const QUOTA_CLEAR_PERCENT: i64 = 90;

#[derive(Debug)]
pub(crate) struct Housekeeping {
    shared: Arc<Shared>,
    background: Background,
    flush_due: Duration,
    flushing: bool,
    checkpointing: bool,
    rewriting: bool,
    expiry_due: Duration,
    space_due: Duration,
    /// A NOSPACE command of ours is on its way until the alarms change; one that raft dropped is
    /// proposed again then.
    nospace_again: Option<Duration>,
    /// A checkpoint found the disk full and is still to be written.
    owes_checkpoint: bool,
    /// No checkpoint or rewrite before: one found the disk full.
    jobs_due: Duration,
    restoring_ballast: bool,
    ballast_due: Duration,
    /// Who waits for a round of reclaiming.
    reclaimers: Vec<oneshot::Sender<()>>,
    /// Who waits for past compactions to be done with.
    settlers: Vec<oneshot::Sender<()>>,
    hash_pending: bool,
    /// The log was last told that it may go up to here.
    released: u64,
    /// Of the bytes written into the log, how many make the next release due. Nothing is known of
    /// what a start found in it, so the first flush is followed by one.
    release_at: u64,
    conversion: Conversion,
}

impl Housekeeping {
    pub(crate) fn new(shared: Arc<Shared>, background: Background) -> Self {
        let conversion = Conversion::new(Arc::clone(&shared));
        Self {
            shared,
            background,
            flush_due: Duration::ZERO,
            flushing: false,
            checkpointing: false,
            rewriting: false,
            expiry_due: Duration::ZERO,
            space_due: Duration::ZERO,
            nospace_again: None,
            owes_checkpoint: false,
            jobs_due: Duration::ZERO,
            restoring_ballast: false,
            ballast_due: Duration::ZERO,
            reclaimers: Vec::new(),
            settlers: Vec::new(),
            hash_pending: false,
            released: 0,
            release_at: 0,
            conversion,
        }
    }

    /// One turn between batches; whether the next one should come at once.
    pub(crate) fn turn(&mut self, machine: &mut Machine, now: Duration) -> bool {
        // Who has given up waiting is not hurried for.
        self.settlers.retain(|reply| !reply.is_closed());
        self.reclaimers.retain(|reply| !reply.is_closed());
        self.flush(machine, now);
        let trimming = machine.store_mut().trim(TRIM_LEAVES);
        if !self.hash_pending
            && let Some(job) = machine.store_mut().take_compaction_hash()
        {
            self.hash_pending = true;
            self.background.run(Job::CompactionHash(job));
        }
        if !self.hash_pending && machine.store().is_settled() {
            for reply in self.settlers.drain(..) {
                let _ = reply.send(());
            }
        }
        if now >= self.space_due {
            self.space_due = now + SPACE_INTERVAL;
            self.look_after_space(machine, now);
            self.convert(machine, now);
        }
        trimming
    }

    pub(crate) fn expiry_is_due(&mut self, now: Duration) -> bool {
        let due = now >= self.expiry_due;
        if due {
            self.expiry_due = now + EXPIRY_INTERVAL;
        }
        due
    }

    /// Takes a finished job back into the store.
    pub(crate) fn done(&mut self, machine: &mut Machine, done: Done) {
        let store = machine.store_mut();
        match done {
            Done::Flush { done, took } => {
                self.flushing = false;
                self.conversion.finished(Writer::Flush);
                self.shared.metrics.backend_commit_seconds.observe(took);
                store.finish_flush(*done);
                let durable = store.durable();
                let written = self.shared.metrics.wal_write_bytes.load(Ordering::Relaxed);
                let is_due = written >= self.release_at || self.shared.ballast.is_short();
                self.release_log(durable, if is_due { 1 } else { RELEASE_ENTRIES });
            }
            Done::Checkpoint(done) => {
                self.checkpointing = false;
                self.conversion.finished(Writer::Checkpoint);
                store.finish_checkpoint(done);
            }
            Done::Rewrite(done) => {
                self.rewriting = false;
                self.conversion.finished(Writer::Rewrite);
                store.finish_rewrite(done);
                self.space_due = Duration::ZERO;
            }
            Done::CompactionHash(hash) => {
                self.hash_pending = false;
                self.shared.remember_hash(hash);
            }
            Done::CountSealed(sealed) => self.conversion.counted(store, sealed),
            Done::RestoreBallast => self.restoring_ballast = false,
            Done::NoSpace(writer) => self.no_space(writer),
        }
        self.publish_space(machine);
    }

    /// Lets the log go up to what is durable in the store, if that is so many entries more than last
    /// time.
    fn release_log(&mut self, durable: Applied, entries: u64) {
        let Applied { index, term } = durable;
        if index >= self.released + entries {
            self.released = index;
            let written = self.shared.metrics.wal_write_bytes.load(Ordering::Relaxed);
            self.release_at = written + RELEASE_BYTES;
            self.shared.wal.hand(WalEvent::Release { index, term });
        }
    }

    /// A job found the disk full.
    fn no_space(&mut self, writer: Writer) {
        self.conversion.finished(writer);
        self.jobs_due = self.shared.env.clock.monotonic() + FULL_DISK_PAUSE;
        match writer {
            Writer::Checkpoint => {
                self.checkpointing = false;
                self.owes_checkpoint = true;
            }
            Writer::Rewrite => self.rewriting = false,
            Writer::Flush => {}
        }
    }

    /// Someone wants space back now.
    pub(crate) fn reclaim(&mut self, reply: oneshot::Sender<()>) {
        self.reclaimers.push(reply);
        self.space_due = Duration::ZERO;
    }

    /// Someone wants to see past compactions done with.
    pub(crate) fn settle(&mut self, reply: oneshot::Sender<()>) {
        self.settlers.push(reply);
    }

    pub(crate) fn publish_space(&self, machine: &Machine) {
        let store = machine.store();
        let shared = &self.shared;
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        shared.live_bytes.store(signed(store.live_bytes()), Ordering::Relaxed);
        shared.disk_bytes.store(signed(store.disk_bytes()), Ordering::Relaxed);
    }

    /// The last flush and a checkpoint, so that the next start is short. Runs on this thread, beside
    /// the background threads' last jobs.
    pub(crate) fn finish(&self, machine: &mut Machine) {
        if self.flushing {
            // What is not flushed is in the log.
            return;
        }
        let store = machine.store_mut();
        let result = (|| -> Result<(), keepd_mvcc::Error> {
            if let Some(job) = store.take_flush() {
                store.finish_flush(job.run()?);
            }
            // BOUND: a checkpoint that is out ends with the piece it is writing.
            for _ in 0..STOP_TURNS {
                if !store.is_checkpointing() {
                    break;
                }
                std::thread::sleep(STOP_TURN);
            }
            if let Some(job) = store.take_checkpoint() {
                store.finish_checkpoint(job.run(&mut full_speed)?);
            }
            Ok(())
        })();
        if let Err(error) = result {
            tracing::warn!(%error, "the last flush failed; the next start replays the log");
        }
    }

    fn flush(&mut self, machine: &mut Machine, now: Duration) {
        let store = machine.store_mut();
        // A compaction that somebody waits for must be durable first.
        let is_due = now >= self.flush_due || !self.settlers.is_empty();
        if self.flushing || !(is_due || store.stats().tail_bytes >= FLUSH_BYTES) {
            return;
        }
        if let Some(job) = store.take_flush() {
            self.flushing = true;
            self.conversion.taken(Writer::Flush);
            self.flush_due = now + self.shared.options.flush_interval;
            self.background.run(Job::Flush(Box::new(job)));
        }
    }

    fn look_after_space(&mut self, machine: &mut Machine, now: Duration) {
        self.publish_space(machine);
        self.look_after_nospace(machine, now);
        if self.shared.ballast.is_short() {
            self.release_log(machine.store().durable(), 1);
        }
        self.run_jobs(machine, now);
        // ORDER: the space that it left is a rewrite's first, which may give back more.
        if !self.rewriting {
            self.look_after_ballast(now);
        }
    }

    fn run_jobs(&mut self, machine: &mut Machine, now: Duration) {
        if now < self.jobs_due {
            return;
        }
        let is_due = machine.store().stats().since_checkpoint_bytes > CHECKPOINT_BYTES;
        if !self.checkpointing && (is_due || self.owes_checkpoint) {
            self.checkpoint(machine);
        }
        if self.rewriting {
            return;
        }
        let urgency = if self.reclaimers.is_empty() { self.urgency() } else { Urgency::Full };
        match machine.store_mut().take_rewrite(urgency) {
            Some(job) => {
                self.rewriting = true;
                self.conversion.taken(Writer::Rewrite);
                self.background.run(Job::Rewrite(job));
            }
            None => {
                for reply in self.reclaimers.drain(..) {
                    let _ = reply.send(());
                }
            }
        }
    }

    /// Lets files and values follow the encryption configuration.
    fn convert(&mut self, machine: &mut Machine, now: Duration) {
        if now < self.jobs_due {
            return;
        }
        match self.conversion.turn(machine.store_mut(), now) {
            Wish::Nothing => {}
            Wish::Run(job) => {
                self.rewriting |= matches!(*job, Job::Rewrite(_));
                self.background.run(*job);
            }
            Wish::Checkpoint if self.checkpointing => {}
            Wish::Checkpoint => self.checkpoint(machine),
            Wish::Barrier => {
                let keys = active_keys(&self.shared.views.load()).unwrap_or_default();
                let name = Bytes::from_static(tables::ACTIVE_KEYS_KEY);
                let command = Command::SetCluster { name, value: keys.encode() };
                self.shared.propose_own(command, now);
            }
        }
    }

    fn checkpoint(&mut self, machine: &mut Machine) {
        self.owes_checkpoint = false;
        if let Some(job) = machine.store_mut().take_checkpoint() {
            self.checkpointing = true;
            self.conversion.taken(Writer::Checkpoint);
            self.background.run(Job::Checkpoint(job));
        }
    }

    /// Files far larger than what lives in them are the quota's problem too.
    fn urgency(&self) -> Urgency {
        let disk = self.shared.disk_bytes.load(Ordering::Relaxed);
        match self.shared.options.quota_bytes {
            Some(quota) if disk > quota => Urgency::High,
            _ if self.shared.ballast.is_short() => Urgency::High,
            _ => Urgency::Normal,
        }
    }

    /// Rule 9.21: the alarm is raised and cleared by replicated commands, with hysteresis.
    fn look_after_nospace(&mut self, machine: &Machine, now: Duration) {
        let nospace = self.shared.nospace();
        let stands = machine.alarms().contains(&nospace);
        let live = self.shared.live_bytes.load(Ordering::Relaxed);
        let is_roomy = || {
            let quota = self.shared.options.quota_bytes;
            quota.is_none_or(|quota| live < quota / 100 * QUOTA_CLEAR_PERCENT)
        };
        // The quota raises it at the door, where the request is known that does not fit.
        let is_short = self.shared.ballast.is_short();
        let is_wanted = is_short || (stands && !is_roomy());
        if stands == is_wanted {
            self.nospace_again = None;
            return;
        }
        let waits = self.nospace_again.is_some_and(|again| now < again);
        if waits || !self.shared.leads_alone.load(Ordering::Relaxed) {
            return;
        }
        self.nospace_again = Some(now + self.shared.options.request_timeout());
        let command = if is_wanted {
            tracing::warn!("the file system has no space to spare: raising the NOSPACE alarm");
            Command::AlarmActivate(nospace)
        } else {
            tracing::info!(live_bytes = live, "space is back: clearing the NOSPACE alarm");
            Command::AlarmDeactivate(nospace)
        };
        self.shared.propose_own(command, now);
    }

    fn look_after_ballast(&mut self, now: Duration) {
        let is_due = now >= self.ballast_due && !self.restoring_ballast;
        if is_due && self.shared.ballast.is_missing() {
            self.ballast_due = now + BALLAST_INTERVAL;
            self.restoring_ballast = true;
            self.background.run(Job::RestoreBallast);
        }
    }
}

#[cfg(test)]
mod tests;
