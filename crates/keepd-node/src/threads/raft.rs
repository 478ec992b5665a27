//! The Raft part: queues proposals and reads, drives the core, feeds the log and the state machine.
//!
//! Receives from the clients' tasks ([`crate::Handle`]); gives entries to the WAL part and committed
//! entries to the apply part. It never blocks, so whoever queued something may step it: a client's
//! task does if no batch is being synced, the WAL thread does after each sync. Its own thread is
//! left with the ticks.

mod peers;
mod proposals;
mod states;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_env::mutants::{self, Mutant};
use keepd_raft::{Actions, Core, HardState, Message, Role};
use keepd_types::{MemberId, Term};

use self::proposals::Proposals;
use self::states::States;
use crate::driver::{Next, Part};
use crate::error::Error;
use crate::messages::{ApplyEvent, RaftEvent, Reader, ReceivedState, WalEvent};
use crate::shared::Shared;
use crate::threads::background::Background;

/// Fewer queued proposals than this do not wait for others: there may be no other clients.
const GROUP_COMMIT_MIN: usize = 8;
/// More do not wait either: others would make a batch no cheaper.
const GROUP_COMMIT_MAX: usize = 1024;
/// Longest time that a batch waits for others: little beside what a busy machine adds anyway.
const GROUP_COMMIT_TIME_MAX: Duration = Duration::from_millis(2);
/// BOUND: reads that wait for a leader.
const HELD_READERS_MAX: usize = 100_000;
/// Time after the start in which others have to be reached for a sooner election, as in etcd.
const HASTENING_MAX: Duration = Duration::from_secs(5);
/// Time that a removed member has to tell the others what they need of it, as in etcd.
const REMOVED_PATIENCE: Duration = Duration::from_secs(1);

/// A batch of the core that is not confirmed.
#[derive(Debug)]
struct Unconfirmed {
    number: u64,
    /// The log confirms it; else it is confirmed with what comes before.
    is_in_log: bool,
    /// Messages that promise what is in the batch.
    messages: Vec<Message>,
    /// The state that the batch begins with.
    state: Option<Box<ReceivedState>>,
}

#[derive(Debug)]
pub(crate) struct RaftThread {
    shared: Arc<Shared>,
    core: Core,
    proposals: Proposals,
    /// The term changed since there was last nothing pending: some may have lost their place in the
    /// log.
    may_have_lost: bool,
    /// Reads by context.
    reading: VecDeque<(u64, Vec<Reader>)>,
    /// Reads that wait for a leader.
    held_readers: Vec<Reader>,
    /// Batches that are not confirmed, in order. BOUND: by what Raft leaves uncommitted.
    unconfirmed: VecDeque<Unconfirmed>,
    /// The number of them that are in the log's hands.
    in_log: u64,
    states: States,
    /// The state that the core is about to be told of.
    staged: Option<Box<ReceivedState>>,
    /// The index of the last state of another member that was installed.
    installed: u64,
    background: Background,
    /// A hard state that goes into the log with the next batch.
    deferred_hard_state: Option<HardState>,
    next_tick: Duration,
    /// Until when the wait for the first election may be shortened.
    hastens_until: Option<Duration>,
    /// Leadership as it was last published.
    leads_in: Option<Term>,
    is_alone: bool,
    /// The time at which the last leader was elected, as this member saw it.
    elected_at: Option<Duration>,
    /// The time at which this member ends, because it was removed.
    removed_at: Option<Duration>,
    is_stopping: bool,
}

impl RaftThread {
    /// A member that stands for election at once if nobody else votes.
    pub(crate) fn new(shared: Arc<Shared>, mut core: Core, background: Background) -> Self {
        if let Err(error) = core.campaign_if_alone() {
            shared.halt(error);
        }
        let next_tick = shared.env.clock.monotonic();
        let hastens = shared.options.hastens_first_election;
        Self {
            hastens_until: hastens.then(|| next_tick + HASTENING_MAX),
            shared,
            core,
            proposals: Proposals::default(),
            may_have_lost: false,
            reading: VecDeque::new(),
            held_readers: Vec::new(),
            unconfirmed: VecDeque::new(),
            in_log: 0,
            states: States::default(),
            staged: None,
            installed: 0,
            background,
            deferred_hard_state: None,
            next_tick,
            leads_in: None,
            is_alone: false,
            elected_at: None,
            removed_at: None,
            is_stopping: false,
        }
    }

