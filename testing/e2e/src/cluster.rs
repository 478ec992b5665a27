//! A cluster: several processes of the real binary, with mutual TLS between them.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use keepd_env::Env;
use keepd_tls::{Authority, Subject};
use testkit::process::tail;
use testkit::{Keepd, Server, TempDir};
use tokio::time::{Instant, sleep};

use crate::build::Build;
use crate::client::Client;
use crate::network::Network;
use crate::small_disk::SmallDisk;

/// Ports that the system does not number outgoing connections from; tests of other kinds take those
/// below.
const FIRST_PORT: u16 = 16_000;
/// BOUND: ports to choose from.
const PORTS: u16 = 4_900;
/// Interval at which a waiting test looks.
const POLL: Duration = Duration::from_millis(20);
/// Time limit for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port of 127.0.0.1 that nobody uses now, given out once.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() * 97 % u32::from(PORTS)).expect("it is below");
    for _ in 0..PORTS {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + (offset + next % PORTS) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// One member.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its peer URL.
    pub peer_url: String,
    options: Keepd,
    build: Build,
    server: Option<Server>,
    /// The small disk that its data directory lies on, if it has one.
    disk: Option<SmallDisk>,
}

/// Several members.
#[derive(Debug)]
pub struct Cluster {
    args: Vec<String>,
    encryption: String,
    members: Vec<Member>,
    network: Option<Network>,
    // ORDER: it goes after what is mounted in it.
    dir: TempDir,
}

impl Cluster {
    /// Members `m0`, `m1` and so on, none of which has started. Each has its own certificate for
    /// 127.0.0.1 and its own copy of the encryption configuration.
    #[must_use]
    pub fn new(name: &str, size: usize, encryption: &str) -> Self {
        Self::with(name, size, encryption, None)
    }

    /// The same, with a network between the members whose faults the test chooses.
    #[must_use]
    pub fn on_network(name: &str, size: usize, encryption: &str) -> (Self, Network) {
        let network = Network::default();
        (Self::with(name, size, encryption, Some(network.clone())), network)
    }

    fn with(name: &str, size: usize, encryption: &str, network: Option<Network>) -> Self {
        let dir = TempDir::new(name);
        Authority::create(&Env::real(), &dir.join("pki"), "e2e").expect("a CA can be made");
        let (args, encryption) = (Vec::new(), encryption.to_owned());
        let mut cluster = Self { dir, args, encryption, members: Vec::new(), network };
        let urls: Vec<_> = (0..size).map(|_| url()).collect();
        let named = |(number, url): (usize, &String)| format!("m{number}={url}");
        let all = urls.iter().enumerate().map(named).collect::<Vec<_>>().join(",");
        for url in urls {
            cluster.prepare(url, &["--initial-cluster", &all]);
        }
        cluster
    }

