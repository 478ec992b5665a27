//! Members whose disk has forgotten what they promised (rule 9.23): they are found by those who remember,
//! and where nobody does, they give no vote that could lose what was acknowledged.

use super::*;
use crate::message::{Body, LogPosition};

const PATIENCE: usize = 30;

/// A member's disk, which can be put back to an earlier state.
#[derive(Clone, Default)]
struct Disk {
    hard_state: HardState,
    entries: Vec<Entry>,
    applied: u64,
}

struct Member {
    core: Option<Core>,
    disk: Disk,
    starts: u64,
}

/// Members 1 to 3, whose messages are delivered at once where the link is there.
struct Cluster {
    members: BTreeMap<u64, Member>,
    cut: Vec<(u64, u64)>,
    /// The refusals that end a member.
    ended: Vec<(u64, Error)>,
}

impl Cluster {
    fn new() -> Self {
        let disk =
            Disk { hard_state: HardState { term: 1, vote: 0, commit: 1 }, ..Disk::default() };
        let disk = Disk { applied: 1, ..disk };
        let member = || Member { core: None, disk: disk.clone(), starts: 0 };
        let members = (1..=3).map(|id| (id, member())).collect();
        let mut cluster = Self { members, cut: Vec::new(), ended: Vec::new() };
        (1..=3).for_each(|id| cluster.start(id));
        cluster.settle();
        cluster
    }

    /// With a leader, and its first entry committed.
    fn led_by(id: u64) -> Self {
        let mut cluster = Self::new();
        cluster.core(id).campaign().unwrap();
        cluster.settle();
        assert!(cluster.leads(id));
        cluster
    }

    fn core(&mut self, id: u64) -> &mut Core {
        self.members.get_mut(&id).unwrap().core.as_mut().unwrap()
    }

    fn leads(&mut self, id: u64) -> bool {
        self.core(id).status().role == Role::Leader
    }

    fn start(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        member.starts += 1;
        let disk = member.disk.clone();
        let restored = InitialState {
            hard_state: disk.hard_state,
            start_index: 1,
            start_term: 1,
            entries: disk.entries,
            applied_index: disk.applied,
            conf_state: ConfState { voters: vec![1, 2, 3], ..ConfState::default() },
        };
        let settings = Settings { id, rejoin_ticks: PATIENCE, ..settings() };
        let random = Arc::new(SeededRandom::new(id * 1000 + member.starts));
        member.core = Some(Core::new(settings, restored, random).unwrap());
    }

    fn kill(&mut self, id: u64) {
        self.members.get_mut(&id).unwrap().core = None;
    }

    /// Cuts a member off from another, in both directions.
    fn cut(&mut self, one: u64, other: u64) {
        self.cut.extend([(one, other), (other, one)]);
    }

