//! The apply part: owns the state machine, publishes views, completes waiters.
//!
//! Receives committed entries from the Raft part; gives events to the hub part, flush, checkpoint
//! and rewrite jobs to the background parts, and outcomes to the tasks that wait. It never waits for
//! any of them. A few entries of point operations are applied by the WAL thread that has just synced
//! them; whatever may take longer is left to this part's own thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use keepd_env::mutants::{self, Mutant};
use keepd_machine::{
    AppliedBatch, ApplyError, ClusterFacts, Command, Judgement, Outcome, StateMachine, membership,
    tables,
};
use keepd_mvcc::{Applied, MetaTable, View};
use keepd_raft::{ConfChange, EntryKind, Step, Verdict};
use keepd_types::Term;

use crate::conf_state;
use crate::digests::DigestKeeper;
use crate::driver::{Next, Part};
use crate::encryption::state::active_keys;
use crate::error::Error;
use crate::job_scheduler::JobScheduler;
use crate::leases::LeaseKeeper;
use crate::messages::{
    ApplyEvent, Committed, Completion, HubEvent, PIECE_MAX, RaftEvent, Reader, ReceivedState,
};
use crate::receive::{is_alone, is_learner, peers};
use crate::shared::Shared;
use crate::shared::unapplied::Waiting;
use crate::versions::VersionKeeper;

/// The longest sleep: jobs are scheduled at this pace.
const IDLE: Duration = Duration::from_millis(50);
/// The sleep while a compaction is under way: somebody may wait for it.
const BRIEF: Duration = Duration::from_micros(200);
/// BOUND: committed entries that the WAL thread applies itself; all of them together hold up the
/// next sync for less time than waking another thread takes.
const BRIEF_ENTRIES: usize = 8;

/// A change of the configuration between the machine's judgement and Raft's answer.
#[derive(Debug)]
struct Judged {
    index: u64,
    outcome: Outcome,
    is_awaited: bool,
    removes_self: bool,
}

#[derive(Debug)]
pub(crate) struct ApplyThread {
    shared: Arc<Shared>,
    machine: StateMachine,
    /// Reads by index, ascending.
    waiting: VecDeque<(u64, Vec<Reader>)>,
    leases: LeaseKeeper,
    /// Of that term, if its first own entry is in the batch at hand.
    takes_over: Option<Term>,
    jobs: JobScheduler,
    /// The members, as the network was last told.
    members: Option<MetaTable>,
    /// Facts about the cluster, as the others were last told.
    facts: Option<MetaTable>,
    versions: VersionKeeper,
    digests: DigestKeeper,
    /// The active keys of the cluster, as the sealer was last told.
    active_keys: Option<Bytes>,
    /// Entries that wait for a change of the configuration. BOUND: as [`crate::shared::unapplied`].
    behind_change: VecDeque<Committed>,
    /// The accepted or refused change whose configuration Raft has not told yet.
    judged: Option<Judged>,
    /// The last entry that readers see.
    published: u64,
    /// Outcomes of the batch at hand that somebody waits for, by index; sent after it is published.
    outcomes: Vec<(u64, Outcome)>,
    is_stopping: bool,
}

impl ApplyThread {
    pub(crate) fn new(shared: Arc<Shared>, machine: StateMachine, jobs: JobScheduler) -> Self {
        let published = machine.applied().index;
        // ORDER: before the first request, which is refused while much is committed and not applied.
        shared.progress.applied_index.store(published, Ordering::Release);
        let view = machine.store().views().load();
        let leases = LeaseKeeper::new(Arc::clone(&shared));
        let versions = VersionKeeper::new(Arc::clone(&shared));
        let digests = DigestKeeper::new(Arc::clone(&shared));
        let mut thread = Self {
            shared,
            machine,
            waiting: VecDeque::new(),
            behind_change: VecDeque::new(),
            judged: None,
            published,
            leases,
            takes_over: None,
            jobs,
            members: None,
            facts: None,
            versions,
            digests,
            active_keys: None,
            outcomes: Vec::new(),
            is_stopping: false,
        };
        thread.note_members(&view);
        thread.note_facts(&view);
        thread.note_alarms(&view);
        thread
    }

