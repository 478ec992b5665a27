//! `cargo xtask tidy`: the rules of this repository that no other tool knows.
//!
//! Each rule is a function from the repository's files to findings; a finding names the file, the
//! line where there is one, and what to do. Nothing is repaired here.

mod circles;
mod compat;
mod documents;
mod layers;
mod names;
mod ratchet;
mod rust;
mod text;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process::Call;
use crate::root;

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Counted from 1; 0 is the file as a whole.
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.path, self.message);
        }
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// A file of the repository.
#[derive(Debug)]
struct File {
    /// Relative to the root, with `/`.
    path: String,
    bytes: Vec<u8>,
}

impl File {
    fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    fn has_extension(&self, extensions: &[&str]) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, found)| extensions.contains(&found))
    }
}

/// All files that git knows or would add.
#[derive(Debug)]
struct Tree {
    root: PathBuf,
    files: Vec<File>,
}

impl Tree {
    fn read() -> Result<Self> {
        let root = root();
        let words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"];
        let list = Call::new(&root, &words).answer().context("list the files with git")?;
        let mut files = Vec::new();
        for path in list.lines() {
            // A file that was removed and not yet committed is still listed.
            if let Ok(bytes) = std::fs::read(root.join(path)) {
                files.push(File { path: path.to_owned(), bytes });
            }
        }
        Ok(Self { root, files })
    }

    fn file(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).and_then(File::text)
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}

/// Checks every rule and fails if there is a finding.
pub(crate) fn run() -> Result<()> {
    check(false)
}

/// Checks every rule, and notes in the ratchets what has become better.
pub(crate) fn tighten() -> Result<()> {
    check(true)
}

fn check(tighten: bool) -> Result<()> {
    let tree = Tree::read()?;
    let mut findings = text::check(&tree);
    findings.extend(layers::check(&tree));
    findings.extend(documents::check(&tree));
    findings.extend(compat::check(&tree));
    findings.extend(ratchet::check(&tree, tighten)?);
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy found {} things to mend", findings.len());
    }
    println!("tidy: {} files are in order", tree.files.len());
    Ok(())
}
