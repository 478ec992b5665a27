//! A member of three whose others are lost, on a simulated disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use keepd_env::sim::CrashMode;
use keepd_env::{Env, SimDisk};
use keepd_machine::membership::Membership;
use keepd_member::{InitialCluster, Layout};
use keepd_mvcc::Applied;
use keepd_raft::Verdict;

use super::*;
use crate::boot::{DataDir, Opened};
use crate::bootstrap::Bootstrap;
use crate::options::Options;

const LEARNER: MemberId = MemberId(77);
const ORIGIN: Origin = Origin { member: LEARNER, boot: 1, sequence: 1 };

fn cluster() -> InitialCluster {
    let member = |name: &str, port: u16| (name.to_owned(), vec![format!("http://h:{port}")]);
    let members: BTreeMap<_, _> = [member("a", 3), member("b", 2), member("c", 1)].into();
    InitialCluster::new("a", members, "token").unwrap()
}

fn env(disk: &SimDisk) -> Env {
    Env { disk: Arc::new(disk.clone()), ..Env::simulated(1).0 }
}

fn opened(disk: &SimDisk, force_new_cluster: bool) -> Result<Opened, BootError> {
    let bootstrap = Bootstrap::New(cluster());
    let options = Options { bootstrap, force_new_cluster, ..Options::new("/data".into()) };
    let env = env(disk);
    DataDir::prepare(&env, &options, None)?.open(&env, &options)
}

fn add_learner() -> Entry {
    let id = LEARNER;
    let peer_urls = vec!["http://h:77".to_owned()];
    let add = MembershipChange::Add { id, peer_urls, is_learner: true, max_learners: 1 };
    conf_change(Some(Step::AddLearner(id.0)), Some(add), ORIGIN)
}

/// A member of three that has entries: 2 a leader's first, 3 a learner joins, both committed; 4 and 5
/// not committed.
fn member_of_three() -> SimDisk {
    let disk = SimDisk::new();
    drop(opened(&disk, false).unwrap());
    let command = Command::PublishMember {
        id: cluster().local,
        name: "not committed".to_owned(),
        client_urls: Vec::new(),
    };
    let data = Envelope { origin: Some(ORIGIN), decided_in: None, command }.encode();
    let lost = Entry { data, ..Entry::default() };
    let mut entries = [Entry::default(), add_learner(), lost.clone(), lost];
    for (entry, index) in entries.iter_mut().zip(2..) {
        (entry.index, entry.term) = (index, 2);
    }
    let dir = Layout::wal(&Layout::new("/data".as_ref()).member);
    let (mut wal, _) = Wal::open(env(&disk), &dir, keepd_crypto::FileKeys::plain()).unwrap();
    let hard_state = HardState { term: 2, vote: 0, commit: 3 };
    wal.append(&Batch { entries: &entries, hard_state: Some(hard_state) }).unwrap();
    wal.close().unwrap();
    disk
}

/// Applies what is committed, as the member's parts do.
fn apply(opened: &mut Opened) {
    let Opened { machine, core, .. } = opened;
    while let Some(actions) = core.actions() {
        core.persisted(actions.number);
        for entry in actions.committed {
            let at = Applied { index: entry.index, term: entry.term };
            if entry.kind == EntryKind::Normal {
                if entry.data.is_empty() {
                    machine.advance(at);
                } else {
                    machine.apply_entry(at, entry.data).unwrap();
                }
                core.applied(at.index);
                continue;
            }
            let change = ConfChange::decode(&entry.data).unwrap();
            let is_accepted = machine.judge_change(at, &change.context).unwrap().is_accepted;
            let verdict = if is_accepted { Verdict::Accepted } else { Verdict::Rejected };
            let state = core.apply_conf_change(at.index, verdict);
            machine.set_conf_state(&ConfState {
                voters: state.voters,
                learners: state.learners,
                voters_outgoing: state.voters_outgoing,
                learners_next: state.learners_next,
                auto_leave: state.auto_leave,
            });
        }
    }
    machine.publish();
}

fn membership(opened: &Opened) -> Membership {
    let store = opened.machine.store();
    Membership::of(opened.identity.cluster, |table| store.meta(table)).unwrap()
}

