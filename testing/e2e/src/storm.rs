//! Faults of a cluster's network, processes and disks, drawn from a seed, while clients go on.
//!
//! Faults come in rounds: one or two begin, last for a moment, and end together; then everything is whole
//! for a moment. In between members are restarted in turn, get new certificates, or are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use keepd_env::{Random, SeededRandom};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::granted::granted;
use crate::network::{Link, Network};
use crate::traffic::Traffic;

/// The time that faults last, and that nothing is wrong in between.
const FAULT_MS: (u64, u64) = (300, 2500);
const CALM_MS: (u64, u64) = (200, 1200);
/// The longest delay of a slow link, and the rates of a narrow one in bytes per second.
const DELAY_MAX_MS: u64 = 400;
const RATES: (u64, u64) = (20_000, 400_000);
/// Time in which a member says whether it leads.
const GLANCE: Duration = Duration::from_millis(500);
/// Time limit for a member that catches up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Faults, each of which lasts for a moment.
const FAULTS: [&str; 11] = [
    "kill of the leader",
    "kill of one member",
    "kill of two members",
    "kill of all members",
    "stopped process",
    "leader alone",
    "member alone",
    "links cut in one direction",
    "slow links",
    "connections reset",
    "full disk",
];
/// Chores of operators in between.
const CHORES: [&str; 3] = ["rolling restart", "new certificates", "member replaced"];

/// The faults of a run.
#[derive(Debug)]
pub struct Storm<'a> {
    cluster: &'a mut Cluster,
    network: Network,
    traffic: &'a Traffic,
    random: SeededRandom,
    began: Instant,
    counts: BTreeMap<&'static str, u32>,
    dead: BTreeSet<usize>,
    stopped: BTreeSet<usize>,
    /// Members that were replaced have another flag, once.
    replaced: BTreeSet<usize>,
}

impl<'a> Storm<'a> {
    /// The faults of a seed.
    #[must_use]
    pub fn new(
        seed: u64,
        cluster: &'a mut Cluster,
        network: Network,
        traffic: &'a Traffic,
    ) -> Self {
        Self {
            cluster,
            network,
            traffic,
            random: SeededRandom::new(seed),
            began: Instant::now(),
            counts: BTreeMap::new(),
            dead: BTreeSet::new(),
            stopped: BTreeSet::new(),
            replaced: BTreeSet::new(),
        }
    }

    /// Brings faults for so long, and ends them all; how many there were of each kind.
    ///
    /// # Panics
    /// If a member does not come back.
    pub async fn rage(mut self, time: Duration) -> Counts {
        for round in 0.. {
            if self.began.elapsed() >= time {
                break;
            }
            if round % 5 == 4 {
                // In turn, so that a short run has each of them.
                self.do_chore(CHORES[(round / 5) % CHORES.len()]).await;
            } else {
                for _ in 0..=self.draw(2) {
                    let fault = FAULTS[self.draw_index(FAULTS.len())];
                    self.begin(fault).await;
                }
                self.pass(FAULT_MS).await;
                self.end_all().await;
            }
            self.pass(CALM_MS).await;
        }
        Counts(self.counts)
    }

    fn draw(&self, bound: u64) -> u64 {
        (self.random.next_u64() >> 8) % bound.max(1)
    }

    fn draw_index(&self, len: usize) -> usize {
        usize::try_from(self.draw(len as u64)).expect("an index of something in memory")
    }

    async fn pass(&self, (least, most): (u64, u64)) {
        sleep(Duration::from_millis(least + self.draw(most - least))).await;
    }

    /// Counts it, and says it to whoever looks for the cause of a failure.
    #[expect(clippy::print_stderr, reason = "it is shown when the test fails")]
    fn count(&mut self, what: &'static str) {
        eprintln!("{:6.1} s: {what}", self.began.elapsed().as_secs_f64());
        *self.counts.entry(what).or_default() += 1;
    }

    fn size(&self) -> usize {
        self.cluster.size()
    }

