//! The work of the apply part between batches: flushes, checkpoints, rewrites, space, the NOSPACE alarm.
//!
//! Jobs are taken from the store here and run by the background parts; the store knows which are out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_machine::command::{ALARM_NOSPACE, Alarm};
use keepd_machine::{Command, StateMachine, membership, tables};
use keepd_mvcc::{Applied, Cause, JobKind, JobRequest, Reclaim, Store, Urgency};
use tokio::sync::oneshot;

use crate::ballast::Asks;
use crate::encryption::own_keys::readable;
use crate::encryption::reencrypt::{NextStep, Reencryption};
use crate::messages::{Done, Job, PeerHash, Reply};
use crate::shared::Shared;
use crate::shared::incoming::IncomingPlace;
use crate::threads::background::Background;

mod release_points;

use self::release_points::ReleasePoints;

/// Time that a stop waits for a checkpoint that is being written: it ends with its current piece.
const STOP_CHECKPOINT_TIME: Duration = Duration::from_secs(2);
/// Unflushed bytes that make a flush due before its time.
const FLUSH_BYTES: u64 = 4 * 1024 * 1024;
/// Interval at which space is measured and jobs are scheduled.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);
/// Flushed bytes between two checkpoints.
const CHECKPOINT_BYTES: u64 = 256 * 1024 * 1024;
/// Bytes of entries written between two releases of the log: few large entries fill a disk too.
const RELEASE_BYTES: u64 = 64 * 1024 * 1024;
/// Index leaves trimmed of compacted history per turn.
const TRIM_LEAVES: usize = 64;
/// Pause after a job that found no space or no descriptor.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);
/// A log that takes more than this has something to give back while space is short: a file in use
/// and the next one, with what is reserved for each, take less.
const LOG_BYTES: u64 = 5 * 1024 * 1024;
/// Interval at which the log is asked for it.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// Checkpoints that are kept of old times when space is asked back: one more is being written.
const KEPT_WITH_SPACE: usize = 2;
/// While space is short one has to do: what is left to a start without it is to read everything.
const KEPT_WITHOUT_SPACE: usize = 1;
/// BOUND: how many may wait for a round of reclaiming.
const DEFRAG_WAITERS_MAX: usize = 1000;
/// Interval between two attempts to reserve a missing ballast.
const BALLAST_INTERVAL: Duration = Duration::from_secs(1);
/// Advice on a damaged segment.
const DAMAGE_ADVICE: &str = "a file is damaged: records in it cannot be read, everything else is \
    served; write or delete the keys whose reads fail, compact and defragment, or restore a snapshot";
/// NOSPACE clears by itself when live bytes are below this part of the quota, in percent.
const QUOTA_CLEAR_PERCENT: i64 = 90;

#[derive(Debug)]
pub(crate) struct JobScheduler {
    shared: Arc<Shared>,
    background: Background,
    flush_due: Duration,
    space_due: Duration,
    /// A NOSPACE command of ours is on its way until the alarms change; one that raft dropped is
    /// proposed again then.
    nospace_again: Option<Duration>,
    /// The time at which the alarm of a removed member may be cleared again.
    removed_again: Option<Duration>,
    /// A checkpoint found the disk full and is still to be written.
    checkpoint_pending: bool,
    /// No checkpoint or rewrite before: one found no space or no descriptor.
    jobs_due: Duration,
    /// A checkpoint found no space with so much free: none for reclaiming before there is more.
    checkpoint_refused: Option<u64>,
    /// Bytes that the rewrite that is out copies.
    copied_bytes: u64,
    log_due: Duration,
    /// Segments below this id belong to the round of reclaiming that somebody waits for.
    round: Option<u64>,
    restoring_ballast: bool,
    /// A hash for another member is being computed.
    hashing: bool,
    ballast_due: Duration,
    /// Tasks that wait for a round of reclaiming.
    defrag_waiters: Vec<oneshot::Sender<()>>,
    /// Tasks that wait until past compactions are finished.
    compaction_waiters: Vec<oneshot::Sender<()>>,
    /// The log was last told that it may go up to here.
    released: u64,
    /// Of the bytes written into the log, how many make the next release due. Nothing is known of
    /// what a start found in it, so the first flush is followed by one.
    release_at: u64,
    /// Set once the last flush is done: until when a stop waits for a checkpoint that is out.
    stop_by: Option<Duration>,
    reencryption: Reencryption,
    /// Entries up to which the log can go while later ones are kept.
    release_points: ReleasePoints,
}

