//! A member of a cluster whose disk is full, and gets space again.

use std::time::Duration;

use sim::SimCluster;

/// Time in which a cluster with a quorum elects a leader, and an alarm is raised or cleared.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_follower_clears_its_own_alarm_when_its_disk_has_space_again() {
    let mut cluster = SimCluster::new(1, 3);
    cluster.start_all();
    cluster.run_until(PATIENCE, |cluster| cluster.leader().is_some());
    let leader = cluster.leader().expect("there is one");
    let disk = cluster.disk((leader + 1) % 3).clone();
    disk.set_capacity_until(disk.used_bytes() + 1000, 100);
    cluster.run_until(PATIENCE, |cluster| {
        (0..3).all(|member| cluster.handle(member).alarms().len() == 1)
    });
    disk.set_capacity(None);
    cluster.run_until(PATIENCE, |cluster| {
        (0..3).all(|member| cluster.handle(member).alarms().is_empty())
    });
    assert_eq!(cluster.leader(), Some(leader), "the follower has not led");
}
