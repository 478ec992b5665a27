//! Members whose disk loses what it had acknowledged as synced, or is put back to an older copy (rule
//! 9.23): such a member is found by those who remember what it confirmed, stops and says why, and is
//! replaced; it neither votes nor confirms with the short log, and nothing acknowledged is lost.

use std::time::Duration;

use bytes::Bytes;
use keepd_env::SimDisk;
use keepd_env::sim::CrashMode;
use keepd_machine::command::Put;
use keepd_machine::{Command, MembershipChange};
use keepd_node::{Error, Options, Receiver};
use keepd_types::{KeyRange, MemberId, StoredValue};
use sim::SimCluster;

/// Seeds of a run of the tests.
const SEEDS: u64 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Time in which a cluster with a quorum elects a leader, and brings its members to the same state.
const SOON: Duration = Duration::from_secs(30);
/// The text by which operators know it.
const TEXT: &str = "its disk lost what it had synced, or an older copy was put back";

/// Members that wait for long for one another's word.
fn patient(options: Options) -> Options {
    Options { rejoin_patience: Some(Duration::from_secs(600)), ..options }
}

/// A cluster with a leader; the leader and two followers.
fn started(seed: u64) -> (SimCluster, [usize; 3]) {
    let mut cluster = SimCluster::with(seed, 3, patient);
    cluster.start_all();
    cluster.run_until(SOON, |cluster| cluster.leader().is_some());
    let leader = cluster.leader().expect("there is one");
    (cluster, [leader, (leader + 1) % 3, (leader + 2) % 3])
}

/// Writes through a member, which acknowledges it.
fn put(cluster: &mut SimCluster, member: usize, key: &'static str) {
    let handle = cluster.handle(member);
    let value = StoredValue::plain(Bytes::from_static(b"v"));
    let put = Put { key: key.into(), value, ..Put::default() };
    cluster.run(vec![Box::pin(async move {
        while let Err(error) = handle.propose(Command::Put(put.clone())).await {
            assert_ne!(error, Error::Stopped);
        }
    })]);
}

fn has(cluster: &SimCluster, member: usize, key: &'static str) -> bool {
    let view = cluster.handle(member).view();
    view.range(&KeyRange::point(key.into()), 0, 1).expect("it is readable").count > 0
}

/// Acknowledged by the leader and the follower that loses it, while the other one is cut off.
fn acknowledged_by_two(cluster: &mut SimCluster, [leader, forgetful, other]: [usize; 3]) {
    let others = [leader, forgetful].map(|member| cluster.id(member));
    let other = cluster.id(other);
    cluster.disk(forgetful).set_lying(true);
    cluster.network().isolate(other, others);
    put(cluster, leader, "acknowledged");
}

fn reason(cluster: &SimCluster, member: usize) -> String {
    let halted = cluster.handle(member).halted();
    let reason = halted.borrow().clone();
    reason.map(|reason| reason.0).unwrap_or_default()
}

/// Waits until a member has stopped because of what it has forgotten.
fn is_found(cluster: &mut SimCluster, member: usize) {
    cluster.run_until(SOON, |cluster| !cluster.is_running(member));
    let reason = reason(cluster, member);
    assert!(reason.contains(TEXT), "{}: {reason}", cluster.context());
    cluster.kill(member);
}

fn change(cluster: &mut SimCluster, by: usize, change: &MembershipChange) {
    let handle = cluster.handle(by);
    cluster.run(vec![Box::pin(async move {
        loop {
            match handle.change_membership(change.clone()).await {
                Ok(done) => return drop(done.outcome.result.expect("the change is sound")),
                Err(error) => assert_ne!(error, Error::Stopped),
            }
        }
    })]);
}

/// Replaces a member that has stopped by a new one with an empty disk, and sees that nothing is lost.
fn replace(cluster: &mut SimCluster, [by, lost, other]: [usize; 3]) {
    cluster.network().heal();
    cluster.take_away(lost);
    cluster.run_until(SOON, |cluster| cluster.leader().is_some());
    let id = cluster.id(lost);
    change(cluster, by, &MembershipChange::Remove { id });
    let (id, peer_urls) = (MemberId(0xd), vec!["http://new:2380".to_owned()]);
    let add = MembershipChange::Add { id, peer_urls, is_learner: false, max_learners: 1 };
    change(cluster, by, &add);
    let told = cluster.handle(by).membership();
    let new = cluster.add_host(id, told);
    cluster.start(new);
    put(cluster, new, "later");
    cluster.run_until(SOON, |cluster| {
        [by, other, new]
            .iter()
            .all(|member| has(cluster, *member, "later") && has(cluster, *member, "acknowledged"))
    });
}

/// The leader is there all the time.
#[test]
fn the_leader_finds_a_follower_that_forgot_and_it_is_replaced() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, members) = started(seed);
        let [_, forgetful, _] = members;
        acknowledged_by_two(&mut cluster, members);
        cluster.cut_power(forgetful, CrashMode::LoseUnsynced);
        cluster.start(forgetful);
        is_found(&mut cluster, forgetful);
        // It is found again, however often it is started.
        cluster.start(forgetful);
        is_found(&mut cluster, forgetful);
        replace(&mut cluster, members);
    }
}