#[track_caller]
fn assert_alone(opened: &mut Opened) {
    apply(opened);
    let own = cluster().local;
    let membership = membership(opened);
    let ids: Vec<_> = membership.members.iter().map(|member| member.id).collect();
    assert_eq!(ids, [own.0]);
    assert_eq!(membership.members[0].name, "a", "what was not committed is dropped");
    let mut others: Vec<_> = cluster().members.iter().map(|member| member.id).collect();
    others.retain(|id| *id != own);
    others.push(LEARNER);
    others.sort_unstable();
    assert_eq!(membership.removed, others);
    assert_eq!(opened.core.conf_state().voters, [own.0]);
    assert!(opened.core.status().is_alone);
    opened.core.campaign().unwrap();
    let is_leader = opened.core.status().role == keepd_raft::Role::Leader;
    assert!(is_leader, "nobody else is asked");
}

#[test]
fn the_others_are_removed_and_what_is_not_committed_is_dropped() {
    let disk = member_of_three();
    assert_alone(&mut opened(&disk, true).unwrap());
    // It is in the log: a start without the flag finds the same.
    assert_alone(&mut opened(&disk, false).unwrap());
    // Again, which changes nothing more.
    assert_alone(&mut opened(&disk, true).unwrap());
}

#[test]
fn a_crash_leaves_nothing_of_it_or_everything() {
    let base = member_of_three();
    let last = |disk: &SimDisk| {
        let dir = Layout::wal(&Layout::new("/data".as_ref()).member);
        let log = Wal::read(&env(disk), &dir, &keepd_crypto::FileKeys::plain()).unwrap();
        (log.hard_state.commit, log.entries.len())
    };
    let before = last(&base);
    let mut ends = BTreeSet::new();
    for point in base.kill().mutations() + 1.. {
        let disk = base.kill();
        disk.crash_at(point);
        let is_done = opened(&disk, true).is_ok();
        let modes = [CrashMode::LoseUnsynced, CrashMode::WrittenBack, CrashMode::Torn { seed: 1 }];
        for image in modes.map(|mode| disk.crash(mode)) {
            ends.insert(last(&image) == before);
            assert_alone(&mut opened(&image, true).unwrap());
        }
        if is_done {
            break;
        }
    }
    assert_eq!(ends.len(), 2, "crashes before and after were tried");
}

#[test]
fn a_learner_gets_the_vote() {
    let disk = member_of_three();
    let mut opened = opened(&disk, false).unwrap();
    apply(&mut opened);
    let store = opened.machine.store();
    let mut state = ConfState::stored(store.meta(tables::CONF_STATE)).unwrap().unwrap();
    let recovered = Recovered {
        metadata: Bytes::new(),
        start: keepd_wal::LogStart::default(),
        hard_state: HardState::default(),
        entries: Vec::new(),
        torn_tail: None,
    };
    let of = |state: &ConfState, own| steps(&recovered, store, state, own).unwrap();
    let of_learner = of(&state, LEARNER);
    assert_eq!(of_learner[0], Some(Step::Promote(LEARNER.0)));
    assert_eq!(of_learner.len(), 4, "and each of the three is removed");
    // A joint change that is under way is ended first.
    state.voters_outgoing = state.voters.clone();
    assert_eq!(of(&state, cluster().local)[0], None);
}

#[test]
fn a_member_that_has_nothing_cannot_go_on_alone() {
    let disk = SimDisk::new();
    let identity = cluster().identity();
    let bootstrap = Bootstrap::Join { identity, members: Vec::new() };
    let options = Options { bootstrap, ..Options::new("/data".into()) };
    drop(DataDir::prepare(&env(&disk), &options, None).unwrap());
    let error = opened(&disk, true).err().unwrap();
    assert!(matches!(error, BootError::NotInCluster { member } if member == identity.member));
}

#[test]
fn a_new_member_has_no_others_to_drop() {
    let opened = opened(&SimDisk::new(), true).unwrap();
    assert_eq!(opened.core.conf_state().voters.len(), 3);
}
