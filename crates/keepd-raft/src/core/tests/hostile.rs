//! Peers that send anything: messages with fields of their own choice, beside those that an honest
//! cluster sends. Whatever comes, the core refuses it or goes on; raft's asserts are out of reach.

use super::*;
use crate::conf_change::{ConfChange, Step};
use crate::message::{Body, Known, LogPosition, ReadRequest, Round, Started};

const SEEDS: u64 = 3000;
const STEPS: usize = 400;

/// A member whose driver is honest, and as slow as chance has it.
struct Victim {
    seed: u64,
    core: Core,
    random: SeededRandom,
    unsynced: VecDeque<Actions>,
    committed: VecDeque<Entry>,
    sent: Vec<Message>,
}

impl Victim {
    fn new(seed: u64) -> Self {
        let random = SeededRandom::new(seed);
        let voters = if random.next_u64().is_multiple_of(4) { vec![7] } else { vec![7, 8, 9] };
        let conf_state = ConfState { voters, learners: vec![10], ..ConfState::default() };
        let restored = InitialState { conf_state, ..fresh() };
        let rejoin_ticks = [0, 5, 1000][usize::try_from(random.next_u64() % 3).unwrap()];
        let settings = Settings { rejoin_ticks, ..settings() };
        let core = Core::new(settings, restored, Arc::new(SeededRandom::new(seed))).unwrap();
        let (unsynced, committed) = (VecDeque::new(), VecDeque::new());
        Self { seed, core, random, unsynced, committed, sent: Vec::new() }
    }

