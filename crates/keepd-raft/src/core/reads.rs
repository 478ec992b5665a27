//! Read indexes, by messages of our own.
//!
//! A follower asks the leader with a name that no other request has; the leader gathers what is
//! asked in a turn, by itself and by others, into one round, which a majority confirms. A round's
//! name, term and counter, is never used twice, so a late confirmation releases nothing newer. A
//! read that gets no answer is asked again: after a while, and when the leader changes. The answer
//! to a read also answers all earlier ones of its member. A few requests of a member, and a few
//! rounds of the leader, are under way at a time: under load the others gather behind them, and one
//! message stands for hundreds.

use std::collections::VecDeque;

use super::{Core, Error, HELD_READS_MAX};
use crate::message::{Body, Message, ReadRequest, Round};

/// BOUND: requests of a follower, and rounds of a leader, under way at once. A second one saves those
/// who come just after the first half of their wait; more of them would be messages for little.
const UNDER_WAY_MAX: usize = 2;

/// One who waits for a round.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Own(u64),
    Peer(u64, ReadRequest),
}

#[derive(Debug)]
pub(super) struct Reads {
    /// Names this start of the member.
    boot: u64,
    /// Number of the last read, of this member.
    last: u64,
    /// Reads of this member without an answer, ascending. BOUND: `HELD_READS_MAX`.
    waiting: VecDeque<u64>,
    /// Those of them that a leader was asked for, ascending. BOUND: `UNDER_WAY_MAX`.
    asked: VecDeque<u64>,
    /// Ticks since the newest of them was asked.
    ticks: usize,
    /// Reads for the next round. BOUND: `HELD_READS_MAX`.
    asking: Vec<Asker>,
    /// Rounds that are not confirmed. BOUND: `UNDER_WAY_MAX`.
    rounds: VecDeque<(Round, Vec<Asker>)>,
    last_round: u64,
    /// Answered reads of this member, with their index.
    released: Vec<(u64, u64)>,
    /// Requests and answers to send.
    pub(super) outbox: Vec<Message>,
}

impl Reads {
    pub(super) fn new(boot: u64) -> Self {
        Self {
            boot,
            last: 0,
            waiting: VecDeque::new(),
            asked: VecDeque::new(),
            ticks: 0,
            asking: Vec::new(),
            rounds: VecDeque::new(),
            last_round: 0,
            released: Vec::new(),
            outbox: Vec::new(),
        }
    }

    pub(super) fn has_work(&self) -> bool {
        !self.released.is_empty() || !self.outbox.is_empty()
    }

    pub(super) fn take_released(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.released)
    }

    /// Takes the leader's answer; one that this start of this member does not wait for is dropped.
    pub(super) fn take_answer(&mut self, request: ReadRequest, index: u64) {
        if request.boot == self.boot && self.waiting.contains(&request.number) {
            self.release(request.number, index);
        }
    }

    fn release(&mut self, number: u64, index: u64) {
        while let Some(read) = self.waiting.pop_front_if(|read| *read <= number) {
            self.released.push((read, index));
        }
        while self.asked.pop_front_if(|read| *read <= number).is_some() {}
    }

    /// Forgets what others asked and what was under way: another leads.
    fn stop_leading(&mut self) {
        self.asking.clear();
        self.rounds.clear();
    }

    /// Whether there is one that nobody was asked for, and few enough are under way.
    fn may_ask(&self) -> bool {
        self.waiting.back() > self.asked.back() && self.asked.len() < UNDER_WAY_MAX
    }
}

impl Core {
    /// Asks for a read index; the number comes back in [`super::Actions::reads`]. Reads wait for as
    /// long as it takes, over changes of the leader; the driver tells those who do not want to.
    ///
    /// # Errors
    /// If no leader is known, or too many reads wait.
    pub fn read_index(&mut self) -> Result<u64, Error> {
        if self.raw.raft.leader_id == raft::INVALID_ID || self.reads.waiting.len() >= HELD_READS_MAX
        {
            return Err(Error::NoLeader);
        }
        self.reads.last += 1;
        let number = self.reads.last;
        self.reads.waiting.push_back(number);
        assert!(self.reads.waiting.len() <= HELD_READS_MAX, "waiting reads are bounded");
        self.ask_in_turn();
        Ok(number)
    }