impl JobScheduler {
    pub(crate) fn new(shared: Arc<Shared>, background: Background) -> Self {
        let reencryption = Reencryption::new(Arc::clone(&shared));
        Self {
            shared,
            background,
            flush_due: Duration::ZERO,
            space_due: Duration::ZERO,
            nospace_again: None,
            removed_again: None,
            checkpoint_pending: false,
            jobs_due: Duration::ZERO,
            checkpoint_refused: None,
            copied_bytes: 0,
            log_due: Duration::ZERO,
            round: None,
            restoring_ballast: false,
            hashing: false,
            ballast_due: Duration::ZERO,
            defrag_waiters: Vec::new(),
            compaction_waiters: Vec::new(),
            released: 0,
            release_at: 0,
            stop_by: None,
            reencryption,
            release_points: ReleasePoints::default(),
        }
    }

    /// One turn between batches; whether the next one should come at once.
    pub(crate) fn turn(&mut self, machine: &mut StateMachine, now: Duration) -> bool {
        // Who has given up waiting is not hurried for.
        self.compaction_waiters.retain(|reply| !reply.is_closed());
        self.defrag_waiters.retain(|reply| !reply.is_closed());
        self.flush(machine, now);
        let store = machine.store_mut();
        let trimming = store.trim(TRIM_LEAVES);
        self.start(store, JobRequest::CompactionHash);
        if !store.is_out(JobKind::CompactionHash) && store.is_settled() {
            for reply in self.compaction_waiters.drain(..) {
                let _ = reply.send(());
            }
        }
        if now >= self.space_due {
            self.space_due = now + SPACE_INTERVAL;
            self.look_after_space(machine, now);
            self.reencrypt(machine, now);
            self.scrub(machine.store_mut());
        }
        trimming
    }

    /// Has a background thread run a job, if there is one; whether there is.
    fn start(&self, store: &mut Store, request: JobRequest) -> bool {
        let job = store.take(request);
        let is_there = job.is_some();
        job.into_iter().for_each(|job| self.background.run(Job::Store(job)));
        is_there
    }

    /// Takes in a finished job.
    pub(crate) fn done(&mut self, machine: &mut StateMachine, done: Done) {
        let store = machine.store_mut();
        match done {
            Done::Store { done, took } => self.take_in(store, done, took),
            Done::CountSealed(sealed) => self.reencryption.counted(store, sealed),
            Done::RetireKeys(result) => self.reencryption.retired(result),
            Done::RestoreBallast => self.restoring_ballast = false,
            Done::HashKv => self.hashing = false,
            Done::DiscardState => {}
        }
        self.publish_space(machine);
    }

    /// Removes what a state replaced.
    pub(crate) fn discard_state(&self, place: IncomingPlace) {
        self.background.run(Job::DiscardState(place));
    }

    fn take_in(&mut self, store: &mut Store, done: keepd_mvcc::Done, took: Duration) {
        let (kind, cause) = (done.kind(), done.cause());
        if let Some(hash) = done.compaction_hash() {
            self.shared.keep_compaction_hash(hash);
        }
        store.finish(done);
        if kind == JobKind::Rewrite {
            self.copied_bytes = 0;
        }
        if let Some(cause) = cause {
            self.abandoned(kind, cause);
            return;
        }
        match kind {
            JobKind::Flush => {
                self.shared.metrics.backend_commit_seconds.observe(took);
                self.release_points.note(store.durable());
                let written = self.shared.metrics.wal_write_bytes.load(Ordering::Relaxed);
                let is_due = written >= self.release_at || self.shared.space.ballast.is_short();
                self.release_log(
                    store.durable(),
                    if is_due { 1 } else { self.shared.options.snapshot_count },
                );
            }
            JobKind::Checkpoint => self.checkpoint_refused = None,
            JobKind::Rewrite => self.space_due = Duration::ZERO,
            JobKind::CompactionHash | JobKind::Scrub => {}
        }
    }

    /// A job ended without a result.
    fn abandoned(&mut self, kind: JobKind, cause: Cause) {
        match cause {
            Cause::NoSpace | Cause::Shortage => {
                self.jobs_due = self.shared.env.clock.monotonic() + SHORTAGE_PAUSE;
                self.checkpoint_pending |= kind == JobKind::Checkpoint;
                if kind == JobKind::Checkpoint && cause == Cause::NoSpace {
                    self.checkpoint_refused = Some(self.shared.space.ballast.reclaimable_bytes());
                }
            }
            Cause::Damage => self.space_due = Duration::ZERO,
            Cause::Stopped | Cause::Failed => {}
        }
    }

