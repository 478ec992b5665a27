//! The Raft part: queues proposals and reads, drives the core, feeds the log and the state machine.
//!
//! Receives from the clients' tasks ([`crate::Handle`]); gives entries to the WAL part and committed
//! entries to the apply part. It never blocks, so whoever queued something may step it: a client's
//! task does if no batch is being synced, the WAL thread does after each sync. Its own thread is
//! left with the ticks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use keepd_machine::Origin;
use keepd_raft::{Actions, Core, HardState, Role};
use keepd_types::Term;

use crate::admission::Permit;
use crate::driver::{Next, Part};
use crate::error::Error;
use crate::messages::{ApplyEvent, Committed, Proposal, RaftEvent, Reader, Waiter, WalEvent};
use crate::shared::Shared;
use crate::shared::unapplied::Waiting;

/// Bytes of commands proposed at once.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Fewer queued proposals than this do not wait for others: there may be no other clients.
const GROUP_COMMIT_MIN: usize = 8;
/// More do not wait either: others would make a batch no cheaper.
const GROUP_COMMIT_MAX: usize = 1024;
/// BOUND: proposals in one batch, well below the backlog of the apply part that refuses new ones.
const BATCH_PROPOSALS_MAX: usize = 2048;
/// Longest time that a batch waits for others: little beside what a busy machine adds anyway.
const GROUP_COMMIT_TIME_MAX: Duration = Duration::from_millis(2);
/// Bytes of commands that may be queued here until Raft takes them.
const QUEUED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A proposal that has a place in the log.
#[derive(Debug)]
struct Pending {
    index: u64,
    is_brief: bool,
    waiter: Option<Waiter>,
    taken: Duration,
    permit: Permit,
}

#[derive(Debug)]
pub(crate) struct RaftThread {
    shared: Arc<Shared>,
    core: Core,
    /// Proposals that wait for others, for the end of a sync, or for a commit.
    queued: VecDeque<Proposal>,
    queued_bytes: usize,
    /// Proposals that are in the log and not committed, by their number. BOUND: those that Raft takes
    /// before it drops them as too many uncommitted bytes.
    pending: BTreeMap<u64, Pending>,
    /// The term changed since `pending` was last empty: some may have lost their place in the log.
    may_have_lost: bool,
    /// Reads by context.
    reading: VecDeque<(u64, Vec<Reader>)>,
    /// Batches that the log has not confirmed yet.
    unconfirmed: u64,
    /// A hard state that goes into the log with the next batch.
    deferred_hard_state: Option<HardState>,
    next_tick: Duration,
    /// Leadership as it was last published.
    leads_in: Option<Term>,
    is_alone: bool,
    is_stopping: bool,
}

impl RaftThread {
    /// A member that stands for election at once if nobody else votes.
    pub(crate) fn new(shared: Arc<Shared>, mut core: Core) -> Self {
        if let Err(error) = core.campaign_if_alone() {
            shared.halt(error);
        }
        let next_tick = shared.env.clock.monotonic();
        Self {
            shared,
            core,
            queued: VecDeque::new(),
            queued_bytes: 0,
            pending: BTreeMap::new(),
            may_have_lost: false,
            reading: VecDeque::new(),
            unconfirmed: 0,
            deferred_hard_state: None,
            next_tick,
            leads_in: None,
            is_alone: false,
            is_stopping: false,
        }
    }

    /// Queues all proposals for [`Self::propose`]; all reads become one read index.
    fn handle(&mut self, events: &mut Vec<RaftEvent>) {
        let mut readers = Vec::new();
        for event in events.drain(..) {
            match event {
                RaftEvent::Propose(proposal) => self.enqueue(proposal),
                RaftEvent::Read(reader) => readers.push(reader),
                RaftEvent::Persisted(number) => {
                    self.unconfirmed -= 1;
                    self.note_log(self.unconfirmed > 0);
                    self.core.persisted(number);
                }
                RaftEvent::Applied(index) => self.core.applied(index),
                RaftEvent::Stop => self.is_stopping = true,
            }
        }
        self.read(readers);
    }

    /// Gives the processor away for as long as that makes the next batch grow.
    ///
    /// A sync, waking the threads and a write to each connection cost the same for ten proposals as
    /// for a thousand. On a busy machine the tasks that bring more are waiting for this processor;
    /// on an idle one giving it away returns at once, so nobody waits for others that are not there.
    fn wait_for_batch(&mut self, events: &mut Vec<RaftEvent>) {
        let clock = Arc::clone(&self.shared.env.clock);
        let started = clock.monotonic();
        while self.unconfirmed == 0
            && (GROUP_COMMIT_MIN..GROUP_COMMIT_MAX).contains(&self.queued.len())
        {
            // What is committed is applied meanwhile.
            self.shared.mailboxes.apply.wake();
            let before = self.queued.len();
            std::thread::yield_now();
            self.shared.mailboxes.raft.drain(events);
            self.handle(events);
            let grows = self.queued.len() >= before + before / 8;
            if !grows || clock.monotonic().saturating_sub(started) > GROUP_COMMIT_TIME_MAX {
                break;
            }
        }
    }