    /// Tells the network who the other members are, and the requests whether this one learns only, if
    /// that changed.
    fn note_members(&mut self, view: &View) {
        let members = view.meta(tables::MEMBERS);
        if self.members.as_ref().is_some_and(|known| known.ptr_eq(members)) {
            return;
        }
        self.members = Some(members.clone());
        let own = self.shared.identity.member;
        let removed = view.meta(tables::MEMBERS_REMOVED);
        let is_removed = |id| membership::is_removed(removed, id);
        self.shared.network.set_members(peers(view, own), is_removed);
        self.shared.progress.is_learner.store(is_learner(members, own), Ordering::Release);
    }

    /// Tells the alarms, if there are or were any.
    fn note_alarms(&self, view: &View) {
        let (shared, alarms) = (&self.shared, self.machine.alarms());
        let old = shared.alarms.load_full();
        if alarms.is_empty() && old.is_empty() {
            return;
        }
        if old.as_slice() != alarms {
            shared.alarms.store(Arc::new(alarms.to_vec()));
        }
        let own = shared.identity.member;
        shared.corruption.note_alarms(&old, alarms, own, is_alone(view.meta(tables::MEMBERS)));
    }

    /// Tells the facts about the cluster, if they changed.
    fn note_facts(&mut self, view: &View) {
        let cluster = view.meta(tables::CLUSTER);
        if self.facts.as_ref().is_some_and(|known| known.ptr_eq(cluster)) {
            return;
        }
        self.facts = Some(cluster.clone());
        // A malformed table ends the member's start, and nothing malformed is ever written into it.
        let Ok(facts) = ClusterFacts::of(cluster) else { return };
        let old = self.shared.facts.swap(Arc::new(facts.clone()));
        if old.version != facts.version {
            tracing::info!(from = ?old.version, to = ?facts.version, "cluster version is updated");
        }
        if old.feature_level != facts.feature_level {
            let (from, to) = (old.feature_level, facts.feature_level);
            tracing::info!(from, to, "the feature level of the cluster is known");
        }
    }

    fn handle(&mut self, events: &mut Vec<ApplyEvent>) -> Result<(), keepd_machine::Halt> {
        let mut dirty = false;
        for event in events.drain(..) {
            if matches!(event, ApplyEvent::Committed(_)) {
                keepd_env::failpoint!(RaftBeforeAdvance);
            }
            match event {
                ApplyEvent::Committed(batch) if self.judged.is_some() => {
                    self.behind_change.extend(batch);
                }
                ApplyEvent::Committed(batch) => dirty |= self.apply_all(batch)?,
                ApplyEvent::Configured { index, conf_state } => {
                    self.configure(index, conf_state);
                    let behind = std::mem::take(&mut self.behind_change);
                    self.apply_all(behind)?;
                    dirty = true;
                }
                ApplyEvent::WaitApplied { index, readers } => {
                    self.waiting.push_back((index, readers));
                }
                ApplyEvent::Leading(term) => self.leases.lead(self.machine.lessor_mut(), term),
                ApplyEvent::Install(received) => {
                    self.install(*received)?;
                    dirty = false;
                }
                ApplyEvent::Renew(id, reply) => {
                    self.leases.renew(self.machine.lessor_mut(), id, reply);
                }
                ApplyEvent::TimeToLive { id, keys_after, reply } => {
                    let lessor = self.machine.lessor();
                    reply.send(self.leases.time_to_live(lessor, id, keys_after.as_ref()));
                }
                ApplyEvent::Leases { after, reply } => {
                    let now = self.shared.env.clock.monotonic();
                    let _ = reply.send(self.machine.lessor().list(after, PIECE_MAX, now));
                }
                ApplyEvent::HashKv(revision, reply) => self.jobs.hash_kv(revision, reply),
                ApplyEvent::Digest(from, digest) => self.digests.report(from, digest),
                ApplyEvent::Background(done) => self.jobs.done(&mut self.machine, *done),
                ApplyEvent::Reclaim(reply) => self.jobs.reclaim(reply),
                ApplyEvent::Settle(reply) => self.jobs.settle(reply),
                ApplyEvent::Stop => self.is_stopping = true,
            }
        }
        if dirty && self.judged.is_none() {
            self.publish();
        }
        self.release_reads();
        Ok(())
    }