    fn below(&self, bound: u64) -> u64 {
        (self.random.next_u64() >> 8) % bound
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            match self.below(18) {
                0 => self.core.tick(),
                1 if self.below(8) == 0 => drop(self.core.campaign()),
                2 => drop(self.core.propose(vec!["command".into()])),
                3 => drop(self.core.read_index()),
                4 => drop(self.core.propose_conf_change(&self.change())),
                5 => drop(self.core.transfer_leader(8)),
                6 => {
                    let end = [SnapshotEnd::Finished, SnapshotEnd::Failed];
                    self.core
                        .report_snapshot(8 + self.below(3), end[usize::from(self.below(2) == 0)]);
                }
                7 | 8 => self.act(),
                9 => self.sync(),
                10 => self.apply(),
                11 if self.below(8) == 0 => drop(self.core.step_down()),
                12 => self.core.set_stalled(self.below(4) == 0),
                _ => drop(self.core.step(self.message())),
            }
        }
    }

    fn change(&self) -> ConfChange {
        let id = 7 + self.below(6);
        let step = match self.below(5) {
            0 => Step::AddVoter(id),
            1 => Step::AddLearner(id),
            2 => Step::Promote(id),
            3 => Step::Update(id),
            _ => Step::Remove(id),
        };
        ConfChange { steps: vec![step], ..ConfChange::default() }
    }

    fn act(&mut self) {
        if let Some(mut actions) = self.core.actions() {
            if actions.snapshot.is_some() {
                self.committed.clear();
            }
            self.committed.extend(std::mem::take(&mut actions.committed));
            self.sent.extend(actions.messages.iter().map(Message::clone));
            self.unsynced.push_back(actions);
        }
    }

    fn sync(&mut self) {
        let Some(actions) = self.unsynced.pop_front() else { return };
        self.core.persisted(actions.number);
        if let Some(snapshot) = actions.snapshot {
            let is_last = self.unsynced.iter().all(|later| later.snapshot.is_none());
            if is_last {
                self.core.applied(snapshot.last.index);
            }
        }
    }

    fn apply(&mut self) {
        let Some(entry) = self.committed.front().cloned() else { return };
        let is_installing = self.unsynced.iter().any(|actions| actions.snapshot.is_some());
        if is_installing {
            return;
        }
        self.committed.pop_front();
        if entry.kind == EntryKind::Normal {
            self.core.applied(entry.index);
        } else {
            let verdict = if self.below(4) == 0 { Verdict::Rejected } else { Verdict::Accepted };
            self.core.apply_conf_change(entry.index, verdict);
        }
    }

    /// A number near those that count, and sometimes far from all.
    fn number(&self, near: u64) -> u64 {
        match self.below(20) {
            0 => self.random.next_u64(),
            1 => 0,
            2 => 1 << 62,
            3 => u64::MAX,
            _ => (near + self.below(6)).saturating_sub(3),
        }
    }

    fn position(&self, status: &Status) -> LogPosition {
        let near = if self.below(2) == 0 { status.commit } else { status.last_index };
        LogPosition { term: self.number(status.term), index: self.number(near) }
    }

    fn entries(&self, previous: LogPosition) -> Vec<Entry> {
        let mut term = previous.term;
        (1..=self.below(4))
            .map(|count| {
                term = term.saturating_add(self.below(2)).max(1);
                let index = previous.index.saturating_add(count);
                let (kind, data) = match self.below(6) {
                    0 => (EntryKind::ConfChangeV2, self.change().encode()),
                    1 => (EntryKind::ConfChangeV2, Bytes::new()),
                    _ => (EntryKind::Normal, Bytes::from_static(b"forged")),
                };
                Entry { index, term, kind, data }
            })
            .collect()
    }

    fn message(&self) -> Message {
        let status = self.core.status();
        let at = self.position(&status);
        let (index, commit) = (self.number(status.last_index), self.number(status.commit));
        let term = self.number(status.term);
        let round = Some(Round { term, number: self.number(1) }).filter(|_| self.below(2) == 0);
        let request = ReadRequest { boot: self.random.next_u64(), number: self.number(1) };
        let is_pre = self.below(2) == 0;
        // The number that the member drew at its start.
        let boot = SeededRandom::new(self.seed).next_u64();
        let body = match self.below(14) {
            0 | 1 => Body::Append { previous: at, commit, entries: self.entries(at) },
            2 => Body::Appended { index, commit },
            3 => Body::AppendRejected { index, commit, hint: at },
            4 => Body::Heartbeat { commit, round },
            5 => Body::HeartbeatResponse { commit, round },
            6 => {
                let (is_handover, commit) = (self.below(2) == 0, self.position(&status));
                Body::Vote { is_pre, is_handover, last: at, commit }
            }
            7 | 8 => {
                let commit = self.position(&status);
                Body::VoteResponse { is_pre, is_granted: self.below(4) > 0, commit }
            }
            9 => {
                let id = |list: u64| (0..self.below(list)).map(|_| self.below(13)).collect();
                let conf_state = ConfState {
                    voters: if self.below(2) == 0 { vec![7, 8, 9] } else { id(4) },
                    learners: id(2),
                    voters_outgoing: id(3),
                    learners_next: id(2),
                    auto_leave: self.below(2) == 0,
                };
                Body::Snapshot(SnapshotMeta { last: at, conf_state })
            }
            10 => Body::TimeoutNow,
            11 => Body::Started(Started { boot: self.below(3), term, vote: index, last: commit }),
            12 => {
                let needed = (self.below(20) == 0).then_some((self.number(1), index));
                let voters = (0..self.below(4)).map(|_| self.below(13)).collect();
                Body::Known(Known { boot, needed, last: at, applied: commit, voters })
            }
            _ if is_pre => Body::ReadIndex(request),
            _ => Body::ReadIndexResponse { request, index },
        };
        let from = if self.below(3) == 0 { status.leader } else { 7 + self.below(5) };
        Message { from, to: 7, term, body }
    }
}

#[test]
fn no_message_stops_a_member() {
    let (mut led, mut installed, mut changed) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut victim = Victim::new(seed);
        let before = victim.core.conf_state().clone();
        victim.run();
        // A peer may bring a member to the highest term: then it is of no use, but it goes on.
        for message in victim.sent.iter().filter(|message| message.check().is_ok()) {
            assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(message));
        }
        led += usize::from(victim.sent.iter().any(|m| matches!(m.body, Body::Append { .. })));
        installed += usize::from(victim.core.installing.is_some());
        changed += usize::from(*victim.core.conf_state() != before);
    }
    assert!(led > 20 && installed + changed > 20, "{led} led, {installed}, {changed} changed");
}
