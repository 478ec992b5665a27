//! A member that has applied something else than the others finds it out by itself, raises CORRUPT for
//! itself and serves nothing, while the others go on; one that leads hands over first; and where nobody
//! knows whom to believe, all stop.

use std::time::Duration;

use bytes::Bytes;
use keepd_machine::command::{ALARM_CORRUPT, Alarm, Put};
use keepd_machine::{ApplyError, Command, levels};
use keepd_mvcc::HashKv;
use keepd_node::HashVerdict;
use keepd_types::{MemberId, StoredValue};
use sim::SimCluster;

/// Seeds of a run of the tests.
const SEEDS: u64 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Time in which a cluster with a quorum elects a leader, and in which members are compared.
const SOON: Duration = Duration::from_secs(30);

fn started(seed: u64) -> SimCluster {
    let mut cluster = SimCluster::new(seed, 3);
    cluster.start_all();
    cluster.run_until(SOON, |cluster| {
        let may = |member| cluster.handle(member).may_write(levels::DIGEST_CHECK);
        cluster.leader().is_some() && (0..3).all(may)
    });
    cluster
}

fn put(cluster: &mut SimCluster, member: usize, value: &'static str) -> Result<(), ApplyError> {
    let handle = cluster.handle(member);
    let value = StoredValue::plain(Bytes::from_static(value.as_bytes()));
    let put = Put { key: Bytes::from_static(b"k"), value, ..Put::default() };
    let result = std::cell::Cell::new(None);
    let told = &result;
    cluster.run(vec![Box::pin(async move {
        let done = handle.propose(Command::Put(put)).await.expect("it is committed");
        told.set(Some(done.outcome.result.map(drop)));
    })]);
    result.take().expect("it was told")
}

fn serving(cluster: &SimCluster) -> Vec<usize> {
    (0..3).filter(|member| !cluster.handle(*member).serves_nothing()).collect()
}

fn corrupt(cluster: &SimCluster, member: usize) -> Vec<MemberId> {
    let alarms = cluster.handle(member).alarms();
    let corrupt = alarms.iter().filter(|alarm| alarm.kind == ALARM_CORRUPT);
    corrupt.map(|alarm| alarm.member).collect()
}

fn hashes(cluster: &SimCluster) -> Vec<u32> {
    let hash = |member| cluster.handle(member).view().hash_kv(0).expect("it is readable").hash;
    (0..3).map(hash).collect()
}

#[test]
fn members_that_apply_the_same_are_never_told_apart() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed);
        for round in 0..6 {
            put(&mut cluster, round % 3, "the same").expect("it is put");
            let victim = usize::try_from(cluster.draw(3)).expect("below three");
            cluster.kill(victim);
            cluster.run_for(7 * SECOND, Vec::new());
            cluster.start(victim);
            cluster.run_until(SOON, |cluster| cluster.leader().is_some());
            cluster.run_for(12 * SECOND, Vec::new());
        }
        let context = cluster.context();
        assert_eq!(serving(&cluster), [0, 1, 2], "{context}");
        assert_eq!(corrupt(&cluster, 0), [], "{context}");
        let hashes = hashes(&cluster);
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{context}: {hashes:?}");
    }
}

#[test]
fn an_idle_cluster_writes_nothing_to_compare_itself() {
    let mut cluster = started(1);
    put(&mut cluster, 0, "once").expect("it is put");
    cluster.run_for(30 * SECOND, Vec::new());
    let before = cluster.handle(0).status().commit_index;
    cluster.run_for(120 * SECOND, Vec::new());
    assert_eq!(cluster.handle(0).status().commit_index, before);
}

#[test]
fn a_follower_that_diverges_finds_it_out_and_serves_nothing() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed);
        let leader = cluster.leader().expect("there is one");
        let wrong = (leader + 1) % 3;
        cluster.network().alter(cluster.id(wrong), b"as it was", b"otherwise");
        put(&mut cluster, leader, "as it was").expect("it is put");
        cluster.run_until(SOON, |cluster| serving(cluster).len() < 3);
        let right: Vec<usize> = (0..3).filter(|member| *member != wrong).collect();
        let context = cluster.context();
        assert_eq!(serving(&cluster), right, "{context}");
        let id = cluster.id(wrong);
        cluster.run_until(SOON, |cluster| (0..3).all(|member| corrupt(cluster, member) == [id]));
        let found = hashes(&cluster);
        assert!(found[wrong] != found[leader] && found[right[0]] == found[right[1]], "{context}");
        // The others go on, and what it knew of itself survives its restart.
        for (count, member) in right.iter().enumerate() {
            put(&mut cluster, *member, ["more", "and more"][count]).expect("a majority is right");
        }
        cluster.kill(wrong);
        cluster.start(wrong);
        cluster.run_until(SOON, |cluster| cluster.handle(wrong).serves_nothing());
        // It does not lead either, whoever is gone.
        cluster.kill(leader);
        cluster.run_for(30 * SECOND, Vec::new());
        let leads = |member: usize| cluster.handle(member).leads();
        assert!(!leads(wrong), "{context}");
        cluster.start(leader);
        cluster.run_until(SOON, |cluster| cluster.leader().is_some());
        assert_ne!(cluster.leader(), Some(wrong), "{context}");
        // Cleared by hand, it is compared again.
        let handle = cluster.handle(leader);
        cluster.run(vec![Box::pin(async move {
            let alarm = Alarm { member: id, kind: ALARM_CORRUPT };
            handle.propose(Command::AlarmDeactivate(alarm)).await.expect("it is committed");
        })]);
        put(&mut cluster, leader, "again").expect("it is put");
        cluster.run_until(SOON, |cluster| corrupt(cluster, leader) == [id]);
        assert!(!serving(&cluster).contains(&wrong), "{}", cluster.context());
    }
}

