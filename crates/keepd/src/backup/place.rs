//! The place of backups, on a command line: a destination, the runtime that it needs, a scratch folder.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepd_archive::destination::{self, Destination, Limit};
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
    pub(super) limit_rate: Option<NonZeroU64>,
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
        let from_environment = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
        let parent = self.scratch_dir.clone().or_else(|| from_environment.map(PathBuf::from));
        let parent = parent.unwrap_or_else(|| {
            let lasting = Path::new("/var/tmp");
            if lasting.is_dir() { lasting.to_owned() } else { std::env::temp_dir() }
        });
        Ok(Scratch::new(env, &parent)?)
    }
}

/// The machine, for one command.
pub(crate) struct Machine {
    pub(crate) env: Env,
    pub(crate) runtime: Runtime,
    limit: Arc<Limit>,
}

impl Machine {
    pub(crate) fn new(line: Option<&LineArguments>) -> anyhow::Result<Self> {
        let env = Env::real();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(THREADS).enable_all().build()?;
        let rate = line.and_then(|line| line.limit_rate);
        let limit = Arc::new(Limit::new(Arc::clone(&env.clock), rate));
        Ok(Self { env, runtime, limit })
    }

    /// Opens a destination.
    pub(crate) fn open(&self, url: &str) -> anyhow::Result<Arc<dyn Destination>> {
        let limit = Arc::clone(&self.limit);
        Ok(destination::open(url, &self.env, self.runtime.handle(), limit)?)
    }
}

/// A number with k, M or G behind it.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let (number, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1000),
        Some((at, 'M')) => (&text[..at], 1_000_000),
        Some((at, 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let bytes = bytes.and_then(NonZeroU64::new);
    bytes.ok_or_else(|| "a rate is a number of bytes above 0, as in 500k or 20M".to_owned())
}

/// The name of this machine.
pub(super) fn host_name() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = read.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.chars().take(255).collect() }
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn rates_are_numbers_with_units() {
        assert_eq!(rate("500k").unwrap().get(), 500_000);
        assert_eq!(rate("20M").unwrap().get(), 20_000_000);
        assert_eq!(rate("7").unwrap().get(), 7);
        for wrong in ["", "0", "k", "-1M", "1.5M", "99999999999999999999G"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
