//! Usual causes of a configuration that does not read: indentation lost in a paste, tabs,
//! typographic quotes and dashes.
//!
//! Only a text that has been refused is searched, so nothing here can refuse a good one.

/// Every field that the format knows.
const FIELDS: &[&str] = &[
    "apiVersion",
    "kind",
    "resources",
    "providers",
    "aescbc",
    "aesgcm",
    "secretbox",
    "kms",
    "identity",
    "keys",
    "name",
    "secret",
    "endpoint",
    "timeout",
    "cachesize",
];

/// A whole configuration, for a file whose indentation was lost.
const SHAPE: &str = "\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources:
      - secrets
    providers:
      - aescbc:
          keys:
            - name: key1
              secret: <32 random bytes in base64: keepd encryption keygen>
      - identity: {}";

/// Fields that never stand at the left margin.
const INNER_FIELDS: &[&str] =
    &["providers", "keys", "name", "secret", "aescbc", "aesgcm", "secretbox", "identity", "kms"];

/// Advice for a text that was refused; empty if nothing usual is found.
pub(super) fn find(text: &str) -> Vec<String> {
    let lines = || (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with('#'));
    let mut hints = Vec::new();
    if let Some((number, _)) = lines().find(|(_, line)| starts_an_inner_field(line)) {
        hints.push(format!(
            "the indentation was lost, as when text is pasted into an editor: line {number} \
             cannot stand at the left margin. the file must be indented like this:\n\n{SHAPE}\n"
        ));
    }
    let mut first = |finds: &dyn Fn(&str) -> bool, hint: &str| {
        if let Some((number, _)) = lines().find(|(_, line)| finds(line)) {
            hints.push(format!("line {number} {hint}"));
        }
    };
    first(&is_indented_by_a_tab, "is indented with a tab: yaml takes only spaces");
    first(
        &|line| line.contains(['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}']),
        "has typographic quotes: replace them with plain ones, \" or '",
    );
    first(
        &|line| line.contains(['\u{2013}', '\u{2014}', '\u{2212}']),
        "has a long dash: replace it with a plain one, -",
    );
    first(
        &|line| line.contains(['\u{a0}', '\u{2003}', '\u{3000}', '\u{200b}']),
        "has a space that is not a plain one (no-break or wide): replace it",
    );
    first(&lacks_space_after_dash, "lacks a space after its dash: write `- name`, not `-name`");
    first(&lacks_space_after_colon, "lacks a space after its colon: write `name: key1`");
    hints
}

fn starts_an_inner_field(line: &str) -> bool {
    let content = line.strip_prefix("- ").unwrap_or(line);
    content.split_once(':').is_some_and(|(field, _)| INNER_FIELDS.contains(&field))
}

fn is_indented_by_a_tab(line: &str) -> bool {
    line.chars().take_while(|char| char.is_whitespace()).any(|char| char == '\t')
}

fn lacks_space_after_dash(line: &str) -> bool {
    line.trim_start()
        .strip_prefix('-')
        .is_some_and(|rest| rest.starts_with(|char: char| char.is_ascii_alphabetic()))
}

fn lacks_space_after_colon(line: &str) -> bool {
    line.trim_start_matches([' ', '-']).split_once(':').is_some_and(|(field, value)| {
        FIELDS.contains(&field) && !value.is_empty() && !value.starts_with(char::is_whitespace)
    })
}
