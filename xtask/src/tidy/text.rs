//! Rules about single files: length, encoding, white space, size, names.

use super::{File, Finding, Tree};

/// Lines of a source file, tests excluded.
const SOURCE_LINES_MAX: usize = 600;
/// Bytes of any file but the lock files, which tools write.
const BLOB_BYTES_MAX: usize = 100 * 1024;
const LOCK_FILES: &[&str] = &["Cargo.lock", "go.sum", "go.mod"];
/// The folder of a crate at build time; clones that share a target folder would run with another's.
const BUILD_FOLDER: &str = concat!("env!(", "\"CARGO_MANIFEST_DIR\")");
const TEXT: &[&str] = &[
    "rs", "go", "proto", "toml", "md", "yaml", "yml", "sh", "txt", "html", "css", "js", "service",
];
/// Source must be ASCII; what it prints beyond that is written with escapes.
const ASCII: &[&str] = &["rs", "go", "proto", "toml", "sh", "yaml", "yml"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        check_file(file, &mut findings);
    }
    findings
}

fn check_file(file: &File, findings: &mut Vec<Finding>) {
    let path = file.path.as_str();
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_lock = LOCK_FILES.contains(&name);
    if file.bytes.len() > BLOB_BYTES_MAX && !is_lock {
        let size = file.bytes.len();
        findings.push(Finding::new(path, 0, format!("{size} bytes, more than {BLOB_BYTES_MAX}")));
    }
    if name == "mod.rs" {
        findings.push(Finding::new(path, 0, "name the file after the module, beside its folder"));
    }
    if is_lock || path.contains("/golden/") || !file.has_extension(TEXT) {
        return;
    }
    let Some(text) = file.text() else {
        findings.push(Finding::new(path, 0, "is not UTF-8"));
        return;
    };
    for (position, line) in text.lines().enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(Finding::new(path, position + 1, "ends with white space"));
        }
        if file.has_extension(ASCII) && !line.is_ascii() {
            findings.push(Finding::new(path, position + 1, "is not ASCII: write an escape"));
        }
    }
    if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        findings.push(Finding::new(path, 0, "must end with exactly one line feed"));
    }
    if file.has_extension(&["rs"]) {
        check_rust(path, name, text, findings);
    }
}

fn check_rust(path: &str, name: &str, text: &str, findings: &mut Vec<Finding>) {
    if !text.starts_with("//!") {
        findings.push(Finding::new(path, 1, "must begin with `//!`: what it is and its place"));
    }
    for (position, line) in text.lines().enumerate() {
        if line.contains(BUILD_FOLDER) {
            let message = "bakes in a folder: a test runs in its own, a program reads the variable";
            findings.push(Finding::new(path, position + 1, message));
        }
    }
    let is_test = name == "tests.rs" || path.contains("/tests/");
    let lines = source_lines(text);
    if !is_test && lines > SOURCE_LINES_MAX {
        let message = format!("{lines} lines without tests, more than {SOURCE_LINES_MAX}");
        findings.push(Finding::new(path, 0, message));
    }
}

/// The lines before the test module, which is last by convention.
fn source_lines(text: &str) -> usize {
    let mut lines = text.lines().enumerate().peekable();
    while let Some((position, line)) = lines.next() {
        let next_is_module = lines.peek().is_some_and(|(_, next)| next.starts_with("mod "));
        if line == "#[cfg(test)]" && next_is_module {
            return position;
        }
    }
    text.lines().count()
}

#[cfg(test)]
mod tests {
    use super::{BUILD_FOLDER, check_file, source_lines};
    use crate::tidy::File;

    fn messages(path: &str, bytes: &[u8]) -> Vec<String> {
        let mut findings = Vec::new();
        check_file(&File { path: path.to_owned(), bytes: bytes.to_vec() }, &mut findings);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_clean_file_has_no_findings() {
        assert_eq!(messages("crates/a/src/lib.rs", b"//! A.\n\nfn a() {}\n"), [""; 0]);
    }

    #[test]
    fn each_rule_finds_its_breach() {
        let long = format!("//! A.\n{}", "x\n".repeat(600));
        let baked = format!("//! A.\nlet path = {BUILD_FOLDER};\n");
        let big = vec![b'x'; 100 * 1024 + 1];
        for (path, bytes, expected) in [
            ("a/mod.rs", b"//! A.\n".as_slice(), "name the file after the module"),
            ("a/b.rs", b"fn b() {}\n", "must begin with"),
            ("a/b.rs", b"//! A. \n", ":1: ends with white space"),
            ("a/b.rs", "//! A \u{2192} B\n".as_bytes(), ":1: is not ASCII"),
            ("a/b.rs", b"//! A.", "exactly one line feed"),
            ("a/b.rs", baked.as_bytes(), ":2: bakes in a folder"),
            ("a/b.rs", long.as_bytes(), "601 lines without tests"),
            ("a/b.bin", &big, "102401 bytes"),
        ] {
            let found = messages(path, bytes);
            assert_eq!(found.len(), 1, "{path}: {found:?}");
            assert!(found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn lines_of_the_test_module_do_not_count() {
        assert_eq!(source_lines("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(source_lines("a\n#[cfg(test)]\nfn helper() {}\nb\n"), 4);
    }
}