    fn enqueue(&mut self, proposal: Proposal) {
        let bytes = self.queued_bytes + proposal.encoded.len();
        if proposal.is_urgent {
            self.queued_bytes = bytes;
            self.queued.push_front(proposal);
        } else if bytes <= QUEUED_BYTES_MAX || proposal.waiter.is_none() {
            self.queued_bytes = bytes;
            self.queued.push_back(proposal);
        } else if let Some(waiter) = proposal.waiter {
            // The task may have given up waiting.
            let _ = waiter.send(Err(Error::TooManyRequests));
        }
    }

    /// Proposes one batch of what is queued; whether Raft took it. If too much is uncommitted it stays
    /// queued until the next commit.
    fn propose(&mut self) -> bool {
        if self.unconfirmed > 0 && self.queued_bytes < BATCH_BYTES_MAX {
            // Whatever comes during a sync becomes one batch after it.
            return false;
        }
        self.drop_abandoned();
        let mut bytes = 0;
        let queued = self.queued.iter().take(BATCH_PROPOSALS_MAX);
        let batch = queued.map(|proposal| proposal.encoded.clone());
        let batch = batch.take_while(|encoded| {
            let is_first = bytes == 0;
            bytes += encoded.len();
            is_first || bytes <= BATCH_BYTES_MAX
        });
        let batch: Vec<Bytes> = batch.collect();
        let count = batch.len();
        if count == 0 {
            return false;
        }
        let error = match self.core.propose(batch) {
            Ok((first, _term)) => {
                self.shared.progress.commits_in_groups.store(count > 1, Ordering::Relaxed);
                for (index, proposal) in (first..).zip(self.queued.drain(..count)) {
                    let Proposal { sequence, encoded, is_brief, waiter, taken, permit, .. } =
                        proposal;
                    self.queued_bytes -= encoded.len();
                    let pending = Pending { index, is_brief, waiter, taken, permit };
                    let before = self.pending.insert(sequence, pending);
                    assert!(before.is_none(), "no number is given twice");
                }
                return true;
            }
            Err(keepd_raft::Error::ProposalDropped) => return false,
            Err(keepd_raft::Error::NoLeader) => Error::NoLeader,
            Err(_) => Error::ProposalDropped,
        };
        self.queued_bytes = 0;
        for waiter in self.queued.drain(..).filter_map(|proposal| proposal.waiter) {
            let _ = waiter.send(Err(error.clone()));
        }
        false
    }

    /// Drops queued proposals whose clients have gone: nobody would learn their outcome.
    fn drop_abandoned(&mut self) {
        let bytes = &mut self.queued_bytes;
        self.queued.retain(|proposal| {
            let is_abandoned = proposal.waiter.as_ref().is_some_and(Waiter::is_closed);
            if is_abandoned {
                *bytes -= proposal.encoded.len();
            }
            !is_abandoned
        });
    }

    fn read(&mut self, readers: Vec<Reader>) {
        if readers.is_empty() {
            return;
        }
        match self.core.read_index() {
            Ok(context) => self.reading.push_back((context, readers)),
            Err(_) => {
                for reader in readers {
                    let _ = reader.send(Err(Error::NoLeader));
                }
            }
        }
    }

    fn tick(&mut self, now: Duration) {
        if now < self.next_tick {
            return;
        }
        self.core.tick();
        self.expire_waiters(now);
        self.process_ready();
        self.next_tick = now + self.shared.options.heartbeat_interval;
    }

    /// Tells those who have waited too long; their commands may still be committed.
    fn expire_waiters(&mut self, now: Duration) {
        let timeout = self.shared.options.request_timeout();
        let is_over = |taken: Duration| now.saturating_sub(taken) >= timeout;
        let queued_bytes = &mut self.queued_bytes;
        self.queued.retain_mut(|proposal| {
            if !is_over(proposal.taken) {
                return true;
            }
            *queued_bytes -= proposal.encoded.len();
            if let Some(waiter) = proposal.waiter.take() {
                let _ = waiter.send(Err(Error::TimedOut));
            }
            false
        });
        for pending in self.pending.values_mut().filter(|pending| is_over(pending.taken)) {
            if let Some(waiter) = pending.waiter.take() {
                let _ = waiter.send(Err(Error::TimedOut));
            }
        }
        self.shared.progress.unapplied.expire(now, timeout);
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
        self.publish_status();
    }

