//! Commands between their arrival and their commit: queued, appended here or sent to the leader,
//! matched with the entries that come back, or lost for certain.
//!
//! INVARIANT: a command that was appended or sent in term T is in the log before the first entry of a
//! later term, or never: a leader takes what it was sent in the same term only. So when an entry of a
//! later term is committed, whoever still waits for one of term T is told that it was lost. A state of
//! another member hides the entries that it holds: whoever waits then is told the same, and it may have
//! been applied.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use keepd_env::mutants::{self, Mutant};
use keepd_machine::Origin;
use keepd_raft::{ConfChange, EntryKind};
use keepd_types::MemberId;

use crate::admission::Permit;
use crate::error::Error;
use crate::messages::{Committed, Forward, ForwardedCommand, Proposal, Waiter};
use crate::peer_message::FORWARD_COMMANDS_MAX;
use crate::shared::Shared;
use crate::shared::unapplied::Waiting;

/// Bytes of commands proposed at once.
pub(super) const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// BOUND: proposals in one batch, well below the backlog of the apply part that refuses new ones.
pub(super) const BATCH_PROPOSALS_MAX: usize = 2048;
/// Bytes of commands that may be queued here until Raft takes them.
const QUEUED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// BOUND: bytes of commands that are sent to a leader and have not come back, as much as a leader
/// leaves uncommitted.
const SENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// BOUND: forwards under way at once that are not full. Under load the proposals gather behind them, so
/// that a message to the leader carries many; the second saves those who come just after the first
/// half of their wait.
const FORWARDS_UNDER_WAY_MAX: usize = 2;
/// Proposals and bytes with which a forward is full.
const FULL_FORWARD_PROPOSALS: usize = 256;
const FULL_FORWARD_BYTES: usize = 256 * 1024;
/// Time after which nothing more is expected of a forward: its stream may have been lost.
const FORWARD_TIME_MAX: Duration = Duration::from_millis(100);
/// BOUND: changes of the configuration that wait for the one that is under way.
const CONF_CHANGES_MAX: usize = 64;
/// BOUND: starts of members whose last forward is remembered.
const SENDERS_MAX: usize = 1024;

const _: () = assert!(BATCH_PROPOSALS_MAX <= FORWARD_COMMANDS_MAX);

/// A command that was appended here or sent to the leader.
#[derive(Debug)]
struct Pending {
    /// The term in which that was.
    term: u64,
    is_brief: bool,
    waiter: Option<Waiter>,
    taken: Duration,
    permit: Permit,
    /// Bytes that were sent to another member.
    sent_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Proposals {
    /// Proposals that wait for others, for the end of a sync, for a commit or for a leader.
    queued: VecDeque<Proposal>,
    queued_bytes: usize,
    /// Changes of the configuration that wait for their turn.
    conf_changes: VecDeque<Proposal>,
    /// This member's proposals that are appended or sent, by their number. BOUND: those that Raft
    /// takes before it drops them as too many uncommitted bytes, and `SENT_BYTES_MAX`.
    pending: BTreeMap<u64, Pending>,
    sent_bytes: usize,
    /// Forwards sent.
    forwards: u64,
    /// The last proposal of each forward that is under way, and when that was sent.
    under_way: VecDeque<(u64, Duration)>,
    /// The last forward that was taken of each start of a member, in this term.
    taken: BTreeMap<(MemberId, u64), u64>,
    taken_in: u64,
}

impl Proposals {
    pub(super) fn len(&self) -> usize {
        self.queued.len()
    }

    pub(super) const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    #[cfg(test)]
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn enqueue(&mut self, proposal: Proposal) {
        if proposal.is_conf_change {
            if self.conf_changes.len() < CONF_CHANGES_MAX {
                self.conf_changes.push_back(proposal);
            } else {
                refuse(proposal.waiter, &Error::TooManyRequests);
            }
            return;
        }
        let bytes = self.queued_bytes + proposal.encoded.len();
        if proposal.is_urgent {
            self.queued_bytes = bytes;
            self.queued.push_front(proposal);
        } else if bytes <= QUEUED_BYTES_MAX || proposal.waiter.is_none() {
            self.queued_bytes = bytes;
            self.queued.push_back(proposal);
        } else {
            refuse(proposal.waiter, &Error::TooManyRequests);
        }
    }