    /// Queues all proposals for [`Self::propose`]; all reads become one read index.
    fn handle(&mut self, events: &mut Vec<RaftEvent>) {
        let mut readers = Vec::new();
        for event in events.drain(..) {
            match event {
                RaftEvent::Propose(proposal) => self.proposals.enqueue(proposal),
                RaftEvent::Read(reader) => readers.push(reader),
                RaftEvent::Persisted(number) => self.persisted(number),
                RaftEvent::Applied(index) => self.core.applied(index),
                RaftEvent::Peer(message, bytes) => {
                    self.take_message(message);
                    drop(bytes);
                }
                RaftEvent::Forward(from, forward, bytes) => {
                    self.take_forward(from, forward);
                    drop(bytes);
                }
                RaftEvent::Refused(sequences) => self.proposals.refused(&sequences),
                RaftEvent::Fetched(fetch, fetched) => self.core.fetched(&fetch, fetched),
                RaftEvent::LogReleased(index) => self.core.log_starts_at(index),
                RaftEvent::Lost(member) => self.core.report_unreachable(member.0),
                RaftEvent::StateSent(to, end) => self.state_sent(to, end),
                RaftEvent::State(received) => self.take_state(received),
                // The state that came since has the change in it.
                RaftEvent::Judged { index, .. } if index <= self.installed => {}
                RaftEvent::Judged { index, verdict } => {
                    let conf_state = self.core.apply_conf_change(index, verdict);
                    self.publish_status();
                    let configured = ApplyEvent::Configured { index, conf_state };
                    self.shared.mailboxes.apply.push_quietly(configured);
                }
                RaftEvent::Transfer(to, reply) => {
                    let _ = reply.send(self.transfer(to));
                }
                RaftEvent::Progress(reply) => {
                    reply.send(self.core.progress());
                }
                RaftEvent::Removed => {
                    let end = self.shared.env.clock.monotonic() + REMOVED_PATIENCE;
                    self.removed_at = self.removed_at.or(Some(end));
                }
                RaftEvent::Stop => self.is_stopping = true,
            }
        }
        self.read(readers);
    }

    /// The log has the batch of this number: what follows it without anything for the log is
    /// confirmed too.
    fn persisted(&mut self, number: u64) {
        self.in_log -= 1;
        self.note_log(self.in_log > 0);
        let is_next = |batch: &mut Unconfirmed| batch.number <= number || !batch.is_in_log;
        while let Some(batch) = self.unconfirmed.pop_front_if(is_next) {
            self.core.persisted(batch.number);
            if let Some(state) = batch.state {
                // ORDER: before anything that follows it.
                self.shared.mailboxes.apply.push(ApplyEvent::Install(state));
            }
            self.send(batch.messages);
        }
    }

    /// Gives the processor away for as long as that makes the next batch grow.
    ///
    /// A sync, waking the threads and a write to each connection cost the same for ten proposals as
    /// for a thousand. On a busy machine the tasks that bring more are waiting for this processor;
    /// on an idle one giving it away returns at once, so nobody waits for others that are not there.
    fn wait_for_batch(&mut self, events: &mut Vec<RaftEvent>) {
        let clock = Arc::clone(&self.shared.env.clock);
        let started = clock.monotonic();
        while self.in_log == 0
            && (GROUP_COMMIT_MIN..GROUP_COMMIT_MAX).contains(&self.proposals.len())
        {
            // What is committed is applied meanwhile.
            self.shared.mailboxes.apply.wake();
            let before = self.proposals.len();
            std::thread::yield_now();
            self.shared.mailboxes.raft.drain(events);
            self.handle(events);
            let grows = self.proposals.len() >= before + before / 8;
            if !grows || clock.monotonic().saturating_sub(started) > GROUP_COMMIT_TIME_MAX {
                break;
            }
        }
    }

