//! Where the programs are: given by a flag, built before by `cargo xtask tools`, or in the PATH.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sha2::{Digest, Sha256};

/// Flags that name the programs.
#[derive(Args)]
pub(crate) struct ToolOptions {
    /// keepd's binary [default: beside this one].
    #[arg(long)]
    keepd: Option<PathBuf>,
    /// etcd's binary [default: from `cargo xtask tools`].
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// etcd's benchmark program [default: from `cargo xtask tools`].
    #[arg(long)]
    benchmark: Option<PathBuf>,
    /// h2load, from the nghttp2 project.
    #[arg(long, default_value = "h2load")]
    h2load: PathBuf,
    /// Where the servers keep their data; decides which disk is measured [default: target/bench].
    #[arg(long)]
    pub(crate) work: Option<PathBuf>,
}

/// The programs of a run.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) keepd: PathBuf,
    pub(crate) etcd: PathBuf,
    pub(crate) benchmark: PathBuf,
    pub(crate) h2load: PathBuf,
    /// This program, for the echo server.
    pub(crate) bench: PathBuf,
}

impl ToolOptions {
    /// Finds the programs.
    pub(crate) fn find(&self) -> Result<Tools> {
        let bench = std::env::current_exe().context("find this program")?;
        let keepd = self.keepd.clone().unwrap_or_else(|| bench.with_file_name("keepd"));
        ensure!(
            keepd.is_file(),
            "{} is missing: run `cargo build --release -p keepd`, or give --keepd",
            keepd.display()
        );
        let of_etcd = |given: &Option<PathBuf>, name: &str| match given {
            Some(path) => Ok(path.clone()),
            None => built(name),
        };
        Ok(Tools {
            keepd,
            etcd: of_etcd(&self.etcd, "etcd")?,
            benchmark: of_etcd(&self.benchmark, "benchmark")?,
            h2load: self.h2load.clone(),
            bench,
        })
    }

    /// The folder for everything a run writes but its result.
    pub(crate) fn work_folder(&self) -> PathBuf {
        self.work.clone().unwrap_or_else(|| root().join("target/bench"))
    }
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    // What cargo says at the start; the clone that this was built in may be gone.
    let here =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    here.ancestors().nth(2).unwrap_or(&here).to_owned()
}

/// A program that `cargo xtask tools` builds; the folder is named by the hash of `go.sum`.
fn built(name: &str) -> Result<PathBuf> {
    let sum = root().join("testing/interop/go.sum");
    let bytes = std::fs::read(&sum).with_context(|| format!("read {}", sum.display()))?;
    let hash: String =
        Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = cache()?.join(format!("etcd-{hash}")).join(name);
    ensure!(
        path.is_file(),
        "{} is missing: run `cargo xtask tools`, or give --{name}",
        path.display()
    );
    Ok(path)
}

fn cache() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = var("KEEPD_TOOLS") {
        return Ok(folder);
    }
    let base = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither KEEPD_TOOLS, XDG_CACHE_HOME nor HOME is set")?.join("keepd/tools"))
}
