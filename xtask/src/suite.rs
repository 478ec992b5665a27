//! `cargo xtask test`: all tests of the repository, and one line that sums them up.
//!
//! Rust comes first, then the Go tests in `testing/interop`, which drive the built `keepd` with
//! the official client, etcdctl, etcdutl and kube-apiserver. Cargo and Go never build at the same
//! time: together they would not fit in the memory of a small machine.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::counts::{Counts, GoEvents, rust_result};
use crate::process::Call;
use crate::{in_ci, root, tools};

/// Which tests to run.
#[derive(Debug)]
pub(crate) struct Selection {
    rust: bool,
    go: bool,
    /// A pattern for `go test -run`.
    go_run: Option<String>,
}

impl Selection {
    /// Reads what follows `cargo xtask test`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        match words {
            [] => Ok(Self { rust: true, go: true, go_run: None }),
            ["rust"] => Ok(Self { rust: true, go: false, go_run: None }),
            ["go"] => Ok(Self { rust: false, go: true, go_run: None }),
            ["go", run] => Ok(Self { rust: false, go: true, go_run: Some((*run).to_owned()) }),
            _ => bail!("`test` takes nothing, `rust`, `go` or `go RUN`, not {words:?}"),
        }
    }
}

/// Runs the selected tests; the last line it prints is `N passed, N failed`.
pub(crate) fn run(selection: &Selection) -> Result<()> {
    let mut counts = Counts::default();
    let mut skips: Vec<String> = Vec::new();
    // One build for binaries and tests alike, so that no dependency is compiled twice.
    let root = root();
    let build = Call::new(&root, &["cargo", "build", "--release", "--workspace", "--all-targets"]);
    if let Err(error) = build.run() {
        println!("{error:#}");
        counts.failed += 1;
    } else {
        if selection.rust {
            counts += rust_tests()?;
        }
        if selection.go {
            if let Some(version) = tools::go_version() {
                println!("{version}");
                counts += go_tests(selection.go_run.as_deref(), &mut skips)?;
            } else {
                skips.push(
                    "ALL interoperability tests (official client, etcdctl, etcdutl, \
                     kube-apiserver): Go is not installed"
                        .to_owned(),
                );
            }
        }
    }
    for skip in &skips {
        println!("SKIPPED: {skip}");
    }
    let unproven = in_ci() && !skips.is_empty();
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if counts.failed > 0 {
        bail!("tests failed");
    }
    if unproven {
        bail!("tests were skipped, which continuous integration does not accept");
    }
    Ok(())
}

fn rust_tests() -> Result<Counts> {
    let mut counts = Counts::default();
    let words = ["cargo", "test", "--release", "--workspace", "--no-fail-fast"];
    let succeeded = Call::new(&root(), &words).lines(|line| {
        println!("{line}");
        if let Some(result) = rust_result(line) {
            counts += result;
        }
    })?;
    if !succeeded && counts.failed == 0 {
        counts.failed = 1;
    }
    if counts.skipped > 0 {
        println!("{} Rust tests are marked as ignored", counts.skipped);
    }
    Ok(counts)
}

fn go_tests(pattern: Option<&str>, skips: &mut Vec<String>) -> Result<Counts> {
    let tools = match tools::build_all() {
        Ok(tools) => tools,
        Err(error) => {
            println!("{error:#}");
            return Ok(Counts { failed: 1, ..Counts::default() });
        }
    };
    // Most tests wait for elections, leases and intervals: more run at once than there are cores.
    let mut words = vec!["go", "test", "-json", "-count=1", "-timeout=20m", "-parallel=6", "./..."];
    if let Some(pattern) = pattern {
        words.extend(["-run", pattern]);
    }
    let mut events = GoEvents::default();
    let succeeded = Call::new(&root().join("testing/interop"), &words)
        .env("GOFLAGS", "-buildvcs=false")
        .env("KEEPD_BIN", keepd_binary())
        .env("KEEPD_INTEROP_ETCD", &tools.etcd)
        .env("KEEPD_INTEROP_KUBE", &tools.kube)
        .env("KEEPD_INTEROP_SUITE", &tools.suite)
        .lines(|line| {
            if let Some(report) = events.take(line) {
                println!("{report}");
            }
        })?;
    let mut counts = events.counts();
    if !succeeded && counts.failed == 0 {
        counts.failed = 1;
    }
    if counts.skipped > 0 {
        skips.push(format!("{} Go tests, named above", counts.skipped));
    }
    Ok(counts)
}

fn keepd_binary() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    target.join("release/keepd")
}
