//! `cargo xtask test`: all tests of the repository, and one line that sums them up.
//!
//! Rust comes first, then the Go tests in `testing/interop`, which drive the built `keepd` with
//! the official client, etcdctl, etcdutl and kube-apiserver. Cargo and Go never build at the same
//! time: together they would not fit in the memory of a small machine.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

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
    // Only Rust tests need it, and each change of its feature links the binary anew.
    let failpoints = if selection.rust { build_failpoints(&root) } else { Ok(()) };
    if let Err(error) = failpoints.and_then(|()| build.run()) {
        println!("{error:#}");
        counts.failed += 1;
    } else {
        if !is_in_path("openssl") {
            skips.push("all tests with certificates of openssl: it is not installed".to_owned());
        }
        let go = tools::go_version();
        if selection.rust {
            counts += rust_tests(go.is_some(), &mut skips)?;
            counts += mutant_tests()?;
        }
        if selection.go {
            if let Some(version) = go {
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

/// Runs programs of others, unmodified, against etcd and keepd.
pub(crate) fn run_foreign() -> Result<()> {
    let root = root();
    Call::new(&root, &["cargo", "build", "--release", "--package", "keepd"]).run()?;
    let (tools, foreign) = (tools::build_all()?, tools::build_foreign()?);
    let words =
        ["go", "test", "-count=1", "-timeout=40m", "-v", "-tags=foreign", "-run=TestForeign", "."];
    Call::new(&root.join("testing/interop"), &words)
        .env("GOFLAGS", "-buildvcs=false")
        .env("KEEPD_BIN", keepd_binary())
        .env("KEEPD_INTEROP_ETCD", &tools.etcd)
        .env("KEEPD_INTEROP_KUBE", &tools.kube)
        .env("KEEPD_INTEROP_FOREIGN", &foreign.programs)
        .env("KEEPD_INTEROP_COREDNS", &foreign.coredns)
        .env("KEEPD_INTEROP_ENVTEST", &foreign.envtest)
        .env("KEEPD_INTEROP_PYTHON", &foreign.python)
        .run()
}

/// Builds the binary with failpoints and puts it aside. Only `keepd` itself knows of the feature, so
/// everything below it is what the build of the tests needs anyway.
fn build_failpoints(root: &Path) -> Result<()> {
    let feature = ["--features", "keepd/failpoints"];
    let words = ["cargo", "build", "--release", "--workspace", "--all-targets"];
    Call::new(root, &[words.as_slice(), &feature].concat()).run()?;
    let (binary, target) = (keepd_binary(), failpoints_binary());
    std::fs::create_dir_all(target.parent().context("the binary lies in a folder")?)?;
    // A copy, since the build that follows writes the binary anew, and under another inode than one
    // that may still run.
    if target.exists() {
        std::fs::remove_file(&target)?;
    }
    std::fs::copy(&binary, &target).with_context(|| format!("copying {}", binary.display()))?;
    Ok(())
}

fn rust_tests(has_go: bool, skips: &mut Vec<String>) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if has_go {
        match tools::build_pki() {
            Ok(pki) => path = with_first(&pki, &path)?,
            Err(error) => {
                println!("{error:#}");
                counts.failed += 1;
            }
        }
    } else if !is_in_path("cfssl") || !is_in_path("cfssljson") {
        skips.push("Rust tests with certificates of cfssl: it needs Go to be built".to_owned());
    }
    let words = ["cargo", "test", "--release", "--workspace", "--no-fail-fast"];
    let call = Call::new(&root(), &words).env("PATH", path);
    // With its place said, the test that needs it fails without it.
    counts += cargo_tests(call.env("KEEPD_FAILPOINTS_BIN", failpoints_binary()))?;
    if counts.skipped > 0 {
        println!("{} Rust tests are marked as ignored", counts.skipped);
    }
    Ok(counts)
}

/// Whether the simulator finds each mutant of the production code, in a build of its own: no other has
/// mutants.
fn mutant_tests() -> Result<Counts> {
    let words =
        ["cargo", "test", "--release", "-p", "sim", "--features", "mutants", "--test", "mutants"];
    cargo_tests(Call::new(&root(), &words))
}

/// Runs tests of cargo's and counts them.
fn cargo_tests(call: Call) -> Result<Counts> {
    let mut counts = Counts::default();
    let succeeded = call.lines(|line| {
        println!("{line}");
        if let Some(result) = rust_result(line) {
            counts += result;
        }
    })?;
    if !succeeded && counts.failed == 0 {
        counts.failed = 1;
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
    let mut words = vec!["go", "test", "-json", "-count=1", "-timeout=40m", "-parallel=6", "./..."];
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
        .env("KEEPD_INTEROP_PKI", &tools.pki)
        .env("KEEPD_INTEROP_ENCRYPTION", &tools.encryption)
        .env("KEEPD_INTEROP_BACKUP", &tools.backup)
        .env("KEEPD_INTEROP_STORES", &tools.stores)
        .env("KEEPD_INTEROP_RULES", &tools.rules)
        .env("KEEPD_INTEROP_AZURITE", tools.azurite.unwrap_or_default())
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

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// `path` with one more folder, which is searched first.
fn with_first(folder: &Path, path: &OsStr) -> Result<OsString> {
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(path));
    std::env::join_paths(folders).context("the tools folder's name holds a colon")
}

/// The binary with failpoints.
fn failpoints_binary() -> PathBuf {
    keepd_binary().with_file_name("failpoints").join("keepd")
}

/// The binary of the last build.
pub(crate) fn keepd_binary() -> PathBuf {
    // Cargo runs in the root: a folder that is not absolute lies below it.
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target).join("release/keepd")
}
