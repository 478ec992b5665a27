//! Members that lack more than the log holds get the state: those that were away for long, those that
//! join, and those whose disk was replaced. The sender, the receiver or the link between them fails at
//! any moment.

use std::time::Duration;

use bytes::Bytes;
use keepd_env::sim::CrashMode;
use keepd_machine::command::Put;
use keepd_machine::{Command, MembershipChange};
use keepd_node::{Error, Handle, Options, Receiver};
use keepd_types::{MemberId, StoredValue};
use sim::{Client, SimCluster};

/// Seeds of a run of the tests.
const SEEDS: u64 = 20;
/// Time in which a cluster with a quorum elects a leader.
const ELECTION: Duration = Duration::from_secs(20);
/// Time in which a member that lags catches up.
const CATCH_UP: Duration = Duration::from_secs(60);

/// A log that nobody is waited for with.
fn short_log(options: Options) -> Options {
    Options { snapshot_count: 20, log_held_bytes: 0, ..options }
}

fn started(seed: u64, members: usize) -> SimCluster {
    let mut cluster = SimCluster::with(seed, members, short_log);
    cluster.start_all();
    cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
    cluster
}

fn put(key: String, bytes: usize) -> Command {
    let value = StoredValue::plain(vec![b'v'; bytes].into());
    Command::Put(Put { key: key.into(), value, ..Put::default() })
}

/// Writes so many keys; whoever asked goes on when they are acknowledged or the member ends.
async fn write(handle: Handle, count: usize, bytes: usize) {
    for number in 0..count {
        let key = format!("key-{}", number % 50);
        while let Err(error) = handle.propose(put(key.clone(), bytes)).await {
            if error == Error::Stopped {
                return;
            }
        }
    }
}

fn written(cluster: &mut SimCluster, by: usize, count: usize, bytes: usize) {
    let handle = cluster.handle(by);
    cluster.run(vec![Box::pin(write(handle, count, bytes))]);
}

/// Lets the log go: after a start it holds what was not flushed.
fn restart(cluster: &mut SimCluster, member: usize) {
    cluster.kill(member);
    cluster.start(member);
    cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
    cluster.run_for(Duration::from_secs(2), Vec::new());
}

fn agree(cluster: &mut SimCluster, members: &[usize]) {
    let is_alike = |cluster: &SimCluster| {
        let mut applied = members.iter().map(|member| cluster.handle(*member).view().applied());
        let first = applied.next().expect("there are members");
        first.index > 1 && applied.all(|other| other == first)
    };
    cluster.run_until(CATCH_UP, |cluster| cluster.leader().is_some() && is_alike(cluster));
    let context = cluster.context();
    let views: Vec<_> = members.iter().map(|member| cluster.handle(*member).view()).collect();
    for view in &views {
        assert_eq!(view.digest(), views[0].digest(), "{context}: members differ");
        let hash = |view: &keepd_mvcc::View| view.hash_kv(0).expect("it is readable");
        assert_eq!(hash(view), hash(&views[0]), "{context}");
    }
}

/// A cluster with a follower that lacks more than the log holds; the follower is down.
fn with_one_that_lags(seed: u64) -> (SimCluster, usize) {
    let mut cluster = started(seed, 3);
    let lagging = (cluster.leader().expect("there is one") + 1) % 3;
    cluster.kill(lagging);
    let other = (lagging + 1) % 3;
    written(&mut cluster, other, 100, 500);
    for member in [other, (lagging + 2) % 3] {
        restart(&mut cluster, member);
    }
    (cluster, lagging)
}

#[test]
fn a_member_that_was_away_for_longer_than_the_log_gets_the_state_and_serves() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, lagging) = with_one_that_lags(seed);
        let before = cluster.network().states();
        cluster.start(lagging);
        let other = (lagging + 1) % 3;
        written(&mut cluster, other, 20, 500);
        agree(&mut cluster, &[0, 1, 2]);
        assert!(cluster.network().states() > before, "{}: by a state", cluster.context());
        // It counts again: the cluster goes on with it and one more.
        cluster.kill(other);
        written(&mut cluster, lagging, 20, 500);
        restart(&mut cluster, lagging);
        cluster.start(other);
        agree(&mut cluster, &[0, 1, 2]);
    }
}

