//! `cargo xtask`: every chore of this repository that has logic, type-checked and the same on
//! every machine.
//!
//! It needs nothing installed but cargo; Go is needed for the interoperability tests and
//! cargo-deny for the licence check. What continuous integration does can be done at the desk,
//! because `.ci/run` only calls these stages. It deliberately holds no knowledge of the product
//! beyond where things are.
#![expect(clippy::print_stdout, reason = "a command-line tool whose output is its purpose")]

mod ci;
mod counts;
mod dist;
mod process;
mod suite;
mod tidy;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <task>

  test             every test: Rust, then the Go ones against real etcd and kube-apiserver
  test rust        only the Rust tests
  test go [RUN]    only the Go tests (those whose name matches RUN)
  interop --all    the programs of others against etcd and keepd; long, by hand
  dist             the binary to install, target/dist/keepd: stripped, tells its commit
  tools            build etcd, etcdctl, etcdutl, benchmark, kube-apiserver, kubectl and cfssl
  ci               all stages below, then `test`
  ci <stage>...    fmt, tidy, clippy, doc, go, deny, test
  tidy             the repository's own rules (layers, file lengths, paths in documents, ...)
  tidy --tighten   the same; what has become better may not get worse again
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test", parts @ ..] => suite::Selection::parse(parts).and_then(|s| suite::run(&s)),
        ["interop", "--all"] => suite::run_foreign(),
        ["dist"] => dist::run(),
        ["tools"] => tools::build_all().map(|_| ()),
        ["ci", stages @ ..] => ci::run(stages),
        ["tidy"] => tidy::run(),
        ["tidy", "--tighten"] => tidy::tighten(),
        _ => {
            println!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository, as cargo says at the start of this run: clones that share a target
/// folder share this binary, and the one that it was built in may be gone.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.expect("cargo sets CARGO_MANIFEST_DIR: start this as `cargo xtask`");
    manifest.parent().map(PathBuf::from).expect("xtask lies in a folder of the repository")
}

/// Whether this runs in continuous integration, where a skipped test is a failed one.
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}
