//! Numbers that may move in one direction only, and breaches that are listed and may only get
//! fewer.
//!
//! `xtask/ratchets.txt` holds them; `cargo xtask tidy --tighten` writes what is better now into it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::circles::Imports;
use super::names;
use super::rust::product_tokens;
use super::{File, Finding, Tree};

pub(super) const PATH: &str = "xtask/ratchets.txt";
const HEAD: &str = "\
# What `cargo xtask tidy` lets pass, and only until it is better: asserts of a crate may only become
# more, doc comments that begin with What, Who, Whose, Where, How or Why only fewer, circles of imports
# and private names only be removed. `cargo xtask tidy --tighten` writes what is better now.
#
# asserts CRATE COUNT | questions CRATE COUNT | circle CRATE FILES: WHY IT STAYS | name FILE NAME
";

/// Counts and breaches, as the rules find them or the file allows them.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    asserts: BTreeMap<String, usize>,
    questions: BTreeMap<String, usize>,
    /// Crate and files, with the reason.
    circles: BTreeMap<(String, BTreeSet<String>), String>,
    /// File and name.
    names: BTreeSet<(String, String)>,
}

/// Compares with the file; with `tighten` writes it anew first.
pub(super) fn check(tree: &Tree, tighten: bool) -> Result<Vec<Finding>> {
    let found = State::find(tree);
    let allowed = State::parse(tree.file(PATH).unwrap_or_default())?;
    let (findings, better) = allowed.compare(&found);
    if !better.is_empty() && !tighten {
        println!("better than noted, `cargo xtask tidy --tighten` keeps it: {}", better.join("; "));
    }
    let is_first = allowed == State::default();
    if tighten && (findings.is_empty() || is_first) {
        let text = allowed.tightened(&found).to_string();
        std::fs::write(tree.root.join(PATH), text).with_context(|| format!("write {PATH}"))?;
    }
    println!("{}", found.table(tree));
    Ok(findings)
}

/// The crate that a file belongs to.
fn crate_of(path: &str) -> Option<&str> {
    let (folder, rest) = path.split_once('/')?;
    match folder {
        "crates" | "testing" => rest.split('/').next(),
        "xtask" => Some(folder),
        _ => None,
    }
}

fn sources(tree: &Tree) -> impl Iterator<Item = (&str, &File)> {
    let sources = tree.files.iter().filter(|file| file.has_extension(&["rs"]));
    sources.filter_map(|file| Some((crate_of(&file.path)?, file)))
}

/// The files of each crate's `src`: path below it, and text.
fn product(tree: &Tree) -> BTreeMap<&str, Vec<(&str, &str)>> {
    let mut crates: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (name, file) in sources(tree) {
        let below = file.path.strip_prefix(&format!("crates/{name}/src/"));
        if let (Some(below), Some(text)) = (below, file.text()) {
            crates.entry(name).or_default().push((below, text));
        }
    }
    crates
}

fn is_assert(pair: &[&str]) -> bool {
    matches!(pair, ["assert" | "assert_eq" | "assert_ne", "!"])
}

impl State {
    fn find(tree: &Tree) -> Self {
        let mut found = Self::default();
        for (name, file) in sources(tree) {
            let count = names::questions(file.text().unwrap_or_default());
            *found.questions.entry(name.to_owned()).or_default() += count;
            let private = names::private_names(file).into_iter();
            found.names.extend(private.map(|private| (file.path.clone(), private)));
        }
        for (name, files) in product(tree) {
            let imports = Imports::new(files.iter().copied());
            let asserts = files.iter().filter(|(below, _)| imports.contains(below));
            let asserts = asserts.map(|(_, text)| {
                product_tokens(text).windows(2).filter(|pair| is_assert(pair)).count()
            });
            found.asserts.insert(name.to_owned(), asserts.sum());
            for circle in imports.circles() {
                let circle = circle.into_iter().collect();
                found.circles.insert((name.to_owned(), circle), String::new());
            }
        }
        found.questions.retain(|_, count| *count > 0);
        found
    }