    /// Gives all members further arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        for member in &mut self.members {
            member.options = member.options.clone().args(args);
        }
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Gives one member further arguments, from its next start on.
    pub fn add_args(&mut self, number: usize, args: &[&str]) {
        let member = &mut self.members[number];
        member.options = member.options.clone().args(args);
    }

    /// Has a member run another build, from its next start on.
    pub fn replace_binary(&mut self, number: usize, build: &Build) {
        self.members[number].build = build.clone();
    }

    fn prepare(&mut self, url: String, args: &[&str]) {
        let name = format!("m{}", self.members.len());
        let listening = match &self.network {
            None => url.clone(),
            Some(network) => {
                let listening = free_port();
                network.lead(self.members.len(), port_of(&url), listening);
                format!("https://127.0.0.1:{listening}")
            }
        };
        let work = self.dir.join(&name);
        std::fs::create_dir(&work).expect("the folder of the test is writable");
        let config = work.join("encryption.yaml");
        std::fs::write(&config, &self.encryption).expect("the folder of the test is writable");
        let (certificate, key) = self.certificate(&name, "127.0.0.1");
        let text = |path: &Path| path.to_str().expect("test paths are unicode").to_owned();
        let (certificate, key) = (text(&certificate), text(&key));
        let ca = text(&self.dir.join("pki/ca.crt"));
        let options = Keepd::new(&work)
            .encryption(&config)
            .args(["--name", &name, "--listen-peer-urls", &listening])
            .args(["--initial-advertise-peer-urls", &url])
            .args(["--advertise-client-urls", &format!("http://{name}.invalid:1")])
            .args(["--peer-cert-file", &certificate, "--peer-key-file", &key])
            .args(["--peer-trusted-ca-file", &ca, "--peer-client-cert-auth"])
            .args(args)
            .args(&self.args);
        let build = Build::tested();
        self.members.push(Member { name, peer_url: url, options, build, server: None, disk: None });
    }

    /// A certificate of the cluster's CA for a member, valid for a host.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn certificate(&self, name: &str, host: &str) -> (PathBuf, PathBuf) {
        let authority = Authority::open(&Env::real(), &self.dir.join("pki"));
        let subject = Subject::peer(name, &[host.to_owned()]);
        authority.and_then(|it| it.issue(name, &subject)).expect("a certificate can be made")
    }

    /// A further member, which the cluster has been told of by the URL; it has not started. Its number.
    pub fn join(&mut self, url: &str, others: &[usize]) -> usize {
        let number = self.members.len();
        let named = |&other: &usize| {
            let Member { name, peer_url, .. } = &self.members[other];
            format!("{name}={peer_url}")
        };
        let mut all: Vec<_> = others.iter().map(named).collect();
        all.push(format!("m{number}={url}"));
        let all = all.join(",");
        let args = ["--initial-cluster", &all, "--initial-cluster-state", "existing"];
        self.prepare(url.to_owned(), &args);
        number
    }

    /// The number of members, whether they run or not.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.members.len()
    }

    /// One of the members.
    #[must_use]
    pub fn member(&self, number: usize) -> &Member {
        &self.members[number]
    }

    /// Starts one member.
    ///
    /// # Panics
    /// If it runs.
    pub fn start(&mut self, number: usize) {
        let member = &mut self.members[number];
        assert!(member.server.is_none(), "{} runs", member.name);
        let server = member.build.of(member.options.clone()).start();
        if let Some(network) = &self.network {
            network.knows(number, server.pid());
        }
        member.server = Some(server);
    }

    /// Whether a member was started and not ended.
    #[must_use]
    pub fn is_running(&self, number: usize) -> bool {
        self.members[number].server.is_some()
    }

    /// Replaces the certificate that a member shows to others, and its key.
    ///
    /// # Panics
    /// If the files cannot be written.
    pub fn renew_certificate(&self, number: usize) {
        let authority = Authority::open(&Env::real(), &self.dir.join("pki"));
        let name = &self.members[number].name;
        let subject = Subject::peer(name, &["127.0.0.1".to_owned()]);
        let renewed = authority.and_then(|it| it.renew(name, &subject));
        renewed.expect("a certificate can be made");
    }

    /// Puts the data directory of a member, which was never started, on a disk of its own; false without
    /// the right to.
    pub fn on_small_disk(&mut self, number: usize, mib: u32) -> bool {
        let member = &mut self.members[number];
        member.disk = SmallDisk::mount(&member.data_dir(), mib);
        member.disk.is_some()
    }

    /// Starts all members.
    pub fn start_all(&mut self) {
        for number in 0..self.size() {
            self.start(number);
        }
    }

    /// A client of a running member, once that answers linearizable reads.
    ///
    /// # Panics
    /// If it does not run, or does not answer in time.
    pub async fn client(&mut self, number: usize) -> Client {
        let server = self.members[number].server.as_mut().expect("it runs");
        Client::ready(server).await
    }

    /// A client of a running member that may be a learner, once that answers anything.
    ///
    /// # Panics
    /// If it does not run, or does not answer in time.
    pub async fn answering(&mut self, number: usize) -> Client {
        let began = Instant::now();
        loop {
            let member = &mut self.members[number];
            member.server.as_mut().expect("it runs").assert_running();
            if let Ok(client) = Client::connect(member.endpoint()).await
                && client.status().await.is_ok()
            {
                return client;
            }
            assert!(began.elapsed() < PATIENCE, "no answer\n{}", member.tail());
            sleep(POLL).await;
        }
    }

    /// The client endpoint of a member, which may not be there yet.
    #[must_use]
    pub fn endpoint(&self, number: usize) -> String {
        Keepd::new(&self.dir.join(&format!("m{number}"))).endpoint()
    }

    /// Clients of all members, which all run.
    pub async fn clients(&mut self) -> Vec<Client> {
        let mut clients = Vec::new();
        for number in 0..self.size() {
            clients.push(self.client(number).await);
        }
        clients
    }

    /// The member that all running members take for the leader.
    ///
    /// # Panics
    /// If they do not agree in time.
    pub async fn leader(&mut self) -> usize {
        let began = Instant::now();
        loop {
            let mut seen = Vec::new();
            for number in 0..self.size() {
                if self.members[number].server.is_none() {
                    continue;
                }
                if let Ok(status) = self.client(number).await.status().await {
                    let id = status.header.map_or(0, |header| header.member_id);
                    seen.push((number, id, status.leader));
                }
            }
            let leads = |&&(_, id, leader): &&(usize, u64, u64)| id == leader;
            if let Some((number, id, _)) = seen.iter().find(leads)
                && seen.iter().all(|(_, _, leader)| leader == id)
            {
                return *number;
            }
            assert!(began.elapsed() < PATIENCE, "no leader that all agree on: {seen:?}");
            sleep(POLL).await;
        }
    }

    /// kill -9.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self, number: usize) {
        self.members[number].server.take().expect("it runs").kill();
    }

    /// SIGTERM; waits for the end.
    ///
    /// # Panics
    /// If it does not run, or does not end.
    pub fn stop(&mut self, number: usize) -> ExitStatus {
        self.members[number].server.take().expect("it runs").stop()
    }

    /// Waits for a member that ends by itself.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait(&mut self, number: usize) -> ExitStatus {
        let member = &mut self.members[number];
        let mut server = member.server.take().expect("it runs");
        let status = server.wait(PATIENCE);
        status.unwrap_or_else(|| panic!("{} goes on\n{}", member.name, member.tail()))
    }

    /// Sends a signal to a running member.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, number: usize, signal: &str) {
        let server = self.members[number].server.as_ref().expect("it runs");
        let mut kill = std::process::Command::new("kill");
        let status = kill.args([&format!("-{signal}"), &server.pid().to_string()]).status();
        assert!(status.expect("kill exists").success(), "the member had ended already");
    }

    /// Empties the data directory of a member that does not run.
    ///
    /// # Panics
    /// If it runs.
    pub fn wipe(&self, number: usize) {
        let member = &self.members[number];
        assert!(member.server.is_none(), "{} runs", member.name);
        let dir = member.data_dir();
        for entry in std::fs::read_dir(&dir).expect("it has a data directory").flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let path = entry.path();
            let gone = match is_dir {
                true => std::fs::remove_dir_all(path),
                false => std::fs::remove_file(path),
            };
            gone.expect("what it holds can be removed");
        }
    }
}

