//! Read indexes among three members: each member releases its own reads only, and loses none.

use super::*;
use crate::message::{Body, ReadRequest};

/// Three members whose messages are delivered by hand.
struct Cluster {
    cores: BTreeMap<u64, Core>,
    on_their_way: VecDeque<Message>,
    /// Released reads: (member, number, index).
    reads: Vec<(u64, u64, u64)>,
}

impl Cluster {
    /// Member 7 leads and has committed in its term.
    fn new() -> Self {
        let cores = [7, 8, 9].map(|id| (id, member(id, id, fresh())));
        let mut cluster =
            Self { cores: BTreeMap::from(cores), on_their_way: VecDeque::new(), reads: Vec::new() };
        cluster.core(7).campaign().unwrap();
        cluster.settle();
        assert_eq!(cluster.core(7).status().role, Role::Leader);
        cluster
    }

    fn core(&mut self, id: u64) -> &mut Core {
        self.cores.get_mut(&id).unwrap()
    }

    /// Every member does what there is to do; its messages are on their way then.
    fn act(&mut self) {
        for (id, core) in &mut self.cores {
            while let Some(actions) = core.actions() {
                core.persisted(actions.number);
                if let Some(last) = actions.committed.last() {
                    core.applied(last.index);
                }
                self.on_their_way.extend(actions.messages);
                self.on_their_way.extend(actions.messages_after_sync);
                self.reads.extend(actions.reads.iter().map(|(number, at)| (*id, *number, *at)));
            }
        }
    }

    /// Delivers all messages but those that `holds_back` picks, which it returns.
    fn deliver(&mut self, holds_back: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut held_back = Vec::new();
        loop {
            self.act();
            if self.on_their_way.is_empty() {
                return held_back;
            }
            for message in std::mem::take(&mut self.on_their_way) {
                if holds_back(&message) {
                    held_back.push(message);
                } else {
                    self.core(message.to).step(message).unwrap();
                }
            }
        }
    }

    fn settle(&mut self) {
        self.deliver(|_| false);
    }
}

fn member(id: u64, seed: u64, restored: InitialState) -> Core {
    let conf_state = ConfState { voters: vec![7, 8, 9], ..ConfState::default() };
    let restored = InitialState { conf_state, ..restored };
    let random = Arc::new(SeededRandom::new(seed));
    Core::new(Settings { id, ..settings() }, restored, random).unwrap()
}

#[test]
fn two_followers_that_ask_at_once_are_both_answered() {
    let mut cluster = Cluster::new();
    let of_8 = cluster.core(8).read_index().unwrap();
    let of_9 = cluster.core(9).read_index().unwrap();
    cluster.settle();
    let commit = cluster.core(7).status().commit;
    assert_eq!(cluster.reads, [(8, of_8, commit), (9, of_9, commit)]);
}

#[test]
fn an_answer_to_the_member_before_its_restart_releases_nothing() {
    let mut cluster = Cluster::new();
    cluster.core(8).read_index().unwrap();
    let late = cluster.deliver(|m| matches!(m.body, Body::ReadIndexResponse { .. }));
    assert_eq!(late.len(), 1);

    // Member 8 starts again with the same log, while the others acknowledge one more entry.
    let old = cluster.core(8);
    let (term, commit) = (old.status().term, old.status().commit);
    let entries = old.raw.raft.raft_log.all_entries().into_iter().map(from_raft).collect();
    let hard_state = HardState { term, vote: 7, commit };
    let restored = InitialState { hard_state, entries, applied_index: commit, ..fresh() };
    cluster.cores.insert(8, member(8, 80, restored));
    for _ in 0..settings().heartbeat_ticks {
        cluster.core(7).tick();
    }
    cluster.settle();
    let (acknowledged, _) = cluster.core(7).propose(vec!["a".into()]).unwrap();
    cluster.settle();

    let number = cluster.core(8).read_index().unwrap();
    for message in late {
        cluster.core(8).step(message).unwrap();
    }
    cluster.act();
    assert_eq!(cluster.reads, [], "the late answer is older than what was acknowledged");
    cluster.settle();
    assert_eq!(cluster.reads, [(8, number, acknowledged)]);
}

