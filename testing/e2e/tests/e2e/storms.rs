//! Three members behind a network with faults, under everything that befalls processes: whatever clients
//! are told fits together, and in the end every member serves and all are equal.
//!
//! `KEEPD_E2E_STORM` sets another time in seconds, `KEEPD_E2E_SEED` another schedule. Each minute has a
//! cluster and a seed of its own.

use std::time::Duration;

use e2e::{Cluster, Counts, Storm, Summary, Traffic};
use histories::MARKER;

use crate::configuration::{FIRST, only_sealing};

const USUAL_SECONDS: u64 = 60;
/// The longest that one cluster is used.
const ROUND_SECONDS: u64 = 60;
/// Room for the reserve of a member, its log and its store.
const SMALL_DISK_MIB: u32 = 256;

fn setting(name: &str, usual: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(usual, |value| value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_under_faults_of_network_processes_and_disks_fit_together() {
    let seconds = setting("KEEPD_E2E_STORM", USUAL_SECONDS);
    let first = setting("KEEPD_E2E_SEED", 1);
    let (mut all, mut faults) = (Summary::default(), Counts::default());
    for round in 0..seconds.div_ceil(ROUND_SECONDS) {
        let seed = first + round;
        let time = Duration::from_secs(ROUND_SECONDS.min(seconds - round * ROUND_SECONDS));
        eprintln!("again by: KEEPD_E2E_SEED={seed} KEEPD_E2E_STORM={}", time.as_secs());
        let (counts, summary) = storm(seed, time).await;
        eprintln!("{summary:?} under {counts}");
        all = all + summary;
        faults.add(counts);
    }
    eprintln!("{seconds} s: {all:?} under {faults}");
}

async fn storm(seed: u64, time: Duration) -> (Counts, Summary) {
    let encryption = only_sealing("key1", FIRST);
    let (cluster, network) = Cluster::on_network("e2e-storm", 3, &encryption);
    let mut cluster = cluster.args(&[
        "--heartbeat-interval=50",
        "--election-timeout=500",
        // Members that were away get a state.
        "--snapshot-count=300",
        "--watch-progress-notify-interval=1s",
    ]);
    cluster.on_small_disk(2, SMALL_DISK_MIB);
    cluster.start_all();
    cluster.clients().await;
    let endpoints: Vec<_> = (0..cluster.size()).map(|it| cluster.endpoint(it)).collect();
    let traffic = Traffic::start(seed, &endpoints);
    let counts = Storm::new(seed, &mut cluster, network, &traffic).rage(time).await;
    let summary = traffic.conclude().await;
    assert!(summary.answered > summary.operations / 2, "that is no load: {summary:?}");
    for number in 0..cluster.size() {
        cluster.stop(number);
        let member = cluster.member(number);
        assert!(!member.log().contains("panicked"), "{}", member.tail());
        let plain = testkit::files::files_with(&member.data_dir(), &[MARKER.as_bytes().to_vec()]);
        assert_eq!(plain, <[std::path::PathBuf; 0]>::default(), "nothing is plain on the disk");
    }
    (counts, summary)
}
