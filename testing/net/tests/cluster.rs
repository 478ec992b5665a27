//! Three members with mutual TLS on a simulated network whose faults a seed draws, and clients whose
//! history is checked: it elects, commits, loses nothing, and heals in bounded time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::{Summary, Traffic};
use net::{Cluster, Count, Weather};
use parking_lot::Mutex;

/// The time of the faults.
const FAULTS: Duration = Duration::from_secs(15);
/// The interval at which the clients look whether the faults have ended.
const LOOK: Duration = Duration::from_millis(20);

struct Outcome {
    summary: Summary,
    count: Count,
    simulated: Duration,
    /// States that members took from one another.
    states: u64,
}

fn run(seed: u64) -> Outcome {
    // States are sent: the log is let go soon, and little of it is held for members that lag.
    let mut cluster = Cluster::with(seed, 3, |options| {
        options.snapshot_count = 50;
        options.catch_up_entries = 10;
        options.log_held_bytes = 4096;
        options.flush_interval = Duration::from_millis(50);
    });
    cluster.run_until("a leader", |cluster| cluster.leader().is_some());
    let traffic: Arc<Mutex<Option<Traffic>>> = Arc::default();
    let summary: Arc<Mutex<Option<Summary>>> = Arc::default();
    let is_calm = Arc::new(AtomicBool::new(false));
    let way = cluster.way();
    let task = {
        let (traffic, summary, is_calm) =
            (Arc::clone(&traffic), Arc::clone(&summary), Arc::clone(&is_calm));
        async move {
            *traffic.lock() = Some(Traffic::among(seed, way.clients()));
            while !is_calm.load(Ordering::Relaxed) {
                tokio::time::sleep(LOOK).await;
            }
            let traffic = traffic.lock().take().expect("it has begun");
            let concluded = traffic.conclude().await;
            *summary.lock() = Some(concluded);
        }
    };
    cluster.begin_client(task);
    cluster.step();
    let tells = |member, runs| {
        if let Some(traffic) = traffic.lock().as_ref() {
            if runs { traffic.starts(member) } else { traffic.ends(member) }
        }
    };
    let mut weather = Weather::new(seed);
    let end = cluster.sim.elapsed() + FAULTS;
    while cluster.sim.elapsed() < end {
        weather.change(&mut cluster, tells);
        cluster.step();
    }
    weather.clear(&mut cluster, tells);
    is_calm.store(true, Ordering::Relaxed);
    cluster.run_until("all members serve, and everything fits", |_| summary.lock().is_some());
    let summary = summary.lock().expect("it was waited for");
    let taken = |member| {
        cluster
            .network(member)
            .map_or(0, |network| network.peers().iter().map(|peer| peer.states[2]).sum::<u64>())
    };
    let states = (0..cluster.size()).map(taken).sum();
    Outcome { summary, count: weather.count, simulated: cluster.sim.elapsed(), states }
}

#[test]
fn nothing_acknowledged_is_lost_and_the_cluster_heals() {
    let mut summary = Summary::default();
    let mut count = Count::default();
    let (mut simulated, mut states, mut seeds) = (Duration::ZERO, 0, 0);
    for seed in net::seeds(16) {
        println!("seed {seed}");
        let outcome = run(seed);
        assert!(outcome.summary.answered > 100, "seed {seed}: {:?}", outcome.summary);
        summary = summary + outcome.summary;
        count = count + outcome.count;
        simulated += outcome.simulated;
        states += outcome.states;
        seeds += 1;
    }
    println!("{seeds} seeds, {simulated:?} simulated, {states} states, {summary:?}, {count:?}");
    // The runs of a seed are not equal to the byte, so that only many of them must have it all.
    if seeds >= 8 {
        assert!(states > 0, "no state was sent");
        let kinds = [count.cuts, count.holds, count.delays, count.resets, count.deaths];
        assert!(kinds.iter().all(|kind| *kind > 0), "{count:?}");
    }
}
