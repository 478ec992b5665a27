//! `cargo xtask ci`: the stages of continuous integration, each with its time.
//!
//! Every stage that was asked for runs, also after a failure, so that one run shows all that is
//! wrong. `test` comes last because its sum must be the last line.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::Call;
use crate::suite::{self, Selection};
use crate::{in_ci, root, tidy, tools};

type Stage = (&'static str, fn() -> Result<()>);

const STAGES: &[Stage] = &[
    ("fmt", fmt),
    ("tidy", tidy::run),
    ("clippy", clippy),
    ("doc", doc),
    ("go", go),
    ("deny", deny),
    ("test", test),
];

/// Runs the named stages in their own order, or all of them.
pub(crate) fn run(wanted: &[&str]) -> Result<()> {
    for name in wanted {
        if !STAGES.iter().any(|(stage, _)| stage == name) {
            let known: Vec<_> = STAGES.iter().map(|(stage, _)| *stage).collect();
            bail!("no stage is called {name}; there are {}", known.join(", "));
        }
    }
    let mut failed = Vec::new();
    for (name, stage) in STAGES {
        if !wanted.is_empty() && !wanted.contains(name) {
            continue;
        }
        println!("==> {name}");
        let (outcome, seconds) = timed(*stage);
        // The test stage has just printed the closing line; anything after it would hide it.
        let silent = *name == "test" && outcome.is_ok();
        match outcome {
            Ok(()) if silent => {}
            Ok(()) => println!("==> {name}: ok in {seconds} s"),
            Err(error) => {
                println!("==> {name}: FAILED in {seconds} s: {error:#}");
                failed.push(*name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed stages: {}", failed.join(", "));
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "how long a stage takes, no part of the product")]
fn timed(stage: fn() -> Result<()>) -> (Result<()>, u64) {
    let start = Instant::now();
    let outcome = stage();
    (outcome, start.elapsed().as_secs())
}

fn cargo(words: &[&str]) -> Call {
    let mut all = vec!["cargo"];
    all.extend(words);
    Call::new(&root(), &all)
}

fn fmt() -> Result<()> {
    cargo(&["fmt", "--all", "--check"]).run()
}

fn clippy() -> Result<()> {
    let shape = ["--release", "--workspace", "--all-targets", "--keep-going"];
    cargo(&[&["clippy"], &shape[..], &["--", "-D", "warnings"]].concat()).run()
}

fn doc() -> Result<()> {
    let shape = ["--release", "--workspace", "--no-deps", "--document-private-items"];
    cargo(&[&["doc", "--keep-going"], &shape[..]].concat()).env("RUSTDOCFLAGS", "-D warnings").run()
}

/// Form and mistakes of the Go tests.
fn go() -> Result<()> {
    if tools::go_version().is_none() {
        if in_ci() {
            bail!("Go is not installed");
        }
        println!("SKIPPED: Go is not installed");
        return Ok(());
    }
    let module = root().join("testing/interop");
    let unformatted = Call::new(&module, &["gofmt", "-l", "."]).answer().context("run gofmt")?;
    if !unformatted.is_empty() {
        bail!("run gofmt -w on {}", unformatted.replace('\n', " "));
    }
    Call::new(&module, &["go", "vet", "./..."]).run()
}

/// Licences, bans and sources. The advisory database is a git repository that this stage does not
/// fetch, so that it also works where only package registries can be reached.
fn deny() -> Result<()> {
    if cargo(&["deny", "--version"]).answer().is_none() {
        // Unoptimised: it is built once and runs for a second.
        cargo(&["install", "cargo-deny", "--locked", "--debug"])
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .run()
            .context("install cargo-deny")?;
    }
    println!("advisories are NOT checked here: run `cargo deny check advisories` with access to");
    println!("the RustSec database; the known exceptions are dated in deny.toml");
    let graph = "--hide-inclusion-graph";
    cargo(&["deny", "--all-features", "check", graph, "licenses", "bans", "sources"]).run()
}

fn test() -> Result<()> {
    suite::run(&Selection::parse(&[])?)
}
