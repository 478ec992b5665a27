//! A lone voter's core, driven by hand.

use std::collections::BTreeMap;

use keepd_env::SeededRandom;
use keepd_types::EntryKind;

use super::*;
use crate::message::{Body, LogPosition};

fn settings() -> Settings {
    Settings {
        id: 7,
        heartbeat_ticks: 1,
        election_ticks: 10,
        pre_vote: true,
        read_retry_ticks: 5,
        rejoin_ticks: 0,
        catch_up_entries: 5000,
    }
}

fn fresh() -> InitialState {
    InitialState {
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        start_index: 1,
        start_term: 1,
        applied_index: 1,
        conf_state: ConfState { voters: vec![7], ..ConfState::default() },
        ..InitialState::default()
    }
}

fn core(restored: InitialState) -> Result<Core, Error> {
    Core::new(settings(), restored, Arc::new(SeededRandom::new(1)))
}

/// Does what a driver does, syncing at once; returns what was committed and which reads passed.
fn drive(core: &mut Core) -> (Vec<Entry>, Vec<(u64, u64)>) {
    let (mut committed, mut reads) = (Vec::new(), Vec::new());
    while let Some(actions) = core.actions() {
        core.persisted(actions.number);
        if let Some(last) = actions.committed.last() {
            core.applied(last.index);
        }
        committed.extend(actions.committed);
        reads.extend(actions.reads);
    }
    (committed, reads)
}

#[test]
fn a_lone_voter_leads_at_once_and_commits_what_is_persisted() {
    let mut core = core(fresh()).unwrap();
    core.campaign().unwrap();
    drive(&mut core);
    assert_eq!(core.status().role, Role::Leader);
    let (first, term) = core.propose(vec!["a".into(), "b".into()]).unwrap();
    let actions = core.actions().unwrap();
    assert!(actions.must_sync);
    assert!(actions.committed.is_empty(), "nothing commits before it is persisted");
    core.persisted(actions.number);
    let (committed, _) = drive(&mut core);
    let seen: Vec<_> = committed.iter().map(|e| (e.index, e.term, e.data.as_ref())).collect();
    assert_eq!(seen, [(first, term, b"a".as_ref()), (first + 1, term, b"b".as_ref())]);
}

/// Rule 9.14.
#[test]
fn a_read_before_the_first_commit_is_held_not_dropped() {
    let mut core = core(fresh()).unwrap();
    core.campaign().unwrap();
    while core.status().role != Role::Leader {
        let actions = core.actions().unwrap();
        core.persisted(actions.number);
    }
    let context = core.read_index().unwrap();
    let (_, reads) = drive(&mut core);
    assert_eq!(reads, [(context, core.status().commit)]);
}

/// Rule 9.15: what was handed out is in the log for raft at once, also while it is not yet synced.
#[test]
fn entries_in_flight_are_answered_for() {
    let mut core = core(fresh()).unwrap();
    core.campaign().unwrap();
    drive(&mut core);
    let (first, term) = core.propose(vec!["a".into()]).unwrap();
    let of_a = core.actions().unwrap();
    core.propose(vec!["b".into()]).unwrap();
    let of_b = core.actions().unwrap();
    assert!(of_a.committed.is_empty() && of_b.committed.is_empty());

    let log = &core.raw.raft.raft_log;
    assert_eq!((log.last_index(), log.term(first).unwrap()), (first + 1, term));
    let context = raft::GetEntriesContext::empty(false);
    let entries = log.slice(first, first + 2, None, context).unwrap();
    let seen: Vec<_> = entries.iter().map(|entry| entry.data.as_ref()).collect();
    assert_eq!(seen, [b"a", b"b"]);

    // The confirmation of the later batch stands for the earlier one.
    core.persisted(of_b.number);
    let (committed, _) = drive(&mut core);
    let seen: Vec<_> = committed.iter().map(|entry| entry.data.as_ref()).collect();
    assert_eq!(seen, [b"a", b"b"]);
}

/// Rule 9.17: raft refuses a batch as a whole, so all of it may be proposed again.
#[test]
fn a_dropped_batch_leaves_nothing_in_the_log() {
    let mut core = core(fresh()).unwrap();
    core.campaign().unwrap();
    drive(&mut core);
    let most = Bytes::from(vec![0; usize::try_from(UNCOMMITTED_BYTES_MAX).unwrap() - 1]);
    core.propose(vec![most]).unwrap();
    let before = core.status().last_index;
    let batch: Vec<Bytes> = vec!["small".into(), "too much".into()];
    assert!(matches!(core.propose(batch.clone()), Err(Error::ProposalDropped)));
    assert_eq!(core.status().last_index, before);

    drive(&mut core);
    let (first, _) = core.propose(batch).unwrap();
    assert_eq!(first, before + 1);
    let (committed, _) = drive(&mut core);
    let seen: Vec<_> = committed.iter().map(|entry| entry.data.as_ref()).collect();
    assert_eq!(seen, [b"small".as_ref(), b"too much".as_ref()]);
}

