//! The rolling upgrade of three members and a learner under load, with an older binary and the tested one:
//! in either order, stopped half-way and taken back. Nothing of a newer feature level is written before all
//! members read it (rule 9.22); whatever clients were told fits together.
//!
//! The older one is the build with failpoints, which stands for a binary of an older level and ends at what
//! that one does not know. By hand a real one does: `KEEPD_E2E_OLD_BIN=/path/keepd`.

use std::time::Duration;

use e2e::{Build, Client, Cluster, Traffic, granted, url};
use histories::MARKER;
use keepd_machine::levels;
use tokio::time::{Instant, sleep};

use crate::configuration::{FIRST, only_sealing};

const VOTERS: usize = 3;
/// The member that learns only.
const LEARNER: usize = 3;
/// Time limit for what follows by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time in which the level rises once all members read it: the leader looks every second.
const RISE: Duration = Duration::from_secs(20);
/// Several looks of the leader.
const HELD: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(50);

/// A cluster that an older binary has formed, and its clients.
struct Upgrade {
    cluster: Cluster,
    older: Build,
    /// The level that the older binary writes.
    older_level: u64,
    learner_id: u64,
    traffic: Traffic,
}

impl Upgrade {
    /// Forms it; none without an older binary.
    #[expect(clippy::print_stderr, reason = "whoever runs the tests has to know")]
    async fn begin(name: &str, level: u32) -> Option<Self> {
        let Some(older) = Build::older(level) else {
            eprintln!("SKIPPED: there is no build of keepd with failpoints");
            return None;
        };
        let cluster = Cluster::new(name, VOTERS, &only_sealing("key1", FIRST));
        let mut cluster = cluster.args(&["--heartbeat-interval=50", "--election-timeout=500"]);
        for number in 0..VOTERS {
            cluster.replace_binary(number, &older);
        }
        cluster.start_all();
        let first = cluster.clients().await.remove(0);
        let url = url();
        let learner_id = granted("add", async || first.add_member(&url, true).await).await;
        assert_eq!(cluster.join(&url, &[0, 1, 2]), LEARNER);
        cluster.replace_binary(LEARNER, &older);
        cluster.start(LEARNER);
        let endpoints: Vec<_> = (0..VOTERS).map(|number| cluster.endpoint(number)).collect();
        let traffic = Traffic::start(1, &endpoints);
        let older_level = u64::from(level);
        let mut upgrade = Self { cluster, older, older_level, learner_id, traffic };
        upgrade.learns().await;
        sleep(HELD).await;
        // A real binary says by itself which level it is of.
        upgrade.older_level = upgrade.cluster.member(0).feature_level();
        assert!(upgrade.older_level < u64::from(levels::NEWEST), "that binary is not older");
        Some(upgrade)
    }

    /// Waits until the learner has what was applied elsewhere a moment ago.
    async fn learns(&mut self) {
        let applied = self.voter().await.status().await.unwrap().raft_applied_index;
        let learner = self.cluster.answering(LEARNER).await;
        let began = Instant::now();
        while learner.status().await.unwrap().raft_applied_index < applied {
            assert!(began.elapsed() < PATIENCE, "the learner does not catch up");
            sleep(PAUSE).await;
        }
    }

    async fn voter(&mut self) -> Client {
        self.cluster.client(0).await
    }

    /// Puts another binary in the place of a member's, with an orderly stop.
    async fn replace(&mut self, number: usize, build: &Build) {
        if number == LEARNER {
            self.cluster.stop(number);
            self.cluster.replace_binary(number, build);
            self.cluster.start(number);
            return self.learns().await;
        }
        self.traffic.ends(number);
        self.cluster.stop(number);
        self.cluster.replace_binary(number, build);
        self.cluster.start(number);
        self.cluster.client(number).await;
        self.traffic.starts(number);
    }

    /// The voter that leads.
    async fn leader(&mut self) -> usize {
        let began = Instant::now();
        loop {
            for number in 0..VOTERS {
                let status = self.cluster.client(number).await.status().await.unwrap();
                if status.header.is_some_and(|header| header.member_id == status.leader) {
                    return number;
                }
            }
            assert!(began.elapsed() < PATIENCE, "there is no leader");
            sleep(PAUSE).await;
        }
    }

    /// The voters, the leader at the end.
    async fn leader_last(&mut self) -> [usize; VOTERS] {
        let leader = self.leader().await;
        [(leader + 1) % VOTERS, (leader + 2) % VOTERS, leader]
    }