    /// The other members.
    fn others(&self, member: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.size()).filter(move |other| *other != member)
    }

    /// A member that says that it leads, or any.
    async fn leader(&self) -> usize {
        for member in 0..self.size() {
            let glance = async {
                let client = Client::connect(self.cluster.endpoint(member)).await.ok()?;
                let status = client.status().await.ok()?;
                Some(status.header?.member_id == status.leader)
            };
            if !self.dead.contains(&member) && timeout(GLANCE, glance).await == Ok(Some(true)) {
                return member;
            }
        }
        self.draw_index(self.size())
    }

    async fn begin(&mut self, fault: &'static str) {
        let any = self.draw_index(self.size());
        match fault {
            "kill of the leader" => self.kill(self.leader().await),
            "kill of one member" => self.kill(any),
            "kill of two members" => self.others(any).for_each(|member| self.kill(member)),
            "kill of all members" => (0..self.size()).for_each(|member| self.kill(member)),
            "stopped process" if !self.dead.contains(&any) => {
                self.cluster.signal(any, "STOP");
                self.stopped.insert(any);
            }
            "leader alone" => self.isolate(self.leader().await),
            "member alone" => self.isolate(any),
            "links cut in one direction" => {
                self.change_links(Link { is_cut: true, ..Link::default() });
            }
            "slow links" => {
                let delay = Duration::from_millis(self.draw(DELAY_MAX_MS));
                let rate = RATES.0 + self.draw(RATES.1 - RATES.0);
                let rate = (self.draw(2) == 0).then(|| u32::try_from(rate).expect("a small rate"));
                self.change_links(Link { is_cut: false, delay, rate });
            }
            "connections reset" => {
                for other in self.others(any) {
                    self.network.reset(any, other);
                }
            }
            "full disk" => match (0..self.size()).find_map(|it| self.cluster.member(it).disk()) {
                Some(disk) => disk.fill(),
                None => return,
            },
            _ => return,
        }
        self.count(fault);
    }

    fn kill(&mut self, member: usize) {
        if self.dead.insert(member) {
            self.stopped.remove(&member);
            self.traffic.ends(member);
            self.cluster.kill(member);
        }
    }

    fn isolate(&self, member: usize) {
        let cut = Link { is_cut: true, ..Link::default() };
        for other in self.others(member) {
            self.network.set(member, other, cut);
            self.network.set(other, member, cut);
        }
    }

    /// Changes a random subset of the links, one of them at least.
    fn change_links(&self, link: Link) {
        let size = self.size();
        let sure = (self.draw_index(size), 1 + self.draw_index(size - 1));
        for from in 0..size {
            for step in 1..size {
                if (from, step) == sure || self.draw(3) == 0 {
                    self.network.set(from, (from + step) % size, link);
                }
            }
        }
    }

    async fn end_all(&mut self) {
        self.network.mend();
        for member in std::mem::take(&mut self.stopped) {
            self.cluster.signal(member, "CONT");
        }
        for member in 0..self.size() {
            if let Some(disk) = self.cluster.member(member).disk() {
                disk.relieve();
            }
        }
        let dead = std::mem::take(&mut self.dead);
        for member in &dead {
            self.cluster.start(*member);
        }
        for member in dead {
            self.cluster.answering(member).await;
            self.traffic.starts(member);
        }
    }

    async fn do_chore(&mut self, chore: &'static str) {
        match chore {
            "rolling restart" => {
                for member in 0..self.size() {
                    self.traffic.ends(member);
                    self.cluster.stop(member);
                    self.cluster.start(member);
                    self.cluster.client(member).await;
                    self.traffic.starts(member);
                }
            }
            "new certificates" => {
                for member in 0..self.size() {
                    self.cluster.renew_certificate(member);
                }
                // Connections that are there keep theirs.
                for member in 0..self.size() {
                    self.others(member).for_each(|other| self.network.reset(member, other));
                }
            }
            _ => self.replace().await,
        }
        self.count(chore);
    }

    /// Replaces a member by one with an empty disk, which is a learner first.
    async fn replace(&mut self) {
        let lost = self.draw_index(self.size());
        let left = self.cluster.client((lost + 1) % self.size()).await;
        let name = self.cluster.member(lost).name.clone();
        let members = granted("list", async || left.members().await).await;
        let old = members.iter().find(|it| it.name == name).expect("it is a member").id;
        self.traffic.ends(lost);
        self.cluster.kill(lost);
        granted("remove", async || match left.remove_member(old).await {
            // It was removed already: an answer was lost with a leader.
            Err(error) if error.code() == Code::NotFound => Ok(()),
            answer => answer,
        })
        .await;
        self.cluster.wipe(lost);
        let url = self.cluster.member(lost).peer_url.clone();
        let new = granted("add", async || {
            let members = left.members().await?;
            match members.iter().find(|it| it.peer_ur_ls.contains(&url)) {
                Some(there) => Ok(there.id),
                None => left.add_member(&url, true).await,
            }
        })
        .await;
        if self.replaced.insert(lost) {
            self.cluster.add_args(lost, &["--initial-cluster-state", "existing"]);
        }
        self.cluster.start(lost);
        let began = Instant::now();
        let learner = self.cluster.answering(lost).await;
        while learner.status().await.is_ok_and(|status| status.raft_applied_index == 0) {
            assert!(began.elapsed() < PATIENCE, "{name} gets no state");
            sleep(GLANCE / 10).await;
        }
        granted("promote", async || {
            let members = left.members().await?;
            match members.iter().any(|it| it.id == new && !it.is_learner) {
                true => Ok(()),
                false => left.promote_member(new).await,
            }
        })
        .await;
        self.cluster.client(lost).await;
        self.traffic.starts(lost);
    }
}

/// Numbers of faults of each kind.
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<&'static str, u32>);

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: Self) {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// The number of one kind.
    #[must_use]
    pub fn of(&self, what: &str) -> u32 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&all.join(", "))
    }
}