    /// Applies entries as far as no change of the configuration stands before them; whether there is
    /// something to publish.
    fn apply_all(
        &mut self,
        batch: impl IntoIterator<Item = Committed>,
    ) -> Result<bool, keepd_machine::Halt> {
        let started = self.shared.env.clock.monotonic();
        let mut dirty = false;
        let mut batch = batch.into_iter();
        for committed in batch.by_ref() {
            if committed.entry.kind != EntryKind::Normal {
                if dirty {
                    self.publish();
                }
                self.judge(committed)?;
                self.behind_change.extend(batch);
                return Ok(false);
            }
            self.apply(committed)?;
            dirty = true;
        }
        self.time_apply(started);
        Ok(dirty)
    }

    /// Goes on in the state of another member, which holds everything that is committed here.
    fn install(&mut self, received: ReceivedState) -> Result<(), keepd_machine::Halt> {
        let ReceivedState { meta, staged, place, .. } = received;
        self.shared.metrics.installs_in_progress.store(1, Ordering::Relaxed);
        let installer = &self.shared.installer;
        let view = installer.switch(&mut self.machine)?;
        assert_eq!(view.applied(), staged.head.applied, "the state that was committed to");
        if let Err(error) = installer.finish() {
            self.shared.halt(error);
            return Ok(());
        }
        self.digests.installed();
        // A change that Raft has not answered is in the state, with its configuration.
        (self.judged, self.takes_over) = (None, None);
        self.behind_change.clear();
        self.outcomes.clear();
        for Waiting { waiter, .. } in self.shared.progress.unapplied.take(meta.last.index) {
            // The state does not tell what came of it.
            let _ = waiter.send(Err(Error::LeaderChanged));
        }
        // ORDER: before the hub gets a batch of what follows.
        self.shared.hub_missed.store(true, Ordering::Release);
        self.publish();
        self.shared.mailboxes.hub.wake();
        self.jobs.discard_state(place);
        self.shared.metrics.installs_in_progress.store(0, Ordering::Relaxed);
        tracing::info!(
            index = meta.last.index,
            revision = view.revision(),
            "the state of the leader is installed"
        );
        Ok(())
    }

    /// A change of the configuration is a barrier: everything before it is published, and what comes
    /// after it waits until Raft has told the configuration that counts from here on (rule 9.16).
    fn judge(&mut self, committed: Committed) -> Result<(), keepd_machine::Halt> {
        let Committed { entry, is_awaited, .. } = committed;
        let (index, at) = (entry.index, Applied { index: entry.index, term: entry.term });
        keepd_env::failpoint!(BeforeApplyOneConfChange);
        let Ok(change) = ConfChange::decode(&entry.data) else {
            return Err(keepd_machine::Halt::UnknownEntry { index });
        };
        let Judgement { is_accepted, outcome } = self.machine.judge_change(at, &change.context)?;
        let own = self.shared.identity.member.0;
        let removes_self = is_accepted && change.steps.contains(&Step::Remove(own));
        self.judged = Some(Judged { index, outcome, is_awaited, removes_self });
        let verdict = if is_accepted { Verdict::Accepted } else { Verdict::Rejected };
        self.shared.mailboxes.raft.push(RaftEvent::Judged { index, verdict });
        Ok(())
    }