    /// Takes what a follower sent, unless it was taken before; the commands that find no room are
    /// given back.
    pub(super) fn take_forward(
        &mut self,
        from: MemberId,
        forward: Forward,
        now: Duration,
    ) -> Vec<ForwardedCommand> {
        self.enter_term(forward.term);
        let sender = (from, forward.boot);
        let is_new = self.taken.get(&sender).is_none_or(|last| *last < forward.number);
        if !is_new && !mutants::is_active(Mutant::DoubleForward) {
            return Vec::new();
        }
        if self.taken.len() >= SENDERS_MAX && !self.taken.contains_key(&sender) {
            return forward.commands;
        }
        self.taken.insert(sender, forward.number);
        let mut refused = Vec::new();
        for command in forward.commands {
            let has_room = self.queued_bytes + command.encoded.len() <= QUEUED_BYTES_MAX
                && !(command.is_conf_change && self.conf_changes.len() >= CONF_CHANGES_MAX);
            if has_room {
                self.enqueue(Proposal::of_peer(command.encoded, command.is_conf_change, now));
            } else {
                refused.push(command);
            }
        }
        refused
    }

    /// The commands of the next batch.
    pub(super) fn batch(&mut self) -> Vec<Bytes> {
        self.drop_abandoned();
        let mut bytes = 0;
        let queued = self.queued.iter().take(BATCH_PROPOSALS_MAX);
        let batch = queued.map(|proposal| proposal.encoded.clone());
        let batch = batch.take_while(|encoded| {
            let is_first = bytes == 0;
            bytes += encoded.len();
            is_first || bytes <= BATCH_BYTES_MAX
        });
        batch.collect()
    }

    /// The first commands were appended in this term.
    pub(super) fn appended(&mut self, count: usize, term: u64) {
        for _ in 0..count {
            let proposal = self.queued.pop_front().expect("it is of the batch");
            self.queued_bytes -= proposal.encoded.len();
            self.await_entry(proposal, term, 0);
        }
    }

    /// The first command was sent, or gave no reason to.
    fn await_entry(&mut self, proposal: Proposal, term: u64, sent_bytes: usize) {
        let Some(sequence) = proposal.sequence else { return };
        let Proposal { is_brief, waiter, taken, permit, .. } = proposal;
        self.sent_bytes += sent_bytes;
        let pending = Pending { term, is_brief, waiter, taken, permit, sent_bytes };
        let before = self.pending.insert(sequence, pending);
        assert!(before.is_none(), "no number is given twice");
    }

    /// The next change of the configuration to propose.
    pub(super) fn next_conf_change(&self) -> Option<ConfChange> {
        let encoded = &self.conf_changes.front()?.encoded;
        Some(ConfChange::decode(encoded).expect("it was checked when it came"))
    }

    /// The change was appended in this term.
    pub(super) fn conf_change_appended(&mut self, term: u64) {
        let proposal = self.conf_changes.pop_front().expect("it was the next one");
        self.await_entry(proposal, term, 0);
    }

    /// The change is not possible.
    pub(super) fn refuse_conf_change(&mut self, error: &Error) {
        if let Some(proposal) = self.conf_changes.pop_front() {
            refuse(proposal.waiter, error);
        }
    }

    /// The next commands for the leader, all in this term; `None` if there is nothing, or as much as may
    /// be is on its way.
    pub(super) fn forward(&mut self, term: u64, boot: u64, now: Duration) -> Option<Forward> {
        if self.gathers(now) {
            return None;
        }
        self.drop_abandoned();
        let mut bytes = self.sent_bytes;
        let waiting = self.conf_changes.iter().chain(&self.queued);
        let commands = waiting.take(BATCH_PROPOSALS_MAX).take_while(|proposal| {
            let is_first = bytes == self.sent_bytes;
            bytes += proposal.encoded.len();
            let is_small = bytes - self.sent_bytes <= BATCH_BYTES_MAX && bytes <= SENT_BYTES_MAX;
            is_small || (is_first && self.sent_bytes == 0)
        });
        let commands: Vec<ForwardedCommand> = commands
            .map(|proposal| ForwardedCommand {
                encoded: proposal.encoded.clone(),
                is_conf_change: proposal.is_conf_change,
            })
            .collect();
        if commands.is_empty() {
            return None;
        }
        Some(Forward { term, boot, number: self.forwards + 1, commands })
    }

    /// A forward of so many commands was sent: none of them is sent again.
    pub(super) fn forwarded(&mut self, count: usize, term: u64, now: Duration) {
        self.forwards += 1;
        let mut last = None;
        for _ in 0..count {
            let proposal = self.conf_changes.pop_front().or_else(|| {
                let proposal = self.queued.pop_front()?;
                self.queued_bytes -= proposal.encoded.len();
                Some(proposal)
            });
            let proposal = proposal.expect("it is of the forward");
            let bytes = proposal.encoded.len();
            last = proposal.sequence.or(last);
            self.await_entry(proposal, term, bytes);
        }
        self.under_way.extend(last.map(|last| (last, now)));
    }

