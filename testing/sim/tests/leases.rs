//! Leases while leaders change: none ends before the time that a client was told of, none lives on for
//! much longer than it should, and a member that was cut off promises nothing.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use keepd_env::sim::CrashMode;
use keepd_machine::Command;
use keepd_machine::command::Put;
use keepd_node::{Error, Handle, Renewal};
use keepd_types::{KeyRange, LeaseId, StoredValue};
use sim::{Client, SimCluster};

/// Seeds of a run of the tests.
const SEEDS: u64 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Time in which a cluster with a quorum elects a leader.
const ELECTION: Duration = Duration::from_secs(20);
const LEASE: LeaseId = LeaseId(7);

fn started(seed: u64) -> SimCluster {
    let mut cluster = SimCluster::new(seed, 3);
    cluster.start_all();
    lead(&mut cluster);
    cluster
}

/// Waits for a leader; the member that it is.
fn lead(cluster: &mut SimCluster) -> usize {
    cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
    cluster.leader().expect("it was just seen")
}

/// Grants the lease with a key.
fn grant(cluster: &mut SimCluster, ttl: i64) {
    let leader = lead(cluster);
    let handle = cluster.handle(leader);
    cluster.run(vec![Box::pin(async move {
        handle.propose(Command::LeaseGrant { id: LEASE, ttl }).await.expect("it is granted");
        let put = Put {
            key: Bytes::from_static(b"leased"),
            value: StoredValue::plain(Bytes::from_static(b"v")),
            lease: LEASE,
            ..Put::default()
        };
        handle.propose(Command::Put(put)).await.expect("it is put");
    })]);
}

/// Whether the key of the lease is there, for a member.
fn lives(cluster: &SimCluster, member: usize) -> bool {
    let key = KeyRange::point(Bytes::from_static(b"leased"));
    let view = cluster.handle(member).view();
    view.range(&key, 0, 1).expect("the current revision is readable").count > 0
}

/// Whether it is there for any member that runs.
fn lives_anywhere(cluster: &SimCluster) -> bool {
    (0..3).any(|member| cluster.is_running(member) && lives(cluster, member))
}

fn renew<'a>(handle: Handle, told: &'a RefCell<Option<Result<Renewal, Error>>>) -> Client<'a> {
    Box::pin(async move {
        let answer = handle.renew_lease(LEASE).await;
        *told.borrow_mut() = Some(answer);
    })
}

/// Has a member renew the lease within `patience`; the answer, if there is one.
fn renewed(
    cluster: &mut SimCluster,
    member: usize,
    patience: Duration,
) -> Option<Result<Renewal, Error>> {
    let told = RefCell::new(None);
    let client = renew(cluster.handle(member), &told);
    cluster.run_for(patience, vec![client]);
    told.into_inner()
}

/// The leader's process dies and comes back, by kill or power cut.
fn replace_leader(cluster: &mut SimCluster) {
    let leader = lead(cluster);
    if cluster.draw(2) == 0 {
        cluster.kill(leader);
    } else {
        cluster.cut_power(leader, CrashMode::LoseUnsynced);
    }
    lead(cluster);
    cluster.start(leader);
}

/// Each leader goes on from what the one before has recorded: a change costs five minutes, not the
/// hour.
#[test]
fn an_hour_stays_an_hour_over_changes_of_the_leader() {
    for seed in 0..2 {
        let mut cluster = started(seed);
        grant(&mut cluster, 3600);
        let granted = cluster.now();
        let mut changes = 0;
        while lives_anywhere(&cluster) {
            if changes < 5 {
                let tenure = SECOND * u32::try_from(350 + cluster.draw(400)).expect("it is small");
                cluster.run_for(tenure, Vec::new());
                replace_leader(&mut cluster);
                changes += 1;
            } else {
                cluster.run_for(SECOND, Vec::new());
            }
            let lived = cluster.now() - granted;
            let context = cluster.context();
            assert!(lives_anywhere(&cluster) || lived >= 3600 * SECOND, "{context}: {lived:?}");
            let most = (3600 + 5 * (300 + 30)) * SECOND;
            assert!(lived < most, "{context}: it has lived for {lived:?}");
        }
    }
}

/// Five minutes and less: half the time is recorded.
#[test]
fn a_short_lease_does_not_live_twice_as_long() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed);
        grant(&mut cluster, 100);
        let granted = cluster.now();
        let before = SECOND * u32::try_from(10 + cluster.draw(85)).expect("it is small");
        cluster.run_for(before, Vec::new());
        replace_leader(&mut cluster);
        cluster.run_until(200 * SECOND, |cluster| !lives_anywhere(cluster));
        let lived = cluster.now() - granted;
        let is_right = (100 * SECOND..170 * SECOND).contains(&lived);
        assert!(is_right, "{}: it lived for {lived:?}", cluster.context());
    }
}

/// A client renews through any member, now and then too late for the record of what is left, while
/// leaders die: the lease is there until the last time that it was told of.
#[test]
fn a_lease_never_ends_before_the_time_that_a_client_was_told() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed);
        grant(&mut cluster, 20);
        let mut promised = cluster.now() + 20 * SECOND;
        let mut renewals = 0;
        for _ in 0..60 {
            if cluster.draw(6) == 0 {
                replace_leader(&mut cluster);
            }
            let asked = cluster.now();
            let member = usize::try_from(cluster.draw(3)).expect("below three");
            let patience = Duration::from_millis(50 + cluster.draw(13_000));
            let answer = renewed(&mut cluster, member, patience);
            let context = cluster.context();
            match answer {
                Some(Ok(Renewal::Renewed { ttl: 20 })) => {
                    promised = asked + 20 * SECOND;
                    renewals += 1;
                }
                Some(Ok(Renewal::Gone)) => {
                    assert!(asked + patience >= promised, "{context}: it is gone too early");
                    break;
                }
                Some(Err(_)) | None => {}
                Some(Ok(other)) => panic!("{context}: {other:?}"),
            }
            let leader = lead(&mut cluster);
            let is_there = lives(&cluster, leader);
            assert!(is_there || cluster.now() >= promised, "{context}: it ended too early");
        }
        assert!(renewals > 3, "{}: hardly anything was renewed", cluster.context());
        cluster.run_until(100 * SECOND, |cluster| !lives_anywhere(cluster));
        assert!(cluster.now() >= promised, "{}", cluster.context());
    }
}

/// The leader is cut off from the others and does not know that they have elected another.
#[test]
fn a_member_that_was_cut_off_promises_nothing() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed);
        grant(&mut cluster, 10);
        let old = lead(&mut cluster);
        let (id, all) = (cluster.id(old), cluster.ids().to_vec());
        cluster.network().isolate(id, all);
        let answer = renewed(&mut cluster, old, 30 * SECOND);
        let context = cluster.context();
        let is_promised = matches!(answer, Some(Ok(Renewal::Renewed { .. })));
        assert!(!is_promised, "{context}: {answer:?}");
        let other = (old + 1) % 3;
        assert!(!lives(&cluster, other), "{context}: the new leader has ended it");
        cluster.network().heal();
        lead(&mut cluster);
        cluster.run_until(ELECTION, |cluster| !lives_anywhere(cluster));
        let answer = renewed(&mut cluster, old, 5 * SECOND);
        assert_eq!(answer, Some(Ok(Renewal::Gone)), "{context}");
    }
}
