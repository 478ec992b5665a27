//! The Raft thread: gathers proposals and reads, drives the core, feeds the WAL and apply threads.
//!
//! Receives from the tonic tasks ([`crate::Handle`]); hands entries to the WAL thread and committed
//! entries, each with the task that waits for it, to the apply thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use keepd_machine::Command;
use keepd_raft::{Actions, Core, Role};
use tokio::sync::oneshot;

use crate::apply_thread::{ApplyEvent, Committed};
use crate::error::Error;
use crate::handle::Completion;
use crate::shared::Shared;
use crate::wal_thread::WalEvent;

/// The task that waits for a command's outcome.
pub(crate) type Waiter = oneshot::Sender<Result<Completion, Error>>;
/// The task that waits to read.
pub(crate) type Reader = oneshot::Sender<Result<(), Error>>;

/// What the Raft thread reacts to.
#[derive(Debug)]
pub(crate) enum RaftEvent {
    /// A command, and who waits for it.
    Propose(Proposal),
    /// A linearizable read.
    Read(Reader),
    /// The WAL has the batch of this number.
    Persisted(u64),
    /// Everything up to this index is applied.
    Applied(u64),
    /// Shut down in order.
    Stop,
}

/// A command on its way into the log.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) command: Command,
    pub(crate) encoded: Bytes,
    /// `None` for the node's own commands, which are proposed again if they get lost.
    pub(crate) waiter: Option<Waiter>,
    /// When it was taken.
    pub(crate) taken: Duration,
}

/// A proposal that has a place in the log.
#[derive(Debug)]
struct Pending {
    index: u64,
    term: u64,
    command: Command,
    waiter: Option<Waiter>,
    taken: Duration,
}

#[derive(Debug)]
pub(crate) struct RaftThread {
    shared: Arc<Shared>,
    core: Core,
    /// Proposals by log index, ascending.
    pending: VecDeque<Pending>,
    /// Reads by context.
    reading: VecDeque<(u64, Vec<Reader>)>,
    /// Batches the WAL thread has not confirmed yet.
    unconfirmed: u64,
    next_tick: Duration,
    leads: bool,
}

impl RaftThread {
    pub(crate) fn new(shared: Arc<Shared>, core: Core) -> Self {
        let next_tick = shared.env.clock.monotonic();
        Self {
            shared,
            core,
            pending: VecDeque::new(),
            reading: VecDeque::new(),
            unconfirmed: 0,
            next_tick,
            leads: false,
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
            self.tick();
        }
        self.act();
        self.shared.raft.close();
        self.shared.leads_alone.store(false, Ordering::SeqCst);
        self.shared.wal.hand(WalEvent::Stop);
    }

    /// One turn: all proposals become one batch, all reads one read index.
    fn handle(&mut self, events: &mut Vec<RaftEvent>) -> bool {
        let (mut proposals, mut readers, mut stop) = (Vec::new(), Vec::new(), false);
        for event in events.drain(..) {
            match event {
                RaftEvent::Propose(proposal) => proposals.push(proposal),
                RaftEvent::Read(reader) => readers.push(reader),
                RaftEvent::Persisted(number) => {
                    self.unconfirmed -= 1;
                    self.core.persisted(number);
                }
                RaftEvent::Applied(index) => self.core.applied(index),
                RaftEvent::Stop => stop = true,
            }
        }
        self.propose(proposals);
        self.read(readers);
        stop
    }

    fn propose(&mut self, proposals: Vec<Proposal>) {
        if proposals.is_empty() {
            return;
        }
        let commands = proposals.iter().map(|proposal| proposal.encoded.clone()).collect();
        match self.core.propose(commands) {
            Ok((first, term)) => {
                for (index, proposal) in (first..).zip(proposals) {
                    let Proposal { command, waiter, taken, .. } = proposal;
                    self.pending.push_back(Pending { index, term, command, waiter, taken });
                }
            }
            Err(error) => {
                let metrics = &self.shared.metrics;
                metrics.proposals_failed.fetch_add(proposals.len() as u64, Ordering::Relaxed);
                let error = match error {
                    keepd_raft::Error::NoLeader => Error::NoLeader,
                    _ => Error::ProposalDropped,
                };
                for waiter in proposals.into_iter().filter_map(|proposal| proposal.waiter) {
                    // The task may have given up waiting.
                    let _ = waiter.send(Err(error.clone()));
                }
            }
        }
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
        for pending in &mut self.pending {
            if now.saturating_sub(pending.taken) < timeout {
                return;
            }
            if let Some(waiter) = pending.waiter.take() {
                let _ = waiter.send(Err(Error::TimedOut));
            }
        }
    }

    fn act(&mut self) {
        while let Some(actions) = self.core.actions() {
            self.take(actions);
        }
        self.publish_status();
    }

    fn take(&mut self, mut actions: Actions) {
        let committed = std::mem::take(&mut actions.committed);
        let reads = std::mem::take(&mut actions.reads);
        if !actions.entries.is_empty() || actions.must_sync {
            self.unconfirmed += 1;
            self.shared.wal.hand(WalEvent::Append(actions));
        } else {
            // A commit index alone need not be synced (rule 9.2); the WAL writes it with its next
            // batch. Confirming is only sound while nothing older is on its way.
            if let Some(hard_state) = actions.hard_state {
                self.shared.wal.hand(WalEvent::Remember(hard_state));
            }
            if self.unconfirmed == 0 {
                self.core.persisted(actions.number);
            }
        }
        if !committed.is_empty() {
            let committed = committed.into_iter().map(|entry| self.join(entry)).collect();
            self.shared.apply.hand(ApplyEvent::Committed(committed));
        }
        for (context, index) in reads {
            self.release_reads(context, index);
        }
    }

    /// Finds who waits for an entry; proposals that lost their place to another term fail.
    fn join(&mut self, entry: keepd_raft::Entry) -> Committed {
        while let Some(front) = self.pending.front() {
            if front.index > entry.index {
                break;
            }
            let pending = self.pending.pop_front().expect("it was just looked at");
            if pending.index == entry.index && pending.term == entry.term {
                return Committed { entry, command: Some(pending.command), waiter: pending.waiter };
            }
            if let Some(waiter) = pending.waiter {
                let _ = waiter.send(Err(Error::LeaderChanged));
            }
        }
        Committed { entry, command: None, waiter: None }
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
        shared.term.store(status.term, Ordering::Release);
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
        let leads = status.role == Role::Leader;
        if leads != self.leads {
            self.leads = leads;
            if !leads {
                shared.leads_alone.store(false, Ordering::SeqCst);
            }
            shared.apply.hand(ApplyEvent::Leading(leads.then_some(status.term)));
        }
    }
}
