//! The Raft thread: gathers proposals and reads, drives the core, feeds the WAL and apply threads.
//!
//! Receives from the tonic tasks ([`crate::Handle`]); hands entries to the WAL thread and committed
//! entries, each with the task that waits for it, to the apply thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use keepd_machine::Origin;
use keepd_raft::{Actions, Core, HardState, Role};
use keepd_types::Term;

use crate::error::Error;
use crate::messages::{ApplyEvent, Committed, Proposal, RaftEvent, Reader, Waiter, WalEvent};
use crate::room::Taken;
use crate::shared::Shared;
use crate::unapplied::Waiting;

/// Bytes of commands proposed at once.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// With fewer proposals than this a batch waits for no others: its clients may be all there are.
const COMPANY_MIN: usize = 8;
/// With more, others would make it no cheaper.
const COMPANY_MAX: usize = 1024;
/// BOUND: proposals in one batch, well below the backlog of the apply thread that refuses new ones.
const BATCH_PROPOSALS_MAX: usize = 2048;
/// How long a batch may go on gathering: little beside what a busy machine adds anyway.
const GATHER_MAX: Duration = Duration::from_millis(2);
/// Bytes of commands that may wait here until Raft takes them.
const HELD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A proposal that has a place in the log.
#[derive(Debug)]
struct Pending {
    index: u64,
    waiter: Option<Waiter>,
    taken: Duration,
    room: Taken,
}

#[derive(Debug)]
pub(crate) struct RaftThread {
    shared: Arc<Shared>,
    core: Core,
    /// Proposals that wait for company, for the end of a sync, or for what is uncommitted.
    held: VecDeque<Proposal>,
    held_bytes: usize,
    /// Proposals that are in the log and not committed, by their number. BOUND: those that Raft takes
    /// before it drops them as too many uncommitted bytes.
    pending: BTreeMap<u64, Pending>,
    /// The term changed since `pending` was last empty: some may have lost their place in the log.
    may_have_lost: bool,
    /// Reads by context.
    reading: VecDeque<(u64, Vec<Reader>)>,
    /// Batches the WAL thread has not confirmed yet.
    unconfirmed: u64,
    /// A hard state that the log has not been told yet.
    remembered: Option<HardState>,
    next_tick: Duration,
    /// Leadership as it was last published.
    leads_in: Option<Term>,
    is_alone: bool,
}

impl RaftThread {
    pub(crate) fn new(shared: Arc<Shared>, core: Core) -> Self {
        let next_tick = shared.env.clock.monotonic();
        Self {
            shared,
            core,
            held: VecDeque::new(),
            held_bytes: 0,
            pending: BTreeMap::new(),
            may_have_lost: false,
            reading: VecDeque::new(),
            unconfirmed: 0,
            remembered: None,
            next_tick,
            leads_in: None,
            is_alone: false,
        }
    }

    /// Runs until told to stop, or until the node halts.
    pub(crate) fn run(mut self) {
        let mut events = Vec::new();
        if let Err(error) = self.core.campaign() {
            self.shared.halt(error);
        }
        let mut stopping = false;
        while !stopping && !self.shared.is_halted() {
            self.act();
            let patience = self.next_tick.saturating_sub(self.shared.env.clock.monotonic());
            self.shared.raft.drain(&mut events, patience.max(Duration::from_micros(100)));
            stopping = self.handle(&mut events);
            stopping |= self.gather(&mut events);
            self.tick();
        }
        self.act();
        self.shared.raft.close();
        self.shared.leadership.end();
        if let Some(hard_state) = self.remembered {
            self.shared.wal.hand(WalEvent::Remember(hard_state));
        }
        self.shared.wal.hand(WalEvent::Stop);
    }

    /// One turn: all proposals wait for [`Self::propose`], all reads become one read index.
    fn handle(&mut self, events: &mut Vec<RaftEvent>) -> bool {
        let (mut readers, mut stop) = (Vec::new(), false);
        for event in events.drain(..) {
            match event {
                RaftEvent::Propose(proposal) => self.hold(proposal),
                RaftEvent::Read(reader) => readers.push(reader),
                RaftEvent::Persisted(number) => {
                    self.unconfirmed -= 1;
                    self.note_log(self.unconfirmed > 0);
                    self.core.persisted(number);
                }
                RaftEvent::Applied(index) => self.core.applied(index),
                RaftEvent::Stop => stop = true,
            }
        }
        self.read(readers);
        stop
    }