/// Peers are not trusted to send names of ours.
#[test]
fn an_answer_that_nobody_waits_for_releases_nothing() {
    let mut cluster = Cluster::new();
    let number = cluster.core(8).read_index().unwrap();
    let asked = cluster.core(8).actions().unwrap().messages.remove(0);
    let Body::ReadIndex(ReadRequest { boot, .. }) = asked.body else { panic!("{asked:?}") };
    let (term, index) = (cluster.core(8).status().term, 1);
    for request in [
        ReadRequest { boot: boot + 1, number },
        ReadRequest { boot, number: number + 1 },
        ReadRequest { boot, number: 0 },
    ] {
        let body = Body::ReadIndexResponse { request, index };
        cluster.core(8).step(Message { from: 7, to: 8, term, body }).unwrap();
    }
    cluster.act();
    assert_eq!(cluster.reads, []);
}

#[test]
fn a_read_whose_question_or_answer_is_lost_is_asked_again() {
    let mut cluster = Cluster::new();
    let number = cluster.core(8).read_index().unwrap();
    let lost = cluster.deliver(|m| matches!(m.body, Body::ReadIndex(_)));
    assert_eq!((lost.len(), &cluster.reads[..]), (1, &[][..]));
    for _ in 0..settings().read_retry_ticks {
        cluster.core(8).tick();
    }
    cluster.settle();
    let commit = cluster.core(7).status().commit;
    assert_eq!(cluster.reads, [(8, number, commit)]);
}

#[test]
fn a_read_survives_a_change_of_the_leader() {
    let mut cluster = Cluster::new();
    let number = cluster.core(8).read_index().unwrap();
    let of_the_leader = cluster.core(7).read_index().unwrap();
    cluster.deliver(|m| m.from == 7 || m.to == 7);
    for id in [8, 9] {
        for _ in 0..settings().election_ticks {
            cluster.core(id).tick();
        }
    }
    cluster.core(9).campaign().unwrap();
    cluster.deliver(|m| m.from == 7 || m.to == 7);
    let commit = cluster.core(9).status().commit;
    assert_eq!(cluster.reads, [(8, number, commit)], "the new leader answers");
    cluster.core(9).tick();
    cluster.settle();
    assert_eq!(cluster.reads, [(8, number, commit), (7, of_the_leader, commit)]);
}

#[test]
fn no_two_rounds_have_the_same_name() {
    let mut cluster = Cluster::new();
    let mut rounds = Vec::new();
    let is_round =
        |message: &Message| matches!(message.body, Body::Heartbeat { round: Some(_), .. });
    for number in 1..=3 {
        cluster.core(7).read_index().unwrap();
        let held = cluster.deliver(is_round);
        assert_eq!(
            held.is_empty(),
            number == 3,
            "two are under way, the third waits for one of them"
        );
        rounds.extend(held.into_iter().filter(|m| m.to == 8).map(|m| m.body));
    }
    // Their confirmations are lost; that of a heartbeat stands for them.
    cluster.core(7).tick();
    rounds.extend(cluster.deliver(is_round).into_iter().filter(|m| m.to == 8).map(|m| m.body));
    assert_eq!(rounds.len(), 3);
    assert!(rounds[0] != rounds[1] && rounds[2] == rounds[1], "the heartbeat names the last round");
    cluster.core(7).tick();
    cluster.settle();
    assert_eq!(cluster.reads.len(), 3);
}

#[test]
fn reads_gather_behind_two_requests_and_one_more_stands_for_them() {
    let mut cluster = Cluster::new();
    let is_request = |message: &Message| matches!(message.body, Body::ReadIndex(_));
    let mut requests = Vec::new();
    for _ in 0..10 {
        cluster.core(8).read_index().unwrap();
        requests.extend(cluster.deliver(is_request));
    }
    assert_eq!(requests.len(), 2);
    for request in requests {
        cluster.core(7).step(request).unwrap();
    }
    let third = cluster.deliver(is_request);
    assert_eq!(cluster.reads.len(), 2);
    assert_eq!(third.len(), 1, "all that gathered are asked for at once");
    // It is lost, and asked again.
    for _ in 0..settings().read_retry_ticks {
        cluster.core(8).tick();
    }
    cluster.settle();
    assert_eq!(cluster.reads.len(), 10);
}
