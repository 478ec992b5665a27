//! The real `keepd` binary as a child process: started, killed, or refusing to start.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

/// Interval at which a waiting test looks.
const POLL: Duration = Duration::from_millis(20);

/// Options to start keepd: one member that serves clients on a unix socket and keeps its peer port to
/// itself.
#[derive(Clone, Debug)]
pub struct Keepd {
    work: PathBuf,
    extra: Vec<String>,
    program: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

/// A running keepd; killed when it goes out of scope.
#[derive(Debug)]
pub struct Server {
    child: Child,
    options: Keepd,
}

impl Keepd {
    /// A member whose data directory, socket and log lie in `work`.
    #[must_use]
    pub fn new(work: &Path) -> Self {
        Self { work: work.to_owned(), extra: Vec::new(), program: None, environment: Vec::new() }
    }

    /// With another build of the binary.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// With a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.extra.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// With an encryption configuration.
    #[must_use]
    pub fn encryption(self, config: &Path) -> Self {
        let config = config.to_str().expect("test paths are unicode");
        self.args(["--encryption-provider-config", config])
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.work.join("data")
    }

    /// Its output, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The path of its output.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.work.join("log")
    }

    /// The client socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.work.join("s")
    }

    /// The client endpoint.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The binary: `KEEPD_BIN`, or beside the folder of the test executable.
    ///
    /// # Panics
    /// If it was not built.
    #[must_use]
    pub fn binary() -> PathBuf {
        let path = std::env::var_os("KEEPD_BIN").map_or_else(
            || {
                let test = std::env::current_exe().expect("a test knows where it lies");
                // target/release/deps/test-1234 -> target/release/keepd
                let folder = test.parent().and_then(Path::parent).expect("cargo's layout");
                folder.join("keepd")
            },
            PathBuf::from,
        );
        assert!(path.is_file(), "{}: run `cargo build --release -p keepd`", path.display());
        path
    }

    /// The build with failpoints: `KEEPD_FAILPOINTS_BIN`, or what `cargo xtask test` makes beside the
    /// binary; none if neither is there.
    ///
    /// # Panics
    /// If the variable names no file.
    #[must_use]
    pub fn failpoints_binary() -> Option<PathBuf> {
        if let Some(path) = std::env::var_os("KEEPD_FAILPOINTS_BIN").map(PathBuf::from) {
            assert!(path.is_file(), "{} is not there", path.display());
            return Some(path);
        }
        let path = Self::binary().parent()?.join("failpoints/keepd");
        path.is_file().then_some(path)
    }

    fn command(&self) -> Command {
        let log = File::options().create(true).append(true).open(self.log_path());
        let log = log.expect("the log can be opened");
        let mut command = Command::new(self.program.clone().unwrap_or_else(Self::binary));
        let endpoint = self.endpoint();
        let data = self.data_dir();
        command
            .args(["--name", "one", "--data-dir", data.to_str().expect("unicode")])
            .args(["--listen-client-urls", &endpoint])
            .args(["--advertise-client-urls", "http://127.0.0.1:0"])
            .args(["--listen-peer-urls", "http://127.0.0.1:0"])
            .args(&self.extra)
            .current_dir(&self.work)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log can be opened twice"))
            .stderr(log);
        for (name, _) in std::env::vars_os() {
            let is_setting = |name: &str| name.starts_with("ETCD_") || name.starts_with("KEEPD_");
            if name.to_str().is_some_and(is_setting) {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it. Serving clients takes a moment; see [`Server::assert_running`].
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(&self) -> Server {
        let child = self.command().spawn().expect("keepd can be started");
        Server { child, options: self.clone() }
    }

    /// Starts it and waits for its end; `None` if it still runs after `limit`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run(&self, limit: Duration) -> Option<ExitStatus> {
        self.start().wait(limit)
    }
}

impl Server {
    /// The options it was started with.
    #[must_use]
    pub const fn options(&self) -> &Keepd {
        &self.options
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails the test if it has ended.
    ///
    /// # Panics
    /// If it has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
            panic!("keepd ended: {status}\n{}", tail(&self.options.log()));
        }
    }

    /// Waits for its end; `None` if it still runs after `limit`.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut waited = Duration::ZERO;
        loop {
            let status = self.child.try_wait().expect("a child can be waited for");
            if status.is_some() || waited >= limit {
                return status;
            }
            thread::sleep(POLL);
            waited += POLL;
        }
    }

    /// kill -9: nothing in it gets to run any more.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks it to end and waits for that.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &pid]).status().expect("kill exists");
        assert!(killed.success(), "keepd had ended already");
        let status = self.wait(Duration::from_secs(30));
        status.unwrap_or_else(|| panic!("no end after SIGTERM\n{}", tail(&self.options.log())))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log.
#[must_use]
pub fn tail(log: &str) -> &str {
    let start = log.rmatch_indices('\n').nth(40).map_or(0, |(position, _)| position + 1);
    &log[start..]
}