    /// Proposes one batch of what is queued, or sends it to the leader; whether there was one. If too
    /// much is uncommitted, or no leader is known, it stays queued.
    fn propose(&mut self) -> bool {
        let status = self.core.status();
        if status.role != Role::Leader {
            return status.leader != 0 && self.forward(MemberId(status.leader), status.term);
        }
        self.proposals.enter_term(status.term);
        self.propose_conf_change();
        if self.in_log > 0 && self.proposals.queued_bytes() < proposals::BATCH_BYTES_MAX {
            // Whatever comes during a sync becomes one batch after it.
            return false;
        }
        let batch = self.proposals.batch();
        let count = batch.len();
        if count == 0 {
            return false;
        }
        match self.core.propose(batch) {
            Ok((_first, term)) => {
                self.shared.progress.commits_in_groups.store(count > 1, Ordering::Relaxed);
                self.proposals.appended(count, term);
                true
            }
            // It waits for a commit, or for the end of a transfer.
            Err(keepd_raft::Error::ProposalDropped | keepd_raft::Error::NoLeader) => false,
            Err(_) => {
                self.proposals.refuse_queued(&Error::ProposalDropped);
                false
            }
        }
    }

    /// Changes of the configuration are made one at a time.
    fn propose_conf_change(&mut self) {
        while let Some(change) = self.proposals.next_conf_change() {
            match self.core.propose_conf_change(&change) {
                Ok((_index, term)) => self.proposals.conf_change_appended(term),
                Err(
                    keepd_raft::Error::ConfChangePending
                    | keepd_raft::Error::ProposalDropped
                    | keepd_raft::Error::NoLeader,
                ) => return,
                Err(error) => {
                    tracing::warn!(%error, "a change of the membership is refused");
                    self.proposals.refuse_conf_change(&Error::ProposalDropped);
                }
            }
        }
    }

    fn read(&mut self, mut readers: Vec<Reader>) {
        if !self.held_readers.is_empty() {
            self.held_readers.retain(|reader| !reader.is_closed());
            readers.append(&mut self.held_readers);
        }
        if readers.is_empty() {
            return;
        }
        match self.core.read_index() {
            Ok(context) => self.reading.push_back((context, readers)),
            Err(_) => {
                // They wait for a leader, for as long as their requests may.
                let surplus = readers.len().saturating_sub(HELD_READERS_MAX);
                for reader in readers.drain(..surplus) {
                    let _ = reader.send(Err(Error::TooManyRequests));
                }
                self.held_readers = readers;
            }
        }
    }

    fn tick(&mut self, now: Duration) {
        if now < self.next_tick {
            return;
        }
        self.watch_for_stalls(now);
        self.shared.network.observe(now);
        self.hasten_first_election(now);
        self.core.tick();
        self.name_unheard();
        self.publish_needed();
        self.expire_waiters(now);
        self.read(Vec::new());
        self.process_ready();
        if self.removed_at.is_some_and(|end| now >= end) {
            self.shared.leave();
        }
        self.next_tick = now + self.shared.options.heartbeat_interval;
    }

    /// As etcd, and as long after the start: when two others are reached and nobody leads, there is no
    /// leader whose heartbeat is only late.
    fn hasten_first_election(&mut self, now: Duration) {
        let Some(end) = self.hastens_until else { return };
        let reached = self.shared.network.connected();
        if now >= end || self.core.status().leader != 0 {
            self.hastens_until = None;
        } else if reached > 1 {
            self.hastens_until = None;
            tracing::info!(
                reached,
                "reached other members; the wait for the first election is shortened"
            );
            self.core.hasten_election();
        }
    }

    /// Tells those who have waited too long; their commands may still be committed.
    fn expire_waiters(&mut self, now: Duration) {
        let timeout = self.shared.options.request_timeout();
        let is_over = |taken: Duration| now.saturating_sub(taken) >= timeout;
        let (elected_at, shared) = (self.elected_at, &self.shared);
        let status = self.core.status();
        let error = |taken: Duration| timeout_error(shared, &status, elected_at, taken);
        self.proposals.expire(is_over, error, status.leader != 0);
        self.shared.progress.unapplied.expire(now, timeout);
    }