/// The leader that it confirmed to is stopped for longer than an election takes, and the one that
/// lacks what was acknowledged asks for the vote.
#[test]
fn it_gives_no_vote_while_the_leader_that_knows_is_stopped() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, members) = started(seed);
        let [leader, forgetful, other] = members;
        acknowledged_by_two(&mut cluster, members);
        cluster.cut_power(forgetful, CrashMode::LoseUnsynced);
        cluster.pause(leader, true);
        let (knows, lacks) = (cluster.id(leader), cluster.id(other));
        cluster.network().heal();
        cluster.network().isolate(knows, [lacks]);
        cluster.start(forgetful);
        cluster.run_for(10 * SECOND, Vec::new());
        let context = cluster.context();
        assert!(!cluster.handle(other).leads(), "{context}");
        assert!(!cluster.handle(forgetful).leads(), "{context}");
        cluster.pause(leader, false);
        is_found(&mut cluster, forgetful);
        replace(&mut cluster, members);
    }
}

/// Another one leads by now, which never heard what the member confirmed.
#[test]
fn a_leader_of_before_remembers_what_it_confirmed() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, [first, forgetful, heir]) = started(seed);
        cluster.disk(forgetful).set_lying(true);
        put(&mut cluster, first, "acknowledged");
        cluster.run_until(SOON, |cluster| has(cluster, forgetful, "acknowledged"));
        cluster.run_for(SECOND, Vec::new());
        cluster.cut_power(forgetful, CrashMode::LoseUnsynced);
        let (handle, id) = (cluster.handle(first), cluster.id(heir));
        cluster.run_for(
            SECOND,
            vec![Box::pin(async move {
                // The transfer is over when the others agree.
                let _moved = handle.move_leader(id).await;
            })],
        );
        cluster.run_until(SOON, |cluster| cluster.leader() == Some(heir));
        cluster.start(forgetful);
        is_found(&mut cluster, forgetful);
        replace(&mut cluster, [first, forgetful, heir]);
    }
}

/// All lose their power, and only one of them what it had synced: nobody remembers anything. It is not
/// found then, and does no harm.
#[test]
fn where_nobody_remembers_nothing_is_lost_all_the_same() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, members) = started(seed);
        let [leader, forgetful, other] = members;
        acknowledged_by_two(&mut cluster, members);
        for member in 0..3 {
            cluster.cut_power(member, CrashMode::LoseUnsynced);
        }
        let (knows, lacks) = (cluster.id(leader), cluster.id(other));
        cluster.network().heal();
        cluster.network().isolate(knows, [lacks]);
        cluster.start_all();
        cluster.run_for(10 * SECOND, Vec::new());
        // From here on it is alone with the one that lacks it.
        cluster.network().isolate(knows, cluster.ids().to_vec());
        cluster.run_for(10 * SECOND, Vec::new());
        let context = cluster.context();
        assert!(!cluster.handle(other).leads() && !cluster.handle(forgetful).leads(), "{context}");
        cluster.network().heal();
        cluster.run_until(SOON, |cluster| {
            cluster.leader().is_some() && (0..3).all(|member| has(cluster, member, "acknowledged"))
        });
    }
}

/// The same with a copy that somebody made while it ran and put back later.
#[test]
fn a_directory_that_was_put_back_to_an_older_copy_is_found() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, members) = started(seed);
        let [leader, rolled_back, _] = members;
        put(&mut cluster, leader, "before");
        let copy: SimDisk = cluster.disk(rolled_back).crash(CrashMode::WrittenBack);
        put(&mut cluster, leader, "acknowledged");
        cluster
            .run_until(SOON, |cluster| (0..3).all(|member| has(cluster, member, "acknowledged")));
        cluster.kill(rolled_back);
        cluster.replace_disk(rolled_back, copy);
        cluster.start(rolled_back);
        is_found(&mut cluster, rolled_back);
        replace(&mut cluster, members);
    }
}

/// With the usual patience one that is away does not keep the others from going on.
#[test]
fn a_voter_that_is_gone_is_waited_for_three_election_timeouts_and_no_longer() {
    let mut cluster = SimCluster::new(1, 3);
    cluster.start_all();
    cluster.run_until(SOON, |cluster| cluster.leader().is_some());
    let gone = (cluster.leader().expect("there is one") + 1) % 3;
    cluster.take_away(gone);
    let rest = [(gone + 1) % 3, (gone + 2) % 3];
    for member in rest {
        cluster.kill(member);
    }
    cluster.start_all();
    cluster.run_for(2 * SECOND, Vec::new());
    assert_eq!(cluster.leader(), None, "one may know more");
    cluster.run_until(10 * SECOND, |cluster| cluster.leader().is_some());
}