    /// Every member does what there is to do, as long as there is something.
    fn settle(&mut self) {
        loop {
            let mut sent = Vec::new();
            for member in self.members.values_mut() {
                let Member { core: Some(core), disk, .. } = member else { continue };
                while let Some(actions) = core.actions() {
                    if let Some(first) = actions.entries.first() {
                        disk.entries.retain(|entry| entry.index < first.index);
                    }
                    disk.entries.extend(actions.entries);
                    disk.hard_state = actions.hard_state.unwrap_or(disk.hard_state);
                    core.persisted(actions.number);
                    if let Some(last) = actions.committed.last() {
                        core.applied(last.index);
                        disk.applied = last.index;
                    }
                    sent.extend(actions.messages);
                    sent.extend(actions.messages_after_sync);
                }
            }
            if sent.is_empty() {
                return;
            }
            for message in sent {
                self.deliver(message);
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        let to = message.to;
        if self.cut.contains(&(message.from, to)) {
            return;
        }
        let Some(core) = &mut self.members.get_mut(&to).unwrap().core else { return };
        if let Err(error) = core.step(message) {
            if matches!(error, Error::Forgotten { .. } | Error::LogForgotten { .. }) {
                self.kill(to);
            }
            self.ended.push((to, error));
        }
    }

    fn tick(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(core) = &mut self.members.get_mut(id).unwrap().core {
                core.tick();
            }
        }
        self.settle();
    }

    fn put(&mut self, id: u64) -> u64 {
        let (index, _) = self.core(id).propose(vec!["command".into()]).unwrap();
        self.settle();
        index
    }

    /// Brings a member back with its disk as it was then.
    fn restart_with(&mut self, id: u64, disk: Disk) {
        self.kill(id);
        self.members.get_mut(&id).unwrap().disk = disk;
        self.start(id);
        self.settle();
    }

    fn disk(&self, id: u64) -> Disk {
        self.members[&id].disk.clone()
    }
}

#[test]
fn whoever_starts_with_all_that_it_promised_takes_part_when_all_have_answered() {
    let mut cluster = Cluster::led_by(1);
    cluster.put(1);
    for id in [2, 3, 1] {
        let disk = cluster.disk(id);
        cluster.restart_with(id, disk);
        assert!(!cluster.core(id).is_rejoining());
        assert!(cluster.core(id).take_unheard().is_empty());
    }
    assert!(cluster.ended.is_empty(), "{:?}", cluster.ended);
}

#[test]
fn the_leader_finds_what_a_follower_has_confirmed_and_lost_also_what_is_not_committed() {
    let mut cluster = Cluster::led_by(1);
    let old = cluster.disk(2);
    cluster.cut(1, 3);
    cluster.put(1);
    cluster.restart_with(2, old);
    let [(2, Error::Forgotten { last: 2, needed: 3, .. })] = cluster.ended[..] else {
        panic!("{:?}", cluster.ended)
    };
}

#[test]
fn a_member_that_led_before_remembers_too() {
    let mut cluster = Cluster::led_by(1);
    let old = cluster.disk(2);
    cluster.put(1);
    // 3 leads from here on, and 2 has not heard of it.
    cluster.kill(2);
    cluster.core(1).transfer_leader(3).unwrap();
    cluster.settle();
    assert!(cluster.leads(3));
    cluster.restart_with(2, old);
    assert!(matches!(cluster.ended[..], [(2, Error::Forgotten { .. })]), "{:?}", cluster.ended);
}

#[test]
fn a_vote_that_was_forgotten_is_found_and_not_given_twice() {
    let mut cluster = Cluster::led_by(1);
    let old = cluster.disk(2);
    cluster.cut(1, 3);
    // 2 votes for 3.
    cluster.kill(1);
    for _ in 0..12 {
        cluster.tick(&[2]);
    }
    cluster.core(3).campaign().unwrap();
    cluster.settle();
    assert!(cluster.leads(3));
    cluster.restart_with(2, old);
    assert!(matches!(cluster.ended[..], [(2, Error::Forgotten { .. })]), "{:?}", cluster.ended);
}

/// The acknowledged entry is on the disks of 1, which is cut off from 3, and of 2, which has lost it; and
/// 1 was restarted, so that it does not remember that 2 had it.
#[test]
fn where_nobody_remembers_no_vote_goes_to_a_log_without_what_others_have() {
    let mut cluster = Cluster::led_by(1);
    let old = cluster.disk(2);
    cluster.cut(1, 3);
    let acknowledged = cluster.put(1);
    assert_eq!(cluster.core(1).status().commit, acknowledged);
    cluster.kill(2);
    let disk = cluster.disk(1);
    cluster.restart_with(1, disk);
    cluster.restart_with(2, old);
    assert!(cluster.ended.is_empty(), "nobody knows: {:?}", cluster.ended);
    // 1 stays away for a while: 2 and 3 would be a majority without what was acknowledged.
    cluster.cut(1, 2);
    for _ in 0..PATIENCE - 2 {
        cluster.tick(&[2, 3]);
        assert!(!cluster.leads(2) && !cluster.leads(3));
    }
    cluster.cut.clear();
    for _ in 0..PATIENCE {
        cluster.tick(&[1, 3]);
    }
    assert!(cluster.leads(1), "it has what was acknowledged, and gets the vote of 2");
    for _ in 0..PATIENCE {
        cluster.tick(&[1, 2, 3]);
    }
    assert!((1..=3).all(|id| cluster.core(id).status().commit > acknowledged));
}

#[test]
fn a_member_that_waits_confirms_nothing_and_votes_for_nobody() {
    let mut cluster = Cluster::led_by(1);
    cluster.cut(2, 3);
    let disk = cluster.disk(2);
    cluster.restart_with(2, disk);
    assert!(cluster.core(2).is_rejoining(), "3 has not answered");
    let term = cluster.core(2).status().term;
    let mut answers = Vec::new();
    let last = LogPosition { term: term + 1, index: 100 };
    let of_leader =
        Body::Append { previous: LogPosition { term, index: 2 }, commit: 2, entries: vec![] };
    let vote = Body::Vote { is_pre: false, is_handover: true, last, commit: last };
    for (from, term, body) in [
        (1, term, Body::Heartbeat { commit: 2, round: None }),
        (1, term, of_leader),
        (3, term + 1, vote),
        (1, term, Body::TimeoutNow),
    ] {
        let core = cluster.core(2);
        core.step(Message { from, to: 2, term, body }).unwrap();
        while let Some(actions) = core.actions() {
            core.persisted(actions.number);
            answers.extend(actions.messages);
            answers.extend(actions.messages_after_sync);
        }
    }
    answers.retain(|message| !matches!(message.body, Body::Started(_) | Body::Known(_)));
    assert!(answers.is_empty(), "{answers:?}");
    // Who never answers is not waited for without end, and named.
    for _ in 0..PATIENCE {
        cluster.tick(&[2]);
    }
    assert_eq!(cluster.core(2).take_unheard(), [3]);
    assert!(!cluster.core(2).is_rejoining());
}

/// The one that knew comes back after the member went on without its word.
#[test]
fn who_comes_back_late_still_names_what_is_missing() {
    let mut cluster = Cluster::led_by(1);
    let old = cluster.disk(2);
    cluster.put(1);
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    cluster.restart_with(2, old);
    for _ in 0..PATIENCE {
        cluster.tick(&[2]);
    }
    assert!(!cluster.core(2).is_rejoining());
    cluster.cut.clear();
    for _ in 0..10 {
        cluster.tick(&[2]);
    }
    assert!(matches!(cluster.ended[..], [(2, Error::Forgotten { .. })]), "{:?}", cluster.ended);
}

/// Promises since its start are not held against a member.
#[test]
fn promises_since_the_start_accuse_nobody() {
    let mut cluster = Cluster::led_by(1);
    cluster.cut(2, 3);
    let disk = cluster.disk(2);
    cluster.restart_with(2, disk);
    for _ in 0..PATIENCE {
        cluster.tick(&[1, 2]);
    }
    cluster.put(1);
    cluster.core(1).transfer_leader(2).unwrap();
    cluster.cut.clear();
    for _ in 0..20 {
        cluster.tick(&[1, 2, 3]);
    }
    assert!(cluster.ended.is_empty(), "{:?}", cluster.ended);
}
