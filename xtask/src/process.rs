//! Starting the other programs: cargo, go, git.
//!
//! Each call is printed before it runs, so that a failing stage can be repeated by hand.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program with its arguments and environment, run in a folder.
#[derive(Debug)]
pub(crate) struct Call {
    words: Vec<String>,
    command: Command,
}

impl Call {
    /// `words` is the program and its arguments.
    pub(crate) fn new(folder: &Path, words: &[&str]) -> Self {
        let (program, args) = words.split_first().expect("a call has a program");
        let mut command = Command::new(program);
        command.args(args).current_dir(folder);
        Self { words: words.iter().map(|w| (*w).to_owned()).collect(), command }
    }

    /// Adds an environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it with this process's output and fails if it fails.
    pub(crate) fn run(mut self) -> Result<()> {
        println!("$ {}", self.line());
        let status = self.command.status().with_context(|| format!("start {}", self.words[0]))?;
        if !status.success() {
            bail!("`{}` failed: {status}", self.line());
        }
        Ok(())
    }

    /// Runs it, hands each line of its standard output to `line`, and returns whether it
    /// succeeded.
    pub(crate) fn lines(mut self, mut line: impl FnMut(&str)) -> Result<bool> {
        println!("$ {}", self.line());
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", self.words[0]))?;
        let stdout = child.stdout.take().expect("standard output was piped");
        for bytes in BufReader::new(stdout).split(b'\n') {
            let bytes = bytes.context("read a child's output")?;
            line(&String::from_utf8_lossy(&bytes));
        }
        Ok(child.wait().context("wait for a child")?.success())
    }

    /// Runs it silently and returns its standard output, or nothing if it cannot be run.
    pub(crate) fn answer(mut self) -> Option<String> {
        let output = self.command.stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn line(&self) -> String {
        self.words.join(" ")
    }
}