    fn process_actions(&mut self) {
        while let Some(actions) = self.core.actions() {
            self.handle_actions(actions);
        }
    }

    fn handle_actions(&mut self, mut actions: Actions) {
        let unsent = actions.messages.len() + actions.messages_after_sync.len();
        assert_eq!(unsent, 0, "a lone member sends nothing, and no other is started");
        let committed = std::mem::take(&mut actions.committed);
        let reads = std::mem::take(&mut actions.reads);
        if !actions.entries.is_empty() || actions.must_sync {
            self.unconfirmed += 1;
            if self.unconfirmed == 1 {
                self.note_log(true);
            }
            let deferred_hard_state = self.deferred_hard_state.take();
            actions.hard_state = actions.hard_state.or(deferred_hard_state);
            self.shared.mailboxes.wal.push(WalEvent::Append(actions));
        } else {
            // A commit index alone need not be synced (rule 9.2); it goes along with the next batch.
            // Confirming is only sound while nothing older is on its way.
            self.deferred_hard_state = actions.hard_state.or(self.deferred_hard_state);
            if self.unconfirmed == 0 {
                self.core.persisted(actions.number);
            }
        }
        if let Some(last) = committed.last().map(|entry| entry.index) {
            // ORDER: before it can be applied; nobody shall see more applied than committed.
            self.shared.progress.commit_index.store(last, Ordering::Release);
            let mut waiting = Vec::new();
            let committed =
                committed.into_iter().map(|entry| self.match_proposal(entry, &mut waiting));
            let committed = committed.collect();
            self.fail_lost(last);
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

    /// Finds who waits for an entry, by its origin.
    fn match_proposal(
        &mut self,
        entry: keepd_raft::Entry,
        waiting: &mut Vec<Waiting>,
    ) -> Committed {
        let origin = Origin::peek(&entry.data).filter(|origin| self.shared.is_own(*origin));
        let pending = origin.and_then(|origin| self.pending.remove(&origin.sequence));
        let Some(Pending { is_brief, waiter, taken, permit, .. }) = pending else {
            return Committed { entry, is_awaited: false, is_brief: false, _permit: None };
        };
        let (index, is_awaited) = (entry.index, waiter.is_some());
        waiting.extend(waiter.map(|waiter| Waiting { index, taken, waiter }));
        Committed { entry, is_awaited, is_brief, _permit: permit }
    }

    /// Tells those whose place in the log an entry of another leader has taken.
    fn fail_lost(&mut self, committed: u64) {
        if !self.may_have_lost {
            return;
        }
        let is_lost = |_: &u64, pending: &mut Pending| pending.index <= committed;
        for (_, lost) in self.pending.extract_if(.., is_lost) {
            if let Some(waiter) = lost.waiter {
                let _ = waiter.send(Err(Error::LeaderChanged));
            }
        }
        self.may_have_lost = !self.pending.is_empty();
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
            shared.progress.leader_changes.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                leader = %keepd_types::MemberId(status.leader),
                term = status.term,
                "elected leader"
            );
        }
        self.may_have_lost |= is_new_term && !self.pending.is_empty();
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

impl Part for RaftThread {
    type Event = RaftEvent;

    fn react(&mut self, batch: &mut Vec<RaftEvent>, _now: Duration) {
        self.handle(batch);
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
mod tests {
    use keepd_machine::command::Put;
    use keepd_machine::{Command, Envelope};
    use keepd_types::StoredValue;
    use tokio::sync::oneshot;

    use super::*;
    use crate::messages::Completion;
    use crate::testing::{self, Unassembled};

    fn raft_thread() -> RaftThread {
        let Unassembled { shared, core, .. } = testing::member();
        RaftThread::new(shared, core)
    }

    /// Confirms as the WAL part does, without a log; the number of entries of each batch.
    fn confirm(raft: &mut RaftThread) -> Vec<usize> {
        let (mut appended, mut events, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        raft.shared.mailboxes.wal.drain(&mut appended);
        for event in appended {
            if let WalEvent::Append(actions) = event {
                events.push(RaftEvent::Persisted(actions.number));
                entries.push(actions.entries.len());
            }
        }
        raft.handle(&mut events);
        raft.process_ready();
        entries
    }

    fn proposal(
        shared: &Shared,
        bytes: usize,
    ) -> (Proposal, oneshot::Receiver<Result<Completion, Error>>) {
        let value = StoredValue::plain(vec![7; bytes].into());
        let command = Command::Put(Put { key: "k".into(), value, ..Put::default() });
        let origin = shared.next_origin();
        let envelope = Envelope { origin: Some(origin), decided_in: None, command };
        let (waiter, reply) = oneshot::channel();
        let command = (origin, &envelope.command);
        let encoded = envelope.encode();
        (Proposal::new(command, encoded, Some(waiter), Duration::MAX, None), reply)
    }

    #[test]
    fn proposals_that_come_during_a_sync_become_one_batch() {
        let mut raft = raft_thread();
        raft.process_ready();
        confirm(&mut raft);
        let mut replies = Vec::new();
        for _ in 0..4 {
            let (proposal, reply) = proposal(&raft.shared, 10);
            raft.enqueue(proposal);
            raft.process_ready();
            replies.push(reply);
        }
        assert_eq!(confirm(&mut raft), [1], "the first waits for nobody, the others for its sync");
        assert_eq!(confirm(&mut raft), [3]);
    }

    #[test]
    fn what_a_client_gave_up_is_not_proposed() {
        let mut raft = raft_thread();
        raft.process_ready();
        confirm(&mut raft);
        let mut replies: Vec<_> = (0..6)
            .map(|_| {
                let (proposal, reply) = proposal(&raft.shared, 10);
                raft.enqueue(proposal);
                raft.process_ready();
                reply
            })
            .collect();
        // The first is being synced; two of the others are given up meanwhile.
        drop(replies.drain(2..4));
        assert_eq!(confirm(&mut raft), [1]);
        assert_eq!(confirm(&mut raft), [3]);
        assert_eq!((raft.queued.len(), raft.queued_bytes), (0, 0));
    }

    #[test]
    fn a_batch_that_commits_in_groups_takes_along_who_comes_meanwhile() {
        let mut raft = raft_thread();
        let hand = |raft: &RaftThread, count: usize| {
            for _ in 0..count {
                raft.shared.mailboxes.raft.push(RaftEvent::Propose(proposal(&raft.shared, 10).0));
            }
        };
        raft.enqueue(proposal(&raft.shared, 10).0);
        hand(&raft, 3);
        raft.wait_for_batch(&mut Vec::new());
        assert_eq!(raft.queued.len(), 1, "few clients are not made to wait");
        for _ in 1..GROUP_COMMIT_MIN {
            raft.enqueue(proposal(&raft.shared, 10).0);
        }
        raft.wait_for_batch(&mut Vec::new());
        assert_eq!(raft.queued.len(), GROUP_COMMIT_MIN + 3);
    }

    #[test]
    fn what_raft_does_not_take_waits_for_a_commit() {
        let mut raft = raft_thread();
        raft.process_ready();
        confirm(&mut raft);
        let mut replies = Vec::new();
        for _ in 0..100 {
            let (proposal, reply) = proposal(&raft.shared, 1 << 20);
            raft.enqueue(proposal);
            replies.push(reply);
        }
        raft.process_ready();
        assert!(!raft.queued.is_empty(), "more is uncommitted than may be");
        assert!(raft.pending.len() > 50, "what fits is proposed");
        let refused = raft.queued.len();
        confirm(&mut raft);
        assert!(raft.queued.len() < refused, "the commit has freed some");
        while !confirm(&mut raft).is_empty() {}
        assert_eq!((raft.queued.len(), raft.queued_bytes), (0, 0));
        assert!(raft.pending.is_empty(), "everything is committed");
        for mut reply in replies {
            let answer = reply.try_recv();
            assert!(matches!(answer, Err(oneshot::error::TryRecvError::Empty)), "{answer:?}");
        }
    }

    /// An entry that takes minutes to apply must not keep the others from being told.
    #[test]
    fn who_waits_for_apply_is_told_in_time_and_health_fails() {
        let mut raft = raft_thread();
        raft.process_ready();
        confirm(&mut raft);
        let shared = Arc::clone(&raft.shared);
        shared.progress.unapplied.take(u64::MAX);
        let (mut proposal, mut reply) = proposal(&raft.shared, 10);
        let now = shared.env.clock.monotonic();
        proposal.taken = now;
        raft.enqueue(proposal);
        raft.process_ready();
        while !confirm(&mut raft).is_empty() {}
        // It is committed, and no apply part takes it.
        let (timeout, election) =
            (shared.options.request_timeout(), shared.options.election_timeout);
        raft.expire_waiters(now + timeout - Duration::from_millis(1));
        assert!(reply.try_recv().is_err());
        raft.expire_waiters(now + timeout);
        assert!(matches!(reply.try_recv(), Ok(Err(Error::TimedOut))));
        assert!(shared.progress.unapplied.stall(now, election).is_none());
        let later = shared.env.clock.monotonic() + election * 2;
        assert!(shared.progress.unapplied.stall(later, election).is_some());
    }
}
