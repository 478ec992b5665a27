//! A lone voter's core, driven by hand.

use keepd_env::SeededRandom;

use super::*;

fn settings() -> Settings {
    Settings { id: 7, heartbeat_ticks: 1, election_ticks: 10, pre_vote: true }
}

fn fresh() -> Restored {
    Restored {
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        mark_index: 1,
        mark_term: 1,
        applied_index: 1,
        voters: vec![7],
        ..Restored::default()
    }
}

fn core(restored: Restored) -> Result<Core, Error> {
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

/// Rule 9.2.
#[test]
fn a_log_that_ends_below_what_was_applied_is_refused() {
    let restored = Restored { applied_index: 9, ..fresh() };
    let error = core(restored).unwrap_err();
    assert!(matches!(error, Error::LogTooShort { log_last: 1, needed: 9 }), "{error}");
}

/// Rule 9.2: a commit-only hard state need not have been synced.
#[test]
fn a_store_ahead_of_the_synced_commit_index_starts() {
    let entry = |index| Entry { index, term: 1, kind: EntryKind::Normal, data: Bytes::new() };
    let restored =
        Restored { applied_index: 3, entries: vec![entry(2), entry(3), entry(4)], ..fresh() };
    let mut core = core(restored).unwrap();
    assert_eq!(core.status().commit, 3);
    core.campaign().unwrap();
    let (committed, _) = drive(&mut core);
    assert_eq!(committed.first().map(|entry| entry.index), Some(4));
}

#[test]
fn a_store_below_the_start_of_the_log_is_refused() {
    let restored = Restored { applied_index: 0, ..fresh() };
    assert!(matches!(core(restored), Err(Error::StoreTooOld { applied: 0, mark: 1 })));
}

#[test]
fn proposals_without_a_leader_are_refused() {
    let mut core = core(fresh()).unwrap();
    assert!(matches!(core.propose(vec!["a".into()]), Err(Error::NoLeader)));
    assert!(matches!(core.read_index(), Err(Error::NoLeader)));
}