/// Actions of three cores, tick by tick. The leader is cut off for
/// a while, so that there is a second election.
fn trace(seeds: [u64; 3]) -> Vec<String> {
    let mut cores: BTreeMap<u64, Core> = (7_u64..)
        .zip(seeds)
        .map(|(id, seed)| {
            let restored = InitialState {
                conf_state: ConfState { voters: vec![7, 8, 9], ..ConfState::default() },
                ..fresh()
            };
            let random = Arc::new(SeededRandom::new(seed));
            (id, Core::new(Settings { id, ..settings() }, restored, random).unwrap())
        })
        .collect();
    let mut trace = Vec::new();
    let (mut first_leader, mut on_their_way) = (None, VecDeque::new());
    for tick in 0..200 {
        let leader = cores.values().find(|core| core.is_leader()).map(|core| core.settings.id);
        first_leader = first_leader.or(leader);
        let cut_off = first_leader.filter(|_| (60..120).contains(&tick));
        for core in cores.values_mut() {
            core.tick();
        }
        loop {
            for (id, core) in &mut cores {
                while let Some(actions) = core.actions() {
                    trace.push(format!("{tick} {id} {actions:?}"));
                    core.persisted(actions.number);
                    if let Some(last) = actions.committed.last() {
                        core.applied(last.index);
                    }
                    on_their_way.extend(actions.messages);
                    on_their_way.extend(actions.messages_after_sync);
                }
            }
            if on_their_way.is_empty() {
                break;
            }
            for message in on_their_way.drain(..) {
                if cut_off.is_none_or(|id| id != message.from && id != message.to) {
                    cores.get_mut(&message.to).unwrap().step(message).unwrap();
                }
            }
        }
    }
    let leaders: Vec<u64> = cores.values().map(|core| core.status().leader).collect();
    assert!(leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]), "{leaders:?}");
    assert!(cores[&7].status().term > 2, "the leader that was cut off was replaced");
    trace
}

/// Rule 9.18.
#[test]
fn the_same_seeds_give_the_same_actions() {
    let first = trace([2, 4, 6]);
    for _ in 0..5 {
        assert_eq!(trace([2, 4, 6]), first);
    }
    assert_ne!(trace([8, 10, 12]), first);
}

mod hostile;
mod reads;
mod rejoin;

/// Rule 9.2.
#[test]
fn a_log_that_ends_below_what_was_applied_is_refused() {
    let restored = InitialState { applied_index: 9, ..fresh() };
    let error = core(restored).unwrap_err();
    assert!(matches!(error, Error::LogTooShort { log_last: 1, needed: 9 }), "{error}");
}

/// Rule 9.2: a commit-only hard state need not have been synced.
#[test]
fn a_store_ahead_of_the_synced_commit_index_starts() {
    let entry = |index| Entry { index, term: 1, kind: EntryKind::Normal, data: Bytes::new() };
    let restored =
        InitialState { applied_index: 3, entries: vec![entry(2), entry(3), entry(4)], ..fresh() };
    let mut core = core(restored).unwrap();
    assert_eq!(core.status().commit, 3);
    core.campaign().unwrap();
    let (committed, _) = drive(&mut core);
    assert_eq!(committed.first().map(|entry| entry.index), Some(4));
}

#[test]
fn a_store_below_the_start_of_the_log_is_refused() {
    let restored = InitialState { applied_index: 0, ..fresh() };
    assert!(matches!(core(restored), Err(Error::StoreTooOld { applied: 0, start: 1 })));
}

/// A leader that was restarted cannot commit before a follower has caught up that needs the state.
#[test]
fn a_leader_sends_the_state_before_it_has_committed_anything_since_its_start() {
    let conf_state = ConfState { voters: vec![7, 8], ..ConfState::default() };
    let restored = InitialState {
        hard_state: HardState { term: 3, vote: 7, commit: 100 },
        start_index: 100,
        start_term: 3,
        applied_index: 100,
        conf_state,
        ..InitialState::default()
    };
    let mut core = core(restored).unwrap();
    core.campaign().unwrap();
    let (mut sent, at) = (Vec::new(), LogPosition { term: 1, index: 50 });
    let commit = LogPosition::default();
    let granted = |is_pre| Body::VoteResponse { is_pre, is_granted: true, commit };
    let rejected = Body::AppendRejected { index: 100, commit: 50, hint: at };
    let heard = Body::HeartbeatResponse { commit: 50, round: None };
    for body in [granted(true), granted(false), rejected, heard] {
        while let Some(actions) = core.actions() {
            core.persisted(actions.number);
            sent.extend(actions.messages);
        }
        let term = core.status().term + u64::from(body == granted(true));
        core.step(Message { from: 8, to: 7, term, body }).unwrap();
    }
    sent.extend(core.actions().into_iter().flat_map(|actions| actions.messages));
    let state = sent.iter().find_map(|message| match &message.body {
        Body::Snapshot(meta) => Some(meta.last.index),
        _ => None,
    });
    assert_eq!(state, Some(100), "{sent:?}");
}

#[test]
fn proposals_without_a_leader_are_refused() {
    let mut core = core(fresh()).unwrap();
    assert!(matches!(core.propose(vec!["a".into()]), Err(Error::NoLeader)));
    assert!(matches!(core.read_index(), Err(Error::NoLeader)));
}