    /// Lets the log go up to what is durable in the store, if that is so many entries more than last
    /// time.
    fn release_log(&mut self, durable: Applied, entries: u64) {
        let Some(up_to) = self.shipped(durable) else { return };
        if up_to.index >= self.released + entries && !self.others_need(up_to.index) {
            self.released = up_to.index;
            let written = self.shared.metrics.wal_write_bytes.load(Ordering::Relaxed);
            self.release_at = written + RELEASE_BYTES;
            self.shared.release_log(up_to, false);
        }
    }

    /// The last entry that may go of those that are durable in the store: what is to be shipped stays, as
    /// long as there is space for it.
    fn shipped(&mut self, durable: Applied) -> Option<Applied> {
        let behind = self.shared.log_holds.behind().unwrap_or(u64::MAX);
        let bytes = self.shared.space.log_bytes.load(Ordering::Relaxed);
        let is_kept = durable.index > behind
            && bytes < self.shared.options.shipped_log_bytes
            && !self.shared.space.ballast.is_short();
        if is_kept { self.release_points.before(behind) } else { Some(durable) }
    }

    /// Whether a follower lacks entries up to this one, and the log may be kept for it.
    fn others_need(&self, index: u64) -> bool {
        let needed = self.shared.progress.log_needed.load(Ordering::Relaxed);
        let bytes = self.shared.space.log_bytes.load(Ordering::Relaxed);
        let is_short = self.shared.space.ballast.is_short();
        (1..=index).contains(&needed) && bytes < self.shared.options.log_held_bytes && !is_short
    }

    /// Someone wants space back now.
    pub(crate) fn reclaim(&mut self, reply: oneshot::Sender<()>) {
        if self.defrag_waiters.len() < DEFRAG_WAITERS_MAX {
            self.defrag_waiters.push(reply);
        }
        self.space_due = Duration::ZERO;
    }

    /// Another member wants the hash of the keys at a revision. One is computed at a time.
    pub(crate) fn hash_kv(&mut self, revision: i64, reply: Reply<PeerHash>) {
        if self.hashing {
            return reply.send(PeerHash::Failed);
        }
        self.hashing = true;
        self.background.run(Job::HashKv(revision, reply));
    }

    /// Someone wants to see past compactions done with.
    pub(crate) fn settle(&mut self, reply: oneshot::Sender<()>) {
        self.compaction_waiters.push(reply);
    }

    pub(crate) fn publish_space(&self, machine: &StateMachine) {
        let store = machine.store();
        let shared = &self.shared;
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        shared.space.live_bytes.store(signed(store.live_bytes()), Ordering::Relaxed);
        shared.space.disk_bytes.store(signed(store.disk_bytes()), Ordering::Relaxed);
        shared.space.growth.promise(store.stats().tail_bytes + self.copied_bytes);
    }

    /// The last flush and a checkpoint, so that the next start is short; whether all is done. They
    /// run on this thread, after the jobs of the same kind that are out.
    pub(crate) fn stop(&mut self, machine: &mut StateMachine, now: Duration) -> bool {
        let store = machine.store_mut();
        if store.is_out(JobKind::Flush) {
            // It ends: nothing waits for space any more.
            return false;
        }
        let Some(stop_by) = self.stop_by else {
            let is_flushed = is_done(store.run(JobRequest::Flush));
            if is_flushed {
                *self.shared.shutdown.flushed.lock() = Some(store.durable());
                self.stop_by = Some(now + STOP_CHECKPOINT_TIME);
            }
            return !is_flushed;
        };
        if store.is_out(JobKind::Checkpoint) && now < stop_by {
            return false;
        }
        let _is_written = is_done(store.run(JobRequest::Checkpoint));
        true
    }

    fn flush(&mut self, machine: &mut StateMachine, now: Duration) {
        let store = machine.store_mut();
        // A compaction that somebody waits for must be durable first.
        let is_awaited = !self.compaction_waiters.is_empty() || !self.defrag_waiters.is_empty();
        let is_due = now >= self.flush_due || is_awaited || store.is_closing();
        let is_due = is_due || store.stats().tail_bytes >= FLUSH_BYTES;
        if is_due && self.start(store, JobRequest::Flush) {
            self.flush_due = now + self.shared.options.flush_interval;
        }
    }