#[test]
fn whoever_fails_while_a_state_is_on_its_way_the_member_catches_up_in_the_end() {
    let (mut begun, mut arrived) = (0, 0);
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, lagging) = with_one_that_lags(seed);
        cluster.start(lagging);
        for _ in 0..6 {
            let writer = cluster.handle((lagging + 1) % 3);
            let during = Duration::from_micros(cluster.draw(40_000));
            cluster.run_for(during, vec![Box::pin(write(writer, 1000, 2000))]);
            let leader = cluster.leader().unwrap_or((lagging + 1) % 3);
            match cluster.draw(6) {
                0 => cluster.kill(lagging),
                1 => cluster.cut_power(lagging, CrashMode::LoseUnsynced),
                2 => cluster.cut_power(lagging, CrashMode::Torn { seed }),
                3 => cluster.kill(leader),
                4 => cluster.cut_power(leader, CrashMode::LoseUnsynced),
                _ => {
                    let (leader, lagging) = (cluster.id(leader), cluster.id(lagging));
                    cluster.network().cut(leader, lagging);
                }
            }
            let during = Duration::from_micros(cluster.draw(3_000_000));
            cluster.run_for(during, Vec::new());
            cluster.network().heal();
            cluster.start_all();
        }
        cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
        written(&mut cluster, (lagging + 1) % 3, 5, 500);
        agree(&mut cluster, &[0, 1, 2]);
        begun += cluster.network().states_begun();
        arrived += cluster.network().states();
    }
    assert!(arrived >= sim::seeds(SEEDS), "each has at least one: {arrived}");
    assert!(begun > arrived, "some were cut off: {begun} begun, {arrived} arrived");
}

fn change(cluster: &mut SimCluster, by: usize, change: &MembershipChange) {
    let handle = cluster.handle(by);
    cluster.run(vec![Box::pin(async move {
        loop {
            match handle.change_membership(change.clone()).await {
                Ok(done) => {
                    done.outcome.result.expect("the change is sound");
                    return;
                }
                Err(error) => assert_ne!(error, Error::Stopped),
            }
        }
    })]);
}

fn join(cluster: &mut SimCluster, by: usize, id: MemberId, is_learner: bool) -> usize {
    let peer_urls = vec![format!("http://{id}:2380")];
    change(cluster, by, &MembershipChange::Add { id, peer_urls, is_learner, max_learners: 1 });
    let told: Bytes = cluster.handle(by).membership();
    let host = cluster.add_host(id, told);
    cluster.start(host);
    host
}

#[test]
fn a_cluster_grows_from_one_to_three_and_each_new_member_serves() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed, 1);
        written(&mut cluster, 0, 60, 500);
        let second = join(&mut cluster, 0, MemberId(0xb), false);
        // Two of two are needed, so this waits for the new one.
        written(&mut cluster, second, 20, 500);
        let third = join(&mut cluster, second, MemberId(0xc), true);
        agree(&mut cluster, &[0, second, third]);
        assert!(cluster.handle(third).is_learner());
        change(&mut cluster, 0, &MembershipChange::Promote { id: MemberId(0xc) });
        agree(&mut cluster, &[0, second, third]);
        assert!(!cluster.handle(third).is_learner());
        cluster.kill(0);
        written(&mut cluster, third, 20, 500);
        cluster.start(0);
        agree(&mut cluster, &[0, second, third]);
    }
}

#[test]
fn a_member_whose_disk_is_gone_is_replaced_by_a_new_one() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed, 3);
        written(&mut cluster, 0, 60, 500);
        let lost = usize::try_from(cluster.draw(3)).expect("below three");
        let other = (lost + 1) % 3;
        cluster.take_away(lost);
        cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
        let id = cluster.id(lost);
        change(&mut cluster, other, &MembershipChange::Remove { id });
        let new = join(&mut cluster, other, MemberId(0xd), false);
        written(&mut cluster, new, 20, 500);
        let rest = (lost + 2) % 3;
        agree(&mut cluster, &[other, rest, new]);
        let clients: Vec<Client<'_>> = Vec::new();
        cluster.kill(rest);
        cluster.run_for(Duration::from_secs(1), clients);
        written(&mut cluster, new, 20, 500);
    }
}

/// The leader came to the cluster after the member had asked for the membership.
#[test]
fn a_joining_member_answers_a_leader_that_it_was_not_told_of() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed, 1);
        let first = MemberId(0xb);
        let urls = vec!["http://b:2380".to_owned()];
        let add =
            MembershipChange::Add { id: first, peer_urls: urls, is_learner: true, max_learners: 2 };
        change(&mut cluster, 0, &add);
        let told = cluster.handle(0).membership();
        let late = cluster.add_host(first, told);
        let second = join(&mut cluster, 0, MemberId(0xc), false);
        written(&mut cluster, second, 20, 500);
        let handle = cluster.handle(0);
        let heir = MemberId(0xc);
        let moves: Client<'_> = Box::pin(async move {
            let _moved = handle.move_leader(heir).await;
        });
        cluster.run_for(Duration::from_secs(1), vec![moves]);
        cluster.run_until(ELECTION, |cluster| cluster.leader() == Some(second));
        cluster.start(late);
        agree(&mut cluster, &[0, second, late]);
    }
}
