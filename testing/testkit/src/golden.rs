//! Golden scripts: commands and what they print, in text files that read as a specification.
//!
//! A file is a list of blocks with a blank line between them. A block is command lines, a line
//! `---`, and the output of all its commands (none: `ok`). Lines that begin with `#` are comments.
//! A command line is a name, then words; a word `name=value` is a named argument.
//!
//! With `BLESS=1` in the environment the files are rewritten instead of compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One command line.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// The line as written.
    pub line: String,
    /// Its first word.
    pub name: String,
    /// The words behind it that are not named.
    pub words: Vec<String>,
    /// The named ones.
    pub named: BTreeMap<String, String>,
}

impl Command {
    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        let mut command = Self { line: line.to_owned(), name, ..Self::default() };
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => {
                    command.named.insert(key.to_owned(), value.to_owned());
                }
                None => command.words.push(word.to_owned()),
            }
        }
        command
    }

    /// The word at `position`.
    ///
    /// # Panics
    /// If there is none: the script is wrong.
    #[must_use]
    pub fn word(&self, position: usize) -> &str {
        self.words.get(position).unwrap_or_else(|| panic!("`{}` lacks a word", self.line))
    }

    /// The word at `position` as a number.
    ///
    /// # Panics
    /// If there is none: the script is wrong.
    #[must_use]
    pub fn number(&self, position: usize) -> i64 {
        self.word(position).parse().unwrap_or_else(|_| panic!("`{}`: not a number", self.line))
    }

    /// A named number, or `default`.
    ///
    /// # Panics
    /// If it is not a number: the script is wrong.
    #[must_use]
    pub fn named_number(&self, name: &str, default: i64) -> i64 {
        self.named.get(name).map_or(default, |value| {
            value.parse().unwrap_or_else(|_| panic!("`{}`: {name} is not a number", self.line))
        })
    }

    /// Whether `word` is among the unnamed words.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }
}

/// Runs every `*.txt` of `dir`, each with a fresh runner from `new`, and compares.
///
/// # Panics
/// If a file cannot be read or written, there is none, or an output differs.
pub fn check<R: FnMut(&Command) -> String>(dir: &Path, new: impl Fn() -> R) {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("the directory can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no golden files", dir.display());
    let bless = std::env::var_os("BLESS").is_some();
    let mut differing = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("the golden file is text");
        let actual = replay(&text, new());
        if bless {
            fs::write(&path, &actual).expect("the golden file can be written");
        } else if actual != text {
            differing.push(format!("{}:\n{}", path.display(), first_difference(&text, &actual)));
        }
    }
    assert!(differing.is_empty(), "BLESS=1 rewrites these:\n{}", differing.join("\n"));
}

fn replay<R: FnMut(&Command) -> String>(text: &str, mut run: R) -> String {
    let mut result = String::new();
    for (position, block) in text.trim_end().split("\n\n").enumerate() {
        if position > 0 {
            result.push('\n');
        }
        let input = block.split_once("\n---").map_or(block, |(input, _)| input);
        let mut output = String::new();
        let mut commands = 0;
        for line in input.lines() {
            result.push_str(line);
            result.push('\n');
            if !line.starts_with('#') && !line.trim().is_empty() {
                commands += 1;
                output.push_str(&run(&Command::parse(line)));
            }
        }
        let has_blank_line = output.starts_with('\n') || output.contains("\n\n");
        assert!(!has_blank_line, "a blank line would end the block: {output:?}");
        if commands > 0 {
            result.push_str("---\n");
            result.push_str(if output.is_empty() { "ok\n" } else { &output });
        }
    }
    result
}

fn first_difference(expected: &str, actual: &str) -> String {
    let mut expected_lines = expected.lines();
    for (number, actual_line) in actual.lines().enumerate() {
        let expected_line = expected_lines.next().unwrap_or("(end of file)");
        if expected_line != actual_line {
            let number = number + 1;
            return format!(
                "line {number}\n  expected: {expected_line}\n  actual:   {actual_line}"
            );
        }
    }
    format!("  expected: {}\n  actual:   (end)", expected_lines.next().unwrap_or("(end)"))
}