    fn look_after_space(&mut self, machine: &mut StateMachine, now: Duration) {
        self.publish_space(machine);
        self.shared.measure_space();
        self.update_nospace_alarm(machine, now);
        self.clear_alarms_of_removed(machine, now);
        if self.shared.space.ballast.is_short() || !self.defrag_waiters.is_empty() {
            self.shrink_log(machine.store().durable(), now);
        }
        self.run_jobs(machine, now);
        // ORDER: the space that it left is a rewrite's first, which may give back more.
        if !machine.store().is_out(JobKind::Rewrite) {
            self.restore_ballast(now);
        }
    }

    /// Has the log give back what is durable in the store, also of the file that it writes.
    fn shrink_log(&mut self, durable: Applied, now: Duration) {
        let Some(up_to) = self.shipped(durable) else { return };
        let index = up_to.index;
        let is_large = self.shared.space.log_bytes.load(Ordering::Relaxed) > LOG_BYTES;
        if now < self.log_due || !(is_large || index > self.released) {
            return;
        }
        self.log_due = now + LOG_INTERVAL;
        self.released = self.released.max(index);
        self.shared.release_log(up_to, is_large);
    }

    fn run_jobs(&mut self, machine: &mut StateMachine, now: Duration) {
        if now < self.jobs_due {
            return;
        }
        let is_due = machine.store().stats().since_checkpoint_bytes > CHECKPOINT_BYTES;
        let has_room = self
            .checkpoint_refused
            .is_none_or(|refused| self.shared.space.ballast.reclaimable_bytes() > refused);
        if has_room && (is_due || self.checkpoint_pending) {
            self.checkpoint(machine.store_mut());
        }
        let is_short = self.shared.space.ballast.is_short();
        let is_awaited = !self.defrag_waiters.is_empty();
        if (is_short || is_awaited) && !self.prepare(machine, has_room) {
            return;
        }
        if machine.store().is_out(JobKind::Rewrite) {
            return;
        }
        let below =
            is_awaited.then(|| *self.round.get_or_insert_with(|| machine.store().next_file()));
        let reclaim = Reclaim {
            urgency: if is_awaited { Urgency::Full } else { self.urgency() },
            room: self.shared.space.bytes_for_copies(),
            is_short,
            below: below.unwrap_or(u64::MAX),
        };
        match machine.store_mut().take(JobRequest::Rewrite(reclaim)) {
            Some(job) => self.rewrite(job),
            None => {
                self.round = None;
                for reply in self.defrag_waiters.drain(..) {
                    let _ = reply.send(());
                }
            }
        }
    }

    /// Prepares a rewrite that is to give back all it can: past compactions are durable and
    /// counted, the last segment is complete, and no checkpoint holds what died. Whether it is so.
    fn prepare(&self, machine: &mut StateMachine, has_room: bool) -> bool {
        let is_short = self.shared.space.ballast.is_short();
        let store = machine.store_mut();
        if !store.is_settled() {
            // What a past compaction killed is not all counted.
            return is_short && self.defrag_waiters.is_empty();
        }
        store.close_segment(if self.defrag_waiters.is_empty() {
            Urgency::High
        } else {
            Urgency::Full
        });
        if store.is_closing() || store.is_out(JobKind::Checkpoint) {
            return false;
        }
        let kept = if is_short { KEPT_WITHOUT_SPACE } else { KEPT_WITH_SPACE };
        !(has_room && self.start(store, JobRequest::ReclaimingCheckpoint { kept }))
    }

    fn rewrite(&mut self, job: keepd_mvcc::Job) {
        self.copied_bytes = job.copied_bytes();
        let shared = &self.shared;
        let is_large = || {
            let available = shared.space.ballast.available_bytes().unwrap_or(u64::MAX);
            self.copied_bytes > available.saturating_sub(shared.space.growth.promised_bytes())
        };
        let reason = "a rewrite that gives space back has no room for its copy";
        while is_large() && shared.release_ballast(&reason, Asks::Reclaim) {}
        self.background.run(Job::Store(job));
    }

