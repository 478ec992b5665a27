//! The texts of `--help` and `--version`.

use std::fmt::Write as _;

use keepd_api::SERVER_VERSION;

use super::table::{self, Flag, Section, Support};

/// Printed to standard error with every usage error and with `--help`.
pub(super) const USAGE: &str = "Usage:

  etcd [flags]
    Start the server.

  etcd --version
    Print the version.

  etcd -h | --help
    Print all flags.

  etcd --config-file FILE
    Take all settings from a YAML or JSON file; flags and environment variables are then ignored.
    Durations are whole nanoseconds there (600000000000 for 10m).
";

/// The headings, in order.
const HEADINGS: [(Section, &str); 12] = [
    (Section::Member, "Member"),
    (Section::Clustering, "Clustering"),
    (Section::Security, "Security"),
    (Section::Encryption, "Encryption at rest (keepd)"),
    (Section::Backup, "Backups (keepd)"),
    (Section::Auth, "Auth"),
    (Section::Monitoring, "Profiling and Monitoring"),
    (Section::Logging, "Logging"),
    (Section::Tracing, "Distributed tracing"),
    (Section::Features, "Features"),
    (Section::Unsafe, "Unsafe feature"),
    (Section::Other, "Other"),
];

/// All flags by section.
pub(super) fn flags() -> String {
    let mut out = String::new();
    for (section, heading) in HEADINGS {
        let _infallible = write!(out, "\n{heading}:\n");
        for flag in table::all().filter(|flag| flag.section == section) {
            let default = shown_default(flag);
            let note = match flag.support {
                Support::Full => String::new(),
                Support::AcceptedNoEffect(reason) => {
                    format!("\n    Accepted, without effect in keepd: {reason}.")
                }
                Support::Refused(reason) => format!("\n    Not available in keepd: {reason}."),
            };
            let _infallible =
                writeln!(out, "  --{} '{default}'\n    {}{note}", flag.name, flag.help);
        }
    }
    out.push_str(
        "\nEvery flag can be given as an environment variable too: ETCD_ and the name in capitals, \
         with _ for -.\n",
    );
    out
}

/// The default for people: an empty data directory is named after the member.
fn shown_default(flag: &Flag) -> &'static str {
    if flag.name == "data-dir" { "${name}.etcd" } else { flag.default }
}

/// etcd's four lines, which tools parse, and keepd's own.
pub(super) fn version() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "etcd Version: {SERVER_VERSION}\nGit SHA: {}\nGo Version: none\nGo OS/Arch: {}/{}\n\
         keepd Version: {}\n",
        crate::help::COMMIT,
        std::env::consts::OS,
        architecture,
        env!("CARGO_PKG_VERSION")
    )
}

/// The same as a document, `docs/operations/flags.md`.
#[cfg(test)]
pub(super) fn document() -> String {
    let mut out = format!(
        "# Server flags\n\n\
         Written from the table that the server reads (`crates/keepd/src/flags/table/`); a test \
         compares.\nEach flag is also the environment variable `ETCD_` + its name in capitals with \
         `_` for `-`, and a key of\nthe file given by `--config-file`, as in etcd \
         {SERVER_VERSION}.\n\n\
         - **full**: as in etcd.\n\
         - **no effect**: accepted, so that existing command lines work; a notice at the start \
         says so.\n\
         - **refused**: any value but the default ends the start, with the reason and what to do \
         instead.\n",
    );
    for (section, heading) in HEADINGS {
        let _infallible = write!(
            out,
            "\n## {heading}\n\n| flag | default | in keepd | meaning |\n|---|---|---|---|\n"
        );
        for flag in table::all().filter(|flag| flag.section == section) {
            let support = match flag.support {
                Support::Full => "full".to_owned(),
                Support::AcceptedNoEffect(reason) => format!("no effect: {reason}"),
                Support::Refused(reason) => format!("refused: {reason}"),
            };
            let default = shown_default(flag);
            let default = if default.is_empty() { "" } else { &format!("`{default}`") };
            let _infallible =
                writeln!(out, "| `--{}` | {default} | {support} | {} |", flag.name, flag.help);
        }
    }
    out
}