    /// Asks for what has gathered behind the requests under way, if one of them has ended.
    pub(super) fn ask_in_turn(&mut self) {
        if self.is_leader() || self.reads.may_ask() {
            self.ask();
        }
    }

    /// Asks for the newest of the waiting reads, which stands for all.
    fn ask(&mut self) {
        let Some(number) = self.reads.waiting.back().copied() else { return };
        self.reads.ticks = 0;
        let (from, to) = (self.settings.id, self.raw.raft.leader_id);
        if self.is_leader() {
            self.reads.asking.retain(|asker| matches!(asker, Asker::Peer(..)));
            self.reads.asking.push(Asker::Own(number));
        } else if to != raft::INVALID_ID {
            if self.reads.asked.len() == UNDER_WAY_MAX {
                // It asks again: of an answer that is lost nothing more is expected.
                self.reads.asked.clear();
            }
            self.reads.asked.push_back(number);
            let request = ReadRequest { boot: self.reads.boot, number };
            let is_request = |message: &mut Message| matches!(message.body, Body::ReadIndex(_));
            self.reads.outbox.extract_if(.., is_request).for_each(drop);
            let term = self.raw.raft.term;
            self.reads.outbox.push(Message { from, to, term, body: Body::ReadIndex(request) });
        }
    }

    pub(super) fn tick_reads(&mut self) {
        self.reads.ticks = self.reads.ticks.saturating_add(1);
        if self.reads.ticks >= self.settings.read_retry_ticks {
            self.ask();
        }
    }

    /// Asks again, elsewhere.
    pub(super) fn follow_reads(&mut self) {
        if !self.is_leader() {
            self.reads.stop_leading();
        }
        self.reads.asked.clear();
        self.ask();
    }

    pub(super) fn take_read_request(&mut self, from: u64, request: ReadRequest) {
        if self.is_leader() && self.reads.asking.len() < HELD_READS_MAX {
            self.reads.asking.push(Asker::Peer(from, request));
        }
    }

    /// Begins a round for what was asked. Before the leader has committed in its term, raft would
    /// drop it silently (rule 9.14): its commit index may be behind what an earlier leader has
    /// acknowledged.
    pub(super) fn begin_round(&mut self) {
        let may_begin = self.is_leader() && self.raw.raft.commit_to_current_term();
        // A round whose confirmation was lost is confirmed by the next heartbeat.
        if !may_begin || self.reads.asking.is_empty() || self.reads.rounds.len() >= UNDER_WAY_MAX {
            return;
        }
        self.reads.last_round += 1;
        let round = Round { term: self.raw.raft.term, number: self.reads.last_round };
        let askers = std::mem::take(&mut self.reads.asking);
        self.reads.rounds.push_back((round, askers));
        self.raw.read_index(round.encode());
    }

    /// Answers those who asked for a round that is confirmed.
    pub(super) fn end_round(&mut self, context: &[u8], index: u64) {
        let round = Round::decode(context).expect("raft gives back what it was given");
        let is_confirmed = |(front, _): &mut (Round, Vec<Asker>)| *front <= round;
        while let Some((_, askers)) = self.reads.rounds.pop_front_if(is_confirmed) {
            for asker in askers {
                match asker {
                    Asker::Own(number) => self.reads.release(number, index),
                    Asker::Peer(to, request) => {
                        let (from, term) = (self.settings.id, self.raw.raft.term);
                        let body = Body::ReadIndexResponse { request, index };
                        self.reads.outbox.push(Message { from, to, term, body });
                    }
                }
            }
        }
    }
}