    /// All goes on for a while, on all members, and the cluster's level stays the older binary's.
    async fn is_held(&mut self) {
        let before = self.traffic.answered();
        sleep(HELD).await;
        assert!(self.traffic.answered() > before, "no request is answered");
        self.learns().await;
        for number in 0..=LEARNER {
            self.cluster.answering(number).await;
            let member = self.cluster.member(number);
            assert_eq!(member.feature_level(), self.older_level, "{}", member.tail());
            let shown = member.metric("keepd_cluster_feature_level");
            assert!(shown.is_none_or(|level| level == self.older_level), "{shown:?}");
        }
    }

    /// The level becomes the newest on all members.
    async fn rises(&self) {
        let newest = u64::from(levels::NEWEST);
        let began = Instant::now();
        for number in 0..=LEARNER {
            let member = self.cluster.member(number);
            while member.metric("keepd_cluster_feature_level") != Some(newest) {
                assert!(began.elapsed() < RISE, "the level does not rise\n{}", member.tail());
                sleep(PAUSE).await;
            }
            assert_eq!(member.metric("keepd_member_feature_level"), Some(newest));
            assert_eq!(member.feature_level(), newest);
        }
    }

    /// Ends the clients, judges what they saw, and compares all members.
    async fn conclude(self) {
        let Self { mut cluster, learner_id, traffic, .. } = self;
        let summary = traffic.conclude().await;
        assert!(summary.answered > summary.operations / 2, "that is no load: {summary:?}");
        let first = cluster.client(0).await;
        granted("promote", async || first.promote_member(learner_id).await).await;
        let revision = first.revision().await.unwrap();
        let hash = first.hash(revision).await.unwrap();
        for number in 0..=LEARNER {
            let client = cluster.client(number).await;
            assert!(client.revision().await.unwrap() >= revision);
            assert_eq!(client.hash(revision).await.unwrap(), hash, "m{number}");
        }
        for number in 0..=LEARNER {
            cluster.stop(number);
            let log = cluster.member(number).log();
            for defect in
                ["panicked", "this is a defect", "data inconsistency", "can no longer keep"]
            {
                assert!(!log.contains(defect), "m{number} says {defect:?}");
            }
            let dir = cluster.member(number).data_dir();
            let plain = testkit::files::files_with(&dir, &[MARKER.as_bytes().to_vec()]);
            assert_eq!(plain, <[std::path::PathBuf; 0]>::default(), "nothing is plain on the disk");
        }
    }
}

/// The followers first, then the leader; the learner stays behind and holds the level back. When it follows
/// the level rises, and there is no way back.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_with_the_leader_last_ends_when_the_learner_follows() {
    let Some(mut upgrade) = Upgrade::begin("e2e-upgrade-last", levels::FIRST).await else { return };
    for number in upgrade.leader_last().await {
        upgrade.replace(number, &Build::tested()).await;
        upgrade.is_held().await;
    }
    upgrade.replace(LEARNER, &Build::tested()).await;
    upgrade.rises().await;

    let (newest, number) = (levels::NEWEST, upgrade.leader().await);
    let older = upgrade.older.clone();
    upgrade.traffic.ends(number);
    upgrade.cluster.stop(number);
    upgrade.cluster.replace_binary(number, &older);
    upgrade.cluster.start(number);
    assert_eq!(upgrade.cluster.wait(number).code(), Some(1));
    let member = upgrade.cluster.member(number);
    member
        .says(&format!("the cluster writes records of feature level {newest}, and this version"))
        .await;
    member.says("start a ").await;
    // Nothing was done to its directory.
    upgrade.cluster.replace_binary(number, &Build::tested());
    upgrade.cluster.start(number);
    upgrade.cluster.client(number).await;
    upgrade.traffic.starts(number);
    upgrade.rises().await;
    upgrade.conclude().await;
}

/// The leader first; stopped half-way, the cluster goes on so for a while, goes back to the older binary as
/// a whole, and later forward to its end.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_with_the_leader_first_is_taken_back_half_way_and_made_again() {
    let level = levels::NEWEST - 1;
    let Some(mut upgrade) = Upgrade::begin("e2e-upgrade-back", level).await else { return };
    let older = upgrade.older.clone();
    let [second, _, first] = upgrade.leader_last().await;
    for number in [first, LEARNER, second] {
        upgrade.replace(number, &Build::tested()).await;
        upgrade.is_held().await;
    }
    for number in [second, first, LEARNER] {
        upgrade.replace(number, &older).await;
        upgrade.is_held().await;
    }
    upgrade.replace(LEARNER, &Build::tested()).await;
    let mut order = upgrade.leader_last().await;
    order.reverse();
    for number in order {
        upgrade.is_held().await;
        upgrade.replace(number, &Build::tested()).await;
    }
    upgrade.rises().await;
    upgrade.conclude().await;
}
