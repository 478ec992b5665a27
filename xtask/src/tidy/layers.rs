//! The layer rule: a crate may only depend on crates further down.
//!
//! The order below is the one that ARCHITECTURE.md draws. Inside the mechanisms an arrow may go
//! to an earlier one (a log uses the sealing), never back.

use super::{Finding, Tree};

/// From the bottom up.
const ORDER: &[&str] = &[
    "keepd-gotext",
    "keepd-types",
    "keepd-env",
    "keepd-crypto",
    "keepd-wal",
    "keepd-mvcc",
    "keepd-watch",
    "keepd-lease",
    "keepd-auth",
    "keepd-bolt",
    "keepd-member",
    "keepd-machine",
    "keepd-raft",
    "keepd-api",
    "keepd-tls",
    "keepd-kms",
    "keepd-backup",
    "keepd-archive",
    "keepd-cli",
    "keepd-node",
    "keepd-peer",
    "keepd-server",
    "keepd",
];

/// The highest crate that must stay synchronous and deterministic.
const SYNCHRONOUS_UP_TO: &str = "keepd-raft";
/// Foreign crates that the synchronous ones must not use.
const ASYNCHRONOUS: &[&str] = &[
    "tokio",
    "tokio-stream",
    "tokio-util",
    "tonic",
    "hyper",
    "hyper-util",
    "axum",
    "futures-util",
];
/// The one crate that may name the consensus library.
const RAFT_OWNER: &str = "keepd-raft";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let Some(name) = file.path.strip_prefix("crates/") else { continue };
        let Some(name) = name.strip_suffix("/Cargo.toml") else { continue };
        let Some(text) = file.text() else { continue };
        check_manifest(&file.path, name, text, &mut findings);
    }
    findings
}

fn height(name: &str) -> Option<usize> {
    ORDER.iter().position(|known| *known == name)
}

fn check_manifest(path: &str, name: &str, text: &str, findings: &mut Vec<Finding>) {
    let Some(own) = height(name) else {
        findings.push(Finding::new(path, 0, "give the new crate a place in xtask's layer order"));
        return;
    };
    let is_synchronous = height(SYNCHRONOUS_UP_TO).is_some_and(|limit| own <= limit);
    let mut in_dependencies = false;
    for (position, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            // Development dependencies may go anywhere: they are not part of the product.
            in_dependencies = line.ends_with("dependencies]") && !line.contains("dev-");
            continue;
        }
        let dependency = line.split(['.', '=', ' ']).next().unwrap_or_default();
        if !in_dependencies || dependency.is_empty() || dependency.starts_with('#') {
            continue;
        }
        if height(dependency).is_some_and(|other| other >= own) {
            let message = format!("{name} must not depend on {dependency}, which is not below it");
            findings.push(Finding::new(path, position + 1, message));
        }
        if is_synchronous && ASYNCHRONOUS.contains(&dependency) {
            let message = format!("{name} is synchronous and must not use {dependency}");
            findings.push(Finding::new(path, position + 1, message));
        }
        if dependency == "raft" && name != RAFT_OWNER {
            let message = format!("only {RAFT_OWNER} may name the raft crate");
            findings.push(Finding::new(path, position + 1, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check_manifest;

    fn found(name: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check_manifest("Cargo.toml", name, text, &mut findings);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn arrows_down_are_fine_and_arrows_up_are_not() {
        let text = "[dependencies]\nkeepd-types.workspace = true\nkeepd-mvcc.workspace = true\n";
        assert_eq!(found("keepd-watch", text), [""; 0]);
        assert_eq!(
            found("keepd-crypto", text),
            ["Cargo.toml:3: keepd-crypto must not depend on keepd-mvcc, which is not below it"]
        );
    }

    #[test]
    fn tests_of_a_crate_may_use_anything() {
        assert_eq!(
            found("keepd-env", "[dev-dependencies]\nkeepd-mvcc.workspace = true\n"),
            [""; 0]
        );
    }

    #[test]
    fn mechanisms_are_synchronous_and_raft_has_one_owner() {
        let text = "[dependencies]\ntokio = \"1\"\nraft.workspace = true\n";
        assert_eq!(found("keepd-wal", text).len(), 2);
        assert_eq!(found("keepd-node", text).len(), 1);
    }
}
