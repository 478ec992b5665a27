//! The servers under measurement: started, asked, stopped, started again.
//!
//! etcd and keepd get the same flags: one member, defaults for everything that matters (fsync is
//! on), plain HTTP/2. keepd seals what it writes.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use keepd_env::{Clock, SystemClock};

use crate::client::Client;
use crate::tools::Tools;

/// Interval at which somebody who waits for a server looks.
const POLL: Duration = Duration::from_millis(2);
/// Time limit for a start or a stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Seals every value by one provider; the key guards nothing.
fn encryption(provider: &str) -> String {
    format!(
        "\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: ['*.*', 'prefix:']
    providers:
      - {provider}:
          keys:
            - name: bench
              secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=
"
    )
}

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Values sealed by secretbox, as `keepd quickstart` sets it up.
    Keepd,
    /// Values sealed by aesgcm, which the processor helps with.
    KeepdAesGcm,
    Etcd,
    /// Bare tonic: the floor.
    Echo,
}

impl Kind {
    /// As tables and files name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Keepd => "keepd",
            Self::KeepdAesGcm => "keepd-aesgcm",
            Self::Etcd => "etcd",
            Self::Echo => "floor",
        }
    }

    /// The encryption provider, if it seals.
    const fn provider(self) -> Option<&'static str> {
        match self {
            Self::Keepd => Some("secretbox"),
            Self::KeepdAesGcm => Some("aesgcm"),
            Self::Etcd | Self::Echo => None,
        }
    }
}

/// A target of a load: its addresses, and the processes whose time it costs.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// `host:port` of each member, the leader's first.
    pub(crate) addresses: Vec<String>,
    pub(crate) pids: Vec<u32>,
}

/// The words and files that a server is started with.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    /// Its data directory, its log and its encryption configuration.
    pub(crate) folder: PathBuf,
    pub(crate) clients: SocketAddr,
    /// Everything that concerns the cluster.
    pub(crate) words: Vec<String>,
}

/// A running server; killed when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Server {
    launch: Launch,
    child: Child,
    /// From the start of the process to its first answer.
    pub(crate) ready_after: Duration,
}

impl Launch {
    /// An empty folder with the encryption configuration.
    pub(crate) fn new(tools: &Tools, kind: Kind, folder: PathBuf) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("remove the last run's {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        if let Some(provider) = kind.provider() {
            let config = encryption(provider);
            fs::write(folder.join("encryption.yaml"), config).context("write encryption.yaml")?;
        }
        let program = match kind {
            Kind::Keepd | Kind::KeepdAesGcm => &tools.keepd,
            Kind::Etcd => &tools.etcd,
            Kind::Echo => &tools.bench,
        };
        let clients = free_address()?;
        Ok(Self { kind, program: program.clone(), folder, clients, words: Vec::new() })
    }

    /// The words of a member of its own.
    fn alone(mut self) -> Result<Self> {
        let peer_url = format!("http://{}", free_address()?);
        let words = [
            "--listen-peer-urls",
            &peer_url,
            "--initial-advertise-peer-urls",
            &peer_url,
            "--name",
            "a",
        ];
        self.words = words.map(str::to_owned).to_vec();
        self.words.extend(["--initial-cluster".to_owned(), format!("a={peer_url}")]);
        Ok(self)
    }

    /// Starts it.
    fn spawn(&self) -> Result<Child> {
        let log = File::create(self.folder.join("log")).context("create a server's log")?;
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            let is_setting = |name: &str| name.starts_with("ETCD_") || name.starts_with("KEEPD_");
            if name.to_str().is_some_and(is_setting) {
                command.env_remove(name);
            }
        }
        if self.kind == Kind::Echo {
            command.args(["echo", "--listen", &self.clients.to_string()]);
        } else {
            let client_url = format!("http://{}", self.clients);
            command
                .args(["--log-level", "error", "--data-dir"])
                .arg(self.folder.join("data"))
                .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
                .args(&self.words);
        }
        if self.kind.provider().is_some() {
            command.arg("--encryption-provider-config").arg(self.folder.join("encryption.yaml"));
        }
        let stderr = log.try_clone().context("open a server's log")?;
        command.stdin(Stdio::null()).stdout(log).stderr(stderr);
        command.spawn().with_context(|| format!("start {}", self.program.display()))
    }
}

