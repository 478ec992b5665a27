//! Members remember one another's promises, and tell them to a member that starts (rule 9.23).
//!
//! A disk may forget what it had synced, or somebody puts an older copy of a directory back. A member
//! with such a log must not vote, and must not confirm anything, as if it had never promised more. Its
//! own disk cannot tell it; the others can:
//!
//! ```text
//!   each member remembers of each other one, for as long as it runs: the term and the index that this
//!   one has confirmed, and for whom it voted in that term
//!
//!   a member that starts asks every voter    Started: its term, vote and last index on the disk
//!   it is answered                           Known:   what it has forgotten, if it has, and the end of
//!                                                     the log, the term and the voters of who answers
//! ```
//!
//! Until all voters have answered it takes no part: it neither votes nor stands for election, and
//! confirms nothing. If it has forgotten something it stops. Those who knew may have been restarted since
//! and remember nothing; so it votes only for logs that have all that those who answered had, and in
//! terms after theirs.
//!
//! Somebody may never answer. It is waited for for a while; then the member takes part without its word.
//!
//! ORDER: what is remembered comes by messages that do not overtake [`Body::Started`] of the same start.

use std::collections::{BTreeMap, BTreeSet};

use raft::{INVALID_ID, StateRole};

use super::{Core, Error};
use crate::conf_change::ConfState;
use crate::message::{Body, Known, LogPosition, Message, Started};

/// BOUND: members that are remembered. A cluster has a few.
const REMEMBERED_MAX: usize = 1024;

/// The promises of a member to this one, by the highest term of a promise.
#[derive(Clone, Copy, Debug, Default)]
struct Remembered {
    /// The start of the member for which this was already compared.
    boot: Option<u64>,
    term: u64,
    /// The last index that it has confirmed in this term.
    index: u64,
    /// The candidate that it voted for in this term; 0 if that is not known.
    vote: u64,
}

impl Remembered {
    fn promise(&mut self, term: u64, index: u64, vote: u64) {
        if term > self.term {
            (self.term, self.index, self.vote) = (term, 0, 0);
        }
        if term == self.term {
            self.index = self.index.max(index);
            self.vote = if vote == 0 { self.vote } else { vote };
        }
    }

    /// Whether a member that had promised this cannot have such a disk.
    ///
    /// Within a term the log of a member never falls below what it has confirmed in it, and a term
    /// that a disk has is never lower later on.
    const fn contradicts(&self, started: &Started) -> bool {
        let is_same_vote = self.vote == 0 || self.vote == started.vote;
        started.term < self.term
            || (started.term == self.term && (started.last < self.index || !is_same_vote))
    }
}

/// A member's own start.
#[derive(Debug)]
pub(super) struct Rejoin {
    /// The state of the disk at the start.
    started: Started,
    takes_part: bool,
    /// Ticks for which voters are still waited for, and logs compared with what they had.
    patience: usize,
    answered: BTreeSet<u64>,
    /// The voters of the newest configuration that was told of, and the index that it is as of.
    voters: (u64, Vec<u64>),
    /// The highest term, and the end of the best log, of those that have answered.
    floor: (u64, LogPosition),
    /// Voters without whose word this member began to take part.
    unheard: Vec<u64>,
    ticks: u64,
    /// The members that this one has heard. BOUND: `REMEMBERED_MAX`.
    remembered: BTreeMap<u64, Remembered>,
    pub(super) outbox: Vec<Message>,
}

impl Rejoin {
    /// A start that waits for others for `patience` ticks; with 0 it asks nobody.
    pub(super) fn new(
        started: Started,
        patience: usize,
        applied: u64,
        conf_state: &ConfState,
    ) -> Self {
        let asked = if patience == 0 { Vec::new() } else { voters(conf_state) };
        Self {
            started,
            takes_part: true,
            patience,
            answered: BTreeSet::new(),
            voters: (applied, asked),
            floor: (0, LogPosition::default()),
            unheard: Vec::new(),
            ticks: 0,
            remembered: BTreeMap::new(),
            outbox: Vec::new(),
        }
    }

    fn remember(&mut self, member: u64) -> Option<&mut Remembered> {
        let has_room = self.remembered.len() < REMEMBERED_MAX;
        let is_known = self.remembered.contains_key(&member);
        (has_room || is_known).then(|| self.remembered.entry(member).or_default())
    }

    fn unanswered(&self) -> Vec<u64> {
        let (_, voters) = &self.voters;
        voters.iter().copied().filter(|voter| !self.answered.contains(voter)).collect()
    }

    fn is_behind(&self, last: LogPosition) -> bool {
        let (_, floor) = self.floor;
        (last.term, last.index) < (floor.term, floor.index)
    }
}

fn voters(conf_state: &ConfState) -> Vec<u64> {
    let all = conf_state.voters.iter().chain(&conf_state.voters_outgoing);
    all.copied().collect::<BTreeSet<u64>>().into_iter().collect()
}

impl Core {
    /// Begins to ask the other voters, if there are any.
    pub(super) fn begin_rejoin(&mut self) {
        self.rejoin.answered.insert(self.settings.id);
        if !self.rejoin.unanswered().is_empty() {
            self.rejoin.takes_part = false;
            self.ask_of_start();
        }
    }

    /// Whether this member waits for what the others know of it.
    pub(super) const fn is_rejoining(&self) -> bool {
        !self.rejoin.takes_part
    }

    /// Whether others have a better log than this member: it does not stand for election then.
    pub(super) fn is_behind_at_start(&self) -> bool {
        self.rejoin.patience > 0 && self.rejoin.is_behind(self.last_position())
    }

