//! Defects that etcd's users, its robustness tests and others have found in it, one named scenario each.
//! docs/testing.md lists all classes, with the tests elsewhere that stand for the rest of them.

use std::time::Duration;

use bytes::Bytes;
use keepd_env::sim::CrashMode;
use keepd_machine::Command;
use keepd_machine::command::{DeleteRange, Put};
use keepd_node::{Error, Handle, Options};
use keepd_types::{KeyRange, StoredValue};
use keepd_watch::{StreamMessage, WatchSpec};
use sim::fixture::Told;
use sim::{Client, Faults, SimCluster, SimMember};

/// Seeds of a run of the tests.
const SEEDS: u64 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Time in which a cluster with a quorum elects a leader, and brings its members to the same state.
const SOON: Duration = Duration::from_secs(30);

fn put(key: &str, bytes: usize) -> Command {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::from(vec![b'v'; bytes]));
    Command::Put(Put { key, value: StoredValue::plain(value), ..Put::default() })
}

fn delete(key: &'static str) -> Command {
    Command::DeleteRange(DeleteRange { range: KeyRange::point(key.into()), prev_kv: false })
}

fn short_log(options: Options) -> Options {
    Options { snapshot_count: 20, log_held_bytes: 0, ..options }
}

/// A cluster of three; its leader.
fn started(seed: u64, adjust: fn(Options) -> Options) -> (SimCluster, usize) {
    let mut cluster = SimCluster::with(seed, 3, adjust);
    cluster.start_all();
    cluster.run_until(SOON, |cluster| cluster.leader().is_some());
    let leader = cluster.leader().expect("it was just seen");
    (cluster, leader)
}

/// Proposes commands on a member, one after the other; the revision of the last.
fn done(cluster: &mut SimCluster, member: usize, commands: Vec<Command>) -> i64 {
    let (handle, last) = (cluster.handle(member), std::cell::Cell::new(0));
    let told = &last;
    cluster.run(vec![Box::pin(async move {
        for command in commands {
            let done = loop {
                match handle.propose(command.clone()).await {
                    Ok(done) => break done,
                    Err(error) => assert_ne!(error, Error::Stopped),
                }
            };
            done.outcome.result.expect("nothing is wrong with it");
            told.set(done.outcome.revision);
        }
    })]);
    last.get()
}

fn revision(cluster: &SimCluster, member: usize) -> i64 {
    cluster.handle(member).view().revision()
}

/// The revisions of all events.
fn revisions(told: &Told) -> Vec<i64> {
    let messages = told.0.lock();
    let events = messages.iter().filter_map(|message| match message {
        StreamMessage::Events(events) => Some(events),
        _ => None,
    });
    events.flat_map(|events| events.changes().map(|change| change.revision.main)).collect()
}

/// Watches a key on a member from a revision on.
async fn watch(handle: Handle, key: &'static str, from: i64, told: Told) {
    let hub = handle.hub();
    let stream = hub.open_stream(Box::new(told.clone()), 600 * SECOND).await.expect("it runs");
    let spec = WatchSpec::new(KeyRange::point(key.into()), from);
    hub.create(stream, spec).await.expect("it runs");
    while told.0.lock().is_empty() {
        tokio::task::yield_now().await;
    }
}

/// etcd#20418: the process of a leader is stopped while reads are on their way, messages come twice and
/// late, others elect a new leader and acknowledge a write; then the old one goes on.
#[test]
fn a_leader_that_was_paused_answers_no_read_from_before_the_next_leader() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, old) = started(seed, |options| options);
        done(&mut cluster, old, vec![put("k", 10)]);
        let jitter = Duration::from_millis(1 + cluster.draw(400));
        cluster.network().set_faults(Faults { lost: 0, doubled: 500_000, jitter });
        let reads = (0..4).map(|_| -> Client<'_> {
            let handle = cluster.handle(old);
            Box::pin(async move { drop(handle.linearizable_view().await) })
        });
        let (reads, before) = (reads.collect(), Duration::from_millis(cluster.draw(300)));
        cluster.run_for(before, reads);
        cluster.pause(old, true);
        let others = [(old + 1) % 3, (old + 2) % 3];
        cluster.run_until(SOON, |cluster| others.iter().any(|it| cluster.handle(*it).leads()));
        let acknowledged = done(&mut cluster, others[0], vec![put("k", 10)]);
        cluster.pause(old, false);
        let context = cluster.context();
        let reads = (0..4).map(|_| -> Client<'_> {
            let (handle, context) = (cluster.handle(old), context.clone());
            Box::pin(async move {
                if let Ok(view) = handle.linearizable_view().await {
                    let seen = view.revision();
                    assert!(seen >= acknowledged, "{context}: read {seen} after {acknowledged}");
                }
            })
        });
        let reads = reads.collect();
        cluster.run(reads);
    }
}