impl Member {
    /// Its client endpoint.
    fn endpoint(&self) -> String {
        self.options.endpoint()
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.options.data_dir()
    }

    /// Its small disk, if it has one.
    #[must_use]
    pub const fn disk(&self) -> Option<&SmallDisk> {
        self.disk.as_ref()
    }

    /// Its log, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.options.log()
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        tail(&self.log()).to_owned()
    }

    /// The feature level of the cluster, as its log tells: the first one unless it says another.
    ///
    /// # Panics
    /// If it says so without a level.
    #[must_use]
    pub fn feature_level(&self) -> u64 {
        let log = self.log();
        let is_told = |line: &&str| line.contains("the feature level of the cluster is known");
        let Some(line) = log.lines().rfind(is_told) else { return 1 };
        let fields: serde_json::Value = serde_json::from_str(line).expect("a line of the log");
        fields["to"].as_u64().expect("the line has the level")
    }

    /// A number of its metrics; none if it does not show it.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<u64> {
        let page = self.metrics();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(value.trim().parse().expect("a whole number"))
    }

    /// The page of its metrics.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut socket = UnixStream::connect(self.options.socket()).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a time limit");
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        socket.write_all(request).expect("it reads");
        let mut page = Vec::new();
        socket.read_to_end(&mut page).expect("it answers");
        String::from_utf8_lossy(&page).into_owned()
    }

    /// Waits until its log says something.
    ///
    /// # Panics
    /// If it does not in time.
    pub async fn says(&self, text: &str) {
        let began = Instant::now();
        while !self.log().contains(text) {
            let is_late = began.elapsed() > PATIENCE;
            assert!(!is_late, "{} does not say {text:?}\n{}", self.name, self.tail());
            sleep(POLL).await;
        }
    }
}

fn port_of(url: &str) -> u16 {
    url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a URL of a test has a port")
}

/// A peer URL that nobody uses.
#[must_use]
pub fn url() -> String {
    format!("https://127.0.0.1:{}", free_port())
}
