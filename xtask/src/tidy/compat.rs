//! Completeness of COMPAT.md: every RPC of the protocol and every flag of the server has a row.
//!
//! RPCs come from the `.proto` files, flags from the tables that the server itself reads.

use super::{Finding, Tree};

const COMPAT: &str = "COMPAT.md";
const FLAG_TABLES: &str = "crates/keepd/src/flags/table/";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    // Until the document exists there is nothing to compare with.
    let Some(compat) = tree.file(COMPAT) else { return Vec::new() };
    let rows: Vec<&str> = compat.lines().filter(|line| line.starts_with('|')).collect();
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.has_extension(&["proto"])) {
        let Some(text) = file.text() else { continue };
        for (position, service, method) in methods(text) {
            if !rows.iter().any(|row| has_word(row, method)) {
                let message = format!("{service}.{method} has no row in {COMPAT}");
                findings.push(Finding::new(&file.path, position, message));
            }
        }
    }
    for file in tree.files.iter().filter(|file| file.path.starts_with(FLAG_TABLES)) {
        for name in flags(file.text().unwrap_or_default()) {
            let flag = format!("--{name}");
            if !rows.iter().any(|row| has_word(row, &flag)) {
                findings.push(Finding::new(
                    &file.path,
                    0,
                    format!("{flag} has no row in {COMPAT}"),
                ));
            }
        }
    }
    findings
}

/// The names of the flags of a table: the first text of each entry. Old spellings are left out.
fn flags(text: &str) -> impl Iterator<Item = &str> {
    text.split("Flag::new(").skip(1).filter_map(|entry| {
        let mut parts = entry.split('"');
        let section = parts.next()?;
        (!section.contains("Hidden")).then(|| parts.next()).flatten()
    })
}

/// The line, service and name of each RPC.
fn methods(text: &str) -> Vec<(usize, &str, &str)> {
    let mut service = "";
    let mut found = Vec::new();
    for (position, line) in text.lines().enumerate() {
        let mut words = line.split([' ', '(', '{']).filter(|word| !word.is_empty());
        match (words.next(), words.next()) {
            (Some("service"), Some(name)) => service = name,
            (Some("rpc"), Some(name)) => found.push((position + 1, service, name)),
            _ => {}
        }
    }
    found
}

/// Whether `word` stands in `text` and is not part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').any(|w| w == word)
}

#[cfg(test)]
mod tests {
    use super::{flags, has_word, methods};

    #[test]
    fn rpcs_are_found_with_their_service() {
        let text =
            "service KV {\n  rpc Range(RangeRequest) returns (RangeResponse);\n  // rpc No\n}";
        assert_eq!(methods(text), [(2, "KV", "Range")]);
    }

    #[test]
    fn flags_are_found_and_old_spellings_are_not() {
        let text = "Flag::new(Member, \"name\", K, \"default\"),\nFlag::new(\n Hidden,\n \"old\")";
        assert_eq!(flags(text).collect::<Vec<_>>(), ["name"]);
    }

    #[test]
    fn a_word_inside_a_longer_one_is_not_that_word() {
        assert!(has_word("| KV.Range | done |", "Range"));
        assert!(!has_word("| KV.RangeStream | done |", "Range"));
        assert!(has_word("| `--data-dir` | done |", "--data-dir"));
    }
}