    /// Gives the processor away for as long as that makes the next batch grow; whether to stop.
    ///
    /// A sync, waking the threads and a write to each connection cost the same for ten proposals as
    /// for a thousand. On a busy machine the tasks that bring more are waiting for this processor;
    /// on an idle one giving it away returns at once, so nobody waits for company that is not there.
    fn gather(&mut self, events: &mut Vec<RaftEvent>) -> bool {
        let clock = Arc::clone(&self.shared.env.clock);
        let started = clock.monotonic();
        while self.unconfirmed == 0 && (COMPANY_MIN..COMPANY_MAX).contains(&self.held.len()) {
            let before = self.held.len();
            std::thread::yield_now();
            self.shared.raft.drain(events, Duration::ZERO);
            if self.handle(events) {
                return true;
            }
            let grows = self.held.len() >= before + before / 8;
            if !grows || clock.monotonic().saturating_sub(started) > GATHER_MAX {
                break;
            }
        }
        false
    }

    fn hold(&mut self, proposal: Proposal) {
        let bytes = self.held_bytes + proposal.encoded.len();
        if proposal.is_urgent {
            self.held_bytes = bytes;
            self.held.push_front(proposal);
        } else if bytes <= HELD_BYTES_MAX || proposal.waiter.is_none() {
            self.held_bytes = bytes;
            self.held.push_back(proposal);
        } else if let Some(waiter) = proposal.waiter {
            // The task may have given up waiting.
            let _ = waiter.send(Err(Error::TooManyRequests));
        }
    }

