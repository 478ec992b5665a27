//! Golden files: what a test compares, in text files that read as a specification.
//!
//! With `BLESS=1` in the environment every function here rewrites its files instead of comparing,
//! for review. Paths are relative to the crate, where cargo runs its tests.
//!
//! - [`check`] runs scripts of commands. A new test is a new block.
//! - [`check_documents`] reads documents (configurations), several in a file.
//! - [`check_table`] reads lines `input<TAB>output`: many short cases of one function.
//! - [`compare`] is for what a test generates itself.
//!
//! A script is a list of blocks with a blank line between them:
//!
//! ```text
//! # What the block shows.
//! put a 1 lease=7
//! get a
//! ---
//! revision 2
//! a=1
//! ```
//!
//! First the commands, then a line `---` and the output of them all. No output is written `ok`;
//! one with blank lines is written with `> ` before each line. Lines that begin with `#` are
//! comments. A command is a name, then words; a word `name=value` is a named argument, and one
//! that the runner did not look at fails the test.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One command line of a script.
#[derive(Debug, Default)]
pub struct Command {
    /// The line as written.
    pub line: String,
    /// Its first word.
    pub name: String,
    /// The words after it that are not named.
    pub words: Vec<String>,
    named: BTreeMap<String, String>,
    /// The named arguments that the runner looked at.
    used: RefCell<BTreeSet<String>>,
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

    /// The named argument, if it is given.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&str> {
        self.used.borrow_mut().insert(name.to_owned());
        self.named.get(name).map(String::as_str)
    }

    /// A named number, or `default`.
    ///
    /// # Panics
    /// If it is not a number: the script is wrong.
    #[must_use]
    pub fn named_number(&self, name: &str, default: i64) -> i64 {
        self.named(name).map_or(default, |value| {
            value.parse().unwrap_or_else(|_| panic!("`{}`: {name} is not a number", self.line))
        })
    }

    /// Whether `word` is among the unnamed words.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// Everything after the name, as written, for a runner with a syntax of its own. Counts as a
    /// look at every named argument.
    #[must_use]
    pub fn rest(&self) -> &str {
        self.used.borrow_mut().extend(self.named.keys().cloned());
        let line = self.line.trim();
        line.strip_prefix(&self.name).unwrap_or(line).trim_start()
    }

    fn assert_all_used(&self) {
        let used = self.used.borrow();
        let unknown: Vec<_> = self.named.keys().filter(|name| !used.contains(*name)).collect();
        assert!(unknown.is_empty(), "`{}`: unknown arguments {unknown:?}", self.line);
    }
}

/// Runs a script, or every `*.txt` of a folder, each with a fresh runner from `new`, and compares.
///
/// # Panics
/// If a file cannot be read or written, there is none, or an output differs.
pub fn check<R: FnMut(&Command) -> String>(path: impl AsRef<Path>, new: impl Fn() -> R) {
    let files = scripts(path.as_ref());
    compare_all(files.iter().map(|path| (path.as_path(), replay(&read(path), new()))));
}

/// Reads every document of the file and compares.
///
/// The file is a list of cases: a line `## title`, the document, a line `=====`, and the output of
/// `run` for it. A document may have blank lines and lines `---`, as YAML does.
///
/// # Panics
/// If the file cannot be read or written, is not of that form, or an output differs.
pub fn check_documents(path: impl AsRef<Path>, run: impl Fn(&str) -> String) {
    let mut actual = String::new();
    for case in read(path.as_ref()).split("## ").skip(1) {
        let (title, rest) = case.split_once('\n').expect("a case has a title");
        let (input, _) = rest.split_once("=====\n").expect("a case has an output");
        actual.push_str(&format!("## {title}\n{input}=====\n{}\n\n", run(input)));
    }
    compare(path, &actual);
}