    /// Whether a member that has forgotten what it promised could not give this vote: only a candidate
    /// with all that others have gets it, and no vote is given twice.
    pub(super) fn may_vote(&self, term: u64, is_pre: bool, last: LogPosition) -> bool {
        let (floor_term, _) = self.rejoin.floor;
        let is_free = self.rejoin.patience == 0
            || ((is_pre || term > floor_term) && !self.rejoin.is_behind(last));
        self.rejoin.takes_part && is_free
    }

    /// Whether a message would promise something that this member may have promised otherwise. The
    /// answer to a heartbeat confirms rounds of reads: it stands for a vote not given elsewhere.
    pub(super) const fn is_held_back(&self, message: &Message) -> bool {
        let is_promise = matches!(
            message.body,
            Body::Appended { .. } | Body::HeartbeatResponse { .. } | Body::VoteResponse { .. }
        );
        is_promise && !self.rejoin.takes_part
    }

    /// Voters whose word this member went on without; told once.
    pub fn take_unheard(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.rejoin.unheard)
    }

    fn last_position(&self) -> LogPosition {
        let log = &self.raw.raft.raft_log;
        LogPosition { term: log.last_term(), index: log.last_index() }
    }

    pub(super) fn tick_rejoin(&mut self) {
        self.rejoin.ticks += 1;
        if self.rejoin.patience > 0 {
            self.rejoin.patience -= 1;
            if self.rejoin.patience == 0 && !self.rejoin.takes_part {
                self.rejoin.takes_part = true;
                self.rejoin.unheard = self.rejoin.unanswered();
            }
        }
        // Who comes back late may still know that something is missing.
        let is_time = self.rejoin.ticks.is_multiple_of(self.settings.election_ticks as u64);
        if !self.rejoin.takes_part || is_time {
            self.ask_of_start();
        }
    }

    /// Asks those that have not answered. As soon as this member takes part it promises more than it
    /// had at its start, and what it has by now is compared.
    fn ask_of_start(&mut self) {
        let unanswered = self.rejoin.unanswered();
        if unanswered.is_empty() {
            return;
        }
        let raft = &self.raw.raft;
        let mut started = self.rejoin.started;
        if self.rejoin.takes_part {
            let last = raft.raft_log.last_index();
            started = Started { term: raft.term, vote: raft.vote, last, ..started };
        }
        let (from, term) = (self.settings.id, raft.term.max(1));
        // Who was removed since has nothing to say; who came since may not be known here yet.
        let is_there = |to: &u64| !self.rejoin.takes_part || raft.prs().get(*to).is_some();
        let asked: Vec<u64> = unanswered.into_iter().filter(is_there).collect();
        for to in asked {
            self.rejoin.outbox.push(Message { from, to, term, body: Body::Started(started) });
        }
    }

    /// Answers a member that has started.
    pub(super) fn answer_start(&mut self, to: u64, started: Started) {
        let (own, term) = (self.settings.id, self.raw.raft.term);
        let Some(remembered) = self.rejoin.remember(to) else { return };
        let is_new = remembered.boot != Some(started.boot);
        let needed = (is_new && remembered.contradicts(&started))
            .then_some((remembered.term, remembered.index));
        if needed.is_none() {
            remembered.boot = Some(started.boot);
        }
        let known = Known {
            boot: started.boot,
            needed,
            last: self.last_position(),
            applied: self.raw.raft.raft_log.applied,
            voters: voters(&self.conf_state),
        };
        let body = Body::Known(known);
        self.rejoin.outbox.push(Message { from: own, to, term: term.max(1), body });
    }

    /// Takes what another member knows of this one.
    ///
    /// # Errors
    /// [`Error::Forgotten`] if this member had more.
    pub(super) fn take_known(&mut self, from: u64, term: u64, known: &Known) -> Result<(), Error> {
        let started = self.rejoin.started;
        if known.boot != started.boot {
            return Ok(());
        }
        if let Some((needed_term, needed)) = known.needed {
            let Started { term, last, .. } = started;
            return Err(Error::Forgotten { term, last, needed_term, needed });
        }
        self.rejoin.answered.insert(from);
        if self.rejoin.patience == 0 {
            return Ok(());
        }
        if known.applied > self.rejoin.voters.0 {
            self.rejoin.voters = (known.applied, known.voters.clone());
        }
        let (floor_term, floor) = &mut self.rejoin.floor;
        *floor_term = (*floor_term).max(term);
        if (known.last.term, known.last.index) > (floor.term, floor.index) {
            *floor = known.last;
        }
        let is_first = !self.rejoin.takes_part;
        self.rejoin.takes_part |= self.rejoin.unanswered().is_empty();
        if is_first && term > self.raw.raft.term {
            self.raw.raft.become_follower(term, INVALID_ID);
        }
        Ok(())
    }

    /// Remembers what a message promises, before it is stepped.
    pub(super) fn remember(&mut self, message: &Message) {
        let raft = &self.raw.raft;
        let is_own_term = message.term == raft.term;
        let (is_leader, is_candidate) =
            (raft.state == StateRole::Leader, raft.state == StateRole::Candidate);
        let last = raft.raft_log.last_index();
        let (index, vote) = match &message.body {
            Body::Appended { index, .. } if is_leader && is_own_term && *index <= last => {
                (*index, 0)
            }
            Body::VoteResponse { is_pre: false, is_granted: true, .. }
                if is_candidate && is_own_term =>
            {
                (0, self.settings.id)
            }
            // Who leads or stands has voted for itself.
            Body::Heartbeat { .. } | Body::Vote { is_pre: false, .. } => (0, message.from),
            _ => return,
        };
        if let Some(remembered) = self.rejoin.remember(message.from) {
            remembered.promise(message.term, index, vote);
        }
    }
}
