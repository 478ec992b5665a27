//! Members that apply the same log have the same digest, over a restart and a restore.

use std::path::Path;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_machine::command::Put;
use keepd_machine::membership::ConfState;
use keepd_machine::{Command, Envelope, MembershipChange, Options, Origin, StateMachine};
use keepd_mvcc::{Applied, Digest, JobRequest, Store};
use keepd_types::{MemberId, StoredValue};

fn open(env: &Env) -> StateMachine {
    let (options, keys) = (keepd_mvcc::Options::default(), FileKeys::plain());
    let store = Store::open(env.clone(), Path::new("/s"), keys, options);
    StateMachine::new(store.expect("the disk is whole"), Options::default()).expect("it is whole")
}

/// The change at an index: member 7 joins, and a second time in vain.
fn change(index: u64) -> Bytes {
    let origin = Origin { member: MemberId(1), boot: 2, sequence: index };
    let command = Command::ChangeMembership(MembershipChange::Add {
        id: MemberId(7),
        peer_urls: vec!["http://seven:2380".to_owned()],
        is_learner: true,
        max_learners: 1,
    });
    Envelope { origin: Some(origin), decided_in: None, command }.encode()
}

/// The entry at an index: a leader's first, a put, or a compaction that is refused.
fn entry(index: u64) -> Bytes {
    let origin = Origin { member: MemberId(1), boot: 2, sequence: index };
    let command = match index % 5 {
        0 => return Bytes::new(),
        1 => Command::Compact { revision: 1000 },
        _ => {
            let value = StoredValue::plain(Bytes::from(vec![b'v'; 10]));
            Command::Put(Put { key: "key".into(), value, ..Put::default() })
        }
    };
    Envelope { origin: Some(origin), decided_in: None, command }.encode()
}

/// Entries that change Raft's configuration, and that are refused.
const CHANGE: u64 = 8;
const REFUSED: u64 = 22;

fn apply(machine: &mut StateMachine, index: u64) {
    let at = Applied { index, term: 1 + index / 5 };
    let entry = entry(index);
    if index == CHANGE || index == REFUSED {
        let judgement = machine.judge_change(at, &change(index)).expect("no reason to stop");
        assert_eq!(judgement.is_accepted, index == CHANGE);
        let learners = vec![7];
        machine.set_conf_state(&ConfState { voters: vec![1], learners, ..ConfState::default() });
    } else if entry.is_empty() {
        machine.advance(at);
    } else {
        drop(machine.apply_entry(at, entry).expect("no reason to stop"));
    }
}

#[test]
fn two_members_have_one_digest_although_one_of_them_restarts() {
    let (env, ..) = Env::simulated(1);
    let mut machine = open(&env);
    ConfState::of_voters([MemberId(1)]).store(machine.store_mut());
    (1..=40).for_each(|index| apply(&mut machine, index));
    machine.publish();
    let expected = machine.store().digest();
    assert_eq!((expected.since, expected.index), (0, 40));

    let (env, ..) = Env::simulated(2);
    let mut machine = open(&env);
    ConfState::of_voters([MemberId(1)]).store(machine.store_mut());
    for index in 1..=17 {
        apply(&mut machine, index);
        machine.publish();
    }
    machine.store_mut().run(JobRequest::Flush).unwrap();
    (18..=25).for_each(|index| apply(&mut machine, index));
    machine.publish();
    // What was not flushed is applied again.
    let mut machine = open(&env);
    assert_eq!(machine.applied().index, 17);
    (18..=40).for_each(|index| apply(&mut machine, index));
    machine.publish();
    assert_eq!(machine.store().digest(), expected);
}

#[test]
fn members_that_were_restored_from_a_snapshot_begin_at_its_index() {
    let digests = [1, 2].map(|seed| {
        let (env, ..) = Env::simulated(seed);
        let mut machine = open(&env);
        ConfState::of_voters([MemberId(1)]).store(machine.store_mut());
        machine.store_mut().publish(Applied { index: 1, term: 1 });
        machine.store_mut().run(JobRequest::Flush).unwrap();
        let mut machine = open(&env);
        assert_eq!(machine.store().digest(), Digest::begin(1));
        (2..=9).for_each(|index| apply(&mut machine, index));
        machine.store().digest()
    });
    assert_eq!(digests[0], digests[1]);
    assert_eq!((digests[0].since, digests[0].index), (1, 9));
}