    /// Proposes one batch of what is held; whether Raft took it. What it does not take because too
    /// much is uncommitted stays held: the next commit makes room.
    fn propose(&mut self) -> bool {
        if self.unconfirmed > 0 && self.held_bytes < BATCH_BYTES_MAX {
            // Whatever comes during a sync becomes one batch after it.
            return false;
        }
        self.forget_abandoned();
        let mut bytes = 0;
        let held = self.held.iter().take(BATCH_PROPOSALS_MAX);
        let batch = held.map(|proposal| proposal.encoded.clone());
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
                for (index, proposal) in (first..).zip(self.held.drain(..count)) {
                    let Proposal { sequence, encoded, waiter, taken, room, .. } = proposal;
                    self.held_bytes -= encoded.len();
                    let pending = Pending { index, waiter, taken, room };
                    let before = self.pending.insert(sequence, pending);
                    assert!(before.is_none(), "no number is given twice");
                }
                return true;
            }
            Err(keepd_raft::Error::ProposalDropped) => return false,
            Err(keepd_raft::Error::NoLeader) => Error::NoLeader,
            Err(_) => Error::ProposalDropped,
        };
        self.held_bytes = 0;
        for waiter in self.held.drain(..).filter_map(|proposal| proposal.waiter) {
            let _ = waiter.send(Err(error.clone()));
        }
        false
    }

    /// Lets go of proposals whose clients gave up while they were held: nobody would learn that they
    /// were done.
    fn forget_abandoned(&mut self) {
        let bytes = &mut self.held_bytes;
        self.held.retain(|proposal| {
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

    fn tick(&mut self) {
        let now = self.shared.env.clock.monotonic();
        if now < self.next_tick {
            return;
        }
        self.core.tick();
        self.give_up(now);
        self.next_tick = now + self.shared.options.heartbeat_interval;
    }

    /// Tells those who have waited too long; their commands may still be committed.
    fn give_up(&mut self, now: Duration) {
        let timeout = self.shared.options.request_timeout();
        let is_over = |taken: Duration| now.saturating_sub(taken) >= timeout;
        let held_bytes = &mut self.held_bytes;
        self.held.retain_mut(|proposal| {
            if !is_over(proposal.taken) {
                return true;
            }
            *held_bytes -= proposal.encoded.len();
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
        self.shared.unapplied.give_up(now, timeout);
    }

    /// Says whether the log owes a confirmation from now on.
    fn note_log(&self, owes: bool) {
        let now = owes.then(|| self.shared.env.clock.monotonic());
        self.shared.unapplied.note_log(now);
    }

    fn act(&mut self) {
        loop {
            while let Some(actions) = self.core.actions() {
                self.take(actions);
            }
            if !self.propose() {
                break;
            }
        }
        self.publish_status();
    }

    fn take(&mut self, mut actions: Actions) {
        let committed = std::mem::take(&mut actions.committed);
        let reads = std::mem::take(&mut actions.reads);
        if !actions.entries.is_empty() || actions.must_sync {
            self.unconfirmed += 1;
            if self.unconfirmed == 1 {
                self.note_log(true);
            }
            let remembered = self.remembered.take();
            actions.hard_state = actions.hard_state.or(remembered);
            self.shared.wal.hand(WalEvent::Append(actions));
        } else {
            // A commit index alone need not be synced (rule 9.2); it goes along with the next batch.
            // Confirming is only sound while nothing older is on its way.
            self.remembered = actions.hard_state.or(self.remembered);
            if self.unconfirmed == 0 {
                self.core.persisted(actions.number);
            }
        }
        if let Some(last) = committed.last() {
            // ORDER: before it can be applied; nobody shall see more applied than committed.
            self.shared.commit_index.store(last.index, Ordering::Release);
        }
        if let Some(last) = committed.last().map(|entry| entry.index) {
            let mut waiting = Vec::new();
            let committed = committed.into_iter().map(|entry| self.join(entry, &mut waiting));
            let committed = committed.collect();
            self.fail_lost(last);
            // ORDER: before the apply thread can look for those who wait.
            let now = self.shared.env.clock.monotonic();
            self.shared.unapplied.add(last, waiting, now);
            self.shared.apply.hand(ApplyEvent::Committed(committed));
        }
        for (context, index) in reads {
            self.release_reads(context, index);
        }
    }

    /// Finds who waits for an entry, by its origin.
    fn join(&mut self, entry: keepd_raft::Entry, waiting: &mut Vec<Waiting>) -> Committed {
        let origin = Origin::peek(&entry.data).filter(|origin| self.shared.is_own(*origin));
        let pending = origin.and_then(|origin| self.pending.remove(&origin.sequence));
        let Some(Pending { waiter, taken, room, .. }) = pending else {
            return Committed { entry, is_awaited: false, _room: None };
        };
        let (index, is_awaited) = (entry.index, waiter.is_some());
        waiting.extend(waiter.map(|waiter| Waiting { index, taken, waiter }));
        Committed { entry, is_awaited, _room: room }
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
            self.shared.apply.hand(ApplyEvent::WaitApplied { index, readers });
        }
    }

    fn publish_status(&mut self) {
        let status = self.core.status();
        let shared = &self.shared;
        shared.commit_index.store(status.commit, Ordering::Release);
        let is_new_term = shared.term.swap(status.term, Ordering::AcqRel) != status.term;
        if shared.leader.swap(status.leader, Ordering::AcqRel) != status.leader
            && status.leader != 0
        {
            shared.leader_changes.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                leader = %keepd_types::MemberId(status.leader),
                term = status.term,
                "elected leader"
            );
        }
        self.may_have_lost |= is_new_term && !self.pending.is_empty();
        let leads_in = (status.role == Role::Leader).then_some(Term(status.term));
        if (leads_in, status.is_alone) != (self.leads_in, self.is_alone) {
            shared.leadership.publish(leads_in, status.is_alone);
            self.is_alone = status.is_alone;
        }
        if leads_in != self.leads_in {
            self.leads_in = leads_in;
            shared.apply.hand(ApplyEvent::Leading(leads_in));
        }
    }
}

#[cfg(test)]
mod tests {
    use keepd_env::{Env, SeededRandom, SimDisk, SystemClock};
    use keepd_machine::command::Put;
    use keepd_machine::{Command, Envelope};
    use keepd_types::StoredValue;
    use tokio::sync::oneshot;

    use super::*;
    use crate::boot::{DataDir, Opened};
    use crate::messages::Completion;
    use crate::options::Options;

    fn raft_thread() -> RaftThread {
        let env = Env {
            disk: Arc::new(SimDisk::new()),
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SeededRandom::new(1)),
        };
        let options = Options::new("/data".into());
        let data_dir = DataDir::prepare(&env, &options, None).unwrap();
        let opened = data_dir.open(&env, &options).unwrap();
        let views = opened.machine.store().views();
        let Opened { identity, encryption, ballast, core, .. } = opened;
        let shared = Shared::new(env, options, identity, views, encryption, ballast);
        RaftThread::new(shared, core)
    }

    /// What the WAL thread does, without a log; how many entries each batch had.
    fn confirm(raft: &mut RaftThread) -> Vec<usize> {
        let (mut appended, mut events, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        raft.shared.wal.drain(&mut appended, Duration::ZERO);
        for event in appended {
            if let WalEvent::Append(actions) = event {
                events.push(RaftEvent::Persisted(actions.number));
                entries.push(actions.entries.len());
            }
        }
        raft.handle(&mut events);
        raft.act();
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
        raft.core.campaign().unwrap();
        raft.act();
        confirm(&mut raft);
        let mut replies = Vec::new();
        for _ in 0..4 {
            let (proposal, reply) = proposal(&raft.shared, 10);
            raft.hold(proposal);
            raft.act();
            replies.push(reply);
        }
        assert_eq!(confirm(&mut raft), [1], "the first waits for nobody, the others for its sync");
        assert_eq!(confirm(&mut raft), [3]);
    }

    #[test]
    fn what_a_client_gave_up_is_not_proposed() {
        let mut raft = raft_thread();
        raft.core.campaign().unwrap();
        raft.act();
        confirm(&mut raft);
        let mut replies: Vec<_> = (0..6)
            .map(|_| {
                let (proposal, reply) = proposal(&raft.shared, 10);
                raft.hold(proposal);
                raft.act();
                reply
            })
            .collect();
        // The first is being synced; two of the others are given up meanwhile.
        drop(replies.drain(2..4));
        assert_eq!(confirm(&mut raft), [1]);
        assert_eq!(confirm(&mut raft), [3]);
        assert_eq!((raft.held.len(), raft.held_bytes), (0, 0));
    }

    #[test]
    fn a_batch_that_has_company_takes_along_who_comes_meanwhile() {
        let mut raft = raft_thread();
        let hand = |raft: &RaftThread, count: usize| {
            for _ in 0..count {
                raft.shared.raft.hand(RaftEvent::Propose(proposal(&raft.shared, 10).0));
            }
        };
        raft.hold(proposal(&raft.shared, 10).0);
        hand(&raft, 3);
        raft.gather(&mut Vec::new());
        assert_eq!(raft.held.len(), 1, "few clients are not made to wait");
        for _ in 1..COMPANY_MIN {
            raft.hold(proposal(&raft.shared, 10).0);
        }
        raft.gather(&mut Vec::new());
        assert_eq!(raft.held.len(), COMPANY_MIN + 3);
    }

    #[test]
    fn what_raft_does_not_take_waits_for_a_commit() {
        let mut raft = raft_thread();
        raft.core.campaign().unwrap();
        raft.act();
        confirm(&mut raft);
        let mut replies = Vec::new();
        for _ in 0..100 {
            let (proposal, reply) = proposal(&raft.shared, 1 << 20);
            raft.hold(proposal);
            replies.push(reply);
        }
        raft.act();
        assert!(!raft.held.is_empty(), "more is uncommitted than may be");
        assert!(raft.pending.len() > 50, "what fits is proposed");
        let refused = raft.held.len();
        confirm(&mut raft);
        assert!(raft.held.len() < refused, "the commit has made room");
        while !confirm(&mut raft).is_empty() {}
        assert_eq!((raft.held.len(), raft.held_bytes), (0, 0));
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
        raft.core.campaign().unwrap();
        raft.act();
        confirm(&mut raft);
        let shared = Arc::clone(&raft.shared);
        let handle = crate::Handle { shared: Arc::clone(&shared) };
        shared.unapplied.take(u64::MAX);
        let (mut proposal, mut reply) = proposal(&raft.shared, 10);
        let now = shared.env.clock.monotonic();
        proposal.taken = now;
        raft.hold(proposal);
        raft.act();
        while !confirm(&mut raft).is_empty() {}
        // It is committed, and no apply thread takes it.
        let (timeout, election) =
            (shared.options.request_timeout(), shared.options.election_timeout);
        raft.give_up(now + timeout - Duration::from_millis(1));
        assert!(reply.try_recv().is_err());
        raft.give_up(now + timeout);
        assert!(matches!(reply.try_recv(), Ok(Err(Error::TimedOut))));
        assert!(handle.stall().is_none());
        let later = shared.env.clock.monotonic() + election * 2;
        assert!(shared.unapplied.stall(later, election).is_some());
    }
}
