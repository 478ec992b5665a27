//! Read contexts among three members: each member releases its own reads only.

use raft::eraftpb::{Message, MessageType};

use super::*;

/// Three members whose messages are delivered by hand.
struct Cluster {
    cores: BTreeMap<u64, Core>,
    on_their_way: VecDeque<Message>,
    /// Released reads: (member, context, index).
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
                self.reads.extend(actions.reads.iter().map(|(context, at)| (*id, *context, *at)));
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
    let restored = InitialState {
        conf_state: ConfState { voters: vec![7, 8, 9], ..ConfState::default() },
        ..restored
    };
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
    let late = cluster.deliver(|m| m.get_msg_type() == MessageType::MsgReadIndexResp);
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

    let context = cluster.core(8).read_index().unwrap();
    for message in late {
        cluster.core(8).step(message).unwrap();
    }
    cluster.act();
    assert_eq!(cluster.reads, [], "the late answer is older than what was acknowledged");
    cluster.settle();
    assert_eq!(cluster.reads, [(8, context, acknowledged)]);
}

/// Peers are not trusted to send contexts of ours.
#[test]
fn an_answer_with_an_unknown_context_releases_nothing() {
    let mut cluster = Cluster::new();
    for data in [&b""[..], b"12345678", &[0; 24], &[0; 25]] {
        let mut answer = Message { from: 7, to: 8, ..Message::default() };
        answer.set_msg_type(MessageType::MsgReadIndexResp);
        answer.term = cluster.core(8).status().term;
        let entry = eraftpb::Entry { data: data.to_vec().into(), ..eraftpb::Entry::default() };
        answer.set_entries(vec![entry].into());
        cluster.core(8).step(answer).unwrap();
    }
    cluster.settle();
    assert_eq!(cluster.reads, []);
}