    /// Whether what is queued is better sent later, with what comes until then.
    fn gathers(&mut self, now: Duration) -> bool {
        let pending = &self.pending;
        self.under_way.retain(|(last, sent)| {
            pending.contains_key(last) && now.saturating_sub(*sent) < FORWARD_TIME_MAX
        });
        self.under_way.len() >= FORWARDS_UNDER_WAY_MAX
            && self.conf_changes.is_empty()
            && self.queued.front().is_some_and(|proposal| !proposal.is_urgent)
            && self.queued.len() < FULL_FORWARD_PROPOSALS
            && self.queued_bytes < FULL_FORWARD_BYTES
    }

    /// Drops what other members sent in another term: they learn of the new leader by themselves.
    pub(super) fn enter_term(&mut self, term: u64) {
        if self.taken_in == term {
            return;
        }
        self.taken_in = term;
        self.taken.clear();
        let bytes = &mut self.queued_bytes;
        self.queued.retain(|proposal| {
            if proposal.sequence.is_none() {
                *bytes -= proposal.encoded.len();
            }
            proposal.sequence.is_some()
        });
        self.conf_changes.retain(|proposal| proposal.sequence.is_some());
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

    /// Fails everything that is queued.
    pub(super) fn refuse_queued(&mut self, error: &Error) {
        self.queued_bytes = 0;
        for proposal in self.queued.drain(..) {
            refuse(proposal.waiter, error);
        }
    }

    /// The leader did not take these, nor will anyone.
    pub(super) fn refused(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            if let Some(pending) = self.pending.remove(sequence) {
                self.sent_bytes -= pending.sent_bytes;
                refuse(pending.waiter, &Error::TooManyRequests);
            }
        }
    }

    /// Finds who waits for an entry, by its origin.
    pub(super) fn match_entry(
        &mut self,
        shared: &Shared,
        entry: keepd_raft::Entry,
        waiting: &mut Vec<Waiting>,
    ) -> Committed {
        let origin = origin(&entry).filter(|origin| shared.is_own(*origin));
        let pending = origin.and_then(|origin| self.pending.remove(&origin.sequence));
        let Some(Pending { is_brief, waiter, taken, permit, sent_bytes, .. }) = pending else {
            return Committed { entry, is_awaited: false, is_brief: false, _permit: None };
        };
        self.sent_bytes -= sent_bytes;
        let (index, is_awaited) = (entry.index, waiter.is_some());
        waiting.extend(waiter.map(|waiter| Waiting { index, taken, waiter }));
        Committed { entry, is_awaited, is_brief, _permit: permit }
    }

    /// Proposals of terms before this one that have not come back never will; whoever waits is told so.
    pub(super) fn fail_lost(&mut self, term: u64) {
        for (_, lost) in self.pending.extract_if(.., |_, pending| pending.term < term) {
            self.sent_bytes -= lost.sent_bytes;
            refuse(lost.waiter, &Error::LeaderChanged);
        }
    }

    /// Tells those who have waited too long. What was given to a leader may still be committed.
    pub(super) fn expire(
        &mut self,
        is_over: impl Fn(Duration) -> bool,
        error: impl Fn(Duration) -> Error,
        has_leader: bool,
    ) {
        let of_queued = |taken| if has_leader { error(taken) } else { Error::NotProposed };
        let queued_bytes = &mut self.queued_bytes;
        self.queued.retain_mut(|proposal| {
            if !is_over(proposal.taken) {
                return true;
            }
            *queued_bytes -= proposal.encoded.len();
            refuse(proposal.waiter.take(), &of_queued(proposal.taken));
            false
        });
        self.conf_changes.retain_mut(|proposal| {
            if is_over(proposal.taken) {
                refuse(proposal.waiter.take(), &of_queued(proposal.taken));
            }
            !is_over(proposal.taken)
        });
        for pending in self.pending.values_mut().filter(|pending| is_over(pending.taken)) {
            refuse(pending.waiter.take(), &error(pending.taken));
        }
    }
}

/// The proposal that an entry comes from.
fn origin(entry: &keepd_raft::Entry) -> Option<Origin> {
    match entry.kind {
        EntryKind::Normal => Origin::peek(&entry.data),
        _ => Origin::peek(&ConfChange::decode(&entry.data).ok()?.context),
    }
}

fn refuse(waiter: Option<Waiter>, error: &Error) {
    if let Some(waiter) = waiter {
        // The task may have given up waiting.
        let _ = waiter.send(Err(error.clone()));
    }
}
