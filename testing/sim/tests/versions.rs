//! The cluster version and the feature level move when all members have said what they read, learners
//! included, and never because a leader does not know somebody.

use std::time::Duration;

use keepd_machine::command::Command;
use keepd_machine::{CommandResponse, MembershipChange, levels};
use keepd_node::{Error, Hello, Receiver};
use keepd_types::MemberId;
use sim::SimCluster;

const SECOND: Duration = Duration::from_secs(1);
/// Time in which a cluster with a quorum elects a leader.
const ELECTION: Duration = Duration::from_secs(20);

fn level(cluster: &SimCluster, member: usize) -> u32 {
    cluster.handle(member).cluster_facts().feature_level
}

fn is_at_first_level(cluster: &SimCluster) -> bool {
    (0..3).filter(|member| cluster.is_running(*member)).all(|member| {
        level(cluster, member) == levels::FIRST
            && !cluster.handle(member).may_write(levels::DOWNGRADE)
    })
}

#[test]
fn nothing_of_a_new_level_is_written_before_all_members_have_announced_it() {
    for seed in 0..10 {
        let mut cluster = SimCluster::new(seed, 3);
        let old = usize::try_from(cluster.draw(3)).expect("below three");
        cluster.set_feature_level(old, levels::FIRST);
        cluster.start_all();
        cluster.run_for(30 * SECOND, Vec::new());
        assert!(cluster.leader().is_some() && is_at_first_level(&cluster), "{}", cluster.context());
        // A member that starts asks the others; the old one does not know the question, and the network
        // ends the test if it is sent to it.
        let newer = (old + 1) % 3;
        cluster.kill(newer);
        cluster.start(newer);
        cluster.run_for(30 * SECOND, Vec::new());
        assert!(cluster.leader().is_some() && is_at_first_level(&cluster), "{}", cluster.context());
        // Whoever does not ask whether it may write is held back.
        let handle = cluster.handle(newer);
        cluster.run(vec![Box::pin(async move {
            let refused = handle.propose(Command::SetDowngrade { target: None }).await;
            let (needed, level) = (levels::DOWNGRADE, levels::FIRST);
            assert_eq!(refused.err(), Some(Error::FeatureLevel { needed, level }));
        })]);
        // Its binary is replaced; while it is away nobody knows what comes back.
        cluster.kill(old);
        cluster.run_for(30 * SECOND, Vec::new());
        assert!(cluster.leader().is_some() && is_at_first_level(&cluster), "{}", cluster.context());
        cluster.set_feature_level(old, levels::NEWEST);
        cluster.start(old);
        cluster.run_until(ELECTION, |cluster| {
            (0..3).all(|member| level(cluster, member) == levels::NEWEST)
        });
        // From here on the older binary is turned away, by each of them.
        let hello = Hello { feature_level: levels::FIRST, ..cluster.handle(old).hello() };
        for other in (0..3).filter(|other| *other != old) {
            let refusal = cluster.handle(other).meet(&hello).expect_err("it is turned away");
            assert!(!refusal.is_removed && refusal.reason.contains("feature level"), "{refusal}");
        }
    }
}

/// A learner reads the log too.
#[test]
fn a_level_is_not_raised_before_a_learner_has_announced_it() {
    let mut cluster = SimCluster::new(1, 3);
    cluster.set_feature_level(0, levels::FIRST);
    cluster.start_all();
    cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
    let learner = MemberId(77);
    let change = |cluster: &mut SimCluster, change: MembershipChange| {
        let leader = cluster.leader().expect("there is one");
        let handle = cluster.handle(leader);
        cluster.run(vec![Box::pin(async move {
            let changed = handle.change_membership(change).await.expect("it is committed");
            assert!(matches!(changed.outcome.result, Ok(CommandResponse::Members(_))));
        })]);
    };
    let peer_urls = vec!["http://learner:2380".to_owned()];
    let add = MembershipChange::Add { id: learner, peer_urls, is_learner: true, max_learners: 1 };
    change(&mut cluster, add);
    cluster.kill(0);
    cluster.set_feature_level(0, levels::NEWEST);
    cluster.start(0);
    cluster.run_for(30 * SECOND, Vec::new());
    assert!(cluster.leader().is_some() && is_at_first_level(&cluster));
    change(&mut cluster, MembershipChange::Remove { id: learner });
    cluster.run_until(ELECTION, |cluster| level(cluster, 0) == levels::NEWEST);
}

#[test]
fn a_downgrade_lowers_the_cluster_version_on_all_members_and_a_new_leader_goes_on() {
    let mut cluster = SimCluster::new(2, 3);
    cluster.start_all();
    cluster.run_until(ELECTION, |cluster| {
        let may_write = |member| cluster.handle(member).may_write(levels::DOWNGRADE);
        cluster.leader().is_some() && (0..3).all(may_write)
    });
    let set = |cluster: &mut SimCluster, target: Option<&str>| {
        let leader = cluster.leader().expect("there is one");
        let follower = (leader + 1) % 3;
        let asked = if cluster.is_running(follower) { follower } else { leader };
        let handle = cluster.handle(asked);
        let command = Command::SetDowngrade { target: target.map(str::to_owned) };
        cluster.run(vec![Box::pin(async move {
            handle.propose(command).await.expect("it is committed");
        })]);
    };
    let is_at = |cluster: &SimCluster, version: &str| {
        (0..3).filter(|member| cluster.is_running(*member)).all(|member| {
            cluster.handle(member).cluster_facts().version.as_deref() == Some(version)
        })
    };
    assert!(is_at(&cluster, "3.7.0"));
    set(&mut cluster, Some("3.6.0"));
    cluster.run_until(ELECTION, |cluster| is_at(cluster, "3.6.0"));
    let leader = cluster.leader().expect("there is one");
    cluster.kill(leader);
    cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
    set(&mut cluster, None);
    cluster.run_for(10 * SECOND, Vec::new());
    assert!(is_at(&cluster, "3.6.0"), "one member is away: nobody knows its version");
    cluster.start(leader);
    cluster.run_until(ELECTION, |cluster| is_at(cluster, "3.7.0"));
}