    /// Stores the configuration that counts from a change on.
    fn configure(&mut self, index: u64, conf_state: keepd_raft::ConfState) {
        let judged = self.judged.take().expect("Raft answers a judgement, once");
        assert_eq!(judged.index, index, "changes are judged one at a time");
        self.machine.set_conf_state(&conf_state::stored(conf_state));
        if judged.is_awaited {
            self.outcomes.push((index, judged.outcome));
        }
        if judged.removes_self {
            self.shared.mailboxes.raft.push(RaftEvent::Removed);
        }
    }

    fn apply(&mut self, committed: Committed) -> Result<(), keepd_machine::Halt> {
        let Committed { entry, is_awaited, _permit, .. } = committed;
        let at = Applied { index: entry.index, term: entry.term };
        if entry.data.is_empty() {
            self.machine.advance(at);
            let term = Term(entry.term);
            if self.leases.take_over(self.machine.lessor_mut(), term) {
                self.takes_over = Some(term);
            }
            return Ok(());
        }
        let is_left_out = mutants::is_active(Mutant::Divergence)
            && self.shared.options.name.ends_with('1')
            && at.index.is_multiple_of(64);
        if is_left_out {
            self.machine.advance(at);
            return Ok(());
        }
        keepd_env::failpoint!(BeforeApplyOneEntryNormal);
        let (command, outcome) = self.machine.apply_entry(at, entry.data)?;
        let is_void = outcome.result == Err(ApplyError::OtherTerm);
        let digest = self.machine.store().digest();
        self.digests.applied(&command, Term(entry.term), is_void, digest);
        self.count(&command, &outcome);
        self.leases.applied(&command, &outcome);
        if is_awaited {
            self.outcomes.push((entry.index, outcome));
        }
        Ok(())
    }

    /// Ends a batch: readers see it, then watchers, then the waiting tasks.
    fn publish(&mut self) {
        let applied = self.machine.applied();
        keepd_env::failpoint!(BeforeWritebackBuf);
        let AppliedBatch { view, changes } = self.machine.publish();
        keepd_env::failpoint!(AfterWritebackBuf);
        self.published = applied.index;
        self.note_members(&view);
        self.note_facts(&view);
        self.note_alarms(&view);
        let shared = &self.shared;
        shared.progress.applied_index.store(applied.index, Ordering::Release);
        if let Some(term) = self.takes_over.take() {
            // ORDER: after the view is published, which holds what was acknowledged before a
            // restart; who reads without a round must find it.
            shared.progress.leadership.take_over(term);
        }
        self.machine.lessor_mut().arm(shared.env.clock.monotonic());
        self.jobs.publish_space(&self.machine);
        let active = view.meta(tables::CLUSTER).get(tables::ACTIVE_KEYS_KEY);
        if active != self.active_keys.as_ref() {
            self.active_keys = active.cloned();
            if let Some(active) = active_keys(&view) {
                shared.encryption.activate(active.keys);
            }
        }
        if !changes.is_empty() {
            shared.metrics.events.fetch_add(changes.len() as u64, Ordering::Relaxed);
            let bytes = changes.iter().map(|change| change.record.encoded.len() + 128).sum();
            let batch = keepd_watch::Batch { view: Arc::clone(&view), changes: changes.into() };
            if shared.mailboxes.hub.try_push_quietly(HubEvent::Publish(batch), bytes).is_err() {
                shared.hub_missed.store(true, Ordering::Release);
            }
            // ORDER: after queueing; the hub counts a new watcher before it sleeps.
            if shared.metrics.watchers.load(Ordering::SeqCst) > 0 {
                shared.mailboxes.hub.wake();
            }
        }
        let mut outcomes = self.outcomes.drain(..);
        for Waiting { index, waiter, .. } in shared.progress.unapplied.take(applied.index) {
            // Outcomes of those who have given up are passed over.
            if let Some((_, outcome)) = outcomes.find(|(of, _)| *of == index) {
                let _ = waiter.send(Ok(Completion { outcome, view: Arc::clone(&view) }));
            }
        }
        drop(outcomes);
        // The core has use for it with its next event.
        shared.mailboxes.raft.push_quietly(RaftEvent::Applied(applied.index));
    }

