//! Three members of the production code and the network between them: leaders are elected, any member
//! takes requests, and nothing acknowledged is lost while members die and links are cut.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use keepd_env::sim::CrashMode;
use keepd_machine::command::Put;
use keepd_machine::{ApplyError, Command, CommandResponse, MembershipChange};
use keepd_mvcc::View;
use keepd_node::{Error, Handle, Renewal};
use keepd_types::{KeyRange, KeyValue, LeaseId, MemberId, StoredValue};
use sim::{Client, Faults, SimCluster};

/// Seeds of a run of the tests.
const SEEDS: u64 = 30;
const SECOND: Duration = Duration::from_secs(1);
/// Time in which a cluster with a quorum elects a leader.
const ELECTION: Duration = Duration::from_secs(20);

fn put(key: &str, value: &str) -> Command {
    let value = StoredValue::plain(Bytes::copy_from_slice(value.as_bytes()));
    Command::Put(Put { key: Bytes::copy_from_slice(key.as_bytes()), value, ..Put::default() })
}

fn get(view: &View, key: &str) -> Option<u64> {
    let range = KeyRange::point(Bytes::copy_from_slice(key.as_bytes()));
    let refs = view.range(&range, 0, 1).expect("the current revision is readable");
    let (_, revision) = refs.keys.first()?;
    let record = view.load(*revision).expect("a live record is readable");
    let value = KeyValue::decode(&record.encoded).expect("a stored record decodes").value;
    std::str::from_utf8(&value).ok()?.parse().ok()
}

fn started(seed: u64) -> SimCluster {
    let mut cluster = SimCluster::new(seed, 3);
    cluster.start_all();
    cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
    cluster
}

/// The values of a key that one client writes, one after the other, and what it knows of them.
#[derive(Debug, Default)]
struct Register {
    acknowledged: u64,
    last: u64,
}

type Registers = RefCell<BTreeMap<String, Register>>;

/// Writes ascending values, and reads in between: a read sees the last acknowledged value or a later
/// one.
async fn write(handle: Handle, key: String, registers: &Registers, count: u64) {
    for _ in 0..count {
        let value = {
            let mut registers = registers.borrow_mut();
            let register = registers.entry(key.clone()).or_default();
            register.last += 1;
            register.last
        };
        match handle.propose(put(&key, &value.to_string())).await {
            Ok(_) => {
                registers.borrow_mut().get_mut(&key).expect("it is there").acknowledged = value;
            }
            Err(Error::Stopped) => return,
            Err(_) => {}
        }
        let before = registers.borrow()[&key].acknowledged;
        if let Ok(view) = handle.linearizable_view().await {
            let found = get(&view, &key).unwrap_or(0);
            assert!(found >= before, "{key}: read {found} after {before} was acknowledged");
        }
    }
}

fn clients<'a>(cluster: &SimCluster, registers: &'a Registers, count: u64) -> Vec<Client<'a>> {
    let running = (0..3).filter(|member| cluster.is_running(*member));
    let clients = running.map(|member| -> Client<'a> {
        Box::pin(write(cluster.handle(member), format!("k{member}"), registers, count))
    });
    clients.collect()
}

/// All members come to the same state, which has everything that was acknowledged.
fn check_agreement(cluster: &mut SimCluster, registers: &Registers) {
    cluster.network().heal();
    cluster.start_all();
    cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
    let reads: Vec<Client<'_>> = (0..3)
        .map(|member| -> Client<'_> {
            let handle = cluster.handle(member);
            Box::pin(async move { while handle.linearizable_view().await.is_err() {} })
        })
        .collect();
    cluster.run(reads);
    cluster.run_until(ELECTION, |cluster| {
        let mut applied = (0..3).map(|member| cluster.handle(member).view().applied());
        let first = applied.next();
        applied.all(|other| Some(other) == first)
    });
    let context = cluster.context();
    let views: Vec<_> = (0..3).map(|member| cluster.handle(member).view()).collect();
    for view in &views {
        assert_eq!(view.digest(), views[0].digest(), "{context}: members differ");
        assert_eq!(
            view.hash_kv(0).expect("it is readable"),
            views[0].hash_kv(0).expect("it is readable"),
            "{context}"
        );
        for (key, register) in &*registers.borrow() {
            let found = get(view, key).unwrap_or(0);
            let is_known = (register.acknowledged..=register.last).contains(&found);
            assert!(is_known, "{context}: {key} is {found}, and {register:?}");
        }
    }
}

#[test]
fn any_member_takes_requests_and_all_come_to_the_same_state() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed);
        let registers = Registers::default();
        let writers = clients(&cluster, &registers, 20);
        cluster.run(writers);
        assert!(registers.borrow().values().all(|it| it.acknowledged == 20), "{registers:?}");
        check_agreement(&mut cluster, &registers);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut cluster = started(11);
        let registers = Registers::default();
        let writers = clients(&cluster, &registers, 10);
        cluster.run(writers);
        (cluster.trace(), cluster.now(), cluster.network().counts())
    };
    assert_eq!(run(), run());
}

