//! The first election of a cluster comes sooner once members have reached one another, as in etcd.

use std::time::Duration;

use keepd_node::Options;
use sim::SimCluster;

/// Time in which a cluster with a quorum elects a leader.
const ELECTION: Duration = Duration::from_secs(20);
const SEEDS: u64 = 20;

/// The time from the start to the first leader.
fn first_leader(seed: u64, hastens: bool) -> Duration {
    let mut cluster = if hastens {
        SimCluster::new(seed, 3)
    } else {
        SimCluster::with(seed, 3, |options| Options { hastens_first_election: false, ..options })
    };
    cluster.start_all();
    let began = cluster.now();
    cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
    cluster.now() - began
}

#[test]
fn a_cluster_that_starts_elects_sooner_than_an_election_timeout() {
    let (mut hastened, mut waited) = (Duration::ZERO, Duration::ZERO);
    for seed in 0..SEEDS {
        let (soon, late) = (first_leader(seed, true), first_leader(seed, false));
        // Ten ticks, the first at once, of clocks that differ.
        assert!(late >= Duration::from_millis(850), "seed {seed}: {late:?} without hastening");
        (hastened, waited) = (hastened + soon, waited + late);
    }
    let seeds = u32::try_from(SEEDS).expect("few seeds");
    let (hastened, waited) = (hastened / seeds, waited / seeds);
    // Eight of ten ticks are passed over.
    assert!(hastened + Duration::from_millis(500) < waited, "{hastened:?}, {waited:?}");
}