/// Reads every line `input<TAB>output` of the file and compares the output of `run`. Empty lines
/// and those that begin with `#` are comments.
///
/// # Panics
/// If the file cannot be read or written, or an output differs.
pub fn check_table(path: impl AsRef<Path>, run: impl Fn(&str) -> String) {
    let mut actual = String::new();
    for line in read(path.as_ref()).lines() {
        let input = line.split('\t').next().unwrap_or_default();
        actual.push_str(input);
        if !line.is_empty() && !line.starts_with('#') {
            actual.push_str(&format!("\t{}", run(input)));
        }
        actual.push('\n');
    }
    compare(path, &actual);
}

/// Compares the file with `actual`.
///
/// # Panics
/// If the file cannot be read or written, or differs.
pub fn compare(path: impl AsRef<Path>, actual: &str) {
    compare_all([(path.as_ref(), actual.to_owned())]);
}

fn compare_all<'a>(files: impl IntoIterator<Item = (&'a Path, String)>) {
    let bless = std::env::var_os("BLESS").is_some();
    let mut differing = Vec::new();
    for (path, actual) in files {
        if bless {
            fs::write(path, &actual).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            continue;
        }
        let expected = read(path);
        if actual != expected {
            let difference = first_difference(&expected, &actual);
            differing.push(format!("{}:{difference}", path.display()));
        }
    }
    assert!(differing.is_empty(), "BLESS=1 rewrites these:\n{}", differing.join("\n"));
}

/// The file, or the files of the folder, sorted.
fn scripts(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut files: Vec<PathBuf> = fs::read_dir(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| entry.expect("the directory can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no golden files", path.display());
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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
                let command = Command::parse(line);
                output.push_str(&run(&command));
                command.assert_all_used();
                if !output.is_empty() && !output.ends_with('\n') {
                    output.push('\n');
                }
            }
        }
        if commands > 0 {
            result.push_str("---\n");
            result.push_str(&written(output));
        }
    }
    result
}

/// The output as it stands in the file.
fn written(output: String) -> String {
    if output.is_empty() {
        return "ok\n".to_owned();
    }
    if output.lines().all(|line| !line.is_empty()) {
        return output;
    }
    output.lines().map(|line| format!("> {line}").trim_end().to_owned() + "\n").collect()
}

/// The number of the first line that differs, and both forms of it.
fn first_difference(expected: &str, actual: &str) -> String {
    let (mut expected, mut actual) = (expected.split('\n'), actual.split('\n'));
    for number in 1.. {
        let pair = (expected.next(), actual.next());
        if pair.0 != pair.1 || pair == (None, None) {
            let [expected, actual] = [pair.0, pair.1].map(|line| line.unwrap_or("(end of file)"));
            return format!("{number}\n  expected: {expected}\n  actual:   {actual}");
        }
    }
    unreachable!("the file ends")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `say WORDS`, `count from=N`, `verse` (two lines with a blank one between), `quiet`.
    fn runner(command: &Command) -> String {
        match command.name.as_str() {
            "say" => command.rest().to_owned(),
            "count" => format!("{}\n", command.named_number("from", 1) + 1),
            "verse" => "one\n\ntwo\n".to_owned(),
            _ => String::new(),
        }
    }

    #[test]
    fn a_script_reads_as_commands_and_their_output() {
        let text = "# Comment.\nsay a b=c  d\ncount from=4\n---\na b=c  d\n5\n\nquiet\n---\nok\n";
        assert_eq!(replay(text, runner), text);
        let text = "verse\n---\n> one\n>\n> two\n\n# The end.\n";
        assert_eq!(replay(text, runner), text);
        assert_eq!(replay("verse\n---\nold\n\n# The end.\n", runner), text);
    }

    #[test]
    #[should_panic(expected = "`count form=4`: unknown arguments [\"form\"]")]
    fn a_misspelt_argument_fails() {
        replay("count form=4\n", runner);
    }

    #[test]
    fn the_first_difference_is_shown_with_its_line() {
        let shown = first_difference("a\nb\nc\n", "a\nx\nc\n");
        assert_eq!(shown, "2\n  expected: b\n  actual:   x");
        let shown = first_difference("a\n", "a");
        assert_eq!(shown, "2\n  expected: \n  actual:   (end of file)");
    }
}