    /// Takes the next step of the re-encryption of files and values.
    fn reencrypt(&mut self, machine: &mut StateMachine, now: Duration) {
        if now < self.jobs_due {
            return;
        }
        match self.reencryption.next_step(machine.store_mut(), now) {
            NextStep::Nothing => {}
            NextStep::Run(job) => self.background.run(*job),
            NextStep::Checkpoint => self.checkpoint(machine.store_mut()),
            NextStep::Propose => {
                let keys = readable(self.shared.encryption.config().as_ref());
                let member = self.shared.identity.member;
                self.shared.propose_own(Command::SetReadableKeys { member, keys }, None, now);
            }
        }
    }

    fn checkpoint(&mut self, store: &mut Store) {
        if !store.is_out(JobKind::Checkpoint) {
            self.checkpoint_pending = false;
            self.start(store, JobRequest::Checkpoint);
        }
    }

    /// Files far larger than what lives in them are the quota's problem too.
    fn urgency(&self) -> Urgency {
        let disk = self.shared.space.disk_bytes.load(Ordering::Relaxed);
        match self.shared.options.quota_bytes {
            Some(quota) if disk > quota => Urgency::High,
            _ if self.shared.space.ballast.is_short() => Urgency::High,
            _ => Urgency::Normal,
        }
    }

    /// Rule 9.21: the alarm is raised and cleared by replicated commands, with hysteresis.
    fn update_nospace_alarm(&mut self, machine: &StateMachine, now: Duration) {
        let nospace = self.shared.nospace();
        let stands = machine.alarms().contains(&nospace);
        let live = self.shared.space.live_bytes.load(Ordering::Relaxed);
        let is_roomy = || {
            let quota = self.shared.options.quota_bytes;
            quota.is_none_or(|quota| live < quota / 100 * QUOTA_CLEAR_PERCENT)
        };
        // The quota raises it at the door, where the request is known that does not fit.
        let is_short = self.shared.space.ballast.is_short();
        let is_wanted = is_short || (stands && !is_roomy());
        if stands == is_wanted {
            self.nospace_again = None;
            return;
        }
        let waits = self.nospace_again.is_some_and(|again| now < again);
        // Every member answers for its own disk, whoever leads.
        if waits || self.shared.progress.leader.load(Ordering::Acquire) == 0 {
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
        self.shared.propose_own(command, None, now);
    }

    /// Whoever was removed does not clear its alarm any more: the leader does.
    fn clear_alarms_of_removed(&mut self, machine: &StateMachine, now: Duration) {
        let waits = self.removed_again.is_some_and(|again| now < again);
        if waits || self.shared.progress.leadership.term().is_none() {
            return;
        }
        // Alarms under ids that no member has had are their operator's affair.
        let removed = machine.store().meta(tables::MEMBERS_REMOVED);
        let is_of_removed = |alarm: &&Alarm| {
            alarm.kind == ALARM_NOSPACE && membership::is_removed(removed, alarm.member)
        };
        let Some(alarm) = machine.alarms().iter().find(is_of_removed).copied() else { return };
        self.removed_again = Some(now + self.shared.options.request_timeout());
        tracing::info!(member = %alarm.member, "clearing the NOSPACE alarm of a member that was removed");
        self.shared.propose_own(Command::AlarmDeactivate(alarm), None, now);
    }

    /// Damage in old segments is found before it is needed, and told whoever met it.
    fn scrub(&self, store: &mut Store) {
        for damage in store.damages().untold() {
            tracing::error!(
                file = %damage.file.display(),
                offset = damage.offset,
                reason = damage.reason,
                "{DAMAGE_ADVICE}"
            );
        }
        let reads = [JobKind::Rewrite, JobKind::Checkpoint];
        if !reads.into_iter().any(|kind| store.is_out(kind)) {
            self.start(store, JobRequest::Scrub);
        }
    }

    fn restore_ballast(&mut self, now: Duration) {
        let is_due = now >= self.ballast_due && !self.restoring_ballast;
        if is_due && self.shared.space.ballast.is_missing() {
            self.ballast_due = now + BALLAST_INTERVAL;
            self.restoring_ballast = true;
            self.background.run(Job::RestoreBallast);
        }
    }
}

/// Whether one of the last jobs was done, or there was nothing to do.
fn is_done(ran: Result<bool, keepd_mvcc::Error>) -> bool {
    if let Err(error) = &ran {
        tracing::warn!(%error, "the last flush failed; the next start replays the log");
    }
    ran.is_ok()
}

#[cfg(test)]
mod tests;