/// etcd#18089: the event of a deletion was dropped by a compaction at its revision.
#[test]
fn a_deletion_is_told_after_a_compaction_at_its_revision() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, leader) = started(seed, |options| options);
        let member = (leader + 1) % 3;
        let revision = done(&mut cluster, leader, vec![put("k", 10), put("k", 10), delete("k")]);
        done(&mut cluster, leader, vec![Command::Compact { revision }]);
        cluster.run_until(SOON, |cluster| {
            cluster.handle(member).view().compact_revision() == revision
        });
        let (handle, told) = (cluster.handle(member), Told::default());
        let watching = watch(handle.clone(), "k", revision, told.clone());
        cluster.run(vec![Box::pin(async move {
            handle.settle_compactions().await.expect("it runs");
            watching.await;
        })]);
        cluster.run_until(SOON, |_| revisions(&told) == [revision]);
    }
}

/// etcd#17780: after a crash during a compaction, which had removed the newest record, a deletion, the
/// revision was lower than before.
#[test]
fn no_revision_falls_by_a_crash_during_a_compaction() {
    for seed in 0..10 * sim::seeds(SEEDS) {
        let mut member = SimMember::new(seed);
        member.start_and_lead();
        let (handle, last) = (member.handle(), std::cell::Cell::new(0));
        let told = &last;
        member.run(vec![Box::pin(async move {
            for command in [put("k", 100), put("other", 100), delete("other"), delete("k")] {
                let done = handle.propose(command).await.expect("it is committed");
                told.set(done.outcome.revision);
            }
        })]);
        let revision = last.get();
        let handle = member.handle();
        let compacting: Client<'_> = Box::pin(async move {
            let _done = handle.propose(Command::Compact { revision }).await;
            let _done = handle.reclaim().await;
        });
        let mut steps = member.draw(120);
        member.run_while(vec![compacting], |_| {
            steps = steps.saturating_sub(1);
            steps > 0
        });
        let choice = member.draw(1 << 32);
        match member.draw(4) {
            0 => member.kill(),
            1 => member.cut_power(CrashMode::LoseUnsynced),
            2 => member.cut_power(CrashMode::Random { seed: choice }),
            _ => member.cut_power(CrashMode::Torn { seed: choice }),
        }
        member.start_and_lead();
        let view = member.handle().view();
        assert_eq!(view.revision(), revision, "{}", member.context());
        assert_eq!(view.range(&KeyRange::all(), 0, 0).expect("it is readable").count, 0);
    }
}

/// etcd#14685, and the race of a snapshot with defragmentation: a crash while space is reclaimed left a
/// member with other revisions than the rest.
#[test]
fn a_crash_while_space_is_reclaimed_leaves_members_equal() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, leader) = started(seed, short_log);
        let member = (leader + 1) % 3;
        let overwrite = || (0..60).map(|number| put(["a", "b", "c"][number % 3], 2000)).collect();
        let revision = done(&mut cluster, leader, overwrite());
        done(&mut cluster, leader, vec![Command::Compact { revision }]);
        for _ in 0..4 {
            let (reclaiming, writing) = (cluster.handle(member), cluster.handle(leader));
            let commands: Vec<Command> = overwrite();
            let clients: Vec<Client<'_>> = vec![
                Box::pin(async move { drop(reclaiming.reclaim().await) }),
                Box::pin(async move {
                    for command in commands {
                        drop(writing.propose(command).await);
                    }
                }),
            ];
            let during = Duration::from_micros(cluster.draw(30_000));
            cluster.run_for(during, clients);
            match cluster.draw(2) {
                0 => cluster.kill(member),
                _ => cluster.cut_power(member, CrashMode::LoseUnsynced),
            }
            cluster.start(member);
            cluster.run_until(SOON, |cluster| cluster.leader().is_some());
        }
        cluster.run_until(SOON, |cluster| {
            let applied = |member| cluster.handle(member).view().applied();
            (0..3).all(|member| applied(member) == applied(0))
        });
        let hash = |member| cluster.handle(member).view().hash_kv(0).expect("it is readable");
        let hashes = [hash(0), hash(1), hash(2)];
        assert!(hashes.iter().all(|it| *it == hashes[0]), "{}: {hashes:?}", cluster.context());
    }
}