    /// A member whose log or state machine hangs does not lead: it could commit nothing. This runs
    /// beside whatever hangs.
    fn watch_for_stalls(&mut self, now: Duration) {
        let limit = self.shared.options.election_timeout;
        let stall = self.shared.progress.unapplied.stall(now, limit);
        // Nor does one whose data differs from the majority's (rule 9.4).
        let is_corrupt = self.shared.corruption.is_own();
        self.core.set_stalled(stall.is_some() || is_corrupt);
        if !(stall.is_some() || is_corrupt) || self.leads_in.is_none() {
            return;
        }
        if let Some(heir) = self.core.step_down() {
            let heir = MemberId(heir);
            tracing::error!(?stall, is_corrupt, %heir, "this member hands leadership over");
        }
    }

    /// Says from which index on the others need the log.
    fn publish_needed(&self) {
        let others = self.core.progress();
        let own = self.shared.identity.member.0;
        let matched = others.iter().filter(|it| it.id != own).map(|it| it.matched).min();
        let needed = matched.map_or(0, |matched| matched + 1);
        self.shared.progress.log_needed.store(needed, Ordering::Relaxed);
    }

    /// Says whether the log owes a confirmation from now on.
    fn note_log(&self, owes: bool) {
        self.shared.progress.is_syncing.store(owes, Ordering::SeqCst);
        let now = owes.then(|| self.shared.env.clock.monotonic());
        self.shared.progress.unapplied.note_log(now);
    }

    /// Proposes what is queued and does what the core asks for.
    fn process_ready(&mut self) {
        self.process_actions();
        while self.propose() {
            self.process_actions();
        }
        // What does not leave now leaves after the sync that is under way, if that is soon.
        let is_held = self.in_log > 0 && self.proposals.len() >= GROUP_COMMIT_MIN;
        self.core.expect_batch(is_held);
        self.process_actions();
        self.publish_status();
    }

    fn process_actions(&mut self) {
        while let Some(actions) = self.core.actions() {
            self.handle_actions(actions);
        }
    }

    fn handle_actions(&mut self, mut actions: Actions) {
        let state = actions.snapshot.take().map(|meta| self.install(&meta));
        for fetch in std::mem::take(&mut actions.fetches) {
            self.shared.mailboxes.log_reader.push(fetch);
        }
        self.send(std::mem::take(&mut actions.messages));
        let committed = std::mem::take(&mut actions.committed);
        let reads = std::mem::take(&mut actions.reads);
        let mut messages = std::mem::take(&mut actions.messages_after_sync);
        if mutants::is_active(Mutant::ConfirmBeforeSync) {
            self.send(std::mem::take(&mut messages));
        }
        let number = actions.number;
        if !actions.entries.is_empty() || actions.must_sync || state.is_some() {
            self.in_log += 1;
            if self.in_log == 1 {
                self.note_log(true);
            }
            let deferred_hard_state = self.deferred_hard_state.take();
            actions.hard_state = actions.hard_state.or(deferred_hard_state);
            let batch = Unconfirmed { number, is_in_log: true, messages, state };
            self.unconfirmed.push_back(batch);
            self.shared.mailboxes.wal.push(WalEvent::Append(actions));
        } else {
            // A commit index alone need not be synced (rule 9.2); it goes along with the next batch.
            // Confirming is only sound while nothing older is on its way.
            self.deferred_hard_state = actions.hard_state.or(self.deferred_hard_state);
            if self.unconfirmed.is_empty() {
                self.core.persisted(number);
                self.send(messages);
            } else {
                let batch = Unconfirmed { number, is_in_log: false, messages, state: None };
                self.unconfirmed.push_back(batch);
            }
        }
        if let Some((last, term)) = committed.last().map(|entry| (entry.index, entry.term)) {
            // ORDER: before it can be applied; nobody shall see more applied than committed.
            self.shared.progress.commit_index.store(last, Ordering::Release);
            let mut waiting = Vec::new();
            let of_entry = |entry| self.proposals.match_entry(&self.shared, entry, &mut waiting);
            let committed = committed.into_iter().map(of_entry).collect();
            if self.may_have_lost {
                self.proposals.fail_lost(term);
                self.may_have_lost = self.proposals.has_pending();
            }
            // ORDER: before the apply part can look for those who wait.
            let now = self.shared.env.clock.monotonic();
            self.shared.progress.unapplied.add(last, waiting, now);
            // Whoever steps this part wakes the apply thread, or applies them itself.
            self.shared.mailboxes.apply.push_quietly(ApplyEvent::Committed(committed));
        }
        for (context, index) in reads {
            self.release_reads(context, index);
        }
    }