    fn release_reads(&mut self) {
        while let Some((index, _)) = self.waiting.front() {
            if *index > self.published && !mutants::is_active(Mutant::EarlyRead) {
                return;
            }
            let (_, readers) = self.waiting.pop_front().expect("it was just looked at");
            for reader in readers {
                let _ = reader.send(Ok(()));
            }
        }
    }

    fn time_apply(&self, started: Duration) {
        let took = self.shared.env.clock.monotonic().saturating_sub(started);
        self.shared.metrics.apply_seconds.observe(took);
        let expected = self.shared.options.apply_expected;
        if took > expected {
            self.shared.metrics.slow_apply.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(took = ?took, expected = ?expected, "apply request took too long");
        }
    }

    fn count(&self, command: &Command, outcome: &Outcome) {
        if outcome.result.is_err() {
            return;
        }
        let metrics = &self.shared.metrics;
        let counter = match command {
            Command::Put(_) => &metrics.put,
            Command::DeleteRange(_) => &metrics.delete,
            Command::Txn(_) => &metrics.txn,
            Command::Compact { .. } => &metrics.compactions,
            Command::LeaseGrant { .. } => &metrics.lease_granted,
            Command::LeaseRevoke { .. } | Command::LeaseExpire { .. } => &metrics.lease_revoked,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Part for ApplyThread {
    type Event = ApplyEvent;

    fn react(&mut self, batch: &mut Vec<ApplyEvent>, _now: Duration) {
        if let Err(halt) = self.handle(batch) {
            // What is half applied must not reach the store's files.
            self.shared.halt(halt);
        }
    }

    fn turn(&mut self, now: Duration) -> Next {
        if self.is_stopping {
            return match self.jobs.stop(&mut self.machine, now) {
                true => Next::End,
                false => Next::At(now + BRIEF),
            };
        }
        self.leases.turn(self.machine.lessor_mut(), now);
        self.versions.turn(self.machine.store().meta(tables::MEMBERS), now);
        let members = self.machine.store().meta(tables::MEMBERS);
        self.digests.turn(members, self.machine.alarms(), now);
        let is_busy = self.jobs.turn(&mut self.machine, now);
        Next::At(now + if is_busy { BRIEF } else { IDLE })
    }

    fn finish(self) {
        self.shared.mailboxes.apply.close();
        self.shared.mailboxes.hub.close();
    }

    fn is_brief(event: &ApplyEvent) -> bool {
        match event {
            ApplyEvent::Committed(committed) => {
                committed.len() <= BRIEF_ENTRIES && committed.iter().all(|entry| entry.is_brief)
            }
            ApplyEvent::WaitApplied { .. } | ApplyEvent::Renew(..) => true,
            _ => false,
        }
    }
}

impl Drop for ApplyThread {
    fn drop(&mut self) {
        self.shared.progress.unapplied.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Unassembled};
    use crate::threads::background::Background;

    /// A follower that starts when nothing is written has to take requests all the same.
    #[test]
    fn what_the_store_holds_counts_as_applied_from_the_start() {
        let Unassembled { shared, machine, .. } = testing::member();
        let applied = machine.applied().index;
        assert!(applied > 0);
        let jobs = JobScheduler::new(Arc::clone(&shared), Background::new());
        let _apply = ApplyThread::new(Arc::clone(&shared), machine, jobs);
        assert_eq!(shared.progress.applied_index.load(Ordering::Acquire), applied);
    }
}