/// Brings a member that was cut off up by the state of another one.
fn install(cluster: &mut SimCluster, lagging: usize, writer: usize) {
    let id = cluster.id(lagging);
    let before = cluster.network().states();
    cluster.network().isolate(id, cluster.ids().to_vec());
    let others = [writer, 3 - writer - lagging];
    cluster.run_until(SOON, |cluster| others.iter().any(|it| cluster.handle(*it).leads()));
    done(cluster, writer, (0..80).map(|_| put("other", 500)).collect());
    // A log is let go with the start after it was flushed.
    for member in others {
        cluster.kill(member);
        cluster.start(member);
        cluster.run_until(SOON, |cluster| others.iter().any(|it| cluster.handle(*it).leads()));
        cluster.run_for(2 * SECOND, Vec::new());
    }
    cluster.network().mend();
    let target = revision(cluster, writer);
    cluster.run_until(SOON, |cluster| revision(cluster, lagging) >= target);
    assert!(cluster.network().states() > before, "{}: by a state", cluster.context());
}

/// etcd#20221: a watch from a future revision was told of older events after its member had got the
/// state of another one.
#[test]
fn a_watch_from_the_future_stays_there_when_a_state_is_installed() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, leader) = started(seed, short_log);
        let lagging = (leader + 1) % 3;
        done(&mut cluster, leader, vec![put("k", 10), put("k", 10)]);
        cluster.run_until(SOON, |cluster| revision(cluster, lagging) == revision(cluster, leader));
        let (from, told) = (revision(&cluster, leader) + 150, Told::default());
        let watching = watch(cluster.handle(lagging), "other", from, told.clone());
        cluster.run(vec![Box::pin(watching)]);
        install(&mut cluster, lagging, leader);
        assert!(revision(&cluster, lagging) < from);
        while revision(&cluster, leader) < from + 20 {
            done(&mut cluster, leader, vec![put("other", 10)]);
        }
        let last = revision(&cluster, leader);
        cluster.run_until(SOON, |_| revisions(&told).last() == Some(&last));
        let expected: Vec<i64> = (from..=last).collect();
        assert_eq!(revisions(&told), expected, "{}", cluster.context());
    }
}

/// etcd#18055: a member that got two states in quick succession panicked. Its watches miss nothing.
#[test]
fn two_states_in_quick_succession_are_both_installed() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, leader) = started(seed, short_log);
        let lagging = (leader + 1) % 3;
        let told = Told::default();
        let from = revision(&cluster, lagging) + 1;
        cluster.run(vec![Box::pin(watch(cluster.handle(lagging), "other", from, told.clone()))]);
        for _ in 0..2 {
            install(&mut cluster, lagging, leader);
        }
        let last = revision(&cluster, lagging);
        cluster.run_until(SOON, |_| revisions(&told).last() == Some(&last));
        let expected: Vec<i64> = (from..=last).collect();
        assert_eq!(revisions(&told), expected, "{}", cluster.context());
    }
}

/// A watch went back in time after a partition: a client that goes on at another member, behind the last
/// event that it had, is told of nothing twice and misses nothing.
#[test]
fn a_watch_that_goes_on_elsewhere_after_a_partition_goes_on_where_it_was() {
    for seed in 0..sim::seeds(SEEDS) {
        let (mut cluster, leader) = started(seed, |options| options);
        let (behind, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let first = done(&mut cluster, leader, vec![put("k", 10)]);
        let told = Told::default();
        cluster.run(vec![Box::pin(watch(cluster.handle(other), "k", first, told.clone()))]);
        let id = cluster.id(behind);
        cluster.network().isolate(id, cluster.ids().to_vec());
        let last = done(&mut cluster, leader, vec![put("k", 10), put("k", 10)]);
        cluster.run_until(SOON, |_| revisions(&told) == [first, first + 1, last]);
        // The member that it goes to has seen neither of the last two.
        let again = Told::default();
        cluster.run(vec![Box::pin(watch(cluster.handle(behind), "k", last + 1, again.clone()))]);
        cluster.network().mend();
        cluster.run_until(SOON, |cluster| revision(cluster, behind) == last);
        cluster.run_for(SECOND, Vec::new());
        assert!(revisions(&again).is_empty(), "{}: {:?}", cluster.context(), revisions(&again));
        let next = done(&mut cluster, leader, vec![put("k", 10)]);
        cluster.run_until(SOON, |_| revisions(&again) == [next]);
    }
}
