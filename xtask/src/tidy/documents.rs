//! Rules about documents: what they point to exists.

use std::path::{Component, Path, PathBuf};

use super::{File, Finding, Tree};

/// A word in backquotes that begins with one of these is taken as a path in the repository.
const FOLDERS: &[&str] =
    &["crates/", "testing/", "docs/", "deploy/", "xtask/", "fuzz/", ".ci/", ".cargo/"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.has_extension(&["md"])) {
        check_document(tree, file, &mut findings);
    }
    findings
}

fn check_document(tree: &Tree, file: &File, findings: &mut Vec<Finding>) {
    let Some(text) = file.text() else { return };
    for (position, line) in text.lines().enumerate() {
        for path in quoted_paths(line) {
            if !tree.exists(path) {
                let message = format!("names {path}, which does not exist");
                findings.push(Finding::new(&file.path, position + 1, message));
            }
        }
        for target in link_targets(line) {
            let folder = Path::new(&file.path).parent().unwrap_or_else(|| Path::new(""));
            if !tree.exists(&normal(&folder.join(target))) {
                let message = format!("links to {target}, which does not exist");
                findings.push(Finding::new(&file.path, position + 1, message));
            }
        }
    }
}

/// Paths between backquotes. Patterns (`*`, `<name>`, `{a,b}`, `...`) are not checked.
fn quoted_paths(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|word| {
        FOLDERS.iter().any(|folder| word.starts_with(folder))
            && !word.contains(['*', '<', '{', '$', ' ', '|', ':'])
            && !word.contains("...")
            && !word.contains("NNNN")
    })
}

/// Targets of `[text](target)` that lie in the repository.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', '#', ' ']).next()?;
        let is_local = !target.is_empty() && !target.contains(':');
        is_local.then_some(target)
    })
}

/// Resolves `..` without looking at the disk, so that links out of a folder work.
fn normal(path: &Path) -> String {
    let mut parts = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                parts.pop();
            }
            Component::Normal(part) => parts.push(part),
            _ => {}
        }
    }
    parts.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{link_targets, normal, quoted_paths};

    #[test]
    fn paths_in_backquotes_are_found_and_patterns_are_not() {
        let line = "see `crates/keepd-types/src/key.rs`, `crates/*`, `put a` and `docs/formats/`";
        let found: Vec<_> = quoted_paths(line).collect();
        assert_eq!(found, ["crates/keepd-types/src/key.rs", "docs/formats/"]);
    }

    #[test]
    fn only_local_links_are_found() {
        let line = "[a](../README.md#top) [b](https://example.org/x) [c](#here)";
        assert_eq!(link_targets(line).collect::<Vec<_>>(), ["../README.md"]);
        assert_eq!(normal(Path::new("docs/formats/../../README.md")), "README.md");
    }
}
