//! The place of backups, on a command line: a destination, the runtime that it needs, a scratch folder.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepd_archive::destination::{self, Destination, Limit, rate};
use keepd_archive::scratch::Scratch;
use keepd_env::Env;
use tokio::runtime::Runtime;

/// BOUND: threads for requests to an object store.
const THREADS: usize = 2;

/// Options of whatever goes over a line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LineArguments {
    /// Bytes a second that are sent or received at most: 500k, 20M.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) limit_rate: Option<NonZeroU64>,
}

/// Options of whatever needs a place for what is on its way.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ScratchArguments {
    /// A folder for what is on its way; it lies there sealed under a key that is only in memory. TMPDIR or
    /// /var/tmp if not given.
    #[arg(long, value_name = "DIR")]
    pub(super) scratch_dir: Option<PathBuf>,
}

impl ScratchArguments {
    /// Makes a folder of its own there.
    pub(crate) fn make(&self, env: &Env) -> anyhow::Result<Scratch> {
        let parent = self.scratch_dir.clone().unwrap_or_else(scratch_dir);
        Ok(Scratch::new(env, &parent)?)
    }
}

/// The folder for what is on its way where none is named.
pub(crate) fn scratch_dir() -> PathBuf {
    let from_environment = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
    from_environment.map(PathBuf::from).unwrap_or_else(|| {
        let lasting = Path::new("/var/tmp");
        if lasting.is_dir() { lasting.to_owned() } else { std::env::temp_dir() }
    })
}

/// The machine, for one command or one server.
pub(crate) struct Machine {
    pub(crate) env: Env,
    pub(crate) runtime: Runtime,
    limit: Arc<Limit>,
}

impl Machine {
    pub(crate) fn new(rate: Option<NonZeroU64>) -> anyhow::Result<Self> {
        Self::beginning(Env::real(), rate, || ())
    }

    /// The same, with what each thread that waits for a store does first.
    pub(crate) fn beginning(
        env: Env,
        rate: Option<NonZeroU64>,
        first: fn(),
    ) -> anyhow::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.on_thread_start(first).thread_name("backup-line");
        let runtime = builder.worker_threads(THREADS).enable_all().build()?;
        let limit = Arc::new(Limit::new(Arc::clone(&env.clock), rate));
        Ok(Self { env, runtime, limit })
    }

    /// Opens a destination.
    pub(crate) fn open(&self, url: &str) -> anyhow::Result<Arc<dyn Destination>> {
        let limit = Arc::clone(&self.limit);
        Ok(destination::open(url, &self.env, self.runtime.handle(), limit)?)
    }
}

/// The program, as a sidecar names it.
pub(crate) fn made_by() -> String {
    format!("keepd {}", env!("CARGO_PKG_VERSION"))
}

/// The name of this machine.
pub(crate) fn host_name() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = read.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.chars().take(255).collect() }
}