impl Server {
    /// Starts a member of its own with nothing in it and waits until it answers.
    pub(crate) fn start(tools: &Tools, kind: Kind, work: &Path) -> Result<Self> {
        let mut server = Self::launch(Launch::new(tools, kind, work.join(kind.name()))?.alone()?)?;
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Starts one and does not wait.
    pub(crate) fn launch(launch: Launch) -> Result<Self> {
        let child = launch.spawn()?;
        Ok(Self { launch, child, ready_after: Duration::ZERO })
    }

    /// Starts one again that has ended.
    pub(crate) fn relaunch(&mut self) -> Result<()> {
        self.child = self.launch.spawn()?;
        Ok(())
    }

    /// Ends it as SIGKILL does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill a server")?;
        self.child.wait().context("wait for a killed server")?;
        Ok(())
    }

    /// It alone, as the target of a load.
    pub(crate) fn target(&self) -> Target {
        let name = self.kind().name();
        Target { name, addresses: vec![self.address()], pids: vec![self.pid()] }
    }

    /// Which one it is.
    pub(crate) const fn kind(&self) -> Kind {
        self.launch.kind
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `host:port` for clients.
    pub(crate) fn address(&self) -> String {
        self.launch.clients.to_string()
    }

    /// A client for questions.
    pub(crate) fn client(&self) -> Result<Client> {
        Client::connect(&self.address())
    }

    /// Stops it, drops its files from the page cache and starts it again; returns how long the stop
    /// took.
    pub(crate) fn restart_cold(&mut self) -> Result<Duration> {
        let clock = SystemClock::new();
        self.stop()?;
        let stopped_after = clock.monotonic();
        for file in files(&self.data_dir())? {
            drop_from_page_cache(&file)?;
        }
        self.relaunch()?;
        self.wait_until_ready()?;
        Ok(stopped_after)
    }

    /// Bytes that its data directory takes on disk, and the sum of its files' lengths.
    pub(crate) fn disk_bytes(&self) -> Result<(u64, u64)> {
        let (mut allocated, mut length) = (0, 0);
        for file in files(&self.data_dir())? {
            // A file may be removed between the listing and the asking.
            let Ok(metadata) = fs::metadata(&file) else { continue };
            allocated += metadata.blocks() * 512;
            length += metadata.len();
        }
        Ok((allocated, length))
    }

    fn data_dir(&self) -> PathBuf {
        self.launch.folder.join("data")
    }

    fn stop(&mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status().context("run kill")?;
        ensure!(status.success(), "{} had ended already", self.kind().name());
        let clock = SystemClock::new();
        while self.child.try_wait().context("wait for a server")?.is_none() {
            ensure!(clock.monotonic() < PATIENCE, "{} does not stop", self.kind().name());
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits until it answers a linearizable range.
    pub(crate) fn wait_until_ready(&mut self) -> Result<()> {
        let clock = SystemClock::new();
        loop {
            if self.client().and_then(|mut client| client.revision()).is_ok() {
                self.ready_after = clock.monotonic();
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().context("wait for a server")? {
                let log = fs::read_to_string(self.launch.folder.join("log")).unwrap_or_default();
                bail!("{} ended: {status}\n{log}", self.kind().name());
            }
            ensure!(clock.monotonic() < PATIENCE, "{} does not get ready", self.kind().name());
            thread::sleep(POLL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; nothing is lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody uses now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    listener.local_addr().context("find a free port")
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        if !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry.context("list a folder")?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// By coreutils' dd: it advises the kernel to forget the whole file, which needs no privilege.
fn drop_from_page_cache(file: &Path) -> Result<()> {
    let mut input = std::ffi::OsString::from("if=");
    input.push(file);
    let status = Command::new("dd")
        .arg(input)
        .args(["iflag=nocache", "count=0", "status=none"])
        .status()
        .context("run dd")?;
    ensure!(status.success(), "dd does not drop {} from the page cache", file.display());
    Ok(())
}