    fn release_reads(&mut self, context: u64, index: u64) {
        while let Some((front, _)) = self.reading.front() {
            if *front > context {
                return;
            }
            let (_, readers) = self.reading.pop_front().expect("it was just looked at");
            self.shared.mailboxes.apply.push_quietly(ApplyEvent::WaitApplied { index, readers });
        }
    }

    fn publish_status(&mut self) {
        let status = self.core.status();
        let shared = &self.shared;
        shared.progress.commit_index.store(status.commit, Ordering::Release);
        let is_new_term = shared.progress.term.swap(status.term, Ordering::AcqRel) != status.term;
        if shared.progress.leader.swap(status.leader, Ordering::AcqRel) != status.leader
            && status.leader != 0
        {
            self.elected_at = Some(shared.env.clock.monotonic());
            shared.progress.leader_changes.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                leader = %MemberId(status.leader),
                term = status.term,
                "elected leader"
            );
        }
        self.may_have_lost |= is_new_term && self.proposals.has_pending();
        let leads_in = (status.role == Role::Leader).then_some(Term(status.term));
        if (leads_in, status.is_alone) != (self.leads_in, self.is_alone) {
            shared.progress.leadership.publish(leads_in, status.is_alone);
            self.is_alone = status.is_alone;
        }
        if leads_in != self.leads_in {
            self.leads_in = leads_in;
            shared.mailboxes.apply.push_quietly(ApplyEvent::Leading(leads_in));
        }
    }
}

/// The reason why a request was not answered in time, as etcd tells it.
fn timeout_error(
    shared: &Shared,
    status: &keepd_raft::Status,
    elected_at: Option<Duration>,
    taken: Duration,
) -> Error {
    let patience = 2 * shared.options.election_timeout;
    if elected_at.is_some_and(|at| taken < at && taken + patience > at) {
        return Error::TimedOutByElection;
    }
    let leader = MemberId(status.leader);
    if status.leader != 0 && leader != shared.identity.member && !shared.network.is_active(leader) {
        return Error::TimedOutByConnection;
    }
    Error::TimedOut
}

impl Part for RaftThread {
    type Event = RaftEvent;

    fn react(&mut self, batch: &mut Vec<RaftEvent>, _now: Duration) {
        self.handle(batch);
        self.core.expect_batch(self.proposals.len() > 0);
        self.process_actions();
        self.wait_for_batch(batch);
        self.process_ready();
    }

    fn turn(&mut self, now: Duration) -> Next {
        self.tick(now);
        if self.is_stopping { Next::End } else { Next::At(self.next_tick) }
    }

    fn is_brief(event: &RaftEvent) -> bool {
        !matches!(event, RaftEvent::Stop)
    }

    /// Gives the log what is left.
    fn finish(self) {
        self.shared.mailboxes.raft.close();
        self.shared.progress.leadership.end();
        if let Some(hard_state) = self.deferred_hard_state {
            self.shared.mailboxes.wal.push(WalEvent::DeferHardState(hard_state));
        }
        self.shared.mailboxes.wal.push(WalEvent::Stop);
    }

    fn hand_over(shared: &Shared) {
        shared.mailboxes.apply.wake();
    }
}

#[cfg(test)]
mod tests;
