//! Three members of one kind, with mutual TLS between them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keepd_env::{Clock, Env, SystemClock};
use keepd_tls::{Authority, Subject};

use crate::client::Client;
use crate::servers::{Kind, Launch, Server, Target, free_address};
use crate::tools::Tools;

/// Members of a cluster.
const SIZE: usize = 3;
/// Interval at which somebody who waits looks.
const POLL: Duration = Duration::from_millis(10);
/// Time limit for everything.
const PATIENCE: Duration = Duration::from_secs(300);
/// Entries that a new member may lack and still count as caught up, while writes go on.
const CAUGHT_UP_WITHIN: u64 = 1000;

/// Times of an election, in milliseconds: heartbeats and the timeout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) heartbeat: u32,
    pub(crate) election: u32,
}

/// The members.
#[derive(Debug)]
pub(crate) struct Cluster {
    kind: Kind,
    folder: PathBuf,
    timing: Timing,
    /// `name=peer URL` of each member.
    urls: Vec<String>,
    members: Vec<Server>,
}

impl Cluster {
    /// Starts the members with nothing in them and waits until all answer.
    pub(crate) fn start(tools: &Tools, kind: Kind, work: &Path, timing: Timing) -> Result<Self> {
        let folder = work.join(format!("three-{}", kind.name()));
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("remove the last run's {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Authority::create(&Env::real(), &folder.join("pki"), "bench").context("make a CA")?;
        let urls = (0..SIZE).map(named_url).collect::<Result<Vec<_>>>()?;
        let mut cluster = Self { kind, folder, timing, urls, members: Vec::new() };
        for number in 0..SIZE {
            let launch = cluster.launch(tools, number, "new")?;
            cluster.members.push(Server::launch(launch)?);
        }
        for member in &mut cluster.members {
            member.wait_until_ready()?;
        }
        Ok(cluster)
    }

    /// The kind of its members.
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// All of them under load, the leader first.
    pub(crate) fn target(&self) -> Result<Target> {
        let leader = self.leader()?;
        let numbers = (0..self.members.len()).map(|at| (leader + at) % self.members.len());
        let members: Vec<_> = numbers.map(|number| &self.members[number]).collect();
        Ok(Target {
            name: self.kind.name(),
            addresses: members.iter().map(|member| member.address()).collect(),
            pids: members.iter().map(|member| member.pid()).collect(),
        })
    }

    /// A client of the leader.
    pub(crate) fn client(&self) -> Result<Client> {
        self.members[self.leader()?].client()
    }

    /// Kills the leader and returns how long it takes until another member acknowledges a write.
    /// Then the killed one comes back, and all answer.
    pub(crate) fn fail_over(&mut self) -> Result<Duration> {
        let leader = self.leader()?;
        let client = self.members[(leader + 1) % SIZE].client()?;
        client.wait_for_write()?;
        let clock = SystemClock::new();
        self.members[leader].kill()?;
        client.wait_for_write()?;
        let took = clock.monotonic();
        self.members[leader].relaunch()?;
        for member in &mut self.members {
            member.wait_until_ready()?;
        }
        Ok(took)
    }

    /// A further member joins as a learner; how long it takes from its start until it has what the
    /// leader has.
    pub(crate) fn join(&mut self, tools: &Tools) -> Result<Duration> {
        let number = self.members.len();
        self.urls.push(named_url(number)?);
        let url = self.urls[number].split_once('=').context("a name and a URL")?.1.to_owned();
        let mut leader = self.client()?;
        leader.add_learner(&url)?;
        let launch = self.launch(tools, number, "existing")?;
        let clock = SystemClock::new();
        self.members.push(Server::launch(launch)?);
        loop {
            let applied = self.members[number].client().and_then(|mut client| client.status());
            if let Ok(status) = applied {
                let at_leader = leader.status()?.raft_applied_index;
                if status.raft_applied_index + CAUGHT_UP_WITHIN >= at_leader {
                    return Ok(clock.monotonic());
                }
            }
            ensure!(clock.monotonic() < PATIENCE, "{}: no member joins", self.kind.name());
            thread::sleep(POLL);
        }
    }

    /// The number of the member that leads.
    fn leader(&self) -> Result<usize> {
        let clock = SystemClock::new();
        loop {
            for (number, member) in self.members.iter().enumerate() {
                let Ok(status) = member.client().and_then(|mut client| client.status()) else {
                    continue;
                };
                let own = status.header.as_ref().map_or(0, |header| header.member_id);
                if status.leader != 0 && status.leader == own {
                    return Ok(number);
                }
            }
            ensure!(clock.monotonic() < PATIENCE, "{}: nobody leads", self.kind.name());
            thread::sleep(POLL);
        }
    }

    fn launch(&self, tools: &Tools, number: usize, state: &str) -> Result<Launch> {
        let (name, url) = self.urls[number].split_once('=').context("a name and a URL")?;
        let authority = Authority::open(&Env::real(), &self.folder.join("pki"));
        let subject = Subject::peer(name, &["127.0.0.1".to_owned()]);
        let (certificate, key) =
            authority.and_then(|it| it.issue(name, &subject)).context("issue a certificate")?;
        let mut launch = Launch::new(tools, self.kind, self.folder.join(name))?;
        let text = |path: &Path| path.display().to_string();
        let words = [
            ("--name", name.to_owned()),
            ("--listen-peer-urls", url.to_owned()),
            ("--initial-advertise-peer-urls", url.to_owned()),
            ("--initial-cluster", self.urls.join(",")),
            ("--initial-cluster-state", state.to_owned()),
            ("--heartbeat-interval", self.timing.heartbeat.to_string()),
            ("--election-timeout", self.timing.election.to_string()),
            ("--peer-cert-file", text(&certificate)),
            ("--peer-key-file", text(&key)),
            ("--peer-trusted-ca-file", text(&self.folder.join("pki/ca.crt"))),
        ];
        launch.words = words.into_iter().flat_map(|(flag, word)| [flag.to_owned(), word]).collect();
        launch.words.push("--peer-client-cert-auth".to_owned());
        Ok(launch)
    }
}

fn named_url(number: usize) -> Result<String> {
    Ok(format!("m{number}=https://{}", free_address()?))
}