    fn parse(text: &str) -> Result<Self> {
        let mut state = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            state.parse_line(line).with_context(|| format!("{PATH}: cannot read `{line}`"))?;
        }
        Ok(state)
    }

    fn parse_line(&mut self, line: &str) -> Option<()> {
        let (rule, rest) = line.split_once(' ')?;
        let (subject, rest) = rest.split_once(' ')?;
        match rule {
            "asserts" => drop(self.asserts.insert(subject.to_owned(), rest.parse().ok()?)),
            "questions" => drop(self.questions.insert(subject.to_owned(), rest.parse().ok()?)),
            "circle" => {
                let (files, why) = rest.split_once(": ")?;
                let files = files.split(' ').map(str::to_owned).collect();
                self.circles.insert((subject.to_owned(), files), why.to_owned());
            }
            "name" => drop(self.names.insert((subject.to_owned(), rest.to_owned()))),
            _ => return None,
        }
        Some(())
    }

    /// Findings for all that is worse than allowed, and notes of all that is better.
    fn compare(&self, found: &Self) -> (Vec<Finding>, Vec<String>) {
        let (mut worse, mut better) = (Vec::new(), Vec::new());
        for (name, count) in &found.asserts {
            let least = self.asserts.get(name).copied().unwrap_or_default();
            if *count < least {
                let message = format!("{name} had {least} asserts and has {count}: none goes away");
                worse.push(Finding::new(PATH, 0, message));
            } else if *count > least {
                better.push(format!("{name} {count} asserts ({least})"));
            }
        }
        for name in found.questions.keys().chain(self.questions.keys()).collect::<BTreeSet<_>>() {
            let of = |state: &Self| state.questions.get(name).copied().unwrap_or_default();
            let (count, most) = (of(found), of(self));
            if count > most {
                let message = format!(
                    "{count} doc comments of {name} begin with What, Who, Whose, Where, How or Why, \
                     and {most} did: begin with a noun, or a verb for a function"
                );
                worse.push(Finding::new(PATH, 0, message));
            } else if count < most {
                better.push(format!("{name} {count} questions ({most})"));
            }
        }
        for (name, circle) in found.circles.keys() {
            if self.reason(name, circle).is_none() {
                let files: Vec<&str> = circle.iter().map(String::as_str).collect();
                let message = format!("files import each other: {}", files.join(" "));
                worse.push(Finding::new(&format!("crates/{name}/src"), 0, message));
            }
        }
        for (path, name) in found.names.difference(&self.names) {
            worse.push(Finding::new(
                path,
                0,
                format!("{name} is a private word: see the glossary"),
            ));
        }
        let gone = self.circles.len().saturating_sub(found.circles.len());
        let gone = gone + self.names.difference(&found.names).count();
        if gone > 0 {
            better.push(format!("{gone} circles or names are gone"));
        }
        (worse, better)
    }

    /// The reason of the allowed circle that holds all files of this one.
    fn reason(&self, name: &str, circle: &BTreeSet<String>) -> Option<&str> {
        let mut allowed = self.circles.iter();
        let holds =
            |known: &str, files: &BTreeSet<String>| known == name && circle.is_subset(files);
        allowed.find(|((known, files), _)| holds(known, files)).map(|(_, why)| why.as_str())
    }

    /// The found state with the reasons of the allowed one.
    fn tightened(&self, found: &Self) -> Self {
        let circles = found.circles.keys().map(|(name, circle)| {
            let why = self.reason(name, circle).unwrap_or_default();
            ((name.clone(), circle.clone()), why.to_owned())
        });
        Self {
            asserts: found.asserts.clone(),
            questions: found.questions.clone(),
            circles: circles.collect(),
            names: found.names.clone(),
        }
    }

    /// Asserts of each crate beside its functions.
    fn table(&self, tree: &Tree) -> String {
        let mut table = String::from("asserts that stay on in releases:");
        let (mut asserts, mut functions) = (0, 0);
        for (name, files) in product(tree) {
            let tokens = files.iter().map(|(_, text)| product_tokens(text));
            let own: usize = tokens.map(|t| t.iter().filter(|token| **token == "fn").count()).sum();
            let count = self.asserts.get(name).copied().unwrap_or_default();
            let _infallible = write!(table, "\n  {name:16} {count:4} in {own:4} functions");
            (asserts, functions) = (asserts + count, functions + own);
        }
        let _infallible = write!(table, "\n  {:16} {asserts:4} in {functions:4} functions", "all");
        table
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HEAD)?;
        for (name, count) in &self.asserts {
            writeln!(f, "asserts {name} {count}")?;
        }
        for (name, count) in &self.questions {
            writeln!(f, "questions {name} {count}")?;
        }
        for ((name, files), why) in &self.circles {
            let files: Vec<&str> = files.iter().map(String::as_str).collect();
            writeln!(f, "circle {name} {}: {why}", files.join(" "))?;
        }
        for (path, name) in &self.names {
            writeln!(f, "name {path} {name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    const TEXT: &str =
        "asserts a 3\nquestions a 2\ncircle a x.rs y.rs z.rs: one tree\nname p room\n";

    fn worse(found: &str) -> Vec<String> {
        let (allowed, found) = (State::parse(TEXT).unwrap(), State::parse(found).unwrap());
        allowed.compare(&found).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn better_passes_and_worse_does_not() {
        assert_eq!(worse("asserts a 4\nquestions a 1\ncircle a x.rs y.rs: \n"), [""; 0]);
        let found = "asserts a 2\nquestions a 3\ncircle a x.rs q.rs: \nname p turns\n";
        assert_eq!(worse(found).len(), 4);
        assert_eq!(worse("asserts a 3\nquestions b 1\n").len(), 1);
    }

    #[test]
    fn what_is_better_is_kept_with_its_reason() {
        let allowed = State::parse(TEXT).unwrap();
        let found = State::parse("asserts a 4\ncircle a x.rs y.rs: \n").unwrap();
        let text = allowed.tightened(&found).to_string();
        assert!(text.ends_with("\nasserts a 4\ncircle a x.rs y.rs: one tree\n"), "{text}");
    }
}