#[test]
fn nothing_acknowledged_is_lost_while_members_die_and_links_are_cut() {
    for seed in 0..sim::seeds(SEEDS) {
        let mut cluster = started(seed);
        let registers = Registers::default();
        for _ in 0..6 {
            let victim = usize::try_from(cluster.draw(3)).expect("below three");
            let writers = clients(&cluster, &registers, 1000);
            let before = Duration::from_millis(cluster.draw(1500));
            cluster.run_for(before, writers);
            match cluster.draw(4) {
                0 => cluster.kill(victim),
                1 => cluster.cut_power(victim, CrashMode::LoseUnsynced),
                2 => {
                    let (id, all) = (cluster.id(victim), cluster.ids().to_vec());
                    cluster.network().isolate(id, all);
                }
                _ => {
                    let (from, to) = (cluster.id(victim), cluster.id((victim + 1) % 3));
                    cluster.network().cut(from, to);
                    cluster.network().set_faults(Faults {
                        lost: 20_000,
                        doubled: 20_000,
                        jitter: Duration::from_millis(30),
                    });
                }
            }
            let writers = clients(&cluster, &registers, 1000);
            let during = Duration::from_millis(cluster.draw(6000));
            cluster.run_for(during, writers);
            cluster.network().heal();
            cluster.start_all();
        }
        check_agreement(&mut cluster, &registers);
    }
}

#[test]
fn leadership_is_handed_over_and_leases_are_renewed_through_followers() {
    let mut cluster = started(3);
    let leader = cluster.leader().expect("there is one");
    let follower = (leader + 1) % 3;
    let (heir, lease) = (cluster.id(follower), LeaseId(77));
    let (at_leader, at_follower) = (cluster.handle(leader), cluster.handle(follower));
    let grant = Command::LeaseGrant { id: lease, ttl: 10 };
    cluster.run(vec![Box::pin(async move {
        at_follower.propose(grant).await.expect("it is granted");
        let renewal = at_follower.renew_lease(lease).await;
        assert_eq!(renewal, Ok(Renewal::Renewed { ttl: 10 }));
        let found = at_follower.lease_time_to_live(lease, true).await.expect("the leader answers");
        assert_eq!(found.map(|found| found.granted_ttl), Some(10));
        assert_eq!(at_follower.move_leader(heir).await, Err(Error::NotLeader));
        assert_eq!(at_leader.move_leader(MemberId(4)).await, Err(Error::NotVoter));
    })]);
    let at_leader = cluster.handle(leader);
    cluster.run_for(
        SECOND,
        vec![Box::pin(async move {
            // It is polled without timers: the transfer is over when the others agree.
            let _moved = at_leader.move_leader(heir).await;
        })],
    );
    cluster.run_until(ELECTION, |cluster| cluster.leader() == Some(follower));
}

/// A change that any member may ask for is judged by all at the same place of the log.
#[test]
fn members_are_changed_through_a_follower_and_known_to_all() {
    let mut cluster = started(5);
    let leader = cluster.leader().expect("there is one");
    let follower = cluster.handle((leader + 1) % 3);
    let (learner, peer_urls) = (MemberId(77), vec!["http://learner:2380".to_owned()]);
    let change = follower.clone();
    cluster.run(vec![Box::pin(async move {
        let add =
            MembershipChange::Add { id: learner, peer_urls, is_learner: true, max_learners: 1 };
        let added = change.change_membership(add.clone()).await.expect("it is committed");
        let Ok(CommandResponse::Members(members)) = added.outcome.result else {
            panic!("the change is taken: {added:?}");
        };
        let learners: Vec<u64> =
            members.iter().filter(|member| member.is_learner).map(|member| member.id).collect();
        assert_eq!((members.len(), learners), (4, vec![77]));
        let again = change.change_membership(add).await.expect("it is judged");
        assert_eq!(again.outcome.result, Err(ApplyError::MemberExists));
    })]);
    cluster.run_until(ELECTION, |cluster| {
        (0..3).all(|member| cluster.handle(member).view().applied() == follower.view().applied())
    });
    let digests: Vec<_> = (0..3).map(|member| cluster.handle(member).view().digest()).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]));

    let (asks, remove) = (follower.clone(), MembershipChange::Remove { id: learner });
    cluster.run(vec![Box::pin(async move {
        let told = asks.replicated().await.expect("the leader tells");
        let of_learner = told.iter().find(|(member, _)| *member == learner);
        assert_eq!((told.len(), of_learner), (4, Some(&(learner, 0))), "nobody is there");
        let removed = asks.change_membership(remove.clone()).await.expect("it is committed");
        assert!(removed.outcome.result.is_ok());
        let again = asks.change_membership(remove).await.expect("it is judged");
        assert_eq!(again.outcome.result, Err(ApplyError::MemberRemoved));
        assert_eq!(asks.replicated().await.expect("the leader tells").len(), 3);
    })]);
}

#[test]
fn a_member_knows_for_how_long_the_others_have_been_connected() {
    let mut cluster = started(6);
    cluster.run_for(6 * SECOND, Vec::new());
    let (own, cut, other) = (cluster.handle(0), cluster.id(1), cluster.id(2));
    let is_long = |time: Option<Duration>| time.is_some_and(|time| time >= 5 * SECOND);
    assert!(is_long(own.connected_for(cut)) && is_long(own.connected_for(other)));
    assert_eq!(own.connected_for(MemberId(4)), None, "it is no member");
    cluster.network().isolate(cut, cluster.ids().to_vec());
    cluster.run_for(3 * SECOND, Vec::new());
    assert!(own.connected_for(cut).is_none() && is_long(own.connected_for(other)));
    cluster.network().heal();
    cluster.run_for(3 * SECOND, Vec::new());
    assert!(own.connected_for(cut).is_some_and(|time| time < 5 * SECOND), "it counts anew");
}