#[test]
fn a_leader_that_diverged_steps_down_and_accuses_nobody_but_itself() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed);
        let first = cluster.leader().expect("there is one");
        let wrong = (first + 1) % 3;
        let id = cluster.id(wrong);
        cluster.network().alter(id, b"as it was", b"otherwise");
        put(&mut cluster, first, "as it was").expect("it is put");
        let handle = cluster.handle(first);
        cluster.run_for(
            SECOND,
            vec![Box::pin(async move {
                // It is polled without timers: the transfer is over when the others agree.
                let _moved = handle.move_leader(id).await;
            })],
        );
        cluster.run_until(SOON, |cluster| !serving(cluster).contains(&wrong));
        let context = cluster.context();
        cluster.run_until(SOON, |cluster| corrupt(cluster, first) == [id]);
        cluster.run_until(SOON, |cluster| cluster.leader().is_some_and(|leader| leader != wrong));
        let right: Vec<usize> = (0..3).filter(|member| *member != wrong).collect();
        assert_eq!(serving(&cluster), right, "{context}");
        put(&mut cluster, first, "on").expect("a majority is right");
    }
}

/// Compares the members by their hashes, as one of them sees it.
fn compared(cluster: &mut SimCluster, member: usize, own: HashKv) -> HashVerdict {
    let handle = cluster.handle(member);
    let verdict = std::cell::RefCell::new(None);
    let told = &verdict;
    cluster.run(vec![Box::pin(async move {
        let compared = handle.compare_hashes(own).await;
        *told.borrow_mut() = Some(compared.expect("there is a leader"));
    })]);
    verdict.into_inner().expect("it was told")
}

#[test]
fn hashes_of_all_and_of_what_compactions_left_tell_who_differs_whoever_asks() {
    let mut cluster = started(5);
    let leader = cluster.leader().expect("there is one");
    let (wrong, third) = ((leader + 1) % 3, (leader + 2) % 3);
    for value in ["one", "two", "three"] {
        put(&mut cluster, leader, value).expect("it is put");
    }
    cluster.run_for(SECOND, Vec::new());
    let now = |cluster: &SimCluster, member: usize| {
        cluster.handle(member).view().hash_kv(0).expect("it is readable")
    };
    let compact = |cluster: &mut SimCluster| {
        let handle = cluster.handle(leader);
        let revision = handle.view().revision();
        cluster.run(vec![Box::pin(async move {
            let done = handle.propose(Command::Compact { revision }).await;
            done.expect("it is committed").outcome.result.expect("it is compacted");
        })]);
        cluster.run_until(SOON, |cluster| {
            (0..3).all(|member| {
                let hashes = cluster.handle(member).compaction_hashes();
                hashes.last().is_some_and(|hash| hash.revision == revision)
            })
        });
    };
    let same = HashVerdict::Same { compared: 2, is_complete: true };
    for member in 0..3 {
        let own = now(&cluster, member);
        assert_eq!(compared(&mut cluster, member, own), same);
    }
    compact(&mut cluster);
    let own = *cluster.handle(third).compaction_hashes().last().expect("there is one");
    assert_eq!(compared(&mut cluster, third, own), same);

    let id = cluster.id(wrong);
    cluster.network().alter(id, b"as it was", b"otherwise");
    put(&mut cluster, leader, "as it was").expect("it is put");
    cluster.run_for(SECOND, Vec::new());
    let accused = HashVerdict::Minority(vec![id]);
    for member in 0..3 {
        let own = now(&cluster, member);
        assert_eq!(compared(&mut cluster, member, own), accused, "as {member} sees it");
    }
    put(&mut cluster, leader, "later").expect("it is put");
    compact(&mut cluster);
    put(&mut cluster, leader, "last").expect("it is put");
    cluster.run_for(SECOND, Vec::new());
    let own = now(&cluster, leader);
    assert_eq!(compared(&mut cluster, leader, own), same, "what differed is compacted away");
    let gone = cluster.id(third);
    cluster.network().isolate(gone, cluster.ids().to_vec());
    cluster.run_for(5 * SECOND, Vec::new());
    let own = now(&cluster, leader);
    let incomplete = HashVerdict::Same { compared: 1, is_complete: false };
    assert_eq!(compared(&mut cluster, leader, own), incomplete);
}

#[test]
fn where_no_majority_agrees_all_stop_serving() {
    let mut cluster = started(4);
    let leader = cluster.leader().expect("there is one");
    for (member, read) in [(1, b"otherwise"), (2, b"different")] {
        let id = cluster.id((leader + member) % 3);
        cluster.network().alter(id, b"as it was", read);
    }
    put(&mut cluster, leader, "as it was").expect("it is put");
    cluster.run_until(SOON, |cluster| serving(cluster).is_empty());
    for member in 0..3 {
        assert_eq!(corrupt(&cluster, member), [MemberId(0)]);
    }
    let leader = cluster.leader().expect("somebody has to lead");
    assert_eq!(put(&mut cluster, leader, "more"), Err(ApplyError::Corrupt));
}
